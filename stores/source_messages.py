"""A sender's own identity of each message, so that a retransmission is found (promise 3).

Here: claiming identities for a batch of messages, forgetting old ones.
Not here: what the identity consists of on another door (its decoder in interop), what becomes of a duplicate
(twin.normalizer).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from uuid import UUID

import msgspec

from stores.database import Connection, to_microseconds, to_timestamp, translated
from vocabulary.errors import BrokenInvariantError


class Source(msgspec.Struct, frozen=True):
    """One message's identity and where it lies in the log."""

    key: UUID  # see source_key
    body_digest: UUID  # see body_digest
    position: int
    index: int
    received_at_us: int


class Seen(msgspec.Struct, frozen=True):
    """The message that was first to carry an identity."""

    position: int
    index: int
    received_at_us: int
    is_same_body: bool  # False: the sender used one control id for two messages


def source_key(feed: str, sending_application: str, sending_facility: str, control_id: str) -> UUID:
    """Return the identity of an HL7 message: its feed, MSH-3, MSH-4 and MSH-10."""
    joined = f"{feed}\x1f{sending_application}\x1f{sending_facility}\x1f{control_id}"
    return UUID(bytes=hashlib.md5(joined.encode("utf-8", "surrogatepass"), usedforsecurity=False).digest())


def body_digest(body: bytes) -> UUID:
    """Return the first half of the SHA-256 of a message's bytes."""
    return UUID(bytes=hashlib.sha256(body).digest()[:16])


async def claim(connection: Connection, sources: Sequence[Source]) -> list[Seen | None]:
    """Remember identities, and return for each what was seen first, or None where this message is the first.

    Idempotent: a message asked about again (same position and index) is still the first. Within `sources` the earlier
    one is first.
    """
    if not sources:
        return []
    firsts: dict[UUID, Source] = {}
    for source in sources:
        firsts.setdefault(source.key, source)
    fresh = await _insert(connection, list(firsts.values()))
    known = await _read(connection, [key for key in firsts if key not in fresh])
    return [_judge(source, known.get(source.key) or firsts[source.key]) for source in sources]


async def _insert(connection: Connection, sources: Sequence[Source]) -> set[UUID]:
    with translated():
        cursor = await connection.execute(
            "insert into source_message (source_key, body_digest, position, raw_index, received_at) "
            "select * from unnest(%b::uuid[], %b::uuid[], %b::int8[], %b::int4[], %b::timestamptz[]) "
            "on conflict do nothing returning source_key",
            (
                [source.key for source in sources],
                [source.body_digest for source in sources],
                [source.position for source in sources],
                [source.index for source in sources],
                [to_timestamp(source.received_at_us) for source in sources],
            ),
            binary=True,
        )
        return {row[0] for row in await cursor.fetchall()}


async def _read(connection: Connection, keys: Sequence[UUID]) -> dict[UUID, Source]:
    if not keys:
        return {}
    with translated():
        cursor = await connection.execute(
            "select source_key, body_digest, position, raw_index, received_at from source_message "
            "where source_key = any(%b::uuid[])",
            (list(keys),),
            binary=True,
        )
        known = {
            row[0]: Source(row[0], row[1], row[2], row[3], to_microseconds(row[4])) for row in await cursor.fetchall()
        }
    if len(known) != len(keys):
        raise BrokenInvariantError(
            f"{len(keys) - len(known)} message identities were neither new nor known: another process forgets them"
        )
    return known


def _judge(source: Source, first: Source) -> Seen | None:
    if (first.position, first.index) == (source.position, source.index):
        return None
    return Seen(first.position, first.index, first.received_at_us, first.body_digest == source.body_digest)


async def forget(connection: Connection, before_us: int) -> int:
    """Remove identities received before a time, and return how many; keep at least seven days."""
    with translated():
        cursor = await connection.execute(
            "delete from source_message where received_at < %s", (to_timestamp(before_us),)
        )
        return cursor.rowcount
