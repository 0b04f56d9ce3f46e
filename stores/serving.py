"""The serving record as it is stored: which model holds which slot, row by row, append-only.

Here: appending a row under a lock, reading rows, hearing of new ones (LISTEN serving).
Not here: what a row means and whether it is believed (governance.statements, governance.serving), who appends
(governance.promotion, governance.rollback).
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import msgspec

from stores.database import Connection, translated
from vocabulary.errors import BrokenInvariantError

CHANNEL = "serving"
"""PostgreSQL's NOTIFY channel; the payload is the scope."""

_LOCK = 0x7365_7276  # "serv": with the scope's hash, one appender at a time


class ServingRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One stored row: words and numbers as they are, nothing judged."""

    serving_id: int = 0  # given by the database
    at_us: int
    scope: str
    slot: str
    action: str
    version: int
    model_digest: str
    evidence_digest: str
    request_id: str
    signed: str  # JSON list of governance.statements.Signed
    restores: int
    cause: str
    by: str
    previous_digest: str
    key_id: str
    machine_signature: str


_COLUMNS = ServingRecord.__struct_fields__
_SELECT = "select {} from serving".format(", ".join(f'"{name}"' for name in _COLUMNS))  # noqa: S608 - names of our own


def _record(row: tuple[Any, ...]) -> ServingRecord:
    return ServingRecord(**dict(zip(_COLUMNS, row, strict=True)))


async def lock(connection: Connection, scope: str) -> None:
    """Let nobody else append to a scope's record until the caller's transaction ends."""
    with translated():
        await connection.execute("select pg_advisory_xact_lock(%s, hashtext(%s))", (_LOCK, scope))


async def append(connection: Connection, record: ServingRecord) -> int:
    """Add a row in the caller's transaction, which holds `lock`, and return its number.

    Raises:
        BrokenInvariantError: the row does not follow the scope's newest one.
        RefusedError: this database role may not.
    """
    names = [name for name in _COLUMNS if name != "serving_id"]
    columns = ", ".join(f'"{name}"' for name in names)
    marks = ", ".join(["%s"] * len(names))
    statement = f"insert into serving ({columns}) values ({marks}) returning serving_id"  # noqa: S608
    with translated():
        cursor = await connection.execute(statement.encode(), [getattr(record, name) for name in names])
        row = await cursor.fetchone()
    if row is None:
        raise BrokenInvariantError("PostgreSQL did not keep a serving row: drop the rule or trigger that takes it away")
    return int(row[0])


async def rows(connection: Connection, scope: str | None = None) -> list[ServingRecord]:
    """Return the record of one scope, or of all, oldest first."""
    with translated():
        if scope is None:
            cursor = await connection.execute((_SELECT + " order by serving_id").encode())
        else:
            statement = _SELECT + " where scope = %s order by serving_id"
            cursor = await connection.execute(statement.encode(), (scope,))
        return [_record(row) for row in await cursor.fetchall()]


async def newest(connection: Connection) -> int:
    """Return the greatest number of any row, 0 where there is none: a cheap question once a second."""
    with translated():
        cursor = await connection.execute("select coalesce(max(serving_id), 0) from serving")
        row = await cursor.fetchone()
    assert row is not None
    return int(row[0])


async def listen(connection: Connection) -> None:
    """Make this connection hear of new rows from now on; commit, then use `heard`."""
    with translated():
        await connection.execute(b"listen serving")


async def heard(connection: Connection, timeout_s: float) -> AsyncIterator[str]:
    """Yield the scope of each row that was announced, until nothing came for `timeout_s` seconds.

    Raises:
        UnavailableError: the connection is gone: open another, and read the rows again.
    """
    with translated():
        async for told in connection.notifies(timeout=timeout_s, stop_after=1):
            yield told.payload
