"""Sparse minute bins of stays, held against a dictionary and against the standard library's median."""

from __future__ import annotations

import math
import statistics
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.features import median
from models.stay_series import Bins, StaySeries, bins_of_columns, bins_of_records, bins_of_series
from vocabulary.errors import BrokenInvariantError

HEART, BREATH, LACTATE = 1, 3, 407

steps = st.lists(
    st.tuples(
        st.sampled_from([HEART, BREATH, LACTATE]),
        st.integers(-3, 30),
        st.floats(-500, 500),
        st.integers(0, 3),
    ),
    max_size=60,
)


class Recorded(NamedTuple):
    concepts: np.ndarray
    minutes: np.ndarray
    values: np.ndarray


def recorded(rows: list[tuple[int, int, float]]) -> Recorded:
    return Recorded(
        np.array([row[0] for row in rows], np.int16),
        np.array([row[1] for row in rows], np.int32),
        np.array([row[2] for row in rows], np.float64),
    )


def rows_of(bins: Bins) -> list[tuple[int, int, int, float]]:
    columns = (bins.concept, bins.stay, bins.minute, bins.median)
    return list(zip(*(column.tolist() for column in columns), strict=True))


@given(steps)
def test_a_series_holds_the_last_word_on_every_minute(made: list[tuple[int, int, float, int]]) -> None:
    series = StaySeries()
    held: dict[int, dict[int, float]] = {}
    for concept, minute, value, n in made:
        before = {number: series.bins(number) for number in (HEART, BREATH, LACTATE)}
        revision = series.revision
        series.put(concept, minute, value, n)
        if n:
            held.setdefault(concept, {})[minute] = float(np.float32(value))
        else:
            held.get(concept, {}).pop(minute, None)
        after = {number: series.bins(number) for number in (HEART, BREATH, LACTATE)}
        assert (series.revision > revision) == (before != after)
    for concept in (HEART, BREATH, LACTATE):
        expected = sorted(held.get(concept, {}).items())
        assert series.bins(concept) == expected
        minutes, medians = series.arrays(concept)
        assert list(zip(minutes.tolist(), medians.tolist(), strict=True)) == expected
    assert series.concepts() == tuple(sorted(number for number, bins in held.items() if bins))
    assert len(series) == sum(map(len, held.values()))


def test_a_series_forgets_when_cleared_and_says_that_it_changed() -> None:
    series = StaySeries()
    series.put(HEART, 5, 80.0, 1)
    revision = series.revision
    series.put(HEART, 5, 80.0, 4)  # another value of the same median changes nothing that is computed
    assert series.revision == revision
    series.clear()
    assert (len(series), series.concepts(), series.revision > revision) == (0, (), True)


def test_an_array_handed_out_does_not_stop_a_series_from_growing() -> None:
    series = StaySeries()
    series.put(HEART, 1, 80.0)
    minutes, _ = series.arrays(HEART)
    series.put(HEART, 2, 81.0)
    assert minutes.tolist() == [1]
    assert series.bins(HEART) == [(1, 80.0), (2, 81.0)]


@pytest.mark.parametrize(
    ("minute", "value", "n"), [(1, math.nan, 1), (1, math.inf, 1), (1, 1e39, 1), (1, 1.0, -1), (1 << 25, 1.0, 1)]
)
def test_a_bin_that_cannot_be_is_refused(minute: int, value: float, n: int) -> None:
    series = StaySeries()
    with pytest.raises(BrokenInvariantError):
        series.put(HEART, minute, value, n)
    assert (len(series), series.revision) == (0, 0)


values = st.lists(
    st.tuples(st.sampled_from([HEART, BREATH, LACTATE]), st.integers(0, 8), st.floats(-500, 500) | st.just(math.nan)),
    max_size=25,
)


@given(st.lists(values, max_size=4), st.randoms(use_true_random=False))
def test_recorded_values_become_the_bins_that_are_put_one_by_one(stays: list, random) -> None:
    series, expected = [], []
    for place, rows in enumerate(stays):
        groups: dict[tuple[int, int], list[float]] = {}
        for concept, minute, value in rows:
            if not math.isnan(value):
                groups.setdefault((concept, minute), []).append(value)
        one = StaySeries()
        shuffled = list(groups)
        random.shuffle(shuffled)
        for concept, minute in shuffled:
            some = groups[concept, minute]
            one.put(concept, minute, median(some), len(some))
            expected.append((concept, place, minute, float(np.float32(statistics.median(some)))))
        series.append(one)
    of_records = bins_of_records([recorded(rows) for rows in stays])
    of_series = bins_of_series(series)
    assert rows_of(of_records) == rows_of(of_series)
    assert [row[:3] for row in rows_of(of_series)] == sorted(row[:3] for row in expected)
    assert sorted(row[3] for row in rows_of(of_series)) == pytest.approx(sorted(row[3] for row in expected), abs=1e-4)
    assert of_records.stays == of_series.stays == len(stays)
    for column, other in zip(of_records[:4], of_series[:4], strict=True):
        assert column.dtype == other.dtype


def test_only_the_concepts_asked_for_are_read() -> None:
    one, other = StaySeries(), StaySeries()
    for concept in (HEART, LACTATE):
        one.put(concept, 3, 1.0)
    assert rows_of(bins_of_series([other, one], [LACTATE, BREATH])) == [(LACTATE, 1, 3, 1.0)]


def test_no_stays_and_no_bins_are_no_special_case() -> None:
    assert bins_of_series([]).stays == 0
    assert bins_of_records([]).stays == 0
    assert rows_of(bins_of_records([recorded([]), recorded([])])) == []
    assert bins_of_records([recorded([(HEART, 1, math.nan)])]).stays == 1


def test_columns_that_cannot_be_are_refused() -> None:
    one = recorded([(HEART, 1, 80.0)])
    for stay, value in ((1, 80.0), (-1, 80.0), (0, math.inf)):
        with pytest.raises(BrokenInvariantError):
            bins_of_columns(one.concepts, np.array([stay], np.int32), one.minutes, np.array([value]), 1)
    with pytest.raises(BrokenInvariantError):
        bins_of_columns(one.concepts, np.zeros(1, np.int32), np.array([1 << 25], np.int32), one.values, 1)
