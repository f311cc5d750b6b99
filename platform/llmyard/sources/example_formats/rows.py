"""Rows in a task's own schema, or brought to it: fields by other names, labels by other names, answers as the hub has
them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from llmyard.sources.example_formats.needed import Unfit
from llmyard.sources.records import Fault, Found, Record, kind_of
from llmyard.text.script import language_by_script

# A row may lack these though a job names where they would stand.
_OPTIONAL = frozenset({"id", "group", "language", "query", "text_pair", "tools"})
_LABELLED = ("label", "relation")
_LANGUAGE_CHARACTERS = 1000  # a beginning of this length tells the language of a text as well as all of it


def rows(
    given: Iterable[tuple[int, Any]], columns: Mapping[str, str], labels: Mapping[str, str] | None, task: str
) -> Iterator[Found]:
    """Yields rows as records; the number is the row's.

    Args:
        given: Parsed rows, or what is wrong with them.
        columns: Field of the schema: field of the row; see :class:`llmyard.sources.config.Records`.
        labels: What a row says: the label's name.
        task: Name of the task.
    """
    for number, row in given:
        if isinstance(row, Fault):
            yield number, row
        elif not isinstance(row, dict):
            yield number, Fault(f"the record is {kind_of(row)}, not an object")
        else:
            try:
                record = _named(row, columns) if columns else dict(row)
                _label(record, labels)
                if task == "question_answering" and "answers" in record:
                    record["answers"] = _answers(record["answers"])
                yield number, record
            except Unfit as unfit:
                yield number, Fault(str(unfit))


def _named(row: Record, columns: Mapping[str, str]) -> Record:
    moved = {name for column in columns.values() for name in (column, column.partition(".")[0])}
    record = {name: value for name, value in row.items() if name not in moved}
    for name, column in columns.items():
        value = _at(row, column)
        if value is not None:
            record[name] = value
        elif name not in _OPTIONAL:
            raise Unfit(f"the record has no {column!r}, which `columns` says is its {name}")
    return record


def _at(row: Record, column: str) -> Any:
    """Returns a field of a row, or of an object in it where the name has dots."""
    if column in row:
        return row[column]
    value: Any = row
    for part in column.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return value


def _label(record: Record, labels: Mapping[str, str] | None) -> None:
    for field in _LABELLED:
        said = record.get(field)
        if isinstance(said, int) and not isinstance(said, bool):
            record[field] = said = str(said)
        if labels is not None and said is not None:
            name = labels.get(said) if isinstance(said, str) else None
            if name is None:
                raise Unfit(f"the {field} {said!r} is none of `labels`: {', '.join(list(labels)[:20])}")
            record[field] = name


def _answers(given: Any) -> Any:
    """Returns answers as [{text, start}]; the hub has {text: [..], answer_start: [..]}, others a text or several."""
    if isinstance(given, str):
        given = [given] if given.strip() else []
    if isinstance(given, dict):
        texts, starts = given.get("text"), given.get("answer_start")
        if not isinstance(texts, list):
            raise Unfit(f"'text' of the answers is {kind_of(texts)}, not a list")
        if not isinstance(starts, list):
            starts = [None] * len(texts)
        if len(starts) != len(texts):
            raise Unfit(f"the answers have {len(texts)} texts and {len(starts)} places")
        given = [{"text": text, "start": start} for text, start in zip(texts, starts, strict=True)]
    if not isinstance(given, list):
        return given
    found: list[Any] = []
    for answer in given:
        if isinstance(answer, str):
            answer = {"text": answer}
        elif isinstance(answer, dict) and "answer_start" in answer and "start" not in answer:
            answer = {"text": answer.get("text"), "start": answer["answer_start"]}
        if isinstance(answer, dict) and answer.get("start") is None:
            answer = {name: value for name, value in answer.items() if name != "start"}
        if answer not in found:
            found.append(answer)
    return found


def with_language(record: Record, task: str, language: str | None) -> Record:
    """Returns a record that says its language, if it has one: named in the job, or told by its letters."""
    if task == "translation":
        for side in ("source", "target"):
            if not record.get(f"{side}_language") and isinstance(record.get(side), str):
                record = {**record, f"{side}_language": language_by_script(record[side][:_LANGUAGE_CHARACTERS])}
        return record
    if record.get("language"):
        return record
    text = language or _said(record)
    return {**record, "language": language or language_by_script(text)} if text else record


def _said(record: Record) -> str:
    for field in ("context", "text"):
        if isinstance(record.get(field), str):
            return str(record[field][:_LANGUAGE_CHARACTERS])
    turns = record.get("messages")
    said = [turn.get("content") for turn in turns if isinstance(turn, dict)] if isinstance(turns, list) else []
    return "\n".join(each for each in said if isinstance(each, str))[:_LANGUAGE_CHARACTERS]
