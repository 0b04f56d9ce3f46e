"""The bus: NATS JetStream, as the twin's processes use it.

Here: the four streams, packed durable publishing, an ordered reader of RAW, snapshots out and in.
Not here: what the bytes mean (the processes), starting a server (orchestration.embedded).
Why not nats-py's fetch(): measured 3–5 times slower than a raw pull request with a callback.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from typing import NamedTuple

import msgspec
import nats
import nats.errors
import nats.js.errors
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from nats.js.api import (
    AckPolicy,
    ConsumerConfig,
    DeliverPolicy,
    DiscardPolicy,
    StorageType,
    StreamConfig,
)

from vocabulary.errors import StreamFullError, UnavailableError
from vocabulary.snapshot import Publication

RAW = "RAW"
EVENTS = "EVENTS"
SNAPSHOTS = "SNAPSHOTS"
TWINS = "KV_twins"
TWINS_SUBJECT = "$KV.twins."
TICK_SUBJECT = "EVENTS.tick"

_PULL_BATCH = 256  # packs asked for at once: at most 128 MiB in memory
_PULL_EXPIRES_NS = 20_000_000_000
_SILENCE_S = 30.0  # no pack, no status: the consumer is gone (server restart); make it anew
_STREAM_FULL_CODES = {10077, 10047, 10023, 10122}  # max bytes, storage resources, insufficient resources, reserved
_PUBLICATION = msgspec.msgpack.Decoder(Publication)

# What nats-py raises when the server or the connection is away; all are waited out.
_AWAY = (
    nats.errors.Error,
    nats.js.errors.Error,
    asyncio.TimeoutError,
    ConnectionError,
    OSError,
)


class RawMessage(NamedTuple):
    """One pack as RAW holds it."""

    sequence: int
    data: bytes


class RawExtent(NamedTuple):
    """Which RAW stream this is, and what it holds."""

    identity: str  # name and creation time: a stream made anew has another identity
    first_sequence: int
    last_sequence: int
    bytes: int


def subject_token(text: str) -> str:
    """Return `text` as one token of a subject: NATS allows no spaces, dots or wildcards in it."""
    return re.sub(r"[^A-Za-z0-9_-]", "_", text) or "_"


class Bus:
    """One connection to NATS."""

    def __init__(self, client: Client, reconnections: list[Callable[[], None]]) -> None:
        """Use `Bus.connect`."""
        self._client = client
        self._jetstream = client.jetstream(timeout=5)
        self._reconnections = reconnections

    @classmethod
    async def connect(cls, url: str, name: str, timeout_s: float = 10) -> Bus:
        """Connect and keep reconnecting for as long as the process lives.

        Raises:
            UnavailableError: no server answered within `timeout_s`.
        """
        reconnections: list[Callable[[], None]] = []

        async def on_reconnect() -> None:
            for callback in reconnections:
                callback()

        async def on_error(_error: Exception) -> None:
            # Each failed call reports its own error; nats-py would also print this one, with the URL's password.
            return

        deadline = asyncio.get_running_loop().time() + timeout_s
        while True:
            try:
                client = await nats.connect(
                    url,
                    name=name,
                    connect_timeout=2,
                    allow_reconnect=True,
                    max_reconnect_attempts=-1,
                    reconnect_time_wait=0.2,
                    ping_interval=5,
                    max_outstanding_pings=2,
                    pending_size=64 * 1024 * 1024,
                    reconnected_cb=on_reconnect,
                    error_cb=on_error,
                )
                return cls(client, reconnections)
            except _AWAY as error:
                if asyncio.get_running_loop().time() > deadline:
                    raise UnavailableError(
                        f"nats-server does not answer ({type(error).__name__}). Start it with `vigil up`, "
                        "or check VIGIL_NATS_URL."
                    ) from None
                await asyncio.sleep(0.2)

    @property
    def is_connected(self) -> bool:
        """Return whether the connection is up at this moment."""
        return bool(self._client.is_connected)

    def on_reconnect(self, callback: Callable[[], None]) -> None:
        """Call `callback` after each reconnection: what lived in the server's memory may be gone."""
        self._reconnections.append(callback)

    async def close(self) -> None:
        """Flush and close; returns at once when the server is away."""
        try:
            await asyncio.wait_for(self._client.close(), timeout=3)
        except _AWAY:
            return

    async def ensure_streams(self, raw_max_bytes: int) -> None:
        """Create the streams that are missing: RAW on disk, the derived ones in memory.

        Raises:
            UnavailableError: the server does not answer or has no room for the streams.
        """
        memory_bytes = 256 * 1024 * 1024
        wanted = [
            # Discard NEW: what a sender was told is safe is never pushed out by what comes later.
            StreamConfig(
                name=RAW, subjects=["RAW.>"], storage=StorageType.FILE, discard=DiscardPolicy.NEW,
                max_bytes=raw_max_bytes, duplicate_window=120, allow_direct=True,
            ),
            StreamConfig(
                name=EVENTS, subjects=["EVENTS.>"], storage=StorageType.MEMORY, discard=DiscardPolicy.OLD,
                max_bytes=memory_bytes, max_age=900,
            ),
            StreamConfig(
                name=SNAPSHOTS, subjects=["SNAPSHOTS.>"], storage=StorageType.MEMORY, discard=DiscardPolicy.OLD,
                max_bytes=memory_bytes, max_age=300,
            ),
            StreamConfig(
                name=TWINS, subjects=[TWINS_SUBJECT + ">"], storage=StorageType.MEMORY, discard=DiscardPolicy.NEW,
                max_bytes=memory_bytes, max_msgs_per_subject=1, allow_rollup_hdrs=True, deny_delete=True,
                allow_direct=True,
            ),
        ]  # fmt: skip
        try:
            for config in wanted:
                try:
                    info = await self._jetstream.stream_info(config.name or "")
                except nats.js.errors.NotFoundError:
                    await self._jetstream.add_stream(config)
                else:
                    if config.name == RAW and info.config.max_bytes != raw_max_bytes:
                        await self._jetstream.update_stream(config)
        except _AWAY as error:
            raise UnavailableError(f"JetStream could not provide the streams: {error}") from error

    async def publish_raw(self, feed: str, pack_id: str, data: bytes) -> int:
        """Append a pack to RAW and return its sequence once it is on disk.

        A retry with the same `pack_id` within two minutes is stored once.

        Raises:
            StreamFullError: RAW takes no more bytes.
            UnavailableError: no acknowledgement; the pack may or may not be stored, so retry with the same id.
        """
        try:
            ack = await self._jetstream.publish(f"RAW.{feed}", data, timeout=5, headers={"Nats-Msg-Id": pack_id})
        except nats.js.errors.APIError as error:
            if error.err_code in _STREAM_FULL_CODES:
                raise StreamFullError("RAW is full: raise VIGIL_RAW_MAX_BYTES or free its disk.") from error
            raise UnavailableError(f"RAW refused a pack: {error.description}") from error
        except _AWAY as error:
            raise UnavailableError(f"RAW did not acknowledge ({type(error).__name__})") from error
        return ack.seq

    async def raw_extent(self) -> RawExtent:
        """Return which RAW stream this is and what it holds.

        Raises:
            UnavailableError: the server does not answer.
        """
        try:
            answer = await self._client.request(f"$JS.API.STREAM.INFO.{RAW}", b"", timeout=5)
        except _AWAY as error:
            raise UnavailableError(f"JetStream does not answer ({type(error).__name__})") from error
        info = json.loads(answer.data)
        if "error" in info:
            raise UnavailableError(f"JetStream has no RAW stream: {info['error'].get('description', '')}")
        state = info["state"]
        return RawExtent(f"{RAW} {info['created']}", state["first_seq"], state["last_seq"], state["bytes"])

    def raw_reader(self, after: int) -> RawReader:
        """Return a reader of RAW that starts behind sequence `after`."""
        return RawReader(self._client, after)

    async def trim_raw(self, up_to: int) -> None:
        """Remove packs with sequence ≤ `up_to` from RAW; the caller has sealed them elsewhere.

        Raises:
            UnavailableError: the server does not answer.
        """
        try:
            await self._jetstream.purge_stream(RAW, seq=up_to + 1)
        except _AWAY as error:
            raise UnavailableError(f"RAW was not trimmed ({type(error).__name__})") from error

    async def publish_events(self, batches: list[tuple[int, bytes]], tick: bytes | None = None) -> None:
        """Hand batches (partition, bytes) and a tick to the engines. Losing them is safe: PostgreSQL has them."""
        try:
            for partition, data in batches:
                await self._client.publish(f"EVENTS.{partition}", data)
            if tick is not None:
                await self._client.publish(TICK_SUBJECT, tick)
        except _AWAY:
            # The engine finds the gap by `previous` and reads the partition log.
            return

    async def subscribe_events(self, handler: Callable[[bytes], None]) -> Subscription:
        """Call `handler` with the bytes of every batch and tick from now on."""

        async def on_message(message: Msg) -> None:
            handler(message.data)

        return await self._client.subscribe(
            "EVENTS.>", cb=on_message, pending_msgs_limit=1_000_000, pending_bytes_limit=512 * 1024 * 1024
        )

    async def publish_snapshots(self, publications: list[tuple[Publication, bytes]]) -> None:
        """Put snapshots in `twins` and on SNAPSHOTS.<ward>, and wait until the server has taken them.

        Raises:
            UnavailableError: the server did not answer; publish again.
        """
        try:
            for publication, encoded in publications:
                await self._client.publish(f"{TWINS_SUBJECT}{publication.patient_id}", publication.body)
                await self._client.publish(f"{SNAPSHOTS}.{subject_token(publication.ward)}", encoded)
            await self._client.flush(timeout=5)
        except _AWAY as error:
            raise UnavailableError(f"snapshots were not taken ({type(error).__name__})") from error

    async def snapshots(self) -> dict[int, bytes]:
        """Return the latest snapshot's bytes of every twin, by patient id.

        Raises:
            UnavailableError: the server does not answer.
        """
        found: dict[int, bytes] = {}
        try:
            subscription = await self._jetstream.subscribe(
                TWINS_SUBJECT + ">",
                ordered_consumer=True,
                deliver_policy=DeliverPolicy.LAST_PER_SUBJECT,
                pending_msgs_limit=1_000_000,
                pending_bytes_limit=512 * 1024 * 1024,
            )
            info = await subscription.consumer_info()
            # What was waiting when the consumer was made: delivered meanwhile, or still to come.
            waiting = (info.num_pending or 0) + (info.delivered.consumer_seq if info.delivered else 0)
            while waiting > 0:
                message = await subscription.next_msg(timeout=5)
                found[int(message.subject.rsplit(".", 1)[1])] = message.data
                waiting -= 1
            await subscription.unsubscribe()
        except _AWAY as error:
            raise UnavailableError(f"the twins bucket does not answer ({type(error).__name__})") from error
        return found

    async def follow(self) -> AsyncIterator[Publication]:
        """Yield every snapshot published from now on, of all wards."""
        arrived: asyncio.Queue[bytes] = asyncio.Queue()

        async def on_message(message: Msg) -> None:
            arrived.put_nowait(message.data)

        subscription = await self._client.subscribe(
            SNAPSHOTS + ".>", cb=on_message, pending_msgs_limit=1_000_000, pending_bytes_limit=512 * 1024 * 1024
        )
        try:
            while True:
                yield _PUBLICATION.decode(await arrived.get())
        finally:
            with suppress(*_AWAY):
                await subscription.unsubscribe()


class RawReader:
    """Reads RAW in order, without acknowledging: the position in PostgreSQL is the only one that counts."""

    def __init__(self, client: Client, after: int) -> None:
        """Describe a reader behind sequence `after`; nothing is asked of the server yet."""
        self._client = client
        self._jetstream = client.jetstream(timeout=5)
        self._after = after
        self._arrived: deque[RawMessage] = deque()
        self._wake = asyncio.Event()
        self._subscription: Subscription | None = None
        self._consumer = ""
        self._inbox = ""
        self._outstanding = 0
        self._heard_at = 0.0
        self._last_arrived: int | None = None

    async def _open(self) -> None:
        await self.close()
        self._arrived.clear()
        self._outstanding = 0
        self._last_arrived = None
        config = ConsumerConfig(
            deliver_policy=DeliverPolicy.BY_START_SEQUENCE,
            opt_start_seq=self._after + 1,
            ack_policy=AckPolicy.NONE,
            inactive_threshold=60,
            mem_storage=True,
        )
        info = await self._jetstream.add_consumer(RAW, config)
        self._consumer = info.name
        self._inbox = self._client.new_inbox()
        self._subscription = await self._client.subscribe(
            self._inbox, cb=self._on_message, pending_msgs_limit=100_000, pending_bytes_limit=1024 * 1024 * 1024
        )
        self._heard_at = asyncio.get_running_loop().time()

    async def _on_message(self, message: Msg) -> None:
        if message.headers and "Status" in message.headers:
            self._outstanding = 0
            if message.headers["Status"] in {"404", "408"}:  # the request ended: the next take() asks again
                self._heard_at = asyncio.get_running_loop().time()
            else:  # 409, 503: the consumer is gone
                self._lose()
        else:
            # $JS.ACK.RAW.<consumer>.<delivered>.<stream seq>.<consumer seq>.<time>.<pending>
            sequence = int(message.reply.split(".")[-4])
            if self._last_arrived not in {None, sequence - 1}:
                self._lose()  # packs were dropped on the way: read again from the last one taken
                return
            self._last_arrived = sequence
            self._heard_at = asyncio.get_running_loop().time()
            self._outstanding -= 1
            self._arrived.append(RawMessage(sequence, message.data))
        self._wake.set()

    async def _request(self) -> None:
        body = json.dumps({"batch": _PULL_BATCH, "expires": _PULL_EXPIRES_NS}).encode()
        await self._client.publish(f"$JS.API.CONSUMER.MSG.NEXT.{RAW}.{self._consumer}", body, reply=self._inbox)
        self._outstanding = _PULL_BATCH

    async def take(self, timeout_s: float) -> list[RawMessage]:
        """Return what has arrived, in order and without holes, or an empty list after `timeout_s`.

        Raises:
            UnavailableError: the server does not answer; call again.
        """
        loop = asyncio.get_running_loop()
        try:
            if self._subscription is None or loop.time() - self._heard_at > _SILENCE_S:
                await self._open()
            if not self._arrived:
                if self._outstanding <= 0:
                    await self._request()
                self._wake.clear()
                try:
                    await asyncio.wait_for(self._wake.wait(), timeout_s)
                except TimeoutError:
                    return []
        except _AWAY as error:
            self._subscription = None
            raise UnavailableError(f"RAW cannot be read ({type(error).__name__})") from error
        taken: list[RawMessage] = []
        while self._arrived and len(taken) < _PULL_BATCH:
            message = self._arrived.popleft()
            if message.sequence <= self._after:
                continue
            self._after = message.sequence
            taken.append(message)
        return taken

    def _lose(self) -> None:
        self._heard_at = float("-inf")

    async def close(self) -> None:
        """Stop reading."""
        if self._subscription is not None:
            with suppress(*_AWAY):
                await self._subscription.unsubscribe()
            self._subscription = None
