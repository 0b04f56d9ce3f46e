"""Promotion: of a complete request a serving row is made, once.

Here: checking evidence and signatures again, appending the row, in one transaction with its audit event.
Not here: collecting signatures (governance.approvals), what the row is believed by afterwards (governance.serving), the
tracker's alias, which follows the row (governance.registry).
Source: design.md section 6.
"""

from __future__ import annotations

import hashlib
from datetime import datetime

from governance import evidence as evidences
from governance.access import Verb
from governance.approval_states import RequestState, Status, state_of
from governance.audit import Auditor
from governance.lifecycle import Lifecycle
from governance.model_acts import ModelRefusedError, acting, event
from governance.serving import Trust, judge_scope, refusal_at_load
from governance.serving_record import Appender, append_row, previous_digest, read_rows, sign_row
from governance.statements import Action, ServingRow, Slot
from stores import approvals, models
from stores import serving as stored
from stores.approvals import ApprovalRequest
from stores.database import Connection, to_microseconds


async def promote(
    auditor: Auditor,
    request_id: str,
    *,
    by: str,
    appender: Appender,
    trust: Trust,
    policy: Lifecycle,
    now: datetime,
) -> ServingRow:
    """Let the version of a complete request hold its slot, with its audit event; for processes and commands.

    Args:
        auditor: of this process.
        request_id: signed by all who must; promoting it again returns the row that was made of it.
        by: "issuer|subject" of whoever completed it, or the process that noticed.
        appender: this process, which signs the row (governance.serving_record.appender_of).
        trust: what the record is judged by (governance.serving.load_trust, just now).
        policy: the lifecycle.
        now: real time.

    Raises:
        ModelRefusedError: see `promote_in`; the refusal is audited.
        UnavailableError: nothing was done.
    """
    entry = event("promote", Verb.APPROVE, _agent(by), request=request_id, appender=appender.name)
    async with acting(auditor, entry) as connection:
        return await promote_in(connection, request_id, by=by, appender=appender, trust=trust, policy=policy, now=now)


async def promote_in(
    connection: Connection,
    request_id: str,
    *,
    by: str,
    appender: Appender,
    trust: Trust,
    policy: Lifecycle,
    now: datetime,
) -> ServingRow:
    """The same in the caller's transaction, which holds the audit event (governance.gate.act on pages).

    Raises:
        ModelRefusedError: `no_such_request`, `not_complete`, `evidence_altered`, `evidence_changed`, `not_validated`,
            or the word by which the row would be refused at load (governance.serving).
    """
    await approvals.request_of(connection, request_id, is_locked=True)  # nobody rejects it between judging and writing
    state = await state_of(connection, request_id, trust=trust, policy=policy, now=now)
    request = state.request
    await stored.lock(connection, request.scope)
    rows = await read_rows(connection, request.scope)
    judgement = judge_scope(request.scope, rows, trust, policy, now)
    made = judgement.promotions.get(request_id)
    if made is not None:
        return next(row for row in rows if row.serving_id == made)
    _require_complete(state)
    await _check_evidence(connection, request, policy)
    row = sign_row(_row_of(state, by, previous_digest(rows), now), appender)
    refusal = refusal_at_load(rows, row, trust, policy, now)
    if refusal is not None:
        raise ModelRefusedError(refusal.reason, refusal.text)
    return await append_row(connection, row, rows)


def _agent(by: str) -> str:
    return by if "|" in by else f"system|{by}"


def _require_complete(state: RequestState) -> None:
    if state.status is Status.COMPLETE:
        return
    missing = f" Missing: {'; '.join(state.missing)}." if state.status is Status.OPEN else ""
    reason = {
        Status.EXPIRED: "approval_expired",
        Status.REJECTED: "rejected",
        Status.CONSUMED: "approval_reused",
    }.get(state.status, "not_complete")
    raise ModelRefusedError(reason, f"Approval {state.request.request_id} is {state.status}.{missing}")


async def _check_evidence(connection: Connection, request: ApprovalRequest, policy: Lifecycle) -> None:
    if hashlib.sha256(request.evidence.encode()).hexdigest() != request.evidence_digest:
        raise ModelRefusedError("evidence_altered", "The evidence kept with the request is not what was signed.")
    signed = evidences.from_bytes(request.evidence.encode())
    version = await models.version_of_digest(connection, request.model_digest)
    if version is None or (version.scope, version.version) != (request.scope, request.version):
        raise ModelRefusedError("evidence_changed", "The version that was approved is not registered so any more.")
    kept = await models.verdicts_of(connection, request.model_digest)
    kinds = policy.evidence.kinds
    faults = evidences.faults(version, kept, kinds)
    if faults:
        raise ModelRefusedError("not_validated", f"The version is no longer validated: {'; '.join(faults)}.")
    if evidences.digest(evidences.gather(version, kept, kinds, signed.sites)) != request.evidence_digest:
        raise ModelRefusedError("evidence_changed", "Other verdicts were added since: ask for a new approval.")


def _row_of(state: RequestState, by: str, previous: str, now: datetime) -> ServingRow:
    request = state.request
    return ServingRow(
        serving_id=0,
        at_us=to_microseconds(now),
        scope=request.scope,
        slot=Slot(request.slot),
        action=Action.PROMOTE,
        version=request.version,
        model_digest=request.model_digest,
        evidence_digest=request.evidence_digest,
        request_id=request.request_id,
        signed=state.signed,
        by=by,
        previous_digest=previous,
    )
