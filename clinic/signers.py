"""The names of those who sign, by the roster that counts here; and our own name towards their browsers.

Here: looking a person up, read again when a minute has passed.
Not here: whose signature counts (governance.roster, governance.approvals), registering keys (clinic.signing_keys).
"""

from __future__ import annotations

from datetime import UTC, date, datetime

from clinic.approved import subject_of
from governance import trust
from governance.roster import Roster, SignatureRefusedError
from vocabulary.clock import Clock
from vocabulary.errors import ConfigurationError
from vocabulary.settings import Settings

_READ_EVERY_US = 60_000_000


class SignerNames:
    """Names of signers; of whom no roster that counts knows, the issuer's own name for them."""

    def __init__(self, settings: Settings, clock: Clock) -> None:
        """Read the roster that `settings` name when first asked."""
        self._settings = settings
        self._clock = clock
        self._names: dict[str, str] = {}
        self._read_at_us: int | None = None

    def __call__(self, person: str) -> str:
        """Return the name of `issuer|subject`."""
        now_us = self._clock.now_us()
        if self._read_at_us is None or now_us - self._read_at_us > _READ_EVERY_US:
            self._read_at_us = now_us
            roster = roster_or_fault(self._settings, today_of(self._clock))[0]
            self._names = {} if roster is None else {signer.person: signer.name for signer in roster.signers}
        return self._names.get(person) or subject_of(person)


def today_of(clock: Clock) -> date:
    """Return today, in UTC."""
    return datetime.fromtimestamp(clock.now_us() / 1e6, UTC).date()


def roster_or_fault(settings: Settings, today: date) -> tuple[Roster | None, str]:
    """Return the roster that counts, or None and a sentence that says why none does."""
    try:
        return trust.load_roster(settings, today), ""
    except ConfigurationError:
        return None, "This house has no roster of signers yet, so no key counts."
    except SignatureRefusedError as refusal:
        return None, f"The roster of signers does not count ({refusal.reason.replace('_', ' ')}), so no key does."
