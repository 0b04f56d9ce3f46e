"""The clinic's web application: its parts put together, its background tasks, its routes.

Here: `build_app`, `Access` (what decides who is let in), templates.
Not here: starting a process (clinic.__main__), answering questions from the stores (clinic.readers), what is answered
when something fails (clinic.refusals).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.openapi.utils import get_openapi
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

from clinic import words
from clinic.boards import board_router
from clinic.break_glass import glass_router
from clinic.broadcast import PULSE_S, Hub
from clinic.committee import committee_router
from clinic.committee_acts import answers_router, voice_router
from clinic.context import Context, speed_of
from clinic.descriptions import HEALTH, JSON, READY
from clinic.feeds_painter import Feeds
from clinic.fhir_api import fhir_router
from clinic.fhir_audit import fhir_audit_router
from clinic.fhir_risk_api import fhir_risk_router
from clinic.guarding import Doorkeeper, GuardedRoute, check_routes, open_to_all, signed_in
from clinic.identity import Identity
from clinic.json_api import json_router, respond
from clinic.officers import officers_router
from clinic.pages import page_router
from clinic.painter import Board
from clinic.patient_painter import PatientPages
from clinic.questions import Live, Readers
from clinic.refusals import add_refusals, refusal
from clinic.security import Guard, allowed_hosts, is_fenced_out
from clinic.sign_in import PendingCookie, entrance_router
from clinic.signers import SignerNames
from clinic.signing import signing_router
from clinic.signing_keys import signing_keys_router
from clinic.streams import stream_router
from clinic.ward_live import WardLive
from clinic.watching import RECHECK_S
from governance.gate import Gate
from governance.serving_record import Appender
from twin.process import clock_of, end
from vocabulary.clock import Clock
from vocabulary.errors import UnavailableError
from vocabulary.settings import Settings

_FOLDER = Path(__file__).resolve().parent

PAINT_INTERVAL_S = 0.25
"""A burst of snapshots becomes one event: faster than this nobody can read, and a ward of 60 costs four times less."""


@dataclass(frozen=True, slots=True)
class Access:
    """What decides who is let in, and to what."""

    identity: Identity
    gate: Gate
    pending: PendingCookie
    wall_clock: Clock  # real time, whatever a demonstration's clock shows
    public_url: str  # as browsers write our address, without a slash at its end
    appender: Appender | None = None  # this process's key for the serving record

    @property
    def is_tls(self) -> bool:
        """Return whether browsers reach us over TLS."""
        return self.public_url.startswith("https://")


def build_templates() -> Environment:
    """Return the templates' environment: everything is escaped, and a name that is missing is an error."""
    environment = Environment(
        loader=FileSystemLoader(_FOLDER / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        auto_reload=False,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "instant": words.instant,
        "clock_text": words.clock_text,
        "moment_text": words.moment_text,
        "title_of": words.title_of,
        "capitalize_first": words.capitalize_first,
    }
    return environment


def build_app(
    settings: Settings,
    readers: Readers,
    live: Live,
    access: Access,
    clock: Clock | None = None,
    *,
    templates: Environment | None = None,
    paint_interval_s: float = PAINT_INTERVAL_S,
    pulse_s: float = PULSE_S,
    recheck_s: float = RECHECK_S,
    on_failure: Callable[[BaseException], None] | None = None,
) -> FastAPI:
    """Return the application; it follows `live` from start-up to shutdown.

    Args:
        settings: the site, and a demonstration's clock.
        readers: answers questions about the past.
        live: what is being published now.
        access: who is let in.
        clock: tells the time ages are counted from; None takes the one the settings ask for.
        templates: as `build_templates` makes them, where several applications share them; None makes them.
        paint_interval_s: changes within this long are one event.
        pulse_s: how often pages hear that they are being heard.
        recheck_s: how often an open stream's viewer is asked about again.
        on_failure: called when a background task ends with an error, or another process writes our audit: the process
            should stop.
    """
    context = _build_context(
        settings, readers, live, access, clock or clock_of(settings), templates or build_templates(),
        paint_interval_s, recheck_s,
    )  # fmt: skip

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        tasks = [
            asyncio.create_task(coroutine)
            for coroutine in (
                context.ward.follow(),
                context.board.keep_painted(),
                context.board.keep_informed(),
                context.board.keep_pulsing(pulse_s),
                context.pages.keep_painted(),
            )
        ]
        for task in tasks:
            task.add_done_callback(_watch(on_failure))
        try:
            yield
        finally:
            context.hub.close()
            await end(tasks)

    app = FastAPI(
        title="Vigil", docs_url=None, redoc_url=None, openapi_url=None, lifespan=lifespan, redirect_slashes=False
    )
    app.state.context = context

    def unavailable(scope: Scope) -> Response:
        return refusal(context, scope, 503, UnavailableError("the database does not answer"))

    def failed(scope: Scope, error: Exception) -> Response:
        if not is_fenced_out(error):
            return refusal(context, scope, 500, error)
        if on_failure is not None:
            on_failure(error)
        return refusal(context, scope, 503, UnavailableError("another process writes the audit"))

    # The last one added is the first one asked: headers and Host, then who it is, then everything else.
    app.add_middleware(Doorkeeper, identity=access.identity, unavailable=unavailable)
    app.add_middleware(Guard, hosts=allowed_hosts(settings, access.public_url), is_tls=access.is_tls, failed=failed)
    for router in (
        board_router(context), page_router(context), glass_router(context), officers_router(context),
        signing_keys_router(context), committee_router(context), answers_router(context), voice_router(context),
        signing_router(context),
        entrance_router(context, access.pending), stream_router(context), json_router(context),
        fhir_audit_router(context), fhir_risk_router(context), fhir_router(context), _house_router(app, context),
    ):  # fmt: skip
        app.router.routes.extend(router.routes)  # themselves, and no copies: `check_routes` looks at what answers
    app.mount("/static", StaticFiles(directory=_FOLDER / "static"))
    add_refusals(app, context)
    check_routes(app)
    return app


def _build_context(
    settings: Settings, readers: Readers, live: Live, access: Access, clock: Clock, templates: Environment,
    paint_interval_s: float, recheck_s: float,
) -> Context:  # fmt: skip
    hub = Hub()
    ward = WardLive(live, clock)
    feeds = Feeds(ward, readers, hub, templates, clock, speed_of(settings))
    board = Board(ward, readers, hub, templates, clock, feeds, paint_interval_s)
    names = SignerNames(settings, access.wall_clock)
    pages = PatientPages(ward, board, readers, hub, templates, paint_interval_s, names)
    return Context(
        settings=settings, clock=clock, wall_clock=access.wall_clock, public_url=access.public_url,
        identity=access.identity, gate=access.gate, readers=readers, ward=ward, board=board, pages=pages, feeds=feeds,
        hub=hub, templates=templates, recheck_s=recheck_s, name_of=names, appender=access.appender,
    )  # fmt: skip


def _watch(on_failure: Callable[[BaseException], None] | None) -> Callable[[asyncio.Task[None]], None]:
    def ended(task: asyncio.Task[None]) -> None:
        if task.cancelled():
            return
        error = task.exception()
        if error is not None and on_failure is not None:
            on_failure(error)

    return ended


def _house_router(app: FastAPI, context: Context) -> APIRouter:
    """Return the routes about the clinic itself."""
    router = APIRouter(route_class=GuardedRoute)

    @router.get("/health", responses=HEALTH)
    @open_to_all
    async def health() -> Response:
        return respond({"status": "alive"})

    @router.get("/ready", responses=READY)
    @signed_in
    async def ready() -> Response:
        try:
            await context.readers.check()
            has_database = True
        except UnavailableError:
            has_database = False
        is_ready = has_database and context.ward.is_connected
        detail = {"database": has_database, "bus": context.ward.is_connected, "undecodable": context.ward.undecodable}
        return respond({"is_ready": is_ready, **detail}, 200 if is_ready else 503)

    @router.get("/api/openapi.json", responses=JSON)
    @signed_in
    async def description(request: Request) -> Response:  # noqa: ARG001
        return respond(describe(app))

    return router


def describe(app: FastAPI) -> dict[str, Any]:
    """Return the OpenAPI description of every route: what it answers, and that nothing is answered to nobody."""
    described = get_openapi(title=app.title, version="1", routes=app.routes)
    components = described.setdefault("components", {})
    components["securitySchemes"] = {
        "token": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"},
        "session": {"type": "apiKey", "in": "cookie", "name": app.state.context.identity.cookie.name},
    }
    for path, operations in described["paths"].items():
        for operation in operations.values():
            # Every route answers what the tables of clinic.descriptions say, and validates nothing by itself.
            operation["responses"].pop("422", None)
            is_open = path == "/health" or path.startswith("/auth/")
            operation["security"] = [] if is_open else [{"token": []}, {"session": []}]
    components.pop("schemas", None)
    return described
