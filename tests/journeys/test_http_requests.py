"""Requests that are not as they should be: odd addresses, foreign hosts, odd credentials, forged forms, bad framing.

Here: bytes over a real socket to a clinic in which everything that decides is real.
Not here: what the description promises (test_http_conformance), tokens (test_token_attacks), the server (site_server).
Source: RFC 9110; RFC 9112 sections 3.2 and 11 (Host, request smuggling); OWASP, DNS rebinding and CSRF prevention.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import httpx
import pytest

pytestmark = pytest.mark.slow


def _site() -> ModuleType:
    """Return the module beside this one: pytest's import mode gives test folders no package."""
    known = "vigil_tests_guarded_site"
    if known not in sys.modules:
        spec = importlib.util.spec_from_file_location(known, Path(__file__).with_name("guarded_site.py"))
        assert spec is not None
        assert spec.loader is not None
        sys.modules[known] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[known])
    return sys.modules[known]


house = _site()
there = house.beside("site_server")
template, served, client = house.template, there.served, there.client
PLAIN, FAR, Served = there.PLAIN, there.FAR, there.Served
names_a_patient = there.names_a_patient
raw, request_of, also = there.raw, there.request_of, there.also

# Addresses ------------------------------------------------------------------------------------------------------------

N = PLAIN.number
ODD = (
    f"//patients/{N}", f"/patients//{N}", f"/patients/{N}/", f"/patients/{N}//", f"/./patients/{N}",
    f"/x/../patients/{N}", f"/health/../patients/{N}", f"/auth/../patients/{N}", f"/static/../patients/{N}",
    f"/health/%2e%2e/patients/{N}", f"/auth/%2e%2e/patients/{N}", f"/static/%2e%2e/patients/{N}",
    f"/auth/..%2fpatients/{N}", f"/auth/%2e%2e%2fpatients%2f{N}", f"/static/..%2fpatients%2f{N}",
    f"/auth/..;/patients/{N}", f"/patients/{N};x=1", f"/patients;x=1/{N}", f"/patients/{N}%00", f"/patients/{N}%0a",
    f"/patients/{N}%20", f"/patients/%20{N}", f"/patients/+{N}", f"/patients/{N}.json", f"/patients/{N}.html",
    f"/PATIENTS/{N}", f"/Patients/{N}", f"/patients%2f{N}", f"/patients\\{N}", f"/%70atients/{N}x",
    f"/api/patients/{N}/", f"/API/patients/{N}", f"/api//patients/{N}", f"/api/patients/{N}/snapshot/",
    f"/fhir/patient/{N}", f"/fhir/Patient/{N}/", f"/fhir/Patient/{N}/$TWIN-SNAPSHOT", f"/fhir/../api/patients/{N}",
    f"/fhir/Patient/{N}/_history", f"/streams/patients/{N}/", "/static/%2e%2e/app.py",
    "/static/..%2f..%2fpyproject.toml", "/static/", "/static", "/static/../../../../etc/passwd",
    "/static/%2e%2e/%2e%2e/%2e%2e/etc/passwd",
    "/health/", "/health/x", "/HEALTH", "/healthx", "/auth", "/auth/", "/auth/x", "/.git/config", "/docs", "/redoc",
    "/openapi.json", "/metrics", "/server-status", "/api/openapi.json/", "/%ff", "/%c0%ae%c0%ae/patients",
    "/" + "a" * 8000,
)  # fmt: skip


def test_no_spelling_of_an_address_leads_past_the_door(served: Served) -> None:
    for target in ODD:
        status, text = raw(served, request_of(target, {}))
        assert status in {400, 401, 404, 405}, (target, status)
        assert not names_a_patient(text), target
        assert "root:" not in text
        assert "[project]" not in text
        assert "build_app" not in text
    is_open = {target for target in ODD if raw(served, request_of(target, {}))[0] != 401}
    assert all(target.startswith(("/auth/", "/static/")) for target in is_open), is_open


def test_no_spelling_of_an_address_shows_a_patient_to_who_may_not_see_them(served: Served) -> None:
    far = served.headers["another's browser"]
    for target in ODD:
        status, text = raw(served, request_of(target, far))
        assert status in {400, 404, 405}, (target, status)
        assert not names_a_patient(text), target
    for target in (f"/patients/%34{str(N)[1:]}", f"/%70atients/{N}", f"/patients/{N}?x=1#y", f"/patients/0{N}"):
        allowed = raw(served, request_of(target, served.headers["browser"]))
        forbidden = raw(served, request_of(target, far))
        assert (allowed[0], forbidden[0]) in {(200, 404), (404, 404), (400, 400)}, target


# Hosts ----------------------------------------------------------------------------------------------------------------

HOSTS = (
    "evil.example", "localhost.evil.example", "evil.example:80", "localhost@evil.example", "127.0.0.1.evil.example",
    "[::1].evil.example", "localhost evil", "2130706433", "0.0.0.0", "", "localhost,evil.example", "xn--lcalhost",
)  # fmt: skip


def test_under_another_name_nobody_is_answered(served: Served) -> None:
    for host in HOSTS:
        for shown in ({}, served.headers["browser"]):
            status, text = raw(served, request_of(f"/patients/{N}", shown, host=host))
            assert status in {400, 421}, (host, status)
            assert not names_a_patient(text)
    for forged in ("x-forwarded-host", "x-host", "forwarded", "x-original-host", "x-forwarded-server"):
        shown = {**served.headers["browser"], forged: "evil.example"}
        for target in ("/fhir/metadata", f"/fhir/Observation?patient={N}", "/"):
            status, text = raw(served, request_of(target, shown))
            assert status == 200
            assert "evil.example" not in text, (forged, target)
    two = also(request_of(f"/patients/{N}", served.headers["browser"]), "Host: evil.example")
    status, text = raw(served, two)
    assert status in {400, 421}, status
    assert not names_a_patient(text)


def test_an_absolute_target_and_rewriting_headers_change_nothing(served: Served) -> None:
    for target in (f"http://evil.example/patients/{N}", f"http://localhost/patients/{N}"):
        status, text = raw(served, request_of(target, {}))
        assert status in {400, 401, 404, 421}, (target, status)
        assert not names_a_patient(text)
    for name in ("x-original-url", "x-rewrite-url", "x-forwarded-uri", "x-forwarded-path", "x-forwarded-prefix"):
        status, text = raw(served, request_of("/health", {name: f"/patients/{N}"}))
        assert (status, names_a_patient(text)) == (200, False), name
        status, _ = raw(served, request_of(f"/patients/{N}", {name: "/health"}))
        assert status == 401, name


# Headers --------------------------------------------------------------------------------------------------------------


def test_odd_credentials_are_none(served: Served) -> None:
    mine, others = served.headers["browser"], served.headers["another's browser"]
    token = served.headers["nurse"]["authorization"]
    target = f"/patients/{N}"
    assert raw(served, request_of(target, mine))[0] == 200
    twice = also(request_of(target, {"authorization": token}), f"authorization: {token}")
    odd = {
        "two tokens": twice,
        "a folded header": also(request_of(target, {}), f"authorization: Bearer\r\n {token[7:]}"),
        "a space before the colon": also(request_of(target, {}), f"authorization : {token}"),
        "a token and a bad one": twice.replace(token.encode(), b"Bearer x", 1),
        "two sessions": request_of(target, {"cookie": f"{mine['cookie']}; {others['cookie']}"}),
        "the same session twice": request_of(target, {"cookie": f"{mine['cookie']}; {mine['cookie']}"}),
        "a session in two headers": also(request_of(target, mine), f"cookie: {others['cookie']}"),
        "a session in the address": request_of(f"{target}?{mine['cookie']}", {}),
        "a session by another name": request_of(target, {"cookie": mine["cookie"].replace("vigil", "VIGIL")}),
        "half a session": request_of(target, {"cookie": mine["cookie"][:-2]}),
        "a session with a quote": request_of(target, {"cookie": mine["cookie"].replace("=", '="') + '"'}),
        "a session of zeros": request_of(target, {"cookie": "vigil_session=" + "0" * 64}),
        "a __Host- session on plain HTTP": request_of(target, {"cookie": f"__Host-{mine['cookie']}"}),
    }
    for name, request in odd.items():
        status, text = raw(served, request)
        # A folded header is read as one line by some parsers: it is then the same good token, and no other.
        assert status in {400, 401} or (name == "a folded header" and status == 200), (name, status)
        assert status != 401 or "www-authenticate: Bearer" in text, name


def test_a_form_of_one_session_is_worth_nothing_in_another(served: Served, client: httpx.Client) -> None:
    mine, others = served.headers["browser"], served.headers["another's browser"]
    form = {"identifier": FAR.mrn, "reason": "Found unresponsive in the corridor"}
    before = served.run(served.site.last_event())
    for forged in (
        {"cookie": mine["cookie"]},
        {"cookie": mine["cookie"], "x-vigil-csrf": others["x-vigil-csrf"]},
        {"cookie": mine["cookie"], "x-vigil-csrf": mine["x-vigil-csrf"][:-1]},
        {**mine, "origin": "https://evil.example"},
        {**mine, "origin": "null"},
        {**mine, "sec-fetch-site": "cross-site"},
    ):
        answer = client.post("/break-glass", data=form, headers=forged)
        assert answer.status_code == 403, forged
    for kind in ("text/plain", "multipart/form-data; boundary=x", "application/json"):
        answer = client.post(
            "/break-glass", content=b"csrf=x", headers={"cookie": mine["cookie"], "content-type": kind}
        )
        assert answer.status_code in {403, 415}, kind
    assert served.run(served.site.last_event()) == before


FORM = {"content-type": "application/x-www-form-urlencoded"}


def test_what_is_too_large_or_framed_twice_is_refused(served: Served) -> None:
    shown = served.headers["browser"]
    large = request_of("/break-glass", {**shown, "transfer-encoding": "chunked", **FORM}, method="POST")
    cases = {
        "a header of four megabytes": request_of("/health", {"x-filler": "a" * 4_000_000}),
        "forty thousand headers": request_of("/health", {f"x-{number}": "a" * 100 for number in range(40_000)}),
        "an address of four megabytes": request_of("/health?" + "a" * 4_000_000, {}),
        "a body that is announced": request_of("/break-glass", {**shown, "content-length": "70000"}, method="POST"),
        "a length that is none": request_of("/break-glass", {**shown, "content-length": "x"}, method="POST"),
        "a length below zero": request_of("/break-glass", {**shown, "content-length": "-1"}, method="POST"),
        "two lengths": request_of("/break-glass", {**shown, "content-length": "3", **FORM}, method="POST").replace(
            b"\r\n\r\n", b"\r\ncontent-length: 50\r\n\r\nabc"
        ),
        "a body in chunks": large + b"%x\r\n" % 70_000 + b"a" * 70_000 + b"\r\n0\r\n\r\n",
    }
    answered = {}
    for name, request in cases.items():
        try:
            answered[name], text = raw(served, request, 3)
        except ConnectionError:
            continue  # it hung up on us in the middle: as good
        assert not names_a_patient(text), name
    assert set(answered.values()) <= {0, 400, 403, 413, 414, 431}, answered
    both = request_of("/health", {"content-length": "44", "transfer-encoding": "chunked"}, method="POST")
    _, text = raw(served, both + f"0\r\n\r\nGET /patients/{N} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
    assert not names_a_patient(text)
    assert text.count("HTTP/1.1 ") <= 1  # nothing that was smuggled behind it is answered


def test_a_socket_is_not_upgraded(served: Served) -> None:
    upgrade = {"upgrade": "websocket", "connection": "upgrade", "sec-websocket-version": "13",
               "sec-websocket-key": "dGhlIHNhbXBsZSBub25jZQ=="}  # fmt: skip
    for target in ("/streams/board", f"/patients/{N}", "/nothing"):
        for shown in ({}, served.headers["nurse"]):
            request = request_of(target, {**upgrade, **shown}).replace(b"Connection: close\r\n", b"")
            status, text = raw(served, request)
            assert status != 101, target
            assert shown or not names_a_patient(text), target
