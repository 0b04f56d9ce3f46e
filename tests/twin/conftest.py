"""Fixtures of the live plane: a whole one with sockets, a simulated one without, and databases for several runs."""

from __future__ import annotations

import asyncio
import importlib.util
import sys
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import psycopg
import pytest

from governance import privacy
from governance.audit import Auditor
from orchestration.embedded import EmbeddedNats, EmbeddedPostgres
from stores.database import connect, migrate
from twin import forecast
from twin.serving import ServingFollower
from vocabulary.clock import ManualClock
from vocabulary.settings import Settings
from vocabulary.signing import SigningKey


def load_beside(name: str) -> ModuleType:
    """A plain module of this folder: pytest's import mode gives test folders no package."""
    known = f"vigil_tests_{name}"
    if known not in sys.modules:
        spec = importlib.util.spec_from_file_location(known, Path(__file__).parent / f"{name}.py")
        assert spec is not None
        assert spec.loader is not None
        sys.modules[known] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[known])
    return sys.modules[known]


@pytest.fixture(scope="session")
def live_plane() -> ModuleType:
    """The module tests/twin/live_plane.py."""
    return load_beside("live_plane")


@pytest.fixture(scope="session")
def simulation(live_plane: ModuleType) -> ModuleType:
    """The module tests/twin/simulation.py."""
    return load_beside("simulation")


@pytest.fixture(scope="session")
def small_model() -> ModuleType:
    """The module tests/twin/small_model.py."""
    return load_beside("small_model")


@pytest.fixture(scope="session")
def committee() -> ModuleType:
    """The module tests/twin/committee.py."""
    return load_beside("committee")


@pytest.fixture
def signing_root() -> SigningKey:
    """The offline root key of a test's house."""
    return SigningKey.generate()


@pytest.fixture
def model_settings(live_plane: ModuleType, tmp_path: Path, signing_root: SigningKey) -> Settings:
    """Settings of a demonstration house whose roster a root key signs."""
    settings = live_plane.settings_for(
        tmp_path, "postgresql://unused", "nats://unused", mode="demo", signer_root=signing_root.verifying.text()
    )
    assert isinstance(settings, Settings)
    return settings


@pytest.fixture
def committee_of(
    simulation: ModuleType,
    live_plane: ModuleType,
    model_settings: Settings,
    signing_root: SigningKey,
) -> Callable[..., Awaitable[object]]:
    """Makes wards (tests/twin/ward.py) over a database."""

    async def make(url: str, log: object | None = None, *, seed: int = 1, auditor: Auditor | None = None) -> object:
        clock = ManualClock(simulation.START)
        # A house of its own, that the rows of one database are not missed in another.
        home = model_settings.data_dir / uuid.uuid4().hex[:8]
        settings = model_settings.model_copy(update={"data_dir": home})
        privacy.prepare(settings)
        log = log or simulation.Log()
        follower = ServingFollower(settings, lambda: connect(url, application_name="test follower"), clock, auditor)
        run = simulation.Run(log, settings, url, forecast.open_forecaster(settings), seed, follower)
        hospital = live_plane.Hospital(lambda: log.now_us)  # type: ignore[attr-defined]
        made = load_beside("ward").Ward(
            run, hospital, load_beside("committee").Committee(signing_root, settings, clock), follower, clock
        )
        made.connection = await connect(url, application_name="test")
        return made

    return make


@pytest.fixture
async def ward(committee_of: Callable[..., Awaitable[Any]], new_database: Callable[[], str]) -> AsyncIterator[object]:
    """A simulated house with a serving record, opened."""
    made = await committee_of(new_database())
    await made.run.open()
    yield made
    await made.close()


@pytest.fixture(scope="session")
def template_database(postgres_server: EmbeddedPostgres) -> str:
    """Name of a migrated database that others are copied from."""
    name = f"template_{uuid.uuid4().hex[:12]}"
    with psycopg.connect(postgres_server.url(), autocommit=True) as connection:
        connection.execute(f"create database {name}")
    asyncio.run(migrate(postgres_server.url(name)))
    return name


@pytest.fixture
def new_database(postgres_server: EmbeddedPostgres, template_database: str) -> Iterator[Callable[[], str]]:
    """Makes migrated, empty databases and returns their addresses."""
    made: list[str] = []
    with psycopg.connect(postgres_server.url(), autocommit=True) as connection:

        def make() -> str:
            made.append(f"t_{uuid.uuid4().hex[:12]}")
            connection.execute(f"create database {made[-1]} template {template_database}")
            return postgres_server.url(made[-1])

        yield make
        for name in made:
            connection.execute(f"drop database if exists {name} with (force)")


@pytest.fixture
async def live(
    live_plane: ModuleType, new_database: Callable[[], str], nats_server: EmbeddedNats, tmp_path: Path
) -> AsyncIterator[object]:
    """A whole live plane on the real clock."""
    url = new_database()
    settings = live_plane.settings_for(tmp_path, url, nats_server.url())
    plane = live_plane.LivePlane(settings, url, nats_server.url(), live_plane.system_clock())
    await plane.start()
    yield plane
    await plane.stop()


@pytest.fixture
def hospital(live: object, live_plane: ModuleType) -> object:
    """A small hospital that lives by the plane's clock."""
    return live_plane.Hospital(live.clock.now_us)  # type: ignore[attr-defined]
