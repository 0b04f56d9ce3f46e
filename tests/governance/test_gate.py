"""Facts, decision and exactly one event: on the real policy, audit log and database."""

from __future__ import annotations

import asyncio
import itertools
import json
import tomllib
from pathlib import Path

import msgspec
import pytest

from governance.access import Ask, PatientFacts, Purpose, Relationship, Role, Surface, Verb
from governance.audit import Auditor
from governance.gate import Gate, read_facts
from stores import access
from stores.ledger import detail_of
from vocabulary.errors import RefusedError, UnavailableError

TABLE = tomllib.loads((Path(__file__).resolve().parents[2] / "governance" / "policy.toml").read_text())["row"]
READ = Ask(surface=Surface.PATIENT, verb=Verb.READ, patient_id=1)
NOBODY_HAS = 999


def table_permits(role, surface, verb, purpose, about, rank, vip, secondary, sharing, glass):
    """The table, read by hand: whether any row permits."""
    for row in TABLE:
        for standing in (rank, 2) if glass and row.get("break_glass") else (rank,):
            if (
                (row["surface"], row["about"]) == (surface, about)
                and verb in row["verbs"]
                and purpose in row["purposes"]
                and role in row["roles"]
                and standing >= ("none", "unit", "treating").index(row.get("relationship", "none"))
                and (not vip or {"allow": True, "only_treating": standing == 2, "deny": False}[row.get("vip", "allow")])
                and {"secondary": secondary, "sharing": sharing, None: True}[row.get("consent")]
            ):
                return True
    return False


async def test_each_cell_of_the_matrix_is_decided_as_the_table_says_and_leaves_one_event(house, gate, person):
    patients = list(enumerate(itertools.product((False, True), repeat=3), start=1))
    for patient_id, (vip, secondary, sharing) in patients:
        await house.admit(patient_id, by="P-NOVAK", vip=vip)
        for scope, is_permitted in (("secondary", secondary), ("sharing", sharing)):
            if not is_permitted:
                await house.consent(patient_id, scope, False)
    asked = [
        (Surface.PATIENT, Verb.READ), (Surface.EXPORT, Verb.EXPORT), (Surface.BREAK_GLASS, Verb.OPEN),
        (Surface.AUDIT, Verb.SEARCH),
    ]  # fmt: skip
    standings = {
        0: {"units": ("MED-3",)},
        1: {"units": ("ICU-A",)},
        2: {"units": (), "practitioner": "P-NOVAK"},
    }
    wanted, asks = [], []
    for number, (role, rank, glass) in enumerate(itertools.product(Role, standings, (False, True))):
        who = person(role, name=f"n{number} {role} {rank} {glass}", **standings[rank])
        if glass:
            for patient_id, _ in patients:
                await house.break_for(who, patient_id, 1 + number * 100 + patient_id)
        for (surface, verb), (patient_id, (vip, secondary, sharing)) in itertools.product(asked, patients):
            purpose = gate.purpose_for(who, surface, verb) or Purpose.TREATMENT
            permits = table_permits(role, surface, verb, purpose, "patient", rank, vip, secondary, sharing, glass)
            wanted.append(permits)
            asks.append((who, Ask(surface=surface, verb=verb, purpose=purpose, patient_id=patient_id)))
    for role, surface, verb in itertools.product(Role, Surface, Verb):
        who = person(role, name=f"house {role}")
        purpose = gate.purpose_for(who, surface, verb) or Purpose.TREATMENT
        wanted.append(table_permits(role, surface, verb, purpose, "house", 0, False, True, True, False))
        asks.append((who, Ask(surface=surface, verb=verb, purpose=purpose)))
    assert len(asks) >= 3_000

    decisions = []
    for start in range(0, len(asks), 200):
        decisions += await asyncio.gather(*(gate.ask(*each) for each in asks[start : start + 200]))
    assert [decision.is_permitted for decision in decisions] == wanted
    assert 200 < sum(wanted) < len(wanted)

    events = await house.events()
    assert len(events) == len(asks)

    def said(principal, ask, decision):
        purpose = ask.purpose if decision.break_glass_id is None else "BTG"
        outcome = "permitted" if decision.is_permitted else "denied"
        return (
            principal.agent, ask.surface, ask.verb, purpose, ask.patient_id or 0, outcome, decision.rule,
            decision.break_glass_id or 0,
        )  # fmt: skip

    told = [
        (e.agent, e.surface, e.verb, e.purpose, e.patient_id or 0, e.outcome, e.rule, e.break_glass_id or 0)
        for e in events
    ]
    pairs = zip(asks, decisions, strict=True)
    assert sorted(told) == sorted(said(*each, decision) for each, decision in pairs)
    assert {event.policy for event in events} == {gate.policy.digest[:16]}


async def test_an_unknown_patient_is_denied_as_a_forbidden_one_and_the_audit_knows_which(house, gate, person):
    await house.admit(1, "MED-3")
    nora = person(Role.NURSE, units=("ICU-A",))
    forbidden = await gate.ask(nora, READ)
    unknown = await gate.ask(nora, msgspec.structs.replace(READ, patient_id=NOBODY_HAS))
    assert (forbidden.is_permitted, unknown.is_permitted) == (False, False)
    first, second = await house.events()
    assert [(e.outcome, e.rule, e.patient_id) for e in (first, second)] == [
        ("denied", "default-deny", 1), ("denied", "unknown-patient", NOBODY_HAS),
    ]  # fmt: skip


async def test_a_number_no_patient_can_have_is_denied_and_recorded(house, gate, person):
    numbers = [0, -1, 2**63, 10**30]
    for number in numbers:
        decision = await gate.ask(person(Role.NURSE), msgspec.structs.replace(READ, patient_id=number))
        assert decision.rule == "unknown-patient"
    for event, number in zip(await house.events(), numbers, strict=True):
        assert (event.patient_id, event.outcome) == (None, "denied")
        assert json.loads(event.detail) == {"asked_as": str(number)}


async def test_what_changes_counts_from_the_next_ask_on(house, gate, person):
    nora = person(Role.NURSE, units=("ICU-A",))
    ehr = person(Role.SERVICE, name="EHR")
    await house.admit(1)

    async def sees(who=nora) -> bool:
        return (await gate.ask(who, READ)).is_permitted

    assert await sees()
    await house.transfer(1, "ICU-A", "MED-3")
    assert not await sees()
    await house.transfer(1, "MED-3", "ICU-A")
    assert await sees()
    await house.flag(1, True)
    assert not await sees()
    await house.flag(1, False)
    assert await sees()
    assert await sees(ehr)
    await house.consent(1, "sharing", False)
    assert not await sees(ehr)
    await house.consent(1, "sharing", True)
    assert await sees(ehr)


async def test_a_broken_glass_is_for_one_person_one_patient_and_until_it_ends(house, gate, person):
    nora, chidi = person(Role.NURSE), person(Role.NURSE, name="Chidi Okafor")
    await house.admit(1)
    await house.admit(2)
    await house.break_for(nora, 1, 11)
    decision = await gate.ask(nora, READ)
    assert (decision.is_permitted, decision.break_glass_id) == (True, 11)
    assert not (await gate.ask(chidi, READ)).is_permitted
    assert not (await gate.ask(nora, msgspec.structs.replace(READ, patient_id=2))).is_permitted
    house.clock.advance(3599.999)
    assert (await gate.ask(nora, READ)).is_permitted
    house.clock.advance(0.001)
    assert not (await gate.ask(nora, READ)).is_permitted
    events = await house.events()
    under_glass = [(e.purpose, e.break_glass_id) for e in events if e.outcome == "permitted"]
    assert under_glass == [("BTG", 11), ("BTG", 11)]


async def test_who_needs_no_glass_is_not_recorded_as_using_one(house, gate, person):
    nora = person(Role.NURSE, units=("ICU-A",))
    await house.admit(1)
    await house.break_for(nora, 1, 11)
    decision = await gate.ask(nora, READ)
    assert (decision.is_permitted, decision.break_glass_id) == (True, None)
    (event,) = await house.events()
    assert (event.purpose, event.break_glass_id) == ("TREAT", None)


async def test_what_was_said_of_a_merged_record_counts_for_the_person(house, gate, person):
    for patient_id in (1, 2, 3, 4):
        await house.admit(patient_id, "MED-3")
    nora = person(Role.NURSE, units=("ICU-A",))
    await house.merge(2, 1)
    await house.merge(3, 2)
    assert (await gate.facts(nora, [3]))[3] == PatientFacts(patient_id=1, ward="MED-3")
    await house.flag(3, True)
    await house.consent(2, "secondary", False)
    await house.consent(3, "sharing", False)
    await house.consent(1, "sharing", True)
    await house.break_for(nora, 2, 12)
    for asked in (1, 2, 3):
        facts = (await gate.facts(nora, [1, 2, 3, 4]))[asked]
        assert facts.patient_id == 1
        assert (facts.is_vip, facts.permits_secondary_use, facts.permits_sharing) == (True, False, False)
        assert facts.break_glass_id == 12
    assert (await gate.facts(nora, [4]))[4] == PatientFacts(patient_id=4, ward="MED-3")
    await gate.ask(nora, msgspec.structs.replace(READ, patient_id=3))
    (event,) = await house.events()
    assert (event.patient_id, event.detail) == (1, '{"asked_as":3}')


async def test_adt_names_who_treats_and_who_is_a_vip(house, gate, person):
    await house.admit(1, by="P-NOVAK", vip=True)
    await house.admit(2, by="P-ADEYEMI", vip=False)
    pavel = person(Role.PHYSICIAN, name="Pavel Novak", practitioner="P-NOVAK")
    facts = await gate.facts(pavel, [1, 2])
    assert [(facts[n].relationship, facts[n].is_vip) for n in (1, 2)] == [
        (Relationship.TREATING, True), (Relationship.NONE, False),
    ]  # fmt: skip
    nobody_named = person(Role.PHYSICIAN, name="Someone Else", practitioner="")
    assert (await gate.facts(nobody_named, [1]))[1].relationship is Relationship.NONE


async def test_a_view_opened_is_one_event_however_often_it_asks(house, gate, person):
    nora = person(Role.NURSE, units=("ICU-A",))
    await house.admit(1)
    await asyncio.gather(*(gate.ask(nora, READ, view="v1") for _ in range(20)))
    assert len(await house.events()) == 1
    await gate.ask(nora, READ, view="v2")
    await gate.ask(msgspec.structs.replace(nora, session="s2"), READ, view="v1")
    await gate.ask(person(Role.NURSE, name="Chidi Okafor", units=("ICU-A",)), READ, view="v1")
    await gate.ask(nora, msgspec.structs.replace(READ, purpose=Purpose.QUALITY), view="v1")
    await gate.ask(nora, READ)
    assert len(await house.events()) == 6


async def test_a_view_whose_decision_changes_is_recorded_again(house, gate, person):
    nora = person(Role.NURSE, units=("ICU-A",))
    await house.admit(1)

    async def ask_thrice() -> None:
        for _ in range(3):
            await gate.ask(nora, READ, view="v1")

    await ask_thrice()
    await house.transfer(1, "ICU-A", "MED-3")
    await ask_thrice()
    await house.break_for(nora, 1, 11)
    await ask_thrice()
    assert [(e.outcome, e.purpose, e.view) for e in await house.events()] == [
        ("permitted", "TREAT", "v1"), ("denied", "TREAT", "v1"), ("permitted", "BTG", "v1"),
    ]  # fmt: skip


async def test_a_view_that_never_opened_hides_no_attempt(house, gate, person):
    await house.admit(1)
    for _ in range(3):
        assert not (await gate.ask(person(Role.DATA_ENGINEER), READ, view="v1")).is_permitted
    assert len(await house.events()) == 3


async def test_a_view_on_a_wall_is_recorded_again_after_twelve_hours(house, gate, person):
    nora = person(Role.NURSE, units=("ICU-A",))
    await house.admit(1)
    for _ in range(3):
        await gate.ask(nora, READ, view="wall")
        house.clock.advance(7 * 3600)
    assert len(await house.events()) == 2


async def test_views_take_a_bounded_memory_and_a_forgotten_one_costs_an_event(house, auditor, person):
    small = house.gate(auditor, views_remembered=10)
    nora = person(Role.NURSE, units=("ICU-A",))
    await house.admit(1)
    for number in range(30):
        await small.ask(nora, READ, view=f"v{number}")
    assert len(small._views) == 10
    await small.ask(nora, READ, view="v29")
    assert len(await house.events()) == 30
    await small.ask(nora, READ, view="v0")
    assert len(await house.events()) == 31
    await small.close()


async def test_a_search_shows_whom_one_may_read_and_is_one_event(house, gate, person):
    for patient_id, ward, vip in ((1, "ICU-A", False), (2, "ICU-A", True), (3, "MED-3", False), (4, "MED-3", False)):
        await house.admit(patient_id, ward, vip=vip)
    nora = person(Role.NURSE, units=("ICU-A",))
    await house.break_for(nora, 4, 14)
    search = Ask(surface=Surface.PATIENT, verb=Verb.SEARCH)
    assert await gate.visible(nora, search, [1, 2, 3, NOBODY_HAS], detail=detail_of(by="name")) == {1}
    assert await gate.visible(nora, search, [1, 4]) == {1, 4}
    assert await gate.visible(person(Role.DATA_ENGINEER), search, [1, 2]) == set()
    assert await gate.visible(nora, search, []) == set()
    events = await house.events()
    assert [(e.outcome, e.purpose, e.break_glass_id, e.patient_id, e.detail) for e in events] == [
        ("permitted", "TREAT", None, None, '{"by":"name","shown":1,"withheld":3}'),
        ("permitted", "BTG", 14, None, '{"shown":2,"withheld":0}'),
        ("denied", "TREAT", None, None, '{"shown":0,"withheld":2}'),
        ("permitted", "TREAT", None, None, '{"shown":0,"withheld":0}'),
    ]


async def test_wards_are_those_one_works_on_for_those_who_have_boards(gate, person):
    assert await gate.wards(person(Role.NURSE, units=("ICU-A", "MED-3"))) == {"ICU-A", "MED-3"}
    assert await gate.wards(person(Role.PHYSICIAN, units=())) == frozenset()
    assert await gate.wards(person(Role.DATA_ENGINEER, units=("ICU-A",))) == frozenset()


async def test_a_ward_not_ones_own_is_denied_and_the_audit_names_it(house, gate, person):
    nora = person(Role.NURSE, units=("ICU-A",), client="vigil")
    for ward, is_permitted in (("ICU-A", True), ("MED-3", False), ("no such ward", False)):
        ask = Ask(surface=Surface.BOARD, verb=Verb.READ, ward=ward)
        assert (await gate.ask(nora, ask)).is_permitted is is_permitted
    assert [msgspec.json.decode(e.detail) for e in await house.events()] == [
        {"client": "vigil", "ward": ward} for ward in ("ICU-A", "MED-3", "no such ward")
    ]


class Counting:
    """A connection that counts what it is asked."""

    def __init__(self, connection):
        self.connection = connection
        self.queries = 0

    async def execute(self, *arguments, **more):
        self.queries += 1
        return await self.connection.execute(*arguments, **more)


async def test_a_whole_ward_is_asked_for_in_as_many_queries_as_one_patient(house, gate, person):
    for patient_id in range(1, 61):
        await house.admit(patient_id, "ICU-A" if patient_id % 2 else "MED-3", by="P-NOVAK")
    who = person(Role.PHYSICIAN, units=("ICU-A",), practitioner="P-NOVAK")
    counted = []
    for ids in ([1], list(range(1, 61))):
        async with house.writing() as connection:
            counting = Counting(connection)
            facts = await read_facts(counting, who, ids, house.clock.now_us())
        assert len(facts) == len(ids)
        counted.append(counting.queries)
    assert counted == [4, 4]


async def test_nothing_is_permitted_when_the_facts_cannot_be_read(house, auditor, person):
    async def lost():
        raise UnavailableError("PostgreSQL is not available")

    closed = Gate(house.gate(auditor).policy, auditor, lost, house.clock, house.settings)
    with pytest.raises(UnavailableError):
        await closed.ask(person(Role.NURSE, units=("ICU-A",)), READ)
    with pytest.raises(UnavailableError):
        await closed.visible(person(Role.NURSE), Ask(surface=Surface.PATIENT, verb=Verb.SEARCH), [1])
    await closed.close()


class Deaf(Auditor):
    """Writes nothing down."""

    async def record(self, entry):
        raise UnavailableError("The audit log cannot be written")


async def test_nothing_is_permitted_when_the_event_cannot_be_written(house, person):
    await house.admit(1)
    deaf = Deaf(house.connect, "clinic", None, None, house.clock)
    gate = house.gate(deaf)
    nora = person(Role.NURSE, units=("ICU-A",))
    for ask in (READ, Ask(surface=Surface.FEEDS, verb=Verb.READ)):
        with pytest.raises(UnavailableError):
            await gate.ask(nora, ask)
    with pytest.raises(UnavailableError):
        await gate.ask(nora, READ, view="v1")
    with pytest.raises(UnavailableError):  # a view is known as recorded only when it was
        await gate.ask(nora, READ, view="v1")
    with pytest.raises(UnavailableError):
        await gate.visible(nora, Ask(surface=Surface.PATIENT, verb=Verb.SEARCH), [1])
    await gate.close()
    await deaf.close()


CHANGE = Ask(surface=Surface.PRIVACY, verb=Verb.CHANGE, purpose=Purpose.OPERATIONS, patient_id=1)


async def test_an_act_and_its_event_are_kept_together(house, gate, person):
    await house.admit(1)
    petra = person(Role.DATA_PROTECTION_OFFICER, name="Petra Klein")
    async with gate.act(petra, CHANGE, detail=detail_of(kept="vip")) as connection:
        await access.put_vip_flag(
            connection, [1], is_vip=True, decided_at_us=1, decided_by="Petra Klein", recorded_by=petra.agent
        )
    assert await house.row("select count(*) from vip_flag") == (1,)
    (event,) = await house.events()
    assert (event.outcome, event.verb, event.patient_id) == ("permitted", "change", 1)


async def shield_and_raise(gate, principal, error):
    async with gate.act(principal, CHANGE) as connection:
        await access.put_vip_flag(
            connection, [1], is_vip=True, decided_at_us=1, decided_by="x", recorded_by=principal.agent
        )
        raise error


async def test_an_act_that_fails_leaves_neither_act_nor_event(house, gate, person):
    await house.admit(1)
    with pytest.raises(ZeroDivisionError):
        await shield_and_raise(gate, person(Role.DATA_PROTECTION_OFFICER, name="Petra Klein"), ZeroDivisionError())
    assert await house.row("select count(*) from vip_flag") == (0,)
    assert await house.events() == []


async def test_a_refusal_inside_an_act_undoes_it_and_is_recorded(house, gate, person):
    await house.admit(1)
    with pytest.raises(RefusedError):
        await shield_and_raise(gate, person(Role.DATA_PROTECTION_OFFICER, name="Petra Klein"), RefusedError("no"))
    assert await house.row("select count(*) from vip_flag") == (0,)
    (event,) = await house.events()
    assert (event.outcome, event.rule) == ("denied", "refused-by-rule")


async def test_an_act_that_is_denied_does_not_begin_and_says_nothing(house, gate, person):
    await house.admit(1)
    texts = set()
    for ask in (CHANGE, msgspec.structs.replace(CHANGE, patient_id=NOBODY_HAS)):
        with pytest.raises(RefusedError) as refusal:
            async with gate.act(person(Role.NURSE), ask):
                pytest.fail("a denied act began")
        texts.add(str(refusal.value))
    assert len(texts) == 1
    assert [e.outcome for e in await house.events()] == ["denied", "denied"]
