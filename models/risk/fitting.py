"""Fitting one member of the ensemble: a Booster of monotone trees, or the additive member beside them.

Here: XGBoost's and SciPy's fits with everything pinned (seed, threads, bins), members as bytes.
Not here: which rows and which recipe (models.risk.training), scoring (models.risk.artefact).
Source: Chen & Guestrin 2016, KDD 785. Libraries are imported inside: nothing on the live path fits.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from models.feature_table import FeatureTable, names, series_of
from models.risk import additive, calibration
from models.risk.additive import AdditiveMember, Term, parts

if TYPE_CHECKING:
    import xgboost

FloatArray = NDArray[np.float64]

BINS: Final = 64
"""Of XGBoost's histograms: finer ones fit the noise of a few thousand stays, and cost time."""

FEWEST_VALUES: Final = 200
"""A feature measured in fewer training rows gets no additive term: its scale would be an accident."""
SKEWED: Final = 1.0
"""Skewness above which a feature that is never negative is taken as its fourth root."""
ITERATIONS: Final = 200
"""Of L-BFGS-B: the ridge makes the minimum flat-bottomed long before."""
_TAILS: Final = (0.01, 0.99)

_ADDITIVE_OF_STAY: Final = frozenset(
    {"last", "mean", "min", "max", "slope_per_hour", "count", "hours_since", "share_of_hours", "sum_per_kg_hour"}
)
_ADDITIVE_OF_DAY: Final = frozenset({"mean", "min", "max", "share_of_hours", "sum_per_kg_hour"})


class Recipe(msgspec.Struct, frozen=True, kw_only=True):
    """How trees are grown."""

    depth: int
    rounds: int
    eta: float = 0.03
    rows: float = 0.6  # share of rows a tree sees
    columns: float = 0.1  # share of columns a tree sees: many say nearly the same
    smallest_child: float = 0.3  # sum of second derivatives: a leaf may hold a few deaths; members' mean smooths it
    shrinkage: float = 1.0  # L2 penalty of leaf values


def matrix(
    features: NDArray[np.float32], died: NDArray[np.bool_], weight: FloatArray, threads: int
) -> xgboost.QuantileDMatrix:
    """Return rows ready for `trees`; made once for all recipes."""
    import xgboost

    return xgboost.QuantileDMatrix(features, died.astype(np.float32), weight=weight, max_bin=BINS, nthread=threads)


def trees(
    rows: xgboost.QuantileDMatrix, recipe: Recipe, constraints: tuple[int, ...], seed: int, threads: int
) -> xgboost.Booster:
    """Return a Booster of log-odds; the same rows, recipe and seed give the same bytes."""
    import xgboost

    return xgboost.train(
        {
            "objective": "binary:logistic",
            "tree_method": "hist",
            "max_bin": BINS,
            "max_depth": recipe.depth,
            "eta": recipe.eta,
            "subsample": recipe.rows,
            "colsample_bytree": recipe.columns,
            "min_child_weight": recipe.smallest_child,
            "reg_lambda": recipe.shrinkage,
            "monotone_constraints": constraints,
            "seed": seed,
            "nthread": threads,
            "verbosity": 0,
        },
        rows,
        recipe.rounds,
    )


def margins(booster: xgboost.Booster, features: NDArray[np.float32], rounds: int) -> FloatArray:
    """Return the log-odds of a Booster's first rounds, shape (rows,)."""
    found = booster.inplace_predict(features, predict_type="margin", iteration_range=(0, rounds))
    return np.asarray(found, np.float64)


def booster_bytes(booster: xgboost.Booster, rounds: int) -> bytes:
    """Return a Booster's first rounds as UBJSON, made to score with one thread."""
    kept = booster[:rounds]
    kept.set_param({"nthread": 1})
    return bytes(kept.save_raw("ubj"))


def additive_columns(table: FeatureTable) -> tuple[int, ...]:
    """Return the columns that get additive terms: levels, trends and how often, of the stay and of the last day.

    Extremes of 6 hours, first values and changes are left to the trees: in a sum they only repeat what is there.
    """
    series = series_of(table)
    chosen = []
    for place, name in enumerate(names(table)):
        summary, _, window = name.removeprefix(series[name] + "_").rpartition("_")
        wanted = {"stay": _ADDITIVE_OF_STAY, "24h": _ADDITIVE_OF_DAY}.get(window, frozenset[str]())
        if summary in wanted:
            chosen.append(place)
    return tuple(chosen)


def additive_member(
    features: NDArray[np.float32],
    died: NDArray[np.bool_],
    weight: FloatArray,
    columns: tuple[int, ...],
    constraints: tuple[int, ...],
    penalty: float,
) -> AdditiveMember:
    """Return a ridge logistic regression over scaled terms that keeps to the monotone directions.

    Args:
        features: training rows.
        died: outcomes.
        weight: of the rows.
        columns: that get terms.
        constraints: of each column of `features`; a bound one keeps its sign and gets no square.
        penalty: of each squared weight, against the log loss of a training part whose weights sum to its stays.
    """
    from scipy.optimize import minimize  # type: ignore[import-untyped]
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    terms = [term for column in columns if (term := _blank(column, features[:, column], weight)) is not None]
    design = np.empty((len(features), 3 * len(terms)), np.float32)
    for place, term in enumerate(terms):
        for offset, part in enumerate(parts(term, features[:, term.column].astype(np.float64))):
            design[:, 3 * place + offset] = part
    outcome = died.astype(np.float64)

    def loss(found: FloatArray) -> tuple[float, FloatArray]:
        margin = (design @ found[1:].astype(np.float32)).astype(np.float64) + found[0]
        residual = weight * (calibration.probability(margin) - outcome)
        value = (weight * (np.logaddexp(0.0, margin) - outcome * margin)).sum() + penalty / 2 * (found[1:] ** 2).sum()
        slope = (design.T @ residual.astype(np.float32)).astype(np.float64) + penalty * found[1:]
        return float(value), np.concatenate([[residual.sum()], slope])

    bounds: list[tuple[float | None, float | None]] = [(None, None)]
    for term in terms:
        sign = constraints[term.column]
        bounds += [(0 if sign > 0 else None, 0 if sign < 0 else None), (0, 0) if sign else (None, None), (None, None)]
    with threadpool_limits(1):  # a product split over threads sums in another order: other bits
        fitted = minimize(
            loss, np.zeros(len(bounds)), jac=True, method="L-BFGS-B", bounds=bounds, options={"maxiter": ITERATIONS}
        ).x
        centres = (weight[:, None] * design).sum(axis=0) / weight.sum() * fitted[1:]
    return AdditiveMember(
        float(fitted[0]),
        tuple(
            msgspec.structs.replace(
                term,
                weight=float(fitted[3 * place + 1]),
                square_weight=float(fitted[3 * place + 2]),
                missing_weight=float(fitted[3 * place + 3]),
                centre=float(centres[3 * place : 3 * place + 3].sum()),
            )
            for place, term in enumerate(terms)
        ),
    )


def _blank(column: int, raw: NDArray[np.float32], weight: FloatArray) -> Term | None:
    """Return a term without weights, or None where the feature says too little."""
    is_there = ~np.isnan(raw)
    values = raw[is_there].astype(np.float64)
    if len(values) < FEWEST_VALUES:
        return None
    low, high = (float(one) for one in np.quantile(values, _TAILS))
    if not low < high:
        return None
    clipped = np.clip(values, low, high)
    deviation = float(clipped.std())
    is_rooted = low >= 0 and float(((clipped - clipped.mean()) ** 3).mean()) / deviation**3 > SKEWED
    if is_rooted:
        clipped = np.sqrt(np.sqrt(clipped))
    kept = weight[is_there]
    mean = float((kept * clipped).sum() / kept.sum())
    scale = float(np.sqrt((kept * (clipped - mean) ** 2).sum() / kept.sum()))
    if not scale > 0:
        return None
    return Term(column, low, high, is_rooted, mean, scale, 0.0, 0.0, 0.0, 0.0)


def additive_bytes(member: AdditiveMember) -> bytes:
    """Return the member's bytes."""
    return additive.to_bytes(member)
