"""Models' files by digest: a manifest and its Boosters, each under the SHA-256 of its bytes.

Here: putting a file there once, durably, and reading it back only if it is still what its name says.
Not here: what a manifest says (models.risk.artefact), which model may be loaded (governance.serving).
Models hold no patient's data, so the files are plain. A name is a digest: nobody can put another model in its place.
"""

from __future__ import annotations

import hashlib
import os
import re
import uuid
from pathlib import Path

from vocabulary.errors import BrokenInvariantError, ConfigurationError, UnavailableError

_DIGEST = re.compile(r"[0-9a-f]{64}")


class ModelFileMissingError(UnavailableError):
    """No file of this digest is here: it was not copied to this machine yet, or was deleted."""


class ModelFileDamagedError(ConfigurationError):
    """The file is not what its name says: never load it."""


class ModelFiles:
    """One folder of files named by their content. Any number of processes may use it."""

    def __init__(self, folder: Path) -> None:
        """Use a folder (settings.models_dir); it is made with the first file."""
        self.folder = folder

    def put(self, content: bytes) -> str:
        """Keep a file, durably, and return its digest: SHA-256, hexadecimal. Keeping it again does nothing.

        Raises:
            ConfigurationError: the folder cannot be written.
        """
        digest = hashlib.sha256(content).hexdigest()
        path = self._path(digest)
        try:
            if path.is_file() and _read_is(path, digest):
                return digest
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            path.parent.mkdir(exist_ok=True, mode=0o700)
            partial = path.with_name(f".{digest[:16]}.{uuid.uuid4().hex}.partial")
            try:
                _write_durably(partial, content)
                partial.replace(path)
            finally:
                partial.unlink(missing_ok=True)
            _sync_folder(path.parent)
            _sync_folder(self.folder)
        except OSError as error:
            raise ConfigurationError(f"The models' folder {self.folder} cannot be written: {error.strerror}.") from None
        return digest

    def get(self, digest: str) -> bytes:
        """Return a file's bytes, once they have that digest.

        Raises:
            ModelFileMissingError: there is none.
            ModelFileDamagedError: it holds something else, or cannot be read.
            BrokenInvariantError: that is no digest.
        """
        path = self._path(digest)
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            raise ModelFileMissingError(
                f"The model file {digest[:16]}… is not in {self.folder}. Copy it from where the model was trained."
            ) from None
        except OSError as error:
            raise ModelFileDamagedError(f"The model file {path} cannot be read: {error.strerror}.") from None
        if hashlib.sha256(content).hexdigest() != digest:
            raise ModelFileDamagedError(
                f"The model file {path} is not what its name says. Delete it and put it back from a copy."
            )
        return content

    def has(self, digest: str) -> bool:
        """Return whether a file of this name is there; `get` says whether it is sound."""
        return self._path(digest).is_file()

    def _path(self, digest: str) -> Path:
        # It becomes part of a path: whoever can write rows must not be able to read other files.
        if not _DIGEST.fullmatch(digest):
            raise BrokenInvariantError("a model file is named by a SHA-256 in 64 lower-case hexadecimal digits")
        return self.folder / digest[:2] / digest


def _read_is(path: Path, digest: str) -> bool:
    return hashlib.sha256(path.read_bytes()).hexdigest() == digest


def _write_durably(path: Path, content: bytes) -> None:
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(handle, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
