"""RAW after its day: sealed into files, then gone from the stream, with nothing lost between the two."""

from __future__ import annotations

import contextlib

import msgspec

from stores.raw_archive import RawArchive
from twin import sealing
from twin.bus import Bus
from vocabulary.records import INCARNATION_SHIFT, RawItem, RawPack

DAY_US = 86_400_000_000
INCARNATION = 3


def _pack(number: int, at_us: int) -> bytes:
    return msgspec.msgpack.encode(RawPack(f"p{number}", "lab", at_us, [RawItem(at_us, 0, "", b"MSH|%d" % number)]))


async def _bus(nats_server, packs: int) -> tuple[Bus, list[bytes]]:
    bus = await Bus.connect(nats_server.url(), "test")
    await bus.ensure_streams(64 * 1024 * 1024)
    bodies = [_pack(number, number * DAY_US) for number in range(1, packs + 1)]
    for number, body in enumerate(bodies, 1):
        await bus.publish_raw("lab", f"p{number}", body)
    return bus, bodies


def _position(sequence: int) -> int:
    return INCARNATION << INCARNATION_SHIFT | sequence


def _sealed(archive: RawArchive) -> list[bytes]:
    return [pack.data for stretch in archive.stretches() for pack in archive.read(stretch)]


async def test_only_what_is_old_and_committed_is_sealed(nats_server, tmp_path):
    bus, bodies = await _bus(nats_server, 10)
    archive = RawArchive(tmp_path / "sealed")
    # The clock would allow 8 packs, the normalizer has committed 5.
    count = await sealing.seal(bus, archive, incarnation=INCARNATION, up_to_position=_position(5), before_us=9 * DAY_US)
    assert count == 5
    assert _sealed(archive) == bodies[:5]
    assert (await bus.raw_extent()).first_sequence == 6
    # And now the clock is the limit.
    count = await sealing.seal(
        bus, archive, incarnation=INCARNATION, up_to_position=_position(10), before_us=9 * DAY_US
    )
    assert count == 3
    assert _sealed(archive) == bodies[:8]
    left = await bus.raw_reader(0).take(timeout_s=2)
    assert [message.data for message in left] == bodies[8:]
    await bus.close()


async def test_a_crash_between_sealing_and_trimming_seals_nothing_twice(nats_server, tmp_path, monkeypatch):
    bus, bodies = await _bus(nats_server, 4)
    archive = RawArchive(tmp_path / "sealed")
    arguments = {"incarnation": INCARNATION, "up_to_position": _position(3), "before_us": 99 * DAY_US}

    async def crash(_up_to: int) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(bus, "trim_raw", crash)
        with contextlib.suppress(KeyboardInterrupt):
            await sealing.seal(bus, archive, **arguments)
    assert (await bus.raw_extent()).first_sequence == 1
    assert await sealing.seal(bus, archive, **arguments) == 0
    assert (await bus.raw_extent()).first_sequence == 4
    assert _sealed(archive) == bodies[:3]
    await bus.close()


async def test_a_stream_made_anew_is_not_mistaken_for_the_one_that_was_committed(nats_server, tmp_path):
    bus, _ = await _bus(nats_server, 2)
    archive = RawArchive(tmp_path / "sealed")
    count = await sealing.seal(
        bus, archive, incarnation=INCARNATION + 1, up_to_position=_position(2), before_us=99 * DAY_US
    )
    assert count == 0
    assert archive.stretches() == []
    await bus.close()
