"""Signing in to a demonstration: the development issuer as one of the services.

Here: how it is started, and the settings that make the clinic use it.
Not here: the issuer (hospital.issuer: a stranger, run as a process), real providers (VIGIL_OIDC_ISSUER).
"""

from __future__ import annotations

import os

from orchestration.data_dir import DataDir
from orchestration.ports import LOOPBACK
from orchestration.service_kinds import ProcessService
from vocabulary.settings import Settings

NAME = "issuer"
PEOPLE = (
    "Nora Lind (nurse), Pavel Novak (physician), Chidi Okafor (charge nurse), Dana Weiss (data engineer), Lena Fischer "
    "(clinical lead), Sami Aalto (safety officer), Petra Klein (data-protection officer) or Mira Haddad (model author)"
)
"""Whom the sign-in page offers; a test holds it against the issuer's own table."""


def settings_of(port: int) -> dict[str, object]:
    """Return the settings by which people sign in at the development issuer on `port`."""
    return {"oidc_issuer": f"http://{LOOPBACK}:{port}", "oidc_client_secret": None, "oidc_client_key": None}


def service(settings: Settings, port: int, board_url: str, data_dir: DataDir) -> ProcessService:
    """Return the issuer as a service. Its environment holds no setting of ours: it is somebody else's program."""
    program = ["-m", "hospital", "issuer", "--demo", "--host", LOOPBACK, "--port", str(port)]
    program += ["--folder", str(data_dir.root / NAME), "--client-id", settings.oidc_client_id]
    program += ["--redirect", f"{board_url}auth/callback", "--after-sign-out", f"{board_url}auth/signed-out"]
    program += ["--back-channel", f"{board_url}auth/backchannel-logout", "--audience", settings.oidc_audience]
    program += ["--health", str(data_dir.run)]
    if board_url.startswith("https:") and settings.server_identity is not None:
        program += ["--authority", str(settings.server_identity / "authority.pem")]
    environment = {"PATH": os.environ.get("PATH", os.defpath), "PYTHONUNBUFFERED": "1"}
    return ProcessService(NAME, program, f"http://{LOOPBACK}:{port}", environment, data_dir)
