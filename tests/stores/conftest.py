"""Databases with Vigil's schema: migrated once a session, copied for each test."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Iterator

import psycopg
import pytest

from orchestration.embedded import EmbeddedPostgres
from stores.database import Connection, connect, migrate


@pytest.fixture(scope="session")
def migrated_template(postgres_server: EmbeddedPostgres) -> str:
    """Name of a migrated, empty database to copy from (a copy takes a fifth of a migration)."""
    name = f"template_{uuid.uuid4().hex[:12]}"
    with psycopg.connect(postgres_server.url(), autocommit=True) as connection:
        connection.execute(f"create database {name}")
    asyncio.run(migrate(postgres_server.url(name)))
    return name


@pytest.fixture
def migrated_url(postgres_server: EmbeddedPostgres, migrated_template: str) -> Iterator[str]:
    """Address of a new database with Vigil's schema and nothing in it."""
    name = f"t_{uuid.uuid4().hex[:12]}"
    with psycopg.connect(postgres_server.url(), autocommit=True) as connection:
        connection.execute(f"create database {name} template {migrated_template}")
        yield postgres_server.url(name)
        connection.execute(f"drop database if exists {name} with (force)")


@pytest.fixture
async def connection(migrated_url: str) -> AsyncIterator[Connection]:
    """An open connection to a new database with Vigil's schema."""
    opened = await connect(migrated_url, application_name="vigil test")
    yield opened
    await opened.close()
