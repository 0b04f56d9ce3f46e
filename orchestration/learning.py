"""The learning plane's own access for a command: the process `dagster`, its databases made, its role and keys.

A command that trains acts as that process, whose role registers versions and asks for approvals, and no more: not
as the operator, and never as the database's owner.

Here: settings of that process beside those of a command.
Not here: making the databases (orchestration.dagster_home), reaching the servers (orchestration.storage).
"""

from __future__ import annotations

import asyncio

from orchestration.addresses import connected, embedded_servers, resolve
from orchestration.dagster_home import PROCESS, make_databases, make_home
from orchestration.data_dir import DataDir
from vocabulary.settings import Settings


def as_learner(settings: Settings, complete: Settings) -> Settings:
    """Return settings of the process `dagster`, after seeing to its databases.

    Args:
        settings: as the operator set them.
        complete: the same, reached (orchestration.storage.reachable or alone): its servers answer.

    Raises:
        ConfigurationError: the databases cannot be made, or the role's password is not known here.
        UnavailableError: the server does not answer.
    """
    data_dir = DataDir(complete.data_dir)
    own = settings.model_copy(update={"data_dir": data_dir.root, "mode": complete.mode})
    resolved, ports = resolve(own, data_dir)
    asyncio.run(make_databases(own, data_dir, ports))
    make_home(data_dir)  # or the run would be seen nowhere once it is over
    servers = embedded_servers(resolved, data_dir, ports, is_running=True)
    return connected(resolved, data_dir, servers, PROCESS)
