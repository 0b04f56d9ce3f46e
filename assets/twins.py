"""Layer `twin`: the published snapshots, as an asset that lives outside Dagster.

Here: what the snapshots are made of.
Not here: making them (twin.engine), the checks on them (assets.checks).
"""

from __future__ import annotations

from collections.abc import Sequence

import dagster as dg

from assets import sources

SNAPSHOTS = dg.AssetKey(["twin", "snapshots"])


def build_twins(feed_names: Sequence[str]) -> list[dg.AssetSpec]:
    """Return the asset `twin/snapshots`, which comes from every feed."""
    return [
        dg.AssetSpec(
            SNAPSHOTS,
            deps=[dg.AssetKey([sources.LAYER, name]) for name in feed_names],
            group_name="twin",
            description="Every patient's published twin snapshots: written by the engine, shown to clinicians.",
            kinds={"postgres"},
        )
    ]
