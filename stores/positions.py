"""Who may write on behalf of a reader of the log, and how far it has come: the fence of promise 4.

Here: taking a reader over (a new epoch), advancing under that epoch, and the incarnations of the RAW stream.
Not here: what a reader does with what it read (twin.normalizer, twin.engine).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from stores.database import Connection, translated
from vocabulary.errors import BrokenInvariantError, ConfigurationError, FencedOutError
from vocabulary.records import INCARNATION_SHIFT, PARTITIONS

NORMALIZER = "normalizer"
"""The reader that turns RAW into partition batches."""

_LARGEST_INCARNATION = (1 << (63 - INCARNATION_SHIFT)) - 1  # beyond it a position no longer fits a bigint
_INCARNATION_LOCK = 0x7669_6769_6D


class Taken(NamedTuple):
    """What a new owner takes over."""

    reader: str
    epoch: int
    position: int
    log_time_us: int


class Move(NamedTuple):
    """One reader's step forward, by the owner of `epoch`, from `expected` to `position`."""

    reader: str
    epoch: int
    expected: int
    position: int
    log_time_us: int


class Place(NamedTuple):
    """Where a reader is, and whose it is."""

    reader: str
    epoch: int
    position: int
    log_time_us: int
    owner: str
    taken_at_us: int | None


def partition_reader(partition: int) -> str:
    """Return the reader's name of a partition: `partition-07`.

    Raises:
        ValueError: there is no such partition.
    """
    if not 0 <= partition < PARTITIONS:
        raise ValueError(f"expected a partition from 0 to {PARTITIONS - 1}, found {partition}")
    return f"partition-{partition:02d}"


async def take_over(connection: Connection, readers: Sequence[str], owner: str) -> dict[str, Taken]:
    """Become the owner of `readers`: their epochs grow, so whoever owned them is fenced out from its next advance on.

    Waits for the old owner's transaction in flight; what it returns includes that transaction's effect.

    Raises:
        BrokenInvariantError: a reader is not in the position table.
    """
    if not readers:
        return {}
    with translated():
        # Locked in one order by everybody, so that two owners never wait for each other.
        cursor = await connection.execute(
            "with locked as materialized "
            "(select reader from position where reader = any(%s::text[]) order by reader for update) "
            "update position p set epoch = p.epoch + 1, owner = %s, taken_at = now() "
            "from locked where p.reader = locked.reader returning p.reader, p.epoch, p.position, p.log_time_us",
            (sorted(set(readers)), owner),
        )
        taken = {row[0]: Taken(*row) for row in await cursor.fetchall()}
    missing = sorted(set(readers) - set(taken))
    if missing:
        raise BrokenInvariantError(f"no position for the readers {', '.join(missing)}: expected one row each")
    return taken


async def advance(connection: Connection, moves: Sequence[Move]) -> None:
    """Move readers forward; run it first in the transaction that writes what was read.

    Raises:
        FencedOutError: a reader's epoch or position is not what its owner expects; roll back and stop.
        BrokenInvariantError: a move goes backwards, or a reader moves twice.
    """
    if not moves:
        return
    for move in moves:
        if move.position < move.expected:
            raise BrokenInvariantError(f"{move.reader} would go back from {move.expected} to {move.position}")
    readers, epochs, expected, positions, times = (list(column) for column in zip(*moves, strict=True))
    if len(set(readers)) != len(readers):
        raise BrokenInvariantError("a reader moves twice in one advance: merge its moves first")
    with translated():
        cursor = await connection.execute(
            "with moved as (select * from unnest(%s::text[], %s::int8[], %s::int8[], %s::int8[], %s::int8[]) "
            "as m (reader, epoch, expected, position, log_time_us)), locked as materialized "
            "(select p.reader from position p join moved m using (reader) order by p.reader for update of p) "
            "update position p set position = m.position, log_time_us = m.log_time_us "
            "from moved m join locked using (reader) "
            "where p.reader = m.reader and p.epoch = m.epoch and p.position = m.expected",
            (readers, epochs, expected, positions, times),
        )
    if cursor.rowcount != len(moves):
        raise FencedOutError(await _explain(connection, moves))


async def _explain(connection: Connection, moves: Sequence[Move]) -> str:
    # Inside the same transaction our own updates are visible, so a reader that did move is at its new position.
    found = await read(connection)
    for move in moves:
        place = found.get(move.reader)
        if place is None:
            return f"{move.reader}: expected a row in the position table, found none"
        if (place.epoch, place.position) != (move.epoch, move.position):
            return (
                f"{move.reader}: expected epoch {move.epoch} at {move.expected}, found epoch {place.epoch} at "
                f"{place.position}, owned by {place.owner or 'nobody'}. Stop: the owner works on."
            )
    return "a reader was taken over while it advanced. Stop: the new owner works on."


async def read(connection: Connection) -> dict[str, Place]:
    """Return every reader's place, by reader."""
    with translated():
        cursor = await connection.execute(
            "select reader, epoch, position, log_time_us, owner, "
            "(extract(epoch from taken_at) * 1000000)::bigint from position order by reader"
        )
        return {row[0]: Place(*row) for row in await cursor.fetchall()}


async def incarnation(connection: Connection, stream_identity: str) -> int:
    """Return the number of the RAW stream with this identity, registering it when it is new.

    Args:
        connection: inside the caller's transaction.
        stream_identity: what tells the stream from one made anew (its name and creation time).

    Raises:
        ConfigurationError: a newer RAW stream was read already, so this stream's positions would go back.
        BrokenInvariantError: there were too many streams for a position to hold.
    """
    with translated():
        await connection.execute("select pg_advisory_xact_lock(%s)", (_INCARNATION_LOCK,))
        cursor = await connection.execute(
            "select coalesce(max(incarnation), 0), max(incarnation) filter (where stream_identity = %s) "
            "from raw_incarnation",
            (stream_identity,),
        )
        row = await cursor.fetchone()
        newest, ours = row or (0, None)
        if ours is not None and ours != newest:
            raise ConfigurationError(
                f"The RAW stream is number {ours}, but number {newest} was read already: an older stream was restored. "
                "Restore the database of the same time as well, or keep the newer stream."
            )
        if ours is not None:
            return int(ours)
        if newest >= _LARGEST_INCARNATION:
            raise BrokenInvariantError(f"{newest} RAW streams were registered: positions are exhausted")
        await connection.execute(
            "insert into raw_incarnation (incarnation, stream_identity) values (%s, %s)", (newest + 1, stream_identity)
        )
        return int(newest) + 1
