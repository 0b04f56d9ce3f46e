"""Breaking the glass from a page: an identifier, a reason, and one answer for whatever does not work.

Here: the form and what it does.
Not here: the rules (governance.break_glass), reviewing (clinic.officers), what a broken glass permits
(governance.access).
The identifier is typed, never offered: a page that offered patients would say who is here.
"""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.exceptions import HTTPException
from starlette.responses import HTMLResponse, RedirectResponse, Response

from clinic.context import Context
from clinic.descriptions import FORM, form_body
from clinic.frame import frame
from clinic.guarding import NOBODY, GuardedRoute, asks, caller_of, decided, form_of, searches
from governance.access import Ask, Decision, Purpose, Surface, Verb
from governance.break_glass import GlassRefusedError, open_glass
from stores.database import storable

_LONGEST_IDENTIFIER = 100


def glass_router(context: Context) -> APIRouter:
    """Return the routes under /break-glass."""
    router = APIRouter(route_class=GuardedRoute, default_response_class=HTMLResponse, responses=FORM)

    def form(request: Request, status: int, fault: str = "", identifier: str = "", reason: str = "") -> HTMLResponse:
        html = context.templates.get_template("break_glass.html").render(
            fault=fault,
            identifier=identifier,
            reason=reason,
            minutes=round(context.settings.break_glass_s / 60),
            **frame(context, caller_of(request), here="/break-glass"),
        )
        return HTMLResponse(html, status)

    @router.get("/break-glass")
    @asks(Surface.BREAK_GLASS, Verb.OPEN)
    async def glass_form(request: Request) -> HTMLResponse:
        return form(request, 200)

    @router.post("/break-glass", openapi_extra=form_body("identifier", "reason", "csrf"))
    @searches(Surface.BREAK_GLASS, Verb.OPEN)
    async def break_glass(request: Request) -> Response:
        principal = caller_of(request).principal
        fields = await form_of(request)
        identifier = storable(fields.get("identifier", "").strip(), _LONGEST_IDENTIFIER)
        reason = fields.get("reason", "")
        ask = Ask(surface=Surface.BREAK_GLASS, verb=Verb.OPEN, purpose=Purpose.BREAK_GLASS, patient_id=NOBODY)
        # Who may come to no glass at all is told what everybody is told of a page that is not there.
        may_come = context.may(principal, Surface.BREAK_GLASS, Verb.OPEN)
        try:
            patient_id = await _patient_of(context, identifier)
            glass = await open_glass(
                context.gate, principal, patient_id, reason, lasts_s=context.settings.break_glass_s
            )
        except GlassRefusedError as refusal:
            decided(request, ask, Decision(is_permitted=False, rule=refusal.rule))
            if not may_come:
                raise HTTPException(404) from None
            return form(request, 409, str(refusal), identifier, reason)
        decided(request, ask, Decision(is_permitted=True, rule="", break_glass_id=glass.break_glass_id))
        return RedirectResponse(f"/patients/{glass.patient_id}", 303)

    return router


async def _patient_of(context: Context, identifier: str) -> int:
    """Return the one patient a hospital's identifier leads to; NOBODY when it leads to none, or to several."""
    found = await context.readers.find_by_identifier(None, identifier) if identifier else []
    survivors = {survivor for one in found if (survivor := await context.survivor(one)) is not None}
    return survivors.pop() if len(survivors) == 1 else NOBODY
