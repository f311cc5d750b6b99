"""Every stage's config, and the union of them that a job file may hold."""

from __future__ import annotations

from functools import cache
from typing import Annotated, Any, Literal, Self

from pydantic import Field, TypeAdapter, ValidationError, model_validator

from llmyard.core.config import Config, Inert
from llmyard.models.config import Model as ModelConfig
from llmyard.models.config import learns_positions
from llmyard.sources.config import DocumentSource, Limits
from llmyard.stages.command_config import Command
from llmyard.stages.compress_config import Compress
from llmyard.stages.deploy_config import Deploy
from llmyard.stages.evaluate_config import Evaluate, Register
from llmyard.stages.index_config import Index
from llmyard.stages.naming import HUB, Stage
from llmyard.stages.predict_config import Predict
from llmyard.stages.sweeping.settings import ends_of, reason, with_values
from llmyard.stages.training_config import Finetune, Pretrain
from llmyard.sweeps.config import Scaling, Searching
from llmyard.text.config import Cleaning
from llmyard.tokens.config import BpeTokenizer, Splits, TokenizerChoice


class Prepare(Stage, Cleaning):
    """Corpus sources to shards and a tokenizer."""

    kind: Literal["prepare"] = "prepare"
    sources: tuple[DocumentSource, ...] = Field(min_length=1)
    limits: Limits = Limits()
    tokenizer: TokenizerChoice = Field(BpeTokenizer(), description="Trained here, or the name of a tokenizer artifact.")
    splits: Splits = Splits()
    block_tokens: int = Field(1024, ge=16, le=65_536, description="Tokens in a block of a shard.")
    documents_per_task: Annotated[int, Field(ge=1)] = Field(1000, description="Documents a Ray task works on at once.")

    @model_validator(mode="after")
    def _one_weight_a_name(self) -> Self:
        weights: dict[str, float] = {}
        splits: dict[str, str | None] = {}
        for source in self.sources:
            if weights.setdefault(source.name, source.weight) != source.weight:
                raise ValueError(f"sources named {source.name!r} have different weights: give each a `name` of its own")
            split = getattr(source, "split", None)
            if splits.setdefault(source.name, split) != split:
                raise ValueError(f"sources named {source.name!r} go to different splits: give each a `name` of its own")
        return self


class Sweep(Stage, Searching):
    """Trials of a stage, or of a pipeline, with other settings, and the best one's result."""

    kind: Literal["sweep"] = "sweep"
    job: SweptJob = Field(description="What each trial runs; its own values count where nothing else is searched.")
    register_as: Register | None = Field(
        None, description="Register the best trial's checkpoint in MLflow with its figures."
    )
    scaling: Scaling | None = Field(
        None, description="Fit a scaling law to the trials, of several sizes and numbers of tokens, and draw it."
    )

    @model_validator(mode="after")
    def _space_fits(self) -> Self:
        stages = stages_of(self.job)
        if any(stage.kind == "sweep" for stage in stages):
            raise ValueError("`job` holds a sweep: trials cannot sweep themselves")
        if any(stage.kind == "deploy" for stage in stages):
            raise ValueError("`job` holds a deploy: an endpoint is no trial; deploy the best one behind the sweep")
        if self.stopping is not None and not any(
            stage.kind == "command" or getattr(stage, "evaluate_every_steps", None) for stage in stages
        ):
            raise ValueError("`stopping` needs figures on the way: set `evaluate_every_steps` in `job`")
        if self.register_as is not None and stages[-1].kind not in ("pretrain", "finetune", "evaluate", "compress"):
            raise ValueError(f"`register_as`: a {stages[-1].kind} makes no checkpoint")
        if self.search.kind == "pbt" and (
            isinstance(self.job, Pipeline) or self.job.kind not in ("pretrain", "finetune")
        ):
            raise ValueError(
                "search pbt goes on from checkpoints: `job` is one `pretrain` or `finetune`, made ready before"
            )
        if self.scaling is not None and not any(stage.kind == "pretrain" for stage in stages[-1:]):
            raise ValueError(f"`scaling` is of pretraining, whose tokens are known, not of {stages[-1].kind}")
        for path, dimension in self.space.items():
            for value in ends_of(dimension):
                try:
                    _swept_job().validate_python(with_values(self.job, {path: value, **dimension.when}))
                except ValidationError as error:
                    raise ValueError(f"space.{path}: {value!r}: {reason(error)}") from None
                except ValueError as error:
                    raise ValueError(f"space.{path}: {error}") from None
        return self


StageConfig = Annotated[
    Prepare | Pretrain | Finetune | Predict | Evaluate | Compress | Index | Command | Sweep | Deploy,
    Field(discriminator="kind"),
]


class Pipeline(Config):
    """Stages in order; each is skipped when its artifact is there already."""

    kind: Literal["pipeline"] = "pipeline"
    name: str
    storage: Annotated[str | None, Inert()] = None
    stages: tuple[StageConfig, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _outputs_differ(self) -> Self:
        seen: set[tuple[str, str]] = set()
        for stage in self.stages:
            made = (ARTIFACT_KIND[stage.kind], stage.output)
            if made in seen:
                raise ValueError(f"two stages make the {made[0]} {made[1]!r}")
            seen.add(made)
        return self

    @model_validator(mode="after")
    def _ends_where_it_is_deployed(self) -> Self:
        if any(stage.kind == "deploy" for stage in self.stages[:-1]):
            raise ValueError(
                "a stage stands behind `deploy`: end with it; an evaluation of its URL is a job of its own"
            )
        return self

    @model_validator(mode="after")
    def _fits_what_was_made_before(self) -> Self:
        made: dict[str, Pretrain] = {}
        tuned: dict[str, str] = {}
        for stage in self.stages:
            if stage.kind == "finetune":
                tuned[stage.output] = stage.task.kind
            if stage.kind == "evaluate" and stage.retrieval is not None and stage.task is None:
                asked = tuned.get(stage.checkpoint or "", "question_answering")
                if asked != "question_answering":
                    raise ValueError(
                        f"`retrieval` is for question_answering: {stage.checkpoint!r} is tuned for {asked}, leave it "
                        f"out of {stage.output!r}"
                    )
            if stage.kind != "pretrain":
                continue
            vectors, base = made.get(stage.embedding_init or ""), made.get(stage.init)
            if vectors is not None and stage.model is not None and vectors.model is not None:
                wide, width = vectors.model.hidden_size, stage.model.hidden_size
                if wide != width:
                    raise ValueError(
                        f"the vectors of {vectors.output!r} are {wide} wide, {stage.output!r}'s model is {width}: set "
                        "the same hidden_size"
                    )
            is_bounded = base is not None and base.model is not None and learns_positions(base.model)
            if base is not None and is_bounded and stage.sequence_length > base.sequence_length:
                raise ValueError(
                    f"sequence_length {stage.sequence_length} is more than that of {base.output!r}, which reads "
                    f"{base.sequence_length}"
                )
            made[stage.output] = stage
        return self


SweptJob = Annotated[
    Prepare | Pretrain | Finetune | Predict | Evaluate | Compress | Index | Command | Pipeline,
    Field(discriminator="kind"),
]
Sweep.model_rebuild()
Pipeline.model_rebuild()

ARTIFACT_KIND = {
    "prepare": "shards", "pretrain": "checkpoint", "finetune": "checkpoint", "evaluate": "report", "index": "index",
    "command": "files", "sweep": "sweep", "predict": "records", "compress": "checkpoint", "reduction": "checkpoint",
    "deploy": "endpoint",
}  # fmt: skip

Job = Annotated[
    Prepare | Pretrain | Finetune | Predict | Evaluate | Compress | Index | Command | Sweep | Deploy | Pipeline,
    Field(discriminator="kind"),
]
AnyStage = Prepare | Pretrain | Finetune | Predict | Evaluate | Compress | Index | Command | Sweep | Deploy
AnyJob = AnyStage | Pipeline

__all__ = [
    "AnyJob",
    "AnyStage",
    "Command",
    "Compress",
    "Deploy",
    "Evaluate",
    "Finetune",
    "Index",
    "ModelConfig",
    "Pipeline",
    "Predict",
    "Prepare",
    "Pretrain",
    "Sweep",
    "job_adapter",
]


@cache
def job_adapter() -> TypeAdapter[Any]:
    """Returns the validator of whole job files."""
    return TypeAdapter(Job)


@cache
def _swept_job() -> TypeAdapter[Any]:
    return TypeAdapter(SweptJob)


def trial_job(job: AnyJob, values: dict[str, Any]) -> AnyJob:
    """Returns a job with other values, by their paths.

    Raises:
        ValueError: It has no such field, or does not take the value there.
    """
    try:
        found: AnyJob = _swept_job().validate_python(with_values(job, values))
    except ValidationError as error:
        raise ValueError(reason(error)) from None
    return found


def deployed_by(job: AnyJob) -> Deploy | None:
    """Returns the stage that deploys what a job makes; None where there is none."""
    last = stages_of(job)[-1]
    return last if isinstance(last, Deploy) else None


def stages_of(job: AnyJob) -> tuple[AnyStage, ...]:
    """Returns the stages that a job runs, in order."""
    return job.stages if isinstance(job, Pipeline) else (job,)


def hub_models(stage: AnyStage) -> list[str]:
    """Returns what a stage names with ``hub:``; of a sweep what its trials name."""
    if isinstance(stage, Sweep):
        return list(dict.fromkeys(each for inner in stages_of(stage.job) for each in hub_models(inner)))
    init = getattr(stage, "init", "")
    return [init] if init.startswith(HUB) else []
