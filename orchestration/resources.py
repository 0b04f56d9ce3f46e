"""Dagster's resources: where assets find the live plane.

Here: finding the database of the settings, embedded or external, when it is asked for.
Not here: connecting (assets.live_plane).
"""

from __future__ import annotations

from orchestration.storage import locate, of_running
from twin.process import clock_of, database_url
from vocabulary.errors import UnavailableError
from vocabulary.settings import Settings


class RunningHouse:
    """The live plane that runs in the settings' data directory, or the external database they name."""

    def __init__(self, settings: Settings) -> None:
        """Remember the settings; nothing is read or opened."""
        self._settings = settings

    def _complete(self) -> Settings:
        data_dir = locate(self._settings)
        state = data_dir.live_state()
        if state is not None:
            return of_running(self._settings, data_dir, state)
        if self._settings.database_url is not None:
            return self._settings
        raise UnavailableError(f"Nothing runs in {data_dir.root}. Start it with `vigil up`.")

    def database_url(self) -> str:
        """Return the address of the database."""
        return database_url(self._complete())

    def now_us(self) -> int:
        """Return the live plane's time."""
        return clock_of(self._complete()).now_us()
