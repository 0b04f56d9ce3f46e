"""The key ring of one command.

Here: opening and closing it.
Not here: rings (governance.privacy), the commands about keys (orchestration.keys_commands).
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from governance.privacy import KeyRing, open_ring
from orchestration.storage import secret
from vocabulary.settings import Settings


@asynccontextmanager
async def keys_of(settings: Settings, purpose: str) -> AsyncIterator[KeyRing]:
    """Hold a ring for a command.

    Args:
        settings: with an address that answers (orchestration.storage.reachable).
        purpose: who is speaking, for pg_stat_activity.

    Raises:
        ConfigurationError: the master key is missing or unusable.
    """
    ring = await open_ring(settings, secret(settings.database_url), purpose=purpose)
    try:
        yield ring
    finally:
        await ring.close()
