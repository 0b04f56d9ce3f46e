"""Severity scores over many rows at once: points by bands of the worst value of a window.

Here: a table of bands as data, the points of rows, the share of components that were measured.
Not here: which bands (models.risk.saps, models.risk.sofa), scores of one patient for a card (models.risk.banded).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from models import feature_table, stay_features
from models.feature_table import FeatureTable
from models.stay_series import Bins

FloatArray = NDArray[np.float64]


class Bands(NamedTuple):
    """Points by value: `points[i]` from `edges[i-1]` (included) to `edges[i]` (excluded); the ends are open."""

    edges: tuple[float, ...]  # rising
    points: tuple[int, ...]  # one more than edges

    def of(self, values: FloatArray) -> FloatArray:
        """Return points, NaN where there is no value; shape of `values`."""
        found = np.asarray(self.points, np.float64)[np.searchsorted(self.edges, values, side="right")]
        return np.where(np.isnan(values), np.nan, found)


class Totals(NamedTuple):
    """A score of rows."""

    total: FloatArray  # of the components that could be judged; NaN where none could; shape (rows,)
    coverage: FloatArray  # share of components that could be judged, 0..1


class Columns:
    """Features of rows by name, in double precision."""

    def __init__(self, table: FeatureTable, bins: Bins, stays: NDArray[np.int32], minutes: NDArray[np.int32]) -> None:
        """Compute a table's features for pairs of a stay and the last minute that counts."""
        self._place = {name: place for place, name in enumerate(feature_table.names(table))}
        self._values = stay_features.compute(table, bins, stays, minutes).astype(np.float64)

    def __getitem__(self, name: str) -> FloatArray:
        """Return one column, shape (rows,)."""
        return self._values[:, self._place[name]]


def worst(bands: Bands, *values: FloatArray) -> FloatArray:
    """Return the most points any of the values has (least and greatest of a window, say); NaN without any."""
    found = np.stack([bands.of(one) for one in values])
    return largest(found)


def largest(points: FloatArray) -> FloatArray:
    """Return the largest along the first axis, not looking at NaN; NaN where there is nothing else."""
    is_missing = np.isnan(points)
    found = np.where(is_missing, -np.inf, points).max(axis=0)
    return np.where(is_missing.all(axis=0), np.nan, found)


def total(components: list[FloatArray]) -> Totals:
    """Add components up; a missing one adds nothing, as published scores assume normal what was not measured."""
    stacked = np.stack(components)
    is_there = ~np.isnan(stacked)
    summed = np.where(is_there, stacked, 0.0).sum(axis=0)
    return Totals(np.where(is_there.any(axis=0), summed, np.nan), is_there.mean(axis=0))
