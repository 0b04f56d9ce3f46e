"""What happens to an invented patient: five clinical courses as smooth functions of time, and the wander around them.

Here: the truth (`Course.at`, a pure function of time, no noise) and `Wander`, which adds each signal's restlessness.
Not here: what a monitor makes of it (hospital.monitors), what goes wrong on the way (hospital.faults). Nothing here is
shared with, or taken from, models/physiology: these are drawn curves of known shape, not a simulation.
Source: typical numbers after Singer et al. 2016, JAMA 315:801 (sepsis); ATLS 10th ed., classes of haemorrhage; Berlin
definition 2012, JAMA 307:2526 (lung failure); Pepys & Hirschfield 2003, J Clin Invest 111:1805 (C-reactive protein);
circadian amplitudes after Refinetti & Menaker 1992, Physiol Behav 51:613, and Degaute et al. 1991, Hypertension 18:199.
"""

from __future__ import annotations

import math
import random
from enum import StrEnum
from typing import NamedTuple

from hospital.patients import Patient


class CourseKind(StrEnum):
    """The shapes an illness takes here."""

    STABLE = "stable"
    SEPSIS = "sepsis"
    BLEEDING = "bleeding"
    RESPIRATORY_FAILURE = "respiratory_failure"
    RECOVERY = "recovery"


class Condition(NamedTuple):
    """A patient at one moment, every quantity true (no noise, no device)."""

    heart_rate: float  # /min
    respiratory_rate: float  # /min
    oxygen_saturation: float  # %
    systolic: float  # mm[Hg]
    diastolic: float  # mm[Hg]
    mean: float  # mm[Hg]
    central_venous_pressure: float  # mm[Hg]
    temperature: float  # Cel
    perfusion_index: float  # %
    end_tidal_carbon_dioxide: float  # mm[Hg]
    inspired_oxygen: float  # %
    oxygen_flow: float  # L/min
    glasgow_coma_score: int
    consciousness: str  # A C V P U
    urine: float  # mL/h
    lactate: float  # mmol/L
    white_cells: float  # 10*9/L
    haemoglobin: float  # g/dL
    platelets: float  # 10*9/L
    creatinine: float  # mg/dL
    urea_nitrogen: float  # mg/dL
    bilirubin: float  # mg/dL
    c_reactive_protein: float  # mg/L
    sodium: float  # mmol/L
    potassium: float  # mmol/L
    glucose: float  # mg/dL
    arterial_ph: float
    arterial_carbon_dioxide: float  # mm[Hg]
    arterial_oxygen: float  # mm[Hg]
    bicarbonate: float  # mmol/L


class Burden(NamedTuple):
    """How much of each kind of illness there is, 0 (none) to about 1 (as bad as it gets)."""

    inflammation: float
    blood_loss: float
    lung_injury: float

    @property
    def shock(self) -> float:
        """Return how far the circulation fails: vasoplegia and loss of volume together."""
        return min(1.0, 0.75 * math.pow(self.inflammation, 1.5) + 0.95 * math.pow(self.blood_loss, 1.3))


def _rise(hours: float, onset_h: float, half_rise_h: float) -> float:
    """Return a logistic rise from 0 to 1 that has reached one half `half_rise_h` after onset."""
    return 1.0 / (1.0 + math.exp(-4 * (hours - onset_h - half_rise_h) / half_rise_h))


def _bounded(value: float, low: float, high: float) -> float:
    return min(high, max(low, value))


class Course:
    """One patient's course: truth as a function of hours since admission."""

    def __init__(self, kind: CourseKind, patient: Patient, rng: random.Random) -> None:
        """Draw the course's onset, speed, depth and response to treatment from `rng`."""
        self.kind = kind
        self.patient = patient
        self.onset_h = rng.uniform(1.5, 5.0)
        self.half_rise_h = rng.uniform(2.0, 4.5) if kind is not CourseKind.BLEEDING else rng.uniform(0.8, 2.0)
        self.depth = rng.uniform(0.7, 1.0)
        self.treated_h = self.onset_h + self.half_rise_h * rng.uniform(2.0, 3.5)
        self.response = rng.uniform(0.25, 0.85)
        self.recovery_h = rng.uniform(8.0, 20.0)
        self.is_ventilated = kind is CourseKind.RESPIRATORY_FAILURE and rng.random() < 0.5
        self.has_arterial_line = kind not in {CourseKind.STABLE, CourseKind.RECOVERY} and rng.random() < 0.75

    @property
    def dies_h(self) -> float | None:
        """Return the hour of death of those whose illness is deep and whom treatment hardly helps; None: lives."""
        if self.kind in {CourseKind.STABLE, CourseKind.RECOVERY} or self.depth * (1 - self.response) < 0.5:
            return None
        return self.treated_h + self.recovery_h / 4

    def burden(self, hours: float) -> Burden:
        """Return the illness `hours` after admission; before onset nearly none."""
        if self.kind is CourseKind.STABLE:
            return Burden(0.04, 0.0, 0.03)
        if self.kind is CourseKind.RECOVERY:
            left = self.depth * 0.8 * math.exp(-max(hours, 0.0) / self.recovery_h)
            return Burden(left, 0.0, 0.5 * left)
        risen = self.depth * _rise(hours, self.onset_h, self.half_rise_h)
        risen *= 1 - self.response * _rise(hours, self.treated_h, self.recovery_h / 2)
        if self.kind is CourseKind.SEPSIS:
            return Burden(risen, 0.0, 0.35 * risen)
        if self.kind is CourseKind.BLEEDING:
            return Burden(0.05, risen, 0.05)
        return Burden(0.3 * risen, 0.0, risen)

    def at(self, hours: float, hour_of_day: float) -> Condition:
        """Return the patient's condition.

        Args:
            hours: since admission; laboratory values trail the illness by their own delays.
            hour_of_day: 0..24, for the circadian swing (lowest near 04:30).
        """
        base = self.patient.baseline
        now = self.burden(hours)
        shock = now.shock
        heart_rate = base.heart_rate + 48 * now.inflammation + 62 * now.blood_loss + 16 * now.lung_injury
        central_venous_pressure = 8 - 5 * now.blood_loss - 2 * now.inflammation + 3 * now.lung_injury
        day = math.cos(2 * math.pi * (hour_of_day - 16.5) / 24)
        # A dying circulation cannot mount a fever; otherwise fever follows inflammation.
        temperature = base.temperature + 0.25 * day + 2.3 * now.inflammation - 1.1 * now.blood_loss
        systolic = base.systolic * (1 - 0.45 * shock) + 4 * day
        # Septic vessels slacken (diastolic falls most); bleeding vessels tighten (pulse pressure narrows).
        diastolic = base.diastolic * (1 - 0.50 * now.inflammation**1.5 - 0.22 * now.blood_loss) + 2.5 * day
        diastolic = min(diastolic, systolic - 16)
        support = _bounded(now.lung_injury * 1.1 - 0.1, 0.0, 1.0)  # oxygen that has been given
        saturation = base.oxygen_saturation - 17 * now.lung_injury**1.4 * (1 - 0.35 * support) - 2.0 * shock
        respiratory_rate = base.respiratory_rate + 9 * now.inflammation + 7 * now.blood_loss + 13 * now.lung_injury
        clouding = _bounded(0.85 * shock + 0.45 * max(now.lung_injury - 0.4, 0), 0.0, 1.0)
        coma_score = 15 - round(7 * max(clouding - 0.25, 0))
        return Condition(
            heart_rate=_bounded(heart_rate + 2.5 * day, 35, 190),
            respiratory_rate=_bounded(16 + 6 * now.lung_injury if self.is_ventilated else respiratory_rate, 6, 45),
            oxygen_saturation=_bounded(saturation, 72, 100),
            systolic=_bounded(systolic, 55, 210),
            diastolic=_bounded(diastolic, 28, 120),
            mean=_bounded(diastolic + (systolic - diastolic) / 3, 35, 150),
            central_venous_pressure=_bounded(central_venous_pressure, 0, 20),
            temperature=_bounded(temperature, 33.5, 41.0),
            perfusion_index=_bounded(3.2 * (1 - 0.8 * shock), 0.2, 12),
            end_tidal_carbon_dioxide=_bounded(37 - 13 * shock + 6 * now.lung_injury, 12, 70),
            inspired_oxygen=_bounded(21 + 55 * support, 21, 100),
            oxygen_flow=0.0 if support <= 0.02 else _bounded(2 + 13 * support, 0, 15),
            glasgow_coma_score=coma_score,
            consciousness=_responsiveness(clouding),
            urine=_bounded(self.patient.weight_kg * (1.0 - 0.92 * shock), 2, 250),
            **self._laboratory(hours),
        )

    def _laboratory(self, hours: float) -> dict[str, float]:
        base = self.patient.baseline
        half_hour, three_hours = self.burden(hours - 0.5), self.burden(hours - 3)
        twelve_hours, day_before = self.burden(hours - 12), self.burden(hours - 20)
        lung = half_hour.lung_injury
        lactate = 1.1 + 6.2 * half_hour.shock
        bicarbonate = _bounded(24.5 - 1.15 * (lactate - 1.1) - 1.5 * twelve_hours.shock, 8, 32)
        carbon_dioxide = _bounded(39 + (18 if lung > 0.6 else -7) * lung - 5 * half_hour.inflammation, 20, 85)
        # Henderson-Hasselbalch ties the three gases together, as an analyser's report must.
        arterial_ph = 6.1 + math.log10(bicarbonate / (0.0307 * carbon_dioxide))
        return {
            "lactate": lactate,
            "white_cells": base.white_cells + 13 * three_hours.inflammation + 3 * three_hours.blood_loss,
            "haemoglobin": _bounded(base.haemoglobin - 6.3 * self.burden(hours - 2).blood_loss, 4.5, 18),
            "platelets": max(
                20.0, base.platelets * (1 - 0.5 * twelve_hours.inflammation - 0.35 * three_hours.blood_loss)
            ),
            "creatinine": base.creatinine * (1 + 1.6 * twelve_hours.shock),
            "urea_nitrogen": 15 + 8 * base.creatinine + 24 * twelve_hours.shock + 12 * three_hours.blood_loss,
            "bilirubin": 0.7 + 2.2 * day_before.inflammation,
            "c_reactive_protein": 4 + 260 * self.burden(hours - 8).inflammation,
            "sodium": 139.5 - 3 * three_hours.inflammation,
            "potassium": 4.1 + 0.8 * twelve_hours.shock,
            "glucose": base.glucose + 70 * three_hours.inflammation + 45 * three_hours.blood_loss,
            "arterial_ph": _bounded(arterial_ph, 6.9, 7.6),
            "arterial_carbon_dioxide": carbon_dioxide,
            "arterial_oxygen": _bounded(92 - 48 * lung + 25 * _bounded(lung * 1.1 - 0.1, 0, 1), 42, 250),
            "bicarbonate": bicarbonate,
        }


def _responsiveness(clouding: float) -> str:
    for level, threshold in (("A", 0.35), ("C", 0.55), ("V", 0.8), ("P", 0.95)):
        if clouding < threshold:
            return level
    return "U"


_RESTLESSNESS = {
    # standard deviation in the signal's unit, and how long a deviation lasts in minutes
    "heart_rate": (3.0, 6.0),
    "respiratory_rate": (1.1, 5.0),
    "oxygen_saturation": (0.6, 8.0),
    "systolic": (5.0, 12.0),
    "diastolic": (3.0, 12.0),
    "central_venous_pressure": (0.8, 10.0),
    "temperature": (0.06, 60.0),
    "perfusion_index": (0.3, 6.0),
    "end_tidal_carbon_dioxide": (1.2, 6.0),
}


class Wander:
    """Correlated noise around the truth: each signal forgets its deviation at its own pace (Ornstein-Uhlenbeck)."""

    def __init__(self, rng: random.Random) -> None:
        """Start each signal at a random deviation of its own."""
        self._rng = rng
        self._deviations = {key: rng.gauss(0, 1) for key in _RESTLESSNESS}
        self._hours: float | None = None

    def around(self, truth: Condition, hours: float) -> Condition:
        """Return `truth` with noise; calls must come in order of time.

        Raises:
            ValueError: `hours` lies before the last call's.
        """
        elapsed_min = 0.0 if self._hours is None else (hours - self._hours) * 60
        if elapsed_min < 0:
            raise ValueError(f"noise cannot go back in time: expected hours >= {self._hours}, found {hours}")
        self._hours = hours
        noisy: dict[str, float] = {}
        values = truth._asdict()
        for key, (deviation, memory_min) in _RESTLESSNESS.items():
            kept = math.exp(-elapsed_min / memory_min)
            self._deviations[key] = kept * self._deviations[key] + math.sqrt(1 - kept * kept) * self._rng.gauss(0, 1)
            noisy[key] = values[key] + deviation * self._deviations[key]
        arousal = self._deviations["heart_rate"]  # breathing and pressure rise and fall with it
        noisy["respiratory_rate"] += 0.5 * arousal
        noisy["systolic"] += 2.0 * arousal
        noisy["oxygen_saturation"] = min(100.0, noisy["oxygen_saturation"])
        noisy["respiratory_rate"] = max(4.0, noisy["respiratory_rate"])
        noisy["perfusion_index"] = max(0.1, noisy["perfusion_index"])
        noisy["central_venous_pressure"] = max(0.0, noisy["central_venous_pressure"])
        noisy["diastolic"] = min(noisy["diastolic"], noisy["systolic"] - 10)
        noisy["mean"] = noisy["diastolic"] + (noisy["systolic"] - noisy["diastolic"]) / 3
        return truth._replace(**noisy)  # type: ignore[arg-type]  # only float fields wander
