"""What ``compress`` is told: the steps, how the results are measured, and what they may lose."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from llmyard.core.config import Config, Inert
from llmyard.models.config import ModelChoice
from llmyard.sources.config import ExampleSource, unfit
from llmyard.stages.evaluate_config import Register
from llmyard.stages.naming import Stage
from llmyard.stages.training_config import Lesson
from llmyard.tasks.config import Task
from llmyard.training.config import Training

GROUP_SIZES = (128, 64, 32)


class Retraining(Training):
    """How a smaller model is trained, on what the original was trained on."""

    metric_examples: int | None = Field(
        None, ge=1, description="Of a tuned model: validation examples that are answered at each evaluation."
    )


class Prune(Config):
    """Takes out what matters least; what is left is a dense model of the same family."""

    kind: Literal["prune"] = "prune"
    feed_forward_size: int | None = Field(None, ge=1, description="Inner units that are left of each feed-forward.")
    heads: int | None = Field(None, ge=1, description="Heads that are left of each attention (llama, t5).")
    layers: int | None = Field(None, ge=1, description="Layers that are left; of an encoder-decoder, of the encoder.")
    decoder_layers: int | None = Field(None, ge=1, description="Of an encoder-decoder: layers left of the decoder.")
    importance: Literal["gradient", "magnitude", "removal"] = Field(
        "gradient",
        description="gradient: by how much the loss would change, to first order; magnitude: by the weights alone; "
        "removal: layers by the loss without each, and the rest by gradients.",
    )
    examples: int = Field(256, ge=1, description="Training samples that the loss is looked at with.")
    recovery: Retraining | None = Field(None, description="Train what is left.")
    teach: Lesson | None = Field(None, description="With `recovery`, of a tuned model: the original teaches it.")

    @model_validator(mode="after")
    def _takes_something_out(self) -> Self:
        if all(each is None for each in (self.feed_forward_size, self.heads, self.layers, self.decoder_layers)):
            raise ValueError("prune takes nothing out: give `feed_forward_size`, `heads`, `layers` or `decoder_layers`")
        if self.teach is not None and self.recovery is None:
            raise ValueError("`teach` goes with `recovery`: without it nothing is trained")
        if self.importance == "removal" and self.layers is None and self.decoder_layers is None:
            raise ValueError("importance removal is of layers: give `layers` or `decoder_layers`, or take gradient")
        return self


class Distill(Config):
    """Trains a smaller model that learns from the original."""

    kind: Literal["distill"] = "distill"
    model: ModelChoice = Field(description="The student; it begins with random weights.")
    teach: Lesson = Lesson()
    training: Retraining


class Quantize(Config):
    """Weights of 8 or 4 bits, for inference on CPUs."""

    kind: Literal["quantize"] = "quantize"
    scheme: Literal["int8_dynamic", "int8_static", "int4"] = Field(
        "int8_dynamic",
        description="int8_dynamic: weights and activations, each token with a scale of its own; int8_static: the "
        "activations' ranges are measured beforehand; int4: weights of 4 bits, activations in bfloat16.",
    )
    group_size: int | None = Field(None, description="Of int4: weights that share a scale; unset, 64.")
    skip: tuple[str, ...] = Field((), description="Names of layers that stay as they are: `*.mlp.c_proj`.")
    output_layer: bool = Field(False, description="Quantise the output layer too.")
    examples: int | None = Field(
        None, ge=1, description="Of int8_static: training samples to measure activations with; unset, 128."
    )

    @model_validator(mode="after")
    def _known_group(self) -> Self:
        if self.group_size not in (None, *GROUP_SIZES):
            raise ValueError(f"group_size is {self.group_size}: groups have {', '.join(map(str, GROUP_SIZES))} weights")
        if self.scheme != "int8_static" and self.examples is not None:
            raise ValueError(f"`examples` is int8_static's: {self.scheme} measures nothing beforehand")
        if self.scheme != "int4" and self.group_size is not None:
            raise ValueError(f"`group_size` is int4's: {self.scheme} has a scale for each output")
        return self


class Export(Config):
    """Another program's format."""

    kind: Literal["export"] = "export"
    format: Literal["ctranslate2", "gguf"]
    weights: Literal["float32", "float16", "int8", "int8_float32", "int16", "q8_0", "q4_0"] = "float32"

    @model_validator(mode="after")
    def _known_weights(self) -> Self:
        allowed = WEIGHTS[self.format]
        if self.weights not in allowed:
            raise ValueError(f"{self.format} has no weights {self.weights}: {', '.join(allowed)}")
        return self


WEIGHTS = {
    "ctranslate2": ("float32", "float16", "int8", "int8_float32", "int16"),
    "gguf": ("float32", "float16", "q8_0", "q4_0"),
}

Step = Annotated[Prune | Distill | Quantize | Export, Field(discriminator="kind")]


class Timing(Config):
    """How speed is measured: all results in turn, in one run, so that a noisy machine is unfair to none of them."""

    prompts: int = Field(16, ge=1, le=10_000, description="Held-out inputs that are asked in each round.")
    new_tokens: int = Field(32, ge=1, description="That a model which writes is made to write to each, no less.")
    streams: tuple[Annotated[int, Field(ge=1, le=1024)], ...] = Field(
        (1, 8), min_length=1, description="Inputs that are asked at once."
    )
    rounds: int = Field(3, ge=1, le=100)
    threads: int = Field(1, ge=1, le=1024, description="CPU threads of a model.")

    @model_validator(mode="after")
    def _once_each(self) -> Self:
        if any(one >= other for one, other in zip(self.streams, self.streams[1:], strict=False)):
            raise ValueError("`streams` stand in rising order, each once")
        return self


class Gate(Config):
    """What the result may lose; one that loses more is not made."""

    most_loss: float = Field(ge=0, lt=1, description="Of the original's metric, as a share: 0.01 is one percent.")
    metric: str | None = Field(None, description="Of the evaluation; unset, the task's own.")
    least_speedup: float | None = Field(
        None, gt=0, description="Times the original's rate, at the largest number of streams."
    )


class Compress(Stage):
    """A checkpoint made smaller, and what that cost."""

    kind: Literal["compress"] = "compress"
    checkpoint: str = Field(description="Name of a checkpoint artifact.")
    steps: tuple[Step, ...] = Field(min_length=1, description="In order; each works on what the one before has made.")
    task: Task | None = Field(None, description="Judge it by this task, in plain text; needs `data`.")
    data: ExampleSource | None = Field(None, description="Judge it by other examples than those it was tuned on.")
    split: str | None = Field(
        None, description="Of the data: what all results are judged by; unset, test, and of a base model validation."
    )
    limit: int | None = Field(None, ge=1, description="At most so many examples.")
    timing: Timing = Timing()
    gate: Gate | None = Field(None, description="What the result may lose.")
    register_as: Register | None = Field(
        None, description="Register the result in MLflow, if it answers in the engine as it does by itself."
    )

    @model_validator(mode="after")
    def _in_an_order_that_works(self) -> Self:
        for before, after in zip(self.steps, self.steps[1:], strict=False):
            if before.kind in ("quantize", "export"):
                raise ValueError(
                    f"`steps`: nothing comes behind {before.kind}, which is for inference: not {after.kind}"
                )
        if self.task is not None and self.data is None:
            raise ValueError("`task` needs `data`: the examples to be asked")
        if self.task is not None and self.data is not None and (why := unfit(self.data, self.task.kind)):
            raise ValueError(why)
        return self

    @model_validator(mode="after")
    def _result_can_be_vouched_for(self) -> Self:
        last = self.steps[-1]
        if last.kind != "export":
            return self
        if last.format == "gguf" and self.gate is not None and self.gate.least_speedup is not None:
            raise ValueError(
                "gate.least_speedup: no engine here answers with GGUF files, so their speed is not measured: leave it "
                "out, or export ctranslate2"
            )
        if self.register_as is None:
            return self
        if last.format == "gguf":
            raise ValueError("`register_as`: no endpoint answers with GGUF files: leave it out, or export ctranslate2")
        if last.weights != "float32" and self.gate is None:
            raise ValueError(
                f"`register_as`: with weights in {last.weights} answers differ, and nothing says by how much they may: "
                "give `gate`, or export float32, which is held to the same tokens"
            )
        return self


class Reduction(Stage):
    """One step of a ``compress`` that trains nothing; job files do not name it."""

    kind: Literal["reduction"] = "reduction"
    checkpoint: str
    step: Annotated[Prune | Quantize | Export, Field(discriminator="kind")]
    threads: Annotated[int, Inert()] = 1
