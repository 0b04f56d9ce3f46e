"""Signing in and out through the real development issuer: every step, and everything that may go wrong on the way."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from html import unescape
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

import httpx
import pytest

from clinic.sessions import SessionTokens, secret_of
from governance.oidc import Provider
from hospital.issuer.app import Issuer, Plan
from hospital.issuer.clients import Client
from hospital.issuer.keys import IssuerKey
from vocabulary.clock import ManualClock

ISSUER = "http://127.0.0.1:9801"
CLINIC = "http://localhost"
NOW_US = 1_767_272_400_000_000
NORA, DANA = "p-3f6a1c", "p-c4590b"


class Entrance:
    """A clinic, an issuer, and browsers that walk between them."""

    def __init__(self, house: Any, issuer: Any, issuer_http: httpx.AsyncClient, switch: Any) -> None:
        self.house = house
        self.issuer = issuer
        self.issuer_http = issuer_http
        self.switch = switch

    async def to_the_issuer(self, browser: httpx.AsyncClient, next_: str | None = None) -> httpx.Response:
        """Return the issuer's page after following the way there."""
        query = "" if next_ is None else "?" + urlencode({"next": next_})
        begun = await browser.get(f"/auth/sign-in{query}")
        assert begun.status_code == 303, begun.text
        return await self.issuer_http.get(begun.headers["location"])

    async def answer(self, page: httpx.Response, subject: str = NORA) -> str:
        """Choose a person; return where the issuer leads the browser back to."""
        question = unescape(re.findall(r'name="question" value="([^"]+)"', page.text)[0])
        chosen = await self.issuer_http.post("/authorize", data={"question": question, "subject": subject})
        assert chosen.status_code == 303
        return chosen.headers["location"]

    async def sign_in(self, subject: str = NORA, next_: str | None = None) -> tuple[httpx.AsyncClient, httpx.Response]:
        browser = self.house.client()
        back = await self.answer(await self.to_the_issuer(browser, next_), subject)
        return browser, await browser.get(back)

    async def entries(self) -> list[tuple[str, str, str]]:
        return [(e.entry.action, e.entry.outcome, e.entry.detail) for e in await self.house.audit()]


class Switch(httpx.AsyncBaseTransport):
    """The way to the issuer, which may be cut."""

    def __init__(self, inner: httpx.AsyncBaseTransport) -> None:
        self.inner = inner
        self.is_cut = False
        self.requests: list[str] = []

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request.url.path)
        if self.is_cut:
            raise httpx.ConnectError("cut", request=request)
        return await self.inner.handle_async_request(request)


@pytest.fixture
async def entrance(
    seeded_url: str,
    clinic_settings: Any,
    wards: Any,
    seeded_readers: Any,
    templates: Any,
    guarded: Any,
    live: Any,
    tmp_path: Any,
) -> AsyncIterator[Entrance]:
    clock = ManualClock(NOW_US)
    settings = clinic_settings.model_copy(update={"mode": "demo", "oidc_issuer": ISSUER})
    late: dict[str, Any] = {}

    class ToTheClinic(httpx.AsyncBaseTransport):
        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            return await httpx.ASGITransport(late["app"]).handle_async_request(request)

    async with httpx.AsyncClient(transport=ToTheClinic()) as to_clinic:
        people = Client(
            client_id="vigil", name="Vigil", grants=frozenset({"authorization_code", "refresh_token"}),
            scopes=frozenset({"openid", "profile", "roles", "offline_access"}),
            redirect_uris=(f"{CLINIC}/auth/callback",), post_logout_redirect_uris=(f"{CLINIC}/auth/signed-out",),
            back_channel_logout_uri=f"{CLINIC}/auth/backchannel-logout",
        )  # fmt: skip
        system = Client(
            client_id="demo-ehr", name="EHR", grants=frozenset({"client_credentials"}),
            scopes=frozenset({"system/*.rs"}), secret="s" * 40,
        )  # fmt: skip
        (tmp_path / "issuer").mkdir(mode=0o700)
        issuer = Issuer(
            Plan(issuer=ISSUER, audience="urn:vigil:api", clients=(people, system), key=IssuerKey(tmp_path / "issuer"),
                 clock=clock, http=to_clinic)
        )  # fmt: skip
        switch = Switch(httpx.ASGITransport(issuer.application()))
        async with (
            httpx.AsyncClient(transport=switch, base_url=ISSUER) as http,
            httpx.AsyncClient(transport=httpx.ASGITransport(issuer.application()), base_url=ISSUER) as issuer_http,
            guarded.open_house(
                seeded_url, settings, clock, clock, live, seeded_readers, templates,
                provider=Provider(settings, http, clock), public_url=CLINIC,
            ) as house,
        ):  # fmt: skip
            late["app"] = house.app
            house.wall_clock = clock
            yield Entrance(house, issuer, issuer_http, switch)


async def test_a_person_signs_in_and_comes_to_what_they_wanted(entrance: Entrance) -> None:
    browser, back = await entrance.sign_in(next_="/me?x=1")
    assert (back.status_code, back.headers["location"]) == (303, "/me?x=1")
    cookie = next(line for line in back.headers.get_list("set-cookie") if line.startswith("vigil_session="))
    assert "HttpOnly" in cookie
    assert "SameSite=lax" in cookie
    assert "Path=/" in cookie
    me = await browser.get("/me")
    assert "Nora Lind" in me.text
    assert "nurse" in me.text
    assert (await browser.get("/auth/me")).json()["name"] == "Nora Lind"
    [event] = [event for event in await entrance.house.audit() if event.entry.action == "sign_in"]
    assert event.entry.agent == f"{ISSUER}|{NORA}"
    assert event.entry.outcome == "permitted"


async def test_each_role_starts_where_it_has_something_to_do(entrance: Entrance) -> None:
    assert (await entrance.sign_in(NORA))[1].headers["location"] == "/"
    assert (await entrance.sign_in(DANA))[1].headers["location"] == "/feeds"


async def test_the_authorization_request_is_bound_to_the_browser(entrance: Entrance) -> None:
    browser = entrance.house.client()
    begun = await browser.get("/auth/sign-in")
    asked = parse_qs(urlsplit(begun.headers["location"]).query)
    assert asked["code_challenge_method"] == ["S256"]
    assert asked["redirect_uri"] == [f"{CLINIC}/auth/callback"]
    assert len(asked["state"][0]) >= 43
    assert len(asked["nonce"][0]) >= 43
    cookie = begun.headers["set-cookie"]
    assert "HttpOnly" in cookie
    for secret in (asked["state"][0], asked["nonce"][0]):
        assert secret not in cookie


async def test_an_answer_in_another_browser_opens_nothing(entrance: Entrance) -> None:
    victim, thief = entrance.house.client(), entrance.house.client()
    back = await entrance.answer(await entrance.to_the_issuer(thief))
    refused = await victim.get(back)  # a link the thief sent: the victim would work in the thief's name
    assert refused.status_code == 401
    assert "did not work" in refused.text
    assert "vigil_session" not in victim.cookies
    assert [(action, outcome) for action, outcome, _ in await entrance.entries()] == [("sign_in", "failed")]


@pytest.mark.parametrize(
    "change",
    [{"state": "x"}, {"state": ""}, {"code": "x"}, {"iss": "http://127.0.0.1:9999"}, {"error": "access_denied"}],
)
async def test_a_forged_answer_opens_nothing_and_says_nothing(entrance: Entrance, change: dict[str, str]) -> None:
    browser = entrance.house.client()
    back = urlsplit(await entrance.answer(await entrance.to_the_issuer(browser)))
    query = {name: values[0] for name, values in parse_qs(back.query).items()} | change
    refused = await browser.get(f"{back.path}?{urlencode(query)}")
    assert refused.status_code == 401
    assert "vigil_session" not in browser.cookies
    for said in (*change.values(), query["code"], "mix-up", "nonce"):
        assert not said or len(said) < 3 or said not in refused.text
    assert [(action, outcome) for action, outcome, _ in await entrance.entries()] == [("sign_in", "failed")]


async def test_a_code_works_once(entrance: Entrance) -> None:
    browser = entrance.house.client()
    back = await entrance.answer(await entrance.to_the_issuer(browser))
    pending = dict(browser.cookies)
    assert (await browser.get(back)).status_code == 303
    again = entrance.house.client(cookies=pending)
    assert (await again.get(back)).status_code == 401


async def test_a_sign_in_that_took_too_long_is_begun_anew(entrance: Entrance) -> None:
    browser = entrance.house.client()
    back = await entrance.answer(await entrance.to_the_issuer(browser))
    entrance.house.wall_clock.advance(601)
    assert (await browser.get(back)).status_code == 401


async def test_a_sign_in_gives_a_new_secret_and_ends_the_old_one(entrance: Entrance) -> None:
    browser, _ = await entrance.sign_in()
    before = browser.cookies["vigil_session"]
    back = await entrance.answer(await entrance.to_the_issuer(browser), DANA)
    assert (await browser.get(back)).status_code == 303
    assert browser.cookies["vigil_session"] != before
    thief = entrance.house.client(cookies={"vigil_session": before})
    assert (await thief.get("/me")).status_code == 401


async def test_a_planted_cookie_is_never_taken_over(entrance: Entrance) -> None:
    browser = entrance.house.client(cookies={"vigil_session": "ab" * 32})
    back = await entrance.answer(await entrance.to_the_issuer(browser))
    answer = await browser.get(back)
    assert f"vigil_session={'ab' * 32}" not in answer.headers["set-cookie"]
    assert (await entrance.house.client(cookies={"vigil_session": "ab" * 32}).get("/me")).status_code == 401


async def test_signing_out_ends_it_here_and_leads_to_the_provider(entrance: Entrance) -> None:
    browser, _ = await entrance.sign_in()
    page = (await browser.get("/me")).text
    csrf = re.findall(r'name="csrf" value="([^"]+)"', page)[0]
    held = browser.cookies["vigil_session"]
    assert (await browser.post("/auth/sign-out", data={"csrf": "forged"})).status_code == 403
    assert (await browser.get("/me")).status_code == 200  # a forged form signs nobody out
    left = await browser.post("/auth/sign-out", data={"csrf": csrf})
    assert left.status_code == 200
    assert "vigil_session" not in browser.cookies
    assert (await entrance.house.client(cookies={"vigil_session": held}).get("/me")).status_code == 401
    address = unescape(re.findall(r'<a href="([^"]+)">Go on', left.text)[0])
    assert address.startswith(f"{ISSUER}/sign-out?")
    there = await entrance.issuer_http.get(address)
    assert there.headers["location"] == f"{CLINIC}/auth/signed-out"
    landed = await browser.get(there.headers["location"])
    assert (landed.status_code, "You are signed out" in landed.text) == (401, True)
    actions = [(action, outcome) for action, outcome, _ in await entrance.entries()]
    assert actions[:2] == [("sign_in", "permitted"), ("sign_out", "permitted")]


async def test_the_provider_ends_sessions_wherever_they_are(entrance: Entrance) -> None:
    first, _ = await entrance.sign_in()
    second, _ = await entrance.sign_in()
    overview = (await entrance.issuer_http.get("/")).text
    sid = re.findall(r'name="sid" value="([^"]+)"', overview)[0]
    await entrance.issuer_http.post("/sessions/end", data={"sid": sid})
    alive = [(await browser.get("/me")).status_code for browser in (first, second)]
    assert sorted(alive) == [200, 401]
    last = (await entrance.house.audit())[-1].entry
    assert (last.action, last.outcome) == ("sign_out", "permitted")
    assert '"by":"provider"' in last.detail


@pytest.mark.parametrize("body", [{"logout_token": "a.b.c"}, {"logout_token": "x" * 20_000}, {"other": "1"}])
async def test_a_forged_logout_message_ends_nothing(entrance: Entrance, body: dict[str, str]) -> None:
    browser, _ = await entrance.sign_in()
    answer = await entrance.house.client().post("/auth/backchannel-logout", data=body)
    assert answer.status_code == 400
    assert answer.headers["cache-control"] == "no-store"
    assert (await browser.get("/me")).status_code == 200


async def test_a_session_that_does_nothing_ends_and_one_that_goes_on_does_not(entrance: Entrance) -> None:
    idle, _ = await entrance.sign_in()
    busy, _ = await entrance.sign_in()
    for _ in range(4):
        entrance.house.wall_clock.advance(300)
        assert (await busy.get("/auth/me")).status_code == 200
    assert (await idle.get("/me")).status_code == 401


async def test_a_session_ends_after_its_longest_time_whatever_happens(entrance: Entrance) -> None:
    browser, _ = await entrance.sign_in()
    for _ in range(12 * 6 - 1):
        entrance.house.wall_clock.advance(600)
        assert (await browser.get("/auth/me")).status_code == 200
    entrance.house.wall_clock.advance(600)
    assert (await browser.get("/auth/me")).status_code == 401


async def test_the_provider_is_asked_again_and_its_refusal_ends_the_session(entrance: Entrance) -> None:
    browser, _ = await entrance.sign_in()
    asked = entrance.switch.requests.count("/token")
    entrance.house.wall_clock.advance(600)
    assert (await browser.get("/me")).status_code == 200
    assert entrance.switch.requests.count("/token") == asked + 1
    assert (await browser.get("/me")).status_code == 200
    assert entrance.switch.requests.count("/token") == asked + 1  # once, not at every click
    sid = re.findall(r'name="sid" value="([^"]+)"', (await entrance.issuer_http.get("/")).text)[0]
    entrance.issuer._grants.end(sid)  # ended there, and nobody told us
    entrance.house.wall_clock.advance(600)
    assert (await browser.get("/me")).status_code == 401
    last = (await entrance.house.audit())[-1].entry
    assert (last.action, last.outcome, last.agent) == ("sign_in", "failed", f"{ISSUER}|{NORA}")


async def test_without_the_provider_who_is_signed_in_goes_on_and_nobody_comes_in(entrance: Entrance) -> None:
    browser, _ = await entrance.sign_in()
    entrance.switch.is_cut = True
    entrance.house.wall_clock.advance(600)
    assert (await browser.get("/me")).status_code == 200
    entrance.switch.is_cut = False
    other = entrance.house.client()
    back = await entrance.answer(await entrance.to_the_issuer(other))
    entrance.switch.is_cut = True
    refused = await other.get(back)
    assert refused.status_code == 503
    assert "Nobody can sign in now" in refused.text
    assert "ConnectError" not in refused.text


async def test_another_system_signs_in_with_its_own_token(entrance: Entrance) -> None:
    answer = await entrance.issuer_http.post(
        "/token", data={"grant_type": "client_credentials"}, auth=("demo-ehr", "s" * 40)
    )
    token = answer.json()["access_token"]
    system = entrance.house.client(headers={"authorization": f"Bearer {token}"})
    assert (await system.get("/fhir/metadata")).status_code == 200
    assert (await system.get("/fhir/Patient/7")).status_code == 200
    assert (await system.get("/patients/8")).status_code == 404
    assert "vigil_session" not in system.cookies


async def test_an_id_token_or_a_logout_token_is_no_bearer_token(entrance: Entrance) -> None:
    browser, _ = await entrance.sign_in()
    sessions = entrance.house.access.identity.sessions
    session = await sessions.find(browser.cookies["vigil_session"])
    tokens = await sessions.tokens(session)
    client = entrance.house.client(headers={"authorization": f"Bearer {tokens.id_token}"})
    assert (await client.get("/api/ward")).status_code == 401


async def test_the_sessions_table_alone_opens_nothing(entrance: Entrance) -> None:
    browser, _ = await entrance.sign_in()
    cookie = browser.cookies["vigil_session"]
    session = await entrance.house.access.identity.sessions.find(cookie)
    tokens = await entrance.house.access.identity.sessions.tokens(session)
    async with entrance.house.pool.reading() as connection:
        cursor = await connection.execute("select * from web_session")
        [row] = await cursor.fetchall()
    kept = b"|".join(value if isinstance(value, bytes) else str(value).encode() for value in row)
    for secret in (cookie.encode(), bytes.fromhex(cookie), tokens.id_token.encode(), tokens.refresh_token.encode()):
        assert secret not in kept
    assert tokens.refresh_token
    thief = entrance.house.client(cookies={"vigil_session": row[0].hex()})
    assert (await thief.get("/me")).status_code == 401
    await entrance.house.execute("update web_session set tokens = tokens || '\\x00'")
    assert await entrance.house.access.identity.sessions.tokens(session) is None  # edited: no token at all


async def test_a_sign_in_that_cannot_be_audited_opens_no_session(entrance: Entrance) -> None:
    browser = entrance.house.client(raises=False)
    back = await entrance.answer(await entrance.to_the_issuer(browser))
    await entrance.house.execute("alter table audit_event rename to audit_away")
    assert (await browser.get(back)).status_code >= 500
    assert "vigil_session" not in browser.cookies
    async with entrance.house.pool.reading() as connection:
        cursor = await connection.execute("select count(*) from web_session")
        assert await cursor.fetchone() == (0,)


async def test_a_browser_that_came_by_another_name_is_led_to_ours_first(entrance: Entrance) -> None:
    browser = entrance.house.client()
    led = await browser.get("/auth/sign-in?next=%2Fme", headers={"host": "127.0.0.1:1"})
    assert led.headers["location"] == f"{CLINIC}/auth/sign-in?next=%2Fme"


async def test_without_a_provider_the_page_says_who_must_do_what(house: Any) -> None:
    for path in ("/auth/sign-in", "/auth/callback"):
        answer = await house.client().get(path)
        assert answer.status_code == 503
        assert "VIGIL_OIDC_ISSUER" in answer.text


async def test_a_session_shows_no_secret_when_it_is_printed(house: Any) -> None:
    session = await house.session("nurse")
    for said in (repr(session), str(session), repr(SessionTokens("id", "refresh"))):
        assert session.cookie not in said
        assert "refresh" not in said


@pytest.mark.parametrize("cookie", ["", "x", "ab" * 31, "ab" * 33, "zz" * 32, "ab" * 32 + " "])
def test_what_is_no_secret_of_ours_is_never_looked_up(cookie: str) -> None:
    assert secret_of(cookie) is None
