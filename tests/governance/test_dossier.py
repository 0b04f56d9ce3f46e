"""The dossier: one file that needs nothing else, says what was recorded, and only that."""

from __future__ import annotations

import base64
import hashlib
import re
from html.parser import HTMLParser
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from governance.dossier import SYNTHETIC, Asked, Content, build
from governance.dossier_plots import plot
from governance.dossier_style import CONTENT_SECURITY_POLICY, STYLE
from governance.dossier_verdicts import chapter
from governance.statements import Action, ServingRow, Slot, Stage
from stores.approvals import ApprovalRequest, ApprovalSignature
from stores.models import ModelVersion
from vocabulary.verdict import Kind, Measure, Outcome, Series, Verdict

DIGEST = "ab12" * 16
MANIFEST = """
title = "Risk of dying in hospital"
outcome = "death before discharge from this hospital stay"
intended_for = "adults in intensive care, hours 1 to 48"
not_for = "children, and patients after hour 48"
members = ["aa", "bb"]
[importance]
kidney = 0.31
age = 0.22
consciousness = 0.19
circulation = 0.1
lungs = 0.08
liver = 0.05
missing = 0.05
[[monotone]]
feature = "age"
direction = "rising"
"""


def _version(**changes: Any) -> ModelVersion:
    version = ModelVersion(
        scope="mortality", version=3, model_digest=DIGEST, manifest=MANIFEST, author="https://login.test|maria",
        registered_at_us=1_767_258_000_000_000, data_fingerprint="fa" * 32, code_version="0.4.0", lock_digest="be" * 8,
        protocol="mortality@1", protocol_digest="cd" * 32, is_synthetic=False, run_id="run-7",
    )  # fmt: skip
    return msgspec.structs.replace(version, **changes)


def _verdict(kind: Kind, outcome: Outcome, **changes: Any) -> Verdict:
    verdict = Verdict(
        kind=kind, subject="mortality", outcome=outcome, statement=f"The {kind} says {outcome}.", measures=(),
        method="by hand", protocol="mortality@1", protocol_digest="cd" * 32,
    )  # fmt: skip
    return msgspec.structs.replace(verdict, **changes)


CLINICAL = _verdict(
    Kind.CLINICAL,
    Outcome.PASS,
    measures=(
        Measure(name="auroc", value=0.8613, low=0.8461, high=0.8757, at_least=0.82, count=1200),
        Measure(name="calibration_slope", value=1.02, low=0.93, high=1.11, at_least=0.8, at_most=1.25, count=1200),
        Measure(name="positive_predictive_value", value=None, note="nobody was high"),
        *(
            Measure(name=name, value=value + hour / 1000, group=f"hour={hour}", count=1200 - hour)
            for hour in (6, 12, 24, 48)
            for name, value in (("auroc", 0.8), ("brier", 0.1))
        ),
    ),
    series=(
        Series(name="calibration", x_label="Predicted", y_label="Observed", x=(0.1, 0.5, 0.9), y=(0.12, 0.44, 0.95),
               low=(0.1, 0.4, 0.8), high=(0.15, 0.5, 1.0), count=(400, 400, 400)),
        Series(name="decision_model", x_label="Threshold", y_label="Benefit", x=(0.1, 0.3, 0.5), y=(0.09, 0.05, 0.02)),
        Series(name="decision_all", x_label="Threshold", y_label="Benefit", x=(0.1, 0.3, 0.5), y=(0.05, -0.2, -0.7)),
        Series(name="alert_burden", x_label="Threshold", y_label="Alerts a day", x=(0.1, 0.5), y=(0.8, 0.1)),
    ),
)  # fmt: skip
BIAS = _verdict(
    Kind.BIAS,
    Outcome.INCONCLUSIVE,
    measures=(
        Measure(name="false_negative_rate_difference", value=0.06, low=-0.04, high=0.16, at_most=0.1,
                group="age=85-", count=80, outcome=Outcome.INCONCLUSIVE),
        Measure(name="false_negative_rate_difference", value=None, group="sex=other", note="fewer than 30"),
        Measure(name="false_negative_rate_difference", value=0.01, low=-0.02, high=0.04, at_most=0.1,
                group="sex=female", count=540),
    ),
)  # fmt: skip
REQUEST = ApprovalRequest(
    request_id="r-1", site="test", scope="mortality", slot="champion", version=3, model_digest=DIGEST,
    evidence_digest="ee" * 32, evidence="{}", conditions=("First condition.", "Second <b>condition</b>."),
    author="https://login.test|maria", opened_at_us=1_767_260_000_000_000, opened_by="dagster",
    expires_at_us=1_768_260_000_000_000,
)  # fmt: skip
SIGNATURE = ApprovalSignature(
    request_id="r-1", is_approval=True, person="https://login.test|lena", role="clinical_lead", signed="{}",
    received_at_us=1_767_261_000_000_000,
)  # fmt: skip
SERVING = ServingRow(
    serving_id=4, at_us=1_767_262_000_000_000, scope="mortality", slot=Slot.CHAMPION, action=Action.PROMOTE, version=3,
    model_digest=DIGEST, evidence_digest="ee" * 32, request_id="r-1", by="https://login.test|lena",
)  # fmt: skip


def _content(**changes: Any) -> Content:
    content = Content(
        site="Test hospital", made_at_us=1_767_263_000_000_000, version=_version(), stage=Stage.VALIDATED,
        verdicts=(CLINICAL, BIAS, _verdict(Kind.DRIFT, Outcome.PASS), _verdict(Kind.EXPECTATIONS, Outcome.PASS)),
        requests=(Asked(request=REQUEST, answers=(SIGNATURE,)),), serving=(SERVING,),
    )  # fmt: skip
    return msgspec.structs.replace(content, **changes)


class _Reader(HTMLParser):
    """Reads a page strictly: every element that is opened is closed, in order."""

    VOID = frozenset({"meta", "br"})
    KEPT_OPEN = frozenset({"rect", "line", "circle", "path"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.attributes: list[tuple[str, str, str]] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.text.append(data)

    @property
    def said(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.text))


def _read(html: str) -> _Reader:
    reader = _Reader()
    reader.feed(html)
    reader.close()
    assert reader.open == []
    return reader


def test_the_file_needs_nothing_else_and_runs_nothing() -> None:
    read = _read(build(_content()))
    assert not read.tags & {"script", "iframe", "object", "embed", "link", "img", "form", "base"}
    for tag, name, value in read.attributes:
        assert not name.startswith("on"), (tag, name)
        assert name not in {"href", "src", "srcset", "style", "action"}, (tag, name)
        assert "http" not in value or name == "content"
    assert "url(" not in STYLE
    assert "@import" not in STYLE


def test_the_policy_lets_in_the_files_own_sheet_only() -> None:
    html = build(_content())
    [style] = re.findall(r"<style>(.*?)</style>", html, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert f"style-src 'sha256-{digest}'" in CONTENT_SECURITY_POLICY
    assert "default-src 'none'" in CONTENT_SECURITY_POLICY
    assert "sandbox" in CONTENT_SECURITY_POLICY
    [(_, _, inside)] = [one for one in _read(html).attributes if one[1] == "content" and "default-src" in one[2]]
    assert digest in inside


def test_it_says_what_was_recorded() -> None:
    said = _read(build(_content(), _name)).said
    for words in (
        "Dossier of mortality 3", "stage validated", DIGEST, "death before discharge from this hospital stay",
        "adults in intensive care, hours 1 to 48", "children, and patients after hour 48",
        "0.8613 (0.8461–0.8757)", "≥ 0.82", "0.8 to 1.25", "nobody was high", "By hour", "Decision curve",
        "85-: FNR, difference", "fewer than 30", "inconclusive", "First condition.", "Second <b>condition</b>.",
        "Lena Fischer", "clinical lead", "ee" * 32, "fa" * 32, "0.4.0", "be" * 8, "run-7", "promote", "Monotone",
        "rising", "Kidney", "0.31",
    ):  # fmt: skip
        assert words in said, words
    assert SYNTHETIC not in said


def _name(person: str) -> str:
    return {"https://login.test|lena": "Lena Fischer"}.get(person, person)


def test_the_manifests_limits_say_for_whom_it_speaks() -> None:
    manifest = """
outcome = "death"
[limits]
first_minute = 180
last_minute = 2880
least_groups = 3
key_groups = ["heart_rate", "urine_output"]
stale_after_hours = 6.0
least_age_years = 18.0
largest_share_outside = 0.25
[training]
stays = 2000
deaths = 280
folds = [0, 1, 2]
[[references]]
concept = "heart_rate"
levels = [0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7]
"""
    said = _read(build(_content(version=_version(manifest=manifest)))).said
    for words in (
        "patients of at least 18 years, from hour 3 to hour 48",
        "fewer than 3 of these measured: heart rate, urine output",
        "nothing was charted for 6 hours", "more than 25%", "2000 stays, 280 of which ended in death (14.0%)",
        "and 2 more",
    ):  # fmt: skip
        assert words in said, words


def test_a_curve_whose_values_cannot_be_paired_stays_empty() -> None:
    drawn = plot([("a", Series(name="a", x_label="x", y_label="y", x=(1.0, 2.0, 3.0), y=(1.0, 2.0)))])
    assert '<path class="line' not in drawn
    assert "circle" not in drawn


def test_synthetic_figures_are_told_first() -> None:
    html = build(_content(version=_version(is_synthetic=True)))
    assert SYNTHETIC in html
    assert html.index(SYNTHETIC) < html.index("At a glance")


@pytest.mark.parametrize("kind", [Kind.EXPECTATIONS, Kind.DRIFT, Kind.BIAS, Kind.CLINICAL])
def test_a_judgement_that_nobody_made_is_missing_not_absent(kind: Kind) -> None:
    left = tuple(verdict for verdict in _content().verdicts if verdict.kind is not kind)
    said = _read(build(_content(verdicts=left))).said
    assert said.count("✕ missing") == 1


def test_before_anybody_asked_the_doubts_are_named_as_conditions_to_come() -> None:
    said = _read(build(_content(requests=(), serving=()))).said
    assert "No approval was asked for yet. These verdicts are inconclusive" in said
    assert "Fairness between groups: The bias says inconclusive." in said
    assert "It never held a place." in said


def test_a_failed_verdict_is_a_word_and_not_only_a_colour() -> None:
    failed = _verdict(Kind.CLINICAL, Outcome.FAIL, measures=(
        Measure(name="auroc", value=0.7, low=0.66, high=0.74, at_least=0.82, outcome=Outcome.FAIL),))  # fmt: skip
    said = _read(chapter(failed)).said
    assert said.count("failed") == 2


def test_the_hours_are_a_table_with_a_row_each() -> None:
    html = chapter(CLINICAL)
    table = next(part for part in html.split("<table>") if "<caption>By hour" in part)
    rows = re.findall(r'<th scope="row">(\d+)</th>', table)
    assert rows == ["6", "12", "24", "48"]
    assert "0.848" in table


def test_of_many_columns_those_in_doubt_are_printed() -> None:
    measures = [Measure(name="psi", value=0.01, at_most=0.2, group=f"column_{index}") for index in range(200)]
    measures.append(Measure(name="psi", value=0.9, at_most=0.2, group="creatinine", outcome=Outcome.FAIL))
    html = chapter(_verdict(Kind.DRIFT, Outcome.FAIL, measures=tuple(measures)))
    assert "creatinine" in html
    assert "141 more are not printed." in html


hostile = st.sampled_from(
    ["<script>alert(1)</script>", '"><img src=x onerror=y>', "'&quot;<style>*{}</style>", "</table>"]
)
places = st.sampled_from(["statement", "method", "note", "group", "label", "condition", "manifest", "key"])


@given(
    text=hostile,
    where=places,
)
def test_no_recorded_text_becomes_markup(text: str, where: str) -> None:
    measure = Measure(
        name="auroc", value=1.0, note=text if where == "note" else "", group=text if where == "group" else ""
    )
    label = text if where == "label" else "x"
    curve = Series(name=label, x_label=label, y_label=label, x=(0.0, 1.0), y=(0.0, 1.0))
    verdict = _verdict(Kind.CLINICAL, Outcome.PASS, statement=text if where == "statement" else "s",
                       method=text if where == "method" else "m", measures=(measure,), series=(curve,))  # fmt: skip
    request = msgspec.structs.replace(REQUEST, conditions=(text if where == "condition" else "c",))
    quoted = msgspec.json.encode(text).decode()
    manifest = f"title = {quoted}" if where == "manifest" else f"[part]\n{quoted} = 1" if where == "key" else MANIFEST
    read = _read(build(_content(
        verdicts=(verdict,), requests=(Asked(request=request, answers=()),), version=_version(manifest=manifest),
    )))  # fmt: skip
    assert not read.tags & {"script", "img"}
    assert [tag for tag in read.tags if tag == "style"] == ["style"]


numbers = st.floats(-1e6, 1e6)


@given(st.lists(st.tuples(numbers, numbers), min_size=0, max_size=40))
def test_every_curve_can_be_drawn(points: list[tuple[float, float]]) -> None:
    x, y = tuple(one for one, _ in points), tuple(two for _, two in points)
    drawn = plot([("a", Series(name="a", x_label="x", y_label="y", x=x, y=y, low=y, high=y))], has_diagonal=True)
    assert "nan" not in drawn
    _read(drawn)
