"""MLLP: blocks out of a byte stream, and into one.

Here: the framing alone, fed with whatever pieces a socket gives, in linear time and bounded memory.
Not here: sockets and acknowledgement timing (twin.ingress), what a block says (interop.hl7v2).
Source: HL7 Transport Specification: MLLP, Release 1 and 2 (start block 0x0B, end block 0x1C, carriage return 0x0D).

A sender that breaks off inside a block and starts again is recognised by a start byte followed by `MSH`: what came
before is given out as truncated. An end byte directly followed by a start byte ends a block, since some senders omit
the carriage return. UTF-16 and UTF-32 bodies may hold the framing bytes by chance, so MLLP cannot carry them safely.
"""

from __future__ import annotations

import re
from typing import Final

import msgspec

START: Final = 0x0B
END: Final = 0x1C
CR: Final = 0x0D

KEPT_OF_OVERSIZE_BYTES: Final = 4096
"""How much of a body over the limit is kept, so that a person can see what it was."""

_END_OF_BLOCK: Final = bytes((END, CR))
_RESTART: Final = bytes((START,)) + b"MSH"
_BOUNDARY: Final = re.compile(rb"\x1c[\r\x0b]|\x0bMSH")


class Frame(msgspec.Struct, frozen=True):
    """One block's content."""

    body: bytes  # without framing; the first 4 KiB when oversize
    size: int  # bytes between start and end of the block, whether kept or not
    is_oversize: bool = False
    is_truncated: bool = False  # the block never ended: the connection closed, or the sender started again


def frame(body: bytes) -> bytes:
    """Return the body as one MLLP block.

    Raises:
        ValueError: the body holds what a reader must take for the end of the block.
    """
    if _BOUNDARY.search(body) or body.endswith(bytes((END,))):
        raise ValueError("an MLLP body cannot hold an end of block (0x1C 0x0D) or a new start (0x0B MSH)")
    return b"\x0b" + body + _END_OF_BLOCK


class Framer:
    """Cuts one connection's bytes into frames."""

    __slots__ = ("_body", "_carry", "_is_inside", "_limit_bytes", "_size", "noise_bytes")

    def __init__(self, limit_bytes: int) -> None:
        """Give out whole bodies of at most `limit_bytes`; of a longer one its size and first 4 KiB.

        Raises:
            ValueError: the limit is not positive.
        """
        if limit_bytes < 1:
            raise ValueError(f"limit_bytes must be positive, found {limit_bytes}")
        self._limit_bytes = limit_bytes
        self._body = bytearray()
        self._carry = b""  # at most 3 bytes that may be the beginning of a boundary
        self._is_inside = False
        self._size = 0
        self.noise_bytes = 0  # bytes seen outside of any block since the connection opened

    @property
    def is_inside(self) -> bool:
        """Return whether a block has begun and not yet ended."""
        return self._is_inside

    @property
    def buffered_bytes(self) -> int:
        """Return how many bytes are held for a block that has not ended: never more than the limit and a few."""
        return len(self._body) + len(self._carry)

    def feed(self, data: bytes) -> list[Frame]:
        """Take the next bytes of the connection and return the frames they completed, in order.

        Time is linear in `data` whatever the pieces; memory is bounded by the limit.
        """
        if self._carry:
            data = self._carry + data
            self._carry = b""
        frames: list[Frame] = []
        at = 0
        end = len(data)
        while at < end:
            if not self._is_inside:
                start = data.find(START, at)
                self.noise_bytes += (end if start < 0 else start) - at
                if start < 0:
                    break
                self._is_inside = True
                at = start + 1
            boundary = _BOUNDARY.search(data, at)
            if boundary is None:
                held = _beginning_of_boundary(data, at)
                self._keep(data[at : end - held])
                self._carry = data[end - held :]
                break
            self._keep(data[at : boundary.start()])
            is_restart = data[boundary.start()] == START
            frames.append(self._take(is_truncated=is_restart))
            if is_restart:
                self._is_inside = True
                at = boundary.start() + 1
            else:  # a start byte right behind the end byte belongs to the next block
                at = boundary.end() if data[boundary.end() - 1] == CR else boundary.end() - 1
        return frames

    def close(self) -> Frame | None:
        """End the connection and return the block that was under way, marked truncated, or None.

        A block whose end byte came but not its carriage return is whole.
        """
        if not self._is_inside:
            return None
        carry, self._carry = self._carry, b""
        if carry == bytes((END,)):
            return self._take(is_truncated=False)
        self._keep(carry)
        return self._take(is_truncated=True)

    def _keep(self, piece: bytes) -> None:
        self._size += len(piece)
        if self._size <= self._limit_bytes:
            self._body += piece
            return
        missing = KEPT_OF_OVERSIZE_BYTES - len(self._body)
        if missing > 0:
            self._body += piece[:missing]
        else:
            del self._body[KEPT_OF_OVERSIZE_BYTES:]

    def _take(self, *, is_truncated: bool) -> Frame:
        is_oversize = self._size > self._limit_bytes
        kept = self._body[:KEPT_OF_OVERSIZE_BYTES] if is_oversize else self._body
        taken = Frame(bytes(kept), self._size, is_oversize=is_oversize, is_truncated=is_truncated)
        self._body = bytearray()
        self._size = 0
        self._is_inside = False
        return taken


def _beginning_of_boundary(data: bytes, at: int) -> int:
    """Return how many bytes at the end of `data[at:]` may be the beginning of a boundary."""
    if data.endswith(bytes((END,)), at):
        return 1
    for length in (3, 2, 1):
        if data.endswith(_RESTART[:length], at):
            return length
    return 0
