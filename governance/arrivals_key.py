"""The arrivals key: bodies that ingress keeps before anybody knows whose they are are locked with its public half.

Its private half lies in keys_dir, wrapped by the master key; the public half lies beside it for ingress.

Here: making, reading and rewrapping it.
Not here: locking and unlocking (stores.blob_keys).
"""

from __future__ import annotations

import base64
import os
from pathlib import Path

import msgspec

from governance.master_key import MasterKey, sync_folder
from stores.blob_keys import ArrivalsKey, new_arrivals_key
from vocabulary.errors import ConfigurationError
from vocabulary.settings import Settings

ARRIVALS_KEY = "arrivals.key"
ARRIVALS_LOCK = "arrivals.pub"

_ARRIVALS_CONTEXT = b"vigil arrivals key"


class _Arrivals(msgspec.Struct, frozen=True):
    """The file of the arrivals key: its private half wrapped by the master key."""

    master_key_id: str
    wrapped: bytes


def read_arrivals(path: Path, master: MasterKey) -> ArrivalsKey:
    """Return the arrivals key.

    Raises:
        ConfigurationError: its file is missing or damaged, or its master key is not known here.
    """
    try:
        kept = msgspec.json.decode(path.read_bytes(), type=_Arrivals)
        return ArrivalsKey(master.unwrap(kept.master_key_id, kept.wrapped, _ARRIVALS_CONTEXT))
    except OSError as error:
        raise ConfigurationError(
            f"The arrivals key {path} cannot be read: {error.strerror}. `vigil up` makes it the first time; afterwards "
            "restore it from the backup of keys."
        ) from None
    except (msgspec.DecodeError, ValueError):
        raise ConfigurationError(f"The arrivals key {path} is damaged: restore it from the backup of keys.") from None


def rewrap_arrivals(path: Path, master: MasterKey) -> bool:
    """Wrap the arrivals key under the current master key; return whether another one had wrapped it."""
    kept = msgspec.json.decode(path.read_bytes(), type=_Arrivals)
    if kept.master_key_id == master.key_id:
        return False
    _write_arrivals(path, master, master.unwrap(kept.master_key_id, kept.wrapped, _ARRIVALS_CONTEXT))
    return True


def _write_arrivals(path: Path, master: MasterKey, private: bytes) -> None:
    wrapped = master.wrap(private, _ARRIVALS_CONTEXT)
    replace_file(path, msgspec.json.encode(_Arrivals(wrapped.master_key_id, wrapped.wrapped)) + b"\n")


def replace_file(path: Path, content: bytes) -> None:
    """Put a file of one owner in its place, durably."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    handle = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(handle, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
    sync_folder(path.parent)


def ensure_arrivals(settings: Settings, master: MasterKey) -> None:
    """Make the arrivals key the first time; check it every other time.

    Raises:
        ConfigurationError: it is gone or damaged; never makes another in its place.
    """
    private, public = settings.keys_dir / ARRIVALS_KEY, settings.keys_dir / ARRIVALS_LOCK
    settings.keys_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    if not private.exists():
        if public.exists():
            raise ConfigurationError(f"The arrivals key {private} is gone: restore it from the backup of keys.")
        _write_arrivals(private, master, new_arrivals_key())
    key = read_arrivals(private, master)
    if not public.exists():
        replace_file(public, base64.b64encode(key.public) + b"\n")
