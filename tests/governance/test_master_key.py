"""The master key: made once, kept for its owner alone, several at a time, and never silently replaced."""

from __future__ import annotations

import base64
import os
import threading

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from pydantic import SecretStr

from governance.master_key import LocalKey, MasterKey, ensure_master, open_master
from governance.privacy import prepare
from vocabulary.errors import BrokenInvariantError, ConfigurationError
from vocabulary.settings import Settings


@pytest.fixture
def settings(tmp_path):
    return Settings(data_dir=tmp_path)


def test_the_file_is_made_once_for_its_owner_alone(settings):
    first = ensure_master(settings)
    path = settings.keys_dir / "master.key"
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    assert len(base64.b64decode(path.read_text())) == 32
    assert ensure_master(settings).key_id == first.key_id == open_master(settings).key_id


def test_many_processes_starting_at_once_agree_on_one_key(settings):
    found: list[str] = []
    threads = [threading.Thread(target=lambda: found.append(ensure_master(settings).key_id)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8
    assert len(set(found)) == 1


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660])
def test_a_file_that_others_may_read_is_refused(settings, mode):
    ensure_master(settings)
    (settings.keys_dir / "master.key").chmod(mode)
    with pytest.raises(ConfigurationError, match="chmod 600"):
        open_master(settings)


@pytest.mark.parametrize("content", ["", "short", base64.b64encode(b"x" * 31).decode(), "!" * 44])
def test_a_damaged_file_is_refused(settings, content):
    ensure_master(settings)
    (settings.keys_dir / "master.key").write_text(content)
    with pytest.raises(ConfigurationError, match="damaged"):
        open_master(settings)


def test_a_lost_master_key_is_never_replaced_by_another(settings):
    prepare(settings)
    (settings.keys_dir / "master.key").unlink()
    with pytest.raises(ConfigurationError, match="backup"):
        prepare(settings)
    assert not (settings.keys_dir / "master.key").exists()


def test_a_lost_arrivals_key_is_never_replaced_by_another(settings):
    prepare(settings)
    public = (settings.keys_dir / "arrivals.pub").read_bytes()
    prepare(settings)
    assert (settings.keys_dir / "arrivals.pub").read_bytes() == public
    (settings.keys_dir / "arrivals.key").unlink()
    with pytest.raises(ConfigurationError, match="backup"):
        prepare(settings)


def test_a_key_in_the_environment(settings, monkeypatch):
    there = settings.model_copy(update={"master_key": "env:HOSPITAL_MASTER"})
    monkeypatch.delenv("HOSPITAL_MASTER", raising=False)
    with pytest.raises(ConfigurationError, match="HOSPITAL_MASTER"):
        open_master(there)
    monkeypatch.setenv("HOSPITAL_MASTER", base64.b64encode(bytes(range(32))).decode())
    master = open_master(there)
    assert master.current.source == "env"
    assert not settings.keys_dir.exists()


def test_wrapping_is_aes_gcm_with_the_context_authenticated():
    """An independent reading of what is stored: nonce, then ciphertext and tag."""
    key = bytes(range(32))
    wrapped = LocalKey(key, "env").wrap(b"d" * 32, b"context")
    assert AESGCM(key).decrypt(wrapped[:12], wrapped[12:], b"context") == b"d" * 32


def test_a_wrapped_key_opens_in_its_own_context_and_unchanged_alone(settings):
    master = ensure_master(settings)
    wrapped = master.wrap(b"d" * 32, b"row 1")
    assert master.unwrap(wrapped.master_key_id, wrapped.wrapped, b"row 1") == b"d" * 32
    with pytest.raises(BrokenInvariantError, match="does not unwrap"):
        master.unwrap(wrapped.master_key_id, wrapped.wrapped, b"row 2")
    changed = bytes([wrapped.wrapped[0] ^ 1]) + wrapped.wrapped[1:]
    with pytest.raises(BrokenInvariantError, match="does not unwrap"):
        master.unwrap(wrapped.master_key_id, changed, b"row 1")


def test_an_unknown_master_key_is_named_and_found_once_it_is_there(settings, tmp_path):
    master = ensure_master(settings)
    other = LocalKey(b"o" * 32, "file")
    wrapped = other.wrap(b"d" * 32, b"c")
    with pytest.raises(ConfigurationError, match=other.key_id):
        master.unwrap(other.key_id, wrapped, b"c")
    path = tmp_path / "elsewhere.key"
    handle = os.open(path, os.O_CREAT | os.O_WRONLY, 0o600)
    os.write(handle, base64.b64encode(b"o" * 32))
    os.close(handle)
    (settings.keys_dir / "masters").write_text(f"file:{path}\n")
    assert master.unwrap(other.key_id, wrapped, b"c") == b"d" * 32
    assert master.key_id != other.key_id, "the configured one goes on wrapping"
    (settings.keys_dir / "masters").write_text(f"env:NOT_SET_ANYWHERE\nfile:{path}\n")
    master.reload()
    assert len(master.known()) == 2, "one that cannot be used hinders nobody who does not need it"
    master.retire({master.key_id})
    assert master.key_id == other.key_id
    master.retire({master.key_id, open_master(settings).key_id})
    with pytest.raises(ConfigurationError, match=r"replaced.*NOT_SET_ANYWHERE"):
        _ = master.key_id


def test_a_changed_file_is_found_by_refreshing(settings):
    master = ensure_master(settings)
    before = master.key_id
    path = settings.keys_dir / "master.key"
    fresh = path.with_name("fresh")
    fresh.write_bytes(base64.b64encode(b"n" * 32))
    fresh.chmod(0o600)
    master.refresh()
    assert master.key_id == before
    fresh.replace(path)
    master.refresh()
    assert master.key_id == LocalKey(b"n" * 32, "file").key_id


@pytest.mark.parametrize("address", ["", "vault:x", "pkcs11:", "pkcs11:/lib.so", "pkcs11:/lib.so?token=a"])
def test_what_is_no_address_is_refused(settings, address):
    with pytest.raises(ConfigurationError):
        open_master(settings.model_copy(update={"master_key": address}))


def test_no_key_shows_itself(settings):
    master = ensure_master(settings)
    secret = (settings.keys_dir / "master.key").read_text().strip()
    for shown in (repr(master), repr(master.current), str(vars(master)), master.key_id):
        assert secret not in shown
        assert base64.b64decode(secret).hex() not in shown
    assert isinstance(master, MasterKey)
    assert "1234" not in repr(Settings(master_key_pin=SecretStr("1234")))
