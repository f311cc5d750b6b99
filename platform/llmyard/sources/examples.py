"""Task examples read from their sources, a unit of work at a time; splits are fixed by the data, not by order."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmyard.core.seeds import unit
from llmyard.sources.config import (
    Answers,
    ExampleSource,
    HubExamples,
    ParallelText,
    Records,
    SmallWorldExamples,
    paths_of,
)
from llmyard.sources.corpus import digest, expand
from llmyard.sources.example_formats.opening import lines_of
from llmyard.sources.example_formats.reading import read_file
from llmyard.sources.records import BadRecord, Fault
from llmyard.sources.splits import dealt, is_named

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
    """Returns the units of work of one split; one that is not named is dealt out of the training files."""
    if isinstance(source, SmallWorldExamples):
        count = {"train": source.train, "validation": source.validation}.get(split, source.test)
        return [ExampleUnit(split, "", at, min(at + _PER_UNIT, count)) for at in range(0, count, _PER_UNIT)]
    if isinstance(source, ParallelText):
        return [ExampleUnit(split, path, 0, 0) for path in expand(source.paths)]
    assert not isinstance(source, Answers)  # stages.settling has put files in its place
    place = getattr(source, split if is_named(source, split) else "train")
    if isinstance(source, HubExamples):
        from llmyard.sources.hub import shards_of

        path, shards = shards_of(source, place)
        return [ExampleUnit(split, path, shard, shard + 1) for shard in range(shards)]
    return [ExampleUnit(split, path, 0, 0) for path in expand(paths_of(place))]


def read_examples(unit: ExampleUnit, source: ExampleSource, task: str) -> Iterator[dict[str, Any] | BadRecord]:
    """Yields the records of a unit for a task, and what could not be read.

    Raises:
        DataError: A file cannot be opened or read.
        RequestError: The source's format holds examples of other tasks.
    """
    if isinstance(source, SmallWorldExamples):
        from llmyard.sources.smallworld import SmallWorld

        world = SmallWorld(profile=source.profile, seed=source.seed)
        for index in range(unit.start, unit.stop):
            yield world.example(task, unit.split, index)
    elif isinstance(source, ParallelText):
        yield from _parallel(unit, source)
    elif isinstance(source, Records):
        yield from dealt(read_file(unit.path, source, task), source, unit.split)
    else:
        assert isinstance(source, HubExamples)
        from llmyard.sources.hub_examples import read_part

        place = getattr(source, unit.split if is_named(source, unit.split) else "train")
        yield from dealt(read_part(unit.path, unit.start, place, source, task), source, unit.split)


def _parallel(work: ExampleUnit, source: ParallelText) -> Iterator[dict[str, Any] | BadRecord]:
    one, two = source.columns
    path = work.path
    name = Path(path.partition("?")[0] if "://" in path else path).name
    for number, line in lines_of(work.path):
        bad = BadRecord(work.path, number, f"line {number}: {line.reason}") if isinstance(line, Fault) else None
        cells: list[str] = []
        if not isinstance(line, Fault):
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
