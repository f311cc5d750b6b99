"""Units of work for tasks: files and their parts, ranges of synthetic documents, parts of hub data sets."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any

from llmyard.core.errors import RequestError
from llmyard.sources.config import DocumentSource, Files, HubDataset, SmallWorldDocuments, TaskTexts, Triples
from llmyard.sources.filesystems import Found, find

BYTES_PER_TASK = 64 << 20
# Opening a file on an object store takes some 50 ms of waiting.
_READERS_OF_FOOTERS = 16
_SUFFIXES = {
    "jsonl": ("jsonl", "ndjson", "jsonlines"),
    "json": ("json",),
    "tsv": ("tsv",),
    "csv": ("csv",),
    "parquet": ("parquet", "pq"),
    "text": ("txt", "text", "md"),
    "html": ("html", "htm", "xhtml"),
    "warc": ("warc",),
    "wet": ("wet",),
}
_SPLITTABLE = ("jsonl", "tsv")


@dataclass(frozen=True, slots=True)
class Unit:
    """Work for one task: a part of a file, or a range of synthetic documents.

    Attributes:
        source: Index of the source in the job.
        path: The file, or the data set on the hub with its commit; "" for synthetic documents.
        start: First byte (lines), row group (Parquet), document (synthetic) or part (hub).
        stop: One past the last; 0 for a whole file.
    """

    source: int
    path: str
    start: int
    stop: int


def format_of(path: str, source: Files) -> str:
    """Returns the format of a file: what the source says, or what its suffix says where that is ``auto``.

    Raises:
        RequestError: The suffix is unknown.
    """
    if source.format != "auto":
        return source.format
    parts = path.partition("?")[0].rpartition("/")[2].lower().removesuffix(".gz").removesuffix(".zst").split(".")
    for name, suffixes in _SUFFIXES.items():
        if len(parts) > 1 and parts[-1] in suffixes:
            return name
    known = " ".join(f".{suffix}" for suffixes in _SUFFIXES.values() for suffix in suffixes)
    raise RequestError(
        f"{path}: the suffix does not tell the format; known are {known}, each with .gz or .zst too",
        "name the source's `format`, or choose its files with a glob such as data/**/*.jsonl",
    )


def plan(
    sources: Sequence[DocumentSource], documents_per_task: int, bytes_per_task: int = BYTES_PER_TASK
) -> list[Unit]:
    """Returns the units of work of all sources, in a fixed order.

    Args:
        sources: The job's sources.
        documents_per_task: Synthetic documents in a unit.
        bytes_per_task: Bytes in a unit of a file that can be divided: lines that are not compressed, and Parquet.

    Raises:
        RequestError: A source names nothing, or a file whose format cannot be told.
    """
    units: list[Unit] = []
    for index, source in enumerate(sources):
        if isinstance(source, Files):
            units += _file_units(index, source, bytes_per_task)
        elif isinstance(source, Triples):
            files = [(file, _divided(file, "tsv", None, bytes_per_task)) for file in find(source.paths)]
            units += [Unit(index, file.path, start, stop) for file, parts in files for start, stop, _ in parts]
        elif isinstance(source, HubDataset):
            from llmyard.sources.hub import shards_of

            path, shards = shards_of(source, source.split)
            units += [Unit(index, path, shard, shard + 1) for shard in range(shards)]
        elif isinstance(source, TaskTexts):
            from llmyard.sources.task_texts import units_of

            units += units_of(index, source)
        else:
            count = world_of(source).documents
            starts = range(0, count, documents_per_task)
            units += [Unit(index, "", start, min(start + documents_per_task, count)) for start in starts]
    return units


def _file_units(index: int, source: Files, bytes_per_task: int) -> list[Unit]:
    files = find(source.paths)
    large = [file.path for file in files if file.size > bytes_per_task and format_of(file.path, source) == "parquet"]
    footers = dict(zip(large, _row_groups(large), strict=True)) if large else {}
    units: list[Unit] = []
    taken = 0
    for file in files:
        for start, stop, size in _divided(file, format_of(file.path, source), footers.get(file.path), bytes_per_task):
            if source.max_bytes is not None and taken >= source.max_bytes:
                return units
            units.append(Unit(index, file.path, start, stop))
            taken += size
    return units


def _divided(file: Found, form: str, groups: list[int] | None, limit: int) -> Iterator[tuple[int, int, int]]:
    """Yields (start, stop, bytes) of a file's units."""
    from llmyard.core.files import codec_of

    if groups:
        start = size = 0
        for at, each in enumerate(groups):
            if size and size + each > limit:
                yield start, at, size
                start, size = at, 0
            size += each
        yield start, len(groups), size
    elif form in _SPLITTABLE and file.size > limit and not codec_of(file.path):
        for start in range(0, file.size, limit):
            stop = min(start + limit, file.size)
            yield start, stop, stop - start
    else:
        yield 0, 0, file.size


def _row_groups(paths: list[str]) -> list[list[int]]:
    from llmyard.sources.formats.parquet import row_group_sizes

    with ThreadPoolExecutor(_READERS_OF_FOOTERS) as pool:
        return list(pool.map(row_group_sizes, paths))


def world_of(source: SmallWorldDocuments) -> Any:
    """Returns the world that a synthetic source describes."""
    from llmyard.sources.smallworld import SmallWorld

    return SmallWorld(profile=source.profile, seed=source.seed, documents=source.documents, bias=source.bias)


def as_row(unit: Unit) -> dict[str, Any]:
    """Returns a unit as plain data, to be sent to a task."""
    return asdict(unit)
