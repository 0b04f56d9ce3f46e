"""Metrics of probabilities against outcomes, in numpy, for one set of weights or for a thousand at once.

Here: ranking (AUROC, average precision, min(Se, P+)), accuracy (Brier, log loss), shares at a threshold, net benefit.
Every function ending in `_weighted` takes weights of shape (repetitions, rows), how often each row counts, and returns
one value a repetition, NaN where it has none: that is what a bootstrap resamples with.
Not here: calibration (validation.calibration), intervals (validation.bootstrap), judging (validation.clinical).
Source: Hanley and McNeil 1982, Radiology 143:29 (ties count half); Silva et al. 2012, Comput Cardiol 39:245 (min(Se,
P+)); Vickers and Elkin 2006, Med Decis Making 26:565 (net benefit); Steyerberg et al. 2010, Epidemiology 21:128
(scaled Brier).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]


class Confusion(NamedTuple):
    """How many of whom, at one threshold; shape (repetitions,)."""

    true_positive: FloatArray
    false_positive: FloatArray
    false_negative: FloatArray
    true_negative: FloatArray


def auroc(labels: ArrayLike, scores: ArrayLike) -> float | None:
    """Return the area under the receiver operating characteristic, ties counting half.

    Args:
        labels: 0 or 1, of shape (rows,).
        scores: any finite numbers, higher meaning likelier, of the same shape.

    Returns:
        None where there is only one class.

    Raises:
        ValueError: other labels, not finite scores, or other shapes.
    """
    outcome, score = checked(labels, scores)
    return _said(auroc_weighted(outcome, score, _once(outcome)))


def average_precision(labels: ArrayLike, scores: ArrayLike) -> float | None:
    """Return the area under the precision–recall steps (AUPRC); None without a positive. See `auroc` for the rest."""
    outcome, score = checked(labels, scores)
    return _said(average_precision_weighted(outcome, score, _once(outcome)))


def min_se_ppv(labels: ArrayLike, scores: ArrayLike, threshold: float | None = None) -> float | None:
    """Return min(sensitivity, positive predictive value), the challenge's first event.

    Args:
        labels: 0 or 1, of shape (rows,).
        scores: probabilities, of the same shape.
        threshold: at or above it counts as predicted; None takes the threshold where the smaller of the two is largest
            on these very rows, as the challenge's entries are usually reported (slightly flattering).
    """
    outcome, score = checked(labels, scores)
    return _said(min_se_ppv_weighted(outcome, score, _once(outcome), threshold))


def brier(labels: ArrayLike, probabilities: ArrayLike) -> float | None:
    """Return the mean squared distance of probability and outcome; None without rows."""
    outcome, probability = checked(labels, probabilities, is_probability=True)
    return _said(brier_weighted(outcome, probability, _once(outcome)))


def scaled_brier(labels: ArrayLike, probabilities: ArrayLike) -> float | None:
    """Return 1 − Brier / (Brier of saying everybody's average); None with one class."""
    outcome, probability = checked(labels, probabilities, is_probability=True)
    return _said(scaled_brier_weighted(outcome, probability, _once(outcome)))


def log_loss(labels: ArrayLike, probabilities: ArrayLike) -> float | None:
    """Return the mean negative log likelihood; probabilities are kept a machine epsilon away from 0 and 1."""
    outcome, probability = checked(labels, probabilities, is_probability=True)
    return _said(log_loss_weighted(outcome, probability, _once(outcome)))


def confusion(labels: ArrayLike, probabilities: ArrayLike, threshold: float) -> Confusion:
    """Return the confusion counts at a threshold (at or above it counts as predicted), each of shape (1,)."""
    outcome, probability = checked(labels, probabilities)
    return confusion_weighted(outcome, probability, _once(outcome), threshold)


def net_benefit(labels: ArrayLike, probabilities: ArrayLike, threshold: float) -> float | None:
    """Return TP/n − FP/n · t/(1 − t); None without rows.

    Raises:
        ValueError: a threshold that is not strictly between 0 and 1.
    """
    outcome, probability = checked(labels, probabilities, is_probability=True)
    return _said(net_benefit_weighted(outcome, probability, _once(outcome), threshold))


def auroc_weighted(outcome: BoolArray, score: FloatArray, weights: FloatArray) -> FloatArray:
    """Return AUROC of each repetition."""
    positive, negative = _by_score(outcome, score, weights)
    below = np.cumsum(negative, axis=1) - negative
    pairs = positive.sum(axis=1) * negative.sum(axis=1)
    return _ratio((positive * (below + negative / 2)).sum(axis=1), pairs)


def average_precision_weighted(outcome: BoolArray, score: FloatArray, weights: FloatArray) -> FloatArray:
    """Return average precision of each repetition."""
    positive, negative = (part[:, ::-1] for part in _by_score(outcome, score, weights))
    caught = np.cumsum(positive, axis=1)
    chosen = caught + np.cumsum(negative, axis=1)
    precision = np.divide(caught, chosen, out=np.zeros_like(caught), where=chosen > 0)
    return _ratio((positive * precision).sum(axis=1), positive.sum(axis=1))


def min_se_ppv_weighted(
    outcome: BoolArray, score: FloatArray, weights: FloatArray, threshold: float | None = None
) -> FloatArray:
    """Return min(sensitivity, positive predictive value) of each repetition; see `min_se_ppv`."""
    if threshold is not None:
        counts = confusion_weighted(outcome, score, weights, threshold)
        deaths = counts.true_positive + counts.false_negative
        sensitivity = _ratio(counts.true_positive, deaths)
        chosen = counts.true_positive + counts.false_positive
        ppv = np.where(chosen > 0, _ratio(counts.true_positive, chosen), 0.0)  # nobody predicted: the challenge's zero
        return np.minimum(sensitivity, ppv)
    positive, negative = (part[:, ::-1] for part in _by_score(outcome, score, weights))
    caught = np.cumsum(positive, axis=1)
    chosen = caught + np.cumsum(negative, axis=1)
    ppv = np.divide(caught, chosen, out=np.zeros_like(caught), where=chosen > 0)
    total = positive.sum(axis=1)
    sensitivity = np.divide(caught, total[:, None], out=np.zeros_like(caught), where=total[:, None] > 0)
    best = np.minimum(sensitivity, ppv).max(axis=1, initial=0.0)
    return np.where(total > 0, best, np.nan)


def brier_weighted(outcome: BoolArray, probability: FloatArray, weights: FloatArray) -> FloatArray:
    """Return the Brier score of each repetition."""
    return _ratio(weights @ (probability - outcome) ** 2, weights.sum(axis=1))


def scaled_brier_weighted(outcome: BoolArray, probability: FloatArray, weights: FloatArray) -> FloatArray:
    """Return the scaled Brier score of each repetition."""
    rate = _ratio(weights @ outcome.astype(np.float64), weights.sum(axis=1))
    return 1 - _ratio(brier_weighted(outcome, probability, weights), rate * (1 - rate))


def log_loss_weighted(outcome: BoolArray, probability: FloatArray, weights: FloatArray) -> FloatArray:
    """Return the log loss of each repetition."""
    margin = np.finfo(np.float64).eps
    inside = np.clip(probability, margin, 1 - margin)
    return _ratio(weights @ -np.where(outcome, np.log(inside), np.log(1 - inside)), weights.sum(axis=1))


def confusion_weighted(outcome: BoolArray, probability: FloatArray, weights: FloatArray, threshold: float) -> Confusion:
    """Return the confusion counts of each repetition."""
    chosen = probability >= threshold
    cells = np.stack([chosen & outcome, chosen & ~outcome, ~chosen & outcome, ~chosen & ~outcome], axis=1)
    return Confusion(*(weights @ cells.astype(np.float64)).T)


def net_benefit_weighted(
    outcome: BoolArray, probability: FloatArray, weights: FloatArray, threshold: float
) -> FloatArray:
    """Return the net benefit of acting at the threshold, of each repetition."""
    if not 0 < threshold < 1:
        raise ValueError(f"expected a threshold strictly between 0 and 1, found {threshold}")
    counts = confusion_weighted(outcome, probability, weights, threshold)
    gained = counts.true_positive - counts.false_positive * (threshold / (1 - threshold))
    return _ratio(gained, weights.sum(axis=1))


def checked(labels: ArrayLike, scores: ArrayLike, *, is_probability: bool = False) -> tuple[BoolArray, FloatArray]:
    """Return labels and scores as arrays that every function here can rely on.

    Raises:
        ValueError: shapes differ or are not one-dimensional, labels other than 0 and 1, scores that are not finite, or
            probabilities outside 0 to 1. Says how many, never which values.
    """
    outcome, score = np.asarray(labels), np.asarray(scores, np.float64)
    if outcome.ndim != 1 or outcome.shape != score.shape:
        raise ValueError(f"expected labels and scores of one shape (rows,), found {outcome.shape} and {score.shape}")
    strange = int(np.sum((outcome != 0) & (outcome != 1)))
    if strange:
        raise ValueError(f"expected labels 0 or 1, found {strange} others")
    missing = int(np.sum(~np.isfinite(score)))
    if missing:
        raise ValueError(f"expected finite scores, found {missing} that are not: leave abstentions out first")
    if is_probability and bool(np.any((score < 0) | (score > 1))):
        raise ValueError("expected probabilities between 0 and 1")
    return outcome.astype(np.bool_), score


def _by_score(outcome: BoolArray, score: FloatArray, weights: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return weights of positives and negatives by rising distinct score, of shape (repetitions, distinct scores)."""
    order = np.argsort(score, kind="stable")
    ordered, is_positive = score[order], outcome[order]
    if not len(ordered):
        return np.zeros((len(weights), 0)), np.zeros((len(weights), 0))
    starts = np.flatnonzero(np.concatenate(([True], ordered[1:] != ordered[:-1])))
    sorted_weights = weights[:, order]
    positive = np.add.reduceat(sorted_weights * is_positive, starts, axis=1)
    return positive, np.add.reduceat(sorted_weights, starts, axis=1) - positive


def _ratio(above: FloatArray, below: FloatArray) -> FloatArray:
    """Return the quotient, NaN where there is nothing to divide by."""
    result: FloatArray = np.divide(above, below, out=np.full(np.shape(below), np.nan), where=below > 0)
    return result


def _once(outcome: BoolArray) -> FloatArray:
    return np.ones((1, len(outcome)))


def _said(values: FloatArray) -> float | None:
    value = float(values[0])
    return value if np.isfinite(value) else None
