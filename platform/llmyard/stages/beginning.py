"""The model that a run begins with: a checkpoint's with the data's vocabulary, or a new one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from llmyard.stages.config import Finetune, Pretrain
from llmyard.tokens.tokenizer import FILE, Tokenizer

if TYPE_CHECKING:
    from llmyard.stages.training import TrainJob


def first_model(job: TrainJob, tokenizer: Tokenizer) -> Any:
    """Returns the model before its first step; what is random in it comes from torch's current seed."""
    from llmyard.models.families import load
    from llmyard.models.growing import begin_with

    if job.base is not None:
        return _continued(job, tokenizer, load(job.base.local()))
    model = _build(job, tokenizer)
    if job.vectors is not None:
        begin_with(model, load(job.vectors.local()), tokenizer.vocab_size)
    return model


def _continued(job: TrainJob, tokenizer: Tokenizer, base: Any) -> Any:
    """Returns the model to go on with: the base, or its encoder with the heads of a tagging task."""
    from transformers import BertForPreTraining

    from llmyard.models.families import tagger_from
    from llmyard.models.growing import grow
    from llmyard.stages.streams import extra_ids
    from llmyard.tokens.growth import Vocabulary, growth

    assert job.base is not None
    there = growth(Vocabulary.load(job.base.local(FILE)), Vocabulary(tokenizer.to_json()))
    extra = extra_ids(job.config) if isinstance(job.config, Pretrain) else 0
    grow(base, there, tokenizer, extra)
    if not (job.labels and isinstance(base, BertForPreTraining)):
        return base
    return tagger_from(base, **_tagging(job, tokenizer))


def _tagging(job: TrainJob, tokenizer: Any) -> dict[str, Any]:
    """Returns what a tagger must know of its task."""
    from llmyard.tasks.question_answering import QUESTION_END

    asks = isinstance(job.config, Finetune) and job.config.task.kind == "question_answering"
    return {
        "entity_types": tuple(job.labels.get("entity_types", ())),
        "relations": tuple(job.labels.get("relations", ())),
        "question_end": tokenizer.encode(QUESTION_END)[0] if asks else -1,
    }


def _build(job: TrainJob, tokenizer: Any) -> Any:
    from llmyard.models.config import Bert
    from llmyard.models.families import build, build_tagger
    from llmyard.stages.streams import extra_ids

    stage = job.config
    assert stage.model is not None
    longest = stage.sequence_length if isinstance(stage, Pretrain) else stage.task.longest
    extra = extra_ids(stage) if isinstance(stage, Pretrain) else 0
    ids = {"vocab_size": tokenizer.vocab_size + extra, "pad_id": tokenizer.pad_id, "max_tokens": longest}
    if isinstance(stage, Finetune) and isinstance(stage.model, Bert):
        return build_tagger(stage.model, **ids, **_tagging(job, tokenizer))
    return build(stage.model, **ids, end_id=tokenizer.end_id)
