"""Taking voice away: at once, by machine or by one person; and giving back only what people approved.

Here: the reaction to a cause (lifecycle.toml says which), and a person's acts: silence, clamp, roll back, withdraw,
resume; each a serving row, where a fault was found with its incident, in one transaction with the audit event.
Not here: finding causes (twin.watch, validation.live), promotion (governance.promotion), what rows do
(governance.serving_walk). Neither the experiment tracker nor the orchestrator is needed.
Source: design.md section 6, 9.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple

from governance.access import Role, Verb
from governance.audit import Auditor
from governance.lifecycle import Lifecycle
from governance.model_acts import ModelRefusedError, acting, event
from governance.serving import Held, Judgement, Standing, Trust, judge_scope, refusal_at_load
from governance.serving_record import Appender, append_row, previous_digest, read_rows, sign_row
from governance.statements import Action, ServingRow, Slot
from stores import incidents, models
from stores import serving as stored
from stores.database import Connection, to_microseconds
from stores.incidents import Incident
from vocabulary.errors import ConfigurationError
from vocabulary.verdict import Verdict

_GIVES_VOICE = frozenset({Action.PROMOTE, Action.RESTORE, Action.RESUME})


class _NothingLeftError(Exception):
    """Ends an act that did nothing: neither row nor event is written."""


class Reaction(NamedTuple):
    """What was done about a cause."""

    row: ServingRow
    incident_id: int


async def react(
    auditor: Auditor,
    scope: str,
    cause: str,
    *,
    statement: str,
    verdict: Verdict | None,
    appender: Appender,
    trust: Trust,
    policy: Lifecycle,
    now: datetime,
    slot: Slot = Slot.CHAMPION,
) -> Reaction | None:
    """React to a cause: serving row, incident, verdict and audit event in one transaction; None: nothing is left to do.

    Nothing is left where the slot is empty or silent already, or where every step for this cause was taken since the
    model was last given voice. So calling again with the same cause does no harm.

    Args:
        auditor: of this process.
        scope: "mortality".
        cause: a key of Lifecycle.reactions: "interface_fault", "calibration_breach", "subgroup_breach", "alert_flood".
        statement: one sentence for a person; no patient data.
        verdict: the live verdict, kept with the incident.
        appender: this process.
        trust: what the record is judged by (governance.serving.load_trust, just now).
        policy: the lifecycle.
        now: real time.
        slot: which.

    Raises:
        ConfigurationError: no reaction to this cause is known.
        UnavailableError: nothing was done; call again.
    """
    if cause not in policy.reactions:
        raise ConfigurationError(f"governance/lifecycle.toml knows no reaction to {cause!r}.")
    try:
        async with auditor.act(None) as connection:
            reaction = await react_in(
                connection, scope, cause, statement=statement, verdict=verdict, appender=appender, trust=trust,
                policy=policy, now=now, slot=slot,
            )  # fmt: skip
            if reaction is None:
                raise _NothingLeftError
            row = reaction.row
            done = event(
                "roll_back",
                Verb.CHANGE,
                f"system|{appender.name}",
                scope=scope,
                slot=str(slot),
                cause=cause,
                done=str(row.action),
                serving=row.serving_id,
                incident=reaction.incident_id,
                version=row.version,
            )
            await auditor.record_in(connection, done)
    except _NothingLeftError:
        return None
    return reaction


async def react_in(
    connection: Connection,
    scope: str,
    cause: str,
    *,
    statement: str,
    verdict: Verdict | None,
    appender: Appender,
    trust: Trust,
    policy: Lifecycle,
    now: datetime,
    slot: Slot = Slot.CHAMPION,
) -> Reaction | None:
    """The same in the caller's transaction, which holds the audit event."""
    record = await _locked(connection, scope, slot, trust, policy, now)
    action = await _next_step(connection, record, cause, policy)
    if action is None:
        return None
    row = await _append(connection, record, action, by=appender.name, cause=cause, appender=appender, now=now)
    assert record.held.row is not None
    digest = record.held.row.model_digest
    verdict_digest = ""
    if verdict is not None:
        verdict_digest = await models.add_verdict(connection, verdict, digest, to_microseconds(now))
    incident_id = await incidents.add(
        connection,
        Incident(
            at_us=to_microseconds(now),
            scope=scope,
            slot=str(slot),
            cause=cause,
            statement=statement,
            verdict_digest=verdict_digest,
            reaction=str(row.action),
            serving_id=row.serving_id,
            model_digest=digest,
            opened_by=appender.name,
        ),
    )
    return Reaction(row, incident_id)


async def command(
    auditor: Auditor,
    scope: str,
    action: Action,
    *,
    by: str,
    name: str,
    role: Role | None,
    reason: str,
    appender: Appender,
    trust: Trust,
    policy: Lifecycle,
    now: datetime,
    slot: Slot = Slot.CHAMPION,
) -> ServingRow:
    """Do what one person says, with its audit event; for the command line. See `command_in`.

    Raises:
        ModelRefusedError: as `command_in`; the refusal is audited.
        UnavailableError: nothing was done.
    """
    entry = event(str(action), Verb.CHANGE, by, name=name, role=role, scope=scope, slot=str(slot))
    async with acting(auditor, entry) as connection:
        return await command_in(
            connection, scope, action, by=by, reason=reason, appender=appender, trust=trust, policy=policy, now=now,
            slot=slot,
        )  # fmt: skip


async def command_in(
    connection: Connection,
    scope: str,
    action: Action,
    *,
    by: str,
    reason: str,
    appender: Appender,
    trust: Trust,
    policy: Lifecycle,
    now: datetime,
    slot: Slot = Slot.CHAMPION,
) -> ServingRow:
    """Do what one person says, in the caller's transaction, which holds the audit event.

    Args:
        connection: in the transaction.
        scope: "mortality".
        action: RESTORE rolls back to the last approval, or withdraws where there is none; ABSTAIN silences; CLAMP lets
            it speak without attention; WITHDRAW empties the slot; RESUME ends a silence or clamp.
        by: "issuer|subject" of the person.
        reason: in their words; no patient data: it stands in the record and on the models' page.
        appender: this process.
        trust: what the record is judged by.
        policy: the lifecycle.
        now: real time.
        slot: which.

    Raises:
        ModelRefusedError: `no_reason`, `nobody`, `nothing_serves`, `not_by_command`, or the word by which the row would
            be refused.
    """
    if action is Action.PROMOTE:
        raise ModelRefusedError("not_by_command", "A promotion needs a complete request.")
    if not reason.strip():
        raise ModelRefusedError("no_reason", "Say why: it stands in the record.")
    if "|" not in by:
        raise ModelRefusedError("nobody", "A person is named by issuer|subject.")
    record = await _locked(connection, scope, slot, trust, policy, now)
    if record.held.row is None:
        raise ModelRefusedError("nothing_serves", f"No model holds the {slot} slot of {scope}.")
    if action is Action.RESTORE and record.held.previous is None:
        action = Action.WITHDRAW
    return await _append(connection, record, action, by=by, cause=reason.strip()[:500], appender=appender, now=now)


async def close_incident(
    auditor: Auditor, incident_id: int, *, by: str, name: str, role: Role | None, note: str, now: datetime
) -> None:
    """Close an incident with what a person found, with its audit event; for the command line.

    On a page, `stores.incidents.close` is called in the gate's act.

    Raises:
        ModelRefusedError: `no_reason`, or `not_open`: nobody opened it, or somebody closed it.
    """
    entry = event("close_incident", Verb.REVIEW, by, name=name, role=role, incident=incident_id)
    async with acting(auditor, entry) as connection:
        if not note.strip():
            raise ModelRefusedError("no_reason", "Say what was found: others learn from it.")
        if not await incidents.close(connection, incident_id, to_microseconds(now), by, note.strip()):
            raise ModelRefusedError("not_open", f"There is no open incident {incident_id}.")


class _Record(NamedTuple):
    """A scope's record under the lock, judged."""

    scope: str
    rows: list[ServingRow]
    judgement: Judgement
    held: Held
    trust: Trust
    policy: Lifecycle


async def _locked(
    connection: Connection, scope: str, slot: Slot, trust: Trust, policy: Lifecycle, now: datetime
) -> _Record:
    await stored.lock(connection, scope)
    rows = await read_rows(connection, scope)
    judgement = judge_scope(scope, rows, trust, policy, now)
    return _Record(scope, rows, judgement, judgement.slots[slot], trust, policy)


async def _next_step(connection: Connection, record: _Record, cause: str, policy: Lifecycle) -> Action | None:
    held = record.held
    if held.row is None or held.standing in {Standing.EMPTY, Standing.ABSTAINING}:
        return None
    voiced = _voiced_by(record.rows, record.judgement, held)
    taken = [
        incident.reaction
        for incident in await incidents.find(connection, scope=record.scope, cause=cause, is_open=True)
        if incident.model_digest == held.row.model_digest and (incident.serving_id or 0) > voiced
    ]
    steps = policy.reactions[cause]
    left = list(steps[len(taken) :])
    if left and left[0] is Action.CLAMP and held.standing is Standing.CLAMPED:
        del left[0]  # a person, or another cause, clamped it: that did not help
    if not left:
        return None
    return Action.WITHDRAW if left[0] is Action.RESTORE and held.previous is None else left[0]


def _voiced_by(rows: Sequence[ServingRow], judgement: Judgement, held: Held) -> int:
    """Return the row that last gave the slot's model voice."""
    refused = {refusal.serving_id for refusal in judgement.refusals}
    return max(
        (
            row.serving_id
            for row in rows
            if row.slot is held.slot and row.action in _GIVES_VOICE and row.serving_id not in refused
        ),
        default=0,
    )


async def _append(
    connection: Connection, record: _Record, action: Action, *, by: str, cause: str, appender: Appender, now: datetime
) -> ServingRow:
    held = record.held
    about = held.previous if action is Action.RESTORE else held.row
    assert held.row is not None
    assert about is not None
    is_empty = action is Action.WITHDRAW
    row = ServingRow(
        serving_id=0,
        at_us=to_microseconds(now),
        scope=record.scope,
        slot=held.slot,
        action=action,
        version=0 if is_empty else about.version,
        model_digest="" if is_empty else about.model_digest,
        evidence_digest="" if is_empty else about.evidence_digest,
        request_id="" if is_empty else about.request_id,
        restores=0 if is_empty else about.serving_id,
        cause=cause,
        by=by,
        previous_digest=previous_digest(record.rows),
    )
    row = sign_row(row, appender)
    refusal = refusal_at_load(record.rows, row, record.trust, record.policy, now)
    if refusal is not None:
        raise ModelRefusedError(refusal.reason, refusal.text)
    return await append_row(connection, row, record.rows)
