"""Clinical validation: does the model discriminate, is it calibrated, would acting on it help, what would it cost.

Here: `judge`, which turns unseen stays' outcomes and said risks into a verdict under a model protocol, with the
curves a committee needs. Intervals are over resampled stays; a share at the threshold has Wilson's.
Not here: the metrics themselves (validation.metrics, validation.calibration), when an alert is raised (twin.alerts),
groups (validation.bias), making predictions (models.risk).
Source: TRIPOD+AI, Collins et al. 2024, BMJ 385:e078378; Steyerberg 2019, Clinical Prediction Models, chapter 15.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import msgspec
import numpy as np
from numpy.typing import ArrayLike, NDArray

from validation import alert_burden, bootstrap, calibration, intervals, metrics
from validation.calibration import curve, expected_calibration_error, integrated_calibration_index
from validation.metrics import FloatArray
from validation.model_protocol import ModelProtocol
from vocabulary.verdict import Kind, Measure, Outcome, Series, Verdict, worst

_DECISION_THRESHOLDS: Final = tuple(float(value) for value in np.round(np.arange(0.01, 0.61, 0.01), 2))
_CURVE_POINTS: Final = 100
"""Enough for the eye; no single patient's risk can be read off a thinned curve."""


def judge(
    protocol: ModelProtocol,
    stays: ArrayLike,
    hours: ArrayLike,
    labels: ArrayLike,
    probabilities: ArrayLike,
    *,
    alerts: alert_burden.Alerts | None = None,
    model_digest: str = "",
    data_fingerprint: str = "",
    made_at_us: int = 0,
) -> Verdict:
    """Return whether a model does on unseen stays what its protocol asks.

    Args:
        protocol: bounds, primary hour, threshold, seed and repetitions.
        stays: whose row it is, (rows,).
        hours: hour of the stay at which the risk was said, (rows,); a stay has each hour once at most.
        labels: 1 where the outcome happened, the same for all rows of a stay, (rows,).
        probabilities: NaN where the model abstained, (rows,).
        alerts: what twin.alerts would have raised over these stays; None leaves the burden out, and where the protocol
            bounds it, inconclusive.
        model_digest: of the artefact that said them.
        data_fingerprint: of the stays.
        made_at_us: when, microseconds since 1970.

    Raises:
        ValueError: other shapes, labels that are not 0 or 1 or differ within a stay, a stay's hour twice, probabilities
            outside 0 to 1.
    """
    hour, label, said = _checked(stays, hours, labels, probabilities)
    primary = hour == protocol.timing.primary_hour
    speaks = primary & np.isfinite(said)
    outcome, probability = metrics.checked(label[speaks], said[speaks], is_probability=True)
    measures = [
        *_evidence(protocol, len(outcome), int(outcome.sum())),
        *_whole(protocol, outcome, probability),
        *_at_threshold(protocol, outcome, probability),
        _abstention(protocol, int(primary.sum()), int(primary.sum()) - int(speaks.sum())),
        *_burden(protocol, alerts),
        *_by_hour(protocol, hour, label, said),
    ]
    verdict = Verdict(
        kind=Kind.CLINICAL,
        subject=protocol.name,
        outcome=worst(found.outcome for found in measures),
        statement="",
        measures=tuple(measures),
        series=tuple(_series(protocol, outcome, probability, measures)),
        method=(
            f"percentile bootstrap of whole stays, {protocol.held_out.bootstrap_repetitions} repetitions, "
            f"unstratified, seed {protocol.held_out.seed}; Wilson's interval at the threshold; logistic recalibration; "
            "expected calibration error over tenths; integrated calibration index by restricted cubic spline, 4 knots"
        ),
        protocol=protocol.label,
        protocol_digest=protocol.digest,
        model_digest=model_digest,
        data_fingerprint=data_fingerprint,
        made_at_us=made_at_us,
    )
    return msgspec.structs.replace(verdict, statement=_statement(protocol, verdict, len(outcome), int(outcome.sum())))


def _checked(
    stays: ArrayLike, hours: ArrayLike, labels: ArrayLike, probabilities: ArrayLike
) -> tuple[NDArray[np.int64], NDArray[np.int64], FloatArray]:
    """Return hours, labels and probabilities, after checking that the rows are one table."""
    stay, hour = np.asarray(stays), np.asarray(hours)
    label, said = np.asarray(labels), np.asarray(probabilities, np.float64)
    if not stay.shape == hour.shape == label.shape == said.shape or stay.ndim != 1:
        raise ValueError("expected stays, hours, labels and probabilities of one shape (rows,)")
    metrics.checked(label, np.zeros(len(label)))
    finite = said[np.isfinite(said)]
    if np.any((finite < 0) | (finite > 1)) or np.any(np.isinf(said)):
        raise ValueError("expected probabilities between 0 and 1, NaN where the model abstained")
    order = np.lexsort((hour, stay))
    same = stay[order][1:] == stay[order][:-1]
    if np.any(same & (hour[order][1:] == hour[order][:-1])):
        raise ValueError("expected each hour of a stay once")
    if np.any(same & (label[order][1:] != label[order][:-1])):
        raise ValueError("expected one outcome a stay")
    return hour.astype(np.int64), label.astype(np.int64), said


def _evidence(protocol: ModelProtocol, stays: int, events: int) -> list[Measure]:
    """Return whether there is enough to judge by; too little is inconclusive, never a pass."""
    found = []
    for name, value, least in (
        ("held_out_stays", stays, protocol.held_out.least_stays),
        ("held_out_events", min(events, stays - events), protocol.held_out.least_events),
    ):
        outcome = Outcome.PASS if value >= least else Outcome.INCONCLUSIVE
        note = "" if outcome is Outcome.PASS else f"{value} of the {least} needed"
        found.append(
            Measure(name=name, value=float(value), at_least=float(least), count=stays, outcome=outcome, note=note)
        )
    return found


def _whole(protocol: ModelProtocol, outcome: metrics.BoolArray, probability: FloatArray) -> list[Measure]:
    """Return metrics of all unseen stays at the primary hour, each with its bootstrap interval."""
    held, threshold = protocol.held_out, protocol.attention.threshold
    weighted: dict[str, bootstrap.Statistic] = {
        name: _bound_to(function, outcome, probability) for name, function in _WEIGHTED.items()
    }
    weighted["net_benefit_over_none"] = lambda weights: metrics.net_benefit_weighted(
        outcome, probability, weights, threshold
    )
    weighted["net_benefit_over_all"] = lambda weights: (
        metrics.net_benefit_weighted(outcome, probability, weights, threshold)
        - metrics.net_benefit_weighted(outcome, np.ones_like(probability), weights, threshold)
    )
    found = bootstrap.percentile_intervals(
        len(outcome), weighted, repetitions=held.bootstrap_repetitions, seed=held.seed, level=held.level
    )
    once = np.ones((1, len(outcome)))
    measures = []
    for name, statistic in weighted.items():
        value = float(statistic(once)[0]) if len(outcome) else None
        measures.append(_measured(protocol, name, value, found[name], len(outcome), note=_NOTES.get(name, "")))
    index = integrated_calibration_index(outcome, probability) if len(outcome) else None
    measures.append(_measured(protocol, "integrated_calibration_index", index, None, len(outcome)))
    return measures


def _bound_to(
    function: Callable[[metrics.BoolArray, FloatArray, FloatArray], FloatArray],
    outcome: metrics.BoolArray,
    probability: FloatArray,
) -> bootstrap.Statistic:
    return lambda weights: function(outcome, probability, weights)


def _at_threshold(protocol: ModelProtocol, outcome: metrics.BoolArray, probability: FloatArray) -> list[Measure]:
    """Return shares at the attention threshold with Wilson's intervals."""
    counts = metrics.confusion(outcome, probability, protocol.attention.threshold)
    caught, needless, missed, spared = (int(cell[0]) for cell in counts)
    shares = {
        "sensitivity": (caught, caught + missed),
        "specificity": (spared, spared + needless),
        "positive_predictive_value": (caught, caught + needless),
        "negative_predictive_value": (spared, spared + missed),
        "selection_rate": (caught + needless, len(outcome)),
    }
    return [
        _measured(
            protocol,
            name,
            above / below if below else None,
            intervals.wilson(above, below, protocol.held_out.level) if below else None,
            below,
            note=f"at {protocol.attention.threshold:g}" if below else "nobody to divide by",
        )
        for name, (above, below) in shares.items()
    ]


def _abstention(protocol: ModelProtocol, asked: int, silent: int) -> Measure:
    return _measured(
        protocol,
        "abstention_rate",
        silent / asked if asked else None,
        intervals.wilson(silent, asked, protocol.held_out.level) if asked else None,
        asked,
        note="" if asked else f"nobody was asked about at hour {protocol.timing.primary_hour}",
    )


def _burden(protocol: ModelProtocol, alerts: alert_burden.Alerts | None) -> list[Measure]:
    if alerts is not None:
        return alert_burden.measures(protocol, alerts)
    return [
        _measured(protocol, name, None, None, 0, note="no table of alerts was given")
        for name in ("alerts_per_patient_day", "alerts_per_caught_event")
        if protocol.bound_of(name) is not None
    ]


def _by_hour(
    protocol: ModelProtocol, hour: NDArray[np.int64], label: NDArray[np.int64], said: FloatArray
) -> list[Measure]:
    """Return the table by hour: shown, not judged, since the bounds hold at the primary hour."""
    held = protocol.held_out
    found = []
    for at in protocol.timing.judged_hours:
        rows = (hour == at) & np.isfinite(said)
        outcome, probability = label[rows] == 1, said[rows]
        statistic = _bound_to(metrics.auroc_weighted, outcome, probability)
        interval = bootstrap.percentile_intervals(
            len(outcome),
            {"auroc": statistic},
            repetitions=held.bootstrap_repetitions,
            seed=held.seed,
            level=held.level,
        )["auroc"]
        slope = calibration.calibration(outcome, probability)[1] if len(outcome) else None
        values = {
            "auroc": metrics.auroc(outcome, probability),
            "auprc": metrics.average_precision(outcome, probability),
            "brier": metrics.brier(outcome, probability),
            "calibration_slope": slope,
        }
        for name, value in values.items():
            found.append(
                intervals.measure(
                    f"{name}_at_hour",
                    value,
                    interval if name == "auroc" else None,
                    level=held.level,
                    group=f"hour={at}",
                    count=len(outcome),
                )
            )
    return found


def _measured(
    protocol: ModelProtocol,
    name: str,
    value: float | None,
    interval: intervals.Interval | None,
    count: int,
    note: str = "",
) -> Measure:
    """Return one number of the whole, judged where the protocol bounds it."""
    bound = protocol.bound_of(name)
    return intervals.measure(
        name,
        value,
        interval,
        level=protocol.held_out.level,
        at_least=bound.at_least if bound else None,
        at_most=bound.at_most if bound else None,
        count=count,
        note=note,
    )


def _series(
    protocol: ModelProtocol, outcome: metrics.BoolArray, probability: FloatArray, measures: list[Measure]
) -> list[Series]:
    """Return the curves of a dossier; none without both outcomes."""
    found = [_hours_series(measures)]
    if not outcome.any() or outcome.all():
        return [series for series in found if series.x]
    tenths = curve(outcome, probability)
    limits = [
        intervals.wilson(int(events), int(count), protocol.held_out.level)
        for events, count in zip(tenths.events, tenths.stays, strict=True)
    ]
    found.append(
        Series(
            name="calibration",
            x_label="risk said",
            y_label="share that died",
            x=_floats(tenths.said),
            y=_floats(tenths.seen),
            low=tuple(low for low, _ in limits),
            high=tuple(high for _, high in limits),
            count=tuple(int(count) for count in tenths.stays),
        )
    )
    lowest, highest = np.quantile(probability, [0.02, 0.98])
    grid = np.linspace(float(lowest), float(highest), 50)
    truth = calibration.smoothed(outcome, probability, grid)
    if truth is not None:
        found.append(_curve("calibration_smoothed", "risk said", "share that died, smoothed", grid, truth))
    found += _decision(outcome, probability)
    found += _ranking(outcome, probability)
    return [series for series in found if series.x]


def _decision(outcome: metrics.BoolArray, probability: FloatArray) -> list[Series]:
    everybody = np.ones_like(probability)
    thresholds = np.asarray(_DECISION_THRESHOLDS)
    model = [metrics.net_benefit(outcome, probability, at) for at in _DECISION_THRESHOLDS]
    treat_all = [metrics.net_benefit(outcome, everybody, at) for at in _DECISION_THRESHOLDS]
    chosen = [float(np.mean(probability >= at)) for at in _DECISION_THRESHOLDS]
    benefit = "net benefit per stay"
    return [
        _curve("decision_model", "threshold", benefit, thresholds, np.asarray(model, np.float64)),
        _curve("decision_all", "threshold", benefit, thresholds, np.asarray(treat_all, np.float64)),
        _curve("decision_none", "threshold", benefit, thresholds, np.zeros_like(thresholds)),
        _curve("selection", "threshold", "share of stays at or above", thresholds, np.asarray(chosen)),
    ]


def _ranking(outcome: metrics.BoolArray, probability: FloatArray) -> list[Series]:
    """Return the receiver operating characteristic and the precision–recall curve, at evenly spread risks."""
    at = np.unique(np.quantile(probability, np.linspace(1, 0, _CURVE_POINTS)))[::-1]
    chosen = probability[None, :] >= at[:, None]
    caught = (chosen & outcome).sum(axis=1).astype(np.float64)
    total = chosen.sum(axis=1)
    recall, needless = caught / outcome.sum(), (total - caught) / (~outcome).sum()
    return [
        _curve(
            "roc",
            "1 − specificity",
            "sensitivity",
            np.concatenate(([0.0], needless)),
            np.concatenate(([0.0], recall)),
        ),
        _curve("precision_recall", "sensitivity", "positive predictive value", recall, caught / total),
    ]


def _hours_series(measures: list[Measure]) -> Series:
    rows = [row for row in measures if row.name == "auroc_at_hour" and row.value is not None and row.low is not None]
    return Series(
        name="auroc_by_hour",
        x_label="hours since admission",
        y_label="AUROC",
        x=tuple(float(row.group.removeprefix("hour=")) for row in rows),
        y=tuple(row.value for row in rows if row.value is not None),
        low=tuple(row.low for row in rows if row.low is not None),
        high=tuple(row.high for row in rows if row.high is not None),
        count=tuple(row.count for row in rows),
    )


def _curve(name: str, x_label: str, y_label: str, x: FloatArray, y: FloatArray) -> Series:
    return Series(name=name, x_label=x_label, y_label=y_label, x=_floats(x), y=_floats(y))


def _floats(values: FloatArray) -> tuple[float, ...]:
    return tuple(float(value) for value in values)


def _statement(protocol: ModelProtocol, verdict: Verdict, stays: int, events: int) -> str:
    """Return one sentence for a person."""
    by_name = {found.name: found for found in verdict.measures}
    ranking = by_name["auroc"]
    said = f"At hour {protocol.timing.primary_hour}, on {stays} unseen stays with {events} deaths"
    if ranking.value is not None and ranking.low is not None and ranking.high is not None:
        said += f": AUROC {ranking.value:.3f} ({ranking.low:.3f} to {ranking.high:.3f})"
    for outcome, words in ((Outcome.FAIL, "broken"), (Outcome.INCONCLUSIVE, "not proven")):
        names = [found.name.replace("_", " ") for found in verdict.measures if found.outcome is outcome]
        if names:
            said += f"; {words}: {', '.join(names)}"
    return f"{said}." if verdict.outcome is not Outcome.PASS else f"{said}; every bound is kept."


_WEIGHTED: Final[dict[str, Callable[[metrics.BoolArray, FloatArray, FloatArray], FloatArray]]] = {
    "auroc": metrics.auroc_weighted,
    "auprc": metrics.average_precision_weighted,
    "brier": metrics.brier_weighted,
    "scaled_brier": metrics.scaled_brier_weighted,
    "log_loss": metrics.log_loss_weighted,
    "min_se_ppv": metrics.min_se_ppv_weighted,
    "calibration_intercept": calibration.intercept_weighted,
    "calibration_slope": calibration.slope_weighted,
    "expected_calibration_error": calibration.expected_calibration_error_weighted,
}
_NOTES: Final[dict[str, str]] = {"min_se_ppv": "at the threshold where it is largest on these stays"}

__all__ = ["expected_calibration_error", "integrated_calibration_index", "judge"]
