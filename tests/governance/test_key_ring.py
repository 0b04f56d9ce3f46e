"""The key ring: a key for each patient, committed before it is used, forgotten everywhere once it is destroyed."""

from __future__ import annotations

import asyncio
import uuid
from datetime import UTC, datetime

import psycopg
import pytest

from governance import key_rotation, privacy
from governance.key_rotation import destroy_master, make_successor, rotate_master, rotate_subjects
from governance.master_key import open_master
from governance.privacy import KeyDestroyedError, KeyMissingError, open_ring, prepare
from stores import data_keys
from stores.blob_keys import ArrivalsLock
from stores.database import connect, migrate, transaction
from stores.envelope import DamagedEnvelopeError, key_id_of, nobody
from vocabulary.clock import ManualClock
from vocabulary.errors import BrokenInvariantError, ConfigurationError, RefusedError, UnavailableError
from vocabulary.settings import Settings

NOON_US = int(datetime(2026, 3, 1, 12, tzinfo=UTC).timestamp() * 1_000_000)
DAY_US = 86_400_000_000


@pytest.fixture(scope="module")
def template(postgres_server):
    name = f"keys_{uuid.uuid4().hex[:12]}"
    with psycopg.connect(postgres_server.url(), autocommit=True) as connection:
        connection.execute(f"create database {name}")
    asyncio.run(migrate(postgres_server.url(name)))
    return name


@pytest.fixture
def url(postgres_server, template):
    name = f"k_{uuid.uuid4().hex[:12]}"
    with psycopg.connect(postgres_server.url(), autocommit=True) as connection:
        connection.execute(f"create database {name} template {template}")
        yield postgres_server.url(name)
        connection.execute(f"drop database if exists {name} with (force)")


@pytest.fixture
def settings(tmp_path):
    made = Settings(data_dir=tmp_path)
    prepare(made)
    return made


@pytest.fixture
async def rings(settings, url):
    """Opens rings, as several processes would."""
    opened = []

    async def open_one(**options):
        ring = await open_ring(settings, url, **{"clock": ManualClock(NOON_US), **options})
        opened.append(ring)
        return ring

    yield open_one
    for ring in opened:
        await ring.close()


@pytest.fixture
async def connection(url):
    opened = await connect(url, application_name="test")
    yield opened
    await opened.close()


async def unsealed(ring, subject, purpose, sealed):
    await ring.load([key_id_of(sealed)])
    return ring.unseal(subject, purpose, sealed)


async def destroy(connection, *key_ids):
    async with transaction(connection):
        await data_keys.lock(connection)
        return await data_keys.destroy(connection, list(key_ids), NOON_US, "somebody", "proof")


async def test_what_one_process_sealed_another_reads(rings):
    one, other = await rings(), await rings()
    await one.ensure([7, 8])
    sealed = one.seal(7, b"snapshot", b"body")
    assert await unsealed(other, 7, b"snapshot", sealed) == b"body"
    assert other.subject_of(key_id_of(sealed)) == 7
    assert other.held == 1, "only what was asked for"


async def test_processes_that_make_a_key_at_once_agree(rings):
    several = [await rings() for _ in range(4)]
    await asyncio.gather(*(ring.ensure(range(1, 40)) for ring in several))
    sealed = [ring.seal(17, b"p", b"body") for ring in several]
    assert len({key_id_of(one) for one in sealed}) == 1


async def test_bytes_of_another_patient_are_refused(rings):
    ring = await rings()
    await ring.ensure([7, 8])
    sealed = ring.seal(7, b"p", b"body")
    for subject in (8, 0, -7):
        with pytest.raises(DamagedEnvelopeError):
            ring.unseal(subject, b"p", sealed)


async def test_what_is_nobodys_is_under_its_days_key(rings):
    clock = ManualClock(NOON_US)
    ring = await rings(clock=clock)
    await ring.ensure([0])
    first = ring.seal(0, b"p", b"body")
    assert ring.subject_of(key_id_of(first)) == nobody(NOON_US)
    clock.advance(86_400)
    between = ring.seal(0, b"p", b"midnight came in between")
    assert key_id_of(between) == key_id_of(first)
    await ring.ensure([0])
    second = ring.seal(0, b"p", b"body")
    assert ring.subject_of(key_id_of(second)) == nobody(NOON_US + DAY_US)
    assert ring.unseal(0, b"p", first) == b"body"
    await ring.ensure([nobody(NOON_US - 3 * DAY_US)])
    assert ring.unseal(0, b"p", ring.seal(nobody(NOON_US - 3 * DAY_US), b"p", b"earlier")) == b"earlier"


async def test_a_destroyed_key_is_forgotten_by_every_process_within_five_seconds(rings, connection):
    one, other = await rings(), await rings()
    await one.ensure([7, 8])
    sealed, neighbours = one.seal(7, b"p", b"body"), one.seal(8, b"p", b"body")
    assert await unsealed(other, 7, b"p", sealed) == b"body"
    started = asyncio.get_running_loop().time()
    assert await destroy(connection, key_id_of(sealed)) == 1
    for ring in (one, other):
        while True:
            try:
                await unsealed(ring, 7, b"p", sealed)
            except KeyDestroyedError:
                break
            await asyncio.sleep(0.05)
            assert asyncio.get_running_loop().time() - started < 5
    assert await unsealed(one, 8, b"p", neighbours) == b"body"


async def test_a_destroyed_patient_who_comes_back_gets_a_new_key(rings, connection):
    ring = await rings()
    await ring.ensure([7])
    old = ring.seal(7, b"p", b"old")
    await destroy(connection, key_id_of(old))
    await ring.look()
    await ring.ensure([7])
    new = ring.seal(7, b"p", b"new")
    assert key_id_of(new) != key_id_of(old)
    assert ring.unseal(7, b"p", new) == b"new"
    with pytest.raises(KeyDestroyedError, match=key_id_of(old).hex()):
        await unsealed(ring, 7, b"p", old)


async def test_a_ring_that_cannot_look_forgets_its_keys(rings, monkeypatch):
    monkeypatch.setattr(privacy, "LOOK_S", 0.05)
    monkeypatch.setattr(privacy, "BLIND_S", 0.2)
    ring = await rings()
    await ring.ensure([7])
    sealed = ring.seal(7, b"p", b"body")

    async def away():
        raise UnavailableError("PostgreSQL is away")

    with monkeypatch.context() as patch:
        patch.setattr(ring, "look", away)
        async with asyncio.timeout(5):
            while ring.held:  # noqa: ASYNC110 — nothing tells
                await asyncio.sleep(0.02)
    with pytest.raises(UnavailableError):
        ring.seal(7, b"p", b"more")
    assert await unsealed(ring, 7, b"p", sealed) == b"body", "they are read again once it answers"


async def test_a_lost_connection_is_opened_again_and_trusts_nothing_from_before(rings, connection, postgres_server):
    ring = await rings()
    await ring.ensure([7])
    sealed = ring.seal(7, b"p", b"body")
    await connection.execute(
        "select pg_terminate_backend(pid) from pg_stat_activity where datname = current_database() "
        "and pid <> pg_backend_pid()"
    )
    await connection.rollback()
    await destroy(connection, key_id_of(sealed))
    with pytest.raises(UnavailableError):
        await ring.look()
    await ring.look()
    with pytest.raises(KeyDestroyedError):
        await unsealed(ring, 7, b"p", sealed)


async def test_memory_is_bounded_and_what_was_let_go_is_read_again(settings, url):
    ring = await privacy.KeyRing.open(
        lambda: connect(url, application_name="test"),
        open_master(settings),
        ManualClock(NOON_US),
        settings.keys_dir / "arrivals.key",
        most_keys=10,
    )
    try:
        sealed = {}
        for patient in range(1, 41):
            await ring.ensure([patient])
            sealed[patient] = ring.seal(patient, b"p", b"%d" % patient)
            assert ring.held <= 10
        for patient, body in sealed.items():
            assert await unsealed(ring, patient, b"p", body) == b"%d" % patient
        await ring.ensure(range(1, 41))
        assert ring.held == 40, "more at once than the bound: all of them, this time"
    finally:
        await ring.close()


async def test_a_key_that_no_row_holds_is_missing_not_destroyed(rings, connection):
    ring, other = await rings(), await rings()
    await ring.ensure([7])
    sealed = ring.seal(7, b"p", b"body")
    await connection.execute("delete from data_key")
    await connection.commit()
    with pytest.raises(KeyMissingError, match="Restore the keys"):
        await other.load([key_id_of(sealed)])


@pytest.mark.parametrize("change", ["subject = 8", "generation = 3", "commitment = sha256('x')", "wrapped = '\\x00'"])
async def test_a_row_that_was_changed_is_noticed(rings, connection, change):
    ring, other = await rings(), await rings()
    await ring.ensure([7])
    sealed = ring.seal(7, b"p", b"body")
    await connection.execute(f"update data_key set {change}".encode())
    await connection.commit()
    with pytest.raises(BrokenInvariantError):
        await other.load([key_id_of(sealed)])


async def test_no_plain_key_lies_in_the_database(rings, connection):
    ring = await rings()
    await ring.ensure([7])
    key = ring._held[ring._current[7]].key
    rows = await (await connection.execute("select * from data_key")).fetchall()
    assert key is not None
    assert key._key not in b"".join(bytes(cell) for row in rows for cell in row if isinstance(cell, bytes))


# -- rotation


async def test_rotating_a_patients_key_seals_what_is_new_with_another_and_reads_both(rings, connection, settings):
    one, other = await rings(), await rings()
    await one.ensure([7])
    old = one.seal(7, b"p", b"old")
    async with transaction(connection):
        assert await rotate_subjects(connection, open_master(settings), [7], ManualClock(NOON_US)) == [(7, 1)]
    await one.look()
    await one.ensure([7])
    new = one.seal(7, b"p", b"new")
    assert key_id_of(new) != key_id_of(old)
    for ring in (one, other):
        assert await unsealed(ring, 7, b"p", old) == b"old"
        assert await unsealed(ring, 7, b"p", new) == b"new"
    with pytest.raises(RefusedError, match="99"):
        async with transaction(connection):
            await rotate_subjects(connection, open_master(settings), [99], ManualClock(NOON_US))


async def test_the_master_key_is_rotated_under_running_processes(rings, connection, settings, monkeypatch):
    monkeypatch.setattr(key_rotation, "BATCH", 7)
    clock = ManualClock(NOON_US)
    running, master = await rings(), open_master(settings)
    before = master.key_id
    await running.ensure(range(1, 31))
    sealed = running.seal(7, b"p", b"body")
    arrivals = await running.open_arrival(*_locked(settings))
    successor = make_successor(settings, None, master.known())
    done = await rotate_master(connection, settings, master, successor, clock)
    assert done.rewrapped == 30
    assert done.master_key_id == successor.key_id != before
    # A process that knows only the old one makes a key: it learns of the new one instead.
    await running.ensure([99])
    async with transaction(connection):
        rows = {row.master_key_id: row for row in await data_keys.masters(connection)}
    assert (rows[before].wraps, rows[successor.key_id].wraps) == (0, 31)
    running._forget_all()
    assert await unsealed(running, 7, b"p", sealed) == b"body"
    assert await running.open_arrival(*_locked(settings)) == arrivals
    assert (await rotate_master(connection, settings, open_master(settings), successor, clock)).rewrapped == 0

    with pytest.raises(RefusedError, match="in use"):
        await destroy_master(connection, settings, open_master(settings), successor.key_id, clock)
    said = await destroy_master(connection, settings, open_master(settings), before, clock)
    assert "removed" in said
    assert not list(settings.keys_dir.glob("master-*.key"))
    fresh = await rings()
    assert await unsealed(fresh, 7, b"p", sealed) == b"body"


def _locked(settings):
    lock = ArrivalsLock.load(settings.keys_dir / "arrivals.pub")
    return lock.lock(b"k" * 32, "ab" * 32)[1:], b"vigil blob " + b"ab" * 32


async def test_an_interrupted_rotation_goes_on_where_it_was(rings, connection, settings, monkeypatch):
    monkeypatch.setattr(key_rotation, "BATCH", 5)
    clock = ManualClock(NOON_US)
    ring, master = await rings(), open_master(settings)
    await ring.ensure(range(1, 21))
    sealed = [ring.seal(patient, b"p", b"%d" % patient) for patient in range(1, 21)]
    successor = make_successor(settings, None, master.known())
    real, calls = successor.wrap, []

    def fails_after_eight(key, context):
        calls.append(1)
        if len(calls) > 8:
            raise UnavailableError("the token was pulled out")
        return real(key, context)

    with monkeypatch.context() as patch:
        patch.setattr(successor, "wrap", fails_after_eight)
        with pytest.raises(UnavailableError):
            await rotate_master(connection, settings, master, successor, clock)
    fresh = await rings()
    for patient, body in enumerate(sealed, 1):
        assert await unsealed(fresh, patient, b"p", body) == b"%d" % patient, "both masters are known meanwhile"
    again = await rotate_master(connection, settings, open_master(settings), successor, clock)
    assert again.rewrapped == 15, "one batch of five was done"


async def test_a_process_whose_master_key_was_replaced_and_is_alone_says_so(rings, connection, settings, tmp_path):
    ring = await rings()
    await ring.ensure([1])
    async with transaction(connection):
        await data_keys.know_master(connection, "f" * 16, "env", 0)
        await data_keys.retire_masters_but(connection, "f" * 16, 0)
    with pytest.raises(ConfigurationError, match="VIGIL_MASTER_KEY"):
        await ring.ensure([2])
