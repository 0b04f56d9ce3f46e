"""Logistic recalibration against scikit-learn, and against simulation."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression

from models.risk import calibration
from vocabulary.errors import ConfigurationError


def drawn(seed, rows=800, intercept=-0.4, slope=0.7):
    random = np.random.default_rng(seed)
    margin = random.normal(-1.5, 1.3, rows)
    died = random.random(rows) < calibration.probability(intercept + slope * margin)
    return margin, died


@given(st.integers(0, 10_000))
@settings(max_examples=20, deadline=None)
def test_it_is_the_maximum_likelihood_line(seed):
    margin, died = drawn(seed)
    weight = np.random.default_rng(seed).uniform(0.2, 2.0, len(margin))
    found = calibration.fit(margin, died, weight)
    peer = LogisticRegression(C=np.inf, tol=1e-12, max_iter=1000).fit(margin[:, None], died, sample_weight=weight)
    assert found.intercept == pytest.approx(peer.intercept_[0], abs=1e-6)
    assert found.slope == pytest.approx(peer.coef_[0, 0], abs=1e-6)


def test_intervals_of_the_line_hold_the_truth_as_often_as_they_say():
    held = []
    for seed in range(300):
        margin, died = drawn(seed, rows=1500)
        found = calibration.fit(margin, died)
        at = -0.8
        said = found.intercept + found.slope * at
        variance = found.intercept_variance + 2 * at * found.covariance + at * at * found.slope_variance
        held.append(abs(said - (-0.4 + 0.7 * at)) < 1.2816 * np.sqrt(variance))
    assert 0.73 < np.mean(held) < 0.87  # 80 %: three standard errors of 300 draws


def test_rows_of_one_stay_are_no_new_evidence():
    margin, died = drawn(5)
    once = calibration.fit(margin, died, cluster=np.arange(len(margin)))
    thrice = calibration.fit(np.tile(margin, 3), np.tile(died, 3), cluster=np.tile(np.arange(len(margin)), 3))
    naive = calibration.fit(np.tile(margin, 3), np.tile(died, 3))
    assert thrice.slope_variance == pytest.approx(once.slope_variance, rel=1e-6)
    assert naive.slope_variance == pytest.approx(once.slope_variance / 3, rel=1e-6)


def test_one_outcome_or_an_upside_down_score_is_refused():
    margin, died = drawn(1)
    with pytest.raises(ConfigurationError, match="only one outcome"):
        calibration.fit(margin, np.zeros(len(margin), np.bool_))
    with pytest.raises(ConfigurationError, match="do not rise"):
        calibration.fit(-margin, died)


def test_log_loss_is_the_mean_surprise():
    margin = np.array([0.0, 2.0, -3.0])
    died = np.array([True, False, False])
    p = 1 / (1 + np.exp(-margin))
    surprise = -np.log(np.where(died, p, 1 - p))
    assert calibration.log_loss(margin, died) == pytest.approx(surprise.mean(), rel=1e-12)
    weighted = calibration.log_loss(margin, died, np.array([1.0, 2.0, 3.0]))
    assert weighted == pytest.approx((surprise * [1, 2, 3]).sum() / 6, rel=1e-12)
