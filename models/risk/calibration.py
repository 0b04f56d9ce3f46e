"""Logistic recalibration: two numbers that make log-odds mean what they say, with their covariance.

Here: fitting intercept and slope by Newton's method, the covariance of the fit, probabilities.
Not here: measuring calibration (validation), which scores it is fitted on (models.risk.training).
Source: Cox 1958, Biometrika 45:562; Steyerberg 2019, Clinical Prediction Models, chapter 15.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from models.risk.manifest import Calibration
from vocabulary.errors import ConfigurationError

FloatArray = NDArray[np.float64]

_STEPS: Final = 50
_PRECISE: Final = 1e-12
_SMALLEST_SLOPE: Final = 0.05


def fit(
    margin: FloatArray,
    died: NDArray[np.bool_],
    weight: FloatArray | None = None,
    cluster: NDArray[np.integer] | None = None,
) -> Calibration:
    """Return the line through log-odds that fits the outcomes best.

    Args:
        margin: uncalibrated log-odds of rows that no part of the model learned from, shape (rows,).
        died: outcomes, shape (rows,).
        weight: of each row; None: 1.
        cluster: the stay of each row: rows of one stay are no independent evidence, so the covariance is the sandwich
            over clusters (Liang & Zeger 1986, Biometrika 73:13); None: each row is its own.

    Raises:
        ConfigurationError: only one outcome, or scores that do not rise with it: there is nothing to calibrate.
    """
    found = line(margin, died, weight, cluster)
    if not np.isfinite(found.intercept) or not found.slope > _SMALLEST_SLOPE:
        raise ConfigurationError("the scores do not rise with the outcome: a model of them would mislead; check labels")
    return found


def line(
    margin: FloatArray,
    died: NDArray[np.bool_],
    weight: FloatArray | None = None,
    cluster: NDArray[np.integer] | None = None,
) -> Calibration:
    """Return what `fit` does, whichever way it slopes: a baseline may be worthless without being an error.

    Raises:
        ConfigurationError: only one outcome.
    """
    y = died.astype(np.float64)
    w = np.ones(len(y)) if weight is None else weight
    if not 0 < y.sum() < len(y):
        raise ConfigurationError("expected deaths and survivors to calibrate with, found only one outcome")
    x = np.stack([np.ones(len(y)), margin])
    beta = np.array([0.0, 1.0])
    loss = np.inf
    for _ in range(_STEPS):
        p = probability(beta[0] + beta[1] * margin)
        gradient = (x * (w * (y - p))).sum(axis=1)
        information = _information(x, w * p * (1 - p))
        step = np.linalg.solve(information, gradient)
        # Halve the step while it overshoots: log-odds of a perfect separation would otherwise run away.
        for _ in range(_STEPS):
            found = _loss(beta + step, margin, y, w)
            if found <= loss:
                break
            step = step / 2
        beta, loss = beta + step, found
        if np.abs(step).max() < _PRECISE:
            break
    p = probability(beta[0] + beta[1] * margin)
    bread = np.linalg.inv(_information(x, w * p * (1 - p)))
    scores = x * (w * (y - p))
    if cluster is not None:
        _, place = np.unique(cluster, return_inverse=True)
        scores = np.stack([np.bincount(place, one) for one in scores])
    meat = _information(scores, np.ones(scores.shape[1]))
    covariance = bread @ meat @ bread
    return Calibration(
        intercept=float(beta[0]),
        slope=float(beta[1]),
        intercept_variance=float(covariance[0, 0]),
        slope_variance=float(covariance[1, 1]),
        covariance=float(covariance[0, 1]),
    )


def apply(calibration: Calibration, margin: FloatArray) -> FloatArray:
    """Return calibrated log-odds, shape (rows,)."""
    return calibration.intercept + calibration.slope * margin


def probability(margin: FloatArray) -> FloatArray:
    """Return probabilities of log-odds, shape (rows,)."""
    return 1.0 / (1.0 + np.exp(-np.clip(margin, -700.0, 700.0)))


def log_loss(margin: FloatArray, died: NDArray[np.bool_], weight: FloatArray | None = None) -> float:
    """Return the weighted mean negative log likelihood of log-odds."""
    w = np.ones(len(margin)) if weight is None else weight
    return float(_loss(np.array([0.0, 1.0]), margin, died.astype(np.float64), w) / w.sum())


def _loss(beta: FloatArray, margin: FloatArray, y: FloatArray, w: FloatArray) -> float:
    z = beta[0] + beta[1] * margin
    return float((w * (np.logaddexp(0.0, z) - y * z)).sum())


def _information(x: FloatArray, w: FloatArray) -> FloatArray:
    # Element by element, not by a matrix product: the sum's order is then the same on every number of threads.
    return np.array([[(a * b * w).sum() for b in x] for a in x])
