"""Acknowledgements: golden bytes, and read back by an independent parser."""

from __future__ import annotations

import hl7
import pytest

from interop import hl7v2
from vocabulary.records import Reason, Rejected

ORU = (
    "MSH|^~\\&|MON^0012^EUI-64|WARD|VIGIL|SITE|20260301060000||ORU^R01^ORU_R01|4711|T|2.6|||AL|NE||UNICODE UTF-8\r"
    "PID|||1^^^H^MR\r"
)
AT_US = 1_772_344_800_123_456  # 2026-03-01T06:00:00.123456Z


def header(text: str, codec: str = "utf-8") -> hl7v2.Header:
    read = hl7v2.decode_header(text.encode(codec))
    assert isinstance(read, hl7v2.Header)
    return read


def test_an_accept_swaps_the_applications_and_echoes_id_version_processing_and_charset():
    assert hl7v2.acknowledge(header(ORU), "CA", control_id="V1", at_us=AT_US) == (
        b"MSH|^~\\&|VIGIL|SITE|MON^0012^EUI-64|WARD|20260301060000.123+0000||ACK^R01^ACK|V1|T|2.6||||||UNICODE UTF-8\r"
        b"MSA|CA|4711\r"
    )


def test_a_rejection_says_why_in_err():
    ack = hl7v2.acknowledge(
        header(ORU), "AR", control_id="V2", at_us=AT_US, text="only ORU^R01 | ADT", reason=Reason.UNSUPPORTED_MESSAGE
    )
    assert ack.split(b"\r")[1:] == [
        b"MSA|AR|4711|only ORU\\S\\R01 \\F\\ ADT",
        b"ERR|||200^Unsupported message type^HL70357|E||||only ORU\\S\\R01 \\F\\ ADT",
        b"",
    ]


def test_an_unreadable_message_is_answered_in_the_usual_delimiters():
    ack = hl7v2.acknowledge(None, "AR", control_id="V3", at_us=0, text="no MSH")
    assert ack == (
        b"MSH|^~\\&|||||19700101000000.000+0000||ACK^ACK|V3|P|2.5.1\rMSA|AR||no MSH\r"
        b"ERR|||207^Application internal error^HL70357|E||||no MSH\r"
    )


@pytest.mark.parametrize(("version", "has_err", "has_text"), [("2.3", False, True), ("2.4", False, True),
                                                              ("2.5.1", True, True), ("2.7", True, False)])  # fmt: skip
def test_the_segments_follow_the_version_of_the_sender(version, has_err, has_text):
    ack = hl7v2.acknowledge(
        header(ORU.replace("|2.6|", f"|{version}|")), "AE", control_id="V", at_us=AT_US, text="busy"
    )
    assert (b"\rERR|" in ack) == has_err
    assert (b"MSA|AE|4711|busy" in ack) == has_text


def test_own_delimiters_and_charset_of_the_sender_are_used():
    text = ORU.replace("|", "#").replace("^", "@").replace("UNICODE UTF-8", "8859/1").replace("VIGIL", "VIGIL-Ä")
    ack = hl7v2.acknowledge(header(text, "latin-1"), "AE", control_id="V#1", at_us=AT_US, text="a@b#c\\d")
    assert ack.startswith(b"MSH#@~\\&#VIGIL-\xc4#SITE#MON@0012@EUI-64#WARD#")
    assert b"#V\\F\\1#" in ack
    assert b"MSA#AE#4711#a\\S\\b\\F\\c\\E\\d\r" in ack


def test_words_cannot_break_out_of_their_field():
    ack = hl7v2.acknowledge(header(ORU), "AE", control_id="V", at_us=AT_US, text="a\rMSA|AA|4711\n\x0b\x1c" + "x" * 999)
    assert ack.count(b"\r") == 3
    assert b"\x1c" not in ack
    assert b"\x0b" not in ack
    assert len(ack) < 1000


def test_an_independent_parser_reads_it_back():
    ack = hl7.parse(hl7v2.acknowledge(header(ORU), "AA", control_id="V9", at_us=AT_US).decode())
    assert str(ack.segment("MSA")[1]) == "AA"
    assert str(ack.segment("MSA")[2]) == "4711"
    assert str(ack.segment("MSH")[10]) == "V9"
    assert str(ack.segment("MSH")[5]) == "MON^0012^EUI-64"


def test_an_unknown_code_is_refused():
    with pytest.raises(ValueError, match="acknowledgement code"):
        hl7v2.acknowledge(None, "OK", control_id="V", at_us=0)


def test_the_header_is_read_from_the_first_segment_alone():
    body = ORU.encode() + b"\xff\xfe broken \x00 rest" * 10
    assert header(ORU) == hl7v2.decode_header(body)
    assert isinstance(hl7v2.decode_header(b"PID|1"), Rejected)


@pytest.mark.parametrize("codec", ["utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_a_wide_message_is_answered_in_its_own_codec(codec):
    read = header(ORU, codec)
    assert (read.control_id, read.sending_facility) == ("4711", "WARD")
    ack = hl7v2.acknowledge(read, "AA", control_id="V", at_us=AT_US)
    assert ack.decode(read.codec).startswith("MSH|^~\\&|VIGIL|")
