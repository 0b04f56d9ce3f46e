"""Rates of groups from their confusion counts, with intervals: the arithmetic of the bias audit, in numpy.

Here: confusion counts by group, rates of many draws at once, observed to expected deaths, AUROC with DeLong's variance.
Not here: which groups and bounds, Fairlearn beside them (validation.bias).
Source: Rubin 1981, Ann Stat 9:130 (Bayesian bootstrap), with Jeffreys' half a stay in each cell, so that a group
without an error does not pass for one that cannot err; DeLong et al. 1988, Biometrics 44:837; Sun and Xu 2014, IEEE
Signal Process Lett 21:1389 (by midranks).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from validation import intervals

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]

CELLS: Final = ("true_positive", "false_positive", "false_negative", "true_negative")


class Ranking(NamedTuple):
    """AUROC and its variance; NaN where a class is missing."""

    area: float
    variance: float


def confusion_by_group(
    outcome: BoolArray, is_chosen: BoolArray, group: NDArray[np.int64], groups: int
) -> NDArray[np.int64]:
    """Return counts of shape (groups, 4), in the order of `CELLS`."""
    cell = np.where(is_chosen, np.where(outcome, 0, 1), np.where(outcome, 2, 3))
    return np.bincount(group * 4 + cell, minlength=groups * 4).reshape(groups, 4)


def rates(counts: NDArray[np.float64] | NDArray[np.int64]) -> dict[str, FloatArray]:
    """Return every rate of confusion counts of shape (…, 4), NaN where there is nothing to divide by."""
    caught, needless, missed, spared = np.moveaxis(np.asarray(counts, np.float64), -1, 0)
    return {
        "false_negative_rate": _ratio(missed, caught + missed),
        "false_positive_rate": _ratio(needless, needless + spared),
        "selection_rate": _ratio(caught + needless, caught + needless + missed + spared),
        "positive_predictive_value": _ratio(caught, caught + needless),
    }


DENOMINATORS: Final[Mapping[str, Callable[[NDArray[np.int64]], int]]] = {
    "false_negative_rate": lambda counts: int(counts[0] + counts[2]),
    "false_positive_rate": lambda counts: int(counts[1] + counts[3]),
    "selection_rate": lambda counts: int(counts.sum()),
    "positive_predictive_value": lambda counts: int(counts[0] + counts[1]),
    "observed_to_expected": lambda counts: int(counts[0] + counts[2]),
    "auroc": lambda counts: int(min(counts[0] + counts[2], counts[1] + counts[3])),
}
"""What a rate is made of: so many stays, deaths or survivors, of one group's counts (4,)."""


def draws(counts: NDArray[np.int64], repetitions: int, generator: np.random.Generator) -> FloatArray:
    """Return what the shares of the four cells may be, of shape (groups, repetitions, 4).

    Dirichlet draws given counts of shape (groups, 4); groups are drawn independently.
    """
    shape = (len(counts), repetitions, 4)
    drawn = generator.standard_gamma(np.broadcast_to(counts[:, None, :] + 0.5, shape))
    result: FloatArray = drawn / drawn.sum(axis=2, keepdims=True)
    return result


def observed_to_expected(
    outcome: BoolArray, probability: FloatArray, level: float
) -> tuple[float, intervals.Interval | None]:
    """Return observed over expected deaths with its interval: delta method over stays, on the logarithm."""
    observed, expected = float(outcome.sum()), float(probability.sum())
    if not expected > 0:
        return math.nan, None
    if not observed:
        return 0.0, None
    spread = math.sqrt(float(np.sum((outcome / observed - probability / expected) ** 2)))
    half = intervals.deviate(level) * spread
    ratio = observed / expected
    return ratio, (ratio * math.exp(-half), ratio * math.exp(half))


def ranking(outcome: BoolArray, probability: FloatArray) -> Ranking:
    """Return AUROC and DeLong's variance of it."""
    deaths, others = int(outcome.sum()), int((~outcome).sum())
    if deaths < 2 or others < 2:
        return Ranking(math.nan, math.nan)
    whole = _midranks(probability)
    above = (whole[outcome] - _midranks(probability[outcome])) / others
    below = 1 - (whole[~outcome] - _midranks(probability[~outcome])) / deaths
    variance = float(np.var(above, ddof=1)) / deaths + float(np.var(below, ddof=1)) / others
    return Ranking(float(above.mean()), variance)


def difference_of_rankings(one: Ranking, other: Ranking, level: float) -> intervals.Interval | None:
    """Return the interval of the difference of two independent AUROCs; None without a variance."""
    variance = one.variance + other.variance
    if not variance > 0:
        return None
    half = intervals.deviate(level) * math.sqrt(variance)
    return one.area - other.area - half, one.area - other.area + half


def _midranks(values: FloatArray) -> FloatArray:
    """Return ranks from 1, ties sharing their mean."""
    _, place, count = np.unique(values, return_inverse=True, return_counts=True)
    upto = np.cumsum(count)
    result: FloatArray = (upto - (count - 1) / 2)[place]
    return result


def _ratio(above: FloatArray, below: FloatArray) -> FloatArray:
    result: FloatArray = np.divide(above, below, out=np.full(np.shape(below), np.nan), where=below > 0)
    return result
