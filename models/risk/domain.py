"""When a model of risk does not speak: outside its hours, on too little, on old values, on patients unlike its own.

Here: the words, which rows they apply to, the columns they look at.
Not here: the limits (they are in each model's manifest), what a reader is told (twin.risk).
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from models import feature_table
from models.feature_table import FeatureTable
from models.risk.clinical_groups import group_of_columns
from models.risk.manifest import Limits

OUTSIDE_WINDOW: Final = "outside_window"
TOO_LITTLE_DATA: Final = "too_little_data"
STALE_INPUT: Final = "stale_input"
OUTSIDE_DOMAIN: Final = "outside_domain"
_WORDS: Final = ("", OUTSIDE_DOMAIN, STALE_INPUT, TOO_LITTLE_DATA, OUTSIDE_WINDOW)
"""By rising precedence: a row with several reasons names the last of them."""

AGE: Final = "age_last_stay"
HOURS: Final = "hours_since_admission"


class Domain:
    """The limits of one model, over the columns of its feature table."""

    def __init__(
        self, table: FeatureTable, limits: Limits, low: NDArray[np.float64], high: NDArray[np.float64]
    ) -> None:
        """Find the columns that the limits are about.

        Args:
            table: the model's.
            limits: the model's.
            low: each column's smallest value in training, shape (columns,).
            high: its largest.
        """
        names = feature_table.names(table)
        groups = group_of_columns(table)
        self._limits = limits
        # How often something is charted is a habit of the house, and hours have limits of their own.
        self._judged = np.array(
            [i for i, name in enumerate(names) if "_share_of_hours_" not in name and name != HOURS], np.intp
        )
        self._low, self._high = low[self._judged], high[self._judged]
        self._age = names.index(AGE)
        self._since = np.array([i for i, name in enumerate(names) if name.endswith("_hours_since_stay")], np.intp)
        self._measured = [
            np.array([i for i, name in enumerate(names) if groups[i] == group and name.endswith("_last_stay")], np.intp)
            for group in limits.key_groups
        ]

    def groups_measured(self, features: NDArray[np.float32]) -> NDArray[np.int64]:
        """Return how many key groups have any value since admission, shape (rows,)."""
        found = np.zeros(len(features), np.int64)
        for columns in self._measured:
            found += ~np.isnan(features[:, columns]).all(axis=1)
        return found

    def share_outside(self, features: NDArray[np.float32]) -> NDArray[np.float64]:
        """Return what share of a row's measured features lies beyond what training saw, shape (rows,).

        Only what values say can lie beyond it; how often they were charted counts among the features all the same.
        """
        judged = features[:, self._judged]
        is_outside = (judged < self._low) | (judged > self._high)  # a comparison with NaN is false
        measured = np.maximum((~np.isnan(features)).sum(axis=1), 1)
        share: NDArray[np.float64] = is_outside.sum(axis=1) / measured
        return share

    def abstentions(self, features: NDArray[np.float32], minutes: NDArray[np.integer]) -> list[str]:
        """Return for each row why the model does not speak, "" where it does."""
        limits = self._limits
        age = features[:, self._age]
        since = features[:, self._since]
        since_any = np.where(np.isnan(since), np.inf, since).min(axis=1)
        code = np.zeros(len(features), np.int64)
        # An unknown age is too little data, not a child: only a known one can be outside.
        code[(age < limits.least_age_years) | (self.share_outside(features) > limits.largest_share_outside)] = 1
        code[since_any > limits.stale_after_hours] = 2
        code[(self.groups_measured(features) < limits.least_groups) | np.isnan(age)] = 3
        code[(minutes < limits.first_minute) | (minutes > limits.last_minute)] = 4
        return [_WORDS[each] for each in code]
