"""An open stream, and asking again, every few seconds, whether its viewer may still see it.

Here: what a stream is of (a board, a patient, the feeds), the check while it runs, holding it back, ending it.
Not here: what its events say (the painters), who is asked (clinic.identity, governance.gate), HTTP (clinic.streams).

A viewer who signed out, whose patient was moved away, or whose broken glass has closed is told to leave. While nobody
can say (the database is away) nothing but the pulse goes through: the page keeps what it shows, and its ages grow.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Hashable
from typing import Protocol

from clinic.broadcast import HOUSE, RECHECK, Viewer, encode
from clinic.context import Context
from clinic.feeds_painter import FEEDS
from clinic.identity import Caller
from clinic.patient_painter import patient_topic
from clinic.sight import BoardTopic
from governance.access import Ask, Surface
from vocabulary.errors import UnavailableError

RECHECK_S = 5.0
"""A sign-out, a transfer or a closed glass ends a stream within this, and the time of one question."""

_RETRY = b"retry: 2000\n\n"
_PULSE = b"event: pulse\n"

SIGNED_OUT = "/auth/signed-out"


class Subject(Protocol):
    """What a stream is of."""

    is_activity: bool  # whether watching it counts as doing something

    def topics(self, caller: Caller) -> list[Hashable]:
        """Return what its viewer hears of, as it was permitted last."""
        ...

    async def is_permitted(self, caller: Caller, view: str) -> bool:
        """Ask again; no event is written while the answer is the same."""
        ...

    async def everything(self) -> list[bytes]:
        """Return the events that show it whole, as its viewer may see it now."""
        ...


class BoardSubject:
    """The board of one ward, or of all that its viewer may see."""

    is_activity = True  # a board on a wall

    def __init__(self, context: Context, ask: Ask, topic: BoardTopic, since: str) -> None:
        """Show a board that was permitted, to a page that was rendered in state `since`."""
        self._context = context
        self._ask = ask
        self._topic = topic
        self._since = since

    def topics(self, caller: Caller) -> list[Hashable]:
        """Return the board as this viewer may see it, and the house's strip if they may see feeds."""
        return [self._topic, *([HOUSE] if self._context.may(caller.principal, Surface.FEEDS) else [])]

    async def is_permitted(self, caller: Caller, view: str) -> bool:
        """Ask for the board, and for each who lies there now."""
        topic = await self._context.board_for(caller.principal, self._ask, self._topic.ward, view)
        if topic is not None:
            self._topic = topic
        return topic is not None

    async def everything(self) -> list[bytes]:
        """Return the board; to a page that has it already, what changed since."""
        since, self._since = self._since, ""
        return [self._context.board.repaint_event(self._topic, since)]


class _Asked:
    """A subject of one decision."""

    def __init__(self, context: Context, ask: Ask, topic: str) -> None:
        self._context = context
        self._ask = ask
        self._topic = topic

    def topics(self, caller: Caller) -> list[Hashable]:  # noqa: ARG002 - the same for everybody who may
        """Return its topic."""
        return [self._topic]

    async def is_permitted(self, caller: Caller, view: str) -> bool:
        """Ask for it."""
        return (await self._context.gate.ask(caller.principal, self._ask, view=view)).is_permitted


class PatientSubject(_Asked):
    """One patient's page."""

    is_activity = False  # a page that was forgotten open must not keep its reader signed in

    def __init__(self, context: Context, ask: Ask, patient_id: int, hours: int) -> None:
        """Show a patient over so many hours."""
        super().__init__(context, ask, patient_topic(patient_id, hours))
        self._patient_id = patient_id
        self._hours = hours

    async def everything(self) -> list[bytes]:
        """Return every part of the page."""
        repaint = await self._context.pages.repaint_event(self._patient_id, self._hours)
        return [repaint] if repaint else []


class FeedsSubject(_Asked):
    """The feeds' page."""

    is_activity = True

    def __init__(self, context: Context, ask: Ask) -> None:
        """Show the table."""
        super().__init__(context, ask, FEEDS)

    async def everything(self) -> list[bytes]:
        """Return the table."""
        return [self._context.feeds.table_event()]


def leave_event(to: str) -> bytes:
    """Return the event that makes a page leave: to an address, or, with "", to what the server says of its own."""
    return encode("leave", {"to": to})


class Watch:
    """One open stream."""

    def __init__(
        self, context: Context, caller: Caller, subject: Subject, view: str, recheck_s: float = RECHECK_S
    ) -> None:
        """Watch `subject`, whose first decision was taken."""
        self._context = context
        self._caller = caller
        self._subject = subject
        self._view = view
        self._recheck_s = recheck_s
        self._is_held = False

    async def events(self) -> AsyncIterator[bytes]:
        """Yield what the viewer may see, until they may not any more."""
        # Joined before the first event is made, so that no change falls between the two.
        viewer = self._context.hub.join(self._subject.topics(self._caller))
        loop = asyncio.get_running_loop()
        try:
            yield _RETRY + self._context.board.pulse() + b"".join(await self._subject.everything())
            check_at_s = loop.time() + self._recheck_s
            while (event := await viewer.take()) is not None:
                if event == RECHECK or loop.time() >= check_at_s:  # a pulse comes every second
                    for told in await self._check(viewer):
                        yield told
                    check_at_s = loop.time() + self._recheck_s
                    if viewer.is_ended:
                        return
                if event != RECHECK and (not self._is_held or event.startswith(_PULSE)):
                    yield event
        except UnavailableError:
            return  # the first events could not be made: the browser comes back by itself
        finally:
            self._context.hub.leave(viewer)

    async def _check(self, viewer: Viewer) -> list[bytes]:
        """Ask who the viewer is, and whether they may still; return what they must be told."""
        try:
            caller = await self._context.identity.again(self._caller, is_active=self._subject.is_activity)
            if caller is None:
                viewer.end()
                return [leave_event(SIGNED_OUT)]
            self._caller = caller
            if not await self._subject.is_permitted(caller, self._view):
                viewer.end()
                return [leave_event("")]
            topics = frozenset(self._subject.topics(caller))
            is_changed = topics != viewer.topics
            if is_changed:
                self._context.hub.move(viewer, topics)
            if is_changed or self._is_held:
                self._is_held = False
                return await self._subject.everything()
        except UnavailableError:
            self._is_held = True
        return []
