"""Who is who in a house: the identity of each process and server, and what each process is told.

Here: the identity folders below <data_dir>/identity, and the table of secrets by process (least knowledge).
Not here: certificates (orchestration.certificates), passwords at an external database (orchestration.database_roles),
what a role may do (stores.roles), what a process may say on the bus (orchestration.nats_configuration).
Processes and servers have an authority of their own: a device whose certificate calls it `engine` is nobody to them.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Final, NamedTuple
from urllib.parse import urlsplit

import psutil
from pydantic import BaseModel, SecretStr

from governance.master_key import OTHERS_FILE
from orchestration.certificates import Authority
from orchestration.data_dir import DataDir
from orchestration.postgres_configuration import PostgresTls
from vocabulary.clock import Clock
from vocabulary.errors import ConfigurationError
from vocabulary.settings import Settings
from vocabulary.signing import SigningKey
from vocabulary.tls import Identity

LOOPBACK_HOSTS: Final = ("localhost", "127.0.0.1", "::1")
_WILDCARDS: Final = frozenset({"0.0.0.0", "::"})  # noqa: S104 — recognised, not bound


class Need(NamedTuple):
    """What one process is told."""

    role: str | None
    """Its role in the database; None: it never connects."""
    secrets: frozenset[str]
    """Settings with secrets that it gets besides its own address of the database."""


_BUS: Final = frozenset({"nats_url"})
_KEYS: Final = frozenset({"master_key", "master_key_pin"})
_PROVIDER: Final = frozenset({"oidc_client_secret", "oidc_client_key"})

PROCESSES: Final[Mapping[str, Need]] = MappingProxyType(
    {
        "ingress": Need(None, _BUS),  # locks large bodies with a public key; opens nothing
        "normalizer": Need("vigil_normalizer", _BUS | _KEYS),
        "engine": Need("vigil_engine", _BUS | _KEYS),
        "keeper": Need("vigil_keeper", _BUS | _KEYS),
        "clinic": Need("vigil_clinic", _BUS | _KEYS | _PROVIDER | {"notify_url"}),
        "operator": Need("vigil_operator", _BUS | _KEYS | _PROVIDER | {"notify_url"}),
        "dagster": Need("vigil_dagster", frozenset()),
    }
)
"""Every process of ours. A secret that is not listed for it is in nobody else's environment either."""

SECRETS: Final = frozenset({"database_url"}) | _BUS | _KEYS | _PROVIDER | {"notify_url"}
"""Settings that only those who need them are told."""

SETUP: Final = "setup"
"""`vigil up` itself, while it prepares the database and the bus."""

_PASSED_ON: Final = frozenset(
    {"PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "LANGUAGE", "TZ", "TMPDIR", "TERM", "COLUMNS", "NO_COLOR"}
    | {"VIRTUAL_ENV", "LD_LIBRARY_PATH", "SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE"}
    | {"HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy"}
)
_PASSED_ON_PREFIXES: Final = (
    *("LC_", "PYTHON", "XDG_", "DAGSTER_", "COVERAGE_"),
    # Which kernels numeric libraries choose. Another choice gives other last bits: a snapshot made again by a command
    # in the same shell would differ from what the engine published (seen with OPENBLAS_CORETYPE).
    *("OPENBLAS_", "GOTO_", "OMP_", "MKL_", "KMP_", "BLIS_", "NVPL_", "NPY_"),
)


_TOKEN_MODULE_PREFIXES: Final = ("SOFTHSM", "PKCS11", "P11", "CHRYSTOKI", "CS_PKCS11", "CKNFAST", "NFAST", "YUBIHSM")
"""What common PKCS#11 modules read: SoftHSM, Luna, Utimaco, nShield, YubiHSM."""


class Identities:
    """The identity folders of one data directory, and the two authorities they come from."""

    def __init__(self, data_dir: DataDir, settings: Settings, clock: Clock | None = None) -> None:
        """Describe them; nothing is made.

        Args:
            data_dir: whose.
            settings: which addresses the listeners are known by.
            clock: tells the time of day; None for the machine's.
        """
        self.folder = data_dir.identity
        self._settings = settings
        site = settings.site
        self.processes = Authority(
            data_dir.authority / "processes",
            f"Vigil {site} processes",
            # Whatever happens to its key: nobody but servers on this machine can be impersonated with it.
            permitted=("localhost", "127.0.0.1/32", "::1/128"),
            clock=clock,
        )
        self.listeners = Authority(data_dir.authority / "listeners", f"Vigil {site} listeners and devices", clock=clock)

    def of(self, name: str) -> Identity:
        """Return the identity of a process or server."""
        return Identity(self.folder / name)

    @property
    def server(self) -> Identity:
        """Return what listeners for senders and people show: the hospital's own, or one of ours."""
        return Identity(self._settings.server_identity or self.folder / "server")

    def postgres_tls(self) -> PostgresTls:
        """Return what the embedded PostgreSQL speaks TLS with."""
        return PostgresTls(self.of("postgres"), self.of(SETUP), self.processes.revocations)

    def prepare(self) -> list[str]:
        """Make what is missing, renew what has less than 30 days left, and return what was made.

        Raises:
            ConfigurationError: an authority is unusable, a folder holds somebody else's certificate, or the
                hospital's own identity is not complete.
        """
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.folder.chmod(0o700)
        made = []
        for name in (*PROCESSES, SETUP):
            if self.processes.issue(self.of(name).folder, name):
                made.append(name)
            _keep_ledger_key(self.of(name))
        made += [
            name
            for name in ("postgres", "nats-server")
            if self.processes.issue(self.of(name).folder, name, LOOPBACK_HOSTS)
        ]
        self.listeners.prepare()
        if self._settings.server_identity is not None:
            _check_complete(Identity(self._settings.server_identity))
        elif self.listeners.issue(self.server.folder, listener_name(self._settings), listener_hosts(self._settings)):
            made.append("server")
        self.place_revocations()
        return made

    def place_revocations(self) -> None:
        """Put the list of revoked devices where our listeners read it; a hospital's own identity has its own list."""
        if self._settings.server_identity is None:
            self.server.revocations.write_bytes(self.listeners.revocations.read_bytes())


def _keep_ledger_key(identity: Identity) -> None:
    if not identity.ledger_key.exists():
        SigningKey.generate().save(identity.ledger_key)


def _check_complete(identity: Identity) -> None:
    missing = [
        file.name for file in (identity.certificate, identity.key, identity.authority) if not os.access(file, os.R_OK)
    ]
    if missing:
        raise ConfigurationError(
            f"VIGIL_SERVER_IDENTITY={identity.folder} lacks {', '.join(missing)}, or they cannot be read: expected "
            "certificate.pem (with its chain), key.pem, and authority.pem (whose clients are believed)."
        )


def listener_hosts(settings: Settings) -> tuple[str, ...]:
    """Return every name and address under which senders and browsers may know our listeners."""
    hosts = [*LOOPBACK_HOSTS, socket.gethostname().lower()]
    if settings.host in _WILDCARDS:
        found = {entry.address for entries in psutil.net_if_addrs().values() for entry in entries}
        hosts += sorted(address for address in found if _is_address(address))
    else:
        hosts.append(settings.host)
    public = urlsplit(settings.public_url or "").hostname
    if public:
        hosts.append(public)
    return tuple(dict.fromkeys(hosts))


def listener_name(settings: Settings) -> str:
    """Return the common name of the listeners' certificate."""
    return (urlsplit(settings.public_url or "").hostname or socket.gethostname())[:64]


def _is_address(text: str) -> bool:
    for family in (socket.AF_INET, socket.AF_INET6):
        try:
            socket.inet_pton(family, text)
        except OSError:
            continue
        return not text.startswith("fe80:")
    return False


def environment_of(settings: Settings, process: str) -> dict[str, str]:
    """Return the environment of a process: every setting spelled out, so that no file changes it; no others' secrets.

    Args:
        settings: complete for this process: its own address of the database, its own identity.
        process: which one, as in PROCESSES.
    """
    need = PROCESSES[process]
    environment = {
        name: value for name, value in os.environ.items() if name in _PASSED_ON or name.startswith(_PASSED_ON_PREFIXES)
    }
    for name in type(settings).model_fields:
        value = getattr(settings, name)
        is_told = name not in SECRETS or name in need.secrets or (name == "database_url" and need.role is not None)
        if value is not None and is_told:
            environment[f"VIGIL_{name.upper()}"] = _text(value)
    if "master_key" in need.secrets:
        environment |= {name: os.environ[name] for name in _key_variables(settings) if name in os.environ}
    return environment | {"PYTHONUNBUFFERED": "1"}


def _key_variables(settings: Settings) -> list[str]:
    """Return which environment variables hold master keys: the configured one, and older ones that still unwrap."""
    others = settings.keys_dir / OTHERS_FILE
    addresses = [settings.master_key, *(others.read_text().splitlines() if others.exists() else ())]
    named = [address.strip().removeprefix("env:") for address in addresses if address.startswith("env:")]
    # A token's module reads its own variables: SoftHSM its configuration, a network module its client's folder.
    is_token = any(address.startswith("pkcs11:") for address in addresses)
    return named + [name for name in os.environ if is_token and name.startswith(_TOKEN_MODULE_PREFIXES)]


def _text(value: object) -> str:
    if isinstance(value, SecretStr):
        return value.get_secret_value()
    if isinstance(value, tuple | dict):
        return json.dumps(value, default=_plain)
    return str(value)


def _plain(value: object) -> object:
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    return str(value)


def identity_name(settings: Settings) -> str:
    """Return which process the settings are of: that of their identity folder, else the operator."""
    folder: Path | None = settings.identity_dir
    return folder.name if folder is not None and folder.name in PROCESSES else "operator"
