"""The life of a model version: which stages there are, what leads from one to the next, who must sign for what.

Here: the policy read from governance/lifecycle.toml, and the stage of a version from what is recorded of it.
Not here: opening requests and judging signatures (governance.approvals), appending rows (governance.promotion,
governance.rollback), judging the serving record (governance.serving).
Source: design.md section 6.
"""

from __future__ import annotations

import tomllib
from collections.abc import Collection
from importlib.resources import files
from typing import Literal

import msgspec

from governance.access import Role
from governance.statements import Action, Slot, Stage
from vocabulary.errors import ConfigurationError
from vocabulary.verdict import Kind

SILENT_PERIOD = "silent_period"
SITES = "sites"
"""Names of what may be waived."""


class SlotRule(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What it takes to hold a slot."""

    people: int  # distinct, in distinct roles, none of them the author
    roles: tuple[Role, ...]
    clinical_roles: tuple[Role, ...]  # where not empty: at least one signer in one of them
    meaning: str  # the sentence that is signed
    silent_days: float = 0.0
    sites: int = 0


class Waiver(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A requirement that people may sign away."""

    name: str
    sentence: str  # stands among the conditions, word for word
    is_demo_only: bool


class Transition(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One step of a version's life."""

    source: Stage = msgspec.field(name="from")
    target: Stage = msgspec.field(name="to")
    by: Literal["verdicts", "signatures", "person", "machine or person"]


class EvidenceRule(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What must have been judged."""

    kinds: tuple[Kind, ...]


class RequestRule(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How requests for approval live."""

    lasts_days: float


class Lifecycle(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The whole policy."""

    evidence: EvidenceRule
    request: RequestRule
    slots: dict[Slot, SlotRule] = msgspec.field(name="slot")
    waivers: tuple[Waiver, ...] = msgspec.field(name="waiver")
    transitions: tuple[Transition, ...] = msgspec.field(name="transition")
    appenders: dict[Action, tuple[str, ...]]
    reactions: dict[str, tuple[Action, ...]]

    def waiver(self, name: str) -> Waiver:
        """Return a waiver by its name.

        Raises:
            ConfigurationError: there is none.
        """
        for waiver in self.waivers:
            if waiver.name == name:
                return waiver
        known = ", ".join(waiver.name for waiver in self.waivers)
        raise ConfigurationError(f"{name!r} cannot be waived; what can be: {known}.")

    def is_waived(self, name: str, conditions: Collection[str]) -> bool:
        """Return whether signed conditions hold a waiver, word for word."""
        return self.waiver(name).sentence in conditions

    def may_follow(self, source: Stage, target: Stage) -> bool:
        """Return whether a version of one stage may become another."""
        return any(step.source is source and step.target is target for step in self.transitions)


def load() -> Lifecycle:
    """Read the packaged policy.

    Raises:
        ConfigurationError: it is damaged or contradicts itself.
    """
    return read((files("governance") / "lifecycle.toml").read_text(encoding="utf-8"))


def read(text: str) -> Lifecycle:
    """Return a policy written in TOML, checked.

    Raises:
        ConfigurationError: it is no TOML, holds unknown words, or would let somebody alone make a model speak.
    """
    try:
        found = msgspec.convert(tomllib.loads(text), Lifecycle, strict=False)
    except (tomllib.TOMLDecodeError, msgspec.ValidationError) as error:
        raise ConfigurationError(f"The models' lifecycle policy cannot be read: {error}.") from None
    faults = _faults(found)
    if faults:
        raise ConfigurationError(f"The models' lifecycle policy contradicts itself: {'; '.join(faults)}.")
    return found


_GIVES_NO_VOICE = frozenset({Action.ABSTAIN, Action.CLAMP, Action.RESTORE, Action.WITHDRAW})


def _faults(policy: Lifecycle) -> list[str]:
    faults = [fault for slot in Slot for fault in _slot_faults(slot, policy.slots.get(slot))]
    champion = policy.slots.get(Slot.CHAMPION)
    if champion is not None and champion.people < 2:
        faults.append("one person alone makes a model speak")
    if {waiver.name for waiver in policy.waivers} != {SILENT_PERIOD, SITES}:
        faults.append(f"the waivers are {SILENT_PERIOD} and {SITES}")
    elif not policy.waiver(SILENT_PERIOD).is_demo_only:
        faults.append("the silent period may be waived in demonstrations only")
    if set(policy.appenders) != set(Action):
        faults.append("each action names who may append it")
    if "keeper" in policy.appenders.get(Action.PROMOTE, ()) + policy.appenders.get(Action.RESUME, ()):
        faults.append("the keeper may take voice away, never give it")
    for cause, steps in policy.reactions.items():
        if not steps or not set(steps) <= _GIVES_NO_VOICE:
            faults.append(f"the reaction to {cause} would give a model voice")
    if not policy.evidence.kinds or Kind.LIVE in policy.evidence.kinds or policy.request.lasts_days <= 0:
        faults.append("evidence names kinds of verdicts that come before service, and requests last some time")
    return faults


def _slot_faults(slot: Slot, rule: SlotRule | None) -> list[str]:
    if rule is None:
        return [f"slot {slot} has no rule"]
    faults = []
    if not 1 <= rule.people <= len(set(rule.roles)):
        faults.append(f"slot {slot} asks {rule.people} people of {len(set(rule.roles))} roles")
    if not set(rule.clinical_roles) <= set(rule.roles):
        faults.append(f"slot {slot} wants a clinical role that may not sign")
    if Role.MODEL_AUTHOR in rule.roles:
        faults.append(f"slot {slot} lets authors sign as such")
    return faults


class Recorded(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of one version, as far as its stage depends on it."""

    faults: tuple[str, ...] = ()  # governance.evidence.faults: why it is not validated
    is_rejected: bool = False  # its newest request was
    holds: frozenset[Slot] = frozenset()  # slots it holds now (governance.serving.Judgement)
    has_spoken: bool = False  # held the champion's slot before


def stage_of(recorded: Recorded) -> Stage:
    """Return where a version is in its life. Pure."""
    if Slot.CHAMPION in recorded.holds:
        return Stage.CHAMPION
    if Slot.SILENT in recorded.holds:
        return Stage.SILENT
    if recorded.has_spoken or recorded.is_rejected:
        return Stage.RETIRED
    return Stage.CANDIDATE if recorded.faults else Stage.VALIDATED


def missing_signatures(rule: SlotRule, roles: Collection[Role]) -> tuple[str, ...]:
    """Return in words what valid signatures in these roles lack; nothing: they suffice. Pure.

    Args:
        rule: of the slot.
        roles: one for each person who signed, all distinct.
    """
    missing = []
    if len(roles) < rule.people:
        left = [str(role).replace("_", " ") for role in rule.roles if role not in roles]
        missing.append(f"{rule.people - len(roles)} more of: {', '.join(left)}")
    if rule.clinical_roles and not set(rule.clinical_roles) & set(roles):
        words = " or ".join(str(role).replace("_", " ") for role in rule.clinical_roles)
        missing.append(f"one of them a {words}")
    return tuple(missing)
