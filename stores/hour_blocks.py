"""An hour of one patient's signals in one block: the form that compaction leaves.

A directory in the clear (concept, how many numbers, their sum, least and greatest), readable from the first bytes
alone, then one zstd frame: a table of strings, one of messages (position, index, received_at, feed), one of sources
(source key, device), time axes shared by concepts that always arrive together, and per concept its values.

Here: Columns ⇄ bytes, the directory, the points of one concept without the rest.
Not here: short blocks of one commit (stores.blocks), the packing of a column (stores.packing), tables (stores.signals).
"""

from __future__ import annotations

import math
import struct
import zlib
from collections import defaultdict
from collections.abc import Collection, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import zstandard

from stores.packing import (
    CorruptBlockError,
    pack_floats,
    pack_integers,
    unpack_floats,
    unpack_integers,
    unpack_many_floats,
    unpack_many_integers,
)
from stores.samples import Columns, FloatArray, IntArray, TextArray, columns_of, current

VERSION = 2
_HEAD = struct.Struct("<BBHIIII")  # version, flags, concepts, samples, body bytes, body crc32, directory crc32
_ENTRY = struct.Struct("<HIIddd")  # concept, samples, numbers, sum, least, greatest
_COUNTS = struct.Struct("<IIII7I")  # messages, sources, axes, string bytes, bytes of each column of both tables
_AXIS = struct.Struct("<III")  # samples, bytes of times, bytes of message numbers
_SERIES = struct.Struct("<IIIIII")  # axis, bytes of values, sources, value indexes, statuses, texts
_IS_CLEAN = 1
_LEVEL = 9  # written once an hour, read for years


class Entry(NamedTuple):
    """What the directory says of one concept."""

    concept: int
    n: int  # samples, texts included
    numbers: int
    total: float
    least: float  # NaN without numbers
    greatest: float


class Directory(NamedTuple):
    """What a block says of itself before it is unpacked."""

    is_clean: bool  # each sample is its measurement's only revision here, and none was entered in error
    n: int
    listed: bytes  # its entries, packed
    size: int  # bytes before the compressed body
    body_size: int
    body_checksum: int

    def entries(self) -> list[Entry]:
        """Return what is said of each concept, by concept number."""
        return list(map(Entry._make, _ENTRY.iter_unpack(self.listed)))


class Points(NamedTuple):
    """One concept's times and values, ordered by source and time."""

    effective_at_us: IntArray
    value: FloatArray


def _distinct(*columns: IntArray) -> tuple[IntArray, IntArray]:
    """Return the rows at which each distinct combination first stands, sorted, and every row's number among them."""
    order = np.lexsort(columns[::-1])
    is_new = np.zeros(len(order), np.bool_)
    is_new[0] = True
    for column in columns:
        ordered = column[order]
        is_new[1:] |= ordered[1:] != ordered[:-1]
    codes = np.empty(len(order), np.int64)
    codes[order] = np.cumsum(is_new) - 1
    return order[is_new], codes


class _Strings:
    """Every text of a block, once."""

    def __init__(self) -> None:
        self.numbers: dict[str, int] = {}

    def codes(self, texts: TextArray) -> IntArray:
        listed = texts.tolist()
        for text in dict.fromkeys(listed):
            self.numbers.setdefault(text, len(self.numbers))
        return np.fromiter(map(self.numbers.__getitem__, listed), np.int64, len(listed))

    def pack(self) -> bytes:
        encoded = [text.encode("utf-8", "surrogatepass") for text in self.numbers]
        return struct.pack(f"<{len(encoded) + 1}I", len(encoded), *map(len, encoded)) + b"".join(encoded)

    @staticmethod
    def unpack(data: memoryview) -> TextArray:
        (count,) = struct.unpack_from("<I", data)
        texts = np.empty(count, object)
        offset = 4 + 4 * count
        for number, size in enumerate(struct.unpack_from(f"<{count}I", data, 4)):
            texts[number] = bytes(data[offset : offset + size]).decode("utf-8", "surrogatepass")
            offset += size
        return texts


def encode(columns: Columns, seed: int) -> bytes:
    """Return the revisions of one patient as one block.

    Args:
        columns: at least one row; the patient ids are not stored.
        seed: starts the checksums, so that a block cannot be taken for another row's (stores.signals).
    """
    n = len(columns.concept)
    strings = _Strings()
    feed, device, text = strings.codes(columns.feed), strings.codes(columns.device), strings.codes(columns.text)
    first_message, message = _distinct(
        columns.position, columns.raw_index, columns.received_at_us, columns.released_position, feed
    )
    first_source, source = _distinct(columns.source_key, device)
    tables = [
        pack_integers(column[first_message])
        for column in (columns.position, columns.raw_index, columns.received_at_us, columns.released_position, feed)
    ] + [pack_integers(column[first_source]) for column in (columns.source_key, device)]
    order = np.lexsort((columns.value_index, message, columns.effective_at_us, source, columns.concept))
    concept, effective = columns.concept[order], columns.effective_at_us[order]
    message, source, text = message[order], source[order], text[order]
    value, value_index, status = columns.value[order], columns.value_index[order], columns.status[order]

    starts = np.flatnonzero(np.concatenate(([True], concept[1:] != concept[:-1])))
    axes: dict[tuple[bytes, bytes], int] = {}
    axis_rows: list[tuple[int, bytes, bytes]] = []
    entries, series, data = [], [], []
    for start, end in zip(starts.tolist(), [*starts[1:].tolist(), n], strict=True):
        rows = slice(start, end)
        key = (effective[rows].tobytes(), message[rows].tobytes())
        axis = axes.setdefault(key, len(axes))
        if axis == len(axis_rows):
            axis_rows.append((end - start, pack_integers(effective[rows]), pack_integers(message[rows])))
        entries.append(_entry(int(concept[start]), value[rows]))
        packed = [pack_floats(value[rows])]
        packed += [
            pack_integers(column[rows]) if column[rows].any() else b"" for column in (source, value_index, status, text)
        ]
        series.append(_SERIES.pack(axis, *map(len, packed)))
        data += packed

    string_bytes = strings.pack()
    body = b"".join(
        [
            _COUNTS.pack(len(first_message), len(first_source), len(axis_rows), len(string_bytes), *map(len, tables)),
            *[_AXIS.pack(count, len(times), len(messages)) for count, times, messages in axis_rows],
            *series,
            string_bytes,
            *tables,
            *[part for _, times, messages in axis_rows for part in (times, messages)],
            *data,
        ]
    )
    packed_body = zstandard.ZstdCompressor(level=_LEVEL).compress(body)
    is_clean = len(current(columns).concept) == n
    listed = b"".join(_ENTRY.pack(*entry) for entry in entries)
    checksum = zlib.crc32(packed_body, seed)
    head = (VERSION, _IS_CLEAN if is_clean else 0, len(entries), n, len(packed_body), checksum)
    directory_checksum = zlib.crc32(listed, zlib.crc32(_HEAD.pack(*head, 0), seed))
    return _HEAD.pack(*head, directory_checksum) + listed + packed_body


def _entry(concept: int, values: FloatArray) -> Entry:
    numbers = values[~np.isnan(values)]
    if len(numbers) == 0:
        return Entry(concept, len(values), 0, 0.0, math.nan, math.nan)
    return Entry(concept, len(values), len(numbers), float(numbers.sum()), float(numbers.min()), float(numbers.max()))


def directory(data: bytes, seed: int) -> Directory:
    """Return what a block, or a prefix of it that holds the directory, says of itself.

    Raises:
        CorruptBlockError: its checksum is wrong, or the prefix is too short.
    """
    if len(data) < _HEAD.size:
        raise CorruptBlockError(f"signal block: expected at least {_HEAD.size} bytes, found {len(data)}")
    version, flags, concepts, n, body_size, body_checksum, _ = _HEAD.unpack_from(data)
    listed = _listed(data, directory_size(concepts), seed)
    if version != VERSION:
        raise CorruptBlockError(f"signal block: expected form {VERSION}, found {version}")
    return Directory(bool(flags & _IS_CLEAN), n, listed, directory_size(concepts), body_size, body_checksum)


def _listed(data: bytes, size: int, seed: int) -> bytes:
    """Return the entries of a directory of `size` bytes, checked against its checksum: the last four of its head."""
    listed = data[_HEAD.size : size]
    expected = data[_HEAD.size - 4 : _HEAD.size]
    head = data[: _HEAD.size - 4] + bytes(4)
    if len(data) < size or zlib.crc32(listed, zlib.crc32(head, seed)).to_bytes(4, "little") != expected:
        raise CorruptBlockError("signal block: the directory's checksum does not match")
    return listed


def directory_size(concepts: int) -> int:
    """Return how many bytes the directory of so many concepts takes."""
    return _HEAD.size + concepts * _ENTRY.size


def holds_directory(prefix: bytes) -> bool:
    """Return whether these first bytes of a block include its whole directory."""
    return len(prefix) >= _HEAD.size and len(prefix) >= directory_size(_HEAD.unpack_from(prefix)[2])


class _Body:
    """The decompressed part of a block, and where everything in it begins."""

    def __init__(self, data: bytes, contents: Directory, seed: int, decompressor: zstandard.ZstdDecompressor) -> None:
        packed = memoryview(data)[contents.size :]
        if len(packed) != contents.body_size or zlib.crc32(packed, seed) != contents.body_checksum:
            raise CorruptBlockError("signal block: the body's checksum does not match")
        self.data = memoryview(decompressor.decompress(packed))
        self.messages, self.sources, axes, string_bytes, *self.tables = _COUNTS.unpack_from(self.data)
        offset = _COUNTS.size
        self.axes = list(_AXIS.iter_unpack(self.data[offset : offset + axes * _AXIS.size]))
        offset += axes * _AXIS.size
        series_bytes = len(contents.listed) // _ENTRY.size * _SERIES.size
        self.series = list(_SERIES.iter_unpack(self.data[offset : offset + series_bytes]))
        self.strings_at = offset + series_bytes
        self.tables_at = self.strings_at + string_bytes
        self.axes_at = self.tables_at + sum(self.tables)
        self.series_at = self.axes_at + sum(times + messages for _, times, messages in self.axes)

    def axis(self, axis: int) -> tuple[IntArray, IntArray]:
        n, times, _ = self.axes[axis]
        offset = self.axis_at(axis)
        return unpack_integers(self.data, offset, n), unpack_integers(self.data, offset + times, n)

    def axis_at(self, axis: int) -> int:
        before: int = sum(times + messages for _, times, messages in self.axes[:axis])
        return int(self.axes_at + before)


def points(wanted: Sequence[tuple[bytes, Directory, Collection[int], int]]) -> dict[int, list[Points]]:
    """Return times and values of some concepts of many blocks: all that the reader of clean blocks needs.

    Args:
        wanted: of each block its bytes, directory, which concepts, and the seed given to encode.

    Returns:
        By concept, the points of each block that has it, in the order given.

    Raises:
        CorruptBlockError: a checksum is wrong.
    """
    decompressor = zstandard.ZstdDecompressor()  # making one takes longer than using it
    axis_of: dict[tuple[int, int], int] = {}
    axes: list[tuple[memoryview, int, int]] = []
    values: list[tuple[memoryview, int, int]] = []
    found: list[tuple[int, int]] = []
    for number, (data, contents, concepts, seed) in enumerate(wanted):
        body = _Body(data, contents, seed, decompressor)
        offset, missing = body.series_at, len(concepts)
        for (concept, n, *_), (axis, *sizes) in zip(_ENTRY.iter_unpack(contents.listed), body.series, strict=True):
            if concept in concepts:
                place = axis_of.setdefault((number, axis), len(axes))
                if place == len(axes):
                    axes.append((body.data, body.axis_at(axis), n))
                found.append((concept, place))
                values.append((body.data, offset, n))
                missing -= 1
                if not missing:
                    break
            offset += sum(sizes)
    times = unpack_many_integers(axes)
    by_concept: dict[int, list[Points]] = defaultdict(list)
    for (concept, place), numbers in zip(found, unpack_many_floats(values), strict=True):
        by_concept[concept].append(Points(times[place], numbers))
    return by_concept


def summary(prefix: bytes, concept: int, seed: int) -> Entry | None:
    """Return what a clean block says of a concept (nothing: no numbers); None when it must be read in full.

    Args:
        prefix: the block's first bytes.
        concept: which.
        seed: as given to encode.

    Raises:
        CorruptBlockError: the directory's checksum is wrong.
    """
    if len(prefix) < _HEAD.size:
        return None
    _, flags, concepts, *_ = _HEAD.unpack_from(prefix)
    size = directory_size(concepts)
    if not flags & _IS_CLEAN or len(prefix) < size:
        return None
    _listed(prefix, size, seed)
    number = concept.to_bytes(2, "little")
    for place in range(_HEAD.size, size, _ENTRY.size):
        if prefix[place : place + 2] == number:
            return Entry._make(_ENTRY.unpack_from(prefix, place))
    return Entry(concept, 0, 0, 0.0, math.nan, math.nan)


def decode(data: bytes, patient_id: int, seed: int, concepts: Collection[int] | None = None) -> Columns:
    """Return every revision in a block, or of some concepts only.

    Raises:
        CorruptBlockError: a checksum is wrong.
    """
    contents = directory(data, seed)
    body = _Body(data, contents, seed, zstandard.ZstdDecompressor())
    strings = _Strings.unpack(body.data[body.strings_at : body.tables_at])
    tables, offset = [], body.tables_at
    for size, count in zip(body.tables, (*[body.messages] * 5, *[body.sources] * 2), strict=True):
        tables.append(unpack_integers(body.data, offset, count))
        offset += size
    axes: dict[int, tuple[IntArray, IntArray]] = {}
    parts: list[tuple[IntArray | FloatArray, ...]] = []
    offset = body.series_at
    for entry, (axis, *sizes) in zip(contents.entries(), body.series, strict=True):
        if concepts is None or entry.concept in concepts:
            if axis not in axes:
                axes[axis] = body.axis(axis)
            parts.append(_unpack_series(body.data, offset, entry, axes[axis], sizes))
        offset += sum(sizes)
    if not parts:
        return columns_of([()] * len(Columns._fields))
    concept, effective, message, value, source, value_index, status, text = (
        np.concatenate(column) for column in zip(*parts, strict=True)
    )
    position, raw_index, received, released, feed = (table[message] for table in tables[:5])
    source_key, device = (table[source] for table in tables[5:])
    return Columns(
        np.full(len(concept), patient_id, np.int64), concept, value, strings[text], effective, received, status,
        source_key, strings[device], strings[feed], position, raw_index, value_index, released,
    )  # fmt: skip


def _unpack_series(
    data: memoryview, offset: int, entry: Entry, axis: tuple[IntArray, IntArray], sizes: Sequence[int]
) -> tuple[IntArray | FloatArray, ...]:
    columns: list[IntArray | FloatArray] = [np.full(entry.n, entry.concept, np.int64), *axis]
    columns.append(unpack_floats(data, offset, entry.n))
    for before, size in pairwise(sizes):
        offset += before
        columns.append(unpack_integers(data, offset, entry.n) if size else np.zeros(entry.n, np.int64))
    return tuple(columns)
