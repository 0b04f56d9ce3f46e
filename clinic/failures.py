"""Failed attempts to be somebody: sign-ins, tokens, logout messages. Each is an audit event, within a bound.

Here: recording a failure, and what happens when there are too many: they are counted, and the next event says how many.
Not here: decisions about known people (governance.gate), why a token is refused (governance.tokens).
Without the bound, whoever can reach the port could fill the audit with rubbish until a disk is full.
Source: IHE ATNA (User Authentication events); OWASP Logging Cheat Sheet.
"""

from __future__ import annotations

import logging

from governance.audit import Auditor
from stores.audit_log import AuditEntry
from stores.ledger import detail_of
from vocabulary.clock import Clock
from vocabulary.errors import UnavailableError

_LOG = logging.getLogger("clinic")

_MOST = 30  # events at once
_ONE_EVERY_NS = 2_000_000_000  # and then

UNKNOWN = "unknown"
"""The agent of somebody who is nobody yet."""


class FailureLog:
    """One for each process."""

    def __init__(self, auditor: Auditor, clock: Clock) -> None:
        """Record with `auditor`, on real time."""
        self._auditor = auditor
        self._clock = clock
        self._room = float(_MOST)
        self._at_ns = clock.monotonic_ns()
        self._suppressed = 0

    async def record(
        self, reason: str, *, action: str = "sign_in", surface: str = "session", agent: str = UNKNOWN
    ) -> None:
        """Record one failure; a full or missing audit stops nobody from being refused.

        Args:
            reason: a short code, never a part of what was shown.
            action: what was tried: `sign_in` or `sign_out`.
            surface: where: `session` (a browser's) or `token` (a Bearer token).
            agent: who, where that is known.
        """
        now_ns = self._clock.monotonic_ns()
        self._room = min(float(_MOST), self._room + (now_ns - self._at_ns) / _ONE_EVERY_NS)
        self._at_ns = now_ns
        if self._room < 1:
            self._suppressed += 1
            return
        self._room -= 1
        suppressed, self._suppressed = self._suppressed, 0
        detail: dict[str, str | int] = {"reason": reason}
        if suppressed:
            detail["not_recorded_before"] = suppressed
        entry = AuditEntry(
            at_us=self._clock.now_us(),
            action=action,
            outcome="failed",
            surface=surface,
            verb="open",
            agent=agent,
            detail=detail_of(**detail),
        )
        try:
            await self._auditor.record(entry)
        except UnavailableError:
            self._suppressed += suppressed + 1
            _LOG.warning("failure_not_audited", extra={"action": action})
