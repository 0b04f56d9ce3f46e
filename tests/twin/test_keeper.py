"""Housekeeping changes how things are kept, never what they say."""

from __future__ import annotations

import asyncio

import msgspec
import pytest

from governance.privacy import open_ring
from stores import partition_log, positions, timeseries
from stores.database import connect, consistent_read, transaction
from stores.envelope import nobody
from stores.raw_archive import Pack, RawArchive
from twin import forecast, keeper, replay
from twin.bus import Bus, RawExtent
from vocabulary.records import INCARNATION_SHIFT, RawItem, RawPack


class EmptyBus:
    """A RAW stream with nothing in it: sealing has tests of its own."""

    async def raw_extent(self) -> RawExtent:
        return RawExtent("RAW", 0, 0, 0)

    def raw_reader(self, _after: int) -> EmptyBus:
        return self

    async def take(self, timeout_s: float) -> list[object]:
        return []

    async def close(self) -> None:
        return


@pytest.mark.parametrize("seed", [11])
async def test_a_compacted_house_says_the_same(seed, simulation, live_plane, new_database, tmp_path, monkeypatch):
    monkeypatch.setattr(keeper, "COMPACTION_DELAY_US", -2 * 3600 * 1_000_000)  # the simulated log is minutes long
    monkeypatch.setattr(keeper, "LOG_KEEP_S", 0)
    log = simulation.write_log(live_plane.Hospital, seed, 160)
    settings = live_plane.settings_for(tmp_path, "postgresql://unused", "nats://unused")
    forecaster = forecast.open_forecaster(settings)
    url = new_database()
    run = simulation.Run(log, settings, url, forecaster, seed)
    connection = await connect(url, application_name="test")
    try:
        await run.play(largest=5)
        before = await simulation.contents(connection)
        await connection.rollback()
        async with consistent_read(connection):
            open_before = (await timeseries.sizes(connection)).open_blocks
            last_before = await partition_log.last_positions(connection)
        assert open_before > 0
        done = await keeper.keep_house(settings, connection, EmptyBus(), run.keys, asyncio.Event())
        assert done["hours_compacted"] > 0
        assert done["trimmed"] > 0
        again = await keeper.keep_house(settings, connection, EmptyBus(), run.keys, asyncio.Event())
        assert (again["hours_compacted"], again["trimmed"]) == (0, 0), "a second round finds nothing to do"
        after = await simulation.contents(connection)
        await connection.rollback()
        assert after == before
        async with transaction(connection):
            assert (await timeseries.sizes(connection)).open_blocks == 0
            assert await partition_log.last_positions(connection) == last_before, "the chain of batches is unbroken"
            places = await positions.read(connection)
        assert places[positions.NORMALIZER].position > 0
        for snapshot_id in sorted(run.published)[::3]:
            assert (await replay.replay(connection, forecaster, snapshot_id, run.keys)).is_identical, snapshot_id
    finally:
        await run.close()
        await connection.close()


async def test_a_stream_made_anew_keeps_what_nobody_has_read(nats_server, new_database, live_plane, tmp_path):
    """Sequences begin again at 1: what was sealed of the stream before must not be removed from this one."""
    settings = live_plane.settings_for(tmp_path, "postgresql://unused", "nats://unused", raw_seal_after_s=1.0)
    url = new_database()
    connection = await connect(url, application_name="test")
    keys = await open_ring(settings, url)
    bus = await Bus.connect(nats_server.url(), "test")
    try:
        old = 1 << INCARNATION_SHIFT
        async with transaction(connection):
            await positions.incarnation(connection, "RAW of last year")
            taken = (await positions.take_over(connection, [positions.NORMALIZER], "test"))[positions.NORMALIZER]
            move = positions.Move(positions.NORMALIZER, taken.epoch, 0, old | 1000, 2_000_000_000_000_000)
            await positions.advance(connection, [move])
        await keys.ensure([nobody(0)])
        RawArchive(tmp_path / "sealed").write([Pack(old | 900, b"")], {}, keys)
        await bus.ensure_streams(64 * 1024 * 1024)
        for number in range(5):
            pack = RawPack(f"p{number}", "lab", 1_000_000, [RawItem(1_000_000, 0, "", b"MSH")])
            await bus.publish_raw("lab", pack.pack_id, msgspec.msgpack.encode(pack))
        await keeper.keep_house(settings, connection, bus, keys, asyncio.Event())
        extent = await bus.raw_extent()
        assert (extent.first_sequence, extent.last_sequence) == (1, 5)
    finally:
        await bus.close()
        await keys.close()
        await connection.close()
