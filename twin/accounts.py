"""The ledger's equation with everything still in flight: does what came in equal what became of it?

Here: counting RAW beyond the normalizer and the partition log beyond the engines, and the remainder.
Not here: the ledger itself (stores.ledger), printing it (orchestration).
"""

from __future__ import annotations

import asyncio
from typing import NamedTuple

import msgspec

from stores import ledger, partition_log, positions, quarantine, raw_subjects
from stores.database import Connection, consistent_read, transaction
from stores.raw_archive import Damage, RawArchive, check
from twin.bus import Bus
from twin.outcomes import CONTROL_FEED, read_pack
from vocabulary.errors import BrokenInvariantError
from vocabulary.records import INCARNATION_SHIFT

_SEQUENCE_MASK = (1 << INCARNATION_SHIFT) - 1


class Side(msgspec.Struct, frozen=True):
    """One side of the books: messages, or values."""

    received: int
    accepted: int
    duplicate: int
    quarantined: int
    rejected: int
    shed: int
    pending: int

    @property
    def remainder(self) -> int:
        """Return what nobody accounts for: 0 when nothing vanished."""
        return (
            self.received - self.accepted - self.duplicate - self.quarantined - self.rejected - self.shed - self.pending
        )


class Account(msgspec.Struct, frozen=True):
    """The books of everything ever received."""

    messages: Side
    values: Side
    without_value: int
    waiting: int  # quarantined messages that an ADT or an association would release

    @property
    def remainder(self) -> int:
        """Return the sum of both sides' absolute remainders."""
        return abs(self.messages.remainder) + abs(self.values.remainder)


async def raw_beyond(bus: Bus, sequence: int) -> int:
    """Return how many messages RAW holds behind a sequence: received, and not yet looked at."""
    extent = await bus.raw_extent()
    if extent.last_sequence <= sequence:
        return 0
    reader = bus.raw_reader(sequence)
    count = 0
    try:
        while True:
            packs = await reader.take(timeout_s=2.0)
            if not packs:
                return count
            count += sum(_messages_in(message.data) for message in packs)
            if packs[-1].sequence >= extent.last_sequence:
                return count
    finally:
        await reader.close()


async def balance(connection: Connection, bus: Bus) -> Account:
    """Return the books as of now.

    Raises:
        UnavailableError: PostgreSQL or JetStream does not answer.
    """
    async with consistent_read(connection):
        sums = (await ledger.balance(connection)).total
        unfolded = await partition_log.unfolded(connection)
        place = (await positions.read(connection))[positions.NORMALIZER]
        waiting = await quarantine.waiting_count(connection)
    extent = await bus.raw_extent()
    async with transaction(connection):
        incarnation = await positions.incarnation(connection, extent.identity)
    sequence = place.position & _SEQUENCE_MASK if place.position >> INCARNATION_SHIFT == incarnation else 0
    raw = await raw_beyond(bus, sequence)
    messages, values = sums.messages, sums.values
    return Account(
        Side(
            messages.received + raw,
            messages.accepted,
            messages.duplicate,
            messages.quarantined,
            messages.rejected,
            messages.shed,
            raw + unfolded.messages,
        ),
        Side(
            values.received,
            values.accepted,
            values.duplicate,
            values.quarantined,
            values.rejected,
            values.shed,
            unfolded.values,
        ),
        sums.without_value,
        waiting,
    )


class Recount(NamedTuple):
    """Two independent counts of everything received, and whether the sealed files are those the ledger holds."""

    found: int  # messages in sealed files and the stream, up to the normalizer's position
    booked: int  # what the ledger says was received
    damages: list[Damage] = []  # noqa: RUF012 — never changed

    @property
    def is_same(self) -> bool:
        """Return whether both agree, and no sealed file is missing or altered."""
        return self.found == self.booked and not self.damages


async def recount(connection: Connection, bus: Bus, archive: RawArchive) -> Recount:
    """Count every message in RAW and its sealed files again, and compare with the ledger. Reads all of it.

    Needs no key: sealed files are counted by their outlines and compared with the digests in the ledger, so erasing a
    patient changes nothing here. A file that cannot be read counts nothing, and is among the damages.

    Raises:
        UnavailableError: PostgreSQL or JetStream does not answer.
    """
    async with consistent_read(connection):
        booked = (await ledger.balance(connection)).total.messages.received
        position = (await positions.read(connection))[positions.NORMALIZER].position
        noted = await raw_subjects.sealings(connection)
    found = 0
    sealed_until = 0
    damages = await asyncio.to_thread(check, archive, noted)
    for stretch in archive.stretches():
        sealed_until = stretch.last
        try:
            outlines = await asyncio.to_thread(archive.outlines, stretch)
        except BrokenInvariantError:
            if not any(damage.name == stretch.path.name for damage in damages):
                damages.append(Damage(stretch.path.name, "altered", "it cannot be read"))
            continue
        found += sum(outline.items for outline in outlines if outline.feed != CONTROL_FEED)
    behind = sealed_until & _SEQUENCE_MASK if sealed_until >> INCARNATION_SHIFT == position >> INCARNATION_SHIFT else 0
    reader = bus.raw_reader(behind)
    last = position & _SEQUENCE_MASK
    try:
        while behind < last:
            packs_taken = await reader.take(timeout_s=5.0)
            if not packs_taken:
                break
            behind = packs_taken[-1].sequence
            found += sum(_messages_in(message.data) for message in packs_taken if message.sequence <= last)
    finally:
        await reader.close()
    return Recount(found, booked, damages)


def _messages_in(data: bytes) -> int:
    pack = read_pack(data)
    return 0 if pack.feed == CONTROL_FEED else len(pack.items)


async def drain(connection: Connection, bus: Bus, timeout_s: float) -> Account:
    """Wait until nothing is pending any more, or `timeout_s` is over, and return the books."""
    deadline = asyncio.get_running_loop().time() + timeout_s
    while True:
        account = await balance(connection, bus)
        is_over = asyncio.get_running_loop().time() > deadline
        if is_over or (account.messages.pending == 0 and account.values.pending == 0):
            return account
        await asyncio.sleep(0.2)
