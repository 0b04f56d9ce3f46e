"""RAW after its day: sealed into compressed files, then removed from the stream.

Only what the normalizer has committed and what is older than the settings say is sealed; it leaves the stream only
once its file is on disk. A crash between the two leaves packs in both places, and the next run starts behind the file.

Here: what may be sealed, and when. Not here: the files (stores.raw_archive), the stream (twin.bus).
"""

from __future__ import annotations

import asyncio

from stores.raw_archive import Pack, RawArchive
from twin.bus import Bus
from twin.outcomes import read_pack
from vocabulary.records import INCARNATION_SHIFT

STRETCH_BYTES = 32 * 1024 * 1024
"""How much of RAW goes into one file, before compression: what a reader of one message must unpack."""

_SEQUENCE_MASK = (1 << INCARNATION_SHIFT) - 1


async def seal(bus: Bus, archive: RawArchive, *, incarnation: int, up_to_position: int, before_us: int) -> int:
    """Seal packs up to a position that were closed before a log time; return how many left the stream.

    Args:
        bus: the stream.
        archive: where the files go.
        incarnation: of the stream, as in positions.
        up_to_position: the normalizer's: what it has not committed stays.
        before_us: packs closed at or after this stay.

    Raises:
        UnavailableError: the server does not answer.
        OSError: a file could not be written; everything still in the stream stays there.
    """
    if up_to_position >> INCARNATION_SHIFT != incarnation:
        return 0
    last_sequence = up_to_position & _SEQUENCE_MASK
    extent = await bus.raw_extent()
    sealed_before = max((s.last for s in archive.stretches() if s.last >> INCARNATION_SHIFT == incarnation), default=0)
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
                stretch = await asyncio.to_thread(archive.write, gathered)
                await bus.trim_raw(stretch.last & _SEQUENCE_MASK)
                sealed += len(gathered)
                gathered, size = [], 0
    finally:
        await reader.close()
    return sealed
