"""The feature window: the last day of every patient in minute bins, and numbers made of it.

Here: bins put in as they close or are revised, trends, summaries over 1, 4, 12 and 24 hours: what boards show.
Not here: making bins from values (twin), the stored minutes (stores), what risk models see (models.stay_features: whole
stays and laboratory values, in service by the very call that training makes).

A ring of 1,440 minutes a patient and signal; each slot remembers which minute it holds, so nothing needs sweeping.
Medians are kept in single precision, as the store keeps them: a window read back after a restart gives the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from vocabulary import concepts
from vocabulary.errors import BrokenInvariantError

FloatArray = NDArray[np.float64]

MINUTES = 24 * 60
HORIZONS_H = (1, 4, 12, 24)
SUMMARIES = ("last", "min", "max", "mean", "slope_per_hour", "count")
FEWEST_BINS = 3
"""A line through two points says nothing about their scatter."""

_EMPTY = -1
_FIRST_CAPACITY = 16


class Bin(NamedTuple):
    """One minute of one signal."""

    minute: int  # minutes since 1970-01-01T00:00Z
    median: float  # concept's canonical unit
    n: int  # values behind it


def median(values: Sequence[float]) -> float:
    """Return the median; of an even count the mean of the two in the middle.

    Raises:
        ValueError: there are no values.
    """
    if not values:
        raise ValueError("expected at least one value, found none")
    ordered = sorted(values)
    middle = len(ordered) // 2
    if len(ordered) % 2:
        return ordered[middle]
    return (ordered[middle - 1] + ordered[middle]) / 2


class FeatureWindow:
    """Minute bins of all patients, shape (patients, signals, 1440)."""

    def __init__(self, concept_numbers: Sequence[int]) -> None:
        """Hold these concepts, in this order, for however many patients come.

        Raises:
            ValueError: a concept is named twice.
        """
        self._columns = {number: column for column, number in enumerate(concept_numbers)}
        if len(self._columns) != len(concept_numbers):
            raise ValueError("expected each concept once")
        self._rows: dict[int, int] = {}
        self._free: list[int] = []
        shape = (0, len(self._columns), MINUTES)
        self._medians = np.zeros(shape, np.float32)
        self._counts = np.zeros(shape, np.int32)
        self._minutes = np.full(shape, _EMPTY, np.int32)

    @property
    def concept_numbers(self) -> tuple[int, ...]:
        """Return the concepts held, in the order of columns."""
        return tuple(self._columns)

    def _grow(self, capacity: int) -> None:
        shape = (capacity - len(self._minutes), len(self._columns), MINUTES)
        self._medians = np.concatenate([self._medians, np.zeros(shape, np.float32)])
        self._counts = np.concatenate([self._counts, np.zeros(shape, np.int32)])
        self._minutes = np.concatenate([self._minutes, np.full(shape, _EMPTY, np.int32)])

    def _row(self, patient_id: int) -> int:
        row = self._rows.get(patient_id)
        if row is None:
            if self._free:
                row = self._free.pop()
            else:
                row = len(self._rows)
                if row == len(self._minutes):
                    self._grow(max(_FIRST_CAPACITY, 2 * row))
            self._rows[patient_id] = row
        return row

    def _column(self, concept: int) -> int:
        column = self._columns.get(concept)
        if column is None:
            raise BrokenInvariantError(
                f"concept {concept} is not in this window: expected one of {list(self._columns)}"
            )
        return column

    def put(self, patient_id: int, concept: int, minute: int, median: float, n: int) -> None:
        """Set one bin; `n` 0 takes it out. A bin older than the window is ignored.

        Args:
            patient_id: whose.
            concept: number of a concept held.
            minute: minutes since 1970-01-01T00:00Z.
            median: of the minute's values, in the concept's unit.
            n: how many values.

        Raises:
            BrokenInvariantError: the concept is not held, or the median of values is not a finite number.
        """
        column = self._column(concept)
        if n == 0:
            row = self._rows.get(patient_id)
            if row is not None and self._minutes[row, column, minute % MINUTES] == minute:
                self._minutes[row, column, minute % MINUTES] = _EMPTY
            return
        if not np.isfinite(median) or n < 0 or minute < 0:
            raise BrokenInvariantError("a bin needs a finite median, a count and a minute from 1970 on")
        slot = (self._row(patient_id), column, minute % MINUTES)
        if self._minutes[slot] > minute:
            return
        self._minutes[slot] = minute
        self._medians[slot] = median
        self._counts[slot] = n

    def clear(self, patient_id: int) -> None:
        """Forget a patient."""
        row = self._rows.pop(patient_id, None)
        if row is not None:
            self._minutes[row] = _EMPTY
            self._free.append(row)

    def bins(self, patient_id: int, concept: int, from_minute: int, to_minute: int) -> list[Bin]:
        """Return the bins of a half-open range of minutes, oldest first; at most a day of them are held."""
        minutes, medians, counts = self._held(patient_id, concept, from_minute, to_minute)
        return [Bin(int(m), float(v), int(n)) for m, v, n in zip(minutes, medians, counts, strict=True)]

    def latest(self, patient_id: int, concept: int, now_minute: int) -> Bin | None:
        """Return the newest bin of the day up to and including `now_minute`."""
        minutes, medians, counts = self._held(patient_id, concept, now_minute - MINUTES + 1, now_minute + 1)
        return Bin(int(minutes[-1]), float(medians[-1]), int(counts[-1])) if len(minutes) else None

    def slope_per_hour(self, patient_id: int, concept: int, now_minute: int, over_minutes: int = 60) -> float | None:
        """Return the least-squares slope of the minute medians, in units per hour; None below 3 bins.

        Args:
            patient_id: whose.
            concept: number of a concept held.
            now_minute: the last minute looked at.
            over_minutes: how many minutes, that one included.
        """
        minutes, medians, _ = self._held(patient_id, concept, now_minute - over_minutes + 1, now_minute + 1)
        if len(minutes) < FEWEST_BINS:
            return None
        x = minutes.astype(np.float64)
        x -= x.mean()
        y = medians.astype(np.float64)
        return float((x @ (y - y.mean())) / (x @ x) * 60.0)

    def _held(
        self, patient_id: int, concept: int, from_minute: int, to_minute: int
    ) -> tuple[NDArray[np.int32], NDArray[np.float32], NDArray[np.int32]]:
        column = self._column(concept)
        row = self._rows.get(patient_id)
        from_minute = max(from_minute, to_minute - MINUTES)
        if row is None or from_minute >= to_minute:
            return np.empty(0, np.int32), np.empty(0, np.float32), np.empty(0, np.int32)
        wanted = np.arange(from_minute, to_minute)
        slots = wanted % MINUTES
        found = slots[self._minutes[row, column, slots] == wanted]
        return self._minutes[row, column, found], self._medians[row, column, found], self._counts[row, column, found]

    def features(self, patient_ids: Sequence[int], now_minute: int) -> tuple[tuple[str, ...], FloatArray]:
        """Return summaries of the last 1, 4, 12 and 24 hours, up to and including `now_minute`.

        `last`, `min`, `max`, `mean` and `slope_per_hour` are of minute medians, in the concept's unit; `count` is how
        many minutes have one. What cannot be said is NaN, a count of nothing 0.

        Returns:
            Names like `heart_rate_mean_4h`, and an array of shape (patients, names).
        """
        names = tuple(
            f"{concepts.by_number(number).key}_{summary}_{hours}h"
            for number in self._columns
            for hours in HORIZONS_H
            for summary in SUMMARIES
        )
        day = np.arange(now_minute - MINUTES + 1, now_minute + 1)
        slots = day % MINUTES
        result = np.full((len(patient_ids), len(self._columns), len(HORIZONS_H), len(SUMMARIES)), np.nan)
        result[..., SUMMARIES.index("count")] = 0.0
        places = [place for place, patient_id in enumerate(patient_ids) if patient_id in self._rows]
        rows = [self._rows[patient_ids[place]] for place in places]
        if rows:
            is_held = self._minutes[rows][:, :, slots] == day
            values = self._medians[rows][:, :, slots].astype(np.float64)
            for index, hours in enumerate(HORIZONS_H):
                result[places, :, index] = _summaries(values[..., -hours * 60 :], is_held[..., -hours * 60 :])
        return names, result.reshape(len(patient_ids), -1)


def _summaries(values: FloatArray, is_held: NDArray[np.bool_]) -> FloatArray:
    """Return the six summaries along the last axis, of minutes that are held."""
    count = is_held.sum(axis=-1)
    some = count > 0
    size = values.shape[-1]
    last_index = size - 1 - np.argmax(is_held[..., ::-1], axis=-1)
    last = np.take_along_axis(values, last_index[..., None], axis=-1)[..., 0]
    kept = np.where(is_held, values, 0.0)
    safe = np.maximum(count, 1)
    mean = kept.sum(axis=-1) / safe
    x = np.broadcast_to(np.arange(size, dtype=np.float64), values.shape)
    x = np.where(is_held, x - (np.where(is_held, x, 0.0).sum(axis=-1) / safe)[..., None], 0.0)
    y = np.where(is_held, values - mean[..., None], 0.0)
    spread = (x * x).sum(axis=-1)
    is_trend = count >= FEWEST_BINS
    slope = (x * y).sum(axis=-1) / np.where(is_trend, spread, 1.0) * 60.0
    return np.stack(
        [
            np.where(some, last, np.nan),
            np.where(some, np.where(is_held, values, np.inf).min(axis=-1), np.nan),
            np.where(some, np.where(is_held, values, -np.inf).max(axis=-1), np.nan),
            np.where(some, mean, np.nan),
            np.where(is_trend, slope, np.nan),
            count.astype(np.float64),
        ],
        axis=-1,
    )
