"""The twin snapshot: what clinicians, pages and EHRs read about one patient at one moment.

Here: its shape, its identity, and the canonical bytes its digest is taken over.
Not here: how it is computed (twin.forecast), kept (stores.snapshots), shown (clinic).
"""

from __future__ import annotations

import hashlib
from typing import NamedTuple

import msgspec


class SignalState(msgspec.Struct, frozen=True):
    """The latest value of one concept, as known at the snapshot's position."""

    concept: str  # Concept.key, e.g. "heart_rate"
    value: float | None  # in `unit`; None when `text` carries the value
    unit: str  # UCUM
    effective_at_us: int
    received_at_us: int
    is_stale: bool  # older than the concept's declared validity at `as_of_us`
    device: str = ""
    text: str = ""
    change_per_hour: float | None = None  # slope of the last hour's minute medians; None below 3 minutes with data
    raw_position: int = 0  # provenance: the log message it came from
    raw_index: int = 0
    status: str = "final"


class Score(msgspec.Struct, frozen=True):
    """An aggregate score with everything needed to judge it."""

    name: str  # "NEWS2", "qSOFA", "SIRS", "shock_index"
    protocol: str  # name and version of the bands used, e.g. "news2@1"
    total: float | None  # None when it may not be said
    parts: dict[str, int | float]  # points by component that was measured
    missing: list[str]  # components absent or stale
    coverage: float  # share of components measured, 0..1
    band: str = ""  # the protocol's own word: "low", "low-medium", "medium", "high"; "" when total is None
    statement: str = ""  # one sentence for a person, e.g. "NEWS2 of what was measured (5 of 7)"


class RiskReason(msgspec.Struct, frozen=True):
    """What moved one estimate, in clinical words: the summed exact SHAP values of a group of features."""

    group: str  # key of the group, e.g. "kidney"
    words: str  # for a person: "Kidney function (creatinine, urea, urine output)"
    log_odds: float  # contribution; above zero raises the risk


class RiskForecast(msgspec.Struct, frozen=True):
    """What one approved model says about one patient at one moment, or why it does not."""

    model: str  # "mortality"
    version: int
    title: str  # "Risk of dying in hospital"
    outcome: str  # what is predicted, in full: "death before discharge from this hospital stay"
    probability: float | None  # None where the model abstains
    low: float | None  # interval of the estimate at `level`
    high: float | None
    level: float  # e.g. 0.8
    hours_since_admission: float  # the moment of the estimate: everything charted up to its minute counts
    is_high: bool  # at or above the protocol's attention threshold (and not clamped)
    threshold: float | None  # that threshold
    reasons: list[RiskReason]  # strongest first; empty where the model abstains
    abstention: str  # a fixed word, "" when it speaks: "outside_window", "too_little_data", "stale_input", …
    statement: str  # one sentence for a person; says the abstention's reason
    is_synthetic: bool  # trained on synthetic patients: means nothing clinically
    conditions: list[str]  # conditions and waivers people signed with its approval


class FeedState(msgspec.Struct, frozen=True):
    """Whether what should be speaking about this patient is speaking."""

    feed: str
    last_received_at_us: int
    expected_interval_s: float
    is_silent: bool  # nothing for more than twice the expected interval


class Provenance(msgspec.Struct, frozen=True):
    """What made this snapshot: enough to make it again, bit for bit."""

    code_version: str
    lock_digest: str  # sha256 of requirements.lock, first 16 hex digits
    terminology_version: str
    protocols: dict[str, str]  # protocol name -> version and digest
    model: str = ""  # name@version and digest of the champion that was asked; "" when none is approved
    serving: int = 0  # the serving row it was asked under (stores.serving); 0: none


class TwinSnapshot(msgspec.Struct, frozen=True):
    """One patient's twin at one log position."""

    snapshot_id: str
    patient_id: int
    encounter_id: int
    ward: str
    bed: str
    as_of_us: int  # the log's clock
    position: int
    is_admitted: bool
    signals: list[SignalState]  # ordered by concept number
    scores: list[Score]
    feeds: list[FeedState]
    notices: list[str]  # e.g. "No approved model: NEWS2 is shown."
    provenance: Provenance
    risks: list[RiskForecast] = msgspec.field(default_factory=list)  # champions only: a silent candidate has no card


class SnapshotKey(NamedTuple):
    """The parts of a snapshot id, which says where to look for it."""

    partition: int
    position: int
    patient_id: int


def snapshot_id(key: SnapshotKey) -> str:
    """Return the id `<partition>-<position>-<patient>`: a place in the log, so it needs no index of its own."""
    return f"{key.partition:02d}-{key.position}-{key.patient_id}"


def parse_snapshot_id(text: str) -> SnapshotKey:
    """Split a snapshot id.

    Raises:
        ValueError: `text` is not of the form `<partition>-<position>-<patient>`.
    """
    parts = text.split("-")
    if len(parts) != 3 or not all(part.isascii() and part.isdigit() for part in parts):
        raise ValueError("expected a snapshot id like 07-18233-412")
    return SnapshotKey(int(parts[0]), int(parts[1]), int(parts[2]))


_ENCODER = msgspec.json.Encoder(order="sorted")
_DECODER = msgspec.json.Decoder(TwinSnapshot)


def canonical_bytes(snapshot: TwinSnapshot) -> bytes:
    """Return the snapshot as JSON with sorted keys: the bytes that are hashed, kept and compared in a replay."""
    return _ENCODER.encode(snapshot)


def from_bytes(body: bytes) -> TwinSnapshot:
    """Return the snapshot that `canonical_bytes` wrote."""
    return _DECODER.decode(body)


def digest(body: bytes) -> bytes:
    """Return the 32-byte SHA-256 of a snapshot's canonical bytes."""
    return hashlib.sha256(body).digest()


class Publication(msgspec.Struct, frozen=True, array_like=True):
    """What travels on SNAPSHOTS.<ward>: the snapshot's bytes and when the messages it newly reflects were received."""

    snapshot_id: str
    patient_id: int
    ward: str
    body: bytes
    received_monotonic_ns: list[int]  # for latency, socket to here; not part of the snapshot, so replay is exact
