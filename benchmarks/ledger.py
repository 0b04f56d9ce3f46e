"""How fast audit events become durable, and how fast chains are verified, beside doing neither.

Here: `python -m benchmarks.ledger [--events 25000]`, on a PostgreSQL of its own with fsync on.
Not here: the live plane (benchmarks.live).

Written: the Auditor with one and with 64 recorders at once (hash chain, signatures, kept ends; an event is counted when
`record` has returned), beside (a) the same rows inserted one by one, each in its own commit, and (b) the same rows
batched as the Auditor batches them, both into a table with the same columns and indexes but without chain, signatures
and guards. Verified: every row and every signature; the same behind a signed daily root, which vouches for signatures;
beside fetching the same rows, and beside the bare SHA-256 of the same bytes. An edit must be found before any of that.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import shutil
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import msgspec

from governance import notary
from governance.audit import LARGEST_BATCH, Auditor
from governance.chain_audit import Finding, gather, judge_all
from orchestration.embedded import EmbeddedPostgres, free_port
from stores.audit_log import AUDIT, AuditEntry, content_of
from stores.chain import Content
from stores.chain_verification import Row
from stores.database import Connection, connect, consistent_read, migrate, to_timestamp, transaction
from stores.ledger_verification import DatabaseRows
from vocabulary.clock import ManualClock
from vocabulary.settings import Settings
from vocabulary.signing import SigningKey

START_US = 1_770_000_000_000_000
DAY_S = 86_400
RECORDERS = 64
ROUNDS = 5

_NAMES = ", ".join(AUDIT.names)
_ARRAYS = ", ".join(f"%b::{kind}[]" for _, kind in AUDIT.columns)
_ONE = f"insert into plain ({_NAMES}) values ({', '.join(['%b'] * len(AUDIT.columns))})".encode()
_MANY = f"insert into plain ({_NAMES}) select * from unnest({_ARRAYS})".encode()
_PLAIN_DDL = (
    "create table plain (like audit_event including defaults)",
    "alter table plain alter previous_hash drop not null, alter hash drop not null, add primary key (writer, seq)",
    "create index on plain (at desc)",
    "create index on plain (patient_id, at desc) where patient_id is not null",
    "create index on plain (agent, at desc)",
)


def event(number: int) -> AuditEntry:
    """An event as the gate writes one for a page that was opened."""
    return AuditEntry(
        at_us=START_US + number * 1_000, action="read", outcome="permitted", surface="patient", verb="read",
        agent=f"https://login.example.org/realms/hospital|person-{number % 300}", agent_name=f"Person {number % 300}",
        role="nurse", purpose="TREAT", patient_id=number % 1_000, rule="nurse-of-the-unit", policy="0123456789abcdef",
        session=f"{number % 300:08x}", view=f"{number:012x}",
    )  # fmt: skip


def stored(writer: str, number: int, content: Content) -> tuple[object, ...]:
    return (writer, number, to_timestamp(content.at_us), *content.rest)


async def timed(events: int, at_once: int, act: Callable[[int], Awaitable[None]]) -> float:
    """Return how many acts a second `at_once` loops get through."""

    async def recorder(first: int) -> None:
        for number in range(first, events, at_once):
            await act(number)

    began = time.perf_counter()
    await asyncio.gather(*(recorder(first) for first in range(at_once)))
    return events / (time.perf_counter() - began)


async def written(url: str, settings: Settings, writer: str, events: int, at_once: int) -> float:
    key = SigningKey.generate()
    clock = ManualClock(START_US)
    notary.register_key(settings, writer, key.verifying, clock)
    opener: Callable[[], Awaitable[Connection]] = lambda: connect(url, application_name="benchmarks.ledger")  # noqa: E731
    auditor = Auditor(opener, writer, key, notary.heads_of(settings), clock)
    await auditor.record(event(0))  # opens the connection
    rate = await timed(events, at_once, lambda number: auditor.record(event(number)))
    await auditor.close()
    return rate


async def one_by_one(connection: Connection, writer: str, events: int) -> float:
    async def insert(number: int) -> None:
        async with transaction(connection):
            await connection.execute(_ONE, stored(writer, number, content_of(event(number))))

    return await timed(events, 1, insert)


class Batches:
    """Group commit of plain rows: what the Auditor does, less everything that makes a chain."""

    def __init__(self, connection: Connection, writer: str) -> None:
        self.connection = connection
        self.writer = writer
        self.waiting: list[tuple[int, asyncio.Future[None]]] = []
        self.wake = asyncio.Event()

    async def record(self, number: int) -> None:
        """Wait until a row is committed."""
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.waiting.append((number, done))
        self.wake.set()
        await done

    async def work(self) -> None:
        """Commit what waits, until cancelled."""
        while True:
            await self.wake.wait()
            self.wake.clear()
            while self.waiting:
                batch, self.waiting = self.waiting[:LARGEST_BATCH], self.waiting[LARGEST_BATCH:]
                rows = [stored(self.writer, number, content_of(event(number))) for number, _ in batch]
                async with transaction(self.connection):
                    await self.connection.execute(_MANY, [list(column) for column in zip(*rows, strict=True)])
                for _, done in batch:
                    done.set_result(None)


async def batched(connection: Connection, writer: str, events: int) -> float:
    batches = Batches(connection, writer)
    worker = asyncio.create_task(batches.work())
    rate = await timed(events, RECORDERS, batches.record)
    worker.cancel()
    await asyncio.wait({worker})
    return rate


async def judged(connection: Connection, settings: Settings, *, every_signature: bool) -> tuple[Finding, float]:
    anchors = gather(settings.anchors_dir)
    began = time.perf_counter()
    async with consistent_read(connection):
        finding = await judge_all(DatabaseRows(connection), anchors, every_signature=every_signature)
    return finding, time.perf_counter() - began


async def bare_hashing(connection: Connection) -> float:
    """Return rows a second of SHA-256 alone over the bytes that verification hashes, held in memory."""
    held: list[bytes] = []
    async with consistent_read(connection):
        async for batch in DatabaseRows(connection).rows(AUDIT):
            held += [hashed_bytes(row) for row in batch]
    began = time.perf_counter()
    for one in held:
        hashlib.sha256(one).digest()
    return len(held) / (time.perf_counter() - began)


def hashed_bytes(row: Row) -> bytes:
    return AUDIT.version + row.previous + msgspec.json.encode(row.content)


async def read_only(connection: Connection) -> float:
    """Return rows a second of fetching them as verification does, and doing nothing with them."""
    rows = 0
    began = time.perf_counter()
    async with consistent_read(connection):
        async for batch in DatabaseRows(connection).rows(AUDIT):
            rows += len(batch)
    return rows / (time.perf_counter() - began)


async def run(url: str, folder: Path, events: int) -> dict[str, float]:
    await migrate(url)
    settings = Settings(data_dir=folder / "data", site="benchmark")
    connection = await connect(url, application_name="benchmarks.ledger")
    async with transaction(connection):
        for statement in _PLAIN_DDL:
            await connection.execute(statement)
    # In turn, so that whatever else the machine does meets both; medians of the rounds.
    few, each = max(100, events // 30), events // ROUNDS
    alone, single, plain, many = [], [], [], []
    for number in range(ROUNDS):
        alone.append(await one_by_one(connection, f"single-{number}", few))
        single.append(await written(url, settings, f"single-{number}", few, 1))
        plain.append(await batched(connection, f"many-{number}", each))
        many.append(await written(url, settings, f"many-{number}", each, RECORDERS))
    async with transaction(connection):
        cursor = await connection.execute(
            "select count(*), count(signature) from audit_event where writer like 'many-%'"
        )
        rows, signatures = (await cursor.fetchone()) or (0, 0)
        assert rows == ROUNDS * (each + 1), "an event was lost or doubled"
        cursor = await connection.execute("select count(*), count(signature) from audit_event")
        all_rows, all_signatures = (await cursor.fetchone()) or (0, 0)

    await check_that_an_edit_is_found(connection, settings, each // 2)
    slow, quick = [], []
    for _ in range(3):
        finding, seconds = await judged(connection, settings, every_signature=True)
        assert finding.is_whole, "untouched chains must be whole"
        assert finding.tables[0].signatures == all_signatures
        slow.append(all_rows / seconds)
    await notary.sign_due_days(connection, settings, ManualClock(START_US + 2 * DAY_S * 1_000_000))
    for _ in range(3):
        finding, seconds = await judged(connection, settings, every_signature=False)
        assert finding.is_whole, "untouched chains under a root must be whole"
        quick.append(all_rows / seconds)
    hashing, reading = await bare_hashing(connection), await read_only(connection)
    await connection.close()

    verified, vouched = statistics.median(slow), statistics.median(quick)
    one, grouped = statistics.median(single), statistics.median(many)
    peer_one, peer_grouped = statistics.median(alone), statistics.median(plain)
    print(
        f"{rows:,} events of {RECORDERS} recorders in {signatures:,} commits, {ROUNDS * few:,} of one, {ROUNDS} rounds"
    )
    print(f"{'durable events a second':48}{'plain rows':>12}{'audit log':>12}{'share':>8}")
    print(f"{'one recorder, a commit each':48}{peer_one:>12,.0f}{one:>12,.0f}{one / peer_one:>8.2f}")
    print(f"{'64 recorders, group commit':48}{peer_grouped:>12,.0f}{grouped:>12,.0f}{grouped / peer_grouped:>8.2f}")
    print(f"{'verified events a second':48}{'':>12}{'audit log':>12}{'of hash':>8}")
    print(f"{'every row, every signature':48}{'':>12}{verified:>12,.0f}{verified / hashing:>8.3f}")
    print(f"{'every row and root, signatures behind a root':48}{'':>12}{vouched:>12,.0f}{vouched / hashing:>8.3f}")
    print(f"{'only fetching the rows':48}{'':>12}{reading:>12,.0f}")
    print(f"{'only SHA-256 of the same bytes, in memory':48}{'':>12}{hashing:>12,.0f}")
    return {
        "events": events,
        "written_per_s_1": round(one),
        "written_per_s_64": round(grouped),
        "plain_per_s_1": round(peer_one),
        "plain_per_s_64": round(peer_grouped),
        "written_ratio_1": round(one / peer_one, 2),
        "written_ratio_64": round(grouped / peer_grouped, 2),
        "events_per_signature_64": round(rows / signatures, 1),
        "verified_per_s": round(verified),
        "verified_behind_root_per_s": round(vouched),
        "fetched_per_s": round(reading),
        "sha256_per_s": round(hashing),
        "signatures": all_signatures,
    }


async def check_that_an_edit_is_found(connection: Connection, settings: Settings, seq: int) -> None:
    await connection.execute("set session_replication_role = replica")
    await connection.execute("update audit_event set patient_id = 0 where writer = 'many-1' and seq = %s", (seq,))
    anchors = gather(settings.anchors_dir)
    finding = await judge_all(DatabaseRows(connection), anchors, every_signature=True)
    assert any(fault.first <= seq <= fault.last for fault in finding.tables[0].faults), "an edit was not found"
    await connection.rollback()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.ledger", description=__doc__)
    parser.add_argument("--events", type=int, default=25_000)
    given = parser.parse_args()
    if given.events < 1_000:
        parser.error("expected at least 1000 events")
    folder = Path(tempfile.mkdtemp(prefix="vigil-bench-"))
    folder.chmod(0o755)  # PostgreSQL runs as nobody when we are root
    server = EmbeddedPostgres(folder / "postgres", free_port())
    try:
        server.start()
        result = asyncio.run(run(server.url(), folder, given.events))
    finally:
        server.stop("immediate")
        shutil.rmtree(folder, ignore_errors=True)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
