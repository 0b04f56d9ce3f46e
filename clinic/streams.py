"""Server-sent events: the streams that keep the board, a patient's page and the feeds' page alive.

Here: the response that yields a viewer's events, and its first ones.
Not here: what events say (clinic.painter, clinic.patient_painter, clinic.feeds_painter), who gets them
(clinic.broadcast).
Source: HTML Living Standard, 9.2 Server-sent events.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

from fastapi import APIRouter
from starlette.responses import Response, StreamingResponse

from clinic.broadcast import ALL_WARDS, Hub, Viewer, ward_topic
from clinic.context import Context
from clinic.feeds_painter import FEEDS
from clinic.patient_painter import patient_topic
from clinic.patient_view import HOURS

_RETRY = b"retry: 2000\n\n"


async def _events(hub: Hub, viewer: Viewer, first: list[bytes]) -> AsyncIterator[bytes]:
    try:
        yield _RETRY + b"".join(first)
        while (event := await viewer.take()) is not None:
            yield event
    finally:
        hub.leave(viewer)


def _stream(context: Context, viewer: Viewer, first: list[bytes]) -> StreamingResponse:
    headers = {"X-Accel-Buffering": "no"}  # a proxy that gathers events would freeze the page
    return StreamingResponse(_events(context.hub, viewer, first), media_type="text/event-stream", headers=headers)


def stream_router(context: Context) -> APIRouter:
    """Return the routes under /streams."""
    router = APIRouter(prefix="/streams")

    @router.get("/board")
    async def board(ward: str | None = None, since: str = "") -> StreamingResponse:
        # Joined before the first event is made, so that no change falls between the two.
        viewer = context.hub.join([ALL_WARDS if ward is None else ward_topic(ward)])
        return _stream(context, viewer, [context.board.pulse(), context.board.repaint_event(ward, since)])

    @router.get("/patients/{patient_id}")
    async def patient(patient_id: int, hours: int = HOURS[1]) -> Response:
        if hours not in HOURS:
            return Response("Unknown number of hours.", 404)
        viewer = context.hub.join([patient_topic(patient_id, hours)])
        try:
            repaint = await context.pages.repaint_event(patient_id, hours)
        except BaseException:
            context.hub.leave(viewer)
            raise
        return _stream(context, viewer, [context.board.pulse(), *([repaint] if repaint else [])])

    @router.get("/feeds")
    async def feeds() -> StreamingResponse:
        viewer = context.hub.join([FEEDS])
        return _stream(context, viewer, [context.board.pulse(), context.feeds.table_event()])

    return router
