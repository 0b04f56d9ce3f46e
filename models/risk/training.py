"""Training: members cross-fitted inside the training part, tuned and calibrated on what each had not seen.

Here: `learn`, which makes an ensemble of a training part's features; `fit`, which makes a candidate's artefact of it.
Not here: judging a candidate (validation), its cross-validation beside baselines (models.risk.cross_validation),
registering it (governance).
Source: Stone 1974, J R Stat Soc B 36:111 and Varma & Simon 2006, BMC Bioinformatics 7:91, for choosing inside only.

The training part is cut into inner folds. Each member of trees learns from all but one of them, so every stay has
scores of a member that never saw it: by these the recipe, the number of rounds and the additive member's share are
chosen, and on these the calibration is fitted. Nothing is looked at outside the training part.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from models.feature_table import FeatureTable
from models.risk import calibration, fitting, manifest
from models.risk.additive import Scorer
from models.risk.clinical_groups import GROUPS
from models.risk.cohort import Cohort, features_at, folds_of
from models.risk.fitting import Recipe
from models.risk.manifest import Limits
from models.risk.monotone import constraints
from models.risk.packaging import Ancestry, Choice, Ensemble, TrainedModel, package
from vocabulary.errors import ConfigurationError

if TYPE_CHECKING:
    import xgboost

__all__ = ["Ancestry", "Choice", "Ensemble", "TrainedModel", "fit", "learn"]

FloatArray = NDArray[np.float64]
Progress = Callable[[str], None]

HOURS: Final = (6, 12, 24, 48)
HOUR_WEIGHTS: Final = (0.05, 0.10, 0.20, 0.65)
"""Rows of one stay share one patient's weight; later rows know more, and the protocol's own moment is the last."""

RECIPES: Final = (Recipe(depth=3, rounds=700),)
STAGES: Final = (0.5, 0.65, 0.8, 1.0)
"""Shares of a recipe's rounds that tuning may stop at: a shorter ensemble comes free with a longer one."""
ADDITIVE_SHARES: Final = (0.0, 0.15, 0.3, 0.45, 0.6)
PENALTY: Final = 1000.0
"""Of the additive member: with a thousand terms and a few hundred deaths, every single weight must stay small."""
INNER_FOLDS: Final = 5

KEY_GROUPS: Final = (
    "circulation",
    "oxygenation_and_ventilation",
    "consciousness",
    "kidney",
    "blood",
    "acid_base_and_lactate",
    "electrolytes",
    "temperature",
    "urine",
)
FIRST_MINUTE: Final = 60
LAST_MINUTE: Final = 48 * 60
LEAST_GROUPS: Final = 3
"""Vital signs alone touch three groups; with fewer there is next to nothing but age to go by."""
STALE_AFTER_HOURS: Final = 6.0
"""Intensive care charts hourly: six hours without any value is a broken feed or a patient who is elsewhere."""
LEAST_AGE_YEARS: Final = 16.0
"""The challenge's cohort is of adults (Silva et al. 2012)."""
SHARE_OUTSIDE: Final = 0.05
"""Features come in families: one value out of range moves a few in a hundred of them, a strange patient many more."""


def learn(
    table: FeatureTable,
    features: Mapping[int, NDArray[np.float32]],
    died: NDArray[np.bool_],
    record_ids: Sequence[str],
    *,
    seed: int,
    threads: int = 1,
    recipes: Sequence[Recipe] = RECIPES,
    hour_weights: Sequence[float] = HOUR_WEIGHTS,
) -> Ensemble:
    """Return an ensemble of a training part.

    Args:
        table: of the features.
        features: of the training stays, by hour, each of shape (stays, columns).
        died: outcomes, shape (stays,).
        record_ids: of the stays; inner folds are a hash of them.
        seed: of the subsampling and the inner folds.
        threads: of XGBoost; the result is the same for any number.
        recipes: to choose from.
        hour_weights: of each hour's rows, in the order of `features`.

    Raises:
        ConfigurationError: an inner fold without both outcomes, or scores that do not rise with them.
    """
    hours = tuple(features)
    inner = folds_of(record_ids, f"inner {seed}", INNER_FOLDS)
    for fold in range(INNER_FOLDS):
        for part in (died[inner == fold], died[inner != fold]):
            if not 0 < part.sum() < len(part):
                raise ConfigurationError(
                    "too few deaths or survivors to learn from: an inner fold has only one outcome"
                )
    grown, found, beside = _cross_fit(table, features, died, inner, seed, threads, recipes, hour_weights)
    weight = np.repeat(np.asarray(hour_weights, np.float64), len(died))
    outcomes = np.tile(died, len(hours))
    choice, margin = _chosen(found, beside, outcomes, weight)
    final = None
    if choice.additive_share > 0:
        x, y, w = _stacked(features, died, hour_weights, np.ones(len(died), np.bool_))
        final = fitting.additive_member(x, y, w, fitting.additive_columns(table), constraints(table), PENALTY)
    kept = next(recipe for recipe in recipes if choice.recipe in _stages(recipe))
    stay = np.tile(np.arange(len(died)), len(hours))
    return Ensemble(
        tuple(fitting.booster_bytes(booster, choice.recipe.rounds) for booster in grown[kept]),
        final,
        choice,
        calibration.fit(margin, outcomes, weight, stay),
        dict(zip(hours, np.split(margin, len(hours)), strict=True)),
    )


def _cross_fit(
    table: FeatureTable,
    features: Mapping[int, NDArray[np.float32]],
    died: NDArray[np.bool_],
    inner: NDArray[np.int64],
    seed: int,
    threads: int,
    recipes: Sequence[Recipe],
    hour_weights: Sequence[float],
) -> tuple[dict[Recipe, list[xgboost.Booster]], dict[Recipe, FloatArray], FloatArray]:
    """Return each recipe's members, their out-of-fold log-odds by recipe with its rounds, and the additive ones.

    Log-odds are of shape (hours * stays,), hour by hour.
    """
    hours = tuple(features)
    bound, columns = constraints(table), fitting.additive_columns(table)
    beside = np.empty((len(hours), len(died)))
    found = {stage: np.empty((len(hours), len(died))) for recipe in recipes for stage in _stages(recipe)}
    grown: dict[Recipe, list[xgboost.Booster]] = {recipe: [] for recipe in recipes}
    for fold in range(INNER_FOLDS):
        is_out = inner == fold
        unseen = [features[hour][is_out] for hour in hours]
        x, y, w = _stacked(features, died, hour_weights, ~is_out)
        member = Scorer(fitting.additive_member(x, y, w, columns, bound, PENALTY))
        for place, one in enumerate(unseen):
            beside[place, is_out] = member.margin(one)
        rows = fitting.matrix(x, y, w, threads)
        for recipe in recipes:
            booster = fitting.trees(rows, recipe, bound, seed * INNER_FOLDS + fold, threads)
            grown[recipe].append(booster)
            for stage in _stages(recipe):
                for place, one in enumerate(unseen):
                    found[stage][place, is_out] = fitting.margins(booster, one, stage.rounds)
    return grown, {stage: one.ravel() for stage, one in found.items()}, beside.ravel()


def _chosen(
    found: Mapping[Recipe, FloatArray], beside: FloatArray, died: NDArray[np.bool_], weight: FloatArray
) -> tuple[Choice, FloatArray]:
    """Return the recipe and additive share of the least log loss after recalibration, and their log-odds."""
    best: tuple[Choice, FloatArray] | None = None
    for recipe, margins in found.items():
        for share in ADDITIVE_SHARES:
            margin = (1 - share) * margins + share * beside
            line = calibration.fit(margin, died, weight)
            loss = calibration.log_loss(calibration.apply(line, margin), died, weight)
            if best is None or loss < best[0].log_loss:
                best = Choice(recipe, share, loss), margin
    assert best is not None  # there is always a recipe
    return best


def fit(
    table: FeatureTable,
    cohort: Cohort,
    stays: NDArray[np.int32],
    ancestry: Ancestry,
    *,
    threads: int = 1,
    recipes: Sequence[Recipe] = RECIPES,
    hours: Sequence[int] = HOURS,
    hour_weights: Sequence[float] = HOUR_WEIGHTS,
    progress: Progress | None = None,
) -> TrainedModel:
    """Return a candidate of the stays given, and of no other: byte for byte the same for the same data and seed.

    Args:
        table: its features.
        cohort: where the stays are.
        stays: places of the stays to learn from.
        ancestry: what the manifest must say.
        threads: of XGBoost.
        recipes: to choose from.
        hours: of the rows.
        hour_weights: of each hour's rows.
        progress: told of each step.

    Raises:
        ConfigurationError: too few deaths or survivors.
    """
    tell = progress or (lambda _: None)
    features = features_at(table, cohort, stays, hours)
    died = cohort.died[stays]
    tell(f"features of {len(stays)} stays at {len(hours)} hours")
    ensemble = learn(
        table,
        features,
        died,
        [cohort.record_ids[i] for i in stays],
        seed=ancestry.seed,
        threads=threads,
        recipes=recipes,
        hour_weights=hour_weights,
    )
    tell(f"{len(ensemble.boosters)} members, depth {ensemble.choice.recipe.depth}")
    every = np.concatenate(list(features.values()))
    low, high = _bounds(every)
    limits = Limits(
        first_minute=FIRST_MINUTE,
        last_minute=LAST_MINUTE,
        least_groups=LEAST_GROUPS,
        key_groups=KEY_GROUPS,
        stale_after_hours=STALE_AFTER_HOURS,
        least_age_years=LEAST_AGE_YEARS,
        largest_share_outside=SHARE_OUTSIDE,
    )
    made = package(
        table,
        ensemble,
        ancestry,
        cohort=cohort,
        stays=stays,
        limits=limits,
        bounds=(low, high),
        hours=tuple(hours),
        hour_weights=tuple(hour_weights),
    )
    model = made.load()
    latest = features[max(hours)]
    _, parts = model.contributions(latest)
    importance = tuple(
        manifest.Importance(group=group.key, log_odds=float(np.abs(parts[:, place]).mean()))
        for place, group in enumerate(GROUPS)
    )
    tell("contributions")
    body = manifest.to_bytes(msgspec.structs.replace(model.manifest, importance=importance))
    return TrainedModel(body, made.members, manifest.digest(body), ensemble.choice)


def _stages(recipe: Recipe) -> tuple[Recipe, ...]:
    """Return the recipe stopped at each of its stages."""
    rounds = sorted({max(1, round(recipe.rounds * share)) for share in STAGES})
    return tuple(msgspec.structs.replace(recipe, rounds=some) for some in rounds)


def _stacked(
    features: Mapping[int, NDArray[np.float32]],
    died: NDArray[np.bool_],
    hour_weights: Sequence[float],
    chosen: NDArray[np.bool_],
) -> tuple[NDArray[np.float32], NDArray[np.bool_], FloatArray]:
    """Return rows of the chosen stays at every hour, with outcomes and weights that sum to the number of stays."""
    share = np.asarray(hour_weights, np.float64) / sum(hour_weights)
    return (
        np.concatenate([one[chosen] for one in features.values()]),
        np.tile(died[chosen], len(features)),
        np.repeat(share, int(chosen.sum())),
    )


def _bounds(features: NDArray[np.float32]) -> tuple[FloatArray, FloatArray]:
    """Return each column's smallest and largest value; infinite where it was never measured."""
    is_missing = np.isnan(features)
    low = np.where(is_missing, np.inf, features).min(axis=0).astype(np.float64)
    high = np.where(is_missing, -np.inf, features).max(axis=0).astype(np.float64)
    return np.where(np.isinf(low), -np.inf, low), np.where(np.isinf(high), np.inf, high)
