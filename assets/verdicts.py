"""Verdicts as Dagster shows them: a blocking check each, numbers, a table and the plots.

A verdict that fails is an error, and what comes after it is not made. One that is inconclusive is a warning: the way
goes on, with the finding as a condition that people must sign. Only a pass is green.

Here: verdict → check result and metadata, keeping a data verdict beside its table until a model is made of it.
Not here: judging (validation), what follows from verdicts (governance.lifecycle, assets.gates).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

import dagster as dg
import msgspec

from assets import pictures
from stores.lake_tables import LakeTables
from vocabulary import verdict as verdicts
from vocabulary.verdict import Outcome, Series, Verdict

CHECK: Final = "verdict"
"""The name of the check every judged asset has."""

_KEPT_UNDER: Final = "verdict"


def spec(key: dg.AssetKey, description: str) -> dg.AssetCheckSpec:
    """Return the blocking check of a judged asset."""
    return dg.AssetCheckSpec(CHECK, asset=key, description=description, blocking=True)


def result(verdict: Verdict, key: dg.AssetKey) -> dg.AssetCheckResult:
    """Return a verdict as the result of that check."""
    return dg.AssetCheckResult(
        asset_key=key,
        check_name=CHECK,
        passed=verdict.outcome is Outcome.PASS,
        severity=dg.AssetCheckSeverity.ERROR if verdict.outcome is Outcome.FAIL else dg.AssetCheckSeverity.WARN,
        description=verdict.statement,
        metadata=metadata(verdict),
    )


def metadata(verdict: Verdict) -> dict[str, Any]:
    """Return a verdict's numbers and plots."""
    found: dict[str, Any] = {
        "outcome": str(verdict.outcome),
        "statement": verdict.statement,
        "method": verdict.method,
        "protocol": verdict.protocol,
        "measures": pictures.measures_table(verdict),
        "verdict_digest": verdicts.digest(verdict),
    }
    for measure in verdict.measures:
        if not measure.group and measure.value is not None:
            found.setdefault(measure.name, measure.value)
    return found | _plots(verdict)


def _plots(verdict: Verdict) -> dict[str, dg.MarkdownMetadataValue]:
    plots = {}
    for name, listed in _families(verdict.series).items():
        title = name.replace("_", " ").capitalize()
        lowest = -0.05 if name.startswith("decision") else -math.inf
        svg = pictures.curves(title, listed, is_diagonal=name.startswith("calibration"), lowest=lowest)
        plots[f"plot_{name}"] = pictures.image(svg, title)
    return plots


def _families(series: Sequence[Series]) -> Mapping[str, list[Series]]:
    """Return curves that share axes and the first word of their name: the decision curves of model, all and none."""
    found: dict[tuple[str, str, str], list[Series]] = {}
    for one in series:
        found.setdefault((one.name.split("_")[0], one.x_label, one.y_label), []).append(one)
    return {listed[0].name if len(listed) == 1 else key[0]: listed for key, listed in found.items()}


def keep(tables: LakeTables, run_id: str, key: dg.AssetKey, verdict: Verdict) -> None:
    """Keep a verdict about data until a model is made of them, whose evidence it is."""
    tables.put_record([_KEPT_UNDER, *key.path], run_id, verdicts.canonical_bytes(verdict))


def kept(tables: LakeTables, run_id: str, key: dg.AssetKey) -> Verdict:
    """Return the verdict about an asset of this run, or the newest one where this run did not judge it.

    Raises:
        UnavailableError: nobody judged it.
    """
    return verdicts.from_bytes(tables.record([_KEPT_UNDER, *key.path], run_id))


class Judging(dg.Config):
    """How verdicts are reached."""

    uses_peers: bool = True
    """Whether Great Expectations, Evidently and Fairlearn compute what they can too and are held against our own
    figures: the same verdict, slower by their imports."""


class Judgement(msgspec.Struct, frozen=True, kw_only=True):
    """What a gate hands on: which verdict it kept, for which model."""

    kind: str
    outcome: str
    digest: str
    model_digest: str
