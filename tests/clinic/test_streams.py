"""Server-sent events over a real socket."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator

import httpx
import pytest

from vocabulary.clock import ManualClock


def _events(response: httpx.Response) -> Iterator[tuple[str, dict]]:
    name = ""
    for line in response.iter_lines():
        if line.startswith("event: "):
            name = line.removeprefix("event: ")
        elif line.startswith("data: "):
            yield name, json.loads(line.removeprefix("data: "))


def _until(is_so, seconds: float = 5) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if is_so():
            return
        time.sleep(0.01)
    raise AssertionError("waited in vain")


def _next(events: Iterator[tuple[str, dict]], wanted: str) -> dict:
    for name, data in events:
        if name == wanted:
            return data
    raise AssertionError(f"the stream ended before {wanted}")


@pytest.fixture
def served(serve, wards):
    clinic = serve(ManualClock(wards.now_us))
    clinic.live.publish(wards.snapshot(7))
    clinic.live.publish(wards.snapshot(8))
    board = clinic.app.state.context.board
    _until(lambda: [bed.row.name for bed in board.beds()] == ["Hansen, Ingrid", "O'Neil, Tom"])
    return clinic


def test_a_publication_reaches_an_open_board_as_one_changed_bed(served, wards) -> None:
    page = httpx.get(served.url, cookies=served.cookies).text
    state = page.split("/streams/board?since=")[1].split("&amp;")[0]
    with httpx.stream(
        "GET", f"{served.url}/streams/board?since={state}", timeout=5, cookies=served.cookies
    ) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        assert response.headers["cache-control"] == "no-store"
        events = _events(response)
        assert _next(events, "pulse")["is_connected"] is True
        first = _next(events, "beds")
        assert (first["beds"], sorted(first["everyone"])) == ([], [7, 8])
        served.live.publish(wards.snapshot(8, position=(1 << 40) + 200, vitals={"heart_rate": 133.0}))
        changed = _next(events, "beds")
        assert [bed["id"] for bed in changed["beds"]] == [8]
        assert ">133<" in changed["beds"][0]["html"]
        assert _next(events, "pulse")["log_us"] == wards.now_us


@pytest.mark.parametrize("since", ["", "?since=1.2.99999", "?since=nonsense"])
def test_a_page_of_another_process_is_given_everything(served, since: str) -> None:
    with httpx.stream("GET", f"{served.url}/streams/board{since}", timeout=5, cookies=served.cookies) as response:
        first = _next(_events(response), "beds")
        assert sorted(bed["id"] for bed in first["beds"]) == [7, 8]


def test_a_ward_stream_hears_only_its_ward(served, wards) -> None:
    with httpx.stream("GET", f"{served.url}/streams/board?ward=MED-3", timeout=5, cookies=served.cookies) as response:
        events = _events(response)
        assert _next(events, "beds")["everyone"] == []
        served.live.publish(wards.snapshot(7, position=(1 << 40) + 300, vitals={"heart_rate": 101.0}))
        served.live.publish(wards.snapshot(9, ward="MED-3"))
        assert [bed["id"] for bed in _next(events, "beds")["beds"]] == [9]


def test_a_patient_page_is_patched_part_by_part(served, wards) -> None:
    with httpx.stream("GET", f"{served.url}/streams/patients/7?hours=4", timeout=5, cookies=served.cookies) as response:
        events = _events(response)
        everything = _next(events, "parts")
        assert set(everything) == {"head", "score", "risk", "laboratory", "signals", "trends", "provenance"}
        served.live.publish(wards.snapshot(7, position=(1 << 40) + 300, vitals={"heart_rate": 144.0}))
        for _ in range(3):
            changed = _next(events, "parts")
            if "144" in changed.get("score", ""):
                return
    raise AssertionError("the new heart rate never came")


def test_the_feeds_page_is_sent_whole(served) -> None:
    with httpx.stream("GET", f"{served.url}/streams/feeds", timeout=5, cookies=served.cookies) as response:
        assert "MON" in _next(_events(response), "parts")["feeds"]


def test_a_viewer_who_leaves_is_forgotten(served) -> None:
    hub = served.app.state.context.hub
    with httpx.stream("GET", f"{served.url}/streams/board", timeout=5, cookies=served.cookies) as response:
        events = _events(response)  # held: httpx closes a response whose iterator is dropped
        _next(events, "pulse")
        assert hub.count() == 1
    _until(lambda: hub.count() == 0)


def test_stopping_ends_every_stream(served) -> None:
    with httpx.stream("GET", f"{served.url}/streams/board", timeout=10, cookies=served.cookies) as response:
        events = _events(response)
        _next(events, "pulse")
        started = time.monotonic()
        served.stop()
        assert list(events) is not None
        assert time.monotonic() - started < 5
