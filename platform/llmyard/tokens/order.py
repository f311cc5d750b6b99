"""The order of training data: a pure function of the seed and the sample's number, the same for any number of workers.

Segments of rows are permuted over all shards, then samples within a window of some segments: storage is read in runs,
and every window holds something of many shards.
The resume state is one number: samples consumed.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate

from llmyard.core.seeds import mix


@dataclass(frozen=True, slots=True)
class Place:
    """Where a sample is read."""

    epoch: int
    shard: int
    row: int


class Permutation:
    """A permutation of ``range(size)`` that computes each image alone, in O(1) memory.

    A balanced Feistel network of four rounds over the next even power of two, walked until it lands in range
    (Black and Rogaway 2002).
    """

    def __init__(self, size: int, seed: int) -> None:
        self._size = size
        self._half = max(1, ((size - 1).bit_length() + 1) // 2)
        self._mask = (1 << self._half) - 1
        self._keys = [mix(seed, round_) for round_ in range(4)]

    def __len__(self) -> int:
        return self._size

    def all(self) -> list[int]:
        """Returns the images of all indices."""
        return [self[index] for index in range(self._size)]

    def __getitem__(self, index: int) -> int:
        if not 0 <= index < self._size:
            raise IndexError(index)
        while True:
            left, right = index >> self._half, index & self._mask
            for key in self._keys:
                left, right = right, left ^ (mix(key, right) & self._mask)
            index = (left << self._half) | right
            if index < self._size:
                return index


class DataOrder:
    """Maps a global sample number to its place.

    Args:
        rows: Samples in each shard.
        seed: Of the permutation.
        window: Samples that are shuffled among themselves; they come from ``window / segment`` runs of rows, from as
            many shards, so that a corpus whose shards differ is mixed.
        shuffle: False gives the stored order, epoch after epoch.
        segment: Rows of a shard that stay together, so that storage is read in runs.
    """

    def __init__(
        self, rows: Sequence[int], seed: int, window: int = 65_536, shuffle: bool = True, segment: int = 4096
    ) -> None:
        self._seed, self._window = seed, window
        self.samples_per_epoch = sum(rows)
        if self.samples_per_epoch == 0:
            raise ValueError("there are no samples to order")
        length = segment if shuffle else max(rows)
        self._segments = [(shard, at) for shard, count in enumerate(rows) for at in range(0, count, length)]
        self._sizes = [min(length, rows[shard] - at) for shard, at in self._segments]
        self._shuffle = shuffle
        self._epoch = lru_cache(maxsize=2)(self._lay_out)
        self._in_window = lru_cache(maxsize=8)(self._permute_window)

    def __getitem__(self, sample: int) -> Place:
        epoch, index = divmod(sample, self.samples_per_epoch)
        if self._shuffle:
            window, at = divmod(index, self._window)
            index = window * self._window + self._in_window(epoch, window)[at]
        order, ends = self._epoch(epoch)
        slot = bisect_right(ends, index)
        shard, start = self._segments[order[slot]]
        return Place(epoch, shard, start + index - (ends[slot - 1] if slot else 0))

    def _lay_out(self, epoch: int) -> tuple[list[int], list[int]]:
        """Returns an epoch's order of segments, and the sample at which each of them ends."""
        count = len(self._segments)
        order = Permutation(count, mix(self._seed, epoch)).all() if self._shuffle else list(range(count))
        return order, list(accumulate(self._sizes[segment] for segment in order))

    def _permute_window(self, epoch: int, window: int) -> Permutation:
        size = min(self._window, self.samples_per_epoch - window * self._window)
        return Permutation(size, mix(self._seed, epoch, window))
