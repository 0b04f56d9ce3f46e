"""Who speaks: one line a feed in the footer, every source on its own page, silence judged on the log's clock."""

from __future__ import annotations

import pytest

from clinic.broadcast import HOUSE
from clinic.feeds_painter import READ_EVERY_S, Feeds
from clinic.feeds_view import Reading, feed_lines, interval_text, skew_text, source_name, source_rows
from clinic.questions import FeedSummary, House
from vocabulary.clock import ManualClock

SECOND_US = 1_000_000
GATEWAY = "GW^0011EEFFFE{:06d}^EUI-64|SYNTH"


def _source(number: int, at_us: int, *, skew_s: float | None = 0.0, feed: str = "monitors") -> FeedSummary:
    return FeedSummary(feed, GATEWAY.format(number), at_us, 60.0, skew_s, 1100, 12_000, 3)


def test_a_feed_is_one_line_that_names_two_and_counts_the_others(wards) -> None:
    now_us = wards.now_us
    sources = [_source(number, now_us - (3600 if number < 5 else 3) * SECOND_US) for number in range(12)]
    sources += [_source(20 + number, now_us, skew_s=skew_s) for number, skew_s in enumerate((59.0, -61.0, None))]
    sources.append(_source(1, now_us, feed="lab"))
    lab, monitors = feed_lines(sources, Reading(now_us))
    assert (lab.feed, lab.sources, lab.silent_count, lab.skewed_count) == ("lab", 1, 0, 0)
    assert (monitors.sources, monitors.silent_count) == (15, 5)
    assert [one.name for one in monitors.silent] == ["GW^0011EEFFFE000000", "GW^0011EEFFFE000001"]
    assert [(one.name, one.skew) for one in monitors.skewed] == [("GW^0011EEFFFE000021", "−61 s")]
    assert monitors.skewed_count == 1


def test_every_source_has_its_row_in_natural_order(wards) -> None:
    rows = source_rows([_source(number, wards.now_us) for number in (10, 9, 2)], Reading(wards.now_us))
    assert [row.name[-2:] for row in rows] == ["02", "09", "10"]
    hexadecimal = [FeedSummary("m", f"GW^00{end}^EUI-64|S", 0, 60.0, None, 0, 0, 0) for end in ("0C", "0A", "01", "10")]
    assert [row.name[-2:] for row in source_rows(hexadecimal, Reading(0))] == ["01", "0A", "0C", "10"]
    row = rows[0]
    assert (row.facility, row.expected, row.messages, row.values) == ("SYNTH", "60 s", "1,100", "12,000")


@pytest.mark.parametrize(("age_s", "is_silent"), [(60, False), (124, False), (126, True)])
def test_silence_is_more_than_two_intervals_and_a_reading(wards, age_s: int, is_silent: bool) -> None:
    reading = Reading(wards.now_us, READ_EVERY_S)
    assert reading.is_silent(_source(1, wards.now_us - age_s * SECOND_US)) is is_silent


@pytest.mark.parametrize("speed", [1.0, 60.0, 2900.0])
async def test_what_speaks_every_minute_is_not_silent_at_any_speed(clinic, wards, speed: float) -> None:
    """The clock on the wall runs on while the stores are read; the log's clock does not."""
    context = clinic.app.state.context
    clinic.live.publish(wards.snapshot(7))
    await clinic.settle()
    wall = ManualClock(wards.now_us)
    wall.advance(READ_EVERY_S * speed * 3)
    feeds = Feeds(context.ward, clinic.readers, context.hub, context.templates, wall, speed)
    clinic.readers.the_house = House(
        (_source(1, wards.now_us - 59 * SECOND_US), _source(2, wards.now_us - int((121 + 5 * speed) * SECOND_US))), {}
    )
    await feeds.read()
    assert "1 silent: GW^0011EEFFFE000002" in feeds.strip_html
    assert feeds.table_html.count("silent since") == 1


async def test_an_empty_ward_has_no_twin_to_tell_the_time(clinic, wards, manual_clock) -> None:
    feeds = clinic.app.state.context.feeds
    await feeds.read()
    assert "silent" not in feeds.strip_html
    manual_clock.advance(3600)
    await feeds.read()
    assert "silent: MON" in feeds.strip_html


async def test_a_fast_clock_makes_no_sender_look_wrong(clinic, wards) -> None:
    context = clinic.app.state.context
    clinic.readers.the_house = House((_source(1, wards.now_us, skew_s=-400.0),), {})
    for speed, is_told in ((60.0, True), (2900.0, False)):
        feeds = Feeds(context.ward, clinic.readers, context.hub, context.templates, ManualClock(wards.now_us), speed)
        await feeds.read()
        assert ("1 clock off: GW^0011EEFFFE000001 −400 s" in feeds.strip_html) is is_told


async def test_the_footer_leads_to_every_source(clinic, wards) -> None:
    hostile = FeedSummary("lab", "<b>L|<i>F", wards.now_us, 21_600.0, None, 4, 0, 0)
    sources = (hostile, *(_source(number, wards.now_us - 9000 * SECOND_US, skew_s=99.0) for number in range(40)))
    clinic.readers.the_house = House(sources, {"unknown_patient": 3})
    await clinic.app.state.context.feeds.read()
    board = (await clinic.client.get("/")).text
    assert 'href="/feeds"' in board
    footer = board.split("<footer>")[1]
    assert footer.count("GW^") == 4
    assert footer.count("+38 more") == 2
    assert "3 unknown patient" in footer
    page = (await clinic.client.get("/feeds")).text
    assert page.count("GW^") == page.count("silent since") == 40
    assert page.count("+99 s") == 40
    assert "6 h" in page
    assert "3 unknown patient" in page
    assert "<b>L" not in page
    assert "<i>F" not in page


async def test_without_the_database_the_feeds_are_not_known(clinic, readers) -> None:
    feeds = clinic.app.state.context.feeds
    feeds.forget()
    assert "The database does not answer" in (await clinic.client.get("/feeds")).text
    assert "The database does not answer" in feeds.strip_html


async def test_only_a_changed_strip_is_sent_and_only_to_boards(clinic) -> None:
    context = clinic.app.state.context
    await context.feeds.read()
    board, patient, page = (context.hub.join([topic]) for topic in (HOUSE, "patient:7:4", "feeds"))
    await context.feeds.read()
    context.feeds.forget()
    heard = [[b"event: house" in viewer._queue.get_nowait() for _ in range(viewer._queue.qsize())]
             for viewer in (board, patient, page)]  # fmt: skip
    assert [sum(events) for events in heard] == [1, 0, 0]


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("GW^0011EEFFFE000001^EUI-64|SYNTH", "GW^0011EEFFFE000001"),
        ("LIS|LAB", "LIS"),
        ("|WARD 3", "WARD 3"),
        ("|", "unnamed"),
        ("^0011^EUI-64|X", "0011"),
    ],
)
def test_a_source_is_called_by_its_application(source: str, name: str) -> None:
    assert source_name(source) == name


def test_intervals_and_skews_read_well() -> None:
    assert [interval_text(s) for s in (0.5, 60, 90, 900, 3600, 21_600)] == [
        "0.5 s", "60 s", "90 s", "15 min", "1 h", "6 h",
    ]  # fmt: skip
    assert [skew_text(s) for s in (None, 0.0, -0.3, 151.5, -900.0, 9000.0)] == [
        "", "0 s", "0 s", "+152 s", "−15 min", "+2.5 h",
    ]  # fmt: skip
