"""Shards seen as training samples; sequence length and packing are chosen when reading."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from llmyard.core.errors import DataError
from llmyard.tokens.shards import ShardSet
from llmyard.tokens.tables import Tables


class View(Protocol):
    """Samples addressed by shard and row."""

    @property
    def rows(self) -> list[int]:
        """Samples in each shard."""

    def __call__(self, shard: int, row: int, epoch: int = 0) -> Any:
        """Returns one sample; where chance plays a part, another one each epoch."""

    def length(self, shard: int, row: int) -> int:
        """Returns a sample's number of tokens, without reading it."""


class PackedView:
    """Sequences cut from the token stream one after another; documents are separated by their end tokens.

    A sample is an array of ``sequence_length + 1`` ids: inputs and, one further, their targets.

    Raises:
        DataError: No shard holds one whole sequence.
    """

    def __init__(self, shards: ShardSet, sequence_length: int) -> None:
        self._shards, self._length = shards, sequence_length
        self.rows = [max(0, shard.tokens - 1) // sequence_length for shard in shards.shards]
        if not sum(self.rows):
            raise DataError(
                f"split {shards.split!r} has {shards.tokens} tokens in {len(self.rows)} shards, fewer in each than one "
                f"sequence of {sequence_length}",
                "prepare more text, or set a smaller sequence_length",
            )

    def __call__(self, shard: int, row: int, epoch: int = 0) -> npt.NDArray[Any]:
        return self._shards.shards[shard].read(row * self._length, self._length + 1)

    def length(self, shard: int, row: int) -> int:
        """Returns the sequence length, the same for all."""
        return self._length


@dataclass(frozen=True, slots=True)
class Example:
    """One document of a shard as a training example.

    Attributes:
        tokens: Its ids.
        labels: One a token; None where the shard has none.
        target_start: Offset in ``tokens`` where what is to be learned begins.
        pairs: Flat integers that go with it.
    """

    tokens: npt.NDArray[Any]
    labels: npt.NDArray[Any] | None
    target_start: int
    pairs: npt.NDArray[np.int32]


class ExampleView:
    """One document a sample."""

    def __init__(self, shards: ShardSet) -> None:
        self._shards = shards
        self.rows = [shard.document_count for shard in shards.shards]
        if not sum(self.rows):
            raise DataError(f"split {shards.split!r} holds no examples", "check the data and the length limits")
        self._table = Tables(shards, self._read_table)

    def _read_table(self, shard: int) -> tuple[npt.NDArray[Any], ...]:
        documents = self._shards.shards[shard].document_columns("start", "length", "target_start", "pairs")
        start, length, target = (documents[name].to_numpy() for name in ("start", "length", "target_start"))
        pairs = documents["pairs"].combine_chunks()
        return start, length, target, pairs.flatten().to_numpy(), pairs.offsets.to_numpy()

    def __call__(self, shard: int, row: int, epoch: int = 0) -> Example:
        start, length, target, pairs, ends = self._table[shard]
        reader = self._shards.shards[shard]
        at, count = int(start[row]), int(length[row])
        labels = reader.read(at, count, "labels") if "labels" in reader.streams else None
        return Example(
            reader.read(at, count), labels, int(target[row]), pairs[ends[row] - ends[0] : ends[row + 1] - ends[0]]
        )

    def length(self, shard: int, row: int) -> int:
        """Returns an example's number of tokens."""
        return int(self._table[shard][1][row])
