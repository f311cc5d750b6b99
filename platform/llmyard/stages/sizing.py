"""What a training takes, reckoned from its config alone: no torch, so that ``check`` answers at once."""

from __future__ import annotations

from dataclasses import dataclass

from llmyard.models.config import Model
from llmyard.models.size import activation_bytes, parameters_of, training_bytes, training_flops, weights_a_token
from llmyard.stages.config import Finetune, Pretrain
from llmyard.stages.training_config import longest_of

# What a small float32 model reached on one core of the machine in the README; a GPU user reads it as an upper bound.
FLOPS_A_DEVICE = 4.0e10
TYPICAL_EXAMPLE_TOKENS = 64
_PROCESS_BYTES = 600_000_000  # Python, torch, transformers, Ray
_FROZEN_BYTES = 4  # a weight that is only read; what is trained beside it is small
_COPIED_BYTES = 12  # a weight and its moments, copied into memory while a checkpoint is written


@dataclass(frozen=True)
class Size:
    """Of a training.

    Attributes:
        parameters: Weights of the whole model.
        worker_bytes: Memory of one worker: of its GPU where it has one, else of its process.
        tokens: Read in all steps.
        hours: Of one device, for all of it.
    """

    parameters: int
    worker_bytes: int
    tokens: int
    hours: float


def size_of(stage: Pretrain | Finetune, vocab_size: int, base: Model | None = None) -> Size | None:
    """Returns about what a training takes; None where its model or vocabulary is not known yet.

    Args:
        stage: The training.
        vocab_size: Of its tokenizer; 0 where it is not known.
        base: Shape of the model that it goes on from; its positions are taken for those of this training.
    """
    model = stage.model or base
    if model is None or not vocab_size:
        return None
    longest = stage.sequence_length if isinstance(stage, Pretrain) else longest_of(stage, model.family)
    parameters = used = parameters_of(model, vocab_size, longest)
    length = longest if isinstance(stage, Pretrain) else TYPICAL_EXAMPLE_TOKENS
    tokens = stage.steps * stage.batch.size * length
    if isinstance(stage, Pretrain) and stage.objective.kind == "skip_gram":
        used = weights_a_token(model.hidden_size, stage.objective.window, stage.objective.negatives)
    parallel = stage.parallel
    is_whole = not isinstance(stage, Finetune) or stage.method.kind in ("full", "frozen")
    held = training_bytes(parameters) if is_whole else _FROZEN_BYTES * parameters
    if is_whole and not stage.resources.gpus_per_worker:
        held += _COPIED_BYTES * parameters
    activations = activation_bytes(
        model, vocab_size, stage.batch.micro_batch, length,
        bytes_a_number=2 if stage.precision in ("bfloat16", "float16") else 4,
        recomputed=stage.activation_checkpointing, fused_loss=stage.fused_loss,
    )  # fmt: skip
    worker = held // (parallel.shard * parallel.model_workers) + activations // parallel.model_workers
    worker += 0 if stage.resources.gpus_per_worker else _PROCESS_BYTES
    return Size(parameters, worker, tokens, training_flops(used, tokens) / FLOPS_A_DEVICE / 3600)
