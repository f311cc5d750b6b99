"""Texts to be written again from a damaged copy, or continued from their beginning, by an encoder and a decoder."""

from __future__ import annotations

import numpy as np

from llmyard.core.compiled import I64, U8
from llmyard.core.seeds import mix, numbers
from llmyard.tokens.sentences import sentence_starts
from llmyard.tokens.span_corruption import Corrupted, SpanLengths, noise_mask
from llmyard.tokens.views import View


class DenoisingView:
    """Text infilling with shuffled sentences (BART, Lewis et al. 2020): the decoder writes the whole text.

    Each span that is cut out, of whatever length, becomes one mask, the id ``vocab_size``.

    Args:
        texts: Sequences of ids (``PackedView``).
        marks: What each id may do to a sentence (``sentence_marks``); None leaves sentences in their order.
        vocab_size: Of the tokenizer.
        end_id: Its end token.
        seed: Of all choices.
        noise_density: Share of the text that is cut out.
        mean_span: Mean tokens of a span.
    """

    def __init__(
        self, texts: View, marks: U8 | None, *, vocab_size: int, end_id: int, seed: int, noise_density: float = 0.3,
        mean_span: float = 3.0,
    ) -> None:  # fmt: skip
        self._texts, self._marks, self._seed = texts, marks, seed
        self._vocab_size, self._end = vocab_size, end_id
        self._noise = noise_density, mean_span
        self.rows = texts.rows

    def __call__(self, shard: int, row: int, epoch: int = 0) -> Corrupted:
        text = np.asarray(self._texts(shard, row, epoch)[:-1], np.int64)
        seed = mix(self._seed, epoch, shard, row)
        read = text if self._marks is None else shuffled(text, sentence_starts(text, self._marks), mix(seed, 1))
        cut_out = noise_mask(SpanLengths.of(len(read), *self._noise), seed)
        begins = cut_out & ~np.append(False, cut_out[:-1])
        inputs = np.where(begins, self._vocab_size, read)[~cut_out | begins]
        return Corrupted(np.append(inputs, self._end), np.append(text, self._end))

    def length(self, shard: int, row: int) -> int:
        """Returns the text's length."""
        return self._texts.length(shard, row)


class PrefixView:
    """The encoder reads a text's beginning, the decoder writes the rest (prefix LM, Raffel et al. 2020, 3.2.1).

    Args:
        texts: Sequences of ids (``PackedView``).
        end_id: Ends what the encoder reads.
        seed: Of where texts are divided.
    """

    def __init__(self, texts: View, *, end_id: int, seed: int) -> None:
        self._texts, self._end, self._seed = texts, end_id, seed
        self.rows = texts.rows

    def __call__(self, shard: int, row: int, epoch: int = 0) -> Corrupted:
        text = np.asarray(self._texts(shard, row, epoch)[:-1], np.int64)
        place = 1 + mix(self._seed, epoch, shard, row) % (len(text) - 1)
        return Corrupted(np.append(text[:place], self._end), text[place:])

    def length(self, shard: int, row: int) -> int:
        """Returns the text's length."""
        return self._texts.length(shard, row)


def shuffled(text: I64, starts: I64, seed: int) -> I64:
    """Returns a text with its sentences in a random order."""
    if len(starts) < 3:  # the last sentence is cut off where the sequence ends: it stays there
        return text
    pieces = np.split(text, starts[1:])
    order = np.argsort(numbers(len(pieces) - 1, seed), kind="stable")
    return np.concatenate([*(pieces[at] for at in order), pieces[-1]])
