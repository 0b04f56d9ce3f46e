"""The packed columns of a signal block: the bytes of `signal_block.columns`.

Two forms, told apart by the first byte. Form 1 holds what one commit brought for one patient, group and hour: at most
255 values, written thousands of times a second, so it is one struct and a few uncompressed columns, and what is the
same in every row is stored once. Form 2 (stores.hour_blocks) holds an hour. Both carry checksums that start from the
row's own key: damaged bytes, or another row's, are an error and never a wrong value.

Here: form 1, and the choice between forms.
Not here: tables (stores.signals), which revision counts (stores.samples).
"""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Collection, Iterable, Sequence
from functools import lru_cache
from typing import Any

from stores import hour_blocks
from stores.packing import CorruptBlockError
from stores.samples import Columns, Gatherer, Sample, columns_of, transpose

VERSION = 1
MOST_ROWS = 255
_KEY = struct.Struct("<qhq")
_HEAD = struct.Struct("<BBIHBqqqIHBq")
# version, rows, crc32, which columns vary, value mode, then what holds for all rows (or for none): earliest
# effective_at, received_at, position, raw_index, value_index, status, released_position
_CHECKSUM_AT, _CHECKSUM_END = 2, 6
_VARYING = ((1, "q"), (2, "q"), (4, "I"), (8, "H"), (16, "B"), (32, "q"))  # received … released, as in _HEAD
_EFFECTIVE_VARIES, _SOURCE_VARIES = 64, 128
_TEXTS_VARY = (256, 512, 1024)  # device, feed, text
_DECIMALS = ((1, 10.0), (2, 100.0), (3, 1000.0))
_POWERS = (1.0, 10.0, 100.0, 1000.0)
_RAW = 255


def seed_of(patient_id: int, signal_group: int, hour_us: int) -> int:
    """Return where a block's checksums start, from the key of the row it belongs to."""
    return zlib.crc32(_KEY.pack(patient_id, signal_group, hour_us))


@lru_cache(maxsize=4096)
def _array(code: str, n: int) -> struct.Struct:
    return struct.Struct(f"<{n}{code}")


def encode(samples: Sequence[Sample], seed: int) -> bytes:
    """Return one patient's revisions of one group and hour as a block, in the shorter-lived form when it fits.

    Args:
        samples: at least one, all of one patient and one hour of effective time.
        seed: see seed_of.
    """
    fields = transpose(samples)
    if len(samples) <= MOST_ROWS:
        try:
            return _encode_commit(fields, seed)
        except struct.error:  # an index beyond 16 or 32 bits, or a very long text: the other form has no limits
            pass
    return hour_blocks.encode(columns_of(fields), seed)


def is_hour(data: bytes) -> bool:
    """Return whether a block has the compact form already."""
    return data[:1] == bytes((hour_blocks.VERSION,))


def encode_hour(columns: Columns, seed: int) -> bytes:
    """Return one patient's revisions of one group and hour as a compact block."""
    return hour_blocks.encode(columns, seed)


def _encode_commit(fields: Sequence[tuple[Any, ...]], seed: int) -> bytes:
    (_, concept, value, text, effective, received, status, source, device, feed, position, raw_index, value_index,
     released) = fields  # fmt: skip
    n = len(concept)
    parts = [b"", _array("H", n).pack(*concept)]
    mode, packed = _pack_values(value)
    parts.append(packed)
    vary = 0
    earliest = effective[0]
    if effective.count(earliest) != n:
        vary = _EFFECTIVE_VARIES
        earliest = min(effective)
        parts.append(_array("I", n).pack(*[at - earliest for at in effective]))  # an hour in microseconds fits
    columns = (received, position, raw_index, value_index, status, released)
    for (bit, code), column in zip(_VARYING, columns, strict=True):
        if column.count(column[0]) != n:
            vary |= bit
            parts.append(_array(code, n).pack(*column))
    if source.count(source[0]) != n:
        vary |= _SOURCE_VARIES
        numbers = {key: number for number, key in enumerate(dict.fromkeys(source))}
        parts.append(struct.pack(f"<B{len(numbers)}q", len(numbers), *numbers))
        parts.append(bytes(map(numbers.__getitem__, source)))
    else:
        parts.append(source[0].to_bytes(8, "little", signed=True))
    for bit, strings in zip(_TEXTS_VARY, (device, feed, text), strict=True):
        if strings.count(strings[0]) != n:
            vary |= bit
            parts += _pack_dictionary(strings)
        else:
            encoded = strings[0].encode("utf-8", "surrogatepass")
            parts += (_array("H", 1).pack(len(encoded)), encoded)
    parts[0] = _HEAD.pack(VERSION, n, 0, vary, mode, earliest, *[column[0] for column in columns])
    block = b"".join(parts)
    checksum = zlib.crc32(block, seed)
    return block[:_CHECKSUM_AT] + checksum.to_bytes(4, "little") + block[_CHECKSUM_END:]


def _pack_values(values: tuple[float, ...]) -> tuple[int, bytes]:
    """Return values as whole numbers of 10^-k when that gives the same floats back, else as they are."""
    n = len(values)
    found = _whole_numbers(tuple(map(float, values)))
    if found is None:
        return _RAW, _array("d", n).pack(*values)
    places, whole = found
    if min(whole) >= -32768 and max(whole) <= 32767:
        return places * 2, _array("h", n).pack(*whole)
    return places * 2 + 1, _array("i", n).pack(*whole)


def _whole_numbers(values: tuple[float, ...]) -> tuple[int, list[int]] | None:
    if not (min(values) > -2e6 and max(values) < 2e6):  # nor NaN, when it comes first
        return None
    if 0.0 in values and any(value == 0 and math.copysign(1.0, value) < 0 for value in values):
        return None  # minus zero has no whole number
    if all(map(float.is_integer, values)):
        return 0, list(map(int, values))
    for places, power in _DECIMALS:
        try:
            whole = [round(value * power) for value in values]
        except (ValueError, OverflowError):  # NaN, or infinity behind it
            return None
        if tuple([number / power for number in whole]) == values:
            return places, whole
    return None


def _pack_dictionary(strings: tuple[str, ...]) -> Iterable[bytes]:
    numbers = {string: number for number, string in enumerate(dict.fromkeys(strings))}
    encoded = [string.encode("utf-8", "surrogatepass") for string in numbers]
    yield struct.pack(f"<B{len(encoded)}H", len(encoded), *map(len, encoded))
    yield from encoded
    yield bytes(map(numbers.__getitem__, strings))


def decode_into(
    gatherer: Gatherer, data: bytes, patient_id: int, seed: int, concepts: Collection[int] | None = None
) -> None:
    """Add the revisions of a block, of either form, to a gatherer.

    Args:
        gatherer: receives them.
        data: the block.
        patient_id: whose it is.
        seed: see seed_of.
        concepts: only these need be added (others may be); None for all.

    Raises:
        CorruptBlockError: the bytes are not what was written for this row.
    """
    if is_hour(data):
        gatherer.add(hour_blocks.decode(data, patient_id, seed, concepts))
    else:
        gatherer.add_lists(_decode_commit(data, patient_id, seed))


def decode(data: bytes, patient_id: int, seed: int) -> Columns:
    """Return every revision of a block, of either form.

    Raises:
        CorruptBlockError: the bytes are not what was written for this row.
    """
    gatherer = Gatherer()
    decode_into(gatherer, data, patient_id, seed)
    return gatherer.columns()


def _decode_commit(data: bytes, patient_id: int, seed: int) -> list[Sequence[Any]]:
    if len(data) < _HEAD.size or data[0] != VERSION:
        raise CorruptBlockError(
            f"signal block: expected form {VERSION} or {hour_blocks.VERSION}, found {data[:1].hex() or 'nothing'}"
        )
    _, n, checksum, vary, mode, earliest, *constants = _HEAD.unpack_from(data)
    if zlib.crc32(data[_CHECKSUM_END:], zlib.crc32(data[:_CHECKSUM_AT] + bytes(4), seed)) != checksum:
        raise CorruptBlockError("signal block: the checksum does not match")
    offset = _HEAD.size
    concept = _array("H", n).unpack_from(data, offset)
    offset += 2 * n
    layout = _array("d" if mode == _RAW else "hi"[mode & 1], n)
    value: Sequence[float] = layout.unpack_from(data, offset)
    if mode != _RAW:
        power = _POWERS[mode >> 1]
        value = [number / power for number in value]
    offset += layout.size
    effective: Sequence[int] = (earliest,) * n
    if vary & _EFFECTIVE_VARIES:
        effective = [earliest + delta for delta in _array("I", n).unpack_from(data, offset)]
        offset += 4 * n
    columns: list[Sequence[int]] = []
    for (bit, code), constant in zip(_VARYING, constants, strict=True):
        if vary & bit:
            layout = _array(code, n)
            columns.append(layout.unpack_from(data, offset))
            offset += layout.size
        else:
            columns.append((constant,) * n)
    source, offset = _unpack_sources(data, offset, n, vary)
    texts = []
    for bit in _TEXTS_VARY:
        strings, offset = _unpack_strings(data, offset, n, bool(vary & bit))
        texts.append(strings)
    received, position, raw_index, value_index, status, released = columns
    device, feed, text = texts
    return [
        (patient_id,) * n, concept, value, text, effective, received, status, source, device, feed, position,
        raw_index, value_index, released,
    ]  # fmt: skip


def _unpack_sources(data: bytes, offset: int, n: int, vary: int) -> tuple[Sequence[int], int]:
    if not vary & _SOURCE_VARIES:
        return (int.from_bytes(data[offset : offset + 8], "little", signed=True),) * n, offset + 8
    distinct = _array("q", data[offset]).unpack_from(data, offset + 1)
    offset += 1 + 8 * len(distinct)
    return [distinct[number] for number in data[offset : offset + n]], offset + n


def _unpack_strings(data: bytes, offset: int, n: int, varies: bool) -> tuple[Sequence[str], int]:
    if not varies:
        end = offset + 2 + int.from_bytes(data[offset : offset + 2], "little")
        return (data[offset + 2 : end].decode("utf-8", "surrogatepass"),) * n, end
    sizes = _array("H", data[offset]).unpack_from(data, offset + 1)
    offset += 1 + 2 * len(sizes)
    distinct = []
    for size in sizes:
        distinct.append(data[offset : offset + size].decode("utf-8", "surrogatepass"))
        offset += size
    return [distinct[number] for number in data[offset : offset + n]], offset + n
