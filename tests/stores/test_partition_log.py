"""Batches kept until folded: read again whole, counted once, trimmed never too far."""

from __future__ import annotations

import pytest

from stores import partition_log, positions
from stores.database import transaction
from stores.partition_log import Counts
from stores.positions import Move
from vocabulary.errors import BrokenInvariantError
from vocabulary.records import (
    Merged,
    Moved,
    Movement,
    Observation,
    ObservationStatus,
    Observed,
    PartitionBatch,
    Place,
    RawId,
    partition_of,
)


def observed(raw: RawId, patient_id: int, values: int) -> Observed:
    observations = [
        Observation(1, 72.5 + n, 1_000_000 + n, ObservationStatus.FINAL, 5, n, "monitor", "") for n in range(values)
    ]
    return Observed(raw, patient_id, "monitors", 1_000, 2_000, observations)


def moved(raw: RawId, patient_id: int) -> Moved:
    return Moved(raw, patient_id, 9, Movement.ADMIT, 500, Place("ICU", "", "7"), "adt", 1_000, 2_000)


def batch(partition: int, position: int, previous: int = 0, *events, log_time_us: int = 0) -> PartitionBatch:
    return PartitionBatch(partition, previous, position, log_time_us, list(events))


@pytest.fixture
async def log(connection):
    """Append batches, or say that a partition was folded up to a position."""

    class Log:
        async def append(self, *batches):
            await connection.rollback()  # a read before left its transaction open
            async with transaction(connection):
                await partition_log.append(connection, batches)

        async def fold(self, partition, position, log_time_us=0):
            reader = positions.partition_reader(partition)
            await connection.rollback()
            async with transaction(connection):
                place = (await positions.take_over(connection, [reader], "engine"))[reader]
                move = Move(reader, place.epoch, place.position, position, log_time_us)
                await positions.advance(connection, [move])

    return Log()


async def test_batches_come_back_as_they_were_in_order_after_a_position(connection, log):
    batches = [
        batch(7, 10, 0, observed(RawId(9, 0), 412, 3), log_time_us=5),
        batch(7, 12, 10, moved(RawId(11, 2), 412), Merged(RawId(12, 0), 412, 413, "adt", 1, 2)),
        batch(8, 12, 0, observed(RawId(12, 1), 500, 1)),
    ]
    await log.append(*batches[1:])
    await log.append(batches[0])
    assert await partition_log.since(connection, 7, 0) == batches[:2]
    assert await partition_log.since(connection, 7, 0, limit=1) == batches[:1]
    assert await partition_log.since(connection, 7, 10) == [batches[1]]
    assert await partition_log.since(connection, 7, 12) == []


def test_a_message_counts_once_however_many_events_it_made():
    raw = RawId(5, 1)
    made = batch(3, 5, 0, moved(raw, 1), observed(raw, 1, 4), observed(RawId(5, 2), 1, 2))
    assert partition_log.counts_of(made) == Counts(2, 6)


def test_a_merge_counts_in_the_survivors_partition_only():
    survivor, retired = 412, 413
    merge = Merged(RawId(5, 0), survivor, retired, "adt", 1, 2)
    assert partition_of(survivor) != partition_of(retired)
    assert partition_log.counts_of(batch(partition_of(survivor), 5, 0, merge)) == Counts(1, 0)
    assert partition_log.counts_of(batch(partition_of(retired), 5, 0, merge)) == Counts(0, 0)


async def test_pending_is_what_no_engine_has_folded(connection, log):
    assert await partition_log.unfolded(connection) == Counts(0, 0)
    await log.append(
        batch(7, 10, 0, observed(RawId(9, 0), 1, 3)),
        batch(7, 12, 10, observed(RawId(12, 0), 1, 2), moved(RawId(12, 1), 1)),
        batch(63, 12, 0, observed(RawId(12, 2), 2, 5)),
    )
    assert await partition_log.unfolded(connection) == Counts(4, 10)
    await log.fold(7, 10)
    assert await partition_log.unfolded(connection) == Counts(3, 7)
    await log.fold(7, 12)
    await log.fold(63, 14)
    assert await partition_log.unfolded(connection) == Counts(0, 0)


async def test_trimming_keeps_the_unfolded_the_recent_and_every_newest_batch(connection, log):
    await log.append(
        *(batch(7, n, n - 1, observed(RawId(n, 0), 1, 1), log_time_us=n * 1_000_000) for n in range(1, 11)),
        batch(9, 4, 0, log_time_us=4_000_000),
    )
    await log.fold(7, 8, 8_000_000)
    await log.fold(9, 10, 10_000_000)
    async with transaction(connection):
        assert await partition_log.trim(connection, keep_s=3.0) == 4  # 1 to 4 of partition 7
    assert [kept.position for kept in await partition_log.since(connection, 7, 0)] == [5, 6, 7, 8, 9, 10]
    await log.fold(7, 10, 60_000_000)
    async with transaction(connection):
        assert await partition_log.trim(connection, keep_s=0) == 5
    last = await partition_log.last_positions(connection)
    assert (len(last), last[7], last[9], sum(last)) == (64, 10, 4, 14)


async def test_the_same_position_twice_is_a_defect(connection, log):
    await log.append(batch(7, 10))
    with pytest.raises(BrokenInvariantError, match="partition_log"):
        await log.append(batch(7, 10))


async def test_a_batch_that_goes_back_is_a_defect(connection, log):
    with pytest.raises(BrokenInvariantError, match="cannot follow"):
        await log.append(batch(7, 10, 10))


async def test_no_batches_are_nothing(connection):
    await partition_log.append(connection, [])
    assert await partition_log.last_positions(connection) == [0] * 64
