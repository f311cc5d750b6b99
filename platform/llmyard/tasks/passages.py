"""A corpus cut into passages that are found by their words: an index (``retrieval``) with the texts beside it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from llmyard.core.errors import DataError
from llmyard.tasks.floors import sentence_spans
from llmyard.tasks.retrieval import Index, build_index, load_index

TEXTS = "passages.arrow"
_SCHEMA = pa.schema([("document", pa.large_string()), ("place", pa.int32()), ("text", pa.large_string())])
_BATCH = 4096  # passages


@dataclass(frozen=True, slots=True)
class Passage:
    """A stretch of a document.

    Attributes:
        document: Its id.
        place: Number of the passage in the document, from 0 on.
        text: As it stands there.
    """

    document: str
    place: int
    text: str

    @property
    def id(self) -> str:
        """``document#place``."""
        return f"{self.document}#{self.place}"


def passages_of(document: str, text: str, characters: int) -> Iterator[Passage]:
    """Yields a document in passages of at most so many characters, cut between sentences; one that is longer alone is
    cut where it is full.

    Args:
        document: Its id.
        text: Its text.
        characters: Of a passage.
    """
    place = start = end = 0
    for low, high in _pieces(text, characters):
        if end > start and high - start > characters:
            yield Passage(document, place, text[start:end])
            place, start = place + 1, low
        start = low if end <= start else start
        end = high
    if end > start:
        yield Passage(document, place, text[start:end])


def _pieces(text: str, characters: int) -> Iterator[tuple[int, int]]:
    for low, high in sentence_spans(text):
        for at in range(low, high, characters):
            yield at, min(high, at + characters)


def build_passages(passages: Iterable[Passage], folder: Path) -> int:
    """Writes an index of passages and their texts into a folder; returns how many there are.

    Memory: that of :func:`~llmyard.tasks.retrieval.build_index`, and some thousands of texts.

    Raises:
        DataError: There are none, or none has words.
    """
    folder.mkdir(parents=True, exist_ok=True)
    count = 0
    with pa.OSFile(str(folder / TEXTS), "wb") as sink, pa.ipc.new_file(sink, _SCHEMA) as writer:

        def kept() -> Iterator[tuple[str, str]]:
            nonlocal count
            batch: list[Passage] = []
            for passage in passages:
                yield str(count), passage.text
                count += 1
                batch.append(passage)
                if len(batch) == _BATCH:
                    writer.write_batch(_arrow(batch))
                    batch = []
            if batch:
                writer.write_batch(_arrow(batch))

        build_index(kept(), folder)
    return count


def _arrow(batch: Sequence[Passage]) -> Any:
    columns = [[each.document for each in batch], [each.place for each in batch], [each.text for each in batch]]
    return pa.record_batch(
        [pa.array(column, kind.type) for column, kind in zip(columns, _SCHEMA, strict=True)], schema=_SCHEMA
    )


class Passages:
    """Passages that are found by the words of a question.

    Args:
        folder: As :func:`build_passages` filled it; its files are mapped into memory.

    Raises:
        DataError: It holds no whole index.
    """

    def __init__(self, folder: Path) -> None:
        self._index: Index = load_index(folder)
        self._texts = pa.ipc.open_file(pa.memory_map(str(folder / TEXTS))).read_all()
        if len(self._texts) != len(self._index.ids):
            raise DataError(
                f"{folder} has {len(self._texts)} texts of {len(self._index.ids)} passages", "build it anew"
            )

    def search(self, questions: Sequence[str], count: int) -> list[list[Passage]]:
        """Returns the best passages for each question, best first; none where no word of it stands in any."""
        if not questions:
            return []
        found = self._index.search_many(questions, count)
        return [[self._passage(int(name)) for name, _ in each] for each in found]

    def _passage(self, row: int) -> Passage:
        document, place, text = (column[row].as_py() for column in self._texts.columns)
        return Passage(document, place, text)
