"""Layer `gate`: what stands between a candidate and a request for approval. Each verdict is a blocking check.

Here: `gate/expectations`, `gate/drift`, `gate/bias`, `gate/clinical`, which judge one candidate on stays it never saw
and keep their verdicts as its evidence, and `gate/evidence`, which asks people when nothing failed.
Not here: judging (validation), evidence and requests (governance), signing (people), promotion (governance.promotion).
"""

from typing import Final, NamedTuple

import dagster as dg
import msgspec
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from assets import asking, cohorts, features, normalized, training, verdicts
from assets.learning_plane import (
    CODE_VERSION,
    POOL_DATABASE,
    LearningPlane,
    commit,
    lake_of,
    model_files_of,
    step,
    tables_of,
)
from assets.parts import HELD_OUT, TRAIN
from assets.training import Trained
from assets.verdicts import Judgement, Judging
from models import feature_table, stay_features
from models.feature_table import MORTALITY
from stores.lake import Dataset
from stores.models import add_verdict
from validation.model_protocol import ModelProtocol
from validation.model_protocol import load as load_protocol
from vocabulary.errors import BrokenInvariantError
from vocabulary.verdict import Kind, Outcome, Verdict, digest, worst

GROUP: Final = "gate"
EVIDENCE: Final = dg.AssetKey([GROUP, "evidence"])
_COMMITTEE: Final = ["team:data-engineering", "team:model-committee"]

KEYS: Final = {
    kind: dg.AssetKey([GROUP, str(kind)]) for kind in (Kind.EXPECTATIONS, Kind.DRIFT, Kind.BIAS, Kind.CLINICAL)
}


class Unseen(NamedTuple):
    """What a candidate said about stays it never saw, one row a stay and judged hour."""

    subject: NDArray[np.int64]
    hour: NDArray[np.int64]
    died: NDArray[np.int64]
    probability: NDArray[np.float64]  # NaN where it abstained


def unseen(learning: LearningPlane, trained: Trained, table: pa.Table) -> Unseen:
    """Score the held-out rows with the model as it lies in the store, loaded by digest."""
    from models.risk import artefact

    files = model_files_of(learning)
    model = artefact.load(files.get(trained.model_digest), files.get)
    held = np.array(table.column("split").to_pylist(), object) == HELD_OUT
    minutes = np.asarray(table.column("through_minute"), np.int64)[held]
    estimates = model.score(features.matrix_of(table, held), minutes)
    said = [np.nan if one.probability is None else one.probability for one in estimates]
    return Unseen(
        np.asarray(table.column("subject_id"), np.int64)[held],
        minutes // 60,
        np.asarray(table.column("died"), np.int64)[held],
        np.array(said, np.float64),
    )


def _hand_on(learning: LearningPlane, trained: Trained, kind: Kind, found: list[Verdict]) -> dg.MaterializeResult:
    """Keep verdicts as the candidate's evidence and return what Dagster shows of them."""
    now_us = learning.now_us()

    async def keep(connection: object) -> None:
        for verdict in found:
            await add_verdict(connection, verdict, trained.model_digest, now_us)

    commit(learning, keep)
    key, outcome = KEYS[kind], worst(verdict.outcome for verdict in found)
    shown = found[0] if len(found) == 1 else _joined(found, outcome)
    judged = Judgement(kind=str(kind), outcome=str(outcome), digest=digest(shown), model_digest=trained.model_digest)
    return dg.MaterializeResult(
        value=judged,
        metadata={"scope": trained.scope, "version": trained.version, "model_digest": trained.model_digest}
        | verdicts.metadata(shown),
        check_results=[verdicts.result(shown, key)],
    )


def _joined(found: list[Verdict], outcome: Outcome) -> Verdict:
    """Return several verdicts as one to look at; each is kept by itself."""
    return msgspec.structs.replace(
        found[0],
        subject=", ".join(verdict.subject for verdict in found),
        outcome=outcome,
        statement=" ".join(f"{verdict.subject}: {verdict.statement}" for verdict in found),
        measures=tuple(measure for verdict in found for measure in verdict.measures),
        series=tuple(series for verdict in found for series in verdict.series),
    )


def _require_own(trained: Trained, table: pa.Table) -> None:
    """Refuse to judge a model by another cohort's rows."""
    from stores.lake import rows_digest

    if trained.features_fingerprint != rows_digest(table).hex():
        raise BrokenInvariantError(
            "expected the features that the candidate was trained beside, found others: materialize model/mortality "
            "and its gates in one run"
        )


def _gate(kind: Kind, description: str, kinds: set[str]) -> dict[str, object]:
    """Return what all gates have in common."""
    return {
        "key": KEYS[kind],
        "group_name": GROUP,
        "owners": _COMMITTEE,
        "kinds": kinds,
        "code_version": CODE_VERSION,
        "dagster_type": dg.Any,
        "pool": POOL_DATABASE,
        "check_specs": [verdicts.spec(KEYS[kind], f"The verdict on {kind}: a failure ends the way to a request.")],
        "description": description,
    }


_TRAINED: Final = {"trained": dg.AssetIn(key=training.KEY)}
_TABLE: Final = {"table": dg.AssetIn(key=features.KEY)}
_COHORT: Final = {"cohort": dg.AssetIn(key=cohorts.KEY)}
_EVENTS: Final = {"events": dg.AssetIn(key=normalized.KEY)}


@dg.asset(
    **_gate(
        Kind.EXPECTATIONS,
        "The judgements of the data that the candidate learned from: events, cohort, features. Part of its evidence.",
        {"greatexpectations"},
    ),
    ins=_TRAINED,
    deps=[normalized.KEY, cohorts.KEY, features.KEY],
)
def expectations_gate(
    context: dg.AssetExecutionContext, trained: Trained, learning: dg.ResourceParam[LearningPlane]
) -> dg.MaterializeResult:
    """Keep the data's verdicts as evidence for the model that was made of them."""
    with step(learning, KEYS[Kind.EXPECTATIONS]):
        tables = tables_of(learning)
        found = [verdicts.kept(tables, context.run.run_id, key) for key in (normalized.KEY, cohorts.KEY, features.KEY)]
        if trained.features_fingerprint != found[-1].data_fingerprint:
            raise BrokenInvariantError(
                "expected the verdict about the candidate's own features, found one about others: materialize "
                "feature/mortality and model/mortality in one run"
            )
        return _hand_on(learning, trained, Kind.EXPECTATIONS, found)


@dg.asset(
    **_gate(
        Kind.DRIFT,
        "Are the stays it is judged on distributed as those it learned from? By the protocol's named methods.",
        {"evidently"},
    ),
    ins=_TRAINED | _TABLE,
)
def drift_gate(
    trained: Trained, table: pa.Table, config: Judging, learning: dg.ResourceParam[LearningPlane]
) -> dg.MaterializeResult:
    """Compare held-out stays with training stays at the primary hour."""
    with step(learning, KEYS[Kind.DRIFT]):
        from validation import drift

        _require_own(trained, table)
        protocol = load_protocol()
        primary = np.asarray(table.column("through_minute"), np.int64) == 60 * protocol.timing.primary_hour
        split = np.array(table.column("split").to_pylist(), object)
        died = np.asarray(table.column("died"), np.int64)
        names = feature_table.names(MORTALITY)
        reference, current = (primary & (split == part) for part in (TRAIN, HELD_OUT))
        verdict = drift.judge(
            protocol,
            features.matrix_of(table, reference),
            features.matrix_of(table, current),
            names,
            reference_labels=died[reference],
            current_labels=died[current],
            uses_evidently=config.uses_peers,
            model_digest=trained.model_digest,
            data_fingerprint=trained.features_fingerprint,
            made_at_us=learning.now_us(),
        )
        return _hand_on(learning, trained, Kind.DRIFT, [verdict])


@dg.asset(
    **_gate(
        Kind.BIAS,
        "Do women and men, young and old, fare alike? A pass needs the whole interval; small groups are not shown.",
        {"fairlearn"},
    ),
    ins=_TRAINED | _TABLE | _COHORT,
)
def bias_gate(
    trained: Trained,
    table: pa.Table,
    cohort: pa.Table,
    config: Judging,
    learning: dg.ResourceParam[LearningPlane],
) -> dg.MaterializeResult:
    """Compare groups of held-out stays at the primary hour."""
    with step(learning, KEYS[Kind.BIAS]):
        from validation import bias

        _require_own(trained, table)
        protocol = load_protocol()
        said = unseen(learning, trained, table)
        primary = said.hour == protocol.timing.primary_hour
        subjects = np.asarray(cohort.column("subject_id"), np.int64)
        place = np.searchsorted(subjects, said.subject[primary])
        sex = np.array(cohort.column("sex").to_pylist(), object)[place]
        age = np.asarray(cohort.column("age_years").fill_null(float("nan")), np.float64)[place]
        verdict = bias.judge(
            protocol,
            said.died[primary],
            said.probability[primary],
            np.where(sex == "unknown", "", sex).astype(np.str_),
            age,
            uses_fairlearn=config.uses_peers,
            model_digest=trained.model_digest,
            data_fingerprint=trained.features_fingerprint,
            made_at_us=learning.now_us(),
        )
        return _hand_on(learning, trained, Kind.BIAS, [verdict])


@dg.asset(
    **_gate(
        Kind.CLINICAL,
        "Does it discriminate, is it calibrated, would acting on it help, and how many alerts would that cost?",
        {"python"},
    ),
    ins=_TRAINED | _TABLE | _EVENTS | _COHORT,
)
def clinical_gate(
    trained: Trained, table: pa.Table, events: Dataset, cohort: pa.Table, learning: dg.ResourceParam[LearningPlane]
) -> dg.MaterializeResult:
    """Judge what the candidate says of held-out stays, and the alerts it would have raised hour by hour."""
    with step(learning, KEYS[Kind.CLINICAL]):
        from validation import clinical

        _require_own(trained, table)
        protocol = load_protocol()
        said = unseen(learning, trained, table)
        verdict = clinical.judge(
            protocol,
            said.subject,
            said.hour,
            said.died,
            said.probability,
            alerts=_alerts(learning, protocol, trained, events, cohort),
            model_digest=trained.model_digest,
            data_fingerprint=trained.features_fingerprint,
            made_at_us=learning.now_us(),
        )
        return _hand_on(learning, trained, Kind.CLINICAL, [verdict])


def _alerts(
    learning: LearningPlane, protocol: ModelProtocol, trained: Trained, events: Dataset, cohort: pa.Table
) -> object:
    """Return the alerts that the live board's own rule raises when held-out stays are scored every hour."""
    from models.risk import artefact
    from twin.alerts import Rule, onset_rows
    from validation import alert_burden

    held = np.array(cohort.column("split").to_pylist(), object) == HELD_OUT
    subjects = np.asarray(cohort.column("subject_id"), np.int64)[held]
    ends = np.asarray(cohort.column("stay_minutes"), np.int64)[held]
    hours = np.arange(protocol.timing.first_hour, protocol.timing.last_hour + 1)
    stay = np.repeat(np.arange(len(subjects), dtype=np.int32), len(hours))
    minute = np.tile(hours * 60, len(subjects)).astype(np.int32)
    is_there = minute <= ends[stay]  # nobody is watched after the end
    stay, minute = stay[is_there], minute[is_there]
    files = model_files_of(learning)
    model = artefact.load(files.get(trained.model_digest), files.get)
    matrix = stay_features.compute(MORTALITY, features.bins_of(lake_of(learning), events, subjects), stay, minute)
    estimates = model.score(matrix, minute)
    said = np.array([np.nan if one.probability is None else one.probability for one in estimates])
    raised = onset_rows(Rule.of(protocol), stay.astype(np.int64), minute.astype(np.int64), said)
    died = np.asarray(cohort.column("died"), np.int64)[held] == 1
    speaks = np.isfinite(said)  # as in the live watch: hours in which nothing could be raised would only dilute it
    return alert_burden.table(stay[speaks], raised[speaks], np.arange(len(subjects)), died, minutes_between_rows=60)


@dg.asset(
    key=EVIDENCE,
    group_name=GROUP,
    owners=_COMMITTEE,
    kinds={"postgres"},
    code_version=CODE_VERSION,
    pool=POOL_DATABASE,
    ins=_TRAINED
    | {
        "expectations": dg.AssetIn(key=KEYS[Kind.EXPECTATIONS]),
        "drift": dg.AssetIn(key=KEYS[Kind.DRIFT]),
        "bias": dg.AssetIn(key=KEYS[Kind.BIAS]),
        "clinical": dg.AssetIn(key=KEYS[Kind.CLINICAL]),
    },
    description="All verdicts of a candidate under one digest, and the request to the committee. Findings that are "
    "inconclusive become conditions that people sign. Dagster asks; only people approve.",
)
def evidence_gate(
    trained: Trained,
    expectations: Judgement,
    drift: Judgement,
    bias: Judgement,
    clinical: Judgement,
    config: asking.Asking,
    learning: dg.ResourceParam[LearningPlane],
) -> dg.MaterializeResult[asking.Request]:
    """Open the request for approval."""
    with step(learning, EVIDENCE):
        judged = (expectations, drift, bias, clinical)
        if {one.model_digest for one in judged} != {trained.model_digest}:
            raise BrokenInvariantError(
                "expected verdicts about one candidate, found several: materialize its gates in one run"
            )
        opened = asking.open_request(learning, trained, config)
    return dg.MaterializeResult(
        value=opened,
        metadata={
            "request_id": opened.request_id,
            "scope": opened.scope,
            "version": opened.version,
            "evidence_digest": opened.evidence_digest,
            "conditions": dg.MetadataValue.md("\n".join(f"- {line}" for line in opened.conditions) or "none"),
            "verdicts": {one.kind: one.outcome for one in judged},
        },
    )


GATES: Final = [expectations_gate, drift_gate, bias_gate, clinical_gate, evidence_gate]
