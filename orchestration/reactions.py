"""Jobs of one act each, which sensors ask for: promote, move the alias, announce a rollback, open an incident.

Here: the ops and their jobs. Each may run twice without harm.
Not here: noticing (orchestration.sensors), the acts themselves (governance.promotion, governance.registry). A rollback
has happened by then: the engine follows the record within a second, whether Dagster runs or not.
"""

import asyncio
import logging
from typing import Final

import dagster as dg

from assets.asking import PROCESS, act
from assets.learning_plane import RETRIES, RETRY_AFTER_S, LearningPlane
from assets.live_plane import LivePlane, ask
from assets.serving import aliases, judge_record, read_record
from assets.training import SCOPE
from assets.twins import SERVING
from governance.statements import Slot
from orchestration.hooks import HOOKS
from stores import incidents, models
from stores.database import Connection, to_timestamp
from stores.incidents import Incident
from vocabulary.errors import BrokenInvariantError, UnavailableError, VigilError

PROMOTE: Final = "promote"
PROJECT_ALIAS: Final = "project_alias"
ANNOUNCE: Final = "announce_rollback"
DRIFT_INCIDENT: Final = "drift_incident"
DRIFT: Final = "drift"
"""Cause of the incident."""

_log = logging.getLogger("vigil.learning")


class Approval(dg.Config):
    """Which approval."""

    request_id: str


class Drifted(dg.Config):
    """Which verdict."""

    verdict_digest: str


class Breach(dg.Config):
    """Which incident."""

    incident_id: int


def promote_request(learning: LearningPlane, request_id: str) -> int:
    """Let the version of a complete request hold its slot; return the serving row. Twice is once.

    Raises:
        RefusedError: evidence or signatures do not suffice any more; audited.
        UnavailableError: nothing was done.
    """
    from governance import lifecycle, serving
    from governance.promotion import promote
    from governance.serving_record import appender_of
    from orchestration.credentials import identity_name

    settings, now = learning.settings(), to_timestamp(learning.now_us())

    async def promoted() -> int:
        async with learning.auditor(settings) as auditor:
            row = await promote(
                auditor,
                request_id,
                by=PROCESS,
                appender=appender_of(settings, identity_name(settings)),
                trust=serving.load_trust(settings, now),
                policy=lifecycle.load(),
                now=now,
            )
        return row.serving_id

    return asyncio.run(promoted())


def project_aliases(live: LivePlane, learning: LearningPlane) -> list[str]:
    """Let the tracker's aliases say what the record says; return the scopes whose alias was moved.

    Raises:
        UnavailableError: the tracker does not answer.
    """
    rows = read_record(live)
    registry = learning.registry()
    wrong = [one for one in aliases(learning, rows, judge_record(learning, rows)) if not one.agrees]
    if registry is None:
        return []
    return [one.scope for one in wrong if registry.project_alias(one.scope, one.should_be)]


def open_drift_incident(learning: LearningPlane, verdict_digest: str) -> int:
    """Open an incident about a verdict on drift; return its number. One model has one such incident open at a time.

    Raises:
        UnavailableError: nothing was done.
    """
    from governance.access import Verb
    from governance.model_acts import event

    entry = event("open_incident", Verb.CHANGE, PROCESS, cause=DRIFT, verdict=verdict_digest)

    async def opened(connection: Connection) -> int:
        kept = await models.verdict_of(connection, verdict_digest)
        if kept is None:
            raise BrokenInvariantError(f"expected the verdict {verdict_digest[:16]}… among those kept, found none")
        verdict = kept.verdict
        for known in await incidents.find(connection, cause=DRIFT, is_open=True):
            if known.model_digest == verdict.model_digest:
                return known.incident_id
        version = await models.version_of_digest(connection, verdict.model_digest)
        return await incidents.add(
            connection,
            Incident(
                at_us=learning.now_us(),
                scope=SCOPE if version is None else version.scope,
                slot=str(Slot.CHAMPION),
                cause=DRIFT,
                statement=verdict.statement,
                verdict_digest=verdict_digest,
                reaction="",  # nobody is silenced by it: what breaks at once is the keeper's to see
                model_digest=verdict.model_digest,
                opened_by=PROCESS,
            ),
        )

    return act(learning, entry, opened)


def incident_of(live: LivePlane, incident_id: int) -> Incident | None:
    """Return an incident by its number, None where there is none."""

    async def read(connection: Connection) -> list[Incident]:
        return await incidents.find(connection, after=incident_id - 1, limit=1_000)

    return next((one for one in ask(live, read) if one.incident_id == incident_id), None)


def _tried(error: VigilError) -> Exception:
    """Return what Dagster is told of an error of ours: to try again, or that it is over."""
    if isinstance(error, UnavailableError):
        return dg.RetryRequested(max_retries=RETRIES, seconds_to_wait=RETRY_AFTER_S)
    return dg.Failure(f"{type(error).__name__}: {error}", allow_retries=False)


@dg.op(name="promote_approval", description="Append the serving row of a complete approval.")
def promote_approval(config: Approval, learning: dg.ResourceParam[LearningPlane]) -> None:
    """Promote; the audit tells that this process completed what people signed."""
    try:
        serving_id = promote_request(learning, config.request_id)
    except VigilError as error:
        raise _tried(error) from error
    _log.info("promoted", extra={"request": config.request_id, "serving": serving_id})


@dg.op(
    name="move_aliases",
    description="Let the experiment tracker say what the serving record says.",
    ins={"after": dg.In(dg.Nothing)},
)
def move_aliases(live: dg.ResourceParam[LivePlane], learning: dg.ResourceParam[LearningPlane]) -> None:
    """Move the aliases that differ."""
    try:
        moved = project_aliases(live, learning)
    except VigilError as error:
        raise _tried(error) from error
    _log.info("aliases_moved", extra={"scopes": ",".join(moved)})


@dg.op(name="open_incident", description="Open an incident about a day that drifted away; a person closes it.")
def open_incident(config: Drifted, learning: dg.ResourceParam[LearningPlane]) -> None:
    """Open it, once."""
    try:
        incident_id = open_drift_incident(learning, config.verdict_digest)
    except VigilError as error:
        raise _tried(error) from error
    _log.warning("drift_incident", extra={"incident": incident_id})


@dg.op(name="tell_breach", description="Write a rollback onto twin/serving, and into the log.")
def tell_breach(context: dg.OpExecutionContext, config: Breach, live: dg.ResourceParam[LivePlane]) -> None:
    """Announce what the live plane did about a model."""
    try:
        incident = incident_of(live, config.incident_id)
    except VigilError as error:
        raise _tried(error) from error
    if incident is None:
        raise dg.Failure(f"There is no incident {config.incident_id}.", allow_retries=False)
    facts: dict[str, str | int] = {
        "incident": incident.incident_id,
        "scope": incident.scope,
        "slot": incident.slot,
        "cause": incident.cause,
        "reaction": incident.reaction or "none was possible",
        "serving": incident.serving_id or 0,
        "statement": incident.statement,
        "opened_by": incident.opened_by,
    }
    context.log_event(
        dg.AssetObservation(SERVING, metadata=facts, description=f"{incident.cause}: {incident.statement}")
    )
    _log.warning("model_incident", extra={name: facts[name] for name in ("incident", "scope", "cause", "reaction")})


@dg.job(name=PROMOTE, hooks=set(HOOKS), executor_def=dg.in_process_executor)
def promote_job() -> None:
    """Promote what people signed, and let the tracker know."""
    move_aliases(after=promote_approval())


@dg.job(name=PROJECT_ALIAS, hooks=set(HOOKS), executor_def=dg.in_process_executor)
def project_alias_job() -> None:
    """Let the tracker say what the record says."""
    move_aliases()


@dg.job(name=ANNOUNCE, hooks=set(HOOKS), executor_def=dg.in_process_executor)
def announce_job() -> None:
    """Announce what the live plane did, and let the tracker follow."""
    move_aliases(after=tell_breach())


@dg.job(name=DRIFT_INCIDENT, hooks=set(HOOKS), executor_def=dg.in_process_executor)
def drift_incident_job() -> None:
    """Open an incident about drift."""
    open_incident()


JOBS: Final = [promote_job, project_alias_job, announce_job, drift_incident_job]
