"""The live plane's processes: `python -m twin ingress | normalizer | engine | keeper`.

Here: the command line of each process, and its connection to the servers.
Not here: starting them together (`vigil up`).
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import sys

from twin import process
from twin.bus import Bus, open_bus
from twin.subjects import RAW, SNAPSHOTS, TWINS
from vocabulary.errors import ConfigurationError, UnavailableError, VigilError
from vocabulary.records import PARTITIONS
from vocabulary.settings import Settings

DESCRIPTION = """\
The live plane: from bytes on a socket to published twin snapshots.

  ingress     listens for HL7 v2 over MLLP on every feed's port, packs what has arrived into the RAW stream
              and answers each sender once its message is on disk (one process a gateway)
  normalizer  reads RAW in order; decodes, finds duplicates, identifies the patient, maps codes and units;
              keeps the ledger; hands each partition its events (one process; a second takes over from the first)
  engine      folds the events of its partitions into each patient's state, scores it, and publishes snapshots
              (several processes, each with its own --partitions)
  keeper      housekeeping beside them: compacts hours, trims folded batches, seals old RAW into files

`vigil up` starts all of them with their servers. By hand each needs VIGIL_DATABASE_URL and VIGIL_NATS_URL;
every other setting is VIGIL_<NAME> too (see vocabulary/settings.py) or stands in vigil.toml.
Logs are JSON lines on standard error. SIGTERM ends a process after what it has begun. Exit codes: 0 ended when
asked, 2 a setting is wrong, 3 a server did not answer at the start, 4 a promise was broken (another process took over).
"""


def _partitions(text: str) -> list[int]:
    """Read `0-31` or `0,5,9-12`."""
    chosen: set[int] = set()
    for part in text.split(","):
        first, _, last = part.partition("-")
        chosen.update(range(int(first), int(last or first) + 1))
    if not chosen or min(chosen) < 0 or max(chosen) >= PARTITIONS:
        raise argparse.ArgumentTypeError(f"expected partitions from 0 to {PARTITIONS - 1}, e.g. 0-31")
    return sorted(chosen)


async def _run(name: str, settings: Settings, partitions: list[int]) -> None:
    clock = process.clock_of(settings)
    stop = process.stop_on_signals()
    bus = await open_bus(settings, name)
    ended = asyncio.create_task(_stop_with(bus, stop))
    try:
        await _prepare(bus, name, settings.raw_max_bytes)
        # Imported by need: ingress holds no scores, and starts in a third of the time without them.
        if name == "ingress":
            from twin import ingress

            await ingress.run(settings, bus, clock, stop)
        elif name == "normalizer":
            from twin import normalizer_loop

            await normalizer_loop.run(settings, bus, process.database_url(settings), stop)
        elif name == "keeper":
            from twin import keeper

            tending = asyncio.create_task(_tend_streams(bus))
            try:
                await keeper.run(settings, bus, process.database_url(settings), stop)
            finally:
                await process.end([tending])
        else:
            from twin import engine_loop, forecast

            forecaster = forecast.open_forecaster(settings)
            url = process.database_url(settings)
            await engine_loop.run(settings, bus, url, clock, stop, forecaster, partitions)
        if ended.done():
            raise UnavailableError("nats-server ended the connection for good: it no longer knows this process.")
    finally:
        await process.end([ended])
        await bus.close()


async def _prepare(bus: Bus, name: str, raw_max_bytes: int) -> None:
    """See to the streams a process cannot begin without; the others are waited for where they are used."""
    if name == "keeper":
        await bus.ensure_derived_streams()
    needed = {"ingress": (RAW,), "normalizer": (RAW,), "engine": (SNAPSHOTS, TWINS)}
    await bus.prepare_streams(raw_max_bytes, *needed.get(name, ()))


async def _stop_with(bus: Bus, stop: asyncio.Event) -> None:
    """Stop the process when its connection has ended for good: the supervisor starts it anew, with what it then has."""
    await bus.wait_ended()
    stop.set()


async def _tend_streams(bus: Bus) -> None:
    """Make the streams in memory again after each restart of nats-server."""
    returned = asyncio.Event()
    bus.on_reconnect(returned.set)
    while True:
        await returned.wait()
        returned.clear()
        try:
            await bus.ensure_derived_streams()
        except UnavailableError as error:
            logging.getLogger("vigil.keeper").warning("streams_not_made", extra={"reason": str(error)})
            await asyncio.sleep(0.2)
            returned.set()


def main() -> int:
    """Run one process until it is told to stop; return its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m twin", description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="name", required=True, metavar="PROCESS")
    commands.add_parser("ingress", help="sockets to RAW")
    commands.add_parser("normalizer", help="RAW to events")
    engine = commands.add_parser("engine", help="events to snapshots")
    engine.add_argument(
        "--partitions", type=_partitions, default=list(range(PARTITIONS)), help="which it owns, e.g. 0-31 (all)"
    )
    commands.add_parser("keeper", help="housekeeping")
    arguments = parser.parse_args()
    process.start_logging()
    log = logging.getLogger(f"vigil.{arguments.name}")
    try:
        asyncio.run(_run(arguments.name, process.read_settings(), getattr(arguments, "partitions", [])))
    except ConfigurationError as error:
        log.error("configuration", extra={"reason": str(error)})
        return 2
    except VigilError as error:
        log.error("stopped", extra={"kind": type(error).__name__, "reason": str(error)})
        return 3 if type(error).__name__ == "UnavailableError" else 4
    except BaseExceptionGroup as group:
        log.exception("stopped")
        matched = group.subgroup(ConfigurationError)
        return 2 if matched else 4
    except Exception:
        log.exception("stopped")
        return 4
    return 0


if __name__ == "__main__":
    sys.exit(main())
