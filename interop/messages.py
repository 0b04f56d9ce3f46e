"""What one message says about one patient, as records: the same shape whatever standard it came in.

Here: the shapes that every decoder gives out, with no delimiters left in them, in the sender's codes and units.
Not here: reading them from bytes (hl7v2, fhir, ieee11073, wearables, dicom), canonical observations
(vocabulary.records).
Source: HL7 v2.6 chapters 2 (MSH), 3 (PID, PV1, MRG, EVN) and 7 (OBR, OBX), whose names are used throughout.

These structs opt out of the garbage collector: they cannot form a cycle, and thousands are made each second.
"""

from __future__ import annotations

import msgspec

from vocabulary.facts import Fact
from vocabulary.records import DischargeOutcome, Movement, Place, Rejected


class Header(msgspec.Struct, frozen=True, gc=False):
    """MSH. The four application fields are as sent, delimiters included, so that an ACK can echo them.

    Other standards fill what they have (`envelope`).
    """

    field: str  # MSH-1, the field separator
    encoding: str  # MSH-2: component, repetition, escape, subcomponent[, truncation]
    sending_application: str
    sending_facility: str
    receiving_application: str
    receiving_facility: str
    control_id: str
    message_type: str  # "ORU"
    trigger: str  # "R01"
    structure: str  # "ORU_R01" or ""
    version: str  # "2.6" or ""
    processing_id: str  # P production, T training, D debugging, or ""
    message_at_us: int | None  # MSH-7; None when absent, unreadable, or without a zone to read it in
    charset: str  # MSH-18 as sent
    accept_ack: str  # MSH-15: AL, NE, ER, SU or ""
    application_ack: str  # MSH-16
    codec: str  # the Python codec the bytes were read with


def envelope(
    application: str, facility: str, control_id: str, kind: str, message_at_us: int | None, processing_id: str = "P"
) -> Header:
    """Return the header of a message in another standard than HL7 v2.

    Args:
        application: what sent it: a server's address, an AE title, a device's identity.
        facility: where that is; "" where not said.
        control_id: the sender's own identity of this message (resource id and version, SOP Instance UID, device
            sequence): the same id with other bytes is a conflict. "": the bytes themselves are the identity.
        kind: FHIR resource type, SOP class, report type, schema name.
        message_at_us: by the sender's clock; None where not said.
        processing_id: P production, T training, D debugging.
    """
    return Header(
        "",
        "",
        application,
        facility,
        "",
        "",
        control_id,
        kind,
        "",
        "",
        "",
        processing_id,
        message_at_us,
        "",
        "",
        "",
        "",
    )


class Identifier(msgspec.Struct, frozen=True, gc=False):
    """One identifier of a person: CX.1, the assigning authority CX.4 and its type CX.5 (MR, PI, AN, SS …)."""

    value: str
    authority: str
    kind: str


class PatientIdentity(msgspec.Struct, frozen=True, gc=False):
    """PID. `birth_date` is ISO (`1961`, `1961-01` or `1961-01-31`) or ""."""

    identifiers: tuple[Identifier, ...]
    family_name: str
    given_name: str
    birth_date: str
    sex: str  # male, female, other, unknown
    is_dead: bool | None = None  # PID-30; None: not said
    died_at_us: int | None = None  # PID-29; None when absent or unreadable


class Practitioner(msgspec.Struct, frozen=True, gc=False):
    """Somebody who cares for the patient in this stay: XCN.1, its authority XCN.9, and the field it came in.

    Names are not read: whoever asks for a patient is known by an identifier, and a name is a person's own.
    """

    identifier: str
    authority: str
    role: str  # attending PV1-7, referring PV1-8, consulting PV1-9, admitting PV1-17


class Visit(msgspec.Struct, frozen=True, gc=False):
    """PV1. Who cares, and whether the patient is a VIP, are read from movements only.

    `told_roles` names the roles the message speaks of. A role in it without a practitioner is now nobody's: the sender
    emptied the field (`""`), or named people without a number, whom nobody can be told to be. A role not in it is as
    it was.
    """

    patient_class: str  # I inpatient, E emergency, O outpatient … (HL7 table 0004)
    place: Place
    prior_place: Place
    visit_number: str
    admitted_at_us: int | None
    discharged_at_us: int | None
    practitioners: tuple[Practitioner, ...] = ()
    told_roles: tuple[str, ...] = ()
    is_vip: bool | None = None  # PV1-16; None: not said
    outcome: DischargeOutcome | None = None  # PV1-36; None: not said


class Reading(msgspec.Struct, frozen=True, gc=False):
    """One value of one OBX, in the sender's codes and units."""

    value_index: int  # place among the message's values, counted from 0, over readings and rejected values together
    code: str  # OBX-3.1
    code_system: str  # OBX-3.3: LN, MDC, SCT, L …
    alternate_code: str  # OBX-3.4
    alternate_system: str  # OBX-3.6
    value: float | str  # a number, or text; NaN for a deletion that carries no readable number
    unit: str  # OBX-6.1
    unit_system: str  # OBX-6.3: UCUM, MDC, ISO+ …
    effective_at_us: int | None  # OBX-14, else OBR-7, else None
    status: str  # OBX-11 as sent; D and W take a value back
    device: str  # OBX-18, else PRT-10, else the enclosing device's OBX-18, else an EUI-64 of MSH-3, else ""
    sub_id: str  # OBX-4
    order_key: str  # OBR-3, else OBR-2: identifier[^authority]
    value_type: str  # OBX-2
    comparator: str = ""  # "<", "<=", ">", ">=", "<>" where the value is a bound and not a measurement
    value_system: str = ""  # of a coded value: its code system (CWE.3)
    value_text: str = ""  # of a coded value: its words (CWE.2)


class Message(msgspec.Struct, frozen=True, gc=False):
    """One message that was understood; values of it that were not are in `rejected`."""

    header: Header
    patient: PatientIdentity | None
    visit: Visit | None
    movement: Movement | None  # of an ADT other than a merge
    event_at_us: int | None  # EVN-6, else EVN-2
    prior_identifiers: tuple[Identifier, ...]  # MRG-1
    is_merge: bool
    readings: list[Reading]
    rejected: list[tuple[int, Rejected]]  # value_index and why
    without_value: int  # OBX segments that carry no value (OBX-11 X, containers of a device's hierarchy)
    facts: tuple[Fact, ...] = ()  # what is told and is no measurement; each counts as a value

    @property
    def values(self) -> int:
        """Return how many values the message carries, understood or not."""
        return len(self.readings) + len(self.rejected) + len(self.facts)
