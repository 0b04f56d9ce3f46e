"""Values as words for people: numbers, units, bands, names.

Here: pure functions from canonical values to short text; tables of display precision.
Not here: which values a page shows (clinic.bed_view, clinic.patient_view), ages (they grow in the browser).
Source: RCP 2017 National Early Warning Score 2, chart 1 (words of the bands and of ACVPU); UCUM for the units.
"""

from __future__ import annotations

import math
import re
from datetime import UTC, date, datetime

from clinic.questions import Person
from vocabulary.concepts import CONCEPTS, Concept

_BY_KEY: dict[str, Concept] = {concept.key: concept for concept in CONCEPTS}

# Decimals a chart shows for a vital sign; the values behind keep all of theirs.
_DECIMALS = {
    "heart_rate": 0,
    "pulse_rate": 0,
    "respiratory_rate": 0,
    "oxygen_saturation": 0,
    "arterial_oxygen_saturation": 0,
    "systolic_blood_pressure": 0,
    "diastolic_blood_pressure": 0,
    "mean_blood_pressure": 0,
    "arterial_systolic_blood_pressure": 0,
    "arterial_diastolic_blood_pressure": 0,
    "arterial_mean_blood_pressure": 0,
    "body_temperature": 1,
    "inspired_oxygen_fraction": 0,
    "core_temperature": 1,
    "end_tidal_co2": 0,
    "glasgow_coma_score": 0,
    "supplemental_oxygen": 0,
}

_UNIT_PARTS = (
    ("mm[Hg]", "mmHg"),
    ("cm[H2O]", "cmH₂O"),
    ("[pH]", ""),
    ("[iU]", "IU"),
    ("[IU]", "IU"),
    ("[degF]", "°F"),
    ("Cel", "°C"),
    ("10*3", "10³"),
    ("10*6", "10⁶"),
    ("10*9", "10⁹"),
    ("10*12", "10¹²"),
)

_NO_BRACKETS = str.maketrans("", "", "[]")

_BANDS = {"low": "Low", "low-medium": "Low–medium", "medium": "Medium", "high": "High"}

_COMPONENTS = {
    "respiratory_rate": "Respiratory rate",
    "oxygen_saturation": "Oxygen saturation",
    "arterial_oxygen_saturation": "Oxygen saturation (arterial)",
    "supplemental_oxygen": "Air or oxygen",
    "systolic_blood_pressure": "Blood pressure",
    "heart_rate": "Heart rate",
    "consciousness": "Consciousness",
    "body_temperature": "Temperature",
}

_CONSCIOUSNESS = {"A": "Alert", "C": "Confused", "V": "Voice", "P": "Pain", "U": "Unresponsive"}

_MICRO = re.compile(r"(?<![A-Za-z])u(?=[A-Za-z])")  # ug, umol, /uL
_ANNOTATION = re.compile(r"\{[^}]*\}")


def concept_of(key: str) -> Concept | None:
    """Return the concept of a snapshot's key; None when this version of the table does not know it."""
    return _BY_KEY.get(key)


def number_text(key: str, value: float) -> str:
    """Return a value with the decimals a chart shows; four significant digits where no chart fixes them."""
    if not math.isfinite(value):
        return "–"
    decimals = _DECIMALS.get(key)
    if decimals is None:
        text = f"{value:.4g}"
        return f"{value:,.0f}".replace(",", "") if "e" in text and abs(value) >= 1 else text
    text = f"{value:.{decimals}f}"
    return text[1:] if text.startswith("-") and float(text) == 0 else text


def unit_text(unit: str) -> str:
    """Return a UCUM unit as a clinician writes it: `mm[Hg]` → `mmHg`, `{score}` → nothing."""
    if unit in {"1", ""}:
        return ""
    text = _ANNOTATION.sub("", unit)
    for ucum, written in _UNIT_PARTS:
        text = text.replace(ucum, written)
    text = text.translate(_NO_BRACKETS)
    return _MICRO.sub("µ", text)


def band_text(band: str) -> str:
    """Return the word for a NEWS2 band."""
    return _BANDS.get(band, band.capitalize())


def consciousness_text(code: str) -> str:
    """Return the word for an ACVPU letter; anything else as it is."""
    return _CONSCIOUSNESS.get(code.strip().upper(), code)


def component_title(name: str) -> str:
    """Return the name of a component of NEWS2 as its chart prints it."""
    return _COMPONENTS.get(name) or title_of(name)


def title_of(key: str) -> str:
    """Return a component's or concept's name in words."""
    concept = concept_of(key)
    return concept.display if concept else key.replace("_", " ").capitalize()


def short_name(person: Person | None, patient_id: int) -> str:
    """Return `FAMILY, Given` shortened for a wall, or `Patient 12` when no name is known."""
    if person is None or not (person.family_name or person.given_name):
        return f"Patient {patient_id}"
    if not person.given_name:
        return person.family_name
    given = person.given_name.split()[0]
    return f"{person.family_name}, {given}" if person.family_name else given


def full_name(person: Person | None, patient_id: int) -> str:
    """Return a patient's whole name for the head of their own page."""
    if person is None or not (person.family_name or person.given_name):
        return f"Patient {patient_id}"
    return ", ".join(part for part in (person.family_name, person.given_name) if part)


def age_and_sex(person: Person | None, at_us: int) -> str:
    """Return `71 y · F` at a moment; what is not known is left out."""
    if person is None:
        return ""
    parts: list[str] = []
    years = age_years(person.birth_date, at_us)
    if years is not None:
        parts.append(f"{years} y")
    sex = {"male": "M", "female": "F", "other": "other"}.get(person.sex)
    if sex:
        parts.append(sex)
    return " · ".join(parts)


def age_years(birth_date: str, at_us: int) -> int | None:
    """Return completed years of life at a moment; None when the date is absent or later than the moment.

    Of a birth date known only to the month or year the first day is taken.
    """
    try:
        born = date.fromisoformat((birth_date + "-01-01")[:10])
    except ValueError:
        return None
    today = datetime.fromtimestamp(at_us / 1e6, UTC).date()
    years = today.year - born.year - ((today.month, today.day) < (born.month, born.day))
    return years if years >= 0 else None


def clock_text(at_us: int) -> str:
    """Return `14:32` (UTC)."""
    return datetime.fromtimestamp(at_us / 1e6, UTC).strftime("%H:%M")


def moment_text(at_us: int) -> str:
    """Return `2026-03-01 14:32` (UTC)."""
    return datetime.fromtimestamp(at_us / 1e6, UTC).strftime("%Y-%m-%d %H:%M")


def instant(at_us: int) -> str:
    """Return an instant as FHIR writes it, to the microsecond: `2026-03-01T14:32:05.120000Z`."""
    seconds, micros = divmod(at_us, 1_000_000)
    stamp = datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")
    return f"{stamp}.{micros:06d}Z" if micros else f"{stamp}Z"


def capitalize_first(text: str) -> str:
    """Return a text whose first letter is a capital, without its last full stop: to be a sentence among others."""
    return text[:1].upper() + text[1:].rstrip(".")


def natural_key(text: str) -> str:
    """Return a string that sorts as a person would: runs of digits by their number."""
    return re.sub(r"\d+", lambda run: run[0].zfill(6), text.lower())
