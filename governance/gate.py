"""The gate: facts, decision and exactly one audit event, before anything is shown or done.

Here: gathering what the policy needs to know of patients, asking it, and recording what it said; acts in one
transaction with their audit row.
Not here: the table (governance.policy_table), its reading (governance.access), the audit's writing (governance.audit),
the rules of breaking a glass (governance.break_glass), what a denial looks like (clinic).

Nothing is permitted whose facts cannot be read or whose event cannot be written: UnavailableError, and the caller
refuses. There is no cache: a transfer, a refusal or a glass that ran out counts from the next ask on.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping
from contextlib import asynccontextmanager
from typing import NamedTuple

import msgspec

from governance import break_glass
from governance.access import (
    Ask,
    Decision,
    PatientFacts,
    Policy,
    Principal,
    Purpose,
    Relationship,
    Surface,
    Verb,
    refused,
)
from governance.audit import Auditor
from stores import access, care
from stores.access import BrokenGlass, Verdict
from stores.audit_log import AuditEntry
from stores.database import Connection
from stores.pool import Pool
from vocabulary.clock import Clock
from vocabulary.errors import RefusedError
from vocabulary.settings import Settings

CONNECTIONS = 4
"""Facts take a millisecond: more at once would only queue in the database."""

VIEWS_REMEMBERED = 50_000
"""Opened pages whose event is known to be written. One forgotten costs a second event, nothing else."""

_VIEW_LASTS_US = 12 * 3600 * 1_000_000
"""A page left open on a wall is recorded again after this: a view is no licence for ever."""


class _Said(NamedTuple):
    is_permitted: bool
    rule: str
    break_glass_id: int | None
    policy: str


class _View:
    """What was written of one page, and since when."""

    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        self.said: _Said | None = None
        self.written_at_us = 0


class Gate:
    """One for each process. Safe for any number of concurrent asks."""

    def __init__(
        self,
        policy: Policy,
        auditor: Auditor,
        connect: Callable[[], Awaitable[Connection]],
        clock: Clock,
        settings: Settings,
        *,
        views_remembered: int = VIEWS_REMEMBERED,
    ) -> None:
        """Ask `policy`, record with `auditor`.

        Args:
            policy: the table.
            auditor: where events go; the gate does not close it.
            connect: opens a connection for reading facts.
            clock: which glasses are open, and when an event was.
            settings: how long a broken glass stays broken.
            views_remembered: how many opened pages are known at most.
        """
        self.policy = policy
        self.auditor = auditor
        self.clock = clock
        self.pool = Pool(connect, CONNECTIONS)
        self._settings = settings
        self._views: OrderedDict[tuple[object, ...], _View] = OrderedDict()
        self._views_remembered = views_remembered

    async def close(self) -> None:
        """Close the connections that facts were read over."""
        await self.pool.close()

    def purpose_for(self, principal: Principal, surface: Surface, verb: Verb) -> Purpose | None:
        """Return the purpose a click of this person has where none is stated; None: nothing ever permits it."""
        return self.policy.purpose_for(principal.roles, surface, verb)

    async def facts(self, principal: Principal, patient_ids: Collection[int]) -> dict[int, PatientFacts]:
        """Return what the policy needs to know of each patient, by the id asked for; ids nobody has are absent.

        `PatientFacts.patient_id` is the surviving record's. What was said of any of a person's merged records counts.

        Raises:
            UnavailableError: the database does not answer.
        """
        patient_ids = [patient_id for patient_id in patient_ids if is_number_of_ours(patient_id)]
        if not patient_ids:
            return {}
        async with self.pool.reading() as connection:
            return await read_facts(connection, principal, patient_ids, self.clock.now_us())

    async def ask(self, principal: Principal, ask: Ask, *, view: str = "", detail: str = "") -> Decision:
        """Decide and record.

        Args:
            principal: who asks.
            ask: for what.
            view: the id that the clinic gave to an opened page: its later requests with the same ask write no further
                event while the decision is the same.
            detail: canonical JSON for the audit (stores.ledger.detail_of); no patient data.

        Raises:
            UnavailableError: facts cannot be read, or the event cannot be written: refuse.
        """
        patient_id = ask.patient_id
        facts = None if patient_id is None else (await self.facts(principal, [patient_id])).get(patient_id)
        decision = self.policy.decide(principal, ask, facts)
        entry = self.entry(principal, ask, decision, facts=facts, view=view, detail=detail)
        await self._record(principal, ask, decision, entry, view)
        return decision

    async def visible(
        self, principal: Principal, ask: Ask, patient_ids: Collection[int], *, view: str = "", detail: str = ""
    ) -> set[int]:
        """Return which of these patients a list or a search may show: one event, with how many were shown and withheld.

        The list itself must be permitted (`ask` without its patient), and each patient to be read on that surface.

        Raises:
            UnavailableError: facts cannot be read, or the event cannot be written: refuse.
        """
        whole = msgspec.structs.replace(ask, patient_id=None)
        decision = self.policy.decide(principal, whole, None)
        found: set[int] = set()
        glass: int | None = None
        if decision.is_permitted:
            known = await self.facts(principal, patient_ids)
            for patient_id, facts in known.items():
                each = self.decide_each(principal, ask, facts)
                if each.is_permitted:
                    found.add(patient_id)
                    glass = each.break_glass_id or glass
        counts = {"shown": len(found), "withheld": len(set(patient_ids)) - len(found)}
        if glass is not None:  # somebody is in the list only because a glass is broken
            decision = msgspec.structs.replace(decision, break_glass_id=glass)
        entry = self.entry(principal, whole, decision, view=view, detail=_with(detail, counts))
        await self._record(principal, whole, decision, entry, view)
        return found

    def decide_each(self, principal: Principal, ask: Ask, facts: PatientFacts) -> Decision:
        """Return whether one patient may stand in a list that `ask` is for. Pure: for streams that filter each change.

        Who uses it has asked for the list, and asks again for facts as often as a change must take effect.
        """
        one = msgspec.structs.replace(ask, verb=Verb.READ, patient_id=facts.patient_id)
        return self.policy.decide(principal, one, facts)

    async def wards(self, principal: Principal) -> frozenset[str]:
        """Return the wards whose boards this person may open. Needs no event: opening one is asked for."""
        purpose = self.purpose_for(principal, Surface.BOARD, Verb.READ) or Purpose.TREATMENT
        return frozenset(
            ward
            for ward in principal.units
            if self.policy.decide(
                principal, Ask(surface=Surface.BOARD, verb=Verb.READ, purpose=purpose, ward=ward), None
            ).is_permitted
        )

    @asynccontextmanager
    async def act(self, principal: Principal, ask: Ask, *, detail: str = "") -> AsyncIterator[Connection]:
        """Decide, and hold the transaction that holds the act and its event: both are kept, or neither.

        Do not `ask` before: this is the one event. A RefusedError raised inside undoes the act and leaves its event as
        a denial; any other error undoes both.

        Raises:
            RefusedError: the policy denies it (recorded). The text is the same for what does not exist.
            UnavailableError: facts cannot be read, or the event cannot be written; nothing was done.
        """
        patient_id = ask.patient_id
        facts = None if patient_id is None else (await self.facts(principal, [patient_id])).get(patient_id)
        decision = self.policy.decide(principal, ask, facts)
        if not decision.is_permitted:
            await self.auditor.record(self.entry(principal, ask, decision, facts=facts, detail=detail))
            raise refused()
        try:
            entry = self.entry(principal, ask, decision, facts=facts, detail=detail)
            async with self.auditor.act(entry) as connection:
                yield connection
        except RefusedError as refusal:
            rule = refusal.rule if isinstance(refusal, break_glass.GlassRefusedError) else "refused-by-rule"
            denied = Decision(is_permitted=False, rule=rule, role=decision.role)
            await self.auditor.record(self.entry(principal, ask, denied, facts=facts, detail=detail))
            raise

    async def open_break_glass(self, principal: Principal, patient_id: int, reason: str) -> BrokenGlass:
        """Break the glass for one patient. Asks and records by itself: do not `ask` before.

        Raises:
            As `governance.break_glass.open_glass`.
        """
        lasts_s = self._settings.break_glass_s
        return await break_glass.open_glass(self, principal, patient_id, reason, lasts_s=lasts_s)

    async def pending_reviews(self, principal: Principal) -> list[BrokenGlass]:
        """Return what waits for review, open glasses too, oldest first; `ask` for the page that shows it.

        Raises:
            RefusedError: this person may not see them.
        """
        return await break_glass.pending_reviews(self, principal)

    async def recent_reviews(self, principal: Principal, limit: int = 100) -> list[BrokenGlass]:
        """Return what was reviewed last, newest first; `ask` for the page that shows it.

        Raises:
            RefusedError: this person may not see them.
        """
        return await break_glass.recent_reviews(self, principal, limit)

    async def review(self, principal: Principal, break_glass_id: int, verdict: Verdict, note: str = "") -> BrokenGlass:
        """Judge a broken glass. Asks and records by itself: do not `ask` before.

        Raises:
            As `governance.break_glass.review`.
        """
        return await break_glass.review(self, principal, break_glass_id, verdict, note)

    def entry(
        self,
        principal: Principal,
        ask: Ask,
        decision: Decision,
        *,
        facts: PatientFacts | None = None,
        view: str = "",
        detail: str = "",
    ) -> AuditEntry:
        """Return the event of a decision."""
        patient_id = ask.patient_id if facts is None else facts.patient_id
        more: dict[str, str | int | bool] = {}
        if patient_id is not None and not is_number_of_ours(patient_id):
            more["asked_as"], patient_id = str(patient_id)[:40], None
        elif patient_id != ask.patient_id and ask.patient_id is not None:
            more["asked_as"] = ask.patient_id  # a record merged into this one
        if ask.ward:
            more["ward"] = ask.ward
        if principal.client:
            more["client"] = principal.client
        purpose = ask.purpose if decision.break_glass_id is None else Purpose.BREAK_GLASS
        return AuditEntry(
            at_us=self.clock.now_us(),
            action=str(ask.verb),
            outcome="permitted" if decision.is_permitted else "denied",
            surface=ask.surface,
            verb=ask.verb,
            agent=principal.agent,
            agent_name=principal.name,
            role="" if decision.role is None else decision.role,
            purpose=purpose,
            patient_id=patient_id,
            rule=decision.rule,
            policy=self.policy.digest[:16],
            session=principal.session,
            view=view,
            break_glass_id=decision.break_glass_id,
            detail=_with(detail, more),
        )

    async def _record(self, principal: Principal, ask: Ask, decision: Decision, entry: AuditEntry, view: str) -> None:
        if not view:
            await self.auditor.record(entry)
            return
        key = (principal.agent, principal.session, view, *msgspec.structs.astuple(ask))
        if not decision.is_permitted and key not in self._views:
            await self.auditor.record(entry)  # a page that was never opened: each attempt is an event
            return
        seen = self._views.setdefault(key, _View())
        self._views.move_to_end(key)
        while len(self._views) > self._views_remembered:
            self._views.popitem(last=False)
        said = _Said(decision.is_permitted, decision.rule, decision.break_glass_id, entry.policy)
        async with seen.lock:
            if seen.said == said and entry.at_us - seen.written_at_us < _VIEW_LASTS_US:
                return
            await self.auditor.record(entry)
            seen.said, seen.written_at_us = said, entry.at_us


async def read_facts(
    connection: Connection, principal: Principal, patient_ids: Collection[int], now_us: int
) -> dict[int, PatientFacts]:
    """Return what the policy needs to know of patients, by the id asked for, in four queries however many there are.

    Args:
        connection: inside `consistent_read`, so that all facts are of one moment.
        principal: to whom the relationship is.
        patient_ids: surviving or retired records; ids nobody has are absent from the answer.
        now_us: when a glass must still be open.
    """
    rows = await access.standing(connection, principal.agent, patient_ids, now_us)
    # Asked about nobody too: who is not here must not answer sooner than who may not be seen.
    records = sorted({row.record for row in rows} or set(patient_ids))
    wards = await care.wards_of(connection, records)
    practitioners = await care.practitioners_of(connection, records) if principal.practitioner else {}
    vips = await care.vip(connection, records)
    of_person: dict[int, list[access.Standing]] = {}
    for row in rows:
        of_person.setdefault(row.asked, []).append(row)
    return {asked: _facts(principal, persons, wards, practitioners, vips) for asked, persons in of_person.items()}


def _facts(
    principal: Principal,
    rows: list[access.Standing],
    wards: Mapping[int, str],
    practitioners: Mapping[int, Collection[str]],
    vips: Collection[int],
) -> PatientFacts:
    lies_on = sorted({wards[row.record] for row in rows if wards.get(row.record)})
    ours = [ward for ward in lies_on if ward in principal.units]
    relationship = Relationship.UNIT if ours else Relationship.NONE
    if principal.practitioner and any(principal.practitioner in practitioners.get(row.record, ()) for row in rows):
        relationship = Relationship.TREATING
    glasses = [row.break_glass_id for row in rows if row.break_glass_id is not None]
    return PatientFacts(
        patient_id=rows[0].survivor,
        ward=(ours or lies_on or [""])[0],
        relationship=relationship,
        is_vip=any(row.is_vip or row.record in vips for row in rows),
        permits_secondary_use=all(row.permits_secondary for row in rows),
        permits_sharing=all(row.permits_sharing for row in rows),
        break_glass_id=max(glasses, default=None),
    )


def is_number_of_ours(patient_id: int) -> bool:
    """Return whether a number could be a patient's: what a URL holds need not fit into a database's column."""
    return 0 < patient_id < 2**63


def _with(detail: str, more: Mapping[str, str | int | bool]) -> str:
    """Return canonical JSON with more facts in it."""
    if not more:
        return detail
    facts: dict[str, object] = msgspec.json.decode(detail, type=dict[str, object]) if detail else {}
    return msgspec.json.encode({**facts, **more}, order="sorted").decode()
