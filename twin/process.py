"""What every process of the live plane does at its start and end.

Here: the clock the settings ask for, signals, logging as JSON lines, waiting for servers that are not up yet.
Not here: which processes there are (twin.__main__), supervising them (orchestration.services).
"""

from __future__ import annotations

import asyncio
import json
import logging
import signal
import sys
import time
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, TypeVar

from pydantic import ValidationError

from twin import listeners
from vocabulary.clock import Clock, ScaledClock, SystemClock
from vocabulary.errors import ConfigurationError, UnavailableError
from vocabulary.settings import Settings

Server = TypeVar("Server")


def read_settings() -> Settings:
    """Return the settings of this process.

    Raises:
        ConfigurationError: a value cannot be used, or a listener would speak plain text beyond this machine by a
            permission that has ended. Names the setting, never its value.
    """
    try:
        settings = Settings()
    except ValidationError as error:
        names = ", ".join("VIGIL_" + "__".join(map(str, fault["loc"])).upper() for fault in error.errors())
        raise ConfigurationError(f"These settings cannot be used: {names}. See vocabulary/settings.py.") from None
    except ValueError as error:
        raise ConfigurationError(f"The settings cannot be read ({type(error).__name__}).") from None
    listeners.require_safe(settings, listeners.today(SystemClock()))
    return settings


def clock_of(settings: Settings) -> Clock:
    """Return the system's clock, or a demonstration's scaled one when the settings carry its origin."""
    if settings.clock_origin_us is None or settings.clock_started_at_us is None:
        return SystemClock()
    return ScaledClock(settings.clock_origin_us, settings.clock_started_at_us, settings.clock_speed)


def database_url(settings: Settings) -> str:
    """Return the database's address.

    Raises:
        ConfigurationError: none is set.
    """
    if settings.database_url is None:
        raise ConfigurationError("VIGIL_DATABASE_URL is not set; `vigil up` sets it for the processes it starts.")
    return settings.database_url.get_secret_value()


def nats_url(settings: Settings) -> str:
    """Return the bus's address.

    Raises:
        ConfigurationError: none is set.
    """
    if settings.nats_url is None:
        raise ConfigurationError("VIGIL_NATS_URL is not set; `vigil up` sets it for the processes it starts.")
    return settings.nats_url.get_secret_value()


class _JsonLines(logging.Formatter):
    """One JSON object a line: event name, level, time, and what `extra` carries."""

    _STANDARD = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName"}

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(record.created)),
            "level": record.levelname.lower(),
            "event": record.getMessage(),
            **{key: value for key, value in record.__dict__.items() if key not in self._STANDARD},
        }
        if record.exc_info and record.exc_info[0] is not None:
            # Where it happened, never the message: an exception's text may quote a patient's data.
            frames = []
            trace = record.exc_info[2]
            while trace is not None:
                frames.append(f"{trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}")
                trace = trace.tb_next
            line["error"] = record.exc_info[0].__name__
            line["frames"] = frames[-6:]
        return json.dumps(line, default=str)


def start_logging() -> None:
    """Send every log record to standard error as JSON lines."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_JsonLines())
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    # It tells every address it asks, and an address may hold a secret (a notification's, a provider's).
    logging.getLogger("httpx").setLevel(logging.WARNING)


def stop_on_signals() -> asyncio.Event:
    """Return an event that SIGTERM and SIGINT set."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    return stop


async def end(tasks: Iterable[asyncio.Task[Any]]) -> None:
    """Cancel tasks until they have ended.

    Once is not enough before Python 3.12: a cancellation that meets a result inside `asyncio.wait_for` is lost, and a
    loop that was told to end goes on for ever.
    """
    pending = set(tasks)
    while pending:
        for task in pending:
            task.cancel()
        _, pending = await asyncio.wait(pending, timeout=0.5)


async def until_available(
    attempt: Callable[[], Awaitable[Server]], stop: asyncio.Event, log: logging.Logger, what: str
) -> Server | None:
    """Call `attempt` until it succeeds, waiting longer each time up to 5 s; None when told to stop."""
    delay_s = 0.1
    while not stop.is_set():
        try:
            return await attempt()
        except UnavailableError as error:
            log.warning("waiting_for_server", extra={"server": what, "reason": str(error)})
            try:
                await asyncio.wait_for(stop.wait(), delay_s)
            except TimeoutError:
                delay_s = min(delay_s * 2, 5.0)
    return None
