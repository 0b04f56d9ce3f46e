"""The development issuer: anybody may be anybody, but only in a demonstration, and only as the standards say."""

from __future__ import annotations

import base64
import hashlib
import http.server
import json
import os
import re
import shutil
import signal
import stat
import subprocess
import sys
import threading
import time
from urllib.parse import parse_qsl, urlencode, urlsplit

import httpx
import pytest
from joserfc import jwt
from joserfc.jwk import ECKey, KeySet

from hospital.__main__ import main
from hospital.issuer.app import Issuer, Plan
from hospital.issuer.clients import Client, is_registered
from hospital.issuer.keys import IssuerKey, client_key, client_secret
from hospital.issuer.people import PEOPLE
from hospital.ward import WARDS
from vocabulary.clock import ManualClock
from vocabulary.errors import ConfigurationError

ISSUER = "http://127.0.0.1:18123"
BACK = "http://127.0.0.1:18124/auth/callback"
AFTER = "http://127.0.0.1:18124/"
TOLD_AT = "http://127.0.0.1:18124/auth/back-channel"
VERIFIER = "v" * 43
CHALLENGE = base64.urlsafe_b64encode(hashlib.sha256(VERIFIER.encode()).digest()).rstrip(b"=").decode()
NORA, PAVEL = PEOPLE[0].subject, PEOPLE[1].subject
NOW_S = 1_795_000_000


class House:
    """An issuer in memory, a browser at it, and the client's end of the back channel."""

    def __init__(self, folder):
        self.clock = ManualClock(NOW_S * 1_000_000)
        self.told: list[tuple[str, str]] = []
        self.key = client_key(folder, "demo-ehr")
        self.secret = client_secret(folder, "demo-ehr")
        people = Client(
            client_id="vigil", name="Vigil", grants=frozenset({"authorization_code", "refresh_token"}),
            scopes=frozenset({"openid", "profile", "roles", "offline_access"}), redirect_uris=(BACK,),
            post_logout_redirect_uris=(AFTER,), back_channel_logout_uri=TOLD_AT,
        )  # fmt: skip
        system = Client(
            client_id="demo-ehr", name="EHR", grants=frozenset({"client_credentials"}),
            scopes=frozenset({"system/*.rs"}), secret=self.secret, key=self.key,
        )  # fmt: skip
        plan = Plan(
            issuer=ISSUER, audience="urn:vigil:api", clients=(people, system), key=IssuerKey(folder),
            clock=self.clock, http=httpx.AsyncClient(transport=httpx.MockTransport(self.tell)),
        )  # fmt: skip
        self.app = Issuer(plan).application()
        self.http = httpx.AsyncClient(transport=httpx.ASGITransport(self.app), base_url=ISSUER)

    async def tell(self, request):
        self.told.append((str(request.url), dict(parse_qsl(request.content.decode()))["logout_token"]))
        return httpx.Response(200)

    @staticmethod
    def question(**changes):
        base = {
            "client_id": "vigil", "redirect_uri": BACK, "response_type": "code", "state": "st", "nonce": "no",
            "scope": "openid profile roles offline_access", "code_challenge": CHALLENGE,
            "code_challenge_method": "S256",
        }  # fmt: skip
        return {name: value for name, value in (base | changes).items() if value is not None}

    async def choose(self, subject=NORA, **changes):
        page = await self.http.get("/authorize", params=self.question(**changes))
        assert page.status_code == 200, page.text
        name = re.search(r'name="question" value="([^"]+)"', page.text)[1]
        return await self.http.post("/authorize", data={"question": name, "subject": subject})

    async def code(self, subject=NORA, **changes):
        answer = await self.choose(subject, **changes)
        assert answer.status_code == 303
        return dict(parse_qsl(urlsplit(answer.headers["location"]).query))["code"]

    async def token(self, auth=None, **form):
        return await self.http.post("/token", data={n: v for n, v in form.items() if v is not None}, auth=auth)

    async def redeem(self, a_code, **changes):
        form = {
            "grant_type": "authorization_code", "code": a_code, "redirect_uri": BACK, "client_id": "vigil",
            "code_verifier": VERIFIER,
        }  # fmt: skip
        return await self.token(**(form | changes))

    async def signed_in(self, subject=NORA):
        answer = await self.redeem(await self.code(subject))
        assert answer.status_code == 200, answer.text
        return answer.json()

    async def refresh(self, token):
        return await self.token(grant_type="refresh_token", refresh_token=token, client_id="vigil")

    async def claims(self, token, kind):
        keys = KeySet.import_key_set((await self.http.get("/keys")).json())
        found = jwt.decode(token, keys, algorithms=["RS256"])
        assert found.header["typ"] == kind
        return found.claims


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("issuer")


@pytest.fixture
async def house(folder):
    made = House(folder)
    yield made
    await made.http.aclose()


def error_of(answer):
    assert answer.headers["cache-control"] == "no-store"
    return answer.status_code, answer.json()["error"]


# The people


def test_eight_people_have_the_roles_of_the_platform_and_invented_subjects():
    assert {person.name: person.roles for person in PEOPLE} == {
        "Nora Lind": ("nurse",), "Pavel Novak": ("physician",), "Chidi Okafor": ("charge_nurse",),
        "Dana Weiss": ("data_engineer",), "Lena Fischer": ("clinical_lead",), "Sami Aalto": ("safety_officer",),
        "Petra Klein": ("data_protection_officer",), "Mira Haddad": ("model_author",),
    }  # fmt: skip
    assert len({person.subject for person in PEOPLE}) == len(PEOPLE)
    assert WARDS[0] in PEOPLE[0].units
    assert PEOPLE[0].units == PEOPLE[2].units
    assert [person.practitioner for person in PEOPLE if person.practitioner] == ["P-NOVAK"]


# Signing in


async def test_the_page_lists_everybody_and_says_what_it_is(house):
    page = await house.http.get("/authorize", params=house.question(login_hint=PAVEL))
    for person in PEOPLE:
        assert person.name in page.text
        assert f'value="{person.subject}"' in page.text
    assert "Demonstration: anybody may be anybody." in page.text
    assert page.text.count("autofocus") == 1
    assert "<script" not in page.text
    policy = page.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; style-src 'self'")
    assert policy.endswith("form-action 'self' http://127.0.0.1:18124")
    assert (await house.http.get("/style.css")).headers["content-type"].startswith("text/css")


async def test_a_click_goes_back_with_a_code_the_state_and_who_we_are(house):
    answer = await house.choose()
    assert answer.headers["location"].startswith(BACK + "?")
    back = dict(parse_qsl(urlsplit(answer.headers["location"]).query))
    assert (back["state"], back["iss"]) == ("st", ISSUER)
    tokens = (await house.redeem(back["code"])).json()
    told = await house.claims(tokens["id_token"], "JWT")
    assert (told["iss"], told["aud"], told["sub"], told["nonce"]) == (ISSUER, "vigil", NORA, "no")
    assert (told["name"], told["roles"], told["units"]) == ("Nora Lind", ["nurse"], [WARDS[0], "MICU"])
    assert (told["iat"], told["exp"], told["auth_time"]) == (NOW_S, NOW_S + 300, NOW_S)
    access = await house.claims(tokens["access_token"], "at+jwt")
    assert (access["aud"], access["sub"], access["client_id"]) == ("urn:vigil:api", NORA, "vigil")
    digest = hashlib.sha256(tokens["access_token"].encode()).digest()[:16]
    assert told["at_hash"] == base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
    assert tokens["expires_in"] == 300


async def test_scopes_limit_what_is_told(house):
    answer = await house.redeem(await house.code(scope="openid admin"))
    tokens = answer.json()
    assert "refresh_token" not in tokens
    told = await house.claims(tokens["id_token"], "JWT")
    assert not {"name", "roles", "units"} & told.keys()
    assert tokens["scope"] == "openid"


@pytest.mark.parametrize(
    "changes",
    [
        {"client_id": "other"}, {"client_id": None}, {"redirect_uri": "http://127.0.0.1:18124/other"},
        {"redirect_uri": "https://evil.example.org/auth/callback"}, {"redirect_uri": None},
        {"redirect_uri": BACK + "/../x"}, {"client_id": "demo-ehr"},
    ],
    ids=str,
)  # fmt: skip
async def test_an_unknown_program_or_address_is_never_redirected_to(house, changes):
    answer = await house.http.get("/authorize", params=house.question(**changes))
    assert answer.status_code == 400
    assert "location" not in answer.headers


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"code_challenge": None}, "invalid_request"),
        ({"code_challenge_method": "plain"}, "invalid_request"),
        ({"code_challenge_method": None}, "invalid_request"),
        ({"code_challenge": "short"}, "invalid_request"),
        ({"response_type": "token"}, "unsupported_response_type"),
        ({"response_type": "code id_token"}, "unsupported_response_type"),
        ({"response_mode": "fragment"}, "unsupported_response_type"),
        ({"scope": "profile"}, "invalid_scope"),
        ({"prompt": "none"}, "login_required"),
        ({"request": "eyJ"}, "invalid_request"),
    ],
    ids=str,
)
async def test_a_faulty_question_goes_back_with_its_error(house, changes, error):
    answer = await house.http.get("/authorize", params=house.question(**changes))
    assert answer.status_code == 303
    back = dict(parse_qsl(urlsplit(answer.headers["location"]).query))
    assert back == {"error": error, "state": "st", "iss": ISSUER}


async def test_a_parameter_given_twice_is_refused(house):
    query = urlencode([*house.question().items(), ("nonce", "second")])
    answer = await house.http.get(f"/authorize?{query}")
    assert "error=invalid_request" in answer.headers["location"]


async def test_a_question_is_answered_once_in_time_and_by_somebody_who_exists(house):
    page = await house.http.get("/authorize", params=house.question())
    name = re.search(r'name="question" value="([^"]+)"', page.text)[1]
    for form in ({"question": name, "subject": "nobody"}, {"question": "x", "subject": NORA}, {}):
        assert (await house.http.post("/authorize", data=form or {"a": "b"})).status_code == 400
    assert (await house.http.post("/authorize", data={"question": name, "subject": NORA})).status_code == 303
    assert (await house.http.post("/authorize", data={"question": name, "subject": NORA})).status_code == 400
    page = await house.http.get("/authorize", params=house.question())
    name = re.search(r'name="question" value="([^"]+)"', page.text)[1]
    house.clock.advance(601)
    assert (await house.http.post("/authorize", data={"question": name, "subject": NORA})).status_code == 400


@pytest.mark.parametrize(
    "changes",
    [
        {"code_verifier": "w" * 43}, {"code_verifier": None}, {"redirect_uri": BACK + "x"}, {"redirect_uri": None},
        {"code": "unknown"}, {"code": None},
    ],
    ids=str,
)  # fmt: skip
async def test_a_code_needs_its_verifier_and_its_address(house, changes):
    assert error_of(await house.redeem(await house.code(), **changes)) == (400, "invalid_grant")


async def test_a_code_lives_a_minute(house):
    code = await house.code()
    house.clock.advance(59)
    assert (await house.redeem(code)).status_code == 200
    code = await house.code()
    house.clock.advance(60)
    assert error_of(await house.redeem(code)) == (400, "invalid_grant")


async def test_a_code_used_twice_takes_everything_back(house):
    code = await house.code()
    tokens = (await house.redeem(code)).json()
    assert error_of(await house.redeem(code)) == (400, "invalid_grant")
    assert error_of(await house.refresh(tokens["refresh_token"])) == (400, "invalid_grant")
    bearer = {"authorization": f"Bearer {tokens['access_token']}"}
    assert (await house.http.get("/userinfo", headers=bearer)).status_code == 401


# Staying


async def test_refresh_tokens_rotate_and_a_spent_one_ends_the_session(house):
    first = await house.signed_in()
    second = (await house.refresh(first["refresh_token"])).json()
    told = await house.claims(second["id_token"], "JWT")
    assert told["sid"] == (await house.claims(first["id_token"], "JWT"))["sid"]
    assert "nonce" not in told
    assert error_of(await house.refresh(first["refresh_token"])) == (400, "invalid_grant")
    assert error_of(await house.refresh(second["refresh_token"])) == (400, "invalid_grant")


async def test_a_guessed_refresh_token_does_not_end_a_session(house):
    tokens = await house.signed_in()
    sid = tokens["refresh_token"].partition(".")[0]
    assert error_of(await house.refresh(f"{sid}.guess")) == (400, "invalid_grant")
    assert (await house.refresh(tokens["refresh_token"])).status_code == 200


async def test_a_session_lasts_twelve_hours(house):
    tokens = await house.signed_in()
    house.clock.advance(12 * 3600)
    assert error_of(await house.refresh(tokens["refresh_token"])) == (400, "invalid_grant")


async def test_userinfo_tells_the_same_and_nothing_to_strangers(house):
    tokens = await house.signed_in(PAVEL)
    bearer = {"authorization": f"Bearer {tokens['access_token']}"}
    assert (await house.http.get("/userinfo", headers=bearer)).json() == {
        "sub": PAVEL, "name": "Pavel Novak", "roles": ["physician"], "units": [], "practitioner": "P-NOVAK",
    }  # fmt: skip
    for wrong in ({}, {"authorization": "Bearer x"}, {"authorization": f"Bearer {tokens['id_token']}"}):
        answer = await house.http.get("/userinfo", headers=wrong)
        assert (answer.status_code, answer.content) == (401, b"")
    house.clock.advance(300)
    assert (await house.http.get("/userinfo", headers=bearer)).status_code == 401


# Leaving


async def test_signing_out_tells_the_client_and_comes_back(house):
    tokens = await house.signed_in()
    sid = (await house.claims(tokens["id_token"], "JWT"))["sid"]
    house.clock.advance(4000)  # an old id_token is still a hint
    asked = {"id_token_hint": tokens["id_token"], "post_logout_redirect_uri": AFTER, "state": "bye"}
    answer = await house.http.get("/sign-out", params=asked)
    assert (answer.status_code, answer.headers["location"]) == (303, f"{AFTER}?state=bye")
    [(address, token)] = house.told
    told = await house.claims(token, "logout+jwt")
    assert address == TOLD_AT
    assert (told["sid"], told["sub"], told["aud"]) == (sid, NORA, "vigil")
    assert told["events"] == {"http://schemas.openid.net/event/backchannel-logout": {}}
    assert "nonce" not in told
    assert error_of(await house.refresh(tokens["refresh_token"])) == (400, "invalid_grant")


async def test_signing_out_goes_nowhere_that_is_not_registered(house):
    tokens = await house.signed_in()
    asked = {"id_token_hint": tokens["id_token"], "post_logout_redirect_uri": "https://evil.example.org/"}
    answer = await house.http.post("/sign-out", data=asked)
    assert (answer.status_code, len(house.told)) == (200, 1)
    assert "location" not in answer.headers


async def test_signing_out_without_a_hint_of_ours_ends_nothing(house):
    tokens = await house.signed_in()
    for hint in ("", "x", tokens["access_token"], ECKey.generate_key("P-256").thumbprint()):
        answer = await house.http.get("/sign-out", params={"id_token_hint": hint, "post_logout_redirect_uri": AFTER})
        assert answer.status_code == 400
    answer = await house.http.get("/sign-out", params={"id_token_hint": tokens["id_token"], "client_id": "demo-ehr"})
    assert answer.status_code == 400
    assert house.told == []
    assert (await house.refresh(tokens["refresh_token"])).status_code == 200


async def test_the_issuer_can_end_a_session_by_itself(house):
    tokens = await house.signed_in()
    page = await house.http.get("/")
    assert "Nora Lind" in page.text
    sid = re.search(r'name="sid" value="([^"]+)"', page.text)[1]
    assert (await house.http.post("/sessions/end", data={"sid": "guess"})).status_code == 303
    assert house.told == []
    assert (await house.http.post("/sessions/end", data={"sid": sid})).status_code == 303
    assert len(house.told) == 1
    assert "Nobody is signed in." in (await house.http.get("/")).text
    assert error_of(await house.refresh(tokens["refresh_token"])) == (400, "invalid_grant")


# Systems


def assertion(house, key=None, alg="ES256", **changes):
    claims = {
        "iss": "demo-ehr", "sub": "demo-ehr", "aud": ISSUER, "jti": os.urandom(8).hex(), "iat": NOW_S,
        "exp": NOW_S + 60,
    }  # fmt: skip
    claims = {name: value for name, value in (claims | changes).items() if value is not ...}
    return {
        "grant_type": "client_credentials", "client_id": "demo-ehr",
        "client_assertion_type": "urn:ietf:params:oauth:client-assertion-type:jwt-bearer",
        "client_assertion": jwt.encode({"alg": alg}, claims, key or house.key, algorithms=[alg]),
    }  # fmt: skip


async def test_a_system_proves_itself_by_secret_or_key_and_is_itself(house):
    by_secret = await house.token(("demo-ehr", house.secret), grant_type="client_credentials", scope="system/*.rs")
    by_key = await house.token(**assertion(house, aud=f"{ISSUER}/token"))
    for answer in (by_secret, by_key):
        told = await house.claims(answer.json()["access_token"], "at+jwt")
        assert (told["sub"], told["client_id"], told["aud"]) == ("demo-ehr", "demo-ehr", "urn:vigil:api")
        assert "roles" not in told
        assert not {"refresh_token", "id_token"} & answer.json().keys()


@pytest.mark.parametrize(
    "changes",
    [
        {"iss": "vigil"}, {"sub": "vigil"}, {"aud": "https://other.example.org"}, {"aud": [ISSUER]}, {"exp": ...},
        {"exp": NOW_S - 31}, {"exp": NOW_S + 3600}, {"exp": True}, {"exp": "soon"}, {"jti": ...}, {"jti": 7},
    ],
    ids=str,
)  # fmt: skip
async def test_a_faulty_assertion_proves_nothing(house, changes):
    assert error_of(await house.token(**assertion(house, **changes))) == (401, "invalid_client")


async def test_an_assertion_works_once_by_its_own_key(house):
    form = assertion(house)
    assert (await house.token(**form)).status_code == 200
    assert error_of(await house.token(**form)) == (401, "invalid_client")
    foreign = assertion(house, key=ECKey.generate_key("P-256"))
    assert error_of(await house.token(**foreign)) == (401, "invalid_client")
    unsigned = assertion(house) | {"client_assertion": "eyJhbGciOiJub25lIn0.e30."}
    assert error_of(await house.token(**unsigned)) == (401, "invalid_client")


async def test_who_is_not_the_system_gets_nothing(house):
    cc = {"grant_type": "client_credentials"}
    for auth in (("demo-ehr", "wrong"), ("demo-ehr", ""), ("vigil", ""), ("nobody", house.secret)):
        assert error_of(await house.token(auth, **cc)) == (401, "invalid_client")
    assert error_of(await house.token(client_id="demo-ehr", **cc)) == (401, "invalid_client")
    assert error_of(await house.token(client_id="demo-ehr", client_secret=house.secret, **cc)) == (
        401,
        "invalid_client",
    )
    both = assertion(house)
    assert error_of(await house.token(("demo-ehr", house.secret), **both)) == (401, "invalid_client")
    assert error_of(await house.token(("demo-ehr", house.secret), client_id="vigil", **cc)) == (401, "invalid_client")


async def test_each_client_has_only_its_own_grants_and_scopes(house):
    auth = ("demo-ehr", house.secret)
    assert error_of(await house.token(grant_type="client_credentials", client_id="vigil")) == (
        400,
        "unauthorized_client",
    )
    assert error_of(await house.token(auth, grant_type="authorization_code", code="x")) == (400, "unauthorized_client")
    assert error_of(await house.token(auth, grant_type="password")) == (400, "unsupported_grant_type")
    assert error_of(await house.token(auth, grant_type="client_credentials", scope="openid")) == (400, "invalid_scope")


# The wire


async def test_discovery_says_what_it_is_and_only_what_is_true(house):
    told = (await house.http.get("/.well-known/openid-configuration")).json()
    assert told["vigil_development_issuer"] is True
    assert told["issuer"] == ISSUER
    for name, value in told.items():
        if name.endswith(("_endpoint", "_uri")):
            path = urlsplit(value).path
            assert (await house.http.get(path)).status_code in {200, 400, 401, 405}
    keys = (await house.http.get("/keys")).json()["keys"]
    assert [set(key) for key in keys] == [{"kty", "n", "e", "kid", "alg", "use"}]


@pytest.mark.parametrize("host", ["evil.example.org", "127.0.0.1", "127.0.0.1:1", "localhost:18123", ""])
async def test_a_request_for_another_host_is_not_answered(house, host):
    answer = await house.http.get("/keys", headers={"host": host})
    assert answer.status_code == 421


async def test_a_form_that_is_none_too_large_or_twice_said_is_refused(house):
    kind = {"content-type": "application/x-www-form-urlencoded"}
    bodies = [
        b"a=" + b"x" * 40_000,
        b"grant_type=a&grant_type=b",
        b"a=%ff%fe",
        b"&".join(b"a%d=1" % n for n in range(99)),
    ]
    for body in bodies:
        answer = await house.http.post("/token", content=body, headers=kind)
        assert error_of(answer) == (400, "invalid_request")
        assert (await house.http.post("/authorize", content=body, headers=kind)).status_code in {400, 413}
    answer = await house.http.post("/token", json={"grant_type": "client_credentials"})
    assert error_of(answer) == (400, "invalid_request")


@pytest.mark.parametrize(
    ("uri", "is_known"),
    [
        ("http://127.0.0.1:9/cb", True), ("http://127.0.0.1/cb", True), ("http://[::1]:8/six", True),
        ("https://vigil.example.org/cb", True), ("https://vigil.example.org:443/cb", False),
        ("http://127.0.0.1:9/other", False), ("http://127.0.0.1:9/cb?x=1", False), ("http://127.0.0.1:9/cb#f", False),
        ("http://user@127.0.0.1:9/cb", False), ("http://127.0.0.1.evil.example.org:9/cb", False),
        ("http://evil.example.org:9/cb", False), ("https://127.0.0.1:9/cb", False), ("http://127.0.0.1:x/cb", False),
        ("http://127.0.0.2:9/cb", False), ("", False), ("http://[::1/cb", False),
    ],
)  # fmt: skip
def test_only_a_loopback_address_may_come_from_any_port(uri, is_known):
    registered = ("http://127.0.0.1/cb", "http://[::1]/six", "https://vigil.example.org/cb")
    assert is_registered(uri, registered) is is_known


# The process


@pytest.mark.parametrize(
    "arguments",
    [[], ["--demo", "--host", "0.0.0.0"], ["--demo", "--host", "192.168.1.4"], ["--demo", "--host", "example.org"]],
    ids=str,
)
def test_it_does_not_start_outside_of_a_demonstration_on_this_machine(tmp_path, capsys, monkeypatch, arguments):
    monkeypatch.setenv("VIGIL_MODE", "production")
    assert main(["issuer", "--folder", str(tmp_path / "keys"), *arguments]) == 2
    assert "Configuration: " in capsys.readouterr().err
    assert not (tmp_path / "keys").exists()


def test_an_unusable_folder_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigurationError, match="cannot be used"):
        IssuerKey(tmp_path / "file")


def test_keys_are_the_owners_alone_and_stay_the_same(tmp_path):
    folder = tmp_path / "new"
    first = IssuerKey(folder).published(), client_secret(folder, "c"), client_key(folder, "c").thumbprint()
    again = IssuerKey(folder).published(), client_secret(folder, "c"), client_key(folder, "c").thumbprint()
    assert first == again
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o600}


@pytest.fixture
def running(tmp_path):
    command = [
        sys.executable, "-m", "hospital", "issuer", "--folder", str(tmp_path / "keys"),
        "--health", str(tmp_path / "run"), "--redirect", "http://127.0.0.1/auth/callback",
    ]  # fmt: skip
    with (tmp_path / "log").open("wb") as log:
        child = subprocess.Popen(command, stderr=log, env=os.environ | {"VIGIL_MODE": "demo"})
    health = tmp_path / "run" / "issuer.json"
    try:
        until = time.monotonic() + 20
        while not health.exists() or not json.loads(health.read_text())["is_ready"]:
            assert child.poll() is None, (tmp_path / "log").read_text()
            assert time.monotonic() < until
            time.sleep(0.05)
        yield child, json.loads(health.read_text()), tmp_path
    finally:
        child.kill()
        child.wait()


@pytest.fixture
def client_port():
    """Where the browser comes back to: answers every page with nothing."""

    class Client(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Client)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    yield server.server_address[1]
    server.shutdown()
    thread.join()
    server.server_close()


def test_the_process_says_that_it_lives_and_stops_when_told(running):
    child, health, folder = running
    assert (health["name"], health["pid"], health["is_ready"]) == ("issuer", child.pid, True)
    assert set(health) == {"name", "pid", "at_us", "address", "is_ready", "detail"}
    told = httpx.get(f"{health['address']}/.well-known/openid-configuration", trust_env=False).json()
    assert told["issuer"] == health["address"]
    child.send_signal(signal.SIGTERM)
    assert child.wait(10) == 0
    lines = [json.loads(line) for line in (folder / "log").read_text().splitlines()]
    assert {"event": "ready", "address": health["address"]}.items() <= lines[0].items()
    secret = (folder / "keys" / "demo-ehr.secret").read_text()
    assert secret not in (folder / "log").read_text()


# playwright's driver leaves its pipe to the garbage collector when the browser closes.
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.skipif(shutil.which("chromium") is None, reason="chromium is not installed")
def test_a_browser_signs_in_with_one_click_by_keyboard_too(running, client_port):
    from playwright.sync_api import sync_playwright

    _, health, _ = running
    back = f"http://127.0.0.1:{client_port}/auth/callback"
    query = urlencode(House.question(redirect_uri=back, login_hint=PAVEL))
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_page()
        said: list[str] = []
        page.on("console", lambda message: said.append(message.text))
        page.goto(f"{health['address']}/authorize?{query}")
        assert page.evaluate("getComputedStyle(document.querySelector('h1')).color") != "rgb(0, 0, 0)"  # style applied
        page.keyboard.press("Enter")  # the hinted person has the focus
        page.wait_for_url(f"{back}**")
        assert "code=" in page.url
        page.goto(f"{health['address']}/authorize?{query}")
        page.get_by_role("button", name="Nora Lind").click()
        page.wait_for_url(f"{back}**")
        browser.close()
    assert [text for text in said if "favicon" not in text] == []
