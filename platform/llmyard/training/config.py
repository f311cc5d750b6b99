"""How a model is trained; shared by every stage that trains."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Discriminator, Field, Tag, model_validator

from llmyard.core.config import Config, Inert
from llmyard.training.methods import Fgm, Frozen, Full, Lora, Pgd, PromptTuning
from llmyard.training.seeing import Profile, Samples


class CausalLm(Config):
    """Predict each token from those before it."""

    kind: Literal["causal_lm"] = "causal_lm"


class RecurrentLm(Config):
    """Predict each token from those before it and from the memory of earlier segments of its stream."""

    kind: Literal["recurrent_lm"] = "recurrent_lm"


class MaskedLm(Config):
    """Guess hidden words from both sides, and whether two segments belong together (Devlin et al. 2019)."""

    kind: Literal["masked_lm"] = "masked_lm"
    mask_share: float = Field(0.15, gt=0, lt=1)
    whole_words: bool = Field(True, description="Hide whole Chinese and English words, not single tokens.")
    pairs: Literal["next", "order", "none"] = Field(
        "next", description="next: the second segment follows or is of another text; order: it follows or precedes."
    )


class SpanCorruption(Config):
    """Write the spans that are cut out of a text (Raffel et al. 2020)."""

    kind: Literal["span_corruption"] = "span_corruption"
    noise_density: float = Field(0.15, gt=0, le=0.4)
    mean_span: float = Field(3.0, ge=1, description="Mean tokens of a span.")


class PrefixLm(Config):
    """Write the rest of a text whose beginning the encoder reads."""

    kind: Literal["prefix_lm"] = "prefix_lm"


class Denoising(Config):
    """Write a text from a copy with spans cut out and sentences shuffled (Lewis et al. 2020)."""

    kind: Literal["denoising"] = "denoising"
    noise_density: float = Field(0.3, gt=0, lt=1)
    mean_span: float = Field(3.0, ge=1)
    shuffle_sentences: bool = True


class SkipGram(Config):
    """Tell the tokens around a token from drawn ones (skip-gram with negative sampling, Mikolov et al. 2013)."""

    kind: Literal["skip_gram"] = "skip_gram"
    window: int = Field(5, ge=1, le=64, description="Most tokens to either side; how many is drawn for each token.")
    negatives: int = Field(5, ge=1, le=64, description="Drawn tokens beside each true one.")
    subsample: float = Field(
        1e-3, ge=0, lt=1, description="Of tokens with a larger share of the corpus some are passed over; 0 reads all."
    )


SingleObjective = CausalLm | RecurrentLm | MaskedLm | SpanCorruption | PrefixLm | Denoising | SkipGram


class Part(Config):
    """One objective of a mixture."""

    objective: Annotated[SingleObjective, Field(discriminator="kind")]
    weight: float = Field(1.0, gt=0, description="How often a micro-batch is of this objective, relative to others.")


class ObjectiveMixture(Config):
    """Several objectives, one for each micro-batch."""

    kind: Literal["mixture"] = "mixture"
    parts: tuple[Part, ...] = Field(min_length=2)

    @model_validator(mode="after")
    def _without_memory(self) -> Self:
        if any(part.objective.kind == "recurrent_lm" for part in self.parts):
            raise ValueError("recurrent_lm reads one stream step after step: it cannot be mixed with others")
        return self


Objective = Annotated[SingleObjective | ObjectiveMixture, Field(discriminator="kind")]
# Which model families learn by an objective.
FAMILIES: dict[str, tuple[str, ...]] = {
    "causal_lm": ("gpt2", "llama", "transformer_xl"),
    "recurrent_lm": ("transformer_xl",),
    "masked_lm": ("bert",),
    "span_corruption": ("t5", "transformer"),
    "prefix_lm": ("t5", "transformer"),
    "denoising": ("t5", "transformer"),
    "skip_gram": ("word_vectors",),
}


def objectives_of(objective: SingleObjective | ObjectiveMixture) -> tuple[SingleObjective, ...]:
    """Returns the single objectives of a choice."""
    return tuple(part.objective for part in objective.parts) if objective.kind == "mixture" else (objective,)


class _Optimizer(Config):
    learning_rate: float = Field(1e-3, gt=0, le=1)
    weight_decay: float = Field(0.01, ge=0, le=1, description="On matrices only, not on biases and norms.")
    max_grad_norm: float = Field(1.0, gt=0)


class AdamW(_Optimizer):
    """AdamW (Loshchilov and Hutter 2019)."""

    kind: Literal["adamw"] = "adamw"
    betas: tuple[float, float] = (0.9, 0.98)
    epsilon: float = Field(1e-8, gt=0)


class Adafactor(_Optimizer):
    """Adafactor (Shazeer and Stern 2018): of a matrix's second moments rows and columns only, for little memory."""

    kind: Literal["adafactor"] = "adafactor"
    beta2_decay: float = Field(-0.8, lt=0)
    clip: float = Field(1.0, gt=0, description="Largest root mean square of an update.")


class Lamb(_Optimizer):
    """LAMB (You et al. 2020): Adam for batches of tens of thousands."""

    kind: Literal["lamb"] = "lamb"
    betas: tuple[float, float] = (0.9, 0.999)
    epsilon: float = Field(1e-6, gt=0)


class Lars(_Optimizer):
    """LARS (You et al. 2017): momentum for batches of tens of thousands."""

    kind: Literal["lars"] = "lars"
    momentum: float = Field(0.9, ge=0, lt=1)
    trust: float = Field(1e-3, gt=0)


class Muon(_Optimizer):
    """Muon (Jordan et al. 2024) for the matrices inside the layers, AdamW for all else."""

    kind: Literal["muon"] = "muon"
    momentum: float = Field(0.95, ge=0, lt=1)
    betas: tuple[float, float] = (0.9, 0.98)
    epsilon: float = Field(1e-8, gt=0)


def optimizer_kind(value: Any) -> str:
    """Returns which optimizer's settings are meant: ``adamw`` where none is named."""
    return str(value.get("kind", "adamw") if isinstance(value, dict) else getattr(value, "kind", "adamw"))


OptimizerChoice = Annotated[
    Annotated[AdamW, Tag("adamw")]
    | Annotated[Adafactor, Tag("adafactor")]
    | Annotated[Lamb, Tag("lamb")]
    | Annotated[Lars, Tag("lars")]
    | Annotated[Muon, Tag("muon")],
    Discriminator(optimizer_kind),
]


class Schedule(Config):
    """Linear warm-up, then a fall to ``final_share`` of the learning rate at the last step.

    ``wsd`` stays at the peak until the last ``decay_share`` of the steps (Hu et al. 2024); ``inverse_square_root``
    falls with the root of the step (Vaswani et al. 2017) and knows no last step.
    """

    kind: Literal["cosine", "linear", "constant", "inverse_square_root", "wsd"] = "cosine"
    warmup_steps: int = Field(20, ge=0)
    final_share: float = Field(0.05, ge=0, le=1)
    decay_share: float = Field(0.2, gt=0, le=1, description="wsd: share of the steps in which the rate falls.")


class Stability(Config):
    """When a step is passed over, and when the run goes back to its last checkpoint and reads other data."""

    window: int = Field(100, ge=8, description="Steps that a step is compared with.")
    gradient_score: float = Field(20.0, gt=0, description="Robust z-score from which on a gradient norm is a spike.")
    loss_score: float = Field(12.0, gt=0, description="Robust z-score from which on a loss is high.")
    max_skips: int = Field(5, ge=0, description="Steps passed over in a row before the run goes back.")
    max_high_losses: int = Field(20, ge=0, description="High losses in a row before the run goes back.")
    max_roll_backs: int = Field(3, ge=0, description="Times the run goes back before it stops.")


class Ramp(Config):
    """A batch that grows in equal steps (Brown et al. 2020, appendix B)."""

    start: int = Field(ge=1, description="Sequences or examples of the first steps; grows by as many at a time.")
    steps: int = Field(ge=1, description="Steps after which the batch has its full size.")


class Batch(Config):
    """What one optimizer step sees. The micro-batch does not depend on the number of workers: that makes runs equal."""

    size: int = Field(32, ge=1, description="Sequences or examples an optimizer step.")
    micro_batch: int = Field(16, ge=1, description="Sequences or examples a forward pass on one worker.")
    ramp: Ramp | None = Field(None, description="Begin with smaller steps.")

    @model_validator(mode="after")
    def _divides(self) -> Self:
        if self.size % self.micro_batch:
            raise ValueError(f"batch size {self.size} is not a multiple of the micro_batch {self.micro_batch}")
        if self.ramp is not None and (self.size % self.ramp.start or self.ramp.start % self.micro_batch):
            raise ValueError(
                f"ramp.start {self.ramp.start} must be a multiple of the micro_batch {self.micro_batch} and divide the "
                f"batch size {self.size}"
            )
        return self

    @property
    def least(self) -> int:
        """Micro-batches of the smallest step."""
        return (self.ramp.start if self.ramp is not None else self.size) // self.micro_batch


class Elastic(Config):
    """As many workers as there is room for, within bounds; the group is started anew when that changes."""

    min: int = Field(1, ge=1)
    max: int = Field(ge=1, le=10_000)

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.min > self.max:
            raise ValueError(f"min {self.min} is more than max {self.max}")
        return self


class Resources(Config):
    """What the workers get; none of it changes the result beyond float rounding."""

    workers: Annotated[int, Field(ge=1, le=10_000)] | Elastic = 2
    cpus_per_worker: float = Field(1, gt=0)
    gpus_per_worker: float = Field(0, ge=0)
    max_failures: int = Field(3, ge=0, description="Worker group restarts before the stage fails.")

    @property
    def most(self) -> int:
        """The largest number of workers."""
        return self.workers if isinstance(self.workers, int) else self.workers.max

    @property
    def least(self) -> int:
        """The smallest number of workers."""
        return self.workers if isinstance(self.workers, int) else self.workers.min


class Parallel(Config):
    """How the workers divide a model and its work; none of it changes the result beyond float rounding.

    The product of all is the number of workers. Micro-batches are divided among ``replicate`` times ``shard`` groups.
    """

    replicate: int | None = Field(None, ge=1, description="Copies of the model; unset: what the others leave.")
    shard: int = Field(1, ge=1, description="FSDP: weights, gradients and optimizer states divided among as many.")
    tensor: int = Field(1, ge=1, description="Matrices of each layer divided among as many (llama).")
    pipeline: int = Field(1, ge=1, description="Layers divided among as many (gpt2, llama).")

    @property
    def is_plain(self) -> bool:
        """Whether every worker holds the whole model."""
        return self.shard == self.tensor == self.pipeline == 1

    @property
    def model_workers(self) -> int:
        """Workers that share one micro-batch."""
        return self.tensor * self.pipeline


class Training(Config):
    """Fields of a stage that trains."""

    steps: int = Field(ge=1)
    batch: Batch = Batch()
    optimizer: OptimizerChoice = AdamW()
    schedule: Schedule = Schedule()
    stability: Stability = Stability()
    seed: int = Field(0, ge=0)
    precision: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto", description="auto: bfloat16 where the device computes in it, else float32; weights stay float32."
    )
    fused_loss: bool = Field(
        False, description="Output layer and cross-entropy in pieces: the logits of a large vocabulary are never held."
    )
    compile: bool = Field(False, description="Compile the layers with torch.compile.")
    activation_checkpointing: bool = Field(
        False, description="Compute the layers' activations again in the backward pass: less memory, a third more work."
    )
    ema_decay: float | None = Field(
        None, gt=0, lt=1, description="The model that is kept is an average of all steps' weights; unset, the last one."
    )
    evaluate_every_steps: int | None = Field(None, ge=1, description="Validation during training; unset, at its end.")
    patience: int | None = Field(
        None, ge=1, description="Evaluations without a better loss after which training ends; unset, it never does."
    )
    keep_best: bool = Field(False, description="The model that is kept is that of the least validation loss.")
    checkpoint_every_steps: Annotated[int, Inert(), Field(ge=1)] = 100
    keep_checkpoints: Annotated[int, Inert(), Field(ge=1)] = 2
    log_every_steps: Annotated[int, Inert(), Field(ge=1)] = 1
    samples: Annotated[Samples | None, Inert()] = Field(None, description="Texts that the model writes meanwhile.")
    layer_statistics_every_steps: Annotated[int | None, Inert(), Field(ge=1)] = Field(
        None, description="Gradient norm and activations of every layer, and what is wrong with them."
    )
    profile: Annotated[Profile | None, Inert()] = Field(None, description="Trace some steps (also `run --profile`).")
    hang_seconds: Annotated[float | None, Inert(), Field(gt=0)] = Field(
        900.0, description="A step that takes longer hangs: every worker writes down where, and all are started again."
    )
    resources: Annotated[Resources, Inert()] = Resources()
    parallel: Annotated[Parallel, Inert()] = Parallel()

    @property
    def judged_by(self) -> Literal["validation_loss", "validation_metric"]:
        """The figure of an evaluation that decides about the best model and early stopping; metrics are to be large."""
        return "validation_loss"

    @property
    def tuning(self) -> Full | Frozen | Lora | PromptTuning:
        """Which weights are trained: all, unless a stage says otherwise."""
        return Full()

    @property
    def opponent(self) -> Fgm | Pgd | None:
        """What disturbs the embeddings in training: nothing, unless a stage says otherwise."""
        return None

    @model_validator(mode="after")
    def _evaluates(self) -> Self:
        for field in ("patience", "keep_best"):
            if getattr(self, field) and self.evaluate_every_steps is None:
                raise ValueError(f"`{field}` looks at evaluations: give `evaluate_every_steps` too")
        if self.keep_best and self.ema_decay is not None:
            raise ValueError("`keep_best` and `ema_decay` both say which weights are kept: give one")
        return self

    @model_validator(mode="after")
    def _workers_divide(self) -> Self:
        workers, parallel = self.resources.workers, self.parallel
        if isinstance(workers, Elastic):
            if not parallel.is_plain or parallel.replicate is not None:
                raise ValueError("`parallel` divides a fixed number of workers: give resources.workers one number")
            return self
        divided = parallel.shard * parallel.model_workers * (parallel.replicate or 1)
        if workers % divided or (parallel.replicate is not None and workers != divided):
            raise ValueError(f"parallel needs {divided} workers, resources.workers is {workers}")
        readers = workers // parallel.model_workers
        if self.batch.least % readers:
            raise ValueError(
                f"batch size {self.batch.least * self.batch.micro_batch} is {self.batch.least} micro-batches of "
                f"{self.batch.micro_batch}, which {readers} workers cannot share evenly"
            )
        return self

    @model_validator(mode="after")
    def _divided_models(self) -> Self:
        """Refuses what a divided model cannot do."""
        parallel, kind = self.parallel, self.optimizer.kind
        if not parallel.is_plain and kind != "adamw":
            raise ValueError(f"optimizer {kind} looks at whole matrices: parallel.{_divisions(parallel)} needs adamw")
        if parallel.model_workers > 1:
            for field in ("fused_loss", "compile", "activation_checkpointing"):
                if getattr(self, field):
                    raise ValueError(f"`{field}` does not go with parallel.{_divisions(parallel)}")
        if parallel.pipeline > 1 and (parallel.shard > 1 or parallel.tensor > 1):
            raise ValueError("parallel.pipeline goes with replicate only, not with shard or tensor")
        if parallel.pipeline > 1 and self.evaluate_every_steps is not None:
            raise ValueError("`evaluate_every_steps` does not go with parallel.pipeline: it evaluates at the end")
        for field in ("samples", "layer_statistics_every_steps"):
            if getattr(self, field) and not parallel.is_plain:
                raise ValueError(f"`{field}` needs whole models, not parallel.{_divisions(parallel)}")
        if self.layer_statistics_every_steps and self.compile:
            raise ValueError("`layer_statistics_every_steps` looks into layers that `compile` makes one piece of")
        if self.precision == "float16" and not parallel.is_plain:
            raise ValueError("precision float16 goes with whole models only: take bfloat16")
        return self


def _divisions(parallel: Parallel) -> str:
    return next(name for name in ("pipeline", "tensor", "shard") if getattr(parallel, name) > 1)
