"""A master key inside a token, against SoftHSM: it never leaves, sessions come back, and each fault says what it is."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from pydantic import SecretStr

from governance.key_rotation import destroy_master, make_successor, rotate_master
from governance.master_key import open_master
from governance.pkcs11_key import Pkcs11Key
from governance.privacy import open_ring, prepare
from stores.database import connect, migrate
from stores.envelope import key_id_of
from vocabulary.clock import SystemClock
from vocabulary.errors import BrokenInvariantError, ConfigurationError
from vocabulary.settings import Settings

MODULE = Path("/usr/lib/softhsm/libsofthsm2.so")
pytestmark = pytest.mark.skipif(
    not MODULE.exists() or shutil.which("softhsm2-util") is None, reason="softhsm2 is not installed"
)


@pytest.fixture(scope="module")
def token(tmp_path_factory):
    """One token for the module: a PKCS#11 library reads its configuration once a process."""
    folder = tmp_path_factory.mktemp("softhsm")
    (folder / "tokens").mkdir()
    (folder / "softhsm2.conf").write_text(f"directories.tokendir = {folder}/tokens\nlog.level = ERROR\n")
    before = os.environ.get("SOFTHSM2_CONF")
    os.environ["SOFTHSM2_CONF"] = str(folder / "softhsm2.conf")
    subprocess.run(
        ["softhsm2-util", "--init-token", "--free", "--label", "vigil test", "--pin", "9911", "--so-pin", "5678"],
        check=True,
        capture_output=True,
    )
    yield folder
    if before is None:
        del os.environ["SOFTHSM2_CONF"]
    else:
        os.environ["SOFTHSM2_CONF"] = before


def address(key: str, token_label: str = "vigil%20test", module: Path = MODULE) -> str:
    return f"pkcs11:{module}?token={token_label}&key={key}"


@pytest.fixture
def key(token):
    made = Pkcs11Key(address("master"), "9911", is_new=True)
    yield made
    made.destroy()
    made.close()


def test_a_key_wraps_and_unwraps_inside_the_token(key, token, tmp_path):
    settings = Settings(data_dir=tmp_path, master_key=address("master"), master_key_pin=SecretStr("9911"))
    master = open_master(settings)
    assert master.key_id == key.key_id
    wrapped = master.wrap(b"d" * 32, b"row 1")
    assert master.unwrap(wrapped.master_key_id, wrapped.wrapped, b"row 1") == b"d" * 32
    assert key.unwrap(wrapped.wrapped, b"row 1") == b"d" * 32, "two sessions at once"
    with pytest.raises(BrokenInvariantError, match="does not unwrap"):
        master.unwrap(wrapped.master_key_id, wrapped.wrapped, b"row 2")
    with pytest.raises(BrokenInvariantError, match="does not unwrap"):
        master.unwrap(wrapped.master_key_id, wrapped.wrapped[:-1] + bytes([wrapped.wrapped[-1] ^ 1]), b"row 1")
    assert key.unwrap(wrapped.wrapped, b"row 1") == b"d" * 32, "a refused one leaves the session usable"
    master.close()
    assert not (tmp_path / "keys").exists()


def test_the_key_cannot_be_taken_out(key, token):
    from pkcs11 import Attribute
    from pkcs11 import exceptions as faults

    assert key._key[Attribute.EXTRACTABLE] is False
    assert key._key[Attribute.SENSITIVE] is True
    with pytest.raises(faults.AttributeSensitive):
        _ = key._key[Attribute.VALUE]


def test_a_session_that_the_token_ended_is_opened_again(key):
    wrapped = key.wrap(b"d" * 32, b"c")
    key._session.close()
    assert key.unwrap(wrapped, b"c") == b"d" * 32


@pytest.mark.parametrize(
    ("where", "pin", "says"),
    [
        (address("nobody"), "9911", "--create"),
        (address("master", token_label="other"), "9911", "No token"),
        (address("master"), "0000", "refuses the PIN"),
        (address("master", module=Path("/nowhere/lib.so")), "9911", "cannot be loaded"),
    ],
)
def test_each_fault_says_what_it_is(token, where, pin, says):
    # In a process of its own: a login is the process's, and a second session would be let in on the first one's PIN.
    program = textwrap.dedent(
        """
        import sys
        from governance.pkcs11_key import Pkcs11Key
        from vocabulary.errors import ConfigurationError
        try:
            Pkcs11Key(sys.argv[1], sys.argv[2])
        except ConfigurationError as error:
            print(error)
        """
    )
    done = subprocess.run([sys.executable, "-c", program, where, pin], capture_output=True, text=True, check=False)
    assert says in done.stdout, done.stderr
    assert pin not in done.stdout


def test_a_label_is_made_once(key):
    with pytest.raises(ConfigurationError, match="already"):
        Pkcs11Key(address("master"), "9911", is_new=True)


def test_a_forked_child_is_told_to_open_its_own(key, monkeypatch):
    """PKCS #11 leaves a child without a usable module; calling into it may hang."""
    monkeypatch.setattr(key, "_process", os.getpid() + 1)
    with pytest.raises(BrokenInvariantError, match="fork"):
        key.wrap(b"d" * 32, b"c")
    monkeypatch.undo()


async def test_a_house_moves_from_a_file_into_a_token_and_reads_on(key, tmp_path, database_url):
    settings = Settings(data_dir=tmp_path, master_key_pin=SecretStr("9911"))
    prepare(settings)
    await migrate(database_url)
    connection = await connect(database_url, application_name="test")
    running = await open_ring(settings, database_url)
    moved = None
    try:
        await running.ensure([7, 8])
        sealed = running.seal(7, b"p", b"body")
        master = open_master(settings)
        before = master.key_id
        successor = make_successor(settings, address("master"), master.known())
        done = await rotate_master(connection, settings, master, successor, SystemClock())
        assert (done.master_key_id, done.rewrapped) == (key.key_id, 2)
        # The running process still has the file configured: it follows by what keys_dir says.
        await running.ensure([9])
        assert running.master.key_id == key.key_id
        await destroy_master(connection, settings, open_master(settings), before, SystemClock())
        (settings.keys_dir / "master.key").unlink()
        moved = await open_ring(settings.model_copy(update={"master_key": address("master")}), database_url)
        await moved.load([key_id_of(sealed)])
        assert moved.unseal(7, b"p", sealed) == b"body"
        await moved.ensure([7, 8, 9, 10])
    finally:
        await running.close()
        if moved is not None:
            await moved.close()
        await connection.close()
