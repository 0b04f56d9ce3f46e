"""HL7 timestamps into microseconds since the epoch.

Here: DTM and TS of any precision, with an offset or in the feed's zone; dates.
Not here: what the clock says now, what is too old or in the future (twin.normalizer).
Source: HL7 v2.9 chapter 2A, DTM: YYYY[MM[DD[HH[MM[SS[.S[S[S[S]]]]]]]]][+/-ZZZZ].

A shortened time means its beginning: `2024` is 2024-01-01T00:00:00. Without an offset the feed's zone applies: the hour
that happens twice in autumn is read as the first, and a time inside the hour that spring leaves out is read with the
offset before the change (02:30 becomes 03:30), which is what a device that was not told of the change means.
"""

from __future__ import annotations

import re
from datetime import datetime, tzinfo
from typing import Final

from vocabulary.clock import MICROSECONDS

EARLIEST_YEAR: Final = 1800
LATEST_YEAR: Final = 2999
"""Years outside of these are typing errors; inside, every zone and every database can hold them. De-identified data
sets shift dates by centuries, so the bound is wide."""

_DTM: Final = re.compile(
    r"(\d{4})(?:(\d\d)(?:(\d\d)(?:(\d\d)(?:(\d\d)(?:(\d\d)(?:\.(\d{1,9}))?)?)?)?)?)?(?:([+-])(\d\d)(\d\d))?", re.ASCII
)
_EPOCH_DAY: Final = datetime(1970, 1, 1).toordinal()  # noqa: DTZ001 - a calendar day, not an instant
_MAX_OFFSET_HOURS: Final = 15
_MAX_MINUTES: Final = 59


def parse_time(text: str, zone: tzinfo | None) -> int | None:
    """Return an HL7 timestamp in microseconds since 1970-01-01T00:00:00Z, or None when it is not one.

    Args:
        text: the timestamp; what follows a precision component must be cut off already.
        zone: where the sender's clock hangs, for a timestamp without an offset; None refuses such a timestamp.
    """
    match = _DTM.fullmatch(text)
    if match is None:
        return None
    year, month, day, hour, minute, second, fraction, sign, offset_hours, offset_minutes = match.groups()
    try:
        # Naive on purpose: the offset is applied below as integers.
        local = datetime(  # noqa: DTZ001
            int(year), int(month or 1), int(day or 1), int(hour or 0), int(minute or 0), int(second or 0)
        )
    except ValueError:
        return None
    if not EARLIEST_YEAR <= local.year <= LATEST_YEAR:
        return None
    offset_s = _offset_s(local, sign, offset_hours, offset_minutes, zone)
    if offset_s is None:
        return None
    seconds = (local.toordinal() - _EPOCH_DAY) * 86_400 + local.hour * 3_600 + local.minute * 60 + local.second
    return (seconds - offset_s) * MICROSECONDS + (int(fraction[:6].ljust(6, "0")) if fraction else 0)


def _offset_s(local: datetime, sign: str | None, hours: str, minutes: str, zone: tzinfo | None) -> int | None:
    if sign is not None:
        if int(hours) > _MAX_OFFSET_HOURS or int(minutes) > _MAX_MINUTES:
            return None
        offset_s = int(hours) * 3_600 + int(minutes) * 60
        return -offset_s if sign == "-" else offset_s
    if zone is None:
        return None
    offset = zone.utcoffset(local.replace(tzinfo=zone))
    return None if offset is None else round(offset.total_seconds())


def parse_date(text: str) -> str:
    """Return the date of an HL7 date or timestamp in ISO form, no more precise than sent, or "" when it is none.

    `1961` stays `1961`: a birth date is never made more exact than what is known. The sender's calendar day counts,
    whatever its offset.
    """
    match = _DTM.fullmatch(text)
    if match is None:
        return ""
    year, month, day = match.group(1, 2, 3)
    try:
        local = datetime(int(year), int(month or 1), int(day or 1))  # noqa: DTZ001 - a calendar day, not an instant
    except ValueError:
        return ""
    if not EARLIEST_YEAR <= local.year <= LATEST_YEAR:
        return ""
    return "-".join(part for part in (year, month, day) if part)
