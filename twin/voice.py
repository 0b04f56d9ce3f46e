"""Who may speak in one cycle: the model in force and the serving row it stands under, or why it says nothing.

A voice is made of rows of the serving record and the model's files alone. Which rows these were, and how they stood, is
written into the run of the snapshots made under it (`Voice.token`); so a replay, which judges nothing anew, says what
was said then. Where the model could not be asked, the token says that too.

Here: the record, its token, what a reader must know of it.
Not here: following rows and loading (twin.serving), asking the model (twin.risk), judging rows (governance.serving).
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec

from governance.evidence import at_the_bedside
from governance.serving import Standing
from governance.statements import ServingRow

if TYPE_CHECKING:
    from models.risk.artefact import RiskModel

FAILED: Final = "failed"
"""In a token, instead of a standing: the model could not be loaded, or failed while it was asked."""
SILENCED: Final = "silenced"
MODEL_FAILED: Final = "model_failed"
"""Abstentions that are not the model's own."""

NO_MODEL: Final = "No approved model: NEWS2 is shown."

CAUSES: Final = {
    "interface_fault": "interface fault",
    "data_fault": "data fault",
    "calibration_breach": "its risks no longer match what happens",
    "subgroup_breach": "it no longer serves all groups alike",
    "alert_flood": "too many alerts",
    "rows_missing": "rows of the record of approved models are gone",
    "row_altered": "the record of approved models was altered",
    "chain_broken": "the record of approved models was altered",
    "unknown_writer": "the record of approved models was altered",
}
"""Causes as a reader sees them; a person's own words stay as they are."""


class Voice(msgspec.Struct, frozen=True, eq=False, kw_only=True):
    """What may be said of one scope. Compared by identity: another state is another object."""

    scope: str = ""
    standing: Standing = Standing.EMPTY
    serving_id: int = 0  # the row that made it so; 0: none
    since_us: int = 0  # that row's time
    approved_id: int = 0  # the promotion in force; 0: none
    version: int = 0
    model_digest: str = ""
    conditions: tuple[str, ...] = ()  # signed with that promotion, as they stand beside each forecast
    cause: str = ""  # why it is silenced, clamped or gone: a fixed word, or a person's words
    is_cause_rows: bool = True  # whether the cause is that of the row itself
    model: RiskModel | None = None  # loaded
    is_failed: bool = False  # it could not be loaded, or failed while it was asked

    @property
    def is_card(self) -> bool:
        """Return whether there is a model to have a card, be it one that only says why it is silent."""
        return self.standing is not Standing.EMPTY

    @property
    def is_clamped(self) -> bool:
        """Return whether it speaks but asks for nobody's attention."""
        return self.standing is Standing.CLAMPED

    @property
    def wants_model(self) -> bool:
        """Return whether its standing lets a model be asked."""
        return self.standing in {Standing.SPEAKING, Standing.CLAMPED}

    @property
    def may_speak(self) -> bool:
        """Return whether the model may be asked."""
        return self.wants_model and self.model is not None and not self.is_failed

    @property
    def mute(self) -> str:
        """Return why no patient gets an estimate, as a fixed word; "" where the model is asked."""
        if self.standing is Standing.ABSTAINING:
            return SILENCED
        return MODEL_FAILED if self.wants_model and not self.may_speak else ""

    @property
    def is_synthetic(self) -> bool:
        """Return whether what it says was learned from synthetic patients."""
        return self.may_speak and self.model is not None and self.model.manifest.is_synthetic

    @property
    def name(self) -> str:
        """Return what provenance names, e.g. `mortality@3 0f3a…`; "" where there is no model."""
        return f"{self.scope}@{self.version} {self.model_digest[:16]}" if self.is_card else ""

    @property
    def token(self) -> str:
        """Return what a run keeps of the voice its snapshots were made under; "" where there never was a model."""
        word = FAILED if self.mute == MODEL_FAILED else str(self.standing)
        cause = "" if self.is_cause_rows else self.cause
        if self.serving_id == 0 and not cause and not self.is_card:
            return ""
        return f"{self.scope} {self.serving_id} {self.approved_id} {word} {cause}".rstrip()

    def failed(self) -> Voice:
        """Return the same voice, whose model cannot be asked."""
        return msgspec.structs.replace(self, model=None, is_failed=True)

    def notices(self) -> list[str]:
        """Return what a reader of the snapshot must know about the model; nothing where it speaks unhindered."""
        words = CAUSES.get(self.cause, self.cause.replace("_", " ").strip().rstrip(".")) or "no cause was given"
        since = _moment(self.since_us)
        at = f" at {since}" if self.since_us else ""  # no row did it where the record was broken
        if self.standing is Standing.EMPTY:
            if self.serving_id:
                return [f"The model was withdrawn{at}: {words}. NEWS2 is shown."]
            if self.cause:
                return [f"Approvals of models cannot be relied on here ({words}): NEWS2 is shown."]
            return [NO_MODEL]
        if self.mute == SILENCED:
            return [f"The model was silenced{at}: {words}. NEWS2 is shown."]
        if self.mute == MODEL_FAILED:
            return ["The approved model failed and says nothing: NEWS2 is shown."]
        if self.is_clamped:
            return [f"Since {since} the model raises nobody's attention: {words}. Its estimates are shown."]
        return []


def _moment(at_us: int) -> str:
    try:
        return datetime.fromtimestamp(at_us // 1_000_000, UTC).strftime("%Y-%m-%d %H:%M UTC")
    except (ValueError, OverflowError, OSError):
        # Rows that take voice away hold whatever time they name: none may cost the snapshot.
        return "an unknown time"


NOBODY: Final = Voice()
"""No model in force."""


def voice_of(
    scope: str, standing: Standing, approved: ServingRow | None, since: ServingRow | None, cause: str
) -> Voice:
    """Return a voice, its model not loaded yet.

    Args:
        scope: what it speaks about.
        standing: what its slot's model may do.
        approved: the promotion in force.
        since: the row that made the standing so.
        cause: why it is silenced, clamped or gone.
    """
    signed = approved.signed if approved is not None else ()
    return Voice(
        scope=scope,
        standing=standing if approved is not None else Standing.EMPTY,
        serving_id=since.serving_id if since is not None else 0,
        since_us=since.at_us if since is not None else 0,
        approved_id=approved.serving_id if approved is not None else 0,
        version=approved.version if approved is not None else 0,
        model_digest=approved.model_digest if approved is not None else "",
        conditions=at_the_bedside(signed[0].statement.conditions) if signed else (),
        cause=cause,
        is_cause_rows=since is not None and cause in {since.cause, ""},
    )


class Voices(NamedTuple):
    """Who speaks and who listens silently, in one cycle."""

    champion: Voice = NOBODY
    silent: Voice = NOBODY


class Token(NamedTuple):
    """A run's token, taken apart."""

    scope: str
    serving_id: int
    approved_id: int
    standing: Standing
    is_failed: bool
    cause: str | None  # None: that of the row


def parse_token(token: str) -> Token:
    """Split a run's token.

    Raises:
        ValueError: it is none.
    """
    scope, serving_id, approved_id, word, *cause = token.split(" ", 4)
    is_failed = word == FAILED
    standing = Standing.SPEAKING if is_failed else Standing(word)
    return Token(scope, int(serving_id), int(approved_id), standing, is_failed, cause[0] if cause else None)
