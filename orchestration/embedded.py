"""The embedded servers, for whoever runs them: `vigil up` and tests.

Here: their names in one place.
Not here: the servers (orchestration.embedded_postgres, orchestration.embedded_nats), ports (orchestration.ports).
"""

from orchestration.embedded_nats import EmbeddedNats, NatsTls
from orchestration.embedded_postgres import EmbeddedPostgres
from orchestration.ports import LOOPBACK, free_port, is_free, require_free
from orchestration.postgres_binaries import find_postgres_binaries
from orchestration.service_files import kept_secret, log_tail

__all__ = [
    "LOOPBACK",
    "EmbeddedNats",
    "EmbeddedPostgres",
    "NatsTls",
    "find_postgres_binaries",
    "free_port",
    "is_free",
    "kept_secret",
    "log_tail",
    "require_free",
]
