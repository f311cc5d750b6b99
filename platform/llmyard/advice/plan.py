"""How a model is trained on a machine: what fits, how large the steps are, how many, how fast, how long it takes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from llmyard.advice.memory import Memory, Shape, Way, layers_of, memory_of
from llmyard.advice.question import Hardware
from llmyard.advice.rules import rate_by_size, rules, upto
from llmyard.models.size import training_flops

_FUSED = ("gpt2", "llama", "t5")  # families that write, whose loss can be fused with the output layer
_FUSED_FROM = 30_000  # tokens of the vocabulary; below, logits are small beside the activations
_MANY_CORES = 16
_CORES_A_WORKER = 8
_STEPS_AT_LEAST = 20


@dataclass(frozen=True)
class Plan:
    """A training on a machine.

    Attributes:
        way: What its memory depends on.
        memory: Of one worker.
        available: Bytes that one worker may take.
        workers: Processes that share each step.
        cpus_per_worker: Cores of each; 1 on GPUs.
        batch: Sequences an optimizer step.
        steps: Optimizer steps.
        epochs: Passes over the data.
        tokens: Read in all steps.
        learning_rate: Highest.
        optimizer: ``adamw`` or ``muon``.
        warmup_steps: Until the highest learning rate.
        fused_loss: Whether output layer and loss are computed together.
        flops: Floating-point operations of all steps.
        hours: Of the whole machine, within a factor of about three.
    """

    way: Way
    memory: Memory
    available: int
    workers: int
    cpus_per_worker: int
    batch: int
    steps: int
    epochs: float
    tokens: int
    learning_rate: float
    optimizer: str
    warmup_steps: int
    fused_loss: bool
    flops: float
    hours: float

    @property
    def fits(self) -> bool:
        """Whether a worker's memory holds it."""
        return self.memory.total <= self.available

    @property
    def is_sharded(self) -> bool:
        """Whether the model is divided among the workers."""
        return self.way.shards > 1


@dataclass(frozen=True)
class Work:
    """What is to be learned, whatever the machine.

    Attributes:
        length: Tokens of the longest sequence.
        tokens: Of a sequence on average.
        sequences: In the training data.
        batch: Sequences an optimizer step, about.
        epochs: Passes over the data.
        learning_rate: Highest.
        optimizer: ``adamw`` or ``muon``.
        warmup: Share of the steps.
        writes: Whether the model has an output layer over the vocabulary.
        passes: How often each step's work is done; 2 with an adversary.
    """

    length: int
    tokens: float
    sequences: int
    batch: int
    epochs: float
    learning_rate: float
    optimizer: str
    warmup: float
    writes: bool
    passes: int = 1


def plan(shape: Shape, method: str, work: Work, hardware: Hardware, frozen_layers: int = 0) -> Plan:
    """Returns how a training would run on a machine; where nothing fits, the least demanding way, which says so."""
    use = rules()
    on_gpu = hardware.has_gpus
    fused = on_gpu and work.writes and shape.config.family in _FUSED and shape.vocab_size >= _FUSED_FROM
    start = Way(
        method, rank=use.lora_rank, frozen_layers=frozen_layers, length=work.length, on_gpu=on_gpu,
        logits=work.writes and not fused,
    )  # fmt: skip
    way, workers = _fitting(shape, start, work, hardware)
    pieces = workers * way.micro_batch
    batch = pieces * max(1, round(work.batch / pieces))
    steps = max(_STEPS_AT_LEAST, round(work.sequences * work.epochs / batch))
    tokens = round(steps * batch * work.tokens)
    flops = training_flops(shape.parameters, tokens) / 6 * _operations(way, shape) * work.passes
    rate = use.flops.of(on_gpu) * (workers if on_gpu else hardware.cpus)
    passes = steps * batch // pieces * work.passes
    return Plan(
        way=way, memory=memory_of(shape, way), available=_available(hardware, workers), workers=workers,
        cpus_per_worker=1 if on_gpu else max(1, hardware.cpus // workers), batch=batch, steps=steps,
        epochs=steps * batch / work.sequences, tokens=tokens, learning_rate=work.learning_rate,
        optimizer="adamw" if way.shards > 1 else work.optimizer, warmup_steps=round(steps * work.warmup),
        fused_loss=fused, flops=flops, hours=(flops / rate + passes * use.seconds_a_pass.of(on_gpu)) / 3600,
    )  # fmt: skip


def _operations(way: Way, shape: Shape) -> float:
    """Returns operations a weight and token: 2 forward, 2 for the gradients of activations, 2 for those of weights
    (Kaplan et al. 2020, section 2.1), as far as there are some; 2 more where the forward pass is done again.
    """
    again = 2.0 if way.checkpointing else 0.0
    match way.method:
        case "lora" | "prompt_tuning":
            return 4 + again
        case "frozen":
            return 2 + 4 * (1 - way.frozen_layers / max(1, layers_of(shape.config))) + again
        case _:
            return 6 + again


def _fitting(shape: Shape, start: Way, work: Work, hardware: Hardware) -> tuple[Way, int]:
    for way, workers in _ways(start, work, hardware):
        memory = memory_of(shape, way)
        needed = memory.total + (rules().activation_margin - 1) * memory.activations
        if needed <= _available(hardware, workers):
            return way, workers
    smallest = replace(start, checkpointing=True)
    return smallest, 1 if not hardware.has_gpus else min(hardware.gpus, work.batch)


def _ways(start: Way, work: Work, hardware: Hardware) -> Iterator[tuple[Way, int]]:
    """Yields ways to hold a training, the faster first: large micro-batches, then activations computed again, then
    micro-batches of one, then a divided model.
    """
    dividing = [1]
    if start.method == "full" and hardware.has_gpus and hardware.gpus > 1:
        dividing.append(min(hardware.gpus, work.batch))
    for shards in dividing:
        for checkpointing, least in ((False, 4), (True, 1), (False, 1)):
            for workers in [shards] if shards > 1 else _workers(hardware, work.batch):
                for micro in _micro_batches(work, workers, hardware.has_gpus):
                    if micro >= min(least, work.batch):
                        yield replace(start, micro_batch=micro, checkpointing=checkpointing, shards=shards), workers


def _workers(hardware: Hardware, batch: int) -> list[int]:
    if hardware.has_gpus:
        return [min(hardware.gpus, batch)]
    most = hardware.cpus // _CORES_A_WORKER if hardware.cpus >= _MANY_CORES else min(2, hardware.cpus)
    return list(dict.fromkeys([min(most, batch), 1]))


def _micro_batches(work: Work, workers: int, on_gpu: bool) -> list[int]:
    use = rules()
    most = min(use.micro_batch.of(on_gpu), use.micro_batch_tokens.of(on_gpu) // work.length, work.batch // workers)
    found = [1]
    while 2 * found[-1] <= most:
        found.append(2 * found[-1])
    return found[::-1]


def _available(hardware: Hardware, workers: int) -> int:
    share = rules().memory_share.of(hardware.has_gpus)
    memory = hardware.gpu_memory_gb if hardware.has_gpus else hardware.memory_gb / workers
    return round(memory * share * 1e9)


def hours_there_are(hardware: Hardware, asked: float | None) -> float:
    """Returns how long a training may take."""
    return asked if asked is not None else rules().hours.of(hardware.has_gpus)


def pretraining_work(parameters: int, text_tokens: float, longest: int, *, writes: bool = True) -> Work:
    """Returns how a model of a size is pretrained on a text: 20 tokens a weight, but the text four times at most.

    Args:
        parameters: Of the model.
        text_tokens: Tokens of the text.
        longest: Tokens that the model can read at most.
        writes: Whether it has an output layer; all that are pretrained do.
    """
    use = rules()
    seen = min(use.tokens_a_parameter * parameters, use.worthwhile_epochs * text_tokens)
    length = min(int(upto(use.sequence, text_tokens)), longest)
    a_step = min(upto(use.pretrain_batch, parameters), seen / use.pretrain_steps)
    batch = max(8, round(a_step / length))
    small = parameters < use.small_model
    return Work(
        length=length, tokens=length, sequences=max(1, round(text_tokens / length)), batch=batch,
        epochs=seen / text_tokens, learning_rate=use.scratch_rate if small else rate_by_size(parameters),
        optimizer="muon" if small else "adamw", warmup=use.warmup.pretrain, writes=writes,
    )  # fmt: skip
