"""The sender against a receiver that forgets, stalls, hangs up, refuses and restarts."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from hospital.sender import Delivery, MllpSender, Patience, Transcript, control_id_of
from vocabulary.errors import UnavailableError

QUICK = Patience(acknowledgement_s=0.15, connect_s=1.0, backoff_first_s=0.01, backoff_most_s=0.05)


def message(number: int) -> bytes:
    return f"MSH|^~\\&|A|B|C|D|20260101||ORU^R01|M{number}|P|2.6\rOBX|1\r".encode()


async def send_all(port: int, count: int, *, window: int = 1) -> Transcript:
    transcript = Transcript()
    async with MllpSender("127.0.0.1", port, feed="x", transcript=transcript, window=window, patience=QUICK) as sender:
        for number in range(count):
            await sender.submit(message(number))
        assert await sender.drain(10)
    return transcript


async def test_every_message_is_sent_once_and_in_order_when_answered(receiver) -> None:
    transcript = await send_all(receiver.port, 50, window=8)
    assert receiver.bodies == [message(number) for number in range(50)]
    assert [delivery.attempts for delivery in transcript] == [1] * 50
    assert transcript.codes() == {"AA": 50}
    assert all(delivery.first_sent_ns <= delivery.acknowledged_ns for delivery in transcript)


async def test_the_same_bytes_are_sent_again_when_the_ack_is_lost(receiver, acknowledgement) -> None:
    receiver.answer = lambda number, body: None if number == 3 else acknowledgement(body)
    transcript = await send_all(receiver.port, 5)
    assert receiver.bodies == [message(0), message(1), message(2), message(2), message(3), message(4)]
    assert [delivery.attempts for delivery in transcript] == [1, 1, 2, 1, 1]
    assert transcript.reconnections == 1
    assert len(transcript.accepted()) == 5


async def test_everything_in_the_window_is_sent_again_in_order_after_a_hang_up(receiver) -> None:
    receiver.hang_up_after = {4}
    transcript = await send_all(receiver.port, 10, window=3)
    first = [message(number) for number in range(4)]
    assert receiver.bodies[:4] == first
    # The fourth was received but never answered, so it comes again, and nothing is skipped or reordered.
    assert receiver.bodies[4:] == [message(number) for number in range(3, 10)]
    assert len(transcript.accepted()) == 10


async def test_a_refusal_is_an_answer_and_is_not_repeated(receiver, acknowledgement) -> None:
    receiver.answer = lambda number, body: acknowledgement(body, "AR" if number == 2 else "AA")
    transcript = await send_all(receiver.port, 3)
    assert [delivery.code for delivery in transcript] == ["AA", "AR", "AA"]
    assert [delivery.control_id for delivery in transcript.refused()] == ["M1"]
    assert len(receiver.bodies) == 3


async def test_answers_out_of_order_are_matched_by_control_id(receiver, acknowledgement) -> None:
    held: list[bytes] = []

    def reversed_pairs(number: int, body: bytes) -> bytes | None:
        held.append(body)
        if number % 2:
            return None
        second, first = held.pop(), held.pop()
        return acknowledgement(second, "CA") + b"\x1c\r\x0b" + acknowledgement(first, "AA")

    receiver.answer = reversed_pairs
    transcript = await send_all(receiver.port, 6, window=2)
    assert [delivery.code for delivery in transcript] == ["AA", "CA"] * 3


async def test_an_answer_without_control_id_means_the_message_without_one(receiver, acknowledgement) -> None:
    receiver.answer = lambda _, body: acknowledgement(body, "AR", "") if body == b"rubbish" else acknowledgement(body)
    transcript = Transcript()
    async with MllpSender("127.0.0.1", receiver.port, feed="x", transcript=transcript, window=3, patience=QUICK) as s:
        for body in (message(0), b"rubbish", message(1)):
            await s.submit(body)
        assert await s.drain(5)
    assert [delivery.code for delivery in transcript] == ["AA", "AR", "AA"]


async def test_an_answer_that_reads_a_damaged_header_differently_still_counts(receiver, acknowledgement) -> None:
    receiver.answer = lambda _, body: acknowledgement(body, "AE", "GUESS")
    transcript = Transcript()
    async with MllpSender("127.0.0.1", receiver.port, feed="x", transcript=transcript, patience=QUICK) as sender:
        assert (await sender.send(b"M\x00H|^~\\&|")).code == "AE"


async def test_an_answer_to_nothing_is_counted_and_ignored(receiver, acknowledgement) -> None:
    receiver.answer = lambda _, body: acknowledgement(body, "AA", "OTHER") + b"\x1c\r\x0b" + acknowledgement(body)
    transcript = await send_all(receiver.port, 2)
    assert transcript.unmatched_answers == 2
    assert len(transcript.accepted()) == 2


async def test_a_sender_survives_restarts_of_its_receiver(receiver) -> None:
    transcript = Transcript()
    async with MllpSender(
        "127.0.0.1", receiver.port, feed="x", transcript=transcript, window=4, patience=QUICK
    ) as sender:

        async def feed() -> None:
            for number in range(200):
                await sender.submit(message(number))

        feeding = asyncio.create_task(feed())
        for _ in range(3):
            target = len(receiver.bodies) + 20
            await receiver.wait_for(target)
            await receiver.stop()
            await asyncio.sleep(0.05)
            await receiver.start()
        await feeding
        assert await sender.drain(10)
    assert transcript.reconnections >= 3
    assert len(transcript.accepted()) == 200
    received = [control_id_of(body) for body in receiver.bodies]
    assert set(received) == {f"M{number}" for number in range(200)}
    first_seen = list(dict.fromkeys(received))
    assert first_seen == [f"M{number}" for number in range(200)]
    assert sum(delivery.attempts for delivery in transcript) >= len(received)


async def test_the_window_bounds_what_is_unanswered(receiver) -> None:
    receiver.answer = lambda _, __: None
    transcript = Transcript()
    slow = Patience(acknowledgement_s=30)
    async with MllpSender("127.0.0.1", receiver.port, feed="x", transcript=transcript, window=3, patience=slow) as s:
        futures = [await s.submit(message(number)) for number in range(3)]
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await s.submit(message(3))
        assert not await s.drain(0.05)
    assert len(receiver.bodies) == 3
    assert len(transcript.unanswered()) == 3
    assert all(future.cancelled() for future in futures)


async def test_a_missing_listener_is_a_named_error_that_says_what_to_do(receiver) -> None:
    await receiver.stop()
    async with MllpSender("127.0.0.1", receiver.port, feed="x", transcript=Transcript(), patience=QUICK) as sender:
        with pytest.raises(UnavailableError, match=f"127.0.0.1:{receiver.port}.*is Vigil up"):
            await sender.wait_connected(0.1)
    await receiver.start()  # for the fixture to stop


async def test_a_send_returns_its_own_delivery(receiver) -> None:
    transcript = Transcript()
    async with MllpSender("127.0.0.1", receiver.port, feed="x", transcript=transcript, patience=QUICK) as sender:
        delivery: Delivery = await sender.send(message(7))
    assert delivery.control_id == "M7"
    assert delivery.is_accepted
    assert delivery.answer.startswith(b"MSH")


def test_a_window_below_one_is_refused() -> None:
    make: Callable[[], MllpSender] = lambda: MllpSender("h", 1, feed="x", transcript=Transcript(), window=0)  # noqa: E731
    with pytest.raises(ValueError, match="found 0"):
        make()
