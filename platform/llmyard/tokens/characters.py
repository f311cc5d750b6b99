"""Counted words as sequences of characters, for the vocabularies that are made of characters."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from llmyard.core.compiled import I64, U32, Bools
from llmyard.tokens.counts import Counts


@dataclass(frozen=True, slots=True)
class Words:
    """Attributes:
    points: The code points of all words, one after the other.
    offsets: Where each word begins (one more than words).
    counts: How often each word comes.
    """

    points: U32
    offsets: I64
    counts: I64

    def filter(self, keep: Bools) -> Words:
        """Returns the chosen words."""
        lengths = np.diff(self.offsets)
        chosen = np.repeat(keep, lengths)
        return Words(self.points[chosen], np.append(0, np.cumsum(lengths[keep])), self.counts[keep])

    def without(self, drop: Bools) -> Words:
        """Returns the words without the chosen characters."""
        ends = np.append(0, np.cumsum(~drop))
        return Words(self.points[~drop], ends[self.offsets], self.counts)

    def any(self, marked: Bools) -> Bools:
        """Returns for each word whether any of its characters is marked."""
        ends = np.append(0, np.cumsum(marked))
        result: Bools = ends[self.offsets[1:]] > ends[self.offsets[:-1]]
        return result

    def frequencies(self) -> tuple[U32, I64]:
        """Returns the different characters in order, and how often each comes."""
        points, places = np.unique(self.points, return_inverse=True)
        weights = np.repeat(self.counts, np.diff(self.offsets))
        totals = np.zeros(len(points), np.int64)
        np.add.at(totals, places, weights)
        return points, totals


def words_of(counts: Counts) -> Words:
    """Returns the counted words as characters."""
    points = np.frombuffer(counts.data.tobytes().decode().encode("utf-32-le"), np.uint32)
    before = np.append(0, np.cumsum((counts.data & 0xC0) != 0x80, dtype=np.int64))
    return Words(points, before[counts.offsets], counts.counts)


def covered(words: Words, coverage: float) -> U32:
    """Returns the fewest characters that make up a share of all, in order."""
    points, totals = words.frequencies()
    order = np.lexsort((points, -totals))
    reached = np.cumsum(totals[order])
    enough = int(np.searchsorted(reached, coverage * reached[-1])) + 1 if len(points) else 0
    return np.sort(points[order[:enough]])
