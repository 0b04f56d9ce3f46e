"""Who may do what in the database: a role a process, and a table of what each may touch. All else is refused.

Here: the table, applying it after the migrations, and reading back what the database really permits.
Not here: how a process proves that it is its role (orchestration.postgres_configuration: client certificates;
orchestration.database_roles: passwords), that nobody may change the ledger or append to another's chain (triggers,
migration 0004).
Source: PostgreSQL 18 manual 5.8 (privileges), 5.9 (row security).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Final, NamedTuple

import psycopg
from psycopg import sql
from psycopg.pq import TransactionStatus

from stores.database import Connection, transaction, translated
from vocabulary.errors import BrokenInvariantError, ConfigurationError, RefusedError

_LOCK = 0x726F_6C65_73  # "roles": two `up` at once apply one after the other
_GRANT = re.compile(r"(select|insert|update|delete)(?:\(([a-z_, ]+)\))?")

_READ_STAYS: Final = {
    "encounter": "select",
    "encounter_location": "select",
    "encounter_state": "select",
    "location": "select",
    "patient_merge": "select",
}
_READ_SIGNALS: Final = {"signal_block": "select", "observation_event": "select", "vitals_minute": "select"}
_READ_SNAPSHOTS: Final = {"snapshot_body": "select", "snapshot_rules": "select", "snapshot_run": "select"}
_READ_PLACES: Final = {"position": "select", "raw_incarnation": "select"}

_READ_CARE: Final = {"care_relationship": "select", "encounter_vip": "select"}
# Whoever protects something may make a key for it; only the operator destroys, rotates or replaces keys.
_USE_KEYS: Final = {"data_key": "select, insert", "master_key": "select, insert"}
_APPEND: Final = "select, insert"
# What decides which model may speak. Whoever reads it believes signatures, never the row (governance.serving).
_READ_MODELS: Final = {
    "approval_request": "select",
    "approval_signature": "select",
    "incident": "select",
    "model_verdict": "select",
    "model_version": "select",
    "serving": "select",
}
_CLOSE_INCIDENT: Final = "select, update(closed_at_us, closed_by, closing_note)"

GRANTS: Final[Mapping[str, Mapping[str, str]]] = {
    # Writes who is who, what was held back, and what the engine is to fold. Never a signal, never a snapshot.
    "vigil_normalizer": {
        **_USE_KEYS,
        "care_relationship": "select, insert, update",
        "device_association": "select, insert, update",
        "encounter": "select, insert, update",
        "encounter_location": "select, insert, update",
        "encounter_state": "select, insert, update",
        "encounter_vip": "select, insert, update",
        "feed_status": "select, insert, update",
        "ledger_entry": _APPEND,
        "location": "select, insert",
        "outcome": "select, insert, update",
        "partition_log": "select, insert",
        "patient": "select, insert, update",
        "patient_identifier": "select, insert, update",
        "patient_merge": "select, insert, update",
        "position": "select, update(epoch, position, log_time_us, owner, taken_at)",
        "quarantine_item": "select, insert, update",
        "raw_incarnation": "select, insert",
        "raw_subject": "select, insert, update",
        "source_message": "select, insert",
    },
    # Writes signals and snapshots. Knows patients by number, never by name or by a hospital's number.
    "vigil_engine": {
        **_USE_KEYS,
        **_READ_STAYS,
        # Of the audit it appends which models it refused to load, and reads its chain's hashes: nobody's doings.
        "audit_event": "select(writer, seq, hash, signature, key_id), insert",
        "ledger_entry": _APPEND,
        "model_version": "select",
        "observation_event": "select, insert",
        "outbox": "select, insert, delete",
        "partition_log": "select",
        "patient": "select(patient_id, partition, merged_into, created_position, updated_position)",
        "position": "select, update(epoch, position, log_time_us, owner, taken_at)",
        "risk_score": "select, insert",
        "serving": "select",
        "signal_block": "select, insert",
        "snapshot_body": "select, insert",
        "snapshot_rules": "select, insert",
        "snapshot_run": "select, insert",
        "vitals_minute": "select, insert, update",
    },
    # Merges blocks, trims what was folded, forgets old message identities, seals RAW; the notary who signs for the
    # chains' finished days reads all of them. Watches models in service by numbers, ages and sexes, never by name, and
    # takes voice away.
    "vigil_keeper": {
        **_USE_KEYS,
        "audit_event": _APPEND,
        "encounter": "select(encounter_id, patient_id, status, started_at_us, ended_at_us)",
        "incident": _APPEND,
        "ledger_entry": _APPEND,
        "model_verdict": _APPEND,
        "model_version": "select",
        # Numbers, never the texts.
        "observation_event": "select(patient_id, concept, effective_at, source_key, revision, raw_index, value_index, "
        "released_position, value, status, received_at, known_from)",
        "outcome": "select",
        "partition_log": "select, delete",
        "patient": "select(patient_id, merged_into, birth_date, sex)",
        "position": "select",
        "raw_incarnation": "select, insert",
        "raw_subject": "select, delete",
        "risk_score": "select",
        "serving": _APPEND,
        "signal_block": "select, insert, delete",
        "source_message": "select, delete",
        "vitals_minute": "select",
    },
    # Reads for pages and doors; keeps what was shown, who is signed in, broken glasses and their reviews.
    "vigil_clinic": {
        **_USE_KEYS,
        **_READ_STAYS,
        **_READ_CARE,
        **_READ_SIGNALS,
        **_READ_MODELS,
        "approval_signature": _APPEND,
        "audit_event": _APPEND,
        "break_glass": _APPEND,
        "break_glass_review": _APPEND,
        "consent": "select",
        "feed_status": "select",
        "incident": _CLOSE_INCIDENT,
        "notification": "select, insert, update",
        "outcome": "select",
        "passkey_challenge": "select, insert, delete",
        "passkey_registration": "select, insert",
        "patient": "select",
        "patient_identifier": "select",
        "quarantine_item": "select",
        "risk_score": "select",
        "serving": _APPEND,
        "snapshot_body": "select, insert",
        "snapshot_run": "select",
        "vip_flag": "select",
        "web_session": "select, insert, update, delete",
    },
    # The commands of a person at this machine: everything may be looked at; of the record nothing is changed. What a
    # patient permits is added to, keys are rotated and destroyed.
    "vigil_operator": {
        **_READ_STAYS,
        **_READ_CARE,
        **_READ_SIGNALS,
        **_READ_SNAPSHOTS,
        **_READ_PLACES,
        "approval_request": _APPEND,
        "approval_signature": _APPEND,
        "audit_event": _APPEND,
        "break_glass": "select",
        "break_glass_review": _APPEND,
        "consent": _APPEND,
        "data_key": "select, insert, update",
        "device_association": "select",
        "feed_status": "select",
        "incident": "select, insert, update(closed_at_us, closed_by, closing_note)",
        "ledger_entry": "select",
        "master_key": "select, insert, update",
        "model_verdict": _APPEND,
        "model_version": _APPEND,
        "notification": "select",
        "outcome": "select",
        "partition_log": "select",
        "passkey_registration": "select",
        "patient": "select",
        "patient_identifier": "select",
        "quarantine_item": "select",
        "raw_subject": "select",
        "risk_score": "select",
        "schema_migration": "select",
        "serving": _APPEND,
        "vip_flag": _APPEND,
    },
    # What Dagster's assets and checks ask: counts and times, and the values of closed days for the lake, by patients'
    # numbers with sex and birth date, never a name. Registers candidates with their verdicts, asks for approvals, and
    # promotes what people signed.
    "vigil_dagster": {
        **_READ_MODELS,
        "approval_request": _APPEND,
        # As the engine: it appends to its own chain and reads the chain's hashes, nobody's doings.
        "audit_event": "select(writer, seq, hash, signature, key_id), insert",
        "encounter": "select(encounter_id, patient_id, status, started_at_us, ended_at_us)",
        "feed_status": "select",
        "incident": _APPEND,
        "ledger_entry": "select",
        "model_verdict": _APPEND,
        "model_version": _APPEND,
        "observation_event": "select",
        "outcome": "select",
        "partition_log": "select(partition, position, messages, values)",
        "patient": "select(patient_id, merged_into, birth_date, sex)",
        "patient_merge": "select",
        "position": "select",
        "risk_score": "select",
        "serving": _APPEND,
        "signal_block": "select",
        "snapshot_run": "select",
    },
}
"""Role → table → what it may do; names in brackets are the only columns."""

ROLES: Final = tuple(GRANTS)


class RowRule(NamedTuple):
    """Which rows of a table a role may touch, beyond the privileges it has on the whole table."""

    table: str
    role: str
    command: str  # select, insert, update, delete
    condition: str  # over the row


ROW_RULES: Final = (
    *(RowRule("position", role, "select", "true") for role in ROLES if "position" in GRANTS[role]),
    # An engine that was taken over cannot move the normalizer's place in the log, nor the other way round.
    RowRule("position", "vigil_normalizer", "update", "reader = 'normalizer'"),
    RowRule("position", "vigil_engine", "update", "reader like 'partition-%'"),
)


def privileges(grants: Mapping[str, str]) -> dict[str, set[str]]:
    """Return table → what may be done, a column's privilege as `select(column)`."""
    found: dict[str, set[str]] = {}
    for table, text in grants.items():
        kinds: set[str] = set()
        for kind, columns in _parts(text):
            kinds |= {f"{kind}({column})" for column in columns} if columns else {kind}
        found[table] = kinds
    return found


def _parts(text: str) -> list[tuple[str, list[str]]]:
    parts = []
    rest = text
    while rest:
        match = _GRANT.match(rest)
        if match is None:
            raise BrokenInvariantError(f"expected select, insert, update or delete with columns, found {text!r}")
        parts.append((match[1], [column.strip() for column in match[2].split(",")] if match[2] else []))
        rest = rest[match.end() :].lstrip(", ")
    return parts


async def missing_roles(connection: Connection) -> list[str]:
    """Return which roles the server does not have, inside the caller's transaction."""
    with translated():
        cursor = await connection.execute("select rolname from pg_roles where rolname = any(%s)", (list(ROLES),))
        known = {row[0] for row in await cursor.fetchall()}
    return [role for role in ROLES if role not in known]


async def create(connection: Connection, roles: Iterable[str]) -> None:
    """Make roles that may sign in and nothing else, inside the caller's transaction.

    Raises:
        ConfigurationError: the user may not make roles.
    """
    try:
        for role in roles:
            await connection.execute(sql.SQL("create role {} login").format(sql.Identifier(role)))
    except psycopg.errors.DuplicateObject:
        raise ConfigurationError("Another Vigil makes the database's roles just now. Start again.") from None
    except psycopg.errors.InsufficientPrivilege:
        raise ConfigurationError("The database's user may not make roles (it lacks CREATEROLE).") from None


async def set_passwords(connection: Connection, passwords: Mapping[str, str]) -> None:
    """Give roles passwords, inside the caller's transaction; only their SCRAM verifiers reach the server.

    Raises:
        ConfigurationError: the user may not.
    """
    try:
        for role, password in passwords.items():
            verifier = connection.pgconn.encrypt_password(password.encode(), role.encode(), b"scram-sha-256")
            await connection.execute(
                sql.SQL("alter role {} password {}").format(sql.Identifier(role), sql.Literal(verifier.decode()))
            )
    except psycopg.errors.InsufficientPrivilege:
        raise ConfigurationError("The database's user may not give roles passwords (it lacks CREATEROLE).") from None


async def apply(connection: Connection) -> None:
    """Make the database permit exactly what the table says; to be run by the owner of the schema after migrating.

    One transaction: nobody is ever without what they need, and a failure changes nothing. Tables of later migrations
    start with nothing permitted to anybody.

    Raises:
        ConfigurationError: a role is missing, or the user does not own the tables.
        BrokenInvariantError: a role's table does not exist.
    """
    if connection.info.transaction_status is not TransactionStatus.IDLE:
        raise BrokenInvariantError("Privileges are applied in a transaction of their own: end the one that is open.")
    try:
        async with transaction(connection):
            await connection.execute("select pg_advisory_xact_lock(%s)", (_LOCK,))
            await _apply(connection)
    except RefusedError as error:
        raise ConfigurationError(
            f"{error} VIGIL_DATABASE_URL must name the user who owns Vigil's tables and its database."
        ) from None
    except psycopg.errors.UndefinedObject as error:
        raise ConfigurationError(f"The database lacks a role ({error.diag.message_primary}).") from None


async def _apply(connection: Connection) -> None:
    tables = await _tables(connection)
    absent = {table for grants in GRANTS.values() for table in grants} - tables
    if absent:
        raise BrokenInvariantError(f"privileges are listed for tables that do not exist: {', '.join(sorted(absent))}")
    everybody = [sql.SQL("public"), *map(sql.Identifier, ROLES)]
    whom = sql.SQL(", ").join(everybody)
    cursor = await connection.execute("select current_database()")
    row = await cursor.fetchone()
    assert row is not None
    database = sql.Identifier(row[0])
    statements = [
        sql.SQL("revoke all on all tables in schema public from {}").format(whom),
        # What was granted on single columns survives a revocation on the table when the grantor differs: be explicit.
        sql.SQL("revoke all on all sequences in schema public from {}").format(whom),
        sql.SQL("revoke all on all functions in schema public from {}").format(whom),
        sql.SQL("alter default privileges in schema public revoke all on tables from {}").format(whom),
        sql.SQL("alter default privileges in schema public revoke all on sequences from {}").format(whom),
        sql.SQL("alter default privileges revoke all on functions from {}").format(whom),
        sql.SQL("revoke all on schema public from {}").format(whom),
        sql.SQL("revoke all on database {} from {}").format(database, whom),
        sql.SQL("grant usage on schema public to {}").format(sql.SQL(", ").join(everybody[1:])),
        sql.SQL("grant connect on database {} to {}").format(database, sql.SQL(", ").join(everybody[1:])),
    ]
    for role, grants in GRANTS.items():
        for table, text in grants.items():
            for kind, columns in _parts(text):
                listed = sql.SQL(", ").join(map(sql.Identifier, columns))
                what = sql.SQL(kind) + (sql.SQL(" ({})").format(listed) if columns else sql.SQL(""))
                statements.append(
                    sql.SQL("grant {} on {} to {}").format(what, sql.Identifier(table), sql.Identifier(role))
                )
    for statement in statements:
        await connection.execute(statement)
    await _apply_row_rules(connection)


async def _tables(connection: Connection) -> set[str]:
    cursor = await connection.execute(
        "select relname from pg_class where relnamespace = 'public'::regnamespace and relkind in ('r', 'p', 'v', 'm')"
    )
    return {row[0] for row in await cursor.fetchall()}


async def _apply_row_rules(connection: Connection) -> None:
    cursor = await connection.execute(
        "select policyname, tablename from pg_policies where schemaname = 'public' and policyname like 'vigil_%'"
    )
    for name, table in await cursor.fetchall():
        await connection.execute(sql.SQL("drop policy {} on {}").format(sql.Identifier(name), sql.Identifier(table)))
    for table in sorted({rule.table for rule in ROW_RULES}):
        # The owner stays above its own tables' rules: migrations work as it.
        await connection.execute(sql.SQL("alter table {} enable row level security").format(sql.Identifier(table)))
    for rule in ROW_RULES:
        condition = sql.SQL(rule.condition)
        clause = sql.SQL("with check ({})" if rule.command == "insert" else "using ({})").format(condition)
        await connection.execute(
            sql.SQL("create policy {} on {} for {} to {} {}").format(
                sql.Identifier(f"{rule.role}_{rule.command}"),
                sql.Identifier(rule.table),
                sql.SQL(rule.command),
                sql.Identifier(rule.role),
                clause,
            )
        )


async def hand_over(connection: Connection, role: str) -> None:
    """Give a role a database of its own to make tables in; tables that we made there become its own.

    Raises:
        ConfigurationError: the user may not.
    """
    name = sql.Identifier(role)
    try:
        async with transaction(connection):
            cursor = await connection.execute("select current_database()")
            row = await cursor.fetchone()
            assert row is not None
            database = sql.Identifier(row[0])
            for statement in (
                sql.SQL("revoke all on database {} from public").format(database),
                sql.SQL("grant connect, temporary on database {} to {}").format(database, name),
                sql.SQL("grant usage, create on schema public to {}").format(name),
            ):
                await connection.execute(statement)
            # Sequences of columns follow their tables.
            cursor = await connection.execute(
                "select relname from pg_class where relnamespace = 'public'::regnamespace and relkind in ('r', 'p') "
                "and relowner = (select oid from pg_roles where rolname = current_user)"
            )
            for (table,) in await cursor.fetchall():
                await connection.execute(sql.SQL("alter table {} owner to {}").format(sql.Identifier(table), name))
    except RefusedError as error:
        raise ConfigurationError(f"{error} VIGIL_DATABASE_URL must name a user who may hand a database over.") from None


async def permitted(connection: Connection) -> dict[str, dict[str, set[str]]]:
    """Return what the database permits on its tables: grantee → table → privileges, as `privileges` writes them.

    `public` stands for everybody. The owner, who may do everything, is left out.
    """
    with translated():
        cursor = await connection.execute("""
            select coalesce(g.rolname, 'public'), c.relname, lower(a.privilege_type), null::name
            from pg_class c cross join lateral aclexplode(c.relacl) a left join pg_roles g on g.oid = a.grantee
            where c.relnamespace = 'public'::regnamespace and a.grantee <> c.relowner
            union all
            select coalesce(g.rolname, 'public'), c.relname, lower(a.privilege_type), t.attname
            from pg_class c join pg_attribute t on t.attrelid = c.oid
            cross join lateral aclexplode(t.attacl) a left join pg_roles g on g.oid = a.grantee
            where c.relnamespace = 'public'::regnamespace and a.grantee <> c.relowner""")
        found: dict[str, dict[str, set[str]]] = {}
        for grantee, table, kind, column in await cursor.fetchall():
            found.setdefault(grantee, {}).setdefault(table, set()).add(f"{kind}({column})" if column else kind)
    return found
