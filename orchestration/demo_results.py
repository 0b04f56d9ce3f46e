"""What a demonstration came to: the books, the latencies, the ward, and where to look.

Here: following the snapshots as a page would, asking the stores, saying it.
Not here: running the demonstration (orchestration.demo).
"""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
from array import array
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
from rich.console import Console

from orchestration import demo_signers, services
from orchestration.storage import connection
from orchestration.ward_table import ward_table
from stores import clinical, quarantine, snapshot_census
from stores.database import Connection, consistent_read
from twin import accounts
from twin.bus import Bus, open_bus
from vocabulary.clock import Clock, SystemClock
from vocabulary.records import Place
from vocabulary.settings import Settings
from vocabulary.snapshot import TwinSnapshot, from_bytes

SAMPLE = 20
"""How many snapshot ids are named, for `vigil replay`."""
SETTLE_S = 1.5
"""After the last value is folded, its snapshot needs a moment to leave the outbox."""
LOOK_AFTER_S = 0.3
"""Real time that the last messages take to become snapshots."""


class Results(NamedTuple):
    """What came of a demonstration."""

    account: accounts.Account
    held: list[quarantine.ItemCount]
    snapshots: int
    snapshot_ids: list[str]
    twins: list[TwinSnapshot]  # the newest of each patient when the play was over
    names: dict[int, str]
    beds: dict[int, str]
    stays: int
    latencies_s: list[float]  # socket → snapshot on the bus, sorted
    seen_at_us: int  # the log's clock when `twins` was read

    @property
    def is_whole(self) -> bool:
        """Return whether nothing is missing from the books and twins were published."""
        return self.account.remainder == 0 and self.snapshots > 0

    @property
    def is_settled(self) -> bool:
        """Return whether everything received has its outcome."""
        return self.account.messages.pending == 0 and self.account.values.pending == 0

    def latency_s(self, quantile: float) -> float | None:
        """Return a quantile of the latency, nearest rank; None when nothing was measured."""
        if not self.latencies_s:
            return None
        return self.latencies_s[min(len(self.latencies_s) - 1, int(quantile * len(self.latencies_s)))]


class Observer:
    """Sees the house as a page does: from the bus and the stores."""

    def __init__(self, bus: Bus, connected: Connection, clock: Clock) -> None:
        """Begin with nothing seen."""
        self._bus = bus
        self._connection = connected
        self._clock = clock
        self._latencies_ns = array("q")

    async def follow(self) -> None:
        """Note how long every message took from its socket to a snapshot here, until cancelled."""
        async for publication in self._bus.follow():
            now_ns = self._clock.monotonic_ns()
            self._latencies_ns.extend(now_ns - received_ns for received_ns in publication.received_monotonic_ns)

    async def results(self, log_time_us: Callable[[], int], seed: int, drain_s: float) -> Results:
        """Wait until nothing is pending (at most `drain_s`), then read everything."""
        # The ward is looked at before the drain: on a clock 180 times faster, waiting 2 s ages every value by 6 min.
        await asyncio.sleep(LOOK_AFTER_S)
        seen_at_us = log_time_us()
        twins = [from_bytes(body) for body in (await self._bus.snapshots()).values()]
        account = await accounts.drain(self._connection, self._bus, drain_s)
        await asyncio.sleep(SETTLE_S)
        stays = {from_bytes(body).encounter_id for body in (await self._bus.snapshots()).values()}
        async with consistent_read(self._connection):
            people = await clinical.patients(self._connection, [twin.patient_id for twin in twins])
            open_stays = await clinical.open_stays(self._connection)
            held = await quarantine.counts(self._connection)
            count = await snapshot_census.count(self._connection)
            ids = await snapshot_census.sample(self._connection, SAMPLE, seed)
        names = {person.patient_id: f"{person.family_name}, {person.given_name}".strip(", ") for person in people}
        beds = {stay.patient_id: Place(stay.ward, stay.room, stay.bed).label for stay in open_stays}
        latencies_s = sorted(latency / 1e9 for latency in self._latencies_ns)
        return Results(account, held, count, ids, twins, names, beds, len(stays), latencies_s, seen_at_us)


@asynccontextmanager
async def watching(settings: Settings) -> AsyncIterator[Observer]:
    """Give an observer that notes latencies while the block runs."""
    bus = await open_bus(settings, "operator")
    try:
        async with connection(settings, "demo") as connected:
            observer = Observer(bus, connected, SystemClock())
            following = asyncio.create_task(observer.follow())
            try:
                yield observer
            finally:
                following.cancel()
                with suppress(asyncio.CancelledError):
                    await following
    finally:
        await bus.close()


def as_record(results: Results) -> dict[str, Any]:
    """Return the results for `--json`."""
    p50, p99 = results.latency_s(0.5), results.latency_s(0.99)
    return {
        "messages": msgspec.structs.asdict(results.account.messages),
        "values": msgspec.structs.asdict(results.account.values),
        "without_value": results.account.without_value,
        "waiting": results.account.waiting,
        "remainder": results.account.remainder,
        "snapshots": results.snapshots,
        "snapshot_ids": results.snapshot_ids,
        "p50_s": None if p50 is None else round(p50, 4),
        "p99_s": None if p99 is None else round(p99, 4),
        "latencies": len(results.latencies_s),
        "patients": len(results.twins),
        "stays": results.stays,
        "held": [count._asdict() for count in results.held],
    }


def show(
    results: Results,
    house: services.House,
    console: Console,
    is_left: bool,
    of_model: Callable[[], None] | None = None,
) -> None:
    """Print the ward, the books, the latency, what `of_model` prints of the model, and where to look."""
    here = [twin for twin in results.twins if twin.is_admitted] or results.twins
    console.print()
    console.print(ward_table(here, results.names, results.beds, results.seen_at_us))
    console.print()
    for unit, side in (("messages", results.account.messages), ("values", results.account.values)):
        console.print(
            f"[dim]{unit:<9}[/] {side.received:,} received = {side.accepted:,} accepted + {side.duplicate:,} duplicate "
            f"+ {side.quarantined:,} quarantined + {side.rejected:,} rejected + {side.shed:,} shed "
            f"+ {side.pending:,} pending, remainder {side.remainder:,}",
            highlight=False,
            soft_wrap=True,
        )
    p50, p99 = results.latency_s(0.5), results.latency_s(0.99)
    if p50 is not None and p99 is not None:
        latency = f"half within {p50 * 1000:,.0f} ms, 99 % within {p99 * 1000:,.0f} ms, socket to snapshot"
        console.print(f"[dim]{'snapshots':<9}[/] {results.snapshots:,}; {latency}", highlight=False)
    if of_model is not None:
        of_model()
    console.print()
    for label, where in _where_to_look(results, here, house, is_left):
        console.print(f"[dim]{label:<14}[/] {where}", highlight=False, soft_wrap=True)
    if not is_left:
        console.print(f"\nThe ward goes on. Stop: Ctrl-C or `{_command()} down`.", highlight=False)


def _command() -> str:
    """Return how this command was called, so that what is printed can be typed: it may not be on the PATH."""
    if shutil.which("vigil"):
        return "vigil"
    called = Path(sys.argv[0])
    return os.path.relpath(called) if called.name == "vigil" else "vigil"


def _where_to_look(
    results: Results, here: list[TwinSnapshot], house: services.House, is_left: bool
) -> list[tuple[str, str]]:
    folder = f" --data-dir {house.data_dir.root}"
    vigil = _command()
    lines = []
    if not is_left:
        lines.append(("ward board", house.board_url))
        if house.people:
            lines.append(("sign in", f"there, as {house.people} (no password)"))
        if here:
            lines.append(("a patient", f"{house.board_url}patients/{here[0].patient_id}"))
        if house.people:
            lines.append(
                ("models", f"{house.board_url}models (as Lena Fischer, Sami Aalto, Mira Haddad or Dana Weiss)")
            )
        if (keys := house.data_dir.root / "signers").is_dir():
            lines.append(("signers' keys", f"{keys}, passphrase: {demo_signers.PASSPHRASE}"))
        lines.append(("services", f"{vigil} status{folder}"))
        lines.append(("feeds", f"{vigil} feeds{folder}"))
        lines.append(("Dagster", f"{vigil} dagster{folder}"))
    lines.append(("held back", f"{vigil} quarantine list{folder}"))
    lines.append(("the books", f"{vigil} verify{folder}"))
    if results.snapshot_ids:
        lines.append(("replay", f"{vigil} replay {results.snapshot_ids[0]}{folder}"))
    if is_left:
        lines.append(("start again", f"VIGIL_MODE=demo {vigil} up{folder}"))
    return lines
