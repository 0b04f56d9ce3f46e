"""A database with Vigil's schema: migrated once a session, emptied after each test."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Iterator

import psycopg
import pytest

from orchestration.embedded import EmbeddedPostgres
from stores.database import Connection, connect, migrate

EMPTY_AGAIN = """
select set_config('lock_timeout', '10s', false);
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
