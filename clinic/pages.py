"""The pages people read: the ward board, a patient's page, the feeds.

Here: routes that answer HTML.
Not here: what rows and parts say (clinic.bed_view, clinic.patient_view), the streams that patch them (clinic.streams).
"""

from __future__ import annotations

from fastapi import APIRouter
from starlette.responses import HTMLResponse, RedirectResponse, Response

from clinic.context import Context
from clinic.patient_view import HOURS
from vocabulary.errors import UnavailableError
from vocabulary.snapshot import digest

SORTS = ("sick", "bed")


def page_router(context: Context) -> APIRouter:
    """Return the routes of the pages."""
    router = APIRouter()

    def board_page(ward: str | None, sort: str) -> HTMLResponse:
        board = context.board
        order = sort if sort in SORTS else SORTS[0]
        beds = sorted(board.beds(ward), key=lambda bed: bed.row.sick_key if order == "sick" else bed.row.bed_key)
        html = context.templates.get_template("board.html").render(
            beds=beds,
            ward=ward,
            wards=board.wards(),
            sort=order,
            state=board.state,
            shared=board.shared_text,
            empty=_empty_text(context, ward),
            emptied=_emptied_text(ward),
            house_html=context.feeds.strip_html,
            **_frame(context),
        )
        return HTMLResponse(html)

    @router.get("/")
    async def board(sort: str = SORTS[0]) -> HTMLResponse:
        return board_page(None, sort)

    @router.get("/wards/{ward:path}")
    async def ward_board(ward: str, sort: str = SORTS[0]) -> HTMLResponse:
        return board_page(ward, sort)

    @router.get("/patients/{patient_id}")
    async def patient(patient_id: int, hours: int = 0) -> Response:
        try:
            survivor = await context.survivor(patient_id)
            twin = None if survivor is None else await context.pages.twin(survivor)
        except UnavailableError:
            return message_page(context, 503, "This page is not available", "The database does not answer. Try again.")
        if survivor is None or twin is None:
            return message_page(context, 404, "No such patient", "There is no twin under this number.")
        if survivor != patient_id:
            return RedirectResponse(f"/patients/{survivor}", 307)
        await context.shown(twin)
        chosen = hours if hours in HOURS else await context.pages.hours_of_stay(twin.snapshot)
        html = context.templates.get_template("patient.html").render(
            snapshot=twin.snapshot,
            digest=digest(twin.body).hex(),
            parts=await context.pages.parts(twin, chosen),
            hours=chosen,
            all_hours=HOURS,
            **_frame(context),
        )
        return HTMLResponse(html)

    @router.get("/feeds")
    async def feeds() -> HTMLResponse:
        html = context.templates.get_template("feeds.html").render(
            table_html=context.feeds.table_html, **_frame(context)
        )
        return HTMLResponse(html)

    return router


def _emptied_text(ward: str | None) -> str:
    """Return what a board says when nobody is left in its beds."""
    where = "in a bed" if ward is None else f"in a bed of {ward or 'no ward'}"
    return f"Nobody is {where} now. A bed appears here by itself with its patient's first snapshot."


def _empty_text(context: Context, ward: str | None) -> str:
    """Return what a board without a bed says: nobody is here any more, or nobody ever was."""
    if context.ward.log_time_us() or context.board.beds():
        return _emptied_text(ward)
    return "No twin was heard of yet. Beds appear here as soon as their first snapshot is published."


def _frame(context: Context) -> dict[str, object]:
    """Return what every page's frame needs."""
    return {
        "site": context.settings.site,
        "now_us": context.clock.now_us(),
        "log_us": context.ward.log_time_us(),
        "speed": context.speed,
        "is_demonstration": context.settings.clock_origin_us is not None,
    }


def message_page(context: Context, status: int, title: str, detail: str) -> HTMLResponse:
    """Return a page that says why there is no other."""
    html = context.templates.get_template("message.html").render(title=title, detail=detail, **_frame(context))
    return HTMLResponse(html, status)
