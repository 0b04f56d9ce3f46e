"""What a model's alerts would have cost and caught: a table of alerts over history, judged.

Here: the table by stay, its rates with intervals by resampled stays.
Not here: when an alert is raised (twin.alerts, the very rule of the live board), bounds (validation.model_protocol).
Source: Romero-Brufau et al. 2015, Crit Care 19:285, number needed to evaluate.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from validation import bootstrap, intervals
from validation.model_protocol import ModelProtocol
from vocabulary.verdict import Measure

FloatArray = NDArray[np.float64]


class Alerts(NamedTuple):
    """One row a stay."""

    alerts: FloatArray  # raised while the stay was watched, (stays,)
    watched_days: FloatArray  # time during which they could have been raised, (stays,)
    died: NDArray[np.bool_]  # (stays,)


def table(
    row_stay: ArrayLike, raised: ArrayLike, stays: ArrayLike, died: ArrayLike, *, minutes_between_rows: float
) -> Alerts:
    """Return the table from a table of estimates in which some rows raised an alert.

    Args:
        row_stay: whose estimate, (rows,).
        raised: whether it raised an alert (twin.alerts.onset_rows), (rows,).
        stays: every stay that was watched, also those without an alert, each once, (stays,).
        died: the outcome, (stays,).
        minutes_between_rows: how much time one estimate stands for.

    Raises:
        ValueError: a row of an unknown stay, a stay twice, or other shapes.
    """
    owner, identity = np.asarray(row_stay), np.asarray(stays)
    outcome, flags = np.asarray(died, np.bool_), np.asarray(raised, np.bool_)
    if owner.shape != flags.shape or identity.shape != outcome.shape:
        raise ValueError("expected one flag a row and one outcome a stay")
    order = np.argsort(identity, kind="stable")
    ordered = identity[order]
    if np.any(ordered[1:] == ordered[:-1]):
        raise ValueError("expected each stay once")
    place = np.minimum(np.searchsorted(ordered, owner), max(0, len(ordered) - 1))
    if len(owner) and (not len(ordered) or np.any(ordered[place] != owner)):
        raise ValueError("expected every row to be of a listed stay")
    where = order[place] if len(owner) else np.zeros(0, np.int64)
    count = np.bincount(where, flags.astype(np.float64), minlength=len(identity))
    rows = np.bincount(where, minlength=len(identity))
    return Alerts(count.astype(np.float64), rows.astype(np.float64) * (minutes_between_rows / 1440), outcome)


def measures(protocol: ModelProtocol, alerts: Alerts) -> list[Measure]:
    """Return the burden's figures, judged where the protocol bounds them."""
    count, days, died = alerts
    caught = died & (count > 0)
    held = protocol.held_out
    found = bootstrap.percentile_intervals(
        len(count),
        {
            "alerts_per_patient_day": lambda weights: _ratio(weights @ count, weights @ days),
            "alerts_per_caught_event": lambda weights: _ratio(weights @ count, weights @ caught.astype(np.float64)),
            "alerted_stays": lambda weights: _ratio(weights @ (count > 0).astype(np.float64), weights.sum(axis=1)),
            "caught_events": lambda weights: _ratio(weights @ caught.astype(np.float64), weights @ died.astype(float)),
        },
        repetitions=held.bootstrap_repetitions,
        seed=held.seed,
        level=held.level,
    )
    total = float(count.sum())
    values = {
        "alerts_per_patient_day": (total, float(days.sum()), "/d"),
        "alerts_per_caught_event": (total, float(caught.sum()), "1"),
        "alerted_stays": (float((count > 0).sum()), float(len(count)), "1"),
        "caught_events": (float(caught.sum()), float(died.sum()), "1"),
    }
    judged = []
    for name, (above, below, unit) in values.items():
        bound = protocol.bound_of(name)
        judged.append(
            intervals.measure(
                name,
                above / below if below > 0 else None,
                found[name],
                level=held.level,
                at_least=bound.at_least if bound else None,
                at_most=bound.at_most if bound else None,
                unit=unit,
                count=len(count),
                note="" if below > 0 else "no event was caught" if "caught_event" in name else "nobody was watched",
            )
        )
    return judged


def _ratio(above: FloatArray, below: FloatArray) -> FloatArray:
    result: FloatArray = np.divide(above, below, out=np.full(np.shape(below), np.nan), where=below > 0)
    return result
