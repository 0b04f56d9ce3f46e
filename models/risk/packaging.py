"""From what was learned to an artefact: the manifest, its members, the references a live watch compares with.

Here: `Ensemble` as training hands it over, what the caller must know (`Ancestry`), the artefact (`TrainedModel`).
Not here: learning (models.risk.training), the manifest's shape (models.risk.manifest), files (stores.model_files).
"""

from __future__ import annotations

import hashlib
from typing import Final, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from models import feature_table
from models.feature_table import FeatureTable
from models.risk import artefact, fitting, manifest
from models.risk.additive import AdditiveMember
from models.risk.artefact import RiskModel
from models.risk.cohort import Cohort, fingerprint
from models.risk.fitting import Recipe
from models.risk.manifest import Calibration, Limits, Manifest, Reference
from models.risk.monotone import DIRECTIONS
from vocabulary import concepts

FloatArray = NDArray[np.float64]

LEVEL: Final = 0.8
"""Of the interval: wide enough to matter, narrow enough to be read."""

LEVELS: Final = (0.005, 0.01, 0.025, *(round(0.05 * step, 2) for step in range(1, 20)), 0.975, 0.99, 0.995)
"""Of the references that a live watch compares inputs with."""


class Choice(NamedTuple):
    """What tuning chose."""

    recipe: Recipe  # with the rounds chosen
    additive_share: float
    log_loss: float  # of the out-of-fold rows, recalibrated


class Ensemble(NamedTuple):
    """What was learned from one training part."""

    boosters: tuple[bytes, ...]  # UBJSON, one an inner fold
    additive: AdditiveMember | None
    choice: Choice
    calibration: Calibration
    margins: dict[int, FloatArray]  # out-of-fold, uncalibrated, by hour, shape (stays,)


class Ancestry(msgspec.Struct, frozen=True, kw_only=True):
    """What the caller knows about a training and the manifest must say."""

    scope: str
    outcome: str
    protocol: str  # "mortality@1"
    protocol_digest: str
    code_version: str
    lock_digest: str
    salt: str
    folds: tuple[int, ...]  # of the ten that the stays lie in; empty for others
    seed: int


class TrainedModel(NamedTuple):
    """An artefact: the manifest and the members it names, each under its SHA-256."""

    manifest: bytes
    members: dict[str, bytes]
    digest: str
    choice: Choice

    def load(self) -> RiskModel:
        """Return the model as whoever reads it from files gets it."""
        return artefact.load(self.manifest, self.members.__getitem__)


def package(
    table: FeatureTable,
    ensemble: Ensemble,
    ancestry: Ancestry,
    *,
    cohort: Cohort,
    stays: NDArray[np.int32],
    limits: Limits,
    bounds: tuple[FloatArray, FloatArray],
    hours: tuple[int, ...],
    hour_weights: tuple[float, ...],
) -> TrainedModel:
    """Return an ensemble as an artefact, without the groups' importance."""
    import xgboost

    contents = [("xgboost", body) for body in ensemble.boosters]
    share = ensemble.choice.additive_share
    weights = [(1.0 - share) / len(ensemble.boosters)] * len(ensemble.boosters)
    if ensemble.additive is not None:
        contents.append(("additive", fitting.additive_bytes(ensemble.additive)))
        weights.append(share)
    members = {hashlib.sha256(body).hexdigest(): body for _, body in contents}
    chosen = ensemble.choice.recipe
    described = Manifest(
        scope=ancestry.scope,
        outcome=ancestry.outcome,
        is_synthetic=cohort.is_synthetic,
        protocol=ancestry.protocol,
        protocol_digest=ancestry.protocol_digest,
        level=LEVEL,
        interval=artefact.INTERVAL,
        bounds_low=tuple(bounds[0].tolist()),
        bounds_high=tuple(bounds[1].tolist()),
        features=manifest.FeatureSet(
            name=table.name,
            version=table.version,
            digest=feature_table.digest(table),
            columns=len(feature_table.names(table)),
        ),
        calibration=ensemble.calibration,
        limits=limits,
        training=manifest.Training(
            stays=len(stays),
            deaths=int(cohort.died[stays].sum()),
            hours=hours,
            hour_weights=hour_weights,
            data_fingerprint=fingerprint(cohort, stays),
            code_version=ancestry.code_version,
            lock_digest=ancestry.lock_digest,
            salt=ancestry.salt,
            folds=ancestry.folds,
            seed=ancestry.seed,
            library=f"xgboost {xgboost.__version__}",
            chosen={
                "depth": float(chosen.depth),
                "rounds": float(chosen.rounds),
                "eta": chosen.eta,
                "rows": chosen.rows,
                "columns": chosen.columns,
                "smallest_child": chosen.smallest_child,
                "shrinkage": chosen.shrinkage,
                "additive_share": share,
                "log_loss": ensemble.choice.log_loss,
            },
        ),
        members=tuple(
            manifest.Member(kind="xgboost" if kind == "xgboost" else "additive", digest=digest, weight=weight)
            for (kind, _), digest, weight in zip(contents, members, weights, strict=True)
        ),
        monotone=tuple(manifest.Monotone(series=one.series, sign=one.sign, source=one.source) for one in DIRECTIONS),
        importance=(),
        references=_references(table, cohort, stays),
    )
    body = manifest.to_bytes(described)
    return TrainedModel(body, members, manifest.digest(body), ensemble.choice)


def _references(table: FeatureTable, cohort: Cohort, stays: NDArray[np.int32]) -> tuple[Reference, ...]:
    """Return quantiles over stays of the median of each stay's values, for every concept the model reads."""
    bins = cohort.bins
    is_chosen = np.zeros(bins.stays, np.bool_)
    is_chosen[stays] = True
    found = []
    for number in sorted(feature_table.concepts_of(table)):
        place = slice(*np.searchsorted(bins.concept, [number, number + 1]))
        kept = is_chosen[bins.stay[place]]
        stay, value = bins.stay[place][kept], bins.median[place][kept].astype(np.float64)
        if not len(value):
            continue
        starts = np.flatnonzero(np.concatenate([[True], stay[1:] != stay[:-1]]))
        medians = [float(np.median(part)) for part in np.split(value, starts[1:])]
        quantiles = tuple(float(one) for one in np.quantile(medians, LEVELS))
        found.append(Reference(concept=concepts.by_number(number).key, levels=LEVELS, values=quantiles))
    return tuple(found)
