"""What `vigil up` runs: PostgreSQL, nats-server, and the twin's and the clinic's processes, wired to each other.

Here: which services there are, the addresses and environment they share, ending what an earlier run left.
Not here: one service's start and health (orchestration.service_kinds), restarting (orchestration.supervisor), binaries
(orchestration.embedded), what the processes do (twin, clinic).
"""

from __future__ import annotations

import asyncio
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import MappingProxyType

from governance import key_destruction, privacy
from governance.notary import ensure_notary, pin_unsigned_ends, register_key
from orchestration import database_roles, demo_sign_in, doors, processes
from orchestration.addresses import WILDCARDS, Servers, board_url, connected, embedded_servers, resolve, secret, today
from orchestration.credentials import PROCESSES, SETUP, Identities, environment_of
from orchestration.data_dir import DataDir, ScaledTime
from orchestration.embedded import LOOPBACK, EmbeddedPostgres, require_free
from orchestration.health import FULL_DISK_BYTES, STALE_AFTER_S, age_s, raw_trouble
from orchestration.service_kinds import (
    STOP_GRACE_S,
    STORAGE,
    ExternalService,
    NatsService,
    PostgresService,
    ProcessService,
)
from orchestration.supervisor import Service, Supervisor
from stores import database
from twin import health
from vocabulary.clock import SystemClock
from vocabulary.errors import VigilError
from vocabulary.settings import Settings
from vocabulary.signing import SigningKey

START_TIMEOUT_S = 90.0
MEND_INTERVAL_S = 60.0
RENEWAL_INTERVAL_S = 24 * 3600.0
"""How often certificates are looked at while everything runs; they are renewed 30 days before their end."""

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
        self._servers = embedded_servers(resolved, data_dir, ports)
        self._public = {"clinic": ports["clinic"]} | {f.name: f.port for f in resolved.feeds}
        # Each child's environment holds its own addresses, which exist only once the servers were made ready.
        self._environments: dict[str, dict[str, str]] = {name: {} for name in PROGRAMS}
        self._mended_at = 0.0
        self._renewed_at = time.monotonic()
        self._as_set = settings
        near = LOOPBACK if resolved.host in WILDCARDS else resolved.host
        self.feed_addresses = {feed.name: (near, feed.port) for feed in resolved.feeds}
        self.board_url = board_url(resolved)
        self.people = demo_sign_in.PEOPLE if "issuer" in ports else ""
        where = {"ingress": " ".join(f"{feed.name}={resolved.host}:{feed.port}" for feed in resolved.feeds)}
        where["clinic"] = self.board_url
        self._ours = {
            name: ProcessService(name, program, where.get(name, ""), self._environments[name], data_dir)
            for name, program in PROGRAMS.items()
        }
        self.supervisor = Supervisor(
            [*self._storage(), *self._issuer(ports), *self._ours.values()],
            data_dir,
            command,
            ports,
            self._between,
            _scaled_time(resolved),
            self._mend,
            doors.of_house(resolved, ports, self._servers),
            doors.notes(resolved),
        )

    def _storage(self) -> list[Service]:
        postgres, nats = self._servers
        return [
            PostgresService(postgres)
            if postgres
            else ExternalService("PostgreSQL", secret(self._resolved.database_url), 5432),
            NatsService(nats) if nats else ExternalService("nats-server", secret(self._resolved.nats_url), 4222),
        ]

    def _issuer(self, ports: dict[str, int]) -> list[Service]:
        if "issuer" not in ports:
            return []
        return [demo_sign_in.service(self._resolved, ports["issuer"], self.board_url, self.data_dir)]

    @property
    def settings(self) -> Settings:
        """Return the settings an operator's command works with; complete once storage has started."""
        return connected(self._resolved, self.data_dir, self._servers, "operator")

    def sender_identity(self) -> Path | None:
        """Return an identity for a demonstration's senders, made now; None where listeners speak plain text."""
        if not any(self._resolved.speaks_tls(feed.listener, today()) for feed in self._resolved.feeds):
            return None
        identities = Identities(self.data_dir, self._resolved)
        folder = self.data_dir.root / "hospital"
        identities.listeners.issue(folder, "hospital")
        return folder

    def check_addresses(self) -> None:
        """Check that nothing else listens where senders and people are told to go.

        Raises:
            ConfigurationError: something does; names it.
        """
        for name, port in self._public.items():
            setting = "VIGIL_CLINIC_PORT" if name == "clinic" else "the feed's port in VIGIL_FEEDS"
            what = "The clinic's pages" if name == "clinic" else f"The feed {name}"
            require_free(port, what, setting, self._resolved.host)

    def _between(self, stage: int) -> None:
        if stage == STORAGE:
            make_ready(self._resolved, self.data_dir, self._servers)
            for name, environment in self._environments.items():
                told = connected(self._resolved, self.data_dir, self._servers, name)
                environment.update(environment_of(told, name))

    def renew(self) -> list[str]:
        """Renew certificates that are about to end, take them into use, and return whose they were.

        PostgreSQL reads its own again; everybody else reads theirs at a start, which takes a second or two.
        """
        made = Identities(self.data_dir, self._as_set).prepare()
        if not made:
            return []
        if self._servers.postgres is not None:
            self._servers.postgres.reload()
        if self._servers.nats is not None and "nats-server" in made:
            self._servers.nats.stop()
        users = {"server": ("ingress", "clinic", "nats-server")}
        for name in {user for one in made for user in users.get(one, (one,))} & set(self._ours):
            self._ours[name].stop()
        return made

    def _mend(self) -> None:
        """Renew certificates in time; start nats-server anew when RAW refuses writes though its disk has room again.

        After a full disk nats-server answers every write with the old error until it is started anew (seen with 2.12).
        """
        now = time.monotonic()
        if now - self._renewed_at > RENEWAL_INTERVAL_S:
            self._renewed_at = now
            # What cannot be renewed is in `vigil status` for 30 days; it must not end what still runs.
            with suppress(VigilError, OSError):
                self.renew()
        nats = self._servers.nats
        if nats is None or nats.pid() is None or now - self._mended_at < MEND_INTERVAL_S:
            return
        report = health.read(self.data_dir.run, "ingress")
        if report is None or age_s(report) > STALE_AFTER_S or report.detail.get("is_raw_full"):
            return
        has_room = shutil.disk_usage(self.data_dir.root).free >= FULL_DISK_BYTES
        if raw_trouble(report) and has_room:
            self._mended_at = now
            nats.stop()


def _scaled_time(settings: Settings) -> ScaledTime | None:
    if settings.clock_origin_us is None or settings.clock_started_at_us is None:
        return None
    return ScaledTime(settings.clock_origin_us, settings.clock_started_at_us, settings.clock_speed)


async def _settle_the_past(settings: Settings, owner: str) -> None:
    """Do what needs the owner of the database, since no process of ours may.

    Rows that were written before there were signatures are noted once, where the database's owner cannot reach; keys
    that a restored database brought back are destroyed again.
    """
    connection = await database.connect(owner, application_name="vigil up")
    try:
        async with database.transaction(connection):
            await pin_unsigned_ends(connection, settings)
        await key_destruction.reconcile(connection, settings)
    finally:
        await connection.close()


def make_ready(settings: Settings, data_dir: DataDir, servers: Servers) -> None:
    """Prepare the database and the bus for the processes: schema, roles, keys, streams.

    Raises:
        ConfigurationError: the database cannot be migrated, or its roles cannot be made.
        UnavailableError: a server does not answer.
    """
    from twin.bus import Bus, bus_context

    postgres = servers.postgres
    owner = secret(settings.database_url) if postgres is None else postgres.url()
    proof = (
        database_roles.Proof.ASKED_PASSWORDS
        if postgres is None
        else database_roles.Proof.PASSWORDS
        if postgres.tls is None
        else database_roles.Proof.CERTIFICATES
    )
    asyncio.run(database_roles.prepare(owner, data_dir.credentials, proof))
    clock = SystemClock()
    privacy.prepare(settings)
    ensure_notary(settings)
    asyncio.run(_settle_the_past(settings, owner))
    identities = Identities(data_dir, settings)
    for name in PROCESSES:
        # Whoever checks the chains believes a process by its public key, kept outside of the database.
        register_key(settings, name, SigningKey.load(identities.of(name).ledger_key).verifying, clock)
    url = secret(settings.nats_url) if servers.nats is None else servers.nats.url()
    setup = settings.model_copy(update={"identity_dir": identities.of(SETUP).folder})
    may_make_raw = servers.nats is None or not servers.nats.held_raw
    asyncio.run(Bus.set_up(url, bus_context(setup, url), settings.raw_max_bytes, may_make_raw=may_make_raw))


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
        Identities(data_dir, settings).prepare()
        house.supervisor.start(START_TIMEOUT_S, stopping, lambda: on_change(house))
        try:
            yield house
        finally:
            house.supervisor.stop()
