"""Models' files: kept once and durably, read only as what their name says."""

from __future__ import annotations

import hashlib
import os
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stores.model_files import ModelFileDamagedError, ModelFileMissingError, ModelFiles
from vocabulary.errors import BrokenInvariantError, ConfigurationError


@pytest.fixture
def kept(tmp_path):
    return ModelFiles(tmp_path / "models")


@given(content=st.binary(max_size=300))
def test_what_was_put_is_got_under_its_sha256(tmp_path_factory, content):
    kept = ModelFiles(tmp_path_factory.mktemp("models"))
    digest = kept.put(content)
    assert digest == hashlib.sha256(content).hexdigest()
    assert kept.get(digest) == content
    assert kept.put(content) == digest


def test_only_its_owner_may_read_it(kept):
    digest = kept.put(b"model")
    path = kept.folder / digest[:2] / digest
    assert path.stat().st_mode & 0o777 == 0o600
    assert kept.folder.stat().st_mode & 0o777 == 0o700
    assert [file.name for file in kept.folder.rglob("*") if file.is_file()] == [digest]


def test_a_file_that_is_not_here_is_missing(kept):
    digest = hashlib.sha256(b"x").hexdigest()
    assert not kept.has(digest)
    with pytest.raises(ModelFileMissingError, match=digest[:16]):
        kept.get(digest)


@given(place=st.integers(0, 4), bit=st.integers(0, 7))
def test_a_file_with_any_bit_changed_is_never_returned_and_is_put_right(tmp_path_factory, place, bit):
    kept = ModelFiles(tmp_path_factory.mktemp("models"))
    digest = kept.put(b"model")
    path = kept.folder / digest[:2] / digest
    content = bytearray(b"model")
    content[place] ^= 1 << bit
    path.write_bytes(content)
    with pytest.raises(ModelFileDamagedError, match="not what its name says"):
        kept.get(digest)
    assert kept.put(b"model") == digest
    assert kept.get(digest) == b"model"


def test_a_file_cut_short_is_damaged(kept):
    digest = kept.put(b"model")
    (kept.folder / digest[:2] / digest).write_bytes(b"mod")
    with pytest.raises(ModelFileDamagedError):
        kept.get(digest)


@pytest.mark.parametrize(
    "name", ["", "../../etc/passwd", "A" * 64, "a" * 63, "a" * 65, "a" * 63 + "\n", "/" + "a" * 63]
)
def test_what_is_no_digest_reads_no_file(kept, name):
    kept.put(b"model")
    for ask in (kept.get, kept.has):
        with pytest.raises(BrokenInvariantError):
            ask(name)


def test_many_at_once_keep_one_file(kept):
    with ThreadPoolExecutor(8) as pool:
        digests = set(pool.map(kept.put, [b"the same model" * 1000] * 32))
    assert len(digests) == 1
    assert sum(file.is_file() for file in kept.folder.rglob("*")) == 1


def test_a_write_that_fails_leaves_nothing_behind(kept, monkeypatch):
    kept.put(b"another")

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ConfigurationError, match="No space left"):
        kept.put(b"model")
    monkeypatch.undo()
    assert not kept.has(hashlib.sha256(b"model").hexdigest())
    assert not list(kept.folder.rglob("*.partial"))


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "models").write_text("a file")
    with pytest.raises(ConfigurationError, match="cannot be written"):
        ModelFiles(tmp_path / "models").put(b"x")
