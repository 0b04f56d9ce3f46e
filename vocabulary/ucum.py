"""UCUM's grammar: what an expression means, as a factor and a dimension.

Here: `Unit`, `parse`, `is_valid`, the errors of both.
Not here: the table of atoms (vocabulary.ucum_atoms), conversion (vocabulary.units), scales with a zero or a logarithm
(vocabulary.scales), other spellings (vocabulary.unit_spellings).
Source: The Unified Code for Units of Measure, version 2.2, sections 2 to 5 and 11 to 45.
"""

from __future__ import annotations

import re
from fractions import Fraction
from functools import cache, lru_cache
from typing import NamedTuple

from vocabulary import scales
from vocabulary.errors import VigilError
from vocabulary.ucum_atoms import ARBITRARY_ATOMS, BASE_UNITS, PREFIXES, RATIO_ATOMS, SPECIAL_ATOMS

MAX_EXPRESSION = 128
"""Longest expression read: the longest of UCUM's own examples has 36 characters, and a sender's may be garbage."""

MAX_EXPONENT = 99
"""Greatest exponent read; `10*999999999` would fill the memory."""

Dimension = tuple[int, ...]
_DIMENSIONLESS: Dimension = (0,) * len(BASE_UNITS)


class UnknownUnitError(VigilError):
    """Not a UCUM expression."""


class Unit(NamedTuple):
    """What an expression means: `factor` times a product of base units.

    `amount` counts powers of amount of substance (UCUM makes mol a pure number), `equivalents` those of them that are
    chemical equivalents (UCUM makes eq = mol, which holds only for univalent ions). `arbitrary` are powers of units
    that convert only to themselves. `scale` names the function of a unit that is not a ratio scale ("product" where
    such a unit was multiplied, which has no meaning), and `prefix` is what then multiplies its values.
    """

    factor: Fraction
    dimension: Dimension
    amount: int = 0
    equivalents: int = 0
    arbitrary: tuple[tuple[str, int], ...] = ()
    scale: str = ""
    prefix: Fraction = Fraction(1)

    def times(self, other: Unit, sign: int = 1) -> Unit:
        """Return the product with `other` (sign 1) or the quotient by it (sign -1)."""
        powers = dict(self.arbitrary)
        for code, power in other.arbitrary:
            powers[code] = powers.get(code, 0) + sign * power
        return Unit(
            self.factor * other.factor**sign,
            tuple(a + sign * b for a, b in zip(self.dimension, other.dimension, strict=True)),
            self.amount + sign * other.amount,
            self.equivalents + sign * other.equivalents,
            tuple(sorted((code, power) for code, power in powers.items() if power)),
            "product" if self.scale or other.scale else "",
        )

    def power(self, exponent: int) -> Unit:
        """Return the unit raised to `exponent`."""
        if exponent == 1:
            return self
        return Unit(
            self.factor**exponent,
            tuple(a * exponent for a in self.dimension),
            self.amount * exponent,
            self.equivalents * exponent,
            tuple((code, power * exponent) for code, power in self.arbitrary) if exponent else (),
            "product" if self.scale else "",
        )

    @property
    def is_dimensionless(self) -> bool:
        """Whether it is a pure number (percent, counts, annotations; not mol, not pH, not [iU])."""
        return not (any(self.dimension) or self.amount or self.arbitrary or self.scale)


_ONE = Unit(Fraction(1), _DIMENSIONLESS)


@cache
def _atom_rows() -> dict[str, tuple[bool, str, str, str]]:
    """Return code -> (is metric, value, defining unit, function) for every atom that is not a base unit."""
    rows: dict[str, tuple[bool, str, str, str]] = {}
    for code, is_metric, value, unit in RATIO_ATOMS:
        rows[code] = (is_metric, value, unit, "")
    for code, is_metric, alias in ARBITRARY_ATOMS:
        rows[code] = (is_metric, "1", alias, "arbitrary")
    for code, is_metric, function, value, unit in SPECIAL_ATOMS:
        rows[code] = (is_metric, value, unit, function)
    return rows


@cache
def _atom(code: str) -> Unit | None:
    """Return what an atom without prefix means, or None where UCUM has no such atom."""
    if code in BASE_UNITS:
        return Unit(Fraction(1), tuple(int(base == code) for base in BASE_UNITS))
    row = _atom_rows().get(code)
    if row is None:
        return None
    _, value, unit, function = row
    if function == "arbitrary":
        return _ONE._replace(arbitrary=((code if unit == "1" else unit, 1),))
    meaning = parse(unit)
    meaning = meaning._replace(factor=meaning.factor * Fraction(value))
    if function:
        return meaning._replace(scale=function, factor=scales.reference(function, meaning.factor))
    if code == "mol":
        return meaning._replace(amount=1)
    return meaning._replace(equivalents=1) if code == "eq" else meaning


def _is_metric(code: str) -> bool:
    return code in BASE_UNITS or (code in _atom_rows() and _atom_rows()[code][0])


_SYMBOL = re.compile(r"(?P<code>.+?)(?P<exponent>[+-]?[0-9]+)?", re.ASCII)
_ANNOTATION = re.compile(r"\{[!-z|~]*\}", re.ASCII)


def _symbol(text: str, expression: str) -> Unit:
    """Return the meaning of one symbol: a number, or prefix, atom and exponent."""
    if text.isdigit():
        if not int(text):
            raise UnknownUnitError(f"expected a UCUM unit, found a factor of zero in {expression!r}")
        return _ONE._replace(factor=Fraction(int(text)))
    match = _SYMBOL.fullmatch(text)
    code, exponent = (match["code"], int(match["exponent"] or 1)) if match else (text, 1)
    if abs(exponent) > MAX_EXPONENT:
        raise UnknownUnitError(f"expected an exponent of at most {MAX_EXPONENT}, found {expression!r}")
    meaning = _atom(code)
    if meaning is None:
        for length in (2, 1):
            prefix, rest = code[:length], code[length:]
            if prefix in PREFIXES and _is_metric(rest) and (base := _atom(rest)) is not None:
                scale = Fraction(PREFIXES[prefix])
                meaning = base._replace(prefix=scale) if base.scale else base._replace(factor=base.factor * scale)
                break
        else:
            raise UnknownUnitError(f"expected a UCUM unit, found {code!r} in {expression!r}")
    return meaning.power(exponent)


class _Parser:
    """Recursive descent over one expression; nesting is bounded by MAX_EXPRESSION."""

    def __init__(self, expression: str) -> None:
        self.text = expression
        self.at = 0

    def fail(self, expected: str) -> UnknownUnitError:
        return UnknownUnitError(f"expected {expected} at character {self.at + 1} of the unit {self.text!r}")

    def next(self) -> str:
        return self.text[self.at : self.at + 1]

    def main(self) -> Unit:
        meaning = self.term(_ONE, -1) if self.next() == "/" else self.term(None, 1)
        if self.at != len(self.text):
            raise self.fail("`.`, `/` or the end")
        return meaning

    def term(self, left: Unit | None, sign: int) -> Unit:
        if left is not None:
            self.at += 1
            left = left.times(self.component(), sign)
        else:
            left = self.component()
        while (operator := self.next()) in (".", "/") and operator:
            self.at += 1
            left = left.times(self.component(), 1 if operator == "." else -1)
        return left

    def component(self) -> Unit:
        start = self.next()
        if start == "(":
            self.at += 1
            meaning = self.term(None, 1)
            if self.next() != ")":
                raise self.fail("`)`")
            self.at += 1
            self.annotation()
            return meaning
        if self.annotation():
            return _ONE
        begin = self.at
        while (character := self.next()) and character not in "./(){}":
            if character == "[":
                self.at = self.text.find("]", self.at)
                if self.at < 0:
                    self.at = begin
                    raise self.fail("`]`")
            self.at += 1
        if begin == self.at:
            raise self.fail("a unit")
        meaning = _symbol(self.text[begin : self.at], self.text)
        self.annotation()
        return meaning

    def annotation(self) -> bool:
        if self.next() != "{":
            return False
        match = _ANNOTATION.match(self.text, self.at)
        if match is None:
            raise self.fail("an annotation of printable ASCII without spaces")
        self.at = match.end()
        return True


@lru_cache(maxsize=4096)
def parse(expression: str) -> Unit:
    """Return what a case-sensitive UCUM expression means.

    Raises:
        UnknownUnitError: it is not UCUM; the message says where it went wrong.
    """
    if not 0 < len(expression) <= MAX_EXPRESSION or not expression.isascii():
        raise UnknownUnitError(f"expected 1 to {MAX_EXPRESSION} ASCII characters of UCUM, found {expression[:40]!r}")
    return _Parser(expression).main()


def is_valid(expression: str) -> bool:
    """Whether `expression` is a case-sensitive UCUM unit."""
    try:
        parse(expression)
    except UnknownUnitError:
        return False
    return True
