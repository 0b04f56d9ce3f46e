"""Blobs: named by content, durable before they are relied on, never returned with other bytes."""

from __future__ import annotations

import errno
import hashlib
import os
import threading
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stores.blobs import BlobDamagedError, BlobMissingError, BlobStore
from vocabulary.errors import UnavailableError


@pytest.fixture
def store(tmp_path):
    return BlobStore(tmp_path / "blobs")


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(body=st.binary(max_size=300))
def test_any_bytes_come_back_under_their_digest(store, body):
    digest = store.put(body)
    assert digest == hashlib.sha256(body).hexdigest()
    assert store.get(digest) == body


def test_putting_again_leaves_one_file_untouched(store):
    path = store.path(store.put(b"body"))
    before = path.stat()
    store.put(b"body")
    assert path.stat() == before
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_only_the_owner_may_read(store):
    path = store.path(store.put(b"body"))
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o077 == 0


def test_changed_bytes_are_refused_and_putting_them_again_heals(store):
    digest = store.put(b"body")
    store.path(digest).write_bytes(b"b0dy")
    with pytest.raises(BlobDamagedError):
        store.get(digest)
    store.put(b"body")
    assert store.get(digest) == b"body"


def test_a_missing_blob_is_named(store):
    with pytest.raises(BlobMissingError, match="0" * 64):
        store.get("0" * 64)


@pytest.mark.parametrize("digest", ["", "../../etc/passwd", "A" * 64, "0" * 63, "0" * 64 + "\n"])
def test_what_is_no_digest_is_no_path(store, digest):
    with pytest.raises(ValueError, match="64 hexadecimal digits"):
        store.get(digest)


def test_file_then_folders_are_on_the_disk_before_the_digest_is_returned(store, monkeypatch):
    synced = []
    real = os.fsync

    def fsync(handle):
        synced.append(str(Path(f"/proc/self/fd/{handle}").readlink()))
        real(handle)

    monkeypatch.setattr(os, "fsync", fsync)
    path = store.path(store.put(b"body"))
    assert ".unfinished-" in synced[0]
    assert synced[1:] == [str(path.parent), str(store.folder), str(store.folder.parent)]


def test_a_full_disk_is_unavailable_and_leaves_nothing(store, monkeypatch):
    def full(handle):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    digest = store.put(b"earlier")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UnavailableError, match="No space left"):
        store.put(b"body")
    monkeypatch.undo()
    with pytest.raises(BlobMissingError):
        store.get(hashlib.sha256(b"body").hexdigest())
    assert [file.name for file in store.folder.rglob("*") if file.is_file()] == [digest]


def test_many_at_once_putting_the_same_bytes_agree(store):
    found = []
    threads = [threading.Thread(target=lambda: found.append(store.put(b"same" * 10_000))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8
    assert len(set(found)) == 1
    assert store.get(found[0]) == b"same" * 10_000
