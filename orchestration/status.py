"""`vigil up`, `vigil down` and `vigil status`: running the house in the foreground, ending it, looking at it.

Here: signals, waiting, and what these three print.
Not here: the services (orchestration.services), their lines (orchestration.display).
"""

from __future__ import annotations

import json
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import msgspec
import typer
from rich.console import Console

from orchestration import display, processes, services
from orchestration.data_dir import DataDir, RunState
from orchestration.doors import ending_certificates
from orchestration.health import FULL_DISK_BYTES, SERVING, Condition, judge, raw_trouble
from orchestration.service_kinds import answers
from orchestration.storage import locate
from orchestration.supervisor import Seen
from twin import health
from vocabulary.errors import UnavailableError
from vocabulary.settings import Settings

DOWN_TIMEOUT_S = 90.0


@contextmanager
def stop_signals() -> Iterator[threading.Event]:
    """Give an event that Ctrl-C, SIGTERM or a closed terminal sets, while the block runs."""
    stopping = threading.Event()
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.signal(number, lambda *_: stopping.set()) for number in numbers}
    try:
        yield stopping
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def up(settings: Settings, console: Console) -> None:
    """Run everything in the foreground until told to stop.

    Raises:
        ConfigurationError: it cannot run as configured; nothing is left running.
        UnavailableError: something did not come up; nothing is left running.
    """
    with stop_signals() as stopping, display.ServicesDisplay(console) as shown:

        def look(house: services.House) -> None:
            if shown.is_due():
                shown.show(house.supervisor.seen())

        def say_leftovers(names: list[str]) -> None:
            console.print(f"Ended what an earlier run left: {', '.join(names)}.", highlight=False)

        try:
            with services.running(settings, "up", stopping, look, say_leftovers) as house:
                shown.footer = f"Ward board: {house.board_url}   Stop: Ctrl-C or `vigil down`"
                shown.show(house.supervisor.seen())
                if not console.is_terminal:
                    console.print(shown.footer, markup=False, highlight=False, soft_wrap=True)
                house.supervisor.run(stopping, lambda: look(house))
                shown.show(house.supervisor.seen())
        except UnavailableError:
            if not stopping.is_set():
                raise
    console.print("Stopped.")


def down(settings: Settings, console: Console) -> None:
    """Stop the supervisor that runs, or end what a killed one left.

    Raises:
        UnavailableError: nothing runs; or it did not stop in time.
    """
    data_dir = locate(settings)
    state = data_dir.read_state()
    if state is None:
        raise UnavailableError(f"Nothing runs in {data_dir.root}.")
    if not processes.is_alive(state.supervisor):
        with data_dir.lock():
            ended = services.end_leftovers(data_dir)
        console.print(f"The supervisor was gone; ended what it left: {', '.join(ended) or 'nothing'}.", highlight=False)
        return
    processes.ask_to_stop(state.supervisor)
    deadline = time.monotonic() + DOWN_TIMEOUT_S
    while processes.is_alive(state.supervisor):
        if time.monotonic() > deadline:
            raise UnavailableError(
                f"Process {state.supervisor.pid} did not stop within {DOWN_TIMEOUT_S:g} s. See {data_dir.logs}."
            )
        time.sleep(0.05)
    console.print("Stopped.")


def look(data_dir: DataDir, state: RunState) -> list[Seen]:
    """Return how the recorded services are, seen from outside the supervisor."""
    seen = []
    for running in state.services:
        note = ""
        alive = running.identity is not None and processes.is_alive(running.identity)
        if running.identity is None and running.is_external:
            condition = Condition.EXTERNAL if answers(*_host_port(running.address)) else Condition.DOWN
        elif not alive:
            condition = Condition.DOWN
        elif running.name in {"postgres", "nats-server"}:
            condition = Condition.READY if answers(*_host_port(running.address)) else Condition.STARTING
        else:
            assert running.identity is not None
            condition = judge(data_dir.run, running.name, running.identity.pid)
            if condition is Condition.BLOCKED:
                note = raw_trouble(health.read(data_dir.run, running.name))
        seen.append(Seen(running.name, running.address, condition, running.restarts, note))
    return seen


def _host_port(address: str) -> tuple[str, int]:
    host, _, port = address.split(maxsplit=1)[0].rpartition(":")
    return host, int(port)


def status(settings: Settings, console: Console, as_json: bool) -> bool:
    """Print every service's address and health, and return whether all are well.

    Raises:
        UnavailableError: nothing runs.
    """
    data_dir = locate(settings)
    state = data_dir.live_state()
    if state is None:
        left = data_dir.read_state()
        hint = " A supervisor was killed; `vigil up` or `vigil down` ends what it left." if left else ""
        raise UnavailableError(f"Nothing runs in {data_dir.root}. Start it with `vigil up`.{hint}")
    seen = look(data_dir, state)
    is_well = all(service.condition in SERVING - {Condition.BLOCKED} for service in seen)
    if as_json:
        noted = [*state.notes, *ending_certificates(data_dir, settings)]
        typer.echo(json.dumps(_status_record(data_dir, state, seen, is_well, noted)))
        return is_well
    if console.is_terminal:
        console.print(display.services_table(seen))
    else:
        for service in seen:
            console.print(display.service_line(service), markup=False, highlight=False, soft_wrap=True)
    for listener in state.listeners:
        line = f"{listener.name:<14} {listener.address:<21} {listener.transport}"
        style = "bold red" if listener.is_waived else "dim"
        console.print(line, style=style, markup=False, highlight=False, soft_wrap=True)
    for note in [*state.notes, *ending_certificates(data_dir, settings)]:
        console.print(f"note: {note}", style="yellow", markup=False, highlight=False, soft_wrap=True)
    free = shutil.disk_usage(data_dir.root).free
    if free < FULL_DISK_BYTES:
        console.print(
            f"The disk of {data_dir.root} is full ({free // 2**20} MB free): nothing is acknowledged, senders keep "
            "what they have. Free some space; everything then goes on by itself.",
            style="red", markup=False, highlight=False, soft_wrap=True,
        )  # fmt: skip
    return is_well


def _status_record(
    data_dir: DataDir, state: RunState, seen: list[Seen], is_well: bool, notes: list[str]
) -> dict[str, object]:
    by_name = {running.name: running for running in state.services}
    reports = {name: health.read(data_dir.run, name) for name in by_name}

    def one(service: Seen) -> dict[str, object]:
        running, report = by_name[service.name], reports[service.name]
        return {
            "name": service.name,
            "address": service.address,
            "health": service.condition.value,
            "pid": running.identity.pid if running.identity else None,
            "restarts": service.restarts,
            "note": service.note,
            "detail": report.detail if report is not None else {},
        }

    return {
        "data_dir": str(data_dir.root),
        "command": state.command,
        "supervisor_pid": state.supervisor.pid,
        "started_at": state.started_at,
        "is_well": is_well,
        "services": [one(service) for service in seen],
        "listeners": [msgspec.structs.asdict(listener) for listener in state.listeners],
        "notes": notes,
    }
