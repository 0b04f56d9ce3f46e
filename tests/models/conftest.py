"""Signals for scoring, the protocols as they are shipped, small cohorts and a small model of risk."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from interop import physionet2012
from models.feature_table import MORTALITY
from models.risk.artefact import RiskModel
from models.risk.cohort import Cohort, of_records
from models.risk.fitting import Recipe
from models.risk.training import Ancestry, TrainedModel, fit
from models.stay_series import bins_of_columns
from validation import protocols
from vocabulary import concepts
from vocabulary.protocol import Protocol
from vocabulary.snapshot import SignalState


@pytest.fixture(scope="session")
def shipped() -> dict[str, Protocol]:
    return protocols.load_all()


@pytest.fixture(scope="session")
def signals() -> Callable[..., dict[str, SignalState]]:
    """Make signals by concept key: a number, a text, or a tuple of either with its time in seconds; None is stale."""

    def make(**given: object) -> dict[str, SignalState]:
        made = {}
        for key, said in given.items():
            value, at_s = said if isinstance(said, tuple) else (said, 0)
            made[key] = SignalState(
                concept=key,
                value=float(value) if isinstance(value, int | float) else (1.0 if value is None else None),
                unit=concepts.by_key(key).unit,
                effective_at_us=at_s * 1_000_000,
                received_at_us=0,
                is_stale=value is None,
                text=value if isinstance(value, str) else "",
            )
        return made

    return make


@pytest.fixture(scope="session")
def real_cohort(shared_data: Path) -> Cohort:
    """The 4,000 stays of set A."""
    return of_records(list(physionet2012.read(shared_data / "icu/physionet2012")), is_synthetic=False)


def invented_cohort(stays: int, seed: int) -> Cohort:
    """Return stays whose deaths follow age, coma, urea and lactate, with much else that says nothing."""
    random = np.random.default_rng(seed)
    severity = random.normal(size=stays)
    age = np.clip(random.normal(62, 16, stays), 17, 90).round()
    died = random.random(stays) < 1 / (1 + np.exp(-(-2.2 + 2.4 * severity + 0.03 * (age - 62))))
    columns: list[tuple[str, np.ndarray, np.ndarray, np.ndarray]] = []

    def chart(key: str, level: np.ndarray, noise: float, low: float, high: float, every: int, share: float) -> None:
        for stay in np.flatnonzero(random.random(stays) < share):
            minutes = np.arange(random.integers(0, min(every, 720)), 2881, every)
            values = np.clip(level[stay] + random.normal(0, noise, len(minutes)), low, high).round(1)
            columns.append((key, np.full(len(minutes), stay), minutes, values))

    columns.append(("age", np.arange(stays), np.zeros(stays), age))
    chart("heart_rate", 85 + 4 * severity, 9, 30, 200, 60, 1.0)
    chart("systolic_blood_pressure", 120 - 6 * severity, 12, 50, 230, 60, 0.9)
    chart("diastolic_blood_pressure", 62 - 3 * severity, 8, 20, 120, 60, 0.9)
    chart("respiratory_rate", 19 + severity, 4, 5, 50, 60, 0.6)
    chart("body_temperature", np.full(stays, 37.0), 0.6, 33, 41, 240, 0.95)
    chart("glasgow_coma_score", np.round(12.5 - 2.5 * severity), 0.8, 3, 15, 240, 1.0)
    chart("urea_nitrogen", 25 + 9 * severity, 3, 3, 150, 720, 0.97)
    chart("creatinine", 1.3 + 0.4 * severity, 0.2, 0.3, 12, 720, 0.97)
    chart("lactate", 2.2 + 0.9 * severity, 0.4, 0.4, 20, 720, 0.5)
    chart("sodium", np.full(stays, 139.0), 3, 115, 165, 720, 0.95)
    chart("potassium", np.full(stays, 4.1), 0.4, 2, 8, 720, 0.95)
    chart("platelets", 200 - 20 * severity, 40, 8, 600, 720, 0.95)
    chart("urine_output", 110 - 25 * severity, 30, 0, 900, 120, 0.95)
    bins = bins_of_columns(
        np.concatenate([np.full(len(stay), concepts.by_key(key).number, np.int16) for key, stay, _, _ in columns]),
        np.concatenate([stay.astype(np.int32) for _, stay, _, _ in columns]),
        np.concatenate([minutes.astype(np.int32) for _, _, minutes, _ in columns]),
        np.concatenate([values for _, _, _, values in columns]),
        stays,
    )
    unknown = np.full(stays, np.nan)
    ids = tuple(f"{200_000 + place}" for place in range(stays))
    return Cohort(ids, bins, died, unknown, unknown, tuple(random.choice(["female", "male"], stays)), True)


ANCESTRY = Ancestry(
    scope="mortality",
    outcome="death before discharge from this hospital stay",
    protocol="mortality@1",
    protocol_digest="0" * 64,
    code_version="0",
    lock_digest="1" * 16,
    salt="tests",
    folds=(),
    seed=7,
)
SMALL = (Recipe(depth=2, rounds=40, eta=0.1, smallest_child=2.0),)


@pytest.fixture(scope="session")
def small_cohort() -> Cohort:
    """Six hundred invented stays."""
    return invented_cohort(600, 11)


@pytest.fixture(scope="session")
def ancestry() -> Ancestry:
    """What the manifests of tests say of their making."""
    return ANCESTRY


@pytest.fixture(scope="session")
def fewer_stays() -> Cohort:
    """Three hundred others."""
    return invented_cohort(300, 12)


@pytest.fixture(scope="session")
def train() -> Callable[..., TrainedModel]:
    """Train a small model of some stays of a cohort."""

    def make(cohort: Cohort, stays: np.ndarray, *, seed: int = 4, threads: int = 1) -> TrainedModel:
        import msgspec

        ancestry = msgspec.structs.replace(ANCESTRY, seed=seed)
        return fit(
            MORTALITY,
            cohort,
            stays.astype(np.int32),
            ancestry,
            threads=threads,
            recipes=SMALL,
            hours=(12, 48),
            hour_weights=(0.4, 0.6),
        )

    return make


@pytest.fixture(scope="session")
def small_trained(small_cohort: Cohort, train: Callable[..., TrainedModel]) -> TrainedModel:
    """A model of the first 400 of them."""
    return train(small_cohort, np.arange(400))


@pytest.fixture(scope="session")
def small_model(small_trained: TrainedModel) -> RiskModel:
    """The same, loaded from its bytes."""
    return small_trained.load()
