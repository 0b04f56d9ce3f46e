"""What the operator's settings become: ports filled in, servers described, and each process's own settings.

Here: choosing ports, refusing doors that must not be open, the addresses each process works with.
Not here: starting anything (orchestration.services), identities themselves (orchestration.credentials).
"""

from __future__ import annotations

import socket
from datetime import date
from typing import NamedTuple
from urllib.parse import urlsplit

from pydantic import SecretStr

from governance import provider_keys
from orchestration import database_roles, demo_sign_in
from orchestration.credentials import PROCESSES, Identities
from orchestration.data_dir import DataDir
from orchestration.embedded import EmbeddedNats, EmbeddedPostgres, NatsTls
from orchestration.postgres_binaries import find_postgres_binaries, speaks_tls
from orchestration.postgres_configuration import was_tls
from twin import listeners
from vocabulary.clock import SystemClock
from vocabulary.errors import ConfigurationError
from vocabulary.settings import Settings, is_loopback

WILDCARDS = frozenset({"0.0.0.0", "::"})  # noqa: S104 — recognised, not bound


class Servers(NamedTuple):
    """The servers that are ours to run; None where somebody else's is used."""

    postgres: EmbeddedPostgres | None
    nats: EmbeddedNats | None


def resolve(settings: Settings, data_dir: DataDir) -> tuple[Settings, dict[str, int]]:
    """Return the settings with every port filled in, and the ports by name.

    Raises:
        ConfigurationError: a door would be open that must not be, or two services have one port.
    """
    listeners.require_safe(settings, today())
    names = [feed.name for feed in settings.feeds]
    if len(set(names)) < len(names):
        raise ConfigurationError(f"Two feeds have one name: {', '.join(names)}. Give each its own in VIGIL_FEEDS.")
    wanted = {"clinic": settings.clinic_port}
    if settings.database_url is None:
        wanted["postgres"] = settings.postgres_port
    else:
        database_roles.require_checked(secret(settings.database_url))
    if settings.nats_url is None:
        wanted |= {"nats": settings.nats_port, "mqtt": settings.mqtt_port}
    else:
        _require_tls(secret(settings.nats_url))
    wanted |= {f"feed.{feed.name}": feed.port for feed in settings.feeds}
    if needs_issuer(settings):
        wanted["issuer"] = 0
    elif settings.oidc_issuer is not None:
        provider_keys.check_address("issuer", settings.oidc_issuer, settings)
    ports = data_dir.ports(wanted)
    if len(set(ports.values())) < len(ports):
        raise ConfigurationError(f"Two services are configured to one port: {ports}. Give each its own, or 0.")
    feeds = tuple(feed.model_copy(update={"port": ports[f"feed.{feed.name}"]}) for feed in settings.feeds)
    update: dict[str, object] = {"data_dir": data_dir.root, "feeds": feeds, "clinic_port": ports["clinic"]}
    update["server_identity"] = Identities(data_dir, settings).server.folder
    resolved = settings.model_copy(update=update)
    # Told to the clinic, which could not know the name that a wildcard address is reached by.
    resolved = resolved.model_copy(update={"public_url": board_url(resolved).rstrip("/")})
    if needs_issuer(settings):
        resolved = resolved.model_copy(update=demo_sign_in.settings_of(ports["issuer"]))
    return resolved, ports


def needs_issuer(settings: Settings) -> bool:
    """Return whether people sign in at the development issuer: in demonstrations that name no other."""
    return settings.mode == "demo" and settings.oidc_issuer is None


def board_url(settings: Settings) -> str:
    """Return where the pages are, as people write it."""
    if settings.public_url is not None:
        return settings.public_url.rstrip("/") + "/"
    scheme = "https" if settings.speaks_tls(listeners.CLINIC, today()) else "http"
    host = socket.gethostname() if settings.host in WILDCARDS else settings.host
    return f"{scheme}://{f'[{host}]' if ':' in host else host}:{settings.clinic_port}/"


def today() -> date:
    """Return the day by which waivers are judged."""
    return listeners.today(SystemClock())


def _require_tls(url: str) -> None:
    parts = urlsplit(url)
    if parts.scheme != "tls" and not is_loopback(parts.hostname or "localhost"):
        raise ConfigurationError(
            f"VIGIL_NATS_URL reaches beyond this machine ({parts.hostname}) in plain text: expected tls://…"
        )


def embedded_servers(
    settings: Settings, data_dir: DataDir, ports: dict[str, int], *, is_running: bool = False
) -> Servers:
    """Return the servers of this directory that are ours to run, by the ports given to them.

    Args:
        settings: resolved.
        data_dir: whose.
        ports: by name.
        is_running: PostgreSQL is taken as it runs; else its programs decide whether it will speak TLS.
    """
    identities = Identities(data_dir, settings)
    postgres, nats = None, None
    if "postgres" in ports:
        postgres = _postgres(identities, data_dir, ports["postgres"], is_running=is_running)
    if "nats" in ports:
        tls = NatsTls(
            identities.of("nats-server"),
            settings.keys_dir / "jetstream.key",
            settings.host,
            identities.server,
            settings.speaks_tls(listeners.MQTT, today()),
        )
        nats = EmbeddedNats(data_dir.nats, ports["nats"], ports["mqtt"], tls)
    return Servers(postgres, nats)


def _postgres(identities: Identities, data_dir: DataDir, port: int, *, is_running: bool) -> EmbeddedPostgres:
    data = data_dir.postgres / "data"
    binaries = find_postgres_binaries(data)
    is_tls = was_tls(data) if is_running else speaks_tls(binaries)
    return EmbeddedPostgres(data_dir.postgres, port, binaries, tls=identities.postgres_tls() if is_tls else None)


def connected(settings: Settings, data_dir: DataDir, servers: Servers, process: str) -> Settings:
    """Return the settings of one process: its own identity, and the servers' addresses as it reaches them.

    Args:
        settings: resolved.
        data_dir: whose identities are used.
        servers: those that are ours.
        process: as in credentials.PROCESSES.

    Raises:
        ConfigurationError: its password at an external database is not known here.
    """
    identity = Identities(data_dir, settings).of(process)
    update: dict[str, object] = {"identity_dir": identity.folder}
    role = PROCESSES[process].role
    if role is None:
        update["database_url"] = None
    elif servers.postgres is not None and servers.postgres.tls is not None:
        update["database_url"] = SecretStr(servers.postgres.role_url(role, identity))
    else:
        owner = servers.postgres.url() if servers.postgres is not None else secret(settings.database_url)
        update["database_url"] = SecretStr(database_roles.address_of(owner, role, data_dir.credentials))
    if servers.nats is not None:
        update["nats_url"] = SecretStr(servers.nats.url())
    return settings.model_copy(update=update)


def secret(value: SecretStr | None) -> str:
    """Return an address that is known to be set, "" where it is not."""
    return value.get_secret_value() if value is not None else ""
