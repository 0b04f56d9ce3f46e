"""Who cares for whom and where, and who is a VIP, as ADT told: what decides who may see a patient.

Here: readers for one decision or one list, *now* and *as known at* a log position.
Not here: the rules that make the rows (twin.care), writing them (stores.clinical_write), flags and consent that people
of the house set (stores.access), the decision itself (governance.access).
Source: HL7 v2.6 chapter 3 (PV1-3, 7, 8, 9, 16, 17); HL7 FHIR R4 Encounter.participant.

Every answer is about the records asked for, not about those merged with them: to ask about a person, pass all of their
records (stores.access.records_of) and join the answers. A record of which nothing is known is absent from an answer.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from stores.clinical import EVER
from stores.database import Connection, translated

UNBEDDED_CLASSES = ("O", "P", "R")
"""PV1-2 of stays beside an inpatient's own (twin.stays has the same): outpatient, preadmit, recurring."""

# Stays of these records, each as it was known at the position.
_KNOWN = """with known as (
        select e.patient_id, e.encounter_id, e.class, s.status, s.started_at_us
        from encounter e cross join lateral (
            select status, started_at_us from encounter_state s
            where s.encounter_id = e.encounter_id and s.known_from <= %(known_at)s
            order by s.known_from desc limit 1) s
        where e.patient_id = any(%(ids)s))"""

_PRACTITIONERS = (
    _KNOWN  # noqa: S608 - constants
    + """
    select distinct k.patient_id, r.authority, r.identifier
    from known k join care_relationship r using (encounter_id)
    where k.status = 'in-progress' and r.to_us is null and r.identifier <> ''
    and r.known_from <= %(known_at)s and (r.known_to is null or r.known_to > %(known_at)s)"""
)

_WARDS = (
    _KNOWN  # noqa: S608 - constants
    + """
    select distinct on (k.patient_id) k.patient_id, o.ward
    from known k join lateral (
        select l.location_id from encounter_location l
        where l.encounter_id = k.encounter_id and l.known_from <= %(known_at)s
        and (l.known_to is null or l.known_to > %(known_at)s) order by l.from_us desc limit 1) l on true
    join location o using (location_id)
    where k.status = 'in-progress'
    order by k.patient_id, k.class = any(%(unbedded)s), k.started_at_us desc, k.encounter_id desc"""
)

_VIPS = (
    _KNOWN  # noqa: S608 - constants
    + """
    select patient_id from (
        select distinct on (k.patient_id) k.patient_id, v.is_vip
        from known k join encounter_vip v using (encounter_id)
        where k.status <> 'cancelled'
        and v.known_from <= %(known_at)s and (v.known_to is null or v.known_to > %(known_at)s)
        order by k.patient_id, k.started_at_us desc, k.encounter_id desc) latest
    where is_vip"""
)


async def practitioners_of(
    connection: Connection, patient_ids: Collection[int], known_at: int | None = None
) -> dict[int, frozenset[str]]:
    """Return who is named in the open stays of these records: attending, referring, consulting and admitting.

    Args:
        connection: any.
        patient_ids: the records asked about.
        known_at: a log position; None: now.

    Returns:
        Of each record with anybody, every identifier twice: as sent, and as `authority|identifier` for a site where two
        authorities give the same number to two people and so its sign-in names the authority too.
    """
    found: dict[int, set[str]] = {}
    for patient_id, authority, identifier in await _rows(connection, _PRACTITIONERS, patient_ids, known_at):
        found.setdefault(patient_id, set()).update((identifier, f"{authority}|{identifier}"))
    return {patient_id: frozenset(names) for patient_id, names in found.items()}


async def wards_of(connection: Connection, patient_ids: Collection[int], known_at: int | None = None) -> dict[int, str]:
    """Return the ward (PV1-3.1) where each record's open stay is: the one in a bed, of several the latest begun."""
    return dict(await _rows(connection, _WARDS, patient_ids, known_at))


async def vip(connection: Connection, patient_ids: Collection[int], known_at: int | None = None) -> set[int]:
    """Return those of these records whom PV1-16 marks in the latest stay that says anything, be it over.

    A stay that was cancelled does not count.
    """
    return {row[0] for row in await _rows(connection, _VIPS, patient_ids, known_at)}


async def _rows(
    connection: Connection, query: str, patient_ids: Collection[int], known_at: int | None
) -> list[tuple[Any, ...]]:
    if not patient_ids:
        return []
    parameters = {
        "ids": list(patient_ids),
        "known_at": EVER if known_at is None else known_at,
        "unbedded": list(UNBEDDED_CLASSES),
    }
    with translated():
        cursor = await connection.execute(query.encode(), parameters)
        return await cursor.fetchall()
