"""``index``: passages of a prepared corpus that are found by their words, built by one task, from file to file."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from llmyard.core.artifacts import Artifact, ArtifactStore
from llmyard.core.errors import DataError, RequestError
from llmyard.core.storage import Storage
from llmyard.stages.bases import tokenizer_of
from llmyard.stages.index_config import SPLITS, Index
from llmyard.stages.stage import Made, Making
from llmyard.tasks.passages import Passage, build_passages, passages_of
from llmyard.tokens.shards import ShardSet
from llmyard.tokens.tokenizer import FILE, Tokenizer

REVISION = 1
_DECODED = 256  # documents at once


def parents(config: Index, store: ArtifactStore) -> Mapping[str, Artifact]:
    """Returns the shards and the tokenizer that reads them.

    Raises:
        MissingArtifact: There are no such shards.
        RequestError: They are no shards of documents, or hold none in the splits.
    """
    shards = store.get(config.shards, "shards")
    tokenizer = tokenizer_of(shards, store) if shards.kind == "shards" else None
    if tokenizer is None:
        raise RequestError(f"{shards.reference} is no prepared corpus", "name the output of a stage of kind `prepare`")
    counts = {split: shards.metrics.get(f"tokens_{split}", 0.0) for split in SPLITS}
    if any(counts.values()) and not any(counts[split] for split in config.splits):
        there = ", ".join(split for split, count in counts.items() if count)
        raise RequestError(
            f"{shards.reference} has no document in {', '.join(config.splits)}", f"it has some in {there}"
        )
    return {"shards": shards, "tokenizer": tokenizer}


def sources(config: Index, parents: Mapping[str, Artifact]) -> list[Any]:
    """Returns nothing: the corpus is its parent."""
    return []


def make(config: Index, making: Making) -> Made:
    """Builds the index in a task."""
    from llmyard.runtime.datasets import map_units

    making.progress.update(0, 1, "indexing")
    draft = making.draft
    work = Build(config, making.parents["shards"], making.parents["tokenizer"], draft.storage, draft.folder)
    (made,) = map_units([{}], work)
    return Made({key: float(value) for key, value in made.items()})


class Build:
    """Writes the index of a corpus."""

    def __init__(self, config: Index, shards: Artifact, tokenizer: Artifact, storage: Storage, folder: str) -> None:
        self.config, self.shards, self.tokenizer = config, shards, tokenizer
        self.storage, self.folder = storage, folder

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        self._documents = 0
        with tempfile.TemporaryDirectory(prefix="ly-index-") as name:
            home = Path(name)
            count = build_passages(self._passages(), home)
            for file in sorted(home.iterdir()):
                self.storage.copy_in(file, f"{self.folder}/{file.name}")
        return {"passages": count, "documents": self._documents}

    def _passages(self) -> Iterator[Passage]:
        for name, text in self._texts():
            self._documents += 1
            yield from passages_of(name, text, self.config.passage_characters)

    def _texts(self) -> Iterator[tuple[str, str]]:
        """Yields ids and texts of the documents, a few decoded at a time."""
        tokenizer = Tokenizer.load(self.tokenizer.local(FILE))
        for split in self.config.splits:
            try:
                shards = ShardSet.of(self.shards, split).shards
            except DataError:  # a split that is empty
                continue
            for shard in shards:
                table = shard.document_columns("id", "start", "length")
                for at in range(0, len(table), _DECODED):
                    part = table.slice(at, _DECODED).to_pydict()
                    places = zip(part["start"], part["length"], strict=True)
                    ids = [shard.read(start, length).tolist() for start, length in places]
                    yield from zip(part["id"], tokenizer.decode_batch(ids), strict=True)
