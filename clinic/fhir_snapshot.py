"""The twin snapshot as FHIR R4: a collection Bundle of its signals, NEWS2 derived from them, and Provenance.

Here: those resources, and one part of a snapshot by its id.
Not here: kept measurements (clinic.fhir_resources), routes (clinic.fhir_api).
Source: HL7 FHIR R4 (4.0.1): Observation, Provenance, Bundle; SNOMED CT UK edition 1104051000000101
|Royal College of Physicians NEWS2 (National Early Warning Score 2) total score|.
"""

from __future__ import annotations

from collections.abc import Sequence

from clinic import words
from clinic.bed_view import news2_of
from clinic.fhir_resources import (
    ABSENT,
    NEWS2_TOTAL,
    SNOMED,
    UCUM,
    Resource,
    category_element,
    code_element,
    coding_category,
    number_element,
    value_element,
)
from clinic.fhir_risk import risk_assessments
from vocabulary.snapshot import Score, SignalState, TwinSnapshot


def signal_observation(snapshot: TwinSnapshot, signal: SignalState) -> Resource | None:
    """Return a snapshot's signal as an Observation; None for a concept this version does not know."""
    concept = words.concept_of(signal.concept)
    if concept is None:
        return None
    resource: Resource = {
        "resourceType": "Observation",
        "id": f"{snapshot.snapshot_id}.{concept.number}",
        "status": signal.status,
        "category": category_element(concept),
        "code": code_element(concept),
        "subject": {"reference": f"Patient/{snapshot.patient_id}"},
        "effectiveDateTime": words.instant(signal.effective_at_us),
        "issued": words.instant(signal.received_at_us),
        **value_element(concept, signal.value, signal.text),
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
        "category": [coding_category("survey", "Survey")],
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
        quantity: Resource = {"value": number_element(score.total)}
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
            "valueQuantity": {"value": number_element(points), "unit": "score", "system": UCUM, "code": "{score}"},
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
    """Return a twin snapshot as a collection: its signals, NEWS2 derived from them, what models say, and what made it.

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
    resources += risk_assessments(snapshot, base)
    names = [f"{resource['resourceType']}/{resource['id']}" for resource in resources]
    provenance = _provenance(snapshot, digest, names, base, snapshot_system)
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


def _provenance(snapshot: TwinSnapshot, digest: str, names: Sequence[str], base: str, snapshot_system: str) -> Resource:
    made_by = snapshot.provenance
    versions = [
        f"code {made_by.code_version}",
        f"lock {made_by.lock_digest}",
        f"terminology {made_by.terminology_version}",
    ]
    versions += [f"{name} {version}" for name, version in sorted(made_by.protocols.items())]
    if made_by.model:
        versions.append(f"model {made_by.model}")
    targets = [{"reference": f"{base}/{one}"} for one in names]
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
