"""Ways around the committee, each refused when the record is judged for loading: by rows, by SQL, by hand."""

from __future__ import annotations

import base64
from datetime import timedelta

import msgspec
import psycopg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from model_committee import (
    AUTHOR,
    NOW,
    SCOPE,
    WAIVER,
    Committee,
    Record,
    digest_of,
    evidence_of,
    microseconds,
    person_of,
)

from governance import roster as rosters
from governance.access import Role
from governance.roster import sign_statement
from governance.serving import Standing, load_trust, read_rows
from governance.serving_record import append_row, record_of, row_of
from governance.statements import Action, ServingRow, Slot, row_digest, statement_bytes
from stores import serving as stored
from stores.database import connect, transaction
from stores.serving import ServingRecord

C = Slot.CHAMPION
COMMITTEE = Committee()
LEAD, SAFETY, PHYSICIAN = Role.CLINICAL_LEAD, Role.SAFETY_OFFICER, Role.PHYSICIAN


@pytest.fixture
def committee():
    return Committee()


@pytest.fixture
def record(committee):
    """A record in which version 1 speaks."""
    made = Record(committee)
    made.promote(1)
    return made


def refused(record, *, keeps=True, **trust):
    """Return the word by which the newest row is refused; what was approved before goes on speaking."""
    judged = record.judge(**trust)
    held = judged.slots[C]
    if keeps:
        assert (held.standing, held.row) == (Standing.SPEAKING, record.rows[0])
        assert judged.broken == ""
    else:
        assert held.standing in {Standing.ABSTAINING, Standing.EMPTY}
    found = judged.refusal_of(record.rows[-1].serving_id)
    assert found is not None
    assert found.text.startswith(f"Serving row {record.rows[-1].serving_id} of {SCOPE} is refused: ")
    return found.reason


def signed_for_two(record, *who, **changes):
    """Signatures for version 2 by (name, role, changes of the statement)."""
    at = record.now - timedelta(seconds=1)
    return tuple(
        record.committee.sign(
            name, role, 2, at=at, **({"opened_at": at - timedelta(hours=1)} | changes | (own[0] if own else {}))
        )
        for name, role, *own in who
    )


TWO = (("lena", LEAD), ("omar", SAFETY))


def promoted(record, *who, **changes):
    record.promote(2, signed=signed_for_two(record, *(who or TWO), **changes))
    return refused(record)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"version": 3}, "signature_of_another_version"),
        ({"model_digest": digest_of(3)}, "signature_of_another_version"),
        ({"evidence_digest": evidence_of(3)}, "signature_of_another_evidence"),
        ({"request_id": "request-1"}, "signature_of_another_request"),
        ({"site": "another-hospital"}, "signature_of_another_site"),
        ({"scope": "sepsis"}, "signature_of_another_scope"),
        ({"slot": Slot.SILENT}, "signature_of_another_slot"),
    ],
)
def test_a_signature_of_something_else_is_refused(record, changes, reason):
    assert promoted(record, **changes) == reason


def test_the_signatures_of_another_version_do_not_make_this_one_speak(record):
    record.promote(2, signed=record.rows[0].signed)
    assert refused(record) in {"signature_of_another_version", "signature_of_another_request"}


def test_the_author_does_not_approve_their_own_model(record):
    assert promoted(record, ("arne", PHYSICIAN), ("omar", SAFETY)) == "self_approval"


def test_an_author_who_is_named_otherwise_in_one_statement_is_found(record):
    other = {"author": person_of("nobody")}
    assert promoted(record, ("arne", PHYSICIAN, other), ("omar", SAFETY)) == "statements_differ"


def test_two_people_in_one_role_are_one_voice(record):
    assert promoted(record, ("lena", LEAD), ("petra", LEAD)) == "role_twice"


def test_one_person_in_two_roles_is_one_person(record):
    assert promoted(record, ("quinn", LEAD), ("quinn", SAFETY)) == "person_twice"


def test_one_signature_does_not_suffice(record):
    assert promoted(record, ("lena", LEAD)) == "signatures_missing"
    record.rows.pop()
    record.promote(2, signed=())
    assert refused(record) == "signatures_missing"


def test_without_a_clinician_nothing_speaks(record):
    roster = record.committee.roster
    signers = [
        msgspec.structs.replace(one, roles=(*one.roles, SAFETY)) if one.person == person_of("nora") else one
        for one in roster.signers
    ]
    assert len(signers) == len(roster.signers)
    assert promoted(record, ("omar", SAFETY)) == "signatures_missing"


@pytest.mark.parametrize("role", [Role.NURSE, Role.MODEL_AUTHOR, Role.OPERATOR])
def test_a_role_that_does_not_decide_does_not_count(record, role):
    who = {Role.NURSE: "nora", Role.MODEL_AUTHOR: "arne", Role.OPERATOR: "nora"}[role]
    own = {"author": person_of("nobody")}
    assert promoted(record, (who, role, own), ("omar", SAFETY, own)) in {"role_may_not_sign", "role_not_held"}


def test_a_role_the_signer_does_not_hold_is_refused(record):
    assert promoted(record, ("nora", LEAD), ("omar", SAFETY)) == "role_not_held"


def test_nobody_signs_in_anothers_name(record):
    at = record.now - timedelta(seconds=1)
    statement = record.committee.statement("lena", LEAD, 2, opened_at=at - timedelta(hours=1))
    forged = msgspec.structs.replace(
        signed_for_two(record, ("lena", LEAD))[0],
        statement=statement,
        signature=sign_statement(record.committee.keys["petra"], statement_bytes(statement), at),
    )
    record.promote(2, signed=(forged, *signed_for_two(record, ("omar", SAFETY))))
    assert refused(record) == "signed_by_another"


def test_an_expired_approval_is_refused(record):
    record.now += timedelta(days=11)
    assert promoted(record, opened_at=NOW, expires_at=NOW + timedelta(days=10)) == "approval_expired"


def test_signatures_in_time_do_not_outlive_the_approval(record):
    early = record.committee.two(2, at=record.now - timedelta(seconds=1), opened_at=NOW - timedelta(hours=1))
    record.now += timedelta(days=11)
    record.promote(2, signed=early)
    assert refused(record) == "approval_expired"


def test_an_approval_cannot_be_made_to_last_for_ever(record):
    assert promoted(record, expires_at=NOW + timedelta(days=3000)) == "approval_expired"


def test_a_promotion_dated_back_into_its_approval_is_refused(record):
    early = record.committee.two(2, at=NOW - timedelta(hours=1))
    record.now += timedelta(days=11)
    kept = record.promote(3)
    record.promote(2, signed=early, at_us=microseconds(NOW))
    judged = record.judge()
    assert judged.slots[C].row == kept
    assert [one.reason for one in judged.refusals] == ["row_misdated"]


def test_an_approval_is_used_once(record):
    record.promote(2)
    record.about(Action.RESTORE, record.rows[0])
    record.promote(2, signed=record.rows[1].signed)
    assert refused(record) == "approval_reused"


def test_an_approval_is_not_used_again_after_a_rollback_under_another_name(record):
    record.promote(2)
    record.about(Action.RESTORE, record.rows[0])
    record.promote(2, request_id="another")
    assert refused(record) == "version_barred"


def test_the_keeper_promotes_nobody(record):
    record.promote(2, "keeper")
    assert refused(record) == "writer_may_not"


def test_the_engine_writes_no_serving_rows(record):
    record.about(Action.ABSTAIN, record.rows[0], "engine")
    assert refused(record) == "writer_may_not"


def test_a_forged_roster_makes_nobody_speak(tmp_path, record):
    committee = record.committee
    house = committee.install(tmp_path)
    mallory = rosters.Signer(
        person=person_of("mallory"), name="M", roles=(LEAD,), keys=committee.roster.signers[0].keys
    )
    roster = msgspec.structs.replace(committee.roster, signers=(mallory, *committee.roster.signers[1:]), serial=4)
    (tmp_path / "roster.signed").write_bytes(
        rosters.sign(rosters.encode(roster), committee.machines["operator"])  # any key but the root's
    )
    trust = load_trust(house, NOW)
    assert trust.refusal == "roster_forged"
    assert refused(record, keeps=False, roster=trust.roster, refusal=trust.refusal, text=trust.text) == "roster_forged"


def test_a_signer_whose_key_was_revoked_before_does_not_count(record):
    committee = record.committee
    signers = []
    for signer in committee.roster.signers:
        keys = signer.keys
        if signer.person == person_of("omar"):
            keys = tuple(msgspec.structs.replace(key, revoked_at=record.now - timedelta(seconds=30)) for key in keys)
        signers.append(msgspec.structs.replace(signer, keys=keys))
    record.promote(2)
    roster = msgspec.structs.replace(committee.roster, signers=tuple(signers))
    assert refused(record, roster=roster) == "revoked", "what he signed before his key was revoked still holds"


def test_a_waiver_that_nobody_signed_does_not_count(record):
    assert promoted(record, conditions=()) == "silent_period_missing"
    record.rows.pop()
    assert promoted(record, conditions=(WAIVER + " ",)) == "silent_period_missing"


def test_signers_of_different_conditions_approve_nothing(record):
    assert promoted(record, ("lena", LEAD), ("omar", SAFETY, {"conditions": (WAIVER, "more")})) == "statements_differ"


# -- rows that somebody else wrote: nobody can know what was decided last


FIELDS = {
    "at_us": st.integers(0, 2**52),
    "scope": st.just(SCOPE),
    "slot": st.sampled_from(Slot),
    "action": st.sampled_from(Action),
    "version": st.integers(0, 9),
    "model_digest": st.sampled_from([digest_of(1), digest_of(2), digest_of(3), ""]),
    "evidence_digest": st.sampled_from([evidence_of(1), evidence_of(2), evidence_of(2, 2), ""]),
    "request_id": st.sampled_from(["request-1", "request-2", "x", ""]),
    "restores": st.integers(0, 9),
    "cause": st.text(max_size=4),
    "by": st.sampled_from(["clinic", "keeper", "https://login.test|lena"]),
    "previous_digest": st.sampled_from(["", digest_of(5)]),
    "key_id": st.sampled_from([key.key_id for key in Committee().machines.values()] + ["", "0" * 16]),
    "machine_signature": st.one_of(st.just(""), st.just("!"), st.binary(min_size=64, max_size=64).map(
        lambda some: base64.b64encode(some).decode())),
}  # fmt: skip


@settings(max_examples=120, deadline=None)
@given(data=st.data(), place=st.integers(0, 3), field=st.sampled_from(sorted(FIELDS)))
def test_a_row_with_any_field_altered_silences_the_record(data, place, field):
    record = Record(COMMITTEE)
    record.promote(1)
    record.promote(2)
    record.about(Action.CLAMP, record.rows[1])
    record.about(Action.RESTORE, record.rows[0])
    row = record.rows[place]
    altered = msgspec.structs.replace(row, **{field: data.draw(FIELDS[field])})
    if altered == row:
        return
    record.rows[place] = altered
    judged = record.judge()
    found = judged.refusal_of(row.serving_id)
    assert found is not None
    assert found.reason in {"row_altered", "unknown_writer"}
    assert judged.broken
    assert judged.slots[C].standing in {Standing.ABSTAINING, Standing.EMPTY}


STATEMENT = {
    "format": st.just("vigil.approval.2"),
    "site": st.just("elsewhere"),
    "request_id": st.just("other"),
    "scope": st.just("sepsis"),
    "slot": st.just(Slot.SILENT),
    "version": st.integers(3, 9),
    "model_digest": st.just(digest_of(3)),
    "evidence_digest": st.just(evidence_of(3)),
    "conditions": st.lists(st.text(max_size=5), max_size=2).map(tuple).filter(lambda found: found != (WAIVER,)),
    "author": st.sampled_from([person_of("nora"), ""]),
    "opened_at": st.integers(1, 99).map(lambda days: NOW - timedelta(days=days)),
    "expires_at": st.integers(11, 99).map(lambda days: NOW + timedelta(days=days)),
    "person": st.sampled_from([person_of("petra"), AUTHOR]),
    "role": st.sampled_from([PHYSICIAN, Role.NURSE, Role.OPERATOR]),
    "meaning": st.text(max_size=9),
}
SIGNATURE = {
    "key_id": st.sampled_from([key.key_id for key in Committee().machines.values()] + ["", "0" * 16]),
    "signed_at": st.integers(-30, 30).filter(bool).map(lambda minutes: NOW + timedelta(minutes=minutes)),
    "ed25519": st.binary(min_size=64, max_size=64).map(lambda some: base64.b64encode(some).decode()),
}


@settings(max_examples=150, deadline=None)
@given(data=st.data(), which=st.integers(0, 1), part=st.sampled_from(
    [*(("statement", field) for field in STATEMENT), *(("signature", field) for field in SIGNATURE)]))  # fmt: skip
def test_a_promotion_with_anything_altered_in_what_was_signed_is_refused(data, which, part):
    """The process that appends is an accomplice: it signs the altered row with its own key."""
    record = Record(COMMITTEE)
    record.promote(1)
    good = list(signed_for_two(record, *TWO))
    kind, field = part
    old = getattr(good[which], kind)
    new = msgspec.structs.replace(old, **{field: data.draw((STATEMENT if kind == "statement" else SIGNATURE)[field])})
    if new == old:
        return
    good[which] = msgspec.structs.replace(good[which], **{kind: new})
    record.promote(2, signed=tuple(good))
    refused(record)


@settings(max_examples=60, deadline=None)
@given(data=st.data(), field=st.sampled_from(
    ["version", "model_digest", "evidence_digest", "request_id", "slot", "scope"]))  # fmt: skip
def test_an_accomplice_cannot_put_signatures_under_another_row(data, field):
    record = Record(COMMITTEE)
    record.promote(1)
    value = data.draw(FIELDS[field])
    fields = {"version": 2, "model_digest": digest_of(2), "evidence_digest": evidence_of(2), "request_id": "request-2"}
    if value == {**fields, "slot": C, "scope": SCOPE}[field]:
        return
    record.promote(2, signed=signed_for_two(record, *TWO), **{field: value})
    refused(record)


def test_rows_in_another_order_break_the_record(record):
    record.promote(2)
    first, second = record.rows
    record.rows = [
        msgspec.structs.replace(second, serving_id=1),
        msgspec.structs.replace(first, serving_id=2),
    ]
    judged = record.judge()
    assert judged.broken == "chain_broken"
    assert judged.slots[C].standing in {Standing.ABSTAINING, Standing.EMPTY}


def test_a_row_taken_from_the_middle_breaks_the_record(record):
    record.promote(2)
    record.about(Action.RESTORE, record.rows[0])
    del record.rows[1]
    assert refused(record, keeps=False) == "chain_broken"


# -- the same by a superuser's hand, in the database


async def store(url, rows):
    connection = await connect(url, application_name="test")
    async with transaction(connection):
        await stored.lock(connection, SCOPE)
        kept: list[ServingRow] = []
        for row in rows:
            kept.append(await append_row(connection, row, kept))
    await connection.close()
    return kept


async def judged_from(url, record, **trust):
    connection = await connect(url, application_name="test")
    async with transaction(connection):
        rows = await read_rows(connection, SCOPE)
    await connection.close()
    record.rows = rows
    return record.judge(**trust)


def by_superuser(url, statements):
    """Write past the triggers, as only a superuser can."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("set session_replication_role = replica")
        connection.execute(statements)


async def test_rows_come_back_from_the_database_as_they_were_signed(house, record):
    record.about(Action.ABSTAIN, record.rows[0], cause="interface_fault ü \u2028")
    kept = await store(house.url, record.rows)
    judged = await judged_from(house.url, record)
    assert record.rows == kept
    assert judged.refusals == ()
    assert judged.slots[C].standing is Standing.ABSTAINING


COLUMNS = 'at_us, scope, slot, action, version, model_digest, evidence_digest, request_id, signed, restores, "by"'
COPY = (
    f"insert into serving ({COLUMNS}, previous_digest, key_id, machine_signature) select {{}} from serving where {{}}"
)
SQL = {
    "a silence becomes a resumption": ["update serving set action = 'resume' where action = 'abstain'", "row_altered"],
    "its cause goes": ["update serving set cause = '' where action = 'abstain'", "row_altered"],
    "another model": ["update serving set model_digest = 'x' where action = 'promote'", "row_altered"],
    "no signatures": ["update serving set signed = '[]' where action = 'promote'", "row_altered"],
    "nonsense": ["update serving set signed = 'nonsense' where action = 'promote'", "row_altered"],
    "an unknown act": [
        (
            "alter table serving drop constraint serving_action_check; "
            "update serving set action = 'speak' where action = 'abstain'"
        ),
        "row_altered",
    ],
    "another order": [
        (
            "alter table serving alter serving_id drop identity; "
            "update serving set serving_id = -serving_id where action = 'abstain'"
        ),
        "chain_broken",
    ],
    "a row twice": [
        (
            "alter table serving alter serving_id drop identity; alter table serving drop constraint serving_pkey; "
            "alter table serving drop constraint serving_scope_previous_digest_key; "
            "insert into serving select * from serving where action = 'promote'"
        ),
        "chain_broken",
    ],
    "the silence deleted": ["delete from serving where action = 'abstain'", "rows_missing"],
    "all deleted": ["delete from serving", "rows_missing"],
    "all gone": ["truncate serving", "rows_missing"],
    "a resumption invented": [
        COPY.format(
            "at_us + 1, scope, slot, 'resume', version, model_digest, evidence_digest, request_id, '[]', restores, "
            "'https://login.test|lena', 'x', key_id, machine_signature",
            "action = 'abstain'",
        ),
        "row_altered",
    ],
    "a promotion copied": [
        COPY.format(f"{COLUMNS}, 'y', key_id, machine_signature", "action = 'promote'"),
        "row_altered",
    ],
    "a promotion invented": [
        (
            f"insert into serving ({COLUMNS}, previous_digest, key_id, machine_signature) values "
            "(1, 'mortality', 'champion', 'promote', 9, 'm', 'e', 'r', '[]', 0, 'root', 'z', '', '')"
        ),
        "unknown_writer",
    ],
}


@pytest.mark.parametrize(("statements", "word"), list(SQL.values()), ids=list(SQL))
async def test_a_superuser_gives_no_voice(house, record, statements, word):
    record.about(Action.ABSTAIN, record.rows[0], cause="interface_fault")
    await store(house.url, record.rows)
    seen = {SCOPE: (await judged_from(house.url, record)).high_water}
    by_superuser(house.url, statements)
    judged = await judged_from(house.url, record, high_water=seen)
    assert word in {one.reason for one in judged.refusals}
    assert judged.broken
    assert judged.slots[C].standing in {Standing.ABSTAINING, Standing.EMPTY}


async def test_a_rollback_deleted_before_anybody_saw_it_leaves_what_was_seen(house, record):
    """What nobody outside of the database ever knew cannot be missed; whoever appends notes it at once."""
    record.promote(2)
    kept = await store(house.url, record.rows)
    seen = {SCOPE: (await judged_from(house.url, record)).high_water}
    assert seen[SCOPE].digest == row_digest(kept[-1])


async def test_even_the_owner_cannot_change_or_delete_rows(house, record):
    await store(house.url, record.rows)
    with psycopg.connect(house.url, autocommit=True) as connection:
        for statement in ("update serving set action = 'withdraw'", "delete from serving", "truncate serving"):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute(statement)


def test_a_stored_row_is_the_row(record):
    row = record.rows[0]
    assert row_of(record_of(row)) == row


@given(
    record_=st.builds(
        ServingRecord, at_us=st.integers(), scope=st.text(), slot=st.text(), action=st.text(), version=st.integers(),
        model_digest=st.text(), evidence_digest=st.text(), request_id=st.text(), signed=st.text(),
        restores=st.integers(), cause=st.text(),
        by=st.text(), previous_digest=st.text(), key_id=st.text(), machine_signature=st.text(),
    )
)  # fmt: skip
def test_no_stored_text_crashes_the_reader(record_):
    row = row_of(record_)
    assert row.machine_signature in {"", record_.machine_signature}
