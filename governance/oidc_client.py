"""How we prove to an OpenID provider which client we are: not at all, by a secret, or by a signed assertion.

Here: the form fields and headers of a request to the token endpoint that say so.
Not here: the request itself (governance.oidc), the secret's or key's making (the provider's administrator).
Source: RFC 6749 section 2.3.1; RFC 7523 (private_key_jwt); OpenID Connect Core section 9.
"""

from __future__ import annotations

import base64
import secrets
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote_plus

import msgspec
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from joserfc import jws
from joserfc.jwk import ECKey, RSAKey

from governance.provider_keys import SMALLEST_RSA_BITS, Metadata
from vocabulary.clock import MICROSECONDS, Clock
from vocabulary.errors import ConfigurationError
from vocabulary.settings import Settings

ASSERTION_TYPE = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
_ASSERTION_LIFE_S = 60


class Proof(NamedTuple):
    """What a request to the token endpoint carries besides its grant. Its text shows nothing."""

    form: dict[str, str]
    headers: dict[str, str]

    def __repr__(self) -> str:
        return "Proof(…)"


class ClientAuthentication:
    """Our client at the provider."""

    def __init__(self, client_id: str, secret: str | None, key: RSAKey | ECKey | None, clock: Clock) -> None:
        """Use a secret, a private key, or neither (a public client, which has PKCE alone)."""
        self._client_id = client_id
        self._secret = secret
        self._key = key
        self._clock = clock

    @classmethod
    def of(cls, settings: Settings, clock: Clock) -> ClientAuthentication:
        """Return what the settings say.

        Raises:
            ConfigurationError: both a secret and a key, or a key that cannot be used.
        """
        secret = settings.oidc_client_secret.get_secret_value() if settings.oidc_client_secret else None
        if secret and settings.oidc_client_key:
            raise ConfigurationError(
                "VIGIL_OIDC_CLIENT_SECRET and VIGIL_OIDC_CLIENT_KEY are both set: keep the one the provider knows."
            )
        key = _read_key(settings.oidc_client_key) if settings.oidc_client_key else None
        return cls(settings.oidc_client_id, secret, key, clock)

    @property
    def is_public(self) -> bool:
        """Return whether we have nothing to prove who we are."""
        return self._secret is None and self._key is None

    def proof(self, metadata: Metadata) -> Proof:
        """Return what the next request carries; an assertion is for one request only.

        Raises:
            ConfigurationError: the provider accepts no signature our key can make.
        """
        if self._key is not None:
            form = {
                "client_id": self._client_id,
                "client_assertion_type": ASSERTION_TYPE,
                "client_assertion": self._assertion(self._key, metadata),
            }
            return Proof(form, {})
        if self._secret is None:
            return Proof({"client_id": self._client_id}, {})
        # Both are form-encoded before they are joined: a colon in either would split elsewhere.
        pair = f"{quote_plus(self._client_id)}:{quote_plus(self._secret)}"
        return Proof({}, {"authorization": "Basic " + base64.b64encode(pair.encode("ascii")).decode()})

    def _assertion(self, key: RSAKey | ECKey, metadata: Metadata) -> str:
        able = ("PS256", "RS256") if isinstance(key, RSAKey) else ("ES256",)
        accepted = [name for name in able if not metadata.signing_algorithms or name in metadata.signing_algorithms]
        if not accepted:
            raise ConfigurationError(
                f"The identity provider accepts no signature of VIGIL_OIDC_CLIENT_KEY ({', '.join(able)}). Use a key "
                "of another kind."
            )
        # A provider that does not say what it accepts accepts RS256 (OpenID Connect Core section 15.1).
        algorithm = accepted[0] if metadata.signing_algorithms else accepted[-1]
        now_s = self._clock.now_us() // MICROSECONDS
        claims = {
            "iss": self._client_id,
            "sub": self._client_id,
            # The issuer alone: an assertion for its token endpoint could be replayed by whoever claims that address.
            "aud": metadata.issuer,
            "jti": secrets.token_urlsafe(24),
            "iat": now_s,
            "exp": now_s + _ASSERTION_LIFE_S,
        }
        # No `kid`: providers name an uploaded key each in their own way, and refuse one they do not know.
        header = {"alg": algorithm, "typ": "JWT"}
        return jws.serialize_compact(header, msgspec.json.encode(claims), key, algorithms=[algorithm])


def _read_key(path: Path) -> RSAKey | ECKey:
    try:
        pem = path.read_bytes()
    except OSError as error:
        raise ConfigurationError(f"VIGIL_OIDC_CLIENT_KEY {path} cannot be read: {error.strerror}.") from None
    try:
        key = load_pem_private_key(pem, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise ConfigurationError(
            f"VIGIL_OIDC_CLIENT_KEY {path} must be a private key in PEM, without a passphrase."
        ) from None
    if isinstance(key, rsa.RSAPrivateKey) and key.key_size >= SMALLEST_RSA_BITS:
        return RSAKey.import_key(pem)
    if isinstance(key, ec.EllipticCurvePrivateKey) and isinstance(key.curve, ec.SECP256R1):
        return ECKey.import_key(pem)
    raise ConfigurationError(f"VIGIL_OIDC_CLIENT_KEY {path} must be RSA of 2048 bits or more, or P-256.")
