"""Personal key files: only the passphrase opens them, and nothing in them can be exchanged."""

import json
import stat

import pytest

from governance import personal_keys
from governance.personal_keys import WrongPassphraseError
from vocabulary.errors import ConfigurationError
from vocabulary.signing import SigningKey, VerifyingKey

PASSPHRASE = "heron copper ninety lantern"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    path = tmp_path_factory.mktemp("keys") / "lena.key"
    return path, personal_keys.create(path, "https://op|lena", PASSPHRASE)


def test_the_passphrase_opens_the_key_that_was_made(made):
    path, key = made
    opened = personal_keys.open_key(path, PASSPHRASE)
    assert opened.key_id == key.key_id
    assert VerifyingKey.from_text(personal_keys.owner_of(path)[1]).is_valid(opened.sign(b"x"), b"x")


def test_the_file_is_its_owner_s_alone_and_holds_no_seed(made):
    path, key = made
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    content = path.read_bytes()
    assert key.seed() not in content
    assert key.seed().hex().encode() not in content
    assert "seed" not in repr(key)
    assert key.seed().hex() not in repr(key)


def test_another_passphrase_opens_nothing(made):
    with pytest.raises(WrongPassphraseError):
        personal_keys.open_key(made[0], PASSPHRASE + " ")


@pytest.mark.parametrize("field", ["owner", "public", "salt", "nonce", "sealed"])
def test_an_altered_file_opens_for_nobody(made, tmp_path, field):
    content = json.loads(made[0].read_bytes())
    if field == "public":
        content[field] = SigningKey.generate().verifying.text()
    elif field == "owner":
        content[field] = "https://op|mallory"
    else:
        first = content[field][0]
        content[field] = ("A" if first != "A" else "B") + content[field][1:]
    path = tmp_path / "altered.key"
    path.write_text(json.dumps(content))
    with pytest.raises(WrongPassphraseError):
        personal_keys.open_key(path, PASSPHRASE)


def test_a_file_that_would_take_all_memory_is_refused(made, tmp_path):
    content = json.loads(made[0].read_bytes()) | {"argon2id": [3, 4, 2**40]}
    path = tmp_path / "greedy.key"
    path.write_text(json.dumps(content))
    with pytest.raises(ConfigurationError, match="not a key file"):
        personal_keys.open_key(path, PASSPHRASE)


def test_a_key_is_never_overwritten(made):
    with pytest.raises(ConfigurationError, match="never overwritten"):
        personal_keys.create(made[0], "https://op|lena", PASSPHRASE)


@pytest.mark.parametrize("passphrase", ["", "short one", "aaaaaaaaaaaaaaaaaaaa"])
def test_a_weak_passphrase_is_refused(tmp_path, passphrase):
    with pytest.raises(ConfigurationError, match="passphrase needs"):
        personal_keys.create(tmp_path / "weak.key", "x", passphrase)
