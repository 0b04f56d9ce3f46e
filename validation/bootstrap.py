"""The bootstrap over stays: what an estimate would have been, had other patients been admitted.

Here: weights of resampled stays in blocks, percentile intervals of any weighted metric.
Not here: the metrics (validation.metrics, validation.calibration), the bootstrap of rates by group (validation.bias).
Source: Efron and Tibshirani 1993, An Introduction to the Bootstrap, chapters 8 and 13.

Whole stays are drawn, with replacement, not stratified by outcome: how many of the next patients die is chance too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

import numpy as np
from numpy.typing import NDArray

from validation import intervals

FloatArray = NDArray[np.float64]
Statistic = Callable[[FloatArray], FloatArray]
"""From weights (repetitions, rows) to one value a repetition."""

_BLOCK_CELLS: Final = 2_000_000
"""16 MB of weights at a time, whatever the number of stays."""


def resampled(stays: int, repetitions: int, seed: int) -> Iterator[FloatArray]:
    """Yield how often each stay was drawn, in blocks of shape (some repetitions, stays).

    The same number of stays and seed draw the same.
    """
    generator = np.random.default_rng(seed)
    rows = max(1, _BLOCK_CELLS // max(1, stays))
    for start in range(0, repetitions, rows):
        here = min(rows, repetitions - start)
        drawn = generator.integers(0, stays, size=(here, stays))
        place = drawn + np.arange(here)[:, None] * stays
        yield np.bincount(place.ravel(), minlength=here * stays).reshape(here, stays).astype(np.float64)


def statistics(stays: int, chosen: dict[str, Statistic], *, repetitions: int, seed: int) -> dict[str, FloatArray]:
    """Return every statistic on the same resampled stays, (repetitions,) each: so that differences pair."""
    if stays == 0:
        return {name: np.full(repetitions, np.nan) for name in chosen}
    parts: dict[str, list[FloatArray]] = {name: [] for name in chosen}
    for weights in resampled(stays, repetitions, seed):
        for name, statistic in chosen.items():
            parts[name].append(statistic(weights))
    return {name: np.concatenate(found) for name, found in parts.items()}


def percentile_intervals(
    stays: int, chosen: dict[str, Statistic], *, repetitions: int, seed: int, level: float
) -> dict[str, intervals.Interval | None]:
    """Return the percentile interval of every statistic, None where too few repetitions have a value."""
    found = statistics(stays, chosen, repetitions=repetitions, seed=seed)
    return {name: intervals.percentiles(values, level) for name, values in found.items()}
