"""Open streams: they show what their viewer may see, and end when it is over."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from clinic.guarding import new_view
from clinic.identity import Caller
from clinic.sight import BoardTopic, Sight
from clinic.watching import BoardSubject, PatientSubject, Watch
from governance.access import Ask, Surface, Verb


class Watched:
    """A stream without HTTP around it: httpx cannot read one in this process while it is open."""

    def __init__(self, watch: Watch) -> None:
        self.watch = watch
        self.heard: asyncio.Queue[str | None] = asyncio.Queue()
        self.pump = asyncio.create_task(self._pump())

    async def _pump(self) -> None:
        async for chunk in self.watch.events():
            for event in chunk.decode().split("\n\n"):
                self.heard.put_nowait(event)
        self.heard.put_nowait(None)

    async def until(self, wanted: str, seconds: float = 5) -> Any:
        """Return the data of the next event of a kind."""
        async with asyncio.timeout(seconds):
            while (event := await self.heard.get()) is not None:
                name, _, data = event.partition("\ndata: ")
                if name == f"event: {wanted}":
                    return json.loads(data)
        raise AssertionError(f"the stream ended before {wanted}")

    async def rest(self, seconds: float) -> str:
        """Return what comes within a time."""
        await asyncio.sleep(seconds)
        found = ""
        while self.heard.qsize():
            found += (self.heard.get_nowait() or "[ended]") + "\n\n"
        return found

    async def close(self) -> None:
        self.pump.cancel()
        await asyncio.gather(self.pump, return_exceptions=True)


async def _open(house: Any, who: Any, subject_of: Any, ask: Ask) -> tuple[Watched, Any]:
    session = await house.session(who)
    caller = Caller(session.principal, session)
    view = new_view(caller, ask)
    context = house.app.state.context
    subject = subject_of(context, ask)
    assert await subject.is_permitted(caller, view)
    watch = Watch(context, caller, subject, view, 0.2)
    return Watched(watch), session


PATIENT_9 = Ask(surface=Surface.PATIENT, verb=Verb.READ, patient_id=9)
PATIENT_7 = Ask(surface=Surface.PATIENT, verb=Verb.READ, patient_id=7)
BOARD = Ask(surface=Surface.BOARD, verb=Verb.READ)


def _patient(number: int) -> Any:
    return lambda context, ask: PatientSubject(context, ask, number, 4)


def _board(context: Any, ask: Ask) -> BoardSubject:
    return BoardSubject(context, ask, BoardTopic(None, Sight(frozenset(), frozenset(), frozenset())), "")


@pytest.fixture
async def board(house: Any) -> AsyncIterator[tuple[Watched, Any]]:
    watched, session = await _open(house, "nurse", _board, BOARD)
    yield watched, session
    await watched.close()


async def test_a_board_streams_its_viewers_beds_and_no_other(house, wards, board) -> None:
    watched, _ = board
    first = await watched.until("beds")
    shown = {bed["id"] for bed in first["beds"]}
    assert {7, 10} < shown
    assert not {8, 9} & shown
    house.live.publish(wards.snapshot(9, ward="MED-3", position=1 << 41, vitals={"heart_rate": 131.0}))
    house.live.publish(wards.snapshot(8, position=1 << 41, vitals={"heart_rate": 132.0}))
    house.live.publish(wards.snapshot(7, position=1 << 41, vitals={"heart_rate": 133.0}))
    said = await watched.rest(1)
    assert ">133<" in said
    assert ">131<" not in said
    assert ">132<" not in said
    assert "O'Neil" not in said
    assert "O&#39;Neil" not in said


async def test_a_newcomer_is_shown_as_soon_as_somebody_was_asked(house, wards, readers, board) -> None:
    watched, _ = board
    await watched.until("beds")
    await house.move(9, "ICU-A", 2)
    house.live.publish(wards.snapshot(9, ward="ICU-A", position=1 << 41))
    async with asyncio.timeout(5):
        while True:
            event = await watched.until("beds")
            if 9 in {bed["id"] for bed in event["beds"]}:
                return


async def test_a_patient_who_becomes_a_vip_vanishes_behind_their_place(house, board) -> None:
    watched, _ = board
    await watched.until("beds")
    await house.execute(
        "insert into vip_flag (patient_id, is_vip, decided_at_us, decided_by, recorded_by) "
        "values (7, true, 1, 'x', 'x')"
    )
    event = await watched.until("beds")
    assert 7 not in event["everyone"]
    assert any(str(one).startswith("r") for one in event["everyone"])


async def test_signing_out_ends_every_stream_of_the_session(house, board) -> None:
    watched, session = board
    await watched.until("beds")
    await house.access.identity.sessions.end(session)
    assert await watched.until("leave", 2) == {"to": "/auth/signed-out"}
    ended = await watched.rest(0.3)
    assert "event:" not in ended
    assert "[ended]" in ended
    assert house.app.state.context.hub.count() == 0


async def test_a_patient_who_is_moved_away_leaves_the_page(house) -> None:
    watched, _ = await _open(house, "nurse", _patient(7), PATIENT_7)
    await watched.until("parts")
    await house.move(7, "MED-3", 2)
    assert await watched.until("leave", 2) == {"to": ""}
    entries = [event.entry for event in await house.audit()]
    assert [entry.outcome for entry in entries] == ["permitted", "denied"]  # opened, and ended: nothing between


async def test_a_glass_that_closes_ends_the_stream_it_opened(house) -> None:
    nurse = await house.as_("nurse")
    await nurse.post("/break-glass", data={"identifier": "MRN-9", "reason": "Found unresponsive in the corridor"})
    watched, session = await _open(house, "nurse", _patient(9), PATIENT_9)
    await watched.until("parts")
    for _ in range(5):
        house.wall_clock.advance(700)
        await house.access.identity.sessions.touch(session)  # somebody who reads and scrolls
        assert "leave" not in await watched.rest(0.4)
    house.wall_clock.advance(101)
    assert await watched.until("leave", 2) == {"to": ""}


async def test_a_board_on_a_wall_keeps_its_session_and_a_forgotten_page_does_not(house) -> None:
    wall, _ = await _open(house, "nurse", _board, BOARD)
    page, _ = await _open(house, "nurse", _patient(7), PATIENT_7)
    await wall.until("beds")
    await page.until("parts")
    for _ in range(3):
        house.wall_clock.advance(400)
        assert "leave" not in await wall.rest(0.5)
    assert await page.until("leave", 2) == {"to": "/auth/signed-out"}


async def test_while_nobody_can_say_only_the_pulse_goes_through(house, wards) -> None:
    watched, _ = await _open(house, "nurse", _board, BOARD)
    await watched.until("beds")
    await house.execute("alter table web_session rename to web_session_away")
    context = house.app.state.context
    from vocabulary.errors import UnavailableError

    class Away:
        def __getattr__(self, name: str) -> Any:
            raise UnavailableError("away")

    sessions, context.identity.sessions = context.identity.sessions, Away()
    await watched.rest(0.5)
    house.live.publish(wards.snapshot(7, position=1 << 41, vitals={"heart_rate": 133.0}))
    said = await watched.rest(0.7)
    assert "event: pulse" in said
    assert "133" not in said
    await house.execute("alter table web_session_away rename to web_session")
    context.identity.sessions = sessions
    async with asyncio.timeout(5):
        while ">133<" not in json.dumps(await watched.until("beds")):
            pass


async def test_an_open_stream_asks_again_without_a_further_event(house) -> None:
    watched, _ = await _open(house, "nurse", _patient(7), PATIENT_7)
    await watched.rest(1)
    assert len(await house.audit()) == 1


async def test_a_stream_of_another_system_ends_with_its_token(house) -> None:
    token = house.keys.token(house.now_s)
    identity = house.access.identity
    caller = await identity.of([(b"authorization", f"Bearer {token}".encode())])
    assert caller is not None
    context = house.app.state.context
    watch = Watch(context, caller, PatientSubject(context, PATIENT_9, 9, 4), "v", 0.2)
    watched = Watched(watch)
    await watched.until("parts")
    house.wall_clock.advance(400)
    assert await watched.until("leave", 2) == {"to": "/auth/signed-out"}
