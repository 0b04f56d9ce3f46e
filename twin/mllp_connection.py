"""One sender's connection: frames in, acknowledgements out, reading only while there is room.

Here: the asyncio protocol of an MLLP connection, and who is at its other end.
Not here: accepting connections and TLS (twin.mllp_door), packing and storing (twin.ingress), framing (interop.mllp).
"""

from __future__ import annotations

import asyncio
import hashlib
import ssl
from typing import Protocol

from interop import mllp
from vocabulary.settings import FeedSettings
from vocabulary.tls import common_name

CONNECTION_BYTES = 4 * 1024 * 1024  # above this unacknowledged from one sender, that socket is not read
UNREAD_ACK_S = 60.0  # a sender that does not read its ACKs for this long is disconnected
_TLS_HELLO = b"\x16\x03"  # a handshake record of any version (RFC 8446 section 5.1)


class Receiver(Protocol):
    """What a connection hands its frames to: one feed's listener."""

    feed: FeedSettings
    connections: set[MllpConnection]
    noise_bytes: int

    @property
    def is_full(self) -> bool:
        """Return whether nothing more should be read."""

    def accept(self, connection: MllpConnection, frame: mllp.Frame) -> None:
        """Take a message."""

    def refuse(self, reason: str, peer: str, fingerprint: str = "") -> None:
        """Note that a sender was turned away."""


class MllpConnection(asyncio.Protocol):
    """One sender's connection: reads frames, writes ACKs in the order the frames came."""

    def __init__(self, receiver: Receiver) -> None:
        """Belong to a listener; asyncio calls the rest."""
        self._receiver = receiver
        self._framer = mllp.Framer(receiver.feed.max_message_bytes)
        self._transport: asyncio.Transport | None = None
        self._unacknowledged_bytes = 0
        self._is_ack_unread = False
        self._unread_timer: asyncio.TimerHandle | None = None
        self._is_silent = True  # nothing has come yet
        self._is_plain = True
        self.peer = ""
        self.client = ""  # common name of the certificate that was shown

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Remember who the sender is; hang up on one that may not speak on this feed. Its certificate was checked."""
        assert isinstance(transport, asyncio.Transport)
        peer = transport.get_extra_info("peername")
        self.peer = f"{peer[0]}:{peer[1]}" if peer else ""
        self._is_plain = transport.get_extra_info("ssl_object") is None
        self.client = common_name(transport.get_extra_info("peercert"))
        allowed = self._receiver.feed.client_names
        if allowed and self.client not in allowed:
            self._receiver.refuse("name not allowed", self.peer, _fingerprint(transport))
            transport.abort()
            return
        self._transport = transport
        self._receiver.connections.add(self)

    def data_received(self, data: bytes) -> None:
        """Frame the bytes and queue whole messages."""
        if self._transport is None:
            return  # came with the handshake of a sender that was turned away
        if self._is_silent and self._is_plain and data.startswith(_TLS_HELLO):
            # It would wait for ever: what it says is no message, and nobody answers its handshake.
            self._receiver.refuse("tls on a plain-text listener", self.peer)
            self._receiver.noise_bytes += len(data)
            self._transport.close()
            return
        self._is_silent = False
        for frame in self._framer.feed(data):
            self._unacknowledged_bytes += len(frame.body)
            self._receiver.accept(self, frame)
        self.regulate()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        """Keep what was cut off as evidence: it was never acknowledged, its sender will send it again."""
        self._receiver.connections.discard(self)
        if self._unread_timer is not None:
            self._unread_timer.cancel()
        remainder = self._framer.close()
        if remainder is not None:
            self._unacknowledged_bytes += len(remainder.body)
            self._receiver.accept(self, remainder)
        self._receiver.noise_bytes += self._framer.noise_bytes
        self._transport = None

    def pause_writing(self) -> None:
        """Stop reading from a sender that does not read its ACKs, and give it a minute."""
        self._is_ack_unread = True
        self._unread_timer = asyncio.get_running_loop().call_later(UNREAD_ACK_S, self.abort)
        self.regulate()

    def resume_writing(self) -> None:
        """Read again."""
        self._is_ack_unread = False
        if self._unread_timer is not None:
            self._unread_timer.cancel()
        self.regulate()

    def regulate(self) -> None:
        """Read from the socket only while there is room for what it brings."""
        if self._transport is None or self._transport.is_closing():
            return
        is_full = self._is_ack_unread or self._unacknowledged_bytes > CONNECTION_BYTES or self._receiver.is_full
        if is_full:
            self._transport.pause_reading()
        else:
            self._transport.resume_reading()

    def acknowledge(self, body_bytes: int, ack: bytes) -> None:
        """Answer one message, now on disk."""
        self._unacknowledged_bytes -= body_bytes
        self.regulate()
        if self._transport is not None and not self._transport.is_closing() and ack:
            self._transport.write(ack)

    def abort(self) -> None:
        """Drop the connection; its sender sends again what was not acknowledged."""
        if self._transport is not None:
            self._transport.abort()

    def close(self) -> None:
        """Close after the ACKs already written have left."""
        if self._transport is not None:
            self._transport.close()


def _fingerprint(transport: asyncio.Transport) -> str:
    """Return the SHA-256 of the certificate a peer has shown, "" where there is none: tells senders apart in a log."""
    secured: ssl.SSLObject | None = transport.get_extra_info("ssl_object")
    certificate = secured.getpeercert(binary_form=True) if secured is not None else None
    return hashlib.sha256(certificate).hexdigest() if certificate else ""
