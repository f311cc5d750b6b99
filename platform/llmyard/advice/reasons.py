"""Why: what is said of a suggestion, as keys of ``texts.yaml`` with their values; the words are put in later."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from llmyard.advice.candidates import Candidate, best_unusable, disturbed, examples_of, text_of, tokens_of
from llmyard.advice.catalogue import datasets_for, families_of_tasks
from llmyard.advice.memory import Way, layers_of, lora_parameters, memory_of
from llmyard.advice.plan import Plan, hours_there_are
from llmyard.advice.question import Question
from llmyard.advice.rules import rules
from llmyard.tasks.config import LABELLERS

TOPICS = ("model", "size", "start", "method", "data", "batch", "memory", "overfitting", "measuring", "next")
_LARGE = 1_000_000_000


class Word(str):
    """A key of ``texts.yaml`` whose text is put in where it stands: ``task translation``."""

    __slots__ = ()


@dataclass(frozen=True)
class Reason:
    """One sentence.

    Attributes:
        topic: One of ``TOPICS``.
        key: Of its text.
        values: What stands in the text's braces.
    """

    topic: str
    key: str
    values: dict[str, Any] = field(default_factory=dict)


def reasons(candidate: Candidate, question: Question) -> tuple[Reason, ...]:
    """Returns what speaks for a candidate and its settings, and what to look out for, by topic."""
    given = (_model, _size, _start, _method, _data, _batch, _memory, _overfitting, _measuring, _next)
    found = [
        Reason(topic, key, values)
        for topic, give in zip(TOPICS, given, strict=True)
        for key, values in give(candidate, question)
    ]
    return tuple(found)


Said = Iterator[tuple[str, dict[str, Any]]]


def _model(candidate: Candidate, question: Question) -> Said:
    task = Word(f"task {question.task}")
    form = "encoder" if candidate.labels else "decoder" if candidate.family in ("gpt2", "llama") else "encoder_decoder"
    if question.task == "pretraining":
        yield f"model pretrain {form}", {}
    else:
        yield f"model {form}", {"task": task}
    if question.interactive and candidate.labels:
        yield "model quick", {}
    if question.interactive and not question.hardware.has_gpus and candidate.shape.parameters >= _LARGE:
        yield "model slow", {}
    if question.structured:
        yield ("structure spans" if candidate.labels else "structure written"), {}
    if question.open_domain and question.task != "pretraining":
        if candidate.labels and question.task == "question_answering":
            yield "open_domain reader", {}
        else:
            yield ("open_domain large" if candidate.shape.parameters >= _LARGE else "open_domain small"), {}
    if question.long_texts:
        windows = candidate.labels and question.task == "question_answering"
        by_task = {"summarization": "cut", "pretraining": "pretrain"}
        yield f"long {'windows' if windows else by_task.get(question.task, 'kept')}", {}
    if question.task == "question_answering" and not question.offline and question.task not in _of_bert():
        yield "bert_questions", {}
    suited = best_unusable(question)
    if suited and not question.offline:
        families = ", ".join(dict.fromkeys(each.family for each in suited))
        yield "not_yet", {"names": ", ".join(each.name for each in suited), "families": families}


def _of_bert() -> tuple[str, ...]:
    """Returns the tasks that a BERT of the hub is tuned for here."""
    from llmyard.advice.catalogue import catalogue

    return next(each.tasks for each in catalogue().models if each.kin in LABELLERS)


def _size(candidate: Candidate, question: Question) -> Said:
    use = rules()
    shape, text = candidate.shape, text_of(question)
    if candidate.published is not None:
        yield "size hub", {"parameters": shape.parameters, "context": candidate.published.context}
        return
    if question.task != "pretraining":
        inner = shape.parameters - shape.embedding
        seen = text * use.worthwhile_epochs
        yield "size small", {"parameters": shape.parameters, "inner": inner, "ratio": seen / inner}
        if seen < use.tokens_a_small_weight * inner:
            yield "size short", {}
        return
    there_are = hours_there_are(question.hardware, question.hours)
    rate = use.flops.of(question.hardware.has_gpus) * question.hardware.devices
    compute = rate * there_are * 3600
    yield (
        "size optimal",
        {
            "parameters": shape.parameters,
            "tokens": candidate.plan.tokens,
            "ratio": candidate.plan.tokens / shape.parameters,
            "compute": compute,
            "hours": there_are,
            "by_compute": (compute / (6 * use.tokens_a_parameter)) ** 0.5,
            "text": text,
            "by_text": text * use.worthwhile_epochs / use.tokens_a_parameter,
            "epochs": use.worthwhile_epochs,
        },
    )
    if candidate.plan.tokens < use.tokens_a_parameter * shape.parameters * 0.9:
        yield "size short", {}
    else:
        yield "size longer", {}


def _start(candidate: Candidate, question: Question) -> Said:
    use = rules()
    model, examples = candidate.published, examples_of(question)
    if model is not None:
        if question.task == "pretraining":
            yield "begin go_on", {}
        elif examples <= use.some:
            yield "begin hub", {"examples": examples}
        else:
            yield "begin hub_many", {"examples": examples}
        yield "begin licence", {"licence": model.licence}
        if model.use == "convert":
            yield "begin convert", {"name": model.name, "folder": f"models/{model.short}"}
        if model.gated:
            yield "begin gated", {"name": model.name}
        return
    if question.task == "pretraining":
        yield "begin pretrain", {}
    elif candidate.start == "own_base":
        yield "begin own_base", {"objective": use.objectives[candidate.family]["kind"]}
    else:
        yield ("begin scratch_many" if examples > use.some else "begin scratch_few"), {"examples": examples}
    if question.offline:
        yield "begin offline", {}


def _method(candidate: Candidate, question: Question) -> Said:
    use = rules()
    if question.task == "pretraining":
        yield "method pretrain", {}
        return
    match candidate.method:
        case "lora":
            whole = memory_of(candidate.shape, Way(**{**vars(candidate.plan.way), "method": "full"}))
            yield (
                "method lora",
                {
                    "rank": use.lora_rank,
                    "alpha": use.lora_alpha,
                    "trained": lora_parameters(candidate.shape.config, use.lora_rank),
                    "whole": whole.total / 1e9,
                    "part": candidate.plan.memory.total / 1e9,
                },
            )
        case "frozen":
            frozen = candidate.plan.way.frozen_layers
            yield "method frozen", {"frozen": frozen, "layers": layers_of(candidate.shape.config)}
        case "prompt_tuning":
            yield "method prompt_tuning", {"tokens": use.prompt_tokens}
        case _:
            yield ("method full" if candidate.start == "hub" else "method full_own"), {}


def _data(candidate: Candidate, question: Question) -> Said:
    use = rules()
    examples, tokens = examples_of(question), tokens_of(question)
    if question.examples is None or question.tokens is None:
        yield "data assumed", {"examples": examples, "tokens": tokens}
    if question.task == "pretraining":
        yield "data text", {"tokens": text_of(question), "wanted": use.tokens_a_parameter * candidate.shape.parameters}
    else:
        size = "few" if examples < use.few else "some" if examples < use.some else "many"
        yield f"data {size}", {"examples": examples}
        # Half of the 95 % interval of a share near one half: 1 / sqrt(n).
        yield "data test", {"share": use.test_share, "interval": max(1.0, examples * use.test_share) ** -0.5}
    known = datasets_for(question.task, question.languages)
    if known:
        yield "data sets", {"names": ", ".join(each.name for each in known[:4])}


def _batch(candidate: Candidate, question: Question) -> Said:
    made = candidate.plan
    source = "own_base" if candidate.start == "own_base" else "hub" if candidate.start == "hub" else "scratch"
    if question.task == "pretraining":
        source = "pretrain_small" if made.optimizer == "muon" else "pretrain"
        source = "go_on" if candidate.start == "hub" else source
    key = f"rate {candidate.method}" if source == "hub" and candidate.method != "full" else f"rate {source}"
    yield key, {"rate": made.learning_rate, "warmup": made.warmup_steps}
    yield "batch", _batch_values(made)
    yield (
        ("steps pretrain" if question.task == "pretraining" else "steps"),
        {
            "steps": made.steps,
            "epochs": made.epochs,
            "tokens": made.tokens,
            "length": made.way.length,
        },
    )
    if candidate.before is not None:
        yield "steps before", {"steps": candidate.before.steps, "rate": candidate.before.learning_rate}
    yield "hours", {"hours": candidate.hours}
    there_are = hours_there_are(question.hardware, question.hours)
    if candidate.hours > there_are:
        yield "hours exceeded", {"hours": candidate.hours, "there_are": there_are}


def _batch_values(made: Plan) -> dict[str, Any]:
    pieces = made.batch // (made.way.micro_batch * made.workers)
    return {"batch": made.batch, "micro_batch": made.way.micro_batch, "workers": made.workers, "accumulated": pieces}


def _memory(candidate: Candidate, question: Question) -> Said:
    for made in (candidate.plan, candidate.before):
        if made is None:
            continue
        memory = made.memory
        if made is candidate.plan:
            parts = {name: getattr(memory, name) / 1e9 for name in ("weights", "gradients", "optimizer", "activations")}
            yield "memory", parts | {"total": memory.total / 1e9, "rest": memory.rest / 1e9}
        if not made.fits:
            values = {"total": memory.total / 1e9, "available": made.available / 1e9}
            yield ("memory exceeded" if made is candidate.plan else "memory exceeded_before"), values
    made = candidate.plan
    if candidate.method == "lora" and candidate.shape.new_tokens:
        yield "memory rows", {"gb": 3 * candidate.shape.stored * candidate.shape.embedding / 1e9}
    if made.way.checkpointing:
        yield "memory checkpointing", {}
    if made.fused_loss:
        yield "memory fused", {"vocabulary": candidate.shape.vocab_size}
    if made.is_sharded:
        yield "memory sharded", {"shards": made.way.shards}


def _overfitting(candidate: Candidate, question: Question) -> Said:
    use = rules()
    examples = examples_of(question)
    if question.task == "pretraining":
        yield "overfitting repeated", {"epochs": use.worthwhile_epochs}
        yield "overfitting duplicates", {}
        return
    yield ("overfitting stopping_loss" if candidate.plan.is_sharded else "overfitting stopping"), {}
    if smooths(candidate, question):
        yield "overfitting smoothing", {"share": use.smoothing}
    if disturbs(candidate, question):
        yield "overfitting adversarial", {}
    if examples < use.augment_upto:
        augment = "translation" if question.task in ("translation", "summarization") else "labels"
        yield f"overfitting augment_{augment}", {}
    if candidate.published is None:
        yield "overfitting dropout", {}
    yield "overfitting leaks", {}


def smooths(candidate: Candidate, question: Question) -> bool:
    """Returns whether targets are smoothed: not with a fused loss, and not where JSON must be right to the letter."""
    exact = question.task in ("knowledge_graph", "question_answering", "pretraining")
    return examples_of(question) < rules().smoothing_upto and not candidate.plan.fused_loss and not exact


def disturbs(candidate: Candidate, question: Question) -> bool:
    """Returns whether embeddings are disturbed in training; that needs whole models."""
    return disturbed(question, candidate.method) and not candidate.plan.is_sharded


def _measuring(candidate: Candidate, question: Question) -> Said:
    if question.task == "pretraining":
        yield "measure pretraining", {}
        yield "measure bits", {}
        return
    yield f"measure {question.task}", {}
    if "zh" in question.languages and question.task in ("translation", "summarization", "question_answering"):
        yield f"measure {question.task} zh", {}
    if candidate.labels is False and question.task in ("classification", "relation_classification"):
        yield "measure invalid", {}
    yield "measure baseline", {}
    yield "measure curves", {}


def _next(candidate: Candidate, question: Question) -> Said:
    if question.task == "pretraining":
        yield "next scale", {}
        yield "next mixture", {}
        return
    yield "next rates", {"low": candidate.plan.learning_rate / 3, "high": candidate.plan.learning_rate * 3}
    if candidate.method == "full" and candidate.start == "hub":
        yield "next decay", {}
    if candidate.method == "lora":
        yield "next rank", {}
    if question.task == "translation":
        yield "next back_translation", {}
    if question.open_domain or question.task == "question_answering":
        yield "next retrieval", {}
    if candidate.start != "hub" and not question.offline and "llama" in families_of_tasks()[question.task]:
        yield "next larger", {}
    yield "next curve", {}
