"""A lazily opened MLflow client: schema migration, fail-fast settings, and its errors turned into ours."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from llmyard.core.tracking import TrackingRejected, TrackingUnavailable

_FAIL_FAST = {  # the sender retries by itself, so a dead server should answer soon; the user's own settings win
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "15",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "GIT_PYTHON_REFRESH": "quiet",
}
REFUSED_FOR_GOOD = frozenset({"INVALID_PARAMETER_VALUE", "RESOURCE_DOES_NOT_EXIST"})


class MlflowConnection:
    """One MLflow store. MLflow takes 4 s to import, so that happens at the first call.

    Args:
        uri: `sqlite:///…` or a tracking server's address.
        artifact_root: Where new experiments keep run files; None leaves it to the server.
    """

    def __init__(self, uri: str, artifact_root: str | None = None) -> None:
        self.uri = uri
        self._artifact_root = artifact_root
        self._lock = threading.RLock()
        self._opened: Any = None
        self._migrated = False
        self._experiments: dict[str, str] = {}

    def migrate(self) -> None:
        """Brings an SQLite store to this MLflow's schema, one process at a time.

        Eight processes that opened a fresh store at once left it unusable; call this before any fan-out. A server
        migrates itself.
        """
        with self._lock:
            if self._migrated or not self.uri.startswith("sqlite:///"):
                return
            path = Path(self.uri.removeprefix("sqlite:///"))
            with self.calls(), contextlib.ExitStack() as stack:
                path.parent.mkdir(parents=True, exist_ok=True)
                try:
                    lock = stack.enter_context(open(f"{path}.lock", "w"))
                except OSError as error:
                    if error.errno not in (errno.EROFS, errno.EACCES) or not path.exists():
                        raise  # else it can be read, and nobody migrates it
                else:
                    fcntl.lockf(lock, fcntl.LOCK_EX)
                _prepare_environment()
                from mlflow.store.db import utils as db

                engine = db.create_sqlalchemy_engine_with_retry(self.uri)
                try:
                    if not db._all_tables_exist(engine):
                        db._initialize_tables(engine)
                    elif db._get_schema_version(engine) != db._get_latest_schema_revision():
                        db._upgrade_db(engine)
                finally:
                    engine.dispose()
            self._migrated = True

    def client(self) -> Any:
        """The `MlflowClient`, made at the first call."""
        if self._opened is None:
            self.migrate()
            _prepare_environment()
            from mlflow.tracking import MlflowClient

            self._opened = MlflowClient(tracking_uri=self.uri, registry_uri=self.uri)
        return self._opened

    def experiment_id(self, name: str) -> str:
        """The id of an experiment, which is made if missing."""
        if name not in self._experiments:
            found = self.client().get_experiment_by_name(name)
            if found is None:
                root = f"{self._artifact_root}/{name}" if self._artifact_root else None
                try:
                    # Shown as the experiment's kind. Which view MLflow's page opens on is a choice of the browser
                    # (traces at first), or of the address: #/experiments/ID/runs?workflowType=machine_learning.
                    kind = {"mlflow.experimentKind": "custom_model_development"}
                    self._experiments[name] = self.client().create_experiment(name, root, tags=kind)
                except Exception:  # another process was faster
                    found = self.client().get_experiment_by_name(name)
                    if found is None:
                        raise
            if found is not None:
                self._experiments[name] = found.experiment_id
        return self._experiments[name]

    @contextlib.contextmanager
    def calls(self) -> Iterator[None]:
        """One caller at a time, with MLflow's and the network's errors turned into ours."""
        try:
            with self._lock:
                yield
        except (TrackingRejected, TrackingUnavailable):
            raise
        except Exception as error:
            reason = next(iter(str(error).splitlines()), type(error).__name__)
            what = f"MLflow at {_without_password(self.uri)}: {reason}"
            if getattr(error, "error_code", "") in REFUSED_FOR_GOOD:
                raise TrackingRejected(what) from error
            raise TrackingUnavailable(what, _remedy(self.uri)) from error


def _remedy(uri: str) -> str:
    if uri.startswith("sqlite:///"):
        return "check the rights and the space there, or give another --storage"
    return "check that the server runs and that MLFLOW_TRACKING_URI names it"


def _without_password(uri: str) -> str:
    head, at, tail = uri.rpartition("@")
    return f"{head.split('://')[0]}://…@{tail}" if at else uri


def _prepare_environment() -> None:
    for key, value in _FAIL_FAST.items():
        os.environ.setdefault(key, value)
    for name in ("alembic", "mlflow.store.db.utils", "mlflow.tracking.fluent", "mlflow.utils.environment"):
        logging.getLogger(name).setLevel(logging.WARNING)
