"""Keys in browsers, against an authenticator written from the standard alone."""

import base64
import hashlib
import json
import os
from datetime import UTC, date, datetime

import cbor2
import msgspec
import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from governance import roster as rosters
from governance.access import Role
from governance.passkeys import (
    Assertion,
    RegistrationRefusedError,
    RelyingParty,
    assertion_options,
    check_assertion,
    check_registration,
    registration_options,
)
from governance.roster import Roster, SignatureRefusedError, Signer, SignerKey

US = RelyingParty("vigil.example.org", "https://vigil.example.org")
CHALLENGE = bytes(range(32))
USER_PRESENT, USER_VERIFIED, ATTESTED = 0x01, 0x04, 0x40


def b64(raw):
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


class Authenticator:
    """W3C Web Authentication Level 2, sections 6.1 and 6.5: an ES256 key without attestation."""

    def __init__(self):
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.credential = os.urandom(32)

    def _data(self, host, flags):
        return hashlib.sha256(host.encode()).digest() + bytes([flags]) + (0).to_bytes(4, "big")

    def _client(self, kind, challenge, origin):
        return json.dumps({"type": kind, "challenge": b64(challenge), "origin": origin, "crossOrigin": False}).encode()

    def public(self):
        numbers = self.key.public_key().public_numbers()
        return cbor2.dumps({1: 2, 3: -7, -1: 1, -2: numbers.x.to_bytes(32, "big"), -3: numbers.y.to_bytes(32, "big")})

    def register(self, challenge, origin=US.origin, host=US.host, flags=USER_PRESENT | USER_VERIFIED):
        data = self._data(host, flags | ATTESTED) + bytes(16) + len(self.credential).to_bytes(2, "big")
        attestation = {"fmt": "none", "attStmt": {}, "authData": data + self.credential + self.public()}
        response = {
            "clientDataJSON": b64(self._client("webauthn.create", challenge, origin)),
            "attestationObject": b64(cbor2.dumps(attestation)),
        }
        identity = b64(self.credential)
        return json.dumps({"id": identity, "rawId": identity, "type": "public-key", "response": response}).encode()

    def sign(self, challenge, origin=US.origin, host=US.host, flags=USER_PRESENT | USER_VERIFIED, kind="webauthn.get"):
        client, data = self._client(kind, challenge, origin), self._data(host, flags)
        signature = self.key.sign(data + hashlib.sha256(client).digest(), ec.ECDSA(hashes.SHA256()))
        return Assertion(b64(self.credential), b64(client), b64(data), b64(signature))


@pytest.fixture
def device():
    return Authenticator()


def test_a_registration_yields_the_key_the_device_made(device):
    found = check_registration(device.register(CHALLENGE), CHALLENGE, US)
    assert (found.credential, found.public, found.is_synced) == (b64(device.credential), device.public(), False)


@pytest.mark.parametrize(
    "changes",
    [
        {"origin": "https://evil.example.org"},
        {"origin": "http://vigil.example.org"},
        {"host": "example.org"},
        {"flags": USER_PRESENT},
        {"flags": 0},
    ],
)
def test_a_registration_for_somebody_else_or_by_nobody_is_refused(device, changes):
    with pytest.raises(RegistrationRefusedError):
        check_registration(device.register(CHALLENGE, **changes), CHALLENGE, US)


def test_an_answer_to_another_challenge_is_refused(device):
    with pytest.raises(RegistrationRefusedError):
        check_registration(device.register(bytes(32)), CHALLENGE, US)


@pytest.mark.parametrize("answer", [b"", b"{}", b"[]", b"null", b'{"id": 3}', b"\xff\xfe", b'{"response": {}}'])
def test_an_answer_that_is_none_is_refused(answer):
    with pytest.raises(RegistrationRefusedError):
        check_registration(answer, CHALLENGE, US)


def test_a_signature_of_the_registered_key_holds(device):
    assert check_assertion(device.sign(CHALLENGE), CHALLENGE, US, device.public(), b64(device.credential))


@pytest.mark.parametrize(
    "changes",
    [
        {"origin": "https://evil.example.org"},
        {"host": "example.org"},
        {"flags": USER_PRESENT},
        {"kind": "webauthn.create"},
    ],
)
def test_a_signature_for_somebody_else_or_unverified_does_not_hold(device, changes):
    given = device.sign(CHALLENGE, **changes)
    assert not check_assertion(given, CHALLENGE, US, device.public(), b64(device.credential))


def test_a_signature_of_another_device_does_not_hold(device):
    other = Authenticator()
    assert not check_assertion(other.sign(CHALLENGE), CHALLENGE, US, device.public(), b64(device.credential))
    posing = msgspec.structs.replace(other.sign(CHALLENGE), credential=b64(device.credential))
    assert not check_assertion(posing, CHALLENGE, US, device.public(), b64(device.credential))


def test_the_options_name_us_and_demand_a_verified_user(device):
    options = json.loads(registration_options(US, CHALLENGE, "https://op|lena", "Lena Fischer", (b64(b"known"),)))
    assert options["rp"]["id"] == US.host
    assert options["challenge"] == b64(CHALLENGE)
    assert options["authenticatorSelection"]["userVerification"] == "required"
    assert [one["id"] for one in options["excludeCredentials"]] == [b64(b"known")]
    assert "lena" not in base64.urlsafe_b64decode(options["user"]["id"] + "==").decode("latin-1")
    assert json.loads(assertion_options(US, CHALLENGE, (b64(b"known"),)))["userVerification"] == "required"


def test_a_roster_takes_a_browser_s_signature_of_a_statement(device):
    now = datetime(2026, 11, 23, 12, tzinfo=UTC)
    key = SignerKey(
        kind="webauthn", public=base64.b64encode(device.public()).decode(), credential=b64(device.credential),
        valid_from=date(2026, 1, 1), valid_until=date(2026, 12, 31),
    )  # fmt: skip
    lena = Signer(person="https://op|lena", name="Lena Fischer", roles=(Role.CLINICAL_LEAD,), keys=(key,))
    roster = Roster(serial=1, issued_at=now, valid_until=date(2027, 1, 1), signers=(lena,))
    given = device.sign(rosters.challenge(b"approve", now))
    signature = rosters.Signature(key_id=key.key_id, signed_at=now, webauthn=given)
    assert rosters.check(roster, signature, b"approve", now, US).person == "https://op|lena"
    with pytest.raises(SignatureRefusedError):
        rosters.check(roster, signature, b"approve all", now, US)
    with pytest.raises(SignatureRefusedError):
        rosters.check(roster, signature, b"approve", now, None)
