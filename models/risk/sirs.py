"""SIRS, the systemic inflammatory response criteria.

Here: the score under its protocol. Respiration is judged by rate or arterial carbon dioxide, whichever gives more.
Not here: bands (validation/protocols/sirs.toml), adding up (models.risk.banded), any diagnosis of sepsis.
Source: Bone et al. 1992, Chest 101:1644.
"""

from __future__ import annotations

from models.risk import banded
from models.risk.inputs import Signals
from vocabulary.protocol import Protocol
from vocabulary.snapshot import Score

NAME = "sirs"


def score(protocol: Protocol, signals: Signals) -> Score:
    """Return SIRS of a patient's signals, by concept key in canonical units; stale ones count as missing."""
    return banded.score(protocol, signals)
