"""A patient's present: whatever the batches, the same state and bytes; always what a brute-force reading of it says."""

from __future__ import annotations

import math

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from models.features import FeatureWindow
from stores.minutes import median, minute_concepts
from twin.forecast import CodeIdentity, Forecaster
from twin.state import MINUTE_US, OPEN_MINUTES, Entry, Patient, Signal, Unresolved
from validation import protocols
from vocabulary.concepts import by_key
from vocabulary.records import Observation, ObservationStatus, Observed, Place, RawId
from vocabulary.settings import Settings
from vocabulary.snapshot import SnapshotKey, canonical_bytes

START_MINUTE = 29_000_000
HEART_RATE, BREATHS, LACTATE = (by_key(key).number for key in ("heart_rate", "respiratory_rate", "lactate"))
FINAL, CORRECTED, WITHDRAWN = ObservationStatus.FINAL, ObservationStatus.CORRECTED, ObservationStatus.ENTERED_IN_ERROR
FEW = settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@st.composite
def logs(draw):
    """Messages about one patient: (log time, observations), log time never going back."""
    now_us = START_MINUTE * MINUTE_US
    told = []
    for _ in range(draw(st.integers(1, 14))):
        now_us += draw(st.sampled_from((0, 1, 7, 30, 60, 61, 150, 420))) * 1_000_000
        observations = []
        for index in range(draw(st.integers(1, 3))):
            late_s = draw(st.sampled_from((0, 0, 0, 10, 20, 60, 119, 300, 359, 900, -30)))
            # Few times and sources, so that corrections, duplicate times and withdrawals meet each other.
            at_us = (now_us // 10_000_000 * 10 - late_s) * 1_000_000
            status = draw(st.sampled_from((FINAL, FINAL, CORRECTED, WITHDRAWN)))
            value = math.nan if status is WITHDRAWN else float(draw(st.integers(40, 60)))
            concept = draw(st.sampled_from((HEART_RATE, BREATHS, LACTATE)))
            observations.append(Observation(concept, value, at_us, status, draw(st.integers(1, 3)), index))
        told.append((now_us, observations))
    return told


class Brute:
    """What was said, and every question answered by looking at all of it."""

    def __init__(self, told):
        self.rows = [
            (position, observation)
            for position, (_, observations) in enumerate(told, 1)
            for observation in observations
        ]

    def current(self, position, concept=None):
        """The counting revision of each measurement, as known at a log position."""
        winner = {}
        for known_from, observation in self.rows:  # in the order of the log, so the last one wins
            if known_from <= position and concept in {None, observation.concept}:
                key = (observation.concept, observation.effective_at_us, observation.source_key)
                winner[key] = (known_from, observation)
        return [row for row in winner.values() if row[1].status is not WITHDRAWN]

    def latest(self, position, concept, until_us):
        rows = [row for row in self.current(position, concept) if row[1].effective_at_us <= until_us]
        best = max(rows, key=lambda row: (row[1].effective_at_us, row[0], row[1].value_index), default=None)
        return best and (best[1].value, best[1].effective_at_us, best[0], best[1].value_index)

    def minute(self, position, concept, minute):
        rows = self.current(position, concept)
        return sorted(o.value for _, o in rows if o.effective_at_us // MINUTE_US == minute)


class Folder:
    """The engine's way with one patient, its read-backs answered by brute force instead of the stores."""

    def __init__(self, told, forecaster):
        self.told, self.brute, self.forecaster = told, Brute(told), forecaster
        self.patient = Patient(7, 1, Place("ICU", "", "1"))
        self.window = FeatureWindow(minute_concepts())
        self.medians = {}
        self.position = 0
        self.log_time_us = told[0][0]

    def fold(self, count, *, forgets):
        """Fold the next `count` messages in one cycle."""
        unresolved = Unresolved()
        batch = self.told[self.position : self.position + count]
        self.log_time_us = batch[-1][0]
        for received_at_us, observations in batch:
            self.position += 1
            event = Observed(RawId(self.position, 0), 7, "monitors", received_at_us, 0, observations)
            self.patient.observe(event, self.log_time_us, unresolved)
        for _, concept in unresolved.concepts:
            self._read_back(concept)
        for _, minute in unresolved.minutes:
            self._settle(minute, {n: self.brute.minute(self.position, n, minute) for n in minute_concepts()})
        for minute in self.patient.closed_minutes(self.log_time_us):
            signals = self.patient.signals
            self._settle(minute, {n: signals[n].values_of_minute(minute) for n in minute_concepts() if n in signals})
        if forgets:
            self.patient.forget(self.log_time_us)

    def _read_back(self, concept):
        cutoff_us = (self.log_time_us // MINUTE_US - OPEN_MINUTES) * MINUTE_US
        signal = self.patient.signals[concept]
        rows = self.brute.current(self.position, concept)
        kept = [row for row in rows if row[1].effective_at_us >= cutoff_us]
        older = [row for row in rows if row[1].effective_at_us < cutoff_us]
        if older:
            kept.append(max(older, key=lambda row: (row[1].effective_at_us, row[0], row[1].value_index)))
        signal.entries = sorted(entry(*row, self.told[row[0] - 1][0]) for row in kept)
        signal.floor_us = cutoff_us

    def _settle(self, minute, values):
        for concept in minute_concepts():
            listed = sorted(values.get(concept, []))
            self.medians[minute, concept] = listed
            self.window.put(7, concept, minute, median(listed) or math.nan, len(listed))

    def snapshot(self):
        """The bytes that would be published now."""
        key = SnapshotKey(0, self.position, 7)
        made = self.forecaster.snapshot(self.patient, self.window, key, self.log_time_us, is_admitted=True)
        return canonical_bytes(made)


def entry(position, observation, received_at_us):
    return Entry(
        observation.effective_at_us, position, 0, observation.value_index, observation.source_key, observation.value,
        "", int(observation.status), received_at_us, "", "monitors",
    )  # fmt: skip


@pytest.fixture(scope="module")
def forecaster():
    return Forecaster(Settings(_env_file=None), protocols.load_all(), CodeIdentity("test", "0"))


@given(told=logs(), data=st.data())
@FEW
def test_any_batching_gives_what_a_brute_force_reading_gives(forecaster, told, data):
    one_by_one, batched = Folder(told, forecaster), Folder(told, forecaster)
    while batched.position < len(told):
        count = data.draw(st.integers(1, len(told) - batched.position), label="batch")
        batched.fold(count, forgets=data.draw(st.booleans(), label="forgets"))
    for _ in told:
        one_by_one.fold(1, forgets=False)
    until_us = forecaster.until_us(batched.log_time_us)
    for folder in (one_by_one, batched):
        for concept in (HEART_RATE, BREATHS, LACTATE):
            signal = folder.patient.signals.get(concept, Signal())
            found = signal.latest(until_us)
            said = found and (found.value, found.effective_at_us, found.position, found.value_index)
            assert said == folder.brute.latest(len(told), concept, until_us)


@given(told=logs(), data=st.data())
@FEW
def test_closed_minutes_are_exactly_those_with_values(forecaster, told, data):
    folder = Folder(told, forecaster)
    while folder.position < len(told):
        count = data.draw(st.integers(1, len(told) - folder.position), label="batch")
        folder.fold(count, forgets=data.draw(st.booleans(), label="forgets"))
        closed = {
            (o.effective_at_us // MINUTE_US, o.concept)
            for position, o in folder.brute.rows
            if position <= folder.position and o.concept in minute_concepts()
            and o.effective_at_us // MINUTE_US < folder.log_time_us // MINUTE_US
        }  # fmt: skip
        for minute, concept in closed:
            assert folder.medians[minute, concept] == folder.brute.minute(folder.position, concept, minute)
        with_values = {key for key, values in folder.medians.items() if values}
        assert with_values <= closed


@given(told=logs(), data=st.data())
@FEW
def test_the_same_place_in_the_log_gives_the_same_bytes(forecaster, told, data):
    folders = [Folder(told, forecaster) for _ in range(2)]
    for folder in folders:
        while folder.position < len(told):
            count = data.draw(st.integers(1, len(told) - folder.position), label="batch")
            folder.fold(count, forgets=data.draw(st.booleans(), label="forgets"))
    assert folders[0].snapshot() == folders[1].snapshot()


@given(told=logs())
@FEW
def test_forgetting_never_changes_the_latest(forecaster, told):
    folder = Folder(told, forecaster)
    folder.fold(len(told), forgets=False)
    for later_s in (0, 60, 600, 86_400):
        log_time_us = folder.log_time_us + later_s * 1_000_000
        before = {n: signal.latest(log_time_us) for n, signal in folder.patient.signals.items()}
        folder.patient.forget(log_time_us)
        assert {n: signal.latest(log_time_us) for n, signal in folder.patient.signals.items()} == before


@given(told=logs())
@FEW
def test_what_is_forgotten_is_bounded(forecaster, told):
    folder = Folder(told, forecaster)
    folder.fold(len(told), forgets=True)
    cutoff_us = (folder.log_time_us // MINUTE_US - OPEN_MINUTES) * MINUTE_US
    for signal in folder.patient.signals.values():
        assert sum(1 for each in signal.entries if each.effective_at_us < cutoff_us) <= 1


def test_a_withdrawn_latest_whose_predecessor_was_forgotten_is_asked_for():
    patient = Patient(7, 1, Place())
    unresolved = Unresolved()
    old_us, new_us = START_MINUTE * MINUTE_US, (START_MINUTE + 1) * MINUTE_US
    say = [Observation(HEART_RATE, 60.0, old_us, FINAL, 1, 0), Observation(HEART_RATE, 70.0, new_us, FINAL, 1, 1)]
    patient.observe(Observed(RawId(1, 0), 7, "m", 0, 0, say), new_us, unresolved)
    later_us = new_us + 3600 * 1_000_000
    patient.forget(later_us)
    assert [each.value for each in patient.signals[HEART_RATE].entries] == [70.0]
    gone = [Observation(HEART_RATE, math.nan, new_us, WITHDRAWN, 1, 0)]
    patient.observe(Observed(RawId(2, 0), 7, "m", 0, 0, gone), later_us, unresolved)
    assert unresolved.concepts == {(7, HEART_RATE)}
