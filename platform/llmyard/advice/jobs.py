"""A suggestion as a job file, ready to be checked and run."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from llmyard.advice.candidates import Candidate, examples_of, tokens_of
from llmyard.advice.catalogue import Pretrained, datasets_for
from llmyard.advice.plan import Plan
from llmyard.advice.question import Question
from llmyard.advice.reasons import disturbs, smooths
from llmyard.advice.rules import rules
from llmyard.advice.texts import say
from llmyard.core.language import UserLanguage, user_language

OWN_FILE = "data/train.jsonl"
_SMALLWORLD_MOST = 20_000
_EVALUATIONS = 10  # during a training, about
_METRIC_EXAMPLES = 200
_PATIENCE = 3

Block = dict[str, Any]


def job_of(candidate: Candidate, question: Question, data: str | None = None) -> Block:
    """Returns the job of a suggestion, as plain data.

    Args:
        candidate: What is trained.
        question: What was asked.
        data: A file of the user's examples, or of his texts for pretraining; else synthetic ones where there are some,
            or a published data set.
    """
    name = question.task.replace("_", "-")
    if question.task == "pretraining":
        stages = _pretraining(candidate, question, data)
    else:
        examples = data_of(question, data)
        stages = [*_before(candidate, question, name, examples), _finetune(candidate, question, name, examples)]
        stages.append({"kind": "evaluate", "output": f"{name}-report", "checkpoint": name})
    return {"kind": "pipeline", "name": f"recommended-{name}", "stages": stages}


def data_of(question: Question, data: str | None) -> Block:
    """Returns the ``data:`` block of a task."""
    use = rules()
    if data is not None:
        if question.task == "translation" and data.endswith((".tsv", ".txt")):
            return {"kind": "parallel", "paths": [data]}
        return {"kind": "records", "train": data}
    if use.tasks[question.task].smallworld:
        return {"kind": "smallworld", "train": min(_SMALLWORLD_MOST, max(100, examples_of(question)))}
    known = [each for each in datasets_for(question.task, question.languages) if each.data["kind"] == "hub"]
    if known and not question.offline:
        covering = [each for each in known if set(question.languages) <= set(each.languages)]
        return dict((covering or known)[0].data)
    return {"kind": "records", "train": OWN_FILE}


def init_of(model: Pretrained) -> tuple[str, str]:
    """Returns what ``init:`` and ``tokenizer:`` say for a model of the hub, or for the folder it is converted into."""
    if model.use == "convert":
        return f"hub:./models/{model.short}", _hub_name(model.short)
    revision = f"@{model.revision}" if model.revision else ""
    return f"hub:{model.name}{revision}", _hub_name(model.name)


def _hub_name(name: str) -> str:
    # As stages/naming.py names what is taken in; a test holds them equal.
    return "hub-" + re.sub(r"[^A-Za-z0-9._-]+", "-", name)


def _before(candidate: Candidate, question: Question, name: str, examples: Block) -> list[Block]:
    """Returns the stages that make the tokenizer and the base; none for a model of the hub."""
    if candidate.published is not None:
        return []
    texts = (
        {"kind": "smallworld"}
        if examples["kind"] == "smallworld"
        else {"kind": "task_texts", "name": "mine", "task": question.task, "data": examples}
    )
    tokenizer: Block = {"kind": "bpe", "vocab_size": candidate.shape.vocab_size}
    if candidate.labels and "zh" in question.languages:
        tokenizer["split_han"] = True
    prepare: Block = {"kind": "prepare", "output": f"{name}-texts", "sources": [texts]}
    if texts["kind"] == "task_texts":  # the quality rules are for web pages: they would drop short examples
        prepare["clean"] = ["normalize"]
    prepare["tokenizer"] = tokenizer
    stages = [prepare]
    if candidate.before is not None:
        base: Block = {"kind": "pretrain", "output": f"{name}-base", "shards": f"{name}-texts"}
        base |= {"model": candidate.written, "objective": dict(rules().objectives[candidate.family])}
        stages.append(base | _training(candidate.before, sequence=True))
    return stages


def _finetune(candidate: Candidate, question: Question, name: str, examples: Block) -> Block:
    use = rules()
    stage: Block = {"kind": "finetune", "output": name, "task": {"kind": question.task, **candidate.limits}}
    stage["data"] = examples
    if candidate.published is not None:
        stage["init"], stage["tokenizer"] = init_of(candidate.published)
        method = _method(candidate)
        stage |= {"method": method} if method else {}
    else:
        stage["tokenizer"] = f"{name}-texts"
        stage |= {"init": f"{name}-base"} if candidate.before is not None else {"model": candidate.written}
    stage |= _training(candidate.plan)
    stage |= {"evaluate_every_steps": max(1, candidate.plan.steps // _EVALUATIONS), "patience": _PATIENCE}
    stage["keep_best"] = True
    if not candidate.plan.is_sharded:
        held_out = round(examples_of(question) * use.validation_share)
        stage["metric_examples"] = max(1, min(_METRIC_EXAMPLES, held_out))
    if smooths(candidate, question):
        stage["label_smoothing"] = use.smoothing
    if disturbs(candidate, question):
        stage["adversarial"] = {"kind": "fgm"}
    return stage


def _method(candidate: Candidate) -> Block | None:
    use = rules()
    match candidate.method:
        case "lora":
            return {"kind": "lora", "rank": use.lora_rank, "alpha": use.lora_alpha}
        case "frozen":
            return {"kind": "frozen", "layers": candidate.plan.way.frozen_layers}
        case "prompt_tuning":
            return {"kind": "prompt_tuning", "tokens": use.prompt_tokens}
        case _:
            return None


def _training(made: Plan, *, sequence: bool = False) -> Block:
    """Returns the fields that a plan decides."""
    found: Block = {"sequence_length": made.way.length} if sequence else {}
    found |= {"steps": made.steps, "batch": {"size": made.batch, "micro_batch": made.way.micro_batch}}
    optimizer = {} if made.optimizer == "adamw" else {"kind": made.optimizer}
    found["optimizer"] = {**optimizer, "learning_rate": made.learning_rate}
    found["schedule"] = {"warmup_steps": made.warmup_steps}
    if made.way.on_gpu:
        found["precision"] = "bfloat16"
    for field, is_on in (("activation_checkpointing", made.way.checkpointing), ("fused_loss", made.fused_loss)):
        found |= {field: True} if is_on else {}
    resources: Block = {"workers": made.workers}
    resources |= {"gpus_per_worker": 1} if made.way.on_gpu else {"cpus_per_worker": made.cpus_per_worker}
    found["resources"] = resources
    found |= {"parallel": {"shard": made.way.shards}} if made.is_sharded else {}
    return found


def _pretraining(candidate: Candidate, question: Question, data: str | None) -> list[Block]:
    use = rules()
    prepare: Block = {"kind": "prepare", "output": "corpus", "sources": _sources(question, data)}
    base: Block = {"kind": "pretrain", "output": "base", "shards": "corpus"}
    if candidate.published is not None:
        base["init"], prepare["tokenizer"] = init_of(candidate.published)
    else:
        prepare["tokenizer"] = {"kind": "bpe", "vocab_size": candidate.shape.vocab_size}
        base |= {"model": candidate.written}
    prepare["clean"] = ["normalize", "quality", "deduplicate"]
    base["objective"] = dict(use.objectives[candidate.family])
    base |= _training(candidate.plan, sequence=True)
    if not candidate.plan.way.shards > 1:
        base["evaluate_every_steps"] = max(1, candidate.plan.steps // _EVALUATIONS)
    return [prepare, base]


def _sources(question: Question, data: str | None) -> list[Block]:
    if data is not None:
        return [{"kind": "files", "name": "mine", "paths": [data], "format": "auto"}]
    return [{"kind": "smallworld", "name": "smallworld"}]


def header_of(
    candidate: Candidate, question: Question, data: str | None, language: UserLanguage | None = None
) -> Sequence[str]:
    """Returns the lines that stand on top of a job file."""
    speak = say.in_language(language or user_language())
    name = candidate.published.name if candidate.published is not None else candidate.family
    lines = [
        speak("job made", task=question.task, model=name, start=speak(f"start {candidate.start}"),
              method=speak(f"way {candidate.method}")),
        speak("job memory", total=candidate.plan.memory.total / 1e9, workers=candidate.plan.workers,
              hours=candidate.hours),
    ]  # fmt: skip
    if not candidate.fits:
        lines.append(speak("job does_not_fit", available=candidate.plan.available / 1e9))
    if candidate.published is not None and candidate.published.use == "convert":
        short = f"models/{candidate.published.short}"
        lines.append(speak("job convert", name=candidate.published.name, folder=short))
    if data is None:
        own = f"{{kind: records, train: {OWN_FILE}}}"
        if question.task == "pretraining":
            own = "{kind: files, name: mine, paths: [texts/], format: auto}"
        kind = "smallworld" if question.task == "pretraining" else data_of(question, None)["kind"]
        key = {"smallworld": "job smallworld", "hub": "job hub_data"}.get(kind, "job file_missing")
        lines.append(speak(key, own=own))
    lines.append(speak("job sized", examples=examples_of(question), tokens=tokens_of(question)))
    return [*lines, speak("job check")]


def text_of_job(job: Block, header: Sequence[str]) -> str:
    """Returns a job as the text of a YAML file; examples that stand in two stages are written once, as ``&data``."""
    import yaml

    class Dumper(yaml.SafeDumper):
        def generate_anchor(self, node: Any) -> str:
            return "data"

    body = yaml.dump(job, Dumper=Dumper, sort_keys=False, allow_unicode=True, default_flow_style=None, width=110)
    return "".join(f"# {line}\n" for line in header) + str(body)
