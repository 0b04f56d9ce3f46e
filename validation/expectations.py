"""What events, features and a cohort must be before anything is learned from them: the first of the gates.

Here: the rules of the three tables, evaluated twice, by validation.checks and by Great Expectations; where the two
disagree, or Great Expectations raises inside a rule, the rule counts as broken.
Not here: the rules' kinds (validation.checks), reading tables (assets), distributions (validation.drift).
Source: Kahn et al. 2016, eGEMs 4:1244 (conformance, completeness, plausibility of clinical data).

Verdicts hold shares and counts, never a value of a row: Great Expectations is asked for true or false only. Its
analytics are off, it writes nothing, and it is imported where it is used (up to 17 s).
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping, Sequence
from datetime import datetime
from types import ModuleType
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np

from validation import checks
from validation.checks import (
    AtLeast,
    Between,
    Columns,
    Equal,
    InSet,
    Kept,
    MeanBetween,
    NotNull,
    RowCount,
    Rule,
    Unique,
)
from vocabulary.concepts import CONCEPTS
from vocabulary.verdict import Kind, Measure, Outcome, Verdict, worst

if TYPE_CHECKING:
    import pandas as pd
    from great_expectations.expectations.expectation import Expectation

SPLITS: Final = frozenset({"train", "tuning", "held_out"})
"""The words of the Medical Event Data Standard."""

_START: Final = "ENCOUNTER//START"
_END: Final = "ENCOUNTER//END"
_DUPLICATES_AT_MOST: Final = 0.02
"""Charts are copied by hand: one value twice in a minute is common, and the features' medians do not mind."""
_ROW_MISSING_AT_MOST: Final = 0.98
"""A row with less than one feature in fifty is of a stay about which nothing was charted."""
_ROWS_WITH_ENOUGH: Final = 0.9


class _Batch(NamedTuple):
    """Rows to judge, and by which rules."""

    table: pd.DataFrame
    rules: tuple[Rule, ...]


def judge_events(
    events: pd.DataFrame,
    *,
    judged_at: datetime | None = None,
    subject: str = "normalized/events",
    uses_great_expectations: bool = True,
    data_fingerprint: str = "",
    made_at_us: int = 0,
) -> Verdict:
    """Return whether events are what they should be.

    Args:
        events: the lake's events (stores.lake.event_schema), at least `subject_id`, `time`, `code`, `value`, `unit`,
            `available_at`, `source`, `encounter_id` and `concept` (its number; null for what is no measurement). Rows
            of code ENCOUNTER//START and ENCOUNTER//END say from when to when an encounter lasted.
        judged_at: nothing may have happened or been known later; None leaves that out, where dates were removed.
        subject: the asset's key.
        uses_great_expectations: whether Great Expectations evaluates the rules too. The verdict is the same.
        data_fingerprint: of the events.
        made_at_us: when, microseconds since 1970.
    """
    table, rules = _events(events, judged_at)
    return _judge(
        [_Batch(table, rules)],
        subject=subject,
        uses_great_expectations=uses_great_expectations,
        data_fingerprint=data_fingerprint,
        made_at_us=made_at_us,
    )


def judge_features(
    features: pd.DataFrame,
    names: Sequence[str],
    *,
    stay: Sequence[int] | np.ndarray[Any, Any],
    prediction_minute: Sequence[int] | np.ndarray[Any, Any],
    available_minute: Sequence[int] | np.ndarray[Any, Any],
    ranges: Mapping[str, tuple[float, float]] | None = None,
    row_missing_at_most: float = _ROW_MISSING_AT_MOST,
    subject: str = "feature/mortality",
    uses_great_expectations: bool = True,
    data_fingerprint: str = "",
    made_at_us: int = 0,
) -> Verdict:
    """Return whether feature rows are what the model expects, and know nothing of the future.

    Args:
        features: one row a (stay, hour), one column a feature, NaN missing; no other columns.
        names: of the features, in the model's order.
        stay: whose row, (rows,).
        prediction_minute: the minute a row speaks at, (rows,).
        available_minute: when the newest value behind the row could be known, (rows,).
        ranges: feature -> (lowest, highest) that can be; None leaves that out.
        row_missing_at_most: share of a row's features that may be missing, in nine rows of ten.
        subject: the asset's key.
        uses_great_expectations: as for `judge_events`.
        data_fingerprint: of the rows.
        made_at_us: when, microseconds since 1970.
    """
    import pandas as pd

    values = features.to_numpy(np.float64)
    known = [name for name in ranges or {} if name in features.columns]
    outside = np.zeros(len(features), np.int64)
    for name in known:
        low, high = (ranges or {})[name]
        column = features[name].to_numpy(np.float64)
        outside += (column < low) | (column > high)
    rows = pd.DataFrame(
        {
            "stay": np.asarray(stay),
            "prediction_minute": np.asarray(prediction_minute),
            "available_minute": np.asarray(available_minute),
            "infinite_values": np.isinf(values).sum(axis=1),
            "values_outside_range": outside,
            "missing_share": np.isnan(values).mean(axis=1) if values.shape[1] else np.ones(len(values)),
        }
    )
    rules: tuple[Rule, ...] = (
        RowCount(name="features_are_there", at_least=1),
        Unique(name="one_row_a_stay_and_minute", columns=("stay", "prediction_minute")),
        Between(name="values_are_finite_or_missing", column="infinite_values", low=0, high=0),
        Between(name="values_can_be", column="values_outside_range", low=0, high=0),
        Between(name="enough_is_measured", column="missing_share", high=row_missing_at_most, mostly=_ROWS_WITH_ENOUGH),
        AtLeast(name="nothing_from_the_future", column="prediction_minute", other="available_minute"),
    )
    return _judge(
        [_Batch(features, (Columns(name="features_are_the_models", names=tuple(names)),)), _Batch(rows, rules)],
        subject=subject,
        uses_great_expectations=uses_great_expectations,
        data_fingerprint=data_fingerprint,
        made_at_us=made_at_us,
    )


def judge_cohort(
    cohort: pd.DataFrame,
    *,
    prevalence: tuple[float, float] = (0.02, 0.5),
    least_stays: int = 100,
    subject: str = "cohort/mortality",
    uses_great_expectations: bool = True,
    data_fingerprint: str = "",
    made_at_us: int = 0,
) -> Verdict:
    """Return whether a cohort can be learned from: one row a stay, one outcome, one split a person.

    Args:
        cohort: columns `stay`, `subject_id`, `label` (0 or 1), `split` (train, tuning, held_out) and, where known,
            `age_years`.
        prevalence: share of ones between which a cohort is believed.
        least_stays: below, nothing is learned.
        subject: the asset's key.
        uses_great_expectations: as for `judge_events`.
        data_fingerprint: of the cohort.
        made_at_us: when, microseconds since 1970.
    """
    table = cohort.copy()
    if {"subject_id", "split"} <= set(table.columns):
        table["splits_of_subject"] = table.groupby("subject_id")["split"].transform("nunique")
    rules: list[Rule] = [
        RowCount(name="stays_are_enough", at_least=least_stays),
        Unique(name="one_row_a_stay", columns=("stay",)),
        NotNull(name="stay_is_named", column="stay"),
        NotNull(name="outcome_is_known", column="label"),
        InSet(name="outcome_is_0_or_1", column="label", values=frozenset({0, 1})),
        MeanBetween(name="prevalence_is_believable", column="label", low=prevalence[0], high=prevalence[1]),
        NotNull(name="split_is_known", column="split"),
        InSet(name="split_is_a_split", column="split", values=SPLITS),
        Between(name="nobody_is_in_two_splits", column="splits_of_subject", low=1, high=1),
    ]
    if "age_years" in table.columns:
        rules.append(Between(name="age_can_be", column="age_years", low=0, high=130))
    return _judge(
        [_Batch(table, tuple(rules))],
        subject=subject,
        uses_great_expectations=uses_great_expectations,
        data_fingerprint=data_fingerprint,
        made_at_us=made_at_us,
    )


def _events(events: pd.DataFrame, judged_at: datetime | None) -> tuple[pd.DataFrame, tuple[Rule, ...]]:
    """Return the measured rows with what each is compared with, and the rules."""
    import pandas as pd

    numbers = np.asarray([concept.number for concept in CONCEPTS])
    by_number = pd.DataFrame(
        {
            "expected_unit": [concept.unit for concept in CONCEPTS],
            "plausible_low": [concept.plausible_low for concept in CONCEPTS],
            "plausible_high": [concept.plausible_high for concept in CONCEPTS],
            "is_quantity": [concept.kind == "quantity" for concept in CONCEPTS],
        },
        index=numbers,
    )
    measured = events[events["concept"].notna()]
    number = measured["concept"].astype(np.int64)
    known = by_number.reindex(number.to_numpy())
    starts, ends = (
        events[events["code"] == code].groupby("encounter_id")["time"].agg(how)
        for code, how in ((_START, "min"), (_END, "max"))
    )
    columns: dict[str, Any] = {
        "subject_id": measured["subject_id"].to_numpy(),
        "time": _microseconds(measured["time"]),
        "concept": number.to_numpy(),
        "value": measured["value"].to_numpy(np.float64),
        "unit": measured["unit"].to_numpy(object),
        "available_at": _microseconds(measured["available_at"]),
        "source": measured["source"].to_numpy(object),
        "expected_unit": known["expected_unit"].to_numpy(object),
        "plausible_low": known["plausible_low"].to_numpy(np.float64),
        "plausible_high": known["plausible_high"].to_numpy(np.float64),
        "admitted_at": _microseconds(measured["encounter_id"].map(starts)),
        "discharged_at": _microseconds(measured["encounter_id"].map(ends)),
    }
    is_quantity = known["is_quantity"].to_numpy(object) == True  # noqa: E712 - None where the concept is unknown
    columns["number_of_quantity"] = np.where(is_quantity, columns["value"], 0.0)
    rules: list[Rule] = [
        RowCount(name="events_are_there", at_least=1),
        InSet(name="concept_is_known", column="concept", values=frozenset(numbers.tolist())),
        Equal(name="unit_is_canonical", column="unit", other="expected_unit"),
        NotNull(name="quantity_has_a_number", column="number_of_quantity"),
        AtLeast(name="value_is_plausible_below", column="value", other="plausible_low"),
        AtLeast(name="value_is_plausible_above", column="plausible_high", other="value"),
        NotNull(name="time_is_known", column="time"),
        NotNull(name="availability_is_known", column="available_at"),
        AtLeast(name="known_after_it_happened", column="available_at", other="time"),
        NotNull(name="encounter_is_known", column="admitted_at"),
        AtLeast(name="nothing_before_admission", column="time", other="admitted_at"),
        AtLeast(name="nothing_after_discharge", column="discharged_at", other="time"),
        Unique(
            name="nothing_twice",
            columns=("subject_id", "time", "concept", "value", "source"),
            mostly=1 - _DUPLICATES_AT_MOST,
        ),
    ]
    if judged_at is not None:
        latest = judged_at.timestamp() * 1e6
        rules.append(Between(name="nothing_in_the_future", column="time", high=latest))
        rules.append(Between(name="nothing_known_in_the_future", column="available_at", high=latest))
    return pd.DataFrame(columns), tuple(rules)


def _microseconds(times: pd.Series[Any]) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Return times as microseconds since 1970, NaN where there is none: exact until the year 2255."""
    import pandas as pd

    moments = pd.to_datetime(times, utc=True).dt.tz_localize(None).to_numpy("datetime64[us]")
    numbers = moments.astype(np.int64).astype(np.float64)
    numbers[np.isnat(moments)] = np.nan
    return numbers


def _judge(
    batches: Sequence[_Batch], *, subject: str, uses_great_expectations: bool, data_fingerprint: str, made_at_us: int
) -> Verdict:
    measures: list[Measure] = []
    for batch in batches:
        columns = {str(name): batch.table[name].to_numpy() for name in batch.table.columns}
        found = {rule.name: checks.evaluate(rule, columns) for rule in batch.rules}
        theirs = great_expectations_results(batch.table, batch.rules) if uses_great_expectations else {}
        measures += [
            _measure(rule, found[rule.name], theirs.get(rule.name), is_doubled=uses_great_expectations)
            for rule in batch.rules
        ]
    outcome = worst(measure.outcome for measure in measures)
    broken = [measure for measure in measures if measure.outcome is Outcome.FAIL]
    said = "; ".join(f"{row.name.replace('_', ' ')}{f' ({row.note})' if row.note else ''}" for row in broken)
    return Verdict(
        kind=Kind.EXPECTATIONS,
        subject=subject,
        outcome=outcome,
        statement=f"Broken: {said}." if broken else f"All {len(measures)} expectations of {subject} are kept.",
        measures=tuple(measures),
        method=_method(uses_great_expectations=uses_great_expectations),
        data_fingerprint=data_fingerprint,
        made_at_us=made_at_us,
    )


def _measure(rule: Rule, ours: Kept, theirs: bool | None, *, is_doubled: bool) -> Measure:
    """Return one rule's measure: kept only where both evaluations say so."""
    is_kept, note = ours.is_kept, ours.note
    if is_doubled and theirs is None:
        is_kept, note = False, "; ".join(filter(None, [note, "Great Expectations could not evaluate it"]))
    elif is_doubled and theirs != ours.is_kept:
        is_kept, note = False, "; ".join(filter(None, [note, "the two evaluations disagree"]))
    return Measure(
        name=rule.name,
        value=ours.broken_share,
        at_most=round(1 - rule.mostly, 12) if ours.broken_share is not None else None,
        count=ours.rows,
        outcome=Outcome.PASS if is_kept else Outcome.FAIL,
        note=note,
    )


def great_expectations_results(table: pd.DataFrame, rules: Sequence[Rule]) -> dict[str, bool]:
    """Return what Great Expectations says of each rule; a rule it raised in is absent.

    Nothing is written or sent, and no row's value is in what it returns.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its own use of pandas, not ours
        import great_expectations as gx
        from great_expectations.data_context.types.base import ProgressBarsConfig

        logging.getLogger("great_expectations").setLevel(logging.ERROR)
        context = gx.get_context(mode="ephemeral")
        context.enable_analytics(False)
        context.variables.progress_bars = ProgressBarsConfig(globally=False)
        source = context.data_sources.add_pandas("memory")
        batch = source.add_dataframe_asset("rows").add_batch_definition_whole_dataframe("all")
        suite = gx.ExpectationSuite(name="rules", expectations=[_expectation(gx.expectations, rule) for rule in rules])
        result = batch.get_batch({"dataframe": table}).validate(suite, result_format="BOOLEAN_ONLY")
        found = {}
        for row in result.results:
            config = row.expectation_config
            if config is not None and not _raised(row.exception_info):
                found[str((config.meta or {})["rule"])] = bool(row.success)
        return found


def _raised(information: object) -> bool:
    """Return whether an exception is anywhere in what Great Expectations says of one: flat, or nested by metric."""
    if not isinstance(information, Mapping):
        return False
    if "raised_exception" in information:
        return bool(information["raised_exception"])
    return any(_raised(value) for value in information.values())


def _expectation(library: ModuleType, rule: Rule) -> Expectation:
    """Return Great Expectations' own of a rule."""
    name, arguments = _arguments(rule)
    made: Expectation = getattr(library, name)(**arguments, meta={"rule": rule.name})
    return made


def _arguments(rule: Rule) -> tuple[str, dict[str, Any]]:
    """Return the name and arguments of Great Expectations' own of a rule."""
    mostly = {"mostly": rule.mostly}
    pair = {**mostly, "ignore_row_if": "either_value_is_missing"}
    if isinstance(rule, NotNull):
        return "ExpectColumnValuesToNotBeNull", {"column": rule.column, **mostly}
    if isinstance(rule, InSet):
        return "ExpectColumnValuesToBeInSet", {"column": rule.column, "value_set": sorted(rule.values), **mostly}
    if isinstance(rule, Between):
        limits = {"min_value": rule.low, "max_value": rule.high}
        return "ExpectColumnValuesToBeBetween", {"column": rule.column, **limits, **mostly}
    if isinstance(rule, AtLeast):
        columns = {"column_A": rule.column, "column_B": rule.other, "or_equal": True}
        return "ExpectColumnPairValuesAToBeGreaterThanB", {**columns, **pair}
    if isinstance(rule, Equal):
        return "ExpectColumnPairValuesToBeEqual", {"column_A": rule.column, "column_B": rule.other, **pair}
    if isinstance(rule, Unique) and len(rule.columns) == 1:
        return "ExpectColumnValuesToBeUnique", {"column": rule.columns[0], **mostly}
    if isinstance(rule, Unique):
        columns = {"column_list": list(rule.columns), "ignore_row_if": "never"}
        return "ExpectCompoundColumnsToBeUnique", {**columns, **mostly}
    if isinstance(rule, MeanBetween):
        limits = {"min_value": rule.low, "max_value": rule.high}
        return "ExpectColumnMeanToBeBetween", {"column": rule.column, **limits}
    if isinstance(rule, RowCount):
        return "ExpectTableRowCountToBeBetween", {"min_value": rule.at_least}
    assert isinstance(rule, Columns)
    return "ExpectTableColumnsToMatchOrderedList", {"column_list": list(rule.names)}


def _method(*, uses_great_expectations: bool) -> str:
    if not uses_great_expectations:
        return "rules evaluated in numpy"
    from importlib.metadata import version

    return f"rules evaluated in numpy and by Great Expectations {version('great-expectations')}, which agree"
