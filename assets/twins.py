"""Layer `twin`: which model serves, and the published snapshots, both as assets that live outside Dagster.

Here: `twin/serving`, observed as everybody judges it, and what the snapshots are made of.
Not here: making them (twin.engine, governance.promotion), the checks on them (assets.checks).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import dagster as dg

from assets import gates, sources
from assets.learning_plane import OWNERS, LearningPlane
from assets.live_plane import LivePlane
from assets.serving import judge_record, read_record

SNAPSHOTS: Final = dg.AssetKey(["twin", "snapshots"])
SERVING: Final = dg.AssetKey(["twin", "serving"])


@dg.multi_observable_source_asset(
    name="observe_serving",
    specs=[
        dg.AssetSpec(
            SERVING,
            deps=[gates.EVIDENCE],
            group_name="twin",
            owners=OWNERS,
            kinds={"postgres"},
            freshness_policy=sources.FRESH,
            description="Which version may speak, and which listens silently: the newest row that holds by people's "
            "signatures. The engine follows it within a second; Dagster only looks.",
        )
    ],
)
def observe_serving(live: dg.ResourceParam[LivePlane], learning: dg.ResourceParam[LearningPlane]) -> dg.ObserveResult:
    """Judge the record and say what holds."""
    rows = read_record(live)
    judgements = judge_record(learning, rows)
    metadata: dict[str, object] = {"rows": len(rows)}
    for scope, judgement in sorted(judgements.items()):
        for slot, held in judgement.slots.items():
            said = str(held.standing)
            if held.row is not None:
                said += f": version {held.row.version}, {len(held.row.signed)} signatures"
            if held.cause:
                said += f" ({held.cause})"
            metadata[f"{scope}_{slot}"] = said
        metadata[f"{scope}_refused_rows"] = len(judgement.refusals)
    newest = max((row.serving_id for row in rows), default=0)
    return dg.ObserveResult(asset_key=SERVING, data_version=dg.DataVersion(str(newest)), metadata=metadata)


def build_twins(feed_names: Sequence[str]) -> list[dg.AssetSpec]:
    """Return the asset `twin/snapshots`, which comes from every feed and from the model that serves."""
    return [
        dg.AssetSpec(
            SNAPSHOTS,
            deps=[*(dg.AssetKey([sources.LAYER, name]) for name in feed_names), SERVING],
            group_name="twin",
            owners=OWNERS,
            description="Every patient's published twin snapshots: written by the engine, shown to clinicians.",
            kinds={"postgres"},
        )
    ]
