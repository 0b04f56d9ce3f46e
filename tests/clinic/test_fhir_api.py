"""The FHIR door. Every resource it emits is checked by fhir.resources (R4B), an implementation not ours."""

from __future__ import annotations

from typing import Any

import httpx
import msgspec
import pytest
from fhir.resources.R4B.bundle import Bundle
from fhir.resources.R4B.capabilitystatement import CapabilityStatement
from fhir.resources.R4B.observation import Observation
from fhir.resources.R4B.operationoutcome import OperationOutcome
from fhir.resources.R4B.patient import Patient

from vocabulary.concepts import CONCEPTS, by_key
from vocabulary.records import ObservationStatus
from vocabulary.snapshot import Score, canonical_bytes, digest

MINUTE_US = 60_000_000
CLASSES = {
    "Bundle": Bundle,
    "CapabilityStatement": CapabilityStatement,
    "Observation": Observation,
    "OperationOutcome": OperationOutcome,
    "Patient": Patient,
}


def _valid(answer: httpx.Response, status: int = 200) -> dict[str, Any]:
    """Return a FHIR answer after an independent implementation has accepted it."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/fhir+json"
    resource = answer.json()
    CLASSES[resource["resourceType"]].model_validate_json(answer.content)
    return resource


def _vital_sign_rules(resource: dict[str, Any]) -> None:
    """Check what the R4 vital-signs profile fixes beyond the base resource."""
    codings = resource["category"][0]["coding"]
    if codings[0]["code"] != "vital-signs":
        return
    assert codings[0]["system"] == "http://terminology.hl7.org/CodeSystem/observation-category"
    assert resource["status"] in {"final", "preliminary", "corrected", "entered-in-error"}
    assert resource["subject"]["reference"].startswith("Patient/")
    assert resource["effectiveDateTime"].endswith("Z")
    for part in [resource, *resource.get("component", [])]:
        if "valueQuantity" in part:
            assert part["valueQuantity"]["system"] == "http://unitsofmeasure.org"
            assert part["valueQuantity"]["code"]
        else:  # vs-2: a value, a component or a reason
            assert part.get("dataAbsentReason") or part.get("component") or part.get("valueCodeableConcept")


async def test_the_capability_statement_is_valid_and_names_what_is_served(clinic) -> None:
    statement = _valid(await clinic.client.get("/fhir/metadata"))
    assert statement["fhirVersion"] == "4.0.1"
    assert {resource["type"] for resource in statement["rest"][0]["resource"]} == {
        "Patient",
        "Observation",
        "RiskAssessment",
    }


async def test_a_patient_is_read_without_the_hospitals_number(clinic, readers) -> None:
    readers.identifiers["HOSP", "MRN-1234"] = 7
    resource = _valid(await clinic.client.get("/fhir/Patient/7"))
    assert resource["name"] == [{"use": "official", "family": "Hansen", "given": ["Ingrid", "Marie"]}]
    assert (resource["gender"], resource["birthDate"]) == ("female", "1954-06-02")
    assert resource["identifier"] == [{"system": "urn:vigil:test:patient", "value": "7"}]
    assert _valid(await clinic.client.get("/fhir/Patient/8"))["birthDate"] == "1990"


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("identifier=HOSP|MRN-1234", ["7"]),
        ("identifier=MRN-1234", ["7"]),
        ("identifier=ELSE|MRN-1234", []),
        ("identifier=urn:vigil:test:patient|8", ["8"]),
        ("_id=8", ["8"]),
        ("_id=8&identifier=MRN-1234", []),
    ],
)
async def test_a_patient_is_found_by_identifier(clinic, readers, query: str, found: list[str]) -> None:
    readers.identifiers["HOSP", "MRN-1234"] = 7
    bundle = _valid(await clinic.client.get(f"/fhir/Patient?{query}"))
    assert [entry["resource"]["id"] for entry in bundle.get("entry", [])] == found
    assert bundle["total"] == len(found)
    assert "MRN-1234" not in str(bundle)


async def test_an_identifier_can_stay_out_of_the_address(clinic, readers) -> None:
    readers.identifiers["HOSP", "MRN-1234"] = 7
    bundle = _valid(await clinic.client.post("/fhir/Patient/_search", data={"identifier": "HOSP|MRN-1234"}))
    assert bundle["total"] == 1


async def test_every_concept_makes_a_valid_observation(clinic, wards, readers) -> None:
    for number, concept in enumerate(CONCEPTS):
        at_us = wards.now_us - number * MINUTE_US
        value, text = (36.5, "") if concept.kind == "quantity" else (None, "A")
        readers.measurements.append(wards.measured(concept.key, value, at_us, text=text))
    bundle = _valid(await clinic.client.get("/fhir/Observation?patient=Patient/7&_count=1000"))
    assert len(bundle["entry"]) == len(CONCEPTS)
    for entry in bundle["entry"]:
        Observation.model_validate(entry["resource"])
        _vital_sign_rules(entry["resource"])
        again = _valid(await clinic.client.get(f"/fhir/Observation/{entry['resource']['id']}"))
        assert again["code"] == entry["resource"]["code"]
        assert again.get("valueQuantity") == entry["resource"].get("valueQuantity")


async def test_a_heart_rate_follows_its_profile(clinic, wards, readers) -> None:
    readers.measurements.append(wards.measured("heart_rate", 84.5, wards.now_us - 1))
    [entry] = _valid(await clinic.client.get("/fhir/Observation?patient=7&code=8867-4"))["entry"]
    resource = entry["resource"]
    assert resource["meta"]["profile"] == ["http://hl7.org/fhir/StructureDefinition/heartrate"]
    assert resource["code"]["coding"] == [{"system": "http://loinc.org", "code": "8867-4"}]
    assert resource["valueQuantity"] == {
        "value": 84.5, "unit": "/min", "system": "http://unitsofmeasure.org", "code": "/min"
    }  # fmt: skip
    assert resource["effectiveDateTime"] == "2026-01-01T12:59:59.999999Z"


async def test_a_pulse_oximeter_carries_the_profiles_own_code_too(clinic, wards, readers) -> None:
    readers.measurements.append(wards.measured("oxygen_saturation", 93.0, wards.now_us))
    [entry] = _valid(await clinic.client.get("/fhir/Observation?patient=7&code=59408-5"))["entry"]
    assert [coding["code"] for coding in entry["resource"]["code"]["coding"]] == ["2708-6", "59408-5"]


async def test_a_cuff_pressure_is_one_panel(clinic, wards, readers) -> None:
    readers.measurements.append(wards.measured("systolic_blood_pressure", 120.0, wards.now_us))
    readers.measurements.append(wards.measured("diastolic_blood_pressure", 80.0, wards.now_us))
    for code in ("85354-9", "8480-6", "http://loinc.org|8462-4"):
        bundle = _valid(await clinic.client.get("/fhir/Observation", params={"patient": "7", "code": code}))
        [entry] = bundle["entry"]
        resource = entry["resource"]
        _vital_sign_rules(resource)
        assert resource["code"]["coding"][0]["code"] == "85354-9"
        assert "valueQuantity" not in resource
        parts = {part["code"]["coding"][0]["code"]: part["valueQuantity"]["value"] for part in resource["component"]}
        assert parts == {"8480-6": 120, "8462-4": 80}
    read = _valid(await clinic.client.get(f"/fhir/Observation/{resource['id']}"))
    assert read["component"] == resource["component"]


async def test_half_a_pressure_says_what_is_absent(clinic, wards, readers) -> None:
    readers.measurements.append(wards.measured("diastolic_blood_pressure", 80.0, wards.now_us))
    readers.measurements.append(wards.measured("systolic_blood_pressure", 120.0, wards.now_us, device="another"))
    bundle = _valid(await clinic.client.get("/fhir/Observation?patient=7&code=85354-9"))
    assert bundle["total"] == 2
    absent = ["dataAbsentReason" in part for entry in bundle["entry"] for part in entry["resource"]["component"]]
    assert sorted(absent) == [False, False, True, True]


async def test_a_correction_keeps_the_id_and_says_so(clinic, wards, readers) -> None:
    readers.measurements.append(wards.measured("potassium", 7.1, wards.now_us, position=1 << 40))
    [entry] = _valid(await clinic.client.get("/fhir/Observation?patient=7&code=2823-3"))["entry"]
    first = entry["resource"]
    readers.measurements.append(
        wards.measured("potassium", 4.1, wards.now_us, position=(1 << 40) + 5, status=ObservationStatus.CORRECTED)
    )
    second = _valid(await clinic.client.get(f"/fhir/Observation/{first['id']}"))
    assert (second["status"], second["valueQuantity"]["value"], second["meta"]["versionId"]) == ("corrected", 4.1, "2")
    readers.measurements.append(
        wards.measured(
            "potassium", 4.1, wards.now_us, position=(1 << 40) + 9, status=ObservationStatus.ENTERED_IN_ERROR
        )
    )
    third = _valid(await clinic.client.get(f"/fhir/Observation/{first['id']}"))
    assert third["status"] == "entered-in-error"
    assert "valueQuantity" not in third
    assert _valid(await clinic.client.get("/fhir/Observation?patient=7&code=2823-3"))["total"] == 0


async def test_pages_together_are_the_whole_newest_first_without_repeats(clinic, wards, readers) -> None:
    for number in range(57):
        at_us = wards.now_us - (number // 3) * 7 * MINUTE_US
        readers.measurements.append(wards.measured("heart_rate", float(number), at_us, source_key=number))
    address = "/fhir/Observation?patient=7&code=8867-4&_count=10"
    values: list[float] = []
    times: list[str] = []
    pages = 0
    while address:
        bundle = _valid(await clinic.client.get(address))
        assert len(bundle["entry"]) <= 10
        values += [entry["resource"]["valueQuantity"]["value"] for entry in bundle["entry"]]
        times += [entry["resource"]["effectiveDateTime"] for entry in bundle["entry"]]
        pages += 1
        address = next((link["url"] for link in bundle["link"] if link["relation"] == "next"), "")
    assert sorted(values) == [float(number) for number in range(57)]
    assert times == sorted(times, reverse=True)
    assert pages == 6


async def test_a_date_narrows_a_search(clinic, wards, readers) -> None:
    for hour in range(10):  # 13:00, 12:00, … 04:00
        readers.measurements.append(wards.measured("heart_rate", float(hour), wards.now_us - hour * 60 * MINUTE_US))
    cases = {
        "2026-01-01": 10,
        "2025-12-31": 0,
        "2026": 10,
        "2026-01": 10,
        "ge2026-01-01T12:00:00Z": 2,
        "gt2026-01-01T12:00:00Z": 1,
        "lt2026-01-01T05:00:00Z": 1,
        "le2026-01-01T05:00:00Z": 2,
        "2026-01-01T12:00Z": 1,
        "ge2026-01-01T13:00:00+01:00": 2,
        "sa2026-01-01T12:59:59Z": 1,
        "eb2026-01-01": 0,
    }
    for date, count in cases.items():
        bundle = _valid(await clinic.client.get("/fhir/Observation", params={"patient": "7", "date": date}))
        assert bundle["total"] == count, date
    both = await clinic.client.get(
        "/fhir/Observation?patient=7&date=ge2026-01-01T06:00:00Z&date=lt2026-01-01T09:00:00Z"
    )
    assert _valid(both)["total"] == 3
    unescaped = await clinic.client.get("/fhir/Observation?patient=7&date=ge2026-01-01T13:00:00+01:00")
    assert _valid(unescaped)["total"] == 2


async def test_category_and_code_narrow_together(clinic, wards, readers) -> None:
    readers.measurements += [
        wards.measured("heart_rate", 80.0, wards.now_us),
        wards.measured("potassium", 4.0, wards.now_us),
    ]
    assert _valid(await clinic.client.get("/fhir/Observation?patient=7&category=laboratory"))["total"] == 1
    assert _valid(await clinic.client.get("/fhir/Observation?patient=7&category=laboratory,vital-signs"))["total"] == 2
    assert _valid(await clinic.client.get("/fhir/Observation?patient=7&category=laboratory&code=8867-4"))["total"] == 0
    assert _valid(await clinic.client.get("/fhir/Observation?patient=7&code=8867-4,2823-3"))["total"] == 2
    assert (
        _valid(await clinic.client.get("/fhir/Observation?patient=7&code=http://snomed.info/sct|8867-4"))["total"] == 0
    )
    assert _valid(await clinic.client.get("/fhir/Observation?patient=7&code=unknown"))["total"] == 0


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/fhir/Patient/99", 404),
        ("/fhir/Patient/x", 404),
        ("/fhir/Observation/1-2-3-4", 404),
        ("/fhir/Observation/nonsense", 404),
        ("/fhir/Observation/07-1-7.news2", 404),
        ("/fhir/Patient/99/$twin-snapshot", 404),
        ("/fhir/Medication/1", 404),
        ("/fhir/Observation", 400),
        ("/fhir/Observation?patient=abc", 400),
        ("/fhir/Observation?patient=7&date=yesterday", 400),
        ("/fhir/Observation?patient=7&date=ap2026", 400),
        ("/fhir/Observation?patient=7&date=2026-02-31", 400),
        ("/fhir/Observation?patient=7&_count=many", 400),
        ("/fhir/Observation?patient=7&_cursor=x", 400),
        ("/fhir/Patient", 403),
        ("/fhir/Patient/7?_format=xml", 406),
    ],
)
async def test_what_cannot_be_answered_is_an_operation_outcome(clinic, path: str, status: int) -> None:
    outcome = _valid(await clinic.client.get(path), status)
    assert outcome["resourceType"] == "OperationOutcome"


async def test_unknown_parameters_are_refused_only_when_asked_to_be_strict(clinic) -> None:
    path = "/fhir/Observation?patient=7&colour=blue"
    assert _valid(await clinic.client.get(path))["total"] == 0
    outcome = _valid(await clinic.client.get(path, headers={"Prefer": "handling=strict"}), 400)
    assert "blue" not in str(outcome)


async def test_a_lost_database_is_an_operation_outcome_too(clinic, readers) -> None:
    readers.is_available = False
    outcome = _valid(await clinic.client.get("/fhir/Patient/7"), 503)
    assert outcome["issue"][0]["code"] == "transient"
    assert _valid(await clinic.client.delete("/fhir/Patient/7"), 405)["resourceType"] == "OperationOutcome"


async def test_the_twin_snapshot_is_a_bundle_that_explains_itself(clinic, wards) -> None:
    score = wards.score({"respiratory_rate": 2, "systolic_blood_pressure": 1, "heart_rate": 0}, band="low")
    snapshot = wards.snapshot(7, score=score, extra=[wards.signal("lactate", 2.4, age_s=90_000, stale=True)])
    clinic.live.publish(snapshot)
    await clinic.settle()
    bundle = _valid(await clinic.client.get("/fhir/Patient/7/$twin-snapshot"))
    assert bundle["type"] == "collection"
    by_address = {entry["fullUrl"]: entry["resource"] for entry in bundle["entry"]}
    for resource in by_address.values():
        assert len(resource["id"]) <= 64
    kinds = [resource["resourceType"] for resource in by_address.values()]
    assert kinds == ["Observation"] * (len(snapshot.signals) + 1) + ["Provenance"]
    [news2] = [one for one in by_address.values() if one["id"].endswith(".news2")]
    assert news2["code"]["coding"][0] == {
        "system": "http://snomed.info/sct", "code": "1104051000000101",
        "display": "Royal College of Physicians NEWS2 (National Early Warning Score 2) total score",
    }  # fmt: skip
    assert news2["valueQuantity"]["value"] == 3
    derived = {by_address[one["reference"]]["code"]["text"] for one in news2["derivedFrom"]}
    assert derived == {"Respiratory rate", "Systolic blood pressure", "Heart rate"}
    [provenance] = [one for one in by_address.values() if one["resourceType"] == "Provenance"]
    assert {one["reference"] for one in provenance["target"]} == set(by_address) - {
        address for address, one in by_address.items() if one is provenance
    }
    said = str(provenance)
    for fact in (
        "0.1.0",
        "0123456789abcdef",
        "vigil-concepts@1",
        digest(canonical_bytes(snapshot)).hex(),
        "news2 1 sha256",
    ):
        assert fact in said
    [stale] = [one for one in by_address.values() if one.get("code", {}).get("text") == "Lactate"]
    assert "Stale" in stale["note"][0]["text"]


async def test_each_part_of_a_shown_snapshot_stays_readable(clinic, wards) -> None:
    snapshot = wards.snapshot(7)
    clinic.live.publish(snapshot)
    await clinic.settle()
    bundle = _valid(await clinic.client.get("/fhir/Patient/7/$twin-snapshot"))
    clinic.live.publish(wards.snapshot(7, position=snapshot.position + 5, vitals={"heart_rate": 150.0}))
    await clinic.settle()
    for entry in bundle["entry"]:
        if entry["resource"]["resourceType"] == "Observation":
            assert _valid(await clinic.client.get(entry["fullUrl"])) == entry["resource"]


async def test_a_partial_total_is_a_lower_bound_for_machines_too(clinic, wards) -> None:
    clinic.live.publish(wards.snapshot(7, score=wards.score({"heart_rate": 2}, missing=["consciousness"])))
    nothing = Score("NEWS2", "news2@1", None, {}, ["heart_rate"], 0.0, statement="Nothing was measured.")
    clinic.live.publish(wards.snapshot(8, score=nothing))
    await clinic.settle()
    [partial] = _valid(await clinic.client.get("/fhir/Observation?patient=7&code=1104051000000101"))["entry"]
    assert partial["resource"]["valueQuantity"]["comparator"] == ">="
    [absent] = _valid(await clinic.client.get("/fhir/Observation?patient=8&code=1104051000000101"))["entry"]
    assert "valueQuantity" not in absent["resource"]
    assert absent["resource"]["dataAbsentReason"]["coding"][0]["code"] == "not-performed"


async def test_ids_are_the_measurements_own(clinic, wards, readers) -> None:
    source_key = 2**63 - 1
    readers.measurements.append(wards.measured("lactate", 1.0, wards.now_us, source_key=source_key))
    [entry] = _valid(await clinic.client.get("/fhir/Observation?patient=7"))["entry"]
    assert entry["resource"]["id"] == f"7-{by_key('lactate').number}-{wards.now_us}-{source_key}"
    assert len(entry["resource"]["id"]) <= 64
    assert msgspec.json.decode(msgspec.json.encode(entry)) == entry
