"""Tokens that a provider makes for us alone: who signed in (id_token), and whose session ended (logout_token).

Here: what both must say before we believe them.
Not here: the signature (governance.jws), how we come by them (governance.oidc), access tokens (governance.tokens).
Source: OpenID Connect Core 1.0 sections 2 and 3.1.3.7; OpenID Connect Back-Channel Logout 1.0 section 2.6.
"""

from __future__ import annotations

import base64
import hashlib
import hmac

from governance.jws import BadTokenError, Claims, KeySource, open_token
from governance.tokens import LEEWAY_S, Once, audiences, check_times, subject_of, time_of
from vocabulary.clock import MICROSECONDS, Clock

BACK_CHANNEL_LOGOUT = "http://schemas.openid.net/event/backchannel-logout"
_ID_KINDS = frozenset({"", "jwt", "id_token+jwt"})
_LOGOUT_KINDS = frozenset({"", "jwt", "logout+jwt"})
_LONGEST_LOGOUT_S = 600.0
"""A logout token is made when it is sent: an older one, or one that lives longer, is somebody's copy."""
_LONGEST_NAME = 255


class OwnTokens:
    """Checks tokens that one provider made for one client."""

    def __init__(self, issuer: str, client_id: str, keys: KeySource, clock: Clock) -> None:
        """Believe tokens of `issuer` for `client_id`; the clock is real time."""
        self._issuer = issuer
        self._client_id = client_id
        self._keys = keys
        self._clock = clock
        self._logouts = Once(clock)

    async def identity(self, id_token: str, access_token: str) -> Claims:
        """Return the claims of an id_token that came with an access token.

        Raises:
            BadTokenError: it is not accepted.
            UnavailableError: the provider's keys cannot be had.
        """
        token = await open_token(id_token, self._keys)
        if token.kind not in _ID_KINDS or "events" in token.claims:
            raise BadTokenError("not-an-id-token")
        self._check_origin(token.claims)
        check_times(token.claims, self._clock)
        if time_of(token.claims, "iat") is None:
            raise BadTokenError("not-an-id-token")
        subject_of(token.claims)
        # SHA-256 for every algorithm we accept but EdDSA: Ed25519 hashes with SHA-512.
        digest = hashlib.new("sha512" if token.algorithm == "EdDSA" else "sha256", access_token.encode()).digest()
        if "at_hash" in token.claims and token.claims["at_hash"] != _text_of(digest[: len(digest) // 2]):
            raise BadTokenError("at-hash")
        return token.claims

    async def end_of_session(self, logout_token: str) -> tuple[str | None, str | None]:
        """Return whose sessions end: the provider's session id, the subject, or both. Each token works once.

        Raises:
            BadTokenError: it is not accepted, or was used before.
            UnavailableError: the provider's keys cannot be had.
        """
        token = await open_token(logout_token, self._keys)
        claims = token.claims
        if token.kind not in _LOGOUT_KINDS or "nonce" in claims:
            raise BadTokenError("not-a-logout-token")
        self._check_origin(claims)
        expires_s = check_times(claims, self._clock)
        issued_s = time_of(claims, "iat")
        now_s = self._clock.now_us() / MICROSECONDS
        if issued_s is None or now_s > issued_s + _LONGEST_LOGOUT_S + LEEWAY_S:
            raise BadTokenError("expired")
        events = claims.get("events")
        if not isinstance(events, dict) or not isinstance(events.get(BACK_CHANNEL_LOGOUT), dict):
            raise BadTokenError("not-a-logout-token")
        subject = subject_of(claims) if "sub" in claims else None
        sid = session_of(claims) or None
        name = claims.get("jti")
        if (subject is None and sid is None) or not isinstance(name, str) or not 0 < len(name) <= _LONGEST_NAME:
            raise BadTokenError("not-a-logout-token")
        self._logouts.use(name, min(expires_s, issued_s + _LONGEST_LOGOUT_S) + LEEWAY_S)
        return sid, subject

    def _check_origin(self, claims: Claims) -> None:
        """Check that our provider made a token, and for us."""
        if claims.get("iss") != self._issuer:
            raise BadTokenError("wrong-issuer")
        names = audiences(claims)
        if self._client_id not in names:
            raise BadTokenError("wrong-audience")
        # A token for several is believed only where it says that we were the one who asked for it.
        if ("azp" in claims or len(set(names)) > 1) and claims.get("azp") != self._client_id:
            raise BadTokenError("wrong-audience")


def check_nonce(claims: Claims, nonce: str) -> None:
    """Check that an id_token answers our own question.

    Raises:
        BadTokenError: it answers another one: a code was injected.
    """
    told = claims.get("nonce")
    if not isinstance(told, str) or not hmac.compare_digest(told.encode("utf-8", "replace"), nonce.encode()):
        raise BadTokenError("nonce")


def check_age(claims: Claims, max_age_s: int, clock: Clock) -> None:
    """Check that the person signed in at the provider no longer ago than we asked for [s].

    Raises:
        BadTokenError: longer ago, or it does not say when.
    """
    at_s = time_of(claims, "auth_time")
    if at_s is None or clock.now_us() / MICROSECONDS > at_s + max_age_s + LEEWAY_S:
        raise BadTokenError("signed-in-too-long-ago")


def session_of(claims: Claims) -> str:
    """Return the provider's session id, "" where it names none.

    Raises:
        BadTokenError: it is no short printable text.
    """
    sid = claims.get("sid", "")
    if not isinstance(sid, str) or len(sid) > _LONGEST_NAME or not sid.isprintable():
        raise BadTokenError("malformed-claim")
    return sid


def _text_of(digest: bytes) -> str:
    return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
