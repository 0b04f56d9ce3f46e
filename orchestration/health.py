"""How a service is, in one word, from what its process last said of itself and how long ago.

Here: judging.
Not here: the files themselves (twin.health), showing the verdict (orchestration.display).
"""

from __future__ import annotations

import time
from enum import StrEnum
from pathlib import Path

from twin import health

STALE_AFTER_S = 5.0
"""A process writes its file every second; five missed in a row is no longer chance."""


class Condition(StrEnum):
    """How a service is."""

    READY = "ready"
    BLOCKED = "blocked"  # runs, but cannot store what it is sent, so it takes nothing
    STARTING = "starting"  # runs, does not serve yet
    SILENT = "silent"  # runs, has not written its health for 5 s
    DOWN = "down"  # should run and does not
    WAITING = "waiting"  # its turn to start has not come
    STOPPED = "stopped"  # was stopped on purpose
    EXTERNAL = "external"  # somebody else's server


SERVING = frozenset({Condition.READY, Condition.BLOCKED, Condition.EXTERNAL})
"""Has come up. What is blocked waits for room, not for a start."""

FULL_DISK_BYTES = 64 * 1024 * 1024
"""Less than this is as good as nothing: PostgreSQL extends its log by 16 MB at a time."""

RAW_REFUSED_S = 10.0
"""RAW that took nothing for so long is in trouble; shorter is a server's restart."""


def raw_trouble(report: health.Health | None) -> str:
    """Return why ingress cannot store what it is sent and what to do, or "" when it can (and for other processes)."""
    if report is None:
        return ""
    if report.detail.get("is_raw_full"):
        return "RAW is full, senders wait for their ACK: raise VIGIL_RAW_MAX_BYTES, or free space on its disk"
    refused_s = report.detail.get("raw_refused_s", 0.0)
    if isinstance(refused_s, (int, float)) and refused_s > RAW_REFUSED_S:
        return f"RAW has taken nothing for {refused_s:.0f} s, senders wait for their ACK: is its disk full?"
    return ""


def age_s(report: health.Health) -> float:
    """Return how long ago a process said this, in seconds of the machine's clock."""
    return max(0.0, time.time() - report.at_us / 1_000_000)


def judge(run: Path, name: str, pid: int | None) -> Condition:
    """Return the condition of a process of ours: its report counts only when it wrote it itself, and lately."""
    if pid is None:
        return Condition.DOWN
    report = health.read(run, name)
    if report is None or report.pid != pid:
        return Condition.STARTING
    if age_s(report) > STALE_AFTER_S:
        return Condition.SILENT
    if not report.is_ready:
        return Condition.STARTING
    return Condition.BLOCKED if raw_trouble(report) else Condition.READY
