"""Canaries: made-up patient data and secrets that occur nowhere else, and a scanner that knows them in any clothes.

Here: the canaries, messages that carry them in every place a message has, the forms in which a leak may show
(UTF-16, base64, hexadecimal, percent and JSON escapes, packed numbers, compressed), scanning of bytes, folders and
processes.
Not here: what is done with a house before it is scanned (test_no_patient_data_leaks).

Nearly every canary contains one marker, so that a scan looks for few things and can afford every form of them.
"""

from __future__ import annotations

import base64
import binascii
import gzip
import re
import struct
import threading
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote_to_bytes

import psutil
import zstandard

MARKER = "quexold"
"""No language has it, and no base64 of random bytes will."""

FAMILY, GIVEN = "Quexold", "Ariquexold"
MEDICAL_RECORD_NUMBER, VISIT_NUMBER = "MRNQUEXOLD01", "VQUEXOLD01"
STREET, PHONE, BIRTH_DATE = "77 Quexold Lane", "0307391846215", "19030719"
RESULT = "No growth. Discussed with Mrs Quexold by phone."
DEVICE = "QUEXOLDEUI64FFFE"
NUMBER = 123.456789
CONTROL_ID = "QUEXOLDCTL"
WRONG_PASSWORD, CLIENT_SECRET = "quexold-wrong-password", "quexold-client-secret"

_MAGIC = {
    b"\x28\xb5\x2f\xfd": "zstd",
    b"\x1f\x8b\x08": "gzip",
    b"\x78\x01": "zlib",
    b"\x78\x9c": "zlib",
    b"\x78\xda": "zlib",
}
_COMPRESSED = re.compile(b"|".join(re.escape(magic) for magic in _MAGIC))
_BASE64 = re.compile(rb"[A-Za-z0-9+/_-]{24,}={0,2}")
_HEX = re.compile(rb"(?:[0-9a-fA-F]{2}){16,}")
_JSON_ESCAPE = re.compile(rb"\\u([0-9a-fA-F]{4})")
_DEEPEST = 3
_LARGEST = 64 * 1024 * 1024


class Finding(NamedTuple):
    """Where something was found that should not be there."""

    where: str
    what: str
    around: bytes  # what stands there, for whoever has to find out why

    def __str__(self) -> str:
        """Return one line for a failure's message; canaries are nobody's data."""
        return f"{self.where}: {self.what}: {self.around!r}"


def _text_forms(text: str) -> Iterator[tuple[str, bytes]]:
    """Yield how an ASCII text may show in bytes that were encoded with what stands around it."""
    plain = text.encode()
    yield "UTF-16 or UTF-32", text[1:].encode("utf-16-le")[:-1]
    yield "UTF-32", text[1:].encode("utf-32-le")[:-3]
    yield "hexadecimal", plain.hex().encode()
    yield "hexadecimal", plain.hex().upper().encode()
    yield "percent escapes", "".join(f"%{byte:02X}" for byte in plain).encode()
    for before in range(3):
        # Of what is encoded in groups of three bytes, only whole groups are the same whatever stands around.
        encoded = base64.b64encode(b"\0" * before + plain)
        whole = (before + len(plain)) // 3 * 4
        yield "base64", encoded[4 if before else 0 : whole]
        yield "base64", base64.urlsafe_b64encode(b"\0" * before + plain)[4 if before else 0 : whole]


class Scanner:
    """Looks for canaries in bytes: as they are, in every usual encoding, and inside what is compressed."""

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        """Look for the canaries and for these secrets."""
        forms: dict[bytes, str] = {}
        for text in (MARKER, FAMILY, MARKER.upper()):
            forms |= {form: f"a canary in {name}" for name, form in _text_forms(text)}
        for secret in secrets:
            forms[secret.encode()] = "a secret"
            forms |= {form: f"a secret in {name}" for name, form in _text_forms(secret)}
        forms |= {struct.pack(order + "d", NUMBER): "the number as it lies in memory" for order in "<>"}
        forms[PHONE.encode()] = "a telephone number"
        forms[f"{NUMBER:.5f}"[:-1].encode()] = "the number"
        self._forms = {form: name for form, name in forms.items() if len(form) >= 6}
        self._patterns = (
            (re.compile(MARKER.encode(), re.IGNORECASE), "a canary"),
            (re.compile(rb"(?<![0-9A-Fa-f])1903-?07-?19(?![0-9A-Fa-f])"), "a birth date"),
        )

    def scan(self, content: bytes, where: str, depth: int = 0) -> list[Finding]:
        """Return every canary in `content`; of each kind the first."""
        found = []
        for form, name in self._forms.items():
            at = content.find(form)
            if at >= 0:
                found.append(_finding(where, name, content, at, len(form)))
        for pattern, name in self._patterns:
            match = pattern.search(content)
            if match is not None:
                found.append(_finding(where, name, content, match.start(), len(match[0])))
        if depth < _DEEPEST:
            for name, inner in _within(content):
                found += self.scan(inner, f"{where} > {name}", depth + 1)
        return found

    def scan_text(self, text: str, where: str) -> list[Finding]:
        """Return every canary in a text."""
        return self.scan(text.encode(errors="surrogatepass"), where)

    def scan_folder(self, folder: Path, except_below: Iterable[Path] = ()) -> list[Finding]:
        """Return every canary in the files below a folder, in their names and in the names of links."""
        skipped = tuple(except_below)
        found = []
        for path in sorted(folder.rglob("*")):
            if any(path == one or one in path.parents for one in skipped):
                continue
            found += self.scan_text(str(path.relative_to(folder)), f"the name of {path}")
            if path.is_file() and not path.is_symlink():
                try:
                    content = path.read_bytes()
                except FileNotFoundError:  # the house is alive: files come and go
                    continue
                found += self.scan(content, str(path))
        return found

    def scan_process(self, process: psutil.Process, *, environment: bool) -> list[Finding]:
        """Return every canary in what other users of the machine may see of a process, and in its environment."""
        found = []
        try:
            found += self.scan_text("\0".join(process.cmdline()), f"the command line of {process.name()}")
            found += self.scan_text(process.name(), f"the name of process {process.pid}")
            if environment:
                said = "\0".join(f"{name}={value}" for name, value in process.environ().items())
                found += self.scan_text(said, f"the environment of {process.name()}")
        except psutil.NoSuchProcess:
            pass
        return found


def _finding(where: str, what: str, content: bytes, at: int, length: int) -> Finding:
    return Finding(where, what, content[max(0, at - 120) : at + length + 60])


def _within(content: bytes) -> Iterator[tuple[str, bytes]]:
    """Yield what is inside: compressed, encoded or escaped."""
    for match in _COMPRESSED.finditer(content):
        inner = _decompressed(_MAGIC[match[0]], content[match.start() :])
        if inner:
            yield _MAGIC[match[0]], inner
    for match in _BASE64.finditer(content):
        text = match[0].rstrip(b"=").replace(b"-", b"+").replace(b"_", b"/")
        # Plain text within is found by its forms; this is for what is compressed or encoded once more.
        for skipped in range(min(4, len(text) - 8)):
            inner = _from_base64(text[skipped:])
            if inner and _is_worth_it(inner):
                yield "base64", inner
    for match in _HEX.finditer(content):
        inner = bytes.fromhex(match[0].decode())
        if _is_worth_it(inner):
            yield "hexadecimal", inner
    if _JSON_ESCAPE.search(content):
        unescaped = _JSON_ESCAPE.sub(lambda m: chr(int(m[1], 16)).encode(errors="surrogatepass"), content)
        yield "JSON escapes", unescaped
    if b"%" in content:
        unquoted = unquote_to_bytes(content)
        if unquoted != content:
            yield "percent escapes", unquoted


def _is_worth_it(inner: bytes) -> bool:
    return _COMPRESSED.match(inner) is not None or inner.isascii() or MARKER.encode() in inner.lower()


def _from_base64(text: bytes) -> bytes:
    try:
        return base64.b64decode(text + b"=" * (-len(text) % 4))
    except binascii.Error:
        return b""


def _decompressed(kind: str, content: bytes) -> bytes:
    try:
        if kind == "zstd":
            return zstandard.ZstdDecompressor().decompressobj().decompress(content[:_LARGEST])
        if kind == "gzip":
            return zlib.decompressobj(zlib.MAX_WBITS | 16).decompress(content, _LARGEST)
        return zlib.decompressobj().decompress(content, _LARGEST)
    except (zstandard.ZstdError, zlib.error, gzip.BadGzipFile, EOFError):
        return b""


class FolderWatch:
    """Reads every file that shows up in a folder, however short it lives."""

    def __init__(self, folder: Path, interval_s: float = 0.02) -> None:
        """Watch `folder` once entered."""
        self.folder = folder
        self.seen: dict[Path, bytes] = {}
        self._interval_s = interval_s
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="folder watch")

    def __enter__(self) -> FolderWatch:
        """Begin."""
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """End, after a last look."""
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stop.wait(self._interval_s):
            self._look()
        self._look()

    def _look(self) -> None:
        for path in self.folder.rglob("*"):
            try:
                if path.is_file() and path.stat().st_size != len(self.seen.get(path, b"")):
                    self.seen[path] = path.read_bytes()
            except FileNotFoundError:
                continue

    def findings(self, scanner: Scanner) -> list[Finding]:
        """Return the canaries in everything that was seen."""
        found = []
        for path, content in self.seen.items():
            found += scanner.scan(content, f"temporary file {path}") + scanner.scan_text(path.name, f"its name {path}")
        return found


def framed(body: bytes) -> bytes:
    """Return an MLLP block."""
    return b"\x0b" + body + b"\x1c\r"


def _segments(*segments: str) -> bytes:
    return ("\r".join(segments) + "\r").encode()


class Messages:
    """HL7 messages full of canaries. Written here and not by hospital, which writes only what is well formed."""

    def __init__(self, now: str, earlier: str, later: str) -> None:
        """Write messages of a moment.

        Args:
            now: YYYYMMDDHHMMSS+0000.
            earlier: an hour before; the admission.
            later: a day after.
        """
        self.now, self.earlier, self.later = now, earlier, later
        self._count = 0

    def head(self, kind: str, *, control_id: str = "", processing: str = "P") -> str:
        """Return an MSH of its own."""
        self._count += 1
        known = control_id or f"{CONTROL_ID}{self._count:03d}"
        return f"MSH|^~\\&|CANARY|CAGE|VIGIL|CAGE|{self.now}||{kind}|{known}|{processing}|2.5.1|||||||UNICODE UTF-8"

    @property
    def patient(self) -> str:
        """Return a PID in which everything is a canary."""
        return (
            f"PID|1||{MEDICAL_RECORD_NUMBER}^^^CAGE^MR||{FAMILY}^{GIVEN}||{BIRTH_DATE}|F||"
            f"|{STREET}^^Cage^^10115^DE||{PHONE}|||||AN-{FAMILY}"
        )

    def visit(self, bed: str = "01") -> str:
        """Return a PV1 with canaries for visit number and physician."""
        fields = {2: "I", 3: f"CANARY-1^{bed}^1^CAGE", 7: f"P-QUEXOLD^{FAMILY}^Doc^^^^^^CAGE", 16: "VIP",
                  19: VISIT_NUMBER, 44: self.earlier}  # fmt: skip
        return "|".join(["PV1", *(fields.get(number, "") for number in range(1, 45))])

    def admission(self, trigger: str = "A01", *, patient: str = "", visit: str = "") -> bytes:
        """Return an ADT with a Z segment and next of kin."""
        return _segments(
            self.head(f"ADT^{trigger}"),
            f"EVN||{self.now}||||{self.earlier}",
            patient or self.patient,
            f"NK1|1|{FAMILY}^Kin|SPO|{STREET}|{PHONE}",
            visit or self.visit(),
            f"ZPI|{FAMILY}|{PHONE}|{STREET}|insured with Quexold Mutual",
        )

    def observation(self, *fields: str, patient: str = "", head: str = "", device: str = DEVICE) -> bytes:
        """Return an ORU with one OBX: code, value type, value, unit, status and time in this order."""
        code, kind, value, unit, status, at = [*fields, *("", "NM", "", "", "F", self.now)[len(fields) :]]
        return _segments(
            head or self.head("ORU^R01"),
            patient or self.patient,
            self.visit(),
            f"OBR|1|ORDER-QUEXOLD|FILL-QUEXOLD^LAB|1^{FAMILY}^LN|||{self.now}",
            f"NTE|1||Called {FAMILY} at {PHONE}",
            f"OBX|1|{kind}|{code}||{value}|{unit}|||||{status}|||{at}||||{device}",
        )

    def good(self) -> list[tuple[str, bytes]]:
        """Return (feed, message) of messages that are accepted."""
        rate, culture = "8867-4^Heart rate^LN", "600-7^Bacteria identified^LN"
        return [
            ("adt", self.admission()),
            ("monitors", self.observation(rate, "NM", f"{NUMBER}", "/min^^UCUM")),
            ("lab", self.observation(culture, "TX", RESULT)),
            ("adt", self.admission("A08")),
        ]

    def bad(self) -> list[tuple[str, bytes]]:
        """Return (feed, message) of every kind that is refused, held back or waits."""
        rate = "8867-4^Heart rate^LN"
        beats = "/min^^UCUM"
        stranger = self.patient.replace(MEDICAL_RECORD_NUMBER, "QUEXOLDSTRANGER")
        second = self.admission(
            patient=self.patient.replace(MEDICAL_RECORD_NUMBER, "MRNQUEXOLD02"), visit=self.visit("02")
        )
        two = f"PID|1||{MEDICAL_RECORD_NUMBER}^^^CAGE^MR~MRNQUEXOLD02^^^CAGE^MR||{FAMILY}^{GIVEN}"
        twice = f"{CONTROL_ID}TWICE"
        encapsulated = f"^{FAMILY}^^Base64^" + base64.b64encode(RESULT.encode()).decode()
        other = self.patient.replace("QUEXOLD01", "OTHER")
        obx = f"OBX|1|NM|{rate}||80|{beats}|||||F|||{self.now}"
        return [
            ("monitors", FAMILY.encode()),
            ("monitors", b"MSH|^~\\&|QUEX"),
            ("monitors", _segments(f"MSH|{FAMILY}", self.patient)),
            ("monitors", _segments(self.head("ORU^R01"), self.patient)[:-20]),
            ("monitors", self.observation(rate, "NM", "80", f"{FAMILY}-units")),
            ("monitors", self.observation(rate, "NM", "80", "kg^^UCUM")),
            ("monitors", self.observation(f"QUEXOLD-1^{FAMILY}^L", "NM", "80", beats)),
            ("monitors", self.observation(f"QUEXOLD-1^{FAMILY}^LN", "NM", "80", beats)),
            ("monitors", self.observation(rate, "NM", f"{FAMILY} 80", beats)),
            ("monitors", self.observation(rate, "SN", f"^{FAMILY}^80", beats)),
            ("monitors", self.observation(rate, f"Q{FAMILY}", "80", beats)),
            ("monitors", self.observation(rate, "NM", "80", beats, f"{FAMILY}")),
            ("monitors", self.observation(rate, "NM", "80", beats, "F", FAMILY)),
            ("monitors", self.observation(rate, "NM", "80", beats, "F", self.later)),
            ("monitors", self.observation(rate, "NM", "80", beats, "F", "19030719120000")),
            ("monitors", self.observation(rate, "NM", "9999123.456789", beats)),
            ("monitors", self.observation(rate, "NM", "80", beats, patient=stranger)),
            ("monitors", self.observation(rate, "NM", "80", beats, head=self.head("ORU^R01", processing="T"))),
            ("monitors", self.observation(rate, "NM", "80", beats, head=self.head("ORU^R01", processing=FAMILY))),
            ("monitors", self.observation(rate, "NM", "81", beats, head=self.head("ORU^R01", control_id=twice))),
            ("monitors", self.observation(rate, "NM", "82", beats, head=self.head("ORU^R01", control_id=twice))),
            ("monitors", self.observation(rate, "NM", "80", beats, head=self.head(f"{FAMILY}^Q01"))),
            ("monitors", self.observation(rate, "NM", "80", beats, head=self.head("ORU^R01")[:-13] + FAMILY)),
            ("monitors", self.observation(rate, "NM", "80", beats).replace(b"|F|", b"|F|\x00", 1)),
            ("monitors", self.observation(rate, "NM", "80", beats).replace(GIVEN.encode(), b"\xff\xfeQuexold")),
            ("monitors", self.observation(rate, "ED", encapsulated)),
            ("monitors", self.observation(rate, "NM", "80" * 60_000 + FAMILY, beats)),
            ("adt", second),
            ("adt", self.admission("A02", patient=two)),
            ("adt", self.admission("A08", patient=f"PID|1||{'QUEXOLD' * 40}^^^CAGE||{FAMILY}")),
            ("adt", self.admission("A03", visit=f"PV1||I|CANARY-1^01^1|||||||||||||||||{FAMILY * 50}")),
            ("adt", self.admission("A08", visit="|".join(["PV1", "", "I", "", "", "", "", "P-QUEXOLD" * 40]))),
            ("adt", self.admission("A11", patient=stranger)),
            ("adt", _segments(self.head("ADT^A40"), "EVN", self.patient, f"MRG|{MEDICAL_RECORD_NUMBER}^^^CAGE^MR")),
            ("adt", _segments(self.head("ADT^A08"), f"EVN||{FAMILY}||||{FAMILY}", self.patient, self.visit())),
            ("adt", self.admission("A05")),
            ("lab", _segments(self.head("ORU^R01"), self.patient, obx, other, obx)),
            ("lab", _segments(self.head("MDM^T02"), self.patient, f"TXA|1|{FAMILY}", f"OBX|1|TX|1||{RESULT}")),
        ]  # fmt: skip
