"""New keys for old: another master key for all data keys, or another generation of one subject's data key.

Rotating the master key has four steps, each of which may be repeated and none of which stops a process: make the new
one known, let the old one wrap nothing new, wrap every data key anew in batches, wrap the arrivals key anew. Afterwards
the old one protects nothing that lives, and destroying it ends what still lies wrapped under it in old backups, in the
write-ahead log and in dead rows.

Here: the steps. Not here: who may (the command), the rows (stores.data_keys).
Source: NIST SP 800-57 part 1 8.2.3 (key change).
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from governance.arrivals_key import ARRIVALS_KEY, replace_file, rewrap_arrivals
from governance.master_key import (
    MASTER_FILE,
    OTHERS_FILE,
    Holder,
    LocalKey,
    MasterKey,
    file_of,
    open_holder,
    save_new,
    sync_folder,
)
from governance.wrapped_keys import context_of, new_key, plain
from stores import data_keys
from stores.database import Connection, transaction
from vocabulary.clock import Clock
from vocabulary.errors import ConfigurationError, RefusedError
from vocabulary.settings import Settings

BATCH = 500
"""Data keys wrapped anew in one transaction: each is locked for as long."""


class Rotated(NamedTuple):
    """What a rotation did."""

    master_key_id: str
    rewrapped: int


def make_successor(settings: Settings, address: str | None, existing: Sequence[Holder]) -> Holder:
    """Make or open the master key that is to wrap from now on, and have it known to every process of this house.

    Args:
        settings: which master key is configured.
        address: of the next one; None makes another file in the place of the configured one.
        existing: what is known already.

    Raises:
        ConfigurationError: the address cannot be used, or no address was given where it must be.
    """
    if address is None:
        path = file_of(settings, settings.master_key)
        if path is None:
            raise ConfigurationError(
                "The master key is no file, so the next one must be named: `vigil keys rotate --to pkcs11:…` (made "
                "with `vigil keys master --create` first) or `--to env:…`."
            )
        return _next_file(settings, path)
    holder = open_holder(settings, address)
    if not any(one.key_id == holder.key_id for one in existing):
        _make_known(settings, address)
    return holder


def _next_file(settings: Settings, path: Path) -> LocalKey:
    """Put a new key in the place of the file; the old one stays beside it under its own name. Never is there none."""
    old = open_holder(settings, f"file:{path}")
    aside = settings.keys_dir / f"master-{old.key_id}.key"
    if not aside.exists():
        replace_file(aside, path.read_bytes())
    fresh = path.with_name(f".{MASTER_FILE}.next")
    fresh.unlink(missing_ok=True)
    made = save_new(fresh)
    fresh.replace(path)
    sync_folder(path.parent)
    return made


def _make_known(settings: Settings, address: str) -> None:
    others = settings.keys_dir / OTHERS_FILE
    known = others.read_text().splitlines() if others.exists() else []
    replace_file(others, "".join(f"{line}\n" for line in dict.fromkeys([*known, address])).encode())


async def rotate_master(
    connection: Connection, settings: Settings, master: MasterKey, successor: Holder, clock: Clock
) -> Rotated:
    """Wrap everything under the successor. Interrupted, it goes on where it was when it is called again.

    Args:
        connection: outside of a transaction; its role may update data_key and master_key.
        settings: where the arrivals key is.
        master: knows the old keys; wraps with the successor afterwards.
        successor: as `make_successor` returned.
        clock: when.

    Raises:
        UnavailableError: a server or token does not answer; call again.
        ConfigurationError: an older master key that still wraps something is not known here.
    """
    master.reload()
    async with transaction(connection):
        await data_keys.know_master(connection, successor.key_id, successor.source, clock.now_us())
        # Under the lock, no process is just now adding a key under the old one.
        await data_keys.lock_out_makers(connection)
        await data_keys.retire_masters_but(connection, successor.key_id, clock.now_us())
        master.retire(await data_keys.retired_masters(connection))
    count = 0
    while True:
        async with transaction(connection):
            rows = await data_keys.wrapped_by_others(connection, successor.key_id, BATCH)
            if not rows:
                break
            fresh = []
            for row in rows:
                key = plain(master, row)
                assert key is not None
                wrapped = successor.wrap(key, context_of(row.key_id, row.subject, row.generation))
                fresh.append((row.key_id, successor.key_id, wrapped))
            await data_keys.rewrapped(connection, fresh)
        count += len(rows)
    if (settings.keys_dir / ARRIVALS_KEY).exists():
        rewrap_arrivals(settings.keys_dir / ARRIVALS_KEY, master)
    return Rotated(successor.key_id, count)


async def rotate_subjects(
    connection: Connection, master: MasterKey, subjects: Sequence[int], clock: Clock
) -> list[tuple[int, int]]:
    """Give subjects a new generation of their data key: new data under the new one, old data readable as before.

    Args:
        connection: inside a transaction; its role may update data_key.
        master: wraps.
        subjects: patients with a key.
        clock: when.

    Returns:
        Each subject and its new generation.

    Raises:
        RefusedError: one of them has no key yet, or none that lives.
    """
    await data_keys.lock(connection)
    found = {key.subject: key for key in await data_keys.newest(connection, subjects)}
    missing = [s for s in subjects if s not in found or found[s].wrapped is None]
    if missing:
        raise RefusedError(f"No living key to rotate: {', '.join(map(str, missing))}.")
    await data_keys.supersede(connection, subjects)
    fresh = [new_key(master, subject, found[subject].generation + 1, clock.now_us()) for subject in subjects]
    if await data_keys.add(connection, fresh) != len(fresh):
        raise ConfigurationError("The master key known here was replaced: name its successor in VIGIL_MASTER_KEY.")
    return [(key.subject, key.generation) for key in fresh]


async def destroy_master(
    connection: Connection, settings: Settings, master: MasterKey, master_key_id: str, clock: Clock
) -> str:
    """Destroy a master key that wraps nothing any more; return what is left for a person to do.

    Args:
        connection: outside of a transaction; its role may update master_key.
        settings: where key files are.
        master: knows it.
        master_key_id: which.
        clock: when.

    Raises:
        RefusedError: it is in use, or not known.
        UnavailableError: the token refuses.
    """
    async with transaction(connection):
        await data_keys.lock_out_makers(connection)
        row = next((one for one in await data_keys.masters(connection) if one.master_key_id == master_key_id), None)
        holder = next((one for one in master.known() if one.key_id == master_key_id), None)
        if row is None or holder is None:
            raise RefusedError(f"No master key {master_key_id} is known here. See `vigil keys status`.")
        if row.retired_at_us is None or row.wraps:
            raise RefusedError(
                f"Master key {master_key_id} is in use ({row.wraps} data keys). Rotate first: `vigil keys rotate`."
            )
        if (settings.keys_dir / ARRIVALS_KEY).exists():
            rewrap_arrivals(settings.keys_dir / ARRIVALS_KEY, master)  # the last thing it may have wrapped
        await data_keys.forget_master(connection, master_key_id, clock.now_us())
    return _end(settings, holder)


def _end(settings: Settings, holder: Holder) -> str:
    if isinstance(holder, LocalKey) and holder.path is not None:
        path = holder.path
        if path == file_of(settings, settings.master_key):
            return f"{path} is what VIGIL_MASTER_KEY names: remove it, and set VIGIL_MASTER_KEY to the successor."
        with path.open("r+b") as file:
            file.write(bytes(path.stat().st_size))
            file.flush()
            os.fsync(file.fileno())
        path.unlink()
        sync_folder(path.parent)
        return f"{path} was overwritten and removed. Destroy its copies in backups of keys too."
    if holder.source == "pkcs11":
        from governance.pkcs11_key import Pkcs11Key

        assert isinstance(holder, Pkcs11Key)
        holder.destroy()
        return "The key was destroyed inside its token. Destroy the token's backups too."
    return "Remove the environment variable wherever it is set, and destroy its copies."
