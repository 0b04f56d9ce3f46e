"""Clocks: hand-cranked and scaled ones keep their promises."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vocabulary.clock import ManualClock, ScaledClock, SystemClock


def test_a_manual_clock_moves_only_when_told() -> None:
    clock = ManualClock(5)
    assert (clock.now_us(), clock.monotonic_ns()) == (5, 0)
    clock.advance(1.5)
    assert (clock.now_us(), clock.monotonic_ns()) == (1_500_005, 1_500_000_000)


def test_no_clock_runs_backwards() -> None:
    with pytest.raises(ValueError, match="go back"):
        ManualClock().advance(-1)
    with pytest.raises(ValueError, match="positive"):
        ScaledClock(0, 0, 0)


def test_the_system_clock_is_the_machines() -> None:
    assert abs(SystemClock().now_us() - time.time() * 1e6) < 5e6
    assert SystemClock().monotonic_ns() <= time.monotonic_ns()


@given(speed=st.sampled_from([1.0, 60.0, 1440.0]), seconds=st.integers(0, 100_000))
def test_a_scaled_clock_runs_at_its_speed_from_its_origin(speed: float, seconds: int) -> None:
    base = ManualClock(1_000_000)
    clock = ScaledClock(origin_us=9_000_000, started_at_us=1_000_000, speed=speed, base=base)
    base.advance(seconds)
    assert clock.now_us() == 9_000_000 + round(seconds * speed * 1_000_000)
    assert clock.monotonic_ns() == base.monotonic_ns(), "latencies are real"
    assert clock.real_seconds_until(clock.now_us() + round(speed * 2_000_000)) == pytest.approx(2.0)
