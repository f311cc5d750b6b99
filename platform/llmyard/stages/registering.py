"""A checkpoint in MLflow's registry, under a name and an alias, with the figures that speak for it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llmyard.core.artifacts import Artifact, ArtifactStore, Draft
from llmyard.core.tracking import metric_key
from llmyard.stages.evaluate_config import Register
from llmyard.stages.stage import Making


def register(to: Register, making: Making, checkpoint: Artifact | Draft, metrics: Mapping[str, float]) -> str:
    """Registers a checkpoint, or the one that the stage is about to commit, as a new version that takes the alias;
    returns how MLflow names it.
    """
    run = making.run.run_id() if isinstance(checkpoint, Draft) else checkpoint.details.get("mlflow_run")
    version = making.context.tracking.call("register", to.name, **_registration(to, checkpoint, metrics, run))
    return f"models:/{to.name}@{to.alias} (version {version})"


def keep_alias(to: Register, made: Artifact, checkpoint: str, store: ArtifactStore) -> None:
    """Moves the alias back to the checkpoint of a finished stage, where a newer one's may have taken it.

    Args:
        to: Name and alias.
        made: What the stage made.
        checkpoint: Reference of what it registered.
        store: Of both.
    """
    newest = next(store.versions(made.kind, made.name), made)
    if newest.reference == made.reference:
        return
    from llmyard.runtime.registry import gateway

    with gateway(store.storage.uri) as mlflow:
        found = store.get(checkpoint)
        mlflow.register(to.name, **_registration(to, found, made.metrics, found.details.get("mlflow_run")))


def _registration(
    to: Register, checkpoint: Artifact | Draft, metrics: Mapping[str, float], run: str | None
) -> dict[str, Any]:
    """Returns what the registry is told of a checkpoint."""
    return {
        "artifact": checkpoint.reference,
        "source": checkpoint.uri,
        "run_id": run or None,
        "aliases": [to.alias],
        "tags": {
            metric_key(f"metric.{key.replace('/', '.')}"): f"{value:.4f}"
            for key, value in metrics.items()
            if "baseline" not in key
        },
    }
