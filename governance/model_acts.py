"""Acts on models by processes and at the command line: each in one transaction with its audit event.

Here: the transaction, and the event of a refusal.
Not here: acts by people on pages (governance.gate, which audits by itself), the acts (governance.approvals, promotion,
rollback).
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec

from governance.access import Role, Surface, Verb
from governance.audit import Auditor
from stores.audit_log import AuditEntry
from stores.database import Connection
from stores.ledger import detail_of
from vocabulary.errors import RefusedError


class ModelRefusedError(RefusedError):
    """A rule of the models' lifecycle forbids it: `reason` says why, in a fixed word, for the audit."""

    def __init__(self, reason: str, text: str) -> None:
        """Name the reason and say it to a person."""
        super().__init__(text)
        self.reason = reason


def event(
    action: str, verb: Verb, agent: str, *, name: str = "", role: Role | None = None, **facts: str | float | bool | None
) -> AuditEntry:
    """Return the event of an act on a model; `facts` hold no patient's data."""
    return AuditEntry(
        at_us=0,
        action=action,
        outcome="permitted",
        surface=Surface.MODELS,
        verb=verb,
        agent=agent,
        agent_name=name,
        role="" if role is None else role,
        rule="lifecycle",
        detail=detail_of(**facts),
    )


@asynccontextmanager
async def acting(auditor: Auditor, entry: AuditEntry) -> AsyncIterator[Connection]:
    """Hold the transaction of an act and its event: both are kept, or neither. A refusal leaves its event as a denial.

    Raises:
        RefusedError: raised inside; recorded.
        UnavailableError: act and event could not be written.
    """
    try:
        async with auditor.act(entry) as connection:
            yield connection
    except RefusedError as refusal:
        reason = getattr(refusal, "reason", "refused")
        facts: dict[str, Any] = msgspec.json.decode(entry.detail)
        denied = msgspec.structs.replace(entry, outcome="denied", detail=detail_of(**(facts | {"reason": str(reason)})))
        await auditor.record(denied)
        raise
