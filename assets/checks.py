"""Checks on the live plane that Dagster shows: red means that something vanished.

Here: `ledger_balances` on `twin/snapshots`.
Not here: the sums (stores.ledger).
"""

from __future__ import annotations

import dagster as dg

from assets.live_plane import LivePlane, ask
from assets.twins import SNAPSHOTS
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


CHECKS = [ledger_balances]
