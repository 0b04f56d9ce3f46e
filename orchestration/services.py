"""What `vigil up` runs: PostgreSQL, nats-server, and the twin's and the clinic's processes, wired to each other.

Here: which services there are, the addresses and environment they share, ending what an earlier run left.
Not here: one service's start and health (orchestration.service_kinds), restarting (orchestration.supervisor), binaries
(orchestration.embedded), what the processes do (twin, clinic).
"""

from __future__ import annotations

import json
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType

from pydantic import SecretStr

from orchestration import processes
from orchestration.data_dir import DataDir, ScaledTime
from orchestration.embedded import EmbeddedNats, EmbeddedPostgres, require_free
from orchestration.health import FULL_DISK_BYTES, STALE_AFTER_S, age_s, raw_trouble
from orchestration.service_kinds import (
    STOP_GRACE_S,
    STORAGE,
    ExternalService,
    NatsService,
    PostgresService,
    ProcessService,
)
from orchestration.supervisor import Supervisor
from twin import health
from vocabulary.errors import ConfigurationError
from vocabulary.settings import Settings, is_loopback

START_TIMEOUT_S = 90.0
MEND_INTERVAL_S = 60.0

PROGRAMS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "ingress": ("-m", "twin", "ingress"),
        "normalizer": ("-m", "twin", "normalizer"),
        "engine": ("-m", "twin", "engine"),
        "keeper": ("-m", "twin", "keeper"),
        "clinic": ("-m", "clinic"),
    }
)
"""Our own processes in the order they start: their names, and what follows `python`."""


def resolve(settings: Settings, data_dir: DataDir) -> tuple[Settings, dict[str, int]]:
    """Return the settings with every port filled in, and the ports by name.

    Raises:
        ConfigurationError: the listeners would be reachable from other machines.
    """
    if not is_loopback(settings.host):
        raise ConfigurationError(
            f"VIGIL_HOST={settings.host} would open the listeners to other machines, which needs TLS and identity: "
            "not available yet. Use 127.0.0.1, and a reverse proxy or a tunnel of your own."
        )
    names = [feed.name for feed in settings.feeds]
    if len(set(names)) < len(names):
        raise ConfigurationError(f"Two feeds have one name: {', '.join(names)}. Give each its own in VIGIL_FEEDS.")
    wanted = {"clinic": settings.clinic_port}
    if settings.database_url is None:
        wanted["postgres"] = settings.postgres_port
    if settings.nats_url is None:
        wanted |= {"nats": settings.nats_port, "mqtt": settings.mqtt_port}
    wanted |= {f"feed.{feed.name}": feed.port for feed in settings.feeds}
    ports = data_dir.ports(wanted)
    if len(set(ports.values())) < len(ports):
        raise ConfigurationError(f"Two services are configured to one port: {ports}. Give each its own, or 0.")
    feeds = tuple(feed.model_copy(update={"port": ports[f"feed.{feed.name}"]}) for feed in settings.feeds)
    return settings.model_copy(
        update={"data_dir": data_dir.root, "feeds": feeds, "clinic_port": ports["clinic"]}
    ), ports


def environment_of(settings: Settings) -> dict[str, str]:
    """Return the environment for a child: ours, with every setting spelled out so that no other file changes it."""
    environment = {name: value for name, value in os.environ.items() if not name.upper().startswith("VIGIL_")}
    for name in type(settings).model_fields:
        value = getattr(settings, name)
        if value is None:
            continue
        if isinstance(value, SecretStr):
            text = value.get_secret_value()
        elif isinstance(value, tuple):
            text = json.dumps([feed.model_dump(mode="json") for feed in value])
        elif isinstance(value, dict):
            text = json.dumps(value)
        else:
            text = str(value)
        environment[f"VIGIL_{name.upper()}"] = text
    return environment | {"PYTHONUNBUFFERED": "1"}


def embedded_servers(data_dir: DataDir, ports: dict[str, int]) -> tuple[EmbeddedPostgres | None, EmbeddedNats | None]:
    """Return the servers of this directory that are ours to run, by the ports given to them."""
    postgres = EmbeddedPostgres(data_dir.postgres, ports["postgres"]) if "postgres" in ports else None
    nats = EmbeddedNats(data_dir.nats, ports["nats"], ports["mqtt"]) if "nats" in ports else None
    return postgres, nats


def end_leftovers(data_dir: DataDir) -> list[str]:
    """End what a supervisor that was killed left running; only processes that are certainly ours.

    Returns:
        The names of the services that were ended.
    """
    state = data_dir.read_state()
    ended = []
    for running in reversed(state.services if state else []):
        if running.identity is None or not processes.is_alive(running.identity):
            continue
        if running.name == PostgresService.name and state is not None:
            EmbeddedPostgres(data_dir.postgres, state.ports["postgres"]).stop()
        processes.end(running.identity, STOP_GRACE_S)
        ended.append(running.name)
    data_dir.forget_state()
    return ended


class House:
    """Everything of one data directory, ready to be started: the supervisor and the settings it was made of."""

    def __init__(self, settings: Settings, data_dir: DataDir, command: str) -> None:
        """Plan the services; ports are chosen, nothing is started.

        Raises:
            ConfigurationError: a setting cannot work; a binary is missing.
        """
        resolved, ports = resolve(settings, data_dir)
        self.data_dir = data_dir
        self._resolved = resolved
        self._postgres, self._nats = embedded_servers(data_dir, ports)
        self._public = {"clinic": ports["clinic"]} | {f.name: f.port for f in resolved.feeds}
        self._environment: dict[str, str] = {}
        self._mended_at = 0.0
        self.feed_addresses = {feed.name: (resolved.host, feed.port) for feed in resolved.feeds}
        self.board_url = f"http://{resolved.host}:{resolved.clinic_port}/"
        storage = [
            PostgresService(self._postgres)
            if self._postgres
            else ExternalService("PostgreSQL", _secret(resolved.database_url), 5432),
            NatsService(self._nats) if self._nats else ExternalService("nats-server", _secret(resolved.nats_url), 4222),
        ]
        listeners = " ".join(f"{feed.name}={resolved.host}:{feed.port}" for feed in resolved.feeds)
        # The children's environment holds the database's address, which exists only once PostgreSQL was made.
        where = {"ingress": listeners, "clinic": self.board_url}
        ours = [
            ProcessService(name, program, where.get(name, ""), self._environment, data_dir)
            for name, program in PROGRAMS.items()
        ]
        self.supervisor = Supervisor(
            [*storage, *ours], data_dir, command, ports, self._between, _scaled_time(resolved), self._mend
        )

    @property
    def settings(self) -> Settings:
        """Return the settings with the servers' addresses in them; complete once storage has started."""
        return connected(self._resolved, self._postgres, self._nats)

    def check_addresses(self) -> None:
        """Check that nothing else listens where senders and people are told to go.

        Raises:
            ConfigurationError: something does; names it.
        """
        for name, port in self._public.items():
            setting = "VIGIL_CLINIC_PORT" if name == "clinic" else "the feed's port in VIGIL_FEEDS"
            require_free(port, "The clinic's pages" if name == "clinic" else f"The feed {name}", setting)

    def _between(self, stage: int) -> None:
        if stage == STORAGE:
            settings = self.settings
            migrate(settings)
            self._environment.update(environment_of(settings))

    def _mend(self) -> None:
        """Start nats-server anew when RAW still refuses writes though its disk has room again.

        After a full disk nats-server answers every write with the old error until it is started anew (seen with 2.12).
        """
        now = time.monotonic()
        if self._nats is None or self._nats.pid() is None or now - self._mended_at < MEND_INTERVAL_S:
            return
        report = health.read(self.data_dir.run, "ingress")
        if report is None or age_s(report) > STALE_AFTER_S or report.detail.get("is_raw_full"):
            return
        has_room = shutil.disk_usage(self.data_dir.root).free >= FULL_DISK_BYTES
        if raw_trouble(report) and has_room:
            self._mended_at = now
            self._nats.stop()


def _scaled_time(settings: Settings) -> ScaledTime | None:
    if settings.clock_origin_us is None or settings.clock_started_at_us is None:
        return None
    return ScaledTime(settings.clock_origin_us, settings.clock_started_at_us, settings.clock_speed)


def _secret(value: SecretStr | None) -> str:
    return value.get_secret_value() if value is not None else ""


def connected(settings: Settings, postgres: EmbeddedPostgres | None, nats: EmbeddedNats | None) -> Settings:
    """Return the settings with the embedded servers' addresses where no external ones are set."""
    update: dict[str, SecretStr] = {}
    if postgres is not None:
        update["database_url"] = SecretStr(postgres.url())
    if nats is not None:
        update["nats_url"] = SecretStr(nats.url())
    return settings.model_copy(update=update)


def migrate(settings: Settings) -> list[str]:
    """Bring the database's schema up to date and return the migrations that were run."""
    import asyncio

    from stores import database

    return asyncio.run(database.migrate(_secret(settings.database_url)))


@contextmanager
def running(
    settings: Settings,
    command: str,
    stopping: threading.Event,
    on_change: Callable[[House], None] = lambda _house: None,
    on_leftovers: Callable[[list[str]], None] = lambda _names: None,
    *,
    is_fresh: bool = False,
) -> Iterator[House]:
    """Run everything while the block runs; on leaving, stop it in reverse order.

    Args:
        settings: as the operator set them.
        command: "up" or "demo", for the record.
        stopping: set to give up while starting.
        on_change: called with the house whenever there may be something new to show while starting.
        is_fresh: for demonstrations: what an earlier one kept is removed first, but for its addresses.
        on_leftovers: called with the names of processes of a killed supervisor that were ended first.

    Raises:
        ConfigurationError: it cannot run as configured; nothing was left running.
        UnavailableError: something did not come up; nothing was left running.
    """
    data_dir = DataDir(settings.data_dir)
    data_dir.prepare()
    with data_dir.lock():
        ended = end_leftovers(data_dir)
        if ended:
            on_leftovers(ended)
        if is_fresh:
            data_dir.clear_demonstration()
        house = House(settings, data_dir, command)
        house.check_addresses()
        house.supervisor.start(START_TIMEOUT_S, stopping, lambda: on_change(house))
        try:
            yield house
        finally:
            house.supervisor.stop()
