"""Partitions of the learning plane: (site, day). Never patients: Dagster's pages stop working near 40,000.

Here: the definition for closed days of a hospital, and the day of a partition as an interval of time.
Not here: which days are closed (orchestration.sensors asks the live plane's clock).
"""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from typing import Final, NamedTuple

import dagster as dg

FIRST_DAY: Final = "2026-01-01"
"""No house of ours is older."""

SITE: Final = "site"
DAY: Final = "day"


class LiveDay(NamedTuple):
    """One site's day, in UTC."""

    site: str
    day: date

    @classmethod
    def of(cls, site: str, day: str) -> LiveDay:
        """Return the day written in ISO 8601.

        Raises:
            ValueError: it is none.
        """
        return cls(site, date.fromisoformat(day))

    @property
    def from_us(self) -> int:
        """Return its first microsecond since the epoch."""
        return round(datetime(self.day.year, self.day.month, self.day.day, tzinfo=UTC).timestamp()) * 1_000_000

    @property
    def to_us(self) -> int:
        """Return the first microsecond after it."""
        return self.from_us + 86_400_000_000

    @property
    def dataset_name(self) -> str:
        """Return the name of its dataset in the lake."""
        return f"live/{self.site.lower()}/{self.day.isoformat()}"

    @property
    def key(self) -> dg.MultiPartitionKey:
        """Return its partition key."""
        return dg.MultiPartitionKey({SITE: self.site, DAY: self.day.isoformat()})


def live_days(site: str) -> dg.MultiPartitionsDefinition:
    """Return the partitions of one house: its site, and every day until yesterday."""
    return dg.MultiPartitionsDefinition(
        {
            SITE: dg.StaticPartitionsDefinition([site]),
            DAY: dg.DailyPartitionsDefinition(start_date=FIRST_DAY, timezone="UTC"),
        }
    )


def live_day(key: str | dg.MultiPartitionKey) -> LiveDay:
    """Return the day that a partition key names.

    Raises:
        ValueError: it names none.
    """
    if isinstance(key, dg.MultiPartitionKey):
        parts = key.keys_by_dimension
        return LiveDay(parts[SITE], date.fromisoformat(parts[DAY]))
    day, _, site = key.partition("|")  # Dagster joins the dimensions in alphabetical order
    return LiveDay(site, date.fromisoformat(day))


def last_closed_day(site: str, now_us: int, grace_s: float = 3600.0) -> LiveDay:
    """Return the newest day that is over, by the live plane's clock; late values of its last hour get a grace."""
    now = datetime.fromtimestamp(now_us / 1e6 - grace_s, tz=UTC)
    return LiveDay(site, now.date() - timedelta(days=1))
