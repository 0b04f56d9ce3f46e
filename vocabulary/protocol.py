"""A clinical protocol: the bands of a score and the words for its totals, as plain data.

Here: the shape that validation.protocols reads from signed TOML and models.risk scores with.
Not here: reading and checking files (validation.protocols), scoring (models.risk), any threshold.
"""

from __future__ import annotations

from enum import StrEnum

import msgspec


class Input(StrEnum):
    """What a component may look at. models.risk.inputs says which concepts each is taken from."""

    RESPIRATORY_RATE = "respiratory_rate"
    OXYGEN_SATURATION = "oxygen_saturation"
    SUPPLEMENTAL_OXYGEN = "supplemental_oxygen"  # 1 on oxygen, 0 on air
    SYSTOLIC_BLOOD_PRESSURE = "systolic_blood_pressure"
    HEART_RATE = "heart_rate"
    CONSCIOUSNESS = "consciousness"  # 0 alert, 1 not alert
    BODY_TEMPERATURE = "body_temperature"
    ARTERIAL_CARBON_DIOXIDE = "arterial_carbon_dioxide"
    LEUKOCYTES = "leukocytes"


class Kind(StrEnum):
    """How the components make the total."""

    SUM = "sum"  # points added
    RATIO = "ratio"  # the first component's value over the second's


class Band(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Points for values from `low` to `high`, both included, at the criterion's precision; None: no limit."""

    points: int
    low: float | None = None
    high: float | None = None


class Criterion(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One input judged by bands that together cover every value."""

    input: Input
    unit: str
    """UCUM unit the bands are written in; an input in another unit is not scored."""
    decimals: int
    """The chart's precision: values are rounded to it, halves away from zero, before they are compared."""
    bands: tuple[Band, ...] = ()
    on_air: tuple[Band, ...] = ()
    """Where the bands differ by supplemental oxygen (NEWS2's second saturation scale): on air, and on oxygen."""
    on_oxygen: tuple[Band, ...] = ()


class Component(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One part of a score: the most points of those of its criteria that can be judged."""

    name: str
    criteria: tuple[Criterion, ...]
    alternative: Criterion | None = None
    """Used instead of the first criterion for a patient it was chosen for (NEWS2: saturation scale 2)."""


class Level(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The protocol's word for totals from `at_least` on; `single` also for any one component with so many points."""

    word: str
    at_least: float | None = None
    single: int | None = None


class Protocol(msgspec.Struct, frozen=True):
    """One version of one protocol, with the digest of the file it came from."""

    name: str  # "news2"
    title: str  # "NEWS2"
    version: str
    digest: str  # SHA-256 of the file, hexadecimal
    source: str
    kind: Kind
    components: tuple[Component, ...]
    levels: tuple[Level, ...]  # mildest first

    @property
    def label(self) -> str:
        """Return name and version as a score names them, e.g. `news2@1`."""
        return f"{self.name}@{self.version}"
