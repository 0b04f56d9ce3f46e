"""However the log is cut, lost on the way, or its readers restarted: the same twins, rows and books, and every snapshot
can be made again."""

from __future__ import annotations

import os

import pytest

from stores.database import connect
from twin import forecast, replay

SEEDS = [int(text) for text in os.environ.get("VIGIL_LOG_SEEDS", "1,2").split(",")]


@pytest.fixture(scope="module")
def log_of(simulation, live_plane):
    return lambda seed, messages: simulation.write_log(live_plane.Hospital, seed, messages)


@pytest.fixture
def settings(live_plane, tmp_path):
    return live_plane.settings_for(tmp_path, "postgresql://unused", "nats://unused")


@pytest.mark.parametrize("seed", SEEDS)
async def test_state_and_books_do_not_depend_on_how_the_log_is_cut(seed, log_of, simulation, settings, new_database):
    log = log_of(seed, 260)
    forecaster = forecast.open_forecaster(settings)
    ways: tuple[dict[str, float], ...] = (
        {"largest": 10_000},
        {"largest": 1},
        {"largest": 10, "loss": 0.1, "interruptions": 0.4},
    )
    outcomes = []
    for number, way in enumerate(ways):
        url = new_database()
        run = simulation.Run(log, settings, url, forecaster, seed * 100 + number)
        connection = await connect(url, application_name="test")
        try:
            await run.play(**way)
            outcomes.append((run.last, await simulation.contents(connection)))
            # What was committed was published, whoever died in between.
            assert await simulation.recorded_ids(connection) == set(run.published)
            await connection.rollback()
            different = []
            for snapshot_id in sorted(run.published):
                again = await replay.replay(connection, forecaster, snapshot_id, run.keys)
                if not again.is_identical:
                    different.append((snapshot_id, simulation.differences(run.published[snapshot_id], again.rebuilt)))
            assert not different, "\n".join(f"{name}: {said}" for name, said in different)
            assert await simulation.minutes_that_differ(connection, log.now_us) == []
        finally:
            await run.close()
            await connection.close()
    (twins, database), *others = outcomes
    assert twins
    assert len(database["samples"]) > 200
    for other_twins, other_database in others:
        for name, rows in database.items():
            assert other_database[name] == rows, name
        assert other_twins == twins
    books = list(database["ledger"].values())
    assert database["pending"] == (0, 0)
    assert sum(side.messages.unaccounted for side in books) == 0
    assert sum(side.values.unaccounted for side in books) == 0
