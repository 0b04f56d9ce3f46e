"""Cases that once went wrong between the normalizer and the engine, each told by hand."""

from __future__ import annotations

import pytest

from stores import minutes, timeseries
from stores.database import connect, transaction
from twin import forecast, replay
from vocabulary.records import partition_of
from vocabulary.snapshot import from_bytes

SECOND = 1_000_000
MINUTE = 60 * SECOND
HOUR = 60 * MINUTE


@pytest.fixture
def settings(live_plane, tmp_path):
    return live_plane.settings_for(tmp_path, "postgresql://unused", "nats://unused")


@pytest.fixture
async def house(simulation, live_plane, settings, new_database):
    """A log to be written, and the run that folds it."""
    log = simulation.Log()
    run = simulation.Run(log, settings, new_database(), forecast.open_forecaster(settings), 1)
    run.hospital = live_plane.Hospital(lambda: log.now_us)
    run.connection = await connect(run.url, application_name="test")
    await run.open()
    yield run
    for snapshot_id in run.published:
        again = await replay.replay(run.connection, run.forecaster, snapshot_id, run.keys)
        assert again.is_identical, simulation.differences(run.published[snapshot_id], again.rebuilt)
    assert await simulation.minutes_that_differ(run.connection, log.now_us) == []
    await run.connection.close()
    await run.close()


async def settle(run, ticks=1):
    """Fold everything said so far, and ticks a quarter of a minute apart."""
    for _ in range(ticks):
        run.log.now_us += 15 * SECOND
        run.log.tick()
    await run.normalize(10_000)
    await run.fold(10_000)
    while run.is_behind:
        await run.fold(10_000)


def shown(run, patient_id, concept="heart_rate"):
    found = [s for s in from_bytes(run.last[patient_id]).signals if s.concept == concept]
    return found[0].value if found else None


async def test_what_a_message_releases_lies_behind_its_whole_pack_for_twin_and_store_alike(house):
    log, say = house.log, house.hospital
    taken = log.now_us - 30 * SECOND
    log.append("mixed", [say.heart_rate("7", 70, at_us=taken)])
    log.append(
        "mixed",
        [
            say.adt("A01", "7", "A", at_us=log.now_us - HOUR),
            say.heart_rate("7", 90, at_us=taken, status="C"),
        ],
    )
    await settle(house)
    async with transaction(house.connection):
        latest = await timeseries.latest(house.connection, [1], as_of_us=log.now_us)
    assert shown(house, 1) == latest[1].value


async def test_two_messages_wait_and_are_released_by_one_of_many(house, simulation, live_plane, settings, new_database):
    """Their place in the log is that of what released them, however the log was cut."""
    log, say = house.log, house.hospital
    log.append("mixed", [say.heart_rate(n, 70, at_us=log.now_us) for n in ("7", "8", "7", "8")])
    log.append("mixed", [say.adt("A01", n, bed, at_us=log.now_us - HOUR) for n, bed in (("7", "A"), ("8", "B"))])
    log.append("mixed", [say.heart_rate("9", 70, at_us=log.now_us)])
    log.append("mixed", [say.adt("A01", "9", "C", at_us=log.now_us - HOUR)])
    log.tick()
    await settle(house)
    other = simulation.Run(log, settings, new_database(), house.forecaster, 1)
    await other.open()
    while other.next < len(log.messages):
        await other.normalize(1)
    connection = await connect(other.url, application_name="test")
    await other.fold(10_000)
    while other.is_behind:
        await other.fold(10_000)
    assert await simulation.contents(connection) == await simulation.contents(house.connection)
    await connection.close()
    await other.close()


async def test_halves_of_one_commit_may_come_in_different_cycles(house):
    """Both write blocks of the same hour: one of a value before, one of a value of the commit that comes in halves."""
    log, say = house.log, house.hospital
    numbers = [f"{n}" for n in range(10, 22)]
    log.append("adt", [say.adt("A01", n, f"B{n}", at_us=log.now_us - HOUR) for n in numbers])
    await settle(house)
    for value in (70, 80):
        log.now_us += 5 * SECOND
        for n in numbers:
            log.append("monitors", [say.heart_rate(n, value, at_us=log.now_us)])
        await house.normalize(10_000)
    waiting = len(house._sent)
    assert waiting > 10
    await house.fold(waiting * 3 // 4)  # the first commit and half of the second
    await house.fold(waiting)
    await settle(house)
    assert {shown(house, patient_id) for patient_id in range(1, 13)} == {80.0}


@pytest.mark.parametrize("arrives_first", [0, 1])
async def test_both_partitions_of_a_merge_are_folded_together(house, arrives_first):
    log, say = house.log, house.hospital
    log.append("adt", [say.adt("A01", n, n, at_us=log.now_us - HOUR) for n in ("1", "2")])
    await settle(house)
    assert partition_of(1) != partition_of(2)
    log.now_us += SECOND
    # The retired record's last value, the survivor's, and their merge: one commit, two batches.
    log.append(
        "mixed",
        [
            say.heart_rate("2", 77, at_us=log.now_us),
            say.report("1", say.result("9279-1", "15", "/min", at_us=log.now_us), order="o1"),
            say.merge("1", "2", at_us=log.now_us),
        ],
    )
    await house.normalize(10_000)
    assert len(house._sent) == 2
    house._sent = [house._sent[arrives_first], house._sent[1 - arrives_first]]
    await house.fold(1)
    await house.fold(1)
    await settle(house)
    assert (shown(house, 1), shown(house, 1, "respiratory_rate")) == (77.0, 15.0)
    assert not from_bytes(house.last[2]).is_admitted


async def test_minutes_of_both_records_of_a_merge_become_one(house):
    log, say = house.log, house.hospital
    log.append("adt", [say.adt("A01", n, n, at_us=log.now_us - HOUR) for n in ("1", "2")])
    for minute in range(5):
        log.now_us += 40 * SECOND
        log.append("monitors", [say.heart_rate("1", 60 + minute, at_us=log.now_us)])
        log.append("monitors", [say.heart_rate("2", 90 - minute, at_us=log.now_us - SECOND)])
        log.tick()
        await settle(house)
    log.append("adt", [say.merge("1", "2", at_us=log.now_us)])
    await settle(house, ticks=6)
    assert not from_bytes(house.last[2]).is_admitted
    async with transaction(house.connection) as connection:
        own = await minutes.minutes(connection, [1], log.now_us - HOUR, log.now_us + HOUR)
    heart_rate = minutes.MINUTE_COLUMNS.index("heart_rate")
    assert sum(row.n[heart_rate] for row in own) == 10, "five values of each record, all under the survivor"
    # (that they are the right minutes, the fixture compares with the stored values at its end)


async def test_a_minute_is_settled_although_its_patient_moves_or_leaves_before_its_end(house):
    log, say = house.log, house.hospital
    log.append("adt", [say.adt("A01", "1", "A", at_us=log.now_us - HOUR)])
    await settle(house)
    for trigger in ("A08", "A02", "A03", "A13"):
        log.now_us = log.now_us // MINUTE * MINUTE + 55 * SECOND
        log.append("monitors", [say.heart_rate("1", 61, at_us=log.now_us)])
        await house.normalize(10_000)
        await house.fold(10_000)
        log.now_us += 10 * SECOND
        log.append("adt", [say.adt(trigger, "1", "B", at_us=log.now_us - SECOND)])
        await house.normalize(10_000)
        await house.fold(10_000)
        # Told late, within the minute's grace that clocks are given: stored although no twin is there.
        late = log.now_us - 2 * SECOND
        log.append("monitors", [say.heart_rate("1", 65, at_us=late, order="other monitor")])
        await house.normalize(10_000)
        await house.fold(10_000)
    await settle(house, ticks=8)


async def test_a_restart_between_a_stays_last_value_and_its_discharge_loses_no_minute(house):
    log, say = house.log, house.hospital
    log.append("adt", [say.adt("A01", "1", "A", at_us=log.now_us - HOUR)])
    await settle(house)
    log.now_us = log.now_us // MINUTE * MINUTE + 30 * SECOND
    log.append("monitors", [say.heart_rate("1", 61, at_us=log.now_us)])
    await house.normalize(10_000)
    await house.fold(10_000)
    log.now_us += MINUTE
    log.append("adt", [say.adt("A03", "1", "A", at_us=log.now_us)])
    await house.normalize(10_000)  # the directory knows of the discharge; the engine is restarted before it does
    await house._restart_engine()
    await settle(house, ticks=6)
    assert not from_bytes(house.last[1]).is_admitted


async def test_a_stay_without_a_bed_is_known_as_it_was_known(house):
    log, say = house.log, house.hospital
    log.append("adt", [say.adt("A01", "1", "", at_us=log.now_us - HOUR)])
    await settle(house)
    assert from_bytes(house.last[1]).is_admitted
    log.append("adt", [say.adt("A03", "1", "", at_us=log.now_us)])
    await settle(house)
    assert not from_bytes(house.last[1]).is_admitted
    log.append("adt", [say.adt("A13", "1", "", at_us=log.now_us)])
    await settle(house)
    assert from_bytes(house.last[1]).is_admitted


async def test_an_engine_that_was_away_for_long_catches_up_in_pieces(house, monkeypatch):
    monkeypatch.setattr("twin.engine._CATCH_UP_BATCHES", 3)
    log, say = house.log, house.hospital
    log.append("adt", [say.adt("A01", n, n, at_us=log.now_us - HOUR) for n in ("1", "2", "3")])
    await house.normalize(10_000)
    for turn in range(20):
        log.now_us += 7 * SECOND
        for number in ("1", "2", "3")[: 1 + turn % 3]:
            log.append("monitors", [say.heart_rate(number, 60 + turn, at_us=log.now_us)])
            await house.normalize(1)
    log.append("adt", [say.merge("1", "3", at_us=log.now_us)])
    house._sent.clear()
    await house._restart_engine()
    folds = 0
    while house.is_behind:
        await house.fold(0)
        folds += 1
    assert folds > 5
    await settle(house)
    assert shown(house, 1) == 79.0
