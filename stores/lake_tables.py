"""Tables and small records that learning derives from the lake: each step's result, immutable, named by its digest.

`<lake>/tables/<key>/<digest>.parquet` (or .json) is a result; `<key>/of/<run>` says which one a run made, and
`<key>/CURRENT` which one was made last. A run that goes on after a stop, or beside another, reads its own.

Here: keeping and finding them. Not here: events (stores.lake), what Dagster makes of them (orchestration.io_managers).
"""

from __future__ import annotations

import hashlib
import os
import re
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from stores.lake import rows_digest
from vocabulary.errors import BrokenInvariantError, ConfigurationError, UnavailableError

if TYPE_CHECKING:
    import pyarrow as pa

_CURRENT: Final = "CURRENT"
_RUNS: Final = "of"
_PART = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


class LakeTables:
    """Results below one folder. Nothing is made or read before a method is called."""

    def __init__(self, folder: Path) -> None:
        """Describe the tables of the lake at `folder`."""
        self.folder = folder / "tables"

    def put_table(self, key: Sequence[str], run: str, table: pa.Table) -> str:
        """Keep a table as the result of a run; return its digest (SHA-256 of its rows, hexadecimal).

        Raises:
            ConfigurationError: the folder cannot be written, or a part of `key` or `run` is no name.
        """
        import pyarrow as pa
        import pyarrow.parquet as pq

        digest = rows_digest(table).hex()
        sink = pa.BufferOutputStream()
        pq.write_table(table, sink, compression="zstd")
        self._keep(key, run, f"{digest}.parquet", sink.getvalue().to_pybytes())
        return digest

    def put_record(self, key: Sequence[str], run: str, body: bytes) -> str:
        """Keep canonical JSON as the result of a run; return its digest.

        Raises:
            ConfigurationError: as put_table.
        """
        digest = hashlib.sha256(body).hexdigest()
        self._keep(key, run, f"{digest}.json", body)
        return digest

    def table(self, key: Sequence[str], run: str | None = None, columns: Sequence[str] | None = None) -> pa.Table:
        """Return the table that a run made, or the last one made where that run made none.

        Raises:
            UnavailableError: none was made.
            BrokenInvariantError: its rows are not those it is named by.
        """
        import pyarrow.parquet as pq

        file = self._find(key, run, ".parquet")
        table = pq.read_table(file, columns=None if columns is None else list(columns))
        if columns is None and rows_digest(table).hex() != file.stem:
            raise BrokenInvariantError(f"{file} was changed after it was written: materialize {'/'.join(key)} again")
        return table

    def record(self, key: Sequence[str], run: str | None = None) -> bytes:
        """Return the record that a run made, or the last one.

        Raises:
            UnavailableError: none was made.
            BrokenInvariantError: it is not the one it is named by.
        """
        file = self._find(key, run, ".json")
        body = file.read_bytes()
        if hashlib.sha256(body).hexdigest() != file.stem:
            raise BrokenInvariantError(f"{file} was changed after it was written: materialize {'/'.join(key)} again")
        return body

    def has(self, key: Sequence[str], run: str) -> bool:
        """Return whether a run made a result of a key."""
        return (self._home(key) / _RUNS / run).exists()

    def trim(self, key: Sequence[str], keep_runs: int = 10) -> int:
        """Forget all but the newest runs' results of a key; return how many files were removed."""
        home = self._home(key)
        runs = sorted((home / _RUNS).glob("*"), key=lambda file: file.stat().st_mtime_ns, reverse=True)
        for pointer in runs[keep_runs:]:
            pointer.unlink(missing_ok=True)
        wanted = {pointer.read_text().strip() for pointer in (*runs[:keep_runs], home / _CURRENT) if pointer.exists()}
        gone = [file for file in home.iterdir() if file.suffix in {".parquet", ".json"} and file.name not in wanted]
        for file in gone:
            file.unlink(missing_ok=True)
        return len(gone)

    def _find(self, key: Sequence[str], run: str | None, suffix: str) -> Path:
        home = self._home(key)
        own = home / _RUNS / run if run is not None else home / _CURRENT
        pointer = own if own.exists() else home / _CURRENT
        if not pointer.exists():
            raise UnavailableError(f"{'/'.join(key)} was never made here: materialize it first.")
        file = home / pointer.read_text().strip()
        if file.suffix != suffix or not file.exists():
            raise UnavailableError(f"{'/'.join(key)} is not here as {suffix}: materialize it again.")
        return file

    def _keep(self, key: Sequence[str], run: str, name: str, body: bytes) -> None:
        home = self._home(key)
        _require_name(run)
        try:
            # First the folder itself: of parents made on the way, anybody on this machine could read the tables.
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            (home / _RUNS).mkdir(parents=True, exist_ok=True, mode=0o700)
            if not (home / name).exists():
                _write(home / name, body)
            _write(home / _RUNS / run, f"{name}\n".encode())
            _write(home / _CURRENT, f"{name}\n".encode())
        except OSError as error:
            raise ConfigurationError(
                f"The lake's folder {self.folder} cannot be written ({error.strerror}): free space on its disk, or "
                "set VIGIL_DATA_DIR."
            ) from error

    def _home(self, key: Sequence[str]) -> Path:
        for part in key:
            _require_name(part)
        return self.folder.joinpath(*key)


def _require_name(part: str) -> None:
    if not _PART.fullmatch(part):
        raise ConfigurationError(f"expected a name of letters, digits, '_', '-' and '.', found {part!r}")


def _write(file: Path, body: bytes) -> None:
    partial = file.with_name(f".{file.name}-{uuid.uuid4().hex}")
    with partial.open("wb") as opened:
        opened.write(body)
        opened.flush()
        os.fsync(opened.fileno())
    partial.replace(file)
