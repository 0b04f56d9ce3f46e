"""What the OpenAPI description says of answers: the statuses and media types every family of addresses really gives.

Here: tables for FastAPI's `responses`.
Not here: the answers themselves (clinic.refusals, the routes).
Source: OpenAPI 3.1, Responses Object.
"""

from __future__ import annotations

from typing import Any, Final, Literal

from starlette.responses import JSONResponse

Responses = dict[int | str, dict[str, Any]]

_UNKNOWN_CALLER: Responses = {
    401: {"description": "Nobody known asks. The answer has no body."},
    503: {"description": "The database or the audit cannot be reached: nothing is shown without them."},
}
_BAD_HOST: Responses = {421: {"description": "Another name than ours in Host.", "content": {"text/plain": {}}}}


def _of(media_type: str, texts: dict[int, str]) -> Responses:
    return {status: {"description": text, "content": {media_type: {}}} for status, text in texts.items()}


_ABSENT = "Absent, or not for the caller: the same answer."
_METHOD = "Another method."

PAGE: Responses = {
    **_UNKNOWN_CALLER,
    **_BAD_HOST,
    303: {"description": "A browser without a session is led to the sign-in."},
    **_of("text/html", {400: "Not on offer.", 404: _ABSENT, 405: _METHOD}),
}
JSON: Responses = {
    **_UNKNOWN_CALLER,
    **_BAD_HOST,
    **_of("application/json", {400: "Not on offer.", 404: _ABSENT, 405: _METHOD}),
}
SNAPSHOT: Responses = {304: {"description": "The client holds these bytes already."}}
STREAM: Responses = {
    **JSON,
    200: {"description": "Server-sent events, until the caller may not see them any more.",
          "content": {"text/event-stream": {}}},
}  # fmt: skip
FHIR: Responses = {
    **_UNKNOWN_CALLER,
    **_BAD_HOST,
    **_of(
        "application/fhir+json",
        {
            400: "A parameter is missing or cannot be understood.",
            403: "A search without a criterion (too costly), or a browser's form without its token.",
            404: _ABSENT,
            405: _METHOD,
            406: "Another format than JSON.",
            413: "Too large.",
            415: "Not a form.",
        },
    ),
}
FORM: Responses = {
    **PAGE,
    **_of(
        "text/html",
        {
            403: "The form was not of this session.",
            409: "Refused by a rule; says which.",
            413: "Too large.",
            415: "Not a form.",
        },
    ),
}  # fmt: skip

APPROVE: Responses = {
    **JSON,
    **_of(
        "application/json",
        {
            200: "Signed: what is still missing, or what now serves.",
            403: "The request was not of this session's page.",
            409: "Refused by a rule; says which.",
        },
    ),
}
HEALTH: Responses = {**_BAD_HOST, 200: {"description": "Alive.", "content": {"application/json": {}}}}
READY: Responses = {
    **_UNKNOWN_CALLER,
    **_BAD_HOST,
    503: {"description": "The database or the bus is away.", "content": {"application/json": {}}},
}
AUTH: Responses = {
    **_BAD_HOST,
    303: {"description": "Led on: to the provider, to the page that was wanted, or to that of those who have left."},
    **_of(
        "text/html",
        {
            400: "Not on offer.",
            401: "Nobody is signed in.",
            403: "The form was not of this session.",
            405: _METHOD,
            413: "Too large.",
            415: "Not a form.",
            503: "Nobody can sign in now.",
        },
    ),
}
LOGOUT: Responses = {
    200: {"description": "The sessions it names are over."},
    **_of("application/json", {400: "No logout message of the provider."}),
}
ME: Responses = {
    **_of("application/json", {200: "Who is signed in."}),
    401: {"description": "Nobody is signed in. The answer has no body."},
}


class FhirResponse(JSONResponse):
    """What a FHIR answer is told to be; the answers are made by clinic.fhir_api."""

    media_type = "application/fhir+json"


Where = Literal["query", "form"]
SEARCH_IN_QUERY: Final = "query"
SEARCH_IN_FORM: Final = "form"

_TEXT = {"type": "string"}
_COUNT = {"type": "string", "pattern": "^[0-9]{1,4}$"}
_CURSOR = {"type": "string", "pattern": "^[0-9]{1,15}_[A-Za-z0-9.-]{1,64}$"}
_AUDIT_CURSOR = {"type": "string", "pattern": "^[0-9]{1,15}\\.[0-9]{1,6}$"}
_PATIENT = {"type": "string", "pattern": "^(Patient/)?[1-9][0-9]{0,17}$"}
_DATE = {
    "type": "string",
    "pattern": "^(eq|ge|gt|le|lt|sa|eb)?[12][0-9]{3}(-(0[1-9]|1[0-2])(-(0[1-9]|1[0-9]|2[0-8]))?)?$",
}

Parameters = dict[str, tuple[str, dict[str, str]]]

_PATIENT_PARAMETERS: Parameters = {
    "identifier": ("A hospital's identifier, as authority|value or value.", _TEXT),
    "_id": ("Our own patient number.", _TEXT),
}
_RISK_PARAMETERS: Parameters = {
    "patient": ("Patient/<number>.", _PATIENT),
    "date": ("A FHIR date or time with an optional prefix; given here is the form without a time.", _DATE),
    "_count": ("Most entries of a page.", _COUNT),
}
_OBSERVATION_PARAMETERS: Parameters = {
    "patient": ("Patient/<number>.", _PATIENT),
    "code": ("LOINC or SNOMED CT tokens.", _TEXT),
    "category": ("Observation categories.", _TEXT),
    "date": ("A FHIR date or time with an optional prefix; given here is the form without a time.", _DATE),
    "_count": ("Most entries of a page.", _COUNT),
    "_cursor": ("What a next link carried.", _CURSOR),
}


def _search(parameters: Parameters, where: Where, *required: str) -> dict[str, Any]:
    if where == "query":
        return {
            "parameters": [
                {"name": name, "in": "query", "required": name in required, "description": text, "schema": schema}
                for name, (text, schema) in parameters.items()
            ]
        }
    schema: dict[str, Any] = {
        "type": "object",
        "properties": {name: {**schema, "description": text} for name, (text, schema) in parameters.items()},
    }
    if required:
        schema["required"] = list(required)
    content = {"application/x-www-form-urlencoded": {"schema": schema}}
    return {"requestBody": {"required": bool(required), "content": content}}


def patient_search(where: Where) -> dict[str, Any]:
    """Return the parameters of a Patient search."""
    return _search(_PATIENT_PARAMETERS, where)


def observation_search(where: Where) -> dict[str, Any]:
    """Return the parameters of an Observation search."""
    return _search(_OBSERVATION_PARAMETERS, where, "patient")


def risk_search(where: Where) -> dict[str, Any]:
    """Return the parameters of a RiskAssessment search."""
    return _search(_RISK_PARAMETERS, where, "patient")


def audit_search() -> dict[str, Any]:
    """Return the parameters of an AuditEvent search."""
    return _search(
        {
            "patient": ("Patient/<number>: who looked at this patient.", _PATIENT),
            "agent": ("issuer|subject of whoever acted.", _TEXT),
            "date": ("A FHIR date or time with an optional prefix; given here is the form without a time.", _DATE),
            "_count": ("Most entries of a page.", _COUNT),
            "_cursor": ("What a next link carried.", _AUDIT_CURSOR),
        },
        "query",
    )


def json_body(texts: tuple[str, ...] = (), **fields: dict[str, Any]) -> dict[str, Any]:
    """Return the description of a JSON object: required free texts, and fields with a schema of their own."""
    properties: dict[str, Any] = dict.fromkeys(texts, _TEXT) | fields
    schema = {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}


def form_body(*fields: str, **choices: tuple[str, ...]) -> dict[str, Any]:
    """Return the description of a plain form: free texts, and fields with a few choices."""
    properties: dict[str, Any] = dict.fromkeys(fields, _TEXT)
    properties |= {name: {"type": "string", "enum": list(values)} for name, values in choices.items()}
    schema = {"type": "object", "properties": properties, "required": list(properties)}
    return {"requestBody": {"required": True, "content": {"application/x-www-form-urlencoded": {"schema": schema}}}}
