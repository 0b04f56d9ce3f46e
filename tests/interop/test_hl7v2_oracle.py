"""Every real message beside python-hl7, an independent parser: the same fields, or a reason.

The messages are other people's (Microsoft's FHIR converter, the CDC's mapping inventory, IHE PCD-01 captures). Kinds we
do not act on are compared too: their type is changed to ORU^R01, which leaves every other byte as it was.
"""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import hl7
import pytest

from interop import hl7v2
from interop.hl7v2_values import read_number
from vocabulary.records import Reason, Rejected

pytestmark = pytest.mark.shared_data
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
ZONE = timezone(timedelta(hours=2))
NUMERIC = {"NM", "SN"}
UNSUPPORTED = {"ED", "RP", "HD", "DR", "VR", "NA", "MA", "AD", "CP", ""}


def files(shared_data: Path) -> list[Path]:
    found = sorted((shared_data / "hl7v2").rglob("*.hl7"))
    assert len(found) > 250
    return found


def parse(body: bytes) -> hl7.Message:
    text = body.decode("utf-8-sig").replace("\r\n", "\r").replace("\n", "\r").strip()
    return hl7.parse(text)


def part(message: hl7.Message, segment: hl7.Segment, field: int, component: int = 1, repetition: int = 1) -> str:
    """Return one component, unescaped, as python-hl7 cuts it; "" where there is none."""
    try:
        found = segment(field)(repetition)
        text = str(found(component)) if isinstance(found, hl7.Repetition) else (str(found) if component == 1 else "")
    except (IndexError, KeyError):
        return ""
    text = message.unescape(text) if "\\" in text else text
    return "" if text == '""' else text.strip()


def raw(segment: hl7.Segment, field: int) -> str:
    try:
        return str(segment(field))
    except (IndexError, KeyError):
        return ""


def instant(text: str) -> int | None:
    if not text:
        return None
    main, sign, offset = text.partition("+") if "+" in text else text.partition("-")
    main, _, fraction = main.partition(".")
    shape = {4: "%Y", 6: "%Y%m", 8: "%Y%m%d", 10: "%Y%m%d%H", 12: "%Y%m%d%H%M", 14: "%Y%m%d%H%M%S"}[len(main)]
    moment = datetime.strptime(main, shape) + timedelta(seconds=float(f"0.{fraction or 0}"))  # noqa: DTZ007
    zone = datetime.strptime(sign + offset, "%z").tzinfo if offset else ZONE
    return (moment.replace(tzinfo=zone) - EPOCH) // timedelta(microseconds=1)


def as_observations(body: bytes) -> bytes:
    """Return the message with MSH-9 changed to ORU^R01."""
    start = body.index(b"MSH")
    end = min(at for at in (body.find(b"\r"), body.find(b"\n"), len(body)) if at >= 0)
    fields = body[start:end].split(b"|")
    fields[8] = b"ORU^R01"
    if not fields[9]:
        fields[9] = b"made-up"
    return body[:start] + b"|".join(fields) + body[end:]


def expected_unit(message: hl7.Message, segment: hl7.Segment) -> tuple[str, str]:
    unit, system = part(message, segment, 6, 1), part(message, segment, 6, 3)
    alternate, alternate_system = part(message, segment, 6, 4), part(message, segment, 6, 6)
    if alternate and (not unit or (alternate_system == "UCUM" and system not in {"UCUM", "MDC"})):
        return alternate, alternate_system
    return unit, system


def compare_values(body: bytes, counted: Counter[str]) -> None:
    """Compare every OBX, in order, value by value."""
    ours = hl7v2.decode(as_observations(body), ZONE)
    assert isinstance(ours, hl7v2.Message), ours
    theirs = parse(body)
    readings = {reading.value_index: reading for reading in ours.readings}
    rejected = dict(ours.rejected)
    index = without = obr_index = 0
    order_at: int | None = None
    for segment in theirs:
        name = str(segment[0])
        if name == "OBR":
            obr_index += 1
            order_at = instant(part(theirs, segment, 7))
        if name != "OBX":
            continue
        kind, status = part(theirs, segment, 2), part(theirs, segment, 11)
        value_field = raw(segment, 5)
        if not value_field.strip("^~& ") or value_field == '""':
            without += 1
            continue
        repetitions = value_field.split("~")
        for number, repetition in enumerate(repetitions, 1):
            if not repetition.strip("^& "):
                continue
            counted["values"] += 1
            if index in rejected:
                why = rejected[index]
                index += 1
                counted[f"rejected {why.reason}"] += 1
                if why.reason is Reason.UNSUPPORTED_VALUE_TYPE:
                    assert kind in UNSUPPORTED
                elif why.reason is Reason.NOT_A_NUMBER:
                    assert kind in NUMERIC
                else:
                    assert (why.reason, status in {"X", "N", "I", "O"}) == (Reason.MALFORMED, True)
                continue
            reading = readings[index]
            index += 1
            assert reading.code == part(theirs, segment, 3, 1)
            assert reading.code_system == part(theirs, segment, 3, 3)
            assert reading.alternate_code == part(theirs, segment, 3, 4)
            assert reading.alternate_system == part(theirs, segment, 3, 6)
            assert (reading.unit, reading.unit_system) == expected_unit(theirs, segment)
            assert reading.status == status
            assert reading.value_type == kind
            own_at = part(theirs, segment, 14)
            assert reading.effective_at_us == (instant(own_at) if own_at else order_at)
            assert reading.sub_id == theirs.unescape(raw(segment, 4))
            compare_value(theirs, segment, number, kind, reading)
            counted["values equal"] += 1
    debris = sum(why.where.startswith("after") for why in rejected.values())
    assert ours.values - debris == index
    assert ours.without_value == without
    counted["without value"] += without


def compare_value(theirs: hl7.Message, segment: hl7.Segment, number: int, kind: str, reading: hl7v2.Reading) -> None:
    if kind == "NM":
        assert reading.value == float(part(theirs, segment, 5, 1, number))
    elif kind == "SN":
        parts = [part(theirs, segment, 5, component, number) for component in (1, 2, 3, 4)]
        if isinstance(reading.value, float):
            assert (reading.comparator, reading.value) == (parts[0].replace("=", ""), float(parts[1]))
        else:
            assert reading.value == "".join(parts)
    elif kind in {"CE", "CWE"}:
        code, words = (part(theirs, segment, 5, component, number) for component in (1, 2))
        assert reading.value == (code or words or part(theirs, segment, 5, 9, number))
        if code:
            assert (reading.value_system, reading.value_text) == (
                part(theirs, segment, 5, 3, number),
                words or part(theirs, segment, 5, 9, number),
            )
    elif isinstance(reading.value, float):
        parsed = read_number(part(theirs, segment, 5, 1, number))
        assert parsed is not None
        assert reading.unit
        assert parsed.value == reading.value
    elif kind in {"TX", "FT"}:
        assert reading.value == theirs.unescape(raw(segment, 5).split("~")[number - 1])
    else:
        assert reading.value == part(theirs, segment, 5, 1, number)


def test_header_and_patient_of_every_real_message_equal_the_oracle_s(shared_data):
    counted: Counter[str] = Counter()
    for path in files(shared_data):
        body = path.read_bytes()
        theirs = parse(body)
        msh = theirs.segment("MSH")
        header = hl7v2.decode_header(body)
        assert isinstance(header, hl7v2.Header), path
        assert header.sending_application == raw(msh, 3), path
        assert header.sending_facility == raw(msh, 4), path
        assert header.control_id == raw(msh, 10).strip(), path
        assert (header.message_type, header.trigger) == (part(theirs, msh, 9, 1), part(theirs, msh, 9, 2)), path
        assert header.structure == part(theirs, msh, 9, 3), path
        assert header.version == part(theirs, msh, 12), path
        assert header.processing_id == part(theirs, msh, 11), path
        at = part(theirs, msh, 7)
        assert header.message_at_us == (instant(at) if "+" in at or "-" in at else None), path
        counted["headers"] += 1
        pids = [segment for segment in theirs if str(segment[0]) == "PID"]
        decoded = hl7v2.decode(as_observations(body), ZONE)
        if not pids or isinstance(decoded, Rejected):
            assert not pids or decoded.reason is Reason.IDENTITY_CONFLICT, (path, decoded)
            continue
        assert decoded.patient is not None, path
        expected = [
            (value, part(theirs, pids[0], 3, 4, number), part(theirs, pids[0], 3, 5, number))
            for number in range(1, raw(pids[0], 3).count("~") + 2)
            if (value := part(theirs, pids[0], 3, 1, number))
        ]
        found = [(each.value, each.authority, each.kind) for each in decoded.patient.identifiers]
        if expected:
            assert [(value, kind) for value, _, kind in found] == [(value, kind) for value, _, kind in expected], path
            for (_, authority, _), (_, sent, _) in zip(found, expected, strict=True):
                name, universal, *_ = [*sent.split("&"), ""]
                assert authority == (name or universal), path
            counted["identifiers"] += len(expected)
        name = part(theirs, pids[0], 5, 1).partition("&")[0]
        assert decoded.patient.family_name == name, path
        counted["patients"] += 1
    assert counted["headers"] > 250
    assert counted["identifiers"] > 150


def test_every_value_of_every_real_message_equals_the_oracle_s(shared_data):
    counted: Counter[str] = Counter()
    for path in files(shared_data):
        try:
            compare_values(path.read_bytes(), counted)
        except AssertionError as error:
            raise AssertionError(f"{path.name}: {error}") from error
        counted["messages"] += 1
    assert counted["messages"] > 250
    assert counted["values equal"] > 150


def test_every_real_message_is_understood_or_refused_by_name(shared_data):
    outcomes: Counter[str] = Counter()
    for path in files(shared_data):
        decoded = hl7v2.decode(path.read_bytes(), ZONE)
        if isinstance(decoded, Rejected):
            outcomes[decoded.reason] += 1
        else:
            outcomes["understood"] += 1
    assert set(outcomes) <= {"understood", Reason.UNSUPPORTED_MESSAGE, Reason.IDENTITY_CONFLICT}
    assert outcomes["understood"] >= 160


def test_the_mindray_capture_without_patient_bed_or_offset(shared_data):
    body = (shared_data / "hl7v2/pcd01/mindray_vs900_pcd01.hl7").read_bytes()
    message = hl7v2.decode(body, ZONE)
    assert isinstance(message, hl7v2.Message)
    assert message.patient is not None
    assert message.patient.identifiers == ()
    assert message.visit is not None
    assert message.visit.place.label == ""
    assert {reading.device for reading in message.readings} == {"00A0370098007A80"}
    times = {reading.code: reading.effective_at_us for reading in message.readings}
    assert times["150456"] - times["150301"] == (24 * 60 + 36) * 1_000_000
    assert times["150456"] == instant("20191206113452+0200")
