"""Who a request is of: a signed-in person by their cookie, another system by its Bearer token, or nobody.

Here: reading the two headers, verifying what they hold, asking the provider again when it is time.
Not here: what the caller may do (clinic.guarding, governance.gate), signing in (clinic.sign_in), sessions
(clinic.sessions).
Source: RFC 6750 section 2.1 (only the Authorization header), RFC 9110 section 11.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable

from clinic.failures import FailureLog
from clinic.sessions import Cookie, Session, Sessions, SessionTokens
from governance.access import Principal
from governance.jws import BadTokenError
from governance.oidc import Provider
from governance.tokens import TokenVerifier
from vocabulary.errors import ConfigurationError, UnavailableError

_LOG = logging.getLogger("clinic")

_LONGEST_BEARER = 16 * 1024
_LAST_REFRESHES_S = 15.0
"""How long closing waits for providers that were asked: longer than one may take to answer."""

RawHeaders = Iterable[tuple[bytes, bytes]]


class Caller:
    """Who asks, and by what they are known."""

    __slots__ = ("_bearer", "principal", "session")

    def __init__(self, principal: Principal, session: Session | None = None, bearer: str = "") -> None:
        """Hold a principal with the session or the token that says so."""
        self.principal = principal
        self.session = session
        self._bearer = bearer

    def __repr__(self) -> str:
        """Name nobody."""
        return "Caller(…)"


class Identity:
    """Finds callers."""

    def __init__(
        self, sessions: Sessions, cookie: Cookie, provider: Provider | None, verifier: TokenVerifier | None,
        failures: FailureLog,
    ) -> None:  # fmt: skip
        """Believe these sessions and tokens; without a provider nobody can sign in, and no token is accepted."""
        self.sessions = sessions
        self.cookie = cookie
        self.provider = provider
        self._verifier = verifier
        self.failures = failures
        self._refreshes: set[asyncio.Task[Session | None]] = set()

    async def of(self, headers: RawHeaders) -> Caller | None:
        """Return who a request is of; None: nobody that is known.

        A request that shows a token is judged by it alone: were its cookie a second chance, a token that was refused
        would still be answered.

        Raises:
            UnavailableError: sessions or keys cannot be read.
        """
        shown = [value for name, value in headers if name == b"authorization"]
        if shown:
            return await self._of_token(shown)
        cookie = cookie_of(headers, self.cookie.name)
        session = await self.sessions.find(cookie) if cookie else None
        if session is None:
            return None
        current = await self._current(session)
        if current is None:
            return None
        await self.sessions.touch(current)
        return Caller(current.principal, current)

    async def again(self, caller: Caller, *, is_active: bool) -> Caller | None:
        """Return who an open stream is of by now: with the roles of now; None when the session or token is over.

        Args:
            caller: who opened it.
            is_active: whether the stream itself counts as doing something: a board on a wall does.

        Raises:
            UnavailableError: sessions or keys cannot be read.
        """
        if caller.session is None:
            return await self._of_bearer(caller._bearer)
        session = await self.sessions.find(caller.session.cookie)
        current = await self._current(session) if session else None
        if current is None:
            return None
        if is_active:
            await self.sessions.touch(current)
        return Caller(current.principal, current)

    async def _of_token(self, shown: list[bytes]) -> Caller | None:
        scheme, _, token = shown[0].decode("latin-1").partition(" ")
        if len(shown) != 1 or scheme.lower() != "bearer" or not 0 < len(token) <= _LONGEST_BEARER:
            await self.failures.record("not-a-bearer-token", surface="token")
            return None
        return await self._of_bearer(token.strip())

    async def _of_bearer(self, token: str) -> Caller | None:
        if self._verifier is None:
            await self.failures.record("no-provider", surface="token")
            return None
        try:
            return Caller(await self._verifier.principal_of(token), bearer=token)
        except BadTokenError as refusal:
            await self.failures.record(refusal.reason, surface="token")
            return None
        except ConfigurationError:
            # The provider cannot be used: nothing it signed is believed.
            await self.failures.record("provider-unusable", surface="token")
            return None

    async def _current(self, session: Session) -> Session | None:
        """Return the session with what its provider says by now; None when the provider ended it."""
        if self.provider is None:
            return session
        if session.principal.issuer != self.provider.issuer:
            await self.sessions.end(session)  # of a provider this house no longer trusts
            return None
        tokens = await self.sessions.tokens_to_refresh(session)
        if tokens is None or not tokens.refresh_token:
            return session
        # The provider may have taken the old token back as soon as it is asked: whoever asked may leave, but what it
        # answers is kept.
        task = asyncio.create_task(self._refreshed(self.provider, session, tokens))
        self._refreshes.add(task)
        task.add_done_callback(self._let_go)
        return await asyncio.shield(task)

    async def _refreshed(self, provider: Provider, session: Session, tokens: SessionTokens) -> Session | None:
        """Ask the provider again, and keep what it says; None when it ended the session."""
        try:
            said = await provider.refresh(tokens.refresh_token, session.principal)
        except BadTokenError as refusal:
            await self.sessions.end(session)
            await self.failures.record(refusal.reason, agent=session.principal.agent)
            return None
        except (UnavailableError, ConfigurationError):
            return session  # who is signed in goes on; the next request after the claim's end asks again
        kept = SessionTokens(said.id_token or tokens.id_token, said.refresh_token or "")
        return await self.sessions.refreshed(session, said.principal, kept, refresh_at_us(said.expires_at_us))

    def _let_go(self, task: asyncio.Task[Session | None]) -> None:
        self._refreshes.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None:
            # Told here as well: nobody may wait for it any more.
            _LOG.warning("session_refresh_failed", extra={"reason": type(error).__name__})

    async def close(self) -> None:
        """Wait for refreshes under way: a token that was given must be kept. Close what they write to afterwards."""
        if self._refreshes:
            await asyncio.wait(self._refreshes, timeout=_LAST_REFRESHES_S)


def refresh_at_us(expires_at_us: int) -> int:
    """Return when the provider is asked again: when what it said runs out."""
    return max(1, expires_at_us)


def cookie_of(headers: RawHeaders, name: str) -> str:
    """Return a cookie's value; "" when there is none, or two of the same name (somebody planted one)."""
    found = [
        value.strip()
        for header, line in headers
        if header == b"cookie"
        for part in line.decode("latin-1").split(";")
        for key, _, value in [part.partition("=")]
        if key.strip() == name
    ]
    return found[0] if len(found) == 1 else ""
