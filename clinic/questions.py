"""What the pages ask of others: the questions of a reader of the stores, and of what is live.

Here: the two protocols, and the plain values their answers are made of.
Not here: answering them from PostgreSQL (clinic.readers) or from the bus (twin.bus).
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Sequence
from typing import Protocol

import msgspec

from governance.statements import ServingRow
from vocabulary.records import ObservationStatus
from vocabulary.snapshot import Publication, SnapshotKey


class Person(msgspec.Struct, frozen=True):
    """Who a patient is, as far as a page may say."""

    patient_id: int
    family_name: str = ""
    given_name: str = ""
    birth_date: str = ""  # ISO date, or ""
    sex: str = "unknown"  # FHIR administrative gender
    is_synthetic: bool = False  # not a real person: generated


class Stay(msgspec.Struct, frozen=True):
    """An open stay: a bed that must be on the board even when no snapshot was heard yet."""

    patient_id: int
    ward: str
    bed: str
    started_at_us: int = 0  # 0: not told


class Measured(msgspec.Struct, frozen=True):
    """One kept value in its concept's canonical unit, with what tells it from others and where it came from."""

    patient_id: int
    concept: int
    value: float | None  # None when `text` carries the value
    text: str
    effective_at_us: int
    received_at_us: int
    status: ObservationStatus
    source_key: int
    device: str
    feed: str
    position: int
    raw_index: int
    value_index: int


class Minute(msgspec.Struct, frozen=True):
    """The medians of one minute, by concept key; a concept without a value in that minute is absent."""

    start_us: int
    medians: dict[str, float]


class ScorePoint(msgspec.Struct, frozen=True):
    """What an aggregate score was at one moment."""

    at_us: int
    total: float | None
    band: str = ""
    is_partial: bool = False


class RiskPoint(msgspec.Struct, frozen=True):
    """What the model in service said of a patient at one moment, as kept."""

    at_us: int
    through_minute: int  # of the stay
    probability: float | None  # None where it abstained
    low: float | None
    high: float | None
    is_high: bool
    model_digest: str = ""  # SHA-256 of the version that said it, hexadecimal


class KeptSnapshot(msgspec.Struct, frozen=True):
    """A published snapshot: its digest always, its canonical bytes only where they were worth keeping."""

    as_of_us: int
    digest: bytes
    body: bytes | None


class FeedSummary(msgspec.Struct, frozen=True):
    """What one sending system is doing."""

    feed: str
    source: str
    last_received_at_us: int
    expected_interval_s: float
    clock_skew_s: float | None
    messages: int
    values: int
    not_accepted: int


class House(msgspec.Struct, frozen=True):
    """How the whole house is doing: who speaks, and how much is held back."""

    feeds: tuple[FeedSummary, ...]
    held_back: dict[str, int]  # open quarantine items by reason


class Readers(Protocol):
    """Questions to the stores. Each may raise UnavailableError; a patient is asked for under its survivor's id."""

    async def people(self, patient_ids: Collection[int]) -> dict[int, Person]:
        """Return who these patients are; unknown ids are absent."""
        ...

    async def stays(self) -> list[Stay]:
        """Return every open stay."""
        ...

    async def survivor(self, patient_id: int) -> int | None:
        """Return the id a patient is kept under (its own, or what it was merged into); None when there is none."""
        ...

    async def find_by_identifier(self, authority: str | None, value: str) -> list[int]:
        """Return the patients a hospital's identifier leads to; `authority` None asks every authority."""
        ...

    async def minutes(self, patient_id: int, from_us: int, to_us: int) -> list[Minute]:
        """Return minute medians in time order, from_us ≤ start < to_us."""
        ...

    async def observations(
        self, patient_id: int, concepts: Sequence[int], from_us: int, to_us: int, *, known_at: int | None = None
    ) -> list[Measured]:
        """Return the current revision of each measurement, from_us ≤ effective < to_us, as known at a log position."""
        ...

    async def revisions(self, patient_id: int, concept: int, effective_at_us: int) -> list[Measured]:
        """Return every revision of the measurements of one concept at one time, entered-in-error ones too."""
        ...

    async def snapshot(self, key: SnapshotKey) -> KeptSnapshot | None:
        """Return a published snapshot; None when it was never published."""
        ...

    async def latest_snapshot(self, patient_id: int) -> bytes | None:
        """Return the canonical bytes of the last snapshot whose body was kept."""
        ...

    async def score_history(
        self, patient_ids: Collection[int], from_us: int, to_us: int
    ) -> dict[int, list[ScorePoint]]:
        """Return NEWS2 over time from kept snapshots, in time order."""
        ...

    async def risk_history(self, patient_id: int, encounter_id: int) -> list[RiskPoint]:
        """Return what the models in service said over one stay, in time order."""
        ...

    async def serving_row(self, serving_id: int) -> ServingRow | None:
        """Return the row of the record that says which model serves; None when there is no such row."""
        ...

    async def keep_shown(self, body: bytes) -> None:
        """Keep a snapshot's body because a person or an EHR was shown it."""
        ...

    async def house(self) -> House:
        """Return the feeds and what is held back."""
        ...

    async def check(self) -> None:
        """Ask the database for a sign of life."""
        ...


class Live(Protocol):
    """What is being published now."""

    @property
    def is_connected(self) -> bool:
        """Return whether the bus is there at this moment."""
        ...

    @property
    def dropped(self) -> int:
        """Return how many messages came that were no publication."""
        ...

    async def snapshots(self) -> dict[int, bytes]:
        """Return the canonical bytes of every patient's latest snapshot, by patient id."""
        ...

    def follow(self) -> AsyncIterator[Publication]:
        """Yield publications as they come, until cancelled. Silent, not ended, while the bus is away."""
        ...
