"""The supervisor's rules, on services that die when told to."""

from __future__ import annotations

import itertools
import threading
import time
from dataclasses import dataclass, field

import pytest

from orchestration.data_dir import DataDir
from orchestration.health import Condition
from orchestration.processes import Identity
from orchestration.supervisor import FIRST_BACKOFF_S, Supervisor
from vocabulary.errors import ConfigurationError, UnavailableError


@dataclass
class Puppet:
    """A service that runs while it is told to."""

    name: str
    journal: list[str]
    stage: int = 0
    address: str = ""
    is_external: bool = False
    refuses: Exception | None = None
    lives_s: float = 1e9
    started_at: list[float] = field(default_factory=list)
    is_running: bool = False

    def start(self) -> None:
        if self.refuses is not None:
            raise self.refuses
        self.started_at.append(time.monotonic())
        self.is_running = True
        self.journal.append(f"start {self.name}")

    def stop(self) -> None:
        self.is_running = False
        self.journal.append(f"stop {self.name}")

    def identity(self) -> Identity | None:
        if self.is_running and time.monotonic() - self.started_at[-1] > self.lives_s:
            self.is_running = False
        return Identity(1, 1.0) if self.is_running else None

    def condition(self) -> Condition:
        return Condition.READY if self.is_running else Condition.DOWN

    def failure(self) -> None:
        return None


@pytest.fixture
def data_dir(tmp_path) -> DataDir:
    made = DataDir(tmp_path / "data")
    made.prepare()
    return made


def start(supervisor: Supervisor, timeout_s: float = 2.0) -> None:
    supervisor.start(timeout_s, threading.Event(), lambda: None)


def test_stages_start_in_order_with_what_lies_between_and_stop_in_reverse(data_dir):
    journal: list[str] = []
    services = [Puppet("a", journal), Puppet("b", journal), Puppet("c", journal, stage=1)]
    supervisor = Supervisor(services, data_dir, "up", {}, between=lambda stage: journal.append(f"after {stage}"))
    start(supervisor)
    supervisor.stop()
    assert journal == ["start a", "start b", "after 0", "start c", "after 1", "stop c", "stop b", "stop a"]
    assert data_dir.read_state() is None


@pytest.mark.parametrize("error", [ConfigurationError("no"), UnavailableError("away")])
def test_a_start_that_fails_leaves_nothing_running(data_dir, error):
    journal: list[str] = []
    good, bad = Puppet("good", journal), Puppet("bad", journal, stage=1, refuses=error)
    supervisor = Supervisor([good, bad], data_dir, "up", {})
    with pytest.raises(type(error), match=str(error)):
        start(supervisor, timeout_s=0.3)
    assert not good.is_running
    assert data_dir.read_state() is None


def test_what_keeps_dying_is_started_ever_more_slowly(data_dir):
    fragile, steady = Puppet("fragile", [], lives_s=0.01), Puppet("steady", [])
    supervisor = Supervisor([steady, fragile], data_dir, "up", {})
    start(supervisor)
    ending = threading.Event()
    threading.Timer(3.5, ending.set).start()
    supervisor.run(ending)
    waits = [later - earlier for earlier, later in zip(fragile.started_at, fragile.started_at[1:], strict=False)]
    assert 2 <= len(waits) <= 5
    assert waits[0] >= FIRST_BACKOFF_S
    assert all(later > 1.4 * earlier for earlier, later in itertools.pairwise(waits))
    assert len(steady.started_at) == 1
    assert {seen.name: seen.restarts for seen in supervisor.seen()} == {"steady": 0, "fragile": len(waits)}


def test_a_failing_restart_is_tried_again_and_says_why(data_dir):
    flaky = Puppet("flaky", [])
    supervisor = Supervisor([flaky], data_dir, "up", {})
    start(supervisor)
    flaky.is_running, flaky.refuses = False, UnavailableError("its port is taken")
    deadline = time.monotonic() + 2
    while supervisor.seen()[0].note != "its port is taken":
        assert time.monotonic() < deadline
        supervisor.tend()
        time.sleep(0.02)
    flaky.refuses = None
    deadline = time.monotonic() + 3
    while not flaky.is_running:
        assert time.monotonic() < deadline
        supervisor.tend()
        time.sleep(0.02)
    assert supervisor.seen()[0].note == ""


def test_a_start_can_be_interrupted(data_dir):
    never = Puppet("never", [])
    never.condition = lambda: Condition.STARTING  # type: ignore[method-assign]
    supervisor = Supervisor([never], data_dir, "up", {})
    stopping = threading.Event()
    threading.Timer(0.2, stopping.set).start()
    with pytest.raises(UnavailableError, match="Stopped"):
        supervisor.start(30, stopping, lambda: None)
    assert not never.is_running


def test_what_can_be_mended_is_mended_while_it_runs_and_not_while_it_stops(data_dir):
    journal: list[str] = []
    supervisor = Supervisor([Puppet("a", journal)], data_dir, "up", {}, mend=lambda: journal.append("mend"))
    start(supervisor)
    journal.clear()
    supervisor.tend()
    assert journal == ["mend"]
    supervisor.stop()
    journal.clear()
    supervisor.tend()
    assert journal == []
