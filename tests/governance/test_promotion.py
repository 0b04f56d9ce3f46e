"""Promotion by the roles of the database: each process does its part and no more, over its own connection."""

from __future__ import annotations

import asyncio

import pytest
from model_committee import POLICY, SCOPE, person_of

from governance import approvals
from governance.access import Role
from governance.model_acts import ModelRefusedError
from governance.promotion import promote_in
from governance.serving import Standing, read_rows
from governance.serving_record import appender_of
from governance.statements import Slot
from stores import serving as stored
from stores.database import connect, transaction
from vocabulary.errors import ConfigurationError, RefusedError
from vocabulary.settings import Settings
from vocabulary.signing import SigningKey


async def test_two_promotions_of_one_request_at_once_make_one_row(desk):
    request = await desk.approved()

    async def once():
        async with desk.house.writing() as connection:
            return await promote_in(
                connection, request.request_id, by=person_of("lena"), appender=desk.committee.appender("clinic"),
                trust=desk.trust(), policy=POLICY, now=desk.now,
            )  # fmt: skip

    found = await asyncio.gather(*(once() for _ in range(4)))
    assert len({row.serving_id for row in found}) == 1
    assert await desk.house.row("select count(*) from serving") == (1,)


async def test_promotions_of_different_requests_at_once_follow_each_other(desk):
    requests = [await desk.approved(number) for number in (1, 2, 3)]
    await asyncio.gather(*(desk.promote(request) for request in requests))
    judged = await desk.judged()
    assert judged.refusals == ()
    assert judged.slots[Slot.CHAMPION].standing is Standing.SPEAKING
    async with desk.house.writing() as connection:
        assert len(await read_rows(connection, SCOPE)) == 3


async def test_a_rejection_that_comes_while_a_promotion_begins_is_not_overtaken(desk):
    request = await desk.approved()
    async with desk.house.writing() as connection:
        await approvals.reject(
            connection, request.request_id, person_of("lena"), Role.CLINICAL_LEAD, "I read it again.",
            trust=desk.trust(), policy=POLICY, now=desk.now,
        )  # fmt: skip
        promoting = asyncio.create_task(desk.promote(request))
        await asyncio.sleep(0.5)  # longer than a promotion takes
        assert not promoting.done(), "it waits for whoever answers the request"
    with pytest.raises(ModelRefusedError) as refused:
        await promoting
    assert refused.value.reason == "rejected"
    assert await desk.house.row("select count(*) from serving") == (0,)


async def test_whoever_listens_hears_of_a_promotion_at_its_commit(desk):
    connection = await desk.house.connect()
    async with transaction(connection):
        await stored.listen(connection)

    async def first():
        async for scope in stored.heard(connection, 10.0):
            return scope
        return None

    waiting = asyncio.create_task(first())
    await desk.promote(await desk.approved())
    assert await asyncio.wait_for(waiting, 10) == SCOPE
    await connection.close()


async def test_hearing_nothing_ends_after_the_time_given(desk):
    connection = await desk.house.connect()
    async with transaction(connection):
        await stored.listen(connection)
    assert [scope async for scope in stored.heard(connection, 0.05)] == []
    await connection.close()


async def test_a_role_without_the_right_is_refused_by_name(desk):
    await desk.promote(await desk.approved())
    connection = await connect(desk.house.url, application_name="test")
    with pytest.raises(RefusedError, match="append-only"):
        async with transaction(connection):
            await connection.execute("update serving set cause = 'x'")
    await connection.close()


def test_an_appender_signs_with_its_own_processs_key(tmp_path):
    key = SigningKey.generate()
    key.save(tmp_path / "ledger.key")
    assert appender_of(Settings(identity_dir=tmp_path), "clinic").signer.key_id == key.key_id
    with pytest.raises(ConfigurationError, match="no identity folder"):
        appender_of(Settings(), "clinic")
