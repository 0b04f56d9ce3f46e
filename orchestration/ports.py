"""TCP ports of this machine: which are free.

Here: asking the operating system.
Not here: which port a service gets and keeps (orchestration.data_dir).
"""

from __future__ import annotations

import socket
from typing import Final

from vocabulary.errors import ConfigurationError

LOOPBACK: Final = "127.0.0.1"


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


def require_free(port: int, what: str, setting: str, host: str = LOOPBACK) -> None:
    """Check that nothing listens on `port` of `host`.

    Raises:
        ConfigurationError: something does; names the setting to change.
    """
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise ConfigurationError(
                f"{what} cannot use port {port} on {host}: {error.strerror}. "
                f"Stop what listens there, or set {setting} to another port (0 takes a free one)."
            ) from error
