"""Keys that people keep: an Ed25519 key in a file that only a passphrase opens.

Here: the file of a personal or root key, making one, opening one.
Not here: whose signature counts for what (governance.roster), keys of our processes (vocabulary.signing).
Source: RFC 9106 (Argon2id, second recommended option), NIST SP 800-38D (AES-GCM), RFC 8032 (Ed25519).
"""

from __future__ import annotations

import base64
import os
from pathlib import Path
from typing import Final

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id

from vocabulary.errors import ConfigurationError, RefusedError
from vocabulary.signing import SEED_BYTES, SigningKey

FORMAT: Final = "vigil.key.1"
SHORTEST_PASSPHRASE: Final = 12
"""Characters. A key file may be copied; what then stands between a thief and a signature is this and Argon2id."""

_ITERATIONS, _LANES, _MEMORY_KIB = 3, 4, 64 * 1024
_MOST_MEMORY_KIB, _MOST_ITERATIONS = 1024 * 1024, 64  # a forged file must not take the machine down
_SALT_BYTES, _NONCE_BYTES = 16, 12


class WrongPassphraseError(RefusedError):
    """The passphrase does not open the key file, or the file was altered: nobody can tell which."""


class _KeyFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the file holds, as JSON; bytes in base64."""

    format: str
    owner: str
    public: str
    argon2id: tuple[int, int, int]  # iterations, lanes, memory in KiB
    salt: bytes
    nonce: bytes
    sealed: bytes


def _key_encryption_key(passphrase: str, salt: bytes, parameters: tuple[int, int, int]) -> bytes:
    iterations, lanes, memory = parameters
    derivation = Argon2id(salt=salt, length=32, iterations=iterations, lanes=lanes, memory_cost=memory)
    return derivation.derive(passphrase.encode())


def _bound(owner: str, public: str) -> bytes:
    return f"{FORMAT}\n{owner}\n{public}".encode()


def check_passphrase(passphrase: str) -> None:
    """Refuse a passphrase that is too short to protect a signature.

    Raises:
        ConfigurationError: it has fewer than 12 characters, or fewer than 5 different ones.
    """
    if len(passphrase) < SHORTEST_PASSPHRASE or len(set(passphrase)) < 5:
        raise ConfigurationError(
            f"A passphrase needs at least {SHORTEST_PASSPHRASE} characters, not all alike: four random words do well."
        )


def create(path: Path, owner: str, passphrase: str) -> SigningKey:
    """Make a key, write it sealed to `path` (0600), and return it; an existing file is never overwritten.

    Args:
        path: the file to make.
        owner: whose key it is, readable in the file; bound to it.
        passphrase: opens it.

    Raises:
        ConfigurationError: the passphrase is too short, or there is a file already.
    """
    check_passphrase(passphrase)
    key = SigningKey.generate()
    public = key.verifying.text()
    salt, nonce = os.urandom(_SALT_BYTES), os.urandom(_NONCE_BYTES)
    parameters = (_ITERATIONS, _LANES, _MEMORY_KIB)
    cipher = AESGCM(_key_encryption_key(passphrase, salt, parameters))
    sealed = cipher.encrypt(nonce, key.seed(), _bound(owner, public))
    content = msgspec.json.encode(_KeyFile(FORMAT, owner, public, parameters, salt, nonce, sealed))
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        raise ConfigurationError(f"{path} is there already: a key is never overwritten. Choose another file.") from None
    except OSError as error:
        raise ConfigurationError(f"The key file {path} cannot be written: {error.strerror}.") from None
    with os.fdopen(handle, "wb") as file:
        file.write(msgspec.json.format(content) + b"\n")
        file.flush()
        os.fsync(file.fileno())
    return key


def owner_of(path: Path) -> tuple[str, str]:
    """Return a key file's owner and public key without opening it.

    Raises:
        ConfigurationError: the file cannot be read or is no key file.
    """
    found = _read(path)
    return found.owner, found.public


def open_key(path: Path, passphrase: str) -> SigningKey:
    """Return the key of a file.

    Raises:
        ConfigurationError: the file cannot be read or is no key file.
        WrongPassphraseError: it does not open.
    """
    found = _read(path)
    cipher = AESGCM(_key_encryption_key(passphrase, found.salt, found.argon2id))
    try:
        seed = cipher.decrypt(found.nonce, found.sealed, _bound(found.owner, found.public))
    except InvalidTag:
        raise WrongPassphraseError(f"The passphrase does not open {path.name}, or the file was altered.") from None
    key = SigningKey(seed) if len(seed) == SEED_BYTES else None
    if key is None or key.verifying.text() != found.public:
        raise WrongPassphraseError(f"{path.name} names another public key than the one it holds.")
    return key


def _read(path: Path) -> _KeyFile:
    try:
        found = msgspec.json.decode(path.read_bytes(), type=_KeyFile)
    except OSError as error:
        raise ConfigurationError(f"The key file {path} cannot be read: {error.strerror}.") from None
    except msgspec.MsgspecError:
        raise ConfigurationError(
            f"{path} is not a key file: expected {FORMAT}, as `vigil keys person` writes."
        ) from None
    iterations, lanes, memory = found.argon2id
    is_sane = (
        found.format == FORMAT
        and 1 <= iterations <= _MOST_ITERATIONS
        and 1 <= lanes <= 16
        and 8 * lanes <= memory <= _MOST_MEMORY_KIB
        and len(found.salt) >= 8
        and len(found.nonce) == _NONCE_BYTES
        and len(base64.b64decode(found.public)) == 32
    )
    if not is_sane:
        raise ConfigurationError(f"{path} is not a key file of this program: expected {FORMAT}.")
    return found
