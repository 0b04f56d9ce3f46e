"""A receiver for the hospital's senders: a tiny MLLP server that answers, delays, forgets or hangs up as told."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest

from hospital.sender import control_id_of

Answer = Callable[[int, bytes], bytes | None]


def acknowledge(body: bytes, code: str = "AA", control_id: str | None = None) -> bytes:
    """An ACK for a message, written here on purpose rather than taken from the platform."""
    name = control_id_of(body) if control_id is None else control_id
    return f"MSH|^~\\&|TEST|||| 20260101||ACK|a|P|2.5.1\rMSA|{code}|{name}\r".encode()


class Receiver:
    """Keeps every body it gets; `answer(number, body)` says what to send back, None for nothing."""

    def __init__(self, answer: Answer | None = None) -> None:
        self.bodies: list[bytes] = []
        self.answer: Answer = answer or (lambda _, body: acknowledge(body))
        self.hang_up_after: set[int] = set()
        self.port = 0
        self._arrived = asyncio.Event()
        self.connections = 0
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._handlers: set[asyncio.Task[None]] = set()

    async def start(self) -> Receiver:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def stop(self) -> None:
        assert self._server is not None
        self._server.close()
        for writer in list(self._writers):
            writer.transport.abort()
        await self._server.wait_closed()
        await asyncio.gather(*self._handlers)

    async def wait_for(self, count: int) -> None:
        """Wait until so many bodies have arrived."""
        while len(self.bodies) < count:
            self._arrived.clear()
            await self._arrived.wait()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._writers.add(writer)
        task = asyncio.current_task()
        assert task is not None
        self._handlers.add(task)
        task.add_done_callback(self._handlers.discard)
        try:
            while True:
                block = await reader.readuntil(b"\x1c\r")
                assert block[:1] == b"\x0b"
                self.bodies.append(block[1:-2])
                self._arrived.set()
                number = len(self.bodies)
                if number in self.hang_up_after:
                    return
                answer = self.answer(number, block[1:-2])
                if answer is not None:
                    writer.write(b"\x0b" + answer + b"\x1c\r")
                    await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            return
        finally:
            writer.close()
            self._writers.discard(writer)


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    made = await Receiver().start()
    yield made
    await made.stop()


@pytest.fixture
async def receivers() -> AsyncIterator[dict[str, Receiver]]:
    made = {feed: await Receiver().start() for feed in ("adt", "monitors", "lab")}
    yield made
    for each in made.values():
        await each.stop()


@pytest.fixture
def acknowledgement() -> Callable[..., bytes]:
    return acknowledge
