"""The ends of chains in files outside of the database, so that rows cut off a chain's end are missed.

Here: writing the end of a chain after each commit, reading all of them, putting aside one that no longer fits, and
pinning where chains ended that began unsigned.
Not here: chains (stores.chain), what a missing end means (stores.chain_verification).

A file is written in place, one sector, and not synced: replacing it (a rename) makes ext4 write data out and triples
the time of a commit. After a loss of power an end may be older than its chain, which is no fault; it is written after
the commit it speaks of, so it is never newer. A check digest tells a torn read, which is tried again.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import logging
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import msgspec

from vocabulary.errors import ConfigurationError

log = logging.getLogger(__name__)

SECTOR_BYTES = 512
"""Size of a file: disks write a sector whole or not at all."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
_READS = 5
_PINNED = "unsigned-ends-are-pinned"


class KeptHead(msgspec.Struct, frozen=True, kw_only=True):
    """The end of one chain as a file holds it."""

    table: str
    writer: str
    seq: int
    hash_hex: str = msgspec.field(name="hash")
    signature: str = ""  # base64; empty: an unsigned row
    key_id: str = ""
    check: str = ""  # of all the rest

    def digest(self) -> str:
        """Return the first 16 hexadecimal digits of the SHA-256 of everything but the check itself."""
        said = f"{self.table} {self.writer} {self.seq} {self.hash_hex} {self.signature} {self.key_id}"
        return hashlib.sha256(said.encode()).hexdigest()[:16]

    @property
    def hash(self) -> bytes:
        """Return the hash of the chain's last row."""
        return bytes.fromhex(self.hash_hex)

    @property
    def signature_bytes(self) -> bytes | None:
        """Return the signature of the chain's last row, None where it has none."""
        return base64.b64decode(self.signature) if self.signature else None


class KeptHeads(NamedTuple):
    """All files of a folder."""

    heads: list[KeptHead]
    damaged: list[str]  # names of files that say nothing (cut short by a loss of power)


class HeadFile:
    """Keeps the ends of chains in a folder, a file a chain."""

    def __init__(self, folder: Path) -> None:
        """Use a folder (settings.anchors_dir / "heads"); it is made with the first end."""
        self.folder = folder
        self._is_failing = False

    def _path(self, table: str, writer: str) -> Path:
        # A writer's name is ours, and still it becomes part of a path.
        if not _NAME.fullmatch(writer):
            raise ValueError(f"a writer's name has letters, digits, _ and -; found {writer!r}")
        return self.folder / f"{table}.{writer}.json"

    def write(
        self, table: str, writer: str, seq: int, row_hash: bytes, signature: bytes | None, key_id: str | None
    ) -> None:
        """Replace the end of a chain. A disk that refuses is logged, for the row itself is safe in the database."""
        kept = KeptHead(
            table=table,
            writer=writer,
            seq=seq,
            hash_hex=row_hash.hex(),
            signature=base64.b64encode(signature or b"").decode(),
            key_id=key_id or "",
        )
        path = self._path(table, writer)
        try:
            self._write(path, kept)
        except OSError as error:
            if not self._is_failing:
                log.error("chain_end_not_kept", extra={"table": table, "writer": writer, "reason": error.strerror})
            self._is_failing = True
        else:
            self._is_failing = False

    def _write(self, path: Path, kept: KeptHead, *, is_synced: bool = False) -> None:
        content = msgspec.json.encode(msgspec.structs.replace(kept, check=kept.digest()))
        try:
            handle = os.open(path, os.O_WRONLY | os.O_CREAT, 0o600)
        except FileNotFoundError:
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            handle = os.open(path, os.O_WRONLY | os.O_CREAT, 0o600)
        try:
            os.pwrite(handle, content.ljust(SECTOR_BYTES - 1) + b"\n", 0)
            if is_synced:
                os.fsync(handle)
        except OSError:
            if os.fstat(handle).st_size == 0:  # a full disk: no end is kept, and an empty file would look like damage
                path.unlink(missing_ok=True)
            raise
        finally:
            os.close(handle)

    def read(self, table: str, writer: str) -> KeptHead | None:
        """Return the end kept for a chain, None where there is none or it cannot be read."""
        return _read(self._path(table, writer))

    def put_aside(self, kept: KeptHead) -> None:
        """Keep an end under another name, as evidence: the chain no longer has it and will be written on."""
        path = self.folder / f"{kept.table}.{kept.writer}.{kept.seq}-{kept.hash_hex[:12]}.lost.json"
        self._write(path, kept, is_synced=True)

    @property
    def is_pinned(self) -> bool:
        """Return whether the unsigned ends were pinned, which is done once in the life of a site."""
        return (self.folder / _PINNED).exists()

    def pin(self, ends: Iterable[KeptHead]) -> None:
        """Keep for ever where chains ended that began unsigned: these unsigned rows are believed, none added later.

        Raises:
            ConfigurationError: the folder cannot be written.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            for end in ends:
                self._write(self._pin_path(end.table, end.writer, end.seq, end.hash), end, is_synced=True)
            (self.folder / _PINNED).touch(mode=0o600)
        except OSError as error:
            raise ConfigurationError(f"The ends of chains {self.folder} cannot be written: {error.strerror}.") from None

    def has_pinned(self, table: str, writer: str, seq: int, row_hash: bytes) -> bool:
        """Return whether exactly this end was pinned."""
        return self._pin_path(table, writer, seq, row_hash).exists()

    def _pin_path(self, table: str, writer: str, seq: int, row_hash: bytes) -> Path:
        return self._path(table, writer).with_name(f"{table}.{writer}.{seq}-{row_hash.hex()[:12]}.unsigned.json")

    def read_all(self) -> KeptHeads:
        """Return every end kept, those put aside or pinned included."""
        found: list[KeptHead] = []
        damaged: list[str] = []
        for path in sorted(self.folder.glob("*.json")):
            kept = _read(path)
            if kept is None:
                damaged.append(path.name)
            else:
                found.append(kept)
        return KeptHeads(found, damaged)


def _read(path: Path) -> KeptHead | None:
    for _ in range(_READS):  # it may be written at this moment
        try:
            kept = msgspec.json.decode(path.read_bytes(), type=KeptHead)
            if kept.check == kept.digest() and len(kept.hash) == 32 and (not kept.signature or kept.signature_bytes):
                return kept
        except FileNotFoundError:
            return None
        except (OSError, ValueError, binascii.Error, msgspec.DecodeError):
            continue
    return None
