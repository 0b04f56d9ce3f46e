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

from interop.hl7v2_patients import bad_time, patient_key
from interop.hl7v2_records import Header, Reading
from interop.hl7v2_text import BAD_TIME, Dialect, shorten
from interop.hl7v2_values import LONGEST_NUMBER, NUMERALS, is_empty, read_value
from vocabulary.records import Reason, Rejected

_RESULTS: Final = frozenset({"F", "P", "C", "R", "S", "U", "A", "B", "V", ""})
_DELETIONS: Final = frozenset({"D", "W"})
_NO_RESULT: Final = frozenset({"X", "N", "I", "O"})
_OBX_FIELDS: Final = 19
_FREE_VALUES: Final = 1_024
_BYTES_PER_VALUE: Final = 16


class ObservationReader:
    """Reads the segments of one message."""

    __slots__ = (
        "_containers",
        "_default_device",
        "_is_foreign",
        "_obr",
        "_obr_at_us",
        "_obx",
        "_order_key",
        "_participants",
        "_patient_key",
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
        self._default_device = _sender_device(reader, header.sending_application)
        self._obr = 0
        self._obr_at_us: int | None = None
        self._order_key = ""
        self._obx = 0
        self._containers: dict[str, str] = {}  # a device's place in OBX-4, and its identifier
        self._participants: dict[int, str] = {}  # OBX (counted from 1) and the device a PRT behind it names
        self._patient_key: str | None = None
        self._is_foreign = False
        self.is_about_several = False
        self.readings: list[Reading] = []
        self.rejected: list[tuple[int, Rejected]] = []
        self.without_value = 0
        self.others: dict[str, str] = {}  # the first segment of each other kind

    def read(self, segments: list[str], *, has_participants: bool) -> Rejected | None:
        """Read all segments; what was found is in the fields.

        Args:
            segments: the message's, MSH first.
            has_participants: there may be a PRT among them.

        Returns:
            Why the message as a whole is refused, or None.
        """
        reader = self._reader
        separator = reader.field
        escape = reader.escape
        obx = f"OBX{separator}"
        padding = separator * _OBX_FIELDS
        codes, units, times, devices = reader.codes, reader.units, reader.times, reader.devices
        readings = self.readings
        append = readings.append
        if has_participants:
            self._find_participants(segments)
        for segment in segments:
            if not segment.startswith(obx):
                if segment:
                    refused = self._read_other(segment)
                    if refused is not None:
                        return refused
                continue
            self._obx += 1
            # fmt: off
            (_, _, kind, code_field, sub_id, raw, unit_field, _, _, _, _, status, _, _, at_field, _, _, _, device_field,
             _) = (segment + padding).split(separator, _OBX_FIELDS)
            # fmt: on
            at_us = times[at_field] if at_field else self._obr_at_us
            if kind == "NM" and status in _RESULTS and at_us != BAD_TIME and not self._is_foreign:
                try:
                    # Only digits, points and signs, and few of them: float() alone also takes `nan`, `1_0` and `१`.
                    value = float(raw) if len(raw) <= LONGEST_NUMBER and not raw.strip(NUMERALS) else None
                except ValueError:
                    value = None
                if value is not None:
                    code, code_system, alternate, alternate_system = codes[code_field]
                    unit, unit_system = units[unit_field]
                    append(
                        Reading(
                            len(readings) + len(self.rejected),
                            code,
                            code_system,
                            alternate,
                            alternate_system,
                            value,
                            unit,
                            unit_system,
                            at_us,
                            status,
                            devices[device_field] if device_field else self._device(sub_id),
                            reader.unescape(sub_id) if escape in sub_id else sub_id,
                            self._order_key,
                            kind,
                        )
                    )
                    continue
            self._read_slowly(
                kind.strip(), code_field, sub_id, raw, unit_field, status.strip(), at_us, at_field, device_field
            )
            if len(readings) + len(self.rejected) > self._room:
                return self._too_many()
        return None

    def _read_slowly(
        self,
        kind: str,
        code_field: str,
        sub_id: str,
        raw: str,
        unit_field: str,
        status: str,
        at_us: int | None,
        at_field: str,
        device_field: str,
    ) -> None:
        """Read an OBX that is not one plain number."""
        reader = self._reader
        is_deletion = status in _DELETIONS
        device = reader.devices[device_field] if device_field else ""
        if is_empty(raw, reader) and not is_deletion:
            self.without_value += 1
            if device and sub_id.endswith(".0.0.0"):
                self._containers[sub_id.partition(".")[0]] = device
            return
        if raw.count(reader.repetition) > self._room:
            self._reject(Rejected(Reason.TOO_LARGE, self._where(5), f"at most {self._room} values", "more"))
            return
        refusal = self._refusal(status, at_us, at_field)
        code = reader.codes[code_field]
        unit, unit_system = reader.units[unit_field]
        device = device or self._device(sub_id)
        sub_id = reader.unescape(sub_id)
        where = self._where(5)
        repetitions = [raw] if is_deletion and is_empty(raw, reader) else raw.split(reader.repetition)
        for repetition in repetitions:
            if refusal is not None:
                if repetition:
                    self._reject(refusal)
                continue
            if is_empty(repetition, reader) and not is_deletion:
                continue
            parsed = read_value(kind, repetition, has_unit=unit != "", reader=reader, where=where)
            if isinstance(parsed, Rejected):
                if not is_deletion:
                    self._reject(parsed)
                    continue
                value, comparator, system, text = nan, "", "", ""  # what is taken back needs no valid value
            else:
                value, comparator, system, text = parsed  # type: ignore[assignment]
            self.readings.append(
                Reading(
                    len(self.readings) + len(self.rejected),
                    *code,
                    value,
                    unit,
                    unit_system,
                    at_us,
                    status,
                    device,
                    sub_id,
                    self._order_key,
                    kind,
                    comparator,
                    system,
                    text,
                )
            )

    def _refusal(self, status: str, at_us: int | None, at_field: str) -> Rejected | None:
        """Return why no value of this OBX can count, if so."""
        if self._is_foreign:
            return Rejected(Reason.IDENTITY_CONFLICT, "PID[2]", "one patient a message", "another patient's PID")
        if status in _NO_RESULT:
            return Rejected(Reason.MALFORMED, self._where(11), "no value beside a status that means no result", status)
        if at_us == BAD_TIME:
            return bad_time(self._where(14) if at_field else f"OBR[{self._obr}]-7", at_field)
        return None

    def _read_other(self, segment: str) -> Rejected | None:
        """Read a segment that is no OBX."""
        name = segment[:3]
        separator = self._reader.field
        if name == "OBX":  # without a single field
            self.without_value += 1
        elif name == "OBR" and segment[3:4] == separator:
            self._read_order(segment)
        elif name == "PID":
            key = patient_key(segment, self._reader)
            if self._patient_key is None:
                self._patient_key = key
            self._is_foreign = key != self._patient_key
            self.is_about_several = self.is_about_several or self._is_foreign
        elif name == "MSH" and "MSH" in self.others:
            return Rejected(Reason.MALFORMED, "MSH[2]", "one message a frame", "a second MSH")
        elif not (segment[3:4] in (separator, "") and name.isalnum() and name.isascii() and name.isupper()):
            if segment.strip():
                self._reject(Rejected(Reason.MALFORMED, f"after OBX[{self._obx}]", "a segment", shorten(segment)))
                if len(self.readings) + len(self.rejected) > self._room:
                    return self._too_many()
            return None
        if name not in self.others:
            self.others[name] = segment
        return None

    def _read_order(self, segment: str) -> None:
        reader = self._reader
        fields = (segment + reader.field * 8).split(reader.field, 8)
        self._obr += 1
        self._obr_at_us = reader.times[fields[7]] if fields[7] else None
        identifier = fields[3] or fields[2]
        value, namespace, universal = reader.components(identifier.partition(reader.repetition)[0], 3)
        authority = namespace or universal
        self._order_key = f"{value}^{authority}" if value and authority else value

    def _find_participants(self, segments: list[str]) -> None:
        """Note the device of each PRT that follows an OBX (PRT-10)."""
        reader = self._reader
        obx = 0
        for segment in segments:
            name = segment[:3]
            if name == "OBX":
                obx += 1
            elif name == "PRT" and obx:
                field = (segment + reader.field * 11).split(reader.field, 11)[10]
                if field and obx not in self._participants:
                    self._participants[obx] = reader.devices[field]
            elif name != "NTE":
                obx = 0 if name in {"OBR", "PID", "SPM"} else obx

    def _device(self, sub_id: str) -> str:
        """Return the device of an OBX without OBX-18."""
        if self._participants and self._obx in self._participants:
            return self._participants[self._obx]
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


def _sender_device(reader: Dialect, sending_application: str) -> str:
    """Return MSH-3 where it names one device (IHE PCD: an EUI-64), not a system that speaks for many."""
    if "EUI-64" not in sending_application:
        return ""
    _, universal, universal_type = reader.components(sending_application, 3)
    return universal if universal_type == "EUI-64" else ""
