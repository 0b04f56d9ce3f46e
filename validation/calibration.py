"""Whether said risks are true: intercept, slope, and how far the smoothed truth lies from what was said.

Here: logistic recalibration for one or a thousand sets of weights, the calibration curve by tenths and by spline.
Not here: ranking and accuracy (validation.metrics), judging (validation.clinical), repairing it (models.risk).
Source: Cox 1958, Biometrika 45:562 (recalibration); Van Calster et al. 2019, BMC Med 17:230 (intercept at slope 1);
Austin and Steyerberg 2019, Stat Med 38:4051 (integrated calibration index); Harrell 2015, Regression Modeling
Strategies, section 2.4.5 (restricted cubic spline, knots at the 5th, 35th, 65th, 95th percentile).
"""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from validation.metrics import checked

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]

_MARGIN: Final = 1e-12
"""Probabilities are kept this far from 0 and 1, whose logarithm of odds is infinite."""
_KNOTS: Final = (0.05, 0.35, 0.65, 0.95)
_STEPS: Final = 60
_CONVERGED: Final = 1e-11
_SEPARATED: Final = 1e4
"""A coefficient beyond this means that the classes are separated: the likelihood has no maximum."""
_PERFECT: Final = 1e-7
"""A mean log likelihood nearer to zero means the same."""


class CalibrationCurve(NamedTuple):
    """Tenths of the stays by rising risk: what was said, what happened."""

    said: FloatArray  # mean probability of the group
    seen: FloatArray  # share that died
    stays: NDArray[np.int64]
    events: NDArray[np.int64]


def calibration(labels: ArrayLike, probabilities: ArrayLike) -> tuple[float | None, float | None]:
    """Return (intercept, slope) of logistic recalibration.

    The intercept is calibration in the large: the constant to add to everybody's log odds, slope held at 1; above zero
    more happened than was said. The slope is that of log odds of the outcome on log odds said; below 1 too extreme.

    Args:
        labels: 0 or 1, of shape (rows,).
        probabilities: of the same shape.

    Returns:
        None for what has no finite estimate: one class only, all probabilities alike, classes separated by them.
    """
    outcome, probability = checked(labels, probabilities, is_probability=True)
    once = np.ones((1, len(outcome)))
    intercept = float(intercept_weighted(outcome, probability, once)[0])
    slope = float(slope_weighted(outcome, probability, once)[0])
    return intercept if np.isfinite(intercept) else None, slope if np.isfinite(slope) else None


def intercept_weighted(outcome: BoolArray, probability: FloatArray, weights: FloatArray) -> FloatArray:
    """Return calibration in the large of each repetition; weights as in validation.metrics."""
    return _fit(np.ones((len(outcome), 1)), log_odds(probability), outcome, weights)[:, 0]


def slope_weighted(outcome: BoolArray, probability: FloatArray, weights: FloatArray) -> FloatArray:
    """Return the calibration slope of each repetition."""
    said = log_odds(probability)
    if len(said) and np.ptp(said) == 0:
        return np.full(len(weights), np.nan)
    return _fit(np.column_stack([np.ones_like(said), said]), np.zeros_like(said), outcome, weights)[:, 1]


def curve(labels: ArrayLike, probabilities: ArrayLike, groups: int = 10) -> CalibrationCurve:
    """Return the calibration curve of equally many stays a group; equal probabilities stay together."""
    outcome, probability = checked(labels, probabilities, is_probability=True)
    place = _groups(probability, groups)
    count = np.bincount(place, minlength=groups)
    kept = count > 0
    said = np.bincount(place, probability, minlength=groups)[kept] / count[kept]
    events = np.bincount(place, outcome, minlength=groups)[kept]
    return CalibrationCurve(said, events / count[kept], count[kept].astype(np.int64), events.astype(np.int64))


def expected_calibration_error(labels: ArrayLike, probabilities: ArrayLike, groups: int = 10) -> float | None:
    """Return the mean distance of said from seen over equally large groups, weighted by their stays."""
    found = curve(labels, probabilities, groups)
    return float(np.average(np.abs(found.said - found.seen), weights=found.stays)) if len(found.stays) else None


def expected_calibration_error_weighted(
    outcome: BoolArray, probability: FloatArray, weights: FloatArray, groups: int = 10
) -> FloatArray:
    """Return the expected calibration error of each repetition, groups as they are without weights."""
    member = np.eye(groups)[_groups(probability, groups)]
    gap = np.abs((weights * (probability - outcome)) @ member).sum(axis=1)
    total = weights.sum(axis=1)
    result: FloatArray = np.divide(gap, total, out=np.full(len(weights), np.nan), where=total > 0)
    return result


def smoothed(labels: ArrayLike, probabilities: ArrayLike, at: ArrayLike | None = None) -> FloatArray | None:
    """Return what happened, smoothed over what was said: logistic regression on a restricted cubic spline of log odds.

    Args:
        labels: 0 or 1, of shape (rows,).
        probabilities: of the same shape.
        at: probabilities at which to read the curve; None: at those said.

    Returns:
        None where the four knots do not differ or no finite fit exists.
    """
    outcome, probability = checked(labels, probabilities, is_probability=True)
    if not len(outcome):
        return None
    said = log_odds(probability)
    knots = np.quantile(said, _KNOTS)
    if np.any(np.diff(knots) <= 0):
        return None
    fitted = _fit(_spline(said, knots), np.zeros_like(said), outcome, np.ones((1, len(said))))[0]
    if not np.all(np.isfinite(fitted)):
        return None
    where = said if at is None else log_odds(np.asarray(at, np.float64))
    return _expit(_spline(where, knots) @ fitted)


def integrated_calibration_index(labels: ArrayLike, probabilities: ArrayLike) -> float | None:
    """Return the mean distance of the smoothed truth from what was said (ICI); None where nothing can be smoothed."""
    truth = smoothed(labels, probabilities)
    return None if truth is None else float(np.mean(np.abs(truth - np.asarray(probabilities, np.float64))))


def log_odds(probability: FloatArray) -> FloatArray:
    """Return log(p / (1 − p)), with p kept a little away from 0 and 1."""
    inside = np.clip(probability, _MARGIN, 1 - _MARGIN)
    result: FloatArray = np.log(inside) - np.log1p(-inside)
    return result


def _groups(probability: FloatArray, groups: int) -> NDArray[np.int64]:
    """Return the group of each row: by rank, ties all in the group of their first."""
    first = np.searchsorted(np.sort(probability), probability, side="left")
    return (first * groups // max(1, len(probability))).astype(np.int64)


def _spline(x: FloatArray, knots: FloatArray) -> FloatArray:
    """Return Harrell's basis: constant, linear, and one column for each knot but the last two."""
    last, before = knots[-1], knots[-2]
    columns = [np.ones_like(x), x]
    for knot in knots[:-2]:
        bent = (
            np.maximum(x - knot, 0) ** 3
            - np.maximum(x - before, 0) ** 3 * (last - knot) / (last - before)
            + np.maximum(x - last, 0) ** 3 * (before - knot) / (last - before)
        )
        columns.append(bent / (last - knots[0]) ** 2)
    return np.column_stack(columns)


def _fit(design: FloatArray, offset: FloatArray, outcome: BoolArray, weights: FloatArray) -> FloatArray:
    """Return maximum likelihood coefficients of each repetition by Newton's method, NaN where none exist.

    Args:
        design: (rows, columns).
        offset: added to the linear predictor, (rows,).
        outcome: (rows,).
        weights: (repetitions, rows).
    """
    repetitions, columns = len(weights), design.shape[1]
    found = np.full((repetitions, columns), np.nan)
    events = weights @ outcome.astype(np.float64)
    open_ = np.flatnonzero((events > 0) & (events < weights.sum(axis=1)))
    if not len(open_):
        return found
    squares = (design[:, :, None] * design[:, None, :]).reshape(len(design), columns * columns)
    beta = np.zeros((len(open_), columns))
    active = weights[open_]
    pull = (active * outcome) @ design
    likelihood = np.full(len(open_), -np.inf)
    step = np.zeros_like(beta)
    for _ in range(_STEPS):
        said = _expit(beta @ design.T + offset)
        new = _log_likelihood(said, outcome, active)
        worse = new < likelihood - 1e-9 * np.abs(likelihood)
        if np.any(worse):  # too long a step: halve it and look again
            step[worse] /= 2
            beta[worse] -= step[worse]
            continue
        likelihood = new
        gradient = pull - (active * said) @ design
        information = ((active * said * (1 - said)) @ squares).reshape(-1, columns, columns)
        step = _solve(information, gradient)
        beta = beta + step
        is_done = np.all(np.abs(step) <= _CONVERGED * (1 + np.abs(beta)), axis=1)
        is_lost = ~np.all(np.abs(beta) < _SEPARATED, axis=1)  # NaN too
        is_lost |= likelihood > -_PERFECT * active.sum(axis=1)
        found[open_[is_done & ~is_lost]] = beta[is_done & ~is_lost]
        left = ~(is_done | is_lost)
        if not np.any(left):
            break
        open_, beta, step, active, pull, likelihood = (
            part[left] for part in (open_, beta, step, active, pull, likelihood)
        )
    return found


def _log_likelihood(said: FloatArray, outcome: BoolArray, weights: FloatArray) -> FloatArray:
    likely = np.where(outcome, said, 1 - said)
    result: FloatArray = (weights * np.log(np.maximum(likely, 1e-300))).sum(axis=1)
    return result


def _solve(information: FloatArray, gradient: FloatArray) -> FloatArray:
    """Return Newton's steps, NaN where the information is singular."""
    try:
        steps = np.asarray(np.linalg.solve(information, gradient[:, :, None])[:, :, 0], np.float64)
    except np.linalg.LinAlgError:
        steps = np.full_like(gradient, np.nan)
        for row in range(len(gradient)):
            try:
                steps[row] = np.linalg.solve(information[row], gradient[row])
            except np.linalg.LinAlgError:
                continue
    return steps


def _expit(x: FloatArray) -> FloatArray:
    """Return 1 / (1 + exp(−x)) without overflow."""
    shrunk = np.exp(-np.abs(x))
    result: FloatArray = np.where(x >= 0, 1 / (1 + shrunk), shrunk / (1 + shrunk))
    return result
