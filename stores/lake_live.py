"""A closed day of the live plane as columns for the lake: the values of every stay that touched it.

Here: which stays, and their values as known now, under our own numbers of patients.
Not here: rows of the lake (stores.lake, assets.event_tables), names (they never leave the clinical tables).
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import NamedTuple

from stores import clinical, timeseries
from stores.database import Connection, translated
from stores.samples import Columns


class DayStay(NamedTuple):
    """One stay that touched the day; the surviving record's number where patients were merged."""

    encounter_id: int
    patient_id: int
    started_at_us: int
    ended_at_us: int | None  # None: still here
    outcome: str  # vocabulary.records.DischargeOutcome as known now; "" where nothing is


class DayOfStay(NamedTuple):
    """A stay's values within the day."""

    stay: DayStay
    values: Columns


async def stays_of(connection: Connection, from_us: int, to_us: int) -> list[DayStay]:
    """Return the stays that lie at least partly in [from, to), by patient, start and number; cancelled ones do not."""
    with translated():
        cursor = await connection.execute(
            "select e.encounter_id, e.patient_id, e.started_at_us, e.ended_at_us, coalesce(o.outcome, '') "
            "from encounter e left join lateral (select outcome from outcome where outcome.encounter_id = "
            "e.encounter_id order by known_from desc limit 1) o on true "
            "where e.status <> 'cancelled' and e.started_at_us < %s and (e.ended_at_us is null or e.ended_at_us >= %s) "
            "order by e.patient_id, e.started_at_us, e.encounter_id",
            (to_us, from_us),
        )
        rows = await cursor.fetchall()
    found = []
    for encounter_id, patient_id, started, ended, outcome in rows:
        survivor = await clinical.survivor_of(connection, patient_id)
        found.append(DayStay(encounter_id, survivor, started, ended, outcome))
    return sorted(found, key=lambda stay: (stay.patient_id, stay.started_at_us, stay.encounter_id))


async def day_of(connection: Connection, from_us: int, to_us: int) -> AsyncIterator[DayOfStay]:
    """Yield each stay of the day with its values effective in [from, to), as known now; deleted values are gone.

    A value belongs to the stay during which it was effective; where stays overlap, to the one that began last.

    Args:
        connection: inside one consistent read.
        from_us: the day's first microsecond.
        to_us: the first one after it.
    """
    stays = await stays_of(connection, from_us, to_us)
    for place, stay in enumerate(stays):
        following = stays[place + 1] if place + 1 < len(stays) else None
        first = max(from_us, stay.started_at_us)
        last = to_us if stay.ended_at_us is None else min(to_us, stay.ended_at_us + 1)
        if following is not None and following.patient_id == stay.patient_id:
            last = min(last, following.started_at_us)
        ids = await clinical.merged_ids(connection, stay.patient_id)
        yield DayOfStay(stay, await timeseries.columns_between(connection, ids, None, first, max(first, last)))
