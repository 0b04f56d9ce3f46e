"""Who is who and where: the normalizer's one memory of patients, stays and beds.

Here: finding the patient a message is about, applying ADT, whether a time falls in a stay.
Not here: what a movement does to a stay (twin.stays), a contested bed (twin.beds), rows and changes (twin.book).
Source: HL7 v2.6 chapter 3; IHE PCD TF-2 (patient and location in PID-3 and PV1-3); HL7 FHIR R4 Patient.link.

One writer. The same messages in the same order give the same numbers, rows and events. After a rolled-back
transaction the object is discarded and loaded again.

A message is about the patient its identifiers name. Where it names none, or only numbers of an authority that no
known patient has (a monitor's own), it is about whoever the devices or the bed belong to at its time. A number of
an authority we know, of a patient we do not, names somebody else than the one in the bed: the message waits.

A merge is a redirect: identifiers and stays remain with the record they were told of and are read through it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Self

import msgspec

from interop.messages import Identifier, Message, PatientIdentity
from stores import clinical
from stores.clinical import AssociationRow, PatientRow
from stores.database import Connection, storable
from twin.beds import DEVICE, bed_key, bed_subject, device_key, identifier_key, wearer
from twin.book import Book, Names
from twin.care import care_told
from twin.endings import ending_told
from twin.stays import CLOCK_TOLERANCE_US, NOWHERE, Stay, Told, plan
from vocabulary.records import Merged, Moved, Movement, Place, RawId, Reason, Rejected

_BIRTH_DATE = re.compile(r"[0-9]{4}(-[0-9]{2}(-[0-9]{2})?)?")
_SEXES = frozenset({"male", "female", "other", "unknown"})


class Resolved(msgspec.Struct, frozen=True):
    """The patient a message is about.

    `from_us` and `to_us` bound the bed's or device's association: a value outside of them is not this patient's.
    """

    patient_id: int
    encounter_id: int  # the stay at the message's time, else the current one; 0 when there is none
    by: str = "identifier"  # identifier, bed, device
    from_us: int | None = None
    to_us: int | None = None


class Waiting(msgspec.Struct, frozen=True):
    """Nobody is known yet; the arrival of any of `keys` (the first is the likeliest) is worth another look."""

    reason: Reason
    keys: tuple[str, ...]


class Applied(msgspec.Struct, frozen=True):
    """What an ADT message changed, and what messages that wait may be waiting for."""

    events: list[Moved | Merged]
    released_keys: tuple[str, ...]


class InStay(msgspec.Struct, frozen=True):
    """The time falls in this stay."""

    encounter_id: int


class BeforeAdmission(msgspec.Struct, frozen=True):
    """The time falls before a stay; None: there is no stay at all."""

    started_at_us: int | None


class AfterDischarge(msgspec.Struct, frozen=True):
    """The time falls after a stay."""

    ended_at_us: int


class Directory:
    """Who is who and where, as known now."""

    def __init__(self, rows: clinical.Rows | None = None) -> None:
        """Start from what is known; None: nothing is."""
        self._book = Book(rows)
        self._windows: dict[int, list[tuple[int, int | None, InStay]]] = {}  # by survivor; made when first asked

    @classmethod
    async def load(cls, conn: Connection) -> Self:
        """Read a directory from the store."""
        return cls(await clinical.load(conn))

    async def write(self, conn: Connection) -> None:
        """Write the changes since the last call; the caller owns the transaction, and discards this on rollback."""
        changes = self.take_changes()
        if not changes.is_empty:
            await clinical.write(conn, changes)

    def take_changes(self) -> clinical.Changes:
        """Return the rows changed since the last call."""
        return self._book.take_changes()

    def resolve(
        self, message: Message, *, feed: str, default_authority: str, at_us: int
    ) -> Resolved | Waiting | Rejected:
        """Return the patient whose values a message carries.

        Args:
            message: any message with values.
            feed: where it came from; names the authority of identifiers when `default_authority` is "".
            default_authority: of identifiers sent without one.
            at_us: when the values were taken; decides whose a bed or device was.
        """
        authority = default_authority or feed
        named = _named(message.patient, authority)
        found = self._owners(named)
        if len(found) > 1:
            return _conflict("PID-3", "identifiers of one patient", "identifiers of several")
        if found:
            patient_id = next(iter(found))
            return Resolved(patient_id, self._encounter_at(patient_id, at_us))
        if any(held_by in self._book.authorities for held_by, _ in named):
            return Waiting(Reason.UNKNOWN_PATIENT, tuple(identifier_key(*name) for name in named))
        return self._resolve_by_association(message, named, at_us)

    def _resolve_by_association(self, message: Message, named: Names, at_us: int) -> Resolved | Waiting | Rejected:
        devices = dict.fromkeys(storable(reading.device) for reading in message.readings if reading.device)
        subject = bed_subject(_storable_place(message.visit.place)) if message.visit is not None else ""
        worn = [row for device in devices if (row := wearer(self._book.devices.get(device, ()), at_us)) is not None]
        if len({self.survivor_of(row.patient_id) for row in worn}) > 1:
            return _conflict("OBX-18", "devices of one patient", "devices of several")
        if not worn and (held := wearer(self._book.beds.get(subject, ()), at_us)) is not None:
            worn = [held]
        if worn:
            row = worn[0]
            patient_id = self.survivor_of(row.patient_id)
            encounter_id = row.encounter_id or self._encounter_at(patient_id, at_us)
            return Resolved(patient_id, encounter_id, row.subject_kind, row.from_us, row.to_us)
        keys = [bed_key(subject)] if subject else []
        keys.extend(identifier_key(*name) for name in named)
        keys.extend(device_key(device) for device in devices)
        if not keys:
            return Rejected(Reason.UNKNOWN_PATIENT, "PID-3", "an identifier, a bed or a device", "none")
        return Waiting(Reason.UNKNOWN_PATIENT if named else Reason.UNASSOCIATED_DEVICE, tuple(keys))

    def admission_window(self, patient_id: int, effective_at_us: int) -> InStay | BeforeAdmission | AfterDischarge:
        """Return where a time falls among a patient's stays, allowing a minute for clocks on either side.

        Outside of every stay it belongs to the nearer end: after that discharge, or before that admission.
        """
        survivor = self.survivor_of(patient_id)
        windows = self._windows.get(survivor)
        if windows is None:
            windows = self._windows[survivor] = self._make_windows(survivor)
        nearest: BeforeAdmission | AfterDischarge = BeforeAdmission(None)
        distance = None
        for started, ended, within in windows:  # latest first: nearly always the one meant
            if effective_at_us < started - CLOCK_TOLERANCE_US:
                gap, where = started - effective_at_us, True
            elif ended is not None and effective_at_us > ended + CLOCK_TOLERANCE_US:
                gap, where = effective_at_us - ended, False
            else:
                return within
            if distance is None or gap < distance:
                distance = gap
                nearest = BeforeAdmission(started) if where else AfterDischarge(ended or 0)
        return nearest

    def patient_ids(self, survivor: int) -> tuple[int, ...]:
        """Return every record of a person: the survivor, then the retired ones in order."""
        return self._book.members(survivor)

    def survivor_of(self, patient_id: int) -> int:
        """Return the record a patient id redirects to, or itself."""
        return self._book.survivor_of(patient_id)

    def place_of(self, patient_id: int) -> Place:
        """Return where a patient is, or last was; empty when no stay is known."""
        stay = self._current(self.survivor_of(patient_id))
        return NOWHERE if stay is None else stay.place

    def _make_windows(self, survivor: int) -> list[tuple[int, int | None, InStay]]:
        stays = [stay for stay in self._book.stays_of(survivor) if stay.status != "cancelled"]
        stays.sort(key=lambda stay: (stay.started_at_us, stay.encounter_id), reverse=True)
        return [(stay.started_at_us, stay.ended_at_us, InStay(stay.encounter_id)) for stay in stays]

    def _encounter_at(self, patient_id: int, at_us: int) -> int:
        window = self.admission_window(patient_id, at_us)
        if isinstance(window, InStay):
            return window.encounter_id
        current = self._current(self.survivor_of(patient_id))
        return 0 if current is None else current.encounter_id

    def _current(self, survivor: int) -> Stay | None:
        """Return the open stay in a bed, else any open one, else the latest."""
        stays = [stay for stay in self._book.stays_of(survivor) if stay.status != "cancelled"]
        return max(
            stays, key=lambda s: (s.is_open, s.is_open and s.is_bedded, s.started_at_us, s.encounter_id), default=None
        )

    def _owners(self, named: Names) -> set[int]:
        return {
            self.survivor_of(row.patient_id) for name in named if (row := self._book.identifiers.get(name)) is not None
        }

    def apply(
        self,
        message: Message,
        *,
        raw: RawId,
        feed: str,
        received_at_us: int,
        received_monotonic_ns: int,
        default_authority: str = "",
    ) -> Applied | Rejected:
        """Apply an ADT message; one that is refused changes nothing.

        Args:
            message: an admission, transfer, discharge, update, cancellation or merge.
            raw: where it lies in the log; its position is when we came to know.
            feed: where it came from; names the authority of identifiers when `default_authority` is "".
            received_at_us: when it was received; stands in for a message without any time.
            received_monotonic_ns: the same on the machine's monotonic clock, for latency.
            default_authority: of identifiers sent without one.
        """
        named = _named(message.patient, default_authority or feed)
        if not named:
            return Rejected(Reason.UNKNOWN_PATIENT, "PID-3", "an identifier", "none")
        owners = self._owners(named)
        if len(owners) > 1:
            return _conflict("PID-3", "identifiers of one patient", "identifiers of several")
        patient_id = next(iter(owners), None)
        arrival = _Arrival(raw, feed, received_at_us, received_monotonic_ns)
        if message.is_merge:
            return self._merge(message, patient_id, named, default_authority or feed, arrival)
        if message.movement is None:
            return Rejected(Reason.UNSUPPORTED_MESSAGE, "MSH-9", "a movement or a merge", message.header.trigger)
        return self._move(message, message.movement, patient_id, named, arrival)

    def _move(
        self, message: Message, movement: Movement, known: int | None, named: Names, arrival: _Arrival
    ) -> Applied | Rejected:
        patient_id = self._book.next_patient_id if known is None else known
        stays = [] if known is None else self._book.stays_of(known)
        steps = plan(stays, _told(message, movement, arrival), patient_id, self._book.next_encounter_id)
        if isinstance(steps, Rejected):
            return steps
        position = arrival.raw.position
        released = self._know(patient_id, message.patient, named, position)
        events: list[Moved | Merged] = []
        for step in steps:
            released += self._book.keep(step.stay, position)
            events.append(arrival.moved(patient_id, step.stay, step.movement, step.at_us))
        self._windows.pop(patient_id, None)
        current = self._current(patient_id)
        if steps and current is not None and current.is_open and current.encounter_id != steps[-1].stay.encounter_id:
            # What was told concerns another stay than the present one: say again where the patient is now.
            events.append(arrival.moved(patient_id, current, Movement.UPDATE, steps[-1].at_us))
        return Applied(events, tuple(dict.fromkeys(released)))

    def _merge(
        self, message: Message, known: int | None, named: Names, authority: str, arrival: _Arrival
    ) -> Applied | Rejected:
        retired_names = _names(message.prior_identifiers, authority)
        if not retired_names:
            return Rejected(Reason.IDENTITY_CONFLICT, "MRG-1", "an identifier of the retired record", "none")
        if set(retired_names) & set(named):
            return _conflict("MRG-1", "another record than PID-3", "the same identifier")
        owners = self._owners(retired_names)
        if len(owners) > 1:
            return _conflict("MRG-1", "identifiers of one patient", "identifiers of several")
        retired = next(iter(owners), None)
        survivor = self._book.next_patient_id if known is None else known
        position = arrival.raw.position
        released = self._know(survivor, message.patient, (*named, *retired_names), position)
        if retired is None or retired == survivor:
            return Applied([], tuple(released))
        at_us = _first(message.event_at_us, message.header.message_at_us, arrival.received_at_us)
        self._book.merge(retired, survivor, position, at_us)
        self._windows.pop(survivor, None)
        self._windows.pop(retired, None)
        events: list[Moved | Merged] = [
            Merged(arrival.raw, survivor, retired, arrival.feed, arrival.received_at_us, arrival.received_monotonic_ns)
        ]
        current = self._current(survivor)
        if current is not None and current.is_open:
            events.append(arrival.moved(survivor, current, Movement.UPDATE, at_us))
        return Applied(events, tuple(released))

    def _know(self, patient_id: int, identity: PatientIdentity | None, named: Names, position: int) -> list[str]:
        """Record a person and their identifiers; return the keys that are new."""
        row = self._book.patients.get(patient_id)
        if row is None:
            row = PatientRow(patient_id, None, "", "", "", "unknown", position, position)
        self._book.know_patient(row if identity is None else _described(row, identity), position)
        kinds = {} if identity is None else {storable(i.value): storable(i.kind) for i in identity.identifiers}
        return self._book.know_identifiers(patient_id, ((*name, kinds.get(name[1], "")) for name in named), position)

    def associate_device(
        self, device: str, patient_id: int | None, *, from_us: int, position: int, source: str
    ) -> tuple[str, ...]:
        """Record who wears a device from a time on (None: nobody), and return the keys this may release.

        Args:
            device: as OBX-18 names it.
            patient_id: who wears it now.
            from_us: since when; ends whatever association was then in force, and replaces later ones.
            position: of the log message that said so.
            source: pcim or bedside.
        """
        subject = storable(device)
        kept = [row for row in self._book.devices.get(subject, []) if row.from_us < from_us]
        if kept and (kept[-1].to_us is None or kept[-1].to_us > from_us):
            kept[-1] = msgspec.structs.replace(kept[-1], to_us=from_us, known_from=position)
        if patient_id is not None:
            encounter_id = self._encounter_at(patient_id, from_us) or None
            kept.append(
                AssociationRow(DEVICE, subject, patient_id, encounter_id, from_us, None, source, known_from=position)
            )
        self._book.associate(subject, kept, position)
        return (device_key(subject),)


class _Arrival(msgspec.Struct, frozen=True):
    """How a message came, as its events repeat it."""

    raw: RawId
    feed: str
    received_at_us: int
    received_monotonic_ns: int

    def moved(self, patient_id: int, stay: Stay, movement: Movement, at_us: int) -> Moved:
        return Moved(
            raw=self.raw,
            patient_id=patient_id,
            encounter_id=stay.encounter_id,
            movement=movement,
            at_us=at_us,
            place=stay.place,
            feed=self.feed,
            received_at_us=self.received_at_us,
            received_monotonic_ns=self.received_monotonic_ns,
        )


def _told(message: Message, movement: Movement, arrival: _Arrival) -> Told:
    visit = message.visit
    event_at_us = _first(message.event_at_us, message.header.message_at_us, arrival.received_at_us)
    if visit is None:
        return Told(movement, event_at_us, "", "", NOWHERE, NOWHERE, None, None)
    at_us = event_at_us
    if movement is Movement.ADMIT:
        at_us = _first(visit.admitted_at_us, event_at_us)
    elif movement is Movement.DISCHARGE:
        at_us = _first(visit.discharged_at_us, event_at_us)
    return Told(
        movement,
        at_us,
        storable(visit.visit_number),
        storable(visit.patient_class),
        _storable_place(visit.place),
        _storable_place(visit.prior_place),
        visit.admitted_at_us,
        visit.discharged_at_us,
        care_told(visit),
        ending_told(message.patient, visit),
    )


def _first(*times: int | None) -> int:
    """Return the first time that is known; the last of `times` always is."""
    return next(time for time in times if time is not None)


def _named(identity: PatientIdentity | None, authority: str) -> Names:
    return () if identity is None else _names(identity.identifiers, authority)


def _names(identifiers: Iterable[Identifier], authority: str) -> Names:
    return tuple(dict.fromkeys((storable(i.authority) or authority, storable(i.value)) for i in identifiers if i.value))


def _storable_place(place: Place) -> Place:
    return Place(storable(place.ward), storable(place.room), storable(place.bed), storable(place.facility))


def _described(row: PatientRow, identity: PatientIdentity) -> PatientRow:
    """Return the row with what the message says; what it leaves empty is kept."""
    is_date = _BIRTH_DATE.fullmatch(identity.birth_date) is not None
    is_sexed = identity.sex in _SEXES and identity.sex != "unknown"
    return msgspec.structs.replace(
        row,
        family_name=storable(identity.family_name) or row.family_name,
        given_name=storable(identity.given_name) or row.given_name,
        birth_date=identity.birth_date if is_date else row.birth_date,
        sex=identity.sex if is_sexed else row.sex,
    )


def _conflict(where: str, expected: str, found: str) -> Rejected:
    return Rejected(Reason.IDENTITY_CONFLICT, where, expected, found)
