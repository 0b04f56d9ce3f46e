"""The JSON door: the ward at a glance, one patient, and snapshots byte for byte.

Here: routes under /api and their answers.
Not here: FHIR (clinic.fhir_api), what a snapshot holds (vocabulary.snapshot).
"""

from __future__ import annotations

import msgspec
from fastapi import APIRouter, Request, Response

from clinic.bed_view import news2_of
from clinic.context import Context
from clinic.ward_live import Twin
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


def json_router(context: Context) -> APIRouter:
    """Return the routes under /api."""
    router = APIRouter(prefix="/api")

    @router.get("/ward")
    async def ward(ward: str | None = None) -> Response:
        return respond(ward_summary(context, ward))

    @router.get("/patients/{patient_id}")
    async def patient(patient_id: int) -> Response:
        twin = await _twin(context, patient_id)
        if twin is None:
            return problem(404, "not_found", "There is no twin of such a patient.")
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

    @router.get("/patients/{patient_id}/snapshot")
    async def patient_snapshot(request: Request, patient_id: int) -> Response:
        twin = await _twin(context, patient_id)
        if twin is None:
            return problem(404, "not_found", "There is no twin of such a patient.")
        await context.shown(twin)
        return snapshot_response(request, twin.body)

    @router.get("/snapshots/{snapshot_id}")
    async def snapshot(request: Request, snapshot_id: str) -> Response:
        try:
            key = parse_snapshot_id(snapshot_id)
        except ValueError:
            return problem(404, "not_found", "A snapshot id looks like 07-18233-412.")
        body = await context.snapshot_body(key)
        if body is not None:
            return snapshot_response(request, body)
        kept = await context.readers.snapshot(key)
        if kept is None:
            return problem(404, "not_found", "No such snapshot was published.")
        return problem(
            404,
            "body_not_kept",
            f"It was published, but its body was not kept. `vigil replay {snapshot_id}` makes it again.",
            digest=kept.digest.hex(),
            as_of_us=kept.as_of_us,
        )

    return router


async def _twin(context: Context, patient_id: int) -> Twin | None:
    survivor = await context.survivor(patient_id)
    return None if survivor is None else await context.pages.twin(survivor)


def ward_summary(context: Context, ward: str | None) -> dict[str, object]:
    """Return every occupied bed with its score and signals, sickest first, and how fresh they are."""
    beds = []
    for bed in sorted(context.board.beds(ward), key=lambda bed: bed.row.sick_key):
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
    return problem(status, "not_found" if status == 404 else "refused", "The request could not be answered.")
