"""How assets ask the live plane: its database, as a resource that is opened only while a question is asked.

Here: the resource's shape, and one connection a question.
Not here: where the database is (orchestration.resources), the questions (sources, checks).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Protocol, TypeVar

from stores import database
from stores.database import Connection

Answer = TypeVar("Answer")


class LivePlane(Protocol):
    """The resource `live`."""

    def database_url(self) -> str:
        """Return the address of the live plane's database.

        Raises:
            UnavailableError: nothing runs.
        """
        ...

    def now_us(self) -> int:
        """Return the live plane's time, microseconds since the epoch (a demonstration's clock is not ours)."""
        ...


def ask(live: LivePlane, question: Callable[[Connection], Awaitable[Answer]]) -> Answer:
    """Answer a question of the live plane's database in one consistent moment.

    Raises:
        UnavailableError: nothing runs, or PostgreSQL does not answer.
    """

    async def answer() -> Answer:
        connection = await database.connect(live.database_url(), application_name="vigil dagster")
        try:
            async with database.consistent_read(connection):
                return await question(connection)
        finally:
            await connection.close()

    return asyncio.run(answer())
