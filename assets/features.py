"""Layer `feature`: rows of numbers at judged hours, by the very kernel that the live twin runs.

Here: `feature/mortality`, and a cohort's minute bins out of the lake.
Not here: computing features (models.stay_features), which there are (models.feature_table).
"""

from typing import Final

import dagster as dg
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from assets import cohorts, columns, normalized, pictures, verdicts
from assets.learning_plane import CODE_VERSION, OWNERS, LearningPlane, lake_of, step, tables_of
from assets.verdicts import Judging
from models import feature_table, stay_features
from models.feature_table import MORTALITY
from models.stay_series import Bins, bins_of_columns
from stores.lake import Dataset, Lake, rows_digest
from validation.model_protocol import load as load_protocol

KEY: Final = dg.AssetKey(["feature", "mortality"])
FACTS: Final = ("subject_id", "through_minute", "available_minute", "split", "died")


def bins_of(lake: Lake, dataset: Dataset, subjects: NDArray[np.int64]) -> Bins:
    """Return the minute bins of a dataset's stays; `Bins.stay` is the place in `subjects`, in whatever order."""
    events = lake.read(dataset, ["subject_id", "concept", "minute", "value"])
    events = events.filter(pc.is_valid(events.column("concept")))
    owner = np.asarray(events.column("subject_id"), np.int64)
    order = np.argsort(subjects, kind="stable")
    found = np.minimum(np.searchsorted(subjects[order], owner), max(0, len(subjects) - 1))
    place = order[found] if len(subjects) else np.zeros(len(owner), np.int64)
    chosen = subjects[place] == owner if len(subjects) else np.zeros(len(owner), np.bool_)
    return bins_of_columns(
        np.asarray(events.column("concept"), np.int16)[chosen],
        place[chosen].astype(np.int32),
        np.asarray(events.column("minute"), np.int32)[chosen],
        np.asarray(events.column("value").fill_null(float("nan")), np.float64)[chosen],
        len(subjects),
    )


def latest_minutes(bins: Bins, stay: NDArray[np.int32], through: NDArray[np.int32]) -> NDArray[np.int32]:
    """Return for each row the minute of the last bin that counts for it, -1 where none does."""
    key = np.sort((bins.stay.astype(np.int64) << 32) + bins.minute)
    wanted = (stay.astype(np.int64) << 32) + through
    place = np.searchsorted(key, wanted, side="right") - 1
    found = key[np.maximum(place, 0)] if len(key) else np.full(len(stay), -1, np.int64)
    is_own = (place >= 0) & ((found >> 32) == stay)
    return np.where(is_own, found & 0xFFFFFFFF, -1).astype(np.int32)


def schema() -> pa.Schema:
    """Return the columns: facts about the row, then the feature table's names in its order."""
    facts = [
        pa.field("subject_id", pa.int64(), nullable=False),
        pa.field("through_minute", pa.int32(), nullable=False),
        pa.field("available_minute", pa.int32(), nullable=False),
        pa.field("split", pa.string(), nullable=False),
        pa.field("died", pa.int8(), nullable=False),
    ]
    return pa.schema([*facts, *(pa.field(name, pa.float32()) for name in feature_table.names(MORTALITY))])


def build(cohort: pa.Table, bins: Bins, hours: tuple[int, ...]) -> pa.Table:
    """Return one row a stay and hour, by stay and rising hour; NaN where nothing can be said."""
    stays = cohort.num_rows
    stay = np.repeat(np.arange(stays, dtype=np.int32), len(hours))
    through = np.tile(np.array(hours, np.int32) * 60, stays)
    matrix = stay_features.compute(MORTALITY, bins, stay, through)
    facts = [
        pa.array(np.asarray(cohort.column("subject_id"), np.int64)[stay]),
        pa.array(through),
        pa.array(latest_minutes(bins, stay, through)),
        pa.array(np.array(cohort.column("split").to_pylist(), object)[stay], pa.string()),
        pa.array(np.asarray(cohort.column("died"), np.int8)[stay]),
    ]
    # Column by column without a copy: the matrix is turned once.
    turned = np.ascontiguousarray(matrix.T)
    return pa.table([*facts, *(pa.array(column) for column in turned)], schema=schema())


def matrix_of(table: pa.Table, rows: NDArray[np.bool_] | None = None) -> NDArray[np.float32]:
    """Return the features of a table's rows, shape (rows, names), C-contiguous."""
    columns_ = [np.asarray(table.column(name), np.float32) for name in feature_table.names(MORTALITY)]
    matrix = np.stack(columns_, axis=1)
    return np.ascontiguousarray(matrix if rows is None else matrix[rows])


@dg.asset(
    key=KEY,
    group_name="feature",
    owners=OWNERS,
    kinds={"parquet", "numpy"},
    dagster_type=dg.Any,
    code_version=f"{CODE_VERSION}-{feature_table.digest(MORTALITY)[:12]}",
    ins={"events": dg.AssetIn(key=normalized.KEY), "cohort": dg.AssetIn(key=cohorts.KEY)},
    check_specs=[
        verdicts.spec(KEY, "Great Expectations: names and order, ranges, missingness, nothing from the future.")
    ],
    metadata={"dagster/column_schema": columns.schema_of(schema(), columns.FEATURES)},
    description="Features of every stay at each judged hour, computed from minute bins by the function that the live "
    "twin calls: the same stay at the same minute has the same bits in both.",
)
def mortality_features(
    context: dg.AssetExecutionContext,
    events: Dataset,
    cohort: pa.Table,
    config: Judging,
    learning: dg.ResourceParam[LearningPlane],
) -> dg.MaterializeResult:
    """Compute and judge the features."""
    with step(learning, KEY):
        from validation import expectations

        protocol = load_protocol()
        bins = bins_of(lake_of(learning), events, np.asarray(cohort.column("subject_id"), np.int64))
        table = build(cohort, bins, protocol.timing.judged_hours)
        fingerprint = rows_digest(table).hex()
        names = feature_table.names(MORTALITY)
        verdict = expectations.judge_features(
            table.select(names).to_pandas(),
            names,
            stay=np.asarray(table.column("subject_id"), np.int64),
            prediction_minute=np.asarray(table.column("through_minute"), np.int64),
            available_minute=np.asarray(table.column("available_minute"), np.int64),
            subject="/".join(KEY.path),
            uses_great_expectations=config.uses_peers,
            data_fingerprint=fingerprint,
            made_at_us=learning.now_us(),
        )
        verdicts.keep(tables_of(learning), context.run.run_id, KEY, verdict)
    return dg.MaterializeResult(
        value=table,
        data_version=dg.DataVersion(fingerprint),
        metadata=_metadata(table, protocol.timing.judged_hours, len(bins.median)),
        check_results=[verdicts.result(verdict, KEY)],
    )


def _metadata(table: pa.Table, hours: tuple[int, ...], bins: int) -> dict[str, object]:
    matrix, minutes = matrix_of(table), np.asarray(table.column("through_minute"), np.int64)
    measured = [100 * float(np.isfinite(matrix[minutes == 60 * hour]).mean()) for hour in hours]
    svg = pictures.bars("Features with a value, per cent", [f"hour {hour}" for hour in hours], measured, " %")
    return {
        "dagster/row_count": table.num_rows,
        "features": matrix.shape[1],
        "minute_bins": bins,
        "share_with_value": float(np.isfinite(matrix).mean()) if matrix.size else 0.0,
        "feature_table_digest": feature_table.digest(MORTALITY),
        "plot_measured": pictures.image(svg, "Features with a value"),
    }
