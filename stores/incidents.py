"""What went wrong with a model in service, what was done at once, and who looked at it afterwards.

Here: opening, reading and closing incidents.
Not here: which reaction a cause has (governance.rollback), finding causes (twin.watch).
"""

from __future__ import annotations

from typing import Any

import msgspec

from stores.database import Connection, storable, translated

LONGEST_NOTE = 2_000
"""Characters kept of what somebody wrote when closing one."""


class Incident(msgspec.Struct, frozen=True, kw_only=True):
    """One incident. Holds no patient's data."""

    incident_id: int = 0
    at_us: int
    scope: str
    slot: str
    cause: str
    statement: str = ""
    verdict_digest: str = ""  # of the live verdict in model_verdict
    reaction: str  # action of the serving row; "" where none was possible
    serving_id: int | None = None
    model_digest: str = ""
    opened_by: str
    closed_at_us: int | None = None
    closed_by: str = ""
    closing_note: str = ""


_COLUMNS = Incident.__struct_fields__


async def add(connection: Connection, incident: Incident) -> int:
    """Open an incident in the caller's transaction and return its number."""
    names = _COLUMNS[1:]
    values = list(msgspec.structs.astuple(incident)[1:])
    values[names.index("statement")] = storable(incident.statement, LONGEST_NOTE)
    statement = (
        f"insert into incident ({', '.join(names)}) values ({', '.join(['%s'] * len(names))}) returning incident_id"  # noqa: S608
    )
    with translated():
        cursor = await connection.execute(statement.encode(), values)
        row = await cursor.fetchone()
    assert row is not None
    return int(row[0])


async def find(
    connection: Connection,
    *,
    scope: str | None = None,
    cause: str | None = None,
    is_open: bool | None = None,
    after: int = 0,
    limit: int = 200,
) -> list[Incident]:
    """Return incidents, newest first.

    Args:
        connection: inside a transaction.
        scope: only of this scope.
        cause: only of this cause.
        is_open: only those that nobody closed (True) or somebody did (False).
        after: only those numbered above this, for who follows.
        limit: at most so many.
    """
    statement = (
        f"select {', '.join(_COLUMNS)} from incident where incident_id > %s "  # noqa: S608
        "and (%s::text is null or scope = %s) and (%s::text is null or cause = %s) "
        "and (%s::bool is null or (closed_at_us is null) = %s) order by incident_id desc limit %s"
    )
    values: list[Any] = [after, scope, scope, cause, cause, is_open, is_open, limit]
    with translated():
        cursor = await connection.execute(statement.encode(), values)
        return [Incident(**dict(zip(_COLUMNS, row, strict=True))) for row in await cursor.fetchall()]


async def close(connection: Connection, incident_id: int, at_us: int, by: str, note: str) -> bool:
    """Close an open incident in the caller's transaction; return whether it was open."""
    with translated():
        cursor = await connection.execute(
            "update incident set closed_at_us = %s, closed_by = %s, closing_note = %s "
            "where incident_id = %s and closed_at_us is null",
            (at_us, by, storable(note, LONGEST_NOTE), incident_id),
        )
    return cursor.rowcount == 1
