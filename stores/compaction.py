"""Compaction: the blocks of a closed hour, one a commit, become one block a patient, group and hour.

No revision is lost: every sample keeps its own position, so *as known at* answers the same before and after. Late
values come as new level-0 rows beside the compacted one and are merged the next time. The engine never waits for
compaction: it only adds rows, and compaction deletes only rows it has read.

Here: choosing hours, merging, the lock that keeps readers of several queries apart from it.
Not here: when to run (orchestration), deleting old data (stores.retention).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

from stores import blocks, signals
from stores.database import Connection, to_microseconds, to_timestamp
from stores.packing import CorruptBlockError
from stores.samples import HOUR_US, Columns, Gatherer

Hour = tuple[int, int]
"""Signal group and hour, of one patient."""


class Compacted(NamedTuple):
    """What one run did."""

    hours: int = 0  # patient-group-hours now in one block
    blocks_before: int = 0
    samples: int = 0
    bytes_before: int = 0  # of packed columns
    bytes_after: int = 0
    skipped_patients: int = 0  # a reader was in the way; the next run takes them
    corrupt: tuple[signals.Key, ...] = ()  # hours left as they are because a block's checksum is wrong

    def plus(self, other: Compacted) -> Compacted:
        """Return both together."""
        return Compacted(
            self.hours + other.hours,
            self.blocks_before + other.blocks_before,
            self.samples + other.samples,
            self.bytes_before + other.bytes_before,
            self.bytes_after + other.bytes_after,
            self.skipped_patients + other.skipped_patients,
            self.corrupt + other.corrupt,
        )


async def compact(conn: Connection, before_us: int, *, most_patients: int | None = None) -> Compacted:
    """Compact every hour that ended at or before a time and has blocks of single commits.

    One transaction a patient, committed here; inside a caller's transaction, one savepoint a patient.

    Args:
        conn: an open connection, not inside a pipeline.
        before_us: the log's clock, less the lateness that is worth waiting for.
        most_patients: stop after so many; None for all.
    """
    done = Compacted()
    async with conn.transaction():
        found = await conn.execute(
            """
            select patient_id, signal_group, t0 from signal_block
            where level = 0 and t0 <= %s group by patient_id, signal_group, t0
            """,
            (to_timestamp(before_us - HOUR_US),),
        )
        rows = await found.fetchall()
    hours: dict[int, list[Hour]] = defaultdict(list)
    for patient_id, group, t0 in rows:
        hours[patient_id].append((group, to_microseconds(t0)))
    for patient_id in sorted(hours)[:most_patients]:
        done = done.plus(await _compact_patient(conn, patient_id, hours[patient_id]))
    return done


async def _compact_patient(conn: Connection, patient_id: int, hours: Sequence[Hour]) -> Compacted:
    # Blocks are never changed, so merging them needs no lock: readers wait only while rows are exchanged.
    async with conn.transaction(), conn.cursor(binary=True) as cursor:
        await cursor.execute(
            """
            select b.signal_group, b.t0, b.revision, b.known_from, b.columns
            from unnest(%s::smallint[], %s::timestamptz[]) h (signal_group, t0)
            join signal_block b on b.patient_id = %s and b.signal_group = h.signal_group and b.t0 = h.t0
            order by b.signal_group, b.t0, b.revision
            """,
            ([group for group, _ in hours], [to_timestamp(hour_us) for _, hour_us in hours], patient_id),
            prepare=True,
        )
        found = await cursor.fetchall()
    by_hour: dict[signals.Key, list[tuple[int, int, bytes]]] = defaultdict(list)
    for group, t0, revision, known_from, columns in found:
        key = (patient_id, group, to_microseconds(t0))
        by_hour[key].append((revision, to_microseconds(known_from), columns))
    done, merged = Compacted(), []
    replaced: list[tuple[signals.Key, int]] = []
    for key, rows in by_hour.items():
        try:
            row, samples = _merge(key, rows)
        except CorruptBlockError:
            done = done.plus(Compacted(corrupt=(key,)))
            continue
        merged.append(row)
        replaced += [(key, revision) for revision, _, _ in rows]
        before = sum(len(columns) for _, _, columns in rows)
        done = done.plus(Compacted(1, len(rows), samples, before, len(row.columns)))
    if merged and not await _exchange(conn, patient_id, replaced, merged):
        return Compacted(skipped_patients=1, corrupt=done.corrupt)
    return done


class _OvertakenError(Exception):
    """Another compaction replaced some of these blocks first."""


async def _exchange(
    conn: Connection, patient_id: int, replaced: Sequence[tuple[signals.Key, int]], merged: Sequence[signals.NewRow]
) -> bool:
    """Put merged blocks in place of those they were made of; return whether nobody was in the way."""
    try:
        async with conn.transaction():
            locked = await conn.execute(
                "select pg_try_advisory_xact_lock(%s, %s)", (signals.COMPACTION_LOCK, signals.lock_key(patient_id))
            )
            if not (await locked.fetchone() or (False,))[0]:
                return False
            deleted = await conn.execute(
                """
                delete from signal_block b
                using unnest(%s::smallint[], %s::timestamptz[], %s::bigint[]) r (g, t, revision)
                where b.patient_id = %s and b.signal_group = r.g and b.t0 = r.t and b.revision = r.revision
                """,
                (
                    [group for (_, group, _), _ in replaced],
                    [to_timestamp(hour_us) for (_, _, hour_us), _ in replaced],
                    [revision for _, revision in replaced],
                    patient_id,
                ),
                prepare=True,
            )
            if deleted.rowcount != len(replaced):
                raise _OvertakenError
            await signals.insert(conn, merged)
    except _OvertakenError:
        return False
    return True


def _merge(key: signals.Key, rows: Sequence[tuple[int, int, bytes]]) -> tuple[signals.NewRow, int]:
    patient_id = key[0]
    seed = blocks.seed_of(*key)
    gatherer = Gatherer()
    for _, _, columns in rows:
        blocks.decode_into(gatherer, columns, patient_id, seed)
    merged: Columns = gatherer.columns()
    row = signals.NewRow(
        key=key,
        revision=max(revision for revision, _, _ in rows),
        known_from_us=max(known_from for _, known_from, _ in rows),
        concept_bits=signals.bits_of(set(merged.concept.tolist())),
        effective_from_us=int(merged.effective_at_us.min()),
        effective_to_us=int(merged.effective_at_us.max()),
        n=len(merged.concept),
        level=1,
        # A backfill writes a whole hour at once, and in this form already.
        columns=rows[0][2] if len(rows) == 1 and blocks.is_hour(rows[0][2]) else blocks.encode_hour(merged, seed),
    )
    return row, row.n
