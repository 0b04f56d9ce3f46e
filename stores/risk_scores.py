"""What models in service said of stays, and how these stays ended.

Here: adding scores (once, however often a commit is repeated), reading them by stay, by patient and by time, and
outcomes as known now.
Not here: making a score (twin.risk), reading outcomes from ADT (twin.endings; stores.clinical_write writes them),
judging scores against outcomes (validation.live).
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from stores.database import Connection, translated


class RiskScore(msgspec.Struct, frozen=True, kw_only=True):
    """One forecast of one model for one stay."""

    encounter_id: int
    through_minute: int  # minutes since admission that counted
    slot: str  # governance.statements.Slot
    model_digest: str
    position: int  # log position of the commit
    patient_id: int
    serving_id: int = 0  # the row it was asked under
    at_us: int  # the log's clock
    probability: float | None  # None where it abstains
    low: float | None = None
    high: float | None = None
    abstention: str = ""
    is_high: bool = False


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """How a stay ended, as known now."""

    encounter_id: int
    outcome: str  # vocabulary.records.DischargeOutcome
    at_us: int
    known_from: int  # log position


_COLUMNS = RiskScore.__struct_fields__
_TYPES = {
    "encounter_id": "int8", "through_minute": "int4", "slot": "text", "model_digest": "text", "position": "int8",
    "patient_id": "int8", "serving_id": "int8", "at_us": "int8", "probability": "float8", "low": "float8",
    "high": "float8", "abstention": "text", "is_high": "bool",
}  # fmt: skip
_SELECT = f"select {', '.join(_COLUMNS)} from risk_score"  # noqa: S608 - names of our own


async def add(connection: Connection, scores: Sequence[RiskScore]) -> None:
    """Write scores in the caller's transaction; one that is there already stays as it is."""
    if not scores:
        return
    arrays = ", ".join(f"%s::{_TYPES[name]}[]" for name in _COLUMNS)
    statement = f"insert into risk_score ({', '.join(_COLUMNS)}) select * from unnest({arrays}) on conflict do nothing"  # noqa: S608
    columns = [[getattr(score, name) for score in scores] for name in _COLUMNS]
    with translated():
        await connection.execute(statement.encode(), columns)


async def of_stay(connection: Connection, encounter_id: int, slot: str = "champion") -> list[RiskScore]:
    """Return a stay's scores in one slot, in the order in which they were made."""
    return await _read(
        connection, "where encounter_id = %s and slot = %s order by position, through_minute", encounter_id, slot
    )


async def of_patients(
    connection: Connection, patient_ids: Sequence[int], slot: str = "champion", *, since_us: int = 0
) -> list[RiskScore]:
    """Return the scores of one person's records in one slot, oldest first."""
    return await _read(
        connection,
        "where patient_id = any(%s::int8[]) and slot = %s and at_us >= %s order by at_us, position, through_minute",
        list(patient_ids),
        slot,
        since_us,
    )


async def between(
    connection: Connection, since_us: int, until_us: int, *, slot: str = "champion", model_digest: str | None = None
) -> list[RiskScore]:
    """Return the scores of one slot whose time (the log's clock) lies in [since, until), oldest first."""
    return await _read(
        connection,
        "where at_us >= %s and at_us < %s and slot = %s and (%s::text is null or model_digest = %s) "
        "order by at_us, encounter_id, through_minute, position",
        since_us,
        until_us,
        slot,
        model_digest,
        model_digest,
    )


async def outcomes(connection: Connection, *, since_us: int = 0) -> list[Outcome]:
    """Return how stays ended whose end lies at or after a time, as known now; what is unknown is left out."""
    with translated():
        cursor = await connection.execute(
            "select encounter_id, outcome, at_us, known_from from (select distinct on (encounter_id) * from outcome "
            "order by encounter_id, known_from desc) known where outcome <> 'unknown' and at_us >= %s order by at_us",
            (since_us,),
        )
        return [
            Outcome(encounter_id=row[0], outcome=row[1], at_us=row[2], known_from=row[3])
            for row in await cursor.fetchall()
        ]


async def _read(connection: Connection, clause: str, *values: object) -> list[RiskScore]:
    with translated():
        cursor = await connection.execute(f"{_SELECT} {clause}".encode(), values)
        return [RiskScore(**dict(zip(_COLUMNS, row, strict=True))) for row in await cursor.fetchall()]
