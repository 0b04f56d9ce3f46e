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

from orchestration.embedded import LOOPBACK, require_free
from orchestration.services import environment_of
from orchestration.storage import locate, of_running, secret
from stores import database
from vocabulary.errors import ConfigurationError, UnavailableError
from vocabulary.settings import Settings

DATABASE = "dagster"
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
    complete = of_running(settings, data_dir, state)
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
        own = secret(complete.database_url)
        await database.create_database(own, DATABASE)
        url = urlunsplit(urlsplit(own)._replace(path=f"/{DATABASE}"))
    where = ["-w", str(home / "workspace.yaml"), "-h", LOOPBACK, "-p", str(port)]
    command = [sys.executable, "-P", "-m", "dagster", "dev", *where]
    # What it loads finds the running house by its folder, not by an address that may change.
    found = complete.model_copy(update={"database_url": settings.database_url, "nats_url": settings.nats_url})
    return command, environment_of(found) | {"DAGSTER_HOME": str(home), DATABASE_VARIABLE: url}
