"""Recomputing whole tables of chains, and whether the ledger's items agree with its counts.

Here: the rows of the database, judging every chain of a table against what is known outside of it, `reconcile`.
Not here: one chain (stores.chain_verification), an exported folder's rows (governance.audit_export), what is known
outside of the database (governance.notary).
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from typing import Literal, NamedTuple, Protocol

from psycopg import sql

from stores.chain import ChainTable, Head
from stores.chain_verification import ChainVerifier, Fault, Row, WriterKeys
from stores.database import Connection, to_timestamp, translated
from stores.ledger import LEDGER, OUTCOMES, balance

_FETCH = 2_000

_GUARDS = (
    ("audit_event", "audit_event_is_append_only"),
    ("audit_event", "audit_event_writer_is_role"),
    ("ledger_entry", "ledger_entry_is_append_only"),
    ("ledger_entry", "ledger_entry_writer_is_role"),
)
"""Triggers of migration 0004."""


class RowSource(Protocol):
    """Where a table's rows come from: in the order of writers (as Python sorts them) and numbers, as often as asked."""

    def rows(self, table: ChainTable) -> AsyncIterator[Sequence[Row]]:
        """Yield all rows of a table, some at a time."""
        ...


class Evidence(NamedTuple):
    """What is known about one table outside of the database."""

    anchors: Mapping[str, Mapping[int, bytes]]  # writer → row number → link
    vouched: Mapping[str, int] = {}  # writer → row up to which a signed daily root vouches for the signatures
    legacy: Mapping[str, int] = {}  # writer → row up to which rows older than its keys may be unsigned
    keys: Callable[[str], WriterKeys] | None = None  # None: nobody knows any key


class Judgement(NamedTuple):
    """What was found in one table."""

    table: str
    faults: list[Fault]
    rows: int
    signatures: int  # checked; the others stand behind a signed root
    ends: dict[str, Head]

    @property
    def is_whole(self) -> bool:
        """Return whether everything is as it was written."""
        return not self.faults


class DatabaseRows:
    """The rows of the database. Use it inside one `database.consistent_read`."""

    def __init__(self, connection: Connection) -> None:
        """Read over an open connection."""
        self._connection = connection

    async def writers(self, table: ChainTable) -> list[str]:
        """Return the names of a table's chains, sorted as Python sorts (a database may sort by its own language)."""
        # Jumps from writer to writer: reading every row to find six names would take as long as verifying.
        query = sql.SQL(
            "with recursive found(writer) as ((select writer from {0} order by writer limit 1) union all "
            "select (select t.writer from {0} t where t.writer > found.writer order by t.writer limit 1) "
            "from found where found.writer is not null) select writer from found where writer is not null"
        ).format(sql.Identifier(table.name))
        with translated():
            cursor = await self._connection.execute(query)
            return sorted(row[0] for row in await cursor.fetchall())

    async def rows(self, table: ChainTable) -> AsyncIterator[Sequence[Row]]:
        """Yield all rows of a table, chain by chain."""
        for writer in await self.writers(table):
            async for batch in self.chain(table, writer):
                yield batch

    async def chain(
        self, table: ChainTable, writer: str, first: int | None = None, last: int | None = None
    ) -> AsyncIterator[Sequence[Row]]:
        """Yield the rows of one chain, of these numbers where they are given."""
        columns = sql.SQL(", ").join(_column(name) for name in table.names)
        query = sql.SQL(
            "select {}, coalesce(previous_hash, ''), coalesce(hash, ''), signature, key_id from {} where writer = %s"
        ).format(columns, sql.Identifier(table.name))
        parameters: list[object] = [writer]
        for bound, clause in ((first, " and seq >= %s"), (last, " and seq <= %s")):
            if bound is not None:
                query += sql.SQL(clause)
                parameters.append(bound)
        with translated():
            async with self._connection.cursor("chain_rows", binary=True) as cursor:
                await cursor.execute(query + sql.SQL(" order by seq"), parameters)
                while records := await cursor.fetchmany(_FETCH):
                    yield [Row(record[1], record[:-4], *record[-4:]) for record in records]


def _column(name: str) -> sql.Composable:
    if name != "at":
        return sql.Identifier(name)
    # A time that is not finite has no microseconds: somebody edited it, and that must not end the verification.
    return sql.SQL(
        "case when isfinite(at) then (extract(epoch from at) * 1000000)::bigint else -9223372036854775808 end"
    )


async def judge(
    source: RowSource,
    table: ChainTable,
    evidence: Evidence,
    *,
    every_signature: bool = False,
    on_rows: Callable[[Sequence[Row]], None] | None = None,
) -> Judgement:
    """Recompute every chain of a table and return what is wrong with it, by writer and row.

    Streams the rows: memory grows only with the number of faults. Signatures that a daily root vouches for are checked
    again only where something is wrong: then they tell where.

    Args:
        source: where the rows come from.
        table: which table.
        evidence: what is known outside of the database.
        every_signature: check all signatures at once.
        on_rows: is shown all rows too, once (for the daily roots).
    """
    is_quick = not every_signature and evidence.keys is not None and bool(evidence.vouched)
    found = await _pass(source, table, evidence, is_quick=is_quick, on_rows=on_rows)
    if found.faults and is_quick:
        found = await _pass(source, table, evidence, is_quick=False, on_rows=None)
    return found


async def _pass(
    source: RowSource,
    table: ChainTable,
    evidence: Evidence,
    *,
    is_quick: bool,
    on_rows: Callable[[Sequence[Row]], None] | None,
) -> Judgement:
    anchors = dict(evidence.anchors)
    faults: list[Fault] = []
    ends: dict[str, Head] = {}
    chain: ChainVerifier | None = None
    rows = signatures = 0

    def begin(writer: str) -> ChainVerifier:
        return ChainVerifier(
            table,
            writer,
            anchors.pop(writer, {}),
            None if evidence.keys is None else evidence.keys(writer),
            evidence.vouched.get(writer, 0) if is_quick else 0,
            legacy_until=evidence.legacy.get(writer, 0),
        )

    async for batch in source.rows(table):
        if on_rows is not None:
            on_rows(batch)
        rows += len(batch)
        for row in batch:
            if chain is None or chain.writer != row.content[0]:
                if chain is not None:
                    faults += chain.close()
                    signatures += chain.signatures
                chain = begin(str(row.content[0]))
            chain.take(row)
        if batch:
            end = batch[-1]
            writer = str(end.content[0])
            ends[writer] = Head(writer, end.seq, end.hash, end.signature, end.key_id)
    if chain is not None:
        faults += chain.close()
        signatures += chain.signatures
    for writer in sorted(anchors):  # chains that an anchor knows and the table does not
        faults += begin(writer).close()
    return Judgement(table.name, faults, rows, signatures, ends)


async def verify(connection: Connection, anchors: Iterable[Head] = (), table: ChainTable = LEDGER) -> list[Fault]:
    """Recompute a table's chains without keys, and return what is wrong; empty when all is as it was written.

    Args:
        connection: inside or outside a transaction.
        anchors: ends of chains kept elsewhere (`ledger.heads`); with them a cut or rewritten end shows too.
        table: which table.
    """
    known: dict[str, dict[int, bytes]] = {}
    for anchor in anchors:
        if anchor.seq > 0:
            known.setdefault(anchor.writer, {})[anchor.seq] = anchor.link
    return (await judge(DatabaseRows(connection), table, Evidence(known))).faults


async def missing_guards(connection: Connection) -> list[str]:
    """Return what is wrong with the guards of both tables; empty when all is as migration 0004 made it.

    That is: a trigger that keeps a table append-only and is missing or does not fire, and every trigger or rule that is
    not ours (one can take rows away while they are written, or hide them).
    """
    tables = sorted({table for table, _ in _GUARDS})
    with translated():
        cursor = await connection.execute(
            "select c.relname, t.tgname, t.tgenabled in ('O', 'A') from pg_trigger t "
            "join pg_class c on c.oid = t.tgrelid "
            "where c.relnamespace = 'public'::regnamespace and c.relname = any(%s) and not t.tgisinternal",
            (tables,),
        )
        triggers = {(row[0], row[1]): row[2] for row in await cursor.fetchall()}
        cursor = await connection.execute(
            "select c.relname, r.rulename from pg_rewrite r join pg_class c on c.oid = r.ev_class "
            "where c.relnamespace = 'public'::regnamespace and c.relname = any(%s) order by 1, 2",
            (tables,),
        )
        rules = await cursor.fetchall()
    missing = [f"{table}: {trigger}" for table, trigger in _GUARDS if not triggers.get((table, trigger))]
    foreign = [f"{table}: {name} (a trigger that is not ours)" for table, name in sorted(set(triggers) - set(_GUARDS))]
    return [*missing, *foreign, *(f"{table}: {name} (a rule that is not ours)" for table, name in rules)]


class Difference(NamedTuple):
    """An outcome whose itemised rows do not add up to the ledger's count."""

    feed: str
    outcome: str
    unit: Literal["messages", "values"]
    ledger: int
    items: int


async def reconcile(connection: Connection) -> list[Difference]:
    """Compare what was itemised with what the ledger counts, per feed and outcome; empty when they agree.

    An item of a whole message counts one message and its values; an item of a value counts that value. Released items
    no longer count: the ledger's `released` row took them back. Discarded ones still do.
    """
    with translated():
        cursor = await connection.execute(
            "select feed, outcome, count(*) filter (where value_index = -1), "
            "sum(\"values\")::bigint from quarantine_item where state <> 'released' group by feed, outcome"
        )
        itemised = {(row[0], row[1]): (row[2], row[3]) for row in await cursor.fetchall()}
    counted = (await balance(connection)).feeds
    differences = []
    for feed in sorted(set(counted) | {feed for feed, _ in itemised}):
        for outcome in OUTCOMES[1:]:
            messages, values = itemised.get((feed, outcome), (0, 0))
            sums = counted.get(feed)
            if (ledger := getattr(sums.messages, outcome) if sums else 0) != messages:
                differences.append(Difference(feed, outcome, "messages", ledger, messages))
            if (ledger := getattr(sums.values, outcome) if sums else 0) != values:
                differences.append(Difference(feed, outcome, "values", ledger, values))
    return differences


async def first_at_us(connection: Connection, tables: Iterable[ChainTable]) -> int | None:
    """Return the time of the earliest row of any of these tables, microseconds since the epoch, None without rows."""
    found: list[int] = []
    for table in tables:
        query = sql.SQL("select min({}) from {} where isfinite(at)").format(_column("at"), sql.Identifier(table.name))
        with translated():
            row = await (await connection.execute(query)).fetchone()
        if row is not None and row[0] is not None:
            found.append(row[0])
    return min(found, default=None)


async def unsigned_end(connection: Connection, table: ChainTable, writer: str, until_us: int | None) -> Head | None:
    """Return the end of the unsigned rows that a chain begins with, None where it has none.

    Args:
        connection: inside or outside a transaction.
        table: which table.
        writer: which chain.
        until_us: only rows older than this count; None: all.
    """
    query = sql.SQL(
        "select seq, hash from {0} where writer = %(writer)s and seq < coalesce((select min(seq) from {0} where "
        "writer = %(writer)s and (signature is not null or at >= %(until)s)), 9223372036854775807) "
        "order by seq desc limit 1"
    ).format(sql.Identifier(table.name))
    until = "infinity" if until_us is None else to_timestamp(until_us)
    with translated():
        cursor = await connection.execute(query, {"writer": writer, "until": until})
        row = await cursor.fetchone()
    return None if row is None else Head(writer, row[0], bytes(row[1]))


async def last_before(connection: Connection, table: ChainTable, writer: str, after: int, until_us: int) -> int | None:
    """Return the number of a chain's last row behind `after` that is older than a time, None where there is none."""
    query = sql.SQL("select seq from {} where writer = %s and seq > %s and at < %s order by seq desc limit 1")
    with translated():
        cursor = await connection.execute(
            query.format(sql.Identifier(table.name)), (writer, after, to_timestamp(until_us))
        )
        row = await cursor.fetchone()
    return None if row is None else int(row[0])
