"""Sequences that know their documents: cut from the stream, packed whole, or one document each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from llmyard.core.compiled import I32, I64, Number, compiled
from llmyard.core.errors import DataError
from llmyard.tokens.config import Packing
from llmyard.tokens.shards import ShardSet
from llmyard.tokens.tables import Tables
from llmyard.tokens.views import PackedView, View


@dataclass(frozen=True, slots=True)
class PackedSequence:
    """Tokens of one or more documents.

    Attributes:
        tokens: Ids, ``sequence_length + 1`` at most: inputs and, one further, their targets.
        starts: Offsets in ``tokens`` where a document, or the rest of one, begins; the first is 0.
    """

    tokens: npt.NDArray[Any]
    starts: npt.NDArray[np.int64]


def positions(starts: I64, length: int) -> I64:
    """Returns for each of ``length`` tokens its place in its document.

    Args:
        starts: Where documents begin, the first at 0.
        length: Of the sequence.
    """
    starts = starts[starts < length]
    places: I64 = np.arange(length) - np.repeat(starts, np.diff(starts, append=length))
    return places


class ConcatenatedView:
    """Sequences cut from the token stream one after another, as :class:`PackedView`, with their documents' starts.

    A sample is a :class:`PackedSequence` of ``sequence_length + 1`` tokens.

    Raises:
        DataError: No shard holds one whole sequence.
    """

    def __init__(self, shards: ShardSet, sequence_length: int) -> None:
        self._shards, self._length = shards, sequence_length
        self._plain = PackedView(shards, sequence_length)
        self.rows = self._plain.rows
        self._starts = Tables(shards, self._read_starts)

    def _read_starts(self, shard: int) -> I64:
        starts: I64 = self._shards.shards[shard].document_columns("start")["start"].to_numpy()
        return starts

    def __call__(self, shard: int, row: int, epoch: int = 0) -> PackedSequence:
        begin = row * self._length
        starts = self._starts[shard]
        first, last = np.searchsorted(starts, (begin + 1, begin + self._length + 1))
        inner = np.zeros(last - first + 1, np.int64)
        inner[1:] = starts[first:last] - begin
        return PackedSequence(self._plain(shard, row), inner)

    def length(self, shard: int, row: int) -> int:
        """Returns the sequence length, the same for all."""
        return self._length


class DocumentView:
    """One document a sequence, cut after ``sequence_length + 1`` tokens: what is over is not read.

    Nothing is opened to count the rows. To read long documents whole, take :class:`BestFitView`.
    """

    def __init__(self, shards: ShardSet, sequence_length: int) -> None:
        self._shards, self._room = shards, sequence_length + 1
        self.rows = [shard.document_count for shard in shards.shards]
        if not sum(self.rows):
            raise DataError(f"split {shards.split!r} holds no documents", "prepare more text")
        self._table = Tables(shards, self._read_table)

    def _read_table(self, shard: int) -> tuple[I64, I32]:
        table = self._shards.shards[shard].document_columns("start", "length")
        return table["start"].to_numpy(), table["length"].to_numpy()

    def __call__(self, shard: int, row: int, epoch: int = 0) -> PackedSequence:
        starts, lengths = self._table[shard]
        tokens = self._shards.shards[shard].read(int(starts[row]), min(int(lengths[row]), self._room))
        return PackedSequence(tokens, np.zeros(1, np.int64))

    def length(self, shard: int, row: int) -> int:
        """Returns a sequence's number of tokens."""
        return min(int(self._table[shard][1][row]), self._room)


@dataclass(frozen=True, slots=True)
class _Layout:
    """A shard's rows: the pieces of row *i* are those from ``ends[i]`` to ``ends[i + 1]``."""

    starts: I64
    lengths: I64
    ends: I64


class BestFitView:
    """Whole documents packed into sequences of up to ``sequence_length + 1`` tokens by best-fit decreasing.

    A longer document is cut into full sequences and a rest. Fewer documents are cut than by concatenation, for some
    empty room at the ends (Ding et al. 2024, "Fewer Truncations Improve Language Modeling"). Every shard's table of
    documents is read at the start, since the number of rows depends on it. Rows are in the order of their first
    documents, not of length.

    Attributes:
        fill_rate: Share of the sequences' room that holds tokens.
    """

    def __init__(self, shards: ShardSet, sequence_length: int) -> None:
        self._shards, self._room = shards, sequence_length + 1
        self._layout = Tables(shards, self._lay_out)
        self.rows = [len(self._layout[shard].ends) - 1 for shard in range(len(shards.shards))]
        if not sum(self.rows):
            raise DataError(f"split {shards.split!r} holds no documents", "prepare more text")
        self.fill_rate = shards.tokens / (sum(self.rows) * self._room)

    def _lay_out(self, shard: int) -> _Layout:
        table = self._shards.shards[shard].document_columns("start", "length")
        starts, lengths = _cut(table["start"].to_numpy(), table["length"].to_numpy().astype(np.int64), self._room)
        decreasing = np.argsort(-lengths, kind="stable")
        rows = np.empty(len(lengths), np.int64)
        rows[decreasing] = _best_fit(lengths[decreasing], self._room)
        # A row is known by its first piece: rows of all lengths lie side by side, and are read nearly in a run.
        heads = np.full(int(rows.max(initial=-1)) + 1, np.iinfo(np.int64).max)
        np.minimum.at(heads, rows, starts)
        order = np.lexsort((starts, heads[rows]))
        counts = np.bincount(rows, minlength=len(heads))[np.argsort(heads)]
        return _Layout(starts[order], lengths[order], np.append(0, np.cumsum(counts)))

    def __call__(self, shard: int, row: int, epoch: int = 0) -> PackedSequence:
        layout, reader = self._layout[shard], self._shards.shards[shard]
        low, high = layout.ends[row], layout.ends[row + 1]
        lengths = layout.lengths[low:high]
        pieces = zip(layout.starts[low:high].tolist(), lengths.tolist(), strict=True)
        parts = [reader.read(start, length) for start, length in pieces]
        return PackedSequence(np.concatenate(parts), np.cumsum(lengths) - lengths)

    def length(self, shard: int, row: int) -> int:
        """Returns a sequence's number of tokens."""
        layout = self._layout[shard]
        return int(layout.lengths[layout.ends[row] : layout.ends[row + 1]].sum())


def packed(shards: ShardSet, sequence_length: int, packing: Packing, document_boundaries: bool) -> View:
    """Returns the view of a packing; arrays of ids where nobody asks for documents' starts."""
    if packing == "best_fit":
        return BestFitView(shards, sequence_length)
    if packing == "document":
        return DocumentView(shards, sequence_length)
    return ConcatenatedView(shards, sequence_length) if document_boundaries else PackedView(shards, sequence_length)


def _cut(starts: I64, lengths: I64, room: int) -> tuple[I64, I64]:
    """Returns starts and lengths of pieces of at most ``room`` tokens."""
    counts = -(-lengths // room)
    within = (np.arange(int(counts.sum())) - np.repeat(np.cumsum(counts) - counts, counts)) * room
    return np.repeat(starts, counts) + within, np.minimum(np.repeat(lengths, counts) - within, room)


@compiled
def _best_fit(lengths: I64, room: Number) -> I64:
    """Returns the row of each piece; pieces come by falling length, each goes where the least room is left over.

    Rows of equal room form a stack; a tree of bits over the rooms finds the smallest that is large enough.
    """
    leaves = 1
    while leaves < room + 1:
        leaves *= 2
    filled = np.zeros(2 * leaves, np.uint8)  # node n has children 2n and 2n + 1; leaf r stands for a room of r
    top = np.full(room + 1, -1, np.int64)
    below = np.empty(len(lengths), np.int64)
    rows = np.empty(len(lengths), np.int64)
    made = 0
    for piece in range(len(lengths)):
        length = lengths[piece]
        node = leaves + length
        if not filled[node]:
            while node > 1 and (node & 1 or not filled[node + 1]):
                node //= 2
            node = node + 1 if node > 1 else 0
            while node and node < leaves:
                node = 2 * node if filled[2 * node] else 2 * node + 1
        if node:
            left = node - leaves
            row = top[left]
            top[left] = below[row]
            if top[left] < 0:
                filled[node] = 0
                node //= 2
                while node:
                    filled[node] = filled[2 * node] | filled[2 * node + 1]
                    node //= 2
        else:
            left, row = room, made
            made += 1
        rows[piece] = row
        left -= length
        if left:
            below[row], top[left] = top[left], row
            node = leaves + left
            while node and not filled[node]:
                filled[node] = 1
                node //= 2
    return rows
