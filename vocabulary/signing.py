"""Signatures: Ed25519 keys that programs and people sign with, and checking what was signed.

Here: a private key that signs, a public key that checks, their files, and their short names.
Not here: who may sign what (governance.roster), what the ledger signs (stores.ledger), passphrases (governance.roster).
Source: RFC 8032 (Ed25519).
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
from pathlib import Path
from typing import Protocol

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from vocabulary.errors import ConfigurationError

SEED_BYTES = 32
SIGNATURE_BYTES = 64


def key_id_of(public: bytes) -> str:
    """Return a public key's short name: the first 16 hexadecimal digits of its SHA-256."""
    return hashlib.sha256(public).hexdigest()[:16]


class Signer(Protocol):
    """What signs: a key in a file, or one in a hardware module."""

    @property
    def key_id(self) -> str:
        """Return the short name of the public key."""
        ...

    def sign(self, message: bytes) -> bytes:
        """Return the signature, 64 bytes."""
        ...


class VerifyingKey:
    """A public key."""

    def __init__(self, public: bytes) -> None:
        """Use the 32 raw bytes of a public key.

        Raises:
            ConfigurationError: they are no Ed25519 key.
        """
        try:
            self._key = Ed25519PublicKey.from_public_bytes(public)
        except ValueError:
            raise ConfigurationError(f"an Ed25519 public key has 32 bytes; found {len(public)}") from None
        self.public = public
        self.key_id = key_id_of(public)

    @classmethod
    def from_text(cls, text: str) -> VerifyingKey:
        """Read what `text` returned.

        Raises:
            ConfigurationError: it is not base64 of an Ed25519 public key.
        """
        try:
            return cls(base64.b64decode(text, validate=True))
        except binascii.Error:
            raise ConfigurationError("a public key is written in base64, 44 characters") from None

    def text(self) -> str:
        """Return the key as base64."""
        return base64.b64encode(self.public).decode()

    def is_valid(self, signature: bytes, message: bytes) -> bool:
        """Return whether the holder of the private key signed exactly this message."""
        try:
            self._key.verify(signature, message)
        except InvalidSignature:
            return False
        return True


class SigningKey:
    """A private key. Its bytes never appear in its representation."""

    def __init__(self, seed: bytes) -> None:
        """Use a seed of 32 bytes."""
        self._key = Ed25519PrivateKey.from_private_bytes(seed)
        self.verifying = VerifyingKey(self._key.public_key().public_bytes_raw())

    @classmethod
    def generate(cls) -> SigningKey:
        """Make a key from the operating system's randomness."""
        return cls(os.urandom(SEED_BYTES))

    @classmethod
    def load(cls, path: Path) -> SigningKey:
        """Read a key that `save` wrote.

        Raises:
            ConfigurationError: the file is missing, unreadable, or holds something else.
        """
        try:
            seed = base64.b64decode(path.read_bytes().strip(), validate=True)
            return cls(seed)
        except OSError as error:
            raise ConfigurationError(f"The signing key {path} cannot be read: {error.strerror}.") from None
        except (ValueError, binascii.Error):
            raise ConfigurationError(f"The signing key {path} is damaged: expected 32 bytes in base64.") from None

    def save(self, path: Path) -> None:
        """Write the key for its owner's eyes only (0600); an existing file is never overwritten.

        Raises:
            FileExistsError: there is a file already.
        """
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "wb") as file:
            file.write(base64.b64encode(self.seed()) + b"\n")
            file.flush()
            os.fsync(file.fileno())

    def seed(self) -> bytes:
        """Return the 32 secret bytes, for whoever seals them in another form."""
        return self._key.private_bytes_raw()

    @property
    def key_id(self) -> str:
        """Return the short name of the public key."""
        return self.verifying.key_id

    def sign(self, message: bytes) -> bytes:
        """Return the signature, 64 bytes."""
        return self._key.sign(message)
