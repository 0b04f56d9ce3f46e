"""Layer `cohort`: who is learned from and who is held back, with the outcome of each stay.

Here: `cohort/mortality`: labels, parts, exclusions with their reasons, what bias is judged by.
Not here: the draw itself (models.risk.cohort), measurements (assets.features).
"""

from collections import Counter
from typing import Final

import dagster as dg
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from assets import columns, normalized, pictures, verdicts
from assets.event_tables import SAPS_I, SEX, SOFA, UNIT
from assets.learning_plane import CODE_VERSION, OWNERS, LearningPlane, lake_of, step, tables_of
from assets.verdicts import Judging
from stores.lake import DEATH, DISCHARGE, Dataset, Lake, code_of, rows_digest
from validation.age_bands import bands_of
from validation.model_protocol import load as load_protocol
from vocabulary.concepts import by_key

KEY: Final = dg.AssetKey(["cohort", "mortality"])
LEAST_AGE_YEARS: Final = 18.0
"""The challenge's stays are of adults; so is every protocol of ours."""

NO_OUTCOME: Final = "no_outcome"
NO_MEASUREMENT: Final = "no_measurement"
TOO_YOUNG: Final = "younger_than_18"


def schema() -> pa.Schema:
    """Return the cohort's columns, described in assets.columns."""
    return pa.schema(
        [
            pa.field("subject_id", pa.int64(), nullable=False),
            pa.field("record_id", pa.string(), nullable=False),
            pa.field("died", pa.int8(), nullable=False),
            pa.field("split", pa.string(), nullable=False),
            pa.field("sex", pa.string(), nullable=False),
            pa.field("age_years", pa.float64()),
            pa.field("icu_type", pa.string(), nullable=False),
            pa.field("saps_i", pa.float64()),
            pa.field("sofa", pa.float64()),
            pa.field("stay_minutes", pa.int32(), nullable=False),
        ]
    )


def build(lake: Lake, dataset: Dataset) -> tuple[pa.Table, Counter[str]]:
    """Return the cohort of a dataset, by rising subject, and how many stays were left out by reason."""
    events = lake.read(dataset, ["subject_id", "code", "value", "minute", "concept"])
    parts = dict(zip(*(column.to_pylist() for column in lake.splits(dataset).columns), strict=True))
    subjects = sorted(parts)
    died = _subjects(events, DEATH)
    ends = _values(events, DISCHARGE, "minute")
    measured = set(pc.unique(events.filter(pc.is_valid(events.column("concept"))).column("subject_id")).to_pylist())
    ages = _values(events, code_of(by_key("age")), "value")
    scores = {name: _values(events, code, "value") for name, code in (("saps_i", SAPS_I), ("sofa", SOFA))}
    sexes, units = _suffixes(events, SEX), _suffixes(events, UNIT)
    excluded: Counter[str] = Counter()
    rows = []
    for subject in subjects:
        age = ages.get(subject)
        if subject not in ends:
            excluded[NO_OUTCOME] += 1
        elif subject not in measured:
            excluded[NO_MEASUREMENT] += 1
        elif age is not None and age < LEAST_AGE_YEARS:
            excluded[TOO_YOUNG] += 1
        else:
            rows.append(
                {
                    "subject_id": subject,
                    "record_id": str(subject),
                    "died": int(subject in died),
                    "split": parts[subject],
                    "sex": sexes.get(subject, "unknown"),
                    "age_years": age,
                    "icu_type": units.get(subject, ""),
                    "saps_i": scores["saps_i"].get(subject),
                    "sofa": scores["sofa"].get(subject),
                    "stay_minutes": int(ends[subject]),
                }
            )
    return pa.Table.from_pylist(rows, schema=schema()), excluded


def _subjects(events: pa.Table, code: str) -> set[int]:
    return set(events.filter(pc.equal(events.column("code"), code)).column("subject_id").to_pylist())


def _values(events: pa.Table, code: str, column: str) -> dict[int, float]:
    """Return each subject's first value of a code."""
    found = events.filter(pc.equal(events.column("code"), code))
    pairs = zip(found.column("subject_id").to_pylist(), found.column(column).to_pylist(), strict=True)
    first: dict[int, float] = {}
    for subject, value in pairs:
        if value is not None:
            first.setdefault(subject, value)
    return first


def _suffixes(events: pa.Table, prefix: str) -> dict[int, str]:
    found = events.filter(pc.starts_with(events.column("code"), prefix))
    codes = (code.removeprefix(prefix).replace("_", " ") for code in found.column("code").to_pylist())
    return dict(zip(found.column("subject_id").to_pylist(), codes, strict=True))


@dg.asset(
    key=KEY,
    group_name="cohort",
    owners=OWNERS,
    kinds={"parquet"},
    dagster_type=dg.Any,
    code_version=CODE_VERSION,
    ins={"events": dg.AssetIn(key=normalized.KEY)},
    check_specs=[verdicts.spec(KEY, "Great Expectations: unique stays, labels 0 or 1, one part each, no stay in two.")],
    metadata={"dagster/column_schema": columns.schema_of(schema(), columns.COHORT)},
    description="Adult stays with a known outcome: died in hospital or not. Parts that train and that judge are drawn "
    "by hash of the record, so nobody can choose them.",
)
def mortality_cohort(
    context: dg.AssetExecutionContext,
    events: Dataset,
    config: Judging,
    learning: dg.ResourceParam[LearningPlane],
) -> dg.MaterializeResult:
    """Build and judge the cohort."""
    with step(learning, KEY):
        from validation import expectations

        table, excluded = build(lake_of(learning), events)
        fingerprint = rows_digest(table).hex()
        verdict = expectations.judge_cohort(
            table.rename_columns({"record_id": "stay", "died": "label"}).to_pandas(),
            subject="/".join(KEY.path),
            uses_great_expectations=config.uses_peers,
            data_fingerprint=fingerprint,
            made_at_us=learning.now_us(),
        )
        verdicts.keep(tables_of(learning), context.run.run_id, KEY, verdict)
    return dg.MaterializeResult(
        value=table,
        data_version=dg.DataVersion(fingerprint),
        metadata=_metadata(table, excluded),
        check_results=[verdicts.result(verdict, KEY)],
    )


def _metadata(table: pa.Table, excluded: Counter[str]) -> dict[str, object]:
    died = np.asarray(table.column("died"), np.float64)
    split = np.array(table.column("split").to_pylist(), object)
    ages = np.asarray(table.column("age_years").fill_null(float("nan")), np.float64)
    bands = bands_of(ages, load_protocol().bias.age_bands_from_years)
    names = sorted(set(bands.tolist()))
    svg = pictures.bars(
        "Died in hospital by age band, per cent",
        names,
        [100 * float(died[bands == name].mean()) for name in names],
        " %",
    )
    found: dict[str, object] = {
        "dagster/row_count": table.num_rows,
        "deaths": int(died.sum()),
        "mortality": float(died.mean()) if len(died) else 0.0,
        "excluded": excluded.total(),
        "excluded_by_reason": dict(excluded),
        "women": float(np.mean(np.array(table.column("sex").to_pylist(), object) == "female")) if len(died) else 0.0,
        "plot_mortality_by_age": pictures.image(svg, "Died in hospital by age band"),
    }
    for part in sorted(set(split.tolist())):
        found[f"{part}_stays"] = int((split == part).sum())
        found[f"{part}_deaths"] = int(died[split == part].sum())
    return found
