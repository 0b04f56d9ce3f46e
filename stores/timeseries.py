"""The patient's values over time: written once, answered as of any moment and as known at any log position.

Concepts with a signal group live in packed blocks (stores.signals), the others one row a revision (stores.events);
callers need not know. A patient who was merged is read under all its ids, survivor first. `known_at` is a log position:
only revisions whose message (and its release, when it was held back) lies at or before it count; None counts all.

Here: write, latest, range_, revisions, sizes; and, by the same name, what stores.reading, stores.minutes and
stores.compaction offer.
Not here: units and codes (interop.terminology), the engine's memory (twin.state).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import NamedTuple

from stores import blocks, events, signals
from stores import latest as newest
from stores.compaction import Compacted, compact
from stores.database import Connection
from stores.hour_blocks import Points
from stores.minutes import MINUTE_COLUMNS, Minute, compute_minutes, median, minutes, put_minutes, rebuild_minutes
from stores.packing import CorruptBlockError
from stores.reading import Groups, HourSummary, columns_between, hourly, series, signal_groups, sort_out
from stores.samples import HOUR_US, Columns, Gatherer, Sample, samples_of
from vocabulary.errors import BrokenInvariantError

__all__ = [
    "EVER_US", "MINUTE_COLUMNS", "Columns", "Compacted", "CorruptBlockError", "Groups", "HourSummary", "Minute",
    "Points", "Sample", "Sizes", "columns_between", "compact", "compute_minutes", "hourly", "latest", "median",
    "minutes", "put_minutes", "range_", "rebuild_minutes", "revisions", "samples_of", "series", "signal_groups",
    "sizes", "write",
]  # fmt: skip

EVER_US = -62_135_596_800_000_000
"""The year 1: earlier than any value."""
LOOKBACK_S = 48 * 3600.0
"""How far `latest` looks back for high-rate signals: longer ago is not a patient's present."""


async def write(
    conn: Connection,
    samples: Iterable[Sample],
    revision: int | Mapping[int, int],
    known_from_us: int,
    *,
    groups: Groups | None = None,
) -> int:
    """Write the revisions of one commit; return how many.

    Args:
        conn: the engine's transaction, not inside a psycopg pipeline (values are copied).
        samples: of any patients and times.
        revision: the log position the commit advances to, or that of each patient where they lie in partitions that
            advance apart; a patient's commits have growing ones.
        known_from_us: the log's clock there.
        groups: concept number to signal group; None for the vocabulary's.

    Raises:
        BrokenInvariantError: a concept the table does not know, or a sample from beyond `revision`.
        psycopg.errors.UniqueViolation: this commit was written before (stores.database.transaction makes it a
            BrokenInvariantError); nothing is written twice.
    """
    groups = signal_groups() if groups is None else groups
    buckets: dict[signals.Key, list[Sample]] = defaultdict(list)
    low_rate: list[Sample] = []
    revision_of: Mapping[int, int] = revision if isinstance(revision, Mapping) else defaultdict(lambda: revision)
    n = 0
    for sample in samples:
        n += 1
        group = groups.get(sample.concept)
        if group is None:
            raise BrokenInvariantError(f"expected a concept of the table, found number {sample.concept}")
        limit = revision_of[sample.patient_id]
        if sample.position > limit or sample.released_position > limit:
            raise BrokenInvariantError(
                f"expected values up to log position {limit}, found one from {sample.known_from}"
            )
        if group:
            group = signals.block_group(group)
            effective = sample.effective_at_us
            buckets[sample.patient_id, group, effective - effective % HOUR_US].append(sample)
        else:
            low_rate.append(sample)
    if buckets:
        await signals.insert(conn, signals.pack(buckets, revision_of, known_from_us))
    if low_rate:
        await events.insert(conn, low_rate, known_from_us)
    return n


async def latest(
    conn: Connection,
    patient_ids: Sequence[int],
    *,
    as_of_us: int,
    known_at: int | None = None,
    concepts: Collection[int] | None = None,
    lookback_s: float = LOOKBACK_S,
    event_lookback_s: float | None = None,
    groups: Groups | None = None,
) -> dict[int, Sample]:
    """Return by concept the measurement with the greatest effective time not after `as_of_us`.

    Equal times are settled by the place in the log. History is not read: see stores.latest.

    Args:
        conn: an open connection; a transaction begins, and compaction of this patient waits for its end.
        patient_ids: all ids of one patient.
        as_of_us: values effective later do not count.
        known_at: log position; None for all that is known.
        concepts: which; None for all.
        lookback_s: high-rate signals older than this do not count.
        event_lookback_s: the same for labs, texts and other events; None for no limit.
        groups: concept number to signal group; None for the vocabulary's.

    Raises:
        CorruptBlockError: stored bytes are damaged.
    """
    wanted = sort_out(concepts, groups)
    from_us = max(EVER_US, as_of_us - round(lookback_s * 1e6))
    by_group = wanted.by_group
    if concepts is None and by_group:
        present = await signals.present_bits(conn, patient_ids, by_group, from_us, as_of_us)
        by_group = {
            group: [concept for concept in listed if present.get(group, 0) & signals.bits_of([concept])]
            for group, listed in by_group.items()
        }
    found: dict[int, Sample] = {}
    if any(by_group.values()):
        found = await newest.latest(conn, patient_ids, by_group, from_us, as_of_us, known_at)
    if wanted.events:
        first_us = EVER_US if event_lookback_s is None else max(EVER_US, as_of_us - round(event_lookback_s * 1e6))
        listed = None if concepts is None else wanted.events
        found |= await events.latest(conn, patient_ids, listed, first_us, as_of_us, known_at)
    return found


async def range_(
    conn: Connection,
    patient_ids: Sequence[int],
    concepts: Collection[int] | None,
    from_us: int,
    to_us: int,
    *,
    known_at: int | None = None,
    groups: Groups | None = None,
) -> list[Sample]:
    """Return the measurements effective in [from_us, to_us), ordered by time, concept and source.

    Args and Raises: as columns_between, which is faster for long intervals.
    """
    return samples_of(
        await columns_between(conn, patient_ids, concepts, from_us, to_us, known_at=known_at, groups=groups)
    )


async def revisions(
    conn: Connection,
    patient_ids: Sequence[int],
    concept: int,
    effective_at_us: int,
    *,
    groups: Groups | None = None,
) -> list[Sample]:
    """Return every revision of a concept's measurements at one time, those entered in error too, oldest first.

    Raises:
        CorruptBlockError: stored bytes are damaged.
    """
    wanted = sort_out([concept], groups)
    if wanted.events:
        return await events.revisions(conn, patient_ids, concept, effective_at_us)
    gatherer = Gatherer()
    bits = signals.bits_of([concept])
    for row in await signals.between(conn, patient_ids, wanted.by_group, bits, effective_at_us, effective_at_us + 1):
        blocks.decode_into(gatherer, row.columns, row.patient_id, row.seed, [concept])
    columns = gatherer.columns()
    chosen = columns.at((columns.concept == concept) & (columns.effective_at_us == effective_at_us))
    return sorted(
        samples_of(chosen),
        key=lambda sample: (
            sample.position, sample.raw_index, sample.value_index, sample.source_key, sample.patient_id
        ),
    )  # fmt: skip


class Sizes(NamedTuple):
    """What the time series takes on disk, indexes included. Counting reads the tables: not for every second."""

    blocks: int
    open_blocks: int  # not compacted yet
    block_samples: int
    block_bytes: int
    events: int
    event_bytes: int
    minutes: int
    minute_bytes: int


async def sizes(conn: Connection) -> Sizes:
    """Return how much is stored."""
    found = await conn.execute(
        """
        select b.*, pg_total_relation_size('signal_block'), e.*, pg_total_relation_size('observation_event'), m.*,
            pg_total_relation_size('vitals_minute')
        from (select count(*), count(*) filter (where level = 0), coalesce(sum(n), 0)::bigint from signal_block) b,
            (select count(*) from observation_event) e, (select count(*) from vitals_minute) m
        """
    )
    row = await found.fetchone()
    assert row is not None
    return Sizes(*row)
