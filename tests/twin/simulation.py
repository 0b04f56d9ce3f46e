"""The live plane without sockets or processes: one log, cut and interrupted in any way a seed chooses.

Here: a log of everything a hospital can say (`write_log`), folding it by Normalizer and Engine themselves (`Run`), and
what is in the database afterwards, in a form that can be compared (`contents`).
Not here: sockets (live_plane), real processes being killed (tests/faults).
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import zip_longest

import msgspec

from governance.privacy import KeyRing, open_ring
from interop.terminology import Terminology
from stores import blocks, clinical, events, ledger, minutes, partition_log, samples, signals, snapshots, timeseries
from stores.database import Connection, connect, consistent_read, transaction
from stores.samples import Sample
from twin.bus import RawExtent, RawMessage
from twin.engine import Engine, open_engine
from twin.engine_loop import Inbox, advance
from twin.forecast import Forecaster
from twin.normalizer import Normalizer
from twin.normalizer_loop import open_normalizer
from twin.risk import Serving
from vocabulary.clock import ManualClock
from vocabulary.errors import UnavailableError
from vocabulary.records import INCARNATION_SHIFT, PARTITIONS, RawItem, RawPack
from vocabulary.settings import Settings
from vocabulary.snapshot import Publication, SnapshotKey, TwinSnapshot, from_bytes, snapshot_id

SECOND = 1_000_000
MINUTE = 60 * SECOND
HOUR = 60 * MINUTE
START = 1_780_000_000 * SECOND
"""A moment in May 2026."""

VITALS = {
    "8867-4": ("/min", 50, 140),
    "9279-1": ("/min", 8, 35),
    "59408-5": ("%", 85, 100),
    "8480-6": ("mm[Hg]", 80, 180),
    "8310-5": ("Cel", 35, 40),
    "3150-0": ("%", 21, 80),
    "76214-6": ("mm[Hg]", 50, 120),
}
LABS = {
    "2524-7": ("mmol/L", 1, 9),
    "6690-2": ("10*9/L", 2, 25),
    "2823-3": ("mmol/L", 3, 6),
    "9269-2": ("{score}", 3, 15),
}
ALERTNESS = (("LA9340-6", "Alert", "LN"), ("LA17108-4", "Responds to voice", "LN"), ("LA9343-0", "Unresponsive", "LN"))
BEDS = ("B1", "B2", "B3", "B4", "")


@dataclass
class Log:
    """RAW as it lies on disk."""

    messages: list[RawMessage] = field(default_factory=list)
    now_us: int = START
    identity: str = "RAW simulated"
    _encode: Callable[[object], bytes] = field(default_factory=lambda: msgspec.msgpack.Encoder().encode)

    def append(self, feed: str, bodies: Sequence[bytes]) -> None:
        """Add a pack; with no bodies and feed `tick`, a tick."""
        sequence = len(self.messages) + 1
        items = [RawItem(self.now_us - 1000, self.now_us * 1000, "127.0.0.1:1", body) for body in bodies]
        pack = RawPack(f"p{sequence}", feed, self.now_us, items)
        self.messages.append(RawMessage(sequence, self._encode(pack)))

    def tick(self) -> None:
        """Add the log's clock."""
        self.append("tick", [])

    @property
    def extent(self) -> RawExtent:
        """What a bus would say of it."""
        return RawExtent(self.identity, 1, len(self.messages), 0)


class Storyteller:
    """Invents messages: mostly sensible, each kind of mischief now and then."""

    def __init__(self, hospital: object, rng: random.Random, log: Log) -> None:
        self.hospital, self.rng, self.log = hospital, rng, log
        self.numbers: list[str] = []
        self.bed_of: dict[str, str] = {}
        self.measured: list[tuple[str, str, str, int, str]] = []  # number, order, code, time, kind
        self.told: list[tuple[str, bytes]] = []
        self.early: list[str] = []
        self._next = 100
        self._care_rng = random.Random(7)  # its own, so that the rest of the story is as it was without
        self._kinds: dict[Callable[[], bytes | None], int] = {
            self.vitals: 40,
            self.lab: 10,
            self.consciousness: 4,
            self.correction: 10,
            self.withdrawal: 8,
            self.of_a_bed: 5,
            self.too_early: 4,
            self.admission: 5,
            self.transfer: 4,
            self.update: 4,
            self.discharge: 3,
            self.undone_discharge: 3,
            self.cancelled_admission: 1,
            self.merge: 2,
            self.again: 5,
            self.conflict: 2,
            self.rubbish: 4,
        }

    def say(self) -> bytes:
        """One message of any kind."""
        while True:
            made = self.rng.choices(list(self._kinds), list(self._kinds.values()))[0]()
            if made is not None:
                return made

    def _someone(self) -> str | None:
        return self.rng.choice(self.numbers) if self.numbers else None

    def _when(self) -> int:
        late_s = self.rng.choice((0, 0, 0, 0, 1, 2, 5, 10, 30, 61, 90, 200, 400, 1200, 3600, -3, -20))
        return (self.log.now_us - late_s * SECOND) // SECOND * SECOND

    def _number(self, low: float, high: float) -> str:
        return f"{self.rng.uniform(low, high):.1f}"

    def _measure(self, number: str, listed: dict[str, tuple[str, int, int]], order: str, kind: str) -> bytes:
        at_us = self._when()
        results = []
        for code in self.rng.sample(list(listed), self.rng.randint(1, 4)):
            unit, low, high = listed[code]
            results.append(self.hospital.result(code, self._number(low, high), unit, at_us=at_us))
            self.measured.append((number, order, code, at_us, kind))
        return self.hospital.report(number, *results, order=order, application=kind)

    def vitals(self) -> bytes | None:
        number = self._someone()
        return number and self._measure(number, VITALS, f"{self.rng.choice(('mon', 'port'))}-{number}", "MON")

    def lab(self) -> bytes | None:
        number = self._someone()
        return number and self._measure(number, LABS, f"lab-{self.rng.randrange(1000)}", "LAB")

    def consciousness(self) -> bytes | None:
        number = self._someone()
        if number is None:
            return None
        answer = self.rng.choice(ALERTNESS)
        result = self.hospital.result("67775-7", "", "", at_us=self._when(), coded=answer)
        return self.hospital.report(number, result, order=f"chart-{number}")

    def _earlier(self) -> tuple[str, str, str, int, str] | None:
        if not self.measured:
            return None
        # The last of somebody is the case that matters most: what is then the latest?
        return self.rng.choice(
            (self.measured[-1], self.rng.choice(self.measured[-12:]), self.rng.choice(self.measured))
        )

    def _amend(self, status: str) -> bytes | None:
        earlier = self._earlier()
        if earlier is None:
            return None
        number, order, code, at_us, kind = earlier
        unit, low, high = {**VITALS, **LABS}[code]
        result = self.hospital.result(code, self._number(low, high), unit, at_us=at_us, status=status)
        return self.hospital.report(number, result, order=order, application=kind)

    def correction(self) -> bytes | None:
        return self._amend("C")

    def withdrawal(self) -> bytes | None:
        return self._amend(self.rng.choice("DW"))

    def of_a_bed(self) -> bytes:
        bed = self.rng.choice(BEDS[:-1])
        result = self.hospital.result("8867-4", self._number(50, 140), "/min", at_us=self._when())
        return self.hospital.report("", result, bed=bed, order=f"bed-{bed}", application="MON")

    def too_early(self) -> bytes:
        if not self.early or self.rng.random() < 0.4:
            self.early.append(f"{self._next}")
            self._next += 1
        return self._measure(self.rng.choice(self.early), VITALS, f"early-{self.rng.randrange(3)}", "MON")

    def admission(self) -> bytes | None:
        if len(self.numbers) >= 9 and not self.early:
            return None
        if self.early and self.rng.random() < 0.7:
            number = self.early.pop(0)
        else:
            number = f"{self._next}"
            self._next += 1
        self.numbers.append(number)
        bed = self.bed_of[number] = self.rng.choice(BEDS)
        ago_us = self.rng.choice((0, 10, 600, 7200, 90_000)) * SECOND
        return self.hospital.adt("A01", number, bed, at_us=self.log.now_us - ago_us, **self._care())

    def _care(self) -> dict[str, str]:
        """What a movement says of who cares: often nothing, now and then that nobody does."""
        attending = self._care_rng.choice(("", "", "P-1", "P-2", "P-3", '""'))
        return {"attending": attending, "vip": self._care_rng.choice(("", "", "", "VIP", "N", '""'))}

    def _move(self, trigger: str, bed: str = "", *, ago_s: Sequence[int] = (0, 0, 5, 120)) -> bytes | None:
        number = self._someone()
        if number is None:
            return None
        ago_us = self.rng.choice(ago_s) * SECOND
        return self.hospital.adt(trigger, number, bed, at_us=self.log.now_us - ago_us, **self._care())

    def transfer(self) -> bytes | None:
        return self._move("A02", self.rng.choice(BEDS[:-1]))

    def update(self) -> bytes | None:
        return self._move("A08", self.rng.choice(BEDS))

    def discharge(self) -> bytes | None:
        return self._move("A03")

    def undone_discharge(self) -> bytes | None:
        return self._move("A13", self.rng.choice(BEDS))

    def cancelled_admission(self) -> bytes | None:
        return self._move("A11")

    def merge(self) -> bytes | None:
        if len(self.numbers) < 3:
            return None
        survivor, retired = self.rng.sample(self.numbers, 2)
        return self.hospital.merge(survivor, retired, at_us=self.log.now_us)

    def again(self) -> bytes | None:
        return self.rng.choice(self.told[-40:])[1] if self.told else None

    def conflict(self) -> bytes | None:
        oru = [body for _, body in self.told[-60:] if b"|ORU^R01" in body and b"|H|" in body]
        if not oru:
            return None
        body = self.rng.choice(oru)
        return body + b"NTE|1||other\r"

    def rubbish(self) -> bytes:
        number = self._someone() or "1"
        at_us = self.log.now_us
        result = self.hospital.result
        return self.rng.choice(
            (
                b"garbage",
                b"MSH|^~\\&|A|B\rPID|1",
                self.hospital.report(number, result("8867-4", "80", "/min", at_us=at_us), processing_id="T"),
                self.hospital.report(number, result("8867-4", "80", "kg", at_us=at_us)),
                self.hospital.report(number, result("8867-4", "80", "parsec", at_us=at_us)),
                self.hospital.report(number, result("99999-9", "80", "/min", at_us=at_us)),
                self.hospital.report(number, result("2744-1", "735", "[pH]", at_us=at_us)),
                self.hospital.report(number, result("8867-4", "80", "/min", at_us=at_us + HOUR)),
                self.hospital.report(number, result("8867-4", "", "", at_us=at_us, status="X")),
                self.hospital.report(number, result("8867-4", "many", "/min", at_us=at_us)),
            )
        )


def write_log(hospital_of: Callable[[Callable[[], int]], object], seed: int, messages: int) -> Log:
    """A log of so many messages, the same for the same seed. Its last entry is a tick that all twins are due at."""
    rng = random.Random(seed)
    log = Log()
    story = Storyteller(hospital_of(lambda: log.now_us), rng, log)
    told = 0
    while told < messages:
        log.now_us += round(rng.choice((0.2, 0.5, 1, 3, 9, 31, 75)) * SECOND)
        for _ in range(rng.choice((1, 1, 2, 3))):
            bodies = [story.say() for _ in range(rng.choice((1, 1, 2, 4, 8)))]
            feed = rng.choice(("mixed", "mixed", "monitors", "lab"))
            story.told += [(feed, body) for body in bodies]
            log.append(feed, bodies)
            told += len(bodies)
        if rng.random() < 0.8:
            log.tick()
    log.now_us += 30 * SECOND
    log.tick()
    return log


class _Bus:
    """The one thing that opening a normalizer asks of a bus."""

    def __init__(self, log: Log) -> None:
        self._log = log

    async def raw_extent(self) -> RawExtent:
        return self._log.extent


class _Collecting:
    """Takes snapshots as the bus does."""

    def __init__(self, take: Callable[[Sequence[Publication]], None]) -> None:
        self._take = take

    async def publish_snapshots(self, publications: list[tuple[Publication, bytes]]) -> None:
        self._take([publication for publication, _ in publications])


async def _away(*_: object) -> None:
    raise UnavailableError("the server died in the middle of a transaction")


class Run:
    """One way of folding a log: how it is cut, what gets lost between the processes, who is restarted when."""

    def __init__(
        self,
        log: Log,
        settings: Settings,
        url: str,
        forecaster: Forecaster,
        seed: int,
        serving: Serving | None = None,
    ) -> None:
        self.serving = serving
        self.log, self.settings, self.url, self.forecaster = log, settings, url, forecaster
        self.rng = random.Random(seed)
        self.published: dict[str, bytes] = {}
        self.last: dict[int, bytes] = {}
        self.restarts = 0
        self._terminology = Terminology()
        self._clock = ManualClock(START)
        self._inbox = Inbox(range(PARTITIONS))
        self._sent: list[bytes] = []  # on their way from the normalizer to the engine
        self.next = 0
        self.is_behind = True
        self.normalizer: Normalizer
        self.engine: Engine
        self.keys: KeyRing

    async def open(self) -> None:
        """Take both readers over."""
        self.keys = await open_ring(self.settings, self.url, purpose="test keys")
        try:
            await self._open_normalizer()
            await self._open_engine()
        except BaseException:
            await self.keys.close()
            raise

    async def _open_normalizer(self) -> None:
        self.normalizer = await open_normalizer(
            self.settings,
            _Bus(self.log),  # type: ignore[arg-type]
            self.url,
            self._terminology,
            self.keys,
        )
        incarnation, sequence = divmod(self.normalizer.position, 1 << INCARNATION_SHIFT)
        self.next = sequence if incarnation == self.normalizer.incarnation else 0

    async def _open_engine(self) -> None:
        self.engine = await open_engine(
            self.settings, self.url, self._clock, self.forecaster, range(PARTITIONS), self.keys, self.serving
        )
        self.is_behind = True

    async def normalize(self, most: int) -> None:
        """Let the normalizer take its next packs."""
        raw = self.log.messages[self.next : self.next + most]
        if raw:
            batches, tick = await self.normalizer.normalize(raw)
            self.next += len(raw)
            self._sent += [data for _, data in batches]
            if tick is not None:
                self._sent.append(tick)

    async def fold(self, most: int, *, loss: float = 0.0) -> None:
        """Let the engine take what arrived of the next so many messages of EVENTS."""
        arriving, self._sent = self._sent[:most], self._sent[most:]
        for data in arriving:
            if self.rng.random() >= loss:
                self._inbox.put(data)
        batches, tick = self._inbox.take()
        publications, self.is_behind = await advance(self.engine, batches, tick, is_behind=self.is_behind)
        self._publish(publications)

    def _publish(self, publications: Sequence[Publication]) -> None:
        for publication in publications:
            before = self.published.setdefault(publication.snapshot_id, publication.body)
            assert before == publication.body, f"{publication.snapshot_id} was published with two bodies"
            self.last[publication.patient_id] = publication.body

    async def play(self, *, interruptions: float = 0.0, loss: float = 0.0, largest: int = 12) -> None:
        """Fold the whole log but its last tick, then that tick alone."""
        await self.open()
        final = self.log.messages[-1]
        body = Log(self.log.messages[:-1])
        whole, self.log = self.log, body
        while self.next < len(self.log.messages):
            await self.normalize(self.rng.randint(1, largest))
            for _ in range(self.rng.randint(0, 3)):
                await self.fold(self.rng.randint(0, len(self._sent)), loss=loss)
            if self.rng.random() < interruptions:
                await self._interrupt()
        await self.fold(len(self._sent))
        while self.is_behind or self._sent:
            await self.fold(len(self._sent))
        # A tick that finds no gap proves that nothing was lost on the way.
        self.log = whole
        self.last.clear()
        _, tick = await self.normalizer.normalize([final])
        assert tick is not None
        self._sent = [tick]
        await self.fold(1)
        while self.is_behind:
            await self.fold(0)
            self._sent = [tick]
            await self.fold(1)

    async def _interrupt(self) -> None:
        self.restarts += 1
        await self.rng.choice(
            (
                self._restart_engine,
                self._restart_normalizer,
                self._kill_engine_before_publishing,
                self._kill_normalizer_before_publishing,
                self._break_a_transaction_of_the_engine,
                self._break_a_transaction_of_the_normalizer,
                self._maintain,
            )
        )()

    async def _restart_engine(self) -> None:
        await self.engine.close()
        self._sent.clear()
        self._inbox.take()
        await self._open_engine()
        await self.engine.publish_left_over(_Collecting(self._publish))  # type: ignore[arg-type]

    async def _restart_normalizer(self) -> None:
        await self.normalizer.close()
        await self._open_normalizer()

    async def _kill_engine_before_publishing(self) -> None:
        publish, self._publish = self._publish, lambda _: None  # type: ignore[method-assign]
        await self.fold(len(self._sent))
        self._publish = publish  # type: ignore[method-assign]
        await self._restart_engine()

    async def _kill_normalizer_before_publishing(self) -> None:
        before = len(self._sent)
        await self.normalize(5)
        del self._sent[before:]
        await self._restart_normalizer()

    async def _break_a_transaction_of_the_engine(self) -> None:
        self.engine._ledger.append = _away  # type: ignore[method-assign]
        with suppress(UnavailableError):
            await self.fold(len(self._sent))
        await self._restart_engine()

    async def _break_a_transaction_of_the_normalizer(self) -> None:
        self.normalizer._ledger.append = _away  # type: ignore[method-assign]
        before = len(self._sent)
        with suppress(UnavailableError):
            await self.normalize(5)
        del self._sent[before:]
        await self._restart_normalizer()

    async def _maintain(self) -> None:
        connection = await connect(self.url, application_name="test")
        try:
            async with transaction(connection):
                await partition_log.trim(connection, keep_s=60)
            await timeseries.compact(connection, self.engine.log_time_us - 10 * MINUTE)
        finally:
            await connection.close()

    async def close(self) -> None:
        """Close both connections and the key ring, if they were opened."""
        for reader in (getattr(self, "normalizer", None), getattr(self, "engine", None), getattr(self, "keys", None)):
            if reader is not None:
                await reader.close()


async def _rows(connection: Connection, query: str) -> list[tuple[object, ...]]:
    cursor = await connection.execute(query.encode())
    return sorted((tuple(row) for row in await cursor.fetchall()), key=repr)


_COMPARED = {
    "patient": "select * from patient",
    "identifier": "select * from patient_identifier",
    "merge": "select * from patient_merge",
    "encounter": "select * from encounter",
    "place": "select p.encounter_id, l.facility, l.ward, l.room, l.bed, p.placed_by, p.from_us, p.to_us, p.known_from, "
    "p.known_to from encounter_location p join location l using (location_id)",
    "care": "select * from care_relationship",
    "vip": "select * from encounter_vip",
    "association": "select subject_kind, subject, patient_id, encounter_id, from_us, to_us, known_from, known_to "
    "from device_association",
    "item": 'select position, raw_index, value_index, feed, outcome, reason, "where", found, "values", state, '
    "waits_for from quarantine_item",
    "source": "select * from source_message",
}


async def contents(connection: Connection) -> dict[str, object]:
    """Everything in the database that how the log was cut may not change."""
    async with consistent_read(connection):
        found: dict[str, object] = {name: await _rows(connection, query) for name, query in _COMPARED.items()}
        found["ledger"] = (await ledger.balance(connection)).feeds
        found["pending"] = await partition_log.unfolded(connection)
        # As text, so that a withdrawn value's NaN equals itself.
        found["samples"] = sorted(map(repr, await stored_samples(connection)))
    return found


async def recorded_ids(connection: Connection) -> set[str]:
    """The id of every snapshot that was recorded as published."""
    return {
        snapshot_id(SnapshotKey(partition, position, entry.patient_id))  # type: ignore[arg-type]
        for partition, position, entries in await _rows(
            connection, "select partition, position, entries from snapshot_run"
        )
        for entry in snapshots.unpack_entries(entries)  # type: ignore[arg-type]
    }


async def stored_samples(connection: Connection) -> list[Sample]:
    """Every revision that is stored, of everybody."""
    ids = [row[0] for row in await _rows(connection, "select patient_id from patient")]
    gatherer = samples.Gatherer()
    everything = signals.bits_of(range(64))
    for row in await signals.between(connection, ids, (1, 2, 3), everything, 0, START * 2):
        blocks.decode_into(gatherer, row.columns, row.patient_id, row.seed, None)
    listed = samples.samples_of(gatherer.columns())
    for patient_id, concept, at_us in await _rows(
        connection,
        "select distinct patient_id, concept, (extract(epoch from effective_at) * 1000000)::bigint "
        "from observation_event",
    ):
        listed += await events.revisions(connection, [patient_id], concept, at_us)  # type: ignore[list-item,arg-type]
    return listed


async def minutes_that_differ(connection: Connection, until_us: int) -> list[int]:
    """Patients whose stored minutes are not what their values make of them; they must all be."""
    from_us, to_us = START - 30 * 24 * HOUR, until_us // MINUTE * MINUTE
    async with transaction(connection):
        survivors = await _rows(connection, "select patient_id from patient where merged_into is null")
        ids_of = [await clinical.merged_ids(connection, patient_id) for (patient_id,) in survivors]  # type: ignore[arg-type]
        return [ids[0] for ids in ids_of if await minutes.rebuild_minutes(connection, ids, from_us, to_us)]


def differences(published: bytes, rebuilt: TwinSnapshot) -> list[str]:
    """What a rebuilt snapshot says otherwise than the published one."""
    first, second = from_bytes(published), rebuilt
    said = []
    for name in TwinSnapshot.__struct_fields__:
        one, other = getattr(first, name), getattr(second, name)
        if isinstance(one, list):
            said += [f"{name}: {a} / {b}" for a, b in zip_longest(one, other) if a != b]
        elif one != other:
            said.append(f"{name}: {one} / {other}")
    return said
