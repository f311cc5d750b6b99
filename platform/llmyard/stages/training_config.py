"""The stages that train: ``pretrain`` and ``finetune``, and what their fields hold."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from llmyard.core.config import Config
from llmyard.models.config import ModelChoice
from llmyard.sources.config import ExampleSource, SmallWorldExamples, unfit
from llmyard.stages.naming import INIT, Init, Stage
from llmyard.tasks.config import BACK_TRANSLATED, LABELLERS, Task
from llmyard.text.disturbances import Disturbance
from llmyard.tokens.config import Mixture, Packing
from llmyard.training.config import FAMILIES, CausalLm, Objective, Training, objectives_of
from llmyard.training.methods import Adversarial, Fgm, Frozen, Full, Lora, Method, Pgd, PromptTuning


class Replay(Config):
    """General text that a model goes on reading while it learns a domain, so that it forgets less."""

    shards: str = Field(description="Name of a shards artifact with the same tokenizer, or that which was extended.")
    share: float = Field(gt=0, lt=1, description="How many of all samples are general ones; exact over time.")


class Pretrain(Stage, Training):
    """Shards to a base model."""

    kind: Literal["pretrain"] = "pretrain"
    shards: str = Field(description="Name of a shards artifact.")
    init: Init = Field("scratch", description=INIT)
    model: ModelChoice | None = None
    objective: Objective = CausalLm()
    label_smoothing: float = Field(0.0, ge=0, lt=1)
    z_loss: float = Field(0.0, ge=0, description="Weight of the squared log of the softmax's sum: keeps logits small.")
    sequence_length: int = Field(256, ge=8, le=131_072)
    packing: Packing = Field(
        "concatenate",
        description="How documents become sequences: cut from their stream; best_fit: whole ones together, without "
        "cuts where they fit; document: one a sequence, what is over is left out.",
    )
    document_boundaries: bool = Field(
        False, description="No token attends to another document of its sequence, nor is predicted from it."
    )
    mixture: Mixture | None = Field(None, description="How often each source is drawn; by size and weight without it.")
    replay: Replay | None = Field(None, description="With `init`: a share of general text among that of the domain.")
    embedding_init: str | None = Field(
        None, description="With `model`: name of a checkpoint whose input vectors the model begins with (word vectors)."
    )

    @model_validator(mode="after")
    def _divisible(self) -> Self:
        _allowed(self)
        return self

    @model_validator(mode="after")
    def _model_or_init(self) -> Self:
        if (self.init == "scratch") != (self.model is not None):
            raise ValueError("give `model` with `init: scratch`, and only then")
        if self.model is not None:
            for each in objectives_of(self.objective):
                if self.model.family not in FAMILIES[each.kind]:
                    fit = ", ".join(kind for kind, families in FAMILIES.items() if self.model.family in families)
                    raise ValueError(f"family {self.model.family} does not learn by {each.kind}, but by {fit}")
        if self.objective.kind != "causal_lm" and (self.packing != "concatenate" or self.document_boundaries):
            raise ValueError(f"`packing` and `document_boundaries` are causal_lm's, not {self.objective.kind}'s")
        if self.fused_loss and (self.z_loss or self.label_smoothing):
            raise ValueError("`z_loss` and `label_smoothing` need the logits that `fused_loss` never holds")
        if self.parallel.pipeline > 1 and (self.objective.kind != "causal_lm" or self.document_boundaries):
            raise ValueError("parallel.pipeline trains causal_lm without document_boundaries")
        if self.objective.kind == "recurrent_lm" and (self.mixture or self.replay):
            raise ValueError("recurrent_lm reads the stream in its order: there is no `mixture` and no `replay`")
        if self.samples is not None:
            kind = objectives_of(self.objective)[0].kind
            if kind == "skip_gram":
                raise ValueError("`samples`: word vectors write nothing; see `artifacts show NAME --neighbours WORD`")
            if kind == "masked_lm" and self.samples.prompts:
                raise ValueError("`samples.prompts`: masked_lm fills gaps of held-out texts, it goes on with none")
        if self.objective.kind == "skip_gram" and (self.label_smoothing or self.z_loss):
            raise ValueError("`label_smoothing` and `z_loss` are of a softmax, which skip_gram does not have")
        if self.replay is not None and self.init == "scratch":
            raise ValueError("`replay` goes with `init`: from scratch, prepare one corpus and give a `mixture`")
        if self.embedding_init is not None and self.init != "scratch":
            raise ValueError("`embedding_init` goes with `model`: a checkpoint to go on from has vectors of its own")
        return self


class Lesson(Config):
    """How much is learned from a larger model beside the text (Hinton et al. 2015)."""

    share: float = Field(0.5, gt=0, le=1, description="Of the loss that is the distance to the teacher.")
    temperature: float = Field(2.0, gt=0, description="Divides the logits of both, so that unlikely tokens count.")
    hidden: float = Field(
        0.0,
        ge=0,
        description="Weight of the hidden states, layer by layer: the tokens of a text are to be as alike to each "
        "other as they are in the teacher, whatever the widths (Tung & Mori 2019).",
    )


class Distillation(Lesson):
    """A larger model for the same task, from which is learned."""

    teacher: str = Field(description="Name of a checkpoint with the same tokenizer, tuned for the same task.")


class Augmentation(Config):
    """Copies of the training examples, changed where the answer stays right."""

    copies: int = Field(1, ge=1, le=16, description="Disturbed ones of each; one that nothing changes is not copied.")
    disturb: Disturbance | None = Field(None, description="What is changed, and how much of it.")
    back_translate: str | None = Field(
        None,
        description="Name of a checkpoint that translates both ways: its sources for the targets of a translation; of "
        "other tasks texts that went into the other language and back.",
    )

    @model_validator(mode="after")
    def _changes_something(self) -> Self:
        if self.disturb is None and self.back_translate is None:
            raise ValueError("`augment` changes nothing: give `disturb`, `back_translate` or both")
        return self


class AnotherTask(Config):
    """A task that is learned beside another."""

    task: Task
    data: ExampleSource
    weight: float = Field(1.0, gt=0, description="How often it is drawn, relative to its size and the others.")


class Finetune(Stage, Training):
    """A model for one task, from a base model or from random weights."""

    kind: Literal["finetune"] = "finetune"
    task: Task
    data: ExampleSource = SmallWorldExamples()
    tokenizer: str = Field(description="Name of a tokenizer artifact.")
    init: Init = Field("scratch", description=INIT)
    model: ModelChoice | None = None
    also: tuple[AnotherTask, ...] = Field(
        (), description="Other tasks that one model learns too, each behind its name; a micro-batch is of one task."
    )
    mixing_temperature: float = Field(
        2.0, ge=1, le=100, description="With `also`: tasks are drawn by their examples to the power of 1 / this."
    )
    leaks: Literal["refuse", "drop"] = Field(
        "refuse", description="What to do with training examples that ask what a held-out one asks."
    )
    method: Method = Field(Full(), description="Which weights are trained.")
    augment: Augmentation | None = Field(None, description="Learn from disturbed copies of the training examples too.")
    distillation: Distillation | None = Field(None, description="Learn a larger model's probabilities too.")
    adversarial: Adversarial | None = Field(
        None, description="Train on disturbed embeddings too, against over-fitting."
    )
    label_smoothing: float | None = Field(
        None, ge=0, lt=1, description="Share of the probability spread over all targets; unset, as the model has it."
    )

    metric_examples: int | None = Field(
        None,
        ge=1,
        description="Validation examples that are answered at each evaluation: the task's metric then says which model "
        "is the best and when to end, not the loss.",
    )

    @property
    def judged_by(self) -> Literal["validation_loss", "validation_metric"]:
        """The figure that decides about the best model and early stopping."""
        return "validation_loss" if self.metric_examples is None else "validation_metric"

    @property
    def tuning(self) -> Full | Frozen | Lora | PromptTuning:
        """Which weights are trained."""
        return self.method

    @property
    def opponent(self) -> Fgm | Pgd | None:
        """What disturbs the embeddings in training."""
        return self.adversarial

    @model_validator(mode="after")
    def _divisible(self) -> Self:
        if self.parallel.pipeline > 1:
            raise ValueError("parallel.pipeline is for pretraining: examples differ in length")
        _allowed(self)
        return self

    @model_validator(mode="after")
    def _method_fits(self) -> Self:
        kind = self.method.kind
        if kind != "full":
            if self.init == "scratch":
                raise ValueError(f"method {kind} keeps weights of a base: name one as `init`")
            if not self.parallel.is_plain:
                raise ValueError(f"method {kind} needs whole models: no `parallel.shard` or `parallel.tensor`")
        if kind == "prompt_tuning" and self.model is not None and self.model.family in LABELLERS:
            raise ValueError("method prompt_tuning is for models that write")
        if kind == "prompt_tuning" and self.optimizer.kind != "adamw":
            raise ValueError(f"method prompt_tuning trains rows of a matrix: it needs adamw, not {self.optimizer.kind}")
        if kind in ("lora", "prompt_tuning") and self.ema_decay is not None:
            raise ValueError(f"`ema_decay` does not go with method {kind}")
        for data, task in ((self.data, self.task), *((each.data, each.task) for each in self.also)):
            why = unfit(data, task.kind)
            if why is not None:
                raise ValueError(why)
        kinds = [self.task.kind, *(each.task.kind for each in self.also)]
        if len({*kinds}) < len(kinds):
            raise ValueError("`also` names a task twice: give one of a kind, with all its data")
        if self.also and (kind == "prompt_tuning" or "preference" in kinds or self.distillation is not None):
            raise ValueError("`also` goes without prompt_tuning, preference and `distillation`: they are of one task")
        if self.also and self.model is not None and self.model.family in LABELLERS:
            raise ValueError("`also` is for models that write: an encoder has the heads of one task")
        if self.augment is not None and self.augment.back_translate is not None:
            unable = [each for each in kinds if each not in BACK_TRANSLATED]
            if unable:
                raise ValueError(f"`back_translate` is for {', '.join(BACK_TRANSLATED)}, not for {unable[0]}")
        if self.task.kind == "preference" and self.init == "scratch":
            raise ValueError("task preference holds a model to where it began: name it as `init`")
        if self.task.kind == "preference" and self.distillation is not None:
            raise ValueError("task preference has no targets for `distillation`")
        if self.fused_loss and self.label_smoothing:
            raise ValueError("`label_smoothing` needs the logits that `fused_loss` never holds")
        if self.distillation is not None and (self.fused_loss or not self.parallel.is_plain):
            raise ValueError("`distillation` needs whole models and their logits: no `fused_loss`, no `parallel`")
        if self.distillation is not None and self.distillation.hidden and self.compile:
            raise ValueError("`distillation.hidden` looks into layers that `compile` makes one piece of")
        if self.metric_examples is not None and not self.parallel.is_plain:
            raise ValueError("`metric_examples` needs whole models: no `parallel.shard` or `parallel.tensor`")
        if self.adversarial is not None and (not self.parallel.is_plain or self.compile):
            raise ValueError("`adversarial` needs whole models that are not compiled")
        return self

    @model_validator(mode="after")
    def _model_fits(self) -> Self:
        if (self.init == "scratch") != (self.model is not None):
            raise ValueError("give `model` with `init: scratch`, and only then")
        labels = self.model is not None and self.model.family in LABELLERS
        if self.samples is not None and (self.samples.prompts or labels):
            raise ValueError("`samples` of finetune answer held-out examples: no `prompts`, and no model that labels")
        if self.model is not None and self.model.family not in self.task.families:
            raise ValueError(
                f"task {self.task.kind} is trained with family {' or '.join(self.task.families)}, not "
                f"{self.model.family}"
            )
        return self


NAME_TOKENS = 16  # at most, of a task's name before its prompts


def prompt_tokens(config: Finetune) -> int:
    """Returns how many trained tokens stand before every prompt."""
    return config.method.tokens if isinstance(config.method, PromptTuning) else 0


def longest_of(config: Finetune, family: str) -> int:
    """Returns the tokens of the longest example of all tasks, with what stands before its prompt."""
    longest = max(each.longest(family) for each in (config.task, *(other.task for other in config.also)))
    return longest + prompt_tokens(config) + (NAME_TOKENS if config.also else 0)


_DIVIDED_BY = {"tensor": ("llama",), "pipeline": ("gpt2", "llama")}
_WITH_OUTPUT_LAYER = ("gpt2", "llama", "t5", "bert")


def refusal(config: Training, family: str) -> str | None:
    """Returns why a model of a family cannot be divided or computed as asked for; None where it can."""
    for field, families in _DIVIDED_BY.items():
        if getattr(config.parallel, field) > 1 and family not in families:
            return f"parallel.{field} divides {' and '.join(families)}, not {family}: use parallel.shard"
    if config.fused_loss and family not in _WITH_OUTPUT_LAYER:
        return f"fused_loss works with {', '.join(_WITH_OUTPUT_LAYER)}, not with {family}"
    return None


def _allowed(config: Pretrain | Finetune) -> None:
    if getattr(config.model, "base_width", None) is not None and config.optimizer.kind != "adamw":
        raise ValueError(f"model.base_width carries adamw's learning rate over, not that of {config.optimizer.kind}")
    found = refusal(config, config.model.family) if config.model is not None else None
    if found is not None:
        raise ValueError(found)
