"""Messages that decode and yet could stop the log for ever: each is taken or held, and what follows it is not lost."""

from __future__ import annotations

import random
import string

import msgspec
import pytest
from pydantic import ValidationError

from stores import ledger, partition_log
from stores.database import connect, consistent_read
from twin import engine, forecast, normalizer
from twin.bus import RawMessage
from vocabulary.errors import BrokenInvariantError
from vocabulary.records import RawItem, RawPack
from vocabulary.settings import FeedSettings
from vocabulary.snapshot import from_bytes

SECOND = 1_000_000
MINUTE = 60 * SECOND
HOUR = 3600 * SECOND
BEFORE_1970_US = -(5 * 365 * 24 * HOUR)


def _noise(length: int) -> str:
    """Text that no compression makes smaller."""
    return "".join(random.Random(length).choices(string.ascii_letters + string.digits, k=length))


def _pulses(hospital, from_us, count):
    """Heart rates of one minute, several at each second."""
    return [
        hospital.result("8867-4", f"{60 + n % 40}", "/min", at_us=from_us + n % 60 * SECOND, sub_id=f"{n}")
        for n in range(count)
    ]


HOSTILE = {
    "a stay and a value before 1970": lambda h, _now: [
        h.adt("A01", "2", "B", at_us=BEFORE_1970_US),
        h.heart_rate("2", 70, at_us=BEFORE_1970_US + HOUR),
    ],
    "a minute of more values than a small number can count": lambda h, now: [
        h.report("1", *_pulses(h, (now // MINUTE - 3) * MINUTE, 33_000), application="MON")
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
            b"|404^^^H", b"|" + "~".join(f"{_noise(100 + n)}^^^H" for n in range(60)).encode(), 1
        )
    ],
    "a device with a long name that nobody is known to wear": lambda h, now: [
        h.report("", h.result("8867-4", "70", "/min", at_us=now), application="MON").replace(
            b"MON|H", f"X^{_noise(9000)}^EUI-64|H".encode(), 1
        )
    ],
    "thousands of values of an hour ago": lambda h, now: [
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


@pytest.fixture
def settings(live_plane, tmp_path):
    return live_plane.settings_for(tmp_path, "postgresql://unused", "nats://unused")


@pytest.fixture
def told(simulation, live_plane):
    """A log in which patient 1 is admitted, and who speaks there."""
    log = simulation.Log()
    hospital = live_plane.Hospital(lambda: log.now_us)
    log.append("adt", [hospital.adt("A01", "1", "A", at_us=log.now_us - 2 * HOUR)])
    return log, hospital


async def play(simulation, settings, url, log, largest=1):
    run = simulation.Run(log, settings, url, forecast.open_forecaster(settings), 1)
    connection = await connect(url, application_name="test")
    try:
        await run.play(largest=largest)
        async with consistent_read(connection):
            books = (await ledger.balance(connection)).total
            unfolded = await partition_log.unfolded(connection)
        assert unfolded == (0, 0)
        for side in (books.messages, books.values):
            assert side.received == side.accepted + side.duplicate + side.quarantined + side.rejected
        return run, books
    finally:
        await run.close()
        await connection.close()


def heart_rates(run):
    return [s.value for body in run.last.values() for s in from_bytes(body).signals if s.concept == "heart_rate"]


@pytest.mark.parametrize("name", HOSTILE)
async def test_it_does_not_stop_the_log(name, simulation, settings, new_database, told):
    log, hospital = told
    log.append("monitors", HOSTILE[name](hospital, log.now_us))
    log.append("monitors", [hospital.heart_rate("1", 91, at_us=log.now_us)])
    log.now_us += 90 * SECOND
    log.tick()
    run, _ = await play(simulation, settings, new_database(), log)
    assert 91.0 in heart_rates(run), "the good message that followed"


async def test_what_is_no_pack_is_itemised_and_the_log_goes_on(simulation, settings, new_database, told):
    log, hospital = told
    for garbage in (b"", b"garbage", b"\x93\x01\x02\x03", b"\xff" * 100):
        log.messages.append(RawMessage(len(log.messages) + 1, garbage))
    log.append("monitors", [hospital.heart_rate("1", 91, at_us=log.now_us)])
    log.now_us += 90 * SECOND
    log.tick()
    run, books = await play(simulation, settings, new_database(), log, largest=9)
    assert 91.0 in heart_rates(run)
    assert (books.messages.received, books.messages.rejected) == (6, 4)


async def test_much_that_waits_in_the_log_is_committed_in_portions(
    simulation, settings, new_database, told, monkeypatch
):
    monkeypatch.setattr(normalizer, "_COMMIT_BYTES", 4_000)
    log, hospital = told
    for n in range(30):
        log.append("monitors", [hospital.heart_rate("1", 60 + n, at_us=log.now_us + n * SECOND)])
    log.now_us += 90 * SECOND
    log.tick()
    sizes = []
    commit = normalizer.Normalizer._commit

    async def counted(self, packs, *more):
        sizes.append(len(packs))
        return await commit(self, packs, *more)

    monkeypatch.setattr(normalizer.Normalizer, "_commit", counted)
    run, books = await play(simulation, settings, new_database(), log, largest=1000)
    assert sum(sizes) == 31
    assert max(sizes) < 15
    assert books.messages.accepted == 31
    assert heart_rates(run) == [89.0]


async def test_days_are_caught_up_with_in_little_memory(simulation, settings, new_database, told, monkeypatch):
    monkeypatch.setattr(engine, "_CATCH_UP_BATCHES", 20)
    log, hospital = told
    for n in range(200):
        log.now_us += MINUTE
        log.append("monitors", [hospital.heart_rate("1", 60 + n % 60, at_us=log.now_us)])
    log.now_us += 90 * SECOND
    log.tick()
    run = simulation.Run(log, settings, new_database(), forecast.open_forecaster(settings), 1)
    await run.open()
    try:
        while run.next < len(log.messages):
            await run.normalize(1)
        most = 0
        while run.is_behind:
            await run.fold(0)
            (patient,) = run.engine.patients.values()
            most = max(most, *(len(signal.entries) for signal in patient.signals.values()))
        assert most <= 30
    finally:
        await run.close()


async def test_a_log_restored_from_an_older_copy_is_refused(simulation, settings, new_database, told):
    log, hospital = told
    for n in range(5):
        log.append("monitors", [hospital.heart_rate("1", 60 + n, at_us=log.now_us)])
    run = simulation.Run(log, settings, new_database(), forecast.open_forecaster(settings), 1)
    await run.open()
    await run.normalize(6)
    await run.close()
    del log.messages[3:]
    with pytest.raises(BrokenInvariantError, match="older copy"):
        await run.open()


async def test_a_hole_in_the_log_is_said(simulation, settings, new_database, told):
    log, hospital = told
    for n in range(5):
        log.append("monitors", [hospital.heart_rate("1", 60 + n, at_us=log.now_us)])
    del log.messages[2:4]
    run = simulation.Run(log, settings, new_database(), forecast.open_forecaster(settings), 1)
    await run.open()
    try:
        await run.normalize(9)
        assert run.normalizer.missing_packs == 2
        assert run.normalizer.messages == 4
    finally:
        await run.close()


@pytest.mark.parametrize("change", [{"name": "control"}, {"name": "tick"}, {"timezone": "Mars/Olympus"}])
def test_a_feed_that_would_be_lost_or_misread_is_refused(change):
    with pytest.raises(ValidationError):
        FeedSettings(**{"name": "lab", **change})


@pytest.mark.parametrize("cut", [{"is_truncated": True}, {"oversize_bytes": 20_000_000}])
async def test_a_piece_of_a_message_is_never_released(cut, simulation, settings, new_database, told):
    """What is cut off in the middle of a number reads as another number."""
    log, hospital = told
    body = hospital.report("1", hospital.result("9269-2", "15", "{score}", at_us=log.now_us), at_us=log.now_us)
    piece = body[: body.index(b"|15|") + 2] + b"|{score}|||||F"  # as if it ended there by chance
    items = [RawItem(log.now_us, 0, "", piece, **cut)]
    log.messages.append(RawMessage(2, msgspec.msgpack.encode(RawPack("cut", "lab", log.now_us, items))))
    command = msgspec.json.encode({"action": "release", "item_ids": [1]})
    log.append("control", [command])
    log.now_us += 90 * SECOND
    log.tick()
    run, books = await play(simulation, settings, new_database(), log)
    assert (books.messages.rejected, books.values.received) == (1, 0)
    assert all(not from_bytes(body).signals for body in run.last.values())
