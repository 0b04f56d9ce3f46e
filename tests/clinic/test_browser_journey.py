"""A real browser through a real issuer and the real policy: in, around, beyond the glass, and out."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

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
def page_of(browser: Any) -> Iterator[Callable[..., Any]]:
    contexts = []

    def open_page(**options: Any) -> Any:
        context = browser.new_context(viewport={"width": 1366, "height": 768}, **options)
        contexts.append(context)
        return context.new_page()

    yield open_page
    for context in contexts:
        context.close()


def _sign_in(page: Any, site: Any, name: str, path: str = "/") -> None:
    page.goto(site.url + path)
    page.wait_for_selector("h1:text('Who are you?')")
    assert page.url.startswith(site.issuer)
    page.click(f"button:has-text('{name}')")
    page.wait_for_url(f"{site.url}/**")


def _menu(page: Any, entry: str) -> None:
    page.click(".reader summary")
    page.click(f".reader .menu >> text={entry}")


def _give_nora_the_ward(site: Any) -> None:
    """Let the demonstration's nurse work on the seeded ward: the provider's directory names other wards."""
    site.run(site.house.execute("update location set ward = %s where ward = 'ICU-A'", "MICU"))


def test_the_whole_way_of_a_nurse(site: Any, page_of: Callable[..., Any], wards: Any) -> None:
    _give_nora_the_ward(site)
    for patient_id in (7, 8):
        site.live.publish(wards.snapshot(patient_id, ward="MICU", bed=f"0{patient_id}", position=1 << 41))
    page = page_of()
    _sign_in(page, site, "Nora Lind")
    page.wait_for_selector("#bed-7")
    assert page.locator("tr.restricted").count() == 1
    assert "O'Neil" not in page.content()
    assert page.inner_text(".reader summary").split() == ["Signed", "in", "as", "Nora", "Lind", "nurse"]
    page.click("#bed-7 a")
    page.wait_for_selector("#part-head h2:text('Hansen')")
    page.goto(f"{site.url}/patients/8")
    assert "Nothing here" in page.inner_text("main")

    _menu(page, "Break the glass")
    page.fill("#identifier", "MRN-8")
    page.fill("#reason", "Found unresponsive in the corridor")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    page.wait_for_selector(".glass")
    assert "Every look is recorded and will be reviewed" in page.inner_text(".glass")
    assert "min left" in page.inner_text(".glass")
    assert "O'Neil" in page.inner_text("#part-head")

    officer = page_of()
    _sign_in(officer, site, "Sami Aalto", "/reviews")
    officer.wait_for_selector("text=Found unresponsive in the corridor")
    assert "Nora Lind" in officer.inner_text("main")
    officer.fill("input[name=note]", "Spoke with the ward.")
    officer.click("button:text-is('Justified')")
    officer.wait_for_selector("text=No broken glass waits for a review.")
    officer.goto(f"{site.url}/audit?patient=8")
    assert "Nora Lind" in officer.inner_text("main")

    _menu(page, "Sign out")
    page.wait_for_selector("text=You are signed out")
    assert page.url == f"{site.url}/auth/signed-out"
    page.go_back()
    page.wait_for_timeout(500)
    assert "O'Neil" not in page.content()  # the button back shows nothing of what was seen
    page.goto(f"{site.url}/patients/7")
    page.wait_for_selector("h1:text('Who are you?')")


def test_a_board_leaves_when_the_provider_ends_the_session(site: Any, page_of: Callable[..., Any], wards: Any) -> None:
    _give_nora_the_ward(site)
    site.live.publish(wards.snapshot(7, ward="MICU", bed="07", position=1 << 41))
    page = page_of()
    _sign_in(page, site, "Nora Lind")
    page.wait_for_selector("#bed-7")
    other = page_of()
    other.goto(site.issuer)
    other.click("button:text-is('End')")
    ended = time.monotonic()
    page.wait_for_selector("text=You are signed out", timeout=10_000)
    assert time.monotonic() - ended < 10
    assert "Hansen" not in page.content()


def test_forms_work_without_a_script(site: Any, page_of: Callable[..., Any]) -> None:
    page = page_of(java_script_enabled=False)
    _sign_in(page, site, "Nora Lind", "/break-glass")
    page.fill("#identifier", "MRN-404")
    page.fill("#reason", "Found unresponsive in the corridor")
    page.click("main button")
    assert "Not found, or not permitted." in page.inner_text(".fault")
    _menu(page, "Sign out")
    page.wait_for_selector("text=You are signed out")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1366, 420])
def test_the_new_pages_fit_and_have_enough_contrast(
    site: Any, page_of: Callable[..., Any], scheme: str, width: int, contrast: str
) -> None:
    page = page_of(color_scheme=scheme)
    page.set_viewport_size({"width": width, "height": 800})
    _sign_in(page, site, "Petra Klein", "/me")
    for path in ("/me", "/reviews", "/audit", "/feeds", "/nothing"):
        page.goto(site.url + path)
        page.click(".reader summary")
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), path
        assert page.evaluate(contrast) == [], path
    nurse = page_of(color_scheme=scheme)
    nurse.set_viewport_size({"width": width, "height": 800})
    _sign_in(nurse, site, "Nora Lind", "/break-glass")
    assert nurse.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert nurse.evaluate(contrast) == []
