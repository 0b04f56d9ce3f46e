"""External databases: whom we reach is checked, roles get passwords of their own, and what is missing is said."""

from __future__ import annotations

import asyncio
import stat
import uuid
from urllib.parse import urlsplit, urlunsplit

import psycopg
import pytest

from orchestration import database_roles
from orchestration.database_roles import Proof
from orchestration.embedded import EmbeddedPostgres, free_port
from stores.roles import ROLES
from vocabulary.errors import ConfigurationError


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://me:hush@127.0.0.1:5432/vigil",
        "postgresql://me:hush@localhost/vigil",
        "postgresql://me:hush@[::1]:5432/vigil",
        "postgresql:///vigil?host=/run/postgresql",
        "postgresql://me@%2Frun%2Fpostgresql/vigil",
        "postgresql://me:hush@db.example/vigil?sslmode=verify-full&sslrootcert=/x.pem",
        "postgresql://me:hush@a.example,b.example:5433/vigil?sslmode=verify-ca",
    ],
)
def test_a_database_here_or_one_whose_certificate_is_checked_is_taken(url):
    database_roles.require_checked(url)


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://me:hush@db.example/vigil",
        "postgresql://me:hush@db.example/vigil?sslmode=require",
        "postgresql://me:hush@db.example/vigil?sslmode=prefer",
        "postgresql://me:hush@localhost,db.example/vigil",
        "postgresql://me:hush@10.0.0.1:5432/vigil?sslmode=disable",
        "postgresql://me:hush@localhost/vigil?hostaddr=10.0.0.1",
        "postgresql:///vigil?host=db.example",
        "host=db.example password=hush",
    ],
)
def test_a_database_beyond_this_machine_that_could_be_anybody_is_refused(url):
    with pytest.raises(ConfigurationError) as told:
        database_roles.require_checked(url)
    assert "hush" not in str(told.value)


@pytest.fixture(scope="module")
def postgres_server(server_folder):
    """A server of its own: roles are the whole server's, and other tests' databases would depend on them."""
    server = EmbeddedPostgres(server_folder / "roles", free_port(), fsync=False)
    server.start()
    yield server
    server.stop("immediate")


@pytest.fixture
def owner_url(postgres_server):
    """A database owned by a user who is no superuser, as a hospital's administrator would hand it over."""
    name = f"o_{uuid.uuid4().hex[:10]}"
    with psycopg.connect(postgres_server.url(), autocommit=True) as connection:
        for role in ROLES:
            connection.execute(f"drop role if exists {role}")
        connection.execute(f"create role {name} login createrole password 'hush'")
        connection.execute(f"create database {name} owner {name}")
    yield urlunsplit(
        urlsplit(postgres_server.url(name))._replace(netloc=f"{name}:hush@127.0.0.1:{postgres_server.port}")
    )
    with psycopg.connect(postgres_server.url(), autocommit=True) as connection:
        connection.execute(f"drop database {name} with (force)")
        for role in ROLES:
            connection.execute(f"drop role if exists {role}")
        connection.execute(f"drop role {name}")


def test_an_owner_who_may_make_roles_gets_them_each_with_a_password_of_its_own(owner_url, tmp_path):
    folder = tmp_path / "credentials"
    asyncio.run(database_roles.prepare(owner_url, folder, Proof.ASKED_PASSWORDS))
    kept = {role: (folder / role).read_text() for role in ROLES}
    assert len(set(kept.values())) == len(ROLES)
    assert all(stat.S_IMODE((folder / role).stat().st_mode) == 0o600 for role in ROLES)
    for role in ROLES:
        url = database_roles.address_of(owner_url, role, folder)
        assert "hush" not in url
        with psycopg.connect(url) as connection:
            assert connection.execute("select current_user").fetchone() == (role,)
    with (
        psycopg.connect(database_roles.address_of(owner_url, "vigil_engine", folder)) as connection,
        pytest.raises(psycopg.errors.InsufficientPrivilege),
    ):
        connection.execute("select family_name from patient")
    asyncio.run(database_roles.prepare(owner_url, folder, Proof.ASKED_PASSWORDS))
    assert {role: (folder / role).read_text() for role in ROLES} == kept


def test_an_owner_who_may_not_is_told_what_an_administrator_has_to_run(owner_url, postgres_server, tmp_path):
    name = urlsplit(owner_url).username
    with psycopg.connect(postgres_server.url(), autocommit=True) as connection:
        connection.execute(f"alter role {name} nocreaterole")
    folder = tmp_path / "credentials"
    with pytest.raises(ConfigurationError) as told:
        asyncio.run(database_roles.prepare(owner_url, folder, Proof.ASKED_PASSWORDS))
    assert "create role vigil_engine login password" in str(told.value)
    assert "CREATEROLE" in str(told.value)
    assert not list(folder.iterdir()), "no password is kept for a role that was not made"

    # What the message says to do is enough.
    with psycopg.connect(postgres_server.url(), autocommit=True) as connection:
        for role in ROLES:
            connection.execute(f"create role {role} login password 'given-{role}'")
            (folder / role).write_text(f"given-{role}\n")
    asyncio.run(database_roles.prepare(owner_url, folder, Proof.ASKED_PASSWORDS))
    with psycopg.connect(database_roles.address_of(owner_url, "vigil_clinic", folder)) as connection:
        connection.execute("select * from patient")


def test_roles_of_another_vigil_are_not_taken_over(owner_url, tmp_path):
    asyncio.run(database_roles.prepare(owner_url, tmp_path / "first", Proof.ASKED_PASSWORDS))
    with pytest.raises(ConfigurationError, match="whose passwords are not in"):
        asyncio.run(database_roles.prepare(owner_url, tmp_path / "second", Proof.ASKED_PASSWORDS))
    with psycopg.connect(database_roles.address_of(owner_url, "vigil_engine", tmp_path / "first")):
        pass


def test_passwords_of_the_embedded_server_are_ours_to_set_again(owner_url, tmp_path):
    for folder in ("first", "second"):
        asyncio.run(database_roles.prepare(owner_url, tmp_path / folder, Proof.PASSWORDS))
        with psycopg.connect(database_roles.address_of(owner_url, "vigil_engine", tmp_path / folder)):
            pass


def test_an_address_keeps_what_checks_the_server_and_drops_what_proves_the_owner(tmp_path):
    (tmp_path / "vigil_engine").write_text("p@ss/word\n")
    url = database_roles.address_of(
        "postgresql://boss:hush@db.example:5433/vigil?sslmode=verify-full&sslrootcert=/a%20b.pem&sslcert=/boss.pem"
        "&sslkey=/boss.key&user=boss&password=hush",
        "vigil_engine",
        tmp_path,
    )
    assert url == (
        "postgresql://vigil_engine:p%40ss%2Fword@db.example:5433/vigil?sslmode=verify-full&sslrootcert=%2Fa%20b.pem"
    )
    with pytest.raises(ConfigurationError, match="vigil_keeper"):
        database_roles.address_of(url, "vigil_keeper", tmp_path)
