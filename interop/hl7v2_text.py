r"""HL7 bytes into text.

Here: byte-order marks, MSH-18 character sets, segment ends, the fields of MSH as sent.
Not here: components and escapes (interop.hl7v2_dialect), what MSH says (interop.hl7v2_header).
Source: HL7 v2.9 chapter 2, section 2.14.9 (MSH) and table 0211 (character sets).

Rules where the standard leaves room:
- No charset, `ASCII` or `UNICODE`: UTF-8 if the bytes are valid UTF-8, else Latin-1 (senders leave the default on).
- A byte-order mark, or NULs as UTF-16 and UTF-32 put them, outrank what MSH-18 says.
- A declared charset whose bytes are not valid in it is refused: names and text would be wrong without a trace.
- Segments end at CR; a body with CRLF or without any CR may end them with LF. In a body with bare CRs an LF is data.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final

import msgspec

from vocabulary.records import Reason, Rejected

FOUND_CHARACTERS: Final = 80
"""How much of a message a rejection may quote."""

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
_USUAL_ENCODING: Final = "^~\\&"


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
    try:
        text = body.decode()
        is_utf8 = True
    except UnicodeDecodeError:
        text = body.decode("latin-1")  # enough for MSH-18, which says how to read the rest
        is_utf8 = False
    msh = _split_msh(_first_line(text))
    if isinstance(msh, Rejected):
        return msh
    declared = msh[17] if len(msh) > 17 else ""
    codec = codec_of(declared)
    if codec == _UNDECLARED_CODEC:
        return Text(text, "utf-8" if is_utf8 else "latin-1", msh)
    if codec is None or codec in _WIDE_CODECS:
        expected = "a character set of HL7 table 0211, and bytes that look like it"
        return Rejected(Reason.UNSUPPORTED_CHARSET, "MSH-18", expected, shorten(declared))
    if text.isascii() and codec != _ISO_2022:  # every other of them begins with ASCII
        return Text(text, codec, msh)
    try:
        text = body.decode(codec)
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
    if "\x00" in line:
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
