"""State read back from the stores: after a restart, for a replay, and where a fold could not answer from memory.

One definition serves all three, so what a restart finds is what a replay shows.

Here: entries and minute medians of a patient as known at a log position.
Not here: folding (twin.state), which patients to read (twin.engine, twin.replay).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from models.features import FeatureWindow
from stores import clinical, minutes, timeseries
from stores.database import Connection
from stores.samples import Sample
from twin.state import EVENT_MEMORY_US, MINUTE_US, OPEN_MINUTES, SIGNAL_MEMORY_US, Entry, Patient, Signal, entry_of
from vocabulary.records import Place


class Located(NamedTuple):
    """Who a record is and where it lies, as known at a log position."""

    record_ids: tuple[int, ...]  # whose data is this person's; a retired record has only its own
    encounter_id: int  # 0: no stay known
    place: Place
    is_admitted: bool  # in a stay of ours, and the surviving record
    started_at_us: int = 0  # of the stay


async def locate(connection: Connection, patient_id: int, known_at: int) -> Located:
    """Return who a record is and where it lies, as known at a log position."""
    ids = tuple(await clinical.merged_ids(connection, patient_id, known_at=known_at))
    if ids[0] != patient_id:
        ids = (patient_id,)
        is_survivor = False
    else:
        is_survivor = True
    stays = await clinical.encounters(connection, ids, known_at=known_at)
    if not stays:
        return Located(ids, 0, Place(), is_admitted=False)
    # The open stay in a bed, else any open one, else the latest: as the directory chooses (twin.directory).
    stay = max(stays, key=_presence)
    place = stay.places[-1].place if stay.places else Place()
    is_admitted = stay.status == "in-progress" and is_survivor
    return Located(ids, stay.encounter_id, place, is_admitted, stay.started_at_us)


def _presence(stay: clinical.KnownStay) -> tuple[bool, bool, int, int]:
    is_open = stay.status == "in-progress"
    is_bedded = is_open and bool(stay.places) and bool(stay.places[-1].place.label)
    return is_open, is_bedded, stay.started_at_us, stay.encounter_id


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
    latest = await _latest(connection, ids, None, until_us, known_at)
    found: dict[int, set[Entry]] = {}
    for sample in [*recent, *latest.values()]:
        found.setdefault(sample.concept, set()).add(entry_of(sample))
    patient.signals = {}
    current = log_time_us // MINUTE_US
    for number, entries in found.items():
        signal = patient.signals[number] = Signal(entries)
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
    latest = await _latest(connection, ids, [concept], until_us, known_at)
    signal = patient.signals.setdefault(concept, Signal())
    signal.entries = sorted({entry_of(sample) for sample in [*recent, *latest.values()]})
    signal.floor_us = cutoff_us


async def _latest(
    connection: Connection, ids: Sequence[int], concepts: Sequence[int] | None, until_us: int, known_at: int
) -> dict[int, Sample]:
    return await timeseries.latest(
        connection,
        ids,
        as_of_us=until_us,
        known_at=known_at,
        concepts=concepts,
        lookback_s=SIGNAL_MEMORY_US / 1e6,
        event_lookback_s=EVENT_MEMORY_US / 1e6,
    )


async def read_window(connection: Connection, window: FeatureWindow, patient: Patient, log_time_us: int) -> None:
    """Fill a patient's feature window from the minutes already settled: a restart."""
    window.clear(patient.patient_id)
    current = log_time_us // MINUTE_US
    from_us = (current - WINDOW_MINUTES) * MINUTE_US
    rows = await minutes.minutes(connection, patient.record_ids, from_us, current * MINUTE_US)
    _fill(window, patient.patient_id, rows)


async def compute_window(
    connection: Connection, window: FeatureWindow, patient: Patient, log_time_us: int, known_at: int
) -> None:
    """Fill the part of the feature window that trends need from raw values as known then: a replay."""
    current = log_time_us // MINUTE_US
    from_us = (current - TREND_MINUTES) * MINUTE_US
    rows = await minutes.compute_minutes(
        connection, patient.record_ids, from_us, current * MINUTE_US, known_at=known_at
    )
    _fill(window, patient.patient_id, rows)


def _fill(window: FeatureWindow, patient_id: int, rows: Sequence[minutes.Minute]) -> None:
    for row in rows:
        for number, value, count in zip(minutes.minute_concepts(), row.medians, row.n, strict=True):
            if value is not None:
                window.put(patient_id, number, row.minute_us // MINUTE_US, value, count)
