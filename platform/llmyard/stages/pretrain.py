"""``pretrain``: shards to a base model, on Ray Train."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llmyard.core.artifacts import Artifact, ArtifactStore
from llmyard.core.errors import DataError, RequestError
from llmyard.stages.config import Pretrain
from llmyard.stages.stage import Made, Making
from llmyard.stages.training import TrainJob, run_training

REVISION = 1


def parents(config: Pretrain, store: ArtifactStore) -> Mapping[str, Artifact]:
    """Returns the shards, their tokenizer, and the checkpoint to go on from."""
    shards = store.get(config.shards, "shards")
    tokenizers = [store.get(parent) for parent in shards.parents if parent.startswith("tokenizer/")]
    if not tokenizers or shards.config.get("kind") != "prepare":
        raise RequestError(f"{shards.reference} holds no token streams made by `prepare`", "name prepared shards")
    for split in ("train", "validation"):  # said here, since workers would be started again and again for it
        tokens = shards.metrics.get(f"tokens_{split}", 0.0)
        if tokens <= config.sequence_length:
            raise DataError(
                f"split {split!r} of {shards.reference} has {tokens:.0f} tokens, less than one sequence of "
                f"{config.sequence_length}",
                "prepare more text, a larger share of that split, or set a smaller sequence_length",
            )
    found = {"shards": shards, "tokenizer": tokenizers[0]}
    if config.init != "scratch":
        found["base"] = store.get(config.init, "checkpoint")
        same_tokenizer(found["base"], tokenizers[0])
    return found


def same_tokenizer(checkpoint: Artifact, tokenizer: Artifact) -> None:
    """Raises RequestError if a checkpoint was made with another tokenizer."""
    if tokenizer.reference not in checkpoint.parents:
        raise RequestError(
            f"{checkpoint.reference} was made with another tokenizer than {tokenizer.reference}",
            "prepare the data with the checkpoint's tokenizer (`tokenizer: NAME`)",
        )


def sources(config: Pretrain, parents: Mapping[str, Artifact]) -> list[Any]:
    """Pretraining reads artifacts only."""
    return []


def make(config: Pretrain, making: Making) -> Made:
    """Trains the model."""
    from llmyard.runtime.trainer import Board

    draft = making.draft
    job = TrainJob(
        config=config,
        storage=draft.storage,
        shards=making.parents["shards"],
        tokenizer=making.parents["tokenizer"],
        base=making.parents.get("base"),
        labels={},
        folder=draft.folder,
        fence=draft.lease.fence,
        ticket=making.run.ticket(),
        board=Board.start(),
    )
    metrics = run_training(job, making)
    return Made(metrics, {"task": "causal_lm", "sequence_length": config.sequence_length, "family": "gpt2"})
