"""The access matrix: who asks, by which door, for what purpose, about whom; what is shown, and the one event it leaves.

Here: over three thousand generated cells about one patient, against a clinic in which everything that decides is real;
what is expected is read from governance/policy.toml a second time (policy_reading), by code of its own.
Not here: the clinic itself (guarded_site), lists and acts (test_access_lists), what changes while somebody looks
(test_access_over_time), tokens that are refused (test_token_attacks), HTTP as such (test_http_conformance).
"""

from __future__ import annotations

import asyncio
import importlib.util
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

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

# How they ask ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Route:
    """A door that leads to one patient."""

    name: str
    path: Callable[[Any], str]
    shows: Callable[[Any], str]
    method: str = "GET"
    form: Callable[[Any], dict[str, str]] | None = None
    is_search: bool = False  # answers what it may, be it nothing: an empty answer is its absence


READS = (
    Route("page", lambda p: f"/patients/{p.number}", lambda p: p.family),
    Route("stream", lambda p: f"/streams/patients/{p.number}", lambda p: p.family),
    Route("json", lambda p: f"/api/patients/{p.number}", lambda p: p.family),
    Route("json snapshot", lambda p: f"/api/patients/{p.number}/snapshot", lambda p: f'"patient_id":{p.number}'),
    Route("snapshot by id", lambda p: f"/api/snapshots/{p.snapshot_id}", lambda p: f'"patient_id":{p.number}'),
    Route("fhir patient", lambda p: f"/fhir/Patient/{p.number}", lambda p: p.family),
    Route("fhir twin", lambda p: f"/fhir/Patient/{p.number}/$twin-snapshot", lambda p: f"Patient/{p.number}"),
    Route("fhir observation", lambda p: f"/fhir/Observation/{p.observation_id}", lambda p: f"Patient/{p.number}"),
    Route(
        "fhir part of a snapshot", lambda p: f"/fhir/Observation/{p.snapshot_id}.{house.HEART_RATE}",
        lambda p: f"Patient/{p.number}",
    ),
    Route(
        "fhir observations", lambda p: f"/fhir/Observation?patient={p.number}", lambda p: f'"Patient/{p.number}"',
        is_search=True,
    ),
    Route(
        "fhir observations, posted", lambda _: "/fhir/Observation/_search", lambda p: f'"Patient/{p.number}"', "POST",
        lambda p: {"patient": f"Patient/{p.number}"}, is_search=True,
    ),
)  # fmt: skip
BY_NAME = {route.name: route for route in READS}


class Cell(NamedTuple):
    """One question; `patient` None asks for somebody who does not exist."""

    caller: policy.Caller
    route: Route
    patient: Any
    purpose: str = ""


async def ask_all(site: Any, cells: Iterable[Cell]) -> dict[Cell, Any]:
    """Ask every cell; each person one after the other, several people at once."""
    by_person: dict[policy.Caller, list[Cell]] = {}
    for cell in cells:
        by_person.setdefault(cell.caller, []).append(cell)
    room = asyncio.Semaphore(6)
    answers: dict[Cell, Any] = {}

    async def ask_as(caller: policy.Caller) -> None:
        shown = site.headers(caller.person)
        async with room:
            for cell in by_person[caller]:
                more = {"x-purpose-of-use": cell.purpose} if cell.purpose else {}
                patient = cell.patient or house.ABSENT
                form = cell.route.form(patient) if cell.route.form else None
                answers[cell] = await site.ask(cell.route.method, cell.route.path(patient), shown | more, form)

    async with asyncio.TaskGroup() as group:
        for caller in by_person:
            group.create_task(ask_as(caller))
    return answers


async def check_reads(site: Any, cells: list[Cell], tally: policy.Tally) -> None:
    """Ask for patients, each cell beside its absence, and check answers and events."""
    asked = list(dict.fromkeys([*(cell._replace(patient=None) for cell in cells), *cells]))
    since = await site.last_event()
    answers = await ask_all(site, asked)
    for cell in cells:
        verdict = verdict_of(cell)
        check_answer(cell, verdict, answers[cell], answers[cell._replace(patient=None)])
        tally.add(cell.route.name, is_permitted=verdict.is_permitted)
    events: dict[str, list[dict[str, Any]]] = {}
    for event in await site.audit(since):
        events.setdefault(event["agent"], []).append(event)
    assert sum(map(len, events.values())) == len(asked)
    for caller in dict.fromkeys(cell.caller for cell in asked):
        of_caller = [cell for cell in asked if cell.caller == caller]
        left = events[caller.person.agent]
        assert len(left) == len(of_caller)
        for cell, event in zip(of_caller, left, strict=True):
            check_event(cell, verdict_of(cell), event)


def verdict_of(cell: Cell) -> policy.Verdict:
    standing = policy.standing_of(cell.caller, cell.patient)
    return policy.judge(cell.caller.person, "patient", "read", "patient", standing=standing, purpose=cell.purpose)


def check_answer(cell: Cell, verdict: policy.Verdict, answer: Any, absent: Any) -> None:
    where = (cell.route.name, cell.caller.person.subject, cell.patient, cell.purpose, verdict.rule)
    text = answer.body.decode()
    others = [one.family for one in house.EVERYBODY if one.family in text and one != cell.patient]
    assert not others, where
    assert not any(one.family in absent.body.decode() for one in house.EVERYBODY), where
    if verdict.is_permitted:
        assert answer.status == 200, (where, answer.status)
        assert cell.route.shows(cell.patient) in text, where
        return
    assert answer.status == (200 if cell.route.is_search else 404), (where, answer.status)
    if cell.route.is_search:
        # Its link to itself repeats the question, and nothing else may differ: the numbers are of the same length.
        text = text.replace(str(cell.patient.number), str(house.ABSENT.number))
        assert json.loads(text)["total"] == 0, where
    assert (answer.status, answer.headers, text) == (absent.status, absent.headers, absent.body.decode()), where


def check_event(cell: Cell, verdict: policy.Verdict, event: Mapping[str, Any]) -> None:
    where = (cell.route.name, cell.caller.person.subject, cell.patient, cell.purpose)
    found = (event["outcome"], event["rule"], event["role"], event["purpose"], event["surface"], event["verb"])
    outcome = "permitted" if verdict.is_permitted else "denied"
    assert found == (outcome, verdict.rule, verdict.role, verdict.purpose, "patient", "read"), where
    patient = cell.patient or house.ABSENT
    assert event["patient_id"] == patient.number, where
    expected_glass = None
    if verdict.by_glass:
        place = 0 if patient == house.FAR else house.PATIENTS.index(patient)
        expected_glass = cell.caller.glass_ids[place]
    assert event["break_glass_id"] == expected_glass, where
    assert len(event["policy"]) == 16, where
    told = json.dumps({name: str(value) for name, value in event.items()})
    assert not any(one.family in told or one.mrn in told for one in house.EVERYBODY), where


# One patient ----------------------------------------------------------------------------------------------------------


async def test_every_role_relationship_consent_vip_and_glass_at_one_door(site: Any) -> None:
    callers = await policy.everybody(site, "full")
    tally = policy.Tally()
    route = BY_NAME["fhir patient"]

    def cells(of: Iterable[policy.Caller]) -> list[Cell]:
        return [Cell(caller, route, patient) for caller, patient in product(of, house.PATIENTS)]

    await check_reads(site, cells(one for one in callers if one.glass == "none"), tally)
    await house.put_glasses(site.url, f"{house.ISSUER}|somebody-else", house.PATIENTS)
    await check_reads(site, cells(one for one in callers if one.glass != "none"), tally)
    tally.tell("every condition at one door")
    assert len(tally) == len(policy.ROLE_SETS) * len(policy.RELATIONSHIPS) * len(policy.GLASSES) * len(house.PATIENTS)
    assert min(tally.counts.values()) > 100  # both answers were really tried


async def test_every_door_to_a_patient_for_every_role_relationship_and_glass(site: Any) -> None:
    callers = await policy.everybody(site, "doors", ("none", "open"))
    tally = policy.Tally()
    cells = [
        # Consents and VIPs take turns: which falls to whom is different at each door.
        Cell(caller, route, house.PATIENTS[(place * 3 + turn + place // 8) % 8])
        for turn, route in enumerate(READS)
        for place, caller in enumerate(callers)
    ]
    await check_reads(site, cells, tally)
    tally.tell("every door")
    assert all(tally.counts[route.name, kind] for route in READS for kind in (True, False))


async def test_every_purpose_somebody_may_state(site: Any) -> None:
    callers = await policy.everybody(site, "purposes", ("none", "open"))
    tally = policy.Tally()
    cells = [
        Cell(caller, BY_NAME["json"], house.PATIENTS[(place + turn) % 8], purpose)
        for turn, purpose in enumerate(policy.PURPOSES)
        for place, caller in enumerate(callers)
        if caller.glass == "none" or purpose in {"TREAT", "BTG", "HQUALIMP"}
    ]
    await check_reads(site, cells, tally)
    tally.tell("every purpose")
    callers = [policy.caller_of("nurse", "unit", group="unknown-purpose")]
    answers = await ask_all(site, [Cell(callers[0], BY_NAME["json"], one, "CURIOSITY") for one in (None, house.FAR)])
    assert {answer.status for answer in answers.values()} == {400}


async def test_a_retired_number_leads_to_the_surviving_record_and_its_rules(site: Any) -> None:
    by_old_number = house.Patient(house.MERGED, house.WARD, "Quorve0", "MRN-7700")
    callers = [
        policy.caller_of(role, relationship, group="merged")
        for role, relationship in product(policy.ROLE_SETS, policy.RELATIONSHIPS)
    ]
    cells = [Cell(caller, BY_NAME["fhir patient"], by_old_number) for caller in callers]
    before = await site.last_event()
    answers = await ask_all(site, cells)
    for cell in cells:
        verdict = verdict_of(cell._replace(patient=house.PATIENTS[0]))
        assert (answers[cell].status == 200) == verdict.is_permitted, cell.caller
    events = await site.audit(before)
    assert len(events) == len(cells)
    assert {event["patient_id"] for event in events} == {house.PATIENTS[0].number}


async def test_nobody_is_told_nothing_at_any_door(site: Any) -> None:
    doors = [(route, patient) for route in READS for patient in (house.PATIENTS[0], house.FAR, house.ABSENT)]
    before = await site.last_event()
    answers = set()
    for route, patient in doors:
        form = route.form(patient) if route.form else None
        answers.add(await site.ask(route.method, route.path(patient), {}, form))
    (answer,) = answers
    assert (answer.status, answer.body, answer.header("www-authenticate")) == (401, b"", "Bearer")
    assert await site.audit(before) == []


# Time -----------------------------------------------------------------------------------------------------------------


async def test_how_long_a_refusal_takes_does_not_say_whether_somebody_is_here(site: Any) -> None:
    """A bound against a blunder (a page rendered before it is refused), not a claim of constant time."""
    who = policy.caller_of("nurse", "none", group="clock").person
    shown = site.headers(who)
    for name in ("fhir patient", "json snapshot", "page"):
        taken: dict[str, list[float]] = {"absent": [], "forbidden": []}
        for turn in range(65):
            for kind, patient in (("absent", house.ABSENT), ("forbidden", house.PATIENTS[turn % 8])):
                started = time.perf_counter()
                answer = await site.ask("GET", BY_NAME[name].path(patient), shown)
                if turn >= 5:
                    taken[kind].append((time.perf_counter() - started) * 1000)
                assert answer.status == 404
        absent, forbidden = statistics.median(taken["absent"]), statistics.median(taken["forbidden"])
        ratio = forbidden / absent
        print(f"\n{name}: absent {absent:.2f} ms, forbidden {forbidden:.2f} ms, ratio {ratio:.2f}")  # noqa: T201
        assert 1 / 3 < ratio < 3
