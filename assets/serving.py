"""The serving record as assets and sensors see it: read in one moment, judged by signatures alone, as the engine does.

Here: reading, judging, what the tracker's alias should say, what it says.
Not here: the asset that shows it (assets.twins), following it (twin.serving), appending to it (governance).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from assets.learning_plane import LearningPlane
from assets.live_plane import LivePlane, ask
from governance import lifecycle, serving
from governance.serving import Judgement
from governance.statements import ServingRow
from stores.database import Connection, to_timestamp


class Alias(NamedTuple):
    """One scope's alias at the tracker, and what it should be; digests, None where nobody speaks."""

    scope: str
    is_: str | None
    should_be: str | None
    serving_id: int  # newest row of the scope

    @property
    def agrees(self) -> bool:
        """Return whether the tracker tells people what is true."""
        return self.is_ == self.should_be


def read_record(live: LivePlane) -> list[ServingRow]:
    """Return the serving record, nothing judged.

    Raises:
        UnavailableError: nothing runs.
    """

    async def read(connection: Connection) -> list[ServingRow]:
        return await serving.read_rows(connection)

    return ask(live, read)


def judge_record(learning: LearningPlane, rows: Sequence[ServingRow]) -> dict[str, Judgement]:
    """Return what each scope's record says."""
    now = to_timestamp(learning.now_us())
    return serving.judge(rows, serving.load_trust(learning.settings(), now), lifecycle.load(), now)


def aliases(learning: LearningPlane, rows: Sequence[ServingRow], judgements: Mapping[str, Judgement]) -> list[Alias]:
    """Return each scope's alias beside what it should be; none where there is no tracker.

    Raises:
        UnavailableError: the tracker does not answer.
    """
    from governance.registry import champion_of

    registry = learning.registry()
    if registry is None:
        return []
    newest = {row.scope: row.serving_id for row in rows}
    return [
        Alias(scope, registry.alias_of(scope), champion_of(judgements[scope]), newest.get(scope, 0))
        for scope in sorted(judgements)
    ]
