"""FHIR search parameters of Observation, read strictly; and walking back in time for as many as a page holds.

Here: `date` with its prefixes and precisions, `code`, `category`, `_count`, the cursor; the newest-first walk.
Not here: HTTP (clinic.fhir_api), resources (clinic.fhir_resources).
Source: HL7 FHIR R4 (4.0.1), Search: 3.1.1.4.6 date, 3.1.1.4.10 token.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from clinic.charts import HOUR_US
from clinic.fhir_resources import (
    DIASTOLIC,
    LOINC,
    NEWS2_TOTAL,
    OWN_CODES,
    PRESSURE_PANEL,
    SNOMED,
    SYSTOLIC,
    Resource,
    category_of,
    observations,
)
from clinic.questions import Readers
from vocabulary.concepts import CONCEPTS, by_key

DEFAULT_COUNT, LARGEST_COUNT = 100, 1000

_DATE = re.compile(
    r"(?P<prefix>eq|ge|gt|le|lt|sa|eb)?"
    r"(?P<year>\d{4})(-(?P<month>\d\d)(-(?P<day>\d\d)"
    r"(T(?P<hour>\d\d):(?P<minute>\d\d)(:(?P<second>\d\d)(\.(?P<fraction>\d{1,6}))?)?(?P<zone>Z|[+-]\d\d:\d\d)?)?)?)?"
)


class SearchError(Exception):
    """A parameter that cannot be understood; the message is for the client and quotes nothing of a patient's."""


@dataclass(frozen=True, slots=True)
class Cursor:
    """Where the next page starts: after this resource, in the order newest first."""

    at_us: int
    resource_id: str


@dataclass(frozen=True, slots=True)
class Search:
    """An Observation search."""

    concepts: tuple[int, ...]  # () when no concept matches
    with_news2: bool
    from_us: int
    to_us: int
    count: int
    cursor: Cursor | None


@dataclass(frozen=True, slots=True)
class Page:
    """What a search found."""

    resources: list[Resource]
    next_cursor: Cursor | None


def date_range(text: str) -> tuple[int | None, int | None]:
    """Return [from, to) in microseconds that a `date` parameter asks for; None leaves a side open.

    A value without a time zone is read in UTC.

    Raises:
        SearchError: it is not a FHIR date.
    """
    match = _DATE.fullmatch(text.strip().replace(" ", "+"))  # an unescaped + of a time zone arrives as a space
    if match is None:
        raise SearchError("date: expected a FHIR date with an optional prefix eq, ge, gt, le, lt, sa or eb")
    low_us, high_us = _interval(match)
    prefix = match["prefix"] or "eq"
    if prefix == "eq":
        return low_us, high_us
    if prefix in {"gt", "sa"}:
        return high_us, None
    if prefix == "ge":
        return low_us, None
    return None, low_us if prefix in {"lt", "eb"} else high_us


def _interval(match: re.Match[str]) -> tuple[int, int]:
    """Return the stretch of time a date of some precision covers."""
    part = match.groupdict()
    try:
        zone = (
            UTC if part["zone"] in {None, "Z"} else datetime.fromisoformat(f"2000-01-01T00:00:00{part['zone']}").tzinfo
        )
        start = datetime(
            int(part["year"]), int(part["month"] or 1), int(part["day"] or 1), int(part["hour"] or 0),
            int(part["minute"] or 0), int(part["second"] or 0), int((part["fraction"] or "").ljust(6, "0")), zone,
        )  # fmt: skip
        if part["fraction"]:
            end = start + timedelta(microseconds=10 ** (6 - len(part["fraction"])))
        elif part["second"]:
            end = start + timedelta(seconds=1)
        elif part["minute"]:
            end = start + timedelta(minutes=1)
        elif part["day"]:
            end = start + timedelta(days=1)
        elif part["month"]:
            end = (start + timedelta(days=32)).replace(day=1)
        else:
            end = start.replace(year=start.year + 1)
        return _us(start), _us(end)
    except (ValueError, OverflowError):
        raise SearchError("date: there is no such date") from None


def _us(at: datetime) -> int:
    return (at - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)


def concepts_of_codes(codes: Sequence[str]) -> tuple[set[int], bool]:
    """Return the concepts that tokens (`system|code` or `code`) name, and whether NEWS2 is among them.

    A component of a blood-pressure panel finds the panel, as `combo-code` would.
    """
    found: set[int] = set()
    with_news2 = False
    pressures = {by_key(SYSTOLIC).number, by_key(DIASTOLIC).number}
    for token in codes:
        system, bar, code = token.rpartition("|")
        if system == OWN_CODES:
            found |= {concept.number for concept in CONCEPTS if concept.key == code}
        if code and (not bar or system == LOINC):
            if code == PRESSURE_PANEL:
                found |= pressures
            found |= {concept.number for concept in CONCEPTS if concept.loinc == code}
            if code == "2708-6":  # the code FHIR's profile adds to every oxygen saturation
                found |= {concept.number for concept in CONCEPTS if concept.key == "oxygen_saturation"}
        if code == NEWS2_TOTAL and (not bar or system == SNOMED):
            with_news2 = True
    return (found | pressures if found & pressures else found), with_news2


def concepts_of_categories(categories: Sequence[str]) -> set[int]:
    """Return the concepts of these observation categories."""
    wanted = {token.rpartition("|")[2] for token in categories}
    return {concept.number for concept in CONCEPTS if category_of(concept) in wanted}


def parse_search(parameters: Sequence[tuple[str, str]], now_us: int) -> Search:
    """Return the search that query parameters describe; `patient` is the caller's.

    Raises:
        SearchError: a value cannot be understood.
    """
    concepts = {concept.number for concept in CONCEPTS}
    with_news2 = False
    from_us, to_us = 0, now_us + 24 * HOUR_US  # a device's clock may run ahead of ours
    count, cursor = DEFAULT_COUNT, None
    for name, value in parameters:
        if name in {"code", "combo-code"}:
            named, with_news2 = concepts_of_codes(value.split(","))
            concepts &= named
        elif name == "category":
            concepts &= concepts_of_categories(value.split(","))
        elif name == "date":
            low_us, high_us = date_range(value)
            from_us = max(from_us, low_us if low_us is not None else 0)
            to_us = min(to_us, high_us if high_us is not None else to_us)
        elif name == "_count":
            if not _is_number(value):
                raise SearchError("_count: expected a whole number")
            count = min(int(value), LARGEST_COUNT)
        elif name == "_cursor":
            cursor = _cursor(value)
    return Search(tuple(sorted(concepts)), with_news2, from_us, to_us, count, cursor)


def _cursor(text: str) -> Cursor:
    at_us, bar, resource_id = text.partition("_")
    if not bar or not _is_number(at_us):
        raise SearchError("_cursor: expected what a next link carried")
    return Cursor(int(at_us), resource_id)


def _is_number(text: str) -> bool:
    # `isdigit` alone takes ², of which int() knows nothing, and numbers too long to read.
    return text.isascii() and text.isdigit() and len(text) < 19


def cursor_text(cursor: Cursor) -> str:
    """Return a cursor as a next link carries it."""
    return f"{cursor.at_us}_{cursor.resource_id}"


async def newest_first(readers: Readers, patient_id: int, search: Search) -> Page:
    """Walk back from the search's end, in growing steps, until a page is full or its start is reached.

    An hour of one monitored patient may hold 40,000 values and another patient's whole stay a hundred: the step
    doubles only while it finds nothing much, so memory follows the page's size, not the stay's.
    """
    found: list[Resource] = []
    times: dict[str, int] = {}
    end_us = search.to_us if search.cursor is None else min(search.to_us, search.cursor.at_us + 1)
    step_us = HOUR_US // 4
    while search.concepts and end_us > search.from_us and len(found) <= search.count:
        start_us = max(search.from_us, end_us - step_us)
        measured = await readers.observations(patient_id, search.concepts, start_us, end_us)
        times.update(
            {f"{m.patient_id}-{m.concept}-{m.effective_at_us}-{m.source_key}": m.effective_at_us for m in measured}
        )
        found += [resource for resource in observations(measured) if _is_after(resource, times, search.cursor)]
        end_us = start_us
        if len(measured) < search.count:
            step_us *= 4
    page = found[: search.count]
    has_more = len(found) > len(page)
    last = Cursor(times[page[-1]["id"]], page[-1]["id"]) if page and has_more else None
    return Page(page, last)


def _is_after(resource: Resource, times: dict[str, int], cursor: Cursor | None) -> bool:
    if cursor is None:
        return True
    return (-times[resource["id"]], resource["id"]) > (-cursor.at_us, cursor.resource_id)
