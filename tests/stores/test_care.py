"""Readers of care relationships: open stays only, as known at a position, by record."""

from __future__ import annotations

import pytest

from stores import care, clinical
from stores.clinical import CareRow, EncounterPlaceRow, EncounterRow, PatientRow, VipRow
from stores.database import Connection
from vocabulary.errors import BrokenInvariantError
from vocabulary.records import Place

ICU, MED = Place("ICU-A", "1", "A", "H"), Place("MED-3", "2", "B", "H")


def patient(patient_id):
    return PatientRow(patient_id, None, "", "", "", "unknown", 1, 1)


def stay(encounter_id, patient_id, status="in-progress", *, kind="I", started=0, ended=None, position=1):
    return EncounterRow(encounter_id, patient_id, "V", kind, status, started, ended, 1, position)


def by(encounter_id, identifier, role="attending", *, start=0, to=None, position=1, until=None, authority="H"):
    return CareRow(encounter_id, role, authority, identifier, start, to, position, until)


async def write(connection: Connection, **lists):
    names = ("patients", "identifiers", "merges", "encounters", "closed_places", "places", "closed_associations")
    empty = {name: [] for name in (*names, "associations")}
    await clinical.write(connection, clinical.Changes(**(empty | lists)))


async def test_everybody_named_in_an_open_stay_cares_and_nobody_of_an_ended_one(connection: Connection):
    await write(
        connection,
        patients=[patient(1), patient(2), patient(3)],
        encounters=[stay(1, 1), stay(2, 1, "finished", ended=9), stay(3, 2, "cancelled"), stay(4, 3)],
        care=[
            by(1, "P1"), by(1, "C1", "consulting"), by(1, "C2", "consulting", authority=""), by(1, "P0", to=5),
            by(1, "", "referring"), by(2, "P2", to=9), by(3, "P3"),
        ],
    )  # fmt: skip
    assert await care.practitioners_of(connection, [1, 2, 3, 99]) == {
        1: frozenset({"P1", "H|P1", "C1", "H|C1", "C2", "|C2"})
    }
    assert await care.practitioners_of(connection, []) == {}


async def test_who_cared_is_answered_as_it_was_known(connection: Connection):
    await write(connection, patients=[patient(1)], encounters=[stay(1, 1)], care=[by(1, "P1")])
    await write(
        connection,
        encounters=[stay(1, 1, position=5)],
        closed_care=[by(1, "P1", until=5)],
        care=[by(1, "P1", to=10, position=5), by(1, "P2", start=10, position=5)],
        vips=[VipRow(1, True, 10, 5)],
    )
    await write(
        connection,
        encounters=[stay(1, 1, "finished", ended=20, position=9)],
        closed_care=[by(1, "P2", start=10, position=5, until=9)],
        care=[by(1, "P2", start=10, to=20, position=9)],
        closed_vips=[VipRow(1, True, 10, 5, 9)],
        vips=[VipRow(1, False, 20, 9)],
    )
    told = [await care.practitioners_of(connection, [1], known_at=at) for at in (0, 1, 4, 5, 8, 9)]
    assert [sorted(found.get(1, set()) & {"P1", "P2"}) for found in told] == [[], ["P1"], ["P1"], ["P2"], ["P2"], []]
    assert await care.practitioners_of(connection, [1]) == {}
    assert [await care.vip(connection, [1], known_at=at) for at in (4, 5, 8, 9)] == [set(), {1}, {1}, set()]


async def test_what_is_known_now_is_loaded_and_what_was_known_is_kept(connection: Connection):
    await write(
        connection, patients=[patient(1)], encounters=[stay(1, 1)], care=[by(1, "P1")], vips=[VipRow(1, True, 0, 1)]
    )
    await write(
        connection,
        closed_care=[by(1, "P1", until=3)],
        care=[by(1, "P1", to=7, position=3), by(1, "", start=7, position=3)],
    )
    rows = await clinical.load(connection)
    assert rows.care == [by(1, "P1", to=7, position=3), by(1, "", start=7, position=3, authority="H")]
    assert rows.vips == [VipRow(1, True, 0, 1)]
    cursor = await connection.execute("select count(*), count(known_to) from care_relationship")
    assert await cursor.fetchone() == (3, 1)


async def test_the_ward_is_that_of_the_stay_in_a_bed_and_of_its_last_place(connection: Connection):
    await write(
        connection,
        patients=[patient(1), patient(2), patient(3)],
        encounters=[stay(1, 1), stay(2, 1, kind="O", started=50), stay(3, 2, "finished", ended=9), stay(4, 3)],
        places=[
            EncounterPlaceRow(1, MED, "admit", 0, 10, 1),
            EncounterPlaceRow(1, ICU, "transfer", 10, None, 1),
            EncounterPlaceRow(2, MED, "admit", 50, None, 1),
            EncounterPlaceRow(3, MED, "admit", 0, 9, 1),
        ],
    )
    assert await care.wards_of(connection, [1, 2, 3]) == {1: "ICU-A"}


async def test_the_latest_stay_that_says_anything_decides_who_is_a_vip(connection: Connection):
    await write(
        connection,
        patients=[patient(number) for number in range(1, 6)],
        encounters=[
            stay(1, 1, "finished", ended=9), stay(2, 1, started=10),  # the new stay says nothing: still hidden
            stay(3, 2, "finished", ended=9), stay(4, 2, started=10),  # the new stay says no
            stay(5, 3, "cancelled"),
            stay(6, 4),
        ],
        vips=[VipRow(1, True, 0, 1), VipRow(3, True, 0, 1), VipRow(4, False, 10, 1), VipRow(5, True, 0, 1),
              VipRow(6, True, 0, 1)],
    )  # fmt: skip
    assert await care.vip(connection, [1, 2, 3, 4, 5]) == {1, 4}
    assert await care.vip(connection, [2, 3]) == set()


async def test_a_role_nobody_has_a_word_for_is_refused(connection: Connection):
    with pytest.raises(BrokenInvariantError):
        await write(connection, patients=[patient(1)], encounters=[stay(1, 1)], care=[by(1, "P1", "visiting")])
