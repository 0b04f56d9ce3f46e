"""`vigil audit`: who did what, exports that anybody can verify, and the daily roots.

Here: the commands. Looking at the audit log is itself an event in it.
Not here: judging the log (orchestration.verify), events and roots (governance).
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Coroutine, Sequence
from datetime import UTC, date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import msgspec
import typer

from vocabulary.errors import ConfigurationError

if TYPE_CHECKING:
    from governance.daily_roots import RootFile
    from governance.inclusion import Proof
    from stores.audit_log import Event, Outcome
    from vocabulary.settings import Settings

audit_app = typer.Typer(help="Who saw or did what; exports and daily roots.", no_args_is_help=True)

T = TypeVar("T")

DataDirOption = Annotated[
    Path | None,
    typer.Option(
        "--data-dir", help="Where the services keep everything; wins over VIGIL_DATA_DIR.", show_default=False
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document and nothing else on stdout.")]


def _ask(data_dir: Path | None, question: Callable[[Settings], Coroutine[Any, Any, T]]) -> T:
    from orchestration.storage import load_settings, reachable

    with reachable(load_settings(data_dir)) as complete:
        return asyncio.run(question(complete))


def _at(at_us: int) -> str:
    return datetime.fromtimestamp(at_us / 1_000_000, UTC).strftime("%Y-%m-%d %H:%M:%S.%f")[:-3]


def _since(text: str | None) -> int | None:
    if text is None:
        return None
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        raise ConfigurationError(f"A time is written like 2026-01-31 or 2026-01-31T07:30; found {text!r}.") from None
    return int((at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp() * 1_000_000)


@audit_app.command("list")
def audit_list(
    patient: Annotated[int | None, typer.Option("--patient", help="Only what concerned this patient number.")] = None,
    agent: Annotated[str | None, typer.Option("--agent", help="Only of this agent: `issuer|subject`.")] = None,
    surface: Annotated[str | None, typer.Option("--surface", help="Only on this surface.")] = None,
    outcome: Annotated[str | None, typer.Option("--outcome", help="permitted, denied or failed.")] = None,
    since: Annotated[str | None, typer.Option("--since", help="From this time on (UTC unless it says).")] = None,
    until: Annotated[str | None, typer.Option("--until", help="Before this time.")] = None,
    limit: Annotated[int, typer.Option("--limit", min=1, max=100_000)] = 50,
    data_dir: DataDirOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show events, the newest first."""
    from stores.ledger import detail_of

    if outcome not in {None, "permitted", "denied", "failed"}:
        raise ConfigurationError(f"--outcome is permitted, denied or failed; found {outcome!r}.")

    async def question(settings: Settings) -> list[Event]:
        from governance.access import Surface, Verb
        from orchestration.operator_gate import require
        from orchestration.storage import connection
        from stores import access, audit_log, database

        wanted: Outcome | None = outcome  # type: ignore[assignment]  # checked above
        asked = detail_of(agent=agent, surface=surface, outcome=outcome, since=since, until=until, limit=limit)
        await require(settings, Surface.AUDIT, Verb.SEARCH, patient_id=patient, detail=asked)
        async with connection(settings, "audit list") as connected, database.consistent_read(connected):
            return await audit_log.find(
                connected,
                patient_ids=None if patient is None else await access.records_of(connected, patient),
                agent=agent,
                surface=surface,
                outcome=wanted,
                since_us=_since(since),
                until_us=_since(until),
                limit=limit,
            )

    events = _ask(data_dir, question)
    if as_json:
        typer.echo(json.dumps([_record(event) for event in events]))
    else:
        _show_list(events)


def _record(event: Event) -> dict[str, Any]:
    return {
        "writer": event.writer,
        "seq": event.seq,
        "at": _at(event.entry.at_us),
        **msgspec.structs.asdict(event.entry),
        "hash": event.hash.hex(),
    }


def _show_list(events: Sequence[Event]) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = Console()
    if not console.is_terminal:
        console.width = 180
    if not events:
        console.print("No event is like that.")
        return
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for heading in ("event", "at (UTC)", "outcome", "surface", "verb", "patient", "who", "role", "rule"):
        table.add_column(heading, no_wrap=heading in {"event", "at (UTC)", "outcome"}, overflow="fold")
    for event in events:
        entry = event.entry
        table.add_row(
            f"{event.writer} {event.seq}",
            _at(entry.at_us),
            f"[red]{entry.outcome}[/]" if entry.outcome != "permitted" else entry.outcome,
            *(
                escape("".join(character if character.isprintable() else "·" for character in text))
                for text in (
                    entry.surface,
                    entry.verb,
                    "" if entry.patient_id is None else str(entry.patient_id),
                    entry.agent_name or entry.agent,
                    entry.role,
                    entry.rule,
                )
            ),
        )
    console.print(table)


@audit_app.command("show")
def audit_show(
    writer: str,
    seq: int,
    proof: Annotated[
        bool, typer.Option("--proof", help="With the proof that it is under its day's signed root.")
    ] = False,
    fhir: Annotated[bool, typer.Option("--fhir", help="As a FHIR AuditEvent (IHE BALP).")] = False,
    data_dir: DataDirOption = None,
) -> None:
    """Print one event as JSON."""

    async def question(settings: Settings) -> dict[str, Any]:
        from governance import daily_roots, notary
        from governance.access import Surface, Verb
        from governance.audit import as_fhir
        from governance.inclusion import is_proven, prove
        from orchestration.operator_gate import require
        from orchestration.storage import connection
        from stores import audit_log, database
        from stores.ledger import detail_of

        await require(settings, Surface.AUDIT, Verb.READ, detail=detail_of(writer=writer, seq=seq))
        async with connection(settings, "audit show") as connected:
            async with database.consistent_read(connected):
                event = await audit_log.get(connected, writer, seq)
            if event is None:
                raise ConfigurationError(f"There is no event {seq} of {writer}. See `vigil audit list`.")
            if fhir:
                return as_fhir(event.entry, seq, writer, settings.site)
            record = _record(event)
            if proof:
                roots, _ = daily_roots.read(notary.roots_dir(settings.anchors_dir))
                found = await prove(connected, roots, audit_log.AUDIT, writer, seq)
                keys = notary.read_keys(settings.anchors_dir)
                record["proof"] = _proof_record(found)
                record["is_proven"] = found is not None and keys is not None and is_proven(found, keys.notary)
            return record

    shown = _ask(data_dir, question)
    typer.echo(json.dumps(shown, indent=2, ensure_ascii=False))
    if proof and shown.get("proof") is None and not fhir:
        typer.echo("Its day has no signed root yet: roots are signed after midnight UTC.", err=True)
    elif proof and not fhir and not shown["is_proven"]:
        typer.echo("The proof does NOT hold: run `vigil verify`.", err=True)
        raise typer.Exit(1)


def _proof_record(proof: Proof | None) -> Any:  # noqa: ANN401 - what json.dumps takes
    return None if proof is None else msgspec.to_builtins(proof)


@audit_app.command("export")
def audit_export(
    to: Annotated[Path, typer.Option("--to", help="A new folder.")],
    data_dir: DataDirOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write the audit log and the ledger with all signed roots and public keys; `vigil verify --from` checks it."""

    async def question(settings: Settings) -> dict[str, int]:
        from governance.access import Surface, Verb
        from governance.audit_export import export
        from orchestration.operator_gate import require
        from orchestration.storage import connection

        await require(settings, Surface.AUDIT, Verb.EXPORT)
        async with connection(settings, "audit export") as connected:
            return await export(connected, settings.anchors_dir, to)

    rows = _ask(data_dir, question)
    if as_json:
        typer.echo(json.dumps(rows))
    else:
        typer.echo(f"{to}: " + ", ".join(f"{count:,} rows of {table}" for table, count in rows.items()))


@audit_app.command("root")
def audit_root(
    day: Annotated[str | None, typer.Argument(metavar="[DAY]", help="YYYY-MM-DD; without it, all.")] = None,
    sign: Annotated[bool, typer.Option("--sign", help="First sign the finished days that have no root yet.")] = False,
    data_dir: DataDirOption = None,
) -> None:
    """Print the signed daily roots, one JSON line a day: what to hand to somebody outside as a witness."""
    wanted = _day(day)

    async def question(settings: Settings) -> list[RootFile]:
        from governance import daily_roots, notary
        from orchestration.storage import connection
        from vocabulary.clock import SystemClock

        if sign:
            async with connection(settings, "audit root") as connected:
                await notary.sign_due_days(connected, settings, SystemClock())
        return daily_roots.read(notary.roots_dir(settings.anchors_dir))[0]

    for file in _ask(data_dir, question):
        root = file.signed.signed
        if wanted in {None, root.day}:
            said = {"day": root.day.isoformat(), "rows": root.size, "root": root.root, "file_sha256": file.digest}
            typer.echo(json.dumps(said | {"faults": root.faults, "signed_at": _at(root.signed_at_us)}))


def _day(text: str | None) -> date | None:
    try:
        return None if text is None else date.fromisoformat(text)
    except ValueError:
        raise ConfigurationError(f"A day is written like 2026-01-31; found {text!r}.") from None
