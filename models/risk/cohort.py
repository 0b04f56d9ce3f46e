"""A cohort to learn from: stays as bins with what became of them, split by a hash of their record.

Here: labels, folds, rows (stays at hours), the fingerprint.
Not here: reading files (interop), features (models.stay_features), fitting (models.risk.training).

A fold is a property of the record and the salt alone: it does not depend on what else is in the cohort, so a stay that
was held out once is held out in every run, on every machine.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from models import feature_table, stay_features
from models.feature_table import FeatureTable
from models.stay_series import Bins, Recorded, bins_of_records
from vocabulary.errors import ConfigurationError

FOLDS = 10
"""Of the split that every candidate shares."""


class Ending(Protocol):
    """What became of a patient, e.g. interop.physionet2012.Outcome."""

    @property
    def died_in_hospital(self) -> bool:
        """Return whether the stay ended in death."""

    @property
    def saps_i(self) -> int | None:
        """Return the recorded SAPS-I, where there is one."""

    @property
    def sofa(self) -> int | None:
        """Return the recorded SOFA score, where there is one."""


class RecordedEnding(Recorded, Protocol):
    """A recorded stay, e.g. interop.physionet2012.RecordedStay."""

    @property
    def record_id(self) -> str:
        """Return the stay's identity within its data set."""

    @property
    def sex(self) -> str:
        """Return "female", "male" or "unknown": bias is judged by it, models never see it."""

    @property
    def outcome(self) -> Ending | None:
        """Return what became of the patient; None where it is not known."""


class Cohort(NamedTuple):
    """Stays whose outcome is known; columns of shape (stays,), in the order of `bins.stay`."""

    record_ids: tuple[str, ...]
    bins: Bins
    died: NDArray[np.bool_]
    saps_i: NDArray[np.float64]  # as recorded with the data; NaN where not
    sofa: NDArray[np.float64]
    sex: tuple[str, ...]
    is_synthetic: bool


def of_records(records: Sequence[RecordedEnding], *, is_synthetic: bool) -> Cohort:
    """Return the cohort of the stays whose outcome is known, ordered by record id.

    Args:
        records: in any order.
        is_synthetic: whether they were invented; whatever is made of them says so.

    Raises:
        ConfigurationError: no stay has an outcome, or a record comes twice.
    """
    known = sorted((one for one in records if one.outcome is not None), key=lambda one: one.record_id)
    if not known:
        raise ConfigurationError("expected stays with outcomes to learn from, found none; is Outcomes-a.txt there?")
    if len({one.record_id for one in known}) != len(known):
        raise ConfigurationError("expected each record once: a stay in two folds would be learned by heart")
    endings = [one.outcome for one in known if one.outcome is not None]
    return Cohort(
        tuple(one.record_id for one in known),
        bins_of_records(known),
        np.array([ending.died_in_hospital for ending in endings], np.bool_),
        np.array([np.nan if ending.saps_i is None else ending.saps_i for ending in endings], np.float64),
        np.array([np.nan if ending.sofa is None else ending.sofa for ending in endings], np.float64),
        tuple(one.sex for one in known),
        is_synthetic,
    )


def fold_of(record_id: str, salt: str, folds: int = FOLDS) -> int:
    """Return the fold of a record, 0..folds-1: SHA-256 of "salt:record" modulo `folds`."""
    return int.from_bytes(hashlib.sha256(f"{salt}:{record_id}".encode()).digest(), "big") % folds


def folds_of(record_ids: Sequence[str], salt: str, folds: int = FOLDS) -> NDArray[np.int64]:
    """Return the fold of each record, shape (records,)."""
    return np.array([fold_of(record_id, salt, folds) for record_id in record_ids], np.int64)


def stays_in(cohort: Cohort, salt: str, folds: Sequence[int]) -> NDArray[np.int32]:
    """Return the places of the stays that lie in some of the ten folds, rising."""
    return np.flatnonzero(np.isin(folds_of(cohort.record_ids, salt), folds)).astype(np.int32)


def features_at(
    table: FeatureTable, cohort: Cohort, stays: NDArray[np.int32], hours: Sequence[int]
) -> dict[int, NDArray[np.float32]]:
    """Return features of the stays at each hour, each of shape (stays, columns)."""
    return {
        hour: stay_features.compute(table, cohort.bins, stays, np.full(len(stays), 60 * hour, np.int32))
        for hour in hours
    }


def fingerprint(cohort: Cohort, stays: NDArray[np.int32] | None = None) -> str:
    """Return the SHA-256 of the bins, record ids and labels of a cohort, or of some of its stays; hexadecimal."""
    bins = cohort.bins
    chosen = np.arange(len(cohort.record_ids), dtype=np.int32) if stays is None else np.sort(stays)
    place = np.full(len(cohort.record_ids), -1, np.int32)
    place[chosen] = np.arange(len(chosen), dtype=np.int32)
    kept = place[bins.stay] >= 0
    found = hashlib.sha256()
    for column in (
        bins.concept[kept].astype("<i2"),
        place[bins.stay[kept]].astype("<i4"),
        bins.minute[kept].astype("<i4"),
        bins.median[kept].astype("<f4"),
        cohort.died[chosen].astype("u1"),
    ):
        found.update(column.tobytes())
    found.update("\n".join(cohort.record_ids[i] for i in chosen).encode())
    return found.hexdigest()


def concept_keys(table: FeatureTable) -> tuple[int, ...]:
    """Return the numbers of the concepts a table reads, rising."""
    return tuple(sorted(feature_table.concepts_of(table)))
