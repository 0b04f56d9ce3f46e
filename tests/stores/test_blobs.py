"""Blobs: sealed, named by ciphertext, durable before they are relied on, handed to a patient, erased with a key."""

from __future__ import annotations

import errno
import hashlib
import os
import threading
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stores import blob_keys
from stores.blob_keys import ArrivalsKey, ArrivalsLock
from stores.blobs import BlobDamagedError, BlobMissingError, BlobStore
from stores.envelope import DamagedEnvelopeError, KeyDestroyedError
from vocabulary.errors import ConfigurationError, UnavailableError


@pytest.fixture
def store(tmp_path, keys):
    return BlobStore(tmp_path / "blobs", ArrivalsLock(keys.arrivals.public))


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(body=st.binary(max_size=300), patient=st.integers(1, 3))
async def test_any_bytes_come_back_before_and_after_their_patient_is_known(store, keys, body, patient):
    digest = store.put(body)
    assert await blob_keys.read(store, digest, keys) == body
    assert await blob_keys.assign(store, digest, patient, keys)
    assert await blob_keys.read(store, digest, keys) == body


async def test_nothing_of_a_body_shows_on_the_disk_or_in_its_name(store, keys):
    body = b"MSH|^~\\&|canary" * 50
    first, second = store.put(body), store.put(body)
    assert first != second, "the same body twice has nothing in common"
    assert hashlib.sha256(body).hexdigest() not in {first, second}
    for file in store.folder.rglob("*"):
        assert file.is_dir() or b"canary" not in file.read_bytes()
    assert hashlib.sha256(store.path(first).read_bytes()).hexdigest() == first


async def test_whoever_puts_bodies_in_cannot_read_them(store, keys):
    digest = store.put(b"body")
    keys.arrivals = ArrivalsKey(bytes(32))
    with pytest.raises(BlobDamagedError, match="another arrivals key"):
        await blob_keys.read(store, digest, keys)
    with pytest.raises(ConfigurationError, match="without a lock"):
        BlobStore(store.folder).put(b"body")


async def test_a_body_handed_over_is_erased_with_its_patients_key(store, keys):
    digest, other = store.put(b"body"), store.put(b"other")
    assert await blob_keys.assign(store, digest, 7, keys)
    assert await blob_keys.assign(store, other, 8, keys)
    assert not await blob_keys.assign(store, digest, 7, keys), "again is no work"
    sidecars = [blob_keys.is_locked(sidecar) for sidecar in store.sidecars()]
    assert sidecars == [False, False]
    keys.destroy(7)
    with pytest.raises(KeyDestroyedError):
        await blob_keys.read(store, digest, keys)
    assert await blob_keys.read(store, other, keys) == b"other"


async def test_a_body_can_be_handed_on_when_it_was_another_patients(store, keys):
    digest = store.put(b"body")
    await blob_keys.assign(store, digest, 7, keys)
    assert await blob_keys.assign(store, digest, 8, keys)
    keys.destroy(7)
    assert await blob_keys.read(store, digest, keys) == b"body"


async def test_a_key_file_of_another_blob_opens_nothing(store, keys):
    one, other = store.put(b"one"), store.put(b"other")
    stolen = store.sidecar(other)
    assert stolen is not None
    store.replace_sidecar(one, stolen)
    with pytest.raises(BlobDamagedError):
        await blob_keys.read(store, one, keys)
    await blob_keys.assign(store, other, 7, keys)
    stolen = store.sidecar(other)
    assert stolen is not None
    store.replace_sidecar(one, stolen)
    with pytest.raises(BlobDamagedError):
        await blob_keys.read(store, one, keys)


async def test_a_blob_from_before_there_were_keys_is_still_read(store, keys):
    body = b"MSH|old"
    digest = hashlib.sha256(body).hexdigest()
    store.path(digest).parent.mkdir(parents=True)
    store.path(digest).write_bytes(body)
    assert await blob_keys.read(store, digest, keys) == body
    assert not await blob_keys.assign(store, digest, 7, keys)


async def test_a_blob_that_lost_its_key_file_says_so(store, keys):
    digest = store.put(b"body")
    store.path(digest).with_suffix(".key").unlink()
    with pytest.raises(BlobDamagedError, match="lost its key file"):
        await blob_keys.read(store, digest, keys)


def test_only_the_owner_may_read(store):
    path = store.path(store.put(b"body"))
    assert {file.stat().st_mode & 0o777 for file in path.parent.iterdir()} == {0o600}
    assert path.parent.stat().st_mode & 0o077 == 0


def test_changed_bytes_are_refused(store):
    digest = store.put(b"body")
    store.path(digest).write_bytes(b"b0dy")
    with pytest.raises(BlobDamagedError):
        store.stored(digest)


def test_a_missing_blob_is_named(store):
    with pytest.raises(BlobMissingError, match="0" * 64):
        store.stored("0" * 64)


@pytest.mark.parametrize("digest", ["", "../../etc/passwd", "A" * 64, "0" * 63, "0" * 64 + "\n"])
def test_what_is_no_digest_is_no_path(store, digest):
    with pytest.raises(ValueError, match="64 hexadecimal digits"):
        store.stored(digest)


def test_key_then_body_then_folders_are_on_the_disk_before_the_digest_is_returned(store, monkeypatch):
    synced = []
    real = os.fsync

    def fsync(handle):
        synced.append(str(Path(f"/proc/self/fd/{handle}").readlink()))
        real(handle)

    monkeypatch.setattr(os, "fsync", fsync)
    path = store.path(store.put(b"body"))
    assert [".unfinished-" in name for name in synced] == [True, True, False, False, False]
    assert synced[2:] == [str(path.parent), str(store.folder), str(store.folder.parent)]
    synced.clear()
    store.replace_sidecar(path.name, b"another")
    assert [".unfinished-" in name for name in synced] == [True, False]
    assert synced[1] == str(path.parent)


def test_a_full_disk_is_unavailable_and_leaves_what_was_there(store, monkeypatch):
    def full(handle):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    digest = store.put(b"earlier")
    before = store.sidecar(digest)
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UnavailableError, match="No space left"):
        store.put(b"body")
    with pytest.raises(UnavailableError, match="No space left"):
        store.replace_sidecar(digest, b"another")
    monkeypatch.undo()
    assert store.sidecar(digest) == before
    assert {file.name for file in store.folder.rglob("*") if file.is_file()} == {digest, f"{digest}.key"}


def test_many_at_once_disturb_nobody(store):
    found = []
    threads = [threading.Thread(target=lambda: found.append(store.put(b"same" * 10_000))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(found)) == 8


def test_a_lock_file_is_checked(tmp_path):
    path = tmp_path / "arrivals.pub"
    with pytest.raises(ConfigurationError, match="vigil up"):
        ArrivalsLock.load(path)
    path.write_text("not base64!")
    with pytest.raises(ConfigurationError, match="damaged"):
        ArrivalsLock.load(path)


def test_what_was_locked_for_one_purpose_opens_for_no_other():
    key = ArrivalsKey(bytes(range(32)))
    locked = ArrivalsLock(key.public).lock(b"k" * 32, "ab" * 32)
    assert key.unlock(locked[1:], b"vigil blob " + b"ab" * 32) == b"k" * 32
    with pytest.raises(DamagedEnvelopeError):
        key.unlock(locked[1:], b"vigil blob " + b"ac" * 32)
