"""`vigil keys root | person | roster …`: who may sign, decided off-line.

The root key and the drafts of the roster belong on a machine (or a stick) that is not Vigil's. Only the signed roster
and the root's public half come here.

Here: the commands, asking for passphrases, drafts, installing a signed roster.
Not here: judging signatures (governance.roster), data keys and the master key (orchestration.keys_commands).
"""

from __future__ import annotations

import base64
import json
import os
import sys
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from vocabulary.errors import ConfigurationError

ROSTER_DAYS = 366
"""How long a roster counts before somebody must look at it and sign it again."""

signers_app = typer.Typer(help="The roster of those whose signatures count.", no_args_is_help=True)

PassphraseOption = Annotated[
    Path | None,
    typer.Option("--passphrase-file", help="Read the passphrase from this file instead of asking.", show_default=False),
]
DraftArgument = Annotated[Path, typer.Argument(metavar="DRAFT", help="The roster being written, a JSON file.")]


def passphrase(file: Path | None, *, is_new: bool) -> str:
    """Return a passphrase from a file or the terminal, never from the command line, which others can see.

    Raises:
        ConfigurationError: the file cannot be read, or nobody is there to ask.
    """
    if file is not None:
        try:
            return file.read_text().rstrip("\r\n")
        except OSError as error:
            raise ConfigurationError(f"The passphrase file {file} cannot be read: {error.strerror}.") from None
    if not sys.stdin.isatty():
        raise ConfigurationError("A passphrase is needed, and there is no terminal to ask: use --passphrase-file.")
    return str(typer.prompt("Passphrase", hide_input=True, confirmation_prompt=is_new))


def register(keys: typer.Typer) -> None:
    """Add these commands to `vigil keys`."""
    keys.command("root")(make_root)
    keys.command("person")(make_person)
    keys.add_typer(signers_app, name="roster")


def make_root(
    to: Annotated[Path, typer.Option("--to", help="The key file to make. Keep it off this machine.")],
    passphrase_file: PassphraseOption = None,
) -> None:
    """Make the offline root key that signs rosters, and print its public half for VIGIL_SIGNER_ROOT."""
    from governance import personal_keys

    key = personal_keys.create(to, "signers' root", passphrase(passphrase_file, is_new=True))
    typer.echo(f"Root key {key.key_id} is in {to}. Take the file off this machine, with a copy in a safe place.")
    typer.echo(f'signer_root = "{key.verifying.text()}"')


def make_person(
    name: Annotated[str, typer.Option("--name", help="The person's name, as a committee writes it.")],
    person: Annotated[str, typer.Option("--person", help="Issuer and subject at sign-in: `https://…|subject`.")],
    to: Annotated[Path, typer.Option("--to", help="The key file to make; its owner keeps it.")],
    passphrase_file: PassphraseOption = None,
) -> None:
    """Make a person's own signing key; prints the record that the roster's keeper adds."""
    from governance import personal_keys

    key = personal_keys.create(to, person, passphrase(passphrase_file, is_new=True))
    record = {"kind": "ed25519", "public": key.verifying.text(), "person": person, "name": name, "id": key.key_id}
    proof = base64.b64encode(key.sign(_record_bytes(record))).decode()
    typer.echo(json.dumps(record | {"proof": proof}))
    typer.echo(f"Key {key.key_id} is in {to}. Read this number to the roster's keeper yourself.", err=True)


@signers_app.command("new")
def roster_new(draft: DraftArgument) -> None:
    """Begin an empty roster."""
    from governance.roster import Roster

    today = datetime.now(UTC)
    _write_new(draft, Roster(serial=1, issued_at=today, valid_until=(today + timedelta(days=ROSTER_DAYS)).date()))
    typer.echo(f"{draft}: an empty roster, number 1. Add people, then sign it.")


@signers_app.command("add")
def roster_add(
    draft: DraftArgument,
    record: Annotated[Path, typer.Option("--record", exists=True, help="What `person` or `pending` printed.")],
    role: Annotated[list[str], typer.Option("--role", help="In which roles this person signs; repeat for several.")],
    until: Annotated[str, typer.Option("--until", help="The key's last day, YYYY-MM-DD.")],
) -> None:
    """Add a person's key to a draft, or another key of somebody who is in it."""
    from governance.access import Role
    from governance.roster import Signer, SignerKey

    roster = _read_draft(draft)
    try:
        found = json.loads(record.read_bytes())
        key = SignerKey(
            kind=found["kind"],
            public=base64.b64encode(base64.b64decode(found["public"], validate=True)).decode(),
            credential=found.get("credential", ""),
            valid_from=datetime.now(UTC).date(),
            valid_until=date.fromisoformat(until),
        )
        person, name = str(found["person"]), str(found["name"])
        roles = tuple(Role(one) for one in role)
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigurationError(
            f"This cannot be added ({type(error).__name__}): expected a record as `vigil keys person` prints it, a "
            f"date such as 2027-12-31, and roles among {', '.join(sorted(Role))}."
        ) from None
    if key.kind == "ed25519" and not _is_proven(found):
        raise ConfigurationError("This record is not signed by the key it names: somebody altered it on the way.")
    if roster.signer_of(key.key_id) is not None:
        raise ConfigurationError(f"Key {key.key_id} is in the roster already.")
    others = tuple(one for one in roster.signers if one.person != person)
    known = next((one.keys for one in roster.signers if one.person == person), ())
    changed = msgspec.structs.replace(
        roster, signers=(*others, Signer(person=person, name=name, roles=roles, keys=(*known, key)))
    )
    _write(draft, changed)
    typer.echo(
        f"{name} may sign as {', '.join(roles)} with key {key.key_id} until {until}. Compare the number with them."
    )


@signers_app.command("revoke")
def roster_revoke(
    draft: DraftArgument,
    key_id: Annotated[str, typer.Argument(metavar="KEY", help="The key's number, from `vigil keys roster show`.")],
    because: Annotated[str, typer.Option("--because", help="Why, for whoever reads the roster later.")],
) -> None:
    """Revoke a key from now on; what it signed before keeps counting."""
    roster = _read_draft(draft)
    found = roster.signer_of(key_id)
    if found is None:
        raise ConfigurationError(f"No key {key_id} is in {draft}.")
    signer, key = found
    now = datetime.now(UTC)
    revoked = msgspec.structs.replace(key, revoked_at=key.revoked_at or now, revoked_because=because)
    keys = tuple(revoked if one.key_id == key_id else one for one in signer.keys)
    others = tuple(
        msgspec.structs.replace(one, keys=keys) if one.person == signer.person else one for one in roster.signers
    )
    _write(draft, msgspec.structs.replace(roster, signers=others))
    typer.echo(f"Key {key_id} of {signer.name} is revoked in {draft}. It takes effect once signed and installed.")


@signers_app.command("sign")
def roster_sign(
    draft: DraftArgument,
    root: Annotated[Path, typer.Option("--root", exists=True, help="The root key's file.")],
    to: Annotated[Path, typer.Option("--to", help="The signed roster to write.")],
    passphrase_file: PassphraseOption = None,
) -> None:
    """Sign a draft with the root key; the draft gets the next number for the next time."""
    from governance import personal_keys
    from governance import roster as rosters

    roster = _read_draft(draft)
    key = personal_keys.open_key(root, passphrase(passphrase_file, is_new=False))
    now = datetime.now(UTC)
    signed = msgspec.structs.replace(roster, issued_at=now, valid_until=(now + timedelta(days=ROSTER_DAYS)).date())
    _replace(to, rosters.sign(rosters.encode(signed), key))
    _write(draft, msgspec.structs.replace(signed, serial=signed.serial + 1))
    typer.echo(f"{to}: roster {signed.serial}, {len(signed.signers)} people, until {signed.valid_until}.")


@signers_app.command("install")
def roster_install(
    signed: Annotated[Path, typer.Argument(exists=True, help="The signed roster.")],
    data_dir: Annotated[Path | None, typer.Option("--data-dir", show_default=False)] = None,
) -> None:
    """Check a signed roster against VIGIL_SIGNER_ROOT and put it where the processes read it."""
    from governance import trust
    from orchestration.storage import load_settings

    settings = load_settings(data_dir)
    roster = trust.install(settings, signed, datetime.now(UTC).date())
    typer.echo(f"Roster {roster.serial} counts from now on: {len(roster.signers)} people, until {roster.valid_until}.")


@signers_app.command("show")
def roster_show(
    file: Annotated[Path | None, typer.Argument(help="A draft; default: the roster that counts here.")] = None,
    data_dir: Annotated[Path | None, typer.Option("--data-dir", show_default=False)] = None,
    as_json: Annotated[bool, typer.Option("--json")] = False,
) -> None:
    """Show who may sign, with which keys, until when."""
    from governance import trust
    from orchestration.storage import load_settings

    today = datetime.now(UTC).date()
    roster = _read_draft(file) if file is not None else trust.load_roster(load_settings(data_dir), today)
    if as_json:
        typer.echo(msgspec.json.encode(roster).decode())
        return
    standing = "DRAFT, counts nowhere" if file is not None else "signed"
    typer.echo(f"Roster {roster.serial} ({standing}), until {roster.valid_until}")
    for signer in roster.signers:
        typer.echo(f"  {signer.name}  {', '.join(signer.roles)}  {signer.person}")
        for key in signer.keys:
            state = f"until {key.valid_until}" if key.revoked_at is None else f"REVOKED {key.revoked_at:%Y-%m-%d %H:%M}"
            typer.echo(f"    {key.key_id}  {key.kind:<8}  {state}")


@signers_app.command("pending")
def roster_pending(
    data_dir: Annotated[Path | None, typer.Option("--data-dir", show_default=False)] = None,
) -> None:
    """Print the keys that people registered in their browser and the roster does not name: a record a line."""
    import asyncio

    from orchestration.storage import load_settings, reachable
    from stores import passkey_registrations
    from stores.database import connect, consistent_read
    from vocabulary.settings import Settings

    async def question(settings: Settings) -> list[passkey_registrations.Registration]:
        assert settings.database_url is not None
        connection = await connect(settings.database_url.get_secret_value(), application_name="vigil keys roster")
        try:
            async with consistent_read(connection):
                return await passkey_registrations.read(connection)
        finally:
            await connection.close()

    with reachable(load_settings(data_dir)) as settings:
        rows = asyncio.run(question(settings))
    for row in rows:
        typer.echo(
            json.dumps(
                {
                    "kind": "webauthn",
                    "public": base64.b64encode(row.public).decode(),
                    "credential": row.credential,
                    "person": row.person,
                    "name": row.name,
                    "id": row.key_id,
                }
            )
        )
    if not rows:
        typer.echo("Nobody waits.", err=True)


def _record_bytes(record: dict[str, str]) -> bytes:
    named = {name: record[name] for name in ("kind", "public", "person", "name", "id")}
    return b"vigil.signer.record.1\n" + json.dumps(named, sort_keys=True).encode()


def _is_proven(record: dict[str, str]) -> bool:
    from vocabulary.signing import VerifyingKey

    try:
        proof = base64.b64decode(record["proof"], validate=True)
        return VerifyingKey.from_text(record["public"]).is_valid(proof, _record_bytes(record))
    except (KeyError, ValueError):
        return False


def _read_draft(draft: Path):  # type: ignore[no-untyped-def]  # noqa: ANN202 — governance.roster is imported by need
    from governance.roster import decode

    try:
        return decode(draft.read_bytes())
    except OSError as error:
        raise ConfigurationError(f"The draft {draft} cannot be read: {error.strerror}.") from None


def _write(draft: Path, roster: object) -> None:
    from governance import roster as rosters

    assert isinstance(roster, rosters.Roster)
    _replace(draft, rosters.encode(roster))


def _write_new(draft: Path, roster: object) -> None:
    if draft.exists():
        raise ConfigurationError(f"{draft} is there already: a roster is never overwritten by a new one.")
    _write(draft, roster)


def _replace(path: Path, content: bytes) -> None:
    temporary = path.with_name(f".{path.name}.partial")
    try:
        temporary.write_bytes(content)
        temporary.chmod(0o644)  # public: it holds public keys only
        os.replace(temporary, path)  # noqa: PTH105
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be written: {error.strerror}.") from None
