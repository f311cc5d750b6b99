"""The corpus: its units of work, their documents, and what decides a source's content."""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path
from typing import Any

from llmyard.sources.config import DocumentSource, HubDataset
from llmyard.sources.filesystems import Found, expand, find
from llmyard.sources.planning import Unit, as_row, plan
from llmyard.sources.reading import read
from llmyard.sources.records import BadRecord, Batch

__all__ = ["BadRecord", "Batch", "Unit", "as_row", "digest", "expand", "listing", "plan", "read", "revision"]


def listing(source: DocumentSource | Any) -> list[list[str | int]]:
    """Returns path, size and modification time of a source's files: part of the fingerprint.

    A data set of the hub gives its name, 0 and its commit; synthetic documents give nothing.
    """
    if isinstance(source, HubDataset):
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


@cache
def _smallworld_digest() -> str:
    package = Path(__file__).with_name("smallworld")
    files = sorted(path for path in package.iterdir() if path.suffix in (".py", ".yaml"))
    return digest("\0".join(f"{path.name}\0{path.read_text(encoding='utf-8')}" for path in files)).hex()


def revision(source: Any) -> str:
    """Returns what else than files decides a source's content: a digest of the generator, "" for files."""
    return _smallworld_digest() if source.kind == "smallworld" else ""


def digest(text: str) -> bytes:
    """Returns 128 bits that stand for a text."""
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()
