"""A trained model of risk: loaded by digest, it says a probability, an interval and its reasons, or abstains.

Here: loading, scoring, the interval, exact contributions summed into clinical groups.
Not here: training (models.risk.training), the manifest's shape (models.risk.manifest), features (models.stay_features),
files (stores.model_files), whether it may speak at all (governance.serving).
Source: Lundberg et al. 2020, Nat Mach Intell 2:56 (exact Shapley values of trees, path-dependent).

A row's estimate depends on its own features and minute only, bit for bit: one thread, sums in one fixed order, and the
Booster reads each row by itself. The interval tells how much the estimate itself is in doubt, not how a patient will
fare: log-odds plus and minus z·sd, with sd² the variance between members (each learned from another part of the cohort)
plus that of the calibration line at this point.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from statistics import NormalDist
from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from models import feature_table
from models.feature_table import FeatureTable
from models.risk import additive, manifest, ubjson
from models.risk.clinical_groups import GROUPS, WORDS, group_of_columns
from models.risk.domain import Domain
from models.risk.manifest import Manifest
from vocabulary.errors import ConfigurationError

if TYPE_CHECKING:
    import xgboost

FloatArray = NDArray[np.float64]

INTERVAL: Final = (
    "log-odds plus and minus z times the root of the variance between the ensemble's trees (each learned from another "
    "part of the cohort) and of the calibration line: doubt about the estimate, not about the patient's fate"
)


class Reason(NamedTuple):
    """What one clinical group adds to or takes from the log-odds."""

    group: str
    words: str
    log_odds: float


class Estimate(NamedTuple):
    """What the model says of one row, or why it does not."""

    probability: float | None  # None where it abstains
    low: float | None  # interval at `level`
    high: float | None
    level: float
    abstention: str  # "", "outside_window", "too_little_data", "stale_input", "outside_domain"
    reasons: tuple[Reason, ...]  # strongest first; empty where not asked for or where it abstains


class Scores(NamedTuple):
    """Columns of shape (rows,), abstentions not looked at."""

    margin: FloatArray  # calibrated log-odds
    deviation: FloatArray  # standard deviation of it
    probability: FloatArray
    low: FloatArray
    high: FloatArray


class ModelMismatchError(ConfigurationError):
    """The artefact's parts do not belong together, or this code no longer computes what it reads."""


class RiskModel:
    """One model, ready to score. Safe to use from one thread at a time."""

    def __init__(
        self,
        described: Manifest,
        digest: str,
        table: FeatureTable,
        boosters: Sequence[tuple[xgboost.Booster, float]],
        additives: Sequence[tuple[additive.Scorer, float]],
    ) -> None:
        """Put the parts together; `load` is the door.

        Args:
            described: the manifest.
            digest: SHA-256 of its bytes.
            table: its feature table.
            boosters: trees and their weights, with one thread each.
            additives: additive members and their weights.
        """
        self.manifest = described
        self.digest = digest
        self.table = table
        self._boosters = tuple(boosters)
        self.additives = tuple(additives)
        self._tree_weight = sum(weight for _, weight in boosters)
        self._z = NormalDist().inv_cdf(0.5 + described.level / 2)
        self.domain = Domain(table, described.limits, np.array(described.bounds_low), np.array(described.bounds_high))
        of_column = group_of_columns(table)
        self._columns_of = {
            group.key: np.array([i for i, one in enumerate(of_column) if one == group.key], np.intp) for group in GROUPS
        }
        self._terms_of = [
            {
                group.key: np.array(
                    [place for place, term in enumerate(scorer.member.terms) if of_column[term.column] == group.key],
                    np.intp,
                )
                for group in GROUPS
            }
            for scorer, _ in additives
        ]

    def scores(self, features: NDArray[np.float32]) -> Scores:
        """Return the arrays behind the estimates of all rows, whether the model may speak about them or not.

        Args:
            features: from models.stay_features.compute with this model's table, shape (rows, columns).
        """
        features = self._checked(features)
        trees = self._tree_margins(features)
        total = np.zeros(len(features))
        for (_, weight), margin in zip(self._boosters, trees, strict=True):
            total = total + weight * margin
        for scorer, weight in self.additives:
            total = total + weight * scorer.margin(features)
        calibration = self.manifest.calibration
        margin = calibration.intercept + calibration.slope * total
        deviation = np.sqrt(
            (calibration.slope * self._tree_weight) ** 2 * _variance(trees, len(features))
            + calibration.intercept_variance
            + 2.0 * total * calibration.covariance
            + total * total * calibration.slope_variance
        )
        reach = self._z * deviation
        return Scores(
            margin, deviation, _probability(margin), _probability(margin - reach), _probability(margin + reach)
        )

    def contributions(self, features: NDArray[np.float32]) -> tuple[FloatArray, FloatArray]:
        """Return each clinical group's exact share of the calibrated log-odds.

        Returns:
            The base, shape (rows,), and the groups' contributions in the order of `clinical_groups.GROUPS`, shape
            (rows, groups). Base and contributions add up to `Scores.margin`, but for single precision within trees.
        """
        import xgboost

        features = self._checked(features)
        slope = self.manifest.calibration.slope
        base = np.full(len(features), self.manifest.calibration.intercept)
        found = np.zeros((len(features), len(GROUPS)))
        if not len(features):
            return base, found
        data = xgboost.DMatrix(features, nthread=1) if self._boosters else None
        for booster, weight in self._boosters:
            parts = np.asarray(booster.predict(data, pred_contribs=True), np.float64)
            base = base + slope * weight * parts[:, -1]
            for place, group in enumerate(GROUPS):
                found[:, place] += slope * weight * additive.in_order(parts[:, self._columns_of[group.key]].T)
        for (scorer, weight), terms in zip(self.additives, self._terms_of, strict=True):
            parts = scorer.contributions(features)
            base = base + slope * weight * scorer.base
            for place, group in enumerate(GROUPS):
                found[:, place] += slope * weight * additive.in_order(parts[terms[group.key]])
        return base, found

    def score(
        self, features: NDArray[np.float32], minutes: NDArray[np.integer], *, with_reasons: bool = False
    ) -> list[Estimate]:
        """Return an estimate for each row.

        Args:
            features: from models.stay_features.compute with this model's table, shape (rows, columns).
            minutes: since admission, the last one that counts, shape (rows,).
            with_reasons: also explain each estimate: costs milliseconds a row.

        Raises:
            ValueError: arrays of other shapes.
        """
        features = self._checked(features)
        if minutes.shape != (len(features),):
            raise ValueError(f"expected {len(features)} minutes, found shape {minutes.shape}")
        abstentions = self.domain.abstentions(features, minutes)
        scores = self.scores(features)
        speaks = [place for place, word in enumerate(abstentions) if not word]
        reasons: dict[int, tuple[Reason, ...]] = {}
        if with_reasons and speaks:
            _, parts = self.contributions(np.ascontiguousarray(features[speaks]))
            reasons = {place: _reasons(row) for place, row in zip(speaks, parts, strict=True)}
        level = self.manifest.level
        return [
            Estimate(None, None, None, level, word, ())
            if word
            else Estimate(
                float(scores.probability[i]),
                float(scores.low[i]),
                float(scores.high[i]),
                level,
                "",
                reasons.get(i, ()),
            )
            for i, word in enumerate(abstentions)
        ]

    def _checked(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        expected = self.manifest.features.columns
        if features.ndim != 2 or features.shape[1] != expected or features.dtype != np.float32:
            raise ValueError(
                f"expected float32 features of shape (rows, {expected}), found {features.dtype} {features.shape}"
            )
        return np.ascontiguousarray(features)

    def _tree_margins(self, features: NDArray[np.float32]) -> list[FloatArray]:
        if not len(features):
            return [np.empty(0) for _ in self._boosters]
        return [
            np.asarray(booster.inplace_predict(features, predict_type="margin"), np.float64)
            for booster, _ in self._boosters
        ]


def load(body: bytes, read: Callable[[str], bytes]) -> RiskModel:
    """Return the model of a manifest.

    Args:
        body: the manifest's bytes; their SHA-256 is the model's digest.
        read: gives a member's bytes by its digest, e.g. stores.model_files.ModelFiles.get.

    Raises:
        ConfigurationError: no manifest of this format.
        ModelMismatchError: a member is not what its digest says or cannot be read, or the feature table is not this
            code's.
    """
    described = manifest.from_bytes(body)
    table = feature_table.by_digest(described.features.digest)
    if table is None:
        raise ModelMismatchError(
            f"the model reads feature set {described.features.name} {described.features.version} "
            f"({described.features.digest[:16]}…), which this code does not compute; run the code it was made with"
        )
    columns = len(feature_table.names(table))
    if {columns} != {described.features.columns, len(described.bounds_low), len(described.bounds_high)}:
        raise ModelMismatchError(f"expected {columns} columns, found {described.features.columns} in the manifest")
    boosters: list[tuple[xgboost.Booster, float]] = []
    additives: list[tuple[additive.Scorer, float]] = []
    for member in described.members:
        content = read(member.digest)
        if hashlib.sha256(content).hexdigest() != member.digest:
            raise ModelMismatchError(f"member {member.digest[:16]}… is not what its digest says; copy it again")
        if member.kind == "xgboost":
            boosters.append((_booster(content, member.digest, columns), member.weight))
        else:
            additives.append((additive.Scorer(_additive(content, member.digest, columns)), member.weight))
    if not math.isclose(sum(member.weight for member in described.members), 1.0, abs_tol=1e-9):
        raise ModelMismatchError("expected the members' weights to sum to 1")
    return RiskModel(described, manifest.digest(body), table, boosters, additives)


def _booster(content: bytes, digest: str, columns: int) -> xgboost.Booster:
    # XGBoost aborts the whole process on bytes that are no UBJSON: it must not be shown any.
    if not {b"learner", b"version"} <= (ubjson.keys(content) or frozenset()):
        raise ModelMismatchError(f"member {digest[:16]}… is no Booster in UBJSON")
    import xgboost

    booster = xgboost.Booster(params={"nthread": 1})
    try:
        booster.load_model(bytearray(content))
    except xgboost.core.XGBoostError:
        raise ModelMismatchError(f"member {digest[:16]}… is no Booster in UBJSON") from None
    booster.set_param({"nthread": 1})  # the file remembers the threads of its training
    if booster.num_features() != columns:
        raise ModelMismatchError(f"member {digest[:16]}… reads {booster.num_features()} columns, expected {columns}")
    return booster


def _additive(content: bytes, digest: str, columns: int) -> additive.AdditiveMember:
    try:
        member = additive.from_bytes(content)
    except msgspec.MsgspecError:
        raise ModelMismatchError(f"member {digest[:16]}… is no additive member") from None
    if any(not 0 <= term.column < columns for term in member.terms):
        raise ModelMismatchError(f"member {digest[:16]}… reads columns that the feature table does not have")
    return member


def _variance(margins: Sequence[FloatArray], rows: int) -> FloatArray:
    """Return the variance between members, shape (rows,); of fewer than two members it is not known and counts as 0."""
    if len(margins) < 2:
        return np.zeros(rows)
    mean = np.zeros(rows)
    for margin in margins:
        mean = mean + margin / len(margins)
    total = np.zeros(rows)
    for margin in margins:
        total = total + (margin - mean) ** 2
    return total / (len(margins) - 1)


def _probability(margin: FloatArray) -> FloatArray:
    # In plain Python: numpy's vectorised exponential may round otherwise at the ends of an array than in its middle.
    return np.array([1.0 / (1.0 + math.exp(-min(max(one, -700.0), 700.0))) for one in margin.tolist()])


def _reasons(parts: FloatArray) -> tuple[Reason, ...]:
    made = [Reason(group.key, WORDS[group.key], float(part)) for group, part in zip(GROUPS, parts, strict=True)]
    return tuple(sorted((each for each in made if each.log_odds != 0.0), key=lambda each: -abs(each.log_odds)))
