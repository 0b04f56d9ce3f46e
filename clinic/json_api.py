"""The JSON door: the ward at a glance, one patient, and snapshots byte for byte.

Here: routes under /api and their answers.
Not here: FHIR (clinic.fhir_api), what a snapshot holds (vocabulary.snapshot).
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
from fastapi import APIRouter, Request, Response
from starlette.exceptions import HTTPException

from clinic.bed_view import news2_of
from clinic.boards import permitted_board
from clinic.context import Context
from clinic.descriptions import JSON, SNAPSHOT
from clinic.guarding import NOBODY, GuardedRoute, asked, asks, path_number, searches
from clinic.sight import BoardTopic
from clinic.ward_live import Twin
from governance.access import Surface, Verb
from vocabulary.errors import UnavailableError
from vocabulary.snapshot import digest, parse_snapshot_id

MEDIA_TYPE = "application/json"


def respond(data: object, status: int = 200) -> Response:
    """Return plain values as JSON."""
    return Response(msgspec.json.encode(data), status, media_type=MEDIA_TYPE)


def problem(status: int, error: str, detail: str, **more: object) -> Response:
    """Return why a request has no answer."""
    return respond({"error": error, "detail": detail, **more}, status)


def snapshot_response(request: Request, body: bytes) -> Response:
    """Return a snapshot's canonical bytes under its digest, or 304 when the client has them already."""
    tag = f'"{digest(body).hex()}"'
    asked = [part.strip().removeprefix("W/") for part in request.headers.get("if-none-match", "").split(",")]
    if tag in asked or "*" in asked:
        return Response(None, 304, {"ETag": tag})
    return Response(body, 200, {"ETag": tag}, MEDIA_TYPE)


def _patient_of_snapshot(parameters: Mapping[str, str]) -> int:
    try:
        return parse_snapshot_id(parameters["snapshot_id"]).patient_id
    except ValueError:
        return NOBODY


def json_router(context: Context) -> APIRouter:
    """Return the routes under /api."""
    router = APIRouter(prefix="/api", route_class=GuardedRoute, responses=JSON)

    @router.get("/ward")
    @searches(Surface.BOARD, Verb.READ)
    async def ward(request: Request, ward: str | None = None) -> Response:
        return respond(ward_summary(context, await permitted_board(context, request, ward)))

    @router.get("/patients/{patient_id}")
    @asks(Surface.PATIENT, Verb.READ, patient=path_number("patient_id"))
    async def patient(request: Request, patient_id: str) -> Response:  # noqa: ARG001
        twin = await _twin(context, asked(request).patient_id)
        await context.shown(twin)
        person = await context.pages.person(twin.snapshot.patient_id)
        return respond(
            {
                "patient_id": twin.snapshot.patient_id,
                "person": person,
                "digest": digest(twin.body).hex(),
                "snapshot": msgspec.Raw(twin.body),
            }
        )

    @router.get("/patients/{patient_id}/snapshot", responses=SNAPSHOT)
    @asks(Surface.PATIENT, Verb.READ, patient=path_number("patient_id"))
    async def patient_snapshot(request: Request, patient_id: str) -> Response:  # noqa: ARG001
        twin = await _twin(context, asked(request).patient_id)
        await context.shown(twin)
        return snapshot_response(request, twin.body)

    @router.get("/snapshots/{snapshot_id}", responses=SNAPSHOT)
    @asks(Surface.PATIENT, Verb.READ, patient=_patient_of_snapshot)
    async def snapshot(request: Request, snapshot_id: str) -> Response:
        key = parse_snapshot_id(snapshot_id)  # one that is none was denied
        body = await context.snapshot_body(key)
        if body is not None:
            return snapshot_response(request, body)
        kept = await context.readers.snapshot(key)
        if kept is None:
            raise HTTPException(404)
        return problem(
            404,
            "body_not_kept",
            f"It was published, but its body was not kept. `vigil replay {snapshot_id}` makes it again.",
            digest=kept.digest.hex(),
            as_of_us=kept.as_of_us,
        )

    return router


async def _twin(context: Context, patient_id: int) -> Twin:
    twin = await context.pages.twin(patient_id)
    if twin is None:
        raise HTTPException(404)
    return twin


def ward_summary(context: Context, topic: BoardTopic) -> dict[str, object]:
    """Return every occupied bed with its score and signals, sickest first, and how fresh they are.

    Of a bed whose patient is not for the caller only the place is told.
    """
    beds: list[dict[str, object]] = []
    for bed in sorted(context.board.beds_for(topic), key=lambda bed: bed.key_for(topic.sight, "sick")):
        if not topic.sight.sees(bed.row.patient_id):
            beds.append({"ward": bed.row.ward, "bed": bed.row.bed, "is_restricted": True})
            continue
        twin = context.ward.twin(bed.row.patient_id)
        entry: dict[str, object] = {
            "patient_id": bed.row.patient_id,
            "ward": bed.row.ward,
            "bed": bed.row.bed,
            "name": bed.row.name,
            "is_synthetic": bed.row.is_synthetic,
            "notices": bed.row.notices,
        }
        if twin is not None:
            snapshot = twin.snapshot
            entry |= {
                "snapshot_id": snapshot.snapshot_id,
                "as_of_us": snapshot.as_of_us,
                "news2": news2_of(snapshot),
                "signals": {signal.concept: signal for signal in snapshot.signals},
                "feeds": snapshot.feeds,
            }
        beds.append(entry)
    return {
        "now_us": context.clock.now_us(),
        "log_us": context.ward.log_time_us(),
        "is_connected": context.ward.is_connected,
        "beds": beds,
    }


def json_failure(status: int, error: Exception) -> Response:
    """Return what went wrong outside a route."""
    if isinstance(error, UnavailableError):
        return problem(503, "unavailable", "The database does not answer. Try again.")
    if status == 404:
        return problem(404, "not_found", "It does not exist, or it is not for you to see.")
    return problem(status, "refused", "The request could not be answered.")
