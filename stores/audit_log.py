"""The audit log: who did or saw what, when, in which role, by which rule; denials included. Append-only, hash-chained.

Here: writing one chain a writer, and the questions an auditor asks (about a patient, an agent, a time).
Not here: when an event is due and what happens if it cannot be written (governance.audit), FHIR (governance.audit),
recomputing the chains (stores.chain_verification).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import msgspec
from psycopg import sql

from stores.chain import Chain, ChainTable, Content, Head, Value
from stores.chain_heads import HeadFile
from stores.database import Connection, storable, to_microseconds, to_timestamp, translated
from vocabulary.errors import BrokenInvariantError
from vocabulary.signing import Signer

Outcome = Literal["permitted", "denied", "failed"]

LONGEST_NAME = 400
"""Characters kept of what a token or request names: an index holds at most 2,700 bytes."""


class AuditEntry(msgspec.Struct, frozen=True, kw_only=True):
    """One event: no patient data but our own number of the patient."""

    at_us: int
    action: str  # what happened, in a word: "read", "search", "sign_in", "export", "approve"
    outcome: Outcome
    surface: str  # governance.access.Surface
    verb: str  # governance.access.Verb
    agent: str  # issuer|subject of the person or system
    agent_name: str = ""
    role: str = ""  # the role it was decided for
    purpose: str = ""  # HL7 PurposeOfUse
    patient_id: int | None = None
    rule: str = ""  # row of the policy that decided
    policy: str = ""  # first 16 hexadecimal digits of the policy's digest
    session: str = ""
    view: str = ""  # the opened page whose later requests add no event
    break_glass_id: int | None = None
    detail: str = ""  # canonical JSON (ledger.detail_of); no patient data


class Event(NamedTuple):
    """One event as the log holds it."""

    writer: str
    seq: int
    entry: AuditEntry
    hash: bytes
    signature: bytes | None
    key_id: str | None


_FIELDS = AuditEntry.__struct_fields__[1:]
_NUMBERS = frozenset({"patient_id", "break_glass_id"})

AUDIT = ChainTable(
    "audit_event",
    b"vigil.audit.1\n",
    (
        ("writer", "text"),
        ("seq", "int8"),
        ("at", "timestamptz"),
        *((name, "int8" if name in _NUMBERS else "text") for name in _FIELDS),
    ),
)
"""How the log's rows are stored and hashed."""


def content_of(entry: AuditEntry) -> Content:
    """Return an event as a row's content, with texts PostgreSQL can hold.

    Raises:
        BrokenInvariantError: a text that should be a word of ours is empty.
    """
    if not (entry.action and entry.surface and entry.verb and entry.agent):
        raise BrokenInvariantError("an audit event names its action, surface, verb and agent; one of them is empty")
    rest: list[Value] = []
    for name in _FIELDS:
        value: Value = getattr(entry, name)
        if isinstance(value, str):
            value = storable(value, None if name == "detail" else LONGEST_NAME)
        rest.append(value)
    return Content(entry.at_us, tuple(rest))


class AuditWriter:
    """Appends events to one chain; its head moves only when the caller says that the transaction was committed."""

    def __init__(
        self, writer: str, signer: Signer | None = None, heads: HeadFile | None = None, *, is_shared: bool = False
    ) -> None:
        """Describe the writer; nothing is read until `open`.

        Args:
            writer: names the chain; one process at a time, unless it is shared.
            signer: signs the last row of each append; None leaves rows unsigned.
            heads: where the chain's end is kept outside of the database.
            is_shared: several processes (commands) append to this chain.
        """
        self.chain = Chain(AUDIT, writer, signer, heads, is_shared=is_shared)

    @property
    def writer(self) -> str:
        """Return the chain's name."""
        return self.chain.writer

    async def open(self, connection: Connection) -> Head:
        """Read where the chain ended, and go on from there."""
        return await self.chain.open(connection)

    async def append(self, connection: Connection, entries: Sequence[AuditEntry]) -> None:
        """Write events in the caller's transaction; then call `committed` or `rolled_back`.

        Raises:
            FencedOutError: another writer of this name wrote first; roll back and stop.
            BrokenInvariantError: the writer was not opened, or an event lacks a word.
            RefusedError: this database role may not append to this chain.
        """
        await self.chain.append(connection, [content_of(entry) for entry in entries])

    def committed(self) -> None:
        """Say that the transaction of the last appends was committed."""
        self.chain.committed()

    def rolled_back(self) -> None:
        """Say that the transaction of the last appends was undone."""
        self.chain.rolled_back()


def _event(row: Sequence[Any]) -> Event:
    entry = AuditEntry(at_us=to_microseconds(row[2]), **dict(zip(_FIELDS, row[3:-3], strict=True)))
    signature = None if row[-2] is None else bytes(row[-2])
    return Event(row[0], row[1], entry, bytes(row[-3]), signature, row[-1])


_SELECT = sql.SQL("select {} from audit_event").format(
    sql.SQL(", ").join(sql.Identifier(name) for name in (*AUDIT.names, "hash", "signature", "key_id"))
)


async def get(connection: Connection, writer: str, seq: int) -> Event | None:
    """Return one event, None where there is none."""
    with translated():
        cursor = await connection.execute(_SELECT + sql.SQL(" where writer = %s and seq = %s"), (writer, seq))
        row = await cursor.fetchone()
    return None if row is None else _event(row)


async def find(
    connection: Connection,
    *,
    patient_ids: Sequence[int] | None = None,
    agent: str | None = None,
    surface: str | None = None,
    outcome: Outcome | None = None,
    since_us: int | None = None,
    until_us: int | None = None,
    limit: int = 200,
) -> list[Event]:
    """Return the newest events first.

    Args:
        connection: inside a transaction.
        patient_ids: only what concerned these: all records of one person, however they were merged.
        agent: only what this person or system did.
        surface: only on this surface.
        outcome: only of this outcome.
        since_us: from this time on, microseconds since the epoch.
        until_us: before this time, microseconds since the epoch.
        limit: at most so many.
    """
    wanted: list[tuple[str, object]] = [
        ("patient_id = any(%s::int8[])", None if patient_ids is None else list(patient_ids)),
        ("agent = %s", agent),
        ("surface = %s", surface),
        ("outcome = %s", outcome),
        ("at >= %s", None if since_us is None else to_timestamp(since_us)),
        ("at < %s", None if until_us is None else to_timestamp(until_us)),
    ]
    asked = [(clause, value) for clause, value in wanted if value is not None]
    query = _SELECT
    if asked:
        query += sql.SQL(" where ") + sql.SQL(" and ").join(sql.SQL(clause) for clause, _ in asked)
    query += sql.SQL(" order by at desc, writer, seq desc limit %s")
    with translated():
        cursor = await connection.execute(query, [*(value for _, value in asked), limit])
        return [_event(row) for row in await cursor.fetchall()]


async def count(connection: Connection) -> int:
    """Return how many events the log holds."""
    with translated():
        cursor = await connection.execute("select count(*) from audit_event")
        row = await cursor.fetchone()
    assert row is not None
    return int(row[0])
