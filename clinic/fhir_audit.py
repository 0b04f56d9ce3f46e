"""The audit as FHIR AuditEvents, for those who may search it.

Here: AuditEvent read and search.
Not here: what an event looks like in FHIR (governance.audit_event), the log (stores.audit_log).
Source: HL7 FHIR R4 AuditEvent; IHE ITI-81 Retrieve ATNA Audit Event (parameters date, patient, agent).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from urllib.parse import urlencode

from fastapi import APIRouter, Request, Response
from starlette.exceptions import HTTPException

from clinic.audit_view import AuditQuery, parse_cursor
from clinic.context import Context
from clinic.descriptions import FHIR, FhirResponse, audit_search
from clinic.fhir_api import failed, respond
from clinic.fhir_search import DEFAULT_COUNT, LARGEST_COUNT, SearchError, date_range
from clinic.guarding import NOBODY, GuardedRoute, asks, number_of, searches
from clinic.officers import search_audit
from governance.access import Surface, Verb
from governance.audit import as_fhir
from stores import audit_log
from stores.audit_log import Event
from stores.database import storable

_LATEST_US = 253_402_214_400_000_000  # a day before the year 10000: what PostgreSQL and Python both can tell
_PARAMETERS = ("patient", "agent", "date", "_count", "_cursor")


def fhir_audit_router(context: Context) -> APIRouter:
    """Return the routes under /fhir/AuditEvent."""
    router = APIRouter(prefix="/fhir", route_class=GuardedRoute, responses=FHIR, default_response_class=FhirResponse)

    def resource(event: Event) -> dict[str, Any]:
        return as_fhir(event.entry, event.seq, event.writer, context.settings.site)

    @router.get("/AuditEvent", openapi_extra=audit_search())
    @searches(Surface.AUDIT, Verb.SEARCH)
    async def search(request: Request) -> Response:
        parameters = request.query_params.multi_items()
        try:
            query = _query_of(parameters)
        except SearchError as error:
            return failed(400, "value", f"{error}.")
        page = await search_audit(context, request, query)
        base = f"{request.base_url}fhir/AuditEvent"
        used = [(name, value) for name, value in parameters if name in _PARAMETERS]
        links = [{"relation": "self", "url": f"{base}?{urlencode(used)}"}]
        if page.next is not None:
            kept = [(name, value) for name, value in used if name != "_cursor"]
            links.append({"relation": "next", "url": f"{base}?{urlencode([*kept, ('_cursor', str(page.next))])}"})
        bundle: dict[str, Any] = {"resourceType": "Bundle", "type": "searchset", "link": links}
        entries = [resource(event) for event in page.events]
        if entries:
            bundle["entry"] = [
                {"fullUrl": f"{base}/{one['id']}", "resource": one, "search": {"mode": "match"}} for one in entries
            ]
        return respond(bundle)

    @router.get("/AuditEvent/{event_id}")
    @asks(Surface.AUDIT, Verb.READ)
    async def read(request: Request, event_id: str) -> Response:  # noqa: ARG001
        writer, _, number = event_id.rpartition(".")
        found = None
        if writer.isprintable() and number.isascii() and number.isdigit() and len(number) < 19:
            async with context.gate.pool.reading() as connection:
                found = await audit_log.get(connection, writer, int(number))
        if found is None:
            raise HTTPException(404)
        return respond(resource(found))

    return router


def _query_of(parameters: Sequence[tuple[str, str]]) -> AuditQuery:
    """Return what FHIR parameters ask for.

    Raises:
        SearchError: a value cannot be understood.
    """
    patient_id: int | None = None
    agent: str | None = None
    since_us, until_us = 0, _LATEST_US
    count, cursor = DEFAULT_COUNT, None
    for name, value in parameters:
        if name == "patient":
            patient_id = number_of(value.removeprefix("Patient/"))
            if patient_id == NOBODY:
                raise SearchError("patient: expected Patient/<number>")
        elif name == "agent":
            agent = storable(value)
        elif name == "date":
            low_us, high_us = date_range(value)
            since_us = max(since_us, _within(low_us, 0))
            until_us = min(until_us, _within(high_us, _LATEST_US))
        elif name == "_count":
            if not (value.isascii() and value.isdigit() and len(value) < 10):
                raise SearchError("_count: expected a whole number")
            count = max(1, min(int(value), LARGEST_COUNT))
        elif name == "_cursor":
            cursor = parse_cursor(value)
            if cursor is None:
                raise SearchError("_cursor: expected what a next link carried")
    return AuditQuery(
        patient_id=patient_id, agent=agent, since_us=since_us, until_us=until_us, count=count, cursor=cursor
    )


def _within(at_us: int | None, otherwise_us: int) -> int:
    return otherwise_us if at_us is None else min(max(at_us, 0), _LATEST_US)
