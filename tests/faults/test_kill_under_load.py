"""The whole house, as `vigil up` starts it, while everything in it is killed at random moments under load.

The oracle is what was sent: python-hl7 reads the bytes that left the sender, and every value in them must be in the
store once, and nothing else. VIGIL_FAULT_SEED chooses other moments.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

import hl7
import pytest

from governance.privacy import open_ring
from hospital.load import run_load
from hospital.sender import Delivery, MllpSender, Patience, Transcript
from orchestration.data_dir import DataDir, RunState
from orchestration.storage import of_running, secret
from stores import clinical, database, ledger_verification, quarantine, snapshot_census, timeseries
from stores.raw_archive import RawArchive
from twin import accounts, forecast, replay
from twin.bus import Bus, open_bus
from vocabulary import concepts
from vocabulary.settings import Settings
from vocabulary.snapshot import TwinSnapshot, from_bytes

SEED = int(os.environ.get("VIGIL_FAULT_SEED", "20261123"))
TARGETS = ("ingress", "normalizer", "engine", "nats-server", "postgres")
ROUNDS = 3
BEDS = 12
# Short, so that the load meets many deaths: a real interface engine waits longer.
PATIENCE = Patience(acknowledgement_s=3.0, connect_s=1.0, backoff_most_s=0.5)


class House(NamedTuple):
    """A running house."""

    data_dir: DataDir
    operator: Settings  # as a command beside the house reaches its servers
    ports: dict[str, int]

    def state(self) -> RunState:
        state = self.data_dir.read_state()
        assert state is not None
        return state

    def pid(self, name: str) -> int:
        return next(r.identity.pid for r in self.state().services if r.name == name and r.identity is not None)

    def settings(self) -> Settings:
        return Settings(data_dir=self.data_dir.root)


def _wait_until(condition, seconds: float, what: str) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"seed {SEED}: {what} within {seconds} s"
        time.sleep(0.1)


def _is_up(data_dir: DataDir) -> bool:
    with suppress(AssertionError):
        command = [str(Path(sys.executable).parent / "vigil"), "status", "--data-dir", str(data_dir.root)]
        return subprocess.run(command, capture_output=True, check=False).returncode == 0
    return False


@pytest.fixture(scope="module")
def house(server_folder) -> Iterator[House]:
    """`vigil up` in a folder of its own."""
    data_dir = DataDir(server_folder / "house")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("VIGIL_")}
    log = (server_folder / "up.log").open("wb")
    up = subprocess.Popen(
        [str(Path(sys.executable).parent / "vigil"), "up", "--data-dir", str(data_dir.root)],
        stdout=log, stderr=log, env=environment, start_new_session=True,
    )  # fmt: skip
    try:
        _wait_until(lambda: _is_up(data_dir), 60, "everything ready")
        state = data_dir.read_state()
        assert state is not None
        yield House(data_dir, of_running(Settings(data_dir=data_dir.root), data_dir, state), state.ports)
    finally:
        up.send_signal(signal.SIGTERM)
        try:
            up.wait(timeout=60)
        finally:
            log.close()
            if up.poll() is None:
                up.kill()
                up.wait()


async def _kill_at_random(house: House, dice: random.Random, done: asyncio.Event) -> list[tuple[float, str]]:
    """SIGKILL every target ROUNDS times in random order, with random pauses; return what was killed when."""
    order = [target for _ in range(ROUNDS) for target in dice.sample(TARGETS, len(TARGETS))]
    killed: list[tuple[float, str]] = []
    started = time.monotonic()
    for target in order:
        await asyncio.sleep(dice.uniform(0.4, 2.2))
        while True:  # it may be dead already, of the server it needs: then it is killed as soon as it lives again
            with suppress(ProcessLookupError, StopIteration):
                os.kill(house.pid(target), signal.SIGKILL)
                break
            await asyncio.sleep(0.1)
        killed.append((round(time.monotonic() - started, 2), target))
    done.set()
    return killed


class Sent(NamedTuple):
    """One value as it left the sender, read by python-hl7."""

    medical_record_number: str
    concept: int
    effective: str
    value: float


def _sent(deliveries: list[Delivery]) -> dict[str, list[Sent]]:
    """Return control id → values of every observation message."""
    found: dict[str, list[Sent]] = {}
    for delivery in deliveries:
        message = hl7.parse(delivery.body.decode().strip())
        if str(message.segment("MSH")[9][0][0]) != "ORU":
            continue
        number = str(message.segment("PID")[3][0][0])
        found[delivery.control_id] = [
            Sent(number, concept.number, str(obx[14]), float(str(obx[5])))
            for obx in message.segments("OBX")
            if str(obx[2]) == "NM" and (concept := concepts.by_mdc(int(str(obx[3][0][0])))) is not None
        ]
    return found


def _at(effective: str) -> int:
    """Return a DTM with offset, as the load writes it, in microseconds."""
    if "." in effective:
        moment = datetime.strptime(effective, "%Y%m%d%H%M%S.%f%z")
    else:
        moment = datetime.strptime(effective, "%Y%m%d%H%M%S%z")
    return round(moment.timestamp() * 1_000_000)


async def _connected(house: House) -> tuple[database.Connection, Bus]:
    connection = await database.connect(secret(house.operator.database_url), application_name="test")
    return connection, await open_bus(house.operator, "operator")


@pytest.mark.faults
@pytest.mark.slow
async def test_no_acknowledged_message_is_lost_or_applied_twice(house):
    connection, bus = await _connected(house)
    before = await accounts.drain(connection, bus, 30)
    async with database.consistent_read(connection):
        sizes_before = await timeseries.sizes(connection)
    await connection.close()
    await bus.close()
    await asyncio.sleep(1.1)  # a load's control ids begin with the second it started in: not that of another test
    started_us = time.time_ns() // 1_000
    dice = random.Random(SEED)
    done = asyncio.Event()
    killing = asyncio.create_task(_kill_at_random(house, dice, done))
    address = ("127.0.0.1", house.ports["feed.adt"]), ("127.0.0.1", house.ports["feed.monitors"])
    transcript = Transcript()
    rounds = 0
    while not done.is_set():
        report = await run_load(
            *address, beds=BEDS, seconds=8, interval_s=0.5, connections=3, window=8, seed=SEED + rounds,
            patience=PATIENCE, drain_timeout_s=60,
        )  # fmt: skip
        transcript.deliveries.extend(report.transcript)
        rounds += 1
    killed = await killing
    assert Counter(name for _, name in killed) == dict.fromkeys(TARGETS, ROUNDS), killed
    assert not transcript.refused()
    assert all(delivery.is_accepted for delivery in transcript), "everything was acknowledged in the end"
    repeated = sum(delivery.attempts - 1 for delivery in transcript)
    _wait_until(lambda: _is_up(house.data_dir), 60, f"everything ready again after {killed}")

    connection, bus = await _connected(house)
    account = await accounts.drain(connection, bus, 60)
    context = f"seed {SEED}, killed {killed}, repeated {repeated}"
    assert account.remainder == 0, f"{account} {context}"
    assert account.messages.pending == account.values.pending == 0, context

    # Each message once: what was sent again is a duplicate, and nothing else happened to anything.
    sent = _sent(transcript.deliveries)
    accepted = account.messages.accepted - before.messages.accepted
    assert accepted == len({delivery.control_id for delivery in transcript}), context
    assert account.messages.duplicate - before.messages.duplicate <= repeated, context
    assert account.messages.quarantined == before.messages.quarantined, context
    assert account.messages.rejected == account.messages.shed == 0, context
    values = Counter(value for listed in sent.values() for value in listed)
    assert account.values.accepted - before.values.accepted == values.total(), context

    # Each value once, as sent. (A bed that catches up may send twice in one millisecond: a revision of that moment.)
    stored: dict[tuple[str, int, int], list[float]] = defaultdict(list)
    patients: dict[str, int] = {}
    async with database.consistent_read(connection):
        sizes = await timeseries.sizes(connection)
        for number in {value.medical_record_number for value in values}:
            [patients[number]] = await clinical.find_by_identifier(connection, number)
            for sample in await timeseries.range_(connection, [patients[number]], None, started_us, 2**52):
                stored[number, sample.concept, sample.effective_at_us].append(sample.value)
    rows = sizes.block_samples + sizes.events - sizes_before.block_samples - sizes_before.events
    assert rows == values.total(), f"applied twice: {context}"
    expected: dict[tuple[str, int, int], set[float]] = defaultdict(set)
    for value in values:
        expected[value.medical_record_number, value.concept, _at(value.effective)].add(value.value)
    assert set(stored) == set(expected), context
    wrong = [key for key, found in stored.items() if len(found) != 1 or found[0] not in expected[key]]
    assert wrong == [], context

    # The twins show the newest of what was sent.
    newest: dict[tuple[str, int], int] = defaultdict(int)
    for number, concept, effective_at_us in expected:
        newest[number, concept] = max(newest[number, concept], effective_at_us)
    twins = await _settled_twins(bus, set(patients.values()))
    for (number, concept), effective_at_us in newest.items():
        key = concepts.by_number(concept).key
        shown = next(state for state in twins[patients[number]].signals if state.concept == key)
        assert shown.effective_at_us == effective_at_us, f"{key} {context}"
        assert shown.value in expected[number, concept, effective_at_us], f"{key} {context}"

    # And the books are whole: chains, items, and every sampled snapshot again, bit for bit.
    async with database.consistent_read(connection):
        assert await ledger_verification.verify(connection) == []
        assert await ledger_verification.reconcile(connection) == []
    recount = await accounts.recount(connection, bus, RawArchive(house.data_dir.root / "sealed"))
    assert recount.is_same, f"{recount} {context}"
    async with database.consistent_read(connection):
        ids = await snapshot_census.sample(connection, 60, SEED)
    forecaster = forecast.open_forecaster(house.settings())
    assert len(ids) >= 30
    keys = await open_ring(house.operator, secret(house.operator.database_url), purpose="test")
    differing = [one for one in ids if not (await replay.replay(connection, forecaster, one, keys)).is_identical]
    await keys.close()
    assert differing == [], context
    await connection.close()
    await bus.close()


async def _settled_twins(bus: Bus, wanted: set[int]) -> dict[int, TwinSnapshot]:
    """Return the twins; after a death of nats-server they are published again within the heartbeat."""
    deadline = time.monotonic() + 30
    while True:
        twins = {patient_id: from_bytes(body) for patient_id, body in (await bus.snapshots()).items()}
        if wanted <= set(twins):
            return twins
        assert time.monotonic() < deadline, f"twins of {wanted - set(twins)} were not published again"
        await asyncio.sleep(0.5)


@pytest.mark.faults
async def test_a_retransmission_is_a_duplicate_and_another_body_a_conflict(house):
    connection, bus = await _connected(house)
    before = await accounts.drain(connection, bus, 30)
    report = await run_load(
        ("127.0.0.1", house.ports["feed.adt"]), ("127.0.0.1", house.ports["feed.monitors"]),
        beds=1, seconds=1, seed=SEED + 99, patience=PATIENCE,
    )  # fmt: skip
    body = report.transcript.deliveries[-1].body
    changed = body.replace(b"|NM|", b"|NM|", 1).replace(b"||||||R|", b"||||||F|", 1)
    if changed == body:
        changed = body.rstrip(b"\r") + b"\rNTE|1||changed\r"
    async with MllpSender(
        "127.0.0.1", house.ports["feed.monitors"], feed="monitors", transcript=Transcript()
    ) as sender:
        await sender.wait_connected(5)
        for again in (body, changed):
            answer = await (await sender.submit(again))
            assert answer.is_accepted, "both are safe with us, whatever they are"
    after = await accounts.drain(connection, bus, 30)
    assert after.messages.duplicate - before.messages.duplicate == 1
    assert after.messages.quarantined - before.messages.quarantined == 1
    assert after.remainder == 0
    async with database.consistent_read(connection):
        newest = (await quarantine.find(connection, limit=1))[0]
    assert newest.reason == "control_id_conflict"
    await connection.close()
    await bus.close()
