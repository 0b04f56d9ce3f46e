"""Rows of sessions: whoever writes the table is nobody by it, and none is lost or missed on the way.

Here: forged, edited and transplanted rows; a refresh whose viewer left; which sessions a provider's logout names.
Not here: the way through the provider (test_sign_in), reading the table (test_sign_in).
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import secrets
from types import SimpleNamespace
from typing import Any

import httpx
import msgspec
import pytest

from clinic.sessions import Session, SessionTokens
from governance.access import Principal, Role
from governance.jws import BadTokenError

ISSUER = "https://login.test"
OFFICER = Principal(
    issuer=ISSUER, subject="s-nurse", name="Innocent Nurse", session="forged",
    roles=frozenset({Role.SAFETY_OFFICER, Role.DATA_PROTECTION_OFFICER}), units=frozenset({"MED-3"}),
)  # fmt: skip


def _client(house: Any, cookie: str) -> httpx.AsyncClient:
    client: httpx.AsyncClient = house.client(cookies={house.access.identity.cookie.name: cookie})
    return client


async def test_a_row_that_somebody_else_wrote_signs_nobody_in(house, caplog) -> None:
    await house.session("nurse")
    secret = secrets.token_bytes(32)
    written = {
        "secret_hash": "\\x" + hashlib.sha256(secret).hexdigest(),
        "name": "forged",
        "principal": "\\x" + msgspec.json.encode(OFFICER).hex(),
    }
    # Whatever columns there are: those of a genuine row, and ours over them.
    await house.execute(
        "insert into web_session select (jsonb_populate_record(w, %s::jsonb)).* from web_session w", json.dumps(written)
    )
    caplog.set_level(logging.ERROR)
    thief = _client(house, secret.hex())
    for path in ("/api/patients/7", "/audit", "/api/patients/9", "/ready"):
        assert (await thief.get(path)).status_code == 401, path
    assert await house.audit() == []
    said = [record for record in caplog.records if record.getMessage() == "session_row_refused"]
    assert said
    assert all("Innocent" not in str(vars(record)) and secret.hex() not in str(vars(record)) for record in said)


@pytest.mark.parametrize(
    "edit",
    [
        "name = 'other'",
        "issuer = 'https://other.test'",
        "subject = 'other'",
        "sid = 'other'",
        "principal = convert_to(replace(convert_from(principal, 'UTF8'), 'ICU-A', 'MED-3'), 'UTF8')",
        "opened_at_us = opened_at_us + 1",
        "expires_at_us = expires_at_us + 1000000",
        "mac = ''",
        "mac = decode(repeat('00', 32), 'hex')",
    ],
)
async def test_a_row_that_was_edited_is_no_session(house, edit: str) -> None:
    session = await house.session("nurse")
    client = _client(house, session.cookie)
    assert (await client.get("/ready")).status_code == 200
    await house.execute(f"update web_session set {edit}")
    assert (await client.get("/ready")).status_code == 401
    assert await house.access.identity.sessions.tokens(session) is None


async def test_rows_of_two_people_cannot_be_exchanged(house) -> None:
    nurse, other = await house.session("nurse"), await house.session("other_nurse")
    await house.execute(
        "update web_session w set principal = o.principal, subject = o.subject, name = o.name, mac = o.mac "
        "from web_session o where w.secret_hash = %s and o.secret_hash = %s",
        nurse.secret_hash,
        other.secret_hash,
    )
    assert (await _client(house, nurse.cookie).get("/ready")).status_code == 401
    assert (await _client(house, other.cookie).get("/ready")).status_code == 200


class RotatingProvider:
    """Gives a new refresh token each time, and ends whoever shows an old one."""

    issuer = ISSUER

    def __init__(self, house: Any) -> None:
        self.used: list[str] = []
        self.asked = asyncio.Event()
        self._house = house

    async def refresh(self, token: str, principal: Principal) -> Any:
        if token in self.used:
            raise BadTokenError("reused")
        self.used.append(token)
        self.asked.set()
        await asyncio.sleep(0.2)
        until_us = self._house.access.wall_clock.now_us() + 300_000_000
        return SimpleNamespace(
            id_token="", refresh_token=f"r{len(self.used) + 1}", principal=principal, expires_at_us=until_us
        )


async def _due(house: Any) -> Session:
    principal = Principal(issuer=ISSUER, subject="x1", roles=frozenset({Role.NURSE}), units=frozenset({"ICU-A"}))
    sessions = house.access.identity.sessions
    opened: Session = await sessions.open(principal, SessionTokens("id", "r1"), "sid", house.access.wall_clock.now_us())
    return opened


async def test_a_refresh_whose_viewer_left_keeps_the_new_token(house) -> None:
    session = await _due(house)
    identity = house.access.identity
    provider = identity.provider = RotatingProvider(house)
    headers = [(b"cookie", f"{identity.cookie.name}={session.cookie}".encode())]
    request = asyncio.create_task(identity.of(headers))
    await provider.asked.wait()
    request.cancel()
    assert isinstance((await asyncio.gather(request, return_exceptions=True))[0], asyncio.CancelledError)
    await asyncio.sleep(0.4)
    tokens = await identity.sessions.tokens(session)
    assert tokens is not None
    assert tokens.refresh_token == "r2"
    await house.execute("update web_session set refresh_at_us = 1")
    assert await identity.of(headers) is not None
    assert provider.used == ["r1", "r2"]


async def test_closing_waits_for_a_refresh_under_way(house) -> None:
    session = await _due(house)
    identity = house.access.identity
    provider = identity.provider = RotatingProvider(house)
    request = asyncio.create_task(identity.of([(b"cookie", f"{identity.cookie.name}={session.cookie}".encode())]))
    await provider.asked.wait()
    request.cancel()
    await asyncio.gather(request, return_exceptions=True)
    await identity.close()
    tokens = await identity.sessions.tokens(session)
    assert tokens is not None
    assert tokens.refresh_token == "r2"


@pytest.mark.parametrize(
    ("sid", "subject", "ended"),
    [
        ("S-1", "x1", {"with", "without"}),
        ("S-1", None, {"with"}),
        (None, "x1", {"with", "without", "elsewhere"}),
        ("S-9", "x1", {"without"}),
        ("S-9", "x9", set()),
        (None, None, set()),
    ],
)
async def test_a_logout_of_the_provider_ends_sessions_that_have_no_sid_too(
    house, sid: str | None, subject: str | None, ended: set[str]
) -> None:
    sessions = house.access.identity.sessions
    person = Principal(issuer=ISSUER, subject="x1", roles=frozenset({Role.NURSE}))
    stranger = Principal(issuer=ISSUER, subject="x2", roles=frozenset({Role.NURSE}))
    opened = {
        "with": await sessions.open(person, SessionTokens("id"), "S-1", 0),
        "without": await sessions.open(person, SessionTokens("id"), "", 0),
        "elsewhere": await sessions.open(person, SessionTokens("id"), "S-2", 0),
        "stranger": await sessions.open(stranger, SessionTokens("id"), "", 0),
    }
    names = await sessions.end_of_provider(ISSUER, sid, subject)
    assert set(names) == {opened[one].name for one in ended}
    for name, session in opened.items():
        assert (await sessions.find(session.cookie) is None) == (name in ended), name
