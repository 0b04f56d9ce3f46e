"""Which model may speak: the serving record judged from its first row, by signatures alone.

A row in the database proves nothing: whoever administers the database writes what they like. Voice is given by people's
signatures, which the roster of the offline root vouches for; each row is signed by the process that appended it and
names the one before; a note outside of the database tells rows that are gone. Decision 14 says why each rule is so.

Here: what is needed to judge (`Trust`), and `judge`, which is pure.
Not here: the rules row by row (governance.serving_walk), one promotion's signatures (governance.serving_rules), stored
rows (governance.serving_record), the note (governance.high_water), loading files (twin.serving), the experiment
tracker, which nobody asks.
Source: design.md section 6.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from urllib.parse import urlsplit

import msgspec

from governance import high_water, notary, trust
from governance.high_water import HighWater
from governance.lifecycle import Lifecycle
from governance.notary import PublicKeys
from governance.passkeys import RelyingParty
from governance.roster import Roster, SignatureRefusedError
from governance.serving_record import read_rows
from governance.serving_walk import Held, Judgement, Refusal, Standing, Trust, Walk
from governance.statements import ServingRow
from vocabulary.errors import BrokenInvariantError, ConfigurationError
from vocabulary.settings import Settings

__all__ = [
    "Held", "Judgement", "Refusal", "Standing", "Trust", "judge", "judge_scope", "load_trust", "read_rows",
    "refusal_at_load", "remember",
]  # fmt: skip


def load_trust(settings: Settings, now: datetime, public_url: str | None = None) -> Trust:
    """Return what rows are judged by. Never raises for what is missing or forged: that is a refusal in the result.

    Load it before the rows are read, never after: a row appended and noted in between would seem to be missing.

    Args:
        settings: where roster, root key and anchors are.
        now: real time: a roster may have ended.
        public_url: our address as browsers write it; None for settings.public_url. Signatures of browsers' keys count
            only where it is known.
    """
    roster: Roster | None = None
    writers: PublicKeys | None = None
    marks: Mapping[str, HighWater] = {}
    refusal = text = ""
    try:
        roster = trust.load_roster(settings, now.astimezone(UTC).date())
    except SignatureRefusedError as error:
        refusal, text = error.reason, str(error)
    except ConfigurationError as error:
        refusal, text = "roster_missing", str(error)
    try:
        writers = notary.read_keys(settings.anchors_dir)
        marks = high_water.read(settings.anchors_dir)
    except ConfigurationError as error:
        refusal, text = refusal or "anchors_damaged", text or str(error)
    address = urlsplit(public_url or settings.public_url or "")
    party = RelyingParty(address.hostname, f"{address.scheme}://{address.netloc}") if address.hostname else None
    return Trust(
        site=settings.site,
        mode=settings.mode,
        roster=roster,
        writers=writers,
        refusal=refusal,
        text=text,
        party=party,
        high_water=marks,
    )


def judge(rows: Sequence[ServingRow], trust: Trust, policy: Lifecycle, now: datetime) -> dict[str, Judgement]:
    """Return what each scope's record says. Pure.

    Args:
        rows: the whole record, oldest first, as stored (`read_rows`).
        trust: roster, writers' keys and the note of what was seen.
        policy: who must have signed (governance.lifecycle.load).
        now: real time; a promotion from the future is refused.

    Returns:
        By scope: those that have rows, or were seen to have some.

    Raises:
        BrokenInvariantError: rows are out of order.
    """
    by_scope: dict[str, list[ServingRow]] = {scope: [] for scope in trust.high_water}
    for row in rows:
        by_scope.setdefault(row.scope, []).append(row)
    return {scope: judge_scope(scope, of_scope, trust, policy, now) for scope, of_scope in by_scope.items()}


def judge_scope(scope: str, rows: Sequence[ServingRow], trust: Trust, policy: Lifecycle, now: datetime) -> Judgement:
    """Return what one scope's record says; see `judge`.

    Raises:
        BrokenInvariantError: a row is of another scope, or they are out of order.
    """
    walk = Walk(scope, trust, policy, now)
    for row, before in zip(rows, (None, *rows), strict=False):
        # Equal numbers are left to the walk: a superuser may have made them.
        if row.scope != scope or (before is not None and row.serving_id < before.serving_id):
            raise BrokenInvariantError(f"a record of {scope} holds its own rows, oldest first")
        walk.take(row)
    return walk.finish()


def refusal_at_load(
    rows: Sequence[ServingRow], row: ServingRow, trust: Trust, policy: Lifecycle, now: datetime
) -> Refusal | None:
    """Return why a row would be refused behind a record, None where it would not: what is refused is never written.

    Args:
        rows: one scope's record as it is.
        row: the next row, signed, without a number yet.
        trust: what the engine judges by too.
        policy: the lifecycle.
        now: real time.
    """
    mark = trust.high_water.get(row.scope)
    # Rows may be gone that the note remembers; the database numbers on behind them.
    behind = max(rows[-1].serving_id if rows else 0, 0 if mark is None else mark.serving_id)
    numbered = msgspec.structs.replace(row, serving_id=behind + 1)
    return judge_scope(row.scope, [*rows, numbered], trust, policy, now).refusal_of(numbered.serving_id)


def remember(settings: Settings, judgements: Mapping[str, Judgement]) -> bool:
    """Note outside of the database how far the record was believed; return whether anything was new.

    Call it with what was judged of committed rows. Several processes may.

    Raises:
        ConfigurationError: the note is damaged or cannot be written.
    """
    return high_water.remember(settings.anchors_dir, {scope: one.high_water for scope, one in judgements.items()})
