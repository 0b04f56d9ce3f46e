"""PostgreSQL as a child process on loopback: the embedded default and the tests' server.

Here: making and checking a data directory, starting, health, stopping.
Not here: programs (orchestration.postgres_binaries), configuration (orchestration.postgres_configuration), when it
runs (orchestration.services).
"""

from __future__ import annotations

import os
import pwd
import secrets
import shutil
import subprocess
from pathlib import Path

import psutil

from orchestration import postgres_configuration
from orchestration.ports import LOOPBACK, require_free
from orchestration.postgres_binaries import find_postgres_binaries
from orchestration.postgres_configuration import OWNER, PostgresTls
from orchestration.service_files import kept_secret, log_tail
from vocabulary.errors import ConfigurationError, UnavailableError
from vocabulary.tls import Identity


def may_reach(path: Path, owner: pwd.struct_passwd) -> bool:
    """Return whether `owner` may pass through every folder down to `path` (the path itself included)."""
    for folder in (path, *path.parents):
        found = folder.stat()
        if found.st_uid == owner.pw_uid:
            bit = 0o100
        elif found.st_gid == owner.pw_gid:
            bit = 0o010
        else:
            bit = 0o001
        if not found.st_mode & bit:
            return False
    return True


class EmbeddedPostgres:
    """One PostgreSQL server under a folder, on loopback, with a generated password for the database's owner."""

    def __init__(
        self,
        folder: Path,
        port: int,
        binaries: Path | None = None,
        fsync: bool = True,
        tls: PostgresTls | None = None,
    ) -> None:
        """Describe the server; nothing is started.

        Args:
            folder: holds `data`, `password` and `log`; made when missing.
            port: TCP port on loopback.
            binaries: PostgreSQL's `bin` folder; None finds one.
            fsync: False only for tests that do not kill the server.
            tls: the certificates it speaks TLS with; None: passwords over plain loopback, for binaries built without
                TLS and for tests.
        """
        self.folder = folder.absolute()
        self.port = port
        has_data = (self.data / "PG_VERSION").exists()
        self.binaries = binaries or find_postgres_binaries(self.data if has_data or tls else None)
        self.tls = tls
        self._fsync = fsync
        # PostgreSQL refuses to run as root, so it runs as `nobody`, who needs no account of ours.
        self._owner = pwd.getpwnam("nobody") if os.geteuid() == 0 else None

    @property
    def data(self) -> Path:
        """Return PostgreSQL's own data directory."""
        return self.folder / "data"

    def _run(self, *arguments: str, timeout_s: float = 120) -> subprocess.CompletedProcess[str]:
        self._make_reachable()
        command = [str(self.binaries / arguments[0]), *arguments[1:]]
        # Not ours: it may hold secrets, and the server never needs any.
        environment = {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C.UTF-8"}
        if self._owner is None:
            return subprocess.run(
                command, capture_output=True, text=True, cwd="/", env=environment, timeout=timeout_s, check=False
            )
        return subprocess.run(
            command,
            capture_output=True,
            text=True,
            cwd="/",
            env=environment,
            timeout=timeout_s,
            check=False,
            user=self._owner.pw_uid,
            group=self._owner.pw_gid,
            extra_groups=[],
        )

    def _make_reachable(self) -> None:
        """See to it that PostgreSQL's own user gets to its folder and its programs.

        Raises:
            ConfigurationError: the folder lies below one that PostgreSQL's user may not pass.
        """
        if self._owner is None:
            return
        if not may_reach(self.folder.parent.resolve(), self._owner):
            raise ConfigurationError(
                f"PostgreSQL runs as `{self._owner.pw_name}` here (it refuses to run as root), and that user may not "
                f"reach {self.folder}. Set VIGIL_DATA_DIR to a folder whose parents all have the x permission for "
                "others, such as /var/lib/vigil, or run as an ordinary user."
            )
        if may_reach(self.binaries.resolve(), self._owner):
            return
        self.binaries = self._copied_programs() / "bin"

    def _copied_programs(self) -> Path:
        """Copy PostgreSQL's installation to where its user can run it: the environment may lie below /root (0700)."""
        install = self.binaries.resolve().parent
        package = install.parent
        copy = self.folder / f"programs-{install.name}-{int((install / 'bin/postgres').stat().st_mtime)}"
        if not copy.exists():
            partial = copy.with_suffix(".partial")
            shutil.rmtree(partial, ignore_errors=True)
            shutil.copytree(install, partial / package.name / install.name, symlinks=True)
            # A wheel's programs look for their libraries in ../../../<package>.libs: the layout must stay.
            libraries = package.with_name(f"{package.name}.libs")
            if libraries.exists():
                shutil.copytree(libraries, partial / libraries.name, symlinks=True)
            partial.rename(copy)
        return copy / package.name / install.name

    def _hand_over(self, path: Path, mode: int) -> None:
        path.chmod(mode)
        if self._owner is not None:
            os.chown(path, self._owner.pw_uid, self._owner.pw_gid)

    def _initialise(self) -> None:
        password_file = self.folder / "password"
        kept_secret(password_file, secrets.token_urlsafe(24))
        self._hand_over(password_file, 0o600)
        made = self._run(
            "initdb", "-D", str(self.data), "-U", "vigil", "--pwfile", str(password_file), "-A", "scram-sha-256",
            "-E", "UTF8", "--locale=C.UTF-8", "--data-checksums", *([] if self._fsync else ["--no-sync"]),
        )  # fmt: skip
        if made.returncode != 0:
            shutil.rmtree(self.data, ignore_errors=True)
            raise ConfigurationError(
                f"PostgreSQL could not make its data directory {self.data}: {made.stderr.strip()[-400:]}. "
                "Check free space, and that the folder is reachable by the user PostgreSQL runs as."
            )

    def _check_version(self) -> None:
        found = (self.data / "PG_VERSION").read_text().strip()
        wanted = self._run("postgres", "--version").stdout.split()[-1].split(".")[0]
        if found != wanted:
            raise ConfigurationError(
                f"{self.data} was written by PostgreSQL {found}, the binaries in {self.binaries} are {wanted}. "
                f"Set VIGIL_POSTGRES_BIN to PostgreSQL {found}, or use another VIGIL_DATA_DIR."
            )

    def start(self) -> None:
        """Start the server and wait until it answers.

        Raises:
            ConfigurationError: the port is taken, the data directory is unusable or of another version.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        self._hand_over(self.folder, 0o700)
        if self.is_running():
            return
        require_free(self.port, "PostgreSQL", "VIGIL_POSTGRES_PORT")
        self._forget_stranger()
        if (self.data / "PG_VERSION").exists():
            self._check_version()
        else:
            self._initialise()
        # Written at every start: a data directory from before TLS is brought up to date, a renewed certificate placed.
        self._place_files()
        # No Unix socket (-k ''): its path may be 107 bytes at most, which a data directory's may exceed.
        options = f"-p {self.port} -h {LOOPBACK} -k '' -c max_connections=60 -c shared_buffers=256MB"
        options += " -c wal_compression=on -c max_wal_size=2GB -c timezone=UTC"
        spoken = postgres_configuration.TLS_OPTIONS if self.tls else postgres_configuration.PLAIN_OPTIONS
        options += "".join(f" -c {option}" for option in (*postgres_configuration.LOGGING_OPTIONS, *spoken))
        if not self._fsync:
            options += " -c fsync=off -c synchronous_commit=off -c full_page_writes=off"
        # -l: a piped standard output would be inherited by the server and never close.
        started = self._run(
            "pg_ctl", "-D", str(self.data), "-l", str(self.folder / "log"), "-w", "-t", "60", "-o", options, "start"
        )
        if started.returncode != 0:
            log = self.folder / "log"
            raise UnavailableError(f"PostgreSQL did not start: {log_tail(log)} (whole log: {log})")

    def _place_files(self) -> None:
        owner = (self._owner.pw_uid, self._owner.pw_gid) if self._owner is not None else None
        postgres_configuration.place(self.tls, self.data, owner)

    def reload(self) -> None:
        """Take renewed certificates and access rules into use; connections that are open stay open."""
        if self.pid() is not None:
            self._place_files()
            self._run("pg_ctl", "-D", str(self.data), "reload")

    def _recorded_pid(self) -> int | None:
        try:
            return int((self.data / "postmaster.pid").read_text().splitlines()[0])
        except (FileNotFoundError, IndexError, ValueError):
            return None

    def _forget_stranger(self) -> None:
        # After a power cut another program may have the dead server's number, and PostgreSQL would not start.
        recorded = self._recorded_pid()
        if recorded is not None and self.pid() is None and psutil.pid_exists(recorded):
            (self.data / "postmaster.pid").unlink(missing_ok=True)

    def pid(self) -> int | None:
        """Return the postmaster's process id, or None when it does not run."""
        number = self._recorded_pid()
        if number is None:
            return None
        try:
            process = psutil.Process(number)
            is_ours = process.status() != psutil.STATUS_ZOMBIE and str(self.data) in process.cmdline()
        except psutil.NoSuchProcess:
            return None
        except psutil.AccessDenied:
            is_ours = False
        return number if is_ours else None

    def is_running(self) -> bool:
        """Return whether the server runs from this folder."""
        return self.pid() is not None and self._run("pg_ctl", "-D", str(self.data), "status").returncode == 0

    def stop(self, mode: str = "fast") -> None:
        """Stop the server: `fast` (clean) or `immediate` (as a crash)."""
        if self.pid() is not None:
            self._run("pg_ctl", "-D", str(self.data), "-m", mode, "-w", "-t", "60", "stop")

    def url(self, database: str = "postgres") -> str:
        """Return the address of the database's owner, with the password: for migrations, never for a process."""
        password = (self.folder / "password").read_text().strip()
        shown = self.tls.owner if self.tls is not None else None
        return postgres_configuration.address(self.port, OWNER, shown, database, password)

    def role_url(self, role: str, identity: Identity, database: str = "postgres") -> str:
        """Return the address of a process: its role, proven by its certificate."""
        return postgres_configuration.address(self.port, role, identity, database)
