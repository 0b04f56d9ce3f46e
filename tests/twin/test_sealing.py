"""RAW after its day: sealed into files under patients' keys, then gone from the stream, nothing lost in between."""

from __future__ import annotations

import contextlib

import msgspec
import pytest

from governance.privacy import open_ring
from stores import blob_keys, raw_subjects
from stores.blob_keys import ArrivalsLock
from stores.blobs import BlobStore
from stores.database import connect, transaction
from stores.envelope import nobody
from stores.ledger import LedgerWriter
from stores.raw_archive import RawArchive, check
from twin import sealing
from twin.bus import Bus
from vocabulary.errors import UnavailableError
from vocabulary.records import INCARNATION_SHIFT, RawItem, RawPack

DAY_US = 86_400_000_000
INCARNATION = 3


def _pack(number: int, at_us: int, *blobs: str) -> bytes:
    items = [RawItem(at_us, 0, "", b"MSH|%d" % number), *(RawItem(at_us, 0, "", b"", blob=blob) for blob in blobs)]
    return msgspec.msgpack.encode(RawPack(f"p{number}", "lab", at_us, items))


def _position(sequence: int) -> int:
    return INCARNATION << INCARNATION_SHIFT | sequence


class House:
    """A stream of packs, one a day, and all that sealing works with."""

    def __init__(self, sealer, url):
        self.sealer, self.url = sealer, url
        self.bodies: list[bytes] = []

    async def receive(self, *bodies: bytes) -> None:
        for body in bodies:
            self.bodies.append(body)
            await self.sealer.bus.publish_raw("lab", f"p{len(self.bodies)}", body)

    async def seal(self, up_to: int, before_day: int = 99, incarnation: int = INCARNATION) -> int:
        return await sealing.seal(
            self.sealer,
            incarnation=incarnation,
            up_to_position=_position(up_to),
            before_us=before_day * DAY_US,
            at_us=100 * DAY_US,
        )

    async def sealed(self) -> list[bytes]:
        archive, keys = self.sealer.archive, self.sealer.keys
        found = []
        for stretch in archive.stretches():
            await keys.load(archive.key_ids(stretch))
            found += [pack.data for pack in archive.read(stretch, keys)]
        return found

    async def noted(self):
        async with transaction(self.sealer.connection) as connection:
            return await raw_subjects.sealings(connection)

    async def belongs(self, owners) -> None:
        async with transaction(self.sealer.connection) as connection:
            await raw_subjects.put(connection, {_position(sequence): listed for sequence, listed in owners.items()})

    async def left(self) -> dict[int, list[int]]:
        async with transaction(self.sealer.connection) as connection:
            return await raw_subjects.of(connection, 0, 2**62)


@pytest.fixture
async def house(nats_server, new_database, live_plane, tmp_path):
    url = new_database()
    settings = live_plane.settings_for(tmp_path, url, nats_server.url())
    bus = await Bus.connect(nats_server.url(), "test")
    await bus.ensure_streams(64 * 1024 * 1024)
    connection = await connect(url, application_name="test")
    keys = await open_ring(settings, url)
    blobs = BlobStore(tmp_path / "blobs", ArrivalsLock.load(settings.keys_dir / "arrivals.pub"))
    ledger = LedgerWriter(raw_subjects.SEALER)
    yield House(sealing.Sealer(bus, RawArchive(tmp_path / "sealed"), connection, keys, ledger, blobs), url)
    await keys.close()
    await connection.close()
    await bus.close()


async def test_only_what_is_old_and_committed_is_sealed(house):
    await house.receive(*(_pack(number, number * DAY_US) for number in range(1, 11)))
    # The clock would allow 8 packs, the normalizer has committed 5.
    assert await house.seal(5, 9) == 5
    assert await house.sealed() == house.bodies[:5]
    assert (await house.sealer.bus.raw_extent()).first_sequence == 6
    # And now the clock is the limit.
    assert await house.seal(10, 9) == 3
    assert await house.sealed() == house.bodies[:8]
    left = await house.sealer.bus.raw_reader(0).take(timeout_s=2)
    assert [message.data for message in left] == house.bodies[8:]


async def test_a_message_is_sealed_under_its_patients_key_and_the_rest_under_its_days(house):
    await house.receive(*(_pack(number, number * DAY_US) for number in (1, 2, 3)))
    await house.belongs({1: [41], 3: [42]})
    await house.seal(2)
    archive = house.sealer.archive
    assert [c.subject for s in archive.stretches() for c in archive.chunks(s)] == [41, nobody(2 * DAY_US)]
    assert await house.left() == {_position(3): [42]}, "what was sealed needs it no more"


async def test_the_ledger_holds_the_digest_of_each_file_before_the_stream_lets_go(house, monkeypatch):
    await house.receive(*(_pack(number, DAY_US) for number in range(1, 4)))

    async def refuses(*_):
        raise UnavailableError("PostgreSQL is away")

    with monkeypatch.context() as patch:
        patch.setattr(house.sealer.ledger, "append", refuses)
        with pytest.raises(UnavailableError):
            await house.seal(3)
    assert (await house.sealer.bus.raw_extent()).first_sequence == 1, "not noted, so not removed"
    assert await house.noted() == []
    assert await house.seal(3) == 0, "the file is there, and only noted now"
    assert (await house.sealer.bus.raw_extent()).first_sequence == 4
    (noted,) = await house.noted()
    assert (noted.first, noted.last, noted.packs, noted.messages) == (_position(1), _position(3), 3, 3)
    assert check(house.sealer.archive, [noted]) == []


async def test_a_crash_between_noting_and_trimming_seals_nothing_twice(house, monkeypatch):
    await house.receive(*(_pack(number, DAY_US) for number in range(1, 5)))

    async def crash(_up_to: int) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(house.sealer.bus, "trim_raw", crash)
        with contextlib.suppress(KeyboardInterrupt):
            await house.seal(3)
    assert (await house.sealer.bus.raw_extent()).first_sequence == 1
    assert await house.seal(3) == 0
    assert (await house.sealer.bus.raw_extent()).first_sequence == 4
    assert await house.sealed() == house.bodies[:3]
    assert len(await house.noted()) == 1


async def test_a_stream_made_anew_is_not_mistaken_for_the_one_that_was_committed(house):
    await house.receive(_pack(1, DAY_US), _pack(2, DAY_US))
    assert await house.seal(2, incarnation=INCARNATION + 1) == 0
    assert house.sealer.archive.stretches() == []


async def test_no_body_outside_of_raw_stays_under_the_arrivals_key(house):
    keys, blobs = house.sealer.keys, house.sealer.blobs
    known, unknown = blobs.put(b"of 41"), blobs.put(b"nobody's")
    await house.receive(_pack(1, DAY_US, known, unknown, "f" * 64))
    await house.belongs({1: [0, 41]})
    assert all(blob_keys.is_locked(sidecar) for sidecar in blobs.sidecars())
    assert await house.seal(1) == 1, "a blob that is missing is an error in the log, and stops nothing"
    assert not any(blob_keys.is_locked(sidecar) for sidecar in blobs.sidecars())
    assert await blob_keys.read(blobs, known, keys) == b"of 41"
    assert await blob_keys.read(blobs, unknown, keys) == b"nobody's"
    assert keys.subject_of(blobs.sidecar(known)[1:9]) == 41


async def test_whose_a_message_is_can_be_noted_later_until_it_is_sealed(house):
    await house.belongs({5: [0, 7]})
    async with transaction(house.sealer.connection) as connection:
        await raw_subjects.amend(connection, [(_position(5), 0, 8), (_position(6), 2, 9), (_position(5), 3, 8)])
    assert await house.left() == {_position(5): [8, 7, 0, 8], _position(6): [0, 0, 9]}
