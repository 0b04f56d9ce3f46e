"""Who a message is about, where the patient lies and who cares for them: PID, PV1, MRG, EVN.

Here: those segments into records.
Not here: who that is in our house (twin.directory), observations (interop.hl7v2_observations).
Source: HL7 v2.6 chapter 3, tables 0112 (discharge disposition) and 0136 (yes/no); NUBC UB-04 patient discharge status
for the codes of 0112 above 42; v2.3 for PID-2 and PID-4, which later versions withdrew, and for CN, the form of PV1-7
to PV1-17 before XCN (its first component is the same).

PV1-36 is of table 0112, which a site may extend: only codes whose meaning is sure are read as alive or dead.

PID-2 and PID-4 are read only where PID-3 names nobody: newer senders repeat PID-3 there, without the authority.
"""

from __future__ import annotations

from typing import Final

from interop.hl7v2_dialect import BAD_TIME, NULL, Dialect
from interop.hl7v2_text import shorten
from interop.hl7v2_time import parse_date
from interop.messages import Identifier, PatientIdentity, Practitioner, Visit
from vocabulary.records import DischargeOutcome, Place, Reason, Rejected

MOST_IDENTIFIERS: Final = 64
"""More repetitions of PID-3 or MRG-1 than any person has: refused, so that memory stays in proportion to the input."""

LONGEST_IDENTIFIER: Final = 250
LONGEST_PLACE: Final = 100
"""Characters of an identifier, its authority, and each part of a place: far beyond what the standard allows (HL7 v2.6:
227 and 20), and short enough for every index that holds them. A longer one would stop the whole log."""

MOST_PRACTITIONERS: Final = 64
"""More people in one role of one stay than any hospital names: refused, for the same reason as identifiers."""

_ROLES: Final = {7: "attending", 8: "referring", 9: "consulting", 17: "admitting"}

_NOT_VIP: Final = frozenset({"N", "NO", "0", "F", "FALSE", "NONE", "NORMAL"})
"""PV1-16 is of table 0099, which every site fills itself. Whatever is neither empty nor one of these protects: a code
we do not know costs somebody a reason to give, the other mistake shows a patient who was to be hidden."""

_DISPOSITIONS: Final = {
    **dict.fromkeys(("20", "40", "41", "42"), DischargeOutcome.DIED),  # expired; at home, in a facility, place unknown
    **dict.fromkeys(
        (*(f"{n:02d}" for n in (*range(1, 9), *range(10, 20), 43, 50, 51, *range(61, 67), 69, 70)), *"12345678"),
        DischargeOutcome.SURVIVED,
    ),
}
"""Left out, so unknown: 09 (the stay goes on as another), 21 to 29 (expired as a state defines it to HL7, to a court of
law to NUBC), 30 to 39 (still a patient), and whatever a site made up."""

_YES_NO: Final = {"Y": True, "N": False}

_SEXES: Final = {"M": "male", "F": "female", "O": "other", "A": "other", "X": "other"}


def read_patient(segment: str, reader: Dialect) -> PatientIdentity | Rejected:
    """Return PID as an identity; its identifiers may be none, as monitors at a bed without a patient send it."""
    fields = _fields(segment, reader, 31)
    identifiers: tuple[Identifier, ...] = ()
    for number in (3, 2, 4):
        found = read_identifiers(fields[number], reader, f"PID-{number}")
        if isinstance(found, Rejected):
            return found
        if found:
            identifiers = found
            break
    name = fields[5].partition(reader.repetition)[0].split(reader.component, 2)
    died_at_us = reader.time(fields[29].partition(reader.repetition)[0]) if fields[29] else None
    return PatientIdentity(
        identifiers=identifiers,
        family_name=reader.plain(name[0]),
        given_name=reader.plain(name[1]) if len(name) > 1 else "",
        birth_date=parse_date(fields[7].partition(reader.component)[0].strip()) if fields[7] else "",
        sex=_SEXES.get(fields[8].partition(reader.component)[0].strip().upper(), "unknown"),
        is_dead=_YES_NO.get(fields[30].partition(reader.component)[0].strip().upper()) if fields[30] else None,
        died_at_us=None if died_at_us == BAD_TIME else died_at_us,
    )


def read_identifiers(field: str, reader: Dialect, where: str) -> tuple[Identifier, ...] | Rejected:
    """Return the identifiers of a repeating CX field, in order, without the empty ones."""
    if not field or field == NULL:
        return ()
    if field.count(reader.repetition) >= MOST_IDENTIFIERS:
        expected = f"at most {MOST_IDENTIFIERS} identifiers"
        return Rejected(Reason.MALFORMED, where, expected, f"{field.count(reader.repetition) + 1}")
    identifiers = []
    for repetition in field.split(reader.repetition):
        parts = (repetition + reader.component * 5).split(reader.component, 5)
        value = reader.plain(parts[0])
        if value:
            identifiers.append(Identifier(value, _authority(parts[3], reader), reader.plain(parts[4])))
    longest = max((max(len(known.value), len(known.authority)) for known in identifiers), default=0)
    if longest > LONGEST_IDENTIFIER:
        return _too_long(where, LONGEST_IDENTIFIER, longest)
    return tuple(identifiers)


def read_visit(segment: str, reader: Dialect, *, is_movement: bool) -> Visit | Rejected:
    """Return PV1 as a visit.

    Args:
        segment: the PV1 segment.
        reader: the message's dialect.
        is_movement: the message moves a stay, so that a time of it that cannot be read makes it useless; beside
            observations such a time is left out.
    """
    fields = _fields(segment, reader, 46)
    times: list[int | None] = []
    for number in (44, 45):
        at_us = reader.time(fields[number].partition(reader.repetition)[0])
        if at_us == BAD_TIME:
            if is_movement:
                return bad_time(f"PV1-{number}", fields[number])
            at_us = None
        times.append(at_us)
    places = {number: _place(fields[number], reader) for number in (3, 6)}
    for number, place in places.items():
        longest = max(map(len, (place.ward, place.room, place.bed, place.facility)))
        if longest > LONGEST_PLACE:
            return _too_long(f"PV1-{number}", LONGEST_PLACE, longest)
    practitioners: list[Practitioner] = []
    told_roles: list[str] = []
    if is_movement:
        for number, role in _ROLES.items():
            if not _says_something(fields[number], reader):
                continue
            found = _read_practitioners(fields[number], reader, f"PV1-{number}", role)
            if isinstance(found, Rejected):
                return found
            practitioners += found
            told_roles.append(role)
    return Visit(
        patient_class=reader.plain(fields[2]),
        place=places[3],
        prior_place=places[6],
        visit_number=reader.plain(fields[19].partition(reader.component)[0]),
        admitted_at_us=times[0],
        discharged_at_us=times[1],
        practitioners=tuple(practitioners),
        told_roles=tuple(told_roles),
        is_vip=_read_vip(fields[16], reader) if is_movement else None,
        outcome=_read_disposition(fields[36], reader) if is_movement else None,
    )


def _read_practitioners(field: str, reader: Dialect, where: str, role: str) -> list[Practitioner] | Rejected:
    """Return the people of a repeating XCN field who have an identifier, each once; none for HL7's null."""
    if field == NULL:
        return []
    if field.count(reader.repetition) >= MOST_PRACTITIONERS:
        expected = f"at most {MOST_PRACTITIONERS} practitioners"
        return Rejected(Reason.MALFORMED, where, expected, f"{field.count(reader.repetition) + 1}")
    found: dict[Practitioner, None] = {}
    for repetition in field.split(reader.repetition):
        parts = (repetition + reader.component * 9).split(reader.component, 9)
        identifier = reader.plain(parts[0])
        if identifier:
            found[Practitioner(identifier, _authority(parts[8], reader), role)] = None
    longest = max((max(len(known.identifier), len(known.authority)) for known in found), default=0)
    if longest > LONGEST_IDENTIFIER:
        return _too_long(where, LONGEST_IDENTIFIER, longest)
    return list(found)


def _read_vip(field: str, reader: Dialect) -> bool | None:
    """Return whether PV1-16 marks the patient; None when it says nothing, False for HL7's null."""
    if not _says_something(field, reader):
        return None
    first = reader.plain(field.partition(reader.repetition)[0].partition(reader.component)[0])
    return field != NULL and first.upper() not in _NOT_VIP


def _read_disposition(field: str, reader: Dialect) -> DischargeOutcome | None:
    """Return how PV1-36 says the stay ended; None when it says nothing, unknown for HL7's null and codes of a site."""
    if not _says_something(field, reader):
        return None
    code = reader.plain(field.partition(reader.repetition)[0].partition(reader.component)[0])
    return _DISPOSITIONS.get(code, DischargeOutcome.UNKNOWN)


def _says_something(field: str, reader: Dialect) -> bool:
    """Return whether there is more in a field than blanks and delimiters."""
    return bool(field.strip(" " + reader.component + reader.repetition + reader.subcomponent))


def read_event_time(segment: str, reader: Dialect) -> int | Rejected | None:
    """Return when an event happened (EVN-6), else when it was recorded (EVN-2), else None."""
    fields = _fields(segment, reader, 7)
    for number in (6, 2):
        at_us = reader.time(fields[number])
        if at_us == BAD_TIME:
            return bad_time(f"EVN-{number}", fields[number])
        if at_us is not None:
            return at_us
    return None


def read_event_code(segment: str, reader: Dialect) -> str:
    """Return EVN-1, which names the trigger in messages older than MSH-9.2."""
    return reader.plain(_fields(segment, reader, 2)[1])


def patient_key(segment: str, reader: Dialect) -> str:
    """Return the raw identifiers of a PID: equal for two PID segments of one person."""
    return reader.field.join(_fields(segment, reader, 5)[2:5])


def read_prior_identifiers(segment: str, reader: Dialect) -> tuple[Identifier, ...] | Rejected:
    """Return MRG-1: the identifiers that a merge retires."""
    return read_identifiers(_fields(segment, reader, 2)[1], reader, "MRG-1")


def bad_time(where: str, found: str) -> Rejected:
    """Return the rejection of a timestamp."""
    return Rejected(Reason.BAD_TIMESTAMP, where, "YYYY[MM[DD[HH[MM[SS[.S]]]]]][+/-ZZZZ], 1800 to 2999", shorten(found))


def _too_long(where: str, limit: int, found: int) -> Rejected:
    return Rejected(Reason.MALFORMED, where, f"at most {limit} characters", f"{found} characters")


def _fields(segment: str, reader: Dialect, count: int) -> list[str]:
    """Return the first `count` fields, padded; field n of the standard is at n."""
    return (segment + reader.field * count).split(reader.field, count)[:count]


def _authority(component: str, reader: Dialect) -> str:
    """Return HD.1, else the universal identifier HD.2."""
    parts = component.split(reader.subcomponent, 2)
    return reader.plain(parts[0]) or (reader.plain(parts[1]) if len(parts) > 1 else "")


def _place(field: str, reader: Dialect) -> Place:
    if not field or field == NULL:
        return Place()
    first = field.partition(reader.repetition)[0]
    ward, room, bed, facility, _ = (first + reader.component * 4).split(reader.component, 4)
    return Place(reader.plain(ward), reader.plain(room), reader.plain(bed), reader.plain(facility))
