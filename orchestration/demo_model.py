"""How a demonstration comes to its model: learned, judged, signed by two demonstration people, put in service.

Everything a hospital would do happens, in the same code: the Dagster job makes the candidate and its verdicts, two
people of distinct roles sign with keys of their own, the promotion checks it all again. What a hospital must not do is
signed as a waiver and shown wherever the model speaks: no silent period, one hospital only.

Here: the cohort (recorded, or synthetic ones invented by the hospital's process), the order of steps, which stays are
kept back to be played.
Not here: the steps themselves (orchestration.candidate, orchestration.committee), playing (orchestration.demo).
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec
from rich.console import Console

from assets import parts
from governance.evidence import at_the_bedside
from governance.statements import Slot
from interop import physionet2012
from orchestration import committee, demo_signers, online_batch
from orchestration.candidate import CandidateResult, run_candidate
from orchestration.data_dir import DataDir
from orchestration.learning import as_learner
from orchestration.online_batch import Comparison
from orchestration.storage import alone, connection
from stores import models
from stores.database import consistent_read
from vocabulary.errors import UnavailableError
from vocabulary.settings import Settings
from vocabulary.snapshot import TwinSnapshot
from vocabulary.verdict import Kind

SYNTHETIC_STAYS: Final = 2_600
WAIVERS: Final = ("silent_period", "sites")
SIGNING: Final = demo_signers.SIGNERS[:2]


class Learned(NamedTuple):
    """What came of learning."""

    candidate: CandidateResult
    signers: tuple[str, ...]  # name and role of who signed; nobody where a verdict failed
    serving_id: int  # 0: nothing was put in service
    cohort: Path
    played: list[str]  # record numbers kept back to be played, where recorded stays are
    unseen: int  # stays the verdict rests on, which no training saw
    is_synthetic: bool
    seconds: float

    @property
    def is_serving(self) -> bool:
        """Return whether the model speaks."""
        return self.serving_id > 0


def invent_cohort(folder: Path, seed: int, log: Path) -> Path:
    """Have the hospital's process invent a synthetic cohort, and return its folder.

    Raises:
        UnavailableError: it failed.
    """
    with log.open("ab") as file:
        done = subprocess.run(
            [
                *(sys.executable, "-P", "-m", "hospital", "cohort"),
                *("--stays", str(SYNTHETIC_STAYS), "--seed", str(seed), "--to", str(folder)),
            ],
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            check=False,
            cwd=log.parent,
        )
    if done.returncode:
        raise UnavailableError(f"No synthetic cohort was made (status {done.returncode}): see {log}.")
    return folder


def learn(settings: Settings, recorded: Path | None, seed: int, stays: int, tell: Callable[[str], None]) -> Learned:
    """Bring a model into service in a demonstration's own folder, which is emptied first; nothing else runs meanwhile.

    Args:
        settings: of the demonstration.
        recorded: folder of the cohort to learn from; None has a synthetic one invented.
        seed: of the cohort and of learning.
        stays: how many recorded stays will be played.
        tell: told what is being done.

    Raises:
        ConfigurationError: the folder holds no cohort, or something runs there.
        UnavailableError: the database does not start.
        RefusedError: a rule forbids what a demonstration does.
    """
    started_s = time.monotonic()
    data_dir = DataDir(settings.data_dir)
    tell("starting PostgreSQL")
    with alone(settings, data_dir, is_fresh=True) as complete:
        demo_signers.prepare(complete, datetime.now(UTC))
        cohort = recorded
        if cohort is None:
            tell("inventing a synthetic cohort")
            cohort = invent_cohort(data_dir.root / "cohort", seed, data_dir.logs / "cohort.log")
        candidate = run_candidate(
            as_learner(settings, complete),
            cohort,
            demo_signers.AUTHOR.person(complete),
            seed=seed,
            waivers=WAIVERS,
            progress=tell,
        )
        signers: tuple[str, ...] = ()
        serving_id = 0
        if candidate.request_id:
            tell("two demonstration people sign")
            signers, serving_id = asyncio.run(_approve(complete, candidate))
        kept_back = held_out(cohort)
    played = kept_back[:stays] if recorded is not None else []
    is_synthetic = physionet2012.is_synthetic(cohort)
    taken_s = time.monotonic() - started_s
    return Learned(candidate, signers, serving_id, cohort, played, len(kept_back), is_synthetic, taken_s)


async def _approve(settings: Settings, candidate: CandidateResult) -> tuple[tuple[str, ...], int]:
    request = await committee.find_request(settings, candidate.request_id)
    signed = []
    for one in SIGNING:
        now = datetime.now(UTC)
        file = demo_signers.folder(settings) / one.file
        signer = committee.open_signer(settings, file, demo_signers.PASSPHRASE, one.role, Slot.CHAMPION, now)
        await committee.approve(settings, request, signer, now)
        signed.append(f"{one.name} ({str(one.role).replace('_', ' ')})")
    row = await committee.promote(settings, request, datetime.now(UTC))
    return tuple(signed), row.serving_id


def held_out(cohort: Path) -> list[str]:
    """Return the record numbers of the stays that no training ever sees, in the recording's order."""
    numbers = [stay.record_id for stay in physionet2012.read(cohort)]
    return [number for number in numbers if parts.split_of(number) == parts.HELD_OUT]


class Said(NamedTuple):
    """What the model said while the demonstration played."""

    learned: Learned
    estimates: int  # twins whose last snapshot carries an estimate
    high: int  # of these, at or above the threshold
    comparison: Comparison | None  # with batch scores of the same files; None for a synthetic ward
    unseen: dict[str, float | None]  # metrics on the stays kept back

    @property
    def is_well(self) -> bool:
        """Return whether a model served, spoke, and said what batch says."""
        is_equal = self.comparison is None or self.comparison.is_equal
        # After recorded stays everybody has left, and the scores that were compared are the evidence.
        has_spoken = self.estimates > 0 or (self.comparison is not None and self.comparison.probabilities > 0)
        return self.learned.is_serving and has_spoken and is_equal


async def said(settings: Settings, learned: Learned, twins: Sequence[TwinSnapshot]) -> Said:
    """Return what the model said, and whether batch says the same.

    Args:
        settings: of the running demonstration.
        learned: how it came to its model.
        twins: the newest snapshot of each patient.

    Raises:
        UnavailableError: the database does not answer.
    """
    spoken = [risk for twin in twins for risk in twin.risks if risk.probability is not None]
    comparison = None
    async with connection(settings, "demo") as opened:
        if learned.played:
            comparison = await online_batch.compare(opened, settings, learned.cohort, learned.played)
        async with consistent_read(opened):
            kept = await models.verdicts_of(opened, learned.candidate.model_digest)
    clinical = [one.verdict for one in kept if one.verdict.kind is Kind.CLINICAL]
    measures = clinical[-1].measures if clinical else ()
    wanted = ("auroc", "auprc", "brier", "calibration_slope", "calibration_intercept")
    unseen = {one.name: one.value for one in measures if one.name in wanted and not one.group}
    return Said(learned, len(spoken), sum(risk.is_high for risk in spoken), comparison, unseen)


def as_record(said: Said) -> dict[str, Any]:
    """Return it for `--json`."""
    learned = said.learned
    return {
        "version": learned.candidate.version,
        "model_digest": learned.candidate.model_digest,
        "verdicts": learned.candidate.outcomes,
        "conditions": learned.candidate.conditions,
        "signed_by": list(learned.signers),
        "serving": learned.serving_id,
        "is_synthetic": learned.is_synthetic,
        "failed": learned.candidate.reason,
        "learning_seconds": {step: round(seconds, 1) for step, seconds in learned.candidate.seconds.items()},
        "unseen_stays": learned.unseen,
        "unseen": said.unseen,
        "estimates": said.estimates,
        "online_equals_batch": None if said.comparison is None else msgspec.to_builtins(said.comparison),
    }


def show(said: Said, console: Console) -> None:
    """Print how the model came to speak, and what it said."""
    learned = said.learned
    candidate = learned.candidate
    console.print()
    if not learned.is_serving:
        why = candidate.reason or "it did not come to a request for approval"
        console.print(f"[dim]model    [/] no model speaks: {why}", highlight=False, soft_wrap=True)
        return
    verdicts = ", ".join(f"{kind} {outcome}" for kind, outcome in candidate.outcomes.items())
    figures = ", ".join(
        f"{name.replace('_', ' ')} {value:.3f}" for name, value in said.unseen.items() if value is not None
    )
    for line in (
        f"{candidate.scope}@{candidate.version} {candidate.model_digest[:16]}: {verdicts}",
        f"on {learned.unseen:,} stays it never saw: {figures}",
        f"signed by {' and '.join(learned.signers)}, demonstration people; row {learned.serving_id} of the record",
        *(f"condition: {condition}" for condition in at_the_bedside(candidate.conditions)),
        *(["synthetic patients: every figure above means nothing clinically"] if learned.is_synthetic else []),
    ):
        console.print(f"[dim]model    [/] {line}", highlight=False, soft_wrap=True)
    if said.comparison is not None:
        one = said.comparison
        console.print(
            f"[dim]live     [/] {one.equal:,} of {one.scores:,} scores of {one.stays} stays equal their batch scores, "
            f"bit for bit ({one.probabilities:,} with an estimate; {one.incomplete:,} left out: values on their way)",
            highlight=False,
            soft_wrap=True,
        )
