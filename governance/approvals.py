"""Approvals: a committee is asked, people sign with their own keys, and it is known what is missing.

Here: opening a request, taking signatures and rejections. Everything is done in the caller's transaction, which holds
the audit event (governance.gate.act on pages, governance.model_acts.acting elsewhere).
Not here: what a request stands at (governance.approval_states; given out here too), what makes evidence
(governance.evidence), promotion by a complete request (governance.promotion), whether somebody may use these pages
(governance.gate).
Source: design.md section 6; 21 CFR 11.50 (a signature carries name, time and meaning).
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Sequence
from datetime import datetime, timedelta

import msgspec

from governance import evidence as evidences
from governance.access import Role
from governance.approval_states import RequestState, Status, judged_state, state_of, statement_for
from governance.evidence import Evidence
from governance.lifecycle import SILENT_PERIOD, SITES, Lifecycle
from governance.model_acts import ModelRefusedError
from governance.roster import Signature, SignatureRefusedError
from governance.serving import Judgement, Trust, judge_scope
from governance.serving_record import read_rows
from governance.serving_rules import check_signed
from governance.statements import Action, ServingRow, Signed, Slot, Statement, statement_bytes
from stores import approvals as stored
from stores import incidents, models
from stores.approvals import ApprovalRequest, ApprovalSignature
from stores.database import Connection, to_microseconds, to_timestamp
from stores.models import ModelVersion

__all__ = [
    "RequestState",
    "Status",
    "open_request",
    "receive",
    "reject",
    "state_of",
    "statement_bytes",
    "statement_for",
]


async def open_request(
    connection: Connection,
    version: ModelVersion,
    slot: Slot,
    *,
    opened_by: str,
    trust: Trust,
    policy: Lifecycle,
    now: datetime,
    sites: Sequence[str] = (),
    waivers: Sequence[str] = (),
) -> ApprovalRequest:
    """Ask for an approval; where the same was asked and is still open, return that.

    Args:
        connection: in the caller's transaction.
        version: as registered.
        slot: to speak, or to listen silently.
        opened_by: "issuer|subject", or a process.
        trust: this site, its mode, and what the serving record is judged by.
        policy: the lifecycle.
        now: real time.
        sites: hospitals whose patients the verdicts are about; this one where none is given.
        waivers: names of requirements to be signed away (Lifecycle.waivers).

    Raises:
        ModelRefusedError: `not_validated`, `waiver_not_permitted`, `sites_missing`, `silent_period_missing`,
            `version_barred`, `incident_open`.
        ConfigurationError: there is no such waiver.
    """
    kept = await models.verdicts_of(connection, version.model_digest)
    kinds = policy.evidence.kinds
    faults = evidences.faults(version, kept, kinds)
    if faults:
        raise ModelRefusedError(
            "not_validated", f"{version.scope} version {version.version} cannot be approved: {'; '.join(faults)}."
        )
    evidence = evidences.gather(version, kept, kinds, sites or (trust.site,))
    digest = evidences.digest(evidence)
    rows = await read_rows(connection, version.scope)
    judgement = judge_scope(version.scope, rows, trust, policy, now)
    waived = _waived(policy, waivers, trust)
    _check_requirements(evidence, slot, waivers, policy)
    await _check_past(connection, version, slot, digest, judgement)
    if policy.slots[slot].silent_days and SILENT_PERIOD not in waivers:
        _check_silence(version, judgement, policy)
    conditions = (*evidence.conditions, *waived, *_past_of(version, rows))
    for known in await stored.requests(connection, model_digest=version.model_digest):
        is_same = (known.slot, known.evidence_digest, known.conditions) == (str(slot), digest, conditions)
        if is_same and known.site == trust.site:
            state = await judged_state(connection, known, judgement, trust, policy, now)
            if state.status in {Status.OPEN, Status.COMPLETE}:
                return known
    request = ApprovalRequest(
        request_id=secrets.token_hex(8),
        site=trust.site,
        scope=version.scope,
        slot=str(slot),
        version=version.version,
        model_digest=version.model_digest,
        evidence_digest=digest,
        evidence=evidences.canonical_bytes(evidence).decode(),
        conditions=conditions,
        author=version.author,
        opened_at_us=to_microseconds(now),
        opened_by=opened_by,
        expires_at_us=to_microseconds(now + timedelta(days=policy.request.lasts_days)),
    )
    await stored.add_request(connection, request)
    return request


def _waived(policy: Lifecycle, waivers: Sequence[str], trust: Trust) -> tuple[str, ...]:
    found = []
    for name in dict.fromkeys(waivers):
        waiver = policy.waiver(name)
        if waiver.is_demo_only and trust.mode != "demo":
            raise ModelRefusedError("waiver_not_permitted", f"The {name} may be waived in demonstrations only.")
        found.append(waiver.sentence)
    return tuple(found)


def _check_requirements(evidence: Evidence, slot: Slot, waivers: Sequence[str], policy: Lifecycle) -> None:
    wanted = policy.slots[slot].sites
    if len(evidence.sites) < wanted and SITES not in waivers:
        raise ModelRefusedError(
            "sites_missing",
            f"The evidence comes from {len(evidence.sites)} of {wanted} hospitals; the waiver {SITES!r} says so in its "
            "conditions.",
        )


async def _check_past(
    connection: Connection, version: ModelVersion, slot: Slot, evidence_digest: str, judgement: Judgement
) -> None:
    if judgement.is_barred(slot, version.model_digest, evidence_digest):
        raise ModelRefusedError(
            "version_barred",
            f"{version.scope} version {version.version} was rolled back under this evidence: judge it anew first.",
        )
    for incident in await incidents.find(connection, scope=version.scope, is_open=True):
        if incident.model_digest == version.model_digest:
            raise ModelRefusedError(
                "incident_open",
                f"Incident {incident.incident_id} ({incident.cause}) of this version is open: close it first.",
            )


def _check_silence(version: ModelVersion, judgement: Judgement, policy: Lifecycle) -> None:
    listened = timedelta(microseconds=judgement.listened_us.get(version.model_digest, 0))
    wanted = timedelta(days=policy.slots[Slot.CHAMPION].silent_days)
    if listened < wanted:
        raise ModelRefusedError(
            "silent_period_missing",
            f"{version.scope} version {version.version} listened silently for {listened / timedelta(days=1):.1f} of "
            f"{wanted / timedelta(days=1):g} days.",
        )


def _past_of(version: ModelVersion, rows: Sequence[ServingRow]) -> list[str]:
    """Return what people must know before they let a version speak again."""
    held: dict[Slot, str] = {}
    said = []
    by_id = {row.serving_id: row for row in rows}
    for row in rows:
        is_end = row.action in {Action.RESTORE, Action.WITHDRAW}
        if is_end and held.get(row.slot) == version.model_digest:
            said.append(f"This version was rolled back on {to_timestamp(row.at_us):%Y-%m-%d}: {row.cause}.")
        if row.action is Action.PROMOTE:
            held[row.slot] = row.model_digest
        elif is_end:
            restored = by_id.get(row.restores)
            held[row.slot] = restored.model_digest if restored is not None and row.action is Action.RESTORE else ""
    return list(dict.fromkeys(said))


async def receive(
    connection: Connection,
    request_id: str,
    statement: Statement,
    signature: Signature,
    *,
    trust: Trust,
    policy: Lifecycle,
    now: datetime,
) -> RequestState:
    """Take one person's signature, once everything about it holds, and return what the request stands at then.

    Args:
        connection: in the caller's transaction.
        request_id: the request it answers.
        statement: what was signed, as `statement_for` gave it.
        signature: by the person's own key.
        trust: roster, and what the serving record is judged by.
        policy: who may sign.
        now: when it was received.

    Raises:
        ModelRefusedError: `no_such_request`, `not_open`, `statement_altered`, `evidence_altered`,
            `role_may_not_sign`, `person_twice`, `role_twice`.
        SignatureRefusedError: the signature does not count; its `reason` says why (governance.serving_rules).
    """
    state = await _locked_state(connection, request_id, trust, policy, now)
    request = state.request
    if state.status is not Status.OPEN and state.status is not Status.COMPLETE:
        raise ModelRefusedError("not_open", f"Approval {request_id} is {state.status}: it takes no more signatures.")
    rule = policy.slots[Slot(request.slot)]
    if statement != statement_for(request, statement.person, statement.role, policy):
        raise ModelRefusedError("statement_altered", "What was signed is not what this request asks: read it again.")
    if statement.role not in rule.roles:
        raise ModelRefusedError("role_may_not_sign", f"A {statement.role} does not decide this.")
    if trust.refusal or trust.roster is None:
        raise SignatureRefusedError(trust.refusal or "roster_missing", trust.text or "There is no roster.")
    _check_evidence(request)
    signed = Signed(statement=statement, signature=signature, received_at=now)
    check_signed(signed, trust.roster, trust.party)
    kept = [one for one in await stored.signatures_of(connection, request_id) if one.is_approval]
    if any(one.person == statement.person for one in kept):
        raise ModelRefusedError("person_twice", "You have signed this request already.")
    if any(one.role == statement.role for one in kept):
        raise ModelRefusedError(
            "role_twice", f"Somebody has signed as {statement.role} already: another role is needed."
        )
    await stored.add_signature(
        connection,
        ApprovalSignature(
            request_id=request_id,
            is_approval=True,
            person=statement.person,
            role=str(statement.role),
            signed=msgspec.json.encode(signed).decode(),
            received_at_us=to_microseconds(now),
        ),
    )
    return await state_of(connection, request_id, trust=trust, policy=policy, now=now)


def _check_evidence(request: ApprovalRequest) -> None:
    if hashlib.sha256(request.evidence.encode()).hexdigest() != request.evidence_digest:
        raise ModelRefusedError("evidence_altered", "The evidence kept with this request is not what was asked about.")


async def reject(
    connection: Connection,
    request_id: str,
    person: str,
    role: Role,
    reason: str,
    *,
    trust: Trust,
    policy: Lifecycle,
    now: datetime,
) -> RequestState:
    """Take one person's rejection: the request ends. Whoever may sign may reject; one suffices.

    Raises:
        ModelRefusedError: `no_such_request`, `not_open`, `role_may_not_sign`, `no_reason`.
    """
    state = await _locked_state(connection, request_id, trust, policy, now)
    if state.status not in {Status.OPEN, Status.COMPLETE}:
        raise ModelRefusedError("not_open", f"Approval {request_id} is {state.status}.")
    if role not in policy.slots[Slot(state.request.slot)].roles:
        raise ModelRefusedError("role_may_not_sign", f"A {role} does not decide this.")
    if not reason.strip():
        raise ModelRefusedError("no_reason", "Say why, so that others learn from it.")
    await stored.add_signature(
        connection,
        ApprovalSignature(
            request_id=request_id,
            is_approval=False,
            person=person,
            role=str(role),
            reason=reason.strip(),
            received_at_us=to_microseconds(now),
        ),
    )
    return await state_of(connection, request_id, trust=trust, policy=policy, now=now)


async def _locked_state(
    connection: Connection, request_id: str, trust: Trust, policy: Lifecycle, now: datetime
) -> RequestState:
    if await stored.request_of(connection, request_id, is_locked=True) is None:
        raise ModelRefusedError("no_such_request", "There is no such request for approval.")
    return await state_of(connection, request_id, trust=trust, policy=policy, now=now)
