"""Layer `model`: a candidate, learned from the training part alone, kept by digest and registered under a number.

Here: `model/mortality`.
Not here: fitting (models.risk.training), judging (assets.gates), whether it may speak (governance).
"""

from typing import Final

import dagster as dg
import msgspec
import numpy as np
import pyarrow as pa

from assets import asking, cohorts, features, normalized, pictures
from assets.learning_plane import (
    CODE_VERSION,
    OWNERS,
    POOL_TRAINING,
    LearningPlane,
    lake_of,
    model_files_of,
    step,
)
from assets.parts import SALT, TRAIN, TRAINING_FOLDS
from models.feature_table import MORTALITY
from models.risk.cohort import Cohort
from models.risk.manifest import Manifest
from stores.lake import Dataset, Lake, rows_digest
from stores.models import ModelVersion
from validation.model_protocol import ModelProtocol
from validation.model_protocol import load as load_protocol
from vocabulary.errors import UnavailableError

KEY: Final = dg.AssetKey(["model", "mortality"])
SCOPE: Final = "mortality"


class Fitting(dg.Config):
    """How a candidate is made."""

    author: str = asking.PROCESS
    """Who makes it, "issuer|subject": whoever it is may not approve it."""
    seed: int = 1
    threads: int = 1
    """Of XGBoost; the model is the same for any number."""
    is_quick: bool = False
    """Whether one small recipe is taken instead of tuning among several: for demonstrations."""


class Trained(msgspec.Struct, frozen=True, kw_only=True):
    """A registered candidate."""

    scope: str
    version: int
    model_digest: str
    data_fingerprint: str  # of the training part
    features_fingerprint: str  # of the table its gates judge
    author: str
    is_synthetic: bool
    run_id: str  # of the experiment tracker; "" where it did not answer


def cohort_of(lake: Lake, events: Dataset, table: pa.Table) -> Cohort:
    """Return the cohort as training takes it: stays by record id, with their bins."""
    table = table.sort_by("record_id")

    def numbers(name: str) -> np.ndarray:
        return np.asarray(table.column(name).fill_null(float("nan")), np.float64)

    return Cohort(
        record_ids=tuple(table.column("record_id").to_pylist()),
        bins=features.bins_of(lake, events, np.asarray(table.column("subject_id"), np.int64)),
        died=np.asarray(table.column("died"), np.int64) == 1,
        saps_i=numbers("saps_i"),
        sofa=numbers("sofa"),
        sex=tuple(table.column("sex").to_pylist()),
        is_synthetic=events.is_synthetic,
    )


@dg.asset(
    key=KEY,
    group_name="model",
    owners=OWNERS,
    kinds={"xgboost", "mlflow"},
    code_version=CODE_VERSION,
    pool=POOL_TRAINING,
    ins={
        "events": dg.AssetIn(key=normalized.KEY),
        "cohort": dg.AssetIn(key=cohorts.KEY),
        "table": dg.AssetIn(key=features.KEY),
    },
    description="A candidate: gradient-boosted trees with medical monotone constraints, tuned and calibrated inside "
    "the training part. Kept as a manifest and plain UBJSON by SHA-256; registered, and silent until people sign.",
)
def mortality_model(
    context: dg.AssetExecutionContext,
    events: Dataset,
    cohort: pa.Table,
    table: pa.Table,
    config: Fitting,
    learning: dg.ResourceParam[LearningPlane],
) -> dg.MaterializeResult[Trained]:
    """Fit, keep and register a candidate."""
    with step(learning, KEY):
        from models.risk import training

        protocol, provenance = load_protocol(), learning.provenance()
        learned_from = cohort_of(lake_of(learning), events, cohort)
        split = np.array(cohort.sort_by("record_id").column("split").to_pylist(), object)
        ancestry = training.Ancestry(
            scope=SCOPE,
            outcome=protocol.outcome,
            protocol=protocol.label,
            protocol_digest=protocol.digest,
            code_version=provenance.code_version,
            lock_digest=provenance.lock_digest,
            salt=SALT,
            folds=TRAINING_FOLDS,
            seed=config.seed,
        )
        made = training.fit(
            MORTALITY,
            learned_from,
            np.flatnonzero(split == TRAIN).astype(np.int32),
            ancestry,
            threads=config.threads,
            recipes=training.RECIPES[:1] if config.is_quick else training.RECIPES,
            progress=context.log.info,
        )
        files = model_files_of(learning)
        for member in made.members.values():
            files.put(member)
        files.put(made.manifest)
        manifest = made.load().manifest
        version = asking.register(learning, _version(learning, made.manifest, made.digest, manifest, config, protocol))
        trained = Trained(
            scope=SCOPE,
            version=version.version,
            model_digest=version.model_digest,
            data_fingerprint=version.data_fingerprint,
            features_fingerprint=rows_digest(table).hex(),
            author=version.author,
            is_synthetic=version.is_synthetic,
            run_id=version.run_id,
        )
    importance = sorted(manifest.importance, key=lambda one: -one.log_odds)
    svg = pictures.bars(
        "Mean contribution by clinical group, log-odds",
        [one.group.replace("_", " ")[:22] for one in importance],
        [one.log_odds for one in importance],
    )
    return dg.MaterializeResult(
        value=trained,
        data_version=dg.DataVersion(trained.model_digest),
        metadata={
            "version": trained.version,
            "model_digest": trained.model_digest,
            "training_stays": manifest.training.stays,
            "training_deaths": manifest.training.deaths,
            "members": len(manifest.members),
            "calibration_slope": manifest.calibration.slope,
            "out_of_fold_log_loss": manifest.training.chosen["log_loss"],
            "chosen": manifest.training.chosen,
            "author": trained.author,
            "is_synthetic": trained.is_synthetic,
            "experiment_run": trained.run_id or "the tracker did not answer",
            "plot_importance": pictures.image(svg, "Mean contribution by clinical group"),
        },
    )


def _version(
    learning: LearningPlane, body: bytes, digest: str, manifest: Manifest, config: Fitting, protocol: ModelProtocol
) -> ModelVersion:
    """Return what is registered; its run at the tracker is made first, because a registered row never changes."""
    version = ModelVersion(
        scope=SCOPE,
        model_digest=digest,
        manifest=body.decode(),
        author=config.author,
        registered_at_us=learning.now_us(),
        data_fingerprint=manifest.training.data_fingerprint,
        code_version=manifest.training.code_version,
        lock_digest=manifest.training.lock_digest,
        protocol=protocol.label,
        protocol_digest=protocol.digest,
        is_synthetic=manifest.is_synthetic,
    )
    registry = learning.registry()
    if registry is None:
        return version
    chosen = manifest.training.chosen
    metrics = {"out_of_fold_log_loss": chosen["log_loss"], "calibration_slope": manifest.calibration.slope}
    parameters = {name: value for name, value in chosen.items() if name != "log_loss"} | {
        "seed": manifest.training.seed,
        "stays": manifest.training.stays,
        "deaths": manifest.training.deaths,
        "library": manifest.training.library,
    }
    try:
        return msgspec.structs.replace(version, run_id=registry.register(version, metrics, parameters))
    except UnavailableError:
        return version  # people who look at the tracker miss a line; nothing else needs it
