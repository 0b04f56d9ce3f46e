"""Dagster's view of the live plane: it loads without opening anything, and turns red when something vanished."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time

import dagster as dg
import pytest

from assets.checks import ledger_balances
from orchestration.definitions import build_definitions
from stores import database, feeds, ledger
from vocabulary.settings import Settings

NOW_US = 1_780_000_000_000_000


class FixedPlane:
    """The resource `live` over one database."""

    def __init__(self, url: str) -> None:
        self._url = url

    def database_url(self) -> str:
        return self._url

    def now_us(self) -> int:
        return NOW_US


@pytest.fixture
def live(database_url: str) -> FixedPlane:
    asyncio.run(database.migrate(database_url))
    return FixedPlane(database_url)


async def write(url: str, *entries: ledger.Entry) -> None:
    connection = await database.connect(url, application_name="test")
    writer = ledger.LedgerWriter("test")
    async with database.transaction(connection):
        await writer.open(connection)
        await writer.append(connection, entries)
    await connection.close()


def entry(**counts: int) -> ledger.Entry:
    return ledger.Entry(at_us=NOW_US, kind="pack", position_from=1, position_to=1, **counts)


def evaluate(live: FixedPlane) -> dg.AssetCheckEvaluation:
    definitions = build_definitions(Settings(), overrides={"live": live})
    job = dg.define_asset_job("check", selection=dg.AssetSelection.checks(ledger_balances))
    resolved = dg.Definitions.merge(definitions, dg.Definitions(jobs=[job])).resolve_job_def("check")
    with dg.DagsterInstance.ephemeral() as instance:
        result = resolved.execute_in_process(instance=instance)
    (evaluation,) = result.get_asset_check_evaluations()
    return evaluation


@pytest.mark.parametrize(
    ("counts", "is_green"),
    [
        ({}, True),
        ({"messages_received": 5, "messages_accepted": 3, "messages_rejected": 2}, True),
        ({"messages_received": 5, "messages_accepted": 3, "messages_rejected": 1}, False),
        ({"values_received": 7, "values_accepted": 9}, False),
    ],
)
def test_the_ledger_check_is_green_when_nothing_is_missing_and_red_when_something_is(live, counts, is_green):
    asyncio.run(write(live.database_url(), entry(**counts)))
    evaluation = evaluate(live)
    assert evaluation.passed is is_green
    received = counts.get("messages_received", 0)
    outcomes = counts.get("messages_accepted", 0) + counts.get("messages_rejected", 0)
    assert evaluation.metadata["remainder_messages"].value == received - outcomes


def test_observing_a_feed_states_its_offset_and_lag(live):
    async def touch() -> None:
        connection = await database.connect(live.database_url(), application_name="test")
        async with database.transaction(connection):
            spoken = (("lab", "A|B", 5, 3), ("lab", "C|D", 500, 4), ("adt", "E|F", 1, 9))
            heard = [
                feeds.FeedTouch(
                    feed=feed, source=source, last_received_at_us=NOW_US - age_s * 1_000_000,
                    expected_interval_s=60, messages=messages, values=2 * messages,
                )
                for feed, source, age_s, messages in spoken
            ]  # fmt: skip
            await feeds.touch(connection, heard)
        await connection.close()

    asyncio.run(touch())
    definitions = build_definitions(Settings(), overrides={"live": live})
    job = dg.define_asset_job("observe", selection=dg.AssetSelection.assets(dg.AssetKey(["source", "lab"])))
    with dg.DagsterInstance.ephemeral() as instance:
        resolved = dg.Definitions.merge(definitions, dg.Definitions(jobs=[job])).resolve_job_def("observe")
        result = resolved.execute_in_process(instance=instance)
        (observation,) = result.asset_observations_for_node("observe_lab")
    facts = {name: value.value for name, value in observation.metadata.items()}
    assert facts["offset_messages"] == 7
    assert facts["senders"] == 2
    assert facts["silent_senders"] == 1
    assert facts["lag_s"] == 5.0


def test_every_feed_is_an_asset_and_the_snapshots_come_from_all_of_them():
    graph = build_definitions(Settings()).resolve_asset_graph()
    assert {key.to_user_string() for key in graph.get_all_asset_keys()} == {
        "source/adt", "source/monitors", "source/lab", "twin/snapshots",
    }  # fmt: skip
    assert graph.get(dg.AssetKey(["twin", "snapshots"])).parent_keys == {
        dg.AssetKey(["source", name]) for name in ("adt", "monitors", "lab")
    }


def test_loading_the_definitions_opens_nothing():
    # A data directory and database that cannot exist: reading or connecting at load would fail.
    code = "import orchestration.definitions as d; d.defs(); print('loaded')"
    environment = {"VIGIL_DATA_DIR": "/proc/none", "VIGIL_DATABASE_URL": "postgresql://nobody@127.0.0.1:1/none"}
    started_s = time.monotonic()
    answer = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert answer.stdout.strip() == "loaded", answer.stderr
    assert time.monotonic() - started_s < 60
