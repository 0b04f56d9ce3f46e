"""The issuer's own key and the demonstration client's secrets: made once, kept in a folder for its owner only.

Here: making and reading those files, signing tokens, the public key set.
Not here: what a token says (hospital.issuer.tokens).
Source: RFC 7515, RFC 7517, RFC 7638.
"""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Any

from joserfc import jws, jwt
from joserfc.errors import JoseError
from joserfc.jwk import ECKey, RSAKey

from vocabulary.errors import ConfigurationError

ALGORITHM = "RS256"
RSA_BITS = 2048


class IssuerKey:
    """The key that signs the issuer's tokens."""

    def __init__(self, folder: Path) -> None:
        """Read the key from `issuer.pem`, or make it.

        Raises:
            ConfigurationError: the folder or the file cannot be used.
        """
        self._key = RSAKey.import_key(
            _kept(folder / "issuer.pem", lambda: RSAKey.generate_key(RSA_BITS).as_pem(private=True))
        )
        self._kid = self._key.thumbprint()

    def published(self) -> dict[str, Any]:
        """Return the JSON Web Key Set with the public key."""
        public = self._key.as_dict(private=False)
        return {"keys": [public | {"kid": self._kid, "alg": ALGORITHM, "use": "sig"}]}

    def signed(self, kind: str, claims: dict[str, Any]) -> str:
        """Return a token with header `typ` = kind."""
        header = {"alg": ALGORITHM, "kid": self._kid, "typ": kind}
        return jws.serialize_compact(header, json.dumps(claims), self._key, algorithms=[ALGORITHM])

    def opened(self, token: str, kind: str) -> dict[str, Any] | None:
        """Return the claims of a token of this kind that we signed, however old; None for any other."""
        try:
            found = jwt.decode(token, self._key, algorithms=[ALGORITHM])
        except (JoseError, ValueError):
            return None
        return dict(found.claims) if found.header.get("typ") == kind else None


def client_secret(folder: Path, client_id: str) -> str:
    """Return the client's secret from `<client>.secret`, made on first use.

    Raises:
        ConfigurationError: the folder or the file cannot be used.
    """
    return _kept(folder / f"{client_id}.secret", lambda: secrets.token_urlsafe(32).encode()).decode().strip()


def client_key(folder: Path, client_id: str) -> ECKey:
    """Return the client's key pair from `<client>.pem` (P-256), made on first use.

    Raises:
        ConfigurationError: the folder or the file cannot be used.
    """
    return ECKey.import_key(
        _kept(folder / f"{client_id}.pem", lambda: ECKey.generate_key("P-256").as_pem(private=True))
    )


def _kept(path: Path, make: Callable[[], bytes]) -> bytes:
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not path.exists():
            handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(handle, "wb") as file:
                file.write(make())
        return path.read_bytes()
    except OSError as error:
        raise ConfigurationError(f"The issuer's file {path} cannot be used: {error.strerror}.") from None
