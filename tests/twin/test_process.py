"""What every process does at its end."""

from __future__ import annotations

import asyncio
import time

import pytest

from twin import process
from vocabulary.errors import ConfigurationError


async def test_a_task_that_loses_a_cancellation_is_ended_all_the_same():
    lost = 0

    async def stubborn() -> None:
        nonlocal lost
        while True:
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                lost += 1
                if lost == 3:
                    raise

    tasks = [asyncio.create_task(stubborn()), asyncio.create_task(asyncio.sleep(60))]
    await asyncio.sleep(0)
    started = time.monotonic()
    await process.end(tasks)
    assert lost == 3
    assert all(task.done() for task in tasks)
    assert time.monotonic() - started < 5


@pytest.mark.parametrize(("name", "value"), [("VIGIL_RAW_MAX_BYTES", "much"), ("VIGIL_CLINIC_PORT", "eighty")])
def test_a_setting_that_cannot_be_used_is_named_and_its_value_is_not(monkeypatch, name, value):
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigurationError) as told:
        process.read_settings()
    assert name in str(told.value)
    assert value not in str(told.value)
