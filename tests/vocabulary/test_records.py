"""Records: what is baked into stored positions and keys never changes, and every reason has one outcome."""

from __future__ import annotations

from collections import Counter

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vocabulary.records import (
    PARTITIONS,
    Event,
    Observation,
    ObservationStatus,
    Observed,
    Outcome,
    PartitionBatch,
    Place,
    RawId,
    Reason,
    outcome_of,
    partition_of,
    source_key_of,
)


def test_partitions_are_what_they_always_were() -> None:
    """Golden: a patient that moved to another partition would lose its twin."""
    assert [partition_of(patient_id) for patient_id in (0, 1, 2, 412, 10**12)] == [41, 63, 5, 7, 35]


def test_source_keys_are_what_they_always_were() -> None:
    """Golden: a correction finds what it corrects only by this number."""
    assert source_key_of("MON-1", "1.2.1.1") == 7012200112318579383


@given(st.integers(0, 2**63 - 1))
def test_every_patient_has_a_partition(patient_id: int) -> None:
    assert 0 <= partition_of(patient_id) < PARTITIONS


def test_patients_spread_evenly() -> None:
    load = Counter(partition_of(patient_id) for patient_id in range(64_000))
    assert len(load) == PARTITIONS
    assert max(load.values()) < 1.2 * 1000


@given(st.lists(st.text(max_size=20), max_size=4))
def test_source_keys_fit_a_signed_bigint(parts: list[str]) -> None:
    assert 0 <= source_key_of(*parts) < 2**63


@given(st.text(max_size=8), st.text(max_size=8))
def test_parts_do_not_run_together(left: str, right: str) -> None:
    if left and "\x1f" not in left + right:
        joined = source_key_of(left + right, "")
        assert (source_key_of(left, right) == joined) == (not right)


def test_every_reason_has_one_outcome() -> None:
    outcomes = {reason: outcome_of(reason) for reason in Reason}
    assert outcomes[Reason.RETRANSMISSION] is Outcome.DUPLICATE
    assert outcomes[Reason.UNKNOWN_CODE] is Outcome.REJECTED
    assert outcomes[Reason.IMPLAUSIBLE_VALUE] is Outcome.QUARANTINED
    assert set(outcomes.values()) == {Outcome.DUPLICATE, Outcome.REJECTED, Outcome.QUARANTINED}


def test_a_bed_is_called_as_people_call_it() -> None:
    assert Place("ICU-2", "", "07").label == "ICU-2 / 07"
    assert Place().label == ""


@pytest.mark.parametrize(
    ("room", "bed", "label"),
    [
        ("08", "1", "08-1"),  # the room carries the number
        ("", "07", "07"),
        ("12", "", "12"),
        ("08", "08-1", "08-1"),  # the bed names its room itself
        ("1", "12", "1-12"),
        ("1", "1", "1-1"),
        ("", "", ""),
    ],
)
def test_a_bed_within_its_ward_is_told_by_room_and_bed(room: str, bed: str, label: str) -> None:
    assert Place("ICU-2", room, bed, "SITE").bed_label == label


def test_a_batch_survives_its_encoding() -> None:
    observation = Observation(1, 80.0, 5, ObservationStatus.CORRECTED, 7, 0, "MON", "")
    batch = PartitionBatch(3, 0, 9, 11, [Observed(RawId(9, 0), 412, "monitors", 10, 12, [observation])])
    events: list[Event] = msgspec.msgpack.decode(msgspec.msgpack.encode(batch), type=PartitionBatch).events
    assert events == batch.events
