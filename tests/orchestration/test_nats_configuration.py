"""Who may say and hear what on the bus: every cell tried against the real nats-server, with real certificates."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import nats
import nats.errors
import pytest

from clinic.ward_live import WardLive
from orchestration import nats_configuration
from orchestration.embedded import free_port, log_tail
from orchestration.embedded_nats import EmbeddedNats, find_nats_binary
from orchestration.nats_configuration import PROCESSES, Device, NatsPlan
from twin.bus import Bus
from twin.engine_loop import Inbox
from twin.outcomes import UNREADABLE_FEED, read_pack
from twin.subjects import EVENTS, RAW, SNAPSHOTS, TWINS, inbox_prefix
from vocabulary.clock import SystemClock
from vocabulary.errors import ConfigurationError, UnavailableError
from vocabulary.records import RawItem, RawPack
from vocabulary.snapshot import Publication
from vocabulary.tls import client_context

STREAMS = (RAW, EVENTS, SNAPSHOTS, TWINS)
PATCHES = (Device("patch-7"), Device("patch-8"))
VARIABLE = "VIGIL_TEST_JETSTREAM_KEY"


def certificates():
    name = "vigil_tests_transport_certificates"
    if name not in sys.modules:
        file = Path(__file__).parent.parent / "twin" / "transport_certificates.py"
        spec = importlib.util.spec_from_file_location(name, file)
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    return sys.modules[name]


class Server:
    """The real nats-server with the configuration under test."""

    def __init__(self, folder, *, is_mqtt_tls=True, devices=PATCHES, key="kTestKey"):
        self.folder = folder
        self.issuer = certificates().Issuer.made("processes")
        self.device_issuer = certificates().Issuer.made("devices")
        self.identities = {name: self.issuer.issue(folder / "id" / name, name) for name in PROCESSES}
        self.server = self.issuer.issue(folder / "id" / "nats-server", "nats-server")
        self.door = self.device_issuer.issue(folder / "id" / "server", "server")
        self.is_mqtt_tls, self.devices, self.key = is_mqtt_tls, devices, key
        self.port, self.mqtt_port = free_port(), free_port()
        self.process = None

    def write(self):
        configuration = self.folder / "nats.conf"
        configuration.write_text(
            nats_configuration.render(
                NatsPlan(
                    self.folder / "store", "127.0.0.1", self.port, "127.0.0.1", self.mqtt_port, self.server.folder,
                    VARIABLE, self.is_mqtt_tls, self.devices, self.door.folder,
                )
            )
        )  # fmt: skip
        return configuration

    def start(self):
        configuration = self.write()
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [str(find_nats_binary()), "-c", str(configuration)],
                env={**os.environ, VARIABLE: self.key},
                stdout=log,
                stderr=log,
            )
        deadline = time.monotonic() + 10
        while not (self._answers(self.port) and self._answers(self.mqtt_port)):
            assert time.monotonic() < deadline, log_tail(self.folder / "log")
            time.sleep(0.02)
        return self

    @staticmethod
    def _answers(port):
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) == 0

    def stop(self):
        self.process.terminate()
        self.process.wait(15)

    @property
    def url(self):
        return f"tls://127.0.0.1:{self.port}"

    async def connect(self, name, timeout_s=5):
        return await Bus.connect(self.url, name, client_context(self.identities[name]), timeout_s)

    async def raw_client(self, name, errors):
        async def on_error(error):
            errors.append(str(error))

        return await nats.connect(
            self.url, tls=client_context(self.identities[name]), inbox_prefix=inbox_prefix(name),
            error_cb=on_error, allow_reconnect=False, connect_timeout=5,
        )  # fmt: skip

    def mosquitto(self, program, *arguments, identity=None, timeout_s=10):
        """Run a program of another house; without `identity` in plain text."""
        shown = []
        if identity is not None:
            shown = ["--cafile", str(identity.authority)]
            if identity.certificate.exists():
                shown += ["--cert", str(identity.certificate), "--key", str(identity.key)]
        return subprocess.run(
            [program, "-h", "127.0.0.1", "-p", str(self.mqtt_port), *shown, *arguments],
            capture_output=True, text=True, timeout=timeout_s, check=False,
        )  # fmt: skip


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    made = Server(tmp_path_factory.mktemp("nats")).start()
    asyncio.run(Bus.set_up(made.url, client_context(made.identities["setup"]), 64 * 1024 * 1024))
    yield made
    made.stop()


@pytest.fixture
def needs_mosquitto():
    if subprocess.run(["sh", "-c", "command -v mosquitto_pub"], capture_output=True, check=False).returncode:
        pytest.skip("mosquitto-clients is not installed")


def api(kind, *streams):
    return {f"$JS.API.STREAM.{kind}.{stream}" for stream in streams}


READS_RAW = {"$JS.API.CONSUMER.CREATE.RAW", "$JS.API.CONSUMER.MSG.NEXT.RAW.c1"}

# Written down by hand, from what each process does; nothing here is computed from the table under test.
MAY_PUBLISH = {
    "ingress": {"RAW.monitors", "RAW.tick", *api("INFO", RAW)},
    "normalizer": {"EVENTS.3", "EVENTS.tick", *api("INFO", RAW, EVENTS), *READS_RAW},
    "engine": {"SNAPSHOTS.ICU", "$KV.twins.7", *api("INFO", EVENTS, SNAPSHOTS, TWINS)},
    "keeper": {
        *api("INFO", *STREAMS), *api("CREATE", EVENTS, SNAPSHOTS, TWINS), *api("PURGE", RAW), *READS_RAW,
    },
    "clinic": {*api("INFO", SNAPSHOTS, TWINS), "$JS.API.DIRECT.GET.KV_twins"},
    "operator": {"RAW.control", *api("INFO", *STREAMS), *READS_RAW, "$JS.API.DIRECT.GET.KV_twins"},
    "setup": {*api("INFO", *STREAMS), *api("CREATE", *STREAMS), *api("UPDATE", RAW)},
}  # fmt: skip
MAY_SUBSCRIBE = {
    "ingress": {"wearables.>", "wearables.patch-7.hr"},
    "normalizer": set(),
    "engine": {"EVENTS.>", "EVENTS.3"},
    "keeper": set(),
    "clinic": {"SNAPSHOTS.>", "SNAPSHOTS.ICU"},
    "operator": {"SNAPSHOTS.>", "SNAPSHOTS.ICU"},
    "setup": set(),
}
INBOXES = {name: f"_INBOX_{name}.abc.def" for name in MAY_PUBLISH}
KINDS = ("INFO", "CREATE", "UPDATE", "DELETE", "PURGE", "MSG.GET", "MSG.DELETE", "SNAPSHOT", "RESTORE")
PUBLISHED = sorted(
    {"RAW.monitors", "RAW.tick", "RAW.control", "EVENTS.3", "EVENTS.tick", "SNAPSHOTS.ICU", "$KV.twins.7"}
    | {"wearables.patch-7.hr", "$MQTT.msgs.x", "_INBOX.abc", *INBOXES.values(), "anything", "$SYS.REQ.SERVER.PING"}
    | {f"$JS.API.STREAM.{kind}.{stream}" for kind in KINDS for stream in STREAMS}
    | {f"$JS.API.DIRECT.GET.{stream}" for stream in STREAMS}
    | {f"$JS.API.DIRECT.GET.{RAW}.RAW.monitors", "$JS.API.DIRECT.GET.KV_twins.$KV.twins.7"}
    | {f"$JS.API.CONSUMER.CREATE.{stream}" for stream in STREAMS}
    | {"$JS.API.CONSUMER.CREATE.RAW.c1", "$JS.API.CONSUMER.CREATE.RAW.c1.RAW.>", "$JS.API.CONSUMER.DELETE.RAW.c1"}
    | {"$JS.API.CONSUMER.DURABLE.CREATE.RAW.c1", "$JS.API.CONSUMER.MSG.NEXT.RAW.c1", "$JS.API.CONSUMER.LIST.RAW"}
    | {"$JS.API.INFO", "$JS.API.STREAM.NAMES", "$JS.API.STREAM.LIST", "$JS.API.STREAM.CREATE.OTHER", "$JS.ACK.RAW.c1.1"}
)  # fmt: skip
SUBSCRIBED = sorted(
    {">", "*.*", "RAW.>", "RAW.monitors", "RAW.control", "EVENTS.>", "EVENTS.3", "SNAPSHOTS.>", "SNAPSHOTS.ICU"}
    | {"$KV.twins.>", "$KV.twins.7", "wearables.>", "wearables.patch-7.hr", "_INBOX.>", *INBOXES.values()}
    | {f"_INBOX_{name}.>" for name in INBOXES}
    | {"$JS.API.>", "$JS.EVENT.ADVISORY.>", "$SYS.>", "$MQTT.>", "$JS.FC.>"}
)


def test_the_table_under_test_is_of_exactly_the_processes_that_were_thought_of():
    assert set(PROCESSES) == set(MAY_PUBLISH) == set(MAY_SUBSCRIBE)


async def refused(client, errors, kind, subjects):
    """Which of `subjects` the server refused: it answers in order, and names them in small letters."""
    await client.flush()
    await client.flush()  # nats-py may take the pong of an earlier ping for the first
    found = {error.split('"')[1] for error in errors if f"permissions violation for {kind}" in error}
    assert len(found) == len(errors), errors
    return {subject for subject in subjects if subject.lower() in found}


@pytest.mark.parametrize("name", sorted(MAY_PUBLISH))
async def test_a_process_may_publish_what_it_must_and_nothing_else(server, name):
    errors = []
    client = await server.raw_client(name, errors)
    for subject in PUBLISHED:
        await client.publish(subject, b"")
    allowed = set(PUBLISHED) - await refused(client, errors, "publish", PUBLISHED)
    await client.close()
    assert allowed == MAY_PUBLISH[name]


@pytest.mark.parametrize("name", sorted(MAY_SUBSCRIBE))
async def test_a_process_may_hear_what_it_must_and_its_own_answers(server, name):
    errors = []
    client = await server.raw_client(name, errors)
    for subject in SUBSCRIBED:
        await client.subscribe(subject)
    allowed = set(SUBSCRIBED) - await refused(client, errors, "subscription", SUBSCRIBED)
    await client.close()
    assert allowed == MAY_SUBSCRIBE[name] | {INBOXES[name], f"_INBOX_{name}.>"}


async def test_a_deliberate_detour_through_a_consumer_is_closed_too(server):
    """A stream or a consumer made by a process could carry RAW to where it may listen."""
    errors = []
    client = await server.raw_client("engine", errors)
    detours = {
        "$JS.API.STREAM.CREATE.KV_twins": {"name": "KV_twins", "sources": [{"name": "RAW"}]},
        "$JS.API.CONSUMER.CREATE.RAW": {"stream_name": "RAW", "config": {"deliver_subject": "EVENTS.3"}},
        "$JS.API.STREAM.UPDATE.RAW": {
            "name": "RAW",
            "subjects": ["RAW.>"],
            "republish": {"src": ">", "dest": "EVENTS.3"},
        },
    }
    for subject, body in detours.items():
        with pytest.raises(nats.errors.TimeoutError):
            await client.request(subject, json.dumps(body).encode(), timeout=0.3)
    assert len(errors) == len(detours)
    await client.close()


async def test_everything_the_processes_do_is_permitted(server):
    buses = {name: await server.connect(name) for name in PROCESSES}
    published = Publication("s1", 7, "ICU", b"body", [])
    heard: list[bytes] = []
    await buses["engine"].subscribe_events(heard.append)
    following = buses["clinic"].follow()
    first = asyncio.create_task(anext(following))
    before = (await buses["operator"].raw_extent()).last_sequence
    await buses["ingress"].await_streams(RAW)
    sent = [await buses["ingress"].publish_raw("monitors", f"p{number}", b"pack%d" % number) for number in range(3)]
    command = await buses["operator"].publish_raw("control", "c1", b"command")
    for name in ("normalizer", "keeper", "operator"):
        reader = buses[name].raw_reader(before)
        taken = []
        while len(taken) < 4:
            taken += await reader.take(5)
        await reader.close()
        assert [message.data for message in taken] == [b"pack0", b"pack1", b"pack2", b"command"]
        assert [message.sequence for message in taken] == [*sent, command]
    await buses["normalizer"].publish_events([(3, b"batch")], b"tick")
    await buses["engine"].await_streams(SNAPSHOTS, TWINS)
    await buses["engine"].publish_snapshots([(published, msgspec.msgpack.encode(published))])
    assert await asyncio.wait_for(first, 5) == published
    assert (await buses["clinic"].snapshots())[7] == b"body"
    assert (await buses["operator"].snapshots())[7] == b"body"
    await buses["keeper"].ensure_derived_streams()
    await buses["keeper"].trim_raw(sent[-1])
    assert (await buses["keeper"].raw_extent()).first_sequence == command
    await buses["setup"].ensure_streams(32 * 1024 * 1024)
    assert heard == [b"batch", b"tick"]
    for name, bus in buses.items():
        assert bus.is_ready, (name, bus.denied)
        await bus.close()


async def heard_by(client, subject, reply):
    """Say something, as a gateway may, and let the server answer where it should not."""
    await client.publish(subject, b"not a pack", reply=reply)
    await client.flush()


async def test_an_answer_that_is_led_astray_stops_nobody_and_is_counted(tmp_path, caplog):
    """nats-server checks no reply subject: an acknowledgement may be led to where its asker must not publish."""
    server = Server(tmp_path).start()
    try:
        await Bus.set_up(server.url, client_context(server.identities["setup"]), 64 * 1024 * 1024)
        errors = []
        ingress = await server.raw_client("ingress", errors)
        normalizer = await server.raw_client("normalizer", errors)
        engine, clinic = await server.connect("engine"), await server.connect("clinic")
        inbox, ward = Inbox(range(8)), WardLive(clinic, SystemClock())
        await engine.subscribe_events(inbox.put)
        following = asyncio.create_task(ward.follow())
        while not ward.is_filled:  # noqa: ASYNC110 - what another process thinks
            await asyncio.sleep(0.05)
        for reply in (f"{SNAPSHOTS}.x", f"{EVENTS}.3", "EVENTS.tick", "$KV.twins.7", "$KV.twins.x"):
            await heard_by(ingress, "RAW.monitors", reply)
        wanted = {"stream_name": RAW, "config": {"ack_policy": "none", "deliver_policy": "all", "mem_storage": True}}
        made = await normalizer.request("$JS.API.CONSUMER.CREATE.RAW", json.dumps(wanted).encode(), timeout=3)
        consumer = json.loads(made.data)["name"]
        for reply in (f"{SNAPSHOTS}.y", f"{EVENTS}.4"):
            await heard_by(normalizer, f"$JS.API.CONSUMER.MSG.NEXT.RAW.{consumer}", reply)
        async with asyncio.timeout(5):
            while ward.undecodable < 2 or inbox.undecodable + engine.dropped < 3:  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        assert not following.done()
        assert set(await clinic.snapshots()) == {7}  # and what is no patient is nobody
        published = Publication("s1", 8, "ICU", b"body", [])
        before = ward.undecodable
        await engine.publish_snapshots([(published, msgspec.msgpack.encode(published))])
        async with asyncio.timeout(5):
            while ward.undecodable == before:  # noqa: ASYNC110 - it is heard: its body is no snapshot
                await asyncio.sleep(0.05)
        assert not following.done()
        assert errors == []
        classes = [r.subject_class for r in caplog.records if r.getMessage() == "bus_message_dropped"]
        assert set(classes) >= {SNAPSHOTS, RAW, "$KV.twins"}
        following.cancel()
        for bus in (engine, clinic, ingress, normalizer):
            await bus.close()
    finally:
        server.stop()


async def test_no_pack_stops_the_readers_of_raw_and_no_gateway_can_command(tmp_path):
    server = Server(tmp_path).start()
    try:
        await Bus.set_up(server.url, client_context(server.identities["setup"]), 64 * 1024 * 1024)
        ingress = await server.raw_client("ingress", [])
        command = msgspec.msgpack.encode(RawPack("c", "control", 1, [RawItem(1, 1, "", b"{}")]))
        wrong_headers = [
            b"NATS/1.0 409 Gone\r\n\r\n",
            b"NATS/1.0 \xff\xfe\xfd\r\n\r\n",
            b"NATS/1.0\r\nStatus: 503\r\n\r\n",
        ]
        for number, header in enumerate(wrong_headers):
            sizes = b"%d %d" % (len(header), len(header) + 1)
            await ingress._send_command(b"HPUB RAW.monitors " + sizes + b"\r\n" + header + b"%d\r\n" % number)
        await ingress._send_command(b"PUB RAW.\xff\xfe 1\r\n3\r\n")
        await ingress.publish("RAW.monitors", command)
        await ingress.flush()
        operator = await server.connect("operator")
        last = await operator.publish_raw("control", "c", command)
        normalizer = await server.connect("normalizer")
        reader = normalizer.raw_reader(0)
        taken = []
        async with asyncio.timeout(10):
            while not taken or taken[-1].sequence < last:
                taken += await reader.take(1)
        assert [message.sequence for message in taken] == list(range(1, last + 1))
        bodies = [message.data for message in taken]
        assert bodies[:4] == [b"0", b"1", b"2", b"3"]
        assert bodies[-1] == command
        forged = read_pack(bodies[-2])
        assert forged.feed == UNREADABLE_FEED
        assert command in forged.items[0].body  # kept, to be looked at
        await reader.close()
        for bus in (ingress, operator, normalizer):
            await bus.close()
    finally:
        server.stop()


async def test_a_refusal_is_told_once_and_makes_the_process_not_ready(server, caplog):
    bus = await server.connect("engine")
    assert bus.is_ready
    for _ in range(3):
        await bus.publish_events([(3, b"forged")])
    with pytest.raises(UnavailableError):
        await asyncio.wait_for(bus.publish_raw("monitors", "p", b"forged"), 10)
    assert not bus.is_ready
    assert bus.is_connected
    told = [
        (record.operation, record.subject_class)
        for record in caplog.records
        if record.getMessage() == "bus_permission_denied"
    ]
    assert sorted(told) == [("publish", "events"), ("publish", "raw")]
    await bus.close()


async def test_the_keeper_makes_the_streams_in_memory_again_after_a_restart_and_never_raw(tmp_path):
    server = Server(tmp_path).start()
    try:
        await Bus.set_up(server.url, client_context(server.identities["setup"]), 64 * 1024 * 1024)
        keeper, engine = await server.connect("keeper"), await server.connect("engine")
        identity = (await keeper.raw_extent()).identity
        returned = asyncio.Event()
        keeper.on_reconnect(returned.set)
        await asyncio.to_thread(server.stop)
        await asyncio.to_thread(server.start)
        await asyncio.wait_for(returned.wait(), 10)
        with pytest.raises(UnavailableError, match=r"no stream KV_twins.*vigil up"):
            await engine.await_streams(TWINS, timeout_s=0.3)
        waiting = asyncio.create_task(engine.prepare_streams(1, SNAPSHOTS, TWINS))
        await keeper.ensure_derived_streams()
        await asyncio.wait_for(waiting, 5)
        assert (await keeper.raw_extent()).identity == identity
        assert keeper.is_ready
        assert engine.is_ready
        await keeper.close()
        await engine.close()
    finally:
        server.stop()


async def test_every_wrong_certificate_is_refused_by_the_bus(server, tmp_path):
    wrong = certificates().wrong_identities(server.issuer, tmp_path / "wrong", "engine")
    wrong["a device's, called engine"] = server.device_issuer.issue(tmp_path / "device", "engine")
    wrong["a device's, called engine"].authority.write_bytes(server.server.authority.read_bytes())
    for stranger in ("stranger", "nats-server", "engine,O=Vigil", "CN=engine", "ENGINE"):
        wrong[stranger] = server.issuer.issue(tmp_path / stranger.replace("=", "-"), stranger)
    for what, identity in wrong.items():
        with pytest.raises(UnavailableError):
            await Bus.connect(server.url, what, client_context(identity), timeout_s=0.4)
    right = await server.connect("engine")  # by the same way, so that it was not the way that failed
    await right.close()


async def test_plain_text_and_passwords_are_refused_by_the_bus(server):
    for url in (f"nats://127.0.0.1:{server.port}", f"nats://CN=engine:@127.0.0.1:{server.port}"):
        with pytest.raises(UnavailableError):
            await Bus.connect(url, "engine", timeout_s=0.4)


async def test_a_server_of_another_authority_is_refused_by_us(server, tmp_path):
    stranger = certificates().Issuer.made("processes").issue(tmp_path / "s", "engine")
    with pytest.raises(UnavailableError, match="not believed"):
        await Bus.connect(server.url, "engine", client_context(stranger), timeout_s=0.4)


def test_what_the_server_keeps_is_encrypted_and_unreadable_with_another_key(tmp_path):
    server = Server(tmp_path).start()
    canary = b"CANARY-MRN-4711"
    assert not nats_configuration.holds_raw(tmp_path / "store")

    async def fill():
        await Bus.set_up(server.url, client_context(server.identities["setup"]), 64 * 1024 * 1024)
        bus = await server.connect("ingress")
        await bus.publish_raw("monitors", "p1", canary * 10)
        await bus.close()

    async def extent():
        bus = await server.connect("operator")
        try:
            return await bus.raw_extent()
        finally:
            await bus.close()

    try:
        asyncio.run(fill())
    finally:
        server.stop()
    kept = [file.read_bytes() for file in (tmp_path / "store").rglob("*") if file.is_file()]
    assert sum(map(len, kept)) > 100
    assert all(canary not in content for content in kept)
    server.start()
    try:
        assert asyncio.run(extent()).last_sequence == 1
    finally:
        server.stop()
    server.key = "kAnotherKey"
    server.start()
    try:
        with pytest.raises(UnavailableError, match="no RAW stream"):
            asyncio.run(extent())
        assert nats_configuration.holds_raw(tmp_path / "store")
        with pytest.raises(ConfigurationError, match=r"jetstream\.key"):
            asyncio.run(
                Bus.set_up(server.url, client_context(server.identities["setup"]), 64 * 1024 * 1024, may_make_raw=False)
            )
    finally:
        server.stop()
    server.key = "kTestKey"
    server.start()
    try:
        assert asyncio.run(extent()).last_sequence == 1
    finally:
        server.stop()


def test_what_a_server_without_accounts_kept_is_adopted_and_encrypted(tmp_path):
    server = Server(tmp_path)
    canary = b"CANARY-MRN-4711"
    before = EmbeddedNats(tmp_path / "store", free_port())
    before.start()

    async def fill():
        bus = await Bus.connect(before.url(), "test")
        await bus.ensure_streams(64 * 1024 * 1024)
        await bus.publish_raw("monitors", "p1", canary)
        extent = await bus.raw_extent()
        await bus.close()
        return extent

    async def read():
        await Bus.set_up(server.url, client_context(server.identities["setup"]), 64 * 1024 * 1024)
        bus = await server.connect("normalizer")
        reader = bus.raw_reader(0)
        taken = await reader.take(5)
        await reader.close()
        extent = await bus.raw_extent()
        await bus.close()
        return extent, [message.data for message in taken]

    try:
        kept = asyncio.run(fill())
    finally:
        before.stop()
    assert nats_configuration.adopt_store(tmp_path / "store")
    assert not nats_configuration.adopt_store(tmp_path / "store")
    server.start()
    try:
        found, packs = asyncio.run(read())
    finally:
        server.stop()
    assert packs == [canary]
    assert found.identity == kept.identity  # the positions in PostgreSQL still belong to this stream
    files = [file.read_bytes() for file in (tmp_path / "store" / "jetstream").rglob("*") if file.is_file()]
    assert all(canary not in content for content in files)


def test_a_device_publishes_below_its_own_name_and_nowhere_else(server, needs_mosquitto, tmp_path):
    identity = server.device_issuer.issue(tmp_path / "patch-7", "patch-7")
    topics = ["wearables/patch-7/hr", "wearables/patch-7/a/b", "wearables/patch-8/hr", "RAW/monitors", "EVENTS/3",
              "$KV/twins/7", "wearables/patch-7", "$MQTT/msgs/x", "$JS/API/STREAM/DELETE/RAW"]  # fmt: skip

    async def published():
        bus_errors = []
        client = await server.raw_client("ingress", bus_errors)
        arrived = []

        async def on_message(message):
            arrived.append(message.subject)

        await client.subscribe("wearables.>", cb=on_message)
        await client.flush()
        operator = await server.connect("operator")
        raw_before = (await operator.raw_extent()).last_sequence
        for number, topic in enumerate(topics):
            # MQTT 3.1.1 has no refusal of a publish: the device is told that all is well whatever becomes of it.
            done = await asyncio.to_thread(
                server.mosquitto, "mosquitto_pub", "-i", "patch-7", "-q", "1", "-t", topic, "-m", str(number),
                identity=identity,
            )  # fmt: skip
            assert done.returncode == 0, (topic, done.stderr)
        await client.flush()
        await asyncio.sleep(0.2)
        raw_after = (await operator.raw_extent()).last_sequence
        await operator.close()
        await client.close()
        return arrived, raw_after - raw_before

    arrived, new_raw = asyncio.run(published())
    assert arrived == ["wearables.patch-7.hr", "wearables.patch-7.a.b"]
    assert new_raw == 0
    for topic in ("wearables/#", "wearables/patch-8/hr", "wearables/patch-7/hr", "#", "$MQTT/#", "SNAPSHOTS/#"):
        heard = server.mosquitto(
            "mosquitto_sub", "-i", "patch-7", "-q", "1", "-t", topic, "-C", "1", "-W", "2", identity=identity
        )
        assert "denied" in heard.stderr, (topic, heard)


def test_every_wrong_certificate_is_refused_by_mqtt(server, needs_mosquitto, tmp_path):
    wrong = certificates().wrong_identities(server.device_issuer, tmp_path / "wrong", "patch-7")
    wrong["unknown device"] = server.device_issuer.issue(tmp_path / "unknown", "patch-9")
    wrong["named as a process"] = server.device_issuer.issue(tmp_path / "named", "engine")
    process = server.issuer.issue(tmp_path / "process", "engine")
    process.authority.write_bytes(server.door.authority.read_bytes())
    wrong["a process"] = process
    for what, identity in wrong.items():
        done = server.mosquitto(
            "mosquitto_pub", "-i", "x", "-q", "1", "-t", "wearables/patch-7/hr", "-m", "1", identity=identity
        )
        assert done.returncode != 0, what
    plain = server.mosquitto("mosquitto_pub", "-i", "x", "-q", "1", "-t", "wearables/patch-7/hr", "-m", "1")
    assert plain.returncode != 0
    right = server.device_issuer.issue(tmp_path / "right", "patch-7")
    done = server.mosquitto(
        "mosquitto_pub", "-i", "x", "-q", "1", "-t", "wearables/patch-7/hr", "-m", "1", identity=right
    )
    assert done.returncode == 0, done.stderr


def test_a_device_cannot_come_by_the_processes_door(server, tmp_path):
    device = server.issuer.issue(tmp_path / "patch-7", "patch-7")  # even with a certificate of the right authority
    with pytest.raises(UnavailableError):
        asyncio.run(Bus.connect(server.url, "ingress", client_context(device), timeout_s=0.4))


def test_on_loopback_a_device_has_a_password_and_a_process_has_no_way_in(tmp_path, needs_mosquitto):
    # bcrypt of "secret-of-patch-7", made with crypt(3)
    hashed = "$2b$04$VLlgBP37JH7kvPXeRKJ9se3.c7mDF.ZCrhJRG6UMojXvQxA3pC9SK"
    server = Server(tmp_path, is_mqtt_tls=False, devices=(Device("patch-7", hashed), Device("patch-8"))).start()

    def publish(*who):
        return server.mosquitto(
            "mosquitto_pub", *who, "-i", "x", "-q", "1", "-t", "wearables/patch-7/hr", "-m", "1"
        ).returncode

    try:
        assert publish("-u", "patch-7", "-P", "secret-of-patch-7") == 0
        refused = [
            (), ("-u", "patch-7", "-P", "wrong"), ("-u", "patch-7", "-P", ""), ("-u", "patch-7"),
            ("-u", "patch-8", "-P", ""), ("-u", "CN=engine", "-P", ""), ("-u", "CN=engine"), ("-u", "engine", "-P", ""),
            ("-u", "CN=setup", "-P", ""),
        ]  # fmt: skip
        for who in refused:
            assert publish(*who) != 0, who
    finally:
        server.stop()


@pytest.mark.parametrize(
    "content",
    ['[{"name": "engine"}]', '[{"name": "a.b"}]', '[{"name": "a>"}]', '[{"name": ""}]', "{}", "no",
     '[{"name": "a"}, {"name": "a"}]', '[{"name": "a", "pasword": "x"}]'],
)  # fmt: skip
def test_devices_that_could_be_somebody_else_are_not_configured(tmp_path, content):
    (tmp_path / "devices.json").write_text(content)
    with pytest.raises(ConfigurationError, match="device"):
        nats_configuration.read_devices(tmp_path / "devices.json")


def test_devices_are_read_and_a_missing_file_is_no_devices(tmp_path):
    assert nats_configuration.read_devices(tmp_path / "devices.json") == ()
    (tmp_path / "devices.json").write_text('[{"name": "patch-7"}, {"name": "Patch_8", "password_bcrypt": "$2a$x"}]')
    assert nats_configuration.read_devices(tmp_path / "devices.json") == (Device("patch-7"), Device("Patch_8", "$2a$x"))


def test_paths_with_quotes_and_spaces_are_only_paths(tmp_path):
    odd = tmp_path / 'a "quoted" $HOME folder'
    odd.mkdir()
    server = Server(odd).start()
    server.stop()
    assert (odd / "store").is_dir()


async def test_a_process_that_is_no_longer_known_is_cut_off_and_let_in_again(tmp_path, monkeypatch):
    server = Server(tmp_path).start()
    everybody = dict(PROCESSES)
    try:
        bus = await server.connect("engine")
        for known, is_ready in (({n: p for n, p in everybody.items() if n != "engine"}, False), (everybody, True)):
            monkeypatch.setattr(nats_configuration, "PROCESSES", known)
            server.write()
            server.process.send_signal(signal.SIGHUP)
            async with asyncio.timeout(10):
                while bus.is_ready != is_ready:  # noqa: ASYNC110 - what another process thinks
                    await asyncio.sleep(0.05)
            if not is_ready:
                with pytest.raises(UnavailableError, match="does not know us"):
                    # Several tries: the server's closing may overtake its word, and then all we see is a broken pipe.
                    await server.connect("engine", timeout_s=2)
        await bus.close()
    finally:
        server.stop()


def test_a_device_is_added_and_taken_away_while_the_server_runs(tmp_path, needs_mosquitto):
    server = Server(tmp_path, devices=()).start()
    identity = server.device_issuer.issue(tmp_path / "patch-7", "patch-7")

    def publish():
        return server.mosquitto(
            "mosquitto_pub", "-i", "x", "-q", "1", "-t", "wearables/patch-7/hr", "-m", "1", identity=identity
        ).returncode

    def becomes(is_let_in):
        deadline = time.monotonic() + 10
        while (publish() == 0) != is_let_in:
            assert time.monotonic() < deadline
            time.sleep(0.1)

    try:
        assert publish() != 0
        server.devices = (Device("patch-7"),)
        server.write()
        server.process.send_signal(signal.SIGHUP)
        becomes(True)
        server.devices = ()
        server.write()
        server.process.send_signal(signal.SIGHUP)
        becomes(False)
    finally:
        server.stop()
