"""Invented patients: who they are on paper and what is normal for them.

Here: names, numbers and a person's own baseline, drawn from a seeded generator that the caller passes in.
Not here: what happens to them (hospital.courses). No real person: medical record numbers begin with SYN.
Source: baselines after Marieb & Hoehn, Human Anatomy & Physiology (adult reference ranges); blood pressure by age after
Franklin et al. 1997, Circulation 96:308.
"""

from __future__ import annotations

import random
from datetime import UTC, datetime
from typing import NamedTuple

from hospital.messages import Identifier, Person

AUTHORITY = "VIGIL-SYNTHETIC"

_FAMILY = (
    "Abara", "Almeida", "Andersson", "Bauer", "Chukwu", "Delgado", "Dubois", "Eriksen", "Fischer", "García", "Haddad",
    "Hoffmann", "Ibrahim", "Jensen", "Kowalski", "Lindqvist", "Martínez", "Mbeki", "Müller", "Nakamura", "Nguyễn",
    "O'Connor", "Okafor", "Oliveira", "Papadopoulos", "Petrov", "Rossi", "Schäfer", "Singh", "Tanaka", "Whitfield",
    "van der Berg", "Zając", "Ferreira", "Castellano", "Şahin",
)  # fmt: skip
_FEMALE = (
    "Amara", "Anna", "Beatriz", "Chloé", "Elif", "Fatima", "Grace", "Hanna", "Ingrid", "Júlia", "Leila", "Mei", "Nadia",
    "Olga", "Priya", "Rosa", "Sofía", "Yuki", "Zofia",
)  # fmt: skip
_MALE = (
    "Ahmed", "Björn", "Carlos", "David", "Emeka", "Felix", "Giorgio", "Hiroshi", "Ivan", "João", "Karl", "Liam",
    "Mateo", "Nils", "Omar", "Paul", "Rafael", "Stefan", "Tomás",
)  # fmt: skip


class Baseline(NamedTuple):
    """What one person's body does when well."""

    heart_rate: float  # /min
    respiratory_rate: float  # /min
    oxygen_saturation: float  # %
    systolic: float  # mm[Hg]
    diastolic: float  # mm[Hg]
    temperature: float  # Cel
    haemoglobin: float  # g/dL
    creatinine: float  # mg/dL
    white_cells: float  # 10*9/L
    platelets: float  # 10*9/L
    glucose: float  # mg/dL


class Patient(NamedTuple):
    """An invented patient."""

    number: int
    medical_record_number: str
    family_name: str
    given_name: str
    sex: str  # F or M
    birth_date: str  # YYYYMMDD
    age_years: int
    weight_kg: float
    height_cm: float
    baseline: Baseline

    def person(self) -> Person:
        """Return the patient as PID writes it."""
        return Person(
            identifiers=(Identifier(self.medical_record_number, AUTHORITY),),
            family_name=self.family_name,
            given_name=self.given_name,
            birth_date=self.birth_date,
            sex=self.sex,
        )


def invent(number: int, rng: random.Random, today_us: int) -> Patient:
    """Invent the `number`-th patient of a ward.

    Args:
        number: becomes the medical record number; unique within one generator.
        rng: drawn from in a fixed order, so the same seed invents the same people.
        today_us: admission day, from which the birth date is counted back.
    """
    sex = rng.choice("FM")
    age = min(97, max(18, round(rng.gauss(67, 15))))
    year = datetime.fromtimestamp(today_us / 1e6, UTC).year - age - 1
    birth_date = f"{year}{rng.randint(1, 12):02d}{rng.randint(1, 28):02d}"
    height = rng.gauss(164 if sex == "F" else 177, 7)
    weight = max(42.0, rng.gauss(27, 5) * (height / 100) ** 2)
    older = (age - 50) / 10  # decades
    systolic = min(165.0, max(105.0, rng.gauss(124 + 3.5 * older, 9)))
    baseline = Baseline(
        heart_rate=rng.gauss(76, 7),
        respiratory_rate=rng.gauss(15, 1.3),
        oxygen_saturation=min(99.0, max(95.0, rng.gauss(97.2 - 0.25 * max(older, 0), 0.8))),
        systolic=systolic,
        diastolic=min(0.72 * systolic, rng.gauss(74, 5)),
        temperature=rng.gauss(36.7, 0.2),
        haemoglobin=rng.gauss(12.8 if sex == "F" else 13.9, 0.9),
        creatinine=max(0.5, rng.gauss(0.85 if sex == "F" else 1.0, 0.15)),
        white_cells=max(4.2, rng.gauss(7.5, 1.4)),
        platelets=max(150.0, rng.gauss(245, 45)),
        glucose=max(80.0, rng.gauss(112, 14)),
    )
    return Patient(
        number=number,
        medical_record_number=f"SYN{number:06d}",
        family_name=rng.choice(_FAMILY),
        given_name=rng.choice(_FEMALE if sex == "F" else _MALE),
        sex=sex,
        birth_date=birth_date,
        age_years=age,
        weight_kg=round(weight, 1),
        height_cm=round(height),
        baseline=baseline,
    )
