"""The ward board's painter: a bed is rendered once per change, and that one rendering goes to all who may see it.

Here: which beds changed, their HTML (whole, and as a place whose patient is not for the viewer), the events that carry
it, names of patients, when the stores are asked.
Not here: what a row shows (clinic.bed_view), who may see which bed (clinic.sight), who listens (clinic.broadcast), one
patient's page (clinic.patient_painter), the feeds' strip and page (clinic.feeds_painter).
"""

from __future__ import annotations

import asyncio
import hmac
import os
import secrets
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass

from jinja2 import Environment

from clinic.bed_view import BedRow, bed_row, shared_notices, waiting_row
from clinic.broadcast import RECHECK, Hub, encode
from clinic.charts import HOUR_US, TREND_HOURS
from clinic.feeds_painter import READ_EVERY_S, Feeds
from clinic.questions import Person, Readers, Stay
from clinic.risk_view import RiskHead, heads_of
from clinic.sight import BoardTopic, Sight
from clinic.ward_live import WardLive
from clinic.words import natural_key
from vocabulary.clock import Clock
from vocabulary.errors import UnavailableError

_PEOPLE_EVERY_S = 20.0  # a name told after the first snapshot (A08), or a stay without a snapshot, shows within this
_DATABASE_RETRY_S = 2.0


@dataclass(frozen=True, slots=True)
class PaintedBed:
    """A row and its two renderings: whole, and as a place that says nothing of its patient."""

    row: BedRow
    html: str
    version: int  # of the board, when this bed last changed
    place_id: str  # names the place without naming the patient, for as long as this process lives
    place_html: str
    placed: int  # version of the board when the place last changed

    def id_for(self, sight: Sight) -> int | str:
        """Return what a viewer knows this bed by."""
        return self.row.patient_id if sight.sees(self.row.patient_id) else self.place_id

    def html_for(self, sight: Sight) -> str:
        """Return what a viewer is shown."""
        return self.html if sight.sees(self.row.patient_id) else self.place_html

    def version_for(self, sight: Sight) -> int:
        """Return when what a viewer is shown last changed: a restricted bed tells not even that a value came."""
        return self.version if sight.sees(self.row.patient_id) else self.placed

    def key_for(self, sight: Sight, order: str) -> str:
        """Return where it stands among a viewer's beds: by severity only if they may see it."""
        if order == "bed":
            return self.row.bed_key
        return self.row.sick_key if sight.sees(self.row.patient_id) else f"999|{self.row.bed_key}"


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
        self._place_template = templates.get_template("_bed_restricted.html")
        self._head_template = templates.get_template("_risk_head.html")
        self._place_key = secrets.token_bytes(32)
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
        self._heads: tuple[RiskHead, ...] = ()  # the models that speak of anybody on the board
        self.risk_html = ""  # above the beds: who speaks, and under which conditions; "" while no model does
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

    def beds(self) -> list[PaintedBed]:
        """Return every bed of the house; who may see which is the viewer's sight."""
        return list(self._beds.values())

    def beds_for(self, topic: BoardTopic) -> list[PaintedBed]:
        """Return the beds of a viewer's board."""
        return [bed for bed in self._beds.values() if topic.has_bed(bed.row.ward, bed.row.patient_id)]

    def wards(self, sight: Sight) -> list[tuple[str, int]]:
        """Return (ward, number of beds) of the wards whose board a viewer may open, by name."""
        counts: dict[str, int] = {}
        for bed in self._beds.values():
            if bed.row.ward in sight.wards:
                counts[bed.row.ward] = counts.get(bed.row.ward, 0) + 1
        return sorted(counts.items(), key=lambda entry: natural_key(entry[0]))

    def state(self, topic: BoardTopic) -> str:
        """Return what a page carries to say which board it was rendered from: whose process, sight and version."""
        return f"{self._process}.{self._mark(topic)}.{self.version}"

    def _mark(self, topic: BoardTopic) -> str:
        seen = f"{topic.ward!r}{sorted(topic.sight.wards)}{sorted(topic.sight.shown)}"
        return hmac.digest(self._place_key, seen.encode(), "sha256").hex()[:16]

    def repaint_event(self, topic: BoardTopic, since: str) -> bytes:
        """Return what a viewer who saw the board in state `since` needs to see it as it is.

        The versions of another process say nothing about this one's, and who may see more or less than before has
        seen other renderings: then every bed is sent.
        """
        before, _, version = since.rpartition(".")
        is_same = before == f"{self._process}.{self._mark(topic)}"
        seen = int(version) if is_same and version.isdecimal() and len(version) < 19 else -1
        beds = self.beds_for(topic)
        changed = [bed for bed in beds if bed.version_for(topic.sight) > seen]
        return self._event(topic, changed, [], everyone=[bed.id_for(topic.sight) for bed in beds])

    def paint(self) -> list[int]:
        """Render every touched bed whose row changed, send the changes, and return the patients repainted."""
        dirty, self._dirty = self._dirty, set()
        self._wake.clear()
        before = dict(self._beds)
        fresh: dict[int, BedRow] = {}
        for patient_id in sorted(dirty):
            row = self._row(patient_id)
            held = self._beds.get(patient_id)
            if row is None:
                self._beds.pop(patient_id, None)
            elif held is None or held.row != row:
                fresh[patient_id] = row
        is_retold = self._share(fresh) | self._head(dirty)
        for patient_id, row in sorted(fresh.items()):
            self._beds[patient_id] = self._painted(row, before.get(patient_id))
        left = [bed for patient_id, bed in before.items() if _has_left(bed, self._beds.get(patient_id))]
        if fresh or left or is_retold:
            self.version += 1
            self._send(sorted(fresh), left, is_retold=is_retold)
        return sorted(fresh)

    def _painted(self, row: BedRow, before: PaintedBed | None) -> PaintedBed:
        version = self.version + 1
        if before is not None and (before.row.ward, before.row.bed) == (row.ward, row.bed):
            place_id, place_html, placed = before.place_id, before.place_html, before.placed
        else:
            named = f"{row.patient_id}|{row.ward}|{row.bed}"
            place_id = "r" + hmac.digest(self._place_key, named.encode(), "sha256").hex()[:16]
            place_html, placed = self._place_template.render(row=row, place_id=place_id), version
        return PaintedBed(row, self._render(row), version, place_id, place_html, placed)

    def _share(self, fresh: dict[int, BedRow]) -> bool:
        """Settle which notices all twins have; rows that must now tell or omit one join `fresh`."""
        rows = {patient_id: bed.row for patient_id, bed in self._beds.items()} | fresh
        shared = shared_notices(rows.values())
        moved = set(shared) ^ set(self.shared)
        self.shared = shared
        fresh.update({patient_id: row for patient_id, row in rows.items() if moved.intersection(row.notices)})
        return bool(moved)

    def _head(self, dirty: Collection[int]) -> bool:
        """Settle which models speak on the board; return whether that changed."""
        if not dirty:
            return False
        twins = (self._ward.twin(patient_id) for patient_id in self._ward.admitted())
        heads = heads_of(twin.snapshot for twin in twins if twin is not None)
        if heads == self._heads:
            return False
        self._heads = heads
        self.risk_html = self._head_template.render(heads=heads).strip()
        return True

    @property
    def risk_model(self) -> str:
        """Return the names of the models that speak, for the column's head."""
        return ", ".join(head.model for head in self._heads)

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

    def _event(
        self,
        topic: BoardTopic,
        beds: Collection[PaintedBed],
        gone: list[int | str],
        everyone: list[int | str] | None = None,
    ) -> bytes:
        data: dict[str, object] = {
            "version": self.version,
            "beds": [{"id": bed.id_for(topic.sight), "html": bed.html_for(topic.sight)} for bed in beds],
            "gone": gone,
            "shared": self.shared_text,
            "risk": {"html": self.risk_html, "model": self.risk_model},
        }
        if everyone is not None:
            data["everyone"] = everyone
        return encode("beds", data)

    @property
    def shared_text(self) -> str:
        """Return the notices told once for the whole board."""
        return " · ".join(self.shared)

    def _send(self, fresh: list[int], left: list[PaintedBed], *, is_retold: bool) -> None:
        """Tell every board what changed on it: one event for all who may see the same."""
        for topic in self._hub.topics():
            if not isinstance(topic, BoardTopic):
                continue
            sight = topic.sight
            # A newcomer waits until somebody was asked about them: a moment, in which nothing is hinted at.
            here = [
                self._beds[patient_id]
                for patient_id in fresh
                if patient_id in sight.decided and topic.has_bed(self._beds[patient_id].row.ward, patient_id)
            ]
            changed = [bed for bed in here if bed.version_for(sight) == self.version]
            # Those who watch all wards keep a bed whose patient only moved: it is sent again under the same id.
            now = {bed.id_for(sight) for bed in self.beds_for(topic)} if left else set()
            gone = [
                bed.id_for(sight)
                for bed in left
                if topic.has_bed(bed.row.ward, bed.row.patient_id) and bed.id_for(sight) not in now
            ]
            if changed or gone or is_retold:  # what stands above the beds is every board's
                self._hub.send([topic], self._event(topic, changed, gone))
            if any(patient_id not in sight.decided for patient_id in fresh):
                self._hub.send([topic], RECHECK)

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
                "has_beds": bool(self._beds),
            },
        )

    async def keep_pulsing(self, every_s: float) -> None:
        """Send the pulse to everybody until cancelled."""
        while True:
            self._hub.send(self._hub.topics(), self.pulse())
            await asyncio.sleep(every_s)


def _has_left(before: PaintedBed, now: PaintedBed | None) -> bool:
    """Return whether a patient is not in the bed they were in."""
    return now is None or (now.row.ward, now.row.bed) != (before.row.ward, before.row.bed)
