"""Row types of the clinical tables: patients, identifiers, merges, stays, places, care, associations.

Here: what the directory hands to be written and what it starts from.
Not here: SQL (stores.clinical, stores.clinical_write), the rules that make rows (twin.directory, twin.stays).
Validity is in microseconds, half-open [from, to); knowledge is in log positions, half-open [known_from, known_to).
Source: HL7 FHIR R4 Patient, Encounter, DeviceAssociation; Snodgrass 2000, bitemporal tables.
"""

from __future__ import annotations

import msgspec

from vocabulary.records import DischargeOutcome, Place


class PatientRow(msgspec.Struct, frozen=True):
    """A person as we number them. `merged_into` is the next record of a merge chain, not always its end."""

    patient_id: int
    merged_into: int | None
    family_name: str
    given_name: str
    birth_date: str  # ISO 8601, maybe only year or year and month; "" where not known
    sex: str
    created_position: int
    updated_position: int


class IdentifierRow(msgspec.Struct, frozen=True):
    """A hospital's number for a person. A merge leaves it where it was: the redirect resolves it."""

    authority: str
    value: str
    kind: str
    patient_id: int
    known_from: int
    known_to: int | None = None


class MergeRow(msgspec.Struct, frozen=True):
    """One redirect. Undoing it sets `undone_position`; nothing else has to be restored."""

    survivor_id: int
    retired_id: int
    merged_position: int
    merged_at_us: int
    undone_position: int | None = None


class EncounterRow(msgspec.Struct, frozen=True):
    """A stay as last known."""

    encounter_id: int
    patient_id: int
    visit_number: str
    patient_class: str
    status: str
    started_at_us: int
    ended_at_us: int | None
    known_from: int
    updated_position: int


class EncounterPlaceRow(msgspec.Struct, frozen=True):
    """Where a stay was from `from_us` until `to_us`, and which kind of message said so."""

    encounter_id: int
    place: Place
    placed_by: str
    from_us: int
    to_us: int | None
    known_from: int
    known_to: int | None = None


class AssociationRow(msgspec.Struct, frozen=True):
    """Whose values a bed's or a device's values are."""

    subject_kind: str
    subject: str
    patient_id: int
    encounter_id: int | None
    from_us: int
    to_us: int | None
    source: str
    known_from: int
    known_to: int | None = None


class CareRow(msgspec.Struct, frozen=True):
    """Whose a role of a stay was from `from_us` until `to_us`. Without an identifier: nobody's, as somebody told."""

    encounter_id: int
    role: str  # attending, referring, consulting, admitting
    authority: str
    identifier: str
    from_us: int
    to_us: int | None
    known_from: int
    known_to: int | None = None


class VipRow(msgspec.Struct, frozen=True):
    """Whether a stay's patient is to be hidden from those who do not treat them, as last told, and when."""

    encounter_id: int
    is_vip: bool
    at_us: int
    known_from: int
    known_to: int | None = None


class OutcomeRow(msgspec.Struct, frozen=True):
    """Whether a stay ended in death, as known from a position on; the newest row of a stay holds."""

    encounter_id: int
    outcome: DischargeOutcome
    at_us: int  # when the stay ended, or of the event that says what is known
    known_from: int


class Rows(msgspec.Struct, frozen=True):
    """What is known now, whole: what a directory starts from."""

    patients: list[PatientRow]
    identifiers: list[IdentifierRow]
    encounters: list[EncounterRow]
    places: list[EncounterPlaceRow]
    associations: list[AssociationRow]
    care: list[CareRow] = []
    vips: list[VipRow] = []
    outcomes: list[OutcomeRow] = []  # the newest of each stay


class Changes(msgspec.Struct, frozen=True):
    """What one transaction changes.

    A row in a `closed_` list is one already kept, with the position at which it ceased to be known. A new row that
    ceased to be known within the same transaction comes once, with both positions.
    """

    patients: list[PatientRow]
    identifiers: list[IdentifierRow]
    merges: list[MergeRow]
    encounters: list[EncounterRow]
    closed_places: list[EncounterPlaceRow]
    places: list[EncounterPlaceRow]
    closed_associations: list[AssociationRow]
    associations: list[AssociationRow]
    encounter_states: list[EncounterRow] = []  # every step of the stays in `encounters`, the last one included
    closed_care: list[CareRow] = []
    care: list[CareRow] = []
    closed_vips: list[VipRow] = []
    vips: list[VipRow] = []
    outcomes: list[OutcomeRow] = []

    @property
    def is_empty(self) -> bool:
        """Return whether there is nothing to write."""
        return not any(getattr(self, name) for name in self.__struct_fields__)
