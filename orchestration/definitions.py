"""What Dagster loads: assets, checks, jobs, schedules and sensors, wired to the running house.

Here: one `build_definitions`, and the entry point that reads the settings.
Not here: the assets (assets), the resources (orchestration.resources). Loading this opens nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import dagster as dg

from assets import audits, checks, cohorts, features, gates, live_events, normalized, recorded, sources, training, twins
from orchestration import reactions
from orchestration.io_managers import LakeIOManager
from orchestration.jobs import build_jobs
from orchestration.resources import LearningHouse, RunningHouse
from orchestration.schedules import build_schedules
from orchestration.sensors import build_sensors
from vocabulary.settings import Settings


def build_definitions(settings: Settings, overrides: Mapping[str, Any] | None = None) -> dg.Definitions:
    """Return everything Dagster shows and runs.

    Args:
        settings: as the operator set them.
        overrides: resources by name, instead of those of the running house: `live`, `learning`, `io_manager` (tests).
    """
    feed_names = [feed.name for feed in settings.feeds]
    house = RunningHouse(settings)
    resources: dict[str, Any] = {"live": house, "learning": LearningHouse(house)} | dict(overrides or {})
    resources.setdefault("io_manager", LakeIOManager(resources["learning"]))
    return dg.Definitions(
        assets=[
            *sources.build_sources(feed_names),
            recorded.physionet2012_files,
            normalized.normalized_events,
            live_events.build_live_events(settings.site, feed_names),
            cohorts.mortality_cohort,
            features.mortality_features,
            training.mortality_model,
            *gates.GATES,
            *audits.build_audits(settings.site),
            twins.observe_serving,
            *twins.build_twins(feed_names),
        ],
        asset_checks=checks.CHECKS,
        jobs=[*build_jobs(feed_names), *reactions.JOBS],
        schedules=build_schedules(settings.site),
        sensors=build_sensors(settings.site),
        resources=resources,
    )


@dg.definitions
def defs() -> dg.Definitions:
    """Read the settings once, when Dagster loads the code."""
    return build_definitions(Settings())
