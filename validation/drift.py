"""The drift judgement: is this data still distributed as where the model learned.

Here: `judge` over feature columns, missing values, deaths and said risks by the protocol's named methods. Evidently
computes the columns that moved furthest too: where its values differ from ours, the program is broken, not the data.
Not here: the distances (validation.shift), live inputs by quantiles (validation.live), limits (the protocol).

Columns that were hardly ever measured are not compared by value, only by how often they are missing. A column has
drifted where its distance is beyond the protocol's limit and chance does not explain it (Dvoretzky–Kiefer–Wolfowitz,
Bonferroni-corrected over the columns). Intervals of missing rates are corrected likewise; p-values (ks) by Holm.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Final, NamedTuple

import msgspec
import numpy as np
from numpy.typing import ArrayLike, NDArray

from validation import intervals, shift
from validation.model_protocol import Drift, DriftMethod, DriftRule, ModelProtocol
from validation.shift import FloatArray
from vocabulary.errors import BrokenInvariantError
from vocabulary.verdict import Kind, Measure, Outcome, Series, Verdict, worst

_NAMES: Final[dict[DriftMethod, str]] = {
    "psi": "population_stability_index",
    "jensenshannon": "jensen_shannon_distance",
    "wasserstein": "wasserstein_distance",
    "ks": "kolmogorov_smirnov_p_value",
}
_SHOWN: Final = 12
_CONFIRMED: Final = 5
_AGREEMENT: Final = 1e-9
PREDICTION: Final = "risk said"


class _Column(NamedTuple):
    """One column compared."""

    name: str
    place: int
    rule: DriftRule
    value: float | None  # None: too few values to compare
    is_drifted: bool
    is_severe: bool
    missing_difference: float
    missing_interval: intervals.Interval
    rows: int  # the smaller count of finite values

    @property
    def excess(self) -> float:
        """How far beyond its limit, 1 at the limit, so that methods can be ranked together."""
        if self.value is None:
            return 0.0
        if self.rule.method == "ks":
            return self.rule.at_most / max(self.value, 1e-12)
        return self.value / self.rule.at_most


def judge(
    protocol: ModelProtocol,
    reference: ArrayLike,
    current: ArrayLike,
    names: Sequence[str],
    *,
    reference_labels: ArrayLike | None = None,
    current_labels: ArrayLike | None = None,
    reference_risks: ArrayLike | None = None,
    current_risks: ArrayLike | None = None,
    subject: str = "",
    uses_evidently: bool = True,
    model_digest: str = "",
    data_fingerprint: str = "",
    made_at_us: int = 0,
) -> Verdict:
    """Return whether current data has moved away from the reference.

    Args:
        protocol: methods, limits.
        reference: where the model learned, (rows, columns), NaN missing.
        current: what is judged, (other rows, columns).
        names: of the columns.
        reference_labels: 0 or 1, to compare how many died; None leaves that out.
        current_labels: likewise.
        reference_risks: said by the model, NaN where it abstained; None leaves that out.
        current_risks: likewise.
        subject: an asset key; the protocol's name where empty.
        uses_evidently: whether Evidently computes the furthest columns too (up to 20 s of import). Same verdict.
        model_digest: of the model whose reference it is.
        data_fingerprint: of the current data.
        made_at_us: when, microseconds since 1970.

    Raises:
        ValueError: other shapes.
        BrokenInvariantError: Evidently's values are not ours.
    """
    before, after = np.asarray(reference, np.float64), np.asarray(current, np.float64)
    if before.ndim != 2 or after.ndim != 2 or before.shape[1] != len(names) or after.shape[1] != len(names):
        raise ValueError(f"expected two tables of {len(names)} columns, found {before.shape} and {after.shape}")
    columns = _columns(protocol, before, after, names)
    measures = [*_whole(protocol, columns, len(before), len(after)), *_furthest(protocol, columns)]
    if reference_labels is not None and current_labels is not None:
        measures.append(_labels(protocol, np.asarray(reference_labels), np.asarray(current_labels)))
    risks = None
    if reference_risks is not None and current_risks is not None:
        risks = np.asarray(reference_risks, np.float64), np.asarray(current_risks, np.float64)
        measures.append(_risks(protocol, *risks))
    beside = _confirm(protocol, columns, before, after, risks) if uses_evidently else ""
    rules = {rule.kind: rule for rule in protocol.drift.rule}
    verdict = Verdict(
        kind=Kind.DRIFT,
        subject=subject or protocol.name,
        outcome=worst(found.outcome for found in measures),
        statement="",
        measures=tuple(measures),
        series=tuple(_series(columns)),
        method="; ".join(
            [
                *(f"{kind} columns by {_words(rule.method)}" for kind, rule in rules.items()),
                "beyond chance by Dvoretzky–Kiefer–Wolfowitz, missing rates by Newcombe, Bonferroni-corrected",
                *([beside] if beside else []),
            ]
        ),
        protocol=protocol.label,
        protocol_digest=protocol.digest,
        model_digest=model_digest,
        data_fingerprint=data_fingerprint,
        made_at_us=made_at_us,
    )
    return msgspec.structs.replace(verdict, statement=_statement(verdict))


def _columns(protocol: ModelProtocol, before: FloatArray, after: FloatArray, names: Sequence[str]) -> list[_Column]:
    limits = protocol.drift
    level = 1 - (1 - protocol.held_out.level) / max(1, len(names))  # Bonferroni's
    found = []
    for place, name in enumerate(names):
        old, new = before[:, place], after[:, place]
        old_there, new_there = int(np.isfinite(old).sum()), int(np.isfinite(new).sum())
        distinct = len(np.unique(old[np.isfinite(old)]))
        kind = "discrete" if distinct <= limits.most_distinct_values_of_discrete else "continuous"
        rule = protocol.drift_rule(kind)
        rows = min(old_there, new_there)
        value = shift.distance(rule.method, old, new) if rows >= limits.least_rows else None
        is_beyond = value is not None and rule.method != "ks" and value > rule.at_most
        is_drifted = is_beyond and shift.chance(old, new) <= 1 - level
        found.append(
            _Column(
                name=name,
                place=place,
                rule=rule,
                value=value,
                is_drifted=is_drifted,
                is_severe=is_drifted and rule.severe_above is not None and (value or 0.0) > rule.severe_above,
                missing_difference=_share(len(new) - new_there, len(new)) - _share(len(old) - old_there, len(old)),
                missing_interval=intervals.difference_of_shares(
                    len(new) - new_there, len(new), len(old) - old_there, len(old), level
                ),
                rows=rows,
            )
        )
    return _with_holm(found)


def _with_holm(columns: list[_Column]) -> list[_Column]:
    """Return the columns with p-values adjusted for how many there are."""
    tested = [place for place, column in enumerate(columns) if column.rule.method == "ks" and column.value is not None]
    adjusted = shift.holm([columns[place].value or 0.0 for place in tested])
    for place, value in zip(tested, adjusted, strict=True):
        column = columns[place]
        columns[place] = column._replace(value=value, is_drifted=value <= column.rule.at_most)
    return columns


def _whole(protocol: ModelProtocol, columns: list[_Column], before: int, after: int) -> list[Measure]:
    """Return how many columns moved, of those that can be compared."""
    limits = protocol.drift
    compared = [column for column in columns if column.value is not None]
    moved = [column for column in columns if column.is_drifted or _is_missing_more(column, limits)]
    share = len(moved) / len(columns) if columns else None
    is_enough = min(before, after) >= limits.least_rows and bool(compared)
    outcome = Outcome.INCONCLUSIVE
    if is_enough and share is not None:
        outcome = Outcome.PASS if share <= limits.share_of_columns_at_most else Outcome.FAIL
    note = f"{len(moved)} of {len(columns)} columns; {len(columns) - len(compared)} with too few values to compare"
    if not is_enough:
        note = f"{min(before, after)} rows, {limits.least_rows} needed"
    return [
        Measure(
            name="share_of_columns_drifted",
            value=share,
            at_most=limits.share_of_columns_at_most,
            count=after,
            outcome=outcome,
            note=note,
        )
    ]


def _is_missing_more(column: _Column, limits: Drift) -> bool:
    """Return whether a column's missing rate moved beyond its limit beyond doubt."""
    most = limits.missing_rate_difference_at_most
    low, high = column.missing_interval
    return low > most or high < -most


def _furthest(protocol: ModelProtocol, columns: list[_Column]) -> list[Measure]:
    """Return the columns that moved furthest, by value and by missing rate; a severe one fails by itself."""
    limits = protocol.drift
    by_value = sorted(columns, key=lambda column: (-column.excess, column.name))
    kept = [column for column in by_value if column.value is not None]
    found = [
        Measure(
            name=_NAMES[column.rule.method],
            value=column.value,
            at_most=column.rule.severe_above,
            group=column.name,
            count=column.rows,
            outcome=Outcome.FAIL if column.is_severe else Outcome.PASS,
            note=_column_note(column),
        )
        for column in kept
        if column.is_severe or column in kept[:_SHOWN]
    ]
    severe = limits.missing_rate_difference_severe_above
    by_missing = sorted(columns, key=lambda column: (-abs(column.missing_difference), column.name))
    for place, column in enumerate(by_missing):
        low, high = column.missing_interval
        is_severe = low > severe or high < -severe
        if is_severe or place < _SHOWN:
            found.append(
                Measure(
                    name="missing_rate_difference",
                    value=column.missing_difference,
                    low=low,
                    high=high,
                    level=1 - (1 - protocol.held_out.level) / max(1, len(columns)),
                    at_least=-severe,
                    at_most=severe,
                    group=column.name,
                    count=column.rows,
                    outcome=Outcome.FAIL if is_severe else Outcome.PASS,
                    note="counted as drifted" if _is_missing_more(column, limits) else "",
                )
            )
    return found


def _column_note(column: _Column) -> str:
    if column.is_drifted:
        return f"beyond {column.rule.at_most:g}: counted as drifted"
    is_beyond = column.rule.method != "ks" and (column.value or 0.0) > column.rule.at_most
    return f"beyond {column.rule.at_most:g}, but within chance" if is_beyond else ""


def _labels(protocol: ModelProtocol, before: NDArray[np.generic], after: NDArray[np.generic]) -> Measure:
    """Return the difference of how many died."""
    limit, level = protocol.drift.prevalence_difference_at_most, protocol.held_out.level
    deaths, stays = int(np.count_nonzero(after)), len(after)
    old_deaths, old_stays = int(np.count_nonzero(before)), len(before)
    return intervals.measure(
        "prevalence_difference",
        _share(deaths, stays) - _share(old_deaths, old_stays) if stays and old_stays else None,
        intervals.difference_of_shares(deaths, stays, old_deaths, old_stays, level),
        level=level,
        at_least=-limit,
        at_most=limit,
        count=stays,
    )


def _risks(protocol: ModelProtocol, before: FloatArray, after: FloatArray) -> Measure:
    """Return how far the said risks moved."""
    rule = protocol.drift_rule("prediction")
    rows = int(min(np.isfinite(before).sum(), np.isfinite(after).sum()))
    value = shift.distance(rule.method, before, after) if rows >= protocol.drift.least_rows else None
    if value is None:
        outcome = Outcome.INCONCLUSIVE
    elif rule.method == "ks":
        outcome = Outcome.PASS if value > rule.at_most else Outcome.FAIL
    else:
        outcome = Outcome.PASS if value <= rule.at_most else Outcome.FAIL
    return Measure(
        name=_NAMES[rule.method],
        value=value,
        at_least=rule.at_most if rule.method == "ks" else None,
        at_most=None if rule.method == "ks" else rule.at_most,
        group=PREDICTION,
        count=rows,
        outcome=outcome,
        note="" if value is not None else f"{rows} rows, {protocol.drift.least_rows} needed",
    )


def _confirm(
    protocol: ModelProtocol,
    columns: list[_Column],
    before: FloatArray,
    after: FloatArray,
    risks: tuple[FloatArray, FloatArray] | None,
) -> str:
    """Have Evidently compute the furthest columns and the said risks; return what to say of it.

    Raises:
        BrokenInvariantError: it differs.
    """
    from importlib.metadata import version

    kept = [column for column in columns if column.value is not None]
    furthest = sorted(kept, key=lambda column: (-column.excess, column.name))[:_CONFIRMED]
    pairs = [(column.name, column.rule.method, before[:, column.place], after[:, column.place]) for column in furthest]
    if risks is not None and min(int(np.isfinite(part).sum()) for part in risks) >= protocol.drift.least_rows:
        pairs.append((PREDICTION, protocol.drift_rule("prediction").method, *risks))
    if not pairs:
        return ""
    theirs = evidently_distances(pairs)
    for (name, method, old, new), value in zip(pairs, theirs, strict=True):
        ours = shift.distance(method, old, new)
        if ours is None or not abs(value - ours) <= _AGREEMENT * max(1.0, abs(ours)):
            raise BrokenInvariantError(
                f"{method} of {name}: Evidently and Vigil differ by more than {_AGREEMENT}: do not use this verdict"
            )
    return f"the {len(pairs)} furthest equal to Evidently {version('evidently')} within {_AGREEMENT:g}"


def evidently_distances(pairs: Sequence[tuple[str, DriftMethod, FloatArray, FloatArray]]) -> list[float]:
    """Return Evidently's drift value of each (name, method, reference, current), by that named method.

    Values that are not finite are left out first: Evidently takes a column without values for an error.
    """
    import pandas as pd

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its own use of pandas and numpy, not ours
        from evidently import DataDefinition, Dataset, Report  # type: ignore[import-untyped]
        from evidently.metrics import ValueDrift  # type: ignore[import-untyped]

        found = []
        definition = DataDefinition(numerical_columns=["value"])
        for _, method, before, after in pairs:
            old, new = (
                Dataset.from_pandas(pd.DataFrame({"value": part[np.isfinite(part)]}), data_definition=definition)
                for part in (before, after)
            )
            snapshot = Report([ValueDrift(column="value", method=method)]).run(current_data=new, reference_data=old)
            found.append(float(snapshot.dict()["metrics"][0]["value"]))
    return found


def _series(columns: list[_Column]) -> list[Series]:
    """Return all columns' distances over their limits, the furthest first, for the plot."""
    kept = sorted((column.excess for column in columns if column.value is not None), reverse=True)
    if not kept:
        return []
    return [
        Series(
            name="drift",
            x_label="columns, the furthest first",
            y_label="distance over its limit",
            x=tuple(float(place + 1) for place in range(len(kept))),
            y=tuple(kept),
        )
    ]


def _share(part: int, whole: int) -> float:
    return part / whole if whole else 0.0


def _words(method: DriftMethod) -> str:
    return _NAMES[method].replace("_", " ")


def _statement(verdict: Verdict) -> str:
    """Return one sentence for a person."""
    whole = verdict.measures[0]
    failed = [row.group or row.name.replace("_", " ") for row in verdict.measures if row.outcome is Outcome.FAIL]
    if failed:
        return f"The data has moved away from where the model learned: {', '.join(failed)} ({whole.note})."
    if verdict.outcome is Outcome.INCONCLUSIVE:
        open_ = [row for row in verdict.measures if row.outcome is Outcome.INCONCLUSIVE]
        return f"Too little to tell whether the data has moved: {'; '.join(row.note or row.name for row in open_)}."
    return f"The data is distributed as where the model learned ({whole.note})."
