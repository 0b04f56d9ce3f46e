"""Jobs: a candidate goes the whole way once, ends where a verdict fails, and needs no experiment tracker."""

from __future__ import annotations

import asyncio
import importlib.util
from pathlib import Path

import dagster as dg
import msgspec
import pytest

from assets import gates, training
from assets.learning_plane import step, tables_of
from hospital import cohort as synthetic
from models.risk import artefact
from orchestration import reactions
from orchestration.candidate import run_candidate
from orchestration.definitions import build_definitions
from orchestration.hooks import tell_failure
from stores import approvals, audit_log, database, incidents, models
from stores.model_files import ModelFiles
from validation import bias
from vocabulary.errors import ConfigurationError, RefusedError, UnavailableError
from vocabulary.verdict import Kind, Outcome

_SPEC = importlib.util.spec_from_file_location("learning_house", Path(__file__).with_name("learning_house.py"))
assert _SPEC is not None
assert _SPEC.loader is not None
learning_house = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(learning_house)


@pytest.fixture(scope="module")
def recorded_stays(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cohort")
    synthetic.write_cohort(folder, stays=700, seed=11)
    return folder


@pytest.fixture
def settings(database_url, tmp_path):
    return learning_house.settings_of(database_url, tmp_path)


def read(settings, question):
    async def answer():
        connection = await database.connect(settings.database_url.get_secret_value(), application_name="test")
        try:
            async with database.transaction(connection):
                return await question(connection)
        finally:
            await connection.close()

    return asyncio.run(answer())


def run(settings, folder, tracker=None, **more):
    house = learning_house.FixedHouse(settings)
    overrides = {"live": house, "learning": learning_house.Learning(house, tracker=tracker)}
    return run_candidate(
        settings, folder, "issuer|author", waivers=["silent_period", "sites"], is_quick=True, uses_peers=False,
        overrides=overrides, **more,
    )  # fmt: skip


@pytest.mark.slow
def test_a_candidate_goes_from_files_to_a_request_and_the_same_again_is_the_same_model(settings, recorded_stays):
    tracker = learning_house.Tracker()
    told: list[str] = []
    first = run(settings, recorded_stays, tracker)
    assert first.is_success, first.reason
    assert set(first.outcomes) == {"expectations", "drift", "bias", "clinical"}
    assert Outcome.FAIL not in first.outcomes.values()
    assert (first.version, first.failed_step) == (1, "")
    assert any("synthetic" in condition for condition in first.conditions)
    # Registered under its digest, loadable by it, and with its verdicts as evidence.
    (version,) = read(settings, models.versions)
    assert (version.author, version.run_id, version.is_synthetic) == ("issuer|author", "run-1", True)
    files = ModelFiles(settings.models_dir)
    model = artefact.load(files.get(first.model_digest), files.get)
    assert model.manifest.training.data_fingerprint == version.data_fingerprint
    kept = read(settings, lambda connection: models.verdicts_of(connection, first.model_digest))
    assert {one.verdict.kind for one in kept} == {Kind.EXPECTATIONS, Kind.DRIFT, Kind.BIAS, Kind.CLINICAL}
    assert {one.verdict.subject for one in kept if one.verdict.kind is Kind.EXPECTATIONS} == {
        "normalized/events", "cohort/mortality", "feature/mortality",
    }  # fmt: skip
    (request,) = read(settings, approvals.requests)
    assert (request.request_id, request.evidence_digest) == (first.request_id, first.evidence_digest)
    # Acts are audited, each once.
    acts = sorted((event.entry.action, event.entry.agent) for event in read(settings, audit_log.find))
    assert acts == [("register_model", "process|dagster"), ("request_approval", "process|dagster")]
    again = run(settings, recorded_stays, tracker, progress=told.append)
    assert (again.model_digest, again.version) == (first.model_digest, 1)


@pytest.mark.slow
def test_a_verdict_that_fails_ends_the_way_and_nobody_is_asked(settings, recorded_stays, monkeypatch):
    def failing(protocol, *_, model_digest="", **__):
        return learning_house.verdict_of(Kind.BIAS, Outcome.FAIL, model_digest=model_digest)

    monkeypatch.setattr(bias, "judge", failing)
    tracker = learning_house.Tracker()
    tracker.is_away = True
    result = run(settings, recorded_stays, tracker)
    assert not result.is_success
    assert (result.failed_step, result.reason) == ("gate/bias", "gate/bias: As told.")
    # The other gates are judged all the same: a committee wants to know everything that is wrong.
    assert result.outcomes["bias"] == "fail"
    assert {"clinical", "drift", "expectations"} <= set(result.outcomes)
    assert result.request_id == ""
    assert read(settings, approvals.requests) == []
    # The tracker was away: the version is registered without a run.
    (version,) = read(settings, models.versions)
    assert version.run_id == ""
    kept = read(settings, lambda connection: models.verdicts_of(connection, result.model_digest))
    assert [one.verdict.outcome for one in kept if one.verdict.kind is Kind.BIAS] == [Outcome.FAIL]


def test_a_folder_without_stays_is_refused_before_anything_runs(settings, tmp_path):
    with pytest.raises(ConfigurationError, match="no recorded stays"):
        run(settings, tmp_path)
    assert read(settings, models.versions) == []


def resources_of(settings, tracker=None):
    house = learning_house.FixedHouse(settings)
    return {"live": house, "learning": learning_house.Learning(house, tracker=tracker)}


def execute(settings, job, ops=None, tracker=None):
    definitions = build_definitions(settings, resources_of(settings, tracker))
    with dg.DagsterInstance.ephemeral() as instance:
        config = None if ops is None else dg.RunConfig(ops=ops)
        return definitions.resolve_job_def(job).execute_in_process(config, instance=instance, raise_on_error=False)


def test_an_incident_is_written_onto_what_serves(settings):
    incident = incidents.Incident(
        at_us=1, scope="mortality", slot="champion", cause="alert_flood", reaction="clamp", opened_by="keeper",
        statement="Too many alerts.",
    )  # fmt: skip
    number = read(settings, lambda connection: incidents.add(connection, incident))
    result = execute(
        settings, reactions.ANNOUNCE, {"tell_breach": reactions.Breach(incident_id=number)}, learning_house.Tracker()
    )
    assert result.success
    (observation,) = result.filter_events(lambda event: event.is_asset_observation)
    metadata = observation.asset_observation_data.asset_observation.metadata
    assert (metadata["cause"].value, metadata["reaction"].value) == ("alert_flood", "clamp")


def test_drift_opens_one_incident_for_a_model(settings):
    learning = resources_of(settings)["learning"]
    digests = []
    for day in ("01", "02"):
        verdict = learning_house.verdict_of(Kind.DRIFT, Outcome.FAIL, model_digest="ab" * 32, data_fingerprint=day * 32)
        digests.append(read(settings, lambda connection, one=verdict: models.add_verdict(connection, one, "", 1)))
    numbers = {reactions.open_drift_incident(learning, digest) for digest in digests}
    assert len(numbers) == 1
    (incident,) = read(settings, incidents.find)
    assert (incident.cause, incident.reaction, incident.model_digest) == ("drift", "", "ab" * 32)


def test_an_approval_that_is_not_there_is_refused_and_not_tried_again(settings):
    result = execute(settings, reactions.PROMOTE, {"promote_approval": reactions.Approval(request_id="none")})
    assert not result.success
    (failure,) = [event for event in result.all_events if event.is_step_failure]
    assert "ModelRefusedError" in failure.step_failure_data.error.message
    assert not [event for event in result.all_events if event.is_step_up_for_retry]


@pytest.mark.parametrize(
    ("raised", "expected", "told"),
    [
        (UnavailableError("away"), dg.RetryRequested, None),
        (ConfigurationError("the folder is full"), dg.Failure, "ConfigurationError: the folder is full"),
        (RefusedError("no"), dg.Failure, "RefusedError: no"),
        (ValueError("Jane Doe, 1950-01-01"), dg.Failure, "ValueError at "),
    ],
)
def test_what_is_away_is_tried_again_and_a_strangers_words_are_not_passed_on(settings, raised, expected, told):
    learning = resources_of(settings)["learning"]
    with pytest.raises(expected) as caught, step(learning, training.KEY):
        raise raised
    if told is not None:
        assert caught.value.description.startswith(told)
        assert "Jane" not in caught.value.description
        assert caught.value.allow_retries is False


def test_a_failure_is_told_without_its_words(caplog):
    @dg.op
    def broken():
        raise ValueError("Jane Doe, 1950-01-01")

    @dg.job(hooks={tell_failure})
    def trial():
        broken()

    with dg.DagsterInstance.ephemeral() as instance:
        trial.execute_in_process(instance=instance, raise_on_error=False)
    (record,) = [record for record in caplog.records if record.getMessage() == "step_failed"]
    assert (record.step, record.error) == ("broken", "ValueError")
    assert "Jane" not in str(record.__dict__)


def test_a_run_reads_what_it_made_itself(settings):
    class Made(msgspec.Struct, frozen=True):
        number: int

    tables = tables_of(resources_of(settings)["learning"])
    for run_id, number in (("one", 1), ("two", 2)):
        tables.put_record(gates.EVIDENCE.path, run_id, msgspec.json.encode(Made(number)))
    assert msgspec.json.decode(tables.record(gates.EVIDENCE.path, "one"), type=Made).number == 1
    assert msgspec.json.decode(tables.record(gates.EVIDENCE.path), type=Made).number == 2
