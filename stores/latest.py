"""The latest value of each high-rate concept, without reading history.

Blocks are walked from the newest back, per patient id and signal group. A concept is settled once its best candidate is
later than anything an unread block may hold; its bit then leaves the filter, so that the next query skips the blocks of
concepts already settled. A late correction, which lies in a newer revision of an older hour, is met because blocks are
walked by effective time, and everything of one effective time is read before it is settled.

Here: the walk. Not here: the queries (stores.signals), labs and texts (stores.events).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import numpy as np

from stores import blocks, signals
from stores.database import Connection
from stores.samples import Columns, Gatherer, Sample, choose, current, samples_of

_FIRST_PAGE = 4
_LARGEST_PAGE = 128


class _Search:
    """One signal group of one patient, under all its ids."""

    def __init__(
        self, patient_ids: Sequence[int], group: int, concepts: Collection[int], as_of_us: int, known_at: int | None,
        from_us: int,
    ) -> None:  # fmt: skip
        self.unsettled = set(concepts)
        self.as_of_us = as_of_us
        self.known_at = known_at
        self.from_us = from_us
        self.found: list[Columns] = []
        self.gathered = Gatherer()
        bits = signals.bits_of(concepts)
        self.walks = [signals.Walk(patient_id, group, bits, as_of_us) for patient_id in patient_ids]

    def unread_until(self) -> int | None:
        """Return the latest effective time an unread block may hold; None when all is read."""
        ends = [walk.before[0] * 1_000_000 + walk.before[1] * 1000 for walk in self.walks if not walk.is_exhausted]
        return max(ends) if ends else None

    def take(self, rows: Sequence[signals.Row]) -> None:
        """Read a page of blocks of all walks, newest first, stopping before hours that are not needed."""
        later_pages = self.unread_until()
        for row in sorted(rows, key=lambda row: row.effective_to_us, reverse=True):
            if row.level > 0:
                # A block of a whole hour is worth a look at whether it is still needed.
                self.settle(row.effective_to_us if later_pages is None else max(row.effective_to_us, later_pages))
                if not self.unsettled:
                    return
            blocks.decode_into(self.gathered, row.columns, row.patient_id, row.seed, self.unsettled)
        self.settle(later_pages)

    def settle(self, unread_until: int | None) -> None:
        """Settle each concept whose best candidate is later than `unread_until` (None: nothing is unread)."""
        known = choose(self.gathered.columns(), self.unsettled, self.from_us, self.as_of_us + 1, self.known_at)
        candidates = current(known)
        order = np.lexsort(
            (
                candidates.value_index,
                candidates.raw_index,
                candidates.position,
                candidates.effective_at_us,
                candidates.concept,
            )
        )
        concept = candidates.concept[order]
        is_best = np.ones(len(order), np.bool_)
        is_best[:-1] = concept[1:] != concept[:-1]
        best = order[is_best]
        if unread_until is not None:
            best = best[candidates.effective_at_us[best] > unread_until]
        if len(best):
            self.found.append(candidates.at(best))
            self.unsettled.difference_update(candidates.concept[best].tolist())
        bits = signals.bits_of(self.unsettled)
        for walk in self.walks:
            walk.bits = bits


async def latest(
    conn: Connection,
    patient_ids: Sequence[int],
    wanted: Mapping[int, Collection[int]],
    from_us: int,
    as_of_us: int,
    known_at: int | None,
) -> dict[int, Sample]:
    """Return the measurement of each concept with the greatest effective time in [from_us, as_of_us].

    Args:
        conn: a transaction; compaction of these patients waits for its end.
        patient_ids: all ids of one patient.
        wanted: concepts by signal group.
        from_us: how far back to look.
        as_of_us: values effective later do not count.
        known_at: log position; None for all that is known.
    """
    await signals.hold(conn, patient_ids)
    searches = [
        _Search(patient_ids, group, concepts, as_of_us, known_at, from_us)
        for group, concepts in wanted.items()
        if concepts
    ]
    limit = _FIRST_PAGE
    unfinished = searches
    while unfinished:
        walks = [walk for search in unfinished for walk in search.walks if not walk.is_exhausted]
        pages = await signals.back(conn, walks, from_us, as_of_us, limit) if walks else []
        rows = {id(walk): page for walk, page in pages}
        for search in unfinished:
            search.take([row for walk in search.walks for row in rows.get(id(walk), ())])
        unfinished = [
            search for search in unfinished if search.unsettled and any(not walk.is_exhausted for walk in search.walks)
        ]
        limit = min(limit * 2, _LARGEST_PAGE)
    return {sample.concept: sample for search in searches for found in search.found for sample in samples_of(found)}
