"""Settings: one frozen object, read once in each process's entry point and passed in.

Here: what an operator may set (VIGIL_* variables, or a vigil.toml), each with what it means and why its default.
Not here: clinical thresholds (validation/protocols), secrets' values in logs (they are SecretStr).
"""

from __future__ import annotations

import ipaddress
import os
from datetime import date
from pathlib import Path
from typing import Final, Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, TomlConfigSettingsSource


def default_data_dir() -> Path:
    """Return /var/lib/vigil for root, else a folder in the user's home."""
    return Path("/var/lib/vigil") if os.geteuid() == 0 else Path.home() / ".local/share/vigil"


def is_loopback(host: str) -> bool:
    """Return whether only this machine can reach a listener on `host`."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


RESERVED_FEEDS: Final = frozenset({"tick", "control", "unreadable"})
"""Packs of the log's own: its clock, operators' commands, what is no pack. A feed of that name would be lost."""


FeedKind = Literal["hl7v2", "fhir", "dicom", "ieee11073", "wearables"]
"""What a feed speaks, which decides its door and its decoder."""

DOORS: Final[dict[FeedKind, str]] = {
    "hl7v2": "mllp",
    "fhir": "http",
    "dicom": "dicom",
    "ieee11073": "sdc",
    "wearables": "mqtt",
}
"""The protocol a kind of feed comes in by: the first half of its listener's name (`mllp.lab`)."""


class FeedSettings(BaseModel):
    """One sending system behind a listener."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(pattern=r"^[a-z][a-z0-9_]*$")
    """Names the feed in the ledger, in `vigil feeds` and in RAW.<name>."""
    kind: FeedKind = "hl7v2"
    """What it speaks."""
    port: int = Field(default=0, ge=0, le=65535)
    """TCP port of its listener; 0 takes a free one."""
    timezone: str = "UTC"
    """IANA zone of times sent without an offset. A time that occurs twice in autumn is read as the first."""
    expected_interval_s: float = Field(default=60.0, gt=0)
    """How often a patient's device is expected to speak; silence is flagged after twice this."""
    max_message_bytes: int = Field(default=16 * 1024 * 1024, ge=1024)
    """A larger message is refused with AR; its size and first 4 KiB are kept."""
    accepts_training: bool = False
    """Whether MSH-11 = T or D reaches twins. Never on a production feed."""
    requires_client_certificate: bool = True
    """Where the listener speaks TLS: whether a sender must show a certificate of an authority we believe."""
    client_names: tuple[str, ...] = ()
    """Common names of the senders' certificates that may speak on this feed; empty allows any that is believed."""

    @property
    def listener(self) -> str:
        """Return the listener's name, as waivers and status use it: `mllp.lab`."""
        return f"{DOORS[self.kind]}.{self.name}"

    @field_validator("name")
    @classmethod
    def _is_not_the_logs_own(cls, name: str) -> str:
        if name in RESERVED_FEEDS:
            raise ValueError(f"a feed cannot be called {', '.join(sorted(RESERVED_FEEDS))}: the log uses these names")
        return name

    @field_validator("timezone")
    @classmethod
    def _is_known(cls, timezone: str) -> str:
        try:
            ZoneInfo(timezone)
        except (ZoneInfoNotFoundError, ValueError, OSError):
            raise ValueError("expected an IANA time zone such as Europe/Berlin") from None
        return timezone


class Waiver(BaseModel):
    """A person's permission for one listener to speak plain text beyond this machine. Status and board show it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    listener: str = Field(pattern=r"^(clinic|mqtt|(mllp|http|dicom|sdc|mqtt)\.[a-z][a-z0-9_]*)$")
    """Which: `clinic`, `mqtt`, or a feed's, such as `mllp.<feed>`."""
    reason: str = Field(min_length=10)
    """Why it cannot speak TLS, and what protects it instead."""
    approved_by: str = Field(min_length=2)
    """Who answers for it."""
    until: date
    """The last day it holds; afterwards the listener refuses to start."""


class Settings(BaseSettings):
    """Everything an operator may choose. Environment variables VIGIL_<NAME> win over vigil.toml."""

    model_config = SettingsConfigDict(
        env_prefix="VIGIL_", toml_file="vigil.toml", frozen=True, extra="ignore", env_nested_delimiter="__"
    )

    data_dir: Path = Field(default_factory=default_data_dir)
    """Where the embedded services keep everything. As root, PostgreSQL runs as `nobody`, who must reach it."""
    site: str = "demo"
    """This hospital's short name; part of Dagster's partitions and the lake's layout."""
    mode: Literal["production", "demo"] = "production"
    """`demo` permits the development issuer and its demonstration people; production refuses both."""
    host: str = "127.0.0.1"
    """Address the listeners bind. Beyond loopback they speak TLS."""
    public_url: str | None = None
    """The clinic's address as browsers write it, e.g. https://vigil.example.org; default: made of host and port."""
    tls: Literal["beyond_loopback", "always"] = "beyond_loopback"
    """When listeners for senders and people speak TLS. Links between our own processes and servers always do."""
    server_identity: Path | None = None
    """Folder with certificate.pem, key.pem and authority.pem that listeners show; default: from the development CA."""
    identity_dir: Path | None = None
    """This process's own identity folder (vocabulary.tls.Identity); `vigil up` sets it for each process it starts."""
    plaintext_waivers: tuple[Waiver, ...] = ()
    """Listeners that may speak plain text beyond loopback, each by name, with a reason, a person and a last day."""
    oidc_issuer: str | None = None
    """The OpenID provider people sign in at, e.g. https://login.example.org/realms/hospital."""
    oidc_client_id: str = "vigil"
    """Our client id at the provider."""
    oidc_client_secret: SecretStr | None = None
    """Our client secret there; None: a public client (PKCE alone), or a key (oidc_client_key)."""
    oidc_client_key: Path | None = None
    """PEM private key for private_key_jwt at the provider, instead of a secret."""
    oidc_audience: str = "urn:vigil:api"
    """What an access token must name in `aud` to be accepted here."""
    oidc_scope: str = "openid profile roles offline_access"
    """Scopes asked for at sign-in."""
    oidc_roles_claim: str = "roles"
    """Claim with a person's roles."""
    oidc_units_claim: str = "units"
    """Claim with the wards a person works on, as ADT names them in PV1-3.1."""
    oidc_practitioner_claim: str = "practitioner"
    """Claim with the identifier ADT gives this person in PV1-7, PV1-8, PV1-9 or PV1-17."""
    oidc_role_map: dict[str, str] = Field(default_factory=dict)
    """The provider's role names to ours (governance.access.Role), where they differ."""
    session_idle_s: float = Field(default=15 * 60.0, gt=0)
    """A signed-in person who does nothing for this long is signed out. A board on a wall counts as doing something."""
    session_longest_s: float = Field(default=12 * 3600.0, gt=0)
    """A session ends after this long, whatever happens."""
    break_glass_s: float = Field(default=3600.0, gt=0)
    """How long a broken glass stays broken."""
    notify_url: str | None = None
    """Where a POST goes when a glass is broken (no patient data in it); None: only the reviewers' page tells."""
    signer_root: str | None = None
    """Public half of the offline root key, as `vigil keys root` prints it: only a roster signed by it is believed."""
    roster: Path | None = None
    """The signed roster of those whose signatures count; default: data_dir/roster.signed."""
    master_key: str = "file"
    """Where the key that wraps all others is: `file` (data_dir/keys/master.key), `file:<path>`, `env:<VARIABLE>`, or
    `pkcs11:<module path>?token=<label>&key=<label>`."""
    master_key_pin: SecretStr | None = None
    """PIN of the PKCS#11 token."""
    database_url: SecretStr | None = None
    """postgresql://… of an external PostgreSQL (15 or newer); the embedded one is then not started."""
    nats_url: SecretStr | None = None
    """nats://… of an external nats-server (2.12 or newer); the embedded one is then not started."""
    postgres_port: int = Field(default=0, ge=0, le=65535)
    """Port of the embedded PostgreSQL; 0 takes a free one and keeps it for this data directory."""
    nats_port: int = Field(default=0, ge=0, le=65535)
    """Port of the embedded nats-server; 0 takes a free one."""
    mqtt_port: int = Field(default=0, ge=0, le=65535)
    """Port of nats-server's MQTT 3.1.1 listener; 0 takes a free one."""
    clinic_port: int = Field(default=0, ge=0, le=65535)
    """Port of the pages and the FHIR door; 0 takes a free one."""
    feeds: tuple[FeedSettings, ...] = (
        FeedSettings(name="adt", expected_interval_s=3600.0),
        FeedSettings(name="monitors", expected_interval_s=60.0),
        FeedSettings(name="lab", expected_interval_s=6 * 3600.0),
    )
    """The doors, one a sending system."""
    local_codes: dict[str, str] = Field(default_factory=dict)
    """A sender's own codes that a person at this site has mapped: "<OBX-3.3 system>|<code>" to a concept key."""
    raw_max_bytes: int = Field(default=8 * 1024**3, ge=1024 * 1024)
    """Size at which the RAW stream refuses more; senders then wait for their ACK."""
    raw_seal_after_s: float = Field(default=24 * 3600.0, gt=0)
    """Age at which packs leave the stream for compressed files in <data_dir>/sealed."""
    tick_interval_s: float = Field(default=1.0, gt=0)
    """How often ingress appends the log's clock, in real seconds."""
    normalizer_interval_s: float = Field(default=0.05, ge=0)
    """How long the normalizer gathers packs before one commit."""
    engine_interval_s: float = Field(default=0.1, gt=0)
    """How long the engine gathers batches before one commit: shorter is fresher, longer is cheaper."""
    future_tolerance_s: float = Field(default=300.0, ge=0)
    """How far ahead of our clock a value may claim to be (clocks of devices drift) before it is quarantined."""
    snapshot_heartbeat_s: float = Field(default=10.0, gt=0)
    """A snapshot is published this often even when nothing changed."""
    watch_interval_s: float = Field(default=2.0, gt=0)
    """How often the models in service are held against what lately happened, in real seconds."""
    clock_origin_us: int | None = None
    """Demonstrations only: what the scaled clock showed at clock_started_at_us."""
    clock_started_at_us: int | None = None
    """Demonstrations only: real time at which the scaled clock was started."""
    clock_speed: float = Field(default=1.0, gt=0)
    """Demonstrations only: how much faster than real the log's clock runs."""

    @property
    def keys_dir(self) -> Path:
        """Return where key material is kept: never below a folder that is backed up with the data."""
        return self.data_dir / "keys"

    @property
    def models_dir(self) -> Path:
        """Return where models are kept, by digest."""
        return self.data_dir / "models"

    @property
    def lake_dir(self) -> Path:
        """Return where the lake is: Parquet in MEDS layout."""
        return self.data_dir / "lake"

    @property
    def anchors_dir(self) -> Path:
        """Return where signed roots and chain heads are kept, outside the database."""
        return self.data_dir / "anchors"

    def speaks_tls(self, listener: str, today: date) -> bool:
        """Return whether a listener (`clinic`, `mqtt`, `mllp.<feed>`) speaks TLS.

        Args:
            listener: its name, as in a waiver.
            today: waivers hold until the end of their last day.
        """
        if self.tls == "always":
            return True
        return not is_loopback(self.host) and self.waiver(listener, today) is None

    def waiver(self, listener: str, today: date) -> Waiver | None:
        """Return the waiver that lets a listener speak plain text beyond loopback today, or None."""
        return next((w for w in self.plaintext_waivers if w.listener == listener and today <= w.until), None)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Read arguments, then the environment, then vigil.toml."""
        return init_settings, env_settings, TomlConfigSettingsSource(settings_cls)
