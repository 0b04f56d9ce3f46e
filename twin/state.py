"""What the engine knows of each patient now.

State is a pure function of (events known up to a log position, the log's clock): folding one event at a time, any
batching of them, a restart and a replay all end in the same state. What is not kept in memory (older minutes, values
behind a deleted one) is named in `Unresolved`, for the engine to read back from the stores in the same transaction.

Here: folding observations and movements; which minutes and concepts need reading back.
Not here: scores and staleness (twin.forecast), SQL (stores), the features' ring buffer (models.features).
"""

from __future__ import annotations

import math
from bisect import bisect_right, insort
from collections.abc import Iterable
from typing import NamedTuple

from models.stay_series import StaySeries
from stores.timeseries import Sample
from vocabulary.records import ObservationStatus, Observed, Place

MINUTE_US = 60_000_000
OPEN_MINUTES = 5
"""Raw values are kept in memory this long; older minutes are read back from the store when something late arrives."""
SIGNAL_MEMORY_US = 24 * 3600 * 1_000_000
"""A high-rate signal that was last heard longer ago is no longer part of the twin's present."""
EVENT_MEMORY_US = 30 * 24 * 3600 * 1_000_000
"""The same for labs, weights, texts."""


class Entry(NamedTuple):
    """One measurement's current revision. Ordered by when it was true, then by its place in the log."""

    effective_at_us: int
    position: int
    raw_index: int
    value_index: int
    source_key: int
    value: float
    text: str
    status: int
    received_at_us: int
    device: str
    feed: str


def entry_of(sample: Sample) -> Entry:
    """Return a stored sample as an entry."""
    return Entry(
        sample.effective_at_us,
        sample.position,
        sample.raw_index,
        sample.value_index,
        sample.source_key,
        sample.value,
        sample.text,
        int(sample.status),
        sample.received_at_us,
        sample.device,
        sample.feed,
    )


class Unresolved:
    """What a fold could not answer from memory alone."""

    def __init__(self) -> None:
        """Start with nothing missing."""
        self.patients: set[int] = set()  # read the whole patient back
        self.concepts: set[tuple[int, int]] = set()  # (patient, concept): the latest value was withdrawn
        self.minutes: set[tuple[int, int]] = set()  # (patient, epoch minute): its values are not all in memory
        self.survivors: set[int] = set()  # of a merge: minutes before it now have values of both records


class Signal:
    """One concept of one patient: recent measurements, oldest first, and which minutes changed."""

    __slots__ = ("entries", "floor_us", "touched")

    def __init__(self, entries: Iterable[Entry] = ()) -> None:
        """Start from entries in any order."""
        self.entries: list[Entry] = sorted(entries)
        self.floor_us = 0  # what was older than this may have been forgotten
        self.touched: set[int] = set()  # epoch minutes whose median must be computed (again) once closed

    def put(self, entry: Entry) -> bool:
        """Fold a new revision in; return whether it changed anything that was known before (a correction)."""
        replaced = self._remove(entry.effective_at_us, entry.source_key)
        if entry.status != ObservationStatus.ENTERED_IN_ERROR:
            if not self.entries or entry > self.entries[-1]:
                self.entries.append(entry)
            else:
                insort(self.entries, entry)
        return replaced

    def _remove(self, effective_at_us: int, source_key: int) -> bool:
        entries = self.entries
        if not entries or entries[-1].effective_at_us < effective_at_us:
            return False
        index = bisect_right(entries, (effective_at_us,))
        while index < len(entries) and entries[index].effective_at_us == effective_at_us:
            if entries[index].source_key == source_key:
                del entries[index]
                return True
            index += 1
        return False

    def latest(self, until_us: int) -> Entry | None:
        """Return the newest measurement that is not later than `until_us`."""
        entries = self.entries
        if entries and entries[-1].effective_at_us <= until_us:
            return entries[-1]
        index = bisect_right(entries, (until_us + 1,))
        return entries[index - 1] if index else None

    def values_of_minute(self, minute: int) -> list[float]:
        """Return the numbers whose effective time lies in an epoch minute."""
        low = bisect_right(self.entries, (minute * MINUTE_US,))
        values = []
        for entry in self.entries[low:]:
            if entry.effective_at_us >= (minute + 1) * MINUTE_US:
                break
            if not math.isnan(entry.value):
                values.append(entry.value)
        return values

    def forget_before(self, cutoff_us: int) -> None:
        """Drop entries older than `cutoff_us`, but keep the newest of them: it may still be the latest known."""
        index = bisect_right(self.entries, (cutoff_us,))
        self.floor_us = max(self.floor_us, cutoff_us)
        if index > 1:
            del self.entries[: index - 1]

    def is_short(self) -> bool:
        """Return whether a withdrawal left nothing that is surely the latest: something forgotten may be newer."""
        return not self.entries or self.entries[-1].effective_at_us < self.floor_us


class Patient:
    """One admitted patient's present."""

    __slots__ = (
        "encounter_id",
        "last_digest",
        "next_due_us",
        "patient_id",
        "place",
        "received_monotonic_ns",
        "record_ids",
        "series",
        "signals",
        "started_at_us",
    )

    def __init__(
        self,
        patient_id: int,
        encounter_id: int,
        place: Place,
        record_ids: tuple[int, ...] = (),
        started_at_us: int = 0,
    ) -> None:
        """Start with no signals."""
        self.patient_id = patient_id
        self.encounter_id = encounter_id
        self.place = place
        self.record_ids = record_ids or (patient_id,)  # with those merged into this one
        self.started_at_us = started_at_us  # of the stay
        self.series: StaySeries | None = None  # None: nobody asks for a forecast of this stay (any more)
        self.signals: dict[int, Signal] = {}
        self.received_monotonic_ns: list[int] = []  # of messages not yet reflected in a published snapshot
        self.next_due_us = 0  # the log's clock at which a snapshot is due even without news
        self.last_digest = b""

    def observe(self, event: Observed, log_time_us: int, unresolved: Unresolved) -> None:
        """Fold a message's values."""
        open_from = log_time_us // MINUTE_US - OPEN_MINUTES
        for observation in event.observations:
            signal = self.signals.get(observation.concept)
            if signal is None:
                signal = self.signals[observation.concept] = Signal()
            entry = Entry(
                observation.effective_at_us,
                event.raw.position,
                event.raw.index,
                observation.value_index,
                observation.source_key,
                observation.value,
                observation.text,
                int(observation.status),
                event.received_at_us,
                observation.device,
                event.feed,
            )
            signal.put(entry)
            minute = observation.effective_at_us // MINUTE_US
            if minute < open_from:
                unresolved.minutes.add((self.patient_id, minute))
            else:
                signal.touched.add(minute)
            if entry.status == ObservationStatus.ENTERED_IN_ERROR and signal.is_short():
                unresolved.concepts.add((self.patient_id, observation.concept))

    def forget(self, log_time_us: int) -> None:
        """Drop raw values of minutes long closed."""
        cutoff_us = (log_time_us // MINUTE_US - OPEN_MINUTES) * MINUTE_US
        for signal in self.signals.values():
            if signal.entries and signal.entries[0].effective_at_us < cutoff_us:
                signal.forget_before(cutoff_us)

    def touched_minutes(self) -> set[int]:
        """Return the minutes whose medians are still to be computed."""
        return {minute for signal in self.signals.values() for minute in signal.touched}

    def closed_minutes(self, log_time_us: int) -> set[int]:
        """Return the touched minutes that are over, and mark them as settled."""
        current = log_time_us // MINUTE_US
        closed: set[int] = set()
        for signal in self.signals.values():
            if signal.touched:
                over = {minute for minute in signal.touched if minute < current}
                signal.touched -= over
                closed |= over
        return closed
