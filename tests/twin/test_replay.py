"""A published snapshot made again: the same bytes, whatever came later; and told apart where it is not the same."""

from __future__ import annotations

import pytest

from stores import snapshots, timeseries
from stores.database import connect, transaction
from twin import forecast, replay
from validation import protocols as protocol_files
from vocabulary.errors import BrokenInvariantError
from vocabulary.snapshot import SnapshotKey, canonical_bytes, parse_snapshot_id


@pytest.fixture
def settings(live_plane, tmp_path):
    return live_plane.settings_for(tmp_path, "postgresql://unused", "nats://unused")


@pytest.fixture
async def played(simulation, live_plane, settings, new_database):
    """A log played to its end, with a connection to look at it."""
    log = simulation.write_log(live_plane.Hospital, 7, 120)
    run = simulation.Run(log, settings, new_database(), forecast.open_forecaster(settings), 1)
    connection = await connect(run.url, application_name="test")
    await run.play(largest=6)
    run.connection = connection
    yield run
    await connection.close()
    await run.close()


async def test_every_snapshot_is_identical_after_all_that_came_later(played):
    assert len(played.published) > 20
    for snapshot_id, body in played.published.items():
        again = await replay.replay(played.connection, played.forecaster, snapshot_id, played.keys)
        assert again.is_identical, again.differences
        assert canonical_bytes(again.rebuilt) == body


async def test_compaction_changes_no_snapshot(played):
    before = await timeseries.sizes(played.connection)
    await played.connection.rollback()
    await timeseries.compact(played.connection, played.log.now_us + 7200_000_000)
    after = await timeseries.sizes(played.connection)
    await played.connection.rollback()
    assert after.open_blocks < before.open_blocks
    for snapshot_id in list(played.published)[::3]:
        assert (await replay.replay(played.connection, played.forecaster, snapshot_id, played.keys)).is_identical


async def test_a_kept_body_is_what_was_published(played):
    kept = 0
    for snapshot_id, body in played.published.items():
        again = await replay.replay(played.connection, played.forecaster, snapshot_id, played.keys)
        if again.published is not None:
            kept += 1
            assert canonical_bytes(again.published) == body
    assert 0 < kept < len(played.published)


async def test_the_latest_body_kept_of_a_patient_was_published(played):
    async with transaction(played.connection):
        for patient_id, body in played.last.items():
            found = await snapshots.latest_body(played.connection, patient_id, played.keys)
            assert found is not None
            name = f"{found.key.partition:02d}-{found.key.position}-{patient_id}"
            assert played.published[name] == found.body
            newest = (await snapshots.recent_ids(played.connection, patient_id, 1))[0]
            assert played.published[newest] == body


async def test_a_snapshot_is_made_under_the_rules_of_its_day_whatever_was_set_since(played, settings):
    slower = tuple(feed.model_copy(update={"expected_interval_s": 7200.0}) for feed in settings.feeds)
    changed = settings.model_copy(update={"future_tolerance_s": 1.0, "feeds": slower})
    other = forecast.open_forecaster(changed)
    assert other.rules_digest != played.forecaster.rules_digest
    for name in list(played.published)[-12:]:
        assert (await replay.replay(played.connection, other, name, played.keys)).is_identical


async def test_rules_that_were_altered_or_are_gone_are_told_and_never_guessed(played, settings):
    other = forecast.open_forecaster(settings.model_copy(update={"future_tolerance_s": 1.0}))
    name = list(played.published)[-1]
    for wreck, said in (
        ("update snapshot_rules set body = '[{},0]'", "altered"),
        ("delete from snapshot_rules", "missing"),
    ):
        async with transaction(played.connection) as connection:
            await connection.execute(wreck)
        with pytest.raises(BrokenInvariantError, match=said):
            await replay.replay(played.connection, other, name, played.keys)


async def test_other_code_makes_another_snapshot_and_the_difference_is_named(played, settings):
    older = forecast.Forecaster(settings, protocol_files.load_all(), forecast.CodeIdentity("0.0.1", ""))
    kept = [
        name
        for name in played.published
        if (await replay.replay(played.connection, played.forecaster, name, played.keys)).published is not None
    ]
    again = await replay.replay(played.connection, older, kept[-1], played.keys)
    assert not again.is_identical
    assert again.differences == ["provenance"]
    assert again.rebuilt_digest != again.published_digest


async def test_a_value_changed_behind_our_back_shows(played):
    names = []
    for name in played.published:
        again = await replay.replay(played.connection, played.forecaster, name, played.keys)
        if again.published is not None and any(s.concept == "lactate" for s in again.published.signals):
            names.append(name)
    async with transaction(played.connection) as connection:
        await connection.execute("update observation_event set value = value + 1 where value is not null")
    again = await replay.replay(played.connection, played.forecaster, names[-1], played.keys)
    assert not again.is_identical
    assert "signals" in again.differences


async def test_what_was_never_published_is_said_to_be_unknown(played):
    for name in ("", "7", "07-1-x", "07-1099511627777-999", "99-1-1", "07--1", "٣-1-1"):
        with pytest.raises(replay.UnknownSnapshotError):
            await replay.replay(played.connection, played.forecaster, name, played.keys)


async def test_a_sample_of_ids_is_of_published_snapshots_and_repeatable(played):
    chosen = await replay.sample_ids(played.connection, 10, seed=3)
    assert len(chosen) == 10
    assert set(chosen) <= set(played.published)
    assert chosen == await replay.sample_ids(played.connection, 10, seed=3)


async def test_a_rebuilt_snapshot_names_its_place_in_the_log(played):
    snapshot_id = next(iter(played.published))
    key: SnapshotKey = parse_snapshot_id(snapshot_id)
    again = await replay.replay(played.connection, played.forecaster, snapshot_id, played.keys)
    assert (again.rebuilt.position, again.rebuilt.patient_id) == (key.position, key.patient_id)
