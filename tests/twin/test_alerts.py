"""When an estimate asks for attention, and when it may again: one rule, by examples and against a slow oracle."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from twin.alerts import Rule, onset_rows, onsets
from validation import model_protocol
from vocabulary.errors import BrokenInvariantError

RULE = Rule(0.30, 0.25)


def raised(*probabilities, clamped=None):
    return [each.row for each in onsets(RULE, range(len(probabilities)), probabilities, clamped)]


def test_the_rule_is_the_protocols():
    assert Rule.of(model_protocol.load()) == RULE


def test_one_that_trembles_about_the_threshold_raises_one_alert():
    assert raised(0.1, 0.29, 0.30, 0.29, 0.31, 0.26, 0.30) == [2]


def test_a_second_alert_needs_the_risk_to_have_been_low_in_between():
    assert raised(0.4, 0.24, 0.4) == [0, 2]
    assert raised(0.4, 0.25, 0.4) == [0]


def test_an_abstention_neither_raises_nor_arms():
    assert raised(0.4, None, 0.4) == [0]
    assert raised(None, math.nan, 0.4) == [2]


def test_while_clamped_nothing_is_raised_and_what_is_still_high_afterwards_is():
    assert raised(0.1, 0.5, 0.5, 0.5, clamped=[False, True, True, False]) == [3]
    assert not RULE.is_high(0.9, is_clamped=True)
    assert not RULE.is_high(None)


def test_estimates_out_of_order_are_refused():
    with pytest.raises(BrokenInvariantError, match="order of time"):
        onsets(RULE, [5, 4], [0.1, 0.2])


estimates = st.lists(st.one_of(st.none(), st.sampled_from((0.1, 0.24, 0.25, 0.27, 0.3, 0.6))), max_size=30)


@given(estimates)
def test_between_two_alerts_of_a_stay_there_is_a_low_estimate(probabilities):
    rows = raised(*probabilities)
    for row in rows:
        assert probabilities[row] >= RULE.threshold
    for before, after in pairwise(rows):
        assert any(p is not None and p < RULE.rearm_below for p in probabilities[before + 1 : after])
    # None is missing: each high estimate without an alert has one before it, and nothing low since.
    for row, probability in enumerate(probabilities):
        if probability is not None and probability >= RULE.threshold and row not in rows:
            last = max(r for r in rows if r < row)
            assert all(p is None or p >= RULE.rearm_below for p in probabilities[last:row])


@given(st.lists(estimates, min_size=1, max_size=5), st.randoms(use_true_random=False))
def test_a_table_in_any_order_holds_the_alerts_of_each_stay(stays, rng):
    rows = [(stay, minute, p) for stay, listed in enumerate(stays) for minute, p in enumerate(listed)]
    rng.shuffle(rows)
    if not rows:
        return
    stay, minute = (np.array([row[place] for row in rows], np.int64) for place in (0, 1))
    probability = np.array([math.nan if p is None else p for _, _, p in rows])
    found = onset_rows(RULE, stay, minute, probability)
    expected = {(number, row) for number, listed in enumerate(stays) for row in raised(*listed)}
    assert {(s, m) for s, m, is_raised in zip(stay.tolist(), minute.tolist(), found, strict=True) if is_raised} == (
        expected
    )
