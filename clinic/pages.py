"""The pages people read beside the boards: a patient's page, the feeds, who I am.

Here: routes that answer HTML.
Not here: the boards (clinic.boards), what parts say (clinic.patient_view), the streams that patch them
(clinic.streams), pages for officers (clinic.officers), breaking the glass (clinic.break_glass).
"""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.exceptions import HTTPException
from starlette.responses import HTMLResponse, Response

from clinic.context import Context
from clinic.descriptions import PAGE
from clinic.frame import frame
from clinic.guarding import Asked, GuardedRoute, asked, asks, caller_of, path_number, signed_in
from clinic.patient_view import HOURS
from governance.access import Surface, Verb
from stores import access
from vocabulary.snapshot import digest


def page_router(context: Context) -> APIRouter:
    """Return the routes of the pages."""
    router = APIRouter(route_class=GuardedRoute, default_response_class=HTMLResponse, responses=PAGE)

    @router.get("/patients/{patient_id}")
    @asks(Surface.PATIENT, Verb.READ, patient=path_number("patient_id"), opens_view=True)
    async def patient(request: Request, patient_id: str, hours: int = 0) -> Response:  # noqa: ARG001
        said = asked(request)
        # A retired record's number shows its survivor here: a redirect would be a second look.
        twin = await context.pages.twin(said.patient_id)
        if twin is None:
            raise HTTPException(404)
        await context.shown(twin)
        chosen = hours if hours in HOURS else await context.pages.hours_of_stay(twin.snapshot)
        html = context.templates.get_template("patient.html").render(
            snapshot=twin.snapshot,
            digest=digest(twin.body).hex(),
            parts=await context.pages.parts(twin, chosen),
            hours=chosen,
            all_hours=HOURS,
            glass_until_us=(until_us := await _glass_until_us(context, said)),
            glass_left_s=max(0, until_us - context.wall_clock.now_us()) // 1_000_000,
            has_board=context.may(said.principal, Surface.BOARD),
            ward_links=await context.gate.wards(said.principal),
            **frame(context, said.caller, view=said.view),
        )
        return HTMLResponse(html)

    @router.get("/feeds")
    @asks(Surface.FEEDS, Verb.READ, opens_view=True)
    async def feeds(request: Request) -> HTMLResponse:
        said = asked(request)
        html = context.templates.get_template("feeds.html").render(
            table_html=context.feeds.table_html, **frame(context, said.caller, here="/feeds", view=said.view)
        )
        return HTMLResponse(html)

    @router.get("/me")
    @signed_in
    async def me(request: Request) -> HTMLResponse:
        caller = caller_of(request)
        principal = caller.principal
        html = context.templates.get_template("me.html").render(
            principal=principal,
            units=sorted(principal.units),
            expires_at_us=caller.session.expires_at_us if caller.session else 0,
            **frame(context, caller, here="/me"),
        )
        return HTMLResponse(html)

    return router


async def _glass_until_us(context: Context, said: Asked) -> int:
    """Return until when the broken glass holds under which a page is read; 0: it is read without one."""
    if said.decision.break_glass_id is None:
        return 0
    async with context.gate.pool.reading() as connection:
        glass = await access.glass(connection, said.decision.break_glass_id)
    return glass.expires_at_us if glass else 0
