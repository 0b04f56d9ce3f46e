"""nats-server as a child process: the embedded default and the tests' server.

Here: finding the binary, starting, health, stopping.
Not here: what each may say and hear (orchestration.nats_configuration), when it runs (orchestration.services).
"""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import subprocess
import sys
import sysconfig
import time
from pathlib import Path
from typing import NamedTuple

from orchestration import nats_configuration
from orchestration.ports import LOOPBACK, require_free
from orchestration.service_files import kept_secret, log_tail
from vocabulary.errors import ConfigurationError, UnavailableError
from vocabulary.tls import Identity


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


class NatsTls(NamedTuple):
    """What a nats-server that speaks only TLS needs."""

    server: Identity
    """What it shows; its `authority.pem` says whose clients it believes."""
    key_file: Path
    """Holds the key of what it keeps on disk: letters and digits, beginning with a letter; made when missing."""
    mqtt_host: str
    """Address its MQTT listener binds."""
    mqtt_identity: Identity
    """What that shows where it speaks TLS; its `authority.pem` says whose devices it believes."""
    is_mqtt_tls: bool
    """Whether MQTT speaks TLS, too."""


_STORE_KEY_VARIABLE = "VIGIL_NATS_STORE_KEY"


class EmbeddedNats:
    """One nats-server under a folder, JetStream fsyncing every write; only its MQTT listener may leave loopback."""

    def __init__(self, folder: Path, port: int, mqtt_port: int | None = None, tls: NatsTls | None = None) -> None:
        """Describe the server; nothing is started.

        Args:
            folder: holds the JetStream store, configuration, token and log; made when missing.
            port: client port on loopback.
            mqtt_port: MQTT 3.1.1 port; None for no MQTT.
            tls: the certificates it speaks TLS with; None only for tests: a password over plain loopback.
        """
        self.folder = folder.absolute()
        self.port = port
        self.mqtt_port = mqtt_port
        self.tls = tls
        self.held_raw = False
        """Whether RAW was on the disk before the server was started: then it must show it."""
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def mqtt_host(self) -> str:
        """Return the address the MQTT listener binds."""
        return self.tls.mqtt_host if self.tls is not None else LOOPBACK

    def _configuration(self) -> str:
        if self.tls is not None:
            return nats_configuration.render(
                nats_configuration.NatsPlan(
                    folder=self.folder,
                    listen=LOOPBACK,
                    port=self.port,
                    mqtt_listen=self.tls.mqtt_host,
                    mqtt_port=self.mqtt_port,
                    identity=self.tls.server.folder,
                    jetstream_key_variable=_STORE_KEY_VARIABLE,
                    is_mqtt_tls=self.tls.is_mqtt_tls,
                    devices=nats_configuration.read_devices(self.folder / "devices.json"),
                    mqtt_identity=self.tls.mqtt_identity.folder,
                )
            )
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
            f'authorization {{ users: [ {{ user: "vigil", password: "{self._token()}" }} ] }}\n{mqtt}'
        )

    def _token(self) -> str:
        return kept_secret(self.folder / "password", secrets.token_urlsafe(24))

    def _environment(self) -> dict[str, str]:
        if self.tls is None:
            return {}
        # As configuration it must begin with a letter and hold nothing but letters and digits.
        return {_STORE_KEY_VARIABLE: kept_secret(self.tls.key_file, f"k{secrets.token_hex(32)}")}

    def start(self, timeout_s: float = 20) -> None:
        """Start the server and wait until it accepts connections.

        Raises:
            ConfigurationError: a port is taken or the binary is missing.
            UnavailableError: it did not come up in time; the message ends with its log's last lines.
        """
        binary = find_nats_binary()
        require_free(self.port, "nats-server", "VIGIL_NATS_PORT")
        if self.mqtt_port is not None:
            require_free(self.mqtt_port, "nats-server's MQTT listener", "VIGIL_MQTT_PORT", self.mqtt_host)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.folder.chmod(0o700)  # RAW holds patients' messages as they came
        if self.tls is not None:
            nats_configuration.adopt_store(self.folder)
            self.held_raw = nats_configuration.holds_raw(self.folder)
        configuration = self.folder / "nats.conf"
        configuration.touch(mode=0o600)
        configuration.write_text(self._configuration())
        with (self.folder / "log").open("ab") as log:
            # Its own session: a Ctrl-C at the terminal goes to `vigil up`, which stops services in order.
            self.process = subprocess.Popen(
                [str(binary), "-c", str(configuration)],
                env={"PATH": os.environ.get("PATH", os.defpath)} | self._environment(),
                stdout=log,
                stderr=log,
                start_new_session=True,
                umask=0o077,
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
        """Return the connection address; without TLS (tests) with its password."""
        if self.tls is not None:
            return f"tls://{LOOPBACK}:{self.port}"
        return f"nats://vigil:{self._token()}@{LOOPBACK}:{self.port}"
