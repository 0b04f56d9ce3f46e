"""A connection to nats-server between our calls: who we are on it, what it refuses, how it ends.

Here: the TLS context, what nats-py's callbacks tell, a client that no message stops, errors in words for an operator.
Not here: what is said over the connection (twin.bus), permissions (orchestration.nats_configuration).
"""

from __future__ import annotations

import asyncio
import logging
import re
import ssl
from collections.abc import Callable
from typing import Final
from urllib.parse import urlsplit

from nats.aio.client import Client
from nats.aio.msg import Msg

from twin.subjects import subject_class
from vocabulary.settings import Settings
from vocabulary.tls import Identity, client_context

_DENIED: Final = re.compile(r'permissions violation for (\w+) to "([^"]*)"')
_CLASSES_TOLD: Final = 16
_log = logging.getLogger("vigil.bus")


def _is_worth_a_line(record: logging.LogRecord) -> bool:
    """Return whether asyncio's log record says something: it tells us at each end of a TLS connection of nats-py's."""
    return not record.getMessage().startswith("returning true from eof_received()")


class SteadyClient(Client):
    """nats-py's client, without three ways in which one message ends its reading for good.

    Its reading task ends at any exception while what arrived is taken apart, and the connection then looks up and is
    deaf until pings are missed; a message that is stored would do so again at each reading.
    """

    async def _process_pong(self) -> None:
        # A flush that was given up leaves its future behind, and its late pong would be told to it.
        if self._pongs and self._pongs[0].done():
            self._pongs.pop(0)
            self._pongs_received += 1
            self._pings_outstanding = 0
            return
        await super()._process_pong()

    async def _process_headers(self, headers: bytes) -> dict[str, str] | None:
        # The server passes on what a publisher wrote, and a status line need not be text.
        try:
            return await super()._process_headers(headers)
        except (ValueError, IndexError):
            return None

    def _build_message(
        self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: dict[str, str] | None
    ) -> Msg:
        # Nor need subjects be.
        made: Msg = super()._build_message(sid, _as_text(subject), _as_text(reply), data, headers)
        return made


def _as_text(subject: bytes) -> bytes:
    return subject if subject.isascii() else subject.decode(errors="replace").encode()


class Link:
    """What nats-py tells of a connection between our calls."""

    def __init__(self) -> None:
        """Begin with nothing told."""
        logging.getLogger("asyncio").addFilter(_is_worth_a_line)
        self.reconnections: list[Callable[[], None]] = []
        self.denied: set[tuple[str, str]] = set()
        self.ended = asyncio.Event()
        self.is_closing = False
        self.last_error: Exception | None = None
        self.dropped = 0
        self._dropped_classes: set[str] = set()

    async def on_reconnect(self) -> None:
        """Forget what was refused, and tell whoever wants to know."""
        self.denied.clear()  # the server may have been given other permissions; it will say if not
        for callback in self.reconnections:
            callback()

    async def on_error(self, error: Exception) -> None:
        """Note an error; log a refusal, once for each kind of subject."""
        # Each failed call reports its own error; nats-py would also print this one, with the URL's password. But a
        # refused subscription fails no call: it would only be silent.
        if self.last_error is None or not _is_stranger(self.last_error):
            # The server's word stays: at another try its closing may overtake the word, and we see but a broken pipe.
            self.last_error = error
        found = _DENIED.search(str(error))
        if found is None:
            return
        refused = (found[1], subject_class(found[2]))
        if refused not in self.denied:
            self.denied.add(refused)
            _log.error("bus_permission_denied", extra={"operation": refused[0], "subject_class": refused[1]})

    def drop(self, subject: str) -> None:
        """Count a message that is not what its subject says; log it, once for each kind of subject."""
        self.dropped += 1
        kind = subject_class(subject)
        if kind not in self._dropped_classes and len(self._dropped_classes) < _CLASSES_TOLD:
            self._dropped_classes.add(kind)
            _log.error("bus_message_dropped", extra={"subject_class": kind})

    async def on_closed(self) -> None:
        """Note the end."""
        # nats-py gives up when the server says that it no longer knows us.
        if not self.is_closing:
            _log.error("bus_closed_by_server")
        self.ended.set()


def bus_context(settings: Settings, url: str) -> ssl.SSLContext | None:
    """Return how to speak TLS to the server at `url` (tls://…), or None for plain text (nats://…).

    Raises:
        ConfigurationError: the identity cannot be used.
    """
    parts = urlsplit(url)
    if parts.scheme != "tls":
        return None
    if settings.identity_dir is None:
        return ssl.create_default_context()
    context = client_context(Identity(settings.identity_dir))
    if parts.username is not None:
        context.load_default_certs()  # somebody else's server: it has a certificate of an authority we may not know
    return context


def why_not(error: Exception) -> str:
    """Return why there is no connection, in words that never hold the address's password."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return (
            f"nats-server's certificate is not believed ({error.verify_message}). Check VIGIL_NATS_URL's host, and "
            "authority.pem in VIGIL_IDENTITY_DIR."
        )
    if _is_stranger(error):
        return "nats-server does not know us: check VIGIL_IDENTITY_DIR, or the user and password in VIGIL_NATS_URL."
    return f"nats-server does not answer ({type(error).__name__}). Start it with `vigil up`, or check VIGIL_NATS_URL."


def _is_stranger(error: Exception) -> bool:
    return "authorization violation" in str(error).lower()
