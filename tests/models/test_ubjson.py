"""The structure check that stands before XGBoost, which aborts on bytes it cannot read."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.risk import ubjson


@pytest.mark.parametrize(
    ("content", "keys"),
    [
        (b"{}", set()),
        (b"{i\x01aU\x05}", {b"a"}),
        (b"{L" + (3).to_bytes(8, "big") + b"abcSi\x02xyi\x01b[$d#l\x00\x00\x00\x02" + bytes(8) + b"}", {b"abc", b"b"}),
        (b"{i\x01a[#i\x02TF}", {b"a"}),
        (b"{i\x01a[Z{i\x01bi\x07}]}", {b"a"}),
    ],
)
def test_well_formed_objects_show_their_keys(content, keys):
    assert ubjson.keys(content) == keys


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b"{}x",
        b"{i",
        b"{i\xff",
        b"{i\x01a?}",
        b"{i\x01a[$d#i\x02\x00}",
        b"{i\x01a[$[#i\x02}",
        b"{i\x01a" * 40,
        b'{"learner": 1}',
    ],
)
def test_anything_else_shows_none(content):
    assert ubjson.keys(content) is None


@given(st.binary(max_size=60))
def test_no_bytes_crash_it(content):
    assert ubjson.keys(content) is None or content[:1] == b"{"


@given(st.data())
def test_a_booster_passes_and_none_that_was_cut_or_lengthened(small_trained, data):
    body = next(iter(small_trained.members.values()))
    assert {b"learner", b"version"} <= ubjson.keys(body)
    cut = data.draw(st.integers(0, len(body) - 1))
    assert ubjson.keys(body[:cut]) is None
    assert ubjson.keys(body + b"\x00") is None
