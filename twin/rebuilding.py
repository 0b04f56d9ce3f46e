"""State read back from the stores: after a restart, for a replay, and where a fold could not answer from memory.

One definition serves all three, so what a restart finds is what a replay shows.

Here: entries and minute medians of a patient as known at a log position.
Not here: folding (twin.state), which patients to read (twin.engine, twin.replay).
"""

from __future__ import annotations

import math
from typing import NamedTuple

from models.features import FeatureWindow, median
from stores import clinical, minutes, timeseries
from stores.database import Connection
from twin.state import MINUTE_US, OPEN_MINUTES, Patient, Signal, entry_of
from vocabulary.records import Place

class Located(NamedTuple):
    """Who a record is and where it lies, as known at a log position."""

    record_ids: tuple[int, ...]  # whose data is this person's; a retired record has only its own
    encounter_id: int  # 0: no stay known
    place: Place
    is_admitted: bool  # in a stay of ours, and the surviving record


async def locate(connection: Connection, patient_id: int, known_at: int) -> Located:
    """Return who a record is and where it lies, as known at a log position."""
    ids = tuple(await clinical.merged_ids(connection, patient_id, known_at=known_at))
    if ids[0] != patient_id:
        ids = (patient_id,)
        is_survivor = False
    else:
        is_survivor = True
    stays = await clinical.encounters(connection, ids, known_at=known_at)
    open_stays = [stay for stay in stays if stay.status == "in-progress"]
    if not stays:
        return Located(ids, 0, Place(), False)
    stay = (open_stays or stays)[-1]
    place = stay.places[-1].place if stay.places else Place()
    return Located(ids, stay.encounter_id, place, bool(open_stays) and is_survivor)


TREND_MINUTES = 61
"""How far back the minute medians of a trend reach, with one to spare."""
WINDOW_MINUTES = 24 * 60


async def read_signals(
    connection: Connection, patient: Patient, *, until_us: int, log_time_us: int, known_at: int
) -> None:
    """Replace a patient's signals by what was known at a log position."""
    cutoff_us = (log_time_us // MINUTE_US - OPEN_MINUTES) * MINUTE_US
    ids = patient.record_ids
    recent = await timeseries.range_(connection, ids, None, cutoff_us, until_us + MINUTE_US, known_at=known_at)
    latest = await timeseries.latest(connection, ids, as_of_us=until_us, known_at=known_at)
    found: dict[int, set[object]] = {}
    for sample in [*recent, *latest.values()]:
        found.setdefault(sample.concept, set()).add(entry_of(sample))
    patient.signals = {}
    current = log_time_us // MINUTE_US
    for number, entries in found.items():
        signal = patient.signals[number] = Signal(entries)  # type: ignore[arg-type]
        signal.floor_us = cutoff_us
        signal.touched = {
            minute for entry in signal.entries if (minute := entry.effective_at_us // MINUTE_US) >= current
        }


async def read_latest(
    connection: Connection, patient: Patient, concept: int, *, until_us: int, log_time_us: int, known_at: int
) -> None:
    """Replace one concept's entries: its latest value was withdrawn and what came before it was forgotten."""
    cutoff_us = (log_time_us // MINUTE_US - OPEN_MINUTES) * MINUTE_US
    ids = patient.record_ids
    recent = await timeseries.range_(connection, ids, [concept], cutoff_us, until_us + MINUTE_US, known_at=known_at)
    latest = await timeseries.latest(connection, ids, as_of_us=until_us, known_at=known_at, concepts=[concept])
    signal = patient.signals.setdefault(concept, Signal())
    signal.entries = sorted({entry_of(sample) for sample in [*recent, *latest.values()]})
    signal.floor_us = cutoff_us


async def read_minute(
    connection: Connection, patient: Patient, concept: int, minute: int, *, known_at: int
) -> list[float]:
    """Return the numbers behind one closed minute, as known at a log position."""
    samples = await timeseries.range_(
        connection, patient.record_ids, [concept], minute * MINUTE_US, (minute + 1) * MINUTE_US, known_at=known_at
    )
    return [sample.value for sample in samples if not math.isnan(sample.value)]


async def read_window(connection: Connection, window: FeatureWindow, patient: Patient, log_time_us: int) -> None:
    """Fill a patient's feature window from the minutes already settled: a restart."""
    window.clear(patient.patient_id)
    current = log_time_us // MINUTE_US
    from_us = (current - WINDOW_MINUTES) * MINUTE_US
    for row in await minutes.minutes(connection, patient.record_ids, from_us, current * MINUTE_US):
        for number, value, count in row.values():
            window.put(patient.patient_id, number, row.minute_us // MINUTE_US, value, count)


async def compute_window(
    connection: Connection, window: FeatureWindow, patient: Patient, log_time_us: int, known_at: int
) -> None:
    """Fill the part of the feature window that trends need from raw values as known then: a replay."""
    current = log_time_us // MINUTE_US
    from_us = (current - TREND_MINUTES) * MINUTE_US
    samples = await timeseries.range_(
        connection, patient.record_ids, minutes.COLUMN_CONCEPTS, from_us, current * MINUTE_US, known_at=known_at
    )
    bins: dict[tuple[int, int], list[float]] = {}
    for sample in samples:
        if not math.isnan(sample.value):
            bins.setdefault((sample.concept, sample.effective_at_us // MINUTE_US), []).append(sample.value)
    for (concept, minute), values in bins.items():
        window.put(patient.patient_id, concept, minute, median(values), len(values))
