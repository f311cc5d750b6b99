"""A counting model of tokens: what a language model must beat to have learned more than neighbours."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

Ids = npt.NDArray[np.int64]


class NgramModel:
    """Probabilities of each token given the two before it, interpolated by Witten and Bell's rule (1991).

    P(w|h) = (c(hw) + t(h) P(w|h')) / (c(h) + t(h)), where t(h) is the number of different tokens after h, h' is h
    without its first token, and without any history all tokens are alike.

    Args:
        texts: Ids of runs of text.
        vocab_size: Number of ids.
        order: Tokens of an n-gram.
    """

    def __init__(self, texts: Iterable[npt.NDArray[np.integer]], vocab_size: int, order: int = 3) -> None:
        if vocab_size**order >= 1 << 63:
            raise ValueError(f"n-grams of {order} of {vocab_size} ids do not fit into 64 bits")
        self._size, self._order = vocab_size, order
        held = [np.asarray(text, np.int64) for text in texts]
        self._grams: list[tuple[Ids, Ids]] = []
        self._histories: list[tuple[Ids, Ids, Ids]] = []
        for length in range(1, order + 1):
            keys = np.concatenate([self._keys(text, length) for text in held] or [np.empty(0, np.int64)])
            grams, counts = np.unique(keys, return_counts=True)
            self._grams.append((grams, counts))
            histories, first = np.unique(grams // vocab_size, return_index=True)
            totals = np.add.reduceat(counts, first) if len(first) else counts
            kinds = np.diff(np.append(first, len(grams)))
            self._histories.append((histories, totals, kinds))

    def surprise(self, text: npt.NDArray[np.integer]) -> npt.NDArray[np.float64]:
        """Returns -log P, in nats, of each token of a run of text; the first ones have short histories."""
        ids = np.asarray(text, np.int64)
        chance = np.full(len(ids), 1.0 / self._size)
        for length in range(1, self._order + 1):
            keys = self._keys(ids, length)
            gram_counts = _found(self._grams[length - 1], keys)
            histories, totals, kinds = self._histories[length - 1]
            before = _found((histories, totals), keys // self._size)
            different = _found((histories, kinds), keys // self._size)
            known = before > 0
            shorter = chance[length - 1 :]
            mixed = (gram_counts + different * shorter) / np.maximum(before + different, 1)
            chance[length - 1 :] = np.where(known, mixed, shorter)
        surprise: npt.NDArray[np.float64] = -np.log(chance)
        return surprise

    def _keys(self, ids: Ids, length: int) -> Ids:
        """Returns one number for each n-gram of a text."""
        count = len(ids) - length + 1
        if count <= 0:
            return np.empty(0, np.int64)
        keys = ids[:count].copy()
        for place in range(1, length):
            keys = keys * self._size + ids[place : place + count]
        return keys


def _found(table: tuple[Ids, Ids], keys: Ids) -> Ids:
    """Returns the values of sorted keys; 0 for those that are not there."""
    there, values = table
    if not len(there):
        return np.zeros(len(keys), np.int64)
    places = np.minimum(np.searchsorted(there, keys), len(there) - 1)
    return np.where(there[places] == keys, values[places], 0)
