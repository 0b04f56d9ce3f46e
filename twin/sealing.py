"""RAW after its day: sealed into files under patients' keys, noted in the ledger, then removed from the stream.

Only what the normalizer has committed and what is older than the settings say is sealed; it leaves the stream only
once its file is on disk and the ledger holds the file's digest. A crash in between leaves packs in both places; the
next run notes the file and starts behind it.

Here: what may be sealed, and when; bodies outside of RAW handed over at the latest here.
Not here: the files (stores.raw_archive), the stream (twin.bus), whose a message is (twin.normalizer).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from stores import blob_keys, raw_stretch, raw_subjects
from stores.blobs import BlobDamagedError, BlobMissingError, BlobStore
from stores.database import Connection, transaction
from stores.envelope import KeyDestroyedError, KeyMissingError, Keys, nobody
from stores.ledger import LedgerWriter
from stores.raw_archive import Pack, RawArchive, Stretch
from twin.bus import Bus
from twin.outcomes import read_pack
from vocabulary.records import INCARNATION_SHIFT, RawPack

STRETCH_BYTES = 32 * 1024 * 1024
"""How much of RAW goes into one file, before compression: what a reader of one message must unpack."""

_SEQUENCE_MASK = (1 << INCARNATION_SHIFT) - 1
_log = logging.getLogger("vigil.keeper")


class Sealer(NamedTuple):
    """What sealing works with."""

    bus: Bus
    archive: RawArchive
    connection: Connection  # outside of a transaction
    keys: Keys
    ledger: LedgerWriter  # of the chain stores.raw_subjects.SEALER
    blobs: BlobStore


async def seal(sealer: Sealer, *, incarnation: int, up_to_position: int, before_us: int, at_us: int) -> int:
    """Seal packs up to a position that were closed before a log time; return how many left the stream.

    Args:
        sealer: the stream, the files, and what stands between them.
        incarnation: of the stream, as in positions.
        up_to_position: the normalizer's: what it has not committed stays.
        before_us: packs closed at or after this stay.
        at_us: log time, for the ledger.

    Raises:
        UnavailableError: a server does not answer.
        FencedOutError: another keeper sealed at the same moment.
        OSError: a file could not be written; everything still in the stream stays there.
    """
    if up_to_position >> INCARNATION_SHIFT != incarnation:
        return 0
    bus, archive = sealer.bus, sealer.archive
    stretches = await asyncio.to_thread(archive.stretches)
    await _note_unnoted(sealer, stretches, at_us)
    last_sequence = up_to_position & _SEQUENCE_MASK
    extent = await bus.raw_extent()
    sealed_before = max((s.last for s in stretches if s.last >> INCARNATION_SHIFT == incarnation), default=0)
    first = max(extent.first_sequence, 1)
    if sealed_before and (sealed_before & _SEQUENCE_MASK) >= first:
        await bus.trim_raw(sealed_before & _SEQUENCE_MASK)
        first = (sealed_before & _SEQUENCE_MASK) + 1
    reader = bus.raw_reader(first - 1)
    gathered: list[Pack] = []
    size = sealed = 0
    try:
        is_over = False
        while not is_over:
            messages = await reader.take(timeout_s=1.0)
            is_over = not messages
            for message in messages:
                if message.sequence > last_sequence or read_pack(message.data).at_us >= before_us:
                    is_over = True
                    break
                gathered.append(Pack(incarnation << INCARNATION_SHIFT | message.sequence, message.data))
                size += len(message.data)
            if gathered and (is_over or size >= STRETCH_BYTES):
                stretch = await _write(sealer, gathered)
                await _note(sealer, [stretch], at_us)
                await bus.trim_raw(stretch.last & _SEQUENCE_MASK)
                sealed += len(gathered)
                gathered, size = [], 0
    finally:
        await reader.close()
    return sealed


async def _write(sealer: Sealer, packs: Sequence[Pack]) -> Stretch:
    async with transaction(sealer.connection) as connection:
        owners = await raw_subjects.of(connection, packs[0].position, packs[-1].position)
    for pack in packs:
        await _hand_over(sealer, pack.position, read_pack(pack.data), owners)
    wanted = await asyncio.to_thread(raw_stretch.subjects, packs, owners)
    await sealer.keys.ensure(wanted)
    return await asyncio.to_thread(sealer.archive.write, packs, owners, sealer.keys)


async def _hand_over(sealer: Sealer, position: int, pack: RawPack, owners: Mapping[int, Sequence[int]]) -> None:
    """Seal the keys of bodies outside of RAW, where the normalizer did not: nothing stays under the arrivals key."""
    for index, item in enumerate(pack.items):
        if not item.blob:
            continue
        listed = owners.get(position, ())
        subject = listed[index] if index < len(listed) else 0
        try:
            await blob_keys.assign(sealer.blobs, item.blob, subject or nobody(pack.at_us), sealer.keys)
        except (BlobMissingError, BlobDamagedError, KeyDestroyedError, KeyMissingError, ValueError) as error:
            _log.error("blob_unusable", extra={"position": position, "index": index, "kind": type(error).__name__})


async def _note_unnoted(sealer: Sealer, stretches: Sequence[Stretch], at_us: int) -> None:
    """Note files that a crash left without a row, and those from before the ledger held digests."""
    async with transaction(sealer.connection) as connection:
        # Opened anew each time: another keeper, or a person's command, may have written in between.
        await sealer.ledger.open(connection)
        noted = await raw_subjects.last_sealed(connection)
    await _note(sealer, [stretch for stretch in stretches if stretch.first > noted], at_us)


async def _note(sealer: Sealer, stretches: Sequence[Stretch], at_us: int) -> None:
    for stretch in stretches:
        sealing = await asyncio.to_thread(sealer.archive.sealing, stretch)
        try:
            async with transaction(sealer.connection) as connection:
                await sealer.ledger.append(connection, [sealing.entry(at_us)])
                # Also what a late release noted of a pack that was sealed already: there is no other use for it.
                await raw_subjects.forget(connection, stretch.last)
        except BaseException:
            sealer.ledger.rolled_back()
            raise
        sealer.ledger.committed()
