"""One cycle's snapshots: whose are due, what they say, and the rows that remember them.

Here: runs, bodies worth keeping, the outbox, rows of risk, all in the cycle's transaction.
Not here: the cycle (twin.engine), what a snapshot says (twin.forecast), what models say (twin.risk), publishing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

from governance.privacy import KeyRing
from models.features import FeatureWindow
from stores import risk_scores, snapshots
from stores.database import Connection
from stores.snapshots import KeptBecause
from twin import stay_state
from twin.forecast import Forecaster
from twin.risk import RiskDesk, Round, Serving
from twin.state import MINUTE_US, Patient
from twin.voice import Voice
from vocabulary.clock import Clock
from vocabulary.records import partition_of
from vocabulary.snapshot import Publication, SnapshotKey, canonical_bytes, digest

FEW = 8
"""So many patients are scored in the loop itself: some 30 ms with reasons, where a thread costs more than it frees."""


class Cycle(NamedTuple):
    """What a cycle made of the engine's state, and who has news."""

    patients: Mapping[int, Patient]
    window: FeatureWindow
    positions: Mapping[int, int]  # by partition, as the cycle leaves them
    log_times: Mapping[int, int]
    touched: Collection[int]  # patients with news
    leaving: Collection[int]  # patients whose last snapshot this is
    moved: Collection[int]  # partitions whose position changed
    relocated: Collection[int]  # patients whose stay changed
    is_tick: bool

    def log_time_us(self, patient_id: int) -> int:
        """Return the log's clock of a patient."""
        return self.log_times[partition_of(patient_id)]


class SnapshotWriter:
    """Makes and writes the snapshots of one engine; thrown away with it."""

    def __init__(self, forecaster: Forecaster, clock: Clock, keys: KeyRing, serving: Serving) -> None:
        """Write what a forecaster says, under whichever model may speak."""
        self._forecaster = forecaster
        self._clock = clock
        self._keys = keys
        self._serving = serving
        self._risk = RiskDesk(forecaster.estimator)
        self._voice: Voice | None = None  # the champion's, in the snapshots of the last cycle
        self._kept_minutes: dict[int, int] = {}  # patient -> minute of the newest body kept
        self._published_outbox: list[int] = []
        self.snapshots = 0

    @property
    def scored(self) -> int:
        """Return how many estimates models were asked for."""
        return self._risk.scored

    def drop(self, patient_id: int) -> None:
        """Forget a patient."""
        self._risk.drop(patient_id)
        self._kept_minutes.pop(patient_id, None)

    async def _said(self, cycle: Cycle, patients: Sequence[Patient]) -> Round:
        """Ask the models; a whole ward in another thread, so that bus and serving record are heard meanwhile.

        Nobody changes patients or window until the cycle is over: it waits here.
        """
        asked = (self._serving, patients, cycle.log_time_us, cycle.positions)
        if len(patients) <= FEW:
            return self._risk.forecast(*asked)
        return await asyncio.to_thread(self._risk.forecast, *asked)

    async def write(self, connection: Connection, cycle: Cycle) -> list[Publication]:
        """Build the snapshots that have news or are due, and write runs, bodies, rows of risk and the outbox."""
        runs: dict[int, list[snapshots.RunEntry]] = {}
        outgoing: dict[int, list[Publication]] = {}
        bodies: list[snapshots.Body] = []
        due = self._due(cycle)
        said = await self._said(cycle, [patient for patient in due if patient.patient_id not in cycle.leaving])
        voice = said.voices.champion
        for patient in due:
            patient_id = patient.patient_id
            partition, log_time_us = partition_of(patient_id), cycle.log_time_us(patient_id)
            key = SnapshotKey(partition, cycle.positions[partition], patient_id)
            forecast = said.forecasts.get(patient_id)
            snapshot = self._forecaster.snapshot(
                patient,
                cycle.window,
                key,
                log_time_us,
                is_admitted=patient_id not in cycle.leaving,
                voice=voice,
                risks=() if forecast is None else (forecast,),
            )
            patient.next_due_us = self._forecaster.next_due_us(snapshot)
            body = canonical_bytes(snapshot)
            runs.setdefault(partition, []).append(snapshots.RunEntry(patient_id, log_time_us, digest(body)))
            outgoing.setdefault(partition, []).append(
                Publication(snapshot.snapshot_id, patient_id, snapshot.ward, body, patient.received_monotonic_ns)
            )
            patient.received_monotonic_ns = []
            why = self._why_kept(patient_id, log_time_us, is_movement=patient_id in cycle.relocated)
            if why is not None:
                bodies.append(snapshots.Body(partition, key.position, patient_id, log_time_us, why, body))
        await risk_scores.add(connection, said.rows)
        now_us = self._clock.now_us()
        await snapshots.put_runs(
            connection,
            [
                snapshots.Run(
                    partition, cycle.positions[partition], now_us, entries, voice.token, self._forecaster.rules_digest
                )
                for partition, entries in runs.items()
            ],
        )
        await snapshots.put_bodies(connection, bodies, self._keys)
        await snapshots.delete_outbox(connection, self._published_outbox)
        self._published_outbox = await snapshots.put_outboxes(
            connection,
            [(partition, cycle.positions[partition], rows) for partition, rows in outgoing.items()],
            self._keys,
        )
        publications = [publication for rows in outgoing.values() for publication in rows]
        self.snapshots += len(publications)
        return publications

    def _due(self, cycle: Cycle) -> list[Patient]:
        """Return the patients who have news or are due, in order; what they no longer need is forgotten."""
        if self._serving.voices.champion is not self._voice:
            self._voice = self._serving.voices.champion
            make_due(cycle.patients)  # another model, or none: nobody is to see the old word until the next heartbeat
        due = []
        for patient_id, patient in sorted(cycle.patients.items()):
            log_time_us = cycle.log_time_us(patient_id)
            if patient_id not in cycle.touched and not (cycle.is_tick and log_time_us >= patient.next_due_us):
                continue
            if partition_of(patient_id) not in cycle.moved:
                patient.next_due_us = 0  # what changed it lies in another partition: at the next tick
                continue
            patient.forget(log_time_us)  # also without a tick: days may be caught up with before the next
            stay_state.forget(patient, log_time_us)
            due.append(patient)
        return due

    def _why_kept(self, patient_id: int, log_time_us: int, *, is_movement: bool) -> KeptBecause | None:
        """Return why a body is kept, or None when its digest is enough: it can be made again."""
        minute = log_time_us // MINUTE_US
        last = self._kept_minutes.get(patient_id)
        if last is not None and minute <= last and not is_movement:
            return None
        self._kept_minutes[patient_id] = minute
        if is_movement:
            return "movement"
        return "first" if last is None else "minute"


def make_due(patients: Mapping[int, Patient]) -> None:
    """Make every patient's snapshot due at the next tick."""
    for patient in patients.values():
        patient.next_due_us = 0
