"""Housekeeping beside the live path: hours compacted, folded batches trimmed, old packs sealed, identities forgotten.

A process of its own, so that no value waits behind it. It owns nothing: each step is safe to repeat, to interrupt, and
to run twice at once. A round goes in this order, so that what must not wait comes first:

1. keys that a restored backup brought back are destroyed again, and missing proofs written;
2. folded batches are trimmed, message identities older than promised forgotten;
3. hours are compacted;
4. packs after their day are sealed under patients' keys, noted in the ledger, and removed from the stream;
5. days that are over get their signed root: last, so that it covers what was noted before.

Beside the rounds, and never waiting for one, runs the watch over the models in service (twin.watch).

Here: what is done how often. Not here: the work itself (stores.compaction, stores.partition_log, twin.sealing,
governance.key_destruction, governance.notary, twin.watch).
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress

from governance import key_destruction, notary
from governance.ledger_writers import ledger_writer
from governance.privacy import KeyRing, open_ring
from stores import partition_log, positions, raw_subjects, source_messages, timeseries
from stores.blobs import BlobStore
from stores.database import Connection, connect, transaction
from stores.raw_archive import RawArchive
from twin import health, process, sealing, watch
from twin.bus import Bus
from vocabulary.clock import SystemClock
from vocabulary.errors import ConfigurationError, FencedOutError, RefusedError, UnavailableError
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


async def keep_house(
    settings: Settings, connection: Connection, bus: Bus, keys: KeyRing, stop: asyncio.Event
) -> health.Detail:
    """Do one round; return what it did.

    Args:
        settings: of the keeper.
        connection: outside of a transaction.
        bus: the stream RAW.
        keys: seal what leaves the stream.
        stop: ends the round early.

    Raises:
        UnavailableError: a server is away; the next round goes on where this one ended.
    """
    destroyed_again = await _destroy_again(settings, connection)
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
            sealing.Sealer(
                bus,
                RawArchive(settings.data_dir / "sealed"),
                connection,
                keys,
                ledger_writer(settings, raw_subjects.SEALER),
                BlobStore(settings.data_dir / "blobs"),
            ),
            incarnation=incarnation,
            up_to_position=normalizer.position,
            before_us=normalizer.log_time_us - round(settings.raw_seal_after_s * 1_000_000),
            at_us=normalizer.log_time_us,
        )
    except OSError as error:
        # The stream still has everything; it fills up in time, and then senders wait.
        _log.error("not_sealed", extra={"reason": error.strerror})
    except FencedOutError:
        _log.warning("not_sealed", extra={"reason": "another keeper sealed at the same moment"})
    return {
        "destroyed_again": destroyed_again,
        "trimmed": trimmed,
        "forgotten": forgotten,
        "hours_compacted": compacted,
        "packs_sealed": sealed,
        "days_signed": await _sign_days(settings, connection),
    }


async def _destroy_again(settings: Settings, connection: Connection) -> int:
    try:
        standing = await key_destruction.reconcile(connection, settings)
    except ConfigurationError as error:
        _log.error("proofs_not_compared", extra={"reason": str(error)})
        return 0
    except RefusedError:
        # A keeper that may not destroy keys cannot be made to destroy all of them; a person at the machine can.
        _log.error("destroyed_keys_have_returned", extra={"do": "run `vigil keys status`, which destroys them again"})
        return 0
    if standing.risen:
        _log.error("destroyed_keys_had_returned", extra={"keys": len(standing.risen)})
    if standing.invalid:
        _log.error("proofs_not_signed_by_the_notary", extra={"files": len(standing.invalid)})
    return len(standing.risen)


async def _sign_days(settings: Settings, connection: Connection) -> int:
    try:
        # Roots are of the days of the clock on the wall, also in a demonstration whose log runs faster.
        return len(await notary.sign_due_days(connection, settings, SystemClock()))
    except ConfigurationError as error:
        _log.error("days_not_signed", extra={"reason": str(error)})
        return 0


async def run(settings: Settings, bus: Bus, url: str, stop: asyncio.Event) -> None:
    """Keep house once a minute until `stop`."""
    last: health.Detail = {}
    watched: health.Detail = {}
    is_ready = False
    reporter = asyncio.create_task(
        health.report(settings.data_dir / "run", "keeper", "", lambda: is_ready, lambda: last | watched)
    )
    watching = asyncio.create_task(watch.run(settings, url, SystemClock(), stop, watched), name="watch")
    try:
        while not stop.is_set():
            try:
                connection = await connect(url, application_name="vigil keeper")
                keys: KeyRing | None = None
                try:
                    keys = await open_ring(settings, url, purpose="keeper keys")
                    # Before the first round too: what a restored backup brought back lives no minute longer.
                    await _destroy_again(settings, connection)
                    is_ready = True
                    while not stop.is_set():
                        with suppress(TimeoutError):
                            await asyncio.wait_for(stop.wait(), ROUND_S)
                        if not stop.is_set():
                            last = await keep_house(settings, connection, bus, keys, stop)
                finally:
                    if keys is not None:
                        await keys.close()
                    await connection.close()
            except UnavailableError as error:
                is_ready = False
                _log.warning("keeper_waits", extra={"reason": str(error)})
                with suppress(TimeoutError):
                    await asyncio.wait_for(stop.wait(), 1.0)
    finally:
        reporter.cancel()
        await process.end([watching])
