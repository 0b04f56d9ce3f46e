"""Messages that decode and yet could stop the log for ever: each is taken or held, and what follows it is not lost."""

from __future__ import annotations

import random
import string

import pytest

from stores import partition_log
from stores.database import connect, transaction
from twin import forecast
from vocabulary.snapshot import from_bytes

SECOND = 1_000_000
HOUR = 3600 * SECOND
BEFORE_1970_US = -(5 * 365 * 24 * HOUR)


def _noise(length: int) -> str:
    """Text that no compression makes smaller."""
    return "".join(random.Random(length).choices(string.ascii_letters + string.digits, k=length))


def _pulses(hospital, at_us, count, **more):
    return [hospital.result("8867-4", f"{60 + n % 40}", "/min", at_us=at_us, sub_id=f"{n}", **more) for n in range(count)]


HOSTILE = {
    "a stay and a value before 1970": lambda h, now: [
        h.adt("A01", "2", "B", at_us=BEFORE_1970_US),
        h.heart_rate("2", 70, at_us=BEFORE_1970_US + HOUR),
    ],
    "a minute of more values than a small number can count": lambda h, now: [
        h.report("1", *_pulses(h, now, 33_000), application="MON")
    ],
    "a number of a person longer than an index can hold": lambda h, now: [
        h.adt("A01", _noise(9000), "C", at_us=now - HOUR)
    ],
    "a bed longer than an index can hold": lambda h, now: [h.adt("A01", "3", _noise(9000), at_us=now - HOUR)],
    "a ward longer than an index can hold": lambda h, now: [
        h.adt("A01", "4", "D", at_us=now - HOUR, ward=_noise(9000))
    ],
    "a sender longer than an index can hold": lambda h, now: [
        h.heart_rate("1", 70, at_us=now - SECOND).replace(b"|MON|", f"|{_noise(9000)}|".encode(), 1)
    ],
    "an unknown number longer than an index can hold": lambda h, now: [
        h.heart_rate(_noise(9000), 70, at_us=now - SECOND)
    ],
    "more numbers to wait for than an index can hold": lambda h, now: [
        h.heart_rate("404", 70, at_us=now - SECOND).replace(
            b"|404^^^H", "|".encode() + "~".join(f"{_noise(100 + n)}^^^H" for n in range(60)).encode(), 1
        )
    ],
    "a device with a long name": lambda h, now: [
        h.heart_rate("1", 70, at_us=now - SECOND).replace(b"\rOBX|1|", b"\rOBX|1|", 1).rstrip(b"\r").rstrip(b"|")
        + b"||||" + _noise(70_000).encode() + b"\r"
    ],
    "ten thousand values long ago": lambda h, now: [
        h.report("1", *[h.result("8867-4", "80", "/min", at_us=now - HOUR + n * SECOND) for n in range(3000)])
    ],
    "a number beyond all units": lambda h, now: [
        h.report("1", h.result("2345-7", "9" * 30 + "e99", "mg/dL", at_us=now - SECOND)),
        h.report("1", h.result("8867-4", "1e-99", "/min", at_us=now - SECOND)),
    ],
    "a header of 2999": lambda h, now: [
        h.heart_rate("1", 70, at_us=now - SECOND).replace(b"|ORU^R01", b"29991231235959-1500||ORU^R01", 1)
    ],
}


@pytest.mark.parametrize("name", HOSTILE)
async def test_it_does_not_stop_the_log(name, simulation, live_plane, new_database, tmp_path):
    settings = live_plane.settings_for(tmp_path, "postgresql://unused", "nats://unused")
    log = simulation.Log()
    hospital = live_plane.Hospital(lambda: log.now_us)
    log.append("adt", [hospital.adt("A01", "1", "A", at_us=log.now_us - 2 * HOUR)])
    log.append("monitors", HOSTILE[name](hospital, log.now_us))
    log.append("monitors", [hospital.heart_rate("1", 91, at_us=log.now_us)])
    log.now_us += 90 * SECOND
    log.tick()
    url = new_database()
    run = simulation.Run(log, settings, url, forecast.open_forecaster(settings), 1)
    connection = await connect(url, application_name="test")
    try:
        await run.play(largest=1)
        async with transaction(connection):
            assert (await partition_log.unfolded(connection)).messages == 0
        rates = [s.value for body in run.last.values() for s in from_bytes(body).signals if s.concept == "heart_rate"]
        assert 91.0 in rates, "the good message that followed"
    finally:
        await run.close()
        await connection.close()
