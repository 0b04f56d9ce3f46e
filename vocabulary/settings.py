"""Settings: one frozen object, read once in each process's entry point and passed in.

Here: what an operator may set (VIGIL_* variables, or a vigil.toml), each with what it means and why its default.
Not here: clinical thresholds (validation/protocols), secrets' values in logs (they are SecretStr).
"""

from __future__ import annotations

import ipaddress
import os
from pathlib import Path
from typing import Final
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


class FeedSettings(BaseModel):
    """One sending system behind a listener."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(pattern=r"^[a-z][a-z0-9_]*$")
    """Names the feed in the ledger, in `vigil feeds` and in RAW.<name>."""
    port: int = Field(default=0, ge=0, le=65535)
    """TCP port of the MLLP listener; 0 takes a free one."""
    timezone: str = "UTC"
    """IANA zone of times sent without an offset. A time that occurs twice in autumn is read as the first."""
    expected_interval_s: float = Field(default=60.0, gt=0)
    """How often a patient's device is expected to speak; silence is flagged after twice this."""
    max_message_bytes: int = Field(default=16 * 1024 * 1024, ge=1024)
    """A larger message is refused with AR; its size and first 4 KiB are kept."""
    accepts_training: bool = False
    """Whether MSH-11 = T or D reaches twins. Never on a production feed."""

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


class Settings(BaseSettings):
    """Everything an operator may choose. Environment variables VIGIL_<NAME> win over vigil.toml."""

    model_config = SettingsConfigDict(
        env_prefix="VIGIL_", toml_file="vigil.toml", frozen=True, extra="ignore", env_nested_delimiter="__"
    )

    data_dir: Path = Field(default_factory=default_data_dir)
    """Where the embedded services keep everything. As root, PostgreSQL runs as `nobody`, who must reach it."""
    site: str = "demo"
    """This hospital's short name; part of Dagster's partitions and the lake's layout."""
    host: str = "127.0.0.1"
    """Address the listeners bind. Beyond loopback is refused until TLS and identity are configured."""
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
    """The MLLP listeners, one a sending system."""
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
    clock_origin_us: int | None = None
    """Demonstrations only: what the scaled clock showed at clock_started_at_us."""
    clock_started_at_us: int | None = None
    """Demonstrations only: real time at which the scaled clock was started."""
    clock_speed: float = Field(default=1.0, gt=0)
    """Demonstrations only: how much faster than real the log's clock runs."""

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
