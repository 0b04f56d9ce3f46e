"""MLLP framing: golden bytes, any cut of the stream, bounded memory."""

from __future__ import annotations

import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from interop.mllp import Frame, Framer, frame

bodies = st.binary(max_size=40).filter(
    lambda body: b"\x1c\r" not in body and b"\x1c\x0b" not in body and b"\x0bMSH" not in body and body[-1:] != b"\x1c"
)


def cut(data: bytes, places: list[int]) -> list[bytes]:
    """Return the data in pieces, cut at places taken modulo its length."""
    at = sorted({place % (len(data) + 1) for place in places})
    return [data[start:end] for start, end in zip([0, *at], [*at, len(data)], strict=True)]


def test_a_block_is_start_body_end_and_carriage_return():
    assert frame(b"MSH|x") == b"\x0bMSH|x\x1c\x0d"
    assert Framer(100).feed(b"\x0bMSH|x\x1c\x0d") == [Frame(b"MSH|x", 5)]


@pytest.mark.parametrize("body", [b"a\x1c\rb", b"a\x1c", b"\x0bMSH|", b"\x1c\x0b"])
def test_a_body_that_would_break_the_framing_is_refused(body):
    with pytest.raises(ValueError, match="MLLP"):
        frame(body)


@settings(deadline=None)
@given(st.lists(bodies, max_size=6), st.lists(st.integers(min_value=0), max_size=30))
def test_frames_do_not_depend_on_how_the_stream_is_cut(sent, places):
    framer = Framer(100)
    received = [got for piece in cut(b"".join(map(frame, sent)), places) for got in framer.feed(piece)]
    assert received == [Frame(body, len(body)) for body in sent]
    assert framer.close() is None
    assert framer.noise_bytes == 0


@settings(deadline=None)
@given(st.binary(max_size=300), st.lists(st.integers(min_value=0), max_size=30), st.integers(1, 50))
def test_any_bytes_give_the_same_frames_whole_or_in_pieces_and_every_byte_is_accounted_for(data, places, limit):
    whole, pieces = Framer(limit), Framer(limit)
    expected = whole.feed(data)
    received = [got for piece in cut(data, places) for got in pieces.feed(piece)]
    assert received == expected
    last = pieces.close()
    assert last == whole.close()
    assert pieces.noise_bytes == whole.noise_bytes
    in_frames = sum(got.size for got in received) + (last.size if last else 0)
    starts_and_ends = len(data) - in_frames - whole.noise_bytes
    blocks = len(received) + (last is not None)
    assert blocks <= starts_and_ends <= 3 * blocks


def test_bytes_outside_of_blocks_are_counted_and_left_out():
    framer = Framer(100)
    assert framer.feed(b"junk\x0bone\x1c\r\r\n\x0btwo\x1c\rmore") == [Frame(b"one", 3), Frame(b"two", 3)]
    assert framer.noise_bytes == 4 + 2 + 4


def test_an_end_without_carriage_return_before_the_next_start_ends_a_block():
    assert Framer(100).feed(b"\x0bone\x1c\x0btwo\x1c\r") == [Frame(b"one", 3), Frame(b"two", 3)]


def test_an_end_byte_inside_a_body_is_data():
    assert Framer(100).feed(b"\x0ba\x1cb\x1c\x1c\r") == [Frame(b"a\x1cb\x1c", 4)]


def test_a_sender_that_starts_again_inside_a_block_leaves_a_truncated_one():
    assert Framer(100).feed(b"\x0bMSH|one\rOB\x0bMSH|two\x1c\r") == [
        Frame(b"MSH|one\rOB", 10, is_truncated=True),
        Frame(b"MSH|two", 7),
    ]


def test_a_vertical_tab_inside_a_body_is_data():
    assert Framer(100).feed(b"\x0bMSH|a\x0bb\x1c\r") == [Frame(b"MSH|a\x0bb", 7)]


def test_a_connection_that_closes_inside_a_block_leaves_a_truncated_frame():
    framer = Framer(100)
    assert framer.feed(b"\x0bMSH|half") == []
    assert framer.is_inside
    assert framer.close() == Frame(b"MSH|half", 8, is_truncated=True)
    assert not framer.is_inside
    assert framer.close() is None


def test_a_connection_that_closes_after_the_end_byte_leaves_a_whole_frame():
    framer = Framer(100)
    assert framer.feed(b"\x0bMSH|x\x1c") == []
    assert framer.close() == Frame(b"MSH|x", 5)


def test_a_body_at_the_limit_is_whole_and_one_byte_more_is_oversize():
    assert Framer(5).feed(b"\x0b12345\x1c\r") == [Frame(b"12345", 5)]
    assert Framer(5).feed(b"\x0b123456\x1c\r") == [Frame(b"123456", 6, is_oversize=True)]


@pytest.mark.parametrize("piece_bytes", [1 << 16, 977, 100_003])
def test_a_huge_body_costs_the_limit_in_memory_and_keeps_its_size_and_beginning(piece_bytes):
    limit, size = 256 * 1024, 20_000_000
    framer = Framer(limit)
    assert framer.feed(b"\x0b" + b"MSH|" + bytes(range(100, 120)) * 300) == []
    sent = 4 + 20 * 300
    piece = b"x" * piece_bytes
    tracemalloc.start()
    try:
        while sent < size:
            assert framer.feed(piece) == []
            assert framer.buffered_bytes <= limit
            sent += piece_bytes
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 4 * limit
    (got,) = framer.feed(b"\x1c\r")
    assert (got.size, got.is_oversize, got.is_truncated) == (sent, True, False)
    assert got.body == (b"MSH|" + bytes(range(100, 120)) * 300)[:4096]
    assert framer.feed(b"\x0bnext\x1c\r") == [Frame(b"next", 4)]


def test_a_limit_must_be_positive():
    with pytest.raises(ValueError, match="limit_bytes"):
        Framer(0)
