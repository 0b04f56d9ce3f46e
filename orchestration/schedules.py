"""Schedules: what runs by the clock.

Here: the night's work on the day that is over, and the look at the live plane every five minutes.
Not here: what runs because something happened (orchestration.sensors).

Only the look is on by default: it reads. Whatever computes or asks is switched on by a person, in Dagster's pages.
"""

from __future__ import annotations

from datetime import UTC
from typing import Final

import dagster as dg

from assets.partitions import last_closed_day
from orchestration.jobs import LIVE_DAY, OBSERVE

ZONE: Final = "UTC"
"""Partitions are days in UTC, so the clock that closes them is UTC too: no day is missing or double in autumn."""


def build_schedules(site: str) -> list[dg.ScheduleDefinition]:
    """Return every schedule of one house."""

    @dg.schedule(
        name="nightly",
        job_name=LIVE_DAY,
        cron_schedule="30 1 * * *",
        execution_timezone=ZONE,
        default_status=dg.DefaultScheduleStatus.STOPPED,
        description="The day that ended, an hour and a half after midnight: late values have come by then.",
    )
    def nightly(context: dg.ScheduleEvaluationContext) -> dg.RunRequest:
        day = last_closed_day(site, round(context.scheduled_execution_time.astimezone(UTC).timestamp() * 1_000_000))
        return dg.RunRequest(run_key=f"{day.site} {day.day}", partition_key=day.key)

    look = dg.ScheduleDefinition(
        name="observe_live",
        job_name=OBSERVE,
        cron_schedule="*/5 * * * *",
        execution_timezone=ZONE,
        default_status=dg.DefaultScheduleStatus.RUNNING,
        description="What the feeds said and which model serves; older than a quarter of an hour shows as stale.",
    )
    return [nightly, look]
