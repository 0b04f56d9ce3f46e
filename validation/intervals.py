"""Intervals of shares and counts, and what an interval says about a bound.

Here: Wilson's interval of a share, Newcombe's of a difference, the exact (Garwood) interval of a count, percentiles of
a bootstrap, the one rule that turns an interval and a bound into pass, fail or inconclusive. numpy and the standard
library only: the live watch uses it.
Not here: what is resampled (validation.bootstrap), which bounds (validation.model_protocol).
Source: Wilson 1927, J Am Stat Assoc 22:209; Newcombe 1998, Stat Med 17:873; Garwood 1936, Biometrika 28:437; the
incomplete gamma function's series and continued fraction: Abramowitz and Stegun 6.5.29 and 6.5.31.
"""

from __future__ import annotations

import math
from statistics import NormalDist
from typing import Final

import numpy as np
from numpy.typing import NDArray

from vocabulary.verdict import Measure, Outcome

Interval = tuple[float, float]

_LEAST_FINITE_SHARE: Final = 0.95
"""Of bootstrap repetitions; where more than one in twenty cannot be computed, the rest are no fair sample."""

_SMALLEST: Final = 1e-300
_PRECISION: Final = 1e-15


def deviate(level: float) -> float:
    """Return the standard normal deviate of a two-sided level, e.g. 1.96 of 0.95."""
    return NormalDist().inv_cdf(0.5 + level / 2)


def wilson(successes: int, trials: int, level: float) -> Interval:
    """Return Wilson's score interval of a share; of no trials (0, 1).

    Raises:
        ValueError: more successes than trials, or fewer than none.
    """
    if not 0 <= successes <= trials:
        raise ValueError(f"expected 0 to {trials} successes, found {successes}")
    if trials == 0:
        return 0.0, 1.0
    z = deviate(level)
    share, z2 = successes / trials, z * z / trials
    middle = (share + z2 / 2) / (1 + z2)
    half = z * math.sqrt(share * (1 - share) / trials + z2 / (4 * trials)) / (1 + z2)
    low = 0.0 if successes == 0 else max(0.0, middle - half)
    high = 1.0 if successes == trials else min(1.0, middle + half)
    return low, high


def difference_of_shares(successes: int, trials: int, others: int, other_trials: int, level: float) -> Interval:
    """Return Newcombe's interval (method 10) of one share less another, independent one; of no trials (-1, 1)."""
    if not trials or not other_trials:
        return -1.0, 1.0
    one, other = successes / trials, others / other_trials
    low, high = wilson(successes, trials, level)
    other_low, other_high = wilson(others, other_trials, level)
    difference = one - other
    return (
        difference - math.sqrt((one - low) ** 2 + (other_high - other) ** 2),
        difference + math.sqrt((high - one) ** 2 + (other - other_low) ** 2),
    )


def poisson(count: int, level: float) -> Interval:
    """Return the exact interval of a Poisson count's mean.

    Raises:
        ValueError: a count below zero.
    """
    if count < 0:
        raise ValueError(f"expected a count of 0 or more, found {count}")
    tail = (1 - level) / 2
    low = 0.0 if count == 0 else _gamma_quantile(count, tail)
    return low, _gamma_quantile(count + 1, 1 - tail)


def percentiles(repetitions: NDArray[np.float64], level: float) -> Interval | None:
    """Return the central interval of bootstrap repetitions, or None where too many could not be computed."""
    finite = repetitions[np.isfinite(repetitions)]
    if not len(finite) or len(finite) < _LEAST_FINITE_SHARE * len(repetitions):
        return None
    low, high = np.quantile(finite, [(1 - level) / 2, 0.5 + level / 2])
    return float(low), float(high)


def outcome_of(interval: Interval | None, at_least: float | None, at_most: float | None) -> Outcome:
    """Return pass where the whole interval lies within the bounds, fail where wholly outside, else inconclusive.

    Without bounds nothing is asked, so it passes; without an interval nothing can be said.
    """
    if at_least is None and at_most is None:
        return Outcome.PASS
    if interval is None or not all(map(math.isfinite, interval)):
        return Outcome.INCONCLUSIVE
    low, high = interval
    floor = -math.inf if at_least is None else at_least
    ceiling = math.inf if at_most is None else at_most
    if floor <= low and high <= ceiling:
        return Outcome.PASS
    if high < floor or low > ceiling:
        return Outcome.FAIL
    return Outcome.INCONCLUSIVE


def measure(
    name: str,
    value: float | None,
    interval: Interval | None = None,
    *,
    level: float = 0.95,
    at_least: float | None = None,
    at_most: float | None = None,
    unit: str = "1",
    group: str = "",
    count: int = 0,
    note: str = "",
    too_little: str = "",
) -> Measure:
    """Return one judged number. What is not finite becomes None with a note, never zero.

    Args:
        name: of the measure.
        value: None, NaN or infinite where it could not be computed.
        interval: at `level`; None where none can be given, which leaves a bounded measure inconclusive.
        level: of the interval.
        at_least: what the protocol asks; None: nothing.
        at_most: likewise.
        unit: UCUM.
        group: of which part.
        count: stays, rows or values behind it.
        note: for people.
        too_little: why the evidence does not suffice, if so: then a bounded measure is inconclusive whatever its value.
    """
    is_said = value is not None and math.isfinite(value)
    finite = interval if is_said and interval is not None and all(map(math.isfinite, interval)) else None
    is_bounded = at_least is not None or at_most is not None
    outcome = outcome_of(finite, at_least, at_most)
    if too_little and is_bounded:
        outcome = Outcome.INCONCLUSIVE
    notes = [part for part in (note, too_little) if part]
    if not is_said and not notes:
        notes.append("cannot be computed from these stays")
    if is_said and finite is None and is_bounded:
        notes.append("no interval can be given")
    return Measure(
        name=name,
        value=value if is_said else None,
        unit=unit,
        low=finite[0] if finite else None,
        high=finite[1] if finite else None,
        level=level,
        at_least=at_least,
        at_most=at_most,
        group=group,
        count=count,
        outcome=outcome,
        note="; ".join(notes),
    )


def _gamma_quantile(shape: int, probability: float) -> float:
    """Return x with P(shape, x) = probability, by bisection to the last bits."""
    low, high = 0.0, shape + 10.0 * math.sqrt(shape) + 50.0
    while _regularised_gamma(shape, high) < probability:
        high *= 2
    for _ in range(200):
        middle = (low + high) / 2
        if middle in (low, high):
            break
        if _regularised_gamma(shape, middle) < probability:
            low = middle
        else:
            high = middle
    return (low + high) / 2


def _regularised_gamma(shape: float, x: float) -> float:
    """Return the lower regularised incomplete gamma function P(shape, x)."""
    if x <= 0:
        return 0.0
    front = math.exp(-x + shape * math.log(x) - math.lgamma(shape))
    if x < shape + 1:
        term = total = 1 / shape
        over = shape
        while abs(term) > abs(total) * _PRECISION:
            over += 1
            term *= x / over
            total += term
        return total * front
    b = x + 1 - shape
    c, d = 1 / _SMALLEST, 1 / b
    fraction = d
    step = 0
    delta = 0.0
    while abs(delta - 1) > _PRECISION:
        step += 1
        a = -step * (step - shape)
        b += 2
        d = 1 / ((a * d + b) or _SMALLEST)
        c = (b + a / c) or _SMALLEST
        delta = d * c
        fraction *= delta
    return 1 - front * fraction
