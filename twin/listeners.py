"""The doors that senders and people come through: which there are, and what each speaks.

Here: whether the settings leave a door open that must not be, what is said about each in status and on the board, and
the TLS context of one.
Not here: the settings themselves (vocabulary.settings), files (vocabulary.tls), the sockets (twin.ingress, clinic).
Source: IHE ATNA ITI-19 (node authentication).
"""

from __future__ import annotations

import ssl
from datetime import UTC, date, datetime
from typing import NamedTuple

from vocabulary.clock import Clock
from vocabulary.errors import ConfigurationError
from vocabulary.settings import Settings, Waiver, is_loopback
from vocabulary.tls import Identity, server_context

CLINIC = "clinic"
MQTT = "mqtt"


class Transport(NamedTuple):
    """What a listener speaks."""

    words: str
    is_waived: bool  # plain text beyond this machine, by somebody's permission: shown in red


def today(clock: Clock) -> date:
    """Return the day by which waivers are judged (UTC)."""
    return datetime.fromtimestamp(clock.now_us() / 1_000_000, UTC).date()


def names(settings: Settings) -> tuple[str, ...]:
    """Return the listeners there are, by the names that waivers use; MQTT is nats-server's, which may be elsewhere."""
    return (CLINIC, MQTT, *(feed.listener for feed in settings.feeds))


def require_safe(settings: Settings, day: date) -> None:
    """Check that no door beyond this machine rests on a permission that has ended, or on one for no door at all.

    Raises:
        ConfigurationError: a waiver has expired, or names a listener that does not exist.
    """
    known = names(settings)
    for waiver in settings.plaintext_waivers:
        if waiver.listener not in known:
            raise ConfigurationError(
                f"VIGIL_PLAINTEXT_WAIVERS names the listener {waiver.listener}, which does not exist; expected one of "
                f"{', '.join(sorted(known))}."
            )
        has_ended = waiver.until < day and settings.waiver(waiver.listener, day) is None
        if has_ended and not is_loopback(settings.host):
            raise ConfigurationError(
                f"The waiver that lets {waiver.listener} speak plain text on {settings.host} ended on {waiver.until} "
                f"(approved by {waiver.approved_by}). Remove it, so that {waiver.listener} speaks TLS, or have "
                "somebody answer for it again with a later `until` in VIGIL_PLAINTEXT_WAIVERS."
            )


def transport(settings: Settings, listener: str, day: date) -> Transport:
    """Return what a listener speaks, in words for people."""
    if settings.speaks_tls(listener, day):
        wants_client = _requires_client(settings, listener)
        return Transport("tls+client certificate" if wants_client else "tls", is_waived=False)
    waiver = settings.waiver(listener, day)
    if is_loopback(settings.host) or waiver is None:
        return Transport("plain (loopback)", is_waived=False)
    return Transport(_words(waiver), is_waived=True)


def _words(waiver: Waiver) -> str:
    return f"PLAIN by waiver of {waiver.approved_by} until {waiver.until}: {waiver.reason}"


def _requires_client(settings: Settings, listener: str) -> bool:
    if listener == MQTT:
        return True
    return any(feed.listener == listener and feed.requires_client_certificate for feed in settings.feeds)


def context(settings: Settings, listener: str, day: date) -> ssl.SSLContext | None:
    """Return the TLS context of a listener, or None when it may speak plain text.

    Raises:
        ConfigurationError: it must speak TLS and has no usable certificate; names the waiver that could stand in.
    """
    if not settings.speaks_tls(listener, day):
        return None
    if settings.server_identity is None:
        raise ConfigurationError(
            f"{listener} on {settings.host} must speak TLS and has no certificate: start it with `vigil up`, which "
            "makes one, or set VIGIL_SERVER_IDENTITY to a folder with certificate.pem, key.pem and authority.pem. If "
            "it cannot speak TLS, somebody must answer for that in vigil.toml: "
            f'[[plaintext_waivers]] listener = "{listener}", reason = "…", approved_by = "…", until = YYYY-MM-DD.'
        )
    return server_context(Identity(settings.server_identity), requires_client=_requires_client(settings, listener))
