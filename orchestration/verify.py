"""`vigil verify`: does the ledger's equation hold, are its chains whole, do the items match its counts?

Here: asking the stores in one consistent moment, and saying the answer.
Not here: the sums and chains themselves (stores.ledger, stores.ledger_verification).
"""

from __future__ import annotations

from typing import Any, NamedTuple

from rich.console import Console
from rich.table import Table

from orchestration.storage import connection, reachable
from stores import database, ledger, ledger_verification, partition_log
from vocabulary.settings import Settings


class Verdict(NamedTuple):
    """What was found."""

    balance: ledger.Balance
    pending: partition_log.Counts
    remainder: ledger.Remainder
    faults: list[ledger_verification.Fault]
    differences: list[ledger_verification.Difference]
    heads: dict[str, ledger.Head]

    @property
    def is_sound(self) -> bool:
        """Return whether nothing is missing, nothing was altered, and every count has its items."""
        return self.remainder == (0, 0) and not self.faults and not self.differences


async def verdict_of(connected: database.Connection) -> Verdict:
    """Read one moment of the database and judge it."""
    async with database.consistent_read(connected):
        balance = await ledger.balance(connected)
        pending = await partition_log.unfolded(connected)
        return Verdict(
            balance,
            pending,
            balance.remainder(pending),
            await ledger_verification.verify(connected),
            await ledger_verification.reconcile(connected),
            await ledger.heads(connected),
        )


async def verify(settings: Settings) -> Verdict:
    """Connect, read and judge.

    Raises:
        UnavailableError: there is no database to ask.
    """
    with reachable(settings) as complete:
        async with connection(complete, "verify") as connected:
            return await verdict_of(connected)


def as_record(verdict: Verdict) -> dict[str, Any]:
    """Return the verdict for `--json`."""
    total = verdict.balance.total
    return {
        "is_sound": verdict.is_sound,
        "messages": total.messages._asdict() | {"pending": verdict.pending.messages},
        "values": total.values._asdict() | {"pending": verdict.pending.values},
        "without_value": total.without_value,
        # One number for scripts: whichever unit is off, it is not 0.
        "remainder": abs(verdict.remainder.messages) + abs(verdict.remainder.values),
        "remainder_messages": verdict.remainder.messages,
        "remainder_values": verdict.remainder.values,
        "feeds": {
            name: {"messages": feed.messages._asdict(), "values": feed.values._asdict()}
            for name, feed in verdict.balance.feeds.items()
        },
        "chain_faults": [fault._asdict() for fault in verdict.faults],
        "differences": [difference._asdict() for difference in verdict.differences],
        "heads": {writer: {"seq": head.seq, "hash": head.hash.hex()} for writer, head in verdict.heads.items()},
    }


def show(verdict: Verdict, console: Console) -> None:
    """Print the equation per feed, and what is wrong, if anything."""
    table = Table(
        box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim", title_justify="left", caption_justify="left"
    )
    table.add_column("feed", no_wrap=True)
    for heading in ("", "received", "accepted", "duplicate", "quarantined", "rejected", "shed", "no outcome yet"):
        table.add_column(heading, justify="right" if heading else "left", no_wrap=True)
    rows = [*verdict.balance.feeds.items(), ("all", verdict.balance.total)]
    for name, feed in rows:
        for unit, tally in (("messages", feed.messages), ("values", feed.values)):
            numbers = [*tally, tally.unaccounted]
            shown = [f"{number:,}" for number in numbers]
            table.add_row((name or "(none)") if unit == "messages" else "", unit, *shown)
    console.print(table)
    pending, remainder = verdict.pending, verdict.remainder
    console.print(f"pending: {pending.messages:,} messages, {pending.values:,} values", highlight=False)
    verb = "[green]balanced[/]" if remainder == (0, 0) else "[red]NOT BALANCED[/]"
    console.print(f"remainder: {remainder.messages:,} messages, {remainder.values:,} values: {verb}", highlight=False)
    for fault in verdict.faults:
        console.print(f"[red]chain {fault.writer} row {fault.first} to {fault.last}: {fault.kind}[/] {fault.text}")
    for difference in verdict.differences:
        console.print(
            f"[red]{difference.feed} {difference.outcome} {difference.unit}:[/] "
            f"the ledger says {difference.ledger}, the items {difference.items}"
        )
    rows_kept = sum(head.seq for head in verdict.heads.values())
    if not verdict.faults:
        console.print(f"chains: {len(verdict.heads)} writers, {rows_kept:,} rows, all whole", highlight=False)
