"""MSH: who sent which message, and how it is written.

Here: `decode_header` for the ACK, and the header of a full decode.
Not here: delimiters and charsets (interop.hl7v2_text), the ACK itself (interop.hl7v2_ack).
Source: HL7 v2.9 chapter 2, section 2.14.9 (MSH).
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final

from interop.hl7v2_dialect import BAD_TIME, Dialect
from interop.hl7v2_text import Text, read_first_line
from interop.messages import Header
from vocabulary.records import Rejected

_PADDING: Final = [""] * 18


@lru_cache(maxsize=8)
def _dialect(field: str, encoding: str, codec: str) -> Dialect:
    return Dialect(field, encoding, codec, None)


def decode_header(body: bytes) -> Header | Rejected:
    """Return a message's header from its first segment alone, or why there is none.

    Cheap, whatever the size of the message, and more forgiving than a full decode: what follows MSH is not looked at.
    `message_at_us` is None where MSH-7 has no offset, since no zone is known here.
    """
    text = read_first_line(body)
    if isinstance(text, Rejected):
        return text
    return header_of(text, _dialect(text.text[3], text.msh[1], text.codec))


def header_of(text: Text, reader: Dialect) -> Header:
    """Return the header of a message whose MSH has been cut into fields."""
    msh = text.msh + _PADDING
    message_type, trigger, structure = reader.message_types[msh[8]]
    at_us = reader.times[msh[6]]
    return Header(
        reader.field,
        msh[1],
        msh[2],
        msh[3],
        msh[4],
        msh[5],
        msh[9].strip(),
        message_type,
        trigger,
        structure,
        msh[11].partition(reader.component)[0].strip(),
        msh[10].partition(reader.component)[0].strip(),
        None if at_us == BAD_TIME else at_us,
        msh[17].strip(),
        msh[14].strip(),
        msh[15].strip(),
        text.codec,
    )
