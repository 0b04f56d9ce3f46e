"""The roster that counts here: where it lies, which number came last, putting a new one in its place.

Here: reading the installed roster by the settings, and installing another.
Not here: what a roster says and how signatures are judged (governance.roster).
"""

from __future__ import annotations

import os
from datetime import date
from pathlib import Path

from governance import roster as rosters
from vocabulary.errors import ConfigurationError
from vocabulary.settings import Settings
from vocabulary.signing import VerifyingKey


def roster_path(settings: Settings) -> Path:
    """Return where the signed roster lies."""
    return settings.roster or settings.data_dir / "roster.signed"


def demonstration_root_path(settings: Settings) -> Path:
    """Return where a demonstration keeps its root's public half: beside its data, which only a demonstration may."""
    return settings.data_dir / "signers" / "root.public"


def root_key(settings: Settings) -> VerifyingKey:
    """Return the root's public key.

    Raises:
        ConfigurationError: none is set, or it is no key.
    """
    if settings.signer_root is None and settings.mode == "demo":
        try:
            return VerifyingKey.from_text(demonstration_root_path(settings).read_text().strip())
        except OSError:
            pass  # a demonstration without signers
    if settings.signer_root is None:
        raise ConfigurationError(
            "VIGIL_SIGNER_ROOT is not set, so nobody's signature counts. `vigil keys root` makes it and prints it."
        )
    return VerifyingKey.from_text(settings.signer_root)


def _serial_path(settings: Settings) -> Path:
    return settings.anchors_dir / "roster.serial"


def least_serial(settings: Settings) -> int:
    """Return the greatest roster number that was ever installed here; 0 where there was none.

    Raises:
        ConfigurationError: the note of it is damaged: an old roster could come back unseen.
    """
    path = _serial_path(settings)
    try:
        return int(path.read_text())
    except FileNotFoundError:
        return 0
    except (OSError, ValueError):
        raise ConfigurationError(f"{path} should hold the last roster's number: restore it from a backup.") from None


def load_roster(settings: Settings, today: date) -> rosters.Roster:
    """Return the installed roster.

    Raises:
        ConfigurationError: no root key is set, or there is no roster.
        SignatureRefusedError: the roster does not count; see governance.roster.load.
    """
    return rosters.load(roster_path(settings), root_key(settings), today=today, least_serial=least_serial(settings))


def install(settings: Settings, signed: Path, today: date) -> rosters.Roster:
    """Check a signed roster and put it in the place of the present one, at once for every process.

    Raises:
        ConfigurationError: it cannot be read or written, or its number was installed before with other content.
        SignatureRefusedError: it does not count.
    """
    least = least_serial(settings)
    roster = rosters.load(signed, root_key(settings), today=today, least_serial=least)
    path = roster_path(settings)
    content = signed.read_bytes()
    if roster.serial == least and path.exists() and path.read_bytes() != content:
        raise ConfigurationError(
            f"Another roster {roster.serial} is installed: sign the draft again, which gives it the next number."
        )
    settings.anchors_dir.mkdir(parents=True, exist_ok=True)
    _replace(path, content)
    _replace(_serial_path(settings), f"{roster.serial}\n".encode())
    return roster


def _replace(path: Path, content: bytes) -> None:
    temporary = path.with_name(f".{path.name}.partial")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be written: {error.strerror}.") from None
