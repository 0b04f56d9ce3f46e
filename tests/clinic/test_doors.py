"""Every door: who is nobody, who may not, and who may; and that each decision leaves exactly one event."""

from __future__ import annotations

import re

import pytest
from fastapi import APIRouter, FastAPI

from clinic.guarding import GuardedRoute, check_routes, local_path, number_of
from governance.access import Role
from vocabulary.errors import BrokenInvariantError

NAVIGATE = {"sec-fetch-mode": "navigate", "accept": "text/html"}
PAGES = (
    "/",
    "/wards/ICU-A",
    "/patients/7",
    "/patients/999",
    "/feeds",
    "/me",
    "/break-glass",
    "/reviews",
    "/audit",
    "/models",
    "/models/mortality/1",
    "/models/mortality/1/dossier",
    "/x",
)
MACHINE = (
    "/api/ward", "/api/patients/7", "/api/patients/7/snapshot", "/api/snapshots/07-1-7", "/api/openapi.json", "/api/x",
    "/fhir/metadata", "/fhir/Patient/7", "/fhir/Patient?_id=7", "/fhir/Observation?patient=7", "/fhir/AuditEvent",
    "/fhir/RiskAssessment?patient=7", "/fhir/RiskAssessment/07-1-7.mortality", "/api/approvals/x",
    "/api/approvals/x/challenge",
    "/fhir/Patient/7/$twin-snapshot", "/fhir/x", "/streams/board", "/streams/patients/7", "/streams/feeds", "/ready",
)  # fmt: skip


# Nobody ---------------------------------------------------------------------------------------------------------------


METHODS = ("GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE", "NONSENSE")


async def test_nobody_gets_a_bare_401_whatever_they_ask_for(clinic) -> None:
    clinic.client.cookies.clear()
    clinic.client.headers.pop("x-vigil-csrf")
    for path in (*PAGES, *MACHINE):
        for method in METHODS:
            answer = await clinic.client.request(method, path)
            assert (answer.status_code, answer.content) == (401, b""), (method, path)
            assert answer.headers["www-authenticate"] == "Bearer"
    assert clinic.gate.asked == []


async def test_a_browser_without_a_session_is_led_to_the_sign_in_and_a_machine_nowhere(clinic) -> None:
    clinic.client.cookies.clear()
    for path in PAGES:
        answer = await clinic.client.get(path, headers=NAVIGATE)
        assert (answer.status_code, answer.content) == (303, b""), path
        assert answer.headers["location"].startswith("/auth/sign-in")
    for path in MACHINE:
        assert (await clinic.client.get(path, headers=NAVIGATE)).status_code == 401, path


async def test_the_way_back_is_remembered_exactly(clinic) -> None:
    clinic.client.cookies.clear()
    answer = await clinic.client.get("/wards/MED%203%2Fa?sort=bed&x=%26", headers=NAVIGATE)
    assert answer.headers["location"] == "/auth/sign-in?next=%2Fwards%2FMED%25203%2Fa%3Fsort%3Dbed%26x%3D%2526"


async def test_health_is_the_only_thing_nobody_is_told(clinic) -> None:
    clinic.client.cookies.clear()
    assert (await clinic.client.get("/health")).json() == {"status": "alive"}
    assert (await clinic.client.get("/ready")).status_code == 401


async def test_a_bad_token_is_a_bare_401_even_beside_a_good_cookie(house) -> None:
    client = await house.as_("nurse")
    assert (await client.get("/patients/7")).status_code == 200
    for header in ("Bearer nonsense", "Bearer ", "bearer", "Basic eDp5", "Bearer a.b.c", "Bearer " + "x" * 20_000, ""):
        answer = await client.get("/patients/7", headers={"authorization": header, **NAVIGATE})
        assert (answer.status_code, answer.content) == (401, b""), header[:20]


async def test_every_reason_to_refuse_a_token_looks_the_same_and_leaves_an_event(house) -> None:
    now_s = house.now_s
    other = type(house.keys)()
    tokens = {
        "expired": house.keys.token(now_s, exp=now_s - 3600),
        "wrong-audience": house.keys.token(now_s, aud="someone-else"),
        "wrong-issuer": house.keys.token(now_s, iss="https://evil.test"),
        "not-yet": house.keys.token(now_s, nbf=now_s + 3600),
        "bad-signature": other.token(now_s),
    }
    answers = set()
    for token in tokens.values():
        answer = await house.client().get("/fhir/Patient/7", headers={"authorization": f"Bearer {token}"})
        answers.add((answer.status_code, answer.content, tuple(sorted(answer.headers.items()))))
    assert len(answers) == 1
    assert answers.pop()[:2] == (401, b"")
    events = await house.audit()
    assert [(event.entry.action, event.entry.outcome, event.entry.surface) for event in events] == [
        ("sign_in", "failed", "token")
    ] * len(tokens)
    assert {"expired", "wrong-audience", "wrong-issuer"} <= {
        re.findall(r'"reason":"([a-z-]+)"', event.entry.detail)[0] for event in events
    }


async def test_a_flood_of_bad_tokens_does_not_fill_the_audit(house) -> None:
    client = house.client(headers={"authorization": "Bearer a.b.c"})
    for _ in range(100):
        assert (await client.get("/api/ward")).status_code == 401
    assert len(await house.audit()) <= 31
    house.wall_clock.advance(60)
    await client.get("/api/ward")
    assert '"not_recorded_before":7' in (await house.audit())[-1].entry.detail


# Not for you ----------------------------------------------------------------------------------------------------------

FORBIDDEN = [
    # who, what is forbidden, and the same for what does not exist
    ("nurse", "/patients/9", "/patients/999"),  # another ward
    ("nurse", "/patients/8", "/patients/999"),  # a VIP of the own ward
    ("physician", "/patients/8", "/patients/999"),
    ("data_engineer", "/patients/7", "/patients/999"),
    ("model_author", "/patients/7", "/patients/999"),
    ("safety_officer", "/patients/7", "/patients/abc"),
    ("nurse", "/wards/MED-3", "/wards/NOWHERE"),
    ("nurse", "/reviews", "/nothing-at-all"),
    ("nurse", "/audit", "/nothing-at-all"),
    ("data_engineer", "/", "/nothing-at-all"),
    ("data_engineer", "/break-glass", "/nothing-at-all"),
    ("nurse", "/api/patients/9", "/api/patients/999"),
    ("nurse", "/api/patients/9/snapshot", "/api/patients/999/snapshot"),
    ("nurse", "/api/snapshots/SNAPSHOT-9", "/api/snapshots/nonsense"),
    ("nurse", "/api/ward?ward=MED-3", "/api/ward?ward=NOWHERE"),
    ("nurse", "/fhir/Patient/9", "/fhir/Patient/999"),
    ("nurse", "/fhir/Patient/9/$twin-snapshot", "/fhir/Patient/999/$twin-snapshot"),
    ("nurse", "/fhir/Observation/9-1-1-1", "/fhir/Observation/999-1-1-1"),
    ("nurse", "/fhir/AuditEvent/clinic.1", "/fhir/Nothing/1"),
    ("nurse", "/streams/patients/9", "/streams/patients/999"),
    ("nurse", "/streams/board?ward=MED-3", "/streams/board?ward=NOWHERE"),
]


async def test_what_is_forbidden_cannot_be_told_from_what_is_absent(house, wards) -> None:
    clients = {who: await house.as_(who) for who in {row[0] for row in FORBIDDEN}}
    for who, path, absent in FORBIDDEN:
        forbidden = path.replace("SNAPSHOT-9", wards.snapshot(9).snapshot_id)
        first, second = await clients[who].get(forbidden), await clients[who].get(absent)
        assert first.status_code == 404, path
        assert (first.status_code, first.content) == (second.status_code, second.content), path
        assert dict(first.headers) == dict(second.headers), path


async def test_other_methods_tell_nothing_either(house) -> None:
    client = await house.as_("nurse")
    for method in METHODS[1:]:
        answers = [await client.request(method, f"/patients/{number}") for number in (7, 9, 999)]
        assert len({(answer.status_code, answer.content) for answer in answers}) == 1, method


async def test_a_search_shows_and_counts_only_whom_the_caller_may_see(house) -> None:
    client = await house.as_("nurse")
    for query, found in (
        ("identifier=MRN-7", ["7"]),
        ("identifier=MRN-9", []),
        ("identifier=MRN-404", []),
        ("_id=8", []),
    ):
        bundle = (await client.get(f"/fhir/Patient?{query}")).json()
        assert [entry["resource"]["id"] for entry in bundle.get("entry", [])] == found
        assert bundle["total"] == len(found)
    before = len(await house.audit())
    forbidden = (await client.get("/fhir/Observation?patient=9")).text
    absent = (await client.get("/fhir/Observation?patient=999")).text
    assert forbidden == absent.replace("999", "9")
    assert len(await house.audit()) == before + 2


async def test_a_search_that_is_posted_asks_the_same(house) -> None:
    client = await house.as_("nurse")
    bundle = (await client.post("/fhir/Patient/_search", data={"identifier": "MRN-9"})).json()
    assert (bundle["total"], "entry" in bundle) == (0, False)


async def test_another_system_sees_whom_the_patient_shares(house) -> None:
    system = house.system()
    assert (await system.get("/fhir/Patient/9")).status_code == 200
    await house.execute(
        "insert into consent (patient_id, scope, is_permitted, decided_at_us, decided_by, recorded_by) "
        "values (9, 'sharing', false, 1, 'x', 'x')"
    )
    assert (await system.get("/fhir/Patient/9")).status_code == 404
    assert (await system.get("/fhir/Patient/8")).status_code == 404  # a VIP is not shared
    assert (await system.get("/api/ward")).status_code == 404  # no board for machines


# For you --------------------------------------------------------------------------------------------------------------


async def test_a_board_has_the_viewers_wards_and_hides_who_is_not_theirs(house) -> None:
    page = (await (await house.as_("nurse")).get("/")).text
    assert "Hansen" in page
    assert "Berg" not in page  # of another ward
    assert "O&#39;Neil" not in page
    assert page.count("Restricted") == 1  # the VIP's bed is a place
    assert "MED-3" not in page
    ward = (await (await house.as_("nurse")).get("/api/ward")).json()
    assert [bed.get("patient_id") for bed in ward["beds"]].count(None) == 1
    assert {"ward": "ICU-A", "bed": "08", "is_restricted": True} in ward["beds"]


async def test_a_physician_sees_whom_they_treat_wherever_they_lie(house, guarded) -> None:
    page = (await (await house.as_("physician")).get("/")).text
    assert "Hansen" in page
    assert "Quist" not in page
    assert "Restricted" not in page
    treats_vip = await house.as_(guarded.person(Role.PHYSICIAN, "s-adeyemi", practitioner="P-ADEYEMI"))
    page = (await treats_vip.get("/")).text
    assert "O&#39;Neil" in page
    assert "Berg" in page


async def test_who_has_no_role_is_told_so(house) -> None:
    client = await house.as_("nobody_much")
    assert (await client.get("/")).status_code == 404
    assert "none: nothing here is open to you" in (await client.get("/me")).text


# One event ------------------------------------------------------------------------------------------------------------

EVENTS = [
    ("nurse", "/", "permitted", "board", None),
    ("nurse", "/wards/ICU-A", "permitted", "board", None),
    ("nurse", "/wards/MED-3", "denied", "board", None),
    ("nurse", "/patients/7", "permitted", "patient", 7),
    ("nurse", "/patients/5", "permitted", "patient", 7),
    ("nurse", "/patients/9", "denied", "patient", 9),
    ("nurse", "/patients/999", "denied", "patient", 999),
    ("nurse", "/feeds", "permitted", "feeds", None),
    ("nurse", "/api/ward", "permitted", "board", None),
    ("nurse", "/api/patients/7", "permitted", "patient", 7),
    ("nurse", "/api/patients/7/snapshot", "permitted", "patient", 7),
    ("nurse", "/fhir/Patient/7", "permitted", "patient", 7),
    ("nurse", "/fhir/Patient?identifier=MRN-7", "permitted", "patient", None),
    ("data_engineer", "/fhir/Patient?identifier=MRN-7", "denied", "patient", None),
    ("nurse", "/fhir/Observation?patient=7", "permitted", "patient", 7),
    ("nurse", "/fhir/Patient/7/$twin-snapshot", "permitted", "patient", 7),
    ("nurse", "/break-glass", "permitted", "break_glass", None),
    ("safety_officer", "/reviews", "permitted", "review", None),
    ("safety_officer", "/audit", "permitted", "audit", None),
    ("safety_officer", "/audit?patient=7", "permitted", "audit", 7),
    ("safety_officer", "/fhir/AuditEvent?patient=Patient/7", "permitted", "audit", 7),
    ("data_engineer", "/audit", "denied", "audit", None),
]


async def test_each_decision_leaves_exactly_one_event(house) -> None:
    clients = {who: await house.as_(who) for who in {row[0] for row in EVENTS}}
    for count, (who, path, outcome, surface, patient_id) in enumerate(EVENTS, start=1):
        answer = await clients[who].get(path)
        assert answer.status_code in {200, 404}, path
        events = await house.audit()
        assert len(events) == count, path
        entry = events[-1].entry
        assert (entry.outcome, entry.surface, entry.patient_id) == (outcome, surface, patient_id), path
        assert entry.agent == f"https://login.test|s-{who}"
        assert len(entry.policy) == 16
        assert entry.session


async def test_a_page_opened_again_is_another_event(house) -> None:
    client = await house.as_("nurse")
    for count in (1, 2):
        await client.get("/patients/7")
        assert len(await house.audit()) == count


async def test_the_view_of_a_page_hides_no_look_through_another_door(house) -> None:
    client = await house.as_("nurse")
    view = re.findall(r"view=([0-9a-f.]+)", (await client.get("/patients/7")).text)[0]
    looks = 1
    for path in ("/api/patients/7", "/fhir/Patient/7", "/api/patients/7/snapshot", "/fhir/Patient/7/$twin-snapshot"):
        for address, headers in ((f"{path}?view={view}", {}), (path, {"x-vigil-view": view})):
            assert (await client.get(address, headers=headers)).status_code == 200, path
            looks += 1
            events = await house.audit()
            assert len(events) == looks, path
            assert events[-1].entry.view == ""


STREAM = "/streams/patients/{}?hours=0"
"""A stream, which a view stands for, that ends at once: its decision is taken all the same."""


async def test_a_view_that_was_never_given_hides_no_look(house) -> None:
    client = await house.as_("nurse")
    for count, made_up in enumerate(["x", "x", "0123456789abcdef." + "0" * 32, "", "."] * 2, start=1):
        await client.get(f"{STREAM.format(7)}&view={made_up}")
        assert len(await house.audit()) == count


async def test_a_view_of_one_patient_or_person_covers_no_other(house) -> None:
    first, second = await house.as_("nurse"), await house.as_("charge_nurse")
    view = re.findall(r"view=([0-9a-f.]+)", (await first.get("/patients/7")).text)[0]
    await first.get(f"{STREAM.format(7)}&view={view}")
    assert len(await house.audit()) == 1
    await first.get(f"{STREAM.format(10)}&view={view}")
    await second.get(f"{STREAM.format(7)}&view={view}")
    assert len(await house.audit()) == 3


async def test_nothing_is_shown_when_the_audit_cannot_be_written(house) -> None:
    client = await house.as_("nurse", raises=False)
    await house.execute("alter table audit_event rename to audit_away")
    for path in ("/", "/patients/7", "/api/patients/7", "/fhir/Patient/7", "/fhir/Patient?identifier=MRN-7"):
        answer = await client.get(path)
        assert answer.status_code >= 500, path
        assert "Hansen" not in answer.text


# Impossible to forget -------------------------------------------------------------------------------------------------


def test_a_route_that_declares_nothing_cannot_be_built() -> None:
    router = APIRouter(route_class=GuardedRoute)
    with pytest.raises(BrokenInvariantError, match="/leak declares nothing"):

        @router.get("/leak")
        async def leak() -> str:
            return "everything"


def test_an_application_with_a_plain_route_does_not_start() -> None:
    app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None)

    @app.get("/leak")
    async def leak() -> str:
        return "everything"

    with pytest.raises(BrokenInvariantError, match="/leak"):
        check_routes(app)


async def test_every_route_refuses_nobody_or_is_known_to_be_open(clinic) -> None:
    clinic.client.cookies.clear()
    open_paths = set()
    for route in clinic.app.routes:
        path = re.sub(r"\{[^}]*\}", "7", route.path)
        for method in getattr(route, "methods", None) or {"GET"}:
            answer = await clinic.client.request(method, path)
            if answer.status_code != 401 or answer.content:
                open_paths.add((method, route.path))
    assert open_paths == {
        ("GET", "/health"), ("GET", "/auth/sign-in"), ("GET", "/auth/callback"), ("POST", "/auth/sign-out"),
        ("POST", "/auth/backchannel-logout"), ("GET", "/auth/signed-out"),
    }  # fmt: skip
    assert (await clinic.client.get("/static/vigil.css")).status_code == 200


# Forgery --------------------------------------------------------------------------------------------------------------


FORGED = (
    {"x-vigil-csrf": ""},
    {"x-vigil-csrf": "0" * 43},
    {"origin": "https://evil.example"},
    {"origin": "null"},
    {"sec-fetch-site": "cross-site"},
    {"sec-fetch-site": "same-site"},
)


async def test_a_form_from_elsewhere_changes_nothing(house) -> None:
    client = await house.as_("nurse")
    form = {"identifier": "MRN-9", "reason": "Emergency on the ward"}
    for headers in FORGED:
        assert (await client.post("/break-glass", data=form, headers=headers)).status_code == 403, headers
    assert await house.audit() == []
    ours = {"origin": "http://localhost", "sec-fetch-site": "same-origin"}
    assert (await client.post("/break-glass", data=form, headers=ours)).status_code == 303


async def test_the_token_of_one_session_is_none_in_another(house) -> None:
    first, second = await house.as_("nurse"), await house.as_("nurse")
    assert first.headers["x-vigil-csrf"] != second.headers["x-vigil-csrf"]
    first.headers["x-vigil-csrf"] = second.headers["x-vigil-csrf"]
    assert (
        await first.post("/break-glass", data={"identifier": "MRN-9", "reason": "a b c d e f g"})
    ).status_code == 403


# Small pieces ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "elsewhere",
    ["https://evil.example", "//evil.example", "/\\evil.example", "\\/evil.example", "/\t/evil.example", "javascript:x",
     "/\n//evil", "", "x", "/auth/sign-out", "/" + "a" * 2000, "http:/evil", "///evil"],
)  # fmt: skip
def test_a_sign_in_leads_to_no_other_place(elsewhere: str) -> None:
    assert local_path(elsewhere) == "/"


@pytest.mark.parametrize("path", ["/", "/wards/A%2Fb?sort=bed", "/patients/7?hours=24", "/a//b"])
def test_a_sign_in_leads_back(path: str) -> None:
    assert local_path(path) == path


@pytest.mark.parametrize("text", ["", "x", "-7", "7.0", "٧", "7" * 19, " 7", "+7"])
def test_what_is_no_number_names_nobody(text: str) -> None:
    assert number_of(text) == 0
