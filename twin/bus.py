"""The bus: NATS JetStream, as the twin's processes use it.

Here: the four streams, packed durable publishing, snapshots out and in, and who we are there.
Not here: what the bytes mean (the processes), starting a server (orchestration.embedded), who may do what on it
(orchestration.nats_configuration).
"""

from __future__ import annotations

import asyncio
import json
import logging
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from typing import NamedTuple
from urllib.parse import urlsplit

import msgspec
import nats
import nats.errors
import nats.js.errors
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from nats.js.api import StreamConfig

from twin.bus_link import Link, SteadyClient, bus_context, why_not
from twin.raw_reader import AWAY, RawMessage, RawReader
from twin.streams import streams
from twin.subjects import (
    EVENTS,
    RAW,
    SNAPSHOTS,
    TICK_SUBJECT,
    TWINS,
    TWINS_SUBJECT,
    inbox_prefix,
    subject_token,
)
from vocabulary.errors import ConfigurationError, StreamFullError, UnavailableError
from vocabulary.settings import Settings
from vocabulary.snapshot import Publication

__all__ = ["Bus", "RawExtent", "RawMessage", "RawReader", "bus_context", "open_bus"]

_STREAM_FULL_CODES = {10077, 10047, 10023, 10122}  # max bytes, storage resources, insufficient resources, reserved
_TWINS_A_PAGE = 1000
_TWINS_WITHIN_S = 30.0  # wait_for may lose its cancellation to a message that is there (Python 3.11): counted here too
_TAKEN_WITHIN_S = 30.0
_PAGES_CHASED = 8  # under a load that never pauses, what is published meanwhile is not followed for ever
_PUBLICATION = msgspec.msgpack.Decoder(Publication)

_log = logging.getLogger("vigil.bus")


class RawExtent(NamedTuple):
    """Which RAW stream this is, and what it holds."""

    identity: str  # name and creation time: a stream made anew has another identity
    first_sequence: int
    last_sequence: int
    bytes: int


async def open_bus(settings: Settings, name: str, timeout_s: float = 10) -> Bus:
    """Connect as the process `name`, to the server and with the identity that the settings name.

    Raises:
        ConfigurationError: no address is set, or the identity cannot be used.
        UnavailableError: no server answered within `timeout_s`, or it does not know us.
    """
    if settings.nats_url is None:
        raise ConfigurationError("VIGIL_NATS_URL is not set; `vigil up` sets it for the processes it starts.")
    url = settings.nats_url.get_secret_value()
    return await Bus.connect(url, name, bus_context(settings, url), timeout_s)


class Bus:
    """One connection to NATS."""

    def __init__(self, client: Client, link: Link, *, makes_streams: bool) -> None:
        """Use `Bus.connect`."""
        self._client = client
        self._makes_streams = makes_streams
        self._jetstream = client.jetstream(timeout=5)
        self._link = link

    @classmethod
    async def connect(cls, url: str, name: str, tls: ssl.SSLContext | None = None, timeout_s: float = 10) -> Bus:
        """Connect and keep reconnecting for as long as the process lives.

        Args:
            url: nats://… or tls://…, with user and password where the server wants them.
            name: the process's name; it hears answers below `inbox_prefix(name)`.
            tls: shows who we are and checks who the server is; None for plain text.
            timeout_s: how long to wait for the server.

        Raises:
            UnavailableError: no server answered within `timeout_s`, or it does not know us.
        """
        link = Link()
        client = SteadyClient()
        connecting = client.connect(
            url,
            name=f"vigil {name}",
            tls=tls,
            inbox_prefix=inbox_prefix(name),
            connect_timeout=2,
            allow_reconnect=True,
            max_reconnect_attempts=-1,
            reconnect_time_wait=0.2,  # type: ignore[arg-type]  # it is slept: fractions work
            ping_interval=5,
            max_outstanding_pings=2,
            pending_size=64 * 1024 * 1024,
            reconnected_cb=link.on_reconnect,
            error_cb=link.on_error,
            closed_cb=link.on_closed,
        )
        try:
            # One that reconnects for ever also tries for ever the first time: the limit is ours.
            await asyncio.wait_for(connecting, timeout_s)
        except AWAY as error:
            link.is_closing = True
            with suppress(*AWAY):
                await asyncio.wait_for(client.close(), timeout=3)
            raise UnavailableError(why_not(link.last_error or error)) from None
        is_known_by_certificate = tls is not None and urlsplit(url).username is None
        return cls(client, link, makes_streams=not is_known_by_certificate)

    @property
    def is_connected(self) -> bool:
        """Return whether the connection is up at this moment."""
        return bool(self._client.is_connected)

    @property
    def is_ready(self) -> bool:
        """Return whether the connection is up and the server has refused nothing we asked for on it."""
        return self.is_connected and not self._link.denied

    @property
    def denied(self) -> frozenset[tuple[str, str]]:
        """Return what the server refused since it was last connected: (publish or subscription, class of subject)."""
        return frozenset(self._link.denied)

    @property
    def dropped(self) -> int:
        """Return how many messages were not what their subjects say: not to be decoded, or of another subject."""
        return self._link.dropped

    def on_reconnect(self, callback: Callable[[], None]) -> None:
        """Call `callback` after each reconnection: what lived in the server's memory may be gone."""
        self._link.reconnections.append(callback)

    async def wait_ended(self) -> None:
        """Wait until the connection has ended for good: `close` was called, or the server no longer knows us."""
        await self._link.ended.wait()

    async def close(self) -> None:
        """Flush and close; returns at once when the server is away."""
        self._link.is_closing = True
        try:
            await asyncio.wait_for(self._client.close(), timeout=3)
        except AWAY:
            return

    @classmethod
    async def set_up(
        cls,
        url: str,
        tls: ssl.SSLContext | None,
        raw_max_bytes: int,
        timeout_s: float = 20,
        *,
        may_make_raw: bool = True,
    ) -> None:
        """Connect as `setup`, make the streams that are missing, and leave: `vigil up`, before any process starts.

        Args:
            url: of the server.
            tls: who we are.
            raw_max_bytes: the size at which RAW takes no more.
            timeout_s: how long to wait for the server.
            may_make_raw: False where the server's disk holds a RAW, which it would show unless its key is a wrong one.

        Raises:
            UnavailableError: the server does not answer, does not know us, or has no room for the streams.
            ConfigurationError: there is a RAW on its disk, and it does not show it.
        """
        bus = await cls.connect(url, "setup", tls, timeout_s)
        try:
            if not may_make_raw and not await bus._has(RAW):
                raise ConfigurationError(
                    "nats-server holds RAW on its disk and cannot read it: its key is not the one it was kept with. "
                    "Put keys/jetstream.key of the data directory back; what is in RAW was acknowledged to its senders."
                )
            await bus.ensure_streams(raw_max_bytes)
        finally:
            await bus.close()

    async def _has(self, stream: str) -> bool:
        try:
            await self._jetstream.stream_info(stream)
        except nats.js.errors.NotFoundError:
            return False
        except AWAY as error:
            raise UnavailableError(f"JetStream does not answer ({type(error).__name__})") from error
        return True

    async def ensure_streams(self, raw_max_bytes: int) -> None:
        """Create the streams that are missing: RAW on disk, the derived ones in memory.

        Raises:
            UnavailableError: the server does not answer or has no room for the streams.
        """
        await self._ensure(streams(raw_max_bytes))

    async def ensure_derived_streams(self) -> None:
        """Create the streams in memory that are missing; never RAW, whose loss must not pass for an empty hospital.

        Raises:
            UnavailableError: the server does not answer or has no room for the streams.
        """
        await self._ensure(streams(0)[1:])

    async def _ensure(self, wanted: list[StreamConfig]) -> None:
        try:
            for config in wanted:
                try:
                    info = await self._jetstream.stream_info(config.name or "")
                except nats.js.errors.NotFoundError:
                    await self._jetstream.add_stream(config)
                else:
                    if config.name == RAW and info.config.max_bytes != config.max_bytes:
                        await self._jetstream.update_stream(config)
        except AWAY as error:
            raise UnavailableError(f"JetStream could not provide the streams: {error}") from error

    async def prepare_streams(self, raw_max_bytes: int, *needed: str) -> None:
        """See to it that the streams `needed` are there.

        Where a certificate says who we are, permissions are ours to give (orchestration.nats_configuration), and making
        streams is not for every process: it waits. A server with a user and password is the operator's: there any
        process makes what is missing, as far as it is allowed to.

        Raises:
            UnavailableError: one is missing, or the server does not answer.
        """
        if self._makes_streams:
            await self.ensure_streams(raw_max_bytes)
        else:
            await self.await_streams(*needed)

    async def await_streams(self, *names: str, timeout_s: float = 15.0) -> None:
        """Wait until the streams `names` exist; whoever may make them is `vigil up`, or the keeper.

        Raises:
            UnavailableError: one is still missing after `timeout_s`, or the server does not answer.
        """
        deadline = asyncio.get_running_loop().time() + timeout_s
        for name in names:
            while not await self._has(name):
                if asyncio.get_running_loop().time() > deadline:
                    raise UnavailableError(
                        f"nats-server has no stream {name}. `vigil up` makes the streams, and the keeper those in "
                        "memory: start them, or look at their logs."
                    )
                await asyncio.sleep(0.1)

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
        except AWAY as error:
            raise UnavailableError(f"RAW did not acknowledge ({type(error).__name__})") from error
        return ack.seq

    async def raw_extent(self) -> RawExtent:
        """Return which RAW stream this is and what it holds.

        Raises:
            UnavailableError: the server does not answer.
        """
        try:
            answer = await self._client.request(f"$JS.API.STREAM.INFO.{RAW}", b"", timeout=5)
        except AWAY as error:
            raise UnavailableError(f"JetStream does not answer ({type(error).__name__})") from error
        info = json.loads(answer.data)
        if "error" in info:
            raise UnavailableError(f"JetStream has no RAW stream: {info['error'].get('description', '')}")
        state = info["state"]
        return RawExtent(f"{RAW} {info['created']}", state["first_seq"], state["last_seq"], state["bytes"])

    def raw_reader(self, after: int) -> RawReader:
        """Return a reader of RAW that starts behind sequence `after`."""
        return RawReader(self._client, after, self._link.drop)

    async def trim_raw(self, up_to: int) -> None:
        """Remove packs with sequence ≤ `up_to` from RAW; the caller has sealed them elsewhere.

        Raises:
            UnavailableError: the server does not answer.
        """
        try:
            await self._jetstream.purge_stream(RAW, seq=up_to + 1)
        except AWAY as error:
            raise UnavailableError(f"RAW was not trimmed ({type(error).__name__})") from error

    async def publish_events(self, batches: list[tuple[int, bytes]], tick: bytes | None = None) -> None:
        """Hand batches (partition, bytes) and a tick to the engines. Losing them is safe: PostgreSQL has them."""
        try:
            for partition, data in batches:
                await self._client.publish(f"EVENTS.{partition}", data)
            if tick is not None:
                await self._client.publish(TICK_SUBJECT, tick)
        except AWAY:
            # The engine finds the gap by `previous` and reads the partition log.
            return

    async def subscribe_events(self, handler: Callable[[bytes], None]) -> Subscription:
        """Call `handler` with the bytes of every batch and tick from now on.

        The server checks no reply subject: what it answers to anybody's publish or pull may come here too. What was
        pulled keeps its own subject and is dropped here; what cannot be decoded is the handler's to drop.
        """

        async def on_message(message: Msg) -> None:
            if message.subject.startswith(f"{EVENTS}."):
                handler(message.data)
            else:
                self._link.drop(message.subject)

        return await self._client.subscribe(
            f"{EVENTS}.>", cb=on_message, pending_msgs_limit=1_000_000, pending_bytes_limit=512 * 1024 * 1024
        )

    async def publish_snapshots(self, publications: list[tuple[Publication, bytes]]) -> None:
        """Put snapshots in `twins` and on SNAPSHOTS.<ward>, and wait until the server has taken them.

        Raises:
            UnavailableError: the server did not answer; publish again.
        """
        try:
            # flush limits its wait for the server, and not its wait for room in nats-py's own queue.
            async with asyncio.timeout(_TAKEN_WITHIN_S):
                for publication, encoded in publications:
                    await self._client.publish(f"{TWINS_SUBJECT}{publication.patient_id}", publication.body)
                    await self._client.publish(f"{SNAPSHOTS}.{subject_token(publication.ward)}", encoded)
                await self._client.flush(timeout=5)
        except AWAY as error:
            raise UnavailableError(f"snapshots were not taken ({type(error).__name__})") from error

    async def snapshots(self) -> dict[int, bytes]:
        """Return the latest snapshot's bytes of every twin, by patient id.

        Raises:
            UnavailableError: the server does not answer.
        """
        found: dict[int, bytes] = {}
        inbox = self._client.new_inbox()
        deadline = asyncio.get_running_loop().time() + _TWINS_WITHIN_S
        try:
            subscription = await self._client.subscribe(
                inbox, pending_msgs_limit=1_000_000, pending_bytes_limit=512 * 1024 * 1024
            )
            try:
                sequence, left = await self._page_of_twins(subscription, inbox, 1, found, deadline)
                pages = (left or 0) // _TWINS_A_PAGE + _PAGES_CHASED
                while left is not None and pages > 0:
                    sequence, left = await self._page_of_twins(subscription, inbox, sequence + 1, found, deadline)
                    pages -= 1
            finally:
                await subscription.unsubscribe()
        except AWAY as error:
            raise UnavailableError(f"the twins bucket does not answer ({type(error).__name__})") from error
        return found

    async def _page_of_twins(
        self, subscription: Subscription, inbox: str, sequence: int, found: dict[int, bytes], deadline: float
    ) -> tuple[int, int | None]:
        """Read some twins from `sequence` on; return the last one's sequence, and how many are left (None: none).

        A direct get needs no consumer, so the reader needs no right to make one. A twin that is published meanwhile
        moves behind the others, and is met there.
        """
        asked = {"seq": sequence, "next_by_subj": TWINS_SUBJECT + ">", "batch": _TWINS_A_PAGE}
        await self._client.publish(f"$JS.API.DIRECT.GET.{TWINS}", json.dumps(asked).encode(), reply=inbox)
        while True:
            if asyncio.get_running_loop().time() > deadline:
                raise nats.errors.TimeoutError
            message = await subscription.next_msg(timeout=5)
            headers = message.headers or {}
            status = headers.get("Status")
            if status == "404":  # nothing at or behind this sequence
                return sequence, None
            if status == "204":
                # The page's end. Its count of what is left was made before the page was read: what was published
                # meanwhile is not in it, so only an empty answer is sure to be the last.
                return sequence, int(headers.get("Nats-Num-Pending", "0"))
            if status is not None:
                raise nats.errors.Error(f"status {status}")  # among them 503: there is no such stream
            sequence = int(headers["Nats-Sequence"])
            patient = headers["Nats-Subject"].removeprefix(TWINS_SUBJECT)
            if patient.isascii() and patient.isdigit():
                found[int(patient)] = message.data
            else:
                self._link.drop(headers["Nats-Subject"])

    async def follow(self) -> AsyncIterator[Publication]:
        """Yield every snapshot published from now on, of all wards; what is none is dropped and counted."""
        arrived: asyncio.Queue[Publication] = asyncio.Queue()

        async def on_message(message: Msg) -> None:
            try:
                if not message.subject.startswith(f"{SNAPSHOTS}."):
                    raise msgspec.DecodeError
                arrived.put_nowait(_PUBLICATION.decode(message.data))
            except msgspec.MsgspecError:
                self._link.drop(message.subject)

        subscription = await self._client.subscribe(
            SNAPSHOTS + ".>", cb=on_message, pending_msgs_limit=1_000_000, pending_bytes_limit=512 * 1024 * 1024
        )
        try:
            while True:
                yield await arrived.get()
        finally:
            with suppress(*AWAY):
                await subscription.unsubscribe()
