"""The bias audit: Fairlearn's numbers, intervals that cover, small groups that stay unseen, three possible outcomes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from validation import bias, fairlearn_rates, group_rates, intervals, model_protocol
from validation.age_bands import band_names, bands_of
from vocabulary.errors import BrokenInvariantError
from vocabulary.verdict import Outcome, canonical_bytes

PROTOCOL = model_protocol.load()


def cohort(stays, seed=0, *, shift_of_women=0.0):
    """Stays of a calibrated model; `shift_of_women` lowers what is said about women, in log odds."""
    generator = np.random.default_rng(seed)
    age = generator.uniform(20, 92, stays)
    sex = np.where(generator.random(stays) < 0.5, "female", "male")
    odds = generator.normal(-2.0, 1.8, stays)
    died = (generator.random(stays) < 1 / (1 + np.exp(-odds))).astype(int)
    said = 1 / (1 + np.exp(-(odds - np.where(sex == "female", shift_of_women, 0.0))))
    return died, said, sex, age


def found(verdict, name, group):
    (one,) = [row for row in verdict.measures if row.name == name and row.group == group]
    return one


def test_no_bias_on_many_stays_passes():
    verdict = bias.judge(PROTOCOL, *cohort(20_000))
    assert verdict.outcome is Outcome.PASS, verdict.statement
    assert "Fairlearn" in verdict.method


def test_a_planted_bias_fails_by_its_own_name():
    verdict = bias.judge(PROTOCOL, *cohort(20_000, shift_of_women=2.0))
    assert verdict.outcome is Outcome.FAIL
    assert found(verdict, "false_negative_rate_difference", "sex=female").outcome is Outcome.FAIL
    assert found(verdict, "observed_to_expected", "sex=female").outcome is Outcome.FAIL
    assert found(verdict, "observed_to_expected", "sex=male").outcome is Outcome.PASS
    assert "sex=female" in verdict.statement


def test_few_stays_are_inconclusive():
    verdict = bias.judge(PROTOCOL, *cohort(300))
    assert verdict.outcome is Outcome.INCONCLUSIVE
    assert "cannot be told" in verdict.statement


def test_the_verdict_is_the_same_without_fairlearn_but_for_its_rows():
    table = cohort(1500)
    both, alone = (bias.judge(PROTOCOL, *table, uses_fairlearn=uses) for uses in (True, False))
    assert alone.outcome is both.outcome
    shared = [row for row in both.measures if not row.name.endswith("between_groups")]
    assert tuple(shared) == alone.measures
    assert any(row.name == "false_negative_rate_between_groups" for row in both.measures)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.integers(40, 300), st.integers(2, 4))
def test_rates_equal_fairlearns(seed, stays, groups):
    generator = np.random.default_rng(seed)
    outcome = generator.random(stays) < 0.4
    said = np.round(generator.random(stays), 1)
    index = generator.integers(0, groups, stays)
    for place in range(groups):  # both classes and a selected stay in each, where Fairlearn's zeros mean nothing
        outcome[np.flatnonzero(index == place)[:2]] = [True, False][: min(2, int((index == place).sum()))]
    members = np.asarray([f"g{place}" for place in index])
    frame = fairlearn_rates.metric_frame(outcome, said, members, threshold=0.5)
    cells = group_rates.confusion_by_group(outcome, said >= 0.5, index.astype(np.int64), groups)
    ours = group_rates.rates(cells)
    for place in range(groups):
        inside = index == place
        for name, values in ours.items():
            if np.isfinite(values[place]):
                assert frame.loc[f"g{place}", name] == pytest.approx(values[place], abs=1e-9)
        area = group_rates.ranking(outcome[inside], said[inside]).area
        if np.isfinite(area):
            assert frame.loc[f"g{place}", "auroc"] == pytest.approx(area, abs=1e-9)


def test_a_disagreement_with_fairlearn_stops_the_audit(monkeypatch):
    def wrong(*arguments, **named):
        return right(*arguments, **named) + 1e-6

    right = bias.metric_frame
    monkeypatch.setattr(bias, "metric_frame", wrong)
    with pytest.raises(BrokenInvariantError, match="differ"):
        bias.judge(PROTOCOL, *cohort(1500))


def test_delongs_variance_equals_its_definition():
    generator = np.random.default_rng(5)
    outcome = generator.random(80) < 0.4
    score = np.round(generator.normal(size=80) + outcome, 1)
    dead, alive = score[outcome], score[~outcome]
    wins = (dead[:, None] > alive) + (dead[:, None] == alive) / 2
    variance = np.var(wins.mean(axis=1), ddof=1) / len(dead) + np.var(wins.mean(axis=0), ddof=1) / len(alive)
    found_ = group_rates.ranking(outcome, score)
    assert found_.area == pytest.approx(wins.mean(), abs=1e-12)
    assert found_.variance == pytest.approx(variance, abs=1e-12)


def test_intervals_of_differences_cover_about_as_often_as_they_say():
    level, covered, runs = 0.9, {"rate": 0, "area": 0, "ratio": 0}, 300
    # True false negative rates 0.5 and 0.3; true AUROCs equal; deaths as expected.
    for seed in range(runs):
        generator = np.random.default_rng(seed)
        counts = np.asarray(
            [
                [missed_free, 5, 40 - missed_free, 200]
                for missed_free in (generator.binomial(40, 0.5), generator.binomial(40, 0.7))
            ]
        )
        drawn = group_rates.rates(group_rates.draws(counts, 400, generator))["false_negative_rate"]
        low, high = intervals.percentiles(drawn[0] - drawn[1], level)
        covered["rate"] += low <= 0.2 <= high
        rankings = []
        for _ in range(2):
            outcome = generator.random(200) < 0.3
            rankings.append(group_rates.ranking(outcome, generator.normal(size=200) + outcome))
        low, high = group_rates.difference_of_rankings(*rankings, level)
        covered["area"] += low <= 0 <= high
        odds = generator.normal(-1.5, 1, 250)
        said = 1 / (1 + np.exp(-odds))
        _, (low, high) = group_rates.observed_to_expected(generator.random(250) < said, said, level)
        covered["ratio"] += low <= 1 <= high
    for name, times in covered.items():
        low, high = intervals.wilson(times, runs, 0.999)
        assert low <= level <= high, (name, times)


def test_a_group_without_an_error_does_not_pass_for_one_that_cannot_err():
    drawn = group_rates.rates(group_rates.draws(np.asarray([[12, 0, 0, 60]]), 2000, np.random.default_rng(0)))
    low, high = intervals.percentiles(drawn["false_negative_rate"][0], 0.95)
    assert low < 0.01
    assert high > 0.1


def test_a_small_group_is_not_shown_and_cannot_be_worked_out():
    died, said, sex, age = cohort(1207)
    sex[:7] = "other"
    verdict = bias.judge(PROTOCOL, died, said, sex, age)
    mine = [row for row in verdict.measures if row.group.startswith("sex")]
    (hidden,) = [row for row in mine if row.group == "sex=other"]
    assert (hidden.value, hidden.count) == (None, 0)
    assert "fewer than 30" in hidden.note
    assert hidden.outcome is Outcome.INCONCLUSIVE
    assert all(row.count % 10 == 0 for row in mine)
    assert all(row.value is None or row.value == round(row.value, 2) for row in mine)
    assert b'"count":7' not in canonical_bytes(verdict)


def test_few_deaths_in_a_group_give_no_rate_of_them():
    died, said, sex, age = cohort(3000)
    died[(age < 45)] = 0
    died[np.flatnonzero(age < 45)[:4]] = 1
    verdict = bias.judge(PROTOCOL, died, said, sex, age)
    rate = found(verdict, "false_negative_rate_difference", "age=18-44")
    assert rate.value is None
    assert "fewer than 10 deaths" in rate.note
    assert rate.outcome is Outcome.INCONCLUSIVE


def test_unknown_sex_and_age_and_abstentions_are_nobodys_group():
    died, said, sex, age = cohort(4000)
    age[::9] = np.nan
    sex[::7] = ""
    said[::11] = np.nan
    verdict = bias.judge(PROTOCOL, died, said, sex, age)
    assert not [row for row in verdict.measures if "unknown" in row.group]
    assert found(verdict, "observed_to_expected", "sex=female").count < 2000


def test_where_nobodys_sex_is_known_bias_by_sex_does_not_pass():
    died, said, sex, age = cohort(20_000)
    verdict = bias.judge(PROTOCOL, died, said, np.full(len(sex), ""), age)
    assert found(verdict, "group_is_known", "sex").outcome is Outcome.INCONCLUSIVE
    assert verdict.outcome is Outcome.INCONCLUSIVE


def test_a_two_sided_difference_is_reported_once():
    verdict = bias.judge(PROTOCOL, *cohort(2000))
    differences = [row for row in verdict.measures if row.name == "false_negative_rate_difference"]
    assert [row.group for row in differences if row.group.startswith("sex")] == ["sex=female"]


def test_age_bands_begin_on_the_birthday():
    edges = PROTOCOL.bias.age_bands_from_years
    ages = np.asarray([17.99, 18, 44.99, 45, 64, 65, 84.9, 85, 120, np.nan])
    expected = ["-17", "18-44", "18-44", "45-64", "45-64", "65-74", "75-84", "85-", "85-", "unknown"]
    assert bands_of(ages, edges).tolist() == expected
    assert band_names(edges) == ("-17", "18-44", "45-64", "65-74", "75-84", "85-")
    assert bands_of(np.asarray([0.0, 3.0]), (0, 2)).tolist() == ["0-1", "2-"]


def test_other_shapes_are_refused():
    died, said, sex, age = cohort(100)
    with pytest.raises(ValueError, match="one shape"):
        bias.judge(PROTOCOL, died[:-1], said, sex, age)


def test_a_thousand_draws_of_forty_groups_take_less_than_a_second():
    import time

    counts = np.random.default_rng(0).integers(1, 2000, (40, 4))
    before = time.perf_counter()
    drawn = group_rates.rates(group_rates.draws(counts, 1000, np.random.default_rng(0)))
    assert drawn["false_negative_rate"].shape == (40, 1000)
    assert time.perf_counter() - before < 1
