"""The FHIR door of what models say: one RiskAssessment by its id, the present ones of a patient.

Here: routes of RiskAssessment.
Not here: what the resource looks like (clinic.fhir_risk), the rest of the door (clinic.fhir_api).
A search answers from the latest snapshot, as that of NEWS2 does; an earlier estimate is read by its id, which is that
of its snapshot, wherever that snapshot was kept.
Source: HL7 FHIR R4 (4.0.1), RESTful API; RiskAssessment search parameters patient, subject, date.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from fastapi import APIRouter, Request, Response
from starlette.exceptions import HTTPException

from clinic.context import Context
from clinic.descriptions import FHIR, SEARCH_IN_FORM, SEARCH_IN_QUERY, FhirResponse, risk_search
from clinic.fhir_api import FhirDoor, failed, form_parameters, respond
from clinic.fhir_resources import Resource
from clinic.fhir_risk import risk_assessments, snapshot_risk
from clinic.fhir_search import LARGEST_COUNT, SearchError, date_range
from clinic.guarding import NOBODY, GuardedRoute, asks, decide, number_of, purpose_stated, searches
from governance.access import Ask, Surface, Verb
from stores.ledger import detail_of
from vocabulary.snapshot import from_bytes, parse_snapshot_id

Parameters = Sequence[tuple[str, str]]


def _patient_of(parameters: Mapping[str, str]) -> int:
    try:
        return parse_snapshot_id(parameters["resource_id"].partition(".")[0]).patient_id
    except ValueError:
        return NOBODY


async def _search(context: Context, door: FhirDoor, request: Request, parameters: Parameters) -> Response:
    """Return what the latest snapshot of one patient says; nothing for whoever may not read it."""
    references = [value for name, value in parameters if name in {"patient", "subject"}]
    if len(references) != 1:
        return failed(400, "required", "RiskAssessment search needs exactly one `patient`.")
    number = number_of(references[0].removeprefix("Patient/"))
    if number == NOBODY:
        return failed(400, "value", "patient: expected Patient/<number>.")
    try:
        from_us, to_us, count = _bounds(parameters)
    except SearchError as error:
        return failed(400, "value", f"{error}.")
    survivor = await context.survivor(number)
    purpose = purpose_stated(request, context, Surface.PATIENT, Verb.READ)
    patient_id = number if survivor is None else survivor
    ask = Ask(surface=Surface.PATIENT, verb=Verb.READ, purpose=purpose, patient_id=patient_id)
    decision = await decide(request, context, ask, detail=detail_of(resource="RiskAssessment"))
    found: list[Resource] = []
    if survivor is not None and decision.is_permitted:
        twin = await context.pages.twin(survivor)
        if twin is not None and from_us <= twin.snapshot.as_of_us < to_us:
            found = risk_assessments(twin.snapshot, door.base(request))[:count]
            if found:
                await context.shown(twin)  # each id then leads to what was read
    here = f"{door.base(request)}/RiskAssessment"
    return respond(door.searchset(request, "RiskAssessment", found, door.self_link(here, parameters), None))


def fhir_risk_router(context: Context) -> APIRouter:
    """Return the routes under /fhir/RiskAssessment."""
    door = FhirDoor(context)
    router = APIRouter(prefix="/fhir", route_class=GuardedRoute, responses=FHIR, default_response_class=FhirResponse)

    @router.get("/RiskAssessment", openapi_extra=risk_search(SEARCH_IN_QUERY))
    @searches(Surface.PATIENT, Verb.READ)
    async def search_risks(request: Request) -> Response:
        parameters = request.query_params.multi_items()
        return await door.guarded(request) or await _search(context, door, request, parameters)

    @router.post("/RiskAssessment/_search", openapi_extra=risk_search(SEARCH_IN_FORM))
    @searches(Surface.PATIENT, Verb.READ)
    async def post_risks(request: Request) -> Response:
        parameters = await form_parameters(request)
        return await door.guarded(request) or await _search(context, door, request, parameters)

    @router.get("/RiskAssessment/{resource_id}")
    @asks(Surface.PATIENT, Verb.READ, patient=_patient_of)
    async def read_risk(request: Request, resource_id: str) -> Response:
        refused = await door.guarded(request)
        if refused is not None:
            return refused
        snapshot_text, _, suffix = resource_id.partition(".")
        body = await context.snapshot_body(parse_snapshot_id(snapshot_text))  # one that is none was denied
        found = snapshot_risk(from_bytes(body), suffix, door.base(request)) if body else None
        if found is None:
            raise HTTPException(404)
        return respond(found)

    return router


def _bounds(parameters: Parameters) -> tuple[int, int, int]:
    """Return (from, to, most) of a search.

    Raises:
        SearchError: a value cannot be understood.
    """
    from_us, to_us, count = 0, 1 << 62, LARGEST_COUNT
    for name, value in parameters:
        if name == "date":
            low_us, high_us = date_range(value)
            from_us = max(from_us, low_us if low_us is not None else 0)
            to_us = min(to_us, high_us if high_us is not None else to_us)
        elif name == "_count":
            if not (value.isascii() and value.isdigit() and len(value) < 10):
                raise SearchError("_count: expected a whole number")
            count = min(int(value), LARGEST_COUNT)
    return from_us, to_us, count
