"""MLLP over TLS: who gets in, who does not, and that nothing of what ingress promises changes behind a certificate."""

from __future__ import annotations

import asyncio
import hashlib
import importlib.util
import shutil
import socket
import ssl
import subprocess
import sys
import time
from collections import Counter
from datetime import date
from pathlib import Path

import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from hospital.sender import MllpSender, Patience, Transcript
from interop import mllp
from stores.blobs import BlobStore
from twin import mllp_connection, mllp_door, raw_writer
from twin.ingress import FeedListener, tls_of
from twin.mllp_connection import CONNECTION_BYTES
from twin.mllp_door import DoorTls
from vocabulary.clock import ManualClock
from vocabulary.errors import ConfigurationError, StreamFullError
from vocabulary.records import RawItem, RawPack
from vocabulary.settings import FeedSettings, Settings
from vocabulary.tls import client_context

DECODE = msgspec.msgpack.Decoder(RawPack).decode
TODAY = date(2026, 1, 1)


def certificates():
    name = "vigil_tests_transport_certificates"
    if name not in sys.modules:
        file = Path(__file__).parent / "transport_certificates.py"
        spec = importlib.util.spec_from_file_location(name, file)
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    return sys.modules[name]


def oru(number, text=""):
    return f"MSH|^~\\&|MON|H|V|H|20260101||ORU^R01|{number}|P|2.5.1\rNTE|1||{text}\r".encode()


class RawStub:
    """A RAW stream in memory that takes packs, or refuses them."""

    def __init__(self):
        self.items = []
        self.is_full = False

    async def publish_raw(self, _feed, _pack_id, data):
        if self.is_full:
            raise StreamFullError("full")
        self.items += DECODE(data).items
        return len(self.items)


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr(raw_writer, "_RETRY_S", 0.01)


@pytest.fixture(scope="module")
def issuer():
    return certificates().Issuer.made()


@pytest.fixture
def server(issuer, tmp_path):
    return issuer.issue(tmp_path / "server", "gateway")


@pytest.fixture
def monitor(issuer, tmp_path):
    return issuer.issue(tmp_path / "monitor", "monitor-gateway")


@pytest.fixture
def stored():
    return RawStub()


@pytest.fixture
async def opened(stored, server, tmp_path):
    """Open a feed's listener; over TLS unless told otherwise."""
    running = []

    async def start(*, is_tls=True, host="127.0.0.1", **feed):
        settings = FeedSettings(name="monitors", **feed)
        tls = None
        if is_tls:
            tls = DoorTls(
                server, requires_client=settings.requires_client_certificate, revocations=tmp_path / "revoked.pem"
            )
        made = FeedListener(settings, stored, ManualClock(1_780_000_000_000_000), BlobStore(tmp_path / "blobs"), tls)
        host, port = (await made.start(host)).split(":")
        made.at = (host, int(port))
        running.append((made, asyncio.create_task(made.commit_forever())))
        return made

    yield start
    stored.is_full = False
    for made, task in running:
        await made.stop_listening()
        await asyncio.wait_for(task, 5)
        made.close_connections()


async def dialled(live_plane, listener, identity, context=None):
    reader, writer = await asyncio.open_connection(*listener.at, ssl=context or client_context(identity))
    return live_plane.Peer(reader, writer)


async def is_closed(listener, context=None, first=b""):
    """Whether the listener ends a connection without a single byte of an answer, whatever TLS makes of that."""
    try:
        async with asyncio.timeout(5):
            reader, writer = await asyncio.open_connection(*listener.at, ssl=context)
            try:
                writer.write(first)
                return await reader.read(1) == b""
            finally:
                writer.transport.abort()
    except OSError:
        return True


async def is_answered(listener, context):
    """Whether a message is answered."""
    try:
        reader, writer = await asyncio.open_connection(*listener.at, ssl=context)
        try:
            writer.write(mllp.frame(oru("once more")))
            return await reader.read(1) != b""
        finally:
            writer.transport.abort()
    except OSError:
        return False


async def test_a_sender_with_a_certificate_is_heard_and_known_by_its_name(opened, stored, monitor, live_plane):
    listener = await opened()
    peer = await dialled(live_plane, listener, monitor)
    assert await peer.ask(oru(1)) == "AA"
    (item,) = stored.items
    assert (item.client, item.body) == ("monitor-gateway", oru(1))
    assert item.peer == f"127.0.0.1:{peer.writer.get_extra_info('sockname')[1]}"
    assert listener.refused == 0
    await peer.hang_up()


@pytest.mark.parametrize("is_tls", [True, False])
async def test_an_ack_never_waits_for_the_next_message_and_a_dead_sender_is_noticed(
    opened, monitor, live_plane, is_tls
):
    listener = await opened(is_tls=is_tls)
    peer = (
        await dialled(live_plane, listener, monitor)
        if is_tls
        else live_plane.Peer(*await asyncio.open_connection(*listener.at))
    )
    assert await peer.ask(oru(1)) == "AA"
    (connection,) = listener.connections
    accepted = connection._transport.get_extra_info("socket")
    assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
    assert accepted.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
    await peer.hang_up()


def test_an_item_stored_before_certificates_reads_as_one_of_nobody():
    before = msgspec.msgpack.encode([5, 6, "10.0.0.1:1", b"MSH", "", 0, False])
    assert msgspec.msgpack.decode(before, type=RawItem).client == ""


async def test_every_wrong_certificate_is_refused_counted_and_leaves_nothing(
    opened, stored, issuer, monitor, tmp_path, live_plane, caplog
):
    wrong = certificates().wrong_identities(issuer, tmp_path / "wrong", "monitor-gateway")
    revoked = wrong["revoked"] = issuer.issue(tmp_path / "revoked", "monitor-gateway")
    (tmp_path / "revoked.pem").write_bytes(issuer.revoke(revoked))
    wrong["right authority, wrong name"] = issuer.issue(tmp_path / "name", "laboratory")
    listener = await opened(client_names=("monitor-gateway",))
    for number, (what, identity) in enumerate(wrong.items(), 1):
        assert await is_closed(listener, client_context(identity), mllp.frame(oru(number))), what
        await live_plane.until(lambda number=number: listener.refused == number, f"{what} is counted")
    reasons = Counter(record.reason for record in caplog.records if record.getMessage() == "sender_refused")
    assert "certificate has expired" in reasons
    assert "certificate revoked" in reasons
    assert "peer did not return a certificate" in reasons
    assert "name not allowed" in reasons
    shown = x509.load_pem_x509_certificate(wrong["right authority, wrong name"].certificate.read_bytes())
    assert hashlib.sha256(shown.public_bytes(Encoding.DER)).hexdigest() in {
        record.fingerprint for record in caplog.records if record.getMessage() == "sender_refused"
    }
    assert listener.received == 0
    assert listener.connections == set()
    peer = await dialled(live_plane, listener, monitor)  # by the same way, so that it was not the way that failed
    assert await peer.ask(oru("right")) == "AA"
    assert [item.body for item in stored.items] == [oru("right")]
    await peer.hang_up()


async def test_the_log_of_refusals_is_not_filled_by_a_port_scan(opened, live_plane, caplog):
    listener = await opened()
    for number in range(1, 21):
        assert await is_closed(listener, first=b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        await live_plane.until(lambda number=number: listener.refused == number, "counted")
    told = [record for record in caplog.records if record.getMessage() == "sender_refused"]
    assert len(told) == 1
    assert told[0].reason == "http request"


async def test_a_sender_without_a_certificate_is_heard_only_where_none_is_asked_for(opened, stored, issuer, live_plane):
    context = ssl.create_default_context(cadata=issuer.certificate.public_bytes(Encoding.PEM).decode())
    listener = await opened(requires_client_certificate=False)
    peer = await dialled(live_plane, listener, None, context)
    assert await peer.ask(oru(1)) == "AA"
    assert stored.items[0].client == ""
    await peer.hang_up()


async def test_plain_text_on_a_tls_port_is_closed_and_nothing_of_it_kept(opened, stored):
    listener = await opened()
    assert await is_closed(listener, first=mllp.frame(oru(1)))
    assert listener.received == 0
    assert stored.items == []


async def test_tls_on_a_plain_port_is_closed_at_once_and_the_listener_goes_on(opened, stored, monitor, live_plane):
    listener = await opened(is_tls=False)
    assert await is_closed(listener, client_context(monitor))
    assert listener.refused == 1
    assert listener.noise_bytes > 100
    peer = live_plane.Peer(*await asyncio.open_connection(*listener.at))
    # The same first bytes later in a conversation are noise like any other.
    assert await peer.ask(oru(1)) == "AA"
    peer.writer.write(b"\x16\x03noise")
    assert await peer.ask(oru(2)) == "AA"
    assert len(stored.items) == 2
    await peer.hang_up()


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed")
@pytest.mark.parametrize(("version", "is_let_in"), [("-tls1_1", False), ("-tls1_2", True), ("-tls1_3", True)])
async def test_another_houses_tls_is_let_in_by_its_version(opened, monitor, version, is_let_in):
    listener = await opened()
    host, port = listener.at
    # @SECLEVEL=0, or openssl itself would not even offer the old version.
    shown = ["-CAfile", monitor.authority, "-cert", monitor.certificate, "-key", monitor.key]
    command = ["openssl", "s_client", "-connect", f"{host}:{port}", version, "-cipher", "DEFAULT:@SECLEVEL=0", *shown]
    done = await asyncio.to_thread(subprocess.run, command, input=b"", capture_output=True, timeout=20, check=False)
    assert (b"Verify return code: 0 (ok)" in done.stdout and b"Cipher is (NONE)" not in done.stdout) == is_let_in


async def test_a_session_is_never_resumed_without_showing_the_certificate_again(opened, monitor, tmp_path):
    listener = await opened()

    def talk(context, session):
        with (
            socket.create_connection(listener.at) as plain,
            context.wrap_socket(plain, server_hostname="127.0.0.1", session=session) as secured,
        ):
            secured.sendall(mllp.frame(oru(1)))
            assert b"MSA|AA" in secured.recv(4096)
            return secured.session, secured.session_reused

    context = client_context(monitor)
    session, _ = await asyncio.to_thread(talk, context, None)
    _, was_resumed = await asyncio.to_thread(talk, context, session)
    assert not was_resumed


@pytest.mark.parametrize("first", [b"", b"\x16", b"\x16\x03\x01\x02\x00\x01"])
async def test_a_handshake_that_does_not_end_is_ended(opened, monkeypatch, live_plane, first):
    monkeypatch.setattr(mllp_door, "HANDSHAKE_S", 0.3)
    listener = await opened()
    started = asyncio.get_running_loop().time()
    assert await is_closed(listener, first=first)
    assert asyncio.get_running_loop().time() - started < 3
    await live_plane.until(lambda: listener.refused == 1, "counted")


async def test_strangers_cannot_fill_the_door(opened, monkeypatch, monitor, live_plane):
    monkeypatch.setattr(mllp_door, "MOST_HANDSHAKES", 3)
    monkeypatch.setattr(mllp_door, "HANDSHAKE_S", 0.8)
    listener = await opened()
    known = await dialled(live_plane, listener, monitor)
    strangers = [await asyncio.open_connection(*listener.at) for _ in range(8)]
    await live_plane.until(lambda: listener.refused == 5, "those beyond three are turned away")
    assert await known.ask(oru(1)) == "AA"
    await live_plane.until(lambda: listener.refused == 8, "the three are turned away in time")
    late = await dialled(live_plane, listener, monitor)
    assert await late.ask(oru(2)) == "AA"
    for _, writer in strangers:
        writer.close()
    for peer in (known, late):
        await peer.hang_up()


async def test_a_feed_takes_no_more_connections_than_it_may(opened, monkeypatch, monitor, live_plane):
    monkeypatch.setattr(mllp_door, "MOST_CONNECTIONS", 2)
    listener = await opened()
    peers = [await dialled(live_plane, listener, monitor) for _ in range(2)]
    await live_plane.until(lambda: len(listener.connections) == 2, "both are in")
    assert await is_closed(listener, client_context(monitor), mllp.frame(oru(1)))
    assert await peers[0].ask(oru(2)) == "AA"
    await peers[0].hang_up()
    await live_plane.until(lambda: len(listener.connections) == 1, "one has left")
    late = await dialled(live_plane, listener, monitor)
    assert await late.ask(oru(3)) == "AA"
    for peer in (peers[1], late):
        await peer.hang_up()


async def test_backpressure_holds_behind_tls(opened, stored, monitor, live_plane):
    listener = await opened()
    stored.is_full = True
    peer = await dialled(live_plane, listener, monitor)
    total, text = 120, "x" * 200_000
    for number in range(total):
        peer.put(oru(number, text))
    await live_plane.until(lambda: listener.is_raw_full, "full is shown")
    await asyncio.sleep(0.3)
    assert stored.items == []
    # What TLS had decrypted in one go may come on top.
    assert CONNECTION_BYTES < listener.received * len(text) <= CONNECTION_BYTES + 4 * 256 * 1024
    held = listener.received
    await asyncio.sleep(0.3)
    assert listener.received == held
    stored.is_full = False
    answered = [live_plane.answered_id(await peer.answer()) for _ in range(total)]
    assert answered == [str(number) for number in range(total)]
    await peer.hang_up()


async def test_a_sender_that_reads_no_acks_is_dropped_behind_tls(opened, monitor, monkeypatch, live_plane):
    monkeypatch.setattr(mllp_connection, "UNREAD_ACK_S", 0.5)
    listener = await opened()

    def flood():
        with socket.create_connection(listener.at) as plain:
            plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            # Filling the buffers of a sender's ACKs takes a busy machine a while; one that is never dropped ends here.
            plain.settimeout(60)
            with client_context(monitor).wrap_socket(plain, server_hostname="127.0.0.1") as secured:
                block = mllp.frame(oru(1)) * 200
                ends_at = time.monotonic() + 90
                while time.monotonic() < ends_at:
                    try:
                        secured.sendall(block)
                    except OSError as error:
                        return not isinstance(error, TimeoutError)
        return False

    assert await asyncio.to_thread(flood)
    await live_plane.until(lambda: listener.connections == set(), "dropped")


@pytest.mark.parametrize("is_rude", [True, False])
async def test_a_message_cut_off_behind_tls_is_kept_as_evidence(opened, stored, monitor, live_plane, is_rude):
    listener = await opened()
    peer = await dialled(live_plane, listener, monitor)
    assert await peer.ask(oru(1)) == "AA"
    peer.writer.write(mllp.frame(oru(2, "half"))[:-10])
    await peer.writer.drain()
    if is_rude:
        peer.writer.transport.abort()
    else:
        await peer.hang_up()
    await live_plane.until(lambda: len(stored.items) == 2, "kept")
    assert stored.items[1].is_truncated
    assert stored.items[1].client == "monitor-gateway"


async def test_a_renewed_certificate_and_a_revocation_need_no_restart(
    opened, server, issuer, monitor, tmp_path, live_plane, monkeypatch
):
    monkeypatch.setattr(mllp_door, "CERTIFICATES_LOOKED_AT_S", 0.05)
    listener = await opened()
    peer = await dialled(live_plane, listener, monitor)

    def shown(connected):
        return connected.writer.get_extra_info("ssl_object").getpeercert()["serialNumber"]

    before = shown(peer)
    renewed = issuer.issue(tmp_path / "renewed", "gateway")
    renewed.key.replace(server.key)  # half of a renewal: key and certificate do not fit
    await asyncio.sleep(0.3)
    half = await dialled(live_plane, listener, monitor)
    assert shown(half) == before
    renewed.certificate.replace(server.certificate)

    async def is_renewed():
        fresh = await dialled(live_plane, listener, monitor)
        found = shown(fresh)
        await fresh.hang_up()
        return found != before

    await live_plane.until(is_renewed, "the new certificate is shown")
    (tmp_path / "revoked.pem").write_bytes(issuer.revoke(monitor))

    async with asyncio.timeout(5):
        while await is_answered(listener, client_context(monitor)):  # noqa: ASYNC110 - a listener's files
            await asyncio.sleep(0.05)
    # A connection that was let in before stays: cutting it is for whoever revoked, by a restart.
    assert await peer.ask(oru(1)) == "AA"
    for open_peer in (peer, half):
        await open_peer.hang_up()


def test_a_feed_that_names_its_senders_must_be_able_to_tell_them_apart(tmp_path, server):
    feed = FeedSettings(name="lab", client_names=("laboratory",))
    unchecked = feed.model_copy(update={"requires_client_certificate": False})
    plain = Settings(data_dir=tmp_path, feeds=(feed,), server_identity=server.folder)
    always = Settings(data_dir=tmp_path, feeds=(feed,), server_identity=server.folder, tls="always")
    for one, settings in ((feed, plain), (unchecked, always)):
        with pytest.raises(ConfigurationError, match="client_names"):
            tls_of(one, settings, TODAY)
    assert tls_of(feed, always, TODAY) is not None
    assert tls_of(FeedSettings(name="lab"), plain, TODAY) is None


def test_a_listener_without_its_certificate_says_so(tmp_path):
    settings = Settings(data_dir=tmp_path, tls="always", feeds=(FeedSettings(name="lab"),))
    with pytest.raises(ConfigurationError, match=r"identity/server/certificate\.pem"):
        tls_of(settings.feeds[0], settings, TODAY)


async def test_the_hospitals_sender_delivers_over_tls_and_to_nobody_else(opened, stored, issuer, monitor, tmp_path):
    listener = await opened()
    patience = Patience(connect_s=2.0, backoff_first_s=0.02)
    transcript = Transcript()
    async with MllpSender(
        *listener.at, feed="monitors", transcript=transcript, tls=client_context(monitor), patience=patience
    ) as sender:
        delivery = await asyncio.wait_for(sender.send(oru(1)), 5)
    assert delivery.is_accepted
    stranger = certificates().Issuer.made("other").issue(tmp_path / "stranger", "monitor-gateway")
    elsewhere = await opened(host="127.0.0.2")  # an address that is not in the listener's certificate
    for identity, at in ((stranger, listener.at), (monitor, elsewhere.at)):
        transcript = Transcript()
        async with MllpSender(
            *at, feed="monitors", transcript=transcript, tls=client_context(identity), patience=patience
        ) as sender:
            await sender.submit(oru(2))
            assert not await sender.drain(0.5)
            assert sender.last_error == "CERTIFICATE_VERIFY_FAILED"
        assert len(transcript.unanswered()) == 1
    assert [item.body for item in stored.items] == [oru(1)]
