"""The corpus: its units of work, their documents, and what decides a source's content."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from functools import cache, partial
from pathlib import Path
from typing import Any

from llmyard.core.errors import RequestError
from llmyard.sources.config import DocumentSource, HubDataset, HubExamples, TaskTexts, Triples
from llmyard.sources.filesystems import Found, expand, find
from llmyard.sources.planning import Unit, as_row, plan
from llmyard.sources.reading import read
from llmyard.sources.records import BadRecord, Batch

Place = tuple[str | int, ...]

__all__ = [
    "BadRecord",
    "Batch",
    "Unit",
    "as_row",
    "check_source",
    "digest",
    "expand",
    "listing",
    "plan",
    "read",
    "revision",
]


def listing(source: DocumentSource | Any) -> list[list[str | int]]:
    """Returns path, size and modification time of a source's files: part of the fingerprint.

    A data set of the hub gives its name, 0 and its commit; synthetic documents give nothing.
    """
    if isinstance(source, TaskTexts):
        return listing(source.data)
    if isinstance(source, HubDataset | HubExamples):
        from llmyard.sources.hub import listing_of

        return listing_of(source)
    files: list[Found] = []
    for field in ("paths", "train", "validation", "test"):
        value = getattr(source, field, ())
        if isinstance(value, str):
            files += find([value])
        elif isinstance(value, tuple):
            files += find(value)
    return [[file.path, file.size, file.modified_ns] for file in files]


def check_source(source: Any) -> tuple[Place, RequestError] | None:
    """Returns the field of a source that names files which are not there, and what is wrong; None if all are."""
    if isinstance(source, TaskTexts):
        found = check_source(source.data)
        return None if found is None else (("data", *found[0]), found[1])
    if isinstance(source, HubDataset | HubExamples):
        fields: list[tuple[Place, Callable[[], object]]] = [(("dataset",), lambda: listing(source))]
    else:
        fields = [(place, partial(find, [given])) for place, given in _named(source)]
    for place, look in fields:
        try:
            look()
        except RequestError as error:
            return place, error
    return None


def _named(source: Any) -> Iterator[tuple[Place, str]]:
    """Yields the paths that a source names, with their places in its config."""
    for field in ("paths", "train", "validation", "test"):
        value = getattr(source, field, ())
        if isinstance(value, str):
            yield (field,), value
        elif isinstance(value, tuple):
            yield from (((field, index), each) for index, each in enumerate(value))


@cache
def _smallworld_digest() -> str:
    package = Path(__file__).with_name("smallworld")
    files = sorted(path for path in package.iterdir() if path.suffix in (".py", ".yaml"))
    return digest("\0".join(f"{path.name}\0{path.read_text(encoding='utf-8')}" for path in files)).hex()


def revision(source: Any) -> str:
    """Returns what else than files decides a source's content: a digest of the generator, "" for files."""
    if isinstance(source, TaskTexts):
        return revision(source.data)
    if isinstance(source, Triples):
        from llmyard.sources.verbalising import REVISION

        return str(REVISION)
    return _smallworld_digest() if source.kind == "smallworld" else ""


def digest(text: str) -> bytes:
    """Returns 128 bits that stand for a text."""
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()
