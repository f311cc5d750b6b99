"""Records that come without answers, and the same with those that a model gave: what other models are trained on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from llmyard.tasks.task import Annotation, BadExample, Record, Task, need
from llmyard.text.script import language_by_script, mostly_chinese


def questions(record: Record, task: Task) -> list[Record]:
    """Returns what a record asks, once for each answer; answers that it holds are not looked at.

    Languages that a record does not name are told by its letters; a text to be translated goes into the other one.

    Raises:
        BadExample: A field is missing or of another type.
    """
    return _OF[task.name][0](record, task)


def completed(record: Record, task: Task, predictions: Sequence[Any]) -> Record:
    """Returns a record with answers in the fields of its task's schema, checked as training examples are.

    Args:
        record: As it came.
        task: That was asked.
        predictions: Of :meth:`~llmyard.tasks.task.Task.prediction`, one for each of :func:`questions`.

    Raises:
        BadExample: An answer is empty, or no answer of the task.
    """
    return task.check(_OF[task.name][1](record, task, predictions))


def _translation(record: Record, task: Task) -> list[Record]:
    source = need(record, "source", str, task.name)
    target = record.get("target_language") or ("en" if mostly_chinese(source) else "zh")
    return [{**record, "target_language": target, "source_language": _other(str(target))}]


def _translated(record: Record, task: Task, predictions: Sequence[Any]) -> Record:
    (asked,) = _translation(record, task)
    return {**asked, "target": predictions[0].strip()}


def _other(language: str) -> str:
    return "zh" if language == "en" else "en"


def _text(record: Record, task: Task) -> list[Record]:
    text = need(record, "text", str, task.name)
    return [{**record, "language": record.get("language") or language_by_script(text)}]


def _summarised(record: Record, task: Task, predictions: Sequence[Any]) -> Record:
    return {**_text(record, task)[0], "summary": predictions[0].strip()}


def _graphed(record: Record, task: Task, predictions: Sequence[Any]) -> Record:
    found = predictions[0]
    if not isinstance(found, Annotation):
        raise BadExample("the answer is no graph", "leave the record out")
    entities = [
        {"text": each.text, "type": each.type, "start": each.start, "end": each.end}
        for each in found.entities
        if each.start >= 0
    ]
    names = {each["text"] for each in entities}
    triples = [
        {"subject": one, "relation": relation, "object": two}
        for one, relation, two in found.triples
        if {one, two} <= names
    ]
    return {**_text(record, task)[0], "entities": entities, "triples": triples}


def _question(record: Record, task: Task) -> list[Record]:
    question = need(record, "question", str, task.name)
    need(record, "context", str, task.name)
    return [{**record, "answers": [], "language": record.get("language") or language_by_script(question)}]


def _answer(record: Record, task: Task, predictions: Sequence[Any]) -> Record:
    said, context = predictions[0], record["context"]
    start = context.find(said) if said else -1
    answers = [] if not said else [{"text": said}] if start < 0 else [{"text": said, "start": start}]
    return {**_question(record, task)[0], "answers": answers}


def _turns(record: Record, task: Task) -> list[Record]:
    messages = need(record, "messages", list, task.name)
    if not messages or messages[-1].get("role") != "user":
        raise BadExample("the last message is not the user's", "leave out what comes behind it")
    if task.metric != "slot_f1":
        return [{**record, "messages": messages}]
    users = [at for at, turn in enumerate(messages) if turn.get("role") == "user"]
    return [{**record, "messages": messages[: at + 1]} for at in users]


def _gone_on(record: Record, task: Task, predictions: Sequence[Any]) -> Record:
    if task.metric == "slot_f1":
        return {**record, "states": list(predictions)}
    if not predictions[0].strip():
        raise BadExample("the reply is empty", "leave the record out")
    return {**record, "messages": [*record["messages"], {"role": "assistant", "content": predictions[0].strip()}]}


def _marked(record: Record, task: Task) -> list[Record]:
    need(record, "text", str, task.name)
    for end in ("subject", "object"):
        need(record, end, dict, task.name)
    return [record]


def _labelled(field: str) -> Callable[[Record, Task, Sequence[Any]], Record]:
    return lambda record, task, predictions: {**record, field: predictions[0].label}


_Ask = Callable[[Record, Task], list[Record]]
_Complete = Callable[[Record, Task, Sequence[Any]], Record]
_OF: dict[str, tuple[_Ask, _Complete]] = {
    "translation": (_translation, _translated),
    "summarization": (_text, _summarised),
    "question_answering": (_question, _answer),
    "dialogue": (_turns, _gone_on),
    "instruction": (_turns, _gone_on),
    "knowledge_graph": (_text, _graphed),
    "relation_classification": (_marked, _labelled("relation")),
    "classification": (_text, _labelled("label")),
}
ASKED = tuple(_OF)
