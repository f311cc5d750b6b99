"""What ``evaluate`` is told."""

from __future__ import annotations

import re
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from llmyard.core.config import Config, Inert
from llmyard.evaluation.config import BiasProbes, Endpoint, Harness, Merging, Retrieval
from llmyard.sources.config import ExampleSource, unfit
from llmyard.stages.naming import Stage
from llmyard.tasks.config import Task
from llmyard.text.config import Toxicity
from llmyard.text.disturbances import Disturbance


def _model_name(value: str) -> str:
    # MLflow forbids / and :, its searches know no quotes, and models:/NAME@ALIAS ends the name at the @.
    if not re.fullmatch(r"[^/:@'\"`%\x00-\x1f\x7f]{1,250}", value) or value != value.strip() or value in (".", ".."):
        raise ValueError(f"{value!r} cannot name a registered model: no / : @ % or quotes, 1 to 250 characters")
    return value


def _alias(value: str) -> str:
    if not re.fullmatch(r"[\w-]{1,255}", value) or re.fullmatch(r"(?i)latest|v?\d+", value):
        raise ValueError(f"{value!r} cannot be an alias: letters, digits, _ and -, and neither `latest` nor a version")
    return value


class Register(Config):
    """A name and alias in MLflow's model registry."""

    name: Annotated[str, AfterValidator(_model_name)]
    alias: Annotated[str, AfterValidator(_alias)] = Field("champion", description="Moved to this version.")


class Control(Config):
    """What answers are held to."""

    min_new_tokens: int = Field(0, ge=0, description="Answers do not end before.")
    language: Literal["en", "zh"] | None = Field(None, description="en: no Chinese characters; zh: no Latin letters.")
    forbidden: tuple[str, ...] = Field((), description="Words that do not stand in answers, whatever their case.")
    no_repeat: int = Field(0, ge=0, le=64, description="No run of so many tokens stands in an answer twice.")


class Evaluate(Stage):
    """Held-out metrics of a checkpoint beside a baseline that learns nothing."""

    kind: Literal["evaluate"] = "evaluate"
    checkpoint: str | None = Field(None, description="Name of a checkpoint artifact.")
    endpoint: Endpoint | None = Field(None, description="Ask a model behind a URL instead; needs `task` and `data`.")
    task: Task | None = Field(
        None,
        description="Ask this of it: one of several tasks that it was tuned for, or another by prompts in plain text; "
        "needs `data`.",
    )
    data: ExampleSource | None = Field(None, description="Other examples than those it was tuned on.")
    shots: int = Field(0, ge=0, le=64, description="With `task`: solved training examples in every prompt.")
    compare_to: str | None = Field(
        None, description="Name of another checkpoint for the same task: it answers the same examples."
    )
    disturb: Disturbance | None = Field(
        None, description="Disturb what is asked (typos, homophones, order, width ...): how far the metric falls."
    )
    toxicity: Toxicity | None = Field(None, description="How often what it writes holds words of these lists.")
    retrieval: Retrieval | None = Field(
        None, description="Of question answering: find what is read in an index instead of giving the text."
    )
    graph: Merging = Field(Merging(), description="Of knowledge_graph: which names of the graph of all are one entity.")
    bias: BiasProbes | None = Field(None, description="Pairs of texts that show what it holds of groups of people.")
    harness: Harness | None = Field(None, description="Tasks of the lm-evaluation-harness, from your own files.")
    control: Control = Field(Control(), description="What written answers are held to.")
    splits: tuple[str, ...] = Field(("test",), min_length=1, description="Splits of the data.")
    limit: int | None = Field(None, ge=1, description="At most so many examples a split.")
    register_as: Register | None = Field(None, description="Register the checkpoint in MLflow with these metrics.")
    attributions: int = Field(
        0,
        ge=0,
        le=50,
        description="For so many examples of each split: what each token of the input did for the answer.",
    )
    batch_size: Annotated[int, Inert(), Field(ge=1)] = 32

    @model_validator(mode="after")
    def _one_is_asked(self) -> Self:
        if (self.checkpoint is None) == (self.endpoint is None):
            raise ValueError("give `checkpoint` or `endpoint`: one of them is asked")
        if self.endpoint is None:
            return self
        if self.task is None or self.data is None:
            raise ValueError("`endpoint` needs `task` and `data`: what a model behind a URL is asked")
        if self.task.kind == "preference":
            raise ValueError("task preference compares likelihoods, which an endpoint does not tell")
        of_weights = ("compare_to", "bias", "harness", "register_as")
        unfit_here = [name for name in of_weights if getattr(self, name) is not None]
        unfit_here += ["attributions"] if self.attributions else []
        unfit_here += ["control"] if self.control != Control() else []
        if unfit_here:
            raise ValueError(f"`{unfit_here[0]}` needs a model's weights: name its `checkpoint`, not an `endpoint`")
        return self

    @model_validator(mode="after")
    def _asks_what_is_there(self) -> Self:
        if self.task is not None and self.data is None:
            raise ValueError("`task` needs `data`: the examples to be asked")
        if self.task is not None and self.data is not None and (why := unfit(self.data, self.task.kind)):
            raise ValueError(why)
        if self.retrieval is not None and self.task is not None and self.task.kind != "question_answering":
            raise ValueError(f"`retrieval` is for question_answering, not for {self.task.kind}")
        if self.task is None and self.shots:
            raise ValueError("`shots` goes with `task`: a tuned model is asked as it was taught")
        return self
