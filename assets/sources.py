"""Layer `source`: the sending systems, observed. One asset a feed: what it has said so far, and how long ago.

Here: external assets whose data version is the count of messages received.
Not here: receiving anything (twin.ingress); Dagster never stands between a monitor and a twin.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

import dagster as dg

from assets.learning_plane import OWNERS
from assets.live_plane import LivePlane, ask
from stores import feeds

LAYER = "source"
LIVE_GROUP = "live"
"""The live plane's own inputs stand apart in the graph: learning begins with recorded stays."""
OBSERVED_EVERY = timedelta(minutes=5)
"""The schedule `observe_live` looks this often; an observation three times as old says that nobody looks."""
FRESH = dg.FreshnessPolicy.time_window(fail_window=3 * OBSERVED_EVERY, warn_window=2 * OBSERVED_EVERY)


def build_sources(feed_names: Sequence[str]) -> list[dg.AssetsDefinition]:
    """Return an observable asset `source/<feed>` for each configured feed."""
    return [_source(name) for name in feed_names]


def _source(feed_name: str) -> dg.AssetsDefinition:
    key = dg.AssetKey([LAYER, feed_name])
    description = f"Messages received on the feed `{feed_name}`, durable in RAW before their ACK."

    # Not observable_source_asset: inside Dagster that one calls what Dagster itself deprecates.
    @dg.multi_observable_source_asset(
        name=f"observe_{feed_name}",
        specs=[
            dg.AssetSpec(
                key,
                group_name=LIVE_GROUP,
                owners=OWNERS,
                description=description,
                kinds={"hl7v2"},
                freshness_policy=FRESH,
            )
        ],
    )
    def observe(live: dg.ResourceParam[LivePlane]) -> dg.ObserveResult:
        heard = [status for status in ask(live, feeds.read) if status.feed == feed_name]
        messages = sum(status.messages for status in heard)
        metadata: dict[str, object] = {
            "offset_messages": messages,
            "values": sum(status.values for status in heard),
            "not_accepted": sum(status.not_accepted for status in heard),
            "senders": len(heard),
        }
        if heard:
            now_us = live.now_us()
            metadata["lag_s"] = max(0.0, now_us - max(status.last_received_at_us for status in heard)) / 1_000_000
            metadata["silent_senders"] = sum(status.is_silent(now_us) for status in heard)
        return dg.ObserveResult(asset_key=key, data_version=dg.DataVersion(str(messages)), metadata=metadata)

    return observe
