"""The signers' roster: whose signature counts, for what, until when. A file outside of the database, signed offline.

Keys beside rows prove nothing to a database's administrator, so the roster lies in a file signed by a root key that is
kept off this machine; only the root's public half is known here (settings.signer_root). The file's first line is the
signature, the rest is the roster as JSON, byte for byte what was signed.

Here: the roster's records, reading one that is validly signed, and judging one person's signature by it.
Not here: key files and passphrases (governance.personal_keys), the browser's ceremony (governance.passkeys), how many
signatures of which roles an approval needs (governance.approvals).
Source: design.md section 6 (trust root); RFC 8032; W3C Web Authentication Level 2 for keys of kind `webauthn`.
"""

from __future__ import annotations

import base64
import hashlib
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Final, Literal

import msgspec

from governance.access import Role
from governance.passkeys import Assertion, RelyingParty, check_assertion
from vocabulary.errors import ConfigurationError, RefusedError
from vocabulary.signing import SigningKey, VerifyingKey, key_id_of

FORMAT: Final = "vigil.roster.1"
_ROSTER_DOMAIN: Final = b"vigil.roster.signature.1\n"
_STATEMENT_DOMAIN: Final = b"vigil.statement.signature.1\n"
"""What is signed begins with its domain: a signature of one kind can never be shown as one of the other."""


RECEIPT_TOLERANCE: Final = timedelta(minutes=10)
"""How far the time a signature names may lie from when we received it."""


class SignatureRefusedError(RefusedError):
    """A signature does not count: `reason` says why, in a fixed word, for the audit."""

    def __init__(self, reason: str, text: str) -> None:
        """Name the reason and say it to a person."""
        super().__init__(text)
        self.reason = reason


class SignerKey(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One key of a person."""

    kind: Literal["ed25519", "webauthn"]
    public: str  # base64: 32 bytes (ed25519), or the COSE key (webauthn)
    credential: str = ""  # webauthn: the credential's id, base64url
    valid_from: date
    valid_until: date
    revoked_at: datetime | None = None  # signatures made before it still count
    revoked_because: str = ""

    @property
    def key_id(self) -> str:
        """Return the key's short name."""
        return key_id_of(base64.b64decode(self.public))


class Signer(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One person who may sign."""

    person: str  # "issuer|subject", as governance.access.Principal.agent
    name: str
    roles: tuple[Role, ...]
    keys: tuple[SignerKey, ...]


class Roster(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Everybody who may sign."""

    format: str = FORMAT
    serial: int  # grows with every signed roster: an old one cannot come back
    issued_at: datetime
    valid_until: date  # a roster that nobody renewed stops counting
    signers: tuple[Signer, ...] = ()

    def signer_of(self, key_id: str) -> tuple[Signer, SignerKey] | None:
        """Return who holds a key, or None."""
        for signer in self.signers:
            for key in signer.keys:
                if key.key_id == key_id:
                    return signer, key
        return None


class Signature(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A person's signature of a statement, to be kept beside what it approves."""

    key_id: str
    signed_at: datetime
    ed25519: str = ""  # base64, 64 bytes
    webauthn: Assertion | None = None


class SignedBy(msgspec.Struct, frozen=True):
    """What a signature that counts says: who, in which roles, by which key, and under which roster."""

    person: str
    name: str
    roles: tuple[Role, ...]
    key_id: str
    roster_serial: int


class _FirstLine(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    root: str  # key id
    signature: str  # base64


def encode(roster: Roster) -> bytes:
    """Return a roster as a draft's bytes: JSON that a person can read."""
    return msgspec.json.format(msgspec.json.encode(roster), indent=2) + b"\n"


def decode(content: bytes) -> Roster:
    """Return a draft's roster.

    Raises:
        ConfigurationError: it is not a roster, names one key twice, or a person twice.
    """
    try:
        roster = msgspec.json.decode(content, type=Roster)
        ids = [key.key_id for signer in roster.signers for key in signer.keys]
    except (msgspec.MsgspecError, ValueError) as error:
        raise ConfigurationError(f"This is not a signers' roster: {type(error).__name__}: {error}.") from None
    people = [signer.person for signer in roster.signers]
    if roster.format != FORMAT or len(set(ids)) < len(ids) or len(set(people)) < len(people):
        raise ConfigurationError(f"A roster is {FORMAT} and names each person and each key once.")
    return roster


def sign(content: bytes, root: SigningKey) -> bytes:
    """Return the signed file of a draft's bytes.

    Raises:
        ConfigurationError: the bytes are not a roster.
    """
    decode(content)
    signature = base64.b64encode(root.sign(_ROSTER_DOMAIN + content)).decode()
    return msgspec.json.encode(_FirstLine(root.key_id, signature)) + b"\n" + content


def load(path: Path, root: VerifyingKey, *, today: date, least_serial: int = 0) -> Roster:
    """Return the roster of a file, once its signature, date and serial hold.

    Args:
        path: the signed file.
        root: the root's public key.
        today: a roster counts until the end of its last day.
        least_serial: the greatest serial seen so far; an older roster is refused.

    Raises:
        ConfigurationError: the file is missing or unreadable.
        SignatureRefusedError: `roster_forged`, `roster_expired` or `roster_rolled_back`.
    """
    try:
        first, _, content = path.read_bytes().partition(b"\n")
    except OSError as error:
        raise ConfigurationError(
            f"The signers' roster {path} cannot be read: {error.strerror}. `vigil keys roster` makes and signs one."
        ) from None
    try:
        found = msgspec.json.decode(first, type=_FirstLine)
        signature = base64.b64decode(found.signature, validate=True)
    except (msgspec.MsgspecError, ValueError):
        raise SignatureRefusedError("roster_forged", f"{path} does not begin with a roster's signature.") from None
    if found.root != root.key_id or not root.is_valid(signature, _ROSTER_DOMAIN + content):
        raise SignatureRefusedError(
            "roster_forged",
            f"The roster {path} is not signed by root key {root.key_id} (its signature names {found.root[:16]}). "
            "Nobody's signature counts until one is that is.",
        )
    roster = decode(content)
    if roster.valid_until < today:
        raise SignatureRefusedError(
            "roster_expired", f"The roster {path} ended on {roster.valid_until}: sign a new one with the root key."
        )
    if roster.serial < least_serial:
        raise SignatureRefusedError(
            "roster_rolled_back", f"The roster {path} is number {roster.serial}; number {least_serial} was here before."
        )
    return roster


def statement_digest(statement: bytes) -> bytes:
    """Return what a key signs for a statement, 32 bytes: the SHA-256 over its domain and its bytes."""
    return hashlib.sha256(_STATEMENT_DOMAIN + statement).digest()


def sign_statement(key: SigningKey, statement: bytes, at: datetime) -> Signature:
    """Return a person's signature of a statement by a key file's key."""
    signature = base64.b64encode(key.sign(statement_digest(_dated(statement, at)))).decode()
    return Signature(key_id=key.key_id, signed_at=at, ed25519=signature)


def _dated(statement: bytes, at: datetime) -> bytes:
    # The time is signed too, so that a signature cannot be shown again later as a new one.
    return at.astimezone(UTC).isoformat(timespec="microseconds").encode() + b"\n" + statement


def challenge(statement: bytes, at: datetime) -> bytes:
    """Return what a browser's key is asked to sign for a statement made at a time, 32 bytes."""
    return statement_digest(_dated(statement, at))


def check(
    roster: Roster,
    signature: Signature,
    statement: bytes,
    received_at: datetime,
    party: RelyingParty | None = None,
) -> SignedBy:
    """Return who signed a statement, if that signature counts by the roster.

    What counts is when it was received: the time a signature names is its maker's word, and whoever holds a revoked
    key would date it back.

    Args:
        roster: as `load` returned it.
        signature: as it was kept.
        statement: the exact bytes that were signed.
        received_at: when we received it, as the audit says.
        party: our name towards browsers; needed for keys of kind `webauthn`.

    Raises:
        SignatureRefusedError: `unknown_key`, `misdated`, `not_yet_valid`, `expired`, `revoked` or `bad_signature`.
    """
    found = roster.signer_of(signature.key_id)
    if found is None:
        raise SignatureRefusedError("unknown_key", f"No signer of roster {roster.serial} holds key {signature.key_id}.")
    signer, key = found
    if abs(received_at - signature.signed_at) > RECEIPT_TOLERANCE:
        raise SignatureRefusedError("misdated", "The signature names another time than when it was received.")
    on = received_at.astimezone(UTC).date()
    if on < key.valid_from:
        raise SignatureRefusedError("not_yet_valid", f"Key {key.key_id} of {signer.name} counts from {key.valid_from}.")
    if on > key.valid_until:
        raise SignatureRefusedError("expired", f"Key {key.key_id} of {signer.name} ended on {key.valid_until}.")
    if key.revoked_at is not None and received_at >= key.revoked_at:
        raise SignatureRefusedError("revoked", f"Key {key.key_id} of {signer.name} was revoked.")
    if not _holds(key, signature, statement, party):
        raise SignatureRefusedError("bad_signature", f"This is not what key {key.key_id} of {signer.name} signed.")
    return SignedBy(signer.person, signer.name, signer.roles, key.key_id, roster.serial)


def _holds(key: SignerKey, signature: Signature, statement: bytes, party: RelyingParty | None) -> bool:
    expected = challenge(statement, signature.signed_at)
    public = base64.b64decode(key.public)
    if key.kind == "ed25519":
        try:
            given = base64.b64decode(signature.ed25519, validate=True)
        except ValueError:
            return False
        return VerifyingKey(public).is_valid(given, expected)
    if signature.webauthn is None or party is None:
        return False
    return check_assertion(signature.webauthn, expected, party, public, key.credential)
