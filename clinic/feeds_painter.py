"""The feeds' painter: the strip in the board's footer and the table of the feeds' page, rendered once per reading.

Here: reading the feeds, judging them at the log's own clock, their HTML, the events that carry it.
Not here: what a line or row says (clinic.feeds_view), when the stores are asked (clinic.painter).
"""

from __future__ import annotations

from jinja2 import Environment

from clinic.broadcast import HOUSE, Hub, encode
from clinic.feeds_view import SKEW_TOLD_S, Reading, feed_lines, source_rows
from clinic.questions import House, Readers
from clinic.ward_live import WardLive
from vocabulary.clock import Clock

FEEDS = "feeds"
"""The topic of those who watch the feeds' page."""

READ_EVERY_S = 5.0
"""Real seconds between two readings."""


class Feeds:
    """How every source is doing, rendered."""

    def __init__(
        self, ward: WardLive, readers: Readers, hub: Hub, templates: Environment, clock: Clock, speed: float
    ) -> None:
        """Judge on a log whose time runs `speed` times as fast as the real one."""
        self._ward = ward
        self._readers = readers
        self._hub = hub
        self._strip = templates.get_template("_house.html")
        self._table = templates.get_template("_feeds.html")
        self._clock = clock
        self._speed = speed
        self._is_known = False
        self.strip_html = ""
        self.table_html = self._table.render(house=None, rows=(), log_us=0)

    async def read(self) -> None:
        """Read the feeds and send what changed.

        Raises:
            UnavailableError: the database does not answer; what was shown stays until `forget`.
        """
        # The clock first: what comes while the stores answer can only make a source fresher than it is judged.
        log_us = self._log_us()
        self._show(await self._readers.house(), log_us)

    def forget(self) -> None:
        """Say that nothing is known now: the database does not answer."""
        if self._is_known or not self.strip_html:
            self._show(None, 0)

    def table_event(self) -> bytes:
        """Return the event that carries the whole table."""
        return encode("parts", {"feeds": self.table_html})

    def _log_us(self) -> int:
        """Return the log's clock as the twins tell it; of an empty ward no twin tells it."""
        return self._ward.log_time_us() if self._ward.admitted() else self._clock.now_us()

    def _show(self, house: House | None, log_us: int) -> None:
        # In a fast demonstration a second of a message's way is minutes of its clock: no sender's clock is off by that.
        reading = Reading(log_us, READ_EVERY_S * self._speed, max(SKEW_TOLD_S, self._speed))
        feeds = house.feeds if house else ()
        self._is_known = house is not None
        strip_html = self._strip.render(house=house, lines=feed_lines(feeds, reading))
        if strip_html != self.strip_html:
            self.strip_html = strip_html
            self._hub.send([HOUSE], encode("house", {"html": strip_html}))
        self.table_html = self._table.render(house=house, rows=source_rows(feeds, reading), log_us=log_us)
        if self._hub.has(FEEDS):
            self._hub.send([FEEDS], self.table_event())
