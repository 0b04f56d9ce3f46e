"""What every request to the issuer must be: for its own host, and no larger than a form needs.

Here: the guard of the Host header and the reading of forms.
Not here: what the forms ask (hospital.issuer.app).
Source: RFC 9110 section 7.2; OWASP, DNS rebinding; WHATWG URL, application/x-www-form-urlencoded.
"""

from __future__ import annotations

from urllib.parse import parse_qsl

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

LARGEST_FORM = 32 * 1024
_MOST_FIELDS = 40


class HostGuard:
    """Answers only requests for the issuer's own host: a web page elsewhere could else read it by its own name."""

    def __init__(self, app: ASGIApp, host: str) -> None:
        """Guard `app`; `host` with its port, as the issuer writes it."""
        self._app = app
        self._host = host.encode("ascii").lower()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] == "http":
            hosts = [value.lower() for name, value in scope["headers"] if name == b"host"]
            if hosts != [self._host]:
                await PlainTextResponse("Unknown host.", 421)(scope, receive, send)
                return
        await self._app(scope, receive, send)


async def read_form(request: Request) -> dict[str, str]:
    """Return the fields of a form.

    Raises:
        HTTPException: it is no form, too large, or names a field twice (RFC 6749 section 3.2).
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/x-www-form-urlencoded":
        raise HTTPException(415)
    body = b""
    async for piece in request.stream():
        body += piece
        if len(body) > LARGEST_FORM:
            raise HTTPException(413)
    try:
        pairs = parse_qsl(body.decode("utf-8"), keep_blank_values=True, max_num_fields=_MOST_FIELDS, errors="strict")
    except ValueError:
        raise HTTPException(400) from None
    form = dict(pairs)
    if len(form) != len(pairs):
        raise HTTPException(400)
    return form
