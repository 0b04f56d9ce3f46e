"""Signed tokens, opened strictly: three base64url parts, known headers, one allowed algorithm, a key we know by name.

Here: what makes a compact JWS well formed and truly signed, whatever its claims say.
Not here: what the claims mean (governance.tokens, governance.oidc), where keys come from (governance.provider_keys).
Source: RFC 7515, RFC 7518, RFC 8037, RFC 8725 (JWT best current practices).
"""

from __future__ import annotations

import base64
import json
from typing import Any, NamedTuple, NoReturn, Protocol

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from vocabulary.errors import RefusedError

ALGORITHMS = frozenset({"RS256", "PS256", "ES256", "EdDSA"})
"""What may sign. Never `none`, never HS*: a public key would then be the secret (RFC 8725 section 3.1)."""
_OTHER_NAMES = {"Ed25519": "EdDSA"}  # RFC 9864: the same algorithm, said more exactly
LONGEST_TOKEN = 16 * 1024
"""Characters. Real ones have 1 to 4 thousand; the check comes before any parsing, so that size costs us nothing."""
_KNOWN_HEADERS = frozenset({"alg", "kid", "typ", "x5t", "x5t#S256"})
"""Headers that may be there. `jwk`, `jku`, `x5c` and `x5u` bring a key of the sender's own; `crit`, `b64` and `zip`
change what is signed: whoever sends them wants something we do not do."""
_COORDINATE_BYTES = 32  # of P-256

PublicKey = rsa.RSAPublicKey | ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey
Claims = dict[str, Any]


class BadTokenError(RefusedError):
    """A token is not accepted. The text never says why; `reason` is for the audit alone."""

    def __init__(self, reason: str) -> None:
        """Keep a short code such as `expired` or `wrong-audience`; never any part of the token."""
        super().__init__("The token is not accepted.")
        self.reason = reason


class KeySource(Protocol):
    """Where the issuer's public keys are known."""

    async def key(self, kid: str, algorithm: str) -> PublicKey:
        """Return the issuer's key of that name for that algorithm.

        Raises:
            BadTokenError: the issuer has none.
            UnavailableError: no keys are known, and the issuer does not answer.
        """
        ...


class SignedToken(NamedTuple):
    """A token whose signature was checked."""

    kind: str  # header `typ`, lower case, without `application/`; "" where there is none
    claims: Claims
    algorithm: str


class _Parts(NamedTuple):
    header: Claims
    claims: Claims
    signed: bytes
    signature: bytes


async def open_token(text: str, keys: KeySource) -> SignedToken:
    """Return the claims of a token that one of the issuer's keys signed.

    Raises:
        BadTokenError: it is malformed, not signed, or signed by somebody else.
        UnavailableError: the issuer's keys cannot be had.
    """
    parts = _parse(text)
    algorithm, kid, kind = parts.header.get("alg"), parts.header.get("kid"), parts.header.get("typ", "")
    if not isinstance(algorithm, str) or algorithm not in ALGORITHMS | _OTHER_NAMES.keys():
        raise BadTokenError("algorithm")
    if not isinstance(kid, str) or not 0 < len(kid) <= 255:
        raise BadTokenError("no-key-id")
    if not isinstance(kind, str):
        raise BadTokenError("malformed")
    if not parts.header.keys() <= _KNOWN_HEADERS:
        raise BadTokenError("header")
    algorithm = _OTHER_NAMES.get(algorithm, algorithm)
    key = await keys.key(kid, algorithm)
    if not is_signed(parts.signed, parts.signature, key, algorithm):
        raise BadTokenError("signature")
    return SignedToken(kind.lower().removeprefix("application/"), parts.claims, algorithm)


def is_signed(message: bytes, signature: bytes, key: PublicKey, algorithm: str) -> bool:
    """Return whether the key's holder signed the message with this algorithm; False where the key is of another kind.

    Source:
        RFC 7518 sections 3.3 to 3.5, RFC 8037 section 3.1.
    """
    try:
        if algorithm == "RS256" and isinstance(key, rsa.RSAPublicKey):
            key.verify(signature, message, padding.PKCS1v15(), hashes.SHA256())
        elif algorithm == "PS256" and isinstance(key, rsa.RSAPublicKey):
            scheme = padding.PSS(padding.MGF1(hashes.SHA256()), hashes.SHA256.digest_size)
            key.verify(signature, message, scheme, hashes.SHA256())
        elif algorithm == "ES256" and isinstance(key, ec.EllipticCurvePublicKey):
            if len(signature) != 2 * _COORDINATE_BYTES:
                return False
            r, s = (int.from_bytes(signature[at : at + _COORDINATE_BYTES]) for at in (0, _COORDINATE_BYTES))
            key.verify(encode_dss_signature(r, s), message, ec.ECDSA(hashes.SHA256()))
        elif algorithm == "EdDSA" and isinstance(key, ed25519.Ed25519PublicKey):
            key.verify(signature, message)
        else:
            return False
    except InvalidSignature:
        return False
    return True


def strict_json(text: bytes) -> Claims:
    """Return a JSON object that can be read in only one way.

    Raises:
        BadTokenError: it is no object, has a name twice, or a number JSON does not know.
    """
    try:
        found = json.loads(text.decode("utf-8"), object_pairs_hook=_without_duplicates, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        raise BadTokenError("malformed") from None
    if not isinstance(found, dict):
        raise BadTokenError("malformed")
    return found


def _parse(text: str) -> _Parts:
    if len(text) > LONGEST_TOKEN:
        raise BadTokenError("too-long")
    pieces = text.split(".")
    if len(pieces) != 3 or not all(pieces):  # five parts: encrypted; an empty third: unsigned
        raise BadTokenError("malformed")
    header, claims, signature = (_decoded(piece) for piece in pieces)
    signed = f"{pieces[0]}.{pieces[1]}".encode("ascii")
    return _Parts(strict_json(header), strict_json(claims), signed, signature)


def _decoded(piece: str) -> bytes:
    """Return the bytes, if this is the one way to write them (RFC 4648 section 3.5: pad bits are zero)."""
    try:
        raw = base64.b64decode(piece + "=" * (-len(piece) % 4), altchars=b"-_", validate=True)
        is_canonical = base64.urlsafe_b64encode(raw).rstrip(b"=") == piece.encode("ascii")
    except ValueError:
        raise BadTokenError("malformed") from None
    if not is_canonical:
        raise BadTokenError("malformed")
    return raw


def _without_duplicates(pairs: list[tuple[str, Any]]) -> Claims:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name occurs twice")
    return found


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")
