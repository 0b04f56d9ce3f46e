"""The experiment tracker, MLflow: what was tried, and which version is called champion there. Never the truth.

The serving record says which model serves (governance.serving); the alias here is its projection, for people who look
at MLflow. So everything here may fail, and nobody waits for it: promotion, rollback and a restart work without.

Here: registering a version with its metrics and manifest, moving the alias, reading it, telling when it differs.
Not here: the record (governance.serving), models' files that are loaded (stores.model_files).
MLflow is imported inside functions: it takes two seconds, and nothing on the live path may.
"""

from __future__ import annotations

import logging
import math
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from governance.serving_walk import Judgement, Standing
from governance.statements import Slot
from stores.models import ModelVersion
from vocabulary.errors import UnavailableError

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

ALIAS: Final = "champion"
_DIGEST_TAG: Final = "vigil.model_digest"
_VERSION_TAG: Final = "vigil.version"
_LONGEST_PARAMETER: Final = 500
_PATIENCE_S: Final = 2.0
"""For the first connection: MLflow itself tries a database that is away for over a minute and a half."""


class Registry:
    """One tracker. Nothing is imported or opened before the first call."""

    def __init__(
        self, tracking_uri: str, artifact_folder: Path, *, open_client: Callable[[], MlflowClient] | None = None
    ) -> None:
        """Describe the tracker.

        Args:
            tracking_uri: postgresql://… of its database, or any that MLflow knows; it may hold a password.
            artifact_folder: where runs keep files.
            open_client: for tests; None for MLflow's own.
        """
        self._uri = tracking_uri
        self._artifacts = artifact_folder
        self._open_client = open_client
        self._client: MlflowClient | None = None

    def register(
        self, version: ModelVersion, metrics: Mapping[str, float], parameters: Mapping[str, str | float | int | bool]
    ) -> str:
        """Record a version as a run with its manifest, and as a version there; return the run's id.

        The same model registered again returns the run there is.

        Args:
            version: numbered or not; its manifest is kept as an artefact.
            metrics: by name; what is not finite is left out.
            parameters: of the training; no patient data.

        Raises:
            UnavailableError: the tracker does not answer; carry on without.
        """
        with self._answering() as client:
            experiment = client.get_experiment_by_name(version.scope)
            experiment_id = (
                experiment.experiment_id
                if experiment is not None
                else client.create_experiment(version.scope, artifact_location=self._location(version.scope))
            )
            known = client.search_runs(
                [experiment_id],
                f"tags.`{_DIGEST_TAG}` = '{version.model_digest}' and attributes.status = 'FINISHED'",
                max_results=1,
            )
            run_id = (
                str(known[0].info.run_id)
                if known
                else self._record(client, experiment_id, version, metrics, parameters)
            )
            self._ensure_version(client, version, run_id)
            return run_id

    def _location(self, scope: str) -> str:
        return (self._artifacts / scope).resolve().as_uri()

    @staticmethod
    def _record(
        client: MlflowClient,
        experiment_id: str,
        version: ModelVersion,
        metrics: Mapping[str, float],
        parameters: Mapping[str, str | float | int | bool],
    ) -> str:
        run = client.create_run(
            experiment_id,
            run_name=f"{version.scope} {version.model_digest[:12]}",
            tags={
                _DIGEST_TAG: version.model_digest,
                "vigil.data_fingerprint": version.data_fingerprint,
                "vigil.code_version": version.code_version,
                "vigil.lock_digest": version.lock_digest,
                "vigil.protocol": version.protocol,
                "vigil.is_synthetic": str(version.is_synthetic).lower(),
            },
        )
        run_id = str(run.info.run_id)
        for name, value in parameters.items():
            client.log_param(run_id, name, str(value)[:_LONGEST_PARAMETER])
        for name, number in metrics.items():
            if math.isfinite(number):
                client.log_metric(run_id, name, number)
        client.log_text(run_id, version.manifest, "manifest.toml")
        client.set_terminated(run_id)
        return run_id

    def _ensure_version(self, client: MlflowClient, version: ModelVersion, run_id: str) -> str:
        found = self._numbered(client, version.scope, version.model_digest)
        if found is not None:
            return found
        from mlflow.exceptions import MlflowException

        try:
            client.get_registered_model(version.scope)
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            client.create_registered_model(version.scope)
        made = client.create_model_version(
            version.scope,
            source=f"{self._location(version.scope)}/{run_id}/artifacts/manifest.toml",
            run_id=run_id,
            tags={_DIGEST_TAG: version.model_digest, _VERSION_TAG: str(version.version)},
        )
        return str(made.version)

    @staticmethod
    def _numbered(client: MlflowClient, scope: str, model_digest: str) -> str | None:
        for one in client.search_model_versions(f"name = '{scope}'"):
            if one.tags.get(_DIGEST_TAG) == model_digest:
                return str(one.version)
        return None

    def project_alias(self, scope: str, model_digest: str | None) -> bool:
        """Let the alias say what the serving record says; return whether it was moved.

        Args:
            scope: "mortality".
            model_digest: of the champion; None: nobody speaks, and the alias goes.

        Raises:
            UnavailableError: the tracker does not answer, or does not know this model: register it first.
        """
        with self._answering() as client:
            now = self._alias(client, scope)
            if now == model_digest:
                return False
            if model_digest is None:
                client.delete_registered_model_alias(scope, ALIAS)
                return True
            number = self._numbered(client, scope, model_digest)
            if number is None:
                raise UnavailableError(f"The tracker does not know model {model_digest[:16]}… of {scope}: register it.")
            client.set_registered_model_alias(scope, ALIAS, number)
            return True

    def alias_of(self, scope: str) -> str | None:
        """Return the digest of the model that is called champion there, None where none is.

        A champion there that is no model of ours has the digest "".

        Raises:
            UnavailableError: the tracker does not answer.
        """
        with self._answering() as client:
            return self._alias(client, scope)

    @staticmethod
    def _alias(client: MlflowClient, scope: str) -> str | None:
        from mlflow.exceptions import MlflowException

        try:
            found = client.get_model_version_by_alias(scope, ALIAS)
        except MlflowException as error:
            if error.error_code in {"RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"}:
                return None
            raise
        return str(found.tags.get(_DIGEST_TAG, ""))

    @contextmanager
    def _answering(self) -> Iterator[MlflowClient]:
        try:
            yield self._opened()
        except UnavailableError:
            raise
        except Exception as error:  # noqa: BLE001 - the tracker's failures are many, and none may stop what matters
            self._client = None
            # Its messages may quote its address with the password.
            raise UnavailableError(
                f"The experiment tracker does not answer ({type(error).__name__}). The serving record is not affected."
            ) from None

    def _require_reachable(self) -> None:
        address = urlsplit(self._uri)
        if address.hostname is not None:
            port = address.port or 5432
            socket.create_connection((address.hostname, port), timeout=_PATIENCE_S).close()

    def _opened(self) -> MlflowClient:
        if self._client is None:
            if self._open_client is not None:
                self._client = self._open_client()
            else:
                self._require_reachable()
                from mlflow.tracking import MlflowClient

                logging.getLogger("mlflow").setLevel(logging.WARNING)
                self._artifacts.mkdir(parents=True, exist_ok=True, mode=0o700)
                self._client = MlflowClient(tracking_uri=self._uri, registry_uri=self._uri)
        return self._client


def champion_of(judgement: Judgement | None) -> str | None:
    """Return the digest that the alias should name: that of the model which holds the champion's slot."""
    if judgement is None:
        return None
    held = judgement.slots[Slot.CHAMPION]
    return None if held.row is None or held.standing is Standing.EMPTY else held.row.model_digest
