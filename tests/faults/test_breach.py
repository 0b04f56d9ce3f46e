"""A model in service goes wrong, four ways, in a whole running house: what happens, and how soon.

Everything is real: servers, five processes with their own roles and keys, messages over MLLP, signatures of two people,
XGBoost models of one split each, so that what they say follows from the heart rate alone. There is no MLflow and no
Dagster: neither is started, nor has a database (tests/twin/test_watch.py: the keeper does not import them either).

What must hold each time: the reaction that the cause asks for, an incident with its verdict, the engine serving under
the new row within five seconds of the verdict, and not one heartbeat missing on the way.
"""

from __future__ import annotations

import asyncio
import logging
import math
import os
import threading
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import Any

import msgspec
import numpy as np
import pytest

from governance import privacy
from governance.notary import register_key
from governance.serving_record import appender_of
from governance.statements import Slot
from hospital import messages as wire
from hospital.sender import MllpSender, Transcript
from models import feature_table
from models.risk import manifest
from models.risk.manifest import Calibration, Member, Reference
from orchestration import services
from orchestration.storage import connection as connected
from stores import incidents, models
from stores.database import Connection, transaction
from stores.incidents import Incident
from stores.model_files import ModelFiles
from stores.models import ModelVersion
from twin import forecast, process, replay
from twin.bus import Bus, open_bus
from twin.serving import Memory
from vocabulary.clock import ManualClock, ScaledClock, SystemClock
from vocabulary.settings import FeedSettings, Settings
from vocabulary.signing import SigningKey
from vocabulary.snapshot import TwinSnapshot, from_bytes

SPEED = 300.0
MINUTE_US = 60_000_000
HOUR_US = 60 * MINUTE_US
BOUND_S = 5.0
"""From a verdict to the engine serving what follows from it."""
SILENCE_S = 3.0
"""Real seconds without a snapshot of a patient who is there: the heartbeat is a thirtieth of a second at this speed, a
tick comes each fifth, and this machine is shared."""
LEVELS = (0.005, 0.05, 0.25, 0.5, 0.75, 0.95, 0.995)
GLUCOSE = (55.0, 78.0, 102.0, 125.0, 155.0, 230.0, 420.0)
SPLIT = "heart_rate_last_stay"

_log = logging.getLogger(__name__)


def booster_of(low: float, high: float) -> bytes:
    """Trees that say `low` below a heart rate of 100 and `high` above."""
    import xgboost

    names = feature_table.names(feature_table.MORTALITY)
    rng = np.random.default_rng(1)
    rows = np.full((400, len(names)), np.nan, np.float32)
    rates = np.where(np.arange(400) % 2, rng.uniform(105, 180, 400), rng.uniform(40, 95, 400))
    rows[:, names.index(SPLIT)] = rates
    target = np.where(rates > 100, math.log(high / (1 - high)), math.log(low / (1 - low)))
    parameters = {"max_depth": 1, "eta": 1.0, "lambda": 0.0, "objective": "reg:squarederror", "base_score": 0.0,
                  "nthread": 1}  # fmt: skip
    return bytes(xgboost.train(parameters, xgboost.DMatrix(rows, target.astype(np.float32)), 1).save_raw("ubj"))


class Stand:
    """A running house, seen by its operator; and the hospital that talks to it."""

    def __init__(
        self, settings: Settings, connection: Connection, bus: Bus, committee: Any, clock: ScaledClock, adt: MllpSender,
        lab: MllpSender, template: manifest.Manifest,
    ) -> None:  # fmt: skip
        self.settings, self.connection, self.bus, self.committee = settings, connection, bus, committee
        self.clock, self.adt, self.lab, self.template = clock, adt, lab, template
        self.delays: dict[str, float] = {}
        self.shown: list[tuple[float, TwinSnapshot]] = []  # of one patient, as they came over the bus
        self._count = 0
        self._versions = 0

    # -- the committee

    async def promote(self, low: float, high: float) -> tuple[int, str]:
        """Register a model that says `low` or `high` by the heart rate; two people let it speak."""
        files = ModelFiles(self.settings.models_dir)
        member = files.put(booster_of(low, high))
        self._versions += 1
        made = msgspec.structs.replace(
            self.template,
            members=(Member(kind="xgboost", digest=member, weight=1.0),),
            calibration=Calibration(
                intercept=0.0, slope=1.0, intercept_variance=0.0, slope_variance=0.0, covariance=0.0
            ),
            references=(Reference(concept="glucose", levels=LEVELS, values=GLUCOSE),),
            training=msgspec.structs.replace(self.template.training, seed=1000 + self._versions),
        )
        body = manifest.to_bytes(made)
        digest = files.put(body)
        async with transaction(self.connection) as own:
            version = await models.add_version(
                own,
                ModelVersion(
                    scope="mortality", model_digest=digest, manifest=body.decode(), author="https://login.example|author",
                    registered_at_us=SystemClock().now_us(), data_fingerprint="0" * 64, code_version="test",
                    lock_digest="0" * 16, protocol_digest="0" * 64, is_synthetic=True,
                ),
            )  # fmt: skip
        self.committee.clock = ManualClock(SystemClock().now_us())  # they sign one statement, of one moment
        row = await self.committee.promote(self.connection, digest, version.version, Slot.CHAMPION)
        await self.until(lambda: self._serves(row.serving_id), f"version {version.version} speaks")
        return version.version, digest

    # -- the hospital

    def _header(self, application: str) -> wire.Header:
        self._count += 1
        return wire.Header(application, "H", f"{application}{self._count:06d}", self.clock.now_us())

    def _person(self, number: int, sex: str, *, is_dead: bool = False) -> wire.Person:
        return wire.Person((wire.Identifier(f"{number}", "H"),), f"Family{number}", sex=sex, is_dead=is_dead)

    def _visit(self, number: int, **more: Any) -> wire.Visit:
        return wire.Visit(f"V{number}", wire.Bed("ICU", f"{number}", "1", "H"), **more)

    async def admit(self, numbers: Sequence[int], sex: str = "F") -> None:
        """Patients who came two hours ago."""
        at_us = self.clock.now_us() - 2 * HOUR_US
        for number in numbers:
            visit = self._visit(number, admitted_at_us=at_us)
            await self.adt.submit(wire.adt("A01", self._header("ADT"), self._person(number, sex), visit, at_us))
        assert await self.adt.drain(30)

    async def chart(self, numbers: Sequence[int], *, heart_rate: float, glucose: float | None = None) -> None:
        """What a nurse charts of each now; each value in the unit the model learned it in, or so it says."""
        at_us = self.clock.now_us()
        for number in numbers:
            results = [
                wire.Result("8867-4", "Heart rate", f"{heart_rate}", "/min", effective_at_us=at_us),
                wire.Result("30525-0", "Age", "60", "a", effective_at_us=at_us),
            ]
            if glucose is not None:
                spread = glucose * (0.7 + 0.6 * (number % 10) / 10)
                results.append(wire.Result("2345-7", "Glucose", f"{spread:.2f}", "mg/dL", effective_at_us=at_us))
            header = self._header("LAB")
            order = wire.Order(header.control_id, "X", "X", at_us)
            await self.lab.submit(wire.report(header, self._person(number, "F"), self._visit(number), order, results))
        assert await self.lab.drain(30)

    async def discharge(self, numbers: Sequence[int], deaths: int, sex: str = "F") -> None:
        """They leave, the first so many of them dead."""
        at_us = self.clock.now_us()
        for place, number in enumerate(numbers):
            is_dead = place < deaths
            visit = self._visit(number, discharged_at_us=at_us, disposition=wire.EXPIRED if is_dead else wire.HOME)
            body = wire.adt("A03", self._header("ADT"), self._person(number, sex, is_dead=is_dead), visit, at_us)
            await self.adt.submit(body)
        assert await self.adt.drain(30)

    # -- what is seen

    async def rows(self, statement: str, *values: object) -> list[tuple[Any, ...]]:
        async with transaction(self.connection) as own:
            return await (await own.execute(statement.encode(), values)).fetchall()

    async def scored(self, digest: str, count: int) -> bool:
        found = await self.rows(
            "select count(distinct encounter_id) from risk_score where model_digest = %s and probability is not null",
            digest,
        )
        return bool(found[0][0] >= count)

    async def incident(self, cause: str, place: int = 0) -> Incident | None:
        """The so-many-th incident of a cause."""
        async with transaction(self.connection) as own:
            found = (await incidents.find(own, cause=cause))[::-1]
        return found[place] if len(found) > place else None

    def newest(self) -> TwinSnapshot | None:
        return self.shown[-1][1] if self.shown else None

    async def _serves(self, serving_id: int) -> bool:
        newest = self.newest()
        return newest is not None and newest.provenance.serving == serving_id

    async def reacted(self, cause: str, reaction: str, place: int = 0) -> Incident:
        """Wait for an incident and for the engine to serve under its row; keep how long that took from the verdict."""
        await self.until(lambda: self.incident(cause, place), f"an incident: {cause}", 60)
        found = await self.incident(cause, place)
        assert found is not None
        assert found.reaction == reaction, found
        async with transaction(self.connection) as own:
            verdict = await models.verdict_of(own, found.verdict_digest)
        assert verdict is not None
        await self.until(lambda: self._serves(found.serving_id or 0), f"the engine follows: {cause}", 20)
        first = next(at for at, snapshot in self.shown if snapshot.provenance.serving == found.serving_id)
        self.delays[f"{cause} {reaction}"] = first - verdict.verdict.made_at_us / 1e6
        return found

    def logs(self) -> str:
        """The last that engine and keeper said of themselves."""
        folder = self.settings.data_dir / "logs"
        tails = {name: (folder / f"{name}.log").read_text().splitlines()[-8:] for name in ("engine", "keeper")}
        return "\n".join(f"{name}: {line}" for name, lines in tails.items() for line in lines)

    async def until(self, condition: Callable[[], Any], what: str, timeout_s: float = 40.0) -> None:
        deadline = time.monotonic() + timeout_s
        while True:
            found = condition()
            if asyncio.iscoroutine(found):
                found = await found
            if found:
                return
            assert time.monotonic() < deadline, f"not within {timeout_s:g} s: {what}\n{self.logs()}"
            await asyncio.sleep(0.05)


@asynccontextmanager
async def standing(
    house: services.House, committee: ModuleType, root: SigningKey, template: Any
) -> AsyncIterator[Stand]:
    settings = house.settings
    clock = ScaledClock(settings.clock_origin_us or 0, settings.clock_started_at_us or 0, settings.clock_speed)
    people = committee.Committee(root, settings, SystemClock())
    people.processes["operator"] = appender_of(settings, "operator")
    register_key(settings, "operator", people.processes["operator"].signer.verifying, SystemClock())
    bus = await open_bus(settings, "operator")
    transcript = Transcript()
    async with (
        connected(settings, "test") as connection,
        MllpSender(*house.feed_addresses["adt"], feed="adt", transcript=transcript, window=16) as adt,
        MllpSender(*house.feed_addresses["lab"], feed="lab", transcript=transcript, window=16) as lab,
    ):
        try:
            for sender in (adt, lab):
                await sender.wait_connected(20)
            yield Stand(settings, connection, bus, people, clock, adt, lab, template)
            assert transcript.refused() == []
        finally:
            await bus.close()


async def follow(stand: Stand, patient_id: int) -> None:
    """Keep every new snapshot of one patient, with when it was seen."""
    while True:
        body = (await stand.bus.snapshots()).get(patient_id)
        if body is not None:
            snapshot = from_bytes(body)
            newest = stand.newest()
            if newest is None or snapshot.snapshot_id != newest.snapshot_id:
                stand.shown.append((time.time(), snapshot))
        await asyncio.sleep(0.05)


@pytest.fixture
def house(server_folder: Path):
    now_us = time.time_ns() // 1000
    root = SigningKey.generate()
    settings = Settings(
        data_dir=server_folder / f"breach-{os.getpid()}",
        database_url=None,
        nats_url=None,
        mode="demo",  # the silent period may be waived there only
        signer_root=root.verifying.text(),
        clock_origin_us=now_us - 24 * HOUR_US,
        clock_started_at_us=now_us,
        clock_speed=SPEED,
        tick_interval_s=0.2,
        watch_interval_s=0.3,
        feeds=tuple(FeedSettings(name=name, expected_interval_s=3600.0) for name in ("adt", "monitors", "lab")),
    )
    with services.running(settings, "test", threading.Event()) as made:
        yield made, root


@pytest.mark.faults
@pytest.mark.slow
async def test_each_breach_has_its_consequence_within_seconds_and_no_snapshot_is_missed(
    house, committee, small_model
) -> None:
    running, root = house
    template = manifest.from_bytes(small_model.train(1).body)
    async with standing(running, committee, root, template) as stand:
        await stand.admit([1])
        await stand.chart([1], heart_rate=80)
        await stand.until(stand.bus.snapshots, "the first twin")
        following = asyncio.create_task(follow(stand, min(await stand.bus.snapshots())))
        try:
            await _all_breaches(stand)
        finally:
            await process.end([following])
        _log.info("from verdict to serving, s: %s", {cause: round(delay, 2) for cause, delay in stand.delays.items()})
        assert all(delay < BOUND_S for delay in stand.delays.values()), stand.delays

        # Not a heartbeat is missing: neither by our clock nor by the log's.
        assert len(stand.shown) > 50
        pauses = [after - before for (before, _), (after, _) in pairwise(stand.shown)]
        assert max(pauses) < SILENCE_S, f"{max(pauses):.1f} s of silence"
        log_pauses = [b.as_of_us - a.as_of_us for (_, a), (_, b) in pairwise(stand.shown)]
        assert min(log_pauses) >= 0

        # And what was shown can be made again, bit for bit, whoever spoke.
        await _replays(stand)
        # Neither registry nor orchestrator was ever here: their databases do not exist.
        databases = {name for (name,) in await stand.rows("select datname from pg_database")}
        assert not {"mlflow", "dagster"} & databases, databases


async def _all_breaches(stand: Stand) -> None:
    # People approve a first model; everything below goes back to it in the end.
    first, _ = await stand.promote(0.2, 0.2)

    # 1. Calibration: far more die than the second model said.
    _, digest = await stand.promote(0.05, 0.05)
    patients = range(100, 140)
    await stand.admit(patients)
    await stand.chart(patients, heart_rate=80)
    await stand.until(lambda: stand.scored(digest, 40), "everybody is scored")
    await stand.discharge(patients, deaths=20)
    incident = await stand.reacted("calibration_breach", "restore")
    assert incident.model_digest == digest
    assert "20 deaths" in incident.statement
    newest = stand.newest()
    assert newest is not None
    assert newest.risks[0].version == first
    assert newest.risks[0].probability == pytest.approx(0.2, abs=0.01)

    # 2. One subgroup: the women die, and the third model did not see it coming; of everybody it is not far wrong.
    _, digest = await stand.promote(0.1, 0.1)
    men, women = range(200, 300), range(300, 330)
    await stand.admit(men, "M")
    await stand.admit(women, "F")
    await stand.chart([*men, *women], heart_rate=80)
    await stand.until(lambda: stand.scored(digest, 130), "everybody is scored")
    await stand.discharge(men, deaths=2, sex="M")
    await stand.discharge(women, deaths=20, sex="F")
    incident = await stand.reacted("subgroup_breach", "restore")
    assert "sex=female" in incident.statement

    # 3. A flood: the fourth model cries with every heart beat; under the clamp it would go on.
    version, digest = await stand.promote(0.05, 0.6)
    patients = range(400, 416)
    await stand.admit(patients)
    storming = asyncio.create_task(_storm(stand, patients))
    try:
        await stand.reacted("alert_flood", "clamp")
        newest = stand.newest()
        assert newest is not None
        assert newest.risks[0].version == version
        assert not newest.risks[0].is_high
        await stand.reacted("alert_flood", "restore", place=1)
    finally:
        await process.end([storming])
    newest = stand.newest()
    assert newest is not None
    assert newest.risks[0].version == first

    # 4. The laboratory changes a unit and not its name: plausible, and wrong by a factor of 18.
    patients = range(500, 520)
    await stand.admit(patients)
    await stand.chart([*patients, *range(400, 416)], heart_rate=80, glucose=130 / 18.0156)
    incident = await stand.reacted("interface_fault", "abstain")
    assert "glucose" in incident.statement
    newest = stand.newest()
    assert newest is not None
    assert newest.risks[0].probability is None
    assert any("interface fault" in notice for notice in newest.notices)
    assert any(score.name == "NEWS2" for score in newest.scores)

    causes = await stand.rows("select cause, reaction from incident order by incident_id")
    assert causes == [
        ("calibration_breach", "restore"), ("subgroup_breach", "restore"), ("alert_flood", "clamp"),
        ("alert_flood", "restore"), ("interface_fault", "abstain"),
    ]  # fmt: skip
    audited = await stand.rows("select count(*) from audit_event where writer = 'keeper' and action = 'roll_back'")
    assert audited == [(5,)]


async def _storm(stand: Stand, patients: Sequence[int]) -> None:
    """Heart rates that rise and fall with each charting, a quarter of an hour apart and more."""
    rates = (80, 130)
    turn = 0
    while True:
        await stand.chart(patients, heart_rate=rates[turn % 2], glucose=130)
        turn += 1
        await asyncio.sleep(20 * 60 / SPEED)


async def _replays(stand: Stand) -> None:
    forecaster = forecast.open_forecaster(stand.settings)
    memory = Memory(ModelFiles(stand.settings.models_dir))
    keys = await privacy.open_ring(stand.settings, stand.settings.database_url.get_secret_value(), purpose="test")  # type: ignore[union-attr]
    try:
        under: dict[int, list[str]] = {}
        for _, snapshot in stand.shown:
            under.setdefault(snapshot.provenance.serving, []).append(snapshot.snapshot_id)
        assert len(under) >= 8, "every promotion and reaction was seen"
        for ids in under.values():
            for snapshot_id in (ids[0], ids[-1]):
                made = await replay.replay(stand.connection, forecaster, snapshot_id, keys, memory)
                assert made.is_identical, (snapshot_id, made.differences)
    finally:
        await keys.close()
