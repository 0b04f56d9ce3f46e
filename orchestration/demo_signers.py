"""The people who sign in a demonstration: two keys, a roster, and a root that is thrown away.

Whoever runs a demonstration can open these keys: their signatures mean nothing outside of it, and everything they sign
says so. A house is never started with them: the root's public half is believed in demo mode only (governance.trust).

Here: making keys and roster in a demonstration's own folder, opening one of the keys.
Not here: real signers (orchestration.signer_commands), what is signed (governance.statements), people who sign in
(hospital.issuer: a test holds this table against its own).
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final, NamedTuple

from governance import personal_keys, roster, trust
from governance.access import Role
from vocabulary.errors import ConfigurationError
from vocabulary.settings import Settings
from vocabulary.signing import SigningKey

PASSPHRASE: Final = "a demonstration, no secret"  # noqa: S105 - printed for whoever tries it
"""Of the key files, printed where they are named: anybody may sign as anybody here."""

DAYS: Final = 30


class DemonstrationSigner(NamedTuple):
    """One person of the development provider who may sign."""

    subject: str
    name: str
    role: Role

    @property
    def file(self) -> str:
        """Return the name of the key file."""
        return self.name.lower().replace(" ", "-") + ".key"

    def person(self, settings: Settings) -> str:
        """Return who that is to the house, "issuer|subject"."""
        return f"{settings.oidc_issuer}|{self.subject}"


SIGNERS: Final = (
    DemonstrationSigner("p-0a8f32", "Lena Fischer", Role.CLINICAL_LEAD),
    DemonstrationSigner("p-5d1be6", "Sami Aalto", Role.SAFETY_OFFICER),
    DemonstrationSigner("p-b20d97", "Pavel Novak", Role.PHYSICIAN),
)
"""The first two sign the demonstration's model; the third is there for whoever tries it."""
AUTHOR: Final = DemonstrationSigner("p-846f2d", "Mira Haddad", Role.MODEL_AUTHOR)
"""Makes the model, and so may not sign for it."""


def folder(settings: Settings) -> Path:
    """Return where a demonstration keeps its signers' keys."""
    return trust.demonstration_root_path(settings).parent


def prepare(settings: Settings, now: datetime) -> None:
    """Make the keys of both people, and a roster signed by a root key that nobody keeps.

    Args:
        settings: of a running demonstration.
        now: real time.

    Raises:
        ConfigurationError: this is no demonstration, or its folder cannot be written.
    """
    if settings.mode != "demo":
        raise ConfigurationError("Demonstration signers exist in demo mode only: use `vigil keys` for real ones.")
    where = folder(settings)
    if trust.demonstration_root_path(settings).exists():
        return
    where.mkdir(mode=0o700, parents=True, exist_ok=True)
    today, until = now.astimezone(UTC).date(), (now + timedelta(days=DAYS)).astimezone(UTC).date()
    signers = []
    for one in SIGNERS:
        key = personal_keys.create(where / one.file, one.person(settings), PASSPHRASE)
        public = roster.SignerKey(kind="ed25519", public=key.verifying.text(), valid_from=today, valid_until=until)
        signers.append(roster.Signer(person=one.person(settings), name=one.name, roles=(one.role,), keys=(public,)))
    draft = roster.Roster(serial=1, issued_at=now, valid_until=until, signers=tuple(signers))
    root = SigningKey.generate()
    signed = where / "roster.signed"
    signed.write_bytes(roster.sign(roster.encode(draft), root))
    trust.demonstration_root_path(settings).write_text(root.verifying.text() + "\n")
    trust.install(settings, signed, today)


def key_of(settings: Settings, signer: DemonstrationSigner) -> SigningKey:
    """Return a demonstration signer's key.

    Raises:
        ConfigurationError: its file is not there.
    """
    return personal_keys.open_key(folder(settings) / signer.file, PASSPHRASE)
