"""Columns of numbers into few bytes and back, exactly.

Integers: differences of order 0, 1 or 2, less their smallest, in as few bytes as the largest needs, stored plane by
plane (all lowest bytes first) so that the compressor after us sees runs. Floats: as whole numbers of 10^-k when that
gives the same 64 bits back, as a dictionary of few distinct values, or as their raw bytes by plane.

Here: one column, and the error for bytes that cannot be trusted.
Not here: which columns a block has (stores.hour_blocks), compression, checksums.
Source: frame of reference and delta-of-delta as in Pelkonen et al. 2015, "Gorilla", VLDB 8(12).
"""

from __future__ import annotations

import struct
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from stores.samples import FloatArray, IntArray
from vocabulary.errors import BrokenInvariantError


class CorruptBlockError(BrokenInvariantError):
    """Stored bytes are not what was written. Restore the row from a backup or a replica; its values are unknown."""


_UnsignedArray = npt.NDArray[np.uint64]
_HEAD = struct.Struct("<BQ")  # order | width << 4, then the smallest difference
_SIGNED_HEAD = struct.Struct("<Bq")
_SIGNED = struct.Struct("<q")
_MOST_DECIMALS = 9
_NONE: IntArray = np.empty(0, np.int64)
_DICTIONARY = 0xFE
_RAW = 0xFF
_EXACT_INTEGER = 2.0**53
_POWERS = tuple(10.0**k for k in range(_MOST_DECIMALS + 1))  # exact in binary up to 10^22


def _planes(values: _UnsignedArray, width: int) -> bytes:
    return np.ascontiguousarray(values.astype("<u8").view(np.uint8).reshape(-1, 8)[:, :width].T).tobytes()


def _from_planes(data: bytes | memoryview, offset: int, n: int, width: int) -> npt.NDArray[Any]:
    flat = np.frombuffer(data, np.uint8, n * width, offset)
    if width == 1:
        return flat
    whole = np.zeros((n, 8), np.uint8)
    whole[:, :width] = flat.reshape(width, n).T
    return whole.view("<i8").reshape(n)


def _spread(differences: _UnsignedArray) -> float:
    """Return how far, in all, differences lie from one of them: the less, the better they compress."""
    signed = differences.view(np.int64)
    away = signed - signed[len(signed) // 2]
    return float(np.abs(away.astype(np.float64)).sum())


def pack_integers(values: IntArray) -> bytes:
    """Return 64-bit integers packed; the number of them is kept by the caller."""
    differences = np.ascontiguousarray(values, np.int64).view(np.uint64)
    n = len(differences)
    if n == 0:
        return b""
    if (differences == differences[0]).all():
        return _HEAD.pack(0, int(differences[0]))
    best, first, order = differences, b"", 0
    if n > 3:
        candidate, heads, best_spread = differences, b"", _spread(differences)
        for tried in (1, 2):
            heads += struct.pack("<Q", int(candidate[0]))
            candidate = candidate[1:] - candidate[:-1]  # wraps around, and so does its sum
            spread = _spread(candidate)
            if spread < best_spread:  # a tie goes to what is undone faster
                best, first, order, best_spread = candidate, heads, tried, spread
    smallest = best.view(np.int64).min().view(np.uint64)
    reduced = best - smallest
    width = (int(reduced.max()).bit_length() + 7) // 8
    return _HEAD.pack(order | width << 4, int(smallest)) + first + _planes(reduced, width)


def unpack_integers(data: bytes | memoryview, offset: int, n: int) -> IntArray:
    """Return the `n` integers that pack_integers wrote at `offset`."""
    if n == 0:
        return np.empty(0, np.int64)
    mode, smallest = _SIGNED_HEAD.unpack_from(data, offset)
    order, width = mode & 15, mode >> 4
    offset += _HEAD.size
    if mode == 0:
        return np.full(n, smallest, np.int64)
    values = np.empty(n, np.int64)
    kept = values[order:]
    if width:
        kept[:] = _from_planes(data, offset + 8 * order, n - order, width)
        kept += smallest  # wraps around where the subtraction did
    else:
        kept[:] = smallest
    for place in range(order - 1, -1, -1):
        (values[place],) = _SIGNED.unpack_from(data, offset + 8 * place)
        summed = values[place:]
        np.add.accumulate(summed, out=summed)
    return values


def unpack_many_integers(columns: Sequence[tuple[bytes | memoryview, int, int]]) -> list[IntArray]:
    """Return many packed columns at once: those packed alike share a few array operations.

    Args:
        columns: bytes, offset and number of integers of each.
    """
    found: list[IntArray] = [_NONE] * len(columns)
    alike: dict[tuple[int, int], list[tuple[int, int, int]]] = defaultdict(list)
    for index, (data, offset, n) in enumerate(columns):
        if n:
            mode, smallest = _SIGNED_HEAD.unpack_from(data, offset)
            alike[n, mode].append((index, smallest, offset + _HEAD.size))
    for (n, mode), members in alike.items():
        order, width = mode & 15, mode >> 4
        values = np.empty((len(members), n), np.int64)
        kept = values[:, order:]
        smallest_each = np.array([smallest for _, smallest, _ in members], np.int64)[:, None]
        if width:
            size = (n - order) * width
            starts = [(columns[index][0], offset + 8 * order) for index, _, offset in members]
            joined = np.frombuffer(b"".join([data[start : start + size] for data, start in starts]), np.uint8)
            if width == 1:
                kept[:] = joined.reshape(len(members), n - order)
            else:
                whole = np.zeros((len(members), n - order, 8), np.uint8)
                whole[:, :, :width] = joined.reshape(len(members), width, n - order).transpose(0, 2, 1)
                kept[:] = whole.view("<i8")[:, :, 0]
            kept += smallest_each
        else:
            kept[:] = smallest_each
        for place in range(order - 1, -1, -1):
            values[:, place] = [
                _SIGNED.unpack_from(columns[index][0], offset + 8 * place)[0] for index, _, offset in members
            ]
            summed = values[:, place:]
            np.add.accumulate(summed, axis=1, out=summed)
        for row, (index, _, _) in zip(values, members, strict=True):
            found[index] = row
    return found


def decimal_places(values: FloatArray) -> int | None:
    """Return the fewest decimals (0 to 9) that give every value back bit for bit, or None."""
    if not np.isfinite(values).all() or np.signbit(values[values == 0.0]).any():
        return None
    for places, power in enumerate(_POWERS):
        with np.errstate(over="ignore"):
            scaled = np.rint(values * power)
        if (np.abs(scaled) < _EXACT_INTEGER).all() and (scaled / power == values).all():
            return places
    return None


def pack_floats(values: FloatArray) -> bytes:
    """Return 64-bit floats packed, exact to the bit; the number of them is kept by the caller."""
    values = np.ascontiguousarray(values, np.float64)
    if len(values) == 0:
        return b""
    places = decimal_places(values)
    if places is not None:
        return bytes((places,)) + pack_integers(np.rint(values * _POWERS[places]).astype(np.int64))
    bits = values.view(np.uint64)
    distinct, codes = np.unique(bits, return_inverse=True)
    if len(distinct) * 4 <= len(bits) and len(distinct) < 65536:
        head = struct.pack("<BH", _DICTIONARY, len(distinct))
        return head + distinct.astype("<u8").tobytes() + pack_integers(codes.astype(np.int64))
    return bytes((_RAW,)) + _planes(bits, 8)


def unpack_floats(data: bytes | memoryview, offset: int, n: int) -> FloatArray:
    """Return the `n` floats that pack_floats wrote at `offset`."""
    if n == 0:
        return np.empty(0, np.float64)
    mode = data[offset]
    if mode <= _MOST_DECIMALS:
        return np.true_divide(unpack_integers(data, offset + 1, n), _POWERS[mode])
    if mode == _DICTIONARY:
        (count,) = struct.unpack_from("<H", data, offset + 1)
        distinct = np.frombuffer(data, "<u8", count, offset + 3).astype(np.uint64).view(np.float64)
        return distinct[unpack_integers(data, offset + 3 + 8 * count, n)]
    return _from_planes(data, offset + 1, n, 8).view(np.float64)


def unpack_many_floats(columns: Sequence[tuple[bytes | memoryview, int, int]]) -> list[FloatArray]:
    """Return many packed columns of floats at once.

    Args:
        columns: bytes, offset and number of floats of each.
    """
    found: list[FloatArray] = [np.empty(0, np.float64)] * len(columns)
    decimal: list[tuple[int, tuple[bytes | memoryview, int, int]]] = []
    for index, (data, offset, n) in enumerate(columns):
        if n and data[offset] <= _MOST_DECIMALS:
            decimal.append((index, (data, offset + 1, n)))
        else:
            found[index] = unpack_floats(data, offset, n)
    wholes = unpack_many_integers([column for _, column in decimal])
    for (index, (data, offset, _)), whole in zip(decimal, wholes, strict=True):
        found[index] = np.true_divide(whole, _POWERS[data[offset - 1]])
    return found
