"""Every route says what it asks of the policy; a route that does not say so cannot be built, or answers nothing.

Here: the declarations (`open_to_all`, `signed_in`, `asks`, `searches`), the route that keeps them, forms' protection
against forgery, and `Doorkeeper`, which refuses who is nobody before anything else is looked at.
Not here: who somebody is (clinic.identity), the policy (governance.access), facts and audit (governance.gate), what a
refusal looks like (clinic.refusals).
Source: RFC 6750 section 3 (401); RFC 9110 section 15.5.5 (404 hides what is forbidden); OWASP CSRF Prevention (token,
Origin); W3C Fetch Metadata.
"""

from __future__ import annotations

import hmac
import secrets
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final, Literal, NamedTuple, TypeVar
from urllib.parse import parse_qsl, quote, urlsplit

import msgspec
from fastapi import FastAPI, Request, Response
from fastapi.routing import APIRoute
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.responses import RedirectResponse
from starlette.routing import BaseRoute, Mount
from starlette.types import ASGIApp, Receive, Scope, Send

from clinic.context import Context
from clinic.identity import Caller, Identity
from clinic.sight import purpose_of
from governance.access import Ask, Decision, Principal, Purpose, Surface, Verb
from vocabulary.errors import BrokenInvariantError, UnavailableError

NOBODY: Final = 0
"""The number of no patient: an address that names none is asked about like one that names an unknown patient."""

LARGEST_FORM = 64 * 1024
SIGN_IN = "/auth/sign-in"
CSRF_HEADER, CSRF_FIELD = "x-vigil-csrf", "csrf"
VIEW_HEADER, VIEW_PARAMETER = "x-vigil-view", "view"
PURPOSE_HEADER = "x-purpose-of-use"

_OPEN_PATHS = ("/health", "/auth/", "/static/")
_MACHINE_PATHS = ("/api", "/fhir", "/streams", "/ready")
_SAFE = frozenset({"GET", "HEAD", "OPTIONS"})
_LONGEST_NEXT = 1000

PatientOf = Callable[[Mapping[str, str]], int]
Endpoint = TypeVar("Endpoint", bound=Callable[..., Any])
Kind = Literal["open", "signed-in", "asks", "searches"]


class Door(NamedTuple):
    """What a route asks for."""

    kind: Kind
    surface: Surface | None = None
    verb: Verb | None = None
    patient: PatientOf | None = None
    opens_view: bool = False  # a page: the streams and polls that it makes carry its id
    continues_view: bool = False  # such a stream or poll: with its page's id it leaves no further event


class Asked(msgspec.Struct, frozen=True):
    """What the gate said, for the endpoint behind it."""

    caller: Caller
    ask: Ask
    decision: Decision
    view: str  # the opened page's id, "" where there is none

    @property
    def principal(self) -> Principal:
        """Return who asked."""
        return self.caller.principal

    @property
    def patient_id(self) -> int:
        """Return the patient that was permitted: the surviving record."""
        assert self.ask.patient_id is not None
        return self.ask.patient_id


# Declarations --------------------------------------------------------------------------------------------------------


def open_to_all(endpoint: Endpoint) -> Endpoint:
    """Declare that anybody may call it: it says nothing about anybody, or checks a proof of its own."""
    return _declare(endpoint, Door("open"))


def signed_in(endpoint: Endpoint) -> Endpoint:
    """Declare that anybody known may call it: it says nothing of patients, and nothing happens."""
    return _declare(endpoint, Door("signed-in"))


def asks(
    surface: Surface,
    verb: Verb,
    *,
    patient: PatientOf | None = None,
    opens_view: bool = False,
    continues_view: bool = False,
) -> Callable[[Endpoint], Endpoint]:
    """Declare one decision, taken and recorded before the endpoint is entered; `asked` returns it."""
    return lambda endpoint: _declare(endpoint, Door("asks", surface, verb, patient, opens_view, continues_view))


def searches(surface: Surface, verb: Verb, *, continues_view: bool = False) -> Callable[[Endpoint], Endpoint]:
    """Declare that the endpoint itself asks the gate, about what its parameters name, and marks it with `decided`.

    An answer of success without that mark is never sent.
    """
    return lambda endpoint: _declare(endpoint, Door("searches", surface, verb, continues_view=continues_view))


def path_number(name: str) -> PatientOf:
    """Return a reader of a patient's number in the path."""
    return lambda parameters: number_of(parameters.get(name, ""))


def number_of(text: str) -> int:
    """Return a patient's number, NOBODY for any text that is none."""
    return int(text) if text.isascii() and text.isdigit() and len(text) < 19 else NOBODY


def _declare(endpoint: Endpoint, door: Door) -> Endpoint:
    endpoint.__vigil_door__ = door  # type: ignore[attr-defined]
    return endpoint


def door_of(endpoint: object) -> Door | None:
    """Return what an endpoint declares; None when it was forgotten."""
    found = getattr(endpoint, "__vigil_door__", None)
    return found if isinstance(found, Door) else None


def check_routes(app: FastAPI) -> None:
    """Check that every route is guarded.

    Raises:
        BrokenInvariantError: one is not: the application must not start.
    """

    def check(routes: list[BaseRoute]) -> None:
        for route in routes:
            path = getattr(route, "path", "")
            if isinstance(route, Mount) and path == "/static":
                continue
            if not isinstance(route, GuardedRoute) or door_of(route.endpoint) is None:
                raise BrokenInvariantError(f"The route {path or route!r} declares nothing: see clinic.guarding.")

    check(list(app.routes))


# The route -----------------------------------------------------------------------------------------------------------


class GuardedRoute(APIRoute):
    """A route that asks before its endpoint is entered, and sends nothing that was not decided."""

    def __init__(self, path: str, endpoint: Callable[..., Any], **more: Any) -> None:  # noqa: ANN401 - FastAPI's own
        """Check that the endpoint declares what it asks.

        Raises:
            BrokenInvariantError: it does not.
        """
        if door_of(endpoint) is None:
            raise BrokenInvariantError(f"The route {path} declares nothing: see clinic.guarding.")
        super().__init__(path, endpoint, **more)

    def get_route_handler(self) -> Callable[[Request], Awaitable[Response]]:  # type: ignore[override]
        """Return the endpoint's handler behind its door."""
        handler = super().get_route_handler()
        door = door_of(self.endpoint)
        assert door is not None

        async def guarded(request: Request) -> Response:
            if door.kind == "open":
                return await handler(request)
            caller = caller_of(request)
            if request.method not in _SAFE and caller.session is not None:
                await _check_form(request, caller)
            if door.kind == "asks":
                request.state.asked = await _ask(request, door, caller)
            response = await handler(request)
            is_decided = door.kind == "signed-in" or hasattr(request.state, "asked")
            if response.status_code < 400 and not is_decided:
                raise BrokenInvariantError(f"The route {self.path} answers without a decision.")
            return response

        return guarded


def caller_of(request: Request) -> Caller:
    """Return who a request is of."""
    caller = request.scope.get("vigil.caller")
    if not isinstance(caller, Caller):
        raise BrokenInvariantError("A guarded route was reached by nobody: the doorkeeper is not in front of it.")
    return caller


def asked(request: Request) -> Asked:
    """Return what the gate said to this request."""
    found: Asked = request.state.asked
    return found


def purpose_stated(request: Request, context: Context, surface: Surface, verb: Verb) -> Purpose:
    """Return the purpose of use a request states, or the one the policy gives the caller's roles.

    Raises:
        HTTPException: 400 for a code that is none of HL7's we know.
    """
    stated = request.headers.get(PURPOSE_HEADER)
    if stated is None:
        return purpose_of(context.gate.policy, caller_of(request).principal, surface, verb)
    try:
        return Purpose(stated)
    except ValueError:
        raise HTTPException(400) from None


async def decide(request: Request, context: Context, ask: Ask, *, view: str = "", detail: str = "") -> Decision:
    """Ask the gate for a route that declared `searches`, and mark it as decided."""
    caller = caller_of(request)
    decision = await context.gate.ask(caller.principal, ask, view=view, detail=detail)
    request.state.asked = Asked(caller, ask, decision, view)
    return decision


async def visible(request: Request, context: Context, ask: Ask, patient_ids: set[int], *, detail: str = "") -> set[int]:
    """Return which patients a search may find, and mark it as decided: one event for the search."""
    caller = caller_of(request)
    found = await context.gate.visible(caller.principal, ask, patient_ids, detail=detail)
    request.state.asked = Asked(caller, ask, Decision(is_permitted=bool(found), rule=""), "")
    return found


def decided(request: Request, ask: Ask, decision: Decision, view: str = "") -> None:
    """Mark a request whose decision and event were made elsewhere: for a board, or inside an act."""
    request.state.asked = Asked(caller_of(request), ask, decision, view)


async def _ask(request: Request, door: Door, caller: Caller) -> Asked:
    """Decide and record; a denial is an absence.

    Raises:
        HTTPException: 404.
    """
    context: Context = request.app.state.context
    assert door.surface is not None
    assert door.verb is not None
    patient_id = None
    if door.patient is not None:
        named = door.patient(request.path_params)
        survivor = await context.survivor(named) if named != NOBODY else None
        patient_id = named if survivor is None else survivor
    purpose = purpose_stated(request, context, door.surface, door.verb)
    ask = Ask(surface=door.surface, verb=door.verb, purpose=purpose, patient_id=patient_id)
    view = shown_view(request, caller, ask)
    if door.opens_view or (door.continues_view and not view):
        view = new_view(caller, ask)
    decision = await context.gate.ask(caller.principal, ask, view=view)
    if not decision.is_permitted:
        raise HTTPException(404)
    return Asked(caller, ask, decision, view)


# Views ---------------------------------------------------------------------------------------------------------------


def new_view(caller: Caller, ask: Ask) -> str:
    """Return the id of a page opened now."""
    return secrets.token_hex(16) if caller.session is None else caller.session.view(_about(ask))


def shown_view(request: Request, caller: Caller, ask: Ask) -> str:
    """Return the id of the page a request belongs to, "" unless we gave it to this session for the same patient.

    Only where a page of ours really asks: through any other door its id would hide a look that the page did not take.
    """
    door = door_of(request.scope["endpoint"])
    if door is None or not door.continues_view:
        return ""
    view = request.headers.get(VIEW_HEADER) or request.query_params.get(VIEW_PARAMETER, "")
    if view and caller.session is not None and caller.session.is_view(view, _about(ask)):
        return view
    return ""


def _about(ask: Ask) -> str:
    return f"{ask.surface}|{ask.patient_id}|{ask.ward}|{ask.purpose}"


# Forms ---------------------------------------------------------------------------------------------------------------


async def form_of(request: Request) -> dict[str, str]:
    """Return the fields of a form; of a field sent twice the first.

    Raises:
        HTTPException: 415 for anything but a plain form, 413 for one that is too large.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/x-www-form-urlencoded":
        raise HTTPException(415)
    pairs = parse_qsl((await request.body()).decode("utf-8", "replace"), keep_blank_values=True)
    return dict(reversed(pairs))


async def _check_form(request: Request, caller: Caller) -> None:
    """Check that a change comes from a page of ours, opened in this session.

    Raises:
        HTTPException: 403.
    """
    session = caller.session
    assert session is not None
    if not is_from_our_page(request.headers, request.app.state.context.public_url):
        raise HTTPException(403)
    sent = request.headers.get(CSRF_HEADER)
    if sent is None:
        sent = (await form_of(request)).get(CSRF_FIELD, "")
    if not hmac.compare_digest(sent.encode(), session.csrf.encode()):
        raise HTTPException(403)


def is_from_our_page(headers: Headers, public_url: str) -> bool:
    """Return whether a browser says that a request comes from our own pages; what says nothing is no browser's."""
    if headers.get("sec-fetch-site", "same-origin") != "same-origin":
        return False
    origin = headers.get("origin")
    if origin is None:
        return True
    return urlsplit(origin).netloc in {headers.get("host", ""), urlsplit(public_url).netloc} - {""}


# The doorkeeper ------------------------------------------------------------------------------------------------------


class Doorkeeper:
    """ASGI middleware: who is nobody gets no further, whatever they ask for."""

    def __init__(self, app: ASGIApp, identity: Identity, unavailable: Callable[[Scope], Response]) -> None:
        """Stand before `app`; `unavailable` answers when nobody can tell who asks."""
        self._app = app
        self._identity = identity
        self._unavailable = unavailable

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let known callers through with their name on the scope."""
        if scope["type"] != "http" or _is_open(scope["path"]):
            await self._app(scope, receive, send)
            return
        try:
            caller = await self._identity.of(scope["headers"])
        except UnavailableError:
            await self._unavailable(scope)(scope, receive, send)
            return
        if caller is None:
            await _nobody(scope)(scope, receive, send)
            return
        scope["vigil.caller"] = caller
        await self._app(scope, receive, send)


def _is_open(path: str) -> bool:
    return any(path == one or (one.endswith("/") and path.startswith(one)) for one in _OPEN_PATHS)


def _nobody(scope: Scope) -> Response:
    headers = Headers(scope=scope)
    path: str = scope["path"]
    mode = headers.get("sec-fetch-mode")
    is_navigation = mode == "navigate" if mode else "text/html" in headers.get("accept", "")
    is_for_people = not any(path == one or path.startswith(f"{one}/") for one in _MACHINE_PATHS)
    if scope["method"] == "GET" and is_navigation and is_for_people and "authorization" not in headers:
        return RedirectResponse(sign_in_address(path, scope["query_string"].decode("latin-1")), 303)
    return Response(None, 401, {"WWW-Authenticate": "Bearer"})


def sign_in_address(path: str, query: str = "") -> str:
    """Return where to sign in, to come back to `path`."""
    wanted = f"{quote(path, safe='/:@!$&()*+,;=~-._')}{'?' + query if query else ''}"
    return SIGN_IN if wanted == "/" or len(wanted) > _LONGEST_NEXT else f"{SIGN_IN}?next={quote(wanted, safe='')}"


def local_path(text: str) -> str:
    """Return `text` if it is a path of ours, else "/": a sign-in must lead nowhere else."""
    # Browsers read a backslash as a slash, and drop tabs and line ends: //evil.example and /\evil.example leave us.
    is_plain = text.isascii() and text.isprintable() and "\\" not in text and len(text) <= _LONGEST_NEXT
    if not is_plain or not text.startswith("/") or text.startswith(("//", "/auth/")):
        return "/"
    parts = urlsplit(text)
    return text if not parts.scheme and not parts.netloc else "/"
