"""MLflow for commands that start no Ray: the gateway in this process, and names like ``models:/NAME@ALIAS``."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

from llmyard.core.errors import MissingArtifact, RequestError
from llmyard.core.tracking import TrackingRejected, TrackingUnavailable, artifact_root, spool_root, tracking_uri

if TYPE_CHECKING:
    from llmyard.runtime.mlflow_gateway import MlflowGateway

_MODEL = re.compile(r"models:/([^/@]+)(?:@([^/@]+)|/(\d+))")


def has_runs(storage: str) -> bool:
    """Returns whether a storage's runs are recorded anywhere; looking for them makes nothing."""
    uri = tracking_uri(storage)
    return not uri.startswith("sqlite:///") or os.path.exists(uri.removeprefix("sqlite:///"))


@contextlib.contextmanager
def gateway(storage: str) -> Iterator[MlflowGateway]:
    """Opens the store of a storage's runs; closes abandoned runs and sends waiting metrics first.

    Raises:
        MissingArtifact: There is no such store.
    """
    if not has_runs(storage):
        raise MissingArtifact(f"no runs are recorded in {storage}", "run a job first, or name another --storage")
    from llmyard.runtime.mlflow_gateway import MlflowGateway
    from llmyard.runtime.tracking_service import TrackingService

    uri = tracking_uri(storage)
    service = TrackingService(uri, artifact_root(storage), spool_root(storage), background=False)
    with contextlib.suppress(TrackingUnavailable):
        service.call("close_abandoned")
        service.flush_pending()
    yield MlflowGateway(uri, artifact_root(storage))


def resolve(name: str, storage: str) -> str:
    """Returns the artifact that ``models:/NAME@ALIAS`` or ``models:/NAME/VERSION`` stands for.

    Raises:
        RequestError: The name is not of that form.
        MissingArtifact: There is no registry, or it has no such model or alias.
    """
    match = _MODEL.fullmatch(name)
    if match is None:
        raise RequestError(f"{name!r} names no registered model", "write models:/NAME@ALIAS or models:/NAME/VERSION")
    with gateway(storage) as mlflow:
        try:
            return mlflow.resolve(match[1], match[2] or match[3])
        except TrackingRejected as error:
            raise MissingArtifact(
                f"{name}: {error.what}", "register it with `register_as` of an evaluate stage"
            ) from None
