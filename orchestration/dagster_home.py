"""`vigil dagster`: Dagster's pages and daemon beside a running house, with a home and a database of their own.

Here: making the home, and becoming the `dagster dev` process.
Not here: what Dagster shows (orchestration.definitions).
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

from orchestration.addresses import embedded_servers
from orchestration.credentials import PROCESSES, Identities, environment_of
from orchestration.data_dir import DataDir
from orchestration.embedded import LOOPBACK, require_free
from orchestration.postgres_configuration import DAGSTER_DATABASE
from orchestration.storage import locate, of_running, secret
from stores import database, roles
from vocabulary.errors import ConfigurationError, UnavailableError
from vocabulary.settings import Settings

PROCESS = "dagster"
DATABASE_VARIABLE = "VIGIL_DAGSTER_DATABASE_URL"
CHECKOUT = Path(__file__).resolve().parent.parent


async def prepare(settings: Settings) -> tuple[list[str], dict[str, str]]:
    """Make Dagster's home and database; return the command to become, and its environment.

    Raises:
        UnavailableError: nothing runs.
        ConfigurationError: its files are missing, its port is taken, or its database cannot be made.
    """
    data_dir = locate(settings)
    state = data_dir.live_state()
    if state is None:
        raise UnavailableError(f"Nothing runs in {data_dir.root}. Start it with `vigil up`, then `vigil dagster`.")
    mine = settings.model_copy(update={"identity_dir": Identities(data_dir, settings).of(PROCESS).folder})
    complete = of_running(mine, data_dir, state)
    home = data_dir.root / "dagster"
    home.mkdir(mode=0o700, exist_ok=True)
    for name in ("dagster.yaml", "workspace.yaml"):
        if not (CHECKOUT / name).exists():
            raise ConfigurationError(f"{CHECKOUT / name} is missing: run from a checkout (`make install`).")
        shutil.copyfile(CHECKOUT / name, home / name)
    port = data_dir.ports({"dagster": 0})["dagster"]
    require_free(port, "Dagster", "DAGSTER_WEBSERVER_PORT")
    url = os.environ.get(DATABASE_VARIABLE)
    if url is None:
        await _make_database(settings, data_dir, state.ports)
        url = urlunsplit(urlsplit(secret(complete.database_url))._replace(path=f"/{DAGSTER_DATABASE}"))
    where = ["-w", str(home / "workspace.yaml"), "-h", LOOPBACK, "-p", str(port)]
    command = [sys.executable, "-P", "-m", "dagster", "dev", *where]
    # What it loads finds the running house by its folder, not by an address that may change.
    own = None if settings.database_url is None else complete.database_url
    found = complete.model_copy(update={"database_url": own, "nats_url": None})
    environment = environment_of(found, PROCESS) | {"DAGSTER_HOME": str(home), DATABASE_VARIABLE: url}
    return command, environment


async def _make_database(settings: Settings, data_dir: DataDir, ports: dict[str, int]) -> None:
    """Make Dagster's database, owned by its own role; one from before there were roles is handed over."""
    postgres, _ = embedded_servers(settings, data_dir, ports, is_running=True)
    owner = postgres.url() if postgres is not None else secret(settings.database_url)
    await database.create_database(owner, DAGSTER_DATABASE)
    role = PROCESSES[PROCESS].role
    assert role is not None
    url = urlunsplit(urlsplit(owner)._replace(path=f"/{DAGSTER_DATABASE}"))
    connection = await database.connect(url, application_name="vigil setup")
    try:
        await roles.hand_over(connection, role)
    finally:
        await connection.close()
