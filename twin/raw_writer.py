"""Bodies into RAW: packed, fsynced, and only then told to be safe. Every door uses this and nothing else.

Here: large bodies to the blob store, packs, waiting out a full stream or an absent server, one queue a feed.
Not here: sockets and protocols (twin.ingress and its doors), what bodies mean (twin.normalizer).
"""

from __future__ import annotations

import asyncio
import uuid
from collections import deque
from typing import NamedTuple

import msgspec

from stores.blobs import BlobStore
from twin.bus import Bus
from vocabulary.clock import Clock
from vocabulary.errors import StreamFullError, UnavailableError
from vocabulary.records import RawItem, RawPack

PACK_MESSAGES = 500
PACK_BYTES = 512 * 1024  # a pack of 500 lab messages would pass nats-server's payload limit
BLOB_BYTES = 256 * 1024  # a larger body goes to the blob store; RAW carries its digest
QUEUE_BYTES = 32 * 1024 * 1024  # above this a feed takes nothing more until what waits is stored
_RETRY_S = 0.25

_ENCODER = msgspec.msgpack.Encoder()


class RawWriter:
    """Appends one feed's packs to RAW."""

    def __init__(self, feed: str, bus: Bus, clock: Clock, blobs: BlobStore) -> None:
        """Write for a feed; nothing is written yet."""
        self.session = uuid.uuid4().hex[:12]  # makes pack ids and ACK control ids unique over restarts
        self.packs = 0
        self.is_raw_full = False
        self._feed = feed
        self._bus = bus
        self._clock = clock
        self._blobs = blobs

    async def item(self, item: RawItem) -> RawItem:
        """Return an item as RAW carries it: a body too large for a pack is on disk in the blob store afterwards."""
        if item.oversize_bytes or len(item.body) <= BLOB_BYTES:
            return item
        while True:
            try:
                digest = await asyncio.to_thread(self._blobs.put, item.body)
            except (OSError, UnavailableError):
                self.is_raw_full = True  # the disk is full or gone: nobody is told it is safe before it is
                await asyncio.sleep(_RETRY_S)
            else:
                return msgspec.structs.replace(item, body=b"", blob=digest)

    async def store(self, items: list[RawItem]) -> None:
        """Append one pack to RAW; waits out a full stream and an absent server, since nobody was told it is safe."""
        self.packs += 1
        pack = RawPack(f"{self.session}-{self.packs}", self._feed, self._clock.now_us(), items)
        data = _ENCODER.encode(pack)
        while True:
            try:
                await self._bus.publish_raw(self._feed, pack.pack_id, data)
            except StreamFullError:
                self.is_raw_full = True
            except UnavailableError:
                pass
            else:
                self.is_raw_full = False
                return
            await asyncio.sleep(_RETRY_S)


class _Waiting(NamedTuple):
    """A body between its door and RAW."""

    item: RawItem
    stored: asyncio.Future[None]


class Intake:
    """One feed's queue for doors that wait for each body: `keep` returns once it is safe.

    What is kept in one moment shares a pack, so that a hundred senders cost one fsync.
    """

    def __init__(self, writer: RawWriter, clock: Clock) -> None:
        """Feed a writer; `commit_forever` does the work."""
        self.received = 0
        self.stored = 0
        self._writer = writer
        self._clock = clock
        self._queue: deque[_Waiting] = deque()
        self._queued_bytes = 0
        self._wake = asyncio.Event()
        self._room = asyncio.Event()
        self._room.set()
        self._is_draining = False

    @property
    def is_raw_full(self) -> bool:
        """Return whether RAW or the disk refuses at the moment."""
        return self._writer.is_raw_full

    async def keep(self, body: bytes, *, peer: str, client: str = "", oversize_bytes: int = 0) -> None:
        """Return once a body is on disk; only then may its sender be told.

        Waits while the feed's queue is full. A caller that is cancelled (its sender hung up) leaves the body in the
        queue: it is stored, its sender sends it again, and the normalizer finds the repetition.

        Args:
            body: as it came.
            peer: "host:port" of the sender.
            client: common name of its certificate, or the subject of its token.
            oversize_bytes: the size of a body over the feed's limit; `body` then holds its beginning.
        """
        item = RawItem(
            self._clock.now_us(), self._clock.monotonic_ns(), peer, body, oversize_bytes=oversize_bytes, client=client
        )
        while self._queued_bytes > QUEUE_BYTES:
            self._room.clear()
            await self._room.wait()
        self.received += 1
        self._queued_bytes += len(body)
        waiting = _Waiting(item, asyncio.get_running_loop().create_future())
        self._queue.append(waiting)
        self._wake.set()
        await asyncio.shield(waiting.stored)

    async def commit_forever(self) -> None:
        """Store what is queued; until `drain` and the queue is empty."""
        while True:
            if not self._queue:
                if self._is_draining:
                    return
                self._wake.clear()
                await self._wake.wait()
                continue
            taken: list[_Waiting] = []
            size = 0
            while self._queue and len(taken) < PACK_MESSAGES and size < PACK_BYTES:
                waiting = self._queue.popleft()
                size += min(len(waiting.item.body), BLOB_BYTES)
                taken.append(waiting)
            await self._writer.store([await self._writer.item(waiting.item) for waiting in taken])
            self._queued_bytes -= sum(len(waiting.item.body) for waiting in taken)
            self._room.set()
            self.stored += len(taken)
            for waiting in taken:
                if not waiting.stored.done():
                    waiting.stored.set_result(None)

    def drain(self) -> None:
        """Let `commit_forever` end once the queue is empty."""
        self._is_draining = True
        self._wake.set()
