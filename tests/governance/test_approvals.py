"""Requests for approval: what may be asked, whose signature is taken, what ends a request; and promotion by it."""

from __future__ import annotations

from datetime import timedelta

import msgspec
import pytest
from model_committee import AUTHOR, NOW, POLICY, SCOPE, WAIVER, digest_of, person_of
from model_desk import LEAD, PHYSICIAN, SAFETY, WAIVERS, verdict_of, version_of

from governance import approvals, evidence, lifecycle, serving
from governance.access import Role, Verb
from governance.approvals import Status
from governance.evidence import SYNTHETIC
from governance.model_acts import ModelRefusedError, acting, event
from governance.roster import SignatureRefusedError
from governance.serving import Standing
from governance.statements import Action, Slot
from stores import incidents, models
from stores.incidents import Incident
from stores.models import StoredVerdict
from vocabulary import verdict as verdicts
from vocabulary.verdict import Kind, Measure, Outcome


def refusal(reason):
    return pytest.raises((ModelRefusedError, SignatureRefusedError), check=lambda error: error.reason == reason)


# -- asking


async def test_a_validated_version_is_asked_about_once(desk):
    version = await desk.register()
    request = await desk.open(version)
    assert (request.scope, request.version, request.slot, request.author) == (SCOPE, 1, "champion", AUTHOR)
    assert request.conditions == tuple(POLICY.waiver(name).sentence for name in WAIVERS)
    assert await desk.open(version) == request, "asked again: the same request"
    state = await desk.state(request)
    assert state.status is Status.OPEN
    assert state.missing == (
        "2 more of: clinical lead, safety officer, physician", "one of them a clinical lead or physician",
    )  # fmt: skip


@pytest.mark.parametrize("outcome", [Outcome.FAIL, None])
@pytest.mark.parametrize("kind", POLICY.evidence.kinds)
async def test_a_verdict_that_failed_or_is_missing_stops_the_question(desk, kind, outcome):
    version = await desk.register(outcomes={kind: outcome})
    with refusal("not_validated"):
        await desk.open(version)


async def test_what_was_inconclusive_becomes_a_condition_that_is_signed(desk):
    measure = Measure(
        name="false_negative_rate_difference", value=0.081, low=0.02, high=0.16, at_most=0.1, group="sex",
        outcome=Outcome.INCONCLUSIVE, count=412,
    )  # fmt: skip
    version = await desk.register(is_synthetic=True, outcomes={Kind.BIAS: None})
    async with desk.house.writing() as connection:
        verdict = verdict_of(Kind.BIAS, Outcome.INCONCLUSIVE, measure)
        await models.add_verdict(connection, verdict, version.model_digest, 1)
    request = await desk.open(version)
    assert request.conditions[:2] == (
        SYNTHETIC,
        (
            "Inconclusive: bias, false negative rate difference (sex) 0.081, 95 % interval 0.02 to 0.16; "
            "wanted at most 0.1."
        ),
    )
    assert approvals.statement_for(request, person_of("lena"), LEAD, POLICY).conditions == request.conditions


async def test_waivers_count_where_they_may(desk):
    version = await desk.register()
    with refusal("sites_missing"):
        await desk.open(version, waivers=(lifecycle.SILENT_PERIOD,))
    with refusal("silent_period_missing"):
        await desk.open(version, waivers=(lifecycle.SITES,))
    with refusal("waiver_not_permitted"):
        await desk.open(version, trust=desk.trust(mode="production"))
    two = await desk.open(version, sites=("a", "b"), waivers=(lifecycle.SILENT_PERIOD,))
    assert two.conditions == (WAIVER,)
    assert (await desk.open(version, Slot.SILENT, waivers=())).conditions == ()


async def test_an_open_incident_of_the_version_stops_the_question(desk):
    version = await desk.register()
    async with desk.house.writing() as connection:
        number = await incidents.add(
            connection,
            Incident(at_us=1, scope=SCOPE, slot="champion", cause="calibration_breach", reaction="withdraw",
                     model_digest=version.model_digest, opened_by="keeper"),
        )  # fmt: skip
    with refusal("incident_open"):
        await desk.open(version)
    async with desk.house.writing() as connection:
        assert await incidents.close(connection, number, 2, "somebody", "found")
        assert not await incidents.close(connection, number, 2, "somebody", "found")
    assert await desk.open(version)


# -- signing


async def test_two_signatures_complete_a_request(desk):
    request = await desk.open(await desk.register())
    one = await desk.sign(request, "lena", LEAD)
    assert (one.status, len(one.signed)) == (Status.OPEN, 1)
    assert one.missing == ("1 more of: safety officer, physician",)
    two = await desk.sign(request, "omar", SAFETY)
    assert two.is_complete
    assert [signed.statement.person for signed in two.signed] == [person_of("lena"), person_of("omar")]


@pytest.mark.parametrize(
    ("name", "role", "changes", "reason"),
    [
        ("arne", PHYSICIAN, {}, "self_approval"),
        ("nora", LEAD, {}, "role_not_held"),
        ("nora", Role.NURSE, {}, "role_may_not_sign"),
        ("omar", SAFETY, {"version": 2}, "statement_altered"),
        ("omar", SAFETY, {"conditions": ()}, "statement_altered"),
        ("omar", SAFETY, {"author": "nobody"}, "statement_altered"),
        ("omar", SAFETY, {"meaning": "I have seen it."}, "statement_altered"),
        ("omar", SAFETY, {"person": person_of("petra")}, "signed_by_another"),
        ("lena", LEAD, {}, "person_twice"),
        ("petra", LEAD, {}, "role_twice"),
    ],
)
async def test_a_signature_that_does_not_count_is_not_taken(desk, name, role, changes, reason):
    request = await desk.open(await desk.register())
    await desk.sign(request, "lena", LEAD)
    with refusal(reason):
        await desk.sign(request, name, role, **changes)
    assert len((await desk.state(request)).signed) == 1


async def test_nothing_is_signed_late_or_after_a_rejection(desk):
    request = await desk.open(await desk.register())
    with refusal("no_reason"):
        await desk.reject(request, "petra", PHYSICIAN, " ")
    with refusal("role_may_not_sign"):
        await desk.reject(request, "nora", Role.NURSE)
    assert (await desk.reject(request, "petra", PHYSICIAN)).status is Status.REJECTED
    with refusal("not_open"):
        await desk.sign(request, "lena", LEAD)
    with refusal("rejected"):
        await desk.promote(request)
    other = await desk.open(await desk.register(2))
    desk.now += timedelta(days=POLICY.request.lasts_days)
    with refusal("not_open"):
        await desk.sign(other, "lena", LEAD)
    assert (await desk.state(other)).status is Status.EXPIRED


async def test_no_such_request(desk):
    async with desk.house.writing() as connection:
        with refusal("no_such_request"):
            await approvals.state_of(connection, "none", trust=desk.trust(), policy=POLICY, now=desk.now)


async def test_a_signature_altered_in_the_database_no_longer_counts(desk):
    request = await desk.approved()
    desk.superuser("update approval_signature set signed = replace(signed, 'omar', 'petra') where person like '%omar'")
    state = await desk.state(request)
    assert state.status is Status.OPEN
    assert list(state.refused) == [(person_of("omar"), "bad_signature")]
    desk.superuser("update approval_signature set signed = '{}' where person like '%omar'")
    assert (await desk.state(request)).refused == ((person_of("omar"), "row_altered"),)


async def test_under_a_roster_that_does_not_count_nobody_has_signed(desk):
    request = await desk.approved()
    state = await desk.state(request, roster=None, refusal="roster_forged")
    assert {reason for _, reason in state.refused} == {"roster_forged"}
    assert state.status is Status.OPEN


# -- promotion


async def test_a_complete_request_is_promoted_once_with_its_event(desk):
    request = await desk.approved()
    row = await desk.promote(request)
    assert (row.action, row.version, row.request_id, row.by) == (Action.PROMOTE, 1, request.request_id, "dagster")
    held = (await desk.judged()).slots[Slot.CHAMPION]
    assert (held.standing, held.row) == (Standing.SPEAKING, row)
    desk.now += timedelta(minutes=1)
    assert await desk.promote(request) == row, "promoted again: the same row"
    state = await desk.state(request)
    assert (state.status, state.serving_id) == (Status.CONSUMED, row.serving_id)
    events = [one for one in await desk.house.events() if one.action == "promote"]
    assert [one.outcome for one in events] == ["permitted", "permitted"]
    assert request.request_id in events[0].detail
    assert await desk.house.row("select count(*) from serving") == (1,)


async def test_an_incomplete_request_is_not_promoted_and_the_attempt_is_audited(desk):
    request = await desk.open(await desk.register())
    await desk.sign(request, "lena", LEAD)
    with refusal("not_complete"):
        await desk.promote(request)
    assert await desk.house.row("select count(*) from serving") == (0,)
    denied = [one for one in await desk.house.events() if one.outcome == "denied"]
    assert [(one.action, "not_complete" in one.detail) for one in denied] == [("promote", True)]


async def test_a_verdict_that_came_after_the_signatures_stops_the_promotion(desk):
    request = await desk.approved()
    async with desk.house.writing() as connection:
        late = verdict_of(Kind.CLINICAL, Outcome.PASS, made_at_us=9)
        await models.add_verdict(connection, late, request.model_digest, 9)
    with refusal("evidence_changed"):
        await desk.promote(request)
    async with desk.house.writing() as connection:
        late = verdict_of(Kind.BIAS, Outcome.FAIL, made_at_us=10)
        await models.add_verdict(connection, late, request.model_digest, 10)
    with refusal("not_validated"):
        await desk.promote(request)


@pytest.mark.parametrize(
    ("statement", "reason"),
    [
        ("update approval_request set evidence = '{}'", "evidence_altered"),
        ("update approval_request set evidence = '{}', evidence_digest = repeat('a', 64)", "not_complete"),
        ("update approval_request set author = 'nobody'", "not_complete"),
        ("update approval_request set conditions = '[]'", "not_complete"),
        ("update approval_request set slot = 'silent'", "not_complete"),
        ("update approval_request set expires_at_us = expires_at_us + 1000000000000", "not_complete"),
        ("update model_version set author = 'nobody'", "evidence_changed"),
        ("update model_version set data_fingerprint = 'x'", "evidence_changed"),
        ("update model_version set version = 7", "evidence_changed"),
        ("update model_verdict set body = replace(body, 'Found so', 'Found') where kind = 'bias'", "not_validated"),
        ("delete from model_verdict where kind = 'bias'", "not_validated"),
    ],
)
async def test_what_a_superuser_changes_of_the_request_is_found_before_promotion(desk, statement, reason):
    request = await desk.approved()
    desk.superuser(statement)
    with refusal(reason):
        await desk.promote(request)


async def test_signatures_do_not_outlive_the_request(desk):
    request = await desk.approved()
    desk.now += timedelta(days=20)
    with refusal("approval_expired"):
        await desk.promote(request)


async def test_a_used_approval_is_not_promoted_again_when_its_row_was_deleted(desk):
    request = await desk.approved()
    await desk.promote(request)
    serving.remember(desk.settings, {SCOPE: await desk.judged()})
    desk.superuser("delete from serving")
    assert (await desk.state(request)).status is Status.CONSUMED
    with refusal("approval_reused"):
        await desk.promote(request)


async def test_new_signatures_mend_a_record_whose_rows_are_gone(desk):
    await desk.promote(await desk.approved())
    desk.now += timedelta(minutes=1)
    await desk.command(Action.WITHDRAW)
    serving.remember(desk.settings, {SCOPE: await desk.judged()})
    desk.superuser("delete from serving where action = 'withdraw'")
    assert (await desk.judged()).broken == "rows_missing"
    desk.now += timedelta(minutes=1)
    second = await desk.approved(2)
    row = await desk.promote(second)
    judged = await desk.judged()
    assert (judged.broken, judged.slots[Slot.CHAMPION].row) == ("", row)


async def test_a_rolled_back_version_is_asked_about_again_only_with_new_evidence(desk):
    request = await desk.approved()
    await desk.promote(request)
    desk.now += timedelta(minutes=1)
    await desk.command(Action.RESTORE, reason="calibration_breach")
    async with desk.house.writing() as connection:
        version = await models.version_of(connection, SCOPE, 1)
    assert version is not None
    with refusal("version_barred"):
        await desk.open(version)
    async with desk.house.writing() as connection:
        await models.add_verdict(connection, verdict_of(Kind.CLINICAL, made_at_us=77), version.model_digest, 77)
    again = await desk.open(version)
    assert again.conditions[-1] == f"This version was rolled back on {NOW:%Y-%m-%d}: calibration_breach."
    await desk.sign(again, "lena", LEAD)
    await desk.sign(again, "omar", SAFETY)
    await desk.promote(again)
    assert (await desk.judged()).slots[Slot.CHAMPION].standing is Standing.SPEAKING


async def test_a_process_that_may_not_promote_writes_nothing(desk):
    request = await desk.approved()
    with refusal("writer_may_not"):
        await desk.promote(request, appender=desk.committee.appender("keeper"))
    assert await desk.house.row("select count(*) from serving") == (0,)


async def test_a_permit_to_listen_needs_one_signature(desk):
    request = await desk.open(await desk.register(), Slot.SILENT, waivers=())
    state = await desk.sign(request, "omar", SAFETY)
    assert state.is_complete
    row = await desk.promote(request)
    judged = await desk.judged()
    assert judged.slots[Slot.SILENT].row == row
    assert judged.slots[Slot.CHAMPION].standing is Standing.EMPTY


async def test_a_refusal_in_an_act_undoes_it_and_is_recorded(desk):
    with refusal("because"):
        async with acting(desk.auditor, event("try", Verb.APPROVE, "system|test", number=1)) as connection:
            await models.add_version(connection, version_of())
            raise ModelRefusedError("because", "No.")
    assert await desk.house.row("select count(*) from model_version") == (0,)
    (entry,) = await desk.house.events()
    assert (entry.action, entry.outcome, entry.detail) == ("try", "denied", '{"number":1,"reason":"because"}')


# -- evidence


def stored_as(verdict, number, digest=None):
    return StoredVerdict(
        verdict_id=number, model_digest=digest_of(1), digest=digest or verdicts.digest(verdict), at_us=number,
        verdict=verdict,
    )  # fmt: skip


KINDS = POLICY.evidence.kinds
GOOD = [stored_as(verdict_of(kind), number) for number, kind in enumerate(KINDS, 1)]


def test_the_newest_verdict_of_each_subject_counts():
    failed_once = [stored_as(verdict_of(Kind.BIAS, Outcome.FAIL), 0), *GOOD]
    assert evidence.faults(version_of(), failed_once, KINDS) == ()
    fails_now = [*GOOD, stored_as(verdict_of(Kind.BIAS, Outcome.FAIL, made_at_us=8), 9)]
    assert evidence.faults(version_of(), fails_now, KINDS) == ("bias of mortality failed",)
    another = [*GOOD, stored_as(verdict_of(Kind.BIAS, Outcome.FAIL, subject="other"), 9)]
    assert evidence.faults(version_of(), another, KINDS) == ("bias of other failed",)


@pytest.mark.parametrize(
    ("verdict", "digest", "fault"),
    [
        (verdict_of(Kind.BIAS, model_digest=digest_of(2)), None, "bias of mortality is about another model"),
        (verdict_of(Kind.BIAS, protocol_digest="q"), None, "bias of mortality was judged under another protocol"),
        (verdict_of(Kind.BIAS), "0", "bias of mortality was altered after it was kept"),
        (
            verdict_of(Kind.BIAS, Outcome.PASS, Measure(name="m", value=1.0, outcome=Outcome.FAIL)), None,
            "bias of mortality passes although a measure in it failed",
        ),
    ],
)  # fmt: skip
def test_a_verdict_that_does_not_belong_is_a_fault(verdict, digest, fault):
    assert evidence.faults(version_of(), [*GOOD, stored_as(verdict, 9, digest)], KINDS) == (fault,)


def test_any_change_of_the_evidence_is_another_digest():
    base = evidence.gather(version_of(version=1), GOOD, KINDS, ("a",))
    assert evidence.from_bytes(evidence.canonical_bytes(base)) == base
    known = {evidence.digest(base)}
    for field in base.__struct_fields__:
        value = getattr(base, field)
        other = ("x",) if field == "conditions" else {str: "other", int: 9, bool: True, tuple: ()}[type(value)]
        changed = msgspec.structs.replace(base, **{field: other})
        known.add(evidence.digest(changed))
    assert len(known) == 1 + len(base.__struct_fields__)


def test_an_inconclusive_verdict_without_measures_says_its_sentence():
    verdict = verdict_of(Kind.DRIFT, Outcome.INCONCLUSIVE)
    assert evidence.findings(verdict) == ["Inconclusive: drift of mortality. Found so."]
    none = verdict_of(Kind.DRIFT, Outcome.INCONCLUSIVE, Measure(
        name="auroc", value=None, outcome=Outcome.INCONCLUSIVE, note="fewer than 30.", at_least=0.8))  # fmt: skip
    assert evidence.findings(none) == [
        "Inconclusive: drift, auroc cannot be said; wanted at least 0.8 (fewer than 30).",
    ]  # fmt: skip
