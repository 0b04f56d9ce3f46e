"""Signing in and out: to the provider and back, the session that follows, and every way it ends.

Here: the routes under /auth, the sealed cookie that ties a provider's answer to the browser that asked.
Not here: the protocol (governance.oidc), sessions (clinic.sessions), who a request is of (clinic.identity).
Source: OpenID Connect Core 1.0, RP-Initiated Logout 1.0, Back-Channel Logout 1.0; RFC 9700 section 4.7 (login forgery).
Pages for people who are nobody yet carry the status 401, so that nothing but /health answers 2xx without a name.
"""

from __future__ import annotations

import hmac
import logging
import secrets
from urllib.parse import urlsplit

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from fastapi import APIRouter, Request, Response
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse

from clinic.context import Context
from clinic.descriptions import AUTH, LOGOUT, ME
from clinic.frame import Place, frame, home_of, message_page, role_text
from clinic.guarding import (
    CSRF_FIELD,
    CSRF_HEADER,
    SIGN_IN,
    GuardedRoute,
    form_of,
    is_from_our_page,
    local_path,
    open_to_all,
)
from clinic.identity import cookie_of, refresh_at_us
from clinic.json_api import respond
from clinic.sessions import Cookie, Session, SessionTokens
from clinic.watching import SIGNED_OUT
from governance.access import Principal
from governance.jws import BadTokenError
from governance.oidc import Tokens
from stores.audit_log import AuditEntry
from stores.ledger import detail_of
from vocabulary.errors import ConfigurationError, RefusedError, UnavailableError

_LOG = logging.getLogger("clinic")

CALLBACK = "/auth/callback"
_PENDING_S = 600
"""How long a person may take at the provider."""
_NONCE_BYTES = 12
_LONGEST_LOGOUT_TOKEN = 16 * 1024
_TRY_AGAIN = Place(SIGN_IN, "Sign in")


class Pending(msgspec.Struct, frozen=True):
    """A sign-in under way, in the browser's sealed cookie."""

    state: str
    nonce: str
    verifier: str
    next: str
    until_us: int


class PendingCookie:
    """Seals sign-ins under way, so that an answer is only accepted in the browser that asked for it."""

    def __init__(self, cookie: Cookie, key: bytes) -> None:
        """Seal with a key of 32 bytes, the same in every process that answers under our address."""
        self.cookie = cookie
        self._cipher = AESGCM(key)

    def seal(self, pending: Pending) -> str:
        """Return what the browser keeps."""
        nonce = secrets.token_bytes(_NONCE_BYTES)
        return (nonce + self._cipher.encrypt(nonce, msgspec.json.encode(pending), b"sign-in")).hex()

    def unseal(self, text: str, now_us: int) -> Pending | None:
        """Return what `seal` sealed, unless it is too old."""
        try:
            sealed = bytes.fromhex(text)
            plain = self._cipher.decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], b"sign-in")
            pending = msgspec.json.decode(plain, type=Pending)
        except (ValueError, InvalidTag, msgspec.MsgspecError):
            return None
        return pending if now_us < pending.until_us else None


class Entrance:
    """What the routes under /auth do."""

    def __init__(self, context: Context, pending: PendingCookie) -> None:
        """Sign people in to `context`."""
        self._context = context
        self._pending = pending
        self._identity = context.identity

    # In ------------------------------------------------------------------------------------------------------------

    async def begin(self, request: Request, wanted: str) -> Response:
        """Lead the browser to the provider."""
        provider = self._identity.provider
        if provider is None:
            return self._no_provider()
        own = self._context.public_url
        if request.headers.get("host", "") != urlsplit(own).netloc:
            # The cookie must be set under the name that the provider leads back to.
            return RedirectResponse(f"{own}{SIGN_IN}?{request.url.query}".rstrip("?"), 303)
        pending = Pending(
            state=secrets.token_urlsafe(32),
            nonce=secrets.token_urlsafe(32),
            verifier=secrets.token_urlsafe(48),
            next=local_path(wanted),
            until_us=self._context.wall_clock.now_us() + _PENDING_S * 1_000_000,
        )
        try:
            address = await provider.authorization_url(
                pending.state, pending.nonce, pending.verifier, f"{own}{CALLBACK}"
            )
        except (UnavailableError, ConfigurationError) as error:
            return await self._provider_failed(error)
        response = RedirectResponse(address, 303)
        self._pending.cookie.put(response, self._pending.seal(pending), _PENDING_S)
        return response

    async def finish(self, request: Request) -> Response:
        """Open the session of whoever comes back from the provider."""
        provider = self._identity.provider
        if provider is None:
            return self._no_provider()
        parameters = request.query_params
        headers = request.scope["headers"]
        now_us = self._context.wall_clock.now_us()
        pending = self._pending.unseal(cookie_of(headers, self._pending.cookie.name), now_us)
        if pending is None or not hmac.compare_digest(pending.state.encode(), parameters.get("state", "").encode()):
            return await self._did_not_work("not-asked-for")
        if "error" in parameters or "code" not in parameters:
            return await self._did_not_work("refused-by-the-provider")
        try:
            tokens = await provider.exchange(
                parameters["code"], pending.verifier, f"{self._context.public_url}{CALLBACK}", pending.nonce,
                iss=parameters.get("iss"),
            )  # fmt: skip
        except BadTokenError as refusal:
            return await self._did_not_work(refusal.reason)
        except (UnavailableError, ConfigurationError) as error:
            return await self._provider_failed(error)
        session = await self._open(request, tokens)
        home = home_of(self._context, session.principal)
        response = RedirectResponse(home if pending.next == "/" else pending.next, 303)
        self._pending.cookie.drop(response)
        longest_s = int(self._context.settings.session_longest_s)
        self._identity.cookie.put(response, session.cookie, longest_s)
        return response

    async def _open(self, request: Request, tokens: Tokens) -> Session:
        """Open a session under a new secret, whatever the browser showed; the event first: no event, no session.

        Raises:
            UnavailableError: the audit or the session cannot be written.
        """
        before = await self._session(request)
        if before is not None:
            await self._identity.sessions.end(before)
        session = await self._identity.sessions.open(
            tokens.principal,
            SessionTokens(tokens.id_token, tokens.refresh_token or ""),
            tokens.sid,
            refresh_at_us(tokens.expires_at_us) if tokens.refresh_token else 0,
        )
        try:
            await self._record("sign_in", session.principal)
        except BaseException:
            await self._identity.sessions.end(session)
            raise
        return session

    # Out -----------------------------------------------------------------------------------------------------------

    async def sign_out(self, request: Request) -> Response:
        """End the session here, and lead to the provider to end it there."""
        session = await self._session(request)
        if session is None:
            response: Response = RedirectResponse(SIGNED_OUT, 303)
            self._identity.cookie.drop(response)
            return response
        sent = request.headers.get(CSRF_HEADER) or (await form_of(request)).get(CSRF_FIELD, "")
        is_ours = is_from_our_page(request.headers, self._context.public_url)
        if not is_ours or not hmac.compare_digest(sent.encode(), session.csrf.encode()):
            return message_page(
                self._context, None, 403, "You are still signed in",
                "The request to sign out did not come from one of these pages. Use the button on the page itself.",
                Place("/", "Back"),
            )  # fmt: skip
        tokens = await self._identity.sessions.tokens(session)
        await self._identity.sessions.end(session)  # first: an audit that cannot be written keeps nobody signed in
        await self._record("sign_out", session.principal)
        html = self._context.templates.get_template("signed_out.html").render(
            address=await self._logout_address(tokens), **frame(self._context, None)
        )
        # A page and no redirect: what a form may lead to is limited to ourselves (form-action).
        response = HTMLResponse(html)
        response.headers["clear-site-data"] = '"cache"'
        self._identity.cookie.drop(response)
        return response

    async def _logout_address(self, tokens: SessionTokens | None) -> str:
        provider = self._identity.provider
        if provider is None or tokens is None:
            return SIGNED_OUT
        try:
            address = await provider.logout_url(tokens.id_token, f"{self._context.public_url}{SIGNED_OUT}")
        except (UnavailableError, ConfigurationError):
            return SIGNED_OUT  # signed out here it is all the same
        return address or SIGNED_OUT

    async def provider_signed_out(self, request: Request) -> Response:
        """End what a logout message of the provider names."""
        provider = self._identity.provider
        text = (await form_of(request)).get("logout_token", "")
        if provider is None or not 0 < len(text) <= _LONGEST_LOGOUT_TOKEN:
            await self._identity.failures.record("no-logout-token", action="sign_out")
            return respond({"error": "invalid_request"}, 400)
        try:
            sid, subject = await provider.logout_claims(text)
        except RefusedError as refusal:
            reason = getattr(refusal, "reason", "refused")
            await self._identity.failures.record(reason, action="sign_out")
            return respond({"error": "invalid_request"}, 400)
        ended = await self._identity.sessions.end_of_provider(provider.issuer, sid, subject)
        entry = AuditEntry(
            at_us=self._context.wall_clock.now_us(),
            action="sign_out",
            outcome="permitted",
            surface="session",
            verb="close",
            agent=f"{provider.issuer}|{subject or ''}",
            detail=detail_of(by="provider", sessions=len(ended), ended=",".join(ended[:50])),
        )
        await self._context.gate.auditor.record(entry)
        return Response(None, 200)

    def signed_out(self) -> Response:
        """Return the page of those who have left."""
        return message_page(
            self._context, None, 401, "You are signed out", "Nothing of what you saw is kept in this browser.",
            _TRY_AGAIN,
        )  # fmt: skip

    # What both need --------------------------------------------------------------------------------------------------

    async def me(self, request: Request) -> Response:
        """Return who is signed in, for pages that ask whether anybody still is."""
        session = await self._session(request)
        if session is None:
            return Response(None, 401, {"WWW-Authenticate": "Bearer"})
        await self._identity.sessions.touch(session)
        principal = session.principal
        return respond(
            {
                "name": principal.name,
                "roles": sorted(principal.roles),
                "units": sorted(principal.units),
                "expires_at_us": session.expires_at_us,
            }
        )

    async def _session(self, request: Request) -> Session | None:
        cookie = cookie_of(request.scope["headers"], self._identity.cookie.name)
        return await self._identity.sessions.find(cookie) if cookie else None

    async def _record(self, action: str, principal: Principal) -> None:
        entry = AuditEntry(
            at_us=self._context.wall_clock.now_us(),
            action=action,
            outcome="permitted",
            surface="session",
            verb="open" if action == "sign_in" else "close",
            agent=principal.agent,
            agent_name=principal.name,
            session=principal.session,
            detail=detail_of(roles=role_text(principal)),
        )
        await self._context.gate.auditor.record(entry)

    async def _did_not_work(self, reason: str) -> Response:
        await self._identity.failures.record(reason)
        response = message_page(
            self._context, None, 401, "The sign-in did not work",
            "Nothing was opened. Sign in again; if it does not work then either, ask whoever manages your accounts.",
            _TRY_AGAIN,
        )  # fmt: skip
        self._pending.cookie.drop(response)
        return response

    async def _provider_failed(self, error: Exception) -> Response:
        _LOG.warning("provider_failed", extra={"reason": str(error)})
        await self._identity.failures.record("provider-unavailable")
        return message_page(
            self._context, None, 503, "Nobody can sign in now",
            "The identity provider does not answer as it should. Who is signed in stays so. Whoever runs this system "
            "finds the cause in the clinic's log (provider_failed).",
            Place(SIGN_IN, "Try again"),
        )  # fmt: skip

    def _no_provider(self) -> Response:
        return message_page(
            self._context, None, 503, "Nobody can sign in yet",
            "No identity provider is configured. Whoever runs this system sets VIGIL_OIDC_ISSUER (and "
            "VIGIL_OIDC_CLIENT_ID) to the hospital's OpenID provider, registers "
            f"{self._context.public_url}{CALLBACK} there, and starts Vigil again.",
            Place("/health", "Is it alive?"),
        )  # fmt: skip


def entrance_router(context: Context, pending: PendingCookie) -> APIRouter:
    """Return the routes under /auth."""
    entrance = Entrance(context, pending)
    router = APIRouter(prefix="/auth", route_class=GuardedRoute, default_response_class=HTMLResponse, responses=AUTH)

    @router.get("/sign-in", status_code=303, response_class=Response)
    @open_to_all
    async def sign_in(request: Request) -> Response:
        return await entrance.begin(request, request.query_params.get("next", "/"))

    @router.get("/callback", status_code=303, response_class=Response)
    @open_to_all
    async def callback(request: Request) -> Response:
        return await entrance.finish(request)

    @router.post("/sign-out")
    @open_to_all
    async def sign_out(request: Request) -> Response:
        return await entrance.sign_out(request)

    @router.post("/backchannel-logout", responses=LOGOUT, response_class=Response)
    @open_to_all
    async def backchannel_logout(request: Request) -> Response:
        return await entrance.provider_signed_out(request)

    @router.get("/signed-out", status_code=401)
    @open_to_all
    async def signed_out() -> Response:
        return entrance.signed_out()

    @router.get("/me", responses=ME, response_class=JSONResponse)
    @open_to_all
    async def me(request: Request) -> Response:
        return await entrance.me(request)

    return router
