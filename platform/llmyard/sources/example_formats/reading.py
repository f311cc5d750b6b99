"""A file of examples as records, whatever its format."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from llmyard.core.errors import RequestError
from llmyard.sources.batches import name_of
from llmyard.sources.config import FORMAT_TASKS, RELATIONS, HubExamples, Records
from llmyard.sources.example_formats.conversations import alpaca, messages, sharegpt
from llmyard.sources.example_formats.entities import conll
from llmyard.sources.example_formats.meetings import qmsum
from llmyard.sources.example_formats.opening import document_of, is_list, rows_of, texts_of
from llmyard.sources.example_formats.questions import babi, squad
from llmyard.sources.example_formats.relations import fewrel, finre, labelled, semeval
from llmyard.sources.example_formats.rows import rows, with_language
from llmyard.sources.example_formats.states import crosswoz, sgd
from llmyard.sources.records import BadRecord, Fault, Found, Record, is_unicode

_LINES: dict[str, Callable[[Iterable[tuple[int, str | Fault]]], Iterator[Found]]] = {
    "semeval": semeval, "finre": finre, "babi": babi,
}  # fmt: skip
_ROWS: dict[str, Callable[[Iterable[tuple[int, Any]]], Iterator[Found]]] = {
    "messages": messages, "alpaca": alpaca, "sharegpt": sharegpt, "qmsum": qmsum,
}  # fmt: skip
_DOCUMENTS: dict[str, Callable[[Any], Iterator[Found]]] = {"fewrel": fewrel, "sgd": sgd, "crosswoz": crosswoz}
DOCUMENTS = ("squad", *_DOCUMENTS)  # formats whose files are one JSON document


def read_file(path: str, source: Records, task: str) -> Iterator[Record | BadRecord]:
    """Yields the records of a file, with ids that hold its name, and what is wrong with the others.

    Raises:
        DataError: The file cannot be opened or read.
        RequestError: The format is for other tasks.
    """
    check_task(source, task)
    kind, found = _found(path, source, task)
    if task == "classification" and FORMAT_TASKS.get(source.format) == RELATIONS:
        found = labelled(found)
    yield from finished(found, path, name_of(path), source, task, kind)


def is_document(path: str, format_: str) -> bool:
    """Returns whether a file of a format is one JSON document, which is parsed as a whole.

    Raises:
        DataError: The file cannot be opened or read.
    """
    return format_ in DOCUMENTS or (format_ in ("jsonl", *_ROWS) and is_list(path))


def check_task(source: Records | HubExamples, task: str) -> None:
    """Raises RequestError if a source's format does not hold records of a task."""
    tasks = FORMAT_TASKS.get(source.format)
    if tasks is not None and task not in tasks:
        raise RequestError(
            f"examples in format {source.format!r} are for {' and '.join(tasks)}, not for {task}",
            "name the format that the files have, or another task",
        )


def _found(path: str, source: Records, task: str) -> tuple[str, Iterator[Found]]:
    """Returns what a file's numbers count, and its records."""
    format_ = source.format
    if format_ in _LINES:
        return "line", _LINES[format_](texts_of(path))
    if format_ == "conll":
        return "line", conll(texts_of(path), source.language)
    if format_ in ("jsonl", *_ROWS):
        return "record" if is_list(path) else "line", parsed(rows_of(path), source, task)
    document = document_of(path)
    if isinstance(document, Fault):
        return "record", iter([(0, document)])
    return "record", squad(document, source.repair_offsets) if format_ == "squad" else _DOCUMENTS[format_](document)


def parsed(given: Iterable[tuple[int, Any]], source: Records | HubExamples, task: str) -> Iterator[Found]:
    """Yields parsed rows as records, by the source's format."""
    read = _ROWS.get(source.format)
    return read(given) if read is not None else rows(given, source.columns, source.labels, task)


def finished(
    found: Iterable[Found], path: str, name: str, source: Records | HubExamples, task: str, kind: str = "record"
) -> Iterator[Record | BadRecord]:
    """Yields records with their ids and languages, and bad ones with their places.

    Args:
        found: Records, or what is wrong with them, with their numbers.
        path: The file, for bad records.
        name: What stands before the ``#`` in ids.
        source: Where they come from.
        task: Name of the task.
        kind: What the numbers count.
    """
    is_own_schema = source.format in ("jsonl", "rows")  # its ids are the user's: they stay as they are
    seen: set[str] = set()
    for number, record in found:
        reason = record.reason if isinstance(record, Fault) else _unwritable(record)
        if isinstance(record, Fault) or reason:
            # It may name what cannot be written either.
            reason = reason.encode("utf-8", "backslashreplace").decode()
            yield BadRecord(path, number, f"{kind} {number}: {reason}" if number else reason)
            continue
        own = record.pop("id", None)
        if own is None or not is_own_schema:
            if own in seen:
                own = f"{own}:{number}"
            elif own is not None:
                seen.add(own)
            own = f"{name}#{number if own is None else own}"
        yield {"id": own, **with_language(record, task, source.language)}


def _unwritable(record: Record) -> str:
    """Returns why a record could not be written, or ""."""
    try:
        is_text = is_unicode(json.dumps(record, ensure_ascii=False, default=str))
    except (RecursionError, ValueError):
        return "it is nested too deeply"
    return "" if is_text else "it holds half of a surrogate pair, which is no character"
