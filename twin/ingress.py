"""MLLP listeners: bytes off sockets into RAW, acknowledged once they are on disk.

Here: connections, packing, group commit, acknowledgements, ticks, backpressure.
Not here: framing and ACK bytes (interop), what messages mean (twin.normalizer).
Source: HL7 v2.6 chapter 2.9 (acknowledgement), MLLP release 1.
"""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections import deque
from typing import NamedTuple

import msgspec

from interop import hl7v2, mllp
from stores.blobs import BlobStore
from twin import health, process
from twin.bus import Bus
from vocabulary.clock import Clock
from vocabulary.errors import ConfigurationError, StreamFullError, UnavailableError
from vocabulary.records import RawItem, RawPack, Rejected
from vocabulary.settings import FeedSettings, Settings

PACK_MESSAGES = 500
PACK_BYTES = 512 * 1024  # a pack of 500 lab messages would pass nats-server's payload limit
BLOB_BYTES = 256 * 1024  # a larger body goes to the blob store; RAW carries its digest
QUEUE_BYTES = 32 * 1024 * 1024  # above this a feed's sockets are not read
CONNECTION_BYTES = 4 * 1024 * 1024  # above this unacknowledged from one sender, that socket is not read
UNREAD_ACK_S = 60.0  # a sender that does not read its ACKs for this long is disconnected
_RETRY_S = 0.25
TICK_FEED = "tick"

_ENCODER = msgspec.msgpack.Encoder()
_log = logging.getLogger("vigil.ingress")


class Waiting(NamedTuple):
    """A message between its socket and RAW."""

    connection: MllpConnection
    frame: mllp.Frame
    received_at_us: int
    received_monotonic_ns: int


class MllpConnection(asyncio.Protocol):
    """One sender's connection: reads frames, writes ACKs in the order the frames came."""

    def __init__(self, listener: FeedListener) -> None:
        """Belong to a listener; asyncio calls the rest."""
        self._listener = listener
        self._framer = mllp.Framer(listener.feed.max_message_bytes)
        self._transport: asyncio.Transport | None = None
        self._unacknowledged_bytes = 0
        self._is_ack_unread = False
        self._unread_timer: asyncio.TimerHandle | None = None
        self.peer = ""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Remember the sender's address."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        peer = transport.get_extra_info("peername")
        self.peer = f"{peer[0]}:{peer[1]}" if peer else ""
        self._listener.connections.add(self)

    def data_received(self, data: bytes) -> None:
        """Frame the bytes and queue whole messages."""
        for frame in self._framer.feed(data):
            self._unacknowledged_bytes += len(frame.body)
            self._listener.accept(self, frame)
        self.regulate()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        """Keep what was cut off as evidence: it was never acknowledged, its sender will send it again."""
        self._listener.connections.discard(self)
        if self._unread_timer is not None:
            self._unread_timer.cancel()
        remainder = self._framer.close()
        if remainder is not None:
            self._unacknowledged_bytes += len(remainder.body)
            self._listener.accept(self, remainder)
        self._listener.noise_bytes += self._framer.noise_bytes
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
        is_full = self._is_ack_unread or self._unacknowledged_bytes > CONNECTION_BYTES or self._listener.is_full
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


class FeedListener:
    """One feed: its sockets, its queue, and the committer that empties it."""

    def __init__(self, feed: FeedSettings, bus: Bus, clock: Clock, blobs: BlobStore) -> None:
        """Describe the feed; `start` listens."""
        self.feed = feed
        self.connections: set[MllpConnection] = set()
        self.noise_bytes = 0
        self.received = 0
        self.acknowledged = 0
        self.is_raw_full = False
        self._bus = bus
        self._clock = clock
        self._blobs = blobs
        self._queue: deque[Waiting] = deque()
        self._queued_bytes = 0
        self._wake = asyncio.Event()
        self._is_draining = False
        self._server: asyncio.Server | None = None
        self._pack_number = 0
        self._session = uuid.uuid4().hex[:12]  # makes pack ids and our ACK control ids unique over restarts

    @property
    def is_full(self) -> bool:
        """Return whether the queue holds as much as it may."""
        return self._queued_bytes > QUEUE_BYTES

    async def start(self, host: str) -> str:
        """Listen and return the address.

        Raises:
            ConfigurationError: the port is taken.
        """
        loop = asyncio.get_running_loop()
        try:
            self._server = await loop.create_server(lambda: MllpConnection(self), host, self.feed.port, backlog=512)
        except OSError as error:
            raise ConfigurationError(
                f"feed {self.feed.name} cannot listen on {host}:{self.feed.port}: {error.strerror}. "
                "Stop what listens there, or give the feed another port."
            ) from error
        address = self._server.sockets[0].getsockname()
        return f"{address[0]}:{address[1]}"

    def accept(self, connection: MllpConnection, frame: mllp.Frame) -> None:
        """Queue a message for the next pack."""
        self.received += 1
        was_full = self.is_full
        self._queued_bytes += len(frame.body)
        self._queue.append(Waiting(connection, frame, self._clock.now_us(), self._clock.monotonic_ns()))
        self._wake.set()
        if self.is_full and not was_full:
            self._regulate()

    def _regulate(self) -> None:
        for connection in self.connections:
            connection.regulate()

    async def commit_forever(self) -> None:
        """Pack what is queued, store it, acknowledge it; until `drain` and the queue is empty."""
        while True:
            if not self._queue:
                if self._is_draining:
                    return
                self._wake.clear()
                await self._wake.wait()
                continue
            taken = self._take()
            items = [await self._item(waiting) for waiting in taken]
            await self._store(items)
            was_full = self.is_full
            self._queued_bytes -= sum(len(waiting.frame.body) for waiting in taken)
            if was_full and not self.is_full:
                self._regulate()
            for index, waiting in enumerate(taken):
                self._answer(waiting, index)

    def _take(self) -> list[Waiting]:
        taken: list[Waiting] = []
        size = 0
        while self._queue and len(taken) < PACK_MESSAGES and size < PACK_BYTES:
            waiting = self._queue.popleft()
            size += min(len(waiting.frame.body), BLOB_BYTES)
            taken.append(waiting)
        return taken

    async def _item(self, waiting: Waiting) -> RawItem:
        frame = waiting.frame
        times = (waiting.received_at_us, waiting.received_monotonic_ns, waiting.connection.peer)
        if frame.is_oversize:
            return RawItem(*times, frame.body, oversize_bytes=frame.size, is_truncated=frame.is_truncated)
        if len(frame.body) > BLOB_BYTES:
            while True:
                try:
                    digest = await asyncio.to_thread(self._blobs.put, frame.body)
                except (OSError, UnavailableError):
                    self.is_raw_full = True  # the disk is full or gone: no ACK until the body is safe
                    await asyncio.sleep(_RETRY_S)
                else:
                    return RawItem(*times, b"", blob=digest, is_truncated=frame.is_truncated)
        return RawItem(*times, frame.body, is_truncated=frame.is_truncated)

    async def _store(self, items: list[RawItem]) -> None:
        """Append one pack to RAW; waits out a full stream and an absent server, since nobody was told it is safe."""
        self._pack_number += 1
        pack = RawPack(f"{self._session}-{self._pack_number}", self.feed.name, self._clock.now_us(), items)
        data = _ENCODER.encode(pack)
        while True:
            try:
                await self._bus.publish_raw(self.feed.name, pack.pack_id, data)
            except StreamFullError:
                self.is_raw_full = True
            except UnavailableError:
                pass
            else:
                self.is_raw_full = False
                return
            await asyncio.sleep(_RETRY_S)

    def _answer(self, waiting: Waiting, index: int) -> None:
        frame = waiting.frame
        if frame.is_truncated:
            waiting.connection.acknowledge(len(frame.body), b"")  # nobody waits for an answer to it
            return
        control_id = f"{self._session[:6]}{self._pack_number}-{index}"
        header = hl7v2.decode_header(frame.body)
        if frame.is_oversize:
            text = f"message of {frame.size} bytes is over this feed's limit of {self.feed.max_message_bytes}"
            ack = self._acknowledgement(None if isinstance(header, Rejected) else header, "R", control_id, text)
        elif isinstance(header, Rejected):
            ack = self._acknowledgement(None, "R", control_id, f"expected {header.expected} at {header.where}")
        elif header.message_type == "ACK":
            ack = b""  # an acknowledgement is never acknowledged
        else:
            ack = self._acknowledgement(header, "A", control_id, "")
        self.acknowledged += 1
        try:
            block = mllp.frame(ack) if ack else b""
        except ValueError:
            # What it repeats of a message in UTF-16 or ISO 2022 may form an end of block: it goes without repeating.
            block = mllp.frame(self._acknowledgement(None, "R" if frame.is_oversize else "A", control_id, ""))
        waiting.connection.acknowledge(len(frame.body), block)

    def _acknowledgement(self, header: hl7v2.Header | None, letter: str, control_id: str, text: str) -> bytes:
        # MSH-15 asks for enhanced mode: the commit acknowledgement (CA/CR) is what we can promise at this moment.
        is_enhanced = header is not None and bool(header.accept_ack)
        if is_enhanced and header is not None and header.accept_ack in {"NE", "ER"} and letter == "A":
            # NE wants none, ER only errors; original-mode senders on MLLP still wait for one, so AA is sent.
            is_enhanced = False
        code = ("C" if is_enhanced else "A") + letter
        return hl7v2.acknowledge(header, code, control_id=control_id, at_us=self._clock.now_us(), text=text)

    async def stop_listening(self) -> None:
        """Take no new connections; what is queued is still committed."""
        if self._server is not None:
            self._server.close()
        self._is_draining = True
        self._wake.set()

    def close_connections(self) -> None:
        """Close every connection after its last ACK."""
        for connection in list(self.connections):
            connection.close()


class RawWatch:
    """Whether RAW takes what it is given, as the ticks find: they come every second, whoever sends."""

    def __init__(self) -> None:
        """Start as if it did."""
        self.is_full = False
        self._refused_since: float | None = None

    def tell(self, error: UnavailableError | None, at_s: float) -> None:
        """Note how a tick fared at `at_s`, seconds of the event loop's clock; say so in the log when that changes."""
        self.is_full = isinstance(error, StreamFullError)
        if error is None and self._refused_since is not None:
            _log.warning("raw_takes_again", extra={"after_s": round(at_s - self._refused_since, 1)})
            self._refused_since = None
        elif error is not None and self._refused_since is None:
            _log.error("raw_refuses", extra={"reason": str(error)})
            self._refused_since = at_s

    def refused_s(self, at_s: float) -> float:
        """Return for how many seconds nothing could be stored."""
        return 0.0 if self._refused_since is None else max(0.0, at_s - self._refused_since)


async def tick_forever(bus: Bus, clock: Clock, interval_s: float, watch: RawWatch) -> None:
    """Append the log's clock to RAW; a tick that cannot be stored is replaced by the next, and `watch` is told."""
    session = uuid.uuid4().hex[:12]
    number = 0
    loop = asyncio.get_running_loop()
    due = loop.time()
    while True:
        number += 1
        pack = RawPack(f"{session}-t{number}", TICK_FEED, clock.now_us(), [])
        started_s = loop.time()
        try:
            await bus.publish_raw(TICK_FEED, pack.pack_id, _ENCODER.encode(pack))
        except UnavailableError as error:
            watch.tell(error, started_s)
        else:
            watch.tell(None, started_s)
        due = max(due + interval_s, loop.time())
        await asyncio.sleep(due - loop.time())


async def run(settings: Settings, bus: Bus, clock: Clock, stop: asyncio.Event) -> None:
    """Listen on every feed until `stop`; then commit and acknowledge what was received, and end."""
    blobs = BlobStore(settings.data_dir / "blobs")
    listeners = [FeedListener(feed, bus, clock, blobs) for feed in settings.feeds]
    addresses = {listener.feed.name: await listener.start(settings.host) for listener in listeners}
    watch = RawWatch()

    def detail() -> health.Detail:
        return {
            **{f"{name}_address": address for name, address in addresses.items()},
            "received": sum(listener.received for listener in listeners),
            "acknowledged": sum(listener.acknowledged for listener in listeners),
            "connections": sum(len(listener.connections) for listener in listeners),
            "noise_bytes": sum(listener.noise_bytes for listener in listeners),
            "is_raw_full": watch.is_full or any(listener.is_raw_full for listener in listeners),
            "raw_refused_s": round(watch.refused_s(asyncio.get_running_loop().time()), 1),
        }

    address = " ".join(f"{name}={value}" for name, value in addresses.items())
    async with asyncio.TaskGroup() as tasks:
        committers = [tasks.create_task(listener.commit_forever()) for listener in listeners]
        background = [
            tasks.create_task(tick_forever(bus, clock, settings.tick_interval_s, watch)),
            tasks.create_task(
                health.report(settings.data_dir / "run", "ingress", address, lambda: bus.is_connected, detail)
            ),
        ]
        await stop.wait()
        for listener in listeners:
            await listener.stop_listening()
        # What was received but cannot be stored was never acknowledged: its sender keeps it.
        await asyncio.wait(committers, timeout=5)
        for listener in listeners:
            listener.close_connections()
        await process.end([*committers, *background])
