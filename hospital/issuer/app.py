"""The issuer's HTTP surface: discovery, keys, sign-in page, token, userinfo, sign-out.

Here: what each address accepts and answers.
Not here: what is remembered (hospital.issuer.grants), signed (hospital.issuer.tokens), shown (hospital.issuer.page).
Source: OpenID Connect Core 1.0, Discovery 1.0, RP-Initiated Logout 1.0, Back-Channel Logout 1.0; RFC 6749, RFC 7636,
RFC 9207.
"""

from __future__ import annotations

import base64
import hashlib
import logging
import re
from collections.abc import Iterable
from dataclasses import dataclass
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

import httpx
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.datastructures import QueryParams
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.routing import Route

from hospital.issuer import page
from hospital.issuer.clients import Client, ClientCheck, is_registered
from hospital.issuer.grants import Grants, Question, Session
from hospital.issuer.keys import ALGORITHM, IssuerKey
from hospital.issuer.people import person_of
from hospital.issuer.tokens import TokenMaker
from hospital.issuer.web import HostGuard, read_form
from vocabulary.clock import MICROSECONDS, Clock

_LOG = logging.getLogger("issuer")
_CHALLENGE = re.compile(r"[A-Za-z0-9_-]{43}")
_NO_STORE = {"cache-control": "no-store"}


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What the issuer is made of."""

    issuer: str
    audience: str
    clients: tuple[Client, ...]
    key: IssuerKey
    clock: Clock
    http: httpx.AsyncClient  # for back-channel logout


class _TokenError(Exception):
    """An error of the token endpoint (RFC 6749 section 5.2)."""

    def __init__(self, code: str, status: int = 400) -> None:
        super().__init__(code)
        self.code = code
        self.status = status


class Issuer:
    """The provider's behaviour; `application` puts it behind addresses."""

    def __init__(self, plan: Plan) -> None:
        """Begin with nobody signed in."""
        self._plan = plan
        self._grants = Grants(plan.clock)
        self._tokens = TokenMaker(plan.issuer, plan.audience, plan.key, plan.clock)
        audiences = (plan.issuer, f"{plan.issuer}/token")
        self._check = ClientCheck(plan.clients, audiences, self._grants.is_first_use)

    def signed_in(self) -> int:
        """Return how many sessions there are."""
        return len(self._grants.sessions())

    def application(self) -> Starlette:
        """Return the application."""
        return Starlette(
            routes=[
                Route("/.well-known/openid-configuration", self._discovery),
                Route("/keys", self._keys),
                Route("/authorize", self._authorize),
                Route("/authorize", self._choose, methods=["POST"]),
                Route("/token", self._token, methods=["POST"]),
                Route("/userinfo", self._userinfo, methods=["GET", "POST"]),
                Route("/sign-out", self._sign_out, methods=["GET", "POST"]),
                Route("/sessions/end", self._end, methods=["POST"]),
                Route("/style.css", self._style),
                Route("/", self._overview),
            ],
            middleware=[Middleware(HostGuard, host=urlsplit(self._plan.issuer).netloc)],
        )

    async def _discovery(self, _: Request) -> Response:
        issuer = self._plan.issuer
        return JSONResponse(
            {
                "issuer": issuer,
                "vigil_development_issuer": True,
                "authorization_endpoint": f"{issuer}/authorize",
                "token_endpoint": f"{issuer}/token",
                "userinfo_endpoint": f"{issuer}/userinfo",
                "jwks_uri": f"{issuer}/keys",
                "end_session_endpoint": f"{issuer}/sign-out",
                "response_types_supported": ["code"],
                "response_modes_supported": ["query"],
                "grant_types_supported": ["authorization_code", "refresh_token", "client_credentials"],
                "subject_types_supported": ["public"],
                "id_token_signing_alg_values_supported": [ALGORITHM],
                "token_endpoint_auth_methods_supported": ["none", "client_secret_basic", "private_key_jwt"],
                "token_endpoint_auth_signing_alg_values_supported": ["ES256"],
                "code_challenge_methods_supported": ["S256"],
                "authorization_response_iss_parameter_supported": True,
                "backchannel_logout_supported": True,
                "backchannel_logout_session_supported": True,
                "claims_supported": ["sub", "name", "roles", "units", "practitioner", "sid", "auth_time"],
                "scopes_supported": sorted({scope for client in self._plan.clients for scope in client.scopes}),
            }
        )

    async def _keys(self, _: Request) -> Response:
        return JSONResponse(self._plan.key.published())

    async def _style(self, _: Request) -> Response:
        return Response(page.STYLE, media_type="text/css", headers={"x-content-type-options": "nosniff"})

    async def _overview(self, _: Request) -> Response:
        return HTMLResponse(page.overview(self._grants.sessions()), headers=page.headers())

    async def _authorize(self, request: Request) -> Response:
        asked = request.query_params
        client = self._check.find(asked.get("client_id", ""))
        redirect_uri = asked.get("redirect_uri", "")
        if client is None or not is_registered(redirect_uri, client.redirect_uris):
            # Never redirected: the address is not known to be the client's.
            return _refusal("This program or its address is not registered here.")
        error = _fault_of(asked, client)
        if error:
            return self._back(redirect_uri, asked.get("state", ""), error=error)
        question = self._grants.ask(
            Question(
                client.client_id,
                redirect_uri,
                frozenset(asked.get("scope", "").split()) & client.scopes,
                asked.get("state", ""),
                asked.get("nonce", ""),
                asked["code_challenge"],
            )
        )
        shown = page.choice(question, client.name, asked.get("login_hint", ""))
        return HTMLResponse(shown, headers=page.headers([redirect_uri]))

    async def _choose(self, request: Request) -> Response:
        form = await read_form(request)
        person = person_of(form.get("subject", ""))
        answered = self._grants.answer(form.get("question", ""), person.subject) if person else None
        if answered is None:
            return _refusal("This question is too old or was answered. Go back to where you came from and try again.")
        question, code = answered
        _LOG.info("signed_in", extra={"subject": person.subject if person else "", "client": question.client_id})
        return self._back(question.redirect_uri, question.state, code=code)

    async def _token(self, request: Request) -> Response:
        try:
            return JSONResponse(await self._grant(request), headers=_NO_STORE)
        except _TokenError as error:
            headers = _NO_STORE | ({"www-authenticate": "Basic"} if error.status == httpx.codes.UNAUTHORIZED else {})
            return JSONResponse({"error": error.code}, error.status, headers=headers)

    async def _grant(self, request: Request) -> dict[str, object]:
        try:
            form = await read_form(request)
        except HTTPException:
            raise _TokenError("invalid_request") from None
        now_s = self._plan.clock.now_us() / MICROSECONDS
        client = self._check.authenticated(request.headers.get("authorization", ""), form, now_s)
        if client is None:
            raise _TokenError("invalid_client", httpx.codes.UNAUTHORIZED)
        kind = form.get("grant_type", "")
        if kind not in {"authorization_code", "refresh_token", "client_credentials"}:
            raise _TokenError("unsupported_grant_type")
        if kind not in client.grants:
            raise _TokenError("unauthorized_client")
        if kind == "authorization_code":
            code = self._grants.redeem(form.get("code", ""), client.client_id)
            if code is None or not _is_answer(code.question, form):
                raise _TokenError("invalid_grant")
            return self._tokens.answer(code.session, self._grants, code.question.nonce or None)
        if kind == "refresh_token":
            session = self._grants.refresh(form.get("refresh_token", ""), client.client_id)
            if session is None:
                raise _TokenError("invalid_grant")
            return self._tokens.answer(session, self._grants, None)
        scopes = frozenset(form.get("scope", "").split()) or client.scopes
        if not scopes <= client.scopes:
            raise _TokenError("invalid_scope")
        return self._tokens.service_answer(client, scopes)

    async def _userinfo(self, request: Request) -> Response:
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        sid = self._tokens.session_of_access_token(token) if scheme.lower() == "bearer" else None
        session = self._grants.session(sid) if sid else None
        person = person_of(session.subject) if session else None
        if session is None or person is None:
            return Response(status_code=401, headers=_NO_STORE | {"www-authenticate": "Bearer"})
        return JSONResponse({"sub": person.subject} | person.claims(session.scopes), headers=_NO_STORE)

    async def _sign_out(self, request: Request) -> Response:
        asked = await read_form(request) if request.method == "POST" else request.query_params
        hint = self._tokens.session_of_hint(asked.get("id_token_hint", ""))
        if hint is None or asked.get("client_id", hint[1]) != hint[1]:
            return _refusal("This program did not say who signs out. End the session below.")
        sid, client_id = hint
        client = self._check.find(client_id)
        task = self._ended(self._grants.end(sid))
        target = asked.get("post_logout_redirect_uri", "")
        if client is None or not target or not is_registered(target, client.post_logout_redirect_uris):
            shown = page.message("Signed out", "You are signed out.")
            return HTMLResponse(shown, headers=page.headers(), background=task)
        state = asked.get("state")
        url = _with_query(target, {"state": state} if state else {})
        return RedirectResponse(url, 303, headers=_NO_STORE, background=task)

    async def _end(self, request: Request) -> Response:
        form = await read_form(request)
        # Who knows the session's random name has seen our page; another site cannot have.
        task = self._ended(self._grants.end(form.get("sid", "")))
        return RedirectResponse("/", 303, headers=_NO_STORE, background=task)

    def _ended(self, session: Session | None) -> BackgroundTask | None:
        client = self._check.find(session.client_id) if session else None
        if session is None or client is None or client.back_channel_logout_uri is None:
            return None
        return BackgroundTask(self._tell, client.back_channel_logout_uri, self._tokens.logout_token(session))

    async def _tell(self, uri: str, logout_token: str) -> None:
        try:
            answer = await self._plan.http.post(uri, data={"logout_token": logout_token}, follow_redirects=False)
            _LOG.info("told_of_the_end", extra={"status": answer.status_code})
        except httpx.HTTPError as error:
            _LOG.warning("not_told_of_the_end", extra={"kind": type(error).__name__})

    def _back(self, redirect_uri: str, state: str, **answer: str) -> Response:
        answer |= ({"state": state} if state else {}) | {"iss": self._plan.issuer}
        return RedirectResponse(_with_query(redirect_uri, answer), 303, headers=_NO_STORE)


def _fault_of(asked: QueryParams, client: Client) -> str:
    """Return the error of an authorization request (RFC 6749 section 4.1.2.1), "" where there is none."""
    names = [name for name, _ in asked.multi_items()]
    if len(names) != len(set(names)) or "request" in names or "request_uri" in names:
        return "invalid_request"
    if asked.get("response_type") != "code" or asked.get("response_mode", "query") != "query":
        return "unsupported_response_type"
    if "authorization_code" not in client.grants:
        return "unauthorized_client"
    if asked.get("code_challenge_method") != "S256" or not _CHALLENGE.fullmatch(asked.get("code_challenge", "")):
        return "invalid_request"
    if "openid" not in asked.get("scope", "").split():
        return "invalid_scope"
    return "login_required" if "none" in asked.get("prompt", "").split() else ""


def _is_answer(question: Question, form: dict[str, str]) -> bool:
    """Return whether a token request belongs to the authorization request (RFC 7636 section 4.6)."""
    digest = hashlib.sha256(form.get("code_verifier", "").encode()).digest()
    challenge = base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
    return challenge == question.code_challenge and form.get("redirect_uri") == question.redirect_uri


def _refusal(text: str) -> Response:
    return HTMLResponse(page.message("This cannot be done", text), 400, headers=page.headers())


def _with_query(url: str, parameters: dict[str, str]) -> str:
    parts = urlsplit(url)
    pairs: Iterable[tuple[str, str]] = [*parse_qsl(parts.query, keep_blank_values=True), *parameters.items()]
    return urlunsplit(parts._replace(query=urlencode(list(pairs))))
