"""The feature window against a batch computation that shares no code with it."""

from __future__ import annotations

import statistics

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.features import HORIZONS_H, MINUTES, Bin, FeatureWindow, median
from vocabulary import concepts
from vocabulary.errors import BrokenInvariantError

HEART, BREATH = 1, 3
START = 29_000_000  # minutes since the epoch: 2025

puts = st.lists(
    st.tuples(
        st.sampled_from([11, 12, 13]),
        st.sampled_from([HEART, BREATH]),
        st.integers(0, 2 * MINUTES),
        st.floats(-500, 500, width=32),
        st.integers(1, 60),
    ),
    max_size=80,
)


def filled(made):
    """Return a window fed as time goes by, and what it should hold: the last word for each bin of the day."""
    window = FeatureWindow([HEART, BREATH])
    held: dict[tuple[int, int], dict[int, tuple[float, int]]] = {}
    for patient_id, concept, offset, value, n in made:
        minute = START + offset
        window.put(patient_id, concept, minute, value, n)
        bins = held.setdefault((patient_id, concept), {})
        if not any(other > minute and other % MINUTES == minute % MINUTES for other in bins):
            for other in [other for other in bins if other % MINUTES == minute % MINUTES]:
                del bins[other]
            bins[minute] = (value, n)
    return window, held


@given(puts, st.integers(0, 2 * MINUTES + 100))
@settings(deadline=None)
def test_bins_put_in_one_by_one_equal_the_whole_table(made, now_offset):
    window, held = filled(made)
    now = START + now_offset
    for (patient_id, concept), bins in held.items():
        expected = [Bin(m, v, n) for m, (v, n) in sorted(bins.items()) if now - MINUTES < m <= now]
        assert window.bins(patient_id, concept, now - MINUTES + 1, now + 1) == expected
        assert window.latest(patient_id, concept, now) == (expected[-1] if expected else None)


@given(puts, st.integers(0, 2 * MINUTES + 100))
@settings(deadline=None)
def test_features_equal_pandas_over_the_same_bins(made, now_offset):
    window, held = filled(made)
    now = START + now_offset
    patients = [13, 99, 11, 12]
    names, values = window.features(patients, now)
    assert values.shape == (len(patients), len(names)) == (4, 2 * 4 * 6)
    table = pd.DataFrame(values, index=patients, columns=list(names))
    for patient_id in patients:
        for concept in (HEART, BREATH):
            key = concepts.by_number(concept).key
            series = pd.Series(
                {m: v for m, (v, _) in held.get((patient_id, concept), {}).items()}, dtype=float
            ).sort_index()
            for hours in HORIZONS_H:
                some = series[(series.index > now - hours * 60) & (series.index <= now)]
                row = table.loc[patient_id]
                assert row[f"{key}_count_{hours}h"] == len(some)
                for summary, expected in (
                    ("last", some.iloc[-1] if len(some) else np.nan),
                    ("min", some.min()),
                    ("max", some.max()),
                    ("mean", some.mean()),
                    ("slope_per_hour", np.polyfit(some.index / 60 - now / 60, some, 1)[0] if len(some) > 2 else np.nan),
                ):
                    found = row[f"{key}_{summary}_{hours}h"]
                    assert found == pytest.approx(expected, rel=1e-6, abs=1e-5, nan_ok=True), (summary, hours)
                if hours == 1:
                    slope = window.slope_per_hour(patient_id, concept, now)
                    expected = row[f"{key}_slope_per_hour_1h"]
                    assert (np.nan if slope is None else slope) == pytest.approx(expected, abs=1e-6, nan_ok=True)


def test_a_known_slope_is_found():
    window = FeatureWindow([HEART])
    for minute in range(0, 60, 7):
        window.put(1, HEART, START + minute, 60 + 0.5 * minute, 1)
    assert window.slope_per_hour(1, HEART, START + 59) == pytest.approx(30.0)


def test_two_bins_make_no_trend_and_a_patient_unknown_none():
    window = FeatureWindow([HEART])
    window.put(1, HEART, START, 60, 1)
    window.put(1, HEART, START + 1, 61, 1)
    assert window.slope_per_hour(1, HEART, START + 1) is None
    window.put(1, HEART, START + 2, 62, 1)
    assert window.slope_per_hour(1, HEART, START + 2) == pytest.approx(60.0)
    assert window.slope_per_hour(1, HEART, START + 61) is None  # only two of them lie within the hour
    assert window.slope_per_hour(2, HEART, START) is None


def test_a_late_bin_within_the_day_counts_and_an_older_one_does_not():
    window = FeatureWindow([HEART])
    window.put(1, HEART, START + MINUTES, 80, 1)
    window.put(1, HEART, START + 5, 70, 1)
    window.put(1, HEART, START, 10, 1)  # its slot now holds a day later
    assert window.bins(1, HEART, START + 1, START + MINUTES + 1) == [
        Bin(START + 5, 70.0, 1),
        Bin(START + MINUTES, 80.0, 1),
    ]


def test_a_revised_bin_replaces_and_an_emptied_one_is_gone():
    window = FeatureWindow([HEART])
    window.put(1, HEART, START, 70, 3)
    window.put(1, HEART, START, 75, 4)
    assert window.latest(1, HEART, START) == Bin(START, 75.0, 4)
    window.put(1, HEART, START, float("nan"), 0)
    window.put(2, HEART, START, float("nan"), 0)
    assert window.latest(1, HEART, START) is None


def test_a_patient_cleared_is_forgotten_and_their_room_reused():
    window = FeatureWindow([HEART, BREATH])
    for patient_id in range(40):
        window.put(patient_id, HEART, START, patient_id, 1)
    window.clear(7)
    window.clear(7)
    window.put(99, BREATH, START, 16, 1)
    assert window.latest(7, HEART, START) is None
    assert window.latest(99, HEART, START) is None
    assert [window.latest(p, HEART, START).median for p in (0, 16, 39)] == [0.0, 16.0, 39.0]


def test_medians_are_kept_as_the_store_keeps_them():
    window = FeatureWindow([HEART])
    window.put(1, HEART, START, 36.6, 1)
    assert window.latest(1, HEART, START).median == float(np.float32(36.6))


def test_a_bin_that_cannot_be_is_refused():
    window = FeatureWindow([HEART])
    for concept, value, n in ((BREATH, 1.0, 1), (HEART, float("nan"), 1), (HEART, float("inf"), 1), (HEART, 1.0, -1)):
        with pytest.raises(BrokenInvariantError):
            window.put(1, concept, START, value, n)
    with pytest.raises(ValueError, match="once"):
        FeatureWindow([HEART, HEART])


@given(st.lists(st.floats(-1e9, 1e9), min_size=1))
def test_the_median_is_the_libraries(values):
    assert median(values) == pytest.approx(statistics.median(values))
    assert median(values) == median(values[::-1])


def test_there_is_no_median_of_nothing():
    with pytest.raises(ValueError, match="at least one"):
        median([])
