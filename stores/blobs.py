"""Large bodies: files named after the SHA-256 of what they hold, on the disk before anybody relies on them.

Each body is sealed with a content key of its own, so a file's name is the digest of ciphertext: two files of the same
body have nothing in common, and nobody can ask a name whether a known document is here. The locked content key lies
beside it, `<digest>.key`. Bodies kept before there were keys lie as they came, without such a file.

Here: the local folder. Calls block on fsync: from asyncio, run them in a thread.
Not here: who may unlock a content key (stores.blob_keys), which bodies are large (twin.ingress), retention.
"""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from stores.envelope import KEY_BYTES, ContentKey
from vocabulary.errors import BrokenInvariantError, ConfigurationError, UnavailableError, VigilError

_DIGEST = re.compile(r"[0-9a-f]{64}")
_CONTENT = b"content\0"  # the id that every content key goes by: the file beside it says which it is
_PURPOSE = b"blob"
_SIDECAR = ".key"


class BlobMissingError(VigilError):
    """No blob has this digest here."""


class BlobDamagedError(BrokenInvariantError):
    """A blob's bytes no longer have its digest: the disk or somebody changed them."""


class Lock(Protocol):
    """What locks a content key away before it is known whose the body is (stores.blob_keys.ArrivalsLock)."""

    def lock(self, content_key: bytes, digest: str) -> bytes:
        """Return what to keep beside the blob `digest`."""
        ...


class BlobStore:
    """A folder of blobs, two levels deep: `ab/ab12…`. Readable by its owner only."""

    def __init__(self, folder: Path, lock: Lock | None = None) -> None:
        """Describe the store; nothing is made until the first `put`.

        Args:
            folder: where the blobs lie.
            lock: for who puts bodies in; who only reads needs none.
        """
        self.folder = folder
        self._lock = lock

    def path(self, digest: str) -> Path:
        """Return where a blob lies.

        Raises:
            ValueError: `digest` is not 64 hexadecimal digits in lower case.
        """
        if not _DIGEST.fullmatch(digest):
            raise ValueError("expected a SHA-256 digest: 64 hexadecimal digits in lower case")
        return self.folder / digest[:2] / digest

    def put(self, body: bytes) -> str:
        """Keep `body`, sealed, and return its file's SHA-256, once files and folder are on the disk.

        Raises:
            UnavailableError: the disk is full or the folder cannot be written.
            ConfigurationError: the store was opened without a lock, to read only.
        """
        if self._lock is None:
            raise ConfigurationError("this blob store was opened without a lock, to read only")
        content_key = os.urandom(KEY_BYTES)
        sealed = ContentKey(_CONTENT, content_key).seal(_PURPOSE, 0, body)
        digest = hashlib.sha256(sealed).hexdigest()
        path = self.path(digest)
        with self._writing():
            # The key first: after a crash there may be a key without a blob, never a blob that nobody can read.
            _write(path.with_suffix(_SIDECAR), self._lock.lock(content_key, digest))
            _write(path, sealed)
            for folder in (path.parent, self.folder, self.folder.parent):
                _sync_folder(folder)
        return digest

    def stored(self, digest: str) -> bytes:
        """Return a blob's bytes as they lie on the disk, checked against their digest.

        Raises:
            BlobMissingError: there is none.
            BlobDamagedError: its bytes were changed.
            UnavailableError: it cannot be read.
            ValueError: `digest` is not a digest.
        """
        path = self.path(digest)
        try:
            stored = path.read_bytes()
        except FileNotFoundError:
            raise BlobMissingError(f"no blob {digest} in {self.folder}: restore it from a backup") from None
        except OSError as error:
            raise UnavailableError(f"The blob {path} cannot be read: {error.strerror}.") from error
        if hashlib.sha256(stored).hexdigest() != digest:
            raise BlobDamagedError(f"the blob {path} does not have its digest: restore it from a backup")
        return stored

    @staticmethod
    def unseal(stored: bytes, content_key: bytes) -> bytes:
        """Return the body of a stored blob.

        Raises:
            DamagedEnvelopeError: it is not sealed with this content key.
        """
        return ContentKey(_CONTENT, content_key).unseal(_PURPOSE, 0, stored)

    def sidecar(self, digest: str) -> bytes | None:
        """Return the locked content key beside a blob; None where the blob was kept before there were keys.

        Raises:
            UnavailableError: it cannot be read.
        """
        path = self.path(digest).with_suffix(_SIDECAR)
        try:
            return path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise UnavailableError(f"The key file {path} cannot be read: {error.strerror}.") from error

    def replace_sidecar(self, digest: str, sidecar: bytes) -> None:
        """Put another locked content key in the place of the one beside a blob: atomic, and durable on return.

        Raises:
            UnavailableError: the disk is full or the folder cannot be written; the one before is still there.
        """
        path = self.path(digest).with_suffix(_SIDECAR)
        with self._writing():
            _write(path, sidecar)
            _sync_folder(path.parent)

    def sidecars(self) -> Iterator[bytes]:
        """Yield every locked content key: to count whose they are. Reads one small file a blob."""
        for path in self.folder.glob(f"*/*{_SIDECAR}"):
            with suppress(FileNotFoundError):
                yield path.read_bytes()

    def _writing(self) -> _Translated:
        return _Translated(self.folder)


class _Translated:
    """OSErrors of writing, as the error that callers wait out."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __enter__(self) -> None:
        return

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, OSError):
            raise UnavailableError(
                f"The blob store {self._folder} cannot be written: {error.strerror}. Free space or fix its permissions."
            ) from error


def _write(path: Path, body: bytes) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=".unfinished-", dir=path.parent)  # 0600
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(body)
            file.flush()
            os.fsync(file.fileno())
        Path(name).replace(path)
    except BaseException:
        with suppress(OSError):
            Path(name).unlink()
        raise


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
