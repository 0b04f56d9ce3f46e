"""What decides who may see a patient, as far as people of the house say so: consent, VIP flags, broken glasses.

Here: whose records are one person's, what patients refused, who is shielded by hand, broken glasses, their reviews, and
who still has to be told.
Not here: what ADT says (stores.care), the decision (governance.access), the rules of breaking a glass
(governance.break_glass), the audit of all this (stores.audit_log).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, Literal, NamedTuple

import msgspec

from stores.database import Connection, storable, translated

Scope = Literal["secondary", "sharing"]
Verdict = Literal["justified", "not_justified"]

LONGEST_TEXT = 2_000
"""Characters kept of a reason or a note."""


class Standing(NamedTuple):
    """One record of a person, and what was said of it."""

    asked: int  # the id that was asked for; the person's records share it
    survivor: int
    record: int
    permits_secondary: bool
    permits_sharing: bool
    is_vip: bool
    break_glass_id: int | None  # an open glass of the agent asked for


class Consent(msgspec.Struct, frozen=True, kw_only=True):
    """One decision about a scope of use."""

    patient_id: int
    scope: Scope
    is_permitted: bool
    decided_at_us: int
    decided_by: str
    recorded_by: str


class BrokenGlass(msgspec.Struct, frozen=True, kw_only=True):
    """An emergency in which a rule was broken, its review, and whether the reviewers were told."""

    break_glass_id: int
    agent: str
    agent_name: str
    practitioner: str = ""
    role: str
    session: str
    patient_id: int
    reason: str
    reason_salt: bytes
    opened_at_us: int
    expires_at_us: int
    reviewer: str | None = None
    reviewer_name: str = ""
    reviewed_at_us: int | None = None
    verdict: Verdict | None = None
    note: str = ""
    attempts: int = 0  # of telling the reviewers beyond the page
    last_fault: str = ""
    delivered_at_us: int | None = None


class Notice(NamedTuple):
    """A notification that is due."""

    notification_id: int
    break_glass_id: int
    role: str
    opened_at_us: int
    expires_at_us: int
    attempts: int


# From each asked id up to the surviving record, then down to every record that was merged into it. `union` drops what
# was seen, so that even a circle ends.
_PERSON = """with recursive up (asked, record, merged_into) as (
        select patient_id, patient_id, merged_into from patient where patient_id = any(%(ids)s)
        union select u.asked, p.patient_id, p.merged_into from up u join patient p on p.patient_id = u.merged_into),
    person (asked, survivor, record) as (
        select asked, record, record from up where merged_into is null
        union select s.asked, s.survivor, p.patient_id from person s join patient p on p.merged_into = s.record)"""

_STANDING = (
    _PERSON  # noqa: S608 - constants
    + """
    select asked, survivor, record,
        coalesce((select c.is_permitted from consent c where c.patient_id = record and c.scope = 'secondary'
            order by c.consent_id desc limit 1), true),
        coalesce((select c.is_permitted from consent c where c.patient_id = record and c.scope = 'sharing'
            order by c.consent_id desc limit 1), true),
        coalesce((select v.is_vip from vip_flag v where v.patient_id = record
            order by v.vip_flag_id desc limit 1), false),
        (select max(g.break_glass_id) from break_glass g
            where g.agent = %(agent)s and g.patient_id = record and g.expires_at_us > %(now_us)s)
    from person order by asked, record"""
)


async def standing(connection: Connection, agent: str, patient_ids: Collection[int], now_us: int) -> list[Standing]:
    """Return every record of the persons asked for, with what was said of it; ids nobody has are absent.

    Args:
        connection: any.
        agent: whose open glasses count.
        patient_ids: surviving or retired records.
        now_us: when a glass must still be open.
    """
    rows = await _rows(connection, _STANDING, {"ids": list(patient_ids), "agent": storable(agent), "now_us": now_us})
    return [Standing(*row) for row in rows]


async def records_of(connection: Connection, patient_id: int) -> list[int]:
    """Return the records that are one person's, the surviving one first; empty when nobody has this number."""
    query = _PERSON + " select record from person order by record <> survivor, record"  # noqa: S608 - constants
    return [row[0] for row in await _rows(connection, query, {"ids": [patient_id]})]


async def put_consent(connection: Connection, consents: Sequence[Consent]) -> None:
    """Add decisions; each replaces what was decided before about the same record and scope."""
    for consent in consents:
        await _execute(
            connection,
            "insert into consent (patient_id, scope, is_permitted, decided_at_us, decided_by, recorded_by) "
            "values (%(patient_id)s, %(scope)s, %(is_permitted)s, %(decided_at_us)s, %(decided_by)s, %(recorded_by)s)",
            {
                **msgspec.structs.asdict(consent),
                "decided_by": storable(consent.decided_by, LONGEST_TEXT),
                "recorded_by": storable(consent.recorded_by),
            },
        )


async def consents(connection: Connection, patient_ids: Collection[int]) -> list[Consent]:
    """Return every decision about these records, oldest first."""
    rows = await _rows(
        connection,
        "select patient_id, scope, is_permitted, decided_at_us, decided_by, recorded_by from consent "
        "where patient_id = any(%(ids)s) order by consent_id",
        {"ids": list(patient_ids)},
    )
    return [
        Consent(
            patient_id=row[0], scope=row[1], is_permitted=row[2], decided_at_us=row[3], decided_by=row[4],
            recorded_by=row[5],
        )
        for row in rows
    ]  # fmt: skip


async def put_vip_flag(
    connection: Connection,
    patient_ids: Collection[int],
    *,
    is_vip: bool,
    decided_at_us: int,
    decided_by: str,
    recorded_by: str,
) -> None:
    """Say that these records are to be shielded, or no longer. What ADT says stands beside it, untouched."""
    await _execute(
        connection,
        "insert into vip_flag (patient_id, is_vip, decided_at_us, decided_by, recorded_by) "
        "select p, %(is_vip)s, %(at_us)s, %(by)s, %(recorded_by)s from unnest(%(ids)s::bigint[]) p",
        {
            "ids": sorted(patient_ids),
            "is_vip": is_vip,
            "at_us": decided_at_us,
            "by": storable(decided_by, LONGEST_TEXT),
            "recorded_by": storable(recorded_by),
        },
    )


async def lock_agent(connection: Connection, agent: str) -> None:
    """Let one transaction at a time break a glass for a person, whichever process it is in."""
    await _execute(
        connection, "select pg_advisory_xact_lock(hashtextextended(%(key)s, 0))", {"key": f"break_glass|{agent}"}
    )


async def lock_glass(connection: Connection, break_glass_id: int) -> None:
    """Let one transaction at a time review a glass."""
    await _execute(
        connection, "select pg_advisory_xact_lock(hashtextextended(%(key)s, 0))", {"key": f"review|{break_glass_id}"}
    )


async def put_break_glass(connection: Connection, glass: BrokenGlass) -> None:
    """Keep a broken glass, without review or notification."""
    await _execute(
        connection,
        "insert into break_glass (break_glass_id, agent, agent_name, practitioner, role, session, patient_id, reason, "
        "reason_salt, opened_at_us, expires_at_us) values (%(break_glass_id)s, %(agent)s, %(agent_name)s, "
        "%(practitioner)s, %(role)s, %(session)s, %(patient_id)s, %(reason)s, %(reason_salt)s, %(opened_at_us)s, "
        "%(expires_at_us)s)",
        {
            **msgspec.structs.asdict(glass),
            "agent": storable(glass.agent),
            "agent_name": storable(glass.agent_name),
            "practitioner": storable(glass.practitioner),
            "session": storable(glass.session),
        },
    )


async def put_review(
    connection: Connection,
    break_glass_id: int,
    *,
    reviewer: str,
    reviewer_name: str,
    reviewed_at_us: int,
    verdict: Verdict,
    note: str,
) -> None:
    """Keep the one review of a glass.

    Raises:
        BrokenInvariantError: it was reviewed before (look first, under `lock_glass`).
    """
    await _execute(
        connection,
        "insert into break_glass_review (break_glass_id, reviewer, reviewer_name, reviewed_at_us, verdict, note) "
        "values (%(id)s, %(reviewer)s, %(name)s, %(at_us)s, %(verdict)s, %(note)s)",
        {
            "id": break_glass_id,
            "reviewer": storable(reviewer),
            "name": storable(reviewer_name),
            "at_us": reviewed_at_us,
            "verdict": verdict,
            "note": storable(note, LONGEST_TEXT),
        },
    )


_GLASS = """select g.break_glass_id, g.agent, g.agent_name, g.practitioner, g.role, g.session, g.patient_id, g.reason,
    g.reason_salt, g.opened_at_us, g.expires_at_us, r.reviewer, coalesce(r.reviewer_name, '') as reviewer_name,
    r.reviewed_at_us, r.verdict, coalesce(r.note, '') as note, coalesce(n.attempts, 0) as attempts,
    coalesce(n.last_fault, '') as last_fault, n.delivered_at_us
    from break_glass g left join break_glass_review r using (break_glass_id)
    left join notification n using (break_glass_id)"""


async def glass(connection: Connection, break_glass_id: int) -> BrokenGlass | None:
    """Return one broken glass."""
    found = await _glasses(connection, " where g.break_glass_id = %(id)s", {"id": break_glass_id})
    return found[0] if found else None


async def glasses_in_the_way(connection: Connection, agent: str, now_us: int) -> list[BrokenGlass]:
    """Return a person's glasses that are open, or closed and not reviewed, oldest first."""
    return await _glasses(
        connection,
        " where g.agent = %(agent)s and (g.expires_at_us > %(now_us)s or r.break_glass_id is null) "
        "order by g.opened_at_us, g.break_glass_id",
        {"agent": storable(agent), "now_us": now_us},
    )


async def pending_reviews(connection: Connection) -> list[BrokenGlass]:
    """Return every glass that nobody has reviewed, open ones too, oldest first."""
    return await _glasses(connection, " where r.break_glass_id is null order by g.opened_at_us, g.break_glass_id", {})


async def recent_reviews(connection: Connection, limit: int) -> list[BrokenGlass]:
    """Return the glasses reviewed last, newest first."""
    condition = " where r.break_glass_id is not null order by r.reviewed_at_us desc, g.break_glass_id desc limit %(n)s"
    return await _glasses(connection, condition, {"n": limit})


async def put_notification(connection: Connection, break_glass_id: int, now_us: int) -> None:
    """Say that the reviewers must be told of a glass, at once."""
    await _execute(
        connection,
        "insert into notification (break_glass_id, created_at_us, due_at_us) values (%(id)s, %(now)s, %(now)s)",
        {"id": break_glass_id, "now": now_us},
    )


async def claim_notifications(connection: Connection, now_us: int, again_at_us: int, limit: int) -> list[Notice]:
    """Take notifications that are due; other processes see them again at `again_at_us` unless they were delivered."""
    rows = await _rows(
        connection,
        """with due as (select notification_id from notification
                where delivered_at_us is null and due_at_us <= %(now)s
                order by due_at_us limit %(limit)s for update skip locked),
            claimed as (update notification n set due_at_us = %(again)s, attempts = n.attempts + 1
                from due where n.notification_id = due.notification_id
                returning n.notification_id, n.break_glass_id, n.attempts)
        select c.notification_id, g.break_glass_id, g.role, g.opened_at_us, g.expires_at_us, c.attempts
        from claimed c join break_glass g using (break_glass_id) order by c.notification_id""",
        {"now": now_us, "again": again_at_us, "limit": limit},
    )
    return [Notice(*row) for row in rows]


async def notification_delivered(connection: Connection, notification_id: int, at_us: int) -> None:
    """Say that somebody took a notification."""
    await _execute(
        connection,
        "update notification set delivered_at_us = %(at)s, last_fault = '' where notification_id = %(id)s",
        {"id": notification_id, "at": at_us},
    )


async def notification_failed(connection: Connection, notification_id: int, fault: str, due_at_us: int) -> None:
    """Say that nobody took a notification, why, and when to try again."""
    await _execute(
        connection,
        "update notification set last_fault = %(fault)s, due_at_us = %(due)s where notification_id = %(id)s",
        {"id": notification_id, "fault": storable(fault, 200), "due": due_at_us},
    )


async def _glasses(connection: Connection, condition: str, parameters: dict[str, object]) -> list[BrokenGlass]:
    fields = BrokenGlass.__struct_fields__
    rows = await _rows(connection, _GLASS + condition, parameters)
    found = [dict(zip(fields, row, strict=True)) for row in rows]
    return [BrokenGlass(**{**row, "reason_salt": bytes(row["reason_salt"])}) for row in found]


async def _rows(connection: Connection, query: str, parameters: dict[str, object]) -> list[tuple[Any, ...]]:
    with translated():
        cursor = await connection.execute(query.encode(), parameters)
        return await cursor.fetchall()


async def _execute(connection: Connection, query: str, parameters: dict[str, object]) -> None:
    with translated():
        await connection.execute(query.encode(), parameters)
