"""How far two samples of one column lie apart, by named measures, in numpy.

Here: population stability index, Jensen–Shannon distance, Wasserstein distance in standard deviations, the p-value of
Kolmogorov and Smirnov; equal to Evidently's of the same names to 1e-9. Whether it is more than chance.
Not here: which columns and limits, Evidently beside them (validation.drift).
Source: Siddiqi 2006, Credit Risk Scorecards; Lin 1991, IEEE Trans Inf Theory 37:145; Vallender 1974, Theory Probab
Appl 18:784; Holm 1979, Scand J Stat 6:65; Wei and Dudley 2012, Stat Probab Lett 82:636 (two samples). Conventions of
Evidently 0.7.23: Sturges' bins over both samples, categories where the reference has at most 20 distinct values, 0.0001
for an empty bin, a least standard deviation of 0.001.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from validation.model_protocol import DriftMethod

FloatArray = NDArray[np.float64]

_MOST_CATEGORIES: Final = 20
_EMPTY_BIN: Final = 0.0001
_LEAST_DEVIATION: Final = 0.001


def distance(method: DriftMethod, reference: FloatArray, current: FloatArray) -> float | None:
    """Return how far apart two samples lie by the named method; of `ks`, the p-value.

    Args:
        method: psi, jensenshannon, wasserstein or ks.
        reference: of shape (rows,); what is not finite does not count.
        current: of shape (other rows,).

    Returns:
        None where either has no finite value.
    """
    before, after = reference[np.isfinite(reference)], current[np.isfinite(current)]
    if not len(before) or not len(after):
        return None
    if method == "psi":
        return population_stability_index(before, after)
    if method == "jensenshannon":
        return jensen_shannon(before, after)
    if method == "wasserstein":
        return wasserstein(before, after)
    return kolmogorov_smirnov(before, after)


def population_stability_index(reference: FloatArray, current: FloatArray) -> float:
    """Return the population stability index of two finite, non-empty samples."""
    before, after = (_without_empty(shares) for shares in _shares(reference, current))
    return float(np.sum((before - after) * np.log(before / after)))


def jensen_shannon(reference: FloatArray, current: FloatArray) -> float:
    """Return the Jensen–Shannon distance (root of the divergence, natural logarithm) of two non-empty samples."""
    before, after = _shares(reference, current)
    before, after = before / before.sum(), after / after.sum()
    middle = (before + after) / 2
    divergence = _relative_entropy(before, middle) + _relative_entropy(after, middle)
    return float(np.sqrt(max(0.0, divergence) / 2))


def wasserstein(reference: FloatArray, current: FloatArray) -> float:
    """Return the first Wasserstein distance of two non-empty samples over the reference's standard deviation."""
    both = np.sort(np.concatenate([reference, current]))
    gaps = np.diff(both)
    before = np.searchsorted(np.sort(reference), both[:-1], side="right") / len(reference)
    after = np.searchsorted(np.sort(current), both[:-1], side="right") / len(current)
    return float(np.sum(np.abs(before - after) * gaps) / max(float(np.std(reference)), _LEAST_DEVIATION))


def kolmogorov_smirnov(reference: FloatArray, current: FloatArray) -> float:
    """Return the two-sided two-sample p-value, exact where both have at most 10,000 values."""
    from scipy.stats import ks_2samp  # type: ignore[import-untyped]

    return float(ks_2samp(reference, current).pvalue)


def chance(reference: FloatArray, current: FloatArray) -> float:
    """Return a bound on how probable so different samples are where nothing changed: Dvoretzky–Kiefer–Wolfowitz.

    Of two samples, with Massart's constant; what is not finite does not count. 1 where either is empty.
    """
    before, after = np.sort(reference[np.isfinite(reference)]), np.sort(current[np.isfinite(current)])
    if not len(before) or not len(after):
        return 1.0
    both = np.concatenate([before, after])
    gap = np.abs(
        np.searchsorted(before, both, side="right") / len(before)
        - np.searchsorted(after, both, side="right") / len(after)
    ).max()
    size = len(before) * len(after) / (len(before) + len(after))
    return float(min(1.0, 2 * np.exp(-2 * size * gap * gap)))


def holm(p_values: Sequence[float]) -> list[float]:
    """Return Holm's adjusted p-values, in the order given."""
    order = np.argsort(p_values, kind="stable")
    adjusted = [0.0] * len(p_values)
    largest = 0.0
    for rank, place in enumerate(order.tolist()):
        largest = max(largest, min(1.0, p_values[place] * (len(p_values) - rank)))
        adjusted[place] = largest
    return adjusted


def _shares(reference: FloatArray, current: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return the share of each sample in common bins, or in each distinct value where the reference has few."""
    if len(np.unique(reference)) > _MOST_CATEGORIES:
        edges = np.histogram_bin_edges(np.concatenate([reference, current]), bins="sturges")
        before, after = np.histogram(reference, edges)[0], np.histogram(current, edges)[0]
    else:
        values, place = np.unique(np.concatenate([reference, current]), return_inverse=True)
        before = np.bincount(place[: len(reference)], minlength=len(values))
        after = np.bincount(place[len(reference) :], minlength=len(values))
    return before / len(reference), after / len(current)


def _without_empty(shares: FloatArray) -> FloatArray:
    """Return shares with something in every bin, so that its logarithm exists."""
    least = float(shares[shares > 0].min())
    return np.where(shares == 0, least / 10**6 if least <= _EMPTY_BIN else _EMPTY_BIN, shares)


def _relative_entropy(shares: FloatArray, middle: FloatArray) -> float:
    there = shares > 0
    return float(np.sum(shares[there] * np.log(shares[there] / middle[there])))
