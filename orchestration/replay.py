"""`vigil replay`: published snapshots again, and whether they are the same bit for bit.

Here: choosing them, progress, saying the answer.
Not here: making a snapshot again (twin.replay).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from rich.console import Console
from rich.progress import track

from governance.access import Surface, Verb
from orchestration.key_holding import keys_of
from orchestration.operator_gate import require
from orchestration.storage import connection
from stores import snapshot_census
from stores.database import Connection, consistent_read
from stores.ledger import detail_of
from stores.model_files import ModelFiles
from twin import replay as twin_replay
from twin.forecast import open_forecaster
from twin.serving import Memory
from vocabulary.errors import ConfigurationError
from vocabulary.settings import Settings


class Outcome(NamedTuple):
    """One snapshot, published and made again."""

    snapshot_id: str
    is_same: bool
    published_digest: str
    rebuilt_digest: str
    differences: Sequence[str]


async def replay(
    settings: Settings, snapshot_ids: Sequence[str], sample: int, seed: int, console: Console, is_shown: bool
) -> list[Outcome]:
    """Make snapshots again: those named, and `sample` more chosen by `seed`.

    Raises:
        ConfigurationError: an id names no published snapshot, or none was ever published.
        UnavailableError: the database does not answer.
    """
    forecaster = open_forecaster(settings)
    memory = Memory(ModelFiles(settings.models_dir))
    asked = detail_of(named=len(snapshot_ids), sample=sample)
    await require(settings, Surface.PATIENT, Verb.SEARCH, detail=asked)
    async with connection(settings, "replay") as connected, keys_of(settings, "replay keys") as keys:
        chosen = [*snapshot_ids, *(await _sample(connected, sample, seed))]
        if not chosen:
            raise ConfigurationError("No snapshot was ever published here.")
        is_quiet = not is_shown or len(chosen) < 2
        outcomes = []
        for snapshot_id in track(chosen, "replaying", console=console, transient=True, disable=is_quiet):
            try:
                again = await twin_replay.replay(connected, forecaster, snapshot_id, keys, memory)
            except twin_replay.UnknownSnapshotError as error:
                raise ConfigurationError(str(error)) from error
            digests = (again.published_digest, again.rebuilt_digest)
            outcomes.append(Outcome(snapshot_id, again.is_identical, *digests, tuple(again.differences)))
        return outcomes


async def _sample(connected: Connection, size: int, seed: int) -> list[str]:
    if size == 0:
        return []
    async with consistent_read(connected):
        return await snapshot_census.sample(connected, size, seed)


def as_record(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """Return the outcomes for `--json`."""
    return {
        "replayed": len(outcomes),
        "identical": sum(outcome.is_same for outcome in outcomes),
        "snapshots": [outcome._asdict() for outcome in outcomes],
    }


def show(outcomes: Sequence[Outcome], console: Console) -> None:
    """Print one line a snapshot, and the sum."""
    for outcome in outcomes:
        mark = "[green]identical[/]" if outcome.is_same else "[red]DIFFERS[/]"
        fields = f"  in {', '.join(outcome.differences)}" if outcome.differences else ""
        if outcome.differences and set(outcome.differences) == {"provenance"}:
            fields += " alone: published by other software, whose lock file or code this is not"
        console.print(
            f"{outcome.snapshot_id}  {mark}  sha256 {outcome.published_digest[:16]}…{fields}", highlight=False
        )
    same = sum(outcome.is_same for outcome in outcomes)
    console.print(f"{same} of {len(outcomes)} identical, bit for bit", highlight=False)
