"""A clinic behind the real policy, gate, audit and sessions, on a real database; only what is shown comes from memory.

Here: who is in the beds, who asks, tokens of another system, reading the audit back.
Not here: the tests (test_doors, test_sign_in, test_officers, test_watching).
"""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import psycopg
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from clinic.app import Access, build_app
from clinic.failures import FailureLog
from clinic.identity import Identity
from clinic.sessions import Cookie, Session, SessionTokens, StoredSessions
from clinic.sign_in import PendingCookie
from governance.access import Policy, Principal, Role
from governance.audit import Auditor
from governance.gate import Gate
from governance.jws import BadTokenError
from governance.notary import register_key
from governance.serving_record import Appender
from governance.tokens import ClaimMap, TokenVerifier
from stores.audit_log import Event, find
from stores.database import connect, transaction
from stores.pool import Pool
from vocabulary.signing import SigningKey

ISSUER = "https://login.test"
URL = "http://localhost"
AUDIENCE = "urn:vigil:api"

# (patient, merged into, ward, practitioner, is a VIP by hand)
PATIENTS = (
    (7, None, "ICU-A", "P-NOVAK", False),
    (8, None, "ICU-A", "P-ADEYEMI", True),
    (9, None, "MED-3", "P-ADEYEMI", False),
    (10, None, "ICU-A", "P-ADEYEMI", False),
    (5, 7, "", "", False),
)


def person(role: Role, subject: str = "", **more: Any) -> Principal:
    return Principal(
        issuer=ISSUER, subject=subject or f"s-{role}", name=role.replace("_", " ").title(), roles=frozenset({role}),
        **more,
    )  # fmt: skip


PEOPLE = {
    "nurse": person(Role.NURSE, units=frozenset({"ICU-A"})),
    "charge_nurse": person(Role.CHARGE_NURSE, units=frozenset({"ICU-A"})),
    "physician": person(Role.PHYSICIAN, practitioner="P-NOVAK"),
    "other_nurse": person(Role.NURSE, "s-other", units=frozenset({"MED-3"})),
    "data_engineer": person(Role.DATA_ENGINEER),
    "clinical_lead": person(Role.CLINICAL_LEAD),
    "safety_officer": person(Role.SAFETY_OFFICER),
    "data_protection_officer": person(Role.DATA_PROTECTION_OFFICER),
    "model_author": person(Role.MODEL_AUTHOR),
    "nobody_much": Principal(issuer=ISSUER, subject="s-none", name="No Role", roles=frozenset()),
}


async def seed(url: str) -> None:
    """Put people into beds, as ADT would have."""
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
        for number, merged_into, ward, practitioner, is_vip in PATIENTS:
            await connection.execute(
                "insert into patient values (%s, 0, %s, 'F', 'G', '', 'unknown', 1, 1)", (number, merged_into)
            )
            if not ward:
                continue
            stay = number * 10
            await connection.execute(
                "insert into encounter values (%s, %s, '', 'I', 'in-progress', 1, null, 1, 1)", (stay, number)
            )
            await connection.execute("insert into encounter_state values (%s, 1, 'in-progress', 1, null)", (stay,))
            await place(connection, stay, ward, number, known_from=1)
            await connection.execute(
                "insert into care_relationship (encounter_id, role, identifier, from_us, known_from) "
                "values (%s, 'attending', %s, 1, 1)",
                (stay, practitioner),
            )
            if is_vip:
                await connection.execute(
                    "insert into vip_flag (patient_id, is_vip, decided_at_us, decided_by, recorded_by) "
                    "values (%s, true, 1, 'test', 'test')",
                    (number,),
                )


async def place(connection: Any, stay: int, ward: str, bed: int, *, known_from: int) -> None:
    """Put a stay into a bed."""
    cursor = await connection.execute(
        "insert into location (ward, bed) values (%s, %s) returning location_id", (ward, f"{bed}.{known_from}")
    )
    [location] = await cursor.fetchone()
    await connection.execute(
        "update encounter_location set to_us = %s, known_to = %s where encounter_id = %s and known_to is null",
        (known_from, known_from, stay),
    )
    await connection.execute(
        "insert into encounter_location values (%s, %s, 'admit', %s, null, %s, null)",
        (stay, location, known_from, known_from),
    )


class Keys:
    """The provider's key, and tokens it signs."""

    def __init__(self) -> None:
        self._key = rsa.generate_private_key(public_exponent=65537, key_size=2048)

    async def key(self, kid: str, algorithm: str) -> rsa.RSAPublicKey:
        if (kid, algorithm) != ("k1", "RS256"):
            raise BadTokenError("unknown-key")
        return self._key.public_key()

    def token(self, now_s: int, **claims: Any) -> str:
        head = {"alg": "RS256", "kid": "k1", "typ": "at+jwt"}
        body = {
            "iss": ISSUER, "aud": AUDIENCE, "sub": "ehr", "client_id": "ehr", "iat": now_s, "exp": now_s + 300,
        } | claims  # fmt: skip
        signed = ".".join(_b64(json.dumps(part).encode()) for part in (head, body))
        signature = self._key.sign(signed.encode(), padding.PKCS1v15(), hashes.SHA256())
        return f"{signed}.{_b64(signature)}"


def _b64(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


class House:
    """A guarded clinic in this process."""

    def __init__(self, app: Any, access: Access, pool: Pool, live: Any, readers: Any, keys: Keys, url: str) -> None:
        self.app = app
        self.access = access
        self.pool = pool
        self.live = live
        self.readers = readers
        self.keys = keys
        self.url = url
        self.failures: list[BaseException] = []  # what the process would stop for
        self._clients: list[httpx.AsyncClient] = []

    @property
    def now_s(self) -> int:
        return self.access.wall_clock.now_us() // 1_000_000

    def client(self, *, raises: bool = True, **more: Any) -> httpx.AsyncClient:
        """Return a client of nobody."""
        transport = httpx.ASGITransport(self.app, raise_app_exceptions=raises)
        client = httpx.AsyncClient(transport=transport, base_url=URL, **more)
        self._clients.append(client)
        return client

    async def session(self, who: str | Principal) -> Session:
        principal = PEOPLE[who] if isinstance(who, str) else who
        sessions: StoredSessions = self.access.identity.sessions  # type: ignore[assignment]
        return await sessions.open(principal, SessionTokens("id", ""), f"sid-{principal.subject}", 0)

    async def as_(self, who: str | Principal, *, raises: bool = True) -> httpx.AsyncClient:
        """Return the client of a signed-in person, whose forms carry their token."""
        session = await self.session(who)
        name = self.access.identity.cookie.name
        headers = {"x-vigil-csrf": session.csrf}
        return self.client(raises=raises, cookies={name: session.cookie}, headers=headers)

    def system(self, **claims: Any) -> httpx.AsyncClient:
        """Return the client of another system."""
        return self.client(headers={"authorization": f"Bearer {self.keys.token(self.now_s, **claims)}"})

    async def audit(self) -> list[Event]:
        """Return every event, oldest first."""
        connection = await connect(self.url, application_name="test")
        try:
            async with transaction(connection):
                found = await find(connection, limit=10_000)
        finally:
            await connection.close()
        return sorted(found, key=lambda event: event.seq)

    async def execute(self, statement: str, *values: object) -> None:
        async with await psycopg.AsyncConnection.connect(self.url, autocommit=True) as connection:
            await connection.execute(statement, values)  # type: ignore[arg-type]

    async def move(self, patient_id: int, ward: str, known_from: int) -> None:
        async with await psycopg.AsyncConnection.connect(self.url, autocommit=True) as connection:
            await place(connection, patient_id * 10, ward, patient_id, known_from=known_from)

    async def close(self) -> None:
        for client in self._clients:
            await client.aclose()


@asynccontextmanager
async def open_house(
    url: str, settings: Any, clock: Any, wall_clock: Any, live: Any, readers: Any, templates: Any, *,
    provider: Any = None, public_url: str = URL,
) -> AsyncIterator[House]:  # fmt: skip
    """Hold a guarded clinic."""

    async def opened() -> Any:
        return await connect(url, application_name="test clinic")

    keys = Keys()
    auditor = Auditor(opened, "clinic", None, None, wall_clock)
    gate = Gate(Policy.load(), auditor, opened, wall_clock, settings)
    pool = Pool(opened, 2)
    verifier = TokenVerifier(ISSUER, AUDIENCE, keys, wall_clock, ClaimMap.of(settings))
    identity = Identity(
        StoredSessions(settings, pool, wall_clock, bytes(32)), Cookie("vigil_session", is_secure=False), provider,
        provider.verifier() if provider else verifier, FailureLog(auditor, wall_clock),
    )  # fmt: skip
    pending = PendingCookie(Cookie("vigil_sign_in", is_secure=False), bytes(32))
    key = SigningKey.generate()
    register_key(settings, "clinic", key.verifying, wall_clock)
    access = Access(identity, gate, pending, wall_clock, public_url, Appender("clinic", key))
    failures: list[BaseException] = []
    app = build_app(
        settings, readers, live, access, clock, templates=templates, paint_interval_s=0.01, pulse_s=0.1, recheck_s=0.2,
        on_failure=failures.append,
    )  # fmt: skip
    house = House(app, access, pool, live, readers, keys, url)
    house.failures = failures
    try:
        async with app.router.lifespan_context(app):
            yield house
    finally:
        await house.close()
        await auditor.close()
        await gate.close()
        await pool.close()
