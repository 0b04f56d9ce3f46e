"""The serving record's table: numbered in order, without forks, heard of at the commit and never before."""

from __future__ import annotations

import asyncio

import msgspec
import pytest

from stores import serving
from stores.database import connect, transaction
from stores.serving import ServingRecord
from vocabulary.errors import BrokenInvariantError


def record_of(previous="", **changes):
    fields = {
        "at_us": 1, "scope": "mortality", "slot": "champion", "action": "promote", "version": 1, "model_digest": "m",
        "evidence_digest": "e", "request_id": "r", "signed": '[{"a":"\u2028"}]', "restores": 0, "cause": "ü",
        "by": "clinic", "previous_digest": previous, "key_id": "k", "machine_signature": "s",
    }  # fmt: skip
    return ServingRecord(**(fields | changes))


async def test_rows_come_back_as_they_were_oldest_first(connection):
    async with transaction(connection):
        assert await serving.newest(connection) == 0
        await serving.lock(connection, "mortality")
        first = await serving.append(connection, record_of())
        second = await serving.append(connection, record_of("a", action="abstain", restores=first))
        other = await serving.append(connection, record_of(scope="sepsis"))
        rows = await serving.rows(connection, "mortality")
        assert [row.serving_id for row in rows] == [first, second]
        assert rows[0] == msgspec.structs.replace(record_of(), serving_id=first)
        assert [row.serving_id for row in await serving.rows(connection)] == [first, second, other]
        assert await serving.newest(connection) == other


async def test_two_rows_cannot_follow_the_same_one(connection):
    async with transaction(connection):
        await serving.append(connection, record_of())
    with pytest.raises(BrokenInvariantError):
        async with transaction(connection):
            await serving.append(connection, record_of(action="withdraw"))


@pytest.mark.parametrize("changes", [{"slot": "shadow"}, {"action": "speak"}])
async def test_words_that_are_none_of_ours_are_refused(connection, changes):
    with pytest.raises(BrokenInvariantError):
        async with transaction(connection):
            await serving.append(connection, record_of(**changes))


async def test_who_holds_the_lock_appends_alone(connection, migrated_url):
    other = await connect(migrated_url, application_name="test")

    async def lock():
        async with transaction(other):
            await serving.lock(other, "mortality")
            return await serving.newest(other)

    async with transaction(connection):
        await serving.lock(connection, "mortality")
        waiting = asyncio.create_task(lock())
        await asyncio.sleep(0.1)
        assert not waiting.done()
        number = await serving.append(connection, record_of())
    assert await waiting == number
    await other.close()


async def test_a_row_is_announced_when_it_is_committed(connection, migrated_url):
    other = await connect(migrated_url, application_name="test")
    async with transaction(other):
        await serving.listen(other)
    try:
        async with transaction(connection):
            await serving.append(connection, record_of(scope="sepsis"))
            assert [scope async for scope in serving.heard(other, 0.1)] == []
            raise LookupError
    except LookupError:
        pass
    assert [scope async for scope in serving.heard(other, 0.1)] == []
    async with transaction(connection):
        await serving.append(connection, record_of(scope="sepsis"))
    assert [scope async for scope in serving.heard(other, 5.0)] == ["sepsis"]
    await other.close()
