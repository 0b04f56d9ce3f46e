"""The tokens the issuer signs: what each says, of whom, for whom, for how long.

Here: id_token, access token and logout token, and the answer of the token endpoint.
Not here: the key (hospital.issuer.keys), who may have one (hospital.issuer.grants).
Source: OpenID Connect Core 1.0 section 2; RFC 9068; OpenID Connect Back-Channel Logout 1.0 section 2.4.
"""

from __future__ import annotations

import base64
import hashlib
import secrets
from typing import Any

from hospital.issuer.clients import Client
from hospital.issuer.grants import Grants, Session
from hospital.issuer.keys import IssuerKey
from hospital.issuer.people import Person, person_of
from vocabulary.clock import MICROSECONDS, Clock

TOKEN_S = 300
LOGOUT_S = 120
LOGOUT_EVENT = "http://schemas.openid.net/event/backchannel-logout"


class TokenMaker:
    """Signs the issuer's tokens."""

    def __init__(self, issuer: str, audience: str, key: IssuerKey, clock: Clock) -> None:
        """Sign as `issuer`; access tokens are for `audience`."""
        self._issuer = issuer
        self._audience = audience
        self._key = key
        self._clock = clock

    def answer(self, session: Session, grants: Grants, nonce: str | None) -> dict[str, Any]:
        """Return what the token endpoint answers for somebody who signed in; a refresh has no nonce."""
        person = person_of(session.subject)
        assert person is not None
        access_token = self._access_token(person, session)
        answer: dict[str, Any] = {
            "access_token": access_token,
            "token_type": "Bearer",
            "expires_in": TOKEN_S,
            "scope": " ".join(sorted(session.scopes)),
            "id_token": self._id_token(person, session, access_token, nonce),
        }
        if "offline_access" in session.scopes:
            answer["refresh_token"] = grants.refresh_token(session)
        return answer

    def service_answer(self, client: Client, scopes: frozenset[str]) -> dict[str, Any]:
        """Return what the token endpoint answers a program that speaks for itself."""
        claims = self._claims(TOKEN_S) | {
            "sub": client.client_id,
            "client_id": client.client_id,
            "aud": self._audience,
            "scope": " ".join(sorted(scopes)),
            "name": client.name,
        }
        return {
            "access_token": self._key.signed("at+jwt", claims),
            "token_type": "Bearer",
            "expires_in": TOKEN_S,
            "scope": claims["scope"],
        }

    def logout_token(self, session: Session) -> str:
        """Return the token that tells a client that a session ended."""
        claims = self._claims(LOGOUT_S) | {
            "aud": session.client_id,
            "sub": session.subject,
            "sid": session.sid,
            "events": {LOGOUT_EVENT: {}},
        }
        return self._key.signed("logout+jwt", claims)

    def session_of_access_token(self, token: str) -> str | None:
        """Return the session an access token of ours belongs to, or None where it is not good."""
        claims = self._key.opened(token, "at+jwt")
        if claims is None or claims["iss"] != self._issuer or claims["exp"] <= self._now_s():
            return None
        sid = claims.get("sid")
        return sid if isinstance(sid, str) else None

    def session_of_hint(self, id_token: str) -> tuple[str, str] | None:
        """Return session and client of an id_token of ours, however old, or None."""
        claims = self._key.opened(id_token, "JWT")
        if claims is None or claims["iss"] != self._issuer or "events" in claims:
            return None
        return claims["sid"], claims["aud"]

    def _access_token(self, person: Person, session: Session) -> str:
        claims = self._claims(TOKEN_S) | {
            "sub": person.subject,
            "aud": self._audience,
            "client_id": session.client_id,
            "sid": session.sid,
            "scope": " ".join(sorted(session.scopes)),
        }
        return self._key.signed("at+jwt", claims | person.claims(session.scopes))

    def _id_token(self, person: Person, session: Session, access_token: str, nonce: str | None) -> str:
        digest = hashlib.sha256(access_token.encode()).digest()
        claims = self._claims(TOKEN_S) | {
            "sub": person.subject,
            "aud": session.client_id,
            "sid": session.sid,
            "auth_time": session.signed_in_at_us // MICROSECONDS,
            "at_hash": base64.urlsafe_b64encode(digest[:16]).rstrip(b"=").decode(),
        }
        if nonce is not None:
            claims["nonce"] = nonce
        return self._key.signed("JWT", claims | person.claims(session.scopes))

    def _claims(self, life_s: int) -> dict[str, Any]:
        now_s = self._now_s()
        return {"iss": self._issuer, "iat": now_s, "exp": now_s + life_s, "jti": secrets.token_urlsafe(18)}

    def _now_s(self) -> int:
        return self._clock.now_us() // MICROSECONDS
