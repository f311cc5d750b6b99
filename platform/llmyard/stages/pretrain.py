"""``pretrain``: shards to a base model, on Ray Train."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import TYPE_CHECKING, Any

from llmyard.core.artifacts import Artifact, ArtifactStore
from llmyard.core.errors import DataError, RequestError
from llmyard.core.jobfile import nearest
from llmyard.stages.config import Pretrain
from llmyard.stages.stage import Made, Making
from llmyard.stages.training import TrainJob, run_training
from llmyard.training.config import FAMILIES, objectives_of

if TYPE_CHECKING:
    from llmyard.tokens.mixture import Phase

REVISION = 2


def parents(config: Pretrain, store: ArtifactStore) -> Mapping[str, Artifact]:
    """Returns the shards, their tokenizer, and the checkpoint to go on from."""
    shards = store.get(config.shards, "shards")
    tokenizers = [store.get(parent) for parent in shards.parents if parent.startswith("tokenizer/")]
    if not tokenizers or shards.config.get("kind") != "prepare":
        raise RequestError(f"{shards.reference} holds no token streams made by `prepare`", "name prepared shards")
    least = config.sequence_length if config.packing == "concatenate" else 1
    for split in ("train", "validation"):  # said here, since workers would be started again and again for it
        tokens = shards.metrics.get(f"tokens_{split}", 0.0)
        if tokens <= least:
            raise DataError(
                f"split {split!r} of {shards.reference} has {tokens:.0f} tokens, less than one sequence of {least}",
                "prepare more text, a larger share of that split, or set a smaller sequence_length",
            )
    _check_sources(config, weights_of(shards))
    found = {"shards": shards, "tokenizer": tokenizers[0]}
    if config.init != "scratch":
        found["base"] = store.get(config.init, "checkpoint")
        same_tokenizer(found["base"], tokenizers[0])
        family = str(found["base"].details.get("family", ""))
        for each in objectives_of(config.objective):
            if family not in FAMILIES[each.kind]:
                base = found["base"].reference
                raise RequestError(
                    f"{base} is of family {family or 'unknown'!r}, which does not learn by {each.kind}",
                    f"{each.kind} is learned by {', '.join(FAMILIES[each.kind])}",
                )
    return found


def weights_of(shards: Artifact) -> dict[str, float]:
    """Returns the weights of a corpus's sources by their names."""
    sources = shards.config.get("sources", ())
    return {str(each.get("name") or each["kind"]): float(each.get("weight", 1.0)) for each in sources}


def _check_sources(config: Pretrain, known: Mapping[str, float]) -> None:
    """Raises RequestError if the mixture names a source that the corpus does not have, or leaves one out."""
    for shares in config.mixture.named() if config.mixture is not None else ():
        there = f"{config.shards} holds: {', '.join(known)}"
        for name in shares:
            if name not in known:
                near = nearest(name, list(known))
                raise RequestError(f"mixture: unknown source {name!r}", f"{near + '; ' if near else ''}{there}")
        missing = [name for name in known if name not in shares]
        if missing:
            raise RequestError(
                f"mixture: no share for source {missing[0]!r} beside {shares}", f"give 0 to leave one out; {there}"
            )


def phases_in(config: Pretrain, shards: Artifact) -> tuple[Phase, ...]:
    """Returns the phases of a run's mixture; none where every source is drawn by its size.

    Raises:
        DataError: A shard holds several sources, or a source with a share has too little text for one sequence.
    """
    weights = weights_of(shards)
    if config.mixture is None and len(set(weights.values())) <= 1:
        return ()
    from llmyard.tokens.mixture import phases_of
    from llmyard.tokens.shards import ShardSet

    sizes = dict.fromkeys(weights, 0)
    for shard in ShardSet.of(shards, "train").shards:
        if shard.source not in sizes:
            raise DataError(f"a shard of {shards.reference} holds several sources", "prepare the corpus again")
        if config.packing != "concatenate" or shard.tokens > config.sequence_length:
            sizes[shard.source] += shard.document_count if config.packing == "document" else shard.tokens
    phases = phases_of(config.mixture, sizes, weights, config.steps * config.batch.size)
    for name in {name for phase in phases for name, share in phase.shares.items() if share and not sizes[name]}:
        raise DataError(
            f"mixture: source {name!r} of {shards.reference} has no shard of one sequence",
            "give it the share 0, prepare more text of it, or set a smaller sequence_length",
        )
    return phases


def shown(phases: Sequence[Phase], samples: int) -> list[dict[str, Any]]:
    """Returns phases as a run's details show them: where each ends, as a share of the run, and its shares."""
    ends = accumulate(phase.samples or 0 for phase in phases[:-1])
    return [
        {"until": until, "shares": {name: round(share, 6) for name, share in phase.normalized().items()}}
        for until, phase in zip([*(end / samples for end in ends), 1.0], phases, strict=True)
    ]


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
    phases = phases_in(config, making.parents["shards"])
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
        phases=phases,
    )
    metrics = run_training(job, making)
    base = making.parents.get("base")
    details: dict[str, Any] = {
        "task": config.objective.kind,
        "sequence_length": config.sequence_length,
        "family": config.model.family if config.model is not None else base.details["family"] if base else "",
    }
    if phases:
        details["mixture"] = shown(phases, config.steps * config.batch.size)
    return Made(metrics, details)
