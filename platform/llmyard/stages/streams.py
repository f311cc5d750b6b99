"""What a training job reads: its objectives over views of its shards, in their order."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from llmyard.stages.config import Finetune, Pretrain
from llmyard.tasks.config import LABELLERS
from llmyard.training.config import FAMILIES, Denoising, SingleObjective, SpanCorruption, objectives_of

if TYPE_CHECKING:
    from llmyard.core.artifacts import Artifact
    from llmyard.core.compiled import I64
    from llmyard.stages.training import TrainJob
    from llmyard.tokens.order import Order
    from llmyard.tokens.shards import ShardSet
    from llmyard.tokens.tokenizer import Tokenizer
    from llmyard.tokens.views import View
    from llmyard.training.objectives import Objective
    from llmyard.training.streams import Stream, Streams

    OrderOf = Callable[[View, ShardSet], Order]

SENTINELS = 100  # as T5 has; more where a sequence is cut into more spans


def extra_ids(config: Pretrain) -> int:
    """Returns how many ids behind the tokenizer's vocabulary the objectives need."""
    from llmyard.tokens.masking import EXTRA_IDS
    from llmyard.tokens.span_corruption import SpanLengths

    needed = 0
    for each in objectives_of(config.objective):
        match each.kind:
            case "masked_lm":
                needed = max(needed, EXTRA_IDS)
            case "span_corruption":
                lengths = SpanLengths.filling(config.sequence_length, each.noise_density, each.mean_span)
                needed = max(needed, SENTINELS, lengths.spans)
            case "denoising":
                needed = max(needed, 1)
    return needed


def training_streams(job: TrainJob, tokenizer: Tokenizer, companion: Any = None) -> Streams:
    """Returns what a job trains on.

    Args:
        job: The job.
        tokenizer: Of its model.
        companion: The model that the trained one learns from or is held to, where there is one.
    """
    from llmyard.stages.replay import joined, order_of
    from llmyard.tokens.shards import ShardSet
    from llmyard.training.streams import Streams

    corpora = joined(job, "train")
    order = partial(order_of, job, corpora)
    if isinstance(job.config, Finetune):
        made = [_examples(job, job.config, corpora.all, tokenizer, order, companion)]
        for part, data in _others(job):
            shards = ShardSet.of(data, "train")
            shuffled = partial(_shuffled, job.config.seed)
            made.append(_examples(job, part, shards, tokenizer, shuffled, companion))
        shares = [1.0, *(each.weight for each in job.config.also)]
        power = 1 / job.config.mixing_temperature
        weights = [share * sum(each.view.rows) ** power for share, each in zip(shares, made, strict=True)]
        return Streams(made, weights, job.config.seed)
    config, objective = job.config, job.config.objective
    made = [pretraining(config, each, corpora.all, tokenizer, order, job.counts) for each in objectives_of(objective)]
    weights = [part.weight for part in objective.parts] if objective.kind == "mixture" else [1.0]
    return Streams(made, weights, config.seed)


def validation_streams(job: TrainJob, tokenizer: Tokenizer, companion: Any = None) -> dict[str, Stream]:
    """Returns what a job is judged by: ``""`` is the whole of it, and where there are several, each source.

    Arguments are those of :func:`training_streams`. With replay the whole is mixed as in training, and ``domain`` and
    ``general`` stand apart, each with its sources.
    """
    from llmyard.core.errors import DataError
    from llmyard.stages.replay import joined, order_as_stored
    from llmyard.tokens.shards import ShardSet

    corpora = joined(job, "validation")
    if isinstance(job.config, Finetune):
        judged = {"": _examples(job, job.config, corpora.all, tokenizer, stored_order, companion)}
        for part, data in _others(job):
            shards = ShardSet.of(data, "validation")
            judged[part.task.kind] = _examples(job, part, shards, tokenizer, stored_order, companion)
        return judged
    config, first = job.config, objectives_of(job.config.objective)[0]
    stored = partial(order_as_stored, job, corpora)
    found = {"": pretraining(config, first, corpora.all, tokenizer, stored, job.counts)}
    for name, own in corpora.parts().items():
        try:
            found[name] = pretraining(config, first, own, tokenizer, counts=job.counts)
        except DataError:  # too little of it is held out for one sequence
            continue
    return found


def _others(job: TrainJob) -> list[tuple[Finetune, Artifact]]:
    """Returns the other tasks of a job with their data."""
    from llmyard.stages.examples import parts_of

    assert isinstance(job.config, Finetune)
    return list(zip(parts_of(job.config)[1:], job.others, strict=True))


def _shuffled(seed: int, view: View, shards: ShardSet) -> Order:
    from llmyard.tokens.order import DataOrder
    from llmyard.tokens.prefetch import prefetching

    return prefetching(DataOrder(view.rows, seed), shards)


def _examples(
    job: TrainJob, config: Finetune, shards: ShardSet, tokenizer: Tokenizer, order_of: OrderOf, companion: Any
) -> Stream:
    from llmyard.tokens.views import ExampleView
    from llmyard.training.objectives import TokenLoss
    from llmyard.training.streams import Stream
    from llmyard.training.task_objectives import (
        LabelObjective,
        PreferenceObjective,
        PromptedLmObjective,
        SequenceToSequenceObjective,
        SpanObjective,
    )
    from llmyard.training.teaching import Teacher

    view = ExampleView(shards)
    objective: Objective
    smoothing = config.label_smoothing
    if smoothing is None:
        smoothing = getattr(config.model, "label_smoothing", job.label_smoothing)
    teacher = None
    if config.distillation is not None:
        lesson = config.distillation
        teacher = Teacher(companion, lesson.share, lesson.temperature, lesson.hidden)
    loss = TokenLoss(smoothing, is_fused=config.fused_loss, teacher=teacher)
    if config.task.kind == "preference":
        objective = PreferenceObjective(tokenizer.pad_id, companion, config.task.beta)
    elif job.family in LABELLERS and "classes" in job.labels:
        objective = LabelObjective(tokenizer.pad_id, smoothing, teacher)
    elif job.family in LABELLERS:
        objective = SpanObjective(tokenizer.pad_id, len(job.labels["relations"]), smoothing, teacher)
    elif job.family in FAMILIES["causal_lm"]:
        objective = PromptedLmObjective(tokenizer.pad_id, loss)
    else:
        objective = SequenceToSequenceObjective(tokenizer.pad_id, loss)
    return Stream(objective, view, order_of(view, shards))


def pretraining(
    config: Pretrain,
    objective: SingleObjective,
    shards: ShardSet,
    tokenizer: Tokenizer,
    order_of: OrderOf | None = None,
    counts: I64 | None = None,
) -> Stream:
    """Returns one objective of a pretraining over a split.

    Args:
        config: Of the stage.
        objective: One of its objectives.
        shards: Of the split.
        tokenizer: Of the shards.
        order_of: Makes the order; by default samples come as they are stored.
        counts: How often each token stands in the training split; skip_gram draws tokens by it.
    """
    import torch

    from llmyard.tokens.denoising import DenoisingView, PrefixView
    from llmyard.tokens.frequencies import frequency_scores
    from llmyard.tokens.lanes import LaneOrder, LaneView
    from llmyard.tokens.masking import MaskedView
    from llmyard.tokens.packing import packed
    from llmyard.tokens.sentence_pairs import SentencePairView
    from llmyard.tokens.sentences import sentence_marks
    from llmyard.tokens.skip_gram import SkipGramView
    from llmyard.tokens.span_corruption import SpanCorruptionView
    from llmyard.tokens.views import PackedView
    from llmyard.tokens.word_starts import WordStarts
    from llmyard.training.objectives import CausalLmObjective, TokenLoss
    from llmyard.training.pretraining import (
        MaskedLmObjective,
        RecurrentLmObjective,
        RestoringObjective,
        SkipGramObjective,
    )
    from llmyard.training.streams import Stream

    order_of = order_of or stored_order
    length, seed = config.sequence_length, config.seed
    loss = TokenLoss(config.label_smoothing, config.z_loss, config.fused_loss)
    ids: dict[str, Any] = {"vocab_size": tokenizer.vocab_size, "seed": seed}
    pad_id, end_id = tokenizer.pad_id, tokenizer.end_id
    view: View
    match objective.kind:
        case "causal_lm":
            view = packed(shards, length, config.packing, config.document_boundaries)
            causal = CausalLmObjective(pad_id, config.document_boundaries, loss)
            return Stream(causal, view, order_of(view, shards))
        case "recurrent_lm":
            is_training = shards.split == "train"
            lanes = LaneView(shards, config.batch.size if is_training else config.batch.micro_batch, length)
            return Stream(RecurrentLmObjective(loss), lanes, LaneOrder(lanes))
        case "masked_lm":
            room = length - 3  # for the opening token and two separators
            texts: View
            if objective.pairs == "none":
                texts = packed(shards, room, "document", False)
            else:
                texts = SentencePairView(shards, sentence_marks(tokenizer), room, seed, objective.pairs)
            words = WordStarts(tokenizer) if objective.whole_words else None
            view = MaskedView(texts, words, separator_id=_separator(tokenizer), share=objective.mask_share, **ids)
            masked = MaskedLmObjective(pad_id, objective.mask_share * length, loss)
            return Stream(masked, view, order_of(view, shards))
        case "span_corruption":
            view = SpanCorruptionView(shards, length, end_id=end_id, **ids, **_noise(objective))
        case "denoising":
            marks = sentence_marks(tokenizer) if objective.shuffle_sentences else None
            view = DenoisingView(PackedView(shards, length - 1), marks, end_id=end_id, **ids, **_noise(objective))
        case "skip_gram":
            assert counts is not None, "skip_gram draws tokens by their frequency"
            window = objective.model_dump(exclude={"kind"})
            view = SkipGramView(PackedView(shards, length), counts, end_id=end_id, seed=seed, **window)
            known = frequency_scores(counts, objective.subsample, objective.negatives)
            return Stream(SkipGramObjective(torch.from_numpy(known).float()), view, order_of(view, shards))
        case "prefix_lm":
            view = PrefixView(PackedView(shards, length), end_id=end_id, seed=seed)
    return Stream(RestoringObjective(pad_id, loss), view, order_of(view, shards))


def _noise(objective: SpanCorruption | Denoising) -> dict[str, Any]:
    return {"noise_density": objective.noise_density, "mean_span": objective.mean_span}


def _separator(tokenizer: Tokenizer) -> int:
    from llmyard.tokens.tokenizer import SEPARATOR

    return tokenizer.control(SEPARATOR)


def stored_order(view: View, shards: ShardSet) -> Order:
    """Returns the order in which samples are stored."""
    from llmyard.tokens.order import DataOrder

    return DataOrder(view.rows, 0, shuffle=False)
