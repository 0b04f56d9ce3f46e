"""qSOFA, the quick sepsis-related organ failure assessment.

Here: the score under its protocol.
Not here: bands (validation/protocols/qsofa.toml), adding up (models.risk.banded), any diagnosis of sepsis.
Source: Singer et al. 2016, JAMA 315:801.
"""

from __future__ import annotations

from models.risk import banded
from models.risk.inputs import Signals
from vocabulary.protocol import Protocol
from vocabulary.snapshot import Score

NAME = "qsofa"


def score(protocol: Protocol, signals: Signals) -> Score:
    """Return qSOFA of a patient's signals, by concept key in canonical units; stale ones count as missing."""
    return banded.score(protocol, signals)
