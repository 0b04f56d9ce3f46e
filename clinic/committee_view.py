"""What a committee sees of the models: every version with its stage, what was judged, asked, signed, served and broken.

Here: reading it in one consistent read, and putting it in words.
Not here: routes (clinic.committee), signing (clinic.signing), the dossier's markup (governance.dossier), the rules
(governance.lifecycle, governance.serving).
The stage is worked out from the record as the engine would judge it now, never read from a column.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from clinic.context import Context
from governance import evidence as evidences
from governance import lifecycle, serving
from governance.access import Principal, Role
from governance.approval_states import RequestState, Status, judged_state
from governance.dossier import Asked, Content
from governance.lifecycle import Lifecycle, Recorded
from governance.serving import Held, Judgement, Refusal, Standing, Trust, judge_scope
from governance.serving_record import read_rows
from governance.statements import Action, ServingRow, Slot, Stage
from stores import approvals, incidents, models
from stores.database import Connection
from stores.incidents import Incident
from stores.models import ModelVersion, StoredVerdict
from vocabulary.verdict import Kind, Outcome, worst

_STANDINGS = {
    Standing.SPEAKING: "speaks",
    Standing.CLAMPED: "clamped: speaks, asks for nobody's attention",
    Standing.ABSTAINING: "silenced",
}
_INCIDENTS = 50  # most a page lists


@dataclass(frozen=True, slots=True)
class KindOutcome:
    """How one kind of judgement came out."""

    kind: str
    outcome: str  # "pass", "fail", "inconclusive", "missing"


@dataclass(frozen=True, slots=True)
class VersionLine:
    """One version in the list, and the head of its own page."""

    version: ModelVersion
    stage: Stage
    standing: str  # what its place allows it now; "" where it holds none
    cause: str
    outcomes: tuple[KindOutcome, ...]
    faults: tuple[str, ...]
    open_requests: int


@dataclass(frozen=True, slots=True)
class VersionPage:
    """Everything about one version."""

    line: VersionLine
    verdicts: tuple[StoredVerdict, ...]  # the newest of each kind and subject
    states: tuple[RequestState, ...]  # requests, newest first
    asked: tuple[Asked, ...]  # the same as they were kept
    rows: tuple[ServingRow, ...]  # of the whole scope, oldest first: what a row does depends on those before
    refusals: tuple[Refusal, ...]
    incidents: tuple[Incident, ...]
    champion: Held  # whoever holds it
    trust: Trust
    policy: Lifecycle

    def content(self, site: str, made_at_us: int) -> Content:
        """Return what the version's dossier is made of."""
        digest = self.line.version.model_digest
        return Content(
            site=site,
            made_at_us=made_at_us,
            version=self.line.version,
            stage=self.line.stage,
            verdicts=tuple(stored.verdict for stored in self.verdicts),
            requests=self.asked,
            serving=tuple(row for row in self.rows if row.model_digest == digest),
        )


@dataclass(frozen=True, slots=True)
class ModelsPage:
    """Everything the list of versions shows."""

    lines: tuple[VersionLine, ...]
    incidents: tuple[Incident, ...]
    fault: str  # why nobody's signature counts now; "" where they do


@dataclass(frozen=True, slots=True)
class _Scope:
    """What is read once for all versions of a scope."""

    rows: list[ServingRow]
    judgement: Judgement


def now_of(context: Context) -> datetime:
    """Return real time, whatever a demonstration's clock shows."""
    return datetime.fromtimestamp(context.wall_clock.now_us() / 1e6, UTC)


def trust_of(context: Context) -> Trust:
    """Return what records and signatures are judged by, read just now."""
    return serving.load_trust(context.settings, now_of(context), context.public_url)


def roles_to_sign(principal: Principal, state: RequestState, policy: Lifecycle) -> tuple[Role, ...]:
    """Return the roles somebody could sign a request in: theirs, wanted, and not taken; none for the model's author."""
    is_settled = state.status not in {Status.OPEN, Status.COMPLETE}
    has_answered = any(signed.statement.person == principal.agent for signed in state.signed)
    if is_settled or has_answered or principal.agent == state.request.author:
        return ()
    taken = {signed.statement.role for signed in state.signed}
    wanted = policy.slots[Slot(state.request.slot)].roles
    return tuple(role for role in wanted if role in principal.roles and role not in taken)


async def read_list(context: Context, connection: Connection) -> ModelsPage:
    """Return every version, scope by scope, newest first."""
    trust, policy = trust_of(context), lifecycle.load()
    scopes: dict[str, _Scope] = {}
    lines = []
    for version in await models.versions(connection):
        if version.scope not in scopes:
            scopes[version.scope] = await _scope(context, connection, version.scope, trust, policy)
        scope = scopes[version.scope]
        stored = await models.verdicts_of(connection, version.model_digest)
        states = await _states(context, connection, version, scope, trust, policy)
        lines.append(_line(version, stored, states, scope, policy))
    found = await incidents.find(connection, limit=_INCIDENTS)
    return ModelsPage(tuple(lines), tuple(found), trust.refusal)


async def read_version(context: Context, connection: Connection, scope_name: str, number: int) -> VersionPage | None:
    """Return one version with all that was recorded of it, None where there is none."""
    version = await models.version_of(connection, scope_name, number)
    if version is None:
        return None
    trust, policy = trust_of(context), lifecycle.load()
    scope = await _scope(context, connection, scope_name, trust, policy)
    stored = await models.verdicts_of(connection, version.model_digest)
    states = await _states(context, connection, version, scope, trust, policy)
    asked = [
        Asked(request=one.request, answers=tuple(await approvals.signatures_of(connection, one.request.request_id)))
        for one in states
    ]
    found = await incidents.find(connection, scope=scope_name, limit=_INCIDENTS)
    kinds = (*policy.evidence.kinds, Kind.LIVE)
    return VersionPage(
        line=_line(version, stored, states, scope, policy),
        verdicts=tuple(evidences.newest(stored, kinds)),
        states=tuple(states),
        asked=tuple(asked),
        rows=tuple(scope.rows),
        refusals=scope.judgement.refusals,
        incidents=tuple(one for one in found if one.model_digest in {"", version.model_digest}),
        champion=scope.judgement.slots[Slot.CHAMPION],
        trust=trust,
        policy=policy,
    )


async def _scope(context: Context, connection: Connection, name: str, trust: Trust, policy: Lifecycle) -> _Scope:
    rows = await read_rows(connection, name)
    return _Scope(rows, judge_scope(name, rows, trust, policy, now_of(context)))


async def _states(
    context: Context, connection: Connection, version: ModelVersion, scope: _Scope, trust: Trust, policy: Lifecycle
) -> list[RequestState]:
    requests = await approvals.requests(connection, scope=version.scope, model_digest=version.model_digest)
    now = now_of(context)
    return [await judged_state(connection, request, scope.judgement, trust, policy, now) for request in requests]


def _line(
    version: ModelVersion,
    stored: Sequence[StoredVerdict],
    states: Sequence[RequestState],
    scope: _Scope,
    policy: Lifecycle,
) -> VersionLine:
    kinds = policy.evidence.kinds
    faults = evidences.faults(version, stored, kinds)
    holds = {
        slot: held
        for slot, held in scope.judgement.slots.items()
        if held.row is not None and held.row.model_digest == version.model_digest
    }
    promotions = [row for row in scope.rows if row.action is Action.PROMOTE and row.slot is Slot.CHAMPION]
    recorded = Recorded(
        faults=faults,
        is_rejected=bool(states) and states[0].status is Status.REJECTED,
        holds=frozenset(holds),
        has_spoken=any(row.model_digest == version.model_digest for row in promotions),
    )
    held = holds.get(Slot.CHAMPION) or holds.get(Slot.SILENT)
    return VersionLine(
        version=version,
        stage=lifecycle.stage_of(recorded),
        standing="" if held is None else "listens" if held.slot is Slot.SILENT else _STANDINGS.get(held.standing, ""),
        cause="" if held is None else held.cause,
        outcomes=_outcomes(stored, kinds),
        faults=faults,
        open_requests=sum(state.status in {Status.OPEN, Status.COMPLETE} for state in states),
    )


def _outcomes(stored: Sequence[StoredVerdict], kinds: Sequence[Kind]) -> tuple[KindOutcome, ...]:
    used = evidences.newest(stored, kinds)
    found = []
    for kind in kinds:
        mine = [one.verdict.outcome for one in used if one.verdict.kind is kind]
        outcome: Outcome | str = worst(mine) if mine else "missing"
        found.append(KindOutcome(str(kind), str(outcome)))
    return tuple(found)
