"""What a risk model may look at: the stay's minute medians since admission, the same however they came to be known.

A forecast uses whole minutes only, so a series is a pure function of the values known at a log position and of the
log's clock there: minutes as they close, minutes made again because something came late, a restart and a replay all
end in the same bins, bit for bit. Medians are rounded to single precision once, where they are made.

Here: which minute of its stay a patient is in, minutes' medians of stored values, filling and updating a series.
Not here: the series itself (models.stay_series), which minutes have to be made again (twin.settling), features.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from models.stay_series import StaySeries
from stores import minutes, timeseries
from stores.database import Connection
from stores.samples import Columns
from twin.state import MINUTE_US, Patient

LAST_MINUTE = 48 * 60
"""The last minute of a stay that a forecast may be of: what models learned from."""
KEPT_MINUTES = LAST_MINUTE + 60
"""A series holds minutes before this one; a stay older than that needs none."""


class MinuteBins(NamedTuple):
    """Medians of a patient's values: columns of equal length, by rising concept, then minute; each place once."""

    concept: NDArray[np.int64]
    minute: NDArray[np.int64]  # epoch minutes
    median: NDArray[np.float64]
    n: NDArray[np.int64]  # values behind each


def through_minute(log_time_us: int, started_at_us: int) -> int:
    """Return the last minute of the stay that is over: minute 0 is the one the stay began in; below 0 none is."""
    return log_time_us // MINUTE_US - 1 - started_at_us // MINUTE_US


def bins_of(columns: Columns) -> MinuteBins:
    """Return the medians of stored values; what is no number does not count.

    The median of an even count is the mean of the two in the middle, exactly as stores.minutes.median.
    """
    is_number = ~np.isnan(columns.value)
    value, concept = columns.value[is_number], columns.concept[is_number]
    minute = columns.effective_at_us[is_number] // MINUTE_US
    order = np.lexsort((value, minute, concept))
    value, concept, minute = value[order], concept[order], minute[order]
    is_first = np.ones(len(value), np.bool_)
    is_first[1:] = (concept[1:] != concept[:-1]) | (minute[1:] != minute[:-1])
    first = np.flatnonzero(is_first)
    count = np.diff(np.append(first, len(value)))
    low, high = value[first + (count - 1) // 2], value[first + count // 2]
    median = np.where(count % 2 == 1, high, (low + high) / 2)
    return MinuteBins(concept[first], minute[first], median, count)


def put(patient: Patient, concept: int, minute: int, median: float | None, n: int) -> None:
    """Set one bin of a patient's series, or take it out where no value is left; a minute outside the stay is ignored.

    Args:
        patient: whose.
        concept: one that the series holds.
        minute: epoch minute.
        median: of the minute's values; None without values.
        n: how many values.
    """
    if patient.series is None:
        return
    offset = minute - patient.started_at_us // MINUTE_US
    if not 0 <= offset < KEPT_MINUTES:
        return
    if median is None:
        patient.series.remove(concept, offset)
    else:
        patient.series.put(concept, offset, median, n)


def forget(patient: Patient, log_time_us: int) -> None:
    """Let go of the series of a stay that no forecast will be of."""
    if patient.series is not None and through_minute(log_time_us, patient.started_at_us) >= KEPT_MINUTES:
        patient.series = None


def is_same_stay(patient: Patient, before: Patient | None) -> bool:
    """Return whether a series kept before a patient was read back is still the one it would be read to."""
    return (
        before is not None
        and before.record_ids == patient.record_ids
        and before.started_at_us // MINUTE_US == patient.started_at_us // MINUTE_US
    )


async def compute(
    connection: Connection, patient: Patient, concepts: Sequence[int], log_time_us: int, known_at: int
) -> None:
    """Fill a patient's series from raw values as known at a log position: a replay, a merge, another start."""
    patient.series = None
    span = _span(patient, log_time_us)
    if span is None:
        return
    patient.series = StaySeries()
    await _fill_from_raw(connection, patient, concepts, span, known_at)


async def read(
    connection: Connection, patient: Patient, concepts: Sequence[int], log_time_us: int, known_at: int
) -> None:
    """Fill a patient's series as `compute` would, from the minutes already settled where there are such: a restart.

    The stored minutes of a record that others were merged into reach back only a day, so these are computed.
    """
    if len(patient.record_ids) > 1:
        await compute(connection, patient, concepts, log_time_us, known_at)
        return
    patient.series = None
    span = _span(patient, log_time_us)
    if span is None:
        return
    patient.series = StaySeries()
    settled = frozenset(minutes.minute_concepts()) & frozenset(concepts)
    rows = await minutes.minutes(connection, patient.record_ids, *span)
    if rows:
        minute = np.array([row.minute_us // MINUTE_US for row in rows], np.int64)
        medians = np.array([row.medians for row in rows], np.float64)  # NaN where there were no values
        for place, number in enumerate(minutes.minute_concepts()):
            has_values = ~np.isnan(medians[:, place])
            if number in settled:
                _fill(patient, number, minute[has_values], medians[has_values, place])
    others = [number for number in concepts if number not in settled]
    await _fill_from_raw(connection, patient, others, span, known_at)


def _span(patient: Patient, log_time_us: int) -> tuple[int, int] | None:
    """Return the closed minutes a series holds, as a half-open interval of time; None where there is none to hold."""
    if patient.encounter_id == 0 or through_minute(log_time_us, patient.started_at_us) >= KEPT_MINUTES:
        return None
    admission = patient.started_at_us // MINUTE_US
    until = min(log_time_us // MINUTE_US, admission + KEPT_MINUTES)
    return admission * MINUTE_US, max(until, admission) * MINUTE_US


async def _fill_from_raw(
    connection: Connection, patient: Patient, concepts: Sequence[int], span: tuple[int, int], known_at: int
) -> None:
    if not concepts or span[0] >= span[1]:
        return
    ids = patient.record_ids
    bins = bins_of(await timeseries.columns_between(connection, ids, concepts, *span, known_at=known_at))
    for number in np.unique(bins.concept).tolist():
        place = slice(*np.searchsorted(bins.concept, (number, number + 1)))
        _fill(patient, number, bins.minute[place], bins.median[place])


def _fill(patient: Patient, concept: int, minute: NDArray[np.int64], median: NDArray[np.float64]) -> None:
    assert patient.series is not None
    offset = (minute - patient.started_at_us // MINUTE_US).astype(np.int32)
    patient.series.fill(concept, offset, median.astype(np.float32))
