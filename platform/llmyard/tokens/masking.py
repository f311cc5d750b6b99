"""Texts with some words hidden, to be guessed from both sides (BERT, Devlin et al. 2019), and pairs of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from llmyard.core.compiled import I64, Bools
from llmyard.core.errors import DataError
from llmyard.core.seeds import mix, numbers
from llmyard.tokens.packing import PackedSequence
from llmyard.tokens.sentence_pairs import SentencePair
from llmyard.tokens.views import View
from llmyard.tokens.word_starts import WordStarts

IGNORED = -100
EXTRA_IDS = 2  # behind the vocabulary: what hides a token, and what a sequence begins with


@dataclass(frozen=True, slots=True)
class Masked:
    """A sequence as the model reads it.

    Attributes:
        ids: With the opening token, separators and masks.
        kinds: 0 for the first segment, 1 for the second.
        labels: The hidden tokens' ids; IGNORED elsewhere.
        follows: Whether the second segment goes on where the first ends; None where there is one segment.
    """

    ids: npt.NDArray[np.int64]
    kinds: npt.NDArray[np.int64]
    labels: npt.NDArray[np.int64]
    follows: bool | None


class MaskedView:
    """Another view's texts with 15 % of their tokens to be guessed; every epoch hides others.

    Whole words are chosen, Chinese and English alike (Cui et al. 2019), until there are enough tokens. Of these 80 %
    become the mask, 10 % a random token, and 10 % stay. llmyard's vocabularies hold no mask: it is the id
    ``vocab_size``, and the token that a sequence begins with is the next.

    Args:
        texts: Pairs, or packed sequences.
        words: Finds words; None hides single tokens.
        vocab_size: Of the tokenizer.
        separator_id: Ends each segment.
        seed: Of all choices.
        share: Of the tokens to be guessed.
    """

    def __init__(
        self, texts: View, words: WordStarts | None, *, vocab_size: int, separator_id: int, seed: int,
        share: float = 0.15,
    ) -> None:  # fmt: skip
        self._texts, self._words = texts, words
        self._vocab_size, self._separator, self._seed, self._share = vocab_size, separator_id, seed, share
        self.rows = texts.rows
        if not sum(self.rows):
            raise DataError("there is no text to mask", "prepare more text")

    def __call__(self, shard: int, row: int, epoch: int = 0) -> Masked:
        sample = self._texts(shard, row, epoch)
        seed = mix(self._seed, epoch, shard, row)
        segments, follows = _segments(sample)
        ids: list[Any] = [[self._vocab_size + 1]]
        labels: list[Any] = [[IGNORED]]
        kinds: list[Any] = [[0]]
        for number, segment in enumerate(segments):
            segment = np.asarray(segment, np.int64)
            begins = np.ones(len(segment), bool) if self._words is None else self._words(segment)
            hidden = chosen_words(begins, self._share, mix(seed, number))
            read = replaced(segment, hidden, self._vocab_size, mix(seed, number, 1))
            ids += [read, [self._separator]]
            labels += [np.where(hidden, segment, IGNORED), [IGNORED]]
            kinds.append(np.full(len(segment) + 1, number))
        whole = [np.concatenate(part).astype(np.int64) for part in (ids, kinds, labels)]
        return Masked(whole[0], whole[1], whole[2], follows)

    def length(self, shard: int, row: int) -> int:
        """Returns the most tokens that the sequence has."""
        return self._texts.length(shard, row) + 3


def _segments(sample: Any) -> tuple[list[Any], bool | None]:
    if isinstance(sample, SentencePair):
        return [sample.first, sample.second], sample.follows
    return [sample.tokens if isinstance(sample, PackedSequence) else sample], None


def chosen_words(begins: Bools, share: float, seed: int) -> Bools:
    """Returns which tokens are hidden: random words until they make up the share, one at least."""
    if not len(begins):
        return begins
    word = np.cumsum(begins) - 1
    lengths = np.bincount(word)
    order = np.argsort(numbers(len(lengths), seed), kind="stable")
    before = np.cumsum(lengths[order]) - lengths[order]
    taken = order[before < max(1.0, share * len(begins))]
    return np.isin(word, taken)


def replaced(ids: I64, hidden: Bools, vocab_size: int, seed: int) -> I64:
    """Returns ids of which 80 % of the hidden ones are the mask ``vocab_size``, and 10 % random tokens."""
    draws = numbers(2 * len(ids), seed)
    kind = draws[: len(ids)] % np.uint64(10)
    others = (draws[len(ids) :] % np.uint64(vocab_size)).astype(np.int64)
    return np.where(hidden & (kind < 8), vocab_size, np.where(hidden & (kind == 8), others, ids))
