"""Stored values: one as a record, many as columns, and which revision of a measurement counts.

A measurement is (patient, concept, effective_at, source_key); a patient who was merged is read under all its ids. Of
the revisions known at a log position the one with the greatest (position, raw_index, value_index) counts; when that one
was entered in error, there is no measurement.

Here: Sample, Columns, gathering columns of many blocks, the one rule above.
Not here: bytes (stores.blocks, stores.hour_blocks), tables (stores.signals, stores.events).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import Any, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from vocabulary.records import ObservationStatus

HOUR_US = 3_600_000_000
IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]
TextArray = npt.NDArray[np.object_]
BoolArray = npt.NDArray[np.bool_]


class Sample(msgspec.Struct, frozen=True):
    """One revision of one value of one patient, with where it came from."""

    patient_id: int
    concept: int  # Concept.number
    value: float  # in the concept's canonical unit; NaN when the value is text
    text: str
    effective_at_us: int
    received_at_us: int
    status: int  # records.ObservationStatus
    source_key: int
    device: str
    feed: str
    position: int  # of the message in the log
    raw_index: int
    value_index: int
    released_position: int = 0  # log position that released a message held back; 0: it never was

    @property
    def known_from(self) -> int:
        """Return the log position from which a twin could know this revision."""
        return max(self.position, self.released_position)


class Columns(NamedTuple):
    """Revisions as columns of equal length, in the order of Sample's fields."""

    patient_id: IntArray
    concept: IntArray
    value: FloatArray
    text: TextArray
    effective_at_us: IntArray
    received_at_us: IntArray
    status: IntArray
    source_key: IntArray
    device: TextArray
    feed: TextArray
    position: IntArray
    raw_index: IntArray
    value_index: IntArray
    released_position: IntArray

    def at(self, rows: npt.NDArray[Any]) -> Columns:
        """Return the rows chosen by an index or boolean array."""
        return Columns(*[column[rows] for column in self])


_TYPES: tuple[type, ...] = (
    np.int64, np.int64, np.float64, object, np.int64, np.int64, np.int64,
    np.int64, object, object, np.int64, np.int64, np.int64, np.int64,
)  # fmt: skip


def columns_of(fields: Iterable[Sequence[Any]]) -> Columns:
    """Return plain sequences, one a field in Sample's order, as columns."""
    return Columns(*[np.array(field, kind) for field, kind in zip(fields, _TYPES, strict=True)])


def transpose(samples: Sequence[Sample]) -> list[tuple[Any, ...]]:
    """Return samples as one tuple a field."""
    return list(zip(*map(msgspec.structs.astuple, samples), strict=True))


def samples_of(columns: Columns) -> list[Sample]:
    """Return columns as records, in the same order."""
    return list(map(Sample, *[column.tolist() for column in columns]))


class Gatherer:
    """Collects columns of many blocks: short blocks as plain lists, long ones as arrays."""

    def __init__(self) -> None:
        """Start empty."""
        self._lists: list[list[Any]] = [[] for _ in Columns._fields]
        self._parts: list[Columns] = []

    def add_lists(self, fields: Iterable[Sequence[Any]]) -> None:
        """Add rows given as one sequence a field."""
        for kept, field in zip(self._lists, fields, strict=True):
            kept.extend(field)

    def add(self, columns: Columns) -> None:
        """Add rows given as columns."""
        self._parts.append(columns)

    def columns(self) -> Columns:
        """Return all rows added so far."""
        parts = self._parts
        if self._lists[0] or not parts:
            parts = [*parts, columns_of(self._lists)]
        if len(parts) == 1:
            return parts[0]
        return Columns(*[np.concatenate(field) for field in zip(*parts, strict=True)])


def choose(
    columns: Columns,
    concepts: Collection[int] | None,
    from_us: int,
    to_us: int,
    known_at: int | None,
) -> Columns:
    """Return revisions of these concepts, effective in [from_us, to_us), known at a log position (None: all)."""
    chosen: BoolArray = (columns.effective_at_us >= from_us) & (columns.effective_at_us < to_us)
    if concepts is not None:
        chosen &= np.isin(columns.concept, np.fromiter(concepts, np.int64))
    if known_at is not None:
        chosen &= (columns.position <= known_at) & (columns.released_position <= known_at)
    return columns if chosen.all() else columns.at(chosen)


def current(columns: Columns) -> Columns:
    """Return the revision of each measurement that counts, ordered by effective time, concept and source.

    Args:
        columns: revisions already limited to what is known; of one patient, under however many ids.
    """
    if len(columns.concept) == 0:
        return columns
    order = np.lexsort(
        (
            columns.value_index,
            columns.raw_index,
            columns.position,
            columns.source_key,
            columns.concept,
            columns.effective_at_us,
        )
    )
    effective, concept, source = (
        column[order] for column in (columns.effective_at_us, columns.concept, columns.source_key)
    )
    is_last = np.ones(len(order), np.bool_)
    is_last[:-1] = (effective[1:] != effective[:-1]) | (concept[1:] != concept[:-1]) | (source[1:] != source[:-1])
    is_last &= columns.status[order] != ObservationStatus.ENTERED_IN_ERROR
    return columns.at(order[is_last])
