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
from typing import Protocol

import numpy as np

from llmyard.core.compiled import I64, U64, Number, compiled
from llmyard.core.seeds import mix


@dataclass(frozen=True, slots=True)
class Place:
    """Where a sample is read."""

    epoch: int
    shard: int
    row: int


class Order(Protocol):
    """Maps a global sample number to its place; a pure function."""

    @property
    def samples_per_epoch(self) -> int:
        """Samples of the whole corpus, each once."""

    def __getitem__(self, sample: int) -> Place:
        """Returns where a sample is read."""

    def shards_ahead(self, sample: int, count: int) -> list[int]:
        """Returns the shards that ``count`` samples from ``sample`` on are read from, the soonest needed first."""


class Permutation:
    """A permutation of ``range(size)`` that computes each image alone, in O(1) memory.

    A balanced Feistel network of four rounds over the next even power of two, walked until it lands in range
    (Black and Rogaway 2002).
    """

    def __init__(self, size: int, seed: int) -> None:
        self._size = size
        self._half = max(1, ((size - 1).bit_length() + 1) // 2)
        # What mix() makes of the round's key alone; the compiled code goes on from there.
        self._keys = np.array([mix(mix(seed, round_)) for round_ in range(4)], np.uint64)

    def __len__(self) -> int:
        return self._size

    def all(self) -> list[int]:
        """Returns the images of all indices."""
        images: list[int] = self.images().tolist()
        return images

    def images(self) -> I64:
        """Returns the images of all indices as an array."""
        return _images(self._size, self._half, self._keys)

    def __getitem__(self, index: int) -> int:
        if not 0 <= index < self._size:
            raise IndexError(index)
        return int(_image(index, self._size, self._half, self._keys))


@compiled
def _image(index: Number, size: Number, half: Number, keys: U64) -> Number:
    bits = np.uint64(half)
    mask = (np.uint64(1) << bits) - np.uint64(1)
    image = np.uint64(index)
    while True:
        left, right = image >> bits, image & mask
        for key in keys:
            state = key + right + np.uint64(0x9E3779B97F4A7C15)
            state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
            state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
            left, right = right, left ^ ((state ^ (state >> np.uint64(31))) & mask)
        image = (left << bits) | right
        if image < np.uint64(size):
            return np.int64(image)


@compiled
def _images(size: Number, half: Number, keys: U64) -> I64:
    found = np.empty(size, np.int64)
    for index in range(size):
        found[index] = _image(index, size, half, keys)
    return found


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
        self._samples = sum(rows)
        if self._samples == 0:
            raise ValueError("there are no samples to order")
        length = segment if shuffle else max(rows)
        counts = -(-np.asarray(rows, np.int64) // length)
        firsts = np.cumsum(counts) - counts
        self._shards = np.repeat(np.arange(len(rows)), counts)
        self._starts = (np.arange(int(counts.sum())) - np.repeat(firsts, counts)) * length
        self._sizes = np.minimum(length, np.asarray(rows, np.int64)[self._shards] - self._starts)
        self._shuffle = shuffle
        self._epoch = lru_cache(maxsize=2)(self._lay_out)
        self._in_window = lru_cache(maxsize=8)(self._permute_window)

    @property
    def samples_per_epoch(self) -> int:
        """Samples of all shards."""
        return self._samples

    def __getitem__(self, sample: int) -> Place:
        epoch, index = divmod(sample, self._samples)
        if self._shuffle:
            window, at = divmod(index, self._window)
            index = window * self._window + self._in_window(epoch, window)[at]
        order, ends = self._epoch(epoch)
        slot = bisect_right(ends, index)
        segment = order[slot]
        return Place(
            epoch, int(self._shards[segment]), int(self._starts[segment]) + index - int(ends[slot - 1] if slot else 0)
        )

    def shards_ahead(self, sample: int, count: int) -> list[int]:
        """Returns the shards that ``count`` samples from ``sample`` on are read from, the soonest needed first.

        A window is read in no foreseeable order, so the rest of the last one is counted too.
        """
        found: dict[int, None] = {}
        end = sample + count
        while sample < end:
            epoch, index = divmod(sample, self._samples)
            low, high = index, min(index + end - sample, self._samples)
            if self._shuffle:
                low -= low % self._window
                high = min(-(-high // self._window) * self._window, self._samples)
            order, ends = self._epoch(epoch)
            first, last = bisect_right(ends, low), bisect_right(ends, high - 1)
            found.update(dict.fromkeys(self._shards[order[first : last + 1]].tolist()))
            sample += max(1, high - index)
        return list(found)

    def _lay_out(self, epoch: int) -> tuple[I64, I64]:
        """Returns an epoch's order of segments, and the sample at which each of them ends."""
        count = len(self._sizes)
        order = Permutation(count, mix(self._seed, epoch)).images() if self._shuffle else np.arange(count)
        return order, np.cumsum(self._sizes[order])

    def _permute_window(self, epoch: int, window: int) -> Permutation:
        size = min(self._window, self._samples - window * self._window)
        return Permutation(size, mix(self._seed, epoch, window))
