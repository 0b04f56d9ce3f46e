"""The dossier of a model version: everything a committee needs to decide, as one HTML file that needs nothing else.

Here: the file's chapters, from what is recorded: the version with its manifest, verdicts, requests with their answers,
the serving record.
Not here: the evidence's chapters (governance.dossier_verdicts), plots (governance.dossier_plots), the style sheet
(governance.dossier_style), judging anything: what the dossier says was decided elsewhere.
It holds no script, no address, no patient's data; it prints on A4. What is not recorded is said to be missing.
Source: TRIPOD+AI (BMJ 2024;385:e078378), items 5 to 23, for what a reader needs to know of a prediction model.
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from html import escape
from typing import Any, Final

import msgspec

from governance.dossier_style import IN_FILE_POLICY, STYLE
from governance.dossier_verdicts import ORDER, chapter, outcome_mark, table, title_of
from governance.statements import ServingRow, Slot, Stage
from stores.approvals import ApprovalRequest, ApprovalSignature
from stores.models import ModelVersion
from vocabulary.verdict import Kind, Outcome, Verdict, worst

SYNTHETIC: Final = "Synthetic: learned from generated patients. Its figures mean nothing clinically."

REQUIRED: Final = (Kind.EXPECTATIONS, Kind.DRIFT, Kind.BIAS, Kind.CLINICAL)

_LONGEST_LIST: Final = 24
"""Entries of one list of the manifest that are printed: feature names alone may be several hundred."""

_LONGEST_CELL: Final = 6
"""The same for a cell of a table."""

_WORDS: Final = {
    "title": "Title",
    "outcome": "It predicts",
    "statement": "In words",
    "intended_for": "It is for",
    "for_whom": "It is for",
    "not_for": "It is not for",
    "not_for_whom": "It is not for",
}


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """One request for approval with its answers so far."""

    request: ApprovalRequest
    answers: tuple[ApprovalSignature, ...] = ()


class Content(msgspec.Struct, frozen=True, kw_only=True):
    """Everything a dossier is made of."""

    site: str
    made_at_us: int
    version: ModelVersion
    stage: Stage
    verdicts: tuple[Verdict, ...]  # the newest of each kind and subject
    requests: tuple[Asked, ...] = ()  # newest first
    serving: tuple[ServingRow, ...] = ()  # rows about this version, oldest first


def build(content: Content, name_of: Callable[[str], str] = str) -> str:
    """Return the dossier as one HTML file.

    Args:
        content: what is recorded.
        name_of: the name of `issuer|subject`; as it is where nobody knows one.
    """
    version = content.version
    name = f"{version.scope} {version.version}"
    manifest = _manifest(version.manifest)
    banner = f'<p class="tag">{SYNTHETIC}</p>' if version.is_synthetic else ""
    chapters = [
        _summary(content),
        _purpose(manifest),
        _conditions(content),
        _evidence(content.verdicts),
        _signatures(content, name_of),
        _serving(content.serving, name_of),
        _origin(content, name_of),
        _manifest_chapters(manifest),
    ]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{escape(IN_FILE_POLICY)}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>Dossier of {escape(name)}</title><style>{STYLE}</style></head><body>"
        f"<h1>Dossier of {escape(name)}</h1>"
        f'<p class="quiet">{escape(content.site)}, made {moment(content.made_at_us)} UTC; stage '
        f"<strong>{content.stage.value}</strong>; model <code>{version.model_digest}</code></p>{banner}"
        f"{''.join(part for part in chapters if part)}</body></html>\n"
    )


def moment(at_us: int) -> str:
    """Return a time in UTC to the second."""
    return datetime.fromtimestamp(at_us / 1e6, UTC).strftime("%Y-%m-%d %H:%M:%S")


def _facts(pairs: Iterable[tuple[str, str]]) -> str:
    """Return names and markup as a list of facts."""
    return f"<dl>{''.join(f'<dt>{escape(name)}</dt><dd>{value}</dd>' for name, value in pairs if value)}</dl>"


def _summary(content: Content) -> str:
    rows = []
    for kind in ORDER:
        mine = [verdict for verdict in content.verdicts if verdict.kind is kind]
        if mine:
            outcome = worst(verdict.outcome for verdict in mine)
            said = "<br>".join(escape(verdict.statement) for verdict in mine)
            rows.append((title_of(kind), outcome_mark(outcome), said))
        elif kind in REQUIRED:
            rows.append((title_of(kind), '<span class="outcome fail">✕ missing</span>', "Nobody has judged it."))
    return f"<h2>At a glance</h2>{table(('Judged', 'Outcome', 'In a sentence'), rows)}"


def _manifest(text: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        return {}


def _purpose(manifest: Mapping[str, Any]) -> str:
    found = [
        (word, escape(str(value)))
        for key, word in _WORDS.items()
        if isinstance(value := _anywhere(manifest, key), str) and value
    ]
    found += [(word, escape(said)) for word, said in _limits(manifest.get("limits")) if word not in dict(found)]
    found += [("It learned from", escape(said)) for said in _training(manifest.get("training"))]
    if not found:
        return "<h2>What it predicts, and for whom</h2><p>The manifest does not say.</p>"
    found.append(("It never says", "what would happen under another treatment, or whom to treat"))
    return f"<h2>What it predicts, and for whom</h2>{_facts(found)}"


def _limits(limits: Any) -> list[tuple[str, str]]:  # noqa: ANN401 - TOML's own
    """Return for whom a model speaks, by the limits of its manifest; nothing where it names none."""
    try:
        first, last = limits["first_minute"] / 60, limits["last_minute"] / 60
        youngest = f"{limits['least_age_years']:g} years"
        groups = ", ".join(str(group).replace("_", " ") for group in limits["key_groups"])
        silent = [
            f"with fewer than {limits['least_groups']} of these measured: {groups}",
            f"when nothing was charted for {limits['stale_after_hours']:g} hours",
            f"when more than {limits['largest_share_outside']:.0%} of what was measured lies beyond all it has seen",
        ]
    except (KeyError, TypeError):
        return []
    return [
        ("It is for", f"patients of at least {youngest}, from hour {first:g} to hour {last:g} of their stay"),
        ("It is not for", f"anybody younger than {youngest}, and any hour before {first:g} or after {last:g}"),
        ("It stays silent", "; ".join(silent)),
    ]


def _training(training: Any) -> list[str]:  # noqa: ANN401 - TOML's own
    try:
        share = training["deaths"] / training["stays"]
        folds = ", ".join(str(fold) for fold in training["folds"])
        whom = f"{training['stays']} stays, {training['deaths']} of which ended in death ({share:.1%})"
    except (KeyError, TypeError, ZeroDivisionError):
        return []
    return [f"{whom}; folds {folds} of ten, by the hash of each record"]


def _anywhere(manifest: Mapping[str, Any], key: str) -> object:
    """Return a value of the manifest or of one of its tables."""
    if key in manifest:
        return manifest[key]
    return next((part[key] for part in manifest.values() if isinstance(part, Mapping) and key in part), None)


def _conditions(content: Content) -> str:
    doubts = [
        f"{title_of(verdict.kind)}: {verdict.statement}"
        for verdict in content.verdicts
        if verdict.outcome is Outcome.INCONCLUSIVE
    ]
    asked = content.requests[0].request if content.requests else None
    if asked is None:
        said = "No approval was asked for yet. These verdicts are inconclusive and will be conditions: "
        body = _list(doubts) if doubts else ""
        return f"<h2>Conditions</h2><p>{said if doubts else 'No approval was asked for yet.'}</p>{body}"
    if not asked.conditions:
        return "<h2>Conditions</h2><p>None: nothing was inconclusive, and nothing is waived.</p>"
    return (
        "<h2>Conditions</h2><p>Whoever signs agrees to each of these, word for word. They stand wherever the model "
        f"speaks; inconclusive findings stand there as their number.</p>{_list(asked.conditions, is_ordered=True)}"
    )


def _list(items: Iterable[str], *, is_ordered: bool = False) -> str:
    kind = "ol" if is_ordered else "ul"
    return f"<{kind}>{''.join(f'<li>{escape(item)}</li>' for item in items)}</{kind}>"


def _evidence(verdicts: Sequence[Verdict]) -> str:
    ordered = sorted(verdicts, key=lambda verdict: (ORDER.index(verdict.kind), verdict.subject))
    return f"<h2>Evidence</h2>{''.join(chapter(verdict) for verdict in ordered) or '<p>There is none.</p>'}"


def _signatures(content: Content, name_of: Callable[[str], str]) -> str:
    parts = ["<h2>Requests and signatures</h2>"]
    if not content.requests:
        parts.append("<p>Nobody has asked for an approval.</p>")
    for asked in content.requests:
        request = asked.request
        slot = "to speak" if request.slot == Slot.CHAMPION else "to listen silently"
        parts.append(f"<h3>Asked {slot} <span class='quiet'>{moment(request.opened_at_us)} UTC</span></h3>")
        parts.append(
            _facts(
                [
                    ("Asked by", escape(name_of(request.opened_by))),
                    ("Ends", f"{moment(request.expires_at_us)} UTC"),
                    ("Evidence", f"<code>{request.evidence_digest}</code>"),
                    ("Request", f"<code>{escape(request.request_id)}</code>"),
                ]
            )
        )
        rows = [
            (
                escape(name_of(answer.person)),
                escape(answer.role.replace("_", " ")),
                "signed" if answer.is_approval else "rejected",
                f"{moment(answer.received_at_us)} UTC",
                escape(answer.reason),
            )
            for answer in asked.answers
        ]
        head = ("Who", "As", "Answer", "Received", "Reason")
        parts.append(table(head, rows) if rows else "<p>Nobody answered yet.</p>")
    return "".join(parts)


def _serving(rows: Sequence[ServingRow], name_of: Callable[[str], str]) -> str:
    if not rows:
        return "<h2>In service</h2><p>It never held a place.</p>"
    told = [
        (
            str(row.serving_id),
            f"{moment(row.at_us)} UTC",
            escape(row.slot.value),
            escape(row.action.value),
            escape(row.cause.replace("_", " ")),
            escape(name_of(row.by) if "|" in row.by else row.by),
        )
        for row in rows
    ]
    return f"<h2>In service</h2>{table(('Row', 'When', 'Place', 'Act', 'Cause', 'By'), told)}"


def _origin(content: Content, name_of: Callable[[str], str]) -> str:
    version = content.version
    return "<h2>Where it comes from</h2>" + _facts(
        [
            ("Author", escape(name_of(version.author))),
            ("Registered", f"{moment(version.registered_at_us)} UTC"),
            ("Model", f"<code>{version.model_digest}</code>"),
            ("Data", f"<code>{escape(version.data_fingerprint)}</code>"),
            ("Code", f"<code>{escape(version.code_version)}</code>"),
            ("Environment (lock file)", f"<code>{escape(version.lock_digest)}</code>"),
            ("Protocol", f"{escape(version.protocol)} <code>{escape(version.protocol_digest)}</code>"),
            ("Run", f"<code>{escape(version.run_id)}</code>" if version.run_id else "no tracker answered"),
            ("Patients", "generated" if version.is_synthetic else "not marked as generated"),
        ]
    )


def _manifest_chapters(manifest: Mapping[str, Any]) -> str:
    """Return the rest of the manifest: whatever its author wrote about the model, table by table."""
    if not manifest:
        return "<h2>Manifest</h2><p>It cannot be read as TOML.</p>"
    plain = {key: value for key, value in manifest.items() if not _is_nested(value) and key not in _WORDS}
    parts = ["<h2>Manifest</h2>", _facts((_title(key), _value(value)) for key, value in plain.items())]
    for key, value in manifest.items():
        if _is_nested(value):
            parts.append(_nested(_title(key), value))
    return "".join(parts)


def _is_nested(value: object) -> bool:
    if isinstance(value, Mapping):
        return True
    return isinstance(value, list) and bool(value) and all(isinstance(one, Mapping) for one in value)


def _nested(title: str, value: Any, level: int = 3) -> str:  # noqa: ANN401 - TOML's own
    heading = f"<h{level}>{escape(title)}</h{level}>"
    if isinstance(value, list):
        keys = list(dict.fromkeys(key for one in value for key in one))
        rows = [[_value(one.get(key, ""), most=_LONGEST_CELL) for key in keys] for one in value]
        return heading + table([escape(_title(key)) for key in keys], rows)
    plain = {key: one for key, one in value.items() if not _is_nested(one)}
    body = _mapping(plain)
    deeper = "".join(_nested(_title(key), one, min(level + 1, 5)) for key, one in value.items() if _is_nested(one))
    return f"{heading}{body}{deeper}" if body or deeper else ""


def _mapping(plain: Mapping[str, Any]) -> str:
    """Return plain facts; where all are numbers, as a table of the greatest first (importances, constraints)."""
    are_numbers = all(isinstance(one, int | float) and not isinstance(one, bool) for one in plain.values())
    if len(plain) > 6 and are_numbers:
        ordered = sorted(plain.items(), key=lambda pair: -abs(pair[1]))
        return table(("Name", "Value"), [(escape(_title(key)), _value(one)) for key, one in ordered], numbers=1)
    return _facts((_title(key), _value(one)) for key, one in plain.items())


def _title(key: str) -> str:
    return key.replace("_", " ").capitalize()


def _value(value: object, *, most: int = _LONGEST_LIST) -> str:
    if isinstance(value, list):
        shown = ", ".join(_value(one) for one in value[:most])
        left = len(value) - most
        return f"{shown} <span class='quiet'>and {left} more</span>" if left > 0 else shown
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.6g}"
    text = escape(str(value))
    return f"<code>{text}</code>" if len(text) == 64 and " " not in text else text
