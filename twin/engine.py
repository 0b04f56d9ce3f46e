"""Events into state, snapshots and rows: one PostgreSQL transaction a cycle for all the partitions it owns.

A cycle takes what has arrived, folds it, and in one transaction moves every touched partition's position (fenced),
writes the values, minutes, ledger row, snapshots and outbox. Only then are snapshots published. Memory that was changed
by a transaction that did not happen is thrown away whole and read back.

Here: owning partitions, the cycle, what is left to publish.
Not here: what arrives and when a cycle begins (twin.engine_loop), folding (twin.state), what a snapshot says
(twin.forecast), reading state back (twin.rebuilding).
"""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Sequence

import msgspec

from governance.ledger_writers import ledger_writer
from governance.privacy import KeyRing
from models.features import FeatureWindow
from stores import clinical, minutes, partition_log, positions, snapshot_rules, snapshots, timeseries
from stores.database import Connection, connect, consistent_read, transaction
from stores.ledger import Entry, LedgerWriter
from stores.timeseries import Sample
from twin import rebuilding, stay_state
from twin.bus import Bus
from twin.forecast import Forecaster
from twin.risk import Serving, Silence
from twin.settling import Settler
from twin.snapshot_writer import Cycle, SnapshotWriter, make_due
from twin.state import MINUTE_US, Patient, Unresolved
from vocabulary.clock import Clock
from vocabulary.errors import BrokenInvariantError
from vocabulary.records import Moved, Movement, Observed, PartitionBatch, Tick, partition_of
from vocabulary.settings import Settings
from vocabulary.snapshot import Publication

_ENCODER = msgspec.msgpack.Encoder()
_log = logging.getLogger("vigil.engine")

_CATCH_UP_BATCHES = 1000
"""As many batches of a partition are folded in one transaction, after a long absence."""


class Engine:
    """The state of the patients of some partitions. Thrown away whole when a transaction fails."""

    def __init__(
        self,
        settings: Settings,
        connection: Connection,
        forecaster: Forecaster,
        clock: Clock,
        ledger: LedgerWriter,
        taken: dict[int, positions.Taken],
        keys: KeyRing,
        serving: Serving,
    ) -> None:
        """Use `open_engine`."""
        self._settings = settings
        self._writer = SnapshotWriter(forecaster, clock, keys, serving)
        self._keys = keys
        self._connection = connection
        self._forecaster = forecaster
        self._ledger = ledger
        self._epochs = {partition: row.epoch for partition, row in taken.items()}
        self.positions = {partition: row.position for partition, row in taken.items()}
        self._log_times = {partition: row.log_time_us for partition, row in taken.items()}
        self.patients: dict[int, Patient] = {}
        self.window = FeatureWindow(minutes.minute_concepts())
        self._settler = Settler(self.window, forecaster.series_concepts)
        self.values = 0
        self.cycles = 0

    @property
    def log_time_us(self) -> int:
        """Return the newest log time of any owned partition."""
        return max(self._log_times.values(), default=0)

    @property
    def snapshots(self) -> int:
        """Return how many snapshots were made."""
        return self._writer.snapshots

    @property
    def scored(self) -> int:
        """Return how many estimates models were asked for."""
        return self._writer.scored

    async def load(self) -> None:
        """Read back the patients of the owned partitions as known at their positions."""
        async with transaction(self._connection) as connection:
            candidates = set(await clinical.present(connection))
            # All at once, and not one by one in the first cycles, which should be quick.
            await self._keys.ensure([0, *(p for p in candidates if partition_of(p) in self.positions)])
            # Who has left since, or was merged: for us they are still there.
            candidates.update(await clinical.changed_since(connection, min(self.positions.values())))
            for patient_id in sorted(candidates):
                partition = partition_of(patient_id)
                if partition in self.positions and not await self._read_patient(
                    connection, patient_id, self.positions[partition]
                ):
                    self._drop(patient_id)  # admitted only beyond our position: its event is still to come

    async def _read_patient(self, connection: Connection, patient_id: int, known_at: int) -> bool:
        """Read one patient back, wherever it lies now; return whether it is admitted."""
        log_time_us = self._log_times[partition_of(patient_id)]
        located = await rebuilding.locate(connection, patient_id, known_at)
        patient = Patient(patient_id, located.encounter_id, located.place, located.record_ids, located.started_at_us)
        await rebuilding.read_signals(
            connection,
            patient,
            until_us=self._forecaster.until_us(log_time_us),
            log_time_us=log_time_us,
            known_at=known_at,
        )
        if located.is_admitted:
            await rebuilding.read_window(connection, self.window, patient, log_time_us)
        else:
            # The last snapshot of one who leaves. A retired record's minutes may hold values of records merged into it.
            self.window.clear(patient_id)
            await rebuilding.compute_window(connection, self.window, patient, log_time_us, known_at)
        before = self.patients.get(patient_id)
        if before is not None:
            patient.received_monotonic_ns = before.received_monotonic_ns
        if located.is_admitted and before is not None and stay_state.is_same_stay(patient, before):
            patient.series = before.series  # what changed it since is settled at the end of this cycle
        elif located.is_admitted:  # nobody is told the risk of one who left
            await stay_state.read(connection, patient, self._forecaster.series_concepts, log_time_us, known_at)
        self.patients[patient_id] = patient
        return located.is_admitted

    def _drop(self, patient_id: int) -> None:
        self.patients.pop(patient_id, None)
        self.window.clear(patient_id)
        self._writer.drop(patient_id)

    async def catch_up(self, partitions: Sequence[int]) -> list[PartitionBatch]:
        """Return what the partition log holds beyond the positions of some partitions, up to one place in the log."""
        found: list[PartitionBatch] = []
        horizon: int | None = None
        # One moment for all: a merge is in two partitions, and both must be folded in one cycle.
        async with consistent_read(self._connection) as connection:
            for partition in partitions:
                batches = await partition_log.since(
                    connection, partition, self.positions[partition], limit=_CATCH_UP_BATCHES
                )
                found.extend(batches)
                if len(batches) == _CATCH_UP_BATCHES:
                    horizon = min(batches[-1].position, horizon or batches[-1].position)
        return found if horizon is None else [batch for batch in found if batch.position <= horizon]

    async def cycle(self, batches: Sequence[PartitionBatch], tick: Tick | None) -> list[Publication]:
        """Fold batches (in order within a partition) and a tick, commit, and return what to publish.

        Raises:
            FencedOutError: another engine owns one of the partitions.
            UnavailableError: PostgreSQL is away; throw this engine away and open another.
        """
        moved: dict[int, int] = {}
        samples: list[Sample] = []
        touched: set[int] = set()
        unresolved = Unresolved()
        expected = dict(self.positions)
        messages: Counter[str] = Counter()  # by feed
        for batch in batches:
            if batch.position > self.positions[batch.partition]:
                self._fold(batch, samples, touched, unresolved)
                messages.update(partition_log.messages_by_feed(batch))
                moved[batch.partition] = batch.position
        if tick is not None:
            for partition, position in self.positions.items():
                if tick.position > position:
                    self.positions[partition] = moved[partition] = tick.position
                self._log_times[partition] = max(self._log_times[partition], tick.log_time_us)
        if not moved:
            return []
        moves = [
            positions.Move(
                positions.partition_reader(partition),
                self._epochs[partition],
                expected[partition],
                position,
                self._log_times[partition],
            )
            for partition, position in sorted(moved.items())
        ]
        try:
            async with transaction(self._connection) as connection:
                await positions.advance(connection, moves)
                applied = await self._write_samples(connection, samples)
                if applied != len(samples):
                    raise BrokenInvariantError(f"{len(samples)} values to store, {applied} stored")
                leaving = await self._resolve(connection, unresolved)
                await self._settler.settle(
                    connection, self.patients, unresolved, leaving, self.positions, self._log_times
                )
                publications = await self._writer.write(
                    connection,
                    Cycle(
                        self.patients,
                        self.window,
                        self.positions,
                        self._log_times,
                        touched=touched,
                        leaving=leaving,
                        moved=moved,
                        relocated=unresolved.patients,
                        is_tick=tick is not None,
                    ),
                )
                await self._ledger.append(
                    connection,
                    _applied(messages, samples, self.log_time_us, min(expected[p] for p in moved), max(moved.values())),
                )
        except BaseException:
            self._ledger.rolled_back()
            raise
        self._ledger.committed()
        for patient_id in leaving:
            self._drop(patient_id)
        self.values += applied
        self.cycles += 1
        return publications

    def _fold(self, batch: PartitionBatch, samples: list[Sample], touched: set[int], unresolved: Unresolved) -> None:
        """Bring one partition from its position to the batch's."""
        partition = batch.partition
        if batch.previous > self.positions[partition]:
            raise BrokenInvariantError(f"partition {partition}: a batch is missing before {batch.position}")
        self.positions[partition] = batch.position
        self._log_times[partition] = max(self._log_times[partition], batch.log_time_us)
        for event in batch.events:
            if isinstance(event, Observed):
                self._observe(event, samples, touched, unresolved)
            elif isinstance(event, Moved):
                self._move(event, touched, unresolved)
            else:
                unresolved.patients.update((event.survivor_id, event.retired_id))
                unresolved.survivors.add(event.survivor_id)
                touched.update((event.survivor_id, event.retired_id))

    def _observe(self, event: Observed, samples: list[Sample], touched: set[int], unresolved: Unresolved) -> None:
        samples.extend(
            Sample(
                patient_id=event.patient_id,
                concept=observation.concept,
                value=observation.value,
                text=observation.text,
                effective_at_us=observation.effective_at_us,
                received_at_us=event.received_at_us,
                status=int(observation.status),
                source_key=observation.source_key,
                device=observation.device,
                feed=event.feed,
                position=event.raw.position,
                raw_index=event.raw.index,
                value_index=observation.value_index,
            )
            for observation in event.observations
        )
        patient = self.patients.get(event.patient_id)
        if patient is None:
            # Not in a bed of ours (any more): stored, but there is no twin to update and nobody closes its minutes.
            unresolved.minutes.update(
                (event.patient_id, observation.effective_at_us // MINUTE_US)
                for observation in event.observations
                if observation.concept in self.window.concept_numbers
            )
            return
        patient.observe(event, self._log_times[partition_of(event.patient_id)], unresolved)
        self._note_latency(patient, event.received_monotonic_ns)
        touched.add(event.patient_id)

    def _note_latency(self, patient: Patient, received_monotonic_ns: int) -> None:
        if received_monotonic_ns:  # 0: a message that was held back and released later
            patient.received_monotonic_ns.append(received_monotonic_ns)

    def _move(self, event: Moved, touched: set[int], unresolved: Unresolved) -> None:
        patient_id = event.patient_id
        # What the directory made of it (late, cancelled, corrected movements) is in the database: it is read there.
        unresolved.patients.add(patient_id)
        if event.movement is not Movement.UPDATE or patient_id in self.patients:
            touched.add(patient_id)
            patient = self.patients.setdefault(patient_id, Patient(patient_id, event.encounter_id, event.place))
            self._note_latency(patient, event.received_monotonic_ns)

    async def _write_samples(self, connection: Connection, samples: list[Sample]) -> int:
        if not samples:
            return 0
        # Each partition's own position: the rest of a commit may come in the next cycle, for the same hours.
        revisions = {sample.patient_id: self.positions[partition_of(sample.patient_id)] for sample in samples}
        return await timeseries.write(connection, samples, revisions, self.log_time_us)

    async def _resolve(self, connection: Connection, unresolved: Unresolved) -> set[int]:
        """Read back what the fold could not know, as of the positions just written; return who is no longer here."""
        leaving: set[int] = set()
        for patient_id in sorted(unresolved.patients):
            partition = partition_of(patient_id)
            if partition not in self.positions:
                continue  # the other half of a merge, owned by another engine
            before = self.patients.get(patient_id)
            if before is not None:
                unresolved.minutes.update((patient_id, minute) for minute in before.touched_minutes())
            if not await self._read_patient(connection, patient_id, self.positions[partition]):
                leaving.add(patient_id)
        for patient_id, concept in sorted(unresolved.concepts):
            patient = self.patients.get(patient_id)
            if patient is None or patient_id in unresolved.patients:
                continue
            partition = partition_of(patient_id)
            log_time_us = self._log_times[partition]
            await rebuilding.read_latest(
                connection,
                patient,
                concept,
                until_us=self._forecaster.until_us(log_time_us),
                log_time_us=log_time_us,
                known_at=self.positions[partition],
            )
        return leaving

    async def publish_left_over(self, bus: Bus) -> int:
        """Publish what a predecessor committed but may not have published; each has its id, so twice is harmless."""
        async with transaction(self._connection) as connection:
            waiting = await snapshots.take_outbox(connection, 10_000, self._keys, sorted(self.positions))
        for outgoing in waiting:
            await bus.publish_snapshots([(p, _ENCODER.encode(p)) for p in outgoing.publications])
        async with transaction(self._connection) as connection:
            await snapshots.delete_outbox(connection, [outgoing.outbox_id for outgoing in waiting])
        return len(waiting)

    def publish_all_soon(self) -> None:
        """Make every patient's snapshot due at the next tick: the bus has forgotten them."""
        make_due(self.patients)

    async def close(self) -> None:
        """Close the connection."""
        await self._connection.close()


def _applied(
    messages: Counter[str], samples: Sequence[Sample], at_us: int, position_from: int, position_to: int
) -> list[Entry]:
    """Return the ledger's rows of what a cycle applied, one a feed."""
    values = Counter(sample.feed for sample in samples)
    return [
        Entry(
            at_us=at_us,
            kind="applied",
            feed=feed,
            position_from=position_from,
            position_to=position_to,
            messages_accepted=messages[feed],
            values_accepted=values[feed],
        )
        for feed in sorted(messages | values)
    ]


async def open_engine(
    settings: Settings,
    url: str,
    clock: Clock,
    forecaster: Forecaster,
    partitions: Sequence[int],
    keys: KeyRing,
    serving: Serving | None = None,
) -> Engine:
    """Take partitions over and read their patients back. The ring stays the caller's to close.

    Args:
        settings: of the process.
        url: of the database.
        clock: when snapshots are published.
        forecaster: what they say.
        partitions: which.
        keys: seal what is written.
        serving: which model may speak; None: none.

    Raises:
        UnavailableError: PostgreSQL does not answer.
    """
    connection = await connect(url, application_name="vigil engine")
    try:
        async with transaction(connection):
            readers = {positions.partition_reader(partition): partition for partition in partitions}
            owner = f"{os.uname().nodename}:{os.getpid()}"
            taken = await positions.take_over(connection, list(readers), owner)
            # One chain an engine: two engines with different partitions never write the same one.
            ledger = ledger_writer(settings, f"engine-{min(partitions):02d}")
            await ledger.open(connection)
            await snapshot_rules.put(connection, forecaster.rules)
        engine = Engine(
            settings,
            connection,
            forecaster,
            clock,
            ledger,
            {readers[name]: row for name, row in taken.items()},
            keys,
            serving or Silence(),
        )
        await engine.load()
        return engine
    except BaseException:
        await connection.close()
        raise
