"""Checks on the live plane that Dagster shows: red means that something vanished, or that people are told a falsehood.

Here: `ledger_balances` on `twin/snapshots`, `alias_agrees` on `twin/serving`.
Not here: the sums (stores.ledger), the record (governance.serving), moving the alias (orchestration.reactions).
"""

from __future__ import annotations

import dagster as dg

from assets.learning_plane import LearningPlane
from assets.live_plane import LivePlane, ask
from assets.serving import aliases, judge_record, read_record
from assets.twins import SERVING, SNAPSHOTS
from stores import ledger, partition_log
from stores.database import Connection


async def _books(connection: Connection) -> tuple[ledger.Balance, partition_log.Counts]:
    return await ledger.balance(connection), await partition_log.unfolded(connection)


@dg.asset_check(
    asset=SNAPSHOTS,
    description="received = accepted + duplicate + quarantined + rejected + shed + pending, per message and per value.",
)
def ledger_balances(live: dg.ResourceParam[LivePlane]) -> dg.AssetCheckResult:
    """Compare what was received with what became of it, in one moment of the database."""
    balance, pending = ask(live, _books)
    remainder = balance.remainder(pending)
    metadata: dict[str, int] = {
        "remainder_messages": remainder.messages,
        "remainder_values": remainder.values,
        "pending_messages": pending.messages,
        "pending_values": pending.values,
    }
    for unit, tally in (("messages", balance.total.messages), ("values", balance.total.values)):
        metadata |= {f"{unit}_{outcome}": count for outcome, count in tally._asdict().items()}
    return dg.AssetCheckResult(
        passed=remainder == (0, 0),
        severity=dg.AssetCheckSeverity.ERROR,
        metadata=metadata,
        description=None if remainder == (0, 0) else "Some of what was received has no outcome: run `vigil verify`.",
    )


@dg.asset_check(
    asset=SERVING,
    description="The experiment tracker's alias `champion` names the model that serves: it is a projection, never the "
    "truth, and red where somebody moved it by hand.",
)
def alias_agrees(live: dg.ResourceParam[LivePlane], learning: dg.ResourceParam[LearningPlane]) -> dg.AssetCheckResult:
    """Compare the alias of every scope with the serving record."""
    rows = read_record(live)
    found = aliases(learning, rows, judge_record(learning, rows))
    wrong = [one.scope for one in found if not one.agrees]
    return dg.AssetCheckResult(
        passed=not wrong,
        severity=dg.AssetCheckSeverity.ERROR,
        metadata={"scopes": len(found), "differ": wrong},
        description=f"The alias of {', '.join(wrong)} is not what serves; the job project_alias moves it back."
        if wrong
        else None,
    )


CHECKS = [ledger_balances, alias_agrees]
