"""Playing, load and the command, against real sockets."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections import Counter
from pathlib import Path

import hl7
import pytest

from hospital.load import METRICS, BedLoad, run_load
from hospital.outgoing import Timed
from hospital.play import Progress, play
from hospital.sender import Patience, control_id_of
from hospital.ward import Ward
from vocabulary.clock import ManualClock, ScaledClock
from vocabulary.errors import ConfigurationError, UnavailableError

START_US = 1_767_225_600_000_000
QUICK = Patience(acknowledgement_s=0.5, backoff_first_s=0.01)


def addresses(receivers) -> dict[str, tuple[str, int]]:
    return {feed: ("127.0.0.1", receiver.port) for feed, receiver in receivers.items()}


def timed(number: int, feed: str, at_s: float = 0.0) -> Timed:
    body = f"MSH|^~\\&|A|B|C|D|20260101||X^Y|{feed}{number}|P|2.6\r".encode()
    return Timed(START_US + round(at_s * 1e6), feed, f"{feed}{number}", body, "")


async def test_a_ward_arrives_whole_and_in_order_on_each_feed(receivers) -> None:
    told = list(Ward(6, 4).messages(START_US, 2))
    progress: list[Progress] = []
    transcript = await play(told, addresses(receivers), patience=QUICK, progress=progress.append)
    for feed, receiver in receivers.items():
        assert receiver.bodies == [m.body for m in told if m.feed == feed]
    assert len(transcript.accepted()) == len(told)
    assert progress[-1].queued == progress[-1].answered == len(told)


async def test_messages_wait_for_their_time_on_a_scaled_clock(receivers) -> None:
    base = time.time_ns() // 1000
    clock = ScaledClock(START_US, base, 100.0)
    told = [timed(number, "lab", at_s=number * 5.0) for number in range(7)]  # 30 s of the ward, 0.3 s of ours
    started = time.monotonic()
    transcript = await play(told, addresses(receivers), clock=clock)
    assert 0.29 <= time.monotonic() - started < 3.0
    gaps = [b.first_sent_ns - a.first_sent_ns for a, b in zip(transcript, list(transcript)[1:], strict=False)]
    assert min(gaps) > 10_000_000


async def test_a_play_that_is_late_does_not_wait(receivers) -> None:
    clock = ScaledClock(START_US + 10**9, 0, 1.0, ManualClock(0))
    progress: list[Progress] = []
    told = [timed(number, "lab") for number in range(50)]
    await play(told, addresses(receivers), clock=clock, progress=progress.append)
    assert len(receivers["lab"].bodies) == 50
    assert progress[-1].late_s == pytest.approx(1000)


async def test_a_causal_play_waits_for_each_admission(receivers, acknowledgement) -> None:
    lab = receivers["lab"]
    before_admission: list[int] = []

    def answer_slowly(number: int, body: bytes) -> bytes:
        time.sleep(0.05)  # the ACK takes its time; nothing later may have been sent by then
        before_admission.append(len(lab.bodies))
        return acknowledgement(body)

    receivers["adt"].answer = answer_slowly
    told = [timed(0, "adt"), timed(0, "lab"), timed(1, "adt"), timed(1, "lab")]
    await play(told, addresses(receivers), is_causal=True)
    assert before_admission == [0, 1]


async def test_one_silent_feed_does_not_hold_up_another(receivers) -> None:
    receivers["lab"].answer = lambda _, __: None
    stop = asyncio.Event()
    told = [timed(number, feed) for number in range(100) for feed in ("lab", "adt")]
    playing = asyncio.create_task(
        play(told, addresses(receivers), patience=Patience(acknowledgement_s=60), stop=stop, drain_timeout_s=0.1)
    )
    await asyncio.wait_for(receivers["adt"].wait_for(100), 5)
    assert len(receivers["lab"].bodies) <= 8
    playing.cancel()
    await asyncio.wait([playing])


async def test_a_stopped_play_still_waits_for_its_answers(receivers) -> None:
    stop = asyncio.Event()
    clock = ScaledClock(START_US, time.time_ns() // 1000, 1.0)
    told = [timed(0, "lab"), timed(1, "lab", at_s=3600)]
    playing = asyncio.create_task(play(told, addresses(receivers), clock=clock, stop=stop))
    await receivers["lab"].wait_for(1)
    stop.set()
    transcript = await asyncio.wait_for(playing, 5)
    assert [delivery.control_id for delivery in transcript.accepted()] == ["lab0"]


async def test_a_message_for_an_unknown_feed_is_a_named_error(receivers) -> None:
    with pytest.RaisesGroup(ConfigurationError):
        await asyncio.wait_for(play([timed(0, "pacs")], addresses(receivers)), 5)


async def test_a_missing_listener_is_said_at_once(receivers) -> None:
    where = addresses(receivers)
    await receivers["adt"].stop()
    with pytest.raises(UnavailableError):
        await play([timed(0, "adt")], where, connect_timeout_s=0.1)
    await receivers["adt"].start()


def test_a_filled_template_is_a_whole_message_with_twelve_values() -> None:
    load = BedLoad(3, 1, START_US)
    control_id, body = load.message(START_US + 60_123_000)
    parsed = hl7.parse(body.decode())
    assert str(parsed.segment("MSH")[10]) == control_id == control_id_of(body)
    rows = parsed.segments("OBX")
    assert [str(row[2]) for row in rows] == [""] + ["NM"] * 12
    assert {str(row[14]) for row in list(rows)[1:]} == {"20260101000100.123+0000"}
    values = dict(zip(METRICS, (float(str(row[5])) for row in list(rows)[1:]), strict=True))
    assert 40 < values["heart_rate"] < 130
    assert 34 < values["temperature"] < 40
    assert values["arterial_diastolic"] < values["arterial_mean"] < values["arterial_systolic"]
    assert load.message(START_US + 61_000_000)[0] != control_id


async def test_a_load_keeps_its_pace_and_records_when_each_message_went(receivers) -> None:
    report = await run_load(
        ("127.0.0.1", receivers["adt"].port),
        ("127.0.0.1", receivers["monitors"].port),
        beds=20,
        seconds=1.0,
        interval_s=0.25,
        connections=4,
        patience=QUICK,
    )
    assert report.messages == 80
    assert report.values == 960
    assert receivers["monitors"].connections == 4
    assert len(receivers["adt"].bodies) == 20
    sent = report.transcript.sent_ns()
    assert set(report.intended_ns) <= set(sent)
    assert Counter(d.code for d in report.transcript) == {"AA": 100}
    assert all(lateness >= 0 for lateness in report.lateness_s())
    assert (report.ended_ns - report.started_ns) / 1e9 >= 0.9
    spread = sorted(report.intended_ns.values())
    assert spread[-1] - spread[0] == pytest.approx(0.9875e9, rel=0.01)


async def run_command(*arguments: str) -> tuple[int, str, str]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "hospital", *arguments,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE, cwd=Path(__file__).parents[2],
    )  # fmt: skip
    out, err = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()


async def test_the_command_feeds_a_ward(receivers) -> None:
    ports = [text for feed, r in receivers.items() for text in (f"--{feed}", f"127.0.0.1:{r.port}")]
    status, out, _ = await run_command("ward", "--beds", "4", "--hours", "1", "--speed", "100000", *ports)
    summary = json.loads(out)
    assert status == 0
    assert summary["messages"] == summary["accepted"] == sum(len(r.bodies) for r in receivers.values()) > 100


async def test_the_command_says_that_nobody_listens(receivers) -> None:
    ports = [text for feed in receivers for text in (f"--{feed}", "127.0.0.1:9")]
    status, out, err = await run_command("stays", "/nonexistent", *ports)
    assert (status, out) == (3, "")
    assert "does not exist" in err
    assert "Traceback" not in err


async def test_the_command_explains_itself() -> None:
    status, out, _ = await run_command("--help")
    assert status == 0
    assert "ward" in out
    assert "stays" in out
