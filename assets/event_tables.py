"""Recorded stays and live patients' values as event tables of the lake.

Here: rows of the lake's schema from columns; what a stay is besides its measurements: sex, unit, scores, its end.
Not here: writing datasets (stores.lake), the assets that call this (assets.normalized, assets.live_events).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, Final, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from interop.physionet2012 import RecordedStay
from stores.lake import ADMISSION, DEATH, DISCHARGE, code_of, event_schema
from vocabulary.concepts import CONCEPTS

MINUTE_US: Final = 60_000_000
STAYS_A_FILE: Final = 1_000
SEX: Final = "SEX//"
UNIT: Final = "ICU//"
SAPS_I: Final = "VIGIL//saps_i"
SOFA: Final = "VIGIL//sofa"
SCORED_MINUTE: Final = 24 * 60
"""The challenge's SAPS-I and SOFA are of the first day: nobody could know them before its end."""

_CODE_OF = {concept.number: code_of(concept) for concept in CONCEPTS}
_UNIT_OF = {concept.number: concept.unit for concept in CONCEPTS}
_NEVER: Final = np.iinfo(np.int64).min


class _Extra(NamedTuple):
    """One row that is no measurement."""

    minute: int | None  # None: has no time
    code: str
    value: float | None
    unit: str


def recorded_tables(stays: Iterable[RecordedStay], source: str) -> Iterator[pa.Table]:
    """Yield event tables of recorded stays, `STAYS_A_FILE` stays in each.

    Args:
        stays: in any order; each record once.
        source: where they come from, for the column of that name.
    """
    waiting = iter(stays)
    while some := list(islice(waiting, STAYS_A_FILE)):
        yield _recorded_table(sorted(some, key=lambda stay: int(stay.record_id)), source)


def _recorded_table(stays: Sequence[RecordedStay], source: str) -> pa.Table:
    subjects, minutes, concepts, values, codes, units = [], [], [], [], [], []
    for stay in stays:
        extras = _extras(stay)
        count = len(stay.values) + len(extras)
        given = np.array([_NEVER if one.minute is None else one.minute for one in extras], np.int64)
        minute = np.concatenate([stay.minutes.astype(np.int64), given])
        # Stable: values of one minute stay in the order in which they were charted, before what is no measurement.
        order = np.argsort(minute, kind="stable")
        subjects.append(np.full(count, int(stay.record_id), np.int64))
        minutes.append(minute[order])
        concepts.append(np.concatenate([stay.concepts.astype(np.int64), np.zeros(len(extras), np.int64)])[order])
        extra_values = [np.nan if one.value is None else one.value for one in extras]
        values.append(np.concatenate([stay.values, np.array(extra_values, np.float64)])[order])
        own = [_CODE_OF[number] for number in stay.concepts.tolist()] + [one.code for one in extras]
        own_units = [_UNIT_OF[number] for number in stay.concepts.tolist()] + [one.unit for one in extras]
        codes.append(np.array(own, object)[order])
        units.append(np.array(own_units, object)[order])
    subject, minute = np.concatenate(subjects), np.concatenate(minutes)
    time_us = np.where(minute == _NEVER, 0, minute) * MINUTE_US
    return table_of(
        subject=subject,
        time_us=time_us,
        is_timed=minute != _NEVER,
        code=np.concatenate(codes),
        unit=np.concatenate(units),
        value=np.concatenate(values),
        available_us=time_us,
        source=source,
        encounter=subject,
        concept=np.concatenate(concepts),
        minute=np.where(minute == _NEVER, 0, minute),
    )


def _extras(stay: RecordedStay) -> list[_Extra]:
    found = [_Extra(None, f"{SEX}{stay.sex}", None, ""), _Extra(0, ADMISSION, None, "")]
    if stay.icu_type:
        found.append(_Extra(None, f"{UNIT}{stay.icu_type.replace(' ', '_')}", None, ""))
    outcome = stay.outcome
    if outcome is None:
        return found
    if outcome.saps_i is not None:
        found.append(_Extra(SCORED_MINUTE, SAPS_I, float(outcome.saps_i), "{score}"))
    if outcome.sofa is not None:
        found.append(_Extra(SCORED_MINUTE, SOFA, float(outcome.sofa), "{score}"))
    # The end is said in whole days; it cannot lie before what was charted.
    last = max(int(stay.minutes.max(initial=0)), SCORED_MINUTE)
    end = max(last, (outcome.length_of_stay_days or 0) * 1440)
    found.append(_Extra(end, DISCHARGE, None, ""))
    if outcome.died_in_hospital:
        found.append(_Extra(end, DEATH, None, ""))
    return found


def table_of(
    *,
    subject: NDArray[np.int64],
    time_us: NDArray[np.int64],
    is_timed: NDArray[np.bool_],
    code: NDArray[np.object_],
    unit: NDArray[np.object_],
    value: NDArray[np.float64],
    available_us: NDArray[np.int64],
    source: str | NDArray[np.object_],
    encounter: NDArray[np.int64],
    concept: NDArray[np.int64],
    minute: NDArray[np.int64],
) -> pa.Table:
    """Return columns of one length as an event table; an untimed row has no time, minute or availability.

    Args:
        subject: who.
        time_us: when it was so.
        is_timed: false for facts without a time.
        code: what.
        unit: UCUM.
        value: NaN where there is no number.
        available_us: when it could be known.
        source: where from.
        encounter: which stay.
        concept: Concept.number; 0 for what is no measurement.
        minute: since the stay's start.
    """
    without_value = np.isnan(value)
    length = len(subject)
    sources = pa.repeat(source, length) if isinstance(source, str) else pa.array(source, pa.string())
    columns: dict[str, Any] = {
        "subject_id": pa.array(subject),
        "time": pa.array(time_us, mask=~is_timed).cast(pa.timestamp("us")),
        "code": pa.array(code, pa.string()),
        "numeric_value": pa.array(np.where(without_value, 0, value).astype(np.float32), mask=without_value),
        "value": pa.array(value, mask=without_value),
        "unit": pa.array(unit, pa.string()),
        "available_at": pa.array(available_us, mask=~is_timed).cast(pa.timestamp("us")),
        "source": sources,
        "encounter_id": pa.array(encounter),
        "concept": pa.array(concept.astype(np.int16), mask=concept == 0),
        "minute": pa.array(minute.astype(np.int32), mask=~is_timed),
    }
    schema = event_schema()
    return pa.table([columns[name] for name in schema.names], schema=schema)
