"""The model that a run begins with: a checkpoint's with the data's vocabulary, or a new one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from llmyard.stages.config import Finetune, Pretrain
from llmyard.stages.training_config import longest_of, prompt_tokens
from llmyard.tokens.tokenizer import FILE, Tokenizer
from llmyard.training.methods import Lora, PromptTuning

if TYPE_CHECKING:
    from llmyard.models.families import Heads
    from llmyard.stages.training import TrainJob


def first_model(job: TrainJob, tokenizer: Tokenizer) -> Any:
    """Returns the model before its first step; what is random in it comes from torch's current seed."""
    from llmyard.compression.loading import load
    from llmyard.models.growing import begin_with

    if job.base is not None:
        return _continued(job, tokenizer, load(job.base.local(), integers=False))
    model = _build(job, tokenizer)
    if job.vectors is not None:
        begin_with(model, load(job.vectors.local()), tokenizer.vocab_size)
    return model


def companion_of(job: TrainJob, tokenizer: Tokenizer) -> Any:
    """Returns the model that is not trained beside the trained one: its teacher, or itself as it began; None without.

    With preferences a second copy of the model is held.
    """
    from llmyard.models.families import load

    if not isinstance(job.config, Finetune):
        return None
    if job.teacher is not None:
        return load(job.teacher.local()).requires_grad_(False)
    if job.config.task.kind == "preference":
        return first_model(job, tokenizer).eval().requires_grad_(False)
    return None


def _continued(job: TrainJob, tokenizer: Tokenizer, base: Any) -> Any:
    """Returns the model to go on with: the base, or its encoder with the heads of a task that labels."""
    from llmyard.models.families import is_encoder, labeller_from
    from llmyard.models.growing import grow
    from llmyard.stages.streams import extra_ids
    from llmyard.tokens.growth import Vocabulary, growth
    from llmyard.training.adapting import adapt

    assert job.base is not None
    if not isinstance(job.config.tuning, (Lora, PromptTuning)):
        base = base.float()  # what is trained stays in float32; a base that is not may be kept as it was stored
    there = growth(Vocabulary.load(job.base.local(FILE)), Vocabulary(tokenizer.to_json()))
    known = there.before if there.after > there.before else len(base.get_input_embeddings().weight)
    extra = extra_ids(job.config) if isinstance(job.config, Pretrain) else prompt_tokens(job.config)
    if extra and isinstance(job.config, Finetune):
        known = there.before
    grow(base, there, tokenizer, extra)
    model = base
    if job.labels and is_encoder(base):
        model = labeller_from(base, _heads(job, tokenizer))
    adapt(model, job.config.tuning, known)
    return model


def _heads(job: TrainJob, tokenizer: Tokenizer) -> Heads:
    """Returns what a model that labels must know of its task."""
    from llmyard.models.families import ClassHead, SpanHeads
    from llmyard.tasks.question_answering import QUESTION_END

    assert isinstance(job.config, Finetune)
    task = job.config.task
    if "classes" in job.labels:
        return ClassHead(tuple(job.labels["classes"]), int(job.labels["parts"][-1]))
    return SpanHeads(
        tuple(job.labels.get("entity_types", ())),
        tuple(job.labels.get("relations", ())),
        tokenizer.encode(QUESTION_END)[0] if task.kind == "question_answering" else -1,
        task.max_answer_tokens if task.kind == "question_answering" else 0,
    )


def _build(job: TrainJob, tokenizer: Tokenizer) -> Any:
    from llmyard.models.config import Bert
    from llmyard.models.families import build, build_labeller
    from llmyard.stages.streams import extra_ids

    stage = job.config
    assert stage.model is not None
    longest = stage.sequence_length if isinstance(stage, Pretrain) else longest_of(stage, stage.model.family)
    extra = extra_ids(stage) if isinstance(stage, Pretrain) else 0
    ids = {"vocab_size": tokenizer.vocab_size + extra, "pad_id": tokenizer.pad_id, "max_tokens": longest}
    if isinstance(stage, Finetune) and isinstance(stage.model, Bert):
        return build_labeller(stage.model, _heads(job, tokenizer), **ids)
    return build(stage.model, **ids, end_id=tokenizer.end_id)
