"""Housekeeping beside the live path: hours compacted, folded batches trimmed, old packs sealed, identities forgotten.

A process of its own, so that no value waits behind it. It owns nothing: each step is safe to repeat, to interrupt, and
to run twice at once.

Here: what is done how often. Not here: the work itself (stores.compaction, stores.partition_log, twin.sealing).
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress

from stores import partition_log, positions, source_messages, timeseries
from stores.database import Connection, connect, transaction
from stores.raw_archive import RawArchive
from twin import health, sealing
from twin.bus import Bus
from vocabulary.errors import UnavailableError
from vocabulary.settings import Settings

ROUND_S = 60.0
"""How often everything below is looked at, in real seconds."""
LOG_KEEP_S = 600.0
"""Folded batches stay this long in the partition log, for a person who wants to look; log time."""
COMPACTION_DELAY_US = 3600 * 1_000_000
"""An hour is compacted this long after it ended, when most of what comes late has come."""
COMPACTED_AT_ONCE = 25
"""Patients compacted before the next look at whether to stop."""
SOURCE_MEMORY_US = 8 * 24 * 3600 * 1_000_000
"""A sender's retransmission is recognised for this long (promised: 7 days)."""

_log = logging.getLogger("vigil.keeper")


async def keep_house(settings: Settings, connection: Connection, bus: Bus, stop: asyncio.Event) -> health.Detail:
    """Do one round; return what it did.

    Raises:
        UnavailableError: a server is away; the next round goes on where this one ended.
    """
    async with transaction(connection):
        places = await positions.read(connection)
        trimmed = await partition_log.trim(connection, keep_s=LOG_KEEP_S)
        normalizer = places[positions.NORMALIZER]
        forgotten = await source_messages.forget(connection, normalizer.log_time_us - SOURCE_MEMORY_US)
    # The slowest partition decides: an hour is over only when every engine has passed it.
    log_time_us = min(place.log_time_us for name, place in places.items() if name != positions.NORMALIZER)
    compacted = 0
    while not stop.is_set():
        done = await timeseries.compact(connection, log_time_us - COMPACTION_DELAY_US, most_patients=COMPACTED_AT_ONCE)
        compacted += done.hours
        if done.corrupt:
            _log.error("corrupt_blocks", extra={"hours": len(done.corrupt)})
        if done.hours == 0:
            break
    # Of the stream that is there now: what an older one had sealed or committed says nothing about what this one holds.
    extent = await bus.raw_extent()
    async with transaction(connection):
        incarnation = await positions.incarnation(connection, extent.identity)
    sealed = 0
    try:
        sealed = await sealing.seal(
            bus,
            RawArchive(settings.data_dir / "sealed"),
            incarnation=incarnation,
            up_to_position=normalizer.position,
            before_us=normalizer.log_time_us - round(settings.raw_seal_after_s * 1_000_000),
        )
    except OSError as error:
        # The stream still has everything; it fills up in time, and then senders wait.
        _log.error("not_sealed", extra={"reason": error.strerror})
    return {"trimmed": trimmed, "forgotten": forgotten, "hours_compacted": compacted, "packs_sealed": sealed}


async def run(settings: Settings, bus: Bus, url: str, stop: asyncio.Event) -> None:
    """Keep house once a minute until `stop`."""
    last: health.Detail = {}
    is_ready = False
    reporter = asyncio.create_task(
        health.report(settings.data_dir / "run", "keeper", "", lambda: is_ready, lambda: last)
    )
    try:
        while not stop.is_set():
            try:
                connection = await connect(url, application_name="vigil keeper")
                is_ready = True
                try:
                    while not stop.is_set():
                        with suppress(TimeoutError):
                            await asyncio.wait_for(stop.wait(), ROUND_S)
                        if not stop.is_set():
                            last = await keep_house(settings, connection, bus, stop)
                finally:
                    await connection.close()
            except UnavailableError as error:
                is_ready = False
                _log.warning("keeper_waits", extra={"reason": str(error)})
                with suppress(TimeoutError):
                    await asyncio.wait_for(stop.wait(), 1.0)
    finally:
        reporter.cancel()
