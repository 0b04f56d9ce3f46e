"""A backup of keys, apart from the backup of data: wrapped keys only, so it opens nothing without the master key.

A copy of data, keys and master key in one place is a copy of the plain text: three places for three things. Keys that
were destroyed since a backup was made come back with it, and are destroyed again at once by their proofs.

Here: the file, checking it, putting back what is missing.
Not here: the master key itself (copied by hand, docs/keys.md), the rows (stores.data_keys).
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

import msgspec

from governance.arrivals_key import ARRIVALS_KEY, ARRIVALS_LOCK, replace_file
from governance.master_key import MasterKey
from governance.wrapped_keys import plain
from stores import data_keys
from stores.data_keys import MasterRow, StoredKey
from stores.database import Connection, consistent_read, transaction
from vocabulary.clock import Clock
from vocabulary.errors import BrokenInvariantError, ConfigurationError
from vocabulary.settings import Settings

_KIND = "vigil.keys.1"
_FILES = (ARRIVALS_KEY, ARRIVALS_LOCK)


class Backup(msgspec.Struct, frozen=True):
    """Everything that unwraps with the master key, and the public half of the arrivals key."""

    kind: str
    site: str
    made_at_us: int
    masters: list[MasterRow]
    keys: list[StoredKey]
    files: dict[str, bytes]


class Check(NamedTuple):
    """What a backup is worth."""

    keys: int
    readable: int  # unwrap under a master key that is known here, and are the keys they commit to
    missing_masters: dict[str, int]  # master keys that are not known here, and how many keys they wrap
    damaged: int
    absent: int  # keys in the backup that the database lacks
    newer: int  # keys in the database that the backup lacks: make another
    destroyed_since: int


async def take(connection: Connection, settings: Settings, clock: Clock) -> Backup:
    """Return a backup of every key as of now.

    Args:
        connection: outside of a transaction.
        settings: where the arrivals key is.
        clock: when.
    """
    async with consistent_read(connection):
        masters, keys = await data_keys.masters(connection), await data_keys.every(connection)
    files = {name: path.read_bytes() for name in _FILES if (path := settings.keys_dir / name).exists()}
    return Backup(_KIND, settings.site, clock.now_us(), masters, keys, files)


def save(backup: Backup, path: Path) -> None:
    """Write a backup for its owner's eyes, durably.

    Raises:
        ConfigurationError: there is a file already, or it cannot be written.
    """
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        raise ConfigurationError(f"{path} exists already; a backup never overwrites another.") from None
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be written: {error.strerror}.") from None
    with os.fdopen(handle, "wb") as file:
        file.write(msgspec.json.encode(backup) + b"\n")
        file.flush()
        os.fsync(file.fileno())


def load(path: Path) -> Backup:
    """Read a backup.

    Raises:
        ConfigurationError: the file cannot be read, or is something else.
    """
    try:
        backup = msgspec.json.decode(path.read_bytes(), type=Backup)
    except OSError as error:
        raise ConfigurationError(f"The backup of keys {path} cannot be read: {error.strerror}.") from None
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise ConfigurationError(f"{path} is no backup of keys, or it is damaged.") from None
    if backup.kind != _KIND:
        raise ConfigurationError(f"{path} is no backup of keys that this version reads.")
    return backup


async def check(backup: Backup, connection: Connection, master: MasterKey) -> Check:
    """Try every key of a backup; changes nothing.

    Args:
        backup: as loaded.
        connection: outside of a transaction.
        master: the master keys known here.

    Raises:
        UnavailableError: a server or the token does not answer.
    """
    async with consistent_read(connection):
        here = {key.key_id: key for key in await data_keys.every(connection)}
    known = {holder.key_id for holder in master.known()}
    readable = damaged = 0
    missing: dict[str, int] = {}
    for key in backup.keys:
        if key.wrapped is None:
            continue
        if key.master_key_id not in known:
            missing[key.master_key_id] = missing.get(key.master_key_id, 0) + 1
            continue
        try:
            plain(master, key)
        except BrokenInvariantError:
            damaged += 1
        else:
            readable += 1
    there = {key.key_id for key in backup.keys}
    return Check(
        keys=len(backup.keys),
        readable=readable,
        missing_masters=missing,
        damaged=damaged,
        absent=sum(key.key_id not in here for key in backup.keys),
        newer=sum(key_id not in there for key_id in here),
        destroyed_since=sum(
            key.wrapped is not None and key.key_id in here and here[key.key_id].wrapped is None for key in backup.keys
        ),
    )


def restore_files(backup: Backup, settings: Settings) -> list[str]:
    """Put back the arrivals key where it is gone; return which files."""
    settings.keys_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    gone = [name for name in _FILES if name in backup.files and not (settings.keys_dir / name).exists()]
    for name in gone:
        replace_file(settings.keys_dir / name, backup.files[name])
    return gone


async def restore_rows(backup: Backup, connection: Connection) -> int:
    """Put back the keys whose rows are gone; return how many. A key that is here, destroyed too, stays as it is.

    Args:
        backup: as loaded and checked.
        connection: outside of a transaction; its role may add keys. Destroy again afterwards what proofs name
            (governance.key_destruction.reconcile).
    """
    async with transaction(connection):
        await data_keys.lock(connection)
        return await data_keys.put_back(connection, backup.keys, backup.masters)
