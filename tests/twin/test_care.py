"""Who cares for whom over time: what ADT says of it, in any order, and what the directory keeps."""

from __future__ import annotations

from datetime import UTC

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from interop.hl7v2 import Message, decode
from stores import care as care_store
from stores import clinical
from twin import stays
from twin.care import Assignment, CareTold, Vip, spans, with_care, with_vip, within
from twin.directory import Applied, Directory
from vocabulary.records import RawId

MINUTE = 60_000_000
HOUR = 60 * MINUTE
BASE = 1_780_272_000_000_000  # 2026-06-01T00:00Z
P1, P2, P3 = ("H", "P1"), ("H", "P2"), ("", "P3")


def attending(*who):
    return CareTold((("attending", tuple(sorted(who))),))


def stamp(hour):
    return f"202606{1 + int(hour) // 24:02d}{int(hour) % 24:02d}{round(hour % 1 * 60):02d}00"


class Registration:
    """A directory told ADT as bytes, one message a log position; every change is kept as rows."""

    def __init__(self):
        self.directory = Directory()
        self.position = 0
        self.care: list[clinical.CareRow] = []  # as the tables would hold them
        self.vips: list[clinical.VipRow] = []
        self.writes: list[clinical.Changes] = []

    def tell(self, trigger, hour, *, number="1", visit="V1", bed="A", ward="ICU", **fields):
        """Fields by name: `_7` is PV1-7."""
        self.position += 1
        said = {3: f"{ward}^1^{bed}" if bed else "", 2: "I", 19: visit, 44: stamp(hour) if trigger == "A01" else ""}
        said |= {int(name[1:]): text for name, text in fields.items()}
        pv1 = "|".join(["PV1", *(said.get(place, "") for place in range(1, 46))])
        head = f"MSH|^~\\&|ADT|H|||{stamp(hour)}||ADT^{trigger}|{self.position}|P|2.5"
        body = "\r".join((head, f"EVN||||||{stamp(hour)}", f"PID|||{number}^^^H", pv1))
        return self._apply(decode(body.encode(), UTC))

    def merge(self, survivor, retired, hour=9):
        self.position += 1
        head = f"MSH|^~\\&|ADT|H|||{stamp(hour)}||ADT^A40|{self.position}|P|2.5"
        body = "\r".join((head, f"PID|||{survivor}^^^H", f"MRG|{retired}^^^H"))
        return self._apply(decode(body.encode(), UTC))

    def _apply(self, message):
        assert isinstance(message, Message), message
        applied = self.directory.apply(
            message, raw=RawId(self.position, 0), feed="adt", received_at_us=BASE, received_monotonic_ns=0
        )
        changes = self.directory.take_changes()
        self.writes.append(changes)
        for closed in changes.closed_care:
            (old,) = [r for r in self.care if _key(r) == _key(closed) and r.known_from == closed.known_from]
            assert old.known_to is None
            self.care[self.care.index(old)] = closed
        self.care += changes.care
        for flag in changes.closed_vips:
            (old_flag,) = [
                v for v in self.vips if (v.encounter_id, v.known_from) == (flag.encounter_id, flag.known_from)
            ]
            self.vips[self.vips.index(old_flag)] = flag
        self.vips += changes.vips
        return applied

    def known(self, at=None):
        """(stay, role, identifier, from hour, to hour) as known at a position."""
        at = self.position if at is None else at
        return sorted(
            (r.encounter_id, r.role, r.identifier, _hour(r.from_us), None if r.to_us is None else _hour(r.to_us))
            for r in self.care
            if r.known_from <= at and (r.known_to is None or r.known_to > at)
        )

    def hidden(self):
        return {v.encounter_id: v.is_vip for v in self.vips if v.known_to is None}


def _key(row):
    return row.encounter_id, row.role, row.authority, row.identifier, row.from_us


def _hour(at_us):
    return (at_us - BASE) / HOUR


def test_whoever_is_told_replaces_whoever_was_from_then_on():
    ward = Registration()
    ward.tell("A01", 8, _7="P1")
    ward.tell("A02", 10, bed="B", _7="P2^Name^Of")
    assert ward.known() == [(1, "attending", "P1", 8, 10), (1, "attending", "P2", 10, None)]
    assert ward.known(at=1) == [(1, "attending", "P1", 8, None)]  # as it was known before the transfer came


def test_a_message_that_changes_nothing_writes_nothing_of_care():
    ward = Registration()
    ward.tell("A01", 8, _7="P1", _9="C1~C2", _16="VIP")
    for told in ({}, {"_7": "P1"}, {"_9": "C2~C1"}, {"_16": "Y"}, {"_7": "^"}):
        ward.tell("A08", 9, **told)
        changes = ward.writes[-1]
        written = [*changes.care, *changes.closed_care, *changes.vips, *changes.closed_vips]
        assert written == [], told


def test_an_emptied_field_takes_the_role_from_everybody_and_others_keep_theirs():
    ward = Registration()
    ward.tell("A01", 8, _7="P1", _9="C1")
    ward.tell("A08", 9, _7='""')
    assert ward.known() == [
        (1, "attending", "", 9, None), (1, "attending", "P1", 8, 9), (1, "consulting", "C1", 8, None),
    ]  # fmt: skip


def test_one_told_late_changes_only_the_past():
    ward = Registration()
    ward.tell("A01", 8, _7="P1")
    ward.tell("A08", 12, _7="P3")
    ward.tell("A08", 10, _7="P2")  # entered on paper, sent in the evening
    assert ward.known() == [
        (1, "attending", "P1", 8, 10), (1, "attending", "P2", 10, 12), (1, "attending", "P3", 12, None),
    ]  # fmt: skip


def test_a_discharge_ends_care_and_its_cancellation_restores_it():
    ward = Registration()
    ward.tell("A01", 8, _7="P1", _8="R1")
    ward.tell("A03", 20, bed="", _7="P9")
    assert ward.known() == [(1, "attending", "P1", 8, 20), (1, "referring", "R1", 8, 20)]
    ward.tell("A13", 21, bed="A")
    assert ward.known() == [(1, "attending", "P1", 8, None), (1, "referring", "R1", 8, None)]
    ward.tell("A03", 22, bed="")
    ward.tell("A08", 23, _7="P2")  # after the discharge: nobody is treated any more
    assert ward.known() == [(1, "attending", "P1", 8, 22), (1, "referring", "R1", 8, 22)]


def test_a_cancelled_admission_leaves_nobody_caring():
    ward = Registration()
    ward.tell("A01", 8, _7="P1")
    ward.tell("A11", 9, bed="", _7="P1")
    assert ward.known() == []
    assert ward.known(at=1) == [(1, "attending", "P1", 8, None)]


def test_a_stay_opened_by_a_later_message_is_cared_for_from_its_start():
    ward = Registration()
    ward.tell("A08", 12, _7="P1", _44=stamp(8))
    assert ward.known() == [(1, "attending", "P1", 8, None)]


def test_an_admission_corrected_to_later_takes_care_with_it():
    ward = Registration()
    ward.tell("A01", 8, _7="P1")
    ward.tell("A01", 10)
    assert ward.known() == [(1, "attending", "P1", 10, None)]
    ward.tell("A01", 9, _7="P2")
    assert ward.known() == [(1, "attending", "P2", 9, None)]  # the admission's own word is corrected with it


def test_an_admission_after_its_transfer_does_not_take_back_what_the_transfer_said():
    ward = Registration()
    ward.tell("A02", 10, bed="B", _7="P2")
    ward.tell("A01", 9, _7="P1")
    assert ward.known() == [(1, "attending", "P1", 9, 10), (1, "attending", "P2", 10, None)]


def test_a_new_stay_ends_the_old_ones_care_and_inherits_nobody():
    ward = Registration()
    ward.tell("A01", 8, _7="P1")
    ward.tell("A01", 12, visit="V2", bed="B", _9="C1")
    assert ward.known() == [(1, "attending", "P1", 8, 12), (2, "consulting", "C1", 12, None)]


def test_a_refused_movement_says_nothing_of_care():
    ward = Registration()
    ward.tell("A01", 8, _7="P1")
    assert not isinstance(ward.tell("A02", 2, bed="B", _7="P2", _16="VIP"), Applied)
    assert ward.known() == [(1, "attending", "P1", 8, None)]
    assert ward.hidden() == {}


def test_a_merge_leaves_care_with_the_stay_it_was_told_of():
    ward = Registration()
    ward.tell("A01", 8, number="1", visit="V1", _7="P1")
    ward.tell("A01", 9, number="2", visit="V2", bed="B", _7="P2")
    before = ward.known()
    assert isinstance(ward.merge("1", "2"), Applied)
    assert ward.known() == before
    ward.tell("A08", 10, number="1", visit="V2", bed="B", _7="P3")  # told of the survivor, of the retired record's stay
    assert (2, "attending", "P3", 10, None) in ward.known()


def test_a_vip_is_as_last_told_and_a_late_message_does_not_undo_it():
    ward = Registration()
    ward.tell("A01", 8)
    assert ward.hidden() == {}
    ward.tell("A08", 12, _16="VIP")
    ward.tell("A08", 10, _16='""')
    assert ward.hidden() == {1: True}
    ward.tell("A08", 13, _16='""')
    assert ward.hidden() == {1: False}
    ward.tell("A03", 14, bed="")
    ward.tell("A08", 15, _16="Y")  # remembered after the discharge: the record is still there to be looked at
    assert ward.hidden() == {1: True}


def test_classes_of_stays_that_end_no_other_are_the_same_for_writer_and_reader():
    assert frozenset(care_store.UNBEDDED_CLASSES) == stays.UNBEDDED_CLASSES


TOLD = st.lists(
    st.tuples(
        st.sampled_from(("A01", "A02", "A03", "A08", "A11", "A13")),
        st.integers(0, 40).map(lambda half: half / 2),
        st.sampled_from(("1", "1", "1", "2")),
        st.sampled_from(("V1", "V1", "V2", "")),
        st.fixed_dictionaries(
            {},
            optional={
                "_7": st.sampled_from(("P1", "P2", '""', "P1~P2")),
                "_9": st.sampled_from(("C1", "C2~C1", '""')),
                "_16": st.sampled_from(("VIP", "N", '""')),
            },
        ),
    ),
    max_size=14,
)


@settings(max_examples=150, deadline=None)
@given(TOLD)
def test_rows_are_bitemporal_and_a_restart_anywhere_changes_nothing(told):
    straight, restarted = Registration(), Registration()
    for trigger, hour, number, visit, fields in told:
        straight.tell(trigger, hour, number=number, visit=visit, **fields)
        restarted.directory = Directory(_rows(restarted))
        restarted.tell(trigger, hour, number=number, visit=visit, **fields)
        assert restarted.known() == straight.known()
        assert restarted.hidden() == straight.hidden()
    assert sorted(map(repr, straight.care)) == sorted(map(repr, restarted.care))
    for at in range(straight.position + 1):
        _assert_no_overlap(straight.known(at))


def _rows(ward):
    """What `clinical.load` would read, from every change there was."""
    rows = clinical.Rows([], [], [], [], [])
    patients, encounters, places, beds = {}, {}, {}, {}
    for changes in ward.writes:
        patients |= {row.patient_id: row for row in changes.patients}
        rows.identifiers.extend(changes.identifiers)
        encounters |= {row.encounter_id: row for row in changes.encounters}
        for row in (*changes.closed_places, *changes.places):
            places[row.encounter_id, row.from_us, row.known_from] = row
        for bed in (*changes.closed_associations, *changes.associations):
            beds[bed.subject, bed.patient_id, bed.from_us, bed.known_from] = bed
    rows.patients.extend(patients[key] for key in sorted(patients))
    rows.encounters.extend(encounters[key] for key in sorted(encounters))
    rows.places.extend(
        sorted((r for r in places.values() if r.known_to is None), key=lambda r: (r.encounter_id, r.from_us))
    )
    rows.associations.extend(
        sorted((r for r in beds.values() if r.known_to is None), key=lambda r: (r.subject, r.from_us))
    )
    rows.care.extend(sorted((r for r in ward.care if r.known_to is None), key=_key))
    rows.vips.extend(v for v in ward.vips if v.known_to is None)
    return rows


def _assert_no_overlap(known):
    """Of one role of one stay, each moment has one assignment: the same start and end, or apart."""
    by_role = {}
    for stay, role, _, from_hour, to_hour in known:
        by_role.setdefault((stay, role), set()).add((from_hour, to_hour))
    for found in by_role.values():
        ordered = sorted(found, key=lambda span: span[0])
        assert len({start for start, _ in ordered}) == len(ordered)
        assert [end for _, end in ordered[:-1]] == [start for start, _ in ordered[1:]]
        assert all(end is None or start < end for start, end in ordered)


STATEMENTS = st.lists(
    st.tuples(st.integers(0, 20), st.sampled_from([attending(), attending(P1), attending(P1, P2), attending(P3)]))
)


@given(STATEMENTS)
def test_what_was_said_last_at_each_time_holds(said):
    """In order of time, the care in force is what a plain replay of the statements says."""
    care: tuple[Assignment, ...] = ()
    in_order = sorted(said, key=lambda one: one[0])
    for at_us, told in in_order:
        care = with_care(care, told, at_us)
    for moment in range(21):
        replayed = [told.roles[0][1] for at_us, told in in_order if at_us <= moment]
        in_force = [held.practitioners for held in care if held.from_us <= moment]
        assert (in_force or [()])[-1] == (replayed or [()])[-1]


@given(STATEMENTS, st.integers(0, 20), st.none() | st.integers(0, 20))
def test_within_a_stay_nobody_cares_before_its_start_or_after_its_end(said, started, ended):
    care: tuple[Assignment, ...] = ()
    for at_us, told in said:
        care = with_care(care, told, at_us)
    kept = within(care, started, ended)
    assert all(held.from_us >= started and (ended is None or held.from_us < ended) for held in kept)
    assert within(kept, started, ended) == kept
    for (held, to_us), (following, _) in zip(spans(kept, ended), spans(kept, ended)[1:], strict=False):
        assert (to_us, held.role) == (following.from_us, following.role)
    inside = [held.practitioners for held in care if held.from_us <= started]
    if inside and (ended is None or started < ended):
        assert kept[0].practitioners == inside[-1]


@pytest.mark.parametrize(
    ("known", "is_vip", "at_us", "expected"),
    [
        (None, None, 5, None),
        (None, False, 5, Vip(5, False)),
        (Vip(5, True), True, 9, Vip(5, True)),
        (Vip(5, True), False, 4, Vip(5, True)),
        (Vip(5, True), False, 5, Vip(5, False)),
        (Vip(5, True), None, 9, Vip(5, True)),
    ],
)
def test_what_a_message_makes_of_a_vip(known, is_vip, at_us, expected):
    assert with_vip(known, CareTold((), is_vip), at_us) == expected
