"""The order of training data: a pure function of the seed and the sample's number, the same for any number of workers.

Shards, then windows of rows within a shard, then rows within a window are permuted, so that storage is read in runs.
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
        window: Rows that are shuffled among themselves; a reader holds about this many.
        shuffle: False gives the stored order, epoch after epoch.
    """

    def __init__(self, rows: Sequence[int], seed: int, window: int = 4096, shuffle: bool = True) -> None:
        self._rows = tuple(rows)
        self._seed, self._window, self._shuffle = seed, window, shuffle
        self.samples_per_epoch = sum(self._rows)
        if self.samples_per_epoch == 0:
            raise ValueError("there are no samples to order")
        self._epoch = lru_cache(maxsize=2)(self._lay_out_epoch)
        self._in_shard = lru_cache(maxsize=4096)(self._lay_out_shard)
        self._in_window = lru_cache(maxsize=4096)(self._permute_window)

    def __getitem__(self, sample: int) -> Place:
        epoch, index = divmod(sample, self.samples_per_epoch)
        shards, ends = self._epoch(epoch)
        slot = bisect_right(ends, index)
        shard, index = shards[slot], index - (ends[slot - 1] if slot else 0)
        if not self._shuffle:
            return Place(epoch, shard, index)
        windows, window_ends = self._in_shard(epoch, shard)
        slot = bisect_right(window_ends, index)
        window, index = windows[slot], index - (window_ends[slot - 1] if slot else 0)
        return Place(epoch, shard, window * self._window + self._in_window(epoch, shard, window)[index])

    def _lay_out_epoch(self, epoch: int) -> tuple[list[int], list[int]]:
        count = len(self._rows)
        shards = Permutation(count, mix(self._seed, epoch)).all() if self._shuffle else list(range(count))
        return shards, list(accumulate(self._rows[shard] for shard in shards))

    def _lay_out_shard(self, epoch: int, shard: int) -> tuple[list[int], list[int]]:
        count = -(-self._rows[shard] // self._window)
        windows = Permutation(count, mix(self._seed, epoch, shard)).all()
        return windows, list(accumulate(self._window_size(shard, window) for window in windows))

    def _permute_window(self, epoch: int, shard: int, window: int) -> Permutation:
        return Permutation(self._window_size(shard, window), mix(self._seed, epoch, shard, window))

    def _window_size(self, shard: int, window: int) -> int:
        return min(self._window, self._rows[shard] - window * self._window)
