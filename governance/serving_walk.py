"""One scope's serving record, walked row by row: what each row does to its slot, or why it does nothing.

Here: the walk, and what it finds.
Not here: why rows are believed at all (governance.serving says it, and decision 14), one promotion's signatures
(governance.serving_rules).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum
from typing import Final, Literal

import msgspec

from governance.high_water import HighWater, bar_key, mend_key
from governance.lifecycle import Lifecycle
from governance.notary import PublicKeys
from governance.passkeys import RelyingParty
from governance.roster import Roster, SignatureRefusedError
from governance.serving_record import UNREADABLE, signing_process
from governance.serving_rules import Approval, check_approval
from governance.statements import Action, ServingRow, Slot, row_digest
from stores.database import to_microseconds

CLOCKS_US: Final = 600_000_000
"""How far clocks of our processes may differ: ten minutes, as for signatures."""

BREAKS: Final = frozenset({"unknown_writer", "row_altered", "chain_broken", "rows_missing"})
"""Refusals after which nobody can know what was decided last: somebody else wrote in the record."""


class Standing(StrEnum):
    """What a slot's model may do."""

    SPEAKING = "speaking"
    CLAMPED = "clamped"  # shows its forecast, asks for nobody's attention
    ABSTAINING = "abstaining"  # says nothing; NEWS2 is shown
    EMPTY = "empty"  # no model


class Held(msgspec.Struct, frozen=True, kw_only=True):
    """What one slot holds."""

    slot: Slot
    standing: Standing
    row: ServingRow | None = None  # the promotion it rests on; None where the slot is empty
    cause: str = (
        ""  # why it abstains, is clamped or is empty: a live verdict's cause, a refusal's word, a person's words
    )
    since: ServingRow | None = None  # the row that made it so; None where no row that can be believed did
    previous: ServingRow | None = None  # where a rollback would go: keep that model warm

    @property
    def serving_id(self) -> int:
        """Return the row the slot stands under, for provenance; 0 where there is none."""
        return self.since.serving_id if self.since is not None else 0

    @property
    def conditions(self) -> tuple[str, ...]:
        """Return what people signed with the approval in force."""
        return self.row.signed[0].statement.conditions if self.row is not None and self.row.signed else ()


class Refusal(msgspec.Struct, frozen=True, kw_only=True):
    """A row that does not hold: to be audited once. `reason` is a fixed word."""

    serving_id: int
    scope: str
    slot: Slot
    action: Action
    reason: str
    text: str


class Judgement(msgspec.Struct, frozen=True, kw_only=True):
    """What a scope's record says. Every slot is in `slots`."""

    scope: str
    slots: dict[Slot, Held]
    refusals: tuple[Refusal, ...]
    high_water: HighWater  # to be remembered (governance.high_water)
    broken: str = ""  # the word that broke the record, while no promotion mended it; or why nothing counts here
    listened_us: dict[str, int] = msgspec.field(default_factory=dict)  # model digest → time it listened silently
    promotions: dict[str, int] = msgspec.field(default_factory=dict)  # request → serving_id of what it made

    def refusal_of(self, serving_id: int) -> Refusal | None:
        """Return why a row was refused, None where it was not."""
        return next((one for one in self.refusals if one.serving_id == serving_id), None)

    def is_barred(self, slot: Slot, model_digest: str, evidence_digest: str) -> bool:
        """Return whether a version was rolled back under this evidence."""
        return bar_key(slot, model_digest, evidence_digest) in self.high_water.barred


class Trust(msgspec.Struct, frozen=True, kw_only=True):
    """What rows are judged by. All of it lies outside of the database."""

    site: str
    mode: Literal["production", "demo"]
    roster: Roster | None
    writers: PublicKeys | None
    refusal: str = ""  # why roster, keys or note do not count, in a fixed word: then no model speaks
    text: str = ""  # the same for a person
    party: RelyingParty | None = None  # our name towards browsers
    high_water: Mapping[str, HighWater] = msgspec.field(default_factory=dict)


class _SlotState:
    """One slot while its rows are walked."""

    def __init__(self, slot: Slot) -> None:
        self.slot = slot
        self.row: ServingRow | None = None
        self.standing = Standing.EMPTY
        self.cause = ""
        self.since: ServingRow | None = None
        self.accepted: list[ServingRow] = []  # promotions that held, oldest first
        self.is_mended = True  # no promotion is needed to mend what broke the record


class Walk:
    """The judgement of one scope in progress. Pure: it reads nothing but what it is given."""

    def __init__(self, scope: str, trust: Trust, policy: Lifecycle, now: datetime) -> None:
        """Begin before the first row; see governance.serving.judge."""
        self._scope = scope
        self._trust = trust
        self._policy = policy
        self._now_us = to_microseconds(now)
        self._mark = trust.high_water.get(scope, HighWater())
        self._is_mark_met = self._mark.serving_id == 0
        self._slots = {slot: _SlotState(slot) for slot in Slot}
        self._refusals: list[Refusal] = []
        self._previous = ""  # digest of the row before
        self._last_us = 0  # latest time that a vouched row named
        self._newest = HighWater()
        self._requests: dict[str, str] = {}
        self._barred: dict[str, int] = dict(self._mark.barred)
        self._mends: dict[str, str] = dict(self._mark.mends)
        self._history = hashlib.sha256()  # over the digests of the rows before, as they stand
        self._listened_us: dict[str, int] = {}  # model digest → time in the silent slot until it left
        self._broken = ""
        if trust.refusal or trust.roster is None or trust.writers is None:
            self._break(trust.refusal or ("roster_missing" if trust.roster is None else "writers_missing"))

    # -- one row

    def take(self, row: ServingRow) -> None:
        """Judge the next row."""
        if not self._is_mark_met and row.serving_id > self._mark.serving_id:
            self._miss_mark()
        digest = row_digest(row)
        is_another = False
        if row.serving_id == self._mark.serving_id:
            self._is_mark_met = True
            is_another = digest != self._mark.digest
        unvouched = self._unvouched(row)
        if is_another:
            self._refuse(row, "row_altered", "It is not the row that was here when the record was last believed.")
        elif unvouched is not None:
            self._refuse(row, *unvouched)
        elif row.previous_digest != self._previous:
            self._refuse(row, "chain_broken", "It does not follow the row that stands before it.")
        else:
            self._act(row, digest)
            if row.at_us <= self._now_us + CLOCKS_US:
                # One process whose clock is a year ahead must not bar every promotion for a year.
                self._last_us = max(self._last_us, row.at_us)
        self._previous = digest
        self._history.update(digest.encode())
        if not self._broken:
            self._newest = HighWater(serving_id=row.serving_id, digest=digest)

    def _unvouched(self, row: ServingRow) -> tuple[str, str] | None:
        if row.cause == UNREADABLE and not row.machine_signature:
            return "row_altered", "It holds words that are none of ours."
        if self._trust.writers is None:
            return "unknown_writer", "No process's public key is known here."
        process = signing_process(row, self._trust.writers)
        if process is None:
            return "row_altered", f"Key {row.key_id} signed another row than this."
        if process == "":
            return "unknown_writer", f"No process of this house has the key {row.key_id[:16] or '(none)'}."
        if process not in self._policy.appenders[row.action]:
            return "writer_may_not", f"{process} may not append {row.action}."
        return None

    def _refuse(self, row: ServingRow, reason: str, text: str) -> None:
        self._refusals.append(
            Refusal(
                serving_id=row.serving_id,
                scope=self._scope,
                slot=row.slot,
                action=row.action,
                reason=reason,
                text=f"Serving row {row.serving_id} of {self._scope} is refused: {text}",
            )
        )
        if reason in BREAKS:
            self._break(reason)

    def _break(self, reason: str) -> None:
        """Silence everything: only a promotion that people signed after this mends its slot."""
        reason = self._broken = self._broken or reason  # the first says most
        self._last_us = max(self._last_us, self._mark.at_us)
        for state in self._slots.values():
            state.is_mended = False
            state.since = None
            if state.slot is Slot.SILENT:
                state.row, state.standing, state.cause = None, Standing.EMPTY, reason
            elif state.standing is not Standing.EMPTY:
                state.standing, state.cause = Standing.ABSTAINING, reason

    def _miss_mark(self) -> None:
        self._is_mark_met = True
        self._refusals.append(
            Refusal(
                serving_id=self._mark.serving_id,
                scope=self._scope,
                slot=Slot.CHAMPION,
                action=Action.ABSTAIN,
                reason="rows_missing",
                text=f"Serving row {self._mark.serving_id} of {self._scope} was here and is gone: rows were deleted, "
                "or an older copy of the database was restored.",
            )
        )
        self._break("rows_missing")

    # -- what a vouched row does

    def _act(self, row: ServingRow, digest: str) -> None:
        state = self._slots[row.slot]
        match row.action:
            case Action.PROMOTE:
                self._promote(state, row, digest)
            case Action.RESTORE:
                self._restore(state, row)
            case Action.RESUME:
                self._resume(state, row)
            case Action.ABSTAIN:
                if state.standing is not Standing.EMPTY:
                    self._stand(state, row, Standing.ABSTAINING)
            case Action.CLAMP:
                if state.standing is Standing.SPEAKING:
                    self._stand(state, row, Standing.CLAMPED)
            case Action.WITHDRAW:
                self._roll_back(state, row)
                self._empty(state, row)

    @staticmethod
    def _stand(state: _SlotState, row: ServingRow, standing: Standing) -> None:
        state.standing, state.since = standing, row
        state.cause = "" if standing is Standing.SPEAKING else row.cause

    @staticmethod
    def _empty(state: _SlotState, row: ServingRow) -> None:
        state.row, state.standing, state.cause, state.since = None, Standing.EMPTY, row.cause, row

    def _promote(self, state: _SlotState, row: ServingRow, digest: str) -> None:
        is_known = self._is_known_mend(row, digest)
        try:
            self._check_promotion(state, row, digest, is_known)
        except SignatureRefusedError as error:
            self._refuse(row, error.reason, str(error))
            return
        self._leave_silence(state, row.at_us)
        silent = self._slots[Slot.SILENT]
        if row.slot is Slot.CHAMPION and silent.row is not None and silent.row.model_digest == row.model_digest:
            self._leave_silence(silent, row.at_us)
            self._empty(silent, row)
        if is_known:
            self._last_us = row.at_us  # the note's time is of rows behind it: those up to the note are the same still
        if not state.is_mended:
            self._mends[mend_key(row.serving_id, digest)] = self._history.hexdigest()
        state.row = row
        state.accepted.append(row)
        state.is_mended = True
        self._stand(state, row, Standing.SPEAKING)
        self._requests[row.request_id] = digest
        champion = self._slots[Slot.CHAMPION]
        if champion.is_mended or champion.row is None:
            self._broken = ""

    def _is_known_mend(self, row: ServingRow, digest: str) -> bool:
        """Return whether this promotion mended this very record before, and nothing before it changed since.

        It was dated after everything seen then; the note has moved past it since, and would misdate it. Rows behind
        it cannot be cut off: the note misses its newest row.
        """
        return self._mark.mends.get(mend_key(row.serving_id, digest)) == self._history.hexdigest()

    def _check_promotion(self, state: _SlotState, row: ServingRow, digest: str, is_known_mend: bool) -> None:
        roster = self._trust.roster
        if self._trust.refusal or roster is None:
            text = self._trust.text or "There is no roster: nobody's signature counts."
            raise SignatureRefusedError(self._trust.refusal or "roster_missing", text)
        earliest_us = self._last_us - CLOCKS_US if state.is_mended else self._last_us + 1
        if not is_known_mend and not earliest_us <= row.at_us <= self._now_us + CLOCKS_US:
            raise SignatureRefusedError("row_misdated", "It names a time before rows that were here, or one to come.")
        used = self._requests.get(row.request_id) or self._mark.requests.get(row.request_id)
        if used is not None and used != digest:
            raise SignatureRefusedError("approval_reused", f"Approval {row.request_id} was used up before.")
        if self._is_barred(row, row.serving_id - 1):
            raise SignatureRefusedError(
                "version_barred", f"Version {row.version} was rolled back before: it needs new evidence."
            )
        approval = Approval(
            site=self._trust.site,
            mode=self._trust.mode,
            roster=roster,
            party=self._trust.party,
            listened_us=self._listened(row.model_digest, row.at_us),
        )
        check_approval(row, approval, self._policy)

    def _listened(self, model_digest: str, until_us: int) -> int:
        total = self._listened_us.get(model_digest, 0)
        silent = self._slots[Slot.SILENT]
        if silent.row is not None and silent.row.model_digest == model_digest:
            total += max(0, until_us - silent.row.at_us)
        return total

    def _leave_silence(self, state: _SlotState, at_us: int) -> None:
        if state.slot is Slot.SILENT and state.row is not None:
            digest = state.row.model_digest
            self._listened_us[digest] = self._listened(digest, at_us)

    def _roll_back(self, state: _SlotState, row: ServingRow) -> None:
        """Bar the version that holds the slot, under every evidence it was approved with, until there is new."""
        if state.row is None:
            return
        self._leave_silence(state, row.at_us)
        for one in state.accepted:
            if one.model_digest == state.row.model_digest:
                key = bar_key(state.slot, one.model_digest, one.evidence_digest)
                self._barred[key] = max(self._barred.get(key, 0), row.serving_id)

    def _restore(self, state: _SlotState, row: ServingRow) -> None:
        """Roll back. That takes voice away whatever else the row says; only then is it judged who speaks instead."""
        rolled_back, standing, cause = state.row, state.standing, state.cause
        if rolled_back is None:
            self._refuse(row, "nothing_to_restore", "The slot is empty: only people's signatures fill it.")
            return
        self._roll_back(state, row)
        self._empty(state, row)
        target = next((one for one in state.accepted if one.serving_id == row.restores), None)
        if not state.is_mended:
            self._refuse(row, "record_broken", "The record is broken: only people's signatures mend it.")
        elif target is None or not _is_about(row, target):
            self._refuse(row, "never_approved", f"It restores row {row.restores}, no earlier approval of this slot.")
        elif target is rolled_back:
            self._refuse(row, "restores_itself", "It restores what it rolls back.")
        elif self._is_barred(target, row.serving_id):
            self._refuse(row, "version_barred", f"Version {target.version} was rolled back: it needs new evidence.")
        else:
            state.row = target
            # A fault of the interface is no less one for the older model.
            stays = standing is Standing.ABSTAINING
            state.standing = Standing.ABSTAINING if stays else Standing.SPEAKING
            state.cause = cause if stays else ""

    def _resume(self, state: _SlotState, row: ServingRow) -> None:
        held = state.row
        if held is None or state.standing is Standing.SPEAKING or row.restores != held.serving_id:
            self._refuse(row, "nothing_to_resume", "It names no approval that is silenced or clamped now.")
        elif not state.is_mended:
            self._refuse(row, "record_broken", "The record is broken: only people's signatures mend it.")
        elif "|" not in row.by or not _is_about(row, held):
            self._refuse(row, "resumed_by_nobody", "A person must say that the fault is over, and of which version.")
        else:
            self._stand(state, row, Standing.SPEAKING)

    def _is_barred(self, target: ServingRow, by: int) -> bool:
        """Return whether a version was rolled back, with the evidence it was approved with, before or by a row."""
        barred_by = self._barred.get(bar_key(target.slot, target.model_digest, target.evidence_digest))
        return barred_by is not None and barred_by <= by

    # -- the end

    def finish(self) -> Judgement:
        """Return what the record says, once every row was taken."""
        if not self._is_mark_met:
            self._miss_mark()
        held = {slot: self._held(state) for slot, state in self._slots.items()}
        mark = msgspec.structs.replace(
            self._newest,
            at_us=max(self._last_us, self._mark.at_us),
            requests=self._mark.requests | self._requests,
            barred=self._barred,
            mends=self._mends,
        )
        return Judgement(
            scope=self._scope,
            slots=held,
            refusals=tuple(self._refusals),
            high_water=mark,
            broken=self._broken,
            promotions={one.request_id: one.serving_id for state in self._slots.values() for one in state.accepted},
            listened_us={digest: self._listened(digest, self._now_us) for digest in self._silent_digests()},
        )

    def _silent_digests(self) -> set[str]:
        silent = self._slots[Slot.SILENT].row
        return {*self._listened_us, *(() if silent is None else (silent.model_digest,))}

    def _held(self, state: _SlotState) -> Held:
        return Held(
            slot=state.slot,
            standing=state.standing,
            row=state.row,
            cause=state.cause,
            since=state.since,
            previous=self._rollback_target(state),
        )

    def _rollback_target(self, state: _SlotState) -> ServingRow | None:
        """Return the newest earlier approval of another model in the slot that was not rolled back."""
        held = state.row
        if held is None or not state.is_mended:
            return None
        for one in reversed(state.accepted):
            is_earlier = one.serving_id < held.serving_id and one.model_digest != held.model_digest
            if is_earlier and not self._is_barred(one, max(self._newest.serving_id, held.serving_id)):
                return one
        return None


def _is_about(row: ServingRow, target: ServingRow) -> bool:
    return (row.version, row.model_digest, row.evidence_digest, row.request_id) == (
        target.version,
        target.model_digest,
        target.evidence_digest,
        target.request_id,
    )
