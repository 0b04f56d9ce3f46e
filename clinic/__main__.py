"""`python -m clinic`: the process that serves pages, JSON and FHIR.

Here: reading the settings, connecting, listening, stopping.
Not here: the application itself (clinic.app), supervising the process (orchestration.services).
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import socket
import ssl
import sys
from collections.abc import Iterator

import uvicorn
from fastapi import FastAPI

from clinic.app import build_app
from clinic.assembly import open_access, public_url_of
from clinic.readers import StoreReaders
from governance.privacy import open_ring
from twin import health, listeners
from twin.bus import open_bus
from twin.process import clock_of, database_url, read_settings, start_logging, stop_on_signals, until_available
from vocabulary.clock import SystemClock
from vocabulary.errors import ConfigurationError
from vocabulary.settings import Settings

_LOG = logging.getLogger("clinic")

LARGEST_HEADERS = 64 * 1024
"""Bytes of a request before its body: a browser sends 2 KiB, a token may have 8."""

_HELP = """Serve the ward board, patients' pages, JSON and FHIR R4, live from the bus and the database.

Everything is set by VIGIL_* variables or vigil.toml; `vigil up` does so:
  VIGIL_HOST          address to listen on (127.0.0.1); beyond loopback it speaks TLS
  VIGIL_PUBLIC_URL    our address as browsers write it, where it is another than the one listened on
  VIGIL_OIDC_ISSUER   the OpenID provider people sign in at; without one nobody can
  VIGIL_CLINIC_PORT   port; 0 takes a free one, which is logged and written to <data_dir>/run/clinic.json
  VIGIL_DATABASE_URL  postgresql://…
  VIGIL_NATS_URL      nats://…

Where to look: / (board), /wards/<ward>, /patients/<number>, /api/ward, /fhir/metadata, /health, /ready.
Exit status: 0 stopped as told, 1 failed, 2 a setting must be changed."""


class _Server(uvicorn.Server):
    """uvicorn without its own signal handlers: ours also end the streams that would keep it waiting."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave the signals as they are."""
        yield


def _listen(settings: Settings) -> socket.socket:
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((settings.host, settings.clinic_port))
    except OSError as error:
        listener.close()
        raise ConfigurationError(
            f"Port {settings.clinic_port} of {settings.host} cannot be listened on ({error.strerror}): stop what uses "
            "it, or set VIGIL_CLINIC_PORT to another port or to 0."
        ) from None
    return listener


async def serve(settings: Settings) -> int:
    """Serve until told to stop; return the exit status.

    Raises:
        ConfigurationError: a setting must be changed.
    """
    stop = stop_on_signals()
    day = listeners.today(SystemClock())
    listeners.require_safe(settings, day)
    tls = listeners.context(settings, listeners.CLINIC, day)
    url = database_url(settings)
    listener = _listen(settings)
    host, port = listener.getsockname()[:2]
    address = f"{'https' if tls else 'http'}://{f'[{host}]' if ':' in host else host}:{port}/"
    failures: list[BaseException] = []

    def failed(error: BaseException) -> None:
        failures.append(error)
        stop.set()

    with listener:
        bus = await until_available(lambda: open_bus(settings, "clinic"), stop, _LOG, "nats-server")
        if bus is None:
            return 0
        keys = await until_available(lambda: open_ring(settings, url, purpose="clinic keys"), stop, _LOG, "postgres")
        if keys is None:
            await bus.close()
            return 0
        readers = StoreReaders(url, keys)
        try:
            async with open_access(settings, url, public_url_of(settings, address), SystemClock()) as access:
                app = build_app(settings, readers, bus, access, clock_of(settings), on_failure=failed)
                await _run(app, settings, listener, address, stop, tls)
        finally:
            await readers.close()
            await keys.close()
            await bus.close()
    if failures:
        _LOG.error("background_task_failed", exc_info=failures[0])
        return 1
    return 0


async def _run(
    app: FastAPI,
    settings: Settings,
    listener: socket.socket,
    address: str,
    stop: asyncio.Event,
    tls: ssl.SSLContext | None,
) -> None:
    # No access log: it would hold addresses, and with them whose page was opened; that belongs in the audit.
    # h11 bounds the headers of who is nobody yet; httptools takes any size. Nothing in front of us is believed about
    # where a request comes from.
    config = uvicorn.Config(
        app, log_config=None, access_log=False, server_header=False, timeout_graceful_shutdown=2, proxy_headers=False,
        http="h11", h11_max_incomplete_event_size=LARGEST_HEADERS,
    )  # fmt: skip
    config.load()
    # Our own context, with the versions and ciphers every listener of ours speaks; uvicorn would make one from files.
    config.ssl = tls
    server = _Server(config)
    context = app.state.context

    def detail() -> health.Detail:
        return {
            "viewers": context.hub.count(),
            "beds": len(context.board.beds()),
            "renders": context.board.renders + context.pages.renders,
            "undecodable": context.ward.undecodable,
            "is_connected": context.ward.is_connected,
        }

    report = asyncio.create_task(
        health.report(settings.data_dir / "run", "clinic", address, lambda: bool(context.ward.is_connected), detail)
    )

    async def stop_serving() -> None:
        await stop.wait()
        context.hub.close()
        server.should_exit = True

    stopper = asyncio.create_task(stop_serving())
    _LOG.info("ready", extra={"address": address})
    try:
        await server.serve(sockets=[listener])
    finally:
        for task in (report, stopper):
            task.cancel()
        await asyncio.gather(report, stopper, return_exceptions=True)


def main(arguments: list[str] | None = None) -> int:
    """Run the process; return its exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m clinic", description=_HELP, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.parse_args(arguments)
    start_logging()
    # It tells every address it asks, and an address may hold what is nobody's business.
    logging.getLogger("httpx").setLevel(logging.WARNING)
    try:
        return asyncio.run(serve(read_settings()))
    except ConfigurationError as error:
        print(f"Configuration: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
