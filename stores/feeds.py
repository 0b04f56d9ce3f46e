"""What each sending system is doing: when it last spoke, how much, how far its clock is off.

Here: the counters the normalizer refreshes and pages read.
Not here: judging silence about one patient (twin.state), what was not accepted (stores.quarantine).
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from stores.database import Connection, storable, to_microseconds, to_timestamp, translated


class FeedTouch(msgspec.Struct, frozen=True, kw_only=True):
    """What was heard from one sending system since the last touch; counts are added."""

    feed: str
    source: str  # MSH-3|MSH-4
    last_received_at_us: int
    last_message_at_us: int | None = None  # MSH-7 of the last message
    clock_skew_s: float | None = None  # its clock less ours; None: nothing new is known
    expected_interval_s: float
    messages: int = 0
    values: int = 0
    not_accepted: int = 0


class FeedStatus(msgspec.Struct, frozen=True, kw_only=True):
    """All that was heard from one sending system."""

    feed: str
    source: str
    last_received_at_us: int
    last_message_at_us: int | None
    clock_skew_s: float | None
    expected_interval_s: float
    messages: int
    values: int
    not_accepted: int

    def is_silent(self, now_us: int) -> bool:
        """Return whether nothing came for more than twice the expected interval (promise 9)."""
        return now_us - self.last_received_at_us > 2_000_000 * self.expected_interval_s


def _merge(touches: Sequence[FeedTouch]) -> list[FeedTouch]:
    """Return one touch a system, as if they had come one after the other."""
    merged: dict[tuple[str, str], FeedTouch] = {}
    for touch in touches:
        key = (storable(touch.feed), storable(touch.source))
        before = merged.get(key)
        if before is None:
            merged[key] = touch
            continue
        merged[key] = FeedTouch(
            feed=touch.feed,
            source=touch.source,
            last_received_at_us=max(before.last_received_at_us, touch.last_received_at_us),
            last_message_at_us=before.last_message_at_us
            if touch.last_message_at_us is None
            else touch.last_message_at_us,
            clock_skew_s=before.clock_skew_s if touch.clock_skew_s is None else touch.clock_skew_s,
            expected_interval_s=touch.expected_interval_s,
            messages=before.messages + touch.messages,
            values=before.values + touch.values,
            not_accepted=before.not_accepted + touch.not_accepted,
        )
    return [merged[key] for key in sorted(merged)]


async def touch(connection: Connection, touches: Sequence[FeedTouch]) -> None:
    """Add what was heard; a time never goes back, and what is not known leaves what was."""
    if not touches:
        return
    rows = [
        (
            storable(row.feed),
            storable(row.source),
            to_timestamp(row.last_received_at_us),
            None if row.last_message_at_us is None else to_timestamp(row.last_message_at_us),
            row.clock_skew_s,
            row.expected_interval_s,
            row.messages,
            row.values,
            row.not_accepted,
        )
        for row in _merge(touches)
    ]
    with translated():
        await connection.execute(
            "insert into feed_status as known (feed, source, last_received_at, last_message_at, clock_skew_s, "
            'expected_interval_s, messages, "values", not_accepted) select * from unnest(%s::text[], %s::text[], '
            "%s::timestamptz[], %s::timestamptz[], %s::float8[], %s::float8[], %s::int8[], %s::int8[], %s::int8[]) "
            "on conflict (feed, source) do update set "
            "last_received_at = greatest(known.last_received_at, excluded.last_received_at), "
            "last_message_at = coalesce(excluded.last_message_at, known.last_message_at), "
            "clock_skew_s = coalesce(excluded.clock_skew_s, known.clock_skew_s), "
            "expected_interval_s = excluded.expected_interval_s, messages = known.messages + excluded.messages, "
            '"values" = known."values" + excluded."values", not_accepted = known.not_accepted + excluded.not_accepted',
            [list(column) for column in zip(*rows, strict=True)],
        )


async def read(connection: Connection) -> list[FeedStatus]:
    """Return every sending system heard so far, by feed and source."""
    with translated():
        cursor = await connection.execute(
            "select feed, source, last_received_at, last_message_at, clock_skew_s, expected_interval_s, messages, "
            '"values", not_accepted from feed_status order by feed, source'
        )
        rows = await cursor.fetchall()
    return [
        FeedStatus(
            feed=row[0],
            source=row[1],
            last_received_at_us=to_microseconds(row[2]),
            last_message_at_us=None if row[3] is None else to_microseconds(row[3]),
            clock_skew_s=row[4],
            expected_interval_s=row[5],
            messages=row[6],
            values=row[7],
            not_accepted=row[8],
        )
        for row in rows
    ]
