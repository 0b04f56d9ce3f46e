"""The table `signal_block`: high-rate values, packed.

A row is (patient, block group, hour of effective time, revision). Level 0 is what one commit brought; compaction merges
an hour's rows into one of level 1. A monitor's message carries vital signs, ventilation and pressures at once, so they
share a block group: a row a message instead of three. `concept_bits` has a bit set for each concept within: a filter
that may say yes wrongly, never no. Rows of an hour are unordered in effective time: late values come later.

Here: writing rows, reading an interval, walking from the newest back.
Not here: the bytes of `columns` (stores.blocks), merging rows (stores.compaction), which table a concept is in
(stores.timeseries).
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import lru_cache
from typing import NamedTuple

from stores import blocks
from stores.database import Connection
from stores.samples import HOUR_US, Sample

_POSTGRES_EPOCH_US = 946_684_800_000_000  # 2000-01-01, where PostgreSQL's binary timestamps start
_ROW = struct.Struct(">hiqiqiqiqiqiiiiiiihihi")
_COPY_START = b"PGCOPY\n\xff\r\n\0" + bytes(8)
_COPY_END = b"\xff\xff"
_COLUMNS = (
    "patient_id, t0, revision, known_from, concept_bits, effective_from_ms, effective_to_ms, n, signal_group, level, "
    "columns"
)
_COPY_SQL = f"copy signal_block ({_COLUMNS}) from stdin (format binary)"
NUMERICS = 1
"""The block group of all numbers a monitor sends at most every second; waveforms would have others, from 10."""
COMPACTION_LOCK = 0x5649_4743
"""First key of the advisory locks that keep compaction from replacing rows between two queries of one reader."""

Key = tuple[int, int, int]
"""Patient, signal group, hour (microseconds since the epoch) of a block."""


class Row(NamedTuple):
    """What a reader gets of a block's row."""

    patient_id: int
    signal_group: int
    hour_us: int
    revision: int
    level: int
    effective_to_us: int  # no value within is later
    columns: bytes

    @property
    def seed(self) -> int:
        """Return where the block's checksums start."""
        return blocks.seed_of(self.patient_id, self.signal_group, self.hour_us)


class NewRow(NamedTuple):
    """A block to write."""

    key: Key
    revision: int
    known_from_us: int
    concept_bits: int
    effective_from_us: int
    effective_to_us: int
    n: int
    level: int
    columns: bytes


def block_group(signal_group: int) -> int:
    """Return the group of blocks that a concept's signal group is kept in: `signal_block.signal_group`."""
    return NUMERICS if 0 < signal_group < 10 else signal_group


def bit_of(concept: int) -> int:
    """Return a concept's bit, 0 to 63. The numbers of high-rate concepts (1…, 101…, 201…) get bits of their own."""
    return (concept % 100 + concept // 100 * 20) & 63


def bits_of(concepts: Iterable[int]) -> int:
    """Return concepts as the signed 64-bit filter that PostgreSQL keeps."""
    bits = 0
    for concept in concepts:
        bits |= 1 << bit_of(concept)
    return bits - (1 << 64) if bits >> 63 else bits


_bits_of_message = lru_cache(maxsize=4096)(bits_of)
"""Messages of a kind carry the same concepts, second after second."""


def lock_key(patient_id: int) -> int:
    """Return the second key of a patient's advisory lock: a signed 32-bit integer."""
    return zlib.crc32(patient_id.to_bytes(8, "big", signed=True)) - (1 << 31)


def pack(buckets: Mapping[Key, Sequence[Sample]], revision_of: Mapping[int, int], known_from_us: int) -> list[NewRow]:
    """Return level-0 blocks of one commit's values; `revision_of` is each patient's."""
    rows = []
    for key, samples in buckets.items():
        times = [sample.effective_at_us for sample in samples]
        bits = _bits_of_message(tuple([sample.concept for sample in samples]))
        columns = blocks.encode(samples, blocks.seed_of(*key))
        revision = revision_of[key[0]]
        rows.append(NewRow(key, revision, known_from_us, bits, min(times), max(times), len(samples), 0, columns))
    return rows


async def insert(conn: Connection, rows: Iterable[NewRow]) -> None:
    """Copy blocks into the table. Not inside a psycopg pipeline, which cannot copy.

    Raises:
        psycopg.errors.UniqueViolation: the same commit was written before; nothing was written twice.
    """
    buffer = bytearray(_COPY_START)
    for (patient_id, group, hour_us), revision, known_us, bits, from_us, to_us, n, level, columns in rows:
        from_ms, to_ms = (from_us - hour_us) // 1000, -((hour_us - to_us) // 1000)
        buffer += _ROW.pack(
            11, 8, patient_id, 8, hour_us - _POSTGRES_EPOCH_US, 8, revision, 8, known_us - _POSTGRES_EPOCH_US,
            8, bits, 4, from_ms, 4, to_ms, 4, n, 2, group, 2, level, len(columns),
        )  # fmt: skip
        buffer += columns
    if len(buffer) == len(_COPY_START):
        return
    buffer += _COPY_END
    async with conn.cursor() as cursor, cursor.copy(_COPY_SQL) as copy:
        await copy.write(bytes(buffer))


_ROW_SQL = """
    patient_id, signal_group, date_part('epoch', t0), revision, level, effective_to_ms, columns
"""

_WHERE_SQL = """
    where patient_id = any(%(patients)s) and signal_group = any(%(groups)s)
        and t0 >= to_timestamp(%(first_hour_s)s) and t0 <= to_timestamp(%(last_hour_s)s)
        and concept_bits & %(bits)s <> 0
        and (t0 > to_timestamp(%(first_hour_s)s) or effective_to_ms >= %(from_ms)s)
        and (t0 < to_timestamp(%(last_hour_s)s) or effective_from_ms <= %(to_ms)s)
"""

DIRECTORY_BYTES = 800
"""As many as the directory of 20 concepts takes; the block of a longer one is read whole."""

_DIRECTORY_SQL = f"""
    select patient_id, signal_group, date_part('epoch', t0), revision, level, effective_to_ms,
        case when level = 0 then ''::bytea else substring(columns from 1 for {DIRECTORY_BYTES}) end
    from signal_block {_WHERE_SQL}
"""  # noqa: S608 - only texts of this module

_RANGE_SQL = f"""
    select {_ROW_SQL} from signal_block {_WHERE_SQL}
    order by patient_id, signal_group, t0
"""  # noqa: S608 - only texts of this module


def _row(fields: tuple[int, int, float, int, int, int, bytes]) -> Row:
    patient_id, group, hour_s, revision, level, to_ms, columns = fields
    hour_us = int(hour_s) * 1_000_000
    return Row(patient_id, group, hour_us, revision, level, hour_us + to_ms * 1000, columns)


async def between(
    conn: Connection, patient_ids: Sequence[int], groups: Collection[int], bits: int, from_us: int, to_us: int
) -> list[Row]:
    """Return every block that may hold a value effective in [from_us, to_us), by patient, group and hour."""
    return await _select(conn, _RANGE_SQL, patient_ids, groups, bits, from_us, to_us)


async def directories_between(
    conn: Connection, patient_ids: Sequence[int], groups: Collection[int], bits: int, from_us: int, to_us: int
) -> list[Row]:
    """Return the same blocks with only their first DIRECTORY_BYTES; those of level 0, which have none, empty."""
    return await _select(conn, _DIRECTORY_SQL, patient_ids, groups, bits, from_us, to_us)


async def _select(
    conn: Connection, sql: str, patient_ids: Sequence[int], groups: Collection[int], bits: int, from_us: int, to_us: int
) -> list[Row]:
    if to_us <= from_us or not groups:
        return []
    first_hour, last_hour = from_us // HOUR_US, (to_us - 1) // HOUR_US
    parameters = {
        "patients": list(patient_ids),
        "groups": list(groups),
        "bits": bits,
        "first_hour_s": first_hour * 3600,
        "last_hour_s": last_hour * 3600,
        "from_ms": (from_us - first_hour * HOUR_US) // 1000,
        "to_ms": (to_us - 1 - last_hour * HOUR_US) // 1000,
    }
    async with conn.cursor(binary=True) as cursor:
        await cursor.execute(sql, parameters, prepare=True)
        return [_row(fields) for fields in await cursor.fetchall()]


async def hold(conn: Connection, patient_ids: Iterable[int]) -> None:
    """Keep compaction away from these patients until the transaction ends; it waits, or comes back later."""
    keys = sorted(map(lock_key, patient_ids))
    await conn.execute(
        "select pg_advisory_xact_lock_shared(%s, key) from unnest(%s::int[]) key", (COMPACTION_LOCK, keys), prepare=True
    )


async def present_bits(
    conn: Connection, patient_ids: Sequence[int], groups: Collection[int], from_us: int, to_us: int
) -> dict[int, int]:
    """Return by signal group the filter bits of all that is in the hours of [from_us, to_us]."""
    found = await conn.execute(
        """
        select signal_group, bit_or(concept_bits) from signal_block
        where patient_id = any(%s) and signal_group = any(%s) and t0 >= to_timestamp(%s) and t0 <= to_timestamp(%s)
        group by signal_group
        """,
        (list(patient_ids), list(groups), from_us // HOUR_US * 3600, to_us // HOUR_US * 3600),
        prepare=True,
    )
    return dict(await found.fetchall())


_BACK_SQL = f"""
    select w.number, {_ROW_SQL}
    from unnest(%(patients)s::bigint[], %(groups)s::smallint[], %(bits)s::bigint[], %(hours_s)s::float8[],
            %(to_ms)s::int[], %(revisions)s::bigint[]) with ordinality
        w (walk_patient, walk_group, walk_bits, before_s, before_ms, before_revision, number)
    cross join lateral (
        select * from signal_block
        where patient_id = walk_patient and signal_group = walk_group and concept_bits & walk_bits <> 0
            and t0 >= to_timestamp(%(first_hour_s)s) and t0 <= to_timestamp(before_s)
            and (t0 < to_timestamp(before_s) or (effective_to_ms, revision) < (before_ms, before_revision))
            and (t0 < to_timestamp(%(last_hour_s)s) or effective_from_ms <= %(last_ms)s)
        order by t0 desc, effective_to_ms desc, revision desc
        limit %(limit)s
    ) b
    order by w.number, b.t0 desc, b.effective_to_ms desc, b.revision desc
"""  # noqa: S608 - only texts of this module


class Walk:
    """One patient's one group, read from the newest block back. All walks of a reader advance in one query."""

    def __init__(self, patient_id: int, signal_group: int, bits: int, as_of_us: int) -> None:
        """Start just after `as_of_us`."""
        self.patient_id = patient_id
        self.signal_group = signal_group
        self.bits = bits
        self.before: tuple[int, int, int] = (as_of_us // HOUR_US * 3600, 2**31 - 1, 2**63 - 1)
        self.is_exhausted = False

    def moved_to(self, row: Row) -> None:
        """Continue below `row` next time."""
        self.before = (row.hour_us // 1_000_000, (row.effective_to_us - row.hour_us) // 1000, row.revision)


async def back(
    conn: Connection, walks: Sequence[Walk], first_us: int, as_of_us: int, limit: int
) -> list[tuple[Walk, list[Row]]]:
    """Return the next `limit` blocks of each walk, newest first, and move the walks.

    Args:
        conn: a transaction that called `hold`, so that the walks of several calls meet the same rows.
        walks: which patients and groups.
        first_us: blocks of earlier hours are not wanted.
        as_of_us: blocks that only hold later values are not wanted.
        limit: the most blocks a walk advances by.
    """
    parameters = {
        "patients": [walk.patient_id for walk in walks],
        "groups": [walk.signal_group for walk in walks],
        "bits": [walk.bits for walk in walks],
        "hours_s": [float(walk.before[0]) for walk in walks],
        "to_ms": [walk.before[1] for walk in walks],
        "revisions": [walk.before[2] for walk in walks],
        "first_hour_s": first_us // HOUR_US * 3600,
        "last_hour_s": as_of_us // HOUR_US * 3600,
        "last_ms": as_of_us % HOUR_US // 1000,
        "limit": limit,
    }
    found: list[list[Row]] = [[] for _ in walks]
    async with conn.cursor(binary=True) as cursor:
        await cursor.execute(_BACK_SQL, parameters, prepare=True)
        for number, *fields in await cursor.fetchall():
            found[number - 1].append(_row(tuple(fields)))
    for walk, rows in zip(walks, found, strict=True):
        walk.is_exhausted = len(rows) < limit
        if rows:
            walk.moved_to(rows[-1])
    return list(zip(walks, found, strict=True))
