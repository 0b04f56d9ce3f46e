"""The gate for what is typed at this machine's own command line.

Here: the gate that commands ask, and asking before something is shown.
Not here: the table (governance.policy_table), who types (orchestration.operator_audit).
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from governance.access import Ask, Policy, Purpose, Surface, Verb, refused
from governance.gate import Gate
from orchestration.operator_audit import operator, operator_auditor
from orchestration.storage import secret
from stores.database import Connection, connect
from vocabulary.clock import SystemClock
from vocabulary.settings import Settings


@asynccontextmanager
async def operator_gate(settings: Settings) -> AsyncIterator[Gate]:
    """Hold the gate that commands ask; its events are of the chain that all commands share.

    Args:
        settings: with addresses that answer (orchestration.storage.reachable).

    Raises:
        ConfigurationError: the policy, or the operator's signing key, cannot be used.
    """

    async def opened() -> Connection:
        return await connect(secret(settings.database_url), application_name="vigil gate")

    async with operator_auditor(settings) as auditor:
        # Glasses and events are of real time, whatever clock a demonstration's ward has.
        gate = Gate(Policy.load(), auditor, opened, SystemClock(), settings)
        try:
            yield gate
        finally:
            await gate.close()


async def require(
    settings: Settings,
    surface: Surface,
    verb: Verb,
    *,
    purpose: Purpose = Purpose.OPERATIONS,
    patient_id: int | None = None,
    detail: str = "",
) -> None:
    """Ask for what a command is about to show or do: one event, permitted or denied.

    Raises:
        RefusedError: the policy says no; recorded.
        UnavailableError: the event cannot be written: nothing may be shown.
    """
    ask = Ask(surface=surface, verb=verb, purpose=purpose, patient_id=patient_id)
    async with operator_gate(settings) as gate:
        if not (await gate.ask(operator(), ask, detail=detail)).is_permitted:
            raise refused()
