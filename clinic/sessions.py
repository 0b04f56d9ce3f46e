"""A signed-in person's session: the secret in the cookie, the keys made from it, and the row it leads to.

Here: opening, finding, refreshing and ending sessions; the code that makes a row ours; the cookie; tokens sealed under
the cookie's secret; the token that forms carry against forgery; the ids of opened pages.
Not here: SQL (stores.sessions), signing in (clinic.sign_in), who a request is of (clinic.identity).
Source: OWASP Session Management and CSRF Prevention cheat sheets; RFC 6265bis (cookie prefixes); RFC 5869 (HKDF).
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import secrets
from typing import Protocol

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from starlette.responses import Response

from governance.access import Principal
from stores import sessions as rows
from stores.pool import Pool
from vocabulary.clock import Clock
from vocabulary.settings import Settings

_LOG = logging.getLogger("clinic")

_SECRET_BYTES = 32
_TOUCH_EVERY_US = 30_000_000  # a row rewritten at every click would be the busiest table of the house
_REFRESH_CLAIM_US = 15_000_000  # longer than a provider may take to answer
_NONCE_BYTES = 12


class SessionTokens(msgspec.Struct, frozen=True):
    """What the provider gave us for one session; never seen by the browser."""

    id_token: str
    refresh_token: str = ""

    def __repr__(self) -> str:
        """Say nothing of either."""
        return "SessionTokens(…)"


class Session:
    """One signed-in person at one browser."""

    __slots__ = ("_secret", "expires_at_us", "name", "opened_at_us", "principal", "refresh_at_us", "sid")

    def __init__(
        self,
        secret: bytes,
        name: str,
        principal: Principal,
        sid: str,
        refresh_at_us: int,
        expires_at_us: int,
        opened_at_us: int = 0,
    ) -> None:
        """Hold what a row said; `secret` is the cookie's."""
        self._secret = secret
        self.name = name
        self.principal = principal
        self.sid = sid
        self.refresh_at_us = refresh_at_us
        self.expires_at_us = expires_at_us
        self.opened_at_us = opened_at_us

    def __repr__(self) -> str:
        """Name the session without its secret."""
        return f"Session({self.name})"

    @property
    def secret_hash(self) -> bytes:
        """Return what the row is found by."""
        return hashlib.sha256(self._secret).digest()

    @property
    def cookie(self) -> str:
        """Return what the browser keeps."""
        return self._secret.hex()

    @property
    def csrf(self) -> str:
        """Return what every form of this session carries, and nobody else can know."""
        return self._key(b"forms").hex()[:43]

    def view(self, about: str) -> str:
        """Return a new id for a page opened now; `about` says what it shows."""
        nonce = secrets.token_hex(8)
        return f"{nonce}.{self._mark(nonce, about)}"

    def is_view(self, view: str, about: str) -> bool:
        """Return whether this session was given that id for a page about the same.

        Only such an id stands for an event that was written already: one made up would hide a look from the audit.
        """
        nonce, _, mark = view.partition(".")
        return hmac.compare_digest(mark.encode(), self._mark(nonce, about).encode())

    def _mark(self, nonce: str, about: str) -> str:
        return hmac.digest(self._key(b"views"), f"{nonce}|{about}".encode(), "sha256").hex()[:32]

    def seal(self, tokens: SessionTokens) -> bytes:
        """Return tokens as the row keeps them: whoever has only the row cannot read them."""
        nonce = secrets.token_bytes(_NONCE_BYTES)
        return nonce + AESGCM(self._key(b"tokens")).encrypt(nonce, msgspec.json.encode(tokens), self.name.encode())

    def unseal(self, sealed: bytes) -> SessionTokens | None:
        """Return tokens that `seal` sealed in this session; None when the row was tampered with."""
        try:
            plain = AESGCM(self._key(b"tokens")).decrypt(
                sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], self.name.encode()
            )
            return msgspec.json.decode(plain, type=SessionTokens)
        except (InvalidTag, ValueError, msgspec.MsgspecError):
            return None

    def _key(self, purpose: bytes) -> bytes:
        return HKDF(SHA256(), 32, None, b"vigil session " + purpose).derive(self._secret)


class Sessions(Protocol):
    """The sessions of this house, whichever process opened them."""

    async def open(self, principal: Principal, tokens: SessionTokens, sid: str, refresh_at_us: int) -> Session:
        """Open a session under a new secret."""
        ...

    async def find(self, cookie: str) -> Session | None:
        """Return the session a cookie leads to, unless it is over."""
        ...

    async def touch(self, session: Session) -> None:
        """Say that its person did something."""
        ...

    async def tokens_to_refresh(self, session: Session) -> SessionTokens | None:
        """Return the tokens if it is the caller who asks the provider now; None: nobody needs to, or another does."""
        ...

    async def tokens(self, session: Session) -> SessionTokens | None:
        """Return the tokens, if they can be read."""
        ...

    async def refreshed(
        self, session: Session, principal: Principal, tokens: SessionTokens, refresh_at_us: int
    ) -> Session:
        """Keep what the provider said now."""
        ...

    async def end(self, session: Session) -> bool:
        """End it; return whether it was still there."""
        ...

    async def end_of_provider(self, issuer: str, sid: str | None, subject: str | None) -> list[str]:
        """End what a provider's logout names; return their short names."""
        ...

    async def sweep(self) -> None:
        """Remove what is over."""
        ...


class StoredSessions:
    """Sessions kept in PostgreSQL."""

    def __init__(self, settings: Settings, pool: Pool, clock: Clock, key: bytes) -> None:
        """Keep sessions as long as the settings say.

        Args:
            settings: how long sessions last.
            pool: of the database they are kept in.
            clock: real time, never a demonstration's.
            key: 32 bytes kept outside of that database, the same in every process that answers under our address: only
                rows written with it are sessions.
        """
        self._pool = pool
        self._mac_key = key
        self._clock = clock
        self._idle_us = int(settings.session_idle_s * 1e6)
        self._longest_us = int(settings.session_longest_s * 1e6)
        # A session must not look idle because a touch was spared.
        self._touch_every_us = min(_TOUCH_EVERY_US, self._idle_us // 4)

    async def open(self, principal: Principal, tokens: SessionTokens, sid: str, refresh_at_us: int) -> Session:
        """Open a session under a new secret."""
        now_us = self._clock.now_us()
        secret = secrets.token_bytes(_SECRET_BYTES)
        name = secrets.token_hex(6)
        named = msgspec.structs.replace(principal, session=name)
        session = Session(secret, name, named, sid, refresh_at_us, now_us + self._longest_us, now_us)
        encoded = msgspec.json.encode(named)
        row = rows.SessionRow(
            session.secret_hash, name, principal.issuer, principal.subject, sid, encoded,
            session.seal(tokens), now_us, now_us, refresh_at_us, session.expires_at_us, self._mac(session, encoded),
        )  # fmt: skip
        async with self._pool.writing() as connection:
            await rows.put(connection, row)
        return session

    async def find(self, cookie: str) -> Session | None:
        """Return the session a cookie leads to, unless it is over."""
        secret = secret_of(cookie)
        if secret is None:
            return None
        row = await self._row(hashlib.sha256(secret).digest())
        if row is None:
            return None
        principal = msgspec.json.decode(row.principal, type=Principal)
        return Session(secret, row.name, principal, row.sid, row.refresh_at_us, row.expires_at_us, row.opened_at_us)

    async def touch(self, session: Session) -> None:
        """Say that its person did something; told to the database at most twice a minute."""
        now_us = self._clock.now_us()
        async with self._pool.writing() as connection:
            await rows.touch(connection, session.secret_hash, now_us, now_us - self._touch_every_us)

    async def tokens_to_refresh(self, session: Session) -> SessionTokens | None:
        """Return the tokens if it is the caller who asks the provider now; None: nobody needs to, or another does."""
        now_us = self._clock.now_us()
        if not 0 < session.refresh_at_us <= now_us:
            return None
        async with self._pool.writing() as connection:
            is_ours = await rows.claim_refresh(connection, session.secret_hash, now_us, now_us + _REFRESH_CLAIM_US)
        return await self.tokens(session) if is_ours else None

    async def tokens(self, session: Session) -> SessionTokens | None:
        """Return the tokens, if they can be read."""
        row = await self._row(session.secret_hash)
        return None if row is None else session.unseal(row.tokens)

    async def refreshed(
        self, session: Session, principal: Principal, tokens: SessionTokens, refresh_at_us: int
    ) -> Session:
        """Keep what the provider said now."""
        named = msgspec.structs.replace(principal, session=session.name)
        encoded = msgspec.json.encode(named)
        async with self._pool.writing() as connection:
            await rows.refreshed(
                connection, session.secret_hash, encoded, session.seal(tokens), refresh_at_us,
                self._mac(session, encoded),
            )  # fmt: skip
        return Session(
            session._secret, session.name, named, session.sid, refresh_at_us, session.expires_at_us,
            session.opened_at_us,
        )  # fmt: skip

    async def end(self, session: Session) -> bool:
        """End it; return whether it was still there."""
        async with self._pool.writing() as connection:
            return await rows.end(connection, session.secret_hash)

    async def end_of_provider(self, issuer: str, sid: str | None, subject: str | None) -> list[str]:
        """End what a provider's logout names; return their short names."""
        async with self._pool.writing() as connection:
            return await rows.end_of_provider(connection, issuer, sid, subject)

    async def sweep(self) -> None:
        """Remove what is over."""
        async with self._pool.writing() as connection:
            await rows.sweep(connection, self._clock.now_us(), self._idle_us)

    async def _row(self, secret_hash: bytes) -> rows.SessionRow | None:
        """Return a session's row; None when there is none, or one that was not written with our key."""
        async with self._pool.writing() as connection:
            row = await rows.find(connection, secret_hash, self._clock.now_us(), self._idle_us)
        if row is None:
            return None
        expected = self._mac_of(
            row.secret_hash, row.name, row.issuer, row.subject, row.sid, row.principal, row.opened_at_us,
            row.expires_at_us,
        )  # fmt: skip
        if not hmac.compare_digest(expected, row.mac):
            # Written or edited by somebody else, or under a key that was replaced. Whose it says to be is no news.
            _LOG.error("session_row_refused")
            return None
        return row

    def _mac(self, session: Session, principal: bytes) -> bytes:
        """Return the code of a session's row, which says `principal`."""
        return self._mac_of(
            session.secret_hash, session.name, session.principal.issuer, session.principal.subject, session.sid,
            principal, session.opened_at_us, session.expires_at_us,
        )  # fmt: skip

    def _mac_of(self, *fields: bytes | str | int) -> bytes:
        # JSON, so that no two rows read the same when their fields are put one behind the other.
        return hmac.digest(self._mac_key, b"vigil session row 1 " + msgspec.json.encode(fields), "sha256")


def secret_of(cookie: str) -> bytes | None:
    """Return the secret a cookie carries; None when it cannot be one of ours."""
    if len(cookie) != 2 * _SECRET_BYTES:
        return None
    try:
        return bytes.fromhex(cookie)
    except ValueError:
        return None


class Cookie:
    """How a cookie of ours is called and set: unreadable for scripts, and for this host alone where there is TLS."""

    def __init__(self, name: str, *, is_secure: bool) -> None:
        """Call it `name`, with the prefix that browsers enforce when the pages are reached over TLS."""
        self.name = f"__Host-{name}" if is_secure else name
        self._is_secure = is_secure

    def put(self, response: Response, value: str, max_age_s: int) -> None:
        """Set the cookie."""
        response.set_cookie(
            self.name, value, max_age=max_age_s, path="/", secure=self._is_secure, httponly=True, samesite="lax"
        )

    def drop(self, response: Response) -> None:
        """Have the browser forget it."""
        response.delete_cookie(self.name, path="/", secure=self._is_secure, httponly=True, samesite="lax")
