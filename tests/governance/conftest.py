"""A small house with patients, people and a gate: the real policy, auditor and database."""

from __future__ import annotations

import asyncio
import importlib.util
import sys
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest

from governance.access import Policy, Principal, Role
from governance.audit import Auditor
from governance.gate import Gate
from orchestration.embedded import EmbeddedPostgres
from stores import access, audit_log, clinical
from stores.clinical import CareRow, EncounterPlaceRow, EncounterRow, PatientRow, VipRow
from stores.database import Connection, connect, migrate, transaction
from vocabulary.clock import ManualClock
from vocabulary.records import Place
from vocabulary.settings import Settings


def _share(name: str) -> None:
    """Let test modules import a module that lies beside them: pytest's import mode gives test folders no package."""
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, Path(__file__).parent / f"{name}.py")
        assert spec is not None
        assert spec.loader is not None
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])


_share("model_committee")
_share("model_desk")

HOUSE_OPENED_US = 1_760_000_000_000_000
POLICY = Policy.load()


class House:
    """Patients lie on ICU-A unless a test says otherwise; P-NOVAK treats those he is named for."""

    def __init__(self, url: str, clock: ManualClock) -> None:
        """Use a migrated database."""
        self.url = url
        self.clock = clock
        self.settings = Settings(break_glass_s=3600.0)
        self.position = 1
        self.opened = 0

    async def connect(self) -> Connection:
        """Open a connection."""
        self.opened += 1
        return await connect(self.url, application_name="test house")

    @asynccontextmanager
    async def writing(self) -> AsyncIterator[Connection]:
        """Hold a transaction."""
        connection = await self.connect()
        try:
            async with transaction(connection):
                yield connection
        finally:
            await connection.close()

    async def clinical(self, **lists) -> None:
        """Write rows of the directory."""
        names = ("patients", "identifiers", "merges", "encounters", "closed_places", "places", "closed_associations")
        empty = {name: [] for name in (*names, "associations")}
        async with self.writing() as connection:
            await clinical.write(connection, clinical.Changes(**(empty | lists)))

    async def admit(self, patient_id: int, ward: str = "ICU-A", *, by: str = "", vip: bool | None = None) -> None:
        """Admit a patient in a stay of the patient's own number."""
        self.position += 1
        at = self.position
        await self.clinical(
            patients=[PatientRow(patient_id, None, "Canary", "Carla", "", "unknown", at, at)],
            encounters=[EncounterRow(patient_id, patient_id, "V", "I", "in-progress", 0, None, at, at)],
            places=[EncounterPlaceRow(patient_id, Place(ward, "1", str(patient_id), "H"), "admit", 0, None, at)],
            care=[CareRow(patient_id, "attending", "H", by, 0, None, at)] if by else [],
            vips=[VipRow(patient_id, vip, 0, at)] if vip is not None else [],
        )

    async def transfer(self, patient_id: int, source: str, target: str) -> None:
        """Move a patient from one ward to another."""
        self.position += 1
        at = self.position
        old = Place(source, "1", str(patient_id), "H")
        async with self.writing() as connection:
            await connection.execute(
                "update encounter_location set known_to = %s where encounter_id = %s and known_to is null",
                (at, patient_id),
            )
        new = Place(target, "1", str(patient_id), "H")
        await self.clinical(
            places=[
                EncounterPlaceRow(patient_id, old, "admit", 0, at, at),
                EncounterPlaceRow(patient_id, new, "transfer", at, None, at),
            ]
        )

    async def merge(self, retired: int, survivor: int) -> None:
        """Redirect one record to another."""
        async with self.writing() as connection:
            await connection.execute("update patient set merged_into = %s where patient_id = %s", (survivor, retired))

    async def consent(self, patient_id: int, scope: access.Scope, is_permitted: bool) -> None:
        """Record a decision about one record."""
        async with self.writing() as connection:
            await access.put_consent(
                connection,
                [
                    access.Consent(
                        patient_id=patient_id, scope=scope, is_permitted=is_permitted, decided_at_us=1,
                        decided_by="somebody", recorded_by="test",
                    )
                ],
            )  # fmt: skip

    async def flag(self, patient_id: int, is_vip: bool) -> None:
        """Shield one record by hand, or no longer."""
        async with self.writing() as connection:
            await access.put_vip_flag(
                connection, [patient_id], is_vip=is_vip, decided_at_us=1, decided_by="somebody", recorded_by="test"
            )

    async def break_for(self, principal: Principal, patient_id: int, number: int) -> None:
        """Break a glass past the rules."""
        now_us = self.clock.now_us()
        async with self.writing() as connection:
            await access.put_break_glass(
                connection,
                access.BrokenGlass(
                    break_glass_id=number, agent=principal.agent, agent_name="", role="nurse", session="",
                    patient_id=patient_id, reason="a test needs it", reason_salt=b"salt", opened_at_us=now_us,
                    expires_at_us=now_us + 3_600_000_000,
                ),
            )  # fmt: skip

    async def events(self) -> list[audit_log.AuditEntry]:
        """Return what the audit holds, oldest first."""
        async with self.writing() as connection:
            found = await audit_log.find(connection, limit=100_000)
        return [event.entry for event in sorted(found, key=lambda event: (event.writer, event.seq))]

    async def row(self, query: str, *parameters: object) -> tuple:
        """Return one row."""
        async with self.writing() as connection:
            cursor = await connection.execute(query, parameters)
            return await cursor.fetchone()

    def gate(self, auditor: Auditor, **more) -> Gate:
        """Make a gate."""
        return Gate(POLICY, auditor, self.connect, self.clock, self.settings, **more)


def person(*roles: Role, name: str = "Nora Lind", units: tuple[str, ...] = (), **more) -> Principal:
    """Return somebody who signed in."""
    return Principal(
        issuer="https://login.test", subject=name.partition(" ")[0].lower(), name=name, roles=frozenset(roles),
        units=frozenset(units), **({"session": "s1"} | more),
    )  # fmt: skip


@pytest.fixture(name="person")
def person_fixture():
    """The function that makes people."""
    return person


@pytest.fixture(scope="session")
def migrated_template(postgres_server: EmbeddedPostgres) -> str:
    """Name of a migrated database that others are copied from."""
    name = f"governance_{uuid.uuid4().hex[:12]}"
    with psycopg.connect(postgres_server.url(), autocommit=True) as connection:
        connection.execute(f"create database {name}")
    asyncio.run(migrate(postgres_server.url(name)))
    return name


@pytest.fixture
def house(postgres_server: EmbeddedPostgres, migrated_template: str) -> Iterator[House]:
    """A house without patients."""
    name = f"g_{uuid.uuid4().hex[:12]}"
    with psycopg.connect(postgres_server.url(), autocommit=True) as connection:
        connection.execute(f"create database {name} template {migrated_template}")
        yield House(postgres_server.url(name), ManualClock(HOUSE_OPENED_US))
        connection.execute(f"drop database if exists {name} with (force)")


@pytest.fixture
async def auditor(house: House) -> AsyncIterator[Auditor]:
    """The house's auditor, unsigned."""
    made = Auditor(house.connect, "clinic", None, None, house.clock)
    yield made
    await made.close()


@pytest.fixture
async def gate(house: House, auditor: Auditor) -> AsyncIterator[Gate]:
    """The house's gate."""
    made = house.gate(auditor)
    yield made
    await made.close()


@pytest.fixture
async def desk(house: House, tmp_path: Path) -> AsyncIterator[Any]:
    """Where versions are registered, asked about, signed, promoted and rolled back (tests/governance/model_desk.py)."""
    made = sys.modules["model_desk"].Desk(house, sys.modules["model_committee"].Committee(), tmp_path)
    yield made
    await made.auditor.close()
