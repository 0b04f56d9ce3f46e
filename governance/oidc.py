"""Signing in at an OpenID provider: the code flow with PKCE, refresh, sign-out here and there.

Here: what we ask the provider and what we believe of its answers.
Not here: sessions and cookies (clinic), access tokens that others bring (governance.tokens), the provider's tokens
for us (governance.id_tokens) and its keys (governance.provider_keys), how we prove who we are (governance.oidc_client).
Source: OpenID Connect Core 1.0, RP-Initiated Logout 1.0, Back-Channel Logout 1.0; RFC 7636 (PKCE), RFC 9207 (mix-up),
RFC 9700 (best current practice).
"""

from __future__ import annotations

import base64
import hashlib
import re
from typing import Any
from urllib.parse import urlencode, urlsplit, urlunsplit

import httpx
import msgspec

from governance.access import Principal, Role
from governance.id_tokens import OwnTokens, check_age, check_nonce, session_of
from governance.jws import BadTokenError, Claims
from governance.oidc_client import ClientAuthentication
from governance.provider_keys import Answer, Discovery, Metadata, ProviderKeys, ask
from governance.tokens import ClaimMap, TokenVerifier, principal_of_claims, time_of
from vocabulary.clock import MICROSECONDS, Clock
from vocabulary.errors import ConfigurationError, UnavailableError
from vocabulary.settings import Settings

_VERIFIER = re.compile(r"[A-Za-z0-9._~-]{43,128}")  # RFC 7636 section 4.1
_LONGEST_TOKEN_LIFE_S = 30 * 24 * 3600.0


class Tokens(msgspec.Struct, frozen=True, kw_only=True):
    """What a sign-in or a refresh brought. Its text shows no token."""

    principal: Principal
    id_token: str  # the hint for signing out; "" where a refresh brought none: keep the one before
    refresh_token: str | None  # replaces the one before; None: the provider gave none
    access_token: str
    expires_at_us: int  # of the access token: refresh before
    sid: str  # the provider's session, "" where it does not say

    def __repr__(self) -> str:
        return f"Tokens({self.principal.agent}, expires_at_us={self.expires_at_us})"


class ServiceToken(msgspec.Struct, frozen=True, kw_only=True):
    """A token of our own, for another system. Its text does not show it."""

    access_token: str
    expires_at_us: int

    def __repr__(self) -> str:
        return f"ServiceToken(expires_at_us={self.expires_at_us})"


class Provider:
    """The OpenID provider of the settings."""

    def __init__(self, settings: Settings, http: httpx.AsyncClient, clock: Clock) -> None:
        """Know whom to ask; nothing is asked yet.

        Args:
            settings: the `oidc_*` settings and the mode.
            http: made by governance.provider_keys.http_client; the caller closes it.
            clock: real time; never a demonstration's scaled clock, or every token would be expired.

        Raises:
            ConfigurationError: no issuer is set, its address could be overheard, or the client key is unusable.
        """
        self._settings = settings
        self._http = http
        self._clock = clock
        self._client_id = settings.oidc_client_id
        self._claim_map = ClaimMap.of(settings)
        self._discovery = Discovery(settings, http, clock)
        self.issuer = self._discovery.issuer
        self.keys = ProviderKeys(self._discovery, http, clock)
        self._client = ClientAuthentication.of(settings, clock)
        self._own = OwnTokens(self.issuer, self._client_id, self.keys, clock)

    async def check_allowed(self) -> None:
        """Ask the provider who it is, and check that this mode permits it. Every later question checks it again.

        Raises:
            ConfigurationError: the development issuer outside of demo mode, or a provider that cannot be used.
            UnavailableError: it does not answer.
        """
        await self._discovery.metadata()

    def verifier(self) -> TokenVerifier:
        """Return what checks the access tokens that others bring."""
        return TokenVerifier(self.issuer, self._settings.oidc_audience, self.keys, self._clock, self._claim_map)

    async def authorization_url(
        self,
        state: str,
        nonce: str,
        verifier: str,
        redirect_uri: str,
        *,
        prompt: str | None = None,
        max_age_s: int | None = None,
        login_hint: str | None = None,
    ) -> str:
        """Return where the browser goes to sign in.

        Args:
            state: random; comes back with the code, and belongs to this browser alone.
            nonce: random; comes back inside the id_token.
            verifier: random, 43 to 128 unreserved characters; only its SHA-256 is sent (PKCE, S256).
            redirect_uri: where the browser comes back, as registered.
            prompt: `login` to be asked again, `consent` where the provider wants it for offline_access.
            max_age_s: how long ago the person may have signed in there [s]; give it to `exchange` again.
            login_hint: whom to sign in.

        Raises:
            ConfigurationError: the provider cannot be used.
            UnavailableError: it does not answer.
            ValueError: the verifier is not of the shape RFC 7636 asks for.
        """
        if not _VERIFIER.fullmatch(verifier):
            raise ValueError("a PKCE verifier has 43 to 128 characters of A-Z a-z 0-9 - . _ ~")
        digest = hashlib.sha256(verifier.encode("ascii")).digest()
        metadata = await self._discovery.metadata()
        return _with_query(
            metadata.authorization_endpoint,
            {
                "response_type": "code",
                "client_id": self._client_id,
                "redirect_uri": redirect_uri,
                "scope": self._settings.oidc_scope,
                "state": state,
                "nonce": nonce,
                "code_challenge": base64.urlsafe_b64encode(digest).rstrip(b"=").decode(),
                "code_challenge_method": "S256",
                "prompt": prompt,
                "max_age": None if max_age_s is None else str(max_age_s),
                "login_hint": login_hint,
            },
        )

    async def exchange(
        self,
        code: str,
        verifier: str,
        redirect_uri: str,
        nonce: str,
        *,
        iss: str | None = None,
        max_age_s: int | None = None,
    ) -> Tokens:
        """Return the person who signed in.

        Args:
            code: from the answer, whose `state` the caller has checked.
            verifier: the one of `authorization_url`.
            redirect_uri: the one of `authorization_url`.
            nonce: the one of `authorization_url`.
            iss: `iss` of the answer, if it had one: it must be our provider (RFC 9207).
            max_age_s: as in `authorization_url`.

        Raises:
            BadTokenError: the code or what it brought is not accepted.
            UnavailableError: the provider does not answer.
            ConfigurationError: it cannot be used, or does not know us.
        """
        metadata = await self._discovery.metadata()
        if iss is None and metadata.names_itself_in_answers:
            raise BadTokenError("mix-up")
        if iss is not None and iss != self.issuer:
            raise BadTokenError("mix-up")
        answer = await self._token_request(
            metadata,
            {
                "grant_type": "authorization_code",
                "code": code,
                "code_verifier": verifier,
                "redirect_uri": redirect_uri,
            },
        )
        id_token = _member(answer.body, "id_token")
        access_token = _member(answer.body, "access_token")
        told = await self._own.identity(id_token, access_token)
        check_nonce(told, nonce)
        if max_age_s is not None:
            check_age(told, max_age_s, self._clock)
        claims = await self._with_userinfo(metadata, told, access_token)
        return self._tokens(answer.body, id_token, claims, self._person(claims))

    async def refresh(self, refresh_token: str, principal: Principal) -> Tokens:
        """Return new tokens for somebody who is signed in, with the roles that hold now.

        Args:
            refresh_token: the last one; providers that rotate accept it only once.
            principal: who is signed in. Their roles stay where the provider says nothing new of them.

        Raises:
            BadTokenError: the provider ended the session, or answered with somebody else. Sign the person out.
            UnavailableError: the provider does not answer; the same refresh token may be tried again.
            ConfigurationError: it cannot be used, or does not know us.
        """
        metadata = await self._discovery.metadata()
        answer = await self._token_request(metadata, {"grant_type": "refresh_token", "refresh_token": refresh_token})
        access_token = _member(answer.body, "access_token")
        claims: Claims = {"sub": principal.subject}
        id_token = ""
        if "id_token" in answer.body:
            id_token = _member(answer.body, "id_token")
            claims = await self._own.identity(id_token, access_token)
            if claims.get("sub") != principal.subject:  # OpenID Connect Core section 12.2
                raise BadTokenError("wrong-subject")
        claims = await self._with_userinfo(metadata, claims, access_token)
        person = self._person(claims) if self._claim_map.roles_are_told(claims) else principal
        person = msgspec.structs.replace(person, session=principal.session)
        return self._tokens(answer.body, id_token, claims, person, kept_refresh_token=refresh_token)

    async def logout_url(self, id_token: str, post_logout_redirect_uri: str, state: str = "") -> str | None:
        """Return where the browser goes to sign out at the provider too; None where it has no such page.

        Raises:
            ConfigurationError: the provider cannot be used.
            UnavailableError: it does not answer, and never did.
        """
        metadata = await self._discovery.metadata()
        if not metadata.end_session_endpoint:
            return None
        return _with_query(
            metadata.end_session_endpoint,
            {
                "id_token_hint": id_token or None,
                "client_id": self._client_id,
                "post_logout_redirect_uri": post_logout_redirect_uri,
                "state": state or None,
            },
        )

    async def logout_claims(self, logout_token: str) -> tuple[str | None, str | None]:
        """Return whose sessions end: the provider's session id, the subject, or both.

        Raises:
            BadTokenError: the logout token is not accepted, or was used before.
            UnavailableError: the provider's keys cannot be had.
        """
        return await self._own.end_of_session(logout_token)

    async def service_token(self, scope: str) -> ServiceToken:
        """Return an access token of our own for other systems (client_credentials).

        Raises:
            BadTokenError: the provider gives us none for this scope.
            UnavailableError: it does not answer.
            ConfigurationError: it does not know us, or we have nothing to prove who we are.
        """
        if self._client.is_public:
            raise ConfigurationError(
                "A token of our own needs VIGIL_OIDC_CLIENT_SECRET or VIGIL_OIDC_CLIENT_KEY: neither is set."
            )
        metadata = await self._discovery.metadata()
        answer = await self._token_request(metadata, {"grant_type": "client_credentials", "scope": scope})
        return ServiceToken(
            access_token=_member(answer.body, "access_token"), expires_at_us=self._expires_at_us(answer.body, None)
        )

    async def _token_request(self, metadata: Metadata, form: dict[str, str]) -> Answer:
        proof = self._client.proof(metadata)
        answer = await ask(
            self._http, "POST", metadata.token_endpoint, data=form | proof.form, headers=dict(proof.headers)
        )
        if answer.status == httpx.codes.OK:
            if str(answer.body.get("token_type", "")).lower() != "bearer":
                raise BadTokenError("token-type")
            return answer
        if answer.status == httpx.codes.TOO_MANY_REQUESTS:
            raise UnavailableError("The identity provider asks us to wait (429).")
        if answer.body.get("error") in {"invalid_client", "unauthorized_client"}:
            raise ConfigurationError(
                f"The identity provider does not know us as {self._client_id!r} with this proof. Check "
                "VIGIL_OIDC_CLIENT_ID, and VIGIL_OIDC_CLIENT_SECRET or VIGIL_OIDC_CLIENT_KEY."
            )
        raise BadTokenError("refused-by-the-provider")

    async def _with_userinfo(self, metadata: Metadata, claims: Claims, access_token: str) -> Claims:
        """Return the claims with those that the provider tells only at its userinfo endpoint."""
        if self._claim_map.roles_are_told(claims) or not metadata.userinfo_endpoint:
            return claims
        answer = await ask(
            self._http, "GET", metadata.userinfo_endpoint, headers={"authorization": f"Bearer {access_token}"}
        )
        # An access token that is for us alone is refused there: then there is nothing more to know.
        if answer.status != httpx.codes.OK:
            return claims
        if answer.body.get("sub") != claims.get("sub"):  # OpenID Connect Core section 5.3.2
            raise BadTokenError("wrong-subject")
        return answer.body | claims

    def _person(self, claims: Claims) -> Principal:
        person = principal_of_claims(self.issuer, claims, self._claim_map, client=self._client_id)
        # Who signs in with a browser is a person, whatever the provider calls their role.
        return msgspec.structs.replace(person, roles=person.roles - {Role.SERVICE})

    def _tokens(
        self,
        body: dict[str, Any],
        id_token: str,
        claims: Claims,
        person: Principal,
        *,
        kept_refresh_token: str | None = None,
    ) -> Tokens:
        return Tokens(
            principal=person,
            id_token=id_token,
            refresh_token=_member(body, "refresh_token") if "refresh_token" in body else kept_refresh_token,
            access_token=_member(body, "access_token"),
            expires_at_us=self._expires_at_us(body, time_of(claims, "exp")),
            sid=session_of(claims),
        )

    def _expires_at_us(self, body: dict[str, Any], otherwise_s: float | None) -> int:
        life_s = body.get("expires_in")
        if isinstance(life_s, str) and life_s.isdecimal() and len(life_s) < 10:
            life_s = int(life_s)  # some providers write a number as text
        if isinstance(life_s, bool) or not isinstance(life_s, int | float) or not 0 <= life_s <= _LONGEST_TOKEN_LIFE_S:
            # It does not say: as long as the id_token, or not at all.
            return round((otherwise_s if otherwise_s is not None else self._now_s()) * MICROSECONDS)
        return self._clock.now_us() + round(life_s * MICROSECONDS)

    def _now_s(self) -> float:
        return self._clock.now_us() / MICROSECONDS


def _member(body: dict[str, Any], name: str) -> str:
    value = body.get(name)
    if not isinstance(value, str) or not value:
        raise BadTokenError("incomplete-answer")
    return value


def _with_query(url: str, parameters: dict[str, str | None]) -> str:
    parts = urlsplit(url)
    query = urlencode({name: value for name, value in parameters.items() if value is not None})
    return urlunsplit(parts._replace(query=f"{parts.query}&{query}" if parts.query else query))
