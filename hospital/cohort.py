"""A synthetic cohort in the files of the PhysioNet 2012 challenge: what a demonstration learns from.

Here: stays whose outcome is drawn from a hidden severity that also drives what is measured, how often, and what is not;
`set-a.tar.gz`, `Outcomes-a.txt` and a marker that says that nothing in them means anything clinically.
Not here: clinical courses themselves (hospital.courses), reading the files (interop.physionet2012, hospital.stays).
Source: file format and parameters after the challenge's documentation (Silva et al. 2012, Comput Cardiol 39:245). How
often a parameter is measured, and the share of deaths, resemble the challenge's set A; the values are invented.
"""

from __future__ import annotations

import gzip
import io
import math
import random
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from hospital.chance import named
from hospital.courses import Condition, Course, CourseKind
from hospital.patients import Patient, invent
from hospital.stays import HEADING, STAY_MINUTES
from vocabulary.errors import RefusedError

ARCHIVE = "set-a.tar.gz"
OUTCOMES = "Outcomes-a.txt"
MARKER = "SYNTHETIC.txt"
OUTCOME_HEADING = "RecordID,SAPS-I,SOFA,Length_of_stay,Survival,In-hospital_death"
FIRST_RECORD = 900_001
"""The challenge's own records have numbers from 132539 to 163008."""

_MARK = """These stays are invented. Nobody had them; whatever is learnt from them means nothing clinically.

Made by `python -m hospital cohort --stays {stays} --seed {seed}`.
"""
_ADMITTED_US = 1_767_225_600_000_000  # 2026-01-01: only birth dates hang on it, and those are not written
_LOG_ODDS = -3.15
"""Of a patient of middling severity and age; makes about one in seven die."""
_NEVER_CHARTED = 0.015
"""Stays of which nothing but the descriptors is known, as in the challenge's own set."""
_PER_SEVERITY, _PER_YEAR = 2.3, 0.025

_KINDS = {
    # ICUType: which courses bring people there
    "1": ((CourseKind.STABLE, 5), (CourseKind.RECOVERY, 3), (CourseKind.RESPIRATORY_FAILURE, 2)),
    "2": ((CourseKind.RECOVERY, 6), (CourseKind.BLEEDING, 3), (CourseKind.STABLE, 1)),
    "3": ((CourseKind.SEPSIS, 5), (CourseKind.RESPIRATORY_FAILURE, 4), (CourseKind.STABLE, 1)),
    "4": ((CourseKind.SEPSIS, 3), (CourseKind.BLEEDING, 3), (CourseKind.RECOVERY, 3), (CourseKind.STABLE, 1)),
}
_TYPES = (("1", 15), ("2", 21), ("3", 37), ("4", 27))

_CHEMISTRY = ("BUN", "Creatinine", "Glucose", "HCO3", "K", "Mg", "Na")
_BLOOD_COUNT = ("HCT", "Platelets", "WBC")
_LIVER = ("ALP", "ALT", "AST", "Albumin", "Bilirubin")
_GASES = ("PaCO2", "PaO2", "pH")


class InventedStay(NamedTuple):
    """One stay's file, and its line of the outcomes."""

    record_id: int
    file: str
    outcome: str
    died: bool
    severity: float  # hidden: standard normal


class _Line(NamedTuple):
    minute: int
    parameter: str
    text: str


_Truth = Callable[[int], Condition]


def _pick(rng: random.Random, weighted: tuple[tuple[str, int], ...]) -> str:
    return rng.choices([value for value, _ in weighted], [weight for _, weight in weighted])[0]


def invent_stay(number: int, seed: int) -> InventedStay:
    """Invent the `number`-th stay (from 0) of a seed's cohort; it is the same in a cohort of any size."""
    rng = named(seed, "cohort", number)
    patient = invent(number, rng, _ADMITTED_US)
    severity = rng.gauss(0.0, 1.0)
    icu_type = _pick(rng, _TYPES)
    kinds = _KINDS[icu_type]
    course = _course(
        patient, CourseKind(_pick(rng, tuple((kind.value, weight) for kind, weight in kinds))), severity, rng
    )
    log_odds = _LOG_ODDS + _PER_SEVERITY * severity + _PER_YEAR * (patient.age_years - 67)
    died = rng.random() < 1.0 / (1.0 + math.exp(-log_odds))
    record_id = FIRST_RECORD + number
    lines = _descriptors(record_id, patient, icu_type, rng)
    if rng.random() > _NEVER_CHARTED:
        lines += sorted(_measured(course, patient, severity, rng), key=lambda line: line.minute)
    file = "\n".join((HEADING, *(f"{m // 60:02d}:{m % 60:02d},{name},{text}" for m, name, text in lines))) + "\n"
    return InventedStay(record_id, file, _outcome(record_id, severity, died, rng), died, severity)


def _course(patient: Patient, kind: CourseKind, severity: float, rng: random.Random) -> Course:
    """Return a course that began before admission, and is as deep and as stubborn as the patient is ill."""
    course = Course(kind, patient, rng)
    ill = 0.5 * (1.0 + math.erf(severity / math.sqrt(2.0)))  # 0..1, evenly spread
    course.onset_h = rng.uniform(-10.0, 4.0)
    course.depth = min(1.0, max(0.05, 0.1 + 0.85 * ill + rng.gauss(0.0, 0.08)))
    course.response = min(0.95, max(0.05, 0.9 - 0.75 * ill + rng.gauss(0.0, 0.08)))
    course.is_ventilated = rng.random() < (0.75 if kind is CourseKind.RESPIRATORY_FAILURE else 0.32 + 0.45 * ill)
    course.has_arterial_line = rng.random() < 0.45 + 0.4 * ill
    return course


def _outcome(record_id: int, severity: float, died: bool, rng: random.Random) -> str:
    saps = round(min(34.0, max(0.0, 14.5 + 3.6 * severity + rng.gauss(0.0, 3.5))))
    sofa = round(min(22.0, max(0.0, 6.5 + 2.6 * severity + rng.gauss(0.0, 3.0))))
    stay = max(2, round(rng.lognormvariate(2.3, 0.65)))
    survival = -1
    if died:
        survival = rng.randint(2, stay)
    elif rng.random() < 0.25:
        survival = stay + 1 + round(rng.expovariate(1 / 300))
    if rng.random() < 0.02:  # some are not known
        saps = -1
    if rng.random() < 0.02:
        sofa = -1
    return f"{record_id},{saps},{sofa},{stay},{survival},{int(died)}"


def _descriptors(record_id: int, patient: Patient, icu_type: str, rng: random.Random) -> list[_Line]:
    height = f"{patient.height_cm:.1f}" if rng.random() < 0.53 else "-1"
    weight = f"{patient.weight_kg:.1f}" if rng.random() < 0.91 else "-1"
    return [
        _Line(0, "RecordID", str(record_id)),
        _Line(0, "Age", str(patient.age_years)),
        _Line(0, "Gender", "1" if patient.sex == "M" else "0"),
        _Line(0, "Height", height),
        _Line(0, "ICUType", icu_type),
        _Line(0, "Weight", weight),
    ]


def _times(rng: random.Random, every_min: float, first_min: float | None = None) -> Iterator[int]:
    """Yield minutes of the stay about `every_min` apart, as people chart: roughly, and now and then not at all."""
    minute = rng.uniform(0.1, 1.0) * every_min if first_min is None else first_min
    while minute <= STAY_MINUTES:
        if rng.random() > 0.06:
            yield int(minute)
        minute += every_min * rng.uniform(0.75, 1.25)


def _measured(course: Course, patient: Patient, severity: float, rng: random.Random) -> Iterator[_Line]:
    """Yield everything charted: who is more ill is measured more often, and of more."""
    ill = 0.5 * (1.0 + math.erf(severity / math.sqrt(2.0)))
    begins_h = rng.uniform(0.0, 24.0)
    remembered: dict[int, Condition] = {}

    def at(minute: int) -> Condition:
        hour = minute // 30  # the truth changes over hours: half-hours are fine enough
        if hour not in remembered:
            remembered[hour] = course.at(minute / 60, (begins_h + minute / 60) % 24)
        return remembered[hour]

    has_respiratory_rate = rng.random() < 0.28
    for minute in _times(rng, 60 - 12 * ill):
        now = at(minute)
        yield _Line(minute, "HR", f"{rng.gauss(now.heart_rate, 4):.0f}")
        systolic, diastolic = rng.gauss(now.systolic, 6), rng.gauss(now.diastolic, 4)
        prefix = "" if course.has_arterial_line and rng.random() < 0.93 else "NI"
        slip = rng.random()  # a line that is flushed or has come off
        lost = prefix == "" and slip < 0.004
        yield _Line(minute, f"{prefix}SysABP", "0" if lost else f"{systolic:.0f}")
        yield _Line(minute, f"{prefix}DiasABP", "0" if lost else f"{min(diastolic, systolic - 8):.0f}")
        yield _Line(minute, f"{prefix}MAP", f"{diastolic + (systolic - diastolic) / 3:.0f}")
        if has_respiratory_rate:
            yield _Line(minute, "RespRate", f"{max(rng.gauss(now.respiratory_rate, 2), 4):.0f}")
        if rng.random() < 0.85:
            millilitres = max(rng.gauss(now.urine, 0.35 * now.urine + 3), 0.0)
            yield _Line(minute, "Urine", f"{5 * round(millilitres / 5)}")
    for minute in _times(rng, 120):
        celsius = rng.gauss(at(minute).temperature, 0.15)
        yield _Line(minute, "Temp", "-17.8" if rng.random() < 0.002 else f"{celsius:.1f}")
    sedated = 4 if course.is_ventilated else 0
    for minute in _times(rng, 240):
        awake = at(minute).glasgow_coma_score - (sedated if minute < 1440 else sedated // 2)
        yield _Line(minute, "GCS", f"{min(15, max(3, awake + rng.choice((-1, 0, 0, 0, 1))))}")
    if rng.random() < 0.6:
        for minute in _times(rng, 1440, 0):
            yield _Line(minute, "Weight", f"{patient.weight_kg + rng.gauss(minute / 1440 * ill, 0.6):.1f}")
    yield from _ventilated(course, rng, at)
    yield from _laboratory(course, ill, rng, at)


def _ventilated(course: Course, rng: random.Random, at: _Truth) -> Iterator[_Line]:
    if not course.is_ventilated:
        return
    weaned_min = STAY_MINUTES * min(1.0, rng.uniform(0.25, 0.7) + course.depth * (1 - course.response))
    for minute in _times(rng, 130):
        if minute < weaned_min:
            yield _Line(minute, "MechVent", "1")
    for minute in _times(rng, 200):
        if minute < weaned_min:
            fraction = max(0.4, at(minute).inspired_oxygen / 100)
            yield _Line(minute, "FiO2", f"{min(1.0, round(fraction * 20) / 20):g}")


def _laboratory(course: Course, ill: float, rng: random.Random, at: _Truth) -> Iterator[_Line]:
    draws: list[tuple[int, tuple[str, ...]]] = []
    draws += [(minute, _CHEMISTRY) for minute in _times(rng, 1300 - 550 * ill)]
    draws += [(minute, _BLOOD_COUNT) for minute in _times(rng, 1250 - 550 * ill)]
    if course.is_ventilated or rng.random() < 0.2 + 0.6 * ill:
        draws += [(minute, _GASES) for minute in _times(rng, 600 - 280 * ill)]
    if rng.random() < 0.25 + 0.6 * ill:
        draws += [(minute, ("Lactate",)) for minute in _times(rng, 1200 - 600 * ill)]
    if rng.random() < 0.2 + 0.4 * ill:
        draws += [(minute, _LIVER) for minute in _times(rng, 1800)]
    if rng.random() < 0.3:
        draws += [(minute, ("SaO2",)) for minute in _times(rng, 600)]
    for name, share in (("TroponinT", 0.22), ("TroponinI", 0.05), ("Cholesterol", 0.08)):
        if rng.random() < share:
            draws += [(minute, (name,)) for minute in _times(rng, 800)]
    stock = {
        "ALP": rng.lognormvariate(4.35, 0.4),
        "ALT": rng.lognormvariate(3.3, 0.6),
        "Albumin": rng.gauss(3.4, 0.4),
        "Cholesterol": rng.gauss(158, 38),
        "Mg": rng.gauss(2.0, 0.2),
        "TroponinI": rng.lognormvariate(0.2, 1.2),
        "TroponinT": rng.lognormvariate(-1.8, 1.0),
    }
    for minute, names in draws:
        now = at(minute)
        shock = course.burden(minute / 60 - 6).shock
        for name in names:
            value = _analysed(name, now, stock, shock) * math.exp(rng.gauss(0.0, _SPREAD.get(name, 0.06)))
            slip = rng.random()
            text = _written(name, value)
            if name == "pH" and slip < 0.002:
                text = text.replace(".", "")  # 7.35 written as 735
            yield _Line(minute, name, text)


_SPREAD = {"Na": 0.015, "pH": 0.003, "K": 0.06, "HCT": 0.04, "SaO2": 0.008, "PaO2": 0.15, "Glucose": 0.15, "Mg": 0.05}
_DECIMALS = {
    "Albumin": 1, "Bilirubin": 1, "Creatinine": 1, "HCT": 1, "K": 1, "Lactate": 1, "Mg": 1, "pH": 2, "TroponinI": 1,
    "TroponinT": 2, "WBC": 1,
}  # fmt: skip


def _written(name: str, value: float) -> str:
    return f"{min(value, 100.0) if name == 'SaO2' else value:.{_DECIMALS.get(name, 0)}f}"


_TRUTHS = {
    # parameter: where a Condition has it, and by what it is multiplied
    "BUN": ("urea_nitrogen", 1.0),
    "Bilirubin": ("bilirubin", 1.0),
    "Creatinine": ("creatinine", 1.0),
    "Glucose": ("glucose", 1.0),
    "HCO3": ("bicarbonate", 1.0),
    "HCT": ("haemoglobin", 3.0),  # g/dL to %
    "K": ("potassium", 1.0),
    "Lactate": ("lactate", 1.0),
    "Na": ("sodium", 1.0),
    "PaCO2": ("arterial_carbon_dioxide", 1.0),
    "PaO2": ("arterial_oxygen", 1.0),
    "Platelets": ("platelets", 1.0),
    "SaO2": ("oxygen_saturation", 1.0),
    "WBC": ("white_cells", 1.0),
    "pH": ("arterial_ph", 1.0),
}


def _analysed(name: str, now: Condition, stock: dict[str, float], shock: float) -> float:
    """Return a specimen's value before the analyser's scatter, in the challenge's units."""
    if name in _TRUTHS:
        attribute, times = _TRUTHS[name]
        return float(getattr(now, attribute)) * times
    if name == "Albumin":
        return max(1.2, stock[name] - 0.9 * shock)
    if name in {"ALT", "AST"}:
        return stock["ALT"] * (1.0 + 4.0 * shock) * (1.3 if name == "AST" else 1.0)
    return stock[name]


def write_cohort(folder: Path, stays: int, seed: int) -> int:
    """Write a cohort's archive, outcomes and marker; the same bytes for the same arguments. Return how many died.

    Args:
        folder: made if absent. What an earlier call left there is replaced.
        stays: how many.
        seed: of everything.

    Raises:
        RefusedError: the folder holds a cohort that is not marked as invented.
    """
    paths = [folder / name for name in (ARCHIVE, OUTCOMES)]
    if not (folder / MARKER).is_file() and any(path.exists() for path in paths):
        raise RefusedError(f"{folder} holds a cohort without {MARKER}: it may be real, so it is not overwritten")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / MARKER).write_text(_MARK.format(stays=stays, seed=seed))  # first: never unmarked, even for a moment
    outcomes, died = [OUTCOME_HEADING], 0
    with (
        (folder / ARCHIVE).open("wb") as file,
        gzip.GzipFile("", "wb", compresslevel=6, fileobj=file, mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.USTAR_FORMAT) as tar,
    ):
        for number in range(stays):
            stay = invent_stay(number, seed)
            body = stay.file.encode()
            member = tarfile.TarInfo(f"set-a/{stay.record_id}.txt")
            member.size = len(body)
            tar.addfile(member, io.BytesIO(body))
            outcomes.append(stay.outcome)
            died += stay.died
    (folder / OUTCOMES).write_text("\n".join(outcomes) + "\n")
    return died
