"""The lifecycle as policy: what it says, and that no edit of it lets a machine or one person make a model speak."""

from __future__ import annotations

from importlib.resources import files
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from governance import lifecycle
from governance.access import Role
from governance.lifecycle import Recorded, missing_signatures, stage_of
from governance.statements import Action, Slot, Stage
from vocabulary.errors import ConfigurationError

TEXT = (files("governance") / "lifecycle.toml").read_text()
POLICY = lifecycle.load()
LEAD, SAFETY, PHYSICIAN = Role.CLINICAL_LEAD, Role.SAFETY_OFFICER, Role.PHYSICIAN


def test_the_packaged_policy_asks_for_what_the_design_says():
    champion, silent = POLICY.slots[Slot.CHAMPION], POLICY.slots[Slot.SILENT]
    assert (champion.people, set(champion.roles)) == (2, {LEAD, SAFETY, PHYSICIAN})
    assert silent.people == 1
    assert champion.silent_days > 0
    assert POLICY.reactions == {
        "interface_fault": (Action.ABSTAIN,),
        "calibration_breach": (Action.RESTORE,),
        "subgroup_breach": (Action.RESTORE,),
        "alert_flood": (Action.CLAMP, Action.RESTORE),
    }


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        ("people = 2", "people = 1", "one person alone"),
        ("people = 2", "people = 4", "asks 4 people of 3 roles"),
        ("people = 1", "people = 0", "asks 0 people"),
        ("is_demo_only = true", "is_demo_only = false", "in demonstrations only"),
        ('promote = ["clinic"', 'promote = ["keeper", "clinic"', "never give it"),
        ('resume = ["clinic"', 'resume = ["keeper", "clinic"', "never give it"),
        ('interface_fault = ["abstain"]', 'interface_fault = ["resume"]', "would give a model voice"),
        ('interface_fault = ["abstain"]', 'interface_fault = ["promote"]', "would give a model voice"),
        ('interface_fault = ["abstain"]', "interface_fault = []", "would give a model voice"),
        ('clamp = ["keeper", "clinic", "operator"]', "", "each action names"),
        ('clinical_roles = ["clinical_lead", "physician"]', 'clinical_roles = ["nurse"]', "may not sign"),
        ('roles = ["clinical_lead", "safety_officer"]', 'roles = ["model_author"]', "lets authors sign"),
        ('"clinical"]', '"live"]', "before service"),
        ("lasts_days = 14", "lasts_days = 0", "last some time"),
        ('name = "sites"', 'name = "other"', "the waivers are"),
        ("[slot.silent]", "[slot.shadow]", "cannot be read"),
        ("people = 2", "people = two", "cannot be read"),
        ("people = 2", "peoples = 2", "cannot be read"),
    ],
)
def test_an_edit_that_lets_voice_slip_is_refused(old, new, fault):
    assert old in TEXT
    with pytest.raises(ConfigurationError, match=fault):
        lifecycle.read(TEXT.replace(old, new))


def test_only_what_can_be_waived_is():
    with pytest.raises(ConfigurationError, match="what can be"):
        POLICY.waiver("author")
    sentence = POLICY.waiver(lifecycle.SILENT_PERIOD).sentence
    assert POLICY.is_waived(lifecycle.SILENT_PERIOD, [sentence])
    assert not POLICY.is_waived(lifecycle.SILENT_PERIOD, [sentence[:-1]])


@given(roles=st.lists(st.sampled_from([LEAD, SAFETY, PHYSICIAN]), unique=True))
def test_signatures_suffice_when_two_roles_signed_one_of_them_clinical(roles):
    is_enough = len(roles) >= 2 and bool({LEAD, PHYSICIAN} & set(roles))
    assert (missing_signatures(POLICY.slots[Slot.CHAMPION], roles) == ()) is is_enough


STAGES = {
    # faults, rejected, holds, has spoken
    (True, False, "", False): Stage.CANDIDATE,
    (False, False, "", False): Stage.VALIDATED,
    (False, False, "silent", False): Stage.SILENT,
    (False, False, "champion", False): Stage.CHAMPION,
    (False, True, "", False): Stage.RETIRED,
    (False, False, "", True): Stage.RETIRED,
}


@pytest.mark.parametrize(("case", "stage"), list(STAGES.items()))
def test_the_stage_of_a_version_follows_from_what_is_recorded(case, stage):
    faults, is_rejected, holds, has_spoken = case
    recorded = Recorded(
        faults=("x",) if faults else (),
        is_rejected=is_rejected,
        holds=frozenset({Slot(holds)} if holds else ()),
        has_spoken=has_spoken,
    )
    assert stage_of(recorded) is stage


def test_who_holds_the_champions_slot_is_champion_whatever_else_is_recorded():
    for faults, rejected, spoken in product((("x",), ()), (True, False), (True, False)):
        holds = frozenset({Slot.CHAMPION, Slot.SILENT})
        recorded = Recorded(faults=faults, is_rejected=rejected, holds=holds, has_spoken=spoken)
        assert stage_of(recorded) is Stage.CHAMPION


LEGAL = {
    ("candidate", "validated"), ("candidate", "retired"), ("validated", "silent"), ("validated", "champion"),
    ("validated", "retired"), ("silent", "champion"), ("silent", "retired"), ("champion", "retired"),
    ("retired", "champion"),
}  # fmt: skip


@pytest.mark.parametrize(("source", "target"), list(product(Stage, Stage)))
def test_only_listed_steps_are_legal(source, target):
    assert POLICY.may_follow(source, target) is ((str(source), str(target)) in LEGAL)


def test_no_step_to_the_bedside_goes_past_signatures():
    for step in POLICY.transitions:
        if step.target in {Stage.CHAMPION, Stage.SILENT} and step.source is not Stage.RETIRED:
            assert step.by == "signatures"
