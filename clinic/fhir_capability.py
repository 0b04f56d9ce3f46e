"""The CapabilityStatement: what the FHIR door can do, in FHIR's own words.

Here: one pure function.
Not here: the routes that keep its promises (clinic.fhir_api).
Source: HL7 FHIR R4 (4.0.1), CapabilityStatement.
"""

from __future__ import annotations

from typing import Any

_DATE = "2026-01-01"


def _parameter(name: str, kind: str, documentation: str) -> dict[str, str]:
    return {"name": name, "type": kind, "documentation": documentation}


def capability_statement(base: str) -> dict[str, Any]:
    """Return the CapabilityStatement of the door at `base`."""
    return {
        "resourceType": "CapabilityStatement",
        "status": "active",
        "date": _DATE,
        "kind": "instance",
        "software": {"name": "Vigil"},
        "implementation": {
            "description": "Vigil: clinical digital twins. Informs; is not a primary alarm.",
            "url": base,
        },
        "fhirVersion": "4.0.1",
        "format": ["json"],
        "rest": [
            {
                "mode": "server",
                "documentation": "Read-only. Times are UTC. Merged records are answered under their survivor's id.",
                "resource": [
                    {
                        "type": "Patient",
                        "interaction": [{"code": "read"}, {"code": "search-type"}],
                        "versioning": "no-version",
                        "searchParam": [
                            _parameter("_id", "token", "Our own patient number."),
                            _parameter(
                                "identifier",
                                "token",
                                "A hospital's identifier, as authority|value or value. Prefer POST to Patient/_search, "
                                "which keeps it out of addresses. It is not told back.",
                            ),
                        ],
                        "operation": [
                            {
                                "name": "twin-snapshot",
                                "definition": f"{base}/OperationDefinition/twin-snapshot",
                                "documentation": "GET /Patient/<id>/$twin-snapshot: the latest twin snapshot as a "
                                "collection Bundle of Observations, NEWS2 derived from them, and Provenance.",
                            }
                        ],
                    },
                    {
                        "type": "Observation",
                        "supportedProfile": [
                            f"http://hl7.org/fhir/StructureDefinition/{name}"
                            for name in (
                                "heartrate",
                                "resprate",
                                "oxygensat",
                                "bodytemp",
                                "bp",
                                "bodyweight",
                                "bodyheight",
                            )
                        ],
                        "interaction": [{"code": "read"}, {"code": "search-type"}],
                        "versioning": "versioned",
                        "searchParam": [
                            _parameter("patient", "reference", "Required: Patient/<number>."),
                            _parameter(
                                "code",
                                "token",
                                "LOINC, or SNOMED CT 1104051000000101 for the present NEWS2. A component of a blood "
                                "pressure finds its panel, as combo-code.",
                            ),
                            _parameter("category", "token", "vital-signs, laboratory, exam, procedure, …"),
                            _parameter("date", "date", "Repeatable; prefixes eq ge gt le lt sa eb."),
                        ],
                    },
                    {
                        "type": "RiskAssessment",
                        "documentation": "What the approved models say of a patient now, with interval and reasons. "
                        "A model that may not speak answers with status `cancelled`, no prediction, and why. "
                        "probabilityDecimal is a percentage.",
                        "interaction": [{"code": "read"}, {"code": "search-type"}],
                        "versioning": "no-version",
                        "searchParam": [
                            _parameter("patient", "reference", "Required: Patient/<number>."),
                            _parameter("date", "date", "Repeatable; prefixes eq ge gt le lt sa eb."),
                        ],
                    },
                ],
            }
        ],
    }
