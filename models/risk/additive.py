"""The additive member: a logistic regression over clipped, scaled and squared features, beside the trees.

Here: how a feature becomes up to three terms (value, its square, whether it is missing), the log-odds of rows, each
feature's exact contribution, the member's bytes.
Not here: fitting it (models.risk.fitting), groups and calibration (models.risk.artefact).

Sums run over columns one after the other, in double precision and in one fixed order, so that a row's bits do not
depend on which other rows are scored with it: a matrix product would promise no such thing. A skewed feature is taken
as its fourth root, two square roots that every processor rounds alike: of a logarithm, the last bit may depend on where
in an array a value stands.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]

MISSING_SCALE: Final = 2.0
"""How large "is missing" counts beside a standardised value: a rare but telling absence is penalised less."""


class Term(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One feature: where it stands in the row, how it is scaled, and what it weighs, in log-odds."""

    column: int
    low: float  # values are clipped to low..high, the training part's 1st and 99th percentile
    high: float
    is_rooted: bool  # its fourth root first: the feature is skewed and never negative
    mean: float  # of the clipped (and rooted) training values
    scale: float  # their standard deviation
    weight: float  # of the standardised value
    square_weight: float  # of its square less 1
    missing_weight: float  # of MISSING_SCALE where the feature is missing
    centre: float  # mean of the term over the training rows: contributions are counted from it


class AdditiveMember(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A fitted member."""

    intercept: float
    terms: tuple[Term, ...]


class _Columns(NamedTuple):
    """Terms as columns of shape (terms, 1), the first of shape (terms,)."""

    column: NDArray[np.intp]
    low: FloatArray
    high: FloatArray
    is_rooted: NDArray[np.bool_]
    mean: FloatArray
    scale: FloatArray
    weight: FloatArray
    square_weight: FloatArray
    missing_weight: FloatArray
    centre: FloatArray

    @classmethod
    def of(cls, terms: tuple[Term, ...]) -> _Columns:
        """Return terms side by side."""

        def side_by_side(name: str) -> FloatArray:
            return np.array([[getattr(term, name)] for term in terms], np.float64)

        return cls(
            np.array([term.column for term in terms], np.intp),
            side_by_side("low"),
            side_by_side("high"),
            side_by_side("is_rooted").astype(np.bool_),
            *map(side_by_side, ("mean", "scale", "weight", "square_weight", "missing_weight", "centre")),
        )


class Scorer:
    """A member, ready to score."""

    def __init__(self, member: AdditiveMember) -> None:
        """Put the member's terms side by side once."""
        self.member = member
        self.base = member.intercept + sum(term.centre for term in member.terms)
        """Log-odds of a row of mean terms."""
        self._columns = _Columns.of(member.terms)

    def contributions(self, features: NDArray[np.float32]) -> FloatArray:
        """Return each term's log-odds above its training mean, shape (terms, rows).

        These are exact Shapley values: of a sum, each part's share is the part itself.
        """
        columns = self._columns
        if not len(columns.column):
            return np.zeros((0, len(features)))
        value, square, missing = _scaled(columns, features[:, columns.column].T.astype(np.float64))
        made: FloatArray = columns.weight * value + columns.square_weight * square
        return made + columns.missing_weight * missing - columns.centre

    def margin(self, features: NDArray[np.float32]) -> FloatArray:
        """Return log-odds, shape (rows,)."""
        return self.base + in_order(self.contributions(features))


def in_order(parts: FloatArray) -> FloatArray:
    """Return sums along the first axis, each added from first to last whatever the shape: numpy's own sum is not."""
    if not len(parts):
        return np.zeros(parts.shape[1:])
    found: FloatArray = np.add.accumulate(parts, axis=0)[-1]
    return found


def _scaled(columns: _Columns, raw: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Return standardised values, their squares less 1, and marks of missing ones; each of shape (terms, rows)."""
    is_missing = np.isnan(raw)
    clipped = np.minimum(np.maximum(raw, columns.low), columns.high)
    rooted = np.where(columns.is_rooted, np.sqrt(np.sqrt(np.maximum(clipped, 0.0))), clipped)
    value = np.where(is_missing, 0.0, (rooted - columns.mean) / columns.scale)
    return value, np.where(is_missing, 0.0, value * value - 1.0), np.where(is_missing, MISSING_SCALE, 0.0)


def parts(term: Term, raw: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Return one feature's standardised values, their squares less 1, and marks of missing ones; each (rows,)."""
    value, square, missing = _scaled(_Columns.of((term,)), raw[None])
    return value[0], square[0], missing[0]


_ENCODER: Final = msgspec.json.Encoder(order="sorted")
_DECODER: Final = msgspec.json.Decoder(AdditiveMember)


def to_bytes(member: AdditiveMember) -> bytes:
    """Return the member as JSON; every number reads back to the same bits."""
    return _ENCODER.encode(member)


def from_bytes(body: bytes) -> AdditiveMember:
    """Return what `to_bytes` wrote.

    Raises:
        msgspec.MsgspecError: it did not.
    """
    return _DECODER.decode(body)
