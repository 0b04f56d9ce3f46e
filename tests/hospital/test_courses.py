"""Courses: plausible at every moment, different from each other where medicine says so, the same for the same seed."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hospital.chance import named
from hospital.courses import Condition, Course, CourseKind, Wander
from hospital.patients import invent

AT_US = 1_767_225_600_000_000
RANGES = {
    "heart_rate": (35, 190),
    "respiratory_rate": (4, 50),
    "oxygen_saturation": (65, 100),
    "systolic": (45, 220),
    "diastolic": (20, 130),
    "mean": (28, 160),
    "temperature": (33, 41.5),
    "inspired_oxygen": (21, 100),
    "oxygen_flow": (0, 15),
    "glasgow_coma_score": (3, 15),
    "lactate": (0.5, 15),
    "white_cells": (3, 35),
    "haemoglobin": (4, 18.5),
    "platelets": (15, 500),
    "creatinine": (0.4, 6),
    "potassium": (3, 7),
    "sodium": (125, 150),
    "glucose": (60, 400),
    "arterial_ph": (6.9, 7.6),
    "c_reactive_protein": (0, 400),
}


def course(kind: CourseKind, seed: int) -> Course:
    return Course(kind, invent(seed, named(seed, "patient"), AT_US), named(seed, "course"))


def mean_at(kind: CourseKind, hours: float, field: str, count: int = 40) -> float:
    return sum(getattr(course(kind, seed).at(hours, 12.0), field) for seed in range(count)) / count


@given(st.sampled_from(CourseKind), st.integers(0, 500), st.floats(0, 96), st.floats(0, 24))
def test_every_moment_of_every_course_is_plausible(
    kind: CourseKind, seed: int, hours: float, hour_of_day: float
) -> None:
    truth = course(kind, seed).at(hours, hour_of_day)
    noisy = Wander(named(seed, "wander")).around(truth, hours)
    for condition in (truth, noisy):
        for field, (low, high) in RANGES.items():
            assert low <= getattr(condition, field) <= high, field
        assert condition.diastolic < condition.mean < condition.systolic
        assert condition.consciousness in "ACVPU"
    # A blood gas must agree with itself (Henderson-Hasselbalch) unless the pH was bounded.
    if 6.91 < truth.arterial_ph < 7.59:
        expected = 6.1 + math.log10(truth.bicarbonate / (0.0307 * truth.arterial_carbon_dioxide))
        assert truth.arterial_ph == pytest.approx(expected)


@pytest.mark.parametrize(
    ("kind", "field", "direction", "least"),
    [
        (CourseKind.SEPSIS, "lactate", 1, 1.5),
        (CourseKind.SEPSIS, "white_cells", 1, 4),
        (CourseKind.SEPSIS, "temperature", 1, 0.8),
        (CourseKind.SEPSIS, "systolic", -1, 12),
        (CourseKind.SEPSIS, "heart_rate", 1, 18),
        (CourseKind.BLEEDING, "haemoglobin", -1, 2),
        (CourseKind.BLEEDING, "heart_rate", 1, 20),
        (CourseKind.BLEEDING, "systolic", -1, 15),
        (CourseKind.RESPIRATORY_FAILURE, "oxygen_saturation", -1, 3),
        (CourseKind.RESPIRATORY_FAILURE, "inspired_oxygen", 1, 15),
        (CourseKind.RECOVERY, "heart_rate", -1, 8),
    ],
)
def test_each_illness_shows_where_it_should(kind: CourseKind, field: str, direction: int, least: float) -> None:
    change = mean_at(kind, 9.0, field) - mean_at(kind, 0.0, field)
    assert direction * change > least


@pytest.mark.parametrize("field", ["lactate", "heart_rate", "haemoglobin", "oxygen_saturation", "systolic"])
def test_a_stable_patient_stays_as_he_is(field: str) -> None:
    assert mean_at(CourseKind.STABLE, 9.0, field) == pytest.approx(mean_at(CourseKind.STABLE, 0.0, field), rel=0.005)


def test_fever_tells_sepsis_from_bleeding() -> None:
    assert mean_at(CourseKind.SEPSIS, 9.0, "temperature") > mean_at(CourseKind.BLEEDING, 9.0, "temperature") + 1


def test_pulse_pressure_narrows_in_bleeding_only() -> None:
    def pulse(kind: CourseKind) -> float:
        return mean_at(kind, 9, "systolic") - mean_at(kind, 9, "diastolic")

    assert pulse(CourseKind.BLEEDING) < 0.75 * pulse(CourseKind.STABLE)


def test_laboratory_values_trail_the_illness() -> None:
    made = course(CourseKind.SEPSIS, 3)
    times = [hour / 4 for hour in range(200)]
    shock = [made.burden(hours).shock for hours in times]
    protein = [made.at(hours, 12.0).c_reactive_protein for hours in times]
    assert times[protein.index(max(protein))] - times[shock.index(max(shock))] > 4


def test_body_temperature_is_highest_in_the_afternoon() -> None:
    made = course(CourseKind.STABLE, 1)
    by_hour = {hour: made.at(10.0, hour).temperature for hour in range(24)}
    assert max(by_hour, key=by_hour.__getitem__) in {16, 17}
    assert 0.3 < max(by_hour.values()) - min(by_hour.values()) < 0.8


def wandering(seed: int, minutes: int = 2_000) -> list[Condition]:
    made, wander = course(CourseKind.STABLE, 1), Wander(named(seed, "w"))
    return [wander.around(made.at(0, 12.0), minute / 60) for minute in range(minutes)]


def test_noise_is_correlated_in_time_and_has_the_declared_size() -> None:
    rates = [condition.heart_rate for condition in wandering(5, 20_000)]
    average = sum(rates) / len(rates)
    deviations = [rate - average for rate in rates]
    variance = sum(d * d for d in deviations) / len(deviations)
    lag_one = sum(a * b for a, b in pairwise(deviations)) / len(deviations) / variance
    assert math.sqrt(variance) == pytest.approx(3.0, rel=0.1)
    assert lag_one == pytest.approx(math.exp(-1 / 6), abs=0.03)


def test_the_same_seed_wanders_the_same_way() -> None:
    assert wandering(5, 50) == wandering(5, 50)
    assert wandering(5, 50) != wandering(6, 50)


def test_noise_refuses_to_go_back_in_time() -> None:
    made, wander = course(CourseKind.STABLE, 1), Wander(named(1, "w"))
    wander.around(made.at(1, 12), 1.0)
    with pytest.raises(ValueError, match="back in time"):
        wander.around(made.at(0.5, 12), 0.5)


def test_invented_people_say_that_they_are_invented() -> None:
    people = [invent(number, named(1, number), AT_US) for number in range(300)]
    assert all(person.medical_record_number.startswith("SYN") for person in people)
    assert all(person.person().name_kind == "S" for person in people)
    assert len({person.medical_record_number for person in people}) == 300
    assert all(18 <= person.age_years <= 97 for person in people)
    assert all(person.baseline.diastolic < 0.75 * person.baseline.systolic for person in people)
