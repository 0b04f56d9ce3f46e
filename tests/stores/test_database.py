"""Migrations, transactions and the translation of PostgreSQL's errors."""

from __future__ import annotations

import asyncio
from pathlib import Path

import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestration.embedded import free_port
from stores.database import (
    connect,
    consistent_read,
    migrate,
    storable,
    to_microseconds,
    to_timestamp,
    transaction,
    translated,
)
from vocabulary.errors import BrokenInvariantError, ConfigurationError, UnavailableError


@pytest.fixture
def migrations(tmp_path: Path) -> Path:
    (tmp_path / "0001_first.sql").write_text("create table first (n int); insert into first values (1);")
    (tmp_path / "0002_second.sql").write_text("create table second (n int);")
    (tmp_path / "README.md").write_text("not a migration")
    return tmp_path


async def test_migrating_twice_applies_each_migration_once(database_url, migrations):
    assert await migrate(database_url, migrations) == ["0001_first.sql", "0002_second.sql"]
    assert await migrate(database_url, migrations) == []
    (migrations / "0003_third.sql").write_text("insert into first values (3);")
    assert await migrate(database_url, migrations) == ["0003_third.sql"]
    with psycopg.connect(database_url) as plain:
        assert plain.execute("select n from first order by n").fetchall() == [(1,), (3,)]


async def test_two_migrations_at_once_wait_for_each_other(database_url, migrations):
    (migrations / "0003_slow.sql").write_text("select pg_sleep(0.2); insert into first values (3);")
    applied = await asyncio.gather(*(migrate(database_url, migrations) for _ in range(3)))
    assert sorted(len(names) for names in applied) == [0, 0, 3]


async def test_an_edited_migration_is_refused(database_url, migrations):
    await migrate(database_url, migrations)
    (migrations / "0001_first.sql").write_text("create table first (n bigint);")
    with pytest.raises(ConfigurationError, match=r"0001_first\.sql was edited"):
        await migrate(database_url, migrations)


async def test_line_ends_of_another_system_are_no_edit(database_url, migrations):
    (migrations / "0002_second.sql").write_bytes(b"create table second (\nn int);\n")
    await migrate(database_url, migrations)
    (migrations / "0002_second.sql").write_bytes(b"create table second (\r\nn int);\r\n")
    assert await migrate(database_url, migrations) == []


async def test_a_newer_database_is_refused(database_url, migrations):
    await migrate(database_url, migrations)
    (migrations / "0002_second.sql").unlink()
    with pytest.raises(ConfigurationError, match=r"newer than this program.*0002_second\.sql"):
        await migrate(database_url, migrations)


async def test_a_gap_in_the_databases_migrations_is_refused(database_url, migrations):
    await migrate(database_url, migrations)
    with psycopg.connect(database_url) as plain:
        plain.execute("delete from schema_migration where version = 1")
    with pytest.raises(ConfigurationError, match="gap"):
        await migrate(database_url, migrations)


async def test_a_failing_migration_leaves_nothing_behind(database_url, migrations):
    (migrations / "0003_bad.sql").write_text("create table third (n int); select 1 / 0;")
    with pytest.raises(ConfigurationError, match="division by zero"):
        await migrate(database_url, migrations)
    with psycopg.connect(database_url) as plain:
        assert plain.execute("select to_regclass('third'), to_regclass('second')").fetchone() == (None, "second")
    (migrations / "0003_bad.sql").write_text("create table third (n int);")
    assert await migrate(database_url, migrations) == ["0003_bad.sql"]


async def test_misnumbered_migration_files_are_a_defect(database_url, migrations):
    (migrations / "0004_fourth.sql").write_text("select 1;")
    with pytest.raises(BrokenInvariantError, match="without gaps"):
        await migrate(database_url, migrations)


async def test_the_houses_own_migrations_apply_and_declare_every_reader(database_url):
    assert (await migrate(database_url))[0] == "0001_the_house.sql"
    with psycopg.connect(database_url) as plain:
        assert plain.execute("select count(*) from position").fetchone() == (65,)


async def test_a_server_that_does_not_answer_is_unavailable_and_the_password_unsaid():
    with pytest.raises(UnavailableError) as caught:
        await connect(f"postgresql://vigil:verysecret@127.0.0.1:{free_port()}/x", application_name="test")
    assert "127.0.0.1" in str(caught.value)
    assert "verysecret" not in str(caught.value)


async def test_a_wrong_password_is_refused_without_repeating_it(postgres_server):
    url = f"postgresql://vigil:verysecret@127.0.0.1:{postgres_server.port}/postgres"
    with pytest.raises(UnavailableError, match="password authentication failed") as caught:
        await connect(url, application_name="test")
    assert "verysecret" not in str(caught.value)


@pytest.mark.parametrize(
    "url", ["mysql://vigil:verysecret@host/db", "postgresql://vigil:verysecret@host/db?nonsense=1"]
)
async def test_an_unreadable_address_is_a_configuration_error_without_the_password(url):
    with pytest.raises(ConfigurationError) as caught:
        await connect(url, application_name="test")
    assert "verysecret" not in str(caught.value)


async def test_an_older_server_is_refused(postgres_server, monkeypatch):
    monkeypatch.setattr("stores.database.OLDEST_SERVER", 990_000)
    with pytest.raises(ConfigurationError, match="needs 15 or newer"):
        await connect(postgres_server.url(), application_name="test")


async def test_a_connection_speaks_utc_under_its_name_and_keeps_the_addresss_options(migrated_url):
    opened = await connect(f"{migrated_url}?options=-c%20work_mem%3D7MB", application_name="vigil engine")
    row = await (
        await opened.execute(
            "select current_setting('timezone'), current_setting('application_name'), current_setting('work_mem')"
        )
    ).fetchone()
    await opened.close()
    assert row == ("UTC", "vigil engine", "7MB")


async def test_a_transaction_commits_at_its_end_and_rolls_back_on_an_error(connection, migrated_url):
    async with transaction(connection):
        await connection.execute("insert into raw_incarnation values (1, 'kept')")

    async def fail():
        async with transaction(connection):
            await connection.execute("insert into raw_incarnation values (2, 'undone')")
            raise RuntimeError("mine")

    with pytest.raises(RuntimeError, match="mine"):
        await fail()
    with psycopg.connect(migrated_url) as plain:
        assert plain.execute("select stream_identity from raw_incarnation").fetchall() == [("kept",)]


async def test_a_transaction_inside_another_is_a_defect(connection):
    await connection.execute("select 1")
    with pytest.raises(BrokenInvariantError, match="already open"):
        async with transaction(connection):
            pass


async def test_a_cut_connection_is_unavailable(connection, migrated_url):
    pid = connection.info.backend_pid
    with psycopg.connect(migrated_url) as plain:
        plain.execute("select pg_terminate_backend(%s)", (pid,))
    with pytest.raises(UnavailableError):
        async with transaction(connection):
            await connection.execute("select 1")
    with pytest.raises(UnavailableError):
        async with transaction(connection):
            await connection.execute("select 1")


@pytest.mark.parametrize(
    "values",
    ["'nonsense', null, 1", "'male', null, null", "'male', 'Nightingale'::text::date, 1", "'male', null, 1e30::int8"],
)
async def test_refused_rows_are_defects_whose_message_quotes_no_value(connection, values):
    statement = (
        "insert into patient (patient_id, partition, created_position, family_name, sex, birth_date, updated_position) "
        f"values (1, 0, 1, 'Nightingale', {values})"
    )
    with pytest.raises(BrokenInvariantError) as caught:
        async with transaction(connection):
            await connection.execute(statement.encode())
    assert "Nightingale" not in str(caught.value)
    assert caught.value.__suppress_context__


async def test_a_database_without_the_schema_says_to_migrate(database_url):
    opened = await connect(database_url, application_name="test")
    with pytest.raises(ConfigurationError, match="no Vigil schema"), translated():
        await opened.execute("select * from position")
    await opened.close()


async def test_a_consistent_read_sees_one_moment_and_writes_nothing(connection, migrated_url):
    async with consistent_read(connection):
        before = await (await connection.execute("select count(*) from raw_incarnation")).fetchone()
        with psycopg.connect(migrated_url) as plain:
            plain.execute("insert into raw_incarnation values (1, 'meanwhile')")
        assert await (await connection.execute("select count(*) from raw_incarnation")).fetchone() == before
    with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
        async with consistent_read(connection):
            await connection.execute("insert into raw_incarnation values (2, 'x')")


@given(st.integers(-62_135_596_800_000_000, 253_402_300_799_999_999))
def test_microseconds_survive_being_a_timestamp(at_us):
    assert to_microseconds(to_timestamp(at_us)) == at_us


@given(st.text(st.characters(categories=None, codec=None), max_size=40), st.none() | st.integers(1, 30))
def test_any_text_becomes_storable_and_short_enough(text, limit):
    stored = storable(text, limit)
    stored.encode()
    assert "\x00" not in stored
    assert limit is None or len(stored) <= limit
    assert storable(stored, limit) == stored
