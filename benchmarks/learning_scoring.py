"""Scoring by our artefact beside mlflow.pyfunc of the very same Boosters, and what an explanation costs.

Here: `figures`: 1 and 1,000 patients, equal probabilities first; called by benchmarks.learning.
Not here: training worth reporting (vigil train), features (benchmarks.learning_kernel).

Both sides get what their users hold: we a float32 row and its minute, for calibrated probability, interval and
abstention; pyfunc a DataFrame with named columns, for each Booster's bare probability. One thread each.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from interop import physionet2012
from models import feature_table
from models.feature_table import MORTALITY
from models.risk.artefact import RiskModel
from models.risk.cohort import features_at, of_records
from models.risk.fitting import Recipe
from models.risk.training import Ancestry, TrainedModel, fit

MINUTE = 2880
RECIPE = Recipe(depth=4, rounds=300)
LEARNED_FROM = 1000
EQUAL = 1e-5


def figures(source: Path, seed: int) -> dict[str, float]:
    """Return `scoring_ratio_n1`, `scoring_ratio_n1000` (pyfunc's time by ours) and `explain_ms` a patient.

    Args:
        source: a folder of the 2012 challenge's format.
        seed: of the training.
    """
    cohort = of_records(list(physionet2012.read(source)), is_synthetic=physionet2012.is_synthetic(source))
    stays = np.arange(min(LEARNED_FROM, len(cohort.died)), dtype=np.int32)
    ancestry = Ancestry(
        scope="mortality",
        outcome="death before discharge from this hospital stay",
        protocol="",
        protocol_digest="",
        code_version="",
        lock_digest="",
        salt="",
        folds=(),
        seed=seed,
    )
    trained = fit(MORTALITY, cohort, stays, ancestry, recipes=(RECIPE,), hours=(48,), hour_weights=(1.0,))
    model = trained.load()
    rows = features_at(MORTALITY, cohort, np.resize(stays, 1000).astype(np.int32), (48,))[48]
    minutes = np.full(len(rows), MINUTE)
    with tempfile.TemporaryDirectory(prefix="vigil-bench-") as folder:
        peers, frame = _peers(trained, rows, Path(folder))
        _check(model, trained, rows, [peer(frame) for peer in peers])
        ours_1 = _seconds(lambda: model.score(rows[:1], minutes[:1]), 30)
        ours_1000 = _seconds(lambda: model.score(rows, minutes), 5)
        first = frame.iloc[:1]
        pyfunc_1 = _seconds(lambda: [peer(first) for peer in peers], 10)
        pyfunc_1000 = _seconds(lambda: [peer(frame) for peer in peers], 3)
    explained = _seconds(lambda: model.score(rows[:50], minutes[:50], with_reasons=True), 3) / 50
    alone = _seconds(lambda: model.score(rows[:1], minutes[:1], with_reasons=True), 10)
    print(f"score 1 patient:    ours {ours_1 * 1e3:8.2f} ms   pyfunc {pyfunc_1 * 1e3:8.2f} ms")
    print(f"score 1,000:        ours {ours_1000 * 1e3:8.2f} ms   pyfunc {pyfunc_1000 * 1e3:8.2f} ms")
    print(f"score and explain:  {explained * 1e3:.2f} ms a patient among 50, {alone * 1e3:.2f} ms alone")
    return {
        "scoring_ms_n1": round(ours_1 * 1e3, 3),
        "scoring_ms_n1000": round(ours_1000 * 1e3, 2),
        "scoring_ratio_n1": round(pyfunc_1 / ours_1, 2),
        "scoring_ratio_n1000": round(pyfunc_1000 / ours_1000, 2),
        "explain_ms": round(explained * 1e3, 3),
        "explain_alone_ms": round(alone * 1e3, 3),
    }


def _peers(
    trained: TrainedModel, rows: NDArray[np.float32], folder: Path
) -> tuple[list[Callable[[Any], NDArray[np.float64]]], Any]:
    """Return each Booster as pyfunc's predict, and the rows as the frame it takes."""
    import mlflow.pyfunc
    import mlflow.xgboost
    import pandas as pd
    import xgboost
    from mlflow.models import infer_signature

    names = list(feature_table.names(MORTALITY))
    frame = pd.DataFrame(rows, columns=names)
    peers = []
    for digest, body in _boosters(trained):
        booster = xgboost.Booster(params={"nthread": 1}, model_file=bytearray(body))
        booster.feature_names = names
        path = folder / digest[:16]
        signature = infer_signature(frame.head(), booster.predict(xgboost.DMatrix(frame.head())))
        mlflow.xgboost.save_model(
            booster, str(path), signature=signature, model_format="ubj", pip_requirements=["xgboost"]
        )
        peers.append(mlflow.pyfunc.load_model(str(path)).predict)
    return peers, frame


def _check(model: RiskModel, trained: TrainedModel, rows: NDArray[np.float32], said: list[NDArray[np.float64]]) -> None:
    """Make sure that both say the same: our calibrated log-odds from pyfunc's probabilities."""
    described = model.manifest
    margins = [np.log(p / (1 - p)) for p in (np.asarray(one, np.float64) for one in said)]
    total = sum(
        (member.weight * margin for member, margin in zip(described.members, margins, strict=False)),
        np.zeros(len(rows)),
    )
    for additive_member, weight in model.additives:
        total = total + weight * additive_member.margin(rows)
    expected = described.calibration.intercept + described.calibration.slope * total
    worst = float(np.abs(expected - model.scores(rows).margin).max())
    if len(margins) != len(_boosters(trained)) or worst > EQUAL * 10:
        raise SystemExit(f"pyfunc and the artefact differ by {worst:.2e} in log-odds: nothing to compare")


def _boosters(trained: TrainedModel) -> list[tuple[str, bytes]]:
    kinds = {member.digest: member.kind for member in trained.load().manifest.members}
    return [(digest, body) for digest, body in trained.members.items() if kinds[digest] == "xgboost"]


def _seconds(work: Callable[[], object], times: int) -> float:
    """Return the median time of a call, after one that warms up."""
    work()
    found = []
    for _ in range(times):
        start = time.perf_counter()
        work()
        found.append(time.perf_counter() - start)
    return float(np.median(found))
