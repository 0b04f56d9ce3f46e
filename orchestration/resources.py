"""Dagster's resources: where assets find the running house, and with which identity they act in it.

Here: the live plane's database and clock; the learning plane's folders, tracker and auditor, when they are asked for.
Not here: connecting (assets.live_plane, assets.learning_plane).
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING
from urllib.parse import urlsplit, urlunsplit

from assets.learning_plane import Provenance
from orchestration.credentials import Identities, identity_name
from orchestration.postgres_configuration import MLFLOW_DATABASE
from orchestration.storage import locate, of_running
from twin.forecast import identify_code
from twin.process import clock_of, database_url
from vocabulary.clock import SystemClock
from vocabulary.errors import ConfigurationError, UnavailableError
from vocabulary.settings import Settings

if TYPE_CHECKING:
    from governance.audit import Auditor
    from governance.registry import Registry

PROCESS = "dagster"


class RunningHouse:
    """The house that runs in the settings' data directory, or the external database they name."""

    def __init__(self, settings: Settings) -> None:
        """Remember the settings; nothing is read or opened."""
        self._settings = settings

    def settings(self) -> Settings:
        """Return complete settings of the process `dagster` of that house.

        Raises:
            UnavailableError: nothing runs.
        """
        data_dir = locate(self._settings)
        state = data_dir.live_state()
        if state is not None:
            folder = Identities(data_dir, self._settings).of(PROCESS).folder
            return of_running(self._settings.model_copy(update={"identity_dir": folder}), data_dir, state)
        if self._settings.database_url is not None:
            return self._settings
        raise UnavailableError(f"Nothing runs in {data_dir.root}. Start it with `vigil up`.")

    def database_url(self) -> str:
        """Return the address of the database."""
        return database_url(self.settings())

    def now_us(self) -> int:
        """Return the live plane's time."""
        return clock_of(self.settings()).now_us()


class LearningHouse:
    """The learning plane of a running house: assets.learning_plane.LearningPlane."""

    def __init__(self, house: RunningHouse, told: Callable[[str, float | None], None] | None = None) -> None:
        """Belong to a house; nothing is read or opened.

        Args:
            house: which.
            told: hears of each step's own work: None as it begins, then its seconds.
        """
        self._house = house
        self._told = told

    def settings(self) -> Settings:
        """Return complete settings.

        Raises:
            UnavailableError: nothing runs.
        """
        return self._house.settings()

    def registry(self) -> Registry | None:
        """Return the experiment tracker of this house: a database beside the live plane's."""
        from governance.registry import Registry

        settings = self.settings()
        return Registry(mlflow_url(settings), settings.data_dir / "mlflow")

    @asynccontextmanager
    async def auditor(self, settings: Settings) -> AsyncIterator[Auditor]:
        """Hold the auditor of this process's chain, which Dagster's runs and sensors share.

        Raises:
            ConfigurationError: the process has no identity.
        """
        from governance.audit import Auditor
        from governance.notary import heads_of
        from stores import database
        from vocabulary.signing import SigningKey
        from vocabulary.tls import Identity

        if settings.identity_dir is None:
            raise ConfigurationError(
                "Who acts on models signs for it: start the house with `vigil up`, which makes keys."
            )
        auditor = Auditor(
            lambda: database.connect(database_url(settings), application_name="vigil dagster audit"),
            identity_name(settings),
            SigningKey.load(Identity(settings.identity_dir).ledger_key),
            heads_of(settings),
            SystemClock(),  # an event is of real time, whatever clock a demonstration's ward has
            is_shared=True,
        )
        try:
            yield auditor
        finally:
            await auditor.close()

    def provenance(self) -> Provenance:
        """Return which code this is."""
        code = identify_code()
        return Provenance(code.version, code.lock_digest)

    def now_us(self) -> int:
        """Return real time: signatures and requests are people's."""
        return SystemClock().now_us()

    def tell(self, name: str, seconds: float | None) -> None:
        """Pass on what a step says of its work."""
        if self._told is not None:
            self._told(name, seconds)


def mlflow_url(settings: Settings) -> str:
    """Return the address of the tracker's database, on the live plane's server and with this process's proof."""
    parts = urlsplit(database_url(settings))
    # SQLAlchemy would take another driver for the plain scheme from version 2.1 on.
    return urlunsplit(parts._replace(scheme="postgresql+psycopg2", path=f"/{MLFLOW_DATABASE}"))
