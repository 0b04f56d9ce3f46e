"""Breaking the glass: a reason, one patient, a time limit; told at once, judged after; nothing learnt by trying."""

from __future__ import annotations

import asyncio
import json

import httpx
import pytest

from governance import break_glass
from governance.access import Ask, Role, Surface, Verb
from governance.audit import Auditor
from governance.break_glass import GlassRefusedError, deliver_notifications, reason_digest
from stores import access
from stores.pool import Pool
from vocabulary.errors import RefusedError, UnavailableError

REASON = "Cardiac arrest in the corridor, Carla Canary"
READ = Ask(surface=Surface.PATIENT, verb=Verb.READ, patient_id=1)


@pytest.fixture
async def ward(house):
    """Two patients on a ward that is not Nora's."""
    for patient_id in (1, 2):
        await house.admit(patient_id, "MED-3")
    return house


@pytest.fixture
def nora(person):
    return person(Role.NURSE, units=("ICU-A",))


@pytest.fixture
def sami(person):
    return person(Role.SAFETY_OFFICER, name="Sami Aalto", session="s9")


async def refusal(awaitable) -> str:
    with pytest.raises(GlassRefusedError) as refused:
        await awaitable
    return refused.value.rule


async def test_an_opened_glass_lets_its_person_read_and_is_told_and_recorded(ward, gate, nora):
    assert not (await gate.ask(nora, READ)).is_permitted
    glass = await gate.open_break_glass(nora, 1, f"  {REASON}\n ")
    assert (glass.patient_id, glass.reason, glass.role) == (1, REASON, "nurse")
    assert glass.expires_at_us - glass.opened_at_us == 3_600_000_000
    decision = await gate.ask(nora, READ)
    assert (decision.is_permitted, decision.break_glass_id) == (True, glass.break_glass_id)
    _, opened, read = await ward.events()
    assert (opened.surface, opened.verb, opened.outcome, opened.purpose) == ("break_glass", "open", "permitted", "BTG")
    assert (opened.patient_id, opened.break_glass_id, opened.rule) == (
        1,
        glass.break_glass_id,
        "carers-break-the-glass",
    )
    assert (read.purpose, read.break_glass_id) == ("BTG", glass.break_glass_id)
    assert await ward.row("select count(*) from notification where delivered_at_us is null") == (1,)


async def test_the_audit_holds_the_reasons_digest_and_not_its_words(ward, gate, nora):
    glass = await gate.open_break_glass(nora, 1, REASON)
    (event,) = await ward.events()
    assert "Canary" not in repr(event)
    assert json.loads(event.detail)["reason_sha256"] == reason_digest(glass.reason_salt, REASON)
    assert reason_digest(glass.reason_salt, REASON + ".") != reason_digest(glass.reason_salt, REASON)
    assert len(glass.reason_salt) == 16


async def test_a_reason_says_something(ward, gate, nora):
    reasons = ["", "short", "emergency!", "ab cd", "............ ......", "  a   b  "]
    for reason in reasons:
        assert await refusal(gate.open_break_glass(nora, 1, reason)) == "reason-too-short"
    assert [(e.outcome, e.rule) for e in await ward.events()] == [("denied", "reason-too-short")] * len(reasons)
    assert await ward.row("select count(*) from break_glass") == (0,)


async def test_carers_may_break_a_glass_and_nobody_else(ward, gate, person):
    carers = {Role.NURSE, Role.PHYSICIAN, Role.CHARGE_NURSE}
    for role in Role:
        opening = gate.open_break_glass(person(role, name=f"{role} Somebody"), 1, REASON)
        if role in carers:
            assert (await opening).role == role
        else:
            assert await refusal(opening) == "default-deny"
    assert [(e.agent_name, e.outcome) for e in await ward.events()] == [
        (f"{role} Somebody", "permitted" if role in carers else "denied") for role in Role
    ]


async def test_who_is_refused_learns_nothing_about_who_exists(ward, gate, nora, person):
    """A glass that stands in the way, a short reason, a wrong role: the same for a patient and for nobody."""
    engineer = person(Role.DATA_ENGINEER)
    said = {}
    for patient_id in (2, 999):
        answers = []
        for who, reason in ((engineer, REASON), (nora, "short")):
            with pytest.raises(RefusedError) as refused:
                await gate.open_break_glass(who, patient_id, reason)
            answers.append(str(refused.value))
        said[patient_id] = answers
    assert said[2] == said[999]
    await gate.open_break_glass(nora, 1, REASON)
    assert {await refusal(gate.open_break_glass(nora, patient_id, REASON)) for patient_id in (2, 999)} == {
        "another-is-open"
    }


async def test_a_patient_nobody_has_cannot_be_opened_and_reads_as_not_permitted(ward, gate, nora, person):
    texts = set()
    for who, patient_id in ((nora, 999), (person(Role.DATA_ENGINEER), 1)):
        with pytest.raises(RefusedError) as refused:
            await gate.open_break_glass(who, patient_id, REASON)
        texts.add(str(refused.value))
    assert len(texts) == 1
    assert [e.rule for e in await ward.events()] == ["unknown-patient", "default-deny"]


async def test_a_glass_is_not_broken_for_a_patient_one_may_see(ward, gate, person):
    chidi = person(Role.CHARGE_NURSE, name="Chidi Okafor", units=("MED-3",))
    assert await refusal(gate.open_break_glass(chidi, 1, REASON)) == "not-needed"
    await ward.flag(1, True)
    assert (await gate.open_break_glass(chidi, 1, REASON)).patient_id == 1


async def test_one_glass_at_a_time_and_none_before_the_last_was_reviewed(ward, gate, nora, sami):
    first = await gate.open_break_glass(nora, 1, REASON)
    assert await refusal(gate.open_break_glass(nora, 2, REASON)) == "another-is-open"
    assert await refusal(gate.open_break_glass(nora, 1, REASON)) == "another-is-open"
    ward.clock.advance(3600)
    assert await refusal(gate.open_break_glass(nora, 2, REASON)) == "waits-for-review"
    ward.clock.advance(30 * 24 * 3600)
    assert await refusal(gate.open_break_glass(nora, 2, REASON)) == "waits-for-review"
    await gate.review(sami, first.break_glass_id, "justified")
    assert (await gate.open_break_glass(nora, 2, REASON)).patient_id == 2


async def test_a_review_before_the_end_does_not_close_a_glass_nor_open_the_way_to_another(ward, gate, nora, sami):
    glass = await gate.open_break_glass(nora, 1, REASON)
    await gate.review(sami, glass.break_glass_id, "justified")
    assert (await gate.ask(nora, READ)).is_permitted
    assert await refusal(gate.open_break_glass(nora, 2, REASON)) == "another-is-open"
    ward.clock.advance(3600)
    assert (await gate.open_break_glass(nora, 2, REASON)).patient_id == 2


async def test_others_are_not_held_up_by_ones_glass(ward, gate, nora, person):
    await gate.open_break_glass(nora, 1, REASON)
    await gate.open_break_glass(person(Role.NURSE, name="Chidi Okafor"), 1, REASON)
    assert await ward.row("select count(*) from break_glass") == (2,)


async def test_of_many_requests_at_once_one_glass_is_broken(ward, gate, nora):
    """From two processes, each with a gate and a chain of its own: only the database can tell them apart."""
    other_auditor = Auditor(ward.connect, "clinic-2", None, None, ward.clock)
    other = ward.gate(other_auditor)
    results = await asyncio.gather(
        *(each.open_break_glass(nora, 1 + number % 2, REASON) for number in range(6) for each in (gate, other)),
        return_exceptions=True,
    )
    assert sum(not isinstance(result, BaseException) for result in results) == 1
    assert {result.rule for result in results if isinstance(result, BaseException)} == {"another-is-open"}
    assert await ward.row("select count(*) from break_glass") == (1,)
    assert await ward.row("select count(*) from notification") == (1,)
    events = await ward.events()
    assert sorted(event.outcome for event in events) == ["denied"] * 11 + ["permitted"]
    await other.close()
    await other_auditor.close()


async def test_a_glass_that_cannot_be_recorded_is_not_broken(ward, nora, sami, gate):
    async with ward.writing() as connection:  # as if the disk were full for audit alone
        await connection.execute(
            "create function refuse() returns trigger language plpgsql as "
            "$$ begin raise exception using errcode = 'disk_full', message = 'full'; end $$"
        )
        await connection.execute(
            "create trigger refuse before insert on audit_event for each row execute function refuse()"
        )
    with pytest.raises(UnavailableError):
        await gate.open_break_glass(nora, 1, REASON)
    assert await ward.row("select count(*) from break_glass") == (0,)
    assert await ward.row("select count(*) from notification") == (0,)
    await ward.break_for(nora, 1, 5)
    with pytest.raises(UnavailableError):
        await gate.review(sami, 5, "justified")
    assert await ward.row("select count(*) from break_glass_review") == (0,)


async def test_a_review_is_one_event_and_stands(ward, gate, nora, sami):
    glass = await gate.open_break_glass(nora, 1, REASON)
    assert [each.break_glass_id for each in await gate.pending_reviews(sami)] == [glass.break_glass_id]
    reviewed = await gate.review(sami, glass.break_glass_id, "not_justified", "The ward's own nurse was there.")
    assert (reviewed.reviewer_name, reviewed.verdict) == ("Sami Aalto", "not_justified")
    assert await gate.pending_reviews(sami) == []
    (kept,) = await gate.recent_reviews(sami)
    assert kept == reviewed
    event = (await ward.events())[-1]
    assert (event.surface, event.verb, event.outcome, event.patient_id) == ("review", "review", "permitted", 1)
    assert json.loads(event.detail) == {"reviewed": glass.break_glass_id, "verdict": "not_justified"}
    assert len(await ward.events()) == 2


async def test_nobody_judges_their_own_glass(ward, gate, person):
    both = person(Role.PHYSICIAN, Role.SAFETY_OFFICER, name="Pavel Novak", practitioner="P-NOVAK")
    glass = await gate.open_break_glass(both, 1, REASON)
    assert await refusal(gate.review(both, glass.break_glass_id, "justified")) == "own-glass"
    elsewhere = person(Role.SAFETY_OFFICER, name="Same Person", practitioner="P-NOVAK")
    assert await refusal(gate.review(elsewhere, glass.break_glass_id, "justified")) == "own-glass"
    assert [e.rule for e in await ward.events()][1:] == ["own-glass", "own-glass"]
    assert await ward.row("select count(*) from break_glass_review") == (0,)


async def test_a_review_needs_the_role(ward, gate, nora, person):
    glass = await gate.open_break_glass(nora, 1, REASON)
    texts = set()
    others = [role for role in Role if role not in {Role.SAFETY_OFFICER, Role.DATA_PROTECTION_OFFICER}]
    for role in others:
        other = person(role, name="Other Person")
        for number in (glass.break_glass_id, 424242):
            with pytest.raises(RefusedError) as refused:
                await gate.review(other, number, "justified")
            texts.add(str(refused.value))
        if role is not Role.OPERATOR:
            with pytest.raises(RefusedError):
                await gate.pending_reviews(other)
            with pytest.raises(RefusedError):
                await gate.recent_reviews(other)
    assert len(texts) == 1, "whether there is such a glass is not told"
    assert [e.outcome for e in await ward.events()][1:] == ["denied"] * 2 * len(others)


async def test_a_glass_is_judged_once(ward, gate, nora, sami, person):
    glass = await gate.open_break_glass(nora, 1, REASON)
    petra = person(Role.DATA_PROTECTION_OFFICER, name="Petra Klein")
    results = await asyncio.gather(
        gate.review(sami, glass.break_glass_id, "justified"),
        gate.review(petra, glass.break_glass_id, "justified"),
        return_exceptions=True,
    )
    assert sorted(isinstance(result, GlassRefusedError) for result in results) == [False, True]
    assert await ward.row("select count(*) from break_glass_review") == (1,)


async def test_a_review_waits_for_one_under_way_and_is_then_too_late(ward, gate, nora, sami):
    glass = await gate.open_break_glass(nora, 1, REASON)
    async with ward.writing() as connection:
        await access.lock_glass(connection, glass.break_glass_id)
        await access.put_review(
            connection, glass.break_glass_id, reviewer="i|petra", reviewer_name="Petra", reviewed_at_us=1,
            verdict="justified", note="",
        )  # fmt: skip
        second = asyncio.create_task(gate.review(sami, glass.break_glass_id, "justified"))
        await asyncio.sleep(0.3)
        assert not second.done()
    assert await refusal(second) == "reviewed-already"


async def test_an_adverse_verdict_says_why(ward, gate, nora, sami):
    glass = await gate.open_break_glass(nora, 1, REASON)
    assert await refusal(gate.review(sami, glass.break_glass_id, "not_justified", " ")) == "note-too-short"


class Receiver:
    """Somebody who is told; answers as it is told to."""

    def __init__(self):
        self.bodies = []
        self.status = 200
        self.fails = False

    def __call__(self, request: httpx.Request) -> httpx.Response:
        if self.fails:
            raise httpx.ConnectError("no route")
        self.bodies.append(request.content.decode())
        return httpx.Response(self.status)


@pytest.fixture
async def told(ward):
    """Deliver once, and the one who is told."""
    receiver = Receiver()
    pool = Pool(ward.connect, 2)
    async with httpx.AsyncClient(transport=httpx.MockTransport(receiver)) as http:

        async def deliver() -> int:
            return await deliver_notifications(pool, http, "https://pager.test/x", "demo", ward.clock)

        yield deliver, receiver
    await pool.close()


async def test_a_broken_glass_is_told_once_and_without_patient_data(ward, gate, nora, told):
    deliver, receiver = told
    glass = await gate.open_break_glass(nora, 1, REASON)
    assert await deliver() == 1
    assert await deliver() == 0
    (body,) = receiver.bodies
    said = json.loads(body)
    assert (said["event"], said["break_glass"], said["role"]) == ("break_glass_opened", glass.break_glass_id, "nurse")
    assert set(said) == {"event", "site", "notification", "break_glass", "role", "opened_at_us", "expires_at_us"}
    assert not any(word in body for word in ("Canary", "Carla", "Cardiac", "patient", "Nora"))


async def test_what_nobody_takes_is_tried_again_later_each_time_and_shown(ward, gate, nora, sami, told):
    deliver, receiver = told
    await gate.open_break_glass(nora, 1, REASON)
    receiver.fails = True
    assert await deliver() == 0
    (glass,) = await gate.pending_reviews(sami)
    assert (glass.attempts, glass.last_fault, glass.delivered_at_us) == (1, "ConnectError", None)
    ward.clock.advance(4.9)
    assert await deliver() == 0
    assert (await gate.pending_reviews(sami))[0].attempts == 1, "not due yet"
    ward.clock.advance(0.2)
    receiver.fails, receiver.status = False, 503
    assert await deliver() == 0
    assert (await gate.pending_reviews(sami))[0].last_fault == "HTTP 503"
    ward.clock.advance(9.9)
    assert await deliver() == 0
    assert (await gate.pending_reviews(sami))[0].attempts == 2
    ward.clock.advance(0.2)
    receiver.status = 302
    assert await deliver() == 0, "a redirect is nobody"
    receiver.status = 204
    ward.clock.advance(24 * 3600)
    assert await deliver() == 1
    (glass,) = await gate.pending_reviews(sami)
    assert (glass.last_fault, glass.delivered_at_us) == ("", ward.clock.now_us())


async def test_two_processes_do_not_tell_the_same(ward, gate, nora, told, person):
    deliver, receiver = told
    for name in ("Nora Lind", "Chidi Okafor", "Pavel Novak"):
        await gate.open_break_glass(person(Role.NURSE, name=name), 1, REASON)
    assert sum(await asyncio.gather(*(deliver() for _ in range(4)))) == 3
    assert len(receiver.bodies) == 3


async def test_a_process_that_dies_while_telling_leaves_the_notice_to_another(ward, gate, nora, told, monkeypatch):
    deliver, _ = told
    await gate.open_break_glass(nora, 1, REASON)

    async def dies(*arguments):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(break_glass, "_post", dies)
        with pytest.raises(KeyboardInterrupt):
            await deliver()
    assert await deliver() == 0
    ward.clock.advance(60)
    assert await deliver() == 1
