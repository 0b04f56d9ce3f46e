"""The live watch: a model in service is held against what lately happened, and silenced or replaced within seconds.

Runs beside the keeper's housekeeping, on connections of its own. Each look reads one moment of the database, judges
every champion that speaks (validation.live), and on a breach reacts to the gravest cause: serving row, incident and
audit event in one transaction, whose commit tells the engines. Needs PostgreSQL alone: no registry, no Dagster.

Nothing in memory matters: what was already reacted to is read from the record each time. One reaction a cause holds
until somebody lets the model speak again; evidence then begins anew (twin.watch_table).

A look that fails for a reason of our own (a manifest that is damaged, a protocol that is gone) leaves a model without
a guard: that is an incident of its own, `watch_failed`, and shows in the keeper's health. PostgreSQL away: it waits.

Here: the loop, when to react, what is kept of a verdict.
Not here: gathering evidence (twin.watch_table), judging it (validation.live), what a cause leads to
(governance.rollback, governance/lifecycle.toml), the engine's own following of the record (twin.serving).
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Sequence
from contextlib import suppress
from typing import Final

from governance import lifecycle, rollback, serving
from governance.audit import Auditor
from governance.notary import heads_of
from governance.serving import Judgement, Standing
from governance.serving_record import Appender, appender_of, read_rows
from governance.statements import Action, ServingRow, Slot
from stores import incidents, models, positions
from stores import serving as serving_store
from stores.database import Connection, connect, consistent_read, to_timestamp, transaction
from stores.incidents import Incident
from twin import health
from twin.watch_reference import references_of
from twin.watch_table import Watched, gather
from validation import model_protocol
from validation.live import Cause, causes, judge_live
from vocabulary.clock import Clock
from vocabulary.errors import (
    BrokenInvariantError,
    ConfigurationError,
    FencedOutError,
    RefusedError,
    UnavailableError,
    VigilError,
)
from vocabulary.settings import Settings
from vocabulary.verdict import Kind, Outcome, Verdict

WRITER: Final = "keeper"
WATCH_FAILED: Final = "watch_failed"
KEPT_AGAIN_AFTER_US: Final = 3600 * 1_000_000
"""A verdict that says the same as the last one kept is kept again after this long, as a sign that somebody looks."""
REST: Final = 9
"""After each look the watch rests this many times as long as the look took: a tenth of one connection at most."""
JUDGED_AGAIN_AFTER_S: Final = 10.0
"""The serving record is judged again at least this often, though no row came: rosters and approvals end."""
DIVES_EVERY_S: Final = 20.0
"""Inputs that only signal blocks hold (invasive pressures) are looked at this often: each look is a walk a patient."""

_SPEAKS: Final = frozenset({Action.PROMOTE, Action.RESTORE, Action.RESUME})
_log = logging.getLogger("vigil.watch")


class Watch:
    """One keeper's watch over the models in service. What it remembers only saves it work."""

    def __init__(
        self, settings: Settings, connection: Connection, auditor: Auditor, appender: Appender, clock: Clock
    ) -> None:
        """Describe the watch.

        Args:
            settings: of the keeper.
            connection: outside of a transaction; used by this watch alone.
            auditor: of the keeper's chain.
            appender: the keeper as a signer of serving rows.
            clock: real time; windows are of the log's clock, which is read from the database.
        """
        self._settings = settings
        self._connection = connection
        self._auditor = auditor
        self._appender = appender
        self._clock = clock
        self._policy = lifecycle.load()
        self._dived_us: dict[str, int] = {}  # by scope: when signal blocks were last looked into
        self._judged: tuple[int, int, dict[str, Judgement], list[ServingRow]] | None = None
        self.detail: health.Detail = {"watched": 0, "breaches": 0, "failures": 0, "last_look_us": 0, "look_s": 0.0}

    async def look(self) -> list[Verdict]:
        """Judge every champion that speaks, and react to what is wrong; return the verdicts.

        Raises:
            UnavailableError: PostgreSQL is away; nothing was done, or all of it.
            FencedOutError: another keeper appends to our audit chain.
        """
        verdicts = []
        failures = 0
        started_us = self._clock.now_us()
        speaking = await self._speaking()
        async with transaction(self._connection):
            places = await positions.read(self._connection)
        # Of the engines, which move with every tick: the normalizer's place stands still while nobody sends anything.
        log_time_us = max(place.log_time_us for place in places.values())
        for judgement, rows in speaking:
            try:
                verdict = await self._judge(judgement, rows, log_time_us)
                found = causes(verdict)
                await self._keep(judgement, verdict)
                if found:
                    await self._react(judgement, found[0], verdict)
                verdicts.append(verdict)
            except FencedOutError:
                raise
            except (ConfigurationError, BrokenInvariantError, RefusedError, ValueError) as error:
                failures += 1
                await self._failed(judgement, error)
        self.detail = {
            "watched": len(speaking),
            "breaches": sum(verdict.outcome is Outcome.FAIL for verdict in verdicts),
            "failures": failures,
            "last_look_us": self._clock.now_us(),
            "look_s": (self._clock.now_us() - started_us) / 1e6,
        }
        return verdicts

    async def _speaking(self) -> list[tuple[Judgement, list[ServingRow]]]:
        """Return the scopes whose champion speaks, each with its record."""
        async with transaction(self._connection):
            newest = await serving_store.newest(self._connection)
        now_us = self._clock.now_us()
        known = self._judged
        if known is None or known[0] != newest or now_us - known[1] > JUDGED_AGAIN_AFTER_S * 1e6:
            now = to_timestamp(now_us)
            # The note of what was seen first: a row appended in between is then new, and not missing from it.
            trust = serving.load_trust(self._settings, now)
            async with transaction(self._connection):
                rows = await read_rows(self._connection)
            known = self._judged = (newest, now_us, serving.judge(rows, trust, self._policy, now), rows)
        _, _, judgements, rows = known
        return [
            (judgement, [row for row in rows if row.scope == scope and row.slot is Slot.CHAMPION])
            for scope, judgement in sorted(judgements.items())
            if judgement.slots[Slot.CHAMPION].standing in {Standing.SPEAKING, Standing.CLAMPED}
        ]

    async def _judge(self, judgement: Judgement, rows: Sequence[ServingRow], log_time_us: int) -> Verdict:
        held = judgement.slots[Slot.CHAMPION]
        assert held.row is not None
        async with consistent_read(self._connection) as connection:
            version = await models.version_of_digest(connection, held.row.model_digest)
            if version is None or hashlib.sha256(version.manifest.encode()).hexdigest() != held.row.model_digest:
                raise ConfigurationError(
                    f"The manifest of {judgement.scope}@{held.row.version} is not in the database, or was altered "
                    "there: register the version again, or roll it back."
                )
            protocol = model_protocol.load(judgement.scope)
            anew = _spoke_anew(judgement, rows)
            watched = Watched(
                scope=judgement.scope,
                version=held.row.version,
                model_digest=held.row.model_digest,
                serving_id=held.serving_id,
                spoke_anew_id=anew.serving_id,
                is_resumed=anew.action is Action.RESUME,
                references=references_of(version.manifest.encode()),
            )
            is_deep = self._clock.now_us() - self._dived_us.get(judgement.scope, 0) >= DIVES_EVERY_S * 1e6
            table = await gather(connection, watched, protocol, log_time_us, is_deep=is_deep)
            if is_deep:
                self._dived_us[judgement.scope] = self._clock.now_us()
        return judge_live(protocol, table, model_digest=watched.model_digest, made_at_us=self._clock.now_us())

    async def _keep(self, judgement: Judgement, verdict: Verdict) -> None:
        """Keep a verdict that fails, that says another thing than the last one kept, or when that was long ago."""
        if causes(verdict):
            return  # kept in the transaction of the reaction
        async with transaction(self._connection) as connection:
            last = next(
                (one for one in await models.verdicts_of(connection, verdict.model_digest, limit=50)
                 if one.verdict.kind is Kind.LIVE),
                None,
            )  # fmt: skip
            now_us = self._clock.now_us()
            if last is None or _said(last.verdict) != _said(verdict) or now_us - last.at_us > KEPT_AGAIN_AFTER_US:
                await models.add_verdict(connection, verdict, verdict.model_digest, now_us)
        _log.debug("watched", extra={"scope": judgement.scope, "outcome": str(verdict.outcome)})

    async def _react(self, judgement: Judgement, cause: Cause, verdict: Verdict) -> None:
        """Let the gravest cause have its consequence: serving row, incident and audit event, all or none."""
        now = to_timestamp(self._clock.now_us())
        reaction = await rollback.react(
            self._auditor,
            judgement.scope,
            str(cause),
            statement=verdict.statement,
            verdict=verdict,
            appender=self._appender,
            trust=serving.load_trust(self._settings, now),
            policy=self._policy,
            now=now,
        )
        self._judged = None
        said: dict[str, str | int] = {"scope": judgement.scope, "cause": str(cause), "statement": verdict.statement}
        if reaction is not None:
            said |= {
                "reaction": str(reaction.row.action),
                "serving": reaction.row.serving_id,
                "incident": reaction.incident_id,
            }
        _log.error("model_breached", extra=said)

    async def _failed(self, judgement: Judgement, error: Exception) -> None:
        """Say that a model speaks without a guard: in the log each time, as an incident once."""
        held = judgement.slots[Slot.CHAMPION]
        reason = str(error) if isinstance(error, VigilError) else type(error).__name__
        _log.error("watch_failed", extra={"scope": judgement.scope, "reason": reason})
        async with transaction(self._connection) as connection:
            known = await incidents.find(connection, scope=judgement.scope, cause=WATCH_FAILED, is_open=True, limit=1)
            if known:
                return
            await incidents.add(
                connection,
                Incident(
                    at_us=self._clock.now_us(),
                    scope=judgement.scope,
                    slot=str(Slot.CHAMPION),
                    cause=WATCH_FAILED,
                    statement=f"Nobody watches this model: {reason}",
                    reaction="",
                    model_digest="" if held.row is None else held.row.model_digest,
                    opened_by=self._appender.name,
                ),
            )


def _said(verdict: Verdict) -> tuple[Outcome, frozenset[tuple[str, str, Outcome]]]:
    """Return what of a verdict is worth keeping it anew for."""
    return verdict.outcome, frozenset((one.name, one.group, one.outcome) for one in verdict.measures)


def _spoke_anew(judgement: Judgement, rows: Sequence[ServingRow]) -> ServingRow:
    """Return the newest row that let the champion speak: its promotion, a restoration, or a person's resumption."""
    held = judgement.slots[Slot.CHAMPION]
    refused = {refusal.serving_id for refusal in judgement.refusals}
    return next(
        row
        for row in reversed(rows)
        if row.action in _SPEAKS and row.serving_id not in refused and row.serving_id <= held.serving_id
    )


async def run(settings: Settings, url: str, clock: Clock, stop: asyncio.Event, tell: health.Detail) -> None:
    """Watch until `stop`; survives the database going away, and whatever else goes wrong within one look.

    Args:
        settings: of the keeper, with its identity.
        url: of the database, in the keeper's role.
        clock: real time.
        stop: ends the watch.
        tell: receives what the keeper's health says of the watch.
    """
    if settings.identity_dir is None:
        # A program by hand: it could sign neither a serving row nor an audit event, so it may not react.
        _log.warning("not_watching", extra={"reason": "this keeper has no identity; `vigil up` gives it one"})
        tell["watching"] = False
        return
    appender = appender_of(settings, WRITER)
    while not stop.is_set():
        pause_s = 1.0
        try:
            pause_s = await _watch_on_one_connection(settings, url, clock, stop, appender, tell)
        except UnavailableError as error:
            _log.warning("watch_waits", extra={"reason": str(error)})
        except Exception:  # noqa: BLE001 - see below
            # The outermost loop of this task: whatever it is, housekeeping goes on, and so does the next look.
            _log.exception("watch_failed")
        tell["watching"] = False
        with suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), pause_s)


async def _watch_on_one_connection(
    settings: Settings, url: str, clock: Clock, stop: asyncio.Event, appender: Appender, tell: health.Detail
) -> float:
    connection = await connect(url, application_name="vigil watch")
    auditor = Auditor(
        lambda: connect(url, application_name="vigil watch audit"), WRITER, appender.signer, heads_of(settings), clock
    )
    try:
        watch = Watch(settings, connection, auditor, appender, clock)
        while not stop.is_set():
            began_s = asyncio.get_running_loop().time()
            await watch.look()
            tell.update({f"watch_{key}": value for key, value in watch.detail.items()}, watching=True)
            took_s = asyncio.get_running_loop().time() - began_s
            with suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), max(settings.watch_interval_s, REST * took_s))
    finally:
        await auditor.close()
        await connection.close()
    return 0.0
