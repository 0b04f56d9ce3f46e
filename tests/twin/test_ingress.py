"""An ACK is a promise: what ingress does with bytes, with senders that misbehave, and with a RAW that is full."""

from __future__ import annotations

import asyncio
import random
import socket
from collections import Counter

import msgspec
import pytest

from interop import mllp
from stores import blob_keys
from stores.blobs import BlobStore
from twin import ingress, mllp_connection, raw_writer
from twin.bus import Bus
from twin.ingress import FeedListener
from twin.mllp_connection import CONNECTION_BYTES
from twin.raw_writer import BLOB_BYTES, PACK_BYTES, PACK_MESSAGES, QUEUE_BYTES
from vocabulary.clock import ManualClock
from vocabulary.errors import StreamFullError, UnavailableError
from vocabulary.records import RawPack
from vocabulary.settings import FeedSettings

DECODE = msgspec.msgpack.Decoder(RawPack).decode


ARRIVALS = blob_keys.ArrivalsKey(bytes(range(32)))
LOCK = blob_keys.ArrivalsLock(ARRIVALS.public)


class Arrivals:
    """Who may unlock what has just arrived."""

    async def open_arrival(self, locked, info):
        return ARRIVALS.unlock(locked, info)


def message(number: object, text: str = "", *, msh15: str = "", kind: str = "ORU^R01") -> bytes:
    return f"MSH|^~\\&|MON|H|V|H|20260101||{kind}|{number}|P|2.5.1|||{msh15}\rNTE|1||{text}\r".encode()


class Raw:
    """A RAW stream that stores what it is told to, as late and as badly as it is told to."""

    def __init__(self) -> None:
        self.packs: dict[str, RawPack] = {}
        self.attempts: Counter[str] = Counter()
        self.refusals: list[Exception] = []  # raised one by one, before anything is stored
        self.lost_acks = 0  # stored, but the answer does not come back
        self.gate = asyncio.Event()
        self.gate.set()
        self.entered = asyncio.Event()

    async def publish_raw(self, feed: str, pack_id: str, data: bytes) -> int:
        self.attempts[pack_id] += 1
        self.entered.set()
        await self.gate.wait()
        if self.refusals:
            raise self.refusals.pop(0)
        self.packs.setdefault(pack_id, DECODE(data))
        if self.lost_acks:
            self.lost_acks -= 1
            raise UnavailableError("the answer was lost")
        return len(self.packs)

    @property
    def items(self):
        return [item for pack in self.packs.values() for item in pack.items]

    @property
    def bodies(self):
        return [item.body for item in self.items]


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch):
    monkeypatch.setattr(raw_writer, "_RETRY_S", 0.01)


@pytest.fixture
def raw():
    return Raw()


@pytest.fixture
async def open_listener(raw, tmp_path):
    running = []

    async def start(blobs=None, **feed):
        made = FeedListener(
            FeedSettings(name="monitors", **feed),
            raw,
            ManualClock(1_780_000_000_000_000),
            blobs or BlobStore(tmp_path, LOCK),
        )  # type: ignore[arg-type]
        host, port = (await made.start("127.0.0.1")).split(":")
        running.append((made, asyncio.create_task(made.commit_forever())))
        made.at = (host, int(port))
        return made

    yield start
    raw.gate.set()
    for made, task in running:
        if task.done():
            task.result()
        await made.stop_listening()
        await asyncio.wait_for(task, 5)
        made.close_connections()


@pytest.fixture
async def listener(open_listener):
    return await open_listener()


@pytest.fixture
async def dial(live_plane):
    peers = []

    async def to(listener):
        peers.append(live_plane.Peer(*await asyncio.open_connection(*listener.at)))
        return peers[-1]

    yield to
    for peer in peers:
        await peer.hang_up()


async def is_silent(peer, seconds=0.05):
    try:
        await asyncio.wait_for(peer.reader.readexactly(1), seconds)
    except TimeoutError:
        return True
    return False


async def test_nothing_is_acknowledged_before_raw_has_it(listener, raw, dial):
    raw.gate.clear()
    peer = await dial(listener)
    peer.put(message(1))
    await asyncio.wait_for(raw.entered.wait(), 5)
    assert await is_silent(peer)
    assert raw.packs == {}
    raw.gate.set()
    assert b"MSA|AA|1" in await peer.answer()
    assert raw.bodies == [message(1)]


@pytest.mark.parametrize("refusal", [StreamFullError, UnavailableError])
async def test_a_refused_pack_is_offered_again_until_it_is_stored(listener, raw, dial, refusal, live_plane):
    raw.gate.clear()
    raw.refusals = [refusal("no") for _ in range(4)]
    peer = await dial(listener)
    peer.put(message(1))
    await asyncio.wait_for(raw.entered.wait(), 5)
    raw.gate.set()
    assert b"MSA|AA|1" in await peer.answer()
    assert list(raw.attempts.values()) == [5]
    assert raw.bodies == [message(1)]
    assert not listener.is_raw_full


async def test_a_full_raw_shows_and_stops_the_reading_until_there_is_room(listener, raw, dial, live_plane):
    raw.refusals = [StreamFullError("full")] * 1_000_000
    peer = await dial(listener)
    total, text = 60, "x" * 200_000
    for number in range(total):
        peer.put(message(number, text))
    await live_plane.until(lambda: listener.is_raw_full, "full is shown")
    (connection,) = listener.connections
    await live_plane.until(lambda: not connection._transport.is_reading(), "reading stops")
    assert raw.packs == {}
    # What asyncio had read of the socket in one go may come on top.
    assert listener.received * len(text) <= CONNECTION_BYTES + 2 * 256 * 1024
    assert await is_silent(peer)
    raw.refusals.clear()
    answered = [live_plane.answered_id(await peer.answer()) for _ in range(total)]
    assert answered == [str(number) for number in range(total)]
    assert not listener.is_raw_full
    assert [body.split(b"|")[9].decode() for body in raw.bodies] == answered


async def test_a_message_larger_than_the_connections_share_does_not_end_its_reading(listener, dial):
    peer = await dial(listener)
    for number in range(3):
        peer.put(message(number, "x" * (CONNECTION_BYTES + 1)))
        assert f"MSA|AA|{number}".encode() in await peer.answer()


async def test_many_broken_off_messages_do_not_use_up_a_connections_share(listener, dial):
    peer = await dial(listener)
    for number in range(5):
        # The sender starts again inside a block: what came before is evidence, and nobody waits for its answer.
        peer.writer.write(b"\x0b" + message(f"t{number}", "x" * 1_000_000))
    peer.put(message("whole"))
    assert b"MSA|AA|whole" in await peer.answer()
    peer.put(message("next"))
    assert b"MSA|AA|next" in await peer.answer()


async def test_a_pack_whose_answer_was_lost_is_in_raw_once(dial, raw, open_listener, nats_server, live_plane):
    bus = await Bus.connect(nats_server.url(), "test")
    await bus.ensure_streams(4 * 1024 * 1024)
    publish = bus.publish_raw

    async def forgetful(feed, pack_id, data):
        raw.attempts[pack_id] += 1
        sequence = await publish(feed, pack_id, data)
        if raw.attempts[pack_id] < 3:
            raise UnavailableError("timed out")
        return sequence

    raw.publish_raw = forgetful
    listener = await open_listener()
    peer = await dial(listener)
    assert await peer.ask(message(1)) == "AA"
    assert list(raw.attempts.values()) == [3]
    assert (await bus.raw_extent()).last_sequence == 1
    await bus.close()


async def test_a_raw_stream_that_is_really_full_takes_messages_again_once_trimmed(
    dial, raw, open_listener, nats_server, live_plane
):
    bus = await Bus.connect(nats_server.url(), "test")
    await bus.ensure_streams(1024 * 1024)
    raw.publish_raw = bus.publish_raw
    listener = await open_listener()
    peer = await dial(listener)
    for number in range(40):
        peer.put(message(number, "x" * 100_000))
    await live_plane.until(lambda: listener.is_raw_full, "RAW is full")
    acknowledged = listener.acknowledged
    extent = await bus.raw_extent()
    assert 0 < acknowledged < 40
    assert extent.bytes <= 1024 * 1024
    for number in range(acknowledged):
        assert f"MSA|AA|{number}".encode() in await peer.answer()
    assert await is_silent(peer)

    async def trim_whenever_full():
        while True:
            if listener.is_raw_full:
                await bus.trim_raw((await bus.raw_extent()).last_sequence)
            await asyncio.sleep(0.01)

    trimming = asyncio.create_task(trim_whenever_full())
    for number in range(acknowledged, 40):
        assert f"MSA|AA|{number}".encode() in await peer.answer()
    trimming.cancel()
    await bus.close()


async def test_a_sender_that_never_reads_its_acks_is_bounded_and_then_dropped(
    listener, raw, dial, live_plane, monkeypatch
):
    monkeypatch.setattr(mllp_connection, "UNREAD_ACK_S", 0.5)
    deaf = socket.socket()
    deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    deaf.connect(listener.at)
    deaf.setblocking(False)
    try:
        block, sent = mllp.frame(message(1)) * 50, 0
        loop = asyncio.get_running_loop()
        await live_plane.until(lambda: len(listener.connections) == 1, "connected")
        (connection,) = listener.connections
        other = await dial(listener)
        slowest_s = 0.0
        deadline = loop.time() + 30
        while connection in listener.connections:
            assert loop.time() < deadline, f"not dropped after {sent} bytes"
            try:
                sent += deaf.send(block)
            except BlockingIOError:
                pass
            except ConnectionError:
                break
            transport = connection._transport
            if transport is not None:
                assert transport.get_write_buffer_size() < 2 * 1024 * 1024
            assert listener._queued_bytes <= CONNECTION_BYTES
            started = loop.time()
            assert await other.ask(message("o")) == "AA"  # others are served all the while
            slowest_s = max(slowest_s, loop.time() - started)
        assert slowest_s < 2.0
        await live_plane.until(lambda: connection not in listener.connections, "dropped")
        assert await other.ask(message("o")) == "AA"
    finally:
        deaf.close()


async def test_a_message_cut_off_by_a_disconnect_is_kept_as_evidence_and_not_answered(listener, raw, live_plane, dial):
    peer = await dial(listener)
    peer.writer.write(mllp.frame(message(1)) + b"\x0b" + message(2)[:30])
    assert b"MSA|AA|1" in await peer.answer()
    await peer.hang_up()
    await live_plane.until(lambda: len(raw.items) == 2, "both kept")
    whole, cut = raw.items
    assert (whole.body, whole.is_truncated) == (message(1), False)
    assert (cut.body, cut.is_truncated) == (message(2)[:30], True)


async def test_bytes_outside_of_messages_are_counted_and_harmless(listener, raw, dial, live_plane):
    peer = await dial(listener)
    peer.writer.write(b"GET / HTTP/1.1\r\n\r\n" + mllp.frame(message(1)))
    assert b"MSA|AA|1" in await peer.answer()
    await peer.hang_up()
    await live_plane.until(lambda: listener.noise_bytes == 18, "noise counted")
    assert raw.bodies == [message(1)]


async def test_fifty_megabytes_are_refused_and_only_their_size_and_beginning_kept(open_listener, raw, dial):
    listener = await open_listener(max_message_bytes=1024 * 1024)
    peer = await dial(listener)
    body = message("big", "x" * 50_000_000)
    for _ in range(2):  # the connection goes on
        peer.writer.write(b"\x0b")
        for at in range(0, len(body), 1 << 20):
            peer.writer.write(body[at : at + (1 << 20)])
            await peer.writer.drain()
            (connection,) = listener.connections
            assert connection._framer.buffered_bytes <= 1024 * 1024 + 8
        peer.writer.write(b"\x1c\r")
        answer = await peer.answer()
        assert b"MSA|AR|big" in answer
        assert str(len(body)).encode() in answer
    first, _ = raw.items
    assert first.oversize_bytes == len(body)
    assert first.body == body[:4096]


async def test_a_large_body_goes_to_the_blob_store_before_its_ack(listener, raw, dial, tmp_path):
    peer = await dial(listener)
    body = message(1, "x" * BLOB_BYTES)
    assert await peer.ask(body) == "AA"
    (item,) = raw.items
    assert item.body == b""
    assert await blob_keys.read(BlobStore(tmp_path), item.blob, Arrivals()) == body


async def test_a_full_blob_disk_keeps_the_ack_back_until_there_is_room(open_listener, raw, dial, tmp_path, live_plane):
    class FullDisk(BlobStore):
        failures = 3

        def put(self, data):
            if self.failures:
                self.failures -= 1
                raise UnavailableError("The blob store cannot be written: No space left on device.")
            return super().put(data)

    blobs = FullDisk(tmp_path, LOCK)
    listener = await open_listener(blobs)
    peer = await dial(listener)
    peer.put(message(1, "x" * BLOB_BYTES))
    await live_plane.until(lambda: listener.is_raw_full, "it shows")
    assert b"MSA|AA|1" in await peer.answer()
    assert blobs.failures == 0
    assert not listener.is_raw_full
    assert len(raw.items) == 1


async def test_an_answer_that_would_end_its_own_block_is_given_in_other_words(open_listener, dial):
    listener = await open_listener()
    peer = await dial(listener)
    # In UTF-16 the last letter of the control id and the end of its segment are the bytes that end a block.
    peer.put("\ufeffMSH|^~\\&|A|B|C|D|2026||ORU^R01|X\u1c41|P|2.6\rPID|1\r".encode("utf-16-le"))
    assert b"MSA|AA|" in await peer.answer()
    assert await peer.ask(message(2)) == "AA"


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (message(1), "AA"),
        (message(1, msh15="AL"), "CA"),
        (message(1, msh15="NE"), "AA"),
        (b"XSH|^~\\&|A|B\r", "AR"),
        (b"", "AR"),
        (b"MSH", "AR"),
        (b"\xff\xfe\x00garbage", "AR"),
    ],
)
async def test_every_message_is_answered_in_the_mode_it_asks_for(listener, raw, dial, body, code):
    peer = await dial(listener)
    assert await peer.ask(body) == code
    assert raw.bodies == [body]  # refused or not, the evidence is kept


async def test_an_acknowledgement_is_kept_and_not_acknowledged(listener, raw, dial):
    peer = await dial(listener)
    peer.put(message(1, kind="ACK"))
    peer.put(message(2))
    assert b"MSA|AA|2" in await peer.answer()
    assert raw.bodies == [message(1, kind="ACK"), message(2)]


async def test_a_body_with_a_charset_of_its_own_is_answered_in_it(listener, dial):
    peer = await dial(listener)
    body = "MSH|^~\\&|MON|Zürich|V|H|20260101||ORU^R01|ü1|P|2.5.1||||||8859/1\r".encode("latin-1")
    peer.put(body)
    assert "MSA|AA|ü1".encode("latin-1") in await peer.answer()


async def test_answers_come_in_order_however_the_bytes_are_cut(listener, raw, dial, live_plane):
    rng = random.Random(5)
    stream = b"".join(mllp.frame(message(number, "y" * rng.randrange(300))) for number in range(200))
    peers = [await dial(listener) for _ in range(3)]
    for peer in peers:
        at = 0
        while at < len(stream):
            size = rng.choice((1, 2, 3, 50, 5000))
            peer.writer.write(stream[at : at + size])
            await peer.writer.drain()
            at += size
    for peer in peers:
        answered = [live_plane.answered_id(await peer.answer()) for _ in range(200)]
        assert answered == [str(number) for number in range(200)]
    assert len(raw.items) == 600
    assert max(len(pack.items) for pack in raw.packs.values()) > 1  # group commit


async def test_packs_are_closed_in_time_and_nothing_is_reordered(listener, raw, dial, live_plane):
    raw.gate.clear()
    peer = await dial(listener)
    for number in range(2 * PACK_MESSAGES + 10):
        peer.put(message(number))
    for number in range(20):
        peer.put(message(f"large-{number}", "x" * 90_000))
    total = 2 * PACK_MESSAGES + 30
    await live_plane.until(lambda: listener.received == total, "all received")
    raw.gate.set()
    for _ in range(total):
        await peer.answer()
    sizes = [len(pack.items) for pack in raw.packs.values()]
    assert max(sizes) == PACK_MESSAGES
    for pack in raw.packs.values():
        assert sum(len(item.body) for item in pack.items) < PACK_BYTES + BLOB_BYTES
    assert [body.split(b"|")[9] for body in raw.bodies[: 2 * PACK_MESSAGES]] == [
        str(number).encode() for number in range(2 * PACK_MESSAGES)
    ]
    ids = [pack.pack_id for pack in raw.packs.values()]
    assert len(set(ids)) == len(ids)


async def test_the_queue_of_many_senders_is_bounded(listener, raw, dial, live_plane):
    raw.gate.clear()
    peers = [await dial(listener) for _ in range(14)]
    text = "x" * 250_000
    for peer in peers:
        for number in range(20):
            peer.put(message(number, text))
    await live_plane.until(lambda: listener.is_full, "the queue is full", 20)
    await live_plane.until(
        lambda: not any(c._transport.is_reading() for c in listener.connections), "nobody is read any more"
    )
    assert listener._queued_bytes <= QUEUE_BYTES + len(peers) * 2 * 256 * 1024
    raw.gate.set()
    for peer in peers:
        for _ in range(20):
            await peer.answer(20)
    assert len(raw.items) == 14 * 20
    assert listener._queued_bytes == 0


async def test_no_bytes_end_the_listener(listener, dial, raw):
    rng = random.Random(11)
    pieces = [b"\x0b", b"\x1c", b"\r", b"\x1c\r", b"MSH", b"|", b"^~\\&", b"ACK", b"\xff\xfe", b"\x00", message(1)]
    for _ in range(40):
        peer = await dial(listener)
        for _ in range(rng.randrange(30)):
            noise = rng.randbytes(rng.randrange(20)) if rng.random() < 0.4 else rng.choice(pieces)
            body = bytearray(message(rng.randrange(9), msh15=rng.choice(("", "AL"))))
            for _ in range(rng.randrange(4)):
                body[rng.randrange(len(body))] = rng.randrange(256)
            peer.writer.write(rng.choice((noise, b"\x0b" + bytes(body) + b"\x1c\r", bytes(body))))
        await peer.hang_up()
    peer = await dial(listener)
    assert await peer.ask(message("after")) == "AA"
    assert listener.connections


async def test_stopping_answers_what_was_received(raw, open_listener, dial, live_plane):
    listener = await open_listener()
    raw.gate.clear()
    peer = await dial(listener)
    for number in range(5):
        peer.put(message(number))
    await live_plane.until(lambda: listener.received == 5, "received")
    await listener.stop_listening()
    with pytest.raises(OSError, match="onnect"):
        await asyncio.open_connection(*listener.at)
    raw.gate.set()
    assert [live_plane.answered_id(await peer.answer()) for _ in range(5)] == list("01234")


async def test_ticks_carry_the_clock_and_a_lost_one_is_replaced_by_the_next(raw, live_plane):
    clock = ManualClock(5_000_000)
    raw.refusals = [StreamFullError("full"), UnavailableError("away")]
    watch = ingress.RawWatch()
    task = asyncio.create_task(ingress.tick_forever(raw, clock, 0.01, watch))
    await live_plane.until(lambda: len(raw.packs) == 3, "ticks")
    clock.advance(7)
    await live_plane.until(lambda: list(raw.packs.values())[-1].at_us == 12_000_000, "the clock's time")
    task.cancel()
    assert len(raw.attempts) >= 6
    assert all(pack.items == [] and pack.feed == "tick" for pack in raw.packs.values())


def test_how_long_raw_has_refused_is_told_until_it_takes_again(caplog):
    watch = ingress.RawWatch()
    watch.tell(None, 1.0)
    assert watch.refused_s(9.0) == 0.0
    watch.tell(UnavailableError("RAW did not acknowledge (TimeoutError)"), 10.0)
    watch.tell(StreamFullError("RAW is full"), 11.0)
    assert (watch.refused_s(25.0), watch.is_full) == (15.0, True)
    watch.tell(None, 30.0)
    assert (watch.refused_s(31.0), watch.is_full) == (0.0, False)
    assert [record.message for record in caplog.records] == ["raw_refuses", "raw_takes_again"]
