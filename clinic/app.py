"""The clinic's web application: its parts put together, its background tasks, its routes.

Here: `build_app`, templates, what is answered when something fails.
Not here: starting a process (clinic.__main__), answering questions from the stores (clinic.readers).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.exceptions import HTTPException
from starlette.responses import HTMLResponse
from starlette.staticfiles import StaticFiles

from clinic import words
from clinic.broadcast import PULSE_S, Hub
from clinic.context import Context, speed_of
from clinic.feeds_painter import Feeds
from clinic.fhir_api import fhir_failure, fhir_router
from clinic.json_api import json_failure, json_router, problem, respond
from clinic.pages import message_page, page_router
from clinic.painter import Board
from clinic.patient_painter import PatientPages
from clinic.questions import Live, Readers
from clinic.security import Guard
from clinic.streams import stream_router
from clinic.ward_live import WardLive
from twin.process import clock_of
from vocabulary.clock import Clock
from vocabulary.errors import UnavailableError
from vocabulary.settings import Settings

_FOLDER = Path(__file__).resolve().parent

PAINT_INTERVAL_S = 0.25
"""A burst of snapshots becomes one event: faster than this nobody can read, and a ward of 60 costs four times less."""


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
    }
    return environment


def build_app(
    settings: Settings,
    readers: Readers,
    live: Live,
    clock: Clock | None = None,
    *,
    templates: Environment | None = None,
    paint_interval_s: float = PAINT_INTERVAL_S,
    pulse_s: float = PULSE_S,
    on_failure: Callable[[BaseException], None] | None = None,
) -> FastAPI:
    """Return the application; it follows `live` from start-up to shutdown.

    Args:
        settings: the site, and a demonstration's clock.
        readers: answers questions about the past.
        live: what is being published now.
        clock: tells the time ages are counted from; None takes the one the settings ask for.
        templates: as `build_templates` makes them, where several applications share them; None makes them.
        paint_interval_s: changes within this long are one event.
        pulse_s: how often pages hear that they are being heard.
        on_failure: called when a background task ends with an error: the process should stop.
    """
    context = _build_context(
        settings, readers, live, clock or clock_of(settings), templates or build_templates(), paint_interval_s
    )

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
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    app = FastAPI(
        title="Vigil", docs_url=None, redoc_url=None, openapi_url="/api/openapi.json", lifespan=lifespan,
        redirect_slashes=False,
    )  # fmt: skip
    app.state.context = context
    app.add_middleware(Guard)
    app.include_router(page_router(context))
    app.include_router(stream_router(context))
    app.include_router(json_router(context))
    app.include_router(fhir_router(context))
    app.mount("/static", StaticFiles(directory=_FOLDER / "static"))
    _add_health(app, context)
    _add_failures(app, context)
    return app


def _build_context(
    settings: Settings, readers: Readers, live: Live, clock: Clock, templates: Environment, paint_interval_s: float
) -> Context:
    hub = Hub()
    ward = WardLive(live, clock)
    feeds = Feeds(ward, readers, hub, templates, clock, speed_of(settings))
    board = Board(ward, readers, hub, templates, clock, feeds, paint_interval_s)
    pages = PatientPages(ward, board, readers, hub, templates, paint_interval_s)
    return Context(settings, clock, readers, ward, board, pages, feeds, hub, templates)


def _watch(on_failure: Callable[[BaseException], None] | None) -> Callable[[asyncio.Task[None]], None]:
    def ended(task: asyncio.Task[None]) -> None:
        if task.cancelled():
            return
        error = task.exception()
        if error is not None and on_failure is not None:
            on_failure(error)

    return ended


def _add_health(app: FastAPI, context: Context) -> None:
    @app.get("/health")
    async def health() -> Response:
        return respond({"status": "alive"})

    @app.get("/ready")
    async def ready() -> Response:
        try:
            await context.readers.check()
            has_database = True
        except UnavailableError:
            has_database = False
        is_ready = has_database and context.ward.is_connected
        detail = {"database": has_database, "bus": context.ward.is_connected, "undecodable": context.ward.undecodable}
        return respond({"is_ready": is_ready, **detail}, 200 if is_ready else 503)


def _add_failures(app: FastAPI, context: Context) -> None:
    """Answer failures in the words of whoever asked: FHIR, JSON, or a page."""

    async def answer(request: Request, error: Exception) -> Response:
        status = 503 if isinstance(error, UnavailableError) else 404
        if isinstance(error, HTTPException):
            status = error.status_code
        path = request.url.path
        if path.startswith("/fhir"):
            return fhir_failure(status, error)
        if path.startswith("/api"):
            return json_failure(status, error)
        if path.startswith(("/streams", "/static", "/health", "/ready")):
            return problem(status, "refused", "The request could not be answered.")
        return _page(status)

    def _page(status: int) -> HTMLResponse:
        if status == 503:
            return message_page(context, 503, "This page is not available", "The database does not answer. Try again.")
        return message_page(context, status, "No such page", "The board is where everything starts.")

    app.add_exception_handler(UnavailableError, answer)
    app.add_exception_handler(HTTPException, answer)
    # A path such as /patients/x: what it says stays out of the answer.
    app.add_exception_handler(RequestValidationError, answer)
