"""``compress``: a checkpoint made smaller step by step, with a table of what each step gained and lost.

Each step's result is a checkpoint of its own, so that a run that was stopped goes on behind the last one. Steps that
train are stages ``finetune`` or ``pretrain`` like any others.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from pydantic import TypeAdapter, ValidationError

from llmyard.core.artifacts import Artifact, ArtifactStore
from llmyard.core.errors import RequestError
from llmyard.core.fingerprint import fingerprint
from llmyard.models.size import parameters_of
from llmyard.models.written import shape_of
from llmyard.stages import evaluate
from llmyard.stages.compress_config import Compress, Distill, Export, Prune, Reduction, Retraining
from llmyard.stages.compressing.clock import Clock, ClockWork
from llmyard.stages.compressing.tradeoff import Result, check_gate, described, speeds_of
from llmyard.stages.config import Evaluate, Finetune, Pretrain
from llmyard.stages.held_out import HeldOut
from llmyard.stages.naming import Stage
from llmyard.stages.origins import handed_on, trained_by, training_of
from llmyard.stages.reduction import reads_data, refuse_unfit
from llmyard.stages.registering import register
from llmyard.stages.stage import Made, Making, run_stage
from llmyard.stages.sweeping.settings import reason
from llmyard.stages.training_report import PAGES
from llmyard.tasks.config import Task

REVISION = 1
ORIGINAL = "original"
_TASK: TypeAdapter[Any] = TypeAdapter(Task)


def parents(config: Compress, store: ArtifactStore) -> Mapping[str, Artifact]:
    """Returns the checkpoint.

    Raises:
        RequestError: A step cannot be taken with it: said here, before anything is trained.
    """
    checkpoint = store.get(config.checkpoint, "checkpoint")
    refuse_unfit(checkpoint)
    trained = trained_by(checkpoint)
    family = str(checkpoint.details.get("family", ""))
    for step in config.steps:
        needs_training = isinstance(step, Distill) or (isinstance(step, Prune) and step.recovery is not None)
        if (needs_training or (not isinstance(step, Distill) and reads_data(step))) and trained is None:
            raise RequestError(
                f"{checkpoint.reference} was not trained here: `{step.kind}` needs the data of its training",
                "fine-tune it first; importance magnitude, int8_dynamic, int4 and export need no data",
            )
        if isinstance(step, Distill):
            _check_student(step, checkpoint)
            family = step.model.family
        elif isinstance(step, Prune):
            _check_prune(step, family, checkpoint)
        elif isinstance(step, Export):
            _check_export(step, family, checkpoint)
            if config.gate is not None and step.format == "ctranslate2" and not _asks(config, checkpoint, True):
                raise RequestError(
                    "`gate` looks at a base model's perplexity, which CTranslate2 does not tell",
                    "leave `gate` out, or give `task` and `data`",
                )
    if config.gate is not None and trained is None and config.data is None:
        raise RequestError(
            f"`gate` looks at a metric, and {checkpoint.reference} has no examples", "give `task` and `data`"
        )
    if _asks(config, checkpoint):
        evaluate.parents(_questions(config, 0, checkpoint), store)
    for number, step in enumerate(config.steps, start=1):
        try:
            _stages(config, number, checkpoint, checkpoint)
        except ValidationError as error:
            raise RequestError(f"steps.{number - 1}: {reason(error)}", f"change the settings of {step.kind}") from None
    return {"checkpoint": checkpoint}


def _asks(config: Compress, model: Artifact, elsewhere: bool = False) -> bool:
    """Returns whether a result can be judged: it has examples, or is a base model whose likelihoods are told.

    Args:
        config: Of the stage.
        model: The original, or a result.
        elsewhere: Whether it is run by CTranslate2, which tells no perplexity.
    """
    if config.data is not None:
        return True
    return trained_by(model) == "finetune" or (trained_by(model) == "pretrain" and not elsewhere)


def _check_student(step: Distill, teacher: Artifact) -> None:
    if training_of(teacher).get("kind") != "finetune":
        raise RequestError(
            f"{teacher.reference} was tuned for no task, and distill learns a task from a teacher",
            "distil a tuned checkpoint, or prune this one",
        )
    if training_of(teacher).get("also"):
        raise RequestError(
            f"{teacher.reference} was taught several tasks: a student learns one", "distil a model of one task"
        )
    theirs = teacher.metrics.get("parameters")
    tokenizer = next((each for each in teacher.parents if each.startswith("tokenizer/")), None)
    if theirs is None or tokenizer is None:
        return
    vocabulary = int(ArtifactStore(teacher.storage).get(tokenizer).details["vocab_size"])
    ours = parameters_of(step.model, vocabulary, int(teacher.details.get("sequence_length", 0)))
    if ours >= theirs:
        raise RequestError(
            f"the student has {ours:,} parameters, its teacher {teacher.reference} has {theirs:,.0f}",
            "give the student fewer layers or a smaller hidden_size",
        )


def _check_prune(step: Prune, family: str, checkpoint: Artifact) -> None:
    from llmyard.compression.structure import why_not_pruned

    written = shape_of(checkpoint.local("config.json")).family
    if family != str(checkpoint.details.get("family", "")):  # a student of another family
        written = {"transformer": "llmyard_transformer", "bert": "llmyard_span_tagger"}.get(family, family)
    if why := why_not_pruned(written, step.heads is not None):
        raise RequestError(
            f"{checkpoint.reference}, of type {written!r}, cannot be pruned so: {why}", "take another step"
        )
    if step.teach is not None and training_of(checkpoint).get("kind") != "finetune":
        raise RequestError(
            f"{checkpoint.reference} was tuned for no task: nothing teaches it while it recovers", "leave `teach` out"
        )
    if step.recovery is not None and step.recovery.metric_examples is not None:
        _refuse_metric(checkpoint)


def _refuse_metric(checkpoint: Artifact) -> None:
    if training_of(checkpoint).get("kind") != "finetune":
        raise RequestError(
            f"{checkpoint.reference} was tuned for no task: it answers no examples", "leave `metric_examples` out"
        )


def _check_export(step: Export, family: str, checkpoint: Artifact) -> None:
    from llmyard.compression import ctranslate2_export, gguf_export

    own = str(checkpoint.details.get("family", ""))
    if family != own:  # a student of another family: what it will be written as is not there yet
        unable = "" if step.format == "ctranslate2" or family == "llama" else "GGUF files hold llama's kin"
    else:
        written = json.loads(checkpoint.local("config.json").read_text(encoding="utf-8"))
        unable = (ctranslate2_export if step.format == "ctranslate2" else gguf_export).why_not(written)
    if unable:
        raise RequestError(f"{checkpoint.reference} is not exported to {step.format}: {unable}", "leave `export` out")


def sources(config: Compress, parents: Mapping[str, Artifact]) -> list[Any]:
    """Returns the listing of the examples that the results are judged by."""
    checkpoint = parents["checkpoint"]
    return evaluate.sources(_questions(config, 0, checkpoint), parents) if _asks(config, checkpoint) else []


def make(config: Compress, making: Making) -> Made:
    """Takes the steps, measures all results, writes the report, and takes the last result over if the gate is open."""
    context = making.context
    inner = replace(context, parent=making.run.spec.token)
    made: list[Artifact] = []

    def run(stage: Any) -> Artifact:
        nonlocal inner
        artifact = run_stage(stage, inner).artifacts[0]
        inner = replace(inner, store=inner.store.pinned(artifact))
        made.append(artifact)
        return artifact

    original = making.parents["checkpoint"]
    models, current = [(ORIGINAL, original)], original
    _judged(config, models, original, run)  # what is wrong with the questions is said before anything is trained
    for number, step in enumerate(config.steps, start=1):
        for stage in _stages(config, number, current, original):
            current = run(stage)
        models.append((described(step), current))
    metric, results = _judged(config, models, original, run)
    results = _timed(config, making, models, results)
    report = _reported(config, making, metric, results)
    result = results[-1]
    if config.gate is not None:
        check_gate(config.gate, metric, results[0], result)
    for entry in current.files():
        if entry.path in PAGES.values():
            continue  # how it was trained; here stands what it was worth
        making.draft.storage.copy_in(current.local(entry.path), f"{making.draft.folder}/{entry.path}")
    figures = _figures(metric, results)
    kept = ("for_inference", "quantized", "pruned")
    details = handed_on(current) | {key: current.details[key] for key in kept if key in current.details}
    if config.register_as is not None:
        from llmyard.stages.proof import proven

        if config.steps[-1].kind != "export" or config.steps[-1].weights == "float32":
            itself = models[-2][1] if config.steps[-1].kind == "export" else current
            details["parity"] = proven(current, itself, _questions(config, len(config.steps), current), making)
        details["registered"] = register(config.register_as, making, making.draft, {**result.metrics, **figures})
    carried = [each for each in current.parents if each.partition("/")[0] in ("tokenizer", "shards")]
    parents_ = (original.reference, current.reference, *carried)
    return Made(
        figures, details | {"key_metric": metric, "report": report.reference}, also=(report,), extra_parents=parents_
    )


def _stages(config: Compress, number: int, current: Artifact, original: Artifact) -> list[Stage]:
    """Returns the stages that take a step, with outputs of their own."""
    step, name = config.steps[number - 1], f"{config.output}-{number}"
    if isinstance(step, Distill):
        lesson = {**step.teach.model_dump(), "teacher": current.reference}
        return [_training(name, step.training, current, {"model": step.model.model_dump(), "distillation": lesson})]
    recovery = step.recovery if isinstance(step, Prune) else None
    bare = step.model_copy(update={"recovery": None, "teach": None}) if isinstance(step, Prune) else step
    pruned = f"{name}-pruned" if recovery is not None else name
    reduction = Reduction(output=pruned, checkpoint=current.reference, step=bare, threads=config.timing.threads)
    if recovery is None:
        return [reduction]
    assert isinstance(step, Prune)
    extra: dict[str, Any] = {"init": pruned}
    if step.teach is not None:
        extra["distillation"] = {**step.teach.model_dump(), "teacher": original.reference}
    return [reduction, _training(name, recovery, current, extra)]


# Of how a checkpoint was trained: what another training of it has to share. The rest its own settings say.
_OF_FINETUNE = ("task", "data", "leaks", "also", "mixing_temperature", "augment", "label_smoothing")
_OF_PRETRAIN = (
    "shards", "objective", "sequence_length", "packing", "document_boundaries", "mixture", "label_smoothing", "z_loss",
)  # fmt: skip


def _training(name: str, how: Retraining, of: Artifact, extra: Mapping[str, Any]) -> Finetune | Pretrain:
    """Returns the training of a smaller model on what a checkpoint was trained on."""
    trained = training_of(of)
    tunes = trained.get("kind") == "finetune"
    kept = {key: trained[key] for key in (_OF_FINETUNE if tunes else _OF_PRETRAIN) if key in trained}
    if tunes:  # what was never written is not said again: some of it is not for a student of another form
        task = _TASK.validate_python(kept["task"])
        kept["task"] = {"kind": task.kind, **task.model_dump(mode="json", exclude_defaults=True)}
    own = how.model_dump(exclude_unset=True, exclude=None if tunes else {"metric_examples"})
    named = {each.partition("/")[0]: each for each in reversed(of.parents)}
    if tunes:
        kept["tokenizer"] = named["tokenizer"]
        return Finetune.model_validate({"output": name, **kept, **own, **extra})
    kept["shards"] = named["shards"]
    return Pretrain.model_validate({"output": name, **kept, **own, **extra})


def _split(config: Compress, model: Artifact) -> str:
    """Returns the split that results are judged by."""
    is_base = trained_by(model) == "pretrain" and config.data is None
    return config.split or ("validation" if is_base else "test")


def _questions(config: Compress, number: int, model: Artifact) -> Evaluate:
    return Evaluate(
        output=f"{config.output}-{number}-report", checkpoint=model.reference, splits=(_split(config, model),),
        limit=config.limit, task=config.task, data=config.data,
    )  # fmt: skip


def _judged(
    config: Compress, models: list[tuple[str, Artifact]], original: Artifact, run: Any
) -> tuple[str, list[Result]]:
    """Returns the metric and all results with it."""
    metric, results = "", []
    for number, (name, model) in enumerate(models):
        size = sum(entry.size for entry in model.files() if not entry.path.startswith("report"))
        result = Result(name, model.reference, size)
        if _asks(config, original, _is_of(model, "ctranslate2")):
            report = run(_questions(config, number, model))
            key = str(report.details["key_metric"])
            metric = config.gate.metric if config.gate is not None and config.gate.metric is not None else key
            found = json.loads(report.local("report.json").read_text(encoding="utf-8"))["splits"][
                _split(config, original)
            ]
            if metric not in found["metrics"]:
                known = ", ".join(sorted(found["metrics"]))
                raise RequestError(f"gate.metric: the evaluation has no {metric!r}", f"it has {known}")
            between = found.get("intervals", {}).get(metric)
            result = replace(
                result, metric=found["metrics"][metric], metrics=report.metrics,
                interval=tuple(between) if between is not None else None,
            )  # fmt: skip
        results.append(result)
    return metric, results


def _is_of(model: Artifact, format: str) -> bool:
    """Returns whether a result is in another program's format."""
    return str(model.details.get("for_inference", "")).startswith(format)


def _timed(config: Compress, making: Making, models: list[tuple[str, Artifact]], results: list[Result]) -> list[Result]:
    """Returns the results with their speeds and memory: all in turn, round after round."""
    from llmyard.runtime.tasks import held

    asked = {
        at: HeldOut.of(model, _questions(config, at, model), making.context.store)
        for at, (_, model) in enumerate(models)
        if not _is_of(model, "gguf")
    }
    works = {at: ClockWork(each, config.timing) for at, each in asked.items() if each is not None}
    if not works:
        return results
    with held(Clock, list(works.values())) as clocks:
        if not all(clock.ask("load") for clock in clocks):
            return results
        rounds = []
        for number in range(config.timing.rounds):
            making.progress.update(number, config.timing.rounds, "timing")
            rounds.append([[clock.ask("measure", streams) for streams in config.timing.streams] for clock in clocks])
        memory = [int(clock.ask("memory")) for clock in clocks]
    found = list(results)
    for at, speeds, held_bytes in zip(works, speeds_of(rounds), memory, strict=True):
        found[at] = replace(found[at], speeds=speeds, memory=held_bytes)
    return found


def _reported(config: Compress, making: Making, metric: str, results: list[Result]) -> Artifact:
    """Returns the report, an artifact of its own: a closed gate leaves it for its reader."""
    from llmyard.stages.compress_report import pages

    store, draft = making.context.store, making.draft
    with store.begin("report", config.output, fingerprint(of=draft.version)) as report:
        plain = {"metric": metric, "results": [each.plain() for each in results]}
        report.keep("tradeoff.json", json.dumps(plain, indent=1).encode())
        drawn = pages(config, metric, results)
        for name, page in drawn.items():
            report.keep(name, page.encode())
            draft.keep(name, page.encode())
        making.run.attach([*drawn])
        return report.commit(
            config=config.model_dump(mode="json"),
            parents=[each.reference for each in results],
            metrics=_figures(metric, results),
            details={"checkpoint": results[-1].reference, "key_metric": metric},
        )


def _figures(metric: str, results: list[Result]) -> dict[str, float]:
    """Returns the figures of the result, and of the original beside them."""
    original, result = results[0], results[-1]
    found = {"bytes": float(result.bytes), "bytes_original": float(original.bytes)}
    if result.metric is not None and original.metric is not None:
        found |= {metric: result.metric, f"{metric}_original": original.metric}
    for speed in result.speeds:
        found |= {f"tokens_per_second_{speed.streams}": speed.rate, f"speedup_{speed.streams}": speed.gain}
    if result.memory is not None:
        found["memory_bytes"] = float(result.memory)
    return found
