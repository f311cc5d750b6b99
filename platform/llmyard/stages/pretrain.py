"""``pretrain``: shards to a base model, on Ray Train."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import TYPE_CHECKING, Any

from llmyard.core.artifacts import Artifact, ArtifactStore
from llmyard.core.errors import DataError, RequestError
from llmyard.core.jobfile import nearest
from llmyard.stages.bases import base_of, check_base, check_replay, check_vectors, tokenizer_of
from llmyard.stages.config import Pretrain
from llmyard.stages.counting import counted
from llmyard.stages.stage import Made, Making
from llmyard.stages.training import TrainJob, run_training
from llmyard.training.config import objectives_of

if TYPE_CHECKING:
    from llmyard.tokens.config import Mixture
    from llmyard.tokens.mixture import Phase

REVISION = 3


def parents(config: Pretrain, store: ArtifactStore) -> Mapping[str, Artifact]:
    """Returns the shards, their tokenizer, the checkpoint to go on from, and the general shards of a replay."""
    shards, tokenizer = _streams(config, config.shards, store)
    _check_sources(config, weights_of(shards))
    found = {"shards": shards, "tokenizer": tokenizer}
    if config.init != "scratch":
        found["base"] = base_of(config.init, store)
        check_base(config, found["base"], tokenizer)
    if config.embedding_init is not None:
        found["vectors"] = store.get(config.embedding_init, "checkpoint")
        check_vectors(config, found["vectors"], tokenizer)
    if config.replay is not None:
        found["replay"], of_replay = _streams(config, config.replay.shards, store)
        check_replay(found["replay"], of_replay, tokenizer)
    return found


def _streams(config: Pretrain, name: str, store: ArtifactStore) -> tuple[Artifact, Artifact]:
    """Returns prepared shards and their tokenizer.

    Raises:
        RequestError: They were not made by ``prepare``.
        DataError: A split has less than a sequence.
    """
    shards = store.get(name, "shards")
    tokenizer = tokenizer_of(shards, store)
    if tokenizer is None or shards.config.get("kind") != "prepare":
        raise RequestError(f"{shards.reference} holds no token streams made by `prepare`", "name prepared shards")
    least = config.sequence_length if config.packing == "concatenate" else 1
    for split in ("train", "validation"):  # said here, since workers would be started again and again for it
        tokens = shards.metrics.get(f"tokens_{split}", 0.0)
        if tokens <= least:
            raise DataError(
                f"split {split!r} of {shards.reference} has {tokens:.0f} tokens, less than one sequence of {least}",
                "prepare more text, a larger share of that split, or set a smaller sequence_length",
            )
    return shards, tokenizer


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

    A replay's samples do not count: the mixture is that of the domain, and phases end by the domain's own samples.

    Raises:
        DataError: As :func:`_phases`.
    """
    return _phases(config, shards, config.mixture, _own_samples(config))


def _own_samples(config: Pretrain) -> int:
    """Returns how many samples of a run are of its own corpus, not of a replay's."""
    share = config.replay.share if config.replay is not None else 0.0
    return round(config.steps * config.batch.size * (1 - share))


def _phases(config: Pretrain, shards: Artifact, mixture: Mixture | None, samples: int) -> tuple[Phase, ...]:
    """Returns the phases of so many samples of a corpus.

    Raises:
        DataError: A shard holds several sources, or a source with a share has too little text for one sequence.
    """
    weights = weights_of(shards)
    if mixture is None and len(set(weights.values())) <= 1:
        return ()
    from llmyard.tokens.mixture import phases_of
    from llmyard.tokens.shards import ShardSet

    sizes = dict.fromkeys(weights, 0)
    for shard in ShardSet.of(shards, "train").shards:
        if shard.source not in sizes:
            raise DataError(f"a shard of {shards.reference} holds several sources", "prepare the corpus again")
        if config.packing != "concatenate" or shard.tokens > config.sequence_length:
            sizes[shard.source] += shard.document_count if config.packing == "document" else shard.tokens
    phases = phases_of(mixture, sizes, weights, samples)
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


def sources(config: Pretrain, parents: Mapping[str, Artifact]) -> list[Any]:
    """Pretraining reads artifacts only."""
    return []


def make(config: Pretrain, making: Making) -> Made:
    """Trains the model."""
    from llmyard.runtime.trainer import Board

    draft, replay = making.draft, making.parents.get("replay")
    phases = phases_in(config, making.parents["shards"])
    draws_tokens = any(each.kind == "skip_gram" for each in objectives_of(config.objective))
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
        trial=making.context.trial,
        board=Board.start(config.resources),
        phases=phases,
        replay=replay,
        replay_phases=_phases(config, replay, None, 0) if replay is not None else (),
        vectors=making.parents.get("vectors"),
        counts=counted(making) if draws_tokens else None,
    )
    metrics = run_training(job, making)
    base = making.parents.get("base")
    details: dict[str, Any] = {
        "task": config.objective.kind,
        "sequence_length": config.sequence_length,
        "family": config.model.family if config.model is not None else base.details["family"] if base else "",
    }
    if phases:
        details["mixture"] = shown(phases, _own_samples(config))
    return Made(metrics, details)
