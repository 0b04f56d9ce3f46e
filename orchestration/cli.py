"""The `vigil` command: what an operator types.

Here: arguments, help, exit statuses.
Not here: the work of each command (its module beside this one), which is imported only when it is asked for.
"""

from __future__ import annotations

import asyncio
import errno
import json
import os
import sys
from collections.abc import Callable, Coroutine
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

import typer

from orchestration.access_commands import access_app
from orchestration.audit_commands import audit_app
from orchestration.certificates_commands import certificates_app
from orchestration.keys_commands import keys_app
from orchestration.model_commands import register as register_models
from orchestration.signer_commands import register as register_signers
from vocabulary.errors import ConfigurationError, UnavailableError, VigilError

if TYPE_CHECKING:
    from rich.console import Console

    from vocabulary.settings import Settings

OK, PROBLEM, UNUSABLE, UNAVAILABLE = 0, 1, 2, 3

FILE_WIDTH = 140
"""Columns of what is printed to a file or another program, which have no width of their own."""

EPILOG = (
    "Exit status: 0 all is well; 1 a problem was found (a remainder in the ledger, a replay that differs, a service "
    "that is not well); 2 wrong usage or configuration; 3 not available (nothing runs, a server does not answer)."
)

app = typer.Typer(
    name="vigil",
    help="Vigil: a living, governed twin of every patient in a hospital. It informs; it is not a primary alarm.",
    epilog=EPILOG,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,  # its traceback shows local variables, which may hold patients' data
)
quarantine_app = typer.Typer(help="What was not accepted, why, and settling it.", no_args_is_help=True, epilog=EPILOG)
app.add_typer(quarantine_app, name="quarantine")
app.add_typer(audit_app, name="audit")
app.add_typer(access_app, name="access")
app.add_typer(keys_app, name="keys")
app.add_typer(certificates_app, name="certificates")
register_signers(keys_app)

DataDirOption = Annotated[
    Path | None,
    typer.Option(
        "--data-dir", help="Where the services keep everything; wins over VIGIL_DATA_DIR.", show_default=False
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document and nothing else on stdout.")]


def _settings(data_dir: Path | None) -> Settings:
    from orchestration.storage import load_settings

    return load_settings(data_dir)


T = TypeVar("T")


def _ask(data_dir: Path | None, question: Callable[[Settings], Coroutine[Any, Any, T]]) -> T:
    """Answer a question of the database and the bus, which are started for it when nothing runs."""
    from orchestration.storage import reachable

    with reachable(_settings(data_dir)) as complete:
        return asyncio.run(question(complete))


def _console(is_for_errors: bool = False) -> Console:
    from rich.console import Console

    console = Console(stderr=is_for_errors)
    if not console.is_terminal:
        console.width = FILE_WIDTH
    return console


@app.command(epilog=EPILOG)
def up(data_dir: DataDirOption = None) -> None:
    """Start everything and keep it running until Ctrl-C or `vigil down`.

    PostgreSQL and nats-server run from this environment's own binaries, under the data directory, on loopback, unless
    VIGIL_DATABASE_URL or VIGIL_NATS_URL names others. A second `up` resumes on the same addresses.
    """
    from orchestration import status as work

    work.up(_settings(data_dir), _console())


@app.command(epilog=EPILOG)
def down(data_dir: DataDirOption = None) -> None:
    """Stop what runs, in reverse order; also ends what a killed `up` left behind."""
    from orchestration import status as work

    work.down(_settings(data_dir), _console())


@app.command(epilog=EPILOG)
def status(data_dir: DataDirOption = None, as_json: JsonOption = False) -> None:
    """Show every service's address and health."""
    from orchestration import status as work

    if not work.status(_settings(data_dir), _console(), as_json):
        raise typer.Exit(PROBLEM)


@app.command(epilog=EPILOG)
def demo(
    beds: Annotated[int, typer.Option(min=1, max=500, help="Beds of the synthetic ward.")] = 16,
    minutes: Annotated[
        int, typer.Option(min=1, max=10_080, help="Minutes of the ward's time to play before the table is shown.")
    ] = 180,
    seed: Annotated[int, typer.Option(help="Chooses the patients and what befalls them.")] = 7,
    speed: Annotated[
        float | None,
        typer.Option(min=1, help="How much faster than real the ward's time runs; default: played in about a minute."),
    ] = None,
    recorded: Annotated[
        Path | None,
        typer.Option(
            "--from", exists=True, help="Play recorded stays instead: a folder of the PhysioNet 2012 challenge."
        ),
    ] = None,
    stays: Annotated[int, typer.Option(min=1, max=4_000, help="How many recorded stays to play (with --from).")] = 48,
    model: Annotated[
        bool,
        typer.Option(
            "--model/--no-model",
            help="First train a model, judge it, have two demonstration people sign, and let it speak.",
        ),
    ] = True,
    leave: Annotated[
        bool, typer.Option("--exit", help="Stop everything afterwards; 0 only if nothing is missing.")
    ] = False,
    data_dir: DataDirOption = None,
    as_json: JsonOption = False,
) -> None:
    """Start everything in a data directory of its own and play a ward over real sockets.

    Shows the ward as the twins see it and where to look. Everything a demonstration keeps lies in the folder `demo`
    below the data directory, and is made anew each time. No real patient's data belongs there.
    """
    from orchestration import demo as work

    plan = work.Plan(beds, minutes, seed, speed, recorded, stays, leave, as_json, model)
    if not work.demo(_settings(data_dir), plan, _console(), _console(is_for_errors=True)):
        raise typer.Exit(PROBLEM)


@app.command(epilog=EPILOG)
def replay(
    snapshot_ids: Annotated[list[str] | None, typer.Argument(metavar="[SNAPSHOT_ID]...", show_default=False)] = None,
    sample: Annotated[int, typer.Option(min=0, help="Replay this many published snapshots, chosen at random.")] = 0,
    seed: Annotated[int, typer.Option(help="Chooses the sample.")] = 1,
    data_dir: DataDirOption = None,
    as_json: JsonOption = False,
) -> None:
    """Rebuild published snapshots from what was kept, and compare them bit for bit with what was published."""
    from orchestration import replay as work

    if not snapshot_ids and not sample:
        raise typer.BadParameter("name a SNAPSHOT_ID, or give --sample N")
    errors = _console(is_for_errors=True)
    outcomes = _ask(
        data_dir, lambda settings: work.replay(settings, snapshot_ids or [], sample, seed, errors, not as_json)
    )
    if as_json:
        typer.echo(json.dumps(work.as_record(outcomes)))
    else:
        work.show(outcomes, _console())
    if not all(outcome.is_same for outcome in outcomes):
        raise typer.Exit(PROBLEM)


@app.command(epilog=EPILOG)
def verify(
    data_dir: DataDirOption = None,
    deep: Annotated[
        bool,
        typer.Option("--deep", help="Also count every message in RAW and its sealed files, and check every signature."),
    ] = False,
    exported: Annotated[
        Path | None,
        typer.Option(
            "--from", exists=True, file_okay=False, help="Check what `vigil audit export` wrote; needs no database."
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Check the ledger and the audit: nothing vanished, no row was altered, every count has its items.

    received = accepted + duplicate + quarantined + rejected + shed + pending, per message and per value.
    """
    from orchestration import verify as work

    if exported is not None:
        finding = asyncio.run(work.verify_folder(exported))
        if as_json:
            typer.echo(json.dumps(work.finding_as_record(finding)))
        else:
            work.show_finding(finding, _console())
        if not finding.is_whole:
            raise typer.Exit(PROBLEM)
        return
    verdict = _ask(data_dir, partial(work.verify, is_deep=deep))
    if as_json:
        typer.echo(json.dumps(work.as_record(verdict)))
    else:
        work.show(verdict, _console())
    if not verdict.is_sound:
        raise typer.Exit(PROBLEM)


@app.command(epilog=EPILOG)
def feeds(data_dir: DataDirOption = None, as_json: JsonOption = False) -> None:
    """Show what each sending system is doing: address, last heard, clock, counts."""
    from orchestration import feeds as work

    async def question(settings: Settings) -> tuple[list[work.FeedLine], str]:
        return await work.feed_lines(settings), work.trouble(settings)

    lines, why_blocked = _ask(data_dir, question)
    if as_json:
        typer.echo(json.dumps(work.as_record(lines)))
    else:
        work.show(lines, _console(), why_blocked)


@app.command(epilog=EPILOG)
def dagster(data_dir: DataDirOption = None) -> None:
    """Open Dagster beside a running Vigil: feeds and snapshots as assets, the ledger as a check. Ctrl-C ends it."""
    from orchestration import dagster_home as work

    command, environment = asyncio.run(work.prepare(_settings(data_dir)))
    typer.echo(f"Dagster: http://{command[-3]}:{command[-1]}/ (in about 15 s)")
    os.chdir(environment["DAGSTER_HOME"])
    os.execve(command[0], command, environment)  # noqa: S606 — our own interpreter, no shell


@quarantine_app.command("list", epilog=EPILOG)
def quarantine_list(
    state: Annotated[str, typer.Option(help="open, released, discarded or all.")] = "open",
    reason: Annotated[str | None, typer.Option(help="Only this reason, e.g. unknown_unit.")] = None,
    feed: Annotated[str | None, typer.Option(help="Only this feed.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=100_000, help="How many, newest first.")] = 50,
    data_dir: DataDirOption = None,
    as_json: JsonOption = False,
) -> None:
    """List what was not accepted, newest first, with counts by reason. Shows patient data."""
    from orchestration import quarantine as work

    if state not in {"open", "released", "discarded", "all"}:
        raise typer.BadParameter("expected open, released, discarded or all", param_hint="--state")
    wanted: Any = None if state == "all" else state
    because = work.reason_of(reason)
    items, counts = _ask(
        data_dir, lambda settings: work.find(settings, state=wanted, reason=because, feed=feed, limit=limit)
    )
    if as_json:
        record = {"counts": [count._asdict() for count in counts], "items": [work.as_record(item) for item in items]}
        typer.echo(json.dumps(record))
    else:
        work.show_list(items, counts, _console())


@quarantine_app.command("show", epilog=EPILOG)
def quarantine_show(item: int, data_dir: DataDirOption = None, as_json: JsonOption = False) -> None:
    """Show one item with its message. Shows patient data."""
    from orchestration import quarantine as work

    found = _ask(data_dir, lambda settings: work.get(settings, item))
    if as_json:
        typer.echo(json.dumps(work.as_record(found)))
    else:
        work.show_item(found, _console())


ItemsArgument = Annotated[list[int], typer.Argument(metavar="ITEM...", help="Numbers from `vigil quarantine list`.")]


@quarantine_app.command("release", epilog=EPILOG)
def quarantine_release(items: ItemsArgument, data_dir: DataDirOption = None, as_json: JsonOption = False) -> None:
    """Ask the normalizer to take whole messages back into the flow, now that what held them back is settled."""
    _settle("release", items, data_dir, as_json)


@quarantine_app.command("discard", epilog=EPILOG)
def quarantine_discard(items: ItemsArgument, data_dir: DataDirOption = None, as_json: JsonOption = False) -> None:
    """Settle items without using them: they stay counted as they are; who decided stands in the ledger."""
    _settle("discard", items, data_dir, as_json)


def _settle(action: Literal["release", "discard"], items: list[int], data_dir: Path | None, as_json: bool) -> None:
    from orchestration import quarantine as work

    settled = _ask(data_dir, lambda settings: work.settle(settings, action, items))
    if as_json:
        typer.echo(json.dumps([work.as_record(item) for item in settled]))
    for item in settled:
        if not as_json:
            again = "held again" if item.item_id not in items else item.state
            typer.echo(f"{item.item_id}: {again}" + (f" ({item.reason.value})" if item.state == "open" else ""))
    if any(item.state == "open" for item in settled):
        raise typer.Exit(PROBLEM)


register_models(app, EPILOG)


def main() -> None:
    """Run the command and turn named errors into one paragraph and an exit status."""
    try:
        app()
    except ConfigurationError as error:
        _say(error, UNUSABLE)
    except UnavailableError as error:
        _say(error, UNAVAILABLE)
    except VigilError as error:
        _say(error, PROBLEM)
    except OSError as error:
        if error.errno not in {errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS, errno.EMFILE}:
            raise
        _say(ConfigurationError(f"{error.strerror}: {error.filename or 'a file'}."), UNUSABLE)


def _say(error: VigilError, exit_status: int) -> None:
    typer.echo(f"vigil: {error}", err=True)
    sys.exit(exit_status)
