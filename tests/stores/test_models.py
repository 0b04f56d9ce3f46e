"""Versions, verdicts, requests, scores, outcomes and incidents as rows: kept once, never changed, read in order."""

from __future__ import annotations

import asyncio

import msgspec
import pytest

from stores import approvals, incidents, models, risk_scores
from stores.approvals import ApprovalRequest, ApprovalSignature
from stores.database import connect, transaction
from stores.incidents import Incident
from stores.models import ModelVersion
from stores.risk_scores import RiskScore
from vocabulary import verdict as verdicts
from vocabulary.errors import BrokenInvariantError, RefusedError
from vocabulary.verdict import Kind, Measure, Outcome, Verdict


def version_of(number, **changes):
    fields = {
        "scope": "mortality", "model_digest": f"{number:064x}", "manifest": "a = 1\n", "author": "i|s",
        "registered_at_us": 7, "data_fingerprint": "d", "code_version": "c", "lock_digest": "l",
        "protocol": "mortality@1", "protocol_digest": "p", "is_synthetic": True, "run_id": "r",
    }  # fmt: skip
    return ModelVersion(**(fields | changes))


VERDICT = Verdict(
    kind=Kind.CLINICAL, subject="mortality", outcome=Outcome.PASS, statement="Ünïcode \u2028 says so.",
    measures=(Measure(name="auroc", value=0.8612345678901234, low=0.84, high=0.88), Measure(name="x", value=None)),
)  # fmt: skip


async def test_versions_are_numbered_by_scope_and_come_back_as_they_were(connection):
    async with transaction(connection):
        first = await models.add_version(connection, version_of(1))
        second = await models.add_version(connection, version_of(2, version=99))
        other = await models.add_version(connection, version_of(3, scope="sepsis"))
        assert [one.version for one in (first, second, other)] == [1, 2, 1]
        assert await models.versions(connection, "mortality") == [second, first]
        assert await models.versions(connection) == [second, first, other]
        assert await models.version_of(connection, "mortality", 2) == second
        assert await models.version_of(connection, "mortality", 3) is None
        assert await models.version_of_digest(connection, first.model_digest) == first
        assert await models.version_of_digest(connection, "0") is None


async def test_the_same_model_is_registered_once(connection):
    async with transaction(connection):
        first = await models.add_version(connection, version_of(1))
    async with transaction(connection):
        assert await models.add_version(connection, version_of(1, author="other|one")) == first
    with pytest.raises(BrokenInvariantError):
        async with transaction(connection):
            await models.add_version(connection, version_of(1, scope="sepsis"))


@pytest.mark.parametrize("changes", [{"model_digest": "x"}, {"author": ""}, {"scope": "No Scope"}])
async def test_a_version_without_its_words_is_refused(connection, changes):
    with pytest.raises(BrokenInvariantError):
        async with transaction(connection):
            await models.add_version(connection, version_of(1, **changes))


async def test_versions_registered_at_once_get_numbers_of_their_own(migrated_url):
    async def register(number):
        opened = await connect(migrated_url, application_name="test")
        try:
            async with transaction(opened):
                return (await models.add_version(opened, version_of(number))).version
        finally:
            await opened.close()

    assert sorted(await asyncio.gather(*(register(number) for number in range(1, 7)))) == [1, 2, 3, 4, 5, 6]


async def test_a_verdict_comes_back_bit_for_bit_and_is_kept_once(connection):
    digest = f"{1:064x}"
    async with transaction(connection):
        kept = await models.add_verdict(connection, VERDICT, digest, 5)
        assert await models.add_verdict(connection, VERDICT, digest, 6) == kept == verdicts.digest(VERDICT)
        later = msgspec.structs.replace(VERDICT, made_at_us=9, outcome=Outcome.FAIL)
        await models.add_verdict(connection, later, digest, 7)
        await models.add_verdict(connection, VERDICT, "", 8)
        assert [one.verdict for one in await models.verdicts_of(connection, digest)] == [later, VERDICT]
        assert [one.at_us for one in await models.verdicts_of(connection, "")] == [8]
        found = await models.verdict_of(connection, kept)
        assert found is not None
        assert verdicts.canonical_bytes(found.verdict) == verdicts.canonical_bytes(VERDICT)
        assert await models.verdict_of(connection, "none") is None


def request_of(number=1, **changes):
    fields = {
        "request_id": f"r{number}", "site": "s", "scope": "mortality", "slot": "champion", "version": 1,
        "model_digest": f"{1:064x}", "evidence_digest": "e", "evidence": "{}", "conditions": ("one", "zwei \u2028"),
        "author": "i|a", "opened_at_us": number, "opened_by": "dagster", "expires_at_us": 99,
    }  # fmt: skip
    return ApprovalRequest(**(fields | changes))


def signature_of(person, role, **changes):
    fields = {
        "request_id": "r1", "is_approval": True, "person": person, "role": role, "signed": "{}", "received_at_us": 3,
    }  # fmt: skip
    return ApprovalSignature(**(fields | changes))


async def test_requests_and_answers_come_back_in_order(connection):
    async with transaction(connection):
        await models.add_version(connection, version_of(1))
        await approvals.add_request(connection, request_of(1))
        await approvals.add_request(connection, request_of(2))
        assert await approvals.request_of(connection, "r1", is_locked=True) == request_of(1)
        assert await approvals.request_of(connection, "none") is None
        assert await approvals.requests(connection, scope="mortality") == [request_of(2), request_of(1)]
        assert await approvals.requests(connection, model_digest="other") == []
        assert len(await approvals.requests(connection, limit=1)) == 1
        await approvals.add_signature(connection, signature_of("a", "physician"))
        reason = "No\x00 good " + "x" * 5000
        await approvals.add_signature(
            connection, signature_of("b", "nurse", is_approval=False, signed="", reason=reason)
        )
        found = await approvals.signatures_of(connection, "r1")
        assert [(one.person, one.is_approval) for one in found] == [("a", True), ("b", False)]
        assert found[1].reason.startswith("No\u2400 good x")
        assert len(found[1].reason) == approvals.LONGEST_REASON


@pytest.mark.parametrize(
    "second",
    [
        signature_of("a", "clinical_lead"),
        signature_of("b", "physician"),
        signature_of("c", "safety_officer", signed=""),
        signature_of("c", "safety_officer", is_approval=False, signed=""),
        signature_of("c", "safety_officer", request_id="none"),
    ],
)
async def test_the_table_itself_refuses_a_second_signature_of_a_person_or_role(connection, second):
    async with transaction(connection):
        await models.add_version(connection, version_of(1))
        await approvals.add_request(connection, request_of(1))
        await approvals.add_signature(connection, signature_of("a", "physician"))
    with pytest.raises(BrokenInvariantError):
        async with transaction(connection):
            await approvals.add_signature(connection, second)


def score_of(encounter=1, minute=60, **changes):
    fields = {
        "encounter_id": encounter, "through_minute": minute, "slot": "champion", "model_digest": "m",
        "position": minute, "patient_id": encounter * 10, "serving_id": 3, "at_us": minute * 60_000_000,
        "probability": 0.1 + minute * 1e-17, "low": 0.05, "high": 0.2,
    }  # fmt: skip
    return RiskScore(**(fields | changes))


async def test_scores_are_kept_once_exactly_and_read_in_order(connection):
    silent = score_of(1, 75, slot="silent", model_digest="n")
    abstaining = score_of(1, 90, probability=None, low=None, high=None, abstention="too_little_data")
    corrected = score_of(1, 60, position=100, probability=1 / 3)
    scores = [score_of(2, 75), score_of(1, 60), silent, abstaining, corrected]
    async with transaction(connection):
        await risk_scores.add(connection, [])
        await risk_scores.add(connection, scores)
        await risk_scores.add(connection, [msgspec.structs.replace(score_of(1, 60), probability=0.9)])
        assert await risk_scores.of_stay(connection, 1) == [score_of(1, 60), abstaining, corrected]
        assert await risk_scores.of_stay(connection, 1, "silent") == [silent]
        assert await risk_scores.of_patients(connection, [10, 20]) == [
            score_of(1, 60), corrected, score_of(2, 75), abstaining,
        ]  # fmt: skip
        assert await risk_scores.of_patients(connection, [20], since_us=75 * 60_000_000 + 1) == []
        window = await risk_scores.between(connection, 75 * 60_000_000, 90 * 60_000_000)
        assert window == [score_of(2, 75)]
        assert await risk_scores.between(connection, 0, 2**60, model_digest="other") == []
        assert len(await risk_scores.between(connection, 0, 2**60, slot="silent", model_digest="n")) == 1


async def test_the_newest_word_on_an_outcome_counts(connection):
    async with transaction(connection):
        await connection.execute(
            "insert into outcome (encounter_id, known_from, outcome, at_us) values "
            "(1, 1, 'died', 100), (2, 1, 'survived', 50), (3, 1, 'died', 70), (3, 2, 'unknown', 80), "
            "(2, 5, 'died', 60)"
        )
        found = await risk_scores.outcomes(connection)
        assert [(one.encounter_id, one.outcome, one.at_us, one.known_from) for one in found] == [
            (2, "died", 60, 5), (1, "died", 100, 1),
        ]  # fmt: skip
        assert [one.encounter_id for one in await risk_scores.outcomes(connection, since_us=61)] == [1]


async def test_incidents_are_found_followed_and_closed_once(connection):
    def incident(cause, **changes):
        fields = {
            "at_us": 1, "scope": "mortality", "slot": "champion", "cause": cause, "reaction": "abstain",
            "opened_by": "keeper",
        }  # fmt: skip
        return Incident(**(fields | changes))

    async with transaction(connection):
        one = await incidents.add(connection, incident("interface_fault", serving_id=4))
        two = await incidents.add(connection, incident("alert_flood", scope="sepsis"))
        assert [found.incident_id for found in await incidents.find(connection)] == [two, one]
        assert [found.cause for found in await incidents.find(connection, scope="mortality")] == ["interface_fault"]
        assert [found.incident_id for found in await incidents.find(connection, after=one)] == [two]
        assert await incidents.find(connection, cause="none") == []
        assert await incidents.close(connection, one, 9, "i|p", "The\x00 unit.")
        assert not await incidents.close(connection, one, 10, "i|q", "Again.")
        (closed,) = await incidents.find(connection, is_open=False)
        assert (closed.closed_at_us, closed.closed_by, closed.closing_note) == (9, "i|p", "The\u2400 unit.")
        assert [found.incident_id for found in await incidents.find(connection, is_open=True)] == [two]


TABLES = ("model_version", "model_verdict", "approval_request", "approval_signature", "serving", "risk_score")


@pytest.mark.parametrize("table", TABLES)
async def test_what_was_decided_cannot_be_changed_or_deleted(connection, table):
    for statement in (f"delete from {table}", f"truncate {table} cascade"):
        with pytest.raises(RefusedError, match="append-only"):
            async with transaction(connection):
                await connection.execute(statement.encode())
