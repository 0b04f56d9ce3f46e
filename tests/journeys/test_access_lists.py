"""The access matrix of lists, of what is about nobody in particular, and of acts.

Here: boards and searches hold and count exactly whom their caller may see; pages about the house; breaking a glass and
judging it, by every role.
Not here: doors to one patient (test_access_matrix), what is expected (policy_reading), the clinic (guarded_site).
"""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Callable, Mapping
from itertools import product
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.asyncio(loop_scope="module")]


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
policy = house.beside("policy_reading")
template, site = house.template, house.shared_site

# Lists ----------------------------------------------------------------------------------------------------------------


def on_board(caller: policy.Caller, patient: Any) -> policy.Verdict:
    return policy.judge(caller.person, "board", "read", "patient", standing=policy.standing_of(caller, patient))


def board_of(caller: policy.Caller, ward: str) -> tuple[policy.Verdict, set[Any], set[Any]]:
    """Return what must be decided of a board, whose beds are shown with their patient, and whose only as a place."""
    verdict = policy.judge(caller.person, "board", "read", "ward" if ward else "house", ward=ward)
    beds = [one for one in house.EVERYBODY if ward in {"", one.ward}]
    shown = {one for one in beds if on_board(caller, one).is_permitted}
    places = {
        one
        for one in beds
        if one not in shown and policy.judge(caller.person, "board", "read", "ward", ward=one.ward).is_permitted
    }
    return verdict, shown, places


BOARDS = (
    ("/", ""), ("/wards/ICU-A", "ICU-A"), ("/wards/MED-3", "MED-3"), ("/api/ward", ""),
    ("/api/ward?ward=ICU-A", "ICU-A"), ("/streams/board", ""), ("/streams/board?ward=ICU-A", "ICU-A"),
)  # fmt: skip


async def test_every_board_holds_exactly_the_beds_its_viewer_may_see(site: Any) -> None:
    callers = [
        *await policy.everybody(site, "boards", ("none", "open")),
        *await policy.with_glasses(site.url, [policy.caller_of("nurse", "none", "for another patient", "boards")]),
    ]
    tally = policy.Tally()
    since = await site.last_event()
    answers: dict[tuple[policy.Caller, str], Any] = {}
    for caller in callers:
        shown = site.headers(caller.person)
        for path, _ in BOARDS:
            answers[caller, path] = await site.ask("GET", path, shown)
    for caller in callers:
        absent = {
            family: await site.ask("GET", path, site.headers(caller.person))
            for family, path in (("/", "/wards/NOWHERE"), ("/api", "/api/ward?ward=NOWHERE"),
                                 ("/streams", "/streams/board?ward=NOWHERE"))
        }  # fmt: skip
        for path, ward in BOARDS:
            verdict, shown, places = board_of(caller, ward)
            answer = answers[caller, path]
            tally.add(path, is_permitted=verdict.is_permitted)
            if not verdict.is_permitted:
                family = next(one for one in ("/api", "/streams", "/") if path.startswith(one))
                assert answer == absent[family], (caller, path)
                continue
            assert answer.status == 200, (caller, path)
            check_beds(path, answer.body.decode(), shown, places)
    events: dict[str, list[dict[str, Any]]] = {}
    for event in await site.audit(since):
        events.setdefault(event["agent"], []).append(event)
    for caller in callers:
        for (path, ward), event in zip(BOARDS, events[caller.person.agent][: len(BOARDS)], strict=True):
            check_board_event(caller, ward, event, (caller.person.subject, path))
        assert len(events[caller.person.agent]) == len(BOARDS) + 3
    tally.tell("boards")


def check_beds(path: str, text: str, shown: set[Any], places: set[Any]) -> None:
    """Check that a board names whom it may, tells the others' places, and nothing of anybody else."""
    named = {one for one in house.EVERYBODY if one.family in text}
    numbered = {one for one in house.EVERYBODY if str(one.number) in text}
    assert named == shown, path
    assert numbered == shown, path
    if path.startswith("/api"):
        beds = json.loads(text)["beds"]
        assert {bed["patient_id"] for bed in beds if "patient_id" in bed} == {one.number for one in shown}
        hidden = sorted((bed["ward"], bed["bed"]) for bed in beds if "patient_id" not in bed)
        assert hidden == sorted((one.ward, one.bed) for one in places)
        assert all(set(bed) == {"ward", "bed", "is_restricted"} for bed in beds if "patient_id" not in bed)
    else:
        assert text.count("Restricted") == len(places), path


def check_board_event(caller: policy.Caller, ward: str, event: Mapping[str, Any], where: object) -> None:
    verdict, shown, _ = board_of(caller, ward)
    found = (event["outcome"], event["rule"], event["role"], event["surface"], event["patient_id"])
    outcome = "permitted" if verdict.is_permitted else "denied"
    assert found == (outcome, verdict.rule, verdict.role, "board", None), where
    if not verdict.is_permitted:
        assert (event["purpose"], event["break_glass_id"]) == (verdict.purpose, None), where
        return
    under_glass = any(on_board(caller, one).by_glass for one in shown)
    assert (event["break_glass_id"] in caller.glass_ids) == under_glass, where
    assert event["purpose"] == ("BTG" if under_glass else verdict.purpose), where


SEARCHES: tuple[tuple[str, Callable[[Any], str], Callable[[Any], dict[str, str]] | None], ...] = (
    ("GET", lambda p: f"/fhir/Patient?identifier={p.mrn}", None),
    ("GET", lambda p: f"/fhir/Patient?identifier=HOSP|{p.mrn}", None),
    ("GET", lambda p: f"/fhir/Patient?_id={p.number}", None),
    ("POST", lambda _: "/fhir/Patient/_search", lambda p: {"identifier": p.mrn}),
)


async def test_every_search_finds_and_counts_exactly_whom_its_caller_may_read(site: Any) -> None:
    callers = await policy.everybody(site, "searches", ("none", "open"))
    tally = policy.Tally()
    since = await site.last_event()
    expected: dict[str, list[tuple[policy.Verdict, bool, bool]]] = {}
    for place, caller in enumerate(callers):
        shown = site.headers(caller.person)
        for turn, (method, path, form) in enumerate(SEARCHES):
            absent = await site.ask(method, path(house.ABSENT), shown, form(house.ABSENT) if form else None)
            whole = policy.judge(caller.person, "patient", "search", "house")
            left = expected.setdefault(caller.person.agent, [])
            left.append((whole, False, False))
            for patient in (house.PATIENTS[(place + 2 * turn) % 8], house.FAR):
                answer = await site.ask(method, path(patient), shown, form(patient) if form else None)
                standing = policy.standing_of(caller, patient)
                each = policy.judge(
                    caller.person, "patient", "read", "patient", standing=standing, purpose=whole.purpose
                )
                is_found = whole.is_permitted and each.is_permitted
                tally.add("fhir patient search", is_permitted=is_found)
                left.append((whole, is_found, is_found and each.by_glass))
                bundle = json.loads(answer.body)
                found = [entry["resource"]["id"] for entry in bundle.get("entry", [])]
                assert found == ([str(patient.number)] if is_found else []), (caller, patient)
                assert bundle["total"] == len(found)
                if not is_found:
                    assert answer == absent, (caller, patient)
    events: dict[str, list[dict[str, Any]]] = {}
    for event in await site.audit(since):
        events.setdefault(event["agent"], []).append(event)
    for caller in callers:
        said = zip(expected[caller.person.agent], events[caller.person.agent], strict=True)
        for (whole, is_found, by_glass), event in said:
            outcome = "permitted" if whole.is_permitted else "denied"
            found = (event["outcome"], event["rule"], event["role"], event["patient_id"])
            assert found == (outcome, whole.rule, whole.role, None), caller
            assert json.loads(event["detail"])["shown"] == int(is_found), caller
            assert (event["break_glass_id"] in caller.glass_ids) == by_glass, caller
    tally.tell("searches")


# Surfaces that are about nobody in particular -------------------------------------------------------------------------

HOUSE = (
    ("GET", "/feeds", "feeds", "read", "/nothing"),
    ("GET", "/streams/feeds", "feeds", "read", "/streams/nothing"),
    ("GET", "/break-glass", "break_glass", "open", "/nothing"),
    ("GET", "/reviews", "review", "read", "/nothing"),
    ("GET", "/audit", "audit", "search", "/nothing"),
    ("GET", "/audit?agent=x&outcome=denied", "audit", "search", "/nothing"),
    ("GET", "/fhir/AuditEvent", "audit", "search", "/fhir/Nothing"),
    ("GET", "/fhir/AuditEvent/clinic.1", "audit", "read", "/fhir/Nothing/1"),
    ("GET", "/account/keys", "signers", "read", "/nothing"),
)
WHO_LOOKED = (
    ("/audit?patient={}", "/audit?patient={}"),
    ("/fhir/AuditEvent?patient=Patient/{}", "/fhir/AuditEvent?patient=Patient/{}"),
)


async def test_every_page_and_door_about_the_house(site: Any) -> None:
    served = {getattr(route, "path", "") for route in site.app.routes}
    rows = [row for row in HOUSE if row[1].partition("?")[0] in served or "AuditEvent" in row[1]]
    assert len(rows) >= len(HOUSE) - 1  # the signers' page is the newest
    tally = policy.Tally()
    await site.ask(
        "GET", "/feeds", site.headers(policy.caller_of("nurse", "none", group="first").person)
    )  # event clinic.1
    for role in policy.ROLE_SETS:
        caller = policy.caller_of(role, "none", group="house")
        shown = site.headers(caller.person)
        for method, path, surface, verb, absent_path in rows:
            before = await site.last_event()
            answer = await site.ask(method, path, shown)
            (event,) = await site.audit(before)
            verdict = policy.judge(caller.person, surface, verb, "house")
            assert (answer.status == 200) == verdict.is_permitted, (role, path, answer.status)
            found = (event["outcome"], event["rule"], event["role"], event["purpose"], event["surface"], event["verb"])
            outcome = "permitted" if verdict.is_permitted else "denied"
            assert found == (outcome, verdict.rule, verdict.role, verdict.purpose, surface, verb), (role, path)
            if not verdict.is_permitted:
                assert answer == await site.ask(method, absent_path, shown), (role, path)
            tally.add(path, is_permitted=verdict.is_permitted)
    tally.tell("about the house")


async def test_who_looked_at_a_patient_is_for_the_officers_and_shows_nobody(site: Any) -> None:
    nurse = policy.caller_of("nurse", "unit", group="looked").person
    await site.ask("GET", f"/patients/{house.PATIENTS[0].number}", site.headers(nurse))
    tally = policy.Tally()
    for role in policy.ROLE_SETS:
        caller = policy.caller_of(role, "none", group="who")
        shown = site.headers(caller.person)
        for (path, absent_path), patient in product(WHO_LOOKED, (house.PATIENTS[0], house.PATIENTS[7], house.FAR)):
            before = await site.last_event()
            answer = await site.ask("GET", path.format(patient.number), shown)
            (event,) = await site.audit(before)
            standing = policy.standing_of(caller, patient)
            verdict = policy.judge(caller.person, "audit", "search", "patient", standing=standing)
            assert (event["outcome"] == "permitted") == verdict.is_permitted, (role, path)
            assert (event["rule"], event["patient_id"]) == (verdict.rule, patient.number)
            assert (answer.status == 200) == verdict.is_permitted, (role, path)
            assert not any(one.family in answer.body.decode() for one in house.EVERYBODY)
            if verdict.is_permitted:
                # Each look leaves its own event, so that of the nurse and those of officers before this one are there.
                assert (nurse.subject in answer.body.decode()) == (patient == house.PATIENTS[0])
            else:
                assert answer == await site.ask("GET", absent_path.format(house.ABSENT.number), shown), (role, path)
            tally.add(path, is_permitted=verdict.is_permitted)
    tally.tell("who looked")


SIGNED_IN = ("/me", "/ready", "/fhir/metadata", "/api/openapi.json")


async def test_what_is_for_everybody_who_is_known_says_nothing_of_patients_and_leaves_no_event(site: Any) -> None:
    before = await site.last_event()
    for role, path in product(policy.ROLE_SETS, SIGNED_IN):
        answer = await site.ask("GET", path, site.headers(policy.caller_of(role, "treating", group="known").person))
        assert answer.status == 200, (role, path)
        text = answer.body.decode()
        assert not any(one.family in text or str(one.number) in text for one in house.EVERYBODY), path
    assert await site.audit(before) == []


# Breaking and judging -------------------------------------------------------------------------------------------------

AT_THE_GLASS = {"one": house.PATIENTS[0], "a-vip": house.PATIENTS[1], "far": house.FAR, "nobody": house.ABSENT}
REASON = "Found unresponsive in the corridor"


async def test_every_role_at_the_glass(site: Any) -> None:
    tally = policy.Tally()
    for role, relationship in product(policy.ROLE_SETS, ("none", "unit")):
        for name, patient in {
            "a": house.PATIENTS[0],
            "b": house.PATIENTS[1],
            "c": house.FAR,
            "d": house.ABSENT,
        }.items():
            who = policy.caller_of(role, relationship, group=f"breaks-{name}").person
            before = await site.last_event()
            form = {"identifier": patient.mrn, "reason": REASON}
            answer = await site.ask("POST", "/break-glass", site.headers(who), form)
            (event,) = await site.audit(before)
            standing = (
                None if patient == house.ABSENT else policy.standing_of(policy.Caller(who, role, relationship), patient)
            )
            form_verdict = policy.judge(who, "break_glass", "open", "house", purpose="BTG")
            verdict = policy.judge(who, "break_glass", "open", "patient", standing=standing, purpose="BTG")
            sees_anyway = policy.judge(
                who, "patient", "read", "patient", standing=standing, purpose="TREAT"
            ).is_permitted
            opens = form_verdict.is_permitted and verdict.is_permitted and not sees_anyway
            tally.add("breaking the glass", is_permitted=opens)
            assert (event["surface"], event["verb"], event["purpose"]) == ("break_glass", "open", "BTG")
            assert event["outcome"] == ("permitted" if opens else "denied"), (role, patient)
            assert patient.mrn not in event["detail"]
            assert REASON not in event["detail"]
            if opens:
                assert (answer.status, answer.header("location")) == (303, f"/patients/{patient.number}")
                assert (event["rule"], event["role"], event["patient_id"]) == (
                    verdict.rule,
                    verdict.role,
                    patient.number,
                )
                page = await site.ask("GET", f"/patients/{patient.number}", site.headers(who))
                assert patient.family in page.body.decode()
            elif not form_verdict.is_permitted:
                absent = await site.ask("POST", "/nothing-at-all", site.headers(who), form)
                assert answer == absent, (role, patient)
            else:
                assert answer.status == 409
                rule = "not-needed" if sees_anyway and patient != house.ABSENT else "unknown-patient"
                assert event["rule"] == rule
                assert not any(one.family in answer.body.decode() for one in house.EVERYBODY)
    tally.tell("at the glass")


async def test_every_role_before_a_broken_glass(site: Any) -> None:
    tally = policy.Tally()
    for place, role in enumerate(policy.ROLE_SETS):
        who = policy.caller_of(role, "none", group="judges").person
        (number,) = await house.put_glasses(site.url, f"{house.ISSUER}|x{place}", [house.FAR])
        answers = []
        for glass_id in (number, 999_999):
            before = await site.last_event()
            form = {"verdict": "justified", "note": "ok"}
            answers.append(await site.ask("POST", f"/reviews/{glass_id}", site.headers(who), form))
            (event,) = await site.audit(before)
            standing = policy.standing_of(policy.Caller(who, role, "none"), house.FAR) if glass_id == number else None
            verdict = policy.judge(who, "review", "review", "patient", standing=standing)
            is_permitted = verdict.is_permitted and glass_id == number
            assert (event["surface"], event["verb"]) == ("review", "review")
            assert event["outcome"] == ("permitted" if is_permitted else "denied"), role
            assert event["patient_id"] == (house.FAR.number if glass_id == number else None)
            assert answers[-1].status == (303 if is_permitted else 404), role
            tally.add("judging", is_permitted=is_permitted)
        if answers[0].status == 404:
            assert answers[0] == answers[1], role
    tally.tell("before a broken glass")


async def test_nobody_judges_a_glass_they_broke(site: Any) -> None:
    officer = house.Person("own-glass", ("nurse", "safety_officer"), (), "P-66")
    (number,) = await house.put_glasses(site.url, officer.agent, [house.FAR])
    form = {"verdict": "justified", "note": "ok"}
    before = await site.last_event()
    answer = await site.ask("POST", f"/reviews/{number}", site.headers(officer), form)
    assert answer.status == 409
    (event,) = await site.audit(before)
    assert (event["outcome"], event["rule"]) == ("denied", "own-glass")
