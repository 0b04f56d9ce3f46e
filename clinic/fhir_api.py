"""The FHIR R4 door: CapabilityStatement, Patient, Observation, and the twin snapshot.

Here: routes, status codes, OperationOutcome for everything that goes wrong.
Not here: what resources look like (clinic.fhir_resources), search values (clinic.fhir_search), who may ask
(clinic.guarding), AuditEvent (clinic.fhir_audit), RiskAssessment (clinic.fhir_risk_api).
Source: HL7 FHIR R4 (4.0.1), RESTful API.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from urllib.parse import parse_qsl, urlencode

import msgspec
from fastapi import APIRouter, Request, Response
from starlette.exceptions import HTTPException

from clinic.bed_view import news2_of
from clinic.context import Context
from clinic.descriptions import FHIR, SEARCH_IN_FORM, SEARCH_IN_QUERY, FhirResponse, observation_search, patient_search
from clinic.fhir_capability import capability_statement
from clinic.fhir_resources import (
    DIASTOLIC,
    SYSTOLIC,
    Resource,
    observation,
    outcome,
    parse_observation_id,
    patient,
    pressure_panel,
)
from clinic.fhir_search import Search, SearchError, cursor_text, newest_first, parse_search
from clinic.fhir_snapshot import news2_observation, snapshot_bundle, snapshot_observation
from clinic.guarding import (
    NOBODY,
    GuardedRoute,
    asked,
    asks,
    decide,
    number_of,
    path_number,
    purpose_stated,
    searches,
    signed_in,
    visible,
)
from clinic.questions import Measured, Person
from governance.access import Ask, Surface, Verb
from stores.database import storable
from stores.ledger import detail_of
from vocabulary.concepts import by_key, by_number
from vocabulary.errors import UnavailableError
from vocabulary.records import ObservationStatus
from vocabulary.snapshot import digest, from_bytes, parse_snapshot_id

MEDIA_TYPE = "application/fhir+json"

_KNOWN_PARAMETERS = frozenset(
    {
        "patient",
        "subject",
        "code",
        "combo-code",
        "category",
        "date",
        "_count",
        "_cursor",
        "_format",
        "identifier",
        "_id",
    }
)


def respond(resource: Resource, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """Return a resource as FHIR JSON."""
    return Response(msgspec.json.encode(resource), status, headers, MEDIA_TYPE)


def failed(status: int, code: str, diagnostics: str) -> Response:
    """Return why a request has no answer, as FHIR says it."""
    return respond(outcome("error", code, diagnostics), status)


def _not_found() -> HTTPException:
    """Return the one absence: of what is not there, and of what is not for the caller."""
    return HTTPException(404)


class FhirDoor:
    """Answers FHIR requests from the stores and the live ward."""

    def __init__(self, context: Context) -> None:
        """Answer from `context`."""
        self._context = context

    def base(self, request: Request) -> str:
        """Return this door's address as the client wrote it."""
        return f"{request.base_url}fhir"

    async def guarded(self, request: Request) -> Response | None:
        """Return a refusal of what no route can answer: another format, or unknown parameters under strict handling."""
        parameters = request.query_params
        if parameters.get("_format", "json") not in {"json", "application/json", MEDIA_TYPE}:
            return failed(406, "not-supported", "Only JSON is spoken here.")
        if "handling=strict" in request.headers.get("prefer", ""):
            unknown = sorted(set(parameters) - _KNOWN_PARAMETERS)
            if unknown:
                return failed(400, "not-supported", f"Unknown search parameters: {len(unknown)}. See /fhir/metadata.")
        return None

    async def metadata(self, request: Request) -> Response:
        """Return what this door can do."""
        return respond(capability_statement(self.base(request)))

    async def _person(self, patient_id: int) -> Person:
        people = await self._context.readers.people([patient_id])
        return people.get(patient_id) or Person(patient_id)

    async def read_patient(self, request: Request) -> Response:
        """Return one Patient; a merged record's id leads to its survivor."""
        person = await self._person(asked(request).patient_id)
        return respond(patient(person, self._context.identifier_system))

    async def search_patients(self, request: Request, parameters: Sequence[tuple[str, str]]) -> Response:
        """Return the patients a hospital's identifier, or our own, leads to."""
        asked = [(name, value) for name, value in parameters if name in {"identifier", "_id"}]
        if not asked:
            return failed(403, "too-costly", "Patient search needs `identifier` or `_id`.")
        found: set[int] | None = None
        for name, value in asked:
            matches = await self._patients_of(name, value)
            found = matches if found is None else found & matches
        ask = self._ask(request, Verb.SEARCH, None)
        shown = await visible(request, self._context, ask, found or set(), detail=detail_of(resource="Patient"))
        people = [await self._person(patient_id) for patient_id in sorted(shown)]
        resources = [patient(person, self._context.identifier_system) for person in people]
        # The link to itself would repeat the identifier in logs and histories: it names the search, not the value.
        return respond(self.searchset(request, "Patient", resources, f"{self.base(request)}/Patient", None))

    def _ask(self, request: Request, verb: Verb, patient_id: int | None) -> Ask:
        purpose = purpose_stated(request, self._context, Surface.PATIENT, verb)
        return Ask(surface=Surface.PATIENT, verb=verb, purpose=purpose, patient_id=patient_id)

    async def _patients_of(self, name: str, value: str) -> set[int]:
        context = self._context
        system, bar, code = value.rpartition("|")
        if name == "_id" or system == context.identifier_system:
            number = number_of(code)
            survivor = await context.survivor(number) if number != NOBODY else None
            return set() if survivor is None else {survivor}
        authority = storable(system) or None if bar else None
        return set(await context.readers.find_by_identifier(authority, storable(code)))

    async def search_observations(self, request: Request, parameters: Sequence[tuple[str, str]]) -> Response:
        """Return a page of a patient's Observations, newest first."""
        context = self._context
        references = [value for name, value in parameters if name in {"patient", "subject"}]
        if len(references) != 1:
            return failed(400, "required", "Observation search needs exactly one `patient`.")
        number = number_of(references[0].removeprefix("Patient/"))
        if number == NOBODY:
            return failed(400, "value", "patient: expected Patient/<number>.")
        try:
            search = parse_search(parameters, max(context.clock.now_us(), context.ward.log_time_us()))
        except SearchError as error:
            return failed(400, "value", f"{error}.")
        survivor = await context.survivor(number)
        ask = self._ask(request, Verb.READ, number if survivor is None else survivor)
        decision = await decide(request, context, ask, detail=detail_of(resource="Observation"))
        resources: list[Resource] = []
        next_link = None
        here = f"{self.base(request)}/Observation"
        if survivor is not None and decision.is_permitted:
            page = await newest_first(context.readers, survivor, search)
            resources = self._scores(survivor, search, self.base(request)) + page.resources
            if page.next_cursor:
                kept = [(name, value) for name, value in parameters if name in _KNOWN_PARAMETERS - {"_cursor"}]
                next_link = f"{here}?{urlencode([*kept, ('_cursor', cursor_text(page.next_cursor))])}"
        return respond(self.searchset(request, "Observation", resources, self.self_link(here, parameters), next_link))

    def _scores(self, patient_id: int, search: Search, base: str) -> list[Resource]:
        twin = self._context.ward.twin(patient_id)
        if not search.with_news2 or twin is None or search.cursor is not None:
            return []
        score = news2_of(twin.snapshot)
        if score is None or not search.from_us <= twin.snapshot.as_of_us < search.to_us:
            return []
        return [news2_observation(twin.snapshot, score, base)]

    def self_link(self, here: str, parameters: Sequence[tuple[str, str]]) -> str:
        """Return a search's own address, with what of its parameters was understood."""
        return f"{here}?{urlencode([(name, value) for name, value in parameters if name in _KNOWN_PARAMETERS])}"

    def searchset(
        self, request: Request, kind: str, resources: list[Resource], self_link: str, next_link: str | None
    ) -> Resource:
        """Return what a search found as a Bundle."""
        links = [{"relation": "self", "url": self_link}]
        if next_link:
            links.append({"relation": "next", "url": next_link})
        bundle: Resource = {"resourceType": "Bundle", "type": "searchset"}
        if next_link is None and "_cursor" not in request.query_params:
            bundle["total"] = len(resources)
        bundle["link"] = links
        if resources:
            base = self.base(request)
            bundle["entry"] = [
                {"fullUrl": f"{base}/{kind}/{one['id']}", "resource": one, "search": {"mode": "match"}}
                for one in resources
            ]
        return bundle

    async def read_observation(self, request: Request, resource_id: str) -> Response:
        """Return one Observation, entered in error or not; its id is its measurement's, or a snapshot's signal."""
        if "." in resource_id:
            return await self._snapshot_part(request, resource_id)
        parts = parse_observation_id(resource_id)
        if parts is None:
            raise _not_found()
        survivor = asked(request).patient_id
        revisions = await self._context.readers.revisions(survivor, parts.concept, parts.effective_at_us)
        mine = _in_order(revisions, parts.source_key)
        if not mine:
            raise _not_found()
        measured = mine[-1]
        if by_number(parts.concept).key in {SYSTOLIC, DIASTOLIC}:
            return respond(await self._panel(survivor, measured))
        return respond(observation(measured, len(mine)))

    async def _panel(self, patient_id: int, measured: Measured) -> Resource:
        """Return the whole blood pressure a systolic or diastolic belongs to."""
        is_systolic = by_number(measured.concept).key == SYSTOLIC
        other = by_key(DIASTOLIC if is_systolic else SYSTOLIC).number
        found = await self._context.readers.revisions(patient_id, other, measured.effective_at_us)
        beside = [one for one in found if one.device == measured.device and one.feed == measured.feed]
        partner = max(beside, key=_place_in_log, default=None)
        if partner is not None and partner.status is ObservationStatus.ENTERED_IN_ERROR:
            partner = None
        return pressure_panel(measured, partner) if is_systolic else pressure_panel(partner, measured)

    async def _snapshot_part(self, request: Request, resource_id: str) -> Response:
        snapshot_text, _, suffix = resource_id.partition(".")
        try:
            key = parse_snapshot_id(snapshot_text)
        except ValueError:
            raise _not_found() from None
        body = await self._context.snapshot_body(key)
        part = snapshot_observation(from_bytes(body), suffix, self.base(request)) if body else None
        if part is None:
            raise _not_found()
        return respond(part)

    async def twin_snapshot(self, request: Request) -> Response:
        """Return a patient's latest twin snapshot as a Bundle."""
        twin = await self._context.pages.twin(asked(request).patient_id)
        if twin is None:
            raise _not_found()
        await self._context.shown(twin)
        hexadecimal = digest(twin.body).hex()
        bundle = snapshot_bundle(twin.snapshot, hexadecimal, self.base(request), self._context.snapshot_system)
        return respond(bundle, headers={"ETag": f'W/"{hexadecimal}"'})


def _place_in_log(measured: Measured) -> tuple[int, int, int]:
    return measured.position, measured.raw_index, measured.value_index


def _in_order(revisions: Sequence[Measured], source_key: int) -> list[Measured]:
    return sorted((one for one in revisions if one.source_key == source_key), key=_place_in_log)


def _patient_of_observation(parameters: Mapping[str, str]) -> int:
    resource_id = parameters["resource_id"]
    if "." in resource_id:
        try:
            return parse_snapshot_id(resource_id.partition(".")[0]).patient_id
        except ValueError:
            return NOBODY
    parts = parse_observation_id(resource_id)
    return parts.patient_id if parts else NOBODY


def fhir_router(context: Context) -> APIRouter:
    """Return the routes under /fhir."""
    door = FhirDoor(context)
    router = APIRouter(prefix="/fhir", route_class=GuardedRoute, responses=FHIR, default_response_class=FhirResponse)

    @router.get("/metadata")
    @signed_in
    async def metadata(request: Request) -> Response:
        return await door.guarded(request) or await door.metadata(request)

    @router.get("/Patient", openapi_extra=patient_search(SEARCH_IN_QUERY))
    @searches(Surface.PATIENT, Verb.SEARCH)
    async def search_patients(request: Request) -> Response:
        return await door.guarded(request) or await door.search_patients(request, request.query_params.multi_items())

    @router.post("/Patient/_search", openapi_extra=patient_search(SEARCH_IN_FORM))
    @searches(Surface.PATIENT, Verb.SEARCH)
    async def post_patients(request: Request) -> Response:
        return await door.guarded(request) or await door.search_patients(request, await form_parameters(request))

    @router.get("/Patient/{patient_id}")
    @asks(Surface.PATIENT, Verb.READ, patient=path_number("patient_id"))
    async def read_patient(request: Request, patient_id: str) -> Response:  # noqa: ARG001
        return await door.guarded(request) or await door.read_patient(request)

    @router.get("/Patient/{patient_id}/$twin-snapshot")
    @asks(Surface.PATIENT, Verb.READ, patient=path_number("patient_id"))
    async def twin_snapshot(request: Request, patient_id: str) -> Response:  # noqa: ARG001
        return await door.guarded(request) or await door.twin_snapshot(request)

    @router.get("/Observation", openapi_extra=observation_search(SEARCH_IN_QUERY))
    @searches(Surface.PATIENT, Verb.READ)
    async def search_observations(request: Request) -> Response:
        return await door.guarded(request) or await door.search_observations(
            request, request.query_params.multi_items()
        )

    @router.post("/Observation/_search", openapi_extra=observation_search(SEARCH_IN_FORM))
    @searches(Surface.PATIENT, Verb.READ)
    async def post_observations(request: Request) -> Response:
        return await door.guarded(request) or await door.search_observations(request, await form_parameters(request))

    @router.get("/Observation/{resource_id}")
    @asks(Surface.PATIENT, Verb.READ, patient=_patient_of_observation)
    async def read_observation(request: Request, resource_id: str) -> Response:
        return await door.guarded(request) or await door.read_observation(request, resource_id)

    return router


async def form_parameters(request: Request) -> list[tuple[str, str]]:
    """Return the parameters of a POSTed search: identifiers then stay out of addresses.

    Raises:
        HTTPException: 415 for anything but a form.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    body = await request.body()
    if body and kind != "application/x-www-form-urlencoded":
        raise HTTPException(415)
    return [*request.query_params.multi_items(), *parse_qsl(body.decode("utf-8", "replace"), keep_blank_values=True)]


def fhir_failure(status: int, error: Exception) -> Response:
    """Return what went wrong outside a route, as FHIR says it."""
    if isinstance(error, UnavailableError):
        return failed(503, "transient", "The database does not answer. Try again.")
    codes = {403: "forbidden", 404: "not-found", 405: "not-supported", 413: "too-long", 415: "not-supported"}
    diagnostics = {
        404: "There is no such resource or operation, or it is not for you to see.",
        405: "This method is not supported here.",
        415: "A search is POSTed as application/x-www-form-urlencoded.",
    }
    return failed(status, codes.get(status, "exception"), diagnostics.get(status, "The request could not be answered."))
