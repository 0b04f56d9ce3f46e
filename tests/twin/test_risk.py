"""Bins of a stay, and forecasts of many patients in one call: exactly those of each alone."""

from __future__ import annotations

import math
import statistics

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from governance.serving import Standing
from stores.model_files import ModelFiles
from stores.samples import Columns
from twin import risk, stay_state
from twin.serving import load_model
from twin.state import MINUTE_US, Patient
from twin.voice import Voice, Voices
from validation import model_protocol
from vocabulary.concepts import by_key
from vocabulary.errors import BrokenInvariantError
from vocabulary.records import Place

ADMITTED_US = 29_000_000 * MINUTE_US + 17_000_000
HEART_RATE, LACTATE = (by_key(key).number for key in ("heart_rate", "lactate"))


def columns_of(rows):
    blank = np.zeros(len(rows), np.int64)
    text = np.full(len(rows), "", object)
    concept, at_us, value = (np.array([row[i] for row in rows]) for i in range(3)) if rows else (blank, blank, blank)
    return Columns(
        blank, concept.astype(np.int64), value.astype(float), text, at_us.astype(np.int64), blank, blank, blank, text,
        text, blank, blank, blank, blank,
    )  # fmt: skip


values = st.lists(
    st.tuples(
        st.sampled_from((HEART_RATE, LACTATE)),
        st.integers(0, 240).map(lambda seconds: ADMITTED_US + seconds * 1_000_000),
        st.one_of(st.floats(0.1, 200), st.just(math.nan)),
    ),
    max_size=40,
)


@given(values)
def test_bins_are_the_medians_of_each_minutes_numbers(rows):
    expected = {}
    for concept, at_us, value in rows:
        if not math.isnan(value):
            expected.setdefault((concept, at_us // MINUTE_US), []).append(value)
    found = stay_state.bins_of(columns_of(rows))
    assert list(zip(found.concept.tolist(), found.minute.tolist(), strict=True)) == sorted(expected)
    for concept, minute, median, n in zip(*found, strict=True):
        listed = expected[concept, minute]
        assert (median, n) == (statistics.median(listed), len(listed))


@given(st.dictionaries(st.integers(0, 3000), st.floats(-1e6, 1e6, width=32), max_size=60))
def test_a_series_filled_at_once_is_one_put_bin_by_bin(bins):
    one_by_one, at_once = stay_state.StaySeries(), stay_state.StaySeries()
    for minute, median in bins.items():
        one_by_one.put(LACTATE, minute, median)
    ordered = sorted(bins)
    at_once.fill(LACTATE, np.array(ordered, np.int32), np.array([bins[m] for m in ordered], np.float32))
    assert at_once.bins(LACTATE) == one_by_one.bins(LACTATE)
    with pytest.raises(BrokenInvariantError):
        at_once.fill(HEART_RATE, np.array([2, 1], np.int32), np.array([1, 1], np.float32))


@pytest.mark.parametrize(
    ("since_us", "minute"), [(0, -1), (42_999_999, -1), (43_000_000, 0), (3_642_999_999, 59), (3_643_000_000, 60)]
)
def test_a_forecast_is_of_the_last_minute_that_is_over(since_us, minute):
    assert stay_state.through_minute(ADMITTED_US + since_us, ADMITTED_US) == minute


def test_minutes_outside_of_the_stay_are_not_kept():
    patient = Patient(1, 1, Place(), started_at_us=ADMITTED_US)
    patient.series = stay_state.StaySeries()
    first = ADMITTED_US // MINUTE_US
    for minute in (first - 1, first + stay_state.KEPT_MINUTES):
        stay_state.put(patient, HEART_RATE, minute, 70.0, 1)
    assert len(patient.series) == 0
    stay_state.put(patient, HEART_RATE, first, 70.0, 1)
    stay_state.put(patient, HEART_RATE, first + stay_state.KEPT_MINUTES - 1, 71.0, 1)
    assert patient.series.bins(HEART_RATE) == [(0, 70.0), (stay_state.KEPT_MINUTES - 1, 71.0)]
    stay_state.put(patient, HEART_RATE, first, None, 0)
    assert len(patient.series) == 1


@pytest.fixture(scope="module")
def model(small_model, tmp_path_factory):
    files = ModelFiles(tmp_path_factory.mktemp("models"))
    return load_model(files, small_model.train(3).keep(files))


def voice_with(model, standing=Standing.SPEAKING):
    return Voice(
        scope="mortality", standing=standing, serving_id=1, approved_id=1, version=1, model_digest=model.digest,
        model=model,
    )  # fmt: skip


def patients_of(small_model, count, seed=0):
    rng = np.random.default_rng(seed)
    made = []
    for number in range(1, count + 1):
        patient = Patient(number, 100 + number, Place("ICU"), started_at_us=ADMITTED_US)
        patient.series = small_model.random_stay(rng, float(rng.normal()))
        made.append(patient)
    return made


class Fixed:
    """One voice, and what it was told."""

    def __init__(self, voice):
        self.voices, self.failures = Voices(voice), []

    def note_failure(self, voice, error):
        self.failures.append((voice, error))


def ask(desk, serving, patients, log_time_us):
    return desk.forecast(serving, patients, lambda _: log_time_us, dict.fromkeys(range(64), 9))


@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_an_estimate_does_not_depend_on_who_else_is_asked_or_when(data, small_model, model):
    estimator = risk.Estimator(model_protocol.load())
    patients = patients_of(small_model, 6)
    minutes = data.draw(st.lists(st.integers(-3, 3000), min_size=6, max_size=6))
    voice = voice_with(model)
    alone = [
        estimator.forecasts(voice, [patient], [minute], with_reasons=True)[0]
        for patient, minute in zip(patients, minutes, strict=True)
    ]
    chosen = data.draw(st.permutations(range(6)))[: data.draw(st.integers(1, 6))]
    together = estimator.forecasts(
        voice, [patients[i] for i in chosen], [minutes[i] for i in chosen], with_reasons=True
    )
    assert together == [alone[i] for i in chosen]


def test_nobody_is_asked_again_before_something_changes(small_model, model):
    desk, serving = risk.RiskDesk(risk.Estimator(model_protocol.load())), Fixed(voice_with(model))
    patients = patients_of(small_model, 4)
    at_us = ADMITTED_US + 400 * MINUTE_US
    first = ask(desk, serving, patients, at_us)
    assert desk.scored == 4
    assert len(first.rows) == 4
    again = ask(desk, serving, patients, at_us + 20_000_000)
    assert (desk.scored, list(again.rows)) == (4, [])
    assert again.forecasts == first.forecasts
    patients[0].series.put(LACTATE, 399, 14.0)
    ask(desk, serving, patients, at_us + 20_000_000)
    assert desk.scored == 5
    ask(desk, serving, patients, at_us + 60_000_000)
    assert desk.scored == 9
    serving.voices = Voices(voice_with(model))
    ask(desk, serving, patients, at_us + 60_000_000)
    assert desk.scored == 13


def test_what_fails_is_said_of_everybody_in_the_cycle(small_model, model, monkeypatch):
    desk, serving = risk.RiskDesk(risk.Estimator(model_protocol.load())), Fixed(voice_with(model))
    patients = patients_of(small_model, 3)
    at_us = ADMITTED_US + 400 * MINUTE_US
    ask(desk, serving, patients[:2], at_us)

    def fails(*_, **__):
        raise RuntimeError("no")

    monkeypatch.setattr(model, "score", fails)
    said = ask(desk, serving, patients, at_us)  # only the third is due, and yet nobody may be told otherwise
    assert {f.abstention for f in said.forecasts.values()} == {"model_failed"}
    assert said.voices.champion.token.endswith("failed")
    assert [type(error) for _, error in serving.failures] == [RuntimeError]


def test_the_forecast_says_what_the_protocol_says(small_model, model):
    estimator = risk.Estimator(model_protocol.load())
    patients = patients_of(small_model, 20)
    for clamped in (False, True):
        voice = voice_with(model, Standing.CLAMPED if clamped else Standing.SPEAKING)
        said = estimator.forecasts(voice, patients, [420] * 20, with_reasons=True)
        assert any(f.probability >= 0.3 for f in said)
        for each in said:
            assert each.low <= each.probability <= each.high
            assert each.is_high == (each.probability >= 0.3 and not clamped)
            assert (each.threshold, each.level, each.hours_since_admission) == (0.3, 0.8, 7.0)
            assert each.statement.endswith("7 h 0 min after admission.")
            assert each.reasons
            assert each.is_synthetic
