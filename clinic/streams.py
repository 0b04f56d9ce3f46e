"""Server-sent events: the streams that keep the board, a patient's page and the feeds' page alive.

Here: the routes, and the response that yields a viewer's events.
Not here: what events say (clinic.painter, clinic.patient_painter, clinic.feeds_painter), who gets them
(clinic.broadcast), for how long (clinic.watching).
Source: HTML Living Standard, 9.2 Server-sent events.
"""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from starlette.exceptions import HTTPException
from starlette.responses import Response, StreamingResponse

from clinic.boards import ask_for_board, permitted_board
from clinic.context import Context
from clinic.descriptions import STREAM
from clinic.guarding import (
    Asked,
    GuardedRoute,
    asked,
    asks,
    caller_of,
    new_view,
    path_number,
    searches,
    shown_view,
)
from clinic.patient_view import HOURS
from clinic.watching import BoardSubject, FeedsSubject, PatientSubject, Subject, Watch
from governance.access import Surface, Verb

View = Annotated[str, Query(description="The id a page of ours carries: its stream leaves no audit event of its own.")]


def _stream(context: Context, said: Asked, subject: Subject) -> StreamingResponse:
    # A stream that no page of ours opened is one event; asking again while it runs is none.
    watch = Watch(context, said.caller, subject, said.view, context.recheck_s)
    headers = {"X-Accel-Buffering": "no"}  # a proxy that gathers events would freeze the page
    return StreamingResponse(watch.events(), media_type="text/event-stream", headers=headers)


def stream_router(context: Context) -> APIRouter:
    """Return the routes under /streams."""
    router = APIRouter(prefix="/streams", route_class=GuardedRoute, responses=STREAM)
    options: dict[str, Any] = {"response_class": StreamingResponse}

    @router.get("/board", **options)
    @searches(Surface.BOARD, Verb.READ, continues_view=True)
    async def board(request: Request, ward: str | None = None, since: str = "", view: View = "") -> Response:  # noqa: ARG001
        ask = ask_for_board(context, request, ward)
        caller = caller_of(request)
        shown = shown_view(request, caller, ask) or new_view(caller, ask)
        topic = await permitted_board(context, request, ward, view=shown)
        return _stream(context, asked(request), BoardSubject(context, ask, topic, since))

    @router.get("/patients/{patient_id}", **options)
    @asks(Surface.PATIENT, Verb.READ, patient=path_number("patient_id"), continues_view=True)
    async def patient(request: Request, patient_id: str, hours: int = HOURS[1], view: View = "") -> Response:  # noqa: ARG001
        if hours not in HOURS:
            raise HTTPException(404)
        said = asked(request)
        return _stream(context, said, PatientSubject(context, said.ask, said.patient_id, hours))

    @router.get("/feeds", **options)
    @asks(Surface.FEEDS, Verb.READ, continues_view=True)
    async def feeds(request: Request, view: View = "") -> Response:  # noqa: ARG001
        said = asked(request)
        return _stream(context, said, FeedsSubject(context, said.ask))

    return router
