"""The ward board: what it shows, and that each change is rendered once for everybody."""

from __future__ import annotations

import asyncio
import json

import msgspec

from clinic.broadcast import RECHECK, Viewer
from clinic.questions import Person, ScorePoint, Stay
from clinic.sight import BoardTopic, Sight
from vocabulary.snapshot import canonical_bytes


def _events(viewer: Viewer, name: str) -> list[dict]:
    found = []
    while viewer._queue.qsize():
        event = viewer._queue.get_nowait()
        assert event is not None
        if event == RECHECK:
            continue
        head, data = event.decode().strip().split("\n")
        if head == f"event: {name}":
            found.append(json.loads(data.removeprefix("data: ")))
    return found


EVERYBODY = frozenset(range(1, 100))


def _board(ward: str | None = None, shown: frozenset[int] = EVERYBODY) -> BoardTopic:
    return BoardTopic(ward, Sight(frozenset({"ICU-A", "MED-3"}), shown, EVERYBODY))


async def test_the_board_shows_every_bed_with_score_in_words(clinic, wards) -> None:
    clinic.live.publish(wards.snapshot(7, score=wards.score({"respiratory_rate": 3, "heart_rate": 4}, band="high")))
    clinic.live.publish(wards.snapshot(8, ward="MED-3", bed="11"))
    await clinic.settle()
    page = (await clinic.client.get("/")).text
    assert "Hansen, Ingrid" in page
    assert "O&#39;Neil, Tom" in page
    assert "High" in page
    assert ">7</span>" in page
    assert "Informs; is not a primary alarm." in page
    assert "synthetic" in page.split('id="bed-7"')[1].split("</tr>")[0]
    assert "synthetic" not in page.split('id="bed-8"')[1].split("</tr>")[0]


async def test_sickest_first_or_by_bed_and_one_ward_only(clinic, wards) -> None:
    clinic.live.publish(wards.snapshot(8, bed="01"))
    clinic.live.publish(wards.snapshot(7, bed="02", score=wards.score({"heart_rate": 3}, band="low-medium")))
    clinic.live.publish(wards.snapshot(9, ward="MED-3"))
    await clinic.settle()
    sick = (await clinic.client.get("/")).text
    bed = (await clinic.client.get("/?sort=bed")).text
    assert sick.index("bed-7") < sick.index("bed-8")
    assert bed.index("bed-8") < bed.index("bed-7")
    ward = (await clinic.client.get("/wards/MED-3")).text
    assert "bed-9" in ward
    assert "bed-7" not in ward


async def test_a_name_that_is_markup_is_text(clinic, wards) -> None:
    clinic.readers.persons[7] = Person(7, "<script>alert(1)</script>", '"><img src=x>', "1950-01-01", "male")
    hostile = wards.snapshot(7, ward="<b>W</b>", bed='"><i>', notices=["<u>n</u>"])
    clinic.live.publish(hostile)
    await clinic.settle()
    for path in ("/", "/patients/7", "/wards/%3Cb%3EW%3C%2Fb%3E"):
        page = (await clinic.client.get(path)).text
        assert "<script>alert" not in page
        for tag in ("<img", "<b>W", "<u>n", '"><i>'):
            assert tag not in page, (path, tag)
    assert "&lt;script&gt;" in (await clinic.client.get("/")).text


async def test_only_changed_beds_are_sent(clinic, wards) -> None:
    clinic.live.publish(wards.snapshot(7))
    clinic.live.publish(wards.snapshot(8))
    await clinic.settle()
    viewer = clinic.app.state.context.hub.join([_board()])
    clinic.live.publish(wards.snapshot(8, position=(1 << 40) + 200, vitals={"heart_rate": 111.0}))
    clinic.live.publish(wards.snapshot(7, position=(1 << 40) + 200))  # a heartbeat: nothing new
    await clinic.settle()
    events = _events(viewer, "beds")
    assert [[bed["id"] for bed in event["beds"]] for event in events] == [[8]]
    assert "111" in events[0]["beds"][0]["html"]


async def test_one_rendering_serves_every_viewer(clinic, wards) -> None:
    clinic.live.publish(wards.snapshot(7))
    await clinic.settle()
    context = clinic.app.state.context
    viewers = [context.hub.join([_board()]) for _ in range(100)] + [
        context.hub.join([_board("ICU-A")]) for _ in range(100)
    ]
    before = context.board.renders
    for step in range(5):
        clinic.live.publish(wards.snapshot(7, position=(1 << 40) + 200 + step, vitals={"heart_rate": 90.0 + step}))
        await clinic.settle()
    assert context.board.renders == before + 5
    seen = [[event["beds"][0]["html"] for event in _events(viewer, "beds")] for viewer in viewers]
    assert all(htmls == seen[0] for htmls in seen)
    assert len(seen[0]) == 5


async def test_a_page_view_renders_no_bed(clinic, wards) -> None:
    clinic.live.publish(wards.snapshot(7))
    await clinic.settle()
    board = clinic.app.state.context.board
    before = board.renders
    for _ in range(10):
        await clinic.client.get("/")
    assert board.renders == before


async def test_a_transfer_leaves_one_ward_and_enters_the_other(clinic, wards) -> None:
    clinic.live.publish(wards.snapshot(7, ward="ICU-A"))
    await clinic.settle()
    hub = clinic.app.state.context.hub
    old, new, everywhere = hub.join([_board("ICU-A")]), hub.join([_board("MED-3")]), hub.join([_board()])
    clinic.live.publish(wards.snapshot(7, ward="MED-3", position=(1 << 40) + 300))
    await clinic.settle()
    assert [(event["gone"], event["beds"]) for event in _events(old, "beds")] == [([7], [])]
    assert [bed["id"] for event in _events(new, "beds") for bed in event["beds"]] == [7]
    [event] = _events(everywhere, "beds")
    assert event["gone"] == []
    assert [bed["id"] for bed in event["beds"]] == [7]


async def test_a_discharged_patient_leaves_the_board_but_keeps_a_page(clinic, wards) -> None:
    clinic.live.publish(wards.snapshot(7))
    await clinic.settle()
    viewer = clinic.app.state.context.hub.join([_board()])
    clinic.live.publish(wards.snapshot(7, position=(1 << 40) + 300, admitted=False))
    await clinic.settle()
    assert [event["gone"] for event in _events(viewer, "beds")] == [[7]]
    assert "bed-7" not in (await clinic.client.get("/")).text
    assert "not in a bed now" in (await clinic.client.get("/patients/7")).text


async def test_an_open_stay_without_a_snapshot_is_on_the_board(clinic, wards, readers) -> None:
    readers.open_stays = [Stay(8, "ICU-A", "09")]
    context = clinic.app.state.context
    await context.board._read_stays()
    context.board.paint()
    page = (await clinic.client.get("/")).text
    assert "Waiting for the first snapshot." in page
    clinic.live.publish(wards.snapshot(8, bed="09"))
    await clinic.settle()
    assert "Waiting for the first snapshot." not in (await clinic.client.get("/")).text


async def test_an_older_snapshot_never_replaces_a_newer_one(clinic, wards) -> None:
    clinic.live.publish(wards.snapshot(7, position=(1 << 40) + 500, vitals={"heart_rate": 99.0}))
    await clinic.settle()
    ward = clinic.app.state.context.ward
    assert not ward.take(canonical_bytes(wards.snapshot(7, position=(1 << 40) + 499, vitals={"heart_rate": 55.0})))
    assert not ward.take(b"not a snapshot")
    assert ward.undecodable == 1
    assert ">99<" in (await clinic.client.get("/")).text


async def test_a_heartbeat_of_the_same_position_moves_the_clock(clinic, wards) -> None:
    first = wards.snapshot(7)
    clinic.live.publish(first)
    await clinic.settle()
    clinic.live.publish(msgspec.structs.replace(first, as_of_us=first.as_of_us + 10_000_000))
    await clinic.settle()
    assert clinic.app.state.context.ward.log_time_us() == first.as_of_us + 10_000_000


async def test_staleness_silence_and_notices_are_told_in_words(clinic, wards) -> None:
    snapshot = wards.snapshot(7, silent=True, notices=["No approved model: NEWS2 is shown."])
    stale = [
        msgspec.structs.replace(signal, is_stale=True) if signal.concept == "body_temperature" else signal
        for signal in snapshot.signals
    ]
    clinic.live.publish(msgspec.structs.replace(snapshot, signals=stale))
    await clinic.settle()
    row = (await clinic.client.get("/")).text.split('id="bed-7"')[1].split("</tr>")[0]
    assert "lab silent" in row
    assert "No approved model: NEWS2 is shown." in row
    assert 'class="vital body_temperature stale"' in row
    assert f'data-at="{stale[0].effective_at_us}"' in row


def _row(page: str, patient_id: int) -> str:
    return page.split(f'id="bed-{patient_id}"')[1].split("</tr>", maxsplit=1)[0]


def _shared(page: str) -> str:
    return page.split('id="shared"')[1].split("</p>", maxsplit=1)[0].split(">", 1)[1]


async def test_a_notice_of_every_twin_is_told_once_above_the_beds(clinic, wards, readers) -> None:
    everywhere, here = "No approved model: NEWS2 is shown.", "Weight was never measured."
    readers.open_stays = [Stay(9, "ICU-A", "09")]  # waits for its twin: it has no say
    await clinic.app.state.context.board._read_stays()
    clinic.live.publish(wards.snapshot(7, notices=[everywhere, here]))
    clinic.live.publish(wards.snapshot(8, ward="MED-3", notices=[everywhere]))
    await clinic.settle()
    for path in ("/", "/wards/MED-3"):
        page = (await clinic.client.get(path)).text
        assert page.count(everywhere) == 1, path
        assert _shared(page) == everywhere
    page = (await clinic.client.get("/")).text
    assert here in _row(page, 7)
    assert "Waiting for the first snapshot." in _row(page, 9)
    [entry] = (await clinic.client.get("/api/ward?ward=MED-3")).json()["beds"]
    assert entry["notices"] == [everywhere]  # a program is told each bed's own


async def test_a_notice_returns_to_the_rows_when_one_twin_no_longer_has_it(clinic, wards) -> None:
    notice = "No approved model: NEWS2 is shown."
    for patient_id in (7, 8):
        clinic.live.publish(wards.snapshot(patient_id, notices=[notice]))
    await clinic.settle()
    hub = clinic.app.state.context.hub
    everyone, elsewhere = hub.join([_board()]), hub.join([_board("MED-3")])
    clinic.live.publish(wards.snapshot(8, position=(1 << 40) + 200))
    await clinic.settle()
    [event] = _events(everyone, "beds")
    assert event["shared"] == ""
    assert [(bed["id"], notice in bed["html"]) for bed in event["beds"]] == [(7, True), (8, False)]
    assert [(event["beds"], event["shared"]) for event in _events(elsewhere, "beds")] == [([], "")]
    clinic.live.publish(wards.snapshot(8, position=(1 << 40) + 300, admitted=False))
    await clinic.settle()
    page = (await clinic.client.get("/")).text
    assert notice in _row(page, 7)  # of one twin alone nothing is shared


async def test_an_empty_board_says_why(clinic, wards) -> None:
    never, now = "No twin was heard of yet.", "Nobody is in a bed now."
    page = (await clinic.client.get("/")).text
    assert never in page
    clinic.live.publish(wards.snapshot(7))
    await clinic.settle()
    assert never not in (await clinic.client.get("/")).text
    assert "Nobody is in a bed of MED-3 now." in (await clinic.client.get("/wards/MED-3")).text
    clinic.live.publish(wards.snapshot(7, position=(1 << 40) + 200, admitted=False))
    await clinic.settle()
    page = (await clinic.client.get("/")).text
    assert f">{now}" in page
    assert json.loads(clinic.app.state.context.board.pulse().split(b"data: ")[1])["has_beds"] is False


async def test_beds_are_sorted_as_people_count(clinic, wards) -> None:
    for patient_id, bed in ((7, "10-1"), (8, "2-12"), (9, "2-2")):
        clinic.live.publish(wards.snapshot(patient_id, bed=bed))
    await clinic.settle()
    page = (await clinic.client.get("/?sort=bed")).text
    assert page.index("bed-9") < page.index("bed-8") < page.index("bed-7")
    assert '<span class="place">2-12</span>' in _row(page, 8)


async def test_a_viewer_that_lags_is_let_go_and_the_others_stay(clinic, wards) -> None:
    hub = clinic.app.state.context.hub
    slow, quick = hub.join([_board()]), hub.join([_board()])
    for number in range(200):
        hub.send([_board()], b"event: x\ndata: %d\n\n" % number)
        await quick.take()
    assert slow.is_ended
    assert not quick.is_ended
    assert slow._queue.qsize() <= 65


async def test_the_trend_is_filled_from_kept_snapshots(clinic, wards, readers) -> None:
    readers.score_rows[7] = [
        ScorePoint(wards.now_us - minute * 60_000_000, 9.0, "high") for minute in range(100, 0, -1)
    ]
    clinic.live.publish(wards.snapshot(7))
    await clinic.settle()
    for _ in range(100):
        if "highest 9" in (await clinic.client.get("/")).text:
            return
        await asyncio.sleep(0.02)
    raise AssertionError("the past never reached the sparkline")


async def test_the_board_lives_on_without_the_database(clinic, wards, readers) -> None:
    readers.is_available = False
    clinic.live.publish(wards.snapshot(7))
    await clinic.settle()
    page = await clinic.client.get("/")
    assert page.status_code == 200
    assert "84" in page.text
    ready = await clinic.client.get("/ready")
    assert (ready.status_code, ready.json()["database"]) == (503, False)
    patient = await clinic.client.get("/patients/7")
    assert patient.status_code == 200
    assert "The database does not answer" in patient.text


async def test_everything_is_taken_anew_when_the_bus_comes_back(monkeypatch, clinic, wards) -> None:
    monkeypatch.setattr("clinic.ward_live._REFILL_CHECK_S", 0.02)
    clinic.live.is_connected = False
    context = clinic.app.state.context
    assert not context.ward.is_connected
    await asyncio.sleep(0.6)
    clinic.live.latest[7] = canonical_bytes(wards.snapshot(7))  # published while we were away
    clinic.live.is_connected = True
    for _ in range(150):
        if context.ward.twin(7):
            break
        await asyncio.sleep(0.02)
    assert context.ward.twin(7) is not None
    assert context.ward.is_connected


async def test_a_bed_that_is_not_for_a_viewer_is_a_place_without_a_name_or_a_score(clinic, wards) -> None:
    clinic.live.publish(wards.snapshot(7, bed="03"))
    clinic.live.publish(wards.snapshot(8, bed="04", score=wards.score({"heart_rate": 3}, band="high")))
    await clinic.settle()
    board = clinic.app.state.context.board
    topic = _board("ICU-A", frozenset({7}))
    [shown, hidden] = sorted(board.beds_for(topic), key=lambda bed: bed.row.bed)
    html = hidden.html_for(topic.sight)
    assert "Restricted" in html
    assert "04" in html
    for said in ("O'Neil", "O&#39;Neil", "bed-8", "/patients/8", "High", "139", "band-high", "points"):
        assert said not in html, said
    assert "Hansen" in shown.html_for(topic.sight)
    assert hidden.key_for(topic.sight, "sick").startswith("999|")  # nor does its place among the others tell


async def test_what_happens_in_a_restricted_bed_is_not_even_hinted_at(clinic, wards) -> None:
    for patient_id in (7, 8):
        clinic.live.publish(wards.snapshot(patient_id))
    await clinic.settle()
    viewer = clinic.app.state.context.hub.join([_board("ICU-A", frozenset({7}))])
    clinic.live.publish(wards.snapshot(8, position=(1 << 40) + 200, vitals={"heart_rate": 133.0}))
    await clinic.settle()
    assert _events(viewer, "beds") == []
    clinic.live.publish(wards.snapshot(8, position=(1 << 40) + 300, bed="17"))
    await clinic.settle()
    [event] = _events(viewer, "beds")
    [place] = event["beds"]
    assert "17" in place["html"]
    assert str(place["id"]).startswith("r")
    assert len(event["gone"]) == 1
    assert event["gone"][0] not in {8, place["id"]}


async def test_a_newcomer_stays_hidden_until_somebody_was_asked(clinic, wards) -> None:
    clinic.live.publish(wards.snapshot(7))
    await clinic.settle()
    known = frozenset({7})
    viewer = clinic.app.state.context.hub.join([BoardTopic(None, Sight(frozenset({"ICU-A"}), known, known))])
    clinic.live.publish(wards.snapshot(8))
    await clinic.settle()
    queued = [viewer._queue.get_nowait() for _ in range(viewer._queue.qsize())]
    assert RECHECK in queued
    assert not any(b"Neil" in event for event in queued)


async def test_who_sees_less_than_before_is_sent_everything_anew(clinic, wards) -> None:
    for patient_id in (7, 8):
        clinic.live.publish(wards.snapshot(patient_id))
    await clinic.settle()
    board = clinic.app.state.context.board
    whole, less = _board("ICU-A"), _board("ICU-A", frozenset({7}))
    again = json.loads(board.repaint_event(whole, board.state(whole)).split(b"data: ")[1])
    assert (again["beds"], sorted(again["everyone"])) == ([], [7, 8])
    narrowed = json.loads(board.repaint_event(less, board.state(whole)).split(b"data: ")[1])
    assert len(narrowed["beds"]) == 2
    assert 8 not in narrowed["everyone"]
