"""The embedded PostgreSQL's configuration: who may connect and how, what its log says, and addresses to reach it by.

Here: pg_hba.conf, pg_ident.conf, the server's options, and connection addresses over TLS.
Not here: starting the server (orchestration.embedded), what a role may do (stores.roles), certificates
(orchestration.certificates).
Source: PostgreSQL 18 manual 20.1 (pg_hba.conf), 20.2 (user name maps), 18.9 (TLS), 19.8 (logging), 32.1.2 (addresses).
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final, NamedTuple
from urllib.parse import quote, urlencode

from orchestration.ports import LOOPBACK
from stores.roles import ROLES
from vocabulary.tls import Identity

OWNER: Final = "vigil"
DAGSTER_DATABASE: Final = "dagster"
MLFLOW_DATABASE: Final = "mlflow"
"""Of the experiment tracker; Dagster's role owns both."""

LOGGING_OPTIONS: Final = (
    # Patients' data stands in statements, parameters and the texts of errors ("invalid input syntax …"). None of them
    # is written: whoever sent the statement is told, and logs the error's name.
    "log_min_messages=log",
    "log_min_error_statement=panic",
    "log_error_verbosity=terse",
    "log_statement=none",
    "log_min_duration_statement=-1",
    "log_parameter_max_length=0",
    "log_parameter_max_length_on_error=0",
    "log_lock_waits=off",
)
TLS_OPTIONS: Final = (
    # Relative to the data directory, so that no path has to be quoted.
    "ssl=on",
    "ssl_min_protocol_version=TLSv1.2",
    "ssl_cert_file=server.crt",
    "ssl_key_file=server.key",
    "ssl_ca_file=authority.crt",
    "ssl_crl_file=revoked.crl",
)
PLAIN_OPTIONS: Final = ("ssl=off",)
CERTIFICATE_FILES: Final = ("server.crt", "server.key", "authority.crt", "revoked.crl")


class PostgresTls(NamedTuple):
    """What a server that speaks only TLS needs."""

    server: Identity
    """What it shows; its `authority.pem` says whose clients it believes."""
    owner: Identity
    """What the owner of the database shows besides the password."""
    revocations: Path
    """Certificates it no longer believes (a CRL)."""


def process_of(role: str) -> str:
    """Return the common name of the certificate by which a process proves that it is `role`."""
    return role.removeprefix("vigil_")


def access(tls: PostgresTls | None) -> str:
    """Return pg_hba.conf: TLS with a certificate for every process; the owner also needs its password.

    Args:
        tls: None for a server without TLS: passwords over plain loopback.
    """
    if tls is None:
        return f"host all all {LOOPBACK}/32 scram-sha-256\n"
    roles = ",".join(ROLES)
    return (
        f"hostssl all {OWNER} {LOOPBACK}/32 scram-sha-256 clientcert=verify-ca\n"
        f"hostssl {DAGSTER_DATABASE},{MLFLOW_DATABASE} vigil_dagster {LOOPBACK}/32 cert map=vigil\n"
        f"hostssl postgres {roles} {LOOPBACK}/32 cert map=vigil\n"
    )


def names() -> str:
    """Return pg_ident.conf: which certificate is which role."""
    return "".join(f"vigil {process_of(role)} {role}\n" for role in ROLES)


def files(tls: PostgresTls | None) -> dict[str, bytes]:
    """Return what belongs into the server's data directory: file name → content."""
    content = {"pg_hba.conf": access(tls).encode(), "pg_ident.conf": names().encode()}
    if tls is not None:
        content |= {
            "server.crt": tls.server.certificate.read_bytes(),
            "server.key": tls.server.key.read_bytes(),
            "authority.crt": tls.server.authority.read_bytes(),
            "revoked.crl": tls.revocations.read_bytes(),
        }
    return content


def place(tls: PostgresTls | None, data: Path, owner: tuple[int, int] | None) -> None:
    """Write the files into a data directory, each in one step and for the server's eyes only.

    Args:
        tls: what it speaks.
        data: the server's data directory.
        owner: user and group the server runs as; None: ours.
    """
    content = files(tls)
    for name in CERTIFICATE_FILES:
        if name not in content:
            (data / name).unlink(missing_ok=True)
    for name, text in content.items():
        partial = data / f".{name}.partial"
        partial.unlink(missing_ok=True)
        handle = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "wb") as file:
            file.write(text)
        if owner is not None:
            os.chown(partial, *owner)
        partial.replace(data / name)


def was_tls(data: Path) -> bool:
    """Return whether the server of a data directory spoke TLS when it was last started."""
    return (data / "server.crt").exists()


def address(
    port: int, user: str, identity: Identity | None, database: str = "postgres", password: str | None = None
) -> str:
    """Return the address at which `user` reaches the embedded server.

    Args:
        port: the server's.
        user: a role, or the owner.
        identity: what to show, and whom to believe; None for a server without TLS.
        database: its name.
        password: the owner's.
    """
    who = quote(user, safe="") + (f":{quote(password, safe='')}" if password else "")
    url = f"postgresql://{who}@{LOOPBACK}:{port}/{quote(database, safe='')}"
    if identity is None:
        return url
    options = {
        "sslmode": "verify-full",
        "sslrootcert": str(identity.authority),
        "sslcert": str(identity.certificate),
        "sslkey": str(identity.key),
    }
    return f"{url}?{urlencode(options, quote_via=quote)}"
