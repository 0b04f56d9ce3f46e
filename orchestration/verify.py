"""`vigil verify`: does the ledger's equation hold, are its chains whole, do the items match its counts?

Here: asking, and saying the answer.
Not here: the equation with what is in flight (twin.accounts), the chains and sums (stores).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import msgspec
from rich.console import Console
from rich.table import Table

from orchestration.storage import connection, secret
from stores import database, ledger, ledger_verification
from stores.raw_archive import RawArchive
from twin import accounts
from twin.bus import Bus
from vocabulary.settings import Settings


class Verdict(NamedTuple):
    """What was found."""

    account: accounts.Account
    feeds: dict[str, ledger.FeedBalance]
    faults: list[ledger_verification.Fault]
    differences: list[ledger_verification.Difference]
    heads: dict[str, ledger.Head]
    recount: accounts.Recount | None = None  # of every message in RAW; None: not asked for

    @property
    def is_sound(self) -> bool:
        """Return whether nothing is missing, nothing was altered, and every count has its items."""
        is_recounted = self.recount is None or self.recount.is_same
        return self.account.remainder == 0 and not self.faults and not self.differences and is_recounted


async def verify(settings: Settings, *, is_deep: bool = False) -> Verdict:
    """Connect, read and judge.

    Args:
        settings: with addresses that answer (orchestration.storage.reachable).
        is_deep: also count every message in RAW and its sealed files again.

    Raises:
        UnavailableError: the database or the bus does not answer after all.
    """
    bus = await Bus.connect(secret(settings.nats_url), "vigil verify")
    try:
        async with connection(settings, "verify") as connected:
            account = await accounts.balance(connected, bus)
            recount = None
            if is_deep:
                recount = await accounts.recount(connected, bus, RawArchive(settings.data_dir / "sealed"))
            async with database.consistent_read(connected):
                return Verdict(
                    account,
                    (await ledger.balance(connected)).feeds,
                    await ledger_verification.verify(connected),
                    await ledger_verification.reconcile(connected),
                    await ledger.heads(connected),
                    recount,
                )
    finally:
        await bus.close()


def as_record(verdict: Verdict) -> dict[str, Any]:
    """Return the verdict for `--json`."""
    account = verdict.account
    return {
        "is_sound": verdict.is_sound,
        "messages": msgspec.structs.asdict(account.messages),
        "values": msgspec.structs.asdict(account.values),
        "without_value": account.without_value,
        "waiting": account.waiting,
        # One number for scripts: whichever side is off, it is not 0.
        "remainder": account.remainder,
        "remainder_messages": account.messages.remainder,
        "remainder_values": account.values.remainder,
        "feeds": {
            name: {"messages": feed.messages._asdict(), "values": feed.values._asdict()}
            for name, feed in verdict.feeds.items()
            if name
        },
        "recount": None if verdict.recount is None else verdict.recount._asdict(),
        "chain_faults": [fault._asdict() for fault in verdict.faults],
        "differences": [difference._asdict() for difference in verdict.differences],
        "heads": {writer: {"seq": head.seq, "hash": head.hash.hex()} for writer, head in verdict.heads.items()},
    }


_HEADINGS = ("received", "accepted", "duplicate", "quarantined", "rejected", "shed", "pending")


def show(verdict: Verdict, console: Console) -> None:
    """Print the equation per feed and in all, and what is wrong, if anything."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("feed", no_wrap=True)
    table.add_column("", no_wrap=True)
    for heading in _HEADINGS:
        table.add_column(heading, justify="right", no_wrap=True)
    for name, feed in verdict.feeds.items():
        for label, unit, tally in ((name, "messages", feed.messages), ("", "values", feed.values)):
            known = tally._asdict() | {"pending": tally.unaccounted}
            cells = (f"{known[heading]:,}" for heading in _HEADINGS)
            if name:
                table.add_row(label, unit, *cells, style="dim")
    account = verdict.account
    for label, unit, side in (("all", "messages", account.messages), ("", "values", account.values)):
        table.add_row(label, unit, *(f"{number:,}" for number in msgspec.structs.astuple(side)))
    console.print(table)
    verdict_text = "[green]balanced[/]" if account.remainder == 0 else "[red]NOT BALANCED[/]"
    console.print(
        f"remainder: {account.messages.remainder:,} messages, {account.values.remainder:,} values: {verdict_text}",
        highlight=False,
    )
    if account.waiting:
        console.print(f"waiting for an admission or an association: {account.waiting:,} messages", highlight=False)
    if verdict.recount is not None:
        found, booked = verdict.recount
        said = "[green]the same[/]" if verdict.recount.is_same else "[red]NOT THE SAME[/]"
        console.print(
            f"counted again in RAW: {found:,} messages, booked as received: {booked:,}: {said}", highlight=False
        )
    for fault in verdict.faults:
        console.print(f"[red]chain {fault.writer} row {fault.first} to {fault.last}: {fault.kind}[/] {fault.text}")
    for difference in verdict.differences:
        console.print(
            f"[red]{difference.feed} {difference.outcome} {difference.unit}:[/] "
            f"the ledger says {difference.ledger}, the items {difference.items}"
        )
    if not verdict.faults:
        rows = sum(head.seq for head in verdict.heads.values())
        console.print(f"chains: {len(verdict.heads)} writers, {rows:,} rows, all whole", highlight=False)
