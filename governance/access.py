"""Who may see or do what: the words of the policy, and the decision.

Here: roles, surfaces, verbs, purposes, relationships; the policy table (governance/policy.toml) and `Policy.decide`,
which is pure.
Not here: who somebody is (governance.tokens, governance.oidc), the facts about a patient and the audit of a decision
(governance.gate), HTTP (clinic).
Source: HL7 v3 PurposeOfUse; ISO 22600 and NIST SP 800-162 for the shape of the decision.
"""

from __future__ import annotations

from enum import StrEnum

import msgspec


class Role(StrEnum):
    """What a person or system is here for."""

    NURSE = "nurse"
    PHYSICIAN = "physician"
    CHARGE_NURSE = "charge_nurse"
    DATA_ENGINEER = "data_engineer"
    CLINICAL_LEAD = "clinical_lead"
    SAFETY_OFFICER = "safety_officer"
    DATA_PROTECTION_OFFICER = "data_protection_officer"
    MODEL_AUTHOR = "model_author"
    SERVICE = "service"  # another system (an EHR, a viewer), with a token of its own
    OPERATOR = "operator"  # a person at this machine's own command line, known by the operating system


class Surface(StrEnum):
    """What is looked at or acted on, whatever page, API or command shows it."""

    BOARD = "board"  # a ward's beds with their scores
    PATIENT = "patient"  # one twin: page, snapshot, trends, FHIR resources, its stream
    FEEDS = "feeds"  # what sending systems are doing; no patient data
    QUARANTINE = "quarantine"  # messages and values held back; patient data
    AUDIT = "audit"
    BREAK_GLASS = "break_glass"
    REVIEW = "review"  # of broken glasses
    PRIVACY = "privacy"  # consent and VIP flags
    KEYS = "keys"  # data keys: rotation, destruction
    SIGNERS = "signers"  # the roster, and registering one's own key
    MODELS = "models"  # lifecycle, approvals
    EXPORT = "export"


class Verb(StrEnum):
    """What is done."""

    READ = "read"
    SEARCH = "search"
    OPEN = "open"
    REVIEW = "review"
    RELEASE = "release"
    DISCARD = "discard"
    CHANGE = "change"
    ERASE = "erase"
    REGISTER = "register"
    APPROVE = "approve"
    EXPORT = "export"
    WHAT_IF = "what_if"


class Purpose(StrEnum):
    """Why: HL7 v3 PurposeOfUse codes."""

    TREATMENT = "TREAT"
    BREAK_GLASS = "BTG"
    OPERATIONS = "HOPERAT"
    QUALITY = "HQUALIMP"
    RESEARCH = "HRESCH"
    ADMINISTRATION = "HSYSADMIN"
    SAFETY = "PATSFTY"


class Relationship(StrEnum):
    """How a person stands to a patient, from ADT; each includes the one before."""

    NONE = "none"
    UNIT = "unit"  # works on the ward where the patient lies
    TREATING = "treating"  # named in the stay (PV1-7, 8, 9, 17)


class Principal(msgspec.Struct, frozen=True, kw_only=True):
    """Who asks: a person or system whose token or session was verified."""

    issuer: str
    subject: str
    name: str = ""
    roles: frozenset[Role]
    units: frozenset[str] = frozenset()
    practitioner: str = ""  # identifier that ADT uses for this person
    session: str = ""  # short name of the session, never its secret
    client: str = ""  # OAuth client that acts

    @property
    def agent(self) -> str:
        """Return the identity that the audit names: issuer and subject."""
        return f"{self.issuer}|{self.subject}"


class PatientFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What the policy needs to know about a patient, for one principal."""

    patient_id: int
    is_known: bool = True
    ward: str = ""
    relationship: Relationship = Relationship.NONE
    is_vip: bool = False
    permits_secondary_use: bool = True  # consent: quality, research, export
    permits_sharing: bool = True  # consent: other systems (role service)
    break_glass_id: int | None = None  # an open broken glass of this principal for this patient


class Ask(msgspec.Struct, frozen=True, kw_only=True):
    """What somebody wants to do."""

    surface: Surface
    verb: Verb
    purpose: Purpose = Purpose.TREATMENT
    patient_id: int | None = None


class Decision(msgspec.Struct, frozen=True, kw_only=True):
    """What the policy says, and by which row."""

    is_permitted: bool
    rule: str  # name of the row that decided; "default-deny", "unknown-patient"
    role: Role | None = None  # the role that it was permitted to
    break_glass_id: int | None = None
