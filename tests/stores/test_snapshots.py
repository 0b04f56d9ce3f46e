"""Snapshots leave in order through the outbox, are remembered by digest, and never shown with other bytes."""

from __future__ import annotations

import hashlib
import os

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from stores import snapshots
from stores.database import transaction
from stores.envelope import DamagedEnvelopeError
from stores.snapshots import Body, Kept, Run, RunEntry, pack_entries, unpack_entries
from vocabulary.errors import BrokenInvariantError
from vocabulary.records import partition_of
from vocabulary.snapshot import Publication, SnapshotKey

PATIENT = 412
PARTITION = partition_of(PATIENT)
INT8 = st.integers(-(2**63), 2**63 - 1)


def publication(n: int) -> Publication:
    return Publication(f"07-{n}-412", PATIENT, "ICU-2", b'{"n":%d}' % n, [n, n + 1])


def entry(patient_id: int, body: bytes, as_of_us: int = 5) -> RunEntry:
    return RunEntry(patient_id, as_of_us, hashlib.sha256(body).digest())


@given(st.lists(st.builds(RunEntry, INT8, INT8, st.binary(min_size=32, max_size=32)), max_size=20))
def test_entries_survive_packing(entries):
    assert unpack_entries(pack_entries(entries)) == entries


def test_entries_are_packed_as_documented():
    packed = pack_entries([RunEntry(1, 2, bytes(range(32)))])
    assert packed.hex() == "00000000000000010000000000000002" + bytes(range(32)).hex()
    with pytest.raises(BrokenInvariantError, match="multiple of 48"):
        unpack_entries(packed + b"x")


async def test_commits_leave_the_outbox_in_order_and_stay_until_deleted(connection, keys):
    ids = await snapshots.put_outboxes(
        connection, [(7, 10, [publication(1), publication(2)]), (8, 10, [publication(3)])], keys
    )
    ids.append(await snapshots.put_outbox(connection, 7, 11, [publication(4)], keys))
    assert ids == sorted(set(ids))
    expected = [(ids[0], [publication(1), publication(2)]), (ids[1], [publication(3)]), (ids[2], [publication(4)])]
    assert await snapshots.take_outbox(connection, 10, keys) == expected
    assert await snapshots.take_outbox(connection, 2, keys) == expected[:2]
    assert await snapshots.take_outbox(connection, 10, keys, [7, 63]) == [expected[0], expected[2]]
    assert await snapshots.take_outbox(connection, 10, keys, []) == []
    await snapshots.delete_outbox(connection, [ids[0], ids[2], 10**9])
    assert await snapshots.take_outbox(connection, 10, keys) == [expected[1]]


async def test_outbox_ids_belong_to_the_rows_they_are_returned_for(connection, keys):
    rows = [(63 - n, 10, [publication(n)]) for n in range(64)]
    ids = await snapshots.put_outboxes(connection, rows, keys)
    await snapshots.delete_outbox(connection, ids[1:])
    assert await snapshots.take_outbox(connection, 99, keys) == [(ids[0], [publication(0)])]


async def test_a_published_snapshot_is_found_with_and_without_its_body(connection, keys):
    await snapshots.put_run(connection, PARTITION, 20, 9, [entry(1, b"other"), entry(PATIENT, b"mine", 77)])
    key = SnapshotKey(PARTITION, 20, PATIENT)
    digest = hashlib.sha256(b"mine").digest()
    assert await snapshots.find(connection, key, keys) == Kept(key, 77, digest, None)
    await snapshots.put_bodies(connection, [Body(PARTITION, 20, PATIENT, 77, "minute", b"mine")], keys)
    assert await snapshots.find(connection, key, keys) == Kept(key, 77, digest, b"mine")
    assert await snapshots.find(connection, key._replace(patient_id=2), keys) is None
    assert await snapshots.find(connection, key._replace(position=21), keys) is None
    assert await snapshots.find(connection, key._replace(partition=(PARTITION + 1) % 64), keys) is None


async def test_a_body_that_is_not_what_was_published_is_never_returned(connection, keys):
    await snapshots.put_run(connection, PARTITION, 20, 9, [entry(PATIENT, b"mine")])
    await snapshots.put_bodies(connection, [Body(PARTITION, 20, PATIENT, 5, "shown", b"not mine")], keys)
    with pytest.raises(BrokenInvariantError, match="not what was published"):
        await snapshots.find(connection, SnapshotKey(PARTITION, 20, PATIENT), keys)
    with pytest.raises(BrokenInvariantError, match="not what was published"):
        await snapshots.latest_body(connection, PATIENT, keys)


async def test_a_body_kept_already_stays_as_it_is(connection, keys):
    await snapshots.put_run(connection, PARTITION, 20, 9, [entry(PATIENT, b"mine")])
    await snapshots.put_bodies(connection, [Body(PARTITION, 20, PATIENT, 5, "minute", b"mine")], keys)
    await snapshots.put_bodies(connection, [Body(PARTITION, 20, PATIENT, 5, "shown", b"mine")], keys)
    kept = await (await connection.execute("select kept_because from snapshot_body")).fetchall()
    assert kept == [("minute",)]


async def test_the_newest_body_is_the_patients_own(connection, keys):
    assert await snapshots.latest_body(connection, PATIENT, keys) is None
    for position in (20, 21, 22):
        bodies = {PATIENT: b"mine %d" % position, 9: b"other"}
        entries = [entry(patient, body) for patient, body in bodies.items()]
        await snapshots.put_run(connection, PARTITION, position, 9, entries)
        kept = [Body(PARTITION, position, patient, 5, "minute", body) for patient, body in bodies.items()]
        await snapshots.put_bodies(connection, kept if position < 22 else kept[1:], keys)
    newest = await snapshots.latest_body(connection, PATIENT, keys)
    assert newest is not None
    assert (newest.key.position, newest.body) == (21, b"mine 21")


async def test_recent_ids_are_the_patients_newest_first(connection, keys):
    assert await snapshots.recent_ids(connection, PATIENT, 5) == []
    runs = []
    for position in range(1, 41):
        entries = [entry(9, os.urandom(8))]
        if position % 3 == 0:
            entries.append(entry(PATIENT, b"%d" % position))
        runs.append(Run(PARTITION, position, 1, entries))
    # A patient's number inside somebody's digest is no snapshot of the patient.
    runs.append(Run(PARTITION, 41, 1, [RunEntry(9, 1, PATIENT.to_bytes(8, "big") * 4)]))
    await snapshots.put_runs(connection, runs)
    expected = [f"{PARTITION:02d}-{position}-{PATIENT}" for position in range(39, 0, -3)]
    assert await snapshots.recent_ids(connection, PATIENT, 4) == expected[:4]
    await snapshots.put_bodies(connection, [Body(PARTITION, 21, PATIENT, 5, "minute", b"21")], keys)
    assert await snapshots.recent_ids(connection, PATIENT, 100) == expected


async def test_a_patient_long_gone_still_has_recent_ids(connection, keys):
    await snapshots.put_runs(connection, [Run(PARTITION, n, 1, [entry(PATIENT, b"%d" % n)]) for n in range(1, 4)])
    await snapshots.put_bodies(connection, [Body(PARTITION, 2, PATIENT, 5, "minute", b"2")], keys)
    await snapshots.put_runs(connection, [Run(PARTITION, n, 1, [entry(9, b"x")]) for n in range(4, 9_000)])
    assert await snapshots.recent_ids(connection, PATIENT, 2) == [f"{PARTITION:02d}-{n}-{PATIENT}" for n in (3, 2)]


async def test_publishing_twice_at_one_position_is_a_defect(connection):
    with pytest.raises(BrokenInvariantError, match="snapshot_run"):
        async with transaction(connection):
            await snapshots.put_runs(connection, [Run(7, 1, 1, []), Run(7, 1, 1, [])])


async def test_nothing_to_write_is_nothing(connection, keys):
    await snapshots.put_runs(connection, [])
    await snapshots.put_bodies(connection, [], keys)
    await snapshots.delete_outbox(connection, [])
    assert await snapshots.put_outboxes(connection, [], keys) == []


async def test_nothing_of_a_snapshot_lies_in_the_database_in_plain(connection, keys):
    body = b"canary-9f3a " * 4
    await snapshots.put_bodies(connection, [Body(PARTITION, 20, PATIENT, 5, "minute", body)], keys)
    published = Publication(f"07-1-{PATIENT}", PATIENT, "ICU-2", body, [])
    await snapshots.put_outboxes(connection, [(7, 10, [published])], keys)
    for column in ("select body from snapshot_body", "select payload from outbox"):
        (kept,) = await (await connection.execute(column)).fetchone()
        assert b"canary" not in kept
        with pytest.raises(zstandard.ZstdError):
            zstandard.ZstdDecompressor().decompress(kept)


async def test_a_body_under_a_destroyed_key_is_known_and_unreadable_while_others_stay(connection, keys):
    bodies = {PATIENT: b"mine", PATIENT + 64: b"a neighbour's"}
    await snapshots.put_run(connection, PARTITION, 20, 9, [entry(p, body) for p, body in bodies.items()])
    await snapshots.put_bodies(connection, [Body(PARTITION, 20, p, 5, "minute", b) for p, b in bodies.items()], keys)
    key_ids = [keys.of_subject[p] for p in bodies]
    counted = await snapshots.bodies_under(connection, list(bodies), key_ids)
    assert counted == dict.fromkeys(key_ids, 1)
    keys.destroy(PATIENT)
    digest = hashlib.sha256(b"mine").digest()
    key = SnapshotKey(PARTITION, 20, PATIENT)
    assert await snapshots.find(connection, key, keys) == Kept(key, 5, digest, None, is_erased=True)
    neighbour = await snapshots.find(connection, key._replace(patient_id=PATIENT + 64), keys)
    assert neighbour is not None
    assert neighbour.body == b"a neighbour's"


async def test_bodies_from_before_there_were_keys_are_still_read(connection, keys):
    await snapshots.put_run(connection, PARTITION, 20, 9, [entry(PATIENT, b"mine")])
    await connection.execute(
        "insert into snapshot_body values (%s, 20, %s, 5, 'minute', %s)",
        (PARTITION, PATIENT, zstandard.ZstdCompressor(level=3).compress(b"mine")),
    )
    kept = await snapshots.find(connection, SnapshotKey(PARTITION, 20, PATIENT), keys)
    assert kept is not None
    assert kept.body == b"mine"


async def test_a_body_moved_to_another_patients_row_is_refused(connection, keys):
    await snapshots.put_run(connection, PARTITION, 20, 9, [entry(PATIENT, b"mine"), entry(9, b"mine")])
    await snapshots.put_bodies(connection, [Body(PARTITION, 20, PATIENT, 5, "minute", b"mine")], keys)
    await connection.execute("update snapshot_body set patient_id = 9")
    with pytest.raises(DamagedEnvelopeError):
        await snapshots.find(connection, SnapshotKey(PARTITION, 20, 9), keys)
