"""One candidate, the whole way from a folder of recorded stays to a request for approval, in this process.

Here: `run_candidate`, which executes the job `candidate` and says what came of it.
Not here: the assets (assets), the job (orchestration.jobs), the command that calls it (orchestration.models_commands).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import msgspec

from stores.lake_tables import LakeTables
from vocabulary.settings import Settings

if TYPE_CHECKING:
    import dagster as dg

Made = TypeVar("Made")

QUIET: Final = {"console": {"config": {"log_level": "ERROR"}}}
"""Every step's events are in Dagster's own storage; the terminal is for what came of it."""


class CandidateResult(msgspec.Struct, frozen=True, kw_only=True):
    """What came of one run of the job `candidate`. Holds no patient's data."""

    scope: str  # "mortality"
    version: int  # 0: no model was registered
    model_digest: str  # SHA-256 of the manifest; "" as above
    outcomes: dict[str, str]  # "expectations", "drift", "bias", "clinical" -> pass, fail or inconclusive
    conditions: list[str]  # what a committee would have to accept, in words
    request_id: str  # the approval that was asked for; "" where a verdict failed
    evidence_digest: str
    is_success: bool  # every step ran and nothing failed
    failed_step: str  # where the run ended, "" where it did not
    reason: str  # why, without patient data
    seconds: dict[str, float]  # each step's own work, and "total": the run with Dagster's part
    run_id: str


def run_candidate(
    settings: Settings,
    cohort_folder: Path,
    author: str,
    *,
    seed: int = 1,
    threads: int = 1,
    slot: str = "champion",
    waivers: Sequence[str] = (),
    sites: Sequence[str] = (),
    is_quick: bool = False,
    uses_peers: bool = True,
    instance: dg.DagsterInstance | None = None,
    progress: Callable[[str], None] | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> CandidateResult:
    """Train, judge and register a candidate, and open its request for approval when no verdict failed.

    Args:
        settings: of the running house, or connected as `reachable` gives them.
        cohort_folder: set-a.tar.gz (or *.txt) and Outcomes-a.txt; with SYNTHETIC.txt everything made of it is marked.
        author: who makes the model ("issuer|subject"); may not approve it.
        seed: of folds, members and bootstraps.
        threads: of XGBoost; the model is the same for any number.
        slot: what is asked for: champion, to speak; silent, to listen.
        waivers: requirements to be signed away, by name (governance/lifecycle.toml).
        sites: hospitals whose patients the verdicts are about; empty for this one.
        is_quick: one small recipe instead of tuning among several.
        uses_peers: whether Great Expectations, Evidently and Fairlearn are held against our own figures.
        instance: Dagster's; None for that of the running house, else one that lasts as long as the run.
        progress: told each step's name as its work begins.
        overrides: resources by name (tests).

    Raises:
        ConfigurationError: the folder holds no recorded stays.
        UnavailableError: nothing runs.
    """
    import dagster as dg

    from assets import asking, gates, recorded, training
    from assets.learning_plane import tables_of
    from assets.verdicts import Judging
    from orchestration.definitions import build_definitions
    from orchestration.jobs import CANDIDATE
    from orchestration.resources import LearningHouse, RunningHouse

    recorded.look(cohort_folder)
    seconds: dict[str, float] = {}

    def told(name: str, taken_s: float | None) -> None:
        if taken_s is not None:
            seconds[name] = seconds.get(name, 0.0) + taken_s
        elif progress is not None:
            progress(name)

    house = RunningHouse(settings)
    resources: dict[str, Any] = {"live": house, "learning": LearningHouse(house, told)} | dict(overrides or {})
    resources["learning"].settings()  # nothing runs: said at once, not as the failure of a step
    judging = Judging(uses_peers=uses_peers)
    names = ("normalized__events", "cohort__mortality", "feature__mortality", "gate__drift", "gate__bias")
    config: dict[str, Any] = dict.fromkeys(names, judging)
    config["source__physionet2012"] = recorded.RecordedFolder(folder=str(cohort_folder.resolve()))
    config["model__mortality"] = training.Fitting(author=author, seed=seed, threads=threads, is_quick=is_quick)
    config["gate__evidence"] = asking.Asking(slot=slot, waivers=list(waivers), sites=list(sites), opened_by=author)
    job = build_definitions(settings, resources).resolve_job_def(CANDIDATE)
    began_s = time.perf_counter()
    with _instance(resources["learning"].settings(), instance) as used:
        result = job.execute_in_process(dg.RunConfig(ops=config, loggers=QUIET), instance=used, raise_on_error=False)
    seconds["total"] = time.perf_counter() - began_s
    tables, run = tables_of(resources["learning"]), result.run_id
    trained = _own(tables, training.KEY, run, training.Trained)
    request = _own(tables, gates.EVIDENCE, run, asking.Request)
    outcomes = {
        one.asset_key.path[-1]: str(one.metadata["outcome"].value)
        for one in result.get_asset_check_evaluations()
        if one.asset_key.path[0] == gates.GROUP
    }
    failed = next(iter(result.filter_events(lambda event: event.is_step_failure)), None)
    return CandidateResult(
        scope=training.SCOPE,
        version=0 if trained is None else trained.version,
        model_digest="" if trained is None else trained.model_digest,
        outcomes=outcomes,
        conditions=[] if request is None else list(request.conditions),
        request_id="" if request is None else request.request_id,
        evidence_digest="" if request is None else request.evidence_digest,
        is_success=result.success,
        failed_step="" if failed is None else str(failed.step_key).replace("__", "/"),
        reason="" if failed is None else _reason(failed, result.get_asset_check_evaluations()),
        seconds=seconds,
        run_id=run,
    )


def _own(tables: LakeTables, key: dg.AssetKey, run: str, kind: type[Made]) -> Made | None:
    """Return what this very run made of an asset; None where it did not come so far."""
    if not tables.has(key.path, run):
        return None
    return msgspec.json.decode(tables.record(key.path, run), type=kind)


def _reason(event: dg.DagsterEvent, evaluations: Sequence[dg.AssetCheckEvaluation]) -> str:
    """Return why a step failed: what a verdict says, or our own errors; neither holds a patient's data."""
    for one in evaluations:
        if not one.passed and one.blocking and one.severity.value == "ERROR":
            return f"{one.asset_key.to_user_string()}: {one.description}"
    error = event.step_failure_data.error
    while error is not None and error.cause is not None and "dagster" in error.message.partition(":")[0]:
        error = error.cause
    return "" if error is None else error.message.strip().splitlines()[0]


@contextmanager
def _instance(settings: Settings, given: dg.DagsterInstance | None) -> Iterator[dg.DagsterInstance]:
    """Give the instance asked for, else that of the running house's `vigil dagster`, else one for this run only."""
    import dagster as dg

    if given is not None:
        yield given
        return
    home = settings.data_dir / "dagster"
    if not (home / "dagster.yaml").exists():
        with dg.DagsterInstance.ephemeral() as lasting:
            yield lasting
        return
    from dagster._core.instance.ref import InstanceRef

    from orchestration.dagster_home import instance_settings

    with dg.DagsterInstance.from_ref(InstanceRef.from_dir(str(home), overrides=instance_settings(settings))) as lasting:
        yield lasting
