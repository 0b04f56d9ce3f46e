"""The table `vitals_minute`: each minute's median of the vital signs that pages and scores use.

A projection of the time series: the engine writes a minute once when it closes and again when a late or corrected value
changes it; it can be made again from the blocks at any time, and is then the same.

Here: writing, reading, making again. Not here: feature windows (models.features), the values themselves
(stores.timeseries).
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from functools import cache

import msgspec

from stores.database import Connection, to_microseconds, to_timestamp
from stores.reading import Groups, columns_between

MINUTE_US = 60_000_000
MINUTE_COLUMNS = (
    "heart_rate",
    "respiratory_rate",
    "oxygen_saturation",
    "systolic_blood_pressure",
    "diastolic_blood_pressure",
    "mean_blood_pressure",
    "body_temperature",
    "inspired_oxygen_fraction",
    "pulse_rate",
    "end_tidal_co2",
    "glasgow_coma_score",
)
"""Concept keys, in the order of the table's columns and of a Minute's medians."""


class Minute(msgspec.Struct, frozen=True):
    """One patient's minute."""

    patient_id: int
    minute_us: int  # its start
    medians: tuple[float | None, ...]  # one a column of MINUTE_COLUMNS, in the concept's unit; None without values
    n: tuple[int, ...]  # values behind each median
    is_revised: bool = False  # written again after a late or corrected value


@cache
def minute_concepts() -> tuple[int, ...]:
    """Return the concept number of each column."""
    from vocabulary.concepts import by_key

    return tuple(by_key(key).number for key in MINUTE_COLUMNS)


def median(values: Iterable[float]) -> float | None:
    """Return the middle value, or the mean of the two middle ones; None without values."""
    ordered = sorted(values)
    if not ordered:
        return None
    middle = len(ordered) // 2
    return ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2


def counted(values: Sequence[float]) -> int:
    """Return how many values there are, at most what `n` can hold: one odd message may bring more for a minute."""
    return min(len(values), _MOST_COUNTED)


_MOST_COUNTED = 32_767  # smallint
_LISTED = ", ".join(MINUTE_COLUMNS)
_NUMBERED = ", ".join(f"n{number}" for number in range(len(MINUTE_COLUMNS)))
_PUT_SQL = f"""
    insert into vitals_minute (patient_id, minute, n, {_LISTED})
    select patient_id, minute, array[{_NUMBERED}], {_LISTED} from unnest(
        %s::bigint[], %s::timestamptz[], {", ".join(["%s::smallint[]"] * len(MINUTE_COLUMNS))},
        {", ".join(["%s::float8[]"] * len(MINUTE_COLUMNS))}
    ) put (patient_id, minute, {_NUMBERED}, {_LISTED})
    on conflict (patient_id, minute) do update set
        n = excluded.n, revised = true, {", ".join(f"{name} = excluded.{name}" for name in MINUTE_COLUMNS)}
    where (vitals_minute.n, {", ".join(f"vitals_minute.{name}" for name in MINUTE_COLUMNS)})
        is distinct from (excluded.n, {", ".join(f"excluded.{name}" for name in MINUTE_COLUMNS)})
"""  # noqa: S608 - only names from MINUTE_COLUMNS

_READ_SQL = f"""
    select distinct on (minute) patient_id, minute, {_LISTED}, n, revised from vitals_minute
    where patient_id = any(%(patients)s) and minute >= %(from)s and minute < %(to)s
    order by minute, array_position(%(patients)s, patient_id)
"""  # noqa: S608 - only names from MINUTE_COLUMNS


async def put_minutes(conn: Connection, rows: Iterable[Minute]) -> int:
    """Write minutes; one that is there and differs is replaced and marked as revised.

    Args:
        conn: the engine's transaction.
        rows: of several for one minute, the last counts; `is_revised` is not looked at.

    Returns:
        How many rows were new or different.
    """
    last = {(row.patient_id, row.minute_us): row for row in rows}
    if not last:
        return 0
    kept = list(last.values())
    counts = [list(column) for column in zip(*(row.n for row in kept), strict=True)]
    medians = [list(column) for column in zip(*(row.medians for row in kept), strict=True)]
    times = [to_timestamp(row.minute_us) for row in kept]
    done = await conn.execute(_PUT_SQL, [[row.patient_id for row in kept], times, *counts, *medians], prepare=True)
    return done.rowcount


async def minutes(conn: Connection, patient_ids: Sequence[int], from_us: int, to_us: int) -> list[Minute]:
    """Return the minutes that start in [from_us, to_us), in order.

    Args:
        conn: an open connection.
        patient_ids: all ids of one patient; where two have the same minute, the id named first counts.
        from_us: first start that counts.
        to_us: first start that no longer counts.
    """
    parameters = {"patients": list(patient_ids), "from": to_timestamp(from_us), "to": to_timestamp(to_us)}
    async with conn.cursor(binary=True) as cursor:
        await cursor.execute(_READ_SQL, parameters, prepare=True)
        return [
            Minute(patient_id, to_microseconds(minute), tuple(medians), tuple(n), revised)
            for patient_id, minute, *medians, n, revised in await cursor.fetchall()
        ]


async def compute_minutes(
    conn: Connection,
    patient_ids: Sequence[int],
    from_us: int,
    to_us: int,
    *,
    known_at: int | None = None,
    concepts: Sequence[int] | None = None,
    groups: Groups | None = None,
) -> list[Minute]:
    """Return the minutes that the stored values make, without writing them; minutes without values are absent.

    Args:
        conn: an open connection.
        patient_ids: all ids of one patient; the first is the one the minutes belong to.
        from_us: start of the first minute; rounded down to a whole minute.
        to_us: rounded up to a whole minute.
        known_at: log position; None for all that is known.
        concepts: numbers of the columns' concepts; None for the vocabulary's.
        groups: see stores.reading.
    """
    numbers = minute_concepts() if concepts is None else concepts
    column_of = {number: column for column, number in enumerate(numbers)}
    start, end = from_us // MINUTE_US * MINUTE_US, -(-to_us // MINUTE_US) * MINUTE_US
    columns = await columns_between(conn, patient_ids, numbers, start, end, known_at=known_at, groups=groups)
    values: dict[int, list[list[float]]] = defaultdict(lambda: [[] for _ in MINUTE_COLUMNS])
    for concept, value, at_us in zip(
        columns.concept.tolist(), columns.value.tolist(), columns.effective_at_us.tolist(), strict=True
    ):
        if not math.isnan(value):  # a text
            values[at_us // MINUTE_US][column_of[concept]].append(value)
    return [
        Minute(patient_ids[0], minute * MINUTE_US, tuple(map(median, listed)), tuple(map(counted, listed)))
        for minute, listed in sorted(values.items())
    ]


async def rebuild_minutes(
    conn: Connection,
    patient_ids: Sequence[int],
    from_us: int,
    to_us: int,
    *,
    concepts: Sequence[int] | None = None,
    groups: Groups | None = None,
) -> int:
    """Make a patient's minutes again from the stored values; return how many changed.

    Minutes are written under the first id. One whose values were all withdrawn stays, empty and marked as revised.

    Args and Raises: as compute_minutes.
    """
    made = await compute_minutes(conn, patient_ids, from_us, to_us, concepts=concepts, groups=groups)
    start, end = from_us // MINUTE_US * MINUTE_US, -(-to_us // MINUTE_US) * MINUTE_US
    filled = {minute.minute_us for minute in made}
    empty = (None,) * len(MINUTE_COLUMNS)
    emptied = [
        Minute(patient_ids[0], there.minute_us, empty, (0,) * len(MINUTE_COLUMNS))
        for there in await minutes(conn, patient_ids[:1], start, end)
        if there.minute_us not in filled
    ]
    return await put_minutes(conn, [*made, *emptied])
