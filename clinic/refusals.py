"""What is answered when there is no answer: in the words of whoever asked, and never with more than they may know.

Here: one refusal for each family of addresses (pages, JSON, FHIR, streams) and status.
Not here: deciding (clinic.guarding). What is absent and what is forbidden come here as the same 404, so that their
answers are the same to the byte.
"""

from __future__ import annotations

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.routing import Match
from starlette.types import Scope

from clinic.context import Context
from clinic.fhir_api import fhir_failure
from clinic.frame import message_page
from clinic.identity import Caller
from clinic.json_api import json_failure, problem
from vocabulary.errors import UnavailableError

_TITLES = {
    400: ("This cannot be answered", "The address asks for something that is not on offer."),
    403: (
        "This form is too old",
        "It was not sent from a page of this session. Open the page again and repeat.",
    ),
    404: ("Nothing here", "There is no such page or patient, or it is not for you to see."),
    405: ("This cannot be done here", "The address answers other requests than this one."),
    409: ("Not now", "It was done already, or something else must be done first."),
    413: ("Too large", "What was sent is larger than anything that is expected here."),
    415: ("Not understood", "What was sent is no form of these pages."),
    500: ("This page is not available", "Something is wrong with it, and whoever runs this system can see what."),
    503: ("This page is not available", "The database does not answer. Try again."),
}


def add_refusals(app: FastAPI, context: Context) -> None:
    """Answer failures in the words of whoever asked."""

    async def answer(request: Request, error: Exception) -> Response:
        if isinstance(error, UnavailableError):
            status = 503
        elif isinstance(error, HTTPException):
            status = error.status_code
        else:
            # A path or parameter that is not of the kind it must be: what it says stays out of the answer.
            status = 404
        response = refusal(context, request.scope, status, error)
        if status == 405:
            response.headers["allow"] = ", ".join(_methods_of(app, request.scope))
        return response

    app.add_exception_handler(UnavailableError, answer)
    app.add_exception_handler(HTTPException, answer)
    app.add_exception_handler(RequestValidationError, answer)


def refusal(context: Context, scope: Scope, status: int, error: Exception) -> Response:
    """Return a refusal for an address's family."""
    path: str = scope["path"]
    if _is_below(path, "/fhir"):
        return fhir_failure(status, error)
    if _is_below(path, "/api"):
        return json_failure(status, error)
    if any(_is_below(path, one) for one in ("/streams", "/static", "/health", "/ready")):
        return problem(status, "refused", "The request could not be answered.")
    caller = scope.get("vigil.caller")
    title, detail = _TITLES.get(status, ("This cannot be answered", "The request could not be answered."))
    return message_page(context, caller if isinstance(caller, Caller) else None, status, title, detail)


def _methods_of(app: FastAPI, scope: Scope) -> list[str]:
    """Return the methods an address answers: each of its routes knows only its own."""
    found = [route for route in app.routes if route.matches(scope)[0] is not Match.NONE]
    paths = [getattr(route, "path", "") for route in found]
    methods: set[str] = set()
    for route, path in zip(found, paths, strict=True):
        if path == paths[0]:  # a longer pattern that fits too, such as {id}, is another address
            methods |= getattr(route, "methods", None) or set()
    return sorted(methods)


def _is_below(path: str, root: str) -> bool:
    return path == root or path.startswith(f"{root}/")
