"""Recomputing one chain: which rows were edited, deleted, moved, made anew or cut off.

Here: `ChainVerifier`, which is given a chain's rows in the order of their numbers, wherever they come from.
Not here: reading rows from the database (stores.ledger_verification) or from an exported folder
(governance.audit_export), whose keys are believed (governance.notary).

What can be seen without keys. A row whose hash does not fit its content was edited, unless it fits under another
number: then it was moved. Numbers that no row was written under are deleted rows. A row rewritten together with its own
hash shows in the row after it. With the writer's public keys: an append whose signature does not fit was made anew,
even where all hashes behind it were made to fit, and rows that no signature vouches for were added by somebody else. A
signature vouches for its own append only, so this holds for rows too that the true writer went on behind, unknowing.
Unsigned rows of old are believed where their end was pinned when the first keys were registered. With anchors (ends
kept outside of the database): rows cut off the end, and chains removed whole.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal, NamedTuple

from stores.chain import GENESIS, ChainTable, Value, link_of, old_signed_message, signed_message
from vocabulary.signing import VerifyingKey

FaultKind = Literal["edited", "deleted", "moved", "rewritten", "remade", "unvouched", "truncated"]

_CANDIDATES = 512
"""Up to this many unexplained rows are tried under each other's numbers; beyond it only under the last shift found."""

_APPEND_ROWS = 1_000
"""So far back the first row of an append is looked for, where it is not the one behind the last signature."""

_SEARCHES = 10_000
"""Signatures tried in all such searches of a chain: one whose every signature was made anew is told in its time."""


class Fault(NamedTuple):
    """Rows `first` to `last` of a writer's chain are not as they were written."""

    writer: str
    kind: FaultKind
    first: int
    last: int
    text: str
    was: int | None = None  # moved: the number row `first` was written under
    table: str = "ledger_entry"

    @property
    def place(self) -> str:
        """Return the rows in words."""
        return f"row {self.first}" if self.first == self.last else f"rows {self.first} to {self.last}"


class Row(NamedTuple):
    """One stored row: what its hash covers, and what is kept beside."""

    seq: int
    content: tuple[Value, ...]  # the table's columns: writer, seq, at_us, and the rest
    previous: bytes
    hash: bytes
    signature: bytes | None = None
    key_id: str | None = None

    @property
    def leaf(self) -> bytes:
        """Return the row as a leaf of a day's Merkle tree: its hash, which covers its content, and its signature."""
        return self.hash + (self.signature or b"") + (self.key_id or "").encode()


class WriterKeys(NamedTuple):
    """What is known outside of the database about who may sign a chain."""

    keys: Mapping[str, VerifyingKey]  # by key id; empty: nobody of this name was ever registered
    since_us: int  # when the first was registered: rows from before may be unsigned


class ChainVerifier:
    """Judges one writer's rows, given in order of their present numbers."""

    def __init__(
        self,
        table: ChainTable,
        writer: str,
        anchors: Mapping[int, bytes],
        keys: WriterKeys | None = None,
        vouched_until: int = 0,
        *,
        legacy_until: int = 0,
        after: tuple[int, bytes] = (0, GENESIS),
    ) -> None:
        """Begin a chain.

        Args:
            table: how its rows are hashed.
            writer: its name.
            anchors: row number → link (stores.chain.link_of), kept outside of the database.
            keys: the writer's; None: signatures are not looked at.
            vouched_until: signatures up to this row were judged when an anchor there was made, and are not again.
            legacy_until: up to this row, those before the chain's first signature that are older than the keys are
                believed without one.
            after: number and link of the row before the first that will be taken.
        """
        self.table = table
        self.writer = writer
        self.rows = 0
        self.signatures = 0  # how many were checked
        self._anchors = dict(anchors)
        self._keys = keys
        self._vouched_until = vouched_until
        self._faults: list[Fault] = []
        self._wide: list[Fault] = []  # anchors that do not fit: said only where nothing more exact is known
        self._suspects: list[Row] = []  # rows whose hash does not fit
        self._gaps: list[tuple[int, int]] = []  # numbers that no row has
        self._next = after[0] + 1
        self._anchored = 0  # the last row that an anchor vouches for
        self._link: bytes | None = after[1]  # what the next row must name; None behind a gap or a suspect
        self._open: int | None = None  # first of the rows that wait for a signature
        self._loose: list[tuple[int, int]] = []  # rows whose signature never came
        self._is_remade = False  # the last signature did not fit
        self._legacy_until = legacy_until
        self._is_old = False  # the last signature that fitted was of version 1
        self._searches = _SEARCHES

    def take(self, row: Row) -> None:
        """Judge the next row."""
        self.rows += 1
        if 1 <= row.seq < self._next:
            self._add("edited", row.seq, "a second row stands under this number")
            return
        if row.seq > self._next:
            self._gaps.append((self._next, row.seq - 1))
            self._break(self._next - 1)
        if row.seq < 1 or not self._is_written_as(row, row.seq):
            self._suspects.append(row)
            self._break(row.seq - 1)
        else:
            if self._link is not None and row.previous != self._link:
                said = "its hash, its signature, or the next row's link to it was made anew"
                self._add("rewritten", row.seq - 1, said)
                self._break(row.seq - 1)
            self._link = link_of(row.hash, row.signature, row.key_id)
            self._check_signature(row)
            self._check_anchor(row, self._link)
        self._next = max(self._next, row.seq + 1)

    def _is_written_as(self, row: Row, seq: int) -> bool:
        return self.table.row_hash(row.previous, (row.content[0], seq, *row.content[2:])) == row.hash

    def _break(self, last: int) -> None:
        """Nothing that comes later vouches for the rows up to here any more."""
        self._link = None
        if self._open is not None:
            self._loose.append((self._open, last))
            self._open = None

    def _check_signature(self, row: Row) -> None:
        if self._keys is None:
            return
        if row.signature is None and row.key_id is None:
            if not self._is_legacy(row):
                self._open = self._open or row.seq
            return
        self._legacy_until = 0  # once a writer signs, it signs for ever
        first = self._open or row.seq
        self._open = None
        if row.seq <= self._vouched_until:
            self._is_remade = False
            return
        begin = self._begin_of(row, first)
        if begin is None:
            if self._is_remade:
                self._add("remade", first, "made anew behind rows that were: no signature fits", last=row.seq)
            else:
                self._add("rewritten", first, self._why(row), last=row.seq)
            self._is_remade = True
            return
        self._is_remade = False
        if begin > first:
            said = f"the writer's own append begins behind them, with row {begin}: somebody else wrote these"
            self._add("unvouched", first, said, last=begin - 1)

    def _is_legacy(self, row: Row) -> bool:
        assert self._keys is not None
        at_us = row.content[2]
        is_older = not self._keys.keys or (isinstance(at_us, int) and at_us < self._keys.since_us)
        return is_older and row.seq <= self._legacy_until

    def _begin_of(self, row: Row, first: int) -> int | None:
        """Return the first row that a row's signature vouches for, None where the signature is not the writer's.

        Args:
            row: a signed one.
            first: where its append begins if nothing was put before it, taken away, or judged elsewhere.
        """
        assert self._keys is not None
        self.signatures += 1
        key = self._keys.keys.get(row.key_id or "")
        if key is None or row.signature is None:
            return None
        for is_old in (self._is_old, not self._is_old):
            message = old_signed_message(row.hash) if is_old else signed_message(row.hash, first)
            if key.is_valid(row.signature, message):
                self._is_old = is_old
                return first
        for begin in range(row.seq, max(0, row.seq - _APPEND_ROWS), -1):
            if self._searches == 0:
                return None
            self._searches -= 1
            if key.is_valid(row.signature, signed_message(row.hash, begin)):
                return begin
        return None

    def _why(self, row: Row) -> str:
        assert self._keys is not None
        if row.key_id not in self._keys.keys:
            return f"signed with a key ({row.key_id}) that is not registered for this writer"
        return "the signature of this append is not its writer's: a row or the signature was made anew"

    def _check_anchor(self, row: Row, link: bytes) -> None:
        anchor = self._anchors.pop(row.seq, None)
        if anchor == link:
            self._anchored = row.seq  # not vouched for: whoever kept this end may have gone on behind foreign rows
        elif anchor is not None:
            said = "somewhere between these rows the chain was made anew: its end is not what the anchor names"
            self._wide.append(self._fault("rewritten", self._anchored + 1, said, last=row.seq))

    def _fault(self, kind: FaultKind, seq: int, text: str, was: int | None = None, last: int | None = None) -> Fault:
        return Fault(self.writer, kind, seq, last if last is not None else seq, text, was, self.table.name)

    def _add(self, kind: FaultKind, seq: int, text: str, was: int | None = None, last: int | None = None) -> None:
        self._faults.append(self._fault(kind, seq, text, was, last))

    def close(self) -> list[Fault]:
        """Explain what does not fit, once all rows are taken."""
        vacant = {number for first, last in self._gaps for number in range(first, min(last, first + _CANDIDATES) + 1)}
        candidates = [row.seq for row in self._suspects[:_CANDIDATES]] + sorted(vacant)[:_CANDIDATES]
        shift = 0
        origins: set[int] = set()
        moved: set[int] = set()
        for row in self._suspects:
            was = self._origin(row, shift, candidates)
            if was is None:
                self._add("edited", row.seq, "its content does not fit its hash")
                continue
            shift = was - row.seq
            origins.add(was)
            moved.add(row.seq)
            self._add("moved", row.seq, f"it was written as row {was}", was)
        self._find_deleted(origins, moved)
        self._find_unvouched()
        lost = max(self._anchors, default=0)
        start = max(self._next, max(origins, default=0) + 1)
        if lost >= start:
            self._add("truncated", start, f"the anchor kept elsewhere says that row {lost} was written", last=lost)
        exact = [fault for fault in self._faults if fault.kind in {"rewritten", "remade", "unvouched"}]
        for wide in self._wide:
            if not any(fault.first <= wide.last and wide.first <= fault.last for fault in exact):
                self._faults.append(wide)
        return _runs(self._faults)

    def _origin(self, row: Row, shift: int, candidates: Sequence[int]) -> int | None:
        # A shift of all rows behind a deleted one is the commonest renumbering: try the last shift first, then one.
        for seq in (row.seq + shift, row.seq + 1, row.seq - 1):
            if seq != row.seq and seq >= 1 and self._is_written_as(row, seq):
                return seq
        if len(self._suspects) <= _CANDIDATES:
            return next((seq for seq in candidates if seq != row.seq and self._is_written_as(row, seq)), None)
        return None

    def _find_deleted(self, origins: set[int], moved: set[int]) -> None:
        # Lost are the numbers nobody has, and those whose present row belongs elsewhere, unless their own row is there.
        found = sorted(origins)
        for first, last in self._gaps:
            start = first
            for origin in (*found[bisect_left(found, first) : bisect_right(found, last)], last + 1):
                if origin > start:
                    self._add("deleted", start, "no row was written under these numbers", last=origin - 1)
                start = origin + 1
        for seq in sorted(number for number in moved - origins if number >= 1):
            self._add("deleted", seq, "another row stands under its number")

    def _find_unvouched(self) -> None:
        if self._keys is None:
            return
        is_stranger = not self._keys.keys
        if self._open is not None:
            self._loose.append((self._open, self._next - 1))
        said = (
            "nobody of this writer's name was ever registered"
            if is_stranger
            else "no signature of the writer vouches for these rows: they, or the row behind them, are not the writer's"
        )
        for first, last in self._loose:
            self._add("unvouched", first, said, last=last)


def _runs(faults: Iterable[Fault]) -> list[Fault]:
    """Join neighbouring rows with the same fault (and the same shift, where moved) into one."""
    joined: list[Fault] = []
    for fault in sorted(faults, key=lambda fault: (fault.kind, fault.first)):
        before = joined[-1] if joined else None
        if before is not None and _continues(before, fault):
            joined[-1] = before._replace(last=fault.last)
        else:
            joined.append(fault)
    return sorted(joined, key=lambda fault: (fault.first, fault.kind))


def _continues(before: Fault, fault: Fault) -> bool:
    if fault.first != before.last + 1 or fault.kind != before.kind:
        return False
    if before.was is None or fault.was is None:
        return before.text == fault.text
    return before.was - before.first == fault.was - fault.first
