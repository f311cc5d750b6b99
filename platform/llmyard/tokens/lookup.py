"""From a document to its place in the shards, and from a place in a shard back to its document."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from llmyard.core.artifact import Artifact
from llmyard.core.errors import DataError, RequestError
from llmyard.tokens.shards import Shard, ShardSet
from llmyard.tokens.stored import Readable, StoredShard
from llmyard.tokens.tokenizer import Tokenizer

SPLITS = ("train", "validation", "test")


@dataclass(frozen=True, slots=True)
class FoundDocument:
    """A document of a corpus.

    Attributes:
        document: Its id.
        shard: Name of its shard.
        start: Its first token there.
        length: Its tokens, the end token included.
        source: Where it came from.
        text: Its text as the tokenizer gives it back.
    """

    document: str
    shard: str
    start: int
    length: int
    source: str
    text: str


def find_document(artifact: Artifact, document: str, tokenizer: Tokenizer) -> FoundDocument:
    """Returns the document with an id; the tables of the shards before its own are read for it.

    Raises:
        RequestError: No shard holds it.
    """
    seen: list[str] = []
    for name, shard in _shards(artifact):
        ids = shard.document_columns("id")["id"]
        row = pc.index(ids, pa.scalar(document, ids.type)).as_py()
        if row >= 0:
            return _found(name, shard, row, tokenizer)
        seen += ids.slice(0, 1).to_pylist()
    close = difflib.get_close_matches(document, seen, n=1, cutoff=0.0)
    raise RequestError(
        f"no document {document!r} in {artifact.reference}",
        f"ids look like {close[0]!r}; it may have been filtered or a duplicate" if close else "it holds no documents",
    )


def document_at(artifact: Artifact, name: str, position: int, tokenizer: Tokenizer) -> FoundDocument:
    """Returns the document that a shard's token belongs to.

    Args:
        artifact: The shards.
        name: The shard's, with or without ``.tokens.parquet``.
        position: Number of the token in it.
        tokenizer: Of the shards.

    Raises:
        RequestError: There is no such shard or token.
    """
    wanted = name.removesuffix(".tokens.parquet").removesuffix(".documents.parquet")
    shards = dict(_shards(artifact))
    if wanted not in shards:
        close = difflib.get_close_matches(wanted, list(shards), n=1, cutoff=0.0)
        raise RequestError(f"no shard {name!r} in {artifact.reference}", f"did you mean {close[0]!r}?")
    shard = shards[wanted]
    if not 0 <= position < shard.tokens:
        raise RequestError(f"{wanted} has no token {position}", f"it has {shard.tokens:,}, counted from 0")
    starts = shard.document_columns("start")["start"].to_numpy()
    return _found(wanted, shard, int(np.searchsorted(starts, position, side="right")) - 1, tokenizer)


def _shards(artifact: Artifact) -> Iterator[tuple[str, Readable]]:
    found = False
    for split in SPLITS:
        try:
            shards = ShardSet.of(artifact, split).shards
        except DataError:  # the corpus has no such split
            continue
        for shard in shards:
            found = True
            yield _name(shard), shard
    if not found:
        raise RequestError(f"{artifact.reference} holds no shards", "name an artifact that `prepare` made")


def _name(shard: Readable) -> str:
    if isinstance(shard, StoredShard):
        return shard.facts.name
    assert isinstance(shard, Shard)
    return shard.path.name.removesuffix(".tokens.parquet")


def _found(name: str, shard: Readable, row: int, tokenizer: Tokenizer) -> FoundDocument:
    record: dict[str, Any] = shard.document_columns("id", "source", "start", "length").slice(row, 1).to_pylist()[0]
    ids = shard.read(record["start"], record["length"])
    return FoundDocument(
        record["id"], name, record["start"], record["length"], record["source"], tokenizer.decode(ids.tolist())
    )
