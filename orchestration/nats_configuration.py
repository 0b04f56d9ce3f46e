"""The embedded nats-server's configuration: who may connect, what each may say and hear, and how it is kept.

Here: the table of subjects by process, devices' users, and the text of nats.conf made of both.
Not here: starting the server (orchestration.embedded), certificates (orchestration.certificates), streams (twin.bus).
A process is known by its client certificate alone: its subject must be exactly `CN=<process>`. A device is known by its
certificate where MQTT speaks TLS, else by a password, on loopback. Each user hears answers in an inbox of its own.
Not to be configured: reply subjects. nats-server (2.15) checks the subject of a publish, not the one it answers on, so
whoever may publish to RAW or ask JetStream may have the answer sent to any subject of this account, stored there if a
stream takes it. Such an answer is the server's own JSON, or a message pulled under its old subject: what reads the bus
drops and counts both (twin.bus, twin.raw_reader), and a twin overwritten so is gone until its engine publishes again.
Source: nats-server 2.15 documentation (configuration, verify_and_map, authorization, mqtt, jetstream encryption).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from twin.subjects import EVENTS, RAW, SNAPSHOTS, TWINS, TWINS_SUBJECT, inbox_prefix
from vocabulary.errors import ConfigurationError
from vocabulary.tls import Identity

_TWIN: Final = "TWIN"
"""The account of our processes; DEVICES is that of what speaks MQTT, and SYS the server's own, which has no users."""
DEVICE_TOPICS: Final = "wearables"
"""A device publishes MQTT topics below `wearables/<its name>/`, which are subjects below `wearables.<its name>.`"""


class Permissions(NamedTuple):
    """What a user may do; what is not listed is refused."""

    publish: tuple[str, ...]
    subscribe: tuple[str, ...] = ()
    publish_denied: tuple[str, ...] = ()


def _info(*streams: str) -> tuple[str, ...]:
    return tuple(f"$JS.API.STREAM.INFO.{stream}" for stream in streams)


def _create(*streams: str) -> tuple[str, ...]:
    return tuple(f"$JS.API.STREAM.CREATE.{stream}" for stream in streams)


_READ_RAW: Final = (f"$JS.API.CONSUMER.CREATE.{RAW}", f"$JS.API.CONSUMER.MSG.NEXT.{RAW}.*")
_READ_TWINS: Final = f"$JS.API.DIRECT.GET.{TWINS}"
_DERIVED: Final = (EVENTS, SNAPSHOTS, TWINS)

PROCESSES: Final[Mapping[str, Permissions]] = {
    # Commands are an operator's: a gateway that was taken over cannot forge one.
    "ingress": Permissions(
        (f"{RAW}.*", *_info(RAW)),
        (f"{DEVICE_TOPICS}.>",),
        publish_denied=(f"{RAW}.control",),
    ),
    "normalizer": Permissions((f"{EVENTS}.*", *_info(RAW, EVENTS), *_READ_RAW)),
    "engine": Permissions((f"{SNAPSHOTS}.*", f"{TWINS_SUBJECT}*", *_info(*_DERIVED)), (f"{EVENTS}.>",)),
    # Makes the streams in memory again after a restart; RAW it may only read and trim, never make or change.
    "keeper": Permissions((*_info(RAW, *_DERIVED), *_create(*_DERIVED), f"$JS.API.STREAM.PURGE.{RAW}", *_READ_RAW)),
    "clinic": Permissions((*_info(SNAPSHOTS, TWINS), _READ_TWINS), (f"{SNAPSHOTS}.>",)),
    "operator": Permissions((f"{RAW}.control", *_info(RAW, *_DERIVED), *_READ_RAW, _READ_TWINS), (f"{SNAPSHOTS}.>",)),
    # `vigil up`, once the server runs and before anything else does.
    "setup": Permissions(
        (*_info(RAW, *_DERIVED), *_create(RAW, *_DERIVED), f"$JS.API.STREAM.UPDATE.{RAW}"),
    ),
}
"""Every process that connects, and what it may do. Nobody may delete a stream, and only the keeper may purge RAW."""


class Device(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One device that may speak MQTT; devices.json holds a list of them."""

    name: str
    """Common name of its certificate, its MQTT user name, and its place below `wearables/`."""
    password_bcrypt: str = ""
    """Where MQTT speaks plain text on loopback: the bcrypt hash of its password."""

    def __post_init__(self) -> None:
        """Check the name."""
        if not self.name.replace("-", "").replace("_", "").isalnum() or not self.name.isascii() or len(self.name) > 64:
            raise ValueError("a device's name has 1 to 64 letters, digits, - and _")
        if self.name in RESERVED_NAMES:
            raise ValueError("a device cannot have the name of one of our processes")


RESERVED_NAMES: Final = frozenset(PROCESSES) | {"nats-server", "postgres", "server", "dagster"}
"""Names no device's certificate may carry: it would be the process."""


class NatsPlan(NamedTuple):
    """What the configuration is made of."""

    folder: Path
    """Holds the JetStream store."""
    listen: str
    """Address of the client port."""
    port: int
    mqtt_listen: str
    """Address of the MQTT port."""
    mqtt_port: int | None
    """None for no MQTT."""
    identity: Path
    """The server's own identity folder (vocabulary.tls.Identity)."""
    jetstream_key_variable: str
    """Environment variable of the server's process that holds the key of what it keeps on disk. Its value must begin
    with a letter and hold only letters and digits: nats-server reads it as configuration, and `1e9` as a number."""
    is_mqtt_tls: bool
    """Whether MQTT speaks TLS, with a certificate of each device."""
    devices: tuple[Device, ...] = ()
    """Who may speak MQTT."""
    mqtt_identity: Path | None = None
    """What the MQTT listener shows to devices, and whose devices it believes; None: as `identity`."""


def read_devices(file: Path) -> tuple[Device, ...]:
    """Return the devices a file lists; none where there is no file.

    Raises:
        ConfigurationError: the file cannot be read as a list of devices, or names one twice.
    """
    try:
        devices = msgspec.json.decode(file.read_bytes(), type=tuple[Device, ...])
    except FileNotFoundError:
        return ()
    except (OSError, msgspec.MsgspecError) as error:
        raise ConfigurationError(
            f'The devices in {file} cannot be read: {error}. Expected a JSON list such as [{{"name": "patch-7"}}].'
        ) from None
    names = [device.name for device in devices]
    if len(set(names)) < len(names):
        raise ConfigurationError(f"{file} names a device twice. Give each device its own name and certificate.")
    return devices


def adopt_store(folder: Path) -> bool:
    """Move what a server without accounts kept (RAW among it) to where the account TWIN keeps it; return whether.

    The server must not run. It encrypts what it finds unencrypted when it starts.
    """
    before, now = folder / "jetstream" / "$G", folder / "jetstream" / _TWIN
    if not before.is_dir() or now.exists():
        return False
    before.rename(now)
    return True


def holds_raw(folder: Path) -> bool:
    """Return whether there is a stream RAW on the disk, readable or not.

    With another key nats-server starts as if there were none: a new one must then not be made in its place.
    """
    return (folder / "jetstream" / _TWIN / "streams" / RAW).is_dir()


def user_of(name: str) -> str:
    """Return the NATS user that a certificate with the common name `name` becomes."""
    return f"CN={name}"


def render(plan: NatsPlan) -> str:
    """Return the text of nats.conf.

    There is no monitoring port, no WebSocket, no cluster, no user with a password but MQTT devices on loopback.
    """
    identity = Identity(plan.identity)
    mqtt = ""
    if plan.mqtt_port is not None:
        shown = Identity(plan.mqtt_identity or plan.identity)
        mqtt = f"mqtt {{ listen: {_text(_address(plan.mqtt_listen, plan.mqtt_port))}"
        mqtt += f", tls {_tls(shown)} }}\n" if plan.is_mqtt_tls else " }\n"
    return (
        f'server_name: "vigil"\nlisten: {_text(_address(plan.listen, plan.port))}\n'
        f"tls {_tls(identity)}\n"
        "max_payload: 8MB\nwrite_deadline: 10s\n"
        # A stranger's connection is closed before it is known; those that are known need seconds.
        "max_connections: 4096\n"
        # Every RAW write reaches the disk before its ack: promise 1. Derived streams are in memory.
        f"jetstream {{ store_dir: {_text(str(plan.folder))}, sync_interval: always, max_memory_store: 2GB, "
        # RAW's own limit is VIGIL_RAW_MAX_BYTES. Left out, three quarters of what is free at this start would be
        # the limit, and RAW refused on a disk smaller than what it may grow to.
        f"max_file_store: 1024TB, cipher: aes, key: ${plan.jetstream_key_variable} }}\n"
        f"accounts {{\n{_twin_account()}{_devices_account(plan)}  SYS {{ }}\n}}\n"
        "system_account: SYS\n"
        f"{mqtt}"
    )


def _twin_account() -> str:
    users = [
        _user(user_of(name), "", permissions, (f"{inbox_prefix(name)}.>",), "STANDARD")
        for name, permissions in PROCESSES.items()
    ]
    return (
        "  TWIN {\n    jetstream: enabled\n"
        f'    imports: [ {{ stream: {{ account: DEVICES, subject: "{DEVICE_TOPICS}.>" }} }} ]\n'
        f"    users: [\n{''.join(users)}    ]\n  }}\n"
    )


def _devices_account(plan: NatsPlan) -> str:
    users = []
    for device in plan.devices:
        if not plan.is_mqtt_tls and not device.password_bcrypt:
            continue  # it can only prove who it is over TLS
        own = Permissions((f"{DEVICE_TOPICS}.{device.name}.>",))
        name, password = (user_of(device.name), "") if plan.is_mqtt_tls else (device.name, device.password_bcrypt)
        users.append(_user(name, password, own, (), "MQTT"))
    return (
        # MQTT keeps sessions and messages for its subscribers in streams of the account it belongs to.
        "  DEVICES {\n    jetstream: { max_memory: 64MB, max_file: 4GB, max_streams: 16, max_consumers: 256 }\n"
        f'    exports: [ {{ stream: "{DEVICE_TOPICS}.>", accounts: [ TWIN ] }} ]\n'
        f"    users: [\n{''.join(users)}    ]\n  }}\n"
    )


def _tls(identity: Identity) -> str:
    return (
        f"{{ cert_file: {_text(str(identity.certificate))}, key_file: {_text(str(identity.key))}, "
        f'ca_file: {_text(str(identity.authority))}, verify_and_map: true, min_version: "1.2", timeout: 5 }}'
    )


def _user(name: str, password: str, permissions: Permissions, inbox: Sequence[str], connection: str) -> str:
    # The kind of connection is no ornament: a user without a password must never be reachable by a port that asks for
    # one (plain MQTT), where nothing equals nothing.
    secret = f"password: {_text(password)}, " if password else ""
    deny = f", deny: {_texts(permissions.publish_denied)}" if permissions.publish_denied else ""
    hears = (*inbox, *permissions.subscribe)
    subscribe = f"allow: {_texts(hears)}" if hears else 'deny: [ ">" ]'
    return (
        f"      {{ user: {_text(name)}, {secret}allowed_connection_types: [ {connection} ], permissions: {{\n"
        f"          publish: {{ allow: {_texts(permissions.publish)}{deny} }},\n"
        f"          subscribe: {{ {subscribe} }} }} }}\n"
    )


def _address(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _text(value: str) -> str:
    return json.dumps(value, ensure_ascii=False)


def _texts(values: Sequence[str]) -> str:
    return f"[ {', '.join(_text(value) for value in values)} ]"
