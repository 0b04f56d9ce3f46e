"""The roster: only a roster of the root counts, and only signatures that its people made, in time."""

import base64
import subprocess
from datetime import UTC, date, datetime, timedelta

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from governance import roster as rosters
from governance import trust
from governance.access import Role
from governance.roster import Roster, SignatureRefusedError, Signer, SignerKey
from vocabulary.errors import ConfigurationError
from vocabulary.settings import Settings
from vocabulary.signing import SigningKey

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
TODAY = NOW.date()
STATEMENT = b"approve mortality@7 for ICU, evidence sha256:ab12"


def key_of(key, **changes):
    base = SignerKey(
        kind="ed25519", public=key.verifying.text(), valid_from=TODAY - timedelta(30), valid_until=TODAY + timedelta(30)
    )
    return msgspec.structs.replace(base, **changes)


def roster_of(*keys, **changes):
    lena = Signer(person="https://op|lena", name="Lena Fischer", roles=(Role.CLINICAL_LEAD,), keys=keys)
    base = Roster(serial=4, issued_at=NOW, valid_until=TODAY + timedelta(366), signers=(lena,))
    return msgspec.structs.replace(base, **changes)


def refused(roster, signature, statement=STATEMENT, received_at=NOW):
    with pytest.raises(SignatureRefusedError) as caught:
        rosters.check(roster, signature, statement, received_at)
    return caught.value.reason


@pytest.fixture
def root():
    return SigningKey.generate()


@pytest.fixture
def key():
    return SigningKey.generate()


@pytest.fixture
def signed(tmp_path, root, key):
    path = tmp_path / "roster.signed"
    path.write_bytes(rosters.sign(rosters.encode(roster_of(key_of(key))), root))
    return path


def test_a_roster_of_the_root_is_read_as_it_was_written(signed, root, key):
    assert rosters.load(signed, root.verifying, today=TODAY) == roster_of(key_of(key))


def test_openssl_agrees_that_the_root_signed_it(signed, root, tmp_path):
    first, _, content = signed.read_bytes().partition(b"\n")
    (tmp_path / "message").write_bytes(b"vigil.roster.signature.1\n" + content)
    (tmp_path / "signature").write_bytes(base64.b64decode(msgspec.json.decode(first)["signature"]))
    # RFC 8410: SubjectPublicKeyInfo of Ed25519 is these twelve bytes and the key.
    (tmp_path / "key.der").write_bytes(bytes.fromhex("302a300506032b6570032100") + root.verifying.public)
    said = subprocess.run(
        ["openssl", "pkeyutl", "-verify", "-pubin", "-keyform", "DER", "-inkey", "key.der", "-rawin", "-in", "message",
         "-sigfile", "signature"], cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert said.returncode == 0, said


@given(data=st.data())
def test_a_roster_with_any_byte_changed_counts_for_nothing(tmp_path_factory, data):
    root, key = SigningKey(bytes(32)), SigningKey(bytes([1]) * 32)
    content = bytearray(rosters.sign(rosters.encode(roster_of(key_of(key))), root))
    position = data.draw(st.integers(0, len(content) - 1))
    content[position] ^= data.draw(st.integers(1, 255))
    path = tmp_path_factory.mktemp("forged") / "roster.signed"
    path.write_bytes(content)
    reason = ""
    found = None
    try:
        found = rosters.load(path, root.verifying, today=TODAY)
    except SignatureRefusedError as error:
        reason = error.reason
    # A base64 text has a few bits that say nothing: with those changed it is the same signature.
    assert reason == "roster_forged" or found == roster_of(key_of(key))
    assert reason == "roster_forged" or position < content.index(b"\n")


def test_a_roster_of_another_root_is_forged(signed):
    with pytest.raises(SignatureRefusedError, match="not signed by root key"):
        rosters.load(signed, SigningKey.generate().verifying, today=TODAY)


def test_a_roster_that_nobody_renewed_stops_counting(signed, root):
    with pytest.raises(SignatureRefusedError) as caught:
        rosters.load(signed, root.verifying, today=TODAY + timedelta(367))
    assert caught.value.reason == "roster_expired"


def test_an_old_roster_cannot_come_back(signed, root, tmp_path, key):
    settings = Settings(data_dir=tmp_path / "data", signer_root=root.verifying.text())
    settings.data_dir.mkdir()
    newer = tmp_path / "newer"
    newer.write_bytes(rosters.sign(rosters.encode(roster_of(serial=5)), root))
    trust.install(settings, signed, TODAY)
    trust.install(settings, newer, TODAY)
    assert trust.load_roster(settings, TODAY).serial == 5
    with pytest.raises(SignatureRefusedError) as caught:
        trust.install(settings, signed, TODAY)
    assert caught.value.reason == "roster_rolled_back"
    # Not even by hand, behind the command's back.
    trust.roster_path(settings).write_bytes(signed.read_bytes())
    with pytest.raises(SignatureRefusedError, match="number 4; number 5 was here before"):
        trust.load_roster(settings, TODAY)


def test_two_rosters_of_one_number_are_refused(signed, root, tmp_path):
    settings = Settings(data_dir=tmp_path / "data", signer_root=root.verifying.text())
    settings.data_dir.mkdir()
    other = tmp_path / "other"
    other.write_bytes(rosters.sign(rosters.encode(roster_of()), root))
    trust.install(settings, signed, TODAY)
    with pytest.raises(ConfigurationError, match="Another roster 4 is installed"):
        trust.install(settings, other, TODAY)


def test_a_roster_naming_a_key_twice_is_no_roster(key):
    with pytest.raises(ConfigurationError, match="each key once"):
        rosters.sign(rosters.encode(roster_of(key_of(key), key_of(key))), SigningKey.generate())


def test_a_signature_of_a_signer_names_the_person_and_roles(key):
    signature = rosters.sign_statement(key, STATEMENT, NOW)
    said = rosters.check(roster_of(key_of(key)), signature, STATEMENT, NOW + timedelta(seconds=3))
    assert (said.name, said.roles, said.key_id, said.roster_serial) == (
        "Lena Fischer", (Role.CLINICAL_LEAD,), key.key_id, 4,
    )  # fmt: skip


def test_a_stranger_s_signature_does_not_count(key):
    assert (
        refused(roster_of(key_of(key)), rosters.sign_statement(SigningKey.generate(), STATEMENT, NOW)) == "unknown_key"
    )


def test_a_signature_of_another_statement_does_not_count(key):
    signature = rosters.sign_statement(key, STATEMENT, NOW)
    assert refused(roster_of(key_of(key)), signature, STATEMENT + b" ") == "bad_signature"


def test_a_signature_shown_again_later_does_not_count(key):
    signature = rosters.sign_statement(key, STATEMENT, NOW)
    assert refused(roster_of(key_of(key)), signature, received_at=NOW + timedelta(minutes=11)) == "misdated"
    redated = msgspec.structs.replace(signature, signed_at=NOW + timedelta(minutes=11))
    assert refused(roster_of(key_of(key)), redated, received_at=NOW + timedelta(minutes=11)) == "bad_signature"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"valid_from": TODAY + timedelta(1)}, "not_yet_valid"),
        ({"valid_until": TODAY - timedelta(1)}, "expired"),
        ({"revoked_at": NOW - timedelta(seconds=1)}, "revoked"),
        ({"revoked_at": NOW}, "revoked"),
    ],
)
def test_a_key_outside_of_its_time_does_not_count(key, changes, reason):
    assert refused(roster_of(key_of(key, **changes)), rosters.sign_statement(key, STATEMENT, NOW)) == reason


def test_a_revoked_key_cannot_be_dated_back(key):
    roster = roster_of(key_of(key, revoked_at=NOW - timedelta(hours=1)))
    backdated = rosters.sign_statement(key, STATEMENT, NOW - timedelta(hours=2))
    assert refused(roster, backdated, received_at=NOW) == "misdated"


def test_what_a_key_signed_before_its_revocation_still_counts(key):
    roster = roster_of(key_of(key, revoked_at=NOW + timedelta(hours=1)))
    assert rosters.check(roster, rosters.sign_statement(key, STATEMENT, NOW), STATEMENT, NOW).name == "Lena Fischer"


def test_a_roster_s_signature_cannot_be_shown_as_a_statement_s(root):
    content = rosters.encode(roster_of())
    line = msgspec.json.decode(rosters.sign(content, root).partition(b"\n")[0])
    shown = rosters.Signature(key_id=root.key_id, signed_at=NOW, ed25519=line["signature"])
    assert refused(roster_of(key_of(root)), shown, content) == "bad_signature"


def test_without_a_root_key_nobody_counts(tmp_path):
    with pytest.raises(ConfigurationError, match="VIGIL_SIGNER_ROOT"):
        trust.load_roster(Settings(data_dir=tmp_path), date(2026, 11, 23))
