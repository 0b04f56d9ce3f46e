"""What assets of the learning plane work with: the resource `learning`, and how a step of theirs meets failure.

Here: the resource's shape, one transaction of the authority's tables, what a step retries and what it may say.
Not here: where the running house is (orchestration.resources), the live plane's questions (assets.live_plane).
"""

from __future__ import annotations

import asyncio
import time
import traceback
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol, TypeVar

import dagster as dg
import msgspec

from stores import database
from stores.database import Connection
from stores.lake import Lake
from stores.lake_tables import LakeTables
from stores.model_files import ModelFiles
from vocabulary.errors import UnavailableError, VigilError
from vocabulary.settings import Settings

if TYPE_CHECKING:
    from governance.audit import Auditor
    from governance.registry import Registry

Answer = TypeVar("Answer")

OWNERS: Final = ["team:data-engineering"]
RETRIES: Final = 3
RETRY_AFTER_S: Final = 5
POOL_TRAINING: Final = "training"
"""One training at a time: it takes every core it is given."""
POOL_DATABASE: Final = "postgresql"
"""Steps that hold a connection of the live plane's database."""

CODE_VERSION: Final = "1"
"""Of the assets' own logic: raised when the same inputs would give another result, so that Dagster shows them stale."""


class Provenance(msgspec.Struct, frozen=True):
    """Which code learned."""

    code_version: str
    lock_digest: str


class LearningPlane(Protocol):
    """The resource `learning`."""

    def settings(self) -> Settings:
        """Return the settings of the running house, with the database's address for this process.

        Raises:
            UnavailableError: nothing runs.
        """
        ...

    def registry(self) -> Registry | None:
        """Return the experiment tracker; None where there is none, and nothing depends on it."""
        ...

    def auditor(self, settings: Settings) -> AbstractAsyncContextManager[Auditor]:
        """Hold the auditor of this process's chain."""
        ...

    def provenance(self) -> Provenance:
        """Return which code this is."""
        ...

    def now_us(self) -> int:
        """Return the time, microseconds since the epoch: people's, whatever clock a demonstration's ward has."""
        ...

    def tell(self, name: str, seconds: float | None) -> None:
        """Say that a step's own work begins (None), or how long it took."""
        ...


def lake_of(learning: LearningPlane) -> Lake:
    """Return the lake."""
    return Lake(learning.settings().lake_dir)


def tables_of(learning: LearningPlane) -> LakeTables:
    """Return the results kept beside the lake."""
    return LakeTables(learning.settings().lake_dir)


def model_files_of(learning: LearningPlane) -> ModelFiles:
    """Return the models' files."""
    return ModelFiles(learning.settings().models_dir)


def default_cohort_folder(settings: Settings) -> Path:
    """Return where recorded stays are looked for when a run names no folder."""
    return settings.data_dir / "cohort"


def commit(learning: LearningPlane, act: Callable[[Connection], Awaitable[Answer]]) -> Answer:
    """Do something in one transaction of the database.

    Raises:
        UnavailableError: nothing runs, or PostgreSQL does not answer.
    """
    settings = learning.settings()
    if settings.database_url is None:
        raise UnavailableError("No database's address is set: start the house with `vigil up`.")
    url = settings.database_url.get_secret_value()

    async def committed() -> Answer:
        connection = await database.connect(url, application_name="vigil learning")
        try:
            async with database.transaction(connection):
                return await act(connection)
        finally:
            await connection.close()

    return asyncio.run(committed())


@contextmanager
def step(learning: LearningPlane, key: dg.AssetKey) -> Iterator[None]:
    """Hold the body of a step: what is away is tried again, everything else ends it, and nobody's data is told.

    Dagster keeps the text of what a step raises. Our own errors hold no patient's data; another's text may quote a
    row, so only its kind and place are passed on.
    """
    began_s = time.perf_counter()
    learning.tell("/".join(key.path), None)
    try:
        yield
    except UnavailableError as error:
        raise dg.RetryRequested(max_retries=RETRIES, seconds_to_wait=RETRY_AFTER_S) from error
    except VigilError as error:
        raise dg.Failure(f"{type(error).__name__}: {error}", allow_retries=False) from error
    except (dg.DagsterError, dg.Failure, dg.RetryRequested):
        raise
    except Exception as error:  # noqa: BLE001 - the step's outermost edge: its text must not reach Dagster's log
        frames = traceback.extract_tb(error.__traceback__)[-4:]
        where = ", ".join(f"{Path(frame.filename).name}:{frame.lineno}" for frame in frames)
        raise dg.Failure(f"{type(error).__name__} at {where}", allow_retries=False) from None
    finally:
        learning.tell("/".join(key.path), time.perf_counter() - began_s)
