"""Repeated cross-validation of the mortality model beside its baselines, on the same folds.

Here: folds by hash, again under other salts; everything learned, tuned, imputed and calibrated inside the training
part of each; probabilities of every stay by every method at every hour.
Not here: metrics of them (validation), the candidate itself (models.risk.training).
Source: Varma & Simon 2006, BMC Bioinformatics 7:91 (tuning inside); Kohavi 1995, IJCAI 2:1137 (repeats).

Features are made once for all stays: a row depends on its own stay alone, so nothing leaks by it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from models.feature_table import FeatureTable
from models.risk import baselines, calibration, fitting, news2_measured, saps, sofa, training
from models.risk.additive import Scorer
from models.risk.banded_rows import Totals
from models.risk.cohort import Cohort, features_at, folds_of
from models.risk.fitting import Recipe
from models.risk.training import Choice, Ensemble
from vocabulary.protocol import Protocol

FloatArray = NDArray[np.float64]

OURS: Final = "vigil"
HIST_GRADIENT_BOOSTING: Final = "hist_gradient_boosting"
LOGISTIC_REGRESSION: Final = "logistic_regression"
SAPS_RECORDED: Final = "saps_i_recorded"
SOFA_RECORDED: Final = "sofa_recorded"
SAPS_COMPUTED: Final = "saps_i"
SOFA_COMPUTED: Final = "sofa"
NEWS2: Final = "news2_of_what_was_measured"

FOLDS: Final = 10
"""Nine tenths to learn from, as the candidate's users would: with a few hundred deaths, each one counts."""
REPEATS: Final = 5
HOURS: Final = (6, 12, 24, 36, 48)
PRIMARY_HOUR: Final = 48


class CrossValidated(NamedTuple):
    """What came out."""

    record_ids: tuple[str, ...]
    died: NDArray[np.bool_]  # (stays,)
    probability: dict[
        str, dict[int, FloatArray]
    ]  # method -> hour -> of stays that no part learned from, (repeats, stays)
    score: dict[str, dict[int, FloatArray]]  # severity scores as they are, for ranking: (stays,), NaN where not known
    coverage: dict[str, dict[int, float]]  # of the severity scores: mean share of components measured
    agreement: dict[str, float]  # rank correlation of computed and recorded scores at 24 hours
    choices: tuple[Choice, ...]  # what tuning chose, by repeat and fold


def run(
    table: FeatureTable,
    cohort: Cohort,
    news2: Protocol,
    *,
    repeats: int = REPEATS,
    folds: int = FOLDS,
    salt: str = "cross-validation",
    seed: int = 1,
    hours: Sequence[int] = HOURS,
    training_hours: Sequence[int] = training.HOURS,
    hour_weights: Sequence[float] = training.HOUR_WEIGHTS,
    recipes: Sequence[Recipe] = training.RECIPES,
    threads: int = 2,
    progress: Callable[[str], None] | None = None,
) -> CrossValidated:
    """Return probabilities of every stay by models that had not seen it.

    Args:
        table: of features.
        cohort: all of it takes part.
        news2: its protocol.
        repeats: how often all of it is done, under other folds and seeds.
        folds: of each repeat.
        salt: folds are a hash of salt, repeat and record id.
        seed: of subsampling and inner folds.
        hours: at which is predicted; the last is the primary one, at which the plain baselines are made.
        training_hours: of our model's rows.
        hour_weights: of each of those hours' rows.
        recipes: for tuning to choose from.
        threads: how many folds are worked on at a time; the result is the same for any number.
        progress: told of each fold.

    Raises:
        ConfigurationError: too few deaths or survivors for so many folds.
    """
    stays = np.arange(len(cohort.record_ids), dtype=np.int32)
    features = features_at(table, cohort, stays, sorted({*hours, *training_hours}))
    scores, coverage = _severity(cohort, news2, hours)
    methods = [OURS, HIST_GRADIENT_BOOSTING, LOGISTIC_REGRESSION, *scores]
    at = {OURS: tuple(hours), HIST_GRADIENT_BOOSTING: (hours[-1],), LOGISTIC_REGRESSION: (hours[-1],)}
    found = {
        method: {hour: np.full((repeats, len(stays)), np.nan) for hour in at.get(method, tuple(scores.get(method, ())))}
        for method in methods
    }
    parts = [(repeat, fold) for repeat in range(repeats) for fold in range(folds)]
    choices: dict[tuple[int, int], Choice] = {}

    def work(part: tuple[int, int]) -> tuple[int, int]:
        repeat, fold = part
        is_unseen = folds_of(cohort.record_ids, f"{salt} {repeat}", folds) == fold
        seen = np.flatnonzero(~is_unseen)
        ensemble = training.learn(
            table,
            {hour: features[hour][seen] for hour in training_hours},
            cohort.died[seen],
            [cohort.record_ids[i] for i in seen],
            seed=seed * 1000 + repeat * folds + fold,
            recipes=recipes,
            hour_weights=hour_weights,
        )
        choices[part] = ensemble.choice
        for hour in hours:
            found[OURS][hour][repeat, is_unseen] = predict(ensemble, features[hour][is_unseen])
        for method, by_hour in _baselines(cohort, features, scores, is_unseen, hours[-1], seed + repeat).items():
            for hour, probability in by_hour.items():
                found[method][hour][repeat, is_unseen] = probability
        return part

    with ThreadPoolExecutor(max(1, threads)) as pool:
        for done, job in enumerate(as_completed([pool.submit(work, part) for part in parts]), 1):
            repeat, fold = job.result()
            if progress is not None:
                progress(f"repeat {repeat + 1}, fold {fold + 1}: {done} of {len(parts)} done")
    return CrossValidated(
        cohort.record_ids,
        cohort.died,
        found,
        scores,
        coverage,
        {
            name: rank_correlation(scores[computed][24], recorded)
            for name, computed, recorded in (
                ("saps_i", SAPS_COMPUTED, cohort.saps_i),
                ("sofa", SOFA_COMPUTED, cohort.sofa),
            )
            if 24 in scores[computed] and np.isfinite(recorded).any()
        },
        tuple(choices[part] for part in parts),
    )


def predict(ensemble: Ensemble, features: NDArray[np.float32]) -> FloatArray:
    """Return an ensemble's calibrated probabilities, shape (rows,)."""
    import xgboost

    share = ensemble.choice.additive_share
    total = np.zeros(len(features))
    for body in ensemble.boosters:
        booster = xgboost.Booster(params={"nthread": 1}, model_file=bytearray(body))
        rounds = ensemble.choice.recipe.rounds
        total = total + (1.0 - share) / len(ensemble.boosters) * fitting.margins(booster, features, rounds)
    if ensemble.additive is not None:
        total = total + share * Scorer(ensemble.additive).margin(features)
    return calibration.probability(calibration.apply(ensemble.calibration, total))


def _baselines(
    cohort: Cohort,
    features: Mapping[int, NDArray[np.float32]],
    scores: Mapping[str, Mapping[int, FloatArray]],
    is_unseen: NDArray[np.bool_],
    hour: int,
    seed: int,
) -> dict[str, dict[int, FloatArray]]:
    seen, died, rows = ~is_unseen, cohort.died[~is_unseen], features[hour]
    ids = [cohort.record_ids[i] for i in np.flatnonzero(seen)]
    return {
        HIST_GRADIENT_BOOSTING: {hour: baselines.hist_gradient_boosting(rows[seen], died, rows[is_unseen], seed)},
        LOGISTIC_REGRESSION: {hour: baselines.logistic_regression(rows[seen], died, ids, rows[is_unseen])},
        **{
            method: {at: baselines.of_score(one[seen], died, one[is_unseen]) for at, one in by_hour.items()}
            for method, by_hour in scores.items()
        },
    }


def _severity(
    cohort: Cohort, news2: Protocol, hours: Sequence[int]
) -> tuple[dict[str, dict[int, FloatArray]], dict[str, dict[int, float]]]:
    """Return severity scores by method and hour, and their mean coverage."""
    stays = np.arange(len(cohort.record_ids), dtype=np.int32)
    scorers: dict[str, Callable[[NDArray[np.int32]], Totals]] = {
        SAPS_COMPUTED: lambda minutes: saps.score(cohort.bins, stays, minutes),
        SOFA_COMPUTED: lambda minutes: sofa.score(cohort.bins, stays, minutes),
        NEWS2: lambda minutes: news2_measured.score(news2, cohort.bins, stays, minutes),
    }
    scores: dict[str, dict[int, FloatArray]] = {}
    coverage: dict[str, dict[int, float]] = {}
    for method, scorer in scorers.items():
        for hour in hours:
            made = scorer(np.full(len(stays), 60 * hour, np.int32))
            if np.isfinite(made.total).any():
                scores.setdefault(method, {})[hour] = made.total
            coverage.setdefault(method, {})[hour] = float(made.coverage.mean())
    # Recorded scores are of the first 24 hours: known from then on, and the same at every later hour.
    for method, recorded in ((SAPS_RECORDED, cohort.saps_i), (SOFA_RECORDED, cohort.sofa)):
        if np.isfinite(recorded).any():
            scores[method] = {hour: recorded for hour in hours if hour >= 24}
            coverage[method] = {hour: float(np.isfinite(recorded).mean()) for hour in hours if hour >= 24}
    return scores, coverage


def rank_correlation(a: FloatArray, b: FloatArray) -> float:
    """Return Spearman's rank correlation of pairs that both have a value; ties take their mean rank."""
    both = np.isfinite(a) & np.isfinite(b)
    return float(np.corrcoef(_ranks(a[both]), _ranks(b[both]))[0, 1])


def _ranks(values: FloatArray) -> FloatArray:
    _, place, count = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(count)
    ranks: FloatArray = (last - (count - 1) / 2.0)[place]
    return ranks
