"""The table of movements: what is legal, what is not, and what each does to the stays."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from twin.beds import Occupancy, bed_subject, occupancies
from twin.stays import NOWHERE, Placement, Stay, Step, Told, plan
from vocabulary.records import Movement, Place, Reason, Rejected

MINUTE = 60_000_000
BED = {name: Place("ICU", "1", name, "H") for name in "ABC"}
A, B, C = BED["A"], BED["B"], BED["C"]


def told(movement, minute, place=NOWHERE, visit="V1", *, admitted=None, discharged=None, prior=NOWHERE, kind="I"):
    return Told(
        movement,
        minute * MINUTE,
        visit,
        kind,
        place,
        prior,
        None if admitted is None else admitted * MINUTE,
        None if discharged is None else discharged * MINUTE,
    )


def admit(minute, place=A, visit="V1", **more):
    return told(Movement.ADMIT, minute, place, visit, **more)


def transfer(minute, place=B, visit="V1", **more):
    return told(Movement.TRANSFER, minute, place, visit, **more)


def discharge(minute, visit="V1", **more):
    return told(Movement.DISCHARGE, minute, visit=visit, **more)


def update(minute, place=NOWHERE, visit="V1", **more):
    return told(Movement.UPDATE, minute, place, visit, **more)


def cancel_admit(minute, visit="V1"):
    return told(Movement.CANCEL_ADMIT, minute, visit=visit)


def cancel_discharge(minute, place=NOWHERE, visit="V1"):
    return told(Movement.CANCEL_DISCHARGE, minute, place, visit)


def tell(*messages):
    """Return the stays after the messages, and the answer to the last."""
    stays: dict[int, Stay] = {}
    answer: list[Step] | Rejected = []
    for message in messages:
        answer = plan(list(stays.values()), message, 1, len(stays) + 1)
        if isinstance(answer, list):
            for step in answer:
                stays[step.stay.encounter_id] = step.stay
    return stays, answer


def shown(stay):
    """Return status, start, end and places in minutes."""
    places = [(p.from_us // MINUTE, p.place.bed, None if to is None else to // MINUTE) for p, to in stay.spans()]
    ended = None if stay.ended_at_us is None else stay.ended_at_us // MINUTE
    return stay.status, stay.started_at_us // MINUTE, ended, places


LEGAL = {
    "an admission opens a stay": ([admit(10)], ("in-progress", 10, None, [(10, "A", None)])),
    "a transfer ends one place and starts the next": (
        [admit(10), transfer(20)],
        ("in-progress", 10, None, [(10, "A", 20), (20, "B", None)]),
    ),
    "a transfer told late takes its place in time": (
        [admit(10), transfer(30, C), transfer(20, B)],
        ("in-progress", 10, None, [(10, "A", 20), (20, "B", 30), (30, "C", None)]),
    ),
    "a transfer to where the patient is changes nothing": (
        [admit(10), transfer(20, A)],
        ("in-progress", 10, None, [(10, "A", None)]),
    ),
    "a discharge ends the stay": ([admit(10), discharge(30)], ("finished", 10, 30, [(10, "A", 30)])),
    "a second discharge corrects the first": (
        [admit(10), discharge(30), discharge(40)],
        ("finished", 10, 40, [(10, "A", 40)]),
    ),
    "a transfer told after the discharge it precedes is kept": (
        [admit(10), discharge(30), transfer(20)],
        ("finished", 10, 30, [(10, "A", 20), (20, "B", 30)]),
    ),
    "a second admission of the same stay corrects start and bed": (
        [admit(10), transfer(20, C), admit(8, B)],
        ("in-progress", 8, None, [(8, "B", 20), (20, "C", None)]),
    ),
    "a transfer before its admission opens the stay": (
        [transfer(20)],
        ("in-progress", 20, None, [(20, "B", None)]),
    ),
    "the admission after its transfer comes before it": (
        [transfer(20), admit(10)],
        ("in-progress", 10, None, [(10, "A", 20), (20, "B", None)]),
    ),
    "a transfer before its admission knows the prior bed": (
        [transfer(20, admitted=10, prior=A)],
        ("in-progress", 10, None, [(10, "A", 20), (20, "B", None)]),
    ),
    "transfer, discharge and admission in any order": (
        [discharge(30), transfer(20), admit(10)],
        ("finished", 10, 30, [(10, "A", 20), (20, "B", 30)]),
    ),
    "a discharge before its admission, by the admission time it carries": (
        [discharge(30, visit="", admitted=10)],
        ("finished", 10, 30, []),
    ),
    "the admission after its discharge": (
        [discharge(30), admit(10)],
        ("finished", 10, 30, [(10, "A", 30)]),
    ),
    "an update before its admission opens the stay if it names visit and bed": (
        [update(12, A, admitted=10)],
        ("in-progress", 10, None, [(10, "A", None)]),
    ),
    "the admission corrects a stay that an update opened": (
        [update(5, A), admit(10, B)],
        ("in-progress", 10, None, [(10, "B", None)]),
    ),
    "an update may move the patient": (
        [admit(10), update(20, C)],
        ("in-progress", 10, None, [(10, "A", 20), (20, "C", None)]),
    ),
    "an update told late does not undo a transfer": (
        [admit(10), transfer(20), update(15, A)],
        ("in-progress", 10, None, [(10, "A", 20), (20, "B", None)]),
    ),
    "an update corrects the admission": (
        [admit(10), update(20, admitted=8)],
        ("in-progress", 8, None, [(8, "A", None)]),
    ),
    "an update without a visit number means the open stay": (
        [admit(10), update(20, C, visit="")],
        ("in-progress", 10, None, [(10, "A", 20), (20, "C", None)]),
    ),
    "a cancelled admission leaves no place": ([admit(10), cancel_admit(12)], ("cancelled", 10, None, [])),
    "a cancelled discharge opens the stay again": (
        [admit(10), discharge(30), cancel_discharge(35)],
        ("in-progress", 10, None, [(10, "A", None)]),
    ),
    "a cancelled discharge may name another bed": (
        [admit(10), discharge(30), cancel_discharge(35, B)],
        ("in-progress", 10, None, [(10, "A", 35), (35, "B", None)]),
    ),
    "messages without a visit number mean the open stay": (
        [admit(10, visit=""), transfer(20, visit=""), discharge(30, visit="")],
        ("finished", 10, 30, [(10, "A", 20), (20, "B", 30)]),
    ),
    "a stay without a number takes the first that comes": (
        [admit(10, visit=""), transfer(20, visit="V9"), discharge(30, visit="V9")],
        ("finished", 10, 30, [(10, "A", 20), (20, "B", 30)]),
    ),
    "a discharge within a minute before the last transfer is a clock's": (
        [admit(10), transfer(30), discharge(29)],
        ("finished", 10, 30, [(10, "A", 30)]),
    ),
    "a transfer within a minute before the admission is a clock's": (
        [admit(10), transfer(9)],
        ("in-progress", 10, None, [(10, "B", None)]),
    ),
}

ILLEGAL = {
    "a transfer to nowhere": ([admit(10), transfer(20, NOWHERE)], "PV1-3"),
    "a transfer before the admission": ([admit(10), transfer(5)], "EVN-6"),
    "a transfer after the discharge": ([admit(10), discharge(30), transfer(40)], "EVN-6"),
    "a discharge before the admission": ([admit(10), discharge(5)], "PV1-45"),
    "a discharge before a transfer": ([admit(10), transfer(30), discharge(20)], "PV1-45"),
    "a discharge of no stay that can be told": ([discharge(30, visit="")], "PV1-19"),
    "an admission after the stay's transfer": ([transfer(20), admit(40)], "PV1-44"),
    "cancelling an admission nobody told of": ([cancel_admit(10)], "PV1-19"),
    "cancelling the admission of a finished stay": ([admit(10), discharge(30), cancel_admit(40)], "PV1-19"),
    "cancelling an admission twice": ([admit(10), cancel_admit(11), cancel_admit(12)], "PV1-19"),
    "cancelling a discharge nobody told of": ([cancel_discharge(10)], "PV1-19"),
    "cancelling the discharge of an open stay": ([admit(10), cancel_discharge(20)], "PV1-19"),
    "cancelling a discharge after a new admission": (
        [admit(10), discharge(20), admit(30, visit="V2"), cancel_discharge(40)],
        "PV1-19",
    ),
    "an admission before movements of the stay it would end": (
        [admit(10), transfer(30), admit(20, visit="V2")],
        "PV1-45",
    ),
}


@pytest.mark.parametrize("case", LEGAL, ids=lambda name: name.replace(" ", "-"))
def test_a_legal_movement(case):
    messages, expected = LEGAL[case]
    stays, answer = tell(*messages)
    assert isinstance(answer, list)
    assert [shown(stay) for stay in stays.values()] == [expected]


@pytest.mark.parametrize("case", ILLEGAL, ids=lambda name: name.replace(" ", "-"))
def test_an_impossible_movement_is_refused_and_changes_nothing(case):
    messages, where = ILLEGAL[case]
    before, _ = tell(*messages[:-1])
    after, answer = tell(*messages)
    assert isinstance(answer, Rejected)
    assert (answer.reason, answer.where) == (Reason.IDENTITY_CONFLICT, where)
    assert after == before


def test_an_admission_of_another_stay_ends_the_open_one():
    stays, answer = tell(admit(10, A, "V1"), admit(50, B, "V2"))
    assert [step.movement for step in answer] == [Movement.DISCHARGE, Movement.ADMIT]
    assert shown(stays[1]) == ("finished", 10, 50, [(10, "A", 50)])
    assert shown(stays[2]) == ("in-progress", 50, None, [(50, "B", None)])


def test_an_earlier_stay_told_late_ends_where_the_next_begins():
    stays, answer = tell(admit(50, B, "V2"), admit(10, A, "V1"))
    assert [step.movement for step in answer] == [Movement.ADMIT, Movement.DISCHARGE]
    assert shown(stays[1]) == ("in-progress", 50, None, [(50, "B", None)])
    assert shown(stays[2]) == ("finished", 10, 50, [(10, "A", 50)])


def test_an_outpatient_visit_does_not_end_a_stay():
    stays, _ = tell(admit(10, A, "V1"), admit(20, C, "V2", kind="O"))
    assert [stay.status for stay in stays.values()] == ["in-progress", "in-progress"]


def test_one_visit_number_for_every_stay_still_makes_two_stays():
    stays, _ = tell(admit(10), discharge(20), admit(90, B), discharge(95))
    assert [shown(stay)[:3] for stay in stays.values()] == [("finished", 10, 20), ("finished", 90, 95)]


def test_an_update_of_a_discharged_stay_moves_nobody():
    stays, answer = tell(admit(10), discharge(20), update(30, C))
    assert isinstance(answer, list)
    assert shown(stays[1]) == ("finished", 10, 20, [(10, "A", 20)])


def test_an_update_of_a_person_without_a_stay_opens_none():
    assert tell(update(10, A, visit=""))[1] == []
    assert tell(update(10, A, kind="O"))[1] == []


movements = st.builds(
    told,
    st.sampled_from(Movement),
    st.integers(1, 60),
    st.sampled_from([NOWHERE, A, B, C]),
    st.sampled_from(["", "V1", "V2"]),
    admitted=st.none() | st.integers(1, 60),
    discharged=st.none() | st.integers(1, 60),
    prior=st.sampled_from([NOWHERE, A]),
    kind=st.sampled_from(["I", "O", ""]),
)


@given(st.lists(movements, max_size=12))
def test_whatever_is_told_stays_hold_together(messages):
    stays, _ = tell(*messages)
    for stay in stays.values():
        assert (stay.status == "finished") == (stay.ended_at_us is not None)
        assert stay.ended_at_us is None or stay.ended_at_us >= stay.started_at_us
        starts = [placement.from_us for placement in stay.placements]
        assert starts == sorted(set(starts))
        assert all(stay.started_at_us <= start for start in starts)
        assert all(stay.ended_at_us is None or start < stay.ended_at_us for start in starts)
        assert all(placement.place != NOWHERE for placement in stay.placements)
        if stay.status == "cancelled":
            assert not stay.placements


@given(st.permutations([admit(10), transfer(20, B), transfer(30, C), discharge(40)]))
def test_the_order_of_telling_does_not_matter(messages):
    stays, answer = tell(*messages)
    assert isinstance(answer, list)
    assert [shown(stay) for stay in stays.values()] == [
        ("finished", 10, 40, [(10, "A", 20), (20, "B", 30), (30, "C", 40)])
    ]


claims = st.builds(
    lambda start, length, number: Occupancy(start, None if length is None else start + length, number),
    st.integers(0, 20),
    st.none() | st.integers(0, 10),
    st.integers(1, 5),
)


@given(st.lists(claims, max_size=8, unique_by=lambda claim: (claim.from_us, claim.encounter_id)))
def test_a_bed_belongs_to_whoever_was_placed_last_and_to_nobody_after(made):
    held = occupancies(made)
    assert [one.from_us for one in held] == sorted({one.from_us for one in held})
    for moment in range(35):
        begun = [c for c in made if c.from_us <= moment and (c.to_us is None or c.to_us > c.from_us)]
        last = max(begun, key=lambda c: (c.from_us, c.encounter_id), default=None)
        expected = None if last is None or (last.to_us is not None and last.to_us <= moment) else last.encounter_id
        found = [c.encounter_id for c in held if c.from_us <= moment and (c.to_us is None or moment < c.to_us)]
        assert found == ([] if expected is None else [expected])


def test_bed_keys_of_different_beds_differ():
    assert bed_subject(Place("ICU", "1", "A|B", "H")) != bed_subject(Place("1|A", "B", "", "H"))
    assert bed_subject(Place("W|1", "", "2", "")) != bed_subject(Place("W", "1", "2", ""))
    assert bed_subject(Place("ICU", "1", "", "H")) == ""


def test_a_placement_is_where_it_was_at_a_time():
    stays, _ = tell(admit(10), transfer(20))
    assert [stays[1].place_at(m * MINUTE).bed for m in (9, 10, 19, 20, 99)] == ["", "A", "A", "B", "B"]
    assert stays[1].placements[0] == Placement(10 * MINUTE, A, "admit")
