"""The ward board's painter: a bed is rendered once per change, and that one rendering goes to every viewer.

Here: which beds changed, their HTML, the events that carry it, names of patients, when the stores are asked.
Not here: what a row shows (clinic.bed_view), who listens (clinic.broadcast), one patient's page
(clinic.patient_painter), the feeds' strip and page (clinic.feeds_painter).
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass

from jinja2 import Environment

from clinic.bed_view import BedRow, bed_row, shared_notices, waiting_row
from clinic.broadcast import ALL_WARDS, Hub, encode, ward_of, ward_topic
from clinic.charts import HOUR_US, TREND_HOURS
from clinic.feeds_painter import READ_EVERY_S, Feeds
from clinic.questions import Person, Readers, Stay
from clinic.ward_live import WardLive
from clinic.words import natural_key
from vocabulary.clock import Clock
from vocabulary.errors import UnavailableError

_PEOPLE_EVERY_S = 20.0  # a name told after the first snapshot (A08), or a stay without a snapshot, shows within this
_DATABASE_RETRY_S = 2.0


@dataclass(frozen=True, slots=True)
class PaintedBed:
    """A row and its one rendering."""

    row: BedRow
    html: str
    version: int  # of the board, when this bed last changed


class Board:
    """Every occupied bed, rendered."""

    def __init__(
        self,
        ward: WardLive,
        readers: Readers,
        hub: Hub,
        templates: Environment,
        clock: Clock,
        feeds: Feeds,
        paint_interval_s: float,
    ) -> None:
        """Paint at most once every `paint_interval_s`, so that a burst of snapshots is one event."""
        self._ward = ward
        self._readers = readers
        self._hub = hub
        self._template = templates.get_template("_bed.html")
        self._clock = clock
        self._feeds = feeds
        self._interval_s = paint_interval_s
        self._beds: dict[int, PaintedBed] = {}
        self._stays: dict[int, Stay] = {}
        self._people: dict[int, Person] = {}
        self._dirty: set[int] = set()
        self._wake = asyncio.Event()
        self._greeted: set[int] = set()
        self._newcomer = asyncio.Event()  # somebody is on the board whose name was never asked for
        self.shared: tuple[str, ...] = ()  # notices every twin on the board has
        self.version = 0
        self._process = f"{os.getpid()}.{clock.now_us()}"
        self.renders = 0
        ward.on_change(self.touch)

    def touch(self, patient_id: int) -> None:
        """Say that a patient's bed may look different now."""
        self._dirty.add(patient_id)
        self._wake.set()
        if patient_id not in self._people and patient_id not in self._greeted:
            self._greeted.add(patient_id)
            self._newcomer.set()

    def person(self, patient_id: int) -> Person | None:
        """Return who a patient is, as last read."""
        return self._people.get(patient_id)

    def stay(self, patient_id: int) -> Stay | None:
        """Return a patient's open stay, as last read."""
        return self._stays.get(patient_id)

    def learn(self, people: dict[int, Person]) -> None:
        """Take over who people are; beds whose name changed are painted again."""
        for patient_id, person in people.items():
            if self._people.get(patient_id) != person:
                self._people[patient_id] = person
                self.touch(patient_id)

    def beds(self, ward: str | None = None) -> list[PaintedBed]:
        """Return the beds of one ward, or of all."""
        return [bed for bed in self._beds.values() if ward is None or bed.row.ward == ward]

    def wards(self) -> list[tuple[str, int]]:
        """Return (ward, number of beds), by name."""
        counts: dict[str, int] = {}
        for bed in self._beds.values():
            counts[bed.row.ward] = counts.get(bed.row.ward, 0) + 1
        return sorted(counts.items(), key=lambda entry: natural_key(entry[0]))

    @property
    def state(self) -> str:
        """Return what a page carries to say which board it was rendered from: this process's, at this version."""
        return f"{self._process}.{self.version}"

    def repaint_event(self, ward: str | None, since: str) -> bytes:
        """Return what a viewer who saw the board in state `since` needs to see it as it is.

        The versions of another process say nothing about this one's: then every bed is sent.
        """
        process, _, version = since.rpartition(".")
        seen = int(version) if process == self._process and version.isdigit() else -1
        beds = self.beds(ward)
        changed = [bed for bed in beds if bed.version > seen]
        return self._event(changed, [], everyone=[bed.row.patient_id for bed in beds])

    def paint(self) -> list[int]:
        """Render every touched bed whose row changed, send the changes, and return the patients repainted."""
        dirty, self._dirty = self._dirty, set()
        self._wake.clear()
        left: dict[str, list[int]] = {}
        gone: list[int] = []
        fresh: dict[int, BedRow] = {}
        for patient_id in sorted(dirty):
            row = self._row(patient_id)
            before = self._beds.get(patient_id)
            if before is not None and (row is None or row.ward != before.row.ward):
                left.setdefault(before.row.ward, []).append(patient_id)
            if row is None:
                if self._beds.pop(patient_id, None):
                    gone.append(patient_id)
            elif before is None or before.row != row:
                fresh[patient_id] = row
        is_retold = self._share(fresh)
        changed: dict[str, list[PaintedBed]] = {}
        for patient_id, row in sorted(fresh.items()):
            bed = PaintedBed(row, self._render(row), self.version + 1)
            self._beds[patient_id] = bed
            changed.setdefault(row.ward, []).append(bed)
        if changed or left:
            self.version += 1
            self._send(changed, left, gone, is_retold=is_retold)
        return sorted(fresh)

    def _share(self, fresh: dict[int, BedRow]) -> bool:
        """Settle which notices all twins have; rows that must now tell or omit one join `fresh`."""
        rows = {patient_id: bed.row for patient_id, bed in self._beds.items()} | fresh
        shared = shared_notices(rows.values())
        moved = set(shared) ^ set(self.shared)
        self.shared = shared
        fresh.update({patient_id: row for patient_id, row in rows.items() if moved.intersection(row.notices)})
        return bool(moved)

    def _row(self, patient_id: int) -> BedRow | None:
        twin = self._ward.twin(patient_id)
        person = self._people.get(patient_id)
        if twin is not None:
            if not twin.snapshot.is_admitted:
                return None
            return bed_row(twin.snapshot, person, self._ward.trend(patient_id))
        stay = self._stays.get(patient_id)
        return waiting_row(stay, person, self._clock.now_us()) if stay else None

    def _render(self, row: BedRow) -> str:
        self.renders += 1
        return self._template.render(row=row, shared=self.shared)

    def _event(self, beds: Collection[PaintedBed], gone: list[int], everyone: list[int] | None = None) -> bytes:
        data: dict[str, object] = {
            "version": self.version,
            "beds": [{"id": bed.row.patient_id, "html": bed.html} for bed in beds],
            "gone": gone,
            "shared": self.shared_text,
        }
        if everyone is not None:
            data["everyone"] = everyone
        return encode("beds", data)

    @property
    def shared_text(self) -> str:
        """Return the notices told once for the whole board."""
        return " · ".join(self.shared)

    def _send(
        self, changed: dict[str, list[PaintedBed]], left: dict[str, list[int]], gone: list[int], *, is_retold: bool
    ) -> None:
        wards = changed.keys() | left.keys()
        if is_retold:  # what stands above the beds is every ward's
            wards |= {ward for topic in self._hub.board_topics() if (ward := ward_of(topic)) is not None}
        for ward in sorted(wards):
            # Those who watch all wards keep a bed that only moved.
            if self._hub.has(ward_topic(ward)):
                self._hub.send([ward_topic(ward)], self._event(changed.get(ward, []), left.get(ward, [])))
        if self._hub.has(ALL_WARDS):
            everywhere = [bed for beds in changed.values() for bed in beds]
            self._hub.send([ALL_WARDS], self._event(everywhere, gone))

    async def keep_painted(self) -> None:
        """Paint until cancelled."""
        while True:
            await self._wake.wait()
            self.paint()
            await asyncio.sleep(self._interval_s)

    async def keep_informed(self) -> None:
        """Read names, open stays, older scores and the feeds until cancelled; the board lives on without them."""
        asked: set[int] = set()
        has_history: set[int] = set()
        people_at_s = house_at_s = 0.0
        loop = asyncio.get_running_loop()
        while True:
            try:
                unnamed = {patient_id for patient_id in self._ward.admitted() if patient_id not in self._people}
                if loop.time() >= people_at_s:
                    await self._read_stays()
                    asked = unnamed
                    people_at_s = loop.time() + _PEOPLE_EVERY_S
                elif unnamed - asked:
                    asked |= unnamed
                    self.learn(await self._readers.people(unnamed))
                await self._read_history(has_history)
                if loop.time() >= house_at_s:
                    await self._feeds.read()
                    house_at_s = loop.time() + READ_EVERY_S
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._newcomer.wait(), house_at_s - loop.time())
                self._newcomer.clear()
            except UnavailableError:
                self._feeds.forget()
                house_at_s = 0.0
                await asyncio.sleep(_DATABASE_RETRY_S)

    async def _read_stays(self) -> None:
        stays = {stay.patient_id: stay for stay in await self._readers.stays()}
        for patient_id in stays.keys() | self._stays.keys():
            if stays.get(patient_id) != self._stays.get(patient_id):
                self.touch(patient_id)
        self._stays = stays
        self.learn(await self._readers.people(set(self._ward.admitted()) | stays.keys()))

    async def _read_history(self, has_history: set[int]) -> None:
        new = set(self._ward.admitted()) - has_history
        if not new:
            return
        to_us = self._ward.log_time_us()
        found = await self._readers.score_history(new, to_us - TREND_HOURS * HOUR_US, to_us)
        has_history |= new
        for patient_id, points in found.items():
            self._ward.remember(patient_id, points)
            self.touch(patient_id)

    def pulse(self) -> bytes:
        """Return the event that tells a page it is being heard, and how fresh the twins are."""
        return encode(
            "pulse",
            {
                "now_us": self._clock.now_us(),
                "log_us": self._ward.log_time_us(),
                "quiet_s": round(self._ward.quiet_s(), 1),
                "is_connected": self._ward.is_connected,
                "beds": len(self._beds),
            },
        )

    async def keep_pulsing(self, every_s: float) -> None:
        """Send the pulse to everybody until cancelled."""
        while True:
            self._hub.send(self._hub.topics(), self.pulse())
            await asyncio.sleep(every_s)
