"""Units of measure: conversion that is exact, and `Quantity`, a number with its unit.

Here: `conversion`, `factor`, `convert`, `Quantity`. Arithmetic is in rationals; a float comes back as the float nearest
to the true result. Logarithmic scales (pH, bel) are computed to 60 digits.
Not here: UCUM's grammar (vocabulary.ucum), other spellings (vocabulary.unit_spellings), concepts' units
(vocabulary.concept_table).
Source: The Unified Code for Units of Measure, version 2.2; SI 2019 for the mole.
"""

from __future__ import annotations

from decimal import Decimal
from fractions import Fraction
from typing import NamedTuple, overload

import msgspec

from vocabulary import scales
from vocabulary.errors import VigilError
from vocabulary.ucum import Unit, UnknownUnitError, is_valid, parse
from vocabulary.ucum_atoms import BASE_UNITS

__all__ = [
    "Conversion",
    "IncompatibleUnitError",
    "Quantity",
    "Unit",
    "UnknownUnitError",
    "conversion",
    "convert",
    "factor",
    "is_valid",
    "parse",
]

AVOGADRO = Fraction(602214076 * 10**15)
"""What UCUM counts as one mole, exactly (SI 2019)."""

_MASS = BASE_UNITS.index("g")


class IncompatibleUnitError(VigilError):
    """Both are units, but a value of one is not a value of the other."""


class Conversion(NamedTuple):
    """From one unit to another: `value * multiplier + offset`, or two functions around a ratio.

    Affine conversions (`is_affine`) are exact; the others pass through a logarithm, root or tangent.
    """

    multiplier: Fraction
    offset: Fraction = Fraction(0)
    source: Unit | None = None
    target: Unit | None = None

    @property
    def is_identity(self) -> bool:
        """Whether every value stays what it is."""
        return self.source is None and self.multiplier == 1 and self.offset == 0

    @property
    def is_affine(self) -> bool:
        """Whether `value * multiplier + offset` says all, exactly."""
        return self.source is None

    def exact(self, value: Fraction) -> Fraction:
        """Return the converted value; exact where affine, else to 60 digits.

        Raises:
            IncompatibleUnitError: the value is not on the scale (the logarithm of nothing).
        """
        if self.source is None or self.target is None:
            return value * self.multiplier + self.offset
        try:
            ratio = scales.to_ratio(self.source.scale, value * self.source.prefix) * self.multiplier
            return scales.from_ratio(self.target.scale, ratio) / self.target.prefix
        except ValueError as error:
            raise IncompatibleUnitError(f"a value is not on the scale {self.target.scale!r}: {error}") from error


def _ratio(source: Unit, target: Unit, molar_mass: Fraction | None, valence: int | None, names: str) -> Fraction:
    """Return what a value in `source` is multiplied by to be one in `target`, scales aside."""
    ratio = source.factor / target.factor
    if source.dimension != target.dimension:
        # mass to amount of substance or back: the only bridge between dimensions, and it needs the substance
        power = source.dimension[_MASS] - target.dimension[_MASS]
        without_mass = tuple(
            a - b for i, (a, b) in enumerate(zip(source.dimension, target.dimension, strict=True)) if i != _MASS
        )
        if any(without_mass) or target.amount - source.amount != power:
            raise IncompatibleUnitError(f"expected units of one dimension, found {names}")
        if molar_mass is None:
            raise IncompatibleUnitError(f"expected a molar mass to convert {names}")
        ratio *= (AVOGADRO / molar_mass) ** power
    if source.arbitrary != target.arbitrary:
        raise IncompatibleUnitError(f"an arbitrary unit converts only to itself, found {names}")
    if valence is not None and source.equivalents != target.equivalents:
        ratio /= Fraction(valence) ** (source.equivalents - target.equivalents)
    return ratio


def conversion(
    from_unit: str,
    to_unit: str,
    *,
    molar_mass: Fraction | None = None,
    valence: int | None = None,
    keeps_amount: bool = False,
) -> Conversion:
    """Return how values in one unit become values in another.

    Args:
        from_unit: UCUM.
        to_unit: UCUM.
        molar_mass: g/mol of the substance; lets mass become amount of substance and back.
        valence: charge number of the ion; None follows UCUM's table, where one equivalent is one mole.
        keeps_amount: refuse what UCUM allows because a mole is a number to it (mmol/L as 10*3/uL).

    Raises:
        UnknownUnitError: one of them is not UCUM.
        IncompatibleUnitError: they measure different things, or the bridge needs a molar mass.
    """
    source, target = parse(from_unit), parse(to_unit)
    if from_unit == to_unit:
        return Conversion(Fraction(1))
    names = f"{from_unit!r} and {to_unit!r}"
    if "product" in (source.scale, target.scale):
        raise IncompatibleUnitError(f"a unit with an offset or logarithm cannot be multiplied, found {names}")
    ratio = _ratio(source, target, molar_mass, valence, names)
    if keeps_amount and source.dimension == target.dimension and source.amount != target.amount:
        raise IncompatibleUnitError(f"one counts particles, the other moles: {names}")
    if not (source.scale or target.scale):
        return Conversion(ratio)
    if source.scale == target.scale and source.factor == target.factor:
        return Conversion(source.prefix / target.prefix)
    if scales.is_affine(source.scale) and scales.is_affine(target.scale):
        zero_in, zero_out = scales.zero(source.scale), scales.zero(target.scale)
        return Conversion(source.prefix * ratio / target.prefix, (zero_in * ratio - zero_out) / target.prefix)
    return Conversion(ratio, Fraction(0), source, target)


def factor(from_unit: str, to_unit: str, *, molar_mass: Fraction | None = None, valence: int | None = None) -> Fraction:
    """Return the exact number a value in `from_unit` is multiplied by to be in `to_unit`.

    Raises:
        UnknownUnitError: one of them is not UCUM.
        IncompatibleUnitError: they measure different things, or their zeros differ (Cel and K).
    """
    found = conversion(from_unit, to_unit, molar_mass=molar_mass, valence=valence)
    if not found.is_affine or found.offset:
        raise IncompatibleUnitError(f"no single factor converts {from_unit!r} to {to_unit!r}")
    return found.multiplier


@overload
def convert(
    value: float, from_unit: str, to_unit: str, molar_mass: Fraction | None = None, valence: int | None = None
) -> float: ...
@overload
def convert(
    value: Fraction | Decimal,
    from_unit: str,
    to_unit: str,
    molar_mass: Fraction | None = None,
    valence: int | None = None,
) -> Fraction: ...
def convert(
    value: float | Fraction | Decimal,
    from_unit: str,
    to_unit: str,
    molar_mass: Fraction | None = None,
    valence: int | None = None,
) -> float | Fraction:
    """Return `value` in another unit: exactly for a Fraction or Decimal, correctly rounded once for a float.

    Args:
        value: in `from_unit`; a float means exactly the binary number it holds, and must be finite.
        from_unit: UCUM.
        to_unit: UCUM.
        molar_mass: g/mol, for mass to amount of substance and back.
        valence: charge number, for equivalents; None takes one equivalent as one mole, as UCUM does.

    Raises:
        UnknownUnitError: one of the units is not UCUM.
        IncompatibleUnitError: they measure different things.
        ValueError: a float that is not finite.
    """
    found = conversion(from_unit, to_unit, molar_mass=molar_mass, valence=valence)
    if isinstance(value, float | int):
        if value - value != 0:
            raise ValueError("expected a finite number to convert")
        return float(value) if found.is_identity else float(found.exact(Fraction(value)))
    return found.exact(Fraction(value))


def _term(unit: str) -> str:
    """Return a unit so that it can stand in a product: only a whole expression may begin with a solidus."""
    return f"(1{unit})" if unit.startswith("/") else f"({unit})"


class Quantity(msgspec.Struct, frozen=True):
    """A number that never travels without its unit. Products and quotients are exact."""

    value: Fraction
    unit: str  # UCUM

    @classmethod
    def of(cls, value: Fraction | Decimal | float | str, unit: str) -> Quantity:
        """Return `value` (text is read as a decimal number) in `unit`.

        Raises:
            UnknownUnitError: `unit` is not UCUM.
        """
        parse(unit)
        return cls(Fraction(value), unit)

    def to(self, unit: str, molar_mass: Fraction | None = None, valence: int | None = None) -> Quantity:
        """Return the same quantity in another unit; see `convert`."""
        return Quantity(convert(self.value, self.unit, unit, molar_mass, valence), unit)

    def __mul__(self, other: Quantity) -> Quantity:
        return Quantity(self.value * other.value, f"{_term(self.unit)}.{_term(other.unit)}")

    def __truediv__(self, other: Quantity) -> Quantity:
        return Quantity(self.value / other.value, f"{_term(self.unit)}/{_term(other.unit)}")
