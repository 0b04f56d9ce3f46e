"""Where medicine says which way the risk goes: directions that a model may not contradict.

Here: the directions as data, each with its source, and the constraint of each column of a feature table.
Not here: how they are enforced (XGBoost's `monotone_constraints`, bounds of the additive member: models.risk.fitting).

Only levels are bound (last, first, extremes, means, sums): a slope or a count has no direction of its own. What harms
at both ends (heart rate, sodium, temperature, creatinine with its low values of muscle loss) is left free.
Source: of each row below.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from models import feature_table
from models.feature_table import FeatureTable


class Direction(NamedTuple):
    """Which way the risk goes with rising values of a series."""

    series: str
    sign: int  # +1: the risk may only rise with it, -1: only fall
    source: str


DIRECTIONS: Final = (
    Direction("age", +1, "Le Gall et al. 1984 (SAPS), Knaus et al. 1985 (APACHE II): points rise with age"),
    Direction("urea_nitrogen", +1, "Le Gall et al. 1993 (SAPS II), JAMA 270:2957: points rise with urea"),
    Direction("bilirubin_total", +1, "Vincent et al. 1996 (SOFA), Intensive Care Med 22:707"),
    Direction(
        "lactate", +1, "Haas et al. 2016, Intensive Care Med 42:202; Singer et al. 2016 (Sepsis-3), JAMA 315:801"
    ),
    Direction("glasgow_coma_score", -1, "Teasdale & Jennett 1974, Lancet 2:81; points of SAPS II and SOFA"),
    Direction("oxygenation_ratio", -1, "Berlin definition 2012, JAMA 307:2526; SOFA"),
    Direction("urine_output", -1, "SAPS II and SOFA: points fall with urine output; KDIGO 2012"),
)

_BOUND: Final = frozenset({"last", "first", "min", "max", "mean", "sum", "sum_per_kg_hour"})


def constraints(table: FeatureTable) -> tuple[int, ...]:
    """Return -1, 0 or +1 for each column of a table, in its order."""
    signs = {direction.series: direction.sign for direction in DIRECTIONS}
    series = feature_table.series_of(table)
    return tuple(
        signs.get(series[name], 0) if name.removeprefix(series[name] + "_").rsplit("_", 1)[0] in _BOUND else 0
        for name in feature_table.names(table)
    )
