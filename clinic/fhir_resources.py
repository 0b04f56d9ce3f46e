"""Kept values and snapshots as FHIR R4 resources: plain dictionaries in the order FHIR lists their elements.

Here: Patient, Observation (vital signs, blood-pressure panels, laboratory), the twin snapshot as a Bundle with
Provenance, OperationOutcome, identities of resources.
Not here: searching (clinic.fhir_search), routes (clinic.fhir_api).
Source: HL7 FHIR R4 (4.0.1): Observation, Patient, Provenance, Bundle; vital-signs and blood-pressure profiles;
SNOMED CT UK edition 1104051000000101 |Royal College of Physicians NEWS2 total score|.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from clinic import words
from clinic.bed_view import news2_of
from clinic.questions import Measured, Person
from vocabulary.concepts import Concept, by_number
from vocabulary.records import ObservationStatus
from vocabulary.snapshot import Score, SignalState, TwinSnapshot

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
        "category": _category(concept),
        "code": _code(concept),
        "subject": {"reference": f"Patient/{measured.patient_id}"},
        "effectiveDateTime": words.instant(measured.effective_at_us),
        "issued": words.instant(measured.received_at_us),
    }
    is_error = measured.status is ObservationStatus.ENTERED_IN_ERROR
    resource.update(_value(concept, None if is_error else measured.value, "" if is_error else measured.text))
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
    resource["category"] = [_coding_category("vital-signs", "Vital Signs")]
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
    component: Resource = {"code": _code(concept)}
    is_error = measured is not None and measured.status is ObservationStatus.ENTERED_IN_ERROR
    component.update(_value(concept, measured.value if measured is not None and not is_error else None, ""))
    return component


def _category(concept: Concept) -> list[Resource]:
    if concept.loinc in _VITAL_PROFILES:
        return [_coding_category("vital-signs", "Vital Signs")]
    return [_coding_category(*_CATEGORIES.get(concept.category, ("exam", "Exam")))]


def category_of(concept: Concept) -> str:
    """Return the code of an observation's category."""
    return str(_category(concept)[0]["coding"][0]["code"])


def _coding_category(code: str, display: str) -> Resource:
    return {"coding": [{"system": CATEGORY, "code": code, "display": display}]}


def _code(concept: Concept) -> Resource:
    codings = [
        {"system": LOINC, "code": concept.loinc} if concept.loinc else {"system": OWN_CODES, "code": concept.key}
    ]
    profile = _VITAL_PROFILES.get(concept.loinc, "")
    magic = _PROFILE_CODE.get(profile)
    if magic and magic[0] != concept.loinc:
        codings.insert(0, {"system": LOINC, "code": magic[0], "display": magic[1]})
    return {"coding": codings, "text": concept.display}


def _value(concept: Concept, value: float | None, text: str) -> Resource:
    if value is not None:
        quantity: Resource = {"value": _number(value)}
        if concept.unit:
            quantity |= {"unit": words.unit_text(concept.unit) or concept.unit, "system": UCUM, "code": concept.unit}
        return {"valueQuantity": quantity}
    if text:
        return {
            "valueCodeableConcept": {"text": words.consciousness_text(text) if concept.key == "consciousness" else text}
        }
    return {"dataAbsentReason": {"coding": [{"system": ABSENT, "code": "unknown", "display": "Unknown"}]}}


def _number(value: float) -> int | float:
    return int(value) if value == int(value) and abs(value) < 2**53 else value


def signal_observation(snapshot: TwinSnapshot, signal: SignalState) -> Resource | None:
    """Return a snapshot's signal as an Observation; None for a concept this version does not know."""
    concept = words.concept_of(signal.concept)
    if concept is None:
        return None
    resource: Resource = {
        "resourceType": "Observation",
        "id": f"{snapshot.snapshot_id}.{concept.number}",
        "status": signal.status,
        "category": _category(concept),
        "code": _code(concept),
        "subject": {"reference": f"Patient/{snapshot.patient_id}"},
        "effectiveDateTime": words.instant(signal.effective_at_us),
        "issued": words.instant(signal.received_at_us),
        **_value(concept, signal.value, signal.text),
    }
    if signal.is_stale:
        resource["note"] = [
            {"text": f"Stale at {words.instant(snapshot.as_of_us)}: older than this value stays current."}
        ]
    if signal.device:
        resource["device"] = {"identifier": {"value": signal.device}, "type": "Device"}
    return resource


def news2_observation(snapshot: TwinSnapshot, score: Score, base: str) -> Resource:
    """Return NEWS2 as an Observation derived from the signals it was made of.

    A total of only what was measured is a lower bound, and is told with the comparator `>=`.
    """
    resource: Resource = {
        "resourceType": "Observation",
        "id": f"{snapshot.snapshot_id}.news2",
        "status": "final",
        "category": [_coding_category("survey", "Survey")],
        "code": {
            "coding": [{"system": SNOMED, "code": NEWS2_TOTAL,
                        "display": "Royal College of Physicians NEWS2 (National Early Warning Score 2) total score"}],
            "text": "NEWS2",
        },
        "subject": {"reference": f"Patient/{snapshot.patient_id}"},
        "effectiveDateTime": words.instant(snapshot.as_of_us),
    }  # fmt: skip
    if score.total is None:
        resource["dataAbsentReason"] = {
            "coding": [{"system": ABSENT, "code": "not-performed", "display": "Not Performed"}],
            "text": score.statement or "No component was measured.",
        }
    else:
        quantity: Resource = {"value": _number(score.total)}
        if score.missing:
            quantity["comparator"] = ">="
        resource["valueQuantity"] = quantity | {"unit": "score", "system": UCUM, "code": "{score}"}
    if score.band:
        resource["interpretation"] = [{"text": words.band_text(score.band)}]
    if score.statement:
        resource["note"] = [{"text": score.statement}]
    resource["method"] = {"text": score.protocol}
    derived = [
        {"reference": f"{base}/Observation/{snapshot.snapshot_id}.{concept.number}"}
        for signal in snapshot.signals
        if (concept := words.concept_of(signal.concept)) is not None and _is_part(signal.concept, score)
    ]
    if derived:
        resource["derivedFrom"] = derived
    components: list[Resource] = [
        {
            "code": {"text": f"NEWS2 points: {words.component_title(name)}"},
            "valueQuantity": {"value": _number(points), "unit": "score", "system": UCUM, "code": "{score}"},
        }
        for name, points in sorted(score.parts.items())
    ]
    components += [
        {
            "code": {"text": f"NEWS2 points: {words.component_title(name)}"},
            "dataAbsentReason": {"coding": [{"system": ABSENT, "code": "not-performed", "display": "Not Performed"}]},
        }
        for name in score.missing
    ]
    if components:
        resource["component"] = components
    return resource


# Signals a component may have been taken from when its own name was not measured.
_SPEAKS_FOR = {
    "arterial_oxygen_saturation": "oxygen_saturation",
    "arterial_systolic_blood_pressure": "systolic_blood_pressure",
    "pulse_rate": "heart_rate",
    "glasgow_coma_score": "consciousness",
    "inspired_oxygen_fraction": "supplemental_oxygen",
    "oxygen_flow_rate": "supplemental_oxygen",
    "mechanical_ventilation": "supplemental_oxygen",
}


def _is_part(key: str, score: Score) -> bool:
    return key in score.parts or _SPEAKS_FOR.get(key) in score.parts


def snapshot_observation(snapshot: TwinSnapshot, suffix: str, base: str) -> Resource | None:
    """Return the Observation of a snapshot that an id `<snapshot>.<suffix>` names."""
    if suffix == "news2":
        score = news2_of(snapshot)
        return news2_observation(snapshot, score, base) if score else None
    for signal in snapshot.signals:
        concept = words.concept_of(signal.concept)
        if concept is not None and str(concept.number) == suffix:
            return signal_observation(snapshot, signal)
    return None


def snapshot_bundle(snapshot: TwinSnapshot, digest: str, base: str, snapshot_system: str) -> Resource:
    """Return a twin snapshot as a collection: its signals, NEWS2 derived from them, and what made it.

    Args:
        snapshot: what was published.
        digest: SHA-256 of its canonical bytes, hexadecimal.
        base: the address of this FHIR door.
        snapshot_system: system of the snapshot's identifier.
    """
    resources = [
        resource for signal in snapshot.signals if (resource := signal_observation(snapshot, signal)) is not None
    ]
    score = news2_of(snapshot)
    if score is not None:
        resources.append(news2_observation(snapshot, score, base))
    provenance = _provenance(snapshot, digest, [resource["id"] for resource in resources], base, snapshot_system)
    entries = [
        {"fullUrl": f"{base}/{resource['resourceType']}/{resource['id']}", "resource": resource}
        for resource in [*resources, provenance]
    ]
    return {
        "resourceType": "Bundle",
        "id": snapshot.snapshot_id,
        "identifier": {"system": snapshot_system, "value": snapshot.snapshot_id},
        "type": "collection",
        "timestamp": words.instant(snapshot.as_of_us),
        "entry": entries,
    }


def _provenance(
    snapshot: TwinSnapshot, digest: str, observation_ids: Sequence[str], base: str, snapshot_system: str
) -> Resource:
    made_by = snapshot.provenance
    versions = [
        f"code {made_by.code_version}",
        f"lock {made_by.lock_digest}",
        f"terminology {made_by.terminology_version}",
    ]
    versions += [f"{name} {version}" for name, version in sorted(made_by.protocols.items())]
    if made_by.model:
        versions.append(f"model {made_by.model}")
    targets = [{"reference": f"{base}/Observation/{one}"} for one in observation_ids]
    return {
        "resourceType": "Provenance",
        "id": f"{snapshot.snapshot_id}.provenance",
        "contained": [
            {
                "resourceType": "Device",
                "id": "engine",
                "deviceName": [{"name": "Vigil twin engine", "type": "model-name"}],
                "version": [{"value": version} for version in versions],
            }
        ],
        "target": targets or [{"reference": f"{base}/Patient/{snapshot.patient_id}"}],
        "occurredDateTime": words.instant(snapshot.as_of_us),
        "recorded": words.instant(snapshot.as_of_us),
        "activity": {"text": "Twin snapshot computed from the log"},
        "agent": [
            {
                "type": {
                    "coding": [{"system": "http://terminology.hl7.org/CodeSystem/provenance-participant-type",
                                "code": "assembler", "display": "Assembler"}]
                },
                "who": {"reference": "#engine"},
            }
        ],
        "entity": [
            {
                "role": "source",
                "what": {
                    "identifier": {"system": snapshot_system, "value": snapshot.snapshot_id},
                    "display": f"log position {snapshot.position}, sha256 {digest}",
                },
            }
        ],
    }  # fmt: skip
