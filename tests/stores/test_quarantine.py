"""What was not accepted: kept whole, found, counted, released once."""

from __future__ import annotations

import msgspec
import pytest

from stores import quarantine
from stores.database import transaction
from stores.quarantine import Item, ItemCount
from vocabulary.errors import BrokenInvariantError
from vocabulary.records import Outcome, Reason

WAITING = Item(
    position=10, raw_index=0, feed="monitors", outcome=Outcome.QUARANTINED, reason=Reason.UNKNOWN_PATIENT,
    where="PID-3", expected="a known identifier", found="MRN 77", values=12, received_at_us=1_760_000_000_000_001,
    waits_for="hospital|77", body=b"MSH|^~\\&|" + b"x" * 5_000,
)  # fmt: skip
VALUE = Item(
    position=10, raw_index=1, value_index=3, feed="lab", outcome=Outcome.REJECTED, reason=Reason.NOT_A_NUMBER,
    where="OBX[4]-5", expected="a number", found="seven", values=1, received_at_us=1_760_000_000_000_002,
)  # fmt: skip


async def kept(connection, *items: Item) -> list[Item]:
    async with transaction(connection):
        await quarantine.add(connection, items)
    found = [await quarantine.get(connection, item.item_id) for item in await quarantine.find(connection, state=None)]
    await connection.commit()
    return sorted((item for item in found if item), key=lambda item: item.item_id)


async def test_items_come_back_as_they_were(connection):
    waiting, value = await kept(connection, WAITING, VALUE)
    assert msgspec.structs.replace(waiting, item_id=0) == WAITING
    assert msgspec.structs.replace(value, item_id=0) == VALUE


async def test_items_of_one_batch_may_all_be_without_a_body_or_all_with(connection):
    assert len(await kept(connection, VALUE)) == 1
    assert [item.body for item in await kept(connection, WAITING)] == [None, WAITING.body]


async def test_found_items_leave_out_bodies_and_keep_to_the_conditions(connection):
    await kept(connection, WAITING, VALUE, *(msgspec.structs.replace(VALUE, value_index=n) for n in range(4, 9)))
    assert [item.body for item in await quarantine.find(connection, reason=Reason.UNKNOWN_PATIENT)] == [None]
    assert [item.value_index for item in await quarantine.find(connection, feed="lab", limit=2)] == [8, 7]
    assert await quarantine.find(connection, state="released") == []
    assert await quarantine.find(connection, feed="lab", reason=Reason.UNKNOWN_PATIENT) == []
    assert await quarantine.get(connection, 10**6) is None


async def test_what_waits_is_found_by_any_of_its_keys_in_the_order_of_the_log(connection):
    replace = msgspec.structs.replace
    await kept(
        connection,
        replace(WAITING, position=12, body=b"third"),
        replace(WAITING, position=11, raw_index=2, waits_for="bed|7", body=b"second"),
        replace(WAITING, position=11, raw_index=1, body=b"first"),
        replace(WAITING, position=13, waits_for="another"),
        VALUE,
    )
    found = await quarantine.waiting_for(connection, ["bed|7", "hospital|77", "nobody", ""])
    assert [item.body for item in found] == [b"first", b"second", b"third"]
    assert await quarantine.waiting_for(connection, []) == []
    assert await quarantine.waiting_for(connection, [""]) == []


async def test_a_released_item_waits_no_more_and_is_released_once(connection):
    waiting, value = await kept(connection, WAITING, VALUE)
    async with transaction(connection):
        assert await quarantine.resolve(connection, [waiting.item_id], "released", 44) == 1
    async with transaction(connection):
        assert await quarantine.resolve(connection, [waiting.item_id, value.item_id], "discarded", 45) == 1
    assert await quarantine.waiting_for(connection, ["hospital|77"]) == []
    released = await quarantine.get(connection, waiting.item_id)
    assert released is not None
    assert (released.state, released.resolved_position, released.body) == ("released", 44, None)
    discarded = await quarantine.get(connection, value.item_id)
    assert discarded is not None
    assert (discarded.state, discarded.resolved_position) == ("discarded", 45)


async def test_an_item_may_go_on_waiting_for_something_else(connection):
    (waiting,) = await kept(connection, WAITING)
    amended = {"outcome": Outcome.QUARANTINED, "reason": Reason.UNASSOCIATED_DEVICE, "where": "PV1-3"}
    async with transaction(connection):
        assert await quarantine.amend(connection, waiting.item_id, waits_for="bed|7", **amended)
    (found,) = await quarantine.waiting_for(connection, ["bed|7"])
    assert (found.reason, found.where, found.body) == (Reason.UNASSOCIATED_DEVICE, "PV1-3", WAITING.body)
    assert await quarantine.waiting_for(connection, ["hospital|77"]) == []
    await quarantine.resolve(connection, [waiting.item_id], "released", 50)
    assert not await quarantine.amend(connection, waiting.item_id, **amended)


async def test_counts_are_by_outcome_reason_and_state(connection):
    await kept(connection, WAITING, VALUE, msgspec.structs.replace(VALUE, value_index=4))
    assert await quarantine.counts(connection) == [
        ItemCount(Outcome.REJECTED, Reason.NOT_A_NUMBER, "open", 2, 0, 2),
        ItemCount(Outcome.QUARANTINED, Reason.UNKNOWN_PATIENT, "open", 1, 1, 12),
    ]


async def test_senders_texts_of_any_length_and_with_nul_are_kept(connection):
    odd = msgspec.structs.replace(WAITING, found="\x00\ud800" * 900_000, where="A\x00", waits_for="\x00k")
    (item,) = await kept(connection, odd)
    assert (len(item.found), item.found[:2], item.where) == (quarantine.LONGEST_TEXT, "\u2400\ufffd", "A\u2400")
    assert len(await quarantine.waiting_for(connection, ["\x00k"])) == 1


@pytest.mark.parametrize(
    "item",
    [
        msgspec.structs.replace(WAITING, outcome=Outcome.ACCEPTED),
        msgspec.structs.replace(VALUE, values=2),
    ],
)
async def test_an_item_that_would_unbalance_the_ledger_is_a_defect(connection, item):
    with pytest.raises(BrokenInvariantError, match="cannot be"):
        await quarantine.add(connection, [item])


async def test_the_same_message_twice_is_a_defect_that_quotes_nothing(connection):
    await kept(connection, WAITING)
    with pytest.raises(BrokenInvariantError, match="quarantine_item_once") as caught:
        await kept(connection, WAITING)
    assert "77" not in str(caught.value)


async def test_opening_is_no_resolution(connection):
    with pytest.raises(BrokenInvariantError):
        await quarantine.resolve(connection, [1], "open", 1)
    await quarantine.add(connection, [])


async def test_what_is_held_again_at_a_position_is_found_from_an_index_on(connection):
    again = [msgspec.structs.replace(WAITING, position=50, raw_index=index) for index in (3, 1_000_000, 1_000_001)]
    value = msgspec.structs.replace(
        WAITING, position=50, raw_index=1_000_002, value_index=0, values=1, waits_for="", body=None
    )
    await quarantine.add(
        connection, [*again, value, msgspec.structs.replace(WAITING, position=51, raw_index=1_000_000)]
    )
    found = await quarantine.held_at(connection, 50, 1_000_000)
    assert [(item.raw_index, item.value_index) for item in found] == [(1_000_000, -1), (1_000_001, -1)]
    await quarantine.resolve(connection, [found[0].item_id], "released", 60)
    assert [item.raw_index for item in await quarantine.held_at(connection, 50, 1_000_000)] == [1_000_001]
