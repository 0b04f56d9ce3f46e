"""HL7 timestamps against the calendar of the standard library."""

# ruff: noqa: DTZ001 - naive moments here stand for what a sender without an offset means

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from interop.hl7v2_dialect import BAD_TIME, Dialect
from interop.hl7v2_time import parse_date, parse_time

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
BERLIN = ZoneInfo("Europe/Berlin")


def us(moment: datetime) -> int:
    return (moment - EPOCH) // timedelta(microseconds=1)


@settings(deadline=None)
@given(
    st.datetimes(datetime(1800, 1, 1), datetime(2999, 12, 31)),
    st.integers(-14 * 60, 14 * 60),
    st.sampled_from([0, 1, 2, 3, 4, 6]),
)
def test_a_time_with_an_offset_is_that_instant_in_any_zone(moment, offset_minutes, digits):
    moment = moment.replace(microsecond=moment.microsecond // 10 ** (6 - digits) * 10 ** (6 - digits))
    sign = "-" if offset_minutes < 0 else "+"
    text = moment.strftime("%Y%m%d%H%M%S").rjust(14, "0")
    if digits:
        text += "." + f"{moment.microsecond:06d}"[:digits]
    text += f"{sign}{abs(offset_minutes) // 60:02d}{abs(offset_minutes) % 60:02d}"
    expected = us(moment.replace(tzinfo=timezone(timedelta(minutes=offset_minutes))))
    assert parse_time(text, BERLIN) == expected
    assert parse_time(text, None) == expected


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2024", datetime(2024, 1, 1)),
        ("202407", datetime(2024, 7, 1)),
        ("20240709", datetime(2024, 7, 9)),
        ("2024070913", datetime(2024, 7, 9, 13)),
        ("202407091345", datetime(2024, 7, 9, 13, 45)),
        ("20240709134501", datetime(2024, 7, 9, 13, 45, 1)),
        ("20240709134501.5", datetime(2024, 7, 9, 13, 45, 1, 500_000)),
        ("20240709134501.123456789", datetime(2024, 7, 9, 13, 45, 1, 123_456)),
        ("20240229", datetime(2024, 2, 29)),
    ],
)
def test_a_shortened_time_is_its_beginning_in_the_zone_of_the_feed(text, moment):
    assert parse_time(text, BERLIN) == us(moment.replace(tzinfo=BERLIN))
    assert parse_time(text, None) is None


def test_the_hour_that_happens_twice_is_read_as_the_first():
    assert parse_time("20241027023000", BERLIN) == us(datetime(2024, 10, 27, 0, 30, tzinfo=UTC))


def test_a_time_inside_the_hour_that_spring_leaves_out_continues_the_old_offset():
    assert parse_time("20240331023000", BERLIN) == us(datetime(2024, 3, 31, 1, 30, tzinfo=UTC))
    assert parse_time("20240331033000", BERLIN) == us(datetime(2024, 3, 31, 1, 30, tzinfo=UTC))


@pytest.mark.parametrize(
    "text",
    ["", "0", "202", "20241301", "20240230", "20240709246000", "20240709236000", "20240709235960", "2024-07-09",
     "20240709T1200", "2024070912+9900", "2024070912+0060", "17991231", "30000101", "20240709134501.", "２０２４0709",
     "20240709134501.1234567890", "2024 709", "19"],
)  # fmt: skip
def test_what_is_no_time_is_none(text):
    assert parse_time(text, UTC) is None
    assert Dialect("|", "^~\\&", "utf-8", UTC).time(text) == (BAD_TIME if text else None)


@settings(deadline=None)
@given(
    st.from_regex(r"(20|19|00)[0-9]{2}[0-9०]{4,12}(\.[0-9]{1,4})?([+-][0-9]{4})?", fullmatch=True)
    | st.from_regex(r"20[0-9]{2}(0[1-9]|1[0-2])(0[1-9]|[12][0-9])[01][0-9][0-6][0-9][0-6][0-9०]([.+-][0-9]{4})?")
)
def test_the_remembered_minute_changes_no_time(text):
    expected = parse_time(text.strip(), BERLIN)
    assert Dialect("|", "^~\\&", "utf-8", BERLIN).time(text) == (BAD_TIME if expected is None else expected)


@pytest.mark.parametrize(
    ("text", "iso"),
    [("1961", "1961"), ("196102", "1961-02"), ("19610203", "1961-02-03"), ("198808181126+0215", "1988-08-18"),
     ("19610230", ""), ("", ""), ("unknown", ""), ("0001", "")],
)  # fmt: skip
def test_a_birth_date_is_never_made_more_precise(text, iso):
    assert parse_date(text) == iso
