"""What the issuer remembers while it runs: questions to sign in, codes, sessions and refresh tokens.

Here: the life of each: made, used once, expired, revoked. Everything is bounded and forgotten at the end.
Not here: HTTP (hospital.issuer.app), what tokens say (hospital.issuer.tokens).
Source: RFC 6749, RFC 9700 section 4.14 (refresh token rotation) and 2.1.1 (codes are used once).
"""

from __future__ import annotations

import secrets
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Generic, NamedTuple, TypeVar

from vocabulary.clock import MICROSECONDS, Clock

QUESTION_S = 600
CODE_S = 60
SESSION_S = 12 * 3600
_MOST = 2_000

Kept = TypeVar("Kept")


class Question(NamedTuple):
    """A client's request that somebody sign in."""

    client_id: str
    redirect_uri: str
    scopes: frozenset[str]
    state: str
    nonce: str
    code_challenge: str


@dataclass
class Session:
    """Somebody who signed in."""

    sid: str
    subject: str
    client_id: str
    scopes: frozenset[str]
    signed_in_at_us: int
    refresh_token: str = ""
    spent: set[str] = field(default_factory=set)  # refresh tokens that were rotated away


@dataclass
class Code:
    """An authorization code."""

    question: Question
    session: Session
    is_used: bool = False


class Shelf(Generic[Kept]):
    """Things under random names, each for a time; the oldest goes when there are too many."""

    def __init__(self, clock: Clock, seconds: int) -> None:
        """Keep each thing for so many seconds."""
        self._clock = clock
        self._life_us = seconds * MICROSECONDS
        self._things: OrderedDict[str, tuple[int, Kept]] = OrderedDict()

    def put(self, name: str, thing: Kept) -> None:
        """Keep a thing."""
        self._things[name] = (self._clock.now_us() + self._life_us, thing)
        while len(self._things) > _MOST:
            self._things.popitem(last=False)

    def get(self, name: str) -> Kept | None:
        """Return the thing, or None where it is unknown or too old."""
        until_us, thing = self._things.get(name, (0, None))
        return thing if self._clock.now_us() < until_us else None

    def drop(self, name: str) -> Kept | None:
        """Forget the thing and return it, if it was still good."""
        thing = self.get(name)
        self._things.pop(name, None)
        return thing

    def all(self) -> list[Kept]:
        """Return what is still good, oldest first."""
        now_us = self._clock.now_us()
        return [thing for until_us, thing in self._things.values() if now_us < until_us]


class Grants:
    """Everything the issuer has granted."""

    def __init__(self, clock: Clock) -> None:
        """Begin with nothing."""
        self._clock = clock
        self._questions: Shelf[Question] = Shelf(clock, QUESTION_S)
        self._codes: Shelf[Code] = Shelf(clock, SESSION_S)  # kept longer than they work, to see them used again
        self._sessions: Shelf[Session] = Shelf(clock, SESSION_S)
        self._used: Shelf[bool] = Shelf(clock, 600)

    def ask(self, question: Question) -> str:
        """Keep a question and return its name, which only the page that asks knows."""
        name = secrets.token_urlsafe(24)
        self._questions.put(name, question)
        return name

    def answer(self, name: str, subject: str) -> tuple[Question, str] | None:
        """Sign somebody in for a question, once; return it with a code, or None where it is unknown or too old."""
        question = self._questions.drop(name)
        if question is None:
            return None
        session = Session(secrets.token_urlsafe(18), subject, question.client_id, question.scopes, self._clock.now_us())
        self._sessions.put(session.sid, session)
        code = secrets.token_urlsafe(32)
        self._codes.put(code, Code(question, session))
        return question, code

    def redeem(self, code: str, client_id: str) -> Code | None:
        """Use a code. A second use ends the session that the first one began: one of the two was a thief.

        The caller still checks the redirect URI and the PKCE verifier; the code is spent whatever comes of that.
        """
        found = self._codes.get(code)
        if found is None:
            return None
        if found.is_used or found.question.client_id != client_id:
            self.end(found.session.sid)
            return None
        found.is_used = True
        is_fresh = self._clock.now_us() - found.session.signed_in_at_us < CODE_S * MICROSECONDS
        return found if is_fresh and self.session(found.session.sid) is not None else None

    def refresh_token(self, session: Session) -> str:
        """Return the session's next refresh token; the one before is spent."""
        if session.refresh_token:
            session.spent.add(session.refresh_token)
        session.refresh_token = f"{session.sid}.{secrets.token_urlsafe(32)}"
        return session.refresh_token

    def refresh(self, token: str, client_id: str) -> Session | None:
        """Return the session of a refresh token. A spent one ends the session."""
        session = self.session(token.partition(".")[0])
        if session is None or session.client_id != client_id:
            return None
        if token in session.spent:
            self.end(session.sid)
            return None
        is_current = bool(session.refresh_token) and secrets.compare_digest(token, session.refresh_token)
        return session if is_current else None

    def session(self, sid: str) -> Session | None:
        """Return a session that has not ended."""
        return self._sessions.get(sid)

    def sessions(self) -> list[Session]:
        """Return everybody who is signed in, oldest first."""
        return self._sessions.all()

    def end(self, sid: str) -> Session | None:
        """End a session; return it if there was one."""
        return self._sessions.drop(sid)

    def is_first_use(self, assertion_id: str) -> bool:
        """Return whether a client assertion's `jti` was not used before."""
        is_first = self._used.get(assertion_id) is None
        self._used.put(assertion_id, True)
        return is_first
