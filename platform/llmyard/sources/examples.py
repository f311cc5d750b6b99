"""Task examples read from their sources, a unit of work at a time; splits are fixed by the data, not by order."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmyard.core.errors import DataError
from llmyard.core.seeds import unit
from llmyard.sources.config import ExampleSource, Limits, ParallelText, Records, SmallWorldExamples
from llmyard.sources.corpus import digest, expand
from llmyard.sources.formats.lines import line_blocks
from llmyard.sources.records import BadRecord, is_unicode, not_json
from llmyard.sources.streams import Stream, Unopenable

LIMITS = Limits()

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
    name = _name_of(work.path)
    for number, line in _lines(work.path):
        bad = line if isinstance(line, BadRecord) else None
        cells: list[str] = []
        if not isinstance(line, BadRecord):
            try:
                cells = line.decode("utf-8").rstrip("\r").split("\t")
            except UnicodeDecodeError as error:
                bad = BadRecord(work.path, number, f"line {number} is not UTF-8 at byte {error.start}")
        if bad is None and (len(cells) <= max(one, two) or not cells[one].strip() or not cells[two].strip()):
            bad = BadRecord(work.path, number, f"line {number} has no texts in columns {one} and {two}")
        if bad is not None:
            if work.split == "train":  # a file is read for each split; what is bad in it counts once
                yield bad
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
    name = _name_of(path)
    for number, line in _lines(path):
        if isinstance(line, BadRecord):
            yield line
            continue
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            yield BadRecord(path, number, f"line {number}: {not_json(error)}")
            continue
        if not isinstance(record, dict):
            yield BadRecord(path, number, f"line {number} is no JSON object")
        elif not is_unicode(json.dumps(record, ensure_ascii=False)):
            yield BadRecord(path, number, f"line {number} holds half of a surrogate pair, which is no character")
        else:
            yield {"id": f"{name}#{number}", **record}


def _name_of(path: str) -> str:
    return Path(path.partition("?")[0] if "://" in path else path).name


def _lines(path: str) -> Iterator[tuple[int, bytes | BadRecord]]:
    """Yields (number, line without its line feed) of a file on any filesystem, compressed or not; and what is torn.

    Raises:
        DataError: The file cannot be opened or read.
    """
    number = 0
    try:
        with Stream(path, LIMITS) as stream:
            for block in line_blocks(stream, 0, 0, LIMITS.max_record_bytes):
                for line in block.data.removesuffix(b"\n").split(b"\n") if block.data else ():
                    number += 1
                    yield number, line
                for cut in block.cut:
                    number += 1
                    reason = cut.reason or f"is longer than {LIMITS.max_record_bytes:,} bytes"
                    yield number, BadRecord(path, number, f"line {number}: {reason}")
    except Unopenable as error:
        raise DataError(f"{path} {error}", "check the file, or leave it out") from None
