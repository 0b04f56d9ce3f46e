"""Clocks: the only way any room learns what time it is.

Here: the Clock protocol, the real clock, a hand-cranked one for tests, a faster one for demonstrations.
Not here: time zones of feeds (interop decodes with the feed's zone), the log's own time (twin.normalizer).
"""

from __future__ import annotations

import time
from typing import Protocol

MICROSECONDS = 1_000_000


class Clock(Protocol):
    """What a process asks for the time; passed in, never imported."""

    def now_us(self) -> int:
        """Return wall-clock time in microseconds since 1970-01-01T00:00:00Z."""
        ...

    def monotonic_ns(self) -> int:
        """Return nanoseconds of the machine's monotonic clock, comparable between processes of one machine."""
        ...


class SystemClock:
    """The machine's own clocks."""

    def now_us(self) -> int:
        """Return the machine's wall-clock time in microseconds since the epoch."""
        return time.time_ns() // 1_000

    def monotonic_ns(self) -> int:
        """Return the machine's monotonic clock in nanoseconds."""
        return time.monotonic_ns()


class ManualClock:
    """A clock that moves only when told to: tests and simulations."""

    def __init__(self, now_us: int = 0) -> None:
        """Start at `now_us` microseconds since the epoch, monotonic clock at zero."""
        self._start_us = now_us
        self._elapsed_us = 0

    def now_us(self) -> int:
        """Return the time set so far, microseconds since the epoch."""
        return self._start_us + self._elapsed_us

    def monotonic_ns(self) -> int:
        """Return how far the clock was moved since its start, in nanoseconds."""
        return self._elapsed_us * 1_000

    def advance(self, seconds: float) -> None:
        """Move both clocks forward.

        Raises:
            ValueError: `seconds` is negative; a clock never runs backwards.
        """
        if seconds < 0:
            raise ValueError(f"a clock cannot go back: expected seconds >= 0, found {seconds}")
        self._elapsed_us += round(seconds * MICROSECONDS)


class ScaledClock:
    """Wall-clock time that runs `speed` times faster from an origin. Demonstrations only.

    Two processes given the same origins agree to within the machine's own clock. The monotonic clock is never
    scaled: latencies are real.
    """

    def __init__(self, origin_us: int, started_at_us: int, speed: float, base: Clock | None = None) -> None:
        """Pretend that at real time `started_at_us` it was `origin_us`, and run `speed` times as fast.

        Raises:
            ValueError: `speed` is not positive.
        """
        if not speed > 0:
            raise ValueError(f"speed must be positive, found {speed}")
        self.origin_us = origin_us
        self.started_at_us = started_at_us
        self.speed = speed
        self._base: Clock = base or SystemClock()

    def now_us(self) -> int:
        """Return the scaled time in microseconds since the epoch."""
        return self.origin_us + round((self._base.now_us() - self.started_at_us) * self.speed)

    def monotonic_ns(self) -> int:
        """Return the unscaled monotonic clock in nanoseconds."""
        return self._base.monotonic_ns()

    def real_seconds_until(self, at_us: int) -> float:
        """Return how many real seconds pass until the scaled clock shows `at_us` (negative when past)."""
        return (at_us - self.now_us()) / self.speed / MICROSECONDS
