"""What one promotion must show: signatures of the right people, over exactly this version, in time. Pure.

Here: judging the people's signatures of one serving row.
Not here: the record around it (governance.serving), collecting signatures (governance.approvals).
"""

from __future__ import annotations

from datetime import timedelta
from types import MappingProxyType
from typing import Literal, NamedTuple

from governance.access import Role
from governance.lifecycle import SILENT_PERIOD, Lifecycle, missing_signatures
from governance.passkeys import RelyingParty
from governance.roster import Roster, SignatureRefusedError, check
from governance.statements import FORMAT, ServingRow, Signed, Statement, statement_bytes
from stores.database import to_microseconds


class Approval(NamedTuple):
    """What signatures are judged by."""

    site: str
    mode: Literal["production", "demo"]
    roster: Roster
    party: RelyingParty | None
    listened_us: int  # how long this very model listened silently here, by the record


_SAME = ("site", "request_id", "scope", "slot", "version", "model_digest", "evidence_digest")
_WORDS = MappingProxyType({"request_id": "request", "model_digest": "version", "evidence_digest": "evidence"})
_OF_APPROVAL = (*_SAME, "format", "conditions", "author", "opened_at", "expires_at")


def check_approval(row: ServingRow, approval: Approval, policy: Lifecycle) -> None:
    """Return if people's signatures let this row's version hold its slot.

    Raises:
        SignatureRefusedError: `signature_of_another_…`, `statements_differ`, `unknown_format`, `self_approval`,
            `person_twice`, `role_twice`, `role_not_held`, `role_may_not_sign`, `signed_by_another`,
            `approval_expired`, `signatures_missing`, `waiver_not_permitted`, `silent_period_missing`, or a word of
            governance.roster.check.
    """
    rule = policy.slots[row.slot]
    if not row.signed:
        raise SignatureRefusedError("signatures_missing", "Nobody signed it.")
    wanted = {
        "site": approval.site,
        "request_id": row.request_id,
        "scope": row.scope,
        "slot": row.slot,
        "version": row.version,
        "model_digest": row.model_digest,
        "evidence_digest": row.evidence_digest,
    }
    first = row.signed[0].statement
    roles: list[Role] = []
    people: list[str] = []
    for signed in row.signed:
        statement = signed.statement
        for name in _SAME:
            if getattr(statement, name) != wanted[name]:
                word = _WORDS.get(name, name)
                raise SignatureRefusedError(
                    f"signature_of_another_{word}", f"A signature is of another {word} than the row's."
                )
        check_signed(signed, approval.roster, approval.party)
        if any(getattr(statement, name) != getattr(first, name) for name in _OF_APPROVAL):
            raise SignatureRefusedError("statements_differ", "The signers signed different statements.")
        if statement.meaning != rule.meaning or statement.role not in rule.roles:
            raise SignatureRefusedError("role_may_not_sign", f"A {statement.role} does not decide this, or not so.")
        _check_time(row, statement, signed, timedelta(days=policy.request.lasts_days))
        if statement.person in people:
            raise SignatureRefusedError("person_twice", "One person signed twice.")
        if statement.role in roles:
            raise SignatureRefusedError("role_twice", f"Two signers signed as {statement.role}.")
        people.append(statement.person)
        roles.append(statement.role)
    missing = missing_signatures(rule, roles)
    if missing:
        raise SignatureRefusedError("signatures_missing", f"Signatures are missing: {'; '.join(missing)}.")
    _check_waivers(row, approval, policy)


def check_signed(signed: Signed, roster: Roster, party: RelyingParty | None) -> None:
    """Return if a statement was signed by the person it names, in a role they hold, and not by the model's author.

    Raises:
        SignatureRefusedError: `unknown_format`, `self_approval`, `signed_by_another`, `role_not_held`, or a word of
            governance.roster.check.
    """
    statement = signed.statement
    if statement.format != FORMAT:
        raise SignatureRefusedError("unknown_format", "The statement is of a format that is not known here.")
    by = check(roster, signed.signature, statement_bytes(statement), signed.received_at, party)
    if by.person != statement.person:
        raise SignatureRefusedError("signed_by_another", f"{by.name} signed a statement in another person's name.")
    if statement.role not in by.roles:
        raise SignatureRefusedError("role_not_held", f"{by.name} is no {statement.role} by roster {by.roster_serial}.")
    if by.person == statement.author:
        raise SignatureRefusedError("self_approval", f"{by.name} made this model and may not approve it.")


def _check_time(row: ServingRow, statement: Statement, signed: Signed, longest: timedelta) -> None:
    if statement.expires_at - statement.opened_at > longest:
        raise SignatureRefusedError("approval_expired", "The approval would last longer than the policy allows.")
    if signed.received_at < statement.opened_at:
        raise SignatureRefusedError("misdated", "A signature is older than the request that it answers.")
    ends_us = to_microseconds(statement.expires_at)
    if signed.received_at >= statement.expires_at or row.at_us >= ends_us:
        raise SignatureRefusedError("approval_expired", f"The approval ended on {statement.expires_at:%Y-%m-%d}.")
    if row.at_us < to_microseconds(signed.received_at):
        raise SignatureRefusedError("misdated", "The promotion is older than its signatures.")


def _check_waivers(row: ServingRow, approval: Approval, policy: Lifecycle) -> None:
    rule = policy.slots[row.slot]
    conditions = row.signed[0].statement.conditions
    if approval.mode != "demo":
        for waiver in policy.waivers:
            if waiver.is_demo_only and waiver.sentence in conditions:
                raise SignatureRefusedError(
                    "waiver_not_permitted", f"The waiver of the {waiver.name} counts in demonstrations only."
                )
    listened_days = approval.listened_us / 86_400_000_000
    if listened_days < rule.silent_days and not policy.is_waived(SILENT_PERIOD, conditions):
        raise SignatureRefusedError(
            "silent_period_missing",
            f"This version listened silently for {listened_days:.1f} of {rule.silent_days:g} days.",
        )
