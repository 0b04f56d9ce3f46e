"""Fixtures of the clinic's tests: a ward of real TwinSnapshots, a bus and stores that answer from memory."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable, Collection, Iterator, Sequence
from typing import Any, NamedTuple

import httpx
import pytest
import uvicorn
from jinja2 import Environment

from clinic.app import build_app, build_templates
from clinic.questions import FeedSummary, House, KeptSnapshot, Measured, Minute, Person, ScorePoint, Stay
from vocabulary.clock import ManualClock
from vocabulary.concepts import by_key
from vocabulary.errors import UnavailableError
from vocabulary.records import ObservationStatus, partition_of
from vocabulary.settings import Settings
from vocabulary.snapshot import (
    FeedState,
    Provenance,
    Publication,
    Score,
    SignalState,
    SnapshotKey,
    TwinSnapshot,
    canonical_bytes,
    digest,
    from_bytes,
    parse_snapshot_id,
    snapshot_id,
)

NOW_US = 1_767_272_400_000_000  # 2026-01-01T13:00:00Z
MINUTE_US = 60_000_000

VITALS: dict[str, float] = {
    "heart_rate": 84.0,
    "respiratory_rate": 17.0,
    "oxygen_saturation": 97.0,
    "systolic_blood_pressure": 121.0,
    "diastolic_blood_pressure": 74.0,
    "body_temperature": 37.04,
    "supplemental_oxygen": 0.0,
}
COMPONENTS = (
    "respiratory_rate",
    "oxygen_saturation",
    "supplemental_oxygen",
    "systolic_blood_pressure",
    "heart_rate",
    "consciousness",
    "body_temperature",
)


class Wards:
    """Makes snapshots."""

    now_us = NOW_US

    def signal(
        self,
        key: str,
        value: float | None,
        *,
        age_s: float = 60,
        stale: bool = False,
        text: str = "",
        at_us: int | None = None,
        status: str = "final",
    ) -> SignalState:
        effective = self.now_us - int(age_s * 1e6) if at_us is None else at_us
        return SignalState(
            concept=key, value=value, unit=by_key(key).unit, effective_at_us=effective,
            received_at_us=effective + 800_000,
            is_stale=stale, device="0009FB0000000001", text=text, status=status,
            raw_position=1 << 40,
        )  # fmt: skip

    def score(self, parts: dict[str, int] | None = None, missing: Sequence[str] = (), band: str = "low") -> Score:
        measured = {name: 0 for name in COMPONENTS if name not in missing} if parts is None else parts
        total = float(sum(measured.values())) if measured else None
        count = len(measured) + len(missing)
        return Score(
            name="NEWS2", protocol="news2@1", total=total, parts=dict(measured), missing=list(missing),
            coverage=len(measured) / count if count else 0.0, band="" if total is None else band,
            statement=f"NEWS2 of what was measured ({len(measured)} of {count})." if missing else f"NEWS2 {total}.",
        )  # fmt: skip

    def snapshot(
        self,
        patient_id: int = 7,
        *,
        position: int = (1 << 40) + 100,
        ward: str = "ICU-A",
        bed: str = "03",
        vitals: dict[str, float] | None = None,
        extra: Sequence[SignalState] = (),
        score: Score | None = None,
        silent: bool = False,
        notices: Sequence[str] = (),
        admitted: bool = True,
        as_of_us: int | None = None,
    ) -> TwinSnapshot:
        signals = [self.signal(key, value, age_s=65) for key, value in {**VITALS, **(vitals or {})}.items()]
        signals += [self.signal("consciousness", None, text="A", age_s=900), *extra]
        signals.sort(key=lambda signal: by_key(signal.concept).number)
        return TwinSnapshot(
            snapshot_id=snapshot_id(SnapshotKey(partition_of(patient_id), position, patient_id)),
            patient_id=patient_id, encounter_id=patient_id * 10, ward=ward, bed=bed,
            as_of_us=self.now_us if as_of_us is None else as_of_us, position=position, is_admitted=admitted,
            signals=signals, scores=[score or self.score()],
            feeds=[FeedState("monitors", self.now_us - 5_000_000, 60.0, False),
                   FeedState("lab", self.now_us - 9_000_000_000, 3600.0, silent)],
            notices=list(notices),
            provenance=Provenance("0.1.0", "0123456789abcdef", "vigil-concepts@1", {"news2": "1 sha256:12ab"}),
        )  # fmt: skip

    def measured(
        self,
        key: str,
        value: float | None,
        at_us: int,
        *,
        patient_id: int = 7,
        text: str = "",
        status: ObservationStatus = ObservationStatus.FINAL,
        source_key: int = 99,
        device: str = "0009FB01",
        position: int = 1 << 40,
        value_index: int = 0,
    ) -> Measured:
        return Measured(
            patient_id=patient_id, concept=by_key(key).number, value=value, text=text, effective_at_us=at_us,
            received_at_us=at_us + 700_000, status=status, source_key=source_key, device=device, feed="monitors",
            position=position, raw_index=0, value_index=value_index,
        )  # fmt: skip

    def publication(self, snapshot: TwinSnapshot) -> Publication:
        return Publication(snapshot.snapshot_id, snapshot.patient_id, snapshot.ward, canonical_bytes(snapshot), [])


class FakeLive:
    """A bus in memory. `publish` may be called from any thread."""

    def __init__(self) -> None:
        self.is_connected = True
        self.latest: dict[int, bytes] = {}
        self._followers: list[tuple[asyncio.AbstractEventLoop, asyncio.Queue[Publication | None]]] = []

    async def snapshots(self) -> dict[int, bytes]:
        if not self.is_connected:
            raise UnavailableError("away")
        return dict(self.latest)

    async def follow(self) -> AsyncIterator[Publication]:
        queue: asyncio.Queue[Publication | None] = asyncio.Queue()
        entry = (asyncio.get_running_loop(), queue)
        self._followers.append(entry)
        try:
            while (publication := await queue.get()) is not None:
                yield publication
        finally:
            self._followers.remove(entry)

    def publish(self, snapshot: TwinSnapshot) -> None:
        body = canonical_bytes(snapshot)
        self.latest[snapshot.patient_id] = body
        publication = Publication(snapshot.snapshot_id, snapshot.patient_id, snapshot.ward, body, [])
        for loop, queue in self._followers:
            loop.call_soon_threadsafe(queue.put_nowait, publication)


class FakeReaders:
    """Stores in memory."""

    def __init__(self) -> None:
        self.persons: dict[int, Person] = {}
        self.open_stays: list[Stay] = []
        self.redirects: dict[int, int] = {}
        self.identifiers: dict[tuple[str, str], int] = {}
        self.measurements: list[Measured] = []
        self.minute_rows: list[Minute] = []
        self.score_rows: dict[int, list[ScorePoint]] = {}
        self.bodies: dict[str, bytes] = {}
        self.digests: dict[str, tuple[int, bytes]] = {}
        self.shown: list[str] = []
        self.is_available = True
        self.calls = 0
        self.the_house = House((FeedSummary("monitors", "MON|ICU", NOW_US - 3_000_000, 60.0, 0.2, 100, 1200, 3),), {})

    def _ask(self) -> None:
        self.calls += 1
        if not self.is_available:
            raise UnavailableError("PostgreSQL is not available")

    async def people(self, patient_ids: Collection[int]) -> dict[int, Person]:
        self._ask()
        return {patient_id: self.persons[patient_id] for patient_id in patient_ids if patient_id in self.persons}

    async def stays(self) -> list[Stay]:
        self._ask()
        return list(self.open_stays)

    async def survivor(self, patient_id: int) -> int | None:
        self._ask()
        survivor = self.redirects.get(patient_id, patient_id)
        return survivor if survivor in self.persons else None

    async def find_by_identifier(self, authority: str | None, value: str) -> list[int]:
        self._ask()
        return sorted({
            patient_id for (whose, number), patient_id in self.identifiers.items()
            if number == value and authority in {None, whose}
        })  # fmt: skip

    async def minutes(self, patient_id: int, from_us: int, to_us: int) -> list[Minute]:
        self._ask()
        return [row for row in self.minute_rows if from_us <= row.start_us < to_us]

    async def observations(
        self, patient_id: int, concepts: Sequence[int], from_us: int, to_us: int, *, known_at: int | None = None
    ) -> list[Measured]:
        self._ask()
        wanted = set(concepts)
        current: dict[tuple[int, int, int], Measured] = {}
        for one in self.measurements:
            if known_at is None or one.position <= known_at:
                key = (one.concept, one.effective_at_us, one.source_key)
                if key not in current or current[key].position < one.position:
                    current[key] = one
        return sorted(
            (one for one in current.values()
             if one.patient_id == patient_id and one.concept in wanted and from_us <= one.effective_at_us < to_us
             and one.status is not ObservationStatus.ENTERED_IN_ERROR),
            key=lambda one: one.effective_at_us,
        )  # fmt: skip

    async def revisions(self, patient_id: int, concept: int, effective_at_us: int) -> list[Measured]:
        self._ask()
        wanted = (patient_id, concept, effective_at_us)
        return [one for one in self.measurements if (one.patient_id, one.concept, one.effective_at_us) == wanted]

    async def snapshot(self, key: SnapshotKey) -> KeptSnapshot | None:
        self._ask()
        name = snapshot_id(key)
        if name in self.bodies:
            body = self.bodies[name]
            return KeptSnapshot(from_bytes(body).as_of_us, digest(body), body)
        if name in self.digests:
            return KeptSnapshot(*self.digests[name], None)
        return None

    async def latest_snapshot(self, patient_id: int) -> bytes | None:
        self._ask()
        bodies = [body for name, body in self.bodies.items() if parse_snapshot_id(name).patient_id == patient_id]
        return max(bodies, key=lambda body: from_bytes(body).position, default=None)

    async def score_history(
        self, patient_ids: Collection[int], from_us: int, to_us: int
    ) -> dict[int, list[ScorePoint]]:
        self._ask()
        return {
            patient_id: [point for point in self.score_rows.get(patient_id, []) if from_us <= point.at_us < to_us]
            for patient_id in patient_ids
        }

    async def keep_shown(self, body: bytes) -> None:
        self._ask()
        self.shown.append(from_bytes(body).snapshot_id)
        self.bodies[from_bytes(body).snapshot_id] = body

    async def house(self) -> House:
        self._ask()
        return self.the_house

    async def check(self) -> None:
        self._ask()


class Served(NamedTuple):
    """A clinic listening on a real socket, for what an in-process client cannot do: streams and browsers."""

    url: str
    app: Any
    live: FakeLive
    readers: FakeReaders
    stop: Callable[[], None]


class Clinic(NamedTuple):
    """A clinic in this process."""

    client: httpx.AsyncClient
    app: Any
    live: FakeLive
    readers: FakeReaders

    async def settle(self) -> None:
        """Let the background tasks take, name and paint everything published so far."""
        context = self.app.state.context
        deadline = time.monotonic() + 5
        while time.monotonic() < deadline:
            await asyncio.sleep(0.01)
            held = {p: context.ward.twin(p) for p in self.live.latest}
            is_taken = all(twin and twin.body == self.live.latest[p] for p, twin in held.items())
            asked = {p for p, twin in held.items() if p in self.readers.persons and twin and twin.snapshot.is_admitted}
            is_named = not self.readers.is_available or all(context.board.person(p) for p in asked)
            if is_taken and is_named and not context.board._dirty:
                await asyncio.sleep(0.03)
                return
        raise AssertionError("the clinic did not take what was published")


async def _until(is_so: Callable[[], bool]) -> None:
    for _ in range(1000):
        if is_so():
            return
        await asyncio.sleep(0.005)
    raise AssertionError("waited 5 s in vain")


@pytest.fixture
def wards() -> Wards:
    return Wards()


@pytest.fixture(scope="session")
def make_wards() -> type[Wards]:
    """For fixtures that live longer than a test."""
    return Wards


@pytest.fixture(scope="session")
def templates() -> Environment:
    """Compiled once: that is most of what building an application takes."""
    return build_templates()


@pytest.fixture
def clinic_settings(tmp_path: Any) -> Settings:
    return Settings(data_dir=tmp_path, site="test")


@pytest.fixture
def manual_clock() -> ManualClock:
    return ManualClock(NOW_US)


@pytest.fixture
def readers() -> FakeReaders:
    found = FakeReaders()
    found.persons[7] = Person(7, "Hansen", "Ingrid Marie", "1954-06-02", "female", True)
    found.persons[8] = Person(8, "O'Neil", "Tom", "1990", "male")
    return found


@pytest.fixture
async def clinic(
    clinic_settings: Settings, manual_clock: ManualClock, readers: FakeReaders, templates: Environment
) -> AsyncIterator[Clinic]:
    live = FakeLive()
    app = build_app(
        clinic_settings, readers, live, manual_clock, templates=templates, paint_interval_s=0.01, pulse_s=0.2
    )
    transport = httpx.ASGITransport(app, raise_app_exceptions=True)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://localhost") as client,
    ):
        await _until(lambda: app.state.context.ward.is_filled)
        yield Clinic(client, app, live, readers)


@pytest.fixture
def serve(clinic_settings: Settings, readers: FakeReaders, templates: Environment) -> Iterator[Callable[..., Served]]:
    """Start clinics on loopback, each in a thread of its own; they stop when told or at the end."""
    running: list[Callable[[], None]] = []

    def start(
        clock: Any, *, port: int = 0, live: FakeLive | None = None, pulse_s: float = 0.2, **changes: Any
    ) -> Served:
        bus = live or FakeLive()
        app = build_app(
            clinic_settings.model_copy(update=changes),
            readers,
            bus,
            clock,
            templates=templates,
            paint_interval_s=0.05,
            pulse_s=pulse_s,
        )
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", port))
        server = uvicorn.Server(uvicorn.Config(app, log_config=None, access_log=False, timeout_graceful_shutdown=1))
        thread = threading.Thread(target=lambda: server.run([listener]), daemon=True)
        thread.start()
        while not server.started:
            time.sleep(0.01)

        def stop() -> None:
            if thread.is_alive():
                app.state.context.hub.close()
                server.should_exit = True
                thread.join(10)
            listener.close()

        running.append(stop)
        return Served(f"http://127.0.0.1:{listener.getsockname()[1]}", app, bus, readers, stop)

    yield start
    for stop in running:
        stop()
