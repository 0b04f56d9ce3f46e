"""The issuer as a process: arguments, listening, saying that it lives, stopping.

Here: what is refused before anything listens, the two clients, the health file and log lines like every process's.
Not here: the provider itself (hospital.issuer.app).
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import logging
import os
import signal
import socket
import ssl
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import uvicorn
from starlette.applications import Starlette

from hospital.issuer.app import Issuer, Plan
from hospital.issuer.clients import Client
from hospital.issuer.keys import IssuerKey, client_key, client_secret
from vocabulary.clock import SystemClock
from vocabulary.errors import ConfigurationError
from vocabulary.settings import is_loopback

_LOG = logging.getLogger("issuer")
_PEOPLE_SCOPES = frozenset({"openid", "profile", "roles", "offline_access"})
_SERVICE_SCOPES = frozenset({"system/*.rs"})
DEMO_EHR = "demo-ehr"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the arguments of `python -m hospital issuer`."""
    parser.add_argument("--demo", action="store_true", help="say that this is a demonstration, or set VIGIL_MODE=demo")
    parser.add_argument("--host", default="127.0.0.1", help="a loopback address; any other is refused")
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one")
    parser.add_argument("--folder", type=Path, required=True, help="keeps the issuer's key and the clients' secrets")
    parser.add_argument("--client-id", default="vigil", help="the program where people sign in")
    parser.add_argument(
        "--redirect",
        action="append",
        default=[],
        metavar="URI",
        help="where people come back with a code; of a loopback http address without a port, any port",
    )
    parser.add_argument("--after-sign-out", action="append", default=[], metavar="URI", help="where they come back to")
    parser.add_argument("--back-channel", metavar="URI", help="where to tell of sessions that ended")
    parser.add_argument("--audience", default="urn:vigil:api", help="whom access tokens are for")
    parser.add_argument("--authority", type=Path, metavar="PEM", help="believed when telling of ended sessions")
    parser.add_argument("--health", type=Path, metavar="FOLDER", help="where to write issuer.json once a second")


def run(options: argparse.Namespace) -> int:
    """Serve until told to stop; return the exit status: 0 stopped as told, 2 an argument must be changed."""
    try:
        check_allowed(host=options.host, is_demo=options.demo or os.environ.get("VIGIL_MODE") == "demo")
        _start_logging()
        return asyncio.run(_serve(options))
    except ConfigurationError as error:
        print(f"Configuration: {error}", file=sys.stderr)  # noqa: T201
        return 2


def check_allowed(*, host: str, is_demo: bool) -> None:
    """Refuse what would let strangers in.

    Raises:
        ConfigurationError: not said to be a demonstration, or an address that other machines reach.
    """
    if not is_demo:
        raise ConfigurationError(
            "the development issuer lets anybody be anybody. Say --demo or VIGIL_MODE=demo if this is a demonstration."
        )
    if not is_loopback(host):
        raise ConfigurationError(f"--host {host}: the development issuer listens on a loopback address only.")


def plan_of(options: argparse.Namespace, issuer: str, http: httpx.AsyncClient) -> Plan:
    """Return what the arguments describe.

    Raises:
        ConfigurationError: the folder cannot be used.
    """
    people = Client(
        client_id=options.client_id,
        name="Vigil",
        grants=frozenset({"authorization_code", "refresh_token"}),
        scopes=_PEOPLE_SCOPES,
        redirect_uris=tuple(options.redirect),
        post_logout_redirect_uris=tuple(options.after_sign_out),
        back_channel_logout_uri=options.back_channel,
    )
    system = Client(
        client_id=DEMO_EHR,
        name="Demonstration EHR",
        grants=frozenset({"client_credentials"}),
        scopes=_SERVICE_SCOPES,
        secret=client_secret(options.folder, DEMO_EHR),
        key=client_key(options.folder, DEMO_EHR),
    )
    return Plan(
        issuer=issuer,
        audience=options.audience,
        clients=(people, system),
        key=IssuerKey(options.folder),
        clock=SystemClock(),
        http=http,
    )


class _Server(uvicorn.Server):
    """uvicorn without its own signal handlers."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave the signals as they are."""
        yield


async def _serve(options: argparse.Namespace) -> int:
    listener = _listen(options.host, options.port)
    with listener:
        port = listener.getsockname()[1]
        issuer = f"http://{f'[{options.host}]' if ':' in options.host else options.host}:{port}"
        # Proxies of the environment are for the world outside; we speak to this machine.
        async with httpx.AsyncClient(verify=_context(options.authority), timeout=5, trust_env=False) as http:
            provider = Issuer(plan_of(options, issuer, http))
            await _run(provider.application(), listener, issuer, provider, options.health)
    return 0


async def _run(app: Starlette, listener: socket.socket, issuer: str, provider: Issuer, folder: Path | None) -> None:
    server = _Server(
        # No access log: its lines would hold codes and hints.
        uvicorn.Config(app, log_config=None, access_log=False, server_header=False, timeout_graceful_shutdown=2)
    )
    loop = asyncio.get_running_loop()
    for each in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(each, setattr, server, "should_exit", True)
    report = asyncio.create_task(_report(folder, issuer, server, provider)) if folder is not None else None
    _LOG.info("ready", extra={"address": issuer})
    try:
        await server.serve(sockets=[listener])
    finally:
        if report is not None:
            report.cancel()
            await asyncio.gather(report, return_exceptions=True)


async def _report(folder: Path, issuer: str, server: uvicorn.Server, provider: Issuer) -> None:
    """Write the health file that the platform's supervisor reads, once a second."""
    while True:
        # A full disk must not stop the process.
        with contextlib.suppress(OSError):
            _write_health(folder, issuer, is_ready=server.started, sessions=provider.signed_in())
        await asyncio.sleep(1 if server.started else 0.05)


def _write_health(folder: Path, issuer: str, *, is_ready: bool, sessions: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    health = {
        "name": "issuer",
        "pid": os.getpid(),
        "at_us": SystemClock().now_us(),
        "address": issuer,
        "is_ready": is_ready,
        "detail": {"sessions": sessions},
    }
    temporary = folder / f".issuer.{os.getpid()}.tmp"
    temporary.write_text(json.dumps(health))
    temporary.replace(folder / "issuer.json")


def _listen(host: str, port: int) -> socket.socket:
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise ConfigurationError(f"port {port} of {host} cannot be listened on: {error.strerror}.") from None
    return listener


def _context(authority: Path | None) -> ssl.SSLContext:
    context = ssl.create_default_context()
    if authority is not None:
        try:
            context.load_verify_locations(authority)
        except (OSError, ssl.SSLError) as error:
            raise ConfigurationError(f"--authority {authority} cannot be read: {error.strerror}.") from None
    return context


class _JsonLines(logging.Formatter):
    """One JSON object a line, as the platform's processes write them."""

    _EXTRA = ("address", "subject", "client", "status", "kind")

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        line = {"at": self.formatTime(record), "level": record.levelname, "event": record.getMessage()}
        line |= {name: getattr(record, name) for name in self._EXTRA if hasattr(record, name)}
        return json.dumps(line)


def _start_logging() -> None:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_JsonLines())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.INFO)
    logging.getLogger("httpx").setLevel(logging.WARNING)
