"""`vigil dagster`: Dagster's pages and daemon beside a running house, with a home and a database of their own.

Here: making the home, and becoming the `dagster dev` process.
Not here: what Dagster shows (orchestration.definitions).
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from orchestration.addresses import embedded_servers
from orchestration.credentials import PROCESSES, Identities, environment_of
from orchestration.data_dir import DataDir
from orchestration.embedded import LOOPBACK, require_free
from orchestration.postgres_configuration import DAGSTER_DATABASE, MLFLOW_DATABASE
from orchestration.storage import locate, of_running, secret
from stores import database, roles
from vocabulary.errors import ConfigurationError, UnavailableError
from vocabulary.settings import Settings

PROCESS = "dagster"
DATABASE_VARIABLE = "VIGIL_DAGSTER_DATABASE_URL"
CHECKOUT = Path(__file__).resolve().parent.parent
FILES = ("dagster.yaml", "workspace.yaml")
# Not in the file itself: every `dagster` command typed in the checkout takes that for its own and would want it.
STORAGE = f"""
storage:
  postgres:
    postgres_url:
      env: {DATABASE_VARIABLE}
"""


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
    home = make_home(data_dir)
    port = data_dir.ports({"dagster": 0})["dagster"]
    require_free(port, "Dagster", "DAGSTER_WEBSERVER_PORT")
    url = os.environ.get(DATABASE_VARIABLE)
    if url is None:
        await make_databases(settings, data_dir, state.ports)
        url = _beside(secret(complete.database_url), DAGSTER_DATABASE)
    where = ["-w", str(home / "workspace.yaml"), "-h", LOOPBACK, "-p", str(port)]
    command = [sys.executable, "-P", "-m", "dagster", "dev", *where]
    # What it loads finds the running house by its folder, not by an address that may change.
    own = None if settings.database_url is None else complete.database_url
    found = complete.model_copy(update={"database_url": own, "nats_url": None})
    environment = environment_of(found, PROCESS) | {"DAGSTER_HOME": str(home), DATABASE_VARIABLE: url}
    return command, environment


def make_home(data_dir: DataDir) -> Path:
    """Make Dagster's folder and return it: what runs from then on is kept there, and shown on its pages.

    Raises:
        ConfigurationError: the checkout's files for it are missing.
    """
    home = data_dir.root / "dagster"
    home.mkdir(mode=0o700, exist_ok=True)
    for name in FILES:
        if not (CHECKOUT / name).exists():
            raise ConfigurationError(f"{CHECKOUT / name} is missing: run from a checkout (`make install`).")
        shutil.copyfile(CHECKOUT / name, home / name)
    with (home / FILES[0]).open("a") as file:
        file.write(STORAGE)
    return home


def instance_settings(settings: Settings) -> dict[str, Any]:
    """Return what an instance in this process is told instead of by variables: where its database is.

    Args:
        settings: connected, of the process `dagster`.
    """
    return {"storage": {"postgres": {"postgres_url": _beside(secret(settings.database_url), DAGSTER_DATABASE)}}}


def _beside(url: str, name: str) -> str:
    return urlunsplit(urlsplit(url)._replace(path=f"/{name}"))


async def make_databases(settings: Settings, data_dir: DataDir, ports: dict[str, int]) -> None:
    """Make the databases of Dagster and of the experiment tracker, owned by Dagster's own role.

    One from before there were roles is handed over. Doing it again changes nothing.

    Raises:
        ConfigurationError: they cannot be made.
        UnavailableError: the server does not answer.
    """
    postgres, _ = embedded_servers(settings, data_dir, ports, is_running=True)
    owner = postgres.url() if postgres is not None else secret(settings.database_url)
    role = PROCESSES[PROCESS].role
    assert role is not None
    for name in (DAGSTER_DATABASE, MLFLOW_DATABASE):
        await database.create_database(owner, name)
        connection = await database.connect(_beside(owner, name), application_name="vigil setup")
        try:
            await roles.hand_over(connection, role)
        finally:
            await connection.close()
