"""The database and the bus of a data directory for one command: those that run, or started for as long as it takes.

Here: finding the directory that is meant, and settings whose addresses can be connected to.
Not here: running the whole house (orchestration.services), what the commands ask (verify, feeds, quarantine, replay).
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

from pydantic import SecretStr, ValidationError

from orchestration.addresses import Servers, connected, embedded_servers, resolve
from orchestration.credentials import Identities, identity_name
from orchestration.data_dir import DataDir, RunState
from orchestration.services import end_leftovers, make_ready
from stores import database
from stores.database import Connection
from vocabulary.errors import ConfigurationError, UnavailableError
from vocabulary.settings import Settings

DEMO_FOLDER = "demo"
"""Where demonstrations keep their data, below the data directory: never beside real patients."""


def load_settings(data_dir: Path | None = None) -> Settings:
    """Return the operator's settings, from VIGIL_* variables and vigil.toml.

    Args:
        data_dir: wins over both.

    Raises:
        ConfigurationError: a value cannot be used; names the setting, never its value.
    """
    try:
        return Settings() if data_dir is None else Settings(data_dir=data_dir.expanduser().absolute())
    except ValidationError as error:
        # pydantic's own text quotes what it was given, passwords included.
        faults = "; ".join(
            f"VIGIL_{'__'.join(str(part) for part in fault['loc']).upper()}: {fault['msg']}"
            for fault in error.errors(include_input=False, include_url=False, include_context=False)
        )
        raise ConfigurationError(f"Settings cannot be used. {faults}.") from None
    except ValueError as error:  # vigil.toml is not TOML, or a variable that should be JSON is not
        raise ConfigurationError(f"Settings cannot be read: {error}") from None


def locate(settings: Settings) -> DataDir:
    """Return the data directory a command means: the configured one, or its demonstration when only that exists."""
    data_dir = DataDir(settings.data_dir)
    demo = DataDir(settings.data_dir / DEMO_FOLDER)
    is_used = data_dir.live_state() is not None or data_dir.has_data
    if settings.database_url is None and not is_used and (demo.live_state() is not None or demo.has_data):
        return demo
    return data_dir


def of_running(settings: Settings, data_dir: DataDir, state: RunState) -> Settings:
    """Return settings with the addresses, and the clock, of what runs in a data directory, for whoever asks.

    That is the process whose identity folder the settings name (Dagster), else the operator.
    """
    update: dict[str, object] = {"data_dir": data_dir.root}
    if data_dir.is_demonstration:
        update["mode"] = "demo"  # its signers' root lies beside its data, which is believed of a demonstration only
    if state.clock is not None:
        update |= {
            "clock_origin_us": state.clock.origin_us,
            "clock_started_at_us": state.clock.started_at_us,
            "clock_speed": state.clock.speed,
        }
    found = settings.model_copy(update=update)
    servers = embedded_servers(found, data_dir, state.ports, is_running=True)
    return connected(found, data_dir, servers, identity_name(settings))


@contextmanager
def reachable(settings: Settings) -> Iterator[Settings]:
    """Give settings whose database and bus answer, starting the embedded servers for the block when nothing runs.

    Raises:
        UnavailableError: nothing runs, and there is nothing to start.
        ConfigurationError: the embedded servers cannot start.
    """
    data_dir = locate(settings)
    state = data_dir.live_state()
    if state is not None:
        yield of_running(settings, data_dir, state)
        return
    if settings.database_url is None and not data_dir.has_data:
        raise UnavailableError(
            f"Nothing runs in {data_dir.root}, and nothing ever did. Start it with `vigil up` (or `vigil demo`), or "
            "set VIGIL_DATA_DIR to where it runs."
        )
    if data_dir.is_demonstration:
        settings = settings.model_copy(update={"mode": "demo", "data_dir": data_dir.root})
    with alone(settings, data_dir) as complete:
        yield complete


@contextmanager
def alone(settings: Settings, data_dir: DataDir, *, is_fresh: bool = False) -> Iterator[Settings]:
    """Give settings whose database and bus answer, with nothing else running: for the length of the block.

    Args:
        settings: as the operator set them.
        data_dir: whose servers; nothing runs in it.
        is_fresh: for demonstrations: what an earlier one kept is removed first, but for its addresses.

    Raises:
        ConfigurationError: something runs in the directory, or the embedded servers cannot start.
    """
    data_dir.prepare()
    with data_dir.lock():
        end_leftovers(data_dir)
        if is_fresh:
            data_dir.clear_demonstration()
        resolved, ports = resolve(settings, data_dir)
        Identities(data_dir, settings).prepare()
        servers = embedded_servers(resolved, data_dir, ports)
        with _started(servers):
            make_ready(resolved, data_dir, servers)
            yield connected(resolved, data_dir, servers, "operator")


@contextmanager
def _started(servers: Servers) -> Iterator[None]:
    postgres, nats = servers
    try:
        if postgres is not None:
            postgres.start()
        if nats is not None:
            nats.start()
        yield
    finally:
        if nats is not None:
            nats.stop()
        if postgres is not None:
            postgres.stop()


def secret(value: SecretStr | None) -> str:
    """Return an address whose presence `reachable` has seen to."""
    if value is None:
        raise ConfigurationError("No database or bus address is set; use the settings that `reachable` gives.")
    return value.get_secret_value()


@asynccontextmanager
async def connection(settings: Settings, purpose: str) -> AsyncIterator[Connection]:
    """Open one connection to the database for one command and close it."""
    opened = await database.connect(secret(settings.database_url), application_name=f"vigil {purpose}")
    try:
        yield opened
    finally:
        await opened.close()
