"""Pages of those who watch over the others: broken glasses to review, and the audit to search.

Here: routes and their pages.
Not here: the rules of a review (governance.break_glass), the log (stores.audit_log), the same as FHIR
(clinic.fhir_audit).
"""

from __future__ import annotations

from typing import Literal, cast
from urllib.parse import urlencode

import msgspec
from fastapi import APIRouter, Request
from starlette.exceptions import HTTPException
from starlette.responses import HTMLResponse, RedirectResponse, Response

from clinic.audit_view import AuditPage, AuditQuery, day_range, find_page, parse_cursor
from clinic.context import Context
from clinic.descriptions import FORM, PAGE, form_body
from clinic.frame import frame
from clinic.guarding import (
    GuardedRoute,
    asked,
    asks,
    caller_of,
    decide,
    decided,
    form_of,
    number_of,
    purpose_stated,
    searches,
)
from governance.access import Ask, Decision, Surface, Verb
from governance.break_glass import GlassRefusedError, pending_reviews, recent_reviews, review
from stores import access, audit_log
from stores.access import BrokenGlass
from stores.audit_log import Event
from stores.database import storable
from stores.ledger import detail_of
from vocabulary.errors import RefusedError

_LOOKS = 200  # of one glass: more no reviewer reads
_RECENT = 20
_VERDICTS = ("justified", "not_justified")
_OUTCOMES = ("permitted", "denied", "failed")
_SURFACES = tuple(surface.value for surface in Surface)


class GlassView(msgspec.Struct, frozen=True):
    """One broken glass with what was looked at under it."""

    glass: BrokenGlass
    looks: list[Event]
    is_open: bool


def officers_router(context: Context) -> APIRouter:
    """Return the routes under /reviews and /audit."""
    router = APIRouter(route_class=GuardedRoute, default_response_class=HTMLResponse, responses=FORM)

    async def reviews_page(request: Request, status: int, fault: str = "", faulty_id: int = 0) -> HTMLResponse:
        caller = caller_of(request)
        now_us = context.wall_clock.now_us()
        pending = await pending_reviews(context.gate, caller.principal)
        recent = await recent_reviews(context.gate, caller.principal, _RECENT)
        html = context.templates.get_template("reviews.html").render(
            pending=[await _glass_view(context, glass, now_us) for glass in pending],
            recent=recent,
            fault=fault,
            faulty_id=faulty_id,
            agent=caller.principal.agent,
            **frame(context, caller, here="/reviews"),
        )
        return HTMLResponse(html, status)

    @router.get("/reviews")
    @asks(Surface.REVIEW, Verb.READ, opens_view=True)
    async def reviews(request: Request) -> HTMLResponse:
        return await reviews_page(request, 200)

    @router.post("/reviews/{glass_id}", openapi_extra=form_body("note", "csrf", verdict=_VERDICTS))
    @searches(Surface.REVIEW, Verb.REVIEW)
    async def judge(request: Request, glass_id: str) -> Response:
        principal = caller_of(request).principal
        fields = await form_of(request)
        verdict = fields.get("verdict", "")
        number = number_of(glass_id)
        ask = Ask(surface=Surface.REVIEW, verb=Verb.REVIEW)
        if verdict not in _VERDICTS:
            raise HTTPException(400)
        try:
            await review(
                context.gate, principal, number,
                cast("Literal['justified', 'not_justified']", verdict), fields.get("note", ""),
            )  # fmt: skip
        except GlassRefusedError as refusal:
            decided(request, ask, Decision(is_permitted=False, rule=refusal.rule))
            return await reviews_page(request, 409, str(refusal), number)
        except RefusedError:
            raise HTTPException(404) from None
        decided(request, ask, Decision(is_permitted=True, rule=""))
        return RedirectResponse("/reviews", 303)

    @router.get("/audit", responses=PAGE)
    @searches(Surface.AUDIT, Verb.SEARCH)
    async def audit(
        request: Request,
        patient: str = "",
        agent: str = "",
        day: str = "",
        surface: str = "",
        outcome: str = "",
        cursor: str = "",
    ) -> HTMLResponse:
        query = _query_of(patient, agent, day, surface, outcome, cursor)
        page = await search_audit(context, request, query)
        asked_for = {"patient": patient, "agent": agent, "day": day, "surface": surface, "outcome": outcome}
        older = ""
        if page.next is not None:
            used = {name: value for name, value in asked_for.items() if value}
            older = f"/audit?{urlencode({**used, 'cursor': str(page.next)})}"
        html = context.templates.get_template("audit.html").render(
            events=page.events,
            older=older,
            surfaces=_SURFACES,
            outcomes=_OUTCOMES,
            asked_for=asked_for,
            **frame(context, caller_of(request), here="/audit"),
        )
        return HTMLResponse(html)

    return router


async def search_audit(context: Context, request: Request, query: AuditQuery) -> AuditPage:
    """Return a page of the audit; the search itself is one event. Of a patient nobody has there is nothing.

    Raises:
        HTTPException: 404: not permitted.
    """
    purpose = purpose_stated(request, context, Surface.AUDIT, Verb.SEARCH)
    ask = Ask(surface=Surface.AUDIT, verb=Verb.SEARCH, purpose=purpose, patient_id=query.patient_id)
    decision = await decide(request, context, ask, detail=detail_of(**query.told()))
    if decision.is_permitted:
        return await find_page(context.gate.pool, query)
    if query.patient_id is not None and context.may(asked(request).principal, Surface.AUDIT, Verb.SEARCH):
        return AuditPage([], None)
    raise HTTPException(404)


def _query_of(patient: str, agent: str, day: str, surface: str, outcome: str, cursor: str) -> AuditQuery:
    days = day_range(day) if day else None
    return AuditQuery(
        patient_id=number_of(patient.strip()) if patient.strip() else None,
        agent=storable(agent.strip()) or None,
        surface=surface if surface in _SURFACES else None,
        outcome=cast("audit_log.Outcome", outcome) if outcome in _OUTCOMES else None,
        since_us=days[0] if days else None,
        until_us=days[1] if days else None,
        cursor=parse_cursor(cursor),
    )


async def _glass_view(context: Context, glass: BrokenGlass, now_us: int) -> GlassView:
    async with context.gate.pool.reading() as connection:
        looks = await audit_log.find(
            connection,
            patient_ids=await access.records_of(connection, glass.patient_id),
            agent=glass.agent,
            since_us=glass.opened_at_us,
            until_us=glass.expires_at_us + 1,
            limit=_LOOKS,
        )
    mine = [
        event
        for event in reversed(looks)
        if event.entry.break_glass_id == glass.break_glass_id and event.entry.surface != Surface.BREAK_GLASS
    ]
    return GlassView(glass, mine, glass.expires_at_us > now_us)
