"""The rows of data keys and master keys: wrapped keys, generations, destruction.

Here: SQL on data_key and master_key. Whoever changes a key that others may hold (destroys, rotates) takes `lock` first.
Not here: wrapping (governance.master_key), whose key is in memory (governance.privacy).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from stores.database import Connection, translated

_CHANGE_LOCK = 0x6B_6579_73  # "keys"


class StoredKey(NamedTuple):
    """One key as the table has it; `wrapped` is None once it was destroyed."""

    key_id: bytes
    subject: int
    generation: int
    master_key_id: str
    wrapped: bytes | None
    commitment: bytes
    created_at_us: int
    destroyed_at_us: int | None = None
    destroyed_by: str = ""
    proof: str = ""


class MasterRow(NamedTuple):
    """One master key that was ever used, and how many living data keys it wraps."""

    master_key_id: str
    source: str
    added_at_us: int
    retired_at_us: int | None
    destroyed_at_us: int | None
    wraps: int


class Changes(NamedTuple):
    """What happened to keys since a place in the sequence of changes."""

    last: int
    destroyed: list[bytes]
    subjects: list[int]  # whose newest generation may be another


_COLUMNS = (
    "key_id, subject, generation, master_key_id, wrapped, commitment, created_at_us, destroyed_at_us, destroyed_by, "
    "proof"
)


def _key(row: Sequence[Any]) -> StoredKey:
    return StoredKey(*row)


async def _select(connection: Connection, rest: str, parameters: Sequence[object]) -> list[StoredKey]:
    with translated():
        query = f"select {_COLUMNS} from data_key {rest}"  # noqa: S608 — `rest` is this module's own text
        cursor = await connection.execute(query.encode(), parameters, binary=True)
        return [_key(row) for row in await cursor.fetchall()]


async def newest(connection: Connection, subjects: Iterable[int]) -> list[StoredKey]:
    """Return the newest generation of each subject that has one, destroyed or not."""
    return await _select(
        connection,
        "where (subject, generation) in (select subject, max(generation) from data_key "
        "where subject = any(%s::int8[]) group by subject)",
        [list(subjects)],
    )


async def by_id(connection: Connection, key_ids: Iterable[bytes]) -> list[StoredKey]:
    """Return the keys of these ids that are known."""
    return await _select(connection, "where key_id = any(%b::bytea[])", [list(key_ids)])


async def of_subjects(connection: Connection, subjects: Iterable[int]) -> list[StoredKey]:
    """Return every generation of some subjects, oldest first."""
    return await _select(connection, "where subject = any(%s::int8[]) order by subject, generation", [list(subjects)])


async def destroyed(connection: Connection) -> list[StoredKey]:
    """Return every key that was destroyed, oldest first."""
    return await _select(connection, "where wrapped is null order by destroyed_at_us, subject, generation", [])


async def add(connection: Connection, keys: Sequence[StoredKey]) -> int:
    """Keep new keys; return how many.

    One that another process made first is left out, and so is one wrapped by a master key that may wrap no more.
    """
    if not keys:
        return 0
    with translated():
        cursor = await connection.execute(
            "insert into data_key (key_id, subject, generation, master_key_id, wrapped, commitment, created_at_us) "
            "select k.* from unnest(%b::bytea[], %b::int8[], %b::int4[], %b::text[], %b::bytea[], %b::bytea[], "
            "%b::int8[]) as k (key_id, subject, generation, master_key_id, wrapped, commitment, created_at_us) "
            "join master_key m on m.master_key_id = k.master_key_id and m.retired_at_us is null "
            "on conflict (subject, generation) do nothing",
            [list(column) for column in zip(*(key[:7] for key in keys), strict=True)],
        )
        return cursor.rowcount


async def lock(connection: Connection) -> None:
    """Let nobody else rotate or destroy a key until this transaction ends, so that changes are numbered in order."""
    with translated():
        await connection.execute("select pg_advisory_xact_lock(%s)", (_CHANGE_LOCK,))


async def lock_out_makers(connection: Connection) -> None:
    """Let nobody make a key either, until this transaction ends; reading goes on. Needs to be allowed to update."""
    await lock(connection)
    with translated():
        await connection.execute("lock table data_key in share row exclusive mode")


async def supersede(connection: Connection, subjects: Sequence[int]) -> None:
    """Tell everybody, under `lock`, that a subject has a newer generation, which the caller adds."""
    with translated():
        await connection.execute(
            "update data_key set changed = (select coalesce(max(changed), 0) + 1 from data_key) "
            "where subject = any(%s::int8[])",
            (list(subjects),),
        )


async def destroy(connection: Connection, key_ids: Sequence[bytes], at_us: int, by: str, proof: str) -> int:
    """Forget keys for ever, under `lock`; return how many were still there. Their rows stay, as evidence."""
    with translated():
        cursor = await connection.execute(
            "update data_key set wrapped = null, destroyed_at_us = %s, destroyed_by = %s, proof = %s, "
            "changed = (select coalesce(max(changed), 0) + 1 from data_key) "
            "where key_id = any(%b::bytea[]) and wrapped is not null",
            (at_us, by, proof, list(key_ids)),
        )
        return cursor.rowcount


async def changes(connection: Connection, after: int) -> Changes:
    """Return what was destroyed or rotated since `after`; begin with `last_change`."""
    with translated():
        cursor = await connection.execute(
            "select changed, key_id, subject, wrapped is null from data_key where changed > %s order by changed",
            (after,),
            binary=True,
        )
        rows = await cursor.fetchall()
    return Changes(rows[-1][0] if rows else after, [r[1] for r in rows if r[3]], [r[2] for r in rows])


async def last_change(connection: Connection) -> int:
    """Return the place of the newest change; what is read from now on has seen it."""
    with translated():
        cursor = await connection.execute("select coalesce(max(changed), 0) from data_key")
        row = await cursor.fetchone()
    return int(row[0]) if row else 0


async def wrapped_by_others(connection: Connection, master_key_id: str, limit: int) -> list[StoredKey]:
    """Return living keys that another master key wraps, locked until this transaction ends."""
    return await _select(
        connection,
        "where wrapped is not null and master_key_id <> %s order by key_id limit %s for update",
        [master_key_id, limit],
    )


async def rewrapped(connection: Connection, rows: Sequence[tuple[bytes, str, bytes]]) -> None:
    """Keep keys (key id, master key id, wrapped) under another master key."""
    if not rows:
        return
    with translated():
        await connection.execute(
            "update data_key d set master_key_id = n.master_key_id, wrapped = n.wrapped "
            "from unnest(%b::bytea[], %b::text[], %b::bytea[]) as n (key_id, master_key_id, wrapped) "
            "where d.key_id = n.key_id and d.wrapped is not null",
            [list(column) for column in zip(*rows, strict=True)],
        )


async def know_master(connection: Connection, master_key_id: str, source: str, at_us: int) -> None:
    """Remember that a master key is in use from now on; again is no work."""
    with translated():
        await connection.execute(
            "insert into master_key (master_key_id, source, added_at_us) values (%s, %s, %s) on conflict do nothing",
            (master_key_id, source, at_us),
        )


async def retire_masters_but(connection: Connection, master_key_id: str, at_us: int) -> None:
    """Let only one master key wrap what is new, under `lock`: also processes that know only an older one obey."""
    with translated():
        await connection.execute(
            "update master_key set retired_at_us = case when master_key_id = %s then null else %s::int8 end "
            "where (master_key_id = %s) <> (retired_at_us is null)",
            (master_key_id, at_us, master_key_id),
        )


async def forget_master(connection: Connection, master_key_id: str, at_us: int) -> None:
    """Note that a master key was destroyed."""
    with translated():
        await connection.execute(
            "update master_key set destroyed_at_us = %s where master_key_id = %s", (at_us, master_key_id)
        )


async def masters(connection: Connection) -> list[MasterRow]:
    """Return every master key that was ever used, oldest first."""
    with translated():
        cursor = await connection.execute(
            "select m.*, (select count(*) from data_key d where d.master_key_id = m.master_key_id "
            "and d.wrapped is not null) from master_key m order by added_at_us, master_key_id"
        )
        return [MasterRow(*row) for row in await cursor.fetchall()]


async def retired_masters(connection: Connection) -> set[str]:
    """Return the master keys that may wrap nothing new."""
    with translated():
        cursor = await connection.execute("select master_key_id from master_key where retired_at_us is not null")
        return {row[0] for row in await cursor.fetchall()}


class Census(NamedTuple):
    """How many keys there are."""

    living: int
    destroyed: int
    patients: int  # with a living key
    days: int  # of what is nobody's, with a living key


async def census(connection: Connection) -> Census:
    """Return how many keys there are."""
    with translated():
        cursor = await connection.execute(
            "select count(*) filter (where wrapped is not null), count(*) filter (where wrapped is null), "
            "count(distinct subject) filter (where wrapped is not null and subject > 0), "
            "count(distinct subject) filter (where wrapped is not null and subject < 0) from data_key"
        )
        row = await cursor.fetchone()
    assert row is not None
    return Census(*row)


async def every(connection: Connection) -> list[StoredKey]:
    """Return all keys, for a backup of their own."""
    return await _select(connection, "order by subject, generation", [])


async def put_back(connection: Connection, keys: Sequence[StoredKey], masters: Sequence[MasterRow]) -> int:
    """Restore keys from a backup of keys; return how many were missing. What is here, destroyed keys too, stays."""
    with translated():
        for master in masters:
            await connection.execute(
                "insert into master_key (master_key_id, source, added_at_us, retired_at_us, destroyed_at_us) "
                "values (%s, %s, %s, %s, %s) on conflict do nothing",
                master[:5],
            )
        if not keys:
            return 0
        cursor = await connection.execute(
            f"insert into data_key ({_COLUMNS}) select * from unnest("  # noqa: S608
            "%b::bytea[], %b::int8[], %b::int4[], %b::text[], %s::bytea[], %b::bytea[], %b::int8[], %s::int8[], "
            "%b::text[], %b::text[]) on conflict do nothing",
            [list(column) for column in zip(*keys, strict=True)],
        )
        return cursor.rowcount
