"""Shards on remote storage fetched before their samples' turn, in the background."""

from __future__ import annotations

from threading import Lock, Thread

from llmyard.core.errors import LlmyardError
from llmyard.tokens.order import Order, Place
from llmyard.tokens.shards import ShardSet
from llmyard.tokens.stored import StoredShard

STRIDE = 4096  # samples from one look ahead to the next
AHEAD = 65_536  # samples looked ahead


class PrefetchingOrder:
    """An order that, where it is asked, has the shards of the next samples brought to this machine.

    As many as may be held at once (``HELD_SHARE`` of the cache), the soonest needed first.

    Args:
        order: The order.
        shards: What it is an order of.
    """

    def __init__(self, order: Order, shards: ShardSet) -> None:
        self._order, self._shards = order, shards.shards
        self._looked = -1  # stride of the last look
        self._wanted: int | None = None
        self._busy = False
        self._lock = Lock()

    @property
    def samples_per_epoch(self) -> int:
        """Samples of the whole corpus, each once."""
        return self._order.samples_per_epoch

    def __getitem__(self, sample: int) -> Place:
        if sample // STRIDE != self._looked:
            self._looked = sample // STRIDE
            self._look_ahead(sample)
        return self._order[sample]

    def shards_ahead(self, sample: int, count: int) -> list[int]:
        """Returns the shards that ``count`` samples from ``sample`` on are read from, the soonest needed first."""
        return self._order.shards_ahead(sample, count)

    def _look_ahead(self, sample: int) -> None:
        with self._lock:
            self._wanted = sample
            if not self._busy:
                self._busy = True
                Thread(target=self._fetch, name="prefetch", daemon=True).start()

    def _next(self) -> int | None:
        with self._lock:
            wanted, self._wanted = self._wanted, None
            self._busy = wanted is not None
            return wanted

    def _fetch(self) -> None:
        while (sample := self._next()) is not None:
            taken = 0
            for number in self._order.shards_ahead(sample, AHEAD):
                shard = self._shards[number]
                if not isinstance(shard, StoredShard) or self._wanted is not None:
                    break
                taken += shard.tokens_file.size
                if taken > shard.files.room:
                    break
                try:
                    shard.fetch()
                except (LlmyardError, OSError):
                    break  # who reads the shard meets the error, and can be told


def prefetching(order: Order, shards: ShardSet) -> Order:
    """Returns an order that fetches ahead where the shards are remote, else the order itself."""
    first = shards.shards[0]
    return PrefetchingOrder(order, shards) if isinstance(first, StoredShard) and first.files.are_remote else order
