"""`vigil access`: the policy, who looked at a patient, what waits for review, consent.

Here: the commands. Each asks the gate first, as the operator, and so leaves an event.
Not here: the decision (governance.access), the gate (governance.gate), the audit's own commands
(orchestration.audit_commands).
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Coroutine, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

import msgspec
import typer

from vocabulary.errors import ConfigurationError, RefusedError

if TYPE_CHECKING:
    from rich.console import Console

    from governance.access import Principal
    from stores.access import BrokenGlass, Consent
    from stores.audit_log import Event
    from vocabulary.settings import Settings

access_app = typer.Typer(help="Who may see what, and who did.", no_args_is_help=True)

T = TypeVar("T")

FILE_WIDTH = 180

DataDirOption = Annotated[
    Path | None,
    typer.Option(
        "--data-dir", help="Where the services keep everything; wins over VIGIL_DATA_DIR.", show_default=False
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document and nothing else on stdout.")]
PatientArgument = Annotated[int, typer.Argument(metavar="PATIENT_ID", help="Our own number of the patient.")]


def operator_principal() -> Principal:
    """Return the person at this machine's command line, as the operating system knows them."""
    from orchestration.operator_audit import operator

    return operator()


def _ask(data_dir: Path | None, question: Callable[[Settings], Coroutine[Any, Any, T]]) -> T:
    from orchestration.storage import load_settings, reachable

    with reachable(load_settings(data_dir)) as complete:
        return asyncio.run(question(complete))


def _console() -> Console:
    from rich.console import Console

    console = Console()
    if not console.is_terminal:
        console.width = FILE_WIDTH
    return console


def _at(at_us: int | None) -> str:
    return "" if at_us is None else datetime.fromtimestamp(at_us / 1_000_000, UTC).strftime("%Y-%m-%d %H:%M:%S")


def _plain(text: str) -> str:
    from rich.markup import escape

    return escape("".join(character if character.isprintable() else "·" for character in text))


@access_app.command("policy")
def access_policy(
    is_markdown: Annotated[bool, typer.Option("--markdown", help="As the page docs/policy.md.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Print the policy table: who may see or do what. Needs nothing that runs."""
    from governance.access import Policy
    from governance.policy_page import HEADINGS, cells, markdown

    policy = Policy.load()
    if is_markdown:
        typer.echo(markdown(policy), nl=False)
    elif as_json:
        typer.echo(json.dumps({"digest": policy.digest, "rows": msgspec.to_builtins(policy.rows())}))
    else:
        console = _console()
        _print_table(console, HEADINGS, [cells(row) for row in policy.rows()])
        console.print(f"\nWhat no row permits is denied. Digest {policy.digest[:16]}.")


@access_app.command("who")
def access_who(
    patient_id: PatientArgument,
    limit: Annotated[int, typer.Option("--limit", min=1, max=100_000, help="How many events, newest first.")] = 200,
    data_dir: DataDirOption = None,
    as_json: JsonOption = False,
) -> None:
    """List who looked at a patient or tried to, newest first: a line a person and rule. Is itself an event."""
    events = _ask(data_dir, lambda settings: who_looked(settings, patient_id, limit))
    if as_json:
        typer.echo(json.dumps([msgspec.to_builtins(event.entry) for event in events]))
        return
    console = _console()
    if not events:
        console.print("Nobody did, as far as the audit goes.")
        return
    headings = ("who", "role", "surface", "verb", "purpose", "outcome", "rule", "times", "first (UTC)", "last (UTC)")
    _print_table(console, headings, _by_person(events))


async def who_looked(settings: Settings, patient_id: int, limit: int) -> list[Event]:
    """Return the events that name any of a person's records, newest first.

    Raises:
        RefusedError: the policy does not let operators ask, or nobody has this number.
    """
    from governance.access import Ask, Purpose, Surface, Verb, refused
    from orchestration.operator_gate import operator_gate
    from stores import access, audit_log

    async with operator_gate(settings) as gate:
        ask = Ask(surface=Surface.AUDIT, verb=Verb.SEARCH, purpose=Purpose.ADMINISTRATION, patient_id=patient_id)
        if not (await gate.ask(operator_principal(), ask)).is_permitted:
            raise refused()
        found: list[Event] = []
        async with gate.pool.reading() as connection:
            for record in await access.records_of(connection, patient_id):
                found += await audit_log.find(connection, patient_ids=[record], limit=limit)
    return sorted(found, key=lambda event: (-event.entry.at_us, event.writer, -event.seq))[:limit]


def _by_person(events: Sequence[Event]) -> list[tuple[str, ...]]:
    groups: dict[tuple[str, ...], list[int]] = {}
    for event in events:
        entry = event.entry
        who = f"{entry.agent_name} ({entry.agent})" if entry.agent_name else entry.agent
        key = (who, entry.role, entry.surface, entry.verb, entry.purpose, entry.outcome, entry.rule)
        groups.setdefault(key, []).append(entry.at_us)
    return [(*key, str(len(times)), _at(min(times)), _at(max(times))) for key, times in groups.items()]


@access_app.command("reviews")
def access_reviews(data_dir: DataDirOption = None, as_json: JsonOption = False) -> None:
    """List broken glasses that wait for review. Reasons are people's own words and may hold patient data."""
    glasses = _ask(data_dir, waiting_reviews)
    if as_json:
        typer.echo(json.dumps([_glass_record(glass) for glass in glasses]))
        return
    console = _console()
    if not glasses:
        console.print("Nothing waits for review.")
        return
    headings = ("glass", "opened (UTC)", "closes (UTC)", "who", "role", "patient", "reason", "told")
    _print_table(console, headings, [_glass_line(glass) for glass in glasses])
    console.print("\nThe safety officer or the data-protection officer reviews them on the page Reviews.")


async def waiting_reviews(settings: Settings) -> list[BrokenGlass]:
    """Return the glasses nobody has reviewed, oldest first.

    Raises:
        RefusedError: the policy does not let operators see them.
    """
    from governance.access import Ask, Purpose, Surface, Verb, refused
    from orchestration.operator_gate import operator_gate

    async with operator_gate(settings) as gate:
        ask = Ask(surface=Surface.REVIEW, verb=Verb.READ, purpose=Purpose.ADMINISTRATION)
        if not (await gate.ask(operator_principal(), ask)).is_permitted:
            raise refused()
        return await gate.pending_reviews(operator_principal())


def _glass_record(glass: BrokenGlass) -> dict[str, Any]:
    record = msgspec.structs.asdict(glass)
    del record["reason_salt"]
    return record


def _glass_line(glass: BrokenGlass) -> tuple[str, ...]:
    told = _at(glass.delivered_at_us) or (
        f"failed {glass.attempts}×: {glass.last_fault}" if glass.last_fault else "page"
    )
    return (
        str(glass.break_glass_id), _at(glass.opened_at_us), _at(glass.expires_at_us), glass.agent_name or glass.agent,
        glass.role, str(glass.patient_id), glass.reason, told,
    )  # fmt: skip


@access_app.command("review")
def access_review(
    break_glass_id: Annotated[int, typer.Argument(metavar="GLASS", help="Number of a broken glass.")],
) -> None:
    """Say who reviews a broken glass: not whoever has this machine."""
    raise RefusedError(
        f"Broken glass {break_glass_id} cannot be reviewed here: a review needs a signed-in person with the role of "
        "safety officer or data-protection officer, other than whoever broke it. Open the page Reviews."
    )


@access_app.command("consent")
def access_consent(
    patient_id: PatientArgument,
    scope: Annotated[
        str | None, typer.Option("--scope", help="secondary (quality, research, export) or sharing.")
    ] = None,
    is_permitted: Annotated[
        bool | None, typer.Option("--permit/--deny", help="What the patient decided.", show_default=False)
    ] = None,
    vip: Annotated[
        bool | None,
        typer.Option("--vip/--no-vip", help="Shield this patient, or no longer; what ADT says stands beside it."),
    ] = None,
    by: Annotated[str, typer.Option("--by", help="Member of staff who took it down; stands in the audit.")] = "",
    data_dir: DataDirOption = None,
    as_json: JsonOption = False,
) -> None:
    """Record what a patient decided (--scope with --permit or --deny, or --vip), or show all that was recorded."""
    if scope not in {None, "secondary", "sharing"}:
        raise typer.BadParameter("expected secondary or sharing", param_hint="--scope")
    if (scope is None) != (is_permitted is None):
        raise typer.BadParameter("--scope goes with --permit or --deny")
    if scope is not None and vip is not None:
        raise typer.BadParameter("record consent and a VIP flag one after the other")
    change: Change | None = None
    if scope is not None or vip is not None:
        if len(by.split()) < 1 or len(by.strip()) < 2:
            raise ConfigurationError(
                "Say which member of staff took it down: --by NAME. It stands in the record and in the audit."
            )
        kept: Literal["secondary", "sharing", "vip"] = "vip" if scope is None else scope  # type: ignore[assignment]
        change = Change(kept, bool(is_permitted if vip is None else vip), by.strip())
    consents, is_vip = _ask(data_dir, lambda settings: keep_consent(settings, patient_id, change))
    if as_json:
        typer.echo(json.dumps({"is_vip": is_vip, "consents": [msgspec.to_builtins(consent) for consent in consents]}))
        return
    console = _console()
    console.print("Shielded as a VIP." if is_vip else "Not shielded as a VIP.")
    if not consents:
        console.print("No consent was recorded: nothing is refused.")
        return
    headings = ("record", "scope", "decision", "at (UTC)", "decided by", "recorded by")
    lines = [
        (
            str(consent.patient_id), consent.scope, "permitted" if consent.is_permitted else "refused",
            _at(consent.decided_at_us), consent.decided_by, consent.recorded_by,
        )
        for consent in consents
    ]  # fmt: skip
    _print_table(console, headings, lines)


class Change(msgspec.Struct, frozen=True):
    """What is to be recorded of a patient."""

    kept: Literal["secondary", "sharing", "vip"]
    is_so: bool
    decided_by: str


async def keep_consent(settings: Settings, patient_id: int, change: Change | None) -> tuple[list[Consent], bool]:
    """Record a decision of a patient, for all records that are this person's, and return what is so now.

    Args:
        settings: with addresses that answer.
        patient_id: any of the person's records.
        change: what to record; None only reads.

    Returns:
        Every decision about consent, oldest first, and whether the patient is shielded (by ADT or by hand).

    Raises:
        RefusedError: the policy does not let operators do so, or nobody has this number.
    """
    from governance.access import Ask, Purpose, Surface, Verb, refused
    from governance.consent import record
    from orchestration.operator_gate import operator_gate
    from stores import access

    principal = operator_principal()
    async with operator_gate(settings) as gate:
        if change is not None:
            await record(gate, principal, patient_id, change.kept, is_so=change.is_so, decided_by=change.decided_by)
        else:
            ask = Ask(surface=Surface.PRIVACY, verb=Verb.READ, purpose=Purpose.ADMINISTRATION, patient_id=patient_id)
            if not (await gate.ask(principal, ask)).is_permitted:
                raise refused()
        facts = (await gate.facts(principal, [patient_id])).get(patient_id)
        async with gate.pool.reading() as connection:
            consents = await access.consents(connection, await access.records_of(connection, patient_id))
        return consents, facts is not None and facts.is_vip


def _print_table(console: Console, headings: Sequence[str], lines: Sequence[Sequence[str]]) -> None:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for index, heading in enumerate(headings):
        table.add_column(heading, overflow="fold", no_wrap=index == 0)
    for line in lines:
        table.add_row(*(_plain(text) for text in line))
    console.print(table)
