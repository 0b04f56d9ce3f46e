"""Two processes of one kind: the second owns the log from its start on, and the first stops and writes nothing more."""

from __future__ import annotations

import pytest

from stores.database import connect, transaction
from twin import forecast
from twin.engine import open_engine
from twin.engine_loop import advance
from vocabulary.clock import ManualClock
from vocabulary.errors import BrokenInvariantError, FencedOutError, UnavailableError
from vocabulary.records import PARTITIONS, partition_of

EVERYTHING = (
    "select table_name from information_schema.tables where table_schema = 'public' and table_type = 'BASE TABLE' "
    "and table_name <> 'position' order by 1"
)


@pytest.fixture
def settings(live_plane, tmp_path):
    return live_plane.settings_for(tmp_path, "postgresql://unused", "nats://unused")


@pytest.fixture
async def pair(simulation, live_plane, settings, new_database):
    """Two runs over one log and one database, the first opened first."""
    url = new_database()
    forecaster = forecast.open_forecaster(settings)
    log = simulation.write_log(live_plane.Hospital, 4, 60)
    runs = [simulation.Run(log, settings, url, forecaster, number) for number in range(2)]
    await runs[0].open()
    yield runs
    for run in runs:
        await run.close()


async def everything(url):
    """Every row of every table, the owners of positions apart."""
    connection = await connect(url, application_name="test")
    try:
        async with transaction(connection):
            names = [row[0] for row in await (await connection.execute(EVERYTHING)).fetchall()]
            return {
                name: sorted(map(repr, await (await connection.execute(f"select * from {name}")).fetchall()))
                for name in names
            }
    finally:
        await connection.close()


async def test_a_normalizer_that_was_taken_over_from_stops_and_writes_nothing_more(pair):
    first, second = pair
    await first.normalize(5)
    await second.open()
    assert second.next == first.next  # it goes on exactly where the first stopped
    before = await everything(first.url)
    with pytest.raises(FencedOutError):
        await first.normalize(5)
    assert await everything(first.url) == before
    await second.normalize(5)
    with pytest.raises(FencedOutError):
        await first.normalize(5)


async def test_a_normalizer_that_was_taken_over_from_before_its_first_commit_stops_too(pair):
    first, second = pair
    await second.open()
    with pytest.raises(FencedOutError):
        await first.normalize(5)
    await second.normalize(5)
    assert second.next == 5


async def test_an_engine_that_was_taken_over_from_stops_and_writes_nothing_more(pair):
    first, second = pair
    await first.normalize(len(first.log.messages) // 2)
    while first.is_behind:
        await first.fold(1000)
    await first.normalize(1000)
    await second.open()
    before = await everything(first.url)
    with pytest.raises(FencedOutError):
        await first.fold(1000)
    assert await everything(first.url) == before
    while second.is_behind:
        await second.fold(0)
    assert second.published


async def test_taking_over_one_partition_stops_the_engine_that_owned_it_among_others(pair, settings):
    first, _ = pair
    await first.normalize(1000)
    forecaster = forecast.open_forecaster(settings)
    clock = ManualClock(0)
    # One that has something to fold, and its neighbours, which have not.
    wanted = partition_of(1)
    other = await open_engine(settings, first.url, clock, forecaster, range(wanted - 2, wanted + 1), first.keys)
    try:
        before = await everything(first.url)
        with pytest.raises(FencedOutError):
            await first.fold(1000)
        assert await everything(first.url) == before
    finally:
        await other.close()


async def test_engines_of_different_partitions_do_not_disturb_each_other(
    simulation, live_plane, settings, new_database
):
    log = simulation.write_log(live_plane.Hospital, 4, 60)
    forecaster = forecast.open_forecaster(settings)
    whole = simulation.Run(log, settings, new_database(), forecaster, 1)
    await whole.open()
    await whole.normalize(10_000)
    halves = [
        await open_engine(settings, whole.url, ManualClock(0), forecaster, half, whole.keys)
        for half in (range(32), range(32, PARTITIONS))
    ]
    try:
        for half in halves:
            is_behind = True
            while is_behind:
                _, is_behind = await advance(half, [], None, is_behind=is_behind)
        connection = await connect(whole.url, application_name="test")
        books = (await simulation.contents(connection))["ledger"].values()
        assert sum(side.messages.unaccounted for side in books) == 0
        assert sum(side.values.unaccounted for side in books) == 0
        await connection.close()
    finally:
        for half in halves:
            await half.close()
        await whole.close()


async def test_a_normalizer_that_lost_its_database_leaves_nothing_half_done(pair):
    first, second = pair
    await first.normalize(5)
    before = await everything(first.url)
    admin = await connect(first.url, application_name="test")
    await admin.execute(
        "select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'vigil normalizer'"
    )
    await admin.close()
    with pytest.raises(UnavailableError):
        await first.normalize(5)
    assert await everything(first.url) == before
    await second.open()
    assert second.next == 5


async def test_a_raw_stream_older_than_the_position_is_refused(pair, simulation):
    first, second = pair
    await first.normalize(5)
    second.log = simulation.Log(second.log.messages, identity="RAW made anew")
    await second.open()
    assert second.next == 0  # another stream: it is read from its beginning, behind everything before
    await second.normalize(3)
    with pytest.raises((FencedOutError, BrokenInvariantError)):
        await first.normalize(5)
