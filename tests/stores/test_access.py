"""What people of the house said of patients: newest counts, for every record of a person; glasses, reviews, notices."""

from __future__ import annotations

import asyncio
import random

import pytest

from stores import access, clinical
from stores.clinical import MergeRow, PatientRow
from stores.database import Connection, connect, transaction
from vocabulary.errors import BrokenInvariantError

NOW_US = 1_760_000_000_000_000
HOUR_US = 3_600_000_000


async def patients(connection: Connection, *ids: int, merged: dict[int, int] | None = None) -> None:
    merged = merged or {}
    names = ("identifiers", "encounters", "closed_places", "places", "closed_associations", "associations")
    await clinical.write(
        connection,
        clinical.Changes(
            patients=[PatientRow(one, merged.get(one), "", "", "", "unknown", 1, 1) for one in ids],
            merges=[MergeRow(survivor, retired, 1, NOW_US) for retired, survivor in merged.items()],
            **{name: [] for name in names},
        ),
    )


def glass_of(number: int, patient_id: int = 1, **changes) -> access.BrokenGlass:
    fields = {
        "break_glass_id": number, "agent": "i|nora", "agent_name": "Nora", "role": "nurse", "session": "s",
        "patient_id": patient_id, "reason": "an emergency, truly", "reason_salt": bytes(16), "opened_at_us": NOW_US,
        "expires_at_us": NOW_US + HOUR_US,
    }  # fmt: skip
    return access.BrokenGlass(**(fields | changes))


async def consent(connection: Connection, patient_id: int, scope: access.Scope, is_permitted: bool) -> None:
    await access.put_consent(
        connection,
        [
            access.Consent(
                patient_id=patient_id, scope=scope, is_permitted=is_permitted, decided_at_us=NOW_US,
                decided_by="Petra", recorded_by="i|petra",
            )
        ],
    )  # fmt: skip


async def flag(connection: Connection, ids: list[int], is_vip: bool) -> None:
    await access.put_vip_flag(
        connection, ids, is_vip=is_vip, decided_at_us=NOW_US, decided_by="Petra", recorded_by="i|petra"
    )


async def standing(connection: Connection, *ids: int, now_us: int = NOW_US, agent: str = "i|nora"):
    return await access.standing(connection, agent, ids, now_us)


async def test_a_record_nobody_spoke_of_refuses_nothing_and_an_unknown_one_is_absent(connection: Connection):
    await patients(connection, 1)
    assert await standing(connection, 1, 99) == [access.Standing(1, 1, 1, True, True, False, None)]
    assert await access.records_of(connection, 99) == []


async def test_the_newest_decision_counts_and_all_are_kept(connection: Connection):
    await patients(connection, 1, 2)
    for is_permitted in (False, True, False):
        await consent(connection, 1, "secondary", is_permitted)
    await consent(connection, 2, "sharing", False)
    await consent(connection, 2, "sharing", True)
    await flag(connection, [1, 2], True)
    await flag(connection, [2], False)
    assert await standing(connection, 1, 2) == [
        access.Standing(1, 1, 1, False, True, True, None),
        access.Standing(2, 2, 2, True, True, False, None),
    ]
    assert [one.is_permitted for one in await access.consents(connection, [1])] == [False, True, False]


async def test_a_person_is_asked_for_by_any_record_and_every_record_answers(connection: Connection):
    await patients(connection, 1)
    await patients(connection, 2, merged={2: 1})
    await patients(connection, 3, merged={3: 2})
    await patients(connection, 4)
    await flag(connection, [3], True)
    rows = await standing(connection, 1, 3, 4)
    assert [(row.asked, row.survivor, row.record, row.is_vip) for row in rows] == [
        (1, 1, 1, False), (1, 1, 2, False), (1, 1, 3, True),
        (3, 1, 1, False), (3, 1, 2, False), (3, 1, 3, True),
        (4, 4, 4, False),
    ]  # fmt: skip


async def test_records_of_a_person_are_those_the_directory_finds(connection: Connection):
    chance = random.Random(5)
    ids = list(range(1, 61))
    merged: dict[int, int] = {}
    for retired in ids[1:]:
        if chance.random() < 0.6:
            merged[retired] = chance.randrange(1, retired)  # never a circle
    for one in ids:
        await patients(connection, one, merged={one: merged[one]} if one in merged else {})
    sizes = set()
    for one in ids:
        records = await access.records_of(connection, one)
        assert records == await clinical.merged_ids(connection, one)
        sizes.add(len(records))
    assert max(sizes) > 4


async def test_a_circle_of_merges_is_nobody_and_ends(connection: Connection):
    await patients(connection, 1, 2)
    await connection.execute("update patient set merged_into = 3 - patient_id")
    assert await standing(connection, 1, 2) == []


async def test_an_open_glass_is_its_persons_and_ends_with_its_last_microsecond(connection: Connection):
    await patients(connection, 1, 2)
    await access.put_break_glass(connection, glass_of(5))

    async def glass(*ids: int, **more) -> list[int | None]:
        return [row.break_glass_id for row in await standing(connection, *ids, **more)]

    assert await glass(1, 2) == [5, None]
    assert await glass(1, agent="i|chidi") == [None]
    assert await glass(1, now_us=NOW_US + HOUR_US - 1) == [5]
    assert await glass(1, now_us=NOW_US + HOUR_US) == [None]


async def test_a_glass_is_kept_as_it_was_broken(connection: Connection):
    await patients(connection, 1)
    broken = glass_of(7, practitioner="P1", reason="Grüße; drop table — 'x'")
    await access.put_break_glass(connection, broken)
    assert await access.glass(connection, 7) == broken
    assert await access.glass(connection, 8) is None


async def test_open_and_unreviewed_glasses_stand_in_the_way(connection: Connection):
    await patients(connection, 1)
    await access.put_break_glass(connection, glass_of(1))
    await access.put_break_glass(connection, glass_of(2, agent="i|chidi"))

    async def in_the_way(at_us: int) -> list[int]:
        return [each.break_glass_id for each in await access.glasses_in_the_way(connection, "i|nora", at_us)]

    assert await in_the_way(NOW_US) == [1]
    assert await in_the_way(NOW_US + 2 * HOUR_US) == [1]
    await review(connection, 1)
    assert await in_the_way(NOW_US) == [1]
    assert await in_the_way(NOW_US + HOUR_US) == []


async def review(connection: Connection, number: int, at_us: int = NOW_US) -> None:
    await access.put_review(
        connection, number, reviewer="i|sami", reviewer_name="Sami", reviewed_at_us=at_us, verdict="justified", note="n"
    )


async def test_a_second_review_is_refused_by_the_database(connection: Connection):
    await patients(connection, 1)
    await access.put_break_glass(connection, glass_of(1))
    await review(connection, 1)
    await connection.commit()
    with pytest.raises(BrokenInvariantError):
        await review(connection, 1)


async def test_pending_and_recent_reviews_are_told_apart_and_ordered(connection: Connection):
    await patients(connection, 1)
    for number, opened in ((9, 3), (4, 1), (6, 2), (2, 4)):
        await access.put_break_glass(connection, glass_of(number, opened_at_us=NOW_US + opened))
    await review(connection, 9, NOW_US + 10)
    await review(connection, 2, NOW_US + 20)
    assert [each.break_glass_id for each in await access.pending_reviews(connection)] == [4, 6]
    assert [each.break_glass_id for each in await access.recent_reviews(connection, 10)] == [2, 9]
    assert [each.break_glass_id for each in await access.recent_reviews(connection, 1)] == [2]


async def test_a_notice_is_claimed_by_one_and_comes_back_when_nobody_settles_it(
    connection: Connection, migrated_url: str
):
    await patients(connection, 1)
    await access.put_break_glass(connection, glass_of(1))
    await access.put_notification(connection, 1, NOW_US)
    await connection.commit()

    async def claim(at_us: int) -> list[int]:
        own = await connect(migrated_url, application_name="test")
        try:
            async with transaction(own):
                return [each.attempts for each in await access.claim_notifications(own, at_us, at_us + 60, 10)]
        finally:
            await own.close()

    assert sorted(await asyncio.gather(*(claim(NOW_US) for _ in range(3)))) == [[], [], [1]]
    assert await claim(NOW_US + 59) == []
    assert await claim(NOW_US + 60) == [2]
    await access.notification_failed(connection, 1, "HTTP 500\x00", NOW_US + 1_000)
    await connection.commit()
    assert await claim(NOW_US + 999) == []
    found = await access.glass(connection, 1)
    assert found is not None
    assert (found.attempts, found.last_fault, found.delivered_at_us) == (2, "HTTP 500␀", None)
    await access.notification_delivered(connection, 1, NOW_US + 5)
    await connection.commit()
    assert await claim(NOW_US + HOUR_US) == []
