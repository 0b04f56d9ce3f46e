"""A stay as sparse minute bins, one at a time (`StaySeries`) and many side by side (`Bins`).

Here: what is known of a stay as (concept, minute since admission, median), put in as minutes close or are revised, and
the columns of many stays that features are computed from. A recorded stay becomes the very same bins.
Not here: features (models.stay_features), the last day of vital signs for trends (models.features), which values make
a minute (twin, interop).

Medians are kept in single precision, as the store keeps them: a series read back after a restart gives the same.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from vocabulary.errors import BrokenInvariantError

FURTHEST_MINUTE = 1 << 24
"""Thirty-one years: a minute beyond is a time mistaken for minutes since admission."""

_MINUTE_SPAN = 1 << 32
_LARGEST_SINGLE = float(np.finfo(np.float32).max)


class Bins(NamedTuple):
    """Minute bins of many stays: columns of length n, sorted by concept, then stay, then minute; each place once."""

    concept: NDArray[np.int16]  # Concept.number
    stay: NDArray[np.int32]  # 0..stays-1
    minute: NDArray[np.int32]  # since admission
    median: NDArray[np.float32]  # of the minute's values, in the concept's canonical unit
    stays: int  # how many stays there are, those without a bin included


class Recorded(Protocol):
    """Values of one stay as columns in any order, e.g. interop.physionet2012.RecordedStay."""

    @property
    def concepts(self) -> NDArray[np.int16]:
        """Return Concept.number of each value."""

    @property
    def minutes(self) -> NDArray[np.int32]:
        """Return minutes since admission."""

    @property
    def values(self) -> NDArray[np.float64]:
        """Return values in canonical units, NaN for one without a number."""


class StaySeries:
    """The bins of one stay as they become known; a bin after the last one costs a few list operations."""

    __slots__ = ("_medians", "_minutes", "revision")

    def __init__(self) -> None:
        """Begin without a bin."""
        self._minutes: dict[int, array[int]] = {}
        self._medians: dict[int, array[float]] = {}
        self.revision = 0
        """Grows with every change: features of an unchanged revision and minute need not be computed again."""

    def put(self, concept: int, minute: int, median: float, n: int = 1) -> None:
        """Set the bin of one minute; `n` 0 takes it out.

        Args:
            concept: Concept.number.
            minute: since admission (epoch minute less that of the encounter's start).
            median: of the minute's values, in the concept's canonical unit; rounded to single precision.
            n: how many values; a minute whose values were all taken back has none.

        Raises:
            BrokenInvariantError: a median that single precision cannot hold, a negative count, or a minute that is
                none of a stay.
        """
        if n == 0:
            self.remove(concept, minute)
            return
        if n < 0 or not abs(median) <= _LARGEST_SINGLE or abs(minute) > FURTHEST_MINUTE:
            raise BrokenInvariantError(
                f"a bin needs a finite median, a count and a minute of the stay: concept {concept}, minute {minute}"
            )
        minutes = self._minutes.get(concept)
        if minutes is None:
            minutes = self._minutes[concept] = array("i")
            self._medians[concept] = array("f")
        medians = self._medians[concept]
        if not minutes or minute > minutes[-1]:
            minutes.append(minute)
            medians.append(median)
        else:
            place = bisect_left(minutes, minute)
            if minutes[place] != minute:
                minutes.insert(place, minute)
                medians.insert(place, median)
            else:
                before = medians[place]
                medians[place] = median
                if medians[place] == before:
                    return
        self.revision += 1

    def fill(self, concept: int, minutes: NDArray[np.int32], medians: NDArray[np.float32]) -> None:
        """Set all bins of a concept that has none yet, at once: what so many `put` would do.

        Args:
            concept: Concept.number.
            minutes: since admission, rising, each once; shape (bins,).
            medians: in the concept's canonical unit; shape (bins,).

        Raises:
            BrokenInvariantError: the concept has bins, the minutes do not rise or are none of a stay, or a median is
                not finite.
        """
        if not len(minutes):
            return
        is_rising = bool((minutes[1:] > minutes[:-1]).all())
        if concept in self._minutes or not is_rising or minutes.shape != medians.shape:
            raise BrokenInvariantError(
                f"concept {concept}: expected no bins yet, and rising minutes with a median each"
            )
        if not np.isfinite(medians).all() or max(abs(int(minutes[0])), abs(int(minutes[-1]))) > FURTHEST_MINUTE:
            raise BrokenInvariantError(f"concept {concept}: expected finite medians and minutes of the stay")
        self._minutes[concept] = array("i", minutes.astype(np.int32).tobytes())
        self._medians[concept] = array("f", medians.astype(np.float32).tobytes())
        self.revision += 1

    def remove(self, concept: int, minute: int) -> None:
        """Take a bin out; nothing happens where there is none."""
        minutes = self._minutes.get(concept)
        if minutes is None:
            return
        place = bisect_left(minutes, minute)
        if place == len(minutes) or minutes[place] != minute:
            return
        del minutes[place], self._medians[concept][place]
        if not minutes:
            del self._minutes[concept], self._medians[concept]
        self.revision += 1

    def clear(self) -> None:
        """Forget every bin."""
        self._minutes.clear()
        self._medians.clear()
        self.revision += 1

    def concepts(self) -> tuple[int, ...]:
        """Return the concepts that have a bin, by rising number."""
        return tuple(sorted(self._minutes))

    def bins(self, concept: int) -> list[tuple[int, float]]:
        """Return one concept's (minute, median), by rising minute."""
        if concept not in self._minutes:
            return []
        return list(zip(self._minutes[concept], self._medians[concept], strict=True))

    def arrays(self, concept: int) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        """Return copies of one concept's minutes and medians, by rising minute."""
        minutes = self._minutes.get(concept, array("i"))
        medians = self._medians.get(concept, array("f"))
        return np.array(minutes, np.int32), np.array(medians, np.float32)

    def __len__(self) -> int:
        """Return how many bins there are."""
        return sum(map(len, self._minutes.values()))


def bins_of_series(series: Sequence[StaySeries], concepts: Iterable[int] | None = None) -> Bins:
    """Return the bins of stays as they are known now; `Bins.stay` is the place in `series`.

    Args:
        series: one for each stay.
        concepts: only these; None for all there are.
    """
    wanted = set(concepts) if concepts is not None else {number for one in series for number in one.concepts()}
    of_concept: list[int] = []
    of_stay: list[int] = []
    lengths: list[int] = []
    minutes: list[NDArray[np.int32]] = []
    medians: list[NDArray[np.float32]] = []
    for number in sorted(wanted):
        for stay, one in enumerate(series):
            if number in one._minutes:
                # Views, copied once below and gone with this call: a series cannot grow while one is held.
                minutes.append(np.frombuffer(one._minutes[number], np.int32))
                medians.append(np.frombuffer(one._medians[number], np.float32))
                of_concept.append(number)
                of_stay.append(stay)
                lengths.append(len(minutes[-1]))
    if not lengths:
        return Bins(*_empty(), len(series))
    return Bins(
        np.repeat(np.array(of_concept, np.int16), lengths),
        np.repeat(np.array(of_stay, np.int32), lengths),
        np.concatenate(minutes),
        np.concatenate(medians),
        len(series),
    )


def bins_of_records(records: Iterable[Recorded]) -> Bins:
    """Return the bins of recorded stays; `Bins.stay` is the place in `records`.

    Several values of one minute become their median, rounded to single precision only then; a value without a number
    is skipped.

    Raises:
        BrokenInvariantError: a value that single precision cannot hold, or a minute that is none of a stay.
    """
    concepts: list[NDArray[np.int16]] = []
    minutes: list[NDArray[np.int32]] = []
    values: list[NDArray[np.float64]] = []
    for record in records:
        concepts.append(record.concepts)
        minutes.append(record.minutes)
        values.append(record.values)
    lengths = [len(column) for column in values]
    if not sum(lengths):
        return Bins(*_empty(), len(lengths))
    return bins_of_columns(
        np.concatenate(concepts),
        np.repeat(np.arange(len(lengths), dtype=np.int32), lengths),
        np.concatenate(minutes),
        np.concatenate(values),
        len(lengths),
    )


def bins_of_columns(
    concept: NDArray[np.int16],
    stay: NDArray[np.int32],
    minute: NDArray[np.int32],
    value: NDArray[np.float64],
    stays: int,
) -> Bins:
    """Return bins of single values in any order, as columns of equal length (e.g. the lake's event tables).

    Raises:
        BrokenInvariantError: as `bins_of_records`, or a stay that is not 0..stays-1.
    """
    has_number = ~np.isnan(value)
    if not has_number.all():
        concept, stay, minute, value = concept[has_number], stay[has_number], minute[has_number], value[has_number]
    if not len(value):
        return Bins(*_empty(), stays)
    if np.abs(value).max() > _LARGEST_SINGLE or np.abs(minute).max() > FURTHEST_MINUTE:
        raise BrokenInvariantError("bins need finite values and minutes of a stay")
    if stay.min() < 0 or stay.max() >= stays:
        raise BrokenInvariantError(f"expected stays 0..{stays - 1}, found {stay.min()}..{stay.max()}")
    key = (concept.astype(np.int64) * stays + stay) * _MINUTE_SPAN + minute
    order = np.argsort(key, kind="stable")
    key, value = key[order], value[order]
    starts = np.flatnonzero(np.concatenate([[True], key[1:] != key[:-1]]))
    ends = np.append(starts[1:], len(key))
    lengths = ends - starts
    median = value[starts]
    for place in np.flatnonzero(lengths > 1).tolist():
        some = np.sort(value[starts[place] : ends[place]])
        middle = len(some) // 2
        median[place] = some[middle] if len(some) % 2 else (some[middle - 1] + some[middle]) / 2
    first = order[starts]
    return Bins(
        concept[first].astype(np.int16, copy=False),
        stay[first].astype(np.int32, copy=False),
        minute[first].astype(np.int32, copy=False),
        median.astype(np.float32),
        stays,
    )


def _empty() -> tuple[NDArray[np.int16], NDArray[np.int32], NDArray[np.int32], NDArray[np.float32]]:
    return np.empty(0, np.int16), np.empty(0, np.int32), np.empty(0, np.int32), np.empty(0, np.float32)
