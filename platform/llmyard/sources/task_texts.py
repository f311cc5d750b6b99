"""The texts of task examples as documents: for a tokenizer that knows them, and models that have read their like."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from llmyard.sources.batches import Gathering, Origin, name_of
from llmyard.sources.config import Limits, TaskTexts
from llmyard.sources.examples import ExampleUnit, plan_examples, read_examples
from llmyard.sources.planning import Unit
from llmyard.sources.records import BadRecord, Batch

SPLIT = "train"  # held-out texts are not read: what is measured on them would be worth less
FIELDS = ("text", "text_pair", "context", "question", "summary", "source", "target")


def units_of(index: int, source: TaskTexts) -> list[Unit]:
    """Returns the units of work of a source's training examples."""
    return [Unit(index, each.path, each.start, each.stop) for each in plan_examples(source.data, SPLIT)]


def read_task_texts(unit: Unit, source: TaskTexts, limits: Limits) -> Iterator[Batch]:
    """Yields the texts of a unit's examples, each different one once, and what could not be read."""
    path = unit.path or f"{source.task}-{SPLIT}"
    gathering = Gathering(Origin(path, name_of(path), source, limits))
    seen: set[int] = set()
    key = 0
    for record in read_examples(ExampleUnit(SPLIT, unit.path, unit.start, unit.stop), source.data, source.task):
        if isinstance(record, BadRecord):
            gathering.bad(key, record.reason, record.excerpt)
            continue
        for text, language in texts_of(record, source.fields):
            if hash(text) not in seen:
                seen.add(hash(text))
                gathering.add(unit.start * 1000 + key, text, language=language)
                key += 1
        yield from gathering.full()
    yield from gathering.rest()


def texts_of(record: dict[str, Any], fields: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    """Yields the texts of a record with their languages ("" where unknown); a conversation is one text."""
    for field in fields or FIELDS:
        text = record.get(field)
        if isinstance(text, str) and text.strip():
            yield text, str(record.get(f"{field}_language", record.get("language", "")))
    if not fields and isinstance(record.get("messages"), list):
        turns = [str(turn.get("content", "")) for turn in record["messages"] if isinstance(turn, dict)]
        yield "\n".join(turns), str(record.get("language", ""))
