"""Least privilege, as the database enforces it: the table is all there is, and each role meets its walls."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from urllib.parse import urlsplit, urlunsplit

import psycopg
import pytest

from stores import database, roles
from stores.database import Connection, connect, migrate, transaction
from vocabulary.errors import BrokenInvariantError, ConfigurationError, RefusedError

PASSWORD = "not-a-secret"
TABLES = "select relname from pg_class where relnamespace = 'public'::regnamespace and relkind in ('r', 'p', 'v', 'm')"
VERBS = ("select", "insert", "update", "delete")


async def prepare(url: str) -> None:
    await migrate(url)
    connection = await connect(url, application_name="test")
    async with transaction(connection):
        await roles.create(connection, await roles.missing_roles(connection))
        await roles.set_passwords(connection, dict.fromkeys(roles.ROLES, PASSWORD))
    await roles.apply(connection)
    await connection.close()


@pytest.fixture
def ready_url(database_url: str) -> str:
    """A migrated database whose privileges were applied, as its owner reaches it."""
    asyncio.run(prepare(database_url))
    return database_url


@pytest.fixture
async def owner(ready_url: str) -> AsyncIterator[Connection]:
    opened = await connect(ready_url, application_name="test")
    yield opened
    await opened.close()


async def permitted(connection: Connection) -> dict[str, dict[str, set[str]]]:
    async with database.consistent_read(connection):
        return await roles.permitted(connection)


def as_role(url: str, role: str) -> psycopg.Connection:
    parts = urlsplit(url)
    where = parts.netloc.rpartition("@")[2]
    return psycopg.connect(urlunsplit(parts._replace(netloc=f"{role}:{PASSWORD}@{where}")), autocommit=True)


async def test_the_database_permits_exactly_what_the_table_says(owner):
    assert await permitted(owner) == {role: roles.privileges(grants) for role, grants in roles.GRANTS.items() if grants}


def test_no_role_can_do_more_by_any_other_way(ready_url):
    """PostgreSQL's own answer, which counts memberships, ownership and what everybody may do."""
    with psycopg.connect(ready_url, autocommit=True) as connection:
        tables = [row[0] for row in connection.execute(TABLES)]
        for role, grants in roles.GRANTS.items():
            listed = roles.privileges(grants)
            for table in tables:
                whole = {
                    verb
                    for verb in (*VERBS, "truncate", "references", "trigger")
                    if connection.execute("select has_table_privilege(%s, %s, %s)", (role, table, verb)).fetchone()[0]
                }
                assert whole == {kind for kind in listed.get(table, set()) if "(" not in kind}, (role, table)
                for verb in ("select", "insert", "update"):
                    columns = {
                        row[0]
                        for row in connection.execute(
                            "select attname from pg_attribute where attrelid = %s::regclass and attnum > 0 "
                            "and not attisdropped and has_column_privilege(%s, attrelid, attnum, %s)",
                            (table, role, verb),
                        )
                    }
                    if verb not in whole:
                        named = {
                            kind[len(verb) + 1 : -1] for kind in listed.get(table, ()) if kind.startswith(f"{verb}(")
                        }
                        assert columns == named, (role, table, verb)


def test_every_table_was_thought_of(ready_url):
    with psycopg.connect(ready_url) as connection:
        found = {row[0] for row in connection.execute(TABLES)}
    assert found == {table for grants in roles.GRANTS.values() for table in grants}


CONSENT = (
    "insert into consent (patient_id, scope, is_permitted, decided_at_us, decided_by, recorded_by) "
    "values (1, 'sharing', true, 0, '', '')"
)
AUDIT = (
    "insert into audit_event (writer, seq, at, action, outcome, surface, verb, agent, previous_hash, hash) "
    "values ('engine', 1, now(), 'a', 'permitted', 's', 'v', 'x', '', '')"
)
SERVING = (
    'insert into serving (at_us, scope, slot, action, version, model_digest, evidence_digest, request_id, "by", '
    "key_id, machine_signature) values (0, 'mortality', 'champion', 'promote', 1, '', '', '', '', '', '')"
)
FORBIDDEN = [
    # What a compromised engine would want.
    ("vigil_engine", AUDIT.replace("'engine'", "'clinic'")),
    ("vigil_engine", "update audit_event set outcome = 'permitted'"),
    ("vigil_engine", "select * from audit_event"),
    ("vigil_engine", "select agent, patient_id from audit_event"),
    ("vigil_engine", SERVING),
    ("vigil_engine", "update risk_score set probability = 0"),
    ("vigil_engine", "select * from outcome"),
    ("vigil_engine", "select * from approval_signature"),
    ("vigil_engine", "update ledger_entry set values_received = 0"),
    ("vigil_engine", "delete from ledger_entry"),
    ("vigil_engine", "truncate ledger_entry"),
    ("vigil_engine", "select * from patient_identifier"),
    ("vigil_engine", "select family_name from patient"),
    ("vigil_engine", "select given_name, birth_date from patient"),
    ("vigil_engine", "select * from patient"),
    ("vigil_engine", "select * from quarantine_item"),
    ("vigil_engine", CONSENT),
    ("vigil_engine", "update break_glass set reason = ''"),
    ("vigil_engine", "insert into break_glass_review values (1, 'me', '', 0, 'justified', '')"),
    ("vigil_engine", "update data_key set wrapped = null"),
    ("vigil_engine", "delete from data_key"),
    ("vigil_engine", "select * from web_session"),
    ("vigil_engine", "update position set reader = 'mine'"),
    ("vigil_engine", "delete from signal_block"),
    ("vigil_engine", "insert into patient (patient_id, partition) values (1, 1)"),
    # The others.
    ("vigil_normalizer", "select * from snapshot_body"),
    ("vigil_normalizer", "insert into signal_block default values"),
    ("vigil_normalizer", "delete from quarantine_item"),
    ("vigil_normalizer", "update ledger_entry set detail = ''"),
    ("vigil_normalizer", "select * from break_glass"),
    ("vigil_keeper", "select family_name from patient"),
    ("vigil_keeper", "delete from ledger_entry"),
    ("vigil_keeper", "select birth_date, given_name from patient"),
    ("vigil_keeper", "select text from observation_event"),
    ("vigil_keeper", "update incident set closed_by = 'me'"),
    ("vigil_keeper", "insert into approval_signature default values"),
    ("vigil_keeper", "insert into model_version default values"),
    ("vigil_keeper", "update serving set action = 'resume'"),
    ("vigil_keeper", "update position set position = 0"),
    ("vigil_clinic", "update audit_event set agent = ''"),
    ("vigil_clinic", "delete from audit_event"),
    ("vigil_clinic", "insert into ledger_entry default values"),
    ("vigil_clinic", "update break_glass set reason = ''"),
    ("vigil_clinic", "delete from break_glass_review"),
    ("vigil_clinic", "update snapshot_body set body = ''"),
    ("vigil_clinic", "insert into model_version default values"),
    ("vigil_clinic", "insert into model_verdict default values"),
    ("vigil_clinic", "insert into risk_score default values"),
    ("vigil_clinic", "update serving set action = 'resume'"),
    ("vigil_clinic", "update incident set cause = ''"),
    ("vigil_normalizer", "select * from risk_score"),
    ("vigil_normalizer", SERVING),
    ("vigil_clinic", "update data_key set wrapped = null"),
    ("vigil_clinic", CONSENT),
    ("vigil_operator", "update ledger_entry set detail = ''"),
    ("vigil_operator", "delete from audit_event"),
    ("vigil_operator", "update patient set family_name = ''"),
    ("vigil_operator", "delete from data_key"),
    ("vigil_operator", "select * from web_session"),
    ("vigil_dagster", "select * from patient"),
    ("vigil_dagster", "select payload from partition_log"),
    ("vigil_dagster", "select * from audit_event"),
    ("vigil_dagster", "select agent, patient_id from audit_event"),
    ("vigil_dagster", "select * from snapshot_body"),
    ("vigil_dagster", "insert into ledger_entry default values"),
    ("vigil_dagster", "insert into approval_signature default values"),
    ("vigil_dagster", "insert into risk_score default values"),
    ("vigil_dagster", "delete from serving"),
    *((role, statement) for role in roles.ROLES for statement in (
        "create table mine (n int)",
        "create temporary table mine (n int)",
        "create schema mine",
        "create role mine",
        "alter role vigil superuser",
        "set role vigil",
        "select * from pg_authid",
        "copy patient to program 'cat'",
        "create function mine() returns int language sql as 'select 1'",
        "alter table ledger_entry disable trigger all",
        "drop table patient",
        "select pg_read_file('/etc/passwd')",
    )),
]  # fmt: skip


def test_what_is_not_listed_is_refused(ready_url):
    for role in roles.ROLES:
        with as_role(ready_url, role) as connection:
            for whose, statement in FORBIDDEN:
                if whose == role:
                    with pytest.raises(psycopg.errors.InsufficientPrivilege):
                        connection.execute(statement)


def test_the_engine_cannot_move_the_normalizers_place_nor_the_other_way_round(ready_url):
    moved = "update position set position = 5 where reader = %s"
    with as_role(ready_url, "vigil_engine") as connection:
        assert connection.execute(moved, ("normalizer",)).rowcount == 0
        assert connection.execute(moved, ("partition-07",)).rowcount == 1
        assert connection.execute("select count(*) from position").fetchone() == (65,)
    with as_role(ready_url, "vigil_normalizer") as connection:
        assert connection.execute(moved, ("partition-08",)).rowcount == 0
        assert connection.execute(moved, ("normalizer",)).rowcount == 1


def test_a_role_appends_to_its_own_chain_only(ready_url):
    row = (
        "insert into ledger_entry (writer, seq, at, kind, position_from, position_to, previous_hash, hash) "
        "values (%s, 1, now(), 'note', 0, 0, '', '')"
    )
    with as_role(ready_url, "vigil_engine") as connection:
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute(row, ("normalizer",))
        connection.execute(row, ("engine-00",))


def test_not_even_the_owner_changes_the_ledger(ready_url):
    with psycopg.connect(ready_url, autocommit=True) as connection:
        for statement in (
            *("update ledger_entry set detail = ''", "delete from audit_event", "truncate ledger_entry"),
            *(f"delete from {table}" for table in ("model_version", "model_verdict", "approval_request", "serving")),
            *("update serving set action = 'resume'", "truncate approval_signature", "delete from risk_score"),
        ):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute(statement)


async def test_applying_again_changes_nothing_and_takes_back_what_was_granted_by_hand(owner):
    before = await permitted(owner)
    async with transaction(owner):
        await owner.execute("grant all on patient to vigil_engine, public")
        await owner.execute("grant select (body) on snapshot_body to vigil_dagster")
        await owner.execute("create table later (n int)")
        await owner.execute("alter default privileges in schema public grant select on tables to vigil_dagster")
    assert await permitted(owner) != before
    await roles.apply(owner)
    assert await permitted(owner) == before
    async with transaction(owner):
        await owner.execute("create table later_still (n int)")
    assert await permitted(owner) == before, "a new table is nobody's"


def test_only_the_roles_may_connect(ready_url):
    with psycopg.connect(ready_url, autocommit=True) as connection:
        name = connection.info.dbname
        connection.execute(f"drop role if exists stranger_{name}")
        connection.execute(f"create role stranger_{name} login password '{PASSWORD}'")
    try:
        with pytest.raises(psycopg.OperationalError, match="permission denied for database"):
            as_role(ready_url, f"stranger_{name}")
        for role in roles.ROLES:
            as_role(ready_url, role).close()
    finally:
        with psycopg.connect(ready_url, autocommit=True) as connection:
            connection.execute(f"drop role stranger_{name}")


async def test_who_does_not_own_the_tables_is_told_which_user_can(ready_url):
    parts = urlsplit(ready_url)
    url = urlunsplit(parts._replace(netloc=f"vigil_engine:{PASSWORD}@{parts.netloc.rpartition('@')[2]}"))
    connection = await connect(url, application_name="test")
    with pytest.raises(ConfigurationError, match="VIGIL_DATABASE_URL must name"):
        await roles.apply(connection)
    await connection.close()


async def test_inside_a_transaction_nothing_is_applied(owner):
    async with transaction(owner):
        await owner.execute("select 1")
        with pytest.raises(BrokenInvariantError):
            await roles.apply(owner)


async def test_a_refusal_is_named_and_quotes_no_value(ready_url):
    parts = urlsplit(ready_url)
    url = urlunsplit(parts._replace(netloc=f"vigil_engine:{PASSWORD}@{parts.netloc.rpartition('@')[2]}"))
    connection = await connect(url, application_name="test")
    with pytest.raises(RefusedError, match="permission denied for table patient") as told:
        async with transaction(connection):
            await connection.execute("update patient set family_name = %s", ("CANARY",))
    assert "CANARY" not in str(told.value)
    await connection.close()


async def test_a_password_reaches_the_server_only_as_a_verifier(owner):
    async with transaction(owner):
        await roles.set_passwords(owner, {"vigil_engine": "CANARY-password"})
        found = await (
            await owner.execute("select rolpassword from pg_authid where rolname = 'vigil_engine'")
        ).fetchone()
        await roles.set_passwords(owner, {"vigil_engine": PASSWORD})
    assert found[0].startswith("SCRAM-SHA-256$")


def test_a_grant_that_cannot_be_read_is_a_broken_table():
    with pytest.raises(BrokenInvariantError):
        roles.privileges({"patient": "selekt"})
    assert roles.privileges({"a": "select, update(b, c)", "d": "delete"}) == {
        "a": {"select", "update(b)", "update(c)"}, "d": {"delete"},
    }  # fmt: skip


async def test_a_database_handed_over_belongs_to_its_role_with_what_was_in_it(database_url):
    connection = await database.connect(database_url, application_name="test")
    async with transaction(connection):
        await roles.create(connection, await roles.missing_roles(connection))
        await roles.set_passwords(connection, {"vigil_dagster": PASSWORD})
        await connection.execute("create table runs (id int generated always as identity, n int)")
    await roles.hand_over(connection, "vigil_dagster")
    await roles.hand_over(connection, "vigil_dagster")
    await connection.close()
    with as_role(database_url, "vigil_dagster") as own:
        own.execute("alter table runs add column more text")
        own.execute("insert into runs (n) values (1)")
        own.execute("create table own (n int)")
