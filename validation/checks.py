"""Checks of a table as data: what its rows must be, evaluated in numpy.

Here: the kinds of rule, and what share of the rows breaks each.
Not here: which rules data must keep, and Great Expectations' evaluation of the same rules (validation.expectations).

A rule counts the rows it can judge (missing values are the business of `NotNull` alone) and how many of them break it;
it is kept where at least `mostly` of them keep it, and by a table without any.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

Column = NDArray[Any]
Table = Mapping[str, Column]
"""Column name -> array of shape (rows,)."""


class Rule(msgspec.Struct, frozen=True, kw_only=True):
    """One thing all rows, or most of them, must keep."""

    name: str  # "unit_is_canonical"
    mostly: float = 1.0


class NotNull(Rule, frozen=True, kw_only=True):
    """The column has a value in each row."""

    column: str


class InSet(Rule, frozen=True, kw_only=True):
    """The column's values are among these."""

    column: str
    values: frozenset[str] | frozenset[int]


class Between(Rule, frozen=True, kw_only=True):
    """The column's values lie within these limits, inclusive."""

    column: str
    low: float | None = None
    high: float | None = None


class AtLeast(Rule, frozen=True, kw_only=True):
    """One column is never below the other."""

    column: str
    other: str


class Equal(Rule, frozen=True, kw_only=True):
    """Two columns agree."""

    column: str
    other: str


class Unique(Rule, frozen=True, kw_only=True):
    """No two rows agree in all of these columns. Every row of a group of equals breaks it."""

    columns: tuple[str, ...]


class MeanBetween(Rule, frozen=True, kw_only=True):
    """The column's mean lies within these limits, inclusive."""

    column: str
    low: float
    high: float


class RowCount(Rule, frozen=True, kw_only=True):
    """The table has at least so many rows."""

    at_least: int


class Columns(Rule, frozen=True, kw_only=True):
    """The table has exactly these columns, in this order."""

    names: tuple[str, ...]


class Kept(NamedTuple):
    """How a table keeps a rule."""

    is_kept: bool
    broken_share: float | None  # of rows judged; None where the rule is not about rows, or nothing could be judged
    rows: int
    note: str = ""


def evaluate(rule: Rule, table: Table) -> Kept:
    """Return how a table keeps a rule; a column that is not there breaks it."""
    rows = len(next(iter(table.values()))) if table else 0
    if isinstance(rule, RowCount):
        return Kept(rows >= rule.at_least, None, rows, "" if rows >= rule.at_least else f"{rows} rows")
    if isinstance(rule, Columns):
        is_kept = tuple(table) == rule.names
        return Kept(is_kept, None, rows, "" if is_kept else _other_columns(rule.names, tuple(table)))
    absent = [name for name in _columns_of(rule) if name not in table]
    if absent:
        return Kept(False, None, rows, f"no column {', '.join(absent)}")
    if isinstance(rule, MeanBetween):
        values = table[rule.column]
        there = values[~is_missing(values)]
        mean = float(there.mean()) if len(there) else None
        is_kept = mean is not None and rule.low <= mean <= rule.high
        return Kept(is_kept, None, len(there), "" if mean is None else f"mean {mean:.4g}")
    judged, broken = _JUDGES[type(rule)](rule, table)
    if not judged:
        return Kept(True, None, 0)
    return Kept((judged - broken) / judged >= rule.mostly, broken / judged, judged)


def is_missing(values: Column) -> NDArray[np.bool_]:
    """Return where a column has no value: NaN, NaT, None."""
    if values.dtype.kind == "f":
        return np.isnan(values)
    if values.dtype.kind in "mM":
        return np.isnat(values)
    if values.dtype.kind == "O":
        return np.fromiter((value is None or value != value for value in values), np.bool_, len(values))
    return np.zeros(len(values), np.bool_)


def _not_null(rule: NotNull, table: Table) -> tuple[int, int]:
    missing = is_missing(table[rule.column])
    return len(missing), int(np.count_nonzero(missing))


def _in_set(rule: InSet, table: Table) -> tuple[int, int]:
    values = table[rule.column]
    if values.dtype.kind in "iu":
        allowed = np.asarray(sorted(value for value in rule.values if isinstance(value, int)), np.int64)
        return len(values), int(np.count_nonzero(~np.isin(values, allowed)))
    there = values[~is_missing(values)]
    distinct, counts = np.unique(there.astype(np.str_) if there.dtype.kind == "O" else there, return_counts=True)
    strange = [int(count) for value, count in zip(distinct.tolist(), counts, strict=True) if value not in rule.values]
    return len(there), sum(strange)


def _between(rule: Between, table: Table) -> tuple[int, int]:
    values = table[rule.column]
    judged = len(values) - int(np.count_nonzero(is_missing(values)))
    below = 0 if rule.low is None else int(np.count_nonzero(values < rule.low))  # NaN is never below nor above
    above = 0 if rule.high is None else int(np.count_nonzero(values > rule.high))
    return judged, below + above


def _at_least(rule: AtLeast, table: Table) -> tuple[int, int]:
    one, other = _both(table[rule.column], table[rule.other])
    return len(one), int(np.count_nonzero(one < other))


def _equal(rule: Equal, table: Table) -> tuple[int, int]:
    one, other = _both(table[rule.column], table[rule.other])
    return len(one), int(np.count_nonzero(one != other))


def _both(one: Column, other: Column) -> tuple[Column, Column]:
    missing = is_missing(one) | is_missing(other)
    return (one[~missing], other[~missing]) if missing.any() else (one, other)


def _unique(rule: Unique, table: Table) -> tuple[int, int]:
    columns = [table[name] for name in rule.columns]
    rows = len(columns[0])
    if any(_rises(values) for values in columns):
        return rows, 0
    codes = [_codes(values) for values in columns]
    order = np.lexsort(codes)
    same = np.ones(rows - 1, np.bool_)
    for code in codes:
        ordered = code[order]
        same &= ordered[1:] == ordered[:-1]
    repeated = np.concatenate(([False], same)) | np.concatenate((same, [False]))
    return rows, int(np.count_nonzero(repeated))


def _rises(values: Column) -> bool:
    """Return whether each value is above the one before: then no two are equal."""
    return values.dtype.kind in "iu" and bool(np.all(values[1:] > values[:-1]))


def _codes(values: Column) -> NDArray[Any]:
    """Return numbers that are equal where values are; missing ones are one value."""
    if values.dtype.kind in "iub":
        return values
    missing = is_missing(values)
    codes = np.full(len(values), -1, np.int64)
    there = values[~missing]
    codes[~missing] = np.unique(there.astype(np.str_) if there.dtype.kind == "O" else there, return_inverse=True)[1]
    return codes


def _columns_of(rule: Rule) -> tuple[str, ...]:
    if isinstance(rule, Unique):
        return rule.columns
    return tuple(str(getattr(rule, field)) for field in ("column", "other") if hasattr(rule, field))


def _other_columns(expected: tuple[str, ...], found: tuple[str, ...]) -> str:
    absent, strange = set(expected) - set(found), set(found) - set(expected)
    if not absent and not strange:
        return "the columns are in another order"
    return f"{len(absent)} columns absent, {len(strange)} not expected"


_JUDGES: Final[dict[type[Rule], Callable[[Any, Table], tuple[int, int]]]] = {
    NotNull: _not_null,
    InSet: _in_set,
    Between: _between,
    AtLeast: _at_least,
    Equal: _equal,
    Unique: _unique,
}
