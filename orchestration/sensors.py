"""Sensors: what runs because something happened. Each tick looks, compares with its cursor, and asks for runs.

Here: the sensors and what each notices. A cursor moves only with the answer that used it, and run keys name the
thing noticed, so a tick that is repeated asks for nothing twice.
Not here: the runs (orchestration.jobs, orchestration.reactions). The live plane never waits for a sensor: the engine
follows the serving record, and the keeper's watch silences models, with Dagster stopped.

On by default: those that only let Dagster and the tracker follow what people or the live plane decided. Those that
compute or ask are switched on by a person.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Final

import dagster as dg
import msgspec

from assets import audits, recorded
from assets.learning_plane import LearningPlane, default_cohort_folder
from assets.live_plane import LivePlane, ask
from assets.partitions import LiveDay, last_closed_day
from assets.serving import aliases, judge_record, read_record
from assets.training import SCOPE
from assets.verdicts import Judging
from governance import approval_states, evidence, lifecycle, serving
from orchestration import jobs, reactions
from stores import approvals, incidents, models
from stores.database import Connection, to_timestamp
from stores.lake import Lake
from stores.models import ModelVersion
from validation.model_protocol import load as load_protocol
from vocabulary.errors import UnavailableError
from vocabulary.verdict import Kind, Outcome, Verdict

Tick = Callable[[str | None, LivePlane, LearningPlane], dg.SensorResult]

MINUTE_S: Final = 60
HOUR_S: Final = 3600


class Seen(msgspec.Struct, frozen=True, kw_only=True):
    """A cursor: what was noticed already. Each sensor uses what it needs."""

    folder: str = ""  # stamp of the recorded stays
    day: str = ""  # newest closed day
    verdict_id: int = 0
    version: int = 0
    incident_id: int = 0
    outcomes: int = 0
    model_digest: str = ""


def read_cursor(cursor: str | None) -> Seen:
    """Return what was noticed already; a cursor that somebody set by hand and that is none counts as nothing."""
    try:
        return msgspec.json.decode(cursor or "{}", type=Seen)
    except msgspec.MsgspecError:
        return Seen()


def _answer(seen: Seen, requests: list[dg.RunRequest], otherwise: str) -> dg.SensorResult:
    cursor = msgspec.json.encode(seen).decode()
    if requests:
        return dg.SensorResult(run_requests=requests, cursor=cursor)
    return dg.SensorResult(skip_reason=otherwise, cursor=cursor)


def folder_stamp(folder: Path) -> str:
    """Return what tells a folder of recorded stays from another state of it, without reading them; "" for none."""
    if not folder.is_dir():
        return ""
    listed = [
        (path.name, (stat := path.stat()).st_size, stat.st_mtime_ns)
        for path in sorted(folder.iterdir())
        if path.is_file()
    ]
    return hashlib.sha256(repr(listed).encode()).hexdigest() if listed else ""


def new_data(cursor: str | None, live: LivePlane, learning: LearningPlane) -> dg.SensorResult:  # noqa: ARG001
    """Notice recorded stays that were put down or changed."""
    seen, requests = read_cursor(cursor), []
    folder = default_cohort_folder(learning.settings())
    stamp = folder_stamp(folder)
    if stamp and stamp != seen.folder:
        config = dg.RunConfig(ops={"source__physionet2012": recorded.RecordedFolder(folder=str(folder))})
        requests.append(dg.RunRequest(run_key=f"stays {stamp}", job_name=jobs.CANDIDATE, run_config=config))
    return _answer(Seen(folder=stamp), requests, f"No new stays in {folder}.")


def closed_day(site: str) -> Tick:
    """Notice that a day of the live plane is over, by its own clock."""

    def tick(cursor: str | None, live: LivePlane, learning: LearningPlane) -> dg.SensorResult:  # noqa: ARG001
        seen, requests = read_cursor(cursor), []
        day = last_closed_day(site, live.now_us())
        if day.day.isoformat() > seen.day:
            key = f"day {day.site} {day.day}"
            requests.append(dg.RunRequest(run_key=key, job_name=jobs.LIVE_DAY, partition_key=day.key))
        return _answer(Seen(day=max(day.day.isoformat(), seen.day)), requests, "No day ended.")

    return tick


def _failed_drift(seen: Seen, live: LivePlane) -> tuple[list[models.StoredVerdict], int]:
    """Return new verdicts on live drift that failed, oldest first, and the number of the newest verdict."""

    async def read(connection: Connection) -> list[models.StoredVerdict]:
        return await models.verdicts_of(connection, "")

    kept = sorted((one for one in ask(live, read) if one.verdict_id > seen.verdict_id), key=lambda one: one.verdict_id)
    failed = [one for one in kept if one.verdict.kind is Kind.DRIFT and one.verdict.outcome is Outcome.FAIL]
    return failed, max([seen.verdict_id, *(one.verdict_id for one in kept)])


def _noticed(verdict: Verdict) -> str:
    """Return what a verdict is about: the report's own, on the same model and day, is the same thing noticed."""
    return f"{verdict.model_digest[:16]} {verdict.data_fingerprint[:16]}"


def drift(cursor: str | None, live: LivePlane, learning: LearningPlane) -> dg.SensorResult:  # noqa: ARG001
    """Notice a verdict on drift that failed: an incident."""
    failed, newest = _failed_drift(read_cursor(cursor), live)
    requests = [
        dg.RunRequest(
            run_key=f"incident {_noticed(one.verdict)}",
            job_name=reactions.DRIFT_INCIDENT,
            run_config=dg.RunConfig(ops={"open_incident": reactions.Drifted(verdict_digest=one.digest)}),
        )
        for one in failed
    ]
    return _answer(Seen(verdict_id=newest), requests, "No verdict on drift failed.")


def drift_report(site: str) -> Tick:
    """Notice a verdict on drift that failed: the day judged again with Evidently beside our own figures."""

    def tick(cursor: str | None, live: LivePlane, learning: LearningPlane) -> dg.SensorResult:
        failed, newest = _failed_drift(read_cursor(cursor), live)
        lake = Lake(learning.settings().lake_dir)
        days = [(one.verdict, _day_of(lake, site, one.verdict.data_fingerprint)) for one in failed]
        requests = [
            dg.RunRequest(
                run_key=f"report {_noticed(verdict)}",
                job_name=jobs.DRIFT_REPORT,
                partition_key=day.key,
                run_config=dg.RunConfig(ops={"twin__drift_audit": Judging(uses_peers=True)}),
            )
            for verdict, day in days
            if day is not None
        ]
        return _answer(Seen(verdict_id=newest), requests, "No verdict on drift failed.")

    return tick


def _day_of(lake: Lake, site: str, fingerprint: str) -> LiveDay | None:
    """Return the day whose dataset has this fingerprint, None where it is not kept any more."""
    home = lake.folder / "live" / site.lower()
    for pointer in sorted(home.glob(f"*/{fingerprint}"), reverse=True) if fingerprint else []:
        return LiveDay.of(site, pointer.parent.name)
    return None


def bias_audit(cursor: str | None, live: LivePlane, learning: LearningPlane) -> dg.SensorResult:
    """Notice that enough stays ended since the last audit of the model that speaks."""
    seen, protocol = read_cursor(cursor), load_protocol()
    digest = audits.champion_digest(live, learning)
    if digest is None:
        return _answer(Seen(), [], "No model speaks.")
    before = seen.outcomes if digest == seen.model_digest else 0
    ended, wanted = len(audits.ended_stays(live, protocol, digest)), protocol.live.subgroup.least_stays
    # Stays leave the window at its other end: counting begins anew where there are fewer than at the last audit.
    before = min(before, ended)
    if ended - before < wanted:
        kept = Seen(model_digest=digest, outcomes=before)
        return _answer(kept, [], f"{ended - before} of {wanted} stays ended since the last audit.")
    request = dg.RunRequest(run_key=f"{digest[:16]} {ended} {live.now_us()}", job_name=jobs.BIAS_AUDIT)
    return _answer(Seen(model_digest=digest, outcomes=ended), [request], "")


def clinical_validation(cursor: str | None, live: LivePlane, learning: LearningPlane) -> dg.SensorResult:  # noqa: ARG001
    """Notice a candidate that was not judged whole: registered, but a verdict is missing."""
    seen, kinds = read_cursor(cursor), lifecycle.load().evidence.kinds

    async def read(connection: Connection) -> tuple[ModelVersion, list[models.StoredVerdict]] | None:
        newest = next(iter(await models.versions(connection, SCOPE)), None)
        return None if newest is None else (newest, await models.verdicts_of(connection, newest.model_digest))

    found = ask(live, read)
    if found is None:
        return _answer(seen, [], "No candidate is registered.")
    version, kept = found
    is_judged = len({one.verdict.kind for one in evidence.newest(kept, kinds)}) == len(kinds)
    if is_judged or version.version <= seen.version:
        return _answer(seen, [], f"Version {version.version} was judged, or its judgement was asked for.")
    request = dg.RunRequest(run_key=version.model_digest, job_name=jobs.JUDGE)
    return _answer(Seen(version=version.version), [request], "")


def approval_to_promotion(cursor: str | None, live: LivePlane, learning: LearningPlane) -> dg.SensorResult:
    """Notice an approval that everybody signed and nobody promoted."""
    policy, now = lifecycle.load(), to_timestamp(learning.now_us())
    trust = serving.load_trust(learning.settings(), now)

    async def read(connection: Connection) -> list[str]:
        complete = []
        for request in await approvals.requests(connection):
            if request.expires_at_us > learning.now_us():
                state = await approval_states.state_of(
                    connection, request.request_id, trust=trust, policy=policy, now=now
                )
                complete += [request.request_id] if state.is_complete else []
        return complete

    requests = [
        dg.RunRequest(
            run_key=request_id,
            job_name=reactions.PROMOTE,
            run_config=dg.RunConfig(ops={"promote_approval": reactions.Approval(request_id=request_id)}),
        )
        for request_id in ask(live, read)
    ]
    return _answer(read_cursor(cursor), requests, "No approval waits to be promoted.")


def breach_to_rollback(cursor: str | None, live: LivePlane, learning: LearningPlane) -> dg.SensorResult:  # noqa: ARG001
    """Notice an incident: what was done about it is announced, and the alias follows."""
    seen = read_cursor(cursor)

    async def read(connection: Connection) -> list[int]:
        found = await incidents.find(connection, after=seen.incident_id, limit=100)
        return sorted(one.incident_id for one in found)

    found = ask(live, read)
    requests = [
        dg.RunRequest(
            run_key=f"incident {incident_id}",
            job_name=reactions.ANNOUNCE,
            run_config=dg.RunConfig(ops={"tell_breach": reactions.Breach(incident_id=incident_id)}),
        )
        for incident_id in found
    ]
    return _answer(Seen(incident_id=max([seen.incident_id, *found])), requests, "No new incident.")


def alias_mismatch(cursor: str | None, live: LivePlane, learning: LearningPlane) -> dg.SensorResult:
    """Notice that the tracker calls another model champion than the one that serves."""
    rows = read_record(live)
    wrong = [one for one in aliases(learning, rows, judge_record(learning, rows)) if not one.agrees]
    requests = [
        # Who moves it by hand again gets it moved back again: the minute is part of the key.
        dg.RunRequest(
            run_key=f"{one.scope} {one.serving_id} {one.is_} {learning.now_us() // (MINUTE_S * 1_000_000)}",
            job_name=reactions.PROJECT_ALIAS,
        )
        for one in wrong[:1]  # one run moves all
    ]
    return _answer(read_cursor(cursor), requests, "The alias names the model that serves.")


def build_sensors(site: str) -> list[dg.SensorDefinition]:
    """Return every sensor of one house."""
    on, off = dg.DefaultSensorStatus.RUNNING, dg.DefaultSensorStatus.STOPPED
    return [
        _sensor("new_data", new_data, jobs.CANDIDATE, 5 * MINUTE_S, off,
                "Recorded stays in <data_dir>/cohort are new or changed: train a candidate and judge it."),
        _sensor("closed_day", closed_day(site), jobs.LIVE_DAY, 5 * MINUTE_S, off,
                "A day of the live plane is over: write it into the lake and audit it."),
        _sensor("drift", drift, reactions.DRIFT_INCIDENT, 5 * MINUTE_S, off,
                "A verdict on drift failed: open an incident."),
        _sensor("drift_report", drift_report(site), jobs.DRIFT_REPORT, 5 * MINUTE_S, off,
                "A verdict on drift failed: write the report."),
        _sensor("bias_audit", bias_audit, jobs.BIAS_AUDIT, HOUR_S, off,
                "Enough stays ended since the last audit: judge the groups again."),
        _sensor("clinical_validation", clinical_validation, jobs.JUDGE, 5 * MINUTE_S, off,
                "A candidate that was not judged whole: run its gates."),
        _sensor("approval_to_promotion", approval_to_promotion, reactions.PROMOTE, MINUTE_S, on,
                "Everybody signed and nobody promoted: append the serving row."),
        _sensor("breach_to_rollback", breach_to_rollback, reactions.ANNOUNCE, MINUTE_S, on,
                "The live plane silenced or replaced a model: announce it, and move the alias."),
        _sensor("alias_mismatch", alias_mismatch, reactions.PROJECT_ALIAS, MINUTE_S, on,
                "The tracker's alias is not what serves: move it back."),
    ]  # fmt: skip


def _sensor(
    name: str, tick: Tick, asks_for: str, every_s: int, status: dg.DefaultSensorStatus, description: str
) -> dg.SensorDefinition:
    """Return a sensor of a tick. A house that is down, a server that does not answer: skipped, the cursor stays."""

    @dg.sensor(
        name=name,
        job_name=asks_for,
        minimum_interval_seconds=every_s,
        description=description,
        default_status=status,
    )
    def sensor(
        context: dg.SensorEvaluationContext,
        live: dg.ResourceParam[LivePlane],
        learning: dg.ResourceParam[LearningPlane],
    ) -> dg.SensorResult | dg.SkipReason:
        try:
            return tick(context.cursor, live, learning)
        except UnavailableError as error:
            return dg.SkipReason(str(error))

    return sensor
