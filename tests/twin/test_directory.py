"""Who is who and where: identities, waiting, merges, beds through time, and the same after a restart."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from interop.hl7v2 import Header, Identifier, Message, PatientIdentity, Reading, Visit, decode
from stores import clinical
from stores.database import Connection, connect, migrate
from twin.beds import bed_subject
from twin.directory import AfterDischarge, Applied, BeforeAdmission, Directory, InStay, Resolved, Waiting
from vocabulary.records import Merged, Moved, Movement, Place, RawId, Reason, Rejected

SECOND = 1_000_000
MINUTE = 60 * SECOND
NOWHERE = Place()
BEDS = {name: Place("ICU", "1", name, "H") for name in "ABC"}
A, B, C = BEDS.values()

HEADER = Header("|", "^~\\&", "ADT", "H", "", "", "1", "ADT", "A01", "", "2.6", "P", None, "", "", "", "utf-8")


def identifiers(*values):
    """`"7"` is number 7 of HOSP, `"MON:7"` of MON, `":7"` of nobody named."""
    made = []
    for value in values:
        authority, _, number = value.rpartition(":")
        made.append(Identifier(number, authority if ":" in value else "HOSP", "MR"))
    return tuple(made)


def person(*values, family="", birth_date="", sex="unknown"):
    return PatientIdentity(identifiers(*values), family, "", birth_date, sex)


def reading(at_us=None, device=""):
    return Reading(0, "8867-4", "LN", "", "", 80.0, "/min", "UCUM", at_us, "F", device, "", "", "NM")


def message(patient, movement=None, minute=0.0, place=NOWHERE, visit="", *, prior=(), readings=(), kind="I"):
    return Message(
        header=HEADER,
        patient=patient,
        visit=Visit(kind, place, NOWHERE, visit, None, None),
        movement=movement,
        event_at_us=round(minute * MINUTE),
        prior_identifiers=identifiers(*prior),
        is_merge=bool(prior),
        readings=list(readings),
        rejected=[],
        without_value=0,
    )


class Ward:
    """A directory that is told one message a log position."""

    def __init__(self, directory=None):
        self.directory = directory or Directory()
        self.position = 0

    def tell(self, told, position=None):
        self.position = self.position + 1 if position is None else position
        return self.directory.apply(
            told, raw=RawId(self.position, 0), feed="adt", received_at_us=0, received_monotonic_ns=0
        )

    def admit(self, who, minute=0.0, place=A, visit="", **more):
        return self.tell(message(person(who, **more), Movement.ADMIT, minute, place, visit))

    def transfer(self, who, minute, place, visit=""):
        return self.tell(message(person(who), Movement.TRANSFER, minute, place, visit))

    def discharge(self, who, minute, visit=""):
        return self.tell(message(person(who), Movement.DISCHARGE, minute, visit=visit))

    def merge(self, survivor, retired, minute=0.0):
        return self.tell(message(person(survivor), None, minute, prior=(retired,)))

    def who(self, *values, place=NOWHERE, at_us=0, devices=()):
        asked = message(person(*values), place=place, readings=[reading(at_us, device) for device in devices])
        return self.directory.resolve(asked, feed="monitors", default_authority="", at_us=at_us)

    def in_bed(self, place, at_us):
        found = self.who(place=place, at_us=at_us)
        return found.patient_id if isinstance(found, Resolved) else None


def test_a_number_of_a_known_patient_resolves_to_them_and_their_stay():
    ward = Ward()
    ward.admit("1")
    assert ward.who("1") == Resolved(1, 1)
    assert ward.who("2", "1") == Resolved(1, 1)  # a second number, not yet known, changes nothing


def test_numbers_of_two_patients_in_one_message_conflict():
    ward = Ward()
    ward.admit("1")
    ward.admit("2", place=B)
    assert ward.who("1", "2").reason is Reason.IDENTITY_CONFLICT
    refused = ward.tell(message(person("1", "2"), Movement.UPDATE, 1))
    assert (refused.reason, refused.where) == (Reason.IDENTITY_CONFLICT, "PID-3")


def test_the_same_number_of_another_authority_is_another_patient():
    ward = Ward()
    ward.admit("A:1")
    ward.admit("B:1", place=B)
    assert (ward.who("A:1").patient_id, ward.who("B:1").patient_id) == (1, 2)


def test_a_number_without_authority_is_the_feeds_own_unless_told_otherwise():
    ward = Ward()
    ward.admit(":1")
    asked = message(person(":1"))
    assert isinstance(ward.directory.resolve(asked, feed="adt", default_authority="", at_us=0), Resolved)
    assert isinstance(ward.directory.resolve(asked, feed="lab", default_authority="adt", at_us=0), Resolved)
    assert isinstance(ward.directory.resolve(asked, feed="lab", default_authority="", at_us=0), Waiting)


def test_a_result_before_its_admission_waits_for_the_number_and_is_released_by_it():
    ward = Ward()
    waiting = ward.who("1")
    assert waiting == Waiting(Reason.UNKNOWN_PATIENT, ("id:HOSP|1",))
    applied = ward.admit("1")
    assert set(waiting.keys) <= set(applied.released_keys)
    assert ward.admit("1", 0.5).released_keys == ("bed:H|ICU|1|A",)  # the number is known; the bed's time changed


def test_a_monitor_without_a_number_speaks_of_whoever_is_in_its_bed():
    ward = Ward()
    waiting = ward.who(place=A, at_us=5 * MINUTE)
    assert waiting == Waiting(Reason.UNASSOCIATED_DEVICE, ("bed:H|ICU|1|A",))
    assert waiting.keys[0] in ward.admit("1", 2).released_keys
    assert ward.who(place=A, at_us=5 * MINUTE) == Resolved(1, 1, "bed", 2 * MINUTE, None)


def test_a_monitors_own_number_is_no_hindrance_but_a_hospitals_unknown_one_is():
    ward = Ward()
    ward.admit("1")
    assert ward.who("MON:77", place=A, at_us=MINUTE).patient_id == 1
    assert ward.who("99", place=A, at_us=MINUTE) == Waiting(Reason.UNKNOWN_PATIENT, ("id:HOSP|99",))


def test_a_message_that_names_nothing_is_refused():
    assert Ward().who() == Rejected(Reason.UNKNOWN_PATIENT, "PID-3", "an identifier, a bed or a device", "none")


def test_a_bed_changes_hands_at_the_second():
    ward = Ward()
    ward.admit("1", 0, A)
    ward.admit("2", 0, B)
    ward.transfer("1", 10, C)
    ward.transfer("2", 10 + 1 / 60, A)
    change = 10 * MINUTE
    beds = {t: (ward.in_bed(A, change + t), ward.in_bed(B, change + t), ward.in_bed(C, change + t))
            for t in (-1, 0, SECOND - 1, SECOND)}  # fmt: skip
    assert beds == {
        -1: (1, 2, None),
        0: (None, 2, 1),
        SECOND - 1: (None, 2, 1),
        SECOND: (2, None, 1),
    }


def test_of_two_patients_in_one_bed_the_newer_has_it_and_the_older_does_not_get_it_back():
    ward = Ward()
    ward.admit("1", 0)
    ward.admit("2", 10)
    ward.discharge("2", 20)
    assert [ward.in_bed(A, minute * MINUTE) for minute in (5, 15, 25)] == [1, 2, None]


def test_a_cancelled_admission_gives_the_bed_back_as_if_it_had_never_been():
    ward = Ward()
    ward.admit("1", 0)
    ward.admit("2", 10)
    ward.tell(message(person("2"), Movement.CANCEL_ADMIT, 12))
    assert [ward.in_bed(A, minute * MINUTE) for minute in (5, 15)] == [1, 1]
    assert ward.directory.admission_window(2, 11 * MINUTE) == BeforeAdmission(None)


def test_devices_decide_before_the_bed_and_may_not_belong_to_two():
    ward = Ward()
    ward.admit("1", 0, A)
    ward.admit("2", 0, B)
    assert ward.who(devices=("pump",)) == Waiting(Reason.UNASSOCIATED_DEVICE, ("device:pump",))
    released = ward.directory.associate_device("pump", 2, from_us=0, position=3, source="bedside")
    assert released == ("device:pump",)
    assert ward.who(place=A, devices=("pump",)).patient_id == 2
    ward.directory.associate_device("probe", 1, from_us=0, position=4, source="bedside")
    assert ward.who(devices=("pump", "probe")).reason is Reason.IDENTITY_CONFLICT
    ward.directory.associate_device("pump", None, from_us=5 * MINUTE, position=5, source="bedside")
    assert ward.who(place=A, devices=("pump",), at_us=6 * MINUTE).patient_id == 1
    assert ward.who(devices=("pump",), at_us=4 * MINUTE).patient_id == 2


def test_the_window_of_a_stay_allows_a_minute_on_either_side():
    ward = Ward()
    ward.admit("1", 100)
    ward.discharge("1", 200)
    window = ward.directory.admission_window
    assert window(1, 99 * MINUTE) == InStay(1)
    assert window(1, 99 * MINUTE - 1) == BeforeAdmission(100 * MINUTE)
    assert window(1, 201 * MINUTE) == InStay(1)
    assert window(1, 201 * MINUTE + 1) == AfterDischarge(200 * MINUTE)
    ward.admit("1", 400)
    assert window(1, 250 * MINUTE) == AfterDischarge(200 * MINUTE)
    assert window(1, 350 * MINUTE) == BeforeAdmission(400 * MINUTE)
    assert window(1, 500 * MINUTE) == InStay(2)


def test_a_patient_without_a_stay_is_before_admission():
    ward = Ward()
    ward.tell(message(person("1"), Movement.UPDATE))
    assert ward.directory.admission_window(1, 0) == BeforeAdmission(None)
    assert ward.who("1") == Resolved(1, 0)


def test_what_a_message_leaves_empty_is_kept():
    ward = Ward()
    ward.admit("1", family="Doe", birth_date="1961-01", sex="female")
    ward.admit("1", family="", birth_date="nonsense")
    row = ward.directory.take_changes().patients[0]
    assert (row.family_name, row.birth_date, row.sex) == ("Doe", "1961-01", "female")


def test_a_refused_message_changes_nothing():
    ward = Ward()
    ward.admit("1")
    ward.directory.take_changes()
    for refused in (
        message(person("2"), Movement.CANCEL_ADMIT, 5),
        message(person("2"), Movement.TRANSFER, 5),
        message(person(), Movement.ADMIT, 5, A),
        message(person("1"), prior=("1",)),
    ):
        assert isinstance(ward.tell(refused), Rejected)
    assert ward.directory.take_changes().is_empty
    assert isinstance(ward.who("2"), Waiting)


def test_events_name_the_surviving_patient_the_stay_and_where_they_are_now():
    ward = Ward()
    applied = ward.admit("1", 7)
    assert applied.events == [Moved(RawId(1, 0), 1, 1, Movement.ADMIT, 7 * MINUTE, A, "adt", 0, 0)]
    late = ward.transfer("1", 20, C)
    assert [(event.movement, event.place) for event in late.events] == [(Movement.TRANSFER, C)]
    earlier = ward.transfer("1", 15, B)
    assert [(event.movement, event.place) for event in earlier.events] == [(Movement.TRANSFER, C)]


def test_news_of_an_old_stay_says_again_where_the_patient_is():
    ward = Ward()
    ward.admit("1", 100, B, "V2")
    events = ward.admit("1", 10, A, "V1").events
    assert [(event.movement, event.encounter_id) for event in events] == [
        (Movement.ADMIT, 2),
        (Movement.DISCHARGE, 2),
        (Movement.UPDATE, 1),
    ]
    assert ward.directory.place_of(1) == B


def test_a_merge_makes_both_numbers_one_patient_with_both_stays():
    ward = Ward()
    ward.admit("1", 0, A)
    ward.admit("2", 10, B)
    applied = ward.merge("1", "2", 20)
    assert applied.events[0] == Merged(RawId(3, 0), 1, 2, "adt", 0, 0)
    assert (applied.events[1].movement, applied.events[1].encounter_id) == (Movement.UPDATE, 2)
    assert ward.who("2").patient_id == 1
    assert ward.in_bed(B, 30 * MINUTE) == 1
    assert ward.directory.patient_ids(1) == (1, 2)
    assert ward.directory.survivor_of(2) == 1
    assert ward.discharge("2", 40).events[0].patient_id == 1


def test_merges_form_chains():
    ward = Ward()
    for number, place in (("1", A), ("2", B), ("3", C)):
        ward.admit(number, 0, place)
    ward.merge("2", "1")
    ward.merge("3", "2")
    assert {ward.who(number).patient_id for number in "123"} == {3}
    assert ward.directory.patient_ids(3) == (3, 1, 2)
    assert ward.merge("1", "3").events == []  # already one patient


def test_a_merge_of_a_record_with_itself_is_refused():
    ward = Ward()
    ward.admit("1")
    refused = ward.merge("1", "1")
    assert (refused.reason, refused.where) == (Reason.IDENTITY_CONFLICT, "MRG-1")


def test_a_merge_into_or_of_an_unknown_record_knows_both_numbers():
    ward = Ward()
    ward.admit("1")
    assert ward.merge("9", "1").events[0] == Merged(RawId(2, 0), 2, 1, "adt", 0, 0)
    assert ward.who("1").patient_id == 2
    applied = ward.merge("9", "8")
    assert (applied.events, applied.released_keys) == ([], ("id:HOSP|8",))
    assert ward.who("8").patient_id == 2


def test_the_same_messages_give_the_same_numbers_rows_and_events():
    def run():
        ward = Ward()
        applied = [ward.admit("1"), ward.admit("2", 1, B), ward.merge("2", "1", 2), ward.discharge("1", 3)]
        return applied, ward.directory.take_changes()

    assert run() == run()


def test_text_that_the_database_cannot_hold_is_made_holdable():
    ward = Ward()
    ward.admit("1\x00", family="\ud800X", place=Place("I\x00", "", "1", ""))
    changes = ward.directory.take_changes()
    assert "\x00" not in changes.identifiers[0].value + changes.places[0].place.ward
    changes.patients[0].family_name.encode()
    assert ward.who("1\x00").patient_id == 1
    assert ward.in_bed(Place("I\x00", "", "1", ""), 5) == 1


WIRE = """MSH|^~\\&|ADT|H|||20260101100000||ADT^{trigger}|{control}|P|2.6
EVN||{at}
PID|||{number}^^^HOSP^MR||Doe^Jane||19610131|F
{more}PV1||I|ICU^1^{bed}^H||||||||||||||||V1
"""


def wired(trigger, number, bed, at, more=""):
    text = WIRE.format(trigger=trigger, control=f"{trigger}{at}", number=number, bed=bed, at=at, more=more)
    return decode(text.replace("\n", "\r").encode(), UTC)


def test_messages_as_they_come_off_the_wire_are_applied():
    ward = Ward()
    assert isinstance(ward.tell(wired("A01", "1", "A", "20260101100000")), Applied)
    moved = ward.tell(wired("A02", "1", "B", "20260101110000")).events[0]
    at = datetime(2026, 1, 1, 11, tzinfo=UTC)
    assert (moved.movement, moved.place, moved.at_us) == (Movement.TRANSFER, B, round(at.timestamp()) * SECOND)
    merged = ward.tell(wired("A40", "2", "B", "20260101120000", "MRG|1^^^HOSP^MR\n")).events
    assert (merged[0].survivor_id, merged[0].retired_id, merged[1].encounter_id) == (2, 1, 1)
    assert ward.who("1").patient_id == 2
    assert ward.tell(wired("A03", "1", "B", "20260101130000")).events[0].patient_id == 2


@pytest.mark.shared_data
def test_other_peoples_adt_messages_are_applied_or_refused_with_a_reason(shared_data):
    ward, outcomes = Ward(), Counter()
    for path in sorted((shared_data / "hl7v2").rglob("*.hl7")):
        told = decode(path.read_bytes(), UTC)
        if isinstance(told, Message) and (told.movement is not None or told.is_merge):
            answer = ward.tell(told)
            outcomes[answer.reason if isinstance(answer, Rejected) else "applied"] += 1
    assert outcomes["applied"] >= 0.8 * outcomes.total() > 0, outcomes


numbers = st.sampled_from(["1", "2", "3", "4"])
told_messages = st.builds(
    lambda who, movement, minute, place, visit, kind: message(
        person(who, family=f"N{minute % 3}"), movement, minute, place, visit, kind=kind
    ),
    numbers,
    st.sampled_from([*Movement, Movement.ADMIT, Movement.TRANSFER]),
    st.integers(0, 30),
    st.sampled_from([NOWHERE, A, B, C, A, B]),
    st.sampled_from(["", "", "V1", "V2"]),
    st.sampled_from(["I", "I", "O"]),
) | st.builds(
    lambda survivor, retired, minute: message(person(survivor), None, minute, prior=(retired,)),
    numbers,
    numbers,
    st.integers(0, 30),
)
histories = st.lists(st.tuples(told_messages, st.integers(0, 2), st.booleans()), max_size=16)
"""Each message with how far the log moves before it (0: the same pack) and whether a commit follows."""


@pytest.fixture
def runner() -> Iterator[asyncio.Runner]:
    with asyncio.Runner() as opened:
        yield opened


@pytest.fixture
def kept(database_url: str, runner: asyncio.Runner) -> Iterator[tuple[asyncio.Runner, Connection]]:
    runner.run(migrate(database_url))
    connection = runner.run(connect(database_url, application_name="vigil test"))
    yield runner, connection
    runner.run(connection.close())


def known(directory):
    """Everything a directory answers with, for comparing two."""
    book = directory._book
    people = sorted(book.patients)
    return {
        "identifiers": {name: row.patient_id for name, row in book.identifiers.items()},
        "patients": book.patients,
        "survivors": {one: directory.survivor_of(one) for one in people},
        "members": {one: directory.patient_ids(one) for one in people},
        "stays": {one: sorted(book.stays_of(one), key=lambda s: s.encounter_id) for one in people},
        "places": {one: directory.place_of(one) for one in people},
        "windows": {(one, m): directory.admission_window(one, m * MINUTE) for one in people for m in range(-3, 34)},
        "beds": {subject: rows for subject, rows in book.beds.items() if rows},
        "next": (book.next_patient_id, book.next_encounter_id),
    }


@given(histories)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_directory_read_back_is_the_one_that_was_written(kept, history):
    runner, connection = kept

    async def check():
        ward, position = Ward(), 1
        for told, step, commits in history:
            position += step or commits  # two transactions never share a position
            ward.tell(told, position)
            if commits:
                await ward.directory.write(connection)
                position += 1
        await ward.directory.write(connection)
        read = await Directory.load(connection)
        assert known(read) == known(ward.directory)
        further = message(person("1"), Movement.ADMIT, 31, C, "V3")
        assert Ward(read).tell(further, 99) == Ward(ward.directory).tell(further, 99)
        assert read.take_changes() == ward.directory.take_changes()

    try:
        runner.run(check())
    finally:
        runner.run(connection.rollback())


@given(histories)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_beds_as_known_at_a_position_are_what_the_directory_said_then(kept, history):
    runner, connection = kept
    asked = [minute * MINUTE + offset for minute in range(0, 32, 3) for offset in (0, SECOND)]

    async def check():
        ward, position = Ward(), 1
        said = {}
        for told, step, commits in history:
            position += step or commits
            ward.tell(told, position)
            said[position] = {t: {p: ward.in_bed(p, t) for p in BEDS.values()} for t in asked}
            if commits:
                await ward.directory.write(connection)
                position += 1
        await ward.directory.write(connection)
        for known_at, beds in list(said.items())[-6:]:
            for t in asked[::4]:
                found = await clinical.beds(connection, as_of_us=t, known_at=known_at)
                expected = {bed_subject(place): who for place, who in beds[t].items() if who is not None}
                assert {row.subject: row.patient_id for row in found} == expected

    try:
        runner.run(check())
    finally:
        runner.run(connection.rollback())


@given(histories)
@settings(deadline=None)
def test_no_sequence_of_messages_breaks_the_directory(history):
    ward = Ward()
    for told, _, _ in history:
        applied = ward.tell(told)
        if isinstance(applied, Applied):
            for event in applied.events:
                who = event.survivor_id if isinstance(event, Merged) else event.patient_id
                assert ward.directory.survivor_of(who) == who
    occupied = [row for rows in ward.directory._book.beds.values() for row in rows]
    for row in occupied:
        assert row.to_us is None or row.to_us > row.from_us
