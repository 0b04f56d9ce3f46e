"""The table `observation_event`: labs, fluids, texts; low rate, one row a revision.

Here: writing rows, the latest of each concept, an interval, all revisions of a measurement.
Not here: high-rate values (stores.signals), which table a concept is in (stores.timeseries).
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Sequence
from typing import Any

from stores.database import Connection, storable, to_microseconds, to_timestamp
from stores.samples import Sample
from vocabulary.records import ObservationStatus

_COLUMNS = (
    "patient_id, concept, value, text, effective_at, received_at, status, source_key, device, feed, "
    "revision, raw_index, value_index, released_position"
)
_TYPES = (
    "int8", "int2", "float8", "text", "timestamptz", "timestamptz", "int2", "int8", "text", "text",
    "int8", "int4", "int4", "int8", "timestamptz",
)  # fmt: skip
_KNOWN = "and (%(known_at)s::bigint is null or (revision <= %(known_at)s and released_position <= %(known_at)s))"
_NEWEST_REVISION = "revision desc, raw_index desc, value_index desc"
_ERROR = int(ObservationStatus.ENTERED_IN_ERROR)

# One probe of the primary key a concept, instead of reading a patient's whole history to list its concepts.
_PRESENT_SQL = """
    with recursive present as (
        (select concept from observation_event where patient_id = %(patient)s order by concept limit 1)
        union all
        select (select e.concept from observation_event e
                where e.patient_id = %(patient)s and e.concept > present.concept order by e.concept limit 1)
        from present where present.concept is not null
    )
    select concept from present where concept is not null
"""

_LATEST_SQL = f"""
    select l.* from unnest(%(concepts)s::smallint[]) wanted
    cross join lateral (
        select {_COLUMNS} from (
            select distinct on (effective_at, source_key) {_COLUMNS} from observation_event
            where patient_id {{patients}} and concept = wanted
                and effective_at >= %(from)s and effective_at <= %(to)s {_KNOWN}
            order by effective_at desc, source_key desc, {_NEWEST_REVISION}
        ) winner
        where status <> {_ERROR}
        order by effective_at desc, {_NEWEST_REVISION}
        limit 1
    ) l
"""  # noqa: S608 - only texts of this module

_RANGE_SQL = f"""
    select * from (
        select distinct on (concept, effective_at, source_key) {_COLUMNS} from observation_event
        where patient_id = any(%(patients)s) and concept = any(%(concepts)s::smallint[])
            and effective_at >= %(from)s and effective_at < %(to)s {_KNOWN}
        order by concept, effective_at, source_key, {_NEWEST_REVISION}
    ) winner
    where status <> {_ERROR}
    order by effective_at, concept, source_key
"""  # noqa: S608 - only texts of this module

_REVISIONS_SQL = f"""
    select {_COLUMNS} from observation_event
    where patient_id = any(%s) and concept = %s and effective_at = %s
    order by revision, raw_index, value_index, source_key, patient_id
"""  # noqa: S608 - only texts of this module


def _sample(row: tuple[Any, ...]) -> Sample:
    (patient_id, concept, value, text, effective_at, received_at, status, source_key, device, feed, position,
     raw_index, value_index, released) = row  # fmt: skip
    return Sample(
        patient_id, concept, math.nan if value is None else value, text or "", to_microseconds(effective_at),
        to_microseconds(received_at), status, source_key, device, feed, position, raw_index, value_index, released,
    )  # fmt: skip


async def insert(conn: Connection, samples: Iterable[Sample], known_from_us: int) -> None:
    """Copy revisions into the table. Not inside a psycopg pipeline, which cannot copy.

    Raises:
        psycopg.errors.UniqueViolation: the same commit was written before; nothing was written twice.
    """
    known_from = to_timestamp(known_from_us)
    sql = f"copy observation_event ({_COLUMNS}, known_from) from stdin (format binary)"
    async with conn.cursor() as cursor, cursor.copy(sql) as copy:
        copy.set_types(_TYPES)
        for sample in samples:
            await copy.write_row(
                (
                    sample.patient_id,
                    sample.concept,
                    None if math.isnan(sample.value) else sample.value,
                    storable(sample.text) or None,
                    to_timestamp(sample.effective_at_us),
                    to_timestamp(sample.received_at_us),
                    int(sample.status),
                    sample.source_key,
                    storable(sample.device),
                    storable(sample.feed),
                    sample.position,
                    sample.raw_index,
                    sample.value_index,
                    sample.released_position,
                    known_from,
                )
            )


async def _present(conn: Connection, patient_ids: Sequence[int]) -> set[int]:
    concepts: set[int] = set()
    for patient_id in patient_ids:
        found = await conn.execute(_PRESENT_SQL, {"patient": patient_id}, prepare=True)
        concepts.update(row[0] for row in await found.fetchall())
    return concepts


async def latest(
    conn: Connection,
    patient_ids: Sequence[int],
    concepts: Collection[int] | None,
    from_us: int,
    as_of_us: int,
    known_at: int | None,
) -> dict[int, Sample]:
    """Return the measurement of each concept with the greatest effective time in [from_us, as_of_us]."""
    if concepts is None:
        concepts = await _present(conn, patient_ids)
    if not concepts:
        return {}
    # One patient by equality lets PostgreSQL read the primary key backwards and stop; a merged one is sorted.
    single = len(patient_ids) == 1
    parameters = {
        "patients": patient_ids[0] if single else list(patient_ids),
        "concepts": list(concepts),
        "from": to_timestamp(from_us),
        "to": to_timestamp(as_of_us),
        "known_at": known_at,
    }
    sql = _LATEST_SQL.format(patients="= %(patients)s" if single else "= any(%(patients)s)")
    found = await conn.execute(sql, parameters, prepare=True)
    return {row[1]: _sample(row) for row in await found.fetchall()}


async def between(
    conn: Connection,
    patient_ids: Sequence[int],
    concepts: Collection[int],
    from_us: int,
    to_us: int,
    known_at: int | None,
) -> list[Sample]:
    """Return the measurements effective in [from_us, to_us), by time, concept and source."""
    if not concepts or to_us <= from_us:
        return []
    parameters = {
        "patients": list(patient_ids),
        "concepts": list(concepts),
        "from": to_timestamp(from_us),
        "to": to_timestamp(to_us),
        "known_at": known_at,
    }
    found = await conn.execute(_RANGE_SQL, parameters, prepare=True)
    return [_sample(row) for row in await found.fetchall()]


async def revisions(conn: Connection, patient_ids: Sequence[int], concept: int, effective_at_us: int) -> list[Sample]:
    """Return every revision, errors included, of the measurements of a concept at a time."""
    found = await conn.execute(
        _REVISIONS_SQL, (list(patient_ids), concept, to_timestamp(effective_at_us)), prepare=True
    )
    return [_sample(row) for row in await found.fetchall()]
