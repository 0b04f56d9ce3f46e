"""Clinical groups: the dozen words in which an estimate is explained, and which feature belongs to which.

Here: the groups as data, the group of each column of a feature table.
Not here: contributions (models.risk.artefact), which features there are (models.feature_table).

A feature that says only whether, how often or how long ago something was measured belongs to the pattern of care, not
to the organ: "creatinine 400 µmol/L" and "creatinine ordered five times" are two different reasons.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import Final, NamedTuple

from models import feature_table
from models.feature_table import FeatureTable


class Group(NamedTuple):
    """One group of features."""

    key: str
    words: str  # for a person
    series: tuple[str, ...]


OBSERVATION: Final = "observation"
"""Time since admission, and what was measured how often."""

_OF_OBSERVATION: Final = frozenset({"count", "hours_since", "is_missing", "share_of_hours"})

GROUPS: Final = (
    Group(
        "age_and_body", "Age and body (age, weight, height)", ("age", "body_weight", "body_height", "body_mass_index")
    ),
    Group(
        "circulation",
        "Circulation (heart rate, blood pressure, shock index, heart enzymes)",
        (
            "heart_rate",
            "pulse_rate",
            "systolic_pressure",
            "diastolic_pressure",
            "mean_pressure",
            "pulse_pressure",
            "systolic_blood_pressure",
            "diastolic_blood_pressure",
            "mean_blood_pressure",
            "arterial_systolic_blood_pressure",
            "arterial_diastolic_blood_pressure",
            "arterial_mean_blood_pressure",
            "shock_index",
            "troponin_i",
            "troponin_t",
        ),
    ),
    Group(
        "oxygenation_and_ventilation",
        "Oxygenation and ventilation (oxygen, breathing rate, ventilator)",
        (
            "respiratory_rate",
            "oxygen_saturation",
            "arterial_oxygen_saturation",
            "arterial_o2_pressure",
            "arterial_co2_pressure",
            "oxygenation_ratio",
            "inspired_oxygen_fraction",
            "mechanical_ventilation",
        ),
    ),
    Group("consciousness", "Consciousness (Glasgow Coma Scale)", ("glasgow_coma_score",)),
    Group(
        "kidney",
        "Kidney (creatinine, urea)",
        ("creatinine", "urea_nitrogen", "urea_creatinine_ratio"),
    ),
    Group("urine", "Urine output", ("urine_output",)),
    Group(
        "liver",
        "Liver and nutrition (bilirubin, liver enzymes, albumin)",
        (
            "bilirubin_total",
            "alanine_aminotransferase",
            "aspartate_aminotransferase",
            "alkaline_phosphatase",
            "albumin",
            "cholesterol_total",
        ),
    ),
    Group("blood", "Blood (white cells, platelets, haematocrit)", ("leukocytes", "platelets", "hematocrit")),
    Group("acid_base_and_lactate", "Acid–base and lactate", ("blood_ph", "bicarbonate", "lactate")),
    Group("electrolytes", "Electrolytes (sodium, potassium, magnesium)", ("sodium", "potassium", "magnesium")),
    Group("glucose", "Glucose", ("glucose",)),
    Group("temperature", "Temperature", ("body_temperature",)),
    Group(
        OBSERVATION,
        "Time since admission and what was measured how often",
        (feature_table.HOURS_SINCE_ADMISSION,),
    ),
)

WORDS: Final = MappingProxyType({group.key: group.words for group in GROUPS})
_OF_SERIES: Final = MappingProxyType({series: group.key for group in GROUPS for series in group.series})


def group_of_columns(table: FeatureTable) -> tuple[str, ...]:
    """Return the group's key of each column of a table, in the table's order.

    Raises:
        KeyError: a series that no group names; whoever adds it to a table adds it here.
    """
    series = feature_table.series_of(table)
    return tuple(_group(name, series[name]) for name in feature_table.names(table))


def _group(name: str, series: str) -> str:
    summary = name.removeprefix(series + "_").rsplit("_", 1)[0]
    # Hours on a ventilator are a treatment, not a habit of charting: only the machine is ever charted.
    if summary in _OF_OBSERVATION and series != "mechanical_ventilation":
        return OBSERVATION
    return _OF_SERIES[series]
