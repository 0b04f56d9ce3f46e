"""RAW into outcomes: every message of the log becomes events for a patient, or an item with a reason.

One process at a time (fenced). One PostgreSQL transaction a batch: position, duplicates, identities, ledger, items and
the partition log together, so that after any crash the log is simply read again from the position.

Here: the order of decisions, the ledger's counts, releasing what waited.
Not here: decoding (interop), who is who (twin.directory), SQL (stores), folding (twin.engine).
"""

from __future__ import annotations

import hashlib
import logging

import msgspec

from governance.privacy import KeyRing
from interop.messages import Message
from interop.terminology import Terminology
from stores import clinical_write, feeds, partition_log, positions, quarantine, raw_subjects, source_messages
from stores.database import Connection, storable, transaction
from stores.ledger import Entry, LedgerWriter, detail_of
from twin.arrivals import CUT_OFF, Arrivals, claim
from twin.bus import RawMessage
from twin.directory import AfterDischarge, BeforeAdmission, Directory, Resolved, Waiting
from twin.ingress import TICK_FEED
from twin.outcomes import CONTROL_FEED, Arrival, Command, Counts, Work, read_pack
from vocabulary.records import (
    INCARNATION_SHIFT,
    Event,
    Merged,
    Observation,
    Observed,
    Outcome,
    PartitionBatch,
    RawId,
    RawItem,
    RawPack,
    Reason,
    Rejected,
    Tick,
    outcome_of,
)
from vocabulary.settings import Settings

RELEASED_INDEX = 1_000_000
"""A released message is given the log place of what released it; its index starts here, above any pack's own."""

_LONGEST_KEY = 600  # characters, so at most 2,400 bytes: an index entry of PostgreSQL holds 2,700

_COMMIT_BYTES = 16 * 1024 * 1024  # of packs in one transaction: decoded they take many times as much memory
_BLOB_WEIGHT = 4 * 1024 * 1024  # what a body outside of RAW counts towards that
_SEQUENCE_MASK = (1 << INCARNATION_SHIFT) - 1
_LONGEST_SENDER = 250  # of MSH-3 and MSH-4 in the list of feeds; the standard allows 227

_ENCODER = msgspec.msgpack.Encoder()
_log = logging.getLogger("vigil.normalizer")


class Normalizer:
    """Turns batches of RAW into transactions. Holds the directory; thrown away whole when a transaction fails."""

    def __init__(
        self,
        settings: Settings,
        connection: Connection,
        terminology: Terminology,
        directory: Directory,
        ledger: LedgerWriter,
        taken: positions.Taken,
        last: list[int],
        waiting_keys: set[str],
        incarnation: int,
        keys: KeyRing,
    ) -> None:
        """Use `open_normalizer`."""
        self._settings = settings
        self._connection = connection
        self._terminology = terminology
        self._directory = directory
        self._ledger = ledger
        self._epoch = taken.epoch
        self.position = taken.position
        self.log_time_us = taken.log_time_us
        self._last = last
        self._waiting_keys = waiting_keys
        self.incarnation = incarnation
        self._arrivals = Arrivals(settings, keys)
        is_same_stream = taken.position >> INCARNATION_SHIFT == incarnation
        self._read_up_to = taken.position & _SEQUENCE_MASK if is_same_stream else 0
        self.messages = 0
        self.not_accepted = 0
        self.missing_packs = 0  # that RAW lost before anybody read them

    async def normalize(self, raw: list[RawMessage]) -> tuple[list[tuple[int, bytes]], bytes | None]:
        """Work through packs in log order and commit; return what to publish: batches by partition, and a tick.

        Raises:
            FencedOutError: another normalizer has taken over.
            UnavailableError: the transaction did not happen, or may have: open anew from the stored position.
        """
        packs: list[tuple[int, RawPack]] = []
        batches: list[PartitionBatch] = []
        tick_position = weight = 0
        log_time_us = self.log_time_us
        position = self.position
        for message in raw:
            self._note_hole(message.sequence)
            position = self.incarnation << INCARNATION_SHIFT | message.sequence
            pack = read_pack(message.data, log_time_us)
            # Log time never goes back, whatever a gateway's clock does.
            log_time_us = max(log_time_us, pack.at_us)
            if pack.feed == TICK_FEED:
                tick_position = position
            else:
                packs.append((position, pack))
                weight += len(message.data) + _BLOB_WEIGHT * sum(1 for item in pack.items if item.blob)
            if weight >= _COMMIT_BYTES:
                batches += await self._commit(packs, position, log_time_us)
                packs, weight = [], 0
        if packs:
            batches += await self._commit(packs, position, log_time_us)
        self.log_time_us = log_time_us
        tick = None
        if tick_position:
            # All that precedes the tick is committed, so the newest batch positions are true for it.
            tick = _ENCODER.encode(Tick(position, log_time_us, list(self._last)))
        return [(batch.partition, _ENCODER.encode(batch)) for batch in batches], tick

    def _note_hole(self, sequence: int) -> None:
        """Say so when RAW no longer holds what nobody has read: somebody purged it, or its disk lost it."""
        missing = sequence - self._read_up_to - 1
        if missing > 0:
            self.missing_packs += missing
            _log.error("raw_has_a_hole", extra={"behind": self._read_up_to, "before": sequence, "packs": missing})
        self._read_up_to = sequence

    async def _commit(self, packs: list[tuple[int, RawPack]], position: int, log_time_us: int) -> list[PartitionBatch]:
        work = Work(position, log_time_us)
        decoded = [
            (
                pack_position,
                pack,
                [await self._arrivals.arrival(pack_position, index, pack) for index in range(len(pack.items))],
            )
            for pack_position, pack in packs
        ]
        move = positions.Move(positions.NORMALIZER, self._epoch, self.position, position, log_time_us)
        try:
            async with transaction(self._connection) as connection:
                await positions.advance(connection, [move])
                seen = await claim(connection, [arrival for _, _, arrivals in decoded for arrival in arrivals])
                # One ledger row a feed for all its packs of this commit: a row a pack would outgrow the values.
                by_feed: dict[str, Counts] = {}
                for pack_position, pack, arrivals in decoded:
                    if pack.feed == CONTROL_FEED:
                        await self._obey(pack_position, pack, work)
                        continue
                    counts = by_feed.setdefault(pack.feed, Counts())
                    work.subjects[pack_position] = [0] * len(arrivals)
                    for arrival in arrivals:
                        await self._decide(arrival, seen.get(arrival.raw), counts, work)
                work.entries.extend(
                    counts.entry(log_time_us, "pack", feed, decoded[0][0], position) for feed, counts in by_feed.items()
                )
                batches = self._batches(work)
                await clinical_write.write(connection, self._directory.take_changes())
                await quarantine.add(connection, work.items)
                await quarantine.resolve(connection, sorted(work.released), "released", position)
                await quarantine.resolve(connection, sorted(work.discarded), "discarded", position)
                await raw_subjects.put(connection, work.subjects)
                await raw_subjects.amend(connection, work.found)
                await partition_log.append(connection, batches)
                await feeds.touch(connection, work.touches)
                await self._ledger.append(connection, work.entries)
                # Before the commit: were it behind it, a crash between the two would leave them nobody's.
                for blob, patient_id in work.blobs.items():
                    await self._arrivals.give(blob, patient_id)
        except BaseException:
            self._ledger.rolled_back()
            raise
        self._ledger.committed()
        self.position = position
        for batch in batches:
            self._last[batch.partition] = batch.position
        self.not_accepted += work.held
        return batches

    async def close(self) -> None:
        """Close the connection."""
        await self._connection.close()

    def _batches(self, work: Work) -> list[PartitionBatch]:
        return [
            PartitionBatch(
                partition,
                self._last[partition],
                work.position,
                work.log_time_us,
                # In the order of the log, as the stores order revisions: what was released comes behind its pack.
                sorted(events, key=_place),
            )
            for partition, events in sorted(work.events.items())
        ]

    async def _decide(self, arrival: Arrival, seen: source_messages.Seen | None, counts: Counts, work: Work) -> None:
        """Give one message its outcome."""
        self.messages += 1
        counts.messages_received += 1
        message = arrival.message
        if isinstance(message, Rejected):
            self._hold_message(arrival, message, 0, counts, work)
            return
        counts.values_received += message.values
        counts.without_value += message.without_value
        before = work.held
        refusal = self._refusal(arrival, message, seen)
        patient_id = 0
        if refusal is not None:
            self._hold_message(arrival, refusal, message.values, counts, work)
        else:
            patient_id = await self._admit(arrival, message, counts, work)
        patient_id = patient_id or self._resembles(arrival, message)
        if patient_id:
            work.belongs(arrival.raw.position, arrival.raw.index, patient_id)
            if arrival.item.blob:
                work.blobs[arrival.item.blob] = patient_id
        self._touch(arrival, message, work.held - before, work)

    def _refusal(self, arrival: Arrival, message: Message, seen: source_messages.Seen | None) -> Rejected | None:
        header = message.header
        if seen is not None:
            if seen.is_same_body:
                return Rejected(
                    Reason.RETRANSMISSION, "MSH-10", "a control id not seen before", "the same message again"
                )
            return Rejected(
                Reason.CONTROL_ID_CONFLICT,
                "MSH-10",
                "one body for a control id",
                "another body under a control id seen before",
            )
        if header.processing_id in {"T", "D"} and not self._arrivals.feed(arrival.feed).accepts_training:
            return Rejected(Reason.NOT_PRODUCTION, "MSH-11", "P (production)", header.processing_id)
        return None

    def _resembles(self, arrival: Arrival, message: Message) -> int:
        """Return whose a message seems to be that reached no twin: it is erased with that patient's. 0: nobody's."""
        resolved = self._directory.resolve(
            message,
            feed=arrival.feed,
            default_authority=self._settings.site,
            at_us=arrival.item.received_at_us,
        )
        return resolved.patient_id if isinstance(resolved, Resolved) else 0

    async def _admit(self, arrival: Arrival, message: Message, counts: Counts, work: Work) -> int:
        """Apply a message that is new and well formed; its outcome may still be to wait.

        Returns:
            Whose it is; 0 where nobody knows yet.
        """
        events: list[Event] = []
        released_keys: tuple[str, ...] = ()
        if message.movement is not None or message.is_merge:
            applied = self._directory.apply(
                message,
                raw=arrival.raw,
                feed=arrival.feed,
                received_at_us=arrival.item.received_at_us,
                received_monotonic_ns=arrival.item.received_monotonic_ns,
                default_authority=self._settings.site,
            )
            if isinstance(applied, Rejected):
                self._hold_message(arrival, applied, message.values, counts, work)
                return 0
            events.extend(applied.events)
            released_keys = applied.released_keys
        if message.values or not (message.movement or message.is_merge):
            observed = self._observe(arrival, message, counts, work)
            if isinstance(observed, (Rejected, Waiting)) and not events:
                self._hold_message(arrival, observed, message.values, counts, work)
                return 0
            if isinstance(observed, Observed):
                events.append(observed)
        if not work.add(events):
            counts.messages[Outcome.ACCEPTED] += 1  # nobody folds it, so it is counted here
        for key in map(_key_line, released_keys):
            if key in self._waiting_keys:
                await self._release_waiting(key, arrival, work)
        return _patient_of(events)

    def _observe(self, arrival: Arrival, message: Message, counts: Counts, work: Work) -> Observed | Waiting | Rejected:
        """Map a message's readings for its patient; values that may not pass are held one by one."""
        at_us = next((r.effective_at_us for r in message.readings if r.effective_at_us is not None), None)
        resolved = self._directory.resolve(
            message,
            feed=arrival.feed,
            default_authority=self._settings.site,
            at_us=at_us if at_us is not None else arrival.item.received_at_us,
        )
        if not isinstance(resolved, Resolved):
            return resolved
        observations: list[Observation] = []
        latest_us = arrival.item.received_at_us + round(self._settings.future_tolerance_s * 1_000_000)
        for index, why in message.rejected:
            self._hold_value(arrival, index, why, counts, work)
        for reading in message.readings:
            outcome = self._terminology.observation(reading, default_effective_at_us=None, default_device="")
            if isinstance(outcome, Observation):
                outcome = self._in_time(outcome, resolved, latest_us) or outcome
            if isinstance(outcome, Rejected):
                self._hold_value(arrival, reading.value_index, outcome, counts, work)
            else:
                observations.append(outcome)
        return Observed(
            arrival.raw,
            resolved.patient_id,
            arrival.feed,
            arrival.item.received_at_us,
            arrival.item.received_monotonic_ns,
            observations,
        )

    def _in_time(self, observation: Observation, resolved: Resolved, latest_us: int) -> Rejected | None:
        where = f"OBX[{observation.value_index + 1}]-14"
        if observation.effective_at_us > latest_us:
            return Rejected(
                Reason.FUTURE_TIME,
                where,
                f"at most {self._settings.future_tolerance_s:g} s ahead of our clock",
                f"{(observation.effective_at_us - latest_us) / 1e6:.0f} s beyond that",
            )
        at_us = observation.effective_at_us
        is_worn = (resolved.from_us is None or resolved.from_us <= at_us) and (
            resolved.to_us is None or at_us < resolved.to_us
        )
        if not is_worn:
            return Rejected(
                Reason.UNASSOCIATED_DEVICE,
                where,
                f"a time at which the {resolved.by} was this patient's",
                "another time",
            )
        stay = self._directory.admission_window(resolved.patient_id, at_us)
        if isinstance(stay, BeforeAdmission):
            return Rejected(Reason.BEFORE_ADMISSION, where, "a time within a stay", "a time before the admission")
        if isinstance(stay, AfterDischarge):
            return Rejected(Reason.AFTER_DISCHARGE, where, "a time within a stay", "a time after the discharge")
        return None

    def _hold_message(self, arrival: Arrival, why: Rejected | Waiting, values: int, counts: Counts, work: Work) -> None:
        """Keep a whole message out of the twins, with its reason and, where it can be released, its bytes."""
        waits_for = ""
        if isinstance(why, Waiting):
            keys = [_key_line(key) for key in why.keys]
            waits_for = "\n".join(keys)
            self._waiting_keys.update(keys)
            why = Rejected(why.reason, "PID-3", "a patient or device known from ADT", "not known yet; waits for it")
        outcome = outcome_of(why.reason)
        counts.messages[outcome] += 1
        counts.values[outcome] += values
        work.held += 1
        work.items.append(
            quarantine.Item(
                position=arrival.raw.position,
                raw_index=arrival.raw.index,
                value_index=-1,
                feed=arrival.feed,
                outcome=outcome,
                reason=why.reason,
                where=why.where,
                expected=why.expected,
                found=why.found,
                values=values,
                received_at_us=arrival.item.received_at_us,
                waits_for=waits_for,
                body=None if outcome is Outcome.DUPLICATE else arrival.body,
            )
        )

    def _hold_value(self, arrival: Arrival, value_index: int, why: Rejected, counts: Counts, work: Work) -> None:
        outcome = outcome_of(why.reason)
        counts.values[outcome] += 1
        work.held += 1
        work.items.append(
            quarantine.Item(
                position=arrival.raw.position,
                raw_index=arrival.raw.index,
                value_index=value_index,
                feed=arrival.feed,
                outcome=outcome,
                reason=why.reason,
                where=why.where,
                expected=why.expected,
                found=why.found,
                values=1,
                received_at_us=arrival.item.received_at_us,
            )
        )

    def _touch(self, arrival: Arrival, message: Message, not_accepted: int, work: Work) -> None:
        header = message.header
        skew_s = None
        if header.message_at_us is not None:
            skew_s = (header.message_at_us - arrival.item.received_at_us) / 1e6
        work.touches.append(
            feeds.FeedTouch(
                feed=arrival.feed,
                source=f"{header.sending_application[:_LONGEST_SENDER]}|{header.sending_facility[:_LONGEST_SENDER]}",
                last_received_at_us=arrival.item.received_at_us,
                last_message_at_us=header.message_at_us,
                clock_skew_s=skew_s,
                expected_interval_s=self._arrivals.feed(arrival.feed).expected_interval_s,
                messages=1,
                values=message.values,
                not_accepted=not_accepted,
            )
        )

    async def _release_waiting(self, key: str, cause: Arrival, work: Work) -> None:
        """Admit what waited for `key`, at the log place of the message that brought it."""
        self._waiting_keys.discard(key)
        await self._flush_items(work)
        for item in await quarantine.waiting_for(self._connection, [key]):
            if item.item_id not in work.released:
                await self._release(item, cause.raw, cause.item.received_at_us, work)

    async def _flush_items(self, work: Work) -> None:
        # What was held earlier in this batch must be found too.
        await quarantine.add(self._connection, work.items)
        work.items.clear()

    async def _release(self, item: quarantine.Item, raw: RawId, at_us: int, work: Work) -> None:
        """Take one held message back into the flow, counting it out of quarantine and into what it becomes."""
        if item.where == CUT_OFF:
            return  # whatever it seems to say
        body = item.body or b""
        message = self._arrivals.decode(body, item.feed)
        if isinstance(message, Rejected):
            return  # it was rejected then and is not understood now either: it stays
        count = work.released_by[raw] = work.released_by.get(raw, 0) + 1
        index = RELEASED_INDEX * (raw.index + 1) + count - 1
        raw_item = RawItem(item.received_at_us, 0, "", body)
        arrival = Arrival(RawId(raw.position, index), item.feed, raw_item, body, message)
        counts = Counts()
        counts.messages[Outcome(item.outcome)] -= 1
        counts.values[Outcome(item.outcome)] -= item.values
        if item.outcome == Outcome.REJECTED:
            # Its values were never counted, since nothing was understood: they are received only now.
            counts.values_received += message.values
            counts.without_value += message.without_value
        work.released.add(item.item_id)
        held = work.held
        patient_id = await self._admit(arrival, message, counts, work)
        if patient_id and item.raw_index < RELEASED_INDEX:
            work.belongs(item.position, item.raw_index, patient_id)
        work.held = held  # counted when it was held; and not its releaser's doing
        work.entries.append(counts.entry(at_us, "released", item.feed, item.position, raw.position))

    async def _obey(self, position: int, pack: RawPack, work: Work) -> None:
        """Carry out an operator's commands, in their place in the log."""
        for index, raw_item in enumerate(pack.items):
            try:
                command = msgspec.json.decode(raw_item.body, type=Command)
            except msgspec.DecodeError:
                _log.error("command_not_understood", extra={"position": position, "index": index})
                continue
            said = detail_of(action=command.action, by=command.by, items=len(command.item_ids))
            work.entries.append(
                Entry(at_us=pack.at_us, kind="note", position_from=position, position_to=position, detail=said)
            )
            for item_id in command.item_ids:
                await self._flush_items(work)
                item = await quarantine.get(self._connection, item_id)
                if item is None or item.state != "open" or item_id in work.released or item_id in work.discarded:
                    continue
                if command.action == "discard":
                    # Its outcome stands; only the question is settled.
                    work.discarded.add(item_id)
                elif item.value_index == -1 and item.body is not None:
                    await self._release(item, RawId(position, index), pack.at_us, work)
        _log.info("control_pack", extra={"commands": len(pack.items)})


def _patient_of(events: list[Event]) -> int:
    """Return whose a message is: the survivor's where it joins two; 0 without events."""
    if not events:
        return 0
    first = events[0]
    return first.survivor_id if isinstance(first, Merged) else first.patient_id


def _place(event: Event) -> tuple[int, int]:
    return event.raw.position, event.raw.index


def _key_line(key: str) -> str:
    """Return a waiting key as one line, short enough for an index: the store keeps several of them one a line."""
    line = storable(key.replace("\n", " "))
    if len(line) <= _LONGEST_KEY:
        return line
    return f"{line[:100]}#{hashlib.sha256(line.encode()).hexdigest()}"
