"""What `vigil models` and its kin print.

Here: tables, sentences and records of versions, requests, the serving record, incidents.
Not here: arguments (orchestration.model_commands), where it all comes from (orchestration.committee).
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import msgspec
import typer
from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from governance.approvals import RequestState
    from governance.serving import Held
    from governance.statements import ServingRow, Statement
    from orchestration.committee import Picture


def at(us: int) -> str:
    """Return a moment as people write it."""
    return datetime.fromtimestamp(us / 1e6, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def show_statement(statement: Statement) -> None:
    """Print what is about to be signed."""
    typer.echo(f"{statement.scope} version {statement.version}, {statement.slot} slot, at {statement.site}")
    typer.echo(f"model {statement.model_digest}\nevidence {statement.evidence_digest}")
    typer.echo(f"you sign as {str(statement.role).replace('_', ' ')}, until {statement.expires_at:%Y-%m-%d}:")
    typer.echo(f"  “{statement.meaning}”")
    for condition in statement.conditions:
        typer.echo(f"  condition: {condition}")


def tell_state(state: RequestState, *, as_json: bool) -> None:
    """Print what a request stands at."""
    if as_json:
        record = {
            "request": state.request.request_id,
            "status": str(state.status),
            "signed": [[one.statement.person, str(one.statement.role)] for one in state.signed],
            "missing": list(state.missing),
        }
        typer.echo(json.dumps(record))
        return
    signed = ", ".join(f"{one.statement.role}" for one in state.signed) or "nobody"
    missing = f"; missing: {'; '.join(state.missing)}" if state.missing else ""
    typer.echo(f"Request {state.request.request_id} is {state.status}. Signed: {signed}{missing}.")


def tell_row(row: ServingRow, *, as_json: bool) -> None:
    """Print what a row of the serving record did."""
    if as_json:
        record = {"serving": row.serving_id, "action": str(row.action), "slot": str(row.slot), "version": row.version}
        typer.echo(json.dumps(record | {"model_digest": row.model_digest, "cause": row.cause}))
        return
    what = f"{row.scope}@{row.version}" if row.version else "no model: NEWS2 is shown"
    typer.echo(f"Row {row.serving_id} of the serving record: {row.action} in the {row.slot} slot, {what}.")


def held_record(held: Held) -> dict[str, Any]:
    """Return what a slot holds, for `--json`."""
    row = held.row
    return {
        "standing": str(held.standing),
        "version": row.version if row else 0,
        "model_digest": row.model_digest if row else "",
        "serving": held.serving_id,
        "cause": held.cause,
        "signed_by": [[one.statement.person, str(one.statement.role)] for one in row.signed] if row else [],
    }


def held_words(held: Held) -> str:
    """Return what a slot holds, in words."""
    if held.row is None:
        return f"no model{f' ({held.cause})' if held.cause else ''}"
    people = ", ".join(str(one.statement.role).replace("_", " ") for one in held.row.signed)
    cause = f", {held.cause}" if held.cause else ""
    return f"{held.row.scope}@{held.row.version} {held.standing}{cause}; signed as {people} on {at(held.row.at_us)}"


def picture_record(found: Picture) -> dict[str, Any]:
    """Return a scope's models for `--json`."""
    return {
        "versions": [
            {
                "version": version.version,
                "model_digest": version.model_digest,
                "author": version.author,
                "is_synthetic": version.is_synthetic,
                "verdicts": found.outcomes[version.model_digest],
            }
            for version in found.versions
        ],
        "requests": [
            {
                "request": state.request.request_id,
                "version": state.request.version,
                "slot": state.request.slot,
                "status": str(state.status),
                "conditions": list(state.request.conditions),
                "signed": [[one.statement.person, str(one.statement.role)] for one in state.signed],
                "missing": list(state.missing),
            }
            for state in found.requests
        ],
        "serving": {str(slot): held_record(held) for slot, held in found.judgement.slots.items()},
        "refused": [[one.serving_id, one.reason] for one in found.judgement.refusals],
        "incidents": msgspec.to_builtins(found.incidents),
    }


def show_picture(found: Picture, scope: str, console: Console) -> None:
    """Print a scope's models."""
    from governance.evidence import at_the_bedside

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for heading in ("version", "digest", "made", "verdicts", "request"):
        table.add_column(heading)
    for version in found.versions:
        outcomes = found.outcomes[version.model_digest]
        verdicts = ", ".join(f"{kind} {outcome}" for kind, outcome in sorted(outcomes.items()))
        mine = next((state for state in found.requests if state.request.version == version.version), None)
        request = f"{mine.request.request_id} {mine.status}" if mine is not None else "–"
        synthetic = " (synthetic)" if version.is_synthetic else ""
        name = f"{scope}@{version.version}{synthetic}"
        table.add_row(name, version.model_digest[:16], at(version.registered_at_us), verdicts, request)
    console.print(table if found.versions else f"No version of {scope} is registered.")
    for slot, held in found.judgement.slots.items():
        console.print(f"[dim]{slot:<9}[/] {held_words(held)}", highlight=False, soft_wrap=True)
        for condition in at_the_bedside(held.conditions):
            console.print(f"          condition: {condition}", highlight=False, soft_wrap=True)
    for refusal in found.judgement.refusals:
        console.print(f"[red]refused[/]   row {refusal.serving_id}: {refusal.text}", highlight=False, soft_wrap=True)
    for incident in found.incidents:
        if incident.closed_at_us is None:
            console.print(
                f"[yellow]incident[/]  {incident.incident_id}: {incident.cause} → {incident.reaction}. "
                f"{incident.statement}",
                highlight=False,
                soft_wrap=True,
            )
