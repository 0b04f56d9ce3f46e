"""NEWS2, the National Early Warning Score.

Here: what is NEWS2's own: saturation scale 2, and naming the arterial sample where it stands in for the oximeter.
Not here: bands and levels (validation/protocols/news2.toml), adding up (models.risk.banded).
Source: Royal College of Physicians, National Early Warning Score (NEWS) 2, 2017.
"""

from __future__ import annotations

from models.risk import banded
from models.risk.inputs import Signals
from vocabulary.protocol import Protocol
from vocabulary.snapshot import Score

NAME = "news2"
_SATURATION = frozenset({"oxygen_saturation"})


def score(protocol: Protocol, signals: Signals, *, uses_scale_2: bool = False) -> Score:
    """Return NEWS2 of a patient's signals.

    Args:
        protocol: news2 of some version.
        signals: by concept key, in canonical units; stale ones count as missing.
        uses_scale_2: whether a clinician has put the patient on saturation scale 2 (hypercapnic respiratory failure
            with a target of 88-92 %). Never guessed: the wrong scale hides deterioration.
    """
    return banded.score(
        protocol,
        signals,
        alternatives=_SATURATION if uses_scale_2 else frozenset(),
        named_by_source=_SATURATION,
    )
