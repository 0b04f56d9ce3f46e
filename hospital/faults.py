"""What goes wrong on the way from a patient to a receiver: each fault named, chosen by a seed, and written down.

Here: the closed list of faults, when each happens (`FaultPlan`), and what a correct receiver makes of it (`Injected`).
Not here: how a fault looks on the wire (hospital.monitors, hospital.ward).
Source: reasons and outcomes are the receiver's own words (vocabulary.records); artefacts after real messages (the
PCD-01 samples and PhysioNet 2012 stays of the data folder).
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Mapping
from enum import StrEnum
from typing import NamedTuple

from vocabulary.records import Outcome, Reason


class Fault(StrEnum):
    """What can go wrong."""

    MOTION = "motion"  # the patient moves: saturation reads low for a sample
    CUFF_FAILURE = "cuff_failure"  # the cuff gives up: "---" where a number belongs
    LEAD_OFF_ZERO = "lead_off_zero"  # a lead falls off: heart rate 0
    LEAD_OFF_BLANK = "lead_off_blank"  # a lead falls off: the row carries no value (OBX-11 X)
    AWAY = "away"  # the patient is in the scanner: nothing is sent
    RETRANSMISSION = "retransmission"  # the gateway never saw the ACK: the same bytes again
    OUTAGE = "outage"  # the network was down: minutes of messages arrive in one burst
    CORRECTION = "correction"  # the laboratory corrects a result (OBX-11 C)
    WITHDRAWAL = "withdrawal"  # the laboratory withdraws a result (OBX-11 D)
    FAHRENHEIT = "fahrenheit"  # another unit, properly labelled
    MILLIMOLAR_GLUCOSE = "millimolar_glucose"  # another unit, properly labelled
    MISLABELLED_UNIT = "mislabelled_unit"  # degrees Fahrenheit under the label Celsius
    UNKNOWN_UNIT = "unknown_unit"
    UNKNOWN_CODE = "unknown_code"
    SKEWED_CLOCK = "skewed_clock"  # the device's clock is minutes off, within tolerance
    FUTURE_CLOCK = "future_clock"  # the device's clock is hours ahead
    CONTROL_ID_CONFLICT = "control_id_conflict"  # the same MSH-10 with another body
    TRAINING = "training"  # MSH-11 T: somebody rehearses on the production line
    MALFORMED = "malformed"  # the header is damaged
    LATE_ADMISSION = "late_admission"  # values arrive before their ADT
    BED_ONLY = "bed_only"  # the monitor knows its bed, not its patient


VERDICTS: Mapping[Fault, tuple[Outcome | None, Reason | None]] = {
    Fault.MOTION: (Outcome.ACCEPTED, None),
    Fault.CUFF_FAILURE: (Outcome.REJECTED, Reason.NOT_A_NUMBER),
    Fault.LEAD_OFF_ZERO: (Outcome.QUARANTINED, Reason.IMPLAUSIBLE_VALUE),
    Fault.LEAD_OFF_BLANK: (None, None),  # no value: counted apart
    Fault.AWAY: (None, None),  # no message
    Fault.RETRANSMISSION: (Outcome.DUPLICATE, Reason.RETRANSMISSION),
    Fault.OUTAGE: (Outcome.ACCEPTED, None),
    Fault.CORRECTION: (Outcome.ACCEPTED, None),
    Fault.WITHDRAWAL: (Outcome.ACCEPTED, None),
    Fault.FAHRENHEIT: (Outcome.ACCEPTED, None),
    Fault.MILLIMOLAR_GLUCOSE: (Outcome.ACCEPTED, None),
    Fault.MISLABELLED_UNIT: (Outcome.QUARANTINED, Reason.IMPLAUSIBLE_VALUE),
    Fault.UNKNOWN_UNIT: (Outcome.REJECTED, Reason.UNKNOWN_UNIT),
    Fault.UNKNOWN_CODE: (Outcome.REJECTED, Reason.UNKNOWN_CODE),
    Fault.SKEWED_CLOCK: (Outcome.ACCEPTED, None),
    Fault.FUTURE_CLOCK: (Outcome.QUARANTINED, Reason.FUTURE_TIME),
    Fault.CONTROL_ID_CONFLICT: (Outcome.QUARANTINED, Reason.CONTROL_ID_CONFLICT),
    Fault.TRAINING: (Outcome.QUARANTINED, Reason.NOT_PRODUCTION),
    Fault.MALFORMED: (Outcome.REJECTED, Reason.MALFORMED),
    Fault.LATE_ADMISSION: (Outcome.ACCEPTED, Reason.UNKNOWN_PATIENT),  # waits under that reason, then is released
    Fault.BED_ONLY: (Outcome.ACCEPTED, None),
}
"""What a correct receiver does with what the fault touched: the ledger's column in the end, and the reason it gives."""

SCHEDULED = tuple(fault for fault in Fault if fault not in {Fault.SKEWED_CLOCK, Fault.BED_ONLY})
"""Faults of a moment; the two others belong to a bed for the whole run."""

_RARE = frozenset({Fault.LATE_ADMISSION, Fault.CORRECTION, Fault.WITHDRAWAL, Fault.MILLIMOLAR_GLUCOSE})
"""Faults with few occasions in a short run: the first occasion is taken."""

DEFAULT_RATES: Mapping[Fault, float] = {
    Fault.MOTION: 0.010,
    Fault.CUFF_FAILURE: 0.020,
    Fault.LEAD_OFF_ZERO: 0.002,
    Fault.LEAD_OFF_BLANK: 0.004,
    Fault.AWAY: 0.0008,
    Fault.RETRANSMISSION: 0.004,
    Fault.OUTAGE: 0.0005,
    Fault.CORRECTION: 0.03,
    Fault.WITHDRAWAL: 0.01,
    Fault.FAHRENHEIT: 0.01,
    Fault.MILLIMOLAR_GLUCOSE: 0.05,
    Fault.MISLABELLED_UNIT: 0.002,
    Fault.UNKNOWN_UNIT: 0.001,
    Fault.UNKNOWN_CODE: 0.002,
    Fault.FUTURE_CLOCK: 0.0005,
    Fault.CONTROL_ID_CONFLICT: 0.0005,
    Fault.TRAINING: 0.0005,
    Fault.MALFORMED: 0.0005,
    Fault.LATE_ADMISSION: 0.05,
}
"""How often each happens to a message it could happen to."""


class Injected(NamedTuple):
    """One fault, as it was put on the wire."""

    fault: Fault
    at_us: int  # when it was sent, or should have been
    feed: str
    control_id: str  # "" where no message carries it
    value_index: int | None  # place among the message's values, from 0; None: the whole message, or no value

    @property
    def outcome(self) -> Outcome | None:
        """Return the ledger's column for what it touched; None where nothing is to be counted."""
        return VERDICTS[self.fault][0]

    @property
    def reason(self) -> Reason | None:
        """Return the reason a correct receiver gives; None where it accepts."""
        return VERDICTS[self.fault][1]


class FaultPlan:
    """Chooses faults: each scheduled one happens at least once where the run is long enough, then by its rate."""

    def __init__(
        self,
        rng: random.Random,
        start_us: int,
        hours: float,
        *,
        intensity: float = 1.0,
        only: Iterable[Fault] | None = None,
    ) -> None:
        """Draw when each fault is first due.

        Args:
            rng: the plan's own generator.
            start_us: first moment of the run.
            hours: its length; first occurrences fall due in its first half.
            intensity: multiplies every rate; 0 means no faults at all.
            only: the faults that may happen; None for all.
        """
        allowed = set(Fault if only is None else only) if intensity > 0 else set()
        self._rng = rng
        self._rates: dict[Fault, float] = {
            fault: rate * intensity for fault, rate in DEFAULT_RATES.items() if fault in allowed
        }
        self._due: dict[Fault, int] = {
            fault: start_us + round(rng.uniform(0.0, 0.5) * hours * 3.6e9) for fault in SCHEDULED if fault in allowed
        }
        for fault in _RARE & self._due.keys():
            self._due[fault] = start_us
        self.allowed = frozenset(allowed)
        self.injected: list[Injected] = []

    def choose(self, eligible: Iterable[Fault], at_us: int) -> Fault | None:
        """Return the fault for a message that could suffer the eligible ones, or None: mostly None."""
        for fault in eligible:
            if fault not in self._rates:
                continue
            if self._due.get(fault, at_us + 1) <= at_us or self._rng.random() < self._rates[fault]:
                self._due.pop(fault, None)
                return fault
        return None

    def note(self, fault: Fault, at_us: int, feed: str, control_id: str, value_index: int | None = None) -> None:
        """Write down what was put on the wire."""
        self.injected.append(Injected(fault, at_us, feed, control_id, value_index))

    def counts(self) -> dict[Fault, int]:
        """Return how often each fault was injected."""
        return dict(Counter(entry.fault for entry in self.injected))
