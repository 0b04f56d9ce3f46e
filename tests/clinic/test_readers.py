"""The pages' questions, answered from a real PostgreSQL."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import psycopg
import pytest

from clinic.readers import StoreReaders
from governance.master_key import ensure_master
from governance.privacy import open_ring
from stores import clinical, feeds, quarantine, risk_scores, snapshots, timeseries
from stores.database import connect, migrate, transaction
from vocabulary.concepts import by_key
from vocabulary.errors import UnavailableError
from vocabulary.records import Outcome, Place, Reason, partition_of
from vocabulary.settings import Settings
from vocabulary.snapshot import SnapshotKey, canonical_bytes, digest

MINUTE_US = 60_000_000
POSITION = 1 << 40


def _sample(key: str, value: float, at_us: int, *, patient_id: int = 7, position: int = POSITION, status: int = 0):
    return timeseries.Sample(
        patient_id=patient_id, concept=by_key(key).number, value=value, text="", effective_at_us=at_us,
        received_at_us=at_us + 5, status=status, source_key=3, device="d", feed="monitors", position=position,
        raw_index=0, value_index=0,
    )  # fmt: skip


@pytest.fixture(scope="module")
def keys_settings(tmp_path_factory) -> Settings:
    """Where the master key of the filled database is."""
    settings = Settings(data_dir=tmp_path_factory.mktemp("keys"), site="test")
    ensure_master(settings)
    return settings


@asynccontextmanager
async def opened_readers(url: str, settings: Settings) -> AsyncIterator[StoreReaders]:
    ring = await open_ring(settings, url)
    readers = StoreReaders(url, ring)
    yield readers
    await readers.close()
    await ring.close()


@pytest.fixture(scope="module")
def database(postgres_server, make_wards, keys_settings) -> Iterator[str]:
    """One filled database for every test that only reads."""
    name = f"t_{uuid.uuid4().hex[:12]}"
    with psycopg.connect(postgres_server.url(), autocommit=True) as connection:
        connection.execute(f"create database {name}")
        asyncio.run(_fill(postgres_server.url(name), make_wards(), keys_settings))
        yield postgres_server.url(name)
        connection.execute(f"drop database if exists {name} with (force)")


@pytest.fixture
def own_database(postgres_server, database: str) -> Iterator[str]:
    """A copy for a test that writes."""
    name = f"t_{uuid.uuid4().hex[:12]}"
    with psycopg.connect(postgres_server.url(), autocommit=True) as connection:
        connection.execute(f"create database {name} template {database.rsplit('/', 1)[1].partition('?')[0]}")
        yield postgres_server.url(name)
        connection.execute(f"drop database if exists {name} with (force)")


async def _fill(database_url: str, wards, settings: Settings) -> None:
    """Write two records of one person, a stay, values, snapshots and something held back."""
    await migrate(database_url)
    keys = await open_ring(settings, database_url)
    connection = await connect(database_url, application_name="test")
    now_us = wards.now_us
    async with transaction(connection):
        await clinical.write(
            connection,
            clinical.Changes(
                patients=[
                    clinical.PatientRow(7, None, "Hansen", "Ingrid", "1954-06-02", "female", 1, 1),
                    clinical.PatientRow(5, 7, "Doe", "John", "", "unknown", 1, 2),
                    clinical.PatientRow(8, None, "Real", "Person", "1990", "male", 1, 1),
                ],
                identifiers=[
                    clinical.IdentifierRow("VIGIL-SYNTHETIC", "M1", "MR", 7, 1),
                    clinical.IdentifierRow("HOSP", "M5", "MR", 5, 1),
                ],
                merges=[clinical.MergeRow(7, 5, 2, now_us)],
                encounters=[clinical.EncounterRow(70, 7, "V1", "I", "in-progress", now_us - 10, None, 1, 1)],
                closed_places=[],
                places=[clinical.EncounterPlaceRow(70, Place("ICU-A", "03", "1"), "admit", now_us - 10, None, 1)],
                closed_associations=[],
                associations=[],
            ),
        )
        samples = [
            _sample("heart_rate", 80.0 + number, now_us - number * MINUTE_US, patient_id=7 if number % 2 else 5)
            for number in range(10)
        ]
        samples += [
            _sample("potassium", 7.1, now_us - 5),
            _sample("potassium", 4.1, now_us - 5, position=POSITION + 4, status=2),
            _sample("arterial_systolic_blood_pressure", 101.0, now_us - MINUTE_US),
            _sample("arterial_systolic_blood_pressure", 103.0, now_us - MINUTE_US + 9),
        ]
        await timeseries.write(connection, samples, POSITION + 9, now_us)
        await timeseries.rebuild_minutes(connection, [7, 5], now_us - 20 * MINUTE_US, now_us + MINUTE_US)
        await feeds.touch(
            connection,
            [
                feeds.FeedTouch(
                    feed="lab", source="LIS|L", last_received_at_us=now_us, expected_interval_s=60.0, messages=4
                )
            ],
        )
        items = [
            quarantine.Item(
                position=POSITION, raw_index=number, feed="lab", outcome=Outcome.QUARANTINED,
                reason=Reason.UNKNOWN_PATIENT, where="PID-3", values=1, received_at_us=now_us,
            )
            for number in range(3)
        ]  # fmt: skip
        await quarantine.add(connection, items)
        for number in range(20):
            body = _body(wards, number)
            key = SnapshotKey(partition_of(7), POSITION + number, 7)
            as_of_us = now_us - number * MINUTE_US
            await snapshots.put_run(
                connection, key.partition, key.position, as_of_us, [snapshots.RunEntry(7, as_of_us, digest(body))]
            )
            if number < 15:
                kept = snapshots.Body(key.partition, key.position, 7, as_of_us, "minute", body)
                await snapshots.put_bodies(connection, [kept], keys)
    await connection.close()
    await keys.close()


def _body(wards, number: int) -> bytes:
    score = wards.score({"heart_rate": number % 4})
    return canonical_bytes(
        wards.snapshot(7, position=POSITION + number, as_of_us=wards.now_us - number * MINUTE_US, score=score)
    )


@pytest.fixture
async def store_readers(database: str, keys_settings: Settings) -> AsyncIterator[StoreReaders]:
    async with opened_readers(database, keys_settings) as opened:
        yield opened


async def test_people_stays_and_identifiers(store_readers, wards) -> None:
    people = await store_readers.people([7, 8, 99])
    assert [(one.family_name, one.birth_date, one.is_synthetic) for one in people.values()] == [
        ("Hansen", "1954-06-02", True),
        ("Real", "1990", False),
    ]
    [stay] = await store_readers.stays()
    assert (stay.patient_id, stay.ward, stay.bed, stay.started_at_us) == (7, "ICU-A", "03-1", wards.now_us - 10)
    assert [await store_readers.survivor(number) for number in (5, 7, 8, 99)] == [7, 7, 8, None]
    assert await store_readers.find_by_identifier(None, "M5") == [7]
    assert await store_readers.find_by_identifier("ELSE", "M5") == []


async def test_values_are_read_under_all_ids_of_a_merged_patient(store_readers, wards) -> None:
    number = by_key("heart_rate").number
    found = await store_readers.observations(7, [number], wards.now_us - 20 * MINUTE_US, wards.now_us + 1)
    assert sorted(one.value for one in found) == [80.0 + number for number in range(10)]
    assert {one.patient_id for one in found} == {7}


async def test_a_value_is_answered_as_it_was_known(store_readers, wards) -> None:
    number = by_key("potassium").number
    for known_at, value in ((None, 4.1), (POSITION + 4, 4.1), (POSITION + 3, 7.1)):
        [found] = await store_readers.observations(7, [number], 0, wards.now_us, known_at=known_at)
        assert found.value == value
    revisions = await store_readers.revisions(7, number, wards.now_us - 5)
    assert [one.value for one in revisions] == [7.1, 4.1]


async def test_minutes_hold_what_the_projection_leaves_out_too(store_readers, wards) -> None:
    rows = await store_readers.minutes(7, wards.now_us - 20 * MINUTE_US, wards.now_us + MINUTE_US)
    assert [row.start_us for row in rows] == sorted(row.start_us for row in rows)
    assert sorted(row.medians["heart_rate"] for row in rows) == [80.0 + number for number in range(10)]
    assert [row.medians["arterial_systolic_blood_pressure"] for row in rows if len(row.medians) > 1] == [102.0]


async def test_snapshots_by_id_and_the_last_kept(store_readers, wards) -> None:
    key = SnapshotKey(partition_of(7), POSITION + 3, 7)
    kept = await store_readers.snapshot(key)
    assert (kept.body, kept.digest) == (_body(wards, 3), digest(_body(wards, 3)))
    forgotten = await store_readers.snapshot(key._replace(position=POSITION + 18))
    assert (forgotten.body, forgotten.digest) == (None, digest(_body(wards, 18)))
    assert await store_readers.snapshot(key._replace(position=POSITION + 99)) is None
    assert await store_readers.latest_snapshot(7) == _body(wards, 14)
    assert await store_readers.latest_snapshot(8) is None


async def test_what_was_shown_is_kept(own_database, keys_settings, wards) -> None:
    key = SnapshotKey(partition_of(7), POSITION + 18, 7)
    async with opened_readers(own_database, keys_settings) as opened:
        for _ in range(2):
            await opened.keep_shown(_body(wards, 18))
        assert (await opened.snapshot(key)).body == _body(wards, 18)


async def test_the_score_over_time_comes_from_kept_snapshots(store_readers, wards) -> None:
    found = await store_readers.score_history([7, 8], wards.now_us - 14 * MINUTE_US, wards.now_us + 1)
    assert found[8] == []
    times = [point.at_us for point in found[7]]
    assert times == sorted(times)
    assert 7 <= len(times) <= 8  # one in two minutes
    for point in found[7]:
        assert point.total == ((wards.now_us - point.at_us) // MINUTE_US) % 4


async def test_the_house_counts_what_is_held_back(store_readers) -> None:
    house = await store_readers.house()
    assert house.held_back == {"unknown_patient": 3}
    assert [(feed.feed, feed.messages) for feed in house.feeds] == [("lab", 4)]


async def test_connections_are_used_again_and_replaced_when_lost(store_readers, database) -> None:
    await store_readers.check()
    held = list(store_readers._idle)
    await store_readers.check()
    assert store_readers._idle == held
    killer = await connect(database, application_name="killer")
    async with transaction(killer):
        await killer.execute(
            "select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'vigil clinic'"
        )
    await killer.close()
    with pytest.raises(UnavailableError):
        await store_readers.check()
    await store_readers.check()


async def test_a_database_that_is_not_there_is_unavailable(database, keys_settings) -> None:
    async with opened_readers(database, keys_settings) as opened:
        nowhere = StoreReaders("postgresql://nobody:secret@127.0.0.1:1/none", opened._keys)
    with pytest.raises(UnavailableError) as caught:
        await nowhere.check()
    assert "secret" not in str(caught.value)


async def test_the_course_of_a_stay_holds_what_was_said_last_of_each_minute(own_database, keys_settings) -> None:
    def score(minute: int, probability: float | None, **more) -> risk_scores.RiskScore:
        fields = {"encounter_id": 70, "slot": "champion", "model_digest": "ab" * 32, "position": POSITION,
                  "patient_id": 7} | more  # fmt: skip
        return risk_scores.RiskScore(through_minute=minute, at_us=minute * MINUTE_US, probability=probability, **fields)

    connection = await connect(own_database, application_name="test")
    try:
        async with transaction(connection):
            rows = [
                score(60, 0.2), score(45, 0.1), score(60, 0.3, position=POSITION + 9), score(75, None),
                score(45, 0.9, slot="silent"), score(45, 0.8, encounter_id=80), score(90, 0.7, patient_id=999),
            ]  # fmt: skip
            await risk_scores.add(connection, rows)
    finally:
        await connection.close()
    async with opened_readers(own_database, keys_settings) as readers:
        course = await readers.risk_history(7, 70)
        assert [(point.through_minute, point.probability) for point in course] == [(45, 0.1), (60, 0.3), (75, None)]
        assert await readers.serving_row(1) is None
