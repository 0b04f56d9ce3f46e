"""Reading values of an interval: as columns, as points of a curve, as hourly summaries.

Here: what pages, scores and training ask of a patient's history. A compacted hour that is its patient's only block of
that hour answers curves and summaries without being unpacked whole; any other is read in full, by the one rule of
stores.samples.
Not here: the latest values (stores.latest), minute medians (stores.minutes), SQL (stores.signals, stores.events).
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import cache
from types import MappingProxyType
from typing import NamedTuple

import numpy as np

from stores import blocks, events, hour_blocks, signals
from stores.database import Connection
from stores.hour_blocks import Points
from stores.samples import HOUR_US, Columns, Gatherer, choose, current, transpose

Groups = Mapping[int, int]
"""Concept number to signal group; 0 for what is kept one row a revision."""


@cache
def signal_groups() -> Groups:
    """Return the signal group of every concept in the vocabulary."""
    from vocabulary.concepts import CONCEPTS

    return MappingProxyType({concept.number: concept.signal_group for concept in CONCEPTS})


class HourSummary(NamedTuple):
    """One patient's numbers of one concept within one hour."""

    patient_id: int
    hour_us: int
    n: int
    mean: float
    least: float
    greatest: float


class Wanted(NamedTuple):
    """Concepts by the table they are kept in."""

    by_group: dict[int, list[int]]  # high-rate concepts of each block group
    events: list[int]

    @property
    def high_rate(self) -> list[int]:
        """Return the high-rate concepts of all groups."""
        return [concept for listed in self.by_group.values() for concept in listed]


def sort_out(concepts: Iterable[int] | None, groups: Groups | None) -> Wanted:
    """Return concepts (None: all there are) by where they are kept; unknown ones are kept nowhere."""
    groups = signal_groups() if groups is None else groups
    by_group: dict[int, list[int]] = defaultdict(list)
    for concept in groups if concepts is None else dict.fromkeys(concepts):
        if concept in groups:
            by_group[signals.block_group(groups[concept])].append(concept)
    low_rate = by_group.pop(0, [])
    return Wanted(dict(by_group), low_rate)


async def columns_between(
    conn: Connection,
    patient_ids: Sequence[int],
    concepts: Collection[int] | None,
    from_us: int,
    to_us: int,
    *,
    known_at: int | None = None,
    groups: Groups | None = None,
) -> Columns:
    """Return the measurements effective in [from_us, to_us), as columns ordered by time, concept and source.

    Args:
        conn: an open connection.
        patient_ids: all ids of one patient.
        concepts: their numbers; None for all.
        from_us: first effective time that counts.
        to_us: first effective time that no longer counts.
        known_at: log position; None for all that is known.
        groups: concept number to signal group; None for the vocabulary's.

    Raises:
        CorruptBlockError: stored bytes are damaged.
    """
    wanted = sort_out(concepts, groups)
    gatherer = Gatherer()
    bits = signals.bits_of(wanted.high_rate)
    for row in await signals.between(conn, patient_ids, wanted.by_group, bits, from_us, to_us):
        blocks.decode_into(gatherer, row.columns, row.patient_id, row.seed, wanted.by_group[row.signal_group])
    found = await events.between(conn, patient_ids, wanted.events, from_us, to_us, known_at)
    if found:
        gatherer.add_lists(transpose(found))
    everything = None if concepts is None else [*wanted.high_rate, *wanted.events]
    return current(choose(gatherer.columns(), everything, from_us, to_us, known_at))


async def series(
    conn: Connection,
    patient_ids: Sequence[int],
    concepts: Collection[int],
    from_us: int,
    to_us: int,
    *,
    known_at: int | None = None,
    groups: Groups | None = None,
) -> dict[int, Points]:
    """Return the numbers of each concept effective in [from_us, to_us), ordered by time: a curve to draw.

    Args and Raises: as columns_between. Concepts without numbers there are absent.
    """
    wanted = sort_out(concepts, groups)
    gatherer = Gatherer()
    bits = signals.bits_of(wanted.high_rate)
    rows = await signals.between(conn, patient_ids, wanted.by_group, bits, from_us, to_us)
    clean = []
    for (group, _), hour_rows in _by_hour(rows).items():
        listed = wanted.by_group[group]
        contents = _sole_clean(hour_rows, known_at)
        if contents is not None:
            clean.append((hour_rows[0].columns, contents, listed, hour_rows[0].seed))
            continue
        for row in hour_rows:
            blocks.decode_into(gatherer, row.columns, row.patient_id, row.seed, listed)
    parts = hour_blocks.points(clean)
    found = await events.between(conn, patient_ids, wanted.events, from_us, to_us, known_at)
    if found:
        gatherer.add_lists(transpose(found))
    merged = current(choose(gatherer.columns(), None, from_us, to_us, known_at))
    for concept in set(merged.concept.tolist()):
        rows_of = merged.concept == concept
        parts[concept].append(Points(merged.effective_at_us[rows_of], merged.value[rows_of]))
    curves = {concept: _curve(listed_parts, from_us, to_us) for concept, listed_parts in parts.items()}
    wanted_now = frozenset(concepts)
    return {concept: curve for concept, curve in curves.items() if concept in wanted_now and len(curve.value)}


def _curve(parts: Sequence[Points], from_us: int, to_us: int) -> Points:
    times = np.concatenate([part.effective_at_us for part in parts])
    values = np.concatenate([part.value for part in parts])
    if len(times) and (times[1:] < times[:-1]).any():
        order = np.argsort(times, kind="stable")
        times, values = times[order], values[order]
    first, last = np.searchsorted(times, (from_us, to_us))
    times, values = times[first:last], values[first:last]
    if np.isnan(values).any():
        is_number = ~np.isnan(values)
        times, values = times[is_number], values[is_number]
    return Points(times, values)


def _by_hour(rows: Sequence[signals.Row]) -> dict[tuple[int, int], list[signals.Row]]:
    hours: dict[tuple[int, int], list[signals.Row]] = defaultdict(list)
    for row in rows:
        hours[row.signal_group, row.hour_us].append(row)
    return hours


def _sole_clean(rows: Sequence[signals.Row], known_at: int | None) -> hour_blocks.Directory | None:
    """Return the directory of an hour's only block when every sample in it counts; None when it takes a closer look."""
    row = rows[0]
    if len(rows) > 1 or row.level == 0 or (known_at is not None and row.revision > known_at):
        return None
    if not hour_blocks.holds_directory(row.columns):
        return None
    contents = hour_blocks.directory(row.columns, row.seed)
    return contents if contents.is_clean else None


async def hourly(
    conn: Connection,
    patient_ids: Sequence[int],
    concept: int,
    from_us: int,
    to_us: int,
    *,
    known_at: int | None = None,
    groups: Groups | None = None,
) -> list[HourSummary]:
    """Return each hour's count, mean, least and greatest of one concept, for each patient id on its own.

    Args and Raises: as columns_between; both times are rounded down to the hour. Hours without numbers are absent.
    """
    first_us, last_us = from_us // HOUR_US * HOUR_US, to_us // HOUR_US * HOUR_US
    if last_us <= first_us:
        return []
    wanted = sort_out([concept], groups)
    unclear: dict[int, list[int]] = defaultdict(list)
    summaries: list[HourSummary] = []
    bits = signals.bits_of(wanted.high_rate)
    rows = await signals.directories_between(conn, patient_ids, wanted.by_group, bits, first_us, last_us)
    count = Counter((row.patient_id, row.hour_us) for row in rows)
    for row in rows:
        patient_id, hour_us = row.patient_id, row.hour_us
        entry = None
        if row.level and count[patient_id, hour_us] == 1 and (known_at is None or row.revision <= known_at):
            entry = hour_blocks.summary(row.columns, concept, row.seed)
        if entry is None:
            unclear[patient_id].append(hour_us)
        elif entry.numbers:
            mean = entry.total / entry.numbers
            summaries.append(HourSummary(patient_id, hour_us, entry.numbers, mean, entry.least, entry.greatest))
    if wanted.events:
        unclear = {patient_id: [first_us, last_us - HOUR_US] for patient_id in patient_ids}
    for patient_id, hours in unclear.items():
        # Read again in full, by a query of its own: whatever compaction did in between, it sees all of an hour.
        start, end = min(hours), max(hours) + HOUR_US
        curve = (await series(conn, [patient_id], [concept], start, end, known_at=known_at, groups=groups)).get(concept)
        if curve is not None:
            chosen = None if wanted.events else set(hours)
            summaries += [found for found in _summaries(patient_id, curve) if chosen is None or found.hour_us in chosen]
    return sorted(summaries)


def _summaries(patient_id: int, curve: Points) -> Iterable[HourSummary]:
    hours = curve.effective_at_us // HOUR_US
    starts = np.flatnonzero(np.concatenate(([True], hours[1:] != hours[:-1])))
    for start, end in zip(starts.tolist(), [*starts[1:].tolist(), len(hours)], strict=True):
        values = curve.value[start:end]
        mean = math.fsum(values.tolist()) / len(values)
        hour_us = int(hours[start]) * HOUR_US
        yield HourSummary(patient_id, hour_us, len(values), mean, float(values.min()), float(values.max()))
