"""MLLP listeners: bytes off sockets into RAW, acknowledged once they are on disk.

Here: packing, group commit, acknowledgements, ticks, backpressure, which feed speaks TLS and to whom.
Not here: accepting senders (twin.mllp_door), their connections (twin.mllp_connection), framing and ACK bytes (interop),
what messages mean (twin.normalizer).
Source: HL7 v2.6 chapter 2.9 (acknowledgement), MLLP release 1.
"""

from __future__ import annotations

import asyncio
import logging
import resource
import uuid
from collections import deque
from datetime import date
from pathlib import Path
from typing import NamedTuple

import msgspec

from interop import hl7v2, mllp
from stores.blob_keys import ArrivalsLock
from stores.blobs import BlobStore
from twin import health, process
from twin import listeners as doors
from twin.bus import Bus
from twin.door_services import DoorContext, door_for
from twin.mllp_connection import MllpConnection
from twin.mllp_door import Door, DoorTls
from twin.raw_writer import BLOB_BYTES, PACK_BYTES, PACK_MESSAGES, QUEUE_BYTES, Intake, RawWriter
from vocabulary.clock import Clock, SystemClock
from vocabulary.errors import ConfigurationError, StreamFullError, UnavailableError
from vocabulary.records import RawItem, RawPack, Rejected
from vocabulary.settings import FeedSettings, Settings
from vocabulary.tls import Identity

TICK_FEED = "tick"

_ENCODER = msgspec.msgpack.Encoder()
_log = logging.getLogger("vigil.ingress")


class Waiting(NamedTuple):
    """A message between its socket and RAW."""

    connection: MllpConnection
    frame: mllp.Frame
    received_at_us: int
    received_monotonic_ns: int


class FeedListener:
    """One feed: its sockets, its queue, and the committer that empties it."""

    def __init__(
        self, feed: FeedSettings, bus: Bus, clock: Clock, blobs: BlobStore, tls: DoorTls | None = None
    ) -> None:
        """Describe the feed; `start` listens. Without `tls` it speaks plain text."""
        self.feed = feed
        self.connections: set[MllpConnection] = set()
        self.noise_bytes = 0
        self.received = 0
        self.acknowledged = 0
        self._writer = RawWriter(feed.name, bus, clock, blobs)
        self._clock = clock
        self._queue: deque[Waiting] = deque()
        self._queued_bytes = 0
        self._wake = asyncio.Event()
        self._is_draining = False
        self._door = Door(feed.name, lambda: MllpConnection(self), lambda: len(self.connections), tls)

    @property
    def is_raw_full(self) -> bool:
        """Return whether RAW or the disk refuses at the moment."""
        return self._writer.is_raw_full

    @property
    def is_full(self) -> bool:
        """Return whether the queue holds as much as it may."""
        return self._queued_bytes > QUEUE_BYTES

    async def start(self, host: str) -> str:
        """Listen and return the address.

        Raises:
            ConfigurationError: the port is taken.
        """
        try:
            return await self._door.open(host, self.feed.port)
        except OSError as error:
            raise ConfigurationError(
                f"feed {self.feed.name} cannot listen on {host}:{self.feed.port}: {error.strerror}. "
                "Stop what listens there, or give the feed another port."
            ) from error

    @property
    def refused(self) -> int:
        """Return how many senders were turned away."""
        return self._door.refused.total()

    def refuse(self, reason: str, peer: str, fingerprint: str = "") -> None:
        """Note that a sender was turned away."""
        self._door.refuse(reason, peer, fingerprint)

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
            await self._writer.store(items)
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
        client = waiting.connection.client
        size = frame.size if frame.is_oversize else 0
        return await self._writer.item(
            RawItem(*times, frame.body, oversize_bytes=size, is_truncated=frame.is_truncated, client=client)
        )

    def _answer(self, waiting: Waiting, index: int) -> None:
        frame = waiting.frame
        if frame.is_truncated:
            waiting.connection.acknowledge(len(frame.body), b"")  # nobody waits for an answer to it
            return
        control_id = f"{self._writer.session[:6]}{self._writer.packs}-{index}"
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
        await self._door.close()
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


def tls_of(feed: FeedSettings, settings: Settings, today: date) -> DoorTls | None:
    """Return how a feed's listener speaks TLS, or None where it speaks plain text.

    Raises:
        ConfigurationError: the listener's certificate cannot be used, or the feed names its senders and could not tell
            them apart.
    """
    is_tls = settings.speaks_tls(feed.listener, today)
    if feed.client_names and not (is_tls and feed.requires_client_certificate):
        raise ConfigurationError(
            f"The feed {feed.name} names its senders (client_names), but asks for no certificates. Set "
            "VIGIL_TLS=always and the feed's requires_client_certificate, or remove client_names."
        )
    if not is_tls:
        return None
    identity = Identity(settings.server_identity or settings.data_dir / "identity" / "server")
    return DoorTls(
        identity,
        requires_client=feed.requires_client_certificate,
        revocations=_revocations(identity, settings.data_dir / "authority" / "listeners"),
    )


def _revocations(identity: Identity, house: Path) -> Path:
    """Return the revocation list of whoever issues the senders' certificates: the house itself, or others."""
    try:
        is_ours = identity.authority.read_bytes() == (house / "certificate.pem").read_bytes()
    except OSError:
        is_ours = False
    return (house if is_ours else identity.folder) / "revoked.pem"


def allow_many_connections() -> None:
    """Let this process open as many sockets as the system grants it: the usual 1,024 are fewer than beds."""
    now, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 16_384 if most == resource.RLIM_INFINITY else min(16_384, most)
    if now != resource.RLIM_INFINITY and now < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, most))


async def run(settings: Settings, bus: Bus, clock: Clock, stop: asyncio.Event) -> None:
    """Listen on every feed until `stop`; then commit and acknowledge what was received, and end."""
    blobs = BlobStore(settings.data_dir / "blobs", ArrivalsLock.load(settings.keys_dir / "arrivals.pub"))
    allow_many_connections()
    today = doors.today(SystemClock())
    listeners = [
        FeedListener(feed, bus, clock, blobs, tls_of(feed, settings, today))
        for feed in settings.feeds
        if feed.kind == "hl7v2"
    ]
    intakes = {
        feed.name: Intake(RawWriter(feed.name, bus, clock, blobs), clock)
        for feed in settings.feeds
        if feed.kind != "hl7v2"
    }
    services = {
        feed.name: door_for(DoorContext(feed, settings, bus, clock, blobs, intakes[feed.name], today))
        for feed in settings.feeds
        if feed.name in intakes
    }
    queues: list[FeedListener | Intake] = [*listeners, *intakes.values()]
    addresses = {listener.feed.name: await listener.start(settings.host) for listener in listeners}
    addresses |= {name: await service.start(settings.host) for name, service in services.items()}
    watch = RawWatch()

    def detail() -> health.Detail:
        return {
            **{f"{name}_address": address for name, address in addresses.items()},
            "received": sum(door.received for door in queues),
            "acknowledged": sum(listener.acknowledged for listener in listeners)
            + sum(intake.stored for intake in intakes.values()),
            "connections": sum(len(listener.connections) for listener in listeners),
            "senders_refused": sum(listener.refused for listener in listeners),
            "noise_bytes": sum(listener.noise_bytes for listener in listeners),
            "is_raw_full": watch.is_full or any(door.is_raw_full for door in queues),
            **{f"{name}_{key}": value for name, service in services.items() for key, value in service.detail().items()},
            "raw_refused_s": round(watch.refused_s(asyncio.get_running_loop().time()), 1),
        }

    address = " ".join(f"{name}={value}" for name, value in addresses.items())
    async with asyncio.TaskGroup() as tasks:
        committers = [tasks.create_task(door.commit_forever()) for door in queues]
        serving = [tasks.create_task(service.run()) for service in services.values()]

        def is_ready() -> bool:
            return bus.is_ready and all(service.is_ready for service in services.values())

        background = [
            tasks.create_task(tick_forever(bus, clock, settings.tick_interval_s, watch)),
            tasks.create_task(health.report(settings.data_dir / "run", "ingress", address, is_ready, detail)),
        ]
        await stop.wait()
        for listener in listeners:
            await listener.stop_listening()
        for service in services.values():
            await service.stop()
        for intake in intakes.values():
            intake.drain()
        # What was received but cannot be stored was never acknowledged: its sender keeps it.
        await asyncio.wait(committers, timeout=5)
        for listener in listeners:
            listener.close_connections()
        await process.end([*serving, *committers, *background])
