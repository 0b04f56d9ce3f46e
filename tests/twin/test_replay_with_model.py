"""A model in force: what is said online is what a batch says, whatever came between, and can be said again."""

from __future__ import annotations

from itertools import pairwise

import pytest

from governance.statements import Action, Slot
from stores import risk_scores
from stores.database import transaction
from twin import forecast
from twin.voice import NO_MODEL
from vocabulary.snapshot import from_bytes

SECOND = 1_000_000
MINUTE = 60 * SECOND
HOUR = 60 * MINUTE


async def check_against_batch(ward, digest, record_ids=None, started_us=None):
    """Every published estimate is exactly that of a batch; returns how many there were."""
    spoke = 0
    for snapshot in ward.all_shown():
        if not snapshot.risks or not snapshot.is_admitted:
            continue
        said = snapshot.risks[0]
        number = [number for number, _ in sorted(ward.admitted_us.items())][snapshot.patient_id - 1]
        ids = record_ids(snapshot) if record_ids else (snapshot.patient_id,)
        batch = await ward.batch(digest, snapshot, started_us or ward.admitted_us[number], ids)
        assert (said.probability, said.low, said.high) == (batch.probability, batch.low, batch.high)
        assert said.abstention == batch.abstention
        assert [(r.group, r.log_odds) for r in said.reasons] == [(r.group, r.log_odds) for r in batch.reasons]
        spoke += said.probability is not None
    return spoke


@pytest.fixture
async def promoted(ward, small_model):
    """A ward of two patients, with a champion."""
    digest = small_model.train(1).keep(ward.files)
    row = await ward.committee.promote(ward.connection, digest, 1)
    await ward.follow()
    ward.admit("1", ago_us=20 * MINUTE)
    ward.admit("2", ago_us=3 * HOUR, age=45)
    await ward.settle()
    return digest, row


async def test_every_online_estimate_is_that_of_a_batch(ward, promoted, simulation):
    digest, row = promoted
    await ward.pass_time(12, measured=("1", "2"))
    for _ in range(6):
        await ward.pass_time(61, step_s=610, measured=("1", "2"))
    assert await check_against_batch(ward, digest) > 40
    last = ward.shown()
    assert last.provenance.serving == row.serving_id
    assert last.provenance.model == f"mortality@1 {digest[:16]}"
    assert last.notices == []
    assert last.risks[0].is_synthetic
    assert last.risks[0].conditions == list(row.signed[0].statement.conditions)
    assert await ward.differing(simulation.differences) == []


async def test_late_corrected_and_withdrawn_values_change_the_estimate_as_in_a_batch(ward, promoted, simulation):
    digest, _ = promoted
    say, log = ward.say, ward.log
    await ward.pass_time(10, measured=("1", "2"))
    before = ward.shown(1).risks[0].probability
    at_us = log.now_us - 90 * MINUTE
    for value, status in (("9.0", "F"), ("0.4", "C"), ("", "D")):
        lactate = say.result("2524-7", value, "mmol/L", at_us=log.now_us - 15 * MINUTE, status=status)
        log.append("lab", [say.report("1", lactate, order="gas-1")])
        log.append("mixed", [say.heart_rate("2", 190, at_us=at_us, status=status)])
        await ward.settle()
        await ward.pass_time(1)
    assert before is not None
    assert await check_against_batch(ward, digest) > 20
    assert await ward.differing(simulation.differences) == []


async def test_a_restart_says_the_same(ward, promoted, simulation):
    digest, _ = promoted
    await ward.pass_time(15, measured=("1", "2"))
    before = {patient_id: ward.shown(patient_id).risks for patient_id in (1, 2)}
    series = {patient_id: ward.run.engine.patients[patient_id].series for patient_id in (1, 2)}
    await ward.run._restart_engine()
    for patient_id, old in series.items():
        new = ward.run.engine.patients[patient_id].series
        assert new is not old
        assert {c: new.bins(c) for c in new.concepts()} == {c: old.bins(c) for c in old.concepts()}
    ward.log.tick()
    await ward.settle()
    assert {patient_id: ward.shown(patient_id).risks for patient_id in (1, 2)} == before
    await ward.pass_time(5, measured=("1", "2"))
    await check_against_batch(ward, digest)
    assert await ward.differing(simulation.differences) == []


async def test_values_of_a_merged_record_count_for_its_survivor(ward, promoted, simulation):
    digest, _ = promoted
    await ward.pass_time(8, measured=("1", "2"))
    ward.log.append("adt", [ward.say.merge("2", "1", at_us=ward.log.now_us)])
    await ward.settle()
    await ward.pass_time(4, measured=("2",))
    assert not ward.shown(1).is_admitted
    assert ward.shown(1).risks == []
    merged = [s for s in ward.all_shown() if s.patient_id == 2 and s.position > ward.shown(1).position]
    assert merged
    patient = ward.run.engine.patients[2]
    for snapshot in merged:
        batch = await ward.batch(digest, snapshot, patient.started_at_us, patient.record_ids)
        assert snapshot.risks[0].probability == batch.probability
    await ward.run._restart_engine()
    again = ward.run.engine.patients[2].series
    assert {c: again.bins(c) for c in again.concepts()} == {
        c: patient.series.bins(c) for c in patient.series.concepts()
    }
    assert await ward.differing(simulation.differences) == []


async def test_a_corrected_admission_moves_every_minute(ward, promoted, simulation):
    digest, _ = promoted
    await ward.pass_time(6, measured=("1", "2"))
    earlier = ward.admitted_us["1"] - 5 * HOUR
    ward.log.append("adt", [ward.say.adt("A01", "1", "B1", at_us=earlier)])
    await ward.settle()
    await ward.pass_time(3, measured=("1",))
    moved = ward.shown(1)
    assert moved.risks[0].hours_since_admission == pytest.approx((moved.as_of_us - earlier) / 3.6e9, abs=0.04)
    batch = await ward.batch(digest, moved, earlier, (1,))
    assert moved.risks[0].probability == batch.probability is not None
    assert await ward.differing(simulation.differences) == []


async def test_after_two_days_the_model_has_nothing_more_to_say(ward, promoted, simulation):
    assert promoted
    ward.log.now_us += 45 * HOUR
    for _ in range(10):
        await ward.pass_time(30, step_s=900, measured=("2",))
    old = ward.shown(2)
    assert old.as_of_us - ward.admitted_us["2"] > 49 * HOUR
    assert old.risks[0].abstention == "outside_window"
    assert old.risks[0].statement.startswith("No estimate: the model speaks about the first 48 hours")
    assert ward.run.engine.patients[2].series is None
    assert await ward.differing(simulation.differences) == []


@pytest.mark.parametrize("seed", [11, 12])
async def test_mischief_of_every_kind_changes_no_replay(
    seed, simulation, live_plane, committee_of, small_model, new_database, monkeypatch
):
    """The whole invented log, folded in whole, one by one, and with restarts; the same last words each time."""
    monkeypatch.setitem(simulation.LABS, "30525-0", ("a", 20, 95))
    log = simulation.write_log(live_plane.Hospital, seed, 200)
    endings, spoke = [], 0
    for number, way in enumerate(({"largest": 10_000}, {"largest": 6, "loss": 0.1, "interruptions": 0.3})):
        ward = await committee_of(new_database(), log, seed=seed * 10 + number)
        digest = small_model.train(1).keep(ward.files)
        await ward.committee.promote(ward.connection, digest, 1)
        await ward.follow()
        await ward.run.play(**way)
        assert await ward.differing(simulation.differences) == []
        endings.append(ward.run.last)
        spoke += sum(r.probability is not None for body in ward.run.published.values() for r in from_bytes(body).risks)
        await ward.close()
    assert spoke > 5
    assert endings[0] == endings[1]


async def test_a_silent_candidate_is_scored_and_shown_to_nobody(ward, promoted, small_model, simulation):
    digest, _ = promoted
    other = small_model.train(2).keep(ward.files)
    await ward.committee.promote(ward.connection, other, 2, Slot.SILENT)
    await ward.follow()
    await ward.pass_time(50, step_s=60, measured=("1", "2"))
    async with transaction(ward.connection) as connection:
        spoken = await risk_scores.between(connection, 0, 2**60, slot="champion")
        heard = await risk_scores.between(connection, 0, 2**60, slot="silent")
    assert {row.model_digest for row in spoken} == {digest}
    assert {row.model_digest for row in heard} == {other}
    assert sum(row.probability is not None for row in heard) > 4
    assert {snapshot.provenance.model for snapshot in ward.all_shown()} <= {f"mortality@1 {digest[:16]}"}
    for row in heard:
        snapshot = next(s for s in ward.all_shown() if (s.patient_id, s.position) == (row.patient_id, row.position))
        started_us = ward.run.engine.patients[row.patient_id].started_at_us
        assert (await ward.batch(other, snapshot, started_us, (row.patient_id,))).probability == row.probability
    assert await ward.differing(simulation.differences) == []


async def test_rows_are_kept_each_quarter_of_an_hour_and_when_attention_changes(ward, promoted):
    await ward.pass_time(65, step_s=60, measured=("1", "2"))
    async with transaction(ward.connection) as connection:
        rows = await risk_scores.of_patients(connection, [1])
    quarters = [row.through_minute // 15 for row in rows]
    assert set(quarters) >= set(range(quarters[0], quarters[-1] + 1))
    for before, after in pairwise(rows):
        assert after.through_minute // 15 > before.through_minute // 15 or after.is_high != before.is_high
    said = {(s.patient_id, s.position): s.risks[0] for s in ward.all_shown() if s.risks}
    for row in rows:
        forecast_ = said[row.patient_id, row.position]
        assert (row.probability, row.is_high, row.abstention) == (
            forecast_.probability,
            forecast_.is_high,
            forecast_.abstention,
        )


async def test_each_reaction_is_said_and_can_be_said_again(ward, promoted, small_model, simulation):
    _, first = promoted

    async def say_next():
        await ward.follow()
        await ward.pass_time(0.5, step_s=15, measured=("1", "2"))

    await ward.pass_time(4, measured=("1", "2"))
    react, connection = ward.committee.react, ward.connection

    await react(connection, Action.CLAMP, first, "alert_flood")
    await say_next()
    clamped = ward.shown()
    assert clamped.risks[0].probability is not None
    assert not clamped.risks[0].is_high
    assert "raises nobody's attention: too many alerts" in clamped.notices[0]

    await react(connection, Action.ABSTAIN, first, "interface_fault")
    await say_next()
    silent = ward.shown()
    assert (silent.risks[0].probability, silent.risks[0].abstention) == (None, "silenced")
    assert "The model was silenced at" in silent.notices[0]
    assert silent.notices[0].endswith("interface fault. NEWS2 is shown.")
    assert silent.scores

    await react(connection, Action.RESUME, first, "the cable was changed", by="https://login.example|somebody")
    await say_next()
    assert ward.shown().risks[0].probability is not None
    assert ward.shown().notices == []

    other = small_model.train(2).keep(ward.files)
    second = await ward.committee.promote(connection, other, 2)
    await say_next()
    assert ward.shown().risks[0].version == 2

    await react(connection, Action.RESTORE, first, "calibration_breach")
    await say_next()
    assert (ward.shown().risks[0].version, ward.shown().notices) == (1, [])
    assert second.serving_id < ward.shown().provenance.serving

    await react(connection, Action.WITHDRAW, first, "subgroup_breach")
    await say_next()
    gone = ward.shown()
    assert gone.risks == []
    assert "The model was withdrawn at" in gone.notices[0]
    assert (gone.provenance.model, gone.provenance.serving > 0) == ("", True)
    assert await ward.differing(simulation.differences) == []


async def test_without_a_record_there_is_news2_alone(ward, simulation):
    await ward.follow()
    ward.admit("1", ago_us=HOUR)
    await ward.settle()
    await ward.pass_time(2, measured=("1",))
    assert ward.shown().notices == [NO_MODEL]
    assert ward.shown().risks == []
    assert ward.shown().provenance.serving == 0
    assert await ward.differing(simulation.differences) == []


def test_the_forecaster_names_the_models_protocol(model_settings):
    made = forecast.open_forecaster(model_settings)
    assert made._provenance.protocols["mortality"].startswith("1 ")
