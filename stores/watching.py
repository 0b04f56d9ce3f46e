"""What the live watch looks at: what a model said lately, how those stays ended, and the newest input values.

Here: aggregating reads, one statement each, over numbers only: no name, no hospital's number leaves the database.
Not here: single scores and outcomes (stores.risk_scores), judging them (validation.live), the loop (twin.watch).
Times are of the log's clock, in microseconds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from psycopg import sql

from stores import timeseries
from stores.database import Connection, to_timestamp, translated
from stores.minutes import MINUTE_COLUMNS, minute_concepts

_MINUTES_BACK = 90
"""Of a patient's minutes, so many of the newest are looked through for a value of each column: vital signs that are
charted by hand come hourly."""


class EndedStay(NamedTuple):
    """A stay that ended in a known way, and the last a model said about it."""

    encounter_id: int
    probability: float
    died: bool
    sex: str
    birth_date: str  # ISO 8601, maybe only the year; "" where not known
    age_years: float | None  # as charted, where it was
    started_at_us: int


class Said(NamedTuple):
    """What a model said of its stays, row by row in order of stay and time. Each of shape (rows,)."""

    encounter_id: NDArray[np.int64]
    through_minute: NDArray[np.int64]
    at_us: NDArray[np.int64]
    probability: NDArray[np.float64]


async def ended_stays(
    connection: Connection, model_digest: str, since_us: int, *, serving_from: int = 0, age_concept: int
) -> list[EndedStay]:
    """Return the stays that ended at or after a time and of which a champion had spoken, each once.

    Args:
        connection: inside a transaction.
        model_digest: of the model.
        since_us: first end that counts.
        serving_from: only what was said under this serving row or a later one counts.
        age_concept: number of the concept that carries an age.
    """
    statement = """
        select e.encounter_id, s.probability, o.outcome = 'died', p.sex, p.birth_date, a.value, e.started_at_us
        from encounter e
        join patient p on p.patient_id = e.patient_id
        join lateral (select outcome from outcome o where o.encounter_id = e.encounter_id
            order by known_from desc limit 1) o on o.outcome <> 'unknown'
        join lateral (select probability from risk_score s where s.encounter_id = e.encounter_id
            and s.slot = 'champion' and s.model_digest = %(model)s and s.serving_id >= %(row)s
            and s.probability is not null
            order by through_minute desc, position desc limit 1) s on true
        left join lateral (select value from observation_event v where v.patient_id = e.patient_id
            and v.concept = %(age)s and v.status <> 3 order by effective_at desc, revision desc limit 1) a on true
        where e.status = 'finished' and e.ended_at_us >= %(since)s order by e.encounter_id"""
    with translated():
        cursor = await connection.execute(
            statement, {"model": model_digest, "since": since_us, "row": serving_from, "age": age_concept}
        )
        return [EndedStay(*row) for row in await cursor.fetchall()]


async def said(connection: Connection, model_digest: str, since_us: int, *, serving_from: int = 0) -> Said:
    """Return what a champion said since a time; where one minute was said twice, the later word counts."""
    statement = """
        select distinct on (encounter_id, through_minute) encounter_id, through_minute, at_us, probability
        from risk_score where at_us >= %s and slot = 'champion' and model_digest = %s and serving_id >= %s
        order by encounter_id, through_minute, position desc"""
    with translated():
        cursor = await connection.execute(statement, (since_us, model_digest, serving_from))
        rows = await cursor.fetchall()
    return Said(
        np.array([row[0] for row in rows], np.int64),
        np.array([row[1] for row in rows], np.int64),
        np.array([row[2] for row in rows], np.int64),
        np.array([np.nan if row[3] is None else row[3] for row in rows], np.float64),
    )


async def first_said_at(connection: Connection, model_digest: str, serving_from: int) -> int | None:
    """Return when a champion first said anything under a serving row or a later one; None: not yet."""
    with translated():
        cursor = await connection.execute(
            "select min(at_us) from risk_score where slot = 'champion' and model_digest = %s and serving_id >= %s",
            (model_digest, serving_from),
        )
        row = await cursor.fetchone()
    return None if row is None or row[0] is None else int(row[0])


async def newest_inputs(
    connection: Connection, concepts: Sequence[int], patients_since_us: int, since_us: int, until_us: int
) -> Mapping[int, NDArray[np.float64]]:
    """Return the newest value of each concept, one a patient, of patients about whom a model was lately asked.

    Only concepts kept as single events or as columns of `vitals_minute` are found (for the others see
    `newest_signals`). Of a measurement that was corrected the correction counts, and one that was taken back hides what
    lay before it.

    Args:
        connection: inside a transaction.
        concepts: their numbers.
        patients_since_us: a patient counts whose risk was asked at or after this time.
        since_us: first effective time that counts.
        until_us: first effective time that no longer counts.

    Returns:
        By concept: one value a patient, in the concept's unit; concepts without any are absent.
    """
    parameters = {
        "asked": patients_since_us,
        "concepts": list(concepts),
        "since": to_timestamp(since_us),
        "until": to_timestamp(until_us),
        "most": _MINUTES_BACK,
    }
    found: dict[int, list[float]] = {}
    with translated():
        cursor = await connection.execute(
            """select concept, value from (
                select distinct on (v.patient_id, v.concept) v.concept, v.value, v.status
                from (select distinct patient_id from risk_score where at_us >= %(asked)s) asked
                join observation_event v using (patient_id)
                where v.concept = any(%(concepts)s::int2[]) and v.effective_at >= %(since)s
                    and v.effective_at < %(until)s
                order by v.patient_id, v.concept, v.effective_at desc, v.source_key, v.revision desc,
                    v.raw_index desc, v.value_index desc) newest
            where status <> 3 and value is not null and value <> 'nan'""",
            parameters,
        )
        for concept, value in await cursor.fetchall():
            found.setdefault(concept, []).append(value)
        columns = [
            (number, name) for number, name in zip(minute_concepts(), MINUTE_COLUMNS, strict=True) if number in concepts
        ]
        if columns:
            newest = sql.SQL(", ").join(
                sql.SQL("(array_agg({0} order by minute desc) filter (where {0} is not null))[1]").format(
                    sql.Identifier(name)
                )
                for _, name in columns
            )
            cursor = await connection.execute(
                sql.SQL("""select {newest} from (select distinct patient_id from risk_score where at_us >= %(asked)s)
                    asked cross join lateral (select * from vitals_minute m where m.patient_id = asked.patient_id
                    and m.minute >= %(since)s and m.minute < %(until)s order by minute desc limit %(most)s) lately
                    group by asked.patient_id""").format(newest=newest),
                parameters,
            )
            for row in await cursor.fetchall():
                for (number, _), value in zip(columns, row, strict=True):
                    if value is not None:
                        found.setdefault(number, []).append(value)
    return {concept: np.array(sorted(values), np.float64) for concept, values in found.items()}


async def newest_signals(
    connection: Connection, concepts: Sequence[int], patients_since_us: int, since_us: int, until_us: int
) -> Mapping[int, NDArray[np.float64]]:
    """Return what `newest_inputs` does, of concepts that only signal blocks hold: a walk a patient, so dear.

    Raises:
        CorruptBlockError: stored bytes are damaged.
    """
    found: dict[int, list[float]] = {}
    with translated():
        cursor = await connection.execute(
            "select distinct patient_id from risk_score where at_us >= %s order by 1", (patients_since_us,)
        )
        patients = [row[0] for row in await cursor.fetchall()]
    lookback_s = max(0.0, (until_us - since_us) / 1e6)
    for patient_id in patients:
        latest = await timeseries.latest(
            connection, [patient_id], as_of_us=until_us - 1, concepts=concepts, lookback_s=lookback_s
        )
        for concept, sample in latest.items():
            if sample.value == sample.value:
                found.setdefault(concept, []).append(sample.value)
    return {concept: np.array(sorted(values), np.float64) for concept, values in found.items()}


def is_only_in_blocks(concept: int) -> bool:
    """Return whether a concept's values are in signal blocks and in no column of `vitals_minute`."""
    return timeseries.signal_groups().get(concept, 0) > 0 and concept not in minute_concepts()
