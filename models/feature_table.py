"""The feature table: which numbers a risk model sees of a stay, as data.

Here: the grammar (series x windows x summaries, derived series), the house's table for in-hospital mortality, names,
what a table needs, its digest.
Not here: how they are computed (models.stay_features), what a model makes of them (models.risk).
Source: derived series: PaO2/FiO2 after the Berlin definition, JAMA 2012;307:2526; shock index after Allgöwer & Burri
1967, Dtsch Med Wochenschr 92:1947; mean pressure (S + 2 D) / 3 where no device says it, Guyton & Hall, chapter 15;
urea to creatinine ratio as a mark of catabolism after Haines et al. 2019, Intensive Care Med 45:1718.

Not sex and not the ward, on purpose: bias is judged by them, and a model that is told them can learn to treat like
patients unlike.
"""

from __future__ import annotations

import hashlib
from typing import Literal, get_args

import msgspec

from vocabulary import concepts

Summary = Literal[
    "last",
    "first",
    "min",
    "max",
    "mean",
    "standard_deviation",
    "slope_per_hour",
    "change",
    "count",
    "hours_since",
    "is_missing",
    "share_of_hours",
    "sum",
    "sum_per_kg_hour",
]
"""Of the minutes' medians in a window: `change` is last - first, `standard_deviation` that of a sample (two minutes or
more), `slope_per_hour` by least squares (three or more), `count` how many minutes have one, `share_of_hours` in how
many of the window's hours since admission there is any, `is_missing` 1 where there is none, `sum_per_kg_hour` by the
latest body weight and the hours of the window that have passed."""

Kind = Literal["first_of", "ratio", "difference", "mean_pressure"]

WHOLE_STAY = 0
HOURS_SINCE_ADMISSION = "hours_since_admission"
BODY_WEIGHT = "body_weight"


class Derived(msgspec.Struct, frozen=True):
    """A series made of others, minute by minute; it may be used like a concept by what comes after it.

    `first_of`: at each minute, the first source that has one. `ratio`, `difference`: at each minute of the first
    source, with the latest of the second that is at most `within_minutes` old; a ratio by 0 is none. `mean_pressure`:
    (S + 2 D) / 3 of the two sources, in minutes that have both.
    """

    key: str
    kind: Kind
    sources: tuple[str, ...]
    within_minutes: int = 0
    scale: float = 1.0  # a ratio is multiplied by it


class Block(msgspec.Struct, frozen=True):
    """Every summary of every series over every window."""

    series: tuple[str, ...]  # concept keys, or keys of derived series
    windows_h: tuple[int, ...]  # hours up to and including the forecast's minute; WHOLE_STAY for all of them
    summaries: tuple[Summary, ...]


class FeatureTable(msgspec.Struct, frozen=True):
    """A feature set. A column's name says it all, e.g. `heart_rate_mean_6h`, `lactate_last_stay`."""

    name: str
    version: int
    derived: tuple[Derived, ...]
    blocks: tuple[Block, ...]

    def __post_init__(self) -> None:
        """Refuse a table that does not make sense.

        Raises:
            ValueError: an unknown series, a derived series with the wrong sources, a column twice, a window below 0.
        """
        known = {concept.key for concept in concepts.CONCEPTS if concept.kind == "quantity"}
        for derived in self.derived:
            fewest, most = (1, 99) if derived.kind == "first_of" else (2, 2)
            if (
                derived.key in known
                or not fewest <= len(derived.sources) <= most
                or not known.issuperset(derived.sources)
            ):
                raise ValueError(f"derived series {derived.key!r}: expected a new key and known sources")
            known.add(derived.key)
        for block in self.blocks:
            unknown = (set(block.series) - known) | (set(block.summaries) - set(get_args(Summary)))
            if unknown or min(block.windows_h, default=-1) < 0:
                raise ValueError(
                    f"expected known series and summaries, windows from 0 on; found {sorted(unknown) or block}"
                )
        columns = names(self)
        if len(set(columns)) != len(columns):
            raise ValueError(
                f"expected each column once, found twice: {sorted({n for n in columns if columns.count(n) > 1})}"
            )


def column(series: str, summary: str, window_h: int) -> str:
    """Return a column's name."""
    return f"{series}_{summary}_{f'{window_h}h' if window_h else 'stay'}"


def names(table: FeatureTable) -> tuple[str, ...]:
    """Return the columns' names, in order: hours since admission, then block by block."""
    return (
        HOURS_SINCE_ADMISSION,
        *(
            column(series, summary, window)
            for block in table.blocks
            for series in block.series
            for window in block.windows_h
            for summary in block.summaries
        ),
    )


def series_of(table: FeatureTable) -> dict[str, str]:
    """Return the series each column is about; hours since admission is about itself."""
    return {HOURS_SINCE_ADMISSION: HOURS_SINCE_ADMISSION} | {
        column(series, summary, window): series
        for block in table.blocks
        for series in block.series
        for window in block.windows_h
        for summary in block.summaries
    }


def concepts_of(table: FeatureTable) -> frozenset[int]:
    """Return the concepts whose bins the table looks at: all that a StaySeries for it must hold."""
    derived = {one.key: one for one in table.derived}
    waiting = {series for block in table.blocks for series in block.series}
    if any("sum_per_kg_hour" in block.summaries for block in table.blocks):
        waiting.add(BODY_WEIGHT)
    found = set()
    while waiting:
        key = waiting.pop()
        if key in derived:
            waiting.update(derived[key].sources)
        else:
            found.add(concepts.by_key(key).number)
    return frozenset(found)


def digest(table: FeatureTable) -> str:
    """Return the SHA-256 of the table's canonical JSON, in hex."""
    return hashlib.sha256(msgspec.json.encode(table, order="sorted")).hexdigest()


_STAY = (WHOLE_STAY,)
_VITALS = (
    "heart_rate",
    "respiratory_rate",
    "body_temperature",
    "systolic_pressure",
    "diastolic_pressure",
    "mean_pressure",
    "pulse_pressure",
    "glasgow_coma_score",
    "shock_index",
)
_LABORATORY = (
    "albumin",
    "alkaline_phosphatase",
    "alanine_aminotransferase",
    "aspartate_aminotransferase",
    "bilirubin_total",
    "urea_nitrogen",
    "cholesterol_total",
    "creatinine",
    "glucose",
    "bicarbonate",
    "hematocrit",
    "potassium",
    "lactate",
    "magnesium",
    "sodium",
    "arterial_co2_pressure",
    "arterial_o2_pressure",
    "blood_ph",
    "platelets",
    "arterial_oxygen_saturation",
    "troponin_i",
    "troponin_t",
    "leukocytes",
    "oxygenation_ratio",
    "urea_creatinine_ratio",
)

MORTALITY = FeatureTable(
    name="mortality",
    version=1,
    derived=(
        Derived(
            "arterial_mean_of_two",
            "mean_pressure",
            ("arterial_systolic_blood_pressure", "arterial_diastolic_blood_pressure"),
        ),
        Derived("cuff_mean_of_two", "mean_pressure", ("systolic_blood_pressure", "diastolic_blood_pressure")),
        Derived(
            "mean_pressure",
            "first_of",
            ("arterial_mean_blood_pressure", "mean_blood_pressure", "arterial_mean_of_two", "cuff_mean_of_two"),
        ),
        Derived("systolic_pressure", "first_of", ("arterial_systolic_blood_pressure", "systolic_blood_pressure")),
        Derived("diastolic_pressure", "first_of", ("arterial_diastolic_blood_pressure", "diastolic_blood_pressure")),
        Derived("pulse_pressure", "difference", ("systolic_pressure", "diastolic_pressure")),
        Derived("shock_index", "ratio", ("heart_rate", "systolic_pressure"), within_minutes=60),
        Derived(
            "oxygenation_ratio",
            "ratio",
            ("arterial_o2_pressure", "inspired_oxygen_fraction"),
            within_minutes=12 * 60,
            scale=100.0,
        ),
        Derived("urea_creatinine_ratio", "ratio", ("urea_nitrogen", "creatinine"), within_minutes=24 * 60),
    ),
    blocks=(
        Block(("age", "body_height"), _STAY, ("last",)),
        # Weights charted again show fluid gained or lost.
        Block(
            ("body_weight",),
            _STAY,
            ("last", "first", "change", "min", "max", "slope_per_hour", "share_of_hours", "hours_since"),
        ),
        Block(_VITALS, _STAY, ("last", "first", "hours_since", "change")),
        Block(_VITALS, (6,), ("mean",)),
        Block(
            _VITALS, (24, WHOLE_STAY), ("min", "max", "mean", "standard_deviation", "slope_per_hour", "share_of_hours")
        ),
        Block(
            _LABORATORY,
            _STAY,
            (
                "last",
                "first",
                "change",
                "min",
                "max",
                "mean",
                "standard_deviation",
                "slope_per_hour",
                "share_of_hours",
                "hours_since",
            ),
        ),
        Block(_LABORATORY, (24,), ("min", "max", "mean", "share_of_hours")),
        Block(("urine_output",), (6, 12, 24, WHOLE_STAY), ("sum", "sum_per_kg_hour")),
        Block(("urine_output",), (24, WHOLE_STAY), ("mean", "max", "share_of_hours")),
        Block(("urine_output",), _STAY, ("last", "first", "slope_per_hour", "hours_since")),
        Block(("inspired_oxygen_fraction",), (24, WHOLE_STAY), ("min", "max", "mean", "share_of_hours")),
        Block(("inspired_oxygen_fraction",), _STAY, ("last", "first", "slope_per_hour", "hours_since")),
        Block(("mechanical_ventilation",), (6, 12, 24, WHOLE_STAY), ("share_of_hours",)),
        Block(("mechanical_ventilation",), _STAY, ("hours_since", "is_missing")),
        Block(
            ("arterial_mean_blood_pressure", "mean_blood_pressure"),
            _STAY,
            ("mean", "min", "share_of_hours", "is_missing"),
        ),
    ),
)
"""What the house's mortality models see: everything the challenge of 2012 records but sex and ward.

No counts of minutes: the cohort was charted about hourly, a monitor sends each minute, and a model must not take that
for more than it is. In how many of the hours something was measured (`share_of_hours`) is nearly the same for both.
"""

TABLES = (MORTALITY,)


def by_digest(wanted: str) -> FeatureTable | None:
    """Return the table a model was made with, or None: this code no longer computes it."""
    return next((table for table in TABLES if digest(table) == wanted), None)
