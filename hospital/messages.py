"""HL7 v2 messages, written as their senders write them: ADT, laboratory ORU^R01 and IHE PCD-01 device ORU^R01.

Here: segments, fields, escapes and timestamps; every function returns the bytes of one message, segments ended by CR.
Not here: the MLLP block and the socket (hospital.sender), what to say and when (hospital.ward, hospital.stays).
Source: HL7 v2.5.1 chapters 2, 3 and 7; HL7 v2.6 for PCD-01; IHE PCD TF-2, transaction PCD-01; HL7 tables 0001, 0085,
0112, 0136, 0200, 0203, 0354.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from typing import NamedTuple

from hospital.codes import MONITOR, DeviceMetric, DeviceUnit

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_ESCAPES = str.maketrans(
    {"\\": "\\E\\", "|": "\\F\\", "^": "\\S\\", "&": "\\T\\", "~": "\\R\\", "\r": "\\X0D\\", "\n": "\\X0A\\"}
)

_STRUCTURES = {
    "A01": "ADT_A01",
    "A02": "ADT_A02",
    "A03": "ADT_A03",
    "A08": "ADT_A01",
    "A11": "ADT_A09",
    "A13": "ADT_A01",
    "A40": "ADT_A39",
}
"""Message structure of each trigger (HL7 table 0354): several triggers share one."""

HOME, EXPIRED = "01", "20"
"""Discharge dispositions (HL7 table 0112)."""

PCD_01_PROFILE = "IHE_PCD_001^IHE PCD^1.3.6.1.4.1.19376.1.6.1.1.1^ISO"


class Header(NamedTuple):
    """What MSH says about a message."""

    application: str
    facility: str
    control_id: str
    sent_at_us: int
    processing_id: str = "P"
    zone: tzinfo | None = UTC  # None: times without an offset, in the facility's own zone (UTC here)
    receiving_application: str = "VIGIL"


class Identifier(NamedTuple):
    """A patient's number (PID-3): value, who gave it, and HL7 table 0203's type."""

    value: str
    authority: str
    kind: str = "MR"


class Person(NamedTuple):
    """What PID says about a patient."""

    identifiers: tuple[Identifier, ...]
    family_name: str = ""
    given_name: str = ""
    birth_date: str = ""  # YYYYMMDD
    sex: str = ""  # HL7 table 0001: F, M, O, U
    name_kind: str = "S"  # HL7 table 0200: S is a pseudonym
    is_dead: bool = False  # PID-30 is written only for the dead, as most registrations do


class Bed(NamedTuple):
    """PV1-3: point of care, room, bed, facility."""

    ward: str = ""
    room: str = ""
    bed: str = ""
    facility: str = ""


class Practitioner(NamedTuple):
    """Somebody on the staff, as XCN names them."""

    identifier: str
    family_name: str = ""
    given_name: str = ""
    authority: str = ""


class Visit(NamedTuple):
    """What PV1 says about a stay."""

    number: str
    bed: Bed
    prior_bed: Bed | None = None
    patient_class: str = "I"
    admitted_at_us: int | None = None
    discharged_at_us: int | None = None
    attending: Practitioner | None = None
    vip: str = ""  # PV1-16, table 0099: the site's own codes
    disposition: str = ""  # PV1-36, table 0112


class DeviceValue(NamedTuple):
    """One metric of one moment. `text` is written as it is; "" sends no value (OBX-11 X)."""

    metric: DeviceMetric
    text: str
    effective_at_us: int | None
    unit: DeviceUnit | None = None  # None: the metric's own
    code: tuple[str, str, str] | None = None  # another code for the metric: (code, name, system)


class Result(NamedTuple):
    """One OBX of a chart or laboratory report."""

    code: str
    name: str
    text: str
    unit: str = ""
    status: str = "F"  # HL7 table 0085: P, F, C (correction), D (delete), W (wrong patient), X (no result)
    value_type: str = "NM"
    sub_id: str = ""
    effective_at_us: int | None = None
    reference_range: str = ""
    code_system: str = "LN"
    coded: tuple[str, str, str] | None = None  # OBX-5 as CWE (code, display, system)
    unit_system: str = "UCUM"
    alternate: tuple[str, str, str] | None = None  # OBX-3.4 to 3.6: the same thing in another code system


class Order(NamedTuple):
    """What OBR says about a report."""

    filler: str
    code: str
    name: str
    observed_at_us: int
    reported_at_us: int | None = None
    placer: str = ""
    status: str = "F"


def escape(text: str) -> str:
    r"""Write delimiters inside a value as escape sequences: `R&B` becomes `R\T\B`."""
    return text.translate(_ESCAPES)


def timestamp(at_us: int, zone: tzinfo | None = UTC) -> str:
    """Return an HL7 DTM with milliseconds where there are any; with an offset unless `zone` is None (then UTC).

    Args:
        at_us: microseconds since 1970-01-01T00:00:00Z; truncated to milliseconds.
        zone: zone of the wall clock that is written.
    """
    moment = (_EPOCH + timedelta(microseconds=at_us)).astimezone(zone or UTC)
    text = moment.strftime("%Y%m%d%H%M%S")
    if milliseconds := moment.microsecond // 1000:
        text += f".{milliseconds:03d}"
    return text if zone is None else text + moment.strftime("%z")


def fixed_zone(hours: float) -> tzinfo:
    """Return a zone so many hours ahead of UTC."""
    return timezone(timedelta(hours=hours))


def segment(name: str, fields: Mapping[int, str]) -> str:
    """Return one segment: fields counted from 1 as HL7 does, those not given empty, trailing empty ones dropped."""
    last = max((number for number, value in fields.items() if value), default=0)
    return "|".join([name, *(fields.get(number, "") for number in range(1, last + 1))])


def _header(header: Header, message_type: str, version: str, extra: Mapping[int, str]) -> str:
    fields = {
        3: header.application,
        4: header.facility,
        5: header.receiving_application,
        6: header.facility,
        7: timestamp(header.sent_at_us, header.zone),
        9: message_type,
        10: escape(header.control_id),
        11: header.processing_id,
        12: version,
        18: "UNICODE UTF-8",
        **extra,
    }
    # MSH-1 is the separator itself and MSH-2 the encoding characters, so the fields after them start at 3.
    last = max(number for number, value in fields.items() if value)
    return "|".join(["MSH", "^~\\&", *(fields.get(number, "") for number in range(3, last + 1))])


def _identifiers(identifiers: Iterable[Identifier]) -> str:
    return "~".join(f"{escape(i.value)}^^^{escape(i.authority)}^{i.kind}" for i in identifiers)


def _person(person: Person) -> str:
    name = f"{escape(person.family_name)}^{escape(person.given_name)}^^^^^{person.name_kind}"
    fields = {
        1: "1",
        3: _identifiers(person.identifiers),
        5: name if person.family_name or person.given_name else "",
        7: person.birth_date,
        8: person.sex,
        30: "Y" if person.is_dead else "",
    }
    return segment("PID", fields)


def _location(bed: Bed) -> str:
    return "^".join(escape(part) for part in bed).rstrip("^")


def _practitioner(who: Practitioner) -> str:
    """Return an XCN: the identifier is the first component, who gave it the ninth."""
    name = f"{escape(who.identifier)}^{escape(who.family_name)}^{escape(who.given_name)}"
    return f"{name}^^^^^^{escape(who.authority)}".rstrip("^")


def _visit(visit: Visit, zone: tzinfo | None) -> str:
    fields = {
        1: "1",
        2: visit.patient_class,
        3: _location(visit.bed),
        6: _location(visit.prior_bed) if visit.prior_bed else "",
        7: _practitioner(visit.attending) if visit.attending else "",
        16: escape(visit.vip),
        19: escape(visit.number) + "^^^" + escape(visit.bed.facility) + "^VN" if visit.number else "",
        36: visit.disposition,
        44: "" if visit.admitted_at_us is None else timestamp(visit.admitted_at_us, zone),
        45: "" if visit.discharged_at_us is None else timestamp(visit.discharged_at_us, zone),
    }
    return segment("PV1", fields)


def _bytes(segments: Iterable[str]) -> bytes:
    return ("\r".join(segments) + "\r").encode()


def adt(trigger: str, header: Header, person: Person, visit: Visit, happened_at_us: int) -> bytes:
    """Return an ADT message about one patient's stay.

    Args:
        trigger: A01 admit, A02 transfer, A03 discharge, A08 update, A11 cancel admit, A13 cancel discharge.
        header: its EVN-2 is the header's time; messages are told when they are sent.
        person: the patient.
        visit: the stay as it is after the event.
        happened_at_us: when it happened (EVN-6).

    Raises:
        KeyError: a trigger this hospital does not send.
    """
    structure = _STRUCTURES[trigger]
    event = {2: timestamp(header.sent_at_us, header.zone), 6: timestamp(happened_at_us, header.zone)}
    return _bytes(
        [
            _header(header, f"ADT^{trigger}^{structure}", "2.5.1", {}),
            segment("EVN", event),
            _person(person),
            _visit(visit, header.zone),
        ]
    )


def merge(header: Header, survivor: Person, retired: Sequence[Identifier], happened_at_us: int) -> bytes:
    """Return an A40: the identifiers in MRG-1 are the same person as PID, who survives."""
    event = {2: timestamp(header.sent_at_us, header.zone), 6: timestamp(happened_at_us, header.zone)}
    return _bytes(
        [
            _header(header, "ADT^A40^ADT_A39", "2.5.1", {}),
            segment("EVN", event),
            _person(survivor),
            segment("MRG", {1: _identifiers(retired)}),
        ]
    )


def report(header: Header, person: Person, visit: Visit, order: Order, results: Sequence[Result]) -> bytes:
    """Return an ORU^R01 of a laboratory or a chart: one OBR, one OBX a result."""
    zone = header.zone
    request = {
        1: "1",
        2: escape(order.placer),
        3: escape(order.filler) + "^" + header.application,
        4: f"{escape(order.code)}^{escape(order.name)}^LN",
        7: timestamp(order.observed_at_us, zone),
        22: "" if order.reported_at_us is None else timestamp(order.reported_at_us, zone),
        25: order.status,
    }
    segments = [
        _header(header, "ORU^R01^ORU_R01", "2.5.1", {}),
        _person(person),
        _visit(visit, zone),
        segment("OBR", request),
    ]
    segments += [_result(number, result, zone) for number, result in enumerate(results, 1)]
    return _bytes(segments)


def _result(number: int, result: Result, zone: tzinfo | None) -> str:
    value = "^".join(escape(part) for part in result.coded) if result.coded else escape(result.text)
    code = f"{escape(result.code)}^{escape(result.name)}^{result.code_system}"
    if result.alternate:
        code += "^" + "^".join(escape(part) for part in result.alternate)
    fields = {
        1: str(number),
        2: "CWE" if result.coded else result.value_type,
        3: code,
        4: escape(result.sub_id),
        5: value,
        6: f"{escape(result.unit)}^{escape(result.unit)}^{result.unit_system}" if result.unit else "",
        7: escape(result.reference_range),
        11: result.status,
        14: "" if result.effective_at_us is None else timestamp(result.effective_at_us, zone),
    }
    return segment("OBX", fields)


def device_report(
    header: Header, person: Person, visit: Visit, eui64: str, observed_at_us: int, values: Sequence[DeviceValue]
) -> bytes:
    """Return an IHE PCD-01 ORU^R01: the device's row, then one OBX a metric with its place in the device (OBX-4).

    Args:
        header: its application is the gateway's name.
        person: often only a number: a monitor knows little of its patient.
        visit: the bed.
        eui64: the monitor's IEEE EUI-64, 16 hex digits, written in OBX-18.
        observed_at_us: OBR-7.
        values: the metrics, in the order they are written.
    """
    zone = header.zone
    order = f"{escape(header.control_id)}^{header.application}^{eui64}^EUI-64"
    request = {1: "1", 2: order, 3: order, 4: "182777000^monitoring of patient^SCT", 7: timestamp(observed_at_us, zone)}
    code, name, place = MONITOR
    segments = [
        _header(
            header._replace(application=f"{header.application}^{eui64}^EUI-64"),
            "ORU^R01^ORU_R01",
            "2.6",
            {15: "AL", 16: "NE", 21: PCD_01_PROFILE},
        ),
        _person(person),
        _visit(visit, zone),
        segment("OBR", request),
        segment("OBX", {1: "1", 3: f"{code}^{name}^MDC", 4: place, 11: "X"}),
    ]
    segments += [_device_value(number, value, eui64, zone) for number, value in enumerate(values, 2)]
    return _bytes(segments)


def _device_value(number: int, value: DeviceValue, eui64: str, zone: tzinfo | None) -> str:
    metric = value.metric
    unit = value.unit or metric.unit
    code, name, system = value.code or (metric.code, metric.name, "MDC")
    fields = {
        1: str(number),
        2: "NM" if value.text else "",
        3: f"{code}^{name}^{system}",
        4: f"{metric.channel}.{code}",
        5: escape(value.text),
        6: f"{escape(unit.code)}^{escape(unit.name)}^{unit.system}" if value.text else "",
        11: "R" if value.text else "X",
        14: "" if value.effective_at_us is None else timestamp(value.effective_at_us, zone),
        18: f"{eui64}^^{eui64}^EUI-64",
    }
    return segment("OBX", fields)
