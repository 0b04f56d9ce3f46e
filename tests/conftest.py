"""Fixtures every room's tests share: real servers, real data, a hand-cranked clock."""

from __future__ import annotations

import shutil
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from orchestration.embedded import EmbeddedNats, EmbeddedPostgres, free_port

SHARED_DATA = Path(__file__).resolve().parent.parent.parent / "shared" / "data"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Other people's real data; never committed."""
    if not SHARED_DATA.is_dir():
        pytest.skip(f"real data is not at {SHARED_DATA}")
    return SHARED_DATA


@pytest.fixture(scope="session")
def server_folder() -> Iterator[Path]:
    """A folder that `nobody` can reach, for servers started by tests."""
    folder = Path(tempfile.mkdtemp(prefix="vigil-test-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def postgres_server(server_folder: Path) -> Iterator[EmbeddedPostgres]:
    """One PostgreSQL for the whole session, without fsync: tests that kill it start their own."""
    server = EmbeddedPostgres(server_folder / "postgres", free_port(), fsync=False)
    server.start()
    yield server
    server.stop("immediate")


@pytest.fixture
def database_url(postgres_server: EmbeddedPostgres) -> Iterator[str]:
    """A new, empty database."""
    name = f"t_{uuid.uuid4().hex[:12]}"
    with psycopg.connect(postgres_server.url(), autocommit=True) as connection:
        connection.execute(f"create database {name}")
        yield postgres_server.url(name)
        connection.execute(f"drop database if exists {name} with (force)")


@pytest.fixture
def nats_server(tmp_path: Path) -> Iterator[EmbeddedNats]:
    """A new nats-server with an empty store."""
    server = EmbeddedNats(tmp_path / "nats", free_port())
    server.start()
    yield server
    server.stop()
