"""The data directory: where the embedded services keep everything, and what is running out of it.

Here: its layout, the lock that lets one supervisor at a time use it, the addresses it keeps, the record of what runs.
Not here: starting anything (orchestration.services), what the stores put into it (stores).
"""

from __future__ import annotations

import fcntl
import os
import shutil
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from orchestration.embedded import free_port, is_free
from orchestration.processes import Identity, is_alive
from vocabulary.errors import ConfigurationError

MINIMUM_FREE_BYTES = 500 * 1024 * 1024
"""Below this nothing is started: a PostgreSQL that runs out of space half-way is worse than one that does not start."""

FIRST_PORT = 20_000
PORTS_A_FOLDER = 16
PORT_BLOCKS = 750
"""Kept addresses lie in 20000..31999: below the range from which Linux lends ports to outgoing connections."""

DEMONSTRATION_MARK = "only-a-demonstration"
"""A file of this name says that a data directory may be emptied by the next demonstration."""


class Running(msgspec.Struct, frozen=True):
    """One service as the supervisor last recorded it."""

    name: str
    address: str
    identity: Identity | None  # None: an external server, or it does not run just now
    restarts: int = 0
    is_external: bool = False


class Listener(msgspec.Struct, frozen=True):
    """One door as it was opened: who may listen in, and who must show who they are."""

    name: str  # clinic, mqtt, mllp.<feed>, or the server's name
    address: str
    transport: str
    is_waived: bool = False  # plain text beyond this machine, by somebody's permission


class ScaledTime(msgspec.Struct, frozen=True):
    """The clock of a demonstration, so that commands beside it tell the same time."""

    origin_us: int
    started_at_us: int
    speed: float


class RunState(msgspec.Struct, frozen=True):
    """What runs out of a data directory."""

    supervisor: Identity
    started_at: float  # seconds since the epoch
    ports: dict[str, int]
    services: list[Running]  # in the order they were started
    command: str  # "up" or "demo"
    clock: ScaledTime | None = None  # None: the machine's own
    listeners: list[Listener] = []
    notes: list[str] = []  # what people should know, e.g. that nobody can sign in


class InUseError(ConfigurationError):
    """Another supervisor works in this data directory."""


class DataDir:
    """A data directory's layout. Nothing is made or read before a method is called."""

    def __init__(self, root: Path) -> None:
        """Describe the directory at `root`."""
        self.root = root.expanduser().absolute()
        self.run = self.root / "run"
        self.logs = self.root / "logs"
        self.postgres = self.root / "postgres"
        self.nats = self.root / "nats"
        self.authority = self.root / "authority"
        self.identity = self.root / "identity"
        self.credentials = self.root / "credentials"

    @property
    def has_data(self) -> bool:
        """Return whether an embedded database was ever made here."""
        return (self.postgres / "data" / "PG_VERSION").exists()

    @property
    def is_demonstration(self) -> bool:
        """Return whether what lies here is a demonstration's."""
        return (self.root / DEMONSTRATION_MARK).exists()

    def prepare(self) -> None:
        """Make the folders and check that there is room.

        Raises:
            ConfigurationError: it cannot be written, or less than 500 MB is free.
        """
        try:
            # As root, PostgreSQL's user must pass through; as a user, nobody else has business here.
            self.root.mkdir(parents=True, exist_ok=True, mode=0o755 if os.geteuid() == 0 else 0o700)
            for folder in (self.run, self.logs):
                folder.mkdir(exist_ok=True, mode=0o700)
            probe = self.run / ".writable"
            probe.write_bytes(b"1")
            probe.unlink()
        except OSError as error:
            raise ConfigurationError(
                f"The data directory {self.root} cannot be written: {error.strerror}. "
                "Set VIGIL_DATA_DIR to a folder you may write, or free space on its disk."
            ) from error
        free = shutil.disk_usage(self.root).free
        if free < MINIMUM_FREE_BYTES:
            raise ConfigurationError(
                f"The disk of {self.root} has {free // 2**20} MB free; Vigil does not start with less than "
                f"{MINIMUM_FREE_BYTES // 2**20} MB. Free some space, or set VIGIL_DATA_DIR to another disk."
            )

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the directory for one supervisor; the operating system lets go of it however the process ends.

        Raises:
            InUseError: another process holds it.
        """
        with (self.run / "lock").open("a+") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                state = self.read_state()
                who = f" (`vigil {state.command}`, process {state.supervisor.pid})" if state else ""
                raise InUseError(
                    f"Vigil already works in {self.root}{who}. See `vigil status`; stop it with `vigil down`, "
                    "or set VIGIL_DATA_DIR to another folder."
                ) from error
            yield

    def clear_demonstration(self) -> None:
        """Remove what an earlier demonstration kept here (its addresses stay), and mark the folder as one.

        Raises:
            ConfigurationError: there is data, and nothing says that it is only a demonstration's.
        """
        if self.has_data and not self.is_demonstration:
            raise ConfigurationError(
                f"{self.root} holds data that is not marked as a demonstration's, so it is not removed. "
                "Move it away, or set VIGIL_DATA_DIR to another folder."
            )
        (self.root / DEMONSTRATION_MARK).touch()
        for entry in self.root.iterdir():
            if entry.is_dir() and not entry.is_symlink() and entry != self.run:
                shutil.rmtree(entry)
        self.logs.mkdir(mode=0o700)

    def read_state(self) -> RunState | None:
        """Return what was last recorded as running, or None when nothing was (or it cannot be understood)."""
        try:
            return msgspec.json.decode((self.run / "state.json").read_bytes(), type=RunState)
        except (FileNotFoundError, NotADirectoryError, msgspec.DecodeError):
            return None

    def live_state(self) -> RunState | None:
        """Return what runs now, or None when no supervisor does."""
        state = self.read_state()
        return state if state is not None and is_alive(state.supervisor) else None

    def write_state(self, state: RunState) -> None:
        """Record what runs, at once and readable by us only."""
        self._write(self.run / "state.json", msgspec.json.encode(state))

    def forget_state(self) -> None:
        """Record that nothing runs."""
        (self.run / "state.json").unlink(missing_ok=True)

    def _write(self, path: Path, content: bytes) -> None:
        partial = path.with_suffix(".partial")
        partial.touch(mode=0o600)
        partial.write_bytes(content)
        partial.replace(path)

    def ports(self, wanted: dict[str, int]) -> dict[str, int]:
        """Return a port for each name: the configured one, else the one kept from last time, else a free one kept now.

        Args:
            wanted: name → configured port, 0 where any will do.
        """
        path = self.run / "ports.json"
        try:
            kept = msgspec.json.decode(path.read_bytes(), type=dict[str, int])
        except (FileNotFoundError, msgspec.DecodeError):
            kept = {}
        free = self._free_ports(set(kept.values()) | set(wanted.values()))
        chosen = {name: port or kept.get(name) or next(free) for name, port in wanted.items()}
        self._write(path, msgspec.json.encode(kept | {name: chosen[name] for name in wanted if not wanted[name]}))
        return chosen

    def _free_ports(self, taken: set[int]) -> Iterator[int]:
        # The same folder looks in the same place first, so that addresses are alike from machine to machine.
        block = zlib.crc32(str(self.root).encode()) % PORT_BLOCKS
        for number in range(PORT_BLOCKS * PORTS_A_FOLDER):
            port = FIRST_PORT + (block * PORTS_A_FOLDER + number) % (PORT_BLOCKS * PORTS_A_FOLDER)
            if port not in taken and is_free(port):
                yield port
        while True:
            yield free_port()
