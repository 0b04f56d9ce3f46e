"""Codes and units of messages into concepts and canonical units.

Here: `Terminology`, which makes an Observation of a Reading, or says why not.
Not here: the tables (vocabulary.concept_table, vocabulary.unit_spellings), exact arithmetic (vocabulary.units), reading
bytes (interop.hl7v2), whose value it is and whether its time fits the stay (twin.normalizer).
Source: HL7 v2 table 0085 (OBX-11), table 0396 (code systems); IHE PCD TF-2 for IEEE 11073-10101 codes.

Hot path: what a pair of code and unit means is worked out once and remembered; a value then costs a dictionary look-up
and, where units differ, one integer fraction, whose quotient Python rounds correctly.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from fractions import Fraction
from typing import Final

import msgspec

from interop.hl7v2 import Reading
from vocabulary import concepts
from vocabulary.concepts import Concept
from vocabulary.errors import ConfigurationError
from vocabulary.records import Observation, ObservationStatus, Reason, Rejected, source_key_of
from vocabulary.unit_spellings import MDC_UNITS, SPELLINGS
from vocabulary.units import Conversion, IncompatibleUnitError, UnknownUnitError, conversion, is_valid, parse

STATUSES: Final[dict[str, ObservationStatus]] = {
    "": ObservationStatus.FINAL,
    "F": ObservationStatus.FINAL,
    "U": ObservationStatus.FINAL,  # preliminary results have become final
    "P": ObservationStatus.PRELIMINARY,
    "R": ObservationStatus.PRELIMINARY,  # entered, not verified: what every monitor sends
    "S": ObservationStatus.PRELIMINARY,
    "V": ObservationStatus.PRELIMINARY,
    "A": ObservationStatus.CORRECTED,
    "B": ObservationStatus.CORRECTED,
    "C": ObservationStatus.CORRECTED,
    "D": ObservationStatus.ENTERED_IN_ERROR,
    "W": ObservationStatus.ENTERED_IN_ERROR,
}
"""OBX-11 (table 0085). I, N, O and X say that there is no value, so a value beside them contradicts itself."""

HOUSE_SYSTEM: Final = "99VIGIL"
"""Code system in which a concept's own key is its code, for what LOINC has no code for."""

_LOINC_SYSTEMS: Final = frozenset({"LN", "LOINC", "LNC", "http://loinc.org", "2.16.840.1.113883.6.1"})
_MDC_SYSTEMS: Final = frozenset({"MDC", "11073", "ISO11073", "ISO/IEEE 11073", "urn:iso:std:iso:11073:10101"})
_UCUM_SYSTEMS: Final = frozenset({"UCUM", "http://unitsofmeasure.org", "2.16.840.1.113883.6.8"})

_REMEMBERED: Final = 16_384
"""How many meanings and source keys are kept; beyond, all are forgotten, so that garbage cannot fill the memory."""

_LONGEST_TEXT: Final = 200
_NUMBER: Final = re.compile(r"[+-]?[0-9]{1,15}(\.[0-9]{0,15})?", re.ASCII)


class _Meaning(msgspec.Struct, frozen=True, gc=False):
    """What one code in one unit means: value * multiplier + offset = (n * times + d * plus) / (d * over)."""

    concept: Concept
    number: int
    low: float
    high: float
    is_plain: bool  # a number whose conversion is affine: the hot path
    is_identity: bool  # the value is already in the canonical unit
    times: int
    plus: int
    over: int
    conversion: Conversion


class _Refusal(msgspec.Struct, frozen=True, gc=False):
    """What one code in one unit cannot mean."""

    reason: Reason
    field: str
    expected: str
    found: str
    concept: Concept | None  # known, though its unit is not


class Terminology:
    """Makes observations of readings. One for each feed that has its own local codes."""

    def __init__(self, local_codes: Mapping[tuple[str, str], str] | None = None) -> None:
        """Know the house's tables and a feed's own codes.

        Args:
            local_codes: (code system as sent in OBX-3.3, code) -> concept key. These go before all other tables.

        Raises:
            ConfigurationError: a key names no concept.
        """
        self._local: dict[tuple[str, str], Concept] = {}
        for pair, key in (local_codes or {}).items():
            try:
                self._local[pair] = concepts.by_key(key)
            except KeyError:
                raise ConfigurationError(
                    f"local code {pair[1]!r} of {pair[0]!r}: expected a concept key, found {key!r}"
                ) from None
        self._meanings: dict[tuple[str, str, str, str, str, str], _Meaning | _Refusal] = {}
        self._source_keys: dict[tuple[str, str], int] = {}

    def observation(
        self, reading: Reading, *, default_effective_at_us: int | None, default_device: str
    ) -> Observation | Rejected:
        """Return the reading in its concept's canonical unit, or why it cannot be.

        A bound (`<0.01`) keeps its number in `value` and is spelt out in `text`, in the canonical unit.

        Args:
            reading: as decoded.
            default_effective_at_us: time for a reading without one of its own; None rejects it.
            default_device: device for a reading that names none.

        Returns:
            An Observation, whose source key is that of device (or else filler order) and sub-id; a deletion (OBX-11 D
            or W) has the value NaN. Or a Rejected: unknown code or unit, incompatible unit, no time, implausible value,
            an answer that is not on the concept's list, a status that says there is no value.
        """
        pair = (
            reading.code,
            reading.code_system,
            reading.unit,
            reading.unit_system,
            reading.alternate_code,
            reading.alternate_system,
        )
        meaning = self._meanings.get(pair)
        if meaning is None:
            meaning = self._learn(pair)
        status = STATUSES.get(reading.status)
        at_us = reading.effective_at_us
        if at_us is None:
            at_us = default_effective_at_us
        value = reading.value
        if (
            type(meaning) is _Meaning
            and meaning.is_plain
            and type(value) is float
            and not reading.comparator
            and at_us is not None
            and status is not None
            and status is not ObservationStatus.ENTERED_IN_ERROR
        ):
            if not meaning.is_identity and value - value == 0.0:
                numerator, denominator = value.as_integer_ratio()
                value = _quotient(numerator * meaning.times + denominator * meaning.plus, denominator * meaning.over)
            if meaning.low <= value <= meaning.high:
                return Observation(
                    meaning.number,
                    value,
                    at_us,
                    status,
                    self._source_key(reading, default_device),
                    reading.value_index,
                    reading.device or default_device,
                )
        return self._slowly(reading, meaning, at_us, status, default_device)

    def _slowly(
        self,
        reading: Reading,
        meaning: _Meaning | _Refusal,
        at_us: int | None,
        status: ObservationStatus | None,
        default_device: str,
    ) -> Observation | Rejected:
        """Return an observation that is not one plain plausible number, or why there is none."""
        if status is None:
            return _rejected(reading, Reason.MALFORMED, "OBX-11", f"one of {' '.join(STATUSES)[1:]}", reading.status)
        is_deletion = status is ObservationStatus.ENTERED_IN_ERROR
        if isinstance(meaning, _Refusal):
            if not is_deletion or meaning.concept is None:
                return _rejected(reading, meaning.reason, meaning.field, meaning.expected, meaning.found)
            concept = meaning.concept
        else:
            concept = meaning.concept
        if at_us is None:
            return _rejected(reading, Reason.NO_EFFECTIVE_TIME, "OBX-14", "a time in OBX-14 or OBR-7", "none")
        value, text = float("nan"), ""
        if not is_deletion:
            assert isinstance(meaning, _Meaning)
            found = _value(reading, meaning)
            if isinstance(found, Rejected):
                return found
            value, text = found
        return Observation(
            concept.number,
            value,
            at_us,
            status,
            self._source_key(reading, default_device),
            reading.value_index,
            reading.device or default_device,
            text,
        )

    def _source_key(self, reading: Reading, default_device: str) -> int:
        """Return what tells measurements of one concept and time apart: the same for a correction."""
        parts = (reading.device or reading.order_key or default_device, reading.sub_id)
        key = self._source_keys.get(parts)
        if key is None:
            key = source_key_of(*parts)
            if len(self._source_keys) >= _REMEMBERED:
                self._source_keys.clear()
            self._source_keys[parts] = key
        return key

    def concept(self, code: str, system: str) -> Concept | None:
        """Return the concept a code means, or None.

        A code without a system counts as LOINC's when LOINC has it: the form with a check digit is LOINC's alone.
        """
        local = self._local.get((system, code))
        if local is not None:
            return local
        if system in _LOINC_SYSTEMS or not system:
            return concepts.by_loinc(code)
        if system in _MDC_SYSTEMS:
            return concepts.by_mdc(int(code)) if code.isascii() and code.isdigit() and len(code) <= 9 else None
        if system == HOUSE_SYSTEM:
            try:
                return concepts.by_key(code)
            except KeyError:
                return None
        return None

    def _learn(self, pair: tuple[str, str, str, str, str, str]) -> _Meaning | _Refusal:
        code, system, unit, unit_system, alternate, alternate_system = pair
        concept = self.concept(code, system)
        if concept is None and alternate:
            concept = self.concept(alternate, alternate_system)
        if concept is None:
            meaning: _Meaning | _Refusal = _Refusal(
                Reason.UNKNOWN_CODE, "OBX-3", "a code of a known concept", f"{code}^{system}"[:_LONGEST_TEXT], None
            )
        else:
            meaning = _meaning(concept, unit.strip(), unit_system.strip())
        if len(self._meanings) >= _REMEMBERED:
            self._meanings.clear()
        self._meanings[pair] = meaning
        return meaning


def ucum_meanings(unit: str, system: str) -> list[str]:
    """Return what a unit as sent may mean in UCUM, the likeliest first; empty when nothing is known.

    UCUM that is declared is read as UCUM first; else the table of spellings goes first, for `K/uL` is kelvins to UCUM.
    The second meaning counts only where the first measures something else than the concept does.
    """
    if system in _MDC_SYSTEMS or unit in MDC_UNITS:
        return [MDC_UNITS[unit]] if unit in MDC_UNITS else []
    spelt = SPELLINGS.get(unit)
    strict = unit if is_valid(unit) else None
    pair = (strict, spelt) if system in _UCUM_SYSTEMS else (spelt, strict)
    return [meaning for meaning in pair if meaning is not None]


def _meaning(concept: Concept, unit: str, unit_system: str) -> _Meaning | _Refusal:
    """Return how values of a concept in a unit as sent become canonical."""
    if concept.kind != "quantity" or (not unit and _may_lack_unit(concept)):
        return _converted(concept, Conversion(Fraction(1)))
    if not unit:
        return _Refusal(Reason.UNKNOWN_UNIT, "OBX-6", f"a unit such as {concept.unit}", "none", concept)
    candidates = ucum_meanings(unit, unit_system)
    if not candidates:
        return _Refusal(Reason.UNKNOWN_UNIT, "OBX-6", f"a unit such as {concept.unit}", unit[:_LONGEST_TEXT], concept)
    for candidate in candidates:
        way = _way(concept, candidate)
        if way is not None:
            return _converted(concept, way)
    expected = f"a unit that converts to {concept.unit}"
    return _Refusal(Reason.INCOMPATIBLE_UNIT, "OBX-6", expected, unit[:_LONGEST_TEXT], concept)


def _converted(concept: Concept, way: Conversion) -> _Meaning:
    """Return the meaning of a code whose values become canonical by `way`."""
    return _Meaning(
        concept,
        concept.number,
        concept.plausible_low,
        concept.plausible_high,
        concept.kind == "quantity" and way.is_affine,
        way.is_identity,
        way.multiplier.numerator * way.offset.denominator,
        way.offset.numerator * way.multiplier.denominator,
        way.multiplier.denominator * way.offset.denominator,
        way,
    )


def _may_lack_unit(concept: Concept) -> bool:
    """Whether a number alone can only mean one thing: scores, ratios, pH; not a percentage, which may be a fraction."""
    canonical = parse(concept.unit)
    return "1" in concept.equivalents or (canonical.is_dimensionless and canonical.factor == 1)


def _way(concept: Concept, unit: str) -> Conversion | None:
    """Return how a UCUM unit becomes the concept's canonical one, or None where it measures something else."""
    meaning = parse(unit)
    if unit in concept.equivalents:
        unit = concept.equivalents[unit]
    elif "1" in concept.equivalents and meaning.is_dimensionless and meaning.factor == 1:
        unit = concept.equivalents["1"]
    elif meaning.equivalents != parse(concept.unit).equivalents and concept.valence is None:
        return None
    mass = concept.molar_mass_g_per_mol
    try:
        return conversion(
            unit,
            concept.unit,
            molar_mass=None if mass is None else Fraction(repr(mass)),
            valence=concept.valence,
            keeps_amount=True,
        )
    except (UnknownUnitError, IncompatibleUnitError):
        return None


def _value(reading: Reading, meaning: _Meaning) -> tuple[float, str] | Rejected:
    """Return (value, text) of a reading that was not a plain number, or that is not plausible."""
    concept = meaning.concept
    if concept.kind != "quantity":
        return _answer(reading, concept)
    sent = reading.value
    if isinstance(sent, str):
        answer = _listed(reading, concept)
        if answer is not None:
            return float(answer), ""
        if not _NUMBER.fullmatch(sent.strip()):
            expected = "a number" if not concept.answers else f"a number, or an answer on the list of {concept.key}"
            return _rejected(reading, Reason.NOT_A_NUMBER, "OBX-5", expected, sent)
        sent = float(sent)
    value = _convert(sent, meaning)
    if not meaning.low <= value <= meaning.high:
        expected = f"{meaning.low:g} to {meaning.high:g} {concept.unit}"
        return _rejected(reading, Reason.IMPLAUSIBLE_VALUE, "OBX-5", expected, f"{sent!r} {reading.unit}".rstrip())
    if reading.comparator == "<>":
        return _rejected(reading, Reason.UNSUPPORTED_VALUE_TYPE, "OBX-5", "a number or a bound", "<>")
    return value, f"{reading.comparator}{value!r}" if reading.comparator else ""


def _convert(value: float, meaning: _Meaning) -> float:
    """Return the value in the canonical unit, NaN where it has none."""
    if meaning.is_identity or value - value != 0.0:
        return value
    if not meaning.conversion.is_affine:
        try:
            return float(meaning.conversion.exact(Fraction(value)))
        except (IncompatibleUnitError, OverflowError):
            return float("nan")
    numerator, denominator = value.as_integer_ratio()
    return _quotient(numerator * meaning.times + denominator * meaning.plus, denominator * meaning.over)


def _quotient(numerator: int, denominator: int) -> float:
    """Return the float nearest to the quotient, NaN where it is beyond all floats."""
    try:
        return numerator / denominator
    except OverflowError:
        return float("nan")


def _listed(reading: Reading, concept: Concept) -> str | None:
    """Return the answer on the concept's list that a coded value or its words mean."""
    for sent in (reading.value, reading.value_text):
        spelt = f"{sent:g}" if isinstance(sent, float) else sent.strip().lower()
        if spelt in concept.answers:
            return concept.answers[spelt]
    return None


def _answer(reading: Reading, concept: Concept) -> tuple[float, str] | Rejected:
    """Return (NaN, text) of a coded or textual value."""
    if concept.answers:
        answer = _listed(reading, concept)
        if answer is None:
            expected = f"an answer on the list of {concept.key}"
            return _rejected(reading, Reason.UNKNOWN_CODE, "OBX-5", expected, str(reading.value))
        return float("nan"), answer
    text = reading.value_text or (f"{reading.value:g}" if isinstance(reading.value, float) else reading.value)
    if not 0 < len(text) <= _LONGEST_TEXT:
        expected = f"1 to {_LONGEST_TEXT} characters"
        return _rejected(reading, Reason.UNSUPPORTED_VALUE_TYPE, "OBX-5", expected, f"{len(text)} characters")
    return float("nan"), text


def _rejected(reading: Reading, reason: Reason, field: str, expected: str, found: str) -> Rejected:
    """Return a rejection that says which of the message's values it is about."""
    return Rejected(reason, f"value[{reading.value_index + 1}] {field}", expected, found[:_LONGEST_TEXT])
