"""How a process says that it lives: one small file a second, read by `vigil status` and the supervisor.

Here: writing and reading <data_dir>/run/<name>.json.
Not here: deciding what to do about a process that is not well (orchestration.services).
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import msgspec

from vocabulary.clock import SystemClock

Detail = dict[str, int | float | str | bool]


class Health(msgspec.Struct, frozen=True):
    """What a process says of itself. Counts and addresses only: no patient data."""

    name: str
    pid: int
    at_us: int  # real time, whatever clock the log runs on
    address: str
    is_ready: bool
    detail: Detail


def write(run_dir: Path, health: Health) -> None:
    """Replace the process's file in one step, so that a reader never sees half of it."""
    run_dir.mkdir(parents=True, exist_ok=True)
    temporary = run_dir / f".{health.name}.{health.pid}.tmp"
    temporary.write_bytes(msgspec.json.encode(health))
    temporary.replace(run_dir / f"{health.name}.json")


def read(run_dir: Path, name: str) -> Health | None:
    """Return what the process last said, or None when it never spoke or its file is not readable."""
    try:
        return msgspec.json.decode((run_dir / f"{name}.json").read_bytes(), type=Health)
    except (FileNotFoundError, msgspec.DecodeError):
        return None


async def report(
    run_dir: Path, name: str, address: str, is_ready: Callable[[], bool], detail: Callable[[], Detail]
) -> None:
    """Write the process's health once a second until cancelled."""
    clock = SystemClock()
    while True:
        # A full disk stops RAW and PostgreSQL, which say so; a missing health line must not stop the process.
        with suppress(OSError):
            write(run_dir, Health(name, os.getpid(), clock.now_us(), address, is_ready(), detail()))
        await asyncio.sleep(1)
