"""Records disturbed so that their answers stay right: what of each task's record may change, and which parts may not.

Nothing that is to be answered is changed. Where it stands in a text, it is protected, and its offsets move with it; so
are names and figures that stand in what is asked as well as in what it is answered from. Names are known by a capital
or by quotation marks; Chinese names without them, unless a field tells of them or they have a dot in them, can be hit.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from llmyard.core.errors import RequestError
from llmyard.core.seeds import mix
from llmyard.tasks.task import Record
from llmyard.text.disturb import Disturbed, Span, disturb
from llmyard.text.disturbances import Disturbance

_ATTEMPTS = 4  # at a copy that differs: of a short text a small share is often nothing
_NAME = re.compile(r"[a-zß-ɏ]*[A-ZÀ-Þ0-9][A-Za-zÀ-ɏ0-9]*")
_QUOTED = re.compile(r"(?<=《)[^》]+|(?<=“)[^”]+|(?<=「)[^」]+|(?<=『)[^』]+")

Change = Callable[[str, Sequence[Span]], Disturbed]


def disturbed(record: Record, task_kind: str, config: Disturbance, number: int) -> Record | None:
    """Returns a copy of a record with its texts disturbed, by the id ``...~number``; None where it would be the same.

    Args:
        record: That the task's ``check`` accepts.
        task_kind: As in job files.
        config: How.
        number: Of the copy; equal numbers give equal copies.

    Raises:
        RequestError: There is no such task.
    """
    for attempt in range(_ATTEMPTS):
        found = _copy(record, task_kind, config, number, attempt)
        if found is not None:
            return found
    return None


def augmented(records: Sequence[Record], task_kind: str, config: Disturbance, copies: int) -> Iterator[Record]:
    """Yields the records, and then up to so many disturbed copies of each, all different.

    Args:
        records: For training.
        task_kind: As in job files.
        config: How copies differ.
        copies: Of each record, at most.
    """
    yield from records
    for record in records:
        seen: list[Record] = []
        for number in range(1, copies + 1):
            copy = disturbed(record, task_kind, config, number)
            if copy is not None and _nameless(copy) not in seen:
                seen.append(_nameless(copy))
                yield copy


def perturbed(records: Iterable[Record], task_kind: str, config: Disturbance) -> Iterator[Record]:
    """Yields each record disturbed once, in their order, to see whether a model still answers as well; one in which
    there is nothing to change as it is.

    With a config of one kind it is a test of that kind: ``typos``, ``homophones``, ``order`` and ``width`` leave all
    that is said in the text, which ``deletion`` does not.
    """
    for record in records:
        asked = {name: value for name, value in record.items() if name != "evidence"}  # only learned from: no shelter
        yield _copy(asked, task_kind, config, 0, 0) or record


def _nameless(record: Record) -> Record:
    return {name: value for name, value in record.items() if name != "id"}


def _copy(record: Record, task_kind: str, config: Disturbance, number: int, attempt: int) -> Record | None:
    if task_kind not in _PARTS:
        raise RequestError(f"records of task {task_kind!r} cannot be disturbed", f"known: {', '.join(_PARTS)}")

    def change(text: str, spans: Sequence[Span]) -> Disturbed:
        return disturb(text, config, spans, mix(number, attempt))

    copy = _PARTS[task_kind](record, change)
    return {**copy, "id": f"{record.get('id', '')}~{number}"} if copy != record else None


def _classification(record: Record, change: Change) -> Record:
    first, second = record["text"], record.get("text_pair")
    found = {**record, "text": change(first, _names(first, second or "")).text}
    return found | {"text_pair": change(second, _names(second, first)).text} if second else found


def _relation_classification(record: Record, change: Change) -> Record:
    ends = ("subject", "object")
    return record | _moved(record["text"], {end: record[end] for end in ends}, change)


def _knowledge_graph(record: Record, change: Change) -> Record:
    found = _moved(record["text"], dict(enumerate(record["entities"])), change)
    return {**record, "text": found.pop("text"), "entities": list(found.values())}


def _moved(text: str, parts: Mapping[Any, Record], change: Change) -> dict[Any, Any]:
    """Returns a changed text, as ``text``, and its marked parts where they stand in it."""
    found = change(text, [(part["start"], part["end"]) for part in parts.values()])
    places = zip(parts.items(), found.spans, strict=True)
    return {"text": found.text} | {name: {**part, "start": low, "end": high} for (name, part), (low, high) in places}


def _question_answering(record: Record, change: Change) -> Record:
    context, question, answers = record["context"], record["question"], record["answers"]
    said = [answer["text"] for answer in answers]
    asked = change(question, [*_occurrences(question, said), *_names(question, context)]).text
    if any(answer.get("start") is None for answer in answers):
        return {**record, "question": asked}
    placed = [*answers, *(record.get("evidence") or ())]
    marked = [(part["start"], part["start"] + len(part["text"])) for part in placed]
    found = change(context, [*marked, *_occurrences(context, said), *_names(context, question)])
    moved = [{**part, "start": low} for part, (low, _) in zip(placed, found.spans, strict=False)]
    evidence = {"evidence": moved[len(answers) :]} if "evidence" in record else {}
    return {**record, "question": asked, "context": found.text, "answers": moved[: len(answers)]} | evidence


def _translation(record: Record, change: Change) -> Record:
    return {**record, "source": change(record["source"], _names(record["source"], record["target"])).text}


def _summarization(record: Record, change: Change) -> Record:
    asked = f"{record['summary']}\n{record.get('query') or ''}"
    return {**record, "text": change(record["text"], _names(record["text"], asked)).text}


def _conversation(record: Record, change: Change) -> Record:
    """Disturbs what the user says; what others say of it, and the values of slots, are protected."""
    values = [str(value) for state in record.get("states") or () for value in state.values()]
    others = [turn["content"] for turn in record["messages"] if turn["role"] != "user"]
    others += [record[reply] for reply in ("chosen", "rejected") if reply in record]
    said = "\n".join(others)

    def turn_of(turn: Record) -> Record:
        text = turn["content"]
        if turn["role"] != "user":
            return turn
        return {**turn, "content": change(text, [*_occurrences(text, values), *_names(text, said)]).text}

    return {**record, "messages": [turn_of(turn) for turn in record["messages"]]}


_PARTS: Mapping[str, Callable[[Record, Change], Record]] = {
    "classification": _classification,
    "relation_classification": _relation_classification,
    "knowledge_graph": _knowledge_graph,
    "question_answering": _question_answering,
    "translation": _translation,
    "summarization": _summarization,
    "dialogue": _conversation,
    "instruction": _conversation,
    "preference": _conversation,
}


def _occurrences(text: str, values: Iterable[str]) -> list[Span]:
    """Returns where any of the values stands in a text, in capitals or not."""
    wanted = sorted({value for value in values if value.strip()}, key=len, reverse=True)
    if not wanted:
        return []
    return [match.span() for match in re.finditer("|".join(map(re.escape, wanted)), text, re.IGNORECASE)]


def _names(text: str, other: str) -> list[Span]:
    """Returns where names and figures stand in a text that stand in another one too."""
    known = set(_NAME.findall(other))
    found = [match.span() for match in _NAME.finditer(text) if match[0] in known]
    return found + [match.span() for match in _QUOTED.finditer(text) if match[0] in other]
