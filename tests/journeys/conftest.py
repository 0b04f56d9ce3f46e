"""Journeys travel through the same live plane as the room tests: tests/twin/live_plane.py."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from types import ModuleType

import pytest

from orchestration.embedded import EmbeddedNats
from stores.database import migrate


@pytest.fixture(scope="session")
def live_plane() -> ModuleType:
    """The module tests/twin/live_plane.py; pytest's import mode gives test folders no package."""
    known = "vigil_tests_live_plane"
    if known not in sys.modules:
        path = Path(__file__).parent.parent / "twin" / "live_plane.py"
        spec = importlib.util.spec_from_file_location(known, path)
        assert spec is not None
        assert spec.loader is not None
        sys.modules[known] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[known])
    return sys.modules[known]


@pytest.fixture
async def live(
    live_plane: ModuleType, database_url: str, nats_server: EmbeddedNats, tmp_path: Path
) -> AsyncIterator[object]:
    """A whole live plane on the real clock, its monitors' feed limited to 1 MiB a message."""
    await migrate(database_url)
    feeds = tuple(
        feed.model_copy(update={"max_message_bytes": 1024 * 1024}) if feed.name == "monitors" else feed
        for feed in live_plane.FEEDS
    )
    settings = live_plane.settings_for(tmp_path, database_url, nats_server.url(), feeds=feeds)
    plane = live_plane.LivePlane(settings, database_url, nats_server.url(), live_plane.system_clock())
    await plane.start()
    yield plane
    await plane.stop()


@pytest.fixture
def hospital(live: object, live_plane: ModuleType) -> object:
    """A small hospital that lives by the plane's clock."""
    return live_plane.Hospital(live.clock.now_us)  # type: ignore[attr-defined]
