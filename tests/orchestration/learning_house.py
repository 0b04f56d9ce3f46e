"""A house for tests of the learning plane: a migrated database, folders, and the identity of the process `dagster`."""

from __future__ import annotations

import asyncio
from pathlib import Path

from pydantic import SecretStr

from governance.notary import register_key
from orchestration.resources import LearningHouse, RunningHouse
from stores import database, models
from vocabulary.clock import SystemClock
from vocabulary.errors import UnavailableError
from vocabulary.settings import Settings
from vocabulary.signing import SigningKey
from vocabulary.tls import Identity
from vocabulary.verdict import Kind, Measure, Outcome, Verdict


def settings_of(url: str, folder: Path, mode: str = "demo") -> Settings:
    """Settings of a house whose database is there and that signs as `dagster`."""
    asyncio.run(database.migrate(url))
    settings = Settings(
        data_dir=folder, database_url=SecretStr(url), mode=mode, identity_dir=folder / "identity" / "dagster"
    )
    assert settings.identity_dir is not None
    identity = Identity(settings.identity_dir)
    settings.identity_dir.mkdir(parents=True)
    settings.anchors_dir.mkdir(parents=True)
    key = SigningKey.generate()
    key.save(identity.ledger_key)
    register_key(settings, "dagster", key.verifying, SystemClock())
    return settings


class FixedHouse(RunningHouse):
    """The house as it is, whatever runs beside it."""

    def settings(self) -> Settings:
        return self._settings


class Learning(LearningHouse):
    """Its learning plane, without an experiment tracker unless one is given."""

    def __init__(self, house: RunningHouse, told=None, tracker=None) -> None:
        super().__init__(house, told)
        self.tracker = tracker

    def registry(self):
        return self.tracker


class Tracker:
    """An experiment tracker in memory: what governance.registry.Registry offers."""

    def __init__(self) -> None:
        self.alias: dict[str, str] = {}
        self.registered: list[models.ModelVersion] = []
        self.is_away = False

    def _answer(self) -> None:
        if self.is_away:
            raise UnavailableError("The experiment tracker does not answer.")

    def register(self, version, metrics, parameters):
        self._answer()
        self.registered.append(version)
        return f"run-{len(self.registered)}"

    def alias_of(self, scope):
        self._answer()
        return self.alias.get(scope)

    def project_alias(self, scope, model_digest):
        self._answer()
        before = self.alias.get(scope)
        if model_digest is None:
            self.alias.pop(scope, None)
        else:
            self.alias[scope] = model_digest
        return before != model_digest


async def add_model(connection) -> models.ModelVersion:
    """Register a version without files."""
    return await models.add_version(
        connection,
        models.ModelVersion(
            scope="mortality", model_digest="ab" * 32, manifest="", author="issuer|author", registered_at_us=1,
            data_fingerprint="ef" * 32, code_version="1", lock_digest="2", protocol_digest="3" * 64, is_synthetic=True,
        ),
    )  # fmt: skip


def verdict_of(kind: Kind, outcome: Outcome, **fields) -> Verdict:
    """A verdict with one measure."""
    measures = (Measure(name="share", value=0.5, outcome=outcome),)
    return Verdict(kind=kind, subject="trial", outcome=outcome, statement="As told.", measures=measures, **fields)
