"""Features of stays at given minutes: one function for a cohort of years and for the patients due this second.

Here: `compute`, which reads minute bins (models.stay_series) by a feature table (models.feature_table).
Not here: which features there are, where bins come from, what a model makes of the row.

A row depends on its own stay's bins up to its own minute and on nothing else: not on later bins, not on the other rows
of the call, not on their order. Its bits are therefore the same in a training table, in a live twin and in a replay.
That rests on the order of every sum being fixed by the row alone: a window is cut where the shorter windows within it
begin, each piece is summed by itself (numpy's reduceat adds one piece at a time, whatever lies beside it), and pieces
are added from the latest to the earliest. Sums run over differences to the stay's first value of that series, in
double precision, so that a long stay loses nothing; results are rounded to single precision once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from models import feature_table
from models.feature_table import BODY_WEIGHT, WHOLE_STAY, Derived, FeatureTable
from models.stay_series import FURTHEST_MINUTE, Bins
from vocabulary import concepts
from vocabulary.errors import BrokenInvariantError

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

FEWEST_FOR_SLOPE = 3
"""A line through two points says nothing about their scatter."""
FEWEST_FOR_DEVIATION = 2

_SHIFT = 32
_MINUTE_ZERO = 1 << 31  # minutes before admission sort before those after it
_MINUTE_MASK = (1 << _SHIFT) - 1
_ROWS_AT_ONCE = 4096
"""Bounds the memory of intermediate columns, and keeps them in the processor's cache."""
_TURNED_AT_ONCE = 128


class _Series(NamedTuple):
    """Bins of one concept or derived series, of some stays: sorted by key, each key once."""

    key: IntArray  # stay << 32 | minute + 2^31
    value: NDArray[np.float32]


class _Rows(NamedTuple):
    """The rows asked for, sorted by stay and minute."""

    first_key: IntArray  # before every bin of the stay
    through_key: IntArray  # the last bin that counts
    through: IntArray  # minutes since admission


def names(table: FeatureTable) -> tuple[str, ...]:
    """Return the names of `compute`'s columns."""
    return feature_table.names(table)


def compute(
    table: FeatureTable, bins: Bins, stay_index: NDArray[np.int32], through_minute: NDArray[np.int32]
) -> NDArray[np.float32]:
    """Return one row of features for each pair of a stay and the last minute that counts for it.

    Args:
        table: which features.
        bins: of the stays; concepts the table does not name are ignored.
        stay_index: place of each row's stay, 0..bins.stays-1, in any order and as often as you like; shape (rows,).
        through_minute: since admission, that minute's bin included; shape (rows,).

    Returns:
        Shape (rows, names), C-contiguous. What cannot be said is NaN; a count of nothing is 0.

    Raises:
        BrokenInvariantError: a stay that is not there, a minute that is none of a stay, or shapes that differ.
    """
    stay = np.asarray(stay_index, np.int64)
    through = np.asarray(through_minute, np.int64)
    if stay.ndim != 1 or stay.shape != through.shape:
        raise BrokenInvariantError(f"expected two columns of one length, found {stay.shape} and {through.shape}")
    if len(stay) and (stay.min() < 0 or stay.max() >= bins.stays or np.abs(through).max() > FURTHEST_MINUTE):
        raise BrokenInvariantError(f"expected stays 0..{bins.stays - 1} and minutes of a stay")
    key = (bins.stay.astype(np.int64) << _SHIFT) + (bins.minute.astype(np.int64) + _MINUTE_ZERO)
    wanted = np.array(sorted(feature_table.concepts_of(table)), bins.concept.dtype)  # of one type, or all are copied
    firsts, lasts = np.searchsorted(bins.concept, wanted), np.searchsorted(bins.concept, wanted, side="right")
    whole = {
        concepts.by_number(number).key: _Series(key[first:last], bins.median[first:last])
        for number, first, last in zip(wanted.tolist(), firsts.tolist(), lasts.tolist(), strict=True)
    }
    result = np.empty((len(stay), len(names(table))), np.float32)
    order = np.lexsort((through, stay))
    for start in range(0, len(order), _ROWS_AT_ONCE):
        chosen = order[start : start + _ROWS_AT_ONCE]
        columns = _columns(table, whole, stay[chosen], through[chosen])
        for some in range(0, len(chosen), _TURNED_AT_ONCE):
            result[chosen[some : some + _TURNED_AT_ONCE]] = columns[:, some : some + _TURNED_AT_ONCE].T
    return result


def _columns(table: FeatureTable, whole: dict[str, _Series], stay: IntArray, through: IntArray) -> NDArray[np.float32]:
    """Return features of sorted rows, shape (names, rows)."""
    rows = _Rows(stay << _SHIFT, (stay << _SHIFT) + (through + _MINUTE_ZERO), through)
    series: dict[str, _Series] = {}
    for name, one in whole.items():
        first, last = np.searchsorted(one.key, [rows.first_key[0], (stay[-1] + 1) << _SHIFT])
        series[name] = _Series(one.key[first:last], one.value[first:last])
    for derived in table.derived:
        series[derived.key] = _derive(derived, [series[source] for source in derived.sources])
    weight_kg = None
    if BODY_WEIGHT in series:
        weight_kg = _Summaries(series[BODY_WEIGHT], rows, [WHOLE_STAY], None).last(WHOLE_STAY)
    columns = np.empty((len(names(table)), len(stay)), np.float32)
    columns[0] = through / 60.0
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        for name, wanted in _wanted(table).items():
            made = _Summaries(series[name], rows, [window for _, _, window in wanted], weight_kg)
            for place, summary, window in wanted:
                columns[place] = _SUMMARIES[summary](made, window)
    return columns


def _wanted(table: FeatureTable) -> dict[str, list[tuple[int, str, int]]]:
    """Return for each series its columns as (place, summary, window in hours)."""
    wanted: dict[str, list[tuple[int, str, int]]] = {}
    place = 1  # behind hours since admission
    for block in table.blocks:
        for name in block.series:
            for window in block.windows_h:
                for summary in block.summaries:
                    wanted.setdefault(name, []).append((place, summary, window))
                    place += 1
    return wanted


class _Summaries:
    """Summaries of one series at every row, over nested windows; sums that several need are made once."""

    def __init__(self, series: _Series, rows: _Rows, windows_h: Sequence[int], weight_kg: FloatArray | None) -> None:
        self._rows = rows
        self._weight_kg = weight_kg
        self._key, self._values = series
        # Longest first; the whole stay is the longest of all.
        windows = sorted(set(windows_h), key=lambda hours: hours or FURTHEST_MINUTE, reverse=True)
        self._place = {hours: place for place, hours in enumerate(windows)}
        cuts = np.empty((len(rows.through), len(windows) + 1), np.int64)
        for place, hours in enumerate(windows):
            cuts[:, place] = np.searchsorted(
                self._key, np.maximum(rows.through_key - hours * 60 + 1, rows.first_key) if hours else rows.first_key
            )
        cuts[:, -1] = np.searchsorted(self._key, rows.through_key, side="right")
        self._cuts = cuts
        self._is_empty = cuts[:, :-1] == cuts[:, 1:]
        self._count = cuts[:, -1:] - cuts[:, :-1]
        self._end = np.maximum(cuts[:, -1] - 1, 0)
        starts = np.searchsorted(self._key, rows.first_key)
        self._reference = self._at(starts)
        """Each row's first value of the stay, which sums are counted from."""
        self._run_starts = starts[np.flatnonzero(np.concatenate([[True], starts[1:] != starts[:-1]]))]
        self._run_starts = self._run_starts[self._run_starts < len(self._key)]
        self._run_lengths = np.diff(np.append(self._run_starts, len(self._key)))
        self._kept: dict[str, FloatArray] = {}
        self._made: dict[str, FloatArray] = {}

    def _pieces(
        self, reduced: np.ufunc, values: NDArray[np.float64] | NDArray[np.float32], nothing: float
    ) -> FloatArray:
        """Return a reduction over each window, shape (rows, windows)."""
        padded = np.append(values, np.zeros(1, values.dtype))  # a cut may be the end
        pieces = reduced.reduceat(padded, self._cuts.ravel()).reshape(self._cuts.shape)[:, :-1]
        pieces[self._is_empty] = nothing
        for place in range(pieces.shape[1] - 2, -1, -1):  # a window holds the shorter ones
            reduced(pieces[:, place], pieces[:, place + 1], out=pieces[:, place])
        return pieces

    def _sum(self, what: str) -> FloatArray:
        """Return min, max, or a sum of x, y or their products: differences to the stay's first minute and value."""
        kept = self._kept.get(what)
        if kept is None:
            if what == "min":
                kept = self._pieces(np.minimum, self._values, np.inf)
            elif what == "max":
                kept = self._pieces(np.maximum, self._values, -np.inf)
            elif len(what) == 1:
                kept = self._pieces(np.add, self._differences(what), 0.0)
            else:
                kept = self._pieces(np.add, self._differences(what[0]) * self._differences(what[1]), 0.0)
            self._kept[what] = kept
        return kept

    def _differences(self, what: str) -> FloatArray:
        made = self._made.get(what)
        if made is None:
            if what == "y":
                values = self._values.astype(np.float64)
                made = values - np.repeat(values[self._run_starts], self._run_lengths)
            else:
                made = (self._key - np.repeat(self._key[self._run_starts], self._run_lengths)).astype(np.float64)
            self._made[what] = made
        return made

    def _column(self, what: str, window_h: int) -> FloatArray:
        return self._sum(what)[:, self._place[window_h]]

    def _at(self, place: IntArray) -> FloatArray:
        if not len(self._values):
            return np.full(len(place), np.nan)
        return self._values[np.minimum(place, len(self._values) - 1)].astype(np.float64)

    def count(self, window_h: int) -> FloatArray:
        return self._count[:, self._place[window_h]].astype(np.float64)

    def _where(self, window_h: int, value: FloatArray, fewest: int = 1) -> FloatArray:
        return np.where(self._count[:, self._place[window_h]] >= fewest, value, np.nan)

    def last(self, window_h: int) -> FloatArray:
        return self._where(window_h, self._at(self._end))

    def first(self, window_h: int) -> FloatArray:
        return self._where(window_h, self._at(self._cuts[:, self._place[window_h]]))

    def change(self, window_h: int) -> FloatArray:
        return self.last(window_h) - self.first(window_h)

    def minimum(self, window_h: int) -> FloatArray:
        return self._where(window_h, self._column("min", window_h))

    def maximum(self, window_h: int) -> FloatArray:
        return self._where(window_h, self._column("max", window_h))

    def mean(self, window_h: int) -> FloatArray:
        return self._where(window_h, self._reference + self._column("y", window_h) / self.count(window_h))

    def sum(self, window_h: int) -> FloatArray:
        total = self.count(window_h) * self._reference + self._column("y", window_h)
        return self._where(window_h, total)

    def sum_per_kg_hour(self, window_h: int) -> FloatArray:
        assert self._weight_kg is not None  # made whenever a table asks for this summary
        return self.sum(window_h) / self._weight_kg / (self._minutes_passed(window_h) / 60.0)

    def standard_deviation(self, window_h: int) -> FloatArray:
        n, y = self.count(window_h), self._column("y", window_h)
        variance = (self._column("yy", window_h) - y * y / n) / (n - 1)
        return self._where(window_h, np.sqrt(np.maximum(variance, 0.0)), FEWEST_FOR_DEVIATION)

    def slope_per_hour(self, window_h: int) -> FloatArray:
        n, x, y = self.count(window_h), self._column("x", window_h), self._column("y", window_h)
        spread = n * self._column("xx", window_h) - x * x
        return self._where(window_h, (n * self._column("xy", window_h) - x * y) / spread * 60.0, FEWEST_FOR_SLOPE)

    def hours_since(self, window_h: int) -> FloatArray:
        if not len(self._key):
            return np.full(len(self._end), np.nan)
        minute = (self._key[self._end] & _MINUTE_MASK) - _MINUTE_ZERO
        return self._where(window_h, (self._rows.through - minute) / 60.0)

    def is_missing(self, window_h: int) -> FloatArray:
        return np.asarray(self._count[:, self._place[window_h]] == 0, np.float64)

    def _minutes_passed(self, window_h: int) -> FloatArray:
        passed = np.maximum(self._rows.through, 1)
        return np.asarray(np.minimum(passed, window_h * 60) if window_h else passed, np.float64)

    def share_of_hours(self, window_h: int) -> FloatArray:
        """Hours are counted on the stay's own clock: minutes 1 to 60 are its first; minute 0 belongs to it as well."""
        minute = np.maximum((self._key & _MINUTE_MASK) - _MINUTE_ZERO, 1).astype(np.int32)
        hour = (minute - 1) // np.int32(60)
        is_new = np.concatenate([[False], hour[1:] != hour[:-1]])[: len(hour)]  # of two stays, told apart below
        changes = np.concatenate([[0], np.cumsum(is_new), [0]])  # whole numbers: exact in any order
        first, end = self._cuts[:, self._place[window_h]], self._cuts[:, -1]
        seen = 1 + changes[end] - changes[np.minimum(first + 1, end)]
        hours = np.where(self._count[:, self._place[window_h]] > 0, seen, 0)
        possible = np.ceil(self._minutes_passed(window_h) / 60.0)
        return np.minimum(hours / possible, 1.0)


_SUMMARIES: dict[str, Callable[[_Summaries, int], FloatArray]] = {
    "last": _Summaries.last,
    "first": _Summaries.first,
    "min": _Summaries.minimum,
    "max": _Summaries.maximum,
    "mean": _Summaries.mean,
    "standard_deviation": _Summaries.standard_deviation,
    "slope_per_hour": _Summaries.slope_per_hour,
    "change": _Summaries.change,
    "count": _Summaries.count,
    "hours_since": _Summaries.hours_since,
    "is_missing": _Summaries.is_missing,
    "share_of_hours": _Summaries.share_of_hours,
    "sum": _Summaries.sum,
    "sum_per_kg_hour": _Summaries.sum_per_kg_hour,
}


def _derive(derived: Derived, sources: list[_Series]) -> _Series:
    """Return a derived series; each of its values depends on bins of its own minute or before."""
    if derived.kind == "first_of":
        key = np.concatenate([one.key for one in sources])
        value = np.concatenate([one.value for one in sources])
        order = np.argsort(key, kind="stable")  # of one minute, the source named first comes first
        key, value = key[order], value[order]
        is_first = np.concatenate([[True], key[1:] != key[:-1]])[: len(key)]
        return _Series(key[is_first], value[is_first])
    one, other = sources
    within = 0 if derived.kind == "mean_pressure" else derived.within_minutes
    place = _latest(other.key, one.key)
    # Keys of two stays lie further apart than any two minutes of one.
    has_both = (place >= 0) & (one.key - other.key[place] <= within) if len(other.key) else place >= 0
    (key, a), place = _only(has_both, one), place if has_both.all() else place[has_both]
    first, second = a.astype(np.float64), other.value[place].astype(np.float64)
    if derived.kind == "difference":
        value = first - second
    elif derived.kind == "mean_pressure":
        value = (first + 2.0 * second) / 3.0
    else:
        with np.errstate(divide="ignore", invalid="ignore"):
            value = first / second * derived.scale  # by nothing: no number, so no value
    with np.errstate(over="ignore"):
        made = _Series(key, value.astype(np.float32))
    return _only(np.isfinite(made.value), made)


def _only(wanted: NDArray[np.bool_], series: _Series) -> _Series:
    return series if wanted.all() else _Series(series.key[wanted], series.value[wanted])


def _latest(keys: IntArray, at: IntArray) -> IntArray:
    """Return for each of `at` the place of the last key that is not after it, -1 without; both are sorted."""
    if np.array_equal(keys, at):
        return np.arange(len(at))
    # A stable sort of two sorted runs only merges them, which costs less than a search for each.
    is_key = np.argsort(np.concatenate([keys, at]), kind="stable") < len(keys)
    return np.cumsum(is_key)[~is_key] - 1
