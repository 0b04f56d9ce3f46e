"""One commit's changes of patients, stays, places, care and associations, in a fixed number of statements.

Here: the write side of the clinical tables; every statement takes its rows as arrays.
Not here: reading (stores.clinical), the rules that make rows (twin.directory, twin.stays).
"""

from __future__ import annotations

from collections.abc import Sequence

from stores.clinical_rows import (
    AssociationRow,
    CareRow,
    Changes,
    EncounterPlaceRow,
    EncounterRow,
    OutcomeRow,
    PatientRow,
    VipRow,
)
from stores.database import Connection, translated
from vocabulary.records import partition_of


async def write(conn: Connection, changes: Changes) -> None:
    """Write one commit's changes in a fixed number of statements; the caller owns the transaction."""
    if changes.patients:
        await _write_patients(conn, changes.patients)
    if changes.identifiers:
        await _insert(
            conn,
            """insert into patient_identifier (authority, value, kind, patient_id, known_from, known_to)
            select * from unnest(%s::text[], %s::text[], %s::text[], %s::bigint[], %s::bigint[], %s::bigint[])""",
            [(r.authority, r.value, r.kind, r.patient_id, r.known_from, r.known_to) for r in changes.identifiers],
        )
    if changes.merges:
        await _insert(
            conn,
            """insert into patient_merge (survivor_id, retired_id, merged_position, merged_at, undone_position)
            select s, r, p, timestamptz 'epoch' + t * interval '1 microsecond', u
            from unnest(%s::bigint[], %s::bigint[], %s::bigint[], %s::bigint[], %s::bigint[]) as m (s, r, p, t, u)
            on conflict (retired_id, merged_position) do update set undone_position = excluded.undone_position""",
            [
                (r.survivor_id, r.retired_id, r.merged_position, r.merged_at_us, r.undone_position)
                for r in changes.merges
            ],
        )
    if changes.encounters:
        await _write_encounters(conn, changes.encounters)
        await _write_encounter_states(conn, [*changes.encounter_states, *changes.encounters])
    await _write_places(conn, changes.closed_places, changes.places)
    await _write_associations(conn, changes.closed_associations, changes.associations)
    await _write_care(conn, changes.closed_care, changes.care)
    await _write_vips(conn, changes.closed_vips, changes.vips)
    await _write_outcomes(conn, changes.outcomes)


async def _insert(conn: Connection, statement: str, rows: Sequence[tuple[object, ...]]) -> None:
    """Run one statement whose parameters are the rows' columns, each as an array."""
    with translated():
        await conn.execute(statement.encode(), [list(column) for column in zip(*rows, strict=True)])


async def _write_patients(conn: Connection, rows: Sequence[PatientRow]) -> None:
    await _insert(
        conn,
        """insert into patient (patient_id, partition, merged_into, family_name, given_name, birth_date, sex,
            created_position, updated_position)
        select * from unnest(%s::bigint[], %s::smallint[], %s::bigint[], %s::text[], %s::text[], %s::text[], %s::text[],
            %s::bigint[], %s::bigint[])
        on conflict (patient_id) do update set merged_into = excluded.merged_into,
            family_name = excluded.family_name, given_name = excluded.given_name,
            birth_date = excluded.birth_date, sex = excluded.sex, updated_position = excluded.updated_position""",
        [
            (
                row.patient_id,
                partition_of(row.patient_id),
                row.merged_into,
                row.family_name,
                row.given_name,
                row.birth_date,
                row.sex,
                row.created_position,
                row.updated_position,
            )
            for row in rows
        ],
    )


async def _write_encounters(conn: Connection, rows: Sequence[EncounterRow]) -> None:
    await _insert(
        conn,
        """insert into encounter (encounter_id, patient_id, visit_number, class, status, started_at_us, ended_at_us,
            known_from, updated_position)
        select * from unnest(%s::bigint[], %s::bigint[], %s::text[], %s::text[], %s::text[], %s::bigint[],
            %s::bigint[], %s::bigint[], %s::bigint[])
        on conflict (encounter_id) do update set visit_number = excluded.visit_number, class = excluded.class,
            status = excluded.status, started_at_us = excluded.started_at_us, ended_at_us = excluded.ended_at_us,
            updated_position = excluded.updated_position""",
        [
            (
                row.encounter_id,
                row.patient_id,
                row.visit_number,
                row.patient_class,
                row.status,
                row.started_at_us,
                row.ended_at_us,
                row.known_from,
                row.updated_position,
            )
            for row in rows
        ],
    )


async def _write_encounter_states(conn: Connection, rows: Sequence[EncounterRow]) -> None:
    last = {(row.encounter_id, row.updated_position): row for row in rows}
    await _insert(
        conn,
        """insert into encounter_state (encounter_id, known_from, status, started_at_us, ended_at_us)
        select * from unnest(%s::bigint[], %s::bigint[], %s::text[], %s::bigint[], %s::bigint[])
        on conflict (encounter_id, known_from) do update set status = excluded.status,
            started_at_us = excluded.started_at_us, ended_at_us = excluded.ended_at_us""",
        [
            (row.encounter_id, row.updated_position, row.status, row.started_at_us, row.ended_at_us)
            for row in last.values()
        ],
    )


async def _write_places(
    conn: Connection, closed: Sequence[EncounterPlaceRow], added: Sequence[EncounterPlaceRow]
) -> None:
    if closed:
        await _insert(
            conn,
            """update encounter_location l set known_to = c.t
            from unnest(%s::bigint[], %s::bigint[], %s::bigint[], %s::bigint[]) as c (e, f, k, t)
            where l.encounter_id = c.e and l.from_us = c.f and l.known_from = c.k and l.known_to is null""",
            [(row.encounter_id, row.from_us, row.known_from, row.known_to) for row in closed],
        )
    if not added:
        return
    names = sorted({(r.place.facility, r.place.ward, r.place.room, r.place.bed) for r in added})
    await _insert(
        conn,
        """insert into location (facility, ward, room, bed)
        select * from unnest(%s::text[], %s::text[], %s::text[], %s::text[]) as n (facility, ward, room, bed)
        where not exists (select from location o where (o.facility, o.ward, o.room, o.bed)
            = (n.facility, n.ward, n.room, n.bed))
        on conflict do nothing""",
        names,
    )
    await _insert(
        conn,
        """insert into encounter_location (encounter_id, location_id, placed_by, from_us, to_us, known_from, known_to)
        select n.e, o.location_id, n.p, n.f, n.t, n.k, n.u
        from unnest(%s::bigint[], %s::text[], %s::text[], %s::text[], %s::text[], %s::text[], %s::bigint[],
            %s::bigint[], %s::bigint[], %s::bigint[]) as n (e, facility, ward, room, bed, p, f, t, k, u)
        join location o using (facility, ward, room, bed)
        on conflict (encounter_id, from_us, known_from) do update set location_id = excluded.location_id,
            placed_by = excluded.placed_by, to_us = excluded.to_us, known_to = excluded.known_to""",
        [
            (
                row.encounter_id,
                row.place.facility,
                row.place.ward,
                row.place.room,
                row.place.bed,
                row.placed_by,
                row.from_us,
                row.to_us,
                row.known_from,
                row.known_to,
            )
            for row in added
        ],
    )


async def _write_associations(
    conn: Connection, closed: Sequence[AssociationRow], added: Sequence[AssociationRow]
) -> None:
    if closed:
        await _insert(
            conn,
            """update device_association a set known_to = c.t
            from unnest(%s::text[], %s::text[], %s::bigint[], %s::bigint[], %s::bigint[], %s::bigint[])
                as c (kind, subject, patient_id, f, k, t)
            where a.subject_kind = c.kind and a.subject = c.subject and a.patient_id = c.patient_id
            and a.from_us = c.f and a.known_from = c.k and a.known_to is null""",
            [(r.subject_kind, r.subject, r.patient_id, r.from_us, r.known_from, r.known_to) for r in closed],
        )
    if added:
        await _insert(
            conn,
            """insert into device_association (subject_kind, subject, patient_id, encounter_id, from_us, to_us, source,
                known_from, known_to)
            select * from unnest(%s::text[], %s::text[], %s::bigint[], %s::bigint[], %s::bigint[], %s::bigint[],
                %s::text[], %s::bigint[], %s::bigint[])""",
            [
                (
                    row.subject_kind,
                    row.subject,
                    row.patient_id,
                    row.encounter_id,
                    row.from_us,
                    row.to_us,
                    row.source,
                    row.known_from,
                    row.known_to,
                )
                for row in added
            ],
        )


async def _write_care(conn: Connection, closed: Sequence[CareRow], added: Sequence[CareRow]) -> None:
    if closed:
        await _insert(
            conn,
            """update care_relationship r set known_to = c.t
            from unnest(%s::bigint[], %s::text[], %s::text[], %s::text[], %s::bigint[], %s::bigint[], %s::bigint[])
                as c (e, role, authority, identifier, f, k, t)
            where r.encounter_id = c.e and r.role = c.role and r.authority = c.authority
            and r.identifier = c.identifier and r.from_us = c.f and r.known_from = c.k and r.known_to is null""",
            [(r.encounter_id, r.role, r.authority, r.identifier, r.from_us, r.known_from, r.known_to) for r in closed],
        )
    if added:
        await _insert(
            conn,
            """insert into care_relationship (encounter_id, role, authority, identifier, from_us, to_us, known_from,
                known_to)
            select * from unnest(%s::bigint[], %s::text[], %s::text[], %s::text[], %s::bigint[], %s::bigint[],
                %s::bigint[], %s::bigint[])
            on conflict (encounter_id, role, from_us, authority, identifier, known_from)
                do update set to_us = excluded.to_us, known_to = excluded.known_to""",
            [
                (r.encounter_id, r.role, r.authority, r.identifier, r.from_us, r.to_us, r.known_from, r.known_to)
                for r in added
            ],
        )


async def _write_vips(conn: Connection, closed: Sequence[VipRow], added: Sequence[VipRow]) -> None:
    if closed:
        await _insert(
            conn,
            """update encounter_vip v set known_to = c.t from unnest(%s::bigint[], %s::bigint[], %s::bigint[])
                as c (e, k, t)
            where v.encounter_id = c.e and v.known_from = c.k and v.known_to is null""",
            [(row.encounter_id, row.known_from, row.known_to) for row in closed],
        )
    if added:
        await _insert(
            conn,
            """insert into encounter_vip (encounter_id, is_vip, at_us, known_from, known_to)
            select * from unnest(%s::bigint[], %s::boolean[], %s::bigint[], %s::bigint[], %s::bigint[])
            on conflict (encounter_id, known_from) do update set is_vip = excluded.is_vip, at_us = excluded.at_us,
                known_to = excluded.known_to""",
            [(row.encounter_id, row.is_vip, row.at_us, row.known_from, row.known_to) for row in added],
        )


async def _write_outcomes(conn: Connection, rows: Sequence[OutcomeRow]) -> None:
    if rows:
        await _insert(
            conn,
            """insert into outcome (encounter_id, outcome, at_us, known_from)
            select * from unnest(%s::bigint[], %s::text[], %s::bigint[], %s::bigint[])
            on conflict (encounter_id, known_from) do update set outcome = excluded.outcome, at_us = excluded.at_us""",
            [(row.encounter_id, row.outcome, row.at_us, row.known_from) for row in rows],
        )
