"""Retransmissions are found by the sender's own identity, whatever way messages were batched."""

from __future__ import annotations

import itertools
from uuid import UUID

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stores import source_messages
from stores.database import transaction
from stores.source_messages import Seen, Source, body_digest, source_key


def source(key: int, body: int, position: int, index: int = 0) -> Source:
    return Source(UUID(int=key), UUID(int=body), position, index, 1_000_000 + position)


async def claimed(connection, *sources: Source) -> list[Seen | None]:
    async with transaction(connection):
        return await source_messages.claim(connection, sources)


async def test_the_first_is_new_and_the_second_is_told_what_was_first(connection):
    assert await claimed(connection, source(1, 5, 10, 3), source(2, 6, 10, 4)) == [None, None]
    assert await claimed(connection, source(1, 5, 11), source(2, 9, 11, 1), source(3, 7, 11, 2)) == [
        Seen(10, 3, 1_000_010, True),
        Seen(10, 4, 1_000_010, False),
        None,
    ]


async def test_a_retransmission_within_one_batch_is_found(connection):
    assert await claimed(connection, source(1, 5, 10, 0), source(1, 5, 10, 1), source(1, 8, 10, 2)) == [
        None,
        Seen(10, 0, 1_000_010, True),
        Seen(10, 0, 1_000_010, False),
    ]


async def test_asking_again_about_the_same_message_changes_nothing(connection):
    asked = [source(1, 5, 10), source(1, 5, 10, 1), source(2, 5, 10, 2)]
    first = await claimed(connection, *asked)
    assert await claimed(connection, *asked) == first


async def test_a_claim_undone_was_never_made(connection):
    await source_messages.claim(connection, [source(1, 5, 10)])
    await connection.rollback()
    assert await claimed(connection, source(1, 5, 11)) == [None]


async def test_forgetting_makes_room_for_the_old_identity_only(connection):
    await claimed(connection, source(1, 5, 10), source(2, 5, 20))
    async with transaction(connection):
        assert await source_messages.forget(connection, 1_000_020) == 1
    assert await claimed(connection, source(1, 5, 30), source(2, 5, 30, 1)) == [None, Seen(20, 0, 1_000_020, True)]


async def test_nothing_claimed_is_nothing(connection):
    assert await source_messages.claim(connection, []) == []


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    messages=st.lists(st.tuples(st.integers(0, 4), st.integers(0, 2)), max_size=25),
    cuts=st.lists(st.integers(0, 25), max_size=4),
)
async def test_the_answer_does_not_depend_on_batching(connection, messages, cuts):
    sources = [source(key, body, 100 + n) for n, (key, body) in enumerate(messages)]
    firsts: dict[UUID, Source] = {}
    expected: list[Seen | None] = []
    for one in sources:
        first = firsts.setdefault(one.key, one)
        same = first.body_digest == one.body_digest
        expected.append(None if first is one else Seen(first.position, 0, first.received_at_us, same))
    edges = [0, *sorted(min(cut, len(sources)) for cut in cuts), len(sources)]
    found = []
    for start, end in itertools.pairwise(edges):
        found += await source_messages.claim(connection, sources[start:end])
    assert found == expected
    await connection.rollback()


def test_identities_differ_where_any_part_differs():
    parts = ("monitors", "GATEWAY", "ICU", "42")
    keys = {source_key(*parts)}
    for n in range(4):
        keys.add(source_key(*(part + "x" if n == m else part for m, part in enumerate(parts))))
    keys.add(source_key("monitors", "GATEWAYI", "CU", "42"))
    assert len(keys) == 6
    assert source_key(*parts) == source_key(*parts) == UUID("0d00b5ec416450868bc9f3099568ee6c")
    assert body_digest(b"abc") == UUID("ba7816bf-8f01-cfea-4141-40de5dae2223")


@pytest.mark.parametrize("odd", ["", "\ud800", "\x00"])
def test_any_control_id_has_an_identity(odd):
    assert isinstance(source_key("f", "a", "b", odd), UUID)
