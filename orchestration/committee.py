"""What people decide about models at this machine's command line: each act under the gate, audited, in one transaction.

Here: finding a request, signing with a key file, rejecting, promoting, rolling back, incidents, what serves and served.
Not here: rules (governance.approvals, promotion, rollback, serving), arguments and printing (model_commands), the same
acts on pages (clinic).
A signer is known by the key: whoever opens the key file of somebody on the roster acts as that person, in the roles the
roster gives them, and the gate is asked about exactly that person.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

import msgspec

from governance import approvals, evidence, lifecycle, personal_keys, promotion, rollback, roster, serving
from governance.access import Ask, Principal, Purpose, Role, Surface, Verb
from governance.approvals import RequestState
from governance.model_acts import ModelRefusedError
from governance.roster import Signature
from governance.serving import Held, Judgement, Trust
from governance.serving_record import appender_of, read_rows
from governance.statements import Action, ServingRow, Slot, Statement, statement_bytes
from orchestration.operator_audit import WRITER, operator, operator_auditor, operator_identity
from orchestration.operator_gate import operator_gate, require
from orchestration.storage import connection
from stores import approvals as requests
from stores import incidents, models
from stores.approvals import ApprovalRequest
from stores.database import consistent_read
from stores.incidents import Incident
from stores.ledger import detail_of
from stores.models import ModelVersion
from vocabulary.errors import ConfigurationError
from vocabulary.settings import Settings
from vocabulary.signing import SigningKey
from vocabulary.verdict import Kind, Outcome, worst

SCOPE = "mortality"


class Picture(NamedTuple):
    """Everything about one scope's models."""

    versions: list[ModelVersion]  # newest first
    outcomes: dict[str, dict[str, str]]  # model digest → kind of verdict → worst of each subject's newest
    requests: list[RequestState]  # newest first
    rows: list[ServingRow]  # oldest first
    judgement: Judgement
    incidents: list[Incident]


async def picture(settings: Settings, scope: str, now: datetime) -> Picture:
    """Return what is known of a scope's models.

    Raises:
        RefusedError: the policy says no.
        UnavailableError: the database does not answer.
    """
    await require(settings, Surface.MODELS, Verb.READ, purpose=Purpose.OPERATIONS, detail=detail_of(scope=scope))
    trust, policy = serving.load_trust(settings, now), lifecycle.load()
    async with connection(settings, "models") as opened, consistent_read(opened):
        versions = await models.versions(opened, scope)
        outcomes: dict[str, dict[str, str]] = {}
        for version in versions:
            kept = await models.verdicts_of(opened, version.model_digest)
            of_kind: dict[Kind, list[Outcome]] = {}
            for one in evidence.newest(kept, tuple(Kind)):
                of_kind.setdefault(one.verdict.kind, []).append(one.verdict.outcome)
            outcomes[version.model_digest] = {str(kind): str(worst(found)) for kind, found in of_kind.items()}
        asked = [
            await approvals.state_of(opened, request.request_id, trust=trust, policy=policy, now=now)
            for request in await requests.requests(opened, scope=scope)
        ]
        rows = await read_rows(opened, scope)
        judgement = serving.judge_scope(scope, rows, trust, policy, now)
        return Picture(versions, outcomes, asked, rows, judgement, await incidents.find(opened, scope=scope))


async def live_at(
    settings: Settings, scope: str, at: datetime, now: datetime
) -> tuple[dict[Slot, Held], list[ServingRow]]:
    """Return what each slot held at a moment, and the rows up to then that say so.

    Rows are judged by the keys and the roster that count now; the note of what was seen later is not used.
    """
    await require(settings, Surface.MODELS, Verb.READ, detail=detail_of(scope=scope, at=at.isoformat()))
    at_us = round(at.timestamp() * 1e6)
    async with connection(settings, "models") as opened, consistent_read(opened):
        rows = [row for row in await read_rows(opened, scope) if row.at_us <= at_us]
    trust = _without_note(serving.load_trust(settings, now))
    return serving.judge_scope(scope, rows, trust, lifecycle.load(), now).slots, rows


def _without_note(trust: Trust) -> Trust:
    return msgspec.structs.replace(trust, high_water={})


async def find_request(settings: Settings, name: str) -> ApprovalRequest:
    """Return a request by its number, or the newest of a version written `mortality@3`.

    Raises:
        ModelRefusedError: `no_such_request`.
    """
    scope, _, number = name.partition("@")
    async with connection(settings, "models") as opened, consistent_read(opened):
        if not number:
            found = await requests.request_of(opened, name)
        else:
            asked = await requests.requests(opened, scope=scope)
            found = next((one for one in asked if str(one.version) == number), None)
    if found is None:
        raise ModelRefusedError(
            "no_such_request", f"There is no request {name!r} for approval. `vigil models` lists them, newest first."
        )
    return found


async def ask_for(
    settings: Settings, scope: str, version: int, slot: Slot, waivers: Sequence[str], now: datetime
) -> ApprovalRequest:
    """Open a request for a version that is registered and validated.

    Raises:
        ModelRefusedError: it may not be asked for; see governance.approvals.open_request.
        ConfigurationError: there is no such version or waiver.
    """
    trust, policy = serving.load_trust(settings, now), lifecycle.load()
    ask = Ask(surface=Surface.MODELS, verb=Verb.CHANGE, purpose=Purpose.OPERATIONS)
    detail = detail_of(scope=scope, version=version, slot=str(slot))
    async with operator_gate(settings) as gate, gate.act(operator(), ask, detail=detail) as opened:
        found = await models.version_of(opened, scope, version)
        if found is None:
            raise ConfigurationError(f"There is no {scope}@{version}. `vigil models` lists the versions.")
        return await approvals.open_request(
            opened, found, slot, opened_by=operator().agent, trust=trust, policy=policy, now=now, waivers=waivers
        )


class Signer(NamedTuple):
    """Somebody whose key file was opened."""

    principal: Principal
    key: SigningKey
    role: Role


def open_signer(
    settings: Settings, key_file: Path, passphrase: str, role: Role | None, slot: Slot, now: datetime
) -> Signer:
    """Open a key file, and return whose it is by the roster, in the role they will act in.

    Args:
        settings: where the roster is.
        key_file: of the person.
        passphrase: opens it.
        role: None where the roster gives them just one that decides this.
        slot: what is decided.
        now: real time.

    Raises:
        WrongPassphraseError: it does not open.
        SignatureRefusedError: nobody on the roster holds this key, or the roster does not count.
        ConfigurationError: the role is not theirs, or they have several and none was chosen.
    """
    from governance import trust as rosters

    key = personal_keys.open_key(key_file, passphrase)
    installed = rosters.load_roster(settings, now.date())
    found = installed.signer_of(key.key_id)
    if found is None:
        raise roster.SignatureRefusedError(
            "unknown_key", f"Nobody on roster {installed.serial} holds key {key.key_id}: it signs nothing here."
        )
    signer = found[0]
    deciding = [one for one in signer.roles if one in lifecycle.load().slots[slot].roles]
    if role is None and len(deciding) == 1:
        role = deciding[0]
    if role is None or role not in signer.roles:
        listed = ", ".join(signer.roles)
        raise ConfigurationError(f"Say in which role {signer.name} acts: --role, one of {listed}.")
    issuer, _, subject = signer.person.partition("|")
    principal = Principal(issuer=issuer, subject=subject, name=signer.name, roles=frozenset(signer.roles))
    return Signer(principal, key, role)


def signature_of(request: ApprovalRequest, signer: Signer, now: datetime) -> tuple[Statement, Signature]:
    """Return what a signer signs for a request, and their signature; nothing is sent anywhere."""
    statement = approvals.statement_for(request, signer.principal.agent, signer.role, lifecycle.load())
    return statement, roster.sign_statement(signer.key, statement_bytes(statement), now)


async def approve(settings: Settings, request: ApprovalRequest, signer: Signer, now: datetime) -> RequestState:
    """Sign a request and hand the signature in.

    Raises:
        ModelRefusedError, SignatureRefusedError: see governance.approvals.receive; recorded.
        RefusedError: the policy does not let this person approve; recorded.
    """
    trust, policy = serving.load_trust(settings, now), lifecycle.load()
    statement, signature = signature_of(request, signer, now)
    ask = Ask(surface=Surface.MODELS, verb=Verb.APPROVE, purpose=Purpose.QUALITY)
    detail = detail_of(request=request.request_id, role=str(signer.role), at="command line")
    async with operator_gate(settings) as gate, gate.act(signer.principal, ask, detail=detail) as opened:
        return await approvals.receive(
            opened, request.request_id, statement, signature, trust=trust, policy=policy, now=now
        )


async def reject(
    settings: Settings, request: ApprovalRequest, signer: Signer, reason: str, now: datetime
) -> RequestState:
    """End a request with a reason.

    Raises:
        ModelRefusedError: it is not open, or the role does not decide this; recorded.
        RefusedError: the policy does not let this person; recorded.
    """
    trust, policy = serving.load_trust(settings, now), lifecycle.load()
    ask = Ask(surface=Surface.MODELS, verb=Verb.APPROVE, purpose=Purpose.QUALITY)
    detail = detail_of(request=request.request_id, role=str(signer.role), rejected=True)
    async with operator_gate(settings) as gate, gate.act(signer.principal, ask, detail=detail) as opened:
        return await approvals.reject(
            opened,
            request.request_id,
            signer.principal.agent,
            signer.role,
            reason,
            trust=trust,
            policy=policy,
            now=now,
        )


async def promote(settings: Settings, request: ApprovalRequest, now: datetime) -> ServingRow:
    """Let the version of a complete request serve.

    Raises:
        ModelRefusedError: it is not complete, or something changed since it was signed; recorded.
        RefusedError: the policy says no; recorded.
    """
    detail = detail_of(request=request.request_id, act="promote")
    await require(settings, Surface.MODELS, Verb.APPROVE, purpose=Purpose.OPERATIONS, detail=detail)
    appender = appender_of(settings, WRITER, operator_identity(settings).folder)
    trust, policy = serving.load_trust(settings, now), lifecycle.load()
    async with operator_auditor(settings) as auditor:
        return await promotion.promote(
            auditor,
            request.request_id,
            by=operator().agent,
            appender=appender,
            trust=trust,
            policy=policy,
            now=now,
        )


async def command(settings: Settings, scope: str, action: Action, slot: Slot, reason: str, now: datetime) -> ServingRow:
    """Roll back, silence, clamp, resume or withdraw, as one person says.

    Raises:
        ModelRefusedError: nothing serves, or the record would not take it; recorded.
        RefusedError: the policy says no; recorded.
    """
    await require(
        settings,
        Surface.MODELS,
        Verb.RELEASE if action is Action.RESUME else Verb.CHANGE,  # as on the page: giving voice is another right
        purpose=Purpose.OPERATIONS,
        detail=detail_of(scope=scope, action=str(action)),
    )
    appender = appender_of(settings, WRITER, operator_identity(settings).folder)
    trust, policy = serving.load_trust(settings, now), lifecycle.load()
    async with operator_auditor(settings) as auditor:
        return await rollback.command(
            auditor,
            scope,
            action,
            by=operator().agent,
            name=operator().name,
            role=Role.OPERATOR,
            reason=reason,
            appender=appender,
            trust=trust,
            policy=policy,
            now=now,
            slot=slot,
        )


async def open_incidents(settings: Settings, *, is_open: bool | None) -> list[Incident]:
    """Return incidents, newest first."""
    await require(settings, Surface.MODELS, Verb.READ, purpose=Purpose.OPERATIONS)
    async with connection(settings, "incidents") as opened, consistent_read(opened):
        return await incidents.find(opened, is_open=is_open)


async def close_incident(settings: Settings, incident_id: int, note: str, now: datetime) -> None:
    """Close an incident with what was found.

    Raises:
        ModelRefusedError: it is not open, or the note is empty; recorded.
    """
    await require(settings, Surface.MODELS, Verb.REVIEW, purpose=Purpose.OPERATIONS)
    async with operator_auditor(settings) as auditor:
        await rollback.close_incident(
            auditor, incident_id, by=operator().agent, name=operator().name, role=Role.OPERATOR, note=note, now=now
        )
