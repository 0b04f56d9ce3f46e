"""What a model says, on the board, on the patient's page and in FHIR: with interval, reasons, or why it is silent."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from fhir.resources.R4B.bundle import Bundle
from fhir.resources.R4B.riskassessment import RiskAssessment
from hypothesis import given
from hypothesis import strategies as st

from clinic.bed_view import bed_row
from clinic.questions import RiskPoint
from clinic.risk_charts import course_chart, interval_bar
from clinic.risk_view import heads_of, percent, risk_cell
from clinic.sight import BoardTopic, Sight
from governance.access import Role
from governance.roster import Signature
from governance.statements import Action, ServingRow, Signed, Slot, Statement
from vocabulary.snapshot import RiskForecast

DIGEST = "ab12" * 16
CONDITIONS = ("Waiver: the evidence comes from one hospital only.",)


_FORECAST = RiskForecast(
    model="mortality", version=3, title="Risk", outcome="death", probability=0.2, low=0.1, high=0.3, level=0.8,
    hours_since_admission=1.0, is_high=False, threshold=None, reasons=[], abstention="", statement="",
    is_synthetic=False, conditions=[],
)  # fmt: skip


def _bed(page: str, patient_id: int) -> str:
    return page.split(f'id="bed-{patient_id}"')[1].split("</tr>", maxsplit=1)[0]


def _serving_row(serving_id: int = 4, **changes: Any) -> ServingRow:
    at = datetime(2026, 1, 1, 9, tzinfo=UTC)
    signed = tuple(
        Signed(
            statement=Statement(
                site="test", request_id="r1", scope="mortality", slot=Slot.CHAMPION, version=3, model_digest=DIGEST,
                evidence_digest="cd34" * 16, conditions=CONDITIONS, author="https://login.test|author",
                opened_at=at, expires_at=at, person=f"https://login.test|{name}", role=role, meaning="I approve.",
            ),
            signature=Signature(key_id="k", signed_at=at), received_at=at,
        )
        for name, role in (("lena.fischer", Role.CLINICAL_LEAD), ("sam.okafor", Role.SAFETY_OFFICER))
    )  # fmt: skip
    row = ServingRow(
        serving_id=serving_id, at_us=1_767_258_000_000_000, scope="mortality", slot=Slot.CHAMPION,
        action=Action.PROMOTE, version=3, model_digest=DIGEST, evidence_digest="cd34" * 16, request_id="r1",
        signed=signed, by="clinic",
    )  # fmt: skip
    return msgspec.structs.replace(row, **changes)


# The board -----------------------------------------------------------------------------------------------------------


async def test_without_a_model_the_board_has_no_column_of_risk(clinic, wards) -> None:
    clinic.live.publish(wards.snapshot(7))
    await clinic.settle()
    page = (await clinic.client.get("/")).text
    assert 'class="board"' in page
    assert re.search(r'id="models"[^>]* hidden', page)


async def test_a_bed_shows_the_probability_with_its_interval_and_its_first_reason(clinic, wards) -> None:
    clinic.live.publish(wards.snapshot(7, risks=[wards.risk(0.234)]))
    await clinic.settle()
    page = (await clinic.client.get("/")).text
    bed = _bed(page, 7)
    assert 'class="board with-risk"' in page
    assert "23 %" in bed
    assert "18–29 %" in bed
    assert "↑ Kidney function<" in bed
    assert ">high<" not in bed
    assert '<span id="risk-model">mortality 3</span>' in page
    assert "synthetic" not in page.split('id="models"')[1].split("</p>")[0]


async def test_a_high_risk_says_so_in_a_word_and_why(clinic, wards) -> None:
    forecast = wards.risk(0.41)
    lowering_first = [forecast.reasons[1], forecast.reasons[2]]
    clinic.live.publish(wards.snapshot(7, risks=[msgspec.structs.replace(forecast, reasons=lowering_first)]))
    await clinic.settle()
    bed = _bed((await clinic.client.get("/")).text, 7)
    assert "is-high" in bed
    assert ">high<" in bed
    assert "↑ Circulation" in bed  # what raises it, though another reason is stronger


async def test_an_abstention_is_a_dash_with_its_reason_and_the_score_stays(clinic, wards) -> None:
    clinic.live.publish(wards.snapshot(7, risks=[wards.risk(None)]))
    await clinic.settle()
    bed = _bed((await clinic.client.get("/")).text, 7)
    assert '<span class="value">–</span><span class="reason">too little data</span>' in bed
    assert ">0</span>" in bed.split('class="score"')[1]  # NEWS2
    assert "%" not in bed.split('class="risk')[1].split("</td>")[0]


async def test_a_synthetic_model_and_its_conditions_are_told_above_the_beds(clinic, wards) -> None:
    clinic.live.publish(wards.snapshot(7, risks=[wards.risk(is_synthetic=True, conditions=list(CONDITIONS))]))
    await clinic.settle()
    head = (await clinic.client.get("/")).text.split('id="models"')[1].split("</p>")[0]
    assert "synthetic, means nothing clinically" in head
    assert CONDITIONS[0] in head


async def test_a_promotion_brings_the_column_and_a_withdrawal_takes_it_in_the_same_events(clinic, wards) -> None:
    board, hub = clinic.app.state.context.board, clinic.app.state.context.hub
    clinic.live.publish(wards.snapshot(7))
    await clinic.settle()
    people = frozenset({7, 8})
    viewers = [hub.join([BoardTopic(None, Sight(frozenset({"ICU-A"}), people, people))]) for _ in range(40)]
    renders = board.renders
    clinic.live.publish(wards.snapshot(7, position=(1 << 40) + 101, risks=[wards.risk()]))
    await clinic.settle()
    assert board.renders - renders == 1  # for forty viewers
    successor = wards.risk(version=4)  # says the same of everybody: no bed changes, the head does
    clinic.live.publish(wards.snapshot(7, position=(1 << 40) + 102, risks=[successor]))
    await clinic.settle()
    assert board.renders - renders == 1
    clinic.live.publish(wards.snapshot(7, position=(1 << 40) + 103))
    await clinic.settle()
    told = []
    while viewers[-1]._queue.qsize():
        event = viewers[-1]._queue.get_nowait().decode()
        if event.startswith("event: beds"):
            told.append(json.loads(event.partition("data: ")[2])["risk"])
    assert [one["model"] for one in told] == ["mortality 3", "mortality 4", ""]
    assert "Risk of dying in hospital" in told[0]["html"]
    assert told[2]["html"] == ""


async def test_two_versions_for_a_moment_are_both_named(wards) -> None:
    snapshots = [
        wards.snapshot(7, risks=[wards.risk()]),
        wards.snapshot(8, risks=[wards.risk(version=4)]),
        wards.snapshot(9),
    ]
    assert [head.model for head in heads_of(snapshots)] == ["mortality 3", "mortality 4"]


def test_the_same_estimate_at_a_later_position_repaints_nothing(wards) -> None:
    first = wards.snapshot(7, risks=[wards.risk(0.2341)])
    later = wards.snapshot(7, position=(1 << 40) + 900, risks=[wards.risk(0.2342)])
    assert bed_row(first, None, ()) == bed_row(later, None, ())
    assert bed_row(first, None, ()) != bed_row(wards.snapshot(7, risks=[wards.risk(0.26)]), None, ())


@given(st.floats(0, 1))
def test_a_risk_is_never_said_to_be_none_or_certain(probability: float) -> None:
    said = percent(probability)
    assert said not in {"0", "100"}
    assert abs(float(said.strip("<>")) - probability * 100) <= 1


async def test_a_restricted_bed_tells_no_risk(house: Any, wards: Any) -> None:
    house.live.publish(wards.snapshot(8, position=1 << 41, bed="08", risks=[wards.risk(0.77)]))
    nurse = await house.as_("nurse")
    for _ in range(200):
        page = (await nurse.get("/")).text
        if "with-risk" in page:
            break
    assert "Restricted" in page
    assert "77 %" not in page


# The patient's page --------------------------------------------------------------------------------------------------


def _panel(page: str) -> str:
    return page.split('id="part-risk"')[1].split("</section>", maxsplit=1)[0]


async def test_without_a_model_the_page_has_an_empty_panel(clinic, wards) -> None:
    clinic.live.publish(wards.snapshot(7))
    await clinic.settle()
    assert _panel((await clinic.client.get("/patients/7")).text).endswith('aria-label="Risk">')


async def test_the_panel_says_what_why_since_when_and_who_approved(clinic, wards) -> None:
    clinic.readers.serving_rows[4] = _serving_row()
    clinic.readers.risk_rows[70] = [
        RiskPoint(wards.now_us, minute, 0.1 + minute / 10_000, 0.05, 0.3, False, DIGEST) for minute in range(0, 900, 15)
    ]
    risk = wards.risk(0.234, conditions=list(CONDITIONS))
    clinic.live.publish(wards.snapshot(7, risks=[risk], serving=4))
    await clinic.settle()
    panel = _panel((await clinic.client.get("/patients/7")).text)
    for said in (
        "23 %", "80 % interval 18–29 %", "Death before discharge from this hospital stay.", "At hour 36 of the stay",
        "attention is asked for from 30 %", "+0.81", "raises it", "lowers it", "Kidney function (creatinine",
        "lena.fischer, clinical lead", "sam.okafor, safety officer", f"mortality@3 {DIGEST[:16]}", CONDITIONS[0],
        "Over the stay", "It does not say what would happen under another treatment",
    ):  # fmt: skip
        assert said in panel, said
    assert "synthetic" not in panel


async def test_a_restored_model_names_the_signatures_it_rests_on(clinic, wards) -> None:
    clinic.readers.serving_rows |= {
        4: _serving_row(),
        9: _serving_row(9, action=Action.RESTORE, signed=(), restores=4, cause="calibration_breach", by="keeper"),
    }
    clinic.live.publish(wards.snapshot(7, risks=[wards.risk()], serving=9))
    await clinic.settle()
    panel = _panel((await clinic.client.get("/patients/7")).text)
    assert "restored to an earlier approval" in panel
    assert "(calibration breach)" in panel
    assert "lena.fischer, clinical lead" in panel


async def test_an_abstaining_model_says_why_on_the_page(clinic, wards) -> None:
    clinic.live.publish(wards.snapshot(7, risks=[wards.risk(None)]))
    await clinic.settle()
    panel = _panel((await clinic.client.get("/patients/7")).text)
    assert "No estimate: too little data" in panel
    assert "Fewer than 3 vital signs were charted." in panel
    assert "What moved it" not in panel


async def test_a_promotion_while_the_page_is_open_is_read_at_once(clinic, wards) -> None:
    pages = clinic.app.state.context.pages
    clinic.readers.serving_rows |= {4: _serving_row(), 5: _serving_row(5, model_digest="ef" * 32)}
    clinic.live.publish(wards.snapshot(7, risks=[wards.risk()], serving=4))
    await clinic.settle()
    assert DIGEST[:16] in (await pages.parts(await pages.twin(7), 4))["risk"]
    clinic.live.publish(wards.snapshot(7, position=(1 << 40) + 101, risks=[wards.risk(version=4)], serving=5))
    await clinic.settle()
    assert "efefefef" in (await pages.parts(await pages.twin(7), 4))["risk"]


def test_the_course_has_a_gap_where_the_model_was_silent_and_draws_only_what_it_said(wards) -> None:
    spoke = [RiskPoint(0, minute, 0.2, 0.1, 0.3, False) for minute in range(0, 300, 15)]
    silent = [RiskPoint(0, minute, None, None, None, False) for minute in range(300, 600, 15)]
    again = [RiskPoint(0, minute, 0.4, 0.3, 0.5, True) for minute in range(600, 900, 15)]
    drawn = course_chart([*spoke, *silent, *again], 0.3)
    assert drawn.count('class="line"') == drawn.count('class="spread"') == 2
    assert "last 40 % at hour 15" in drawn
    assert "none kept" in course_chart(silent, None)


@given(st.floats(0, 1), st.floats(0, 1), st.floats(0, 1), st.none() | st.floats(0, 1))
def test_an_interval_is_drawn_inside_its_scale(first: float, second: float, third: float, mark: float | None) -> None:
    low, middle, high = sorted((first, second, third))
    forecast = msgspec.structs.replace(_FORECAST, probability=middle, low=low, high=high, threshold=mark)
    drawn = interval_bar(forecast)
    for left, width in re.findall(r'class="(?:range|estimate)" x="([\d.]+)" y="\d+" width="([\d.]+)"', drawn):
        assert 0 <= float(left) <= float(left) + float(width) <= 400
    assert risk_cell(forecast).text == f"{percent(middle)} %"


# FHIR ----------------------------------------------------------------------------------------------------------------


def _valid(answer: Any, model: Any) -> dict[str, Any]:
    assert answer.status_code == 200, answer.text
    model.model_validate_json(answer.content)
    found: dict[str, Any] = answer.json()
    return found


async def test_a_risk_assessment_is_found_read_and_valid(clinic, wards) -> None:
    snapshot = wards.snapshot(7, risks=[wards.risk(0.4123, is_synthetic=True, conditions=list(CONDITIONS))], serving=4)
    clinic.live.publish(snapshot)
    await clinic.settle()
    bundle = _valid(await clinic.client.get("/fhir/RiskAssessment?patient=Patient/7"), Bundle)
    [entry] = bundle["entry"]
    resource = _valid(await clinic.client.get(f"/fhir/RiskAssessment/{entry['resource']['id']}"), RiskAssessment)
    assert resource == entry["resource"]
    assert resource["id"] == f"{snapshot.snapshot_id}.mortality"
    assert resource["status"] == "final"
    assert resource["subject"] == {"reference": "Patient/7"}
    [prediction] = resource["prediction"]
    assert prediction["probabilityDecimal"] == 41.2  # a percentage, by FHIR's invariant ras-2
    assert prediction["outcome"]["text"] == "death before discharge from this hospital stay"
    assert "80 % interval 36–47 %" in prediction["rationale"]
    assert "Kidney function (creatinine, urea, urine output): +0.81 log-odds" in prediction["rationale"]
    assert "attention" in prediction["qualitativeRisk"]["text"]
    assert resource["meta"]["tag"][0]["code"] == "HTEST"
    notes = [note["text"] for note in resource["note"]]
    assert any("means nothing clinically" in note for note in notes)
    assert any(CONDITIONS[0] in note for note in notes)
    read = await clinic.client.get(resource["basis"][0]["reference"].replace("http://localhost", ""))
    assert read.json()["resourceType"] == "Observation"


async def test_an_abstention_is_cancelled_without_a_prediction(clinic, wards) -> None:
    clinic.live.publish(wards.snapshot(7, risks=[wards.risk(None)]))
    await clinic.settle()
    [entry] = _valid(await clinic.client.get("/fhir/RiskAssessment?subject=Patient/7"), Bundle)["entry"]
    RiskAssessment.model_validate(entry["resource"])
    assert entry["resource"]["status"] == "cancelled"
    assert "prediction" not in entry["resource"]
    assert entry["resource"]["note"][0]["text"] == "No estimate: too little data."


async def test_a_search_is_bounded_by_date_and_count(clinic, wards) -> None:
    clinic.live.publish(wards.snapshot(7, risks=[wards.risk(), wards.risk(model="sepsis_onset")]))
    await clinic.settle()
    for query, count in (
        ("date=ge2026-01-01", 2), ("date=lt2026-01-01", 0), ("_count=1", 1), ("_count=0", 0),
    ):  # fmt: skip
        bundle = _valid(await clinic.client.get(f"/fhir/RiskAssessment?patient=7&{query}"), Bundle)
        assert len(bundle.get("entry", [])) == count, query
    posted = await clinic.client.post("/fhir/RiskAssessment/_search", data={"patient": "Patient/7"})
    ids = [entry["resource"]["id"].partition(".")[2] for entry in _valid(posted, Bundle)["entry"]]
    assert ids == ["mortality", "sepsis-onset"]
    for query in ("", "patient=7&patient=8", "patient=x", "patient=7&date=then", "patient=7&_count=-1"):
        assert (await clinic.client.get(f"/fhir/RiskAssessment?{query}")).status_code == 400


async def test_what_is_no_estimate_of_a_kept_snapshot_is_absent(clinic, wards) -> None:
    snapshot = wards.snapshot(7, risks=[wards.risk()])
    clinic.live.publish(snapshot)
    await clinic.settle()
    for name in (f"{snapshot.snapshot_id}.sepsis", f"{snapshot.snapshot_id}.", "x", "00-1-7.mortality"):
        assert (await clinic.client.get(f"/fhir/RiskAssessment/{name}")).status_code == 404


async def test_the_snapshot_bundle_holds_the_estimate_and_says_what_made_it(clinic, wards) -> None:
    clinic.live.publish(wards.snapshot(7, risks=[wards.risk()]))
    await clinic.settle()
    bundle = _valid(await clinic.client.get("/fhir/Patient/7/$twin-snapshot"), Bundle)
    kinds = [entry["resource"]["resourceType"] for entry in bundle["entry"]]
    assert kinds.count("RiskAssessment") == 1
    [provenance] = [e["resource"] for e in bundle["entry"] if e["resource"]["resourceType"] == "Provenance"]
    targets = {target["reference"] for target in provenance["target"]}
    assert targets == {e["fullUrl"] for e in bundle["entry"] if e["resource"]["resourceType"] != "Provenance"}


@pytest.mark.parametrize(("who", "is_found"), [("nurse", True), ("other_nurse", False), ("safety_officer", False)])
async def test_an_estimate_is_for_those_who_may_read_the_twin(house: Any, wards: Any, who: str, is_found: bool) -> None:
    snapshot = wards.snapshot(7, position=1 << 41, bed="07", risks=[wards.risk()])
    house.live.publish(snapshot)
    client = await house.as_(who)
    found = (await client.get("/fhir/RiskAssessment?patient=7")).json()
    for _ in range(200):
        if not is_found or found.get("entry"):
            break
        found = (await client.get("/fhir/RiskAssessment?patient=7")).json()
    assert bool(found.get("entry")) is is_found
    read = await client.get(f"/fhir/RiskAssessment/{snapshot.snapshot_id}.mortality")
    assert read.status_code == (200 if is_found else 404)
    last = (await house.audit())[-1].entry
    assert (last.surface, last.outcome) == ("patient", "permitted" if is_found else "denied")
