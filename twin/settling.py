"""Minutes that are over: their medians for the stored projection, the trends' window and the models' series at once.

A minute is settled when the log's clock has passed it, and again whenever something late, corrected or withdrawn
changed it. What is no longer in memory is made again from the stores, as known at the patient's position.

Here: which minutes to settle, from memory or from the stores, and putting them everywhere they are kept.
Not here: whose values changed which minute (twin.state), the cycle's transaction (twin.engine).
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence

from models.features import FeatureWindow
from stores import clinical, minutes, timeseries
from stores.database import Connection
from twin import rebuilding, stay_state
from twin.state import MINUTE_US, Patient, Unresolved
from vocabulary.records import partition_of

Settled = dict[int, tuple[float, int]]
"""Of one minute, by concept number: the median and how many values."""


class Settler:
    """Settles minutes of the patients of one engine."""

    def __init__(self, window: FeatureWindow, series_concepts: Sequence[int]) -> None:
        """Settle for a window of trends, and for series that hold some concepts."""
        self._window = window
        self._in_window = window.concept_numbers
        self._in_series = tuple(series_concepts)
        self._all = tuple(dict.fromkeys((*self._in_window, *self._in_series)))

    async def settle(
        self,
        connection: Connection,
        patients: Mapping[int, Patient],
        unresolved: Unresolved,
        leaving: set[int],
        positions: Mapping[int, int],
        log_times: Mapping[int, int],
    ) -> None:
        """Compute the medians of minutes that ended, and again of ended minutes that something late changed.

        Args:
            connection: the engine's transaction; the cycle's values are written.
            patients: by id.
            unresolved: minutes whose values are not all in memory, and survivors of merges.
            leaving: who is no longer here: all their minutes end now.
            positions: the position each partition was moved to.
            log_times: the log's clock of each partition.
        """
        rows: list[minutes.Minute] = []
        for patient_id in sorted(unresolved.survivors):
            partition = partition_of(patient_id)
            if partition in positions:
                current = log_times[partition] // MINUTE_US
                first = current - rebuilding.WINDOW_MINUTES
                found = await self._stored(connection, patients, patient_id, first, current, positions[partition])
                # The series was read back whole: the survivor's stay may reach back further than the trends.
                rows.extend(
                    self._row(patient_id, minute, found[minute])
                    for minute in sorted(found)
                    if not found[minute].keys().isdisjoint(self._in_window)
                )
        for patient_id, first, last in _runs(unresolved.minutes):
            known_at = positions[partition_of(patient_id)]
            found = await self._stored(connection, patients, patient_id, first, last + 1, known_at)
            for minute in range(first, last + 1):
                settled = found.get(minute, {})
                rows.append(self._row(patient_id, minute, settled))
                self._put_series(patients.get(patient_id), minute, settled)
        for patient_id, patient in patients.items():
            log_time_us = log_times[partition_of(patient_id)]
            # Nobody will be there when the last minute of one who leaves is over.
            over = patient.touched_minutes() if patient_id in leaving else patient.closed_minutes(log_time_us)
            for minute in sorted(over):
                settled = self._remembered(patient, minute)
                rows.append(self._row(patient_id, minute, settled))
                self._put_series(patient, minute, settled)
        for row in rows:
            # The window begins with 1970; a stay of a data set whose dates were shifted may lie before it.
            if row.patient_id in patients and row.minute_us >= 0:
                self._put_window(row)
        await minutes.put_minutes(connection, rows)

    async def _stored(
        self,
        connection: Connection,
        patients: Mapping[int, Patient],
        patient_id: int,
        from_minute: int,
        to_minute: int,
        known_at: int,
    ) -> dict[int, Settled]:
        """Return minutes made of stored values, as known at the patient's position."""
        patient = patients.get(patient_id)
        ids: Sequence[int] = patient.record_ids if patient is not None else ()
        if not ids:
            ids = await clinical.merged_ids(connection, patient_id, known_at=known_at)
        concepts = self._all if patient is not None else self._in_window
        columns = await timeseries.columns_between(
            connection, ids, concepts, from_minute * MINUTE_US, to_minute * MINUTE_US, known_at=known_at
        )
        found: dict[int, Settled] = {}
        bins = stay_state.bins_of(columns)
        for concept, minute, median, count in zip(*(column.tolist() for column in bins), strict=True):
            found.setdefault(minute, {})[concept] = (median, count)
        return found

    def _remembered(self, patient: Patient, minute: int) -> Settled:
        settled: Settled = {}
        for number in self._all:
            signal = patient.signals.get(number)
            if signal is None:
                continue
            values = signal.values_of_minute(minute)
            middle = minutes.median(values)
            if middle is not None:
                settled[number] = (middle, len(values))
        return settled

    def _row(self, patient_id: int, minute: int, settled: Settled) -> minutes.Minute:
        nothing = (None, 0)
        listed = [settled.get(number, nothing) for number in self._in_window]
        return minutes.Minute(
            patient_id,
            minute * MINUTE_US,
            tuple(median for median, _ in listed),
            tuple(minutes.counted(range(count)) for _, count in listed),
        )

    def _put_series(self, patient: Patient | None, minute: int, settled: Settled) -> None:
        if patient is None or patient.series is None:
            return
        for number in self._in_series:
            median, count = settled.get(number, (None, 0))
            stay_state.put(patient, number, minute, median, count)

    def _put_window(self, row: minutes.Minute) -> None:
        for number, value, count in zip(self._in_window, row.medians, row.n, strict=True):
            median = math.nan if value is None else value
            self._window.put(row.patient_id, number, row.minute_us // MINUTE_US, median, count)


def _runs(minutes_of_patients: Collection[tuple[int, int]]) -> Iterator[tuple[int, int, int]]:
    """Yield (patient, first minute, last minute) for each stretch of adjacent minutes."""
    stretch: tuple[int, int, int] | None = None
    for patient_id, minute in sorted(minutes_of_patients):
        if stretch is not None and stretch[0] == patient_id and minute == stretch[2] + 1:
            stretch = (patient_id, stretch[1], minute)
            continue
        if stretch is not None:
            yield stretch
        stretch = (patient_id, minute, minute)
    if stretch is not None:
        yield stretch
