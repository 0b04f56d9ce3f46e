"""The connection to the bus: what it says when it cannot be made, and reading every twin without a consumer."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import struct
import time
from contextlib import suppress

import pytest
from nats.errors import FlushTimeoutError
from pydantic import SecretStr

from orchestration.embedded import free_port
from twin.bus import Bus, bus_context, open_bus
from twin.subjects import EVENTS, RAW, SNAPSHOTS, TWINS, inbox_prefix, subject_class
from vocabulary.errors import ConfigurationError, UnavailableError
from vocabulary.settings import Settings
from vocabulary.snapshot import Publication


@pytest.fixture
async def bus(nats_server):
    made = await Bus.connect(nats_server.url(), "test")
    yield made
    await made.close()


def snapshot(patient_id, body):
    return (Publication(f"s{patient_id}", patient_id, "ICU", body, []), b"")


async def test_a_server_that_is_away_is_told_within_the_time_given_and_without_the_password():
    started = time.monotonic()
    with pytest.raises(UnavailableError, match="vigil up") as told:
        await Bus.connect(f"nats://vigil:s3cret@127.0.0.1:{free_port()}", "test", timeout_s=0.5)
    assert time.monotonic() - started < 5
    assert "s3cret" not in str(told.value)


async def test_a_wrong_password_is_told_as_one(nats_server):
    with pytest.raises(UnavailableError, match="does not know us"):
        await Bus.connect(f"nats://vigil:wrong@127.0.0.1:{nats_server.port}", "test", timeout_s=0.5)


async def test_a_server_that_comes_late_is_waited_for(nats_server):
    nats_server.stop()
    connecting = asyncio.create_task(Bus.connect(nats_server.url(), "test", timeout_s=15))
    await asyncio.sleep(0.3)
    assert not connecting.done()
    await asyncio.to_thread(nats_server.start)
    bus = await connecting
    assert bus.is_ready
    await bus.close()


async def test_closing_ends_the_wait_for_the_end(bus):
    waiting = asyncio.create_task(bus.wait_ended())
    await asyncio.sleep(0.05)
    assert not waiting.done()
    await bus.close()
    await asyncio.wait_for(waiting, 2)


async def test_a_server_that_sends_us_away_for_good_ends_the_wait_too(caplog):
    async def talk(reader, writer):
        writer.write(b'INFO {"server_id":"x","version":"2.15.0","max_payload":1048576,"headers":true}\r\n')
        while not (await reader.readline()).startswith(b"PING"):
            pass
        writer.write(b"PONG\r\n")
        await asyncio.sleep(0.1)
        writer.write(b"-ERR 'Authorization Violation'\r\n")
        writer.close()
        await writer.wait_closed()

    server = await asyncio.start_server(talk, "127.0.0.1", 0)
    bus = await Bus.connect(f"nats://127.0.0.1:{server.sockets[0].getsockname()[1]}", "test")
    await asyncio.wait_for(bus.wait_ended(), 5)
    assert "bus_closed_by_server" in caplog.messages
    assert not bus.is_ready
    await bus.close()
    server.close()
    await server.wait_closed()


async def test_the_servers_word_that_it_does_not_know_us_outlives_the_broken_pipes_after_it():
    attempts = []

    async def talk(reader, writer):
        attempts.append(1)
        writer.write(b'INFO {"server_id":"x","version":"2.15.0","max_payload":1048576,"headers":true}\r\n')
        while not (await reader.readline()).startswith(b"PING"):
            pass
        if len(attempts) == 1:
            writer.write(b"-ERR 'Authorization Violation'\r\n")
        else:  # its closing overtakes the word
            reset = struct.pack("ii", 1, 0)
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, reset)
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()

    server = await asyncio.start_server(talk, "127.0.0.1", 0)
    with pytest.raises(UnavailableError, match="does not know us"):
        await Bus.connect(f"nats://127.0.0.1:{server.sockets[0].getsockname()[1]}", "test", timeout_s=1.0)
    assert len(attempts) > 1
    server.close()
    await server.wait_closed()


async def test_an_answer_that_comes_after_it_was_given_up_does_not_end_the_reading(bus, nats_server):
    await bus.ensure_streams(8 * 1024 * 1024)
    os.kill(nats_server.process.pid, signal.SIGSTOP)
    try:
        is_given_up = False
        for _ in range(50):  # its threads stop one after another: the first answers may still come
            try:
                await bus._client.flush(timeout=0.2)
            except FlushTimeoutError:
                is_given_up = True
                break
        assert is_given_up
    finally:
        os.kill(nats_server.process.pid, signal.SIGCONT)
    for _ in range(3):
        assert await asyncio.wait_for(bus.snapshots(), 3) == {}
        await bus.publish_snapshots([])  # and the next answers belong to the next questions
    assert bus.is_ready


async def test_where_a_password_says_who_we_are_any_process_makes_the_streams(bus):
    await bus.prepare_streams(8 * 1024 * 1024, RAW)
    await bus.await_streams(RAW, EVENTS, SNAPSHOTS, TWINS, timeout_s=0)


async def test_derived_streams_are_made_without_raw(bus):
    await bus.ensure_derived_streams()
    await bus.await_streams(EVENTS, SNAPSHOTS, TWINS, timeout_s=0)
    with pytest.raises(UnavailableError, match="no stream RAW"):
        await bus.await_streams(RAW, timeout_s=0)


def is_answered_with(bus, wanted):
    """Whether the bus has stored, and gives back, exactly these twins: it stores them after it has taken them."""

    async def found():
        return await bus.snapshots() == wanted

    return found


async def test_every_twin_is_read_however_many_pages_that_takes(bus, live_plane):
    await bus.ensure_streams(8 * 1024 * 1024)
    assert await bus.snapshots() == {}
    wanted = {number: b"body %d" % number for number in range(1, 2501)}
    await bus.publish_snapshots([snapshot(number, b"older") for number in wanted])
    await bus.publish_snapshots([snapshot(number, body) for number, body in wanted.items()])
    await live_plane.until(is_answered_with(bus, wanted), "every twin in its last state")


@pytest.mark.parametrize(("pause_s", "rounds"), [(0.02, 5), (0.0, 1)])
async def test_twins_published_while_they_are_read_are_all_found(bus, live_plane, pause_s, rounds):
    await bus.ensure_streams(8 * 1024 * 1024)
    everybody = range(1, 1501)
    await bus.publish_snapshots([snapshot(number, b"0") for number in everybody])
    await live_plane.until(is_answered_with(bus, dict.fromkeys(everybody, b"0")), "everybody is there")
    is_over = asyncio.Event()

    async def publish():
        turn = 0
        while not is_over.is_set():
            turn += 1
            with suppress(UnavailableError):  # a busy machine: published again, as an engine would
                await bus.publish_snapshots([snapshot(number, b"%d" % turn) for number in everybody[turn % 7 :: 7]])
            await asyncio.sleep(pause_s)

    publishing = asyncio.create_task(publish())
    try:
        for _ in range(rounds):
            # Without a pause, too, it ends.
            assert set(await asyncio.wait_for(bus.snapshots(), 20)) == set(everybody)
    finally:
        is_over.set()
        await asyncio.wait_for(publishing, 20)


async def test_reading_every_twin_ends_in_its_time_though_messages_keep_coming(bus, live_plane, monkeypatch):
    await bus.ensure_streams(8 * 1024 * 1024)
    wanted = dict.fromkeys(range(1, 51), b"0")
    await bus.publish_snapshots([snapshot(number, b"0") for number in wanted])
    await live_plane.until(is_answered_with(bus, wanted), "everybody is there")
    monkeypatch.setattr("twin.bus._TWINS_WITHIN_S", 0.5)

    subscribe = bus._client.subscribe

    async def subscribed(*arguments, **named):
        made = await subscribe(*arguments, **named)
        quick = made.next_msg

        async def next_msg(timeout):
            await asyncio.sleep(0.2)  # each within its own limit, all of them together far beyond
            return await quick(timeout)

        made.next_msg = next_msg
        return made

    monkeypatch.setattr(bus._client, "subscribe", subscribed)
    started = time.monotonic()
    with pytest.raises(UnavailableError):
        await bus.snapshots()
    assert time.monotonic() - started < 3


async def test_twins_that_nobody_keeps_are_an_unavailable_bus_and_not_an_empty_ward(bus):
    with pytest.raises(UnavailableError):
        await bus.snapshots()


async def test_a_process_opens_the_bus_its_settings_name(nats_server, tmp_path):
    settings = Settings(data_dir=tmp_path, nats_url=SecretStr(nats_server.url()))
    bus = await open_bus(settings, "engine")
    assert bus.is_ready
    await bus.close()
    with pytest.raises(ConfigurationError, match="VIGIL_NATS_URL"):
        await open_bus(settings.model_copy(update={"nats_url": None}), "engine")


def test_an_identity_that_is_not_there_is_a_configuration_error(tmp_path):
    settings = Settings(data_dir=tmp_path, identity_dir=tmp_path / "nobody")
    assert bus_context(settings, "nats://127.0.0.1:1") is None
    with pytest.raises(ConfigurationError, match="nobody"):
        bus_context(settings, "tls://127.0.0.1:1")


@pytest.mark.parametrize(
    ("subject", "said"),
    [("raw.monitors", "raw"), ("$kv.twins.4711", "$kv.twins"), ("$js.api.stream.info.raw", "$js.api.stream.info"),
     ("_INBOX_engine.abc", "_INBOX_engine"), ("wearables.patch-7.hr", "wearables"), ("", "")],
)  # fmt: skip
def test_a_log_says_the_kind_of_subject_and_no_more(subject, said):
    assert subject_class(subject) == said


def test_no_two_processes_share_an_inbox():
    names = ("ingress", "normalizer", "engine", "keeper", "clinic", "operator", "setup")
    prefixes = {inbox_prefix(name) for name in names}
    assert len(prefixes) == len(names)
    assert all(prefix.isidentifier() for prefix in prefixes)
