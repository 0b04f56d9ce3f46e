"""Taking voice away: the reaction each cause has, once; a person's word; and that nothing here ever promotes."""

from __future__ import annotations

from datetime import timedelta

import psycopg
import pytest
from model_committee import POLICY, SCOPE, person_of
from model_desk import LEAD, verdict_of

from governance.model_acts import ModelRefusedError
from governance.rollback import close_incident
from governance.serving import Standing
from governance.statements import Action, Slot
from stores import incidents, models
from vocabulary.errors import ConfigurationError
from vocabulary.verdict import Kind, Outcome

C = Slot.CHAMPION


def refusal(reason):
    return pytest.raises(ModelRefusedError, check=lambda error: error.reason == reason)


@pytest.fixture
async def speaking(desk):
    """A house in which version 2 speaks, and version 1 did before."""
    for number in (1, 2):
        await desk.promote(await desk.approved(number))
        desk.now += timedelta(minutes=1)
    return desk


async def held(desk):
    return (await desk.judged()).slots[C]


async def open_incidents(desk):
    async with desk.house.writing() as connection:
        return await incidents.find(connection, is_open=True)


async def test_a_fault_of_the_interface_silences(speaking):
    reaction = await speaking.react("interface_fault")
    now = await held(speaking)
    assert (now.standing, now.cause, now.since) == (Standing.ABSTAINING, "interface_fault", reaction.row)
    assert now.row.version == 2
    assert await speaking.react("interface_fault") is None, "it is silent already"
    assert await speaking.react("calibration_breach") is None
    assert len(await open_incidents(speaking)) == 1


@pytest.mark.parametrize("cause", ["calibration_breach", "subgroup_breach"])
async def test_a_breach_restores_the_last_approval_then_withdraws(speaking, cause):
    first = await speaking.react(cause)
    assert first.row.action is Action.RESTORE
    now = await held(speaking)
    assert (now.standing, now.row.version) == (Standing.SPEAKING, 1)
    second = await speaking.react(cause)
    assert second.row.action is Action.WITHDRAW
    assert (await held(speaking)).standing is Standing.EMPTY
    assert await speaking.react(cause) is None
    assert [one.model_digest[-1] for one in await open_incidents(speaking)] == ["1", "2"]


async def test_a_flood_of_alerts_clamps_first_and_rolls_back_the_second_time(speaking):
    first = await speaking.react("alert_flood")
    assert first.row.action is Action.CLAMP
    assert (await held(speaking)).standing is Standing.CLAMPED
    second = await speaking.react("alert_flood")
    assert second.row.action is Action.RESTORE
    now = await held(speaking)
    assert (now.standing, now.row.version) == (Standing.SPEAKING, 1)
    third = await speaking.react("alert_flood")
    assert third.row.action is Action.CLAMP, "the older model has its own first time"


async def test_a_flood_under_a_clamp_that_a_person_set_rolls_back(speaking):
    await speaking.command(Action.CLAMP)
    assert (await speaking.react("alert_flood")).row.action is Action.RESTORE


async def test_after_a_person_let_it_speak_again_the_same_fault_counts_anew(speaking):
    assert await speaking.react("interface_fault")
    row = await speaking.command(Action.RESUME, reason="The laboratory sends the old unit again.")
    now = await held(speaking)
    assert (now.standing, now.since) == (Standing.SPEAKING, row)
    assert (await speaking.react("interface_fault")).row.action is Action.ABSTAIN
    assert len(await open_incidents(speaking)) == 2


async def test_the_reaction_leaves_its_incident_its_verdict_and_its_event(speaking):
    verdict = verdict_of(Kind.LIVE, Outcome.FAIL, statement="Twice as many died as was said.")
    reaction = await speaking.react("calibration_breach", verdict=verdict, statement=verdict.statement)
    (incident,) = await open_incidents(speaking)
    assert (incident.incident_id, incident.cause, incident.reaction) == (
        reaction.incident_id,
        "calibration_breach",
        "restore",
    )
    assert (incident.serving_id, incident.opened_by, incident.statement) == (
        reaction.row.serving_id, "keeper", verdict.statement,
    )  # fmt: skip
    async with speaking.house.writing() as connection:
        kept = await models.verdict_of(connection, incident.verdict_digest)
    assert kept.verdict == verdict
    assert kept.model_digest == incident.model_digest
    entry = (await speaking.house.events())[-1]
    assert (entry.action, entry.agent, entry.outcome) == ("roll_back", "system|keeper", "permitted")
    assert f'"incident":{incident.incident_id}' in entry.detail


async def test_where_nothing_is_left_to_do_nothing_is_written(desk):
    before = await desk.house.row("select (select count(*) from audit_event), (select count(*) from incident)")
    assert await desk.react("calibration_breach") is None
    after = await desk.house.row("select (select count(*) from audit_event), (select count(*) from incident)")
    assert after == before
    with pytest.raises(ConfigurationError, match="weather"):
        await desk.react("weather")


async def test_row_incident_and_event_are_written_together_or_not_at_all(speaking):
    speaking.superuser("create function no() returns trigger language plpgsql as $$ begin raise 'no'; end $$; "
                       "create trigger no before insert on incident for each row execute function no()")  # fmt: skip
    before = await speaking.house.row("select count(*) from serving")
    with pytest.raises(psycopg.errors.RaiseException):
        await speaking.react("calibration_breach")
    assert await speaking.house.row("select count(*) from serving") == before
    assert (await held(speaking)).row.version == 2


async def test_one_person_rolls_back(speaking):
    row = await speaking.command(Action.RESTORE, reason="It misses sepsis.")
    assert (row.action, row.by, row.cause) == (Action.RESTORE, person_of("lena"), "It misses sepsis.")
    assert (await held(speaking)).row.version == 1
    again = await speaking.command(Action.RESTORE)
    assert again.action is Action.WITHDRAW, "nothing approved is left to restore"
    with refusal("nothing_serves"):
        await speaking.command(Action.RESTORE)
    events = [(one.action, one.agent, one.outcome) for one in await speaking.house.events() if one.verb == "change"]
    assert events == [
        ("restore", person_of("lena"), "permitted"),
        ("restore", person_of("lena"), "permitted"),
        ("restore", person_of("lena"), "denied"),
    ]


@pytest.mark.parametrize(
    ("action", "changes", "reason"),
    [
        (Action.PROMOTE, {}, "not_by_command"),
        (Action.RESTORE, {"reason": "  "}, "no_reason"),
        (Action.RESTORE, {"by": "keeper"}, "nobody"),
        (Action.RESUME, {}, "nothing_to_resume"),
        (Action.ABSTAIN, {"slot": Slot.SILENT}, "nothing_serves"),
    ],
)
async def test_what_a_person_cannot_say(speaking, action, changes, reason):
    with refusal(reason):
        await speaking.command(action, **changes)
    assert (await held(speaking)).row.version == 2


async def test_the_keeper_cannot_resume_even_for_a_person(speaking):
    await speaking.react("interface_fault")
    with refusal("writer_may_not"):
        await speaking.command(Action.RESUME, appender=speaking.committee.appender("keeper"))


async def test_an_incident_is_closed_once_with_what_was_found(speaking):
    reaction = await speaking.react("interface_fault")
    fields = {"by": person_of("lena"), "name": "Lena", "role": LEAD, "now": speaking.now}
    with refusal("no_reason"):
        await close_incident(speaking.auditor, reaction.incident_id, note="", **fields)
    await close_incident(speaking.auditor, reaction.incident_id, note="The unit was wrong.", **fields)
    with refusal("not_open"):
        await close_incident(speaking.auditor, reaction.incident_id, note="Again.", **fields)
    assert await open_incidents(speaking) == []
    assert (await held(speaking)).standing is Standing.ABSTAINING, "closing it gives no voice"


async def test_two_who_react_at_once_leave_one_reaction(speaking):
    import asyncio

    from governance.audit import Auditor

    other = Auditor(speaking.house.connect, "keeper", None, None, speaking.house.clock)
    one, two = await asyncio.gather(
        speaking.react("interface_fault"),
        speaking_react(speaking, other, "interface_fault"),
    )
    await other.close()
    assert [one, two].count(None) == 1
    assert len(await open_incidents(speaking)) == 1


async def speaking_react(desk, auditor, cause):
    from governance.rollback import react

    return await react(
        auditor, SCOPE, cause, statement="x", verdict=None, appender=desk.committee.appender("keeper"),
        trust=desk.trust(), policy=POLICY, now=desk.now,
    )  # fmt: skip


async def test_a_reaction_while_the_record_is_broken_has_nothing_to_silence(speaking):
    speaking.superuser("update serving set cause = 'x' where version = 1")
    assert (await speaking.judged()).broken == "row_altered"
    assert await speaking.react("calibration_breach") is None
