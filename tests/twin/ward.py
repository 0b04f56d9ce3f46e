"""A simulated house with a serving record: admitted patients who are measured, a committee, and a follower.

Here: saying what happened, folding it, what was published, what a batch computation makes of the same stays.
Not here: how a log is folded (simulation), who signs (committee), the model (small_model).
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np

from models import feature_table, stay_features
from models.stay_series import bins_of_columns
from stores import timeseries
from stores.database import Connection, transaction
from stores.model_files import ModelFiles
from twin import replay
from twin.serving import Memory, ServingFollower, load_model
from twin.stay_state import LAST_MINUTE
from vocabulary.clock import ManualClock
from vocabulary.snapshot import TwinSnapshot, from_bytes

SECOND = 1_000_000
MINUTE = 60 * SECOND
HOUR = 60 * MINUTE


class Ward:
    """One run of the live plane without sockets, with models."""

    def __init__(self, run: Any, hospital: Any, committee: Any, follower: ServingFollower, clock: ManualClock) -> None:
        self.run, self.say, self.committee, self.follower, self.clock = run, hospital, committee, follower, clock
        self.log = run.log
        self.files = ModelFiles(run.settings.models_dir)
        self.connection: Connection
        self.rng = random.Random(5)
        self.admitted_us: dict[str, int] = {}

    async def close(self) -> None:
        """Close everything."""
        await self.connection.close()
        await self.run.close()

    def admit(self, number: str, *, ago_us: int = 0, age: int = 70) -> None:
        """Admit somebody whose age is told at once."""
        at_us = self.admitted_us[number] = self.log.now_us - ago_us
        told = self.say.result("30525-0", f"{age}", "a", at_us=at_us)
        self.log.append("adt", [self.say.adt("A01", number, f"B{number}", at_us=at_us)])
        self.log.append("lab", [self.say.report(number, told, order=f"age-{number}")])

    def measure(self, number: str, *, late_us: int = 0, order: str = "mon") -> None:
        """Measure what a monitor and a laboratory tell."""
        at_us, rng = self.log.now_us - late_us, self.rng
        result = self.say.result
        vitals = [
            result("8867-4", f"{rng.uniform(60, 130):.1f}", "/min", at_us=at_us),
            result("9279-1", f"{rng.uniform(10, 30):.1f}", "/min", at_us=at_us),
            result("8480-6", f"{rng.uniform(80, 150):.0f}", "mm[Hg]", at_us=at_us),
        ]
        bodies = [self.say.report(number, *vitals, order=f"{order}-{number}", application="MON")]
        if rng.random() < 0.3:
            lactate = result("2524-7", f"{rng.uniform(0.5, 9):.1f}", "mmol/L", at_us=at_us - 7 * MINUTE)
            bodies.append(self.say.report(number, lactate, order=f"lab-{rng.randrange(10**6)}"))
        self.log.append("mixed", bodies)

    async def pass_time(self, minutes: float, *, step_s: float = 30.0, measured: tuple[str, ...] = ()) -> None:
        """Let the log's clock run, ticking and measuring, and fold each step."""
        for _ in range(round(minutes * 60 / step_s)):
            self.log.now_us += round(step_s * SECOND)
            for number in measured:
                if self.rng.random() < 0.5:
                    self.measure(number)
            self.log.tick()
            await self.settle()

    async def settle(self) -> None:
        """Fold everything said so far."""
        await self.run.normalize(10_000)
        await self.run.fold(10_000)
        while self.run.is_behind:
            await self.run.fold(10_000)

    async def follow(self) -> None:
        """Let the follower look at the record, as it does when a row is announced."""
        await self.follower.look(self.connection)

    def shown(self, patient_id: int = 1) -> TwinSnapshot:
        """The latest snapshot."""
        return from_bytes(self.run.last[patient_id])

    def all_shown(self) -> list[TwinSnapshot]:
        """Every snapshot that was published, in order."""
        return sorted(
            (from_bytes(body) for body in self.run.published.values()), key=lambda s: (s.as_of_us, s.position)
        )

    async def batch(self, digest: str, snapshot: TwinSnapshot, started_us: int, record_ids: tuple[int, ...]) -> Any:
        """What the model says of a snapshot's stay computed from single values, by nothing of the engine."""
        model = load_model(self.files, digest)
        through = snapshot.as_of_us // MINUTE - 1 - started_us // MINUTE
        assert through <= LAST_MINUTE
        async with transaction(self.connection) as connection:
            columns = await timeseries.range_(
                connection, record_ids, None, 0, snapshot.as_of_us * 2, known_at=snapshot.position
            )
        minute = np.array([s.effective_at_us // MINUTE - started_us // MINUTE for s in columns], np.int32)
        concept = np.array([s.concept for s in columns], np.int16)
        value = np.array([s.value for s in columns])
        kept = (minute >= 0) & (minute <= through)
        bins = bins_of_columns(concept[kept], np.zeros(kept.sum(), np.int32), minute[kept], value[kept], 1)
        at = np.array([through], np.int32)
        features = stay_features.compute(feature_table.MORTALITY, bins, np.zeros(1, np.int32), at)
        return model.score(features, at, with_reasons=True)[0]

    async def differing(self, describe: Callable[[bytes, TwinSnapshot], list[str]]) -> list[str]:
        """Ids of published snapshots that a replay makes otherwise, and how."""
        memory = Memory(self.files)
        found = []
        for snapshot_id, body in self.run.published.items():
            again = await replay.replay(self.connection, self.run.forecaster, snapshot_id, self.run.keys, memory)
            if not again.is_identical:
                found.append(f"{snapshot_id}: {describe(body, again.rebuilt)}")
        return found
