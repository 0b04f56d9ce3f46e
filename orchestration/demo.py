"""`vigil demo`: the whole house on a faster clock, a hospital that talks to it, and what came of it.

Here: the demonstration's own data directory and clock, the hospital's process, waiting, the report.
Not here: the services (orchestration.services), what the hospital says (hospital: a stranger, run as a process),
watching the results (orchestration.demo_results).
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn

from orchestration import demo_model, demo_results, processes, services
from orchestration.demo_results import Results
from orchestration.embedded import log_tail
from orchestration.service_kinds import STOP_GRACE_S
from orchestration.status import stop_signals
from orchestration.storage import DEMO_FOLDER
from vocabulary.clock import ScaledClock
from vocabulary.errors import ConfigurationError, UnavailableError
from vocabulary.settings import FeedSettings, Settings, is_loopback

PLAY_S = 60.0
"""How long the playing lasts in real time, unless --speed says otherwise."""
STAY_MINUTES = 48 * 60
STAGGER_S = 60.0
CHARTING_S = 2 * 3600.0
LIVES_ON_MINUTES = 24 * 60
"""Without --exit the ward goes on for this long after the table is shown."""
DRAIN_S = 90.0


class Plan(NamedTuple):
    """What to demonstrate."""

    beds: int
    minutes: int
    seed: int
    speed: float | None
    recorded: Path | None  # a folder of recorded stays; None for the synthetic ward
    stays: int
    is_left: bool  # stop everything afterwards
    as_json: bool
    has_model: bool = True  # learn a model first and put it in service

    @property
    def play_minutes(self) -> float:
        """Return how much of the hospital's time is played before the table is shown."""
        return self.minutes if self.recorded is None else STAY_MINUTES + self.stays * STAGGER_S / 60 + 1

    @property
    def chosen_speed(self) -> float:
        """Return how much faster than real it is played."""
        return self.speed or max(1.0, self.play_minutes * 60 / PLAY_S)


def scaled(settings: Settings, plan: Plan, now_us: int) -> Settings:
    """Return settings for a demonstration: its own folder and servers, and a clock that ends about now.

    Raises:
        ConfigurationError: other machines could reach it.
    """
    speed = plan.chosen_speed
    lead_us = round(plan.play_minutes * 60e6 * (1 - 1 / speed))
    return own_folder(settings).model_copy(
        update={
            "clock_origin_us": now_us - lead_us,
            "clock_started_at_us": now_us,
            "clock_speed": speed,
            "feeds": settings.feeds if plan.recorded is None else _charted(settings.feeds),
        }
    )


def own_folder(settings: Settings) -> Settings:
    """Return settings of a demonstration's own folder and servers, on the machine's own clock.

    Raises:
        ConfigurationError: other machines could reach it.
    """
    if not is_loopback(settings.host):
        raise ConfigurationError(
            f"VIGIL_HOST={settings.host}: a demonstration listens on this machine only, because anybody may sign in to "
            "it as anybody. Unset VIGIL_HOST."
        )
    return settings.model_copy(
        update={
            "mode": "demo",
            "data_dir": settings.data_dir / DEMO_FOLDER,
            "database_url": None,  # never into a hospital's own database
            "nats_url": None,
        }
    )


def _charted(feeds: tuple[FeedSettings, ...]) -> tuple[FeedSettings, ...]:
    """Return the feeds as recorded stays use them: a nurse charts about once an hour, no monitor speaks each minute."""
    return tuple(
        feed.model_copy(update={"expected_interval_s": max(feed.expected_interval_s, CHARTING_S)}) for feed in feeds
    )


class Hospital:
    """The hospital's process: it knows only the addresses of the listeners."""

    def __init__(
        self,
        plan: Plan,
        settings: Settings,
        addresses: dict[str, tuple[str, int]],
        log: Path,
        identity: Path | None = None,
        only: Path | None = None,
    ) -> None:
        """Start it.

        Args:
            plan: what to play.
            settings: for the clock.
            addresses: of the listeners, by feed.
            log: where it writes.
            identity: what it shows to listeners that speak TLS; None: they speak plain text.
            only: file of the record numbers to play; None for the first.

        Raises:
            ConfigurationError: the demonstration needs feeds that are not configured.
        """
        missing = {"adt", "monitors", "lab"} - set(addresses)
        if missing:
            raise ConfigurationError(f"A demonstration needs the feeds adt, monitors and lab; missing: {missing}.")
        hours = (plan.minutes + (0 if plan.is_left else LIVES_ON_MINUTES)) / 60
        what = (
            ["ward", "--beds", str(plan.beds), "--hours", str(hours), "--seed", str(plan.seed)]
            if plan.recorded is None
            else ["stays", str(plan.recorded.absolute()), "--limit", str(plan.stays), "--stagger", str(STAGGER_S)]
        )
        for feed in ("adt", "monitors", "lab"):
            what += [f"--{feed}", "{}:{}".format(*addresses[feed])]
        what += ["--speed", repr(plan.chosen_speed), "--json"]
        what += ["--clock", f"{settings.clock_origin_us}:{settings.clock_started_at_us}"]
        if identity is not None:
            what += ["--tls-identity", str(identity)]
        if only is not None:
            what += ["--only", str(only)]
        self._log = log
        self.summary: dict[str, Any] = {}
        self.at_us = 0  # due time of the last message sent
        self.acknowledged = 0
        self._child = self._start(what)
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _start(self, what: list[str]) -> subprocess.Popen[str]:
        with self._log.open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-P", "-m", "hospital", *what],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                cwd=self._log.parent,
                start_new_session=True,
            )

    def _read(self) -> None:
        assert self._child.stdout is not None
        for line in self._child.stdout:
            try:
                said = json.loads(line)
            except ValueError:
                continue
            if said.get("event") == "progress":
                self.at_us, self.acknowledged = said["at_us"], said["answered"]
            else:
                self.summary = said

    def has_ended(self) -> bool:
        """Return whether everything was sent and answered (or it failed).

        Raises:
            UnavailableError: it failed.
        """
        status = self._child.poll()
        if status is None:
            return False
        self._reader.join(timeout=5)
        if not self.summary:
            raise UnavailableError(
                f"The hospital's process ended with status {status}: {log_tail(self._log)} (whole log: {self._log})"
            )
        return True

    def stop(self) -> None:
        """End it; nothing when it has ended."""
        identity = processes.identify(self._child.pid)
        if identity is not None and self._child.poll() is None:
            processes.end(identity, STOP_GRACE_S)
        self._child.wait()
        self._reader.join(timeout=5)
        if self._child.stdout is not None:
            self._child.stdout.close()


@contextmanager
def _supervised(house: services.House) -> Iterator[None]:
    """Tend the services in a thread of its own while the block runs."""
    ending = threading.Event()
    tending = threading.Thread(target=house.supervisor.tend_until, args=(ending,), daemon=True)
    tending.start()
    try:
        yield
    finally:
        ending.set()
        tending.join()


@contextmanager
def _progress(console: Console, is_shown: bool) -> Iterator[Progress]:
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, disable=not is_shown, transient=True) as progress:
        yield progress


def demo(settings: Settings, plan: Plan, console: Console, errors: Console) -> bool:
    """Run the demonstration; return whether nothing is missing.

    Args:
        settings: the operator's.
        plan: what to play.
        console: where the report goes.
        errors: where progress goes.

    Raises:
        ConfigurationError: it cannot run as configured.
        UnavailableError: something did not come up, or was stopped by Ctrl-C before there was a result.
    """
    started_s = time.monotonic()
    with stop_signals() as stopping, _progress(errors, not plan.as_json) as progress:
        task = progress.add_task("starting", total=None)
        learned = (
            _learn(settings, plan, lambda step: progress.update(task, description=step)) if plan.has_model else None
        )
        if stopping.is_set():
            raise UnavailableError("Stopped before the demonstration was over.")
        # Only now: the ward's clock begins to run fast when it is set.
        settings = scaled(settings, plan, time.time_ns() // 1_000)
        progress.update(task, description="starting PostgreSQL, nats-server and the twin's processes")
        is_fresh = learned is None
        with services.running(settings, "demo", stopping, is_fresh=is_fresh) as house, _supervised(house):
            hospital = _start_hospital(house, plan, learned)
            try:
                progress.update(task, description=_playing(plan), total=plan.play_minutes, completed=0)
                watch = _Watch(plan, house.settings, hospital, stopping, progress, task)
                results = asyncio.run(watch.run())
                said = None
                if learned is not None:
                    progress.update(task, description="comparing what the model said with batch", total=None)
                    said = asyncio.run(demo_model.said(house.settings, learned, results.twins))
                progress.update(task, visible=False)
                # A demonstration that ends has waited until nothing was pending; one that goes on always has something.
                is_whole = results.is_whole and (results.is_settled or not plan.is_left)
                if said is not None:
                    is_whole = is_whole and said.is_well
                _report(plan, house, results, said, hospital, console, time.monotonic() - started_s)
                if not plan.is_left:
                    progress.stop()
                    stopping.wait()
            finally:
                hospital.stop()
    return is_whole


def _learn(settings: Settings, plan: Plan, tell: Callable[[str], None]) -> demo_model.Learned:
    return demo_model.learn(own_folder(settings), plan.recorded, plan.seed, plan.stays, tell)


def _start_hospital(house: services.House, plan: Plan, learned: demo_model.Learned | None) -> Hospital:
    only = None
    if learned is not None and plan.recorded is not None:
        # Never a stay that the model learned from.
        only = house.data_dir.run / "played.txt"
        only.write_text("\n".join(learned.played) + "\n")
    log = house.data_dir.logs / "hospital.log"
    return Hospital(plan, house.settings, house.feed_addresses, log, house.sender_identity(), only)


def _playing(plan: Plan) -> str:
    speed = f"{plan.chosen_speed:,.0f} times faster than real"
    if plan.recorded is not None:
        return f"playing {plan.stays} recorded stays of 48 h, {speed}"
    return f"playing {plan.minutes} min of a ward of {plan.beds} beds, {speed}"


class _Watch:
    """Follows the play until there is something to show."""

    def __init__(
        self,
        plan: Plan,
        settings: Settings,
        hospital: Hospital,
        stopping: threading.Event,
        progress: Progress,
        task: TaskID,
    ) -> None:
        self._plan, self._settings, self._hospital = plan, settings, hospital
        self._stopping, self._progress, self._task = stopping, progress, task
        assert settings.clock_origin_us is not None
        assert settings.clock_started_at_us is not None
        self._clock = ScaledClock(settings.clock_origin_us, settings.clock_started_at_us, settings.clock_speed)
        self._begun_us = self._clock.now_us()

    async def run(self) -> Results:
        async with demo_results.watching(self._settings) as observer:
            while not self._is_played():
                if self._stopping.is_set():
                    raise UnavailableError("Stopped before the demonstration was over.")
                await asyncio.sleep(0.2)
            if self._plan.is_left or self._hospital.has_ended():
                self._progress.update(self._task, description="waiting until nothing is pending", total=None)
            return await observer.results(
                self._clock.now_us, self._plan.seed, drain_s=DRAIN_S if self._plan.is_left else 0.0
            )

    def _is_played(self) -> bool:
        minutes = (self._hospital.at_us - self._begun_us) / 60e6
        self._progress.update(self._task, completed=min(max(minutes, 0.0), self._plan.play_minutes))
        if self._hospital.has_ended():
            return True
        # A recorded stay always plays to its end; a ward that lives on is shown when the asked minutes are over.
        return not self._plan.is_left and self._plan.recorded is None and minutes >= self._plan.play_minutes


def _report(
    plan: Plan,
    house: services.House,
    results: Results,
    said: demo_model.Said | None,
    hospital: Hospital,
    console: Console,
    seconds: float,
) -> None:
    if plan.as_json:
        record = demo_results.as_record(results) | {
            "board": house.board_url,
            "data_dir": str(house.data_dir.root),
            "hospital": hospital.summary or {"acknowledged": hospital.acknowledged},
            "speed": plan.chosen_speed,
            "seconds": round(seconds, 1),
        }
        if plan.recorded is not None:
            record["stays"] = results.stays
        if said is not None:
            record["model"] = demo_model.as_record(said)
        typer.echo(json.dumps(record))
        return
    of_model = partial(demo_model.show, said, console) if said is not None else None
    demo_results.show(results, house, console, is_left=plan.is_left, of_model=of_model)
