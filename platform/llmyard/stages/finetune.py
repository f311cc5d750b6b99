"""``finetune``: task examples to shards, then a model for that task, on Ray Data and Ray Train."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llmyard.core.artifacts import Artifact, ArtifactStore
from llmyard.core.errors import RequestError
from llmyard.stages.bases import base_of, check_family, same_tokenizer
from llmyard.stages.config import Finetune
from llmyard.stages.examples import content, encode_examples, parts_of, prompt_ids
from llmyard.stages.origins import training_of
from llmyard.stages.stage import Made, Making
from llmyard.stages.templates import with_template
from llmyard.stages.training import TrainJob, is_apart, run_training
from llmyard.stages.training_config import longest_of
from llmyard.tasks.catalogue import form_of, kin_of
from llmyard.tasks.config import LABELLERS
from llmyard.tasks.question_answering import QUESTION_END
from llmyard.tokens.tokenizer import FILE

REVISION = 4


def _refuse_without_effect(config: Finetune) -> None:
    """Raises RequestError for a field of the task that its form of model never reads. Here and not in the config: what
    older checkpoints were made with is still read.
    """
    if config.model is None:
        return
    labels = config.model.family in LABELLERS
    for name in getattr(config.task, "of_writers" if labels else "of_labellers", ()):
        if name in config.task.model_fields_set:
            what = "labels" if labels else "writes"
            raise RequestError(
                f"{config.output}: task.{name} has no effect on a model that {what}", f"leave `{name}` out"
            )


def parents(config: Finetune, store: ArtifactStore) -> Mapping[str, Artifact]:
    """Returns the tokenizer and the checkpoint to go on from."""
    _refuse_without_effect(config)
    found = {"tokenizer": store.get(config.tokenizer, "tokenizer")}
    if config.init != "scratch":
        found["base"] = base_of(config.init, store)
        same_tokenizer(found["base"], found["tokenizer"])
        _check_base(config, found["base"])
        with_template(config, found["base"], found["tokenizer"])  # says now what is wrong with one
        check_family(config, found["base"])
    if config.distillation is not None:
        found["teacher"] = store.get(config.distillation.teacher, "checkpoint")
        _check_teacher(config, found["teacher"], found["tokenizer"], _family(config, found.get("base")))
    if config.augment is not None and config.augment.back_translate is not None:
        found["translator"] = store.get(config.augment.back_translate, "checkpoint")
        learned = found["translator"].details.get("task")
        if learned != "translation":
            raise RequestError(
                f"{found['translator'].reference} was tuned for {learned or 'no task'}: it does not translate",
                "name a checkpoint for translation as `augment.back_translate`",
            )
    return found


def _check_teacher(config: Finetune, teacher: Artifact, tokenizer: Artifact, family: str) -> None:
    same_tokenizer(teacher, tokenizer)
    learned, theirs = teacher.details.get("task"), str(teacher.details.get("family", ""))
    if learned != config.task.kind or form_of(theirs) != form_of(family):
        raise RequestError(
            f"{teacher.reference} is a {theirs or 'model of no known family'} for {learned or 'no task'}: it reads and "
            f"writes otherwise than a {family} for {config.task.kind}",
            "name a teacher that was tuned for the same task and reads and writes alike",
        )
    if teacher.details.get("prompt_ids"):
        raise RequestError(
            f"{teacher.reference} was taught several tasks behind their names", "name a teacher of this task alone"
        )
    if teacher.details.get("adapter_of"):
        raise RequestError(f"{teacher.reference} is an adapter", "train the teacher with `merge: true`")


def _check_base(config: Finetune, base: Artifact) -> None:
    """Raises RequestError for a checkpoint that cannot learn the task; workers would find out one after the other."""
    family, kind = _family(config, base), config.task.kind
    wanted = [each for each in config.task.families if not config.also or each not in LABELLERS]
    if family not in wanted:
        raise RequestError(
            f"{base.reference} is of family {family or 'unknown'!r}; {kind} is trained with {' or '.join(wanted)}",
            "name another checkpoint as `init`, or give `model` with `init: scratch`",
        )
    if getattr(config.method, "quantize", None) is not None and family == "gpt2":
        raise RequestError(
            f"{base.reference} is a GPT-2, whose matrices are not kept in 4 bits", "leave `method.quantize` out"
        )
    if base.details.get("adapter_of"):
        raise RequestError(
            f"{base.reference} is an adapter of {base.details['adapter_of']}, not a whole model",
            "train it with `method: {kind: lora, merge: true}`, or begin with its base",
        )
    if family in LABELLERS and config.method.kind == "prompt_tuning":
        raise RequestError(f"{base.reference} labels: prompt_tuning is for models that write", "use lora or frozen")
    if family in LABELLERS and config.samples is not None:
        raise RequestError(f"{base.reference} labels, it writes nothing: no `samples`", "leave `samples` out")
    longest = longest_of(config, family)
    positions = int(base.details.get("sequence_length", longest))
    if family not in ("transformer", "t5") and positions < longest:
        raise RequestError(
            f"{base.reference} reads {positions} tokens, an example of {kind} has up to {longest}",
            "lower the limits under `task:`, or pretrain with a longer sequence_length",
        )
    learned = base.details.get("task")
    if family in LABELLERS and training_of(base).get("kind") == "finetune" and learned != kind:
        raise RequestError(
            f"{base.reference} has the heads of {learned}, not of {kind}",
            "go on from the pretrained encoder, or from a checkpoint of the same task",
        )


def _check_question_end(config: Finetune, tokenizer: Artifact, family: str) -> None:
    """Raises RequestError for a tokenizer that drops line feeds, by which an encoder finds where the question ends."""
    from llmyard.tokens.tokenizer import Tokenizer

    if family not in LABELLERS or config.task.kind != "question_answering":
        return
    if not Tokenizer.load(tokenizer.local(FILE)).encode(QUESTION_END):
        raise RequestError(
            f"{tokenizer.reference} drops line feeds, which end the question for an encoder",
            "use a tokenizer that llmyard trained (bpe), or a model that writes",
        )


def _check_labels(labels: Mapping[str, list[str]], known: Artifact | None, family: str) -> None:
    """Raises RequestError where a base or a teacher labels with other names: its first would be taken for ours."""
    if known is None or family not in LABELLERS or training_of(known).get("kind") != "finetune":
        return
    for kind in ("classes", "entity_types", "relations"):
        ours, theirs = labels.get(kind, []), list(known.details.get(kind, []))
        if ours != theirs:
            raise RequestError(
                f"{known.reference} knows {len(theirs)} {kind} ({', '.join(theirs[:5])}), the data have {len(ours)} "
                f"({', '.join(ours[:5])})",
                "begin with the pretrained encoder, or give data with the same names",
            )


def _family(config: Finetune, base: Artifact | None) -> str:
    if config.model is not None:
        return config.model.family
    return kin_of(str(base.details.get("family", ""))) if base is not None else ""


def sources(config: Finetune, parents: Mapping[str, Artifact]) -> list[Any]:
    """Returns what else than the config decides the examples."""
    family = _family(config, parents.get("base"))
    return [each for part in parts_of(config) for each in content(part, family)]


def make(config: Finetune, making: Making) -> Made:
    """Encodes the examples and trains."""
    from llmyard.runtime.trainer import Board

    draft = making.draft
    base = making.parents.get("base")
    config = with_template(config, base, making.parents["tokenizer"])
    family = _family(config, base)
    parts = parts_of(config)
    _check_question_end(config, making.parents["tokenizer"], family)
    data, *others = (encode_examples(each, making, family) for each in parts)
    labels = data.details["labels"]
    for known in (base, making.parents.get("teacher")):
        _check_labels(labels, known, family)
    job = TrainJob(
        config=config,
        storage=draft.storage,
        shards=data,
        others=tuple(others),
        tokenizer=making.parents["tokenizer"],
        base=base,
        teacher=making.parents.get("teacher"),
        labels=labels,
        folder=draft.folder,
        fence=draft.lease.fence,
        ticket=making.run.ticket(),
        trial=making.context.trial,
        board=Board.start(config.resources),
        family=family,
        label_smoothing=float(base.details.get("label_smoothing", 0.0)) if base is not None else 0.0,
    )
    metrics = run_training(job, making)
    details = {
        "task": config.task.kind,
        "task_config": config.task.model_dump(mode="json"),
        "family": family,
        "sequence_length": longest_of(config, family),
        "label_smoothing": getattr(config.model, "label_smoothing", job.label_smoothing),
        **labels,
    }
    before = [prompt_ids(each, making.parents["tokenizer"]) for each in parts]
    if before[0]:
        details["prompt_ids"] = before[0]
    if config.also:
        details["also"] = [
            {"task_config": each.task.model_dump(mode="json"), "prompt_ids": ids}
            for each, ids in zip(parts[1:], before[1:], strict=True)
        ]
    if base is not None and is_apart(config.method):
        details["adapter_of"] = base.reference
    made = (data, *others)
    return Made(metrics, details, also=made, extra_parents=tuple(each.reference for each in made))
