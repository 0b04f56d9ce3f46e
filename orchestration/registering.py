"""`vigil train --register`: the Dagster job that makes a candidate, and what to do next.

Here: whose model it is, running the job, printing.
Not here: the job (orchestration.candidate), signing what it asks for (orchestration.committee).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec
import typer
from rich.console import Console

from governance.access import Purpose, Surface, Verb
from governance.statements import Slot
from orchestration.candidate import CandidateResult, run_candidate
from orchestration.operator_audit import operator
from orchestration.operator_gate import require
from stores.ledger import detail_of
from vocabulary.errors import ConfigurationError
from vocabulary.settings import Settings


async def permitted(settings: Settings) -> None:
    """Ask whether whoever types may have a candidate made.

    Raises:
        RefusedError: the policy says no; recorded.
    """
    detail = detail_of(act="train")
    await require(settings, Surface.MODELS, Verb.CHANGE, purpose=Purpose.OPERATIONS, detail=detail)


def run(
    settings: Settings,
    cohort: Path,
    author: str,
    slot: Slot,
    waivers: Sequence[str],
    console: Console,
    *,
    as_json: bool,
) -> bool:
    """Make a candidate of a cohort and print what came of it; return whether an approval was asked for.

    Args:
        settings: connected.
        cohort: folder of recorded stays with outcomes.
        author: "issuer|subject"; "" for whoever types.
        slot: what is asked for.
        waivers: requirements to be signed away, by name.
        console: where the report goes.
        as_json: one JSON document instead.

    Raises:
        ConfigurationError: the author is not named as the house names people, or the folder holds no cohort.
        UnavailableError: the database does not answer.
    """
    maker = author or operator().agent
    if "|" not in maker:
        raise ConfigurationError(f"--author {author}: expected issuer|subject, as at sign-in.")
    with console.status("making a candidate") as status:
        tell = None if as_json else status.update
        found = run_candidate(settings, cohort, maker, slot=slot, waivers=waivers, progress=tell)
    if as_json:
        typer.echo(msgspec.json.encode(found).decode())
    else:
        _show(found, console)
    return bool(found.request_id)


def _show(found: CandidateResult, console: Console) -> None:
    if found.version:
        console.print(f"{found.scope}@{found.version}  {found.model_digest}", highlight=False)
    for kind, outcome in found.outcomes.items():
        console.print(f"  {kind:<13} {outcome}", highlight=False)
    for condition in found.conditions:
        console.print(f"  condition: {condition}", highlight=False, soft_wrap=True)
    if found.request_id:
        console.print(
            f"Request {found.request_id} is open: the dossier is on the models' page; sign there or with\n"
            f"  vigil approve {found.request_id} --key YOUR.key",
            highlight=False,
        )
    elif found.failed_step:
        console.print(f"It ended at {found.failed_step}: {found.reason}", highlight=False, soft_wrap=True)
