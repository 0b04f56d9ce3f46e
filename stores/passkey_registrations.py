"""Keys that people registered in their browser, until the roster names them, and challenges that wait for an answer.

Here: both tables' SQL. Rows here give nobody any power: only the signed roster does (governance.roster).
Not here: the ceremony (governance.passkeys), the page (clinic.signing_keys).
"""

from __future__ import annotations

from typing import NamedTuple

from stores.database import Connection, storable, to_microseconds, to_timestamp, translated
from vocabulary.signing import key_id_of

_COLUMNS = "credential, person, name, public, authenticator, is_synced, registered_at"


class Registration(NamedTuple):
    """One key of one person, as registered."""

    credential: str
    person: str
    name: str
    public: bytes
    authenticator: str
    is_synced: bool
    registered_at_us: int

    @property
    def key_id(self) -> str:
        """Return the key's short name, which its owner tells the roster's keeper."""
        return key_id_of(self.public)


async def put_challenge(connection: Connection, session: str, challenge: bytes, expires_at_us: int) -> None:
    """Remember what a session's browser was given, in the place of an earlier one; forget those that ended."""
    with translated():
        await connection.execute(
            "delete from passkey_challenge where session = %s or expires_at < now() - interval '1 day'", (session,)
        )
        await connection.execute(
            "insert into passkey_challenge (session, challenge, expires_at) values (%s, %s, %s)",
            (session, challenge, to_timestamp(expires_at_us)),
        )


async def take_challenge(connection: Connection, session: str, now_us: int) -> bytes | None:
    """Return a session's challenge and forget it: an answer is judged once. None where none waits any more."""
    with translated():
        cursor = await connection.execute(
            "delete from passkey_challenge where session = %s returning challenge, expires_at", (session,)
        )
        row = await cursor.fetchone()
    return bytes(row[0]) if row is not None and to_microseconds(row[1]) > now_us else None


async def add(connection: Connection, registration: Registration) -> bool:
    """Keep a registration, and return whether its credential was not there yet."""
    with translated():
        cursor = await connection.execute(
            f"insert into passkey_registration ({_COLUMNS}) "  # noqa: S608
            "values (%s, %s, %s, %s, %s, %s, %s) on conflict do nothing",
            (
                registration.credential,
                storable(registration.person),
                storable(registration.name),
                registration.public,
                registration.authenticator,
                registration.is_synced,
                to_timestamp(registration.registered_at_us),
            ),
        )
    return cursor.rowcount == 1


async def read(connection: Connection, person: str | None = None) -> list[Registration]:
    """Return registrations, of one person or of all, oldest first."""
    with translated():
        cursor = await connection.execute(
            f"select {_COLUMNS} from passkey_registration "  # noqa: S608
            "where %(person)s::text is null or person = %(person)s order by registered_at, credential",
            {"person": person},
        )
        rows = await cursor.fetchall()
    return [
        Registration(row[0], row[1], row[2], bytes(row[3]), row[4], row[5], to_microseconds(row[6])) for row in rows
    ]
