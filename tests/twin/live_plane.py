"""The live plane inside the test's own process: real PostgreSQL, real nats-server, real sockets.

Here: starting ingress, normalizer and engine as tasks, talking MLLP to them, reading what they made of it.
Not here: killing processes (tests/faults), the pieces without sockets (tests/twin/simulation.py).
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path

from pydantic import SecretStr

from governance import privacy
from hospital import messages
from interop import mllp
from stores import database, ledger_verification, positions, quarantine
from twin import accounts, engine_loop, forecast, health, ingress, normalizer_loop
from twin.bus import Bus
from vocabulary.clock import Clock, SystemClock
from vocabulary.records import INCARNATION_SHIFT, PARTITIONS
from vocabulary.settings import FeedSettings, Settings
from vocabulary.snapshot import TwinSnapshot, from_bytes

SECOND = 1_000_000
MINUTE = 60 * SECOND
HOUR = 60 * MINUTE

FEEDS = (
    FeedSettings(name="adt", expected_interval_s=3600.0),
    FeedSettings(name="monitors", expected_interval_s=60.0),
    FeedSettings(name="lab", expected_interval_s=6 * 3600.0),
)


def settings_for(data_dir: Path, database_url: str, nats_url: str, **overrides: object) -> Settings:
    """Settings of a plane that does everything at once instead of gathering for tenths of a second."""
    fast: dict[str, object] = {
        "data_dir": data_dir,
        "database_url": SecretStr(database_url),
        "nats_url": SecretStr(nats_url),
        "feeds": FEEDS,
        "site": "H",
        "tick_interval_s": 0.1,
        "normalizer_interval_s": 0.005,
        "engine_interval_s": 0.01,
        "raw_max_bytes": 256 * 1024 * 1024,
    }
    settings = Settings(**{**fast, **overrides})  # type: ignore[arg-type]
    privacy.prepare(settings)  # as `vigil up` does
    return settings


async def until(condition: Callable[[], object], what: str, timeout_s: float = 10.0) -> None:
    """Wait until a condition holds; fails with `what` when it never does."""
    deadline = asyncio.get_running_loop().time() + timeout_s
    while True:
        found = condition()
        if isinstance(found, Awaitable):
            found = await found
        if found:
            return
        assert asyncio.get_running_loop().time() < deadline, f"never happened within {timeout_s:g} s: {what}"
        await asyncio.sleep(0.02)


def code_of(answer: bytes) -> str:
    """MSA-1 of an acknowledgement."""
    return answer.split(b"MSA|")[1].split(b"|")[0].decode()


def answered_id(answer: bytes) -> str:
    """MSA-2 of an acknowledgement."""
    return answer.split(b"MSA|")[1].split(b"\r")[0].split(b"|")[1].decode()


class Peer:
    """One sending system's connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    def put(self, body: bytes) -> None:
        """Write a block without waiting for its answer."""
        self.writer.write(mllp.frame(body))

    async def answer(self, timeout_s: float = 10.0) -> bytes:
        """The next answer, without its framing."""
        async with asyncio.timeout(timeout_s):
            block = await self.reader.readuntil(b"\x1c\r")
        return block[1:-2]

    async def ask(self, body: bytes) -> str:
        """Send a message and return the code it was answered with."""
        self.put(body)
        return code_of(await self.answer())

    async def hang_up(self) -> None:
        """Close in order; what a receiver that does not read leaves unsent is dropped."""
        self.writer.close()
        try:
            await asyncio.wait_for(self.writer.wait_closed(), 1)
        except TimeoutError:
            self.writer.transport.abort()
        except ConnectionError:
            return


class LivePlane:
    """Ingress, normalizer and engine as tasks of this event loop."""

    def __init__(self, settings: Settings, database_url: str, nats_url: str, clock: Clock) -> None:
        self.settings, self.url, self.nats_url, self.clock = settings, database_url, nats_url, clock
        self.forecaster = forecast.open_forecaster(settings)
        self.bus: Bus
        self.connection: database.Connection
        self.keys: privacy.KeyRing
        self._buses: list[Bus] = []
        self._stop = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._peers: list[Peer] = []

    async def start(self) -> None:
        """Start all three, and a connection of our own to each server."""
        self._buses = [await Bus.connect(self.nats_url, f"test {number}") for number in range(4)]
        self.bus = self._buses[3]
        await self.bus.ensure_streams(self.settings.raw_max_bytes)
        self.connection = await database.connect(self.url, application_name="test")
        self.keys = await privacy.open_ring(self.settings, self.url, purpose="test keys")
        stop, settings, clock = self._stop, self.settings, self.clock
        a, b, c = self._buses[:3]
        self._tasks = [
            asyncio.create_task(ingress.run(settings, a, clock, stop), name="ingress"),
            asyncio.create_task(normalizer_loop.run(settings, b, self.url, stop), name="normalizer"),
            asyncio.create_task(
                engine_loop.run(settings, c, self.url, clock, stop, self.forecaster, list(range(PARTITIONS))),
                name="engine",
            ),
        ]
        await until(self._is_up, "all three processes are ready", 20.0)

    async def _is_up(self) -> bool:
        """Whether sockets are open and both readers have taken over (their health files say so a second later)."""
        self.check()
        async with database.transaction(self.connection) as connection:
            places = await positions.read(connection)
        is_listening = bool(self.health("ingress"))
        return is_listening and all(place.taken_at_us is not None for place in places.values())

    def check(self) -> None:
        """Fail with a process's own error when one has ended."""
        for task in self._tasks:
            if task.done():
                task.result()
                raise AssertionError(f"{task.get_name()} ended")

    def health(self, name: str) -> health.Detail:
        """What a process last said of itself."""
        found = health.read(self.settings.data_dir / "run", name)
        return {} if found is None else found.detail

    def address(self, feed: str) -> tuple[str, int]:
        """Where a feed listens."""
        host, port = str(self.health("ingress")[f"{feed}_address"]).rsplit(":", 1)
        return host, int(port)

    async def connect(self, feed: str) -> Peer:
        """Open a connection to a feed; closed with the plane."""
        peer = Peer(*await asyncio.open_connection(*self.address(feed)))
        self._peers.append(peer)
        return peer

    async def send(self, feed: str, *bodies: bytes) -> list[str]:
        """Send messages one after the other on a connection of their own; return their codes."""
        peer = await self.connect(feed)
        codes = [await peer.ask(body) for body in bodies]
        await peer.hang_up()
        return codes

    async def drain(self, timeout_s: float = 20.0) -> accounts.Account:
        """Wait until nothing is pending, and return the books."""
        account = await accounts.drain(self.connection, self.bus, timeout_s)
        self.check()
        return account

    async def next_ticks(self, count: int = 2) -> None:
        """Wait until the engine has folded so many of the log's ticks from now."""
        extent = await self.bus.raw_extent()
        await until(lambda: self._reached(extent.last_sequence + count), f"{count} more ticks folded")

    async def _reached(self, sequence: int) -> bool:
        self.check()
        async with database.transaction(self.connection) as connection:
            places = await positions.read(connection)
        slowest = min(place.position for reader, place in places.items() if reader != positions.NORMALIZER)
        return slowest & ((1 << INCARNATION_SHIFT) - 1) >= sequence

    async def twins(self) -> dict[int, TwinSnapshot]:
        """The latest snapshot of every twin, as pages read it."""
        return {patient_id: from_bytes(body) for patient_id, body in (await self.bus.snapshots()).items()}

    async def items(self, **which: object) -> list[quarantine.Item]:
        """What was not accepted, oldest first."""
        async with database.transaction(self.connection) as connection:
            found = await quarantine.find(connection, **{"state": None, "limit": 10_000, **which})  # type: ignore[arg-type]
        return found[::-1]

    async def reasons(self) -> Counter[tuple[str, str]]:
        """How many items there are of each (reason, state)."""
        return Counter((str(item.reason), item.state) for item in await self.items())

    async def faults(self) -> list[object]:
        """Everything wrong with the books themselves."""
        async with database.transaction(self.connection) as connection:
            broken: list[object] = list(await ledger_verification.verify(connection))
        async with database.consistent_read(self.connection) as connection:
            return [*broken, *await ledger_verification.reconcile(connection)]

    async def stop(self) -> None:
        """Stop everything; fails with the first error that a process ended with."""
        for peer in self._peers:
            peer.writer.close()
        self._stop.set()
        done, late = await asyncio.wait(self._tasks, timeout=10)
        for task in late:
            task.cancel()
        await asyncio.gather(*late, return_exceptions=True)
        for bus in self._buses:
            await bus.close()
        await self.keys.close()
        await self.connection.close()
        assert not late, f"did not stop when told: {[task.get_name() for task in late]}"
        for task in done:
            task.result()


class Hospital:
    """Words for what a small hospital says: every message has a new control id unless told otherwise."""

    authority = "H"

    def __init__(self, now_us: Callable[[], int]) -> None:
        self._now_us = now_us
        self._count = 0

    def header(self, application: str, **changes: object) -> messages.Header:
        """A header of its own."""
        self._count += 1
        made = messages.Header(application, "H", f"{application}-{self._count:05d}", self._now_us())
        return made._replace(**changes)  # type: ignore[arg-type]

    def person(self, *numbers: str) -> messages.Person:
        """Somebody known by these numbers."""
        return messages.Person(
            tuple(messages.Identifier(number, self.authority) for number in numbers),
            f"Family{numbers[0]}" if numbers else "",
        )

    def bed(self, name: str, ward: str = "ICU") -> messages.Bed:
        """A bed of a ward."""
        return messages.Bed(ward, "1", name, "H") if name else messages.Bed()

    def adt(
        self, trigger: str, number: str, bed: str = "", *, at_us: int, visit: str = "", ward: str = "ICU",
        attending: str = "", vip: str = "", **header: object,
    ) -> bytes:  # fmt: skip
        """An ADT message."""
        who = messages.Practitioner(attending) if attending else None
        stay = messages.Visit(visit or f"V{number}", self.bed(bed, ward), attending=who, vip=vip)
        if trigger == "A01":
            stay = stay._replace(admitted_at_us=at_us)
        return messages.adt(trigger, self.header("ADT", **header), self.person(number), stay, at_us)

    def merge(self, survivor: str, retired: str, *, at_us: int) -> bytes:
        """An A40."""
        gone = [messages.Identifier(retired, self.authority)]
        return messages.merge(self.header("ADT"), self.person(survivor), gone, at_us)

    def result(
        self, code: str, text: str, unit: str, *, at_us: int, status: str = "F", sub_id: str = "", **more: object
    ) -> messages.Result:
        """One OBX."""
        return messages.Result(code, code, text, unit, status, sub_id=sub_id, effective_at_us=at_us, **more)  # type: ignore[arg-type]

    def report(
        self, number: str, *results: messages.Result, order: str = "", bed: str = "", at_us: int | None = None,
        application: str = "LAB", **header: object,
    ) -> bytes:  # fmt: skip
        """An ORU about somebody, or with number "" about a bed."""
        made = self.header(application, **header)
        who = self.person(number) if number else messages.Person(())
        visit = messages.Visit("", self.bed(bed))
        taken = at_us if at_us is not None else next((r.effective_at_us for r in results if r.effective_at_us), 0)
        return messages.report(made, who, visit, messages.Order(order or made.control_id, "X", "X", taken), results)

    def heart_rate(self, number: str, value: object, *, at_us: int, **more: object) -> bytes:
        """A heart rate from one monitor."""
        status = str(more.pop("status", "F"))
        result = self.result("8867-4", f"{value}", "/min", at_us=at_us, status=status)
        return self.report(number, result, application="MON", **{"order": f"mon-{number}", **more})  # type: ignore[arg-type]


def system_clock() -> Clock:
    """The real clock."""
    return SystemClock()
