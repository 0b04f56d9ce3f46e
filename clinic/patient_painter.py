"""The patient page's painter: each part rendered once per change for everybody who watches that patient.

Here: reading the past of watched patients once a minute of the log, rendering parts, sending those that changed.
Not here: what a part says (clinic.patient_view), the board (clinic.painter).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import NamedTuple

from jinja2 import Environment

from clinic.approved import Approved, approved_of, subject_of
from clinic.broadcast import Hub, encode
from clinic.charts import HOUR_US, MINUTE_US
from clinic.painter import Board
from clinic.patient_view import HOURS, LABORATORY, History, charts, hours_of_stay, patient_view
from clinic.questions import Person, Readers
from clinic.ward_live import Twin, WardLive
from vocabulary.concepts import by_number
from vocabulary.errors import UnavailableError
from vocabulary.snapshot import TwinSnapshot, digest, from_bytes

PARTS = ("head", "score", "risk", "laboratory", "signals", "trends", "provenance")

_LABORATORY_KEYS = frozenset(by_number(number).key for number in LABORATORY)
_LABORATORY_DAYS = 14  # how far back the value before the latest is looked for
_REMEMBERED = 256  # patients whose history is held; the oldest read is forgotten first


def patient_topic(patient_id: int, hours: int) -> str:
    """Return the topic of those who watch one patient over so many hours."""
    return f"patient:{patient_id}:{hours}"


class _Kept(NamedTuple):
    minute: int
    serving: int
    laboratory_at_us: tuple[int, ...]
    history: History


class PatientPages:
    """Parts of patients' pages."""

    def __init__(
        self,
        ward: WardLive,
        board: Board,
        readers: Readers,
        hub: Hub,
        templates: Environment,
        paint_interval_s: float,
        name_of: Callable[[str], str] = subject_of,
    ) -> None:
        """Render nothing until a page is opened; `name_of` tells the name of a signer, `issuer|subject`."""
        self._ward = ward
        self._board = board
        self._readers = readers
        self._hub = hub
        self._templates = {name: templates.get_template(f"_patient_{name}.html") for name in PARTS}
        self._interval_s = paint_interval_s
        self._histories: dict[int, _Kept] = {}
        self._trends: dict[tuple[int, int], tuple[object, str]] = {}
        self._approved: dict[int, Approved] = {}  # by serving row, which never changes
        self._name_of = name_of
        self._shown: dict[str, Mapping[str, str]] = {}
        self._dirty: set[int] = set()
        self._wake = asyncio.Event()
        self.renders = 0
        ward.on_change(self.touch)

    def touch(self, patient_id: int) -> None:
        """Say that a patient's page may look different now."""
        if any(self._hub.has(patient_topic(patient_id, hours)) for hours in HOURS):
            self._dirty.add(patient_id)
            self._wake.set()

    async def twin(self, patient_id: int) -> Twin | None:
        """Return a patient's latest twin, from memory or, when none was heard, as last kept.

        Raises:
            UnavailableError: it is not in memory and the database does not answer.
        """
        held = self._ward.twin(patient_id)
        if held is not None:
            return held
        body = await self._readers.latest_snapshot(patient_id)
        return None if body is None else Twin(from_bytes(body), body)

    async def person(self, patient_id: int) -> Person | None:
        """Return who a patient is; None when nobody can say now."""
        known = self._board.person(patient_id)
        if known is not None:
            return known
        try:
            return (await self._readers.people([patient_id])).get(patient_id)
        except UnavailableError:
            return None

    async def hours_of_stay(self, snapshot: TwinSnapshot) -> int:
        """Return over how many hours a page opens unless asked: all there is of this stay, and not much more."""
        stay = self._board.stay(snapshot.patient_id)
        history = await self._history(snapshot)
        return hours_of_stay(snapshot.as_of_us, history, stay.started_at_us if stay else 0)

    async def parts(self, twin: Twin, hours: int) -> dict[str, str]:
        """Return the HTML of every part of a page."""
        snapshot = twin.snapshot
        history = await self._history(snapshot)
        view = patient_view(snapshot, digest(twin.body).hex(), await self.person(snapshot.patient_id), history)
        rendered = {}
        for name, template in self._templates.items():
            if name == "trends":
                rendered[name] = self._trends_html(snapshot, history, hours)
            else:
                self.renders += 1
                rendered[name] = template.render(view=view, snapshot=snapshot, hours=hours).strip()
        return rendered

    def _trends_html(self, snapshot: TwinSnapshot, history: History, hours: int) -> str:
        """Draw the charts again only when a minute of the log has passed or the past was read again."""
        key = (snapshot.patient_id, hours)
        reason = (snapshot.as_of_us // MINUTE_US, id(history))
        held = self._trends.get(key)
        if held is None or held[0] != reason:
            self.renders += 1
            html = self._templates["trends"].render(
                charts=charts(snapshot, history, hours), history=history, snapshot=snapshot, hours=hours
            )
            self._trends[key] = held = (reason, html)
            _forget_oldest(self._trends)
        return held[1]

    async def _history(self, snapshot: TwinSnapshot) -> History:
        """Return the past, read again when a minute has passed or a laboratory result is new."""
        patient_id, as_of_us = snapshot.patient_id, snapshot.as_of_us
        laboratory_at = tuple(
            signal.effective_at_us for signal in snapshot.signals if signal.concept in _LABORATORY_KEYS
        )
        minute = as_of_us // MINUTE_US
        kept = self._histories.get(patient_id)
        now = (minute, snapshot.provenance.serving, laboratory_at)
        if kept is not None and kept[:3] == now:
            return kept.history
        history = await self._read(snapshot, kept.history if kept else History(is_available=False))
        self._histories.pop(patient_id, None)
        self._histories[patient_id] = _Kept(*now, history)
        _forget_oldest(self._histories)
        return history

    async def _read(self, snapshot: TwinSnapshot, before: History) -> History:
        patient_id, as_of_us = snapshot.patient_id, snapshot.as_of_us
        from_us = as_of_us - max(HOURS) * HOUR_US
        to_us = as_of_us + MINUTE_US
        try:
            minutes = await self._readers.minutes(patient_id, from_us, to_us)
            results = await self._readers.observations(
                patient_id, LABORATORY, as_of_us - _LABORATORY_DAYS * 24 * HOUR_US, to_us
            )
            scores = (await self._readers.score_history([patient_id], from_us, to_us)).get(patient_id, [])
            risks = await self._readers.risk_history(patient_id, snapshot.encounter_id) if snapshot.risks else []
            approved = await self._approval(snapshot.provenance.serving)
        except UnavailableError:
            # The page stays, with the past as last read, and says so.
            return replace(before, is_available=False)
        merged = {point.at_us // MINUTE_US: point for point in [*scores, *self._ward.trend(patient_id)]}
        points = tuple(merged[minute] for minute in sorted(merged))
        return History(tuple(minutes), tuple(results), points, tuple(risks), approved)

    async def _approval(self, serving_id: int) -> Approved | None:
        """Return under which approval a model speaks; None where none does, or its row is not there."""
        if not serving_id:
            return None
        if serving_id not in self._approved:
            row = await self._readers.serving_row(serving_id)
            if row is None:
                return None
            rests_on = await self._readers.serving_row(row.restores) if row.restores else row
            self._approved[serving_id] = approved_of(row, rests_on or row, self._name_of)
        return self._approved[serving_id]

    async def keep_painted(self) -> None:
        """Send changed parts of watched pages until cancelled."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            dirty, self._dirty = self._dirty, set()
            for patient_id in sorted(dirty):
                await self.paint(patient_id)
            await asyncio.sleep(self._interval_s)

    async def paint(self, patient_id: int) -> None:
        """Send what changed on a patient's page to those who watch it."""
        twin = self._ward.twin(patient_id)
        if twin is None:
            return
        for hours in HOURS:
            topic = patient_topic(patient_id, hours)
            if not self._hub.has(topic):
                self._shown.pop(topic, None)
                continue
            parts = await self.parts(twin, hours)
            before = self._shown.get(topic, {})
            changed = {name: html for name, html in parts.items() if before.get(name) != html}
            self._shown[topic] = parts
            if changed:
                self._hub.send([topic], encode("parts", changed))

    async def repaint_event(self, patient_id: int, hours: int) -> bytes | None:
        """Return every part, for a viewer who just came; None when there is no twin."""
        twin = await self.twin(patient_id)
        return None if twin is None else encode("parts", await self.parts(twin, hours))


def _forget_oldest(held: dict[int, _Kept] | dict[tuple[int, int], tuple[object, str]]) -> None:
    while len(held) > _REMEMBERED:
        del held[next(iter(held))]  # type: ignore[arg-type]
