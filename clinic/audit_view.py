"""Searching the audit: what was asked for, a page of events, and where the next one starts.

Here: criteria read from a page's or FHIR's parameters, walking back in time without losing or repeating an event.
Not here: the log (stores.audit_log), who may search it (clinic.guarding), HTML and FHIR (clinic.officers,
clinic.fhir_audit).
"""

from __future__ import annotations

import hashlib
import re
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

import msgspec

from stores import access, audit_log
from stores.audit_log import Event, Outcome
from stores.pool import Pool

_AGENT = re.compile(r"\S+\|\S+")  # issuer|subject
_LONGEST_AGENT = 300
DAY_US = 24 * 3600 * 1_000_000


class Cursor(NamedTuple):
    """Where a page starts: at this time, after so many events of the same microsecond."""

    at_us: int
    skip: int

    def __str__(self) -> str:
        """Return what a link carries."""
        return f"{self.at_us}.{self.skip}"


class AuditQuery(msgspec.Struct, frozen=True, kw_only=True):
    """What somebody looks for; what is None is not asked."""

    patient_id: int | None = None
    agent: str | None = None
    surface: str | None = None
    outcome: Outcome | None = None
    since_us: int | None = None
    until_us: int | None = None
    cursor: Cursor | None = None
    count: int = 100

    def told(self) -> dict[str, str | int]:
        """Return what was asked, for the event that the search itself leaves: no free text, which may name anybody."""
        asked = {
            "agent": _agent_told(self.agent),
            "surface": self.surface,
            "outcome": self.outcome,
            "since_us": self.since_us,
        }
        return {name: value for name, value in asked.items() if value is not None}


def _agent_told(agent: str | None) -> str | None:
    """Return an agent as its events name it; of any other text a digest, by which the same search is known again."""
    if agent is None or (len(agent) <= _LONGEST_AGENT and _AGENT.fullmatch(agent)):
        return agent
    return f"sha256:{hashlib.sha256(agent.encode()).hexdigest()[:16]}"


class AuditPage(NamedTuple):
    """Some events, newest first."""

    events: list[Event]
    next: Cursor | None


def parse_cursor(text: str) -> Cursor | None:
    """Return the place a link carries; None for anything else."""
    at_us, _, skip = text.partition(".")
    if not all(part.isascii() and part.isdigit() for part in (at_us, skip)) or len(at_us) > 16 or len(skip) > 6:
        return None
    return Cursor(int(at_us), int(skip))


def day_range(text: str) -> tuple[int, int] | None:
    """Return [from, to) of a day in UTC, as `2026-03-01` writes it; None for anything else."""
    try:
        start = datetime.strptime(text, "%Y-%m-%d").replace(tzinfo=UTC)
    except ValueError:
        return None
    from_us = (start - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)
    return (from_us, from_us + DAY_US) if 0 <= from_us < 253_402_214_400_000_000 else None


async def find_page(pool: Pool, query: AuditQuery) -> AuditPage:
    """Return a page of events.

    Raises:
        UnavailableError: the database does not answer.
    """
    skip = query.cursor.skip if query.cursor else 0
    until_us = query.until_us
    if query.cursor is not None:
        until_us = query.cursor.at_us + 1 if until_us is None else min(until_us, query.cursor.at_us + 1)
    async with pool.reading() as connection:
        asked = query.patient_id
        found = await audit_log.find(
            connection,
            patient_ids=None if asked is None else await access.records_of(connection, asked),
            agent=query.agent,
            surface=query.surface,
            outcome=query.outcome,
            since_us=query.since_us,
            until_us=until_us,
            limit=query.count + skip + 1,
        )
    page = found[skip : skip + query.count]
    if len(found) <= skip + query.count or not page:
        return AuditPage(page, None)
    last_us = page[-1].entry.at_us
    same = sum(event.entry.at_us == last_us for event in found[: skip + query.count])
    return AuditPage(page, Cursor(last_us, same))
