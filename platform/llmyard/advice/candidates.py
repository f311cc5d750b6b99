"""What could be trained: models of the hub, an own base, random weights; each with the best way to train it here."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from llmyard.advice.catalogue import Pretrained, catalogue, families_of_tasks
from llmyard.advice.limits import limits_of, longest_of
from llmyard.advice.memory import Shape, layers_of
from llmyard.advice.plan import Plan, Work, hours_there_are, plan, pretraining_work
from llmyard.advice.question import Question
from llmyard.advice.rules import rules, shapes_as_written, upto
from llmyard.models.config import learns_positions
from llmyard.tasks.config import LABELLERS

Start = Literal["hub", "own_base", "scratch"]


@dataclass(frozen=True)
class Candidate:
    """A model and a way to train it.

    Attributes:
        start: Where its weights come from.
        family: As transformers calls it.
        shape: Its size.
        written: Its ``model:`` block; None of a model of the hub.
        published: The model of the hub.
        method: How it is tuned.
        limits: The fields of ``task:`` that bound lengths; none for pretraining.
        plan: Of the training that makes the result.
        before: Of the pretraining before it, for an own base.
    """

    start: Start
    family: str
    shape: Shape
    written: dict[str, Any] | None
    published: Pretrained | None
    method: str
    limits: dict[str, int]
    plan: Plan
    before: Plan | None = None

    @property
    def fits(self) -> bool:
        """Whether the machine's memory holds it."""
        return self.plan.fits and (self.before is None or self.before.fits)

    @property
    def hours(self) -> float:
        """Of all of it."""
        return self.plan.hours + (self.before.hours if self.before is not None else 0)

    @property
    def labels(self) -> bool:
        """Whether it labels what it reads; else it writes."""
        return self.family in LABELLERS


def examples_of(question: Question) -> int:
    """Returns the number of examples, or the usual one."""
    return question.examples or rules().tasks[question.task].examples


def tokens_of(question: Question) -> int:
    """Returns the tokens of an example on average, or the usual number."""
    usual = rules().tasks[question.task].tokens
    return question.tokens or (4 * usual if question.long_texts else usual)


def text_of(question: Question) -> int:
    """Returns the tokens of all examples together."""
    return examples_of(question) * tokens_of(question)


def candidates(question: Question) -> list[Candidate]:
    """Returns everything that could be trained for a task; there is always something."""
    found = list(_pretraining(question) if question.task == "pretraining" else _tuning(question))
    return found


def _tuning(question: Question) -> Iterator[Candidate]:
    families = families_of_tasks()[question.task]
    for model in catalogue().models if not question.offline else ():
        if question.task in model.tasks and model.use != "not_yet" and set(question.languages) <= set(model.languages):
            yield from _of_hub(model, question)
    own = rules().tasks[question.task].own
    writer = next(each for each in ("transformer", "gpt2") if each in families)
    for family in dict.fromkeys((own, writer) if question.structured or question.open_domain else (own,)):
        for start in ("own_base", "scratch"):
            yield _own(family, start, question)


def _of_hub(model: Pretrained, question: Question) -> Iterator[Candidate]:
    use = rules()
    examples = examples_of(question)
    shape = shape_of(model)
    if model.parameters >= use.lora_from:
        methods = ["lora"]
    elif model.kin in LABELLERS and examples < use.frozen_below:
        methods = ["frozen", "lora"]
    else:
        methods = ["full", "lora"]
    made = [_tuned(model, shape, method, question) for method in methods]
    yield next((each for each in made if each.fits), made[-1])
    if model.parameters >= use.lora_from and examples < use.few:
        yield _tuned(model, shape, "prompt_tuning", question)


def _tuned(model: Pretrained, shape: Shape, method: str, question: Question) -> Candidate:
    use = rules()
    room = model.context - (use.prompt_tokens if method == "prompt_tuning" else 0)
    limits = limits_of(question.task, model.kin, tokens_of(question), room)
    frozen = max(1, layers_of(shape.config) // 2) if method == "frozen" else 0
    work = _tuning_work(question, model.kin, "hub", use.rates[method][model.kin], limits, method)
    made = plan(shape, method, work, question.hardware, frozen)
    return Candidate("hub", model.kin, shape, None, model, method, limits, made)


def _tuning_work(
    question: Question, family: str, start: Start, rate: float, limits: dict[str, int], method: str
) -> Work:
    use = rules()
    examples = examples_of(question)
    kept = max(1, round(examples * (1 - use.validation_share - use.test_share)))
    both_ways = 2 if question.task == "translation" else 1  # every pair is an example each way
    return Work(
        length=longest_of(question.task, family, limits), tokens=tokens_of(question), sequences=kept * both_ways,
        batch=int(upto(use.batch, examples)), epochs=upto(use.epochs[start], examples), learning_rate=rate,
        optimizer="muon" if start == "scratch" else "adamw", warmup=use.warmup.finetune,
        writes=family not in LABELLERS, passes=2 if disturbed(question, method) else 1,
    )  # fmt: skip


def disturbed(question: Question, method: str) -> bool:
    """Returns whether training on disturbed embeddings, which must be trained too, is worth its double time."""
    return examples_of(question) < rules().adversarial_upto and method == "full"


def _own(family: str, start: Start, question: Question) -> Candidate:
    """Returns the largest model that text, memory and time allow; the smallest where none is."""
    use = rules()
    text = text_of(question)
    limits = limits_of(question.task, family, tokens_of(question), 10**6)
    longest = longest_of(question.task, family, limits)
    there_are = hours_there_are(question.hardware, question.hours)
    best: Candidate | None = None
    for config, written in zip(use.shapes[family], shapes_as_written()[family], strict=True):
        shape = Shape(config, vocabulary_of(text, config.hidden_size), longest)
        rate = use.own_base_rate if start == "own_base" else use.scratch_rate
        work = _tuning_work(question, family, start, rate, limits, "full")
        tuning = plan(shape, "full", work, question.hardware)
        before = None
        if start == "own_base":
            learn = pretraining_work(shape.parameters, text, longest if learns_positions(config) else 10**6)
            if learns_positions(config):  # it reads no longer sequences later than it learned
                learn = Work(**{**vars(learn), "length": longest, "tokens": longest})
            before = plan(shape, "full", learn, question.hardware)
        made = Candidate(start, family, shape, dict(written), None, "full", limits, tuning, before)
        inner = shape.parameters - shape.embedding
        is_fed = inner * use.tokens_a_small_weight <= text * use.worthwhile_epochs
        if best is not None and not (is_fed and made.fits and made.hours <= there_are):
            break
        best = made
    assert best is not None
    return best


def vocabulary_of(text_tokens: float, hidden_size: int) -> int:
    """Returns the size of a new vocabulary: large texts bear large ones, small models do not."""
    use = rules()
    return int(min(upto(use.vocabulary, text_tokens), use.vocabulary_a_width * hidden_size))


def shape_of(model: Pretrained) -> Shape:
    """Returns the shape of a model of the hub."""
    stored = 2 if model.stored == "bfloat16" else 4
    return Shape(model.config, model.vocab_size, model.context, model.tied, stored, new_tokens=True)


def _pretraining(question: Question) -> Iterator[Candidate]:
    """Yields a decoder and an encoder from random weights, and models of the hub that go on reading."""
    for family in ("llama", "bert"):
        yield from_random(family, question)
    for model in catalogue().models if not question.offline else ():
        is_decoder = model.kin in ("gpt2", "llama")
        if is_decoder and model.use == "tune" and set(question.languages) <= set(model.languages):
            yield _going_on(model, question)


def from_random(family: str, question: Question) -> Candidate:
    """Returns the largest model of a family that text, memory and time allow."""
    use = rules()
    text = text_of(question)
    there_are = hours_there_are(question.hardware, question.hours)
    best: Candidate | None = None
    for config, written in zip(use.shapes[family], shapes_as_written()[family], strict=True):
        vocabulary = vocabulary_of(text, config.hidden_size)
        longest = 512 if family == "bert" else 10**6
        size = Shape(config, vocabulary, min(longest, 4096)).parameters
        work = pretraining_work(size, text, longest)
        shape = Shape(config, vocabulary, work.length)
        made = plan(shape, "full", work, question.hardware)
        candidate = Candidate("scratch", family, shape, dict(written), None, "full", {}, made)
        is_fed = size * use.tokens_a_parameter <= text * use.worthwhile_epochs
        if best is not None and not (is_fed and made.fits and made.hours <= there_are):
            break
        best = candidate
    assert best is not None
    return best


def _going_on(model: Pretrained, question: Question) -> Candidate:
    """Returns a model of the hub that reads a text once, at a third of the rate that it would be pretrained with."""
    shape = shape_of(model)
    text = text_of(question)
    work = pretraining_work(model.parameters, text, model.context)
    rate = float(f"{work.learning_rate / 3:.1e}")
    once = Work(**{**vars(work), "epochs": 1.0, "learning_rate": rate, "optimizer": "adamw"})
    return Candidate("hub", model.kin, shape, None, model, "full", {}, plan(shape, "full", once, question.hardware))


def best_unusable(question: Question) -> Sequence[Pretrained]:
    """Returns models of the catalogue that would suit, but cannot be trained here yet."""
    order = rules().apt[question.task]
    fit = [each for each in catalogue().models if each.family in order and each.use == "not_yet"]
    fit = [each for each in fit if set(question.languages) <= set(each.languages)]
    return sorted(fit, key=lambda each: (order.index(each.family), each.parameters))[:3]
