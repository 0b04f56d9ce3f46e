"""The ACK that answers an HL7 v2 message.

Here: MSH, MSA and ERR, written in the sender's own delimiters, version and character set.
Not here: when it may be sent (twin.ingress: after durability), reading a message (interop.hl7v2).
Source: HL7 v2.9 chapter 2, sections 2.9 (acknowledgement), 2.14.5 (ERR), 2.14.8 (MSA); tables 0008, 0357, 0516.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Final

from interop.messages import Header
from vocabulary.records import Reason

CODES: Final = frozenset({"AA", "AE", "AR", "CA", "CE", "CR"})
"""HL7 table 0008: application and commit level; accept, error, reject."""

LONGEST_TEXT: Final = 200

_DEFAULT_VERSION: Final = "2.5.1"
_ERR_SINCE: Final = (2, 5)  # before, ERR had another shape
_MSA_TEXT_UNTIL: Final = (2, 7)  # from here on MSA-3 is withdrawn
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_ERRORS: Final = {
    Reason.MALFORMED: ("100", "Segment sequence error"),
    Reason.UNSUPPORTED_MESSAGE: ("200", "Unsupported message type"),
    Reason.NOT_PRODUCTION: ("202", "Unsupported processing id"),
    Reason.BAD_TIMESTAMP: ("102", "Data type error"),
    Reason.NOT_A_NUMBER: ("102", "Data type error"),
    Reason.UNSUPPORTED_CHARSET: ("102", "Data type error"),
    Reason.UNKNOWN_CODE: ("103", "Table value not found"),
    Reason.UNKNOWN_UNIT: ("103", "Table value not found"),
    Reason.UNKNOWN_PATIENT: ("204", "Unknown key identifier"),
    Reason.CONTROL_ID_CONFLICT: ("205", "Duplicate key identifier"),
}
_INTERNAL_ERROR: Final = ("207", "Application internal error")


def acknowledge(
    header: Header | None, code: str, *, control_id: str, at_us: int, text: str = "", reason: Reason | None = None
) -> bytes:
    """Return the ACK to a message, without framing.

    Args:
        header: of the message answered, whose applications change places; None when it could not be read.
        code: AA, AE, AR, CA, CE or CR.
        control_id: ours, of the ACK itself.
        at_us: when it is written, microseconds since the epoch.
        text: words for the sender's operators. They travel and are logged by others: never anything about a patient.
        reason: of an error or a rejection, for ERR-3.

    Raises:
        ValueError: `code` is none of HL7 table 0008.
    """
    if code not in CODES:
        raise ValueError(f"acknowledgement code must be one of {', '.join(sorted(CODES))}, found {code!r}")
    field = header.field if header else "|"
    encoding = header.encoding if header else "^~\\&"
    version = (header.version if header else "") or _DEFAULT_VERSION
    component = encoding[0]
    words = _escaped(text, field, encoding)
    fields = [
        "MSH",
        encoding,
        header.receiving_application if header else "",
        header.receiving_facility if header else "",
        header.sending_application if header else "",
        header.sending_facility if header else "",
        _timestamp(at_us),
        "",
        component.join(part for part in ("ACK", header.trigger if header else "", "ACK") if part),
        _escaped(control_id, field, encoding),
        (header.processing_id if header else "") or "P",
        version,
    ]
    if header and header.charset:
        fields += ["", "", "", "", "", header.charset]
    segments = [field.join(fields)]
    msa = ["MSA", code, header.control_id if header else ""]
    if words and _number_of(version) < _MSA_TEXT_UNTIL:
        msa.append(words)
    segments.append(field.join(msa))
    if code not in {"AA", "CA"} and _number_of(version) >= _ERR_SINCE:
        number, meaning = _ERRORS.get(reason, _INTERNAL_ERROR) if reason else _INTERNAL_ERROR
        error = component.join((number, meaning, "HL70357"))
        segments.append(field.join(("ERR", "", "", error, "E", "", "", "", words)).rstrip(field))
    return ("\r".join(segments) + "\r").encode(header.codec if header else "utf-8", errors="replace")


def _timestamp(at_us: int) -> str:
    at = _EPOCH + timedelta(microseconds=at_us)
    return f"{at:%Y%m%d%H%M%S}.{at.microsecond // 1000:03d}+0000"


def _number_of(version: str) -> tuple[int, int]:
    """Return `2.5.1` as (2, 5); an unreadable version as the default's."""
    major, _, rest = version.partition(".")
    minor = rest.partition(".")[0]
    if major.isascii() and major.isdigit() and minor.isascii() and minor.isdigit() and len(version) < 16:
        return int(major), int(minor)
    return _ERR_SINCE


def _escaped(text: str, field: str, encoding: str) -> str:
    """Return text that cannot be taken for delimiters or segments; control characters become spaces."""
    text = text if len(text) <= LONGEST_TEXT else text[: LONGEST_TEXT - 1] + "…"
    escape = encoding[2:3]
    sequences = dict(zip((field, *encoding[:4]), "FSRET", strict=False))
    out = []
    for character in text:
        if character in sequences:
            out.append(f"{escape}{sequences[character]}{escape}" if escape else " ")
        else:
            out.append(character if character.isprintable() else " ")
    return "".join(out)
