"""The ledger: one append-only, hash-chained row a pack or a commit, with what became of every message and value.

Here: writing one chain a writer process, and the sums that must balance (promise 5).
Not here: hashing, linking and signing (stores.chain), recomputing the chains (stores.chain_verification), the items
behind the counts (stores.quarantine).

received = accepted + duplicate + quarantined + rejected + shed + pending, per message and per value. A row may count
negatively: `released` takes back what was quarantined. A discarded item stays counted as quarantined, since it never
reached a twin; its row only notes who decided.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import msgspec

from stores.chain import Chain, ChainTable, Content, Head
from stores.chain_heads import HeadFile
from stores.database import Connection, storable, translated
from vocabulary.signing import Signer

Kind = Literal["pack", "applied", "released", "discarded", "oversize", "opened", "note"]

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

LEDGER = ChainTable(
    "ledger_entry",
    b"vigil.ledger.1\n",
    (
        ("writer", "text"),
        ("seq", "int8"),
        ("at", "timestamptz"),
        ("kind", "text"),
        ("feed", "text"),
        ("position_from", "int8"),
        ("position_to", "int8"),
        *((name, "int4") for name in COUNTS),
        ("detail", "text"),
    ),
)
"""How the ledger's rows are stored and hashed."""


def detail_of(**facts: str | float | bool | None) -> str:
    """Return facts as the canonical JSON of `Entry.detail`: sorted keys, no spaces."""
    return msgspec.json.encode(facts, order="sorted").decode()


class LedgerWriter:
    """Appends to one chain. Its head moves only when the caller says that the transaction was committed.

    Two writers of one name cannot both go on: the second to write row n violates the primary key.
    """

    def __init__(self, writer: str, signer: Signer | None = None, heads: HeadFile | None = None) -> None:
        """Describe the writer; nothing is read until `open`.

        Args:
            writer: names the chain; one process at a time, the same name after a restart.
            signer: signs the last row of each append; None leaves rows unsigned.
            heads: where the chain's end is kept outside of the database; None keeps none.
        """
        self.chain = Chain(LEDGER, writer, signer, heads)

    @property
    def writer(self) -> str:
        """Return the chain's name."""
        return self.chain.writer

    async def open(self, connection: Connection) -> Head:
        """Read where the chain ended, and go on from there."""
        return await self.chain.open(connection)

    async def append(self, connection: Connection, entries: Sequence[Entry]) -> None:
        """Write rows in the caller's transaction; then call `committed` or `rolled_back`.

        Raises:
            FencedOutError: another writer of this name wrote first; roll back and stop.
            BrokenInvariantError: the writer was not opened.
            RefusedError: this database role may not append to this chain.
        """
        await self.chain.append(connection, [content_of(entry) for entry in entries])

    def committed(self) -> None:
        """Say that the transaction of the last appends was committed."""
        self.chain.committed()

    def rolled_back(self) -> None:
        """Say that the transaction of the last appends was undone: the next ones take their place."""
        self.chain.rolled_back()


def content_of(entry: Entry) -> Content:
    """Return an entry as a row's content, with texts PostgreSQL can hold."""
    counts: tuple[int, ...] = tuple(getattr(entry, name) for name in COUNTS)
    between = (entry.kind, storable(entry.feed), entry.position_from, entry.position_to)
    return Content(entry.at_us, (*between, *counts, storable(entry.detail)))


async def heads(connection: Connection) -> dict[str, Head]:
    """Return the end of every writer's chain: anchors, once they are kept where the database's owner cannot write."""
    with translated():
        cursor = await connection.execute(
            "select distinct on (writer) writer, seq, hash, signature, key_id from ledger_entry "
            "order by writer, seq desc"
        )
        rows = await cursor.fetchall()
    return {
        row[0]: Head(row[0], row[1], bytes(row[2]), None if row[3] is None else bytes(row[3]), row[4]) for row in rows
    }


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
