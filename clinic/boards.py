"""The ward boards as pages, and the decision that every form of a board stands under.

Here: the routes of the boards, what an empty one says.
Not here: what rows say (clinic.bed_view), who may see which bed (clinic.sight), the streams that patch them
(clinic.streams), the same as JSON (clinic.json_api).
"""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.exceptions import HTTPException
from starlette.responses import HTMLResponse

from clinic.context import Context
from clinic.descriptions import PAGE
from clinic.frame import frame
from clinic.guarding import GuardedRoute, caller_of, decided, new_view, purpose_stated, searches
from clinic.sight import BoardTopic
from governance.access import Ask, Decision, Surface, Verb

SORTS = ("sick", "bed")

_NO_WARD = "(none)"
"""Beds without a ward are nobody's ward."""
_UNKNOWN_WARD = "(unknown)"
"""An address may hold any text, a patient's name too; the audit holds only names of wards that there are."""


def ask_for_board(context: Context, request: Request, ward: str | None) -> Ask:
    """Return the decision a board stands under: one ward's, or that of all its viewer may see (None)."""
    purpose = purpose_stated(request, context, Surface.BOARD, Verb.READ)
    named = "" if ward is None else ward or _NO_WARD
    units = caller_of(request).principal.units
    if named and named not in units and all(bed.row.ward != named for bed in context.board.beds()):
        named = _UNKNOWN_WARD
    return Ask(surface=Surface.BOARD, verb=Verb.READ, purpose=purpose, ward=named)


async def permitted_board(context: Context, request: Request, ward: str | None, *, view: str = "") -> BoardTopic:
    """Return the board as the caller may see it; one event.

    Raises:
        HTTPException: 404: not permitted, or there is no such ward.
    """
    ask = ask_for_board(context, request, ward)
    topic = await context.board_for(caller_of(request).principal, ask, ward, view)
    decided(request, ask, Decision(is_permitted=topic is not None, rule=""), view)
    if topic is None:
        raise HTTPException(404)
    return topic


def board_router(context: Context) -> APIRouter:
    """Return the routes of the boards."""
    router = APIRouter(route_class=GuardedRoute, default_response_class=HTMLResponse, responses=PAGE)

    async def board_page(request: Request, ward: str | None, sort: str) -> HTMLResponse:
        board = context.board
        caller = caller_of(request)
        view = new_view(caller, ask_for_board(context, request, ward))
        topic = await permitted_board(context, request, ward, view=view)
        order = sort if sort in SORTS else SORTS[0]
        beds = sorted(board.beds_for(topic), key=lambda bed: bed.key_for(topic.sight, order))
        html = context.templates.get_template("board.html").render(
            beds=[bed.html_for(topic.sight) for bed in beds],
            ward=ward,
            wards=board.wards(topic.sight),
            sort=order,
            state=board.state(topic),
            shared=board.shared_text,
            risk_html=board.risk_html,
            risk_model=board.risk_model,
            empty=_empty_text(context, topic),
            emptied=_emptied_text(ward),
            house_html=context.feeds.strip_html if context.may(caller.principal, Surface.FEEDS) else "",
            **frame(context, caller, here="/", view=view),
        )
        return HTMLResponse(html)

    @router.get("/")
    @searches(Surface.BOARD, Verb.READ)
    async def board(request: Request, sort: str = SORTS[0]) -> HTMLResponse:
        return await board_page(request, None, sort)

    @router.get("/wards/{ward:path}")
    @searches(Surface.BOARD, Verb.READ)
    async def ward_board(request: Request, ward: str, sort: str = SORTS[0]) -> HTMLResponse:
        return await board_page(request, ward, sort)

    return router


def _emptied_text(ward: str | None) -> str:
    """Return what a board says when nobody is left in its beds."""
    where = "in a bed" if ward is None else f"in a bed of {ward or 'no ward'}"
    return f"Nobody is {where} now. A bed appears here by itself with its patient's first snapshot."


def _empty_text(context: Context, topic: BoardTopic) -> str:
    """Return what a board without a bed says: nobody is here any more, nobody ever was, or nobody is for the viewer."""
    if topic.ward is None and not topic.sight.wards and context.board.beds():
        return "No ward is yours, and nobody in a bed now is treated by you. A patient appears here as soon as one is."
    if context.ward.log_time_us() or context.board.beds():
        return _emptied_text(topic.ward)
    return "No twin was heard of yet. Beds appear here as soon as their first snapshot is published."
