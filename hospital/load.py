"""A load generator: many beds, one PCD-01 message a second each with twelve values, at a steady pace.

Here: pre-encoded messages, an open-loop schedule (a slow receiver does not slow the schedule down, it makes it late),
and when each message was meant to go and went.
Not here: faults and plausible days (hospital.ward); measuring the receiver (benchmarks).
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field

from hospital.chance import named
from hospital.codes import DEVICE_METRICS
from hospital.courses import Condition, Course, CourseKind, Wander
from hospital.messages import Bed, DeviceValue, Header, Person, Visit, adt, device_report, timestamp
from hospital.monitors import GATEWAY, READINGS
from hospital.outgoing import run_code
from hospital.patients import invent
from hospital.sender import MllpSender, Patience, Transcript
from vocabulary.clock import Clock, SystemClock

METRICS = (
    "heart_rate",
    "pulse_rate",
    "oxygen_saturation",
    "perfusion_index",
    "respiratory_rate",
    "arterial_systolic",
    "arterial_diastolic",
    "arterial_mean",
    "central_venous_pressure",
    "temperature",
    "end_tidal_carbon_dioxide",
    "inspired_oxygen",
)
"""The twelve values of each message, in the order they are written."""

FACILITY = "LOAD"
BEDS_A_WARD = 20
_MOMENT_US = 1_000_000_000_000_000  # any moment: its text is replaced when a message is filled in
_CONTROL = "CONTROLID"


class BedLoad:
    """One bed's patient and a message template that is filled in, not encoded, every second."""

    def __init__(self, number: int, seed: int, admitted_at_us: int) -> None:
        """Invent bed `number`'s patient and encode the template.

        Args:
            number: counted from 0.
            seed: of the patient and the values.
            admitted_at_us: when the stay began.
        """
        rng = named(seed, "load", number)
        self.patient = invent(500_000 + number, rng, admitted_at_us)
        self._course = Course(CourseKind.STABLE, self.patient, rng)
        self._wander = Wander(rng)
        self._number = number
        self._sent = 0
        self.bed = Bed(f"LOAD-{number // BEDS_A_WARD + 1:02d}", f"{number % BEDS_A_WARD + 1:02d}", "1", FACILITY)
        self._visit = Visit(f"V{number:06d}-{run_code(admitted_at_us)}", self.bed, admitted_at_us=admitted_at_us)
        self.admitted_at_us = admitted_at_us
        self._template = self._encode()

    def admission(self) -> bytes:
        """Return the A01 that must be acknowledged before the load begins."""
        control_id = f"LA{self._number:05d}-{run_code(self.admitted_at_us)}"
        header = Header("LOAD_ADT", FACILITY, control_id, self.admitted_at_us)
        return adt("A01", header, self.patient.person(), self._visit, self.admitted_at_us)

    def _encode(self) -> bytes:
        values = [
            DeviceValue(DEVICE_METRICS[key], f"VALUE{place:02d}", _MOMENT_US) for place, key in enumerate(METRICS)
        ]
        person = Person(self.patient.person().identifiers)
        header = Header(GATEWAY, FACILITY, _CONTROL, _MOMENT_US)
        eui64 = f"00AA11FFFE{self._number:06X}"
        body = device_report(header, person, self._visit, eui64, _MOMENT_US, values)
        body = body.replace(b"%", b"%%").replace(_CONTROL.encode(), b"%(id)b")
        body = body.replace(timestamp(_MOMENT_US).encode(), b"%(at)b")
        for place in range(len(METRICS)):
            body = body.replace(b"VALUE%02d" % place, b"%%(%d)b" % place)
        return body

    def message(self, at_us: int) -> tuple[str, bytes]:
        """Return the next message's control id and bytes, sampled at `at_us`."""
        control_id = f"L{self._number:05d}-{run_code(self.admitted_at_us)}-{self._sent:06d}"
        self._sent += 1
        hours = (at_us - self.admitted_at_us) / 3.6e9
        condition: Condition = self._wander.around(self._course.at(hours, 12.0), hours)
        fields: dict[bytes, bytes] = {b"id": control_id.encode(), b"at": timestamp(at_us).encode()}
        for place, key in enumerate(METRICS):
            fields[b"%d" % place] = b"%.*f" % (DEVICE_METRICS[key].decimals, READINGS[key](condition))
        return control_id, self._template % fields


@dataclass(slots=True)
class LoadReport:
    """What was sent, and how well the generator kept its own schedule."""

    transcript: Transcript = field(default_factory=Transcript)
    intended_ns: dict[str, int] = field(default_factory=dict)  # control id -> when it was due, monotonic nanoseconds
    messages: int = 0
    values: int = 0
    started_ns: int = 0
    ended_ns: int = 0

    def lateness_s(self) -> list[float]:
        """Return, sorted, how long after its due time each message went out: a saturated receiver shows here."""
        sent = self.transcript.sent_ns()
        return sorted((sent[key] - due) / 1e9 for key, due in self.intended_ns.items() if sent.get(key))


async def run_load(
    adt_address: tuple[str, int],
    monitor_address: tuple[str, int],
    *,
    beds: int,
    seconds: float,
    interval_s: float = 1.0,
    connections: int = 8,
    window: int = 64,
    seed: int = 1,
    clock: Clock | None = None,
    patience: Patience | None = None,
    drain_timeout_s: float | None = 60.0,
    tls: ssl.SSLContext | None = None,
) -> LoadReport:
    """Admit the beds, send the load, wait for the last ACK.

    Args:
        adt_address: listener for admissions.
        monitor_address: listener for device messages.
        beds: how many beds send.
        seconds: how long each sends.
        interval_s: between two messages of a bed; beds are spread evenly over it.
        connections: how many gateways share the beds; `beds` gives each bed its own connection.
        window: unanswered messages a gateway allows.
        seed: of patients and values.
        clock: whose time the messages carry.
        patience: the senders' timeouts.
        drain_timeout_s: how long to wait for the last ACKs.
        tls: how to speak TLS to the listeners; None sends plain text.

    Raises:
        UnavailableError: a listener is not there.
    """
    clock = clock or SystemClock()
    report = LoadReport()
    admitted_at_us = clock.now_us()
    loads = [BedLoad(number, seed, admitted_at_us) for number in range(beds)]
    async with MllpSender(
        *adt_address, feed="adt", transcript=report.transcript, window=window, patience=patience, tls=tls
    ) as registration:
        await registration.wait_connected(10.0)
        for load in loads:
            await registration.submit(load.admission())
        await registration.drain()
    async with AsyncExitStack() as stack:
        senders = []
        for _ in range(min(connections, beds)):
            sender = MllpSender(
                *monitor_address,
                feed="monitors",
                transcript=report.transcript,
                window=window,
                patience=patience,
                tls=tls,
            )
            senders.append(await stack.enter_async_context(sender))
        for sender in senders:
            await sender.wait_connected(10.0)
        report.started_ns = time.monotonic_ns()
        async with asyncio.TaskGroup() as gateways:
            for place, sender in enumerate(senders):
                share = [(number / beds * interval_s, loads[number]) for number in range(place, beds, len(senders))]
                gateways.create_task(_gateway(sender, share, seconds, interval_s, clock, report))
        for sender in senders:
            await sender.drain(drain_timeout_s)
        report.ended_ns = time.monotonic_ns()
    return report


async def _gateway(
    sender: MllpSender,
    share: Sequence[tuple[float, BedLoad]],
    seconds: float,
    interval_s: float,
    clock: Clock,
    report: LoadReport,
) -> None:
    for turn in range(round(seconds / interval_s)):
        for phase_s, load in share:
            due_ns = report.started_ns + round((turn * interval_s + phase_s) * 1e9)
            wait_s = (due_ns - time.monotonic_ns()) / 1e9
            if wait_s > 0:
                await asyncio.sleep(wait_s)
            control_id, body = load.message(clock.now_us())
            report.intended_ns[control_id] = due_ns
            report.messages += 1
            report.values += len(METRICS)
            await sender.submit(body)
