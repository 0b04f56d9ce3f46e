"""MSH: who sent which message, and how it is written.

Here: `decode_header` for the ACK, and the header of a full decode.
Not here: delimiters and charsets (interop.hl7v2_text), the ACK itself (interop.hl7v2_ack).
Source: HL7 v2.9 chapter 2, section 2.14.9 (MSH).
"""

from __future__ import annotations

from interop.hl7v2_records import Header
from interop.hl7v2_text import BAD_TIME, Dialect, Text, dialect, read_first_line
from vocabulary.records import Rejected

_FIELDS = 18


def decode_header(body: bytes) -> Header | Rejected:
    """Return a message's header from its first segment alone, or why there is none.

    Cheap, whatever the size of the message, and more forgiving than a full decode: what follows MSH is not looked at.
    `message_at_us` is None where MSH-7 has no offset, since no zone is known here.
    """
    text = read_first_line(body)
    if isinstance(text, Rejected):
        return text
    return header_of(text, dialect(text.text[3], text.msh[1], text.codec, None))


def header_of(text: Text, reader: Dialect) -> Header:
    """Return the header of a message whose MSH has been cut into fields."""
    (
        _,
        encoding,
        sending_application,
        sending_facility,
        receiving_application,
        receiving_facility,
        message_at,
        _,
        message_type_field,
        control_id,
        processing_id,
        version,
        _,
        _,
        accept_ack,
        application_ack,
        _,
        charset,
    ) = (text.msh + [""] * _FIELDS)[:_FIELDS]
    message_type, trigger, structure = reader.components(message_type_field, 3)
    at_us = reader.time(message_at)
    return Header(
        field=reader.field,
        encoding=encoding,
        sending_application=sending_application,
        sending_facility=sending_facility,
        receiving_application=receiving_application,
        receiving_facility=receiving_facility,
        control_id=control_id.strip(),
        message_type=message_type,
        trigger=trigger,
        structure=structure,
        version=version.partition(reader.component)[0].strip(),
        processing_id=processing_id.partition(reader.component)[0].strip(),
        message_at_us=None if at_us == BAD_TIME else at_us,
        charset=charset.strip(),
        accept_ack=accept_ack.strip(),
        application_ack=application_ack.strip(),
        codec=text.codec,
    )
