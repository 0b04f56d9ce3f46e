"""Audit of what is done at this machine's own command line.

Here: who types, and the auditor of the chain `operator`, which all commands share.
Not here: the audit log's own commands (orchestration.audit_commands), what an event holds (stores.audit_log).
"""

from __future__ import annotations

import os
import pwd
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from governance.access import Principal, Role
from governance.audit import Auditor
from governance.notary import heads_of
from orchestration.data_dir import DataDir
from orchestration.storage import secret
from stores import database
from vocabulary.clock import SystemClock
from vocabulary.settings import Settings
from vocabulary.signing import SigningKey
from vocabulary.tls import Identity

WRITER = "operator"


def operator() -> Principal:
    """Return the person at the command line, as the operating system knows them, whatever the environment says."""
    user = os.getuid()
    # Somebody who became root is still themself: sudo says who, and only root's environment is believed about it.
    said = os.environ.get("SUDO_UID", "")
    if user == 0 and said.isascii() and said.isdigit():
        user = int(said)
    try:
        name = pwd.getpwuid(user).pw_name
    except KeyError:
        name = f"uid-{user}"
    return Principal(
        issuer="operator", subject=f"{name}@{socket.gethostname()}", name=name, roles=frozenset({Role.OPERATOR})
    )


def operator_identity(settings: Settings) -> Identity:
    """Return the identity folder that commands act with."""
    folder: Path | None = settings.identity_dir
    return Identity(folder if folder is not None else DataDir(settings.data_dir).identity / WRITER)


@asynccontextmanager
async def operator_auditor(settings: Settings) -> AsyncIterator[Auditor]:
    """Hold an auditor of the chain that all commands share.

    Args:
        settings: with addresses that answer (orchestration.storage.reachable).

    Raises:
        ConfigurationError: the operator's signing key is not there; `vigil up` makes it.
    """
    auditor = Auditor(
        lambda: database.connect(secret(settings.database_url), application_name="vigil audit"),
        WRITER,
        SigningKey.load(operator_identity(settings).ledger_key),
        heads_of(settings),
        SystemClock(),  # an event is of real time, whatever clock a demonstration's ward has
        is_shared=True,
    )
    try:
        yield auditor
    finally:
        await auditor.close()
