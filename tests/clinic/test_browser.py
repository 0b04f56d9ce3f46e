"""The board in a real browser: values change without a reload, and silence is told."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

import msgspec
import pytest

from vocabulary.clock import ScaledClock, SystemClock

CHROMIUM = Path("/usr/bin/chromium")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not CHROMIUM.exists(), reason="chromium is not installed: apt-get install chromium"),
    # playwright's driver leaves its pipe to the garbage collector when the browser closes.
    pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as driver:
        opened = driver.chromium.launch(
            executable_path=str(CHROMIUM), args=["--no-sandbox", "--disable-dev-shm-usage"], headless=True
        )
        yield opened
        opened.close()
    asyncio.set_event_loop(None)


@pytest.fixture
def open_page(browser: Any) -> Iterator[Callable[..., Any]]:
    contexts = []

    def open_at(url: str, cookies: dict[str, str], **options: Any) -> Any:
        context = browser.new_context(viewport={"width": 1366, "height": 768}, timezone_id="Europe/Berlin", **options)
        contexts.append(context)
        context.add_cookies(
            [{"name": name, "value": value, "url": urljoin(url, "/")} for name, value in cookies.items()]
        )
        page = context.new_page()
        page.said = []
        page.on("console", lambda message: page.said.append(message.text))
        page.on("pageerror", lambda error: page.said.append(str(error)))
        page.goto(url)
        return page

    yield open_at
    for context in contexts:
        context.close()


@pytest.fixture
def ward(serve: Any, wards: Any) -> Any:
    """A served ward on the present time."""
    wards.now_us = SystemClock().now_us()
    clinic = serve(SystemClock(), pulse_s=0.5)
    clinic.live.publish(wards.snapshot(7, bed="01"))
    clinic.live.publish(wards.snapshot(8, bed="02"))
    board = clinic.app.state.context.board
    end = time.monotonic() + 10
    while time.monotonic() < end and [bed.row.name for bed in board.beds()] != ["Hansen, Ingrid", "O'Neil, Tom"]:
        time.sleep(0.02)
    return clinic


def test_a_value_changes_without_a_reload(ward: Any, wards: Any, open_page: Any) -> None:
    page = open_page(ward.url, ward.cookies)
    page.evaluate("window.isSamePage = true")
    page.wait_for_selector("#bed-7 .heart_rate .value:text('84')")
    order = "[...document.querySelectorAll('.bed')].map(row => row.id)"
    assert page.evaluate(order) == ["bed-7", "bed-8"]
    sick = wards.score({"heart_rate": 3, "respiratory_rate": 3, "consciousness": 3}, band="high")
    published = time.monotonic()
    ward.live.publish(wards.snapshot(8, bed="02", position=1 << 41, vitals={"heart_rate": 139.0}, score=sick))
    page.wait_for_selector("#bed-8 .heart_rate .value:text('139')", timeout=3000)
    assert time.monotonic() - published < 2
    assert page.evaluate(order) == ["bed-8", "bed-7"]  # sickest first, live
    assert page.inner_text("#bed-8 .score .word") == "High"
    assert page.evaluate("window.isSamePage")
    assert page.said == []


def test_a_dead_stream_is_told_within_five_seconds_and_ages_grow(serve: Any, wards: Any, open_page: Any) -> None:
    real = SystemClock()
    wards.now_us = real.now_us()
    clock = ScaledClock(wards.now_us, real.now_us(), speed=60)  # a minute of age a second
    demonstration = {"clock_origin_us": wards.now_us, "clock_started_at_us": real.now_us(), "clock_speed": 60.0}
    clinic = serve(clock, pulse_s=0.5, **demonstration)
    clinic.live.publish(wards.snapshot(7, as_of_us=wards.now_us))
    end = time.monotonic() + 5
    while time.monotonic() < end and not clinic.app.state.context.board.beds():
        time.sleep(0.02)
    page = open_page(clinic.url, clinic.cookies)
    page.wait_for_selector("#bed-7")
    page.wait_for_timeout(1200)
    assert page.is_hidden("#banner")
    port = int(clinic.url.rsplit(":", 1)[1])
    clinic.stop()
    stopped = time.monotonic()
    page.wait_for_selector("#banner:not([hidden])", timeout=6000)
    assert time.monotonic() - stopped < 5
    assert re.fullmatch(r"No connection since \d\d:\d\d:\d\d – values may be old", page.inner_text("#banner"))
    assert page.inner_text("#bed-7 .heart_rate .value") == "84"  # never blank
    age = page.inner_text("#bed-7 .heart_rate .ago")
    page.wait_for_timeout(2500)
    assert page.inner_text("#bed-7 .heart_rate .ago") != age  # never frozen
    again = serve(clock, port=port, live=clinic.live, pulse_s=0.5, access=clinic.access, **demonstration)
    assert again.url == clinic.url
    page.wait_for_selector("#banner", state="hidden", timeout=12_000)  # and it comes back by itself


def test_a_value_goes_stale_on_the_page_alone(ward: Any, wards: Any, open_page: Any) -> None:
    old = wards.signal("body_temperature", 36.6, age_s=4 * 3600 - 2)
    snapshot = wards.snapshot(7, bed="01", position=1 << 41)
    signals = [old if signal.concept == "body_temperature" else signal for signal in snapshot.signals]

    ward.live.publish(msgspec.structs.replace(snapshot, signals=signals))
    page = open_page(ward.url, ward.cookies)
    page.wait_for_selector("#bed-7 .body_temperature.stale", timeout=8000)
    assert page.inner_text("#bed-7 .body_temperature .age").startswith("stale 4 h")


def test_a_lost_bus_is_told_while_the_page_is_connected(ward: Any, open_page: Any) -> None:
    page = open_page(ward.url, ward.cookies)
    page.wait_for_selector("#bed-7")
    ward.live.is_connected = False
    page.wait_for_selector("#banner:not([hidden])", timeout=5000)
    assert "the bus is not connected" in page.inner_text("#banner")
    ward.live.is_connected = True
    page.wait_for_selector("#banner", state="hidden", timeout=5000)


def test_a_patient_page_follows_its_patient(ward: Any, wards: Any, open_page: Any) -> None:
    page = open_page(f"{ward.url}/patients/7?hours=4", ward.cookies)
    page.wait_for_selector("#part-score td:text('84')")
    ward.live.publish(wards.snapshot(7, bed="01", position=1 << 41, vitals={"heart_rate": 117.0}))
    page.wait_for_selector("#part-score td:text('117')", timeout=3000)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert page.said == []


@pytest.mark.parametrize(("width", "height"), [(1366, 768), (3840, 2160), (420, 900)])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_the_screen_and_has_enough_contrast(
    ward: Any, wards: Any, open_page: Any, width: int, height: int, scheme: str, contrast: str
) -> None:
    points = {"heart_rate": 1, "respiratory_rate": 2, "body_temperature": 3}
    for number, band in enumerate(("low", "low-medium", "medium", "high")):
        score = wards.score(points, missing=["consciousness"] if number == 1 else [], band=band)
        old = wards.signal("end_tidal_co2", 40.0, age_s=90_000, stale=True)
        snapshot = wards.snapshot(
            20 + number, bed=f"1{number}", score=score, silent=True, notices=["A notice."], extra=[old]
        )
        signals = [msgspec.structs.replace(one, is_stale=one.concept == "body_temperature") for one in snapshot.signals]
        ward.live.publish(msgspec.structs.replace(snapshot, signals=signals))
    page = open_page(ward.url, ward.cookies, color_scheme=scheme)
    page.set_viewport_size({"width": width, "height": height})
    page.wait_for_selector("#bed-23")
    for address in (None, f"{ward.url}/patients/21", f"{ward.url}/feeds"):
        if address:
            page.goto(address)
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        assert page.is_visible("text=Informs; is not a primary alarm.")
        assert page.evaluate(contrast) == []


def test_the_last_bed_to_leave_is_told_kindly_and_nothing_shouts(ward: Any, wards: Any, open_page: Any) -> None:
    page = open_page(ward.url, ward.cookies)
    for patient_id in (7, 8):
        ward.live.publish(wards.snapshot(patient_id, bed=f"0{patient_id - 6}", position=1 << 41, notices=["Shared."]))
    page.wait_for_selector("#shared:text('Shared.')", timeout=3000)
    assert page.locator(".bed .notice").count() == 0
    ward.live.publish(wards.snapshot(7, position=1 << 42, admitted=False))
    page.wait_for_selector("#bed-8 .notice:text('Shared.')", timeout=3000)
    ward.live.publish(wards.snapshot(8, position=1 << 42, admitted=False))
    page.wait_for_selector("#empty:text('Nobody is in a bed now.')", timeout=3000)
    assert page.is_hidden("#shared")
    assert page.is_hidden("#banner")
    assert page.said == []


def test_the_footer_covers_nothing_on_a_page_that_is_read_to_its_end(ward: Any, open_page: Any) -> None:
    page = open_page(ward.url, ward.cookies)
    position = "getComputedStyle(document.querySelector('footer')).position"
    assert page.evaluate(position) == "sticky"
    for path in ("/patients/7", "/feeds"):
        page.goto(ward.url + path)
        assert page.evaluate(position) == "static", path


def test_the_keyboard_reaches_every_bed(ward: Any, open_page: Any) -> None:
    page = open_page(ward.url, ward.cookies)
    reached = set()
    for _ in range(20):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("document.activeElement.getAttribute('href')"))
    assert {"/patients/7", "/patients/8", "#main", "/?sort=bed"} <= reached
