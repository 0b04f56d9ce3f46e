"""Sensors tick by tick: nothing, something new, the same again, a failure."""

from __future__ import annotations

import asyncio
import importlib.util
import json
from datetime import UTC, datetime
from pathlib import Path

import dagster as dg
import pytest

from assets.learning_plane import default_cohort_folder
from orchestration import sensors
from orchestration.resources import LearningHouse, RunningHouse
from stores import approvals, database, incidents, models, serving
from vocabulary.settings import Settings
from vocabulary.verdict import Kind, Outcome

_SPEC = importlib.util.spec_from_file_location("learning_house", Path(__file__).with_name("learning_house.py"))
assert _SPEC is not None
assert _SPEC.loader is not None
learning_house = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(learning_house)
verdict_of, add_model = learning_house.verdict_of, learning_house.add_model

DAY_US = 86_400_000_000


@pytest.fixture
def settings(database_url, tmp_path):
    return learning_house.settings_of(database_url, tmp_path)


@pytest.fixture
def house(settings):
    return learning_house.FixedHouse(settings)


@pytest.fixture
def tracker():
    return learning_house.Tracker()


@pytest.fixture
def learning(house, tracker):
    return learning_house.Learning(house, tracker=tracker)


def write(settings, act):
    """Do something in one transaction."""

    async def done():
        connection = await database.connect(settings.database_url.get_secret_value(), application_name="test")
        try:
            async with database.transaction(connection):
                return await act(connection)
        finally:
            await connection.close()

    return asyncio.run(done())


def run_keys(result: dg.SensorResult) -> list[str]:
    return [request.run_key for request in result.run_requests or []]


def test_new_stays_are_learned_from_once_and_again_when_they_change(house, learning, settings):
    nothing = sensors.new_data(None, house, learning)
    assert run_keys(nothing) == []
    folder = default_cohort_folder(settings)
    folder.mkdir()
    (folder / "132539.txt").write_text("Time,Parameter,Value\n")
    new = sensors.new_data(nothing.cursor, house, learning)
    (request,) = new.run_requests
    assert request.job_name == "candidate"
    assert request.run_config["ops"]["source__physionet2012"]["config"]["folder"] == str(folder)
    same = sensors.new_data(new.cursor, house, learning)
    assert run_keys(same) == []
    (folder / "132539.txt").write_text("Time,Parameter,Value\n00:00,RecordID,132539\n")
    changed = sensors.new_data(same.cursor, house, learning)
    assert run_keys(changed) not in ([], run_keys(new))


def test_a_day_is_asked_for_once_it_is_over_by_the_live_planes_clock(house, learning):
    tick = sensors.closed_day("demo")
    clock = {"now": round(datetime(2026, 3, 2, 0, 30, tzinfo=UTC).timestamp() * 1e6)}
    house.now_us = lambda: clock["now"]
    first = tick(None, house, learning)
    assert first.run_requests[0].partition_key == "2026-02-28|demo"  # the grace of the first of March is not over
    assert run_keys(tick(first.cursor, house, learning)) == []
    clock["now"] += 3_600_000_000
    second = tick(first.cursor, house, learning)
    assert [request.partition_key for request in second.run_requests] == ["2026-03-01|demo"]
    clock["now"] -= DAY_US  # a clock that goes back asks for nothing twice
    assert run_keys(tick(second.cursor, house, learning)) == []


def test_drift_that_failed_opens_one_incident_and_a_pass_none(house, learning, settings):
    def drift(outcome, day, method=""):
        digests = {"model_digest": "ab" * 32, "data_fingerprint": day * 32}
        return verdict_of(Kind.DRIFT, outcome, method=method, **digests)

    write(settings, lambda connection: models.add_verdict(connection, drift(Outcome.PASS, "01"), "", 1))
    nothing = sensors.drift(None, house, learning)
    assert run_keys(nothing) == []
    failed = drift(Outcome.FAIL, "02")
    digest = write(settings, lambda connection: models.add_verdict(connection, failed, "", 2))
    new = sensors.drift(nothing.cursor, house, learning)
    (request,) = new.run_requests
    assert request.run_config["ops"]["open_incident"]["config"]["verdict_digest"] == digest
    assert run_keys(sensors.drift(new.cursor, house, learning)) == []
    # The report's own verdict on that day is the same thing noticed: Dagster knows the key already.
    report = verdict_of(
        Kind.DRIFT, Outcome.FAIL, model_digest="ab" * 32, data_fingerprint="02" * 32, method="evidently"
    )
    write(settings, lambda connection: models.add_verdict(connection, report, "", 3))
    assert run_keys(sensors.drift(new.cursor, house, learning)) == [request.run_key]


def test_a_candidate_that_was_not_judged_whole_is_judged_once(house, learning, settings):
    assert run_keys(sensors.clinical_validation(None, house, learning)) == []
    version = write(settings, add_model)
    new = sensors.clinical_validation(None, house, learning)
    assert [request.job_name for request in new.run_requests] == ["judge"]
    assert run_keys(sensors.clinical_validation(new.cursor, house, learning)) == []

    async def judge(connection):
        for kind in (Kind.EXPECTATIONS, Kind.DRIFT, Kind.BIAS, Kind.CLINICAL):
            verdict = verdict_of(kind, Outcome.PASS, model_digest=version.model_digest)
            await models.add_verdict(connection, verdict, version.model_digest, 1)

    write(settings, judge)
    assert run_keys(sensors.clinical_validation(None, house, learning)) == []


def test_an_incident_is_announced_once(house, learning, settings):
    nothing = sensors.breach_to_rollback(None, house, learning)
    assert run_keys(nothing) == []
    incident = incidents.Incident(
        at_us=1, scope="mortality", slot="champion", cause="alert_flood", reaction="clamp", opened_by="keeper"
    )
    number = write(settings, lambda connection: incidents.add(connection, incident))
    new = sensors.breach_to_rollback(nothing.cursor, house, learning)
    assert run_keys(new) == [f"incident {number}"]
    assert new.run_requests[0].run_config["ops"]["tell_breach"]["config"]["incident_id"] == number
    assert run_keys(sensors.breach_to_rollback(new.cursor, house, learning)) == []
    write(settings, lambda connection: incidents.add(connection, incident))
    assert run_keys(sensors.breach_to_rollback(new.cursor, house, learning)) == [f"incident {number + 1}"]


def test_an_approval_nobody_signed_is_not_promoted(house, learning, settings):
    async def ask(connection):
        version = await add_model(connection)
        now_us = learning.now_us()
        await approvals.add_request(
            connection,
            approvals.ApprovalRequest(
                request_id="r-1", site="demo", scope=version.scope, slot="champion", version=version.version,
                model_digest=version.model_digest, evidence_digest="0" * 64, evidence="{}", conditions=(),
                author=version.author, opened_at_us=now_us, opened_by="a|b", expires_at_us=now_us + DAY_US,
            ),
        )  # fmt: skip

    assert run_keys(sensors.approval_to_promotion(None, house, learning)) == []
    write(settings, ask)
    assert run_keys(sensors.approval_to_promotion(None, house, learning)) == []


def test_an_alias_moved_by_hand_is_moved_back(house, learning, settings, tracker):
    assert run_keys(sensors.alias_mismatch(None, house, learning)) == []
    # A row no key signed: the record names nobody, whatever the database says.
    record = serving.ServingRecord(
        at_us=1, scope="mortality", slot="champion", action="promote", version=1, model_digest="ab" * 32,
        evidence_digest="cd" * 32, request_id="r", signed="[]", restores=0, cause="", by="x|y", previous_digest="",
        key_id="", machine_signature="",
    )  # fmt: skip
    write(settings, lambda connection: serving.append(connection, record))
    assert run_keys(sensors.alias_mismatch(None, house, learning)) == []
    tracker.alias["mortality"] = "ab" * 32
    new = sensors.alias_mismatch(None, house, learning)
    assert [request.job_name for request in new.run_requests] == ["project_alias"]
    tracker.alias.clear()
    assert run_keys(sensors.alias_mismatch(new.cursor, house, learning)) == []


def test_nobody_is_audited_while_no_model_speaks(house, learning):
    assert run_keys(sensors.bias_audit(None, house, learning)) == []


@pytest.mark.parametrize(
    ("before", "ended", "is_asked"),
    [(0, 0, False), (0, 10_000, True), (10_000, 10_000, False), (9_999, 10_000, False), (20_000, 10_000, False)],
)
def test_groups_are_audited_when_enough_stays_ended(house, learning, monkeypatch, before, ended, is_asked):  # fmt: skip
    monkeypatch.setattr(sensors.audits, "champion_digest", lambda *_: "ab" * 32)
    monkeypatch.setattr(sensors.audits, "ended_stays", lambda *_: [None] * ended)
    cursor = json.dumps({"outcomes": before, "model_digest": "ab" * 32})
    result = sensors.bias_audit(cursor, house, learning)
    assert bool(run_keys(result)) is is_asked
    assert run_keys(sensors.bias_audit(result.cursor, house, learning)) == []
    # Of another model, nothing was audited yet.
    monkeypatch.setattr(sensors.audits, "champion_digest", lambda *_: "cd" * 32)
    assert bool(run_keys(sensors.bias_audit(cursor, house, learning))) is (ended > 0)


@pytest.mark.parametrize("sensor", sensors.build_sensors("demo"), ids=lambda sensor: sensor.name)
def test_a_house_that_is_down_is_skipped_and_the_cursor_stays(sensor, tmp_path):
    house = RunningHouse(Settings(data_dir=tmp_path, database_url=None))
    resources = {"live": house, "learning": LearningHouse(house)}
    with dg.DagsterInstance.ephemeral() as instance:
        context = dg.build_sensor_context(instance=instance, cursor='{"incident_id":7}', resources=resources)
        data = sensor.evaluate_tick(context)
    assert data.skip_message is not None
    assert "vigil up" in data.skip_message
    assert not data.run_requests
    assert data.cursor == '{"incident_id":7}'


@pytest.mark.parametrize("cursor", ["", "{", "[]", '{"verdict_id":"x"}', "\x00"])
def test_a_cursor_somebody_wrote_by_hand_counts_as_none(cursor):
    assert sensors.read_cursor(cursor) == sensors.Seen()
