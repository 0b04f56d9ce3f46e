"""What a request for approval stands at: its answers judged anew each time they are read.

Here: the statement each signer reads and signs, which kept signatures count, what is missing.
Not here: opening requests and taking answers (governance.approvals), one signature's rules (governance.serving_rules).
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from enum import StrEnum

import msgspec

from governance.access import Role
from governance.lifecycle import Lifecycle, missing_signatures
from governance.model_acts import ModelRefusedError
from governance.roster import SignatureRefusedError
from governance.serving import Judgement, Trust, judge_scope
from governance.serving_record import read_rows
from governance.serving_rules import check_signed
from governance.statements import Signed, Slot, Statement
from stores import approvals as stored
from stores.approvals import ApprovalRequest, ApprovalSignature
from stores.database import Connection, to_microseconds, to_timestamp


class Status(StrEnum):
    """What a request stands at."""

    OPEN = "open"  # signatures are missing
    COMPLETE = "complete"  # may be promoted
    EXPIRED = "expired"
    REJECTED = "rejected"
    CONSUMED = "consumed"  # a promotion was made of it


class RequestState(msgspec.Struct, frozen=True, kw_only=True):
    """A request with its answers, judged."""

    request: ApprovalRequest
    status: Status
    signed: tuple[Signed, ...]  # those that count
    refused: tuple[tuple[str, str], ...]  # signatures kept that do not count any more: person, reason
    rejections: tuple[ApprovalSignature, ...]
    missing: tuple[str, ...]  # in words
    serving_id: int = 0  # of the promotion made of it

    @property
    def is_complete(self) -> bool:
        """Return whether it may be promoted."""
        return self.status is Status.COMPLETE


def statement_for(request: ApprovalRequest, person: str, role: Role, policy: Lifecycle) -> Statement:
    """Return exactly what a person reads and signs in a role; `statement_bytes` of it is what the key signs.

    Args:
        request: as opened.
        person: "issuer|subject", as the roster names them.
        role: one they hold.
        policy: gives the sentence that is agreed to.
    """
    slot = Slot(request.slot)
    return Statement(
        site=request.site,
        request_id=request.request_id,
        scope=request.scope,
        slot=slot,
        version=request.version,
        model_digest=request.model_digest,
        evidence_digest=request.evidence_digest,
        conditions=request.conditions,
        author=request.author,
        opened_at=to_timestamp(request.opened_at_us),
        expires_at=to_timestamp(request.expires_at_us),
        person=person,
        role=role,
        meaning=policy.slots[slot].meaning,
    )


async def state_of(
    connection: Connection, request_id: str, *, trust: Trust, policy: Lifecycle, now: datetime
) -> RequestState:
    """Return what a request stands at, its signatures judged anew.

    Raises:
        ModelRefusedError: `no_such_request`.
    """
    request = await stored.request_of(connection, request_id)
    if request is None:
        raise ModelRefusedError("no_such_request", "There is no such request for approval.")
    judgement = judge_scope(request.scope, await read_rows(connection, request.scope), trust, policy, now)
    return await judged_state(connection, request, judgement, trust, policy, now)


async def judged_state(
    connection: Connection,
    request: ApprovalRequest,
    judgement: Judgement,
    trust: Trust,
    policy: Lifecycle,
    now: datetime,
) -> RequestState:
    """Return what a request stands at, with its scope's record already judged."""
    answers = await stored.signatures_of(connection, request.request_id)
    signed: list[Signed] = []
    refused: list[tuple[str, str]] = []
    for answer in answers:
        if answer.is_approval:
            one = _counted(answer, request, signed, trust, policy)
            if isinstance(one, Signed):
                signed.append(one)
            else:
                refused.append((answer.person, one))
    rejections = tuple(answer for answer in answers if not answer.is_approval)
    missing = missing_signatures(policy.slots[Slot(request.slot)], [one.statement.role for one in signed])
    if request.request_id in judgement.high_water.requests:
        status = Status.CONSUMED
    elif rejections:
        status = Status.REJECTED
    elif to_microseconds(now) >= request.expires_at_us:
        status = Status.EXPIRED
    else:
        status = Status.OPEN if missing else Status.COMPLETE
    return RequestState(
        request=request,
        status=status,
        signed=tuple(signed),
        refused=tuple(refused),
        rejections=rejections,
        missing=missing,
        serving_id=judgement.promotions.get(request.request_id, 0),
    )


def _counted(
    answer: ApprovalSignature, request: ApprovalRequest, others: Sequence[Signed], trust: Trust, policy: Lifecycle
) -> Signed | str:
    """Return a kept signature if it still counts, else why it does not."""
    if trust.refusal or trust.roster is None:
        return trust.refusal or "roster_missing"
    try:
        one = msgspec.json.decode(answer.signed, type=Signed)
        check_signed(one, trust.roster, trust.party)
    except msgspec.MsgspecError:
        return "row_altered"
    except SignatureRefusedError as error:
        return error.reason
    said = one.statement
    if said != statement_for(request, said.person, said.role, policy):
        return "statement_altered"
    if any(said.person == other.statement.person or said.role == other.statement.role for other in others):
        return "person_or_role_twice"
    return one
