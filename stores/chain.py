"""Append-only, hash-chained and signed rows: what the ledger and the audit log are made of.

Here: hashing a row, linking it to the one before, signing an append, and appending to one writer's chain.
Not here: what the rows say (stores.ledger, stores.audit_log), the ends of chains kept in files (stores.chain_heads),
recomputing chains (stores.chain_verification).

hash = SHA-256(version, previous_hash, content as a JSON array). previous_hash is the link of the row before: its hash,
or, where that row is signed, SHA-256 over its hash, signature and key id. So a row commits to everything stored before
it, signatures included. The signature of an append's last row covers its hash and the number of the append's first row:
it vouches for exactly those rows, so that rows which somebody else put before them (a superuser, where the writer then
goes on behind his) stay without a signature for ever. Signatures of version 1 covered the hash alone. A row without a
signature (all rows of old) is linked by its bare hash: chains that began unsigned stay valid.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from typing import NamedTuple

import msgspec
import psycopg

from stores.chain_heads import HeadFile
from stores.database import Connection, to_timestamp, translated
from vocabulary.errors import BrokenInvariantError, FencedOutError, UnavailableError
from vocabulary.signing import Signer

log = logging.getLogger(__name__)

GENESIS = bytes(32)
"""What the first row of a chain has for its previous hash."""

LINK_VERSION = b"vigil.chain.link.1\n"
SIGNATURE_VERSION = b"vigil.chain.signature.2\n"
OLD_SIGNATURE_VERSION = b"vigil.chain.signature.1\n"

_LARGEST_APPEND = 500
"""Rows: as far back an end's signature may begin when a writer looks whether the end is its own."""

Value = str | int | None
"""What a column of a row's content holds; times as microseconds since the epoch."""


class ChainTable(NamedTuple):
    """A table of chains: how its rows are stored and hashed."""

    name: str
    version: bytes  # first bytes of everything hashed: another encoding gets another version
    columns: tuple[tuple[str, str], ...]  # name and PostgreSQL type, in hashing order: writer, seq, at, then the rest

    @property
    def names(self) -> tuple[str, ...]:
        """Return the columns that a row's hash covers besides the previous hash, in hashing order."""
        return tuple(name for name, _ in self.columns)

    def row_hash(self, previous_hash: bytes, content: Sequence[Value]) -> bytes:
        """Return the SHA-256 of a row: version, previous hash, and its content as a JSON array without spaces.

        Args:
            previous_hash: 32 bytes, the link of the row before, or GENESIS.
            content: the values of the columns, `at` as microseconds since the epoch.
        """
        return hashlib.sha256(self.version + previous_hash + msgspec.json.encode(content)).digest()

    @property
    def insertion(self) -> bytes:
        """Return the statement that inserts rows given as one array a column."""
        columns = (
            *self.columns,
            ("previous_hash", "bytea"),
            ("hash", "bytea"),
            ("signature", "bytea"),
            ("key_id", "text"),
        )
        names = ", ".join(name for name, _ in columns)
        arrays = ", ".join(f"%b::{kind}[]" for _, kind in columns)
        return f"insert into {self.name} ({names}) select * from unnest({arrays})".encode()  # noqa: S608


class Head(NamedTuple):
    """The end of one writer's chain. Kept elsewhere it is an anchor: the chain can no longer be cut behind it."""

    writer: str
    seq: int
    hash: bytes
    signature: bytes | None = None
    key_id: str | None = None

    @property
    def link(self) -> bytes:
        """Return what the next row has for its previous hash."""
        return link_of(self.hash, self.signature, self.key_id) if self.seq else GENESIS


class Content(NamedTuple):
    """What one row says, besides its writer and number."""

    at_us: int
    rest: tuple[Value, ...]  # the columns behind `at`


def link_of(row_hash: bytes, signature: bytes | None, key_id: str | None) -> bytes:
    """Return what the row behind one of this hash and signature has for its previous hash."""
    if signature is None and key_id is None:
        return row_hash
    return hashlib.sha256(LINK_VERSION + row_hash + (signature or b"") + (key_id or "").encode()).digest()


def signed_message(row_hash: bytes, first: int) -> bytes:
    """Return the bytes that a writer signs for an append whose last row has this hash.

    Args:
        row_hash: 32 bytes; covers the writer's name, the row's number, and by its links all rows before.
        first: number of the append's first row, at least 1.
    """
    return SIGNATURE_VERSION + first.to_bytes(8, "big") + row_hash


def old_signed_message(row_hash: bytes) -> bytes:
    """Return what was signed before signatures said where their append begins; nothing is signed so any more."""
    return OLD_SIGNATURE_VERSION + row_hash


class Chain:
    """Appends to one chain. Its head moves only when the caller says that the transaction was committed.

    Two writers of one name cannot both go on: the second to write row n violates the primary key. A shared chain
    (commands, several at a time) reads its end anew under a lock of the transaction instead.
    """

    def __init__(
        self,
        table: ChainTable,
        writer: str,
        signer: Signer | None = None,
        heads: HeadFile | None = None,
        *,
        is_shared: bool = False,
    ) -> None:
        """Describe the writer; nothing is read until `open`.

        Args:
            table: which table of chains.
            writer: names the chain; one process at a time, the same name after a restart.
            signer: signs the last row of each append; None leaves rows unsigned.
            heads: where the chain's end is kept outside of the database; None keeps none.
            is_shared: several processes append to this chain.
        """
        self.table = table
        self.writer = writer
        self._signer = signer
        self._heads = heads
        self._is_shared = is_shared
        self._insertion = table.insertion
        self._committed: Head | None = None
        self._staged: Head | None = None

    async def open(self, connection: Connection) -> Head:
        """Read where the chain ended, and go on from there.

        Where the file outside of the database names an end that the chain does not have (rows were cut off, or an older
        copy of the database was restored), that file is put aside for `vigil verify` before it would be overwritten.
        """
        self._staged = None
        self._committed = await self._read_head(connection)
        if self._heads is not None:
            kept = self._heads.read(self.table.name, self.writer)
            if kept is not None and not await self.holds(
                connection, Head(self.writer, kept.seq, kept.hash, kept.signature_bytes, kept.key_id or None)
            ):
                self._heads.put_aside(kept)
                log.error(
                    "chain_end_is_missing", extra={"table": self.table.name, "writer": self.writer, "seq": kept.seq}
                )
        self._look_at(self._committed)
        return self._committed

    def _look_at(self, head: Head) -> None:
        """Say so where the end that we are about to go on from is not ours.

        It stops nobody: a hospital works on, our next signature begins behind these rows, `vigil verify` names them.
        """
        if self._signer is None or head.seq == 0:
            return
        if self._heads is not None:
            kept = self._heads.read(self.table.name, self.writer)
            if kept is not None and (kept.seq, kept.hash) == (head.seq, head.hash):
                return
            if self._heads.has_pinned(self.table.name, self.writer, head.seq, head.hash):
                return
        if not self._is_signed_by_us(self._signer, head):
            log.error("chain_end_is_foreign", extra={"table": self.table.name, "writer": self.writer, "seq": head.seq})

    @staticmethod
    def _is_signed_by_us(signer: Signer, head: Head) -> bool:
        if head.signature is None or head.key_id != signer.key_id:
            return False
        # Ed25519 gives the same message the same signature (RFC 8032, 5.1.6): signing again is checking.
        firsts = range(head.seq, max(0, head.seq - _LARGEST_APPEND), -1)
        return any(signer.sign(signed_message(head.hash, first)) == head.signature for first in firsts) or (
            signer.sign(old_signed_message(head.hash)) == head.signature
        )

    async def _read_head(self, connection: Connection) -> Head:
        with translated():
            cursor = await connection.execute(
                f"select seq, hash, signature, key_id from {self.table.name} "  # noqa: S608 - a name of our own
                "where writer = %s order by seq desc limit 1",
                (self.writer,),
            )
            row = await cursor.fetchone()
        if row is None:
            return Head(self.writer, 0, GENESIS)
        return Head(self.writer, row[0], bytes(row[1]), None if row[2] is None else bytes(row[2]), row[3])

    async def holds(self, connection: Connection, end: Head) -> bool:
        """Return whether the chain has exactly this row, whatever came behind it."""
        with translated():
            cursor = await connection.execute(
                f"select hash, signature, key_id from {self.table.name} where writer = %s and seq = %s",  # noqa: S608
                (end.writer, end.seq),
            )
            row = await cursor.fetchone()
        return row is not None and link_of(row[0], row[1], row[2]) == end.link

    async def append(self, connection: Connection, contents: Sequence[Content]) -> None:
        """Write rows in the caller's transaction; then call `committed` or `rolled_back`.

        Raises:
            FencedOutError: another writer of this name wrote first; roll back and stop.
            BrokenInvariantError: the writer was not opened.
            RefusedError: this database role may not append to this chain.
            UnavailableError: the database did not keep every row (somebody set a rule or a trigger on the table).
        """
        if not contents:
            return
        head = self._staged or self._committed
        if self._is_shared and self._staged is None:
            with translated():
                key = f"{self.table.name} {self.writer}"
                await connection.execute("select pg_advisory_xact_lock(hashtextextended(%s, 0))", (key,))
            head = await self._read_head(connection)
            self._look_at(head)
        if head is None:
            raise BrokenInvariantError(f"{self.table.name} writer {self.writer}: open it before the first append")
        first = head.seq + 1
        rows = []
        for number, content in enumerate(contents, start=1):
            hashed = (self.writer, head.seq + 1, content.at_us, *content.rest)
            digest = self.table.row_hash(head.link, hashed)
            signature = key_id = None
            if self._signer is not None and number == len(contents):
                signature, key_id = self._signer.sign(signed_message(digest, first)), self._signer.key_id
            stored = (*hashed[:2], to_timestamp(content.at_us), *content.rest)
            rows.append((*stored, head.link, digest, signature, key_id))
            head = Head(self.writer, head.seq + 1, digest, signature, key_id)
        await self._insert(connection, rows)
        self._staged = head

    async def _insert(self, connection: Connection, rows: Sequence[tuple[object, ...]]) -> None:
        with translated():
            try:
                columns = [list(column) for column in zip(*rows, strict=True)]
                cursor = await connection.execute(self._insertion, columns)
            except psycopg.errors.UniqueViolation:
                raise FencedOutError(
                    f"Another writer of the same name has written to {self.table.name} of {self.writer}. Stop this one."
                ) from None
        if cursor.rowcount != len(rows):
            raise UnavailableError(
                f"{self.table.name}: {len(rows)} rows were to be written, PostgreSQL kept {cursor.rowcount}. A rule or "
                "trigger on the table takes rows away: `vigil verify` names it; drop it."
            )

    @property
    def staged(self) -> Head | None:
        """Return the end that the appends of the open transaction would give the chain, None where there are none."""
        return self._staged

    def committed(self) -> None:
        """Say that the transaction of the last appends was committed."""
        if self._staged is not None and self._heads is not None:
            self._heads.write(
                self.table.name,
                self._staged.writer,
                self._staged.seq,
                self._staged.hash,
                self._staged.signature,
                self._staged.key_id,
            )
        self._committed = self._staged or self._committed
        self._staged = None

    def rolled_back(self) -> None:
        """Say that the transaction of the last appends was undone: the next ones take their place."""
        self._staged = None
