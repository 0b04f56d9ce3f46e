"""What the live benchmarks measure with: CPU seconds of processes, percentiles, a generator in a thread of its own.

Here: instruments. Not here: what is run and compared (benchmarks.live, benchmarks.live_secure).
"""

from __future__ import annotations

import asyncio
import os
import ssl
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NamedTuple

from hospital.load import LoadReport, run_load

_TICKS = os.sysconf("SC_CLK_TCK")


class Measured(NamedTuple):
    """One side's figures."""

    values_per_s: float
    ack_p50_s: float
    ack_p99_s: float
    cpu_s_per_1000: float


def percentile(ordered: Sequence[float], share: float) -> float:
    """Return the value at `share` (0 to 1) of sorted values; not a number where there are none."""
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))] if ordered else float("nan")


def cpu_s(roots: Sequence[int]) -> float:
    """Return the CPU seconds of processes and all their descendants so far, ended children included."""
    parents: dict[int, int] = {}
    used: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except (FileNotFoundError, ProcessLookupError):
                continue
            parents[int(entry.name)] = int(fields[1])
            used[int(entry.name)] = sum(int(field) for field in fields[11:15])
    chosen = set(roots)
    grown = True
    while grown:
        more = {pid for pid, parent in parents.items() if parent in chosen} - chosen
        chosen |= more
        grown = bool(more)
    return sum(used.get(pid, 0) for pid in chosen) / _TICKS


def measured(report: LoadReport, used_cpu_s: float, seconds: float) -> Measured:
    """Return the figures of one run of the generator."""
    latencies = sorted(
        (delivery.acknowledged_ns - delivery.first_sent_ns) / 1e9
        for delivery in report.transcript
        if delivery.is_accepted and delivery.control_id in report.intended_ns
    )
    return Measured(
        report.values / seconds,
        percentile(latencies, 0.5),
        percentile(latencies, 0.99),
        used_cpu_s / report.values * 1000,
    )


@asynccontextmanager
async def loading(
    adt: tuple[str, int], monitors: tuple[str, int], beds: int, seconds: float, tls: ssl.SSLContext | None = None
) -> AsyncIterator[asyncio.Task[LoadReport]]:
    """Run the generator while the block runs.

    In a thread with its own event loop: the generator must not wait for the measuring, nor be waited for.
    """
    loop = asyncio.get_running_loop()
    task = loop.create_task(
        asyncio.to_thread(asyncio.run, run_load(adt, monitors, beds=beds, seconds=seconds, tls=tls))
    )
    try:
        yield task
    finally:
        await task


def show(rows: Sequence[tuple[str, str, str, str]]) -> None:
    """Print a table."""
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
