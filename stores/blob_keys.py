"""The content keys of blobs: locked for the arrivals key first, sealed for a patient once that is known.

Ingress takes a body before anybody knows whose it is. It gives the body a content key of its own and locks that key
with a public key: whoever takes ingress over can add bodies, and read none. When the normalizer knows the patient, only
the small locked key is replaced; at the latest sealing does it.

Here: locking, unlocking, handing a blob to a patient.
Not here: the files (stores.blobs), holding keys (governance.privacy).
Source: RFC 9180 (HPKE), base mode, DHKEM(X25519, HKDF-SHA256), HKDF-SHA256, AES-256-GCM.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import os
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, Suite

from stores import envelope
from stores.blobs import BlobDamagedError, BlobStore
from stores.envelope import DamagedEnvelopeError, Keys
from vocabulary.errors import ConfigurationError

_LOCKED = b"\x02"  # first byte of a sidecar that is locked for arrivals; an envelope begins with 1


def _suite() -> Suite:
    return Suite(KEM.X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM)


def _info(digest: str) -> bytes:
    return b"vigil blob " + digest.encode()


def _purpose(digest: str) -> bytes:
    return b"blob:" + bytes.fromhex(digest)


class ArrivalsLock:
    """The public half of the arrivals key: locks, and cannot unlock."""

    def __init__(self, public: bytes) -> None:
        """Use 32 bytes of an X25519 public key."""
        self._public = X25519PublicKey.from_public_bytes(public)

    @classmethod
    def load(cls, path: Path) -> ArrivalsLock:
        """Read the file that `vigil up` made.

        Raises:
            ConfigurationError: it is missing or holds something else.
        """
        try:
            return cls(base64.b64decode(path.read_bytes().strip(), validate=True))
        except OSError as error:
            raise ConfigurationError(
                f"The arrivals lock {path} cannot be read: {error.strerror}. `vigil up` makes it."
            ) from None
        except (ValueError, binascii.Error):
            raise ConfigurationError(f"The arrivals lock {path} is damaged: expected 32 bytes in base64.") from None

    def lock(self, content_key: bytes, digest: str) -> bytes:
        """Return the sidecar of the blob `digest`: its content key, for the holder of the private half alone."""
        return _LOCKED + _suite().encrypt(content_key, self._public, info=_info(digest))


class ArrivalsKey:
    """The private half: unlocks."""

    def __init__(self, private: bytes) -> None:
        """Use 32 bytes of an X25519 private key."""
        self._private = X25519PrivateKey.from_private_bytes(private)

    @property
    def public(self) -> bytes:
        """Return the 32 bytes of the public half."""
        return self._private.public_key().public_bytes_raw()

    def unlock(self, locked: bytes, info: bytes) -> bytes:
        """Return what was locked.

        Raises:
            DamagedEnvelopeError: it was changed, or locked for another key or blob.
        """
        try:
            return _suite().decrypt(locked, self._private, info=info)
        except (InvalidTag, ValueError):
            raise DamagedEnvelopeError("a blob's locked key was changed, or is for another arrivals key") from None


def new_arrivals_key() -> bytes:
    """Return 32 fresh bytes for an ArrivalsKey."""
    return os.urandom(32)


def is_locked(sidecar: bytes) -> bool:
    """Return whether a sidecar still waits for its patient."""
    return sidecar[:1] == _LOCKED


async def _content_key(digest: str, sidecar: bytes, keys: Keys) -> bytes:
    if is_locked(sidecar):
        return await keys.open_arrival(sidecar[1:], _info(digest))
    key_id = envelope.key_id_of(sidecar)
    await keys.load([key_id])
    return keys.unseal(keys.subject_of(key_id), _purpose(digest), sidecar)


async def read(blobs: BlobStore, digest: str, keys: Keys) -> bytes:
    """Return a blob's body, whoever it belongs to.

    Raises:
        BlobMissingError, BlobDamagedError, UnavailableError: as BlobStore.stored.
        KeyDestroyedError: its patient's key was destroyed.
        KeyMissingError: its patient's key is not here.
    """
    sidecar = await asyncio.to_thread(blobs.sidecar, digest)
    stored = await asyncio.to_thread(blobs.stored, digest)
    if sidecar is None:
        if envelope.is_sealed(stored):
            raise BlobDamagedError(f"the blob {digest} has lost its key file: restore it from a backup")
        return stored  # kept before there were keys
    try:
        return blobs.unseal(stored, await _content_key(digest, sidecar, keys))
    except DamagedEnvelopeError as error:
        raise BlobDamagedError(f"the blob {digest} or its key file was changed: {error}") from None


async def assign(blobs: BlobStore, digest: str, subject: int, keys: Keys) -> bool:
    """Seal a blob's content key for a subject, durably; return whether it was another's, or nobody's, until now.

    Raises:
        As `read`.
    """
    sidecar = await asyncio.to_thread(blobs.sidecar, digest)
    if sidecar is None:
        return False
    try:
        content_key = await _content_key(digest, sidecar, keys)
    except DamagedEnvelopeError as error:
        raise BlobDamagedError(f"the key file of blob {digest} was changed: {error}") from None
    if not is_locked(sidecar) and keys.subject_of(envelope.key_id_of(sidecar)) == subject:
        return False
    await keys.ensure([subject])
    await asyncio.to_thread(blobs.replace_sidecar, digest, keys.seal(subject, _purpose(digest), content_key))
    return True
