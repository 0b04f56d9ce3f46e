"""The bias audit: do sexes and age bands fare alike under the model.

Here: `judge`, which compares each group with everybody else of known sex or age, censors small groups, and has
Fairlearn compute the same rates: where the two differ, the program is broken, not the model.
Not here: the arithmetic (validation.group_rates), asking Fairlearn (validation.fairlearn_rates), bounds (the protocol).
Source: Hardt, Price, Srebro 2016 (equal opportunity); Chouldechova 2017, Big Data 5:153; Fairlearn's MetricFrame.

Pass only if the whole interval of a difference lies within the bound, fail if wholly outside, else inconclusive. Every
interval is at the protocol's level, without a correction for how many are looked at: a failure needs the whole
interval beyond a bound that is well away from zero, which chance alone reaches far more rarely than one time in forty.
"""

from __future__ import annotations

import math
from typing import Final, NamedTuple

import msgspec
import numpy as np
from numpy.typing import ArrayLike, NDArray

from validation import group_rates, intervals, metrics
from validation.age_bands import UNKNOWN, band_names, bands_of
from validation.fairlearn_rates import metric_frame
from validation.group_rates import DENOMINATORS, BoolArray, FloatArray, Ranking
from validation.model_protocol import Attribute, BiasRule, ModelProtocol
from vocabulary.errors import BrokenInvariantError
from vocabulary.verdict import Kind, Measure, Outcome, Series, Verdict, worst

_AGREEMENT: Final = 1e-9
_OF_CONFUSION: Final = ("false_negative_rate", "false_positive_rate", "selection_rate", "positive_predictive_value")
_MADE_OF: Final = {
    "false_negative_rate": "deaths",
    "false_positive_rate": "survivors",
    "selection_rate": "stays",
    "positive_predictive_value": "selected stays",
    "observed_to_expected": "deaths",
    "auroc": "deaths or survivors",
}


class _Group(NamedTuple):
    """One group large enough to be shown, and everybody else whose sex or age is known."""

    name: str  # "sex=female"
    stays: int
    cells: NDArray[np.int64]  # (4,)
    rest_cells: NDArray[np.int64]
    ranking: Ranking
    rest_ranking: Ranking
    observed_to_expected: float
    observed_to_expected_interval: intervals.Interval | None


def judge(
    protocol: ModelProtocol,
    labels: ArrayLike,
    probabilities: ArrayLike,
    sex: ArrayLike,
    age_years: ArrayLike,
    *,
    uses_fairlearn: bool = True,
    model_digest: str = "",
    data_fingerprint: str = "",
    made_at_us: int = 0,
) -> Verdict:
    """Return whether groups by sex and by age band fare alike, at the primary hour, one row a stay.

    Args:
        protocol: groups, bounds, threshold, seed.
        labels: 0 or 1, (stays,).
        probabilities: NaN where the model abstained, (stays,).
        sex: words such as "female" and "male"; "" is unknown, (stays,).
        age_years: NaN unknown, (stays,).
        uses_fairlearn: whether Fairlearn computes the shown groups' rates too (3 s of import). The verdict is the same.
        model_digest: of the artefact judged.
        data_fingerprint: of the stays.
        made_at_us: when, microseconds since 1970.

    Raises:
        ValueError: other shapes, labels that are not 0 or 1.
        BrokenInvariantError: Fairlearn's rates are not ours.
    """
    said = np.asarray(probabilities, np.float64)
    speaks = np.isfinite(said)
    words, years = np.asarray(sex, np.str_), np.asarray(age_years, np.float64)
    label = np.asarray(labels)
    if not label.shape == said.shape == words.shape == years.shape or said.ndim != 1:
        raise ValueError("expected labels, probabilities, sex and age of one shape (stays,)")
    outcome, probability = metrics.checked(label[speaks], said[speaks], is_probability=True)
    attributes: dict[Attribute, NDArray[np.str_]] = {
        "sex": np.where(words == "", UNKNOWN, words)[speaks],
        "age": bands_of(years, protocol.bias.age_bands_from_years)[speaks],
    }
    measures: list[Measure] = []
    series: list[Series] = []
    for attribute, members in attributes.items():
        found, curve = _attribute(protocol, attribute, members, outcome, probability, uses_fairlearn=uses_fairlearn)
        measures += found
        series += curve
    verdict = Verdict(
        kind=Kind.BIAS,
        subject=protocol.name,
        outcome=worst(found.outcome for found in measures),
        statement="",
        measures=tuple(measures),
        series=tuple(series),
        method=_method(protocol, uses_fairlearn=uses_fairlearn),
        protocol=protocol.label,
        protocol_digest=protocol.digest,
        model_digest=model_digest,
        data_fingerprint=data_fingerprint,
        made_at_us=made_at_us,
    )
    return msgspec.structs.replace(verdict, statement=_statement(protocol, verdict))


def _attribute(
    protocol: ModelProtocol,
    attribute: Attribute,
    members: NDArray[np.str_],
    outcome: BoolArray,
    probability: FloatArray,
    *,
    uses_fairlearn: bool,
) -> tuple[list[Measure], list[Series]]:
    """Return the measures of all groups by one attribute, and a curve of their calibration."""
    names = _names(protocol, attribute, members)
    if not set(names) - {UNKNOWN}:
        return [_not_known(attribute)], []
    smallest = protocol.bias.smallest_group
    shown = [name for name in names if int((members == name).sum()) >= smallest]
    hidden = [name for name in names if name not in shown]
    known = members != UNKNOWN
    groups = [
        _group(f"{attribute}={name}", members == name, known, outcome, probability, protocol)
        for name in shown
        if name != UNKNOWN
    ]
    measures = [_censored(f"{attribute}={name}", smallest) for name in hidden if name != UNKNOWN]
    rules = [rule for rule in protocol.bias.rule if rule.attribute == attribute]
    for group in groups:
        measures += _own(protocol, group, rules)
    are_two = len(groups) == 2 and not set(hidden) - {UNKNOWN}  # then one difference mirrors the other
    for group in groups[:1] if are_two else groups:
        measures += _differences(protocol, group, rules)
    if uses_fairlearn and groups:
        measures += _fairlearn(protocol, attribute, groups, members, outcome, probability)
    if hidden:
        measures = [_rounded(measure) for measure in measures]
    return measures, _calibration_series(attribute, measures)


def _names(protocol: ModelProtocol, attribute: Attribute, members: NDArray[np.str_]) -> list[str]:
    """Return the groups to look at: bands of the protocol even where nobody is in them, others where somebody is."""
    present = set(members.tolist())
    if attribute == "sex":
        return sorted(present)
    edges = protocol.bias.age_bands_from_years
    below = {name for name in band_names(edges) if name.startswith("-")}
    named = [name for name in band_names(edges) if name in present or name not in below]
    return [*named, *([UNKNOWN] if UNKNOWN in present else [])]


def _group(
    name: str,
    inside: BoolArray,
    known: BoolArray,
    outcome: BoolArray,
    probability: FloatArray,
    protocol: ModelProtocol,
) -> _Group:
    rest = known & ~inside
    is_chosen = probability >= protocol.attention.threshold
    index = np.where(inside, 0, np.where(rest, 1, 2)).astype(np.int64)
    cells = group_rates.confusion_by_group(outcome, is_chosen, index, 3)
    ratio, interval = group_rates.observed_to_expected(outcome[inside], probability[inside], protocol.held_out.level)
    return _Group(
        name=name,
        stays=int(inside.sum()),
        cells=cells[0],
        rest_cells=cells[1],
        ranking=group_rates.ranking(outcome[inside], probability[inside]),
        rest_ranking=group_rates.ranking(outcome[rest], probability[rest]),
        observed_to_expected=ratio,
        observed_to_expected_interval=interval,
    )


def _own(protocol: ModelProtocol, group: _Group, rules: list[BiasRule]) -> list[Measure]:
    """Return a group's own rates with intervals; only observed to expected is judged by itself."""
    held = protocol.held_out
    generator = np.random.default_rng(held.seed)
    drawn = group_rates.rates(group_rates.draws(group.cells[None], held.bootstrap_repetitions, generator)[0])
    values = group_rates.rates(group.cells)
    found = []
    for rule in rules:
        name = rule.measure
        little = _too_little(protocol, name, group.cells)
        at_least = at_most = None
        if name in _OF_CONFUSION:
            value, interval = float(values[name]), intervals.percentiles(drawn[name], held.level)
        elif name == "auroc":
            value = group.ranking.area
            half = intervals.deviate(held.level) * math.sqrt(group.ranking.variance)
            interval = (max(0.0, value - half), min(1.0, value + half)) if half > 0 else None
        else:
            value, interval = group.observed_to_expected, group.observed_to_expected_interval
            if rule.at_most is not None:
                at_least, at_most = 1 / rule.at_most, rule.at_most
        found.append(
            intervals.measure(
                name,
                None if little else value,
                interval,
                level=held.level,
                at_least=at_least,
                at_most=at_most,
                group=group.name,
                count=group.stays,
                too_little=little,
            )
        )
    return found


def _differences(protocol: ModelProtocol, group: _Group, rules: list[BiasRule]) -> list[Measure]:
    """Return how far a group's rates lie from everybody else's."""
    held = protocol.held_out
    both = np.stack([group.cells, group.rest_cells])
    generator = np.random.default_rng(held.seed)
    drawn = group_rates.rates(group_rates.draws(both, held.bootstrap_repetitions, generator))
    values = group_rates.rates(both)
    found = []
    for rule in rules:
        name = rule.measure
        if name == "observed_to_expected":
            continue
        little = _too_little(protocol, name, group.cells) or _too_little(protocol, name, group.rest_cells)
        if name == "auroc":
            value = group.ranking.area - group.rest_ranking.area
            interval = group_rates.difference_of_rankings(group.ranking, group.rest_ranking, held.level)
        else:
            value = float(values[name][0] - values[name][1])
            interval = intervals.percentiles(drawn[name][0] - drawn[name][1], held.level)
        found.append(
            intervals.measure(
                f"{name}_difference",
                None if little else value,
                interval,
                level=held.level,
                at_least=None if rule.at_most is None else -rule.at_most,
                at_most=rule.at_most,
                group=group.name,
                count=group.stays,
                note="against everybody else",
                too_little=little,
            )
        )
    return found


def _too_little(protocol: ModelProtocol, name: str, cells: NDArray[np.int64]) -> str:
    fewest = protocol.bias.fewest_events
    return f"fewer than {fewest} {_MADE_OF[name]}" if DENOMINATORS[name](cells) < fewest else ""


def _not_known(attribute: Attribute) -> Measure:
    """Return that nobody can be put in a group: what was not looked at does not pass."""
    return Measure(
        name="group_is_known",
        value=None,
        group=attribute,
        outcome=Outcome.INCONCLUSIVE,
        note=f"the {attribute} of no stay is known: not judged",
    )


def _censored(group: str, smallest: int) -> Measure:
    """Return that a group is too small to be shown, without its size."""
    return Measure(
        name="group_is_large_enough",
        value=None,
        at_least=float(smallest),
        group=group,
        outcome=Outcome.INCONCLUSIVE,
        note=f"fewer than {smallest} stays: not shown",
    )


def _rounded(measure: Measure) -> Measure:
    """Return a figure so coarse that a censored group cannot be worked out from the others and the whole."""

    def coarse(value: float | None) -> float | None:
        return None if value is None else round(value, 2)

    return msgspec.structs.replace(
        measure,
        value=coarse(measure.value),
        low=coarse(measure.low),
        high=coarse(measure.high),
        count=measure.count // 10 * 10,
    )


def _fairlearn(
    protocol: ModelProtocol,
    attribute: Attribute,
    groups: list[_Group],
    members: NDArray[np.str_],
    outcome: BoolArray,
    probability: FloatArray,
) -> list[Measure]:
    """Return Fairlearn's largest difference between shown groups for each rate, after checking its rates against ours.

    Raises:
        BrokenInvariantError: a rate differs by more than 1e-9.
    """
    shown = np.isin(members, [group.name.partition("=")[2] for group in groups])
    frame = metric_frame(outcome[shown], probability[shown], members[shown], threshold=protocol.attention.threshold)
    found = []
    for name in (*_OF_CONFUSION, "auroc"):
        theirs = frame[name]
        judged = [group for group in groups if not _too_little(protocol, name, group.cells)]
        for group in judged:
            ours = group.ranking.area if name == "auroc" else float(group_rates.rates(group.cells)[name])
            if not abs(float(theirs[group.name.partition("=")[2]]) - ours) <= _AGREEMENT:
                raise BrokenInvariantError(
                    f"{name} of {group.name}: Fairlearn and Vigil differ by more than {_AGREEMENT}: use neither"
                )
        values = [float(theirs[group.name.partition("=")[2]]) for group in judged]
        found.append(
            intervals.measure(
                f"{name}_between_groups",
                max(values) - min(values) if len(values) > 1 else None,
                level=protocol.held_out.level,
                group=attribute,
                count=sum(group.stays for group in judged),
                note="Fairlearn: the largest less the smallest, of groups shown",
            )
        )
    return found


def _calibration_series(attribute: Attribute, measures: list[Measure]) -> list[Series]:
    """Return observed to expected by group, in the groups' order (x: 0, 1, 2, … as named in x_label)."""
    rows = [row for row in measures if row.name == "observed_to_expected" and row.value is not None]
    rows = [row for row in rows if row.low is not None and row.high is not None]
    if not rows:
        return []
    return [
        Series(
            name=f"observed_to_expected_by_{attribute}",
            x_label=", ".join(row.group.partition("=")[2] for row in rows),
            y_label="observed / expected deaths",
            x=tuple(float(place) for place in range(len(rows))),
            y=tuple(row.value for row in rows if row.value is not None),
            low=tuple(row.low for row in rows if row.low is not None),
            high=tuple(row.high for row in rows if row.high is not None),
            count=tuple(row.count for row in rows),
        )
    ]


def _method(protocol: ModelProtocol, *, uses_fairlearn: bool) -> str:
    held = protocol.held_out
    beside = ""
    if uses_fairlearn:
        from importlib.metadata import version

        beside = f"; rates equal to Fairlearn {version('fairlearn')} MetricFrame within {_AGREEMENT:g}"
    return (
        f"each group against everybody else; Bayesian bootstrap of confusion counts, {held.bootstrap_repetitions} "
        f"draws, seed {held.seed}; DeLong for AUROC; delta method for observed to expected{beside}"
    )


def _statement(protocol: ModelProtocol, verdict: Verdict) -> str:
    """Return one sentence for a person."""
    failed = [row for row in verdict.measures if row.outcome is Outcome.FAIL]
    open_ = [row for row in verdict.measures if row.outcome is Outcome.INCONCLUSIVE]
    if failed:
        words = ", ".join(f"{row.name.replace('_', ' ')} of {row.group}" for row in failed)
        return f"Groups do not fare alike: {words}."
    if open_:
        groups = sorted({row.group for row in open_})
        return f"{len(open_)} comparisons cannot be told from their bounds with these stays ({', '.join(groups)})."
    return f"Groups by sex and age fare alike within the bounds of {protocol.label}."
