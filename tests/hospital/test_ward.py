"""The synthetic ward: the same for the same seed, in order, and honest about everything it did wrong."""

from __future__ import annotations

from collections import Counter, defaultdict
from datetime import UTC
from itertools import pairwise

import hl7
import pytest

from hospital.faults import VERDICTS, Fault
from hospital.outgoing import Timed
from hospital.ward import Ward
from interop import hl7v2
from interop.terminology import Terminology
from vocabulary.records import Reason, Rejected

START_US = 1_767_225_600_000_000
HOUR_US = 3_600_000_000


def run(beds: int = 6, seed: int = 11, hours: float = 6.0, **options: object) -> tuple[Ward, list[Timed]]:
    ward = Ward(beds, seed, **options)  # type: ignore[arg-type]
    return ward, list(ward.messages(START_US, hours))


@pytest.fixture(scope="module")
def day() -> tuple[Ward, list[Timed]]:
    return run(12, 5, 12.0)


def test_the_same_seed_sends_the_same_bytes_and_another_does_not() -> None:
    _, first = run()
    _, second = run()
    _, other = run(seed=12)
    assert first == second
    assert {m.body for m in first}.isdisjoint(m.body for m in other)


def test_one_ward_can_be_played_twice() -> None:
    ward = Ward(4, 3)
    first = list(ward.messages(START_US, 2))
    injected = list(ward.plan.injected)
    assert list(ward.messages(START_US, 2)) == first
    assert ward.plan.injected == injected


def test_messages_come_in_order_on_three_feeds(day: tuple[Ward, list[Timed]]) -> None:
    _, told = day
    assert all(a.at_us <= b.at_us for a, b in pairwise(told))
    assert {m.feed for m in told} == {"adt", "monitors", "lab"}
    assert told[0].at_us >= START_US
    assert told[-1].at_us <= START_US + 12 * HOUR_US


@pytest.mark.parametrize("seed", range(5))
def test_every_category_of_fault_happens_even_on_a_small_ward(seed: int) -> None:
    ward, _ = run(5, seed)
    assert set(ward.plan.counts()) == set(Fault)


def test_a_ward_played_on_another_day_reuses_no_control_id() -> None:
    ward = Ward(4, 3)
    first = {m.control_id for m in ward.messages(START_US, 1)}
    assert first.isdisjoint(m.control_id for m in ward.messages(START_US + 86_400_000_000, 1))
    assert max(map(len, first)) <= 20  # MSH-10 in HL7 v2.5.1


def test_without_faults_nothing_is_wrong() -> None:
    ward, told = run(6, 2, 4.0, fault_intensity=0)
    assert ward.plan.injected == []
    assert len({m.control_id for m in told}) == len(told)


def test_only_the_faults_asked_for_happen() -> None:
    ward, _ = run(6, 2, 6.0, faults=[Fault.MOTION, Fault.OUTAGE])
    assert set(ward.plan.counts()) == {Fault.MOTION, Fault.OUTAGE}


def test_every_patient_has_an_admission_and_every_admission_a_bed(day: tuple[Ward, list[Timed]]) -> None:
    ward, told = day
    admitted = set()
    for message in told:
        if message.feed == "adt":
            parsed = hl7.parse(message.body.decode())
            if parsed.extract_field("MSH", 1, 9, 1, 2) == "A01":
                admitted.add(parsed.extract_field("PID", 1, 3, 1, 1))
                assert parsed.extract_field("PV1", 1, 3, 1, 1)
    assert {m.medical_record_number for m in told if m.feed != "adt"} <= admitted | {
        stay.patient.medical_record_number for stay in ward.occupancies
    }
    assert len(admitted) >= len(ward.occupancies)


def test_all_movements_and_a_merge_occur_in_a_day() -> None:
    triggers: Counter[str] = Counter()
    for seed in range(4):
        _, told = run(8, seed, 24.0, sample_interval_s=1800)
        triggers.update(hl7.parse(m.body.decode()).extract_field("MSH", 1, 9, 1, 2) for m in told if m.feed == "adt")
    assert set(triggers) == {"A01", "A02", "A03", "A08", "A11", "A13", "A40"}


def test_some_die_and_their_discharge_says_so() -> None:
    dispositions: Counter[str] = Counter()
    for seed in range(4):
        ward, told = run(8, seed, 24.0, sample_interval_s=1800)
        dying = {stay.visit_number for stay in ward.occupancies if stay.is_dying}
        for timed in told:
            if timed.feed != "adt":
                continue
            message = hl7.parse(timed.body.decode())
            if message.extract_field("MSH", 1, 9, 1, 2) != "A03":
                continue
            visit, person = message.segment("PV1"), message.segment("PID")
            is_dead = len(person) > 30 and str(person[30]) == "Y"
            assert str(visit[36]) == ("20" if is_dead else "01")
            assert is_dead == (message.extract_field("PV1", 1, 19, 1, 1) in dying)
            dispositions[str(visit[36])] += 1
    assert dispositions["20"] >= 2, "a ward of the sick in which nobody dies teaches nothing"
    assert dispositions["01"] > dispositions["20"]


def test_no_bed_holds_two_patients(day: tuple[Ward, list[Timed]]) -> None:
    _, told = day
    holder: dict[str, str] = {}
    for message in told:
        if message.feed != "adt":
            continue
        parsed = hl7.parse(message.body.decode())
        trigger = parsed.extract_field("MSH", 1, 9, 1, 2)
        if trigger == "A40":
            continue
        visit, bed = parsed.extract_field("PV1", 1, 19, 1, 1), str(parsed.segment("PV1")[3])
        if trigger in {"A01", "A02", "A13"}:
            assert holder.get(bed, visit) == visit
            holder = {place: who for place, who in holder.items() if who != visit} | {bed: visit}
        elif trigger in {"A03", "A11"}:
            assert holder.pop(bed) == visit


def test_no_sample_claims_a_time_outside_its_stay(day: tuple[Ward, list[Timed]]) -> None:
    ward, told = day
    future = {entry.control_id for entry in ward.plan.injected if entry.fault is Fault.FUTURE_CLOCK}
    stays = defaultdict(list)
    for stay in ward.occupancies:
        stays[stay.patient.medical_record_number].append(stay)
    checked = 0
    for message in told:
        for stay in stays.get(message.medical_record_number, []):
            for value in message.values:
                assert value.effective_at_us is not None
                if message.control_id in future:
                    continue
                assert value.effective_at_us >= stay.admitted_at_us
                assert stay.leaves_at_us is None or value.effective_at_us <= stay.leaves_at_us
                assert value.effective_at_us <= message.at_us + 240_000_000  # within the receiver's tolerance
                checked += 1
    assert checked > 20_000


def test_an_outage_ends_in_a_burst_of_old_values(day: tuple[Ward, list[Timed]]) -> None:
    ward, told = day
    held = {entry.control_id: entry.at_us for entry in ward.plan.injected if entry.fault is Fault.OUTAGE}
    delays = [(m.at_us - held[m.control_id]) / 1e6 for m in told if m.control_id in held]
    assert len(delays) >= 4
    assert max(delays) > 200
    bursts = Counter(m.at_us for m in told if m.control_id in held)
    assert max(bursts.values()) >= 3


def test_a_retransmission_is_the_same_bytes_and_a_conflict_is_not(day: tuple[Ward, list[Timed]]) -> None:
    ward, told = day
    bodies = defaultdict(list)
    for message in told:
        bodies[message.control_id].append(message.body)
    kinds = defaultdict(set)
    for entry in ward.plan.injected:
        kinds[entry.control_id].add(entry.fault)
    for control_id, sent in bodies.items():
        if len(sent) == 1:
            continue
        if Fault.CONTROL_ID_CONFLICT in kinds[control_id]:
            assert len(set(sent)) == len(sent)
        else:
            assert Fault.RETRANSMISSION in kinds[control_id]
            assert len(set(sent)) == 1


def test_a_correction_names_what_it_corrects(day: tuple[Ward, list[Timed]]) -> None:
    ward, told = day
    first: dict[tuple[str, ...], str] = {}
    corrected = {e.control_id for e in ward.plan.injected if e.fault in {Fault.CORRECTION, Fault.WITHDRAWAL}}
    found = 0
    for message in told:
        if message.feed != "lab":
            continue
        parsed = hl7.parse(message.body.decode())
        for obx in parsed.segments("OBX"):
            key = (str(parsed.segment("OBR")[3]), str(obx[3]), str(obx[4]), str(obx[14]))
            if message.control_id in corrected:
                assert str(obx[11]) in {"C", "D"}
                assert (first[key] != str(obx[5])) == (str(obx[11]) == "C")
                found += 1
            else:
                assert str(obx[11]) in {"P", "F"}
                first[key] = str(obx[5])
    assert found == len(corrected) >= 2


def test_the_platform_gives_each_value_exactly_the_reason_the_oracle_predicts(day: tuple[Ward, list[Timed]]) -> None:
    """Two strangers meet: the hospital's own encoders and record of faults, the platform's decoder and tables."""
    ward, told = day
    terminology = Terminology()
    predicted = {(e.control_id, e.value_index): e for e in ward.plan.injected if e.value_index is not None}
    malformed = {e.at_us for e in ward.plan.injected if e.fault is Fault.MALFORMED}
    reasons: Counter[Reason | None] = Counter()
    for message in told:
        decoded = hl7v2.decode(message.body, UTC)
        if isinstance(decoded, Rejected):
            assert decoded.reason is Reason.MALFORMED
            assert message.at_us in malformed
            continue
        outcome: dict[int, Reason | None] = {index: rejected.reason for index, rejected in decoded.rejected}
        for reading in decoded.readings:
            made = terminology.observation(reading, default_effective_at_us=None, default_device="")
            outcome[reading.value_index] = made.reason if isinstance(made, Rejected) else None
        assert set(outcome) == {value.value_index for value in message.values}
        for index, reason in outcome.items():
            entry = predicted.get((message.control_id, index))
            assert reason == (entry.reason if entry else None)
            reasons[reason] += 1
    assert reasons[None] > 20_000
    assert set(reasons) == {
        None,
        Reason.NOT_A_NUMBER,
        Reason.IMPLAUSIBLE_VALUE,
        Reason.UNKNOWN_CODE,
        Reason.UNKNOWN_UNIT,
    }


def test_every_fault_has_a_verdict() -> None:
    assert set(VERDICTS) == set(Fault)


def test_a_ward_needs_a_bed() -> None:
    with pytest.raises(ValueError, match="found 0"):
        Ward(0, 1)


def test_large_wards_give_every_bed_a_name_of_its_own() -> None:
    assert len(set(Ward(200, 1).beds)) == 200


def test_the_ward_says_who_attends_and_hides_exactly_one_patient() -> None:
    _, told = run(16, 3, 4.0)
    visits = {
        decoded.visit.visit_number: decoded.visit
        for timed in told
        if timed.feed == "adt" and isinstance(decoded := hl7v2.decode(timed.body, UTC), hl7v2.Message) and decoded.visit
    }
    attending = Counter(who.identifier for visit in visits.values() for who in visit.practitioners)
    assert set(attending) == {"P-NOVAK", "P-ADEYEMI"}
    assert abs(attending["P-NOVAK"] - attending["P-ADEYEMI"]) <= len(visits) / 3
    assert all(visit.told_roles == ("attending",) for visit in visits.values())
    hidden = [visit for visit in visits.values() if visit.is_vip]
    (vip,) = hidden
    assert (vip.place.ward, vip.place.room) == ("ICU-A", "02")
    assert [who.identifier for who in vip.practitioners] == ["P-NOVAK"]
    assert {who.authority for visit in visits.values() for who in visit.practitioners} == {"SYNTH"}
