"""OBX-5: one repetition of a value, by the type that OBX-2 declares.

Here: numbers, structured numerics, coded values, text, times.
Not here: which concept and unit they are (interop.terminology), the segment around them (interop.hl7v2_observations).
Source: HL7 v2.9 chapter 2A (NM, SN, CWE, ST, TX, FT, DTM); table 0125 (value types).

A number may carry a bound, as laboratories send it (`<0.3`, SN `>^100`): the number is kept and so is the comparator.
A decimal comma is refused: `1,234` means two things. Documents, pictures and sampled curves have other doors.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from interop.hl7v2_dialect import NULL, Dialect
from interop.hl7v2_text import shorten
from vocabulary.records import Reason, Rejected

_NUMBER: Final = re.compile(
    r"(<=|>=|<>|<|>|=)? ?([+-]?(?:\d{1,30}(?:\.\d{0,30})?|\.\d{1,30})(?:[eE][+-]?\d{1,2})?)", re.ASCII
)
_TEXTS: Final = frozenset({"ST", "TX", "FT", "IS", "ID", "DT", "TM", "TS", "DTM"})
_CODED: Final = frozenset({"CE", "CWE", "CNE", "CF"})
_LINES_KEPT: Final = frozenset({"TX", "FT"})
_MAY_BE_NUMBERS: Final = frozenset({"ST", "TX", "FT"})
_NUMBER_EXPECTED: Final = "a number with a point as decimal mark"


class Parsed(NamedTuple):
    """What one repetition of OBX-5 says."""

    value: float | str
    comparator: str = ""
    system: str = ""
    text: str = ""


def read_value(kind: str, raw: str, *, has_unit: bool, reader: Dialect, where: str) -> Parsed | Rejected:
    """Return one repetition of OBX-5, not empty, as a number or text.

    Args:
        kind: OBX-2.
        raw: the repetition as sent.
        has_unit: OBX-6 names a unit, so that a text which is a number is one.
        reader: the message's dialect.
        where: path for a rejection.
    """
    if kind == "NM":
        return read_number(raw.partition(reader.component)[0]) or _not_a_number(where, raw)
    if kind == "SN":
        return _structured(raw, reader, where)
    if kind in _CODED:
        return _coded(raw, reader)
    if kind in _TEXTS:
        number = read_number(raw) if has_unit and kind in _MAY_BE_NUMBERS else None
        if number is not None:
            return number
        text = reader.unescape(raw)
        return Parsed(text if kind in _LINES_KEPT else text.partition(reader.component)[0].strip())
    if not kind:
        return Rejected(Reason.UNSUPPORTED_VALUE_TYPE, where, "a value type in OBX-2", f"none, {len(raw)} characters")
    expected = "NM, SN, ST, TX, FT, IS, ID, CE, CWE, CNE, CF, DT, TM, TS or DTM in OBX-2"
    return Rejected(Reason.UNSUPPORTED_VALUE_TYPE, where, expected, f"{shorten(kind)}, {len(raw)} characters")


def read_number(text: str) -> Parsed | None:
    """Return a decimal number, perhaps a bound, or None."""
    match = _NUMBER.fullmatch(text.strip())
    if match is None:
        return None
    comparator = match.group(1) or ""
    return Parsed(float(match.group(2)), "" if comparator == "=" else comparator)


def is_empty(raw: str, reader: Dialect) -> bool:
    """Return whether OBX-5 says nothing: only delimiters, blanks or HL7 nulls."""
    if not raw or raw == NULL:
        return True
    delimiters = reader.component + reader.repetition + reader.subcomponent + " \t"
    return not raw.replace(NULL, "").strip(delimiters)


def _structured(raw: str, reader: Dialect, where: str) -> Parsed | Rejected:
    comparator, first, separator, second = reader.components(raw, 4)
    if comparator not in {"", "=", "<", "<=", ">", ">=", "<>"}:
        return _not_a_number(where, raw)
    number = read_number(first)
    if not separator and not second:
        if number is None or number.comparator:
            return _not_a_number(where, raw)
        return Parsed(number.value, "" if comparator == "=" else comparator)
    if number is None or (second and read_number(second) is None) or separator not in {"-", "+", "/", ".", ":"}:
        return _not_a_number(where, raw)
    return Parsed(f"{comparator}{first}{separator}{second}")  # a range, ratio or titre is no single number


def _coded(raw: str, reader: Dialect) -> Parsed:
    identifier, words, system, alternate, alternate_words, alternate_system = reader.components(raw, 6)
    original = reader.components(raw, 9)[8]
    if identifier:
        return Parsed(identifier, "", system, words or original)
    if alternate:
        return Parsed(alternate, "", alternate_system, alternate_words or words or original)
    return Parsed(words or original or alternate_words, "", "", words or original or alternate_words)


def _not_a_number(where: str, raw: str) -> Rejected:
    return Rejected(Reason.NOT_A_NUMBER, where, _NUMBER_EXPECTED, shorten(raw))
