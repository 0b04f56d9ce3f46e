"""Dagster's view of the live plane: it loads without opening anything, and turns red when something vanished."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import dagster as dg
import pytest

from assets.checks import ledger_balances
from assets.partitions import live_day
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


LAYERS = ("source", "normalized", "cohort", "feature", "model", "gate", "twin")


def test_the_graph_goes_from_sources_to_the_twin_layer_by_layer():
    graph = build_definitions(Settings()).resolve_asset_graph()
    assert {key.to_user_string() for key in graph.get_all_asset_keys()} == {
        "source/adt", "source/monitors", "source/lab", "source/physionet2012",
        "normalized/events", "normalized/live_events", "cohort/mortality", "feature/mortality", "model/mortality",
        "gate/expectations", "gate/drift", "gate/bias", "gate/clinical", "gate/evidence", "twin/drift_audit",
        "twin/bias_audit", "twin/serving", "twin/snapshots",
    }  # fmt: skip
    assert graph.get(dg.AssetKey(["twin", "snapshots"])).parent_keys == {
        *(dg.AssetKey(["source", name]) for name in ("adt", "monitors", "lab")), dg.AssetKey(["twin", "serving"]),
    }  # fmt: skip
    for node in graph.asset_nodes:
        assert node.key.path[0] in LAYERS
        assert node.group_name in {node.key.path[0], "live"}
        assert node.description
        assert node.owners
        assert node.kinds
        assert all(LAYERS.index(parent.path[0]) <= LAYERS.index(node.key.path[0]) for parent in node.parent_keys)


def test_every_verdict_is_a_blocking_check_and_tables_state_their_columns():
    definitions = build_definitions(Settings())
    graph = definitions.resolve_asset_graph()
    judged = {"normalized/events", "normalized/live_events", "cohort/mortality", "feature/mortality", "gate/drift",
              "gate/expectations", "gate/bias", "gate/clinical", "twin/drift_audit", "twin/bias_audit"}  # fmt: skip
    checks = {key.asset_key.to_user_string() for key in graph.asset_check_keys if key.name == "verdict"}
    assert checks == judged
    for key in graph.asset_check_keys:
        if key.name == "verdict":
            assert definitions.resolve_asset_graph().get_check_spec(key).blocking
    for name in ("normalized/events", "normalized/live_events", "cohort/mortality", "feature/mortality"):
        schema = graph.get(dg.AssetKey(name.split("/"))).metadata["dagster/column_schema"]
        assert schema.columns
        facts = [column for column in schema.columns if column.description]
        assert len(facts) >= 5


def test_partitions_are_days_of_this_site_and_name_no_patient():
    node = (
        build_definitions(Settings(site="demo")).resolve_asset_graph().get(dg.AssetKey(["normalized", "live_events"]))
    )
    assert isinstance(node.partitions_def, dg.MultiPartitionsDefinition)
    assert node.partitions_def.partition_dimension_names == ["day", "site"]
    keys = node.partitions_def.get_partition_keys()
    assert all(live_day(key).site == "demo" for key in keys[:3])
    assert live_day(keys[0]).day.isoformat() == "2026-01-01"


def test_heavy_steps_wait_for_each_other_and_everything_runs_in_one_process():
    definitions = build_definitions(Settings())
    pools = {node.key.to_user_string(): node.pools for node in definitions.resolve_asset_graph().asset_nodes}
    assert pools["model/mortality"] == {"training"}
    assert pools["gate/evidence"] == {"postgresql"}
    for job in definitions.resolve_all_job_defs():
        if not job.name.startswith("__"):
            assert job.executor_def.name == "in_process", job.name


def test_only_what_follows_and_looks_is_on_by_default():
    repository = build_definitions(Settings()).get_repository_def()
    on = {sensor.name for sensor in repository.sensor_defs if sensor.default_status is dg.DefaultSensorStatus.RUNNING}
    on |= {one.name for one in repository.schedule_defs if one.default_status is dg.DefaultScheduleStatus.RUNNING}
    assert on == {"approval_to_promotion", "breach_to_rollback", "alias_mismatch", "observe_live"}


# Dagster's own tags of a partition of two dimensions are what it warns of.
@pytest.mark.filterwarnings("ignore:Non-compliant tag keys")
def test_the_night_takes_the_day_that_is_over():
    repository = build_definitions(Settings(site="demo")).get_repository_def()
    nightly = repository.get_schedule_def("nightly")
    assert nightly.execution_timezone == "UTC"
    with dg.DagsterInstance.ephemeral() as instance:
        context = dg.build_schedule_context(
            instance=instance,
            repository_def=repository,
            scheduled_execution_time=datetime(2026, 3, 1, 1, 30, tzinfo=UTC),
        )
        (request,) = nightly.evaluate_tick(context).run_requests
        (again,) = nightly.evaluate_tick(context).run_requests
    assert request.partition_key == "2026-02-28|demo"
    assert request.run_key == again.run_key


@pytest.mark.slow
def test_dagster_itself_finds_nothing_wrong(tmp_path):
    environment = {"VIGIL_DATA_DIR": "/proc/none", "PATH": "/usr/bin:/bin", "HOME": str(tmp_path)}
    command = [sys.executable, "-m", "dagster", "definitions", "validate", "-m", "orchestration.definitions"]
    checkout = Path(__file__).resolve().parents[2]
    answer = subprocess.run(
        command, env=environment, cwd=checkout, capture_output=True, text=True, check=False, timeout=200
    )
    assert answer.returncode == 0, answer.stdout + answer.stderr


def test_loading_the_definitions_opens_nothing():
    # A data directory and database that cannot exist: reading or connecting at load would fail.
    code = "import orchestration.definitions as d; d.defs(); print('loaded')"
    environment = {"VIGIL_DATA_DIR": "/proc/none", "VIGIL_DATABASE_URL": "postgresql://nobody@127.0.0.1:1/none"}
    started_s = time.monotonic()
    answer = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert answer.stdout.strip() == "loaded", answer.stderr
    assert time.monotonic() - started_s < 60
