"""Recomputing the ledger's chains: which rows were edited, deleted or moved, and whether items agree with counts.

Here: `verify` (the chains), `reconcile` (itemised rows against the ledger's sums).
Not here: writing the chains (stores.ledger).

What can be seen. A row whose hash does not fit its content was edited, unless it fits under another number: then it
was moved. Numbers that no row was written under are deleted rows. A row rewritten together with its own hash shows in
the row after it. What cannot be seen without an anchor (a Head kept elsewhere): rows cut off the end, a chain removed
whole, or every row from some point to the end rewritten with fresh hashes.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple

from psycopg import sql

from stores.database import Connection, translated
from stores.ledger import CONTENT_COLUMNS, GENESIS, OUTCOMES, Head, balance, row_hash

FaultKind = Literal["edited", "deleted", "moved", "rewritten", "truncated"]

_FETCH = 2_000
_CANDIDATES = 512
"""Up to this many unexplained rows are tried under each other's numbers; beyond it only under the last shift found."""


class Fault(NamedTuple):
    """Rows `first` to `last` of a writer's chain are not as they were written."""

    writer: str
    kind: FaultKind
    first: int
    last: int
    text: str
    was: int | None = None  # moved: the number row `first` was written under


class _Row(NamedTuple):
    seq: int
    content: tuple[str | int, ...]
    previous: bytes
    hash: bytes

    def written_as(self, seq: int) -> bool:
        """Return whether the row's hash fits its content under this number."""
        return row_hash(self.previous, (self.content[0], seq, *self.content[2:])) == self.hash


class _Chain:
    """One writer's rows, taken in order of their present numbers."""

    def __init__(self, writer: str, anchors: dict[int, bytes]) -> None:
        self.writer = writer
        self.anchors = anchors
        self.faults: list[Fault] = []
        self.suspects: list[_Row] = []  # rows whose hash does not fit
        self.gaps: list[tuple[int, int]] = []  # numbers that no row has
        self.next = 1
        self.trusted = 0  # the last row that an anchor vouches for
        self.before: bytes | None = GENESIS  # the hash the next row must name; None behind a gap or a suspect

    def take(self, row: _Row) -> None:
        """Judge the next row."""
        if row.seq > self.next:
            self.gaps.append((self.next, row.seq - 1))
            self.before = None
        if row.seq < 1 or not row.written_as(row.seq):
            self.suspects.append(row)
            self.before = None
        else:
            if self.before is not None and row.previous != self.before:
                self._add("rewritten", row.seq - 1, "its hash, or the next row's link to it, was made anew")
            self.before = row.hash
            self._check_anchor(row)
        self.next = max(self.next, row.seq + 1)

    def _check_anchor(self, row: _Row) -> None:
        anchor = self.anchors.pop(row.seq, None)
        if anchor == row.hash:
            self.trusted = row.seq
        elif anchor is not None:
            said = "somewhere between these rows the chain was made anew: its end is not what the anchor names"
            self._add("rewritten", self.trusted + 1, said, last=row.seq)

    def _add(self, kind: FaultKind, seq: int, text: str, was: int | None = None, last: int | None = None) -> None:
        self.faults.append(Fault(self.writer, kind, seq, last if last is not None else seq, text, was))

    def close(self) -> list[Fault]:
        """Explain the suspects and the gaps, once all rows are taken."""
        vacant = {number for first, last in self.gaps for number in range(first, min(last, first + _CANDIDATES) + 1)}
        candidates = [row.seq for row in self.suspects[:_CANDIDATES]] + sorted(vacant)[:_CANDIDATES]
        shift = 0
        origins: set[int] = set()
        for row in self.suspects:
            was = self._origin(row, shift, candidates)
            if was is None:
                self._add("edited", row.seq, "its content does not fit its hash")
                continue
            shift = was - row.seq
            origins.add(was)
            self._add("moved", row.seq, f"it was written as row {was}", was)
        moved = {fault.first for fault in self.faults if fault.kind == "moved"}
        self._find_deleted(origins, moved)
        lost = max(self.anchors, default=0)
        start = max(self.next, max(origins, default=0) + 1)
        if lost >= start:
            self._add("truncated", start, f"the anchor kept elsewhere says that row {lost} was written", last=lost)
        return _runs(self.faults)

    def _origin(self, row: _Row, shift: int, candidates: Sequence[int]) -> int | None:
        # A shift of all rows behind a deleted one is the commonest renumbering: try the last shift first, then one.
        for seq in (row.seq + shift, row.seq + 1, row.seq - 1):
            if seq != row.seq and seq >= 1 and row.written_as(seq):
                return seq
        if len(self.suspects) <= _CANDIDATES:
            return next((seq for seq in candidates if seq != row.seq and row.written_as(seq)), None)
        return None

    def _find_deleted(self, origins: set[int], moved: set[int]) -> None:
        # Lost are the numbers nobody has, and those whose present row belongs elsewhere, unless their own row is there.
        found = sorted(origins)
        for first, last in self.gaps:
            start = first
            for origin in (*found[bisect_left(found, first) : bisect_right(found, last)], last + 1):
                if origin > start:
                    self._add("deleted", start, "no row was written under these numbers", last=origin - 1)
                start = origin + 1
        for seq in sorted(number for number in moved - origins if number >= 1):
            self._add("deleted", seq, "another row stands under its number")


def _runs(faults: Iterable[Fault]) -> list[Fault]:
    """Join neighbouring rows with the same fault (and the same shift, where moved) into one."""
    joined: list[Fault] = []
    for fault in sorted(faults, key=lambda fault: (fault.kind, fault.first)):
        before = joined[-1] if joined else None
        if (
            before is not None
            and before.kind == fault.kind
            and fault.first == before.last + 1
            and (before.was is None or fault.was is None or before.was - before.first == fault.was - fault.first)
        ):
            joined[-1] = before._replace(last=fault.last)
        else:
            joined.append(fault)
    return sorted(joined, key=lambda fault: (fault.first, fault.kind))


async def verify(connection: Connection, anchors: Iterable[Head] = ()) -> list[Fault]:
    """Recompute every chain and return what is wrong with it, by writer and row; empty when all is as it was written.

    Streams the rows: memory grows only with the number of faults.

    Args:
        connection: inside or outside a transaction.
        anchors: ends of chains kept elsewhere (`ledger.heads`); with them a cut or rewritten end shows too.
    """
    expected: dict[str, dict[int, bytes]] = {}
    for anchor in anchors:
        if anchor.seq > 0:
            expected.setdefault(anchor.writer, {})[anchor.seq] = anchor.hash
    columns = sql.SQL(", ").join(
        sql.SQL("(extract(epoch from at) * 1000000)::bigint") if name == "at" else sql.Identifier(name)
        for name in (*CONTENT_COLUMNS, "previous_hash", "hash")
    )
    query = sql.SQL("select {} from ledger_entry order by writer, seq").format(columns)
    faults: list[Fault] = []
    chain: _Chain | None = None
    with translated():
        async with connection.cursor("ledger_verify", binary=True) as cursor:
            cursor.itersize = _FETCH
            await cursor.execute(query)
            async for record in cursor:
                if chain is None or chain.writer != record[0]:
                    faults += chain.close() if chain else []
                    chain = _Chain(record[0], expected.pop(record[0], {}))
                chain.take(_Row(record[1], tuple(record[:-2]), record[-2], record[-1]))
    faults += chain.close() if chain else []
    for writer, lost in expected.items():
        faults += _Chain(writer, lost).close()
    return faults


class Difference(NamedTuple):
    """An outcome whose itemised rows do not add up to the ledger's count."""

    feed: str
    outcome: str
    unit: Literal["messages", "values"]
    ledger: int
    items: int


async def reconcile(connection: Connection) -> list[Difference]:
    """Compare what was itemised with what the ledger counts, per feed and outcome; empty when they agree.

    An item of a whole message counts one message and its values; an item of a value counts that value. Released items
    no longer count: the ledger's `released` row took them back. Discarded ones still do.
    """
    with translated():
        cursor = await connection.execute(
            "select feed, outcome, count(*) filter (where value_index = -1), "
            "sum(\"values\")::bigint from quarantine_item where state <> 'released' group by feed, outcome"
        )
        itemised = {(row[0], row[1]): (row[2], row[3]) for row in await cursor.fetchall()}
    counted = (await balance(connection)).feeds
    differences = []
    for feed in sorted(set(counted) | {feed for feed, _ in itemised}):
        for outcome in OUTCOMES[1:]:
            messages, values = itemised.get((feed, outcome), (0, 0))
            sums = counted.get(feed)
            if (ledger := getattr(sums.messages, outcome) if sums else 0) != messages:
                differences.append(Difference(feed, outcome, "messages", ledger, messages))
            if (ledger := getattr(sums.values, outcome) if sums else 0) != values:
                differences.append(Difference(feed, outcome, "values", ledger, values))
    return differences
