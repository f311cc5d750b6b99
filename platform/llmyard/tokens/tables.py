"""What was read of shards' tables of documents, kept while there is room."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from threading import Lock
from typing import Generic, TypeVar

from llmyard.tokens.shards import ShardSet

Table = TypeVar("Table")

MOST_DOCUMENTS = 1 << 23  # at 16 to 30 bytes each


class Tables(Generic[Table]):
    """The tables of shards by number, read when they are asked for; those unused longest are dropped first.

    Many small shards are kept as well as a few large ones: a window of the data order reads from all of its shards in
    turn.

    Args:
        shards: Whose tables they are.
        read: Reads that of one shard.
        most_documents: What all kept tables may hold together.
    """

    def __init__(self, shards: ShardSet, read: Callable[[int], Table], most_documents: int = MOST_DOCUMENTS) -> None:
        self._shards, self._read, self._most = shards.shards, read, most_documents
        self._kept: OrderedDict[int, Table] = OrderedDict()
        self._documents = 0
        self._lock = Lock()

    def __getitem__(self, shard: int) -> Table:
        with self._lock:
            if shard in self._kept:
                self._kept.move_to_end(shard)
                return self._kept[shard]
        table = self._read(shard)
        with self._lock:
            if shard not in self._kept:
                self._kept[shard] = table
                self._documents += self._shards[shard].document_count
            while self._documents > self._most and len(self._kept) > 1:
                dropped, _ = self._kept.popitem(last=False)
                self._documents -= self._shards[dropped].document_count
        return table
