"""An OpenID provider in this process, and people as its tokens describe them.

Here: discovery, keys, good tokens and any bad one; `Person`.
Not here: the clinic that believes it (guarded_site), what is done with bad tokens (test_token_attacks).
"""

from __future__ import annotations

import base64
import hmac
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import httpx
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

from governance.access import Principal, Role

NOW_US = 1_795_000_000_000_000
NOW_S = NOW_US // 1_000_000

ISSUER = "https://login.test/realms/hospital"
AUDIENCE = "urn:vigil:api"


def b64(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


class Issuer:
    """An OpenID provider served in this process, with its keys: makes good tokens, and any bad one."""

    def __init__(self) -> None:
        self.rsa = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        self.foreign = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        self.ec = ec.generate_private_key(ec.SECP256R1())
        self.ed = ed25519.Ed25519PrivateKey.generate()
        self.asked: list[str] = []
        self.is_there = True

    def http(self) -> httpx.AsyncClient:
        """Return a client for which this provider is the world."""
        return httpx.AsyncClient(transport=httpx.MockTransport(self._answer))

    def _answer(self, request: httpx.Request) -> httpx.Response:
        self.asked.append(str(request.url))
        if not self.is_there:
            raise httpx.ConnectError("nobody listens", request=request)
        if str(request.url) == f"{ISSUER}/.well-known/openid-configuration":
            return httpx.Response(
                200,
                json={
                    "issuer": ISSUER,
                    "authorization_endpoint": f"{ISSUER}/authorize",
                    "token_endpoint": f"{ISSUER}/token",
                    "jwks_uri": f"{ISSUER}/keys",
                    "code_challenge_methods_supported": ["S256"],
                },
            )
        if str(request.url) == f"{ISSUER}/keys":
            return httpx.Response(200, json={"keys": self.published()})
        return httpx.Response(404, json={})

    def published(self) -> list[dict[str, str]]:
        point = self.ec.public_key().public_numbers()
        return [
            {"kid": "rsa", "use": "sig", **self.rsa_jwk(self.rsa)},
            {"kid": "ec", "kty": "EC", "crv": "P-256", "x": b64(point.x.to_bytes(32)), "y": b64(point.y.to_bytes(32))},
            {"kid": "ed", "kty": "OKP", "crv": "Ed25519", "x": b64(self.ed.public_key().public_bytes_raw())},
        ]

    @staticmethod
    def rsa_jwk(key: rsa.RSAPrivateKey) -> dict[str, str]:
        numbers = key.public_key().public_numbers()
        return {"kty": "RSA", "n": b64(numbers.n.to_bytes(256)), "e": b64(numbers.e.to_bytes(3))}

    def claims(self, **changes: Any) -> dict[str, Any]:
        """Return the claims of a good token; `...` takes one away."""
        base = {"iss": ISSUER, "aud": AUDIENCE, "sub": "u-1", "client_id": "viewer", "iat": NOW_S - 5,
                "exp": NOW_S + 900, "roles": [], "units": []}  # fmt: skip
        return {name: value for name, value in (base | changes).items() if value is not ...}

    def token(
        self,
        claims: dict[str, Any] | bytes | None = None,
        *,
        header: Mapping[str, Any] | None = None,
        key: Any = None,
        algorithm: str = "RS256",
        kid: str = "rsa",
        **changes: Any,
    ) -> str:
        """Return a token, good unless told otherwise; `claims` given as bytes are sent as they are."""
        head = {"alg": algorithm, "kid": kid, "typ": "at+jwt", **(header or {})}
        head = {name: value for name, value in head.items() if value is not ...}
        body = self.claims(**changes) if claims is None else claims
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        signed = f"{b64(json.dumps(head).encode())}.{b64(raw)}"
        return f"{signed}.{b64(self._sign(key or getattr(self, kid), algorithm, signed.encode()))}"

    @staticmethod
    def _sign(key: Any, algorithm: str, message: bytes) -> bytes:
        if isinstance(key, bytes):
            return hmac.digest(key, message, "sha256")
        if algorithm == "PS256":
            return key.sign(message, padding.PSS(padding.MGF1(hashes.SHA256()), 32), hashes.SHA256())
        if isinstance(key, rsa.RSAPrivateKey):
            return key.sign(message, padding.PKCS1v15(), hashes.SHA256())
        if isinstance(key, ec.EllipticCurvePrivateKey):
            r, s = decode_dss_signature(key.sign(message, ec.ECDSA(hashes.SHA256())))
            return r.to_bytes(32) + s.to_bytes(32)
        return key.sign(message)


@dataclass(frozen=True)
class Person:
    """Somebody as their token describes them."""

    subject: str
    roles: tuple[str, ...] = ()
    units: tuple[str, ...] = ()
    practitioner: str = ""
    is_system: bool = False  # client_credentials: the token speaks for a program

    @property
    def agent(self) -> str:
        return f"{ISSUER}|{self.subject}"

    def token(self, issuer: Issuer) -> str:
        claims: dict[str, Any] = {"sub": self.subject, "roles": list(self.roles), "units": list(self.units)}
        if self.practitioner:
            claims["practitioner"] = self.practitioner
        return issuer.token(client_id=self.subject if self.is_system else "viewer", **claims)

    def principal(self) -> Principal:
        """Return what a sign-in would make of them."""
        return Principal(
            issuer=ISSUER, subject=self.subject, name=self.subject, roles=frozenset(map(Role, self.roles)),
            units=frozenset(self.units), practitioner=self.practitioner,
        )  # fmt: skip
