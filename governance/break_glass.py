"""Breaking the glass: seeing, in an emergency, a patient whom the policy would not show; told at once, judged after.

Here: the rules of opening, reviewing and telling.
Not here: what an open glass permits (governance.access), the rows (stores.access), the pages (clinic).

One patient, a reason, a time limit. One open glass for a person at a time; while an expired one waits for its review,
that person can open no other. (A table without these obligations is refused: governance.policy_table.) The reason is a
person's own words and may hold patient data: the audit holds its salted SHA-256, by which an edited reason is found.
Source: HL7 v3 PurposeOfUse BTG; Ferreira et al. 2006, "How to break access control in a controlled manner".
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Callable
from typing import TYPE_CHECKING

import httpx
import msgspec

from governance.access import Ask, Decision, PatientFacts, Principal, Purpose, Role, Surface, Verb, refused
from stores import access
from stores.access import BrokenGlass, Notice, Verdict
from stores.database import storable
from stores.ledger import detail_of
from stores.pool import Pool
from vocabulary.clock import Clock
from vocabulary.errors import RefusedError

if TYPE_CHECKING:
    from governance.gate import Gate

NOTHING_THERE = str(refused())

SHORTEST_REASON = 10
FEWEST_WORDS = 2

_ID_BITS = 52  # JSON numbers are exact up to 53 bits
_RETRY_FIRST_S = 5.0
_RETRY_LONGEST_S = 600.0
_NOTIFY_TIMEOUT_S = 5.0
_CLAIM_S = 60.0  # a process that dies while telling leaves the notice to another after this
_AT_ONCE = 20


class GlassRefusedError(RefusedError):
    """A rule of breaking or reviewing a glass forbids it. The text is for the person; `rule` is for the audit."""

    def __init__(self, rule: str, message: str) -> None:
        """Name the rule."""
        super().__init__(message)
        self.rule = rule


def reason_digest(salt: bytes, reason: str) -> str:
    """Return what the audit holds of a reason: the hexadecimal SHA-256 of the salt and the text in UTF-8."""
    return hashlib.sha256(salt + reason.encode()).hexdigest()


async def open_glass(
    gate: Gate,
    principal: Principal,
    patient_id: int,
    reason: str,
    *,
    lasts_s: float,
    randomness: Callable[[int], bytes] = secrets.token_bytes,
) -> BrokenGlass:
    """Break the glass for one patient: grant, event and notification in one transaction.

    Raises:
        GlassRefusedError: not permitted or no such patient (the same text), the reason says too little, another glass
            of this person stands in the way, or this person may see the patient anyway. Recorded.
        UnavailableError: it cannot be recorded; nothing was opened.
    """
    ask = Ask(surface=Surface.BREAK_GLASS, verb=Verb.OPEN, purpose=Purpose.BREAK_GLASS, patient_id=patient_id)
    text = storable(" ".join(reason.split()), access.LONGEST_TEXT)
    facts: PatientFacts | None = None
    role: Role | None = None
    try:
        # What does not depend on the patient comes first: who is refused for it learns nothing of the patient.
        form = gate.policy.decide(principal, msgspec.structs.replace(ask, patient_id=None), None)
        if not form.is_permitted:
            raise GlassRefusedError(form.rule, NOTHING_THERE)
        role = form.role
        _check_reason(text)
        now_us = gate.clock.now_us()
        async with gate.pool.reading() as connection:
            _check_others(await access.glasses_in_the_way(connection, principal.agent, now_us), now_us)
        facts = (await gate.facts(principal, [patient_id])).get(patient_id)
        decision = gate.policy.decide(principal, ask, facts)
        if facts is None or not decision.is_permitted:
            raise GlassRefusedError(decision.rule, NOTHING_THERE)
        _check_needed(gate, principal, facts)
        return await _grant(gate, principal, ask, decision, facts, text, round(lasts_s * 1_000_000), randomness)
    except GlassRefusedError as refusal:
        denied = Decision(is_permitted=False, rule=refusal.rule, role=role)
        await gate.auditor.record(gate.entry(principal, ask, denied, facts=facts))
        raise


async def _grant(
    gate: Gate,
    principal: Principal,
    ask: Ask,
    decision: Decision,
    facts: PatientFacts,
    reason: str,
    lasts_us: int,
    randomness: Callable[[int], bytes],
) -> BrokenGlass:
    now_us = gate.clock.now_us()
    salt = randomness(16)
    glass = BrokenGlass(
        break_glass_id=1 + int.from_bytes(randomness(8), "big") % (2**_ID_BITS - 1),
        agent=principal.agent,
        agent_name=principal.name,
        practitioner=principal.practitioner,
        role=decision.role or "",
        session=principal.session,
        patient_id=facts.patient_id,
        reason=reason,
        reason_salt=salt,
        opened_at_us=now_us,
        expires_at_us=now_us + lasts_us,
    )
    opened = msgspec.structs.replace(decision, break_glass_id=glass.break_glass_id)
    detail = detail_of(reason_sha256=reason_digest(salt, reason), expires_at_us=glass.expires_at_us)
    async with gate.auditor.act(gate.entry(principal, ask, opened, facts=facts, detail=detail)) as connection:
        await access.lock_agent(connection, principal.agent)  # two requests at once: the second sees the first's glass
        _check_others(await access.glasses_in_the_way(connection, principal.agent, now_us), now_us)
        await access.put_break_glass(connection, glass)
        await access.put_notification(connection, glass.break_glass_id, now_us)
    return glass


def _check_reason(text: str) -> None:
    words = [word for word in text.split() if any(character.isalnum() for character in word)]
    if len(text) < SHORTEST_REASON or len(words) < FEWEST_WORDS:
        raise GlassRefusedError(
            "reason-too-short",
            f"Say why, in at least {FEWEST_WORDS} words and {SHORTEST_REASON} characters: a reviewer will read it.",
        )


def _check_needed(gate: Gate, principal: Principal, facts: PatientFacts) -> None:
    ask = Ask(surface=Surface.PATIENT, verb=Verb.READ, patient_id=facts.patient_id)
    plain = gate.policy.decide(principal, ask, msgspec.structs.replace(facts, break_glass_id=None))
    if plain.is_permitted:
        raise GlassRefusedError("not-needed", "You may see this patient without breaking the glass.")


def _check_others(others: list[BrokenGlass], now_us: int) -> None:
    if any(other.expires_at_us > now_us for other in others):
        raise GlassRefusedError(
            "another-is-open", "You have broken a glass already, and it is still open: one patient at a time."
        )
    if others:
        raise GlassRefusedError(
            "waits-for-review",
            "A glass you broke earlier has not been reviewed yet. Ask the safety officer or the data-protection "
            "officer to review it; until then you cannot break another.",
        )


async def pending_reviews(gate: Gate, principal: Principal) -> list[BrokenGlass]:
    """Return what waits for review, open glasses too, oldest first. The page that shows it was asked for before.

    Raises:
        RefusedError: this person may not see them.
    """
    _check_may_see_reviews(gate, principal)
    async with gate.pool.reading() as connection:
        return await access.pending_reviews(connection)


async def recent_reviews(gate: Gate, principal: Principal, limit: int = 100) -> list[BrokenGlass]:
    """Return what was reviewed last, newest first. The page that shows it was asked for before.

    Raises:
        RefusedError: this person may not see them.
    """
    _check_may_see_reviews(gate, principal)
    async with gate.pool.reading() as connection:
        return await access.recent_reviews(connection, limit)


def _check_may_see_reviews(gate: Gate, principal: Principal) -> None:
    purpose = gate.purpose_for(principal, Surface.REVIEW, Verb.READ)
    if purpose is None:
        raise refused()
    ask = Ask(surface=Surface.REVIEW, verb=Verb.READ, purpose=purpose)
    if not gate.policy.decide(principal, ask, None).is_permitted:
        raise refused()


async def review(gate: Gate, principal: Principal, break_glass_id: int, verdict: Verdict, note: str) -> BrokenGlass:
    """Judge a broken glass: review and event in one transaction.

    Raises:
        GlassRefusedError: it is one's own, reviewed already, or an adverse verdict says not why; recorded.
        RefusedError: not permitted, or there is no such glass; recorded.
        UnavailableError: it cannot be recorded; nothing was reviewed.
    """
    async with gate.pool.reading() as connection:
        glass = await access.glass(connection, break_glass_id)
    purpose = gate.purpose_for(principal, Surface.REVIEW, Verb.REVIEW) or Purpose.SAFETY
    patient_id = None if glass is None else glass.patient_id
    ask = Ask(surface=Surface.REVIEW, verb=Verb.REVIEW, purpose=purpose, patient_id=patient_id)
    facts = None if patient_id is None else (await gate.facts(principal, [patient_id])).get(patient_id)
    decision = gate.policy.decide(principal, ask, facts)
    words = {"reviewed": break_glass_id, "verdict": verdict}
    if glass is None or not decision.is_permitted:
        denied = Decision(is_permitted=False, rule=decision.rule if glass is not None else "unknown-glass")
        await gate.auditor.record(gate.entry(principal, ask, denied, facts=facts, detail=detail_of(**words)))
        raise refused()
    now_us = gate.clock.now_us()
    text = storable(" ".join(note.split()), access.LONGEST_TEXT)
    try:
        _check_reviewer(principal, glass)
        if verdict == "not_justified" and len(text.split()) < FEWEST_WORDS:
            raise GlassRefusedError("note-too-short", "Say in the note why it was not justified.")
        entry = gate.entry(principal, ask, decision, facts=facts, detail=detail_of(**words))
        async with gate.auditor.act(entry) as connection:
            await access.lock_glass(connection, break_glass_id)
            now = await access.glass(connection, break_glass_id)
            if now is None or now.reviewer is not None:
                raise GlassRefusedError("reviewed-already", "This broken glass has been reviewed already.")
            await access.put_review(
                connection,
                break_glass_id,
                reviewer=principal.agent,
                reviewer_name=principal.name,
                reviewed_at_us=now_us,
                verdict=verdict,
                note=text,
            )
    except GlassRefusedError as refusal:
        denied = Decision(is_permitted=False, rule=refusal.rule, role=decision.role)
        await gate.auditor.record(gate.entry(principal, ask, denied, facts=facts, detail=detail_of(**words)))
        raise
    return msgspec.structs.replace(
        glass, reviewer=principal.agent, reviewer_name=principal.name, reviewed_at_us=now_us, verdict=verdict, note=text
    )


def _check_reviewer(principal: Principal, glass: BrokenGlass) -> None:
    is_same = principal.agent == glass.agent
    # The same person may come from another provider, and is then still known to ADT by the same identifier.
    is_same = is_same or bool(principal.practitioner and principal.practitioner == glass.practitioner)
    if is_same:
        raise GlassRefusedError("own-glass", "Nobody reviews a glass they broke themselves.")


async def deliver_notifications(pool: Pool, http: httpx.AsyncClient, url: str, site: str, clock: Clock) -> int:
    """Tell `url` of broken glasses that are due, and return how many it took. Call it again and again.

    Each notice is a POST of JSON without patient data; any 2xx takes it. What fails is tried again, later each time,
    and stands on the reviewers' page until it is taken. A notice may arrive twice: its number says so.

    Raises:
        UnavailableError: the database does not answer.
    """
    now_us = clock.now_us()
    async with pool.writing() as connection:
        due = await access.claim_notifications(connection, now_us, now_us + round(_CLAIM_S * 1e6), _AT_ONCE)
    taken = 0
    for notice in due:
        fault = await _post(http, url, _message(notice, site))
        async with pool.writing() as connection:
            if fault is None:
                taken += 1
                await access.notification_delivered(connection, notice.notification_id, clock.now_us())
            else:
                wait_s = min(_RETRY_FIRST_S * 2.0 ** min(notice.attempts - 1, 20), _RETRY_LONGEST_S)
                due_at_us = clock.now_us() + round(wait_s * 1e6)
                await access.notification_failed(connection, notice.notification_id, fault, due_at_us)
    return taken


def _message(notice: Notice, site: str) -> dict[str, object]:
    return {
        "event": "break_glass_opened",
        "site": site,
        "notification": notice.notification_id,
        "break_glass": notice.break_glass_id,
        "role": notice.role,
        "opened_at_us": notice.opened_at_us,
        "expires_at_us": notice.expires_at_us,
    }


async def _post(http: httpx.AsyncClient, url: str, message: dict[str, object]) -> str | None:
    """Return None when the message was taken, else what went wrong, in words without addresses or contents."""
    try:
        answer = await http.post(url, json=message, timeout=_NOTIFY_TIMEOUT_S, follow_redirects=False)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        return type(error).__name__
    return None if answer.is_success else f"HTTP {answer.status_code}"
