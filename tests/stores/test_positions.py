"""The fence: one owner a reader, and positions that only its owner moves."""

from __future__ import annotations

import asyncio

import pytest

from stores import positions
from stores.database import connect, transaction
from stores.positions import Move
from vocabulary.errors import BrokenInvariantError, ConfigurationError, FencedOutError

P3, P7 = positions.partition_reader(3), positions.partition_reader(7)


async def taken(connection, readers, owner):
    async with transaction(connection):
        return await positions.take_over(connection, readers, owner)


async def advanced(connection, *moves):
    async with transaction(connection):
        await positions.advance(connection, moves)


@pytest.fixture
async def other(migrated_url):
    opened = await connect(migrated_url, application_name="other")
    yield opened
    await opened.close()


async def test_a_new_owner_finds_where_the_old_one_was(connection):
    first = await taken(connection, [P3, P7], "engine-1")
    assert (first[P3].epoch, first[P3].position) == (1, 0)
    await advanced(connection, Move(P3, 1, 0, 40, 4_000), Move(P7, 1, 0, 70, 7_000))
    second = await taken(connection, [P3], "engine-2")
    assert second == {P3: positions.Taken(P3, 2, 40, 4_000)}
    places = await positions.read(connection)
    assert len(places) == 65
    assert (places[P3].owner, places[P7].owner, places[P7].position) == ("engine-2", "engine-1", 70)


@pytest.mark.parametrize(
    "move",
    [
        Move(P3, 1, 40, 50, 5_000),  # an older epoch
        Move(P3, 3, 40, 50, 5_000),  # an epoch nobody gave
        Move(P3, 2, 39, 50, 5_000),  # from where it is not
        Move("partition-99", 2, 40, 50, 5_000),
    ],
)
async def test_a_move_that_is_not_the_owners_undoes_the_whole_transaction(connection, move):
    await taken(connection, [P3, P7], "engine-1")
    await advanced(connection, Move(P3, 1, 0, 40, 4_000))
    await taken(connection, [P3], "engine-2")
    with pytest.raises(FencedOutError, match=move.reader):
        await advanced(connection, Move(P7, 1, 0, 70, 7_000), move)
    places = await positions.read(connection)
    assert (places[P3].position, places[P7].position) == (40, 0)


async def test_the_fencing_error_names_the_reader_that_was_taken(connection):
    await taken(connection, [P3, P7], "engine-1")
    await taken(connection, [P7], "engine-2")
    with pytest.raises(FencedOutError, match=r"partition-07: expected epoch 1 at 0, found epoch 2 at 0.*engine-2"):
        await advanced(connection, Move(P3, 1, 0, 5, 5), Move(P7, 1, 0, 5, 5))


async def test_taking_over_waits_for_the_old_owners_commit_and_sees_it(connection, other):
    await taken(connection, [P3], "engine-1")
    async with transaction(connection):
        await positions.advance(connection, [Move(P3, 1, 0, 40, 4_000)])
        takeover = asyncio.create_task(taken(other, [P3], "engine-2"))
        await asyncio.sleep(0.1)
        assert not takeover.done()
    assert (await takeover)[P3] == positions.Taken(P3, 2, 40, 4_000)


async def test_an_advance_that_waited_for_a_taking_over_is_fenced_out(connection, other):
    await taken(connection, [P3], "engine-1")
    async with transaction(other):
        await positions.take_over(other, [P3], "engine-2")
        late = asyncio.create_task(advanced(connection, Move(P3, 1, 0, 40, 4_000)))
        await asyncio.sleep(0.1)
        assert not late.done()
    with pytest.raises(FencedOutError):
        await late
    assert (await positions.read(other))[P3].position == 0


async def test_two_owners_taking_the_same_readers_in_other_orders_never_deadlock(connection, other):
    readers = [positions.partition_reader(n) for n in range(64)]
    for _ in range(10):
        await asyncio.gather(taken(connection, readers, "engine-1"), taken(other, readers[::-1], "engine-2"))
    assert {place.epoch for place in (await positions.read(connection)).values() if place.owner} == {20}


async def test_of_two_owners_of_one_epoch_exactly_one_moves(connection, other):
    await taken(connection, [P3], "engine-1")
    results = await asyncio.gather(
        advanced(connection, Move(P3, 1, 0, 10, 1)), advanced(other, Move(P3, 1, 0, 20, 2)), return_exceptions=True
    )
    assert sorted(type(result).__name__ for result in results) == ["FencedOutError", "NoneType"]


async def test_moves_that_make_no_sense_are_defects(connection):
    with pytest.raises(BrokenInvariantError, match="go back"):
        await positions.advance(connection, [Move(P3, 1, 10, 9, 0)])
    with pytest.raises(BrokenInvariantError, match="twice"):
        await positions.advance(connection, [Move(P3, 1, 0, 1, 0), Move(P3, 1, 1, 2, 0)])
    with pytest.raises(BrokenInvariantError, match="partition-77"):
        await positions.take_over(connection, [P3, "partition-77"], "engine")
    with pytest.raises(ValueError, match="0 to 63"):
        positions.partition_reader(64)


async def test_nothing_to_move_is_nothing(connection):
    await positions.advance(connection, [])
    assert await positions.take_over(connection, [], "engine") == {}


async def test_a_stream_made_anew_gets_the_next_incarnation(connection):
    async with transaction(connection):
        assert await positions.incarnation(connection, "RAW@1") == 1
        assert await positions.incarnation(connection, "RAW@1") == 1
        assert await positions.incarnation(connection, "RAW@2") == 2


async def test_an_older_stream_put_back_is_refused(connection):
    async with transaction(connection):
        await positions.incarnation(connection, "RAW@1")
        await positions.incarnation(connection, "RAW@2")
    with pytest.raises(ConfigurationError, match="older stream was restored"):
        async with transaction(connection):
            await positions.incarnation(connection, "RAW@1")


async def test_incarnations_end_before_positions_overflow(connection):
    async with transaction(connection):
        await connection.execute("insert into raw_incarnation values (8388607, 'the last')")
    with pytest.raises(BrokenInvariantError, match="exhausted"):
        async with transaction(connection):
            await positions.incarnation(connection, "one more")


async def test_two_processes_registering_one_stream_agree(connection, other):
    async def register(opened):
        async with transaction(opened):
            return await positions.incarnation(opened, "RAW@1")

    assert await asyncio.gather(register(connection), register(other)) == [1, 1]
