"""Features against a slow computation in plain Python that shares no code with them; their bits in any company."""

from __future__ import annotations

import math
import statistics
from bisect import bisect_right
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from interop import physionet2012
from models import feature_table, stay_features
from models.feature_table import MORTALITY, Block, Derived, FeatureTable
from models.features import median
from models.stay_series import Bins, StaySeries, bins_of_records, bins_of_series
from vocabulary import concepts
from vocabulary.errors import BrokenInvariantError

EVERY = (
    "last", "first", "min", "max", "mean", "standard_deviation", "slope_per_hour", "change", "count", "hours_since",
    "is_missing", "share_of_hours", "sum", "sum_per_kg_hour",
)  # fmt: skip
TABLE = FeatureTable(
    name="test",
    version=1,
    derived=(
        Derived("of_two", "mean_pressure", ("systolic_blood_pressure", "diastolic_blood_pressure")),
        Derived("any_mean", "first_of", ("arterial_mean_blood_pressure", "mean_blood_pressure", "of_two")),
        Derived("shock", "ratio", ("heart_rate", "systolic_blood_pressure"), within_minutes=60, scale=100.0),
        Derived("pulse_pressure", "difference", ("systolic_blood_pressure", "diastolic_blood_pressure")),
    ),
    blocks=(
        Block(("heart_rate", "any_mean", "shock"), (1, 4, 0), EVERY),
        Block(("pulse_pressure",), (2,), ("mean", "last")),
        Block(("urine_output",), (6,), ("sum", "sum_per_kg_hour")),
    ),
)
NEEDED = sorted(feature_table.concepts_of(TABLE))
NAMES = stay_features.names(TABLE)

Stay = dict[str, dict[int, float]]


def series_of(stay: Stay) -> StaySeries:
    series = StaySeries()
    for key, bins in stay.items():
        for minute, value in bins.items():
            series.put(concepts.by_key(key).number, minute, value)
    return series


def bins_of(stays: list[Stay]) -> Bins:
    return bins_of_series([series_of(stay) for stay in stays])


def compute(stays: list[Stay], pairs: list[tuple[int, int]], table: FeatureTable = TABLE) -> np.ndarray:
    columns = np.array(pairs, np.int32).reshape(-1, 2)
    return stay_features.compute(table, bins_of(stays), columns[:, 0], columns[:, 1])


def slow_series(table: FeatureTable, stay: Stay) -> dict[str, dict[int, float]]:
    """Every series of a stay as {minute: value}, single precision as the table keeps it."""
    made = {concept.key: stay.get(concept.key, {}) for concept in concepts.CONCEPTS}
    for derived in table.derived:
        sources = [made[source] for source in derived.sources]
        found: dict[int, float] = {}
        if derived.kind == "first_of":
            for source in reversed(sources):
                found |= source
        elif derived.kind == "mean_pressure":
            found = {m: (sources[0][m] + 2 * sources[1][m]) / 3 for m in sources[0].keys() & sources[1].keys()}
        else:
            known = sorted(sources[1])
            for minute, value in sources[0].items():
                place = bisect_right(known, minute)
                if place and minute - known[place - 1] <= derived.within_minutes:
                    other = sources[1][known[place - 1]]
                    if derived.kind == "difference":
                        found[minute] = value - other
                    elif other:
                        found[minute] = value / other * derived.scale
        made[derived.key] = {minute: float(np.float32(value)) for minute, value in found.items()}
    return made


def slow(table: FeatureTable, stay: Stay, through: int) -> dict[str, float]:
    made = slow_series(table, stay)
    row = {"hours_since_admission": through / 60}
    weights = [value for minute, value in sorted(made["body_weight"].items()) if minute <= through]
    for block in table.blocks:
        for key in block.series:
            for hours in block.windows_h:
                lowest = through - hours * 60 + 1 if hours else -math.inf
                some = sorted((m, v) for m, v in made[key].items() if lowest <= m <= through)
                minutes, values = [m for m, _ in some], [v for _, v in some]
                passed = min(hours * 60, max(through, 1)) if hours else max(through, 1)
                n = len(some)
                answers = {
                    "last": values[-1] if n else math.nan,
                    "first": values[0] if n else math.nan,
                    "min": min(values, default=math.nan),
                    "max": max(values, default=math.nan),
                    "mean": statistics.fmean(values) if n else math.nan,
                    "standard_deviation": statistics.stdev(values) if n > 1 else math.nan,
                    "slope_per_hour": (
                        statistics.linear_regression([m / 60 for m in minutes], values).slope if n > 2 else math.nan
                    ),
                    "change": values[-1] - values[0] if n else math.nan,
                    "count": n,
                    "hours_since": (through - minutes[-1]) / 60 if n else math.nan,
                    "is_missing": float(not n),
                    "share_of_hours": min(len({(max(m, 1) - 1) // 60 for m in minutes}) / math.ceil(passed / 60), 1.0),
                    "sum": math.fsum(values) if n else math.nan,
                    "sum_per_kg_hour": (math.fsum(values) / weights[-1] / (passed / 60) if n and weights else math.nan),
                }
                for summary in block.summaries:
                    row[feature_table.column(key, summary, hours)] = answers[summary]
    return row


measured = st.floats(20, 220, width=32)
stays = st.fixed_dictionaries(
    {concepts.by_number(number).key: st.dictionaries(st.integers(0, 500), measured, max_size=12) for number in NEEDED}
)


def differs(found: float, expected: float, scale: float) -> bool:
    if math.isnan(expected):
        return not math.isnan(found)
    return not abs(found - expected) <= 1e-5 * max(abs(expected), scale)


@given(st.lists(stays, min_size=1, max_size=3), st.integers(0, 560))
@settings(deadline=None, max_examples=60)
def test_every_feature_is_what_a_slow_computation_says(some: list[Stay], through: int) -> None:
    rows = compute(some, [(place, through) for place in range(len(some))])
    for row, stay in zip(rows, some, strict=True):
        expected = slow(TABLE, stay, through)
        assert tuple(expected) == NAMES
        for name, found in zip(NAMES, row.tolist(), strict=True):
            # Slopes of values near 200 within minutes lose digits to the values' own size.
            scale = 2e2 if "slope" in name else 1.0
            assert not differs(found, expected[name], scale), (name, found, expected[name])


asked = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 560)), min_size=1, max_size=12)


@given(st.lists(stays, min_size=4, max_size=4), asked, st.randoms(use_true_random=False))
@settings(deadline=None, max_examples=40)
def test_a_row_has_the_same_bits_alone_in_any_company_and_in_any_order(some: list[Stay], pairs, random) -> None:
    together = compute(some, pairs)
    shuffled = list(range(len(pairs)))
    random.shuffle(shuffled)
    again = compute(some, [pairs[place] for place in shuffled])
    assert again.tobytes() == together[shuffled].tobytes()
    for row, (stay, through) in zip(together, pairs, strict=True):
        known = {key: {m: v for m, v in bins.items() if m <= through} for key, bins in some[stay].items()}
        alone = compute([known], [(0, through)])  # nor do bins that came later matter
        assert alone.tobytes() == row.tobytes()


def dense(seed: int, minutes: int) -> Stay:
    """A stay with a value nearly every minute, so that numpy's sums are long enough to be paired and unrolled."""
    random = np.random.default_rng(seed)
    return {
        concepts.by_number(number).key: {
            minute: float(np.float32(random.normal(90, 15))) for minute in range(minutes) if random.random() < 0.9
        }
        for number in NEEDED
    }


def test_long_series_have_the_same_bits_in_any_company_and_at_any_place_in_memory() -> None:
    some = [dense(seed, 2881) for seed in range(4)]
    rows = [(stay, through) for stay in range(4) for through in (0, 7, 777, 1439, 2160, 2880)]
    together = compute(some, rows)
    for row, (stay, through) in zip(together, rows, strict=True):
        assert compute([some[stay]], [(0, through)]).tobytes() == row.tobytes()
    for row, (stay, through) in list(zip(together, rows, strict=True))[4::6]:
        expected = slow(TABLE, some[stay], through)
        for name, found in zip(NAMES, row.tolist(), strict=True):
            assert not differs(found, expected[name], 1e-2), (name, found, expected[name])


def test_more_rows_than_are_computed_at_once_are_still_the_same_rows() -> None:
    some = [dense(seed, 130) for seed in range(3)]
    pairs = [(stay, through) for stay in range(3) for through in range(130)] * 12
    rows = compute(some, pairs)
    assert len(rows) > 4096
    assert rows.tobytes() == np.tile(rows[: 3 * 130], (12, 1)).tobytes()
    assert rows.flags.c_contiguous
    assert rows.dtype == np.float32


def test_a_flat_line_neither_varies_nor_slopes() -> None:
    stay: Stay = {"heart_rate": {0: 140.0, 1: 33.0} | dict.fromkeys(range(10, 500, 5), 71.3)}
    row = dict(zip(NAMES, compute([stay], [(0, 500)])[0].tolist(), strict=True))
    assert row["heart_rate_standard_deviation_4h"] == pytest.approx(0.0, abs=1e-5)
    assert row["heart_rate_slope_per_hour_4h"] == pytest.approx(0.0, abs=1e-6)
    assert row["heart_rate_mean_4h"] == pytest.approx(71.3, rel=1e-6)


def test_a_known_stay_has_known_features() -> None:
    stay: Stay = {
        "heart_rate": {60: 100.0, 120: 90.0, 180: 80.0},
        "systolic_blood_pressure": {100: 120.0, 180: 100.0},
        "diastolic_blood_pressure": {100: 60.0},
        "arterial_mean_blood_pressure": {100: 77.0, 170: 75.0},
        "mean_blood_pressure": {100: 99.0, 175: 90.0},
        "urine_output": {60: 50.0, 120: 70.0},
        "body_weight": {0: 80.0, 170: 60.0, 181: 1.0},
    }
    row = dict(zip(NAMES, compute([stay], [(0, 180)])[0].tolist(), strict=True))
    assert row["hours_since_admission"] == 3.0
    assert row["heart_rate_slope_per_hour_stay"] == pytest.approx(-10.0)
    assert row["heart_rate_change_stay"] == -20.0
    assert row["heart_rate_count_1h"] == 1.0  # 121 to 180
    assert row["heart_rate_share_of_hours_stay"] == 1.0
    assert row["any_mean_count_stay"] == 3.0
    assert row["any_mean_first_stay"] == 77.0  # the line goes before the cuff
    assert row["any_mean_last_stay"] == 90.0
    assert row["shock_count_stay"] == 2.0  # at 60 no pressure was known yet
    assert row["shock_first_stay"] == 75.0
    assert row["shock_last_stay"] == 80.0
    assert row["urine_output_sum_6h"] == 120.0
    assert row["urine_output_sum_per_kg_hour_6h"] == pytest.approx(120 / 60 / 3)
    assert math.isnan(compute([stay], [(0, 10)])[0][NAMES.index("heart_rate_last_stay")])


def test_a_stay_that_is_not_there_and_columns_that_differ_are_refused() -> None:
    bins = bins_of([{}, {}])
    one = np.zeros(1, np.int32)
    for stay, through in ((np.array([2]), one), (np.array([-1]), one), (one, np.zeros(2)), (one, np.array([1 << 25]))):
        with pytest.raises(BrokenInvariantError):
            stay_features.compute(TABLE, bins, stay.astype(np.int32), through.astype(np.int32))
    assert stay_features.compute(TABLE, bins, one[:0], one[:0]).shape == (0, len(NAMES))


def test_a_stay_without_any_bin_is_a_row_of_nothing() -> None:
    row = dict(zip(NAMES, compute([{}], [(0, 60)])[0].tolist(), strict=True))
    counted = ("count", "is_missing", "share_of_hours")
    for name, value in row.items():
        if any(f"_{summary}_" in name for summary in counted):
            assert value == float("is_missing" in name)
        elif name != "hours_since_admission":
            assert math.isnan(value), name


def test_a_table_that_makes_no_sense_is_refused() -> None:
    fine = Block(("heart_rate",), (6,), ("last",))
    for derived, blocks in (
        ((), (Block(("shoe_size",), (6,), ("last",)),)),
        ((), (Block(("sex",), (6,), ("last",)),)),
        ((), (Block(("heart_rate",), (6,), ("median",)),)),  # type: ignore[arg-type]
        ((), (fine, fine)),
        ((), (Block(("heart_rate",), (-6,), ("last",)),)),
        ((Derived("heart_rate", "first_of", ("pulse_rate",)),), (fine,)),
        ((Derived("shock", "ratio", ("heart_rate",)),), (fine,)),
        ((Derived("shock", "ratio", ("heart_rate", "later")), Derived("later", "first_of", ("pulse_rate",))), (fine,)),
    ):
        with pytest.raises(ValueError, match="expected"):
            FeatureTable("bad", 1, derived, blocks)


def test_the_houses_table_knows_neither_sex_nor_ward_and_is_found_by_its_digest() -> None:
    keys = {concepts.by_number(number).key for number in feature_table.concepts_of(MORTALITY)}
    assert not keys & {"sex", "icu_type"}
    assert "age" in keys
    columns = feature_table.names(MORTALITY)
    assert len(set(columns)) == len(columns)
    assert set(feature_table.series_of(MORTALITY)) == set(columns)
    assert feature_table.by_digest(feature_table.digest(MORTALITY)) is MORTALITY
    assert feature_table.by_digest("0" * 64) is None


def test_the_houses_table_says_what_a_slow_computation_says() -> None:
    random = np.random.default_rng(7)
    stay: Stay = {}
    for number in feature_table.concepts_of(MORTALITY):
        minutes = random.choice(2880, size=random.integers(0, 40), replace=False)
        stay[concepts.by_number(number).key] = {
            int(minute): float(np.float32(value))
            for minute, value in zip(minutes, random.uniform(1, 100, len(minutes)), strict=True)
        }
    columns = feature_table.names(MORTALITY)
    for through in (60, 1440, 2880):
        expected = slow(MORTALITY, stay, through)
        found = compute([stay], [(0, through)], MORTALITY)[0].tolist()
        for name, value in zip(columns, found, strict=True):
            assert not differs(value, expected[name], 1.0), (name, value, expected[name])


@pytest.mark.shared_data
def test_recorded_stays_told_value_by_value_have_the_bits_of_the_whole_cohort(shared_data: Path) -> None:
    cohort = list(islice(physionet2012.read(shared_data / "icu" / "physionet2012"), 120))
    whole = bins_of_records(cohort)
    places = np.arange(len(cohort), dtype=np.int32)
    for through in (60, 1000, 2880):
        minutes = np.full(len(cohort), through, np.int32)
        batch = stay_features.compute(MORTALITY, whole, places, minutes)
        told = []
        for stay in cohort:  # as a twin hears of it: one minute after the other, nothing of what is yet to come
            heard: dict[tuple[int, int], list[float]] = {}
            series = StaySeries()
            for concept, minute, value in sorted(stay.observations(), key=lambda one: one[1]):
                if minute <= through:
                    values = heard.setdefault((concept, minute), [])
                    values.append(value)
                    series.put(concept, minute, median(values), len(values))
            told.append(series)
        online = stay_features.compute(MORTALITY, bins_of_series(told), places, minutes)
        assert online.tobytes() == batch.tobytes()
    assert np.isfinite(batch).mean() > 0.4
