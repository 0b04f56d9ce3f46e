"""The ledger and the audit log as a folder of files that can be verified without a database or a running service.

Here: writing the folder, and its rows as a source for the verifier.
Not here: judging rows (governance.chain_audit), asking for an export and its own audit event (orchestration).

A folder holds `audit_event.jsonl.zst` and `ledger_entry.jsonl.zst` (a row a line, in the order of writer and number),
and copies of the anchors: `writers.json`, `heads/`, `roots/`. Who does not trust the copied keys puts in his own.
"""

from __future__ import annotations

import base64
import shutil
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import zstandard

from governance.daily_roots import TABLES
from governance.notary import keys_path
from stores.chain import ChainTable
from stores.chain_verification import Row
from stores.database import Connection, consistent_read
from stores.ledger_verification import DatabaseRows
from vocabulary.errors import ConfigurationError

_BATCH = 2_000
_PIECE = 1 << 18  # bytes read at once


def _path(folder: Path, table: ChainTable) -> Path:
    return folder / f"{table.name}.jsonl.zst"


def _name(column: str) -> str:
    return "at_us" if column == "at" else column


async def export(connection: Connection, anchors_dir: Path, folder: Path) -> dict[str, int]:
    """Write both tables and the anchors, and return how many rows of each.

    Args:
        connection: outside of a transaction.
        anchors_dir: the site's anchors.
        folder: made here; must not exist yet or be empty.

    Raises:
        ConfigurationError: the folder holds something, or cannot be written.
        UnavailableError: the database does not answer.
    """
    try:
        # Anchors first: an end that is newer than the rows would look as if rows were missing.
        _begin(anchors_dir, folder)
        written: dict[str, int] = {}
        async with consistent_read(connection):
            for table in TABLES:
                written[table.name] = await _write(DatabaseRows(connection), table, _path(folder, table))
    except OSError as error:
        raise ConfigurationError(f"The folder {folder} cannot be written: {error.strerror}.") from None
    return written


def _begin(anchors_dir: Path, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    if any(folder.iterdir()):
        raise ConfigurationError(f"{folder} is not empty. Export to a new folder: nothing is ever overwritten.")
    if keys_path(anchors_dir).exists():
        shutil.copyfile(keys_path(anchors_dir), keys_path(folder))
    for name in ("heads", "roots"):
        (folder / name).mkdir()
        for path in sorted((anchors_dir / name).glob("*.json")):
            shutil.copyfile(path, folder / name / path.name)


async def _write(source: DatabaseRows, table: ChainTable, path: Path) -> int:
    count = 0
    names = [_name(column) for column in table.names]
    with path.open("xb") as file, zstandard.ZstdCompressor(level=3, write_checksum=True).stream_writer(file) as stream:
        async for batch in source.rows(table):
            stream.write(b"".join(_line(names, row) for row in batch))
            count += len(batch)
    return count


def _line(names: Sequence[str], row: Row) -> bytes:
    record: dict[str, Any] = dict(zip(names, row.content, strict=True))
    record["previous_hash"], record["hash"] = row.previous.hex(), row.hash.hex()
    record["signature"] = None if row.signature is None else base64.b64encode(row.signature).decode()
    record["key_id"] = row.key_id
    return msgspec.json.encode(record) + b"\n"


class FolderRows:
    """The rows of an exported folder."""

    def __init__(self, folder: Path) -> None:
        """Read below a folder.

        Raises:
            ConfigurationError: it holds no export.
        """
        for table in TABLES:
            if not _path(folder, table).is_file():
                raise ConfigurationError(
                    f"{folder} holds no {_path(folder, table).name}. `vigil audit export --to FOLDER` writes one."
                )
        self._folder = folder

    async def rows(self, table: ChainTable) -> AsyncIterator[Sequence[Row]]:
        """Yield all rows of a table, in the order of the file.

        Raises:
            ConfigurationError: a line is no row, or the file is damaged; says which line.
        """
        names = [_name(column) for column in table.names]
        path = _path(self._folder, table)
        batch: list[Row] = []
        number = 0
        try:
            for number, line in enumerate(_lines(path), start=1):  # noqa: B007 - named in the error
                row = _row(names, msgspec.json.decode(line))
                if batch and (len(batch) >= _BATCH or batch[-1].content[0] != row.content[0]):
                    yield batch
                    batch = []
                batch.append(row)
        except (OSError, EOFError, zstandard.ZstdError, msgspec.MsgspecError, KeyError, TypeError, ValueError):
            raise ConfigurationError(
                f"{path} cannot be read behind line {number}: it was damaged or changed. Export again."
            ) from None
        if batch:
            yield batch


def _lines(path: Path) -> Iterator[bytes]:
    """Yield the lines of a compressed file, which must be whole: a reader of streams takes a cut one for its end."""
    decompressor = zstandard.ZstdDecompressor().decompressobj()
    rest = b""
    with path.open("rb") as file:
        while piece := file.read(_PIECE):
            *lines, rest = (rest + decompressor.decompress(piece)).split(b"\n")
            yield from lines
    if rest or not decompressor.eof:
        raise EOFError


def _row(names: Sequence[str], record: dict[str, Any]) -> Row:
    signature = record["signature"]
    return Row(
        int(record["seq"]),
        tuple(record[name] for name in names),
        bytes.fromhex(record["previous_hash"]),
        bytes.fromhex(record["hash"]),
        None if signature is None else base64.b64decode(signature, validate=True),
        record["key_id"],
    )
