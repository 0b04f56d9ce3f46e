"""What every answer carries, and who may ask until identity is configured: only this machine.

Here: response headers, the check of the Host header, the check of the address that is listened on.
Not here: signing in (a later issue's clinic.smart and governance.access).
Source: W3C Content Security Policy Level 3; OWASP, DNS rebinding.
"""

from __future__ import annotations

import ipaddress
from collections.abc import MutableMapping

from starlette.datastructures import MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from vocabulary.errors import ConfigurationError
from vocabulary.settings import is_loopback

HEADERS = {
    "content-security-policy": "default-src 'self'; object-src 'none'; base-uri 'none'; form-action 'self'; "
    "frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "permissions-policy": "camera=(), microphone=(), geolocation=()",
}

_LOCAL_NAMES = frozenset({"localhost", "testserver"})


def require_loopback(host: str) -> None:
    """Allow only addresses that other machines cannot reach.

    Raises:
        ConfigurationError: `host` reaches beyond this machine, where pages would be open to anybody.
    """
    if not is_loopback(host):
        raise ConfigurationError(
            f"VIGIL_HOST is {host!r}: pages show patients and nobody signs in yet, so only a loopback address is "
            "allowed. Use 127.0.0.1, and a proxy that signs people in for anything beyond."
        )


def _is_local(host_header: str) -> bool:
    name = host_header.rsplit(":", 1)[0] if not host_header.endswith("]") else host_header
    name = name.strip("[]").lower()
    if name in _LOCAL_NAMES:
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


class Guard:
    """ASGI middleware that refuses a foreign Host: a web page elsewhere could else read us through its own name."""

    def __init__(self, app: ASGIApp) -> None:
        """Guard `app`."""
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, with our headers on whatever is answered."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        path: str = scope["path"]

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                _add_headers(message, may_be_stored=path.startswith("/static/"))
            await send(message)

        host = next((value.decode("latin-1") for name, value in scope["headers"] if name == b"host"), "")
        if not _is_local(host):
            await PlainTextResponse("Unknown host.", 421)(scope, receive, send_with_headers)
            return
        await self._app(scope, receive, send_with_headers)


def _add_headers(message: MutableMapping[str, object], *, may_be_stored: bool) -> None:
    headers = MutableHeaders(raw=message["headers"])  # type: ignore[arg-type]
    for name, value in HEADERS.items():
        headers[name] = value
    headers["cache-control"] = "no-cache" if may_be_stored else "no-store"
