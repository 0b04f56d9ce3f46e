"""An interface engine's sending side: MLLP over TCP or TLS, with retransmission until every message is answered.

Here: framing, the window of messages in flight, ACK timeouts, reconnection with backoff, and the transcript of it all.
Not here: what the messages say (hospital.messages), when they are due (hospital.play).
A message stays at the head of the queue, the same bytes, until an ACK with its control id arrives; a connection that
stalls or drops is replaced and everything unanswered is sent again in order: at least once, never lost here.
Source: HL7 v2 implementation guide, Minimal Lower Layer Protocol; HL7 v2.5.1 section 2.9 (acknowledgement codes).
"""

from __future__ import annotations

import asyncio
import logging
import ssl
import time
from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass, field

from vocabulary.errors import UnavailableError

START, END, RETURN = b"\x0b", b"\x1c", b"\r"
READ_BYTES = 65_536
log = logging.getLogger(__name__)


def block(body: bytes) -> bytes:
    """Return a message in its MLLP block."""
    return START + body + END + RETURN


def control_id_of(body: bytes) -> str:
    """Return MSH-10 of a message, or "" where there is none."""
    return _field(body, b"MSH", 9)


def _field(body: bytes, segment: bytes, index: int) -> str:
    for line in body.replace(b"\n", b"\r").split(b"\r"):
        if line.startswith(segment) and len(line) > 3:
            parts = line.split(line[3:4])
            return parts[index].decode("utf-8", "replace") if len(parts) > index else ""
    return ""


@dataclass(slots=True, eq=False)
class Delivery:
    """What happened to one message. Times are nanoseconds of the machine's monotonic clock."""

    feed: str
    control_id: str
    body: bytes
    first_sent_ns: int = 0
    last_sent_ns: int = 0
    attempts: int = 0
    acknowledged_ns: int = 0
    code: str = ""  # MSA-1: AA, AE, AR, CA, CE, CR; "" while unanswered
    answer: bytes = b""

    @property
    def is_answered(self) -> bool:
        """Return whether the receiver took responsibility or refused."""
        return bool(self.code)

    @property
    def is_accepted(self) -> bool:
        """Return whether the receiver said it has the message."""
        return self.code in {"AA", "CA"}


@dataclass(slots=True)
class Transcript:
    """Everything that was sent and what was answered: the oracle of what a receiver must account for."""

    deliveries: list[Delivery] = field(default_factory=list)
    reconnections: int = 0
    unmatched_answers: int = 0

    def __iter__(self) -> Iterator[Delivery]:
        return iter(self.deliveries)

    def __len__(self) -> int:
        return len(self.deliveries)

    def accepted(self) -> list[Delivery]:
        """Return what the receiver acknowledged: this may never be lost."""
        return [delivery for delivery in self.deliveries if delivery.is_accepted]

    def refused(self) -> list[Delivery]:
        """Return what the receiver answered with an error or a rejection."""
        return [delivery for delivery in self.deliveries if delivery.is_answered and not delivery.is_accepted]

    def unanswered(self) -> list[Delivery]:
        """Return what was not answered: it may have arrived or not."""
        return [delivery for delivery in self.deliveries if not delivery.is_answered]

    def codes(self) -> dict[str, int]:
        """Return how many messages got each acknowledgement code ("" for none)."""
        return dict(Counter(delivery.code for delivery in self.deliveries))

    def sent_ns(self) -> dict[str, int]:
        """Return when each control id was first sent."""
        return {delivery.control_id: delivery.first_sent_ns for delivery in self.deliveries}

    def acknowledgement_latencies_s(self) -> list[float]:
        """Return first sending to ACK in seconds, sorted, for answered messages."""
        return sorted((d.acknowledged_ns - d.first_sent_ns) / 1e9 for d in self.deliveries if d.is_answered)


class StalledError(UnavailableError):
    """The receiver holds the connection but does not answer in time."""


@dataclass(slots=True, kw_only=True)
class Patience:
    """How a sender behaves when it is not answered. Seconds."""

    acknowledgement_s: float = 10.0  # then the connection is replaced and the message sent again
    connect_s: float = 5.0
    backoff_first_s: float = 0.05  # doubled after each failure, back to this after an answer
    backoff_most_s: float = 2.0


class MllpSender:
    """One connection to one receiver; messages are answered in order or by control id."""

    def __init__(
        self,
        host: str,
        port: int,
        *,
        feed: str,
        transcript: Transcript,
        window: int = 1,
        patience: Patience | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        """Prepare a sender; nothing is opened before `async with`.

        Args:
            host: receiver's address.
            port: receiver's TCP port.
            feed: name written into each delivery.
            transcript: where each delivery is recorded.
            window: how many messages may be unanswered at once; 1 is what most engines do.
            patience: timeouts and backoff.
            tls: shows our certificate and checks the receiver's, whose name must be `host`; None sends plain text.
        """
        if window < 1:
            raise ValueError(f"window must be at least 1, found {window}")
        self.host, self.port, self.feed = host, port, feed
        self.transcript = transcript
        self.patience = patience or Patience()
        self._tls = tls
        self.is_connected = False
        self.last_error = ""
        self._room = asyncio.Semaphore(window)
        self._unanswered: deque[Delivery] = deque()
        self._answers: dict[Delivery, asyncio.Future[Delivery]] = {}
        self._in_flight = 0  # how many of _unanswered were written on this connection
        self._something_to_send = asyncio.Event()
        self._connected = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._backoff_s = self.patience.backoff_first_s
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> MllpSender:
        self._task = asyncio.create_task(self._keep_connected(), name=f"mllp-{self.feed}")
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.close()

    async def submit(self, body: bytes, *, feed: str = "") -> asyncio.Future[Delivery]:
        """Queue a message as soon as the window has room; the future is done when it is answered."""
        await self._room.acquire()
        delivery = Delivery(feed or self.feed, control_id_of(body), body)
        self.transcript.deliveries.append(delivery)
        future: asyncio.Future[Delivery] = asyncio.get_running_loop().create_future()
        self._answers[delivery] = future
        self._unanswered.append(delivery)
        self._idle.clear()
        self._something_to_send.set()
        return future

    async def send(self, body: bytes, *, feed: str = "") -> Delivery:
        """Send a message and wait until it is answered, through any number of reconnections."""
        return await (await self.submit(body, feed=feed))

    async def drain(self, timeout_s: float | None = None) -> bool:
        """Wait until everything submitted is answered; return whether it was within `timeout_s`."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._idle.wait()
        except TimeoutError:
            return False
        return True

    async def wait_connected(self, timeout_s: float) -> None:
        """Wait for the first connection.

        Raises:
            UnavailableError: nobody listened within `timeout_s`.
        """
        try:
            async with asyncio.timeout(timeout_s):
                await self._connected.wait()
        except TimeoutError:
            raise UnavailableError(
                f"no MLLP listener at {self.host}:{self.port} within {timeout_s:g} s ({self.last_error}): is Vigil up?"
            ) from None

    async def close(self) -> None:
        """Drop the connection. What is unanswered stays so in the transcript; its futures are cancelled."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
            if not self._task.cancelled() and (error := self._task.exception()) is not None:
                raise error
            self._task = None
        for future in self._answers.values():
            future.cancel()
        self._answers.clear()

    async def _keep_connected(self) -> None:
        while True:
            try:
                async with asyncio.timeout(self.patience.connect_s):
                    reader, writer = await asyncio.open_connection(self.host, self.port, ssl=self._tls)
            except (OSError, TimeoutError) as error:
                await self._back_off(error)
                continue
            self.is_connected = True
            self._connected.set()
            self._in_flight = 0
            try:
                await self._converse(reader, writer)
            except (OSError, EOFError, StalledError) as error:
                self.transcript.reconnections += 1
                await self._hang_up(writer)
                await self._back_off(error)
            finally:
                self.is_connected = False
                await self._hang_up(writer)

    @staticmethod
    async def _hang_up(writer: asyncio.StreamWriter) -> None:
        if not writer.is_closing():
            writer.transport.abort()  # a stalled peer would never let a graceful close finish

    async def _back_off(self, error: Exception) -> None:
        # What TLS could not agree on is worth a word; a certificate's own text is not repeated.
        reason = error.reason if isinstance(error, ssl.SSLError) else None
        self.last_error = reason or type(error).__name__
        log.info("mllp_send_retry", extra={"feed": self.feed, "error": self.last_error, "wait_s": self._backoff_s})
        await asyncio.sleep(self._backoff_s)
        self._backoff_s = min(self._backoff_s * 2, self.patience.backoff_most_s)

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tasks = {asyncio.create_task(self._write(writer)), asyncio.create_task(self._read(reader))}
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _write(self, writer: asyncio.StreamWriter) -> None:
        while True:
            while self._in_flight < len(self._unanswered):
                delivery = self._unanswered[self._in_flight]
                self._in_flight += 1
                delivery.attempts += 1
                delivery.last_sent_ns = time.monotonic_ns()
                delivery.first_sent_ns = delivery.first_sent_ns or delivery.last_sent_ns
                writer.write(block(delivery.body))
                await writer.drain()
            self._something_to_send.clear()
            await self._something_to_send.wait()

    async def _read(self, reader: asyncio.StreamReader) -> None:
        buffer = b""
        while True:
            try:
                async with asyncio.timeout(self._patience_left_s()):
                    chunk = await reader.read(READ_BYTES)
            except TimeoutError:
                if self._in_flight and self._patience_left_s() <= 0:
                    raise StalledError(f"no ACK within {self.patience.acknowledgement_s:g} s") from None
                continue
            if not chunk:
                raise EOFError("the receiver closed the connection")
            buffer += chunk
            *answers, buffer = buffer.split(END + RETURN)
            for answer in answers:
                self._take(answer.lstrip(START))

    def _patience_left_s(self) -> float:
        if not self._in_flight:
            return self.patience.acknowledgement_s
        waited_s = (time.monotonic_ns() - self._unanswered[0].last_sent_ns) / 1e9
        return self.patience.acknowledgement_s - waited_s

    def _place_of(self, control_id: str) -> int | None:
        """Return which message in flight is meant, if any."""
        in_flight = [self._unanswered[place].control_id for place in range(self._in_flight)]
        if control_id in in_flight:
            return in_flight.index(control_id)
        # What a damaged header is read as is the receiver's affair: the answer is for the message without an id.
        if "" in in_flight:
            return in_flight.index("")
        return 0 if not control_id and in_flight else None

    def _take(self, answer: bytes) -> None:
        code, control_id = _field(answer, b"MSA", 1), _field(answer, b"MSA", 2)
        place = self._place_of(control_id) if code else None
        if place is None:
            self.transcript.unmatched_answers += 1
            return
        delivery = self._unanswered[place]
        del self._unanswered[place]
        self._in_flight -= 1
        delivery.acknowledged_ns = time.monotonic_ns()
        delivery.code, delivery.answer = code, answer
        self._backoff_s = self.patience.backoff_first_s
        future = self._answers.pop(delivery)
        if not future.cancelled():
            future.set_result(delivery)
        if not self._unanswered:
            self._idle.set()
        self._room.release()
