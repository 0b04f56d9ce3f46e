"""A few connections kept open for questions that come at any time.

Here: lending a connection, opening one when none is idle, dropping those of a server that was lost.
Not here: how a connection is made (stores.database), what is asked (each store).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from stores.database import Connection, consistent_read, transaction
from vocabulary.errors import UnavailableError


class Pool:
    """Lends connections, at most `size` at once; who comes when all are lent waits."""

    def __init__(self, connect: Callable[[], Awaitable[Connection]], size: int) -> None:
        """Use `connect` when a connection is needed; nothing is opened yet."""
        self._connect = connect
        self._room = asyncio.Semaphore(size)
        self._idle: list[Connection] = []

    async def close(self) -> None:
        """Close every idle connection."""
        while self._idle:
            await self._idle.pop().close()

    @asynccontextmanager
    async def _lent(self) -> AsyncIterator[Connection]:
        async with self._room:
            connection = self._idle.pop() if self._idle else await self._connect()
            is_sound = False
            try:
                yield connection
                is_sound = True
            except UnavailableError:
                # The others are of the same lost server: none of them is worth a try.
                stale, self._idle = self._idle, []
                for idle in stale:
                    await idle.close()
                raise
            finally:
                if is_sound and not connection.closed:
                    self._idle.append(connection)
                else:
                    await connection.close()

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[Connection]:
        """Lend a connection inside a read-only transaction in which every query sees the same moment.

        Raises:
            UnavailableError: the server does not answer.
        """
        async with self._lent() as connection, consistent_read(connection):
            yield connection

    @asynccontextmanager
    async def writing(self) -> AsyncIterator[Connection]:
        """Lend a connection inside a transaction that is committed at the end.

        Raises:
            UnavailableError: the server does not answer.
        """
        async with self._lent() as connection, transaction(connection):
            yield connection
