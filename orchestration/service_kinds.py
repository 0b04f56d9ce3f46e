"""The kinds of service the supervisor keeps: embedded servers, somebody else's servers, and our own processes.

Here: how one of each is started, stopped, and how it is.
Not here: which there are (orchestration.services), when they are started again (orchestration.supervisor).
"""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from urllib.parse import urlsplit

from orchestration import processes
from orchestration.data_dir import DataDir
from orchestration.embedded import LOOPBACK, EmbeddedNats, EmbeddedPostgres, log_tail
from orchestration.health import SERVING, Condition, judge
from orchestration.processes import Identity, identify
from vocabulary.errors import ConfigurationError, UnavailableError, VigilError

STORAGE, PROCESSES = 0, 1
"""Stages: the servers, then (after the migrations) what works on them."""

STOP_GRACE_S = 15.0
CONFIGURATION_STATUS = 2  # the exit status of a process whose settings cannot work
DEATHS_BEFORE_READY = 4
"""A process that died this often without once being ready will not become so by itself."""


def answers(host: str, port: int) -> bool:
    """Return whether something accepts TCP connections there."""
    try:
        with socket.create_connection((host, port), timeout=1):
            return True
    except OSError:
        return False


class PostgresService:
    """The embedded PostgreSQL."""

    name = "postgres"
    stage = STORAGE
    is_external = False

    def __init__(self, server: EmbeddedPostgres) -> None:
        """Watch over `server`."""
        self.server = server
        self.address = f"{LOOPBACK}:{server.port}"

    def start(self) -> None:
        """Start it and wait until it answers."""
        self.server.start()

    def stop(self) -> None:
        """Stop it cleanly."""
        self.server.stop()

    def identity(self) -> Identity | None:
        """Return the postmaster."""
        pid = self.server.pid()
        return identify(pid) if pid is not None else None

    def condition(self) -> Condition:
        """Return how it is: a postmaster that accepts connections is ready."""
        if self.server.pid() is None:
            return Condition.DOWN
        return Condition.READY if answers(LOOPBACK, self.server.port) else Condition.STARTING

    def failure(self) -> VigilError | None:
        """Return None: its start waits and raises by itself."""
        return None


class NatsService:
    """The embedded nats-server."""

    name = "nats-server"
    stage = STORAGE
    is_external = False

    def __init__(self, server: EmbeddedNats) -> None:
        """Watch over `server`."""
        self.server = server
        self.address = f"{LOOPBACK}:{server.port}"
        if server.mqtt_port is not None:
            self.address += f" mqtt={server.mqtt_host}:{server.mqtt_port}"

    def start(self) -> None:
        """Start it and wait until it answers."""
        self.server.start()

    def stop(self) -> None:
        """Stop it cleanly."""
        self.server.stop()

    def identity(self) -> Identity | None:
        """Return its process."""
        pid = self.server.pid()
        return identify(pid) if pid is not None else None

    def condition(self) -> Condition:
        """Return how it is: one that accepts connections is ready."""
        if self.server.pid() is None:
            return Condition.DOWN
        return Condition.READY if answers(LOOPBACK, self.server.port) else Condition.STARTING

    def failure(self) -> VigilError | None:
        """Return None: its start waits and raises by itself."""
        return None


class ExternalService:
    """A server somebody else runs; it is only looked at."""

    stage = STORAGE
    is_external = True

    def __init__(self, name: str, url: str, default_port: int) -> None:
        """Name the server and say where it is."""
        parts = urlsplit(url)
        self.name = name
        self._host = parts.hostname or LOOPBACK
        self._port = parts.port or default_port
        self.address = f"{self._host}:{self._port}"

    def start(self) -> None:
        """Check that it can be reached."""
        if not answers(self._host, self._port):
            raise UnavailableError(
                f"The external {self.name} at {self.address} does not answer. Start it, or unset the setting that "
                "names it to use an embedded one."
            )

    def stop(self) -> None:
        """Leave it alone."""

    def identity(self) -> Identity | None:
        """Return None: it is not ours."""
        return None

    def condition(self) -> Condition:
        """Return that it is somebody else's."""
        return Condition.EXTERNAL

    def failure(self) -> VigilError | None:
        """Return None."""
        return None


class ProcessService:
    """One of our own Python processes."""

    stage = PROCESSES
    is_external = False

    def __init__(
        self, name: str, program: Sequence[str], address: str, environment: Mapping[str, str], data_dir: DataDir
    ) -> None:
        """Describe the process; nothing is started.

        Args:
            name: also the name of its log and of its health file.
            program: what follows `python`.
            address: where it listens, for people; "" when it does not.
            environment: all of it, read when the process starts.
            data_dir: where its log and health file are.
        """
        self.name = name
        self.address = address
        self._program = program
        self._environment = environment
        self._data_dir = data_dir
        self._log = data_dir.logs / f"{name}.log"
        self._child: subprocess.Popen[bytes] | None = None
        self._identity: Identity | None = None
        self._was_ready = False
        self._deaths_before_ready = 0

    def start(self) -> None:
        """Start the process; it says itself when it is ready."""
        if self._child is not None and not self._was_ready:
            self._deaths_before_ready += 1
        self._child = processes.start(
            # -P: without it Python would look for packages in the working folder, which has one called `nats`.
            [sys.executable, "-P", *self._program],
            self._environment,
            self._log,
            self._data_dir.root,
        )
        self._identity = identify(self._child.pid)

    def stop(self) -> None:
        """Ask it to finish, wait, and kill it when it does not."""
        if self._child is not None and self._child.poll() is None:
            self._child.terminate()
            try:
                self._child.wait(STOP_GRACE_S)
            except subprocess.TimeoutExpired:
                self._child.kill()
                self._child.wait()
        (self._data_dir.run / f"{self.name}.json").unlink(missing_ok=True)

    def identity(self) -> Identity | None:
        """Return the process that runs, or None."""
        return self._identity if self._child is not None and self._child.poll() is None else None

    def condition(self) -> Condition:
        """Return how it is, by its own word."""
        identity = self.identity()
        found = judge(self._data_dir.run, self.name, identity.pid if identity else None)
        self._was_ready = self._was_ready or found in SERVING
        return found

    def failure(self) -> VigilError | None:
        """Return why it will not become ready by itself, or None."""
        status = self._child.poll() if self._child is not None else None
        if status is None or self._was_ready:
            return None
        # A process that cannot be configured says so in its last line; those before may be of an earlier run.
        said = log_tail(self._log, 1) if status == CONFIGURATION_STATUS else log_tail(self._log)
        reason = f"{self.name} ended with status {status}: {said} (whole log: {self._log})"
        if status == CONFIGURATION_STATUS:
            return ConfigurationError(reason)
        return UnavailableError(reason) if self._deaths_before_ready >= DEATHS_BEFORE_READY - 1 else None
