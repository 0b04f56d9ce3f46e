"""An audit event as FHIR's AuditEvent, after IHE's Basic Audit Log Patterns (BALP).

Here: which pattern an event follows, and its codes.
Not here: writing events (governance.audit), answering FHIR requests (clinic).
Source: FHIR R4 AuditEvent; IHE ITI BALP 1.1.4 (profiles IHE.BasicAudit.Read, PatientRead, Query, PatientQuery,
PrivacyDisclosure.Source, and AuthZconsent's agents); DICOM PS3.16 CID 400 (event types) and CID 402 (roles).

A profile is claimed in meta.profile only where the event keeps all of it. A denial has the shape of AuthZconsent and
does not claim it: the profile names a Consent, and our denials are by role and relationship (subtype AuthZ-Role). The
caller's network address is not kept, so it is given as absent, unknown.
"""

from __future__ import annotations

import base64
from datetime import UTC, datetime, timedelta
from typing import Any, Literal, NamedTuple

from stores.audit_log import AuditEntry

DCM = "http://dicom.nema.org/resources/ontology/DCM"
REST = "http://hl7.org/fhir/restful-interaction"
EVENT_TYPE = "http://terminology.hl7.org/CodeSystem/audit-event-type"
ENTITY_TYPE = "http://terminology.hl7.org/CodeSystem/audit-entity-type"
ENTITY_ROLE = "http://terminology.hl7.org/CodeSystem/object-role"
PURPOSE = "http://terminology.hl7.org/CodeSystem/v3-ActReason"
PARTICIPATION = "http://terminology.hl7.org/CodeSystem/v3-ParticipationType"
SECURITY_ROLE = "http://terminology.hl7.org/CodeSystem/extra-security-role-type"
SOURCE_TYPE = "http://terminology.hl7.org/CodeSystem/security-source-type"
LIFECYCLE = "http://terminology.hl7.org/CodeSystem/iso-21089-lifecycle"
ABSENT = "http://hl7.org/fhir/StructureDefinition/data-absent-reason"
BALP = "https://profiles.ihe.net/ITI/BALP"
PROFILE = f"{BALP}/StructureDefinition/IHE.BasicAudit"

SITE = "urn:vigil:site"
SURFACE = "urn:vigil:surface"

Coding = dict[str, str]

_APPLICATION = (DCM, "110150", "Application")
_DESTINATION = (DCM, "110152", "Destination Role ID")
_SOURCE = (DCM, "110153", "Source Role ID")
_RECIPIENT = (PARTICIPATION, "IRCP", "information recipient")
_AUTHORIZER = (SECURITY_ROLE, "authserver", "authorization server")


class _Pattern(NamedTuple):
    """What the kind of an event decides."""

    type: tuple[str, str, str]
    subtypes: tuple[tuple[str, str, str], ...]
    action: Literal["C", "R", "U", "D", "E"]
    client: tuple[str, str, str]  # the role of who asks
    server: tuple[str, str, str]  # and ours
    profile: str = ""  # behind IHE.BasicAudit; empty: none is claimed
    patient_profile: str = ""  # the same, where a patient is named


_RESTFUL = (EVENT_TYPE, "rest", "Restful Operation")
_ALERT = (DCM, "110113", "Security Alert")
_AUTHENTICATION = (DCM, "110114", "User Authentication")

_READ = _Pattern(_RESTFUL, ((REST, "read", "read"),), "R", _DESTINATION, _SOURCE, ".Read", ".PatientRead")
_QUERY = _Pattern(
    _RESTFUL, ((REST, "search-type", "search-type"),), "E", _SOURCE, _DESTINATION, ".Query", ".PatientQuery"
)
_DISCLOSURE = _Pattern(
    (DCM, "110106", "Export"),
    ((LIFECYCLE, "disclose", "Disclose Record Lifecycle Event"),),
    "R",
    _DESTINATION,
    _SOURCE,
    patient_profile=".PrivacyDisclosure.Source",
)
_DECISION = _Pattern(
    _ALERT,
    ((f"{BALP}/CodeSystem/AuthZsubType", "AuthZ-Role", "Authorization Decision using only Roles"),),
    "E",
    _APPLICATION,
    _AUTHORIZER,
)
_OVERRIDE = _Pattern(_ALERT, ((DCM, "110127", "Emergency Override Started"),), "E", _APPLICATION, _AUTHORIZER)
_CREATE = _Pattern(_RESTFUL, ((REST, "create", "create"),), "C", _SOURCE, _DESTINATION)
_UPDATE = _Pattern(_RESTFUL, ((REST, "update", "update"),), "U", _SOURCE, _DESTINATION)
_DELETE = _Pattern(_RESTFUL, ((REST, "delete", "delete"),), "D", _SOURCE, _DESTINATION)
_OPERATION = _Pattern(_RESTFUL, ((REST, "operation", "operation"),), "E", _SOURCE, _DESTINATION)

_BY_ACTION = {
    "sign_in": _Pattern(_AUTHENTICATION, ((DCM, "110122", "Login"),), "E", _APPLICATION, _AUTHORIZER),
    "sign_out": _Pattern(_AUTHENTICATION, ((DCM, "110123", "Logout"),), "E", _APPLICATION, _AUTHORIZER),
}
_BY_VERB = {
    "read": _READ,
    "search": _QUERY,
    "export": _DISCLOSURE,
    "change": _UPDATE,
    "review": _UPDATE,
    "release": _UPDATE,
    "discard": _UPDATE,
    "approve": _CREATE,
    "register": _CREATE,
    "erase": _DELETE,
    "open": _READ,
}
_OUTCOMES = {"permitted": "0", "failed": "4", "denied": "8"}


def _coding(words: tuple[str, str, str]) -> Coding:
    return {"system": words[0], "code": words[1], "display": words[2]}


def _concept(words: tuple[str, str, str]) -> dict[str, list[Coding]]:
    return {"coding": [_coding(words)]}


def _identified(system: str, value: str, display: str = "") -> dict[str, Any]:
    reference: dict[str, Any] = {"identifier": {"system": system, "value": value}}
    return reference | ({"display": display} if display else {})


def _pattern_of(entry: AuditEntry) -> _Pattern:
    if entry.action in _BY_ACTION:
        return _BY_ACTION[entry.action]
    if entry.outcome == "denied":
        return _DECISION
    if entry.surface == "break_glass" and entry.verb == "open":
        return _OVERRIDE
    return _BY_VERB.get(entry.verb, _OPERATION)


def as_fhir(entry: AuditEntry, seq: int, writer: str, site: str) -> dict[str, Any]:
    """Return an event as a FHIR R4 AuditEvent.

    Args:
        entry: the event.
        seq: its number in its chain.
        writer: its chain, the process that observed it.
        site: this hospital's short name.
    """
    pattern = _pattern_of(entry)
    has_patient = entry.patient_id is not None
    profile = (pattern.patient_profile if has_patient else pattern.profile) if entry.outcome == "permitted" else ""
    at = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=entry.at_us)
    observer = _identified(SITE, site, f"Vigil {writer}")
    event: dict[str, Any] = {
        "resourceType": "AuditEvent",
        "id": f"{writer}.{seq}",
        "type": _coding(pattern.type),
        "subtype": [_coding(words) for words in pattern.subtypes],
        "action": pattern.action,
        "recorded": at.isoformat(timespec="milliseconds"),
        "outcome": _OUTCOMES[entry.outcome],
        "outcomeDesc": f"{entry.outcome}: {entry.action}" + (f", by rule {entry.rule}" if entry.rule else ""),
        "agent": _agents(entry, pattern, observer, site),
        "source": {
            "site": site,
            "observer": observer,
            "type": [_coding((SOURCE_TYPE, "4", "Application Server"))],
        },
        "entity": _entities(entry, pattern, f"{writer}/{seq}"),
    }
    if profile:
        event["meta"] = {"profile": [PROFILE + profile]}
    if entry.purpose:
        event["purposeOfEvent"] = [{"coding": [{"system": PURPOSE, "code": entry.purpose}]}]
    return event


def _agents(entry: AuditEntry, pattern: _Pattern, observer: dict[str, Any], site: str) -> list[dict[str, Any]]:
    issuer, _, subject = entry.agent.rpartition("|")
    who = _identified(issuer or "urn:vigil:agent", subject)
    is_service = entry.role == "service"
    client: dict[str, Any] = {
        "type": _concept(pattern.client),
        "who": who if is_service else {"display": "the browser or command of the user"},
        "requestor": is_service,
        "network": {"extension": [{"url": ABSENT, "valueCode": "unknown"}]},
    }
    server: dict[str, Any] = {
        "type": _concept(pattern.server),
        "who": observer,
        "requestor": False,
    }
    if pattern.server != _AUTHORIZER:  # BALP gives an authorization server no network
        server["network"] = {"address": site, "type": "1"}
    if is_service:
        return [client | _authority(entry), server]
    user: dict[str, Any] = {
        "type": _concept(_RECIPIENT),
        "who": who,
        "requestor": True,
        **_authority(entry),
    }
    if entry.agent_name:
        user["name"] = entry.agent_name
    if entry.role:
        user["role"] = [{"text": entry.role}]
    return [user, client, server]


def _authority(entry: AuditEntry) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if entry.policy:
        found["policy"] = [f"urn:vigil:policy:{entry.policy}"]
    if entry.purpose:
        found["purposeOfUse"] = [{"coding": [{"system": PURPOSE, "code": entry.purpose}]}]
    return found


def _entities(entry: AuditEntry, pattern: _Pattern, transaction: str) -> list[dict[str, Any]]:
    entities: list[dict[str, Any]] = []
    if entry.patient_id is not None:
        entities.append(
            {
                "what": {"reference": f"Patient/{entry.patient_id}"},
                "type": _coding((ENTITY_TYPE, "1", "Person")),
                "role": _coding((ENTITY_ROLE, "1", "Patient")),
            }
        )
    if pattern is _QUERY:
        asked = f"{entry.surface}?{entry.detail}" if entry.detail else entry.surface
        entities.append(
            {
                "type": _coding((ENTITY_TYPE, "2", "System Object")),
                "role": _coding((ENTITY_ROLE, "24", "Query")),
                "description": asked,
                "query": base64.b64encode(asked.encode()).decode(),
            }
        )
    else:
        data: dict[str, Any] = {
            "what": _identified(SURFACE, entry.surface),
            "type": _coding((ENTITY_TYPE, "2", "System Object")),
            "role": _coding((ENTITY_ROLE, "4", "Domain Resource")),
        }
        facts = {"verb": entry.verb, "detail": entry.detail, "view": entry.view, "session": entry.session}
        if entry.break_glass_id is not None:
            facts["break_glass"] = str(entry.break_glass_id)
        data["detail"] = [{"type": name, "valueString": value} for name, value in facts.items() if value]
        entities.append(data)
    entities.append(
        {
            "what": {"identifier": {"value": transaction}},
            "type": {"system": f"{BALP}/CodeSystem/BasicAuditEntityType", "code": "XrequestId"},
        }
    )
    return entities
