"""Breaking the glass, its review, and the audit: what is answered, shown and recorded."""

from __future__ import annotations

import hashlib
import re
from html import unescape
from urllib.parse import quote

import pytest
from fhir.resources.R4B.auditevent import AuditEvent
from fhir.resources.R4B.bundle import Bundle

REASON = "Found unresponsive in the corridor"


def _fault(page: str) -> str:
    return unescape(re.findall(r'<p class="fault" role="alert">([^<]*)</p>', page)[0])


async def test_a_broken_glass_opens_one_page_with_a_banner_and_is_recorded(house) -> None:
    nurse = await house.as_("nurse")
    assert (await nurse.get("/patients/9")).status_code == 404
    opened = await nurse.post("/break-glass", data={"identifier": " MRN-9 ", "reason": REASON})
    assert (opened.status_code, opened.headers["location"]) == (303, "/patients/9")
    page = (await nurse.get("/patients/9")).text
    assert "Berg" in page
    assert "Glass broken" in page
    assert "will be reviewed" in page
    denied, broke, looked = [event.entry for event in await house.audit()]
    assert (denied.outcome, broke.outcome, looked.outcome) == ("denied", "permitted", "permitted")
    assert (broke.surface, broke.verb, broke.patient_id) == ("break_glass", "open", 9)
    assert REASON not in broke.detail
    assert (looked.purpose, looked.break_glass_id) == ("BTG", broke.break_glass_id)
    house.wall_clock.advance(3600)
    assert (await (await house.as_("nurse")).get("/patients/9")).status_code == 404  # and it closes by itself


async def test_the_answer_is_the_same_whether_a_patient_is_unknown_or_not_to_be_had(house) -> None:
    await house.execute("update patient set merged_into = 9 where patient_id = 10")  # one more way to be nobody
    nurse = await house.as_("nurse")
    answers = []
    for identifier in ("MRN-404", "x" * 500, "\x00", "'; drop table patient; --"):
        answer = await nurse.post("/break-glass", data={"identifier": identifier, "reason": REASON})
        answers.append((answer.status_code, _fault(answer.text)))
    assert len(set(answers)) == 1
    assert answers[0][0] == 409
    entries = [event.entry for event in await house.audit()]
    assert [entry.outcome for entry in entries] == ["denied"] * 4
    assert {entry.patient_id for entry in entries} == {None}  # no number of anybody's


async def test_who_may_break_none_is_not_told_that_there_is_a_form(house) -> None:
    for who in ("data_engineer", "safety_officer", "model_author", "nobody_much"):
        client = await house.as_(who)
        answer = await client.post("/break-glass", data={"identifier": "MRN-9", "reason": REASON})
        absent = await client.post("/nothing-at-all", data={"identifier": "MRN-9", "reason": REASON})
        assert (answer.status_code, answer.content) == (404, absent.content), who
        assert "Break the glass" not in (await client.get("/me")).text
    outcomes = [event.entry.outcome for event in await house.audit()]
    assert outcomes == ["denied"] * 4


async def test_a_reason_that_says_nothing_is_told_before_anybody_is_looked_up(house) -> None:
    nurse = await house.as_("nurse")
    faults = set()
    for identifier in ("MRN-9", "MRN-404"):
        answer = await nurse.post("/break-glass", data={"identifier": identifier, "reason": "asap"})
        assert answer.status_code == 409
        faults.add(_fault(answer.text))
        assert f'value="{identifier}"' in answer.text  # nothing is typed twice
    [fault] = faults
    assert "at least" in fault


async def test_what_is_typed_comes_back_as_text(house) -> None:
    nurse = await house.as_("nurse")
    answer = await nurse.post("/break-glass", data={"identifier": '"><script>x', "reason": "</textarea><script>y"})
    assert "<script>x" not in answer.text
    assert "<script>y" not in answer.text


async def test_an_unreviewed_glass_stands_in_the_way_of_the_next(house) -> None:
    nurse = await house.as_("nurse")
    await nurse.post("/break-glass", data={"identifier": "MRN-9", "reason": REASON})
    house.wall_clock.advance(3601)
    nurse = await house.as_("nurse")
    second = await nurse.post("/break-glass", data={"identifier": "MRN-8", "reason": REASON})
    assert second.status_code == 409
    assert "has not been reviewed yet" in _fault(second.text)
    officer = await house.as_("safety_officer")
    [glass_id] = re.findall(r'action="/reviews/(\d+)"', (await officer.get("/reviews")).text)
    judged = await officer.post(f"/reviews/{glass_id}", data={"verdict": "justified", "note": "Seen with the ward."})
    assert (judged.status_code, judged.headers["location"]) == (303, "/reviews")
    third = await nurse.post("/break-glass", data={"identifier": "MRN-8", "reason": REASON})
    assert third.headers["location"] == "/patients/8"


async def test_the_reviewers_page_tells_who_when_whom_why_and_what_was_looked_at(house) -> None:
    nurse = await house.as_("nurse")
    await nurse.post("/break-glass", data={"identifier": "MRN-9", "reason": f"{REASON} <b>now</b>"})
    await nurse.get("/patients/9")
    await nurse.get("/api/patients/9")
    officer = await house.as_("data_protection_officer")
    page = (await officer.get("/reviews")).text
    for said in ("Nurse", "<dd>9</dd>", f"{REASON} &lt;b&gt;now&lt;/b&gt;", "2 looks recorded", "still open"):
        assert said in page, said
    assert "Berg" not in page  # a number: reviewers do not see the patient
    [glass_id] = re.findall(r'action="/reviews/(\d+)"', page)
    short = await officer.post(f"/reviews/{glass_id}", data={"verdict": "not_justified", "note": ""})
    assert short.status_code == 409
    assert "why it was not justified" in _fault(short.text)
    await officer.post(f"/reviews/{glass_id}", data={"verdict": "not_justified", "note": "Not in the corridor"})
    again = await officer.post(f"/reviews/{glass_id}", data={"verdict": "justified", "note": ""})
    assert again.status_code == 409
    page = (await officer.get("/reviews")).text
    assert "not justified" in page
    assert "Not in the corridor" in page
    last = [event.entry for event in await house.audit() if event.entry.verb == "review"]
    assert [entry.outcome for entry in last] == ["denied", "permitted", "denied"]


async def test_only_reviewers_review_and_nobody_their_own(house, guarded) -> None:
    from governance.access import Role

    both = guarded.person(Role.PHYSICIAN, "s-both", units=frozenset({"MED-3"}))
    both = type(both)(**{**{f: getattr(both, f) for f in both.__struct_fields__},
                         "roles": frozenset({Role.PHYSICIAN, Role.SAFETY_OFFICER})})  # fmt: skip
    client = await house.as_(both)
    await client.post("/break-glass", data={"identifier": "MRN-8", "reason": REASON})
    page = (await client.get("/reviews")).text
    assert "You broke it yourself" in page
    assert 'action="/reviews/' not in page
    [event] = [event.entry for event in await house.audit() if event.entry.surface == "break_glass"]
    own = await client.post(f"/reviews/{event.break_glass_id}", data={"verdict": "justified", "note": ""})
    assert own.status_code == 409
    nurse = await house.as_("nurse")
    for path in (f"/reviews/{event.break_glass_id}", "/reviews/123", "/reviews/x"):
        assert (await nurse.post(path, data={"verdict": "justified", "note": ""})).status_code == 404
    officer = await house.as_("safety_officer")
    assert (await officer.post("/reviews/123", data={"verdict": "justified", "note": ""})).status_code == 404
    assert (await officer.post("/reviews/123", data={"verdict": "perhaps", "note": ""})).status_code == 400


async def test_the_audit_is_searched_by_patient_person_day_and_outcome(house) -> None:
    nurse = await house.as_("nurse")
    for path in ("/patients/7", "/patients/9", "/patients/10", "/api/ward"):
        await nurse.get(path)
    officer = await house.as_("safety_officer")

    async def rows(query: str) -> list[str]:
        page = (await officer.get(f"/audit?{query}")).text
        return re.findall(r"/fhir/AuditEvent/(clinic\.\d+)", page)

    assert await rows("patient=7") == ["clinic.5", "clinic.1"]  # who asked about a patient has looked, too
    assert await rows("patient=404") == []
    assert await rows("outcome=denied&agent=https://login.test|s-nurse") == ["clinic.2"]
    assert len(await rows("day=2026-01-01")) >= 4
    assert await rows("day=2025-12-31") == []
    assert await rows("agent=nobody%00") == []
    assert len(await rows("day=nonsense&surface=nonsense&cursor=nonsense")) >= 4
    searched = [event.entry for event in await house.audit() if event.entry.surface == "audit"]
    assert len(searched) == 7  # each search is one event itself
    assert "s-nurse" in searched[2].detail


async def test_old_events_are_reached_page_by_page_each_once(house, guarded) -> None:
    nurse = await house.as_("nurse")
    for _ in range(25):
        await nurse.get("/api/ward")  # all of one microsecond: the clock stands still
    officer = await house.as_("safety_officer")
    seen: list[str] = []
    address = "/fhir/AuditEvent?agent=https://login.test|s-nurse&_count=10"
    while address:
        bundle = (await officer.get(address)).json()
        seen += [entry["resource"]["id"] for entry in bundle["entry"]]
        address = next((link["url"] for link in bundle["link"] if link["relation"] == "next"), "")
    assert len(seen) == 25
    assert len(set(seen)) == 25


async def test_audit_events_are_valid_fhir(house) -> None:
    nurse = await house.as_("nurse")
    for path in ("/patients/7", "/patients/9", "/fhir/Patient?identifier=MRN-7"):
        await nurse.get(path)
    officer = await house.as_("safety_officer")
    answer = await officer.get("/fhir/AuditEvent?date=2026-01-01&_count=2")
    assert answer.headers["content-type"] == "application/fhir+json"
    bundle = Bundle.model_validate_json(answer.content)
    assert len(bundle.entry) == 2
    one = await officer.get("/fhir/AuditEvent/clinic.1")
    AuditEvent.model_validate_json(one.content)
    assert one.json()["entity"][0]["what"] == {"reference": "Patient/7"}
    for missing in ("clinic.999999", "nobody.1", "x", "clinic.x", "clinic.99999999999999999999"):
        assert (await officer.get(f"/fhir/AuditEvent/{missing}")).status_code == 404, missing
    for bad in ("patient=x", "date=x", "_count=x", "_cursor=x"):
        assert (await officer.get(f"/fhir/AuditEvent?{bad}")).status_code == 400, bad
    for extreme in ("0001-01-01T00:00:00%2B14:00", "ge0001", "le9999-12-31T23:59:59-14:00", "9999-12-31"):
        assert (await officer.get(f"/fhir/AuditEvent?date={extreme}")).status_code in {200, 400}, extreme


@pytest.mark.parametrize("text", ["Ingrid Hansen 1954-06-02", "Hansen", "|Hansen", "Hansen|", "a|b Hansen"])
@pytest.mark.parametrize("address", ["/audit?agent={}", "/fhir/AuditEvent?agent={}"])
async def test_a_name_somebody_searches_the_audit_for_does_not_get_into_it(house, address: str, text: str) -> None:
    officer = await house.as_("safety_officer")
    assert (await officer.get(address.format(quote(text)))).status_code == 200
    [event] = await house.audit()
    assert "Hansen" not in event.entry.detail
    assert hashlib.sha256(text.encode()).hexdigest()[:16] in event.entry.detail  # two searches for the same are seen
