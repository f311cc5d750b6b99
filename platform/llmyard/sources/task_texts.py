"""The texts of task examples as documents: for a tokenizer that knows them, and models that have read their like."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from llmyard.sources.batches import Gathering, Origin, name_of
from llmyard.sources.config import Limits, TaskTexts
from llmyard.sources.examples import ExampleUnit, plan_examples, read_examples, splits_of
from llmyard.sources.planning import Unit
from llmyard.sources.records import BadRecord, Batch

SPLIT = "train"  # held-out texts are not read unasked: what is measured on them would be worth less
FIELDS = ("text", "text_pair", "context", "question", "summary", "source", "target")


def units_of(index: int, source: TaskTexts) -> list[Unit]:
    """Returns the units of work of a source's examples, each once."""
    places = [(each.path, each.start, each.stop) for split in _splits(source) for each in _planned(source, split)]
    return [Unit(index, *place) for place in dict.fromkeys(places)]


def _splits(source: TaskTexts) -> tuple[str, ...]:
    return splits_of(source.data) if source.held_out else (SPLIT,)


def _planned(source: TaskTexts, split: str) -> list[ExampleUnit]:
    return list(plan_examples(source.data, split))


def read_task_texts(unit: Unit, source: TaskTexts, limits: Limits) -> Iterator[Batch]:
    """Yields the texts of a unit's examples, each different one once, and what could not be read."""
    path = unit.path or f"{source.task}-{SPLIT}"
    gathering = Gathering(Origin(path, name_of(path), source, limits))
    seen: set[int] = set()
    key = 0
    for record in _records(unit, source):
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


def _records(unit: Unit, source: TaskTexts) -> Iterator[dict[str, Any] | BadRecord]:
    """Yields a unit's records, of all splits that are read."""
    for split in _splits(source):
        asked = ExampleUnit(split, unit.path, unit.start, unit.stop)
        if any(
            (each.path, each.start, each.stop) == (unit.path, unit.start, unit.stop) for each in _planned(source, split)
        ):
            yield from read_examples(asked, source.data, source.task)


def texts_of(record: dict[str, Any], fields: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    """Yields the texts of a record with their languages ("" where unknown); a conversation is one text."""
    for field in fields or FIELDS:
        text = record.get(field)
        if isinstance(text, str) and text.strip():
            yield text, str(record.get(f"{field}_language", record.get("language", "")))
    if not fields and isinstance(record.get("messages"), list):
        turns = [str(turn.get("content", "")) for turn in record["messages"] if isinstance(turn, dict)]
        yield "\n".join(turns), str(record.get("language", ""))
