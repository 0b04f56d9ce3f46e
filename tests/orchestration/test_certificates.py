"""The authority: OpenSSL believes what it issues, it renews in time, revokes, and never replaces others' files."""

from __future__ import annotations

import socket
import ssl
import stat
import subprocess
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509

from orchestration.certificates import CERTIFICATE_DAYS, RENEW_BEFORE_DAYS, Authority, expires_at
from vocabulary.clock import ManualClock
from vocabulary.errors import ConfigurationError
from vocabulary.tls import Identity, client_context, server_context

DAY_S = 86_400


def now_clock() -> ManualClock:
    return ManualClock(int(datetime.now(UTC).timestamp()) * 1_000_000)


@pytest.fixture
def clock() -> ManualClock:
    return now_clock()


@pytest.fixture
def authority(tmp_path, clock) -> Authority:
    return Authority(tmp_path / "authority", "Vigil test", clock=clock)


def openssl_verify(authority: Authority, identity: Identity, *arguments: str) -> tuple[int, str]:
    command = ["openssl", "verify", "-x509_strict", "-CAfile", str(authority.certificate), *arguments]
    answer = subprocess.run([*command, str(identity.certificate)], capture_output=True, text=True, check=False)
    return answer.returncode, answer.stdout + answer.stderr


def handshake(server: Identity, client: Identity | None, host: str, *, requires_client: bool) -> str:
    """Speak TLS over a socket pair; return the client's name as the server saw it."""
    ours, theirs = socket.socketpair()
    seen: list[str] = []

    def serve() -> None:
        context = server_context(server, requires_client=requires_client)
        try:
            with context.wrap_socket(ours, server_side=True) as spoken:
                subject = (spoken.getpeercert() or {}).get("subject", ())
                seen.append(next((value for names in subject for kind, value in names if kind == "commonName"), ""))
                spoken.sendall(b"hello")
        except OSError:
            ours.close()

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        context = client_context(client) if client else ssl.create_default_context(cafile=str(server.authority))
        with context.wrap_socket(theirs, server_hostname=host) as spoken:
            # TLS 1.3 tells a client only when it reads that its certificate was not believed.
            if spoken.recv(5) != b"hello":
                raise ConnectionError("closed")
    finally:
        theirs.close()
        thread.join(10)
    return seen[0]


def test_what_it_issues_is_valid_to_openssl_for_its_purpose_and_for_no_other(authority, tmp_path):
    server, client = Identity(tmp_path / "s"), Identity(tmp_path / "c")
    assert authority.issue(server.folder, "board", ["localhost", "127.0.0.1", "::1"])
    assert authority.issue(client.folder, "engine")
    for identity, purpose in ((server, "sslserver"), (client, "sslclient")):
        assert openssl_verify(authority, identity, "-purpose", purpose)[0] == 0
        assert openssl_verify(authority, identity, "-purpose", "sslclient" if purpose == "sslserver" else "sslserver")[
            0
        ]
        assert identity.authority.read_bytes() == authority.certificate.read_bytes()
    assert openssl_verify(authority, server, "-verify_ip", "127.0.0.1")[0] == 0
    assert openssl_verify(authority, server, "-verify_ip", "127.0.0.2")[0] != 0
    assert openssl_verify(authority, server, "-verify_hostname", "localhost")[0] == 0
    found = x509.load_pem_x509_certificate(client.certificate.read_bytes())
    assert found.subject.rfc4514_string() == "CN=engine"
    assert found.not_valid_after_utc - found.not_valid_before_utc < timedelta(days=398)


def test_keys_are_for_their_owners_eyes_only(authority, tmp_path):
    identity = Identity(tmp_path / "c")
    authority.issue(identity.folder, "engine")
    for path in (identity.key, authority.key):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    for folder in (identity.folder, authority.folder):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert not list(tmp_path.rglob("*.partial"))


def test_two_identities_meet_over_tls_and_each_sees_the_others_name(authority, tmp_path):
    server, client = Identity(tmp_path / "s"), Identity(tmp_path / "c")
    authority.issue(server.folder, "board", ["localhost"])
    authority.issue(client.folder, "patch-7")
    assert handshake(server, client, "localhost", requires_client=True) == "patch-7"
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(server, client, "other.example", requires_client=True)


def test_strangers_and_those_without_a_certificate_are_not_let_in(authority, tmp_path, clock):
    server, stranger, wrong = Identity(tmp_path / "s"), Identity(tmp_path / "x"), Identity(tmp_path / "w")
    authority.issue(server.folder, "board", ["localhost"])
    Authority(tmp_path / "other", clock=clock).issue(stranger.folder, "engine")
    stranger.authority.write_bytes(authority.certificate.read_bytes())  # it believes us; we do not believe it
    authority.issue(wrong.folder, "another-server", ["localhost"])  # valid, but not as a client
    for client in (stranger, wrong, None):
        with pytest.raises((ssl.SSLError, ConnectionError)):
            handshake(server, client, "localhost", requires_client=True)
    assert handshake(server, None, "localhost", requires_client=False) == ""


def test_an_identity_stays_until_thirty_days_before_its_end_and_then_has_a_new_key(authority, tmp_path, clock):
    identity = Identity(tmp_path / "c")
    authority.issue(identity.folder, "engine")
    before = identity.key.read_bytes()
    clock.advance((CERTIFICATE_DAYS - RENEW_BEFORE_DAYS) * DAY_S)
    assert not authority.issue(identity.folder, "engine")
    clock.advance(DAY_S)
    assert authority.issue(identity.folder, "engine")
    assert identity.key.read_bytes() != before
    assert expires_at(identity.certificate) > datetime.now(UTC) + timedelta(days=2 * CERTIFICATE_DAYS - 40)


@pytest.mark.parametrize("change", ["name", "hosts", "key", "no key", "authority"])
def test_what_does_not_fit_any_more_is_made_anew(authority, tmp_path, change):
    identity = Identity(tmp_path / "s")
    authority.issue(identity.folder, "board", ["localhost"])
    name, hosts = "board", ["localhost"]
    if change == "name":
        name = "other"
    elif change == "hosts":
        hosts = ["localhost", "10.1.2.3"]
    elif change == "key":
        authority.issue(tmp_path / "t", "x", ["localhost"])
        identity.key.write_bytes((tmp_path / "t/key.pem").read_bytes())
    elif change == "no key":
        identity.key.unlink()
    else:
        identity.authority.write_text("")
    assert authority.issue(identity.folder, name, hosts)
    assert not authority.issue(identity.folder, name, hosts)
    assert openssl_verify(authority, identity)[0] == 0
    assert handshake(identity, None, "localhost", requires_client=False) == ""


def test_somebody_elses_certificate_is_never_replaced(authority, tmp_path, clock):
    identity = Identity(tmp_path / "s")
    Authority(tmp_path / "hospital", "Hospital", clock=clock).issue(identity.folder, "board", ["localhost"])
    before = {path: path.read_bytes() for path in identity.folder.iterdir()}
    with pytest.raises(ConfigurationError, match="not issued by the authority"):
        authority.issue(identity.folder, "board", ["localhost"])
    identity.certificate.write_text("not a certificate")
    with pytest.raises(ConfigurationError, match="not issued by the authority"):
        authority.issue(identity.folder, "board", ["localhost"])
    identity.certificate.write_bytes(before[identity.certificate])
    assert {path: path.read_bytes() for path in identity.folder.iterdir()} == before


def test_what_was_revoked_is_listed_and_replaced(authority, tmp_path):
    good, bad = Identity(tmp_path / "g"), Identity(tmp_path / "b")
    authority.issue(good.folder, "patch-1")
    authority.issue(bad.folder, "patch-2")
    check = ("-crl_check", "-CRLfile", str(authority.revocations))
    assert openssl_verify(authority, bad, *check)[0] == 0
    (revoked,) = authority.revoke("patch-2")
    assert revoked.name == "patch-2"
    status, said = openssl_verify(authority, bad, *check)
    assert status != 0
    assert "revoked" in said
    assert openssl_verify(authority, good, *check)[0] == 0
    assert authority.revoke("patch-2") == []
    assert authority.revoke("nobody") == []
    assert authority.issue(bad.folder, "patch-2"), "a revoked one is not current"
    assert openssl_verify(authority, bad, *check)[0] == 0
    serial = authority.issued()[-1].serial
    assert [one.serial for one in authority.revoke(serial)] == [serial]


def test_a_listener_refuses_a_revoked_client_and_takes_the_others(authority, tmp_path):
    server, good, bad = Identity(tmp_path / "s"), Identity(tmp_path / "g"), Identity(tmp_path / "b")
    authority.issue(server.folder, "board", ["localhost"])
    authority.issue(good.folder, "patch-1")
    authority.issue(bad.folder, "patch-2")
    authority.revoke("patch-2")
    assert handshake(server, bad, "localhost", requires_client=True) == "patch-2", "no list, no refusal"
    server.revocations.write_bytes(authority.revocations.read_bytes())
    with pytest.raises((ssl.SSLError, ConnectionError)):
        handshake(server, bad, "localhost", requires_client=True)
    assert handshake(server, good, "localhost", requires_client=True) == "patch-1"
    server.revocations.write_text("damaged")
    with pytest.raises(ConfigurationError, match="revoked"):
        server_context(server, requires_client=True)


def test_an_authority_for_this_machine_can_certify_no_other(tmp_path, clock):
    here = Authority(tmp_path / "a", permitted=("localhost", "127.0.0.1/32", "::1/128"), clock=clock)
    near, far = Identity(tmp_path / "n"), Identity(tmp_path / "f")
    here.issue(near.folder, "postgres", ["localhost", "127.0.0.1", "::1"])
    here.issue(far.folder, "bank", ["bank.example"])
    assert openssl_verify(here, near)[0] == 0
    status, said = openssl_verify(here, far)
    assert status != 0
    assert "permitted subtree" in said


@pytest.mark.parametrize("damage", ["key.pem", "certificate.pem", "issued.json", "stolen key", "expired"])
def test_a_damaged_authority_is_said_and_never_made_anew_over_the_old_one(authority, tmp_path, clock, damage):
    authority.issue(tmp_path / "c", "engine")
    kept = authority.certificate.read_bytes()
    if damage == "stolen key":
        Authority(tmp_path / "other", clock=clock).prepare()
        authority.key.write_bytes((tmp_path / "other/key.pem").read_bytes())
    elif damage == "expired":
        clock.advance(3651 * DAY_S)
    else:
        (authority.folder / damage).write_text("damaged")
    with pytest.raises(ConfigurationError, match=str(authority.folder)):
        authority.issue(tmp_path / "d", "keeper")
    if damage != "certificate.pem":
        assert authority.certificate.read_bytes() == kept


def test_a_file_without_a_certificate_has_no_end(tmp_path):
    path = tmp_path / "certificate.pem"
    with pytest.raises(ConfigurationError, match="holds no certificate"):
        expires_at(path)
    Path(path).write_text("x")
    with pytest.raises(ConfigurationError, match="holds no certificate"):
        expires_at(path)
