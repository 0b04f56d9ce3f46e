"""Layer `twin`, audits of models in service: do today's patients look like those of training, do groups fare alike?

By night and thoroughly; within seconds the keeper's watch does it (twin.watch).

Here: `twin/drift_audit` of a closed day, `twin/bias_audit` of the stays that ended.
Not here: candidates (assets.gates), reactions (governance.rollback).
"""

from typing import Final

import dagster as dg
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from assets import features, live_events, verdicts
from assets.learning_plane import (
    CODE_VERSION,
    OWNERS,
    POOL_DATABASE,
    LearningPlane,
    commit,
    lake_of,
    step,
    tables_of,
)
from assets.live_plane import LivePlane, ask
from assets.partitions import LiveDay, live_day, live_days
from assets.parts import TRAIN
from assets.serving import judge_record, read_record
from assets.training import SCOPE
from assets.verdicts import Judging
from governance.serving import Standing
from governance.statements import Slot
from models import feature_table, stay_features
from models.feature_table import MORTALITY
from models.stay_series import bins_of_columns
from stores import watching
from stores.database import Connection
from stores.lake import Lake
from stores.models import add_verdict
from stores.watching import EndedStay
from twin.watch_table import age_of
from validation.model_protocol import ModelProtocol
from validation.model_protocol import load as load_protocol
from vocabulary.concepts import by_key
from vocabulary.errors import UnavailableError
from vocabulary.verdict import Kind, Verdict

DRIFT: Final = dg.AssetKey(["twin", "drift_audit"])
BIAS: Final = dg.AssetKey(["twin", "bias_audit"])
DAYS_BACK: Final = 2
"""A stay of which the model may speak began at most this many days before."""
_DAY_US: Final = 86_400_000_000


def champion_digest(live: LivePlane, learning: LearningPlane) -> str | None:
    """Return the digest of the model that speaks, by signatures; None where none does."""
    judgement = judge_record(learning, read_record(live)).get(SCOPE)
    if judgement is None:
        return None
    held = judgement.slots[Slot.CHAMPION]
    return None if held.row is None or held.standing is Standing.EMPTY else held.row.model_digest


def day_rows(lake: Lake, day: LiveDay, hours: tuple[int, ...]) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Return features of the stays that reached a judged hour on a day, and the hour of each row.

    Args:
        lake: with the day's events, and those of the days before as far as there are any.
        day: which.
        hours: of a stay at which it is looked at.
    """
    wanted = ["encounter_id", "concept", "minute", "value", "time", "code"]
    days = [LiveDay(day.site, day.day.fromordinal(day.day.toordinal() - back)) for back in range(DAYS_BACK, -1, -1)]
    found = [lake.read(dataset, wanted) for one in days if (dataset := lake.current(one.dataset_name)) is not None]
    if not found:
        return np.empty((0, len(feature_table.names(MORTALITY))), np.float32), np.empty(0, np.int64)
    events = pa.concat_tables(found)
    owner = np.asarray(events.column("encounter_id"), np.int64)
    minute = np.asarray(events.column("minute"), np.int64)
    started_us = (
        np.asarray(events.column("time").cast(pa.int64()), np.int64) // 60_000_000 * 60_000_000 - minute * 60_000_000
    )
    stays, first = np.unique(owner, return_index=True)
    start = started_us[first]
    stay, hour = (grid.ravel() for grid in np.meshgrid(np.arange(len(stays)), np.array(hours, np.int64), indexing="ij"))
    reached = start[stay] + hour * 3_600_000_000
    is_due = (reached >= day.from_us) & (reached < day.to_us)
    # Only stays that were still there: something was charted afterwards, or their end is not known yet.
    last = np.zeros(len(stays), np.int64)
    np.maximum.at(last, np.searchsorted(stays, owner), minute)
    is_due &= last[stay] >= 60 * hour
    concept = np.asarray(events.column("concept").fill_null(0), np.int16)
    is_measured = concept > 0
    bins = bins_of_columns(
        concept[is_measured],
        np.searchsorted(stays, owner[is_measured]).astype(np.int32),
        minute[is_measured].astype(np.int32),
        np.asarray(events.column("value").fill_null(float("nan")), np.float64)[is_measured],
        len(stays),
    )
    rows = stay_features.compute(MORTALITY, bins, stay[is_due].astype(np.int32), (60 * hour[is_due]).astype(np.int32))
    return rows, hour[is_due]


def _keep(learning: LearningPlane, verdict: Verdict) -> None:
    """Keep a verdict beside the model's evidence, not in it: an approval under way rests on what was known then."""
    now_us = learning.now_us()

    async def keep(connection: Connection) -> None:
        await add_verdict(connection, verdict, "", now_us)

    commit(learning, keep)


def build_audits(site: str) -> list[dg.AssetsDefinition]:
    """Return the audits of one house."""

    @dg.asset(
        key=DRIFT,
        group_name="twin",
        owners=OWNERS,
        kinds={"evidently"},
        code_version=CODE_VERSION,
        pool=POOL_DATABASE,
        partitions_def=live_days(site),
        deps=[live_events.KEY, features.KEY],
        check_specs=[
            verdicts.spec(DRIFT, "The verdict on drift of a day; a failure is told to people, it stops nothing.")
        ],
        description="Features of the stays that reached a judged hour on a closed day, against those the candidates "
        "learned from, by the protocol's named methods.",
    )
    def live_drift(
        context: dg.AssetExecutionContext,
        config: Judging,
        live: dg.ResourceParam[LivePlane],
        learning: dg.ResourceParam[LearningPlane],
    ) -> dg.MaterializeResult:
        with step(learning, DRIFT):
            verdict = _drift_of(live_day(context.partition_key), config, live, learning)
        return dg.MaterializeResult(
            metadata=verdicts.metadata(verdict), check_results=[verdicts.result(verdict, DRIFT)]
        )

    @dg.asset(
        key=BIAS,
        group_name="twin",
        owners=OWNERS,
        kinds={"fairlearn"},
        code_version=CODE_VERSION,
        pool=POOL_DATABASE,
        deps=[dg.AssetKey(["twin", "serving"])],
        check_specs=[verdicts.spec(BIAS, "The verdict on groups in service; a failure is told to people.")],
        description="What the champion last said of ended stays, against how they ended, by sex and age band.",
    )
    def live_bias(
        config: Judging, live: dg.ResourceParam[LivePlane], learning: dg.ResourceParam[LearningPlane]
    ) -> dg.MaterializeResult:
        with step(learning, BIAS):
            verdict = _bias_of(config, live, learning)
        return dg.MaterializeResult(metadata=verdicts.metadata(verdict), check_results=[verdicts.result(verdict, BIAS)])

    return [live_drift, live_bias]


def _drift_of(day: LiveDay, config: Judging, live: LivePlane, learning: LearningPlane) -> Verdict:
    from validation import drift

    protocol = load_protocol()
    current, hours = day_rows(lake_of(learning), day, protocol.timing.judged_hours)
    table = tables_of(learning).table(features.KEY.path)
    is_reference = np.array(table.column("split").to_pylist(), object) == TRAIN
    if len(hours):  # rows of an hour are compared with rows of the same hours
        is_reference &= np.isin(np.asarray(table.column("through_minute"), np.int64), 60 * np.unique(hours))
    dataset = lake_of(learning).current(day.dataset_name)
    verdict = drift.judge(
        protocol,
        features.matrix_of(table, is_reference),
        current,
        feature_table.names(MORTALITY),
        subject="/".join(live_events.KEY.path),
        uses_evidently=config.uses_peers,
        model_digest=champion_digest(live, learning) or "",
        data_fingerprint="" if dataset is None else dataset.fingerprint,
        made_at_us=learning.now_us(),
    )
    _keep(learning, verdict)
    return verdict


def ended_stays(live: LivePlane, protocol: ModelProtocol, model_digest: str) -> list[EndedStay]:
    """Return the stays that ended within the protocol's window and of which this model had spoken."""
    since_us = live.now_us() - protocol.live.subgroup.window_days * _DAY_US

    async def read(connection: Connection) -> list[EndedStay]:
        return await watching.ended_stays(connection, model_digest, since_us, age_concept=by_key("age").number)

    return ask(live, read)


def _bias_of(config: Judging, live: LivePlane, learning: LearningPlane) -> Verdict:
    from validation import bias

    protocol, model_digest = load_protocol(), champion_digest(live, learning)
    if model_digest is None:
        raise UnavailableError("No model speaks, so there is nothing to audit: promote one first.")
    stays = ended_stays(live, protocol, model_digest)
    verdict = bias.judge(
        protocol,
        np.array([stay.died for stay in stays], np.int64),
        np.array([stay.probability for stay in stays], np.float64),
        np.array([stay.sex if stay.sex in {"female", "male"} else "" for stay in stays], np.str_),
        np.array([age_of(stay) for stay in stays], np.float64),
        uses_fairlearn=config.uses_peers and len(stays) > 0,
        model_digest=model_digest,
        made_at_us=learning.now_us(),
    )
    _keep(learning, verdict)
    assert verdict.kind is Kind.BIAS
    return verdict
