"""One bed as plain values."""

from __future__ import annotations

import msgspec
import pytest

from clinic.bed_view import COLUMNS, bed_row, cells_of, order_keys, score_view, waiting_row
from clinic.patient_view import History, patient_view
from clinic.questions import Person, Stay
from vocabulary.snapshot import Score


def _cell(snapshot, column):
    return next(cell for cell in cells_of(snapshot) if cell.column == column)


def test_every_column_has_its_cell_in_order(wards) -> None:
    assert [cell.column for cell in cells_of(wards.snapshot())] == [column for column, _, _ in COLUMNS]


def test_a_stable_patient_reads_as_charted(wards) -> None:
    texts = [cell.text for cell in cells_of(wards.snapshot())]
    assert texts == ["84", "17", "97", "121/74", "37.0", "Air", "Alert"]


def test_a_fresh_pulse_speaks_for_a_stale_heart_rate_and_says_so(wards) -> None:
    snapshot = wards.snapshot(extra=[wards.signal("pulse_rate", 91.0)])
    signals = [
        msgspec.structs.replace(signal, is_stale=True) if signal.concept == "heart_rate" else signal
        for signal in snapshot.signals
    ]
    cell = _cell(msgspec.structs.replace(snapshot, signals=signals), "heart_rate")
    assert (cell.text, cell.is_stale, cell.source) == ("91", False, "Pulse rate")


def test_a_stale_value_is_still_shown_as_stale(wards) -> None:
    snapshot = wards.snapshot(extra=[wards.signal("core_temperature", 39.0, age_s=20_000, stale=True)])
    signals = [signal for signal in snapshot.signals if signal.concept != "body_temperature"]
    cell = _cell(msgspec.structs.replace(snapshot, signals=signals), "body_temperature")
    assert (cell.text, cell.is_stale) == ("39.0", True)


def test_a_systolic_never_pairs_with_a_diastolic_of_another_time(wards) -> None:
    snapshot = wards.snapshot()
    signals = [
        msgspec.structs.replace(signal, effective_at_us=signal.effective_at_us - 1)
        if signal.concept == "diastolic_blood_pressure"
        else signal
        for signal in snapshot.signals
    ]
    assert _cell(msgspec.structs.replace(snapshot, signals=signals), "blood_pressure").text == "121"


def test_the_newer_of_cuff_and_line_is_shown(wards) -> None:
    line = [
        wards.signal("arterial_systolic_blood_pressure", 99.0, age_s=5),
        wards.signal("arterial_diastolic_blood_pressure", 55.0, age_s=5),
    ]
    cell = _cell(wards.snapshot(extra=line), "blood_pressure")
    assert (cell.text, cell.source) == ("99/55", "Arterial line")


@pytest.mark.parametrize(
    ("key", "value", "text"),
    [
        ("inspired_oxygen_fraction", 40.0, "40 %"),
        ("inspired_oxygen_fraction", 21.0, "Air"),
        ("oxygen_flow_rate", 4.0, "4 L/min"),
        ("supplemental_oxygen", 1.0, "O₂"),
        ("mechanical_ventilation", 1.0, "Ventilator"),
    ],
)
def test_oxygen_is_told_as_it_was_measured(wards, key: str, value: float, text: str) -> None:
    snapshot = wards.snapshot()
    signals = [signal for signal in snapshot.signals if signal.concept != "supplemental_oxygen"]
    signals.append(wards.signal(key, value))
    assert _cell(msgspec.structs.replace(snapshot, signals=signals), "oxygen").text == text


def test_a_column_shows_what_it_adds_to_the_score(wards) -> None:
    score = wards.score({"respiratory_rate": 3, "systolic_blood_pressure": 2, "supplemental_oxygen": 2}, band="high")
    points = {cell.column: cell.points for cell in cells_of(wards.snapshot(score=score))}
    assert points == {
        "heart_rate": 0, "respiratory_rate": 3, "oxygen_saturation": 0, "blood_pressure": 2, "body_temperature": 0,
        "oxygen": 2, "consciousness": 0,
    }  # fmt: skip


def test_what_stood_in_for_the_oximeter_shows_its_points(wards) -> None:
    parts = {"arterial_oxygen_saturation": 3, "heart_rate": 0}
    snapshot = wards.snapshot(score=wards.score(parts, band="low-medium"))
    signals = [signal for signal in snapshot.signals if signal.concept != "oxygen_saturation"]
    signals.append(wards.signal("arterial_oxygen_saturation", 84.0))
    snapshot = msgspec.structs.replace(snapshot, signals=signals)
    cell = _cell(snapshot, "oxygen_saturation")
    assert (cell.text, cell.points) == ("84", 3)
    [part] = [part for part in patient_view(snapshot, "", None, History()).parts if part.points]
    assert (part.name, part.cell.text, part.points) == ("Oxygen saturation (arterial)", "84", 3)


def test_a_total_of_only_what_was_measured_is_a_lower_bound(wards) -> None:
    view = score_view(wards.score({"heart_rate": 2}, missing=["consciousness"], band="low"))
    assert (view.total, view.band_text, view.measured) == ("≥ 2", "Partial", "1 of 2")


def test_a_partial_total_that_reaches_a_band_says_at_least(wards) -> None:
    view = score_view(wards.score({"heart_rate": 3, "respiratory_rate": 3}, missing=["consciousness"], band="medium"))
    assert (view.total, view.band_text) == ("≥ 6", "At least medium")


def test_nothing_measured_is_not_scored_rather_than_zero(wards) -> None:
    score = Score("NEWS2", "news2@1", None, {}, ["heart_rate"], 0.0, statement="Nothing was measured.")
    assert (score_view(score).total, score_view(score).band_text) == ("–", "Not scored")


def test_sickest_first_puts_a_single_red_score_above_a_higher_low_total(wards) -> None:
    low = order_keys("A", "1", score_view(wards.score({"heart_rate": 2, "respiratory_rate": 2}, band="low")))
    single = order_keys("A", "2", score_view(wards.score({"heart_rate": 3}, band="low-medium")))
    high = order_keys("A", "3", score_view(wards.score({"heart_rate": 3, "respiratory_rate": 3, "x": 3}, band="high")))
    none = order_keys("A", "0", score_view(None))
    assert sorted([low, single, high, none]) == [high, single, low, none]


def test_two_snapshots_that_say_the_same_make_equal_rows(wards) -> None:
    first = wards.snapshot(position=1 << 40)
    later = wards.snapshot(position=(1 << 40) + 9)
    person = Person(7, "Hansen", "Ingrid")
    assert bed_row(first, person, ()) == bed_row(later, person, ())
    assert bed_row(first, person, ()) != bed_row(wards.snapshot(vitals={"heart_rate": 85.0}), person, ())


def test_a_bed_without_a_twin_says_that_it_waits() -> None:
    row = waiting_row(Stay(5, "ICU-A", "02"), None, 0)
    assert row.name == "Patient 5"
    assert row.notices == ("Waiting for the first snapshot.",)
    assert all(cell.at_us == 0 for cell in row.cells)
