"""A dossier's chapters of evidence: each verdict as a sentence, its measures as tables, its curves as plots.

Here: tables by what a measure is about (everybody, a sex, an age band, an hour, a baseline), curves put together.
Not here: drawing (governance.dossier_plots), the other chapters (governance.dossier), judging (validation).
Measures are grouped by their `group`: `sex=female` is a row "female" of the table "By sex". What a verdict does not
say is not said here either; a measure without a value shows its note.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from typing import Final

from governance.dossier_plots import interval, plot
from vocabulary.verdict import Kind, Measure, Outcome, Series, Verdict

_TITLES: Final = {
    Kind.CLINICAL: "Clinical validation",
    Kind.BIAS: "Fairness between groups",
    Kind.DRIFT: "Drift of the data",
    Kind.EXPECTATIONS: "Expectations of the data",
    Kind.LIVE: "In service",
}

ORDER: Final = (Kind.CLINICAL, Kind.BIAS, Kind.DRIFT, Kind.EXPECTATIONS, Kind.LIVE)

_OUTCOMES: Final = {
    Outcome.PASS: ("✓", "passed"),
    Outcome.FAIL: ("✕", "failed"),
    Outcome.INCONCLUSIVE: ("?", "inconclusive"),
}

_NAMES: Final = {
    "auroc": "AUROC",
    "auprc": "AUPRC",
    "brier": "Brier score",
    "scaled_brier": "Brier score, scaled",
    "log_loss": "Log loss",
    "calibration_intercept": "Calibration intercept",
    "calibration_slope": "Calibration slope",
    "min_se_ppv": "min(Se, P+)",
    "positive_predictive_value": "PPV",
    "negative_predictive_value": "NPV",
    "false_negative_rate": "FNR",
    "false_positive_rate": "FPR",
    "observed_to_expected": "Observed / expected",
    "population_stability_index": "PSI",
    "auroc_by_hour": "AUROC by hour",
}

_PREFIXES: Final = (("decision", "Decision curve"), ("calibration", "Calibration"), ("alert", "Alert burden"))

_MOST_ROWS: Final = 60
"""Rows of one table: a drift verdict may name each of several hundred columns, of which the worst come first."""


def outcome_mark(outcome: Outcome) -> str:
    """Return an outcome as a word with its sign: colour never speaks alone."""
    sign, word = _OUTCOMES[outcome]
    return f'<span class="outcome {outcome.value}"><span aria-hidden="true">{sign}</span> {word}</span>'


def title_of(kind: Kind) -> str:
    """Return the name of a kind of verdict."""
    return _TITLES[kind]


def in_words(name: str) -> str:
    """Return a measure's or curve's name for people."""
    name = name.removesuffix("_at_hour")  # the table says which hour
    known = _NAMES.get(name)
    if known:
        return known
    stem, is_difference = (name.removesuffix("_difference"), name.endswith("_difference"))
    text = _NAMES.get(stem) or stem.replace("_", " ").capitalize()
    return f"{text}, difference" if is_difference else text


def number(value: float | None) -> str:
    """Return a number with four significant digits, or a dash."""
    return "–" if value is None else f"{value:.4g}"


def spread(measure: Measure) -> str:
    """Return a measure's value with its interval: `0.861 (0.846–0.875)`."""
    if measure.value is None:
        return "–"
    if measure.low is None or measure.high is None:
        return number(measure.value)
    dash = " to " if measure.low < 0 else "–"
    return f"{number(measure.value)} ({number(measure.low)}{dash}{number(measure.high)})"


def bound(measure: Measure) -> str:
    """Return what the protocol allows."""
    if measure.at_least is not None and measure.at_most is not None:
        return f"{number(measure.at_least)} to {number(measure.at_most)}"
    if measure.at_least is not None:
        return f"≥ {number(measure.at_least)}"
    return "" if measure.at_most is None else f"≤ {number(measure.at_most)}"


def table(head: Sequence[str], rows: Iterable[Sequence[str]], *, caption: str = "", numbers: int = 0) -> str:
    """Return a table; cells are markup already.

    Args:
        head: of its columns.
        rows: cells of each row; the first heads the row.
        caption: above it.
        numbers: how many of the last columns hold numbers.
    """
    first_number = len(head) - numbers

    def kind(index: int) -> str:
        return ' class="number"' if index >= first_number else ""

    titles = "".join(f'<th scope="col"{kind(index)}>{cell}</th>' for index, cell in enumerate(head))
    body = "".join(
        f'<tr><th scope="row">{row[0]}</th>'
        + "".join(f"<td{kind(index)}>{cell}</td>" for index, cell in enumerate(row[1:], start=1))
        + "</tr>"
        for row in rows
    )
    above = f"<caption>{escape(caption)}</caption>" if caption else ""
    return f'<div class="wide"><table>{above}<thead><tr>{titles}</tr></thead><tbody>{body}</tbody></table></div>'


def chapter(verdict: Verdict) -> str:
    """Return one verdict as a chapter."""
    method = f"<p class='quiet'>Method: {escape(verdict.method)}.</p>" if verdict.method else ""
    told = [f"protocol {escape(verdict.protocol)} <code>{verdict.protocol_digest[:16]}</code>"]
    told += [f"data <code>{escape(verdict.data_fingerprint[:16])}</code>"] if verdict.data_fingerprint else []
    source = f"<p class='quiet'>Judged {escape(verdict.subject)}; {', '.join(told)}.</p>"
    return (
        f'<section class="chapter"><h3>{title_of(verdict.kind)} {outcome_mark(verdict.outcome)}</h3>'
        f"<p>{escape(verdict.statement)}</p>{_plots(verdict.series)}{_tables(verdict.measures)}{method}{source}</section>"
    )


def _tables(measures: Sequence[Measure]) -> str:
    everybody = [measure for measure in measures if not measure.group]
    families: dict[str, list[Measure]] = {}
    for measure in measures:
        if measure.group:
            families.setdefault(measure.group.partition("=")[0] if "=" in measure.group else "", []).append(measure)
    parts = [_bounded_table(everybody, "Everybody")] if everybody else []
    for family, members in families.items():
        heading = f"By {family.replace('_', ' ')}" if family else "By column"
        is_pivot = family != "" and len({measure.name for measure in members}) < len(members)
        is_judged = any(measure.outcome is not Outcome.PASS or bound(measure) for measure in members)
        if is_pivot and not is_judged:
            parts.append(_pivot(members, heading))
        else:
            parts.append(_bounded_table(members, heading))
    return "".join(parts)


def _member(measure: Measure) -> str:
    return measure.group.partition("=")[2] or measure.group


def _bounded_table(measures: Sequence[Measure], caption: str) -> str:
    has_groups = any(measure.group for measure in measures)
    shown = list(measures)
    if len(shown) > _MOST_ROWS:  # what passed is left out first
        shown = sorted(shown, key=lambda measure: measure.outcome is Outcome.PASS)[:_MOST_ROWS]
    scales = _scales(shown)
    rows = []
    for measure in shown:
        name = escape(in_words(measure.name))
        unit = "" if measure.unit in {"", "1"} else f" {escape(measure.unit)}"
        reach = interval(measure.value, measure.low, measure.high, scales[measure.name])
        allowed = bound(measure)
        is_judged = bool(allowed) or measure.outcome is not Outcome.PASS
        rows.append(
            (
                f"{escape(_member(measure))}: {name}" if has_groups else name,
                f"{reach}{escape(spread(measure))}{unit}",
                allowed or "<span class='quiet'>shown only</span>",
                str(measure.count) if measure.count else "",
                outcome_mark(measure.outcome) if is_judged else "",
                escape(measure.note),
            )
        )
    levels = sorted({measure.level for measure in shown if measure.low is not None})
    level = f"{levels[0] * 100:g} % interval" if len(levels) == 1 else "interval"
    head = ["Measure", f"Value ({level})", "Allowed", "Count", "Outcome", "Note"]
    left_out = len(measures) - len(shown)
    more = f"<p class='quiet'>{left_out} more are not printed.</p>" if left_out else ""
    return table(head, rows, caption=caption) + more


def _scales(measures: Sequence[Measure]) -> dict[str, tuple[float, float]]:
    """Return the common scale of each measure, so that intervals of one measure can be compared by eye."""
    scales: dict[str, tuple[float, float]] = {}
    for measure in measures:
        ends = [value for value in (measure.value, measure.low, measure.high) if value is not None]
        low, high = scales.get(measure.name, (0.0, 0.0))
        scales[measure.name] = (min([low, *ends]), max([high, *ends]))
    return scales


def _pivot(measures: Sequence[Measure], caption: str) -> str:
    names = list(dict.fromkeys(measure.name for measure in measures))
    members = list(dict.fromkeys(_member(measure) for measure in measures))
    cells = {(_member(measure), measure.name): measure for measure in measures}
    counts = {_member(measure): measure.count for measure in measures if measure.count}
    rows = []
    for member in members:
        row = [escape(member), str(counts.get(member, ""))]
        row += [escape(spread(cells[member, name])) if (member, name) in cells else "" for name in names]
        rows.append(row)
    notes = list(dict.fromkeys(f"{_member(m)}: {m.note}" for m in measures if m.note))
    more = f"<p class='quiet'>{escape('; '.join(notes))}</p>" if notes else ""
    head = [escape(caption.removeprefix("By ").capitalize()), "Count", *(escape(in_words(name)) for name in names)]
    return table(head, rows, caption=caption, numbers=len(head) - 1) + more


def _plots(series: Sequence[Series]) -> str:
    families: dict[str, list[Series]] = {}
    for one in series:
        prefix = next((prefix for prefix, _ in _PREFIXES if one.name.startswith(prefix)), one.name)
        families.setdefault(prefix, []).append(one)
    titles = dict(_PREFIXES)
    figures = []
    for prefix, members in families.items():
        named = [(in_words(one.name.removeprefix(f"{prefix}_")), one) for one in members]
        drawn = _drawn(prefix, named)
        title = escape(titles.get(prefix, in_words(prefix)))
        figures.append(f"<figure>{drawn}<figcaption>{title}</figcaption></figure>")
    return f'<div class="figures">{"".join(figures)}</div>' if figures else ""


def _drawn(prefix: str, named: Sequence[tuple[str, Series]]) -> str:
    if prefix == "calibration":
        return plot(named, has_diagonal=True, x_bounds=(0, 1), y_bounds=(0, 1))
    if prefix == "decision":
        # Treating everybody falls far below zero at high thresholds: what matters is around and above it.
        top = max((value for _, one in named for value in one.y), default=0.1)
        return plot(named, y_bounds=(-0.25 * max(top, 1e-3), max(top, 1e-3)))
    return plot(named)
