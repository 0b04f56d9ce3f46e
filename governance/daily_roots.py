"""Daily roots: one signed Merkle root a day over the rows of the ledger and the audit log, each naming the one before.

Here: what a root says, its file, and checking roots against each other and against rows.
Not here: making and signing them (governance.notary), trees and proofs (stores.merkle).

A root covers, of every chain, the rows from behind the last root's up to the last that is of its day. Rows that come
late (the ledger keeps the log's time, which may lag) belong to the next root: each row is under exactly one. Leaves are
in the order of table, writer and number; a leaf is the row's hash with its signature.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

import msgspec

from stores.audit_log import AUDIT
from stores.chain import ChainTable
from stores.chain_verification import Row
from stores.ledger import LEDGER
from stores.merkle import Builder
from vocabulary.errors import ConfigurationError
from vocabulary.signing import Signer, VerifyingKey

TABLES: tuple[ChainTable, ...] = (AUDIT, LEDGER)
"""In the order of leaves."""

FIRST = "0" * 64
"""What the first root has for its previous."""

_VERSION = b"vigil.daily_root.1\n"


class Stretch(msgspec.Struct, frozen=True):
    """The rows of one chain under a root."""

    table: str
    writer: str
    first: int
    last: int
    head: str  # hash of the last row, hexadecimal
    link: str  # what the row behind it has for its previous hash, hexadecimal


class DailyRoot(msgspec.Struct, frozen=True):
    """What is signed for a day."""

    site: str
    day: date
    size: int  # leaves
    root: str  # hexadecimal
    stretches: list[Stretch]
    faults: list[str]  # what did not fit already when it was signed; empty in a sound house
    previous: str  # SHA-256 of the file before, hexadecimal; FIRST where there is none
    signed_at_us: int
    key_id: str

    def message(self) -> bytes:
        """Return the bytes that are signed."""
        return _VERSION + msgspec.json.encode(self)


class SignedRoot(msgspec.Struct, frozen=True):
    """A root with its signature, as its file holds it."""

    signed: DailyRoot
    signature: str  # base64

    def content(self) -> bytes:
        """Return the file's bytes."""
        return msgspec.json.format(msgspec.json.encode(self)) + b"\n"

    def is_signed_by(self, keys: Mapping[str, VerifyingKey]) -> bool:
        """Return whether one of these keys signed it."""
        key = keys.get(self.signed.key_id)
        try:
            return key is not None and key.is_valid(
                base64.b64decode(self.signature, validate=True), self.signed.message()
            )
        except binascii.Error:
            return False


class RootFault(NamedTuple):
    """Something is wrong with a day's root."""

    day: str
    text: str


class RootFile(NamedTuple):
    """A root that was read, with the digest that the next one names."""

    signed: SignedRoot
    digest: str


def sign(root: DailyRoot, signer: Signer) -> SignedRoot:
    """Return a root with its signature."""
    return SignedRoot(root, base64.b64encode(signer.sign(root.message())).decode())


def write(folder: Path, signed: SignedRoot) -> None:
    """Write a root's file, on disk before this returns; an existing one is never replaced.

    Raises:
        FileExistsError: the day has a root.
        ConfigurationError: the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        partial = folder / f"{signed.signed.day.isoformat()}.partial"
        with partial.open("wb") as file:
            file.write(signed.content())
            file.flush()
            os.fsync(file.fileno())
        os.link(partial, folder / f"{signed.signed.day.isoformat()}.json")  # unlike a rename, it fails where one stands
        partial.unlink()
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
    except FileExistsError:
        raise
    except OSError as error:
        raise ConfigurationError(f"The folder of daily roots {folder} cannot be written: {error.strerror}.") from None


def read(folder: Path) -> tuple[list[RootFile], list[RootFault]]:
    """Return all roots of a folder by day, and the files that are none."""
    found: list[RootFile] = []
    faults: list[RootFault] = []
    for path in sorted(folder.glob("*.json")):
        try:
            content = path.read_bytes()
            signed = msgspec.json.decode(content, type=SignedRoot, strict=True)
        except (OSError, msgspec.MsgspecError, UnicodeDecodeError):
            faults.append(RootFault(path.stem, "its file cannot be read as a daily root"))
            continue
        if path.stem != signed.signed.day.isoformat():
            faults.append(RootFault(path.stem, f"its file holds the root of {signed.signed.day.isoformat()}"))
            continue
        found.append(RootFile(signed, hashlib.sha256(content).hexdigest()))
    return found, faults


class RootCheck:
    """Checks roots against the notary's keys, each other, and the rows they cover."""

    def __init__(self, roots: Sequence[RootFile], keys: Mapping[str, VerifyingKey]) -> None:
        """Check the files; rows come with `take`.

        Args:
            roots: by day.
            keys: the notary's public keys, by key id.
        """
        self.faults: list[RootFault] = []
        self.anchors: dict[str, dict[str, dict[int, bytes]]] = {table.name: {} for table in TABLES}
        self.vouched: dict[str, dict[str, int]] = {table.name: {} for table in TABLES}
        self._believed: list[DailyRoot] = []
        self._ranges: dict[tuple[str, str], tuple[list[int], list[tuple[int, int]]]] = {}
        # chain → last rows, and beside each the first row and which root's they are
        self._check_files(roots, keys)
        self._builders = [Builder() for _ in self._believed]

    def _check_files(self, roots: Sequence[RootFile], keys: Mapping[str, VerifyingKey]) -> None:
        ends: dict[tuple[str, str], int] = {}
        before: RootFile | None = None
        for file in roots:
            root = file.signed.signed
            day = root.day.isoformat()
            expected = FIRST if before is None else before.digest
            if root.previous != expected:
                said = "an earlier root was removed" if before is None else "the root before it was removed or changed"
                self.faults.append(RootFault(day, said))
            if before is not None and root.day != before.signed.signed.day + timedelta(days=1):
                self.faults.append(RootFault(day, f"days are missing behind {before.signed.signed.day.isoformat()}"))
            before = file
            if not file.signed.is_signed_by(keys):
                self.faults.append(RootFault(day, "its signature is not the notary's: the file was changed"))
                continue
            self.faults += [RootFault(day, f"when it was signed: {fault}") for fault in root.faults]
            for stretch in root.stretches:
                chain = (stretch.table, stretch.writer)
                if stretch.first != ends.get(chain, 0) + 1 and root.previous == expected:
                    self.faults.append(
                        RootFault(day, f"rows of {stretch.writer} before {stretch.first} are under no root")
                    )
                ends[chain] = stretch.last
                self._believe(stretch, is_sound=not root.faults)
            self._believed.append(root)

    def _believe(self, stretch: Stretch, *, is_sound: bool) -> None:
        if stretch.table not in self.anchors:
            return
        self.anchors[stretch.table].setdefault(stretch.writer, {})[stretch.last] = bytes.fromhex(stretch.link)
        if is_sound:
            self.vouched[stretch.table][stretch.writer] = stretch.last
        lasts, firsts = self._ranges.setdefault((stretch.table, stretch.writer), ([], []))
        lasts.append(stretch.last)
        firsts.append((stretch.first, len(self._believed)))

    def take(self, table: str, rows: Sequence[Row]) -> None:
        """Add rows to the trees of their days; each row once, in the order of leaves."""
        for row in rows:
            found = self._ranges.get((table, str(row.content[0])))
            if found is None:
                continue
            place = bisect_left(found[0], row.seq)
            if place < len(found[0]):
                first, root = found[1][place]
                if first <= row.seq:
                    self._builders[root].add(row.leaf)

    def close(self) -> list[RootFault]:
        """Return all faults, once all rows of all tables were taken."""
        for root, builder in zip(self._believed, self._builders, strict=True):
            if (builder.size, builder.root().hex()) != (root.size, root.root):
                said = f"{root.size:,} rows were signed, {builder.size:,} are there and their root is another"
                self.faults.append(RootFault(root.day.isoformat(), said))
        return self.faults


def day_of(at_us: int) -> date:
    """Return the UTC day of a time in microseconds since the epoch."""
    return (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=at_us)).date()


def end_us(day: date) -> int:
    """Return the end of a UTC day in microseconds since the epoch."""
    return ((day - date(1970, 1, 1)).days + 1) * 86_400_000_000
