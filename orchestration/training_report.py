"""`vigil train` without --register: how well a model can be learned from a cohort, beside other methods.

Each repeat of cross-validation gives one probability to every stay, by a model that had not seen it; a metric is taken
over all stays of a repeat, and repeats give its mean and standard error. Nothing is kept.

Here: running it, the metrics, printing.
Not here: learning and folds (models.risk.cross_validation), what a metric is (validation.metrics).
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import typer
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from interop import physionet2012
from models import feature_table
from models.risk import cohort as cohorts
from models.risk import cross_validation
from models.risk.cross_validation import HOURS, OURS, PRIMARY_HOUR, CrossValidated
from validation import calibration, metrics
from validation import protocols as protocol_files
from vocabulary.errors import ConfigurationError

FloatArray = NDArray[np.float64]
Labels = NDArray[np.bool_]


def _intercept(labels: Labels, probabilities: FloatArray) -> float | None:
    return calibration.calibration(labels, probabilities)[0]


def _slope(labels: Labels, probabilities: FloatArray) -> float | None:
    return calibration.calibration(labels, probabilities)[1]


METRICS: Final[Mapping[str, Callable[[Labels, FloatArray], float | None]]] = {
    "auroc": metrics.auroc,
    "auprc": metrics.average_precision,
    "brier": metrics.brier,
    "intercept": _intercept,
    "slope": _slope,
    "min_se_ppv": metrics.min_se_ppv,
}
NAMES: Final = {
    OURS: "ours",
    cross_validation.HIST_GRADIENT_BOOSTING: "HistGradientBoosting",
    cross_validation.LOGISTIC_REGRESSION: "logistic regression",
    cross_validation.SAPS_RECORDED: "SAPS-I, as recorded",
    cross_validation.SOFA_RECORDED: "SOFA, as recorded",
    cross_validation.SAPS_COMPUTED: "SAPS-I, of what was measured",
    cross_validation.SOFA_COMPUTED: "SOFA, of what was measured",
    cross_validation.NEWS2: "NEWS2, of what was measured",
}


class Measured(NamedTuple):
    """A metric over repeats."""

    mean: float | None
    standard_error: float | None  # of the mean over repeats; None with one repeat


def over_repeats(
    labels: Labels, probabilities: FloatArray, metric: Callable[[Labels, FloatArray], float | None]
) -> Measured:
    """Return a metric's mean and standard error.

    Args:
        labels: who died, shape (stays,).
        probabilities: shape (repeats, stays); stays without one (no score could be said) are left out.
        metric: of labels and probabilities.
    """
    values = []
    for row in probabilities:
        known = np.isfinite(row)
        value = metric(labels[known], row[known])
        if value is not None:
            values.append(value)
    if not values:
        return Measured(None, None)
    spread = float(np.std(values, ddof=1)) / math.sqrt(len(values)) if len(values) > 1 else None
    return Measured(float(np.mean(values)), spread)


def report(found: CrossValidated) -> dict[str, dict[int, dict[str, Measured]]]:
    """Return every metric by method and hour."""
    return {
        method: {
            hour: {name: over_repeats(found.died, rows, metric) for name, metric in METRICS.items()}
            for hour, rows in by_hour.items()
        }
        for method, by_hour in found.probability.items()
    }


def run(folder: Path, repeats: int, console: Console, *, as_json: bool) -> None:
    """Cross-validate on a cohort and print what came out.

    Raises:
        CohortError: the folder holds no cohort.
        ConfigurationError: it holds no outcomes to learn from.
    """
    started_s = time.monotonic()
    stays = [stay for stay in physionet2012.read(folder) if stay.outcome is not None]
    if not stays:
        raise ConfigurationError(f"{folder} says of no stay how it ended: Outcomes-a.txt is missing beside the files.")
    cohort = cohorts.of_records(stays, is_synthetic=physionet2012.is_synthetic(folder))
    with console.status("learning") as status:
        found = cross_validation.run(
            feature_table.MORTALITY,
            cohort,
            protocol_files.load_all()["news2"],
            repeats=repeats,
            progress=None if as_json else status.update,
        )
    table = report(found)
    seconds = time.monotonic() - started_s
    if as_json:
        typer.echo(json.dumps(_record(found, table, repeats, seconds, is_synthetic=cohort.is_synthetic)))
        return
    _show(found, table, repeats, seconds, console, is_synthetic=cohort.is_synthetic)


def _record(
    found: CrossValidated,
    table: Mapping[str, Mapping[int, Mapping[str, Measured]]],
    repeats: int,
    seconds: float,
    *,
    is_synthetic: bool,
) -> dict[str, Any]:
    def flat(measures: Mapping[str, Measured]) -> dict[str, float | None]:
        told: dict[str, float | None] = {}
        for name, one in measures.items():
            told |= {name: _rounded(one.mean), f"{name}_se": _rounded(one.standard_error)}
        return told

    return {
        "outcome": "death before discharge from hospital",
        "hour": PRIMARY_HOUR,
        "stays": len(found.died),
        "deaths": int(found.died.sum()),
        "folds": cross_validation.FOLDS,
        "repeats": repeats,
        "is_synthetic": is_synthetic,
        **flat(table[OURS][PRIMARY_HOUR]),
        "peers": {
            method: flat(by_hour[PRIMARY_HOUR])
            for method, by_hour in table.items()
            if method != OURS and PRIMARY_HOUR in by_hour
        },
        "by_hour": {str(hour): flat(measures) for hour, measures in table[OURS].items()},
        "coverage": {
            method: {str(hour): _rounded(one) for hour, one in by.items()} for method, by in found.coverage.items()
        },
        "agreement_with_recorded": {name: _rounded(one) for name, one in found.agreement.items()},
        "seconds": round(seconds, 1),
    }


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 5)


def _show(
    found: CrossValidated,
    table: Mapping[str, Mapping[int, Mapping[str, Measured]]],
    repeats: int,
    seconds: float,
    console: Console,
    *,
    is_synthetic: bool,
) -> None:
    if is_synthetic:
        console.print("[bold]Synthetic patients: these figures mean nothing clinically.[/]")
    console.print(
        f"{len(found.died):,} stays, {int(found.died.sum()):,} deaths in hospital; "
        f"{repeats} × {cross_validation.FOLDS} folds by record number, tuned and calibrated inside each; "
        f"mean ± standard error over repeats; {seconds:.0f} s",
        highlight=False,
    )
    for title, lines in (
        (
            f"\nat hour {PRIMARY_HOUR}",
            [(NAMES[method], by_hour[PRIMARY_HOUR]) for method, by_hour in table.items() if PRIMARY_HOUR in by_hour],
        ),
        ("\nours, by hour", [(f"hour {hour}", table[OURS][hour]) for hour in HOURS if hour in table[OURS]]),
    ):
        grid = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
        for heading in (title.strip(), *METRICS):
            grid.add_column(heading, justify="left" if heading == title.strip() else "right")
        for name, measures in lines:
            grid.add_row(name, *(_told(measures[metric]) for metric in METRICS))
        console.print()
        console.print(grid)
    console.print()
    for method, by_hour in found.coverage.items():
        if PRIMARY_HOUR in by_hour:
            console.print(
                f"[dim]{NAMES[method]}: {by_hour[PRIMARY_HOUR]:.0%} of its components known at hour {PRIMARY_HOUR}[/]",
                highlight=False,
            )


def _told(measured: Measured) -> str:
    if measured.mean is None:
        return "–"
    return f"{measured.mean:.4f}" + (f" ± {measured.standard_error:.4f}" if measured.standard_error is not None else "")
