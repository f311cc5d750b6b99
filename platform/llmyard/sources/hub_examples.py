"""Task examples of data sets of the Hugging Face hub, or of local folders in their layout."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from llmyard.sources.config import HubExamples
from llmyard.sources.example_formats.reading import check_task, finished, parsed
from llmyard.sources.hub import DAMAGE, ROWS, damage_of, name_in, part_of, unreachable
from llmyard.sources.records import BadRecord, Fault, Record


def read_part(path: str, shard: int, split: str, source: HubExamples, task: str) -> Iterator[Record | BadRecord]:
    """Yields the records of one part of a split; ids hold the data set's name, split, part and the row's number in it.

    Args:
        path: The data set with its commit, as :func:`llmyard.sources.hub.shards_of` gives it.
        shard: Number of the part.
        split: The data set's name for the split.
        source: Its config.
        task: Name of the task.

    Raises:
        DataError: The network failed.
        RequestError: The format is for other tasks, or there is no such split.
    """
    check_task(source, task)
    name = f"{name_in(path, source)}/{split}/{shard}"
    yield from finished(parsed(_rows(path, shard, split, source), source, task), path, name, source, task)


def _rows(path: str, shard: int, split: str, source: HubExamples) -> Iterator[tuple[int, Any]]:
    """Yields rows as plain data, numbered from 1; classes by their names."""
    part = part_of(path, shard, source, split)
    names = _class_names(part.features or {})
    row = 0
    try:
        for table in part.with_format("arrow").iter(ROWS):
            for values in table.to_pylist():
                row += 1
                yield row, _with_names(values, names, source.labels or {})
    except DAMAGE as error:
        yield row + 1, Fault(damage_of(error, shard, row))
    except OSError as error:
        raise unreachable(error, path, shard) from error


def _class_names(features: Mapping[str, Any]) -> dict[str, Sequence[str]]:
    from datasets import ClassLabel

    return {name: feature.names for name, feature in features.items() if isinstance(feature, ClassLabel)}


def _with_names(row: Record, names: Mapping[str, Sequence[str]], labels: Mapping[str, str]) -> Record | Fault:
    for field, known in names.items():
        at = row.get(field)
        if at is None or str(at) in labels:
            continue
        if not 0 <= at < len(known):
            return Fault(f"the class {at} of {field!r} is none of {len(known)}: is the split without labels?")
        row[field] = known[at]
    return row
