"""NEWS2 of what was measured, over many rows: the very score a card shows, as a baseline of risk.

Here: the signals of a stay at a minute, each with its concept's own staleness, and the score of them.
Not here: bands (validation/protocols/news2.toml), the score (models.risk.news2), probabilities (models.risk.baselines).

It is a lower bound wherever a component was not measured: intensive care charts no oximetry in the 2012 challenge.
Hence its name, and the coverage that is printed beside it.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from models.feature_table import WHOLE_STAY, Block, FeatureTable
from models.risk import news2
from models.risk.banded_rows import Columns, Totals
from models.stay_series import Bins
from vocabulary import concepts
from vocabulary.protocol import Protocol
from vocabulary.snapshot import SignalState

SIGNALS: Final = (
    "respiratory_rate",
    "oxygen_saturation",
    "arterial_oxygen_saturation",
    "supplemental_oxygen",
    "inspired_oxygen_fraction",
    "oxygen_flow_rate",
    "mechanical_ventilation",
    "systolic_blood_pressure",
    "arterial_systolic_blood_pressure",
    "heart_rate",
    "pulse_rate",
    "glasgow_coma_score",
    "body_temperature",
)

TABLE: Final = FeatureTable(
    name="news2_of_what_was_measured",
    version=1,
    derived=(),
    blocks=(Block(SIGNALS, (WHOLE_STAY,), ("last", "hours_since")),),
)


def score(protocol: Protocol, bins: Bins, stays: NDArray[np.int32], minutes: NDArray[np.int32]) -> Totals:
    """Return NEWS2 of what was measured and still fresh at each row's minute, and the share of components that was.

    Args:
        protocol: news2 of some version.
        bins: of the stays.
        stays: place of each row's stay.
        minutes: since admission, the last one that counts.
    """
    found = Columns(TABLE, bins, stays, minutes)
    values = np.stack([found[f"{key}_last_stay"] for key in SIGNALS], axis=1)
    hours = np.stack([found[f"{key}_hours_since_stay"] for key in SIGNALS], axis=1)
    known = [concepts.by_key(key) for key in SIGNALS]
    total, coverage = np.full(len(stays), np.nan), np.zeros(len(stays))
    for row in range(len(stays)):
        signals = {
            concept.key: SignalState(
                concept=concept.key,
                value=float(value),
                unit=concept.unit,
                effective_at_us=round((minutes[row] - 60 * since) * 60e6),
                received_at_us=0,
                is_stale=bool(since * 3600 > concept.valid_for_s),
            )
            for concept, value, since in zip(known, values[row], hours[row], strict=True)
            if not np.isnan(value)
        }
        said = news2.score(protocol, signals)
        coverage[row] = said.coverage
        if said.total is not None:
            total[row] = said.total
    return Totals(total, coverage)
