"""Sealed bytes: what one content key protects, for one subject and one purpose.

Here: the layout of an envelope, sealing and unsealing, and what stores ask of whoever holds keys.
Not here: which key is whose (governance.privacy), the rows of keys (stores.data_keys), the master key
(governance.master_key).

Layout: version (1 byte, 0x01), key id (8 bytes), nonce (24 bytes), ciphertext, tag (16 bytes). Associated data:
version, key id, length of purpose (1 byte), purpose, subject (8 bytes, signed, big-endian). So bytes of one patient or
purpose never pass for another's.
Source: C2SP XAES-256-GCM: AES-256-GCM (NIST SP 800-38D) under a key derived for each message from half of a nonce of
192 bits, so that nonces may be random: 2^80 messages a key collide with probability 2^-32. With AES-256-GCM alone and
random nonces of 96 bits a key would be spent after 2^32 messages.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterable
from typing import Final, Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from vocabulary.errors import BrokenInvariantError, VigilError

KEY_BYTES: Final = 32
KEY_ID_BYTES: Final = 8
NONCE_BYTES: Final = 24
OVERHEAD_BYTES: Final = 1 + KEY_ID_BYTES + NONCE_BYTES + 16

_VERSION: Final = 1
_HEAD = struct.Struct(">B8s24s")
_SUBJECT = struct.Struct(">q")
_BLOCK_MASK: Final = (1 << 128) - 1


class DamagedEnvelopeError(BrokenInvariantError):
    """Sealed bytes were changed, or belong to another subject, purpose or key."""


class KeyDestroyedError(VigilError):
    """The key of these bytes was destroyed on purpose: nobody can read them any more."""


class KeyMissingError(VigilError):
    """The key of these bytes is not known here: its row, or the master key that wraps it, was lost."""


class ContentKey:
    """One key of 256 bits, under its id. Its bytes never appear in its representation."""

    __slots__ = ("_key", "_mask", "key_id")

    def __init__(self, key_id: bytes, key: bytes) -> None:
        """Use 32 bytes as the key called `key_id`, 8 bytes.

        Raises:
            BrokenInvariantError: either has another length.
        """
        if len(key) != KEY_BYTES or len(key_id) != KEY_ID_BYTES:
            raise BrokenInvariantError(f"a content key has {KEY_BYTES} bytes and an id of {KEY_ID_BYTES}")
        self.key_id = key_id
        self._key = key
        doubled = int.from_bytes(_ecb(key, bytes(16))) << 1  # CMAC's first subkey
        self._mask = (doubled & _BLOCK_MASK) ^ (0x87 if doubled >> 128 else 0)

    def seal(self, purpose: bytes, subject: int, plaintext: bytes, nonce: bytes | None = None) -> bytes:
        """Return `plaintext` sealed for a subject and a purpose.

        Args:
            purpose: what the bytes are; at most 255 bytes.
            subject: whose they are.
            plaintext: up to 64 GiB.
            nonce: 24 bytes, for tests against published vectors only; never the same twice.
        """
        nonce = os.urandom(NONCE_BYTES) if nonce is None else nonce
        head = _HEAD.pack(_VERSION, self.key_id, nonce)
        return head + self._derived(nonce).encrypt(nonce[12:], plaintext, _associated(head, purpose, subject))

    def unseal(self, purpose: bytes, subject: int, sealed: bytes) -> bytes:
        """Return what was sealed for exactly this subject and purpose.

        Raises:
            DamagedEnvelopeError: it was not sealed so, or was changed since.
        """
        if len(sealed) < OVERHEAD_BYTES or key_id_of(sealed) != self.key_id:
            raise DamagedEnvelopeError("sealed bytes are cut off, or of another key")
        head, nonce = sealed[: _HEAD.size], sealed[1 + KEY_ID_BYTES : _HEAD.size]
        try:
            return self._derived(nonce).decrypt(nonce[12:], sealed[_HEAD.size :], _associated(head, purpose, subject))
        except InvalidTag:
            raise DamagedEnvelopeError(
                f"sealed bytes ({purpose.split(b':')[0].decode('ascii', 'replace')}) were changed or belong elsewhere: "
                "restore them from a backup"
            ) from None

    def _derived(self, nonce: bytes) -> AESGCM:
        first = int.from_bytes(b"\x00\x01X\x00" + nonce[:12]) ^ self._mask
        second = int.from_bytes(b"\x00\x02X\x00" + nonce[:12]) ^ self._mask
        return AESGCM(_ecb(self._key, first.to_bytes(16) + second.to_bytes(16)))


def _ecb(key: bytes, blocks: bytes) -> bytes:
    # The raw block function, as XAES-256-GCM uses it to derive a key; no data is encrypted so.
    return Cipher(algorithms.AES(key), modes.ECB()).encryptor().update(blocks)  # noqa: S305


def _associated(head: bytes, purpose: bytes, subject: int) -> bytes:
    return head[: 1 + KEY_ID_BYTES] + bytes((len(purpose),)) + purpose + _SUBJECT.pack(subject)


def is_sealed(data: bytes) -> bool:
    """Return whether bytes begin as an envelope does; what was kept before there were keys begins otherwise."""
    return data[:1] == b"\x01"


def key_id_of(sealed: bytes) -> bytes:
    """Return the id of the key an envelope names.

    Raises:
        DamagedEnvelopeError: these bytes are no envelope.
    """
    if not is_sealed(sealed) or len(sealed) < OVERHEAD_BYTES:
        raise DamagedEnvelopeError("expected sealed bytes; found something else")
    return sealed[1 : 1 + KEY_ID_BYTES]


def key_ids(bodies: Iterable[bytes | None]) -> set[bytes]:
    """Return the ids of the keys that the sealed ones among some bodies name."""
    return {key_id_of(body) for body in bodies if body is not None and is_sealed(body)}


class Keys(Protocol):
    """What a store asks of whoever holds the keys (governance.privacy.KeyRing).

    A subject is a patient_id; 0 stands for what is nobody's (yet), and a negative number for what is nobody's of one
    day (`nobody`).
    """

    async def ensure(self, subjects: Iterable[int]) -> None:
        """Have a key ready to seal for each subject; make those that are missing."""
        ...

    async def load(self, key_ids: Iterable[bytes]) -> None:
        """Have keys ready to unseal with; destroyed ones are remembered as destroyed."""
        ...

    def seal(self, subject: int, purpose: bytes, plaintext: bytes) -> bytes:
        """Seal for a subject that `ensure` was called for."""
        ...

    def unseal(self, subject: int, purpose: bytes, sealed: bytes) -> bytes:
        """Unseal with a key that `load` was called for; raises KeyDestroyedError, DamagedEnvelopeError."""
        ...

    def subject_of(self, key_id: bytes) -> int:
        """Return whose a key is that `load` was called for; also of a destroyed one."""
        ...

    async def open_arrival(self, locked: bytes, info: bytes) -> bytes:
        """Return what was locked for the arrivals key (stores.blob_keys)."""
        ...


_DAY_US: Final = 86_400 * 1_000_000


def nobody(at_us: int) -> int:
    """Return the subject of what is nobody's, of the UTC day of a time."""
    return -max(1, at_us // _DAY_US)
