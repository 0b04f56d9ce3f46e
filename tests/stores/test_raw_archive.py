"""Sealed RAW: what goes in comes out, in order; damage is noticed; a half-written file is no stretch."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stores.raw_archive import Pack, RawArchive
from vocabulary.errors import BrokenInvariantError


@given(bodies=st.lists(st.binary(max_size=300), min_size=1, max_size=30), first=st.integers(0, 2**60))
def test_packs_come_back_as_they_were_sealed(tmp_path_factory, bodies, first):
    archive = RawArchive(tmp_path_factory.mktemp("sealed"))
    packs = [Pack(first + 3 * number, body) for number, body in enumerate(bodies)]
    stretch = archive.write(packs)
    assert archive.stretches() == [stretch]
    assert (stretch.first, stretch.last) == (packs[0].position, packs[-1].position)
    assert list(archive.read(stretch)) == packs
    assert archive.size_bytes() == stretch.path.stat().st_size


def test_stretches_are_listed_in_log_order_whatever_was_sealed_first(tmp_path):
    archive = RawArchive(tmp_path)
    later = archive.write([Pack(1 << 41, b"later")])
    earlier = archive.write([Pack(7, b"earlier")])
    (tmp_path / "00000000000000000000-00000000000000000001.raw.tmp").write_bytes(b"cut off by a crash")
    assert archive.stretches() == [earlier, later]


@pytest.mark.parametrize("positions", [[], [2, 1], [3, 3]])
def test_packs_out_of_order_are_refused(tmp_path, positions):
    with pytest.raises(ValueError, match="growing order"):
        RawArchive(tmp_path).write([Pack(position, b"x") for position in positions])


def test_a_damaged_stretch_is_noticed(tmp_path):
    archive = RawArchive(tmp_path)
    stretch = archive.write([Pack(1, b"a value that matters" * 40)])
    body = bytearray(stretch.path.read_bytes())
    body[len(body) // 2] ^= 0x40
    stretch.path.write_bytes(body)
    with pytest.raises(BrokenInvariantError, match="damaged"):
        list(archive.read(stretch))
