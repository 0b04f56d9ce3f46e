"""Whether a model in service still deserves to speak: judgements of its recent scores, outcomes, alerts and inputs.

Here: observed against expected deaths, whole and by group; alerts against what is allowed; inputs against the
training reference, with the likely factor where a unit changed; the causes a verdict names, the gravest first.
Not here: gathering the table (twin.watch), the reaction to a cause (governance.rollback), bounds (the protocol).
Source: design.md section 6, item 9. Pure; numpy and the standard library only: this runs in the keeper.

Every interval is at the protocol's live level, which is high because the watch looks again every few seconds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from validation import intervals, unit_faults
from validation.age_bands import UNKNOWN, band_names, bands_of
from validation.model_protocol import LiveCalibration, ModelProtocol
from vocabulary.verdict import Kind, Measure, Outcome, Verdict, worst


class Cause(StrEnum):
    """Why a model is silenced or replaced, the gravest first: a broken input explains every other breach."""

    INTERFACE_FAULT = "interface_fault"
    CALIBRATION_BREACH = "calibration_breach"
    SUBGROUP_BREACH = "subgroup_breach"
    ALERT_FLOOD = "alert_flood"


class Reference(msgspec.Struct, frozen=True):
    """How one input was distributed where the model learned: one value a patient, in the concept's canonical unit."""

    levels: tuple[float, ...]  # rising shares in 0..1, e.g. 0.005, 0.01, 0.05, 0.1 … 0.99, 0.995
    values: tuple[float, ...]  # the quantiles at those levels


class LiveTable(msgspec.Struct, frozen=True, kw_only=True):
    """What happened lately. Arrays only; whoever gathers it chooses windows by the protocol's `window_*`."""

    # Stays that ended within the calibration window and about which this model spoke: one row each.
    probability: NDArray[np.float64]  # the last risk said about the stay, (stays,)
    died: NDArray[np.bool_]  # (stays,)
    sex: Sequence[str] = ()  # "female", "male", … or "", (stays,); empty: subgroups by sex are not judged
    age_years: NDArray[np.float64] | None = None  # NaN unknown, (stays,)
    # Attention within the alert window.
    alerts: int = 0  # onsets, by twin.alerts' rule
    patient_days: float = 0.0  # days during which the model spoke about somebody, summed over patients
    patients: int = 0  # patients about whom it first spoke within the window
    # Values within the input window: concept key -> one value a patient (the median of the patient's values).
    inputs: Mapping[str, NDArray[np.float64]] = {}
    refused: Mapping[str, tuple[int, int]] = {}  # concept key -> (values refused as implausible, all values sent)
    references: Mapping[str, Reference] = {}  # concept key -> the model's training reference


def judge_live(
    protocol: ModelProtocol,
    table: LiveTable,
    *,
    model_digest: str = "",
    data_fingerprint: str = "",
    made_at_us: int = 0,
) -> Verdict:
    """Return whether a running model's recent past contradicts what it was approved for.

    Fails only where an interval lies wholly outside its bound: too little evidence never silences a model, and is not
    counted against it either, since every model begins with none. Inconclusive: a bound is neither kept nor broken.

    Raises:
        ValueError: arrays of different lengths.
    """
    stays = len(table.probability)
    if len(table.died) != stays or (table.sex and len(table.sex) != stays):
        raise ValueError("expected one probability, outcome and sex a stay")
    if table.age_years is not None and len(table.age_years) != stays:
        raise ValueError("expected one age a stay")
    measures = [
        *_inputs(protocol, table),
        _calibration(protocol, table),
        *_subgroups(protocol, table),
        *_alerts(protocol, table),
    ]
    verdict = Verdict(
        kind=Kind.LIVE,
        subject=protocol.name,
        outcome=worst(found.outcome for found in measures),
        statement="",
        measures=tuple(measures),
        method=(
            "observed to expected deaths with exact Poisson intervals; alerts likewise; inputs by Kolmogorov distance "
            "to the training quantiles with the Dvoretzky–Kiefer–Wolfowitz bound and by Wilson intervals; level "
            f"{protocol.live.level:g}"
        ),
        protocol=protocol.label,
        protocol_digest=protocol.digest,
        model_digest=model_digest,
        data_fingerprint=data_fingerprint,
        made_at_us=made_at_us,
    )
    return msgspec.structs.replace(verdict, statement=_statement(verdict))


def causes(verdict: Verdict) -> tuple[Cause, ...]:
    """Return the causes of a live verdict's failures, the gravest first; act on the first."""
    failed = {found.name for found in verdict.measures if found.outcome is Outcome.FAIL}
    return tuple(cause for cause in Cause if failed & _MEASURES[cause])


_MEASURES: Final[Mapping[Cause, frozenset[str]]] = {
    Cause.INTERFACE_FAULT: frozenset({"input_share_outside", "input_distance", "input_refused_share"}),
    Cause.CALIBRATION_BREACH: frozenset({"observed_to_expected"}),
    Cause.SUBGROUP_BREACH: frozenset({"observed_to_expected_of_group"}),
    Cause.ALERT_FLOOD: frozenset({"alerts_to_allowed"}),
}


def _calibration(protocol: ModelProtocol, table: LiveTable) -> Measure:
    return _observed_to_expected(
        "observed_to_expected", table.probability, table.died, protocol.live.calibration, protocol.live.level
    )


def _subgroups(protocol: ModelProtocol, table: LiveTable) -> list[Measure]:
    """Return observed to expected deaths of each group large enough to be shown."""
    found = []
    groups: list[tuple[str, NDArray[np.bool_]]] = []
    if table.sex:
        sex = np.asarray([word or UNKNOWN for word in table.sex])
        groups += [(f"sex={word}", sex == word) for word in sorted(set(sex.tolist())) if word != UNKNOWN]
    if table.age_years is not None:
        edges = protocol.bias.age_bands_from_years
        bands = bands_of(table.age_years, edges)
        groups += [(f"age={name}", bands == name) for name in band_names(edges)]
    for group, members in groups:
        if int(members.sum()) >= protocol.live.subgroup.least_stays:
            found.append(
                _observed_to_expected(
                    "observed_to_expected_of_group",
                    table.probability[members],
                    table.died[members],
                    protocol.live.subgroup,
                    protocol.live.level,
                    group,
                )
            )
    return found


def _observed_to_expected(
    name: str,
    probability: NDArray[np.float64],
    died: NDArray[np.bool_],
    limits: LiveCalibration,
    level: float,
    group: str = "",
) -> Measure:
    """Return observed over expected deaths; the count of deaths carries the interval, as in standardised mortality."""
    stays, observed, expected = len(probability), int(np.sum(died)), float(np.sum(probability))
    if stays < limits.least_stays or not expected > 0:
        return Measure(
            name=name,
            value=None,
            level=level,
            at_least=limits.observed_to_expected_at_least,
            at_most=limits.observed_to_expected_at_most,
            group=group,
            count=stays,
            note=f"{stays} ended stays with a score, {limits.least_stays} needed",
        )
    low, high = intervals.poisson(observed, level)
    return intervals.measure(
        name,
        observed / expected,
        (low / expected, high / expected),
        level=level,
        at_least=limits.observed_to_expected_at_least,
        at_most=limits.observed_to_expected_at_most,
        group=group,
        count=stays,
        note=f"{observed} deaths, {expected:.1f} expected",
    )


def _alerts(protocol: ModelProtocol, table: LiveTable) -> list[Measure]:
    """Return alerts over what is allowed, and the plain rate for people."""
    limits, level = protocol.live.alerts, protocol.live.level
    allowed = limits.per_patient_day_at_most * table.patient_days + limits.first_alert_share * table.patients
    low, high = intervals.poisson(table.alerts, level)
    days = table.patient_days
    rate = intervals.measure(
        "alerts_per_patient_day",
        table.alerts / days if days > 0 else None,
        (low / days, high / days) if days > 0 else None,
        level=level,
        unit="/d",
        count=table.alerts,
        note="" if days > 0 else "no time watched",
    )
    if table.alerts < limits.least_alerts or not allowed > 0:
        note = f"{table.alerts} alerts, {limits.least_alerts} needed to call it a flood"
        return [
            rate,
            Measure(name="alerts_to_allowed", value=None, level=level, at_most=1.0, count=table.alerts, note=note),
        ]
    return [
        rate,
        intervals.measure(
            "alerts_to_allowed",
            table.alerts / allowed,
            (low / allowed, high / allowed),
            level=level,
            at_most=1.0,
            count=table.alerts,
            note=f"{table.alerts} alerts, {allowed:.1f} allowed",
        ),
    ]


def _inputs(protocol: ModelProtocol, table: LiveTable) -> list[Measure]:
    """Return how each input's recent values, and refusals, compare with the training reference."""
    found: list[Measure] = []
    for key in sorted(table.references):
        values = np.asarray(table.inputs.get(key, ()), np.float64)
        values = values[np.isfinite(values)]
        if len(values) >= protocol.live.inputs.least_patients:
            found.extend(_one_input(protocol, key, values, table.references[key]))
    found.extend(
        _refusals(protocol, key, *table.refused[key]) for key in sorted(table.refused) if key in table.references
    )
    return found


def _one_input(
    protocol: ModelProtocol, key: str, values: NDArray[np.float64], reference: Reference
) -> tuple[Measure, Measure]:
    limits, level, patients = protocol.live.inputs, protocol.live.level, len(values)
    levels = np.asarray(reference.levels, np.float64)
    quantiles = np.asarray(reference.values, np.float64)
    outside = (values < quantiles[0]) | (values > quantiles[-1])
    guess = unit_faults.likely(key, values, levels, quantiles, limits.distance_at_most)
    words = f"looks like {guess.words}" if guess else ""
    share = intervals.measure(
        "input_share_outside",
        float(outside.mean()),
        intervals.wilson(int(outside.sum()), patients, level),
        level=level,
        at_most=limits.share_outside_at_most,
        group=key,
        count=patients,
        note=words if outside.any() else "",
    )
    distance = unit_faults.distance(values, levels, quantiles)
    slack = float(np.sqrt(np.log(2 / (1 - level)) / (2 * patients)))
    most = limits.distance_at_most if guess else limits.distance_at_most_unexplained
    far = intervals.measure(
        "input_distance",
        distance,
        (max(0.0, distance - slack), min(1.0, distance + slack)),
        level=level,
        at_most=most,
        group=key,
        count=patients,
        note=words,
    )
    return _kept(share), _kept(far)


def _refusals(protocol: ModelProtocol, key: str, refused: int, sent: int) -> Measure:
    limits, level = protocol.live.inputs, protocol.live.level
    return _kept(
        intervals.measure(
            "input_refused_share",
            refused / sent if sent else None,
            intervals.wilson(refused, sent, level) if sent else None,
            level=level,
            at_most=limits.refused_share_at_most,
            group=key,
            count=sent,
            note=f"{refused} of {sent} values refused as implausible" if sent else "nothing sent",
        )
    )


def _kept(found: Measure) -> Measure:
    """Return an input's measure, passing where its estimate keeps the bound.

    A few patients never prove that an input is right; only proof that it is wrong counts, so that the verdict of a
    quiet ward is not inconclusive for ever.
    """
    keeps = found.value is None or found.at_most is None or found.value <= found.at_most
    return msgspec.structs.replace(found, outcome=Outcome.PASS) if keeps else found


def _statement(verdict: Verdict) -> str:
    """Return one sentence for a person."""
    found = causes(verdict)
    if not found:
        open_ = sum(measure.outcome is Outcome.INCONCLUSIVE for measure in verdict.measures)
        return "Nothing contradicts the model in service" + (
            f"; {open_} figures cannot be told from their bounds yet." if open_ else "."
        )
    worst_ = next(
        measure
        for measure in verdict.measures
        if measure.outcome is Outcome.FAIL and measure.name in _MEASURES[found[0]]
    )
    what = f"{_WORDS[found[0]]}{f' ({worst_.group})' if worst_.group else ''}"
    return f"{what}: {worst_.note}." if worst_.note else f"{what}."


_WORDS: Final[Mapping[Cause, str]] = {
    Cause.INTERFACE_FAULT: "An input no longer looks like what the model learned from",
    Cause.CALIBRATION_BREACH: "Deaths contradict the risks said",
    Cause.SUBGROUP_BREACH: "Deaths contradict the risks said about one group",
    Cause.ALERT_FLOOD: "Attention is raised too often",
}
