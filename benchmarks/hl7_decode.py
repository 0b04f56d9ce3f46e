"""How fast HL7 v2 is decoded, beside python-hl7 and hl7apy, on one core.

Here: a ward of 200 monitors that each send one PCD-01 `ORU^R01` of 12 OBX (about 2 kB) a second; all three decoders
take them in turn. Patients, devices and beds repeat from second to second as on a ward; times are new in every message
and values are drawn anew.
Not here: sockets and framing (benchmarks.live).
Source: field-notes A1; peers `hl7` and `hl7apy` from PyPI.

Same fields out: a peer is timed over parsing and extracting control id, patient id and of each value code, code
system, value, unit, unit system, time (as an instant), status, sub-id and device. Ours is timed over a whole `decode`,
which gives these and the rest of the header, patient, visit and order. All must agree before anything is timed.
`python -m benchmarks.hl7_decode [--reps 15]`
"""

from __future__ import annotations

import argparse
import gc
import json
import random
import statistics
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

import hl7
from hl7apy import consts
from hl7apy.parser import parse_message

from interop import hl7v2

BEDS = 200
SECONDS = 5
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_START = datetime(2026, 3, 1, 6, 0, tzinfo=UTC)
_SIGNALS = (
    ("147842", "MDC_ECG_HEART_RATE", "264864", "MDC_DIM_BEAT_PER_MIN", 40, 140, 0),
    ("150456", "MDC_PULS_OXIM_SAT_O2", "262688", "MDC_DIM_PERCENT", 85, 100, 0),
    ("149530", "MDC_PULS_OXIM_PULS_RATE", "264864", "MDC_DIM_BEAT_PER_MIN", 40, 140, 0),
    ("151562", "MDC_RESP_RATE", "264928", "MDC_DIM_RESP_PER_MIN", 8, 40, 0),
    ("150033", "MDC_PRESS_BLD_ART_SYS", "266016", "MDC_DIM_MMHG", 80, 180, 0),
    ("150034", "MDC_PRESS_BLD_ART_DIA", "266016", "MDC_DIM_MMHG", 40, 110, 0),
    ("150035", "MDC_PRESS_BLD_ART_MEAN", "266016", "MDC_DIM_MMHG", 55, 130, 0),
    ("150344", "MDC_TEMP", "268192", "MDC_DIM_DEGC", 35, 41, 1),
    ("150488", "MDC_BLD_PERF_INDEX", "262688", "MDC_DIM_PERCENT", 0, 9, 2),
    ("150087", "MDC_PRESS_BLD_VEN_CENT_MEAN", "266016", "MDC_DIM_MMHG", 2, 18, 0),
    ("151708", "MDC_CONC_AWAY_CO2_ET", "266016", "MDC_DIM_MMHG", 25, 55, 1),
    ("152004", "MDC_PRESS_AWAY_END_EXP_POS", "266048", "MDC_DIM_CM_H2O", 4, 15, 1),
)


class Value(NamedTuple):
    """The fields of one OBX that all three decoders give."""

    code: str
    code_system: str
    value: float
    unit: str
    unit_system: str
    effective_at: datetime
    status: str
    sub_id: str
    device: str


class Extract(NamedTuple):
    """The fields of one message that all three decoders give."""

    control_id: str
    patient: str
    values: list[Value]


def ward(start: datetime, seconds: int, draw: random.Random) -> list[bytes]:
    """Return what all monitors of the ward send in some seconds, second by second."""
    return [_message(bed, start + timedelta(seconds=second), draw) for second in range(seconds) for bed in range(BEDS)]


def _message(bed: int, at: datetime, draw: random.Random) -> bytes:
    stamp = f"{at:%Y%m%d%H%M%S}+0000"
    device = f"0012210000{bed:06X}"
    order = f"{device}{at:%Y%m%d%H%M%S}^MONITOR^{device}^EUI-64"
    msh = (
        f"MSH|^~\\&|MONITOR^{device}^EUI-64|WARD {bed % 9}|||{stamp}||ORU^R01^ORU_R01|{bed:06d}{at:%H%M%S}|P|2.6"
        "|||AL|NE||UNICODE UTF-8|||IHE_PCD_001^IHE PCD^1.3.6.1.4.1.19376.1.6.1.1.1^ISO"
    )
    pid = (
        f"PID|||{100000 + bed}^^^HOSPITAL^MR||Family{bed}^Given{bed}^^^^^L"
        f"||19{10 + bed % 80}0{1 + bed % 9}15|{'MF'[bed % 2]}"
    )
    lines = [msh, pid, f"PV1||I|ICU{bed % 9}^{bed}^A^GENERAL"]
    lines.append(f"OBR|1|{order}|{order}|182777000^monitoring of patient^SCT|||{stamp}")
    for number, (code, name, unit, unit_name, low, high, digits) in enumerate(_SIGNALS, 1):
        value = f"{draw.uniform(low, high):.{digits}f}"
        lines.append(
            f"OBX|{number}|NM|{code}^{name}^MDC|1.{number}.1.{code}|{value}|{unit}^{unit_name}^MDC|||||R|||{stamp}||||"
            f"{device}^MONITOR"
        )
    return ("\r".join(lines) + "\r").encode()


def ours(body: bytes) -> hl7v2.Message:
    decoded = hl7v2.decode(body, UTC)
    assert isinstance(decoded, hl7v2.Message)
    return decoded


def extract_of(message: hl7v2.Message) -> Extract:
    assert message.patient is not None
    values = [
        Value(
            reading.code,
            reading.code_system,
            float(reading.value),
            reading.unit,
            reading.unit_system,
            _EPOCH + timedelta(microseconds=reading.effective_at_us or 0),
            reading.status,
            reading.sub_id,
            reading.device,
        )
        for reading in message.readings
    ]
    return Extract(message.header.control_id, message.patient.identifiers[0].value, values)


def python_hl7(body: bytes) -> Extract:
    parsed = hl7.parse(body.decode())
    values = []
    for obx in parsed.segments("OBX"):
        code, unit = obx[3][0], obx[6][0]
        values.append(
            Value(
                code[0][0],
                code[2][0],
                float(obx[5][0]),
                unit[0][0],
                unit[2][0],
                hl7.parse_datetime(obx[14][0]),
                obx[11][0],
                obx[4][0],
                obx[18][0][0][0],
            )
        )
    return Extract(parsed.segment("MSH")[10][0], parsed.segment("PID")[3][0][0][0], values)


def hl7apy(body: bytes) -> Extract:
    parsed = parse_message(body.decode(), validation_level=consts.VALIDATION_LEVEL.TOLERANT, find_groups=False)
    values = [
        Value(
            obx.obx_3.obx_3_1.to_er7(),
            obx.obx_3.obx_3_3.to_er7(),
            float(obx.obx_5.to_er7()),
            obx.obx_6.obx_6_1.to_er7(),
            obx.obx_6.obx_6_3.to_er7(),
            datetime.strptime(obx.obx_14.to_er7(), "%Y%m%d%H%M%S%z"),
            obx.obx_11.to_er7(),
            obx.obx_4.to_er7(),
            obx.obx_18.obx_18_1.to_er7(),
        )
        for obx in parsed.obx
    ]
    return Extract(parsed.msh.msh_10.to_er7(), parsed.pid.pid_3.pid_3_1.to_er7(), values)


def seconds_each(work: Callable[[bytes], object], bodies: Sequence[bytes]) -> float:
    """Return the mean processor time of one call: what it costs a core, whatever else the machine does."""
    gc.collect()
    started = time.process_time()
    for body in bodies:
        work(body)
    return (time.process_time() - started) / len(bodies)


def main() -> None:
    parser = argparse.ArgumentParser(description="HL7 v2 decoding beside python-hl7 and hl7apy")
    parser.add_argument("--reps", type=int, default=15, help="interleaved repetitions; the median counts")
    reps = parser.parse_args().reps
    draw = random.Random(7)

    sample = ward(_START, 1, draw)
    checked = 0
    for position, body in enumerate(sample):
        expected = extract_of(ours(body))
        for peer in (python_hl7, hl7apy) if position < 10 else (python_hl7,):
            assert peer(body) == expected, (peer.__name__, position)
            checked += len(expected.values)

    times: dict[str, list[float]] = {"ours": [], "python-hl7": [], "hl7apy": []}
    for rep in range(reps):
        bodies = ward(_START + timedelta(seconds=SECONDS * (rep + 1)), SECONDS, draw)
        times["ours"].append(seconds_each(ours, bodies))
        times["python-hl7"].append(seconds_each(python_hl7, bodies[:60]))
        times["hl7apy"].append(seconds_each(hl7apy, bodies[:3]))
    median = {name: statistics.median(values) for name, values in times.items()}
    ratios = {
        name: statistics.median(peer / own for peer, own in zip(times[name], times["ours"], strict=True))
        for name in times
    }

    print(f"ORU^R01 of {len(_SIGNALS)} OBX, {statistics.mean(map(len, sample)):.0f} bytes, {BEDS} beds, {reps} reps")
    print(f"all decoders agree on {checked} values x {len(Value._fields)} fields\n")
    print(f"{'decoder':<12}{'messages/s':>12}{'us each':>10}{'ratio':>9}")
    for name, each in median.items():
        print(f"{name:<12}{1 / each:>12,.0f}{each * 1e6:>10,.1f}{ratios[name]:>9,.1f}")
    result = {
        "ratio": round(ratios["python-hl7"], 1),
        "hl7apy_ratio": round(ratios["hl7apy"], 1),
        "messages_per_s": round(1 / median["ours"]),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
