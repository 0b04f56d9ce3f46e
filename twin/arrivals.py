"""Messages out of packs: decoded under their feed's rules, and whether their sender sent them before.

Here: bodies from RAW or the blob store, what was cut off or too large, the identity of a message.
Not here: what becomes of a message (twin.normalizer), which decoder reads it (twin.decoders).
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from zoneinfo import ZoneInfo

from interop.messages import Message
from stores import blob_keys, source_messages
from stores.blobs import BlobDamagedError, BlobMissingError, BlobStore
from stores.database import Connection
from stores.envelope import KeyDestroyedError, KeyMissingError, Keys
from twin.decoders import DECODERS
from twin.outcomes import CONTROL_FEED, Arrival
from vocabulary.records import RawId, RawPack, Reason, Rejected
from vocabulary.settings import FeedSettings, Settings

CUT_OFF = "MLLP"
"""Where an item says it was cut: only its beginning is kept, and half a number reads as another number."""

_log = logging.getLogger("vigil.normalizer")


class Arrivals:
    """Makes arrivals of packs."""

    def __init__(self, settings: Settings, keys: Keys) -> None:
        """Know the feeds' rules; nothing is read."""
        self._blobs = BlobStore(settings.data_dir / "blobs")
        self._keys = keys
        self._feeds = {feed.name: feed for feed in settings.feeds}
        self._zones = {feed.name: ZoneInfo(feed.timezone) for feed in settings.feeds}

    def feed(self, name: str) -> FeedSettings:
        """Return a feed's settings; of one that is no longer configured, the defaults."""
        return self._feeds.get(name) or FeedSettings.model_construct(name=name)

    def decode(self, body: bytes, feed: str) -> Message | Rejected:
        """Return a body as a message, its times read in the feed's zone where they carry none."""
        return DECODERS[self.feed(feed).kind](body, self._zones.get(feed, ZoneInfo("UTC")))

    async def arrival(self, position: int, index: int, pack: RawPack) -> Arrival:
        """Return one message of a pack, decoded, or with why it cannot be."""
        item = pack.items[index]
        body = item.body
        raw = RawId(position, index)
        if pack.feed == CONTROL_FEED:
            return Arrival(raw, pack.feed, item, body, Rejected(Reason.UNSUPPORTED_MESSAGE, "", "", ""))
        message: Message | Rejected
        if item.oversize_bytes:
            limit = self.feed(pack.feed).max_message_bytes
            message = Rejected(
                Reason.TOO_LARGE,
                CUT_OFF,
                f"at most {limit} bytes",
                f"{item.oversize_bytes} bytes; the first 4 KiB are kept",
            )
        elif item.is_truncated:
            message = Rejected(
                Reason.MALFORMED, CUT_OFF, "end of block (0x1C 0x0D)", f"connection closed after {len(body)} bytes"
            )
        else:
            try:
                if item.blob:
                    body = await blob_keys.read(self._blobs, item.blob, self._keys)
            except (BlobMissingError, BlobDamagedError, KeyDestroyedError, KeyMissingError) as error:
                # One lost body must not stop the hospital's log; it is itemised, and this line pages somebody.
                _log.error("blob_unusable", extra={"position": position, "index": index, "kind": type(error).__name__})
                message = Rejected(Reason.MALFORMED, "blob store", "the body that was stored", type(error).__name__)
            else:
                message = self.decode(body, pack.feed)
        return Arrival(raw, pack.feed, item, body, message)

    async def give(self, blob: str, patient_id: int) -> None:
        """Hand the body of a blob to its patient: from now on it is erased with that patient's key.

        Raises:
            UnavailableError: the disk or the database is not there.
        """
        try:
            await blob_keys.assign(self._blobs, blob, patient_id, self._keys)
        except (BlobDamagedError, KeyDestroyedError, KeyMissingError) as error:
            # It cannot be read, so there is nothing to hand over.
            _log.error("blob_unusable", extra={"blob": blob, "kind": type(error).__name__})


async def claim(connection: Connection, arrivals: Sequence[Arrival]) -> dict[RawId, source_messages.Seen]:
    """Remember who sent what, and return which messages were seen before."""
    sources: list[source_messages.Source] = []
    for arrival in arrivals:
        if isinstance(arrival.message, Rejected):
            continue
        header = arrival.message.header
        digest = source_messages.body_digest(arrival.body)
        # MSH-10 is unique only within its sender, so the sender is part of the identity. A message without one
        # is known by its body alone.
        key = source_messages.source_key(
            arrival.feed, header.sending_application, header.sending_facility, header.control_id or digest.hex
        )
        sources.append(
            source_messages.Source(
                key=key,
                body_digest=digest,
                position=arrival.raw.position,
                index=arrival.raw.index,
                received_at_us=arrival.item.received_at_us,
            )
        )
    found = await source_messages.claim(connection, sources)
    return {
        RawId(source.position, source.index): seen
        for source, seen in zip(sources, found, strict=True)
        if seen is not None
    }
