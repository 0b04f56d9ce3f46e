"""HL7 v2 messages into records: observations, patients' movements, merges.

Here: ORU^R01 (laboratory and IHE PCD-01) and ADT A01, A02, A03, A04, A08, A11, A13, A40; the door to all `hl7v2_*`.
Not here: framing (interop.mllp), sockets (twin.ingress), code and unit maps (interop.terminology), whose bed it is
(twin.directory).
Source: HL7 v2.3 to v2.9, chapters 2, 3 and 7; IHE PCD TF-2, Device Enterprise Communication.

`decode` takes any bytes: the answer is a Message or a Rejected, never an exception, in time linear in the body and
memory of at most 40 times its size plus 1 MiB.
"""

from __future__ import annotations

from datetime import tzinfo
from functools import lru_cache, partial
from typing import Final, NamedTuple

from interop.hl7v2_ack import acknowledge
from interop.hl7v2_dialect import ABSENT, Dialect, Memo
from interop.hl7v2_header import decode_header, header_of
from interop.hl7v2_observations import ObservationReader
from interop.hl7v2_patients import (
    read_event_code,
    read_event_time,
    read_patient,
    read_prior_identifiers,
    read_visit,
)
from interop.hl7v2_text import read_text, shorten, with_segment_ends
from interop.messages import Header, Identifier, Message, PatientIdentity, Practitioner, Reading, Visit
from vocabulary.records import Movement, Reason, Rejected

__all__ = [
    "Header",
    "Identifier",
    "Message",
    "PatientIdentity",
    "Practitioner",
    "Reading",
    "Visit",
    "acknowledge",
    "decode",
    "decode_header",
]

MOVEMENTS: Final = {
    "A01": Movement.ADMIT,
    "A02": Movement.TRANSFER,
    "A03": Movement.DISCHARGE,
    "A04": Movement.ADMIT,  # registered in the emergency department: the stay begins
    "A08": Movement.UPDATE,
    "A11": Movement.CANCEL_ADMIT,
    "A13": Movement.CANCEL_DISCHARGE,
}
MERGE: Final = "A40"

_BYTES_UNCHECKED: Final = 8_192
_REMEMBERED_SEGMENTS: Final = 2_048
_REMEMBERED_CHARACTERS: Final = 512
_FREE_SEGMENTS: Final = 1_024
_BYTES_PER_SEGMENT: Final = 6
_SUPPORTED: Final = "ORU^R01 or ADT^" + ", ".join((*MOVEMENTS, MERGE))


class _Sender(NamedTuple):
    """One way of writing, and what was said in it: a monitor repeats its PID and PV1 every second."""

    reader: Dialect
    patients: Memo[PatientIdentity | Rejected]
    visits: Memo[Visit | Rejected]


@lru_cache(maxsize=8)
def _sender(field: str, encoding: str, codec: str, zone: tzinfo) -> _Sender:
    """Return the memory for one way of writing: a hospital has few of them."""
    reader = Dialect(field, encoding, codec, zone)
    return _Sender(
        reader,
        Memo(partial(read_patient, reader=reader), _REMEMBERED_SEGMENTS, _REMEMBERED_CHARACTERS),
        Memo(partial(read_visit, reader=reader, is_movement=False), _REMEMBERED_SEGMENTS, _REMEMBERED_CHARACTERS),
    )


def decode(body: bytes, zone: tzinfo) -> Message | Rejected:
    """Return what a message says, or why it cannot be understood.

    Args:
        body: one message as it came, without framing.
        zone: where the clock of the feed hangs, for timestamps without an offset.

    Returns:
        The message; single values that were not understood are in its `rejected`. A message of another kind is a
        Rejected with `UNSUPPORTED_MESSAGE` whose `found` names it; `decode_header` reads it all the same.
    """
    text = read_text(body)
    if isinstance(text, Rejected):
        return text
    if ABSENT in text.text:
        return Rejected(Reason.MALFORMED, "message", "text without NUL characters", "a NUL character")
    sender = _sender(text.text[3], text.msh[1], text.codec, zone)
    reader = sender.reader
    header = header_of(text, reader)
    content = with_segment_ends(text.text)
    if len(body) > _BYTES_UNCHECKED and content.count("\r") > _FREE_SEGMENTS + len(body) // _BYTES_PER_SEGMENT:
        return Rejected(Reason.TOO_LARGE, "message", "segments that hold something", "nearly empty lines")
    trigger = _trigger(header, content, reader)
    if isinstance(trigger, Rejected):
        return trigger
    if not header.control_id:
        return Rejected(Reason.MALFORMED, "MSH-10", "a control id", "none")
    observations = ObservationReader(reader, header, len(body))
    refused = observations.read(content)
    if refused is not None:
        return refused
    return _message(header, trigger, observations, sender)


def _trigger(header: Header, content: str, reader: Dialect) -> str | Rejected:
    """Return the supported trigger event of a message, as MSH-9 names it or, before v2.3, EVN-1."""
    kind, trigger = header.message_type, header.trigger
    if kind == "ORU" and trigger in {"R01", ""}:
        return "R01"
    if kind == "ADT":
        if not trigger:
            trigger = read_event_code("EVN" + content.partition("\rEVN")[2].partition("\r")[0], reader)
        if trigger in MOVEMENTS or trigger == MERGE:
            return trigger
    if not kind:
        return Rejected(Reason.MALFORMED, "MSH-9", "a message type", "none")
    return Rejected(Reason.UNSUPPORTED_MESSAGE, "MSH-9", _SUPPORTED, shorten(f"{kind}^{trigger}"))


def _message(header: Header, trigger: str, observations: ObservationReader, sender: _Sender) -> Message | Rejected:
    """Put together what the segments said, or say what the trigger needs and did not get."""
    others = observations.others
    reader = sender.reader
    is_movement = trigger != "R01"
    patient = sender.patients[others["PID"]] if "PID" in others else None
    visit: Visit | Rejected | None = None
    if "PV1" in others:
        visit = read_visit(others["PV1"], reader, is_movement=True) if is_movement else sender.visits[others["PV1"]]
    event_at_us = read_event_time(others["EVN"], reader) if is_movement and "EVN" in others else None
    prior = read_prior_identifiers(others["MRG"], reader) if "MRG" in others else ()
    if isinstance(patient, Rejected):
        return patient
    if isinstance(visit, Rejected):
        return visit
    if isinstance(event_at_us, Rejected):
        return event_at_us
    if isinstance(prior, Rejected):
        return prior
    if is_movement and patient is None:
        return Rejected(Reason.MALFORMED, "PID", "the patient of an ADT", "none")
    if is_movement and observations.is_about_several:
        return Rejected(Reason.IDENTITY_CONFLICT, "PID[2]", "one patient a message", "another patient's PID")
    if trigger == MERGE and not prior:
        return Rejected(Reason.MALFORMED, "MRG-1", "the identifiers that a merge retires", "none")
    return Message(
        header,
        patient,
        visit,
        MOVEMENTS.get(trigger),
        event_at_us,
        prior,
        trigger == MERGE,
        observations.readings,
        observations.rejected,
        observations.without_value,
    )
