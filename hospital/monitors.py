"""A bedside monitor: samples its patient, suffers artefacts, and speaks PCD-01 through a gateway.

Here: which metrics a bed has, how each is rounded, what a fault does to a sample, the device's own clock.
Not here: the patient's truth (hospital.courses), when samples are due and whether they are sent (hospital.ward).
Source: IHE PCD-01 (OBX-4 containment, OBX-18 EUI-64); the cuff goes off every 15 min, as at an unwell patient's bed.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import NamedTuple

from hospital.chance import named
from hospital.codes import DEGREE_FAHRENHEIT, DEVICE_METRICS, DeviceUnit
from hospital.courses import Condition
from hospital.faults import Fault
from hospital.messages import Bed, DeviceValue, Header, Person, Visit, device_report
from hospital.outgoing import Sent

GATEWAY = "SYNTH_GATEWAY"
CUFF_EVERY_S = 900
TEMPERATURE_EVERY_S = 300
AHEAD_US = 6 * 3600 * 1_000_000
"""How far ahead a FUTURE_CLOCK sample claims to be."""


class Sample(NamedTuple):
    """A monitor's message and what is in it."""

    body: bytes
    values: tuple[Sent, ...]
    touched: tuple[int, ...]  # indices of the values a fault changed; empty when it touched none or the whole message


READINGS: dict[str, Callable[[Condition], float]] = {
    "heart_rate": lambda c: c.heart_rate,
    "pulse_rate": lambda c: c.heart_rate,
    "oxygen_saturation": lambda c: c.oxygen_saturation,
    "perfusion_index": lambda c: c.perfusion_index,
    "respiratory_rate": lambda c: c.respiratory_rate,
    "arterial_systolic": lambda c: c.systolic,
    "arterial_diastolic": lambda c: c.diastolic,
    "arterial_mean": lambda c: c.mean,
    "cuff_systolic": lambda c: c.systolic,
    "cuff_diastolic": lambda c: c.diastolic,
    "cuff_mean": lambda c: c.mean,
    "central_venous_pressure": lambda c: c.central_venous_pressure,
    "temperature": lambda c: c.temperature,
    "end_tidal_carbon_dioxide": lambda c: c.end_tidal_carbon_dioxide,
    "inspired_oxygen": lambda c: c.inspired_oxygen,
}

_AFFECTS = {
    Fault.MOTION: ("oxygen_saturation",),
    Fault.CUFF_FAILURE: ("cuff_systolic", "cuff_diastolic", "cuff_mean"),
    Fault.LEAD_OFF_ZERO: ("heart_rate",),
    Fault.LEAD_OFF_BLANK: ("heart_rate",),
    Fault.FAHRENHEIT: ("temperature",),
    Fault.MISLABELLED_UNIT: ("temperature",),
    Fault.UNKNOWN_UNIT: ("respiratory_rate",),
    Fault.UNKNOWN_CODE: ("perfusion_index",),
}
"""Which metrics an artefact touches; it can only happen to a sample that has one of them."""

_WHOLE_MESSAGE = (Fault.FUTURE_CLOCK, Fault.RETRANSMISSION, Fault.CONTROL_ID_CONFLICT, Fault.TRAINING, Fault.MALFORMED)


class BedMonitor:
    """One bed's device."""

    def __init__(self, bed: Bed, eui64: str, *, skew_s: float = 0.0, knows_patient: bool = True) -> None:
        """Mount a monitor at a bed.

        Args:
            bed: where it hangs (PV1-3).
            eui64: its address, 16 hex digits.
            skew_s: how far its clock is ahead (negative: behind).
            knows_patient: whether somebody entered the patient's number; otherwise only the bed is sent.
        """
        self.bed = bed
        self.eui64 = eui64
        self.skew_s = skew_s
        self.knows_patient = knows_patient

    def metrics(self, at_us: int, *, has_line: bool, is_ventilated: bool) -> list[str]:
        """Return what this sample measures, in the order it is written."""
        second = at_us // 1_000_000
        keys = ["heart_rate", "pulse_rate", "oxygen_saturation", "perfusion_index", "respiratory_rate"]
        if has_line:
            keys += ["arterial_systolic", "arterial_diastolic", "arterial_mean", "central_venous_pressure"]
        elif second % CUFF_EVERY_S < 60:
            keys += ["cuff_systolic", "cuff_diastolic", "cuff_mean"]
        if second % TEMPERATURE_EVERY_S < 60:
            keys.append("temperature")
        if is_ventilated:
            keys += ["end_tidal_carbon_dioxide", "inspired_oxygen"]
        return keys

    def eligible(self, keys: list[str]) -> list[Fault]:
        """Return the faults that could happen to a sample of these metrics."""
        return [fault for fault, metrics in _AFFECTS.items() if metrics[0] in keys] + list(_WHOLE_MESSAGE)

    def sample(
        self,
        condition: Condition,
        keys: list[str],
        person: Person,
        visit_number: str,
        at_us: int,
        control_id: str,
        fault: Fault | None = None,
    ) -> Sample:
        """Return one message of this bed.

        Args:
            condition: what the sensors see, noise included.
            keys: metrics to send, from `metrics`.
            person: the one in the bed, as registration knows them; the monitor sends only the number.
            visit_number: PV1-19, sent only by monitors that know their patient.
            at_us: true time; the message carries the device's own.
            control_id: MSH-10.
            fault: what goes wrong with this sample.
        """
        device_us = at_us + round(self.skew_s * 1e6) + (AHEAD_US if fault is Fault.FUTURE_CLOCK else 0)
        values = [self._value(key, condition, device_us, fault) for key in keys]
        header = Header(
            GATEWAY,
            self.bed.facility,
            control_id,
            device_us,
            processing_id="T" if fault is Fault.TRAINING else "P",
        )
        number_only = Person(identifiers=person.identifiers if self.knows_patient else ())
        visit = Visit(visit_number if self.knows_patient else "", self.bed)
        body = device_report(header, number_only, visit, self.eui64, device_us, values)
        if fault is Fault.MALFORMED:
            body = body.replace(b"MSH|", b"M\x00H|", 1)
        touched = _AFFECTS.get(fault, ()) if fault else ()
        sent: list[Sent] = []
        touched_places: list[int] = []
        for value in values:
            if not value.text:
                continue  # a row without a value has no place among the values
            if value.metric.key in touched:
                touched_places.append(len(sent))
            code, _, system = value.code or (value.metric.code, "", "MDC")
            unit = (value.unit or value.metric.unit).code
            sent.append(Sent(len(sent), code, system, value.text, unit, value.effective_at_us, "R"))
        return Sample(body, tuple(sent), tuple(touched_places))

    @staticmethod
    def _value(key: str, condition: Condition, device_us: int, fault: Fault | None) -> DeviceValue:
        metric = DEVICE_METRICS[key]
        number = READINGS[key](condition)
        plain = DeviceValue(metric, f"{number:.{metric.decimals}f}", device_us)
        if fault is None or key not in _AFFECTS.get(fault, ()):
            return plain
        fahrenheit = f"{number * 1.8 + 32:.1f}"
        artefacts = {
            Fault.MOTION: plain._replace(text=f"{max(55.0, number - 22):.0f}"),
            Fault.CUFF_FAILURE: plain._replace(text="---"),
            Fault.LEAD_OFF_ZERO: plain._replace(text="0"),
            Fault.LEAD_OFF_BLANK: plain._replace(text=""),
            Fault.FAHRENHEIT: plain._replace(text=fahrenheit, unit=DEGREE_FAHRENHEIT),
            Fault.MISLABELLED_UNIT: plain._replace(text=fahrenheit),
            Fault.UNKNOWN_UNIT: plain._replace(unit=DeviceUnit("Br_x", "vendor breaths", "99SYNTH")),
            Fault.UNKNOWN_CODE: plain._replace(code=("90001", "VENDOR_INDEX", "99SYNTH")),
        }
        return artefacts[fault]


def mount(number: int, bed: Bed, seed: int, allowed: Collection[Fault]) -> BedMonitor:
    """Return the monitor of a ward's `number`-th bed: of each four, one has a wrong clock, one knows only its bed."""
    rng = named(seed, "monitor", number)
    is_skewed = Fault.SKEWED_CLOCK in allowed and number % 4 == 1
    skew_s = rng.choice((-1, 1)) * rng.uniform(60, 240) if is_skewed else 0.0
    knows_patient = not (Fault.BED_ONLY in allowed and number % 4 == 2)
    return BedMonitor(bed, f"0011EEFFFE{number:06X}", skew_s=skew_s, knows_patient=knows_patient)
