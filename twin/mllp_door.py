"""The door of a feed: who gets in, and how many at once.

Here: listening sockets, TLS handshakes with a time limit, what is refused and why, certificates renewed while running.
Not here: what a connection says (twin.mllp_connection), which feeds speak TLS (vocabulary.settings).
Source: RFC 8446, RFC 5246; IHE ATNA (mutual authentication); RFC 5280 section 5 (revocation lists).
"""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
import ssl
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from twin import process
from vocabulary.errors import ConfigurationError
from vocabulary.tls import Identity, server_context

HANDSHAKE_S = 10.0  # a sender that has not finished its handshake by then is disconnected
SHUTDOWN_S = 5.0
MOST_HANDSHAKES = 256  # strangers cannot fill the door: more that have not proved who they are are turned away
MOST_CONNECTIONS = 2048  # a bed each, with room; above this new senders are turned away and come again
CERTIFICATES_LOOKED_AT_S = 5.0
_LOGGED_AGAIN_S = 10.0  # a port scan must not fill the log
_NO_ROOM = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}
_log = logging.getLogger("vigil.ingress")


class DoorTls:
    """How a feed's listener speaks TLS; follows its files, so that a renewal or a revocation needs no restart."""

    def __init__(self, identity: Identity, *, requires_client: bool, revocations: Path) -> None:
        """Load the certificate, and the revocation list where there is one.

        Args:
            identity: shown to senders; its authorities are whom we believe.
            requires_client: whether a sender must show a certificate.
            revocations: a certificate revocation list (PEM) of the authority; need not exist.

        Raises:
            ConfigurationError: a file is missing or unusable.
        """
        self._identity = identity
        self._requires_client = requires_client
        self._revocations = revocations
        self._stamps = self._files()
        self._refused_stamps: object = None
        self.context = self._made()

    def refresh(self) -> None:
        """Use what the files hold now for connections that are made from now on; what was loaded stays if they fail."""
        stamps = self._files()
        if stamps in (self._stamps, self._refused_stamps):
            return
        try:
            self.context = self._made()
        except ConfigurationError as error:
            self._refused_stamps = stamps  # half of a renewal is looked at again when the other half is there
            _log.error("certificate_not_loaded", extra={"reason": str(error)})
        else:
            self._stamps = stamps
            _log.info("certificate_loaded")

    def _files(self) -> tuple[tuple[int, int, int] | None, ...]:
        files = (self._identity.certificate, self._identity.key, self._identity.authority, self._revocations)
        return tuple(_stamp(file) for file in files)

    def _made(self) -> ssl.SSLContext:
        context = server_context(self._identity, requires_client=self._requires_client)
        # A resumed session would skip the check of a certificate that has expired or was revoked meanwhile.
        context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_TICKET
        context.num_tickets = 0
        if self._requires_client and self._revocations.exists():
            try:
                context.load_verify_locations(self._revocations)
            except (OSError, ssl.SSLError):
                raise ConfigurationError(f"The revocation list {self._revocations} cannot be read.") from None
            context.verify_flags |= ssl.VERIFY_CRL_CHECK_LEAF
        return context


def _stamp(file: Path) -> tuple[int, int, int] | None:
    try:
        found = file.stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size


class Door:
    """Listens for one feed and lets senders in."""

    def __init__(
        self, feed: str, made: Callable[[], asyncio.Protocol], connected: Callable[[], int], tls: DoorTls | None
    ) -> None:
        """Describe the door; nothing listens yet.

        Args:
            feed: its name, for the log.
            made: makes the protocol of a connection whose handshake has succeeded.
            connected: how many connections there are.
            tls: how it speaks TLS; None for plain text.
        """
        self.tls = tls
        self.refused: Counter[str] = Counter()
        self._feed = feed
        self._made = made
        self._connected = connected
        self._sockets: list[socket.socket] = []
        self._accepting: list[asyncio.Task[None]] = []
        self._handshakes: set[asyncio.Task[None]] = set()
        self._logged: dict[str, float] = {}

    async def open(self, host: str, port: int) -> str:
        """Listen and return the address.

        Raises:
            OSError: the address cannot be listened on.
        """
        loop = asyncio.get_running_loop()
        found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        try:
            for family, address in dict.fromkeys((one[0], one[4]) for one in found):
                listening = socket.create_server(address[:2], family=family, backlog=512)
                listening.setblocking(False)
                self._sockets.append(listening)
        except OSError:
            self._close_sockets()
            raise
        self._accepting = [asyncio.create_task(self._accept_forever(one)) for one in self._sockets]
        if self.tls is not None:
            self._accepting.append(asyncio.create_task(self._follow_files(self.tls)))
        name, number = self._sockets[0].getsockname()[:2]
        return f"[{name}]:{number}" if ":" in name else f"{name}:{number}"

    async def close(self) -> None:
        """Let nobody in any more; connections that are open stay."""
        await process.end([*self._accepting, *self._handshakes])
        self._close_sockets()

    def refuse(self, reason: str, peer: str, fingerprint: str = "") -> None:
        """Count a sender that was turned away, and log it unless the same was logged a moment ago."""
        self.refused[reason] += 1
        now = asyncio.get_running_loop().time()
        if now - self._logged.get(reason, float("-inf")) < _LOGGED_AGAIN_S:
            return
        self._logged[reason] = now
        _log.warning(
            "sender_refused",
            extra={
                "feed": self._feed,
                "reason": reason,
                "peer": peer,
                "fingerprint": fingerprint,
                "times": self.refused[reason],
            },
        )

    def _close_sockets(self) -> None:
        for one in self._sockets:
            one.close()
        self._sockets.clear()

    async def _accept_forever(self, listening: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                accepted, address = await loop.sock_accept(listening)
            except OSError as error:
                if error.errno in _NO_ROOM:
                    _log.error("cannot_accept", extra={"feed": self._feed, "reason": error.strerror})
                # Nothing else is known to last, but a loop without a pause would stop all that is already let in.
                await asyncio.sleep(1 if error.errno in _NO_ROOM else 0.01)
                continue
            peer = f"{address[0]}:{address[1]}"
            if len(self._handshakes) >= MOST_HANDSHAKES or self._connected() >= MOST_CONNECTIONS:
                accepted.close()
                self.refuse("too many connections", peer)
                continue
            task = asyncio.create_task(self._admit(accepted, peer))
            self._handshakes.add(task)
            task.add_done_callback(self._handshakes.discard)

    async def _admit(self, accepted: socket.socket, peer: str) -> None:
        loop = asyncio.get_running_loop()
        try:
            accepted.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)  # a sender that lost its power goes away
            # asyncio sets this only on sockets it made itself; without it an ACK waits 40 ms for more from its sender.
            accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self.tls is None:
                await loop.connect_accepted_socket(self._made, accepted)
            else:
                await loop.connect_accepted_socket(
                    self._made,
                    accepted,
                    ssl=self.tls.context,
                    ssl_handshake_timeout=HANDSHAKE_S,
                    ssl_shutdown_timeout=SHUTDOWN_S,
                )
        except ssl.SSLCertVerificationError as error:
            self.refuse(error.verify_message, peer)
        except ssl.SSLError as error:
            self.refuse((error.reason or "TLS failed").lower().replace("_", " "), peer)
        except (OSError, TimeoutError):
            accepted.close()  # asyncio does, but for a socket that it never got
            self.refuse("handshake not finished", peer)

    async def _follow_files(self, tls: DoorTls) -> None:
        while True:
            await asyncio.sleep(CERTIFICATES_LOOKED_AT_S)
            tls.refresh()
