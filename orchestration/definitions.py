"""What Dagster loads: assets and checks, wired to the running house.

Here: one `build_definitions`, and the entry point that reads the settings.
Not here: the assets (assets), the resources (orchestration.resources). Loading this opens nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import dagster as dg

from assets import checks, sources, twins
from orchestration.resources import RunningHouse
from vocabulary.settings import Settings


def build_definitions(settings: Settings, overrides: Mapping[str, Any] | None = None) -> dg.Definitions:
    """Return everything Dagster shows and runs.

    Args:
        settings: as the operator set them.
        overrides: resources by name, instead of those of the running house (tests).
    """
    feed_names = [feed.name for feed in settings.feeds]
    return dg.Definitions(
        assets=[*sources.build_sources(feed_names), *twins.build_twins(feed_names)],
        asset_checks=checks.CHECKS,
        resources={"live": RunningHouse(settings)} | dict(overrides or {}),
    )


@dg.definitions
def defs() -> dg.Definitions:
    """Read the settings once, when Dagster loads the code."""
    return build_definitions(Settings())
