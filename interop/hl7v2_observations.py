"""OBR and OBX into readings: the hot path of the house.

Here: one pass over a message's segments, values that are not understood itemised beside those that are.
Not here: what one value says (interop.hl7v2_values), codes and units (interop.terminology), patients (hl7v2_patients).
Source: HL7 v2.6 chapter 7 (OBR, OBX), table 0085 (OBX-11); IHE PCD TF-2 appendix B (OBX-4 containment, OBX-18).

- Each repetition of OBX-5 is a value of its own. No value in OBX-5 counts as without value; with OBX-11 D or W it is
  a deletion and stays a reading. A value beside OBX-11 X, N, I or O (no result) contradicts itself and is rejected.
- A line that is no segment (a bare CR inside a text) is rejected as a value: it may have been one.
- A message is about one patient. Values that follow another PID are held back as an identity conflict.
- Smaller than any honest message: more segments or values than the body's size can bear reject the whole message, so
  that memory stays in proportion to the input.
"""

from __future__ import annotations

from math import nan
from typing import Final

from interop.hl7v2_dialect import BAD_TIME, OBSERVED_AT, Dialect
from interop.hl7v2_patients import bad_time, patient_key
from interop.hl7v2_text import shorten
from interop.hl7v2_values import Parsed, is_empty, read_value
from interop.messages import Header, Reading
from vocabulary.records import Reason, Rejected

_RESULTS: Final = frozenset({"F", "P", "C", "R", "S", "U", "A", "B", "V", ""})
_DELETIONS: Final = frozenset({"D", "W"})
_NONE: Final[frozenset[str]] = frozenset()
_BEHIND_OBX: Final = frozenset({"NTE", "PRT"})
_COMMON: Final = frozenset({"PID", "PV1", "OBR", "ORC", "NTE", "EVN", "PV2", "PD1", "TQ1", "SPM", "MRG", "PRT"})
_NO_RESULT: Final = frozenset({"X", "N", "I", "O"})
_TAIL: Final = 11
_FREE_VALUES: Final = 1_024
_BYTES_PER_VALUE: Final = 16


class ObservationReader:
    """Reads the segments of one message."""

    __slots__ = (
        "_containers",
        "_default_device",
        "_is_foreign",
        "_obr",
        "_obx",
        "_order_at_us",
        "_order_key",
        "_reader",
        "_room",
        "is_about_several",
        "others",
        "readings",
        "rejected",
        "without_value",
    )

    def __init__(self, reader: Dialect, header: Header, size: int) -> None:
        """Read by `reader` a message of `size` bytes."""
        self._reader = reader
        self._room = _FREE_VALUES + size // _BYTES_PER_VALUE
        self._default_device = reader.senders[header.sending_application]
        self._obr = 0
        self._order_at_us: int | None = None
        self._order_key = ""
        self._obx = 0
        self._containers: dict[str, str] = {}  # a device's place in OBX-4, and its identifier
        self._is_foreign = False
        self.is_about_several = False
        self.readings: list[Reading] = []
        self.rejected: list[tuple[int, Rejected]] = []
        self.without_value = 0
        self.others: dict[str, str] = {}  # the first segment of each other kind

    def read(self, text: str) -> Rejected | None:
        """Read a whole message; what was found is in the fields.

        The message is cut at its OBX segments at once, which is the fastest way there is; what lies behind one, up to
        the next, is read segment by segment.

        Returns:
            Why the message as a whole is refused, or None.
        """
        reader = self._reader
        separator, escape, bad_time_us = reader.field, reader.escape, BAD_TIME
        codes, units, numbers = reader.codes, reader.units, reader.numbers
        readings, append = self.readings, self.readings.append
        pieces = text.split(f"\rOBX{separator}")
        refused = self._read_others(pieces.pop(0).partition("\r")[2])  # MSH is known
        if refused is not None:
            return refused
        order_at_us, order_key, results = self._order_at_us, self._order_key, _RESULTS
        index = len(self.rejected)
        behind = device = ""
        last_tail: str | None = None
        observed_at_us: int | None = None
        for ordinal, piece in enumerate(pieces, 1):
            if "\r" in piece:
                piece, _, behind = piece.partition("\r")  # noqa: PLW2901
            try:
                _, kind, code_field, sub_id, raw, unit_field, _, _, _, _, status, tail = piece.split(separator, _TAIL)
            except ValueError:  # fewer fields
                piece += separator * _TAIL  # noqa: PLW2901
                _, kind, code_field, sub_id, raw, unit_field, _, _, _, _, status, tail = piece.split(separator, _TAIL)
            if tail != last_tail:  # the values of one message mostly share time and device
                last_tail = tail
                observed_at_us, device = reader.read_tail(tail)
            at_us = order_at_us if observed_at_us is None else observed_at_us
            value = numbers[raw] if kind == "NM" and status in results else None
            if value is not None and at_us != bad_time_us:
                code, code_system, alternate, alternate_system = codes[code_field]
                unit, unit_system = units[unit_field]
                append(
                    Reading(
                        index,
                        code,
                        code_system,
                        alternate,
                        alternate_system,
                        value,
                        unit,
                        unit_system,
                        at_us,
                        status,
                        device or self._device(sub_id, behind),
                        reader.unescape(sub_id) if escape in sub_id else sub_id,
                        order_key,
                        kind,
                    )
                )
                index += 1
                if not behind:
                    continue
                self._obx = ordinal
            else:
                self._obx = ordinal
                self._read_slowly(piece.split(separator, _TAIL), at_us, device, behind)
            if behind:
                refused = self._read_others(behind)
                if refused is not None:
                    return refused
                behind = ""
                order_at_us, order_key = self._order_at_us, self._order_key
                results = _NONE if self._is_foreign else _RESULTS
            index = len(readings) + len(self.rejected)
            if index > self._room:
                return self._too_many()
        return None

    def _read_slowly(self, fields: list[str], at_us: int | None, device: str, behind: str) -> None:
        """Read an OBX that is not one plain number.

        Args:
            fields: OBX-1 to OBX-11, and what follows as one.
            at_us: of OBX-14, else OBR-7.
            device: of OBX-18.
            behind: the segments up to the next OBX.
        """
        reader = self._reader
        _, kind, code_field, sub_id, raw, unit_field, _, _, _, _, status, tail = fields
        kind, status = kind.strip(), status.strip()
        is_deletion = status in _DELETIONS
        if is_empty(raw, reader) and not is_deletion:
            self.without_value += 1
            if device and sub_id.endswith(".0.0.0"):
                self._containers[sub_id.partition(".")[0]] = device
            return
        if raw.count(reader.repetition) > self._room:
            self._reject(Rejected(Reason.TOO_LARGE, self._where(5), f"at most {self._room} values", "more"))
            return
        refusal = self._refusal(status, at_us, tail)
        code = reader.codes[code_field]
        unit, unit_system = reader.units[unit_field]
        device = device or self._device(sub_id, behind)
        sub_id = reader.unescape(sub_id)
        where = self._where(5)
        repetitions = [raw] if is_deletion and is_empty(raw, reader) else raw.split(reader.repetition)
        for repetition in repetitions:
            if is_empty(repetition, reader) and not is_deletion:
                continue
            if refusal is not None:
                self._reject(refusal)
                continue
            parsed = read_value(kind, repetition, has_unit=unit != "", reader=reader, where=where)
            if isinstance(parsed, Rejected):
                if not is_deletion:
                    self._reject(parsed)
                    continue
                parsed = Parsed(nan)  # what is taken back needs no valid value
            self.readings.append(
                Reading(
                    len(self.readings) + len(self.rejected),
                    *code,
                    parsed.value,
                    unit,
                    unit_system,
                    at_us,
                    status,
                    device,
                    sub_id,
                    self._order_key,
                    kind,
                    parsed.comparator,
                    parsed.system,
                    parsed.text,
                )
            )

    def _refusal(self, status: str, at_us: int | None, tail: str) -> Rejected | None:
        """Return why no value of this OBX can count, if so."""
        if self._is_foreign:
            return Rejected(Reason.IDENTITY_CONFLICT, "PID[2]", "one patient a message", "another patient's PID")
        if status in _NO_RESULT:
            return Rejected(Reason.MALFORMED, self._where(11), "no value beside a status that means no result", status)
        if at_us == BAD_TIME:
            own = (tail.split(self._reader.field, OBSERVED_AT + 1) + [""] * (OBSERVED_AT + 1))[OBSERVED_AT]
            return bad_time(self._where(14), own) if own else bad_time(f"OBR[{self._obr}]-7", "")
        return None

    def _read_others(self, text: str) -> Rejected | None:
        """Read the segments before the first OBX or between two."""
        for segment in text.split("\r"):
            if segment:
                refused = self._read_other(segment)
                if refused is not None:
                    return refused
        return None

    def _read_other(self, segment: str) -> Rejected | None:
        """Read a segment that is no OBX."""
        name = segment[:3]
        separator = self._reader.field
        if segment[3:4] != separator or name not in _COMMON:
            if name == "OBX" and len(segment) == 3:  # without a single field
                self.without_value += 1
            if not (segment[3:4] in (separator, "") and name.isalnum() and name.isascii() and name.isupper()):
                return self._read_debris(segment)
        if name == "OBR":
            self._read_order(segment)
        elif name == "MSH":
            return Rejected(Reason.MALFORMED, "MSH[2]", "one message a frame", "a second MSH")
        elif name == "PID" and name in self.others:
            self._is_foreign = patient_key(segment, self._reader) != patient_key(self.others[name], self._reader)
            self.is_about_several = self.is_about_several or self._is_foreign
        if name not in self.others:
            self.others[name] = segment
        return None

    def _read_debris(self, segment: str) -> Rejected | None:
        """Count a line that is no segment as a value that was not understood."""
        if segment.strip():
            self._reject(Rejected(Reason.MALFORMED, f"after OBX[{self._obx}]", "a segment", shorten(segment)))
            if len(self.readings) + len(self.rejected) > self._room:
                return self._too_many()
        return None

    def _read_order(self, segment: str) -> None:
        reader = self._reader
        fields = (segment + reader.field * 8).split(reader.field, 8)
        self._obr += 1
        self._order_at_us = reader.times[fields[7]]
        key = fields[3] or fields[2]
        if reader.repetition in key:
            key = key.partition(reader.repetition)[0]
        if reader.component in key:
            value, namespace, universal, _ = (key + reader.component * 3).split(reader.component, 3)
            authority = namespace or universal
            key = f"{value}^{authority}" if value and authority else value
        self._order_key = reader.unescape(key) if reader.escape in key else key

    def _device(self, sub_id: str, behind: str) -> str:
        """Return the device of an OBX without OBX-18: of a PRT right behind it, of its container, of the sender."""
        if "PRT" in behind:
            separator = self._reader.field
            for segment in behind.split("\r"):
                if segment[:3] not in _BEHIND_OBX:
                    break
                field = (segment + separator * 11).split(separator, 11)[10] if segment[:3] == "PRT" else ""
                if field:
                    return self._reader.devices[field]
        if self._containers:
            return self._containers.get(sub_id.partition(".")[0], self._default_device)
        return self._default_device

    def _reject(self, why: Rejected) -> None:
        self.rejected.append((len(self.readings) + len(self.rejected), why))

    def _where(self, field: int) -> str:
        return f"OBX[{self._obx}]-{field}"

    def _too_many(self) -> Rejected:
        expected = f"at most {self._room} values in a message of this size"
        return Rejected(Reason.TOO_LARGE, f"OBX[{self._obx}]", expected, "more")
