"""Audit: no act without its event. An event is durable before the act goes on, or the act is refused.

Here: `Auditor`, which writes events (many waiting ones in one commit) and acts with their events in one transaction.
Not here: the log's table (stores.audit_log), who may do what (governance.gate), FHIR's rendering
(governance.audit_event; `as_fhir` is given out here too).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from typing import NamedTuple

import msgspec

from governance.audit_event import as_fhir
from stores.audit_log import AuditEntry, AuditWriter, content_of
from stores.chain import Head
from stores.chain_heads import HeadFile
from stores.database import Connection, transaction
from vocabulary.clock import Clock
from vocabulary.errors import (
    BrokenInvariantError,
    ConfigurationError,
    FencedOutError,
    RefusedError,
    UnavailableError,
)
from vocabulary.signing import Signer

__all__ = ["AuditEntry", "Auditor", "as_fhir"]

log = logging.getLogger(__name__)

PATIENCE_S = 2.0
"""An event that cannot be written for this long refuses its act: a nurse waits no longer for a page."""

PAUSE_S = 0.05
"""Between attempts; doubled each time."""

LARGEST_BATCH = 500
"""Events in one commit: more would only make the first of them wait."""

IDLE_CONNECTIONS = 4
"""Kept open for acts: opening one takes longer than an act."""

_REFUSED_BY_DATABASE = (RefusedError, ConfigurationError)
"""A right that was taken away, a table that is gone: what is not recorded does not happen, and is no denial either."""

_NOT_WRITABLE = "The audit log cannot be written (PostgreSQL refuses it), so this is refused. See `vigil verify`."


class _Link(NamedTuple):
    """A connection with the chain that was opened over it; a new connection gets a new chain."""

    connection: Connection
    writer: AuditWriter


class _Waiting(NamedTuple):
    entry: AuditEntry
    done: asyncio.Future[None]


class Auditor:
    """Writes the events of one process. Close it, or what waits is lost with the loop."""

    def __init__(
        self,
        connect: Callable[[], Awaitable[Connection]],
        writer_name: str,
        signer: Signer | None,
        heads: HeadFile | None,
        clock: Clock,
        *,
        is_shared: bool = False,
    ) -> None:
        """Describe the auditor; nothing is opened before the first event.

        Args:
            connect: opens a connection to the database, in this process's own role.
            writer_name: names the chain: "clinic", "keeper", "operator".
            signer: signs each append; None leaves events unsigned.
            heads: where the chain's end is kept outside of the database.
            clock: gives the time to events whose `at_us` is 0.
            is_shared: several processes append to the chain (commands as "operator").
        """
        self.writer_name = writer_name
        self._connect = connect
        self._signer = signer
        self._heads = heads
        self._clock = clock
        self._is_shared = is_shared
        self._link: _Link | None = None
        self._turn = asyncio.Lock()  # whoever holds it may append: rows of a chain come one behind the other
        self._waiting: list[_Waiting] = []
        self._wake = asyncio.Event()
        self._worker: asyncio.Task[None] | None = None
        self._abandoned: set[asyncio.Task[None]] = set()
        self._acts: dict[int, list[AuditEntry]] = {}
        self._idle: list[Connection] = []
        self._ghost: Head | None = None  # end of an append whose commit was never answered
        self._fenced: str | None = None
        self._is_closed = False

    async def record(self, entry: AuditEntry) -> None:
        """Write an event; return when it is committed.

        Raises:
            UnavailableError: it could not be written within two seconds: refuse the act. (It may yet be in the log.)
            FencedOutError: another process writes this chain: stop this one.
            BrokenInvariantError: the event lacks a word, or the auditor was closed.
        """
        self._require_open()
        entry = self._timed(entry)
        content_of(entry)  # a bad one is its own caller's fault, not that of those who wait beside it
        waiting = _Waiting(entry, asyncio.get_running_loop().create_future())
        self._waiting.append(waiting)
        if self._worker is None or self._worker.done():
            self._worker = asyncio.create_task(self._work(), name=f"audit {self.writer_name}")
        self._wake.set()
        await waiting.done

    @asynccontextmanager
    async def act(self, entry: AuditEntry | None, connection: Connection | None = None) -> AsyncIterator[Connection]:
        """Hold the transaction of an act; at its end its events are written into it, and both are committed or neither.

        Args:
            entry: the act's event; None where `record_in` gives it (once its result is known).
            connection: the caller's own, outside of a transaction; None takes one of ours.

        Raises:
            UnavailableError: act and event were not kept (the commit of a lost connection is looked up before that).
            FencedOutError: another process writes this chain: stop this one.
            BrokenInvariantError: no event was given: an act without one is a defect.
        """
        self._require_open()
        held = connection or (self._idle.pop() if self._idle else await self._connect())
        entries = self._acts[id(held)] = [] if entry is None else [self._timed(entry)]
        try:
            async with self._acting(held, entries):
                yield held
        finally:
            del self._acts[id(held)]
            if connection is None:
                await self._give_back(held)

    async def record_in(self, connection: Connection, entry: AuditEntry) -> None:
        """Add an event to the act that holds `connection`; it is written when the act ends.

        Raises:
            BrokenInvariantError: no act of this auditor holds the connection, or the event lacks a word.
        """
        entries = self._acts.get(id(connection))
        if entries is None:
            raise BrokenInvariantError("an event is recorded in an act: open it with `auditor.act`")
        entry = self._timed(entry)
        content_of(entry)
        entries.append(entry)

    async def close(self) -> None:
        """Write what waits, and let go of all connections."""
        self._is_closed = True
        if self._worker is not None:
            self._wake.set()
            await self._worker
        for connection in self._idle:
            await connection.close()
        self._idle.clear()
        for task in self._abandoned:
            task.cancel()
        if self._abandoned:
            await asyncio.wait(self._abandoned, timeout=PATIENCE_S)
        async with self._turn:
            await self._unlink()

    def _require_open(self) -> None:
        if self._fenced is not None:
            raise FencedOutError(self._fenced)
        if self._is_closed:
            raise BrokenInvariantError(f"the auditor of {self.writer_name} was closed")

    def _timed(self, entry: AuditEntry) -> AuditEntry:
        return entry if entry.at_us else msgspec.structs.replace(entry, at_us=self._clock.now_us())

    # -- events that wait together

    async def _work(self) -> None:
        while self._waiting or not self._is_closed:
            await self._wake.wait()
            self._wake.clear()
            while self._waiting:
                batch, self._waiting = self._waiting[:LARGEST_BATCH], self._waiting[LARGEST_BATCH:]
                await self._settle(batch)
            if self._is_closed:
                return

    async def _settle(self, batch: Sequence[_Waiting]) -> None:
        """Write a batch, and tell everybody in it."""
        try:
            async with self._turn:
                await self._write([waiting.entry for waiting in batch])
        except FencedOutError as error:
            self._fenced = str(error)
            self._tell(batch, error)
        except UnavailableError as error:
            self._tell(batch, error)
        except Exception as error:  # noqa: BLE001 - whoever waits must hear of it, or waits for ever
            if len(batch) == 1:
                self._tell(batch, error)
            else:  # one of them cannot be stored; the others can
                for waiting in batch:
                    await self._settle([waiting])
        else:
            self._tell(batch, None)

    @staticmethod
    def _tell(batch: Sequence[_Waiting], error: Exception | None) -> None:
        for waiting in batch:
            if waiting.done.done():  # its caller went away; the event stands
                continue
            if error is None:
                waiting.done.set_result(None)
            else:
                waiting.done.set_exception(type(error)(*error.args))

    async def _write(self, entries: Sequence[AuditEntry]) -> None:
        """Append and commit, once, however often the connection is lost on the way."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + PATIENCE_S
        pause_s = PAUSE_S
        doubt: list[Head] = []  # ends of our own earlier attempts whose commit was not answered
        while True:
            task = asyncio.create_task(self._attempt(entries, doubt))
            await asyncio.wait({task}, timeout=max(0.0, deadline - loop.time()))
            if not task.done():
                self._abandon(task)  # a server that hangs would hold us for as long as it likes
            elif (error := task.exception()) is None:
                return
            elif isinstance(error, _REFUSED_BY_DATABASE):
                await self._unlink()
                raise UnavailableError(_NOT_WRITABLE) from error
            elif not isinstance(error, UnavailableError):
                if self._link is not None:
                    self._link.writer.rolled_back()
                raise error
            else:
                log.warning("audit_attempt_failed", extra={"writer": self.writer_name, "reason": str(error)})
            if self._link is not None and (staged := self._link.writer.chain.staged) is not None:
                doubt.append(staged)
                self._ghost = staged
            await self._unlink(is_hanging=not task.done())
            if loop.time() + pause_s >= deadline:
                raise UnavailableError(
                    f"The audit log cannot be written (PostgreSQL did not take it within {PATIENCE_S:g} s), so this is "
                    "refused. See `vigil status`."
                )
            await asyncio.sleep(pause_s)
            pause_s *= 2

    async def _attempt(self, entries: Sequence[AuditEntry], doubt: Sequence[Head]) -> None:
        link = await self._linked()
        for end in doubt:
            if await self._is_written(link, end):
                return
        try:
            await self._append(link, entries)
        except FencedOutError:
            # It may be our own earlier commit that came through after all: it fences out nobody.
            ghost = doubt[-1] if doubt else self._ghost
            if ghost is None or not await self._is_written(link, ghost):
                raise
            self._ghost = None
            if doubt:
                return
            await link.writer.open(link.connection)
            await self._append(link, entries)

    @staticmethod
    async def _append(link: _Link, entries: Sequence[AuditEntry]) -> None:
        async with transaction(link.connection):
            await link.writer.append(link.connection, entries)
        link.writer.committed()

    @staticmethod
    async def _is_written(link: _Link, end: Head) -> bool:
        async with transaction(link.connection):
            return await link.writer.chain.holds(link.connection, end)

    async def _linked(self) -> _Link:
        if self._link is None:
            connection = await self._connect()
            try:
                writer = AuditWriter(self.writer_name, self._signer, self._heads, is_shared=self._is_shared)
                async with transaction(connection):
                    await writer.open(connection)
            except BaseException:
                await connection.close()
                raise
            self._link = _Link(connection, writer)
        return self._link

    async def _unlink(self, *, is_hanging: bool = False) -> None:
        link, self._link = self._link, None
        if link is not None and not is_hanging:  # the abandoned attempt still uses a hanging one, and ends with it
            await link.connection.close()

    def _abandon(self, task: asyncio.Task[None]) -> None:
        task.cancel()
        self._abandoned.add(task)
        link = self._link

        def ended(task: asyncio.Task[None]) -> None:
            self._abandoned.discard(task)
            if not task.cancelled():
                task.exception()  # looked at, so that asyncio does not warn
            if link is not None:
                closing = asyncio.ensure_future(link.connection.close())
                closing.add_done_callback(lambda done: done.exception())

        task.add_done_callback(ended)

    # -- acts

    @asynccontextmanager
    async def _acting(self, connection: Connection, entries: list[AuditEntry]) -> AsyncIterator[None]:
        staged: Head | None = None
        link: _Link | None = None
        has_turn = is_ours = False
        try:
            async with asyncio.timeout(None) as limit, transaction(connection):
                yield
                is_ours = True
                if not entries:
                    raise BrokenInvariantError("an act leaves an event; give it to `act` or to `record_in`")
                limit.reschedule(asyncio.get_running_loop().time() + PATIENCE_S)
                has_turn = await self._turn.acquire()
                link = await self._linked()
                await link.writer.append(connection, entries)
                staged = link.writer.chain.staged
            link.writer.committed()
        except (TimeoutError, UnavailableError, *_REFUSED_BY_DATABASE) as error:
            if not is_ours:
                raise
            if link is not None:
                await self._unlink()
            if staged is not None and await self._was_committed(staged):
                return
            raise UnavailableError(
                "The act and its audit event could not be written together, so neither was. Try again."
            ) from error
        except FencedOutError as error:
            if not is_ours:
                raise
            await self._unlink()
            ghost, self._ghost = self._ghost, None
            if ghost is not None and await self._was_committed(ghost):
                raise UnavailableError("The audit log went on behind a lost connection. Try again.") from None
            self._fenced = str(error)
            raise
        finally:
            if link is not None and link.writer.chain.staged is not None:
                link.writer.rolled_back()
            if has_turn:
                self._turn.release()

    async def _was_committed(self, end: Head) -> bool:
        """Look an unanswered commit up, for as long as we have patience."""
        self._ghost = end
        with suppress(TimeoutError, UnavailableError):
            async with asyncio.timeout(PATIENCE_S):
                while True:
                    try:
                        return await self._is_written(await self._linked(), end)
                    except UnavailableError:
                        await self._unlink()
                        await asyncio.sleep(PAUSE_S)
        return False

    async def _give_back(self, connection: Connection) -> None:
        is_usable = not connection.closed and not connection.broken
        if is_usable and not self._is_closed and len(self._idle) < IDLE_CONNECTIONS:
            self._idle.append(connection)
        else:
            await connection.close()
