"""Layer `normalized`: recorded stays as canonical events in the lake (MEDS), judged before anybody learns from them.

Here: `normalized/events`.
Not here: decoding (interop.physionet2012), the lake's layout (stores.lake), expectations (validation.expectations), the
live plane's closed days (assets.live_events).
"""

from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import dagster as dg

from assets import columns, pictures, recorded, verdicts
from assets.event_tables import recorded_tables
from assets.learning_plane import CODE_VERSION, OWNERS, LearningPlane, lake_of, step, tables_of
from assets.parts import split_of
from assets.recorded import Recorded
from assets.verdicts import Judging
from interop import physionet2012
from interop.physionet2012 import RecordedStay
from stores.lake import About, Dataset, Split, event_schema
from vocabulary.concepts import by_number
from vocabulary.records import Rejected

KEY: Final = dg.AssetKey(["normalized", "events"])
DATASET: Final = "physionet2012"
_MOST_SHOWN: Final = 14


class _Counted:
    """Stays on their way into the lake, counted as they pass."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.splits: list[Split] = []
        self.values: Counter[int] = Counter()
        self.refused: Counter[str] = Counter()
        self.files_refused = 0

    def __iter__(self) -> Iterator[RecordedStay]:
        for stay in physionet2012.read(self._folder, self._refuse):
            self.splits.append(Split(int(stay.record_id), split_of(stay.record_id)))
            self.values.update(stay.concepts.tolist())
            self.refused.update(str(one.reason) for one in stay.rejected)
            yield stay

    def _refuse(self, _: Rejected) -> None:
        self.files_refused += 1


@dg.asset(
    key=KEY,
    group_name="normalized",
    owners=OWNERS,
    kinds={"parquet"},
    dagster_type=dg.Any,
    code_version=CODE_VERSION,
    ins={"found": dg.AssetIn(key=recorded.KEY)},
    check_specs=[
        verdicts.spec(KEY, "Great Expectations: known concepts, canonical units, plausible values, time order.")
    ],
    metadata={"dagster/column_schema": columns.schema_of(event_schema(), columns.EVENTS)},
    description="Every recorded value in canonical concepts and units, by the same rules as live messages; Parquet in "
    "the layout of the Medical Event Data Standard. The parts that train and judge are fixed here, by hash.",
)
def normalized_events(
    context: dg.AssetExecutionContext,
    found: Recorded,
    config: Judging,
    learning: dg.ResourceParam[LearningPlane],
) -> dg.MaterializeResult:
    """Decode the stays and write them to the lake."""
    with step(learning, KEY):
        from validation import expectations

        lake, stays = lake_of(learning), _Counted(Path(found.folder))
        now_us = learning.now_us()
        about = About(
            dataset_name=DATASET,
            etl_version=learning.provenance().code_version,
            created_at=datetime.fromtimestamp(now_us / 1e6, tz=UTC).isoformat(),
            time_origin="admission to the intensive care unit is 1970-01-01T00:00:00",
            is_synthetic=found.is_synthetic,
        )
        # Parts become known as stays pass, so they are given as the list they fill.
        dataset = lake.write(about, recorded_tables(stays, DATASET), stays.splits)
        lake.trim(DATASET)
        verdict = expectations.judge_events(
            lake.read(dataset).to_pandas(),
            subject="/".join(KEY.path),
            uses_great_expectations=config.uses_peers,
            data_fingerprint=dataset.fingerprint,
            made_at_us=now_us,
        )
        verdicts.keep(tables_of(learning), context.run.run_id, KEY, verdict)
    return dg.MaterializeResult(
        value=dataset,
        data_version=dg.DataVersion(dataset.fingerprint),
        metadata=_metadata(dataset, stays),
        check_results=[verdicts.result(verdict, KEY)],
    )


def _metadata(dataset: Dataset, stays: _Counted) -> dict[str, object]:
    commonest = stays.values.most_common(_MOST_SHOWN)
    svg = pictures.bars(
        "Values by concept", [by_number(number).short for number, _ in commonest], [count for _, count in commonest]
    )
    return {
        "dagster/row_count": dataset.rows,
        "stays": dataset.subjects,
        "concepts": len(stays.values),
        "values_refused": stays.refused.total(),
        "values_refused_by_reason": dict(stays.refused.most_common()),
        "files_refused": stays.files_refused,
        "fingerprint": dataset.fingerprint,
        "is_synthetic": dataset.is_synthetic,
        "plot_values": pictures.image(svg, "Values by concept"),
    }
