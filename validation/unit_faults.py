"""A changed unit, recognised: recent values against training quantiles, and the factor that would put them back.

Here: the Kolmogorov distance to a distribution known by quantiles only, the factors units are commonly mistaken by.
Not here: bounds and intervals (validation.live), conversion of units as declared (interop.terminology).
Source: factors follow from UCUM and the molar masses of vocabulary.concepts, by vocabulary.units' exact arithmetic.
"""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from vocabulary import concepts
from vocabulary.units import IncompatibleUnitError, UnknownUnitError, conversion

FloatArray = NDArray[np.float64]


class UnitFault(NamedTuple):
    """What recent values look like: the right ones times `factor` plus `offset`."""

    factor: float
    offset: float
    words: str  # "mg/dL sent under the name of mmol/L (times 18.02)"


_OTHERWISE: Final[Mapping[str, tuple[str, ...]]] = {
    "mm[Hg]": ("kPa", "cm[H2O]"),
    "Cel": ("[degF]", "K"),
    "kg": ("[lb_av]", "g"),
    "cm": ("[in_i]", "m"),
    "mL": ("L", "[foz_us]"),
    "%": ("1",),
}
_OF_SUBSTANCES: Final = ("mmol/L", "umol/L", "mg/dL", "ug/dL", "mg/L", "g/L", "g/dL")
"""What laboratories report concentrations in; a concept with a molar mass may be meant by any."""
_EXPLAINS: Final = 0.2
"""An explanation must bring values nearer by at least this distance."""
_INSIDE: Final = 0.8
"""And put at least this share of them inside the reference's range."""
_PREFIXES: Final = (10.0, 100.0, 1000.0)
"""Decilitres for litres, shares for percent, milli for micro."""


def distance(values: FloatArray, levels: FloatArray, quantiles: FloatArray) -> float:
    """Return how far the values' distribution function must lie from the reference's, at least.

    Between two quantiles the reference is known only to lie between their levels, so atoms (scales, yes or no) and gaps
    between levels never count as distance.

    Args:
        values: finite, of shape (patients,), not empty.
        levels: rising shares, of shape (quantiles,).
        quantiles: not falling, of the same shape.
    """
    ordered = np.sort(values)
    count = len(ordered)
    below = np.searchsorted(ordered, ordered, side="left") / count
    upto = np.searchsorted(ordered, ordered, side="right") / count
    bounded = np.concatenate(([0.0], levels, [1.0]))
    highest = bounded[np.minimum(np.searchsorted(quantiles, ordered, side="right") + 1, len(bounded) - 1)]
    lowest = bounded[np.searchsorted(quantiles, ordered, side="left")]
    return float(max(0.0, np.max(upto - highest), np.max(lowest - below)))


def likely(key: str, values: FloatArray, levels: FloatArray, quantiles: FloatArray, at_most: float) -> UnitFault | None:
    """Return the change of unit that explains values far from their reference, or None.

    A part of the values may be changed (one laboratory of two): then those outside the reference's range are explained.

    Args:
        key: the concept's.
        values: finite, of shape (patients,).
        levels: of the reference.
        quantiles: of the reference, in the canonical unit.
        at_most: the distance that counts as near.
    """
    if not len(values):
        return None
    outside = values[(values < quantiles[0]) | (values > quantiles[-1])]
    if distance(values, levels, quantiles) > at_most:
        whole = _explained(key, values, levels, quantiles)
        if whole is not None:
            return whole
    return _explained(key, outside, levels, quantiles) if len(outside) else None


def _explained(key: str, suspects: FloatArray, levels: FloatArray, quantiles: FloatArray) -> UnitFault | None:
    """Return the likeliest change of unit that puts values back among the reference's, or None.

    Of explanations that so few values cannot tell apart (umol/L is times 88.4, a prefix times 100), the first listed.
    """
    far = distance(suspects, levels, quantiles) - _EXPLAINS
    found: list[tuple[float, UnitFault]] = []
    for fault in _faults(key):
        restored = (suspects - fault.offset) / fault.factor
        is_inside = np.mean((restored >= quantiles[0]) & (restored <= quantiles[-1])) >= _INSIDE
        left = distance(restored, levels, quantiles)
        if is_inside and left < far:
            found.append((left, fault))
    if not found:
        return None
    nearest = min(left for left, _ in found)
    return next(fault for left, fault in found if left <= nearest + 0.5 / np.sqrt(len(suspects)))


def _faults(key: str) -> list[UnitFault]:
    """Return the changes of unit that can befall a concept, the concept's own first."""
    try:
        concept = concepts.by_key(key)
    except KeyError:
        return _prefix_faults()
    others = list(_OTHERWISE.get(concept.unit, ()))
    mass = concept.molar_mass_g_per_mol
    if mass is not None or concept.unit in _OF_SUBSTANCES:
        others += [unit for unit in _OF_SUBSTANCES if unit != concept.unit]
    found = []
    for unit in others:
        try:
            way = conversion(concept.unit, unit, molar_mass=None if mass is None else Fraction(repr(mass)))
        except (UnknownUnitError, IncompatibleUnitError):
            continue
        factor, offset = float(way.multiplier), float(way.offset)
        found.append(UnitFault(factor, offset, f"{unit} sent under the name of {concept.unit} (times {factor:.4g})"))
        if not offset:
            words = f"{concept.unit} sent under the name of {unit} (times {1 / factor:.4g})"
            found.append(UnitFault(1 / factor, 0.0, words))
    return found + _prefix_faults()


def _prefix_faults() -> list[UnitFault]:
    found = []
    for factor in _PREFIXES:
        found.append(UnitFault(factor, 0.0, f"values times {factor:g}"))
        found.append(UnitFault(1 / factor, 0.0, f"values divided by {factor:g}"))
    return found
