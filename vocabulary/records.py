"""Canonical records: what flows between rooms once bytes have been understood.

Here: observations, patients' movements, rejections, and the envelopes the normalizer hands to the engine.
Not here: HL7 segments (interop.hl7v2), table rows (stores), the published snapshot (vocabulary.snapshot).
Times are integers, microseconds since 1970-01-01T00:00:00Z (suffix `_us`): exact, compact, and equal on every machine.
Source: field names after HL7 FHIR R4 Observation, Encounter, DeviceAssociation.
"""

from __future__ import annotations

import zlib
from enum import IntEnum, StrEnum

import msgspec

PARTITIONS = 64
"""How many partitions patients are spread over; fixed for ever, since it is baked into every position."""

INCARNATION_SHIFT = 40
"""A log position is `incarnation << 40 | stream sequence`: it keeps growing when the RAW stream is made anew."""


def partition_of(patient_id: int) -> int:
    """Return the partition (0..63) that owns a patient, the same for ever and on every machine."""
    return zlib.crc32(patient_id.to_bytes(8, "big")) % PARTITIONS


def source_key_of(*parts: str) -> int:
    """Return a stable non-negative 63-bit key for what tells one measurement from another of the same concept and time.

    A correction carries the same parts (device, or filler order number and sub-id) as what it corrects.
    """
    joined = "\x1f".join(parts).encode()
    return (zlib.crc32(joined) << 31) | (zlib.adler32(joined) & 0x7FFFFFFF)


class ObservationStatus(IntEnum):
    """FHIR's observation status, as small numbers for packed columns."""

    FINAL = 0
    PRELIMINARY = 1
    CORRECTED = 2
    ENTERED_IN_ERROR = 3  # a deletion (OBX-11 D or W): the measurement no longer counts


class Outcome(StrEnum):
    """What became of a message or a value. `received` is the sum of these and what is still pending."""

    ACCEPTED = "accepted"
    DUPLICATE = "duplicate"
    QUARANTINED = "quarantined"  # understood, but may not reach a twin as it stands; can be released
    REJECTED = "rejected"  # not understood
    SHED = "shed"  # dropped under overload, by rule


class Reason(StrEnum):
    """Why something was not accepted: a closed list, so that it can be counted. Words for people are in `Rejected`."""

    # not understood (rejected)
    MALFORMED = "malformed"  # bytes are not a message of this standard
    UNSUPPORTED_MESSAGE = "unsupported_message"  # a message type or trigger no rule handles
    UNSUPPORTED_CHARSET = "unsupported_charset"
    TOO_LARGE = "too_large"
    BAD_TIMESTAMP = "bad_timestamp"
    NOT_A_NUMBER = "not_a_number"
    UNSUPPORTED_VALUE_TYPE = "unsupported_value_type"
    UNKNOWN_CODE = "unknown_code"
    UNKNOWN_UNIT = "unknown_unit"
    INCOMPATIBLE_UNIT = "incompatible_unit"
    # understood, held back (quarantined)
    IMPLAUSIBLE_VALUE = "implausible_value"
    FUTURE_TIME = "future_time"
    BEFORE_ADMISSION = "before_admission"
    AFTER_DISCHARGE = "after_discharge"
    NO_EFFECTIVE_TIME = "no_effective_time"
    UNKNOWN_PATIENT = "unknown_patient"  # waits for its ADT
    UNASSOCIATED_DEVICE = "unassociated_device"  # waits for a device association
    CONTROL_ID_CONFLICT = "control_id_conflict"  # same MSH-10, another body
    NOT_PRODUCTION = "not_production"  # MSH-11 says training or debugging
    IDENTITY_CONFLICT = "identity_conflict"  # identifiers of two patients in one message, or an impossible movement
    # sent before (duplicate)
    RETRANSMISSION = "retransmission"


REJECTED_REASONS = frozenset(
    {
        Reason.MALFORMED,
        Reason.UNSUPPORTED_MESSAGE,
        Reason.UNSUPPORTED_CHARSET,
        Reason.TOO_LARGE,
        Reason.BAD_TIMESTAMP,
        Reason.NOT_A_NUMBER,
        Reason.UNSUPPORTED_VALUE_TYPE,
        Reason.UNKNOWN_CODE,
        Reason.UNKNOWN_UNIT,
        Reason.INCOMPATIBLE_UNIT,
    }
)


def outcome_of(reason: Reason) -> Outcome:
    """Return the ledger's column for a reason."""
    if reason is Reason.RETRANSMISSION:
        return Outcome.DUPLICATE
    return Outcome.REJECTED if reason in REJECTED_REASONS else Outcome.QUARANTINED


class Rejected(msgspec.Struct, frozen=True, array_like=True):
    """Bad data, as a record: what was wrong, where, what was expected, what was found.

    `found` may quote the message, so it is kept only where patient data is kept: never in a log, metric or error.
    """

    reason: Reason
    where: str  # a path a person can follow: "OBX[4]-5", "MSH-9", "PV1-44"
    expected: str
    found: str


class Observation(msgspec.Struct, frozen=True, array_like=True):
    """One value about one patient, in the concept's canonical unit."""

    concept: int  # Concept.number in vocabulary.concepts
    value: float  # NaN when the value is text
    effective_at_us: int
    status: ObservationStatus
    source_key: int  # see source_key_of
    value_index: int  # position of the value in its message (OBX count from 0)
    device: str = ""
    text: str = ""  # for coded and textual concepts; "" for numbers


class RawId(msgspec.Struct, frozen=True, array_like=True):
    """Where a message lies in the log: position (stream incarnation and sequence) and index in its pack."""

    position: int
    index: int


class Observed(msgspec.Struct, frozen=True, array_like=True, tag="observed"):
    """A message's values, for one patient."""

    raw: RawId
    patient_id: int
    feed: str
    received_at_us: int
    received_monotonic_ns: int
    observations: list[Observation]


class Movement(StrEnum):
    """What an ADT message did to a stay."""

    ADMIT = "admit"  # A01
    TRANSFER = "transfer"  # A02
    DISCHARGE = "discharge"  # A03
    UPDATE = "update"  # A08
    CANCEL_ADMIT = "cancel_admit"  # A11
    CANCEL_DISCHARGE = "cancel_discharge"  # A13


class DischargeOutcome(StrEnum):
    """Whether a stay ended in death. What nobody said, or what contradicts itself, stays unknown."""

    UNKNOWN = "unknown"
    SURVIVED = "survived"
    DIED = "died"


class Place(msgspec.Struct, frozen=True, array_like=True):
    """A bed as ADT names it (PV1-3: point of care, room, bed, facility). Empty strings where not sent."""

    ward: str = ""
    room: str = ""
    bed: str = ""
    facility: str = ""

    @property
    def label(self) -> str:
        """Return the bed as a person would say it, e.g. `ICU-2 / 07`."""
        return " / ".join(part for part in (self.ward, self.room, self.bed) if part)

    @property
    def bed_label(self) -> str:
        """Return the bed within its ward, e.g. `08-1`: in many hospitals the room carries the number.

        A bed that names its room itself is told once: room `08`, bed `08-1` is `08-1`.
        """
        if not self.bed or self.bed.startswith(f"{self.room}-"):
            return self.bed or self.room
        return "-".join(part for part in (self.room, self.bed) if part)


class Moved(msgspec.Struct, frozen=True, array_like=True, tag="moved"):
    """A patient's stay changed."""

    raw: RawId
    patient_id: int
    encounter_id: int
    movement: Movement
    at_us: int  # when it happened in the hospital (EVN-6, PV1-44/45), not when it was told
    place: Place
    feed: str
    received_at_us: int
    received_monotonic_ns: int


class Merged(msgspec.Struct, frozen=True, array_like=True, tag="merged"):
    """Two records are one person (A40): `retired` redirects to `survivor`, in both their partitions."""

    raw: RawId
    survivor_id: int
    retired_id: int
    feed: str
    received_at_us: int
    received_monotonic_ns: int


Event = Observed | Moved | Merged


class PartitionBatch(msgspec.Struct, frozen=True, array_like=True, tag="batch"):
    """What the normalizer made of the log for one partition since `previous`. Kept in PostgreSQL until folded."""

    partition: int
    previous: int  # position of the partition's batch before this one (0: none)
    position: int  # last log position this batch covers
    log_time_us: int  # the log's clock at `position`
    events: list[Event]


class Tick(msgspec.Struct, frozen=True, array_like=True, tag="tick"):
    """The log's clock, once a second, to every partition at once."""

    position: int
    log_time_us: int
    last: list[int]  # last batch position of each partition (64): a gap shows at once


class RawItem(msgspec.Struct, frozen=True, array_like=True):
    """One message as it came off a socket."""

    received_at_us: int
    received_monotonic_ns: int
    peer: str  # "host:port" of the sender
    body: bytes  # empty when `blob` or `oversize_bytes` is set
    blob: str = ""  # sha256 of a body kept in the blob store
    oversize_bytes: int = 0  # a body over the feed's limit: its size; `body` then holds the first 4 KiB
    is_truncated: bool = False  # the connection closed inside the message: never acknowledged, kept as evidence
    client: str = ""  # common name of the sender's certificate; "" where the listener asked for none


class RawPack(msgspec.Struct, frozen=True, array_like=True):
    """What one JetStream message in RAW holds: all that was queued at one gateway. No items: a tick."""

    pack_id: str  # also its Nats-Msg-Id, so that a publish retried after a lost ack is stored once
    feed: str
    at_us: int  # ingress's clock when the pack was closed
    items: list[RawItem]
