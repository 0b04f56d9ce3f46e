"""The programs that may ask the issuer for tokens, and how each proves which it is.

Here: the two clients of the demonstration, their redirect addresses, and the check of a secret or an assertion.
Not here: what they are granted (hospital.issuer.grants).
Source: RFC 6749 sections 2.3 and 3.1.2; RFC 7523 section 3; RFC 8252 section 7.3 (loopback addresses of any port).
"""

from __future__ import annotations

import base64
import binascii
import hmac
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote_plus, urlsplit

from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import ECKey

from vocabulary.settings import is_loopback

ASSERTION_TYPE = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
ASSERTION_ALGORITHMS = ("ES256",)
LONGEST_ASSERTION_S = 300
_LEEWAY_S = 30


@dataclass(frozen=True, kw_only=True)
class Client:
    """A program. Its text shows no secret."""

    client_id: str
    name: str
    grants: frozenset[str]
    scopes: frozenset[str]
    redirect_uris: tuple[str, ...] = ()
    post_logout_redirect_uris: tuple[str, ...] = ()
    back_channel_logout_uri: str | None = None
    secret: str | None = None
    key: ECKey | None = None

    def __repr__(self) -> str:
        return f"Client({self.client_id})"

    @property
    def is_public(self) -> bool:
        """Return whether it has nothing to prove itself with but PKCE."""
        return self.secret is None and self.key is None


def is_registered(uri: str, registered: tuple[str, ...]) -> bool:
    """Return whether an address is one of those registered: to the last character, or but for a loopback port.

    A registered `http://127.0.0.1/path` without a port allows any (RFC 8252 section 7.3).
    """
    if uri in registered:
        return True
    try:
        asked = urlsplit(uri)
        host, _ = asked.hostname or "", asked.port
    except ValueError:
        return False
    if asked.scheme != "http" or not is_loopback(host) or "@" in asked.netloc or asked.fragment:
        return False
    bare = f"[{host}]" if ":" in host else host
    return asked._replace(netloc=bare).geturl() in registered


class ClientCheck:
    """Knows the clients, and tells which one sends a request to the token endpoint."""

    def __init__(
        self, clients: tuple[Client, ...], audiences: tuple[str, ...], is_first_use: Callable[[str], bool]
    ) -> None:
        """Check against these clients.

        Args:
            clients: all there are.
            audiences: what an assertion may be made for: the issuer, its token endpoint.
            is_first_use: whether an assertion's `jti` is new.
        """
        self._clients = {client.client_id: client for client in clients}
        self._audiences = audiences
        self._is_first_use = is_first_use

    def find(self, client_id: str) -> Client | None:
        """Return the client of that name."""
        return self._clients.get(client_id)

    def authenticated(self, authorization: str, form: Mapping[str, str], now_s: float) -> Client | None:
        """Return the client that proves itself, by exactly one means; None for any other."""
        has_assertion = "client_assertion" in form
        if authorization and (has_assertion or "client_secret" in form):
            return None
        if authorization:
            return self._by_secret(authorization, form.get("client_id"))
        if has_assertion:
            return self._by_assertion(form, now_s)
        client = self.find(form.get("client_id", ""))
        return client if client is not None and client.is_public and "client_secret" not in form else None

    def _by_secret(self, authorization: str, named: str | None) -> Client | None:
        scheme, _, encoded = authorization.partition(" ")
        if scheme.lower() != "basic":
            return None
        try:
            name, colon, secret = base64.b64decode(encoded, validate=True).decode().partition(":")
        except (binascii.Error, UnicodeDecodeError):
            return None
        client = self.find(unquote_plus(name))
        if not colon or client is None or client.secret is None or named not in {None, client.client_id}:
            return None
        is_right = hmac.compare_digest(unquote_plus(secret).encode(), client.secret.encode())
        return client if is_right else None

    def _by_assertion(self, form: Mapping[str, str], now_s: float) -> Client | None:
        if form.get("client_assertion_type") != ASSERTION_TYPE:
            return None
        client = self.find(form.get("client_id", ""))
        if client is None or client.key is None:
            return None
        try:
            claims = jwt.decode(form["client_assertion"], client.key, algorithms=list(ASSERTION_ALGORITHMS)).claims
        except (JoseError, ValueError):
            return None
        return client if self._is_acceptable(claims, client.client_id, now_s) else None

    def _is_acceptable(self, claims: Mapping[str, Any], client_id: str, now_s: float) -> bool:
        expires_s, name = claims.get("exp"), claims.get("jti")
        if isinstance(expires_s, bool) or not isinstance(expires_s, int | float) or not isinstance(name, str):
            return False
        audience = claims.get("aud")
        return (
            claims.get("iss") == client_id
            and claims.get("sub") == client_id
            and (audience in self._audiences if isinstance(audience, str) else False)
            and now_s - _LEEWAY_S < expires_s <= now_s + LONGEST_ASSERTION_S + _LEEWAY_S
            and self._is_first_use(name)
        )
