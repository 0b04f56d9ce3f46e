"""The clinical tables: what was written is read, now and as it was known at a position."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stores import clinical
from stores.clinical import AssociationRow, EncounterPlaceRow, EncounterRow, IdentifierRow, MergeRow, PatientRow
from stores.database import Connection, connect
from vocabulary.errors import BrokenInvariantError
from vocabulary.records import Place, partition_of

A = Place("ICU", "1", "A", "H")
B = Place("ICU", "1", "B", "H")


def patient(patient_id, **more):
    row = {"family_name": f"N{patient_id}", "given_name": "", "birth_date": "", "sex": "unknown"} | more
    return PatientRow(patient_id, row.pop("merged_into", None), **row, created_position=1, updated_position=1)


def encounter(encounter_id, patient_id, status="in-progress", started=0, ended=None, known_from=1, updated=1):
    return EncounterRow(encounter_id, patient_id, "V", "I", status, started, ended, known_from, updated)


def changes(**lists):
    names = clinical.Changes.__struct_fields__
    return clinical.Changes(**{name: lists.get(name, []) for name in names})


async def test_what_was_written_is_read_back(connection: Connection):
    rows = changes(
        patients=[patient(1, birth_date="1961-01", sex="female"), patient(2, merged_into=1)],
        identifiers=[IdentifierRow("HOSP", "7", "MR", 1, 1)],
        encounters=[encounter(1, 1)],
        places=[EncounterPlaceRow(1, A, "admit", 0, None, 1)],
        associations=[AssociationRow("bed", "H|ICU|1|A", 1, 1, 0, None, "adt", 1)],
    )
    await clinical.write(connection, rows)
    read = await clinical.load(connection)
    assert read == clinical.Rows(rows.patients, rows.identifiers, rows.encounters, rows.places, rows.associations)
    cursor = await connection.execute("select patient_id, partition from patient order by 1")
    assert await cursor.fetchall() == [(1, partition_of(1)), (2, partition_of(2))]


async def test_nothing_is_read_from_nothing_and_nothing_is_written(connection: Connection):
    await clinical.write(connection, changes())
    assert await clinical.load(connection) == clinical.Rows([], [], [], [], [])
    assert await clinical.open_stays(connection) == []


async def test_a_person_written_again_is_replaced_and_keeps_when_they_were_created(connection: Connection):
    await clinical.write(connection, changes(patients=[patient(1)]))
    again = PatientRow(1, None, "New", "Name", "1961-01-31", "male", created_position=9, updated_position=9)
    await clinical.write(connection, changes(patients=[again]))
    (row,) = await clinical.patients(connection, [1, 5])
    assert (row.family_name, row.birth_date, row.created_position, row.updated_position) == ("New", "1961-01-31", 1, 9)


async def test_a_birth_date_that_is_none_is_refused(connection: Connection):
    with pytest.raises(BrokenInvariantError):
        await clinical.write(connection, changes(patients=[patient(1, birth_date="31.1.1961")]))


async def test_the_ward_list_follows_merges_and_shows_the_last_known_bed(connection: Connection):
    rows = changes(
        patients=[patient(1, family_name="Survivor"), patient(2, merged_into=1), patient(3)],
        merges=[MergeRow(1, 2, 5, 0)],
        encounters=[encounter(1, 2), encounter(2, 3, "finished", ended=9), encounter(3, 3, started=20)],
        places=[
            EncounterPlaceRow(1, A, "admit", 0, 10, 1),
            EncounterPlaceRow(1, B, "transfer", 10, None, 1),
            EncounterPlaceRow(2, A, "admit", 0, 9, 1),
        ],
    )
    await clinical.write(connection, rows)
    found = await clinical.open_stays(connection)
    assert [(stay.patient_id, stay.encounter_id, stay.family_name, stay.ward, stay.bed) for stay in found] == [
        (3, 3, "N3", "", ""),
        (1, 1, "Survivor", "ICU", "B"),
    ]


async def test_a_number_is_found_with_or_without_its_authority_and_through_merges(connection: Connection):
    await clinical.write(
        connection,
        changes(
            patients=[patient(1), patient(2, merged_into=1), patient(3)],
            merges=[MergeRow(1, 2, 5, 0)],
            identifiers=[IdentifierRow("H", "7", "MR", 2, 2), IdentifierRow("G", "7", "MR", 3, 3)],
        ),
    )
    assert await clinical.find_by_identifier(connection, "7") == [1, 3]
    assert await clinical.find_by_identifier(connection, "7", "H") == [1]
    assert await clinical.find_by_identifier(connection, "7", "H", known_at=4) == [2]
    assert await clinical.find_by_identifier(connection, "7", known_at=1) == []
    assert [row.authority for row in await clinical.identifiers(connection, [1, 2, 3])] == ["G", "H"]
    assert await clinical.identifiers(connection, [3], known_at=2) == []


async def test_a_chain_of_merges_is_followed_as_known_then_and_an_undone_one_is_not(connection: Connection):
    await clinical.write(connection, changes(patients=[patient(n) for n in (1, 2, 3)]))
    await clinical.write(connection, changes(merges=[MergeRow(2, 1, 10, 0), MergeRow(3, 2, 20, 0)]))
    assert await clinical.merged_ids(connection, 1) == [3, 1, 2]
    assert await clinical.merged_ids(connection, 3, known_at=15) == [3]
    assert await clinical.merged_ids(connection, 1, known_at=15) == [2, 1]
    await clinical.write(connection, changes(merges=[MergeRow(3, 2, 20, 0, undone_position=30)]))
    assert await clinical.survivor_of(connection, 1) == 2
    assert await clinical.survivor_of(connection, 1, known_at=25) == 3


async def test_a_superseded_place_is_kept_as_it_was_known(connection: Connection):
    first = EncounterPlaceRow(1, A, "admit", 0, None, 1)
    await clinical.write(connection, changes(patients=[patient(1)], encounters=[encounter(1, 1)], places=[first]))
    await clinical.write(
        connection,
        changes(
            encounters=[encounter(1, 1, "finished", ended=50, updated=2)],
            closed_places=[EncounterPlaceRow(1, A, "admit", 0, None, 1, known_to=2)],
            places=[EncounterPlaceRow(1, A, "admit", 0, 50, 2)],
        ),
    )
    (then,) = await clinical.encounters(connection, [1], known_at=1)
    (now,) = await clinical.encounters(connection, [1])
    assert (then.status, then.ended_at_us, then.places[0].to_us) == ("in-progress", None, None)
    assert (now.status, now.ended_at_us, now.places[0].to_us) == ("finished", 50, 50)
    assert await clinical.encounters(connection, [1], known_at=0) == []


revisions = st.lists(
    st.tuples(
        st.sampled_from(["a", "b"]),
        st.integers(1, 3),
        st.integers(0, 10),
        st.none() | st.integers(11, 20),
        st.integers(1, 9),
        st.none() | st.integers(1, 9),
    ),
    max_size=10,
    unique_by=lambda row: (row[0], row[1], row[2], row[4]),
)


@given(revisions)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_associations_as_known_at_equal_a_search_through_all_rows(migrated_url, made):
    rows = [
        AssociationRow("bed", subject, who, None, start, end, "adt", known_from, known_to)
        for subject, who, start, end, known_from, known_to in made
    ]

    async def check():
        connection = await connect(migrated_url, application_name="vigil test")
        try:
            await clinical.write(connection, changes(patients=[patient(n) for n in (1, 2, 3)], associations=rows))
            for k in (*range(11), None):
                knows = [r for r in rows if k is None or r.known_from <= k]
                knows = [r for r in knows if r.known_to is None or (k is not None and r.known_to > k)]
                for subject in "ab":
                    found = await clinical.associations(connection, "bed", subject, known_at=k)
                    expected = [r for r in knows if r.subject == subject]
                    assert sorted(found, key=repr) == sorted(expected, key=repr)
                found_beds = await clinical.beds(connection, as_of_us=12, known_at=k)
                then = [r for r in knows if r.from_us <= 12 and (r.to_us is None or r.to_us > 12)]
                assert sorted((b.subject, b.patient_id) for b in found_beds) == sorted(
                    (r.subject, r.patient_id) for r in then
                )
        finally:
            await connection.rollback()
            await connection.close()

    asyncio.run(check())
