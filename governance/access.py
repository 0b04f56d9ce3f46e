"""Who may see or do what: the words of the policy, and the decision.

Here: roles, surfaces, verbs, purposes, relationships, a row of the policy, and `Policy.decide`, which is pure.
Not here: the table (governance/policy.toml) and its checks at load (governance.policy_table), who somebody is
(governance.tokens, governance.oidc), the facts about a patient and the audit of a decision (governance.gate), HTTP
(clinic).
Source: HL7 v3 PurposeOfUse; ISO 22600 and NIST SP 800-162 for the shape of the decision.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Sequence
from enum import StrEnum
from types import MappingProxyType

import msgspec

from vocabulary.errors import RefusedError


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

    @property
    def rank(self) -> int:
        """Return how close it is: 0 for none; whoever has a closer one has the farther ones too."""
        return _RANKS[self.value]


_RANKS = MappingProxyType({"none": 0, "unit": 1, "treating": 2})


class About(StrEnum):
    """What an ask is about: each row of the policy is for one kind."""

    HOUSE = "house"  # nobody in particular: a list, a status, an own registration
    WARD = "ward"  # one ward's beds
    PATIENT = "patient"


class VipRule(StrEnum):
    """What a row says of patients flagged as very important persons."""

    ALLOW = "allow"
    ONLY_TREATING = "only_treating"
    DENY = "deny"


class ConsentScope(StrEnum):
    """What a patient may refuse."""

    SECONDARY = "secondary"  # quality, research, export
    SHARING = "sharing"  # other systems


class Obligation(StrEnum):
    """What must go with a permission; whoever acts on a decision carries it out."""

    NOTIFY = "notify"  # the reviewers are told at once
    REVIEW = "review"  # another person judges it afterwards
    ANOTHER_PERSON = "another_person"  # never on one's own act
    NAME_WHO_DECIDED = "name_who_decided"  # carried out for somebody, whose name stands in the audit


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
    ward: str = ""  # one ward's board; a patient, where given, decides instead

    @property
    def about(self) -> About:
        """Return what it is about."""
        if self.patient_id is not None:
            return About.PATIENT
        return About.WARD if self.ward else About.HOUSE


class Decision(msgspec.Struct, frozen=True, kw_only=True):
    """What the policy says, and by which row."""

    is_permitted: bool
    rule: str  # name of the row that decided; "default-deny", "unknown-patient"
    role: Role | None = None  # the role that it was permitted to
    break_glass_id: int | None = None  # the broken glass without which it would have been denied
    obligations: frozenset[Obligation] = frozenset()


class Row(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One permission. What no row permits is denied; no row forbids."""

    name: str
    because: str  # a sentence: why it exists
    surface: Surface
    verbs: tuple[Verb, ...]
    roles: tuple[Role, ...]
    purposes: tuple[Purpose, ...]
    about: About
    relationship: Relationship = Relationship.NONE  # the least
    vip: VipRule = VipRule.ALLOW
    consent: ConsentScope | None = None  # must not have been refused
    break_glass: bool = False  # whether an open broken glass counts as treating
    obligations: tuple[Obligation, ...] = ()

    def holds(self, relationship: Relationship, facts: PatientFacts | None) -> bool:
        """Return whether what the row asks of relationship, VIP flag and consent is so."""
        if relationship.rank < self.relationship.rank:
            return False
        if facts is None:
            return True
        if facts.is_vip and (
            self.vip is VipRule.DENY
            or (self.vip is VipRule.ONLY_TREATING and relationship is not Relationship.TREATING)
        ):
            return False
        if self.consent is ConsentScope.SECONDARY:
            return facts.permits_secondary_use
        if self.consent is ConsentScope.SHARING:
            return facts.permits_sharing
        return True


DEFAULT_DENY = "default-deny"
UNKNOWN_PATIENT = "unknown-patient"

_DENIED = Decision(is_permitted=False, rule=DEFAULT_DENY)
_UNKNOWN = Decision(is_permitted=False, rule=UNKNOWN_PATIENT)

_Cell = tuple[str, str, str, str]


class Policy:
    """The table, compiled. One object serves the whole process; nothing in it changes."""

    def __init__(self, rows: Sequence[Row]) -> None:
        """Compile rows that `governance.policy_table.check` found sound; the first that permits is the one named."""
        self._rows = tuple(rows)
        self.digest = hashlib.sha256(msgspec.json.encode(self._rows)).hexdigest()
        """SHA-256 of the rows: which policy decided, for the audit."""
        cells: dict[_Cell, list[Row]] = {}
        under_glass: dict[_Cell, list[Row]] = {}
        for row in self._rows:
            for verb in row.verbs:
                for purpose in row.purposes:
                    cells.setdefault((row.surface, verb, purpose, row.about), []).append(row)
                    if row.break_glass:
                        under_glass.setdefault((row.surface, verb, purpose, row.about), []).append(row)
                if row.break_glass:  # who says so of their own accord asks for the glass's purpose
                    broken = (row.surface, verb, Purpose.BREAK_GLASS, row.about)
                    if row not in under_glass.setdefault(broken, []):
                        under_glass[broken].append(row)
        self._cells = {cell: tuple(found) for cell, found in cells.items()}
        self._under_glass = {cell: tuple(found) for cell, found in under_glass.items()}

    @classmethod
    def load(cls) -> Policy:
        """Read the packaged policy.toml.

        Raises:
            ConfigurationError: it holds an unknown word, or rows that contradict each other or can never permit.
        """
        from governance.policy_table import packaged_rows

        return cls(packaged_rows())

    def rows(self) -> tuple[Row, ...]:
        """Return the table in its order."""
        return self._rows

    def decide(self, principal: Principal, ask: Ask, facts: PatientFacts | None) -> Decision:
        """Return what the policy says. Pure, and total: what is in no row is denied.

        Args:
            principal: who asks.
            ask: for what.
            facts: of the patient the ask is about, for this principal; None when nobody has that number.
        """
        about = ask.about
        relationship = Relationship.NONE
        if about is About.PATIENT:
            if facts is None or not facts.is_known:
                return _UNKNOWN
            relationship = facts.relationship
        else:
            facts = None
            if about is About.WARD and ask.ward in principal.units:
                relationship = Relationship.UNIT
        cell = (ask.surface, ask.verb, ask.purpose, about)
        for row in self._cells.get(cell, ()):
            role = _held(row, principal)
            if role is not None and row.holds(relationship, facts):
                return Decision(is_permitted=True, rule=row.name, role=role, obligations=frozenset(row.obligations))
        if facts is None or facts.break_glass_id is None:
            return _DENIED
        for row in self._under_glass.get(cell, ()):
            role = _held(row, principal)
            if role is not None and row.holds(Relationship.TREATING, facts):
                return Decision(
                    is_permitted=True,
                    rule=row.name,
                    role=role,
                    break_glass_id=facts.break_glass_id,
                    obligations=frozenset(row.obligations),
                )
        return _DENIED

    def purpose_for(self, roles: Collection[Role], surface: Surface, verb: Verb) -> Purpose | None:
        """Return the purpose somebody with these roles asks with, None when no row could ever permit it.

        For pages: which menu entries to show, and which purpose goes with a click nobody stated one for. It is the
        first that the table gives these roles, in the table's order.
        """
        for row in self._rows:
            if row.surface is surface and verb in row.verbs and not set(row.roles).isdisjoint(roles):
                return row.purposes[0]
        return None


def refused() -> RefusedError:
    """Return the one refusal that says nothing: the same for what is forbidden and for what is not there."""
    return RefusedError("Not found, or not permitted.")


def _held(row: Row, principal: Principal) -> Role | None:
    for role in row.roles:
        if role in principal.roles:
            return role
    return None
