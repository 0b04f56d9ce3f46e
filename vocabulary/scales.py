"""Units that are not ratio scales: temperatures with a zero of their own, logarithms, roots, tangents.

Here: for each function name of UCUM's table, value -> ratio of the reference, and back.
Not here: parsing and products (vocabulary.units).
Source: UCUM 2.2 sections 21 and 22 and the functions of UCUM essence. Logarithms are taken with 60 digits in `decimal`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from decimal import Context, Decimal
from fractions import Fraction

_DIGITS = Context(prec=60)
_LARGEST_LOGARITHM = 10_000
"""Beyond this a power would be computed for minutes: no acidity or level is."""

_AFFINE_ZEROS: dict[str, Fraction] = {
    # Value of the scale's zero, in steps of the scale above absolute zero.
    "": Fraction(0),
    "Cel": Fraction("273.15"),
    "degF": Fraction("459.67"),
    "degRe": Fraction("218.52"),
}


def _decimal(value: Fraction) -> Decimal:
    return _DIGITS.divide(Decimal(value.numerator), Decimal(value.denominator))


def _log(value: Fraction, base: int) -> Fraction:
    if value <= 0:
        raise ValueError("expected a positive quantity to take a logarithm of")
    if base == 10:
        return Fraction(_DIGITS.log10(_decimal(value)))
    natural = _DIGITS.ln(_decimal(value))
    return Fraction(natural if base == 0 else _DIGITS.divide(natural, _DIGITS.ln(Decimal(base))))


def _power(base: int, value: Fraction) -> Fraction:
    if abs(value) > _LARGEST_LOGARITHM:
        raise ValueError(f"expected a level within ±{_LARGEST_LOGARITHM}")
    exponent = _decimal(value)
    return Fraction(_DIGITS.exp(exponent) if base == 0 else _DIGITS.power(Decimal(base), exponent))


def _root(value: Fraction) -> Fraction:
    if value < 0:
        raise ValueError("expected a quantity of at least zero to take a root of")
    return Fraction(_DIGITS.sqrt(_decimal(value)))


def _logarithmic(base: int, times: int) -> tuple[Callable[[Fraction], Fraction], Callable[[Fraction], Fraction]]:
    """Return (to ratio, from ratio) of `times * log(ratio)`; base 0 is the natural logarithm."""
    return lambda value: _power(base, value / times), lambda ratio: times * _log(ratio, base)


def _tangent() -> tuple[Callable[[Fraction], Fraction], Callable[[Fraction], Fraction]]:
    return (
        lambda value: Fraction(math.atan(float(value) / 100)),
        lambda ratio: Fraction(100 * math.tan(float(ratio))),
    )


_FUNCTIONS: dict[str, tuple[Callable[[Fraction], Fraction], Callable[[Fraction], Fraction]]] = {
    "pH": _logarithmic(10, -1),
    "ln": _logarithmic(0, 1),
    "lg": _logarithmic(10, 1),
    "ld": _logarithmic(2, 1),
    "lgTimes2": _logarithmic(10, 2),
    "hpX": _logarithmic(10, -1),
    "hpC": _logarithmic(100, -1),
    "hpM": _logarithmic(1000, -1),
    "hpQ": _logarithmic(50000, -1),
    "sqrt": (lambda value: value * value, _root),
    "tanTimes100": _tangent(),
    "100tan": _tangent(),
}


def is_affine(scale: str) -> bool:
    """Whether the scale is a ratio scale ("") or one with only another zero."""
    return scale in _AFFINE_ZEROS


def zero(scale: str) -> Fraction:
    """Return the value of an affine scale's zero, in its own steps above absolute zero."""
    return _AFFINE_ZEROS[scale]


def reference(scale: str, meaning: Fraction) -> Fraction:
    """Return the size of the scale's reference in base units.

    UCUM's table gives the percent of slope in degrees and the prism dioptre in radians; the tangent is of an angle, so
    both are taken in radians.
    """
    return Fraction(1) if scale in {"100tan", "tanTimes100"} else meaning


def to_ratio(scale: str, value: Fraction) -> Fraction:
    """Return how many references a value on the scale stands for.

    Raises:
        ValueError: the value is beyond what can be computed.
    """
    if scale in _AFFINE_ZEROS:
        return value + _AFFINE_ZEROS[scale]
    return _FUNCTIONS[scale][0](value)


def from_ratio(scale: str, ratio: Fraction) -> Fraction:
    """Return the value on the scale that stands for `ratio` references.

    Raises:
        ValueError: no such value (the logarithm of zero).
    """
    if scale in _AFFINE_ZEROS:
        return ratio - _AFFINE_ZEROS[scale]
    return _FUNCTIONS[scale][1](ratio)
