"""Starts services in order, starts again what dies, stops all in reverse order.

Here: the rules of restarting and the record of what runs, for any services.
Not here: which services these are (orchestration.services), how their state looks to a person (orchestration.display).
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from orchestration.data_dir import DataDir, Listener, Running, RunState, ScaledTime
from orchestration.health import SERVING, Condition, raw_trouble
from orchestration.processes import Identity, identify
from twin import health
from vocabulary.errors import UnavailableError, VigilError

FIRST_BACKOFF_S = 0.2
LONGEST_BACKOFF_S = 10.0
STEADY_AFTER_S = 15.0
"""A service that ran this long is well again: its next death is answered at once, not after the longest wait."""

FIRST_START_S = 5.0
"""A server killed a moment ago may still hold its memory or port; one that is truly away is said to be so soon."""

POLL_S = 0.2


class Service(Protocol):
    """Something that is started, watched and stopped."""

    @property
    def name(self) -> str:
        """Return the name, as people and log files know it."""
        ...

    @property
    def address(self) -> str:
        """Return where it listens."""
        ...

    @property
    def stage(self) -> int:
        """Return when it starts: all of a lower stage are ready before it."""
        ...

    @property
    def is_external(self) -> bool:
        """Return whether somebody else runs it."""
        ...

    def start(self) -> None:
        """Start it.

        Raises:
            ConfigurationError: it cannot run as configured.
            UnavailableError: not now; may be tried again.
        """
        ...

    def stop(self) -> None:
        """Stop it and wait; nothing when it does not run."""
        ...

    def identity(self) -> Identity | None:
        """Return the process that runs, or None."""
        ...

    def condition(self) -> Condition:
        """Return how it is."""
        ...

    def failure(self) -> VigilError | None:
        """Return why its start failed for good, or None (it is starting, runs, or may be tried again)."""
        ...


@dataclass(frozen=True)
class Seen:
    """One service at one moment, for showing."""

    name: str
    address: str
    condition: Condition
    restarts: int
    note: str = ""


@dataclass
class _Watch:
    service: Service
    restarts: int = 0
    backoff_s: float = FIRST_BACKOFF_S
    retry_at: float = 0.0
    started_at: float = 0.0
    note: str = ""


class Supervisor:
    """Keeps services running until told to stop."""

    def __init__(
        self,
        services: Sequence[Service],
        data_dir: DataDir,
        command: str,
        ports: dict[str, int],
        between: Callable[[int], None] = lambda _stage: None,
        clock: ScaledTime | None = None,
        mend: Callable[[], None] = lambda: None,
        listeners: Sequence[Listener] = (),
        notes: Sequence[str] = (),
    ) -> None:
        """Describe what to keep running; nothing is started.

        Args:
            services: in the order they start; their stages must not decrease.
            data_dir: where the record of what runs is kept.
            command: "up" or "demo", for the record.
            ports: for the record.
            between: called with a stage's number when all of that stage are ready (migrations run here).
            clock: a demonstration's clock, for the record.
            mend: called at every round of tending, before what died is started again.
            listeners: for the record: every door with what it speaks.
            notes: for the record: what people should know.
        """
        self._clock = clock
        self._listeners = list(listeners)
        self._notes = list(notes)
        self._watches = [_Watch(service) for service in services]
        self._data_dir = data_dir
        self._command = command
        self._ports = ports
        self._between = between
        self._mend = mend
        self._started_at = time.time()
        self._recorded: list[Running] = []
        self._is_stopping = False

    def start(self, timeout_s: float, stopping: threading.Event, on_change: Callable[[], None]) -> None:
        """Start everything and wait until all is ready; on any failure stop what was started.

        Args:
            timeout_s: how long one stage may take to become ready.
            stopping: set from outside to give up.
            on_change: called whenever there may be something new to show.

        Raises:
            ConfigurationError: a service cannot run as configured.
            UnavailableError: one did not become ready in time, or the start was interrupted.
        """
        is_complete = False
        try:
            for stage in sorted({watch.service.stage for watch in self._watches}):
                members = [watch for watch in self._watches if watch.service.stage == stage]
                for watch in members:
                    self._first_start(watch, stopping, timeout_s)
                    on_change()
                self._await_ready(members, stopping, timeout_s, on_change)
                self._between(stage)
            is_complete = True
        finally:
            if not is_complete:
                self.stop()

    def _first_start(self, watch: _Watch, stopping: threading.Event, timeout_s: float) -> None:
        deadline = time.monotonic() + min(timeout_s, FIRST_START_S)
        while True:
            try:
                watch.service.start()
            except UnavailableError:
                if time.monotonic() > deadline or stopping.wait(FIRST_BACKOFF_S):
                    raise
            else:
                watch.started_at = time.monotonic()
                self._record()
                return

    def _await_ready(
        self, members: list[_Watch], stopping: threading.Event, timeout_s: float, on_change: Callable[[], None]
    ) -> None:
        deadline = time.monotonic() + timeout_s
        while True:
            for watch in members:
                failure = watch.service.failure()
                if failure is not None:
                    raise failure
            waiting = [w.service.name for w in members if w.service.condition() not in SERVING]
            if not waiting:
                on_change()
                return
            if time.monotonic() > deadline:
                raise UnavailableError(
                    f"Not ready within {timeout_s:g} s: {', '.join(waiting)}. See their logs in {self._data_dir.logs}."
                )
            if stopping.wait(0.05):
                raise UnavailableError("Stopped before everything was ready.")
            self.tend()
            on_change()

    def tend(self) -> None:
        """Start again what died, when its wait is over; record what runs."""
        if not self._is_stopping:
            self._mend()
        now = time.monotonic()
        for watch in self._watches:
            if self._is_stopping or watch.started_at == 0.0:
                continue
            if watch.service.is_external or watch.service.identity() is not None:
                if watch.backoff_s > FIRST_BACKOFF_S and now - watch.started_at > STEADY_AFTER_S:
                    watch.backoff_s, watch.note = FIRST_BACKOFF_S, ""
                continue
            if watch.retry_at == 0.0:
                is_steady = now - watch.started_at > STEADY_AFTER_S
                watch.backoff_s = FIRST_BACKOFF_S if is_steady else watch.backoff_s
                watch.retry_at = now + watch.backoff_s
                watch.note = f"died; starting again in {watch.backoff_s:.1f} s"
            if now >= watch.retry_at:
                self._restart(watch)
        self._record()

    def _restart(self, watch: _Watch) -> None:
        watch.restarts += 1
        watch.retry_at = 0.0
        watch.backoff_s = min(watch.backoff_s * 2, LONGEST_BACKOFF_S)
        try:
            watch.service.start()
            watch.note = ""
        except VigilError as error:
            watch.retry_at = time.monotonic() + watch.backoff_s
            watch.note = str(error)
        watch.started_at = time.monotonic()
        self._record()

    def run(self, stopping: threading.Event, on_change: Callable[[], None] = lambda: None) -> None:
        """Tend the services until `stopping` is set, then stop all."""
        try:
            self.tend_until(stopping, on_change)
        finally:
            self.stop(on_change)

    def tend_until(self, stopping: threading.Event, on_change: Callable[[], None] = lambda: None) -> None:
        """Tend the services until `stopping` is set."""
        while not stopping.wait(POLL_S):
            self.tend()
            on_change()

    def stop(self, on_change: Callable[[], None] = lambda: None) -> None:
        """Stop everything in reverse order and forget the record; may be called more than once."""
        self._is_stopping = True
        for watch in reversed(self._watches):
            watch.service.stop()
            on_change()
        self._data_dir.forget_state()

    def seen(self) -> list[Seen]:
        """Return how every service is now."""
        return [self._seen(watch) for watch in self._watches]

    def _seen(self, watch: _Watch) -> Seen:
        name, condition = watch.service.name, self._condition(watch)
        trouble = raw_trouble(health.read(self._data_dir.run, name)) if condition is Condition.BLOCKED else ""
        return Seen(name, watch.service.address, condition, watch.restarts, trouble or watch.note)

    def _condition(self, watch: _Watch) -> Condition:
        if watch.started_at == 0.0:
            return Condition.WAITING
        found = watch.service.condition()
        return Condition.STOPPED if self._is_stopping and found is Condition.DOWN else found

    def _record(self) -> None:
        if self._is_stopping:
            return
        running = [
            Running(w.service.name, w.service.address, w.service.identity(), w.restarts, w.service.is_external)
            for w in self._watches
        ]
        if running == self._recorded:
            return
        me = identify(os.getpid())
        if me is not None:
            self._data_dir.write_state(
                RunState(
                    me, self._started_at, self._ports, running, self._command, self._clock, self._listeners, self._notes
                )
            )
            self._recorded = running
