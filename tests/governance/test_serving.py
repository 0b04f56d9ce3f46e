"""The serving record: what each act does to a slot, what it can never do, and what is noticed when rows are gone."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from model_committee import (
    NOW,
    POLICY,
    SCOPE,
    WAIVER,
    Committee,
    Record,
    digest_of,
    evidence_of,
    microseconds,
)

from governance import high_water, serving
from governance.access import Role
from governance.high_water import HighWater
from governance.serving import Standing, judge, judge_scope, load_trust
from governance.statements import Action, Slot
from vocabulary.errors import BrokenInvariantError, ConfigurationError
from vocabulary.settings import Settings
from vocabulary.signing import SigningKey

C, S = Slot.CHAMPION, Slot.SILENT


@pytest.fixture
def committee():
    return Committee()


@pytest.fixture
def record(committee):
    return Record(committee)


def champion(record, **trust):
    return record.judge(**trust).slots[C]


def reasons(record, **trust):
    return [(one.serving_id, one.reason) for one in record.judge(**trust).refusals]


def test_two_people_of_distinct_roles_make_a_version_speak(record):
    row = record.promote()
    held = champion(record)
    assert (held.standing, held.row, held.since, held.cause, held.previous) == (Standing.SPEAKING, row, row, "", None)
    assert held.conditions == (WAIVER,)
    assert reasons(record) == []


def test_without_rows_there_is_no_scope_and_no_voice(committee):
    assert judge([], committee.trust(), POLICY, NOW) == {}


def test_every_scope_is_judged_by_its_own_rows(committee):
    one, other = Record(committee), Record(committee)
    one.promote()
    first = msgspec.structs.replace(one.rows[0], serving_id=7)
    other.add(Action.ABSTAIN, scope="sepsis", cause="x")
    judged = judge([*other.rows, first], committee.trust(), POLICY, NOW + timedelta(hours=1))
    assert set(judged) == {SCOPE, "sepsis"}
    assert judged[SCOPE].slots[C].standing is Standing.SPEAKING
    assert judged["sepsis"].slots[C].standing is Standing.EMPTY
    with pytest.raises(BrokenInvariantError):
        judge_scope(SCOPE, other.rows, committee.trust(), POLICY, NOW)


def test_an_abstention_lasts_until_a_person_ends_it(record):
    row = record.promote()
    silence = record.about(Action.ABSTAIN, row, cause="interface_fault")
    held = champion(record)
    assert (held.standing, held.row, held.since, held.cause) == (Standing.ABSTAINING, row, silence, "interface_fault")
    resumed = record.about(Action.RESUME, row, "clinic", by="https://login.test|lena")
    held = champion(record)
    assert (held.standing, held.row, held.since, held.cause) == (Standing.SPEAKING, row, resumed, "")


def test_a_clamp_lets_it_speak_and_ends_the_same_way(record):
    row = record.promote()
    record.about(Action.CLAMP, row, cause="alert_flood")
    assert champion(record).standing is Standing.CLAMPED
    record.about(Action.ABSTAIN, row)
    record.about(Action.CLAMP, row)
    assert champion(record).standing is Standing.ABSTAINING, "a clamp gives no voice to what is silent"
    record.about(Action.RESUME, row, "operator", by="operator|root@here")
    assert champion(record).standing is Standing.SPEAKING


@pytest.mark.parametrize(
    ("appender", "by", "reason"),
    [
        ("keeper", "https://login.test|lena", "writer_may_not"),
        ("dagster", "https://login.test|lena", "writer_may_not"),
        ("clinic", "clinic", "resumed_by_nobody"),
    ],
)
def test_no_machine_ends_a_silence(record, appender, by, reason):
    row = record.promote()
    record.about(Action.ABSTAIN, row)
    record.about(Action.RESUME, row, appender, by=by)
    assert champion(record).standing is Standing.ABSTAINING
    assert reasons(record) == [(3, reason)]


def test_a_rollback_restores_the_approval_before_and_bars_the_version(record):
    first, second = record.promote(1), record.promote(2)
    assert champion(record).previous == first
    restored = record.about(Action.RESTORE, first, cause="calibration_breach")
    held = champion(record)
    assert (held.standing, held.row, held.since) == (Standing.SPEAKING, first, restored)
    assert held.previous is None, "what was rolled back is nowhere to go"
    assert record.judge().is_barred(C, second.model_digest, second.evidence_digest)


def test_a_withdrawal_leaves_nothing_to_restore(record):
    first = record.promote()
    record.withdraw()
    assert champion(record).standing is Standing.EMPTY
    record.about(Action.RESTORE, first)
    assert champion(record).standing is Standing.EMPTY
    assert reasons(record) == [(3, "nothing_to_restore")]


def test_a_rolled_back_version_is_barred_until_there_is_new_evidence(record):
    record.promote(1)
    record.promote(2)
    record.about(Action.RESTORE, record.rows[0])
    record.promote(2, request_id="again")
    assert reasons(record) == [(4, "version_barred")]
    assert champion(record).row == record.rows[0], "what held before holds"
    record.promote(2, request_id="anew", evidence_digest=evidence_of(2, 2))
    assert champion(record).row == record.rows[-1]


def test_older_evidence_does_not_lift_the_bar(record):
    record.promote(2)
    record.promote(2, request_id="second", evidence_digest=evidence_of(2, 2))
    record.withdraw()
    record.promote(2, request_id="third")
    assert reasons(record) == [(4, "version_barred")]
    assert champion(record).standing is Standing.EMPTY


@pytest.mark.parametrize(
    ("target", "changes", "reason"),
    [
        (0, {"restores": 99}, "never_approved"),
        (1, {}, "restores_itself"),
        (0, {"version": 9}, "never_approved"),
        (0, {"model_digest": digest_of(9)}, "never_approved"),
    ],
)
def test_a_rollback_that_names_no_earlier_approval_still_takes_the_voice_away(record, target, changes, reason):
    record.promote(1)
    record.promote(2)
    record.about(Action.RESTORE, record.rows[target], **changes)
    assert reasons(record) == [(3, reason)]
    assert champion(record).standing is Standing.EMPTY


def test_a_rollback_never_goes_to_what_was_rolled_back(record):
    first, _, third = record.promote(1), record.promote(2), record.promote(3)
    record.about(Action.RESTORE, record.rows[1])
    assert champion(record).previous == first
    record.about(Action.RESTORE, third)
    assert reasons(record) == [(5, "version_barred")]
    assert champion(record).standing is Standing.EMPTY


def test_a_fault_of_the_interface_outlasts_a_rollback(record):
    first, second = record.promote(1), record.promote(2)
    record.about(Action.ABSTAIN, second, cause="interface_fault")
    record.about(Action.RESTORE, first)
    held = champion(record)
    assert (held.standing, held.row, held.cause) == (Standing.ABSTAINING, first, "interface_fault")


# -- the silent slot


def silent(record, version=1, **changes):
    at = record.now - timedelta(seconds=1)
    changes = {"request_id": f"silent-{version}"} | changes
    signed = record.committee.sign(
        "omar", Role.SAFETY_OFFICER, version, at=at, opened_at=at - timedelta(hours=1),
        expires_at=at + timedelta(days=1), slot=S, request_id=changes["request_id"], conditions=(),
    )  # fmt: skip
    return record.promote(version, slot=S, signed=(signed,), **changes)


def unwaived(record, version=1):
    at = record.now - timedelta(seconds=1)
    return record.committee.two(
        version, at=at, opened_at=at - timedelta(hours=1), expires_at=at + timedelta(days=5), conditions=()
    )


def test_one_person_lets_a_candidate_listen(record):
    row = silent(record)
    judged = record.judge()
    assert judged.slots[S].row == row
    assert judged.slots[C].standing is Standing.EMPTY
    assert judged.refusals == ()


def test_a_version_speaks_only_after_its_silent_period(record):
    silent(record)
    record.now += timedelta(days=13)
    record.promote(1, signed=unwaived(record))
    assert reasons(record) == [(2, "silent_period_missing")]
    record.now += timedelta(days=2)
    record.promote(1, signed=unwaived(record))
    judged = record.judge(mode="production")
    assert judged.slots[C].row == record.rows[-1]
    assert judged.slots[S].standing is Standing.EMPTY, "who speaks no longer listens silently"


def test_silence_of_another_version_does_not_count(record):
    silent(record, 2)
    record.now += timedelta(days=30)
    record.promote(1, signed=unwaived(record))
    assert reasons(record) == [(2, "silent_period_missing")]


def test_silence_is_counted_only_while_it_held_the_slot(record):
    silent(record, 1)
    record.now += timedelta(days=8)
    silent(record, 2)
    record.now += timedelta(days=20)
    silent(record, 1, request_id="silent-1-again")
    record.now += timedelta(days=5)
    assert record.judge().listened_us[digest_of(1)] == pytest.approx(13 * 86_400e6, rel=1e-3)
    record.promote(1, signed=unwaived(record))
    assert reasons(record) == [(4, "silent_period_missing")]


def test_a_silence_withdrawn_bars_only_the_silence(record):
    silent(record)
    record.withdraw(slot=S)
    record.promote(1)
    assert champion(record).standing is Standing.SPEAKING


def test_production_knows_no_waiver_of_the_silent_period(record):
    record.promote()
    assert reasons(record, mode="production") == [(1, "waiver_not_permitted")]
    assert champion(record, mode="production").standing is Standing.EMPTY


# -- what was seen


def test_an_undone_rollback_is_noticed(record):
    record.promote(1)
    record.promote(2)
    record.about(Action.RESTORE, record.rows[0])
    seen = record.seen()
    del record.rows[-1]
    judged = record.judge(high_water=seen)
    assert [one.reason for one in judged.refusals] == ["rows_missing"]
    assert judged.broken == "rows_missing"
    held = judged.slots[C]
    assert (held.standing, held.cause, held.since, held.serving_id) == (Standing.ABSTAINING, "rows_missing", None, 0)
    assert champion(record).standing is Standing.SPEAKING, "without the note nobody could tell"


def test_a_record_deleted_whole_is_missed_too(committee):
    record = Record(committee)
    record.promote()
    judged = judge([], committee.trust(high_water=record.seen()), POLICY, NOW)
    assert judged[SCOPE].broken == "rows_missing"
    assert judged[SCOPE].slots[C].standing is Standing.EMPTY


def test_only_signatures_of_people_mend_a_broken_record(record):
    record.promote(1)
    record.promote(2)
    record.withdraw()
    seen = record.seen()
    del record.rows[-1]
    second = record.rows[-1]
    record.about(Action.RESUME, second, "clinic", by="https://login.test|lena", serving_id=4)
    assert champion(record, high_water=seen).standing is Standing.ABSTAINING
    record.promote(3, serving_id=5)
    held = champion(record, high_water=seen)
    assert (held.standing, held.row) == (Standing.SPEAKING, record.rows[-1])
    assert record.judge(high_water=seen).broken == ""


def _mended(record):
    """Return what a house remembers after an altered row, and a promotion that mended the record and was noted."""
    record.promote(1)
    record.promote(2)
    record.about(Action.RESTORE, record.rows[0])
    seen = record.seen()
    record.rows[2] = msgspec.structs.replace(record.rows[2], cause="something else")
    assert champion(record, high_water=seen).cause == "row_altered"
    record.promote(3)
    judged = record.judge(high_water=seen)
    assert judged.slots[C].row == record.rows[-1]
    return {SCOPE: judged.high_water}


def test_what_people_mended_stays_mended_once_it_was_noted(record):
    noted = _mended(record)
    for _ in range(3):
        judged = record.judge(high_water=noted)
        assert (judged.slots[C].standing, judged.slots[C].row) == (Standing.SPEAKING, record.rows[3])
        assert judged.broken == ""
        assert judged.high_water == noted[SCOPE]
    record.withdraw()
    record.promote(4)
    noted = {SCOPE: record.judge(high_water=noted).high_water}
    assert champion(record, high_water=noted).row == record.rows[-1]


@pytest.mark.parametrize("place", [0, 1, 2])
def test_what_is_altered_after_a_mend_breaks_the_record_again(record, place):
    noted = _mended(record)
    record.rows[place] = msgspec.structs.replace(record.rows[place], cause="altered later")
    assert champion(record, high_water=noted).standing is not Standing.SPEAKING


def test_a_mend_gives_no_voice_back_that_was_taken_after_it(record):
    noted = _mended(record)
    record.withdraw()
    noted = {SCOPE: record.judge(high_water=noted).high_water}
    taken = record.rows.pop()
    assert champion(record, high_water=noted).standing is Standing.ABSTAINING
    mend = record.rows.pop()
    record.rows.append(msgspec.structs.replace(mend, serving_id=taken.serving_id))
    assert champion(record, high_water=noted).standing is not Standing.SPEAKING
    record.rows[-1] = msgspec.structs.replace(mend, serving_id=taken.serving_id + 1)
    assert champion(record, high_water=noted).standing is not Standing.SPEAKING


def test_a_copy_of_an_old_row_mends_nothing(record):
    record.promote(1)
    record.withdraw()
    seen = record.seen()
    copied = msgspec.structs.replace(record.rows[0], serving_id=9)
    record.rows = [copied]
    judged = record.judge(high_water=seen)
    assert {one.reason for one in judged.refusals} == {"rows_missing", "row_misdated"}
    assert judged.slots[C].standing is Standing.EMPTY


def test_a_used_approval_stays_used_when_its_row_is_gone(record):
    record.promote(1)
    seen = record.seen()
    record.rows.clear()
    record.promote(1, serving_id=2, at_us=microseconds(record.now + timedelta(minutes=2)))
    assert "approval_reused" in [one.reason for one in record.judge(high_water=seen).refusals]


def test_judging_twice_with_what_was_seen_says_the_same(record):
    record.promote(1)
    record.promote(2)
    record.about(Action.RESTORE, record.rows[0])
    record.promote(2, request_id="anew", evidence_digest=evidence_of(2, 2))
    record.withdraw()
    silent(record, 3)
    first = record.judge()
    again = record.judge(high_water=record.seen())
    assert msgspec.structs.replace(again, high_water=first.high_water) == first
    assert again.high_water == first.high_water


ACTS = st.lists(
    st.sampled_from(
        ["promote 1", "promote 2", "promote 3", "new 1", "abstain", "clamp", "resume", "restore", "withdraw"]
    ),
    max_size=9,
)


@settings(max_examples=60, deadline=None)
@given(acts=ACTS, cut=st.integers(0, 9))
def test_nothing_a_machine_does_ever_gives_an_unapproved_or_barred_version_a_voice(acts, cut):
    """An independent reading: who speaks was promoted by people, and not rolled back since."""
    record = Record(Committee())
    approved: list[tuple[int, str]] = []
    out: set[tuple[int, str]] = set()
    for number, act in enumerate(acts):
        word, _, which = act.partition(" ")
        held, before = record.judge().slots[C], len(record.rows)
        if word in {"promote", "new"}:
            version = int(which)
            evidence = evidence_of(version, 1 if word == "promote" else number + 2)
            record.promote(version, request_id=f"r{number}", evidence_digest=evidence)
            if (version, evidence) not in out:
                approved.append((version, evidence))
        elif word == "withdraw":
            record.withdraw()
        elif held.row is not None:
            target = held.previous if word == "restore" else held.row
            if target is not None:
                person = {"by": "https://login.test|lena"} if word == "resume" else {}
                record.about(Action(word), target, "clinic" if person else "keeper", **person)
        is_rollback = len(record.rows) > before and record.rows[-1].action in {Action.RESTORE, Action.WITHDRAW}
        if is_rollback and held.row is not None:
            out |= {one for one in approved if digest_of(one[0]) == held.row.model_digest}
        now = record.judge().slots[C]
        if now.standing in {Standing.SPEAKING, Standing.CLAMPED}:
            assert now.row is not None
            key = (now.row.version, now.row.evidence_digest)
            assert key in approved
            assert key not in out
    # Whatever tail is cut off a record that was seen, nobody speaks.
    seen = record.seen()
    kept = record.rows[:cut]
    if len(kept) < len(record.rows):
        judged = judge_scope(SCOPE, kept, record.committee.trust(high_water=seen), POLICY, record.now)
        assert judged.slots[C].standing in {Standing.ABSTAINING, Standing.EMPTY}


# -- what is outside of the database


def test_trust_is_read_from_the_house(tmp_path, committee):
    found = load_trust(committee.install(tmp_path), NOW)
    assert (found.site, found.mode, found.roster, found.refusal) == ("st-anna", "demo", committee.roster, "")
    assert found.writers is not None
    assert found.writers.registered == committee.writers.registered


def forge(folder: Path, committee):
    signed = folder / "roster.signed"
    signed.write_bytes(signed.read_bytes().replace(b'"nurse"', b'"physician"'))


@pytest.mark.parametrize(
    ("harm", "now", "refusal"),
    [
        (forge, NOW, "roster_forged"),
        (lambda folder, _: (folder / "roster.signed").unlink(), NOW, "roster_missing"),
        (lambda *_: None, NOW + timedelta(days=400), "roster_expired"),
        (lambda folder, _: (folder / "anchors" / "serving.json").write_text("{"), NOW, "anchors_damaged"),
        (lambda folder, _: (folder / "anchors" / "writers.json").write_text("{"), NOW, "anchors_damaged"),
        (lambda folder, _: (folder / "anchors" / "writers.json").unlink(), NOW, "writers_missing"),
    ],
)
def test_without_roster_keys_or_note_nobody_speaks(tmp_path, committee, record, harm, now, refusal):
    house = committee.install(tmp_path)
    record.promote()
    assert judge(record.rows, load_trust(house, NOW), POLICY, record.now)[SCOPE].slots[C].standing is Standing.SPEAKING
    harm(tmp_path, committee)
    judged = judge(record.rows, load_trust(house, now), POLICY, now)[SCOPE]
    assert judged.slots[C].standing is Standing.EMPTY
    assert judged.broken in {refusal, "unknown_writer"}
    assert judged.refusals


def test_a_house_without_a_root_has_no_roster(tmp_path):
    trust = load_trust(Settings(data_dir=tmp_path), NOW)
    assert (trust.refusal, trust.roster) == ("roster_missing", None)


def test_our_name_towards_browsers_is_our_public_address(tmp_path, committee):
    house = committee.install(tmp_path)
    assert load_trust(house, NOW).party is None
    party = load_trust(house, NOW, "https://vigil.example.org:8443/").party
    assert party is not None
    assert (party.host, party.origin) == ("vigil.example.org", "https://vigil.example.org:8443")


def test_the_note_moves_forward_only(tmp_path, record):
    house = Settings(data_dir=tmp_path)
    record.promote(1)
    early = {SCOPE: record.judge()}
    record.withdraw()
    late = {SCOPE: record.judge()}
    assert serving.remember(house, early)
    assert serving.remember(house, late)
    assert not serving.remember(house, early)
    assert high_water.read(house.anchors_dir) == {SCOPE: late[SCOPE].high_water}


def test_a_damaged_note_is_never_taken_for_none(tmp_path):
    (tmp_path / "serving.json").write_bytes(b"\xff")
    with pytest.raises(ConfigurationError, match="no model speaks"):
        high_water.read(tmp_path)
    with pytest.raises(ConfigurationError):
        high_water.remember(tmp_path, {SCOPE: HighWater(serving_id=1)})


def test_a_promotion_from_the_future_does_not_hold(committee):
    record = Record(committee)
    record.promote()
    late = judge_scope(SCOPE, record.rows, committee.trust(), POLICY, datetime(2026, 11, 1, tzinfo=UTC))
    assert [one.reason for one in late.refusals] == ["row_misdated"]


def test_an_unregistered_house_key_is_nobodys(committee, record):
    committee.machines["clinic"] = SigningKey(b"x" * 32)
    record.promote()
    judged = record.judge()
    assert judged.broken == "unknown_writer"
    assert judged.slots[C].standing is Standing.EMPTY
