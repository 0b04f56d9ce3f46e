"""Judging the ledger and the audit log by everything that is known outside of the database.

Here: gathering what is known, and one judgement of both tables, wherever their rows come from.
Not here: recomputing chains (stores.ledger_verification), what is known (governance.notary, governance.daily_roots),
saying the result (orchestration.verify).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

from governance import daily_roots
from governance.daily_roots import TABLES, RootCheck, RootFault, RootFile
from governance.notary import PublicKeys, read_keys, roots_dir
from stores.chain import link_of
from stores.chain_heads import HeadFile, KeptHeads
from stores.ledger_verification import Evidence, Judgement, RowSource, judge


class Anchors(NamedTuple):
    """What is known outside of the database. Gather it before the rows are read: it must not be newer than they are."""

    keys: PublicKeys | None
    heads: KeptHeads
    roots: list[RootFile]
    root_faults: list[RootFault]


class Finding(NamedTuple):
    """The judgement of both tables."""

    tables: list[Judgement]
    root_faults: list[RootFault]
    roots: int
    warnings: list[str]  # what could not be judged

    @property
    def is_whole(self) -> bool:
        """Return whether every row and every root is as it was written."""
        return not self.root_faults and all(one.is_whole for one in self.tables)


def gather(anchors_dir: Path) -> Anchors:
    """Read the anchors of a site, or of an exported folder.

    Raises:
        ConfigurationError: the writers' public keys are damaged.
    """
    roots, faults = daily_roots.read(roots_dir(anchors_dir))
    return Anchors(read_keys(anchors_dir), HeadFile(anchors_dir / "heads").read_all(), roots, faults)


async def judge_all(source: RowSource, anchors: Anchors, *, every_signature: bool = False) -> Finding:
    """Recompute every chain and every daily root.

    Args:
        source: where rows come from; for a database, inside one `database.consistent_read`.
        anchors: gathered before.
        every_signature: also check again those that a daily root vouches for.
    """
    check = RootCheck(anchors.roots, {} if anchors.keys is None else anchors.keys.notary)
    judgements = [
        await judge(
            source,
            table,
            _evidence(table.name, anchors, check),
            every_signature=every_signature,
            on_rows=partial(check.take, table.name),
        )
        for table in TABLES
    ]
    return Finding(judgements, [*anchors.root_faults, *check.close()], len(anchors.roots), _warnings(anchors))


def _evidence(table: str, anchors: Anchors, check: RootCheck) -> Evidence:
    known = {writer: dict(rows) for writer, rows in check.anchors[table].items()}
    legacy = dict(check.vouched[table])
    for head in anchors.heads.heads:
        if head.table == table:
            kept = known.setdefault(head.writer, {})
            # Two ends of one number (a lost one was put aside, another was written there): no row can be both.
            link = link_of(head.hash, head.signature_bytes, head.key_id or None)
            kept[head.seq] = link if kept.get(head.seq, link) == link else b""
            if not head.key_id:
                legacy[head.writer] = max(legacy.get(head.writer, 0), head.seq)
    keys = None if anchors.keys is None else anchors.keys.of
    return Evidence(known, check.vouched[table], legacy, keys)


def _warnings(anchors: Anchors) -> list[str]:
    warnings = [
        f"the kept end {name} cannot be read: rows cut off that chain's end since the last daily root would not show"
        for name in anchors.heads.damaged
    ]
    if anchors.keys is None:
        warnings.append("no writer's public key is registered: signatures were not checked")
    return warnings


def describe(judgement: Judgement) -> Sequence[str]:
    """Return what is wrong with a table, a line a fault, for a person who is woken by it."""
    what = {"audit_event": "audit log", "ledger_entry": "ledger"}[judgement.table]
    return [
        f"{what}, writer {fault.writer}, {fault.place}: {fault.kind}, {_WORDS[fault.kind]} ({fault.text})"
        for fault in judgement.faults
    ]


_WORDS = {
    "edited": "changed after it was written",
    "deleted": "deleted",
    "moved": "moved to another place",
    "rewritten": "written anew by somebody without the writer's key",
    "remade": "made to fit behind a row that was written anew",
    "unvouched": "not vouched for by any signature",
    "truncated": "cut off the end",
}
"""Each kind of fault in words."""
