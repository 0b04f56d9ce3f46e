"""A patient's page."""

from __future__ import annotations

import asyncio
import json

import msgspec
import pytest

from clinic.broadcast import Viewer
from clinic.patient_painter import patient_topic
from clinic.patient_view import History, charts, hours_of_stay, patient_view
from clinic.questions import Minute, Person, ScorePoint, Stay

HOUR_US = 3_600_000_000


def _parts(viewer: Viewer) -> list[dict[str, str]]:
    found = []
    while viewer._queue.qsize():
        head, data = viewer._queue.get_nowait().decode().strip().split("\n")
        if head == "event: parts":
            found.append(json.loads(data.removeprefix("data: ")))
    return found


async def test_the_page_says_who_how_sick_and_where_it_comes_from(clinic, wards) -> None:
    score = wards.score({"respiratory_rate": 2, "heart_rate": 1}, missing=["consciousness"], band="low")
    snapshot = wards.snapshot(7, score=score, extra=[wards.signal("lactate", 2.4, age_s=4000)])
    clinic.live.publish(snapshot)
    await clinic.settle()
    page = (await clinic.client.get("/patients/7")).text
    for said in (
        "Hansen, Ingrid Marie", "71 y · F", "synthetic", "≥ 3", "1 of", "missing", "Lactate", "mmol/L",
        snapshot.snapshot_id, str(snapshot.position), "0123456789abcdef", "vigil-concepts@1", "sha256:12ab",
        "none approved", "/fhir/Patient/7/$twin-snapshot", "/api/patients/7/snapshot",
    ):  # fmt: skip
        assert said.replace("1 of", "2 of 3") in page, said


async def test_a_merged_record_leads_to_its_survivor(clinic, wards, readers) -> None:
    clinic.live.publish(wards.snapshot(7))
    await clinic.settle()
    readers.redirects[5] = 7
    page = await clinic.client.get("/patients/5")
    assert page.status_code == 200  # and no redirect: it would be a second look, and a second event
    assert 'data-stream="/streams/patients/7?' in page.text
    assert [ask.patient_id for ask in clinic.gate.asked] == [7]


async def test_nobody_under_a_number_is_said_plainly(clinic) -> None:
    for path in ("/patients/999", "/patients/abc", "/nowhere"):
        answer = await clinic.client.get(path)
        assert answer.status_code == 404, path
        assert "text/html" in answer.headers["content-type"]


async def test_a_page_opened_keeps_its_snapshot(clinic, wards, readers) -> None:
    snapshot = wards.snapshot(7)
    clinic.live.publish(snapshot)
    await clinic.settle()
    await clinic.client.get("/patients/7")
    assert readers.shown == [snapshot.snapshot_id]


async def test_the_value_before_the_latest_is_beside_it(wards) -> None:
    snapshot = wards.snapshot(7, extra=[wards.signal("potassium", 5.9, age_s=3600)])
    results = (
        wards.measured("potassium", 4.1, wards.now_us - 30 * HOUR_US),
        wards.measured("potassium", 4.4, wards.now_us - 20 * HOUR_US),
        wards.measured("potassium", 5.9, wards.now_us - HOUR_US),
        wards.measured("sodium", 140.0, wards.now_us - 2 * HOUR_US),
    )
    view = patient_view(snapshot, "00", Person(7), History(laboratory=results))
    [row] = view.laboratory
    assert (row.text, row.change, row.previous) == ("5.9", "↑", "4.4")


def test_a_trend_appears_only_for_what_ever_spoke(wards) -> None:
    minutes = tuple(Minute(wards.now_us - minute * 60_000_000, {"end_tidal_co2": 38.0}) for minute in range(60, 0, -1))
    names = [chart.name for chart in charts(wards.snapshot(7), History(minutes=minutes), 4)]
    assert "End-tidal CO₂" in names
    assert "Heart rate" in names  # it speaks now, though no minute of it is kept
    assert "Glasgow coma score" not in names


async def test_a_change_sends_only_the_parts_that_changed(clinic, wards) -> None:
    first = wards.snapshot(7, extra=[wards.signal("lactate", 2.4, age_s=4000)])
    clinic.live.publish(first)
    await clinic.settle()
    context = clinic.app.state.context
    viewers = [context.hub.join([patient_topic(7, 24)]) for _ in range(50)]
    await context.pages.paint(7)
    for viewer in viewers:
        _parts(viewer)
    before = context.pages.renders
    signals = [
        msgspec.structs.replace(signal, value=3.0) if signal.concept == "lactate" else signal
        for signal in first.signals
    ]
    clinic.live.publish(msgspec.structs.replace(first, signals=signals, as_of_us=first.as_of_us + 1_000_000))
    await clinic.settle()
    await asyncio.sleep(0.05)
    seen = [_parts(viewer) for viewer in viewers]
    assert all(parts == seen[0] for parts in seen)
    [changed] = seen[0]
    assert set(changed) == {"head", "laboratory", "provenance"}
    assert context.pages.renders - before <= 6  # one page's parts, not fifty pages'


async def test_the_past_is_read_once_a_minute_not_once_a_snapshot(clinic, wards, readers) -> None:
    readers.score_rows[7] = [ScorePoint(wards.now_us - HOUR_US, 4.0, "low")]
    clinic.live.publish(wards.snapshot(7, as_of_us=wards.now_us))
    await clinic.settle()
    pages, ward = clinic.app.state.context.pages, clinic.app.state.context.ward
    await pages.parts(ward.twin(7), 24)
    calls = readers.calls
    for second in range(1, 30):
        snapshot = wards.snapshot(7, position=(1 << 40) + 100 + second, as_of_us=wards.now_us + second * 1_000_000)
        ward.take(msgspec.json.encode(snapshot))
        await pages.parts(ward.twin(7), 24)
    assert readers.calls == calls
    ward.take(msgspec.json.encode(wards.snapshot(7, position=(1 << 40) + 400, as_of_us=wards.now_us + 60_000_000)))
    await pages.parts(ward.twin(7), 24)
    assert readers.calls > calls


@pytest.mark.parametrize(
    ("first_h", "started_h", "hours"),
    [
        (1.0, None, 4),
        (3.9, 3.9, 4),
        (4.1, None, 24),
        (23.5, 30.0, 24),  # admitted before anything was heard
        (30.0, None, 48),
        (90.0, None, 48),
        (30.0, 2.0, 4),  # what is older is of another stay
    ],
)
def test_charts_open_over_the_shortest_stretch_that_shows_the_stay(wards, first_h, started_h, hours) -> None:
    now_us = wards.now_us
    ages_h = [first_h, first_h / 2, 0.2]
    minutes = tuple(Minute(now_us - int(age_h * HOUR_US), {"heart_rate": 80.0}) for age_h in ages_h)
    started_at_us = 0 if started_h is None else now_us - int(started_h * HOUR_US)
    assert hours_of_stay(now_us, History(minutes=minutes), started_at_us) == hours
    scores = tuple(ScorePoint(minute.start_us, 3.0) for minute in minutes)
    assert hours_of_stay(now_us, History(scores=scores), started_at_us) == hours
    assert hours_of_stay(now_us, History(), started_at_us) == 4


async def test_a_page_opens_over_its_stay_unless_asked(clinic, wards, readers) -> None:
    readers.minute_rows = [Minute(wards.now_us - hours * HOUR_US, {"heart_rate": 80.0}) for hours in (20, 2)]
    clinic.live.publish(wards.snapshot(7))
    await clinic.settle()

    async def shown(path: str) -> str:
        return (await clinic.client.get(path)).text.split("?hours=")[1].split("&amp;")[0]

    assert await shown("/patients/7") == "24"
    assert await shown("/patients/7?hours=48") == "48"
    assert await shown("/patients/7?hours=5") == "24"
    readers.open_stays = [Stay(7, "ICU-A", "03", wards.now_us - 3 * HOUR_US)]
    await clinic.app.state.context.board._read_stays()
    assert await shown("/patients/7") == "4"


async def test_a_discharged_patients_twin_is_not_called_stale(clinic, wards) -> None:
    clinic.live.publish(wards.snapshot(7))
    await clinic.settle()
    assert "data-valid-real" in (await clinic.client.get("/patients/7")).text
    clinic.live.publish(wards.snapshot(7, position=(1 << 40) + 300, admitted=False))
    await clinic.settle()
    assert "data-valid-real" not in (await clinic.client.get("/patients/7")).text
