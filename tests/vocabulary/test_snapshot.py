"""Snapshots: their identity, and the bytes a digest is taken over."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vocabulary.snapshot import (
    Provenance,
    Score,
    SignalState,
    SnapshotKey,
    TwinSnapshot,
    canonical_bytes,
    digest,
    from_bytes,
    parse_snapshot_id,
    snapshot_id,
)


def snapshot(protocols: dict[str, str]) -> TwinSnapshot:
    return TwinSnapshot(
        snapshot_id="07-9-412",
        patient_id=412,
        encounter_id=1,
        ward="ICU-2",
        bed="07",
        as_of_us=5,
        position=9,
        is_admitted=True,
        signals=[SignalState("heart_rate", 80.0, "/min", 1, 2, is_stale=False)],
        scores=[Score("NEWS2", "news2@1", None, {}, ["heart_rate"], 0.0)],
        feeds=[],
        notices=["No approved model: NEWS2 is shown."],
        provenance=Provenance("0.1.0", "abc", "vigil-concepts@1", protocols),
    )


@given(st.integers(0, 63), st.integers(0, 2**62), st.integers(0, 2**62))
def test_an_id_says_where_to_look(partition: int, position: int, patient_id: int) -> None:
    key = SnapshotKey(partition, position, patient_id)
    assert parse_snapshot_id(snapshot_id(key)) == key


@pytest.mark.parametrize("text", ["", "7", "07-1", "07-1-2-3", "07--2", "a-1-2", "07-1-²", "07-1- 2"])
def test_what_is_no_id_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="snapshot id"):
        parse_snapshot_id(text)


def test_the_bytes_do_not_depend_on_the_order_of_insertion() -> None:
    one, other = snapshot({"news2": "1", "sirs": "2"}), snapshot({"sirs": "2", "news2": "1"})
    assert canonical_bytes(one) == canonical_bytes(other)
    assert digest(canonical_bytes(one)) == digest(canonical_bytes(other))
    assert from_bytes(canonical_bytes(one)) == one


def test_another_value_is_another_digest() -> None:
    assert digest(canonical_bytes(snapshot({}))) != digest(canonical_bytes(snapshot({"news2": "1"})))
