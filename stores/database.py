"""PostgreSQL: connections, transactions, numbered migrations, and errors other rooms can handle.

Here: opening a connection, the one way to hold a transaction, bringing the schema up to date, psycopg's errors made
into vocabulary's (so that no other room imports psycopg), and values PostgreSQL can hold.
Not here: any table's own SQL (its module beside this one), retries (the caller's), the server itself
(orchestration.embedded).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from datetime import UTC, datetime, timedelta
from importlib.resources import files
from importlib.resources.abc import Traversable
from typing import Any, NamedTuple

import psycopg
import psycopg.sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.pq import TransactionStatus

from vocabulary.errors import (
    BrokenInvariantError,
    ConfigurationError,
    FencedOutError,
    RefusedError,
    UnavailableError,
)

Connection = psycopg.AsyncConnection[tuple[Any, ...]]
"""An open connection, for the signatures of rooms that may not import psycopg."""

OLDEST_SERVER = 150_000
"""PostgreSQL 15, as libpq numbers versions."""

CONNECT_TIMEOUT_S = 10
"""A server that does not answer in this time is unavailable; libpq would wait for ever."""

_MIGRATION_LOCK = 0x7669_6769_6C  # "vigil": two `up` at once migrate one after the other
_MIGRATION_NAME = re.compile(r"(\d{4})_[a-z0-9_]+\.sql")
_FENCES = frozenset({"ledger_entry_pkey"})
"""Constraints that only a second writer of the same name can violate."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def to_timestamp(at_us: int) -> datetime:
    """Return microseconds since the epoch as an aware datetime, exactly."""
    return _EPOCH + timedelta(microseconds=at_us)


def to_microseconds(at: datetime) -> int:
    """Return an aware datetime as microseconds since the epoch, exactly."""
    return (at - _EPOCH) // timedelta(microseconds=1)


def storable(text: str, limit: int | None = None) -> str:
    """Return `text` as PostgreSQL can hold it: NUL as U+2400, lone surrogates as U+FFFD, at most `limit` characters.

    Texts that senders wrote may hold either, and one such text must not undo a whole batch.
    """
    if limit is not None and len(text) > limit:
        text = text[: limit - 1] + "…"
    if "\x00" in text:
        text = text.replace("\x00", "\u2400")
    try:
        text.encode()
    except UnicodeEncodeError:
        text = "".join("\ufffd" if "\ud800" <= character <= "\udfff" else character for character in text)
    return text


@contextmanager
def translated() -> Iterator[None]:
    """Turn psycopg's errors into vocabulary's, without the values PostgreSQL quotes in its details.

    Raises:
        UnavailableError: the server or connection is gone, or a lock, deadlock or full disk stood in the way.
        FencedOutError: another writer of the same name has written.
        BrokenInvariantError: a constraint forbids the row, or a value cannot be stored.
        ConfigurationError: the schema is not there.
        RefusedError: the role may not do this (stores.roles).
    """
    try:
        yield
    except psycopg.errors.ProgramLimitExceeded as error:
        # psycopg calls it operational, and yet trying again never helps: a value is too large for an index.
        raise BrokenInvariantError(f"PostgreSQL cannot hold a value ({type(error).__name__}).") from None
    except (psycopg.OperationalError, psycopg.InterfaceError) as error:
        raise UnavailableError(f"PostgreSQL is not available: {_reason(error)}") from None
    except psycopg.IntegrityError as error:
        where = f"{error.diag.constraint_name or error.diag.column_name or 'a constraint'} of {error.diag.table_name}"
        if error.diag.constraint_name in _FENCES:
            raise FencedOutError(f"Another writer of the same name has written ({where}). Stop this one.") from None
        raise BrokenInvariantError(f"PostgreSQL refused a row: {where} ({type(error).__name__}).") from None
    except psycopg.DataError as error:
        raise BrokenInvariantError(f"PostgreSQL cannot store a value ({type(error).__name__}).") from None
    except psycopg.errors.InsufficientPrivilege as error:
        # PostgreSQL names the table, never a value; trying again would not help.
        raise RefusedError(f"The database refuses this process: {error.diag.message_primary}.") from None
    except psycopg.errors.UndefinedTable:
        raise ConfigurationError("The database has no Vigil schema. Run `vigil up`, which migrates it.") from None


def _reason(error: psycopg.Error) -> str:
    said = error.diag.message_primary or str(error).strip().replace("\n", " ")
    return f"{said} ({type(error).__name__})"


@asynccontextmanager
async def transaction(connection: Connection) -> AsyncIterator[Connection]:
    """Hold one transaction: committed when the block ends, rolled back when it raises.

    An UnavailableError that the commit itself raises leaves open whether it happened: read the position again.

    Raises:
        BrokenInvariantError: the connection is already inside a transaction, so its end would commit nothing.
        UnavailableError, FencedOutError, ConfigurationError: see `translated`.
    """
    with translated():
        if connection.info.transaction_status is TransactionStatus.UNKNOWN:
            raise UnavailableError("PostgreSQL is not available: the connection is closed")
        if connection.info.transaction_status is not TransactionStatus.IDLE:
            raise BrokenInvariantError("A transaction is already open on this connection: end it before the next.")
        try:
            yield connection
            await connection.commit()
        except BaseException:
            with suppress(psycopg.Error):
                await connection.rollback()
            raise


@asynccontextmanager
async def consistent_read(connection: Connection) -> AsyncIterator[Connection]:
    """Hold one read-only transaction in which every query sees the same moment.

    Raises:
        As `transaction`.
    """
    async with transaction(connection):
        await connection.execute("set transaction isolation level repeatable read read only")
        yield connection


async def connect(url: str, *, application_name: str) -> Connection:
    """Open a connection in UTC, without autocommit; who calls decides about retries.

    Args:
        url: postgresql://… of the database.
        application_name: who is speaking, for pg_stat_activity.

    Raises:
        UnavailableError: the server does not let us in; the message never carries the password.
        ConfigurationError: `url` cannot be read, the server is older than PostgreSQL 15, or the database is not UTF8.
    """
    try:
        parameters = {name: str(value) for name, value in conninfo_to_dict(url).items() if value is not None}
    except psycopg.ProgrammingError:
        # libpq quotes the whole text, password and all: say only what is expected.
        raise ConfigurationError(
            "The database address cannot be read: expected postgresql://user:password@host:port/database. "
            "Set VIGIL_DATABASE_URL."
        ) from None
    parameters.setdefault("connect_timeout", str(CONNECT_TIMEOUT_S))
    parameters["application_name"] = application_name
    parameters["options"] = f"{parameters.get('options', '')} -c timezone=UTC".strip()
    address = f"{parameters.get('host', 'the default host')}:{parameters.get('port', 5432)}"
    try:
        connection = await psycopg.AsyncConnection.connect(make_conninfo(**parameters))
    except psycopg.OperationalError as error:
        said = _reason(error)
        if password := parameters.get("password"):
            said = said.replace(password, "…")
        raise UnavailableError(f"PostgreSQL at {address} is not available: {said}") from None
    if connection.info.server_version < OLDEST_SERVER:
        found = connection.info.server_version // 10_000
        await connection.close()
        raise ConfigurationError(
            f"PostgreSQL at {address} is version {found}; Vigil needs 15 or newer. "
            "Upgrade it, or set VIGIL_DATABASE_URL to another server."
        )
    if (encoding := connection.info.parameter_status("server_encoding")) != "UTF8":
        name = connection.info.dbname
        await connection.close()
        # Others cannot hold every name, and SQL_ASCII gives text back as bytes.
        raise ConfigurationError(
            f"The database {name!r} at {address} has the encoding {encoding}; Vigil needs UTF8. Make another: create "
            "database … encoding 'UTF8' template template0."
        )
    return connection


class _Migration(NamedTuple):
    version: int
    name: str
    body: bytes
    digest: str


def _migrations(folder: Traversable) -> list[_Migration]:
    found = []
    for file in folder.iterdir():
        match = _MIGRATION_NAME.fullmatch(file.name)
        if match:
            body = file.read_bytes().replace(b"\r\n", b"\n")  # a checkout on Windows is the same migration
            found.append(_Migration(int(match[1]), file.name, body, hashlib.sha256(body).hexdigest()))
    found.sort()
    if [migration.version for migration in found] != list(range(1, len(found) + 1)) or not found:
        raise BrokenInvariantError("Migrations must be numbered 0001, 0002, … without gaps or repetitions.")
    return found


def _check_applied(known: Sequence[_Migration], applied: Sequence[tuple[int, str, str]]) -> None:
    by_version = {migration.version: migration for migration in known}
    for position, (version, name, digest) in enumerate(applied, start=1):
        migration = by_version.get(version)
        if migration is None:
            raise ConfigurationError(
                f"The database is newer than this program: it holds migration {name}, the newest here is "
                f"{known[-1].name}. Install the newer Vigil, or use another database."
            )
        if version != position:
            raise ConfigurationError(
                f"The database's migrations have a gap before {name}: expected number {position:04d}. "
                "Restore the database from a backup, or use another one."
            )
        if (name, digest) != (migration.name, migration.digest):
            raise ConfigurationError(
                f"Migration {migration.name} was edited after the database applied it as {name} "
                f"(sha256 {digest[:12]}, here {migration.digest[:12]}). Put the original back and add a new one."
            )


async def migrate(url: str, folder: Traversable | None = None) -> list[str]:
    """Bring the schema up to date, one transaction a migration, and return the names applied now.

    Safe to run from several processes at once: they wait for each other.

    Args:
        url: postgresql://… of the database.
        folder: where the numbered .sql files are; None for Vigil's own.

    Raises:
        ConfigurationError: the database is newer than this program, an applied migration was edited, the server is
            older than PostgreSQL 15, or a migration fails (it then leaves nothing behind).
        UnavailableError: the server does not answer, or another migration holds the lock for over a minute.
    """
    known = _migrations(folder if folder is not None else files("stores") / "migrations")
    connection = await connect(url, application_name="vigil migrate")
    try:
        with translated():
            return await _migrate(connection, known)
    finally:
        await connection.close()


async def _migrate(connection: Connection, known: Sequence[_Migration]) -> list[str]:
    await connection.set_autocommit(True)
    await connection.execute("set lock_timeout = '60s'")
    await connection.execute("select pg_advisory_lock(%s)", (_MIGRATION_LOCK,))
    try:
        return await _apply_missing(connection, known)
    except (psycopg.ProgrammingError, psycopg.IntegrityError, psycopg.DataError, psycopg.NotSupportedError) as error:
        raise ConfigurationError(
            f"The database cannot be migrated: {_reason(error)}. Nothing of the failing migration was kept. "
            "Check that its user owns the schema and that it holds no tables of others."
        ) from error
    finally:
        with suppress(psycopg.Error):
            await connection.execute("select pg_advisory_unlock(%s)", (_MIGRATION_LOCK,))


async def _apply_missing(connection: Connection, known: Sequence[_Migration]) -> list[str]:
    await connection.execute(
        "create table if not exists schema_migration (version int primary key, name text not null, "
        "sha256 text not null, applied_at timestamptz not null default now())"
    )
    rows = await connection.execute("select version, name, sha256 from schema_migration order by version")
    applied = [(row[0], row[1], row[2]) for row in await rows.fetchall()]
    _check_applied(known, applied)
    missing = known[len(applied) :]
    for migration in missing:
        async with connection.transaction():
            await connection.execute(migration.body)
            await connection.execute(
                "insert into schema_migration (version, name, sha256) values (%s, %s, %s)",
                (migration.version, migration.name, migration.digest),
            )
    return [migration.name for migration in missing]


async def create_database(url: str, name: str) -> bool:
    """Make another database on the same server, and return whether it was not there yet.

    Raises:
        ConfigurationError: the user may not make databases.
        UnavailableError: the server does not answer.
    """
    connection = await connect(url, application_name="vigil create database")
    try:
        await connection.set_autocommit(True)
        with translated():
            cursor = await connection.execute("select from pg_database where datname = %s", (name,))
            if await cursor.fetchone() is not None:
                return False
            await connection.execute(psycopg.sql.SQL("create database {}").format(psycopg.sql.Identifier(name)))
    except psycopg.errors.DuplicateDatabase:  # another process was quicker
        return False
    except psycopg.errors.InsufficientPrivilege as error:
        raise ConfigurationError(
            f"The database user may not create the database {name!r}. Create it, owned by that user."
        ) from error
    finally:
        await connection.close()
    return True
