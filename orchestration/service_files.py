"""Files beside a service: its secret, the end of its log.

Here: keeping and reading them.
Not here: where they lie (orchestration.data_dir, the services themselves).
"""

from __future__ import annotations

import os
from pathlib import Path


def kept_secret(file: Path, fresh: str) -> str:
    """Return what a file of ours keeps (0600); `fresh` is kept, and returned, where there is none yet."""
    file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    try:
        handle = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return file.read_text().strip()
    with os.fdopen(handle, "w") as opened:
        opened.write(fresh)
        opened.flush()
        os.fsync(opened.fileno())
    return fresh


def log_tail(log: Path, lines: int = 4) -> str:
    """Return a log's last lines on one line, for an error message."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - 8192))
            return " | ".join(file.read().decode(errors="replace").splitlines()[-lines:]) or "its log is empty"
    except FileNotFoundError:
        return "no log was written"
