"""`vigil feeds`: what each sending system is doing, and where it may connect.

Here: joining what the settings expect with what was heard.
Not here: the counters (stores.feeds).
"""

from __future__ import annotations

from typing import Any, NamedTuple

from rich.console import Console
from rich.table import Table
from rich.text import Text

from governance.access import Surface, Verb
from orchestration.data_dir import DataDir
from orchestration.health import raw_trouble
from orchestration.operator_gate import require
from orchestration.storage import connection
from stores import database, feeds
from twin import health
from twin.process import clock_of
from vocabulary.settings import Settings


class FeedLine(NamedTuple):
    """One sending system, or a feed from which nothing was ever heard (source "")."""

    feed: str
    address: str  # where it may connect; "" when nothing runs
    source: str  # MSH-3|MSH-4
    age_s: float | None  # since the last message, by the log's clock
    is_silent: bool
    clock_skew_s: float | None
    messages: int
    values: int
    not_accepted: int


async def feed_lines(settings: Settings) -> list[FeedLine]:
    """Return every sending system heard, and every configured feed not heard yet.

    Args:
        settings: with addresses that answer (orchestration.storage.reachable).
    """
    await require(settings, Surface.FEEDS, Verb.READ)
    state = DataDir(settings.data_dir).live_state()
    ports = state.ports if state else {}
    async with connection(settings, "feeds") as connected, database.consistent_read(connected):
        heard = await feeds.read(connected)
    now_us = clock_of(settings).now_us()
    addresses = {
        feed.name: f"{settings.host}:{port}" if (port := ports.get(f"feed.{feed.name}")) else ""
        for feed in settings.feeds
    }
    lines = [
        FeedLine(
            status.feed,
            addresses.get(status.feed, ""),
            status.source,
            max(0.0, (now_us - status.last_received_at_us) / 1_000_000),
            status.is_silent(now_us),
            status.clock_skew_s,
            status.messages,
            status.values,
            status.not_accepted,
        )
        for status in heard
    ]
    unheard = set(addresses) - {line.feed for line in lines}
    lines += [FeedLine(name, addresses[name], "", None, True, None, 0, 0, 0) for name in unheard]
    return sorted(lines, key=lambda line: (line.feed, line.source))


def trouble(settings: Settings) -> str:
    """Return why what the feeds send cannot be stored, or "" when it can or nothing runs."""
    data_dir = DataDir(settings.data_dir)
    return raw_trouble(health.read(data_dir.run, "ingress")) if data_dir.live_state() is not None else ""


def as_record(lines: list[FeedLine]) -> list[dict[str, Any]]:
    """Return the lines for `--json`."""
    return [line._asdict() for line in lines]


def duration(seconds: float) -> str:
    """Return a length of time as a person says it: `4 s`, `12 min`, `3 h`, `2 d`."""
    for limit, unit_s, unit in ((120, 1, "s"), (7_200, 60, "min"), (172_800, 3_600, "h")):
        if seconds < limit:
            return f"{seconds / unit_s:.0f} {unit}"
    return f"{seconds / 86_400:.0f} d"


def skew(seconds: float) -> str:
    """Return how far a sender's clock is off: `+0.3 s`, `-3 h`, `-13977 d`."""
    return f"{seconds:+.1f} s" if abs(seconds) < 120 else f"{'+' if seconds > 0 else '-'}{duration(abs(seconds))}"


def show(lines: list[FeedLine], console: Console, why_blocked: str = "") -> None:
    """Print one line a sending system, and what keeps them all waiting, if anything does."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for heading in ("feed", "connect to", "sender", "last heard", "clock", "messages", "values", "not accepted"):
        table.add_column(heading, no_wrap=heading != "sender", justify="right" if heading in _NUMBERS else "left")
    for line in lines:
        heard = "never" if line.age_s is None else f"{duration(line.age_s)} ago"
        table.add_row(
            line.feed,
            line.address,
            line.source,
            Text(f"{heard} (silent)" if line.is_silent else heard, style="red" if line.is_silent else ""),
            "" if line.clock_skew_s is None else skew(line.clock_skew_s),
            f"{line.messages:,}",
            f"{line.values:,}",
            f"{line.not_accepted:,}",
        )
    console.print(table)
    if why_blocked:
        console.print(f"{why_blocked}.", style="red", markup=False, highlight=False, soft_wrap=True)


_NUMBERS = {"clock", "messages", "values", "not accepted"}
