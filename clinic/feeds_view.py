"""The feeds as plain values: a line for each feed in the footer, a row for each of its sources on the feeds' page.

Here: which source is silent or has a clock that is off, how a source is called, what a line names and what it counts.
Not here: reading them (clinic.readers), when they are painted (clinic.feeds_painter), silence about one patient
(twin.forecast through the snapshot).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

from clinic.questions import FeedSummary
from clinic.words import natural_key

SKEW_TOLD_S = 60.0
"""A clock off by more than this is told in the footer; the feeds' page tells every clock's."""

_NAMED = 2  # sources named in a line; the others are counted


@dataclass(frozen=True, slots=True)
class Reading:
    """What the feeds are judged by: the log's clock when they were read, and how much slack the reading needs."""

    log_us: int
    interval_s: float = 0.0  # of the log's time, between two readings
    skew_told_s: float = SKEW_TOLD_S

    def is_silent(self, feed: FeedSummary) -> bool:
        """Return whether nothing came for more than twice the expected interval (promise 9), and a reading more."""
        return self.log_us - feed.last_received_at_us > 1e6 * (2 * feed.expected_interval_s + self.interval_s)

    def is_skewed(self, feed: FeedSummary) -> bool:
        """Return whether a source's clock is off by more than is usual."""
        return feed.clock_skew_s is not None and abs(feed.clock_skew_s) > self.skew_told_s


@dataclass(frozen=True, slots=True)
class Named:
    """A source a line names."""

    name: str
    at_us: int  # last heard
    skew: str  # "+152 s", "" when not known


@dataclass(frozen=True, slots=True)
class FeedLine:
    """One feed in the footer: how many sources speak through it, and what is wrong with any."""

    feed: str
    sources: int
    silent_count: int
    silent: tuple[Named, ...]
    skewed_count: int
    skewed: tuple[Named, ...]


@dataclass(frozen=True, slots=True)
class SourceRow:
    """One source on the feeds' page."""

    feed: str
    name: str
    facility: str
    last_received_at_us: int
    is_silent: bool
    expected: str
    skew: str
    is_skewed: bool
    messages: str
    values: str
    not_accepted: str


def source_name(source: str) -> str:
    """Return a sender (MSH-3|MSH-4, each an HD) as a person would call it: without facility and the id's type."""
    application = source.partition("|")[0]
    return "^".join(application.split("^")[:2]).strip("^") or source.strip("|") or "unnamed"


def skew_text(seconds: float | None) -> str:
    """Return how far a clock is off: `+152 s`, `-8 min`, `+2.5 h`; nothing when not known."""
    if seconds is None:
        return ""
    if abs(seconds) < 600:
        text = f"{seconds:+.0f} s"
    elif abs(seconds) < 7200:
        text = f"{seconds / 60:+.0f} min"
    else:
        text = f"{seconds / 3600:+.1f} h"
    return "0 s" if text in {"+0 s", "-0 s"} else text.replace("-", "−")


def interval_text(seconds: float) -> str:
    """Return an expected interval: `60 s`, `15 min`, `6 h`."""
    for size, unit in ((3600, "h"), (60, "min")):
        if seconds >= 2 * size or (seconds == size and unit == "h"):
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds:.3g} s"


def feed_lines(feeds: Sequence[FeedSummary], reading: Reading) -> tuple[FeedLine, ...]:
    """Return one line a feed, by name."""
    lines = []
    for feed, group in groupby(sorted(feeds, key=_order), key=lambda row: row.feed):
        rows = list(group)
        silent = [row for row in rows if reading.is_silent(row)]
        skewed = [row for row in rows if reading.is_skewed(row)]
        lines.append(FeedLine(feed, len(rows), len(silent), _named(silent), len(skewed), _named(skewed)))
    return tuple(lines)


def source_rows(feeds: Sequence[FeedSummary], reading: Reading) -> tuple[SourceRow, ...]:
    """Return every source, by feed and name."""
    return tuple(
        SourceRow(
            feed=row.feed,
            name=source_name(row.source),
            facility=row.source.partition("|")[2].partition("^")[0],
            last_received_at_us=row.last_received_at_us,
            is_silent=reading.is_silent(row),
            expected=interval_text(row.expected_interval_s),
            skew=skew_text(row.clock_skew_s),
            is_skewed=reading.is_skewed(row),
            messages=f"{row.messages:,}",
            values=f"{row.values:,}",
            not_accepted=f"{row.not_accepted:,}",
        )
        for row in sorted(feeds, key=_order)
    )


def _order(row: FeedSummary) -> tuple[str, str, str, int, str]:
    application, _, identifier = row.source.partition("^")
    # Identifiers are often hexadecimal (EUI-64): shorter first, then letter by letter, keeps their order.
    return natural_key(row.feed), row.feed, natural_key(application), len(identifier), identifier


def _named(rows: Sequence[FeedSummary]) -> tuple[Named, ...]:
    return tuple(
        Named(source_name(row.source), row.last_received_at_us, skew_text(row.clock_skew_s)) for row in rows[:_NAMED]
    )
