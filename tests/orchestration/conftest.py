"""A house to run `vigil` in: real servers, real supervisor, and stand-ins for the Python processes."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest

from orchestration.services import PROGRAMS

# A process that says it is ready, as twin.health does, and stops when asked; its settings are its environment.
STAND_IN = """
import json, os, pathlib, signal, sys, time
name = sys.argv[1]
here = pathlib.Path(__file__).parent
if (here / f"{name}.refuses").exists():
    print("this setting cannot work", file=sys.stderr)
    sys.exit(2)
if (here / f"{name}.crashes").exists():
    sys.exit(1)
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
run = pathlib.Path(os.environ["VIGIL_DATA_DIR"]) / "run"
(run / f"{name}.seen").write_text(json.dumps({k: v for k, v in os.environ.items() if k.startswith("VIGIL_")}))
while True:
    report = dict(name=name, pid=os.getpid(), at_us=time.time_ns() // 1000, address="", is_ready=True, detail={"n": 1})
    part = run / f".{name}.tmp"
    part.write_text(json.dumps(report))
    part.replace(run / f"{name}.json")
    time.sleep(0.2)
"""

RUN_WITH_STAND_INS = """
import sys
from orchestration import services
services.PROGRAMS = {name: (sys.argv[1], name) for name in services.PROGRAMS}
del sys.argv[1]
from orchestration.cli import main
main()
"""

HOUSEHOLD = len(PROGRAMS) + 2
"""Our own processes, PostgreSQL and nats-server."""


def is_running(pid: int) -> bool:
    # A zombie that the machine's first process never collects is gone all the same.
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@dataclass
class Command:
    """Runs `vigil` with a data directory and stand-ins of its own."""

    data_dir: Path
    program: list[str]
    environment: dict[str, str]
    started: list[subprocess.Popen[str]] = field(default_factory=list)

    def run(self, *arguments: str, timeout_s: float = 60, **extra: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*self.program, *arguments], env=self.environment | extra, cwd=self.data_dir.parent,
            capture_output=True, text=True, timeout=timeout_s, check=False,
        )  # fmt: skip

    def start(self, *arguments: str, **extra: str) -> subprocess.Popen[str]:
        child = subprocess.Popen(
            [*self.program, *arguments], env=self.environment | extra, cwd=self.data_dir.parent,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        self.started.append(child)
        return child

    def state(self) -> dict[str, Any] | None:
        try:
            found: dict[str, Any] = json.loads((self.data_dir / "run/state.json").read_text())
        except (FileNotFoundError, NotADirectoryError):
            return None
        return found

    def pids(self) -> dict[str, int]:
        state = self.state()
        return {s["name"]: s["identity"]["pid"] for s in (state["services"] if state else []) if s["identity"]}

    def is_up(self) -> bool:
        answer = self.run("status", "--json")
        return answer.returncode == 0 and len(json.loads(answer.stdout)["services"]) == HOUSEHOLD

    def wait_until(self, is_so: Callable[[], object], what: str, timeout_s: float = 40) -> None:
        deadline = time.monotonic() + timeout_s
        while not is_so():
            assert time.monotonic() < deadline, f"not within {timeout_s} s: {what}"
            time.sleep(0.1)

    def let(self, name: str, behaviour: str) -> None:
        """Make the stand-in `name` one that `refuses` its settings, or `crashes`."""
        (self.data_dir.parent / f"{name}.{behaviour}").touch()

    def left(self, pids: dict[str, int]) -> list[str]:
        """Return the names whose processes still run."""
        return [name for name, pid in pids.items() if is_running(pid)]

    def up(self, **extra: str) -> subprocess.Popen[str]:
        child = self.start("up", **extra)
        self.wait_until(lambda: self.is_up() or child.poll() is not None, "everything is up")
        assert child.poll() is None, child.stdout.read() if child.stdout else ""
        return child


@pytest.fixture
def reachable_folder() -> Iterator[Path]:
    """A folder that `nobody`, as whom PostgreSQL runs for root, may reach."""
    folder = Path(tempfile.mkdtemp(prefix="vigil-up-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def vigil(reachable_folder: Path) -> Iterator[Command]:
    """The command; what a test leaves running is ended by its number."""
    stand_in = reachable_folder / "stand_in.py"
    stand_in.write_text(STAND_IN)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("VIGIL_")}
    data_dir = reachable_folder / "data"
    command = Command(
        data_dir, [sys.executable, "-c", RUN_WITH_STAND_INS, str(stand_in)],
        environment | {"VIGIL_DATA_DIR": str(data_dir)},
    )  # fmt: skip
    yield command
    for child in command.started:
        if child.poll() is None:
            child.terminate()
            try:
                child.wait(30)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()
        if child.stdout:
            child.stdout.close()
    for pid in command.pids().values():
        if is_running(pid):
            psutil.Process(pid).kill()
