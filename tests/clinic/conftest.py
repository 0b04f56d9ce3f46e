"""Fixtures of the clinic's tests: a ward of real TwinSnapshots, a bus and stores that answer from memory."""

from __future__ import annotations

import asyncio
import importlib.util
import secrets
import socket
import sys
import threading
import time
import uuid
from collections.abc import AsyncIterator, Callable, Collection, Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import httpx
import msgspec
import psycopg
import pytest
import uvicorn
from jinja2 import Environment

from clinic.app import Access, build_app, build_templates
from clinic.identity import Identity
from clinic.questions import FeedSummary, House, KeptSnapshot, Measured, Minute, Person, RiskPoint, ScorePoint, Stay
from clinic.sessions import Cookie, Session, SessionTokens
from clinic.sign_in import PendingCookie
from governance.access import Ask, Decision, PatientFacts, Principal, Purpose, Relationship, Role
from governance.statements import ServingRow
from stores.database import migrate
from vocabulary.clock import ManualClock, SystemClock
from vocabulary.concepts import by_key
from vocabulary.errors import UnavailableError
from vocabulary.records import ObservationStatus, partition_of
from vocabulary.settings import Settings
from vocabulary.snapshot import (
    FeedState,
    Provenance,
    Publication,
    RiskForecast,
    RiskReason,
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
        risks: Sequence[RiskForecast] = (),
        serving: int = 0,
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
            provenance=Provenance(
                "0.1.0", "0123456789abcdef", "vigil-concepts@1", {"news2": "1 sha256:12ab"},
                model=f"{risks[0].model}@{risks[0].version}" if risks else "", serving=serving,
            ),
            risks=list(risks),
        )  # fmt: skip

    def risk(self, probability: float | None = 0.234, **changes: Any) -> RiskForecast:
        """Return an estimate of the model mortality 3; None abstains."""
        forecast = RiskForecast(
            model="mortality", version=3, title="Risk of dying in hospital",
            outcome="death before discharge from this hospital stay", probability=probability,
            low=None if probability is None else max(probability - 0.05, 0.001),
            high=None if probability is None else min(probability + 0.06, 0.999), level=0.8,
            hours_since_admission=36.0, is_high=probability is not None and probability >= 0.3, threshold=0.3,
            reasons=[] if probability is None else [
                RiskReason("kidney", "Kidney function (creatinine, urea, urine output)", 0.81),
                RiskReason("consciousness", "Consciousness (Glasgow coma score)", -0.42),
                RiskReason("circulation", "Circulation (pressures, heart rate)", 0.12),
            ],
            abstention="" if probability is not None else "too_little_data",
            statement="" if probability is not None else "Fewer than 3 vital signs were charted.",
            is_synthetic=False, conditions=[],
        )  # fmt: skip
        return msgspec.structs.replace(forecast, **changes)

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
        self.dropped = 0
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
        self.risk_rows: dict[int, list[RiskPoint]] = {}  # by stay
        self.serving_rows: dict[int, ServingRow] = {}
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

    async def risk_history(self, patient_id: int, encounter_id: int) -> list[RiskPoint]:
        self._ask()
        return self.risk_rows.get(encounter_id, [])

    async def serving_row(self, serving_id: int) -> ServingRow | None:
        self._ask()
        return self.serving_rows.get(serving_id)

    async def keep_shown(self, body: bytes) -> None:
        self._ask()
        self.shown.append(from_bytes(body).snapshot_id)
        self.bodies[from_bytes(body).snapshot_id] = body

    async def house(self) -> House:
        self._ask()
        return self.the_house

    async def check(self) -> None:
        self._ask()


class OpenPolicy:
    """Permits everything, for tests of what is shown; who may see it is tested with the real one (test_doors)."""

    def decide(self, principal: Principal, ask: Ask, facts: PatientFacts | None) -> Decision:
        return Decision(is_permitted=True, rule="open")

    def purpose_for(self, roles: Any, surface: Any, verb: Any) -> Purpose:
        return Purpose.TREATMENT


class OpenGate:
    """Permits everything about everybody there is."""

    def __init__(self, readers: FakeReaders) -> None:
        self.policy = OpenPolicy()
        self.asked: list[Ask] = []
        self._readers = readers

    async def ask(self, principal: Principal, ask: Ask, *, view: str = "", detail: str = "") -> Decision:
        self.asked.append(ask)
        if ask.patient_id is not None and ask.patient_id not in self._readers.persons:
            return Decision(is_permitted=False, rule="unknown-patient")
        return Decision(is_permitted=True, rule="open")

    async def visible(self, principal: Principal, ask: Ask, patient_ids: Any, **_more: str) -> set[int]:
        self.asked.append(ask)
        return set(patient_ids)

    async def facts(self, principal: Principal, patient_ids: Any) -> dict[int, PatientFacts]:
        return {one: PatientFacts(patient_id=one, relationship=Relationship.TREATING) for one in patient_ids}

    async def wards(self, principal: Principal) -> frozenset[str]:
        return principal.units


class FakeSessions:
    """Sessions in memory."""

    def __init__(self) -> None:
        self.held: dict[str, Session] = {}

    def add(self, principal: Principal) -> Session:
        session = Session(secrets.token_bytes(32), secrets.token_hex(4), principal, "sid", 0, 1 << 60)
        self.held[session.cookie] = session
        return session

    async def find(self, cookie: str) -> Session | None:
        return self.held.get(cookie)

    async def touch(self, session: Session) -> None:
        return None

    async def tokens_to_refresh(self, session: Session) -> SessionTokens | None:
        return None

    async def end(self, session: Session) -> bool:
        return self.held.pop(session.cookie, None) is not None


NURSE = Principal(
    issuer="https://login.test", subject="n1", name="Nora Lind", roles=frozenset({Role.NURSE}),
    units=frozenset({"ICU-A", "MED-3"}),
)  # fmt: skip


class NoFailures:
    """Keeps what failed."""

    def __init__(self) -> None:
        self.reasons: list[str] = []

    async def record(self, reason: str, **_more: str) -> None:
        self.reasons.append(reason)


def open_access(readers: FakeReaders, url: str = "http://localhost") -> tuple[Access, Session]:
    """Return what lets a nurse see everything, and their session."""
    sessions = FakeSessions()
    session = sessions.add(NURSE)
    cookie = Cookie("vigil_session", is_secure=False)
    identity = Identity(sessions, cookie, None, None, NoFailures())  # type: ignore[arg-type]
    pending = PendingCookie(Cookie("vigil_sign_in", is_secure=False), bytes(32))
    access = Access(identity, OpenGate(readers), pending, SystemClock(), url)  # type: ignore[arg-type]
    return access, session


def _as(session: Session) -> dict[str, Any]:
    """Return how a browser's client with this session asks."""
    return {"cookies": {"vigil_session": session.cookie}, "headers": {"x-vigil-csrf": session.csrf}}


class Served(NamedTuple):
    """A clinic listening on a real socket, for what an in-process client cannot do: streams and browsers."""

    url: str
    app: Any
    live: FakeLive
    readers: FakeReaders
    stop: Callable[[], None]
    cookies: dict[str, str]
    access: Access


class Clinic(NamedTuple):
    """A clinic in this process."""

    client: httpx.AsyncClient
    app: Any
    live: FakeLive
    readers: FakeReaders

    @property
    def gate(self) -> OpenGate:
        """Return the gate, which keeps what it was asked."""
        gate: OpenGate = self.app.state.context.gate
        return gate

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
    access, session = open_access(readers)
    app = build_app(
        clinic_settings, readers, live, access, manual_clock, templates=templates, paint_interval_s=0.01, pulse_s=0.2
    )
    transport = httpx.ASGITransport(app, raise_app_exceptions=True)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://localhost", **_as(session)) as client,
    ):
        await _until(lambda: app.state.context.ward.is_filled)
        yield Clinic(client, app, live, readers)


def _load_beside(name: str) -> ModuleType:
    """Return a plain module of this folder: pytest's import mode gives test folders no package."""
    known = f"vigil_tests_{name}"
    if known not in sys.modules:
        spec = importlib.util.spec_from_file_location(known, Path(__file__).parent / f"{name}.py")
        assert spec is not None
        assert spec.loader is not None
        sys.modules[known] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[known])
    return sys.modules[known]


@pytest.fixture(scope="session")
def guarded() -> ModuleType:
    """The module tests/clinic/guarded_house.py."""
    return _load_beside("guarded_house")


@pytest.fixture(scope="session")
def seeded_template(postgres_server: Any, guarded: ModuleType) -> str:
    """Name of a migrated database with people in beds, that each test copies."""
    name = f"clinic_{uuid.uuid4().hex[:12]}"
    with psycopg.connect(postgres_server.url(), autocommit=True) as connection:
        connection.execute(f"create database {name}")
    asyncio.run(migrate(postgres_server.url(name)))
    asyncio.run(guarded.seed(postgres_server.url(name)))
    return name


@pytest.fixture
def seeded_url(postgres_server: Any, seeded_template: str) -> Iterator[str]:
    """A database of one's own with people in beds."""
    name = f"t_{uuid.uuid4().hex[:12]}"
    with psycopg.connect(postgres_server.url(), autocommit=True) as connection:
        connection.execute(f"create database {name} template {seeded_template}")
        yield postgres_server.url(name)
        connection.execute(f"drop database if exists {name} with (force)")


@pytest.fixture
def live() -> FakeLive:
    return FakeLive()


@pytest.fixture
def seeded_readers(readers: FakeReaders) -> FakeReaders:
    """Who the people in the seeded beds are."""
    readers.persons[9] = Person(9, "Berg", "Ada", "1971-01-01", "female")
    readers.persons[10] = Person(10, "Quist", "Per", "1948-01-01", "male")
    readers.redirects[5] = 7
    readers.identifiers |= {("HOSP", f"MRN-{number}"): number for number in (7, 8, 9, 10)}
    return readers


@pytest.fixture
def site(
    request: pytest.FixtureRequest,
    seeded_url: str,
    clinic_settings: Settings,
    wards: Wards,
    seeded_readers: FakeReaders,
    templates: Environment,
    guarded: ModuleType,
    live: FakeLive,
    tmp_path: Path,
) -> Iterator[Any]:
    """A guarded clinic and the development issuer, each on a port; its parameter is the host browsers use."""
    serve_site = _load_beside("served_site").serve_site
    arguments = (seeded_url, clinic_settings, wards, live, seeded_readers, templates, tmp_path)
    with serve_site(guarded.open_house, *arguments, host=getattr(request, "param", "127.0.0.1")) as served:
        yield served


@pytest.fixture
async def house(
    seeded_url: str,
    clinic_settings: Settings,
    wards: Wards,
    seeded_readers: FakeReaders,
    templates: Environment,
    guarded: ModuleType,
    live: FakeLive,
) -> AsyncIterator[Any]:
    """A clinic behind the real policy, gate, audit and sessions, with a twin for each seeded patient."""
    for patient_id, ward in ((7, "ICU-A"), (8, "ICU-A"), (9, "MED-3"), (10, "ICU-A")):
        live.publish(wards.snapshot(patient_id, ward=ward, bed=f"0{patient_id}"))
    wall_clock = ManualClock(NOW_US)
    async with guarded.open_house(
        seeded_url, clinic_settings, ManualClock(NOW_US), wall_clock, live, seeded_readers, templates
    ) as opened:
        board = opened.app.state.context.board
        await _until(lambda: len([bed for bed in board.beds() if "Patient" not in bed.row.name]) == 4)
        opened.wall_clock = wall_clock
        yield opened


@pytest.fixture
def serve(clinic_settings: Settings, readers: FakeReaders, templates: Environment) -> Iterator[Callable[..., Served]]:
    """Start clinics on loopback, each in a thread of its own; they stop when told or at the end."""
    running: list[Callable[[], None]] = []

    def start(
        clock: Any,
        *,
        port: int = 0,
        live: FakeLive | None = None,
        pulse_s: float = 0.2,
        access: Access | None = None,
        cookies: dict[str, str] | None = None,
        **changes: Any,
    ) -> Served:
        bus = live or FakeLive()
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", port))
        address = f"http://127.0.0.1:{listener.getsockname()[1]}"
        if access is None:
            access, session = open_access(readers, address)
            cookies = _as(session)["cookies"]
        app = build_app(
            clinic_settings.model_copy(update=changes),
            readers,
            bus,
            access,
            clock,
            templates=templates,
            paint_interval_s=0.05,
            pulse_s=pulse_s,
            recheck_s=0.3,
        )
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
        return Served(address, app, bus, readers, stop, cookies or {}, access)

    yield start
    for stop in running:
        stop()


# WCAG 2.1, 1.4.3: every visible text against the background behind it; 4.5, or 3 for large text.
CONTRAST = """() => {
  const channel = c => (c /= 255, c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
  const read = text => text.match(/[\\d.]+/g).map(Number);
  const luminance = ([r, g, b]) => 0.2126 * channel(r) + 0.7152 * channel(g) + 0.0722 * channel(b);
  const behind = element => {
    for (; element; element = element.parentElement) {
      const color = read(getComputedStyle(element).backgroundColor);
      if (color.length < 4 || color[3] === 1) return color;
    }
    return [255, 255, 255];
  };
  const poor = [];
  for (const element of document.querySelectorAll("body *")) {
    const own = [...element.childNodes].some(node => node.nodeType === 3 && node.textContent.trim());
    if (!own || !element.checkVisibility() || element.closest(".unseen, .skip, svg")) continue;
    const style = getComputedStyle(element);
    const [a, b] = [luminance(read(style.color)), luminance(behind(element))].sort((x, y) => y - x);
    const ratio = (a + 0.05) / (b + 0.05);
    const size = parseFloat(style.fontSize);
    const isLarge = size >= 24 || (size >= 18.66 && Number(style.fontWeight) >= 700);
    if (ratio < (isLarge ? 3 : 4.5)) poor.push(`${element.className} ${ratio.toFixed(2)} ${element.textContent}`);
  }
  return poor;
}"""


@pytest.fixture(scope="session")
def contrast() -> str:
    """A script that returns what a page shows with too little contrast."""
    return CONTRAST
