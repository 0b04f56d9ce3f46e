"""Plays messages to a receiver on a scaled clock: one connection a feed, in order, as a hospital's systems would.

Here: pacing, one sender a feed, waiting for the last ACK, progress.
Not here: what is said (hospital.ward, hospital.stays), retransmission (hospital.sender).
Feeds are independent, as in a real hospital: without `is_causal` a value may overtake its patient's admission.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import AsyncExitStack
from typing import NamedTuple

from hospital.outgoing import Timed
from hospital.sender import Delivery, MllpSender, Patience, Transcript
from vocabulary.clock import ScaledClock
from vocabulary.errors import ConfigurationError

QUEUE_MESSAGES = 1_000
"""How far one feed may run ahead of another that is not answered."""
PROGRESS_EVERY_S = 0.5

Address = tuple[str, int]


class Progress(NamedTuple):
    """How far the play is."""

    queued: int
    answered: int
    at_us: int  # due time of the last message queued
    late_s: float  # how far behind the clock it was queued, real seconds; 0 when on time


class _Entry(NamedTuple):
    timed: Timed
    answered: asyncio.Event | None


async def play(
    messages: Iterable[Timed],
    addresses: Mapping[str, Address],
    *,
    clock: ScaledClock | None = None,
    window: int = 8,
    is_causal: bool = False,
    patience: Patience | None = None,
    transcript: Transcript | None = None,
    progress: Callable[[Progress], None] | None = None,
    stop: asyncio.Event | None = None,
    connect_timeout_s: float = 10.0,
    drain_timeout_s: float | None = None,
    tls: ssl.SSLContext | None = None,
) -> Transcript:
    """Send messages in order of time, each to its feed's listener; return when all are answered.

    Args:
        messages: in order of `at_us`.
        addresses: host and port of each feed's listener.
        clock: says when each is due; None sends as fast as they are acknowledged.
        window: how many messages a feed may have unanswered.
        is_causal: wait for each ADT's ACK before anything later is sent.
        patience: the senders' timeouts.
        transcript: to go on with; a new one otherwise.
        progress: called about twice a second and at the end.
        stop: when set, nothing more is sent.
        connect_timeout_s: how long to wait for each listener at the start.
        drain_timeout_s: how long to wait for the last ACKs; None for ever.
        tls: how to speak TLS to the listeners; None sends plain text.

    Raises:
        ConfigurationError: a message of a feed without an address.
        UnavailableError: a listener is not there at the start.
    """
    transcript = Transcript() if transcript is None else transcript
    teller = _Teller(transcript, progress)
    async with AsyncExitStack() as stack:
        senders: dict[str, MllpSender] = {}
        for feed, (host, port) in addresses.items():
            sender = MllpSender(host, port, feed=feed, transcript=transcript, window=window, patience=patience, tls=tls)
            senders[feed] = await stack.enter_async_context(sender)
        for sender in senders.values():
            await sender.wait_connected(connect_timeout_s)
        queues: dict[str, asyncio.Queue[_Entry | None]] = {feed: asyncio.Queue(QUEUE_MESSAGES) for feed in senders}
        async with asyncio.TaskGroup() as pumps:
            for feed, sender in senders.items():
                pumps.create_task(_pump(sender, queues[feed]))
            for timed in messages:
                if timed.feed not in queues:
                    raise ConfigurationError(f"no address for feed {timed.feed!r}: known are {sorted(queues)}")
                await _wait_until(timed.at_us, clock, teller, stop)
                if stop is not None and stop.is_set():
                    break
                is_waited_for = is_causal and timed.feed == "adt"
                entry = _Entry(timed, asyncio.Event() if is_waited_for else None)
                await queues[timed.feed].put(entry)
                teller.tell(timed.at_us, clock)
                if entry.answered is not None:
                    await entry.answered.wait()
            for queue in queues.values():
                await queue.put(None)
        for sender in senders.values():
            await sender.drain(drain_timeout_s)
    teller.finish()
    return transcript


async def _pump(sender: MllpSender, queue: asyncio.Queue[_Entry | None]) -> None:
    while (entry := await queue.get()) is not None:
        future = await sender.submit(entry.timed.body)
        if entry.answered is not None:
            future.add_done_callback(_setting(entry.answered))


def _setting(event: asyncio.Event) -> Callable[[asyncio.Future[Delivery]], None]:
    return lambda _: event.set()


async def _wait_until(at_us: int, clock: ScaledClock | None, teller: _Teller, stop: asyncio.Event | None) -> None:
    while clock is not None and (left_s := clock.real_seconds_until(at_us)) > 0:
        if stop is not None and stop.is_set():
            return
        await asyncio.sleep(min(left_s, PROGRESS_EVERY_S))
        teller.repeat()


class _Teller:
    """Calls the progress function, not too often."""

    def __init__(self, transcript: Transcript, progress: Callable[[Progress], None] | None) -> None:
        self._transcript, self._progress = transcript, progress
        self._queued, self._at_us, self._late_s = 0, 0, 0.0
        self._told_ns = 0

    def tell(self, at_us: int, clock: ScaledClock | None) -> None:
        self._queued += 1
        self._at_us = at_us
        self._late_s = 0.0 if clock is None else max(0.0, -clock.real_seconds_until(at_us))
        self.repeat()

    def repeat(self) -> None:
        if time.monotonic_ns() - self._told_ns > PROGRESS_EVERY_S * 1e9:
            self.finish()

    def finish(self) -> None:
        self._told_ns = time.monotonic_ns()
        if self._progress is not None:
            answered = sum(1 for delivery in self._transcript if delivery.is_answered)
            self._progress(Progress(self._queued, answered, self._at_us, self._late_s))
