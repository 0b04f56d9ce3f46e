"""The feature kernel beside the same features written in Polars and in pandas, and its cost for a ward that is live.

Here: `figures`, called by benchmarks.learning. Both peers do what a careful user would: one group-by for each block of
the feature table and window, over bins already in a frame; derived series by joins as of a minute. Polars may use every
core; the kernel and pandas use one. Values are compared before anything is reported.
Not here: reading a cohort (interop), models and their scores (benchmarks.learning_scoring).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
from numpy.typing import NDArray

from models import feature_table, stay_features
from models.feature_table import BODY_WEIGHT, Derived, FeatureTable
from models.stay_series import Bins, StaySeries, bins_of_series
from vocabulary import concepts

HOURS = (6, 12, 24, 36, 48)
TOLERANCE = 1e-5
"""Relative; sums of single-precision values in another order differ in the seventh digit."""

Matrix = NDArray[np.float32]
_ROW, _SERIES, _STAY, _MINUTE, _VALUE, _THROUGH = "row", "series", "stay", "minute", "value", "through"


def rows_at(stays: int, hours: tuple[int, ...]) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Return every stay at every hour, as columns."""
    stay = np.repeat(np.arange(stays, dtype=np.int32), len(hours))
    return stay, np.tile(np.array(hours, np.int32) * 60, stays)


def _block_columns(table: FeatureTable) -> list[tuple[feature_table.Block, int, NDArray[np.int64]]]:
    """Return (block, window, places of its columns as [series, summary])."""
    found, place = [], 1
    for block in table.blocks:
        shape = (len(block.series), len(block.windows_h), len(block.summaries))
        places = np.arange(place, place + int(np.prod(shape))).reshape(shape)
        found += [(block, window, places[:, at]) for at, window in enumerate(block.windows_h)]
        place += places.size
    return found


def _empty(table: FeatureTable, through: NDArray[np.int32]) -> Matrix:
    """Return rows with what holds of a series that was never measured."""
    result = np.full((len(through), len(feature_table.names(table))), np.nan, np.float32)
    result[:, 0] = through / 60
    for block, _, places in _block_columns(table):
        for at, summary in enumerate(block.summaries):
            if summary in {"count", "share_of_hours", "is_missing"}:
                result[:, places[:, at]] = float(summary == "is_missing")
    return result


def _passed_minutes(through: Any, window_h: int) -> Any:
    return through.clip(1, window_h * 60) if window_h else through.clip(1)


# --- Polars ----------------------------------------------------------------------------------------------------------


def polars_frame(bins: Bins) -> pl.DataFrame:
    return pl.DataFrame({"concept": bins.concept, _STAY: bins.stay, _MINUTE: bins.minute, _VALUE: bins.median})


def _polars_derived(derived: Derived, made: dict[str, pl.DataFrame]) -> pl.DataFrame:
    sources = [made[source] for source in derived.sources]
    if derived.kind == "first_of":
        return pl.concat(sources).unique([_STAY, _MINUTE], keep="first", maintain_order=True).sort(_STAY, _MINUTE)
    one, other = sources
    a, b = pl.col(_VALUE).cast(pl.Float64), pl.col("other").cast(pl.Float64)
    other = other.rename({_VALUE: "other"})
    if derived.kind == "mean_pressure":
        joined = one.join(other, on=[_STAY, _MINUTE], maintain_order="left")
        value = (a + 2 * b) / 3
    else:
        joined = one.join_asof(
            other, on=_MINUTE, by=_STAY, tolerance=derived.within_minutes, check_sortedness=False
        ).drop_nulls("other")
        value = a - b
        if derived.kind == "ratio":
            joined, value = joined.filter(pl.col("other") != 0), a / b * derived.scale
    return joined.select(_STAY, _MINUTE, value.cast(pl.Float32).alias(_VALUE))


def _polars_summary(summary: str, window_h: int) -> pl.Expr:
    value, hours = pl.col(_VALUE).cast(pl.Float64), pl.col(_MINUTE) / 60
    through = pl.col(_THROUGH).first()
    passed = _passed_minutes(through, window_h)
    made: dict[str, Callable[[], pl.Expr]] = {
        "last": value.last,
        "first": value.first,
        "min": value.min,
        "max": value.max,
        "mean": value.mean,
        "standard_deviation": value.std,
        "slope_per_hour": lambda: pl.when(pl.len() >= stay_features.FEWEST_FOR_SLOPE).then(
            pl.cov(hours, value) / hours.var()
        ),
        "change": lambda: value.last() - value.first(),
        "count": pl.len,
        "hours_since": lambda: (through - pl.col(_MINUTE).last()) / 60,
        "is_missing": lambda: pl.lit(0.0),
        "share_of_hours": lambda: (((pl.col(_MINUTE).clip(1) - 1) // 60).n_unique() / (passed / 60).ceil()).clip(
            upper_bound=1.0
        ),
        "sum": value.sum,
        "sum_per_kg_hour": lambda: value.sum() / pl.col("weight_kg").first() / (passed / 60),
    }
    return made[summary]().cast(pl.Float32).alias(summary)


def polars_features(
    table: FeatureTable, frame: pl.DataFrame, stay: NDArray[np.int32], through: NDArray[np.int32]
) -> Matrix:
    made = {
        concepts.by_number(number).key: frame.filter(pl.col("concept") == number).select(_STAY, _MINUTE, _VALUE)
        for number in feature_table.concepts_of(table)
    }
    for derived in table.derived:
        made[derived.key] = _polars_derived(derived, made)
    rows = pl.DataFrame({_ROW: np.arange(len(stay)), _STAY: stay, _THROUGH: through})
    weight = (
        rows.join(made[BODY_WEIGHT], on=_STAY)
        .filter(pl.col(_MINUTE) <= pl.col(_THROUGH))
        .group_by(_ROW, maintain_order=True)
        .agg(pl.col(_VALUE).last().alias("weight_kg"))
    )
    rows = rows.join(weight, on=_ROW, how="left")
    result = _empty(table, through)
    for block, window, places in _block_columns(table):
        some = pl.concat(
            [made[key].with_columns(pl.lit(at, pl.Int32).alias(_SERIES)) for at, key in enumerate(block.series)]
        )
        in_window = pl.col(_MINUTE) <= pl.col(_THROUGH)
        if window:
            in_window &= pl.col(_MINUTE) > pl.col(_THROUGH) - 60 * window
        grouped = (
            some.lazy()
            .join(rows.lazy(), on=_STAY, maintain_order="left")
            .filter(in_window)
            .group_by(_ROW, _SERIES)
            .agg([_polars_summary(summary, window) for summary in block.summaries])
            .collect()
        )
        place = grouped[_ROW].to_numpy()[:, None], places[grouped[_SERIES].to_numpy()]
        result[place] = grouped.select(block.summaries).to_numpy()
    return result


# --- pandas ----------------------------------------------------------------------------------------------------------


def pandas_frame(bins: Bins) -> pd.DataFrame:
    return pd.DataFrame({"concept": bins.concept, _STAY: bins.stay, _MINUTE: bins.minute, _VALUE: bins.median})


def _pandas_derived(derived: Derived, made: dict[str, pd.DataFrame]) -> pd.DataFrame:
    sources = [made[source] for source in derived.sources]
    if derived.kind == "first_of":
        return pd.concat(sources).drop_duplicates([_STAY, _MINUTE]).sort_values([_STAY, _MINUTE])
    one, other = sources[0], sources[1].rename(columns={_VALUE: "other"})
    if derived.kind == "mean_pressure":
        joined = one.merge(other, on=[_STAY, _MINUTE])
        value = (joined[_VALUE].astype(float) + 2 * joined["other"].astype(float)) / 3
    else:
        joined = pd.merge_asof(
            one.sort_values(_MINUTE, kind="stable"),
            other.sort_values(_MINUTE, kind="stable"),
            on=_MINUTE,
            by=_STAY,
            tolerance=derived.within_minutes,
        ).dropna(subset="other")
        value = joined[_VALUE].astype(float) - joined["other"].astype(float)
        if derived.kind == "ratio":
            joined = joined[joined["other"] != 0]
            value = joined[_VALUE].astype(float) / joined["other"].astype(float) * derived.scale
    made_of = joined.assign(**{_VALUE: value.astype(np.float32)})
    return made_of[[_STAY, _MINUTE, _VALUE]].sort_values([_STAY, _MINUTE])


def _pandas_block(some: pd.DataFrame, summaries: tuple[str, ...], window: int) -> pd.DataFrame:
    grouped = some.groupby([_ROW, _SERIES], sort=False)
    values = grouped[_VALUE]
    count = values.size()
    firsts = grouped[[_THROUGH, "weight_kg"]].first()
    passed = _passed_minutes(firsts[_THROUGH], window)
    made: dict[str, Callable[[], pd.Series[Any]]] = {
        "last": values.last,
        "first": values.first,
        "min": values.min,
        "max": values.max,
        "mean": values.mean,
        "standard_deviation": values.std,
        "change": lambda: values.last() - values.first(),
        "count": lambda: count,
        "hours_since": lambda: (firsts[_THROUGH] - grouped[_MINUTE].last()) / 60,
        "is_missing": lambda: count * 0.0,
        "share_of_hours": lambda: (grouped["hour"].nunique() / np.ceil(passed / 60)).clip(upper=1.0),
        "sum": values.sum,
        "sum_per_kg_hour": lambda: values.sum() / firsts["weight_kg"] / (passed / 60),
        "slope_per_hour": lambda: _pandas_slope(some, grouped, count),
    }
    return pd.DataFrame({summary: made[summary]() for summary in summaries})


def _pandas_slope(some: pd.DataFrame, grouped: Any, count: pd.Series[int]) -> pd.Series[Any]:
    x = some[_MINUTE] / 60 - grouped[_MINUTE].transform("mean") / 60
    y = some[_VALUE] - grouped[_VALUE].transform("mean")
    products = pd.DataFrame({_ROW: some[_ROW], _SERIES: some[_SERIES], "xy": x * y, "xx": x * x})
    sums = products.groupby([_ROW, _SERIES], sort=False).sum()
    return (sums["xy"] / sums["xx"]).where(count >= stay_features.FEWEST_FOR_SLOPE)


def pandas_features(
    table: FeatureTable, frame: pd.DataFrame, stay: NDArray[np.int32], through: NDArray[np.int32]
) -> Matrix:
    made = {
        concepts.by_number(number).key: frame.loc[frame["concept"] == number, [_STAY, _MINUTE, _VALUE]]
        for number in feature_table.concepts_of(table)
    }
    for derived in table.derived:
        made[derived.key] = _pandas_derived(derived, made)
    rows = pd.DataFrame({_ROW: np.arange(len(stay)), _STAY: stay, _THROUGH: through.astype(np.int64)})
    weighed = rows.merge(made[BODY_WEIGHT], on=_STAY)
    weights = weighed[weighed[_MINUTE] <= weighed[_THROUGH]].groupby(_ROW)[_VALUE].last()
    rows["weight_kg"] = weights.reindex(rows[_ROW]).to_numpy(np.float64)
    result = _empty(table, through)
    for block, window, places in _block_columns(table):
        some = pd.concat([made[key].assign(**{_SERIES: at}) for at, key in enumerate(block.series)])
        some = some.merge(rows, on=_STAY)
        chosen = some[_MINUTE] <= some[_THROUGH]
        if window:
            chosen &= some[_MINUTE] > some[_THROUGH] - 60 * window
        some = some[chosen].astype({_VALUE: np.float64})
        if "share_of_hours" in block.summaries:
            some["hour"] = (some[_MINUTE].clip(1) - 1) // 60
        grouped = _pandas_block(some, block.summaries, window)
        row = grouped.index.get_level_values(_ROW).to_numpy()
        series = grouped.index.get_level_values(_SERIES).to_numpy()
        result[row[:, None], places[series]] = grouped.to_numpy(np.float32)
    return result


# --- measuring -------------------------------------------------------------------------------------------------------


def differences(names: tuple[str, ...], ours: Matrix, theirs: Matrix, scale: NDArray[np.float32]) -> list[str]:
    """Return the columns that are not the same: NaN where NaN is, else within the tolerance of value or scale."""
    is_close = np.abs(ours - theirs) <= TOLERANCE * np.maximum(np.abs(theirs), scale)
    same = is_close | (np.isnan(ours) & np.isnan(theirs))
    return [name for name, column in zip(names, same.T, strict=True) if not column.all()]


def live_ward(patients: int, seed: int) -> list[StaySeries]:
    """Return stays with 48 hours of minute-by-minute vital signs and the rest as it is charted."""
    random = np.random.default_rng(seed)
    streamed = {
        concepts.by_key(key).number
        for key in (
            "heart_rate", "respiratory_rate", "arterial_systolic_blood_pressure", "arterial_diastolic_blood_pressure",
            "arterial_mean_blood_pressure", "body_temperature", "inspired_oxygen_fraction",
        )
    }  # fmt: skip
    ward = []
    for _ in range(patients):
        series = StaySeries()
        for number in sorted(feature_table.concepts_of(feature_table.MORTALITY)):
            step = 1 if number in streamed else int(random.integers(60, 720))
            minutes = range(0, 2880, step)
            for minute, value in zip(minutes, random.normal(80, 5, len(minutes)).tolist(), strict=True):
                series.put(number, minute, value, 1)
        ward.append(series)
    return ward


def _best_s(call: Callable[[], object], times: int) -> float:
    taken = []
    for _ in range(times):
        started = time.perf_counter()
        call()
        taken.append(time.perf_counter() - started)
    return min(taken)


def figures(bins: Bins, seed: int) -> dict[str, float]:
    """Compare, measure and print; return the figures by name.

    Raises:
        SystemExit: a peer computes another value somewhere.
    """
    table = feature_table.MORTALITY
    names = feature_table.names(table)
    stay, through = rows_at(bins.stays, HOURS)
    ours = stay_features.compute(table, bins, stay, through)
    as_polars, as_pandas = polars_frame(bins), pandas_frame(bins)
    # A slope or deviation near nothing has the rounding errors of larger values: a column's own size is its scale.
    sizes = np.nanquantile(np.abs(np.where(np.isnan(ours).all(axis=0), 0, ours)), 0.9, axis=0).astype(np.float32)
    peers: dict[str, Callable[[], Matrix]] = {
        "polars": lambda: polars_features(table, as_polars, stay, through),
        "pandas": lambda: pandas_features(table, as_pandas, stay, through),
    }
    for peer, call in peers.items():
        unlike = differences(names, ours, call(), sizes)
        if unlike:
            raise SystemExit(f"{peer} computes other values in {len(unlike)} columns: {unlike[:5]}")
    ours_s = _best_s(lambda: stay_features.compute(table, bins, stay, through), 3)
    polars_s, pandas_s = _best_s(peers["polars"], 2), _best_s(peers["pandas"], 1)
    ward = live_ward(200, seed)
    everyone, now = rows_at(len(ward), (48,))
    live_s = _best_s(lambda: stay_features.compute(table, bins_of_series(ward), everyone, now - 1), 5)
    print(
        f"{len(stay):,} rows x {len(names)} features of {bins.stays:,} stays, {len(bins.median):,} bins; compared equal"
    )
    for name, seconds in (("kernel", ours_s), ("Polars", polars_s), ("pandas", pandas_s)):
        print(f"{name:8}{len(stay) / seconds:>12,.0f} rows/s{seconds / ours_s:>10.1f} x the kernel's time")
    print(f"200 live patients with 48 h of minute vital signs, bins and all: {live_s * 1e3:.0f} ms")
    return {
        "kernel_rows_per_s": round(len(stay) / ours_s),
        "polars_rows_per_s": round(len(stay) / polars_s),
        "pandas_rows_per_s": round(len(stay) / pandas_s),
        "polars_ratio": round(polars_s / ours_s, 2),
        "pandas_ratio": round(pandas_s / ours_s, 2),
        "live_ward_ms": round(live_s * 1e3, 1),
    }
