r"""HL7 bytes into text, and the delimiters and escapes by which the text is read.

Here: byte-order marks, MSH-18 character sets, segment ends, `Dialect` (delimiters, escapes, memo of repeating fields).
Not here: what fields mean (interop.hl7v2_header, hl7v2_patients, hl7v2_observations).
Source: HL7 v2.9 chapter 2, sections 2.5 (delimiters), 2.7 (escapes) and table 0211 (character sets).

Rules where the standard leaves room:
- No charset, `ASCII` or `UNICODE`: UTF-8 if the bytes are valid UTF-8, else Latin-1 (senders leave the default on).
- A byte-order mark, or NULs as UTF-16 and UTF-32 put them, outrank what MSH-18 says.
- A declared charset whose bytes are not valid in it is refused: names and text would be wrong without a trace.
- Segments end at CR; a body with CRLF or without any CR may end them with LF. In a body with bare CRs an LF is data.
- `\.br\`, highlighting and escapes not understood stay as they were sent.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import tzinfo
from functools import lru_cache
from typing import Final, TypeVar

import msgspec

from interop.hl7v2_time import parse_time
from vocabulary.clock import MICROSECONDS
from vocabulary.records import Reason, Rejected

FOUND_CHARACTERS: Final = 80
"""How much of a message a rejection may quote."""

BAD_TIME: Final = -(1 << 62)
"""What a timestamp that cannot be read becomes inside the decoder (it never leaves it)."""

ABSENT: Final = "\x00"
"""Stands for a delimiter the sender does not have: a body with this character is refused, so it never matches."""

NULL: Final = '""'
"""HL7's explicit null: the field is to be emptied."""

_ISO_2022: Final = "iso2022_jp_2"
_UNDECLARED_CODEC: Final = "undeclared"
_WIDE_CODECS: Final = frozenset({"utf-16", "utf-32"})
_CODECS: Final = {
    "ISOIR6": "ascii",
    "ISOIR13": _ISO_2022,
    "ISOIR14": _ISO_2022,
    "ISOIR87": _ISO_2022,
    "ISOIR159": _ISO_2022,
    "GB180302000": "gb18030",
    "GB18030": "gb18030",
    "KSX1001": "euc_kr",
    "BIG5": "big5",
    "WINDOWS1252": "cp1252",
    "CP1252": "cp1252",
    "UTF8": "utf-8",
    "UNICODEUTF8": "utf-8",
    "UTF16": "utf-16",
    "UNICODEUTF16": "utf-16",
    "UTF32": "utf-32",
    "UNICODEUTF32": "utf-32",
    **{f"8859{part}": f"iso8859-{part}" for part in (1, 2, 3, 4, 5, 6, 7, 8, 9, 15)},
    **{f"ISO8859{part}": f"iso8859-{part}" for part in (1, 2, 3, 4, 5, 6, 7, 8, 9, 15)},
}
_UNDECLARED: Final = frozenset({"", "ASCII", "USASCII", "UNICODE"})
_BYTE_ORDER_MARKS: Final = (  # UTF-32's little-endian mark begins with UTF-16's
    (b"\xff\xfe\x00\x00", "utf-32-le"),
    (b"\x00\x00\xfe\xff", "utf-32-be"),
    (b"\xff\xfe", "utf-16-le"),
    (b"\xfe\xff", "utf-16-be"),
)
_WIDE_BEGINNINGS: Final = tuple(
    ("MSH".encode(codec), codec) for codec in ("utf-32-le", "utf-32-be", "utf-16-le", "utf-16-be")
)
_NARROW_BEGINNING: Final = b"MSH|"
_UTF8_MARK: Final = b"\xef\xbb\xbf"
_LINE_END: Final = re.compile(rb"[\r\n]")
_WIDE_HEADER_BYTES: Final = 16_384
_MSH_FIELDS: Final = 18
_NUMERALS: Final = "0123456789.+-"
_LONGEST_PLAIN_NUMBER: Final = 32
OBSERVED_AT: Final = 2
"""Where OBX-14 is in a tail: what follows OBX-11."""
_TO_THE_SECOND: Final = frozenset({14, 19})
_DEVICE: Final = 6
_TAIL_FIELDS: Final = 7
_USUAL_ENCODING: Final = "^~\\&"

Value = TypeVar("Value")


class Text(msgspec.Struct, frozen=True, gc=False):
    """A decoded body (or only its first line) and MSH cut into fields: `msh[n - 1]` is MSH-n, for n from 2 on."""

    text: str
    codec: str
    msh: list[str]


def shorten(text: str) -> str:
    """Return what a rejection quotes."""
    return text if len(text) <= FOUND_CHARACTERS else text[: FOUND_CHARACTERS - 1] + "…"


def read_text(body: bytes) -> Text | Rejected:
    """Return the whole body as text, without byte-order mark, or why it cannot be."""
    if not body.startswith(_NARROW_BEGINNING):
        body = _without_mark(body)
        wide = _wide_codec(body)
        if wide is not None:
            return _read_wide(body, wide)
    is_ascii = body.isascii()
    text = body.decode("ascii" if is_ascii else "latin-1")  # enough for MSH-18, which says how to read the rest
    msh = _split_msh(_first_line(text))
    if isinstance(msh, Rejected):
        return msh
    declared = msh[17] if len(msh) > 17 else ""
    codec = codec_of(declared)
    if codec is None or codec in _WIDE_CODECS:
        expected = "a character set of HL7 table 0211, and bytes that look like it"
        return Rejected(Reason.UNSUPPORTED_CHARSET, "MSH-18", expected, shorten(declared))
    if is_ascii and codec != _ISO_2022:
        return Text(text, "utf-8" if codec == _UNDECLARED_CODEC else codec, msh)
    try:
        text, codec = _decode(body, codec)
    except UnicodeDecodeError as error:
        return _undecodable(codec, error)
    msh = _split_msh(_first_line(text))  # again: the applications in MSH may have names in that charset
    return msh if isinstance(msh, Rejected) else Text(text, codec, msh)


def read_first_line(body: bytes) -> Text | Rejected:
    """Return MSH alone, without decoding what follows: enough to answer a sender."""
    body = _without_mark(body)
    wide = _wide_codec(body)
    if wide is not None:
        return _read_wide(body[:_WIDE_HEADER_BYTES], wide, errors="ignore")
    end = _LINE_END.search(body)
    return read_text(body if end is None else body[: end.start()])


def with_segment_ends(text: str) -> str:
    """Return the message with CR as the only end of segments."""
    if "\n" in text and ("\r\n" in text or "\r" not in text):
        return text.replace("\r\n", "\r").replace("\n", "\r")
    return text


@lru_cache(maxsize=64)
def codec_of(declared: str) -> str | None:
    """Return the Python codec for MSH-18, `undeclared` where the bytes must decide, None for an unknown charset."""
    names = [re.sub(r"[\s_/-]", "", name.upper()) for name in declared.split("~", 8)[:8]]
    for name in names:  # a later repetition is reached by escape sequences: only the ISO 2022 sets need a codec for it
        if _CODECS.get(name) == _ISO_2022:
            return _ISO_2022
    return _UNDECLARED_CODEC if names[0] in _UNDECLARED else _CODECS.get(names[0])


def _without_mark(body: bytes) -> bytes:
    body = body.removeprefix(_UTF8_MARK)
    return body.lstrip(b"\r\n\t ") if body[:1] in b"\r\n\t " else body


def _wide_codec(body: bytes) -> str | None:
    if body.startswith(b"MSH") and not body.startswith(b"MSH\x00"):
        return None
    for beginning, codec in (*_BYTE_ORDER_MARKS, *_WIDE_BEGINNINGS):
        if body.startswith(beginning):
            return codec
    return None


def _read_wide(body: bytes, codec: str, errors: str = "strict") -> Text | Rejected:
    try:
        text = body.decode(codec, errors).removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        return _undecodable(codec, error)
    msh = _split_msh(_first_line(text))
    return msh if isinstance(msh, Rejected) else Text(text, codec, msh)


def _decode(body: bytes, codec: str) -> tuple[str, str]:
    """Return the text and the codec that fitted.

    Raises:
        UnicodeDecodeError: the bytes are not valid in the declared codec.
    """
    if codec != _UNDECLARED_CODEC:
        return body.decode(codec), codec
    try:
        return body.decode(), "utf-8"
    except UnicodeDecodeError:
        return body.decode("latin-1"), "latin-1"


def _undecodable(codec: str, error: UnicodeDecodeError) -> Rejected:
    found = f"bytes at offset {error.start} that are not"
    return Rejected(Reason.UNSUPPORTED_CHARSET, "MSH-18", f"a body valid in {codec}", found)


def _first_line(text: str) -> str:
    end = text.find("\r")
    line = text if end < 0 else text[:end]
    return line.partition("\n")[0] if "\n" in line else line


def _split_msh(line: str) -> list[str] | Rejected:
    if line[:3] != "MSH":
        is_batch = line[:3] in {"FHS", "BHS"}
        reason = Reason.UNSUPPORTED_MESSAGE if is_batch else Reason.MALFORMED
        expected = "one message a frame, no batch" if is_batch else "a message that begins with MSH"
        return Rejected(reason, "MSH", expected, shorten(line[:12]))
    if ABSENT in line:
        return Rejected(Reason.MALFORMED, "MSH", "text without NUL characters", "a NUL character")
    field = line[3:4]
    if field != "|" and not _is_delimiter(field):
        return Rejected(Reason.MALFORMED, "MSH-1", "a punctuation mark as field separator", shorten(field))
    msh = line.split(field, _MSH_FIELDS)
    encoding = msh[1]
    if encoding != _USUAL_ENCODING and not (
        1 <= len(encoding) <= 5
        and len(set(encoding)) == len(encoding)
        and all(_is_delimiter(character) for character in encoding)
    ):
        return Rejected(Reason.MALFORMED, "MSH-2", "one to five distinct punctuation marks", shorten(encoding))
    return msh


def _is_delimiter(character: str) -> bool:
    return character.isprintable() and not character.isalnum() and not character.isspace() and character != ""


class Memo(dict[str, Value]):
    """Results of a pure function of short strings, kept while there are few; emptied when there are many."""

    KEY_CHARACTERS: Final = 96

    def __init__(self, make: Callable[[str], Value], entries: int = 1_024) -> None:
        """Remember at most `entries` results of `make`."""
        super().__init__()
        self._make = make
        self._entries = entries

    def __missing__(self, key: str) -> Value:
        value = self._make(key)
        if len(key) <= self.KEY_CHARACTERS:
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


@lru_cache(maxsize=8)
def dialect(field: str, encoding: str, codec: str, zone: tzinfo | None) -> Dialect:
    """Return the reader of one way of writing; a hospital has few, so that their memos stay warm."""
    return Dialect(field, encoding, codec, zone)
