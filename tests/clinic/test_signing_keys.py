"""Registering a key on the page: by a browser with a key of its own, and by those who try it otherwise."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from governance import roster as rosters
from governance.access import Role
from governance.roster import Roster, Signer, SignerKey
from vocabulary.signing import SigningKey

CHROMIUM = Path("/usr/bin/chromium")
HERE = "/account/keys"
API = "/api/account/keys"


async def test_who_signs_nothing_is_told_of_no_such_page(house: Any) -> None:
    nurse = await house.as_("nurse")
    page = await nurse.get(HERE, headers={"accept": "text/html"})
    absent = await nurse.get("/nothing-at-all", headers={"accept": "text/html"})
    assert (page.status_code, page.content) == (404, absent.content)
    for path in (API, f"{API}/challenge"):
        assert (await nurse.post(path, content=b"{}")).status_code == 404
    assert [event.entry.outcome for event in await house.audit()] == ["denied"] * 3


async def test_a_challenge_is_answered_once_and_by_nobody_else(house: Any) -> None:
    officer = await house.as_("safety_officer")
    given = await officer.post(f"{API}/challenge")
    assert given.status_code == 200
    assert len(base64.urlsafe_b64decode(given.json()["challenge"] + "=")) == 32
    other = await house.as_("data_protection_officer")
    refused = await other.post(API, content=b"{}")
    assert (refused.status_code, refused.json()["refused"][:20]) == (409, "The page waited too ")
    first = await officer.post(API, content=b"{}")
    assert "could not be registered" in first.json()["refused"]
    again = await officer.post(API, content=b"{}")
    assert "waited too long" in again.json()["refused"]
    outcomes = [(event.entry.verb, event.entry.outcome) for event in await house.audit()]
    assert outcomes == [("read", "permitted"), ("register", "denied"), ("register", "denied"), ("register", "denied")]


async def test_a_challenge_does_not_wait_for_ever(house: Any) -> None:
    officer = await house.as_("safety_officer")
    await officer.post(f"{API}/challenge")
    house.wall_clock.advance(301)
    assert "waited too long" in (await officer.post(API, content=b"{}")).json()["refused"]


async def test_a_system_registers_nothing(house: Any) -> None:
    system = house.system()
    for path in (API, f"{API}/challenge"):
        assert (await system.post(path, content=b"{}")).status_code == 404
    assert [event.entry.outcome for event in await house.audit()] == ["denied"] * 2


async def test_a_form_of_another_site_registers_nothing(house: Any) -> None:
    officer = await house.as_("safety_officer")
    forged = await officer.post(f"{API}/challenge", headers={"origin": "https://evil.example", "x-vigil-csrf": "x"})
    assert forged.status_code == 403


@pytest.fixture
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=str(CHROMIUM), args=["--no-sandbox"], headless=True)
        yield opened
        opened.close()
    asyncio.set_event_loop(None)


@pytest.mark.slow
@pytest.mark.skipif(not CHROMIUM.exists(), reason="chromium is not installed: apt-get install chromium")
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("site", ["localhost"], indirect=True)
def test_a_browser_registers_a_key_and_the_roster_makes_it_count(site: Any, browser: Any, tmp_path: Path) -> None:
    page = browser.new_context(viewport={"width": 1280, "height": 720}).new_page()
    faults: list[str] = []
    page.on("console", lambda message: faults.append(message.text) if message.type == "error" else None)
    page.goto(site.url + HERE)
    page.click("button:has-text('Lena Fischer')")
    page.wait_for_url(f"{site.url}{HERE}")
    devtools = page.context.new_cdp_session(page)
    devtools.send("WebAuthn.enable")
    devtools.send(
        "WebAuthn.addVirtualAuthenticator",
        {"options": {"protocol": "ctap2", "transport": "internal", "hasResidentKey": True, "hasUserVerification": True,
                     "isUserVerified": True}},
    )  # fmt: skip
    page.click("#register")
    page.wait_for_selector("#said:has-text('Registered')")
    page.wait_for_selector("td:has-text('waits until the roster names it')")

    row = site.run(_registration(site))
    settings = site.house.app.state.context.settings
    root = SigningKey.generate()
    today = datetime.now(UTC).date()
    key = SignerKey(kind="webauthn", public=base64.b64encode(row.public).decode(), credential=row.credential,
                    valid_from=today, valid_until=today + timedelta(30))  # fmt: skip
    signer = Signer(person=row.person, name=row.name, roles=(Role.CLINICAL_LEAD,), keys=(key,))
    roster = Roster(serial=1, issued_at=datetime.now(UTC), valid_until=today + timedelta(30), signers=(signer,))
    path = settings.data_dir / "roster.signed"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(rosters.sign(rosters.encode(roster), root))
    object.__setattr__(settings, "signer_root", root.verifying.text())
    page.reload()
    assert f"counts until {key.valid_until}" in page.inner_text("table.lines")

    # And what it signs counts, by the same roster: the browser's own answer, nothing of ours in between.
    now = datetime.now(UTC)
    statement = b"approve mortality@7"
    given = page.evaluate(_SIGN, [_text(rosters.challenge(statement, now)), row.credential])
    signature = rosters.Signature(key_id=key.key_id, signed_at=now, webauthn=rosters.Assertion(**json.loads(given)))
    party = rosters.RelyingParty("localhost", site.url)
    assert rosters.check(roster, signature, statement, now, party).person == row.person
    assert not faults


_SIGN = """async ([challenge, credential]) => {
  const bytes = (text) => Uint8Array.from(atob(text.replaceAll("-", "+").replaceAll("_", "/")), (c) => c.charCodeAt(0));
  const text = (buffer) => btoa(String.fromCharCode(...new Uint8Array(buffer)))
    .replaceAll("+", "-").replaceAll("/", "_").replaceAll("=", "");
  const made = await navigator.credentials.get({ publicKey: {
    challenge: bytes(challenge), userVerification: "required",
    allowCredentials: [{ type: "public-key", id: bytes(credential) }],
  } });
  return JSON.stringify({
    credential: made.id, client_data: text(made.response.clientDataJSON),
    authenticator_data: text(made.response.authenticatorData), signature: text(made.response.signature),
  });
}"""


def _text(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


async def _registration(site: Any) -> Any:
    from stores.passkey_registrations import read

    async with site.house.pool.reading() as connection:
        return (await read(connection))[0]
