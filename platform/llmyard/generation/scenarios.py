"""Summaries, answers and graphs with what stands behind them: the places in the text, the passages that were read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from llmyard.generation.engine import Unsupported
from llmyard.generation.model import Model, Written, whole
from llmyard.tasks.open_questions import OpenQuestion, best_part
from llmyard.tasks.passages import Passage
from llmyard.tasks.question_answering import ExtractedAnswers
from llmyard.tasks.summarization import ChosenSentences
from llmyard.tasks.task import Annotation, Decoding, Record
from llmyard.text.script import language_by_script

Span = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Summary:
    """A summary.

    Attributes:
        text: Of it.
        spans: Where its sentences stand in the text, of a model that chooses them.
        written: How it was written, of a model that writes.
        prompt_tokens: That were read, of a model that writes.
    """

    text: str
    spans: tuple[Span, ...] | None = None
    written: Written | None = None
    prompt_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer to a question; "" where there is none.

    Attributes:
        text: Of it.
        span: Where it stands in what was read: the given text, or the cited passage; None of a model that writes.
        score: How much likelier it is than that there is none, in nats; None of a model that writes.
        cited: The passage that it was taken from.
        passages: That were found, best first.
        written: How it was written, of a model that writes.
        prompt_tokens: That were read, of a model that writes.
    """

    text: str
    span: Span | None = None
    score: float | None = None
    cited: str | None = None
    passages: tuple[Passage, ...] = ()
    written: Written | None = None
    prompt_tokens: int = 0


async def summarised(
    model: Model, text: str, query: str | None, decoding: Decoding, sentences: int | None = None
) -> Summary:
    """Returns a summary of a text, in its own language.

    Args:
        model: For summaries.
        text: Any.
        query: What is asked of it; None for all of it.
        decoding: Of a model that writes.
        sentences: So many are chosen at most, by a model that chooses them; None for as many as it learned.

    Raises:
        Unsupported: The model does not summarise, or not a text so long.
    """
    task = model.task
    if isinstance(task, ChosenSentences):
        record: Record = {"text": text, "language": language_by_script(text)}
        record |= {} if query is None else {"query": query}
        said = await model.said(record)
        spans = task.spans(record, said, sentences)
        if sentences is None:
            return Summary(task.prediction(record, said), tuple(spans))
        joint = "" if record["language"] == "zh" else " "
        return Summary(joint.join(text[low:high] for low, high in spans), tuple(spans))
    prompt = model.summary_prompt(text, query)
    written = await whole(model.answer(prompt, decoding))
    return Summary(written.text.strip(), None, written, len(prompt))


async def answered(model: Model, question: str, context: str, decoding: Decoding) -> Answer:
    """Returns the answer to a question from a text.

    Args:
        model: For question answering.
        question: Any.
        context: Where the answer may stand.
        decoding: Of a model that writes.

    Raises:
        Unsupported: The model does not answer questions, or not over a text so long.
    """
    record = _question(model, question, context)
    if isinstance(model.task, ExtractedAnswers):
        return _located(model, record, await model.said(record))
    written, read = await _written(model, record, decoding)
    return Answer(_said(model, record, written), written=written, prompt_tokens=read)


async def answered_from(model: Model, question: str, found: Sequence[Passage], decoding: Decoding) -> Answer:
    """Returns the answer to a question from passages that were found for it, and which one it was taken from.

    A model that marks spans reads each passage alone; one that writes as many of the best as it can read together.
    Evaluations over an index do the same.

    Args:
        model: For question answering.
        question: Any.
        found: Best first.
        decoding: Of a model that writes.

    Raises:
        Unsupported: The model does not answer questions.
    """
    asked = OpenQuestion(_question(model, question, ""), tuple(found))
    if not found:
        return Answer("")
    if isinstance(model.task, ExtractedAnswers):
        records = asked.apart()
        parts = [await model.said(record) for record in records]
        best = best_part(parts)
        answer = _located(model, records[best], parts[best])
        cited = found[best].id if answer.text else None
        return replace(answer, cited=cited, passages=tuple(found))
    many = asked.fitting(lambda record: model.excess(record) <= 0)
    record = asked.read(many)
    written, read = await _written(model, record, decoding)
    text = _said(model, record, written)
    told = asked.answered(text, many)
    return Answer(text, None, None, told["cited"], tuple(found), written, read)


def span_of(found: Annotation, name: str) -> Span | None:
    """Returns where an entity of a name stands first; None where it has no place in the text."""
    return next(((each.start, each.end) for each in found.entities if each.text == name and each.start >= 0), None)


def _question(model: Model, question: str, context: str) -> Record:
    if model.task is None or model.task.name != "question_answering":
        raise Unsupported(f"{model.name} does not answer questions", "choose a model for question answering")
    return {"question": question, "context": context, "answers": [], "language": language_by_script(question)}


def _located(model: Model, record: Record, said: Any) -> Answer:
    task: Any = model.task
    found = task.located(record, said, model.tokenizer)
    return Answer("") if found is None else Answer(found.text, (found.start, found.end), found.score)


async def _written(model: Model, record: Record, decoding: Decoding) -> tuple[Written, int]:
    prompt = model.prompt(record)
    return await whole(model.answer(prompt, decoding)), len(prompt)


def _said(model: Model, record: Record, written: Written) -> str:
    assert model.task is not None
    return str(model.task.prediction(record, written.text))
