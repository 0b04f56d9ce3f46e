"""The normalizer's days: taking the log over, reading it, publishing what was committed, reopening after an outage.

Here: opening, the loop, health.
Not here: what a message becomes (twin.normalizer).
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Iterable

from governance.ledger_writers import ledger_writer
from governance.privacy import KeyRing, open_ring
from interop.terminology import Terminology
from stores import clinical, partition_log, positions, quarantine
from stores.database import connect, transaction
from twin import health
from twin.bus import Bus, RawReader
from twin.directory import Directory
from twin.normalizer import Normalizer
from twin.subjects import EVENTS, RAW
from vocabulary.errors import BrokenInvariantError, UnavailableError
from vocabulary.records import INCARNATION_SHIFT
from vocabulary.settings import Settings

SLOW_S = 0.5
"""A batch that takes longer is worth a line in the log."""
_log = logging.getLogger("vigil.normalizer")


async def open_normalizer(
    settings: Settings, bus: Bus, url: str, terminology: Terminology, keys: KeyRing
) -> Normalizer:
    """Take the normalizer's position over and load what it needs. The ring stays the caller's to close.

    Raises:
        UnavailableError: PostgreSQL or JetStream does not answer.
        BrokenInvariantError: RAW is older than the stored position: it was restored from a copy.
    """
    connection = await connect(url, application_name="vigil normalizer")
    try:
        extent = await bus.raw_extent()
        async with transaction(connection):
            incarnation = await positions.incarnation(connection, extent.identity)
            owner = f"{os.uname().nodename}:{os.getpid()}"
            taken = (await positions.take_over(connection, [positions.NORMALIZER], owner))[positions.NORMALIZER]
            ledger = ledger_writer(settings, "normalizer")
            await ledger.open(connection)
            directory = Directory(await clinical.load(connection))
            last = await partition_log.last_positions(connection)
            waiting_keys = await quarantine.waiting_keys(connection)
        if taken.position >> INCARNATION_SHIFT > incarnation:
            raise BrokenInvariantError("the stored position belongs to a newer RAW stream than the one found")
        reached = taken.position & ((1 << INCARNATION_SHIFT) - 1)
        if taken.position >> INCARNATION_SHIFT == incarnation and extent.last_sequence < reached:
            # Whatever is appended up to there would never be read: senders would be told it is safe, and it is not.
            raise BrokenInvariantError(
                f"RAW ends at {extent.last_sequence}, and {reached} was read already: an older copy was restored. "
                "Restore the database of the same time, or the newer stream."
            )
        return Normalizer(
            settings, connection, terminology, directory, ledger, taken, last, waiting_keys, incarnation, keys
        )
    except BaseException:
        await connection.close()
        raise


async def run(settings: Settings, bus: Bus, url: str, stop: asyncio.Event) -> None:
    """Normalize until `stop`; reopen from the stored position whenever a server was away."""
    current: Normalizer | None = None
    keys: KeyRing | None = None
    lost = asyncio.Event()
    bus.on_reconnect(lost.set)

    def detail() -> health.Detail:
        if current is None:
            return {}
        return {
            "position": current.position,
            "messages": current.messages,
            "not_accepted": current.not_accepted,
            "missing_packs": current.missing_packs,
            "log_time_us": current.log_time_us,
            "undecodable": bus.dropped,
        }

    reporter = asyncio.create_task(
        health.report(settings.data_dir / "run", "normalizer", "", lambda: current is not None and bus.is_ready, detail)
    )
    terminology = Terminology({(system, code): key for (system, _, code), key in _local_codes(settings)})
    try:
        while not stop.is_set():
            try:
                await bus.prepare_streams(settings.raw_max_bytes, RAW, EVENTS)
                keys = await open_ring(settings, url, purpose="normalizer keys")
                current = await open_normalizer(settings, bus, url, terminology, keys)
                _log.info("normalizer_open", extra={"position": current.position})
                await _follow(settings, bus, current, stop, lost)
            except UnavailableError as error:
                _log.warning("normalizer_waits", extra={"reason": str(error)})
                await asyncio.sleep(0.2)
            finally:
                if current is not None:
                    await current.close()
                    current = None
                if keys is not None:
                    await keys.close()
                    keys = None
    finally:
        reporter.cancel()


async def _follow(
    settings: Settings, bus: Bus, normalizer: Normalizer, stop: asyncio.Event, lost: asyncio.Event
) -> None:
    reader: RawReader = bus.raw_reader(_sequence_after(normalizer))
    loop = asyncio.get_running_loop()
    try:
        while not stop.is_set():
            if lost.is_set():
                # nats-server came back: its memory streams are gone and RAW may even be another one.
                lost.clear()
                raise UnavailableError("nats-server was away")
            raw = await reader.take(timeout_s=0.5)
            if raw:
                started = loop.time()
                batches, tick = await normalizer.normalize(raw)
                await bus.publish_events(batches, tick)
                if loop.time() - started > SLOW_S:
                    seconds = round(loop.time() - started, 3)
                    _log.warning("slow_batch", extra={"seconds": seconds, "packs": len(raw), "batches": len(batches)})
                await asyncio.sleep(settings.normalizer_interval_s)
    finally:
        await reader.close()


def _sequence_after(normalizer: Normalizer) -> int:
    if normalizer.position >> INCARNATION_SHIFT != normalizer.incarnation:
        return 0
    return normalizer.position & ((1 << INCARNATION_SHIFT) - 1)


def _local_codes(settings: Settings) -> Iterable[tuple[tuple[str, str, str], str]]:
    return ((name.partition("|"), key) for name, key in settings.local_codes.items())
