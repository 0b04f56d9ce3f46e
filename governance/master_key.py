"""The master key: wraps the keys that protect patients' data, and never protects data itself.

It is a file, an environment variable, or a key inside a PKCS#11 token (settings.master_key). Several may be known at
once: the current one wraps, older ones still unwrap until everything was wrapped anew (`vigil keys rotate`). Others
than the configured one are named in keys_dir: `master-<id>.key` beside master.key, and addresses in `masters`.

Here: finding, making, wrapping and unwrapping.
Not here: tokens (governance.pkcs11_key), which data keys there are (stores.data_keys, governance.privacy).
Source: NIST SP 800-38D (AES-256-GCM); SP 800-57 part 1 (key wrapping, cryptoperiods).
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
import stat
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple, Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from vocabulary.errors import BrokenInvariantError, ConfigurationError
from vocabulary.settings import Settings

MASTER_BYTES = 32
MASTER_FILE = "master.key"
OTHERS_FILE = "masters"
"""In keys_dir: addresses of further master keys, one a line, as in settings.master_key."""

_NONCE_BYTES = 12  # random: a master key wraps thousands of keys in its life, and 2^32 would be the limit


class Holder(Protocol):
    """One master key, wherever it is."""

    @property
    def key_id(self) -> str:
        """Return its name, 16 hexadecimal digits; says nothing about the key."""
        ...

    @property
    def source(self) -> str:
        """Return where it is: `file`, `env` or `pkcs11`."""
        ...

    def wrap(self, data_key: bytes, context: bytes) -> bytes:
        """Return a data key wrapped for one context."""
        ...

    def unwrap(self, wrapped: bytes, context: bytes) -> bytes:
        """Return the data key; raises BrokenInvariantError where it was changed or wrapped for another context."""
        ...

    def close(self) -> None:
        """End what is open."""
        ...


class LocalKey:
    """A master key in this process's memory."""

    def __init__(self, key: bytes, source: str, path: Path | None = None) -> None:
        """Use 32 bytes."""
        self._aead = AESGCM(key)
        self.source = source
        self.path = path
        self.key_id = HKDF(hashes.SHA256(), 8, None, b"vigil master key id").derive(key).hex()

    def wrap(self, data_key: bytes, context: bytes) -> bytes:
        """Return a data key wrapped for one context."""
        nonce = os.urandom(_NONCE_BYTES)
        return nonce + self._aead.encrypt(nonce, data_key, context)

    def unwrap(self, wrapped: bytes, context: bytes) -> bytes:
        """Return the data key.

        Raises:
            BrokenInvariantError: it was changed, or wrapped for another context.
        """
        try:
            return self._aead.decrypt(wrapped[:_NONCE_BYTES], wrapped[_NONCE_BYTES:], context)
        except (InvalidTag, ValueError):  # ValueError: too short to be one
            raise BrokenInvariantError(
                f"a data key does not unwrap under master key {self.key_id}: its row was changed. Restore it from the "
                "backup of keys."
            ) from None

    def close(self) -> None:
        """Nothing is open."""


class Wrapped(NamedTuple):
    """A wrapped data key, and the master key that wrapped it."""

    master_key_id: str
    wrapped: bytes


class MasterKey:
    """Every master key that is known here; the current one wraps."""

    def __init__(self, settings: Settings) -> None:
        """Use `open_master`."""
        self._settings = settings
        self._holders: dict[str, Holder] = {}
        self._by_address: dict[str, Holder] = {}
        self._retired: set[str] = set()
        self._seen: tuple[object, ...] = ()
        self._unusable = ""

    @property
    def key_id(self) -> str:
        """Return the name of the current master key."""
        return self.current.key_id

    @property
    def current(self) -> Holder:
        """Return what wraps now: the configured key, or the first known one once that is retired.

        Raises:
            ConfigurationError: all that are known are retired.
        """
        for key_id, holder in self._holders.items():
            if key_id not in self._retired:
                return holder
        raise ConfigurationError(
            f"The master key {next(iter(self._holders), '')} was replaced (`vigil keys rotate`) and its successor is "
            f"not known here: set VIGIL_MASTER_KEY to it.{self._unusable}"
        )

    def known(self) -> list[Holder]:
        """Return every master key that is known here, the configured one first."""
        return list(self._holders.values())

    def wrap(self, data_key: bytes, context: bytes) -> Wrapped:
        """Wrap a data key under the current master key, for one context."""
        holder = self.current
        return Wrapped(holder.key_id, holder.wrap(data_key, context))

    def unwrap(self, master_key_id: str, wrapped: bytes, context: bytes) -> bytes:
        """Return a data key, looking for a master key that is not known yet.

        Raises:
            ConfigurationError: that master key is not known here.
            BrokenInvariantError: the wrapped key was changed.
            UnavailableError: the token does not answer.
        """
        if master_key_id not in self._holders:
            self.reload()
        holder = self._holders.get(master_key_id)
        if holder is None:
            raise ConfigurationError(
                f"A data key is wrapped by master key {master_key_id}, which is not known here (known: "
                f"{', '.join(self._holders)}). Restore it, or name it in {self._settings.keys_dir / OTHERS_FILE}."
                f"{self._unusable}"
            )
        return holder.unwrap(wrapped, context)

    def retire(self, master_key_ids: Iterable[str]) -> None:
        """Wrap nothing new with these; they still unwrap."""
        retired = set(master_key_ids)
        if retired != self._retired:
            self._retired = retired
            if not any(key_id not in retired for key_id in self._holders):
                self.reload()

    def reload(self) -> None:
        """Look again at which master keys there are.

        Raises:
            ConfigurationError: the configured one cannot be used.
        """
        found: dict[str, Holder] = {}
        self._seen = self._signature()
        self._unusable = ""
        for address in self._addresses():
            try:
                holder = self._open(address)
            except ConfigurationError as error:
                if address == self._settings.master_key:
                    raise
                # Whoever needs it will be told; whoever does not goes on.
                self._unusable = f" Another one cannot be used: {error}"
                continue
            if holder.key_id not in found:
                found[holder.key_id] = self._holders.get(holder.key_id, holder)
        for key_id, holder in self._holders.items():
            if key_id not in found:
                holder.close()
        self._holders = found

    def refresh(self) -> None:
        """Reload when the files that say which master keys there are have changed."""
        if self._signature() != self._seen:
            self.reload()

    def close(self) -> None:
        """End what is open."""
        for holder in self._holders.values():
            holder.close()

    def _addresses(self) -> Iterator[str]:
        yield self._settings.master_key
        others = self._settings.keys_dir / OTHERS_FILE
        if others.exists():
            yield from (line.strip() for line in others.read_text().splitlines() if line.strip())
        for path in sorted(self._settings.keys_dir.glob("master-*.key")):
            yield f"file:{path}"

    def _signature(self) -> tuple[object, ...]:
        paths = [self._settings.keys_dir, self._settings.keys_dir / OTHERS_FILE]
        path = file_of(self._settings, self._settings.master_key)
        if path is not None:
            paths.append(path)
        return tuple((p.stat().st_mtime_ns, p.stat().st_ino) if p.exists() else None for p in paths)

    def _open(self, address: str) -> Holder:
        known = self._by_address.get(address)
        if known is not None and known.source == "pkcs11":
            return known  # its session is kept: opening another would sign in again
        self._by_address[address] = holder = open_holder(self._settings, address)
        return holder


def file_of(settings: Settings, address: str) -> Path | None:
    """Return the file an address means; None where it means none."""
    if address == "file":
        return settings.keys_dir / MASTER_FILE
    return Path(address.removeprefix("file:")) if address.startswith("file:") else None


def open_holder(settings: Settings, address: str) -> Holder:
    """Open one master key by its address, as in settings.master_key.

    Raises:
        ConfigurationError: the address is none, or what it names is missing or unusable.
    """
    path = file_of(settings, address)
    if path is not None:
        return LocalKey(_read(path), "file", path)
    if address.startswith("env:"):
        return LocalKey(_of_environment(address.removeprefix("env:")), "env")
    if address.startswith("pkcs11:"):
        from governance.pkcs11_key import Pkcs11Key  # loads a native library

        pin = settings.master_key_pin
        return Pkcs11Key(address, None if pin is None else pin.get_secret_value())
    raise ConfigurationError(
        "VIGIL_MASTER_KEY must be `file`, `file:<path>`, `env:<VARIABLE>` or "
        "`pkcs11:<module path>?token=<label>&key=<label>`."
    )


def open_master(settings: Settings) -> MasterKey:
    """Open the configured master key and every other one that is known.

    Raises:
        ConfigurationError: the configured one is missing or unusable; says why.
    """
    master = MasterKey(settings)
    master.reload()
    return master


def ensure_master(settings: Settings) -> MasterKey:
    """Open the master key; make the file where that is what is configured and nothing was ever protected.

    Raises:
        ConfigurationError: it is gone although data was protected with it, or it cannot be used.
    """
    path = file_of(settings, settings.master_key)
    if path is not None and not path.exists():
        if _was_used(settings.keys_dir):
            raise ConfigurationError(
                f"The master key {path} is gone, and data was protected with it. Restore it from its backup; another "
                "one opens nothing."
            )
        save_new(path)
    return open_master(settings)


def _was_used(keys_dir: Path) -> bool:
    return any(keys_dir.glob("arrivals.*"))


def save_new(path: Path) -> LocalKey:
    """Make a master key in a file that only its owner reads, durably; where another process was quicker, use its."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=".unfinished-", dir=path.parent)  # 0600
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(base64.b64encode(os.urandom(MASTER_BYTES)) + b"\n")
            file.flush()
            os.fsync(file.fileno())
        # A link, not a rename: a key that is there is never overwritten, and nobody reads half of one.
        Path(path).hardlink_to(name)
    except FileExistsError:
        pass
    finally:
        Path(name).unlink(missing_ok=True)
    sync_folder(path.parent)
    return LocalKey(_read(path), "file", path)


def sync_folder(folder: Path) -> None:
    """Make what was renamed, linked or removed in a folder durable."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _read(path: Path) -> bytes:
    try:
        mode = path.stat().st_mode
        if mode & (stat.S_IRWXG | stat.S_IRWXO):
            raise ConfigurationError(
                f"The master key {path} can be read by others than its owner (mode {stat.S_IMODE(mode):o}). "
                "Run `chmod 600` on it, and consider it known to whoever could read it."
            )
        return _decoded(path.read_bytes(), str(path))
    except OSError as error:
        raise ConfigurationError(
            f"The master key {path} cannot be read: {error.strerror}. `vigil up` makes it the first time."
        ) from None


def _of_environment(variable: str) -> bytes:
    value = os.environ.get(variable)
    if not value:
        raise ConfigurationError(f"The master key should be in the environment variable {variable}, which is not set.")
    return _decoded(value.encode(), f"in {variable}")


def _decoded(text: bytes, where: str) -> bytes:
    try:
        key = base64.b64decode(text.strip(), validate=True)
    except binascii.Error:
        key = b""
    if len(key) != MASTER_BYTES:
        raise ConfigurationError(f"The master key {where} is damaged: expected {MASTER_BYTES} bytes in base64.")
    return key


def commitment_of(data_key: bytes) -> bytes:
    """Return what proves which key it was, and gives nothing of it away: SHA-256 of an HKDF output of its own."""
    return hashlib.sha256(HKDF(hashes.SHA256(), 32, None, b"vigil data key commitment").derive(data_key)).digest()
