"""Kept values as FHIR R4 resources: plain dictionaries in the order FHIR lists their elements.

Here: Patient, Observation (vital signs, blood-pressure panels, laboratory), OperationOutcome, identities of resources.
Not here: the twin snapshot (clinic.fhir_snapshot), searching (clinic.fhir_search), routes (clinic.fhir_api).
Source: HL7 FHIR R4 (4.0.1): Observation, Patient; vital-signs and blood-pressure profiles.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

from clinic import words
from clinic.questions import Measured, Person
from vocabulary.concepts import Concept, by_number
from vocabulary.records import ObservationStatus

Resource = dict[str, Any]

LOINC = "http://loinc.org"
OWN_CODES = "urn:vigil:concepts"
"""System of the few concepts LOINC has no code for; their code is our key."""
UCUM = "http://unitsofmeasure.org"
SNOMED = "http://snomed.info/sct"
CATEGORY = "http://terminology.hl7.org/CodeSystem/observation-category"
ABSENT = "http://terminology.hl7.org/CodeSystem/data-absent-reason"
PROFILES = "http://hl7.org/fhir/StructureDefinition/"

NEWS2_TOTAL = "1104051000000101"
PRESSURE_PANEL = "85354-9"

_STATUS = {
    ObservationStatus.FINAL: "final",
    ObservationStatus.PRELIMINARY: "preliminary",
    ObservationStatus.CORRECTED: "corrected",
    ObservationStatus.ENTERED_IN_ERROR: "entered-in-error",
}

# FHIR's own profile for a vital sign, by the LOINC code it fixes.
_VITAL_PROFILES = {
    "8867-4": "heartrate",
    "9279-1": "resprate",
    "59408-5": "oxygensat",
    "2708-6": "oxygensat",
    "8310-5": "bodytemp",
    "8302-2": "bodyheight",
    "29463-7": "bodyweight",
    PRESSURE_PANEL: "bp",
}

# What a profile demands beside the concept's own code (its "magic" code).
_PROFILE_CODE = {"oxygensat": ("2708-6", "Oxygen saturation in Arterial blood")}

# FHIR knows five categories we can use; ventilation and fluids are measured or computed, so not vital signs.
_CATEGORIES = {
    "vital-signs": ("vital-signs", "Vital Signs"),
    "laboratory": ("laboratory", "Laboratory"),
    "neurological": ("exam", "Exam"),
    "ventilation": ("procedure", "Procedure"),
    "fluid": ("procedure", "Procedure"),
    "medication": ("therapy", "Therapy"),
    "demographic": ("social-history", "Social History"),
}

SYSTOLIC, DIASTOLIC = "systolic_blood_pressure", "diastolic_blood_pressure"


class ObservationId(NamedTuple):
    """The parts of an Observation's id: the measurement's own identity, so that it survives corrections."""

    patient_id: int
    concept: int
    effective_at_us: int
    source_key: int

    def __str__(self) -> str:
        """Return `<patient>-<concept>-<effective>-<source>`: at most 64 characters of FHIR's id alphabet."""
        return f"{self.patient_id}-{self.concept}-{self.effective_at_us}-{self.source_key}"


def parse_observation_id(text: str) -> ObservationId | None:
    """Return the parts of an id that `ObservationId` wrote; None for any other text."""
    parts = text.split("-")
    if len(parts) != 4 or not all(part.isascii() and part.isdigit() and len(part) < 20 for part in parts):
        return None
    return ObservationId(*map(int, parts))


def id_of(measured: Measured) -> ObservationId:
    """Return a measurement's identity."""
    return ObservationId(measured.patient_id, measured.concept, measured.effective_at_us, measured.source_key)


def outcome(severity: str, code: str, diagnostics: str) -> Resource:
    """Return an OperationOutcome of one issue."""
    return {
        "resourceType": "OperationOutcome",
        "issue": [{"severity": severity, "code": code, "diagnostics": diagnostics}],
    }


def patient(person: Person, identifier_system: str) -> Resource:
    """Return a Patient. The only identifier told is ours; a hospital's numbers never leave the stores."""
    resource: Resource = {
        "resourceType": "Patient",
        "id": str(person.patient_id),
        "identifier": [{"system": identifier_system, "value": str(person.patient_id)}],
        "active": True,
    }
    if person.is_synthetic:
        resource["meta"] = {
            "tag": [{"system": "http://terminology.hl7.org/CodeSystem/v3-ActReason", "code": "HTEST",
                     "display": "test health data"}]
        }  # fmt: skip
    name: Resource = {"use": "official"}
    if person.family_name:
        name["family"] = person.family_name
    if person.given_name:
        name["given"] = person.given_name.split()
    if len(name) > 1:
        resource["name"] = [name]
    resource["gender"] = person.sex
    if person.birth_date:
        resource["birthDate"] = person.birth_date
    return resource


def observation(measured: Measured, version: int | None = None) -> Resource:
    """Return an Observation of one kept measurement.

    Args:
        measured: its current revision; one entered in error keeps its identity and time but shows no value.
        version: which revision this is, from 1.
    """
    concept = by_number(measured.concept)
    meta: Resource = {"lastUpdated": words.instant(measured.received_at_us)}
    if version is not None:
        meta = {"versionId": str(version), **meta}
    profile = _VITAL_PROFILES.get(concept.loinc)
    if profile:
        meta["profile"] = [PROFILES + profile]
    resource: Resource = {
        "resourceType": "Observation",
        "id": str(id_of(measured)),
        "meta": meta,
        "status": _STATUS[measured.status],
        "category": category_element(concept),
        "code": code_element(concept),
        "subject": {"reference": f"Patient/{measured.patient_id}"},
        "effectiveDateTime": words.instant(measured.effective_at_us),
        "issued": words.instant(measured.received_at_us),
    }
    is_error = measured.status is ObservationStatus.ENTERED_IN_ERROR
    resource.update(value_element(concept, None if is_error else measured.value, "" if is_error else measured.text))
    if measured.device:
        resource["device"] = {"identifier": {"value": measured.device}, "type": "Device"}
    return resource


def pressure_panel(systolic: Measured | None, diastolic: Measured | None) -> Resource:
    """Return a blood pressure as its profile wants it: one Observation, both components, one of them perhaps absent."""
    leading = systolic or diastolic
    if leading is None:
        raise ValueError("a blood-pressure panel needs a systolic or a diastolic pressure")
    resource = observation(leading)
    resource["meta"]["profile"] = [PROFILES + "bp"]
    resource["category"] = [coding_category("vital-signs", "Vital Signs")]
    resource["code"] = {
        "coding": [
            {"system": LOINC, "code": PRESSURE_PANEL, "display": "Blood pressure panel with all children optional"}
        ],
        "text": "Blood pressure",
    }
    both = [measured.status for measured in (systolic, diastolic) if measured is not None]
    resource["status"] = _STATUS[max(both, key=_worst_first)]
    for key in ("valueQuantity", "dataAbsentReason"):
        resource.pop(key, None)
    device = resource.pop("device", None)
    if device:
        resource["device"] = device
    resource["component"] = [
        _component(SYSTOLIC, systolic),
        _component(DIASTOLIC, diastolic),
    ]
    return resource


def _worst_first(status: ObservationStatus) -> int:
    order = (
        ObservationStatus.FINAL,
        ObservationStatus.PRELIMINARY,
        ObservationStatus.CORRECTED,
        ObservationStatus.ENTERED_IN_ERROR,
    )
    return order.index(status)


def observations(measurements: Iterable[Measured]) -> list[Resource]:
    """Return Observations of measurements, newest first, cuff pressures paired into panels."""
    panels: dict[tuple[int, int, str, str], dict[str, Measured]] = {}
    resources: list[tuple[int, str, Resource]] = []
    for measured in measurements:
        key = by_number(measured.concept).key
        if key in {SYSTOLIC, DIASTOLIC}:
            # A systolic and a diastolic are one measurement when one device took both at one time.
            together = (measured.patient_id, measured.effective_at_us, measured.device, measured.feed)
            pair = panels.setdefault(together, {})
            if key not in pair:
                pair[key] = measured
                continue
            resource = pressure_panel(*((measured, None) if key == SYSTOLIC else (None, measured)))
        else:
            resource = observation(measured)
        resources.append((measured.effective_at_us, resource["id"], resource))
    for (_, at_us, _, _), pair in panels.items():
        resource = pressure_panel(pair.get(SYSTOLIC), pair.get(DIASTOLIC))
        resources.append((at_us, resource["id"], resource))
    resources.sort(key=lambda entry: (-entry[0], entry[1]))
    return [resource for _, _, resource in resources]


def _component(key: str, measured: Measured | None) -> Resource:
    concept = words.concept_of(key)
    if concept is None:
        raise KeyError(key)
    component: Resource = {"code": code_element(concept)}
    is_error = measured is not None and measured.status is ObservationStatus.ENTERED_IN_ERROR
    component.update(value_element(concept, measured.value if measured is not None and not is_error else None, ""))
    return component


def category_element(concept: Concept) -> list[Resource]:
    """Return the `category` of a concept's Observations."""
    if concept.loinc in _VITAL_PROFILES:
        return [coding_category("vital-signs", "Vital Signs")]
    return [coding_category(*_CATEGORIES.get(concept.category, ("exam", "Exam")))]


def category_of(concept: Concept) -> str:
    """Return the code of an observation's category."""
    return str(category_element(concept)[0]["coding"][0]["code"])


def coding_category(code: str, display: str) -> Resource:
    """Return one observation category."""
    return {"coding": [{"system": CATEGORY, "code": code, "display": display}]}


def code_element(concept: Concept) -> Resource:
    """Return the `code` of a concept's Observations: LOINC, with what its profile demands beside."""
    codings = [
        {"system": LOINC, "code": concept.loinc} if concept.loinc else {"system": OWN_CODES, "code": concept.key}
    ]
    profile = _VITAL_PROFILES.get(concept.loinc, "")
    magic = _PROFILE_CODE.get(profile)
    if magic and magic[0] != concept.loinc:
        codings.insert(0, {"system": LOINC, "code": magic[0], "display": magic[1]})
    return {"coding": codings, "text": concept.display}


def value_element(concept: Concept, value: float | None, text: str) -> Resource:
    """Return the `value[x]` of an Observation, or why it has none."""
    if value is not None:
        quantity: Resource = {"value": number_element(value)}
        if concept.unit:
            quantity |= {"unit": words.unit_text(concept.unit) or concept.unit, "system": UCUM, "code": concept.unit}
        return {"valueQuantity": quantity}
    if text:
        return {
            "valueCodeableConcept": {"text": words.consciousness_text(text) if concept.key == "consciousness" else text}
        }
    return {"dataAbsentReason": {"coding": [{"system": ABSENT, "code": "unknown", "display": "Unknown"}]}}


def number_element(value: float) -> int | float:
    """Return a number as FHIR writes a decimal: whole where it is whole."""
    return int(value) if value == int(value) and abs(value) < 2**53 else value
