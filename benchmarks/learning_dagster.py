"""Dagster's own share of a candidate's run: wall time of the job less the time our steps themselves take.

Here: one run of the job `candidate` on a synthetic cohort, an embedded PostgreSQL, an instance for the run only.
Not here: the feature kernel (benchmarks.learning), scoring (benchmarks.learning_scoring).
Run: python -m benchmarks.learning_dagster [--stays 600]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import tempfile
from pathlib import Path

from pydantic import SecretStr

from hospital.cohort import write_cohort
from orchestration.candidate import run_candidate
from orchestration.embedded import EmbeddedPostgres, free_port
from orchestration.resources import LearningHouse, RunningHouse
from stores import database
from vocabulary.settings import Settings
from vocabulary.signing import SigningKey
from vocabulary.tls import Identity

STEPS = 10


class _House(RunningHouse):
    """The house as the settings say, whatever runs beside it."""

    def settings(self) -> Settings:
        return self._settings


class _Learning(LearningHouse):
    """Without an experiment tracker: its imports would be counted as ours."""

    def registry(self) -> None:
        return None


def figures(source: Path, seed: int) -> dict[str, float]:
    """Return the run's figures: `dagster_overhead_s`, the same a step, and what it is part of.

    Args:
        source: recorded stays.
        seed: of the training.
    """
    with tempfile.TemporaryDirectory(prefix="vigil-benchmark-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        server = EmbeddedPostgres(folder / "postgres", free_port(), fsync=False)
        server.start()
        try:
            return _measure(server.url(), folder, source, seed)
        finally:
            server.stop("immediate")


def _measure(url: str, folder: Path, source: Path, seed: int) -> dict[str, float]:
    asyncio.run(database.migrate(url))
    own = folder / "identity" / "dagster"
    own.mkdir(parents=True)
    (folder / "anchors").mkdir()
    SigningKey.generate().save(Identity(own).ledger_key)
    settings = Settings(data_dir=folder, database_url=SecretStr(url), mode="demo", identity_dir=own)
    seconds: dict[str, float] = {}

    def told(step: str, taken_s: float | None) -> None:
        if taken_s is not None:
            seconds[step] = seconds.get(step, 0.0) + taken_s

    house = _House(settings)
    result = run_candidate(
        settings,
        source,
        "benchmark|author",
        seed=seed,
        waivers=("silent_period", "sites"),
        is_quick=True,
        uses_peers=False,
        overrides={"live": house, "learning": _Learning(house, told)},
    )
    if len(seconds) != STEPS:
        raise SystemExit(f"expected {STEPS} steps, found {len(seconds)}: {result.reason}")
    ours = sum(seconds.values())
    own_s = result.seconds["total"] - ours
    return {
        "dagster_overhead_s": round(own_s, 3),
        "dagster_overhead_s_a_step": round(own_s / STEPS, 3),
        "dagster_run_s": round(result.seconds["total"], 3),
        "dagster_steps_s": round(ours, 3),
    }


def main() -> None:
    """Print the figures as one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--stays", type=int, default=600, help="of the synthetic cohort")
    with tempfile.TemporaryDirectory(prefix="vigil-benchmark-") as folder:
        write_cohort(Path(folder), parser.parse_args().stays, 1)
        print(json.dumps(figures(Path(folder), 1)))


if __name__ == "__main__":
    main()
