"""A database ready for processes: its schema, a role for each process, exactly the privileges of the table.

Here: doing so at `vigil up`, with passwords where certificates cannot be used: an external server.
Not here: the table and its SQL (stores.roles), the schema (stores.database), the embedded server's own access rules
(orchestration.postgres_configuration).
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from enum import Enum
from pathlib import Path
from typing import Final
from urllib.parse import parse_qsl, quote, urlencode, urlsplit, urlunsplit

from orchestration.embedded import kept_secret
from stores import database, roles
from vocabulary.errors import ConfigurationError
from vocabulary.settings import is_loopback

_CHECKED_MODES: Final = frozenset({"verify-full", "verify-ca"})
_OWNERS_ONLY: Final = frozenset({"user", "password", "sslcert", "sslkey", "sslpassword", "passfile"})
"""Parameters of the owner's address that prove who the owner is: no process gets them."""


def require_checked(url: str) -> None:
    """Check that an external database is reached over TLS, and that its certificate is checked, or on this machine.

    Raises:
        ConfigurationError: neither; the message carries no password.
    """
    parts = urlsplit(url)
    if parts.scheme not in {"postgresql", "postgres"}:
        raise ConfigurationError("VIGIL_DATABASE_URL must be written postgresql://user:password@host:port/database.")
    options = dict(parse_qsl(parts.query))
    hosts = [host.rsplit("@", 1)[-1] for host in parts.netloc.rsplit("@", 1)[-1].split(",")]
    names = [_without_port(host) for host in hosts if host] or options.get("host", "").split(",")
    names = [options["hostaddr"]] if "hostaddr" in options else names
    is_near = all(name == "" or name.startswith(("/", "%2F", "@")) or is_loopback(name) for name in names)
    if not is_near and options.get("sslmode") not in _CHECKED_MODES:
        raise ConfigurationError(
            f"VIGIL_DATABASE_URL reaches beyond this machine ({', '.join(names)}) without checking whom it reaches: "
            "expected sslmode=verify-full (or verify-ca) with sslrootcert=<file of its authority> in the address, "
            f"found sslmode={options.get('sslmode', 'not set')}."
        )


def _without_port(host: str) -> str:
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0]


class Proof(Enum):
    """How processes prove that they are their roles."""

    CERTIFICATES = "certificates"  # the embedded server with TLS
    PASSWORDS = "passwords"  # the embedded server without: ours to set
    ASKED_PASSWORDS = "asked"  # somebody else's server: only roles that we make get one from us


async def prepare(owner_url: str, credentials: Path, proof: Proof) -> list[str]:
    """Migrate, make the roles that are missing, apply their privileges; return the migrations that were run.

    Args:
        owner_url: address of the owner of the schema.
        credentials: folder for the roles' passwords.
        proof: how processes prove that they are their roles.

    Raises:
        ConfigurationError: it cannot be migrated; or the roles are missing, or their passwords are not known here, and
            the owner may not make them: the message says what an administrator has to run.
        UnavailableError: the server does not answer.
    """
    applied = await database.migrate(owner_url)
    connection = await database.connect(owner_url, application_name="vigil setup")
    try:
        async with database.transaction(connection):
            missing = await roles.missing_roles(connection)
            if proof is Proof.ASKED_PASSWORDS:
                _check_passwords(credentials, missing)
                await _create(connection, missing, credentials)
            else:
                await roles.create(connection, missing)
                if proof is Proof.PASSWORDS:
                    await roles.set_passwords(connection, _keep_passwords(credentials, roles.ROLES)[1])
        await roles.apply(connection)
    finally:
        await connection.close()
    return applied


async def _create(connection: database.Connection, missing: Sequence[str], credentials: Path) -> None:
    fresh, passwords = _keep_passwords(credentials, missing)
    try:
        await roles.create(connection, missing)
        await roles.set_passwords(connection, passwords)
    except ConfigurationError as error:
        for file in fresh:
            file.unlink()
        raise ConfigurationError(f"{error} {_advice(missing, credentials)}") from None


def _keep_passwords(credentials: Path, names: Sequence[str]) -> tuple[list[Path], dict[str, str]]:
    credentials.mkdir(parents=True, exist_ok=True, mode=0o700)
    credentials.chmod(0o700)
    fresh = [credentials / role for role in names if not (credentials / role).exists()]
    return fresh, {role: kept_secret(credentials / role, secrets.token_urlsafe(24)) for role in names}


def _check_passwords(credentials: Path, missing: Sequence[str]) -> None:
    """Check that a role which exists at the server has a password here; another Vigil may be using it."""
    unknown = [role for role in roles.ROLES if role not in missing and not (credentials / role).exists()]
    if unknown:
        raise ConfigurationError(
            f"The database server has the roles {', '.join(unknown)}, whose passwords are not in {credentials}. If "
            "another Vigil uses them, give this one a server of its own. Otherwise put each role's password into the "
            f"file {credentials}/<role> (0600), or drop the roles and start again."
        )


def _advice(missing: Sequence[str], credentials: Path) -> str:
    statements = " ".join(f"create role {role} login password '…';" for role in missing)
    return (
        f"Let an administrator of the server run: {statements} and put each password into the file "
        f"{credentials}/<role> (0600), or give the user of VIGIL_DATABASE_URL the right CREATEROLE."
    )


def address_of(owner_url: str, role: str, credentials: Path) -> str:
    """Return the address of a process at an external server: the owner's, as its own role with its own password.

    Raises:
        ConfigurationError: its password is not kept here.
    """
    try:
        password = (credentials / role).read_text().strip()
    except OSError as error:
        raise ConfigurationError(
            f"The password of the role {role} is not in {credentials / role} ({error.strerror}): `vigil up` puts it "
            "there."
        ) from None
    parts = urlsplit(owner_url)
    kept: Mapping[str, str] = {name: value for name, value in parse_qsl(parts.query) if name not in _OWNERS_ONLY}
    where = parts.netloc.rsplit("@", 1)[-1]
    who = f"{quote(role, safe='')}:{quote(password, safe='')}"
    return urlunsplit(parts._replace(netloc=f"{who}@{where}", query=urlencode(kept, quote_via=quote)))
