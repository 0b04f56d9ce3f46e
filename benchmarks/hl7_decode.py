"""How fast HL7 v2 is decoded, beside python-hl7 and hl7apy, on one core.

Here: a ward's worth of different PCD-01 `ORU^R01` messages of 12 OBX (about 2 kB), decoded in turn by all three.
Not here: sockets and framing (benchmarks.live).
Source: field-notes A1; peers `hl7` and `hl7apy` from PyPI.

Every peer must give the same (code, value, unit, time) for every value first; a peer is timed over parse and
extraction of these, ours over a whole `decode` (header, patient, visit and every field of every reading).
`python -m benchmarks.hl7_decode [--reps 9]`
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

import hl7
from hl7apy import consts
from hl7apy.parser import parse_message

from interop import hl7v2

Extracted = list[tuple[str, float, str, int]]
BEDS = 200
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
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


def messages(count: int, seed: int) -> list[bytes]:
    """Return `count` messages, each of another bed with its own patient, values, device and second."""
    draw = random.Random(seed)
    start = datetime(2026, 3, 1, 6, 0, tzinfo=UTC)
    return [_message(bed, start + timedelta(seconds=bed // 3), draw) for bed in range(count)]


def _message(bed: int, at: datetime, draw: random.Random) -> bytes:
    stamp = f"{at:%Y%m%d%H%M%S}+0000"
    device = f"0012210000{bed:06X}"
    lines = [
        f"MSH|^~\\&|MONITOR^{device}^EUI-64|WARD {bed % 9}|||{stamp}||ORU^R01^ORU_R01|{bed:06d}{at:%H%M%S}|P|2.6|||AL|NE||"
        "UNICODE UTF-8|||IHE_PCD_001^IHE PCD^1.3.6.1.4.1.19376.1.6.1.1.1^ISO",
        f"PID|||{100000 + bed}^^^HOSPITAL^MR||Family{bed}^Given{bed}^^^^^L||19{10 + bed % 80}0{1 + bed % 9}15|{'MF'[bed % 2]}",
        f"PV1||I|ICU{bed % 9}^{bed}^A^GENERAL",
        f"OBR|1|{bed}^MONITOR^{device}^EUI-64|{bed}^MONITOR^{device}^EUI-64|182777000^monitoring of patient^SCT|||{stamp}",
    ]
    for number, (code, name, unit, unit_name, low, high, digits) in enumerate(_SIGNALS, 1):
        value = f"{draw.uniform(low, high):.{digits}f}"
        lines.append(
            f"OBX|{number}|NM|{code}^{name}^MDC|1.{number}.1.{code}|{value}|{unit}^{unit_name}^MDC|||||R|||{stamp}||||"
            f"{device}^MONITOR"
        )
    return ("\r".join(lines) + "\r").encode()


def ours(body: bytes) -> Extracted:
    decoded = hl7v2.decode(body, UTC)
    assert isinstance(decoded, hl7v2.Message)
    return [
        (reading.code, float(reading.value), reading.unit, reading.effective_at_us or 0) for reading in decoded.readings
    ]


def ours_whole(body: bytes) -> object:
    return hl7v2.decode(body, UTC)


def _instant(text: str) -> int:
    return (datetime.strptime(text, "%Y%m%d%H%M%S%z") - _EPOCH) // timedelta(microseconds=1)


def python_hl7_raw(body: bytes) -> list[tuple[str, float, str, str]]:
    parsed = hl7.parse(body.decode())
    return [
        (str(obx[3][0][0]), float(str(obx[5][0])), str(obx[6][0][0]), str(obx[14][0])) for obx in parsed.segments("OBX")
    ]


def hl7apy_raw(body: bytes) -> list[tuple[str, float, str, str]]:
    parsed = parse_message(body.decode(), validation_level=consts.VALIDATION_LEVEL.TOLERANT, find_groups=False)
    return [
        (
            obx.obx_3.obx_3_1.to_er7(),
            float(obx.obx_5.to_er7()),
            obx.obx_6.obx_6_1.to_er7(),
            obx.obx_14.to_er7(),
        )
        for obx in parsed.children
        if obx.name == "OBX"
    ]


def seconds_each(work: Callable[[bytes], object], bodies: Sequence[bytes]) -> float:
    """Return the mean time of one call."""
    started = time.perf_counter()
    for body in bodies:
        work(body)
    return (time.perf_counter() - started) / len(bodies)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("--reps", type=int, default=9, help="interleaved repetitions; the median counts")
    reps = parser.parse_args().reps
    bodies = messages(BEDS, seed=7)

    checked = 0
    for position, body in enumerate(bodies):
        expected = ours(body)
        assert len(expected) == len(_SIGNALS)
        peers = [python_hl7_raw] + ([hl7apy_raw] if position < 10 else [])
        for peer in peers:
            found = [(code, value, unit, _instant(at)) for code, value, unit, at in peer(body)]
            assert found == expected, (peer.__name__, position)
            checked += len(found)

    times: dict[str, list[float]] = {"ours": [], "python-hl7": [], "hl7apy": []}
    for _ in range(reps):
        gc.collect()
        times["ours"].append(seconds_each(ours_whole, bodies * 5))
        times["python-hl7"].append(seconds_each(python_hl7_raw, bodies[:60]))
        times["hl7apy"].append(seconds_each(hl7apy_raw, bodies[:3]))
    median = {name: statistics.median(values) for name, values in times.items()}
    ratios = {
        name: statistics.median(peer / own for peer, own in zip(times[name], times["ours"], strict=True))
        for name in times
    }

    print(f"ORU^R01, 12 OBX, {statistics.mean(map(len, bodies)):.0f} bytes, {BEDS} different messages, {reps} reps")
    print(f"all agree on {checked} (code, value, unit, time)\n")
    print(f"{'decoder':<12}{'messages/s':>12}{'us each':>10}{'ours / it':>11}")
    for name, each in median.items():
        print(f"{name:<12}{1 / each:>12,.0f}{each * 1e6:>10,.1f}{ratios[name]:>11,.1f}")
    result = {
        "ratio": round(ratios["python-hl7"], 1),
        "hl7apy_ratio": round(ratios["hl7apy"], 1),
        "messages_per_s": round(1 / median["ours"]),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
