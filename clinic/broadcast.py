"""One event to many viewers: encoded once, queued for each, and a viewer that cannot keep up is let go.

Here: topics, viewers, the bytes of server-sent events.
Not here: what an event says (clinic.painter, clinic.patient_painter), who may hear it (clinic.sight, clinic.watching),
the HTTP response (clinic.streams).
Source: HTML Living Standard, 9.2 Server-sent events.
"""

from __future__ import annotations

import asyncio
from collections.abc import Hashable, Iterable

import msgspec

_QUEUE = 64
"""Events a viewer may lag behind. At four paints a second that is 16 s; then its connection is ended, the browser
comes back by itself and is given everything afresh. Without a bound one sleeping tablet would hold memory for ever."""

PULSE_S = 1.0
"""How often every viewer hears that the stream is alive; the page warns after four seconds without."""


HOUSE = "house"
"""The topic of those whose board carries the feeds' strip."""

RECHECK = b": recheck\n\n"
"""Tells a stream, not its viewer, that what its viewer may see must be asked again before more is shown."""


def encode(event: str, data: object) -> bytes:
    """Return one server-sent event whose data is a line of JSON."""
    return b"event: %b\ndata: %b\n\n" % (event.encode(), msgspec.json.encode(data))


class Viewer:
    """One open stream."""

    def __init__(self, topics: frozenset[Hashable]) -> None:
        """Wait for events of these topics."""
        self.topics = topics
        self._queue: asyncio.Queue[bytes | None] = asyncio.Queue(_QUEUE + 1)
        self.is_ended = False

    def offer(self, event: bytes) -> None:
        """Queue an event, or end the stream when its viewer lags too far behind."""
        if self.is_ended:
            return
        if self._queue.qsize() >= _QUEUE:
            self.end()
        else:
            self._queue.put_nowait(event)

    def end(self) -> None:
        """End the stream after what is queued."""
        if not self.is_ended:
            self.is_ended = True
            self._queue.put_nowait(None)

    async def take(self) -> bytes | None:
        """Return the next event; None when the stream has ended."""
        return await self._queue.get()


class Hub:
    """Who listens to what."""

    def __init__(self) -> None:
        """Start without viewers."""
        self._viewers: dict[Hashable, set[Viewer]] = {}
        self.ended_for_lag = 0

    def join(self, topics: Iterable[Hashable]) -> Viewer:
        """Return a new viewer of these topics."""
        viewer = Viewer(frozenset())
        self.move(viewer, topics)
        return viewer

    def leave(self, viewer: Viewer) -> None:
        """Forget a viewer."""
        for topic in viewer.topics:
            listeners = self._viewers.get(topic, set())
            listeners.discard(viewer)
            if not listeners:
                self._viewers.pop(topic, None)

    def move(self, viewer: Viewer, topics: Iterable[Hashable]) -> None:
        """Let a viewer listen to other topics from now on."""
        self.leave(viewer)
        viewer.topics = frozenset(topics)
        for topic in viewer.topics:
            self._viewers.setdefault(topic, set()).add(viewer)

    def has(self, topic: Hashable) -> bool:
        """Return whether anybody listens to a topic."""
        return topic in self._viewers

    def topics(self) -> list[Hashable]:
        """Return the topics that have a listener."""
        return list(self._viewers)

    def count(self) -> int:
        """Return how many viewers there are."""
        return len({viewer for listeners in self._viewers.values() for viewer in listeners})

    def send(self, topics: Iterable[Hashable], event: bytes) -> None:
        """Offer one event to every viewer of any of these topics, once each."""
        listeners: set[Viewer] = set()
        for topic in topics:
            listeners |= self._viewers.get(topic, set())
        for viewer in listeners:
            viewer.offer(event)
            self.ended_for_lag += viewer.is_ended

    def close(self) -> None:
        """End every stream: the server is stopping."""
        for listeners in self._viewers.values():
            for viewer in listeners:
                viewer.end()
