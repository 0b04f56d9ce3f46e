"""HL7 v2 decoding: golden messages, field by field."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from interop import hl7v2
from vocabulary.records import Movement, Place, Reason, Rejected

BERLIN = ZoneInfo("Europe/Berlin")
MSH = "MSH|^~\\&|MON|WARD|||20260301060000||ORU^R01^ORU_R01|C1|P|2.6"
PID = "PID|||123^^^HOSP&1.2.3&ISO^MR~999^^^&9.9.9&ISO^PI||Doe^Jane||19610203|F"
OBR = "OBR|1|PL1^PLACER|FI1^LAB|24317-0^CBC^LN|||20260301055900+0100"
HEART_RATE = "OBX|1|NM|8867-4^Heart rate^LN|1.1|72|/min^^UCUM|||||F|||20260301060000"


def us(*when: int, zone=UTC) -> int:
    return (datetime(*when, tzinfo=zone) - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)


def decode(*segments: str, codec: str = "utf-8", end: str = "\r", zone=BERLIN) -> hl7v2.Message:
    message = hl7v2.decode((end.join(segments) + end).encode(codec), zone)
    assert isinstance(message, hl7v2.Message), message
    return message


def refuse(*segments: str, codec: str = "utf-8") -> Rejected:
    rejected = hl7v2.decode(("\r".join(segments) + "\r").encode(codec), BERLIN)
    assert isinstance(rejected, Rejected), rejected
    return rejected


def reading(*segments: str) -> hl7v2.Reading:
    message = decode(*segments)
    assert message.rejected == []
    (only,) = message.readings
    return only


def value_refused(*segments: str) -> Rejected:
    message = decode(*segments)
    assert message.readings == []
    ((index, why),) = message.rejected
    assert index == 0
    assert message.values == 1
    return why


def obx(kind: str, value: str, *, unit: str = "", status: str = "F", rest: str = "") -> str:
    return f"OBX|1|{kind}|718-7^Hemoglobin^LN||{value}|{unit}|||||{status}|||{rest}"


def test_every_field_of_an_observation_message_arrives():
    message = decode(MSH, PID, "PV1||I|ICU^7^A^SITE&2.2&ISO|||ER^1^B|" + "|" * 11 + "|V77", OBR, HEART_RATE)
    assert message.header == hl7v2.Header(
        field="|", encoding="^~\\&", sending_application="MON", sending_facility="WARD", receiving_application="",
        receiving_facility="", control_id="C1", message_type="ORU", trigger="R01", structure="ORU_R01", version="2.6",
        processing_id="P", message_at_us=us(2026, 3, 1, 5), charset="", accept_ack="", application_ack="",
        codec="utf-8",
    )  # fmt: skip
    assert message.patient == hl7v2.PatientIdentity(
        (hl7v2.Identifier("123", "HOSP", "MR"), hl7v2.Identifier("999", "9.9.9", "PI")),
        "Doe", "Jane", "1961-02-03", "female",
    )  # fmt: skip
    assert message.visit == hl7v2.Visit(
        "I", Place("ICU", "7", "A", "SITE"), Place("ER", "1", "B", ""), "V77", None, None
    )
    assert (message.movement, message.event_at_us, message.is_merge, message.prior_identifiers) == (
        None, None, False, (),
    )  # fmt: skip
    assert message.readings == [
        hl7v2.Reading(
            value_index=0, code="8867-4", code_system="LN", alternate_code="", alternate_system="", value=72.0,
            unit="/min", unit_system="UCUM", effective_at_us=us(2026, 3, 1, 5), status="F", device="", sub_id="1.1",
            order_key="FI1^LAB", value_type="NM",
        )
    ]  # fmt: skip
    assert (message.rejected, message.without_value, message.values) == ([], 0, 1)


@pytest.mark.parametrize(
    ("trigger", "movement"),
    [("A01", Movement.ADMIT), ("A02", Movement.TRANSFER), ("A03", Movement.DISCHARGE), ("A04", Movement.ADMIT),
     ("A08", Movement.UPDATE), ("A11", Movement.CANCEL_ADMIT), ("A13", Movement.CANCEL_DISCHARGE)],
)  # fmt: skip
def test_each_movement_is_named_and_timed(trigger, movement):
    msh = MSH.replace("ORU^R01^ORU_R01", f"ADT^{trigger}")
    pv1 = "PV1||I|ICU^7^A" + "|" * 41 + "20260301050000|20260305110000"
    message = decode(msh, "EVN||20260301061500||||20260301060000.5+0000|", PID, pv1)
    assert message.movement is movement
    assert message.event_at_us == us(2026, 3, 1, 6) + 500_000
    assert message.visit is not None
    assert message.visit.admitted_at_us == us(2026, 3, 1, 4)
    assert message.visit.discharged_at_us == us(2026, 3, 5, 10)
    assert decode(msh, "EVN||20260301061500", PID).event_at_us == us(2026, 3, 1, 5, 15)
    assert decode(msh, PID).event_at_us is None


ADT_MSH = MSH.replace("ORU^R01^ORU_R01", "ADT^A08")


def pv1(**fields: str) -> str:
    """PV1 with fields by number: `_7="x"`."""
    last = max(int(name[1:]) for name in fields)
    return "|".join(["PV1", *(fields.get(f"_{number}", "") for number in range(1, last + 1))])


def test_who_cares_is_read_from_four_fields_with_authority_and_repetitions():
    visit = decode(
        ADT_MSH,
        PID,
        pv1(
            _7="P1^Novak^Pavel^^^Dr^^^HOSP&1.2.3&ISO^L^^^EI",
            _8="R1",
            _9="C1^A^B~C2^C^D^^^^^^&9.9&ISO~C1^A^B",
            _17="1\\T\\2^Smith",
        ),
    ).visit
    assert visit is not None
    assert visit.practitioners == (
        hl7v2.Practitioner("P1", "HOSP", "attending"),
        hl7v2.Practitioner("R1", "", "referring"),
        hl7v2.Practitioner("C1", "", "consulting"),
        hl7v2.Practitioner("C2", "9.9", "consulting"),
        hl7v2.Practitioner("1&2", "", "admitting"),
    )
    assert visit.told_roles == ("attending", "referring", "consulting", "admitting")


@pytest.mark.parametrize(
    ("sent", "roles"),
    [("", ()), ("^^^", ()), ("~", ()), ('""', ("attending",)), ("^Novak^Pavel", ("attending",)),
     ('""^Novak', ("attending",))],
)  # fmt: skip
def test_a_field_not_sent_says_nothing_and_one_without_a_number_says_nobody(sent, roles):
    visit = decode(ADT_MSH, PID, pv1(_7=sent, _19="V1")).visit
    assert visit is not None
    assert (visit.practitioners, visit.told_roles) == ((), roles)


@pytest.mark.parametrize(
    ("sent", "is_vip"),
    [("", None), ("^", None), ('""', False), ("N", False), ("n", False), ("0", False), ("No^not hidden^L", False),
     ("VIP", True), ("Y", True), ("1", True), ("Z", True), ("^very important", True), ("S&x^a^b", True)],
)  # fmt: skip
def test_a_vip_is_whoever_is_not_said_to_be_none(sent, is_vip):
    visit = decode(ADT_MSH, PID, pv1(_16=sent, _19="V1")).visit
    assert visit is not None
    assert visit.is_vip is is_vip


def test_observations_say_nothing_of_care_however_long_their_fields():
    message = decode(MSH, PID, pv1(_7="P1~" * 70, _16="VIP"), OBR, HEART_RATE)
    assert message.values == 1
    assert message.visit is not None
    assert (message.visit.practitioners, message.visit.told_roles, message.visit.is_vip) == ((), (), None)


@pytest.mark.parametrize(
    ("number", "sent"), [(7, "P" * 251), (8, "P^^^^^^^^" + "A" * 251), (9, "P1~" * 64), (17, "~" * 64 + "P")]
)
def test_more_or_longer_practitioners_than_any_stay_has_are_refused(number, sent):
    refused = refuse(ADT_MSH, PID, pv1(**{f"_{number}": sent}))
    assert (refused.reason, refused.where) == (Reason.MALFORMED, f"PV1-{number}")
    assert "PPP" not in refused.found
    assert "AAA" not in refused.found


def test_before_version_2_3_the_event_segment_names_the_trigger():
    assert decode(MSH.replace("ORU^R01^ORU_R01", "ADT"), "EVN|A03", PID).movement is Movement.DISCHARGE
    assert decode(MSH.replace("ORU^R01^ORU_R01", "ORU"), PID, HEART_RATE).values == 1


def test_a_merge_names_survivor_and_retired():
    msh = MSH.replace("ORU^R01^ORU_R01", "ADT^A40^ADT_A39")
    message = decode(msh, "EVN||20260301", PID, "MRG|777^^^HOSP^MR~778")
    assert message.is_merge
    assert message.movement is None
    assert message.prior_identifiers == (hl7v2.Identifier("777", "HOSP", "MR"), hl7v2.Identifier("778", "", ""))
    assert refuse(msh, PID).where == "MRG-1"
    two = refuse(msh, PID, "MRG|777", PID.replace("123", "124"), "MRG|778")
    assert (two.reason, two.where) == (Reason.IDENTITY_CONFLICT, "PID[2]")


def test_other_messages_are_refused_by_name_and_their_header_can_be_read():
    siu = MSH.replace("ORU^R01^ORU_R01", "SIU^S12")
    rejected = refuse(siu, "SCH|1")
    assert (rejected.reason, rejected.where, rejected.found) == (Reason.UNSUPPORTED_MESSAGE, "MSH-9", "SIU^S12")
    header = hl7v2.decode_header(siu.encode())
    assert isinstance(header, hl7v2.Header)
    assert (header.control_id, header.message_type, header.trigger) == ("C1", "SIU", "S12")


@pytest.mark.parametrize(
    ("segments", "reason", "where"),
    [
        (["PID|1"], Reason.MALFORMED, "MSH"),
        ([""], Reason.MALFORMED, "MSH"),
        (["MSH"], Reason.MALFORMED, "MSH-1"),
        (["MSHA^~\\&"], Reason.MALFORMED, "MSH-1"),
        (["MSH||x"], Reason.MALFORMED, "MSH-2"),
        (["MSH|^^\\&|"], Reason.MALFORMED, "MSH-2"),
        (["MSH|^~\\&|a"], Reason.MALFORMED, "MSH-9"),
        ([MSH.replace("|C1|", "||"), PID], Reason.MALFORMED, "MSH-10"),
        ([MSH, PID, MSH, PID], Reason.MALFORMED, "MSH[2]"),
        (["FHS|^~\\&|", MSH], Reason.UNSUPPORTED_MESSAGE, "MSH"),
        ([MSH.replace("ORU^R01^ORU_R01", "ADT^A01"), "EVN||"], Reason.MALFORMED, "PID"),
        ([MSH.replace("ORU^R01^ORU_R01", "ADT^A01"), "EVN||yesterday", PID], Reason.BAD_TIMESTAMP, "EVN-2"),
        ([MSH.replace("ORU^R01^ORU_R01", "ADT^A01"), PID, "PV1" + "|" * 44 + "noon"], Reason.BAD_TIMESTAMP, "PV1-44"),
        ([MSH, "PID|||" + "~".join("12345678901234567890" * 65)], Reason.MALFORMED, "PID-3"),
        ([MSH, PID, "OBX|1|ST|1||a\x00b"], Reason.MALFORMED, "message"),
        ([MSH + "||||||EBCDIC", PID], Reason.UNSUPPORTED_CHARSET, "MSH-18"),
        ([MSH + "||||||UNICODE UTF-16", PID], Reason.UNSUPPORTED_CHARSET, "MSH-18"),
    ],
)
def test_a_message_that_cannot_be_used_says_why(segments, reason, where):
    rejected = refuse(*segments)
    assert (rejected.reason, rejected.where) == (reason, where)


def test_a_time_of_the_stay_that_cannot_be_read_does_not_cost_the_values():
    message = decode(MSH, PID, "PV1" + "|" * 44 + "noon", HEART_RATE)
    assert message.visit is not None
    assert message.visit.admitted_at_us is None
    assert message.values == 1


@pytest.mark.parametrize("end", ["\r", "\n", "\r\n"])
@pytest.mark.parametrize("mark", ["", "\ufeff", "\r\n"])
def test_segment_ends_and_byte_order_marks_do_not_matter(end, mark):
    message = decode(mark + MSH, PID, OBR, HEART_RATE, end=end)
    assert message == decode(MSH, PID, OBR, HEART_RATE)


def test_a_line_feed_inside_a_field_of_a_message_with_carriage_returns_is_data():
    assert reading(MSH, PID, obx("TX", "one\ntwo")).value == "one\ntwo"


def test_a_line_that_is_no_segment_is_counted_and_the_values_around_it_stay():
    message = decode(MSH, PID, HEART_RATE, "and a stray carriage return", HEART_RATE)
    assert [index for index, _ in message.rejected] == [1]
    assert (message.rejected[0][1].reason, message.rejected[0][1].where) == (Reason.MALFORMED, "after OBX[1]")
    assert [each.value_index for each in message.readings] == [0, 2]


def test_own_delimiters_give_the_same_message():
    usual = decode(MSH, PID, OBR, HEART_RATE)
    own = f"{MSH}\r{PID}\r{OBR}\r{HEART_RATE}".translate(str.maketrans("|^~\\&", "#@*/+")).replace("/min", "//E/min")
    message = hl7v2.decode(own.replace("#//E/min", "#/E/min").encode(), BERLIN)
    assert isinstance(message, hl7v2.Message)
    assert (message.header.field, message.header.encoding) == ("#", "@*/+")
    assert (message.patient, message.readings) == (usual.patient, usual.readings)


def test_a_sender_with_a_component_separator_alone_has_no_repetitions_or_escapes():
    message = decode("MSH|^|MON||||||ORU^R01|C1", "PID|||1~2", obx("ST", "a~b\\F\\c&d"))
    assert message.patient is not None
    assert message.patient.identifiers == (hl7v2.Identifier("1~2", "", ""),)
    assert message.readings[0].value == "a~b\\F\\c&d"


@pytest.mark.parametrize(
    ("escaped", "plain"),
    [
        ("a\\F\\b\\S\\c\\T\\d\\R\\e\\E\\f", "a|b^c&d~e\\f"),
        ("\\X48\\\\X692C\\", "Hi,"),
        ("caf\\XC3A9\\", "café"),
        ("bad\\XC3\\ \\X0\\ \\X00\\", "bad\\XC3\\ \\X0\\ \\X00\\"),
        ("line\\.br\\break \\H\\bold\\N\\", "line\\.br\\break \\H\\bold\\N\\"),
        ("\\unknown\\ and one \\ alone", "\\unknown\\ and one \\ alone"),
        ("\\P\\", "#"),
    ],
)
def test_escape_sequences(escaped, plain):
    assert reading(MSH, PID, obx("TX", escaped)).value == plain


def test_escapes_are_replaced_after_the_cut_into_components():
    message = decode(MSH, "PID|||1\\S\\2^^^A\\T\\B^MR||O\\F\\Hara^A\\S\\B", OBR.replace("FI1", "F\\S\\1"),
                     HEART_RATE.replace("|1.1|", "|1\\T\\1|").replace("8867-4", "88\\S\\67"))  # fmt: skip
    assert message.patient is not None
    assert message.patient.identifiers == (hl7v2.Identifier("1^2", "A&B", "MR"),)
    assert (message.patient.family_name, message.patient.given_name) == ("O|Hara", "A^B")
    assert (message.readings[0].sub_id, message.readings[0].code) == ("1&1", "88^67")
    assert message.readings[0].order_key == "F^1^LAB"


@pytest.mark.parametrize(
    ("declared", "codec", "name"),
    [
        ("", "utf-8", "Müller"), ("", "latin-1", "Müller"), ("ASCII", "latin-1", "Müller"),
        ("UNICODE UTF-8", "utf-8", "Łukasz"), ("UTF-8~UNICODE", "utf-8", "Łukasz"), ("8859/1", "latin-1", "Müller"),
        ("8859/2", "iso8859-2", "Łukasz"), ("8859/5", "iso8859-5", "Иван"), ("8859/15", "iso8859-15", "Žižek"),
        ("GB 18030-2000", "gb18030", "王小明"), ("BIG-5", "big5", "陳功"), ("KS X 1001", "euc_kr", "김"),
        ("~ISO IR87", "iso2022_jp", "山田"), ("", "utf-16", "山田"), ("UNICODE UTF-16", "utf-16-le", "Łukasz"),
        ("", "utf-16-be", "Łukasz"), ("", "utf-32", "Łukasz"), ("", "utf-8-sig", "Łukasz"),
    ],
)  # fmt: skip
def test_character_sets(declared, codec, name):
    msh = f"MSH|^~\\&|MON-{name}|||||" + f"|ORU^R01|C1|P|2.6||||||{declared}"
    message = decode(msh, f"PID|||1||{name}", HEART_RATE, codec=codec)
    assert message.patient is not None
    assert message.patient.family_name == name
    assert message.header.sending_application == f"MON-{name}"
    assert message.readings[0].value == 72.0


def test_bytes_that_are_not_valid_in_the_declared_charset_are_refused():
    rejected = refuse(MSH + "||||||UNICODE UTF-8", "PID|||1||Müller", codec="latin-1")
    assert rejected.reason is Reason.UNSUPPORTED_CHARSET
    assert "Müller" not in rejected.found


@pytest.mark.parametrize(
    ("kind", "value", "expected"),
    [("NM", "7.4", 7.4), ("NM", "-0.5", -0.5), ("NM", "+12", 12.0), ("NM", ".5", 0.5), ("NM", "7.", 7.0),
     ("NM", " 7.4 ", 7.4), ("NM", "1.5e3", 1500.0), ("NM", "7.4^junk", 7.4), ("SN", "^182", 182.0),
     ("SN", "=^1.5", 1.5)],
)  # fmt: skip
def test_numbers(kind, value, expected):
    assert reading(MSH, PID, obx(kind, value)).value == expected


@pytest.mark.parametrize(
    ("kind", "value", "number", "comparator"),
    [("NM", "<0.3", 0.3, "<"), ("NM", "> 100", 100.0, ">"), ("SN", ">=^100", 100.0, ">="), ("SN", "<^5", 5.0, "<")],
)
def test_a_bound_keeps_its_comparator(kind, value, number, comparator):
    got = reading(MSH, PID, obx(kind, value, unit="mg/dL"))
    assert (got.value, got.comparator) == (number, comparator)


def test_a_text_that_is_a_number_is_one_only_beside_a_unit():
    assert reading(MSH, PID, obx("ST", "7.4", unit="g/dL")).value == 7.4
    assert reading(MSH, PID, obx("ST", "<7.4", unit="g/dL")).comparator == "<"
    assert reading(MSH, PID, obx("ST", "7.4")).value == "7.4"
    assert reading(MSH, PID, obx("ST", "see note", unit="g/dL")).value == "see note"


@pytest.mark.parametrize(
    "value", ["abc", "nan", "inf", "1_0", "7,4", "१२", "1e999", "--1", "1.2.3", "+", "0x10", "9" * 40]
)
def test_what_is_no_number_is_rejected_and_not_guessed(value):
    why = value_refused(MSH, PID, obx("NM", value))
    assert (why.reason, why.where) == (Reason.NOT_A_NUMBER, "OBX[1]-5")


@pytest.mark.parametrize(("value", "expected"), [("^1^:^128", "1:128"), ("^3^-^5", "3-5"), (">^1^:^8", ">1:8")])
def test_a_range_or_titre_stays_text(value, expected):
    assert reading(MSH, PID, obx("SN", value)).value == expected


@pytest.mark.parametrize("value", ["~^x", "^x", "%^5", "^1^x^2", "^^:^3", "<^<5"])
def test_a_structured_numeric_that_is_none_is_rejected(value):
    assert value_refused(MSH, PID, obx("SN", value)).reason is Reason.NOT_A_NUMBER


def test_a_coded_value_gives_its_code_system_and_words():
    got = reading(MSH, PID, obx("CWE", "LA17108-4^Alert^LN^A^Wach^L"))
    assert (got.value, got.value_system, got.value_text) == ("LA17108-4", "LN", "Alert")
    alternate = reading(MSH, PID, obx("CE", "^^^A^Wach^L"))
    assert (alternate.value, alternate.value_system, alternate.value_text) == ("A", "L", "Wach")
    words = reading(MSH, PID, obx("CWE", "^^^^^^^^as written"))
    assert (words.value, words.value_system, words.value_text) == ("as written", "", "as written")


@pytest.mark.parametrize(
    ("kind", "value"), [("TS", "20260301^S"), ("DT", "20260301"), ("TM", "0600"), ("DTM", "2026"), ("IS", "A")]
)
def test_times_and_table_values_stay_text(kind, value):
    assert reading(MSH, PID, obx(kind, value)).value == value.partition("^")[0]


@pytest.mark.parametrize("kind", ["ED", "RP", "NA", "HD", "XYZ", ""])
def test_a_value_of_another_kind_is_rejected_without_quoting_it(kind):
    why = value_refused(MSH, PID, obx(kind, "^application^pdf^Base64^SGVsbG8="))
    assert why.reason is Reason.UNSUPPORTED_VALUE_TYPE
    assert "SGVs" not in why.found


def test_each_repetition_is_a_value_of_its_own():
    message = decode(MSH, PID, obx("NM", "60~x~120~"), obx("ST", "a~b"))
    assert [(each.value_index, each.value) for each in message.readings] == [(0, 60.0), (2, 120.0), (3, "a"), (4, "b")]
    assert [(index, why.reason) for index, why in message.rejected] == [(1, Reason.NOT_A_NUMBER)]
    assert message.values == 5


@pytest.mark.parametrize(
    "segment",
    ["OBX|1||69965^MDC_DEV^MDC|1.0.0.0|||||||X", "OBX|1|NM|1||", "OBX", "OBX|", 'OBX|1|NM|1||""', "OBX|1|CWE|1||^^^",
     "OBX|1|NM|1|| |||||||N"],
)  # fmt: skip
def test_a_segment_without_value_is_counted_apart(segment):
    message = decode(MSH, PID, segment, HEART_RATE)
    assert (message.without_value, message.values) == (1, 1)


@pytest.mark.parametrize("status", ["X", "N", "I", "O"])
def test_a_value_beside_a_status_that_means_no_result_is_rejected(status):
    why = value_refused(MSH, PID, obx("NM", "72", status=status))
    assert (why.reason, why.where) == (Reason.MALFORMED, "OBX[1]-11")


@pytest.mark.parametrize("status", ["D", "W"])
@pytest.mark.parametrize("value", ["", '""', "not a number"])
def test_a_deletion_needs_no_valid_value(status, value):
    got = reading(MSH, PID, OBR, obx("NM", value, status=status))
    assert isinstance(got.value, float)
    assert math.isnan(got.value)
    assert (got.status, got.order_key) == (status, "FI1^LAB")


def test_a_deletion_whose_time_cannot_be_read_is_not_lost():
    assert value_refused(MSH, PID, obx("NM", "", status="D", rest="noon")).reason is Reason.BAD_TIMESTAMP


def test_a_correction_keeps_the_identity_of_what_it_corrects():
    first = reading(MSH, PID, OBR, obx("NM", "7.1", status="P"))
    second = reading(MSH.replace("|C1|", "|C2|"), PID, OBR, obx("NM", "7.3", status="C"))
    assert (first.order_key, first.sub_id, first.effective_at_us) == (
        second.order_key, second.sub_id, second.effective_at_us,
    )  # fmt: skip
    assert (first.status, second.status) == ("P", "C")


def test_the_time_is_the_value_s_own_else_the_order_s_else_none():
    own = us(2026, 3, 1, 5)
    order = us(2026, 3, 1, 4, 59)
    assert reading(MSH, PID, OBR, obx("NM", "1", rest="20260301060000")).effective_at_us == own
    assert reading(MSH, PID, OBR, obx("NM", "1", rest='""')).effective_at_us == order
    assert reading(MSH, PID, OBR, obx("NM", "1")).effective_at_us == order
    assert reading(MSH, PID, "OBR|1", obx("NM", "1")).effective_at_us is None


def test_each_order_group_has_its_own_time_and_key():
    second = "OBR|2|PL2||x|||20260301070000"
    message = decode(MSH, PID, OBR, obx("NM", "1"), obx("ST", "a"), second, obx("NM", "2"), obx("ST", "b"))
    assert [(each.value, each.order_key, each.effective_at_us) for each in message.readings] == [
        (1.0, "FI1^LAB", us(2026, 3, 1, 4, 59)),
        ("a", "FI1^LAB", us(2026, 3, 1, 4, 59)),
        (2.0, "PL2", us(2026, 3, 1, 6)),
        ("b", "PL2", us(2026, 3, 1, 6)),
    ]


def test_a_time_that_cannot_be_read_rejects_the_value_alone():
    why = value_refused(MSH, PID, obx("NM", "1", rest="noon"))
    assert (why.reason, why.where, why.found) == (Reason.BAD_TIMESTAMP, "OBX[1]-14", "noon")
    assert value_refused(MSH, PID, "OBR|1||||||noon", obx("NM", "1")).where == "OBR[1]-7"
    message = decode(MSH, PID, HEART_RATE, obx("NM", "1", rest="noon"), HEART_RATE)
    assert [each.value_index for each in message.readings] == [0, 2]


def device_of(msh: str, *segments: str) -> list[str]:
    return [each.device for each in decode(msh, PID, *segments).readings]


def test_the_device_is_the_nearest_that_is_named():
    value = obx("NM", "1")
    gateway = MSH.replace("|MON|", "|GATE^00112233^EUI-64|")
    assert device_of(MSH, value + "||||MON7^NS^AA77^EUI-64") == ["AA77"]
    assert device_of(MSH, value + "||||MON7^NS") == ["MON7"]
    assert device_of(MSH, value) == [""]
    assert device_of(gateway, value, obx("ST", "a")) == ["00112233", "00112233"]
    participant = "PRT||UC||EQUIP||||||PUMP3^^BB88^EUI-64"
    assert device_of(gateway, value, "NTE|1||note", participant, value) == ["BB88", "00112233"]
    assert device_of(gateway, obx("ST", "a"), participant, value) == ["BB88", "00112233"]


def test_a_value_takes_the_device_of_its_container():
    container = "OBX|1||69965^MDC_DEV_MDS^MDC|2.0.0.0|||||||X|||||||MDS2"
    inside = "OBX|2|NM|8867-4^^LN|2.1.1.1|72|||||||F"
    outside = inside.replace("2.1.1.1", "3.1.1.1")
    assert device_of(MSH, container, inside, outside) == ["MDS2", ""]


def test_alternate_codes_and_units_are_kept():
    got = reading(MSH, PID, "OBX|1|NM|HR^Puls^L^8867-4^Heart rate^LN||72|bpm^^L^/min^^UCUM|||||F")
    assert (got.code, got.code_system, got.alternate_code, got.alternate_system) == ("HR", "L", "8867-4", "LN")
    assert (got.unit, got.unit_system) == ("/min", "UCUM")
    mdc = reading(MSH, PID, "OBX|1|NM|1||72|264864^MDC_DIM_BEAT_PER_MIN^MDC^/min^^UCUM|||||F")
    assert (mdc.unit, mdc.unit_system) == ("264864", "MDC")


def test_values_behind_another_patient_s_pid_are_held_back_and_the_first_s_are_kept():
    message = decode(
        MSH, PID, OBR, HEART_RATE, PID.replace("123", "124"), OBR, HEART_RATE, obx("ST", "a~b"), obx("NM", "")
    )
    assert message.patient is not None
    assert message.patient.identifiers[0].value == "123"
    assert [each.value_index for each in message.readings] == [0]
    assert [(index, why.reason) for index, why in message.rejected] == [
        (1, Reason.IDENTITY_CONFLICT), (2, Reason.IDENTITY_CONFLICT), (3, Reason.IDENTITY_CONFLICT),
    ]  # fmt: skip
    again = decode(MSH, PID, HEART_RATE, PID, HEART_RATE, PID.replace("123", "124"), HEART_RATE, PID, HEART_RATE)
    assert [each.value_index for each in again.readings] == [0, 1, 3]


def test_older_identifiers_count_only_where_the_newer_field_names_nobody():
    assert decode(MSH, "PID||OLD^^^A|NEW^^^A|ALT").patient.identifiers == (hl7v2.Identifier("NEW", "A", ""),)
    assert decode(MSH, "PID||OLD^^^A|^^^Hospital^PI|ALT").patient.identifiers == (hl7v2.Identifier("OLD", "A", ""),)
    assert decode(MSH, 'PID|||""|ALT').patient.identifiers == (hl7v2.Identifier("ALT", "", ""),)
    assert decode(MSH, "PID|1").patient.identifiers == ()
    assert decode(MSH, HEART_RATE).patient is None


@pytest.mark.parametrize(
    ("sent", "sex"),
    [
        ("M", "male"),
        ("f", "female"),
        ("O", "other"),
        ("A", "other"),
        ("U", "unknown"),
        ("", "unknown"),
        ("7", "unknown"),
    ],
)
def test_sex(sent, sex):
    assert decode(MSH, f"PID|||1|||||{sent}").patient.sex == sex


def test_empty_lines_without_end_are_refused_before_they_cost_memory():
    rejected = hl7v2.decode(MSH.encode() + b"\r" * 100_000, UTC)
    assert isinstance(rejected, Rejected)
    assert rejected.reason is Reason.TOO_LARGE


def test_more_values_than_bytes_could_honestly_carry_are_refused():
    why = value_refused(MSH, PID, "OBX|1|ST|1||" + "a~" * 50_000)
    assert (why.reason, why.where) == (Reason.TOO_LARGE, "OBX[1]-5")
    rejected = refuse(MSH, PID, *["OBX|1|ST|1||" + "a~" * 1_000] * 50)
    assert rejected.reason is Reason.TOO_LARGE
