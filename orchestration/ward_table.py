"""The ward as the twins see it, for a terminal: one line a bed, sickest first.

Here: choosing and wording what a line says; every value with its age.
Not here: the board on the web (clinic), the snapshots themselves (twin).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.table import Table
from rich.text import Text

from orchestration.feeds import duration
from vocabulary.snapshot import Score, SignalState, TwinSnapshot

_COLUMNS = (
    ("HR", ("heart_rate", "pulse_rate"), 0),
    ("RR", ("respiratory_rate",), 0),
    ("SpO2", ("oxygen_saturation", "arterial_oxygen_saturation"), 0),
    ("BP", ("systolic_blood_pressure",), 0),
    ("Temp", ("body_temperature",), 1),
)
_BAND_STYLES = {"high": "bold red", "medium": "yellow", "low-medium": "yellow", "low": "green"}


def news2_of(snapshot: TwinSnapshot) -> Score | None:
    """Return the snapshot's NEWS2, if it has one."""
    return next((score for score in snapshot.scores if score.name == "NEWS2"), None)


def _age(signal: SignalState, now_us: int) -> str:
    """Return how old a value is, short enough to stand beside it."""
    return duration(max(0.0, (now_us - signal.effective_at_us) / 1_000_000)).replace(" ", "").replace("min", "m")


def _severity(snapshot: TwinSnapshot) -> tuple[float, str, str]:
    score = news2_of(snapshot)
    total = score.total if score is not None and score.total is not None else -1.0
    return -total, snapshot.ward, snapshot.bed


def _value(signal: SignalState | None, digits: int, now_us: int) -> Text:
    if signal is None or signal.value is None:
        return Text("–", "dim")
    text = Text(f"{signal.value:.{digits}f}", "dim" if signal.is_stale else "")
    return text.append(f" {_age(signal, now_us)}", "dim")


def _pressure(by_key: Mapping[str, SignalState], now_us: int) -> Text:
    systolic, diastolic = by_key.get("systolic_blood_pressure"), by_key.get("diastolic_blood_pressure")
    if systolic is None or systolic.value is None:
        return Text("–", "dim")
    below = f"/{diastolic.value:.0f}" if diastolic is not None and diastolic.value is not None else ""
    text = Text(f"{systolic.value:.0f}{below}", "dim" if systolic.is_stale else "")
    return text.append(f" {_age(systolic, now_us)}", "dim")


def _score(snapshot: TwinSnapshot) -> Text:
    score = news2_of(snapshot)
    if score is None or score.total is None:
        return Text("–", "dim")
    measured = len(score.parts)
    of = f" ({measured} of {measured + len(score.missing)})" if score.missing else ""
    return Text(f"{score.total:.0f} {score.band}{of}".rstrip(), _BAND_STYLES.get(score.band, ""))


def _risk(snapshot: TwinSnapshot) -> Text:
    """Return the champion's estimate with its interval, or a dash where it does not speak."""
    said = next((risk for risk in snapshot.risks if risk.probability is not None), None)
    if said is None or said.probability is None:
        return Text("–", "dim")
    text = Text(f"{said.probability:.0%}", "bold" if said.is_high else "")
    if said.low is not None and said.high is not None:
        text.append(f" {said.low * 100:.0f}–{said.high * 100:.0f}", "dim")
    return text


def ward_table(
    snapshots: Sequence[TwinSnapshot],
    names: Mapping[int, str],
    beds: Mapping[int, str],
    now_us: int,
    limit: int = 40,
) -> Table:
    """Return the ward, sickest first.

    Args:
        snapshots: the newest of each patient.
        names: how each patient is called, by patient id.
        beds: where each patient lies, in full, by patient id.
        now_us: the log's clock, from which ages are told.
        limit: how many lines at most.
    """
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim", caption_justify="left")
    # A column for the risk only where an approved model was asked.
    risk = ["risk"] if any(snapshot.risks for snapshot in snapshots) else []
    for heading in ("bed", "patient", "NEWS2", *risk, *(heading for heading, _, _ in _COLUMNS), "notices"):
        table.add_column(heading, no_wrap=heading != "notices", overflow="fold")
    chosen = sorted(snapshots, key=_severity)
    for snapshot in chosen[:limit]:
        by_key = {signal.concept: signal for signal in snapshot.signals}
        cells = []
        for heading, keys, digits in _COLUMNS:
            if heading == "BP":
                cells.append(_pressure(by_key, now_us))
            else:
                cells.append(_value(next((by_key[key] for key in keys if key in by_key), None), digits, now_us))
        silent = [f"{feed.feed} silent" for feed in snapshot.feeds if feed.is_silent]
        gone = [] if snapshot.is_admitted else ["discharged"]
        notices = "; ".join([*gone, *silent])
        bed = beds.get(snapshot.patient_id, f"{snapshot.ward} / {snapshot.bed}")
        name = names.get(snapshot.patient_id, str(snapshot.patient_id))
        told = [_risk(snapshot)] if risk else []
        table.add_row(bed, name, _score(snapshot), *told, *cells, Text(notices, "dim"))
    if len(chosen) > limit:
        table.caption = f"… and {len(chosen) - limit} more on the board"
    return table
