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
    STARTING = "starting"  # runs, does not serve yet
    SILENT = "silent"  # runs, has not written its health for 5 s
    DOWN = "down"  # should run and does not
    WAITING = "waiting"  # its turn to start has not come
    STOPPED = "stopped"  # was stopped on purpose
    EXTERNAL = "external"  # somebody else's server


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
    return Condition.READY if report.is_ready else Condition.STARTING
