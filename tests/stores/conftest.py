"""A database with Vigil's schema: migrated once a session, emptied after each test."""

from __future__ import annotations

import asyncio
import hashlib
import uuid
from collections.abc import AsyncIterator, Iterator

import psycopg
import pytest

from orchestration.embedded import EmbeddedPostgres
from stores.blob_keys import ArrivalsKey
from stores.database import Connection, connect, migrate
from stores.envelope import ContentKey, DamagedEnvelopeError, KeyDestroyedError, key_id_of, nobody

EMPTY_AGAIN = """
select set_config('lock_timeout', '10s', false);
select set_config('session_replication_role', 'replica', false); -- the ledger refuses to be emptied
select pg_terminate_backend(pid) from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid();
do $$
declare touched text;
begin
    select string_agg(c.oid::regclass::text, ', ') into touched from pg_class c
    where c.relnamespace = 'public'::regnamespace and c.relkind = 'r' and c.relname <> 'schema_migration'
    and pg_relation_size(c.oid) > 0;
    execute 'truncate ' || touched || ' restart identity cascade';
end $$;
insert into position (reader) select 'partition-' || lpad(n::text, 2, '0') from generate_series(0, 63) n;
insert into position (reader) values ('normalizer');
"""


@pytest.fixture(scope="session")
def session_database(postgres_server: EmbeddedPostgres) -> str:
    """Address of one migrated database (a new one for every test would take most of the room's time)."""
    name = f"stores_{uuid.uuid4().hex[:12]}"
    with psycopg.connect(postgres_server.url(), autocommit=True) as connection:
        connection.execute(f"create database {name}")
    asyncio.run(migrate(postgres_server.url(name)))
    return postgres_server.url(name)


@pytest.fixture
def migrated_url(session_database: str) -> Iterator[str]:
    """Address of a database with Vigil's schema and nothing in it."""
    yield session_database
    with psycopg.connect(session_database, autocommit=True) as connection:
        connection.execute(EMPTY_AGAIN)


@pytest.fixture
async def connection(migrated_url: str) -> AsyncIterator[Connection]:
    """An open connection to a database with Vigil's schema and nothing in it."""
    opened = await connect(migrated_url, application_name="vigil test")
    yield opened
    await opened.close()


class MemoryKeys:
    """What stores ask of a key ring, without a database: the tests' own reading of stores.envelope.Keys."""

    today = nobody(1_780_000_000_000_000)

    def __init__(self) -> None:
        self.of_subject: dict[int, bytes] = {}
        self.by_id: dict[bytes, tuple[int, ContentKey | None]] = {}
        self.arrivals = ArrivalsKey(bytes(range(32)))
        self.is_ready: set[bytes] = set()

    async def ensure(self, subjects):
        self.have(subjects)

    def have(self, subjects):
        for subject in {subject or self.today for subject in subjects}:
            if subject not in self.of_subject:
                key_id = len(self.by_id).to_bytes(8)
                self.of_subject[subject] = key_id
                self.by_id[key_id] = (subject, ContentKey(key_id, hashlib.sha256(key_id).digest()))

    async def load(self, key_ids):
        wanted = set(key_ids)
        assert wanted <= self.by_id.keys()
        self.is_ready |= wanted

    def seal(self, subject, purpose, plaintext):
        subject = subject or self.today
        key = self.by_id[self.of_subject[subject]][1]
        assert key is not None
        return key.seal(purpose, subject, plaintext)

    def unseal(self, subject, purpose, sealed):
        assert key_id_of(sealed) in self.is_ready, "unsealed without loading the key"
        owner, key = self.by_id[key_id_of(sealed)]
        if subject != owner and not (subject == 0 and owner < 0):
            raise DamagedEnvelopeError("another's")
        if key is None:
            raise KeyDestroyedError("destroyed")
        return key.unseal(purpose, owner, sealed)

    def subject_of(self, key_id):
        return self.by_id[key_id][0]

    async def open_arrival(self, locked, info):
        return self.arrivals.unlock(locked, info)

    def destroy(self, subject):
        key_id = self.of_subject.pop(subject)
        self.by_id[key_id] = (subject, None)


@pytest.fixture
def keys() -> MemoryKeys:
    """Keys in memory: made when asked for, destroyed when told."""
    return MemoryKeys()
