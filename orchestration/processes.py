"""Processes by their identity: a number and the moment it was given, so that a number reused is never taken for ours.

Here: identifying, starting, checking and ending one child process.
Not here: which processes there are (orchestration.services), when they are started again (orchestration.supervisor).
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec
import psutil

ROTATE_BYTES = 16 * 1024 * 1024
"""A log longer than this is set aside (one older generation is kept) when its process starts."""

CLOCK_SLACK_S = 0.5
"""Two readings of one process's start differ by this at most: the kernel counts it in hundredths, since boot."""

KILLED_WITHIN_S = 10.0


class Identity(msgspec.Struct, frozen=True):
    """Which process is meant."""

    pid: int
    started_at: float  # seconds since the epoch, as the operating system states it


def identify(pid: int) -> Identity | None:
    """Return the identity of a process that runs, or None (a zombie does not run)."""
    try:
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            return None
        return Identity(pid, process.create_time())
    except psutil.NoSuchProcess:
        return None


def is_alive(identity: Identity) -> bool:
    """Return whether exactly this process still runs."""
    found = identify(identity.pid)
    return found is not None and abs(found.started_at - identity.started_at) <= CLOCK_SLACK_S


def ask_to_stop(identity: Identity) -> None:
    """Send SIGTERM to exactly this process, if it still runs."""
    if is_alive(identity):
        try:
            psutil.Process(identity.pid).terminate()
        except psutil.NoSuchProcess:
            return


def end(identity: Identity, grace_s: float) -> bool:
    """Ask a process to stop, and kill it when it does not within `grace_s`.

    Returns:
        Whether it ended by itself; True also when it was gone already.
    """
    ask_to_stop(identity)
    if _await_end(identity, grace_s):
        return True
    try:
        psutil.Process(identity.pid).kill()
    except psutil.NoSuchProcess:
        return True
    _await_end(identity, KILLED_WITHIN_S)
    return False


def _await_end(identity: Identity, timeout_s: float) -> bool:
    # Asked of the process table, not waited for: a child of a killed parent may stay a zombie that nobody collects.
    deadline = time.monotonic() + timeout_s
    while is_alive(identity):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def start(command: Sequence[str], environment: Mapping[str, str], log: Path, folder: Path) -> subprocess.Popen[bytes]:
    """Start a child in a session of its own, with its output appended to `log`.

    A session of its own: a Ctrl-C at the terminal then reaches only the supervisor, which stops children in order.
    """
    if log.exists() and log.stat().st_size > ROTATE_BYTES:
        log.replace(log.with_suffix(".log.1"))
    with log.open("ab") as output:
        return subprocess.Popen(
            list(command),
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            cwd=folder,
            start_new_session=True,
            umask=0o077,  # what it keeps (bodies of messages) is nobody else's to read
        )
