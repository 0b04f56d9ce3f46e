"""Following the serving record: what is loaded when, what is refused, what happens when something is broken."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from itertools import pairwise

import msgspec
import pytest

from governance import trust
from governance.audit import Auditor
from governance.serving import Standing
from governance.statements import Action, Slot
from stores import risk_scores
from stores.database import connect, transaction
from twin import replay, serving
from twin.serving import Memory
from twin.voice import NO_MODEL, NOBODY, Voice, parse_token, voice_of
from vocabulary.errors import BrokenInvariantError, UnavailableError

SECOND = 1_000_000
MINUTE = 60 * SECOND


async def put_in(ward, small_model, seed=1, version=1, slot=Slot.CHAMPION):
    """Train, keep, and promote; return digest and row."""
    digest = small_model.train(seed).keep(ward.files)
    return digest, await ward.committee.promote(ward.connection, digest, version, slot)


async def measured(ward):
    """Two patients with enough charted for the model to speak."""
    for number in ("1", "2"):
        ward.admit(number, ago_us=30 * MINUTE)
    await ward.settle()
    await ward.pass_time(3, measured=("1", "2"))


def risk(ward, patient_id=1):
    return ward.shown(patient_id).risks[0]


def path_of(ward, digest):
    return ward.files.folder / digest[:2] / digest


async def events(ward):
    async with transaction(ward.connection) as connection:
        found = await connection.execute(
            "select action, outcome, detail from audit_event where writer = 'engine-00' order by seq"
        )
        return [(row[0], row[1], msgspec.json.decode(row[2])) for row in await found.fetchall()]


@pytest.fixture
async def audited(committee_of, new_database):
    """A house whose follower records what it refuses."""
    url = new_database()
    made = await committee_of(url)
    auditor = Auditor(lambda: connect(url, application_name="test audit"), "engine-00", None, None, made.clock)
    made.follower._auditor = auditor
    await made.run.open()
    yield made
    await auditor.close()
    await made.close()


async def test_promotion_and_rollback_while_running_are_seen_within_a_second_and_no_snapshot_is_missed(
    ward, small_model, simulation, live_plane
):
    digest, first = await put_in(ward, small_model)
    other = small_model.train(2).keep(ward.files)
    stop = asyncio.Event()
    following = asyncio.create_task(ward.follower.run(stop))
    assert await ward.follower.first_look(10)
    await measured(ward)
    loop, delays = asyncio.get_running_loop(), []

    async def until(version):
        started = loop.time()
        await live_plane.until(lambda: ward.follower.voices.champion.version == version, f"version {version} serves")
        await ward.pass_time(1 / 60, step_s=1)
        delays.append(loop.time() - started)
        assert {risk(ward, n).version for n in (1, 2)} == {version}, "both, at the very next tick"

    await until(1)
    second = await ward.committee.promote(ward.connection, other, 2)
    await until(2)
    await ward.committee.react(ward.connection, Action.RESTORE, first, "calibration_breach")
    await until(1)
    assert second.model_digest != digest
    assert max(delays) < 1.0, delays
    # A heartbeat at least every ten seconds of the log's clock, throughout.
    times = [snapshot.as_of_us for snapshot in ward.all_shown() if snapshot.patient_id == 1]
    assert max(after - before for before, after in pairwise(times)) <= 30 * SECOND
    assert await ward.differing(simulation.differences) == []
    stop.set()
    await asyncio.wait_for(following, 5)


async def test_a_model_is_loaded_before_it_is_needed_and_kept_for_a_rollback(ward, small_model):
    first_digest, first = await put_in(ward, small_model)
    await ward.follow()
    model = ward.follower.voices.champion.model
    second_digest, _ = await put_in(ward, small_model, 2, 2)
    await ward.follow()
    path_of(ward, first_digest).unlink()
    await ward.committee.react(ward.connection, Action.RESTORE, first, "calibration_breach")
    await ward.follow()
    assert ward.follower.voices.champion.model is model, "from memory: its file is gone"
    assert set(ward.follower._warm) == {first_digest, second_digest}


@pytest.mark.parametrize("harm", ["missing", "damaged", "member_damaged", "nonsense"])
async def test_a_model_that_cannot_be_loaded_is_silent_and_the_snapshots_go_on(audited, small_model, harm, simulation):
    ward = audited
    made = small_model.train(1)
    digest = made.keep(ward.files)
    if harm == "nonsense":
        digest = ward.files.put(b"no = 'manifest'")
    elif harm == "missing":
        path_of(ward, digest).unlink()
    else:
        name = digest if harm == "damaged" else small_model.hashlib.sha256(made.members[0]).hexdigest()
        path_of(ward, name).write_bytes(b"damaged")
    await ward.committee.promote(ward.connection, digest, 1)
    await ward.follow()
    await ward.follow()
    await measured(ward)
    said = risk(ward)
    assert (said.probability, said.abstention, said.version) == (None, "model_failed", 1)
    assert ward.shown().notices == ["The approved model failed and says nothing: NEWS2 is shown."]
    assert ward.shown().scores
    assert [(action, outcome) for action, outcome, _ in await events(ward)] == [("load_model", "failed")]
    assert await ward.differing(simulation.differences) == []
    if harm == "nonsense":
        return
    for name in (digest, *(small_model.hashlib.sha256(member).hexdigest() for member in made.members)):
        path_of(ward, name).unlink(missing_ok=True)
    made.keep(ward.files)
    ward.follower._faults[digest] = 0.0  # five seconds later
    await ward.follow()
    await ward.pass_time(0.5)
    assert risk(ward).probability is not None
    assert await ward.differing(simulation.differences) == []


async def test_a_library_that_fails_while_it_is_asked_costs_the_estimate_and_nothing_else(
    audited, small_model, simulation, monkeypatch
):
    ward = audited
    _, row = await put_in(ward, small_model)
    await ward.follow()
    await measured(ward)
    assert risk(ward).probability is not None
    model = ward.follower.voices.champion.model

    def fails(*_, **__):
        raise MemoryError("the library says no")

    monkeypatch.setattr(model, "score", fails)
    published = len(ward.run.published)
    await ward.pass_time(1.5, step_s=15)
    assert len(ward.run.published) >= published + 12
    assert (risk(ward).probability, risk(ward).abstention) == (None, "model_failed")
    assert risk(ward, 2).abstention == "model_failed"
    await asyncio.sleep(0.1)
    assert [(a, o, d["serving"]) for a, o, d in await events(ward)] == [("ask_model", "failed", row.serving_id)]
    # Read anew after a while, and asked again.
    ward.follower._faults = dict.fromkeys(ward.follower._faults, 0.0)
    await ward.follow()
    await ward.pass_time(0.5)
    assert risk(ward).probability is not None
    assert await ward.differing(simulation.differences) == []


async def test_a_candidate_that_fails_silences_nobody_else(ward, small_model, monkeypatch):
    await put_in(ward, small_model)
    await put_in(ward, small_model, 2, 2, Slot.SILENT)
    await ward.follow()

    def fails(*_, **__):
        raise ValueError("no")

    monkeypatch.setattr(ward.follower.voices.silent.model, "score", fails)
    await measured(ward)
    assert risk(ward).probability is not None
    async with transaction(ward.connection) as connection:
        heard = await risk_scores.between(connection, 0, 2**60, slot="silent")
    assert {row.abstention for row in heard} == {"model_failed"}


async def test_a_refused_row_changes_nothing_and_is_audited_once(audited, small_model, simulation):
    ward = audited
    first_digest, _ = await put_in(ward, small_model)
    await ward.follow()
    await measured(ward)
    other = small_model.train(2).keep(ward.files)
    alone = ward.committee.signed(other, 2, Slot.CHAMPION)[:1]
    await ward.committee.promote(
        ward.connection, other, 2, signed=tuple(alone), request_id=alone[0].statement.request_id
    )
    for _ in range(3):
        ward.follower._newest = -1
        await ward.follow()
    await ward.pass_time(0.5)
    assert risk(ward).version == 1
    assert ward.follower.voices.champion.model_digest == first_digest
    found = await events(ward)
    assert [(action, outcome) for action, outcome, _ in found] == [("load_model", "denied")]
    assert (found[0][2]["serving"], found[0][2]["action"]) == (2, "promote")
    assert await ward.differing(simulation.differences) == []


async def test_deleted_rows_are_missed_and_silence_the_model(ward, small_model, simulation):
    _, first = await put_in(ward, small_model)
    await ward.committee.react(ward.connection, Action.ABSTAIN, first, "interface_fault")
    await ward.follow()
    await measured(ward)
    assert risk(ward).abstention == "silenced"
    async with transaction(ward.connection) as connection:  # a superuser takes the silencing back
        await connection.execute("alter table serving disable trigger user")
        await connection.execute("delete from serving where serving_id = 2")
        await connection.execute("alter table serving enable trigger user")
    ward.follower._newest = -1
    await ward.follow()
    await ward.pass_time(0.5)
    assert risk(ward).abstention == "silenced"
    assert "rows of the record of approved models are gone" in ward.shown().notices[0]
    memory = Memory(ward.files)
    for snapshot in ward.all_shown():
        again = replay.replay(ward.connection, ward.run.forecaster, snapshot.snapshot_id, ward.run.keys, memory)
        if "are gone" in snapshot.notices[0] or not snapshot.provenance.serving:
            assert (await again).is_identical
        else:  # what was said under the row that is gone
            with pytest.raises(BrokenInvariantError, match=r"rows \[2\] of the serving record are gone"):
                await again


@pytest.mark.parametrize("harm", ["forged", "gone"])
async def test_without_a_roster_that_counts_nobody_speaks(ward, small_model, harm, simulation):
    await put_in(ward, small_model)
    await ward.follow()
    await measured(ward)
    path = trust.roster_path(ward.run.settings)
    good = path.read_bytes()
    path.unlink() if harm == "gone" else path.write_bytes(good.replace(b"clinical_lead", b"safety_officer"))
    ward.follower._newest = -1
    await ward.follow()
    await ward.pass_time(0.5)
    assert ward.shown().risks == []
    assert ward.shown().notices[0].startswith("Approvals of models cannot be relied on here (roster")
    path.write_bytes(good)
    ward.follower._newest = -1
    await ward.follow()
    await ward.pass_time(0.5)
    assert risk(ward).probability is not None
    assert await ward.differing(simulation.differences) == []


async def test_a_new_row_is_heard_of_and_a_lost_connection_is_opened_again(ward, small_model, live_plane, monkeypatch):
    monkeypatch.setattr("twin.serving.POLL_S", 30.0)  # so that only the announcement can be quick
    opened = []

    async def connecting():
        if len(opened) == 1:
            opened.append(None)
            raise UnavailableError("PostgreSQL starts again")
        opened.append(await connect(ward.run.url, application_name="test follower"))
        return opened[-1]

    ward.follower._connect = connecting
    stop = asyncio.Event()
    following = asyncio.create_task(ward.follower.run(stop))
    assert await ward.follower.first_look(10)
    await asyncio.sleep(0.2)
    started = asyncio.get_running_loop().time()
    _, row = await put_in(ward, small_model)
    await live_plane.until(lambda: ward.follower.voices.champion.serving_id == row.serving_id, "the row is followed")
    assert asyncio.get_running_loop().time() - started < 2.0
    async with transaction(ward.connection) as connection:
        await connection.execute(
            "select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'test follower' "
            "and datname = current_database()"
        )
    await live_plane.until(lambda: len(opened) == 3, "it opens another connection")
    assert ward.follower.voices.champion.serving_id == row.serving_id, "while the record cannot be read, it stands"
    await ward.committee.react(ward.connection, Action.ABSTAIN, row, "interface_fault")
    await live_plane.until(lambda: ward.follower.voices.champion.mute == "silenced", "the next row is followed")
    following.cancel()
    with pytest.raises(asyncio.CancelledError):
        await following


async def test_a_fault_of_the_follower_itself_silences_the_model_until_it_works_again(
    ward, small_model, live_plane, monkeypatch
):
    await put_in(ward, small_model)
    stop = asyncio.Event()
    following = asyncio.create_task(ward.follower.run(stop))
    assert await ward.follower.first_look(10)
    assert ward.follower.voices.champion.may_speak
    judged = serving.judge

    def failing(*_):
        raise RuntimeError("a defect of ours")

    monkeypatch.setattr(serving, "judge", failing)
    ward.follower._newest = -1
    await live_plane.until(lambda: ward.follower.voices.champion.mute == "model_failed", "nobody is believed unjudged")
    assert not following.done()
    monkeypatch.setattr(serving, "judge", judged)
    await live_plane.until(lambda: ward.follower.voices.champion.may_speak, "it is judged again")
    stop.set()
    await asyncio.wait_for(following, 10)


async def test_the_same_record_keeps_the_same_voice(ward, small_model):
    await put_in(ward, small_model)
    await ward.follow()
    before = ward.follower.voices
    for _ in range(3):
        ward.follower._newest = -1
        await ward.follow()
    assert ward.follower.voices is before


def test_the_live_path_imports_none_of_the_learning_planes_libraries():
    forbidden = "mlflow dagster sklearn pandas great_expectations evidently fairlearn"
    code = (
        "import sys, twin.engine_loop, twin.serving, twin.risk, twin.replay, models.risk.artefact\n"
        f"found = [n for n in {forbidden.split()} if n in sys.modules]\n"
        "assert not found, found\n"
        "assert 'xgboost' not in sys.modules, 'imported before a model is there'\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


@pytest.mark.parametrize("at_us", [2**62, -(2**62), 253_402_300_800 * SECOND])
def test_a_row_with_a_time_that_is_none_costs_no_snapshot(at_us):
    silenced = Voice(scope="mortality", standing=Standing.ABSTAINING, serving_id=7, since_us=at_us, approved_id=3)
    assert silenced.notices() == ["The model was silenced at an unknown time: no cause was given. NEWS2 is shown."]


def test_a_token_says_how_a_voice_stood():
    speaking = Voice(scope="mortality", standing=Standing.SPEAKING, serving_id=7, approved_id=3, version=2)
    assert parse_token(speaking.failed().token)[:5] == ("mortality", 7, 3, Standing.SPEAKING, True)
    assert (NOBODY.token, NOBODY.notices()) == ("", [NO_MODEL])
    broken = voice_of("mortality", Standing.EMPTY, None, None, "roster_forged")
    assert parse_token(broken.token) == ("mortality", 0, 0, Standing.EMPTY, False, "roster_forged")
    for text in ("", "7", "mortality x y speaking", "mortality 1 2 shouting"):
        with pytest.raises(ValueError):  # noqa: PT011
            parse_token(text)
