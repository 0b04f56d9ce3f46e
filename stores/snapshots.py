"""Published snapshots: on their way out (outbox), remembered by digest (runs), and the bodies worth keeping.

Here: what the engine writes in its transaction and what pages and replay look up by snapshot id.
Not here: making a snapshot (twin.forecast), publishing it (twin.publish).

A run's entries are packed, 48 bytes each, big-endian: patient_id int8, as_of_us int8, SHA-256 of the canonical bytes.
Bodies are zstd, sealed under their patient's key; the outbox, which lives for a tenth of a second, under the day's.
What was kept before there were keys is plain zstd, whose first byte says so.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple

import msgspec
import zstandard

from stores import envelope
from stores.database import Connection, to_timestamp, translated
from stores.envelope import KeyDestroyedError, Keys
from vocabulary.errors import BrokenInvariantError
from vocabulary.records import partition_of
from vocabulary.snapshot import Publication, SnapshotKey, digest, snapshot_id

KeptBecause = Literal["minute", "shown", "alert", "first", "movement"]

_ENTRY = struct.Struct(">qq32s")
_ENCODER = msgspec.msgpack.Encoder()
_DECODER = msgspec.msgpack.Decoder(list[Publication])

_BODY = b"snapshot"
_OUTBOX = b"outbox"
_NOBODY = 0  # an outbox row is of many patients

_LARGEST_BODY = 16 * 1024 * 1024
_LARGEST_PAYLOAD = 256 * 1024 * 1024
_AFTER_LAST_BODY = 2_000  # runs a partition commits in the minute after a patient's last kept body, with room to spare
_BEFORE_LAST_BODY = 5_000


class RunEntry(NamedTuple):
    """One snapshot of a run: whose, at what log time, and the SHA-256 of its bytes."""

    patient_id: int
    as_of_us: int
    digest: bytes


class Run(NamedTuple):
    """The snapshots one partition published at one position."""

    partition: int
    position: int
    published_at_us: int
    entries: Sequence[RunEntry]
    voice: str = ""  # under which serving row a model spoke in them (twin.voice)
    rules: str = ""  # the site's rules they were made under (stores.snapshot_rules)


class Outgoing(NamedTuple):
    """One commit's snapshots, waiting to be published."""

    outbox_id: int
    publications: list[Publication]


class Body(NamedTuple):
    """A snapshot body worth keeping: its canonical bytes, and why."""

    partition: int
    position: int
    patient_id: int
    as_of_us: int
    kept_because: KeptBecause
    body: bytes


class Kept(NamedTuple):
    """What is remembered of one published snapshot; `body` where it was worth keeping and can still be read."""

    key: SnapshotKey
    as_of_us: int
    digest: bytes
    body: bytes | None
    is_erased: bool = False  # the patient's key was destroyed
    voice: str = ""  # of its run
    rules: str = ""  # of its run; "": it is older than kept rules


def pack_entries(entries: Iterable[RunEntry]) -> bytes:
    """Return entries as a run's packed bytes."""
    return b"".join(_ENTRY.pack(*entry) for entry in entries)


def unpack_entries(packed: bytes) -> list[RunEntry]:
    """Return the entries of a run's packed bytes.

    Raises:
        BrokenInvariantError: the bytes are not a whole number of entries.
    """
    if len(packed) % _ENTRY.size:
        raise BrokenInvariantError(f"a snapshot run has {len(packed)} bytes: expected a multiple of {_ENTRY.size}")
    return [RunEntry(*entry) for entry in _ENTRY.iter_unpack(packed)]


async def put_outbox(
    connection: Connection, partition: int, position: int, publications: Sequence[Publication], keys: Keys
) -> int:
    """Queue one commit's snapshots of a partition, and return the outbox id to delete once they are published."""
    return (await put_outboxes(connection, [(partition, position, publications)], keys))[0]


async def put_outboxes(
    connection: Connection, rows: Sequence[tuple[int, int, Sequence[Publication]]], keys: Keys
) -> list[int]:
    """Queue several partitions' snapshots (partition, position, publications) at once; ids in the same order."""
    if not rows:
        return []
    await keys.ensure([_NOBODY])
    compressor = zstandard.ZstdCompressor(level=1)  # half of an engine's writes without it
    payloads = [
        keys.seal(_NOBODY, _OUTBOX, compressor.compress(_ENCODER.encode(list(publications))))
        for _, _, publications in rows
    ]
    with translated():
        cursor = await connection.execute(
            "insert into outbox (partition, position, payload) "
            "select partition, position, payload from unnest(%b::int2[], %b::int8[], %b::bytea[]) with ordinality "
            "as o (partition, position, payload, nth) order by nth returning outbox_id",
            ([row[0] for row in rows], [row[1] for row in rows], payloads),
        )
        return sorted(row[0] for row in await cursor.fetchall())


async def take_outbox(
    connection: Connection, limit: int, keys: Keys, partitions: Sequence[int] | None = None
) -> list[Outgoing]:
    """Return the oldest waiting commits, which stay until deleted: published at least once, in order.

    Args:
        connection: inside or outside a transaction.
        limit: most commits to return.
        keys: unseal them.
        partitions: only these (an engine publishes for the partitions it owns); None for all.
    """
    with translated():
        cursor = await connection.execute(
            "select outbox_id, payload from outbox where (%(some)s::int2[] is null or partition = any(%(some)s)) "
            "order by outbox_id limit %(limit)s",
            {"some": None if partitions is None else list(partitions), "limit": limit},
            binary=True,
        )
        rows = await cursor.fetchall()
    await keys.load(envelope.key_ids(row[1] for row in rows))
    unpack = zstandard.ZstdDecompressor().decompress
    return [
        Outgoing(
            row[0], _DECODER.decode(unpack(_unsealed(row[1], _NOBODY, _OUTBOX, keys), max_output_size=_LARGEST_PAYLOAD))
        )
        for row in rows
    ]


def _unsealed(data: bytes, subject: int, purpose: bytes, keys: Keys) -> bytes:
    return keys.unseal(subject, purpose, data) if envelope.is_sealed(data) else data


async def delete_outbox(connection: Connection, outbox_ids: Sequence[int]) -> None:
    """Remove commits that were published; those gone already are no error."""
    if not outbox_ids:
        return
    with translated():
        await connection.execute("delete from outbox where outbox_id = any(%s::int8[])", (list(outbox_ids),))


async def put_run(
    connection: Connection, partition: int, position: int, published_at_us: int, entries: Sequence[RunEntry]
) -> None:
    """Remember what one partition published at one position."""
    await put_runs(connection, [Run(partition, position, published_at_us, entries)])


async def put_runs(connection: Connection, runs: Sequence[Run]) -> None:
    """Remember what several partitions published, at once.

    Raises:
        BrokenInvariantError: a partition published at that position already.
    """
    if not runs:
        return
    with translated():
        await connection.execute(
            "insert into snapshot_run (partition, position, published_at, entries, voice, rules) "
            "select * from unnest(%b::int2[], %b::int8[], %b::timestamptz[], %b::bytea[], %b::text[], %b::text[])",
            (
                [run.partition for run in runs],
                [run.position for run in runs],
                [to_timestamp(run.published_at_us) for run in runs],
                [pack_entries(run.entries) for run in runs],
                [run.voice for run in runs],
                [run.rules for run in runs],
            ),
        )


async def put_bodies(connection: Connection, bodies: Sequence[Body], keys: Keys) -> None:
    """Keep bodies, each sealed under its patient's key; one that is kept already stays as it is."""
    if not bodies:
        return
    await keys.ensure({body.patient_id for body in bodies})
    compressor = zstandard.ZstdCompressor(level=3)
    packed = [keys.seal(body.patient_id, _BODY, compressor.compress(body.body)) for body in bodies]
    with translated():
        await connection.execute(
            "insert into snapshot_body (partition, position, patient_id, as_of_us, kept_because, body) "
            "select * from unnest(%b::int2[], %b::int8[], %b::int8[], %b::int8[], %b::text[], %b::bytea[]) "
            "on conflict do nothing",
            (
                [body.partition for body in bodies],
                [body.position for body in bodies],
                [body.patient_id for body in bodies],
                [body.as_of_us for body in bodies],
                [body.kept_because for body in bodies],
                packed,
            ),
        )


async def find(connection: Connection, key: SnapshotKey, keys: Keys) -> Kept | None:
    """Return what is remembered of a published snapshot, or None where none with this id was published.

    Raises:
        BrokenInvariantError: the kept body does not have the digest that was published.
        KeyMissingError: its key is not here.
    """
    with translated():
        cursor = await connection.execute(
            "select r.entries, b.body, r.voice, r.rules from snapshot_run r left join snapshot_body b "
            "on b.patient_id = %s and b.position = r.position and b.partition = r.partition "
            "where r.partition = %s and r.position = %s",
            (key.patient_id, key.partition, key.position),
            binary=True,
        )
        row = await cursor.fetchone()
    if row is None:
        return None
    for entry in unpack_entries(row[0]):
        if entry.patient_id == key.patient_id:
            await keys.load(envelope.key_ids([row[1]]))
            return _kept(key, entry.as_of_us, entry.digest, row[1], keys)._replace(voice=row[2], rules=row[3])
    return None


async def latest_body(connection: Connection, patient_id: int, keys: Keys) -> Kept | None:
    """Return a patient's newest kept body, checked against what was published, or None."""
    with translated():
        cursor = await connection.execute(
            "select partition, position from snapshot_body where patient_id = %s order by position desc limit 1",
            (patient_id,),
        )
        row = await cursor.fetchone()
    return None if row is None else await find(connection, SnapshotKey(row[0], row[1], patient_id), keys)


async def recent_ids(connection: Connection, patient_id: int, limit: int) -> list[str]:
    """Return the ids of a patient's newest published snapshots, newest first, with or without a kept body.

    Runs hold no index by patient, so the search starts at the patient's newest kept body (at most a minute before the
    newest snapshot) and reads a bounded number of runs to both sides; `limit` ids may not all be found.
    """
    partition = partition_of(patient_id)
    with translated():
        cursor = await connection.execute(
            "with newest as (select coalesce((select position from snapshot_body where patient_id = %(patient)s "
            "order by position desc limit 1), (select max(position) from snapshot_run "
            "where partition = %(partition)s)) as position), "
            "later as (select r.position, r.entries from snapshot_run r, newest n where r.partition = %(partition)s "
            "and r.position > n.position order by r.position limit %(after)s), "
            "earlier as (select r.position, r.entries from snapshot_run r, newest n where r.partition = %(partition)s "
            "and r.position <= n.position order by r.position desc limit %(before)s) "
            "select position from (select * from later union all select * from earlier) as near "
            # A patient's bytes may also occur inside a digest: the offset must be an entry's first.
            "where exists (select from generate_series(0, length(entries) / %(size)s - 1) n "
            "where substring(entries from n * %(size)s + 1 for 8) = int8send(%(patient)s)) "
            "order by position desc limit %(limit)s",
            {
                "patient": patient_id,
                "partition": partition,
                "after": _AFTER_LAST_BODY,
                "before": _BEFORE_LAST_BODY,
                "size": _ENTRY.size,
                "limit": limit,
            },
        )
        rows = await cursor.fetchall()
    return [snapshot_id(SnapshotKey(partition, row[0], patient_id)) for row in rows]


async def bodies_under(
    connection: Connection, patient_ids: Sequence[int], key_ids: Sequence[bytes]
) -> dict[bytes, int]:
    """Return how many kept bodies of some patients are sealed under each of some keys."""
    with translated():
        cursor = await connection.execute(
            "select substring(body from 2 for %s), count(*) from snapshot_body where patient_id = any(%s::int8[]) "
            "and get_byte(body, 0) = 1 and substring(body from 2 for %s) = any(%b::bytea[]) group by 1",
            (envelope.KEY_ID_BYTES, list(patient_ids), envelope.KEY_ID_BYTES, list(key_ids)),
            binary=True,
        )
        return {row[0]: row[1] for row in await cursor.fetchall()}


def bodies_of(rows: Iterable[tuple[int, bytes]], keys: Keys) -> Iterable[bytes | None]:
    """Yield kept bodies of (patient_id, column), None where the key was destroyed; their keys are loaded."""
    unpack = zstandard.ZstdDecompressor().decompress
    for patient_id, column in rows:
        try:
            packed = _unsealed(column, patient_id, _BODY, keys)
        except KeyDestroyedError:
            yield None
        else:
            yield unpack(packed, max_output_size=_LARGEST_BODY)


def _kept(key: SnapshotKey, as_of_us: int, expected: bytes, column: bytes | None, keys: Keys) -> Kept:
    if column is None:
        return Kept(key, as_of_us, expected, None)
    try:
        packed = _unsealed(column, key.patient_id, _BODY, keys)
    except KeyDestroyedError:
        return Kept(key, as_of_us, expected, None, is_erased=True)
    body = zstandard.ZstdDecompressor().decompress(packed, max_output_size=_LARGEST_BODY)
    if digest(body) != expected:
        raise BrokenInvariantError(
            f"the kept body of snapshot {key.partition:02d}-{key.position} is not what was published: "
            "expected the run's digest. Do not show it; rebuild it with `vigil replay`."
        )
    return Kept(key, as_of_us, expected, body)
