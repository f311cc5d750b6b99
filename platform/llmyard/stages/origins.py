"""How a checkpoint was trained, whatever was made of it since."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llmyard.core.artifacts import Artifact

ORIGIN = "origin"  # of a compressed checkpoint's details: the config of the training that it came from
# Of a checkpoint that llmyard made: what serving and going on from it read in its record.
KEPT = (
    "task", "task_config", "sequence_length", "label_smoothing", "prompt_ids", "also", "entity_types",
    "relations", "classes", "parts",
)  # fmt: skip


def training_of(checkpoint: Artifact) -> Mapping[str, Any]:
    """Returns the config of the stage that trained a checkpoint, or from which it was compressed."""
    origin: Mapping[str, Any] = checkpoint.details.get(ORIGIN) or checkpoint.config
    return origin


def trained_by(checkpoint: Artifact) -> str | None:
    """Returns which stage trained a checkpoint, or what it was compressed from: ``pretrain`` or ``finetune``; None of
    one that was taken in.
    """
    kind = training_of(checkpoint).get("kind")
    return str(kind) if kind in ("pretrain", "finetune") else None


def handed_on(checkpoint: Artifact) -> dict[str, Any]:
    """Returns the details of what is made of a checkpoint without training."""
    kept = {name: checkpoint.details[name] for name in (*KEPT, "family") if name in checkpoint.details}
    return kept | {ORIGIN: dict(training_of(checkpoint))}
