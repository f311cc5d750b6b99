"""Pairs of tokens that stand near each other, and drawn ones beside them (Mikolov et al. 2013)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from llmyard.core.compiled import I64
from llmyard.core.errors import DataError
from llmyard.core.seeds import mix, numbers, units
from llmyard.tokens.frequencies import keeping, noise
from llmyard.tokens.views import View


@dataclass(frozen=True, slots=True)
class Pairs:
    """The pairs of one stretch of text: P of them, with K drawn tokens each.

    Attributes:
        centres: The token in the middle of a window, (P).
        around: The token that stands in the window, then the drawn ones, (P, 1 + K).
    """

    centres: I64
    around: I64


class SkipGramView:
    """Another view's stretches of text as pairs; every epoch draws others.

    As in word2vec, frequent tokens are passed over before windows are laid, so that a window then reaches further; how
    far it reaches is drawn for each centre; no window reaches into another document. Tokens are drawn by their
    frequency to the power of 0.75.

    Args:
        texts: Arrays of ids; those of neighbouring rows share one token, which is a centre in both.
        counts: How often each token stands in the corpus, (V).
        end_id: Separates documents; in no pair.
        window: Most tokens to either side.
        negatives: Drawn tokens beside each pair.
        subsample: As for :func:`llmyard.tokens.frequencies.keeping`.
        seed: Of all draws.

    Raises:
        DataError: There is no token to draw.
    """

    def __init__(
        self, texts: View, counts: I64, *, end_id: int, window: int, negatives: int, subsample: float, seed: int
    ) -> None:
        counts = counts.copy()
        counts[end_id] = 0
        if not counts.any():
            raise DataError("the corpus holds no token but ends of documents", "prepare more text")
        self._texts, self._end, self._negatives, self._seed = texts, end_id, negatives, seed
        self._offsets = np.delete(np.arange(-window, window + 1), window)
        self._window = np.uint64(window)
        self._keeping = keeping(counts, subsample)
        self._ends = np.cumsum(noise(counts))
        self._ends[counts.nonzero()[0][-1] :] = 1.0  # rounding may leave the sum a little below
        self.rows = texts.rows

    def __call__(self, shard: int, row: int, epoch: int = 0) -> Pairs:
        ids = np.asarray(self._texts(shard, row, epoch), np.int64)
        seed = mix(self._seed, epoch, shard, row)
        is_end = ids == self._end
        kept = np.flatnonzero(~is_end & (units(len(ids), seed) < self._keeping[ids]))
        document = np.cumsum(is_end)[kept]
        ids = ids[kept]
        reach = (numbers(len(ids), seed, 1) % self._window).astype(np.int64) + 1
        places = np.arange(len(ids))[:, None] + self._offsets
        near = (np.abs(self._offsets) <= reach[:, None]) & (places >= 0) & (places < len(ids))
        near[near] = document[places[near]] == np.repeat(document, near.sum(1))
        centres, count = np.repeat(ids, near.sum(1)), int(near.sum())
        drawn = np.searchsorted(self._ends, units(count * self._negatives, seed, 2), side="right")
        around = np.concatenate([ids[places[near]][:, None], drawn.reshape(count, self._negatives)], 1)
        return Pairs(centres, around)

    def length(self, shard: int, row: int) -> int:
        """Returns the length of the stretch, the same for all."""
        return self._texts.length(shard, row)
