"""Many cases of a task answered at once, for work that does not stream."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

from llmyard.generation.requests import QueueingEngine
from llmyard.tasks.labelling import whole_end
from llmyard.tasks.tagging import with_read
from llmyard.tasks.task import Decoding, Labels, Marked, Record, Task


def answers_of(
    engine: QueueingEngine,
    task: Task,
    cases: Sequence[Record],
    batch_size: int,
    labels: Labels,
    control: Mapping[str, Any] | None = None,
) -> list[Any]:
    """Returns the answer to each case, ready for JSON and for the task's ``prediction``.

    Args:
        engine: With a model for the task.
        task: Of the model.
        cases: Asked greedily.
        batch_size: Cases at once.
        labels: That the model was trained with.
        control: Fields of ``Decoding`` that answers are held to.
    """
    decoding = replace(task.decoding(labels), **(control or {}))
    return [
        answer
        for at in range(0, len(cases), batch_size)
        for answer in _answered(engine, task, cases[at : at + batch_size], batch_size, decoding)
    ]


def _answered(
    engine: QueueingEngine, task: Task, cases: Sequence[Record], batch_size: int, decoding: Decoding
) -> list[Any]:
    if task.output == "text":
        prompts = [task.prompt(case, engine.tokenizer) for case in cases]
        choices = [task.choices(case) for case in cases]
        if choices[0] is not None:
            named = [each or [] for each in choices]
            options = [[engine.tokenizer.encode(option) for option in each] for each in named]
            ranked = engine.rank_batch(prompts, options)
            return [
                each[max(range(len(each)), key=found.__getitem__)] for each, found in zip(named, ranked, strict=True)
            ]
        return list(engine.generate_batch(prompts, decoding))
    return _read(engine, task, cases, batch_size)


def _read(engine: QueueingEngine, task: Task, cases: Sequence[Record], batch_size: int) -> list[Any]:
    """Returns what a model that labels finds, where a task asks again in all that it found."""
    found = _found(engine, task, cases, batch_size)
    asked = {at: task.then(case, said) for at, (case, said) in enumerate(zip(cases, found, strict=True))}
    following = {at: case for at, case in asked.items() if case is not None}
    if following:
        further = _read(engine, task, list(following.values()), batch_size)
        for (at, case), said in zip(following.items(), further, strict=True):
            found[at] = with_read(case, said)
    return found


def _found(engine: QueueingEngine, task: Task, cases: Sequence[Record], batch_size: int) -> list[Any]:
    inputs = [task.inputs(case, engine.tokenizer) for case in cases]
    texts = fitting(engine, [each for one in inputs for each in one])
    # Of some tasks a case has hundreds of inputs: as many at once as cases, those of one length together.
    by_length = sorted(range(len(texts)), key=lambda at: len(texts[at].text))
    found: list[Any] = [None] * len(texts)
    for start in range(0, len(texts), batch_size):
        places = by_length[start : start + batch_size]
        some = [texts[at] for at in places]
        if task.output == "label":
            said: Sequence[Any] = engine.classify_batch(some)
        else:
            said = engine.annotate_batch([each.text for each in some])
        for at, each in zip(places, said, strict=True):
            found[at] = asdict(each)
    each_of = iter(found)
    return [[next(each_of) for _ in one] for one in inputs]


def fitting(engine: QueueingEngine, inputs: Sequence[Marked]) -> list[Marked]:
    """Returns the texts, cut where the model's positions end: what stands behind is not found, and scored so."""
    limit = engine.capabilities().max_prompt_tokens
    encoded = engine.tokenizer.encode_with_spans([each.text for each in inputs])
    found = []
    for marked, item in zip(inputs, encoded, strict=True):
        if len(item.ids) > limit:
            marked = replace(marked, text=marked.text[: whole_end(item.spans, limit)])
        found.append(marked)
    return found
