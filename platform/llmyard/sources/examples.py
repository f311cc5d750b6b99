"""Task examples read from their sources, a unit of work at a time; splits are fixed by the data, not by order."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmyard.core.seeds import unit
from llmyard.sources.config import ExampleSource, ParallelText, Records, SmallWorldExamples
from llmyard.sources.corpus import digest, expand
from llmyard.sources.records import BadRecord, is_unicode, not_json

HARD_SPLITS = ("test_names", "test_combinations", "test_long")
_PER_UNIT = 500


@dataclass(frozen=True, slots=True)
class ExampleUnit:
    """Work for one task: examples ``start`` to ``stop`` of a split, or of a file (``stop`` 0: all)."""

    split: str
    path: str
    start: int
    stop: int


def splits_of(source: ExampleSource) -> tuple[str, ...]:
    """Returns the splits that a source has."""
    hard = HARD_SPLITS if isinstance(source, SmallWorldExamples) else ()
    return ("train", "validation", "test", *hard)


def plan_examples(source: ExampleSource, split: str) -> list[ExampleUnit]:
    """Returns the units of work of one split."""
    if isinstance(source, SmallWorldExamples):
        count = {"train": source.train, "validation": source.validation}.get(split, source.test)
        return [ExampleUnit(split, "", at, min(at + _PER_UNIT, count)) for at in range(0, count, _PER_UNIT)]
    paths = expand(source.paths) if isinstance(source, ParallelText) else expand([getattr(source, split)])
    return [ExampleUnit(split, path, 0, 0) for path in paths]


def read_examples(unit: ExampleUnit, source: ExampleSource, task: str) -> Iterator[dict[str, Any] | BadRecord]:
    """Yields the records of a unit for a task, and what could not be read."""
    if isinstance(source, SmallWorldExamples):
        from llmyard.sources.smallworld import SmallWorld

        world = SmallWorld(profile=source.profile, seed=source.seed)
        for index in range(unit.start, unit.stop):
            yield world.example(task, unit.split, index)
    elif isinstance(source, ParallelText):
        yield from _parallel(unit, source)
    elif isinstance(source, Records):
        yield from _json_lines(unit.path)


def _parallel(work: ExampleUnit, source: ParallelText) -> Iterator[dict[str, Any] | BadRecord]:
    one, two = source.columns
    name = Path(work.path).name
    with open(work.path, "rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                cells = line.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n").split("\t")
            except UnicodeDecodeError as error:
                yield BadRecord(work.path, number, f"line {number} is not UTF-8 at byte {error.start}")
                continue
            if len(cells) <= max(one, two) or not cells[one].strip() or not cells[two].strip():
                yield BadRecord(work.path, number, f"line {number} has no texts in columns {one} and {two}")
                continue
            place = unit(source.seed, int.from_bytes(digest(cells[one].strip())[:8], "big"))
            test, validation = source.test_share, source.test_share + source.validation_share
            split = "test" if place < test else "validation" if place < validation else "train"
            if split != work.split:
                continue
            for source_at, target_at in ((one, two), (two, one)):
                from_, to = source.languages if source_at == one else source.languages[::-1]
                yield {
                    "id": f"{name}#{number}:{from_}-{to}",
                    "source_language": from_,
                    "target_language": to,
                    "source": cells[source_at].strip(),
                    "target": cells[target_at].strip(),
                }


def _json_lines(path: str) -> Iterator[dict[str, Any] | BadRecord]:
    with open(path, "rb") as file:
        for number, record in _values(file):
            if isinstance(record, BadRecord):
                yield BadRecord(path, number, record.reason)
            elif isinstance(record, dict) and not is_unicode(json.dumps(record, ensure_ascii=False)):
                yield BadRecord(path, number, f"line {number} holds half of a surrogate pair, which is no character")
            elif isinstance(record, dict):
                yield {"id": f"{Path(path).name}#{number}", **record}
            else:
                yield BadRecord(path, number, f"line {number} is no JSON object")


def _values(lines: Iterable[bytes]) -> Iterator[tuple[int, Any]]:
    """Yields (line number, its value, or a BadRecord without path) of JSON lines, which only a line feed divides."""
    for number, line in enumerate(lines, start=1):
        if line.strip():
            try:
                yield number, json.loads(line)
            except (ValueError, RecursionError) as error:
                yield number, BadRecord("", number, f"line {number}: {not_json(error)}")
