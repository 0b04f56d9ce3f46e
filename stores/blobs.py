"""Large bodies by content: a file named after the SHA-256 of what it holds, on the disk before anybody relies on it.

Here: the local folder. Calls block on fsync: from asyncio, run them in a thread.
Not here: which bodies are large (twin.ingress), the lake (stores.lake), retention.
"""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
from contextlib import suppress
from pathlib import Path

from vocabulary.errors import BrokenInvariantError, UnavailableError, VigilError

_DIGEST = re.compile(r"[0-9a-f]{64}")


class BlobMissingError(VigilError):
    """No blob has this digest here."""


class BlobDamagedError(BrokenInvariantError):
    """A blob's bytes no longer have its digest: the disk or somebody changed them."""


class BlobStore:
    """A folder of blobs, two levels deep: `ab/ab12…`. Readable by its owner only."""

    def __init__(self, folder: Path) -> None:
        """Describe the store; nothing is made until the first `put`."""
        self.folder = folder

    def path(self, digest: str) -> Path:
        """Return where a blob lies.

        Raises:
            ValueError: `digest` is not 64 hexadecimal digits in lower case.
        """
        if not _DIGEST.fullmatch(digest):
            raise ValueError("expected a SHA-256 digest: 64 hexadecimal digits in lower case")
        return self.folder / digest[:2] / digest

    def put(self, body: bytes) -> str:
        """Keep `body` and return its SHA-256 in hexadecimal, once file and folder are on the disk. Idempotent.

        Raises:
            UnavailableError: the disk is full or the folder cannot be written.
        """
        digest = hashlib.sha256(body).hexdigest()
        path = self.path(digest)
        try:
            if not self._is_whole(path, digest):
                self._write(path, body)
            # Also when it was there: a crash may have come between its rename and the folder's fsync.
            for folder in (path.parent, self.folder, self.folder.parent):
                _sync_folder(folder)
        except OSError as error:
            raise UnavailableError(
                f"The blob store {self.folder} cannot be written: {error.strerror}. Free space or fix its permissions."
            ) from error
        return digest

    def get(self, digest: str) -> bytes:
        """Return a blob's bytes, checked against their digest.

        Raises:
            BlobMissingError: there is none.
            BlobDamagedError: its bytes were changed.
            UnavailableError: it cannot be read.
            ValueError: `digest` is not a digest.
        """
        path = self.path(digest)
        try:
            body = path.read_bytes()
        except FileNotFoundError:
            raise BlobMissingError(f"no blob {digest} in {self.folder}: restore it from a backup") from None
        except OSError as error:
            raise UnavailableError(f"The blob {path} cannot be read: {error.strerror}.") from error
        if hashlib.sha256(body).hexdigest() != digest:
            raise BlobDamagedError(f"the blob {path} does not have its digest: restore it from a backup")
        return body

    @staticmethod
    def _is_whole(path: Path, digest: str) -> bool:
        # A damaged blob is written again rather than trusted: hashing costs less than the fsync it saves.
        try:
            with path.open("rb") as file:
                return hashlib.file_digest(file, "sha256").hexdigest() == digest
        except FileNotFoundError:
            return False

    @staticmethod
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
