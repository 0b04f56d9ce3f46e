"""What each sending system is doing: counts add up, times never go back."""

from __future__ import annotations

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stores import feeds
from stores.feeds import FeedStatus, FeedTouch

SECOND = 1_000_000


async def test_counts_are_added_and_the_unknown_leaves_what_was(connection):
    await feeds.touch(
        connection,
        [
            FeedTouch(
                feed="lab", source="LIS|MAIN", last_received_at_us=50 * SECOND + 1, last_message_at_us=48 * SECOND,
                clock_skew_s=-2.5, expected_interval_s=60, messages=3, values=30, not_accepted=1,
            )
        ],
    )  # fmt: skip
    later = FeedTouch(
        feed="lab", source="LIS|MAIN", last_received_at_us=40 * SECOND, expected_interval_s=90, messages=1, values=2
    )
    await feeds.touch(connection, [later])
    assert await feeds.read(connection) == [
        FeedStatus(
            feed="lab", source="LIS|MAIN", last_received_at_us=50 * SECOND + 1, last_message_at_us=48 * SECOND,
            clock_skew_s=-2.5, expected_interval_s=90, messages=4, values=32, not_accepted=1,
        )
    ]  # fmt: skip


TOUCHES = st.lists(
    st.builds(
        FeedTouch,
        feed=st.sampled_from(["lab", "adt"]),
        source=st.sampled_from(["A|B", "A\x00|B", "C|"]),
        last_received_at_us=st.integers(0, 10**9),
        last_message_at_us=st.none() | st.integers(0, 10**9),
        clock_skew_s=st.none() | st.floats(-10, 10),
        expected_interval_s=st.floats(1, 100),
        messages=st.integers(0, 5),
        values=st.integers(0, 5),
        not_accepted=st.integers(0, 5),
    ),
    max_size=8,
)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(touches=TOUCHES)
async def test_the_status_does_not_depend_on_batching(connection, touches):
    await feeds.touch(connection, touches)
    at_once = await feeds.read(connection)
    await connection.rollback()
    for touch in touches:
        await feeds.touch(connection, [touch])
    assert await feeds.read(connection) == at_once
    assert sum(status.messages for status in at_once) == sum(touch.messages for touch in touches)
    await connection.rollback()


def test_a_feed_is_silent_after_twice_its_interval():
    status = FeedStatus(
        feed="lab", source="A|B", last_received_at_us=100 * SECOND, last_message_at_us=None, clock_skew_s=None,
        expected_interval_s=60, messages=1, values=1, not_accepted=0,
    )  # fmt: skip
    assert not status.is_silent(220 * SECOND)
    assert status.is_silent(220 * SECOND + 1)
