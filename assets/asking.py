"""Acts of the learning plane that the authority keeps a record of: registering a model, asking for its approval.

Here: one audited transaction an act, by this process in the name of who started the run.
Not here: the rules (governance.approvals, governance.evidence), promotion (orchestration.sensors, people).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Final, TypeVar

import dagster as dg
import msgspec
from pydantic import Field

from governance.access import Verb
from governance.model_acts import acting, event
from governance.statements import Slot
from stores import models
from stores.database import Connection, to_timestamp
from stores.models import ModelVersion
from vocabulary.errors import BrokenInvariantError

if TYPE_CHECKING:
    from assets.learning_plane import LearningPlane
    from assets.training import Trained
    from stores.audit_log import AuditEntry

Answer = TypeVar("Answer")

PROCESS: Final = "process|dagster"
"""Who acts where no person is named."""


class Asking(dg.Config):
    """What the committee is asked."""

    slot: str = "champion"
    """champion: to speak; silent: to score live patients without being shown."""
    waivers: list[str] = Field(default_factory=list)
    """Requirements to be signed away, by name (governance/lifecycle.toml): silent_period, sites."""
    sites: list[str] = Field(default_factory=list)
    """Hospitals whose patients the verdicts are about; empty for this one."""
    opened_by: str = PROCESS
    """Who asks, "issuer|subject"."""


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """What was asked."""

    request_id: str
    scope: str
    version: int
    model_digest: str
    evidence_digest: str
    conditions: tuple[str, ...]


def act(learning: LearningPlane, entry: AuditEntry, body: Callable[[Connection], Awaitable[Answer]]) -> Answer:
    """Do something in one transaction with its audit event.

    Raises:
        RefusedError: a rule forbids it; the refusal is audited.
        UnavailableError: nothing runs, or act and event could not be written.
    """
    settings = learning.settings()

    async def done() -> Answer:
        async with learning.auditor(settings) as auditor, acting(auditor, entry) as connection:
            return await body(connection)

    return asyncio.run(done())


def register(learning: LearningPlane, version: ModelVersion) -> ModelVersion:
    """Register a version under the next number of its scope; the same model twice keeps its number."""
    entry = event(
        "register_model",
        Verb.REGISTER,
        PROCESS,  # nobody signed in here: who the author is was told to this process, so it stands beside
        scope=version.scope,
        model_digest=version.model_digest,
        author=version.author,
    )

    async def add(connection: Connection) -> ModelVersion:
        return await models.add_version(connection, version)

    return act(learning, entry, add)


def open_request(learning: LearningPlane, trained: Trained, config: Asking) -> Request:
    """Ask the committee for an approval of a candidate; the same question twice is one request.

    Raises:
        RefusedError: its evidence does not suffice; says what is missing.
    """
    from governance import approvals, lifecycle, serving

    settings, now = learning.settings(), to_timestamp(learning.now_us())
    entry = event(
        "request_approval",
        Verb.OPEN,
        PROCESS,
        scope=trained.scope,
        version=trained.version,
        slot=config.slot,
        opened_by=config.opened_by,
    )
    trust, policy = serving.load_trust(settings, now), lifecycle.load()

    async def ask(connection: Connection) -> Request:
        version = await models.version_of_digest(connection, trained.model_digest)
        if version is None:
            raise BrokenInvariantError("expected the candidate among the registered versions, found none")
        found = await approvals.open_request(
            connection,
            version,
            Slot(config.slot),
            opened_by=config.opened_by,
            trust=trust,
            policy=policy,
            now=now,
            sites=config.sites,
            waivers=config.waivers,
        )
        return Request(
            request_id=found.request_id,
            scope=found.scope,
            version=found.version,
            model_digest=found.model_digest,
            evidence_digest=found.evidence_digest,
            conditions=found.conditions,
        )

    return act(learning, entry, ask)
