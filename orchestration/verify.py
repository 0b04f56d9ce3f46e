"""`vigil verify`: does the ledger's equation hold, are the chains whole, do the items match its counts?

Here: asking, and saying the answer; the same chains from an exported folder, without any service.
Not here: the equation with what is in flight (twin.accounts), judging chains (governance.chain_audit), sums (stores).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import msgspec
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from governance import chain_audit
from governance.audit_export import FolderRows
from governance.chain_audit import Finding
from orchestration.storage import connection
from stores import database, ledger, ledger_verification
from stores.chain_verification import Fault
from stores.raw_archive import RawArchive
from twin import accounts
from twin.bus import open_bus
from vocabulary.settings import Settings


class Verdict(NamedTuple):
    """What was found."""

    account: accounts.Account
    feeds: dict[str, ledger.FeedBalance]
    finding: Finding
    differences: list[ledger_verification.Difference]
    missing_guards: list[str]
    recount: accounts.Recount | None = None  # of every message in RAW; None: not asked for

    @property
    def faults(self) -> list[Fault]:
        """Return what is wrong with the chains of both tables."""
        return [fault for table in self.finding.tables for fault in table.faults]

    @property
    def is_sound(self) -> bool:
        """Return whether nothing is missing, nothing was altered, and every count has its items."""
        is_recounted = self.recount is None or self.recount.is_same
        is_guarded = not self.missing_guards
        is_balanced = self.account.remainder == 0 and not self.differences
        return is_balanced and self.finding.is_whole and is_guarded and is_recounted


async def verify(settings: Settings, *, is_deep: bool = False) -> Verdict:
    """Connect, read and judge.

    Args:
        settings: with addresses that answer (orchestration.storage.reachable).
        is_deep: also count every message in RAW and its sealed files again, and check every signature, those that a
            daily root vouches for too.

    Raises:
        UnavailableError: the database or the bus does not answer after all.
        ConfigurationError: the writers' public keys cannot be read.
    """
    bus = await open_bus(settings, "operator")
    try:
        async with connection(settings, "verify") as connected:
            account = await accounts.balance(connected, bus)
            recount = None
            if is_deep:
                recount = await accounts.recount(connected, bus, RawArchive(settings.data_dir / "sealed"))
            anchors = chain_audit.gather(settings.anchors_dir)
            async with database.consistent_read(connected):
                return Verdict(
                    account,
                    (await ledger.balance(connected)).feeds,
                    await chain_audit.judge_all(
                        ledger_verification.DatabaseRows(connected), anchors, every_signature=is_deep
                    ),
                    await ledger_verification.reconcile(connected),
                    await ledger_verification.missing_guards(connected),
                    recount,
                )
    finally:
        await bus.close()


async def verify_folder(folder: Path) -> Finding:
    """Judge an exported folder, every signature of it. Nothing needs to run.

    Raises:
        ConfigurationError: it is no export, or a file of it cannot be read.
    """
    return await chain_audit.judge_all(FolderRows(folder), chain_audit.gather(folder), every_signature=True)


def _fault_record(fault: Fault) -> dict[str, Any]:
    return fault._asdict()


def finding_as_record(finding: Finding) -> dict[str, Any]:
    """Return a judgement for `--json`."""
    return {
        "is_whole": finding.is_whole,
        "chain_faults": [_fault_record(fault) for table in finding.tables for fault in table.faults],
        "root_faults": [fault._asdict() for fault in finding.root_faults],
        "roots": finding.roots,
        "warnings": finding.warnings,
        "tables": {table.table: {"rows": table.rows, "signatures": table.signatures} for table in finding.tables},
        "heads": {
            f"{table.table}/{writer}": {"seq": head.seq, "hash": head.hash.hex()}
            for table in finding.tables
            for writer, head in table.ends.items()
        },
    }


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
        "recount": None if verdict.recount is None else _recount_record(verdict.recount),
        **finding_as_record(verdict.finding),
        "missing_guards": verdict.missing_guards,
        "differences": [difference._asdict() for difference in verdict.differences],
    }


def _recount_record(recount: accounts.Recount) -> dict[str, Any]:
    return recount._asdict() | {"damages": [damage._asdict() for damage in recount.damages]}


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
        found, booked = verdict.recount.found, verdict.recount.booked
        said = "[green]the same[/]" if found == booked else "[red]NOT THE SAME[/]"
        console.print(
            f"counted again in RAW: {found:,} messages, booked as received: {booked:,}: {said}", highlight=False
        )
        for damage in verdict.recount.damages:
            console.print(f"[red]sealed file {escape(damage.name)}: {damage.kind}[/] {escape(damage.text)}")
    for difference in verdict.differences:
        console.print(
            f"[red]{difference.feed} {difference.outcome} {difference.unit}:[/] "
            f"the ledger says {difference.ledger}, the items {difference.items}"
        )
    for guard in verdict.missing_guards:
        console.print(f"[red]not append-only any more:[/] the trigger {guard} is missing or disabled", highlight=False)
    show_finding(verdict.finding, console)


def show_finding(finding: Finding, console: Console) -> None:
    """Print what is wrong with chains and roots, or that nothing is."""
    for table in finding.tables:
        for line in chain_audit.describe(table):
            console.print(f"[red]{escape(line)}[/]", highlight=False, soft_wrap=True)
    for fault in finding.root_faults:
        console.print(f"[red]daily root {escape(fault.day)}: {escape(fault.text)}[/]", highlight=False, soft_wrap=True)
    for warning in finding.warnings:
        console.print(f"[yellow]{escape(warning)}[/]", highlight=False, soft_wrap=True)
    chains = sum(len(table.ends) for table in finding.tables)
    rows = sum(table.rows for table in finding.tables)
    signatures = sum(table.signatures for table in finding.tables)
    said = "all whole" if finding.is_whole else "[red]NOT WHOLE[/]"
    console.print(
        f"chains: {chains} writers, {rows:,} rows, {signatures:,} signatures checked, {finding.roots} daily roots: "
        f"{said}",
        highlight=False,
    )
