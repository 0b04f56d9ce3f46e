"""When an estimate asks for attention: one rule for the live board, for the watch and for the burden in a report.

An estimate is high at or above the protocol's threshold. An alert is raised when a stay's estimates first become high;
the same stay can raise the next one only after an estimate lay below `rearm_below` (hysteresis), so that one that
trembles around the threshold raises one alert and not twenty. An estimate that is not there changes nothing.
While a model is clamped nothing is high and nothing is raised; who is high when the clamp is lifted raises then.

Here: the rule, over estimates in order.
Not here: thresholds (validation/protocols), estimates (twin.risk), counting per patient-day (validation.clinical).
Pure: whether a single estimate is high depends on nothing before it, so a snapshot can be made again by itself.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from validation.model_protocol import ModelProtocol
from vocabulary.errors import BrokenInvariantError


class Rule(NamedTuple):
    """When to ask for attention, and from where on to be able to ask again."""

    threshold: float
    rearm_below: float  # at most the threshold

    @classmethod
    def of(cls, protocol: ModelProtocol) -> Rule:
        """Return the rule of a model's protocol."""
        return cls(protocol.attention.threshold, protocol.attention.rearm_below)

    def is_high(self, probability: float | None, *, is_clamped: bool = False) -> bool:
        """Return whether one estimate asks for attention; None, where the model abstains, never does."""
        return probability is not None and not is_clamped and probability >= self.threshold


class Onset(NamedTuple):
    """One alert: where in the estimates it was raised."""

    row: int
    minute: int
    probability: float


def onsets(
    rule: Rule, minutes: Sequence[int], probabilities: Sequence[float | None], clamped: Iterable[bool] | None = None
) -> list[Onset]:
    """Return the alerts that one stay's estimates raise.

    Args:
        rule: threshold and where it is armed again.
        minutes: of the stay, in growing order.
        probabilities: None or NaN where the model abstained.
        clamped: whether the model was clamped then; None: never.

    Raises:
        BrokenInvariantError: the minutes go back.
    """
    found = []
    is_armed = True
    last = None
    flags = [False] * len(minutes) if clamped is None else list(clamped)
    for index, (minute, probability, is_clamped) in enumerate(zip(minutes, probabilities, flags, strict=True)):
        if last is not None and minute < last:
            raise BrokenInvariantError(f"estimates in order of time expected: minute {minute} after {last}")
        last = minute
        if probability is None or math.isnan(probability):
            continue
        if rule.is_high(probability, is_clamped=is_clamped):
            if is_armed:
                found.append(Onset(index, minute, probability))
            is_armed = False
        elif probability < rule.rearm_below or (is_clamped and probability >= rule.threshold):
            is_armed = True
    return found


def onset_rows(
    rule: Rule,
    stay: NDArray[np.int64],
    minute: NDArray[np.int64],
    probability: NDArray[np.float64],
    clamped: NDArray[np.bool_] | None = None,
) -> NDArray[np.bool_]:
    """Return which rows of a table of estimates raise an alert, whatever the table's order.

    Args:
        rule: threshold and where it is armed again.
        stay: whose, shape (rows,).
        minute: of the stay, shape (rows,).
        probability: NaN where the model abstained, shape (rows,).
        clamped: whether the model was clamped, shape (rows,); None: never.

    Returns:
        Shape (rows,); the sum is the number of alerts.
    """
    raised = np.zeros(len(stay), np.bool_)
    if not len(stay):
        return raised
    order = np.lexsort((minute, stay))
    edges = np.flatnonzero(np.diff(stay[order])) + 1
    for rows in np.split(order, edges):
        flags = None if clamped is None else clamped[rows].tolist()
        for onset in onsets(rule, minute[rows].tolist(), probability[rows].tolist(), flags):
            raised[rows[onset.row]] = True
    return raised
