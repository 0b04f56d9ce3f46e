"""What people should know of a running house: each door with what it speaks, and what is not as it should be.

Here: the record of both for `vigil status`, and certificates that are about to end.
Not here: what a door speaks (twin.listeners), printing (orchestration.status).
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from orchestration.addresses import Servers, today
from orchestration.certificates import RENEW_BEFORE_DAYS, expires_at
from orchestration.data_dir import DataDir, Listener
from orchestration.ports import LOOPBACK
from twin import listeners
from vocabulary.errors import ConfigurationError
from vocabulary.settings import Settings

_INTERNAL = "tls+client certificate"


def of_house(settings: Settings, ports: dict[str, int], servers: Servers) -> list[Listener]:
    """Return every listener of a house.

    Args:
        settings: resolved.
        ports: by name, as orchestration.addresses.resolve gave them.
        servers: those that are ours.
    """
    day = today()
    numbers = {"clinic": settings.clinic_port, "mqtt": ports.get("mqtt", 0)}
    numbers |= {feed.listener: feed.port for feed in settings.feeds}
    doors = []
    for name in listeners.names(settings):
        if numbers[name]:
            spoken = listeners.transport(settings, name, day)
            doors.append(Listener(name, f"{settings.host}:{numbers[name]}", spoken.words, spoken.is_waived))
    if servers.postgres is not None:
        spoken_there = _INTERNAL if servers.postgres.tls is not None else "plain (loopback), a password a process"
        doors.append(Listener("postgres", f"{LOOPBACK}:{servers.postgres.port}", spoken_there))
    if servers.nats is not None:
        doors.append(Listener("nats-server", f"{LOOPBACK}:{servers.nats.port}", _INTERNAL))
    if "issuer" in ports:
        doors.append(Listener("issuer", f"{LOOPBACK}:{ports['issuer']}", "plain (loopback)"))
    return doors


def notes(settings: Settings) -> list[str]:
    """Return what keeps people from working though everything runs."""
    if settings.oidc_issuer is None:
        return ["nobody can sign in: set VIGIL_OIDC_ISSUER"]
    return []


def ending_certificates(data_dir: DataDir, settings: Settings, now: datetime | None = None) -> list[str]:
    """Return which certificates end within 30 days or cannot be read; a start renews our own."""
    limit = (now or datetime.now(UTC)) + timedelta(days=RENEW_BEFORE_DAYS)
    folders = sorted(path.parent for path in data_dir.identity.glob("*/certificate.pem"))
    if settings.server_identity is not None:
        folders.append(settings.server_identity)
    said = []
    for folder in folders:
        try:
            until = expires_at(folder / "certificate.pem")
        except ConfigurationError as error:
            said.append(str(error))
            continue
        if until < limit:
            advice = "put a new one there" if folder == settings.server_identity else "the next `vigil up` renews it"
            said.append(f"the certificate {folder} ends on {until:%Y-%m-%d}: {advice}")
    return said
