"""A ward's whole day while ingress, normalizer, engine, nats-server and PostgreSQL are killed again and again.

Where test_kill_under_load sends plain values, this ward admits, moves, merges and discharges, corrects and withdraws,
sends things twice and sends rubbish. Two oracles: every acknowledged message lies in RAW as it was sent; and RAW folded
once more in one go, by nobody who is ever interrupted, gives the same database and the same twins, byte for byte.
VIGIL_FAULT_SEED chooses other moments and another ward.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

import msgspec
import psycopg
import pytest
from pydantic import SecretStr

from governance import privacy
from hospital.play import play
from hospital.sender import Patience, Transcript
from hospital.ward import Ward
from orchestration.embedded import EmbeddedNats, EmbeddedPostgres, free_port
from stores import database, ledger_verification
from twin import accounts, forecast, replay
from twin.bus import Bus, RawMessage
from twin.ingress import TICK_FEED
from vocabulary.clock import ScaledClock
from vocabulary.errors import VigilError
from vocabulary.records import RawPack
from vocabulary.settings import FeedSettings, Settings

SEED = int(os.environ.get("VIGIL_FAULT_SEED", "20261123"))
TARGETS = ("ingress", "normalizer", "engine", "nats-server", "postgres")
ROUNDS = 3
HOURS, SPEED = 4.0, 500.0  # of the ward's day; about half a minute of ours
CHECKOUT = Path(__file__).parent.parent.parent
HOUR_US = 3_600_000_000


class House:
    """Two servers and three processes; whatever died is started again."""

    def __init__(self, folder: Path, clock: ScaledClock) -> None:
        self.postgres = EmbeddedPostgres(folder / "postgres", free_port())
        self.nats = EmbeddedNats(folder / "nats", free_port())
        self.folder = folder
        self.feeds = tuple(FeedSettings(name=name, port=free_port()) for name in ("adt", "monitors", "lab"))
        self.clock = clock
        self.deaths: list[tuple[float, str]] = []
        self.wanted = {"ingress", "normalizer", "engine"}
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._started = time.monotonic()

    def settings(self) -> Settings:
        return Settings(
            data_dir=self.folder,
            database_url=SecretStr(self.postgres.url()),
            nats_url=SecretStr(self.nats.url()),
            feeds=self.feeds,
            clock_origin_us=self.clock.origin_us,
            clock_started_at_us=self.clock.started_at_us,
            clock_speed=self.clock.speed,
            tick_interval_s=0.2,
        )

    def _environment(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("VIGIL_")}
        return kept | {
            "VIGIL_DATA_DIR": str(self.folder),
            "VIGIL_DATABASE_URL": self.postgres.url(),
            "VIGIL_NATS_URL": self.nats.url(),
            "VIGIL_FEEDS": json.dumps([feed.model_dump() for feed in self.feeds]),
            "VIGIL_CLOCK_ORIGIN_US": str(self.clock.origin_us),
            "VIGIL_CLOCK_STARTED_AT_US": str(self.clock.started_at_us),
            "VIGIL_CLOCK_SPEED": str(self.clock.speed),
            "VIGIL_TICK_INTERVAL_S": "0.2",
        }

    def revive(self) -> None:
        """Start whatever does not run; a server that is not ready to start yet is tried again the next time."""
        with suppress(VigilError):
            if self.postgres.pid() is None:
                self.postgres.start()
        with suppress(VigilError):
            if not self.nats.is_running():
                self.nats.start()
        for name in self.wanted:
            process = self._processes.get(name)
            if process is None or process.poll() is not None:
                with (self.folder / f"{name}.log").open("ab") as log:
                    self._processes[name] = subprocess.Popen(
                        [sys.executable, "-m", "twin", name],
                        cwd=CHECKOUT, env=self._environment(), stdout=log, stderr=log, start_new_session=True,
                    )  # fmt: skip

    def pid(self, name: str) -> int | None:
        if name == "postgres":
            return self.postgres.pid()
        if name == "nats-server":
            return self.nats.pid()
        process = self._processes.get(name)
        return process.pid if process is not None and process.poll() is None else None

    async def kill(self, name: str) -> None:
        """SIGKILL one that runs."""
        while (pid := self.pid(name)) is None:  # noqa: ASYNC110 - another thread brings it back
            await asyncio.sleep(0.05)
        os.kill(pid, signal.SIGKILL)
        self.deaths.append((round(time.monotonic() - self._started, 2), name))

    def dismiss(self, name: str) -> None:
        """End a process in order."""
        self.wanted.discard(name)
        process = self._processes.pop(name, None)
        if process is not None and process.poll() is None:
            process.terminate()
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def close(self) -> None:
        for name in list(self.wanted):
            self.dismiss(name)
        self.nats.stop()
        self.postgres.stop("immediate")


@pytest.fixture
async def house(server_folder, tmp_path):
    now_us = time.time_ns() // 1000
    folder = server_folder / f"ward-{SEED}-{os.getpid()}"
    folder.mkdir()
    made = House(folder, ScaledClock(now_us - round(HOURS * HOUR_US), now_us, SPEED))
    made.postgres.start()
    made.nats.start()
    await database.migrate(made.postgres.url())
    privacy.prepare(made.settings())

    async def keep_alive():
        while True:
            await asyncio.to_thread(made.revive)
            await asyncio.sleep(0.1)

    keeper = asyncio.create_task(keep_alive())
    yield made
    keeper.cancel()
    await asyncio.gather(keeper, return_exceptions=True)
    await asyncio.to_thread(made.close)


async def raw_of(bus: Bus) -> list[RawMessage]:
    """Everything RAW holds."""
    extent = await bus.raw_extent()
    reader = bus.raw_reader(0)
    held: list[RawMessage] = []
    while not held or held[-1].sequence < extent.last_sequence:
        held += await reader.take(timeout_s=5.0)
    await reader.close()
    return held


async def final_tick(bus: Bus, house: House) -> RawMessage:
    """Append a tick late enough for every twin to be due at it."""
    at_us = house.clock.now_us() + 3600_000_000
    data = msgspec.msgpack.encode(RawPack("final", TICK_FEED, at_us, []))
    return RawMessage(await bus.publish_raw(TICK_FEED, "final", data), data)


@pytest.mark.faults
@pytest.mark.slow
async def test_a_ward_whose_house_keeps_dying_ends_as_one_that_never_did(house, simulation, postgres_server):
    dice = random.Random(SEED)
    ward = Ward(12, SEED, fault_intensity=3.0)
    transcript = Transcript()
    playing = asyncio.create_task(
        play(
            ward.messages(house.clock.origin_us, HOURS),
            {feed.name: ("127.0.0.1", feed.port) for feed in house.feeds},
            clock=house.clock,
            transcript=transcript,
            patience=Patience(acknowledgement_s=3.0, connect_s=1.0, backoff_most_s=0.5),
            connect_timeout_s=60,
            drain_timeout_s=120,
        )
    )
    order = [target for _ in range(ROUNDS) for target in dice.sample(TARGETS, len(TARGETS))]
    for target in order:
        await asyncio.sleep(dice.uniform(0.3, 2.2))
        await house.kill(target)
    assert not playing.done(), "the ward fell silent before the last death: nothing was tested"
    await playing
    context = f"seed {SEED}, deaths {house.deaths}"
    assert Counter(name for _, name in house.deaths) == dict.fromkeys(TARGETS, ROUNDS), context
    assert transcript.unanswered() == [], context
    assert transcript.reconnections >= 3, context

    await asyncio.to_thread(house.dismiss, "ingress")
    bus = await Bus.connect(house.nats.url(), "test", timeout_s=30)
    connection = await database.connect(house.postgres.url(), application_name="test")
    tick = await final_tick(bus, house)
    account = await accounts.drain(connection, bus, 60)
    assert account.remainder == 0, f"{account} {context}"
    assert account.messages.pending == account.values.pending == 0, context

    # Every acknowledged message lies in RAW, as it was sent.
    held = await raw_of(bus)
    decode = msgspec.msgpack.Decoder(RawPack).decode
    stored = Counter(item.body for message in held for item in decode(message.data).items)
    lost = [delivery.control_id for delivery in transcript if delivery.is_answered and not stored[delivery.body]]
    assert lost == [], context
    assert account.messages.received == stored.total(), context

    twins = await _twins_at(bus, tick.sequence)
    assert len(twins) >= 6, context
    assert account.values.accepted > 10_000, context
    assert account.messages.duplicate > 0, context
    await asyncio.to_thread(house.dismiss, "engine")
    await asyncio.to_thread(house.dismiss, "normalizer")

    # RAW once more, in one go, gives the same house.
    forecaster = forecast.open_forecaster(house.settings())
    url = await _empty_database(postgres_server)
    again = simulation.Run(simulation.Log(held), house.settings(), url, forecaster, SEED)
    other = await database.connect(url, application_name="test")
    try:
        await again.play(largest=2_000)
        assert again.last == twins, context
        expected, found = await simulation.contents(other), await simulation.contents(connection)
        for name, rows in expected.items():
            assert found[name] == rows, f"{name} differ: {context}"
    finally:
        await again.close()
        await other.close()

    async with database.consistent_read(connection):
        assert await ledger_verification.verify(connection) == [], context
        assert await ledger_verification.reconcile(connection) == [], context
    keys = await privacy.open_ring(house.settings(), house.postgres.url(), purpose="test")
    for snapshot_id in await replay.sample_ids(connection, 80, SEED):
        made = await replay.replay(connection, forecaster, snapshot_id, keys)
        assert made.is_identical, f"{snapshot_id} {made.differences} {context}"
    assert await simulation.minutes_that_differ(connection, house.clock.now_us()) == [], context
    await keys.close()
    await connection.close()
    await bus.close()


async def _twins_at(bus: Bus, sequence: int) -> dict[int, bytes]:
    """The admitted twins, once all of them show the log up to a place in it."""
    deadline = time.monotonic() + 30
    while True:
        found = {p: (body, msgspec.json.decode(body)) for p, body in (await bus.snapshots()).items()}
        reached = [said["position"] & ((1 << 40) - 1) for _, said in found.values() if said["is_admitted"]]
        if reached and min(reached) >= sequence:
            return {p: body for p, (body, said) in found.items() if said["is_admitted"]}
        assert time.monotonic() < deadline, f"seed {SEED}: twins stay at {min(reached, default=0)} before {sequence}"
        await asyncio.sleep(0.2)


async def _empty_database(server: EmbeddedPostgres) -> str:
    name = f"oracle_{SEED}_{os.getpid()}"
    with psycopg.connect(server.url(), autocommit=True) as admin:
        admin.execute(f"create database {name}".encode())
    await database.migrate(server.url(name))
    return server.url(name)
