"""The ledger: one append-only, hash-chained row a pack or a commit, with what became of every message and value.

Here: writing one chain a writer process, and the sums that must balance (promise 5).
Not here: recomputing the chains (stores.ledger_verification), the items behind the counts (stores.quarantine).

received = accepted + duplicate + quarantined + rejected + shed + pending, per message and per value. A row may count
negatively: `released` takes back what was quarantined. A discarded item stays counted as quarantined, since it never
reached a twin; its row only notes who decided.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Literal, NamedTuple

import msgspec

from stores.database import Connection, storable, to_timestamp, translated
from vocabulary.errors import BrokenInvariantError

Kind = Literal["pack", "applied", "released", "discarded", "oversize", "opened", "note"]

GENESIS = bytes(32)
"""What the first row of a chain has for its previous hash."""

HASH_VERSION = b"vigil.ledger.1\n"
"""First bytes of everything hashed: another encoding gets another version."""

OUTCOMES = ("accepted", "duplicate", "quarantined", "rejected", "shed")


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """One row's content. Positions are the log's; counts may be negative where a row takes another's back."""

    at_us: int
    kind: Kind
    feed: str = ""
    position_from: int
    position_to: int
    messages_received: int = 0
    messages_accepted: int = 0
    messages_duplicate: int = 0
    messages_quarantined: int = 0
    messages_rejected: int = 0
    messages_shed: int = 0
    values_received: int = 0
    values_accepted: int = 0
    values_duplicate: int = 0
    values_quarantined: int = 0
    values_rejected: int = 0
    values_shed: int = 0
    without_value: int = 0
    detail: str = ""  # canonical JSON; no patient data


COUNTS = tuple(field for field in Entry.__struct_fields__ if field.startswith(("messages_", "values_", "without_")))
"""The count columns, in hashing order."""

CONTENT_COLUMNS = ("writer", "seq", "at", "kind", "feed", "position_from", "position_to", *COUNTS, "detail")
"""What a row's hash covers besides the previous hash, in hashing order."""


def detail_of(**facts: str | float | bool | None) -> str:
    """Return facts as the canonical JSON of `Entry.detail`: sorted keys, no spaces."""
    return msgspec.json.encode(facts, order="sorted").decode()


def row_hash(previous_hash: bytes, content: Sequence[str | int]) -> bytes:
    """Return the SHA-256 of a row: version, previous hash, and its content as a JSON array without spaces.

    Args:
        previous_hash: 32 bytes of the row before, or GENESIS.
        content: the values of CONTENT_COLUMNS, `at` as microseconds since the epoch.
    """
    return hashlib.sha256(HASH_VERSION + previous_hash + msgspec.json.encode(content)).digest()


class Head(NamedTuple):
    """The end of one writer's chain. Kept elsewhere it is an anchor: the chain can no longer be cut behind it."""

    writer: str
    seq: int
    hash: bytes


_INSERT = (
    f"insert into ledger_entry ({', '.join(CONTENT_COLUMNS)}, previous_hash, hash) select * from unnest("  # noqa: S608
    "%b::text[], %b::int8[], %b::timestamptz[], %b::text[], %b::text[], %b::int8[], %b::int8[], "
    + "%b::int4[], " * len(COUNTS)
    + "%b::text[], %b::bytea[], %b::bytea[])"
)


class LedgerWriter:
    """Appends to one chain. Its head moves only when the caller says that the transaction was committed.

    Two writers of one name cannot both go on: the second to write row n violates the primary key.
    """

    def __init__(self, writer: str) -> None:
        """Describe the writer; nothing is read until `open`.

        Args:
            writer: names the chain; one process at a time, the same name after a restart.
        """
        self.writer = writer
        self._committed: Head | None = None
        self._staged: Head | None = None

    async def open(self, connection: Connection) -> Head:
        """Read where the chain ended, and go on from there."""
        with translated():
            cursor = await connection.execute(
                "select seq, hash from ledger_entry where writer = %s order by seq desc limit 1", (self.writer,)
            )
            row = await cursor.fetchone()
        self._committed = Head(self.writer, row[0], bytes(row[1])) if row else Head(self.writer, 0, GENESIS)
        self._staged = None
        return self._committed

    async def append(self, connection: Connection, entries: Sequence[Entry]) -> None:
        """Write rows in the caller's transaction; then call `committed` or `rolled_back`.

        Raises:
            FencedOutError: another writer of this name wrote first; roll back and stop.
            BrokenInvariantError: the writer was not opened.
        """
        head = self._staged or self._committed
        if head is None:
            raise BrokenInvariantError(f"ledger writer {self.writer}: open it before the first append")
        if not entries:
            return
        rows = []
        for entry in entries:
            content, hashed = _content(self.writer, head.seq + 1, entry)
            digest = row_hash(head.hash, hashed)
            rows.append((*content, head.hash, digest))
            head = Head(self.writer, head.seq + 1, digest)
        with translated():
            await connection.execute(_INSERT, [list(column) for column in zip(*rows, strict=True)])
        self._staged = head

    def committed(self) -> None:
        """Say that the transaction of the last appends was committed."""
        self._committed = self._staged or self._committed
        self._staged = None

    def rolled_back(self) -> None:
        """Say that the transaction of the last appends was undone: the next ones take their place."""
        self._staged = None


def _content(writer: str, seq: int, entry: Entry) -> tuple[list[object], list[str | int]]:
    feed, detail = storable(entry.feed), storable(entry.detail)
    between = (entry.kind, feed, entry.position_from, entry.position_to, *(getattr(entry, name) for name in COUNTS))
    stored: list[object] = [writer, seq, to_timestamp(entry.at_us), *between, detail]
    hashed: list[str | int] = [writer, seq, entry.at_us, *between, detail]
    return stored, hashed


async def heads(connection: Connection) -> dict[str, Head]:
    """Return the end of every writer's chain: anchors, once they are kept where the database's owner cannot write."""
    with translated():
        cursor = await connection.execute(
            "select distinct on (writer) writer, seq, hash from ledger_entry order by writer, seq desc"
        )
        return {row[0]: Head(row[0], row[1], bytes(row[2])) for row in await cursor.fetchall()}


class Tally(NamedTuple):
    """One unit's sums: messages, or values."""

    received: int
    accepted: int
    duplicate: int
    quarantined: int
    rejected: int
    shed: int

    @property
    def unaccounted(self) -> int:
        """Return what was received and has no outcome yet: pending, or lost."""
        return self.received - sum(self[1:])


class FeedBalance(NamedTuple):
    """The sums of one feed, or of all."""

    messages: Tally
    values: Tally
    without_value: int


class Remainder(NamedTuple):
    """What the equation leaves over: anything but 0 and 0 is a defect."""

    messages: int
    values: int


class Balance(NamedTuple):
    """Both sides of the equation, in all and per feed (feed "" holds what belongs to none)."""

    total: FeedBalance
    feeds: dict[str, FeedBalance]

    def remainder(self, pending: tuple[int, int]) -> Remainder:
        """Return received less all outcomes less `pending` (messages and values not folded yet)."""
        messages, values = pending
        return Remainder(self.total.messages.unaccounted - messages, self.total.values.unaccounted - values)


def _feed_balance(sums: Sequence[int]) -> FeedBalance:
    half = 1 + len(OUTCOMES)
    return FeedBalance(Tally(*sums[:half]), Tally(*sums[half : 2 * half]), sums[-1])


async def balance(connection: Connection) -> Balance:
    """Return the ledger's sums.

    Read it with `partition_log.unfolded` inside one `database.consistent_read`, or a commit in between shows as a
    remainder.
    """
    sums = ", ".join(f"sum({name})::bigint" for name in COUNTS)
    with translated():
        query = f"select feed, {sums} from ledger_entry group by feed order by feed"  # noqa: S608
        cursor = await connection.execute(query.encode())
        rows = await cursor.fetchall()
    feeds = {row[0]: _feed_balance(row[1:]) for row in rows}
    totals = [sum(column) for column in zip(*(row[1:] for row in rows), strict=True)] or [0] * len(COUNTS)
    return Balance(_feed_balance(totals), feeds)
