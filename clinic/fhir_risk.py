"""What a model says of a patient as FHIR R4 RiskAssessment: plain dictionaries in the order FHIR lists their elements.

Here: the resource of one estimate of one snapshot, abstentions included.
Not here: its door (clinic.fhir_risk_api), the snapshot's other resources (clinic.fhir_snapshot), words for pages
(clinic.risk_view).
Source: HL7 FHIR R4 (4.0.1), RiskAssessment: `probabilityDecimal` is a percentage (invariant ras-2: at most 100);
ObservationStatus: `cancelled` is what could not be done. So an abstention is a RiskAssessment with status `cancelled`
and no prediction: a prediction without a number could be taken for one, and silence for a low risk.
"""

from __future__ import annotations

from clinic import words
from clinic.fhir_resources import Resource
from clinic.risk_view import SYNTHETIC_WORDS, interval_text, percent
from vocabulary.snapshot import RiskForecast, TwinSnapshot

_DECIMALS = 1
"""Decimals of a percentage: more than the interval could bear."""


def risk_id(snapshot: TwinSnapshot, forecast: RiskForecast) -> str:
    """Return the id `<snapshot>.<model>`, in FHIR's alphabet."""
    return f"{snapshot.snapshot_id}.{_suffix(forecast)}"


def _suffix(forecast: RiskForecast) -> str:
    return forecast.model.replace("_", "-")


def risk_assessment(snapshot: TwinSnapshot, forecast: RiskForecast, base: str) -> Resource:
    """Return one estimate of a snapshot as a RiskAssessment; an abstention is `cancelled` and says why.

    Args:
        snapshot: whose.
        forecast: one of its risks.
        base: the address of this FHIR door.
    """
    spoke = forecast.probability is not None
    made_by = snapshot.provenance
    versions = [f"{forecast.model}@{forecast.version}", f"code {made_by.code_version}", f"lock {made_by.lock_digest}"]
    if made_by.model:
        versions.append(made_by.model)
    resource: Resource = {
        "resourceType": "RiskAssessment",
        "id": risk_id(snapshot, forecast),
        "contained": [
            {
                "resourceType": "Device",
                "id": "model",
                "deviceName": [{"name": f"Vigil {forecast.model} model", "type": "model-name"}],
                "version": [{"value": version} for version in versions],
            }
        ],
        "status": "final" if spoke else "cancelled",
        "method": {"text": f"{forecast.model}@{forecast.version}"},
        "code": {"text": forecast.title},
        "subject": {"reference": f"Patient/{snapshot.patient_id}"},
        "occurrenceDateTime": words.instant(snapshot.as_of_us),
        "performer": {"reference": "#model"},
    }
    if forecast.is_synthetic:
        resource["meta"] = {
            "tag": [{"system": "http://terminology.hl7.org/CodeSystem/v3-ActReason", "code": "HTEST",
                     "display": "test health data"}]
        }  # fmt: skip
    basis = [
        {"reference": f"{base}/Observation/{snapshot.snapshot_id}.{concept.number}"}
        for signal in snapshot.signals
        if (concept := words.concept_of(signal.concept)) is not None
    ]
    if basis:
        resource["basis"] = basis
    if spoke:
        resource["prediction"] = [_prediction(snapshot, forecast)]
    notes = [forecast.statement] if forecast.statement else []
    if not spoke:
        notes.insert(0, f"No estimate: {forecast.abstention.replace('_', ' ')}.")
    if forecast.is_synthetic:
        notes.append(SYNTHETIC_WORDS)
    notes += [f"Approved under this condition: {condition}" for condition in forecast.conditions]
    if notes:
        resource["note"] = [{"text": note} for note in notes]
    return resource


def _prediction(snapshot: TwinSnapshot, forecast: RiskForecast) -> Resource:
    assert forecast.probability is not None
    prediction: Resource = {
        "outcome": {"text": forecast.outcome},
        "probabilityDecimal": round(forecast.probability * 100, _DECIMALS),
    }
    if forecast.is_high and forecast.threshold is not None:
        prediction["qualitativeRisk"] = {
            "text": f"At or above {percent(forecast.threshold)} %, the attention threshold"
        }
    # Until the stay ends, whenever that is: the period has a beginning only.
    prediction["whenPeriod"] = {"start": words.instant(snapshot.as_of_us)}
    rationale = []
    if forecast.low is not None and forecast.high is not None:
        rationale.append(f"{forecast.level * 100:g} % interval {interval_text(forecast.low, forecast.high)}")
    rationale += [f"{reason.words}: {reason.log_odds:+.2f} log-odds" for reason in forecast.reasons]
    if rationale:
        prediction["rationale"] = "; ".join(rationale)
    return prediction


def risk_assessments(snapshot: TwinSnapshot, base: str) -> list[Resource]:
    """Return every estimate of a snapshot."""
    return [risk_assessment(snapshot, forecast, base) for forecast in snapshot.risks]


def snapshot_risk(snapshot: TwinSnapshot, suffix: str, base: str) -> Resource | None:
    """Return the RiskAssessment of a snapshot that an id `<snapshot>.<suffix>` names."""
    return next(
        (risk_assessment(snapshot, forecast, base) for forecast in snapshot.risks if _suffix(forecast) == suffix), None
    )
