"""An engine's days: what arrives, what is missing, one cycle after another, and publishing.

Here: the inbox, gaps, reopening after a server was away, latencies, health.
Not here: what one cycle does (twin.engine).
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Iterable, Sequence
from contextlib import suppress

import msgspec
import numpy as np

from governance.audit import Auditor
from governance.notary import heads_of
from governance.privacy import KeyRing, open_ring
from stores.database import connect
from twin import health
from twin.bus import Bus
from twin.engine import Engine, open_engine
from twin.forecast import Forecaster
from twin.process import end
from twin.serving import ServingFollower
from twin.subjects import SNAPSHOTS, TWINS
from vocabulary.clock import Clock, SystemClock
from vocabulary.errors import UnavailableError
from vocabulary.records import Merged, PartitionBatch, Tick, partition_of
from vocabulary.settings import Settings
from vocabulary.signing import SigningKey
from vocabulary.snapshot import Publication
from vocabulary.tls import Identity

_EVENT = msgspec.msgpack.Decoder(PartitionBatch | Tick)
_ENCODER = msgspec.msgpack.Encoder()
_log = logging.getLogger("vigil.engine")

SLOW_S = 0.5
"""A cycle that takes longer is worth a line in the log."""
_RESYNC_S = 2.0
"""Without any tick for this long, batches may have been lost on the way: look into the partition log."""
_LATENCIES = 100_000
FIRST_LOOK_S = 10.0
"""An engine that starts waits this long at most to know who may speak: then it begins with NEWS2 alone."""


class Latencies:
    """Socket to published snapshot, of the latest messages."""

    def __init__(self) -> None:
        """Start empty."""
        self._seconds: deque[float] = deque(maxlen=_LATENCIES)

    def add(self, now_ns: int, received_ns: Iterable[int]) -> None:
        """Take the messages a snapshot newly reflects."""
        self._seconds.extend((now_ns - received) / 1e9 for received in received_ns)

    def detail(self) -> health.Detail:
        """Return the median and the 99th percentile in seconds."""
        if not self._seconds:
            return {}
        p50, p99 = np.percentile(np.fromiter(self._seconds, float), (50, 99))
        return {"latency_p50_s": round(float(p50), 4), "latency_p99_s": round(float(p99), 4)}


class Inbox:
    """Batches and ticks as they arrive, until the next cycle takes them."""

    def __init__(self, partitions: Iterable[int]) -> None:
        """Listen for some partitions."""
        self._partitions = frozenset(partitions)
        self._batches: list[PartitionBatch] = []
        self._tick: Tick | None = None
        self.wake = asyncio.Event()
        self.is_bus_new = False
        self.undecodable = 0

    def note_reconnection(self) -> None:
        """Note that nats-server was away: what it held in memory may be gone."""
        self.is_bus_new = True
        self.wake.set()

    def put(self, data: bytes) -> None:
        """Take one message of EVENTS; what is none is dropped and counted: a batch that is missed is in the log."""
        try:
            event = _EVENT.decode(data)
        except msgspec.MsgspecError:
            self.undecodable += 1
            return
        if isinstance(event, Tick):
            self._tick = event
        elif event.partition in self._partitions:
            self._batches.append(event)
        self.wake.set()

    def take(self) -> tuple[list[PartitionBatch], Tick | None]:
        """Return what has arrived, and start over."""
        batches, tick = self._batches, self._tick
        self._batches, self._tick = [], None
        self.wake.clear()
        return batches, tick


async def run(
    settings: Settings,
    bus: Bus,
    url: str,
    clock: Clock,
    stop: asyncio.Event,
    forecaster: Forecaster,
    partitions: Sequence[int],
) -> None:
    """Fold and publish until `stop`; reopen from the stored positions whenever a server was away."""
    current: Engine | None = None
    keys: KeyRing | None = None
    latencies = Latencies()
    inbox = Inbox(partitions)
    auditor = _auditor(settings, url, partitions)
    serving = ServingFollower(
        settings, lambda: connect(url, application_name="vigil engine serving"), SystemClock(), auditor
    )
    await bus.subscribe_events(inbox.put)
    bus.on_reconnect(inbox.note_reconnection)

    def detail() -> health.Detail:
        if current is None:
            return {}
        return {
            "patients": len(current.patients),
            "values": current.values,
            "snapshots": current.snapshots,
            "cycles": current.cycles,
            "log_time_us": current.log_time_us,
            "undecodable": inbox.undecodable + bus.dropped,
            "model": serving.voices.champion.name,
            "silent_model": serving.voices.silent.name,
            "serving": serving.voices.champion.token,
            "scored": current.scored,
            **latencies.detail(),
        }

    reporter = asyncio.create_task(
        health.report(settings.data_dir / "run", "engine", "", lambda: current is not None and bus.is_ready, detail)
    )
    waker = asyncio.create_task(_wake_at(stop, inbox))
    follower = asyncio.create_task(serving.run(stop), name="serving")
    try:
        if not await serving.first_look(FIRST_LOOK_S):
            _log.warning("serving_not_read_yet")
        while not stop.is_set():
            if follower.done():
                follower.result()  # a defect of ours: end loudly, and be started anew
            try:
                keys = await open_ring(settings, url, purpose="engine keys")
                current = await open_engine(settings, url, clock, forecaster, partitions, keys, serving)
                _log.info("engine_open", extra={"patients": len(current.patients)})
                await _follow(settings, bus, current, inbox, latencies, clock, stop)
            except UnavailableError as error:
                _log.warning("engine_waits", extra={"reason": str(error)})
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
        waker.cancel()
        await end([follower])
        await auditor.close()


def _auditor(settings: Settings, url: str, partitions: Sequence[int]) -> Auditor:
    """Return who records what this engine refused to load, on a chain of its own."""
    signer, heads = None, None
    if settings.identity_dir is not None:
        signer = SigningKey.load(Identity(settings.identity_dir).ledger_key)
        heads = heads_of(settings)
    return Auditor(
        lambda: connect(url, application_name="vigil engine audit"),
        f"engine-{min(partitions):02d}",
        signer,
        heads,
        SystemClock(),  # an event is of real time, whatever clock a demonstration's ward has
    )


async def _wake_at(stop: asyncio.Event, inbox: Inbox) -> None:
    await stop.wait()
    inbox.wake.set()


async def _follow(
    settings: Settings,
    bus: Bus,
    engine: Engine,
    inbox: Inbox,
    latencies: Latencies,
    clock: Clock,
    stop: asyncio.Event,
) -> None:
    loop = asyncio.get_running_loop()
    await bus.prepare_streams(settings.raw_max_bytes, SNAPSHOTS, TWINS)
    left_over = await engine.publish_left_over(bus)
    if left_over:
        _log.info("left_over_published", extra={"commits": left_over})
    inbox.take()
    is_behind = True
    while not stop.is_set():
        if not is_behind:
            with suppress(TimeoutError):
                await asyncio.wait_for(inbox.wake.wait(), _RESYNC_S)
            if not inbox.wake.is_set():
                is_behind = True
        if inbox.is_bus_new:
            inbox.is_bus_new = False
            await bus.prepare_streams(settings.raw_max_bytes, SNAPSHOTS, TWINS)
            engine.publish_all_soon()
        batches, tick = inbox.take()
        started = loop.time()
        publications, is_behind = await advance(engine, batches, tick, is_behind=is_behind)
        folded = loop.time()
        if publications:
            await bus.publish_snapshots([(p, _ENCODER.encode(p)) for p in publications])
            now_ns = clock.monotonic_ns()
            for publication in publications:
                latencies.add(now_ns, publication.received_monotonic_ns)
        if loop.time() - started > SLOW_S:
            _log.warning(
                "slow_cycle",
                extra={
                    "fold_s": round(folded - started, 3),
                    "publish_s": round(loop.time() - folded, 3),
                    "batches": len(batches),
                    "snapshots": len(publications),
                },
            )
        if not is_behind:
            await asyncio.sleep(settings.engine_interval_s)


async def advance(
    engine: Engine, batches: Sequence[PartitionBatch], tick: Tick | None, *, is_behind: bool
) -> tuple[list[Publication], bool]:
    """Fold what arrived, or the log where something is missing; return what to publish, and whether to look again.

    Raises:
        FencedOutError, UnavailableError: as Engine.cycle.
    """
    if is_behind or _has_gap(engine, batches, tick):
        # From the log instead: it has all of what arrived here, and what did not.
        batches = await engine.catch_up(sorted(engine.positions))
        is_behind = len(batches) > 0
        tick = None
    return await engine.cycle(batches, tick), is_behind


def _has_gap(engine: Engine, batches: Sequence[PartitionBatch], tick: Tick | None) -> bool:
    reached = dict(engine.positions)
    merged: list[tuple[int, int]] = []  # partition and the position it must have reached
    for batch in batches:
        if batch.position <= reached[batch.partition]:
            continue
        if batch.previous > reached[batch.partition]:
            return True
        reached[batch.partition] = batch.position
        for event in batch.events:
            if isinstance(event, Merged):
                merged += [(partition_of(event.survivor_id), batch.position)]
                merged += [(partition_of(event.retired_id), batch.position)]
    # The survivor's twin is read back from both records, so neither partition may stay behind.
    if any(reached.get(partition, position) < position for partition, position in merged):
        return True
    return tick is not None and any(tick.last[partition] > position for partition, position in reached.items())
