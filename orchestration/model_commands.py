"""`vigil train | models | approve | reject | promote | rollback | live-at | incidents`: a model's way, typed.

Here: arguments, questions, what is printed.
Not here: the acts (orchestration.committee), training and its report (orchestration.training_report), the graph that
makes a candidate (orchestration.candidate).
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Coroutine
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import msgspec
import typer

from orchestration import model_words as words
from orchestration.signer_commands import PassphraseOption, passphrase
from vocabulary.errors import ConfigurationError

if TYPE_CHECKING:
    from rich.console import Console

    from governance.approvals import RequestState
    from governance.statements import ServingRow, Slot
    from vocabulary.settings import Settings

T = TypeVar("T")

incidents_app = typer.Typer(help="What went wrong with models in service.", no_args_is_help=True)

DataDirOption = Annotated[
    Path | None,
    typer.Option(
        "--data-dir", help="Where the services keep everything; wins over VIGIL_DATA_DIR.", show_default=False
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document and nothing else on stdout.")]
RequestArgument = Annotated[
    str, typer.Argument(metavar="REQUEST", help="The request's number, or a version like mortality@3: its newest one.")
]
KeyOption = Annotated[Path, typer.Option("--key", exists=True, dir_okay=False, help="Your own key file.")]
RoleOption = Annotated[str | None, typer.Option("--role", help="The role you act in, where you have several.")]
ScopeArgument = Annotated[str, typer.Argument(metavar="SCOPE", help="What the model speaks about.")]
SlotOption = Annotated[str, typer.Option("--slot", help="champion, or silent.")]


def register(app: typer.Typer, epilog: str) -> None:
    """Add these commands to `vigil`; `epilog` says what exit statuses mean."""
    for name, function in (
        ("train", train),
        ("models", list_models),
        ("approve", approve),
        ("reject", reject),
        ("promote", promote),
        ("rollback", roll_back),
        ("live-at", live_at),
    ):
        app.command(name, epilog=epilog)(function)
    app.add_typer(incidents_app, name="incidents", epilog=epilog)


def _now() -> datetime:
    return datetime.now(UTC)


def _console() -> Console:
    from orchestration.cli import _console as console

    return console()


def _ask(data_dir: Path | None, question: Any) -> Any:  # noqa: ANN401 - whatever the question answers
    from orchestration.storage import load_settings, reachable

    with reachable(load_settings(data_dir)) as settings:
        found: Coroutine[Any, Any, Any] = question(settings)
        return asyncio.run(found)


def _slot(text: str) -> Slot:
    from governance.statements import Slot

    try:
        return Slot(text)
    except ValueError:
        raise ConfigurationError(f"--slot {text}: expected champion or silent.") from None


def train(
    scope: Annotated[str, typer.Argument(metavar="SCOPE", help="What to predict: mortality.")],
    cohort: Annotated[
        Path, typer.Option("--from", exists=True, help="A folder of the PhysioNet 2012 challenge, or of its format.")
    ],
    register_it: Annotated[
        bool, typer.Option("--register", help="Make a candidate of it: train, judge, register, ask for approval.")
    ] = False,
    repeats: Annotated[
        int, typer.Option(min=1, max=20, help="Repeats of cross-validation, each with other folds.")
    ] = 5,
    author: Annotated[
        str,
        typer.Option(
            help="Who makes the model, `issuer|subject`: may not approve it. Default: you.", show_default=False
        ),
    ] = "",
    slot: Annotated[
        str, typer.Option(help="What is asked for with --register: silent, to listen; champion, to speak.")
    ] = "silent",
    waive: Annotated[
        list[str] | None, typer.Option(help="Requirements to be signed away: sites, silent_period (demonstrations).")
    ] = None,
    data_dir: DataDirOption = None,
    as_json: JsonOption = False,
) -> None:
    """Measure how well a model can be learned from a cohort; with --register, make a candidate and ask for approval.

    Without --register nothing is kept: cross-validation with nested tuning, folds by a hash of the record number,
    mean and standard error over repeats, beside other methods on the same folds.
    """
    from orchestration.committee import SCOPE

    if scope != SCOPE:
        raise ConfigurationError(f"There is no model of {scope!r} here: expected {SCOPE}.")
    if not register_it:
        from orchestration import training_report

        training_report.run(cohort, repeats, _console(), as_json=as_json)
        return
    from orchestration import registering
    from orchestration.learning import as_learner
    from orchestration.storage import load_settings, reachable

    settings = load_settings(data_dir)
    with reachable(settings) as complete:
        asyncio.run(registering.permitted(complete))
        learner = as_learner(settings, complete)
        if not registering.run(learner, cohort, author, _slot(slot), waive or [], _console(), as_json=as_json):
            raise typer.Exit(1)


def list_models(
    scope: Annotated[str, typer.Argument(metavar="SCOPE")] = "mortality",
    data_dir: DataDirOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show versions, what was judged of them, requests for approval, what serves, and incidents."""
    from orchestration import committee

    found = _ask(data_dir, lambda settings: committee.picture(settings, scope, _now()))
    if as_json:
        typer.echo(json.dumps(words.picture_record(found)))
    else:
        words.show_picture(found, scope, _console())


def approve(
    request: RequestArgument,
    key: KeyOption,
    role: RoleOption = None,
    passphrase_file: PassphraseOption = None,
    print_it: Annotated[
        bool, typer.Option("--print", help="Only print the signature, for the committee's page; hand nothing in.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="You have read the dossier; do not ask again.")] = False,
    data_dir: DataDirOption = None,
    as_json: JsonOption = False,
) -> None:
    """Sign a request for approval with your own key, after reading what you sign."""
    from governance.access import Role
    from orchestration import committee

    async def act(settings: Settings) -> RequestState | None:
        now = _now()
        asked = await committee.find_request(settings, request)
        secret = passphrase(passphrase_file, is_new=False)
        chosen = None if role is None else _role(role)
        signer = committee.open_signer(settings, key, secret, chosen, _slot(asked.slot), now)
        statement, signature = committee.signature_of(asked, signer, now)
        if not as_json and not print_it:
            words.show_statement(statement)
        if not yes and not print_it and not typer.confirm("Sign this?"):
            return None
        if print_it:
            typer.echo(msgspec.json.encode(signature).decode())
            return None
        return await committee.approve(settings, asked, signer, _now())

    def _role(text: str) -> Role:
        try:
            return Role(text)
        except ValueError:
            raise ConfigurationError(f"--role {text}: there is no such role.") from None

    state = _ask(data_dir, act)
    if state is not None:
        words.tell_state(state, as_json=as_json)


def reject(
    request: RequestArgument,
    key: KeyOption,
    reason: Annotated[str, typer.Option("--reason", help="Why; others learn from it.")],
    role: RoleOption = None,
    passphrase_file: PassphraseOption = None,
    data_dir: DataDirOption = None,
    as_json: JsonOption = False,
) -> None:
    """End a request for approval with a reason. One person who may sign suffices."""
    from governance.access import Role
    from orchestration import committee

    async def act(settings: Settings) -> RequestState:
        asked = await committee.find_request(settings, request)
        secret = passphrase(passphrase_file, is_new=False)
        chosen = None if role is None else Role(role)
        signer = committee.open_signer(settings, key, secret, chosen, _slot(asked.slot), _now())
        return await committee.reject(settings, asked, signer, reason, _now())

    words.tell_state(_ask(data_dir, act), as_json=as_json)


def promote(
    request: RequestArgument,
    ask: Annotated[
        bool, typer.Option("--ask", help="Open a request for this version (mortality@3) instead of promoting by one.")
    ] = False,
    slot: SlotOption = "champion",
    waive: Annotated[list[str] | None, typer.Option(help="With --ask: requirements to be signed away.")] = None,
    data_dir: DataDirOption = None,
    as_json: JsonOption = False,
) -> None:
    """Let the version of a completely signed request serve; with --ask, open the request."""
    from orchestration import committee

    if ask:
        scope, _, number = request.partition("@")
        if not number.isdigit():
            raise ConfigurationError("With --ask name a version, like mortality@3.")
        made = _ask(
            data_dir,
            lambda settings: committee.ask_for(settings, scope, int(number), _slot(slot), waive or [], _now()),
        )
        typer.echo(json.dumps({"request": made.request_id}) if as_json else f"Request {made.request_id} is open.")
        return

    async def act(settings: Settings) -> ServingRow:
        return await committee.promote(settings, await committee.find_request(settings, request), _now())

    words.tell_row(_ask(data_dir, act), as_json=as_json)


def roll_back(
    scope: ScopeArgument,
    reason: Annotated[str, typer.Option("--reason", help="Why, for the record; no patient's data.")],
    action: Annotated[
        str,
        typer.Option(
            "--to",
            help="restore: the last approved version, or NEWS2; abstain: silence; clamp: no attention; "
            "withdraw: no model; resume: end a silence or clamp.",
        ),
    ] = "restore",
    slot: SlotOption = "champion",
    data_dir: DataDirOption = None,
    as_json: JsonOption = False,
) -> None:
    """Take a model's voice away at once. One person suffices; nothing but the database is needed."""
    from governance.statements import Action
    from orchestration import committee

    try:
        chosen = Action(action)
    except ValueError:
        raise ConfigurationError(f"--to {action}: expected restore, abstain, clamp, withdraw or resume.") from None
    row = _ask(data_dir, lambda settings: committee.command(settings, scope, chosen, _slot(slot), reason, _now()))
    words.tell_row(row, as_json=as_json)


def live_at(
    scope: ScopeArgument,
    at: Annotated[str, typer.Argument(metavar="TIME", help="ISO 8601, e.g. 2026-11-24T08:30 (UTC without an offset).")],
    data_dir: DataDirOption = None,
    as_json: JsonOption = False,
) -> None:
    """Tell which model served at a moment, by whose signatures, and why."""
    from orchestration import committee

    try:
        moment = datetime.fromisoformat(at)
    except ValueError:
        raise ConfigurationError(f"{at}: expected a time like 2026-11-24T08:30.") from None
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    slots, _ = _ask(data_dir, lambda settings: committee.live_at(settings, scope, moment, _now()))
    if as_json:
        typer.echo(json.dumps({str(slot): words.held_record(held) for slot, held in slots.items()}))
        return
    for slot, held in slots.items():
        typer.echo(f"{slot}: {words.held_words(held)}")


@incidents_app.command("list")
def incidents_list(
    every: Annotated[bool, typer.Option("--all", help="Also those that were closed.")] = False,
    data_dir: DataDirOption = None,
    as_json: JsonOption = False,
) -> None:
    """List incidents of models in service, newest first."""
    from orchestration import committee

    found = _ask(data_dir, lambda settings: committee.open_incidents(settings, is_open=None if every else True))
    if as_json:
        typer.echo(json.dumps(msgspec.to_builtins(found)))
        return
    for one in found:
        state = "open" if one.closed_at_us is None else f"closed by {one.closed_by}: {one.closing_note}"
        reaction = one.reaction or "nothing"
        typer.echo(f"{one.incident_id}  {words.at(one.at_us)}  {one.scope} {one.cause} → {reaction}  ({state})")
        typer.echo(f"    {one.statement}")
    if not found:
        typer.echo("No incident." if every else "No open incident.")


@incidents_app.command("close")
def incidents_close(
    incident: Annotated[int, typer.Argument(metavar="INCIDENT")],
    note: Annotated[str, typer.Option("--note", help="What was found; no patient's data.")],
    data_dir: DataDirOption = None,
) -> None:
    """Close an incident with what was found. The model does not speak again by this: see promote and rollback."""
    from orchestration import committee

    _ask(data_dir, lambda settings: committee.close_incident(settings, incident, note, _now()))
    typer.echo(f"Incident {incident} is closed.")
