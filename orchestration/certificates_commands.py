"""`vigil certificates`: identities for devices and other systems, what was issued, taking one back.

Here: arguments and what is printed.
Not here: the authority (orchestration.certificates), which listener asks for a certificate (vocabulary.settings).
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vocabulary.errors import ConfigurationError

if TYPE_CHECKING:
    from orchestration.certificates import Issued
    from orchestration.credentials import Identities

certificates_app = typer.Typer(
    help="Certificates of devices and other systems that speak to our listeners.", no_args_is_help=True
)

DataDirOption = Annotated[
    Path | None,
    typer.Option(
        "--data-dir", help="Where the services keep everything; wins over VIGIL_DATA_DIR.", show_default=False
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document and nothing else on stdout.")]


def _identities(data_dir: Path | None) -> Identities:
    from orchestration.credentials import Identities
    from orchestration.data_dir import DataDir
    from orchestration.storage import load_settings, locate

    settings = load_settings(data_dir)
    return Identities(DataDir(locate(settings).root), settings)


@certificates_app.command("issue")
def issue(
    name: Annotated[str, typer.Argument(help="Common name: how the device is known in feeds and in MQTT.")],
    to: Annotated[Path, typer.Option("--to", help="Folder for certificate.pem, key.pem and authority.pem.")],
    host: Annotated[
        list[str] | None,
        typer.Option(help="A name or address it serves under, for what also listens; may be given again."),
    ] = None,
    data_dir: DataDirOption = None,
) -> None:
    """Make an identity for a device or another system; one that holds for 30 more days is left as it is."""
    from orchestration.nats_configuration import RESERVED_NAMES

    if name in RESERVED_NAMES or not name.strip() or len(name) > 64:
        raise ConfigurationError(
            f"A device cannot be called {name!r}: expected 1 to 64 characters, and none of "
            f"{', '.join(sorted(RESERVED_NAMES))}."
        )
    identities = _identities(data_dir)
    made = identities.listeners.issue(to.absolute(), name, host or (), is_client=True)
    typer.echo(f"{to}: {'made' if made else 'still good'}. Hand the folder over by a safe way; key.pem is its secret.")


@certificates_app.command("list")
def show(data_dir: DataDirOption = None, as_json: JsonOption = False) -> None:
    """Show what was issued to devices and listeners and has not expired."""
    identities = _identities(data_dir)
    issued = identities.listeners.issued()
    if as_json:
        typer.echo(json.dumps([_record(one) for one in issued]))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for heading in ("name", "hosts", "until", "serial", ""):
        table.add_column(heading, overflow="fold")
    for one in issued:
        revoked = f"[red]revoked {one.revoked_at:%Y-%m-%d}[/]" if one.revoked_at else ""
        table.add_row(one.name, " ".join(one.hosts), f"{one.until:%Y-%m-%d}", one.serial, revoked)
    Console().print(table)


def _record(one: Issued) -> dict[str, object]:
    return {
        "name": one.name,
        "hosts": list(one.hosts),
        "until": one.until.isoformat(),
        "serial": one.serial,
        "revoked_at": one.revoked_at.isoformat() if one.revoked_at else None,
    }


@certificates_app.command("revoke")
def revoke(
    name_or_serial: Annotated[str, typer.Argument(help="A name (all of its certificates) or one serial number.")],
    data_dir: DataDirOption = None,
) -> None:
    """Believe a certificate no more.

    MLLP listeners refuse it from their next start on (`vigil down`, `vigil up`). MQTT knows devices by name: take its
    name out of devices.json as well.
    """
    identities = _identities(data_dir)
    revoked = identities.listeners.revoke(name_or_serial)
    if not revoked:
        raise ConfigurationError(f"Nothing that holds was issued to {name_or_serial!r}. See `vigil certificates list`.")
    if identities.server.folder.exists():
        identities.place_revocations()
    for one in revoked:
        typer.echo(f"{one.name} {one.serial}: revoked at {datetime.now(UTC):%Y-%m-%d %H:%M} UTC")
    typer.echo("Listeners refuse it from their next start on: `vigil down`, then `vigil up`.")
