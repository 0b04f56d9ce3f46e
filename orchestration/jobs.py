"""Jobs: which assets are made together, in one process.

Here: `candidate`, the whole way from a folder of stays to a request for approval, and `judge`, its second half;
`live_day`, a closed day of the live plane, and the audits of models in service; `observe_live`, a look at what lives
outside Dagster.
Not here: jobs of a single act (orchestration.reactions), when they run (orchestration.schedules and sensors), the
assets (assets).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import dagster as dg

from assets import audits, cohorts, features, gates, live_events, normalized, recorded, sources, training, twins
from orchestration.hooks import HOOKS

CANDIDATE: Final = "candidate"
JUDGE: Final = "judge"
LIVE_DAY: Final = "live_day"
DRIFT_REPORT: Final = "drift_report"
BIAS_AUDIT: Final = "bias_audit"
OBSERVE: Final = "observe_live"

CANDIDATE_ASSETS: Final = (
    recorded.KEY,
    normalized.KEY,
    cohorts.KEY,
    features.KEY,
    training.KEY,
    *gates.KEYS.values(),
    gates.EVIDENCE,
)

# A step is seconds long: a process a step would spend longer on importing than on working.
IN_PROCESS: Final = dg.in_process_executor


def build_jobs(feed_names: Sequence[str]) -> list[dg.UnresolvedAssetJobDefinition]:
    """Return every job of one house."""
    return [
        dg.define_asset_job(
            CANDIDATE,
            selection=dg.AssetSelection.assets(*CANDIDATE_ASSETS),
            executor_def=IN_PROCESS,
            hooks=HOOKS,
            description="Train a candidate, judge it, and ask the committee. Ends where a verdict fails. Only people "
            "approve; nothing here makes a model speak.",
            tags={"plane": "learning"},
        ),
        dg.define_asset_job(
            LIVE_DAY,
            selection=dg.AssetSelection.assets(live_events.KEY, audits.DRIFT, audits.BIAS),
            executor_def=IN_PROCESS,
            hooks=HOOKS,
            description="Write a day that is over into the lake, judge it, compare it with where candidates learned, "
            "and audit the groups again.",
            tags={"plane": "learning"},
        ),
        dg.define_asset_job(
            DRIFT_REPORT,
            selection=dg.AssetSelection.assets(audits.DRIFT),
            executor_def=IN_PROCESS,
            hooks=HOOKS,
            description="Judge a day's drift again with Evidently beside our own figures.",
            tags={"plane": "learning"},
        ),
        dg.define_asset_job(
            BIAS_AUDIT,
            selection=dg.AssetSelection.assets(audits.BIAS),
            executor_def=IN_PROCESS,
            hooks=HOOKS,
            description="Audit the groups of the model in service again.",
            tags={"plane": "learning"},
        ),
        dg.define_asset_job(
            JUDGE,
            selection=dg.AssetSelection.assets(*gates.KEYS.values(), gates.EVIDENCE),
            executor_def=IN_PROCESS,
            hooks=HOOKS,
            description="Judge the newest candidate where its gates did not all run.",
            tags={"plane": "learning"},
        ),
        dg.define_asset_job(
            OBSERVE,
            selection=dg.AssetSelection.assets(
                *(dg.AssetKey([sources.LAYER, name]) for name in feed_names), twins.SERVING
            ),
            executor_def=IN_PROCESS,
            hooks=HOOKS,
            description="Look at the feeds and at which model serves. Reads only.",
            tags={"plane": "live"},
        ),
    ]
