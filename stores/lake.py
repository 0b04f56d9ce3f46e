"""The lake: closed events as Parquet in the layout of the Medical Event Data Standard (MEDS), for learning.

A dataset is immutable and named by what is in it: `<lake>/<name>/<fingerprint>/{data,metadata}/…`, with a file CURRENT
that says which one is meant. Whoever writes makes a new folder beside it and moves CURRENT at the end, so a reader
never sees half of one, and two writers cannot mix.

Here: writing and reading datasets; their schema, MEDS's four fields and ours.
Not here: which events (assets.normalized), derived tables (stores.lake_tables), anything with a name: subjects are our
numbers, or those of a published dataset.
Source: Medical Event Data Standard 0.3.3, README and schema.py (github.com/Medical-Event-Data-Standard/meds).
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import uuid
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import msgspec

from vocabulary.concepts import CONCEPTS, TERMINOLOGY_VERSION, Concept
from vocabulary.errors import BrokenInvariantError, ConfigurationError, UnavailableError

if TYPE_CHECKING:
    import pyarrow as pa

MEDS_VERSION: Final = "0.3.3"
ADMISSION: Final = "ENCOUNTER//START"
DISCHARGE: Final = "ENCOUNTER//END"
BIRTH: Final = "MEDS_BIRTH"  # the standard's own words
DEATH: Final = "MEDS_DEATH"

_NAME = re.compile(r"[a-z0-9][a-z0-9_.-]*(/[a-z0-9][a-z0-9_.-]*)*")
_FINGERPRINT = re.compile(r"[0-9a-f]{64}")
_CURRENT = "CURRENT"
_ROWS_A_GROUP: Final = 262_144


class Dataset(msgspec.Struct, frozen=True, kw_only=True):
    """One dataset of the lake, without its rows."""

    name: str
    fingerprint: str  # SHA-256 over its rows, splits and what it is
    rows: int
    subjects: int
    is_synthetic: bool = False


class About(msgspec.Struct, frozen=True, kw_only=True):
    """What a dataset says of itself: the fields of MEDS's dataset.json, and ours."""

    dataset_name: str
    dataset_version: str = "1"
    etl_name: str = "vigil"
    etl_version: str = ""
    meds_version: str = MEDS_VERSION
    created_at: str = ""  # ISO 8601; not part of the fingerprint
    terminology_version: str = TERMINOLOGY_VERSION
    time_origin: str = ""  # what `time` counts from where a publisher removed the dates
    is_synthetic: bool = False


class Split(NamedTuple):
    """Which part a subject belongs to: train, tuning or held_out (the standard's words)."""

    subject_id: int
    split: str


def code_of(concept: Concept) -> str:
    """Return a concept's code in the lake: LOINC where it has one, else our own key."""
    return f"LOINC//{concept.loinc_codes[0]}" if concept.loinc_codes else f"VIGIL//{concept.key}"


def event_schema() -> pa.Schema:
    """Return the columns of data/*.parquet: MEDS's four, then ours.

    `numeric_value` is float32, as the standard demands; `value` is the same number exactly, because a model that
    learned from rounded values would not meet the ones it is asked about.
    """
    import pyarrow as pa

    return pa.schema(
        [
            pa.field("subject_id", pa.int64(), nullable=False),
            pa.field("time", pa.timestamp("us")),
            pa.field("code", pa.string(), nullable=False),
            pa.field("numeric_value", pa.float32()),
            pa.field("value", pa.float64()),
            pa.field("unit", pa.string(), nullable=False),  # UCUM
            pa.field("available_at", pa.timestamp("us")),  # when it could be known; a feature of later is a leak
            pa.field("source", pa.string(), nullable=False),
            pa.field("encounter_id", pa.int64()),
            pa.field("concept", pa.int16()),  # Concept.number; null for what is no measurement
            pa.field("minute", pa.int32()),  # whole minutes since the encounter's start
        ]
    )


def code_schema() -> pa.Schema:
    """Return the columns of metadata/codes.parquet."""
    import pyarrow as pa

    return pa.schema(
        [
            ("code", pa.string()),
            ("description", pa.string()),
            ("parent_codes", pa.list_(pa.string())),
            ("concept", pa.int16()),
            ("unit", pa.string()),
        ]
    )


def split_schema() -> pa.Schema:
    """Return the columns of metadata/subject_splits.parquet."""
    import pyarrow as pa

    return pa.schema([("subject_id", pa.int64()), ("split", pa.string())])


class Lake:
    """The lake below one folder. Nothing is made or read before a method is called."""

    def __init__(self, folder: Path) -> None:
        """Describe the lake at `folder`."""
        self.folder = folder

    def write(self, about: About, events: Iterable[pa.Table], splits: Sequence[Split] = ()) -> Dataset:
        """Write a dataset, make it the current one of its name, and return it. The same rows twice are one dataset.

        Args:
            about: what it is; its `dataset_name` names the folder: lower case, parts divided by `/`.
            events: tables of `event_schema`, one a file. A subject lies in one table, in one piece, by rising time,
                what has no time first.
            splits: which part each subject belongs to; empty where there are none.

        Raises:
            ConfigurationError: the folder cannot be written, or the name is none.
            BrokenInvariantError: a table is not as it should be; nothing is kept.
        """
        home = self._home(about.dataset_name)
        partial = home / f".writing-{uuid.uuid4().hex}"
        try:
            # First the folder itself: of parents made on the way, anybody on this machine could read what is in them.
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            (partial / "data").mkdir(parents=True, mode=0o700)
            (partial / "metadata").mkdir(mode=0o700)
            dataset = _fill(partial, about, events, splits)
            _sync(partial)
            _place(partial, home / dataset.fingerprint)
        except OSError as error:
            raise ConfigurationError(
                f"The lake's folder {self.folder} cannot be written ({error.strerror}): free space on its disk, or "
                "set VIGIL_DATA_DIR."
            ) from error
        finally:
            shutil.rmtree(partial, ignore_errors=True)
        _point(home / _CURRENT, dataset.fingerprint)
        return dataset

    def current(self, name: str) -> Dataset | None:
        """Return the current dataset of a name; None where none was written."""
        pointer = self._home(name) / _CURRENT
        return self.find(name, pointer.read_text().strip()) if pointer.exists() else None

    def find(self, name: str, fingerprint: str) -> Dataset:
        """Return a dataset by what is in it.

        Raises:
            UnavailableError: it is not here.
        """
        folder = self.folder_of(name, fingerprint)
        facts = json.loads((folder / "metadata" / "dataset.json").read_text())
        return Dataset(
            name=name,
            fingerprint=fingerprint,
            rows=facts["rows"],
            subjects=facts["subjects"],
            is_synthetic=facts["is_synthetic"],
        )

    def folder_of(self, name: str, fingerprint: str) -> Path:
        """Return where a dataset is: a folder that any tool for MEDS reads.

        Raises:
            UnavailableError: it is not here.
        """
        folder = self._home(name) / fingerprint
        if not _FINGERPRINT.fullmatch(fingerprint) or not (folder / "metadata" / "dataset.json").exists():
            raise UnavailableError(
                f"The lake has no {name} with the fingerprint {fingerprint[:12]}…: materialize normalized/{name} again."
            )
        return folder

    def read(self, dataset: Dataset, columns: Sequence[str] | None = None) -> pa.Table:
        """Return a dataset's events, files in order.

        Args:
            dataset: which.
            columns: names of the columns wanted, others are not read; None for all.

        Raises:
            UnavailableError: it is not here any more.
        """
        import pyarrow as pa
        import pyarrow.parquet as pq

        files = sorted((self.folder_of(dataset.name, dataset.fingerprint) / "data").glob("*.parquet"))
        tables = [pq.read_table(file, columns=None if columns is None else list(columns)) for file in files]
        if not tables:
            schema = event_schema()
            wanted = schema.names if columns is None else columns
            return pa.schema([schema.field(name) for name in wanted]).empty_table()
        return pa.concat_tables(tables)

    def splits(self, dataset: Dataset) -> pa.Table:
        """Return which part each subject belongs to; empty where the dataset has no parts."""
        import pyarrow.parquet as pq

        file = self.folder_of(dataset.name, dataset.fingerprint) / "metadata" / "subject_splits.parquet"
        return pq.read_table(file) if file.exists() else split_schema().empty_table()

    def trim(self, name: str, keep: int = 3) -> int:
        """Remove the oldest datasets of a name, never the current one nor one of the newest `keep`; return how many."""
        home = self._home(name)
        current = self.current(name)
        found = [folder for folder in home.iterdir() if _FINGERPRINT.fullmatch(folder.name)] if home.is_dir() else []
        newest_first = sorted(found, key=lambda folder: folder.stat().st_mtime_ns, reverse=True)
        gone = [folder for folder in newest_first[keep:] if current is None or folder.name != current.fingerprint]
        for folder in gone:
            shutil.rmtree(folder)
        return len(gone)

    def _home(self, name: str) -> Path:
        if not _NAME.fullmatch(name):
            raise ConfigurationError(
                f"A dataset is named by lower-case letters, digits, '_', '-' and '.', in parts divided by '/'; found "
                f"{name!r}. A site's name becomes part of it: see VIGIL_SITE."
            )
        return self.folder / name


def _fill(folder: Path, about: About, events: Iterable[pa.Table], splits: Sequence[Split]) -> Dataset:
    import pyarrow as pa
    import pyarrow.parquet as pq

    digest = hashlib.sha256(msgspec.json.encode(msgspec.structs.replace(about, created_at=""), order="sorted"))
    rows = 0
    subjects: set[int] = set()
    codes: set[str] = set()
    for number, given in enumerate(events):
        table = _checked(given, subjects)
        codes |= set(table.column("code").unique().to_pylist())
        rows += table.num_rows
        digest.update(rows_digest(table))
        file = folder / "data" / f"{number}.parquet"
        pq.write_table(table, file, compression="zstd", row_group_size=_ROWS_A_GROUP)
    pq.write_table(_codes(codes), folder / "metadata" / "codes.parquet")
    if splits:
        columns = [[split.subject_id for split in splits], [split.split for split in splits]]
        table = pa.Table.from_arrays(
            [pa.array(column, kind) for column, kind in zip(columns, split_schema().types, strict=True)],
            schema=split_schema(),
        )
        digest.update(rows_digest(table))
        pq.write_table(table, folder / "metadata" / "subject_splits.parquet")
    facts: dict[str, Any] = {**msgspec.to_builtins(about), "rows": rows, "subjects": len(subjects)}
    (folder / "metadata" / "dataset.json").write_text(json.dumps(facts, indent=2, sort_keys=True) + "\n")
    return Dataset(
        name=about.dataset_name,
        fingerprint=digest.hexdigest(),
        rows=rows,
        subjects=len(subjects),
        is_synthetic=about.is_synthetic,
    )


def _checked(table: pa.Table, seen: set[int]) -> pa.Table:
    """Return the table in the schema's types; add its subjects to those seen."""
    import numpy as np
    import pyarrow as pa

    schema = event_schema()
    try:
        table = table.select(schema.names).cast(schema)
    except (KeyError, pa.ArrowInvalid, pa.ArrowNotImplementedError):
        raise BrokenInvariantError(
            f"expected the columns {', '.join(schema.names)} with the lake's types, found "
            f"{', '.join(table.column_names)}"
        ) from None
    ids = table.column("subject_id").to_numpy()
    starts = np.flatnonzero(np.r_[True, ids[1:] != ids[:-1]]) if len(ids) else np.array([], int)
    listed = ids[starts].tolist()
    if len(set(listed)) < len(listed) or not seen.isdisjoint(listed):
        raise BrokenInvariantError("expected a subject's events in one piece of one table, found some elsewhere (MEDS)")
    # No time sorts first; within a subject, times never go back.
    times = table.column("time").cast(pa.int64()).fill_null(np.iinfo(np.int64).min).to_numpy()
    goes_back = times[1:] < times[:-1]
    if np.any(goes_back & (ids[1:] == ids[:-1])):
        raise BrokenInvariantError("expected each subject's events by rising time, found one that goes back (MEDS)")
    seen.update(listed)
    return table.combine_chunks()


def rows_digest(table: pa.Table) -> bytes:
    """Return the SHA-256 of a table's columns, types and values, however its memory is laid out."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    digest = hashlib.sha256(table.schema.remove_metadata().to_string(show_field_metadata=False).encode())
    for column in table.columns:
        values = column.combine_chunks()
        values = pa.concat_arrays(values.chunks) if isinstance(values, pa.ChunkedArray) else values
        # What lies under a null is nobody's choice, so it is not hashed.
        digest.update(np.packbits(pc.is_valid(values).to_numpy(zero_copy_only=False)).tobytes())
        if pa.types.is_string(values.type):
            text = pc.fill_null(values, "")
            digest.update(pc.binary_length(text).to_numpy(zero_copy_only=False).tobytes())
            digest.update("".join(text.to_pylist()).encode())
        elif pa.types.is_timestamp(values.type):
            digest.update(pc.fill_null(values.cast(pa.int64()), 0).to_numpy(zero_copy_only=False).tobytes())
        else:
            empty = pa.scalar(False if pa.types.is_boolean(values.type) else 0, values.type)
            digest.update(np.ascontiguousarray(pc.fill_null(values, empty).to_numpy(zero_copy_only=False)).tobytes())
    return digest.digest()


def _codes(codes: set[str]) -> pa.Table:
    import pyarrow as pa

    known = {code_of(concept): concept for concept in CONCEPTS}
    rows: list[dict[str, Any]] = [
        {
            "code": code,
            "description": known[code].key.replace("_", " ") if code in known else code.lower().replace("//", " "),
            "parent_codes": [],
            "concept": known[code].number if code in known else None,
            "unit": known[code].unit if code in known else "",
        }
        for code in sorted(codes)
    ]
    return pa.Table.from_pylist(rows, schema=code_schema())


def _sync(folder: Path) -> None:
    for file in folder.rglob("*"):
        if file.is_file():
            with file.open("rb") as opened:
                os.fsync(opened.fileno())


def _place(partial: Path, final: Path) -> None:
    try:
        partial.rename(final)
    except OSError:
        if not (final / "metadata" / "dataset.json").exists():
            raise  # not that somebody else wrote the same


def _point(pointer: Path, to: str) -> None:
    partial = pointer.with_name(f".{pointer.name}-{uuid.uuid4().hex}")
    partial.write_text(to + "\n")
    partial.replace(pointer)
