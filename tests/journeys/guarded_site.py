"""A clinic in which everything that decides who is let in is real: tokens, policy, gate, audit, database, roles.

Here: the application as its own database role, people with tokens and sessions before it, streams read while they are
open, the audit as it lies in the table; fixtures.
Not here: the identity provider (login_provider), the patients (ward_of_cases), what is expected (the tests beside this
module). Only the bus is in memory.
"""

from __future__ import annotations

import asyncio
import importlib.util
import json
import sys
import uuid
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple
from urllib.parse import unquote, urlsplit

import httpx
import psycopg
import pytest
import pytest_asyncio
from psycopg.rows import dict_row

from clinic.app import Access, build_app, build_templates
from clinic.failures import FailureLog
from clinic.identity import Identity
from clinic.readers import StoreReaders
from clinic.sessions import Cookie, Session, SessionTokens, StoredSessions
from clinic.sign_in import PendingCookie
from governance.access import Policy
from governance.audit import Auditor
from governance.gate import Gate
from governance.oidc import Provider
from governance.privacy import open_ring
from stores.database import connect
from stores.pool import Pool
from vocabulary.clock import ManualClock
from vocabulary.settings import Settings
from vocabulary.snapshot import Publication, TwinSnapshot, canonical_bytes


def beside(name: str) -> ModuleType:
    """Return a module beside this one: pytest's import mode gives test folders no package."""
    known = f"vigil_tests_{name}"
    if known not in sys.modules:
        spec = importlib.util.spec_from_file_location(known, Path(__file__).with_name(f"{name}.py"))
        assert spec is not None
        assert spec.loader is not None
        sys.modules[known] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[known])
    return sys.modules[known]


provider = beside("login_provider")
ward = beside("ward_of_cases")
ISSUER, AUDIENCE, NOW_US, NOW_S = provider.ISSUER, provider.AUDIENCE, provider.NOW_US, provider.NOW_S
Issuer, Person, Patient = provider.Issuer, provider.Person, ward.Patient
PATIENTS, FAR, ABSENT, EVERYBODY, MERGED = ward.PATIENTS, ward.FAR, ward.ABSENT, ward.EVERYBODY, ward.MERGED
WARD, OTHER_WARD, TREATING = ward.WARD, ward.OTHER_WARD, ward.TREATING
POSITION, HEART_RATE = ward.POSITION, ward.HEART_RATE
put_glasses, refuse, twin_of = ward.put_glasses, ward.refuse, ward.twin_of

URL = "http://localhost"


# What is live ---------------------------------------------------------------------------------------------------------


class LiveTwins:
    """A bus in memory with everybody's latest snapshot."""

    def __init__(self) -> None:
        self.is_connected = True
        self.dropped = 0
        self.latest = {one.number: canonical_bytes(twin_of(one)) for one in EVERYBODY}
        self._followers: set[asyncio.Queue[Publication]] = set()

    async def snapshots(self) -> dict[int, bytes]:
        return dict(self.latest)

    async def follow(self) -> AsyncIterator[Publication]:
        queue: asyncio.Queue[Publication] = asyncio.Queue()
        self._followers.add(queue)
        try:
            while True:
                yield await queue.get()
        finally:
            self._followers.discard(queue)

    def publish(self, twin: TwinSnapshot) -> None:
        self.latest[twin.patient_id] = body = canonical_bytes(twin)
        for queue in self._followers:
            queue.put_nowait(Publication(twin.snapshot_id, twin.patient_id, twin.ward, body, []))


# The application ------------------------------------------------------------------------------------------------------


class Answer(NamedTuple):
    """All that can be seen of an answer."""

    status: int
    headers: tuple[tuple[bytes, bytes], ...]
    body: bytes

    def header(self, name: str) -> str | None:
        return next((value.decode() for key, value in self.headers if key.decode().lower() == name), None)


class Stream:
    """An answer that is read while it is still being sent: httpx waits for the end of one made in this process."""

    def __init__(self, app: Any, path: str, headers: Mapping[str, str]) -> None:
        self._app = app
        parts = urlsplit(path)
        given = [(b"host", b"localhost"), *((k.lower().encode(), v.encode("latin-1")) for k, v in headers.items())]
        self._scope = {
            "type": "http", "asgi": {"version": "3.0", "spec_version": "2.3"}, "http_version": "1.1", "method": "GET",
            "scheme": "http", "path": unquote(parts.path), "raw_path": parts.path.encode(), "root_path": "",
            "query_string": parts.query.encode(), "headers": given, "client": ("127.0.0.1", 1),
            "server": ("localhost", 80),
        }  # fmt: skip
        self._gone = asyncio.Event()
        self._started: asyncio.Future[tuple[int, tuple[tuple[bytes, bytes], ...]]] = asyncio.Future()
        self._chunks: asyncio.Queue[bytes | None] = asyncio.Queue()
        self._text = ""
        self.said = ""
        self._task: asyncio.Task[None] | None = None
        self._is_asked = False

    async def open(self) -> int:
        """Ask; return the status."""
        self._task = asyncio.create_task(self._app(self._scope, self._receive, self._send))
        await asyncio.wait({self._task, asyncio.ensure_future(asyncio.wait_for(asyncio.shield(self._started), 10))},
                           return_when=asyncio.FIRST_COMPLETED)  # fmt: skip
        if not self._started.done():
            self._task.result()
        return self._started.result()[0]

    async def _receive(self) -> dict[str, Any]:
        if not self._is_asked:
            self._is_asked = True
            return {"type": "http.request", "body": b"", "more_body": False}
        await self._gone.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Any) -> None:
        if message["type"] == "http.response.start":
            self._started.set_result((message["status"], tuple(map(tuple, message["headers"]))))
            return
        self._chunks.put_nowait(message.get("body", b""))
        if not message.get("more_body"):
            self._chunks.put_nowait(None)

    async def event(self, wanted: str, seconds: float = 5) -> Any:
        """Return the data of the next event of a kind."""
        async with asyncio.timeout(seconds):
            while True:
                while "\n\n" in self._text:
                    event, _, self._text = self._text.partition("\n\n")
                    name, _, data = event.partition("\ndata: ")
                    if name == f"event: {wanted}":
                        return json.loads(data)
                chunk = await self._chunks.get()
                if chunk is None:
                    raise AssertionError(f"the stream ended before {wanted}: {self.said[-300:]}")
                self.said += chunk.decode()
                self._text += chunk.decode()

    async def ends(self, seconds: float = 5) -> bool:
        """Return whether it ends by itself."""
        try:
            async with asyncio.timeout(seconds):
                while (chunk := await self._chunks.get()) is not None:
                    self.said += chunk.decode()
        except TimeoutError:
            return False
        return True

    async def close(self) -> Answer:
        """Leave, and return all that was seen."""
        self._gone.set()
        assert self._task is not None
        await self._task
        status, headers = self._started.result()
        while not self._chunks.empty():
            self.said += (self._chunks.get_nowait() or b"").decode()
        return Answer(status, headers, self.said.encode())


class Site:
    """A guarded clinic in this process."""

    def __init__(self, app: Any, access: Access, issuer: Any, live: LiveTwins, url: str, clock: ManualClock) -> None:
        self.app = app
        self.access = access
        self.issuer = issuer
        self.live = live
        self.url = url
        self.clock = clock  # real time, as the gate and the sessions read it
        self.registration = ward.Registration(url)
        self.registration.position = POSITION + 1000
        self.http = httpx.AsyncClient(transport=httpx.ASGITransport(app, raise_app_exceptions=False), base_url=URL)
        self._streams: list[Stream] = []

    def headers(self, person: Any, **more: str) -> dict[str, str]:
        return {"authorization": f"Bearer {person.token(self.issuer)}", **more}

    async def ask(
        self, method: str, path: str, headers: Mapping[str, str], data: Mapping[str, str] | None = None
    ) -> Answer:
        """Return what is answered; of a stream its beginning."""
        if method == "GET" and path.startswith("/streams/"):
            return await self._beginning(path, headers)
        sent = {name: value.encode("latin-1") for name, value in headers.items()}
        answer = await self.http.request(method, path, headers=sent, data=data)
        return Answer(answer.status_code, tuple(answer.headers.raw), answer.content)

    async def _beginning(self, path: str, headers: Mapping[str, str]) -> Answer:
        stream = Stream(self.app, path, headers)
        if await stream.open() == 200:
            await stream.event("beds" if path.startswith("/streams/board") else "parts")
        return await stream.close()

    async def stream(self, path: str, headers: Mapping[str, str]) -> Stream:
        """Open a stream and keep it open until the site closes."""
        stream = Stream(self.app, path, headers)
        self._streams.append(stream)
        assert await stream.open() == 200
        return stream

    async def session(self, person: Any) -> Session:
        """Sign somebody in."""
        sessions = self.access.identity.sessions
        return await sessions.open(person.principal(), SessionTokens("id", ""), f"sid-{person.subject}", 0)

    def browser(self, session: Session, **more: str) -> dict[str, str]:
        """Return the headers of a page of ours in somebody's browser."""
        return {"cookie": f"vigil_session={session.cookie}", "x-vigil-csrf": session.csrf, **more}

    async def audit(self, since: int = 0) -> list[dict[str, Any]]:
        """Return the events after one, oldest first, as they lie in the table."""
        async with await psycopg.AsyncConnection.connect(self.url, row_factory=dict_row) as connection:
            cursor = await connection.execute("select * from audit_event where seq > %s order by writer, seq", (since,))
            return await cursor.fetchall()

    async def last_event(self) -> int:
        async with await psycopg.AsyncConnection.connect(self.url) as connection:
            cursor = await connection.execute("select coalesce(max(seq), 0) from audit_event")
            (found,) = await cursor.fetchone()  # type: ignore[misc]
            return int(found)

    async def execute(self, statement: str, *values: object) -> None:
        async with await psycopg.AsyncConnection.connect(self.url, autocommit=True) as connection:
            await connection.execute(statement, values or None)  # type: ignore[arg-type]

    async def close(self) -> None:
        for stream in self._streams:
            await stream.close()
        await self.http.aclose()


def as_clinic(url: str) -> str:
    """Return an address under which the database sees the clinic's own role."""
    return f"{url}{'&' if '?' in url else '?'}options=-c%20role%3Dvigil_clinic"


@asynccontextmanager
async def open_site(
    url: str,
    settings: Settings,
    issuer: Any,
    *,
    recheck_s: float = 0.2,
    clock: ManualClock | None = None,
    is_started: bool = True,
) -> AsyncIterator[Site]:
    """Hold a guarded clinic whose every connection has the clinic's own role.

    Args:
        url: a seeded database.
        settings: where its keys are.
        issuer: whom it believes.
        recheck_s: how often an open stream is asked about again.
        clock: real time; None: one that stands still until it is told to move.
        is_started: whether its background tasks run; else whoever serves it starts them.
    """
    wall = clock or ManualClock(NOW_US)
    role_url = as_clinic(url)

    async def opened() -> Any:
        return await connect(role_url, application_name="test clinic")

    ring = await open_ring(settings, role_url)
    readers = StoreReaders(role_url, ring)
    auditor = Auditor(opened, "clinic", None, None, wall)
    gate = Gate(Policy.load(), auditor, opened, wall, settings)
    pool = Pool(opened, 4)
    async with issuer.http() as http:
        provider = Provider(settings, http, wall)
        identity = Identity(
            StoredSessions(settings, pool, wall, bytes(32)), Cookie("vigil_session", is_secure=False), provider,
            provider.verifier(), FailureLog(auditor, wall),
        )  # fmt: skip
        pending = PendingCookie(Cookie("vigil_sign_in", is_secure=False), bytes(32))
        let_in = Access(identity, gate, pending, wall, URL)
        live = LiveTwins()
        app = build_app(
            settings, readers, live, let_in, ManualClock(NOW_US), templates=build_templates(), paint_interval_s=0.01,
            pulse_s=0.1, recheck_s=recheck_s,
        )  # fmt: skip
        site = Site(app, let_in, issuer, live, url, wall)
        try:
            async with app.router.lifespan_context(app) if is_started else nullcontext():
                if is_started:
                    await until_named(app)
                yield site
        finally:
            await site.close()
            await auditor.close()
            await gate.close()
            await pool.close()
            await readers.close()
            await ring.close()


async def until_named(app: Any) -> None:
    """Wait until the board holds everybody by name."""
    board = app.state.context.board
    for _ in range(1000):
        names = " ".join(bed.row.name for bed in board.beds())
        if all(one.family in names for one in EVERYBODY):
            return
        await asyncio.sleep(0.01)
    raise AssertionError("the board was not filled")


# Databases ------------------------------------------------------------------------------------------------------------


@dataclass
class Template:
    """A seeded database that every test copies, and the settings with its keys."""

    name: str
    settings: Settings
    issuer: Any = field(default_factory=Issuer)


@pytest.fixture(scope="module")
def template(postgres_server: Any, tmp_path_factory: pytest.TempPathFactory) -> Template:
    name = f"site_{uuid.uuid4().hex[:12]}"
    settings = Settings(
        data_dir=tmp_path_factory.mktemp("site"), site="test", oidc_issuer=ISSUER, oidc_audience=AUDIENCE
    )
    with psycopg.connect(postgres_server.url(), autocommit=True) as connection:
        connection.execute(f"create database {name}")
    asyncio.run(ward.seed(postgres_server.url(name), settings))
    return Template(name, settings)


def copied(server: Any, template: Template) -> Iterator[str]:
    name = f"t_{uuid.uuid4().hex[:12]}"
    with psycopg.connect(server.url(), autocommit=True) as connection:
        connection.execute(f"create database {name} template {template.name}")
        connection.execute(f"grant connect on database {name} to vigil_clinic")
        yield server.url(name)
        connection.execute(f"drop database if exists {name} with (force)")


@pytest.fixture
def site_url(postgres_server: Any, template: Template) -> Iterator[str]:
    """A seeded database of one's own."""
    yield from copied(postgres_server, template)


@pytest_asyncio.fixture(loop_scope="module")
async def site(site_url: str, template: Template) -> AsyncIterator[Site]:
    """A clinic of one's own."""
    async with open_site(site_url, template.settings, template.issuer) as opened:
        yield opened


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared_site(postgres_server: Any, template: Template) -> AsyncIterator[Site]:
    """One clinic for all tests of a module, each with people of its own; none changes what is said of a patient."""
    own = copied(postgres_server, template)
    async with open_site(next(own), template.settings, template.issuer) as opened:
        yield opened
    with suppress(StopIteration):
        next(own)
