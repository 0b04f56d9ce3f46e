"""What security costs the live plane: the same load with TLS everywhere, and with none.

    python -m benchmarks.live --secure [--beds 200] [--seconds 60]

Secure: the house as `vigil up` starts it with VIGIL_TLS=always: senders show certificates, PostgreSQL and nats-server
speak TLS with a certificate of each process, JetStream encrypts its disk.
Plain: the same house on a PostgreSQL and a nats-server that speak plain text, with plain MLLP.
Sealing of what is kept and audit are the house's own and on in both: they have no switch.

Here: running one house under load, and the table of both.
Not here: the peer, and what a bed-day keeps (benchmarks.live).
"""

from __future__ import annotations

import asyncio
import json
import ssl
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from pydantic import SecretStr

from benchmarks.measuring import Measured, cpu_s, loading, measured, percentile, show
from orchestration import services
from orchestration.certificates import Authority
from orchestration.demo_results import watching
from orchestration.embedded import EmbeddedNats, EmbeddedPostgres, free_port
from vocabulary.clock import SystemClock
from vocabulary.settings import FeedSettings, Settings
from vocabulary.tls import Identity, client_context

FEEDS = (FeedSettings(name="adt"), FeedSettings(name="monitors", expected_interval_s=1.0))


class Run(NamedTuple):
    """One house under load."""

    measured: Measured
    latencies_s: list[float]  # socket to published snapshot, sorted
    remainder: int
    values: int

    def latency_s(self, share: float) -> float:
        """Return a percentile of socket to snapshot."""
        return percentile(self.latencies_s, share)


async def _run(
    settings: Settings,
    house: services.House,
    servers: Sequence[int],
    tls: ssl.SSLContext | None,
    beds: int,
    seconds: float,
) -> Run:
    state = house.data_dir.read_state()
    assert state is not None
    pids = [*servers, *(running.identity.pid for running in state.services if running.identity is not None)]
    async with watching(settings) as observer:
        before = cpu_s(pids)
        feeds = house.feed_addresses
        async with loading(feeds["adt"], feeds["monitors"], beds, seconds, tls) as task:
            report = await task
        results = await observer.results(SystemClock().now_us, seed=1, drain_s=30.0)
        used = cpu_s(pids) - before
    account = results.account
    return Run(measured(report, used, seconds), results.latencies_s, account.remainder, account.values.received)


def run_secure(folder: Path, beds: int, seconds: float) -> Run:
    """Run the house with TLS everywhere, and a sender with a certificate."""
    settings = Settings(data_dir=folder, database_url=None, nats_url=None, tls="always", feeds=FEEDS)
    with services.running(settings, "benchmark", threading.Event()) as house:
        shown = Identity(folder / "benchmark-gateway")
        Authority(house.data_dir.authority / "listeners").issue(shown.folder, "benchmark-gateway")
        return asyncio.run(_run(house.settings, house, (), client_context(shown), beds, seconds))


def run_plain(folder: Path, beds: int, seconds: float) -> Run:
    """Run the house without any TLS, on servers that an operator runs."""
    with _plain_servers(folder) as (postgres, nats):
        settings = Settings(
            data_dir=folder,
            database_url=SecretStr(postgres.url()),
            nats_url=SecretStr(nats.url()),
            feeds=FEEDS,
        )
        with services.running(settings, "benchmark", threading.Event()) as house:
            pids = [pid for pid in (postgres.pid(), nats.pid()) if pid is not None]
            return asyncio.run(_run(house.settings, house, pids, None, beds, seconds))


@contextmanager
def _plain_servers(folder: Path) -> Iterator[tuple[EmbeddedPostgres, EmbeddedNats]]:
    folder.mkdir(mode=0o755)
    postgres, nats = (
        EmbeddedPostgres(folder / "plain-postgres", free_port()),
        EmbeddedNats(folder / "plain-nats", free_port()),
    )
    try:
        postgres.start()
        nats.start()
        yield postgres, nats
    finally:
        nats.stop()
        postgres.stop()


def compare(folder: Path, beds: int, seconds: float, metrics: int) -> None:
    """Run both in turn; print a table and one JSON line."""
    secure = run_secure(folder / "secure", beds, seconds)
    plain = run_plain(folder / "plain", beds, seconds)

    def milliseconds(value: float) -> str:
        return f"{value * 1000:,.1f} ms"

    def row(title: str, of_plain: float, of_secure: float) -> tuple[str, str, str, str]:
        return title, milliseconds(of_plain), milliseconds(of_secure), f"{of_secure / of_plain:.2f} ×"

    cpu = (plain.measured.cpu_s_per_1000, secure.measured.cpu_s_per_1000)
    show(
        [
            (f"{beds} beds, {beds * metrics} values/s offered", "plain", "TLS everywhere", "secure / plain"),
            row("socket → snapshot, p50", plain.latency_s(0.5), secure.latency_s(0.5)),
            row("socket → snapshot, p99", plain.latency_s(0.99), secure.latency_s(0.99)),
            row("ACK after fsync, p50", plain.measured.ack_p50_s, secure.measured.ack_p50_s),
            row("ACK after fsync, p99", plain.measured.ack_p99_s, secure.measured.ack_p99_s),
            ("CPU s per 1,000 values", f"{cpu[0]:.3f}", f"{cpu[1]:.3f}", f"{cpu[1] / cpu[0]:.2f} ×"),
            ("values/s taken", f"{plain.measured.values_per_s:,.0f}", f"{secure.measured.values_per_s:,.0f}", ""),
            ("ledger remainder", str(plain.remainder), str(secure.remainder), ""),
        ]
    )
    print(
        json.dumps(
            {
                "beds": beds,
                "seconds": seconds,
                "p50_s": round(secure.latency_s(0.5), 4),
                "p99_s": round(secure.latency_s(0.99), 4),
                "p50_plain_s": round(plain.latency_s(0.5), 4),
                "p99_plain_s": round(plain.latency_s(0.99), 4),
                "ack_p99_s": round(secure.measured.ack_p99_s, 4),
                "ack_p99_plain_s": round(plain.measured.ack_p99_s, 4),
                "cpu_s_per_1000_values": round(cpu[1], 4),
                "cpu_s_per_1000_values_plain": round(cpu[0], 4),
                "cpu_ratio": round(cpu[1] / cpu[0], 3),
                "values": secure.values,
                "values_plain": plain.values,
                "remainder": secure.remainder,
                "remainder_plain": plain.remainder,
            }
        )
    )
