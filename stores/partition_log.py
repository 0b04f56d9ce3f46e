"""What the normalizer made of the log, per partition, kept until the engine has folded it.

Here: appending batches, reading them again from a position, what is still to be folded, trimming what is.
Not here: folding (twin.engine), the bus's copy of the same batches (twin.bus).
The newest batch of each partition is never trimmed: its position is what the next batch calls `previous`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import msgspec

from stores.database import Connection, translated
from vocabulary.errors import BrokenInvariantError
from vocabulary.records import PARTITIONS, Merged, Observed, PartitionBatch, RawId, partition_of

_ENCODER = msgspec.msgpack.Encoder()
_DECODER = msgspec.msgpack.Decoder(PartitionBatch)


class Counts(NamedTuple):
    """Messages and values, as the ledger counts them."""

    messages: int
    values: int


def counts_of(batch: PartitionBatch) -> Counts:
    """Return what a batch counts in the ledger, once it is folded.

    A message counts once however many events it made; a merge, which travels to both partitions, counts in the
    survivor's. Messages that made no event are in no batch: the normalizer accounts for them itself.
    """
    messages: set[RawId] = set()
    values = 0
    for event in batch.events:
        if isinstance(event, Merged) and partition_of(event.survivor_id) != batch.partition:
            continue
        messages.add(event.raw)
        if isinstance(event, Observed):
            values += len(event.observations)
    return Counts(len(messages), values)


def messages_by_feed(batch: PartitionBatch) -> dict[str, int]:
    """Return how many messages a batch carries, by the feed they came from; counted as `counts_of` does."""
    feeds: dict[str, set[RawId]] = {}
    for event in batch.events:
        if isinstance(event, Merged) and partition_of(event.survivor_id) != batch.partition:
            continue
        feeds.setdefault(event.feed, set()).add(event.raw)
    return {feed: len(messages) for feed, messages in feeds.items()}


async def append(connection: Connection, batches: Sequence[PartitionBatch]) -> None:
    """Keep batches, in the transaction that advances the normalizer.

    Raises:
        BrokenInvariantError: the partition already has a batch at that position, or a batch goes back.
    """
    if not batches:
        return
    rows = []
    for batch in batches:
        if batch.position <= batch.previous:
            raise BrokenInvariantError(
                f"partition {batch.partition}: a batch at {batch.position} cannot follow one at {batch.previous}"
            )
        messages, values = counts_of(batch)
        rows.append(
            (
                batch.partition,
                batch.position,
                batch.previous,
                batch.log_time_us,
                messages,
                values,
                _ENCODER.encode(batch),
            )
        )
    with translated():
        # %b: binary parameters; text would double every payload.
        await connection.execute(
            'insert into partition_log (partition, position, previous, log_time_us, messages, "values", payload) '
            "select * from unnest(%b::int2[], %b::int8[], %b::int8[], %b::int8[], %b::int4[], %b::int4[], "
            "%b::bytea[])",
            [list(column) for column in zip(*rows, strict=True)],
        )


async def since(
    connection: Connection, partition: int, position: int, *, limit: int | None = None
) -> list[PartitionBatch]:
    """Return a partition's batches after `position`, oldest first, at most `limit`."""
    with translated():
        cursor = await connection.execute(
            "select payload from partition_log where partition = %s and position > %s order by position limit %s",
            (partition, position, limit),
            binary=True,
        )
        return [_DECODER.decode(row[0]) for row in await cursor.fetchall()]


async def last_positions(connection: Connection) -> list[int]:
    """Return the position of each partition's newest batch, by partition number; 0 where there never was one."""
    with translated():
        # One index probe a partition: a group by would read every row.
        cursor = await connection.execute(
            "select coalesce((select l.position from partition_log l where l.partition = n order by l.position desc "
            "limit 1), 0) from generate_series(0, %s) n order by n",
            (PARTITIONS - 1,),
        )
        return [row[0] for row in await cursor.fetchall()]


async def unfolded(connection: Connection) -> Counts:
    """Return what the normalizer has written and no engine has folded yet: the ledger's `pending`."""
    with translated():
        cursor = await connection.execute(
            'select coalesce(sum(l.messages), 0)::bigint, coalesce(sum(l."values"), 0)::bigint '
            "from generate_series(0, %s) n "
            "join position p on p.reader = 'partition-' || lpad(n::text, 2, '0') "
            "join partition_log l on l.partition = n and l.position > p.position",
            (PARTITIONS - 1,),
        )
        row = await cursor.fetchone()
    assert row is not None
    return Counts(*row)


async def trim(connection: Connection, *, keep_s: float) -> int:
    """Remove folded batches older than `keep_s` of log time, never a partition's newest; return how many."""
    with translated():
        cursor = await connection.execute(
            "delete from partition_log l using position p "
            "where p.reader = 'partition-' || lpad(l.partition::text, 2, '0') and l.position <= p.position "
            "and l.log_time_us < p.log_time_us - %s::int8 "
            "and exists (select from partition_log newer where newer.partition = l.partition "
            "and newer.position > l.position)",
            (round(keep_s * 1_000_000),),
        )
        return cursor.rowcount
