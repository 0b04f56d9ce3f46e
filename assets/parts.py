"""Which stays train and which judge: drawn by hash of the record, the same for every candidate and every run.

Here: the draw of the house's candidates.
Not here: hashing (models.risk.cohort), the folds of a cross-validation (models.risk.cross_validation).
"""

from __future__ import annotations

from typing import Final

from models.risk.cohort import FOLDS, fold_of

SALT: Final = "vigil candidate 1"
"""Part of every candidate's manifest. Another salt is another draw: never change it to find a luckier one."""

TRAINING_FOLDS: Final = (0, 1, 2, 3, 4, 5, 6)
"""Of ten. The others are never seen by training, tuning or calibration."""

TRAIN: Final = "train"
HELD_OUT: Final = "held_out"
"""The words of the Medical Event Data Standard."""


def split_of(record_id: str) -> str:
    """Return which part a stay belongs to."""
    return TRAIN if fold_of(record_id, SALT, FOLDS) in TRAINING_FOLDS else HELD_OUT
