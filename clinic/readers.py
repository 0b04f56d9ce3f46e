"""The questions of the pages, answered from the stores.

Here: a few connections kept open, and each question as one consistent read.
Not here: SQL (stores), what pages do with the answers, the live snapshots (twin.bus).
"""

from __future__ import annotations

import asyncio
import math
from collections import OrderedDict
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import asynccontextmanager, suppress

import numpy as np

from clinic.bed_view import score_point_of
from clinic.charts import MINUTE_US
from clinic.questions import (
    FeedSummary,
    House,
    KeptSnapshot,
    Measured,
    Minute,
    Person,
    RiskPoint,
    ScorePoint,
    Stay,
)
from governance.serving_record import read_rows
from governance.statements import ServingRow
from stores import clinical, feeds, quarantine, risk_scores, snapshot_history, snapshots, timeseries
from stores.database import Connection, connect, consistent_read, transaction
from stores.envelope import Keys
from vocabulary.concepts import by_key
from vocabulary.errors import UnavailableError
from vocabulary.records import ObservationStatus, Place, partition_of
from vocabulary.snapshot import SnapshotKey, from_bytes

_CONNECTIONS = 3
"""Pages ask little: a trend takes milliseconds. A slow question must not hold up the others."""

_SHOWN_REMEMBERED = 1024
_HISTORY_POINTS = 240  # most points of a score's past: more than that no chart shows
_SHORTEST_STEP_US = 2 * MINUTE_US

# Beside what vitals_minute keeps: signals with a trend of their own, whose minutes are made when asked for.
_CURVES = (
    "arterial_systolic_blood_pressure",
    "arterial_diastolic_blood_pressure",
    "arterial_mean_blood_pressure",
    "core_temperature",
)

_SYNTHETIC = "SYNTHETIC"  # in an identifier's authority: the generator's own mark


class StoreReaders:
    """Answers clinic.questions.Readers from PostgreSQL; connects when first asked, and again after a loss."""

    def __init__(self, url: str, keys: Keys) -> None:
        """Ask the database at `url`; nothing is opened yet.

        Args:
            url: postgresql://…
            keys: unseal and seal snapshots' bodies (governance.privacy.open_ring); the caller's to close.
        """
        self._url = url
        self._keys = keys
        self._idle: list[Connection] = []
        self._room = asyncio.Semaphore(_CONNECTIONS)
        self._shown: OrderedDict[SnapshotKey, None] = OrderedDict()

    async def close(self) -> None:
        """Close every connection."""
        while self._idle:
            with suppress(UnavailableError):
                await self._idle.pop().close()

    @asynccontextmanager
    async def _connection(self) -> AsyncIterator[Connection]:
        async with self._room:
            connection = self._idle.pop() if self._idle else await connect(self._url, application_name="vigil clinic")
            is_sound = False
            try:
                yield connection
                is_sound = True
            except UnavailableError:
                # The others are of the same lost server: none of them is worth a try.
                stale, self._idle = self._idle, []
                for idle in stale:
                    await idle.close()
                raise
            finally:
                if is_sound and not connection.closed:
                    self._idle.append(connection)
                else:
                    await connection.close()

    @asynccontextmanager
    async def _reading(self) -> AsyncIterator[Connection]:
        async with self._connection() as connection, consistent_read(connection):
            yield connection

    async def people(self, patient_ids: Collection[int]) -> dict[int, Person]:
        """Return who these patients are; unknown ids are absent."""
        ids = list(patient_ids)
        if not ids:
            return {}
        async with self._reading() as connection:
            rows = await clinical.patients(connection, ids)
            numbers = await clinical.identifiers(connection, ids)
        synthetic = {number.patient_id for number in numbers if _SYNTHETIC in number.authority.upper()}
        return {
            row.patient_id: Person(
                row.patient_id, row.family_name, row.given_name, row.birth_date, row.sex, row.patient_id in synthetic
            )
            for row in rows
        }

    async def stays(self) -> list[Stay]:
        """Return every open stay."""
        async with self._reading() as connection:
            return [
                Stay(
                    stay.patient_id, stay.ward, Place(stay.ward, stay.room, stay.bed).bed_label, stay.started_at_us or 0
                )
                for stay in await clinical.open_stays(connection)
            ]

    async def survivor(self, patient_id: int) -> int | None:
        """Return the id a patient is kept under; None when nobody has this number."""
        async with self._reading() as connection:
            # Both are asked whatever the first says: who is not here must not answer sooner than who may not be seen.
            known = await clinical.patients(connection, [patient_id])
            survivor = await clinical.survivor_of(connection, patient_id)
            return survivor if known else None

    async def find_by_identifier(self, authority: str | None, value: str) -> list[int]:
        """Return the patients a hospital's identifier leads to."""
        async with self._reading() as connection:
            return await clinical.find_by_identifier(connection, value, authority)

    async def minutes(self, patient_id: int, from_us: int, to_us: int) -> list[Minute]:
        """Return minute medians in time order."""
        async with self._reading() as connection:
            ids = await clinical.merged_ids(connection, patient_id)
            rows = await timeseries.minutes(connection, ids, from_us, to_us)
            numbers = {by_key(key).number: key for key in _CURVES}
            curves = await timeseries.series(connection, ids, list(numbers), from_us, to_us)
        medians: dict[int, dict[str, float]] = {
            row.minute_us: {
                key: value
                for key, value in zip(timeseries.MINUTE_COLUMNS, row.medians, strict=True)
                if value is not None
            }
            for row in rows
        }
        for number, points in curves.items():
            for minute_us, value in _minute_medians(points).items():
                medians.setdefault(minute_us, {})[numbers[number]] = value
        return [Minute(minute_us, medians[minute_us]) for minute_us in sorted(medians)]

    async def observations(
        self, patient_id: int, concepts: Sequence[int], from_us: int, to_us: int, *, known_at: int | None = None
    ) -> list[Measured]:
        """Return the current revision of each measurement, as known at a log position."""
        async with self._reading() as connection:
            ids = await clinical.merged_ids(connection, patient_id, known_at=known_at)
            samples = await timeseries.range_(connection, ids, concepts, from_us, to_us, known_at=known_at)
        return [_measured(sample, patient_id) for sample in samples]

    async def revisions(self, patient_id: int, concept: int, effective_at_us: int) -> list[Measured]:
        """Return every revision of the measurements of one concept at one time."""
        async with self._reading() as connection:
            ids = await clinical.merged_ids(connection, patient_id)
            samples = await timeseries.revisions(connection, ids, concept, effective_at_us)
        return [_measured(sample, patient_id) for sample in samples]

    async def snapshot(self, key: SnapshotKey) -> KeptSnapshot | None:
        """Return a published snapshot; None when it was never published."""
        async with self._reading() as connection:
            kept = await snapshots.find(connection, key, self._keys)
        return None if kept is None else KeptSnapshot(kept.as_of_us, kept.digest, kept.body)

    async def latest_snapshot(self, patient_id: int) -> bytes | None:
        """Return the canonical bytes of the last snapshot whose body was kept."""
        async with self._reading() as connection:
            kept = await snapshots.latest_body(connection, patient_id, self._keys)
        return kept.body if kept else None

    async def score_history(
        self, patient_ids: Collection[int], from_us: int, to_us: int
    ) -> dict[int, list[ScorePoint]]:
        """Return NEWS2 over time from kept snapshots, thinned to what a chart can show."""
        step_us = max(_SHORTEST_STEP_US, (to_us - from_us) // _HISTORY_POINTS)
        found: dict[int, list[ScorePoint]] = {}
        for patient_id in patient_ids:
            # One patient at a time: decoding a whole ward at once would hold up every stream.
            async with self._reading() as connection:
                rows = await snapshot_history.scores_between(
                    connection, [patient_id], from_us, to_us, step_us, self._keys
                )
            found[patient_id] = [score_point_of(row.as_of_us, row.scores) for row in rows]
        return found

    async def risk_history(self, patient_id: int, encounter_id: int) -> list[RiskPoint]:
        """Return what the models in service said over one stay: of each minute what was said last."""
        async with self._reading() as connection:
            rows = await risk_scores.of_stay(connection, encounter_id)
            ids = await clinical.merged_ids(connection, patient_id)
        last = {(row.through_minute, row.model_digest): row for row in rows if row.patient_id in ids}
        ordered = sorted(last.values(), key=lambda row: (row.through_minute, row.position))
        return [
            RiskPoint(row.at_us, row.through_minute, row.probability, row.low, row.high, row.is_high, row.model_digest)
            for row in ordered
        ]

    async def serving_row(self, serving_id: int) -> ServingRow | None:
        """Return the row of the record that says which model serves."""
        async with self._reading() as connection:
            return next((row for row in await read_rows(connection) if row.serving_id == serving_id), None)

    async def keep_shown(self, body: bytes) -> None:
        """Keep a snapshot's body because a person or an EHR was shown it; again is no work."""
        snapshot = from_bytes(body)
        patient_id = snapshot.patient_id
        key = SnapshotKey(partition_of(patient_id), snapshot.position, patient_id)
        if key in self._shown:
            return
        row = snapshots.Body(key.partition, key.position, patient_id, snapshot.as_of_us, "shown", body)
        async with self._connection() as connection, transaction(connection):
            await snapshots.put_bodies(connection, [row], self._keys)
        self._shown[key] = None
        if len(self._shown) > _SHOWN_REMEMBERED:
            self._shown.popitem(last=False)

    async def house(self) -> House:
        """Return the feeds and what is held back."""
        async with self._reading() as connection:
            rows = await feeds.read(connection)
            counts = await quarantine.counts(connection)
        held: dict[str, int] = {}
        for count in counts:
            if count.state == "open":
                held[count.reason.value] = held.get(count.reason.value, 0) + count.items
        summaries = tuple(
            FeedSummary(
                row.feed, row.source, row.last_received_at_us, row.expected_interval_s, row.clock_skew_s,
                row.messages, row.values, row.not_accepted,
            )
            for row in rows
        )  # fmt: skip
        return House(summaries, held)

    async def check(self) -> None:
        """Ask the database for a sign of life."""
        async with self._reading():
            return


def _measured(sample: timeseries.Sample, patient_id: int) -> Measured:
    """Return a kept value under its survivor's id."""
    is_number = not math.isnan(sample.value)
    return Measured(
        patient_id=patient_id,
        concept=sample.concept,
        value=sample.value if is_number else None,
        text=sample.text,
        effective_at_us=sample.effective_at_us,
        received_at_us=sample.received_at_us,
        status=ObservationStatus(sample.status),
        source_key=sample.source_key,
        device=sample.device,
        feed=sample.feed,
        position=sample.position,
        raw_index=sample.raw_index,
        value_index=sample.value_index,
    )


def _minute_medians(points: timeseries.Points) -> dict[int, float]:
    """Return the median of each minute that has points, by the minute's start."""
    if not len(points.effective_at_us):
        return {}
    starts = points.effective_at_us // MINUTE_US * MINUTE_US
    edges = np.flatnonzero(np.diff(starts)) + 1
    groups = np.split(points.value, edges)
    firsts = starts[np.concatenate(([0], edges))]
    return {int(start): float(np.median(values)) for start, values in zip(firsts, groups, strict=True)}
