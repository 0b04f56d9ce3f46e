"""The clinical verdict: numbers of the primary hour, whole intervals against bounds, burden, no silent zero."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

from validation import alert_burden, bootstrap, clinical, intervals, metrics, model_protocol
from vocabulary.verdict import Kind, Outcome, canonical_bytes, from_bytes

SHIPPED = model_protocol.load()
PROTOCOL = msgspec.structs.replace(
    SHIPPED, held_out=msgspec.structs.replace(SHIPPED.held_out, bootstrap_repetitions=200)
)
"""Fewer repetitions: what is tested here does not depend on how many."""
HOURS = PROTOCOL.timing.judged_hours


def rows(stays, seed=0, strength=1.9, centre=-2.6):
    """Stays whose risk is known better hour by hour; at hour 48 it is true."""
    generator = np.random.default_rng(seed)
    odds = generator.normal(centre, strength, stays)
    died = (generator.random(stays) < 1 / (1 + np.exp(-odds))).astype(int)
    noise = generator.normal(size=(stays, len(HOURS))) * np.linspace(1.5, 0, len(HOURS))
    said = 1 / (1 + np.exp(-(odds[:, None] + noise)))
    stay, hour = np.repeat(np.arange(stays), len(HOURS)), np.tile(HOURS, stays)
    return stay, hour, np.repeat(died, len(HOURS)), said.ravel()


def burden(stays, died, alerts=1.0):
    count = np.where(died == 1, alerts, 0.0)
    return alert_burden.Alerts(count, np.full(stays, 2.0), died == 1)


def judged(stays, **changes):
    stay, hour, label, said = rows(stays, **changes)
    died = label[hour == 48]
    return clinical.judge(PROTOCOL, stay, hour, label, said, alerts=burden(stays, died)), stay, hour, label, said


def found(verdict, name, group=""):
    (one,) = [row for row in verdict.measures if row.name == name and row.group == group]
    return one


def test_a_good_model_on_enough_stays_passes_with_the_libraries_numbers():
    verdict, _, hour, label, said = judged(3000)
    assert verdict.kind is Kind.CLINICAL
    assert verdict.outcome is Outcome.PASS, verdict.statement
    at_48 = hour == 48
    assert found(verdict, "auroc").value == pytest.approx(roc_auc_score(label[at_48], said[at_48]), abs=1e-9)
    assert found(verdict, "auprc").value == pytest.approx(average_precision_score(label[at_48], said[at_48]), abs=1e-9)
    assert found(verdict, "auroc_at_hour", "hour=6").value == pytest.approx(
        roc_auc_score(label[hour == 6], said[hour == 6]), abs=1e-9
    )
    assert verdict.protocol_digest == PROTOCOL.digest
    assert from_bytes(canonical_bytes(verdict)) == verdict
    names = {series.name for series in verdict.series}
    assert {"calibration", "decision_model", "decision_all", "decision_none", "roc", "auroc_by_hour"} <= names


def test_the_same_stays_and_seed_give_the_same_bytes():
    assert canonical_bytes(judged(500)[0]) == canonical_bytes(judged(500)[0])


def test_few_deaths_are_inconclusive_and_never_a_pass():
    verdict = judged(300)[0]
    assert found(verdict, "held_out_events").outcome is Outcome.INCONCLUSIVE
    assert verdict.outcome is Outcome.INCONCLUSIVE
    assert "not proven" in verdict.statement


def test_a_coin_fails_on_discrimination():
    stay, hour, label, said = rows(3000)
    shuffled = np.random.default_rng(1).permutation(said)
    verdict = clinical.judge(PROTOCOL, stay, hour, label, shuffled, alerts=burden(3000, label[hour == 48]))
    assert verdict.outcome is Outcome.FAIL
    assert found(verdict, "auroc").outcome is Outcome.FAIL
    assert "broken" in verdict.statement


def test_risks_twice_too_high_in_log_odds_fail_on_calibration_though_they_rank_as_well():
    stay, hour, label, said = rows(3000)
    extreme = 1 / (1 + np.exp(-(2.2 * np.log(said / (1 - said)) + 2.5)))
    verdict = clinical.judge(PROTOCOL, stay, hour, label, extreme, alerts=burden(3000, label[hour == 48]))
    assert found(verdict, "calibration_slope").outcome is Outcome.FAIL
    assert found(verdict, "calibration_intercept").outcome is Outcome.FAIL
    assert found(verdict, "auroc").outcome is Outcome.PASS


def test_abstentions_are_left_out_of_metrics_and_counted():
    stay, hour, label, said = rows(2000)
    silent = (np.arange(len(said)) // len(HOURS)) % 2 == 0
    verdict = clinical.judge(PROTOCOL, stay, hour, label, np.where(silent, np.nan, said))
    assert found(verdict, "abstention_rate").value == pytest.approx(0.5)
    assert found(verdict, "abstention_rate").outcome is Outcome.FAIL
    assert found(verdict, "auroc").count == 1000


def test_without_a_table_of_alerts_the_burden_is_inconclusive():
    stay, hour, label, said = rows(2000)
    verdict = clinical.judge(PROTOCOL, stay, hour, label, said)
    assert found(verdict, "alerts_per_patient_day").outcome is Outcome.INCONCLUSIVE
    assert found(verdict, "alerts_per_patient_day").value is None


def test_too_many_alerts_fail():
    stay, hour, label, said = rows(2000)
    died = label[hour == 48]
    many = alert_burden.Alerts(np.full(2000, 9.0), np.full(2000, 2.0), died == 1)
    verdict = clinical.judge(PROTOCOL, stay, hour, label, said, alerts=many)
    assert found(verdict, "alerts_per_patient_day").value == pytest.approx(4.5)
    assert found(verdict, "alerts_per_patient_day").outcome is Outcome.FAIL
    assert found(verdict, "alerts_per_caught_event").outcome is Outcome.FAIL


def test_the_burdens_table_counts_alerts_and_time_by_stay():
    table = alert_burden.table(
        [7, 7, 3, 3, 3], [True, True, False, True, False], [3, 5, 7], [1, 0, 0], minutes_between_rows=60
    )
    assert table.alerts.tolist() == [1.0, 0.0, 2.0]
    assert table.watched_days.tolist() == [3 / 24, 0.0, 2 / 24]
    found_ = {row.name: row for row in alert_burden.measures(PROTOCOL, table)}
    assert found_["alerts_per_patient_day"].value == pytest.approx(3 / (5 / 24))
    assert found_["alerts_per_caught_event"].value == pytest.approx(3.0)
    with pytest.raises(ValueError, match="listed stay"):
        alert_burden.table([9], [True], [3, 5], [1, 0], minutes_between_rows=60)
    with pytest.raises(ValueError, match="once"):
        alert_burden.table([3], [True], [3, 3], [1, 0], minutes_between_rows=60)


def test_no_stays_and_no_deaths_say_none_everywhere():
    empty = clinical.judge(PROTOCOL, [], [], [], [])
    assert empty.outcome is Outcome.INCONCLUSIVE
    assert found(empty, "auroc").value is None
    stay = np.arange(50)
    nobody = clinical.judge(PROTOCOL, stay, np.full(50, 48), np.zeros(50, int), np.full(50, 0.1))
    assert found(nobody, "auroc").value is None
    assert found(nobody, "auroc").note
    assert found(nobody, "sensitivity").value is None
    assert found(nobody, "specificity").value == 1.0
    assert all(row.value is None or np.isfinite(row.value) for row in nobody.measures)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"stay": [1, 1], "hour": [48, 48]}, "once"),
        ({"stay": [1, 1], "hour": [24, 48], "label": [0, 1]}, "one outcome a stay"),
        ({"said": [0.1, 1.5]}, "between 0 and 1"),
        ({"label": [0, 3]}, "labels 0 or 1"),
        ({"said": [0.1]}, "one shape"),
    ],
)
def test_rows_that_are_no_table_of_stays_are_refused(change, expected):
    table = {"stay": [1, 2], "hour": [48, 48], "label": [0, 1], "said": [0.1, 0.2]} | change
    with pytest.raises(ValueError, match=expected):
        clinical.judge(PROTOCOL, table["stay"], table["hour"], table["label"], table["said"])


def test_a_bootstrap_interval_covers_the_truth_about_as_often_as_it_says():
    # AUROC of two normal samples a standard deviation apart is Phi(1/sqrt(2)).
    truth, level, covered = 0.7602499389065233, 0.9, 0
    for seed in range(150):
        generator = np.random.default_rng(seed)
        outcome = generator.random(150) < 0.3
        score = generator.normal(size=150) + outcome
        interval = bootstrap.percentile_intervals(
            150,
            {"auroc": lambda weights, y=outcome, s=score: metrics.auroc_weighted(y, s, weights)},
            repetitions=200,
            seed=seed,
            level=level,
        )["auroc"]
        covered += interval[0] <= truth <= interval[1]
    low, high = intervals.wilson(covered, 150, 0.999)
    assert low <= level <= high or covered / 150 > level


def test_a_protocol_without_a_bound_only_shows():
    bare = msgspec.structs.replace(PROTOCOL, bound=tuple(b for b in PROTOCOL.bound if b.metric != "auroc"))
    stay, hour, label, said = rows(400)
    verdict = clinical.judge(bare, stay, hour, label, np.random.default_rng(1).permutation(said))
    assert found(verdict, "auroc").outcome is Outcome.PASS
    assert found(verdict, "auroc").at_least is None
