"""A real model, small enough to be trained in a test: two Boosters over the house's feature table.

Here: stays drawn at random whose severity shows, training on them, the artefact's bytes.
Not here: the house's own training (models.risk.training).
"""

from __future__ import annotations

import hashlib
from typing import NamedTuple

import numpy as np
import xgboost

from models import feature_table, stay_features
from models.risk import manifest
from models.risk.manifest import Calibration, FeatureSet, Limits, Manifest, Member, Training
from models.stay_series import StaySeries, bins_of_series
from stores.model_files import ModelFiles
from vocabulary.concepts import by_key

TABLE = feature_table.MORTALITY


class Made(NamedTuple):
    """A model as bytes."""

    body: bytes
    members: tuple[bytes, ...]

    @property
    def digest(self) -> str:
        """What rows name it by."""
        return manifest.digest(self.body)

    def keep(self, files: ModelFiles) -> str:
        """Put all its files into a folder; return its digest."""
        for member in self.members:
            files.put(member)
        return files.put(self.body)


def random_stay(rng: np.random.Generator, severity: float) -> StaySeries:
    """A stay of eight hours, the sicker the larger `severity`."""
    series = StaySeries()
    series.put(by_key("age").number, 0, float(rng.integers(30, 90)))
    for minute in range(0, 480, int(rng.integers(5, 40))):
        series.put(by_key("heart_rate").number, minute, 75 + 18 * severity + rng.normal(0, 5))
        series.put(by_key("respiratory_rate").number, minute, 16 + 4 * severity + rng.normal(0, 2))
        series.put(by_key("systolic_blood_pressure").number, minute, 125 - 15 * severity + rng.normal(0, 8))
    for minute in (60, 300):
        series.put(by_key("lactate").number, minute, max(0.3, 1.5 + 1.2 * severity + rng.normal(0, 0.4)))
        series.put(by_key("creatinine").number, minute, max(20.0, 90 + 40 * severity + rng.normal(0, 15)))
    return series


def train(seed: int, *, is_synthetic: bool = True, least_groups: int = 1, first_minute: int = 0) -> Made:
    """Train on 240 stays; another seed is another model."""
    rng = np.random.default_rng(seed)
    severity = rng.normal(0, 1, 240)
    stays = [random_stay(rng, each) for each in severity]
    labels = (rng.random(240) < 1 / (1 + np.exp(1.5 - 1.5 * severity))).astype(np.float32)
    through = rng.integers(30, 480, 240).astype(np.int32)
    features = stay_features.compute(TABLE, bins_of_series(stays), np.arange(240, dtype=np.int32), through)
    members = []
    for part in range(2):
        data = xgboost.DMatrix(features[part::2], labels[part::2], nthread=1)
        parameters = {"max_depth": 3, "eta": 0.3, "objective": "binary:logistic", "nthread": 1, "seed": seed + part}
        members.append(bytes(xgboost.train(parameters, data, 12).save_raw("ubj")))
    columns = len(feature_table.names(TABLE))
    described = Manifest(
        scope="mortality",
        outcome="death before discharge from this hospital stay",
        is_synthetic=is_synthetic,
        protocol="mortality@1",
        protocol_digest="0" * 64,
        level=0.8,
        interval="between members",
        bounds_low=(-np.inf,) * columns,
        bounds_high=(np.inf,) * columns,
        features=FeatureSet(
            name=TABLE.name, version=TABLE.version, digest=feature_table.digest(TABLE), columns=columns
        ),
        calibration=Calibration(
            intercept=-0.1, slope=0.9, intercept_variance=0.01, slope_variance=0.01, covariance=0.0
        ),
        limits=Limits(
            first_minute=first_minute,
            last_minute=48 * 60,
            least_groups=least_groups,
            key_groups=("circulation", "kidney"),
            stale_after_hours=6.0,
            least_age_years=16.0,
            largest_share_outside=0.5,
        ),
        training=Training(
            stays=240,
            deaths=int(labels.sum()),
            hours=(8,),
            hour_weights=(1.0,),
            data_fingerprint="0" * 64,
            code_version="test",
            lock_digest="0" * 16,
            salt="test",
            folds=(0,),
            seed=seed,
            library=f"xgboost {xgboost.__version__}",
            chosen={},
        ),
        members=tuple(Member(kind="xgboost", digest=hashlib.sha256(each).hexdigest(), weight=0.5) for each in members),
        monotone=(),
        importance=(),
        references=(),
    )
    return Made(manifest.to_bytes(described), tuple(members))
