"""The ward as it is now: the latest snapshot of every patient, held in memory and followed live.

Here: taking snapshots in any order (the newest position wins), NEWS2 of the last four hours, how long it was quiet.
Not here: the bus (twin.bus), what is painted (clinic.painter).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import msgspec

from clinic.bed_view import score_point_of
from clinic.charts import HOUR_US, MINUTE_US, TREND_HOURS
from clinic.questions import Live, ScorePoint
from vocabulary.clock import Clock
from vocabulary.errors import UnavailableError
from vocabulary.snapshot import TwinSnapshot, from_bytes

_RETRY_FIRST_S, _RETRY_LAST_S = 0.2, 5.0
_REFILL_CHECK_S = 0.5


class Twin(msgspec.Struct, frozen=True):
    """A snapshot and the very bytes it was published as."""

    snapshot: TwinSnapshot
    body: bytes


class WardLive:
    """Every twin's latest snapshot."""

    def __init__(self, live: Live, clock: Clock) -> None:
        """Start empty; `follow` fills it."""
        self._live = live
        self._clock = clock
        self._twins: dict[int, Twin] = {}
        self._trends: dict[int, dict[int, ScorePoint]] = {}
        self._listeners: list[Callable[[int], None]] = []
        self._heard_ns = clock.monotonic_ns()
        self._undecodable = 0
        self.is_filled = False

    def on_change(self, listener: Callable[[int], None]) -> None:
        """Call `listener` with a patient's id whenever a newer snapshot of theirs is taken."""
        self._listeners.append(listener)

    @property
    def is_connected(self) -> bool:
        """Return whether snapshots can reach us at this moment."""
        return self.is_filled and self._live.is_connected

    @property
    def undecodable(self) -> int:
        """Return how many messages came that were no publication, or held no snapshot."""
        return self._undecodable + self._live.dropped

    def quiet_s(self) -> float:
        """Return seconds since any snapshot was heard, or since the start."""
        return (self._clock.monotonic_ns() - self._heard_ns) / 1e9

    def twin(self, patient_id: int) -> Twin | None:
        """Return a patient's latest twin."""
        return self._twins.get(patient_id)

    def admitted(self) -> dict[int, Twin]:
        """Return the twins of patients who are in a bed."""
        return {patient_id: twin for patient_id, twin in self._twins.items() if twin.snapshot.is_admitted}

    def log_time_us(self) -> int:
        """Return the newest moment any snapshot speaks of; 0 before the first."""
        return max((twin.snapshot.as_of_us for twin in self._twins.values()), default=0)

    def trend(self, patient_id: int) -> list[ScorePoint]:
        """Return NEWS2 once a minute over the last four hours, in time order."""
        points = self._trends.get(patient_id, {})
        return [points[minute] for minute in sorted(points)]

    def take(self, body: bytes) -> bool:
        """Take a snapshot's canonical bytes; return whether it is newer than what was held."""
        try:
            snapshot = from_bytes(body)
        except msgspec.MsgspecError:
            # Of another version of the program. The bed keeps what it shows, and its ages grow.
            self._undecodable += 1
            return False
        held = self._twins.get(snapshot.patient_id)
        # A heartbeat may repeat a position with a later clock.
        moment = (snapshot.position, snapshot.as_of_us)
        if held is not None and moment <= (held.snapshot.position, held.snapshot.as_of_us):
            return False
        self._twins[snapshot.patient_id] = Twin(snapshot, body)
        self.remember(snapshot.patient_id, [score_point_of(snapshot.as_of_us, snapshot.scores)])
        for listener in self._listeners:
            listener(snapshot.patient_id)
        return True

    def remember(self, patient_id: int, points: list[ScorePoint]) -> None:
        """Add points to a patient's trend: the last of each minute is kept, four hours of them."""
        if not points:
            return
        trend = self._trends.setdefault(patient_id, {})
        for point in points:
            minute = point.at_us // MINUTE_US
            if minute not in trend or trend[minute].at_us <= point.at_us:
                trend[minute] = point
        oldest = max(trend) - TREND_HOURS * HOUR_US // MINUTE_US
        for minute in [minute for minute in trend if minute < oldest]:
            del trend[minute]

    async def follow(self) -> None:
        """Take every publication until cancelled; whenever the bus was away, take all latest snapshots anew."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._listen())
            tasks.create_task(self._keep_filled())

    async def _listen(self) -> None:
        wait_s = _RETRY_FIRST_S
        while True:
            try:
                async for publication in self._live.follow():
                    self._heard_ns = self._clock.monotonic_ns()
                    wait_s = _RETRY_FIRST_S
                    self.take(publication.body)
            except UnavailableError:
                self.is_filled = False
            await asyncio.sleep(wait_s)
            wait_s = min(wait_s * 2, _RETRY_LAST_S)

    async def _keep_filled(self) -> None:
        while True:
            if not self._live.is_connected:
                self.is_filled = False
            elif not self.is_filled:
                try:
                    for body in (await self._live.snapshots()).values():
                        self.take(body)
                    self.is_filled = True
                except UnavailableError:
                    self.is_filled = False
            await asyncio.sleep(_REFILL_CHECK_S)
