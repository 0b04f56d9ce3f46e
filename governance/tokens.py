"""Access tokens of people's programs and of other systems: from a Bearer token to a Principal, or a refusal.

Here: what the claims of a token must say, once-only tokens, and how claims become roles, wards and a practitioner.
Not here: the signature (governance.jws), signing in with a browser (governance.oidc), what a role may do
(governance.access).
Source: RFC 9068 (JWT access tokens), RFC 7519, RFC 8705 (certificate-bound tokens), RFC 8725.
"""

from __future__ import annotations

import base64
import hashlib
import heapq
import hmac
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from governance.access import Principal, Role
from governance.jws import BadTokenError, Claims, KeySource, SignedToken, open_token
from vocabulary.clock import MICROSECONDS, Clock
from vocabulary.settings import Settings

__all__ = ["BadTokenError", "ClaimMap", "Once", "TokenVerifier", "check_times", "principal_of_claims"]

LEEWAY_S = 60.0
"""How far the issuer's clock and ours may differ."""
LATEST_TIME_S = 253_402_300_800.0
"""The year 10000. A time beyond it is no time, and would overflow our microseconds."""
_LONGEST_SUBJECT = 255  # OpenID Connect Core section 2: sub
_LONGEST_CLAIM = 256
_MOST_VALUES = 256

_ACCESS_KINDS = frozenset({"", "jwt", "at+jwt"})
_NOT_ACCESS = ("at_hash", "c_hash", "s_hash", "events")
"""Claims that only other kinds of token have: somebody shows us a token made for something else."""


class ClaimMap(NamedTuple):
    """Which claims of the provider say what about somebody."""

    roles: str
    units: str
    practitioner: str
    role_names: Mapping[str, str]  # the provider's name of a role to ours

    @classmethod
    def of(cls, settings: Settings) -> ClaimMap:
        """Return what the settings say."""
        return cls(
            settings.oidc_roles_claim,
            settings.oidc_units_claim,
            settings.oidc_practitioner_claim,
            settings.oidc_role_map,
        )

    def roles_are_told(self, claims: Claims) -> bool:
        """Return whether the claims say anything about roles, be it that there are none."""
        return _claim(claims, self.roles, None) is not None


class Once:
    """Remembers what may be used only once, until it would have expired anyway."""

    def __init__(self, clock: Clock, most: int = 10_000) -> None:
        """Remember at most `most` names; a further one is refused rather than an old one forgotten."""
        self._clock = clock
        self._most = most
        self._names: set[str] = set()
        self._order: list[tuple[float, str]] = []

    def use(self, name: str, until_s: float) -> None:
        """Use a name.

        Args:
            name: issuer's `jti`, or a nonce.
            until_s: seconds since the epoch; afterwards the token is refused for its age.

        Raises:
            BadTokenError: it was used before, or too many wait for their end.
        """
        now_s = self._clock.now_us() / MICROSECONDS
        while self._order and self._order[0][0] < now_s:
            self._names.discard(heapq.heappop(self._order)[1])
        if name in self._names:
            raise BadTokenError("replayed")
        if len(self._names) >= self._most:
            raise BadTokenError("too-many")
        self._names.add(name)
        heapq.heappush(self._order, (until_s, name))


class TokenVerifier:
    """Accepts access tokens of one issuer that are meant for us."""

    def __init__(self, issuer: str, audience: str, keys: KeySource, clock: Clock, claim_map: ClaimMap) -> None:
        """Verify tokens.

        Args:
            issuer: exactly as tokens write it in `iss`.
            audience: what `aud` must contain.
            keys: the issuer's public keys.
            clock: real time; never a demonstration's scaled clock.
            claim_map: which claims say what.
        """
        self._issuer = issuer
        self._audience = audience
        self._keys = keys
        self._clock = clock
        self._claim_map = claim_map

    async def principal_of(self, bearer: str, *, certificate: bytes | None = None) -> Principal:
        """Return who shows this token.

        Args:
            bearer: what follows `Bearer ` in the Authorization header.
            certificate: the client's TLS certificate, DER, if it showed one.

        Raises:
            BadTokenError: the token is not accepted; whatever is wrong with it, the text is the same.
            UnavailableError: the issuer's keys are not known and it does not answer.
        """
        token = await open_token(bearer, self._keys)
        claims = token.claims
        self._check_kind(token)
        if claims.get("iss") != self._issuer:
            raise BadTokenError("wrong-issuer")
        if self._audience not in audiences(claims):
            raise BadTokenError("wrong-audience")
        check_times(claims, self._clock)
        _check_confirmation(claims, certificate)
        client = _text(claims, "client_id") or _text(claims, "azp")
        if is_of_a_system(claims):
            return _system(self._issuer, claims, client, self._claim_map)
        return principal_of_claims(self._issuer, claims, self._claim_map, client=client)

    def _check_kind(self, token: SignedToken) -> None:
        if token.kind not in _ACCESS_KINDS or any(name in token.claims for name in _NOT_ACCESS):
            raise BadTokenError("not-an-access-token")
        # Keycloak says what it is in a claim (`Bearer`, `ID`, `Refresh`), and before 24 put a nonce into access tokens.
        declared = token.claims.get("typ")
        if declared is not None and declared != "Bearer":
            raise BadTokenError("not-an-access-token")
        if "nonce" in token.claims and declared is None and token.kind != "at+jwt":
            raise BadTokenError("not-an-access-token")


def audiences(claims: Claims) -> tuple[str, ...]:
    """Return for whom a token is.

    Raises:
        BadTokenError: `aud` is neither a string nor a list of strings.
    """
    return _texts(claims.get("aud", []), "wrong-audience")


def check_times(claims: Claims, clock: Clock) -> float:
    """Check `exp` (required), `nbf` and `iat`, and return `exp` in seconds since the epoch.

    Raises:
        BadTokenError: expired, not yet valid, issued in the future, or a time is no number.
    """
    now_s = clock.now_us() / MICROSECONDS
    expires_s = time_of(claims, "exp")
    if expires_s is None:
        raise BadTokenError("no-expiry")
    if now_s >= expires_s + LEEWAY_S:
        raise BadTokenError("expired")
    for name in ("nbf", "iat"):
        at_s = time_of(claims, name)
        if at_s is not None and at_s > now_s + LEEWAY_S:
            raise BadTokenError("not-yet")
    return expires_s


def time_of(claims: Claims, name: str) -> float | None:
    """Return a NumericDate [s since the epoch], or None where there is none.

    Raises:
        BadTokenError: it is there and no number of seconds.
    """
    value = claims.get(name)
    if value is None and name not in claims:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < LATEST_TIME_S:
        raise BadTokenError("malformed-claim")
    return float(value)


def principal_of_claims(issuer: str, claims: Claims, claim_map: ClaimMap, *, client: str = "") -> Principal:
    """Return the person whom verified claims describe.

    Unknown roles are dropped; `operator` and `service` are never accepted.

    Raises:
        BadTokenError: a claim is not of the shape it must have.
    """
    names = _texts(_claim(claims, claim_map.roles), "malformed-claim")
    # A person is never a system, which reads whoever may be shared with no relationship to anybody.
    roles = _roles(claim_map.role_names.get(name, name) for name in names) - {Role.SERVICE}
    return Principal(
        issuer=issuer,
        subject=subject_of(claims),
        name=_text(claims, "name") or _text(claims, "preferred_username"),
        roles=roles,
        units=frozenset(_texts(_claim(claims, claim_map.units), "malformed-claim")),
        practitioner=_clean(_claim(claims, claim_map.practitioner, "")),
        client=client,
    )


def is_of_a_system(claims: Claims) -> bool:
    """Return whether a token speaks for a program and no person (client_credentials).

    Source:
        RFC 9068 section 2.2: `sub` is then the client; Auth0 writes `gty` and `<client>@clients`, Keycloak
        `preferred_username` `service-account-<client>` beside `client_id`, Entra ID `idtyp` `app`.
    """
    subject, client = claims.get("sub"), claims.get("client_id") or claims.get("azp")
    if claims.get("gty") == "client-credentials" or claims.get("idtyp") == "app":
        return True
    # A person may call themself so where people choose their names; but a person's token has a session.
    has_session = "sid" in claims or "session_state" in claims
    own = claims.get("client_id")
    if own and not has_session and claims.get("preferred_username") == f"service-account-{own}":
        return True
    return isinstance(client, str) and bool(client) and subject in (client, f"{client}@clients")


def _system(issuer: str, claims: Claims, client: str, claim_map: ClaimMap) -> Principal:
    # A system is `service`, and more only where this site says so by name in oidc_role_map.
    names = _texts(_claim(claims, claim_map.roles), "malformed-claim")
    mapped = _roles(claim_map.role_names[name] for name in names if name in claim_map.role_names)
    subject = subject_of(claims)
    return Principal(
        issuer=issuer,
        subject=subject,
        name=_text(claims, "name") or client or subject,
        roles=mapped or frozenset({Role.SERVICE}),
        client=client,
    )


def subject_of(claims: Claims) -> str:
    """Return `sub`.

    Raises:
        BadTokenError: missing, empty, too long, or with characters that are not printed.
    """
    subject = claims.get("sub")
    if not isinstance(subject, str) or not 0 < len(subject) <= _LONGEST_SUBJECT or not subject.isprintable():
        raise BadTokenError("no-subject")
    return subject


def _roles(names: Iterable[str]) -> frozenset[Role]:
    known = {role.value: role for role in Role if role is not Role.OPERATOR}
    return frozenset(known[name] for name in names if name in known)


def _claim(claims: Claims, path: str, missing: object = ()) -> object:
    """Return a claim by its name, or by a path such as `realm_access.roles` (Keycloak)."""
    if path in claims:
        return claims[path]
    found: object = claims
    for name in path.split("."):
        if not isinstance(found, dict) or name not in found:
            return missing
        found = found[name]
    return found


def _texts(value: object, reason: str) -> tuple[str, ...]:
    values = (value,) if isinstance(value, str) else value
    if not isinstance(values, list | tuple) or len(values) > _MOST_VALUES:
        raise BadTokenError(reason)
    for each in values:
        if not isinstance(each, str) or len(each) > _LONGEST_CLAIM or not each.isprintable():
            raise BadTokenError(reason)
    return tuple(values)


def _text(claims: Claims, name: str) -> str:
    return _clean(claims.get(name, ""))


def _clean(value: object) -> str:
    if not isinstance(value, str) or len(value) > _LONGEST_CLAIM or not value.isprintable():
        raise BadTokenError("malformed-claim")
    return value


def _check_confirmation(claims: Claims, certificate: bytes | None) -> None:
    """Check that a token bound to a key is shown by its holder (RFC 8705 section 3.1)."""
    if "cnf" not in claims:
        return
    confirmation = claims["cnf"]
    # A binding we cannot check (RFC 9449, DPoP: `jkt`) makes the token useless here, never a bearer token.
    if not isinstance(confirmation, dict) or confirmation.keys() != {"x5t#S256"} or certificate is None:
        raise BadTokenError("not-the-holder")
    found = base64.urlsafe_b64encode(hashlib.sha256(certificate).digest()).rstrip(b"=")
    wanted = confirmation["x5t#S256"]
    if not isinstance(wanted, str) or not hmac.compare_digest(found, wanted.encode("utf-8")):
        raise BadTokenError("not-the-holder")
