"""Patients, identifiers, stays, places and who wears which device: readers that answer *now* and *as known at*.

Here: what a directory starts from, and what pages ask; `write` and the row types are re-exported from beside.
Not here: who cares for whom, as those ask who decide who may look (stores.care), the rules that make the rows
(twin.directory, twin.stays), values (stores.timeseries).
Merged records are followed to their survivor by a redirect, itself as known at the position asked.
Source: HL7 FHIR R4 Patient, Encounter, DeviceAssociation; Snodgrass 2000, bitemporal tables.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import msgspec
from psycopg import sql
from psycopg.rows import class_row

from stores.clinical_rows import (
    AssociationRow,
    CareRow,
    Changes,
    EncounterPlaceRow,
    EncounterRow,
    IdentifierRow,
    MergeRow,
    OutcomeRow,
    PatientRow,
    Rows,
    VipRow,
)
from stores.clinical_write import write
from stores.database import Connection, translated
from vocabulary.records import Place

__all__ = [
    "AssociationRow",
    "BedRow",
    "CareRow",
    "Changes",
    "EncounterPlaceRow",
    "EncounterRow",
    "IdentifierRow",
    "KnownStay",
    "MergeRow",
    "OpenStay",
    "OutcomeRow",
    "PatientRow",
    "Rows",
    "VipRow",
    "associations",
    "beds",
    "changed_since",
    "encounters",
    "find_by_identifier",
    "identifiers",
    "load",
    "merged_ids",
    "open_stays",
    "patients",
    "present",
    "survivor_of",
    "write",
]

Row = TypeVar("Row")

EVER = 2**63 - 1
"""Stands for "now" wherever a reader takes a log position."""


class OpenStay(msgspec.Struct, frozen=True):
    """A line of the ward list."""

    patient_id: int  # the surviving record's
    encounter_id: int
    family_name: str
    given_name: str
    birth_date: str
    sex: str
    facility: str
    ward: str
    room: str
    bed: str
    started_at_us: int


class BedRow(msgspec.Struct, frozen=True):
    """Who was in a bed."""

    subject: str
    patient_id: int  # the surviving record's, as known then
    encounter_id: int | None
    from_us: int
    to_us: int | None


class KnownStay(msgspec.Struct, frozen=True):
    """A stay as it was known at a position. A cancelled one has no places."""

    encounter_id: int
    patient_id: int
    visit_number: str
    patient_class: str
    status: str
    started_at_us: int
    ended_at_us: int | None
    places: list[EncounterPlaceRow]


_PATIENT = sql.SQL("""select p.patient_id, p.merged_into, p.family_name, p.given_name,
    p.birth_date, p.sex, p.created_position, p.updated_position
    from patient p""")
_PLACE = sql.SQL("""select l.encounter_id, o.ward, o.room, o.bed, o.facility, l.placed_by, l.from_us, l.to_us,
    l.known_from, l.known_to from encounter_location l join location o using (location_id)""")
_ASSOCIATION = sql.SQL("""select subject_kind, subject, patient_id, encounter_id, from_us, to_us, source,
    known_from, known_to from device_association""")
_IDENTIFIER = sql.SQL("select authority, value, kind, patient_id, known_from, known_to from patient_identifier")
_ENCOUNTER = sql.SQL("""select encounter_id, patient_id, visit_number, class as patient_class, status,
    started_at_us, ended_at_us, known_from, updated_position from encounter""")
# retired record -> the record at the end of its chain, as known at %(known_at)s
_REDIRECT = sql.SQL("""with recursive known_merge as (
        select retired_id, survivor_id from patient_merge
        where merged_position <= %(known_at)s and (undone_position is null or undone_position > %(known_at)s)),
    step (patient_id, survivor_id) as (
        select retired_id, survivor_id from known_merge
        union all
        select s.patient_id, m.survivor_id from step s join known_merge m on m.retired_id = s.survivor_id),
    redirect as (
        select patient_id, survivor_id from step s
        where not exists (select from known_merge m where m.retired_id = s.survivor_id))""")


async def load(conn: Connection) -> Rows:
    """Read everything known now, each list in a fixed order."""
    return Rows(
        patients=await _rows(conn, PatientRow, _PATIENT + sql.SQL(" order by p.patient_id")),
        identifiers=await _rows(
            conn,
            IdentifierRow,
            _IDENTIFIER + sql.SQL(" where known_to is null order by authority, value"),
        ),
        encounters=await _rows(conn, EncounterRow, _ENCOUNTER + sql.SQL(" order by encounter_id")),
        places=await _places(conn, sql.SQL(" where l.known_to is null order by l.encounter_id, l.from_us")),
        associations=await _rows(
            conn,
            AssociationRow,
            _ASSOCIATION + sql.SQL(" where known_to is null order by subject_kind, subject, from_us"),
        ),
        care=await _rows(
            conn,
            CareRow,
            sql.SQL("""select encounter_id, role, authority, identifier, from_us, to_us, known_from, known_to
            from care_relationship where known_to is null
            order by encounter_id, from_us, role, authority, identifier"""),
        ),
        vips=await _rows(
            conn,
            VipRow,
            sql.SQL("""select encounter_id, is_vip, at_us, known_from, known_to from encounter_vip
            where known_to is null order by encounter_id"""),
        ),
        outcomes=await _rows(
            conn,
            OutcomeRow,
            sql.SQL("""select distinct on (encounter_id) encounter_id, outcome, at_us, known_from from outcome
            order by encounter_id, known_from desc"""),
        ),
    )


async def patients(conn: Connection, ids: Sequence[int]) -> list[PatientRow]:
    """Return the records of these ids, ordered by id; ids not known are left out."""
    statement = _PATIENT + sql.SQL(" where p.patient_id = any(%(ids)s) order by p.patient_id")
    return await _rows(conn, PatientRow, statement, {"ids": list(ids)})


async def open_stays(conn: Connection) -> list[OpenStay]:
    """Return every stay in progress with who and where, ordered by ward, room and bed. Merged records are followed."""
    statement = _REDIRECT + sql.SQL("""
        select p.patient_id, e.encounter_id, p.family_name, p.given_name,
            p.birth_date, p.sex,
            coalesce(w.facility, '') as facility, coalesce(w.ward, '') as ward, coalesce(w.room, '') as room,
            coalesce(w.bed, '') as bed, e.started_at_us
        from encounter e left join redirect r on r.patient_id = e.patient_id
        join patient p on p.patient_id = coalesce(r.survivor_id, e.patient_id)
        left join lateral (
            select o.facility, o.ward, o.room, o.bed from encounter_location l join location o using (location_id)
            where l.encounter_id = e.encounter_id and l.known_to is null order by l.from_us desc limit 1) w on true
        where e.status = 'in-progress' order by ward, room, bed, e.started_at_us, e.encounter_id""")
    return await _rows(conn, OpenStay, statement, {"known_at": EVER})


async def present(conn: Connection) -> list[int]:
    """Return the numbers of the patients whose stay is in progress, in order: who they are is not asked."""
    statement = _REDIRECT + sql.SQL("""
        select distinct coalesce(r.survivor_id, e.patient_id) from encounter e
        left join redirect r on r.patient_id = e.patient_id where e.status = 'in-progress' order by 1""")
    return [row[0] for row in await _tuples(conn, statement, {"known_at": EVER})]


async def changed_since(conn: Connection, position: int) -> list[int]:
    """Return the records that were told of, moved or merged behind a log position, in order."""
    statement = sql.SQL("""select patient_id from patient where updated_position > {position}
        union select patient_id from encounter where updated_position > {position} order by 1""").format(
        position=sql.Placeholder("position")
    )
    return [row[0] for row in await _tuples(conn, statement, {"position": position})]


async def identifiers(
    conn: Connection, patient_ids: Sequence[int], *, known_at: int | None = None
) -> list[IdentifierRow]:
    """Return the hospital's numbers of these records as known at a position (None: now)."""
    statement = _IDENTIFIER + sql.SQL(""" where patient_id = any(%(ids)s) and known_from <= %(k)s
        and (known_to is null or known_to > %(k)s) order by authority, value""")
    return await _rows(conn, IdentifierRow, statement, {"ids": list(patient_ids), "k": _at(known_at)})


async def find_by_identifier(
    conn: Connection, value: str, authority: str | None = None, *, known_at: int | None = None
) -> list[int]:
    """Return the surviving patients a hospital's number belongs to; with no authority, of any that uses it."""
    statement = _REDIRECT + sql.SQL("""
        select distinct coalesce(r.survivor_id, i.patient_id)
        from patient_identifier i left join redirect r using (patient_id)
        where i.value = %(value)s and (%(authority)s::text is null or i.authority = %(authority)s)
        and i.known_from <= %(known_at)s and (i.known_to is null or i.known_to > %(known_at)s) order by 1""")
    parameters = {"value": value, "authority": authority, "known_at": _at(known_at)}
    return [row[0] for row in await _tuples(conn, statement, parameters)]


async def survivor_of(conn: Connection, patient_id: int, *, known_at: int | None = None) -> int:
    """Return the record a patient id redirects to as known at a position, or the id itself."""
    statement = _REDIRECT + sql.SQL(" select survivor_id from redirect where patient_id = %(id)s")
    found = await _tuples(conn, statement, {"id": patient_id, "known_at": _at(known_at)})
    return int(found[0][0]) if found else patient_id


async def merged_ids(conn: Connection, patient_id: int, *, known_at: int | None = None) -> list[int]:
    """Return every id whose data is this person's: the survivor first, then the retired in order.

    `patient_id` may itself be a retired one.
    """
    survivor = await survivor_of(conn, patient_id, known_at=known_at)
    statement = _REDIRECT + sql.SQL(" select patient_id from redirect where survivor_id = %(id)s order by 1")
    found = await _tuples(conn, statement, {"id": survivor, "known_at": _at(known_at)})
    return [survivor, *(row[0] for row in found)]


async def encounters(conn: Connection, patient_ids: Sequence[int], *, known_at: int | None = None) -> list[KnownStay]:
    """Return the stays of these records, oldest first, as known at a position (None: now).

    Status, start, end and places are those known then; class and visit number are the present ones.
    """
    known = _at(known_at)
    ids = list(patient_ids)
    statement = sql.SQL("""select e.encounter_id, e.patient_id, e.visit_number, e.class as patient_class, s.status,
            s.started_at_us, s.ended_at_us, e.known_from, s.known_from as updated_position
        from encounter e cross join lateral (
            select * from encounter_state s where s.encounter_id = e.encounter_id and s.known_from <= {known}
            order by s.known_from desc limit 1) s
        where e.patient_id = any({ids}) order by s.started_at_us, e.encounter_id""").format(
        known=sql.Placeholder("k"), ids=sql.Placeholder("ids")
    )
    stays = await _rows(conn, EncounterRow, statement, {"ids": ids, "k": known})
    held = await _places(
        conn,
        sql.SQL(""" where l.encounter_id = any(%(ids)s) and l.known_from <= %(k)s
        and (l.known_to is null or l.known_to > %(k)s) order by l.encounter_id, l.from_us"""),
        {"ids": [stay.encounter_id for stay in stays], "k": known},
    )
    by_stay: dict[int, list[EncounterPlaceRow]] = {}
    for row in held:
        by_stay.setdefault(row.encounter_id, []).append(row)
    return [
        KnownStay(
            encounter_id=stay.encounter_id,
            patient_id=stay.patient_id,
            visit_number=stay.visit_number,
            patient_class=stay.patient_class,
            status=stay.status,
            started_at_us=stay.started_at_us,
            ended_at_us=stay.ended_at_us,
            places=by_stay.get(stay.encounter_id, []),
        )
        for stay in stays
    ]


async def associations(
    conn: Connection, subject_kind: str, subject: str, *, known_at: int | None = None
) -> list[AssociationRow]:
    """Return whose a bed or device was over time, as known at a position (None: now), oldest first."""
    statement = _ASSOCIATION + sql.SQL(""" where subject_kind = %(kind)s and subject = %(subject)s
        and known_from <= %(k)s and (known_to is null or known_to > %(k)s) order by from_us""")
    return await _rows(conn, AssociationRow, statement, {"kind": subject_kind, "subject": subject, "k": _at(known_at)})


async def beds(conn: Connection, *, as_of_us: int, known_at: int | None = None) -> list[BedRow]:
    """Return who was in each occupied bed at a time, as known at a position (None: now), ordered by bed."""
    statement = _REDIRECT + sql.SQL("""
        select a.subject, coalesce(r.survivor_id, a.patient_id) as patient_id, a.encounter_id, a.from_us, a.to_us
        from device_association a left join redirect r using (patient_id)
        where a.subject_kind = 'bed' and a.from_us <= %(t)s and (a.to_us is null or a.to_us > %(t)s)
        and a.known_from <= %(known_at)s and (a.known_to is null or a.known_to > %(known_at)s) order by a.subject""")
    return await _rows(conn, BedRow, statement, {"t": as_of_us, "known_at": _at(known_at)})


def _at(known_at: int | None) -> int:
    return EVER if known_at is None else known_at


async def _rows(
    conn: Connection, kind: type[Row], statement: sql.SQL | sql.Composed, parameters: Mapping[str, object] | None = None
) -> list[Row]:
    with translated():
        cursor = conn.cursor(row_factory=class_row(kind))
        await cursor.execute(statement, parameters)
        return await cursor.fetchall()


async def _places(
    conn: Connection, condition: sql.SQL, parameters: Mapping[str, object] | None = None
) -> list[EncounterPlaceRow]:
    return [
        EncounterPlaceRow(
            encounter_id=row[0],
            place=Place(ward=row[1], room=row[2], bed=row[3], facility=row[4]),
            placed_by=row[5],
            from_us=row[6],
            to_us=row[7],
            known_from=row[8],
            known_to=row[9],
        )
        for row in await _tuples(conn, _PLACE + condition, parameters)
    ]


async def _tuples(
    conn: Connection, statement: sql.SQL | sql.Composed, parameters: Mapping[str, object] | None
) -> list[tuple[Any, ...]]:
    with translated():
        cursor = await conn.execute(statement, parameters)
        return await cursor.fetchall()
