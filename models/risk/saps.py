"""SAPS-I, the Simplified Acute Physiology Score of 1984, of the last 24 hours of a stay.

Here: its fourteen components as published, computed from minute bins.
Not here: SAPS-I as recorded with a data set (models.risk.cohort), probabilities of it (models.risk.baselines).
Source: Le Gall et al. 1984, Crit Care Med 12:975, table 1. Urea by 0.357 mmol/L per mg/dL of urea nitrogen, glucose by
1/18.016; breathing with a ventilator scores 3 whatever the rate. Urine is scaled to 24 hours on the first day.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from models.feature_table import WHOLE_STAY, Block, Derived, FeatureTable
from models.risk.banded_rows import Bands, Columns, Totals, largest, total, worst
from models.stay_series import Bins

WINDOW_H: Final = 24
UREA_MMOL_PER_MG_DL: Final = 0.357
GLUCOSE_MG_DL_PER_MMOL: Final = 18.016
VENTILATED_POINTS: Final = 3.0

AGE: Final = Bands((46, 56, 66, 76), (0, 1, 2, 3, 4))
HEART_RATE: Final = Bands((40, 55, 70, 110, 140, 180), (4, 3, 2, 0, 2, 3, 4))
SYSTOLIC_PRESSURE: Final = Bands((55, 80, 150, 190), (4, 2, 0, 2, 4))
TEMPERATURE: Final = Bands((30, 32, 34, 36, 38.5, 39, 41), (4, 3, 2, 1, 0, 1, 3, 4))
RESPIRATORY_RATE: Final = Bands((6, 10, 12, 25, 35, 50), (4, 2, 1, 0, 1, 3, 4))
URINE_L_PER_DAY: Final = Bands((0.2, 0.5, 0.7, 3.5, 5.0), (4, 3, 2, 0, 1, 2))
UREA_MMOL: Final = Bands((3.5, 7.5, 29, 36, 55), (1, 0, 1, 2, 3, 4))
HEMATOCRIT: Final = Bands((20, 30, 46, 50, 60), (4, 2, 0, 1, 2, 4))
LEUKOCYTES: Final = Bands((1, 3, 15, 20, 40), (4, 2, 0, 1, 2, 4))
GLUCOSE_MMOL: Final = Bands((1.6, 2.8, 3.9, 14, 27.8, 44.5), (4, 3, 2, 0, 1, 3, 4))
POTASSIUM: Final = Bands((2.5, 3, 3.5, 5.5, 6, 7), (4, 2, 1, 0, 1, 3, 4))
SODIUM: Final = Bands((110, 120, 130, 151, 156, 161, 180), (4, 3, 2, 0, 1, 2, 3, 4))
BICARBONATE: Final = Bands((5, 10, 20, 30, 40), (4, 3, 1, 0, 1, 3))
GLASGOW: Final = Bands((4, 7, 10, 13), (4, 3, 2, 1, 0))

_EXTREMES = (
    "heart_rate",
    "systolic_pressure",
    "body_temperature",
    "respiratory_rate",
    "urea_nitrogen",
    "hematocrit",
    "leukocytes",
    "glucose",
    "potassium",
    "sodium",
    "bicarbonate",
)

TABLE: Final = FeatureTable(
    name="saps_i",
    version=1,
    derived=(
        Derived("systolic_pressure", "first_of", ("arterial_systolic_blood_pressure", "systolic_blood_pressure")),
    ),
    blocks=(
        Block(("age",), (WHOLE_STAY,), ("last",)),
        Block(_EXTREMES, (WINDOW_H,), ("min", "max")),
        Block(("glasgow_coma_score",), (WINDOW_H,), ("min",)),
        Block(("mechanical_ventilation",), (WINDOW_H,), ("max",)),
        Block(("urine_output",), (WINDOW_H,), ("sum",)),
    ),
)


def score(bins: Bins, stays: NDArray[np.int32], minutes: NDArray[np.int32]) -> Totals:
    """Return SAPS-I of the 24 hours up to each row's minute, and the share of its fourteen components measured.

    Args:
        bins: of the stays.
        stays: place of each row's stay.
        minutes: since admission, the last one that counts.
    """
    found = Columns(TABLE, bins, stays, minutes)

    def extremes(key: str, factor: float = 1.0) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        return found[f"{key}_min_24h"] * factor, found[f"{key}_max_24h"] * factor

    is_ventilated = np.where(found["mechanical_ventilation_max_24h"] > 0, VENTILATED_POINTS, np.nan)
    day = np.minimum(np.maximum(minutes, 1), WINDOW_H * 60) / (WINDOW_H * 60)
    return total(
        [
            AGE.of(found["age_last_stay"]),
            worst(HEART_RATE, *extremes("heart_rate")),
            worst(SYSTOLIC_PRESSURE, *extremes("systolic_pressure")),
            worst(TEMPERATURE, *extremes("body_temperature")),
            largest(np.stack([worst(RESPIRATORY_RATE, *extremes("respiratory_rate")), is_ventilated])),
            URINE_L_PER_DAY.of(found["urine_output_sum_24h"] / 1000.0 / day),
            worst(UREA_MMOL, *extremes("urea_nitrogen", UREA_MMOL_PER_MG_DL)),
            worst(HEMATOCRIT, *extremes("hematocrit")),
            worst(LEUKOCYTES, *extremes("leukocytes")),
            worst(GLUCOSE_MMOL, *extremes("glucose", 1 / GLUCOSE_MG_DL_PER_MMOL)),
            worst(POTASSIUM, *extremes("potassium")),
            worst(SODIUM, *extremes("sodium")),
            worst(BICARBONATE, *extremes("bicarbonate")),
            GLASGOW.of(found["glasgow_coma_score_min_24h"]),
        ]
    )
