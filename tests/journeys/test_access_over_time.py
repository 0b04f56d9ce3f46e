"""Access while time passes: one view is one event, a change ends what is open, without an audit there is nothing.

Here: pages with their streams and polls; transfers, VIPs, glasses, refusals and sign-outs while somebody watches; an
audit that is locked, forbidden, cut off or gone.
Not here: who may see what at one moment (test_access_matrix, test_access_lists), the clinic (guarded_site).
"""

from __future__ import annotations

import asyncio
import importlib.util
import re
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from stores.database import connect, transaction

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
template, site_url, site = house.template, house.site_url, house.site

PLAIN, VIP = house.PATIENTS[0], house.PATIENTS[1]
SHARED = house.PATIENTS[4]  # shares, and refuses secondary use
NURSE = house.Person("nora", ("nurse",), (house.WARD,))
LEAD = house.Person("lena", ("clinical_lead",), (house.WARD,))
FAR_NURSE = house.Person("faye", ("nurse",), ("SURG-9",))
EHR = house.Person("ehr", is_system=True)

ENDS_WITHIN_S = 2.0
"""Ten times the site's 0.2 s between two questions: this machine may be busy."""


async def opened_page(site: Any, session: Any, patient: Any) -> str:
    """Open a patient's page; return its view's id."""
    page = await site.ask("GET", f"/patients/{patient.number}", site.browser(session))
    assert page.status == 200
    found = re.search(rb'view[="]+([0-9a-f]+\.[0-9a-f]+)', page.body)
    assert found, "the page carries no view"
    return found[1].decode()


def said(events: list[dict[str, Any]]) -> list[tuple[str, str]]:
    return [(event["outcome"], event["surface"]) for event in events]


# Views ----------------------------------------------------------------------------------------------------------------


async def test_a_page_and_its_stream_are_one_event(site: Any) -> None:
    session = await site.session(NURSE)
    view = await opened_page(site, session, PLAIN)
    stream = await site.stream(f"/streams/patients/{PLAIN.number}?view={view}", site.browser(session))
    await stream.event("parts")
    for _ in range(4):  # asked about again several times
        await stream.event("pulse")
        site.clock.advance(1)
        await asyncio.sleep(0.25)
    (event,) = await site.audit()
    assert (event["outcome"], event["patient_id"], event["view"]) == ("permitted", PLAIN.number, view)


async def test_the_view_of_a_page_hides_no_look_through_another_door(site: Any) -> None:
    session = await site.session(NURSE)
    view = await opened_page(site, session, PLAIN)
    for count, path in enumerate(
        (f"/api/patients/{PLAIN.number}", f"/api/patients/{PLAIN.number}/snapshot", f"/fhir/Patient/{PLAIN.number}",
         f"/fhir/Patient/{PLAIN.number}/$twin-snapshot"), start=1,
    ):  # fmt: skip
        assert (await site.ask("GET", f"{path}?view={view}", site.browser(session))).status == 200
        headers = site.browser(session, **{"x-vigil-view": view})
        assert (await site.ask("GET", path, headers)).status == 200
        events = await site.audit()
        assert len(events) == 1 + 2 * count, path
        assert {event["view"] for event in events[1:]} == {""}


async def test_a_board_with_its_stream_is_one_event(site: Any) -> None:
    session = await site.session(NURSE)
    page = await site.ask("GET", "/", site.browser(session))
    view = re.search(rb'view[="]+([0-9a-f]+\.[0-9a-f]+)', page.body)[1].decode()  # type: ignore[index]
    stream = await site.stream(f"/streams/board?view={view}", site.browser(session))
    await stream.event("beds")
    await asyncio.sleep(0.7)
    assert said(await site.audit()) == [("permitted", "board")]


def stream_asked_for(patient: Any, view: str) -> str:
    """Return the address of a stream, which a view stands for, that ends at once, but not before its decision."""
    return f"/streams/patients/{patient.number}?hours=0&view={view}"


MADE_UP = ("x", "0123456789abcdef." + "0" * 32, "a.b", "%00", "..", "0" * 500)


async def test_a_view_somebody_made_up_hides_no_look(site: Any) -> None:
    session = await site.session(NURSE)
    for count, view in enumerate(MADE_UP * 2, start=1):
        await site.ask("GET", stream_asked_for(PLAIN, view), site.browser(session))
        assert len(await site.audit()) == count, view


async def test_a_view_covers_no_other_patient_purpose_person_or_session(site: Any) -> None:
    session = await site.session(NURSE)
    view = await opened_page(site, session, PLAIN)
    again = await site.session(NURSE)
    other = await site.session(house.Person("olga", ("nurse",), (house.WARD,)))
    plain = stream_asked_for(PLAIN, view)
    await site.ask("GET", plain, site.browser(session))
    assert len(await site.audit()) == 1  # the one it was given for
    asked = [
        (stream_asked_for(SHARED, view), site.browser(session)),
        (plain, site.browser(again)),
        (plain, site.browser(other)),
        (plain, site.browser(session, **{"x-purpose-of-use": "HQUALIMP"})),
        (plain, site.headers(NURSE)),
    ]
    for count, (path, headers) in enumerate(asked, start=2):
        await site.ask("GET", path, headers)
        assert len(await site.audit()) == count, path


# Decisions that change while somebody looks ---------------------------------------------------------------------------

Change = Callable[[Any], Awaitable[None]]


async def transferred(site: Any) -> None:
    await site.registration.move(PLAIN, house.OTHER_WARD)


async def shielded_by_adt(site: Any) -> None:
    await site.registration.shield(PLAIN)


async def shielded_by_hand(site: Any) -> None:
    await site.execute(
        "insert into vip_flag (patient_id, is_vip, decided_at_us, decided_by, recorded_by) "
        "values (%s, true, 1, 'Petra Klein', 'test')",
        PLAIN.number,
    )


async def refused(site: Any, scope: str) -> None:
    connection = await connect(site.url, application_name="test")
    async with transaction(connection):
        await house.refuse(connection, PLAIN, scope)
    await connection.close()


async def refuses_secondary(site: Any) -> None:
    await refused(site, "secondary")


async def refuses_sharing(site: Any) -> None:
    await refused(site, "sharing")


CHANGES: dict[str, tuple[Any, Change]] = {
    "a transfer ends a nurse's view": (NURSE, transferred),
    "a VIP by ADT ends a nurse's view": (NURSE, shielded_by_adt),
    "a VIP by hand ends a nurse's view": (NURSE, shielded_by_hand),
    "a transfer ends a lead's view": (LEAD, transferred),
    "a refused secondary use ends a lead's view": (LEAD, refuses_secondary),
    "a VIP ends a lead's view": (LEAD, shielded_by_adt),
}


@pytest.mark.parametrize("name", CHANGES)
async def test_a_decision_that_changes_ends_the_stream_and_leaves_one_denial(site: Any, name: str) -> None:
    who, change = CHANGES[name]
    session = await site.session(who)
    view = await opened_page(site, session, PLAIN)
    stream = await site.stream(f"/streams/patients/{PLAIN.number}?view={view}", site.browser(session))
    await stream.event("parts")
    await change(site)
    assert await stream.event("leave", ENDS_WITHIN_S) == {"to": ""}
    assert await stream.ends(ENDS_WITHIN_S)
    events = await site.audit()
    assert said(events) == [("permitted", "patient"), ("denied", "patient")]
    assert {event["view"] for event in events} == {view}
    site.live.publish(house.twin_of(PLAIN, position=house.POSITION + 5, rate=177.0))
    await asyncio.sleep(0.3)
    assert "177" not in (await stream.close()).body.decode()
    again = await site.ask("GET", f"/api/patients/{PLAIN.number}?view={view}", site.browser(session))
    assert again.status == 404


@pytest.mark.parametrize("change", [refuses_sharing, shielded_by_adt], ids=["refuses sharing", "becomes a VIP"])
async def test_another_systems_stream_ends_when_its_patient_is_no_longer_shared(site: Any, change: Change) -> None:
    stream = await site.stream(f"/streams/patients/{PLAIN.number}", site.headers(EHR))
    await stream.event("parts")
    await change(site)
    assert await stream.event("leave", ENDS_WITHIN_S) == {"to": ""}
    assert await stream.ends(ENDS_WITHIN_S)
    assert said(await site.audit()) == [("permitted", "patient"), ("denied", "patient")]


async def test_a_glass_that_runs_out_ends_the_stream_it_opened(site: Any) -> None:
    session = await site.session(FAR_NURSE)
    form = {"identifier": PLAIN.mrn, "reason": "Found unresponsive in the corridor"}
    answer = await site.ask("POST", "/break-glass", site.browser(session), form)
    assert answer.status == 303
    view = await opened_page(site, session, PLAIN)
    stream = await site.stream(f"/streams/patients/{PLAIN.number}?view={view}", site.browser(session))
    await stream.event("parts")
    for _ in range(5):
        site.clock.advance(700)
        await site.access.identity.sessions.touch(session)
        await asyncio.sleep(0.25)
    await stream.event("pulse")
    assert "leave" not in stream.said
    site.clock.advance(101)
    assert await stream.event("leave", ENDS_WITHIN_S) == {"to": ""}
    events = await site.audit()
    assert said(events) == [("permitted", "break_glass"), ("permitted", "patient"), ("denied", "patient")]
    assert [event["purpose"] for event in events] == ["BTG", "BTG", "TREAT"]
    assert [event["break_glass_id"] is not None for event in events] == [True, True, False]


async def signed_out(site: Any, session: Any) -> None:
    assert (await site.ask("POST", "/auth/sign-out", site.browser(session))).status == 200


async def revoked(site: Any, session: Any) -> None:
    assert await site.access.identity.sessions.end(session)


async def removed_by_hand(site: Any, session: Any) -> None:
    await site.execute("delete from web_session where name = %s", session.name)


async def left_alone(site: Any, session: Any) -> None:
    site.clock.advance(site.app.state.context.settings.session_idle_s + 1)


@pytest.mark.parametrize("end", [signed_out, revoked, removed_by_hand, left_alone], ids=lambda end: end.__name__)
async def test_a_session_that_is_over_ends_its_streams_and_nothing_is_asked_in_its_name(site: Any, end: Any) -> None:
    session = await site.session(NURSE)
    view = await opened_page(site, session, PLAIN)
    stream = await site.stream(f"/streams/patients/{PLAIN.number}?view={view}", site.browser(session))
    await stream.event("parts")
    await end(site, session)
    assert await stream.event("leave", ENDS_WITHIN_S) == {"to": "/auth/signed-out"}
    assert await stream.ends(ENDS_WITHIN_S)
    later = await site.ask("GET", f"/api/patients/{PLAIN.number}", site.browser(session))
    assert (later.status, later.body) == (401, b"")
    # Nobody is left to be denied: the one event is that of signing out, where somebody did.
    after = [("permitted", "session")] if end is signed_out else []
    assert said(await site.audit()) == [("permitted", "patient"), *after]


async def test_a_board_drops_whom_its_viewer_may_no_longer_see_and_stays(site: Any) -> None:
    session = await site.session(NURSE)
    page = await site.ask("GET", "/", site.browser(session))
    assert PLAIN.family in page.body.decode()
    view = re.search(rb'view[="]+([0-9a-f]+\.[0-9a-f]+)', page.body)[1].decode()  # type: ignore[index]
    stream = await site.stream(f"/streams/board?view={view}", site.browser(session))
    first = await stream.event("beds")
    assert PLAIN.number in {bed["id"] for bed in first["beds"]}
    await shielded_by_hand(site)
    later = await stream.event("beds", ENDS_WITHIN_S)
    assert PLAIN.number not in later["everyone"]
    site.live.publish(house.twin_of(PLAIN, position=house.POSITION + 5, rate=177.0))
    await asyncio.sleep(0.5)
    assert "177" not in (await stream.close()).body.decode()


async def test_who_looked_at_a_record_before_it_was_merged_looked_at_the_person(site: Any) -> None:
    retired = house.PATIENTS[2]
    await site.ask("GET", f"/patients/{retired.number}", site.headers(NURSE))
    await site.registration.merge(PLAIN, retired)
    for number in (PLAIN.number, retired.number):
        for path in (f"/audit?patient={number}", f"/fhir/AuditEvent?patient=Patient/{number}"):
            assert NURSE.subject in (await site.ask("GET", path, site.headers(OFFICER))).body.decode(), path


# An audit that cannot be written -------------------------------------------------------------------------------------

SURFACES = [
    "/", "/wards/ICU-A", "/api/ward", "/streams/board", "/feeds", "/streams/feeds", "/break-glass",
    *(path.format(PLAIN) for path in (
        "/patients/{0.number}", "/streams/patients/{0.number}", "/api/patients/{0.number}",
        "/api/patients/{0.number}/snapshot", "/api/snapshots/{0.snapshot_id}", "/fhir/Patient/{0.number}",
        "/fhir/Patient/{0.number}/$twin-snapshot", "/fhir/Observation/{0.observation_id}",
        "/fhir/Patient?identifier={0.mrn}", "/fhir/Observation?patient={0.number}",
    )),
]  # fmt: skip
OFFICERS = ["/audit", "/reviews", "/fhir/AuditEvent", f"/audit?patient={PLAIN.number}"]
OFFICER = house.Person("sami", ("safety_officer",))


@asynccontextmanager
async def locked(site: Any) -> AsyncIterator[None]:
    async with await psycopg.AsyncConnection.connect(site.url) as connection:
        await connection.execute("lock table audit_event in access exclusive mode")
        yield
        await connection.rollback()


@asynccontextmanager
async def insert_revoked(site: Any) -> AsyncIterator[None]:
    await site.execute("revoke insert on audit_event from vigil_clinic")
    yield
    await site.execute("grant insert on audit_event to vigil_clinic")


@asynccontextmanager
async def table_away(site: Any) -> AsyncIterator[None]:
    await site.execute("alter table audit_event rename to audit_event_away")
    yield
    await site.execute("alter table audit_event_away rename to audit_event")


@asynccontextmanager
async def no_database(site: Any) -> AsyncIterator[None]:
    name = conninfo_to_dict(site.url)["dbname"]
    elsewhere = make_conninfo(site.url, dbname="postgres")

    async def say(statement: str) -> None:
        async with await psycopg.AsyncConnection.connect(elsewhere, autocommit=True) as connection:
            await connection.execute(statement)  # type: ignore[arg-type]

    await say(f"alter database {name} with allow_connections false")
    await say(f"select pg_terminate_backend(pid) from pg_stat_activity where datname = '{name}'")
    try:
        yield
    finally:
        await say(f"alter database {name} with allow_connections true")


FAULTS = {"locked": locked, "may not insert": insert_revoked, "no such table": table_away, "no database": no_database}


@pytest.mark.parametrize("fault", FAULTS)
async def test_without_an_audit_nothing_is_shown_anywhere(site: Any, fault: str) -> None:
    before = {path: await site.ask("GET", path, site.headers(NURSE)) for path in SURFACES}
    assert {answer.status for answer in before.values()} == {200}
    count = len(await site.audit())
    async with FAULTS[fault](site):
        asked = [(path, NURSE) for path in SURFACES] + [(path, OFFICER) for path in OFFICERS]
        answers = await asyncio.gather(*(site.ask("GET", path, site.headers(who)) for path, who in asked))
    for (path, _), answer in zip(asked, answers, strict=True):
        assert not any(one.family in answer.body.decode() for one in house.EVERYBODY), path
        assert str(PLAIN.number) not in answer.body.decode(), path
    assert {path: answer.status for (path, _), answer in zip(asked, answers, strict=True)} == {
        path: 503 for path, _ in asked
    }
    after = await site.audit()
    assert len(after) <= count + len(asked)  # one that was given up may yet have been written; never more than asked
    again = await site.ask("GET", SURFACES[-3], site.headers(NURSE))
    assert again.status == 200  # and it goes on by itself


@pytest.mark.parametrize("fault", FAULTS)
async def test_without_an_audit_nothing_is_done(site: Any, fault: str) -> None:
    (glass,) = await house.put_glasses(site.url, f"{house.ISSUER}|x", [house.FAR])
    acts = [
        ("/break-glass", {"identifier": house.FAR.mrn, "reason": "Found unresponsive in the corridor"}, NURSE),
        (f"/reviews/{glass}", {"verdict": "justified", "note": "ok"}, OFFICER),
    ]
    async with FAULTS[fault](site):
        answers = [await site.ask("POST", path, site.headers(who), form) for path, form, who in acts]
    assert [answer.status for answer in answers] == [503, 503]
    async with await psycopg.AsyncConnection.connect(site.url) as connection:
        for table, rows in (("break_glass", 1), ("break_glass_review", 0), ("notification", 0)):
            cursor = await connection.execute(f"select count(*) from {table}")  # type: ignore[arg-type]
            assert await cursor.fetchone() == (rows,), table


async def test_a_connection_that_was_cut_costs_no_event_and_doubles_none(site: Any) -> None:
    assert (await site.ask("GET", f"/api/patients/{PLAIN.number}", site.headers(NURSE))).status == 200
    for count in range(2, 5):
        await site.execute(
            "select pg_terminate_backend(pid) from pg_stat_activity where datname = current_database() "
            "and pid <> pg_backend_pid() and query ilike '%%audit_event%%' or "
            "datname = current_database() and pid <> pg_backend_pid() and query ilike 'commit%%'"
        )
        answer = await site.ask("GET", f"/api/patients/{PLAIN.number}", site.headers(NURSE))
        while answer.status == 503:  # the pools' own connections were cut as well: the next one is new
            answer = await site.ask("GET", f"/api/patients/{PLAIN.number}", site.headers(NURSE))
        assert answer.status == 200
        assert len(await site.audit()) == count
