"""Baselines that always ride along: what others would have said of the same stays, on the same folds.

Here: a plain gradient boosting, a plain logistic regression, a score made a probability.
Not here: the scores themselves (models.risk.saps, sofa, news2_measured), folds (models.risk.cross_validation), our own
model (models.risk.training).

Plain means as their users use them: rows of the primary hour, defaults but for what keeps them from failing.
Imputation, scaling and the penalty's choice happen inside the training part.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from models.risk import calibration
from models.risk.cohort import folds_of

FloatArray = NDArray[np.float64]

LEAST_SHARE: Final = 0.01
"""Of training rows that must have a column: HistGradientBoosting fails on a column that is missing throughout."""
PENALTIES: Final = (0.0003, 0.001, 0.003, 0.01)
_INNER: Final = 3


def hist_gradient_boosting(
    features: NDArray[np.float32], died: NDArray[np.bool_], unseen: NDArray[np.float32], seed: int
) -> FloatArray:
    """Return the probabilities a scikit-learn HistGradientBoostingClassifier of default settings gives unseen rows."""
    from sklearn.ensemble import HistGradientBoostingClassifier  # type: ignore[import-untyped]
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    kept = _told(features)
    with threadpool_limits(1):
        model = HistGradientBoostingClassifier(random_state=seed).fit(features[:, kept], died)
        return np.asarray(model.predict_proba(unseen[:, kept])[:, 1], np.float64)


def logistic_regression(
    features: NDArray[np.float32], died: NDArray[np.bool_], record_ids: list[str], unseen: NDArray[np.float32]
) -> FloatArray:
    """Return the probabilities of a ridge logistic regression on median-imputed, standardised features.

    The penalty is chosen by inner folds of the training part, by log loss.
    """
    from sklearn.linear_model import LogisticRegression  # type: ignore[import-untyped]
    from threadpoolctl import threadpool_limits

    def margins(x: NDArray[np.float32], y: NDArray[np.bool_], z: NDArray[np.float32], c: float) -> FloatArray:
        kept = _told(x)
        middle = np.nanmedian(x[:, kept], axis=0).astype(np.float64)
        design = np.where(np.isnan(x[:, kept]), middle, x[:, kept])
        mean, scale = design.mean(axis=0), design.std(axis=0)
        scale[scale == 0] = 1.0
        model = LogisticRegression(C=c, max_iter=300).fit((design - mean) / scale, y)
        other = (np.where(np.isnan(z[:, kept]), middle, z[:, kept]) - mean) / scale
        return np.asarray(other @ model.coef_[0] + model.intercept_[0], np.float64)

    inner = folds_of(record_ids, "logistic regression", _INNER)
    with threadpool_limits(1):
        losses = []
        for c in PENALTIES:
            found = np.empty(len(died))
            for fold in range(_INNER):
                is_out = inner == fold
                found[is_out] = margins(features[~is_out], died[~is_out], features[is_out], c)
            losses.append(calibration.log_loss(found, died))
        return calibration.probability(margins(features, died, unseen, PENALTIES[int(np.argmin(losses))]))


def of_score(score: FloatArray, died: NDArray[np.bool_], unseen: FloatArray) -> FloatArray:
    """Return a score as probabilities, by a logistic line fitted in the training part.

    Args:
        score: of training stays; NaN where it could not be made, which counts as the training median.
        died: their outcomes.
        unseen: the score of unseen stays.
    """
    middle = float(np.nanmedian(score)) if not np.isnan(score).all() else 0.0
    known = np.where(np.isnan(score), middle, score)
    centre, spread = known.mean(), known.std() or 1.0
    line = calibration.line((known - centre) / spread, died)
    other = (np.where(np.isnan(unseen), middle, unseen) - centre) / spread
    return calibration.probability(calibration.apply(line, other))


def _told(features: NDArray[np.float32]) -> NDArray[np.intp]:
    """Return the columns that enough rows have and that are not the same everywhere."""
    is_there = ~np.isnan(features)
    low = np.where(is_there, features, np.inf).min(axis=0)
    high = np.where(is_there, features, -np.inf).max(axis=0)
    return np.flatnonzero((is_there.mean(axis=0) >= LEAST_SHARE) & (low < high))
