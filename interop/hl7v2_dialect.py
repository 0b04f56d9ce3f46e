"""How one sender writes HL7: delimiters, escapes, time zone, and a memory of what repeats.

Here: cutting fields into components, escapes, the reading of codes, units, times, devices and plain numbers.
Not here: bytes and character sets (interop.hl7v2_text), what segments mean (hl7v2_patients, hl7v2_observations).
Source: HL7 v2.9 chapter 2, sections 2.5 (delimiters) and 2.7 (escapes).

Highlighting, `.br` and escapes that are not understood stay as they were sent.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import tzinfo
from typing import Final, TypeVar

from interop.hl7v2_time import parse_time
from vocabulary.clock import MICROSECONDS

BAD_TIME: Final = -(1 << 62)
"""What a timestamp that cannot be read becomes inside the decoder (it never leaves it)."""

ABSENT: Final = "\x00"
"""Stands for a delimiter the sender does not have: a body with this character is refused, so it never matches."""

NULL: Final = '""'
"""HL7's explicit null: the field is to be emptied."""

OBSERVED_AT: Final = 2
"""Where OBX-14 is in a tail: what follows OBX-11."""
_TO_THE_SECOND: Final = frozenset({14, 19})
_DEVICE: Final = 6
_TAIL_FIELDS: Final = 7
_NUMERALS: Final = "0123456789.+-"
_LONGEST_PLAIN_NUMBER: Final = 32

Value = TypeVar("Value")


class Memo(dict[str, Value]):
    """Results of a pure function of short strings, kept while there are few; emptied when there are many."""

    def __init__(self, make: Callable[[str], Value], entries: int = 1_024, longest: int = 96) -> None:
        """Remember at most `entries` results of `make`, of strings of at most `longest` characters."""
        super().__init__()
        self._make = make
        self._entries = entries
        self._longest = longest

    def __missing__(self, key: str) -> Value:
        value = self._make(key)
        if len(key) <= self._longest:
            if len(self) >= self._entries:
                self.clear()
            self[key] = value
        return value


class Dialect:
    """How one sender writes: delimiters, escapes, codec and time zone.

    What repeats from segment to segment and from message to message is read once, through the memos: OBX-3 (`codes`),
    OBX-6 (`units`), DTM fields (`times`), plain numbers of OBX-5 (`numbers`), EI fields that name a device (`devices`),
    MSH-3 (`senders`), MSH-9 (`message_types`).
    """

    __slots__ = (
        "_escapes",
        "_minutes",
        "_standing_for",
        "codec",
        "codes",
        "component",
        "devices",
        "escape",
        "field",
        "message_types",
        "numbers",
        "repetition",
        "senders",
        "subcomponent",
        "times",
        "units",
        "zone",
    )

    def __init__(self, field: str, encoding: str, codec: str, zone: tzinfo | None) -> None:
        """Read by MSH-1 and MSH-2; hex escapes by the message's codec; times without an offset in `zone`."""
        self.field = field
        self.component, self.repetition, self.escape, self.subcomponent = [*encoding, *ABSENT * 4][:4]
        self.codec = codec
        self.zone = zone
        self._standing_for: dict[str, str] = {
            "F": field,
            "S": self.component,
            "R": self.repetition,
            "E": self.escape,
            "T": self.subcomponent,
            "P": encoding[4:5] or "#",
        }
        mark = re.escape(self.escape)
        self._escapes = re.compile(f"{mark}([^{mark}]*){mark}")
        self.codes = Memo(self._read_code)
        self.units = Memo(self._read_unit)
        self._minutes = Memo(self._read_minute)
        self.times = Memo(self._read_time)
        self.devices = Memo(self._read_device)
        self.senders = Memo(self._read_sender)
        self.message_types = Memo(self._read_message_type)
        self.numbers = Memo(plain_number, entries=8_192)

    def unescape(self, text: str) -> str:
        """Return the text with its escape sequences replaced; one that is not understood stays as sent."""
        return self._escapes.sub(self._unescaped, text) if self.escape in text else text

    def components(self, field: str, count: int) -> list[str]:
        """Return the first `count` components of a field, unescaped, padded with empty strings; nulls are empty."""
        parts = (field + self.component * count).split(self.component, count)[:count]
        return ["" if part == NULL else self.unescape(part).strip() for part in parts]

    def plain(self, component: str) -> str:
        """Return the first subcomponent of a raw component, unescaped and stripped; a null is empty."""
        part = component.partition(self.subcomponent)[0]
        return "" if part == NULL else self.unescape(part).strip()

    def time(self, field: str) -> int | None:
        """Return a DTM or TS field in microseconds, None when absent, BAD_TIME when it cannot be read."""
        return self.times[field]

    def read_tail(self, tail: str) -> tuple[int | None, str]:
        """Return OBX-14 and the device of OBX-18 from what follows OBX-11."""
        fields = (tail + self.field * _TAIL_FIELDS).split(self.field, _TAIL_FIELDS)
        return self.times[fields[OBSERVED_AT]], self.devices[fields[_DEVICE]] if fields[_DEVICE] else ""

    def _unescaped(self, match: re.Match[str]) -> str:
        sent: str = match[0]
        content = sent[1:-1]
        plain = self._standing_for.get(content, ABSENT)
        if plain != ABSENT:
            return plain
        if content[:1] == "X":
            return self._from_hex(content[1:]) or sent
        return sent

    def _from_hex(self, digits: str) -> str:
        try:
            text = bytes.fromhex(digits).decode(self.codec)
        except ValueError:  # also UnicodeDecodeError
            return ""
        # Control characters, of which NUL cannot even be stored, stay escaped.
        return text if all(character.isprintable() or character in "\t\r\n" for character in text) else ""

    def _read_code(self, field: str) -> tuple[str, str, str, str]:
        code, _, system, alternate, _, alternate_system = self.components(field, 6)
        return code, system, alternate, alternate_system

    def _read_unit(self, field: str) -> tuple[str, str]:
        unit, _, system, alternate, _, alternate_system = self.components(field, 6)
        if alternate and (not unit or (alternate_system == "UCUM" and system not in {"UCUM", "MDC"})):
            return alternate, alternate_system
        return unit, system

    def _read_time(self, field: str) -> int | None:
        text = field.partition(self.component)[0].strip()
        if not text or text == NULL:
            return None
        second = text[12:14]
        if (
            len(text) in _TO_THE_SECOND
            and text[:2] == "20"
            and second < "60"
            and second.isdecimal()
            and text.isascii()
            and "." not in text
        ):
            minute_us = self._minutes[text[:12] + text[14:]]  # shared by all that is told within a minute
            return BAD_TIME if minute_us is None else minute_us + int(second) * MICROSECONDS
        at_us = parse_time(text, self.zone)
        return BAD_TIME if at_us is None else at_us

    def _read_minute(self, text: str) -> int | None:
        return parse_time(text, self.zone)

    def _read_device(self, field: str) -> str:
        first = field.partition(self.repetition)[0]
        identifier, namespace, universal, universal_type = self.components(first, 4)
        return universal if universal_type == "EUI-64" and universal else identifier or universal or namespace

    def _read_sender(self, field: str) -> str:
        _, universal, universal_type = self.components(field, 3)
        return universal if universal_type == "EUI-64" else ""

    def _read_message_type(self, field: str) -> tuple[str, str, str]:
        kind, trigger, structure = self.components(field, 3)
        return kind, trigger, structure


def plain_number(text: str) -> float | None:
    """Return a number of few digits, a point and a sign at most; None for anything that takes a longer look.

    float() alone also takes `nan`, `1_0` and the digits of other scripts, and its time grows with the text.
    """
    if len(text) > _LONGEST_PLAIN_NUMBER or text.strip(_NUMERALS):
        return None
    try:
        return float(text)
    except ValueError:
        return None
