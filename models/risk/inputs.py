"""What a score looks at: the signal that answers for each input, when it is fresh.

Here: which concepts stand for an input and in what order, oxygen and alertness derived from what is charted.
Not here: staleness itself (the snapshot says it), points (models.risk.banded), thresholds (validation/protocols).
Source: RCP 2017 (NEWS2) for what each input means; Glasgow 15 as "alert" after RCP 2017, chart notes on ACVPU.

The rules, all on signals that are not stale:
- Rates, temperature, carbon dioxide, leukocytes: the first of a list that is there. Skin temperature never counts.
- Saturation: the pulse oximeter's, else the arterial sample's, which the score then names.
- Systolic pressure: cuff or arterial line, whichever is newer; the line's when of the same moment.
- Oxygen: any sign of it (said so, inspired fraction above 21 %, a flow) means oxygen, since too many points are safer
  than too few; else any sign of air means air; else a ventilator alone means oxygen. Nothing charted is missing.
- Consciousness: ACVPU or Glasgow, whichever is newer; the worse when of the same moment. Glasgow below 15 is not alert.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import NamedTuple

from vocabulary.protocol import Input
from vocabulary.snapshot import SignalState

AIR_PERCENT = 21.0
"""Inspired oxygen of room air, as ventilators show it."""

GLASGOW_ALERT = 15.0
_ACVPU = frozenset("ACVPU")

_TEMPERATURES = (
    "body_temperature",
    "core_temperature",
    "bladder_temperature",
    "esophageal_temperature",
    "blood_temperature",
    "rectal_temperature",
    "nasopharyngeal_temperature",
    "tympanic_temperature",
)


class Measured(NamedTuple):
    """An input's value and the concept it came from."""

    value: float
    unit: str
    source: str
    effective_at_us: int


Signals = Mapping[str, SignalState]
"""A patient's signals by concept key."""


def measured(name: Input, signals: Signals) -> Measured | None:
    """Return what answers for an input now; None when nothing fresh does."""
    return _READERS[name](signals)


def _fresh(signals: Signals, key: str) -> Measured | None:
    signal = signals.get(key)
    if signal is None or signal.is_stale or signal.value is None or not math.isfinite(signal.value):
        return None
    return Measured(signal.value, signal.unit, key, signal.effective_at_us)


def _first_of(*keys: str) -> Callable[[Signals], Measured | None]:
    def read(signals: Signals) -> Measured | None:
        return next((found for key in keys if (found := _fresh(signals, key)) is not None), None)

    return read


def _systolic(signals: Signals) -> Measured | None:
    cuff = _fresh(signals, "systolic_blood_pressure")
    line = _fresh(signals, "arterial_systolic_blood_pressure")
    if cuff is None or line is None:
        return cuff or line
    return cuff if cuff.effective_at_us > line.effective_at_us else line


def _oxygen(signals: Signals) -> Measured | None:
    direct = [
        (found, found.value > air)
        for key, air in (
            ("supplemental_oxygen", 0.0),
            ("inspired_oxygen_fraction", AIR_PERCENT),
            ("oxygen_flow_rate", 0.0),
        )
        if (found := _fresh(signals, key)) is not None
    ]
    for found, is_oxygen in sorted(direct, key=lambda sign: not sign[1]):
        return found._replace(value=float(is_oxygen), unit="1")
    ventilated = _fresh(signals, "mechanical_ventilation")
    if ventilated is not None and ventilated.value > 0:
        return ventilated._replace(value=1.0, unit="1")
    return None


def _consciousness(signals: Signals) -> Measured | None:
    found = []
    glasgow = _fresh(signals, "glasgow_coma_score")
    if glasgow is not None:
        found.append(glasgow._replace(value=float(glasgow.value < GLASGOW_ALERT), unit="1"))
    charted = signals.get("consciousness")
    if charted is not None and not charted.is_stale and charted.text in _ACVPU:
        found.append(Measured(float(charted.text != "A"), "1", "consciousness", charted.effective_at_us))
    return max(found, key=lambda one: (one.effective_at_us, one.value), default=None)


_READERS: Mapping[Input, Callable[[Signals], Measured | None]] = MappingProxyType(
    {
        Input.RESPIRATORY_RATE: _first_of("respiratory_rate"),
        Input.OXYGEN_SATURATION: _first_of("oxygen_saturation", "arterial_oxygen_saturation"),
        Input.SUPPLEMENTAL_OXYGEN: _oxygen,
        Input.SYSTOLIC_BLOOD_PRESSURE: _systolic,
        Input.HEART_RATE: _first_of("heart_rate", "pulse_rate"),
        Input.CONSCIOUSNESS: _consciousness,
        Input.BODY_TEMPERATURE: _first_of(*_TEMPERATURES),
        Input.ARTERIAL_CARBON_DIOXIDE: _first_of("arterial_co2_pressure"),
        Input.LEUKOCYTES: _first_of("leukocytes"),
    }
)
