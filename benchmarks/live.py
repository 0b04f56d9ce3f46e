"""The live plane under a steady load: every bed one message a second of twelve values, socket to snapshot.

    python -m benchmarks.live [--beds 200] [--seconds 60] [--peer-seconds 15]
    python -m benchmarks.live --secure [--beds 200] [--seconds 60]

Ours: the whole house as `vigil up` starts it; each message is fsynced before its ACK, stored, scored and published.
Peer: `hl7.mllp` (python-hl7's own asyncio server) that parses, inserts each value as a row of a narrow indexed
PostgreSQL table and commits before its ACK: what a careful team writes in a week. It identifies nobody, finds no
duplicate, converts no unit, scores nothing. Both get the same generator's load, in turn, on the same machine.
With --secure: ours with TLS everywhere beside ours with none (benchmarks.live_secure), no peer.
Prints a table and ends with one JSON line.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shutil
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import NamedTuple

import psycopg

from benchmarks import live_secure
from benchmarks.measuring import Measured, cpu_s, loading, measured, percentile, show
from governance.ledger_writers import ledger_writer
from governance.privacy import open_ring
from hospital.load import METRICS
from orchestration import services
from orchestration.addresses import connected, embedded_servers, secret
from orchestration.demo_results import watching
from orchestration.embedded import EmbeddedPostgres, free_port
from stores import database, partition_log
from stores.blobs import BlobStore
from stores.raw_archive import RawArchive
from stores.raw_subjects import SEALER
from stores.timeseries import compact
from twin import sealing
from twin.accounts import Account
from twin.bus import open_bus
from vocabulary.clock import SystemClock
from vocabulary.records import INCARNATION_SHIFT
from vocabulary.settings import FeedSettings, Settings

_DAY_S = 86_400


class Kept(NamedTuple):
    """Bytes that one run left behind."""

    raw: int
    sealed: int
    database_before: int
    database: int
    database_compacted: int


async def _without_dead_rows(connection: database.Connection) -> int:
    """Return the database's size once its tables are rewritten."""
    await connection.set_autocommit(True)
    await connection.execute("vacuum full")
    await connection.set_autocommit(False)
    return await _database_bytes(connection)


async def _database_bytes(connection: database.Connection) -> int:
    async with database.transaction(connection):
        row = await (await connection.execute("select pg_database_size(current_database())")).fetchone()
    assert row is not None
    return int(row[0])


async def _ours(
    settings: Settings, house: services.House, beds: int, seconds: float
) -> tuple[Measured, list[float], Account, Kept]:
    state = house.data_dir.read_state()
    assert state is not None
    pids = [running.identity.pid for running in state.services if running.identity is not None]
    servers = embedded_servers(settings, house.data_dir, state.ports, is_running=True)
    assert servers.postgres is not None
    # Measuring rewrites tables and empties RAW: the first needs the database's owner, the second the keeper's identity.
    keeper = connected(settings, house.data_dir, servers, "keeper")
    bus = await open_bus(keeper, "keeper")
    connection = await database.connect(servers.postgres.url(), application_name="benchmark")
    before = await _without_dead_rows(connection)
    async with watching(settings) as observer:
        cpu_before = cpu_s(pids)
        feeds = house.feed_addresses
        async with loading(feeds["adt"], feeds["monitors"], beds, seconds) as task:
            report = await task
        results = await observer.results(SystemClock().now_us, seed=1, drain_s=30.0)
        cpu = cpu_s(pids) - cpu_before
    extent = await bus.raw_extent()
    after = await _database_bytes(connection)
    # What a day keeps: folded batches trimmed, hours compacted, tables without their dead rows, RAW sealed.
    async with database.transaction(connection):
        await partition_log.trim(connection, keep_s=0)
    await compact(connection, SystemClock().now_us() + 2 * 3600 * 1_000_000)
    compacted = await _without_dead_rows(connection)
    archive = RawArchive(settings.data_dir / "sealed")
    async with database.transaction(connection):
        row = await (await connection.execute("select position from position where reader = 'normalizer'")).fetchone()
    assert row is not None
    keys = await open_ring(keeper, secret(keeper.database_url))
    sealer = sealing.Sealer(
        bus, archive, connection, keys, ledger_writer(keeper, SEALER), BlobStore(settings.data_dir / "blobs")
    )
    now_us = SystemClock().now_us()
    await sealing.seal(
        sealer, incarnation=row[0] >> INCARNATION_SHIFT, up_to_position=row[0], before_us=now_us, at_us=now_us
    )
    await keys.close()
    kept = Kept(extent.bytes, archive.size_bytes(), before, after, compacted)
    await connection.close()
    await bus.close()
    return measured(report, cpu, seconds), results.latencies_s, results.account, kept


async def _peer(url: str, postgres_pid: int, beds: int, seconds: float) -> Measured:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("create table narrow (patient text, code text, at text, value double precision)")
        connection.execute("create index on narrow (patient, code, at)")
    port = free_port()
    server = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "benchmarks.peers.mllp_narrow", str(port), env={**os.environ, "PEER_DATABASE_URL": url}
    )
    try:
        await asyncio.sleep(1.5)
        pids = [server.pid, postgres_pid]
        before = cpu_s(pids)
        address = ("127.0.0.1", port)
        started = time.monotonic()
        async with loading(address, address, beds, seconds) as task:
            report = await task
        elapsed = time.monotonic() - started
        return measured(report, cpu_s(pids) - before, max(seconds, elapsed))
    finally:
        server.terminate()
        await server.wait()


def main() -> None:
    """Run both sides in turn and print what was measured."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.live", description=__doc__.split("\n\n")[0])
    parser.add_argument("--beds", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--peer-seconds", type=float, default=15)
    parser.add_argument("--secure", action="store_true", help="TLS everywhere, beside none at all; without the peer")
    arguments = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="vigil-bench-"))
    folder.chmod(0o755)
    if arguments.secure:
        try:
            live_secure.compare(folder, arguments.beds, arguments.seconds, len(METRICS))
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        return
    try:
        settings = Settings(
            data_dir=folder / "house",
            database_url=None,
            nats_url=None,
            feeds=(FeedSettings(name="adt"), FeedSettings(name="monitors", expected_interval_s=1.0)),
        )
        with services.running(settings, "benchmark", threading.Event()) as house:
            ours, latencies, account, kept = asyncio.run(
                _ours(house.settings, house, arguments.beds, arguments.seconds)
            )
        postgres = EmbeddedPostgres(folder / "peer", free_port())
        postgres.start()
        try:
            peer = asyncio.run(_peer(postgres.url(), postgres.pid() or 0, arguments.beds, arguments.peer_seconds))
        finally:
            postgres.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    bed_days = arguments.beds * arguments.seconds / _DAY_S
    p50, p99 = percentile(latencies, 0.5), percentile(latencies, 0.99)
    kept_bytes = kept.sealed + max(0, kept.database_compacted - kept.database_before)
    raw_gb = kept.raw / bed_days / 1e9
    offered = arguments.beds * len(METRICS)
    show(
        [
            (f"{arguments.beds} beds, {offered} values/s offered", "peer (hl7.mllp + narrow rows)", "ours", "ratio"),
            (
                "values/s taken",
                f"{peer.values_per_s:,.0f}",
                f"{ours.values_per_s:,.0f}",
                f"{ours.values_per_s / peer.values_per_s:.1f} ×",
            ),
            (
                "ACK after fsync, p50",
                f"{peer.ack_p50_s * 1000:,.1f} ms",
                f"{ours.ack_p50_s * 1000:,.1f} ms",
                f"{peer.ack_p50_s / ours.ack_p50_s:.1f} ×",
            ),
            (
                "ACK after fsync, p99",
                f"{peer.ack_p99_s * 1000:,.1f} ms",
                f"{ours.ack_p99_s * 1000:,.1f} ms",
                f"{peer.ack_p99_s / ours.ack_p99_s:.1f} ×",
            ),
            (
                "CPU s per 1,000 values",
                f"{peer.cpu_s_per_1000:.3f}",
                f"{ours.cpu_s_per_1000:.3f}",
                f"{peer.cpu_s_per_1000 / ours.cpu_s_per_1000:.1f} ×",
            ),
            ("socket → snapshot, p50 / p99", "-", f"{p50:.3f} / {p99:.3f} s", ""),
            ("ledger remainder", "-", str(account.remainder), ""),
            ("GB per bed-day: RAW, its first day", "-", f"{raw_gb:.3f}", ""),
            ("GB per bed-day: kept after that", "-", f"{kept_bytes / bed_days / 1e9:.4f}", ""),
        ]
    )
    print(
        json.dumps(
            {
                "beds": arguments.beds,
                "seconds": arguments.seconds,
                "p50_s": round(p50, 4),
                "p99_s": round(p99, 4),
                "remainder": account.remainder,
                "values": account.values.received,
                "gb_per_bed_day": round(kept_bytes / bed_days / 1e9, 5),
                "raw_gb_per_bed_day": round(raw_gb, 4),
                "sealed_raw_gb_per_bed_day": round(kept.sealed / bed_days / 1e9, 5),
                "database_gb_per_bed_day": round((kept.database_compacted - kept.database_before) / bed_days / 1e9, 5),
                "cpu_s_per_1000_values": round(ours.cpu_s_per_1000, 4),
                "ack_p99_s": round(ours.ack_p99_s, 4),
                "peer_ack_p99_s": round(peer.ack_p99_s, 4),
                "peer_values_per_s": round(peer.values_per_s),
                "values_ratio": round(ours.values_per_s / peer.values_per_s, 2),
                "cpu_ratio": round(peer.cpu_s_per_1000 / ours.cpu_s_per_1000, 2),
            }
        )
    )


if __name__ == "__main__":
    main()
