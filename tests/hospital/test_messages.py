"""The encoders, read back by two other people's parsers and held against golden bytes."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import hl7
import pytest
from hl7apy.consts import VALIDATION_LEVEL
from hl7apy.parser import parse_message
from hypothesis import given
from hypothesis import strategies as st

from hospital.codes import DEVICE_METRICS
from hospital.messages import (
    Bed,
    DeviceValue,
    Header,
    Identifier,
    Order,
    Person,
    Result,
    Visit,
    adt,
    device_report,
    escape,
    fixed_zone,
    merge,
    report,
    timestamp,
)

AT_US = 1_767_225_600_000_000  # 2026-01-01T00:00:00Z
PERSON = Person((Identifier("SYN000001", "VIGIL-SYNTHETIC"),), "Müller", "Zoë", "19500102", "F")
VISIT = Visit("V1", Bed("ICU-A", "02", "1", "SYNTH"), admitted_at_us=AT_US)
HEADER = Header("SYNTH", "HOSP", "M1", AT_US)


def test_an_admission_has_the_bytes_the_standard_asks_for() -> None:
    assert (
        adt("A01", HEADER, PERSON, VISIT, AT_US)
        == (
            "MSH|^~\\&|SYNTH|HOSP|VIGIL|HOSP|20260101000000+0000||ADT^A01^ADT_A01|M1|P|2.5.1||||||UNICODE UTF-8\r"
            "EVN||20260101000000+0000||||20260101000000+0000\r"
            "PID|1||SYN000001^^^VIGIL-SYNTHETIC^MR||Müller^Zoë^^^^^S||19500102|F\r"
            "PV1|1|I|ICU-A^02^1^SYNTH||||||||||||||||V1^^^SYNTH^VN|||||||||||||||||||||||||20260101000000+0000\r"
        ).encode()
    )


def test_a_device_report_has_the_bytes_pcd_01_asks_for() -> None:
    values = [
        DeviceValue(DEVICE_METRICS["heart_rate"], "72", AT_US),
        DeviceValue(DEVICE_METRICS["oxygen_saturation"], "", AT_US),
    ]
    body = device_report(HEADER, Person(PERSON.identifiers), VISIT, "0011EEFFFE000001", AT_US, values)
    assert body == (
        b"MSH|^~\\&|SYNTH^0011EEFFFE000001^EUI-64|HOSP|VIGIL|HOSP|20260101000000+0000||ORU^R01^ORU_R01|M1|P|2.6|||AL|NE"
        b"||UNICODE UTF-8|||IHE_PCD_001^IHE PCD^1.3.6.1.4.1.19376.1.6.1.1.1^ISO\r"
        b"PID|1||SYN000001^^^VIGIL-SYNTHETIC^MR\r"
        b"PV1|1|I|ICU-A^02^1^SYNTH||||||||||||||||V1^^^SYNTH^VN|||||||||||||||||||||||||20260101000000+0000\r"
        b"OBR|1|M1^SYNTH^0011EEFFFE000001^EUI-64|M1^SYNTH^0011EEFFFE000001^EUI-64|182777000^monitoring of patient^SCT"
        b"|||20260101000000+0000\r"
        b"OBX|1||69965^MDC_DEV_MON_PHYSIO_MULTI_PARAM_MDS^MDC|1.0.0.0|||||||X\r"
        b"OBX|2|NM|147842^MDC_ECG_HEART_RATE^MDC|1.5.1.147842|72|264864^MDC_DIM_BEAT_PER_MIN^MDC|||||R|||"
        b"20260101000000+0000||||0011EEFFFE000001^^0011EEFFFE000001^EUI-64\r"
        b"OBX|3||150456^MDC_PULS_OXIM_SAT_O2^MDC|1.3.1.150456|||||||X|||"
        b"20260101000000+0000||||0011EEFFFE000001^^0011EEFFFE000001^EUI-64\r"
    )


def test_a_merge_names_survivor_and_retired() -> None:
    parsed = hl7.parse(merge(HEADER, PERSON, [Identifier("DOE1", "X")], AT_US).decode())
    assert str(parsed.segment("MSH")[9]) == "ADT^A40^ADT_A39"
    assert parsed.extract_field("PID", 1, 3, 1, 1) == "SYN000001"
    assert parsed.extract_field("MRG", 1, 1, 1, 1) == "DOE1"


@pytest.mark.parametrize("trigger", ["A01", "A02", "A03", "A08", "A11", "A13"])
def test_hl7apy_accepts_every_movement(trigger: str) -> None:
    visit = VISIT._replace(prior_bed=Bed("MED-3", "01", "1", "SYNTH"), discharged_at_us=AT_US)
    body = adt(trigger, HEADER, PERSON, visit, AT_US).decode()
    message = parse_message(body, validation_level=VALIDATION_LEVEL.TOLERANT, find_groups=False)
    assert message.msh.msh_9.msh_9_2.value == trigger
    assert message.pid.pid_5.pid_5_1.value == "Müller"
    assert message.pv1.pv1_6.pv1_6_1.value == "MED-3"
    assert message.pv1.pv1_45.value == "20260101000000+0000"


def test_hl7apy_accepts_a_laboratory_report() -> None:
    results = [
        Result("2524-7", "Lactate", "4.1", "mmol/L", status="C", sub_id="1", effective_at_us=AT_US),
        Result("67775-7", "Consciousness", "V", coded=("LA17108-4", "Responds to voice", "LN")),
    ]
    order = Order("L1", "24323-8", "Panel", AT_US, AT_US, status="C")
    message = parse_message(report(HEADER, PERSON, VISIT, order, results).decode(), find_groups=False)
    first, second = message.obx
    assert (first.obx_5.value, first.obx_6.obx_6_1.value, first.obx_11.value) == ("4.1", "mmol/L", "C")
    assert (second.obx_2.value, second.obx_5.obx_5_1.value) == ("CWE", "LA17108-4")
    assert message.obr.obr_3.obr_3_1.value == "L1"


@given(st.text(alphabet=st.characters(exclude_categories=("Cs", "Cc")), max_size=40))
def test_any_name_survives_another_parser(name: str) -> None:
    person = Person((Identifier("1", "X"),), name, "Given")
    parsed = hl7.parse(adt("A08", HEADER, person, VISIT, AT_US).decode())
    field = parsed.segment("PID")[5]
    component = str(field) if not isinstance(field[0], hl7.Repetition) else str(field[0][0])
    assert parsed.unescape(component) == name
    if name:
        assert parsed.extract_field("PID", 1, 5, 1, 2) == "Given"


def test_line_breaks_cannot_end_a_segment() -> None:
    body = adt("A08", HEADER, Person((Identifier("1", "X"),), "a\rPV1|x\nb"), VISIT, AT_US)
    assert [line[:3] for line in body.rstrip(b"\r").split(b"\r")] == [b"MSH", b"EVN", b"PID", b"PV1"]
    assert escape("a\rb\nc") == "a\\X0D\\b\\X0A\\c"


@given(
    st.integers(min_value=-2_000_000_000_000, max_value=4_000_000_000_000),
    st.integers(min_value=-12 * 60, max_value=14 * 60),
)
def test_a_timestamp_reads_back_as_the_same_moment(at_ms: int, offset_min: int) -> None:
    text = timestamp(at_ms * 1000, fixed_zone(offset_min / 60))
    form = "%Y%m%d%H%M%S.%f%z" if "." in text else "%Y%m%d%H%M%S%z"
    read = datetime.strptime(text, form)  # noqa: DTZ007  both forms end in %z
    assert read - datetime(1970, 1, 1, tzinfo=UTC) == timedelta(milliseconds=at_ms)
    assert read.utcoffset() == timezone(timedelta(minutes=offset_min)).utcoffset(None)


def test_a_timestamp_without_zone_has_no_offset() -> None:
    assert timestamp(AT_US + 1_234_000, None) == "20260101000001.234"
