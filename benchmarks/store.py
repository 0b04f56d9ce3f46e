"""How the time-series store compares with a narrow indexed table: bytes, ingest, and four queries.

Here: `python -m benchmarks.store [--patients 50 --minutes 2000]`. One sample a minute of ten vital signs a patient,
committed once a minute for all patients as they would arrive, on a PostgreSQL of its own with fsync on. The peer is a
table (patient, signal, ts, value real) with a unique index, fed by binary COPY packed with numpy: the fastest that
field notes found. It keeps a value and a time; ours keeps with each value its revision, status, source, device, feed,
arrival and place in the log, in 64 bits. Our hours are compacted as they close, and both tables are vacuumed.
Not here: the live plane from socket to snapshot (benchmarks.live).
Source: field-notes A4, whose queries these are.

Q1: one patient, one signal, 24 h. Q2: all signals. Q3: the latest of each signal, ours with all of *as known at* and
provenance (and, apart, the last row of the minute projection that pages read). Q4: hourly mean of all patients.
Values are compared before anything is timed.
"""

# ruff: noqa: D102 - Q1 to Q4 are described above

from __future__ import annotations

import argparse
import asyncio
import json
import shutil
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import psycopg

from orchestration.embedded import EmbeddedPostgres, free_port
from stores import timeseries
from stores.database import Connection, connect, migrate, to_timestamp
from stores.timeseries import Sample
from vocabulary.concepts import by_key

SIGNALS = (
    ("heart_rate", 80.0, 1.0), ("pulse_rate", 79.0, 1.0), ("respiratory_rate", 16.0, 1.0),
    ("oxygen_saturation", 96.0, 1.0), ("systolic_blood_pressure", 120.0, 2.0), ("diastolic_blood_pressure", 70.0, 1.0),
    ("mean_blood_pressure", 87.0, 1.0), ("body_temperature", 37.0, 0.1), ("inspired_oxygen_fraction", 40.0, 5.0),
    ("end_tidal_co2", 38.0, 1.0),
)  # fmt: skip
MINUTE_US = 60_000_000
HOUR_US = 60 * MINUTE_US
START_US = 1_770_000_000_000_000 // HOUR_US * HOUR_US
FIRST_POSITION = 1 << 40
POSTGRES_EPOCH_US = 946_684_800_000_000
NARROW_ROW = np.dtype(
    [("fields", ">i2"), ("l1", ">i4"), ("patient", ">i4"), ("l2", ">i4"), ("signal", ">i2"), ("l3", ">i4"),
     ("ts", ">i8"), ("l4", ">i4"), ("value", ">f4")]
)  # fmt: skip
NARROW_COPY = "copy narrow (patient, signal, ts, value) from stdin (format binary)"
NARROW_DDL = """
    create table narrow (patient int not null, signal smallint not null, ts timestamptz not null, value real not null);
    create unique index narrow_key on narrow (patient, signal, ts);
"""


class Data(NamedTuple):
    """What both stores are given."""

    concepts: np.ndarray[Any, np.dtype[np.int64]]
    values: np.ndarray[Any, np.dtype[np.float64]]  # [minute, patient, signal]

    @property
    def minutes(self) -> int:
        return len(self.values)

    @property
    def patients(self) -> int:
        return self.values.shape[1]


def make_data(patients: int, minutes: int, seed: int) -> Data:
    """Vital signs that drift back to their usual level, in the steps a monitor shows."""
    random = np.random.default_rng(seed)
    usual = np.array([start for _, start, _ in SIGNALS])
    step = np.array([step for *_, step in SIGNALS])
    level = np.zeros((patients, len(SIGNALS)))
    values = np.empty((minutes, patients, len(SIGNALS)))
    for minute in range(minutes):
        level = 0.97 * level + random.normal(0.0, 1.2, level.shape)
        values[minute] = np.round(usual + np.round(level) * step, 1)
    return Data(np.array([by_key(key).number for key, *_ in SIGNALS]), values)


def samples_of(data: Data, minute: int, random: np.random.Generator) -> list[Sample]:
    """A minute of all patients as the engine has it: one message a patient."""
    at_us = START_US + minute * MINUTE_US
    arrivals = (at_us + random.integers(200_000, 900_000, data.patients)).tolist()
    position = FIRST_POSITION + minute * 11
    concepts = data.concepts.tolist()
    return [
        Sample(patient + 1, concept, value, "", at_us, arrivals[patient], 0, (1 << 60) + patient * 64 + number,
               f"00-11-22-33-44-55-{patient:04d}", "monitors", position, patient, number)
        for patient, values in enumerate(data.values[minute].tolist())
        for number, (concept, value) in enumerate(zip(concepts, values, strict=True))
    ]  # fmt: skip


def narrow_bytes(data: Data, first: int, last: int) -> bytes:
    """Rows of some minutes as binary COPY wants them."""
    minute, patient, signal = np.meshgrid(
        np.arange(first, last), np.arange(data.patients), np.arange(len(SIGNALS)), indexing="ij"
    )
    rows = np.empty(minute.size, NARROW_ROW)
    rows["fields"], rows["l1"], rows["l2"], rows["l3"], rows["l4"] = 4, 4, 2, 8, 4
    rows["patient"], rows["signal"] = patient.ravel() + 1, data.concepts[signal.ravel()]
    rows["ts"] = START_US - POSTGRES_EPOCH_US + minute.ravel() * MINUTE_US
    rows["value"] = data.values[first:last].ravel()
    return b"PGCOPY\n\xff\r\n\0" + bytes(8) + rows.tobytes() + b"\xff\xff"


async def put_narrow(conn: Connection, data: Data, first: int, last: int) -> None:
    async with conn.cursor() as cursor, cursor.copy(NARROW_COPY) as copy:
        await copy.write(narrow_bytes(data, first, last))
    await conn.commit()


class Loaded(NamedTuple):
    """Seconds each took for the same values."""

    narrow_s: float
    ours_s: float
    compaction_s: float
    narrow_wal: int  # bytes of write-ahead log
    ours_wal: int  # compaction's too


async def wal_position(admin: Connection) -> int:
    found = await admin.execute("select pg_current_wal_insert_lsn() - '0/0'")
    row = await found.fetchone()
    assert row is not None
    return int(row[0])


async def load(conn: Connection, admin: Connection, data: Data, per_commit: int) -> Loaded:
    """Load everything into both, an hour of each in turn."""
    random = np.random.default_rng(7)
    narrow_s = ours_s = compaction_s = 0.0
    narrow_wal = ours_wal = 0
    for hour in range(0, data.minutes, 60):
        commits = range(hour, min(hour + 60, data.minutes), per_commit)
        ends = [min(first + per_commit, data.minutes) for first in commits]
        wal = await wal_position(admin)
        began = time.perf_counter()
        for first, last in zip(commits, ends, strict=True):
            await put_narrow(conn, data, first, last)
        narrow_s += time.perf_counter() - began
        narrow_wal += await wal_position(admin) - wal
        batches = [
            [sample for minute in range(first, last) for sample in samples_of(data, minute, random)]
            for first, last in zip(commits, ends, strict=True)
        ]
        wal = await wal_position(admin)
        began = time.perf_counter()
        for batch, last in zip(batches, ends, strict=True):
            await timeseries.write(conn, batch, FIRST_POSITION + last * 11, START_US + last * MINUTE_US)
            await conn.commit()
        ours_s += time.perf_counter() - began
        began = time.perf_counter()
        await timeseries.compact(conn, START_US + hour * MINUTE_US)
        compaction_s += time.perf_counter() - began
        ours_wal += await wal_position(admin) - wal
        # What autovacuum does on a server that lives longer than this.
        await admin.execute("vacuum signal_block")
    return Loaded(narrow_s, ours_s, compaction_s, narrow_wal, ours_wal)


class Queries:
    """The four questions, asked of either store."""

    def __init__(self, conn: Connection, data: Data) -> None:
        self.conn = conn
        self.concepts = data.concepts.tolist()
        self.patients = list(range(1, data.patients + 1))
        self.end_us = START_US + data.minutes * MINUTE_US // HOUR_US * HOUR_US
        self.start_us = max(START_US, self.end_us - 24 * HOUR_US)
        self.last_us = START_US + data.minutes * MINUTE_US

    async def _rows(self, sql: str, *parameters: object) -> list[tuple[Any, ...]]:
        async with self.conn.cursor(binary=True) as cursor:
            await cursor.execute(sql, parameters, prepare=True)
            return await cursor.fetchall()

    async def narrow_q1(self, patient: int) -> list[tuple[Any, ...]]:
        return await self._rows(
            "select ts, value from narrow where patient = %s and signal = %s and ts >= %s and ts < %s order by ts",
            patient, self.concepts[0], to_timestamp(self.start_us), to_timestamp(self.end_us),
        )  # fmt: skip

    async def ours_q1(self, patient: int) -> dict[int, timeseries.Points]:
        return await timeseries.series(self.conn, [patient], self.concepts[:1], self.start_us, self.end_us)

    async def narrow_q2(self, patient: int) -> list[tuple[Any, ...]]:
        return await self._rows(
            "select signal, ts, value from narrow where patient = %s and signal = any(%s) and ts >= %s and ts < %s "
            "order by signal, ts",
            patient, self.concepts, to_timestamp(self.start_us), to_timestamp(self.end_us),
        )  # fmt: skip

    async def ours_q2(self, patient: int) -> dict[int, timeseries.Points]:
        return await timeseries.series(self.conn, [patient], self.concepts, self.start_us, self.end_us)

    async def narrow_q3(self, patient: int) -> list[tuple[Any, ...]]:
        return await self._rows(
            "select s, l.ts, l.value from unnest(%s::smallint[]) s cross join lateral (select ts, value from narrow "
            "where patient = %s and signal = s and ts <= %s order by ts desc limit 1) l",
            self.concepts, patient, to_timestamp(self.last_us),
        )  # fmt: skip

    async def ours_q3(self, patient: int) -> dict[int, Sample]:
        return await timeseries.latest(self.conn, [patient], as_of_us=self.last_us, concepts=self.concepts)

    async def minute_q3(self, patient: int) -> list[timeseries.Minute]:
        return await timeseries.minutes(self.conn, [patient], self.last_us - 2 * MINUTE_US, self.last_us)

    async def narrow_q4(self, _: int) -> list[tuple[Any, ...]]:
        return await self._rows(
            "select patient, date_trunc('hour', ts) h, avg(value), count(*) from narrow "
            "where patient = any(%s) and signal = %s and ts >= %s and ts < %s group by 1, 2 order by 1, 2",
            self.patients, self.concepts[0], to_timestamp(self.start_us), to_timestamp(self.end_us),
        )  # fmt: skip

    async def ours_q4(self, _: int) -> list[timeseries.HourSummary]:
        return await timeseries.hourly(self.conn, self.patients, self.concepts[0], self.start_us, self.end_us)


async def check_equal(queries: Queries, patient: int) -> int:
    """Compare all answers; return how many values were compared."""
    rows1, curve = await queries.narrow_q1(patient), (await queries.ours_q1(patient))[queries.concepts[0]]
    assert [value for _, value in rows1] == curve.value.astype(np.float32).tolist(), "Q1 differs"
    assert [at for at, _ in rows1] == [to_timestamp(at) for at in curve.effective_at_us.tolist()], "Q1 differs"
    rows2, curves = await queries.narrow_q2(patient), await queries.ours_q2(patient)
    ours2 = [
        (concept, to_timestamp(at), value)
        for concept, points in sorted(curves.items())
        for at, value in zip(points.effective_at_us.tolist(), points.value.astype(np.float32).tolist(), strict=True)
    ]
    assert sorted(rows2) == ours2, "Q2 differs"
    rows3, found = await queries.narrow_q3(patient), await queries.ours_q3(patient)
    assert {(s, at, value) for s, at, value in rows3} == {
        (s.concept, to_timestamp(s.effective_at_us), float(np.float32(s.value))) for s in found.values()
    }, "Q3 differs"
    last = (await queries.minute_q3(patient))[-1]
    medians = [last.medians[timeseries.MINUTE_COLUMNS.index(key)] for key, *_ in SIGNALS]
    assert medians == [found[concept].value for concept in queries.concepts], "the minute projection differs"
    rows4, hours = await queries.narrow_q4(patient), await queries.ours_q4(patient)
    assert [(patient, at, n) for patient, at, _, n in rows4] == [
        (hour.patient_id, to_timestamp(hour.hour_us), hour.n) for hour in hours
    ], "Q4 differs"
    np.testing.assert_allclose([row[2] for row in rows4], [hour.mean for hour in hours], rtol=1e-6)
    return len(rows1) + len(rows2) + len(rows3) + len(rows4)


Ask = Callable[[int], Awaitable[object]]


async def timed(asked: list[Ask], patients: list[int], warm_up: int = 6) -> list[float]:
    """Ask in turn, each patient of each store; return the median milliseconds of each."""
    taken: list[list[float]] = [[] for _ in asked]
    for round_number, patient in enumerate([*patients[:warm_up], *patients]):
        for ask, times in zip(asked, taken, strict=True):
            began = time.perf_counter()
            await ask(patient)
            if round_number >= warm_up:
                times.append((time.perf_counter() - began) * 1e3)
    return [statistics.median(times) for times in taken]


async def relation_bytes(conn: Connection, table: str) -> int:
    found = await conn.execute("select pg_total_relation_size(%s::regclass)", (table,))
    row = await found.fetchone()
    assert row is not None
    return int(row[0])


async def run(url: str, patients: int, minutes: int, seed: int) -> dict[str, float]:
    await migrate(url)
    conn = await connect(url, application_name="benchmarks.store")
    admin = await psycopg.AsyncConnection.connect(url, autocommit=True)
    data = make_data(patients, minutes, seed)
    n = data.values.size
    await admin.execute(NARROW_DDL)
    live = await load(conn, admin, data, per_commit=1)
    sizes = await timeseries.sizes(conn)
    assert sizes.block_samples == n
    for patient in range(1, patients + 1):
        await timeseries.rebuild_minutes(conn, [patient], START_US, START_US + minutes * MINUTE_US)
    await conn.commit()
    await admin.execute("vacuum analyze")
    narrow, ours = await relation_bytes(conn, "narrow"), await relation_bytes(conn, "signal_block")
    projection = await relation_bytes(conn, "vitals_minute")
    await conn.commit()

    queries = Queries(conn, data)
    compared = await check_equal(queries, patients // 2)
    asked = [1 + (number * 7) % patients for number in range(30)]
    q1 = await timed([queries.narrow_q1, queries.ours_q1], asked)
    q2 = await timed([queries.narrow_q2, queries.ours_q2], asked)
    q3 = await timed([queries.narrow_q3, queries.ours_q3, queries.minute_q3], asked)
    q4 = await timed([queries.narrow_q4, queries.ours_q4], asked[:9])
    await conn.rollback()

    # History in one commit an hour, as a backfill writes it, into emptied tables.
    await admin.execute("truncate narrow, signal_block")
    bulk = await load(conn, admin, data, per_commit=60)
    await conn.close()
    await admin.close()

    print(
        f"{patients} patients x {len(SIGNALS)} signals x {minutes} minutes = {n:,} samples; {compared:,} compared equal"
    )
    print(f"{'':34}{'narrow':>12}{'ours':>12}{'ratio':>8}")

    def line(name: str, peer: float, our: float, ratio: float, form: str = ",.2f") -> None:
        print(f"{name:34}{peer:>12{form}}{our:>12{form}}{ratio:>8.2f}")

    line("bytes a sample, indexes and all", narrow / n, ours / n, narrow / ours)
    line("write-ahead log, bytes a sample", live.narrow_wal / n, live.ours_wal / n, live.narrow_wal / live.ours_wal)
    line("ingest a minute a commit [1/s]", n / live.narrow_s, n / live.ours_s, live.narrow_s / live.ours_s, ",.0f")
    line("  and with compaction [1/s]", n / live.narrow_s, n / (live.ours_s + live.compaction_s),
         live.narrow_s / (live.ours_s + live.compaction_s), ",.0f")  # fmt: skip
    line("ingest an hour a commit [1/s]", n / bulk.narrow_s, n / bulk.ours_s, bulk.narrow_s / bulk.ours_s, ",.0f")
    line("Q1 one signal, 24 h [ms]", q1[0], q1[1], q1[0] / q1[1])
    line("Q2 all signals, 24 h [ms]", q2[0], q2[1], q2[0] / q2[1])
    line("Q3 latest of each, exact [ms]", q3[0], q3[1], q3[0] / q3[1])
    line("Q3 from the minute projection [ms]", q3[0], q3[2], q3[0] / q3[2])
    line("Q4 hourly mean, all patients [ms]", q4[0], q4[1], q4[0] / q4[1])
    print(f"The minute projection takes another {projection / n:.1f} bytes a sample.")
    return {
        "samples": n,
        "bytes_per_sample": round(ours / n, 3),
        "narrow_bytes_per_sample": round(narrow / n, 3),
        "bytes_ratio": round(narrow / ours, 2),
        "minute_projection_bytes_per_sample": round(projection / n, 2),
        "wal_bytes_per_sample": round(live.ours_wal / n, 1),
        "wal_ratio": round(live.narrow_wal / live.ours_wal, 2),
        "ingest_per_s": round(n / live.ours_s),
        "ingest_ratio": round(live.narrow_s / live.ours_s, 2),
        "ingest_with_compaction_ratio": round(live.narrow_s / (live.ours_s + live.compaction_s), 2),
        "bulk_ingest_per_s": round(n / bulk.ours_s),
        "bulk_ingest_ratio": round(bulk.narrow_s / bulk.ours_s, 2),
        "q1_ms": round(q1[1], 3),
        "q2_ms": round(q2[1], 3),
        "q3_ms": round(q3[1], 3),
        "q4_ms": round(q4[1], 3),
        "q1_ratio": round(q1[0] / q1[1], 2),
        "q2_ratio": round(q2[0] / q2[1], 2),
        "q3_ratio": round(q3[0] / q3[1], 2),
        "q3_minute_ratio": round(q3[0] / q3[2], 2),
        "q4_ratio": round(q4[0] / q4[1], 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.store", description=__doc__)
    parser.add_argument("--patients", type=int, default=50)
    parser.add_argument("--minutes", type=int, default=2000, help="of samples; at least 180")
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    if given.patients < 2 or given.minutes < 180:
        parser.error("expected at least 2 patients and 180 minutes")
    folder = Path(tempfile.mkdtemp(prefix="vigil-bench-"))
    folder.chmod(0o755)  # PostgreSQL runs as nobody when we are root
    server = EmbeddedPostgres(folder / "postgres", free_port())
    try:
        server.start()
        result = asyncio.run(run(server.url(), given.patients, given.minutes, given.seed))
    finally:
        server.stop("immediate")
        shutil.rmtree(folder, ignore_errors=True)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
