"""Drift: Evidently's values to 1e-9 by each named method, planted and absent drift, degenerate columns."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from validation import drift, model_protocol, shift
from vocabulary.errors import BrokenInvariantError
from vocabulary.verdict import Outcome, canonical_bytes, from_bytes

PROTOCOL = model_protocol.load()
METHODS = ("psi", "jensenshannon", "wasserstein", "ks")


def tables(before=1000, after=600, columns=30, seed=0):
    generator = np.random.default_rng(seed)
    both = generator.normal(size=(before + after, columns))
    both[:, :5] = generator.integers(3, 15, (before + after, 5))
    both[generator.random(both.shape) < 0.2] = np.nan
    return both[:before], both[before:], [f"f{place}" for place in range(columns)]


def found(verdict, name, group=""):
    return [row for row in verdict.measures if row.name == name and row.group == group]


@pytest.mark.parametrize("method", METHODS)
def test_values_equal_evidentlys(method):
    generator = np.random.default_rng(1)
    samples = [
        (generator.normal(size=400), generator.normal(0.3, 1.2, 250)),
        (generator.integers(3, 15, 300).astype(float), generator.integers(4, 16, 100).astype(float)),
        (np.full(50, 7.0), np.full(40, 7.0)),
        (np.full(50, 7.0), generator.normal(7, 0.1, 60)),
        (np.where(generator.random(300) < 0.3, np.nan, generator.normal(size=300)), generator.normal(size=80)),
    ]
    theirs = drift.evidently_distances([("x", method, before, after) for before, after in samples])
    ours = [shift.distance(method, before, after) for before, after in samples]
    assert ours == pytest.approx(theirs, abs=1e-9)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 30), min_size=2, max_size=80), st.lists(st.integers(0, 30), min_size=2, max_size=80))
def test_distances_are_distances(before, after):
    from scipy.stats import wasserstein_distance

    one, other = np.asarray(before, float), np.asarray(after, float)
    for method in ("psi", "jensenshannon", "wasserstein"):
        assert shift.distance(method, one, one) == pytest.approx(0, abs=1e-12)
        assert shift.distance(method, one, other) >= 0
    assert shift.wasserstein(one, other) * max(one.std(), 0.001) == pytest.approx(wasserstein_distance(one, other))


def test_chance_is_called_a_change_no_more_often_than_said():
    generator = np.random.default_rng(0)
    called = sum(shift.chance(generator.normal(size=70), generator.normal(size=200)) <= 0.05 for _ in range(2000))
    assert 0 < called <= 0.05 * 2000
    assert shift.chance(generator.normal(size=70), generator.normal(1, size=200)) < 1e-6
    assert shift.chance(np.empty(0), np.ones(3)) == 1.0


def test_holms_adjustment_equals_statsmodels():
    from statsmodels.stats.multitest import multipletests

    values = np.random.default_rng(0).random(20) ** 3
    assert shift.holm(values.tolist()) == pytest.approx(multipletests(values, method="holm")[1].tolist())


def test_the_same_population_passes():
    before, after, names = tables()
    verdict = drift.judge(
        PROTOCOL,
        before,
        after,
        names,
        reference_labels=np.arange(1000) % 7 == 0,
        current_labels=np.arange(600) % 7 == 0,
        reference_risks=np.linspace(0, 1, 1000) ** 3,
        current_risks=np.linspace(0, 1, 600) ** 3,
    )
    assert verdict.outcome is Outcome.PASS, verdict.statement
    assert "Evidently 0." in verdict.method
    assert from_bytes(canonical_bytes(verdict)) == verdict


def test_one_column_in_another_unit_fails_by_name():
    before, after, names = tables()
    after[:, 9] = after[:, 9] * 2 + 5
    verdict = drift.judge(PROTOCOL, before, after, names, uses_evidently=False)
    assert verdict.outcome is Outcome.FAIL
    assert found(verdict, "wasserstein_distance", "f9")[0].outcome is Outcome.FAIL
    assert "f9" in verdict.statement


def test_many_columns_moving_a_little_fail_together_and_one_alone_does_not():
    before, after, names = tables(4000, 4000)
    one = after.copy()
    one[:, 9] += 0.4
    assert drift.judge(PROTOCOL, before, one, names, uses_evidently=False).outcome is Outcome.PASS
    after[:, 9:20] += 0.4
    verdict = drift.judge(PROTOCOL, before, after, names, uses_evidently=False)
    assert found(verdict, "share_of_columns_drifted")[0].value == pytest.approx(11 / 30)
    assert verdict.outcome is Outcome.FAIL


def test_a_scale_that_moves_is_compared_as_a_scale():
    before, after, names = tables()
    after[:, 2] = np.where(np.isnan(after[:, 2]), np.nan, 14.0)
    verdict = drift.judge(PROTOCOL, before, after, names, uses_evidently=False)
    assert found(verdict, "jensen_shannon_distance", "f2")[0].outcome is Outcome.FAIL


def test_chance_in_few_values_is_no_drift():
    drifted = 0
    for seed in range(20):
        before, after, names = tables(300, 70, columns=40, seed=seed)
        verdict = drift.judge(PROTOCOL, before, after, names, uses_evidently=False)
        drifted += found(verdict, "share_of_columns_drifted")[0].value > 0
    assert drifted <= 2  # Bonferroni at 0.05: one run in twenty


def test_a_feed_that_fell_silent_fails_and_a_new_practice_counts():
    before, after, names = tables(2000, 2000)
    after[:, 20] = np.nan
    after[np.random.default_rng(0).random(2000) < 0.3, 21] = np.nan
    verdict = drift.judge(PROTOCOL, before, after, names, uses_evidently=False)
    assert found(verdict, "missing_rate_difference", "f20")[0].outcome is Outcome.FAIL
    assert found(verdict, "missing_rate_difference", "f21")[0].outcome is Outcome.PASS
    assert found(verdict, "missing_rate_difference", "f21")[0].note == "counted as drifted"


def test_columns_without_values_or_without_spread_break_nothing():
    before, after, names = tables()
    before[:, 3] = after[:, 3] = np.nan
    before[:, 4] = after[:, 4] = 1.0
    verdict = drift.judge(PROTOCOL, before, after, names)
    assert verdict.outcome is Outcome.PASS, verdict.statement
    assert "1 with too few values" in found(verdict, "share_of_columns_drifted")[0].note


def test_twice_as_many_deaths_and_other_risks_fail():
    before, after, names = tables(3000, 3000)
    generator = np.random.default_rng(0)
    verdict = drift.judge(
        PROTOCOL,
        before,
        after,
        names,
        reference_labels=generator.random(3000) < 0.14,
        current_labels=generator.random(3000) < 0.30,
        reference_risks=generator.beta(1, 6, 3000),
        current_risks=generator.beta(3, 6, 3000),
        uses_evidently=False,
    )
    assert found(verdict, "prevalence_difference")[0].outcome is Outcome.FAIL
    assert found(verdict, "population_stability_index", drift.PREDICTION)[0].outcome is Outcome.FAIL


def test_too_few_rows_are_inconclusive():
    before, after, names = tables(1000, 20)
    verdict = drift.judge(PROTOCOL, before, after, names)
    assert verdict.outcome is Outcome.INCONCLUSIVE
    assert "20 rows" in verdict.statement


def test_p_values_are_adjusted_where_the_protocol_names_kolmogorov_and_smirnov():
    rules = tuple(
        msgspec.structs.replace(rule, method="ks", at_most=0.05, severe_above=None)
        if rule.kind == "continuous"
        else rule
        for rule in PROTOCOL.drift.rule
    )
    protocol = msgspec.structs.replace(PROTOCOL, drift=msgspec.structs.replace(PROTOCOL.drift, rule=rules))
    before, after, names = tables()
    after[:, 9] += 1.0
    verdict = drift.judge(protocol, before, after, names)
    assert found(verdict, "share_of_columns_drifted")[0].value == pytest.approx(1 / 30)
    assert found(verdict, "kolmogorov_smirnov_p_value", "f9")[0].value < 1e-6


def test_a_disagreement_with_evidently_stops_the_judgement(monkeypatch):
    monkeypatch.setattr(drift, "evidently_distances", lambda pairs: [0.5] * len(pairs))
    with pytest.raises(BrokenInvariantError, match="differ"):
        drift.judge(PROTOCOL, *tables())


def test_tables_of_other_shapes_are_refused():
    before, after, names = tables()
    with pytest.raises(ValueError, match="columns"):
        drift.judge(PROTOCOL, before, after[:, :-1], names)
