"""Metrics agree with scikit-learn, statsmodels, SciPy and hand formulas to 1e-9, ties and degenerate ones too."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from validation import calibration, intervals, metrics
from vocabulary.verdict import Outcome

NEAR = 1e-9


@st.composite
def judged(draw):
    """Labels with both classes and probabilities with many ties."""
    rows = draw(st.integers(8, 120))
    labels = draw(st.lists(st.booleans(), min_size=rows, max_size=rows))
    steps = draw(st.sampled_from([4, 10, 1000]))
    said = draw(st.lists(st.integers(0, steps), min_size=rows, max_size=rows))
    assume(0 < sum(labels) < rows)
    return np.asarray(labels, int), np.asarray(said) / steps


def cohort(stays=800, seed=3):
    generator = np.random.default_rng(seed)
    truth = generator.normal(-2.0, 1.6, stays)
    said = np.clip(np.round(1 / (1 + np.exp(-(0.3 + 1.3 * truth))), 2), 0.01, 0.99)
    return (generator.random(stays) < 1 / (1 + np.exp(-truth))).astype(int), said


@settings(max_examples=40, deadline=None)
@given(judged())
def test_ranking_and_accuracy_equal_scikit_learns(rows):
    from sklearn.metrics import average_precision_score, brier_score_loss, log_loss, roc_auc_score

    labels, said = rows
    assert metrics.auroc(labels, said) == pytest.approx(roc_auc_score(labels, said), abs=NEAR)
    assert metrics.average_precision(labels, said) == pytest.approx(average_precision_score(labels, said), abs=NEAR)
    assert metrics.brier(labels, said) == pytest.approx(brier_score_loss(labels, said), abs=NEAR)
    assert metrics.log_loss(labels, said) == pytest.approx(log_loss(labels, said), abs=NEAR)


@settings(max_examples=40, deadline=None)
@given(judged(), st.integers(1, 9))
def test_shares_and_net_benefit_equal_counting_by_hand(rows, tenths):
    labels, said = rows
    threshold = tenths / 10
    pairs = list(zip(labels.tolist(), said.tolist(), strict=True))
    caught = sum(1 for label, risk in pairs if label and risk >= threshold)
    needless = sum(1 for label, risk in pairs if not label and risk >= threshold)
    counts = metrics.confusion(labels, said, threshold)
    assert (counts.true_positive[0], counts.false_positive[0]) == (caught, needless)
    by_hand = caught / len(pairs) - needless / len(pairs) * threshold / (1 - threshold)
    assert metrics.net_benefit(labels, said, threshold) == pytest.approx(by_hand, abs=NEAR)


@settings(max_examples=40, deadline=None)
@given(judged())
def test_min_se_ppv_is_the_best_of_all_thresholds(rows):
    labels, said = rows
    best = max(metrics.min_se_ppv(labels, said, threshold) for threshold in np.unique(said))
    assert metrics.min_se_ppv(labels, said) == pytest.approx(best, abs=NEAR)


def test_the_challenges_own_example_of_min_se_ppv():
    # 4 deaths, 3 predicted of whom 2 died: sensitivity 1/2, positive predictive value 2/3.
    assert metrics.min_se_ppv([1, 1, 1, 1, 0, 0], [0.9, 0.8, 0.1, 0.1, 0.7, 0.1], 0.5) == 0.5


def test_calibration_equals_an_unpenalised_logistic_regression():
    import statsmodels.api as sm

    labels, said = cohort()
    odds = np.log(said / (1 - said))
    binomial = sm.families.Binomial()
    both = sm.GLM(labels, sm.add_constant(odds), family=binomial).fit(tol=1e-14, maxiter=200)
    at_one = sm.GLM(labels, np.ones(len(odds)), family=binomial, offset=odds).fit(tol=1e-14, maxiter=200)
    intercept, slope = calibration.calibration(labels, said)
    assert intercept == pytest.approx(at_one.params[0], abs=NEAR)
    assert slope == pytest.approx(both.params[1], abs=NEAR)


@settings(max_examples=30, deadline=None)
@given(judged())
def test_calibration_has_no_gradient_left_wherever_it_has_an_answer(rows):
    labels, said = rows
    odds = calibration.log_odds(said)
    intercept, slope = calibration.calibration(labels, said)
    if intercept is not None:
        fitted = 1 / (1 + np.exp(-(odds + intercept)))
        assert np.sum(labels - fitted) == pytest.approx(0, abs=1e-6)
    if slope is None:
        return
    # With the slope given, the free constant must make both score equations vanish.
    low, high = -200.0, 200.0
    for _ in range(200):
        middle = (low + high) / 2
        total = np.sum(labels - 1 / (1 + np.exp(-np.clip(middle + slope * odds, -700, 700))))
        low, high = (middle, high) if total > 0 else (low, middle)
    fitted = 1 / (1 + np.exp(-np.clip(low + slope * odds, -700, 700)))
    assert np.sum((labels - fitted) * odds) == pytest.approx(0, abs=1e-5)


def test_the_smoothed_truth_is_a_natural_cubic_spline_in_log_odds():
    import statsmodels.api as sm
    from patsy import dmatrix

    labels, said = cohort()
    odds = np.log(said / (1 - said))
    low, *inner, high = np.quantile(odds, (0.05, 0.35, 0.65, 0.95))
    shown = np.linspace(low, high, 30)
    names = {"inner": inner, "low": low, "high": high}
    formula = "cr(x, knots=inner, lower_bound=low, upper_bound=high) - 1"
    # patsy's spline is linear beyond its outer knots too, so all rows take part in both fits.
    basis, at = (np.asarray(dmatrix(formula, {"x": x, **names})) for x in (odds, shown))
    theirs = sm.GLM(labels, basis, family=sm.families.Binomial()).fit(tol=1e-14, maxiter=200)
    ours = calibration.smoothed(labels, said, 1 / (1 + np.exp(-shown)))
    np.testing.assert_allclose(ours, theirs.predict(at), atol=1e-8)


def test_expected_calibration_error_by_hand():
    said = [0.1, 0.1, 0.9, 0.9]
    assert calibration.expected_calibration_error([0, 1, 1, 1], said, groups=2) == pytest.approx((0.4 + 0.1) / 2)


def test_a_perfectly_calibrated_cohort_is_found_calibrated():
    generator = np.random.default_rng(1)
    odds = generator.normal(-2, 1.5, 40_000)
    said = 1 / (1 + np.exp(-odds))
    labels = (generator.random(40_000) < said).astype(int)
    intercept, slope = calibration.calibration(labels, said)
    assert intercept == pytest.approx(0, abs=0.06)
    assert slope == pytest.approx(1, abs=0.05)
    assert calibration.integrated_calibration_index(labels, said) < 0.006


@pytest.mark.parametrize("labels", [[0, 0, 0], [1, 1, 1]])
def test_one_class_says_none_and_never_zero(labels):
    said = [0.1, 0.5, 0.9]
    assert metrics.auroc(labels, said) is None
    assert metrics.scaled_brier(labels, said) is None
    assert calibration.calibration(labels, said) == (None, None)


def test_no_rows_say_none():
    assert metrics.auroc([], []) is None
    assert metrics.average_precision([], []) is None
    assert metrics.brier([], []) is None
    assert metrics.min_se_ppv([], []) is None
    assert calibration.calibration([], []) == (None, None)
    assert calibration.expected_calibration_error([], []) is None
    assert calibration.integrated_calibration_index([], []) is None


def test_separated_classes_and_equal_risks_have_no_slope():
    assert calibration.calibration([0, 0, 1, 1], [0.1, 0.2, 0.8, 0.9])[1] is None
    intercept, slope = calibration.calibration([0, 1, 0, 0], [0.3] * 4)
    assert slope is None
    assert intercept == pytest.approx(np.log(0.25 / 0.75) - np.log(0.3 / 0.7), abs=NEAR)


@pytest.mark.parametrize(
    ("labels", "said", "expected"),
    [
        ([0, 2], [0.1, 0.2], "labels 0 or 1"),
        ([0, 1], [0.1, float("nan")], "finite"),
        ([0, 1], [0.1, 1.2], "between 0 and 1"),
        ([0, 1], [0.1], "one shape"),
    ],
)
def test_what_is_no_judgement_is_refused_without_quoting_it(labels, said, expected):
    with pytest.raises(ValueError, match=expected) as error:
        metrics.brier(labels, said)
    assert "1.2" not in str(error.value)


@given(judged())
@settings(max_examples=25, deadline=None)
def test_weights_count_rows_as_often_as_they_stand_there(rows):
    labels, said = rows
    generator = np.random.default_rng(0)
    weights = generator.integers(0, 4, (1, len(labels))).astype(float)
    often = np.repeat(np.arange(len(labels)), weights[0].astype(int))
    assume(0 < labels[often].sum() < len(often))
    outcome = labels == 1
    for weighted, plain in (
        (metrics.auroc_weighted, metrics.auroc),
        (metrics.average_precision_weighted, metrics.average_precision),
        (metrics.brier_weighted, metrics.brier),
        (metrics.scaled_brier_weighted, metrics.scaled_brier),
        (metrics.log_loss_weighted, metrics.log_loss),
        (metrics.min_se_ppv_weighted, metrics.min_se_ppv),
    ):
        assert weighted(outcome, said, weights)[0] == pytest.approx(plain(labels[often], said[often]), abs=NEAR)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 60), st.integers(1, 60), st.sampled_from([0.8, 0.95, 0.999]))
def test_wilsons_interval_equals_statsmodels(successes, more, level):
    from statsmodels.stats.proportion import proportion_confint

    trials = successes + more
    low, high = proportion_confint(successes, trials, 1 - level, method="wilson")
    assert intervals.wilson(successes, trials, level) == pytest.approx((low, high), abs=NEAR)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 3000), st.sampled_from([0.9, 0.95, 0.999]))
def test_the_interval_of_a_count_is_garwoods(count, level):
    from scipy.stats import chi2

    tail = (1 - level) / 2
    low = 0.0 if count == 0 else chi2.ppf(tail, 2 * count) / 2
    assert intervals.poisson(count, level) == pytest.approx((low, chi2.ppf(1 - tail, 2 * count + 2) / 2), rel=NEAR)


def test_newcombes_published_interval_of_a_difference():
    # Newcombe 1998, table II, example (a): 56/70 − 48/80, method 10: 0.0524 to 0.3339.
    assert intervals.difference_of_shares(56, 70, 48, 80, 0.95) == pytest.approx((0.0524, 0.3339), abs=5e-5)


@pytest.mark.parametrize(
    ("interval", "expected"),
    [
        ((0.81, 0.9), Outcome.PASS),
        ((0.79, 0.9), Outcome.INCONCLUSIVE),
        ((0.6, 0.79), Outcome.FAIL),
        ((0.8, 0.8), Outcome.PASS),
        (None, Outcome.INCONCLUSIVE),
        ((float("nan"), 0.9), Outcome.INCONCLUSIVE),
    ],
)
def test_only_a_whole_interval_passes_or_fails(interval, expected):
    assert intervals.outcome_of(interval, 0.8, None) is expected


def test_nothing_asked_passes_and_nothing_finite_is_none():
    assert intervals.outcome_of(None, None, None) is Outcome.PASS
    found = intervals.measure("auroc", float("nan"), (0.1, 0.2), at_least=0.5)
    assert found.value is None
    assert found.low is None
    assert found.outcome is Outcome.INCONCLUSIVE
    assert found.note
