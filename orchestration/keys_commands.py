"""`vigil keys`: the command line of the keys that protect data.

Here: arguments, confirmation, exit statuses.
Not here: the work (orchestration.keys), signers' keys (orchestration.signer_commands, added to the same group).
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from vocabulary.errors import ConfigurationError

if TYPE_CHECKING:
    from vocabulary.settings import Settings

keys_app = typer.Typer(help="The keys that protect patients' data, and signers' keys.", no_args_is_help=True)

T = TypeVar("T")

FILE_WIDTH = 140
"""Columns of what is printed to a file or another program, which have no width of their own."""

DataDirOption = Annotated[
    Path | None,
    typer.Option(
        "--data-dir", help="Where the services keep everything; wins over VIGIL_DATA_DIR.", show_default=False
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document and nothing else on stdout.")]
YesOption = Annotated[bool, typer.Option("--yes", help="Do not ask for confirmation.")]


def _ask(data_dir: Path | None, question: Callable[[Settings], Coroutine[Any, Any, T]]) -> T:
    from orchestration.storage import load_settings, reachable

    with reachable(load_settings(data_dir)) as complete:
        return asyncio.run(question(complete))


@keys_app.command("master")
def keys_master(
    create: Annotated[bool, typer.Option("--create", help="Make the key inside the configured token.")] = False,
    at: Annotated[
        str | None,
        typer.Option("--at", help="With --create: another address, pkcs11:<module>?token=<label>&key=<label>."),
    ] = None,
    destroy: Annotated[
        str | None, typer.Option("--destroy", help="Destroy a retired master key, by its name in `vigil keys status`.")
    ] = None,
    yes: YesOption = False,
    data_dir: DataDirOption = None,
) -> None:
    """Show the master key's name and place; make one in a token; destroy one that was replaced."""
    from orchestration import keys
    from orchestration.storage import load_settings

    if destroy is not None:
        if not yes:
            typer.confirm(
                f"Destroy master key {destroy}? Old backups whose keys it wraps can then be read by nobody.", abort=True
            )
        chosen = destroy
        typer.echo(_ask(data_dir, lambda settings: keys.destroy_master(settings, chosen)))
        return
    settings = load_settings(data_dir)
    holder = asyncio.run(keys.create_master(settings, at)) if create else keys.describe_master(settings)
    typer.echo(f"{holder.key_id} ({holder.source})")
    holder.close()


@keys_app.command("status")
def keys_status(data_dir: DataDirOption = None, as_json: JsonOption = False) -> None:
    """Show master keys, how many data keys there are, and whether destroyed ones stayed destroyed."""
    from rich.console import Console

    from orchestration import keys

    found = _ask(data_dir, keys.status)
    if as_json:
        typer.echo(json.dumps(keys.as_record(found)))
    else:
        console = Console()
        keys.show(found, console if console.is_terminal else Console(width=FILE_WIDTH))
    if not found.is_sound:
        raise typer.Exit(1)


@keys_app.command("rotate")
def keys_rotate(
    to: Annotated[
        str | None, typer.Option("--to", help="Address of the next master key; without it, another file.")
    ] = None,
    patient: Annotated[
        list[int] | None, typer.Option("--patient", help="Instead: a new key for this patient's new data.")
    ] = None,
    data_dir: DataDirOption = None,
) -> None:
    """Put another master key in the place of the current one, while everything runs; repeat it if interrupted."""
    from orchestration import keys

    if patient:
        if to is not None:
            raise ConfigurationError("--to names a master key, --patient a patient's: rotate one or the other.")
        chosen = patient
        for patient_id, generation in _ask(data_dir, lambda settings: keys.rotate_patients(settings, chosen)):
            typer.echo(f"patient {patient_id}: generation {generation}")
        return
    done = _ask(data_dir, lambda settings: keys.rotate_master(settings, to))
    typer.echo(f"master key {done.master_key_id} wraps everything; {done.rewrapped:,} data keys were wrapped anew.")
    if to is not None:
        typer.echo(f"Set VIGIL_MASTER_KEY={to} before the next start.")
    typer.echo("Make a new backup of keys (`vigil keys backup`), then end the old one (`vigil keys master --destroy`).")


@keys_app.command("destroy")
def keys_destroy(
    patient_id: Annotated[int, typer.Argument(help="Our own number of the patient.")],
    by: Annotated[str, typer.Option("--by", help="Who decided it.")],
    reason: Annotated[str, typer.Option("--reason", help="Why; kept for ever, so no patient data.")],
    even_though_admitted: Annotated[
        bool, typer.Option("--even-though-admitted", help="Also while a stay is open.")
    ] = False,
    yes: YesOption = False,
    data_dir: DataDirOption = None,
) -> None:
    """Destroy every key of a patient, merged records included: what they protect can never be read again."""
    from orchestration import keys

    if len(by.strip()) < 2 or len(reason.strip()) < 5:
        raise ConfigurationError("--by names a person, and --reason says why: the proof holds both.")
    if not yes:
        typer.confirm(
            f"Destroy all keys of patient {patient_id}, of every record merged into it? Nobody can undo this.",
            abort=True,
        )
    proof = _ask(
        data_dir,
        lambda settings: keys.destroy(
            settings, patient_id, by=by.strip(), reason=reason.strip(), even_though_admitted=even_though_admitted
        ),
    )
    destroyed = proof.destruction.keys
    bodies, chunks, blobs = (
        sum(getattr(key, name) for key in destroyed) for name in ("snapshot_bodies", "raw_chunks", "blobs")
    )
    typer.echo(
        f"{len(destroyed)} keys destroyed: {bodies:,} snapshot bodies, {chunks:,} chunks of sealed RAW and {blobs:,} "
        f"large bodies can no longer be read. Proof: anchors/destroyed/{proof.destruction.name}.json"
    )
    typer.echo("Not covered by a key yet: RAW of the last day, and the signal tables (docs/keys.md says what to do).")


@keys_app.command("backup")
def keys_backup(
    to: Annotated[Path, typer.Argument(help="File to write; never on the medium that holds the data's backup.")],
    data_dir: DataDirOption = None,
) -> None:
    """Write all wrapped keys to a file. The master key is not in it: copy that by itself, to a third place."""
    from orchestration import keys

    count = _ask(data_dir, lambda settings: keys.backup(settings, to))
    typer.echo(f"{count:,} keys in {to}. It opens nothing without the master key, which is not in it.")


@keys_app.command("restore-check")
def keys_restore_check(
    backup: Annotated[Path, typer.Argument(help="A file that `vigil keys backup` wrote.")],
    data_dir: DataDirOption = None,
    as_json: JsonOption = False,
) -> None:
    """Try every key of a backup against the master keys known here; changes nothing."""
    from orchestration import keys

    found = _ask(data_dir, lambda settings: keys.check_backup(settings, backup))
    if as_json:
        typer.echo(json.dumps(found._asdict()))
    else:
        typer.echo(
            f"{found.keys:,} keys: {found.readable:,} can be read here, {found.damaged:,} are damaged, "
            f"{sum(found.missing_masters.values()):,} need a master key that is not known here."
        )
        typer.echo(
            f"Against the database: {found.absent:,} are missing there, {found.destroyed_since:,} were destroyed "
            f"since, {found.newer:,} newer ones are not in the backup."
        )
    if found.damaged or found.missing_masters:
        raise typer.Exit(1)


@keys_app.command("restore")
def keys_restore(
    backup: Annotated[Path, typer.Argument(help="A file that `vigil keys backup` wrote.")],
    data_dir: DataDirOption = None,
) -> None:
    """Put back keys whose rows are gone, and destroy again at once what was destroyed since the backup."""
    from governance import key_backup
    from orchestration import keys
    from orchestration.storage import load_settings, locate

    # Before anything starts: without its arrivals key, nothing does.
    settings = load_settings(data_dir)
    files = key_backup.restore_files(
        key_backup.load(backup), settings.model_copy(update={"data_dir": locate(settings).root})
    )
    restored, again = _ask(data_dir, lambda complete: keys.restore(complete, backup))
    typer.echo(f"{restored:,} keys restored; {again:,} of them had been destroyed, and are again.")
    if files:
        typer.echo(f"Also {', '.join(files)}.")
