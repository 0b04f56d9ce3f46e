"""SOFA, the Sequential Organ Failure Assessment, of the last 24 hours of a stay, as far as the data carry it.

Here: its six organs as published, computed from minute bins.
Not here: SOFA as recorded with a data set (models.risk.cohort), probabilities of it (models.risk.baselines).
Source: Vincent et al. 1996, Intensive Care Med 22:707, table 3. Where no vasopressor is carried, circulation can score
1 at most: it is a lower bound.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from models.feature_table import Block, Derived, FeatureTable
from models.risk.banded_rows import Bands, Columns, Totals, largest, total
from models.stay_series import Bins

WINDOW_H: Final = 24

OXYGENATION: Final = Bands((100, 200, 300, 400), (4, 3, 2, 1, 0))  # PaO2/FiO2 [mm[Hg]]
WITHOUT_SUPPORT: Final = 2.0
"""Three and four points ask for respiratory support."""
PLATELETS: Final = Bands((20, 50, 100, 150), (4, 3, 2, 1, 0))
BILIRUBIN: Final = Bands((1.2, 2.0, 6.0, 12.0), (0, 1, 2, 3, 4))  # mg/dL
MEAN_PRESSURE: Final = Bands((70,), (1, 0))
# Bins are in single precision: an infusion of exactly 0.1 must not read as more.
DOPAMINE: Final = Bands((1e-9, 5.0 + 1e-5, 15.0 + 1e-5), (0, 2, 3, 4))  # ug/kg/min: any, above 5, above 15
DOBUTAMINE: Final = Bands((1e-9,), (0, 2))
CATECHOLAMINE: Final = Bands((1e-9, 0.1 + 1e-6), (0, 3, 4))  # (nor)epinephrine, ug/kg/min: any, above 0.1
GLASGOW: Final = Bands((6, 10, 13, 15), (4, 3, 2, 1, 0))
CREATININE: Final = Bands((1.2, 2.0, 3.5, 5.0), (0, 1, 2, 3, 4))  # mg/dL
URINE_ML_PER_DAY: Final = Bands((200, 500), (4, 3, 0))

_INFUSIONS = (
    ("dopamine_rate", DOPAMINE),
    ("dobutamine_rate", DOBUTAMINE),
    ("epinephrine_rate", CATECHOLAMINE),
    ("norepinephrine_rate", CATECHOLAMINE),
)

TABLE: Final = FeatureTable(
    name="sofa",
    version=1,
    derived=(
        Derived("mean_pressure", "first_of", ("arterial_mean_blood_pressure", "mean_blood_pressure")),
        Derived(
            "oxygenation_ratio", "ratio", ("arterial_o2_pressure", "inspired_oxygen_fraction"), 12 * 60, scale=100.0
        ),
    ),
    blocks=(
        Block(("oxygenation_ratio", "platelets", "mean_pressure", "glasgow_coma_score"), (WINDOW_H,), ("min",)),
        Block(("bilirubin_total", "creatinine", "mechanical_ventilation"), (WINDOW_H,), ("max",)),
        Block(tuple(key for key, _ in _INFUSIONS), (WINDOW_H,), ("max",)),
        Block(("urine_output",), (WINDOW_H,), ("sum",)),
    ),
)


def score(bins: Bins, stays: NDArray[np.int32], minutes: NDArray[np.int32]) -> Totals:
    """Return SOFA of the 24 hours up to each row's minute, and the share of its six organs measured.

    Args:
        bins: of the stays.
        stays: place of each row's stay.
        minutes: since admission, the last one that counts.
    """
    found = Columns(TABLE, bins, stays, minutes)
    oxygenation = OXYGENATION.of(found["oxygenation_ratio_min_24h"])
    is_supported = found["mechanical_ventilation_max_24h"] > 0
    lungs = np.where(is_supported, oxygenation, np.minimum(oxygenation, WITHOUT_SUPPORT))
    circulation = largest(
        np.stack(
            [
                MEAN_PRESSURE.of(found["mean_pressure_min_24h"]),
                *(bands.of(found[f"{key}_max_24h"]) for key, bands in _INFUSIONS),
            ]
        )
    )
    # A day's urine is known only once a day has passed: a first hour without any is no kidney failure.
    urine = np.where(minutes >= WINDOW_H * 60, found["urine_output_sum_24h"], np.nan)
    kidney = largest(np.stack([CREATININE.of(found["creatinine_max_24h"]), URINE_ML_PER_DAY.of(urine)]))
    return total(
        [
            lungs,
            PLATELETS.of(found["platelets_min_24h"]),
            BILIRUBIN.of(found["bilirubin_total_max_24h"]),
            circulation,
            GLASGOW.of(found["glasgow_coma_score_min_24h"]),
            kidney,
        ]
    )
