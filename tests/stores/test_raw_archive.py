"""Sealed RAW: what goes in comes out bit for bit; a destroyed key takes one patient's messages and nothing else."""

from __future__ import annotations

import hashlib

import msgspec
import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stores import raw_stretch
from stores.envelope import nobody
from stores.raw_archive import Outline, Pack, RawArchive, Sealing, check
from vocabulary.errors import BrokenInvariantError
from vocabulary.records import RawItem, RawPack

INT8 = st.integers(-(2**63), 2**63 - 1)
TEXT = st.text(max_size=12)
ITEM = st.builds(RawItem, INT8, INT8, TEXT, st.binary(max_size=60), TEXT, st.integers(0, 2**40), st.booleans())
PACK = st.builds(RawPack, TEXT, TEXT, st.integers(0, 2**60), st.lists(ITEM, max_size=6))
DAY_US = 86_400_000_000


def encoded(pack: RawPack) -> bytes:
    return msgspec.msgpack.encode(pack)


# What RAW may hold: packs as we encode them, packs as another program would, and anything else.
DATA = st.one_of(
    PACK.map(encoded),
    PACK.map(lambda pack: encoded(pack)[:-1] + b"\xc3" if pack.items else encoded(pack) + b""),
    PACK.map(lambda pack: msgspec.msgpack.encode([pack.pack_id, pack.feed, pack.at_us, [[1, 2, "p", b"old"]]])),
    st.binary(max_size=80),
)


def a_pack(*bodies: bytes, at_us: int = 20_000 * DAY_US, feed: str = "lab") -> bytes:
    return encoded(RawPack("p", feed, at_us, [RawItem(at_us, 7, "127.0.0.1:9", body) for body in bodies]))


def written(archive, keys, packs, owners=None):
    keys.have(raw_stretch.subjects(packs, owners or {}))
    return archive.write(packs, owners or {}, keys)


def read(archive, stretch, keys):
    keys.is_ready |= archive.key_ids(stretch)
    return list(archive.read(stretch, keys))


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    contents=st.lists(st.tuples(DATA, st.lists(st.integers(0, 5), max_size=8)), min_size=1, max_size=12),
    first=st.integers(0, 2**60),
)
def test_packs_come_back_bit_for_bit_whatever_they_are(tmp_path_factory, keys, contents, first):
    archive = RawArchive(tmp_path_factory.mktemp("sealed"))
    packs = [Pack(first + 3 * number, data) for number, (data, _) in enumerate(contents)]
    owners = {pack.position: listed for pack, (_, listed) in zip(packs, contents, strict=True)}
    stretch = written(archive, keys, packs, owners)
    assert archive.stretches() == [stretch]
    assert (stretch.first, stretch.last) == (packs[0].position, packs[-1].position)
    assert read(archive, stretch, keys) == packs
    assert archive.size_bytes() == stretch.path.stat().st_size


def test_each_patients_messages_lie_under_their_own_key_and_the_rest_under_the_days(tmp_path, keys):
    archive = RawArchive(tmp_path)
    packs = [Pack(1, a_pack(b"of 7", b"nobody's", b"of 8")), Pack(2, b"no pack"), Pack(3, a_pack(b"of 7 again"))]
    stretch = written(archive, keys, packs, {1: [7, 0, 8], 3: [7]})
    assert [chunk.subject for chunk in archive.chunks(stretch)] == [7, nobody(20_000 * DAY_US), 8]
    assert b"of 7" not in stretch.path.read_bytes()
    assert stretch.path.stat().st_mode & 0o077 == 0 or tmp_path.stat().st_mode & 0o077 == 0


def test_a_destroyed_key_erases_one_patients_messages_and_nothing_else(tmp_path, keys):
    archive = RawArchive(tmp_path)
    packs = [Pack(1, a_pack(b"of 7", b"nobody's", b"of 8")), Pack(2, a_pack(b"of 8")), Pack(3, a_pack(b"of 7"))]
    stretch = written(archive, keys, packs, {1: [7, 0, 8], 2: [8], 3: [7]})
    before = archive.outlines(stretch), archive.sealing(stretch)
    keys.destroy(7)
    left = read(archive, stretch, keys)
    assert left == [
        Pack(1, a_pack(b"", b"nobody's", b"of 8"), erased=(0,)),
        Pack(2, a_pack(b"of 8")),
        Pack(3, a_pack(b""), erased=(0,)),
    ]
    assert (archive.outlines(stretch), archive.sealing(stretch)) == before, "books and digests are as they were"


def test_a_pack_that_lay_whole_under_a_destroyed_key_still_counts(tmp_path, keys):
    archive = RawArchive(tmp_path)
    old = msgspec.msgpack.encode(
        ["p", "lab", 0, [[1, 2, "p", b"a"], [1, 2, "p", b"b"]]]
    )  # as an older version wrote it
    stretch = written(archive, keys, [Pack(1, old), Pack(2, b"no pack")])
    keys.destroy(nobody(0))
    left = read(archive, stretch, keys)
    assert [pack.erased for pack in left] == [(0, 1), (0,)]
    decoded = [msgspec.msgpack.decode(pack.data, type=RawPack) for pack in left]
    assert [(pack.feed, len(pack.items)) for pack in decoded] == [("lab", 2), ("unreadable", 1)]


def test_packs_are_counted_without_any_key(tmp_path, keys):
    archive = RawArchive(tmp_path)
    packs = [Pack(4, a_pack(b"a", b"b")), Pack(5, b"no pack"), Pack(9, a_pack(feed="tick"))]
    stretch = written(archive, keys, packs, {4: [7]})
    keys.by_id.clear()
    assert archive.outlines(stretch) == [Outline(4, "lab", 2), Outline(5, "unreadable", 1), Outline(9, "tick", 0)]


def test_files_from_before_there_were_keys_are_still_read(tmp_path, keys):
    archive = RawArchive(tmp_path)
    rows = [(1, a_pack(b"a", b"b")), (2, b"no pack")]
    path = tmp_path / f"{1:020d}-{2:020d}.raw.zst"
    path.write_bytes(zstandard.ZstdCompressor(level=9).compress(msgspec.msgpack.encode(rows)))
    newer = written(archive, keys, [Pack(3, a_pack(b"c"))])
    old, new = archive.stretches()
    assert (old.first, old.last, new) == (1, 2, newer)
    assert list(archive.read(old, keys)) == [Pack(*row) for row in rows]
    assert archive.outlines(old) == [Outline(1, "lab", 2), Outline(2, "unreadable", 1)]
    assert archive.key_ids(old) == set()


def test_stretches_are_listed_in_log_order_whatever_was_sealed_first(tmp_path, keys):
    archive = RawArchive(tmp_path)
    later = written(archive, keys, [Pack(1 << 41, b"later")])
    earlier = written(archive, keys, [Pack(7, b"earlier")])
    (tmp_path / "00000000000000000000-00000000000000000001.raw.tmp").write_bytes(b"cut off by a crash")
    assert archive.stretches() == [earlier, later]


@pytest.mark.parametrize("positions", [[], [2, 1], [3, 3]])
def test_packs_out_of_order_are_refused(tmp_path, keys, positions):
    with pytest.raises(ValueError, match="growing order"):
        RawArchive(tmp_path).write([Pack(position, b"x") for position in positions], {}, keys)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_changed_byte_of_a_stretch_is_noticed(tmp_path, keys, data):
    archive = RawArchive(tmp_path)
    packs = [Pack(1, a_pack(b"a value that matters", b"another")), Pack(2, b"no pack")]
    stretch = written(archive, keys, packs, {1: [7, 8]})
    body = bytearray(stretch.path.read_bytes())
    body[data.draw(st.integers(0, len(body) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    stretch.path.write_bytes(body)
    with pytest.raises((BrokenInvariantError, AssertionError)):  # AssertionError: the keys' own, of an unknown id
        read(archive, stretch, keys)


def test_chunks_cannot_be_exchanged_between_files(tmp_path, keys):
    one, other = RawArchive(tmp_path / "1"), RawArchive(tmp_path / "2")
    a = written(one, keys, [Pack(1, a_pack(b"first"))], {1: [7]})
    b = written(other, keys, [Pack(2, a_pack(b"other"))], {2: [7]})
    (chunk,) = one.chunks(a)
    mine, theirs = a.path.read_bytes(), b.path.read_bytes()
    a.path.write_bytes(mine[: -chunk.size] + theirs[-chunk.size :])
    with pytest.raises(BrokenInvariantError, match="damaged"):
        read(one, a, keys)


def test_the_digests_in_the_ledger_tell_which_file_is_missing_altered_or_foreign(tmp_path, keys):
    archive = RawArchive(tmp_path)
    stretches = [written(archive, keys, [Pack(n, a_pack(b"%d" % n))]) for n in (1, 2, 3, 9)]
    noted = [archive.sealing(stretch) for stretch in stretches[:3]]
    assert noted[0] == Sealing(
        stretches[0].path.name, hashlib.sha256(stretches[0].path.read_bytes()).hexdigest(), 1, 1, 1, 1
    )
    assert check(archive, noted) == [], "a file behind all that was noted is about to be"
    stretches[0].path.unlink()
    with stretches[1].path.open("ab") as file:
        file.write(b"x")
    damages = check(archive, [noted[0], noted[1], noted[2]._replace(name="x.raw.sealed")])
    assert [(damage.name, damage.kind) for damage in damages] == [
        (stretches[0].path.name, "missing"),
        (stretches[1].path.name, "altered"),
        ("x.raw.sealed", "missing"),
        (stretches[2].path.name, "unknown"),
    ]
