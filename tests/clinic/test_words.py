"""Values as words."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clinic import words
from clinic.questions import Person
from vocabulary.concepts import CONCEPTS


@pytest.mark.parametrize(
    ("key", "value", "text"),
    [
        ("heart_rate", 90.4, "90"),
        ("body_temperature", 37.04, "37.0"),
        ("blood_ph", 7.362, "7.362"),
        ("platelets", 123456.0, "123456"),
        ("systolic_blood_pressure", -0.2, "0"),
        ("lactate", 0.05, "0.05"),
        ("heart_rate", math.nan, "–"),
    ],
)
def test_a_value_has_the_decimals_of_its_chart(key: str, value: float, text: str) -> None:
    assert words.number_text(key, value) == text


@given(st.sampled_from([concept.key for concept in CONCEPTS]), st.floats(-1e9, 1e9))
def test_a_written_number_reads_back_to_the_value(key: str, value: float) -> None:
    # Half a unit of the last decimal shown, or four significant digits.
    assert float(words.number_text(key, value)) == pytest.approx(value, rel=6e-4, abs=0.5)


@pytest.mark.parametrize(
    ("unit", "text"),
    [
        ("mm[Hg]", "mmHg"), ("Cel", "°C"), ("/min", "/min"), ("{score}", ""), ("1", ""), ("10*3/uL", "10³/µL"),
        ("ug/mL", "µg/mL"), ("umol/L", "µmol/L"), ("cm[H2O]", "cmH₂O"), ("", ""),
    ],
)  # fmt: skip
def test_a_unit_is_written_as_clinicians_write_it(unit: str, text: str) -> None:
    assert words.unit_text(unit) == text


def test_no_unit_of_the_concept_table_keeps_ucum_brackets() -> None:
    for concept in CONCEPTS:
        assert not set("[]{}*") & set(words.unit_text(concept.unit)), concept.key


@pytest.mark.parametrize(
    ("birth_date", "at_us", "years"),
    [
        ("1954-06-02", 1_767_272_400_000_000, 71),
        ("2025-12-31", 1_767_272_400_000_000, 0),
        ("1990", 1_767_272_400_000_000, 36),
        ("1990-06", 1_767_272_400_000_000, 35),
        ("", 1_767_272_400_000_000, None),
        ("2030-01-01", 1_767_272_400_000_000, None),
        ("not a date", 1_767_272_400_000_000, None),
    ],
)
def test_an_age_is_completed_years(birth_date: str, at_us: int, years: int | None) -> None:
    assert words.age_years(birth_date, at_us) == years


def test_a_patient_without_a_name_is_called_by_our_number() -> None:
    assert words.short_name(None, 12) == "Patient 12"
    assert words.short_name(Person(12), 12) == "Patient 12"
    assert words.short_name(Person(12, "Hansen", "Ingrid Marie"), 12) == "Hansen, Ingrid"


@given(st.lists(st.integers(0, 99999), min_size=2, max_size=8))
def test_beds_sort_by_their_numbers(numbers: list[int]) -> None:
    beds = sorted((f"Bed {number}" for number in numbers), key=words.natural_key)
    assert [int(bed.split()[1]) for bed in beds] == sorted(numbers)


@given(st.integers(0, 4_000_000_000_000_000))
def test_an_instant_is_exact_to_the_microsecond(at_us: int) -> None:
    from datetime import UTC, datetime, timedelta

    read = datetime.fromisoformat(words.instant(at_us))
    assert (read - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1) == at_us
