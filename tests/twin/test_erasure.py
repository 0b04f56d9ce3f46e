"""From the socket to the archive: what was said of a patient lies under that patient's key, and goes with it."""

from __future__ import annotations

import msgspec
import pytest

from stores import blob_keys, clinical, data_keys, raw_subjects, snapshots
from stores.blobs import BlobStore
from stores.database import transaction
from stores.envelope import KeyDestroyedError
from stores.ledger import LedgerWriter
from stores.raw_archive import RawArchive
from twin import accounts, replay, sealing
from vocabulary.records import INCARNATION_SHIFT, RawPack, partition_of
from vocabulary.snapshot import SnapshotKey, parse_snapshot_id

MASK = (1 << INCARNATION_SHIFT) - 1


async def _patient(live, number):
    async with transaction(live.connection) as connection:
        (patient_id,) = await clinical.find_by_identifier(connection, number, "H")
    return patient_id


async def _seal(live, tmp_path):
    async with transaction(live.connection):
        row = await (
            await live.connection.execute("select position from position where reader = 'normalizer'")
        ).fetchone()
    archive = RawArchive(tmp_path / "sealed")
    sealer = sealing.Sealer(
        live.bus,
        archive,
        live.connection,
        live.keys,
        LedgerWriter(raw_subjects.SEALER),
        BlobStore(tmp_path / "blobs"),
    )
    await sealing.seal(
        sealer,
        incarnation=row[0] >> INCARNATION_SHIFT,
        up_to_position=row[0],
        before_us=2**62,
        at_us=live.clock.now_us(),
    )
    return archive


async def _packs(live, archive):
    found = []
    for stretch in archive.stretches():
        await live.keys.load(archive.key_ids(stretch))
        found += list(archive.read(stretch, live.keys))
    return found


async def _destroy(live, patient_id):
    async with transaction(live.connection) as connection:
        keys = await data_keys.of_subjects(connection, [patient_id])
        assert await data_keys.destroy(connection, [key.key_id for key in keys], 1, "test", "proof") == len(keys) > 0
    await live.keys.look()


async def test_a_patients_messages_bodies_and_snapshots_go_with_the_key_and_nothing_else(live, hospital, tmp_path):
    now_us = live.clock.now_us()
    early = hospital.heart_rate("3", 63, at_us=now_us)  # of somebody not admitted yet
    large = hospital.report(
        "1", *(hospital.result("8867-4", "61", "/min", at_us=now_us, sub_id=f"{n}") for n in range(6_000)), order="big"
    )
    assert len(large) > 256 * 1024
    sent = [
        hospital.adt("A01", "1", "B1", at_us=now_us - 60_000_000),
        hospital.adt("A01", "2", "B2", at_us=now_us - 60_000_000),
        early,
        hospital.heart_rate("1", 61, at_us=now_us),
        hospital.heart_rate("2", 62, at_us=now_us),
        hospital.heart_rate("1", 61, at_us=now_us, processing_id="T"),  # held, and yet of patient 1
        large,
        b"MSH|nobody's",
        hospital.adt("A01", "3", "B3", at_us=now_us - 60_000_000),  # releases what came early
    ]
    await live.send("adt", *sent)
    await live.drain()
    await live.next_ticks()
    one, two, three = [await _patient(live, number) for number in "123"]
    archive = await _seal(live, tmp_path)
    before = await _packs(live, archive)
    recount = await accounts.recount(live.connection, live.bus, archive)
    assert recount.is_same, recount
    bodies = [
        (item.body, item.blob) for pack in before for item in msgspec.msgpack.decode(pack.data, type=RawPack).items
    ]
    assert [body for body, _ in bodies if body] == [body for body in sent if body is not large], "bit for bit"
    (blob,) = [name for _, name in bodies if name]
    blobs = BlobStore(tmp_path / "blobs")
    assert await blob_keys.read(blobs, blob, live.keys) == large
    chunks = {chunk.subject for stretch in archive.stretches() for chunk in archive.chunks(stretch)}
    assert {one, two, three} < chunks
    assert len(chunks) == 4, "and what is nobody's that day"

    async with transaction(live.connection) as connection:
        ids = {patient: await snapshots.recent_ids(connection, patient, 1000) for patient in (one, two)}
    kept = {
        patient: [name for name in names if (await _find(live, name)).body is not None]
        for patient, names in ids.items()
    }
    assert kept[one]
    assert kept[two]
    await _destroy(live, one)

    after = await _packs(live, archive)
    erased = {body for pack in after for body in _bodies(pack)} ^ {body for body, _ in bodies}
    assert {body for body in erased if body} == {sent[0], sent[3], sent[5]}
    assert sum(len(pack.erased) for pack in after) == 3
    with pytest.raises(KeyDestroyedError):
        await blob_keys.read(blobs, blob, live.keys)
    for name in kept[one]:
        found = await _find(live, name)
        assert (found.body, found.is_erased) == (None, True)
        # Its digest is still there, and so is the proof that it was published.
        assert (await replay.replay(live.connection, live.forecaster, name, live.keys)).is_identical
    for name in kept[two]:
        assert (await _find(live, name)).body is not None
    await _destroy(live, three)
    left = {body for pack in await _packs(live, archive) for body in _bodies(pack)}
    assert left == {sent[1], sent[4], sent[7], b""}, "what came before its admission went with its patient too"
    assert (await accounts.recount(live.connection, live.bus, archive)).is_same, "the books stand"
    assert (await accounts.balance(live.connection, live.bus)).remainder == 0


def _bodies(pack):
    return [item.body for item in msgspec.msgpack.decode(pack.data, type=RawPack).items]


async def _find(live, name):
    async with transaction(live.connection) as connection:
        found = await snapshots.find(connection, parse_snapshot_id(name), live.keys)
    assert found is not None
    assert found.key == SnapshotKey(partition_of(found.key.patient_id), found.key.position, found.key.patient_id)
    return found
