"""What every answer carries, under which names we answer, and how large a request may be.

Here: response headers, the check of the Host header, the bound on bodies.
Not here: who may ask (clinic.guarding), TLS (clinic.__main__).
Source: W3C Content Security Policy Level 3; RFC 6797 (HSTS); OWASP, DNS rebinding.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Collection, MutableMapping
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.responses import PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from vocabulary.errors import FencedOutError
from vocabulary.settings import Settings

HEADERS = {
    "content-security-policy": "default-src 'self'; object-src 'none'; base-uri 'none'; form-action 'self'; "
    "frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    # Not `no-referrer`: browsers would then send `Origin: null` with our own forms, as forged ones have it.
    "referrer-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "permissions-policy": "camera=(), microphone=(), geolocation=()",
}

HSTS = "max-age=31536000"

LARGEST_BODY = 64 * 1024
"""Forms and search parameters; nothing larger is ever sent here."""

_LOCAL_NAMES = frozenset({"localhost"})


def allowed_hosts(settings: Settings, public_url: str) -> frozenset[str]:
    """Return the names we answer under beside this machine's own: the public address's, and the one listened on."""
    public = urlsplit(public_url).hostname or ""
    return frozenset({public.lower(), settings.host.lower()}) - {"", "0.0.0.0", "::"}  # noqa: S104 - names nobody


def _is_allowed(host_header: str, names: Collection[str]) -> bool:
    name = host_header.rsplit(":", 1)[0] if not host_header.endswith("]") else host_header
    name = name.strip("[]").lower()
    if name in _LOCAL_NAMES or name in names:
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


class Guard:
    """ASGI middleware that refuses a foreign Host: a web page elsewhere could else read us through its own name.

    It is the outermost of ours: what fails behind it is answered here, so that no answer lacks our headers.
    """

    def __init__(
        self, app: ASGIApp, hosts: Collection[str], *, is_tls: bool, failed: Callable[[Scope, Exception], Response]
    ) -> None:
        """Guard `app`, which is reached under these names; `failed` answers what nothing behind us has answered."""
        self._app = app
        self._hosts = hosts
        self._is_tls = is_tls
        self._failed = failed

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, with our headers on whatever is answered."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        path: str = scope["path"]
        is_begun = False

        async def send_with_headers(message: Message) -> None:
            nonlocal is_begun
            if message["type"] == "http.response.start":
                is_begun = True
                _add_headers(message, may_be_stored=path.startswith("/static/"), is_tls=self._is_tls)
            await send(message)

        headers = Headers(scope=scope)
        if len(headers.getlist("host")) != 1 or not _is_allowed(headers["host"], self._hosts):
            await PlainTextResponse("Unknown host.", 421)(scope, receive, send_with_headers)
            return
        length = headers.get("content-length", "0")
        if not length.isdecimal() or int(length[:12]) > LARGEST_BODY:
            await PlainTextResponse("Too large.", 413)(scope, receive, send_with_headers)
            return
        try:
            await self._app(scope, _bounded(receive), send_with_headers)
        except Exception as error:  # the outermost of a request: Starlette's own answer would lack our headers
            response = self._failed(scope, error)
            if is_begun:
                raise  # the server breaks it off
            await response(scope, receive, send_with_headers)
            if not is_fenced_out(error):  # that one is logged when the process ends, all others by the server
                raise


def is_fenced_out(error: BaseException) -> bool:
    """Return whether another process writes what only this one may write: this one must stop."""
    if isinstance(error, BaseExceptionGroup):
        return any(is_fenced_out(one) for one in error.exceptions)
    return isinstance(error, FencedOutError)


def _bounded(receive: Receive) -> Receive:
    """Return a body's receiver that gives up on one that is larger than it may be, or never said how large it is."""
    size = 0

    async def bounded() -> Message:
        nonlocal size
        message = await receive()
        size += len(message.get("body", b""))
        if size > LARGEST_BODY:
            raise HTTPException(413)
        return message

    return bounded


def _add_headers(message: MutableMapping[str, object], *, may_be_stored: bool, is_tls: bool) -> None:
    headers = MutableHeaders(raw=message["headers"])  # type: ignore[arg-type]
    for name, value in HEADERS.items():
        # A dossier is a page that may do even less: its own policy is the stricter one, and stays.
        if name not in headers or name != "content-security-policy":
            headers[name] = value
    headers["cache-control"] = "no-cache" if may_be_stored else "no-store"
    if is_tls:
        headers["strict-transport-security"] = HSTS
