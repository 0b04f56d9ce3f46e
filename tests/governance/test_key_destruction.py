"""Destroying a patient's keys: proved, audited in the same transaction, and done again after a restored backup."""

from __future__ import annotations

import asyncio
import uuid

import msgspec
import psycopg
import pytest

from governance import key_destruction
from governance.access import Policy, Principal, Role
from governance.audit import Auditor
from governance.gate import Gate
from governance.key_destruction import destroy, proofs_dir, read_proofs, reconcile, stand
from governance.notary import read_keys
from governance.privacy import open_ring, prepare
from stores import audit_log, blob_keys, data_keys, raw_stretch, snapshots
from stores.blob_keys import ArrivalsLock
from stores.blobs import BlobStore
from stores.database import connect, migrate, transaction
from stores.envelope import KeyDestroyedError, key_id_of
from stores.raw_archive import Pack, RawArchive
from stores.snapshots import Body
from vocabulary.clock import ManualClock
from vocabulary.errors import RefusedError, UnavailableError
from vocabulary.records import RawItem, RawPack
from vocabulary.settings import Settings

NOW_US = 1_780_000_000_000_000
OFFICER = Principal(issuer="https://op", subject="petra", name="Petra", roles=frozenset({Role.DATA_PROTECTION_OFFICER}))
NURSE = Principal(issuer="https://op", subject="nora", name="Nora", roles=frozenset({Role.NURSE}))


class House:
    """Patients 7 (with a record 8 merged into it) and 9, with something of each kind kept."""

    def __init__(self, settings, url, connection, ring, gate):
        self.settings, self.url, self.connection, self.ring, self.gate = settings, url, connection, ring, gate
        self.archive = RawArchive(settings.data_dir / "sealed")
        self.blobs = BlobStore(settings.data_dir / "blobs", ArrivalsLock.load(settings.keys_dir / "arrivals.pub"))

    async def furnish(self):
        await self._execute(
            "insert into patient (patient_id, partition, merged_into, created_position, updated_position) values "
            "(7, 7, null, 1, 1), (8, 8, null, 1, 1), (9, 9, null, 1, 1)"
        )
        await self._execute("update patient set merged_into = 7 where patient_id = 8")
        await self._execute(
            "insert into patient_merge (survivor_id, retired_id, merged_position, merged_at) values (7, 8, 2, now())"
        )
        bodies = [Body(p % 64, 10 + n, p, 5, "minute", b"body") for p, n in ((7, 0), (7, 1), (8, 0), (9, 0))]
        async with transaction(self.connection):
            await snapshots.put_bodies(self.connection, bodies, self.ring)
        packs = [
            Pack(n, msgspec.msgpack.encode(RawPack("p", "lab", NOW_US, [RawItem(1, 2, "", b"MSH")] * 3)))
            for n in (1, 2)
        ]
        owners = {1: [7, 8, 9], 2: [7, 9, 0]}
        await self.ring.ensure(raw_stretch.subjects(packs, owners))
        self.archive.write(packs, owners, self.ring)
        self.blob = self.blobs.put(b"large")
        await blob_keys.assign(self.blobs, self.blob, 8, self.ring)

    async def _execute(self, query, parameters=None):
        async with transaction(self.connection):
            await self.connection.execute(query.encode(), parameters)

    async def admit(self, patient_id):
        await self._execute(
            "insert into encounter (encounter_id, patient_id, status, started_at_us, known_from, updated_position) "
            "values (1, %s, 'in-progress', 1, 1, 1)",
            (patient_id,),
        )

    async def keys_of(self, *subjects):
        async with transaction(self.connection):
            return await data_keys.of_subjects(self.connection, subjects)

    async def events(self):
        async with transaction(self.connection):
            return await audit_log.find(self.connection, surface="keys")

    async def destroy(self, patient_id=7, principal=OFFICER, **options):
        said = {"by": "Petra Klein", "reason": "request 2026-17", **options}
        return await destroy(self.gate, principal, self.settings, self.connection, patient_id, **said)

    async def read_body(self, patient_id, position):
        kept = await (
            await self.connection.execute(
                "select body from snapshot_body where patient_id = %s and position = %s", (patient_id, position)
            )
        ).fetchone()
        await self.connection.rollback()
        ring = await open_ring(self.settings, self.url)
        try:
            await ring.load([key_id_of(kept[0])])
            return ring.unseal(patient_id, b"snapshot", kept[0])
        finally:
            await ring.close()


@pytest.fixture(scope="module")
def template(postgres_server):
    name = f"destruction_{uuid.uuid4().hex[:12]}"
    with psycopg.connect(postgres_server.url(), autocommit=True) as connection:
        connection.execute(f"create database {name}")
    asyncio.run(migrate(postgres_server.url(name)))
    return name


@pytest.fixture
async def house(postgres_server, template, tmp_path):
    name = f"d_{uuid.uuid4().hex[:12]}"
    with psycopg.connect(postgres_server.url(), autocommit=True) as owner:
        owner.execute(f"create database {name} template {template}")
        url = postgres_server.url(name)
        settings = Settings(data_dir=tmp_path)
        prepare(settings)
        connection = await connect(url, application_name="test")
        clock = ManualClock(NOW_US)
        auditor = Auditor(lambda: connect(url, application_name="audit"), "operator", None, None, clock)
        gate = Gate(Policy.load(), auditor, lambda: connect(url, application_name="gate"), clock, settings)
        ring = await open_ring(settings, url)
        made = House(settings, url, connection, ring, gate)
        await made.furnish()
        yield made
        await ring.close()
        await gate.close()
        await auditor.close()
        await connection.close()
        owner.execute(f"drop database if exists {name} with (force)")


async def test_every_key_of_a_person_is_destroyed_and_nobody_elses(house):
    assert await house.read_body(7, 10)
    proof = await house.destroy(8)  # by the record that was merged into 7
    keys = await house.keys_of(7, 8, 9)
    assert [(key.subject, key.wrapped is None) for key in keys] == [(7, True), (8, True), (9, False)]
    assert {key.destroyed_by for key in keys} == {"Petra Klein", ""}
    for patient_id, position in ((7, 10), (7, 11), (8, 10)):
        with pytest.raises(KeyDestroyedError):
            await house.read_body(patient_id, position)
    assert await house.read_body(9, 10)
    counted = [
        (key.subject, key.snapshot_bodies, key.raw_chunks, key.blobs) for key in sorted(proof.destruction.keys, key=_by)
    ]
    assert counted == [(7, 2, 1, 0), (8, 1, 1, 1)]


def _by(key):
    return key.subject


async def test_the_proof_is_signed_by_the_notary_and_any_change_shows(house):
    proof = await house.destroy()
    (path,) = proofs_dir(house.settings).iterdir()
    assert read_proofs(house.settings) == ([proof], [])
    known = read_keys(house.settings.anchors_dir)
    assert known is not None
    assert proof.is_valid(known.notary[proof.key_id])
    one = proof.destruction
    assert (one.by, one.reason, one.destroyed_at_us) == ("Petra Klein", "request 2026-17", NOW_US)
    commitments = {key.key_id.hex(): key.commitment.hex() for key in await house.keys_of(7, 8)}
    assert {key.key_id: key.commitment for key in one.keys} == commitments
    path.write_text(path.read_text().replace("Petra", "Peter"))
    assert read_proofs(house.settings) == ([], [path.name])


async def test_the_destruction_leaves_one_event_naming_keys_and_who_decided(house):
    proof = await house.destroy()
    (event,) = await house.events()
    assert (event.entry.outcome, event.entry.verb, event.entry.patient_id) == ("permitted", "erase", 7)
    assert event.entry.agent == OFFICER.agent
    detail = msgspec.json.decode(event.entry.detail)
    assert detail["by"] == "Petra Klein"
    assert detail["keys"].split(",") == [key.key_id for key in proof.destruction.keys]


async def test_who_may_not_erase_destroys_nothing_and_is_recorded(house):
    with pytest.raises(RefusedError):
        await house.destroy(principal=NURSE)
    assert all(key.wrapped is not None for key in await house.keys_of(7, 8))
    (event,) = await house.events()
    assert (event.entry.outcome, event.entry.agent) == ("denied", NURSE.agent)
    assert not proofs_dir(house.settings).exists()


async def test_an_admitted_patient_keeps_the_keys_unless_it_is_meant(house):
    await house.admit(7)
    with pytest.raises(RefusedError, match="--even-though-admitted"):
        await house.destroy(8)
    assert all(key.wrapped is not None for key in await house.keys_of(7, 8))
    (event,) = await house.events()
    assert (event.entry.outcome, event.entry.rule) == ("denied", "refused-by-rule")
    await house.destroy(8, even_though_admitted=True)
    assert all(key.wrapped is None for key in await house.keys_of(7, 8))


async def test_there_is_nothing_to_destroy_twice(house):
    await house.destroy()
    with pytest.raises(RefusedError, match="no living key"):
        await house.destroy()


async def test_without_its_audit_event_no_key_is_destroyed(house, monkeypatch):
    async def refuses(*_):
        raise UnavailableError("the audit log cannot be written")

    monkeypatch.setattr(audit_log.AuditWriter, "append", refuses)
    with pytest.raises(UnavailableError):
        await house.destroy()
    assert all(key.wrapped is not None for key in await house.keys_of(7, 8))
    assert not proofs_dir(house.settings).exists()


async def test_a_restored_backup_brings_no_key_back(house):
    before = await house.keys_of(7, 8)
    proof = await house.destroy()
    async with transaction(house.connection):
        await house.connection.execute("delete from data_key where subject in (7, 8)")
        assert await data_keys.put_back(house.connection, before, []) == 2
    standing = await stand(house.connection, house.settings)
    assert sorted(standing.risen) == sorted(key.key_id for key in before)
    assert (await reconcile(house.connection, house.settings)).risen == standing.risen
    after = await house.keys_of(7, 8)
    assert [(key.wrapped, key.destroyed_at_us, key.proof) for key in after] == [
        (None, NOW_US, proof.destruction.name)
    ] * 2
    with pytest.raises(KeyDestroyedError):
        await house.read_body(7, 10)
    again = await reconcile(house.connection, house.settings)
    assert (again.risen, again.unproved, again.invalid) == ([], [], [])


async def test_a_proof_that_the_notary_did_not_sign_destroys_nothing(house):
    await house.destroy()
    (path,) = proofs_dir(house.settings).iterdir()
    neighbour = (await house.keys_of(9))[0]
    forged = msgspec.json.decode(path.read_bytes())
    forged["destruction"]["keys"][0]["key_id"] = neighbour.key_id.hex()
    path.write_bytes(msgspec.json.encode(forged))
    standing = await reconcile(house.connection, house.settings)
    assert standing.invalid == [path.name]
    assert (await house.keys_of(9))[0].wrapped is not None


async def test_a_proof_that_a_crash_prevented_is_written_later(house, monkeypatch):
    def crash(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(key_destruction, "keep_proof", crash)
        with pytest.raises(KeyboardInterrupt):
            await house.destroy()
    assert read_proofs(house.settings) == ([], [])
    await reconcile(house.connection, house.settings)
    (proof,), invalid = read_proofs(house.settings)
    assert invalid == []
    assert [key.subject for key in proof.destruction.keys] == [7, 8]
    assert (proof.destruction.by, proof.destruction.destroyed_at_us) == ("Petra Klein", NOW_US)
