"""Rates by group as Fairlearn computes them: the oracle and the second opinion of the bias audit.

Here: one MetricFrame of shares at a threshold, one of AUROC, joined.
Not here: our own rates, intervals and the verdict (validation.group_rates, validation.bias).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from validation.group_rates import BoolArray, FloatArray

if TYPE_CHECKING:
    import pandas as pd


def metric_frame(
    outcome: BoolArray, probability: FloatArray, members: NDArray[np.str_], threshold: float
) -> pd.DataFrame:
    """Return Fairlearn's rates by group: one row a group, one column a rate.

    Args:
        outcome: (stays,).
        probability: (stays,).
        members: group of each stay, (stays,).
        threshold: at or above it counts as selected.
    """
    import pandas as pd
    from fairlearn.metrics import (  # type: ignore[import-untyped]
        MetricFrame,
        false_negative_rate,
        false_positive_rate,
        selection_rate,
    )
    from sklearn.metrics import precision_score, roc_auc_score  # type: ignore[import-untyped]

    def precision(y_true: ArrayLike, y_pred: ArrayLike) -> float:
        return float(precision_score(y_true, y_pred, zero_division=np.nan))

    def area(y_true: ArrayLike, y_pred: ArrayLike) -> float:
        return float(roc_auc_score(y_true, y_pred)) if len(np.unique(np.asarray(y_true))) == 2 else math.nan

    label, chosen = outcome.astype(np.int64), (probability >= threshold).astype(np.int64)
    rates = MetricFrame(
        metrics={
            "false_negative_rate": false_negative_rate,
            "false_positive_rate": false_positive_rate,
            "selection_rate": selection_rate,
            "positive_predictive_value": precision,
        },
        y_true=label,
        y_pred=chosen,
        sensitive_features=members,
    )
    areas = MetricFrame(metrics={"auroc": area}, y_true=label, y_pred=probability, sensitive_features=members)
    joined: pd.DataFrame = pd.concat([rates.by_group, areas.by_group], axis=1)
    return joined
