"""Sessions of signed-in people: rows that a browser's cookie leads to, and that a sign-out anywhere removes.

Here: opening, finding, touching, refreshing and ending sessions; the claim that only one request refreshes a token.
Not here: the cookie and its secret (clinic.sessions), who somebody is (governance.oidc).
A row holds the SHA-256 of the cookie's secret and tokens sealed under a key made from that secret: who reads the table
alone can neither be anybody nor speak to the provider for anybody. Its `mac` is made and checked by clinic.sessions:
who writes the table is nobody by it either.
"""

from __future__ import annotations

from typing import NamedTuple

from stores.database import Connection, translated


class SessionRow(NamedTuple):
    """One signed-in person at one browser. Times are microseconds since the epoch."""

    secret_hash: bytes  # SHA-256 of the cookie's secret
    name: str  # short, for the audit: never leads back to the secret
    issuer: str
    subject: str
    sid: str  # the provider's own name of its session; "" when it tells none
    principal: bytes  # JSON of governance.access.Principal
    tokens: bytes  # sealed under a key of the cookie's secret
    opened_at_us: int
    seen_at_us: int
    refresh_at_us: int  # when the provider is to be asked again; 0: never
    expires_at_us: int
    mac: bytes  # of what says who it is; made with a key outside of the database


_COLUMNS = (
    "secret_hash, name, issuer, subject, sid, principal, tokens, opened_at_us, seen_at_us, refresh_at_us, "
    "expires_at_us, mac"
)


async def put(connection: Connection, row: SessionRow) -> None:
    """Keep a new session."""
    with translated():
        await connection.execute(
            f"insert into web_session ({_COLUMNS}) values ({', '.join(['%s'] * len(row))})",  # noqa: S608 - constants
            row,
        )


async def find(connection: Connection, secret_hash: bytes, now_us: int, idle_us: int) -> SessionRow | None:
    """Return a session that is neither expired nor idle for too long."""
    with translated():
        cursor = await connection.execute(
            f"select {_COLUMNS} from web_session "  # noqa: S608 - constants
            "where secret_hash = %s and expires_at_us > %s and seen_at_us > %s",
            (secret_hash, now_us, now_us - idle_us),
        )
        found = await cursor.fetchone()
    return None if found is None else SessionRow(*found)


async def touch(connection: Connection, secret_hash: bytes, now_us: int, unless_since_us: int) -> None:
    """Say that a session's person did something; no row is written when one said so after `unless_since_us`."""
    with translated():
        await connection.execute(
            "update web_session set seen_at_us = %s where secret_hash = %s and seen_at_us < %s",
            (now_us, secret_hash, unless_since_us),
        )


async def claim_refresh(connection: Connection, secret_hash: bytes, now_us: int, until_us: int) -> bool:
    """Return whether the caller is the one who refreshes a session's tokens now.

    A refresh token that is used twice ends the session at many providers: of several requests that come at once only
    one may. A claim whose holder died is free again at `until_us`.
    """
    with translated():
        cursor = await connection.execute(
            "update web_session set refresh_at_us = %s where secret_hash = %s and refresh_at_us between 1 and %s",
            (until_us, secret_hash, now_us),
        )
        return cursor.rowcount == 1


async def refreshed(
    connection: Connection, secret_hash: bytes, principal: bytes, tokens: bytes, refresh_at_us: int, mac: bytes
) -> None:
    """Keep what the provider said when it was asked again."""
    with translated():
        await connection.execute(
            "update web_session set principal = %s, tokens = %s, refresh_at_us = %s, mac = %s where secret_hash = %s",
            (principal, tokens, refresh_at_us, mac, secret_hash),
        )


async def end(connection: Connection, secret_hash: bytes) -> bool:
    """Remove one session; return whether there was one."""
    with translated():
        cursor = await connection.execute("delete from web_session where secret_hash = %s", (secret_hash,))
        return cursor.rowcount == 1


async def end_of_provider(connection: Connection, issuer: str, sid: str | None, subject: str | None) -> list[str]:
    """Remove the sessions that a provider's logout names, and return their short names.

    Args:
        connection: in a transaction of the caller.
        issuer: the provider.
        sid: its session; None ends every session of `subject`. Of sessions whose sid the provider never told, all of
            `subject` end: any of them may be the one.
        subject: the person; None: whoever's session it is.
    """
    if not sid and not subject:
        return []
    with translated():
        cursor = await connection.execute(
            "delete from web_session where issuer = %s "
            "and (%s::text is null or sid = %s or (sid = '' and subject = %s)) "
            "and (%s::text is null or subject = %s) returning name",
            (issuer, sid or None, sid or None, subject or None, subject or None, subject or None),
        )
        return [row[0] for row in await cursor.fetchall()]


async def sweep(connection: Connection, now_us: int, idle_us: int) -> int:
    """Remove sessions that are over; return how many."""
    with translated():
        cursor = await connection.execute(
            "delete from web_session where expires_at_us <= %s or seen_at_us <= %s", (now_us, now_us - idle_us)
        )
        return cursor.rowcount
