"""The directory's memory as rows: every fact with the position that told us, every change kept for the next commit.

Here: patients, identifiers, merges, stays, places, care, outcomes and bed associations in memory, and what of them must
be written.
Not here: which patient a message means (twin.directory), what movements do (twin.stays), SQL (stores.clinical).

Nothing is overwritten: a row that no longer holds gets `known_to`, and another takes its place. Several changes at one
position leave only the last, since nobody could have looked in between.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Generic, TypeVar

import msgspec

from stores import clinical
from stores.clinical import (
    AssociationRow,
    CareRow,
    EncounterPlaceRow,
    EncounterRow,
    IdentifierRow,
    MergeRow,
    OutcomeRow,
    PatientRow,
    VipRow,
)
from twin.beds import BED, Occupancy, bed_key, bed_subject, identifier_key, occupancies
from twin.care import Assignment, Vip, spans
from twin.stays import Placement, Stay
from vocabulary.records import DischargeOutcome

Names = tuple[tuple[str, str], ...]
"""Identifiers as (authority, value)."""

_CareKey = tuple[int, str, int, str, str]
"""Stay, role, start, authority and identifier."""

Known = TypeVar("Known", EncounterPlaceRow, AssociationRow, CareRow, VipRow)


class _Revisions(Generic[Known]):
    """New and superseded rows of one bitemporal table since the last commit."""

    def __init__(self, key: Callable[[Known], Hashable]) -> None:
        self._key: Callable[[Known], Hashable] = key
        self.added: dict[Hashable, Known] = {}
        self.closed: list[Known] = []

    def add(self, row: Known) -> None:
        self.added[self._key(row)] = row

    def close(self, row: Known, position: int) -> None:
        key = self._key(row)
        if key not in self.added:
            self.closed.append(msgspec.structs.replace(row, known_to=position))
        elif row.known_from == position:
            del self.added[key]
        else:
            self.added[key] = msgspec.structs.replace(row, known_to=position)


class Book:
    """What is known now, and what of it is not written yet."""

    def __init__(self, rows: clinical.Rows | None = None) -> None:
        """Start from what is known; None: nothing is."""
        self.patients: dict[int, PatientRow] = {}
        self.identifiers: dict[tuple[str, str], IdentifierRow] = {}
        self.authorities: set[str] = set()
        self.beds: dict[str, list[AssociationRow]] = {}
        self.devices: dict[str, list[AssociationRow]] = {}
        self._survivor: dict[int, int] = {}  # retired patients only
        self._members: dict[int, tuple[int, ...]] = {}  # survivors of a merge only
        self._stays: dict[int, dict[int, Stay]] = {}  # by the patient they were told of
        self._encounters: dict[int, EncounterRow] = {}
        self._places: dict[int, dict[int, EncounterPlaceRow]] = {}  # by stay, then by start
        self._care: dict[int, dict[_CareKey, CareRow]] = {}  # by stay
        self._vips: dict[int, VipRow] = {}
        self._claims: dict[str, dict[int, list[Occupancy]]] = {}  # by bed, then by stay
        self._next_patient = 1
        self._next_encounter = 1
        self._forget_changes()
        if rows is not None:
            self._take(rows)

    @property
    def next_patient_id(self) -> int:
        """Return the number the next new patient gets."""
        return self._next_patient

    @property
    def next_encounter_id(self) -> int:
        """Return the number the next new stay gets."""
        return self._next_encounter

    def survivor_of(self, patient_id: int) -> int:
        """Return the record a patient id redirects to, or itself."""
        return self._survivor.get(patient_id, patient_id)

    def members(self, survivor: int) -> tuple[int, ...]:
        """Return the survivor and every record that redirects to it, in order."""
        return self._members.get(survivor, (survivor,))

    def stays_of(self, survivor: int) -> list[Stay]:
        """Return every stay of a person, whichever of their records it was told of."""
        return [stay for member in self.members(survivor) for stay in self._stays.get(member, {}).values()]

    def know_patient(self, described: PatientRow, position: int) -> None:
        """Record a person as described; a number not yet known is a new person."""
        old = self.patients.get(described.patient_id)
        if old is None:
            new = msgspec.structs.replace(described, created_position=position, updated_position=position)
        elif described == old:
            return
        else:
            new = msgspec.structs.replace(described, updated_position=position)
        self.patients[new.patient_id] = new
        self._next_patient = max(self._next_patient, new.patient_id + 1)
        self._changed_patients.add(new.patient_id)

    def know_identifiers(self, patient_id: int, named: Iterable[tuple[str, str, str]], position: int) -> list[str]:
        """Record the identifiers (authority, value, kind) that nobody has yet; return the keys they release."""
        released = []
        for authority, value, kind in named:
            if (authority, value) not in self.identifiers:
                row = IdentifierRow(authority, value, kind, patient_id, position)
                self.identifiers[authority, value] = row
                self.authorities.add(authority)
                self._new_identifiers.append(row)
                released.append(identifier_key(authority, value))
        return released

    def merge(self, retired: int, survivor: int, position: int, at_us: int) -> None:
        """Let one surviving record redirect to another."""
        self._new_merges.append(MergeRow(survivor, retired, position, at_us))
        self.know_patient(msgspec.structs.replace(self.patients[retired], merged_into=survivor), position)
        self._redirect(retired, survivor)

    def keep(self, stay: Stay, position: int) -> list[str]:
        """Record a stay, its places and what they make of the beds; return the keys of beds that changed hands."""
        before = self._stays.get(stay.patient_id, {}).get(stay.encounter_id)
        old = self._encounters.get(stay.encounter_id)
        self._stays.setdefault(stay.patient_id, {})[stay.encounter_id] = stay
        self._next_encounter = max(self._next_encounter, stay.encounter_id + 1)
        row = EncounterRow(
            encounter_id=stay.encounter_id,
            patient_id=stay.patient_id,
            visit_number=stay.visit_number,
            patient_class=stay.patient_class,
            status=stay.status,
            started_at_us=stay.started_at_us,
            ended_at_us=stay.ended_at_us,
            known_from=position if old is None else old.known_from,
            updated_position=position,
        )
        if old is None or msgspec.structs.replace(old, updated_position=position) != row:
            self._encounters[stay.encounter_id] = row
            self._changed_encounters.add(stay.encounter_id)
            self._encounter_states[stay.encounter_id, position] = row
        self._keep_places(stay, position)
        self._keep_care(before, stay, position)
        if stay.outcome is not (DischargeOutcome.UNKNOWN if before is None else before.outcome):
            at_us = stay.started_at_us if stay.ended_at_us is None else stay.ended_at_us
            self._outcomes[stay.encounter_id, position] = OutcomeRow(stay.encounter_id, stay.outcome, at_us, position)
        touched = self._claim(before, stay)
        return [bed_key(subject) for subject in touched if self._settle(subject, position)]

    def _keep_places(self, stay: Stay, position: int) -> None:
        held = self._places.setdefault(stay.encounter_id, {})
        wanted = {
            placement.from_us: EncounterPlaceRow(
                stay.encounter_id, placement.place, placement.placed_by, placement.from_us, to_us, position
            )
            for placement, to_us in stay.spans()
        }
        for from_us, row in list(held.items()):
            new = wanted.get(from_us)
            if new is not None and msgspec.structs.replace(new, known_from=row.known_from) == row:
                del wanted[from_us]
            else:
                del held[from_us]
                self._place_revisions.close(row, position)
        for from_us, row in wanted.items():
            held[from_us] = row
            self._place_revisions.add(row)

    def _keep_care(self, before: Stay | None, stay: Stay, position: int) -> None:
        if before is not None and (before.care, before.ended_at_us, before.vip) == (
            stay.care,
            stay.ended_at_us,
            stay.vip,
        ):
            return
        wanted = {_care_key(row): row for row in _care_rows(stay, position)}
        held = self._care.setdefault(stay.encounter_id, {}) if wanted else self._care.get(stay.encounter_id, {})
        for key, row in list(held.items()):
            new = wanted.get(key)
            if new is not None and new.to_us == row.to_us:
                del wanted[key]
            else:
                del held[key]
                self._care_revisions.close(row, position)
        for key, row in wanted.items():
            held[key] = row
            self._care_revisions.add(row)
        known = self._vips.get(stay.encounter_id)
        if stay.vip is not None and (known is None or (known.at_us, known.is_vip) != stay.vip):
            if known is not None:
                self._vip_revisions.close(known, position)
            self._vips[stay.encounter_id] = VipRow(stay.encounter_id, stay.vip.is_vip, stay.vip.at_us, position)
            self._vip_revisions.add(self._vips[stay.encounter_id])

    def _claim(self, before: Stay | None, stay: Stay) -> list[str]:
        """Record which beds a stay claims; return every bed it claims or claimed, in order."""
        touched = [bed_subject(placement.place) for placement in before.placements] if before is not None else []
        for subject in touched:
            self._claims.get(subject, {}).pop(stay.encounter_id, None)
        for placement, to_us in stay.spans():
            subject = bed_subject(placement.place)
            if subject:
                touched.append(subject)
                claims = self._claims.setdefault(subject, {}).setdefault(stay.encounter_id, [])
                claims.append(Occupancy(placement.from_us, to_us, stay.encounter_id))
        return [subject for subject in dict.fromkeys(touched) if subject]

    def _settle(self, subject: str, position: int) -> bool:
        """Work out anew who had a bed when; return whether that changed."""
        claims = (claim for held in self._claims[subject].values() for claim in held)
        wanted = [
            AssociationRow(
                BED,
                subject,
                self._encounters[held.encounter_id].patient_id,
                held.encounter_id,
                held.from_us,
                held.to_us,
                "adt",
                known_from=position,
            )
            for held in occupancies(claims)
        ]
        old = self.beds.get(subject, [])
        self.beds[subject] = self._replace(old, wanted, position)
        return self.beds[subject] != old

    def associate(self, subject: str, wanted: Sequence[AssociationRow], position: int) -> None:
        """Set whose a device is over time, oldest first and without overlaps."""
        self.devices[subject] = self._replace(self.devices.get(subject, []), wanted, position)

    def _replace(
        self, old: Sequence[AssociationRow], wanted: Sequence[AssociationRow], position: int
    ) -> list[AssociationRow]:
        """Supersede the rows that no longer hold, add those that are new, and return what is now known."""
        held = {_content(row): row for row in old}
        result = [held.pop(_content(row), row) for row in wanted]
        for row in held.values():
            self._association_revisions.close(row, position)
        kept = set(map(id, old))
        for row in result:
            if id(row) not in kept:
                self._association_revisions.add(row)
        return result

    def _redirect(self, retired: int, survivor: int) -> None:
        members = sorted({*self.members(retired), *self.members(survivor)} - {survivor})
        self._members.pop(retired, None)
        self._members[survivor] = (survivor, *members)
        for member in members:
            self._survivor[member] = survivor

    def take_changes(self) -> clinical.Changes:
        """Return the rows changed since the last call."""
        changes = clinical.Changes(
            patients=[self.patients[patient_id] for patient_id in sorted(self._changed_patients)],
            identifiers=self._new_identifiers,
            merges=self._new_merges,
            encounters=[self._encounters[encounter_id] for encounter_id in sorted(self._changed_encounters)],
            closed_places=self._place_revisions.closed,
            places=list(self._place_revisions.added.values()),
            closed_associations=self._association_revisions.closed,
            associations=list(self._association_revisions.added.values()),
            encounter_states=list(self._encounter_states.values()),
            closed_care=self._care_revisions.closed,
            care=list(self._care_revisions.added.values()),
            closed_vips=self._vip_revisions.closed,
            vips=list(self._vip_revisions.added.values()),
            outcomes=list(self._outcomes.values()),
        )
        self._forget_changes()
        return changes

    def _forget_changes(self) -> None:
        self._changed_patients: set[int] = set()
        self._changed_encounters: set[int] = set()
        self._encounter_states: dict[tuple[int, int], EncounterRow] = {}
        self._new_identifiers: list[IdentifierRow] = []
        self._new_merges: list[MergeRow] = []
        self._outcomes: dict[tuple[int, int], OutcomeRow] = {}
        self._place_revisions: _Revisions[EncounterPlaceRow] = _Revisions(
            lambda row: (row.encounter_id, row.from_us, row.known_from)
        )
        self._care_revisions: _Revisions[CareRow] = _Revisions(lambda row: (*_care_key(row), row.known_from))
        self._vip_revisions: _Revisions[VipRow] = _Revisions(lambda row: (row.encounter_id, row.known_from))
        self._association_revisions: _Revisions[AssociationRow] = _Revisions(
            lambda row: (row.subject_kind, row.subject, row.from_us, row.known_from)
        )

    def _take(self, rows: clinical.Rows) -> None:
        self.patients = {row.patient_id: row for row in rows.patients}
        self._next_patient = max(self.patients, default=0) + 1
        for row in rows.identifiers:
            self.identifiers[row.authority, row.value] = row
            self.authorities.add(row.authority)
        for patient in rows.patients:
            if patient.merged_into is not None:
                self._redirect(patient.patient_id, self.survivor_of(patient.merged_into))
        for placed in rows.places:
            self._places.setdefault(placed.encounter_id, {})[placed.from_us] = placed
        for cared in rows.care:
            self._care.setdefault(cared.encounter_id, {})[_care_key(cared)] = cared
        self._vips = {row.encounter_id: row for row in rows.vips}
        outcomes = {row.encounter_id: DischargeOutcome(row.outcome) for row in rows.outcomes}
        for encounter in rows.encounters:
            self._encounters[encounter.encounter_id] = encounter
            stay = _stay(
                encounter,
                self._places.setdefault(encounter.encounter_id, {}).values(),
                self._care.get(encounter.encounter_id, {}).values(),
                self._vips.get(encounter.encounter_id),
                outcomes.get(encounter.encounter_id, DischargeOutcome.UNKNOWN),
            )
            self._stays.setdefault(stay.patient_id, {})[stay.encounter_id] = stay
            self._claim(None, stay)
        self._next_encounter = max(self._encounters, default=0) + 1
        for association in rows.associations:
            held = self.beds if association.subject_kind == BED else self.devices
            held.setdefault(association.subject, []).append(association)


def _stay(
    row: EncounterRow,
    places: Iterable[EncounterPlaceRow],
    care: Iterable[CareRow],
    vip: VipRow | None,
    outcome: DischargeOutcome,
) -> Stay:
    return Stay(
        row.encounter_id,
        row.patient_id,
        row.visit_number,
        row.patient_class,
        row.status,
        row.started_at_us,
        row.ended_at_us,
        tuple(Placement(place.from_us, place.place, place.placed_by) for place in places),
        _assignments(care),
        None if vip is None else Vip(vip.at_us, vip.is_vip),
        outcome,
    )


def _assignments(rows: Iterable[CareRow]) -> tuple[Assignment, ...]:
    found: dict[tuple[int, str], list[tuple[str, str]]] = {}
    for row in rows:
        practitioners = found.setdefault((row.from_us, row.role), [])
        if row.identifier:
            practitioners.append((row.authority, row.identifier))
    return tuple(Assignment(*key, tuple(sorted(named))) for key, named in sorted(found.items()))


def _care_rows(stay: Stay, position: int) -> list[CareRow]:
    """Return a stay's care as rows; a role that is nobody's is a row without identifier."""
    return [
        CareRow(stay.encounter_id, held.role, authority, identifier, held.from_us, to_us, position)
        for held, to_us in spans(stay.care, stay.ended_at_us)
        for authority, identifier in held.practitioners or (("", ""),)
    ]


def _care_key(row: CareRow) -> _CareKey:
    return row.encounter_id, row.role, row.from_us, row.authority, row.identifier


def _content(row: AssociationRow) -> AssociationRow:
    return msgspec.structs.replace(row, known_from=0)
