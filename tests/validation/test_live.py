"""The live judgement: each breach by its cause, no alarm from chance, a changed unit recognised by its factor."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from validation import model_protocol, unit_faults
from validation.live import Cause, LiveTable, Reference, causes, judge_live
from vocabulary.verdict import Kind, Outcome, canonical_bytes, from_bytes

PROTOCOL = model_protocol.load()
LEVELS = (0.005, 0.01, 0.025, *(round(0.05 * step, 2) for step in range(1, 20)), 0.975, 0.99, 0.995)
GLUCOSE_MG_PER_MMOL = 18.0156
CREATININE_UMOL_PER_MG = 88.4


def reference(sample):
    return Reference(LEVELS, tuple(np.quantile(sample, LEVELS).tolist()))


def values(key, patients, seed=0):
    generator = np.random.default_rng(seed)
    return {
        "glucose": lambda: generator.lognormal(np.log(130), 0.3, patients),
        "creatinine": lambda: generator.lognormal(np.log(1.1), 0.5, patients),
        "body_temperature": lambda: generator.normal(37, 0.7, patients),
        "heart_rate": lambda: generator.normal(87, 16, patients),
        "glasgow_coma_score": lambda: generator.choice([3.0, 8.0, 15.0], patients, p=[0.2, 0.2, 0.6]),
    }[key]()


REFERENCES = {
    key: reference(values(key, 5000, seed=9))
    for key in ("glucose", "creatinine", "body_temperature", "heart_rate", "glasgow_coma_score")
}


def table(**changes):
    """Sixty ended stays, calibrated; a quiet day; inputs as in training."""
    generator = np.random.default_rng(2)
    said = generator.beta(1, 6, 60)
    table_ = LiveTable(
        probability=said,
        died=generator.random(60) < said,
        sex=["female", "male"] * 30,
        age_years=generator.uniform(20, 90, 60),
        alerts=8,
        patient_days=20.0,
        patients=30,
        inputs={key: values(key, 25) for key in REFERENCES},
        references=REFERENCES,
    )
    return msgspec.structs.replace(table_, **changes)


def named(verdict, name, group=""):
    (one,) = [row for row in verdict.measures if row.name == name and row.group == group]
    return one


def test_a_quiet_ward_contradicts_nothing():
    verdict = judge_live(PROTOCOL, table(), model_digest="a" * 64)
    assert verdict.kind is Kind.LIVE
    assert causes(verdict) == ()
    assert verdict.outcome is not Outcome.FAIL
    assert from_bytes(canonical_bytes(verdict)) == verdict


def test_a_model_that_has_just_begun_is_not_blamed_for_having_no_evidence():
    nothing = LiveTable(probability=np.empty(0), died=np.empty(0, bool))
    verdict = judge_live(PROTOCOL, nothing)
    assert verdict.outcome is Outcome.PASS
    assert all(row.value is None or np.isfinite(row.value) for row in verdict.measures)


def test_many_more_deaths_than_said_are_a_calibration_breach():
    died = np.arange(60) % 2 == 0
    verdict = judge_live(PROTOCOL, table(died=died, probability=np.full(60, 0.1)))
    assert causes(verdict)[0] is Cause.CALIBRATION_BREACH
    whole = named(verdict, "observed_to_expected")
    assert whole.value == pytest.approx(30 / 6)
    assert "30 deaths, 6.0 expected" in verdict.statement


def test_far_fewer_deaths_than_said_are_one_too():
    verdict = judge_live(PROTOCOL, table(died=np.zeros(60, bool), probability=np.full(60, 0.5)))
    assert Cause.CALIBRATION_BREACH in causes(verdict)


def test_deaths_of_one_sex_only_are_a_subgroup_breach():
    stays = 400
    women = np.arange(stays) % 4 == 0
    died = np.where(women, np.arange(stays) % 8 == 0, np.arange(stays) % 20 == 1)
    verdict = judge_live(
        PROTOCOL,
        table(
            probability=np.full(stays, 0.12),
            died=died,
            sex=["female" if woman else "male" for woman in women],
            age_years=None,
        ),
    )
    assert causes(verdict) == (Cause.SUBGROUP_BREACH,)
    assert "sex=female" in verdict.statement
    assert named(verdict, "observed_to_expected").outcome is not Outcome.FAIL


def test_groups_too_small_are_not_shown():
    verdict = judge_live(PROTOCOL, table(sex=["female"] * 5 + ["male"] * 55))
    assert not [row for row in verdict.measures if row.group == "sex=female"]
    assert [row for row in verdict.measures if row.group == "sex=male"]


def test_a_flood_of_alerts_is_one_and_a_models_first_minute_is_not():
    assert causes(judge_live(PROTOCOL, table(alerts=90, patient_days=10.0, patients=12))) == (Cause.ALERT_FLOOD,)
    first_minute = table(alerts=12, patient_days=0.02, patients=30)
    assert causes(judge_live(PROTOCOL, first_minute)) == ()


def test_few_alerts_are_never_a_flood():
    assert causes(judge_live(PROTOCOL, table(alerts=9, patient_days=0.001, patients=1))) == ()


@pytest.mark.parametrize(
    ("key", "factor", "offset", "words"),
    [
        ("glucose", 1 / GLUCOSE_MG_PER_MMOL, 0.0, "mmol/L sent under the name of mg/dL"),
        ("glucose", GLUCOSE_MG_PER_MMOL, 0.0, "mg/dL sent under the name of mmol/L"),
        ("creatinine", CREATININE_UMOL_PER_MG, 0.0, "umol/L sent under the name of mg/dL"),
        ("creatinine", 1 / CREATININE_UMOL_PER_MG, 0.0, "mg/dL sent under the name of umol/L"),
        ("body_temperature", 1.8, 32.0, "[degF] sent under the name of Cel"),
    ],
)
@pytest.mark.parametrize("patients", [8, 25, 200])
def test_a_changed_unit_is_recognised_by_its_factor(key, factor, offset, words, patients):
    changed = values(key, patients) * factor + offset
    verdict = judge_live(PROTOCOL, table(inputs={key: changed}))
    assert causes(verdict)[0] is Cause.INTERFACE_FAULT
    assert named(verdict, "input_share_outside", key).outcome is Outcome.FAIL
    assert words in verdict.statement
    guess = unit_faults.likely(key, changed, np.asarray(LEVELS), np.asarray(REFERENCES[key].values), 0.35)
    assert guess.factor == pytest.approx(factor, rel=0.003)
    assert guess.offset == pytest.approx(offset)


def test_one_laboratory_of_two_in_another_unit_is_found():
    good, changed = values("glucose", 30), values("glucose", 30, seed=4) / GLUCOSE_MG_PER_MMOL
    verdict = judge_live(PROTOCOL, table(inputs={"glucose": np.concatenate([good, changed])}))
    assert causes(verdict) == (Cause.INTERFACE_FAULT,)
    assert "mmol/L sent under the name of mg/dL" in verdict.statement


def test_a_broken_input_comes_before_what_it_explains():
    verdict = judge_live(
        PROTOCOL,
        table(
            inputs={"glucose": values("glucose", 30) / GLUCOSE_MG_PER_MMOL},
            died=np.ones(60, bool),
            alerts=200,
            patient_days=2.0,
        ),
    )
    assert causes(verdict)[0] is Cause.INTERFACE_FAULT
    assert set(causes(verdict)) >= {Cause.CALIBRATION_BREACH, Cause.ALERT_FLOOD}


def test_values_refused_as_implausible_are_a_broken_input_too():
    verdict = judge_live(PROTOCOL, table(refused={"body_temperature": (40, 50), "shoe_size": (9, 9)}))
    assert causes(verdict) == (Cause.INTERFACE_FAULT,)
    assert not [row for row in verdict.measures if row.group == "shoe_size"]
    assert causes(judge_live(PROTOCOL, table(refused={"body_temperature": (2, 50)}))) == ()


def test_patients_like_those_of_training_are_no_fault_however_often_one_looks():
    alarms = 0
    for seed in range(200):
        inputs = {key: values(key, 8 + seed % 30, seed=seed) for key in REFERENCES}
        alarms += Cause.INTERFACE_FAULT in causes(judge_live(PROTOCOL, table(inputs=inputs)))
    assert alarms == 0


def test_a_ward_of_sicker_patients_is_no_fault():
    inputs = {"heart_rate": values("heart_rate", 12) + 14, "creatinine": values("creatinine", 12) * 1.6}
    assert causes(judge_live(PROTOCOL, table(inputs=inputs))) == ()


def test_few_patients_prove_nothing():
    inputs = {"glucose": values("glucose", 4) / GLUCOSE_MG_PER_MMOL}
    assert causes(judge_live(PROTOCOL, table(inputs=inputs))) == ()


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(-50, 50), min_size=1, max_size=60))
def test_the_distance_never_exceeds_the_true_one(sample):
    drawn = np.asarray(sample)
    training = np.random.default_rng(0).normal(0, 10, 4000)
    quantiles = np.quantile(training, LEVELS)
    at = np.sort(np.concatenate([drawn, training]))
    true = np.max(
        np.abs(
            np.searchsorted(np.sort(drawn), at, side="right") / len(drawn)
            - np.searchsorted(np.sort(training), at, side="right") / len(training)
        )
    )
    found = unit_faults.distance(drawn, np.asarray(LEVELS), quantiles)
    assert 0 <= found <= true + 1 / 4000 + 1e-9


def test_a_discrete_scale_as_in_training_has_no_distance():
    levels, quantiles = np.asarray(LEVELS), np.asarray(REFERENCES["glasgow_coma_score"].values)
    assert unit_faults.distance(values("glasgow_coma_score", 5000), levels, quantiles) < 0.02


def test_arrays_of_different_lengths_are_refused():
    with pytest.raises(ValueError, match="a stay"):
        judge_live(PROTOCOL, table(died=np.zeros(59, bool)))
    with pytest.raises(ValueError, match="one age"):
        judge_live(PROTOCOL, table(age_years=np.zeros(59)))


def test_the_live_watch_needs_no_heavy_library():
    import subprocess
    import sys

    code = (
        "import sys, validation.live, validation.clinical, validation.model_protocol\n"
        "heavy = {'scipy', 'sklearn', 'pandas', 'evidently', 'fairlearn', 'great_expectations', 'mlflow', 'dagster'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert said.strip() == "[]"
